/* dense_ops_avx512.h - primitives of the dense codec for AVX-512 (VBMI2, BITALG, GFNI). See
 * dense_template.h. */

DN_INLINE unsigned DN(op_sample)(struct dn_encoder *e)
{
	static const uint8_t iota[64] __attribute__((aligned(64))) = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
		10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
		31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
		52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };
	/* Random 8x8 bit matrices: a linear hash of four bytes, byte by byte. */
	const __m512i a0 = _mm512_set1_epi64((int64_t)0x9b5c3f21d4e68a77ull);
	const __m512i a1 = _mm512_set1_epi64((int64_t)0x5d2e9147c3b86af1ull);
	const __m512i a2 = _mm512_set1_epi64((int64_t)0xe37a1c5b94d20f68ull);
	const __m512i a3 = _mm512_set1_epi64((int64_t)0x36c9a55a781ee187ull);
	const __m512i spread = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
	const __m512i four = _mm512_set1_epi32(0x03020100),
		      mult = _mm512_set1_epi32((int)2654435761u);
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
		/* Four equal bytes identify nothing: not sampled. */
		__m512i differ = _mm512_ternarylogic_epi64(_mm512_xor_si512(x0, x1),
			_mm512_xor_si512(x1, x2), _mm512_xor_si512(x2, x3), 0xfe);
		uint64_t m = _mm512_mask_cmplt_epu8_mask(_mm512_test_epi8_mask(differ, differ), s,
							 _mm512_set1_epi8((char)DN_SAMPLE));
		unsigned k = (unsigned)__builtin_popcountll(m);
		__m512i at = _mm512_maskz_compress_epi8(m, _mm512_load_si512(iota));

		k = k < DN_CANDIDATES ? k : DN_CANDIDATES;
		e->first[g] = (uint16_t)n;
		_mm512_storeu_si512(e->where + n,
			_mm512_add_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(at)),
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
	/* A distance below a block's length is replaced by its smallest multiple that is not. */
	static const uint16_t multiple[32] __attribute__((aligned(64))) = { 16, 16, 16, 18, 16, 20,
		18, 21, 16, 18, 20, 22, 24, 26, 28, 30 };
	static const uint16_t previous[32] __attribute__((aligned(64))) = {
		0,  0,	1,  2,	3,  4,	5,  6,	7,  8,	9,  10, 11, 12, 13, 14,
		15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30 };
	unsigned from = e->first[g], n = e->first[g + 1] - from;
	__mmask32 some = _bzhi_u32(~0u, n);
	__m512i d = _mm512_sub_epi16(_mm512_loadu_si512(e->where + from),
		_mm512_loadu_si512(e->hash + from));
	__m512i reach = _mm512_set1_epi16((short)(64 * g));

	d = _mm512_mask_permutexvar_epi16(d, _mm512_cmplt_epu16_mask(d, _mm512_set1_epi16(16)), d,
					  _mm512_load_si512(multiple));
	/* Reaches into the zeros before the page only by whole blocks. */
	__mmask32 ok = _mm512_cmple_epu16_mask(d, reach) |
		       (_mm512_testn_epi16_mask(d, _mm512_set1_epi16(15)) &
			_mm512_cmple_epu16_mask(d, _mm512_add_epi16(reach, _mm512_set1_epi16(63))));
	d = _mm512_maskz_compress_epi16(ok & some, d);
	__mmask32 fresh = _mm512_cmpneq_epi16_mask(d,
		_mm512_maskz_permutexvar_epi16(~1u, _mm512_load_si512(previous), d));
	fresh &= _bzhi_u32(~0u, (unsigned)__builtin_popcount(ok & some));
	d = _mm512_maskz_compress_epi16(fresh, d);
	n = (unsigned)__builtin_popcount(fresh);
	_mm512_storeu_si512(e->offset[g] + DN_OLD,
		_mm512_maskz_sub_epi16(_bzhi_u32(~0u, n),
			_mm512_set1_epi16((short)(DN_LEAD + 64 * g)), d));
	return (n + 7) / 8;
}

