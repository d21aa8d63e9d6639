/* bytelz.h - the parts that the byte-LZ pages of `fast` share: codes, the encoder's memory, and
 * plain C for every machine.
 *
 * Byte-LZ is for pages whose repetitions begin anywhere: text, code, records. Literals, distances
 * and tokens are in separate sections of the object (docs/formats.md), so a decoder knows where
 * everything goes before it copies anything: every token is two copies of 32 bytes, without a
 * branch. That works because no piece of a match is longer than its distance; the encoder unrolls
 * short periods (distances d, 2 d, 4 d ...).
 *
 * Both directions work in a copy of the page with zeros before it. Zeros are a match of their own
 * (distance 0), and copies may overrun their ends.
 */
#ifndef TZ_BYTELZ_H
#define TZ_BYTELZ_H

#include "cpu.h"

#define LZ_FRONT 128			/* zeros before the page in the working copy */
#define LZ_BACK 64			/* room after it */
/* where, in the zeros before the page, those for comparisons begin */
#define LZ_ZEROS 64
#define LZ_COPY 32			/* bytes of a copy; no piece of a match is longer */
#define LZ_MIN_MATCH 4
#define LZ_MAX_LITERALS 15		/* of a token with a match */
/* 12 bits number of tokens, 12 bits number of distances, 8 bits mode */
#define LZ_TRAILER 4
#define LZ_MAX_TOKENS 4095
/* a token makes at most 47 bytes, so that much follows the literals */
#define LZ_MIN_TOKENS 88

/* Result of a first look at a page: lz_strange_ISA() of every eighth 64 bytes, and whether the page
 * is text, that is, has hardly any byte that text does not have. */
#define LZ_LOOKS 512
#define LZ_TEXT 128

struct lz_look {
	uint32_t strange;	/* of 512 bytes: neither zeros nor text */
	int is_text;
};

/* The object's last byte; in a block-reference object it is at most 2. */
#define MODE_LZ 0x80			/* literals of 8 bits */
#define MODE_LZ7 0x81			/* of 7 bits, 8 in 7 bytes */
#define MODE_LZ4 0x82			/* not byte-LZ: an LZ4 block precedes it */

#define LZ_HASH_BITS 12
#define LZ_TAGGED_BITS 11

#define LZ_STEP 1024			/* positions looked up together */
#define LZ_REACH 256			/* candidates compared together */

struct lz_match {
	uint16_t start, end, distance, unused;	/* distance 0: zeros */
};

/* Plain C uses the first of these two tables, AVX the second. */
struct lz_workspace {
	union {
		/* base + position; entries not above base are from an earlier page */
		uint16_t table[1 << LZ_HASH_BITS];
		/* tag 18, generation 2, position 12 bits */
		_Alignas(64) uint32_t tagged[1 << LZ_TAGGED_BITS];
	};
	uint32_t base;
	_Alignas(64) uint32_t entry[LZ_STEP + 64];
	_Alignas(64) uint32_t found[LZ_STEP + 64];
	_Alignas(64) uint32_t differ[LZ_REACH + 16], reach[LZ_REACH + 16], distance[LZ_REACH + 16];
	uint32_t longer[LZ_REACH + 16];	/* the indices of those that continue */
	/* Position | source << 16, where the source counts from LZ_FRONT before the page; LZ_ZEROS
	 * for zeros. */
	uint32_t candidate[TZ_PAGE_SIZE + 64];
	struct lz_match match[TZ_PAGE_SIZE / LZ_MIN_MATCH + 1];
	uint16_t distances[TZ_PAGE_SIZE / LZ_MIN_MATCH + 64];
	uint8_t tokens[TZ_PAGE_SIZE + 64], literals[TZ_PAGE_SIZE + 64];
	_Alignas(64) uint8_t page[LZ_FRONT + TZ_PAGE_SIZE + LZ_BACK];
};

/* Length of a piece of a match by its code; code 0 is not a match. */
static const uint8_t lz_length[16] __attribute__((aligned(16))) = {
	0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20, 24, 32
};
/* Number of literals by a token's lower half: without a match, with one. */
static const uint8_t lz_runs[2][16] __attribute__((aligned(16))) = {
	{ 1, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32 },
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }
};
/* The largest code whose length is not above the index. */
static const uint8_t lz_code[33] = { 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 12, 12,
	12, 13, 13, 13, 13, 14, 14, 14, 14, 14, 14, 14, 14, 15 };

