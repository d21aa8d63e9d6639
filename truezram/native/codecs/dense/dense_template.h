/* dense_template.h - the body of the dense codec, included by dense.c once per instruction set.
 *
 * The includer defines DN(name), DN_FN (static + target attribute) and DN_INLINE (the same, always
 * inlined), after including one dense_ops_*.h with the primitives, in which the instruction sets
 * differ:
 *   op_sample()   picks positions of the page by content and hashes them
 *   op_group_candidates()  turns old entries of the table into distinct reference offsets of one
 *                          64-byte group
 *   op_costs()    compares a group with up to 32 references, prices every 16-byte block, finds the
 *                 cheapest
 *   op_emit()     masks and literals from page and references
 *   op_changes()  where the reference changes from block to block
 *   op_pick()     the cheapest table for some symbols
 *   op_streams()  eight interleaved bit streams from codes
 *   op_rebuild()  the decoder's last step: references, masks and literals to bytes
 * The rest is plain C that the compiler may schedule for the set.
 */

/* Prices, in half bits. A block costs at most 2 * 105 = 210 (op_costs), so price + surcharge fits a
 * byte. */
#define DN_PRICE_SAME 1
#define DN_PRICE_RECENT 10
#define DN_PRICE_NEW 20
/* A distance that prices a block below this is offered to the blocks after it. */
#define DN_PRICE_GOOD 130

/* Compares every group with the candidates found by content, and lists the useful distances.
 * first[g] becomes the number of those before group g. */
DN_NOINLINE void DN(price_candidates)(struct dn_encoder *e)
{
	uint16_t *w = e->winners;
	unsigned n = DN_RECENT, last = 0, before = 0;

	for (unsigned from = 0; from < DN_GROUPS; from += DN_PART) {
		for (unsigned g = from; g < from + DN_PART; g++)
			DN(op_compare)(e, g, DN_OLD, e->batches[g]);
		for (unsigned g = from; g < from + DN_PART; g++)
			DN(op_prices)(e, g, DN_OLD, e->batches[g], DN_PRICE_NEW);
	}
	memcpy(w, tz_dense_recent, sizeof(tz_dense_recent));
	for (unsigned g = 0; g < DN_GROUPS; g++) {
		e->first[g] = (uint16_t)n;
#pragma GCC unroll 4
		for (unsigned b = 0; b < 4; b++) {
			unsigned key = e->best[g][b], off = e->offset[g][key & 63],
				 dist = DN_LEAD + 64 * g - off;

			w[n] = (uint16_t)dist;
			n += ((key >> 8) < DN_PRICE_GOOD) & (off != 0) & (dist != last) &
				(dist != before);
			before = last;
			last = dist;
		}
	}
}

typedef uint16_t DN(old) __attribute__((vector_size(2 * DN_OLD)));

/* For every block, the best of zeros, the seven latest useful distances, and the group's own
 * candidates. */
DN_NOINLINE void DN(price_choices)(struct dn_encoder *e)
{
	for (unsigned from = 0; from < DN_GROUPS; from += DN_PART) {
		for (unsigned g = from; g < from + DN_PART; g++) {
			DN(old) latest;

			memcpy(&latest, e->winners + e->first[g] - DN_OLD, sizeof(latest));
			latest = (uint16_t)(DN_LEAD + 64 * g) - latest;
			latest[0] = 0;
			memcpy(e->offset[g], &latest, sizeof(latest));
			DN(op_compare)(e, g, 0, 1);
		}
		for (unsigned g = from; g < from + DN_PART; g++)
			DN(op_prices)(e, g, 0, 1, DN_PRICE_RECENT);
	}
}

/* Goes through the blocks and keeps a reference if changing it does not pay. Every block's price
 * with the current reference is known from the choice for an earlier block of its group; only at
 * the start of a group it must be computed. Both halves of the page at once, because each is one
 * long dependency chain. */
