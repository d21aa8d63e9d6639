/* dense_ops_plain.h - primitives of the dense codec in C, with AVX2 and NEON where C is slow. See
 * dense_template.h.
 *
 * The includer defines DN_USE_AVX2 or DN_USE_NEON as 1, or neither for portable C.
 */

/* One bit for each of 64 bytes: whether they differ. */
DN_INLINE uint64_t DN(differ)(const uint8_t *a, const uint8_t *b)
{
#if DN_USE_AVX2
	__m256i lo = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a),
		_mm256_loadu_si256((const __m256i *)b));
	__m256i hi = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(a + 32)),
				       _mm256_loadu_si256((const __m256i *)(b + 32)));

	return ~((uint32_t)_mm256_movemask_epi8(lo) |
		(uint64_t)(uint32_t)_mm256_movemask_epi8(hi) << 32);
#elif DN_USE_NEON
	const uint8x16_t bit = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
	uint8x16_t m[4];

	for (unsigned i = 0; i < 4; i++)
		m[i] = vbicq_u8(bit, vceqq_u8(vld1q_u8(a + 16 * i), vld1q_u8(b + 16 * i)));
	uint8x16_t sum = vpaddq_u8(vpaddq_u8(m[0], m[1]), vpaddq_u8(m[2], m[3]));
	return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sum, sum)), 0);
#else
	uint64_t mask = 0;

	for (unsigned i = 0; i < 8; i++) {
		uint64_t x, y;

		memcpy(&x, a + 8 * i, 8);
		memcpy(&y, b + 8 * i, 8);
		x ^= y;
		/* bit 7 of every byte: not zero */
		x = ((x & 0x7f7f7f7f7f7f7f7f) + 0x7f7f7f7f7f7f7f7f) | x;
		x = x >> 7 & 0x0101010101010101;
		mask |= (x * 0x0102040810204080 >> 56) << 8 * i;
	}
	return mask;
#endif
}

/* A byte of ones for every bit. */
DN_INLINE uint64_t DN(widen)(uint64_t m)
{
#if DN_USE_AVX2
	return _pdep_u64(m, 0x0101010101010101) * 255;
#else
	m = (m * 0x0101010101010101 & 0x8040201008040201) + 0x7f7f7f7f7f7f7f7f;
	m = m >> 7 & 0x0101010101010101; /* a set bit carried into bit 7 of its byte */
	return m * 255;
#endif
}

/* The sampler takes positions where bit 7 of a weighted sum of four bytes is set, about half of
 * them, but not those of four equal bytes. */

DN_INLINE unsigned DN(op_sample)(struct dn_encoder *e)
{
	unsigned n = 0;

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		const uint8_t *q = e->page + DN_LEAD + 64 * g;

		e->first[g] = (uint16_t)n;
#if DN_USE_AVX2
		const __m256i w01 = _mm256_set1_epi16((short)(101 << 8 | 37)),
			      w23 = _mm256_set1_epi16(59 << 8 | (-83 & 255));
		uint64_t m = 0;

		for (unsigned i = 0; i < 64; i += 32) {
			__m256i x0 = _mm256_loadu_si256((const __m256i *)(q + i));
			__m256i x1 = _mm256_loadu_si256((const __m256i *)(q + i + 1));
			__m256i x2 = _mm256_loadu_si256((const __m256i *)(q + i + 2));
			__m256i x3 = _mm256_loadu_si256((const __m256i *)(q + i + 3));
			__m256i even = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w01),
				_mm256_maddubs_epi16(x2, w23));
			__m256i odd = _mm256_add_epi16(_mm256_maddubs_epi16(x1, w01),
				_mm256_maddubs_epi16(x3, w23));
			__m256i s = _mm256_blendv_epi8(even, _mm256_slli_epi16(odd, 8),
				_mm256_set1_epi16((short)0xff00));
			__m256i same = _mm256_and_si256(_mm256_cmpeq_epi8(x0, x1),
				_mm256_cmpeq_epi8(x1, x2));
			same = _mm256_and_si256(same, _mm256_cmpeq_epi8(x2, x3));
			m |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_andnot_si256(same, s))
				<< i;
		}
		for (unsigned k = 0; m && k < DN_CANDIDATES; k++, m &= m - 1) {
			unsigned i = (unsigned)__builtin_ctzll(m);
			uint32_t x;

			memcpy(&x, q + i, 4);
			e->where[n] = (uint16_t)(64 * g + i);
			e->hash[n++] = (uint16_t)(x * 2654435761u >> (32 - DN_HASH_BITS));
		}
