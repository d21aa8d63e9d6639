/* bref_avx512.h - primitives of bref_template.h for AVX-512 (VBMI2, VNNI, BITALG, VPOPCNTDQ) and
 * BMI2. */

#define FN static inline __attribute__((always_inline)) TZ_TARGET_AVX512

/* Arithmetic on 64-bit masks. */
FN uint32_t count_avx512(uint64_t v)
{
	return (uint32_t)_mm_popcnt_u64(v);
}

FN uint64_t differ_avx512(const uint8_t *a, const uint8_t *b)
{
	return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

/* Compacts the selected bytes of the 64 at q; writes 64. */
FN void pack_literals_avx512(uint8_t *to, const uint8_t *q, uint64_t mask)
{
	_mm512_storeu_si512(to, _mm512_maskz_compress_epi8(mask, _mm512_loadu_si512(q)));
}

/* For each byte i, the number of set bits among bits 0 .. i. */
FN __m512i ranks_avx512(uint64_t bits)
{
	const __m512i byte_of = _mm512_set_epi64(0x0707070707070707, 0x0606060606060606,
		0x0505050505050505, 0x0404040404040404, 0x0303030303030303, 0x0202020202020202,
		0x0101010101010101, 0);
	const __m512i up_to = _mm512_set1_epi64((long long)0xff7f3f1f0f070301ull);
	__m512i v = _mm512_set1_epi64((long long)bits);
	uint64_t per_byte = (uint64_t)_mm_cvtsi128_si64(_mm_popcnt_epi8(_mm512_castsi512_si128(v)));
	__m512i below = _mm512_set1_epi64((long long)(per_byte * (ONES << 8)));

	v = _mm512_popcnt_epi8(_mm512_and_si512(_mm512_shuffle_epi8(v, byte_of), up_to));
	return _mm512_add_epi8(v, _mm512_shuffle_epi8(below, byte_of));
}

/* Where references point: what a block refers to begins `offset` bytes into the block at `from` and
 * continues in the next one. A load that spans two recent stores would wait for both to reach the
 * cache; two loads that each read one store's data do not. */
struct bref_sources {
	_Alignas(64) const uint8_t *from[BLOCKS];
	_Alignas(64) uint8_t offset[BLOCKS];
};

/* For 32 blocks from number `first` on, with distances d. Returns the ones that are not allowed, as
 * bits. */
FN uint32_t sources_avx512(struct bref_sources *sources, uint32_t first, __m512i d,
	const uint8_t *out)
{
	const __m512i lane = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19,
		18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	const __m512i base = _mm512_set1_epi64((long long)(uintptr_t)out),
		      none = _mm512_set1_epi64((long long)(uintptr_t)zeros);
	const __m512i at = _mm512_mullo_epi16(_mm512_add_epi16(lane,
						      _mm512_set1_epi16((short)first)),
		_mm512_set1_epi16(BREF_BLOCK));
	const __m512i inside = _mm512_set1_epi16(BREF_BLOCK - 1), source = _mm512_sub_epi16(at, d);
	const __mmask32 some = _mm512_test_epi16_mask(d, d);
	_Alignas(64) uint16_t block[32];

	_mm256_store_si256((__m256i *)(sources->offset + first),
		_mm512_cvtepi16_epi8(_mm512_and_si512(source, inside)));
	_mm512_store_si512(block, _mm512_andnot_si512(inside, source));
#pragma GCC unroll 4
	for (uint32_t i = 0; i < 32; i += 8)
		_mm512_store_si512(sources->from + first + i,
			_mm512_mask_add_epi64(none, (__mmask8)(some >> i), base,
				_mm512_cvtepu16_epi64(_mm_load_si128((const __m128i *)(block +
					i)))));
	return _mm512_cmpgt_epu16_mask(d, at) |
		_mm512_cmplt_epu16_mask(_mm512_sub_epi16(d, _mm512_set1_epi16(1)), inside);
}

/* Finds where every block's bytes come from. Returns nonzero if a reference is not allowed. */
FN uint32_t find_sources_avx512(const struct bref_sections *s, struct bref_sources *sources,
	const uint8_t *out)
{
	_Alignas(64) uint16_t refs[32 + BLOCKS + 64];
	const uint32_t bytes = (3 * s->n_refs + 1) / 2;
	uint32_t used = 31, bad = 0;	/* a zero before the first */

	_mm512_store_si512(refs, _mm512_setzero_si512());
#pragma GCC unroll 4
	for (uint32_t i = 0; i < BLOCKS / 32; i++)
		_mm512_store_si512(refs + 32 + 32 * i,
			unpack12_avx512(s->refs + 48 * i, bytes > 48 * i ? bytes - 48 * i : 0));
#pragma GCC unroll 2
	for (uint32_t h = 0; h < PER_GROUP; h++) {
		const uint32_t first = s->is_new[h] & 1;
		const uint16_t *from = refs + used + first;
		__m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + 32);
		__m512i rank = _mm512_sub_epi8(ranks_avx512(s->is_new[h]),
			_mm512_set1_epi8((char)first));

#pragma GCC unroll 2
		for (uint32_t i = 0; i < 2; i++) {
			__m256i part = i ? _mm512_extracti64x4_epi64(rank, 1)
					 : _mm512_castsi512_si256(rank);

			bad |= sources_avx512(sources, 64 * h + 32 * i,
				_mm512_permutex2var_epi16(low, _mm512_cvtepu8_epi16(part), high),
				out);
		}
		used += count_avx512(s->is_new[h]);
	}
	return bad;
}