/* Prices by the number of differing bytes in a word: 0, or 9 + 12 each, in half bits. */
#define DN_WORD_PRICES 0, 21, 33, 45, 57, 69, 81, 93, 105, 0, 0, 0, 0, 0, 0, 0

/* Compares a group with the references in `batches` times eight slots from `slot` on. */
DN_INLINE void DN(op_compare)(struct dn_encoder *e, unsigned g, unsigned slot, unsigned batches)
{
	__m512i x = _mm512_loadu_si512(e->page + DN_LEAD + 64 * g);
	const uint16_t *off = e->offset[g] + slot;
	uint64_t *differ = e->differ[g % DN_PART] + slot;

	for (; batches; batches--, off += 8, differ += 8) {
#pragma GCC unroll 8
		for (unsigned c = 0; c < 8; c++)
			differ[c] = _mm512_cmpneq_epi8_mask(x,
				_mm512_loadu_si512(e->page + off[c]));
	}
}

/* Prices these slots for each block: best[b] becomes the smallest price + extra << 8 | slot, or
 * keeps its value if that is smaller and slot is not DN_OLD. */
DN_INLINE void DN(op_prices)(struct dn_encoder *e, unsigned g, const unsigned slot,
	unsigned batches, const int extra)
{
	const __m512i price = _mm512_broadcast_i32x4(_mm_setr_epi8(DN_WORD_PRICES));
	const __m512i numbers = _mm512_setr_epi64(0, 0x0001000100010001, 0x0002000200020002,
		0x0003000300030003, 0x0004000400040004, 0x0005000500050005, 0x0006000600060006,
		0x0007000700070007);
	__m512i slots = _mm512_add_epi16(numbers, _mm512_set1_epi16((short)(extra << 8 | slot)));
	__m512i key = _mm512_set1_epi16((short)DN_NO_KEY);

	for (unsigned i = slot; i < slot + 8 * batches; i += 8) {
		__m512i n = _mm512_shuffle_epi8(price,
			_mm512_popcnt_epi8(_mm512_loadu_si512(e->differ[g % DN_PART] + i)));

		n = _mm512_maddubs_epi16(n, _mm512_set1_epi8(1));
		_mm256_storeu_si256((__m256i *)(e->prices[g] + i), _mm512_cvtepi16_epi8(n));
		key = _mm512_min_epu16(key, _mm512_add_epi16(_mm512_slli_epi16(n, 8), slots));
		slots = _mm512_add_epi16(slots, _mm512_set1_epi16(8));
	}
	__m256i four = _mm256_min_epu16(_mm512_castsi512_si256(key),
		_mm512_extracti64x4_epi64(key, 1));
	__m128i two = _mm_min_epu16(_mm256_castsi256_si128(four),
		_mm256_extracti128_si256(four, 1));
	two = _mm_min_epu16(two, _mm_unpackhi_epi64(two, two));
	if (slot != DN_OLD)
		two = _mm_min_epu16(two, _mm_loadl_epi64((const __m128i *)e->best[g]));
	_mm_storel_epi64((__m128i *)e->best[g], two);
}

/* The prices of one reference, a byte per block. */
DN_INLINE uint32_t DN(op_price)(const uint8_t *cur, const uint8_t *ref)
{
	const __m512i price = _mm512_broadcast_i32x4(_mm_setr_epi8(DN_WORD_PRICES));
	__m512i r = _mm512_min_epu8(_mm512_xor_si512(_mm512_loadu_si512(cur),
					    _mm512_loadu_si512(ref)),
		_mm512_set1_epi8(1));

	r = _mm512_shuffle_epi8(price, _mm512_sad_epu8(r, _mm512_setzero_si512()));
	r = _mm512_add_epi8(r, _mm512_shuffle_epi32(r, 0x4e));
	r = _mm512_permutexvar_epi8(_mm512_castsi128_si512(_mm_cvtsi32_si128(0x30201000)), r);
	return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(r));
}

