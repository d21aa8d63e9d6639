/* crc32c.c - CRC-32C, computed over every stored object when it is written and when it is read.
 *
 * Objects are about 1,300 bytes, so latency matters, not bandwidth. There are three
 * implementations:
 *  - fold: four 512-bit accumulators, carry-less multiplication (AVX-512 + VPCLMULQDQ). Leading
 *    zeros do not change a CRC whose state is zero, so the data is aligned at its end: the first n
 *    % 64 bytes are moved to the end of a vector of zeros, and no tail is left over.
 *  - three: three interleaved chains of the CPU's CRC instruction (which has a latency of 3), of
 *    one third each, joined by carry-less multiplication (SSE4.2 + PCLMULQDQ, or ARMv8 CRC +
 *    PMULL);
 *  - table: eight tables of 256 entries, eight bytes at a time.
 *
 * Bits are reflected as the CRC-32C standard has them. A polynomial x^n mod P is kept as a 32-bit
 * word with the coefficient of x^31 in bit 0; a carry-less product of two reflected words is one
 * bit short, hence the odd exponents.
 */
#include "cpu.h"

#define POLY 0x82f63b78u		/* P without x^32, reflected */
/* most 8-byte words for one call of three_chains(), which handles a third per chain */
#define THREE_MAX 512

static uint32_t tables[8][256];
/* [k]: x^(64 k - 33) mod P: moves a CRC over k words of zeros */
static uint32_t shift[THREE_MAX / 3 * 2 + 1];

static uint32_t table_update(uint32_t crc, const uint8_t *p, size_t n)
{
	for (; n >= 8; n -= 8, p += 8) {
		uint32_t a = crc ^ tz_load32(p), b = tz_load32(p + 4);
		crc = tables[7][a & 255] ^ tables[6][a >> 8 & 255] ^ tables[5][a >> 16 & 255] ^
			tables[4][a >> 24] ^ tables[3][b & 255] ^ tables[2][b >> 8 & 255] ^
			tables[1][b >> 16 & 255] ^ tables[0][b >> 24];
	}
	for (; n; n--, p++)
		crc = tables[0][(crc ^ *p) & 255] ^ crc >> 8;
	return crc;
}

static uint32_t (*update)(uint32_t crc, const uint8_t *p, size_t n) = table_update;

/* One multiplication by x, n times. */
static uint32_t times_x(uint32_t v, unsigned n)
{
	while (n--)
		v = v >> 1 ^ (v & 1 ? POLY : 0);
	return v;
}

static void make_tables(void)
{
	for (unsigned i = 0; i < 256; i++)
		tables[0][i] = times_x(i, 8);
	for (unsigned t = 1; t < 8; t++)
		for (unsigned i = 0; i < 256; i++)
			tables[t][i] = tables[0][tables[t - 1][i] & 255] ^ tables[t - 1][i] >> 8;
}

#if defined(TZ_X86)
#define CRC_TARGET __attribute__((target("sse4.2,pclmul")))
#define CRC64(crc, v) _mm_crc32_u64(crc, v)
#define CRC8(crc, v) _mm_crc32_u8((uint32_t)(crc), v)
#define CLMUL(a, b) \
	((uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)(a)), \
		_mm_cvtsi64_si128((long long)(b)), 0)))
#define HAVE_THREE
#elif defined(TZ_ARM64)
/* Inline assembly: compilers disagree about how these extensions are named in a target
 * attribute. */
#define CRC_TARGET
TZ_INLINE uint64_t CRC64(uint64_t crc, uint64_t v)
{
	uint32_t c = (uint32_t)crc;
	__asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(c) : "r"(v));
	return c;
}

TZ_INLINE uint64_t CRC8(uint64_t crc, uint8_t v)
{
	uint32_t c = (uint32_t)crc;
	__asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(c) : "r"((uint32_t)v));
	return c;
}

TZ_INLINE uint64_t CLMUL(uint64_t a, uint64_t b)
{
	uint64x2_t x = vdupq_n_u64(a), y = vdupq_n_u64(b), r;
	__asm__(".arch_extension aes\n\tpmull %0.1q, %1.1d, %2.1d" : "=w"(r) : "w"(x), "w"(y));
	return vgetq_lane_u64(r, 0);
}
#define HAVE_THREE
#endif

#if defined(HAVE_THREE)
/* 3 * k words at p; k <= THREE_MAX / 3. The CRCs of the first two chains are folded into the last
 * word of the third. */
static CRC_TARGET uint32_t three_chains(uint32_t crc, const uint8_t *p, size_t k)
{
	uint64_t a = crc, b = 0, c = 0, joined;
	const uint8_t *q = p + 8 * k, *r = p + 16 * k;

	for (size_t i = 0; i < k - 1; i++) {
		a = CRC64(a, tz_load64(p + 8 * i));
		b = CRC64(b, tz_load64(q + 8 * i));
		c = CRC64(c, tz_load64(r + 8 * i));
	}
	a = CRC64(a, tz_load64(p + 8 * (k - 1)));
	b = CRC64(b, tz_load64(q + 8 * (k - 1)));
	joined = CLMUL(a, shift[2 * k]) ^ CLMUL(b, shift[k]);
	return (uint32_t)CRC64(c, tz_load64(r + 8 * (k - 1)) ^ joined);
}

