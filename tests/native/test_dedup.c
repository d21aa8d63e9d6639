/* test_dedup.c - identical pages share one object.
 *
 * counts: what is shared takes no room, what is left when pages go is what is stored; switched off,
 *	it stays shared; what cannot be had is refused.
 * compact: segments of shared objects are emptied when they have become sparse.
 * model: one thread, random writes of few contents and discards, while dedup is switched on and off
 *	and the algorithm changes, against a plain array; then the checker's count against the
 *	counters.
 * threads: the same with four threads that each have pages of their own, but the same contents,
 *	and the housekeeper at work.
 * damage: a damaged shared object is EIO for each of its pages; a damaged entry frees nothing.
 */
#include "counts.h"

#define NONE UINT32_MAX

static unsigned share = 1;		/* device.h: share_of_work */

/* A page whose content depends on `what` alone; one of sixteen is same-filled. */
static void content(uint8_t *page, uint32_t what)
{
	if (what % 16 == 15)
		memset(page, (int)(what & 0xff), 4096);
	else
		make_page(page, what, 7, 1 + what);
}

static void put(struct tz_store_thread *t, uint64_t page, uint32_t what)
{
	uint8_t data[4096] __attribute__((aligned(8)));

	content(data, what);
	CHECK(write_waiting(t, page, data) == 0, "write of page %llu", (unsigned long long)page);
}

/* The same, with room for an object that is shared: without it, a page gets one of its own. */
static void put_with_room(struct device *d, uint64_t page, uint32_t what)
{
	wait_for_reserve(d);
	put(tz_store_thread(d->store, 0), page, what);
}

static void expect(struct tz_store_thread *t, uint64_t page, uint32_t what)
{
	uint8_t data[4096] __attribute__((aligned(8))) = { 0 }, is[4096];

	if (what != NONE)
		content(data, what);
	CHECK(tz_store_read(t, page, is) == 0, "read of page %llu", (unsigned long long)page);
	CHECK(!memcmp(data, is, sizeof data), "page %llu is not %u", (unsigned long long)page,
		what);
}

static void dedup(struct device *d, int on)
{
	char why[216] = "";

	CHECK(tz_store_set_dedup(d->store, on, why, sizeof why) == 0, "%s", why);
	CHECK(NOW(d->stats->dedup) == (uint64_t)on, "not shown");
}

static void end_empty(struct device *d, uint64_t pages)
{
	for (unsigned i = 0; i < d->threads; i++) {
		struct tz_store_thread *t = tz_store_thread(d->store, i);
		tz_store_begin(t);
		for (uint64_t n = i; n < pages; n += d->threads)
			tz_store_discard(t, n);
		tz_store_end(t);
	}
	dedup(d, 0);
	struct tz_stats_sum sum = sum_of(d->stats);
	CHECK(sum.total.pages_now == 0 && sum.total.dup_pages_now == 0 &&
			sum.total.compr_bytes_now == 0 && sum.total.object_bytes_now == 0,
		"%lld pages, %lld of them shared, %lld bytes are left",
		(long long)sum.total.pages_now, (long long)sum.total.dup_pages_now,
		(long long)sum.total.compr_bytes_now);
	CHECK(sum.total.damaged_entries == 0, "%s", d->stats->last_error);
	WAIT_FOR(arena_bytes(d->stats) <= d->fresh, "%llu of %llu bytes stay",
		(unsigned long long)arena_bytes(d->stats), (unsigned long long)d->fresh);
	end_device(d);
}

/* ---- counts ---- */

