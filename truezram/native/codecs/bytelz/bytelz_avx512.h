/* bytelz_avx512.h - primitives of bytelz_template.h for AVX-512 (VBMI2). bref.h has
 * look_up_16_avx512(), pack12_avx512() and unpack12_avx512(). */

#define FN static inline __attribute__((always_inline)) TZ_TARGET_AVX512

FN uint32_t lz_equal_avx512(const uint8_t *page, uint32_t at, uint32_t from)
{
	for (uint32_t n = 0; ; n += 32) {
		uint32_t differ =
			_mm256_cmpneq_epi8_mask(_mm256_loadu_si256((const __m256i *)(page + at +
							n)),
				_mm256_loadu_si256((const __m256i *)(page + from + n)));

		if (TZ_LIKELY(differ))
			return n + _tzcnt_u32(differ);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN uint32_t lz_zeros_avx512(const uint8_t *page, uint32_t at)
{
	for (uint32_t n = 0; ; n += 32) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(page + at + n));
		uint32_t set = _mm256_test_epi8_mask(v, v);

		if (set)
			return n + _tzcnt_u32(set);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN int lz_any_high_avx512(const uint8_t *p, uint32_t n)
{
	__m512i any = _mm512_setzero_si512();

	for (uint32_t i = 0; i < n; i += 64)
		any = _mm512_or_si512(any, _mm512_loadu_si512(p + i));
	return _mm512_movepi8_mask(any) != 0;
}

/* For 64 bytes, the number of zeros << 16 | the number of other bytes that are rare in text:
 * control characters and above 127. */
FN uint32_t lz_strange_avx512(const uint8_t *p)
{
	const __m512i v = _mm512_loadu_si512(p);
	uint64_t strange = _mm512_cmplt_epi8_mask(v, _mm512_set1_epi8('\t')),
		 zeros = _mm512_testn_epi8_mask(v, v);

	return (uint32_t)(_mm_popcnt_u64(zeros) << 16 | _mm_popcnt_u64(strange ^ zeros));
}

/* 64 bytes to 56: joins two fields of 7 bits, then two of 14, two of 28, then takes 7 of 8
 * bytes. */
FN void lz_pack7_avx512(uint8_t *to, const uint8_t *from, uint32_t n)
{
	const __m512i seven = _mm512_setr_epi64(0x0806050403020100, 0x11100e0d0c0b0a09,
		0x1a19181615141312, 0x232221201e1d1c1b, 0x2c2b2a2928262524, 0x3534333231302e2d,
		0x3e3d3c3b3a393836, 0x0000000000000000);

	for (uint32_t i = 0; i < n; i += 64, to += 56) {
		__m512i v = _mm512_maddubs_epi16(_mm512_set1_epi16((short)0x8001),
			_mm512_loadu_si512(from + i));

		v = _mm512_madd_epi16(v, _mm512_set1_epi32(0x40000001));
		v = _mm512_ternarylogic_epi64(v, _mm512_srli_epi64(v, 4),
			_mm512_set1_epi64(0xfffffff), 0xe4);
		_mm512_storeu_si512(to, _mm512_permutexvar_epi8(seven, v));
	}
}

/* The reverse: seven bytes to each word, split into eight fields. */
FN void lz_read7_avx512(uint8_t *to, const uint8_t *from, uint32_t stored)
{
	const __m512i words = _mm512_setr_epi64(0x0006050403020100, 0x000d0c0b0a090807,
		0x0014131211100f0e, 0x001b1a1918171615, 0x002221201f1e1d1c, 0x0029282726252423,
		0x00302f2e2d2c2b2a, 0x0037363534333231);
	const __m512i fields = _mm512_set1_epi64(0x312a231c150e0700);

	for (uint32_t i = 0; i < stored + 28; i += 56, to += 64) {
		uint32_t left = i < stored ? stored - i : 0;
		__m512i v = _mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, left < 64 ? left : 64),
			from + i);

		v = _mm512_multishift_epi64_epi8(fields, _mm512_permutexvar_epi8(words, v));
		_mm512_storeu_si512(to, _mm512_and_si512(v, _mm512_set1_epi8(0x7f)));
	}
}