#define LANES_8(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7
static const uint8_t lanes[64] __attribute__((aligned(64))) = { LANES_8(0), LANES_8(8), LANES_8(16),
	LANES_8(24), LANES_8(32), LANES_8(40), LANES_8(48), LANES_8(56) };
#undef LANES_8

/* First computes everything that can be known about all blocks, many at a time; then the blocks,
 * each a copy with literals inserted. Replaces the template's decoder. */
FN int decode_page_avx512(struct bref_sections *s, uint8_t *out)
{
	struct bref_sources sources;
	_Alignas(64) uint64_t mask[GROUPS], literals[GROUPS];
	__m512i total = _mm512_setzero_si512();
	const uint8_t *masks = s->masks, *literal = s->literals;
	uint32_t n_masks = 0;

#pragma GCC unroll 8
	for (uint32_t i = 0; i < 8; i++)
		n_masks += count_avx512(tz_load64(s->word_masks + 8 * i));
	if (TZ_UNLIKELY(n_masks != s->n_masks || find_sources_avx512(s, &sources, out)))
		return -1;
#pragma GCC unroll 8
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t words = tz_load64(s->word_masks + 8 * i);
		__m512i v = _mm512_maskz_expand_epi8(words, _mm512_loadu_si512(masks));

		masks += count_avx512(words);
		_mm512_store_si512(mask + 8 * i, v);
		v = PER_GROUP == 1 ? _mm512_popcnt_epi64(v) : _mm512_popcnt_epi32(v);
		_mm512_store_si512(literals + 8 * i, v);
		total = _mm512_add_epi32(total, v);
	}
	if (TZ_UNLIKELY((uint32_t)_mm512_reduce_add_epi32(total) != s->n_literals))
		return -1;
