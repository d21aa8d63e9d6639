/* test_group.c - neighbouring pages in groups.
 *
 * pack: they take less, and read the same; one is decompressed for all of them; what is read twice,
 *	written or discarded leaves, and the others stay; the last one takes the group along.
 * what: what is never put in a group.
 * after: what was recompressed before, with a codec that the device's algorithm does not bring.
 * limit: at mem_limit.
 * thin: groups that many have left are packed again, and sparse segments of them emptied; the same
 *	when all that happens is that pages are read.
 * collect: freed swap slots.
 * model: one thread, random writes, discards, reads and packing, against a plain array; then the
 *	checker's count against the counters; and the same in the store that attaches what is left.
 * threads: four threads with pages of their own in the same windows, the housekeeper packing all
 *	the time.
 * damage: every bit of a member's entry, of the head and of the payload: never wrong bytes, and no
 *	other group is lost; what comes before the damage is still there.
 * time FILE...: not a test: packs pages of files, and shows what they take and how long it takes to
 *	read one (docs/tiers.md).
 */
#include "attach_pages.h"
#include "counts.h"

#define NONE UINT32_MAX

static unsigned share = 1;		/* device.h: share_of_work */

/* Pages of words that are common to all of them, so that neighbours have much in common. `what` %
 * 16 is 15: same-filled, 14: incompressible. */
static void content(uint8_t *page, uint64_t n, uint32_t what)
{
	uint64_t state = (n + 1) * 0x9e3779b97f4a7c15ull ^ what, *words = (uint64_t *)(void *)page;

	if (what % 16 == 15) {
		memset(page, (int)(1 + what % 255), 4096);
		return;
	}
	for (unsigned i = 0; i < 512; i++) {
		uint64_t r = next(&state);
		words[i] = what % 16 == 14 ? r : (r % 97) * (r % 89 + 1) * 0x0123456789abull;
	}
	words[0] = n;
	words[1] = what;
}

static void store_page(struct tz_store_thread *t, uint64_t page, uint32_t what)
{
	uint8_t data[4096] __attribute__((aligned(8)));

	content(data, page, what);
	CHECK(write_waiting(t, page, data) == 0, "write of page %llu", (unsigned long long)page);
}

/* 1: right, 0: wrong bytes, -1: EIO. */
static int is(struct tz_store_thread *t, uint64_t page, uint32_t what)
{
	uint8_t data[4096] __attribute__((aligned(8))) = { 0 }, read[4096];
	int rc = tz_store_read(t, page, read);

	CHECK(rc == 0 || rc == -EIO, "read: %d", rc);
	if (what != NONE)
		content(data, page, what);
	return rc < 0 ? -1 : !memcmp(data, read, sizeof data);
}

static const char *last_error = "";		/* of the device at hand */

static void expect(struct tz_store_thread *t, uint64_t page, uint32_t what)
{
	int result = is(t, page, what);

	CHECK(result == 1, "page %llu is not %u: %d %s", (unsigned long long)page, what, result,
		last_error);
}

static struct device make(uint64_t pages, unsigned threads, const char *algorithm)
{
	struct device d = make_device(pages, threads, 0, algorithm);
	char why[216] = "";

	last_error = d.stats->last_error;
	CHECK(tz_store_pack(d.store, 0, pages) == 0, "packed before it is on");
	CHECK(head_of(&d)->incompatible == 0, "the head says that there are groups");
	CHECK(tz_store_set_groups(d.store, why, sizeof why) == 0, "%s", why);
	CHECK(head_of(&d)->incompatible == TZ_ARENA_GROUPS, "the head does not say so");
	return d;
}

/* As far as there is room now. */
static void pack_some(struct device *d, uint64_t page, uint64_t n)
{
	uint64_t ticket = tz_store_pack(d->store, page, n);

	WAIT_FOR(tz_store_packed(d->store) >= ticket, "packing does not end");
}

/* What the reserve cannot spare at the moment is not packed. */
static void pack(struct device *d, uint64_t page, uint64_t n)
{
	wait_for_reserve(d);
	pack_some(d, page, n);
}

static uint64_t grouped(const struct device *d)
{
	return (uint64_t)sum_of(d->stats).total.kind_pages_now[TZ_KIND_GROUP];
}

static int is_grouped(const struct device *d, uint64_t page)
{
	return tz_entry_is_grouped(load(entry_of(d, page)));
}