/* Inclusive prefix sums of the lanes. */
FN __m512i lz_sums(__m512i v)
{
	const __m512i lane = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19,
		18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);

#pragma GCC unroll 5
	for (int step = 1; step < 32; step *= 2)
		v = _mm512_add_epi16(v, _mm512_maskz_permutexvar_epi16(~0u << step,
			_mm512_sub_epi16(lane, _mm512_set1_epi16((short)step)), v));
	return v;
}

/* 32 tokens per step: first all their places at once, then their copies. */
FN int lz_expand_avx512(const struct lz_sections *s, uint8_t *page)
{
	const __m512i lengths = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)lz_length));
	const __m512i runs = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)lz_runs[0]));
	_Alignas(64) uint16_t distances[TZ_PAGE_SIZE / LZ_MIN_MATCH + 32];
	_Alignas(64) uint16_t to[32], literal[32], match[32];
	_Alignas(64) int16_t from[32];
	uint32_t k = 0, at = 0, literals = 0;
	__mmask32 wrong = 0;

	if (s->n_distances > TZ_PAGE_SIZE / LZ_MIN_MATCH)
		return -1;
	for (uint32_t i = 0; i < s->n_distances; i += 32)
		_mm512_store_si512(distances + i,
			unpack12_avx512(s->distances + i / 2 * 3,
				(3 * (s->n_distances - i) + 1) / 2));
	for (uint32_t i = 0; i < s->n_tokens; i += 32) {
		const uint32_t left = s->n_tokens - i, n = left < 32 ? left : 32;
		const __mmask32 there = _bzhi_u32(~0u, n);
		__m512i token = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, s->tokens + i));
		__m512i code = _mm512_srli_epi16(token, 4),
			run = _mm512_and_si512(token, _mm512_set1_epi16(15));
		__m512i length = _mm512_maskz_shuffle_epi8(0x5555555555555555, lengths, code),
			start, run_end, end, d;
		const __mmask32 named = _mm512_test_epi16_mask(code, code);

		run = _mm512_mask_shuffle_epi8(run, _pdep_u64(there & ~named, 0x5555555555555555),
			runs, run);
		if (TZ_UNLIKELY(k + (uint32_t)_mm_popcnt_u32(named) > s->n_distances))
			return -1;
		d = _mm512_maskz_expand_epi16(named, _mm512_loadu_si512(distances + k));
		k += (uint32_t)_mm_popcnt_u32(named);
		run_end = lz_sums(run);
		end = _mm512_add_epi16(_mm512_add_epi16(run_end, lz_sums(length)),
			_mm512_set1_epi16((short)at));
		run_end = _mm512_add_epi16(run_end, _mm512_set1_epi16((short)literals));
		start = _mm512_sub_epi16(end, length);
		_mm512_store_si512(literal, _mm512_sub_epi16(run_end, run));
		_mm512_store_si512(to, _mm512_sub_epi16(start, run));
		_mm512_store_si512(match, start);
		wrong |= _mm512_cmpgt_epu16_mask(d, start) |
			_mm512_mask_cmplt_epu16_mask(_mm512_test_epi16_mask(d, d), d, length);
		/* Zeros; invalid ones get them too, and the object is refused afterwards. */
		_mm512_store_si512(from, _mm512_mask_sub_epi16(_mm512_set1_epi16(-LZ_FRONT),
			_mm512_test_epi16_mask(d, d) & ~wrong, start, d));
		at = (uint16_t)_mm_extract_epi16(_mm512_extracti32x4_epi32(end, 3), 7);
		literals = (uint16_t)_mm_extract_epi16(_mm512_extracti32x4_epi32(run_end, 3), 7);
		if (TZ_UNLIKELY(at > TZ_PAGE_SIZE || literals > s->n_literals))
			return -1;
		for (uint32_t j = 0; j < n; j++) {
			__m256i v = _mm256_loadu_si256((const __m256i *)(s->literals + literal[j]));
			_mm256_storeu_si256((__m256i *)(page + to[j]), v);
			v = _mm256_loadu_si256((const __m256i *)(page + from[j]));
			_mm256_storeu_si256((__m256i *)(page + match[j]), v);
		}
	}
	return wrong || at != TZ_PAGE_SIZE || k != s->n_distances ? -1 : (int)literals;
}