#pragma GCC unroll 4
	for (uint32_t i = 0; i < BLOCKS; i++, out += BREF_BLOCK) {
		const uint8_t *from = sources.from[i];
#if BREF_BLOCK == 64
		const __m512i which = _mm512_add_epi8(_mm512_load_si512(lanes),
			_mm512_set1_epi8((char)sources.offset[i]));
		__m512i v = _mm512_permutex2var_epi8(_mm512_loadu_si512(from), which,
			_mm512_loadu_si512(from + 64));

		v = _mm512_mask_mov_epi8(v, mask[i],
			_mm512_maskz_expand_epi8(mask[i], _mm512_loadu_si512(literal)));
		_mm512_storeu_si512(out, v);
		literal += literals[i];
#else
		const __m256i which = _mm256_add_epi8(_mm256_load_si256((const __m256i *)lanes),
			_mm256_set1_epi8((char)sources.offset[i]));
		const __mmask32 differ = ((const uint32_t *)mask)[i];
		__m256i v = _mm256_permutex2var_epi8(_mm256_loadu_si256((const __m256i *)from),
			which, _mm256_loadu_si256((const __m256i *)(from + 32)));

		v = _mm256_mask_mov_epi8(v, differ,
			_mm256_maskz_expand_epi8(differ,
				_mm256_loadu_si256((const __m256i *)literal)));
		_mm256_storeu_si256((__m256i *)out, v);
		literal += ((const uint32_t *)literals)[i];
#endif
	}
	return 0;
}
#define BREF_DECODE_PAGE

/* The search, in phases that each do one thing for the whole page. */

/* Number of distances tried for every group. If the samples find fewer, the last of these (or the
 * page's start) fill the rest: records of similar lengths lie next to each other. Shorter ones take
 * longer to read. */
#define OTHERS_AVX512 192, 256, 128, 320, 384, 512, 1024

#if BREF_BLOCK == 64
/* Data just written is slow to read back. So short distances are replaced by multiples, at which a
 * repetition repeats as well: distances below 64 by a multiple of 192 or more, those below this by
 * the double. (More replacements, or the same for 32-byte blocks, cost too much ratio.) */
#define DOUBLED_AVX512 96
static const uint8_t far_multiples[64] __attribute__((aligned(64))) = { MULTIPLES(192) };
#endif

/* For each eight positions of 64 bytes, the largest hash of the four bytes there, with the position
 * in its low 3 bits. x[j] are the bytes from position j on. The factors are multiples of 8, the
 * pair with the best ratios of those tried. */
FN __m512i largest_hashes_avx512(__m512i x0, __m512i x1, __m512i x2, __m512i x3)
{
	const __m512i factors = _mm512_set1_epi32(0x0050b158);
	__m512i h0 = _mm512_dpwssd_epi32(_mm512_set1_epi64(4ll << 32), x0, factors);
	__m512i h1 = _mm512_dpwssd_epi32(_mm512_set1_epi64(5ll << 32 | 1), x1, factors);
	__m512i h2 = _mm512_dpwssd_epi32(_mm512_set1_epi64(6ll << 32 | 2), x2, factors);
	__m512i h3 = _mm512_dpwssd_epi32(_mm512_set1_epi64(7ll << 32 | 3), x3, factors);

	return _mm512_max_epu32(_mm512_max_epu32(h0, h1), _mm512_max_epu32(h2, h3));
}

/* Samples: of each eight positions the one with the largest hash. So a copy is mostly sampled at
 * the same bytes as its source, wherever the two are, and the number of samples is fixed. Zeros are
 * not sampled; their entry is 0. */
