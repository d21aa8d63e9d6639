/* test_store.c - the store against a model, with threads.
 *
 * single: one thread, random writes, discards and reads against a plain array; accounting agrees
 *	with the model and with the kernel; damage to objects and entries is EIO.
 * threads: pages of even number have one writer each and any number of readers: a read returns what
 *	the model says was the newest completed write when it began, or something newer. Pages of
 *	odd number have many writers: a read returns a whole page that somebody wrote for this page
 *	number, or zeros.
 * limit: at mem_limit writes fail with ENOSPC and everything stored stays readable; discards make
 *	room again.
 * compact: sparse segments are emptied while threads write and read; what is left is what is
 *	stored.
 * switch: all of it while the algorithm changes.
 * dictionary: the same with zstd's dictionary, which outlasts changes of algorithm.
 */
#include "device.h"

#include "zdict.h"

/* ---- single ---- */

static unsigned share = 1;	/* device.h: share_of_work */

static void settle(void)
{
	struct timespec pause = { 0, 50000000 };

	nanosleep(&pause, NULL);
}

static void test_single(const char *algorithm)
{
	enum { PAGES = 4096 };
	struct device d = make_device(PAGES, 1, 0, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	/* Sequence, 0 empty, UINT32_MAX - k: filled with word k. */
	uint32_t *model = calloc(PAGES, sizeof *model);
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];
	static const uint64_t words[] =
		{ 0, ~0ull, 0x4141414141414141ull, 0x7fffdeadbeef1234ull, 0x8123456789abcdefull,
		1 };
	uint64_t state = 88172645463325252ull, stored = 0, same = 0;

	tz_store_begin(t);
	for (unsigned step = 1; step <= 60000 / share; step++) {
		uint64_t n = next(&state) % PAGES;
		unsigned what = (unsigned)(next(&state) % 8), k = (unsigned)(next(&state) % 6);
		if (what < 4 || what == 4) {
			if (what == 4)
				tz_fill(page, words[k]);
			else
				make_page(page, n, 0, step);
			CHECK(write_waiting(t, n, page) == 0, "write");
			stored += model[n] == 0;
			same -= model[n] > UINT32_MAX - 8;
			model[n] = what == 4 ? UINT32_MAX - k : step;
			same += what == 4;
		} else if (what == 5) {
			tz_store_discard(t, n);
			stored -= model[n] != 0;
			same -= model[n] > UINT32_MAX - 8;
			model[n] = 0;
		} else {
			uint32_t writer;
			CHECK(tz_store_read(t, n, out) == 0, "read");
			if (model[n] > UINT32_MAX - 8) {
				tz_fill(page, words[UINT32_MAX - model[n]]);
				CHECK(!memcmp(page, out, 4096), "same-filled page");
			} else {
				CHECK(check_page(out, n, &writer) == model[n], "stale page");
			}
		}
	}
	tz_store_end(t);
	settle();
	check_accounting(&d, stored, same);
	/* All of it discarded, it holds no more than when it was new. */
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		tz_store_discard(t, n);
	tz_store_end(t);
	WAIT_FOR(arena_bytes(d.stats) <= d.fresh,
		"%llu of %llu bytes stay: segments %llu, table %llu, reserve %llu",
		(unsigned long long)arena_bytes(d.stats), (unsigned long long)d.fresh,
		(unsigned long long)NOW(d.stats->segment_bytes),
		(unsigned long long)NOW(d.stats->table_bytes),
		(unsigned long long)NOW(d.stats->reserve_bytes));
	check_accounting(&d, 0, 0);
	/* (It does not wait for ever for the reserve's thread.) */
	tz_store_trim(d.store);
	WAIT_FOR(arena_bytes(d.stats) <= NOW(d.stats->table_bytes) +
		NOW(d.stats->reserve_target), "memory stays after trim");
	WAIT_FOR(NOW(d.stats->reserve_bytes) == NOW(d.stats->reserve_target),
		"trim took the reserve itself");
	free(model);
	end_device(&d);
}