/* The factor, and the bit of its product, that decide which positions are looked up: of about
 * 12,000 pairs tried on the corpus, the one that made its pages smallest without looking up
 * more. */
#define LZ_FACTOR ((int)2500850179u)
#define LZ_TAKEN (1 << 16)

/* Chooses the positions to look up among LZ_STEP from `at` on: about half of them, by the hash of
 * their content, so that a copy is looked up where its source was; and the first of zeros. Returns
 * their number. */
FN uint32_t lz_samples_avx512(struct lz_workspace *ws, uint32_t at, uint32_t *last_zero)
{
	const uint8_t *page = ws->page + LZ_FRONT;
	const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	const __m512i words = _mm512_add_epi32(_mm512_mullo_epi32(lane,
						       _mm512_set1_epi32(0x01010101)),
		_mm512_set1_epi32(0x03020100));
	__m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(ws->base << 12 | at)));
	uint32_t n = 0;

#pragma GCC unroll 2
	for (uint32_t i = at; i < at + LZ_STEP; i += 16) {
		__m512i v = _mm512_permutexvar_epi8(words, _mm512_loadu_si512(page + i)), product;
		uint32_t zero = _mm512_testn_epi32_mask(v, v), take;

		product = _mm512_mullo_epi32(v, _mm512_set1_epi32(LZ_FACTOR));
		take = _mm512_test_epi32_mask(product, _mm512_set1_epi32(LZ_TAKEN)) |
			(zero & ~(zero << 1 | *last_zero));
		*last_zero = zero >> 15;
		v = _mm512_ternarylogic_epi32(product, place, _mm512_set1_epi32(0x3fff), 0xd8);
		place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
		_mm512_storeu_si512(ws->entry + n, _mm512_maskz_compress_epi32((__mmask16)take, v));
		n += (uint32_t)_mm_popcnt_u32(take);
	}
	_mm512_storeu_si512(ws->entry + n, _mm512_setzero_si512());
	return n;
}

/* The first of each run of samples with the same distance. Returns their number. */
FN uint32_t lz_candidates_avx512(struct lz_workspace *ws)
{
	__m512i before = _mm512_setzero_si512();
	uint32_t n = 0, last_zero = 0;

	for (uint32_t at = 0; at < TZ_PAGE_SIZE; at += LZ_STEP) {
		const uint32_t samples = lz_samples_avx512(ws, at, &last_zero);

		for (uint32_t i = 0; i < samples; i += 16) {
			__m512i entry = _mm512_load_si512(ws->entry + i), d;
			const __m512i found = look_up_16_avx512(ws->tagged, LZ_TAGGED_BITS,
				ws->entry + i);
			__mmask16 ok = _mm512_testn_epi32_mask(_mm512_xor_si512(entry, found),
				_mm512_set1_epi32((int)0xfffff000));
			/* Or an entry with the same tag; the comparison will show. */
			const __mmask16 zero = _mm512_testn_epi32_mask(entry,
				_mm512_set1_epi32(~0x3fff));

			d = _mm512_maskz_sub_epi32(ok, entry, found);
			d = _mm512_mask_mov_epi32(d, zero, _mm512_set1_epi32(TZ_PAGE_SIZE));
			ok = (__mmask16)_bzhi_u32(0xffff, samples - i < 16 ? samples - i : 16);
			ok = _mm512_mask_test_epi32_mask(ok, d, d);
			ok = _mm512_mask_cmpneq_epi32_mask(ok, d,
				_mm512_alignr_epi32(d, before, 15));
			before = d;
			entry = _mm512_and_si512(entry, _mm512_set1_epi32(0xfff));
			entry = _mm512_add_epi32(entry, _mm512_set1_epi32(LZ_FRONT));
			d = _mm512_mask_mov_epi32(_mm512_sub_epi32(entry, d), zero,
				_mm512_set1_epi32(LZ_ZEROS));
			d = _mm512_or_si512(entry, _mm512_slli_epi32(d, 16));
			_mm512_storeu_si512(ws->candidate + n, _mm512_maskz_compress_epi32(ok, d));
			n += (uint32_t)_mm_popcnt_u32(ok);
		}
	}
	return n;
}