FN void take_samples_avx512(struct bref_workspace *ws, const uint8_t *page)
{
	const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26,
		28, 30);
	const __m512i place = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96,
		104, 112, 120);

	for (uint32_t g = 0; g < GROUPS; g += 2) {
		const uint8_t *q = page + g * 64;
		/* nothing is read past the page */
		const uint64_t more = g == GROUPS - 2 ? 0 : ~0ull;
		__m512i low = largest_hashes_avx512(_mm512_loadu_si512(q),
			_mm512_loadu_si512(q + 1), _mm512_loadu_si512(q + 2),
			_mm512_loadu_si512(q + 3));
		__m512i high = largest_hashes_avx512(_mm512_loadu_si512(q + 64),
			_mm512_maskz_loadu_epi8(more | ~0ull >> 1, q + 65),
			_mm512_maskz_loadu_epi8(more | ~0ull >> 2, q + 66),
			_mm512_maskz_loadu_epi8(more | ~0ull >> 3, q + 67));
		__m512i best = _mm512_max_epu32(_mm512_permutex2var_epi32(low, even, high),
				_mm512_permutex2var_epi32(low,
					_mm512_or_si512(even, _mm512_set1_epi32(1)), high)),
			product, entry;
		__mmask16 some = _mm512_test_epi32_mask(best, _mm512_set1_epi32(~7));

		product = _mm512_mullo_epi32(_mm512_srli_epi32(best, 3),
			_mm512_set1_epi32((int)2654435761u));
		entry = _mm512_add_epi32(place,
			_mm512_set1_epi32((int)(ws->generation << 12 | g * 64)));
		entry = _mm512_or_si512(entry, _mm512_and_si512(best, _mm512_set1_epi32(7)));
		/* Tag: the product's upper 16 bits; the topmost ones are also the slot. */
		entry = _mm512_maskz_ternarylogic_epi32(some, product, entry,
			_mm512_set1_epi32(0xffff), 0xd8);
		_mm512_store_si512(ws->entry + 8 * g, entry);
	}
}

/* Positions of the candidates of groups g and g + 1. `most` is where the two groups begin, that is,
 * the largest possible distance. */
FN void two_groups_candidates_avx512(struct bref_workspace *ws, uint32_t g, __m512i most)
{
	const __m512i own_group = _mm512_inserti64x4(_mm512_set1_epi32(0xff),
		_mm256_set1_epi32(0xff00), 1);
	const __m256i others = _mm256_broadcastsi128_si256(_mm_setr_epi16(OTHERS_AVX512, 0));
	const __m512i entry = _mm512_load_si512(ws->entry + 8 * g);
	const __m256i rest = _mm256_subs_epu16(_mm512_cvtepi32_epi16(most), others);
	/* For entries with the same tag and generation, the difference of positions; for others,
	 * more than is possible. */
	__m512i d = _mm512_sub_epi32(entry,
		look_up_16_avx512(ws->table, TABLE_BITS, ws->entry + 8 * g));
	__mmask16 valid = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(d, _mm512_set1_epi32(1)), most);
	__m256i source;

#if BREF_BLOCK == 64
	const __m512i multiple = _mm512_maskz_permutexvar_epi8(0x1111111111111111ull, d,
		_mm512_load_si512(far_multiples));
	const __mmask16 below_block = _mm512_cmplt_epu32_mask(d, _mm512_set1_epi32(BREF_BLOCK));
	d = _mm512_mask_add_epi32(d, _mm512_cmplt_epu32_mask(d, _mm512_set1_epi32(DOUBLED_AVX512)),
		d, d);
	d = _mm512_mask_mov_epi32(d, below_block, multiple);
	valid = _mm512_mask_cmple_epu32_mask(valid, d, most);
	d = _mm512_maskz_mov_epi32(valid, d);
#else
	/* For a distance of 64 or more the multiple read by its lower bits is never larger than the
	 * distance. */
	d = _mm512_maskz_max_epu32(valid, d, _mm512_maskz_permutexvar_epi8(0x1111111111111111ull, d,
		_mm512_load_si512(multiples)));
#endif
	/* Drops duplicates. */
	valid = _mm512_mask_testn_epi32_mask(valid, _mm512_conflict_epi32(d), own_group);
	source = _mm512_cvtepi32_epi16(_mm512_sub_epi32(most, d));
	_mm_store_si128((__m128i *)ws->source[g],
		_mm_mask_compress_epi16(_mm256_castsi256_si128(rest), (__mmask8)valid,
			_mm256_castsi256_si128(source)));
	_mm_store_si128((__m128i *)ws->source[g + 1],
		_mm_mask_compress_epi16(_mm256_extracti128_si256(rest, 1), (__mmask8)(valid >> 8),
			_mm256_extracti128_si256(source, 1)));
}

