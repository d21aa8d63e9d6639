/* lz4_template.h - encoder and decoder of lz4.c for one instruction set. */

/* Number of equal bytes at page + a and page + b (a > b), up to page + end. */
static TZ_TARGET inline unsigned TZ_FN(match_length)(const uint8_t *page, unsigned a, unsigned b, unsigned end)
{
	unsigned start = a;

	for (; a + 8 <= end; a += 8, b += 8) {
		uint64_t differ = tz_load64(page + a) ^ tz_load64(page + b);
		if (differ)
			return a - start + (unsigned)__builtin_ctzll(differ) / 8;
	}
	while (a < end && page[a] == page[b]) {
		a++;
		b++;
	}
	return a - start;
}

/* The bytes that add up to a length of 15 or more. */
static TZ_TARGET inline uint8_t *TZ_FN(put_length)(uint8_t *op, unsigned rest)
{
	for (; rest >= 255; rest -= 255)
		*op++ = 255;
	*op++ = (uint8_t)rest;
	return op;
}

/* Token and literals page[from .. to). Copies in steps of 16, reading no further than the page's end. */
static TZ_TARGET inline uint8_t *TZ_FN(put_literals)(uint8_t *op, const uint8_t *page, unsigned from, unsigned to)
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

static TZ_TARGET size_t TZ_FN(compress)(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct lz4_workspace *ws = workspace;
	const unsigned last_start = TZ_PAGE_SIZE - MATCH_LIMIT, end = TZ_PAGE_SIZE - END_LITERALS;
	unsigned base = (uint16_t)(ws->base + TZ_PAGE_SIZE), anchor = 0, at = 1, distance;
	uint8_t *op = dst;

	if (base < TZ_PAGE_SIZE) {	/* wrapped: forget all pages */
		memset(ws->table, 0, sizeof(ws->table));
		base = TZ_PAGE_SIZE;
	}
	ws->base = (uint16_t)base;
	look_up(ws, base, hash4(tz_load32(page)), 0);

	while (at <= last_start) {
		/* Search; the longer nothing is found, the larger the steps. */
		unsigned tries = 1 << 6;
		uint8_t *token;
		unsigned length;

		for (;;) {
			uint32_t v = tz_load32(page + at);
			distance = look_up(ws, base, hash4(v), at);
			if (distance <= at && distance && tz_load32(page + at - distance) == v)
				break;
			at += tries++ >> 6;
			if (at > last_start)
				goto done;
		}
		while (at > anchor && at > distance && page[at - 1] == page[at - distance - 1])
			at--;
		do {
			token = op;
			op = TZ_FN(put_literals)(op, page, anchor, at);
			tz_store16(op, (uint16_t)distance);
			op += 2;
			length = TZ_FN(match_length)(page, at + MIN_MATCH, at + MIN_MATCH - distance, end);
			at += MIN_MATCH + length;
			*token |= (uint8_t)(length < 15 ? length : 15);
			if (length >= 15)
				op = TZ_FN(put_length)(op, length - 15);
			anchor = at;
			if (at > last_start)
				goto done;
			look_up(ws, base, hash4(tz_load32(page + at - 2)), at - 2);
			distance = look_up(ws, base, hash4(tz_load32(page + at)), at);
		} while (distance <= at && distance && tz_load32(page + at - distance) == tz_load32(page + at));
		at++;
	}
done:
	op = TZ_FN(put_literals)(op, page, anchor, TZ_PAGE_SIZE);
	return op - dst < TZ_PAGE_SIZE ? (size_t)(op - dst) : 0;
}

/* A length of 15 and its further bytes, at *ip. More than a page holds is an error like any other, so stop there. */
static TZ_TARGET inline unsigned TZ_FN(get_length)(const uint8_t **ip, const uint8_t *end)
{
	unsigned length = 15, byte = 255;

	while (*ip < end && byte == 255 && length <= TZ_PAGE_SIZE) {
		byte = *(*ip)++;
		length += byte;
	}
	return byte == 255 ? TZ_PAGE_SIZE + 1 : length;
}

/* Match of n bytes at distance, byte by byte or in larger steps, exactly to op + n. */
static TZ_TARGET inline void TZ_FN(copy_exact)(uint8_t *op, unsigned distance, unsigned n)
{
	if (distance >= n)
		memcpy(op, op - distance, n);
	else
		for (unsigned i = 0; i < n; i++)
			op[i] = op[(int)i - (int)distance];
}

/* Match of n bytes with at least n + 32 bytes of room. A short period is first doubled until it is 16 or more. */
static TZ_TARGET inline void TZ_FN(copy_wide)(uint8_t *op, unsigned distance, unsigned n)
{
	const uint8_t *from = op - distance, *end = op + n;

	if (TZ_UNLIKELY(distance < 16)) {
		unsigned period = distance;
		for (unsigned i = 0; i < 16; i++)
			op[i] = from[i];
		while (period < 16)
			period += distance;
		op += 16;
		from = op - period;
	}
	do {
		memcpy(op, from, 16);
		memcpy(op + 16, from + 16, 16);
		op += 32;
		from += 32;
	} while (op < end);
}

static TZ_TARGET int TZ_FN(decompress)(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	const uint8_t *ip = src, *const in_end = src + n;
	uint8_t *op = out, *const out_end = out + TZ_PAGE_SIZE;

	(void)workspace;
	for (;;) {
		unsigned token, literals, length, distance;

		if (ip >= in_end)
			return -1;
		token = *ip++;
		literals = token >> 4;
		if (TZ_LIKELY(literals < 15 && in_end - ip >= 16 + 2 && out_end - op >= 16)) {
			memcpy(op, ip, 16);
		} else {
			if (literals == 15)
				literals = TZ_FN(get_length)(&ip, in_end);
			if (literals > (size_t)(in_end - ip) || literals > (size_t)(out_end - op))
				return -1;
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
		if (TZ_UNLIKELY(distance == 0 || distance > (size_t)(op - out) || length > (size_t)(out_end - op)))
			return -1;
		if (TZ_LIKELY((size_t)(out_end - op) >= length + 48))
			TZ_FN(copy_wide)(op, distance, length);
		else
			TZ_FN(copy_exact)(op, distance, length);
		op += length;
	}
}

#undef TZ_SUFFIX
#undef TZ_TARGET