DN_INLINE unsigned DN(op_changes)(uint16_t *dist, uint8_t *flags, uint16_t *list)
{
	unsigned n = 0;
	__m512i before = _mm512_set1_epi16(-1);
	const __m512i shift = _mm512_setr_epi32(0x0000003f, 0x00020001, 0x00040003, 0x00060005,
		0x00080007, 0x000a0009, 0x000c000b, 0x000e000d, 0x0010000f, 0x00120011, 0x00140013,
		0x00160015, 0x00180017, 0x001a0019, 0x001c001b, 0x001e001d);

	for (unsigned i = 0; i < DN_BLOCKS; i += 32) {
		__m512i d = _mm512_loadu_si512(dist + i);
		uint32_t m = _mm512_cmpneq_epi16_mask(d,
			_mm512_permutex2var_epi16(d, shift, before));

		before = d;
		memcpy(flags + i / 8, &m, 4);
		_mm512_storeu_si512(list + n, _mm512_maskz_compress_epi16(m, d));
		n += (unsigned)__builtin_popcount(m);
	}
	return n;
}

DN_INLINE unsigned DN(op_emit)(struct dn_encoder *e, uint8_t *words, uint8_t *masks,
	unsigned *literals)
{
	unsigned n = 0;
	uint8_t *raw = e->lit[0], *delta = e->lit[1];

	for (unsigned g = 0; g < DN_GROUPS; g++) {
		__m512i x = _mm512_loadu_si512(e->page + DN_LEAD + 64 * g),
			r = _mm512_loadu_si512(e->ref + 64 * g);
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

/* The codes of sym[from .. to); writes up to 31 codes too many. Eight registers hold a table, 32
 * codes each. */
DN_INLINE void DN(op_codes)(struct dn_encoder *e, unsigned from, unsigned to, unsigned table)
{
	const uint16_t *code = tz_dense_tables.code[table];
	__m512i part[8];

#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++)
		part[i] = _mm512_loadu_si512(code + 32 * i);
	for (unsigned i = from; i < to; i += 32) {
		__m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(e->sym + i)));
		__mmask32 b5 = _mm512_test_epi16_mask(x, _mm512_set1_epi16(32));
		__mmask32 b6 = _mm512_test_epi16_mask(x, _mm512_set1_epi16(64));
		__mmask32 b7 = _mm512_test_epi16_mask(x, _mm512_set1_epi16(128));
		__m512i c[4];

#pragma GCC unroll 4
		for (unsigned k = 0; k < 4; k++) {
			c[k] = _mm512_permutexvar_epi16(x, part[2 * k]);
			c[k] = _mm512_mask_permutexvar_epi16(c[k], b5, x, part[2 * k + 1]);
		}
		c[0] = _mm512_mask_mov_epi16(c[0], b6, c[1]);
		c[2] = _mm512_mask_mov_epi16(c[2], b6, c[3]);
		_mm512_storeu_si512(e->code + i, _mm512_mask_mov_epi16(c[0], b7, c[2]));
	}
}

DN_INLINE void DN(op_streams)(const uint16_t *code, unsigned n, uint8_t (*stream)[1024],
	uint32_t length[DN_STREAMS])
{
	__m512i bits = _mm512_setzero_si512(), count = bits;
	uint64_t b[8] __attribute__((aligned(64))), c[8] __attribute__((aligned(64)));
	uint8_t *o[8];

	for (unsigned s = 0; s < 8; s++)
		o[s] = stream[s];
	for (unsigned i = 0; i < n; i += DN_CHUNK) {
#pragma GCC unroll 5
		for (int k = 0; k < 5; k++) {
			__m512i v = _mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i *)(code +
				i + 8 * k)));
			bits = _mm512_or_si512(bits,
				_mm512_sllv_epi64(_mm512_and_si512(v, _mm512_set1_epi64(0xfff)),
					count));
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

