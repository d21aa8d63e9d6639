/* bref_template.h - block-reference encoder and decoder (bref.h) for one instruction set. */

#define P(name) TZ_CONCAT(name, TZ_SUFFIX)
#define FN_INLINE static inline __attribute__((always_inline)) TZ_TARGET

#if !defined(BREF_FINISH_PAGE)
/* State that one chain carries from block to block. */
struct P(chain) {
	uint32_t last, before;		/* the last reference, and the last other one */
	uint32_t n_refs;
	uint64_t is_new;		/* bit per block: it names a reference */
	uint8_t *masks, *literals;
};

/* Chooses the references of group g and appends the masks and literals. */
FN_INLINE void P(encode_group)(struct bref_workspace *ws, const uint8_t *page, uint32_t chain,
	uint32_t i, struct P(chain) *c)
{
	uint32_t g = chain * CHAIN_GROUPS + i;
	const uint8_t *q = page + g * 64;
	uint64_t m0 = P(differ)(q, referred(q, c->last)), m1 = P(differ)(q, referred(q, c->before)),
		 best = ws->best_mask[g];
	uint64_t t0 = nonzero_bytes(m0), t1 = nonzero_bytes(m1), mask = 0, t;
	uint32_t words, first = c->last, second = c->before;

	/* A distance larger than the position is not offered. */
	for (unsigned b = 0; b < PER_GROUP; b++) {
		const uint64_t part = PER_GROUP == 1 ? ~0ull : 0xffffffffull << 32 * b;
		uint32_t block = g * PER_GROUP + b, ref,
			 own = ws->candidate[g][ws->best_index[block]];
		uint32_t cost = 2 * ws->best_cost[block] + (own == c->last ? 0 : NEW_COST);
		uint32_t cost0 = 2 * (P(count)(m0 & part) + P(count)(t0 & part));
		uint32_t cost1 = 2 * (P(count)(m1 & part) + P(count)(t1 & part)) + NEW_COST;
		uint64_t chosen = best;

		ref = (uint32_t)select_le(cost1, cost, second, own);
		chosen = select_le(cost1, cost, m1, chosen);
		cost = (uint32_t)select_le(cost1, cost, cost1, cost);
		ref = (uint32_t)select_le(cost0, cost, first, ref);
		chosen = select_le(cost0, cost, m0, chosen);
		mask |= chosen & part;

		uint32_t fresh = ref != c->last;
		ws->refs[chain][c->n_refs] = (uint16_t)ref;
		c->n_refs += fresh;
		c->is_new |= (uint64_t)fresh << (i * PER_GROUP + b);
		c->before = fresh ? c->last : c->before;
		c->last = ref;
	}
	t = nonzero_bytes(mask);
	words = P(gather_high)(t);
	ws->word_masks[g] = (uint8_t)words;
	tz_store64(c->masks, P(pack_bytes)(mask, t));
	c->masks += P(count)(words);
	P(pack_literals)(c->literals, q, mask);
	c->literals += P(count)(mask);
}

/* Copies n bytes in steps of 64. */
FN_INLINE uint8_t *P(append)(uint8_t *to, const uint8_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 64)
		memcpy(to + i, from + i, 64);
	return to + n;
}

/* The object's sections: literals, byte masks, references, word masks, bits of new references,
 * count. */
FN_INLINE size_t P(put_object)(struct bref_workspace *ws, const struct P(chain) *c, uint8_t *dst)
{
	uint32_t n_literals = 0, n_masks = 0, n_refs = 0, previous = 0;
	uint64_t is_new[CHAINS];
	uint16_t refs[BLOCKS + 32];
	uint8_t *op = dst;

	for (unsigned k = 0; k < CHAINS; k++) {
		uint32_t skip = 0;
		is_new[k] = c[k].is_new;
		/* A chain begins as if the reference before it were zero. If it was another one,
		 * the chain's first block must name its own; if it is the same one that the first
		 * block names, it need not. */
		uint32_t start = is_new[k] & 1 ? ws->refs[k][0] : 0;
		if (start == previous) {
			skip = is_new[k] & 1;
			is_new[k] &= ~1ull;
		} else if (!(is_new[k] & 1)) {
			is_new[k] |= 1;
			refs[n_refs++] = 0;
		}
		memcpy(refs + n_refs, ws->refs[k] + skip,
			sizeof(ws->refs[k]) - 8 * sizeof(uint16_t));
		n_refs += c[k].n_refs - skip;
		previous = c[k].last;
		n_literals += (uint32_t)(c[k].literals - ws->literals[k]);
		n_masks += (uint32_t)(c[k].masks - ws->masks[k]);
	}
	refs[n_refs] = 0;
	if (n_literals + n_masks + (n_refs * 3 + 1) / 2 + TRAILER >= TZ_PAGE_SIZE)
		return 0;
	for (unsigned k = 0; k < CHAINS; k++)
		op = P(append)(op, ws->literals[k], (uint32_t)(c[k].literals - ws->literals[k]));
	for (unsigned k = 0; k < CHAINS; k++)
		op = P(append)(op, ws->masks[k], (uint32_t)(c[k].masks - ws->masks[k]));
	pack12_plain(op, refs, n_refs);
	op += (n_refs * 3 + 1) / 2;
	memcpy(op, ws->word_masks, WORD_MASKS);
	op += WORD_MASKS;
	for (unsigned k = 0; k < CHAINS; k++) {
		memcpy(op, &is_new[k], BLOCKS / 8 / CHAINS);
		op += BLOCKS / 8 / CHAINS;
	}
	tz_store16(op, (uint16_t)n_masks);
	return (size_t)(op + 2 - dst);
}

