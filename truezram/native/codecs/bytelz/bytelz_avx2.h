/* bytelz_avx2.h - byte-LZ's primitives (bytelz.h) for AVX2 and BMI2. */
#include "bref/words_avx2.h"

#define FN static inline __attribute__((always_inline)) TZ_TARGET

FN uint32_t lz_equal_avx2(const uint8_t *page, uint32_t at, uint32_t from)
{
	for (uint32_t n = 0; ; n += 32) {
		uint32_t equal = (uint32_t)_mm256_movemask_epi8(
			_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(page + at + n)),
				_mm256_loadu_si256((const __m256i *)(page + from + n))));

		if (TZ_LIKELY(~equal))
			return n + _tzcnt_u32(~equal);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN uint32_t lz_zeros_avx2(const uint8_t *page, uint32_t at)
{
	for (uint32_t n = 0; ; n += 32) {
		uint32_t zero = (uint32_t)_mm256_movemask_epi8(
			_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(page + at + n)),
				_mm256_setzero_si256()));

		if (~zero)
			return n + _tzcnt_u32(~zero);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN uint32_t lz_equal_behind_avx2(const uint8_t *a, const uint8_t *b)
{
	uint32_t equal = (uint32_t)
		_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(a - 16)),
			_mm_loadu_si128((const __m128i *)(b - 16))));

	return _lzcnt_u32(~(equal << 16));
}

FN uint32_t lz_strange_avx2(const uint8_t *p)
{
	uint32_t zeros = 0, strange = 0;

	for (uint32_t i = 0; i < 64; i += 32) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(p + i));
		uint32_t zero = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v,
			_mm256_setzero_si256()));
		uint32_t low = (uint32_t)
			_mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_set1_epi8('\t'), v));

		zeros += (uint32_t)_mm_popcnt_u32(zero);
		strange += (uint32_t)_mm_popcnt_u32(low ^ zero);
	}
	return zeros << 16 | strange;
}

FN int lz_any_high_avx2(const uint8_t *p, uint32_t n)
{
	__m256i any = _mm256_setzero_si256();

	for (uint32_t i = 0; i < n; i += 32)
		any = _mm256_or_si256(any, _mm256_loadu_si256((const __m256i *)(p + i)));
	return _mm256_movemask_epi8(any) != 0;
}

/* 64 bytes to 56: joins two fields of 7 bits, then two of 14, two of 28, then takes 7 of 8
 * bytes. */
FN void lz_pack7_avx2(uint8_t *to, const uint8_t *from, uint32_t n)
{
	const __m256i seven = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 8, 9,
		10, 11, 12, 13, 14, -1, -1));
	const __m256i low = _mm256_set1_epi64x(0xfffffff);

	for (uint32_t i = 0; i < n; i += 32, to += 28) {
		__m256i v = _mm256_maddubs_epi16(_mm256_set1_epi16((short)0x8001),
			_mm256_loadu_si256((const __m256i *)(from + i)));

		v = _mm256_madd_epi16(v, _mm256_set1_epi32(0x40000001));
		v = _mm256_or_si256(_mm256_and_si256(low, v),
			_mm256_andnot_si256(low, _mm256_srli_epi64(v, 4)));
		v = _mm256_shuffle_epi8(v, seven);
		_mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(v));
		_mm_storeu_si128((__m128i *)(to + 14), _mm256_extracti128_si256(v, 1));
	}
}

/* The reverse, 14 bytes to 16 in each half: every field gets the two bytes that hold it, is moved
 * up by a multiplication and down by a shift. Reads up to 29 bytes too many. */
FN void lz_read7_avx2(uint8_t *to, const uint8_t *from, uint32_t stored)
{
	const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 0, 1, 1, 2, 2, 3, 3,
		4, 4, 5, 5, 6, 6, -1));
	const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi8(7));
	const __m256i up = _mm256_broadcastsi128_si256(_mm_setr_epi16(1 << 9, 1 << 2, 1 << 3,
		1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8));

	for (uint32_t i = 0; i < stored; i += 28, to += 32) {
		__m256i v = _mm256_loadu2_m128i((const __m128i *)(from + i + 14),
				(const __m128i *)(from + i)),
			low, high;

		low = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(v, first), up), 9);
		high = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(v, second), up), 9);
		_mm256_storeu_si256((__m256i *)to, _mm256_packus_epi16(low, high));
	}
}

