/* bref.h - the parts that the block-reference codecs `turbo` and `fast` share: workspace, tables,
 * small helpers.
 *
 * The page is cut into blocks of BREF_BLOCK bytes (defined by turbo.c and fast.c). A block is
 * stored as the distance back to earlier content of the page (0 = zero bytes) and the bytes that
 * differ from it. No branch depends on the data, which is where the speed comes from.
 * docs/formats.md describes the object; bref_template.h holds the algorithm, bref_avx512.h,
 * bref_avx2.h, bref_neon.h, bref_portable.h and bref_scalar.h the primitives for each instruction
 * set. bref_avx512.h and bref_avx2.h replace the template's encoder and decoder by their own, which
 * make and read the same objects.
 *
 * Everything is done in groups of 64 bytes: one block of 64 or two of 32.
 */
#ifndef TZ_BREF_H
#define TZ_BREF_H

#include "cpu.h"

#define GROUPS 64			/* of 64 bytes, in a page */
#define PER_GROUP (64 / BREF_BLOCK)	/* blocks in a group */
#define BLOCKS (GROUPS * PER_GROUP)
#define WORD_MASKS 64			/* bytes of the section: one bit per 8-byte word */
#define TRAILER (WORD_MASKS + BLOCKS / 8 + 2)

#define TABLE_BITS 11
/* most distances tried per group, in addition to zero and the last one used */
#define CANDIDATES 7
#define CHAINS 4			/* parts of the page chosen in parallel */
#define CHAIN_GROUPS (GROUPS / CHAINS)
#define MAX_SAMPLES 4096

/* Cost of naming a reference, in half bytes as all costs. */
#define NEW_COST 3

#define LOW7 0x7f7f7f7f7f7f7f7full
#define HIGH1 0x8080808080808080ull
#define ONES 0x0101010101010101ull

/* Encoder's memory. An entry of the table is tag 16, generation 4, position 12 bits: the generation
 * is the page's number modulo 16, and the table is cleared each time it wraps around, so entries of
 * other pages are never used. */
struct bref_workspace {
	uint32_t table[1 << TABLE_BITS];
	uint32_t generation;
	_Alignas(64) uint32_t entry[MAX_SAMPLES + 64];
	_Alignas(64) uint32_t found[MAX_SAMPLES + 64];	/* AVX2 only */
	union {
		/* [0] = 0, then distances; unused ones are 0. */
		_Alignas(64) uint32_t candidate[GROUPS][16];
		/* AVX2: the samples' slots, later replaced by the groups' distances, the first of
		 * which is 0. */
		uint16_t slot[TZ_PAGE_SIZE / 8], distance[GROUPS][8];
		/* AVX-512: positions in the page of the bytes that a group is compared with. */
		_Alignas(64) uint16_t source[GROUPS][8];
	};
	/* differing bytes, by candidate */
	_Alignas(64) uint64_t mask[CANDIDATES + 1][GROUPS];
	_Alignas(64) uint64_t best_mask[GROUPS];
	/* AVX only: for each block, the distance of its cheapest candidate and the cost up to which
	 * it keeps the previous block's reference instead (64-byte blocks: every second number);
	 * then what all blocks refer to. */
	_Alignas(64) uint32_t limit[2 * GROUPS];
	_Alignas(64) uint16_t own[BLOCKS];
	uint16_t before_first[32], block_refs[BLOCKS];
	_Alignas(64) uint32_t best_cost[BLOCKS], best_index[BLOCKS];
	_Alignas(64) uint8_t literals[CHAINS][GROUPS / CHAINS * 64 + 64],
		masks[CHAINS][CHAIN_GROUPS * 8 + 64];
	uint16_t refs[CHAINS][CHAIN_GROUPS * PER_GROUP + 8];
	uint8_t word_masks[WORD_MASKS];
};

/* Where the sections of an object are; the caller checks their sizes against each other. */
struct bref_sections {
	const uint8_t *literals, *masks, *refs, *word_masks;
	uint32_t n_literals, n_masks, n_refs;
	uint64_t is_new[PER_GROUP];
};

/* What a zero reference reads: a block and the one after it. */
static const uint8_t zeros[128] __attribute__((aligned(64)));

/* 0x80 for each byte of v that is not zero. */
TZ_INLINE uint64_t nonzero_bytes(uint64_t v)
{
	return (((v & LOW7) + LOW7) | v) & HIGH1;
}

/* a <= b ? x : y, written so that compilers do not make it a branch. */
TZ_INLINE uint64_t select_le(uint32_t a, uint32_t b, uint64_t x, uint64_t y)
{
#if defined(TZ_X86)
	__asm__("cmp %2, %1\n\tcmovbe %3, %0" : "+r"(y) : "r"(a), "r"(b), "r"(x) : "cc");
	return y;
#else
	uint64_t all = 0 - (uint64_t)(a <= b);
	return (x & all) | (y & ~all);
#endif
}

/* Address of the bytes that a block at `at` refers to with this distance. */
TZ_INLINE const uint8_t *referred(const uint8_t *at, uint32_t distance)
{
#if defined(TZ_X86)
	uintptr_t from = (uintptr_t)at - distance;
	__asm__("test %1, %1\n\tcmovz %2, %0" : "+r"(from) : "r"(distance), "r"(zeros) : "cc");
	return (const uint8_t *)from;
#else
	return distance ? at - distance : zeros;
#endif
}

