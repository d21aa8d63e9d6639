/* test_freed.c - pages of freed swap slots are given back, and never one that was written since.
 *
 * The test is the kernel: it writes pages, and when it is done with one, sets its bit.
 *
 * rounds: marked pages go and others stay, whatever they hold; counters say so; bits behind the
 * last
 *	page are nobody's; steps are short and go on where they were.
 * at_once: a write that comes while the collector is at its page, after it has looked and after it
 *	has taken the bit, with the very word that is there; and a write that is not swap's.
 *	All of it with dedup as well: a write that shares what the page had before.
 * threads: writers that write, verify, free and write again, same-filled pages of two words among
 *	them, next to the collector's rounds.
 */
#include "device.h"

#include "collect.h"
#include "store_impl.h"

#include <sched.h>

#define PAGES 20000u
#define BITS (PAGES / 64 + 2)

static uint64_t bits[BITS];

static void mark(uint64_t page)
{
	__atomic_fetch_or(&bits[page / 64], 1ull << page % 64, __ATOMIC_SEQ_CST);
}

static int is_marked(uint64_t page)
{
	return __atomic_load_n(&bits[page / 64], __ATOMIC_SEQ_CST) >> page % 64 & 1;
}

/* ---- a place where the collector is held up ---- */

static _Atomic(const char *) act_at;	/* at this point, */
static void (*action)(void);		/* once, this is done */

void tz_test_point(const char *name)
{
	const char *at = act_at;

	if (!at || strcmp(name, at))
		return;
	act_at = NULL;
	action();
}

/* ---- rounds ---- */

static void fill(uint8_t *page, uint64_t word)
{
	for (unsigned i = 0; i < TZ_PAGE_SIZE; i += 8)
		memcpy(page + i, &word, 8);
}

/* Words in the entry, words that need an object, and other pages, half of them the same. */
static void content(uint8_t *page, uint64_t number, uint32_t sequence)
{
	if (number % 4 == 0)
		fill(page, sequence % 2 ? 0x1234 : 0x5678);
	else if (number % 4 == 1)
		fill(page, 0x8123456789abcdefull + sequence);
	else
		make_page(page, number % 8 / 4 ? number : number % 8, 1, sequence);
}

static void write_page(struct tz_store_thread *t, uint64_t page, uint32_t sequence)
{
	uint8_t data[TZ_PAGE_SIZE] __attribute__((aligned(8)));

	content(data, page, sequence);
	tz_store_begin(t);
	CHECK(write_waiting(t, page, data) == 0, "write %llu", (unsigned long long)page);
	tz_store_end(t);
}

static int holds(struct tz_store_thread *t, uint64_t page, uint32_t sequence)
{
	uint8_t data[TZ_PAGE_SIZE] __attribute__((aligned(8))), is[TZ_PAGE_SIZE];

	tz_store_begin(t);
	CHECK(tz_store_read(t, page, is) == 0, "read %llu", (unsigned long long)page);
	tz_store_end(t);
	if (sequence)
		content(data, page, sequence);
	else
		memset(data, 0, sizeof data);
	return !memcmp(data, is, sizeof data);
}

static int with_dedup;

static struct device make(unsigned threads, struct tz_collect *c)
{
	struct device d = make_device(PAGES, threads, 0, "fast");
	char why[216] = "";

	CHECK(tz_store_set_dedup(d.store, with_dedup, why, sizeof why) == 0, "%s", why);

	memset(bits, 0, sizeof bits);
	tz_store_set_freed(d.store, bits);
	*c = (struct tz_collect){ .thread = tz_store_collector(d.store), .bits = bits,
		.nr_pages = PAGES };
	return d;
}

static unsigned round_of(struct tz_collect *c)
{
	unsigned steps = 1;

	while (!tz_collect_step(c))
		steps++;
	return steps;
}

/* What the housekeeper moved at the instant at which the collector was there has stayed: it is
 * marked again. Of thousands that is one now and then. */
static void collect_the_rest(struct tz_collect *c, struct tz_store_thread *t)
{
	unsigned left = 0;

	for (uint64_t p = 0; p < PAGES; p += 5)
		if (p % 3 && !holds(t, p, 0)) {
			mark(p);
			left++;
		}
	CHECK(left < 16, "%u were not collected", left);
	if (left)
		round_of(c);
}

static void rounds(void)
{
	struct tz_collect c;
	struct device d = make(1, &c);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t gone = 0;

	for (uint64_t p = 0; p < PAGES; p++)
		if (p % 3)
			write_page(t, p, 1);
	CHECK(!tz_collect_is_due(&c), "nothing is marked");
	round_of(&c);
	CHECK(c.found == 0, "%llu found", (unsigned long long)c.found);
	for (uint64_t p = 0; p < PAGES; p++)
		if (p % 5 == 0)
			mark(p);
	mark(PAGES);
	mark(PAGES + 70);
	CHECK(tz_collect_is_due(&c), "much is marked");
	round_of(&c);
	CHECK(c.found == (PAGES + 4) / 5, "%llu found", (unsigned long long)c.found);
	CHECK(is_marked(PAGES) && is_marked(PAGES + 70), "not ours");
	for (unsigned i = 0; i < 3; i++)
		collect_the_rest(&c, t);
	for (uint64_t p = 0; p < PAGES; p++) {
		int stays = p % 3 && p % 5;
		gone += p % 3 && !stays;
		CHECK(holds(t, p, stays), "page %llu", (unsigned long long)p);
		CHECK(!is_marked(p), "page %llu is still marked", (unsigned long long)p);
	}
	struct tz_stats_sum sum = sum_of(d.stats);
	CHECK(sum.total.slots_freed == gone && sum.total.pages_discarded == gone,
		"%llu freed, %llu discarded", (unsigned long long)sum.total.slots_freed,
		(unsigned long long)sum.total.pages_discarded);
	uint64_t stays = PAGES - (PAGES + 2) / 3 - gone;
	CHECK((uint64_t)sum.total.pages_now == stays, "%lld stored, %llu written and not freed",
		(long long)sum.total.pages_now, (unsigned long long)stays);
	/* A write takes its page's mark away, and nothing else. */
	mark(7);
	mark(8);
	write_page(t, 7, 2);
	CHECK(!is_marked(7) && is_marked(8), "marks");
	/* No longer: nothing is cleared, nothing is collected. */
	tz_store_set_freed(d.store, NULL);
	mark(7);
	write_page(t, 7, 3);
	round_of(&c);
	CHECK(is_marked(7) && holds(t, 7, 3), "page 7 after the end");
	end_device(&d);
}

