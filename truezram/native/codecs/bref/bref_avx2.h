/* bref_avx2.h - primitives of bref_template.h for AVX2 and BMI2. */
#include "words_avx2.h"

#define FN static inline __attribute__((always_inline)) TZ_TARGET_AVX2

FN uint64_t differ_avx2(const uint8_t *a, const uint8_t *b)
{
	__m256i low = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a),
		_mm256_loadu_si256((const __m256i *)b));
	__m256i high = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(a + 32)),
		_mm256_loadu_si256((const __m256i *)(b + 32)));

	return ~((uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32 |
		(uint32_t)_mm256_movemask_epi8(low));
}

/* By four bits of "new reference": which of five references, the first being the previous block's,
 * four blocks use. */
#define TAKES(bits) \
	{ 2 * BELOW(bits, 1), 2 * BELOW(bits, 1) + 1, 2 * BELOW(bits, 2), 2 * BELOW(bits, 2) + 1, \
		2 * BELOW(bits, 3), 2 * BELOW(bits, 3) + 1, 2 * BELOW(bits, 4), \
		2 * BELOW(bits, 4) + 1 }

/* Addresses of what all blocks refer to. Returns -1 if a distance is not allowed. */
FN int find_referred_avx2(const struct bref_sections *s, const uint8_t *out, uint64_t *from)
{
	static const uint8_t takes[16][8] = { TAKES(0), TAKES(1), TAKES(2), TAKES(3), TAKES(4),
		TAKES(5), TAKES(6), TAKES(7), TAKES(8), TAKES(9), TAKES(10), TAKES(11), TAKES(12),
		TAKES(13), TAKES(14), TAKES(15) };
	const __m256i zero = _mm256_setzero_si256(), least = _mm256_set1_epi16(BREF_BLOCK);
	const __m256i zeros_at = _mm256_set1_epi64x((long long)(uintptr_t)zeros);
	const __m256i step = _mm256_set1_epi64x(4 * BREF_BLOCK);
	__m256i at = _mm256_add_epi64(_mm256_set1_epi64x((long long)(uintptr_t)out),
		_mm256_setr_epi64x(0, BREF_BLOCK, 2 * BREF_BLOCK, 3 * BREF_BLOCK));
	__m256i most = _mm256_mullo_epi16(_mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
						  12, 13, 14, 15),
		least);
	__m256i bad = zero;
	uint16_t refs[16 + BLOCKS], distances[BLOCKS];
	const uint16_t *ref = refs;

	refs[0] = 0;
	unpack12_avx2(refs + 1, s->refs, s->n_refs);
	for (uint32_t i = 0; i < BLOCKS; i += 16) {
		uint64_t is_new = s->is_new[i / 64] >> (i & 63);

#pragma GCC unroll 4
		for (uint32_t j = 0; j < 16; j += 4, is_new >>= 4) {
			__m128i d = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)ref),
				_mm_loadl_epi64((const __m128i *)takes[is_new & 15]));
			__m256i wide = _mm256_cvtepu16_epi64(d);

			_mm_storel_epi64((__m128i *)(distances + i + j), d);
			_mm256_store_si256((__m256i *)(from + i + j),
				_mm256_blendv_epi8(_mm256_sub_epi64(at, wide), zeros_at,
					_mm256_cmpeq_epi64(wide, zero)));
			ref += count_avx2(is_new & 15);
			at = _mm256_add_epi64(at, step);
		}
	}
	for (uint32_t i = 0; i < BLOCKS; i += 16) {
		__m256i d = _mm256_loadu_si256((const __m256i *)(distances + i));

		bad = _mm256_or_si256(bad, _mm256_subs_epu16(d, most));
		bad = _mm256_or_si256(bad,
			_mm256_andnot_si256(_mm256_cmpeq_epi16(d, zero),
				_mm256_cmpgt_epi16(least, d)));
		most = _mm256_add_epi16(most, _mm256_set1_epi16(16 * BREF_BLOCK));
	}
	return _mm256_testz_si256(bad, bad) ? 0 : -1;
}