FN void find_candidates_avx512(struct bref_workspace *ws, const uint8_t *page)
{
	__m512i most = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(64), 1);

	take_samples_avx512(ws, page);
	for (uint32_t g = 0; g < GROUPS; g += 2) {
		two_groups_candidates_avx512(ws, g, most);
		most = _mm512_add_epi32(most, _mm512_set1_epi32(128));
	}
}

/* The cheapest candidate of every block: number of differing bytes * 16 + index, and its mask.
 * First all the masks, then 64 bytes of them at once. */
FN void choose_candidates_avx512(struct bref_workspace *ws, const uint8_t *page)
{
	/* The first group has nothing before it. */
	ws->mask[0][0] = differ_avx512(page, zeros);
#pragma GCC unroll 16
	for (uint32_t k = 1; k <= CANDIDATES; k++)
		ws->mask[k][0] = ~0ull;
	for (uint32_t g = 1; g < GROUPS; g++) {
		__m512i v = _mm512_loadu_si512(page + g * 64);
		ws->mask[0][g] = _mm512_test_epi8_mask(v, v);
#pragma GCC unroll 16
		for (uint32_t k = 1; k <= CANDIDATES; k++)
			ws->mask[k][g] = _mm512_cmpneq_epi8_mask(v,
				_mm512_loadu_si512(page + ws->source[g][k - 1]));
	}
#if BREF_BLOCK == 64
	const __m512i seven = _mm512_set1_epi64(7),
		      group = _mm512_setr_epi64(-1, 7, 15, 23, 31, 39, 47, 55);
	__m512i at = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);
#else
	const __m512i seven = _mm512_set1_epi32(7);
	const __m512i group = _mm512_setr_epi32(-1, -1, 7, 7, 15, 15, 23, 23, 31, 31, 39, 39, 47,
		47, 55, 55);
	__m512i at = _mm512_setr_epi32(0, 0, 64, 64, 128, 128, 192, 192, 256, 256, 320, 320, 384,
		384, 448, 448);
#endif
	for (uint32_t g = 0; g < GROUPS; g += 8) {
		__m512i best = _mm512_set1_epi32(0x7fffffff), best_mask = _mm512_setzero_si512(),
			own;
#pragma GCC unroll 16
		for (uint32_t k = 0; k <= CANDIDATES; k++) {
			__m512i m = _mm512_load_si512(ws->mask[k] + g), cost;
#if BREF_BLOCK == 64
			cost = _mm512_shldi_epi64(_mm512_popcnt_epi64(m),
				_mm512_set1_epi64((long long)((uint64_t)k << 60)), 4);
			best_mask = _mm512_mask_mov_epi64(best_mask,
				_mm512_cmplt_epu64_mask(cost, best), m);
			best = _mm512_min_epu64(best, cost);
#else
			cost = _mm512_shldi_epi32(_mm512_popcnt_epi32(m),
				_mm512_set1_epi32((int)(k << 28)), 4);
			best_mask = _mm512_mask_mov_epi32(best_mask,
				_mm512_cmplt_epu32_mask(cost, best), m);
			best = _mm512_min_epu32(best, cost);
#endif
		}
		/* From the index to the source (its place among those of eight groups is made of
		 * group and index), and from that to the distance; the distance of index 0 is 0. */
#if BREF_BLOCK == 64
		own = _mm512_add_epi64(_mm512_and_si512(best, seven), group);
		own = _mm512_permutex2var_epi16(_mm512_load_si512(ws->source[g]), own,
			_mm512_load_si512(ws->source[g + 4]));
		own = _mm512_maskz_sub_epi64(_mm512_test_epi64_mask(best, seven), at, own);
		_mm_storeu_si128((__m128i *)(ws->own + g), _mm512_cvtepi64_epi16(own));
#else
		own = _mm512_add_epi32(_mm512_and_si512(best, seven), group);
		own = _mm512_permutex2var_epi16(_mm512_load_si512(ws->source[g]), own,
			_mm512_load_si512(ws->source[g + 4]));
		own = _mm512_maskz_sub_epi32(_mm512_test_epi32_mask(best, seven), at, own);
		_mm256_store_si256((__m256i *)(ws->own + g * 2), _mm512_cvtepi32_epi16(own));
#endif
		at = _mm512_add_epi32(at, _mm512_set1_epi32(8 * 64));
		_mm512_store_si512(ws->limit + 2 * g,
			_mm512_add_epi32(_mm512_srli_epi32(best, 4), _mm512_set1_epi32(1)));
		_mm512_store_si512(ws->best_mask + g, best_mask);
	}
}

