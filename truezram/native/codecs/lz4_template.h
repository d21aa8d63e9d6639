/* lz4_template.h - encoder and decoder of lz4.c for one instruction set. */

/* Length of the match of page + a with page + b (a > b), up to page + end. Most are short, so 8
 * bytes are compared first. */
static TZ_TARGET inline unsigned TZ_FN(match_length)(const uint8_t *page, unsigned a, unsigned b,
	unsigned end)
{
	unsigned start = a, n;

	if (TZ_LIKELY(a + 8 <= end)) {
		uint64_t differ = tz_load64(page + a) ^ tz_load64(page + b);
		if (differ)
			return (unsigned)__builtin_ctzll(differ) / 8;
		a += 8;
		b += 8;
	}
	for (; a + 32 <= end; a += 32, b += 32) {
		n = TZ_FN(first_difference)(page + a, page + b);
		if (n < 32)
			return a - start + n;
	}
	while (a < end && page[a] == page[b]) {
		a++;
		b++;
	}
	return a - start;
}

/* The extra bytes of a length of 15 or more. */
static TZ_TARGET inline uint8_t *TZ_FN(put_length)(uint8_t *op, unsigned rest)
{
	for (; TZ_UNLIKELY(rest >= 255); rest -= 255) {
		*op++ = 255;
		/* rarely taken: the compiler must not vectorize this loop */
		__asm__("" : "+r"(op));
	}
	*op++ = (uint8_t)rest;
	return op;
}

/* Token and literals page[from .. to). Copies in steps of 16, reading no further than the page's
 * end. */
static TZ_TARGET inline uint8_t *TZ_FN(put_literals)(uint8_t *op, const uint8_t *page,
	unsigned from, unsigned to)
{
	unsigned n = to - from;

	*op++ = (uint8_t)((n < 15 ? n : 15) << 4);
	if (n >= 15)
		op = TZ_FN(put_length)(op, n - 15);
	if (TZ_UNLIKELY(from + ((n + 15) & ~15u) > TZ_PAGE_SIZE)) {
		memcpy(op, page + from, n);
		return op + n;
	}
	for (unsigned i = 0; i < n; i += 16)
		memcpy(op + i, page + from + i, 16);
	return op + n;
}

/* Base of this page's entries in the table. */
static TZ_TARGET inline unsigned TZ_FN(next_base)(struct lz4_workspace *ws)
{
	ws->base = (uint16_t)(ws->base + TZ_PAGE_SIZE);
	if (ws->base < TZ_PAGE_SIZE) {	/* wrapped around: forget all pages */
		memset(ws->table, 0, sizeof(ws->table));
		ws->base = TZ_PAGE_SIZE;
	}
	return ws->base;
}

/* The first position from `at` on whose 4 bytes are also at *from; past the last possible start if
 * there is none. The steps grow while nothing is found. */
static TZ_TARGET inline unsigned TZ_FN(search)(struct lz4_workspace *ws, unsigned base,
	const uint8_t *page, unsigned at, unsigned *from)
{
	for (unsigned tries = 1 << 6; at <= LAST_START; at += tries++ >> 6) {
		uint32_t v;

		*from = look_up(ws, base, page, at, &v);
		if (tz_load32(page + *from) == v)
			break;
	}
	return at;
}

static TZ_TARGET size_t TZ_FN(compress)(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct lz4_workspace *ws = workspace;
	unsigned base = TZ_FN(next_base)(ws), anchor = 0, at = 1, from, length;
	uint8_t *op = dst, *token;
	uint32_t v;

	look_up(ws, base, page, 0, &v);
	for (;;) {
		at = TZ_FN(search)(ws, base, page, at, &from);
		if (at > LAST_START)
			break;
		while (from && at > anchor && page[at - 1] == page[from - 1]) {
			at--;
			from--;
		}
		do {
			token = op;
			if (TZ_LIKELY(at - anchor < 15 && anchor <= TZ_PAGE_SIZE - 16)) {
				*op++ = (uint8_t)((at - anchor) << 4);
				memcpy(op, page + anchor, 16);
				op += at - anchor;
			} else {
				op = TZ_FN(put_literals)(op, page, anchor, at);
			}
			tz_store16(op, (uint16_t)(at - from));
			op += 2;
			length = TZ_FN(match_length)(page, at + MIN_MATCH, from + MIN_MATCH,
				TZ_PAGE_SIZE - END_LITERALS);
			at += MIN_MATCH + length;
			anchor = at;
			*token += (uint8_t)(length < 15 ? length : 15);
			if (length >= 15)
				op = TZ_FN(put_length)(op, length - 15);
			if (at > LAST_START)
				goto done;
			from = look_up(ws, base, page, at, &v);
		} while (tz_load32(page + from) == v);
		at++;
	}
done:
	op = TZ_FN(put_literals)(op, page, anchor, TZ_PAGE_SIZE);
	return op - dst < TZ_PAGE_SIZE ? (size_t)(op - dst) : 0;
}

/* A length of 15 and its further bytes, at *ip. More than a page holds is an error anyway, so it
 * stops there. */
static TZ_TARGET inline unsigned TZ_FN(get_length)(const uint8_t **ip, const uint8_t *end)
{
	unsigned length = 15, byte = 255;

	while (*ip < end && byte == 255 && length <= TZ_PAGE_SIZE) {
		byte = *(*ip)++;
		length += byte;
	}
	return byte == 255 ? TZ_PAGE_SIZE + 1 : length;
}