TZ_INLINE uint32_t lz_hash(uint32_t v)
{
	return v * 2654435761u >> (32 - LZ_HASH_BITS);
}

/* Base of this page's positions in the table. */
TZ_INLINE uint32_t lz_next_base(struct lz_workspace *ws)
{
	ws->base += TZ_PAGE_SIZE;
	if (ws->base > UINT16_MAX - TZ_PAGE_SIZE) {
		memset(ws->table, 0, sizeof(ws->table));
		ws->base = 0;
	}
	return ws->base;
}

/* The sections of an object. At least 32 bytes past the n_literals literals can be read. */
struct lz_sections {
	const uint8_t *literals, *distances, *tokens;
	/* an upper bound: with 7-bit literals, one more may fit in the bytes */
	uint32_t n_literals;
	uint32_t stored, n_distances, n_tokens;
};

/* ---- Plain C ---- */

/* How many bytes at page + at equal those at page + from, or are zeros. May go past the page's
 * end. */
TZ_INLINE uint32_t lz_equal_plain(const uint8_t *page, uint32_t at, uint32_t from)
{
	for (uint32_t n = 0; ; n += 8) {
		uint64_t differ = tz_load64(page + at + n) ^ tz_load64(page + from + n);

		if (differ)
			return n + (uint32_t)__builtin_ctzll(differ) / 8;
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

TZ_INLINE uint32_t lz_zeros_plain(const uint8_t *page, uint32_t at)
{
	for (uint32_t n = 0; ; n += 8) {
		uint64_t v = tz_load64(page + at + n);

		if (v)
			return n + (uint32_t)__builtin_ctzll(v) / 8;
		if (at + n >= TZ_PAGE_SIZE)
			return n;
	}
}

/* How many bytes before a equal those before b, at most 16. */
TZ_INLINE uint32_t lz_equal_behind_plain(const uint8_t *a, const uint8_t *b)
{
	uint64_t differ = tz_load64(a - 8) ^ tz_load64(b - 8);

	if (differ)
		return (uint32_t)__builtin_clzll(differ) / 8;
	differ = tz_load64(a - 16) ^ tz_load64(b - 16);
	return differ ? 8 + (uint32_t)__builtin_clzll(differ) / 8 : 16;
}

/* For 64 bytes, the number of zeros << 16 | the number of other bytes that are rare in text:
 * control characters and above 127. */
TZ_INLINE uint32_t lz_strange_plain(const uint8_t *p)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < 64; i++)
		n += p[i] ? (int8_t)p[i] < '\t' : 1 << 16;
	return n;
}

/* Whether any of n bytes is above 127. The next 63 are zeros. */
TZ_INLINE int lz_any_high_plain(const uint8_t *p, uint32_t n)
{
	uint64_t any = 0;

	for (uint32_t i = 0; i < n; i += 8)
		any |= tz_load64(p + i);
	return (any & 0x8080808080808080ull) != 0;
}

/* Packs n bytes below 128 (and up to 63 zeros) into 7 bits each. Writes up to 64 bytes too many. */
TZ_INLINE void lz_pack7_plain(uint8_t *to, const uint8_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 8, to += 7) {
		uint64_t v = tz_load64(from + i);

		v = (v & 0x007f007f007f007full) | (v & 0x7f007f007f007f00ull) >> 1;
		v = (v & 0x00003fff00003fffull) | (v & 0x3fff00003fff0000ull) >> 2;
		tz_store64(to, (v & 0xfffffff) | (v >> 32 & 0xfffffff) << 28);
	}
}