/* Number of bits of each byte. */
FN __m256i count_bits_avx2(__m256i v)
{
	const __m256i low = _mm256_set1_epi8(15);
	const __m256i bits = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
		2, 3, 2, 3, 3, 4));

	return _mm256_add_epi8(_mm256_shuffle_epi8(bits, _mm256_and_si256(v, low)),
		_mm256_shuffle_epi8(bits, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
}

/* From the byte masks of four groups: where each word's literals begin among its group's, and how
 * many each group has. Returns the sum. */
FN uint32_t count_literals_avx2(__m256i mask, uint8_t *before, uint64_t *literals)
{
	__m256i sum = count_bits_avx2(mask);
	__m128i two;

	sum = _mm256_add_epi8(sum, _mm256_slli_epi64(sum, 8));
	sum = _mm256_add_epi8(sum, _mm256_slli_epi64(sum, 16));
	sum = _mm256_add_epi8(sum, _mm256_slli_epi64(sum, 32));
	_mm256_store_si256((__m256i *)before, _mm256_slli_epi64(sum, 8));
	sum = _mm256_srli_epi64(sum, 56);
	_mm256_store_si256((__m256i *)literals, sum);
	two = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
	return (uint32_t)(_mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 2));
}

FN __m128i load_two_avx2(const void *low, const void *high)
{
	return _mm_castps_si128(_mm_loadh_pi(
		_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)low)), (const __m64 *)high));
}

/* The byte mask of every word, where its literals begin among its group's, and how many the group
 * has. Returns the sum. */
FN uint32_t spread_masks_avx2(const struct bref_sections *s, uint8_t *mask, uint8_t *before,
	uint64_t *literals)
{
	const uint8_t *masks = s->masks;
	uint32_t total = 0;

	for (uint32_t g = 0; g < GROUPS; g += 4) {
		__m128i half[2];
		__m256i v;

#pragma GCC unroll 2
		for (uint32_t k = 0; k < 2; k++) {
			const uint32_t first = s->word_masks[g + 2 * k],
				       second = s->word_masks[g + 2 * k + 1];
			__m128i how = load_two_avx2(expand_shuffle + first,
				expand_shuffle + second);

			half[k] = load_two_avx2(masks, masks + count_avx2(first));
			masks += count_avx2(first | second << 8);
			half[k] = _mm_shuffle_epi8(half[k],
				_mm_add_epi8(how, _mm_set_epi64x(8 * ONES, 0)));
		}
		v = _mm256_set_m128i(half[1], half[0]);
		_mm256_store_si256((__m256i *)(mask + 8 * g), v);
		total += count_literals_avx2(v, before + 8 * g, literals + g);
	}
	return total;
}

/* 32 bytes: those at `from`, with literals where the masks of the four words say so; each word's
 * literals begin at `before`. */
FN __m256i expand_avx2(const uint8_t *from, const uint8_t *literals, const uint8_t *mask,
	const uint8_t *before)
{
	__m256i how = _mm256_set_m128i(load_two_avx2(expand_shuffle + mask[2],
					       expand_shuffle + mask[3]),
		load_two_avx2(expand_shuffle + mask[0], expand_shuffle + mask[1]));
	__m256i v = _mm256_set_m128i(load_two_avx2(literals + before[2], literals + before[3]),
		load_two_avx2(literals + before[0], literals + before[1]));

	how = _mm256_add_epi8(how, _mm256_setr_epi64x(0, 8 * ONES, 0, 8 * ONES));
	return _mm256_blendv_epi8(_mm256_shuffle_epi8(v, how),
		_mm256_loadu_si256((const __m256i *)from), how);
}

/* First computes everything that can be known about all blocks, many at a time; then the blocks.
 * Replaces the template's decoder. No read overruns its section by more than 32 bytes, and the
 * trailer is longer. */