static void test_damage(const char *algorithm)
{
	struct device d = make_device(64, 1, 0, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];

	tz_store_begin(t);
	for (uint64_t n = 0; n < 64; n++) {
		make_page(page, n, 0, (uint32_t)n + 1);
		CHECK(write_waiting(t, n, page) == 0, "write");
	}
	uint8_t *segments = (uint8_t *)(uintptr_t)head_of(&d) + head_of(&d)->segment_offset;
	/* Bits anywhere in the page table and objects: in all segments there are. */
	size_t end = arena_bytes(d.stats);
	unsigned caught = 0;
	for (size_t at = 0; at < end; at += 197 * share) {
		uint64_t *word = (uint64_t *)(uintptr_t)(segments + at / 8 * 8);
		flip(word, at % 8 * 8 + 4);
		for (uint64_t n = 0; n < 64; n++) {
			uint32_t writer;
			int rc = tz_store_read(t, n, out);
			CHECK(rc == 0 || rc == -EIO, "read: %d", rc);
			if (rc == 0)
				CHECK(check_page(out, n, &writer) == n + 1, "wrong bytes");
			else
				caught++;
		}
		flip(word, at % 8 * 8 + 4);
	}
	CHECK(caught > 100 / share, "damage was hardly noticed: %u", caught);
	CHECK(tz_store_thread_stats(t)->checksum_errors +
		tz_store_thread_stats(t)->damaged_entries == caught, "not counted");
	tz_store_end(t);
	end_device(&d);
}

/* ---- threads ---- */

enum { SHARED_PAGES = 64, MAX_THREADS = 6 };

struct model {
	/* even pages: sequence of their one writer */
	_Atomic uint32_t started[SHARED_PAGES], completed[SHARED_PAGES];
	_Atomic int stop;
	struct device *d;
	unsigned steps;
};

struct worker { struct model *m; unsigned index; uint64_t reads, writes; };

static void one_step(struct worker *w, struct tz_store_thread *t, uint64_t *state,
	uint32_t *sequence, uint8_t *page)
{
	struct model *m = w->m;
	uint64_t n = next(state) % SHARED_PAGES;
	unsigned what = (unsigned)(next(state) % 10);
	int even = n % 2 == 0, mine = even && n / 2 % m->d->threads == w->index;

	if (what < 4 && (!even || mine)) {
		uint32_t s = ++*sequence;
		make_page(page, n, w->index, s);
		if (even)
			atomic_store(&m->started[n], s);
		CHECK(write_waiting(t, n, page) == 0, "write");
		if (even)
			atomic_store(&m->completed[n], s);
		w->writes++;
	} else if (what == 4 && !even) {
		tz_store_discard(t, n);
	} else {
		uint32_t writer, low = atomic_load(&m->completed[n]);
		CHECK(tz_store_read(t, n, page) == 0, "read of page %llu", (unsigned long long)n);
		uint32_t s = check_page(page, n, &writer);
		if (even) {
			uint32_t high = atomic_load(&m->started[n]);
			CHECK(s >= low && s <= high,
				"page %llu: read %u, not in %u..%u", (unsigned long long)n, s, low,
				high);
		}
		w->reads++;
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct tz_store_thread *t = tz_store_thread(w->m->d->store, w->index);
	uint64_t state = 0x1234567 + w->index * 7919;
	uint32_t sequence = 0;
	uint8_t page[4096] __attribute__((aligned(8)));

	for (unsigned step = 0; step < w->m->steps; step += 16) {
		tz_store_begin(t);
		for (unsigned i = 0; i < 16; i++)
			one_step(w, t, &state, &sequence, page);
		tz_store_end(t);
	}
	return NULL;
}

static void test_threads(const char *algorithm, unsigned threads, unsigned steps, int switching)
{
	static struct model m;
	struct device d = make_device(SHARED_PAGES, threads, 0, algorithm);
	struct worker w[MAX_THREADS];
	pthread_t id[MAX_THREADS];

	memset(&m, 0, sizeof m);
	m.d = &d;
	m.steps = steps;
	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct worker){ .m = &m, .index = i };
		pthread_create(&id[i], NULL, worker_main, &w[i]);
	}
	/* Cross builds have no libzstd (see test_codec.c). */
	static const char *const with_zstd[] = { "zstd:-3", "auto", "lz4", "auto:90", "dense",
		"zstd:1", "fast" };
	static const char *const without[] = { "lz4", "auto", "fast", "auto:90", "dense", "lz4",
		"turbo" };
	const char *missing = getenv("TRUEZRAM_TEST_WITHOUT"), *const *others = missing &&
		strstr(missing, "zstd") ? without : with_zstd;
	for (unsigned i = 0; switching && i < 30; i++) {
		char why[216];
		struct timespec pause = { 0, 3000000 };
		nanosleep(&pause, NULL);
		CHECK(tz_store_set_algorithm(d.store, others[i % 7], why, sizeof why) == 0,
			"%s", why);
	}
	uint64_t reads = 0, writes = 0;
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(id[i], NULL);
		reads += w[i].reads;
		writes += w[i].writes;
	}
	CHECK(reads > steps / 4 && writes > steps / 8,
		"%llu reads, %llu writes", (unsigned long long)reads, (unsigned long long)writes);
	/* Nothing leaks: all gone, no object is left. */
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	tz_store_begin(t);
	for (uint64_t n = 0; n < SHARED_PAGES; n++)
		tz_store_discard(t, n);
	tz_store_end(t);
	for (unsigned i = 1; i < threads; i++) {
		tz_store_begin(tz_store_thread(d.store, i));
		tz_store_end(tz_store_thread(d.store, i));
	}
	settle();
	check_accounting(&d, 0, 0);
	end_device(&d);
}