/* The smallest multiple of each distance below 64 that is `least` or more (0: never asked for). */
#define MULTIPLE(d, least) \
	((d) == 0 ? (least) : (d) >= (least) ? (d) : ((least) + (d) - 1) / ((d) + !(d)) * (d))
#define MULTIPLES_8(d, least) \
	MULTIPLE(d, least), MULTIPLE(d + 1, least), MULTIPLE(d + 2, least), \
		MULTIPLE(d + 3, least), MULTIPLE(d + 4, least), MULTIPLE(d + 5, least), \
		MULTIPLE(d + 6, least), MULTIPLE(d + 7, least)
#define MULTIPLES(least) \
	MULTIPLES_8(0, least), MULTIPLES_8(8, least), MULTIPLES_8(16, least), \
		MULTIPLES_8(24, least), MULTIPLES_8(32, least), MULTIPLES_8(40, least), \
		MULTIPLES_8(48, least), MULTIPLES_8(56, least)
static const uint8_t multiples[64] __attribute__((aligned(64))) = { MULTIPLES(BREF_BLOCK) };

TZ_INLINE uint32_t next_generation(struct bref_workspace *ws)
{
	ws->generation = (ws->generation + 1) & 15;
	if (!ws->generation) {
		memset(ws->table, 0, sizeof(ws->table));
		ws->generation = 1;
	}
	return ws->generation;
}

/* Packs n numbers into 12 bits each, lowest bit first. Writes up to 64 bytes too many. */
TZ_INLINE void pack12_plain(uint8_t *to, const uint16_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 2, to += 3)
		tz_store32(to, from[i] | (uint32_t)from[i + 1] << 12);
}

#if defined(TZ_X86)
/* Replaces four entries of the table and returns the old ones; none of the four finds another. It
 * is bound by stores, so the result is kept in a register. */
static inline __attribute__((always_inline)) TZ_TARGET_AVX512 __m128i
look_up_4_avx512(uint32_t *table, uint32_t bits, const uint32_t *entries)
{
	const uint64_t a = tz_load64(entries), b = tz_load64(entries + 2);
	uint32_t *slot[4] = { table + ((uint32_t)a >> (32 - bits)), table + (a >> (64 - bits)),
		table + ((uint32_t)b >> (32 - bits)), table + (b >> (64 - bits)) };
	__m128i found = _mm_cvtsi32_si128((int)*slot[0]);

	found = _mm_insert_epi32(found, (int)*slot[1], 1);
	found = _mm_insert_epi32(found, (int)*slot[2], 2);
	found = _mm_insert_epi32(found, (int)*slot[3], 3);
	*slot[0] = (uint32_t)a;
	*slot[1] = (uint32_t)(a >> 32);
	*slot[2] = (uint32_t)b;
	*slot[3] = (uint32_t)(b >> 32);
	return found;
}

/* The same for 16 entries, four at a time. */
static inline __attribute__((always_inline)) TZ_TARGET_AVX512 __m512i
look_up_16_avx512(uint32_t *table, uint32_t bits, const uint32_t *entries)
{
	__m512i found = _mm512_castsi128_si512(look_up_4_avx512(table, bits, entries));

	found = _mm512_inserti32x4(found, look_up_4_avx512(table, bits, entries + 4), 1);
	found = _mm512_inserti32x4(found, look_up_4_avx512(table, bits, entries + 8), 2);
	return _mm512_inserti32x4(found, look_up_4_avx512(table, bits, entries + 12), 3);
}

/* Unpacks 12-bit numbers to 16 bits: those of the first `bytes` bytes, the others become 0. Reads
 * no more than that. */
static inline __attribute__((always_inline)) TZ_TARGET_AVX512 __m512i
unpack12_avx512(const uint8_t *from, uint32_t bytes)
{
	const __m512i triples = _mm512_set_epi8(47, 46, 46, 45, 44, 43, 43, 42, 41, 40, 40, 39, 38,
		37, 37, 36, 35, 34, 34, 33, 32, 31, 31, 30, 29, 28, 28, 27, 26, 25, 25, 24, 23, 22,
		22, 21, 20, 19, 19, 18, 17, 16, 16, 15, 14, 13, 13, 12, 11, 10, 10, 9, 8, 7, 7, 6,
		5, 4, 4, 3, 2, 1, 1, 0);
	__m512i v = _mm512_maskz_loadu_epi8(_bzhi_u64(~0ull, bytes < 48 ? bytes : 48), from);

	v = _mm512_permutexvar_epi8(triples, v);
	v = _mm512_mask_srli_epi16(v, 0xaaaaaaaa, v, 4);
	return _mm512_and_si512(v, _mm512_set1_epi16(0xfff));
}

static inline __attribute__((always_inline)) TZ_TARGET_AVX512 void pack12_avx512(uint8_t *to,
	const uint16_t *from, uint32_t n)
{
	const __m512i three = _mm512_set_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 62,
		61, 60, 58, 57, 56, 54, 53, 52, 50, 49, 48, 46, 45, 44, 42, 41, 40, 38, 37, 36, 34,
		33, 32, 30, 29, 28, 26, 25, 24, 22, 21, 20, 18, 17, 16, 14, 13, 12, 10, 9, 8, 6, 5,
		4, 2, 1, 0);

	for (uint32_t i = 0; i < n; i += 32, to += 48) {
		__m512i v = _mm512_madd_epi16(_mm512_loadu_si512(from + i),
			_mm512_set1_epi32(4096 << 16 | 1));
		_mm512_storeu_si512(to, _mm512_permutexvar_epi8(three, v));
	}
}
#endif

#endif
