/* dense_template.h - the body of the dense codec, included by dense.c once per instruction set.
 *
 * The includer defines DN(name), DN_FN (static + target attribute) and DN_INLINE (the same, always inlined), after
 * including one dense_ops_*.h with the primitives, which is where the instruction sets differ:
 *   op_sample()   picks positions of the page by content and hashes them
 *   op_group_candidates()  turns what the table held into distinct reference offsets of one 64-byte group
 *   op_costs()    compares a group with up to 32 references, prices every 16-byte block, finds the cheapest
 *   op_emit()     masks and literals from page and references
 *   op_changes()  where the reference changes from block to block
 *   op_pick()     the cheapest table for some symbols
 *   op_streams()  eight interleaved bit streams from codes
 *   op_rebuild()  the decoder's last step: references, masks and literals to bytes
 * The rest is plain C that the compiler may schedule for the set.
 */

/* Prices, in half bits. A block costs at most 2 * DN_WORD_COST(8) = 210, so price + surcharge fits a byte. */
#define DN_PRICE_SAME 1
#define DN_PRICE_RECENT 10
#define DN_PRICE_NEW 20

/* Reference choice for every block, front to back. Slot 0 of the "old" candidates is the last reference, slot 1
 * zeros, the others the most recent new distances. A choice is represented by where its prices are (`at`), because
 * they tell at once what it would cost to go on with it in the group's other blocks. */
DN_FN void DN(choose)(struct dn_encoder *e)
{
	uint32_t ring[8], ring_n = 0, last = 0; /* distances; 0 = zeros */
	uint8_t old_cost[2][64] __attribute__((aligned(64)));

	for (unsigned i = 0; i < 8; i++)
		ring[i] = tz_dense_recent[DN_RECENT - 8 + i];
	for (unsigned g = 0; g < DN_GROUPS; g++) {
		uint32_t here = DN_LEAD + 64 * g;
		const uint8_t *at = old_cost[g & 1];
		uint16_t off[8], best[4];

		off[0] = last ? here - last : 0;
		off[1] = 0;
		for (unsigned k = 0; k < 6; k++)
			off[2 + k] = here - ring[(ring_n + 2 + k) & 7];
		DN(op_costs)(e->page + here, e->page, off, 1, &old_cost[g & 1], best);
		uint32_t now = off[0];
		for (unsigned b = 0; b < 4; b++) {
			uint32_t kept = at[16 * b] + DN_PRICE_SAME;
			uint32_t old = best[b] + (DN_PRICE_RECENT << 8), new = e->best[g][b] + (DN_PRICE_NEW << 8);
			uint32_t is_new = new < old, key = is_new ? new : old, slot = key & 31;
			uint32_t change = (key >> 8) < kept;
			const uint8_t *new_at = &e->cost[g][slot >> 3][slot & 7], *old_at = &old_cost[g & 1][slot & 7];
			const uint8_t *key_at = is_new ? new_at : old_at;
			const uint16_t *offs = is_new ? e->cand[g] : off;
			uint32_t key_off = offs[slot];

			at = change ? key_at : at;
			now = change ? key_off : now;
			uint32_t dist = now ? here - now : 0;
			e->dist[4 * g + b] = (uint16_t)(dist - !dist);
			ring[ring_n & 7] = dist;
			ring_n += is_new & change & (dist != 0);
			memcpy(e->ref + 64 * g + 16 * b, e->page + now + 16 * b, 16);
		}
		last = now ? here - now : 0;
	}
}

/* Kinds and distance bits of the changed references. Returns the bytes written to e->refs. */
DN_FN size_t DN(code_refs)(struct dn_encoder *e, unsigned n)
{
	uint16_t news[DN_RECENT + DN_BLOCKS + 16];
	uint16_t *recent = news; /* the DN_RECENT latest */
	uint64_t bits = 0;
	unsigned nbits = 0;
	uint8_t *o = e->refs;

	memcpy(news, tz_dense_recent, sizeof(tz_dense_recent));
	for (unsigned i = 0; i < n; i++) {
		unsigned d = e->changes[i], kind;

		if (d == DN_NO_REF) {
			kind = DN_KIND_ZERO;
		} else {
			unsigned back = DN(op_find_recent)(recent, d);

			if (back) {
				kind = DN_KIND_RECENT - 1 + back;
			} else {
				kind = (d & 7 ? 2 : 0) + (d >= 256);
				recent[DN_RECENT] = (uint16_t)d;
				recent++;
				bits |= (uint64_t)(d >> tz_dense_kind_shift[kind]) << nbits;
				nbits += tz_dense_kind_bits[kind];
				memcpy(o, &bits, 8);
				o += nbits >> 3;
				bits >>= nbits & ~7u;
				nbits &= 7;
			}
		}
		e->kinds[i] = (uint8_t)kind;
	}
	*o = (uint8_t)bits;
	return (size_t)(o - e->refs) + (nbits != 0);
}

