/* bref_scalar.h - what NEON and plain C share: some words' arithmetic, and the search, a table walked word by word.
 *
 * Only positions that are multiples of four are looked up and noted: on such CPUs choosing positions by their content
 * costs more than it finds. A chosen distance is therefore a multiple of four; the format does not ask for that.
 */
#ifndef TZ_BREF_SCALAR_H
#define TZ_BREF_SCALAR_H

#define SCALAR_CANDIDATES 4	/* every comparison counts here */

/* Candidates of one group, no two neighbours equal, in the order found. Without branches: hits come at random. */
TZ_INLINE void scalar_group_candidates(struct bref_workspace *ws, const uint8_t *page, uint32_t g)
{
	uint32_t list[18] = { 0 }, n = 0, generation = ws->generation << 12;

	for (uint32_t at = g * 64; at < g * 64 + 64; at += 4) {
		uint32_t product = tz_load32(page + at) * 2654435761u, slot = product >> (32 - TABLE_BITS);
		uint32_t entry = (product << 12 & 0xffff0000) | generation | at, found = ws->table[slot], d = entry - found;
		uint32_t other = (entry ^ found) >> 12, multiple = multiples[d & 63];

		ws->table[slot] = entry;
		d = (uint32_t)select_le(64, d, d, multiple);
		/* The element that is not kept lies beyond the end and is overwritten or cleared. */
		list[n + 1] = d;
		n += (other == 0) & (d <= g * 64) & (d != list[n]);
	}
	for (uint32_t k = 1; k <= SCALAR_CANDIDATES; k++)
		ws->candidate[g][k] = k <= n ? list[k] : 0;
}

/* The functions gather_high_ISA (one bit for each 0x80 of t: the multiplication brings bit 8 i + 7 to bit 56 + i),
 * count_bytes_ISA and unpack_refs_ISA, from count_ISA. */
#define SCALAR_WORDS(isa) \
	FN uint32_t gather_high_##isa(uint64_t t) \
	{ \
		return (uint32_t)(((t >> 7) * 0x0102040810204080ull) >> 56); \
	} \
	FN uint32_t count_bytes_##isa(const uint8_t *p, uint32_t n) \
	{ \
		uint32_t sum = 0, i = 0; \
		for (; i + 8 <= n; i += 8) \
			sum += count_##isa(tz_load64(p + i)); \
		for (; i < n; i++) \
			sum += count_##isa(p[i]); \
		return sum; \
	} \
	FN void unpack_refs_##isa(uint16_t *to, const uint8_t *from, uint32_t n) \
	{ \
		for (uint32_t i = 0; i < n; i += 2, from += 3) { \
			uint32_t pair = tz_load32(from); \
			to[i] = pair & 0xfff; \
			to[i + 1] = (pair >> 12) & 0xfff; \
		} \
	}

/* The functions find_candidates_ISA and choose_candidates_ISA, from differ_ISA and count_ISA. */
#define SCALAR_SEARCH(isa) \
	FN void find_candidates_##isa(struct bref_workspace *ws, const uint8_t *page) \
	{ \
		for (uint32_t g = 0; g < GROUPS; g++) \
			scalar_group_candidates(ws, page, g); \
	} \
	FN void choose_candidates_##isa(struct bref_workspace *ws, const uint8_t *page) \
	{ \
		for (uint32_t g = 0; g < GROUPS; g++) { \
			const uint8_t *q = page + g * 64; \
			uint64_t best[PER_GROUP] = { 0 }; \
			for (uint32_t b = 0; b < PER_GROUP; b++) \
				ws->best_cost[g * PER_GROUP + b] = 1000; \
			for (uint32_t k = 0; k <= SCALAR_CANDIDATES; k++) { \
				uint64_t m = differ_##isa(q, referred(q, ws->candidate[g][k])), t = nonzero_bytes(m); \
				for (uint32_t b = 0; b < PER_GROUP; b++) { \
					uint64_t part = PER_GROUP == 1 ? ~0ull : 0xffffffffull << 32 * b; \
					uint32_t *cost = &ws->best_cost[g * PER_GROUP + b], c = count_##isa(m & part) + count_##isa(t & part); \
					ws->best_index[g * PER_GROUP + b] = (uint32_t)select_le(*cost, c, \
						ws->best_index[g * PER_GROUP + b], k); \
					best[b] = select_le(*cost, c, best[b], m & part); \
					*cost = (uint32_t)select_le(*cost, c, *cost, c); \
				} \
			} \
			ws->best_mask[g] = best[0] | best[PER_GROUP - 1]; \
		} \
	}

#endif