static void fill(struct device *d, uint64_t pages, uint32_t what)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		store_page(t, n, what);
	tz_store_end(t);
}

static void end_empty(struct device *d, uint64_t pages)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		tz_store_discard(t, n);
	tz_store_end(t);
	compact(d);
	struct tz_stats_sum sum = sum_of(d->stats);
	CHECK(sum.total.pages_now == 0 && sum.total.compr_bytes_now == 0 &&
			sum.total.object_bytes_now == 0 && sum.total.dup_pages_now == 0,
		"%lld pages, %lld bytes are left", (long long)sum.total.pages_now,
		(long long)sum.total.compr_bytes_now);
	for (unsigned kind = 0; kind < TZ_KINDS; kind++)
		CHECK(sum.total.kind_pages_now[kind] == 0, "kind %u", kind);
	for (unsigned kind = 0; kind < TZ_KINDS_COUNTED; kind++)
		CHECK(sum.total.kind_bytes_now[kind] == 0, "bytes of kind %u", kind);
	CHECK(sum.total.damaged_entries == 0, "%s", d->stats->last_error);
	WAIT_FOR(arena_bytes(d->stats) <= d->fresh, "%llu of %llu bytes stay",
		(unsigned long long)arena_bytes(d->stats), (unsigned long long)d->fresh);
	end_device(d);
}

/* ---- pack ---- */

