/* bref_settle.h - what the encoders of bref_avx512.h and bref_avx2.h do in the same way: which reference a block gets.
 *
 * Costs are the number of bytes that differ, times 16. The bytes of masks that go with them are left out: they change
 * the choice so seldom that to count them costs more than it gains.
 */

/* FN is the includer's, and so are differ and count. */
#define P(name) TZ_CONCAT(name, TZ_SUFFIX)
#define NAMING (1 << 4)			/* what a new reference costs */

/* Gives a block the reference `last` with its mask `same`, or its own if that is cheaper. Says which. */
FN uint32_t P(keep_or_name)(uint64_t *mask, uint64_t same, uint32_t same_cost, uint32_t own, uint32_t own_cost,
	uint32_t last)
{
	uint64_t ref = own, chosen = *mask;

	__asm__("cmp %3, %2\n\tcmovbe %4, %0\n\tcmovbe %5, %1" : "+&r"(ref), "+&r"(chosen)
		: "r"(same_cost), "r"(own_cost), "r"((uint64_t)last), "r"(same) : "cc");
	*mask = chosen;
	return (uint32_t)ref;
}

/* References and masks of all blocks, from those of each one's cheapest candidate. A block waits for the one before it, so the
 * page is several chains side by side, each of which begins with a guess. */
FN void P(settle)(struct bref_workspace *ws, const uint8_t *page)
{
	const uint64_t low = PER_GROUP == 1 ? ~0ull : 0xffffffff;
	uint32_t last[CHAINS] = { 0 };

	for (uint32_t c = 1; c < CHAINS; c++) {
		uint32_t g = c * CHAIN_GROUPS - 1;
		last[c] = ws->distance[g][ws->best[g] >> (PER_GROUP - 1) * 32 & 15];
	}
	for (uint32_t i = 0; i < CHAIN_GROUPS; i++) {
#pragma GCC unroll 4
		for (uint32_t c = 0; c < CHAINS; c++) {
			const uint32_t g = i + c * CHAIN_GROUPS;
			const uint8_t *q = page + g * 64;
			const uint64_t best = ws->best[g], same = P(differ)(q, referred(q, last[c]));
			uint64_t mask = ws->best_mask[g] & low, ref;

			ref = P(keep_or_name)(&mask, same & low, P(count)(same & low) << 4, ws->distance[g][best & 15],
				(uint32_t)best + NAMING, last[c]);
			ws->block_refs[g * PER_GROUP] = (uint16_t)ref;
#if BREF_BLOCK == 32
			uint64_t high = ws->best_mask[g] >> 32;
			uint32_t own = ws->distance[g][best >> 32 & 15], cost = P(count)(same >> 32) << 4;

			/* To stay with the reference of the group before costs something when the first block left it. */
			cost += (ref != last[c]) * NAMING;
			ref = P(keep_or_name)(&high, same >> 32, cost, own, (uint32_t)(best >> 32) + (own != ref) * NAMING, last[c]);
			ws->block_refs[g * PER_GROUP + 1] = (uint16_t)ref;
			mask |= high << 32;
#endif
			last[c] = (uint32_t)ref;
			ws->best_mask[g] = mask;
		}
	}
}

#undef NAMING
#undef P
