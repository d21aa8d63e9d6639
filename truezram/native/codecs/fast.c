/* fast.c - the codec `fast`: block reference with 32-byte blocks (bref.h), byte-LZ (bytelz.h) if
 * that is smaller, or LZ4 (lz4.c) for text with repetitions so long that byte-LZ's pieces of 32
 * bytes add up.
 */
#define BREF_BLOCK 32

#include "bref/bref.h"
#include "bref/bref_scalar.h"
#include "bref/bref_tables.h"
#include "bytelz/bytelz.h"
#include "variants.h"

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "bytelz/bytelz_avx512.h"
#include "bytelz/bytelz_template.h"
#include "bref/bref_avx512.h"
#include "bref/bref_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "bytelz/bytelz_avx2.h"
#include "bytelz/bytelz_template.h"
#include "bref/bref_avx2.h"
#include "bref/bref_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
LZ_PLAIN(neon)
#include "bytelz/bytelz_template.h"
#include "bref/bref_neon.h"
#include "bref/bref_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
LZ_PLAIN(portable)
#include "bytelz/bytelz_template.h"
#include "bref/bref_portable.h"
#include "bref/bref_template.h"

struct fast_workspace {
	struct bref_workspace bref;
	struct lz_workspace lz;
	_Alignas(64) uint8_t object[TZ_DST_SIZE];
	_Alignas(64) uint8_t lz4[];
};

/* lz4 for the same instruction set. */
static const struct tz_codec *lz4_for(enum tz_isa isa)
{
	const struct tz_codec *codec = tz_lz4_variants;

	while (codec->isa != isa)
		codec++;
	return codec;
}

static size_t workspace_size(int level, const char **why)
{
	return sizeof(struct fast_workspace) + tz_lz4_variants->workspace_size(level, why);
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	struct fast_workspace *ws = workspace;

	if (size < workspace_size(level, why)) {
		*why = "fast: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(ws, 0, sizeof(*ws));
	return tz_lz4_variants->workspace_init(ws->lz4, size - sizeof(*ws), level, why);
}

/* Text that byte-LZ leaves at this size or more is stored as byte-LZ at once. Smaller objects come
 * from repetitive text, which block reference or LZ4 may do better; below ZEROS not even LZ4 is
 * tried, as there is little left to save. */
#define PLAIN_TEXT 1400
#define ZEROS 400

/* Bytes that references and masks add to the differing bytes, at least on pages where byte-LZ may
 * win. */
#define BREF_OTHERS 400

/* Bytes that byte-LZ must save, because its objects take three times as long to read. Twice this
 * would make reading 3 % faster and the ratio 1 % lower. For text, which is small either way, it is
 * a share of block reference's size. */
#define LZ_SAVES 384
#define TEXT_SAVES(n) ((n) / 8)

/* Bytes that LZ4 must save over the better of the two, because it takes longer to read. */
#define LZ4_SAVES(n) ((n) / 64)

/* Replaces the n bytes in dst with LZ4's object of the page if that is smaller. Returns the
 * length. */
static TZ_NOINLINE size_t or_lz4(struct fast_workspace *ws, const struct tz_codec *codec,
	const uint8_t *page, uint8_t *dst, size_t n)
{
	size_t lz4 = codec->compress(ws->lz4, page, ws->object);

	if (!lz4 || lz4 + 1 + LZ4_SAVES(n) > n)
		return n;
	memcpy(dst, ws->object, lz4);
	dst[lz4] = MODE_LZ4;
	return lz4 + 1;
}

/* Byte-LZ is tried before the last steps of block reference, which are skipped if they cannot win
 * any more. */
#define FUNCTIONS(isa, suffix) \
	static TZ_TARGET_##isa TZ_NOINLINE size_t \
	compress_text_##suffix(struct fast_workspace *ws, const uint8_t *page, uint8_t *dst) \
	{ \
		size_t lz = lz_compress_##suffix(&ws->lz, page, dst, TZ_PAGE_SIZE), n; \
		if (lz >= PLAIN_TEXT) \
			return lz; \
		bref_search_##suffix(&ws->bref, page); \
		n = finish_page_##suffix(&ws->bref, page, ws->object); \
		if (n && (!lz || lz + TEXT_SAVES(n) > n)) { \
			memcpy(dst, ws->object, n); \
			lz = n; \
		} \
		return lz < ZEROS ? lz : or_lz4(ws, lz4_for(TZ_ISA_##isa), page, dst, lz); \
	} \
	static TZ_TARGET_##isa size_t compress_##suffix(void *workspace, const uint8_t *page, \
		uint8_t *dst) \
	{ \
		struct fast_workspace *ws = workspace; \
		const struct lz_look look = lz_look_##suffix(page); \
		size_t n = BREF_OTHERS, lz; \
		if (TZ_UNLIKELY(look.is_text)) \
			return compress_text_##suffix(ws, page, dst); \
		bref_search_##suffix(&ws->bref, page); \
		for (uint32_t g = 0; g < GROUPS; g++) \
			n += count_##suffix(ws->bref.best_mask[g]); \
		if (TZ_LIKELY(!lz_may_win_##suffix(look, n))) { \
			n = finish_page_##suffix(&ws->bref, page, dst); \
			if (TZ_LIKELY(!lz_may_win_##suffix(look, n))) \
				return n; \
			lz = lz_compress_##suffix(&ws->lz, page, ws->object, \
				n ? n - LZ_SAVES : TZ_PAGE_SIZE); \
			if (lz) \
				memcpy(dst, ws->object, lz); \
			return lz ? lz : n; \
		} \
		lz = lz_compress_##suffix(&ws->lz, page, dst, TZ_PAGE_SIZE); \
		if (lz && lz + LZ_SAVES <= n) \
			return lz; \
		n = finish_page_##suffix(&ws->bref, page, ws->object); \
		if (!n || (lz && lz + LZ_SAVES <= n)) \
			return lz; \
		memcpy(dst, ws->object, n); \
		return n; \
	} \
	static int decompress_##suffix(void *workspace, const uint8_t *src, size_t n, \
		uint8_t *out) \
	{ \
		(void)workspace; \
		if (n && src[n - 1] == MODE_LZ4) \
			return lz4_for(TZ_ISA_##isa)->decompress(NULL, src, n - 1, out); \
		if (n && src[n - 1] >= MODE_LZ) \
			return lz_decompress_##suffix(src, n, out); \
		return bref_decompress_##suffix(src, n, out); \
	}
#define VARIANT(isa, suffix) \
	{ "fast", "fast and smaller than lz4", TZ_KIND_FAST, TZ_ISA_##isa, 0, 0, 0, \
		workspace_size, workspace_init, compress_##suffix, decompress_##suffix },

TZ_EACH_ISA(FUNCTIONS)

const struct tz_codec tz_fast_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ 0 },
};
