/* test_group_points.c - what happens to pages at the very instants at which a group of them is
 * made.
 *
 * The housekeeper stops at points of group_pack.c, and the test's thread writes or discards the
 * pages that it has in hand. Then all pages must read as what they are, the counters be those of
 * the checker, and nothing be left when all are gone.
 */
#include "counts.h"
#include "store_impl.h"

enum { PAGES = 256 };

static struct {
	struct device d;
	uint32_t version[PAGES];
	_Atomic(const char *) at;	/* the point at which something is to happen, once */
	_Atomic int here, go;
} test;

static void content(uint8_t *page, uint64_t n, uint32_t version)
{
	uint64_t state = (n + 1) * 0x9e3779b97f4a7c15ull ^ version,
		 *words = (uint64_t *)(void *)page;

	for (unsigned i = 0; i < 512; i++) {
		uint64_t r = next(&state);
		words[i] = (r % 97) * (r % 89 + 1) * 0x0123456789abull;
	}
	words[0] = n << 32 | version;
}

static void put(uint64_t n, uint32_t version)
{
	struct tz_store_thread *t = tz_store_thread(test.d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));

	content(page, n, version);
	tz_store_begin(t);
	if (version)
		CHECK(write_waiting(t, n, page) == 0, "write");
	else
		tz_store_discard(t, n);
	tz_store_end(t);
	test.version[n] = version;
}

static void check_pages(unsigned times)
{
	struct tz_store_thread *t = tz_store_thread(test.d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];

	for (uint64_t n = 0; n < PAGES * times; n++) {
		memset(page, 0, sizeof page);
		if (test.version[n % PAGES])
			content(page, n % PAGES, test.version[n % PAGES]);
		tz_store_begin(t);
		CHECK(tz_store_read(t, n % PAGES, out) == 0, "page %llu: %s",
			(unsigned long long)n % PAGES, test.d.stats->last_error);
		tz_store_end(t);
		CHECK(!memcmp(page, out, 4096), "page %llu", (unsigned long long)n % PAGES);
	}
}

/* In the housekeeper's thread. */
void tz_test_point(const char *name)
{
	const char *at = atomic_load(&test.at);

	if (!at || strcmp(name, at) || atomic_load(&test.here))
		return;
	atomic_store(&test.here, 1);
	while (!atomic_load(&test.go))
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

/* Packs, and has `what` happen at that point. */
static void at(const char *point, void (*what)(void))
{
	atomic_store(&test.here, 0);
	atomic_store(&test.go, 0);
	atomic_store(&test.at, point);
	uint64_t ticket = tz_store_pack(test.d.store, 0, PAGES);
	WAIT_FOR(atomic_load(&test.here), "it never is at \"%s\"", point);
	what();
	atomic_store(&test.go, 1);
	WAIT_FOR(tz_store_packed(test.d.store) >= ticket, "packing does not end");
	atomic_store(&test.at, NULL);
}

static unsigned grouped(uint64_t from, uint64_t to)
{
	unsigned n = 0;

	for (uint64_t i = from; i < to; i++)
		n += tz_entry_is_grouped(load(entry_of(&test.d, i)));
	return n;
}

static void begin(void)
{
	char why[216] = "";

	test.d = make_device(PAGES, 1, 0, "fast");
	CHECK(tz_store_set_groups(test.d.store, why, sizeof why) == 0, "%s", why);
	memset(test.version, 0, sizeof test.version);
	for (uint64_t n = 0; n < 16; n++)
		put(n, 1);
}

static void pack(void)
{
	uint64_t ticket = tz_store_pack(test.d.store, 0, PAGES);

	WAIT_FOR(tz_store_packed(test.d.store) >= ticket, "packing does not end");
}

static void finish(void)
{
	check_counts(&test.d);
	check_pages(1);
	check_pages(2);
	check_counts(&test.d);
	pack();
	check_counts(&test.d);
	for (uint64_t n = 0; n < PAGES; n++)
		put(n, 0);
	compact(&test.d);
	struct tz_stats_sum sum = sum_of(test.d.stats);
	CHECK(sum.total.pages_now == 0 && sum.total.object_bytes_now == 0 &&
			sum.total.compr_bytes_now == 0,
		"%lld bytes are left", (long long)sum.total.object_bytes_now);
	CHECK(sum.total.damaged_entries == 0, "%s", test.d.stats->last_error);
	end_device(&test.d);
}

/* ---- what happens ---- */

static void overwrite_all(void)
{
	for (uint64_t n = 0; n < 16; n++)
		put(n, 2);
}

/* With other content of the same length, and maybe in the same place. */
static void overwrite_twice(void)
{
	for (uint64_t n = 0; n < 16; n++) {
		put(n, 3);
		put(n, 2);
	}
}

static void discard_all(void)
{
	for (uint64_t n = 0; n < 16; n++)
		put(n, 0);
}

static void overwrite_some(void)
{
	for (uint64_t n = 0; n < 16; n += 3)
		put(n, 2);
}

/* All that are in the group now: it is gone, and the new one gets its room. */
static void overwrite_members(void)
{
	for (uint64_t n = 0; n < 16; n++)
		if (tz_entry_is_grouped(load(entry_of(&test.d, n))))
			put(n, 2);
}

static void test_new(const char *point, void (*what)(void), unsigned stay)
{
	begin();
	at(point, what);
	CHECK(grouped(0, 16) == stay, "%u are in the group", grouped(0, 16));
	finish();
}

/* A group that has room for others; 5 of it are left, and 4 others come. */
static void test_again(const char *point, void (*what)(void))
{
	begin();
	pack();
	CHECK(grouped(0, 16) == 16, "%u are in the group", grouped(0, 16));
	for (uint64_t n = 0; n < 11; n++)
		put(n, n < 4 ? 4 : 0);
	at(point, what);
	/* One by one: the group is there until the last is gone. (check_counts would have it packed
	 * again before.) */
	for (uint64_t n = 0; n < 15; n++) {
		put(n, 0);
		put(32 + n, 5);		/* maybe in the room of what is gone */
		check_pages(1);
	}
	finish();
}

int main(void)
{
	void (*const events[])(void) = { overwrite_all, overwrite_twice, discard_all,
		overwrite_some, overwrite_members };

	if (!tz_zstd_version()) {
		puts("left out: there is no libzstd");
		return 77;
	}
	test_new("gathered", overwrite_all, 0);
	test_new("gathered", overwrite_twice, 0);
	test_new("gathered", discard_all, 0);
	test_new("gathered", overwrite_some, 10);
	test_new("joining", overwrite_all, 0);
	test_new("joining", discard_all, 0);
	for (unsigned i = 0; i < sizeof events / sizeof *events; i++) {
		test_again("gathered", events[i]);
		test_again("joining", events[i]);
	}
	puts("points of groups: all right");
	return 0;
}