DN_INLINE void DN(put_codes)(struct dn_encoder *e, unsigned from, unsigned to, unsigned table)
{
	const uint16_t *code = tz_dense_tables.code[table];

	for (unsigned i = from; i < to; i++)
		e->code[i] = code[e->sym[i]];
}

DN_FN void DN(parse)(struct dn_encoder *e, const uint8_t *page)
{
	memset(e->page, 0, DN_LEAD);
	memcpy(e->page + DN_LEAD, page, TZ_PAGE_SIZE);
	memset(e->page + DN_LEAD + TZ_PAGE_SIZE, 0, 128);
	memset(e->table, 0x80, sizeof(e->table));
	unsigned n = DN(op_sample)(e);

	for (unsigned i = 0; i < n; i++) {
		unsigned h = e->hash[i];

		e->hash[i] = e->table[h];
		e->table[h] = e->where[i];
	}
	for (unsigned g = 0; g < DN_GROUPS; g++)
		e->batches[g] = (uint8_t)DN(op_group_candidates)(e, g);
	for (unsigned g = 0; g < DN_GROUPS; g++)
		DN(op_costs)(e->page + DN_LEAD + 64 * g, e->page, e->cand[g], e->batches[g], e->cost[g], e->best[g]);
	DN(choose)(e);
}

/* What the parse leaves to be coded; also what the tables are trained on. */
struct DN(symbols) {
	unsigned changes, kinds, masks, literals;
	size_t refs; /* bytes in e->refs */
};

DN_FN struct DN(symbols) DN(symbolize)(struct dn_encoder *e)
{
	struct DN(symbols) s;

	s.changes = DN(op_changes)(e->dist, e->sym, e->changes);
	s.refs = DN(code_refs)(e, s.changes);
	s.kinds = (s.changes + 1) / 2;
	e->kinds[s.changes] = 0;
	for (unsigned i = 0; i < s.kinds; i++)
		e->sym[DN_SYM_K + i] = (uint8_t)(e->kinds[2 * i] | e->kinds[2 * i + 1] << 4);
	s.masks = DN(op_emit)(e, e->sym + DN_SYM_W, e->sym + DN_SYM_K + s.kinds, &s.literals);
	return s;
}

DN_FN size_t DN(compress)(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct dn_encoder *e = workspace;

	DN(parse)(e, page);
	struct DN(symbols) s = DN(symbolize)(e);
	unsigned at_m = DN_SYM_K + s.kinds, at_l = at_m + s.masks, end = at_l + s.literals;
	unsigned bits_raw, bits_delta, bits;
	unsigned t_raw = DN(op_pick)(DN_FIRST_L, DN_TABLES_L, e->lit[0], s.literals, &bits_raw);
	unsigned t_delta = DN(op_pick)(DN_FIRST_L, DN_TABLES_L, e->lit[1], s.literals, &bits_delta);
	unsigned delta = bits_delta < bits_raw, t_l = delta ? t_delta : t_raw;
	unsigned t_m = DN(op_pick)(DN_FIRST_M, DN_TABLES_M, e->sym + at_m, s.masks, &bits);
	unsigned t_k = DN(op_pick)(DN_FIRST_K, DN_TABLES_K, e->sym + DN_SYM_K, s.kinds, &bits);
	unsigned t_w = DN(op_pick)(DN_FIRST_W, DN_TABLES_W, e->sym + DN_SYM_W, DN_SYM_K - DN_SYM_W, &bits);
	unsigned t_r = DN(op_pick)(DN_FIRST_R, DN_TABLES_R, e->sym, DN_SYM_W, &bits);

	memcpy(e->sym + at_l, e->lit[delta], s.literals);
	DN(put_codes)(e, 0, DN_SYM_W, DN_FIRST_R + t_r);
	DN(put_codes)(e, DN_SYM_W, DN_SYM_K, DN_FIRST_W + t_w);
	DN(put_codes)(e, DN_SYM_K, at_m, DN_FIRST_K + t_k);
	DN(put_codes)(e, at_m, at_l, DN_FIRST_M + t_m);
	DN(put_codes)(e, at_l, end, DN_FIRST_L + t_l);
	memset(e->code + end, 0, DN_CHUNK * sizeof(e->code[0]));

	uint32_t length[DN_STREAMS], least = ~0u, most = 0;
	DN(op_streams)(e->code, end, e->stream, length);
	uint32_t total = 0;
	for (unsigned i = 0; i < DN_STREAMS; i++) {
		least = length[i] < least ? length[i] : least;
		most = length[i] > most ? length[i] : most;
		total += length[i];
	}
	unsigned width = most > least ? 32 - (unsigned)__builtin_clz(most - least) : 0;
	size_t size = DN_HEAD + width + total + s.refs;
	if (size >= TZ_PAGE_SIZE)
		return 0;

	uint32_t tables = delta | t_l << 1 | t_m << 6 | t_w << 11 | t_k << 16 | t_r << 20;
	uint32_t counts = s.literals | s.masks << 13 | s.changes << 23;
	uint32_t lengths = least | width << 10;
	memcpy(dst, &tables, 3);
	memcpy(dst + 3, &counts, 4);
	memcpy(dst + 7, &lengths, 2);
	uint8_t *o = dst + DN_HEAD;
	unsigned __int128 widths = 0;
	for (unsigned i = 0; i < DN_STREAMS; i++)
		widths |= (unsigned __int128)(length[i] - least) << (i * width);
	memcpy(o, &widths, 16);
	o += width;
	for (unsigned i = 0; i < DN_STREAMS; i++) {
		memcpy(o, e->stream[i], length[i]);
		o += length[i];
	}
	memcpy(o, e->refs, s.refs);
	return size;
}