#else
		unsigned stop = n + DN_CANDIDATES;

		for (unsigned i = 0; i < 64; i++) {
			uint32_t x;

			memcpy(&x, q + i, 4);
			unsigned s = 37 * q[i] + 101 * q[i + 1] - 83u * q[i + 2] + 59 * q[i + 3];
			e->where[n] = (uint16_t)(64 * g + i);
			e->hash[n] = (uint16_t)(x * 2654435761u >> (32 - DN_HASH_BITS));
			n += (s >> 7 & 1) & (x != (x << 8 | x >> 24)) & (n < stop);
		}
#endif
	}
	e->first[DN_GROUPS] = (uint16_t)n;
	return n;
}

DN_INLINE unsigned DN(op_group_candidates)(struct dn_encoder *e, unsigned g)
{
	/* A distance below a block's length is replaced by its smallest multiple that is not. */
	static const uint8_t multiple[16] = { 0, 16, 16, 18, 16, 20, 18, 21, 16, 18, 20, 22, 24, 26,
		28, 30 };
	uint16_t *off = e->offset[g] + DN_OLD;
	unsigned n = 0, last = 0, reach = 64 * g;

	for (unsigned i = e->first[g]; i < e->first[g + 1]; i++) {
		unsigned dist = (uint16_t)(e->where[i] - e->hash[i]);

		dist = DN_SELECT_LESS(dist, 16, multiple[dist & 15], dist);
		/* Reaches into the zeros before the page only by whole blocks. */
		unsigned fits = (dist <= reach) | ((dist % DN_BLOCK == 0) & (dist < reach + 64));
		off[n] = (uint16_t)(DN_LEAD + reach - dist);
		n += fits & (dist != last);
		last = DN_SELECT_LESS(0, fits, dist, last);
	}
	for (unsigned i = n; i < n + 8 && i < DN_CANDIDATES; i++)
		off[i] = 0;
	return (n + 7) / 8;
}

/* Compares a group with the references in `batches` times eight slots from `slot` on. */
DN_INLINE void DN(op_compare)(struct dn_encoder *e, unsigned g, unsigned slot, unsigned batches)
{
	for (unsigned i = slot; i < slot + 8 * batches; i++)
		e->differ[g % DN_PART][i] = DN(differ)(e->page + DN_LEAD + 64 * g,
			e->page + e->offset[g][i]);
}

/* Four 16-bit prices, one per block, in half bits: 9 for every differing word plus 12 for every
 * differing byte. */
DN_INLINE uint64_t DN(price)(uint64_t m)
{
	m -= m >> 1 & 0x5555555555555555;
	m = (m & 0x3333333333333333) + (m >> 2 & 0x3333333333333333);
	m = (m + (m >> 4)) & 0x0f0f0f0f0f0f0f0f;
	m = 12 * m + 9 * ((m + 0x0707070707070707) >> 3 & 0x0101010101010101);
	return (m & 0x00ff00ff00ff00ff) + (m >> 8 & 0x00ff00ff00ff00ff);
}

DN_INLINE uint32_t DN(pack)(uint64_t prices)
{
	prices = (prices | prices >> 8) & 0x0000ffff0000ffff;
	return (uint32_t)(prices | prices >> 16);
}

/* Prices these slots for each block: best[b] becomes the smallest price + extra << 8 | slot, or
 * keeps its value if that is smaller and slot is not DN_OLD. */
