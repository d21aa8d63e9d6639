/* dense_ops_avx512.h - primitives of the dense codec in AVX-512 (VBMI2, BITALG, GFNI). See dense_template.h. */

DN_INLINE unsigned DN(op_sample)(struct dn_encoder *e)
{
	static const uint8_t iota[64] __attribute__((aligned(64))) = {
		0,  1,	2,  3,	4,  5,	6,  7,	8,  9,	10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
		22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
		44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };
	/* Random 8x8 bit matrices: a byte-wise linear hash of four bytes. */
	const __m512i a0 = _mm512_set1_epi64((int64_t)0x9b5c3f21d4e68a77ull);
	const __m512i a1 = _mm512_set1_epi64((int64_t)0x5d2e9147c3b86af1ull);
	const __m512i a2 = _mm512_set1_epi64((int64_t)0xe37a1c5b94d20f68ull);
	const __m512i a3 = _mm512_set1_epi64((int64_t)0x36c9a55a781ee187ull);
	const __m512i spread = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
	const __m512i four = _mm512_set1_epi32(0x03020100), mult = _mm512_set1_epi32((int)2654435761u);
	unsigned n = 0;

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		const uint8_t *q = e->page + DN_LEAD + 64 * g;
		__m512i x0 = _mm512_loadu_si512(q), x1 = _mm512_loadu_si512(q + 1);
		__m512i x2 = _mm512_loadu_si512(q + 2), x3 = _mm512_loadu_si512(q + 3);
		__m512i next = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(q + 64)));
		__m512i s = _mm512_ternarylogic_epi64(_mm512_gf2p8affine_epi64_epi8(x0, a0, 1),
						      _mm512_gf2p8affine_epi64_epi8(x1, a1, 0),
						      _mm512_gf2p8affine_epi64_epi8(x2, a2, 0), 0x96);
		s = _mm512_xor_si512(s, _mm512_gf2p8affine_epi64_epi8(x3, a3, 0));
		/* Four equal bytes say nothing: not sampled. */
		__m512i differ = _mm512_ternarylogic_epi64(_mm512_xor_si512(x0, x1), _mm512_xor_si512(x1, x2),
							   _mm512_xor_si512(x2, x3), 0xfe);
		uint64_t m = _mm512_mask_testn_epi8_mask(_mm512_test_epi8_mask(differ, differ), s,
							 _mm512_set1_epi8(DN_SAMPLE));
		unsigned k = (unsigned)__builtin_popcountll(m);
		__m512i at = _mm512_maskz_compress_epi8(m, _mm512_load_si512(iota));

		k = k < DN_CANDIDATES ? k : DN_CANDIDATES;
		e->first[g] = (uint16_t)n;
		_mm512_storeu_si512(e->where + n, _mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(at)),
								    _mm512_set1_epi16((short)(64 * g))));
		for (unsigned h = 0; h < k; h += 16) {
			__m512i idx = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(at));
			__m512i sel = _mm512_add_epi8(_mm512_shuffle_epi8(idx, spread), four);
			__m512i w = _mm512_permutex2var_epi8(x0, sel, next);
			w = _mm512_srli_epi32(_mm512_mullo_epi32(w, mult), 32 - DN_HASH_BITS);
			_mm256_storeu_si256((__m256i *)(e->hash + n + h), _mm512_cvtepi32_epi16(w));
			at = _mm512_castsi128_si512(_mm512_extracti32x4_epi32(at, 1));
		}
		n += k;
	}
	e->first[DN_GROUPS] = (uint16_t)n;
	return n;
}