static void test_counts(void)
{
	enum { PAGES = 2000, CONTENTS = 10 };
	struct device d = make_device(PAGES, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t before = NOW(d.stats->overhead_bytes), one;

	tz_store_begin(t);
	put(t, 0, 100);
	put(t, 1, 100);
	tz_store_end(t);
	one = (uint64_t)sum_of(d.stats).total.compr_bytes_now;
	CHECK(sum_of(d.stats).total.dup_pages_now == 0 && one > 0, "shared before it is on");
	dedup(&d, 1);
	CHECK(NOW(d.stats->overhead_bytes) > before, "its memory is not counted");
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put_with_room(&d, n, 100 + (uint32_t)(n % CONTENTS));
	tz_store_end(t);
	struct tz_stats_sum sum = sum_of(d.stats);
	CHECK(sum.total.pages_now == PAGES, "pages");
	CHECK(sum.total.dup_pages_now == PAGES - CONTENTS, "%lld of %u pages share an object",
		(long long)sum.total.dup_pages_now, PAGES);
	CHECK((uint64_t)sum.total.compr_bytes_now < 4096 * CONTENTS, "room for more than that");
	check_counts(&d);
	/* The same to the same page; another to one of those that share. */
	tz_store_begin(t);
	put_with_room(&d, 5, 105);
	put(t, 6, 7777);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, n == 6 ? 7777 : 100 + (uint32_t)(n % CONTENTS));
	tz_store_end(t);
	CHECK(sum_of(d.stats).total.dup_pages_now == PAGES - CONTENTS - 1, "after overwriting");
	/* Off: nothing new is shared, and nothing that is shared is lost. */
	dedup(&d, 0);
	tz_store_begin(t);
	put(t, 6, 106);
	expect(t, 6, 106);
	CHECK(sum_of(d.stats).total.dup_pages_now == PAGES - CONTENTS - 1,
		"shared while it is off");
	/* The last page of a content takes its object along. */
	for (uint64_t n = CONTENTS; n < PAGES; n++)
		tz_store_discard(t, n);
	for (uint64_t n = 0; n < CONTENTS; n++)
		expect(t, n, 100 + (uint32_t)n);
	tz_store_end(t);
	CHECK(sum_of(d.stats).total.dup_pages_now == 0, "the last of each");
	CHECK(NOW(d.stats->overhead_bytes) > before, "counts of what is shared");
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* Of many contents that two pages each have, one of eight stays: their segments are emptied, too,
 * and pages of them that are written meanwhile are what was written. */
static void test_compact(void)
{
	enum { CONTENTS = 6000, PAGES = 2 * CONTENTS };
	struct device d = make_device(PAGES, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t full;

	dedup(&d, 1);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put_with_room(&d, n, 100 + 16 * (uint32_t)(n % CONTENTS));
	/* A bucket of the index may be too small for what falls into it. */
	CHECK(sum_of(d.stats).total.dup_pages_now > CONTENTS - CONTENTS / 50, "%lld shared",
		(long long)sum_of(d.stats).total.dup_pages_now);
	full = NOW(d.stats->segment_bytes);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n % CONTENTS % 8)
			tz_store_discard(t, n);
	tz_store_end(t);
	compact(&d);
	CHECK(sum_of(d.stats).total.dup_pages_now > CONTENTS / 9, "an eighth is shared");
	uint64_t left = (uint64_t)sum_of(d.stats).total.object_bytes_now;
	CHECK(NOW(d.stats->segment_bytes) <= left * 9 / 8 + 3 * TZ_SEGMENT_SIZE &&
			full > 6 * left,
		"%llu of %llu bytes are left in segments, for %llu",
		(unsigned long long)NOW(d.stats->segment_bytes), (unsigned long long)full,
		(unsigned long long)left);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, n % CONTENTS % 8 ? NONE : 100 + 16 * (uint32_t)(n % CONTENTS));
	tz_store_end(t);
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* A device at its limit has nothing for it, and says so. */
static void test_refused(void)
{
	struct device d = make_device(1 << 20, 1, 4u << 20, "fast");
	char why[216] = "";

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == -ENOMEM &&
		strstr(why, "mem_limit"), "%s", why);
	CHECK(NOW(d.stats->dedup) == 0, "shown as on");
	end_device(&d);
}

/* ---- model ---- */

static const char *const algorithms[] = { "fast", "dense", "lz4", "turbo", "auto" };

static void change_something(struct device *d, uint64_t random)
{
	char why[216] = "";

	if (random % 4)
		dedup(d, random % 4 != 3);
	else
		CHECK(tz_store_set_algorithm(
			      d->store, algorithms[random / 4 % 5], why, sizeof why) == 0,
			"%s", why);
}

static void test_model(void)
{
	enum { PAGES = 3000, CONTENTS = 200 };
	struct device d = make_device(PAGES, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint32_t *model = malloc(PAGES * sizeof *model);
	uint64_t state = 11;
	int64_t most = 0;

	memset(model, 0xff, PAGES * sizeof *model);
	dedup(&d, 1);
	for (unsigned step = 0; step < 60000 / share; step++) {
		uint64_t n = next(&state) % PAGES, what = next(&state) % 8;
		uint32_t one = (uint32_t)(next(&state) % CONTENTS);
		tz_store_begin(t);
		if (what < 5)
			put(t, n, model[n] = one);
		else if (what == 5)
			put(t, n, model[n] = 100000 + step);
		else if (what == 6)
			tz_store_discard(t, n), model[n] = NONE;
		else
			expect(t, n, model[n]);
		tz_store_end(t);
		if (next(&state) % 500 == 0)
			change_something(&d, next(&state));
		if (sum_of(d.stats).total.dup_pages_now > most)
			most = sum_of(d.stats).total.dup_pages_now;
	}
	CHECK(most > PAGES / 4 / share, "%lld pages at most were shared", (long long)most);
	check_counts(&d);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, model[n]);
	tz_store_end(t);
	free(model);
	end_empty(&d, PAGES);
}