/* ---- dictionary ---- */

/* A dictionary of pages like those of the tests. 0: no libzstd here. */
static size_t train(void)
{
	enum { PAGES = 300 };
	uint8_t *pages = malloc(PAGES * 4096);
	size_t n;

	for (unsigned i = 0; i < PAGES; i++)
		make_page(pages + i * 4096, i % 64, i % 4, 1 + i / 64);
	n = train_on(dictionary, sizeof dictionary, pages, PAGES);
	free(pages);
	return n;
}

static int64_t count(struct device *d, unsigned kind)
{
	return sum_of(d->stats).total.kind_pages_now[kind];
}

/* What was stored with it stays readable, whatever is chosen later; zstd is zstd with it from then
 * on as well. */
static void test_dictionary(void)
{
	static const char *const algorithms[] = { "zstd:1", "lz4", "zstd:7", "dense", "zstd:-5" };
	enum { PAGES = 500, TURNS = sizeof algorithms / sizeof *algorithms };
	struct device d = make_device(PAGES, 2, 0, algorithms[0]);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	uint32_t writer, memory = d.stats->dictionary_memory;
	char why[216];

	CHECK(d.stats->dictionary_size == dictionary_size && d.stats->dictionary_id &&
		memory > dictionary_size, "statistics");
	for (unsigned turn = 0; turn < TURNS; turn++) {
		CHECK(tz_store_set_algorithm(d.store, algorithms[turn], why, sizeof why) == 0,
			"%s", why);
		tz_store_begin(t);
		for (unsigned n = turn; n < PAGES; n += TURNS) {
			make_page(page, n, 0, 1 + n);
			CHECK(write_waiting(t, n, page) == 0, "write");
		}
		tz_store_end(t);
	}
	CHECK(count(&d, TZ_KIND_ZSTD_DICT) > PAGES / 5 && !count(&d, TZ_KIND_ZSTD),
		"not made with the dictionary");
	CHECK(d.stats->dictionary_size == dictionary_size && d.stats->dictionary_memory != memory,
		"of another level");
	for (unsigned k = 0; k < 2; k++) {
		t = tz_store_thread(d.store, k);
		tz_store_begin(t);
		for (unsigned n = 0; n < PAGES; n++)
			CHECK(tz_store_read(t, n, page) == 0 &&
				check_page(page, n, &writer) == 1 + n, "page %u", n);
		tz_store_end(t);
	}
	CHECK(tz_store_set_algorithm(d.store, "zstd:99", why, sizeof why) == -EINVAL,
		"a level that is none");
	end_device(&d);
}