/* Inclusive prefix sums of the lanes. */
FN __m256i lz_sums_avx2(__m256i v)
{
	__m256i low;

	v = _mm256_add_epi16(v, _mm256_slli_si256(v, 2));
	v = _mm256_add_epi16(v, _mm256_slli_si256(v, 4));
	v = _mm256_add_epi16(v, _mm256_slli_si256(v, 8));
	/* Adds the lower half's last lane to all of the upper half. */
	low = _mm256_permute2x128_si256(v, v, 0x08);
	return _mm256_add_epi16(v, _mm256_shuffle_epi8(low, _mm256_set1_epi16(0x0f0e)));
}

/* Eight numbers: the next one for each lane whose bit is set, 0 for the others. */
FN __m128i lz_spread_avx2(const uint16_t *next, uint32_t lanes)
{
	__m128i how = _mm_loadl_epi64((const __m128i *)(expand_shuffle + lanes));

	how = _mm_unpacklo_epi8(how, how);
	how = _mm_adds_epu8(_mm_adds_epu8(how, how), _mm_set1_epi16(0x0100));
	return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)next), how);
}

/* Where the 16 tokens of one step read and write. */
struct lz_places_avx2 {
	_Alignas(32) uint16_t to[16], literal[16], match[16];
	_Alignas(32) int16_t from[16];
};

FN void lz_copy_avx2(uint8_t *page, const uint8_t *literals, const struct lz_places_avx2 *p,
	uint32_t j)
{
	__m256i v = _mm256_loadu_si256((const __m256i *)(literals + p->literal[j]));

	_mm256_storeu_si256((__m256i *)(page + p->to[j]), v);
	v = _mm256_loadu_si256((const __m256i *)(page + p->from[j]));
	_mm256_storeu_si256((__m256i *)(page + p->match[j]), v);
}

/* 16 tokens per step: first all their places at once, then their copies. Reads up to 28 bytes past
 * the distances. */
FN int lz_expand_avx2(const struct lz_sections *s, uint8_t *page)
{
	static const int8_t last[32] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
		-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
	const __m128i lengths = _mm_load_si128((const __m128i *)lz_length),
		      runs = _mm_load_si128((const __m128i *)lz_runs[0]);
	const __m128i low = _mm_set1_epi8(15), none = _mm_setzero_si128();
	const __m256i zero = _mm256_setzero_si256();
	uint16_t distances[TZ_PAGE_SIZE / LZ_MIN_MATCH + 32];
	struct lz_places_avx2 p;
	__m256i at = zero, literals = zero, wrong = zero;
	uint32_t k = 0, end = 0;

	if (s->n_distances > TZ_PAGE_SIZE / LZ_MIN_MATCH)
		return -1;
	unpack12_avx2(distances, s->distances, s->n_distances);
	for (uint32_t i = 0; i < s->n_tokens; i += 16) {
		const uint32_t left = s->n_tokens - i;
		__m128i token, code, run, length, unnamed;
		__m256i lengths16, run_end, start, d, is_zero;
		uint32_t named;

		if (TZ_LIKELY(left >= 16)) {
			token = _mm_loadu_si128((const __m128i *)(s->tokens + i));
			length = none;
		} else {
			/* The last 16 tokens: those already done are shifted out; those shifted in
			 * neither read nor write anything. */
			length = _mm_loadu_si128((const __m128i *)(last + 16 - left));
			token = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(s->tokens + i +
							 left - 16)),
				length);
		}
		code = _mm_and_si128(_mm_srli_epi16(token, 4), low);
		unnamed = _mm_cmpeq_epi8(code, none);
		run = _mm_and_si128(token, low);
		run = _mm_blendv_epi8(run, _mm_shuffle_epi8(runs, run), unnamed);
		run = _mm_blendv_epi8(run, none, length);
		length = _mm_shuffle_epi8(lengths, code);
		named = ~(uint32_t)_mm_movemask_epi8(unnamed) & 0xffff;
		if (TZ_UNLIKELY(k + count_avx2(named) > s->n_distances))
			return -1;
		d = _mm256_set_m128i(lz_spread_avx2(distances + k + count_avx2(named & 0xff),
					     named >> 8),
			lz_spread_avx2(distances + k, named & 0xff));
		k += count_avx2(named);

		lengths16 = _mm256_cvtepu8_epi16(length);
		run_end = lz_sums_avx2(_mm256_cvtepu8_epi16(run));
		start = _mm256_add_epi16(_mm256_add_epi16(run_end, lz_sums_avx2(lengths16)), at);
		run_end = _mm256_add_epi16(run_end, literals);
		/* Broadcasts the last lane. */
		at = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(start, 0xff),
			_mm256_set1_epi16(0x0f0e));
		literals = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(run_end, 0xff),
			_mm256_set1_epi16(0x0f0e));
		start = _mm256_sub_epi16(start, lengths16);
		_mm256_store_si256((__m256i *)p.literal,
			_mm256_sub_epi16(run_end, _mm256_cvtepu8_epi16(run)));
		_mm256_store_si256((__m256i *)p.to,
			_mm256_sub_epi16(start, _mm256_cvtepu8_epi16(run)));
		_mm256_store_si256((__m256i *)p.match, start);
		is_zero = _mm256_cmpeq_epi16(d, zero);
		wrong = _mm256_or_si256(wrong, _mm256_or_si256(_mm256_cmpgt_epi16(d, start),
			_mm256_andnot_si256(is_zero, _mm256_cmpgt_epi16(lengths16, d))));
		/* Zeros; invalid ones get them too, and the object is refused afterwards. */
		_mm256_store_si256((__m256i *)p.from, _mm256_blendv_epi8(_mm256_sub_epi16(start, d),
			_mm256_set1_epi16(-LZ_FRONT), _mm256_or_si256(is_zero, wrong)));
		end = (uint32_t)_mm256_cvtsi256_si32(at) & 0xffff;
		if (TZ_UNLIKELY(end > TZ_PAGE_SIZE ||
			    ((uint32_t)_mm256_cvtsi256_si32(literals) & 0xffff) > s->n_literals))
			return -1;
