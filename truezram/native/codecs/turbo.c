/* turbo.c - the codec `turbo`: block reference with 64-byte blocks (bref.h), the fastest one. */
#define BREF_BLOCK 64

#include "bref/bref.h"
#include "bref/bref_scalar.h"
#include "bref/bref_tables.h"
#include "variants.h"

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "bref/bref_avx512.h"
#include "bref/bref_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "bref/bref_avx2.h"
#include "bref/bref_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
#include "bref/bref_neon.h"
#include "bref/bref_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
#include "bref/bref_portable.h"
#include "bref/bref_template.h"

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return (sizeof(struct bref_workspace) + 63) & ~(size_t)63;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	if (size < workspace_size(level, why)) {
		*why = "turbo: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(workspace, 0, sizeof(struct bref_workspace));
	return 0;
}

#define FUNCTIONS(isa, suffix) \
	static TZ_TARGET_##isa size_t compress_##suffix(void *workspace, const uint8_t *page, \
		uint8_t *dst) \
	{ \
		return bref_compress_##suffix(workspace, page, dst); \
	} \
	static int decompress_##suffix(void *workspace, const uint8_t *src, size_t n, \
		uint8_t *out) \
	{ \
		(void)workspace; \
		return bref_decompress_##suffix(src, n, out); \
	}
#define VARIANT(isa, suffix) \
	{ "turbo", "fastest", TZ_KIND_TURBO, TZ_ISA_##isa, 0, 0, 0, workspace_size, \
		workspace_init, compress_##suffix, decompress_##suffix },

TZ_EACH_ISA(FUNCTIONS)

const struct tz_codec tz_turbo_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ 0 },
};