/* The reverse, from `stored` bytes followed by zeros. Writes up to 64 bytes too many. */
TZ_INLINE void lz_read7_plain(uint8_t *to, const uint8_t *from, uint32_t stored)
{
	for (uint32_t i = 0; i < stored + 35; i += 7, to += 8) {
		uint64_t v = 0;

		if (i + 8 <= stored)
			v = tz_load64(from + i);
		else if (i < stored)
			memcpy(&v, from + i, stored - i);
		v = (v & 0xfffffff) | (v << 4 & 0x0fffffff00000000ull);
		v = (v & 0x00003fff00003fffull) | (v << 2 & 0x3fff00003fff0000ull);
		tz_store64(to, (v & 0x007f007f007f007full) | (v << 1 & 0x7f007f007f007f00ull));
	}
}

/* The i-th 12-bit number. Reads only the bytes that hold it. */
TZ_INLINE uint32_t lz_get12(const uint8_t *from, uint32_t i)
{
	return tz_load16(from + 3 * i / 2) >> 4 * (i & 1) & 0xfff;
}

/* Decodes the page from its sections. Returns the number of literals used, or -1 if the tokens do
 * not fit them or the page. */
TZ_INLINE int lz_expand_plain(const struct lz_sections *s, uint8_t *page)
{
	uint32_t at = 0, literals = 0, k = 0, wrong = 0;
	uint8_t piece[LZ_COPY];

	for (uint32_t i = 0; i < s->n_tokens; i++) {
		const uint32_t token = s->tokens[i], code = token >> 4, named = code != 0,
			       length = lz_length[code];
		const uint32_t run = lz_runs[named][token & 15];
		uint32_t d, there;

		memcpy(page + at, s->literals + literals, LZ_COPY);
		literals += run;
		at += run;
		if (TZ_UNLIKELY(k + named > s->n_distances || at + length > TZ_PAGE_SIZE ||
			    literals > s->n_literals))
			return -1;
		/* Without a distance left, the tokens are read instead. */
		d = lz_get12(s->distances, k) & (0 - named);
		k += named;
		wrong |= (d > at) | (d - 1 < length - named);
		/* Zeros for distance 0 and for invalid ones; the object is refused afterwards. */
		there = 0 - (uint32_t)(d - 1 < at);
		/* Through a buffer, because source and destination past the piece may overlap. */
		memcpy(piece, page + (int32_t)(((at - d) & there) | ((uint32_t)-LZ_FRONT & ~there)),
			LZ_COPY);
		memcpy(page + at, piece, LZ_COPY);
		at += length;
	}
	return wrong || at != TZ_PAGE_SIZE || k != s->n_distances ? -1 : (int)literals;
}

/* Defines the template's primitives from these. */
#define LZ_PLAIN_STREAMS(isa) \
	TZ_INLINE void lz_pack7_##isa(uint8_t *to, const uint8_t *from, uint32_t n) \
	{ \
		lz_pack7_plain(to, from, n); \
	} \
	TZ_INLINE void lz_read7_##isa(uint8_t *to, const uint8_t *from, uint32_t stored) \
	{ \
		lz_read7_plain(to, from, stored); \
	} \
	TZ_INLINE int lz_expand_##isa(const struct lz_sections *s, uint8_t *page) \
	{ \
		return lz_expand_plain(s, page); \
	} \
	TZ_INLINE void pack12_##isa(uint8_t *to, const uint16_t *from, uint32_t n) \
	{ \
		pack12_plain(to, from, n); \
	}

#define LZ_PLAIN(isa) \
	TZ_INLINE uint32_t lz_equal_##isa(const uint8_t *page, uint32_t at, uint32_t from) \
	{ \
		return lz_equal_plain(page, at, from); \
	} \
	TZ_INLINE uint32_t lz_zeros_##isa(const uint8_t *page, uint32_t at) \
	{ \
		return lz_zeros_plain(page, at); \
	} \
	TZ_INLINE uint32_t lz_equal_behind_##isa(const uint8_t *a, const uint8_t *b) \
	{ \
		return lz_equal_behind_plain(a, b); \
	} \
	TZ_INLINE uint32_t lz_strange_##isa(const uint8_t *p) \
	{ \
		return lz_strange_plain(p); \
	} \
	TZ_INLINE int lz_any_high_##isa(const uint8_t *p, uint32_t n) \
	{ \
		return lz_any_high_plain(p, n); \
	} \
	LZ_PLAIN_STREAMS(isa)

#endif
