/* dense.c - the page codec `dense`: 16-byte blocks by reference, masks and literals in static
 * prefix codes.
 *
 * This file makes the codes from the lengths in dense_tables.h and compiles the body
 * (dense_template.h) for each instruction set. The format is in docs/format-dense.md, the terms in
 * dense_impl.h.
 */
#include "cpu.h"
#include "dense_impl.h"
#include "variants.h"

#include <pthread.h>

#ifdef DN_GATHER /* training (dense_gather.c) has no tables yet and encodes nothing */
static const char dn_lengths[DN_TABLES][257];
#else
#include "dense_tables.h"
#endif

const uint8_t tz_dense_kind_bits[16] = { 5, 9, 8, 12 };
const uint8_t tz_dense_kind_shift[16] = { 3, 3, 0, 0 };
const uint8_t tz_dense_kind_back[16] = { 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0 };
const uint16_t tz_dense_recent[DN_RECENT] = { 256, 192, 160, 128, 112, 96, 80, 48, 64, 32, 16 };

struct dn_tables tz_dense_tables __attribute__((aligned(4096)));

struct tz_range tz_dense_table_range(void)
{
	uintptr_t from = (uintptr_t)&tz_dense_tables;

	return (struct tz_range){ from, (from + sizeof tz_dense_tables) & ~(uintptr_t)4095 };
}

/* Canonical codes, by length, then by symbol. The first bit is written first, so they are stored
 * bit-reversed. */
static void make_table(unsigned class, unsigned number)
{
	struct dn_tables *t = &tz_dense_tables;
	unsigned table = class * DN_TABLES_EACH + number, code = 0;

	for (unsigned length = 1; length <= DN_MAX_BITS; length++, code <<= 1) {
		for (unsigned symbol = 0; symbol < 256; symbol++) {
			unsigned bits = 0;

			if ((unsigned)(dn_lengths[table][symbol] - 'a' + 1) != length)
				continue;
			for (unsigned i = 0; i < length; i++)
				bits |= (code >> i & 1) << (length - 1 - i);
			code++;
			t->len[class][symbol][number] = (uint16_t)length;
			t->code[table][symbol] = (uint16_t)(bits | length << 12);
			for (unsigned i = bits; i < 1u << DN_MAX_BITS; i += 1u << length)
				t->dec[table][i] = (uint16_t)(symbol << 8 | length);
		}
	}
}

static void make_tables(void)
{
	memset(tz_dense_tables.newest, 0xff, sizeof(tz_dense_tables.newest));
	for (unsigned i = 0; i < DN_RECENT; i++)
		tz_dense_tables.newest[DN_NEWEST(tz_dense_recent[i])] = (uint32_t)tz_dense_recent[i]
				<< 16 |
			i;
	for (unsigned m = 0; m < 256; m++)
		for (unsigned i = 0, n = 0; i < 8; i++)
			tz_dense_tables.place[m][i] = m >> i & 1 ? (uint8_t)n++ : 0xff;
	for (unsigned class = 0; class < DN_CLASSES; class++)
		for (unsigned i = 0; i < DN_TABLES_EACH; i++)
			make_table(class, i);
}