/* A store that cannot be made says so, and leaves its arena to the caller. */
static void test_refused(const char *algorithm, size_t n, const char *expected)
{
	struct tz_stats *stats = aligned_alloc(64, (tz_stats_size(1) + 63) & ~(size_t)63);
	int err = 0, fd = memfd_create("test-arena", MFD_CLOEXEC);
	char why[216] = "";

	CHECK(tz_stats_init(stats, tz_stats_size(1), 1) == 0, "stats");
	struct tz_store_config c = {
		.disksize = 1 << 20, .algorithm = algorithm, .nr_threads = 1, .arena_fd = fd,
		.stats = stats, .dictionary = dictionary, .dictionary_size = n,
	};
	CHECK(!tz_store_create(&c, &err, why, sizeof why) && err == -EINVAL &&
		strstr(why, expected), "%d %s", err, why);
	CHECK(close(fd) == 0, "the arena was closed");
	free(stats);
}

static void test_with_dictionary(void)
{
	dictionary_size = train();
	if (!dictionary_size) {
		puts("dictionary: left out: no libzstd");
		return;
	}
	test_dictionary();
	test_single("zstd:1");
	test_damage("zstd:7");
	test_threads("zstd:3", 4, 20000 / share, 1);
	test_refused("lz4", dictionary_size, "no use for a dictionary");
	test_refused("zstd", 100, "fewer than 256");
	memset(dictionary + 8, 0xff, 60);
	test_refused("zstd", dictionary_size, "damaged");
	dictionary_size = 0;
}

/* ---- compact ---- */

/* Everything is written, then three of four pages go at random: there are holes everywhere and no
 * segment is empty. */
static void test_compact(const char *algorithm)
{
	enum { PAGES = 16384, THREADS = 2 };
	struct device d = make_device(PAGES, THREADS, 0, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8))), *has = calloc(PAGES, 1);
	uint64_t state = 7, stored = 0, peak;
	uint32_t writer;

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		make_page(page, n, 0, 1);
		CHECK(write_waiting(t, n, page) == 0, "write");
	}
	peak = NOW(d.stats->mem_used_total);
	for (uint64_t n = 0; n < PAGES; n++) {
		has[n] = next(&state) % 8 == 0;
		stored += has[n];
		if (!has[n])
			tz_store_discard(t, n);
	}
	/* Reads and overwrites continue while the compactor moves objects under them. */
	for (unsigned step = 0, after = 0; after < 20000 / share; step++) {
		uint64_t n = next(&state) % PAGES;
		CHECK(tz_store_read(t, n, page) == 0, "read");
		CHECK((check_page(page, n, &writer) != 0) == has[n],
			"page %llu", (unsigned long long)n);
		if (has[n] && next(&state) % 4 == 0) {
			make_page(page, n, 0, 2);
			CHECK(write_waiting(t, n, page) == 0, "overwrite");
		}
		/* As a queue does, and so that this is a wait of minutes at most. */
		if (step % 64 == 0) {
			tz_store_end(t);
			nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
			tz_store_begin(t);
		}
		after += NOW(d.stats->pages_compacted) && NOW(d.stats->mem_used_total) < peak / 4;
		CHECK(step < 30000000,
			"%llu of %llu bytes are still held",
			(unsigned long long)NOW(d.stats->mem_used_total), (unsigned long long)peak);
	}
	tz_store_end(t);
	CHECK(NOW(d.stats->pages_compacted) > 0, "nothing was compacted");
	CHECK(NOW(d.stats->mem_used_total) - NOW(d.stats->table_bytes) -
		NOW(d.stats->reserve_target) * 5 / 4 - NOW(d.stats->overhead_bytes) <
		(peak - NOW(d.stats->table_bytes)) / 4,
		"%llu of %llu bytes are still held for an eighth of the pages",
		(unsigned long long)NOW(d.stats->mem_used_total), (unsigned long long)peak);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		CHECK(tz_store_read(t, n, page) == 0, "read");
		CHECK((check_page(page, n, &writer) != 0) == has[n],
			"page %llu", (unsigned long long)n);
	}
	tz_store_end(t);
	check_accounting(&d, stored, 0);
	free(has);
	end_device(&d);
}