DN_INLINE void DN(op_prices)(struct dn_encoder *e, unsigned g, const unsigned slot,
	unsigned batches, const int extra)
{
#if DN_USE_AVX2
	const __m256i nibble = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
	const __m256i count = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1,
		2, 2, 3, 2, 3, 3, 4));
	const __m256i price = _mm256_broadcastsi128_si256(
		_mm_setr_epi8(0, 21, 33, 45, 57, 69, 81, 93, 105, 0, 0, 0, 0, 0, 0, 0));
	const __m256i low = _mm256_broadcastsi128_si256(
		_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1));
	__m256i slots = _mm256_add_epi16(_mm256_setr_epi64x(0, 0x0001000100010001,
						 0x0002000200020002, 0x0003000300030003),
		_mm256_set1_epi16((short)(extra << 8 | slot)));
	__m256i key = _mm256_set1_epi16((short)DN_NO_KEY);

	for (unsigned i = slot; i < slot + 8 * batches; i += 4) {
		__m256i m = _mm256_loadu_si256((const __m256i *)(e->differ[g % DN_PART] + i));
		__m256i n = _mm256_add_epi8(_mm256_shuffle_epi8(count, _mm256_and_si256(m, nibble)),
			_mm256_shuffle_epi8(count,
				_mm256_and_si256(_mm256_srli_epi16(m, 4), nibble)));
		n = _mm256_maddubs_epi16(_mm256_shuffle_epi8(price, n), one);
		__m256i bytes = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(n, low), 0x08);
		_mm_storeu_si128((__m128i *)(e->prices[g] + i), _mm256_castsi256_si128(bytes));
		key = _mm256_min_epu16(key, _mm256_add_epi16(_mm256_slli_epi16(n, 8), slots));
		slots = _mm256_add_epi16(slots, _mm256_set1_epi16(4));
	}
	__m128i two = _mm_min_epu16(_mm256_castsi256_si128(key), _mm256_extracti128_si256(key, 1));
	two = _mm_min_epu16(two, _mm_unpackhi_epi64(two, two));
	if (slot != DN_OLD)
		two = _mm_min_epu16(two, _mm_loadl_epi64((const __m128i *)e->best[g]));
	_mm_storel_epi64((__m128i *)e->best[g], two);
#elif DN_USE_NEON
	const uint8x16_t price = { 0, 21, 33, 45, 57, 69, 81, 93, 105 };
	uint16x8_t slots = vcombine_u16(vdup_n_u16((uint16_t)(extra << 8 | slot)),
					vdup_n_u16((uint16_t)(extra << 8 | (slot + 1))));
	uint16x8_t key = vdupq_n_u16(DN_NO_KEY);

	for (unsigned i = slot; i < slot + 8 * batches; i += 2) {
		uint8x16_t m = vreinterpretq_u8_u64(vld1q_u64(e->differ[g % DN_PART] + i));
		uint16x8_t n = vpaddlq_u8(vqtbl1q_u8(price, vcntq_u8(m)));

		vst1_u8((uint8_t *)(e->prices[g] + i), vmovn_u16(n));
		key = vminq_u16(key, vaddq_u16(vshlq_n_u16(n, 8), slots));
		slots = vaddq_u16(slots, vdupq_n_u16(2));
	}
	uint16x4_t least = vmin_u16(vget_low_u16(key), vget_high_u16(key));
	if (slot != DN_OLD)
		least = vmin_u16(least, vld1_u16(e->best[g]));
	vst1_u16(e->best[g], least);
#else
	uint32_t best[4];

	for (unsigned b = 0; b < 4; b++)
		best[b] = slot == DN_OLD ? DN_NO_KEY : e->best[g][b];
	for (unsigned i = slot; i < slot + 8 * batches; i++) {
		uint64_t n = DN(price)(e->differ[g % DN_PART][i]);

		e->prices[g][i] = DN(pack)(n);
		for (unsigned b = 0; b < 4; b++) {
			uint32_t key = ((uint32_t)(n >> 16 * b & 0xffff) + (unsigned)extra) << 8 |
				i;

			best[b] = key < best[b] ? key : best[b];
		}
	}
	for (unsigned b = 0; b < 4; b++)
		e->best[g][b] = (uint16_t)best[b];