FN_INLINE size_t P(finish_page)(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	struct P(chain) chain[CHAINS];

	for (unsigned k = 0; k < CHAINS; k++)
		chain[k] = (struct P(chain)){ .masks = ws->masks[k], .literals = ws->literals[k] };
	for (uint32_t i = 0; i < CHAIN_GROUPS; i++) {
#pragma GCC unroll 4
		for (uint32_t k = 0; k < CHAINS; k++)
			P(encode_group)(ws, page, k, i, &chain[k]);
	}
	return P(put_object)(ws, chain, dst);
}
#endif

/* Finds each block's cheapest candidate. */
FN_INLINE void P(bref_search)(struct bref_workspace *ws, const uint8_t *page)
{
	next_generation(ws);
	P(find_candidates)(ws, page);
	P(choose_candidates)(ws, page);
}

FN_INLINE size_t P(bref_compress)(struct bref_workspace *ws, const uint8_t *page, uint8_t *dst)
{
	P(bref_search)(ws, page);
	return P(finish_page)(ws, page, dst);
}

#if !defined(BREF_DECODE_PAGE)
/* Decodes the page block by block. */
FN_INLINE int P(decode_page)(struct bref_sections *s, uint8_t *out)
{
	const uint8_t *masks = s->masks, *literals = s->literals;
	uint16_t refs[BLOCKS + 64];
	const uint16_t *ref = refs;
	uint32_t bad = 0;

	if (P(count_bytes)(s->word_masks, WORD_MASKS) != s->n_masks ||
		P(count_bytes)(masks, s->n_masks) != s->n_literals)
		return -1;
	refs[0] = 0;
	P(unpack_refs)(refs + 1, s->refs, s->n_refs);
	for (uint32_t g = 0; g < GROUPS; g++) {
		uint32_t words = s->word_masks[g];
		uint64_t mask = P(spread_bytes)(tz_load64(masks), words);

		masks += P(count)(words);
		for (uint32_t b = 0; b < PER_GROUP; b++) {
			const uint32_t at = g * 64 + b * BREF_BLOCK;
			uint64_t part = PER_GROUP == 1 ? mask : (uint32_t)(mask >> 32 * b),
				 *bits = &s->is_new[g * PER_GROUP / 64];
			uint32_t distance;

			ref += *bits & 1;
			*bits >>= 1;
			distance = *ref;
			/* What lies before the page's start reads as zeros; the object is refused
			 * afterwards. */
			uint32_t wrong = (distance > at) | (distance - 1 < BREF_BLOCK - 1);
			bad |= wrong;
			P(unpack_block)(out + at, referred(out + at, wrong ? 0 : distance),
				literals, part);
			literals += P(count)(part);
		}
	}
	return bad ? -1 : 0;
}
#endif

/* Reads past a section end within the trailer, and so within the object; that is why the trailer
 * comes last. */
static TZ_TARGET int P(bref_decompress)(const uint8_t *src, size_t n, uint8_t *out)
{
	struct bref_sections s = { .literals = src };
	const uint8_t *end;

	if (n < TRAILER || n >= TZ_PAGE_SIZE)
		return -1;
	end = s.word_masks = src + n - TRAILER;
	for (unsigned k = 0; k < PER_GROUP; k++) {
		s.is_new[k] = tz_load64(end + WORD_MASKS + 8 * k);
		s.n_refs += P(count)(s.is_new[k]);
	}
	s.n_masks = tz_load16(end + WORD_MASKS + BLOCKS / 8);
	if (s.n_masks > 8 * GROUPS || n - TRAILER < (s.n_refs * 3 + 1) / 2 + s.n_masks)
		return -1;
	s.refs = end - (s.n_refs * 3 + 1) / 2;
	s.masks = s.refs - s.n_masks;
	s.n_literals = (uint32_t)(s.masks - src);
	return P(decode_page)(&s, out);
}

#undef P
#undef FN_INLINE
#undef BREF_FINISH_PAGE
#undef BREF_DECODE_PAGE
#undef TZ_SUFFIX
#undef TZ_TARGET
