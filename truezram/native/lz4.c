/* lz4.c - the LZ4 block format, for one page at a time: our own encoder and decoder, compatible with every other.
 *
 * The format, in short: sequences of (token, literals, 2-byte offset, match); the token holds the number of literals and
 * the match's length less 4 in 4 bits each, 15 meaning that bytes follow which add up to the rest. The block ends with
 * literals alone: at least 5 of them, and no match starts within the last 12 bytes.
 *
 * What a page of known size makes possible: 16-bit positions, a hash table that is cleared once in 16 pages (an entry
 * carries the number of the page that made it), and a decoder that knows when its output is complete.
 */
#include "cpu.h"
#include "variants.h"

#define HASH_BITS 13
#define END_LITERALS 5		/* the block's last bytes are literals */
#define MATCH_LIMIT 12		/* no match starts after TZ_PAGE_SIZE - MATCH_LIMIT */
#define MIN_MATCH 4
#define OUT_SLACK 64		/* wide stores of the encoder end within this of where they should */

_Static_assert(TZ_PAGE_SIZE + TZ_PAGE_SIZE / 255 + 16 + OUT_SLACK <= TZ_DST_SIZE, "room for the longest LZ4 block");

/* An entry is base + position. Those of earlier pages are below base, so their distance from the present position is larger
 * than that position is: one comparison sorts them out, and whatever else the memory may hold. */
struct lz4_workspace {
	uint16_t table[1 << HASH_BITS];
	uint16_t base;
};

TZ_INLINE unsigned hash4(uint32_t v)
{
	return v * 2654435761u >> (32 - HASH_BITS);
}

/* Distance back to the last position with this hash, and note of this position: > at when there is none. */
TZ_INLINE unsigned look_up(struct lz4_workspace *ws, unsigned base, unsigned hash, unsigned at)
{
	unsigned distance = (uint16_t)(base + at - ws->table[hash]);

	ws->table[hash] = (uint16_t)(base + at);
	return distance;
}

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "lz4_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "lz4_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
#include "lz4_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
#include "lz4_template.h"

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return (sizeof(struct lz4_workspace) + 63) & ~(size_t)63;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	if (size < workspace_size(level, why)) {
		*why = "lz4: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(workspace, 0, sizeof(struct lz4_workspace));
	return 0;
}

#define VARIANT(isa, suffix) \
	{ "lz4", TZ_KIND_LZ4, isa, 0, 0, 0, workspace_size, workspace_init, compress_##suffix, decompress_##suffix }

const struct tz_codec tz_lz4_variants[] = {
#if defined(TZ_X86)
	VARIANT(TZ_ISA_AVX512, avx512),
	VARIANT(TZ_ISA_AVX2, avx2),
#elif defined(TZ_ARM64)
	VARIANT(TZ_ISA_NEON, neon),
#endif
	VARIANT(TZ_ISA_PORTABLE, portable),
	{ 0 },
};
