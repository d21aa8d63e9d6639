/* cpu.c - which instruction sets this CPU has, the OS supports and TRUEZRAM_DISABLE_CPU does not
 * forbid.
 *
 * TRUEZRAM_DISABLE_CPU is a comma list: "avx512", "avx2" (and with it avx512), "crc" (the CRC-32C
 * instruction and what is built on it), "neon". It is read once. It exists so that tests can reach
 * every fallback path on one machine.
 */
#include "cpu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(TZ_X86)
#include <cpuid.h>
#elif defined(TZ_ARM64)
#include <sys/auxv.h>
#endif

static unsigned features;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#if defined(TZ_X86)
static int has(unsigned reg, const unsigned char *bits, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(reg >> bits[i] & 1))
			return 0;
	return 1;
}
#define HAS(reg, ...) \
	has(reg, (const unsigned char[]){ __VA_ARGS__ }, \
		sizeof((const unsigned char[]){ __VA_ARGS__ }))

/* Register state that the OS saves on a context switch (XCR0); 0 if it does not use XSAVE. */
static unsigned os_saved_state(unsigned leaf1_ecx)
{
	unsigned eax, edx;

	if (!HAS(leaf1_ecx, 27))	/* OSXSAVE */
		return 0;
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return eax;
}

static unsigned detect(void)
{
	unsigned a, b, c, d, b7, c7, ext = 0, saved, f = 0;

	if (!__get_cpuid(1, &a, &b, &c, &d))
		return 0;
	saved = os_saved_state(c);
	if (HAS(c, 20, 1))		/* SSE4.2, PCLMULQDQ */
		f |= TZ_CPU_CRC;
	if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
		return f;
	if (__get_cpuid(0x80000001, &a, &b, &d, &a))
		ext = d;
	/* POPCNT AVX; AVX2 BMI1 BMI2; LZCNT; XMM and YMM state */
	if (HAS(c, 23, 28) && HAS(b7, 5, 3, 8) && HAS(ext, 5) && (saved & 0x06) == 0x06)
		f |= TZ_CPU_AVX2;
	/* F DQ CD BW VL; VBMI VBMI2 GFNI VNNI BITALG VPOPCNTDQ; opmask and ZMM state */
	if ((f & TZ_CPU_AVX2) && HAS(b7, 16, 17, 28, 30, 31) && HAS(c7, 1, 6, 8, 11, 12, 14) &&
		(saved & 0xe6) == 0xe6)
		f |= TZ_CPU_AVX512;
	if ((f & TZ_CPU_AVX512) && (f & TZ_CPU_CRC) && HAS(c7, 10))
		f |= TZ_CPU_VPCLMUL;
	return f;
}
#elif defined(TZ_ARM64)
static unsigned detect(void)
{
	unsigned long hwcap = getauxval(AT_HWCAP);
	unsigned f = 0;

	if (hwcap & 1ul << 1)		/* HWCAP_ASIMD */
		f |= TZ_CPU_NEON;
	if ((hwcap & 1ul << 7) && (hwcap & 1ul << 4))	/* HWCAP_CRC32, HWCAP_PMULL */
		f |= TZ_CPU_CRC;
	return f;
}
#else
static unsigned detect(void)
{
	return 0;
}
#endif

static const struct { const char *name; unsigned features; } switches[] = {
	{ "avx512", TZ_CPU_AVX512 | TZ_CPU_VPCLMUL },
	{ "avx2", TZ_CPU_AVX2 | TZ_CPU_AVX512 | TZ_CPU_VPCLMUL },
	{ "crc", TZ_CPU_CRC | TZ_CPU_VPCLMUL },
	{ "neon", TZ_CPU_NEON },
};

static unsigned forbidden(const char *list)
{
	unsigned f = 0;

	while (list && *list) {
		size_t n = strcspn(list, ","), i;
		for (i = 0; i < sizeof(switches) / sizeof(*switches); i++)
			if (strlen(switches[i].name) == n && !memcmp(switches[i].name, list, n))
				break;
		if (i < sizeof(switches) / sizeof(*switches))
			f |= switches[i].features;
		else if (n)
			fprintf(stderr,
				"truezram: TRUEZRAM_DISABLE_CPU: \"%.*s\" is not a name it "
				"knows and is ignored. Use avx512, avx2, crc, neon, separated by "
				"commas.\n",
				(int)n, list);
		list += n + (list[n] == ',');
	}
	return f;
}

static void init(void)
{
	features = detect() & ~forbidden(getenv("TRUEZRAM_DISABLE_CPU"));
}

unsigned tz_cpu_features(void)
{
	pthread_once(&once, init);
	return features;
}

enum tz_isa tz_cpu_isa(void)
{
	unsigned f = tz_cpu_features();

	return f & TZ_CPU_AVX512  ? TZ_ISA_AVX512
		: f & TZ_CPU_AVX2 ? TZ_ISA_AVX2
		: f & TZ_CPU_NEON ? TZ_ISA_NEON
				  : TZ_ISA_PORTABLE;
}

int tz_cpu_runs(enum tz_isa isa)
{
	enum tz_isa best = tz_cpu_isa();

	return isa == TZ_ISA_PORTABLE || isa == best ||
		(isa == TZ_ISA_AVX2 && best == TZ_ISA_AVX512);
}

const char *tz_isa_name(enum tz_isa isa)
{
	switch (isa) {
	case TZ_ISA_PORTABLE: return "portable";
	case TZ_ISA_AVX2: return "avx2";
	case TZ_ISA_AVX512: return "avx512";
	case TZ_ISA_NEON: return "neon";
	}
	return "unknown";
}