DN_NOINLINE void DN(choose)(struct dn_encoder *e)
{
	uint32_t now[2] = { 0, 0 };

	for (unsigned i = 0; i < DN_GROUPS / 2; i++) {
#pragma GCC unroll 2
		for (unsigned half = 0; half < 2; half++) {
			unsigned g = i + half * (DN_GROUPS / 2), here = DN_LEAD + 64 * g;
			uint32_t off = now[half],
				 prices = DN(op_price)(e->page + here, e->page + off);

#pragma GCC unroll 4
			for (unsigned b = 0; b < 4; b++) {
				uint32_t key = e->best[g][b], slot = key & 63, price = key >> 8;
				uint32_t kept = (prices >> 8 * b & 255) + DN_PRICE_SAME;

				prices = DN_SELECT_LESS(price, kept, e->prices[g][slot], prices);
				off = DN_SELECT_LESS(price, kept, e->offset[g][slot], off);
				uint32_t dist = off ? here - off : DN_NO_REF;
				e->dist[4 * g + b] = (uint16_t)dist;
				memcpy(e->ref + 64 * g + 16 * b, e->page + off + 16 * b, 16);
			}
			now[half] = off + (off ? 64 : 0);
		}
	}
}

/* Kinds and distance bits of the changed references. Returns the bytes written to e->refs. */
DN_NOINLINE size_t DN(code_refs)(struct dn_encoder *e, unsigned changes)
{
	uint64_t bits = 0;
	unsigned nbits = 0;
	uint8_t *o = e->refs;

	uint32_t n = DN_RECENT;
	memcpy(e->newest, tz_dense_tables.newest, sizeof(e->newest));
	for (unsigned i = 0; i < changes; i++) {
		unsigned dist = e->changes[i] & (TZ_PAGE_SIZE - 1),
			 zero = e->changes[i] == DN_NO_REF;
		uint32_t *entry = &e->newest[DN_NEWEST(dist)], back = n + (dist << 16) - *entry;
		unsigned known = back <= DN_RECENT, is_new = !(known | zero);
		unsigned kind = (dist & 7 ? 2 : 0) + (dist >= 256);

		kind = DN_SELECT_LESS(0, known, DN_KIND_RECENT - 1 + back, kind);
		kind = DN_SELECT_LESS(0, zero, DN_KIND_ZERO, kind);
		e->kinds[i] = (uint8_t)kind;
		*entry = DN_SELECT_LESS(0, is_new, dist << 16 | n, *entry);
		n += is_new;
		bits |= (uint64_t)(dist >> tz_dense_kind_shift[kind] & -is_new) << nbits;
		nbits += tz_dense_kind_bits[kind];
		memcpy(o, &bits, 8);
		o += nbits >> 3;
		bits >>= nbits & ~7u;
		nbits &= 7;
	}
	*o = (uint8_t)bits;
	return (size_t)(o - e->refs) + (nbits != 0);
}

typedef uint16_t DN(row) __attribute__((vector_size(2 * DN_TABLES_EACH)));

/* The table of a class that codes these symbols shortest, judged by at most about 256 of them. */
DN_NOINLINE unsigned DN(pick)(unsigned class, const uint8_t *sym, unsigned n, unsigned *cost)
{
	const DN(row) *row = (const DN(row) *)tz_dense_tables.len[class];
	DN(row) sum = {}, more = {};
	unsigned step = 8 + n / 256 * 8, i = 0, best = ~0u;

	for (; i + 8 <= n; i += step) {
#pragma GCC unroll 4
		for (unsigned k = 0; k < 8; k += 2) {
			sum += row[sym[i + k]];
			more += row[sym[i + k + 1]];
		}
	}
	if (step == 8)
		for (; i < n; i++)
			sum += row[sym[i]];
	sum += more;
	for (unsigned t = 0; t < DN_TABLES_EACH; t++) {
		unsigned key = (unsigned)sum[t] << 5 | t;

		best = key < best ? key : best;
	}
	*cost = best >> 5;
	return best & 31;
}

DN_NOINLINE void DN(parse)(struct dn_encoder *e, const uint8_t *page)
{
	/* workspace_init() zeroed what is around it */
	memcpy(e->page + DN_LEAD, page, TZ_PAGE_SIZE);
	memset(e->table, 0x80, sizeof(e->table));
	unsigned n = DN(op_sample)(e);

	for (unsigned i = 0; i < n; i++) {
		unsigned h = e->hash[i];

		e->hash[i] = e->table[h];
		e->table[h] = e->where[i];
	}
	for (unsigned g = 0; g < DN_GROUPS; g++)
		e->batches[g] = (uint8_t)DN(op_group_candidates)(e, g);
	DN(price_candidates)(e);
	DN(price_choices)(e);
	DN(choose)(e);
}

