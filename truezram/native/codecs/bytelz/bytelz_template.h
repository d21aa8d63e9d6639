/* bytelz_template.h - byte-LZ encoder and decoder (bytelz.h) for one instruction set;
 * bref_template.h follows it. */

#define P(name) TZ_CONCAT(name, TZ_SUFFIX)
#define FN_INLINE static inline __attribute__((always_inline)) TZ_TARGET

/* The encoder's positions in its three streams. */
struct P(lz_writer) {
	uint8_t *literals, *tokens;
	uint16_t *distances;
};

/* Appends literals from `from` on, with tokens for all but those that a token with a match can
 * hold; returns the number of these. */
FN_INLINE uint32_t P(lz_put_literals)(struct P(lz_writer) *w, const uint8_t *from, uint32_t n)
{
	memcpy(w->literals, from, LZ_COPY);
	if (TZ_UNLIKELY(n > LZ_MAX_LITERALS)) {
		for (uint32_t i = LZ_COPY; i < n; i += LZ_COPY)
			memcpy(w->literals + i, from + i, LZ_COPY);
		w->literals += n;
		while (n > LZ_MAX_LITERALS) {
			uint32_t run = n < 32 ? n & ~1u : 32;
			*w->tokens++ = (uint8_t)(run / 2 - 1);
			n -= run;
		}
		return n;
	}
	w->literals += n;
	return n;
}

/* Appends the match of page[at .. end) at distance d, after as many literals as the token can
 * hold. Returns where it ends: up to 3 bytes may be left over. *anchor is the first byte without
 * a token. */
FN_INLINE uint32_t P(lz_put_match)(struct P(lz_writer) *w, const uint8_t *page, uint32_t literals,
	uint32_t at, uint32_t end, uint32_t d, uint32_t *anchor)
{
	const uint32_t start = at;

	do {
		uint32_t distance = d, most = end - at, code;

		if (TZ_UNLIKELY(d - 1 < LZ_COPY - 1)) {
			/* A short period: goes back as far as it reaches by now. */
			distance = (at - start + d) / d * d;
			most = most < distance ? most : distance;
			if (distance < LZ_MIN_MATCH) {
				*w->literals++ = page[at++];
				if (++literals > LZ_MAX_LITERALS) {
					*w->tokens++ = (LZ_MAX_LITERALS + 1) / 2 - 1;
					literals = 0;
				}
				continue;
			}
		}
		code = lz_code[most < LZ_COPY ? most : LZ_COPY];
		*w->tokens++ = (uint8_t)(literals | code << 4);
		*w->distances++ = (uint16_t)distance;
		literals = 0;
		at += lz_length[code];
	} while (end - at >= LZ_MIN_MATCH);
	w->literals -= literals;
	*anchor = at - literals;
	return at;
}

#if defined(LZ_MATCHES)
/* Writes the streams of the page in ws->page, from matches found beforehand. Returns the first byte
 * that is not in them. */
FN_INLINE uint32_t P(lz_parse)(struct lz_workspace *ws, struct P(lz_writer) *w)
{
	const uint8_t *page = ws->page + LZ_FRONT;
	uint32_t n = LZ_MATCHES(ws), anchor = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct lz_match m = ws->match[i];
		uint32_t literals = P(lz_put_literals)(w, page + anchor, m.start - anchor);

		P(lz_put_match)(w, page, literals, m.start, m.end, m.distance, &anchor);
	}
	return anchor;
}
#else
/* Writes the streams of the page in ws->page, one match after the other. Returns the first byte
 * that is not in them. */
FN_INLINE uint32_t P(lz_parse)(struct lz_workspace *ws, struct P(lz_writer) *w)
{
	const uint8_t *page = ws->page + LZ_FRONT;
	const uint32_t last = TZ_PAGE_SIZE - LZ_MIN_MATCH;
	uint32_t base = lz_next_base(ws) + 1, anchor = 0, at = 0, tries = 1 << 6;

	while (at <= last) {
		uint32_t v = tz_load32(page + at), literals, end, d, back;
		uint16_t *entry = &ws->table[lz_hash(v)];
		int32_t from = (int32_t)*entry - (int32_t)base;

		/* Nothing found: a position before the page, where there are zeros. */
		from = from < 0 ? -LZ_FRONT / 2 : from;
		*entry = (uint16_t)(base + at);
		if (tz_load32(page + from) != v) {
			at += tries++ >> 6;
			continue;
		}
		tries = 1 << 6;
		if (v == 0) {
			end = at + P(lz_zeros)(page, at);
			d = 0;
		} else {
			end = at + P(lz_equal)(page, at, (uint32_t)from);
			d = at - (uint32_t)from;
			back = P(lz_equal_behind)(page + at, page + from);
			back = back < at - anchor ? back : at - anchor;
			at -= back < (uint32_t)from ? back : (uint32_t)from;
		}
		end = end < TZ_PAGE_SIZE ? end : TZ_PAGE_SIZE;
		literals = P(lz_put_literals)(w, page + anchor, at - anchor);
		at = P(lz_put_match)(w, page, literals, at, end, d, &anchor);
		ws->table[lz_hash(tz_load32(page + at - 2))] = (uint16_t)(base + at - 2);
	}
	return anchor;
}
#endif

/* Copies n literals in steps of 64 bytes. Returns their end. */
FN_INLINE uint8_t *P(lz_store)(uint8_t *to, const uint8_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 64)
		memcpy(to + i, from + i, 64);
	return to + n;
}

