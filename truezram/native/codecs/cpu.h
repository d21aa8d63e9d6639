/* cpu.h - compiles the codecs' bodies once per instruction set and chooses one at run time.
 *
 * How a SIMD body is written (following libdeflate): the algorithm is in NAME_template.h, written
 * with TZ_FN(function) for its function names and TZ_TARGET before each of them; NAME.c includes it
 * once per set:
 *
 *	#define TZ_SUFFIX avx512
 *	#define TZ_TARGET TZ_TARGET_AVX512
 *	#include "NAME_template.h"		(ends with #undef TZ_SUFFIX, TZ_TARGET)
 *
 * and lists the results, best first, in tz_NAME_variants[] (variants.h). The rest of the file, and
 * every helper that the body calls, must be TZ_INLINE: the compiler can inline a function into one
 * compiled for a larger instruction set, but not the reverse.
 */
#ifndef TZ_CPU_H
#define TZ_CPU_H

#include "codec.h"

#include <string.h>

#if defined(__x86_64__)
#define TZ_X86 1
#include <immintrin.h>
#define TZ_TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))
#define TZ_TARGET_AVX512 \
	__attribute__((target( \
		"avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq," \
		"avx512cd,avx512vbmi,avx512vbmi2,avx512vnni,avx512bitalg,avx512vpopcntdq,gfni")))
#elif defined(__aarch64__)
#define TZ_ARM64 1
#include <arm_neon.h>
#define TZ_TARGET_NEON	/* part of the base instruction set of aarch64 */
#endif
#define TZ_TARGET_PORTABLE

/* X(ISA, suffix) for each instruction set that a codec is compiled for, best first: TZ_ISA_ISA,
 * TZ_TARGET_ISA, name_suffix. */
#if defined(TZ_X86)
#define TZ_EACH_ISA(X) X(AVX512, avx512) X(AVX2, avx2) X(PORTABLE, portable)
#elif defined(TZ_ARM64)
#define TZ_EACH_ISA(X) X(NEON, neon) X(PORTABLE, portable)
#else
#define TZ_EACH_ISA(X) X(PORTABLE, portable)
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "truezram stores its objects little-endian and runs on little-endian machines only"
#endif

#define TZ_CONCAT_(a, b) a##_##b
#define TZ_CONCAT(a, b) TZ_CONCAT_(a, b)
#define TZ_FN(name) TZ_CONCAT(name, TZ_SUFFIX)

#define TZ_INLINE static inline __attribute__((always_inline))
#define TZ_NOINLINE __attribute__((noinline))
#define TZ_LIKELY(x) __builtin_expect(!!(x), 1)
#define TZ_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Features, each bit set only when CPU, OS and TRUEZRAM_DISABLE_CPU all agree. */
enum tz_cpu_feature {
	/* CRC-32C and carry-less multiplication: SSE4.2 + PCLMULQDQ, or ARMv8 CRC + PMULL */
	TZ_CPU_CRC = 1,
	TZ_CPU_AVX2 = 2,	/* AVX2, BMI1, BMI2, LZCNT, POPCNT */
	TZ_CPU_AVX512 = 4,	/* F BW VL DQ CD VBMI VBMI2 VNNI BITALG VPOPCNTDQ, GFNI */
	TZ_CPU_VPCLMUL = 8,	/* VPCLMULQDQ, in addition to the AVX-512 set */
	TZ_CPU_NEON = 16
};
unsigned tz_cpu_features(void);
/* Whether code for this set may run: tz_cpu_isa() itself, or a set that it includes. */
int tz_cpu_runs(enum tz_isa isa);

TZ_INLINE uint16_t tz_load16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

TZ_INLINE uint32_t tz_load32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

TZ_INLINE uint64_t tz_load64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

TZ_INLINE void tz_store16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

TZ_INLINE void tz_store32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

TZ_INLINE void tz_store64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

#endif