static size_t workspace_size(int level, const char **why)
{
	(void)level;
	(void)why;
	return (sizeof(struct dn_workspace) + 63) & ~(size_t)63;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (size < workspace_size(level, why)) {
		*why = "dense: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(workspace, 0, sizeof(struct dn_workspace));
	pthread_once(&once, make_tables);
	return 0;
}

/* a < b ? x : y; left <= at ? x : y. Compilers may turn these into branches, which are not
 * predictable; so they are cmov by hand where the CPU has it. */
#if defined(TZ_X86)
static inline __attribute__((always_inline)) uint32_t select_less(uint32_t a, uint32_t b,
	uint32_t x, uint32_t y)
{
	__asm__("cmpl %2, %1\n\tcmovbl %3, %0" : "+r"(y) : "r"(a), "r"(b), "r"(x) : "cc");
	return y;
}

static inline __attribute__((always_inline)) const uint16_t *select_table(int left, int at,
	const uint16_t *x, const uint16_t *y)
{
	__asm__("cmpl %2, %1\n\tcmovle %3, %0" : "+r"(y) : "r"(left), "ri"(at), "r"(x) : "cc");
	return y;
}
#define DN_SELECT_LESS(a, b, x, y) select_less(a, b, x, y)
#define DN_SELECT_TABLE(left, at, x, y) select_table(left, at, x, y)
/* The readers' two steps are in assembly for the same reason: gcc 12 needs nine instructions for
 * the five of DN_SYMBOL, and twice the time. DN_SYMBOL decodes one symbol from the register `bits`
 * by table `t` to o[at]. */
#define DN_SET_MARK(word) __asm__("btsq $63, %0" : "+r"(word) : : "cc")
#define DN_SYMBOL_BMI2(bits, t, o, at) \
	{ \
		uint64_t entry; \
		__asm__("movl %k[b], %k[e]\n\tandl %[m], %k[e]\n\t" \
			"movzwl (%[tab],%q[e],2), %k[e]\n\t" \
			"shrx %q[e], %[b], %[b]\n\tmovb %h[e], %c[n](%[out])" \
			: [b] "+r"(bits), [e] "=&Q"(entry), "=m"((o)[at]) \
			: \
			[tab] "r"(t), [out] "D"(o), [n] "i"(at), [m] "i"((1 << DN_MAX_BITS) - 1), \
			"m"(*(const uint16_t (*)[1 << DN_MAX_BITS])(t)) \
			: "cc"); \
	}
#else
#define DN_SELECT_LESS(a, b, x, y) ((a) < (b) ? (x) : (y))
#define DN_SELECT_TABLE(left, at, x, y) ((left) <= (at) ? (x) : (y))
#define DN_SET_MARK(word) ((word) |= 1ull << 63)
#endif
#define DN_SYMBOL_C(bits, t, o, at) \
	{ \
		unsigned entry = (t)[(bits) & ((1 << DN_MAX_BITS) - 1)]; \
		(bits) >>= entry & 63; \
		(o)[at] = (uint8_t)(entry >> 8); \
	}

#define DN_FN static DN_TARGET
#define DN_NOINLINE static __attribute__((noinline)) DN_TARGET
#define DN_INLINE static inline __attribute__((always_inline)) DN_TARGET

#define DN_TARGET TZ_TARGET_PORTABLE
#define DN_SYMBOL DN_SYMBOL_C
#define DN(name) portable_##name
#include "dense_ops_plain.h"
#include "dense_template.h"

#if defined(TZ_ARM64)
#undef DN
#define DN_USE_NEON 1
#define DN(name) neon_##name
#include "dense_ops_plain.h"
#include "dense_template.h"
#endif

#if defined(TZ_X86)
#undef DN
#undef DN_TARGET
#undef DN_SYMBOL
#define DN_TARGET TZ_TARGET_AVX2
#define DN_SYMBOL DN_SYMBOL_BMI2
#define DN_USE_AVX2 1
#define DN(name) avx2_##name
#include "dense_ops_plain.h"
#include "dense_template.h"

#undef DN
#undef DN_TARGET
#ifndef DN_SAMPLE
#define DN_SAMPLE 96 /* of 256 positions */
#endif
#define DN_TARGET TZ_TARGET_AVX512
#define DN(name) avx512_##name
#include "dense_ops_avx512.h"
#include "dense_template.h"
#endif

#define VARIANT(isa, name) \
	{ "dense", "small and quick to read back", TZ_KIND_DENSE, TZ_ISA_##isa, 0, 0, 0, \
		workspace_size, workspace_init, name##_compress, name##_decompress },

const struct tz_codec tz_dense_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ .name = NULL },
};