FN int decode_page_avx2(struct bref_sections *s, uint8_t *out)
{
	_Alignas(32) uint8_t mask[8 * GROUPS], before[8 * GROUPS];
	_Alignas(32) uint64_t n_literals[GROUPS], from[BLOCKS];
	const uint8_t *literals = s->literals;
	uint32_t n_masks = 0;

	for (uint32_t i = 0; i < WORD_MASKS; i += 8)
		n_masks += count_avx2(tz_load64(s->word_masks + i));
	if (n_masks != s->n_masks ||
		spread_masks_avx2(s, mask, before, n_literals) != s->n_literals ||
		find_referred_avx2(s, out, from))
		return -1;
	for (uint32_t g = 0; g < GROUPS; g++) {
#pragma GCC unroll 2
		for (uint32_t k = 0; k < 64; k += 32) {
			const uint32_t word = 8 * g + k / 8;
			const uint8_t *there =
				(const uint8_t *)(uintptr_t)from[g * PER_GROUP + k / BREF_BLOCK] +
				k % BREF_BLOCK;
			__m256i v = expand_avx2(there, literals, mask + word, before + word);

			_mm256_storeu_si256((__m256i *)(out + 64 * g + k), v);
		}
		literals += n_literals[g];
	}
	return 0;
}
#define BREF_DECODE_PAGE

/* The search, in phases that each do one thing for the whole page, so that nothing waits for a
 * result that was just computed. */

#define SAMPLES_AVX2 (TZ_PAGE_SIZE / 8)
#define TRIED_AVX2 6	/* more would cost more than they find */
_Static_assert(TRIED_AVX2 <= CANDIDATES, "room for the masks of what is tried");

/* For each eight of 32 positions, the largest hash of the four bytes there, with the position in
 * its low 3 bits, in each even lane. (The factors are those of bref_avx512.h.) */
FN __m256i largest_hashes_avx2(const uint8_t *q)
{
	const __m256i factors = _mm256_set1_epi32(0x0050b158);
	__m256i best = _mm256_setzero_si256();

#pragma GCC unroll 4
	for (int j = 0; j < 4; j++) {
		__m256i hash = _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(q + j)),
			factors);

		best = _mm256_max_epu32(best,
			_mm256_add_epi32(hash, _mm256_set1_epi64x((4ll + j) << 32 | j)));
	}
	return _mm256_max_epu32(best, _mm256_srli_epi64(best, 32));
}

/* Samples: of each eight positions the one with the largest hash. So a copy is mostly sampled at
 * the same bytes as its source, wherever the two are, and the number of samples is fixed. Zeros are
 * not sampled. An entry of the table is tag 15, generation 4, zero 1, position 12 bits: two entries
 * with the same page and tag differ by less than 4096, any others by more. */
FN void take_samples_avx2(struct bref_workspace *ws, const uint8_t *page)
{
	const __m256i multiplier = _mm256_set1_epi32((int)2654435761u),
		      seven = _mm256_set1_epi32(7);
	__m256i place = _mm256_add_epi32(_mm256_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56),
		_mm256_set1_epi32((int)(ws->generation << 13)));
	uint8_t end[128] = { 0 };	/* the page's last 64 bytes and what is read past them */

	memcpy(end, page + TZ_PAGE_SIZE - 64, 64);
	for (uint32_t g = 0; g < GROUPS; g += 2) {
		__m256i product[2], slots;

#pragma GCC unroll 2
		for (uint32_t k = 0; k < 2; k++) {
			const uint8_t *q = g + k < GROUPS - 1 ? page + 64 * (g + k) : end;
			__m256 low = _mm256_castsi256_ps(largest_hashes_avx2(q)),
			       high = _mm256_castsi256_ps(largest_hashes_avx2(q + 32));
			__m256i best = _mm256_permute4x64_epi64(
					_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88)),
					0xd8),
				entry;
			__m256i hash = _mm256_srli_epi32(best, 3);

			product[k] = _mm256_mullo_epi32(hash, multiplier);
			entry = _mm256_and_si256(_mm256_slli_epi32(product[k], 13),
				_mm256_set1_epi32((int)0xfffe0000));
			entry = _mm256_or_si256(entry,
				_mm256_or_si256(place, _mm256_and_si256(best, seven)));
			entry = _mm256_andnot_si256(_mm256_cmpeq_epi32(hash,
							    _mm256_setzero_si256()),
				entry);
			_mm256_store_si256((__m256i *)(ws->entry + 8 * (g + k)), entry);
			place = _mm256_add_epi32(place, _mm256_set1_epi32(64));
		}
		slots = _mm256_packus_epi32(_mm256_srli_epi32(product[0], 32 - TABLE_BITS),
			_mm256_srli_epi32(product[1], 32 - TABLE_BITS));
		_mm256_storeu_si256((__m256i *)(ws->slot + 8 * g),
			_mm256_permute4x64_epi64(slots, 0xd8));
	}
}