static void test_pack(const char *algorithm)
{
	enum { PAGES = 2000 };
	struct device d = make(PAGES, 1, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_stats_sum before, after;

	fill(&d, PAGES, 1);
	before = sum_of(d.stats);
	pack(&d, 0, PAGES);
	after = sum_of(d.stats);
	CHECK(grouped(&d) == PAGES, "%llu are in groups", (unsigned long long)grouped(&d));
	CHECK(after.total.pages_now == PAGES, "pages");
	CHECK(after.total.object_bytes_now * 16 <= before.total.object_bytes_now * 15,
		"%s: %lld bytes before, %lld now", algorithm,
		(long long)before.total.object_bytes_now, (long long)after.total.object_bytes_now);
	CHECK(after.total.kind_bytes_now[TZ_KIND_GROUP] == after.total.object_bytes_now,
		"%lld bytes of groups", (long long)after.total.kind_bytes_now[TZ_KIND_GROUP]);
	check_counts(&d);
	CHECK(after.head.overhead_bytes > before.head.overhead_bytes, "words are not counted");
	static uint32_t map[1][TZ_KINDS_STORED];
	tz_store_page_map(d.store, 0, PAGES, 1, map);
	CHECK(map[0][TZ_KIND_GROUP] == PAGES, "%u in the page map", map[0][TZ_KIND_GROUP]);
	/* Asked again, there is nothing to do. */
	pack(&d, 0, PAGES);
	CHECK(sum_of(d.stats).total.object_bytes_now == after.total.object_bytes_now, "once more");
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, 1);
	tz_store_end(t);
	CHECK(grouped(&d) == PAGES, "read once, they left");
	/* At the second time, one leaves, where there is room for it. */
	wait_for_reserve(&d);
	tz_store_begin(t);
	expect(t, 100, 1);
	CHECK(!is_grouped(&d, 100) && is_grouped(&d, 101), "100 is in its group, or 101 is not");
	expect(t, 100, 1);
	store_page(t, 102, 2);
	tz_store_discard(t, 103);
	expect(t, 102, 2);
	expect(t, 103, NONE);
	CHECK(grouped(&d) == PAGES - 3, "%llu are in groups", (unsigned long long)grouped(&d));
	for (uint64_t n = 96; n < 112; n++)
		expect(t, n, n == 102 ? 2 : n == 103 ? NONE : 1);
	/* All of them have left now; that group is gone. */
	for (uint64_t n = 96; n < 112; n++)
		CHECK(!is_grouped(&d, n), "page %llu", (unsigned long long)n);
	tz_store_end(t);
	check_counts(&d);
	/* And they can come back. */
	pack(&d, 100, 1);
	CHECK(grouped(&d) == PAGES - 1, "%llu are in groups", (unsigned long long)grouped(&d));
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* Neighbours are decompressed once: when the group has been damaged, they are still there. */
static void test_once(void)
{
	enum { PAGES = 64 };
	struct device d = make(PAGES, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	fill(&d, PAGES, 1);
	pack(&d, 0, PAGES);
	uint64_t entry = load(entry_of(&d, 0));
	uint8_t *object = (uint8_t *)(uintptr_t)head_of(&d) + tz_entry_offset(entry);
	unsigned first = sizeof(struct tz_group_head) + 8, last = tz_entry_units(entry) * TZ_UNIT;
	tz_store_begin(t);
	expect(t, 0, 1);
	for (unsigned i = first; i < last; i++)
		object[i] ^= 0xa5;
	for (uint64_t n = 0; n < 16; n++)
		expect(t, n, 1);
	/* Two others later, it is not kept any more. */
	expect(t, 16, 1);
	expect(t, 32, 1);
	CHECK(is(t, 5, 1) == -1, "it is still kept, or wrong");
	for (unsigned i = first; i < last; i++)
		object[i] ^= 0xa5;
	expect(t, 5, 1);
	tz_store_end(t);
	end_device(&d);
}

/* ---- what ---- */

static void test_what(void)
{
	enum { PAGES = 64 };
	struct device d = make(PAGES + 5, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	char why[216] = "";

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	tz_store_begin(t);
	for (uint64_t n = 0; n < 16; n++)		/* incompressible, same-filled */
		store_page(t, n, n % 2 ? 14 : 15);
	store_page(t, 16, 1);		/* alone */
	uint8_t data[4096] __attribute__((aligned(8)));
	content(data, 777, 1);
	for (uint64_t n = 32; n < 48; n++)		/* shared */
		CHECK(write_waiting(t, n, data) == 0, "write");
	for (uint64_t n = PAGES; n < PAGES + 5; n++)	/* at the end of the disk */
		store_page(t, n, 1);
	tz_store_end(t);
	pack(&d, 0, PAGES + 5);
	for (uint64_t n = 0; n < PAGES; n++)
		CHECK(!is_grouped(&d, n), "page %llu", (unsigned long long)n);
	CHECK(grouped(&d) == 5, "%llu", (unsigned long long)grouped(&d));
	check_counts(&d);
	CHECK(tz_store_set_dedup(d.store, 0, why, sizeof why) == 0, "%s", why);
	end_empty(&d, PAGES + 5);
}

/* ---- after ---- */

static void test_after(const char *algorithm, unsigned kind)
{
	enum { PAGES = 256 };
	struct device d = make(PAGES, 1, "lz4");
	char why[216] = "";
	uint64_t least, ticket;
	int err;

	fill(&d, PAGES, 1);
	wait_for_reserve(&d);
	struct tz_recompression *job = tz_store_prepare_recompress(d.store, algorithm, 0, 100,
		&err, why, sizeof why);
	CHECK(job, "%s: %s", algorithm, why);
	ticket = tz_store_recompress(d.store, job, &least);
	WAIT_FOR(NOW(d.stats->recompress_done) >= ticket, "%s does not end", algorithm);
	CHECK(sum_of(d.stats).total.kind_pages_now[kind] > PAGES / 2, "%lld pages of %s",
		(long long)sum_of(d.stats).total.kind_pages_now[kind], algorithm);
	pack(&d, 0, PAGES);
	CHECK(grouped(&d) == PAGES, "%llu of %s are in groups", (unsigned long long)grouped(&d),
		algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, 1);
	tz_store_end(t);
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* ---- limit ---- */

/* A device at its limit: nothing is lost by packing when there is no room for it; with some room,
 * there is more afterwards. */
static void test_limit(void)
{
	enum { PAGES = 1 << 15, LEAST = 1000 };
	struct device d = make_device(PAGES, 1, 8u << 20, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	char why[216] = "";
	uint64_t n = 0, more;
	int rc;

	CHECK(tz_store_set_groups(d.store, why, sizeof why) == 0, "%s", why);
	tz_store_begin(t);
	do {
		content(page, n, 1);
		rc = write_waiting(t, n, page);
	} while (rc == 0 && ++n < PAGES);
	tz_store_end(t);
	CHECK(rc == -ENOSPC && n > LEAST, "%d after %llu pages", rc, (unsigned long long)n);
	pack_some(&d, 0, PAGES);
	CHECK(grouped(&d) > 0 || NOW(d.stats->cold.no_room) > 0, "it is not counted");
	tz_store_begin(t);
	for (uint64_t i = 0; i < n; i++)
		expect(t, i, 1);
	for (uint64_t i = 0; i < n / 4; i++)
		tz_store_discard(t, i);
	tz_store_end(t);
	compact(&d);
	WAIT_FOR(grouped(&d) > n / 2 || (pack_some(&d, 0, PAGES), 0), "%llu are in groups",
		(unsigned long long)grouped(&d));
	compact(&d);
	tz_store_begin(t);
	for (uint64_t i = 0; i < n / 4; i++)
		store_page(t, i, 1);
	for (more = n, rc = 0; rc == 0 && more < PAGES; more += rc == 0) {
		content(page, more, 1);
		rc = write_waiting(t, more, page);
	}
	CHECK(more > n, "no page more than before");
	for (uint64_t i = 0; i < more; i++)
		expect(t, i, 1);
	tz_store_end(t);
	CHECK(NOW(d.stats->mem_used_max) <= (8u << 20) + TZ_SEGMENT_SIZE, "%llu bytes",
		(unsigned long long)NOW(d.stats->mem_used_max));
	check_counts(&d);
	end_device(&d);
}

/* ---- thin ---- */

static void test_thin(void)
{
	enum { PAGES = 16384 };
	struct device d = make(PAGES, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t full, left;

	fill(&d, PAGES, 1);
	pack(&d, 0, PAGES);
	compact(&d);
	full = NOW(d.stats->segment_bytes);
	CHECK(full < (uint64_t)sum_of(d.stats).total.object_bytes_now * 11 / 10 +
			4 * TZ_SEGMENT_SIZE,
		"%llu bytes of segments for %lld", (unsigned long long)full,
		(long long)sum_of(d.stats).total.object_bytes_now);
	/* Three quarters of each of the first groups; of the others all, but for one in four. */
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n < PAGES / 4 ? n % 16 > 3 : n / 16 % 4)
			tz_store_discard(t, n);
	tz_store_end(t);
	compact(&d);
	left = (uint64_t)sum_of(d.stats).total.object_bytes_now;
	CHECK(grouped(&d) == PAGES / 4, "%llu are in groups", (unsigned long long)grouped(&d));
	CHECK(left < full / 3, "%llu of %llu bytes are left: not packed again",
		(unsigned long long)left, (unsigned long long)full);
	CHECK(NOW(d.stats->segment_bytes) <= left * 9 / 8 + 4 * TZ_SEGMENT_SIZE,
		"%llu of %llu bytes are left in segments, for %llu",
		(unsigned long long)NOW(d.stats->segment_bytes), (unsigned long long)full,
		(unsigned long long)left);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, (n < PAGES / 4 ? n % 16 > 3 : n / 16 % 4) ? NONE : 1);
	tz_store_end(t);
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* Of the groups that these pages are in. */
static uint64_t group_units(const struct device *d, uint64_t pages)
{
	uint64_t units = 0;

	for (uint64_t n = 0; n < pages; n++) {
		if (!is_grouped(d, n))
			continue;
		units += tz_entry_units(load(entry_of(d, n)));
		n |= TZ_GROUP_PAGES - 1;
	}
	return units;
}

/* Reads alone make groups thin: they are packed again, or taken apart, without anybody asking. */
static void test_read_thin(void)
{
	enum { PAGES = 16 * 128 };
	struct device d = make(PAGES, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t before;

	fill(&d, PAGES, 1);
	pack(&d, 0, PAGES);
	before = group_units(&d, PAGES);
	for (unsigned turn = 0; turn < 2; turn++)
		for (uint64_t n = 0; n < PAGES; n++) {
			if (n % 16 >= 12)
				continue;
			wait_for_reserve(&d);	/* without room it stays */
			tz_store_begin(t);
			expect(t, n, 1);
			tz_store_end(t);
		}
	/* (One that is read while its group is packed again may stay for another time.) */
	CHECK(grouped(&d) < PAGES / 4 + PAGES / 64, "%llu are in groups",
		(unsigned long long)grouped(&d));
	/* (The last few are left until there are more.) */
	WAIT_FOR(group_units(&d, PAGES) < before * 3 / 4, "%llu of %llu units are left",
		(unsigned long long)group_units(&d, PAGES), (unsigned long long)before);
	check_counts(&d);
	end_empty(&d, PAGES);
}

/* ---- collect ---- */

/* A marked page. (It stays where the housekeeper moves it at that very instant: it is marked again
 * then.) */
static int collect(struct tz_store_thread *c, uint64_t *freed, uint64_t n)
{
	unsigned tries = 0;

	while (!tz_store_collect(c, n) && ++tries < 10)
		__atomic_fetch_or(&freed[n / 64], 1ull << n % 64, __ATOMIC_SEQ_CST);
	return tries < 10;
}

static void test_collect(void)
{
	enum { PAGES = 256 };
	struct device d = make(PAGES, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0),
			       *c = tz_store_collector(d.store);
	uint64_t freed[PAGES / 64] = { 0 };

	tz_store_set_freed(d.store, freed);
	fill(&d, PAGES, 1);
	pack(&d, 0, PAGES);
	memset(freed, 0x77, sizeof freed);
	tz_store_begin(c);
	for (uint64_t n = 0; n < PAGES; n++)
		CHECK(n % 4 == 3 ? !tz_store_collect(c, n) : collect(c, freed, n), "page %llu",
			(unsigned long long)n);
	tz_store_end(c);
	CHECK(grouped(&d) == PAGES / 4, "%llu are in groups", (unsigned long long)grouped(&d));
	compact(&d);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		expect(t, n, n % 4 == 3 ? 1 : NONE);
	tz_store_end(t);
	check_counts(&d);
	tz_store_set_freed(d.store, NULL);
	end_empty(&d, PAGES);
}

/* ---- model ---- */

static void check_all(struct device *d, const uint32_t *model, uint64_t pages)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		expect(t, n, model[n]);
	tz_store_end(t);
}

static void test_model(void)
{
	enum { PAGES = 3000 };
	struct device d = make(PAGES, 1, "fast"), e;
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	static const char *const algorithms[] = { "fast", "dense", "lz4", "zstd", "auto" };
	uint32_t *model = malloc(PAGES * sizeof *model);
	struct tz_queue_stats then, now;
	uint64_t state = 11, most = 0;
	struct tz_attach a = { 0 };
	char why[216] = "";

	memset(model, 0xff, PAGES * sizeof *model);
	for (unsigned step = 0; step < 30000 / share; step++) {
		uint64_t n = next(&state) % PAGES, what = next(&state) % 16;
		tz_store_begin(t);
		for (unsigned i = 0; i < 16 && what < 2; i++, n = (n + 1) % PAGES)
			store_page(t, n, model[n] = step);
		if (what == 2)
			store_page(t, n, model[n] = step);
		else if (what == 3)
			tz_store_discard(t, n), model[n] = NONE;
		else
			expect(t, n, model[n]);
		tz_store_end(t);
		if (step % 64 == 0)
			tz_store_pack(d.store, next(&state) % PAGES, 600);
		if (step % 4096 == 17)
			CHECK(tz_store_set_algorithm(d.store, algorithms[next(&state) % 5], why,
				      sizeof why) == 0, "%s", why);
		/* So that there are groups now and then, however busy the machine is. */
		if (step % (4096 / share) == 19) {
			compact(&d);
			pack(&d, 0, PAGES);
		}
		if (step % 128 == 19 && grouped(&d) > most)
			most = grouped(&d);
	}
	CHECK(most > PAGES / 8, "%llu pages at most were in groups", (unsigned long long)most);
	pack(&d, 0, PAGES);
	check_counts(&d);
	check_all(&d, model, PAGES);
	pack(&d, 0, PAGES);
	compact(&d);
	CHECK(grouped(&d) > PAGES / 8, "%llu pages are in groups", (unsigned long long)grouped(&d));
	/* The next server counts the same, and goes on. */
	gauges(d.stats, &then);
	int fd = copy_of(d.fd);
	e = attach(fd, 2, &a);
	CHECK(a.nr_problems == 0 && a.lost == 0, "%llu problems",
		(unsigned long long)a.nr_problems);
	gauges(e.stats, &now);
	CHECK(!memcmp(&then, &now, sizeof now), "it counts otherwise");
	check_all(&e, model, PAGES);
	check_all(&e, model, PAGES);
	check_counts(&e);
	pack(&e, 0, PAGES);
	check_counts(&e);
	e.fresh = d.fresh;
	end_empty(&e, PAGES);
	unmap_stats(&e);
	end_empty(&d, PAGES);
	free(model);
}

/* ---- threads ---- */

enum { THREADS = 4, OF_THREAD = 512 };

struct worker {
	struct device *d;
	unsigned index, steps;
	uint32_t model[OF_THREAD];
};

static _Atomic unsigned at_work;
static _Atomic uint64_t most;		/* pages that were in groups at once */

/* They go on until there have been groups, which on a busy machine may be late. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct tz_store_thread *t = tz_store_thread(w->d->store, w->index);
	uint64_t state = w->index + 1;

	for (unsigned step = 0; step < w->steps ||
		(step < 1000 * w->steps && (step % 16 || most <= 16)); step++) {
		if (step % 16 == 0)
			tz_store_begin(t);
		uint32_t m = (uint32_t)(next(&state) % OF_THREAD),
			 what = (uint32_t)(next(&state) % 8);
		uint64_t page = (uint64_t)m * THREADS + w->index;
		if (what < 2)
			store_page(t, page, w->model[m] = step);
		else if (what == 2)
			tz_store_discard(t, page), w->model[m] = NONE;
		else
			expect(t, page, w->model[m]);
		if (step % 16 == 15) {
			tz_store_end(t);
			/* So that something stays long enough to be packed. */
			if (step % 256 == 255)
				nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
		}
	}
	at_work--;
	return NULL;
}

static void test_threads(void)
{
	struct device d = make(THREADS * OF_THREAD, THREADS, "fast");
	struct worker *w = calloc(THREADS, sizeof *w);
	pthread_t ids[THREADS];

	at_work = THREADS;
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){ &d, i, 16 * (4000 / share), { 0 } };
		memset(w[i].model, 0xff, sizeof w[i].model);
		CHECK(!pthread_create(&ids[i], NULL, work, &w[i]), "thread");
	}
	for (unsigned turn = 0; at_work; turn++) {
		pack_some(&d, 0, THREADS * OF_THREAD);
		if (turn % 8 == 7)
			tz_store_compact(d.store);
		uint64_t n = grouped(&d);
		if (n > most && n < 1u << 30)
			most = n;
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(ids[i], NULL);
	CHECK(most > 16, "%llu pages at most were in groups", (unsigned long long)most);
	pack(&d, 0, THREADS * OF_THREAD);
	check_counts(&d);
	for (unsigned i = 0; i < THREADS; i++) {
		struct tz_store_thread *t = tz_store_thread(d.store, (i + 1) % THREADS);
		tz_store_begin(t);
		for (unsigned m = 0; m < OF_THREAD; m++)
			expect(t, (uint64_t)m * THREADS + i, w[i].model[m]);
		tz_store_end(t);
	}
	check_counts(&d);
	free(w);
	end_empty(&d, THREADS * OF_THREAD);
}

/* ---- damage ---- */

enum { DAMAGED = 128 };

/* Read by a thread that has not kept the group: two other windows first. */
static int look_anew(struct tz_store_thread *t, uint64_t n)
{
	uint8_t out[4096];

	CHECK(tz_store_read(t, DAMAGED - 16, out) == 0 && tz_store_read(t, DAMAGED - 32, out) == 0,
		"others");
	return is(t, n, 1);
}

/* Packs again what reading has taken out. */
static void repack(struct device *d, struct tz_store_thread *t)
{
	tz_store_end(t);
	pack(d, 0, DAMAGED);
	tz_store_begin(t);
	for (uint64_t n = 0; n < DAMAGED; n++)
		CHECK(is_grouped(d, n), "page %llu", (unsigned long long)n);
}

/* (What a damaged entry has been is not known when it is overwritten: the counters are not right
 * afterwards.) */
static void test_entries(void)
{
	struct device device = make(DAMAGED, 1, "fast"), *d = &device;
	struct tz_store_thread *t = tz_store_thread(d->store, 0);

	fill(d, DAMAGED, 1);
	tz_store_begin(t);
	repack(d, t);
	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t page = 16 + bit % 16;
		flip(entry_of(d, page), bit);
		CHECK(look_anew(t, page) == -1, "bit %u of an entry", bit);
		for (uint64_t n = 16; n < 32; n++)
			CHECK(n == page || is(t, n, 1) == 1, "page %llu, bit %u",
				(unsigned long long)n, bit);
		if (bit % 3 == 0) {		/* frees nothing */
			store_page(t, page, 1);
			for (uint64_t n = 16; n < 32; n++)
				expect(t, n, 1);
		} else {
			flip(entry_of(d, page), bit);
		}
		repack(d, t);
	}
	tz_store_end(t);
	end_device(d);
}