#pragma GCC unroll 16
		for (uint32_t j = 0; j < 16; j++)
			lz_copy_avx2(page, s->literals, &p, j);
	}
	if (!_mm256_testz_si256(wrong, wrong) || end != TZ_PAGE_SIZE || k != s->n_distances)
		return -1;
	return _mm256_cvtsi256_si32(literals) & 0xffff;
}

/* Compacts the lanes whose bits are set. */
FN __m256i lz_together_avx2(__m256i v, uint32_t lanes)
{
	return _mm256_permutevar8x32_epi32(v,
		_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(set_bits_avx2 + lanes))));
}

FN uint32_t lz_lanes_avx2(__m256i mask)
{
	return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(mask));
}

/* Chooses the positions to look up among LZ_STEP from `at` on: three in four, by the hash of their
 * content, so that a copy is looked up where its source was; and the first of zeros. Returns their
 * number. */
FN uint32_t lz_samples_avx2(struct lz_workspace *ws, uint32_t at, uint32_t *last_zero)
{
	const uint8_t *page = ws->page + LZ_FRONT;
	const __m256i words = _mm256_setr_epi8(0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6, 4, 5,
		6, 7, 5, 6, 7, 8, 6, 7, 8, 9, 7, 8, 9, 10);
	const __m256i zero = _mm256_setzero_si256(), low = _mm256_set1_epi32(0x3fff);
	__m256i place = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
		_mm256_set1_epi32((int)(ws->base << 12 | at)));
	uint32_t n = 0;

#pragma GCC unroll 2
	for (uint32_t i = at; i < at + LZ_STEP; i += 8) {
		__m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(page +
				i))),
			product;
		uint32_t zeros, take;

		v = _mm256_shuffle_epi8(v, words);
		product = _mm256_mullo_epi32(v, _mm256_set1_epi32((int)2654435761u));
		zeros = lz_lanes_avx2(_mm256_cmpeq_epi32(v, zero));
		take = lz_lanes_avx2(_mm256_cmpgt_epi32(_mm256_and_si256(product,
								_mm256_set1_epi32(3 << 14)),
			zero));
		take |= zeros & ~(zeros << 1 | *last_zero);
		*last_zero = zeros >> 7;
		v = lz_together_avx2(_mm256_or_si256(_mm256_andnot_si256(low, product), place),
			take);
		_mm256_storeu_si256((__m256i *)(ws->entry + n), v);
		n += count_avx2(take);
		place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
	}
	_mm256_storeu_si256((__m256i *)(ws->entry + n), zero);
	return n;
}

/* Replaces n entries of the table (an even number) and returns the old ones. */
FN void lz_look_up_avx2(struct lz_workspace *ws, uint32_t n)
{
#pragma GCC unroll 2
	for (uint32_t i = 0; i < n; i += 2) {
		const uint64_t two = tz_load64(ws->entry + i);
		uint32_t *slot = &ws->tagged[(uint32_t)two >> (32 - LZ_TAGGED_BITS)];

		ws->found[i] = *slot;
		*slot = (uint32_t)two;
		slot = &ws->tagged[two >> (64 - LZ_TAGGED_BITS)];
		ws->found[i + 1] = *slot;
		*slot = (uint32_t)(two >> 32);
	}
}