#define LZ_FURTHER (1u << 31)		/* the match continues past its end */
#define LZ_BEHIND 4			/* bytes compared before the position */
#define LZ_AHEAD (32 - LZ_BEHIND)	/* and from the position on */

/* Start | end << 16 of 16 candidates' matches within the compared bytes, and whether they may be
 * longer; 0 for those that are too short. *distance holds their distances. */
FN __m512i lz_reach_avx512(__m512i differ, __m512i candidate, __m512i *distance)
{
	__m512i at = _mm512_and_si512(candidate, _mm512_set1_epi32(0xffff)),
		from = _mm512_srli_epi32(candidate, 16), start, end;
	__mmask16 further, few;

	*distance = _mm512_maskz_sub_epi32(_mm512_cmpneq_epi32_mask(from,
						   _mm512_set1_epi32(LZ_ZEROS)),
		at, from);
	at = _mm512_sub_epi32(at, _mm512_set1_epi32(LZ_FRONT));
	/* Not back beyond the page's start at that distance. */
	start = _mm512_lzcnt_epi32(_mm512_or_si512(_mm512_slli_epi32(differ, 32 - LZ_BEHIND),
		_mm512_set1_epi32(1 << (31 - LZ_BEHIND))));
	start = _mm512_max_epi32(_mm512_sub_epi32(at, start), *distance);
	/* The number of zero bits below the lowest set bit. */
	end = _mm512_or_si512(_mm512_srli_epi32(differ, LZ_BEHIND),
		_mm512_set1_epi32(1 << LZ_AHEAD));
	end = _mm512_popcnt_epi32(_mm512_andnot_si512(end,
		_mm512_sub_epi32(end, _mm512_set1_epi32(1))));
	further = _mm512_cmpeq_epi32_mask(end, _mm512_set1_epi32(LZ_AHEAD));
	end = _mm512_min_epi32(_mm512_add_epi32(at, end), _mm512_set1_epi32(TZ_PAGE_SIZE));
	few = _mm512_cmplt_epi32_mask(_mm512_sub_epi32(end, start),
		_mm512_set1_epi32(LZ_MIN_MATCH));
	end = _mm512_mask_or_epi32(end, further, end, _mm512_set1_epi32(LZ_FURTHER >> 16));
	return _mm512_maskz_or_epi32((__mmask16)~few, start, _mm512_slli_epi32(end, 16));
}

/* Which of 16 matches are useless because of another one: one that begins at most two bytes after
 * its start (less than a token and a distance take) and ends after its end. */
FN __mmask16 lz_useless_avx512(__m512i reach, __m512i other)
{
	const __m512i starts = _mm512_set1_epi32(0xffff);
	__m512i latest = _mm512_add_epi32(_mm512_and_si512(reach, starts), _mm512_set1_epi32(2));
	__mmask16 early = _mm512_cmple_epi32_mask(_mm512_and_si512(other, starts), latest);

	return _mm512_mask_cmpgt_epu32_mask(early,
		_mm512_and_si512(other, _mm512_set1_epi32(0x7fff0000)), reach);
}

/* Where a match at this distance that is known to reach `end` really ends. */
FN uint32_t lz_end_avx512(const uint8_t *page, uint32_t end, uint32_t distance)
{
	end += distance ? lz_equal_avx512(page, end, end - distance) : lz_zeros_avx512(page, end);
	return end < TZ_PAGE_SIZE ? end : TZ_PAGE_SIZE;
}

/* ws->reach[] and ws->distance[] of n candidates' matches, without those that one of the next two
 * makes useless. Returns the number left. */