/* Writes the page's object to dst if it is shorter than `limit` (at most 4096). Returns its length,
 * or 0. */
static TZ_TARGET TZ_NOINLINE size_t P(lz_compress)(struct lz_workspace *ws, const uint8_t *page,
	uint8_t *dst, size_t limit)
{
	struct P(lz_writer) w = { ws->literals, ws->tokens, ws->distances };
	uint32_t n_literals, n_tokens, n_distances, stored, anchor;
	uint8_t *op = dst;
	int any;

	P(lz_store)(ws->page + LZ_FRONT, page, TZ_PAGE_SIZE);
	anchor = P(lz_parse)(ws, &w);
	for (uint32_t n =
			P(lz_put_literals)(&w, ws->page + LZ_FRONT + anchor, TZ_PAGE_SIZE - anchor);
		n;) {
		uint32_t run = n < 4 ? 1 : n & ~1u;
		*w.tokens++ = (uint8_t)(n < 4 ? 0 : run / 2 - 1);
		n -= run;
	}
	n_literals = (uint32_t)(w.literals - ws->literals);
	n_tokens = (uint32_t)(w.tokens - ws->tokens);
	n_distances = (uint32_t)(w.distances - ws->distances);
	memset(w.literals, 0, 64);
	*w.distances = 0;
	any = P(lz_any_high)(ws->literals, n_literals);
	stored = any ? n_literals : (7 * n_literals + 7) / 8;
	if (stored + (3 * n_distances + 1) / 2 + n_tokens + LZ_TRAILER >= limit ||
		n_tokens > LZ_MAX_TOKENS)
		return 0;
	if (any)
		P(lz_store)(op, ws->literals, n_literals);
	else
		P(lz_pack7)(op, ws->literals, n_literals);
	op += stored;
	P(pack12)(op, ws->distances, n_distances);
	op += (3 * n_distances + 1) / 2;
	op = P(lz_store)(op, ws->tokens, n_tokens);
	tz_store32(op, n_tokens | n_distances << 12 | (uint32_t)(any ? MODE_LZ : MODE_LZ7) << 24);
	return (size_t)(op + LZ_TRAILER - dst);
}

/* Most pages that are not text show it in the first few samples. */
FN_INLINE struct lz_look P(lz_look)(const uint8_t *page)
{
	uint32_t n = 0, strange;

	for (uint32_t i = 0; i < TZ_PAGE_SIZE; i += LZ_LOOKS)
		n += P(lz_strange)(page + i);
	strange = n & 0xffff;
	if (TZ_LIKELY((n >> 16) + strange > LZ_TEXT / 4))
		return (struct lz_look){ strange, 0 };
	n = 0;
	for (uint32_t i = 0; i < TZ_PAGE_SIZE; i += 64)
		n += P(lz_strange)(page + i);
	return (struct lz_look){ strange, (n >> 16) + (n & 0xffff) <= LZ_TEXT };
}

/* Whether byte-LZ may save enough (LZ_SAVES in fast.c) over the n bytes (0: none) of block
 * reference. The limits are fitted to pages of many programs. */
FN_INLINE int P(lz_may_win)(struct lz_look look, size_t n)
{
	n = n ? n : TZ_PAGE_SIZE;
	if (look.strange < LZ_LOOKS / 6)
		return n > 2100;
	return n > 3000 && (n < 3950 || look.strange < LZ_LOOKS / 2);
}

/* Decodes an object whose last byte is MODE_LZ or MODE_LZ7. */
static TZ_TARGET int P(lz_decompress)(const uint8_t *src, size_t n, uint8_t *out)
{
	_Alignas(64) uint8_t literals[TZ_PAGE_SIZE + LZ_BACK],
		page[LZ_FRONT + TZ_PAGE_SIZE + LZ_BACK];
	struct lz_sections s;
	uint32_t trailer, rest;
	int used;

	if (n < LZ_TRAILER || n >= TZ_PAGE_SIZE)
		return -1;
	trailer = tz_load32(src + n - LZ_TRAILER);
	if (trailer >> 24 > MODE_LZ7)
		return -1;
	s.n_tokens = trailer & 0xfff;
	s.n_distances = trailer >> 12 & 0xfff;
	rest = s.n_tokens + (3 * s.n_distances + 1) / 2 + LZ_TRAILER;
	if (rest > n || s.n_tokens < LZ_MIN_TOKENS)
		return -1;
	s.tokens = src + n - LZ_TRAILER - s.n_tokens;
	s.distances = src + n - rest;
	s.n_literals = s.stored = (uint32_t)n - rest;
	s.literals = src;
	if (trailer >> 24 == MODE_LZ7) {
		if (s.stored > TZ_PAGE_SIZE / 8 * 7)
			return -1;
		s.n_literals = 8 * s.stored / 7;
		P(lz_read7)(literals, src, s.stored);
		s.literals = literals;
	}
	memset(page, 0, LZ_FRONT);
	used = P(lz_expand)(&s, page + LZ_FRONT);
	if (used < 0 ||
		(trailer >> 24 == MODE_LZ7 ? (7 * (uint32_t)used + 7) / 8 : (uint32_t)used) !=
			s.stored)
		return -1;
	P(lz_store)(out, page + LZ_FRONT, TZ_PAGE_SIZE);
	return 0;
}

#undef P
#undef FN_INLINE
#undef LZ_MATCHES
