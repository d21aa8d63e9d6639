/* dense.c - the page codec `dense`: 16-byte blocks by reference, five kinds of symbols through static prefix codes.
 *
 * This file makes the codes from the lengths in dense_tables.h and compiles the body (dense_template.h) for each
 * instruction set. The format is docs/format-dense.md, the vocabulary dense_impl.h.
 */
#include "dense.h"
#include "dense_impl.h"

#include <pthread.h>

#ifdef DN_GATHER /* training (dense_gather.c) has no tables yet and codes nothing */
static const char dn_lengths[DN_TABLES][257];
#else
#include "dense_tables.h"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

const uint8_t tz_dense_kind_bits[16] = { 5, 9, 8, 12 };
const uint8_t tz_dense_kind_shift[16] = { 3, 3, 0, 0 };
const uint8_t tz_dense_kind_back[16] = { 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0 };
const uint16_t tz_dense_recent[DN_RECENT] = { 256, 192, 160, 128, 112, 96, 80, 48, 64, 32, 16 };

struct dn_tables tz_dense_tables __attribute__((aligned(64)));

/* Canonical codes: by length, then by symbol; sent first bit first, so kept bit-reversed. */
static void make_table(unsigned table)
{
	struct dn_tables *t = &tz_dense_tables;
	unsigned code = 0;

	for (unsigned length = 1; length <= DN_MAX_BITS; length++, code <<= 1) {
		for (unsigned symbol = 0; symbol < 256; symbol++) {
			unsigned bits = 0;

			if ((unsigned)(dn_lengths[table][symbol] - 'a' + 1) != length)
				continue;
			for (unsigned i = 0; i < length; i++)
				bits |= (code >> i & 1) << (length - 1 - i);
			code++;
			t->len[table][symbol] = (uint8_t)length;
			t->code[table][symbol] = (uint16_t)(bits | length << 12);
			for (unsigned i = bits; i < 1u << DN_MAX_BITS; i += 1u << length)
				t->dec[table][i] = (uint16_t)(symbol << 8 | length);
		}
	}
}

static void make_tables(void)
{
	for (unsigned i = 0; i < DN_TABLES; i++)
		make_table(i);
}

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return sizeof(struct dn_workspace);
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)level;
	if (size < sizeof(struct dn_workspace)) {
		if (why)
			*why = "workspace smaller than workspace_size() said";
		return -1;
	}
	memset(workspace, 0, size);
	pthread_once(&once, make_tables);
	return 0;
}

#define DN_CODEC(ISA, FN)                                                                                              \
	{                                                                                                              \
		.name = "dense", .kind = TZ_KIND_DENSE, .isa = ISA, .workspace_size = workspace_size,                  \
		.workspace_init = workspace_init, .compress = FN##_compress, .decompress = FN##_decompress             \
	}

#if defined(__x86_64__)
#define DN_SAMPLE 1
#define DN_TARGET                                                                                                      \
	__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,avx512bitalg,"       \
			      "avx512vpopcntdq,gfni,avx2,bmi,bmi2,lzcnt,popcnt")))
#define DN(name) avx512_##name
#define DN_FN static DN_TARGET
#define DN_INLINE static inline __attribute__((always_inline)) DN_TARGET
#include "dense_ops_avx512.h"
#include "dense_template.h"
const struct tz_codec tz_dense_avx512 = DN_CODEC(TZ_ISA_AVX512, avx512);
#endif