FN uint32_t lz_compare_avx512(struct lz_workspace *ws, const uint32_t *candidate, uint32_t n)
{
	__m512i reach = _mm512_setzero_si512(), distance = reach;
	const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	uint32_t left = 0, n_longer = 0;

#pragma GCC unroll 4
	for (uint32_t i = 0; i < n; i++)
		ws->differ[i] =
			_mm256_cmpneq_epi8_mask(_mm256_loadu_si256((const __m256i *)(ws->page +
							((uint16_t)candidate[i] - LZ_BEHIND))),
				_mm256_loadu_si256((const __m256i *)(ws->page +
					((candidate[i] >> 16) - LZ_BEHIND))));
	for (uint32_t i = 0; i < n + 16; i += 16) {
		__m512i next_distance, next = lz_reach_avx512(_mm512_load_si512(ws->differ + i),
			_mm512_loadu_si512(candidate + i), &next_distance), kept;
		__mmask16 longer, keep = _mm512_test_epi32_mask(reach, reach);

		next = _mm512_maskz_mov_epi32((__mmask16)_bzhi_u32(0xffff,
						      n < i ? 0
							      : n - i < 16 ? n - i
									   : 16),
			next);
		keep = (__mmask16)(keep &
			~lz_useless_avx512(reach, _mm512_alignr_epi32(next, reach, 1)) &
			~lz_useless_avx512(reach, _mm512_alignr_epi32(next, reach, 2)));
		kept = _mm512_maskz_compress_epi32(keep, reach);
		_mm512_storeu_si512(ws->reach + left, kept);
		_mm512_storeu_si512(ws->distance + left,
			_mm512_maskz_compress_epi32(keep, distance));
		longer = _mm512_movepi32_mask(kept);
		_mm512_storeu_si512(ws->longer + n_longer, _mm512_maskz_compress_epi32(longer,
			_mm512_add_epi32(lane, _mm512_set1_epi32((int)left))));
		n_longer += (uint32_t)_mm_popcnt_u32(longer);
		left += (uint32_t)_mm_popcnt_u32(keep);
		reach = next;
		distance = next_distance;
	}
	for (uint32_t i = 0; i < n_longer; i++) {
		uint32_t *m = &ws->reach[ws->longer[i]], end = *m >> 16 & 0x7fff;

		end = lz_end_avx512(ws->page + LZ_FRONT, end, ws->distance[ws->longer[i]]);
		*m = (*m & 0xffff) | end << 16;
	}
	return left;
}

/* Matches in page order, without a branch for those that overlap or are too short. Returns their
 * number. */
FN uint32_t lz_matches_avx512(struct lz_workspace *ws)
{
	uint64_t reached = 0, n = 0;
	uint32_t candidates;

	if (!(ws->base = (ws->base + 1) & 3)) {
		memset(ws->tagged, 0, sizeof(ws->tagged));
		ws->base = 1;
	}
	candidates = lz_candidates_avx512(ws);
	for (uint32_t first = 0; first < candidates; first += LZ_REACH) {
		const uint32_t here = lz_compare_avx512(ws, ws->candidate + first,
			candidates - first < LZ_REACH ? candidates - first : LZ_REACH);

		for (uint32_t i = 0; i < here; i++) {
			const uint32_t m = ws->reach[i], d = ws->distance[i];
			uint64_t start = (uint16_t)m, end = m >> 16, more = n + 1;

			/* Not into the previous match. */
			start = start < reached ? reached : start;
			start |= end << 16 | (uint64_t)d << 32;
			memcpy(&ws->match[n], &start, sizeof(start));
			/* The rest, if it is long enough: two cycles from one match to the next. */
			__asm__("cmp %0, %2\n\tcmovge %3, %0\n\tcmovge %4, %1"
				: "+&r"(reached), "+&r"(n)
				: "r"(end - LZ_MIN_MATCH), "r"(end), "r"(more)
				: "cc");
		}
	}
	return (uint32_t)n;
}
#undef LZ_FURTHER
#undef LZ_BEHIND
#undef LZ_AHEAD
#define LZ_MATCHES lz_matches_avx512

#undef FN