/* ---- at once ---- */

static struct tz_store_thread *writer;
static uint64_t at_page;
static uint32_t again;

static void write_again(void)
{
	write_page(writer, at_page, again);
}

/* Written, freed and written: what the collector has seen comes back. */
static void write_twice(void)
{
	write_page(writer, at_page, again + 1);
	mark(at_page);
	write_page(writer, at_page, again);
}

static void write_other(void)
{
	tz_store_written_by_others(writer);
}

/* Marks a page, has `what` done at a point of its collection; whether the page is there after. */
static int survives(struct tz_collect *c, uint64_t page, const char *where, void (*what)(void))
{
	write_page(writer, page, 1);
	/* With dedup: the same object comes back if it has the same content as another page. */
	write_page(writer, page + 40, 1);
	mark(page);
	at_page = page;
	again = 1;
	action = what;
	act_at = where;
	round_of(c);
	CHECK(!act_at, "the collector has not come to \"%s\"", where);
	return holds(writer, page, 1);
}

static void at_once(void)
{
	static const char *const points[] = { "looked", "collecting" };
	struct tz_collect c;
	struct device d = make(1, &c);

	writer = tz_store_thread(d.store, 0);
	for (unsigned i = 0; i < 2; i++) {
		for (uint64_t page = 40; page < 44; page++) {
			CHECK(survives(&c, page, points[i], write_again),
				"page %llu, written when it was %s", (unsigned long long)page,
				points[i]);
			CHECK(survives(&c, page, points[i], write_twice),
				"page %llu, written twice when it was %s",
				(unsigned long long)page, points[i]);
		}
	}
	CHECK(survives(&c, 40, "looked", write_other) && survives(&c, 41, "looked", write_other),
		"nothing is collected once others write");
	CHECK(tz_store_has_others(d.store), "shown");
	tz_store_set_freed(d.store, bits);
	CHECK(!tz_store_has_others(d.store), "from anew");
	mark(40);
	round_of(&c);
	CHECK(holds(writer, 40, 0), "page 40 is collected after all");
	end_device(&d);
}

/* ---- threads ---- */

#define WRITERS 4u
#define OWNED (PAGES / WRITERS)		/* consecutive: words are shared at the borders only */

struct owner {
	struct tz_store_thread *t;
	uint64_t first;
	unsigned rounds;
};

static _Atomic unsigned at_work;

/* As swap does: a slot is written, read some times, freed when no request is under way, and taken
 * again soon. */
static void *own(void *arg)
{
	struct owner *o = arg;
	uint64_t state = o->first + 1;

	for (unsigned i = 0; i < o->rounds; i++) {
		uint64_t page = o->first + next(&state) % 64;	/* few: they meet the collector */
		uint32_t sequence = 1 + (uint32_t)(next(&state) % 2);
		write_page(o->t, page, sequence);
		CHECK(holds(o->t, page, sequence), "page %llu after its write",
			(unsigned long long)page);
		if (next(&state) % 4 == 0)
			sched_yield();
		CHECK(holds(o->t, page, sequence), "page %llu while it is in use",
			(unsigned long long)page);
		mark(page);
	}
	at_work--;
	return NULL;
}

static void threads(void)
{
	struct tz_collect c;
	struct device d = make(WRITERS, &c);
	struct owner owners[WRITERS];
	pthread_t ids[WRITERS];

	at_work = WRITERS;
	for (unsigned i = 0; i < WRITERS; i++) {
		owners[i] = (struct owner){ tz_store_thread(d.store, i), (uint64_t)i * OWNED,
			100000 / share_of_work() };
		CHECK(!pthread_create(&ids[i], NULL, own, &owners[i]), "thread");
	}
	while (at_work)
		round_of(&c);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(ids[i], NULL);
	/* What a write has kept from being collected is marked again with its next freeing. (Twice:
	 * the housekeeper may move one of them at that instant.) */
	for (unsigned n = 0; n < 2 * WRITERS; n++) {
		for (uint64_t page = 0; page < 64; page++)
			mark(owners[n % WRITERS].first + page);
		round_of(&c);
	}
	struct tz_stats_sum sum = sum_of(d.stats);
	CHECK(sum.total.pages_now == 0 && sum.total.compr_bytes_now == 0, "%lld pages left",
		(long long)sum.total.pages_now);
	CHECK(sum.total.slots_freed > 0, "none was collected");
	printf("%llu of %u slots collected\n", (unsigned long long)sum.total.slots_freed,
		WRITERS * owners[0].rounds);
	end_device(&d);
}

int main(void)
{
	for (with_dedup = 0; with_dedup < 2; with_dedup++) {
		rounds();
		at_once();
		threads();
	}
	return 0;
}
