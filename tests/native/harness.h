/* harness.h - what the native tests share: checks, a random number generator, buffers between guard
 * pages, test pages.
 *
 * A test is a program that exits 0, or 77 for "does not apply here" (with a line that says why),
 * and stops at the first failed check. Included once per program.
 */
#ifndef TZ_HARNESS_H
#define TZ_HARNESS_H

#include "codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SKIP 77

#define CHECK(condition, ...) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: not true: %s\n\t", __FILE__, __LINE__, \
				#condition); \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr); \
			exit(1); \
		} \
	} while (0)

/* xorshift64*: the same pages in every run. */
static uint64_t random_state = 0x9e3779b97f4a7c15ull;

static inline uint64_t random64(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

static inline unsigned random_below(unsigned n)
{
	return (unsigned)(random64() >> 32) % n;
}

/* Memory between two inaccessible pages: a byte read or written outside it is a SIGSEGV. `size`
 * bytes that end exactly at the upper guard (at_end), or start exactly at the lower one. */
struct guarded {
	uint8_t *map;
	size_t map_size, inner;
};

static inline struct guarded guarded_new(size_t max)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (max + page - 1) / page * page;
	struct guarded g = { .map_size = inner + 2 * page, .inner = inner };

	g.map = mmap(NULL, g.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(g.map != MAP_FAILED, "mmap of %zu bytes", g.map_size);
	g.map += page;
	CHECK(!mprotect(g.map, inner, PROT_READ | PROT_WRITE), "mprotect");
	return g;
}

static inline uint8_t *guarded_at(const struct guarded *g, size_t size, int at_end)
{
	return at_end ? g->map + g->inner - size : g->map;
}

static inline void guarded_free(struct guarded *g)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	munmap(g->map - page, g->map_size);
}

/* Fills page[at .. at + n) with one kind of content; copies refer to the page so far. */
static inline void fill_part(uint8_t *page, unsigned at, unsigned n, unsigned kind)
{
	uint64_t base = random64(), v;
	unsigned period = 1 + random_below(80), from = at ? random_below(at) : 0;

	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = page + at + i;
		switch (kind) {
		case 0: *p = 0; break;
		case 1: *p = (uint8_t)random64(); break;
		case 2: *p = i < period ? (uint8_t)random64() : p[-(int)period]; break;
		case 3:
			v = (base & 0x7ffffffff000) + (i / 8 * 0x40 & 0xfff);
			*p = (uint8_t)(v >> i % 8 * 8);
			break;
		case 4: v = (base & 0xffffff) + i / 4; *p = (uint8_t)(v >> i % 4 * 8); break;
		case 5:
			*p = (uint8_t)"the quick brown fox static int return "[random_below(38)];
			break;
		case 6: *p = at ? page[from + i % (at - from)] : 7; break;
		default:
			*p = i < period ? (uint8_t)random64()
				: random_below(16) ? p[-(int)period] : (uint8_t)i;
			break;
		}
	}
}

/* One of a few extreme pages, then mixtures. */
static inline void make_page(uint8_t *page, unsigned number)
{
	static const unsigned edges[] =
		{ 1, 4, 5, 6, 11, 12, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 270, 4080,
		4095 };
	const unsigned n_edges = sizeof(edges) / sizeof(*edges);
	unsigned at = 0;

	if (number < 8) {
		fill_part(page, 0, TZ_PAGE_SIZE, number);
		return;
	}
	if (number < 8 + 2 * n_edges) {
		unsigned edge = edges[(number - 8) % n_edges],
			first = number < 8 + n_edges ? edge : TZ_PAGE_SIZE - edge;
		fill_part(page, 0, first, number < 8 + n_edges);
		fill_part(page, first, TZ_PAGE_SIZE - first, number >= 8 + n_edges);
		return;
	}
	while (at < TZ_PAGE_SIZE) {
		unsigned n = 1 + random_below(random_below(2) ? 40 : 700);
		n = n < TZ_PAGE_SIZE - at ? n : TZ_PAGE_SIZE - at;
		fill_part(page, at, n, random_below(8));
		at += n;
	}
}

#endif
