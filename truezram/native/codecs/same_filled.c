/* same_filled.c - detects pages that are one 8-byte word repeated, and fills pages with a word.
 *
 * Every page that is written comes through here first, so a page that is not same-filled must cost
 * almost nothing: four words far apart are compared before anything is scanned. (Few pages pass
 * that and still fail.) The scan ORs the differences together and checks the result four times per
 * page.
 */
#include "cpu.h"

#define SCAN_STEP 1024	/* bytes between two checks */

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#define VEC __m512i
#define VEC_SET1(w) _mm512_set1_epi64((long long)(w))
#define VEC_LOAD(p) _mm512_loadu_si512((const void *)(p))
#define VEC_STORE(p, v) _mm512_storeu_si512((void *)(p), v)
#define VEC_OR_XOR(acc, a, b) _mm512_ternarylogic_epi64(acc, a, b, 0xf6)
#define VEC_ANY(v) (_mm512_test_epi64_mask(v, v) != 0)
#include "same_filled_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#define VEC __m256i
#define VEC_SET1(w) _mm256_set1_epi64x((long long)(w))
#define VEC_LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define VEC_STORE(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define VEC_OR_XOR(acc, a, b) _mm256_or_si256(acc, _mm256_xor_si256(a, b))
#define VEC_ANY(v) (!_mm256_testz_si256(v, v))
#include "same_filled_template.h"
#endif

#if defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
#define VEC uint64x2_t
#define VEC_SET1(w) vdupq_n_u64(w)
#define VEC_LOAD(p) vreinterpretq_u64_u8(vld1q_u8(p))
#define VEC_STORE(p, v) vst1q_u8(p, vreinterpretq_u8_u64(v))
#define VEC_OR_XOR(acc, a, b) vorrq_u64(acc, veorq_u64(a, b))
#define VEC_ANY(v) (vmaxvq_u32(vreinterpretq_u32_u64(v)) != 0)
#include "same_filled_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
#define VEC uint64_t
#define VEC_SET1(w) (w)
#define VEC_LOAD(p) tz_load64(p)
#define VEC_STORE(p, v) tz_store64(p, v)
#define VEC_OR_XOR(acc, a, b) ((acc) | ((a) ^ (b)))
#define VEC_ANY(v) ((v) != 0)
#include "same_filled_template.h"

static int (*scan)(const uint8_t *page, uint64_t word) = scan_portable;
static void (*fill)(uint8_t *page, uint64_t word) = fill_portable;

__attribute__((constructor)) static void choose(void)
{
#if defined(TZ_X86)
	if (tz_cpu_runs(TZ_ISA_AVX512)) {
		scan = scan_avx512;
		fill = fill_avx512;
	} else if (tz_cpu_runs(TZ_ISA_AVX2)) {
		scan = scan_avx2;
		fill = fill_avx2;
	}
#elif defined(TZ_ARM64)
	if (tz_cpu_runs(TZ_ISA_NEON)) {
		scan = scan_neon;
		fill = fill_neon;
	}
#endif
}

int tz_same_filled(const uint8_t *page, uint64_t *word)
{
	uint64_t w = tz_load64(page);

	if ((w ^ tz_load64(page + 8)) | (w ^ tz_load64(page + 2048 + 16)) |
		(w ^ tz_load64(page + TZ_PAGE_SIZE - 8)))
		return 0;
	if (!scan(page, w))
		return 0;
	*word = w;
	return 1;
}

void tz_fill(uint8_t *page, uint64_t word)
{
	fill(page, word);
}