/* ---- threads ---- */

enum { THREADS = 4, OF_THREAD = 1024 };

struct worker {
	struct device *d;
	unsigned index, steps;
	uint32_t model[OF_THREAD];
};

static _Atomic unsigned at_work;

static void *work(void *arg)
{
	struct worker *w = arg;
	struct tz_store_thread *t = tz_store_thread(w->d->store, w->index);
	uint64_t state = w->index + 1;

	for (unsigned step = 0; step < w->steps; step++) {
		if (step % 16 == 0)
			tz_store_begin(t);
		uint32_t m = (uint32_t)(next(&state) % OF_THREAD),
			 what = (uint32_t)(next(&state) % 8);
		uint64_t page = (uint64_t)m * THREADS + w->index;
		if (what < 4)
			put(t, page, w->model[m] = step / 16384 * 1024 +
				(uint32_t)(next(&state) % 700));
		else if (what == 4)
			put(t, page, w->model[m] = (w->index + 1) << 24 | step);
		else if (what == 5)
			tz_store_discard(t, page), w->model[m] = NONE;
		else
			expect(t, page, w->model[m]);
		if (step % 16 == 15)
			tz_store_end(t);
	}
	at_work--;
	return NULL;
}

static void test_threads(void)
{
	struct device d = make_device(THREADS * OF_THREAD, THREADS, 0, "fast");
	struct worker *w = calloc(THREADS, sizeof *w);
	pthread_t ids[THREADS];
	uint64_t state = 5;

	dedup(&d, 1);
	at_work = THREADS;
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ &d, i, 16 * (8000 / share), { 0 } };
		memset(w[i].model, 0xff, sizeof w[i].model);
		CHECK(!pthread_create(&ids[i], NULL, work, &w[i]), "thread");
	}
	for (unsigned turn = 0; at_work; turn++) {
		tz_store_compact(d.store);
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
		if (turn % 8 == 7)
			change_something(&d, next(&state));
		if (turn % 32 == 31)
			dedup(&d, 1);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(ids[i], NULL);
	check_counts(&d);
	for (unsigned i = 0; i < THREADS; i++) {
		struct tz_store_thread *t = tz_store_thread(d.store, (i + 1) % THREADS);
		tz_store_begin(t);
		for (unsigned m = 0; m < OF_THREAD; m++)
			expect(t, (uint64_t)m * THREADS + i, w[i].model[m]);
		tz_store_end(t);
	}
	free(w);
	end_empty(&d, THREADS * OF_THREAD);
}

/* ---- damage ---- */

static void test_damage(void)
{
	enum { PAGES = 64 };
	struct device d = make_device(PAGES, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t is[4096];

	dedup(&d, 1);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put_with_room(&d, n, (uint32_t)(n / 32));
	/* A byte of the object: each of its pages, and no other. */
	uint64_t entry = load(entry_of(&d, 40));
	uint8_t *object = (uint8_t *)(uintptr_t)head_of(&d) + tz_entry_offset(entry);
	object[20] ^= 4;
	for (uint64_t n = 0; n < PAGES; n++)
		CHECK(tz_store_read(t, n, is) == (n < 32 ? 0 : -EIO), "page %llu",
			(unsigned long long)n);
	object[20] ^= 4;
	/* Each bit of the entry: EIO. Overwritten like that, it frees nothing. */
	for (unsigned bit = 0; bit < 64; bit++) {
		flip(entry_of(&d, 1), bit);
		CHECK(tz_store_read(t, 1, is) == -EIO, "bit %u", bit);
		flip(entry_of(&d, 1), bit);
	}
	flip(entry_of(&d, 1), 30);
	put(t, 1, 9998);
	for (uint64_t n = 2; n < 32; n++)
		tz_store_discard(t, n);
	expect(t, 0, 0);
	expect(t, 1, 9998);
	/* Whole, but of an object that is not one that is shared: nothing is freed either. */
	uint64_t plain = load(entry_of(&d, 1)), kept = load(entry_of(&d, 0));
	put_word(entry_of(&d, 0), tz_entry_shared(
		0, tz_entry_kind(plain), tz_entry_offset(plain), tz_entry_length(plain)));
	CHECK(tz_store_read(t, 0, is) == -EIO, "another page's object");
	put(t, 0, 1234);
	expect(t, 1, 9998);
	CHECK(kept != plain, "entries");
	tz_store_end(t);
	CHECK(sum_of(d.stats).total.damaged_entries >= 2, "not counted");
	end_device(&d);
}

int main(void)
{
	share = share_of_work();
	test_counts();
	test_compact();
	test_refused();
	test_damage();
	test_model();
	test_threads();
	return 0;
}