/* Writes the distances of `n` changed references to list[1 .. n]. -1 if one is invalid or the bits
 * are not `size` bytes. Reads at most 400 bytes of refs. */
DN_INLINE int DN(op_read_refs)(struct dn_decoder *d, const uint8_t *refs, size_t size, unsigned n)
{
	const __m512i widths =
		_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)tz_dense_kind_bits));
	const __m256i upto = _mm256_setr_epi16(0x0001, 0x0003, 0x0007, 0x000f, 0x001f, 0x003f,
		0x007f, 0x00ff, 0x01ff, 0x03ff, 0x07ff, 0x0fff, 0x1fff, 0x3fff, 0x7fff, -1);
	uint16_t *news = d->news + DN_RECENT;
	unsigned n_new = 0, bits = 0, newest = 0;

	memcpy(d->news, tz_dense_recent, sizeof(tz_dense_recent));
	for (unsigned i = 0; i < n; i += 64) {
		__m512i k = _mm512_loadu_si512(d->kinds + i);
		uint64_t is_new = _mm512_cmplt_epu8_mask(k, _mm512_set1_epi8(DN_KIND_RECENT)) &
			_bzhi_u64(~0ull, n - i);

		_mm512_storeu_si512(d->width + n_new,
			_mm512_maskz_compress_epi8(is_new, _mm512_shuffle_epi8(widths, k)));
		n_new += (unsigned)__builtin_popcountll(is_new);
	}
	for (unsigned i = 0; i < n_new; i++) { /* 5 and 9 bits are multiples of 8 */
		unsigned width = d->width[i], word;

		memcpy(&word, refs + (bits >> 3), 4);
		news[i] = (uint16_t)(_bzhi_u32(word >> (bits & 7), width) << (width & 1) * 3);
		bits += width;
	}
	d->list[0] = DN_NO_REF;
	for (unsigned i = 0; i < n; i += 16) {
		__m128i k = _mm_loadu_si128((const __m128i *)(d->kinds + i));
		unsigned is_new = _mm_cmplt_epu8_mask(k, _mm_set1_epi8(DN_KIND_RECENT));
		__mmask16 zero = _mm_cmpeq_epu8_mask(k, _mm_set1_epi8(DN_KIND_ZERO));
		__m128i back =
			_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)tz_dense_kind_back), k);
		__m256i index =
			_mm256_popcnt_epi16(_mm256_and_si256(_mm256_set1_epi16((short)is_new),
				upto));
		/* Among the 11 before these 16 and up to 16 new ones. */
		index = _mm256_sub_epi16(_mm256_add_epi16(index, _mm256_set1_epi16(DN_RECENT - 1)),
					 _mm256_cvtepu8_epi16(back));
		__m512i near = _mm512_loadu_si512(d->news + newest);
		__m256i dist = _mm512_castsi512_si256(
			_mm512_permutexvar_epi16(_mm512_castsi256_si512(index), near));
		_mm256_storeu_si256((__m256i *)(d->list + 1 + i),
			_mm256_mask_blend_epi16(zero, dist, _mm256_set1_epi16((short)DN_NO_REF)));
		newest += (unsigned)__builtin_popcount(is_new);
	}
	__m512i least = _mm512_set1_epi16(-1);
	for (unsigned i = 0; i < n_new; i += 32)
		least = _mm512_mask_min_epu16(least,
			n_new - i < 32 ? _bzhi_u32(~0u, n_new - i) : ~0u, least,
			_mm512_loadu_si512(news + i));
	return _mm512_cmplt_epu16_mask(least, _mm512_set1_epi16(DN_BLOCK)) || (bits + 7) / 8 != size
		? -1
		: 0;
}

/* Puts literals in their places and, if they replace the reference, makes a mask of the other
 * bytes. Returns their number. */