DN_INLINE unsigned DN(op_group_candidates)(struct dn_encoder *e, unsigned g)
{
	/* A distance below a block's length is taken as its least multiple that is not. */
	static const uint16_t multiple[32] __attribute__((aligned(64))) = { 16, 16, 16, 18, 16, 20, 18, 21, 16, 18, 20,
									     22, 24, 26, 28, 30 };
	static const uint16_t previous[32] __attribute__((aligned(64))) = {
		0,  0,	1,  2,	3,  4,	5,  6,	7,  8,	9,  10, 11, 12, 13, 14,
		15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30 };
	unsigned from = e->first[g], n = e->first[g + 1] - from;
	__mmask32 some = _bzhi_u32(~0u, n);
	__m512i d = _mm512_sub_epi16(_mm512_loadu_si512(e->where + from), _mm512_loadu_si512(e->hash + from));
	__m512i reach = _mm512_set1_epi16((short)(64 * g));

	d = _mm512_mask_permutexvar_epi16(d, _mm512_cmplt_epu16_mask(d, _mm512_set1_epi16(16)), d,
					  _mm512_load_si512(multiple));
	/* Into the zeros before the page only by whole blocks. */
	__mmask32 ok = _mm512_cmple_epu16_mask(d, reach) |
		       (_mm512_testn_epi16_mask(d, _mm512_set1_epi16(15)) &
			_mm512_cmple_epu16_mask(d, _mm512_add_epi16(reach, _mm512_set1_epi16(63))));
	d = _mm512_maskz_compress_epi16(ok & some, d);
	__mmask32 fresh = _mm512_cmpneq_epi16_mask(d, _mm512_maskz_permutexvar_epi16(~1u, _mm512_load_si512(previous), d));
	fresh &= _bzhi_u32(~0u, (unsigned)__builtin_popcount(ok & some));
	d = _mm512_maskz_compress_epi16(fresh, d);
	n = (unsigned)__builtin_popcount(fresh);
	_mm512_storeu_si512(e->cand[g], _mm512_maskz_sub_epi16(_bzhi_u32(~0u, n),
							       _mm512_set1_epi16((short)(DN_LEAD + 64 * g)), d));
	return (n + 7) / 8;
}

/* best[b] = price << 8 | candidate, least first; 0xffff without candidates. cost[batch][16 * b + c] keeps all prices. */
DN_INLINE void DN(op_costs)(const uint8_t *cur, const uint8_t *base, const uint16_t *off, unsigned batches,
			    uint8_t (*cost)[64], uint16_t best[4])
{
	const __m512i price = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 21, 33, 45, 57, 69, 81, 93, 105, 0, 0, 0, 0, 0, 0, 0));
	const __m512i one = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
	__m512i x = _mm512_loadu_si512(cur), key = _mm512_set1_epi64(-1);
	__m512i slot = _mm512_set1_epi64(0x0706050403020100);

	for (unsigned i = 0; i < batches; i++, off += 8) {
		__m512i n = zero;
#pragma GCC unroll 8
		for (int c = 0; c < 8; c++) {
			__m512i r = _mm512_xor_si512(x, _mm512_loadu_si512(base + off[c]));
			r = _mm512_sad_epu8(_mm512_min_epu8(r, one), zero);
			n = _mm512_or_si512(n, _mm512_slli_epi64(r, 8 * c));
		}
		n = _mm512_shuffle_epi8(price, n);
		n = _mm512_add_epi8(n, _mm512_shuffle_epi32(n, 0x4e));
		_mm512_storeu_si512(cost[i], n);
		key = _mm512_min_epu16(key, _mm512_unpacklo_epi8(slot, n));
		slot = _mm512_add_epi8(slot, _mm512_set1_epi8(8));
	}
	key = _mm512_min_epu16(key, _mm512_shuffle_epi32(key, 0x4e));
	key = _mm512_min_epu16(key, _mm512_shuffle_epi32(key, 0xb1));
	key = _mm512_min_epu16(key, _mm512_shufflelo_epi16(key, 0xb1));
	best[0] = (uint16_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(key));
	best[1] = (uint16_t)_mm_cvtsi128_si32(_mm512_extracti32x4_epi32(key, 1));
	best[2] = (uint16_t)_mm_cvtsi128_si32(_mm512_extracti32x4_epi32(key, 2));
	best[3] = (uint16_t)_mm_cvtsi128_si32(_mm512_extracti32x4_epi32(key, 3));
}