/* The symbols that the parse leaves to be coded; the tables are trained on the same. */
struct DN(symbols) {
	unsigned changes, masks, literals;
	size_t refs; /* bytes in e->refs */
};

DN_NOINLINE struct DN(symbols) DN(symbolize)(struct dn_encoder *e)
{
	struct DN(symbols) s;

	s.changes = DN(op_changes)(e->dist, e->flags, e->changes);
	s.refs = DN(code_refs)(e, s.changes);
	s.masks = DN(op_emit)(e, e->sym, e->sym + DN_GROUPS, &s.literals);
	return s;
}

DN_FN size_t DN(compress)(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct dn_encoder *e = &((struct dn_workspace *)workspace)->enc;

	DN(parse)(e, page);
	struct DN(symbols) s = DN(symbolize)(e);
	unsigned at_l = DN_GROUPS + s.masks, end = at_l + s.literals, kinds = (s.changes + 1) / 2;
	unsigned bits_raw, bits_delta, bits;
	unsigned t_raw = DN(pick)(DN_L, e->lit[0], s.literals, &bits_raw);
	unsigned t_delta = DN(pick)(DN_L, e->lit[1], s.literals, &bits_delta);
	unsigned delta = bits_delta < bits_raw, t_l = delta ? t_delta : t_raw;
	unsigned t_m = DN(pick)(DN_M, e->sym + DN_GROUPS, s.masks, &bits);
	unsigned t_w = DN(pick)(DN_W, e->sym, DN_GROUPS, &bits);

	memcpy(e->sym + at_l, e->lit[delta], s.literals);
	DN(op_codes)(e, 0, DN_GROUPS, DN_W * DN_TABLES_EACH + t_w);
	DN(op_codes)(e, DN_GROUPS, at_l, DN_M * DN_TABLES_EACH + t_m);
	DN(op_codes)(e, at_l, end, DN_L * DN_TABLES_EACH + t_l);
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
	size_t size = DN_HEAD + width + DN_FLAGS + kinds + total + s.refs;
	if (size >= TZ_PAGE_SIZE)
		return 0;

	uint32_t tables = delta | t_l << 1 | t_m << 6 | t_w << 11;
	uint32_t counts = s.literals | s.masks << 13 | s.changes << 23;
	uint32_t lengths = least | width << 10;
	memcpy(dst, &tables, 2);
	memcpy(dst + 2, &counts, 4);
	memcpy(dst + 6, &lengths, 2);
	uint8_t *o = dst + DN_HEAD;
	unsigned __int128 widths = 0;
	for (unsigned i = 0; i < DN_STREAMS; i++)
		widths |= (unsigned __int128)(length[i] - least) << (i * width);
	memcpy(o, &widths, 16);
	o += width;
	memcpy(o, e->flags, DN_FLAGS);
	o += DN_FLAGS;
	e->kinds[s.changes] = 0;
	for (unsigned i = 0; i < kinds; i++)
		o[i] = (uint8_t)(e->kinds[2 * i] | e->kinds[2 * i + 1] << 4);
	o += kinds;
	for (unsigned i = 0; i < DN_STREAMS; i++) {
		memcpy(o, e->stream[i], length[i]);
		o += length[i];
	}
	memcpy(o, e->refs, s.refs);
	return size;
}

/* Eight bit readers. A register holds unread bits and, above them, one marker bit: the zeros above
 * the marker give the number of bits taken since `p`, so no counter is needed. After a refill 56
 * bits can be taken. */
struct DN(readers) {
	const uint8_t *p[DN_STREAMS];
	uint64_t b[DN_STREAMS];
};