/* Every bit of a group's head, and some of each byte of its payload. */
static void damage_object(struct device *d, struct tz_store_thread *t)
{
	uint64_t entry = load(entry_of(d, 0));
	uint64_t base = (uintptr_t)head_of(d), at = tz_entry_offset(entry);
	unsigned size = tz_entry_units(entry) * TZ_UNIT, saved = 0, lost = 0;
	struct tz_group_head head;

	memcpy(&head, (void *)(base + at), sizeof head);
	for (unsigned bit = 0; bit < size * 8; bit += bit < sizeof head * 8 ? 1 : 1021 * share) {
		uint64_t *word = (uint64_t *)(base + at + bit / 64 * 8);
		unsigned wrong = 0;
		flip(word, bit % 64);
		for (uint64_t n = 0; n < 16; n++) {
			int result = look_anew(t, n);
			CHECK(result, "wrong bytes in page %llu, bit %u", (unsigned long long)n,
				bit);
			wrong += result < 0;
		}
		lost += bit < sizeof head * 8 ? 0 : wrong;
		saved += bit < sizeof head * 8 || !wrong ? 0 : 16 - wrong;
		/* (A bit after the payload, or one that zstd has no use for, costs nothing.) */
		CHECK(wrong || bit >= sizeof head * 8, "bit %u of the head", bit);
		flip(word, bit % 64);
		expect(t, 32 + bit % 64, 1);
		/* Reading twice has taken out what was right. */
		repack(d, t);
		if (load(entry_of(d, 0)) != entry) {
			entry = load(entry_of(d, 0));
			at = tz_entry_offset(entry);
			size = tz_entry_units(entry) * TZ_UNIT;
		}
	}
	printf("damage: %u pages lost, %u of the same groups not\n", lost, saved);
	CHECK(lost && saved > lost / 20, "%u lost, %u saved", lost, saved);
}