/* The first of each run of samples with the same distance. Returns their number. */
FN uint32_t lz_candidates_avx2(struct lz_workspace *ws)
{
	const __m256i none = _mm256_setzero_si256(), up = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
	__m256i before = none;
	uint32_t n = 0, last_zero = 0;

	for (uint32_t at = 0; at < TZ_PAGE_SIZE; at += LZ_STEP) {
		const uint32_t samples = lz_samples_avx2(ws, at, &last_zero);

		lz_look_up_avx2(ws, (samples + 1) & ~1u);
#pragma GCC unroll 2
		for (uint32_t i = 0; i < samples; i += 8) {
			__m256i entry = _mm256_load_si256((const __m256i *)(ws->entry + i)), d,
				rotated, useless;
			__m256i found = _mm256_load_si256((const __m256i *)(ws->found + i)),
				pair = _mm256_xor_si256(entry, found);
			/* Or an entry with the same tag; the comparison will show. */
			const __m256i zero = _mm256_cmpeq_epi32(_mm256_srli_epi32(entry, 14), none);
			uint32_t keep;

			d = _mm256_and_si256(_mm256_sub_epi32(entry, found),
				_mm256_cmpeq_epi32(_mm256_srli_epi32(pair, 12), none));
			d = _mm256_blendv_epi8(d, _mm256_set1_epi32(TZ_PAGE_SIZE), zero);
			rotated = _mm256_permutevar8x32_epi32(d, up);
			useless = _mm256_cmpeq_epi32(d, _mm256_blend_epi32(rotated, before, 1));
			before = rotated;
			keep = ~lz_lanes_avx2(_mm256_or_si256(useless,
				_mm256_cmpeq_epi32(d, none)));
			keep &= _bzhi_u32(0xff, samples - i < 8 ? samples - i : 8);
			entry = _mm256_and_si256(entry, _mm256_set1_epi32(0xfff));
			entry = _mm256_add_epi32(entry, _mm256_set1_epi32(LZ_FRONT));
			d = _mm256_blendv_epi8(_mm256_sub_epi32(entry, d),
				_mm256_set1_epi32(LZ_ZEROS), zero);
			d = _mm256_or_si256(entry, _mm256_slli_epi32(d, 16));
			_mm256_storeu_si256((__m256i *)(ws->candidate + n),
				lz_together_avx2(d, keep));
			n += count_avx2(keep);
		}
	}
	return n;
}

FN uint64_t lz_equal_32_avx2(const uint8_t *a, const uint8_t *b)
{
	return (uint32_t)
		_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a),
			_mm256_loadu_si256((const __m256i *)b)));
}

/* Matches in page order, without a branch for those that overlap or are too short. Returns their
 * number. */
FN uint32_t lz_matches_avx2(struct lz_workspace *ws)
{
	uint64_t reached = 0, n = 0;
	uint32_t candidates;

	if (!(ws->base = (ws->base + 1) & 3)) {
		memset(ws->tagged, 0, sizeof(ws->tagged));
		ws->base = 1;
	}
	candidates = lz_candidates_avx2(ws);
	for (uint32_t i = 0; i < candidates; i++) {
		const uint32_t place = ws->candidate[i] & 0xffff, from = ws->candidate[i] >> 16;
		const uint32_t d = from == LZ_ZEROS ? 0 : place - from, at = place - LZ_FRONT;
		/* 16 bytes before the position and 48 from it on. */
		const uint8_t *a = ws->page + (place - 16), *b = ws->page + (from - 16);
		const uint64_t differ = ~(lz_equal_32_avx2(a, b) |
			lz_equal_32_avx2(a + 32, b + 32) << 32);
		const int32_t back = (int32_t)(at -
			(uint32_t)_lzcnt_u64(differ << 48 | 1ull << 47));
		uint64_t end = at + (uint32_t)_tzcnt_u64(differ >> 16 | 1ull << 48), more = n + 1,
			 start, m;

		if (TZ_UNLIKELY(!(differ >> 16)))
			end += d ? lz_equal_avx2(ws->page + LZ_FRONT, (uint32_t)end,
					   (uint32_t)end - d)
				 : lz_zeros_avx2(ws->page + LZ_FRONT, (uint32_t)end);
		end = end < TZ_PAGE_SIZE ? end : TZ_PAGE_SIZE;
		/* Neither back beyond the page's start at that distance, nor into the previous
		 * match. */
		start = (uint32_t)(back < (int32_t)d ? (int32_t)d : back);
		start = start < reached ? reached : start;
		m = start | end << 16 | (uint64_t)d << 32;
		memcpy(&ws->match[n], &m, sizeof(m));
		__asm__("cmp %3, %2\n\tcmovbe %4, %0\n\tcmovbe %5, %1" : "+&r"(reached), "+&r"(n)
			: "r"(start + LZ_MIN_MATCH), "r"(end), "r"(end), "r"(more) : "cc");
	}
	return (uint32_t)n;
}
#define LZ_MATCHES lz_matches_avx2

#undef FN
