/* bref_settle.h - chooses the reference of each block, in the same way for the encoders of
 * bref_avx512.h and bref_avx2.h.
 *
 * A block's cost is the number of its differing bytes. Mask bytes are not counted: they change the
 * choice so seldom that counting them costs more than it gains.
 */

/* FN, differ and count are defined by the includer. */
#define P(name) TZ_CONCAT(name, TZ_SUFFIX)

/* The differing bytes of a block, one bit each. */
#if BREF_BLOCK == 64
typedef uint64_t P(block_mask);
#else
typedef uint32_t P(block_mask);
#endif

/* cost + (a != b): adds the cost of naming another reference without a branch. */
FN uint32_t P(plus_if_other)(uint32_t cost, uint32_t a, uint32_t b)
{
	__asm__("xor %2, %1\n\tcmp $1, %1\n\tsbb $-1, %0" : "+r"(cost), "+&r"(a) : "r"(b) : "cc");
	return cost;
}

/* Gives block n the reference `last` with its mask `same` if that costs no more than `limit`,
 * otherwise its own. */
FN uint32_t P(keep_or_name)(struct bref_workspace *ws, uint32_t n, P(block_mask) same,
	uint32_t cost, uint32_t limit, uint32_t last)
{
	uint32_t ref = ws->own[n];
	uint8_t *at = (uint8_t *)ws->best_mask + n * sizeof(same);
	P(block_mask) mask;

	memcpy(&mask, at, sizeof(mask));
	__asm__("cmp %3, %2\n\tcmovbe %4, %0\n\tcmovbe %5, %1" : "+&r"(ref), "+&r"(mask)
		: "r"(cost), "rm"(limit), "r"(last), "r"(same) : "cc");
	memcpy(at, &mask, sizeof(mask));
	ws->block_refs[n] = (uint16_t)ref;
	return ref;
}

/* References and masks of all blocks, from each block's cheapest candidate. A block depends on the
 * one before it, so the page is split into several parallel chains, each starting with a guess. */
FN void P(settle)(struct bref_workspace *ws, const uint8_t *page)
{
	uint32_t last[CHAINS] = { 0 };

	for (uint32_t c = 1; c < CHAINS; c++)
		last[c] = ws->own[c * CHAIN_GROUPS * PER_GROUP - 1];
	for (uint32_t i = 0; i < CHAIN_GROUPS; i++) {
#pragma GCC unroll 4
		for (uint32_t c = 0; c < CHAINS; c++) {
			const uint32_t n = (i + c * CHAIN_GROUPS) * PER_GROUP;
			const uint8_t *q = page + n * BREF_BLOCK;
			const uint64_t same = P(differ)(q, referred(q, last[c]));
			const P(block_mask) first = (P(block_mask))same;
			uint32_t ref = P(keep_or_name)(ws, n, first, P(count)(first),
				ws->limit[n * 2 / PER_GROUP], last[c]);
#if BREF_BLOCK == 32
			uint32_t cost = P(count)(same >> 32), limit = ws->limit[n + 1] - 1;

			/* Keeping the previous group's reference has a cost if the first block left
			 * it. */
			cost = P(plus_if_other)(cost, last[c], ref);
			limit = P(plus_if_other)(limit, ws->own[n + 1], ref);
			ref = P(keep_or_name)(ws, n + 1, (uint32_t)(same >> 32), cost, limit,
				last[c]);
#endif
			last[c] = ref;
		}
	}
}

#undef P