static void test_damage(void)
{
	struct device d = make(DAMAGED, 1, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_check_problem first;

	fill(&d, DAMAGED, 1);
	tz_store_begin(t);
	repack(&d, t);
	damage_object(&d, t);
	/* A group that cannot be read any more: all of its pages can be written. */
	uint64_t entry = load(entry_of(&d, 64));
	flip((uint64_t *)((uintptr_t)head_of(&d) + tz_entry_offset(entry)), 3);
	for (uint64_t n = 64; n < 80; n++)
		CHECK(is(t, n, 1) == -1, "page %llu", (unsigned long long)n);
	tz_store_end(t);
	pack(&d, 0, DAMAGED);
	compact(&d);
	tz_store_begin(t);
	for (uint64_t n = 64; n < 80; n++)
		store_page(t, n, 1);
	for (uint64_t n = 0; n < DAMAGED; n++)
		expect(t, n, 1);
	tz_store_end(t);
	check_counts(&d);
	/* What the checker and the next server say of one. */
	pack(&d, 0, DAMAGED);
	entry = load(entry_of(&d, 64));
	uint64_t *word = (uint64_t *)((uintptr_t)head_of(&d) + tz_entry_offset(entry));
	flip(word, 3);
	CHECK(problems_of(d.fd, &first, 1) == 16 && first.page == 64, "checked: %s", first.what);
	int fd = copy_of(d.fd);
	struct tz_attach a = { .problems = &first, .room = 1 };
	struct device e = attach(fd, 1, &a);
	CHECK(a.lost == 16 && a.nr_problems == 16 && first.page == 64, "attached: %s", first.what);
	end_damaged_device(&e, &first);
	unmap_stats(&e);
	flip(word, 3);
	flip(word + 16, 3);
	CHECK(problems_of(d.fd, &first, 1) == 16, "the payload is not checked");
	flip(word + 16, 3);
	end_device(&d);
}

/* ---- time ---- */

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The pages of all files; *n of them. Each file begins at the next multiple of 16. */
static uint8_t *load_pages(char **files, uint64_t *n)
{
	uint8_t *pages = malloc(1u << 30);

	*n = 0;
	for (; *files; files++) {
		FILE *f = fopen(*files, "rb");
		CHECK(f, "%s: %s", *files, strerror(errno));
		*n += fread(pages + *n * 4096, 4096, (1u << 30) / 4096 - *n, f);
		fclose(f);
		for (; *n % 16; ++*n)
			memset(pages + *n * 4096, 0, 4096);
	}
	return pages;
}

/* Each page once, in an order that hardly meets a group that is kept; then its neighbour. Measured
 * in CPU time of the thread, so that what else the machine does is not counted. */
static void time_reads(struct device *d, const uint8_t *pages, uint64_t n)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);
	uint64_t *ns = malloc(n * sizeof *ns), *more = malloc(n * sizeof *more);
	uint64_t nr = 0, nr_more = 0;
	uint8_t out[4096];

	for (uint64_t i = 0, page = 0; i < n; i++, page = (page + 9973) % n) {
		uint64_t start;
		int kept = page % 16 == 1 || !entry_of(d, page) || !is_grouped(d, page);
		if (kept)
			continue;
		tz_store_begin(t);
		start = now_ns(CLOCK_THREAD_CPUTIME_ID);
		CHECK(tz_store_read(t, page, out) == 0, "read");
		ns[nr++] = now_ns(CLOCK_THREAD_CPUTIME_ID) - start;
		CHECK(!memcmp(out, pages + page * 4096, 4096), "page %llu",
			(unsigned long long)page);
		if (page % 16 == 0 && is_grouped(d, page + 1)) {
			start = now_ns(CLOCK_THREAD_CPUTIME_ID);
			CHECK(tz_store_read(t, page + 1, out) == 0, "read");
			more[nr_more++] = now_ns(CLOCK_THREAD_CPUTIME_ID) - start;
		}
		tz_store_end(t);
	}
	qsort(ns, nr, sizeof *ns, by_size);
	qsort(more, nr_more, sizeof *more, by_size);
	if (nr && nr_more)
		printf("\tread one page: %.1f us p50, %.1f us p99; its neighbour: %.1f us p50, "
			"%.1f us p99\n",
			(double)ns[nr / 2] / 1e3, (double)ns[nr * 99 / 100] / 1e3,
			(double)more[nr_more / 2] / 1e3, (double)more[nr_more * 99 / 100] / 1e3);
	free(ns);
	free(more);
}