#define DN_EACH(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define DN_LOAD(s) b##s = r->b[s];
#define DN_SAVE(s) r->b[s] = b##s;
#define DN_REFILL(s) \
	{ \
		unsigned used = (unsigned)__builtin_clzll(b##s); \
		const uint8_t *p = r->p[s] + (used >> 3); \
		uint64_t next; \
		r->p[s] = p; \
		memcpy(&next, p, 8); \
		DN_SET_MARK(next); \
		b##s = next >> (used & 7); \
	}
#define DN_TAKE(s) DN_SYMBOL(b##s, t, o, s)
#define DN_TAKE_EITHER(s) \
	{ \
		const uint16_t *either = DN_SELECT_TABLE(left, s, after, t); \
		DN_SYMBOL(b##s, either, o, s) \
	}

/* Rounds of eight symbols by one table, four or five between refills. Not inlined, so that the
 * compiler has all registers for these loops. */
#define DN_READ_ROUNDS(name, each) \
	DN_NOINLINE uint8_t *name(struct DN(readers) *r, const uint16_t *t, uint8_t *o, \
		unsigned refills) \
	{ \
		uint64_t b0, b1, b2, b3, b4, b5, b6, b7; \
\
		DN_EACH(DN_LOAD) \
		do { \
			DN_EACH(DN_REFILL) \
			_Pragma("GCC unroll 5") for (unsigned k = 0; k < each; k++, o += 8) \
			{ \
				DN_EACH(DN_TAKE) \
			} \
		} while (--refills); \
		DN_EACH(DN_SAVE) \
		return o; \
	}
DN_READ_ROUNDS(DN(read_fours), 4)
DN_READ_ROUNDS(DN(read_fives), 5)

/* Five rounds of which only the first `left` symbols use `t`, the others `after`. */
DN_NOINLINE uint8_t *DN(read_border)(struct DN(readers) *r, const uint16_t *t,
	const uint16_t *after, int left, uint8_t *o)
{
	uint64_t b0, b1, b2, b3, b4, b5, b6, b7;

	DN_EACH(DN_LOAD)
	DN_EACH(DN_REFILL)
#pragma GCC unroll 5
	for (unsigned k = 0; k < 5; k++, o += 8, left -= 8) {
		DN_EACH(DN_TAKE_EITHER)
	}
	DN_EACH(DN_SAVE)
	return o;
}

/* As read_border() for a chunk with more than one border. */
DN_NOINLINE uint8_t *DN(read_borders)(struct DN(readers) *r,
	const uint16_t *const table[DN_CLASSES + 1], const unsigned end[DN_CLASSES], unsigned i,
	uint8_t *o)
{
	for (unsigned s = 0; s < DN_STREAMS; s++) {
		unsigned used = (unsigned)__builtin_clzll(r->b[s]);
		uint64_t b;

		r->p[s] += used >> 3;
		memcpy(&b, r->p[s], 8);
		b = (b | 1ull << 63) >> (used & 7);
		for (unsigned k = s; k < DN_CHUNK; k += 8) {
			unsigned class = DN_M + (i + k >= end[DN_M]) + (i + k >= end[DN_L]);
			unsigned entry = table[class][b & ((1 << DN_MAX_BITS) - 1)];

			b >>= entry & 63;
			o[k] = (uint8_t)(entry >> 8);
		}
		r->b[s] = b;
	}
	return o + DN_CHUNK;
}

/* Decodes end[DN_L] symbols to sym (and up to DN_CHUNK - 1 bytes more), class c's up to end[c] with
 * table[c]. Refills come after 4 and 8 rounds, where W ends, then after every fifth;
 * table[DN_CLASSES] takes no bits. -1 if a stream is not exactly as long as stated. Reads less than
 * 1100 bytes past src. */
DN_NOINLINE int DN(read_symbols)(const uint8_t *src, const uint32_t length[DN_STREAMS],
	uint8_t *sym, const uint16_t *const table[DN_CLASSES + 1], const unsigned end[DN_CLASSES])
{
	const uint8_t *start[DN_STREAMS];
	struct DN(readers) r;
	uint64_t wrong = 0;

	for (unsigned i = 0; i < DN_STREAMS; i++) {
		r.p[i] = start[i] = src;
		r.b[i] = 1ull << 63;
		src += length[i];
	}
	uint8_t *o = DN(read_fours)(&r, table[DN_W], sym, 2);
	for (unsigned class = DN_M; class < DN_CLASSES; class++) {
		unsigned at = (unsigned)(o - sym);

		if (at >= end[class])
			continue;
		unsigned left = end[class] - at, chunks = left / DN_CHUNK;
		if (chunks)
			o = DN(read_fives)(&r, table[class], o, chunks);
		left -= chunks * DN_CHUNK;
		at += chunks * DN_CHUNK;
		if (!left)
			continue;
		if (class == DN_L || at + DN_CHUNK <= end[class + 1])
			o = DN(read_border)(&r, table[class], table[class + 1], (int)left, o);
		else
			o = DN(read_borders)(&r, table, end, at, o);
	}
	for (unsigned i = 0; i < DN_STREAMS; i++)
		wrong |= ((uint64_t)(r.p[i] - start[i]) +
				 ((unsigned)__builtin_clzll(r.b[i]) + 7) / 8) ^
			length[i];
	return wrong ? -1 : 0;
}

typedef uint8_t DN(pairs) __attribute__((vector_size(16)));
typedef uint16_t DN(halves) __attribute__((vector_size(32)));

DN_FN int DN(decompress)(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct dn_decoder *d = &((struct dn_workspace *)workspace)->dec;
	uint32_t tables = 0, counts, lengths = 0, length[DN_STREAMS];
	unsigned __int128 widths;

	if (n < DN_HEAD + DN_FLAGS || n >= TZ_PAGE_SIZE)
		return -1;
	/* Reads from a copy with room after it, because invalid objects may lead past the end; the
	 * header, which is complete, from the source. */
	memcpy(d->src, src, n);
	memcpy(&tables, src, 2);
	memcpy(&counts, src + 2, 4);
	memcpy(&lengths, src + 6, 2);
	memcpy(&widths, src + DN_HEAD, 16);
	unsigned literals = counts & 0x1fff, masks = counts >> 13 & 0x3ff, changes = counts >> 23;
	unsigned width = lengths >> 10, kinds = (changes + 1) / 2;
	if (literals > TZ_PAGE_SIZE || masks > DN_WORDS || changes > DN_BLOCKS || width > 10)
		return -1;
	const uint8_t *flags = d->src + DN_HEAD + width, *kind = flags + DN_FLAGS,
		      *streams = kind + kinds;
	size_t used = DN_HEAD + width + DN_FLAGS + kinds;
	for (unsigned i = 0; i < DN_STREAMS; i++) {
		length[i] = (lengths & 0x3ff) +
			((uint32_t)(widths >> (i * width)) & ((1u << width) - 1));
		used += length[i];
	}
	if (used > n)
		return -1;

	const unsigned end[DN_CLASSES] = { DN_GROUPS, DN_GROUPS + masks,
		DN_GROUPS + masks + literals };
	const uint16_t *table[DN_CLASSES + 1] = {
		tz_dense_tables.dec[DN_W * DN_TABLES_EACH + (tables >> 11)],
		tz_dense_tables.dec[DN_M * DN_TABLES_EACH + (tables >> 6 & 31)],
		tz_dense_tables.dec[DN_L * DN_TABLES_EACH + (tables >> 1 & 31)],
		tz_dense_tables.dec[DN_TABLES],
	};
	for (unsigned i = 0; i < 2 << DN_MAX_BITS; i += 64)
		__builtin_prefetch((const uint8_t *)table[DN_L] + i);
	/* always all of them: a fixed number, no branch */
	for (unsigned i = 0; i < DN_BLOCKS / 2; i += 16) {
		DN(pairs) pairs;
		DN(halves) halves;

		memcpy(&pairs, kind + i, sizeof(pairs));
		halves = __builtin_convertvector(pairs, DN(halves));
		halves = (halves | halves << 4) & 0x0f0f;
		memcpy(d->kinds + 2 * i, &halves, sizeof(halves));
	}
	memcpy(d->flags, flags, DN_FLAGS);
	if (DN(op_read_refs)(d, d->src + used, n - used, changes) ||
	    DN(read_symbols)(streams, length, d->sym, table, end))
		return -1;
	return DN(op_rebuild)(d, d->sym + end[DN_W], d->sym + end[DN_M], out, tables & 1, changes,
		masks, literals);
}
