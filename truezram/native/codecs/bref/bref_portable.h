/* bref_portable.h - primitives of bref_template.h in plain C, eight bytes at a time. */

#define FN TZ_INLINE

FN uint32_t count_portable(uint64_t v)
{
	v -= (v >> 1) & 0x5555555555555555ull;
	v = (v & 0x3333333333333333ull) + ((v >> 2) & 0x3333333333333333ull);
	return (uint32_t)((((v + (v >> 4)) & 0x0f0f0f0f0f0f0f0full) * ONES) >> 56);
}

SCALAR_WORDS(portable)

FN uint64_t pack_bytes_portable(uint64_t v, uint64_t t)
{
	uint64_t packed = 0;

	for (unsigned shift = 0; t; t &= t - 1) {
		packed |= ((v >> (__builtin_ctzll(t) - 7)) & 0xff) << shift;
		shift += 8;
	}
	return packed;
}

FN uint64_t spread_bytes_portable(uint64_t v, uint32_t w)
{
	uint64_t spread = 0;

	for (; w; w &= w - 1, v >>= 8)
		spread |= (v & 0xff) << 8 * __builtin_ctz(w);
	return spread;
}

FN uint64_t differ_portable(const uint8_t *a, const uint8_t *b)
{
	uint64_t mask = 0;

	for (unsigned i = 0; i < 8; i++)
		mask |= (uint64_t)gather_high_portable(nonzero_bytes(tz_load64(a + 8 * i) ^
				tz_load64(b + 8 * i)))
			<< 8 * i;
	return mask;
}

FN void pack_literals_portable(uint8_t *to, const uint8_t *q, uint64_t mask)
{
	for (; mask; mask &= mask - 1)
		*to++ = q[__builtin_ctzll(mask)];
}

FN void unpack_block_portable(uint8_t *to, const uint8_t *from, const uint8_t *literals,
	uint64_t mask)
{
	uint8_t block[BREF_BLOCK];

	memcpy(block, from, BREF_BLOCK);
	for (; mask; mask &= mask - 1)
		block[__builtin_ctzll(mask)] = *literals++;
	memcpy(to, block, BREF_BLOCK);
}

SCALAR_SEARCH(portable)

#undef FN