/* Copies a match of n bytes at distance, ending exactly at op + n. */
static TZ_TARGET inline void TZ_FN(copy_exact)(uint8_t *op, unsigned distance, unsigned n)
{
	if (distance >= n)
		memcpy(op, op - distance, n);
	else
		for (unsigned i = 0; i < n; i++)
			op[i] = op[(int)i - (int)distance];
}

/* The rest of a match of n > 32 bytes at distance, whose first 32 bytes are done. Writes up to 31
 * bytes too many. */
static TZ_TARGET inline void TZ_FN(copy_rest)(uint8_t *op, unsigned distance, unsigned n)
{
	/* Uses a multiple of the period, so that what is read has been written before. */
	const uint8_t *from = op + 32 - (distance < 32 ? period32[distance] : distance),
		      *end = op + n;

	op += 32;
	do {
		TZ_FN(copy32)(op, from);
		op += 32;
		from += 32;
	} while (op < end);
}

/* n literals, with room to read and to write up to 31 more. */
static TZ_TARGET inline void TZ_FN(copy_literals)(uint8_t *op, const uint8_t *ip, unsigned n)
{
	for (const uint8_t *end = op + n; op < end; op += 32, ip += 32)
		TZ_FN(copy32)(op, ip);
}

/* One sequence with all checks. Returns 1 if more follow, 0 at the end, -1 on error. */
static TZ_TARGET TZ_NOINLINE int TZ_FN(one_sequence)(const uint8_t **src, const uint8_t *in_end,
	uint8_t **dst, uint8_t *out)
{
	const uint8_t *ip = *src;
	uint8_t *op = *dst, *const out_end = out + TZ_PAGE_SIZE;
	unsigned token, literals, length, distance;

	if (ip >= in_end)
		return -1;
	token = *ip++;
	literals = token >> 4;
	if (literals == 15)
		literals = TZ_FN(get_length)(&ip, in_end);
	if (literals > (size_t)(in_end - ip) || literals > (size_t)(out_end - op))
		return -1;
	if (TZ_LIKELY(in_end - ip >= literals + 32 && out_end - op >= literals + 32)) {
		TZ_FN(copy_literals)(op, ip, literals);
	} else {
		memcpy(op, ip, literals);
		if (ip + literals == in_end)	/* the last sequence has no match */
			return op + literals == out_end && (token & 15) == 0 ? 0 : -1;
		if (in_end - ip - literals < 2)
			return -1;
	}
	ip += literals;
	op += literals;
	distance = tz_load16(ip);
	ip += 2;
	length = token & 15;
	if (length == 15)
		length = TZ_FN(get_length)(&ip, in_end);
	length += MIN_MATCH;
	if (distance == 0 || distance > (size_t)(op - out) || length > (size_t)(out_end - op))
		return -1;
	if ((size_t)(out_end - op) >= length + 32) {
		TZ_FN(spread32)(op, distance);
		if (length > 32)
			TZ_FN(copy_rest)(op, distance, length);
	} else {
		TZ_FN(copy_exact)(op, distance, length);
	}
	*src = ip;
	*dst = op + length;
	return 1;
}

/* The fast loop, while both ends are far away: only the checks and branches that every sequence
 * needs. Stops before a sequence that comes near an end. -1 on error.
 *
 * At the loop's head 20 bytes can be read and 64 written. A token, up to 14 literals copied as 16
 * bytes, the distance and a length byte take 18; up to 14 literals and 32 bytes of a match take 46.
 * Longer ones are checked where they occur. */
static TZ_TARGET inline int TZ_FN(plain_sequences)(const uint8_t **src, const uint8_t *in_end,
	uint8_t **dst, uint8_t *out)
{
	const uint8_t *ip = *src;
	uint8_t *op = *dst, *const out_end = out + TZ_PAGE_SIZE;

	while (in_end - ip >= 20 && out_end - op >= 64) {
		unsigned token = *ip, literals = token >> 4, length = token & 15, distance, more,
			 extra;
		const uint8_t *next = ip + 1 + literals;
		uint8_t *to = op + literals;

		memcpy(op, ip + 1, 16);
		if (TZ_UNLIKELY(literals == 15)) {
			next = ip + 1;
			literals = TZ_FN(get_length)(&next, in_end);
			if (in_end - next < literals + 32 || out_end - op < literals + 64)
				break;
			TZ_FN(copy_literals)(op, next, literals);
			next += literals;
			to = op + literals;
		}
		distance = tz_load16(next);
		extra = next[2];
		more = length == 15;
		if (TZ_UNLIKELY(distance - 1 >= (size_t)(to - out)))
			return -1;
		length += MIN_MATCH + (extra & -more);
		next += 2 + more;
		TZ_FN(spread32)(to, distance);
		if (TZ_UNLIKELY(length > 32)) {
			if (extra == 255) {
				next--;
				length = MIN_MATCH + TZ_FN(get_length)(&next, in_end);
			}
			if (length + 32 > (size_t)(out_end - to))
				break;
			TZ_FN(copy_rest)(to, distance, length);
		}
		ip = next;
		op = to + length;
	}
	*src = ip;
	*dst = op;
	return 0;
}

static TZ_TARGET int TZ_FN(decompress)(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	const uint8_t *ip = src, *const in_end = src + n;
	uint8_t *op = out;
	int more;

	(void)workspace;
	do {
		if (TZ_FN(plain_sequences)(&ip, in_end, &op, out))
			return -1;
		more = TZ_FN(one_sequence)(&ip, in_end, &op, out);
	} while (more > 0);
	return more;
}

#undef TZ_SUFFIX
#undef TZ_TARGET
