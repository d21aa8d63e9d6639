/* bref_neon.h - primitives of bref_template.h for NEON. */

#define FN TZ_INLINE

FN uint32_t count_neon(uint64_t v)
{
	return vaddv_u8(vcnt_u8(vcreate_u8(v)));
}

SCALAR_WORDS(neon)

FN uint64_t pack_bytes_neon(uint64_t v, uint64_t t)
{
	uint8x8_t how = vcreate_u8(pack_shuffle[gather_high_neon(t)]);

	return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(v), how)), 0);
}

FN uint64_t spread_bytes_neon(uint64_t v, uint32_t w)
{
	return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(v),
				     vcreate_u8(expand_shuffle[w]))),
		0);
}

FN uint64_t differ_neon(const uint8_t *a, const uint8_t *b)
{
	const uint8x16_t bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
	uint8x16_t m[4];

	for (unsigned i = 0; i < 4; i++)
		m[i] = vandq_u8(vmvnq_u8(vceqq_u8(vld1q_u8(a + 16 * i), vld1q_u8(b + 16 * i))),
			bits);
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
		done[i] = vtbx1_u8(vld1_u8(from + 8 * i), vld1_u8(literals),
			vcreate_u8(expand_shuffle[mask & 0xff]));
		literals += count_neon(mask & 0xff);
	}
	for (unsigned i = 0; i < BREF_BLOCK / 8; i++)
		vst1_u8(to + 8 * i, done[i]);
}

/* The largest hashes of 64 positions, as largest_hashes_portable; 67 bytes are read. */
FN void largest_hashes_neon(const uint8_t *q, uint32_t *largest)
{
	static const uint32_t places[4] = { 0, 4, 0, 4 };

	for (uint32_t w = 0; w < WINDOWS; w += 4, q += 32) {
		uint32x4_t best[2];

		for (uint32_t k = 0; k < 2; k++) {
			uint32x4_t place = vld1q_u32(places);

			best[k] = vdupq_n_u32(0);
			for (uint32_t j = 0; j < 4; j++) {
				uint32x4_t hash =
					vmulq_n_u32(vreinterpretq_u32_u8(vld1q_u8(q + 16 * k + j)),
						SAMPLE_FACTOR);

				best[k] = vmaxq_u32(best[k],
					vbslq_u32(vdupq_n_u32(7), place, hash));
				place = vaddq_u32(place, vdupq_n_u32(1));
			}
		}
		vst1q_u32(largest + w, vpmaxq_u32(best[0], best[1]));
	}
}

SCALAR_SEARCH(neon)

#undef FN
