/* bref_scalar.h - what NEON and plain C share: arithmetic on words, and the search.
 *
 * Samples are those of bref_avx2.h: of each eight positions the one with the largest hash.
 */
#ifndef TZ_BREF_SCALAR_H
#define TZ_BREF_SCALAR_H

#define SCALAR_CANDIDATES 4	/* every comparison costs time here */
#define WINDOWS 8		/* of eight positions, in a group */
#define SAMPLE_FACTOR 0x9e3779b1u

/* Candidates of one group from the largest hashes of its windows, in the order found, without equal
 * neighbours. No branches, because hits are random. */
TZ_INLINE void scalar_group_candidates(struct bref_workspace *ws, const uint32_t *largest,
	uint32_t g)
{
	uint32_t list[WINDOWS + 2] = { 0 }, n = 0;

	for (uint32_t w = 0; w < WINDOWS; w++) {
		/* An entry: tag 16, generation 4, position 12 bits; the hash's low 3 bits are the
		 * position in the window. */
		uint32_t hash = largest[w] >> 3, product = hash * 2654435761u,
			 slot = product >> (32 - TABLE_BITS);
		uint32_t entry = (product << 12 & 0xffff0000) | ws->generation << 12 |
			(g * 64 + 8 * w + (largest[w] & 7));
		uint32_t found = ws->table[slot], d = entry - found, other = (entry ^ found) >> 12,
			 multiple = multiples[d & 63];

		ws->table[slot] = entry;
		d = (uint32_t)select_le(64, d, d, multiple);
		/* An element that is not kept lies past the end and is overwritten or cleared. */
		list[n + 1] = d;
		n += (other == 0) & (hash != 0) & (d <= g * 64) & (d != list[n]);
	}
	for (uint32_t k = 1; k <= SCALAR_CANDIDATES; k++)
		ws->candidate[g][k] = k <= n ? list[k] : 0;
}

/* The largest hashes of 64 positions; 67 bytes are read. */
TZ_INLINE void largest_hashes_portable(const uint8_t *q, uint32_t *largest)
{
	for (uint32_t w = 0; w < WINDOWS; w++, q += 8) {
		uint32_t best = 0;

#pragma GCC unroll 8
		for (uint32_t j = 0; j < 8; j++) {
			uint32_t hash = (tz_load32(q + j) * SAMPLE_FACTOR & ~7u) | j;
			best = hash > best ? hash : best;
		}
		largest[w] = best;
	}
}

/* Defines gather_high_ISA (one bit for each 0x80 of t: the multiplication moves bit 8 i + 7 to bit
 * 56 + i), count_bytes_ISA and unpack_refs_ISA, using count_ISA. */
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

/* Defines find_candidates_ISA and choose_candidates_ISA, using largest_hashes_ISA, differ_ISA and
 * count_ISA. */
#define SCALAR_SEARCH(isa) \
	FN void find_candidates_##isa(struct bref_workspace *ws, const uint8_t *page) \
	{ \
		/* the page's last 64 bytes and what is read past them */ \
		uint8_t end[128] = { 0 }; \
		uint32_t largest[WINDOWS]; \
		memcpy(end, page + TZ_PAGE_SIZE - 64, 64); \
		for (uint32_t g = 0; g < GROUPS; g++) { \
			largest_hashes_##isa(g < GROUPS - 1 ? page + g * 64 : end, largest); \
			scalar_group_candidates(ws, largest, g); \
		} \
	} \
	FN void choose_candidates_##isa(struct bref_workspace *ws, const uint8_t *page) \
	{ \
		for (uint32_t g = 0; g < GROUPS; g++) { \
			const uint8_t *q = page + g * 64; \
			uint64_t best[PER_GROUP] = { 0 }; \
			for (uint32_t b = 0; b < PER_GROUP; b++) \
				ws->best_cost[g * PER_GROUP + b] = 1000; \
			for (uint32_t k = 0; k <= SCALAR_CANDIDATES; k++) { \
				uint64_t m = differ_##isa(q, referred(q, ws->candidate[g][k])), \
					 t = nonzero_bytes(m); \
				for (uint32_t b = 0; b < PER_GROUP; b++) { \
					uint64_t part = PER_GROUP == 1 ? ~0ull \
								       : 0xffffffffull << 32 * b; \
					uint32_t *cost = &ws->best_cost[g * PER_GROUP + b], \
						 c = count_##isa(m & part) + \
						count_##isa(t & part); \
					ws->best_index[g * PER_GROUP + b] = \
						(uint32_t)select_le(*cost, c, \
							ws->best_index[g * PER_GROUP + b], k); \
					best[b] = select_le(*cost, c, best[b], m & part); \
					*cost = (uint32_t)select_le(*cost, c, *cost, c); \
				} \
			} \
			ws->best_mask[g] = best[0] | best[PER_GROUP - 1]; \
		} \
	}

#endif
