/* fast.c - the codec `fast`: block reference with 32-byte blocks (bref.h), or byte-LZ where that is smaller. */
#define BREF_BLOCK 32
#define CANDIDATES 12			/* distances tried per group, beside zero and the last ones used */
#define FROM_FRONT 7			/* of them, those of the first samples; the rest are of the last */
#define SAMPLE_MASK 3			/* a position is sampled when these bits of its hash are 0 */

#define LZ4_WORKSPACE (16384 + 64)	/* lz4.c's; its workspace_init() would refuse less */

#include "bref.h"
#include "bref_scalar.h"
#include "bref_tables.h"
#include "variants.h"

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "bref_avx512.h"
#include "bref_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "bref_avx2.h"
#include "bref_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
#include "bref_neon.h"
#include "bref_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
#include "bref_portable.h"
#include "bref_template.h"

struct fast_workspace {
	struct bref_workspace bref;
	_Alignas(64) uint8_t lz4[LZ4_WORKSPACE];
	uint8_t object[TZ_DST_SIZE];
};

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return sizeof(struct fast_workspace);
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	if (size < workspace_size(level, why)) {
		*why = "fast: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(workspace, 0, sizeof(struct fast_workspace));
	return tz_lz4_variants->workspace_init(((struct fast_workspace *)workspace)->lz4, LZ4_WORKSPACE, level, why);
}

/* The last byte of an object says what it is: the upper bits of the block-reference count, or this. */
#define MODE_LZ 0x80

/* Pages that block reference leaves larger than this are given to the byte-LZ too, and the smaller object is taken. */
#define TRY_LZ 2000

/* The LZ4 codec's variant of this instruction set. */
TZ_INLINE const struct tz_codec *lz4_variant(enum tz_isa isa)
{
	const struct tz_codec *v = tz_lz4_variants;

	while (v->isa != isa)
		v++;
	return v;
}

/* Decides between the object of n bytes (0: none) that dst holds and a byte-LZ one. */
TZ_INLINE size_t try_lz(struct fast_workspace *ws, enum tz_isa isa, const uint8_t *page, uint8_t *dst, size_t n)
{
	size_t lz;

	if (TZ_LIKELY(n && n <= TRY_LZ))
		return n;
	lz = lz4_variant(isa)->compress(ws->lz4, page, ws->object);
	if (!lz || lz + 1 >= (n ? n : TZ_PAGE_SIZE))
		return n;
	memcpy(dst, ws->object, lz);
	dst[lz] = MODE_LZ;
	return lz + 1;
}

#define FUNCTIONS(id, isa) \
	static size_t compress_##isa(void *workspace, const uint8_t *page, uint8_t *dst) \
	{ \
		struct fast_workspace *ws = workspace; \
		return try_lz(ws, id, page, dst, bref_compress_##isa(&ws->bref, page, dst)); \
	} \
	static int decompress_##isa(void *workspace, const uint8_t *src, size_t n, uint8_t *out) \
	{ \
		if (n && src[n - 1] == MODE_LZ) \
			return lz4_variant(id)->decompress(workspace, src, n - 1, out); \
		return bref_decompress_##isa(src, n, out); \
	}
#define VARIANT(isa, suffix) \
	{ "fast", TZ_KIND_FAST, isa, 0, 0, 0, workspace_size, workspace_init, compress_##suffix, decompress_##suffix }

#if defined(TZ_X86)
FUNCTIONS(TZ_ISA_AVX512, avx512)
FUNCTIONS(TZ_ISA_AVX2, avx2)
#elif defined(TZ_ARM64)
FUNCTIONS(TZ_ISA_NEON, neon)
#endif
FUNCTIONS(TZ_ISA_PORTABLE, portable)

const struct tz_codec tz_fast_variants[] = {
#if defined(TZ_X86)
	VARIANT(TZ_ISA_AVX512, avx512),
	VARIANT(TZ_ISA_AVX2, avx2),
#elif defined(TZ_ARM64)
	VARIANT(TZ_ISA_NEON, neon),
#endif
	VARIANT(TZ_ISA_PORTABLE, portable),
	{ 0 },
};