#endif
}

/* The prices of one reference, a byte per block. */
DN_INLINE uint32_t DN(op_price)(const uint8_t *cur, const uint8_t *ref)
{
	return DN(pack)(DN(price)(DN(differ)(cur, ref)));
}

DN_INLINE unsigned DN(op_changes)(const uint16_t *dist, uint8_t *flags, uint16_t *list)
{
	unsigned n = 0, last = DN_NO_REF;

	for (unsigned i = 0; i < DN_BLOCKS; i += 8) {
		unsigned bits = 0;

		for (unsigned k = 0; k < 8; k++) {
			unsigned d = dist[i + k], change = d != last;

			list[n] = (uint16_t)d;
			n += change;
			bits |= change << k;
			last = d;
		}
		flags[i / 8] = (uint8_t)bits;
	}
	return n;
}

DN_INLINE void DN(op_codes)(struct dn_encoder *e, unsigned from, unsigned to, unsigned table)
{
	const uint16_t *code = tz_dense_tables.code[table];

	for (unsigned i = from; i < to; i++)
		e->code[i] = code[e->sym[i]];
}

/* Compacts the bytes of x that m flags. */
DN_INLINE uint64_t DN(gather_bytes)(uint64_t x, unsigned m)
{
#if DN_USE_AVX2
	return _pext_u64(x, DN(widen)(m));
#else
	uint64_t y = 0;

	for (unsigned to = 0; m; m &= m - 1, to += 8)
		y |= (x >> 8 * (unsigned)__builtin_ctz(m) & 255) << to;
	return y;
#endif
}

DN_INLINE unsigned DN(op_emit)(struct dn_encoder *e, uint8_t *words, uint8_t *masks,
	unsigned *literals)
{
	const uint64_t high = 0x8080808080808080;
	unsigned n = 0, n_lit = 0;

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		const uint8_t *q = e->page + DN_LEAD + 64 * g, *ref = e->ref + 64 * g;
		uint64_t differ = DN(differ)(q, ref);
		unsigned flags = 0;

		for (unsigned w = 0; w < 8; w++, differ >>= 8) {
			unsigned m = differ & 255;
			uint64_t x, r;

			masks[n] = (uint8_t)m;
			n += m != 0;
			flags |= (unsigned)(m != 0) << w;
			memcpy(&x, q + 8 * w, 8);
			memcpy(&r, ref + 8 * w, 8);
			r = ((x | high) - (r & ~high)) ^ ((x ^ ~r) & high); /* byte by byte */
			x = DN(gather_bytes)(x, m);
			r = DN(gather_bytes)(r, m);
			memcpy(e->lit[0] + n_lit, &x, 8);
			memcpy(e->lit[1] + n_lit, &r, 8);
			n_lit += (unsigned)__builtin_popcount(m);
		}
		words[g] = (uint8_t)flags;
	}
	*literals = n_lit;
	return n;
}

DN_INLINE void DN(op_streams)(const uint16_t *code, unsigned n, uint8_t (*stream)[1024],
	uint32_t length[DN_STREAMS])
{
	for (unsigned s = 0; s < DN_STREAMS; s++) {
		uint8_t *o = stream[s];
		uint64_t bits = 0;
		unsigned count = 0;

		for (unsigned i = s; i < n; i += DN_CHUNK) {
			for (unsigned k = 0; k < DN_CHUNK; k += 8) {
				bits |= (uint64_t)(code[i + k] & 0xfff) << count;
				count += code[i + k] >> 12;
			}
			memcpy(o, &bits, 8);
			o += count >> 3;
			bits >>= count & ~7u;
			count &= 7;
		}
		*o = (uint8_t)bits;
		length[s] = (uint32_t)(o - stream[s]) + (count != 0);
	}
}

/* Writes the distances of `n` changed references to list[1 .. n]. -1 if one is invalid or the bits
 * are not `size` bytes. Reads at most 400 bytes of refs. */
