/* lz4.c - the LZ4 block format, one page at a time: our own encoder and decoder, compatible with
 * all others.
 *
 * The format in short: sequences of (token, literals, 2-byte offset, match); the token holds the
 * number of literals and the match's length less 4 in 4 bits each, 15 meaning that more bytes
 * follow, to be added. The block ends with at least 5 literals and no match, and no match starts
 * within the last 12 bytes.
 *
 * A known page size makes possible: 16-bit positions, a hash table that is cleared once in 16 pages
 * (an entry carries the number of the page that made it), and a decoder that knows when its output
 * is complete.
 *
 * The time goes into mispredicted branches, one or two per sequence. So the encoder hashes five
 * bytes, which finds fewer and longer matches than four, and treats stale table entries as position
 * 0 without a branch. The decoder copies 16 bytes of literals and 32 of a match whatever their
 * lengths are, and repeats a short period by a permutation instead of a loop. (Tried and slower:
 * the match's length and the bytes before it without branches, which only lengthens the chain from
 * one sequence to the next; 16 or 64 bytes of a match at a time.)
 */
#include "cpu.h"
#include "variants.h"

#define HASH_BITS 12
#define END_LITERALS 5		/* the block's last bytes are literals */
#define LAST_START (TZ_PAGE_SIZE - 12)	/* no match starts later */
#define MIN_MATCH 4
/* how far wide stores of the encoder may run past the end */
#define OUT_SLACK 64

_Static_assert(TZ_PAGE_SIZE + TZ_PAGE_SIZE / 255 + 16 + OUT_SLACK <= TZ_DST_SIZE,
	"room for the longest LZ4 block");

/* An entry is base + position; those of earlier pages are below base. */
struct lz4_workspace {
	uint16_t table[1 << HASH_BITS];
	uint16_t base;
};

/* Of the lower 5 bytes. */
TZ_INLINE size_t hash5(uint64_t v)
{
	return (v << 24) * 0x9e3779b185ebca87u >> (64 - HASH_BITS);
}

/* Returns the last position whose 5 bytes hash like those at page + at (*v: the first 4 of them),
 * and enters this one. Without such a position it returns 0, which the caller compares like any
 * other. No branch. */
TZ_INLINE unsigned look_up(struct lz4_workspace *ws, unsigned base, const uint8_t *page,
	unsigned at, uint32_t *v)
{
	uint64_t bytes = tz_load64(page + at);
	uint16_t *entry = &ws->table[hash5(bytes)];
	int position = (int)*entry - (int)base;

	*entry = (uint16_t)(base + at);
	*v = (uint32_t)bytes;
	return (unsigned)(position & ~(position >> 31));
}

/* ---- 32 bytes at a time ---- */

/* Rows: the shuffle that repeats the first `distance` bytes of a vector over all of it; the last
 * row changes nothing. Periods: the smallest multiple of a distance that is not less than the
 * vector's size. */
#define R4(d, i) (i) % (d), (i + 1) % (d), (i + 2) % (d), (i + 3) % (d)
#define R8(d, i) R4(d, i), R4(d, i + 4)
#define ROW16(d) { R8(d, 0), R8(d, 8) }
#define ROW32(d) { R8(d, 0), R8(d, 8), R8(d, 16), R8(d, 24) }
#define ROWS16(ROW) \
	ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7), ROW(8), ROW(9), ROW(10), ROW(11), \
		ROW(12), ROW(13), ROW(14), ROW(15), ROW(16)
#define ROWS32(ROW) \
	ROWS16(ROW), ROW(17), ROW(18), ROW(19), ROW(20), ROW(21), ROW(22), ROW(23), ROW(24), \
		ROW(25), ROW(26), ROW(27), ROW(28), ROW(29), ROW(30), ROW(31), ROW(32)
#define PERIOD16(d) (d) * ((15 + (d)) / (d))
#define PERIOD32(d) (d) * ((31 + (d)) / (d))
static const uint8_t period32[33] = { 0, ROWS32(PERIOD32) };
#if defined(TZ_X86) || defined(TZ_ARM64)
static const uint8_t period16[17] = { 0, ROWS16(PERIOD16) };
static const uint8_t rows16[17][16] __attribute__((aligned(16))) = { { 0 }, ROWS16(ROW16) };
#endif

#if defined(TZ_X86)
static const uint8_t rows32[33][32] __attribute__((aligned(32))) = { { 0 }, ROWS32(ROW32) };

static TZ_TARGET_AVX512 inline void copy32_avx512(uint8_t *to, const uint8_t *from)
{
	_mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
}

/* Index of the first byte that differs, 32 if none does. */
static TZ_TARGET_AVX512 inline unsigned first_difference_avx512(const uint8_t *a, const uint8_t *b)
{
	const __m256i x = _mm256_loadu_si256((const __m256i *)a),
		      y = _mm256_loadu_si256((const __m256i *)b);

	return _tzcnt_u32(_mm256_cmpneq_epi8_mask(x, y));
}

