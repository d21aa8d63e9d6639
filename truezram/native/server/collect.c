/* collect.c - the collector's rounds (interface: collect.h). */
#include "collect.h"
#include "clock.h"

/* Pages given back, or so many times 64 words looked at, between two looks at the clock. */
#define LOOK_AT_CLOCK 16u

static uint64_t word_at(const struct tz_collect *c, uint64_t page)
{
	uint64_t word = __atomic_load_n(&c->bits[page / 64], __ATOMIC_SEQ_CST);

	return c->nr_pages - page < 64 ? word & ((1ull << (c->nr_pages - page)) - 1) : word;
}

static void collect_word(struct tz_collect *c, uint64_t word)
{
	for (; word; word &= word - 1) {
		tz_store_collect(c->thread, c->next + (unsigned)__builtin_ctzll(word));
		c->found++;
	}
}

int tz_collect_step(struct tz_collect *c)
{
	uint64_t end = tz_now_ns() + TZ_COLLECT_STEP_NS;
	unsigned work = 0;

	if (c->next == 0)
		c->found = 0;
	tz_store_begin(c->thread);
	while (c->next < c->nr_pages) {
		uint64_t word = word_at(c, c->next);
		collect_word(c, word);
		c->next += 64;
		work += 1 + (unsigned)__builtin_popcountll(word) * 64;
		if (work >= LOOK_AT_CLOCK * 64) {
			work = 0;
			if (tz_now_ns() >= end)
				break;
		}
	}
	tz_store_end(c->thread);
	if (c->next < c->nr_pages)
		return 0;
	c->next = 0;
	return 1;
}

int tz_collect_is_due(const struct tz_collect *c)
{
	for (uint64_t page = 0; page < c->nr_pages; page += 64)
		if (word_at(c, page))
			return 1;
	return 0;
}