DN_FN int DN(op_read_refs)(struct dn_decoder *d, const uint8_t *refs, size_t size, unsigned n)
{
	uint16_t *news = d->news;
	unsigned bits = 0, newest = DN_RECENT - 1, low = 0;

	memcpy(news, tz_dense_recent, sizeof(tz_dense_recent));
	d->list[0] = DN_NO_REF;
	for (unsigned i = 0; i < n; i++) {
		unsigned kind = d->kinds[i], is_new = kind < DN_KIND_RECENT,
			 width = tz_dense_kind_bits[kind];
		uint32_t word;

		memcpy(&word, refs + (bits >> 3), 4);
		word = (word >> (bits & 7) & ((1u << width) - 1)) << tz_dense_kind_shift[kind];
		bits += width;
		newest += is_new;
		news[newest + !is_new] = (uint16_t)word;
		low |= is_new & (word < DN_BLOCK);
		unsigned dist = news[newest - tz_dense_kind_back[kind]];
		d->list[i + 1] = (uint16_t)(dist | -(unsigned)(kind == DN_KIND_ZERO));
	}
	return low || (bits + 7) / 8 != size ? -1 : 0;
}

/* The next literals at the places that m flags, zeros elsewhere. */
DN_INLINE uint64_t DN(spread_bytes)(const uint8_t *lit, unsigned m)
{
	uint64_t x;

	memcpy(&x, lit, 8);
#if DN_USE_AVX2
	return _pdep_u64(x, DN(widen)(m));
#elif DN_USE_NEON
	return vget_lane_u64(vreinterpret_u64_u8(vtbl1_u8(vcreate_u8(x),
				     vld1_u8(tz_dense_tables.place[m]))),
		0);
#else
	uint64_t y = 0;

	for (unsigned from = 0; m; m &= m - 1, from += 8)
		y |= (x >> from & 255) << 8 * (unsigned)__builtin_ctz(m);
	return y;
#endif
}

typedef uint8_t DN(block) __attribute__((vector_size(DN_BLOCK)));

/* Adds the references, or copies them where `keep` says so. */
DN_INLINE void DN(add_references)(struct dn_decoder *d, const int delta)
{
	uint8_t *page = d->page + 64;

	for (unsigned b = 0; b < DN_BLOCKS; b++) {
		DN(block) v, x, keep;

		memcpy(&v, d->page + d->from[b], DN_BLOCK);
		memcpy(&x, page + DN_BLOCK * b, DN_BLOCK);
		if (delta) {
			v += x;
		} else {
			memcpy(&keep, d->keep + DN_BLOCK * b, DN_BLOCK);
			v = (v & keep) | x;
		}
		memcpy(page + DN_BLOCK * b, &v, DN_BLOCK);
	}
}

/* The decoder's last step: builds the page from decoded symbols. -1 if the counts do not match the
 * flags. */
DN_INLINE int DN(op_rebuild)(struct dn_decoder *d, const uint8_t *masks, const uint8_t *lit,
	uint8_t *out, int delta, unsigned changes, unsigned n_masks, unsigned n_lit)
{
	unsigned at = 0, n = 0, used = 0;

	for (unsigned b = 0; b < DN_BLOCKS; b++) {
		at += d->flags[b / 8] >> b % 8 & 1;
		d->from[b] = (uint16_t)(d->list[at] > 16 * b ? 0 : 64 + 16 * b - d->list[at]);
	}
	if (at != changes)
		return -1;
	for (unsigned w = 0; w < DN_WORDS; w++) {
		unsigned differs = d->sym[w / 8] >> w % 8 & 1, m = masks[n] & -differs;
		uint64_t x = DN(spread_bytes)(lit + used, m), keep = ~DN(widen)(m);

		memcpy(d->page + 64 + 8 * w, &x, 8);
		memcpy(d->keep + 8 * w, &keep, 8);
		n += differs;
		used += (unsigned)__builtin_popcount(m);
	}
	if (n != n_masks || used != n_lit)
		return -1;
	if (delta)
		DN(add_references)(d, 1);
	else
		DN(add_references)(d, 0);
	memcpy(out, d->page + 64, TZ_PAGE_SIZE);
	return 0;
}