/* found[i] = the distance to the slot's entry; above 4095 or 0 if the entry is unrelated. */
FN void look_up_avx2(struct bref_workspace *ws)
{
#pragma GCC unroll 4
	for (uint32_t i = 0; i < SAMPLES_AVX2; i++) {
		uint32_t slot = ws->slot[i], entry = ws->entry[i];

		ws->found[i] = entry - ws->table[slot];
		ws->table[slot] = entry;
	}
}

/* Factors, by distance / 4, that make a distance below a block's size at least a block's size. */
#define FACTOR_4(d) ((d) < BREF_BLOCK ? (BREF_BLOCK + (d) - 1) / ((d) + !(d)) : 1)

/* For groups g and g + 1: zero, then up to seven distances that the samples found, without equal
 * neighbours. Unused places hold any of the list. */
FN void list_distances_avx2(const struct bref_workspace *ws, uint32_t g, uint16_t *list)
{
	const __m256i factors = _mm256_broadcastsi128_si256(_mm_setr_epi8(BREF_BLOCK, FACTOR_4(4),
		FACTOR_4(8), FACTOR_4(12), FACTOR_4(16), FACTOR_4(20), FACTOR_4(24), FACTOR_4(28),
		FACTOR_4(32), FACTOR_4(36), FACTOR_4(40), FACTOR_4(44), FACTOR_4(48), FACTOR_4(52),
		FACTOR_4(56), 1));
	const __m256i *found = (const __m256i *)(ws->found + 8 * g);
	const __m256i most = _mm256_set_m128i(_mm_set1_epi16((short)(g * 64 + 64)),
		_mm_set1_epi16((short)(g * 64)));
	__m256i d = _mm256_packus_epi32(_mm256_load_si256(found), _mm256_load_si256(found + 1)), by,
		how, none;
	uint32_t keep;

	d = _mm256_permute4x64_epi64(d, 0xd8);
	d = _mm256_and_si256(d, _mm256_cmpeq_epi16(d, _mm256_min_epu16(d, most)));
	by = _mm256_min_epu16(_mm256_srli_epi16(d, 2), _mm256_set1_epi16(15));
	by = _mm256_shuffle_epi8(factors, _mm256_or_si256(by, _mm256_set1_epi16((short)0x8000)));
	d = _mm256_mullo_epi16(d, by);
	none = _mm256_or_si256(_mm256_cmpgt_epi16(_mm256_set1_epi16(BREF_BLOCK), d),
		_mm256_cmpgt_epi16(d, most));
	d = _mm256_andnot_si256(none, d);
	none = _mm256_or_si256(none, _mm256_cmpeq_epi16(d, _mm256_slli_si256(d, 2)));
	keep = ~(uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(none, none));
	/* Compacts by the numbers of those kept, shifted by one. */
	how = _mm256_cvtepu8_epi16(_mm_set_epi64x((long long)set_bits_avx2[keep >> 16 & 0xff],
		(long long)set_bits_avx2[keep & 0xff]));
	how = _mm256_add_epi16(_mm256_mullo_epi16(how, _mm256_set1_epi16(0x0202)),
		_mm256_set1_epi16(0x0100));
	_mm256_storeu_si256((__m256i *)list, _mm256_slli_si256(_mm256_shuffle_epi8(d, how), 2));
}

/* Replaces the slots by eight distances per group. */
FN void find_candidates_avx2(struct bref_workspace *ws, const uint8_t *page)
{
	take_samples_avx2(ws, page);
	look_up_avx2(ws);
	for (uint32_t g = 0; g < GROUPS; g += 2)
		list_distances_avx2(ws, g, ws->distance[g]);
}