static CRC_TARGET uint32_t three_update(uint32_t crc, const uint8_t *p, size_t n)
{
	uint64_t c;

	while (n >= 96) {
		size_t k = n / 24 < THREE_MAX / 3 ? n / 24 : THREE_MAX / 3;
		crc = three_chains(crc, p, k);
		p += 24 * k;
		n -= 24 * k;
	}
	for (c = crc; n >= 8; n -= 8, p += 8)
		c = CRC64(c, tz_load64(p));
	for (; n; n--, p++)
		c = CRC8(c, *p);
	return (uint32_t)c;
}

/* The product of CLMUL is one bit short of 64, and CRC64 also multiplies by x^32: x^(64 k - 33). */
static void make_shifts(void)
{
	uint32_t v = times_x(1u << 31, 31);	/* x^31 = x^(64 - 33) */

	for (size_t k = 1; k < sizeof(shift) / sizeof(*shift); k++) {
		shift[k] = v;
		v = times_x(v, 64);
	}
}
#endif

#if defined(TZ_X86)
#define FOLD_TARGET \
	__attribute__(( \
		target("sse4.2,pclmul,vpclmulqdq,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")))
#define FOLD_MIN 192

/* Pairs of constants, x^(d + 31) for a lane's lower 64 bits (the earlier ones) and x^(d - 33) for
 * its upper, that move a 128-bit lane d bits on. */
static struct { uint64_t by[2]; } move[17];	/* [i]: 128 i bits */
/* lanes 0..2 of one vector to its lane 3; lane 3 stays */
static uint64_t join[8];

static void make_moves(void)
{
	for (unsigned i = 1; i < 17; i++) {
		move[i].by[0] = times_x(1u << 31, 128 * i + 31);
		move[i].by[1] = times_x(1u << 31, 128 * i - 33);
	}
	for (unsigned lane = 0; lane < 3; lane++)
		memcpy(join + 2 * lane, move[3 - lane].by, 16);
}

static inline FOLD_TARGET __m512i fold(__m512i v, __m512i by, __m512i next)
{
	return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(v, by, 0x00),
		_mm512_clmulepi64_epi128(v, by, 0x11), next, 0x96);
}

static inline FOLD_TARGET __m512i move_by(unsigned vectors)
{
	return _mm512_broadcast_i32x4(
		_mm_loadu_si128((const __m128i *)(const void *)move[4 * vectors].by));
}

/* CRC of the 64 bytes of v, from state zero. */
static inline FOLD_TARGET uint32_t reduce(__m512i v)
{
	__m512i by = _mm512_loadu_si512(join);
	__m512i m = _mm512_xor_si512(_mm512_clmulepi64_epi128(v, by, 0x00),
		_mm512_clmulepi64_epi128(v, by, 0x11));
	__m256i h = _mm256_xor_si256(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(
		_mm512_mask_blend_epi64(0xc0, m, v), 1));
	__m128i s = _mm_xor_si128(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));

	return (uint32_t)_mm_crc32_u64(_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(s)),
		(uint64_t)_mm_extract_epi64(s, 1));
}

static const uint8_t iota[64] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
	19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41,
	42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63 };

static FOLD_TARGET uint32_t fold_update(uint32_t crc, const uint8_t *p, size_t n)
{
	if (n < FOLD_MIN)
		return three_update(crc, p, n);

	unsigned head = n & 63;
	__m512i first = _mm512_xor_si512(_mm512_loadu_si512(p),
		_mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
	/* The part of the seed that applies to the bytes after the head. */
	__m512i seed = _mm512_zextsi128_si512(_mm_cvtsi64_si128((long long)(head < 4
			? (uint64_t)crc >> 8 * head
			: 0)));
	__m512i a = _mm512_maskz_permutexvar_epi8(head ? ~0ull << (64 - head) : 0,
		_mm512_add_epi8(_mm512_loadu_si512(iota), _mm512_set1_epi8((char)head)), first);
	__m512i b, c, d, by4 = move_by(4), by1 = move_by(1);

	p += head;
	n /= 64;	/* vectors after the head: at least 3 */
	b = _mm512_xor_si512(_mm512_loadu_si512(p), seed);
	c = _mm512_loadu_si512(p + 64);
	d = _mm512_loadu_si512(p + 128);
	for (p += 192, n -= 3; n >= 4; n -= 4, p += 256) {
		a = fold(a, by4, _mm512_loadu_si512(p));
		b = fold(b, by4, _mm512_loadu_si512(p + 64));
		c = fold(c, by4, _mm512_loadu_si512(p + 128));
		d = fold(d, by4, _mm512_loadu_si512(p + 192));
	}
	a = fold(a, move_by(2), c);
	b = fold(b, move_by(2), d);
	a = fold(a, by1, b);
	for (; n; n--, p += 64)
		a = fold(a, by1, _mm512_loadu_si512(p));
	return reduce(a);
}
#endif

__attribute__((constructor)) static void choose(void)
{
	unsigned f = tz_cpu_features();

#if defined(HAVE_THREE)
	if (f & TZ_CPU_CRC) {
		make_shifts();
		update = three_update;
	}
#endif
#if defined(TZ_X86)
	if (f & TZ_CPU_VPCLMUL) {
		make_moves();
		update = fold_update;
	}
#endif
	if (!(f & TZ_CPU_CRC))
		make_tables();
}

uint32_t tz_crc32c(uint32_t seed, const void *data, size_t n)
{
	return ~update(~seed, data, n);
}
