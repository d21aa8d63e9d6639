/* bref_avx2.h - primitives of bref_template.h with AVX2 and BMI2. */

#define FN static inline __attribute__((always_inline)) TZ_TARGET_AVX2

FN uint32_t count_avx2(uint64_t v)
{
	return (uint32_t)_mm_popcnt_u64(v);
}

FN uint32_t gather_high_avx2(uint64_t t)
{
	return (uint32_t)_pext_u64(t, HIGH1);
}

FN uint64_t pack_bytes_avx2(uint64_t v, uint64_t t)
{
	return _pext_u64(v, (t << 1) - (t >> 7));
}

FN uint64_t spread_bytes_avx2(uint64_t v, uint32_t w)
{
	return _pdep_u64(v, _pdep_u64(w, ONES) * 255);
}

FN uint64_t differ_avx2(const uint8_t *a, const uint8_t *b)
{
	__m256i low = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a), _mm256_loadu_si256((const __m256i *)b));
	__m256i high = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(a + 32)),
		_mm256_loadu_si256((const __m256i *)(b + 32)));

	return ~((uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32 | (uint32_t)_mm256_movemask_epi8(low));
}

FN void pack_literals_avx2(uint8_t *to, const uint8_t *q, uint64_t mask)
{
#pragma GCC unroll 8
	for (unsigned i = 0; i < 64; i += 8, mask >>= 8) {
		tz_store64(to, _pext_u64(tz_load64(q + i), _pdep_u64(mask, ONES) * 255));
		to += _mm_popcnt_u32((uint8_t)mask);
	}
}

/* 16 bytes at a time: the shuffles of two words side by side, the second's shifted by what the first one takes. */
FN void unpack_block_avx2(uint8_t *to, const uint8_t *from, const uint8_t *literals, uint64_t mask)
{
	static const uint8_t shift[9][8] = { { 0 }, { 1, 1, 1, 1, 1, 1, 1, 1 }, { 2, 2, 2, 2, 2, 2, 2, 2 },
		{ 3, 3, 3, 3, 3, 3, 3, 3 }, { 4, 4, 4, 4, 4, 4, 4, 4 }, { 5, 5, 5, 5, 5, 5, 5, 5 }, { 6, 6, 6, 6, 6, 6, 6, 6 },
		{ 7, 7, 7, 7, 7, 7, 7, 7 }, { 8, 8, 8, 8, 8, 8, 8, 8 } };
	__m128i done[BREF_BLOCK / 16];

#pragma GCC unroll 4
	for (unsigned i = 0; i < BREF_BLOCK / 16; i++, mask >>= 16) {
		uint64_t high = expand_shuffle[(mask >> 8) & 0xff] + tz_load64(shift[_mm_popcnt_u32((uint8_t)mask)]);
		__m128i how = _mm_set_epi64x((long long)high, (long long)expand_shuffle[mask & 0xff]);
		__m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)literals), how);

		done[i] = _mm_blendv_epi8(bytes, _mm_loadu_si128((const __m128i *)(from + 16 * i)), how);
		literals += _mm_popcnt_u32((uint16_t)mask);
	}
#pragma GCC unroll 4
	for (unsigned i = 0; i < BREF_BLOCK / 16; i++)
		_mm_storeu_si128((__m128i *)(to + 16 * i), done[i]);
}

FN uint32_t count_bytes_avx2(const uint8_t *p, uint32_t n)
{
	uint32_t sum = 0, i = 0;

	for (; i + 8 <= n; i += 8)
		sum += count_avx2(tz_load64(p + i));
	/* What follows in the object makes a whole word readable. */
	return n % 8 ? sum + count_avx2(_bzhi_u64(tz_load64(p + i), n % 8 * 8)) : sum;
}

FN void unpack_refs_avx2(uint16_t *to, const uint8_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 4, from += 6)
		tz_store64(to + i, _pdep_u64(tz_load64(from), 0x0fff0fff0fff0fffull));
}

SCALAR_SEARCH(avx2)

#undef FN
