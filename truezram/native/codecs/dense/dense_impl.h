/* dense_impl.h - what the parts of the dense codec share: the layout of an object, the tables, the
 * workspace.
 *
 * The codec (format: docs/format-dense.md) writes a page as 256 blocks of 16 bytes. A block names a
 * reference: an earlier place in the page, or "zeros". A byte mask per 8-byte word says which bytes
 * differ from the reference, and the differing bytes (or their differences from the reference's
 * bytes, one choice for the page) are the literals. An object consists of:
 *   R  a bit per block: the reference is not the previous block's
 *   K  for every block flagged in R four bits, how its reference is coded, and bits of new
 *      distances
 *   W  64 bytes, a bit per 8-byte word: the word differs from its reference
 *   M  for every word flagged in W, the mask of its differing bytes
 *   L  the literals
 * W, M and L are written in static prefix codes into eight interleaved bit streams. R and K would
 * shrink by a third, but plain bits are faster to read. dense_template.h is the body, compiled once
 * per instruction set by dense.c over the primitives in dense_ops_*.h.
 */
#ifndef TZ_DENSE_IMPL_H
#define TZ_DENSE_IMPL_H

#include "codec.h"

enum dn_class { DN_W, DN_M, DN_L, DN_CLASSES };

/* The number of tables per class, and the index of a class's first one. */
#define DN_TABLES_EACH 32
#define DN_TABLES (DN_CLASSES * DN_TABLES_EACH)

#define DN_MAX_BITS 10
#define DN_BLOCK 16
#define DN_BLOCKS (TZ_PAGE_SIZE / DN_BLOCK)
#define DN_GROUPS (TZ_PAGE_SIZE / 64)
#define DN_WORDS (TZ_PAGE_SIZE / 8)
#define DN_STREAMS 8
#define DN_FLAGS (DN_BLOCKS / 8) /* bytes of R */
#define DN_CHUNK 40 /* symbols between refills of the bit streams: five per stream */
#define DN_HEAD 8   /* fixed part of the header; `width` more bytes follow */

/* Kinds of reference. 0..3: a new distance, with this many bits, shifted left by this much; 4..14:
 * the (kind - 3)-th most recent new distance; 15: zeros. */
#define DN_RECENT 11
#define DN_KIND_RECENT 4
#define DN_KIND_ZERO 15
#define DN_NO_REF 0xffff

extern const uint8_t tz_dense_kind_bits[16];
extern const uint8_t tz_dense_kind_shift[16];
extern const uint8_t tz_dense_kind_back[16];
/* the "recent" distances at the start, oldest first */
extern const uint16_t tz_dense_recent[DN_RECENT];

/* The codes in the form that encoder and decoder need, made once from the lengths in
 * dense_tables.h. */
struct dn_tables {
	/* by symbol, a class's tables side by side */
	uint16_t len[DN_CLASSES][256][DN_TABLES_EACH];
	uint32_t newest[512];  /* initial newest[] of struct dn_encoder for a page */
	uint8_t place[256][8]; /* mask -> for each byte, the index of its literal, or 0xff */
	/* bits, first bit lowest | length << 12 */
	uint16_t code[DN_TABLES][256];
	/* symbol << 8 | length; the last one is empty, length 0 */
	uint16_t dec[DN_TABLES + 1][1 << DN_MAX_BITS];
};
extern struct dn_tables tz_dense_tables;

/* Encoder's copy of the page: zeros before it stand for "zeros" (offset 0) and for distances that
 * reach before it. */
#define DN_LEAD 512
#define DN_HASH_BITS 11
/* references offered to a group because earlier blocks used them: its first slots */
#define DN_OLD 8
#define DN_CANDIDATES 32 /* references found by content: the slots after those */
#define DN_SLOTS (DN_OLD + DN_CANDIDATES)
/* groups compared before they are priced: few enough for the first-level cache */
#define DN_PART 8
#define DN_NO_KEY (0xff00 | DN_OLD) /* more expensive than any */

/* Different for all multiples of eight. */
#define DN_NEWEST(dist) ((dist) >> 3 ^ ((dist) & 7) << 6)
#define DN_ALIGNED __attribute__((aligned(64)))

struct dn_encoder {
	uint8_t page[DN_LEAD + TZ_PAGE_SIZE + 128] DN_ALIGNED;
	uint8_t ref[TZ_PAGE_SIZE] DN_ALIGNED;		/* the reference bytes of every block */
	uint16_t table[1 << DN_HASH_BITS];
	/* of the sampled positions; later the old entries of the table */
	uint16_t hash[TZ_PAGE_SIZE / 2 + 64];
	uint16_t where[TZ_PAGE_SIZE / 2 + 64];	/* the sampled positions */
	uint16_t first[DN_GROUPS + 1];		/* a group's first entry in these two */
	uint16_t winners[16 + DN_BLOCKS];	/* distances that were the best of some block */
	uint16_t offset[DN_GROUPS][DN_SLOTS];	/* of candidates, in page[]; 0 = zeros */
	/* the differing bytes of a group, for a part of the groups */
	uint64_t differ[DN_PART][DN_SLOTS] DN_ALIGNED;
	uint32_t prices[DN_GROUPS][DN_SLOTS] DN_ALIGNED;	/* of candidates, byte per block */
	uint16_t best[DN_GROUPS][4];		/* price << 8 | slot */
	uint8_t batches[DN_GROUPS];
	uint16_t dist[DN_BLOCKS + 32];		/* chosen distances, DN_NO_REF = zeros */
	uint16_t changes[DN_BLOCKS + 64];
	/* by DN_NEWEST: a new distance << 16 | its index */
	uint32_t newest[512];
	uint64_t mask[DN_GROUPS];
	uint8_t lit[2][TZ_PAGE_SIZE + 64];
	uint8_t flags[DN_FLAGS];
	uint8_t kinds[DN_BLOCKS + 64];
	uint8_t refs[DN_BLOCKS * 2];
	uint8_t sym[DN_GROUPS + DN_WORDS + TZ_PAGE_SIZE + 128];
	uint16_t code[DN_GROUPS + DN_WORDS + TZ_PAGE_SIZE + 128];
	uint8_t stream[DN_STREAMS][1024];
};

struct dn_decoder {
	uint8_t src[TZ_PAGE_SIZE + 1280];
	uint8_t sym[DN_GROUPS + DN_WORDS + TZ_PAGE_SIZE + 128];
	uint8_t flags[DN_FLAGS];
	uint8_t kinds[DN_BLOCKS + 64];
	uint8_t width[DN_BLOCKS + 64];
	/* the distances that references change to; the first block starts from zeros */
	uint16_t list[DN_BLOCKS + 64];
	/* the new ones of them, after the initial "recent" ones */
	uint16_t news[DN_BLOCKS + 64];
	/* where each block's reference is in `page` */
	uint16_t from[DN_BLOCKS] DN_ALIGNED;
	/* Zeros, then the page; at first only the literals, in their places. */
	uint8_t page[64 + TZ_PAGE_SIZE] DN_ALIGNED;
	/* 0xff for bytes of the reference, if literals replace it */
	uint8_t keep[TZ_PAGE_SIZE] DN_ALIGNED;
};

struct dn_workspace {
	struct dn_encoder enc;
	struct dn_decoder dec;
};

#endif
