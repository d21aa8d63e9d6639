/* words_avx2.h - AVX2 and BMI2 helpers for both kinds of `fast` pages, block reference and
 * byte-LZ. */
#ifndef TZ_WORDS_AVX2_H
#define TZ_WORDS_AVX2_H

/* For 8 mask bits, the indices of the set ones, one per byte. */
static const uint64_t set_bits_avx2[256] __attribute__((aligned(64))) = ALL(PACK);

static inline __attribute__((always_inline)) TZ_TARGET_AVX2 uint32_t count_avx2(uint64_t v)
{
	return (uint32_t)_mm_popcnt_u64(v);
}

/* Unpacks n numbers of 12 bits, 16 at a time. Reads up to 28 bytes past them and makes up to 15
 * numbers of that. */
static inline __attribute__((always_inline)) TZ_TARGET_AVX2 void unpack12_avx2(uint16_t *to,
	const uint8_t *from, uint32_t n)
{
	const __m256i pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6,
		7, 7, 8, 9, 10, 10, 11));

	for (uint32_t i = 0; i < n; i += 16, from += 24) {
		__m256i v = _mm256_loadu2_m128i((const __m128i *)(from + 12),
			(const __m128i *)from);

		v = _mm256_shuffle_epi8(v, pairs);
		v = _mm256_blend_epi16(_mm256_and_si256(v, _mm256_set1_epi16(0xfff)),
			_mm256_srli_epi16(v, 4), 0xaa);
		_mm256_storeu_si256((__m256i *)(to + i), v);
	}
}

/* The reverse. Writes up to 28 bytes too many. */
static inline __attribute__((always_inline)) TZ_TARGET_AVX2 void pack12_avx2(uint8_t *to,
	const uint16_t *from, uint32_t n)
{
	const __m256i three = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10,
		12, 13, 14, -1, -1, -1, -1));

	for (uint32_t i = 0; i < n; i += 16, to += 24) {
		__m256i v = _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(from + i)),
			_mm256_set1_epi32(4096 << 16 | 1));

		v = _mm256_shuffle_epi8(v, three);
		_mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(v));
		_mm_storeu_si128((__m128i *)(to + 12), _mm256_extracti128_si256(v, 1));
	}
}

#endif