#include "bref_settle.h"

/* Writes the object from the masks and references of all blocks. Returns its length, or 0. */
FN size_t put_page_avx512(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	uint8_t masks[8 * GROUPS + 64];
	uint16_t refs[BLOCKS + 32];
	uint64_t word_masks[8], is_new[PER_GROUP];
	__m512i total = _mm512_setzero_si512();
	uint32_t n_masks = 0, n_refs = 0, n_literals;
	uint8_t *op = dst;

	for (uint32_t i = 0; i < 8; i++) {
		__m512i m = _mm512_load_si512(ws->best_mask + 8 * i);

		word_masks[i] = _mm512_test_epi8_mask(m, m);
		total = _mm512_add_epi64(total, _mm512_popcnt_epi64(m));
		_mm512_storeu_si512(masks + n_masks, _mm512_maskz_compress_epi8(word_masks[i], m));
		n_masks += count_avx512(word_masks[i]);
	}
	for (uint32_t i = 0; i < PER_GROUP; i++) {
		is_new[i] = 0;
#pragma GCC unroll 2
		for (uint32_t j = 0; j < 64; j += 32) {
			/* the one before the first is 0 */
			const uint16_t *at = ws->block_refs + 64 * i + j;
			__m512i v = _mm512_loadu_si512(at);
			__mmask32 other = _mm512_cmpneq_epi16_mask(v, _mm512_loadu_si512(at - 1));

			_mm512_storeu_si512(refs + n_refs, _mm512_maskz_compress_epi16(other, v));
			n_refs += count_avx512(other);
			is_new[i] |= (uint64_t)other << j;
		}
	}
	refs[n_refs] = 0;
	n_literals = (uint32_t)_mm512_reduce_add_epi64(total);
	if (n_literals + n_masks + (n_refs * 3 + 1) / 2 + TRAILER >= TZ_PAGE_SIZE)
		return 0;
#pragma GCC unroll 4
	for (uint32_t g = 0; g < GROUPS; g++) {
		pack_literals_avx512(op, page + g * 64, ws->best_mask[g]);
		op += count_avx512(ws->best_mask[g]);
	}
	for (uint32_t i = 0; i < n_masks; i += 64)
		memcpy(op + i, masks + i, 64);
	op += n_masks;
	pack12_avx512(op, refs, n_refs);
	op += (n_refs * 3 + 1) / 2;
	memcpy(op, word_masks, WORD_MASKS);
	memcpy(op + WORD_MASKS, is_new, BLOCKS / 8);
	op += WORD_MASKS + BLOCKS / 8;
	tz_store16(op, (uint16_t)n_masks);
	return (size_t)(op + 2 - dst);
}

/* Replaces the template's. */
FN size_t finish_page_avx512(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	settle_avx512(ws, page);
	return put_page_avx512(ws, page, dst);
}
#define BREF_FINISH_PAGE

#undef OTHERS_AVX512
#undef DOUBLED_AVX512
#undef FN
