/* bref_neon.h - primitives of bref_template.h with NEON. */

#define FN TZ_INLINE

FN uint32_t count_neon(uint64_t v)
{
	return vaddv_u8(vcnt_u8(vcreate_u8(v)));
}

/* One bit for each 0x80 of t: the multiplication brings bit 8 i + 7 to bit 56 + i. */
FN uint32_t gather_high_neon(uint64_t t)
{
	return (uint32_t)(((t >> 7) * 0x0102040810204080ull) >> 56);
}

FN uint64_t pack_bytes_neon(uint64_t v, uint64_t t)
{
	uint8x8_t how = vcreate_u8(pack_shuffle[gather_high_neon(t)]);

	return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(v), how)), 0);
}

FN uint64_t spread_bytes_neon(uint64_t v, uint32_t w)
{
	return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(v), vcreate_u8(expand_shuffle[w]))), 0);
}

FN uint64_t differ_neon(const uint8_t *a, const uint8_t *b)
{
	const uint8x16_t bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
	uint8x16_t m[4];

	for (unsigned i = 0; i < 4; i++)
		m[i] = vandq_u8(vmvnq_u8(vceqq_u8(vld1q_u8(a + 16 * i), vld1q_u8(b + 16 * i))), bits);
	m[0] = vpaddq_u8(vpaddq_u8(m[0], m[1]), vpaddq_u8(m[2], m[3]));
	return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(m[0], m[0])), 0);
}

FN void pack_literals_neon(uint8_t *to, const uint8_t *q, uint64_t mask)
{
	for (unsigned i = 0; i < 64; i += 8, mask >>= 8) {
		vst1_u8(to, vtbl1_u8(vld1_u8(q + i), vcreate_u8(pack_shuffle[mask & 0xff])));
		to += count_neon(mask & 0xff);
	}
}

FN void unpack_block_neon(uint8_t *to, const uint8_t *from, const uint8_t *literals, uint64_t mask)
{
	uint8x8_t done[BREF_BLOCK / 8];

	for (unsigned i = 0; i < BREF_BLOCK / 8; i++, mask >>= 8) {
		done[i] = vtbx1_u8(vld1_u8(from + 8 * i), vld1_u8(literals), vcreate_u8(expand_shuffle[mask & 0xff]));
		literals += count_neon(mask & 0xff);
	}
	for (unsigned i = 0; i < BREF_BLOCK / 8; i++)
		vst1_u8(to + 8 * i, done[i]);
}

FN uint32_t count_bytes_neon(const uint8_t *p, uint32_t n)
{
	uint32_t sum = 0, i = 0;

	for (; i + 8 <= n; i += 8)
		sum += count_neon(tz_load64(p + i));
	for (; i < n; i++)
		sum += count_neon(p[i]);
	return sum;
}

FN void unpack_refs_neon(uint16_t *to, const uint8_t *from, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 2, from += 3) {
		uint32_t pair = tz_load32(from);
		to[i] = pair & 0xfff;
		to[i + 1] = (pair >> 12) & 0xfff;
	}
}

SCALAR_SEARCH(neon)

#undef FN