/* Eight bit readers. A register holds unread bits and, above them, one marker bit: the zeros above the marker say how
 * many bits were taken since `p`, so that no count is kept. After a refill 56 bits can be taken. */
#define DN_EACH(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define DN_REFILL(s)                                                                                                   \
	{                                                                                                              \
		unsigned used = (unsigned)__builtin_clzll(b##s);                                                       \
		uint64_t next;                                                                                         \
		p##s += used >> 3;                                                                                     \
		memcpy(&next, p##s, 8);                                                                                \
		b##s = (next | 1ull << 63) >> (used & 7);                                                              \
	}
#define DN_TAKE(s)                                                                                                     \
	{                                                                                                              \
		unsigned entry = t[b##s & ((1 << DN_MAX_BITS) - 1)];                                                   \
		b##s >>= entry & 63;                                                                                   \
		o[s] = (uint8_t)(entry >> 8);                                                                          \
	}
#define DN_TAKE_ANY(s)                                                                                                 \
	{                                                                                                              \
		unsigned entry = table[(i + s >= end[0]) + (i + s >= end[1]) + (i + s >= end[2]) + (i + s >= end[3]) + \
				       (i + s >= end[4])][b##s & ((1 << DN_MAX_BITS) - 1)];                            \
		b##s >>= entry & 63;                                                                                   \
		o[s] = (uint8_t)(entry >> 8);                                                                          \
	}

/* Decodes end[4] symbols to sym (and up to DN_CHUNK - 1 bytes more), class c's up to end[c] with table[c].
 * -1 when a stream is not exactly as long as stated. Reads less than 1100 bytes past src. */
DN_FN int DN(read_symbols)(const uint8_t *src, const uint32_t length[DN_STREAMS], uint8_t *sym,
			   const uint16_t *const table[DN_CLASSES + 1], const unsigned end[DN_CLASSES])
{
	const uint8_t *start[DN_STREAMS], *p0, *p1, *p2, *p3, *p4, *p5, *p6, *p7;
	uint64_t b0, b1, b2, b3, b4, b5, b6, b7;
	uint8_t *o = sym;

	for (unsigned i = 0; i < DN_STREAMS; i++) {
		start[i] = src;
		src += length[i];
	}
#define DN_START(s) p##s = start[s], b##s = 1ull << 63;
	DN_EACH(DN_START)
#undef DN_START
	for (unsigned class = 0; class < DN_CLASSES; class++) {
		const uint16_t *t = table[class];
		const uint8_t *stop = sym + end[class];

		while (o + DN_CHUNK <= stop) {
			DN_EACH(DN_REFILL)
#pragma GCC unroll 5
			for (int k = 0; k < 5; k++, o += 8) {
				DN_EACH(DN_TAKE)
			}
		}
		if (o < stop) { /* the chunk in which this class ends */
			unsigned i = (unsigned)(o - sym);

			DN_EACH(DN_REFILL)
			for (int k = 0; k < 5; k++, o += 8, i += 8) {
				DN_EACH(DN_TAKE_ANY)
			}
		}
	}
	uint64_t wrong = 0;
#define DN_CHECK(s) wrong |= ((uint64_t)(p##s - start[s]) + ((unsigned)__builtin_clzll(b##s) + 7) / 8) ^ length[s];
	DN_EACH(DN_CHECK)
#undef DN_CHECK
	return wrong ? -1 : 0;
}

/* The distances of `n` changed references, to list[0 .. n). -1 when one is impossible or the bits are not `size`
 * bytes. Reads at most 400 bytes of refs. */
DN_FN int DN(read_refs)(struct dn_decoder *d, const uint8_t *refs, size_t size, unsigned n)
{
	uint16_t *news = d->news;
	unsigned bits = 0, newest = DN_RECENT - 1, low = 0;

	memcpy(news, tz_dense_recent, sizeof(tz_dense_recent));
	d->list[0] = DN_NO_REF;
	for (unsigned i = 0; i < n; i++) {
		unsigned kind = d->kinds[i], is_new = kind < DN_KIND_RECENT, width = tz_dense_kind_bits[kind];
		uint32_t word;

		memcpy(&word, refs + (bits >> 3), 4);
		word = (word >> (bits & 7) & ((1u << width) - 1)) << tz_dense_kind_shift[kind];
		bits += width;
		newest += is_new;
		news[newest + !is_new] = (uint16_t)word;
		low |= is_new & (word < DN_BLOCK);
		unsigned dist = news[newest - tz_dense_kind_back[kind]];
		d->list[i + 1] = (uint16_t)(kind == DN_KIND_ZERO ? DN_NO_REF : dist);
	}
	return low || (bits + 7) / 8 != size ? -1 : 0;
}

DN_FN int DN(decompress)(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct dn_decoder *d = workspace;
	uint32_t tables = 0, counts, lengths = 0, length[DN_STREAMS];
	unsigned __int128 widths;

	if (n < DN_HEAD || n >= TZ_PAGE_SIZE)
		return -1;
	memcpy(d->src, src, n);
	memcpy(&tables, d->src, 3);
	memcpy(&counts, d->src + 3, 4);
	memcpy(&lengths, d->src + 7, 2);
	memcpy(&widths, d->src + DN_HEAD, 16);
	unsigned literals = counts & 0x1fff, masks = counts >> 13 & 0x3ff, changes = counts >> 23;
	unsigned width = lengths >> 10, kinds = (changes + 1) / 2;
	if (literals > TZ_PAGE_SIZE || masks > DN_WORDS || changes > DN_BLOCKS || width > 10)
		return -1;
	size_t used = DN_HEAD + width;
	for (unsigned i = 0; i < DN_STREAMS; i++) {
		length[i] = (lengths & 0x3ff) + ((uint32_t)(widths >> (i * width)) & ((1u << width) - 1));
		used += length[i];
	}
	if (used > n)
		return -1;

	unsigned end[DN_CLASSES] = { DN_SYM_W, DN_SYM_K, DN_SYM_K + kinds, DN_SYM_K + kinds + masks,
				     DN_SYM_K + kinds + masks + literals };
	const uint16_t *table[DN_CLASSES + 1] = {
		tz_dense_tables.dec[DN_FIRST_R + (tables >> 20)],
		tz_dense_tables.dec[DN_FIRST_W + (tables >> 11 & 31)],
		tz_dense_tables.dec[DN_FIRST_K + (tables >> 16 & 15)],
		tz_dense_tables.dec[DN_FIRST_M + (tables >> 6 & 31)],
		tz_dense_tables.dec[DN_FIRST_L + (tables >> 1 & 31)],
		tz_dense_tables.dec[DN_TABLES],
	};
	if (DN(read_symbols)(d->src + DN_HEAD + width, length, d->sym, table, end))
		return -1;
	for (unsigned i = 0; i < kinds; i++) {
		d->kinds[2 * i] = d->sym[DN_SYM_K + i] & 15;
		d->kinds[2 * i + 1] = d->sym[DN_SYM_K + i] >> 4;
	}
	if (DN(read_refs)(d, d->src + used, n - used, changes))
		return -1;
	if (tables & 1)
		return DN(op_rebuild)(d->sym, d->list, d->sym + end[2], d->sym + end[3], out, 1, changes, masks, literals);
	return DN(op_rebuild)(d->sym, d->list, d->sym + end[2], d->sym + end[3], out, 0, changes, masks, literals);
}