/* The number of differing bytes in each block of four groups. */
FN __m256i costs_avx2(__m256i mask)
{
	const __m256i sum = count_bits_avx2(mask);

#if BREF_BLOCK == 64
	return _mm256_sad_epu8(sum, _mm256_setzero_si256());
#else
	return _mm256_madd_epi16(_mm256_maddubs_epi16(sum, _mm256_set1_epi8(1)),
		_mm256_set1_epi16(1));
#endif
}

/* The cheapest candidate of every block: differing bytes * 16 + index, and its mask. First all the
 * masks (of equal bytes), then four groups at once. */
FN void choose_candidates_avx2(struct bref_workspace *ws, const uint8_t *page)
{
	for (uint32_t g = 0; g < GROUPS; g++) {
		const uint8_t *q = page + g * 64;
		const __m256i low = _mm256_loadu_si256((const __m256i *)q),
			      high = _mm256_loadu_si256((const __m256i *)(q + 32));

#pragma GCC unroll 16
		for (uint32_t k = 0; k <= TRIED_AVX2; k++) {
			const __m256i *from = (const __m256i *)(k ? referred(q, ws->distance[g][k])
								  : zeros);
			uint8_t *mask = (uint8_t *)&ws->mask[k][g];

			tz_store32(mask,
				(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low,
					_mm256_loadu_si256(from))));
			tz_store32(mask + 4,
				(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high,
					_mm256_loadu_si256(from + 1))));
		}
	}
	for (uint32_t g = 0; g < GROUPS; g += 4) {
		__m256i best = _mm256_set1_epi32(0x7fffffff), best_mask = _mm256_setzero_si256();

#pragma GCC unroll 16
		for (uint32_t k = 0; k <= TRIED_AVX2; k++) {
			const __m256i m =
				_mm256_xor_si256(_mm256_load_si256((const __m256i *)(ws->mask[k] +
							 g)),
					_mm256_set1_epi8(-1));
			const __m256i cost = _mm256_slli_epi32(costs_avx2(m), 4);
#if BREF_BLOCK == 64
			const __m256i less = _mm256_cmpgt_epi64(best, cost),
				      index = _mm256_set1_epi64x(k);
#else
			const __m256i less = _mm256_cmpgt_epi32(best, cost),
				      index = _mm256_set1_epi32((int)k);
#endif

			best = _mm256_blendv_epi8(best, _mm256_or_si256(cost, index), less);
			best_mask = _mm256_blendv_epi8(best_mask, m, less);
		}
		_mm256_store_si256((__m256i *)(ws->best_mask + g), best_mask);
		_mm256_store_si256((__m256i *)(ws->limit + 2 * g), best);
		for (uint32_t b = 0; b < 4 * PER_GROUP; b++)
			ws->own[g * PER_GROUP + b] = ws->distance[g +
				b / PER_GROUP][ws->limit[2 * g + b * 2 / PER_GROUP] & 15];
		best = _mm256_add_epi32(_mm256_srli_epi32(best, 4), _mm256_set1_epi32(1));
		_mm256_store_si256((__m256i *)(ws->limit + 2 * g), best);
	}
}

#include "bref_settle.h"

/* The references that differ from the previous block's, and which blocks they belong to. Returns
 * their number. */
FN uint32_t put_refs_avx2(const struct bref_workspace *ws, uint16_t *refs, uint8_t *is_new)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < BLOCKS; i += 8) {
		const uint16_t *at = ws->block_refs + i;	/* the one before the first is 0 */
		__m128i v = _mm_loadu_si128((const __m128i *)at), how, same;
		uint32_t other;

		same = _mm_cmpeq_epi16(v, _mm_loadu_si128((const __m128i *)(at - 1)));
		other = ~(uint32_t)_mm_movemask_epi8(_mm_packs_epi16(same, same)) & 0xff;
		how = _mm_loadl_epi64((const __m128i *)(set_bits_avx2 + other));
		how = _mm_add_epi8(how, how);
		how = _mm_add_epi8(_mm_unpacklo_epi8(how, how), _mm_set1_epi16(0x0100));
		_mm_storeu_si128((__m128i *)(refs + n), _mm_shuffle_epi8(v, how));
		n += count_avx2(other);
		is_new[i / 8] = (uint8_t)other;
	}
	refs[n] = 0;
	return n;
}