DN_INLINE unsigned DN(op_changes)(uint16_t *dist, uint8_t *flags, uint16_t *list)
{
	unsigned n = 0;
	__m512i before = _mm512_set1_epi16(-1);
	const __m512i shift = _mm512_setr_epi32(0x0000003f, 0x00020001, 0x00040003, 0x00060005, 0x00080007, 0x000a0009,
						0x000c000b, 0x000e000d, 0x0010000f, 0x00120011, 0x00140013, 0x00160015,
						0x00180017, 0x001a0019, 0x001c001b, 0x001e001d);

	for (unsigned i = 0; i < DN_BLOCKS; i += 32) {
		__m512i d = _mm512_loadu_si512(dist + i);
		uint32_t m = _mm512_cmpneq_epi16_mask(d, _mm512_permutex2var_epi16(d, shift, before));

		before = d;
		memcpy(flags + i / 8, &m, 4);
		_mm512_storeu_si512(list + n, _mm512_maskz_compress_epi16(m, d));
		n += (unsigned)__builtin_popcount(m);
	}
	return n;
}

DN_INLINE unsigned DN(op_find_recent)(const uint16_t *recent, unsigned d)
{
	uint32_t m = _mm256_mask_cmpeq_epi16_mask(0x7ff, _mm256_loadu_si256((const __m256i *)recent),
						  _mm256_set1_epi16((short)d));

	return m ? DN_RECENT - 31 + (unsigned)__builtin_clz(m) : 0;
}

DN_INLINE unsigned DN(op_emit)(struct dn_encoder *e, uint8_t *words, uint8_t *masks, unsigned *literals)
{
	unsigned n = 0;
	uint8_t *raw = e->lit[0], *delta = e->lit[1];

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		__m512i x = _mm512_loadu_si512(e->page + DN_LEAD + 64 * g), r = _mm512_loadu_si512(e->ref + 64 * g);
		__m512i diff = _mm512_sub_epi8(x, r);
		uint64_t m = _mm512_test_epi8_mask(diff, diff);

		e->mask[g] = m;
		_mm512_storeu_si512(raw, _mm512_maskz_compress_epi8(m, x));
		_mm512_storeu_si512(delta, _mm512_maskz_compress_epi8(m, diff));
		raw += __builtin_popcountll(m);
		delta += __builtin_popcountll(m);
	}
	*literals = (unsigned)(raw - e->lit[0]);
	for (unsigned g = 0; g < DN_GROUPS; g += 8) {
		__m512i x = _mm512_loadu_si512(e->mask + g);
		uint64_t m = _mm512_test_epi8_mask(x, x);

		memcpy(words + g, &m, 8);
		_mm512_storeu_si512(masks + n, _mm512_maskz_compress_epi8(m, x));
		n += (unsigned)__builtin_popcountll(m);
	}
	return n;
}

DN_FN unsigned DN(op_pick)(unsigned first, unsigned tables, const uint8_t *sym, unsigned n, unsigned *cost)
{
	uint8_t count[4][256] __attribute__((aligned(64)));
	unsigned step = 4 + 4 * (n / 1020), best = ~0u;

	memset(count, 0, sizeof(count));
	for (unsigned i = 0; i + 4 <= n; i += step) {
		count[0][sym[i]]++;
		count[1][sym[i + 1]]++;
		count[2][sym[i + 2]]++;
		count[3][sym[i + 3]]++;
	}
	__m512i c[4];
	for (unsigned i = 0; i < 4; i++) {
		c[i] = _mm512_adds_epu8(_mm512_load_si512(count[0] + 64 * i), _mm512_load_si512(count[1] + 64 * i));
		c[i] = _mm512_adds_epu8(c[i], _mm512_load_si512(count[2] + 64 * i));
		c[i] = _mm512_adds_epu8(c[i], _mm512_load_si512(count[3] + 64 * i));
	}
	for (unsigned t = 0; t < tables; t++) {
		const uint8_t *len = tz_dense_tables.len[first + t];
		__m512i s = _mm512_add_epi16(_mm512_maddubs_epi16(c[0], _mm512_loadu_si512(len)),
					     _mm512_maddubs_epi16(c[1], _mm512_loadu_si512(len + 64)));
		s = _mm512_add_epi16(s, _mm512_add_epi16(_mm512_maddubs_epi16(c[2], _mm512_loadu_si512(len + 128)),
							 _mm512_maddubs_epi16(c[3], _mm512_loadu_si512(len + 192))));
		s = _mm512_madd_epi16(s, _mm512_set1_epi16(1));
		unsigned sum = (unsigned)_mm512_reduce_add_epi32(s) << 6 | t;
		best = sum < best ? sum : best;
	}
	*cost = best >> 6;
	return best & 63;
}

