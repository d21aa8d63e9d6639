/* bref_settle.h - what the encoders of bref_avx512.h and bref_avx2.h do in the same way: which reference a block gets.
 *
 * A block costs as many as its bytes that differ. The bytes of masks that go with them are left out: they change the choice
 * so seldom that to count them costs more than it gains.
 */

/* FN is the includer's, and so are differ and count. */
#define P(name) TZ_CONCAT(name, TZ_SUFFIX)

/* Bytes of a block that differ, a bit for each. */
#if BREF_BLOCK == 64
typedef uint64_t P(block_mask);
#else
typedef uint32_t P(block_mask);
#endif

/* cost + (a != b): what naming another reference costs is added without a branch. */
FN uint32_t P(plus_if_other)(uint32_t cost, uint32_t a, uint32_t b)
{
	__asm__("xor %2, %1\n\tcmp $1, %1\n\tsbb $-1, %0" : "+r"(cost), "+&r"(a) : "r"(b) : "cc");
	return cost;
}

/* Gives block number n the reference `last` with its mask `same` when that costs no more than `limit`, or its own. */
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

/* References and masks of all blocks, from those of each one's cheapest candidate. A block waits for the one before it, so the
 * page is several chains side by side, each of which begins with a guess. */
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

			/* To stay with the reference of the group before costs something when the first block left it. */
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