static TZ_TARGET_AVX2 inline unsigned first_difference_avx2(const uint8_t *a, const uint8_t *b)
{
	const __m256i x = _mm256_loadu_si256((const __m256i *)a),
		      y = _mm256_loadu_si256((const __m256i *)b);

	return _tzcnt_u32(~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, y)));
}

static TZ_TARGET_AVX2 inline void copy32_avx2(uint8_t *to, const uint8_t *from)
{
	_mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
}

/* 32 bytes of a match at distance > 0. */
static TZ_TARGET_AVX512 inline void spread32_avx512(uint8_t *op, size_t distance)
{
	const __m256i row =
		_mm256_load_si256((const __m256i *)rows32[distance < 32 ? distance : 32]);
	const __m256i from = _mm256_loadu_si256((const __m256i *)(op - distance));

	_mm256_storeu_si256((__m256i *)op, _mm256_permutexvar_epi8(row, from));
}

static TZ_TARGET_AVX2 inline void spread32_avx2(uint8_t *op, size_t distance)
{
	size_t d = distance < 16 ? distance : 16, period = distance < 16 ? period16[d] : distance;
	const __m128i row = _mm_load_si128((const __m128i *)rows16[d]);

	_mm_storeu_si128((__m128i *)op,
		_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(op - distance)), row));
	_mm_storeu_si128((__m128i *)(op + 16),
		_mm_loadu_si128((const __m128i *)(op + 16 - period)));
}
#elif defined(TZ_ARM64)
static inline void copy32_neon(uint8_t *to, const uint8_t *from)
{
	uint8x16_t a = vld1q_u8(from), b = vld1q_u8(from + 16);

	vst1q_u8(to, a);
	vst1q_u8(to + 16, b);
}

static inline unsigned first_difference_neon(const uint8_t *a, const uint8_t *b)
{
	for (unsigned i = 0; i < 32; i += 16) {
		/* Half a byte per byte compared. */
		uint8x16_t equal = vceqq_u8(vld1q_u8(a + i), vld1q_u8(b + i));
		uint64_t bits =
			~vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(equal),
					       4)),
				0);

		if (bits)
			return i + (unsigned)__builtin_ctzll(bits) / 4;
	}
	return 32;
}

static inline void spread32_neon(uint8_t *op, size_t distance)
{
	size_t d = distance < 16 ? distance : 16, period = distance < 16 ? period16[d] : distance;

	vst1q_u8(op, vqtbl1q_u8(vld1q_u8(op - distance), vld1q_u8(rows16[d])));
	vst1q_u8(op + 16, vld1q_u8(op + 16 - period));
}
#endif

static inline void copy32_portable(uint8_t *to, const uint8_t *from)
{
	memcpy(to, from, 32);
}

static inline unsigned first_difference_portable(const uint8_t *a, const uint8_t *b)
{
	for (unsigned i = 0; i < 32; i += 8) {
		uint64_t differ = tz_load64(a + i) ^ tz_load64(b + i);

		if (differ)
			return i + (unsigned)__builtin_ctzll(differ) / 8;
	}
	return 32;
}

static inline void spread32_portable(uint8_t *op, size_t distance)
{
	const uint8_t *from = op - distance;

	if (distance < 8) {
		for (unsigned i = 0; i < 8; i++)
			op[i] = from[i];
		from = op + 8 - (distance * ((7 + distance) / distance));
	} else {
		memcpy(op, from, 8);
		from += 8;
	}
	for (unsigned i = 8; i < 32; i += 8, from += 8)
		memcpy(op + i, from, 8);
}

#if defined(TZ_X86)
#define TZ_SUFFIX avx512
#define TZ_TARGET TZ_TARGET_AVX512
#include "lz4_template.h"

#define TZ_SUFFIX avx2
#define TZ_TARGET TZ_TARGET_AVX2
#include "lz4_template.h"
#elif defined(TZ_ARM64)
#define TZ_SUFFIX neon
#define TZ_TARGET TZ_TARGET_NEON
#include "lz4_template.h"
#endif

#define TZ_SUFFIX portable
#define TZ_TARGET TZ_TARGET_PORTABLE
#include "lz4_template.h"

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return (sizeof(struct lz4_workspace) + 63) & ~(size_t)63;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	if (size < workspace_size(level, why)) {
		*why = "lz4: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(workspace, 0, sizeof(struct lz4_workspace));
	return 0;
}

#define VARIANT(isa, suffix) \
	{ "lz4", "fast, known everywhere", TZ_KIND_LZ4, TZ_ISA_##isa, 0, 0, 0, workspace_size, \
		workspace_init, compress_##suffix, decompress_##suffix },

const struct tz_codec tz_lz4_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ 0 },
};
