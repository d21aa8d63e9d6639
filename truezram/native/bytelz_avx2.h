/* bytelz_avx2.h - byte-LZ's primitives (bytelz.h) for AVX2 and BMI2. */

#define FN static inline __attribute__((always_inline)) TZ_TARGET

FN uint32_t lz_equal_avx2(const uint8_t *page, uint32_t at, uint32_t from)
{
	for (uint32_t n = 0; ; n += 32) {
		uint32_t equal = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(
			_mm256_loadu_si256((const __m256i *)(page + at + n)), _mm256_loadu_si256((const __m256i *)(page + from + n))));

		if (TZ_LIKELY(~equal))
			return n + _tzcnt_u32(~equal);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN uint32_t lz_zeros_avx2(const uint8_t *page, uint32_t at)
{
	for (uint32_t n = 0; ; n += 32) {
		uint32_t zero = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(
			_mm256_loadu_si256((const __m256i *)(page + at + n)), _mm256_setzero_si256()));

		if (~zero)
			return n + _tzcnt_u32(~zero);
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

FN uint32_t lz_equal_behind_avx2(const uint8_t *a, const uint8_t *b)
{
	uint32_t equal = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(a - 16)),
		_mm_loadu_si128((const __m128i *)(b - 16))));

	return _lzcnt_u32(~(equal << 16));
}

FN uint32_t lz_strange_avx2(const uint8_t *p)
{
	uint32_t zeros = 0, strange = 0;

	for (uint32_t i = 0; i < 64; i += 32) {
		__m256i v = _mm256_loadu_si256((const __m256i *)(p + i));
		uint32_t zero = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256()));
		uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi8(_mm256_set1_epi8('\t'), v));

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

LZ_PLAIN_STREAMS(avx2)

#undef FN