DN_INLINE unsigned DN(spread)(struct dn_decoder *d, const uint8_t *masks, const uint8_t *lit,
	const int delta)
{
	const uint8_t *l = lit;

	for (unsigned i = 0; i < DN_GROUPS; i += 8) {
		uint64_t flags, m[8] __attribute__((aligned(64)));

		memcpy(&flags, d->sym + i, 8);
		_mm512_store_si512(m, _mm512_maskz_expand_epi8(flags, _mm512_loadu_si512(masks)));
		masks += __builtin_popcountll(flags);
		for (unsigned g = 0; g < 8; g++) {
			__m512i x = _mm512_loadu_si512(l);

			_mm512_store_si512(d->page + 64 * (1 + i + g),
				_mm512_maskz_expand_epi8(m[g], x));
			if (!delta)
				_mm512_store_si512(d->keep + 64 * (i + g), _mm512_movm_epi8(~m[g]));
			l += __builtin_popcountll(m[g]);
		}
	}
	return (unsigned)(l - lit);
}

/* Adds the references. Two loads of eight bytes, because a load that spans two recent stores waits
 * for both, and most distances are multiples of eight. */
DN_INLINE void DN(add_references)(struct dn_decoder *d, const int delta)
{
	uint8_t *page = d->page + 64;

#pragma GCC unroll 4
	for (unsigned b = 0; b < DN_BLOCKS; b++) {
		const uint8_t *from = d->page + d->from[b];
		__m128i v = _mm_loadl_epi64((const __m128i *)from),
			x = _mm_loadu_si128((const __m128i *)(page + 16 * b));

		v = _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(v), (const double *)(from + 8)));
		if (delta)
			v = _mm_add_epi8(v, x);
		else
			v = _mm_or_si128(x,
				_mm_and_si128(v,
					_mm_loadu_si128((const __m128i *)(d->keep + 16 * b))));
		_mm_storeu_si128((__m128i *)(page + 16 * b), v);
	}
}

/* The decoder's last step: builds the page from decoded symbols. -1 if the counts do not match the
 * flags. */
DN_INLINE int DN(op_rebuild)(struct dn_decoder *d, const uint8_t *masks, const uint8_t *lit,
	uint8_t *out, int delta, unsigned changes, unsigned n_masks, unsigned n_lit)
{
	const __m256i upto = _mm256_setr_epi16(0x0001, 0x0003, 0x0007, 0x000f, 0x001f, 0x003f,
		0x007f, 0x00ff, 0x01ff, 0x03ff, 0x07ff, 0x0fff, 0x1fff, 0x3fff, 0x7fff, -1);
	const uint16_t *list = d->list;
	__m256i pos = _mm256_setr_epi16(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192,
		208, 224, 240);
	__m512i words = _mm512_popcnt_epi64(_mm512_loadu_si512(d->sym));

	if (_mm512_reduce_add_epi64(words) != n_masks)
		return -1;
	for (unsigned i = 0; i < DN_BLOCKS; i += 16) {
		uint16_t flags;

		memcpy(&flags, d->flags + i / 8, 2);
		__m256i index =
			_mm256_popcnt_epi16(_mm256_and_si256(_mm256_set1_epi16((short)flags),
				upto));
		__m512i near = _mm512_loadu_si512(list);
		__m256i dist = _mm512_castsi512_si256(
			_mm512_permutexvar_epi16(_mm512_castsi256_si512(index), near));
		__m256i from = _mm256_maskz_sub_epi16(_mm256_cmple_epu16_mask(dist, pos),
			_mm256_add_epi16(pos, _mm256_set1_epi16(64)), dist);
		_mm256_storeu_si256((__m256i *)(d->from + i), from);
		pos = _mm256_add_epi16(pos, _mm256_set1_epi16(256));
		list += __builtin_popcount(flags);
	}
	unsigned used = delta ? DN(spread)(d, masks, lit, 1) : DN(spread)(d, masks, lit, 0);
	if (list != d->list + changes || used != n_lit)
		return -1;
	if (delta)
		DN(add_references)(d, 1);
	else
		DN(add_references)(d, 0);
	memcpy(out, d->page + 64, TZ_PAGE_SIZE);
	return 0;
}