/* ---- limit ---- */

static void test_limit(const char *algorithm)
{
	enum { PAGES = 8192 };
	uint64_t limit = 8u << 20;
	struct device d = make_device(PAGES, 1, limit, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];
	uint64_t state = 42, stored = 0, refused = 0;
	uint8_t *has = calloc(PAGES, 1);
	uint32_t writer;
	char why[216];

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		make_page(page, n, 0, 7);
		int rc = write_waiting(t, n, page);
		CHECK(rc == 0 || rc == -ENOSPC, "write: %d", rc);
		has[n] = rc == 0;
		stored += rc == 0;
		refused += rc != 0;
		CHECK(NOW(d.stats->mem_used_total) <= limit, "over the limit");
	}
	CHECK(refused > PAGES / 4 && stored > 1000,
		"%llu stored, %llu refused", (unsigned long long)stored,
		(unsigned long long)refused);
	for (uint64_t n = 0; n < PAGES; n++) {
		CHECK(tz_store_read(t, n, out) == 0, "read when full");
		CHECK(check_page(out, n, &writer) == (has[n] ? 7u : 0u), "content when full");
	}
	CHECK(NOW(d.stats->mem_used_total) > limit - 2 * TZ_SEGMENT_SIZE,
		"full at %llu of %llu", (unsigned long long)NOW(d.stats->mem_used_total),
		(unsigned long long)limit);
	for (uint64_t n = 0; n < PAGES; n += 2)
		tz_store_discard(t, n);
	unsigned again = 0;
	for (unsigned i = 0; i < 500; i++) {
		uint64_t n = next(&state) % PAGES;
		make_page(page, n, 0, 8);
		again += write_waiting(t, n, page) == 0;
	}
	CHECK(again > 400, "only %u writes fit after half was discarded", again);
	CHECK(tz_store_set_mem_limit(d.store, 4096, why, sizeof why) == -EINVAL,
		"a limit below the table");
	CHECK(tz_store_set_mem_limit(d.store, 0, why, sizeof why) == 0, "%s", why);
	tz_store_end(t);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		make_page(page, n, 0, 9);
		CHECK(write_waiting(t, n, page) == 0, "write without a limit");
	}
	tz_store_end(t);
	free(has);
	end_device(&d);
}

int main(void)
{
	unsigned tested = 0;

	share = share_of_work();

	for (const struct tz_codec *const *c = tz_codecs(); *c; c++) {
		const char *why;
		if ((*c)->workspace_size && !(*c)->workspace_size((*c)->level_default, &why)) {
			printf("%s: left out: %s\n", (*c)->name, why);
			continue;
		}
		test_single((*c)->name);
		test_damage((*c)->name);
		test_limit((*c)->name);
		test_threads((*c)->name, 2, 40000 / share, 0);
		test_threads((*c)->name, MAX_THREADS, 20000 / share, 0);
		tested++;
	}
	CHECK(tested > 0, "no codec");
	test_with_dictionary();
	test_compact("lz4");
	test_threads("lz4", 4, 60000 / share, tested > 1);
	printf("%u codecs\n", tested);
	return 0;
}