DN_INLINE void DN(op_streams)(const uint16_t *code, unsigned n, uint8_t (*stream)[1024], uint32_t length[DN_STREAMS])
{
	__m512i bits = _mm512_setzero_si512(), count = bits;
	uint64_t b[8] __attribute__((aligned(64))), c[8] __attribute__((aligned(64)));
	uint8_t *o[8];

	for (unsigned s = 0; s < 8; s++)
		o[s] = stream[s];
	for (unsigned i = 0; i < n; i += DN_CHUNK) {
#pragma GCC unroll 5
		for (int k = 0; k < 5; k++) {
			__m512i v = _mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i *)(code + i + 8 * k)));
			bits = _mm512_or_si512(bits, _mm512_sllv_epi64(_mm512_and_si512(v, _mm512_set1_epi64(0xfff)), count));
			count = _mm512_add_epi64(count, _mm512_srli_epi64(v, 12));
		}
		_mm512_store_si512(b, bits);
		_mm512_store_si512(c, _mm512_srli_epi64(count, 3));
		for (unsigned s = 0; s < 8; s++) {
			memcpy(o[s], &b[s], 8);
			o[s] += c[s];
		}
		bits = _mm512_srlv_epi64(bits, _mm512_and_si512(count, _mm512_set1_epi64(~7)));
		count = _mm512_and_si512(count, _mm512_set1_epi64(7));
	}
	_mm512_store_si512(b, bits);
	_mm512_store_si512(c, count);
	for (unsigned s = 0; s < 8; s++) {
		*o[s] = (uint8_t)b[s];
		length[s] = (uint32_t)(o[s] - stream[s]) + (c[s] != 0);
	}
}

DN_INLINE int DN(op_rebuild)(const uint8_t *sym, const uint16_t *list, const uint8_t *masks, const uint8_t *lit,
			     uint8_t *out, const int delta, unsigned changes, unsigned n_masks, unsigned n_lit)
{
	static const uint8_t zeros[16];
	const uint16_t *ref = list;
	const uint8_t *mask = masks, *l = lit;

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		unsigned change = sym[g / 2] >> (4 * (g & 1)), w = sym[DN_SYM_W + g];
		uint64_t m;

		memcpy(&m, mask, 8);
		m = _pdep_u64(m, _pdep_u64(w, 0x0101010101010101) * 255);
		mask += __builtin_popcount(w);
#pragma GCC unroll 4
		for (unsigned b = 0; b < 4; b++) {
			unsigned pos = 64 * g + 16 * b;
			ref += change >> b & 1;
			long from = (long)pos - *ref;
			const uint8_t *r = from < 0 ? zeros : out + from;
			__m128i v = _mm_loadu_si128((const __m128i *)r), x = _mm_loadu_si128((const __m128i *)l);
			__mmask16 k = (__mmask16)(m >> 16 * b);

			if (delta)
				v = _mm_add_epi8(v, _mm_maskz_expand_epi8(k, x));
			else
				v = _mm_mask_expand_epi8(v, k, x);
			l += __builtin_popcount((uint16_t)(m >> 16 * b));
			_mm_storeu_si128((__m128i *)(out + pos), v);
		}
	}
	return ref != list + changes || mask != masks + n_masks || l != lit + n_lit ? -1 : 0;
}