static void show(const char *what, const struct device *d)
{
	struct tz_stats_sum sum = sum_of(d->stats);
	uint64_t same = 0, pages;

	for (unsigned kind = 1; kind <= TZ_KIND_SAME_U64; kind++)
		same += (uint64_t)sum.total.kind_pages_now[kind];
	pages = (uint64_t)sum.total.pages_now - same;
	printf("%s: %llu pages, %.2f MB, ratio %.3f (segments: %.2f MB, %.3f)\n", what,
		(unsigned long long)pages, (double)sum.total.object_bytes_now / 1e6,
		(double)pages * 4096 / (double)sum.total.object_bytes_now,
		(double)NOW(d->stats->segment_bytes) / 1e6,
		(double)pages * 4096 / (double)NOW(d->stats->segment_bytes));
}

static void time_groups(const char *algorithm, const uint8_t *pages, uint64_t n)
{
	struct device d = make(n, 1, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	static const uint8_t zeros[4096];
	uint64_t cpu;

	for (uint64_t i = 0; i < n; i++) {
		tz_store_begin(t);
		if (memcmp(pages + i * 4096, zeros, 4096))
			CHECK(write_waiting(t, i, pages + i * 4096) == 0, "write");
		tz_store_end(t);
	}
	compact(&d);
	show(algorithm, &d);
	cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	pack(&d, 0, n);
	cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	compact(&d);
	show("in groups", &d);
	printf("\t%llu pages in groups, %.1f us of CPU a page\n", (unsigned long long)grouped(&d),
		(double)cpu / 1e3 / (double)grouped(&d));
	time_reads(&d, pages, n);
	check_counts(&d);
	end_device(&d);
}

int main(int argc, char **argv)
{
	const char *why;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!tz_zstd_group_size(9, &why)) {
		printf("left out: %s\n", why);
		return 77;
	}
	if (argc > 2 && !strcmp(argv[1], "time")) {
		static const char *const algorithms[] = { "zstd:1", "dense", "fast" };
		uint64_t n;
		uint8_t *pages = load_pages(argv + 2, &n);
		for (unsigned i = 0; i < 3; i++)
			time_groups(algorithms[i], pages, n);
		free(pages);
		return 0;
	}
	share = share_of_work();
	test_pack("fast");
	test_pack("zstd");
	test_once();
	test_what();
	test_after("dense", TZ_KIND_DENSE);
	test_after("zstd:1", TZ_KIND_ZSTD);
	test_limit();
	test_thin();
	test_read_thin();
	test_collect();
	test_entries();
	test_damage();
	test_model();
	test_threads();
	puts("groups: all right");
	return 0;
}