/* Compacts the masks of differing words and marks which words they belong to. Returns their
 * number. */
FN uint32_t put_masks_avx2(const struct bref_workspace *ws, uint8_t *masks, uint8_t *word_masks)
{
	uint32_t n = 0;

	for (uint32_t g = 0; g < GROUPS; g += 2) {
		__m128i v = _mm_load_si128((const __m128i *)(ws->best_mask + g)), how;
		uint32_t words = ~(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v,
					 _mm_setzero_si128())) &
			0xffff;

		how = load_two_avx2(set_bits_avx2 + (words & 0xff), set_bits_avx2 + (words >> 8));
		v = _mm_shuffle_epi8(v, _mm_add_epi8(how, _mm_set_epi64x(8 * ONES, 0)));
		_mm_storel_epi64((__m128i *)(masks + n), v);
		n += count_avx2(words & 0xff);
		_mm_storeh_pi((__m64 *)(masks + n), _mm_castsi128_ps(v));
		n += count_avx2(words >> 8);
		tz_store16(word_masks + g, (uint16_t)words);
	}
	return n;
}

/* Writes the differing bytes of all blocks. Returns their end. */
FN uint8_t *put_literals_avx2(uint8_t *to, const uint8_t *page, const uint8_t *mask,
	const uint8_t *before, const uint64_t *literals)
{
	for (uint32_t g = 0; g < GROUPS; g++, page += 64, mask += 8, before += 8) {
#pragma GCC unroll 4
		for (uint32_t k = 0; k < 8; k += 2) {
			__m128i how = load_two_avx2(set_bits_avx2 + mask[k],
				set_bits_avx2 + mask[k + 1]);
			__m128i v =
				_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(page + 8 * k)),
					_mm_add_epi8(how, _mm_set_epi64x(8 * ONES, 0)));

			_mm_storel_epi64((__m128i *)(to + before[k]), v);
			_mm_storeh_pi((__m64 *)(to + before[k + 1]), _mm_castsi128_ps(v));
		}
		to += literals[g];
	}
	return to;
}

/* Writes the object from the masks and references of all blocks. Returns its length, or 0. */
FN size_t put_page_avx2(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	_Alignas(32) uint8_t before[8 * GROUPS];
	_Alignas(32) uint64_t literals[GROUPS];
	uint8_t masks[8 * GROUPS + 16], word_masks[WORD_MASKS], is_new[BLOCKS / 8], *op = dst;
	uint16_t refs[BLOCKS + 16];
	const uint32_t n_masks = put_masks_avx2(ws, masks, word_masks),
		       n_refs = put_refs_avx2(ws, refs, is_new);
	uint32_t n_literals = 0;

	for (uint32_t g = 0; g < GROUPS; g += 4)
		n_literals +=
			count_literals_avx2(_mm256_load_si256((const __m256i *)(ws->best_mask + g)),
				before + 8 * g, literals + g);
	if (n_literals + n_masks + (n_refs * 3 + 1) / 2 + TRAILER >= TZ_PAGE_SIZE)
		return 0;
	op = put_literals_avx2(op, page, (const uint8_t *)ws->best_mask, before, literals);
	for (uint32_t i = 0; i < n_masks; i += 32)
		memcpy(op + i, masks + i, 32);
	op += n_masks;
	pack12_avx2(op, refs, n_refs);
	op += (n_refs * 3 + 1) / 2;
	memcpy(op, word_masks, WORD_MASKS);
	memcpy(op + WORD_MASKS, is_new, BLOCKS / 8);
	op += WORD_MASKS + BLOCKS / 8;
	tz_store16(op, (uint16_t)n_masks);
	return (size_t)(op + 2 - dst);
}

/* Replaces the template's. */
FN size_t finish_page_avx2(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	settle_avx2(ws, page);
	return put_page_avx2(ws, page, dst);
}
#define BREF_FINISH_PAGE

#undef FACTOR_4
#undef SAMPLES_AVX2
#undef TRIED_AVX2
#undef FN
