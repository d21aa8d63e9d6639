/* fast.c - the codec `fast`: block reference with 32-byte blocks (bref.h), or byte-LZ where that is smaller. */
#define BREF_BLOCK 32

#include "bref.h"
#include "bref_scalar.h"
#include "bref_tables.h"
#include "bytelz.h"
#include "variants.h"

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "bytelz_avx512.h"
#include "bytelz_template.h"
#include "bref_avx512.h"
#include "bref_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "bytelz_avx2.h"
#include "bytelz_template.h"
#include "bref_avx2.h"
#include "bref_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
LZ_PLAIN(neon)
#include "bytelz_template.h"
#include "bref_neon.h"
#include "bref_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
LZ_PLAIN(portable)
#include "bytelz_template.h"
#include "bref_portable.h"
#include "bref_template.h"

struct fast_workspace {
	struct bref_workspace bref;
	struct lz_workspace lz;
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
	return 0;
}

/* Text goes to the byte-LZ at once. What becomes smaller than this repeats itself in a way that block reference may
 * be good at. */
#define PLAIN_TEXT 1400

/* What references and masks add to the bytes that differ, at least where byte-LZ may win. */
#define BREF_OTHERS 400

/* What byte-LZ must save: its objects take three times as long to read. Twice as much would make reading 3 % faster and
 * the ratio 1 % less. */
#define LZ_SAVES 384

/* Byte-LZ comes first, in place of the last steps of block reference, where those cannot make it smaller any more. */
#define FUNCTIONS(isa, suffix) \
	static TZ_TARGET_##isa size_t compress_##suffix(void *workspace, const uint8_t *page, uint8_t *dst) \
	{ \
		struct fast_workspace *ws = workspace; \
		const struct lz_look look = lz_look_##suffix(page); \
		size_t n = BREF_OTHERS, lz; \
		if (TZ_LIKELY(!look.is_text)) { \
			bref_search_##suffix(&ws->bref, page); \
			for (uint32_t g = 0; g < GROUPS; g++) \
				n += count_##suffix(ws->bref.best_mask[g]); \
			if (TZ_LIKELY(!lz_may_win_##suffix(look, n))) { \
				n = finish_page_##suffix(&ws->bref, page, dst); \
				if (TZ_LIKELY(!lz_may_win_##suffix(look, n))) \
					return n; \
				lz = lz_compress_##suffix(&ws->lz, page, ws->object, n ? n - LZ_SAVES : TZ_PAGE_SIZE); \
				if (lz) \
					memcpy(dst, ws->object, lz); \
				return lz ? lz : n; \
			} \
		} \
		lz = lz_compress_##suffix(&ws->lz, page, dst, TZ_PAGE_SIZE); \
		if (look.is_text ? lz >= PLAIN_TEXT : lz && lz + LZ_SAVES <= n) \
			return lz; \
		if (look.is_text) \
			bref_search_##suffix(&ws->bref, page); \
		n = finish_page_##suffix(&ws->bref, page, ws->object); \
		if (!n || (lz && lz + LZ_SAVES <= n)) \
			return lz; \
		memcpy(dst, ws->object, n); \
		return n; \
	} \
	static int decompress_##suffix(void *workspace, const uint8_t *src, size_t n, uint8_t *out) \
	{ \
		(void)workspace; \
		if (n && src[n - 1] >= MODE_LZ) \
			return lz_decompress_##suffix(src, n, out); \
		return bref_decompress_##suffix(src, n, out); \
	}
#define VARIANT(isa, suffix) \
	{ "fast", TZ_KIND_FAST, TZ_ISA_##isa, 0, 0, 0, workspace_size, workspace_init, compress_##suffix, \
		decompress_##suffix },

TZ_EACH_ISA(FUNCTIONS)

const struct tz_codec tz_fast_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ 0 },
};
