/* test_slabs.c - the pool's slabs, reserve and threads, in a build of the store that has test
 * points (pool.h).
 *
 * Threads are parked and system calls refused at places that a run of the real thing meets once in
 * weeks, so each of these tests happens the same way every time. tz_arena_populate and
 * tz_arena_release are wrapped by the linker (meson.build).
 */
#include "clock.h"
#include "device.h"
#include "pool.h"

/* ---- test points ---- */

static _Thread_local int park_here;	/* this thread stops at the next "freed" */
static _Atomic int parked, go_on;
static _Atomic int hold_passes, held;	/* the compactor stops at the next "moving" */
static _Atomic unsigned passes;
/* a pool without threads: at "wake", nothing of it may be locked */
static struct tz_pool *single;
static unsigned wakes;

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
}

void tz_test_point(const char *name)
{
	if (!strcmp(name, "freed") && park_here) {
		park_here = 0;
		atomic_store(&parked, 1);
		while (!atomic_load(&go_on))
			nap();
	} else if (!strcmp(name, "moving")) {
		while (atomic_load(&hold_passes)) {
			atomic_store(&held, 1);
			nap();
		}
	} else if (!strcmp(name, "pass")) {
		atomic_fetch_add(&passes, 1);
	} else if (!strcmp(name, "wake") && single) {
		wakes++;
		CHECK(!atomic_load(&single->reserve_lock), "woken with the reserve locked");
		for (unsigned i = 0; i < single->nr_classes; i++)
			CHECK(!atomic_load(&single->classes[i].lock),
				"woken with class %u locked", i);
	}
}

/* ---- the kernel, refusing ---- */

int __real_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __real_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

static _Atomic int refuse, block;	/* populating: fails, or does not come back */
static _Atomic unsigned refused;
static _Atomic uint64_t refused_at[64];	/* ns */
static _Atomic(pthread_t) never;	/* this thread must not change the arena */

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	CHECK(!pthread_equal(atomic_load(&never), pthread_self()), "grown by the wrong thread");
	while (atomic_load(&block))
		nap();
	if (!atomic_load(&refuse))
		return __real_tz_arena_populate(a, offset, len);
	unsigned n = atomic_load(&refused);
	if (n < 64)
		atomic_store(&refused_at[n], tz_now_ns());
	atomic_store(&refused, n + 1);
	return -ENOMEM;
}

int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	CHECK(!pthread_equal(atomic_load(&never), pthread_self()), "shrunk by the wrong thread");
	return __real_tz_arena_release(a, offset, len);
}

/* ---- pages of a known size ---- */

/* 512 random words: kept raw. Fewer, then zeros: an object of about 8 bytes for each. */
static void sized_page(uint8_t *out, uint64_t page, uint32_t version, unsigned random_words)
{
	uint64_t state = (page + 1) * 0x9e3779b97f4a7c15ull ^ version, *words = (uint64_t *)out;

	for (unsigned i = 0; i < 512; i++)
		words[i] = i < random_words ? next(&state) : 0;
	words[0] = page * 1000003 + version;
}

static void put(struct tz_store_thread *t, uint64_t page, uint32_t version, unsigned random_words)
{
	uint8_t data[4096] __attribute__((aligned(8)));

	sized_page(data, page, version, random_words);
	CHECK(write_waiting(t, page, data) == 0, "write of page %llu", (unsigned long long)page);
}

static void expect(struct tz_store_thread *t, uint64_t page, uint32_t version,
	unsigned random_words)
{
	uint8_t data[4096] __attribute__((aligned(8))), out[4096];

	sized_page(data, page, version, random_words);
	CHECK(tz_store_read(t, page, out) == 0, "page %llu is lost", (unsigned long long)page);
	CHECK(!memcmp(data, out, 4096), "page %llu holds something else", (unsigned long long)page);
}

/* ---- a slab is emptied while compaction begins ---- */

/* Where a raw page lies: the one thing in these tests that knows what an entry of this arena
 * version looks like. */
static uint64_t slot_number(const struct device *d, uint64_t page)
{
	const struct tz_arena_head *head = (const void *)tz_store_arena(d->store).from;
	uint64_t offset = (load(&table_of(d)[page]) >> 5 & ((1u << 27) - 1)) * 4096;

	return (offset - head->slab_offset) / 4096;
}

struct emptying { struct device *d; uint64_t last; };

static void *free_the_last(void *arg)
{
	struct emptying *e = arg;
	struct tz_store_thread *t = tz_store_thread(e->d->store, 0);

	tz_store_begin(t);
	park_here = 1;
	tz_store_discard(t, e->last);
	tz_store_end(t);
	return NULL;
}

/* A thread frees the last object of a slab and loses its CPU before the slab is in the reserve.
 * Meanwhile another writes, and compaction begins: the slab must not be taken for the sparsest of
 * its class. */
static void test_parked(void)
{
	enum { PAGES = 1600, LATER = 4000 };
	struct device d = make_device(8192, 2, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 1);
	uint8_t live[8192] = { 0 };
	uint64_t state = 99, emptied, full = 0;

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 512);
	memset(live, 1, PAGES);
	tz_store_end(t);
	emptied = slot_number(&d, 0) / 16;
	/* Of the slabs that stay full, one that is followed by another in the arena: what is handed
	 * out beyond it is seen. */
	for (uint64_t n = 1; n < 800 && !full; n++)
		for (uint64_t m = 1; m < 800; m++)
			if (slot_number(&d, m) == (slot_number(&d, n) / 16 + 1) * 16 &&
			    slot_number(&d, n) / 16 != emptied &&
			    slot_number(&d, m) / 16 != emptied)
				full = n;
	CHECK(full, "no two slabs are neighbours");
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		int in_emptied = slot_number(&d, n) / 16 == emptied && n;
		if (in_emptied || n == full || (n >= 800 && next(&state) % 10 < 6)) {
			tz_store_discard(t, n);
			live[n] = 0;
		}
	}
	tz_store_end(t);
	struct emptying e = { &d, 0 };
	live[0] = 0;
	unsigned before = atomic_load(&passes);
	pthread_t thread;
	pthread_create(&thread, NULL, free_the_last, &e);
	WAIT_FOR(atomic_load(&parked), "no thread is parked");
	tz_store_begin(t);
	put(t, LATER, 1, 512);		/* changes the list of the class */
	live[LATER] = 1;
	tz_store_end(t);
	WAIT_FOR(atomic_load(&passes) > before && NOW(d.stats->pages_compacted), "no pass");
	atomic_store(&go_on, 1);
	pthread_join(thread, NULL);
	tz_store_begin(t);
	for (uint64_t n = LATER + 1; n < LATER + 600; n++) {
		put(t, n, 1, 512);
		live[n] = 1;
	}
	for (uint64_t n = 0; n < 8192; n++)
		if (live[n])
			expect(t, n, 1, 512);
	tz_store_end(t);
	end_device(&d);
}

/* ---- the reserve while a pass is on ---- */

static void test_refilled_during_a_pass(void)
{
	enum { PAGES = 16384 };
	struct device d = make_device(2 * PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 290);
	tz_store_end(t);
	atomic_store(&hold_passes, 1);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n % 4)
			tz_store_discard(t, n);
	tz_store_end(t);
	WAIT_FOR(atomic_load(&held), "no pass");
	/* It is stopped in its middle. More than a reserve is written, in a class that has no slots
	 * yet, and no larger one either. */
	uint64_t bytes = 8 * NOW(d.stats->reserve_target);
	unsigned new_pages = (unsigned)(bytes / 4096), waited = 0;
	uint8_t page[4096] __attribute__((aligned(8)));
	tz_store_begin(t);
	for (unsigned i = 0; i < new_pages; i++) {
		sized_page(page, PAGES + i, 1, 512);
		int rc;
		while ((rc = tz_store_write(t, PAGES + i, page)) == -EAGAIN && waited < 60000) {
			tz_store_end(t);
			nap();
			waited++;
			tz_store_begin(t);
		}
		CHECK(rc == 0, "write %u of %u while a pass is on: %d", i, new_pages, rc);
	}
	CHECK(atomic_load(&held) && atomic_load(&hold_passes), "the pass is over");
	atomic_store(&hold_passes, 0);
	for (uint64_t n = 0; n < PAGES; n += 4)
		expect(t, n, 1, 290);
	for (unsigned i = 0; i < new_pages; i++)
		expect(t, PAGES + i, 1, 512);
	tz_store_end(t);
	end_device(&d);
}

/* ---- packing ---- */

/* Every second page goes: all slabs are equally full. They are packed all the same, and then left
 * alone. */
static void test_packed(uint64_t pages, unsigned random_words)
{
	enum { STAY = 2 };
	struct device d = make_device(pages, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t peak;

	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		put(t, n, 1, random_words);
	peak = NOW(d.stats->mem_used_total);
	for (uint64_t n = 0; n < pages; n++)
		if (n % STAY)
			tz_store_discard(t, n);
	tz_store_end(t);
	uint64_t rest = NOW(d.stats->table_bytes) + NOW(d.stats->reserve_target) * 5 / 4 + 65536;
	uint64_t objects = (peak - NOW(d.stats->table_bytes)) / STAY;
	WAIT_FOR(NOW(d.stats->mem_used_total) <= rest + objects + objects / 16,
		"%llu bytes of %llu are held for one page of %u",
		(unsigned long long)NOW(d.stats->mem_used_total), (unsigned long long)peak, STAY);
	/* Three looks later there has been at most the pass that found nothing more. */
	nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	unsigned before = atomic_load(&passes);
	nanosleep(&(struct timespec){ .tv_sec = 3 }, NULL);
	CHECK(atomic_load(&passes) <= before + 1,
		"%u passes in vain", atomic_load(&passes) - before);
	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n += STAY)
		expect(t, n, 1, random_words);
	tz_store_end(t);
	end_device(&d);
}

/* Slabs that cannot be emptied, because what is in them belongs to no entry any more, are tried
 * once. */
static void test_given_up(void)
{
	enum { PAGES = 4096 };
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 512);
	for (uint64_t n = 0; n < PAGES; n++) {
		if (slot_number(&d, n) % 16 == 0)
			flip(&table_of(&d)[n], 31);	/* far outside */
		else
			tz_store_discard(t, n);
	}
	tz_store_end(t);
	unsigned before = atomic_load(&passes);
	WAIT_FOR(atomic_load(&passes) > before, "no pass");
	nanosleep(&(struct timespec){ .tv_sec = 4 }, NULL);
	CHECK(atomic_load(&passes) <= before + 2,
		"%u passes in vain", atomic_load(&passes) - before);
	end_device(&d);
}

/* ---- growth that is refused ---- */

/* How long 12 attempts took, and the shortest gap between the first two. */
static uint64_t attempts(struct tz_store_thread *t, uint64_t *page, uint64_t *first_gap)
{
	uint8_t data[4096] __attribute__((aligned(8)));

	atomic_store(&refused, 0);
	atomic_store(&refuse, 1);
	/* Writes go on, and wake the reserve's thread each time. */
	while (atomic_load(&refused) < 12) {
		tz_store_begin(t);
		sized_page(data, *page, 1, 512);
		int rc = tz_store_write(t, *page, data);
		CHECK(rc == 0 || rc == -EAGAIN, "%d", rc);
		*page += rc == 0;
		tz_store_end(t);
		if (rc)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
	}
	*first_gap = atomic_load(&refused_at[1]) - atomic_load(&refused_at[0]);
	return atomic_load(&refused_at[11]) - atomic_load(&refused_at[0]);
}

static void test_refused_growth(void)
{
	struct device d = make_device(65536, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t page = 0, gap, shortest = UINT64_MAX;

	for (unsigned turn = 0; turn < 4; turn++) {
		uint64_t took = attempts(t, &page, &gap);
		/* 2 + 4 + 8 + 16 + 32 + 64 + 5 x 100 ms, rounding left out: a busy machine makes it
		 * longer, nothing shorter. */
		CHECK(took > 600000000,
			"asked 12 times in %llu us", (unsigned long long)took / 1000);
		shortest = gap < shortest ? gap : shortest;
		atomic_store(&refuse, 0);
		tz_store_begin(t);
		/* More than is in reserve: it has succeeded again. */
		for (uint64_t end = page + 2000; page < end; page++)
			put(t, page, 1, 512);
		tz_store_end(t);
	}
	CHECK(shortest < 50000000,
		"success does not end the backing off: %llu us",
		(unsigned long long)shortest / 1000);
	end_device(&d);
}

/* ---- trim ---- */

static void test_trim(void)
{
	enum { PAGES = 16384 };
	struct device d = make_device(2 * PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 512);
	tz_store_end(t);
	WAIT_FOR(NOW(d.stats->reserve_bytes) >= NOW(d.stats->reserve_target) * 3 / 4,
		"not refilled");
	/* Answered, the reserve's thread is done with what it was at. */
	tz_store_trim(d.store);
	uint64_t target = NOW(d.stats->reserve_target);
	/* More than the target, but less than what is given back unasked. */
	tz_store_begin(t);
	uint64_t free_at_least = target + target / 8;
	for (uint64_t n = 0; NOW(d.stats->reserve_bytes) < free_at_least && n < PAGES / 2; n++)
		tz_store_discard(t, n);
	tz_store_end(t);
	CHECK(NOW(d.stats->reserve_bytes) >= free_at_least, "too little in reserve");
	atomic_store(&never, pthread_self());
	uint64_t used = NOW(d.stats->mem_used_total), bytes = tz_store_trim(d.store);
	CHECK(bytes && bytes == used - NOW(d.stats->mem_used_total),
		"%llu bytes", (unsigned long long)bytes);
	CHECK(NOW(d.stats->reserve_bytes) == target,
		"reserve %llu, target %llu", (unsigned long long)NOW(d.stats->reserve_bytes),
		(unsigned long long)target);
	/* The reserve's thread does not come back from the kernel: trim does. */
	atomic_store(&block, 1);
	tz_store_begin(t);
	for (uint64_t n = PAGES; NOW(d.stats->reserve_bytes) > target / 2; n++)
		put(t, n, 1, 512);
	tz_store_end(t);
	CHECK(tz_store_trim(d.store) == 0, "given back by whom?");
	atomic_store(&block, 0);
	atomic_store(&never, (pthread_t)0);
	end_device(&d);
}

/* ---- the pool by itself, without threads ---- */

struct bare { struct tz_pool *pool; struct tz_arena arena; struct tz_stats *stats; };

static struct bare make_bare(uint64_t pages)
{
	struct bare b = { .pool = aligned_alloc(64, sizeof *b.pool),
		.stats = aligned_alloc(64, tz_stats_size(1)) };

	return b.pool && b.stats && tz_stats_init(b.stats, tz_stats_size(1), 1) == 0 &&
		pages ? b : (struct bare){ 0 };
}

static void start_bare(struct bare *b, uint64_t pages)
{
	char why[216];

	CHECK(tz_arena_create(&b->arena, memfd_create("arena", 0), pages * 4096, 0, why,
		sizeof why) == 0, "%s", why);
	CHECK(tz_pool_create(b->pool, &b->arena, b->stats, 0, why, sizeof why) == 0, "%s", why);
	single = b->pool;
}

static void end_bare(struct bare *b)
{
	single = NULL;
	tz_pool_destroy(b->pool);
	tz_arena_destroy(&b->arena);
	free(b->pool);
	free(b->stats);
}

struct piece { uint64_t offset; unsigned size; };

/* What must be refused: freeing it again, at another place in or near its slot, larger than its
 * slot, far outside. */
static void check_refusals(struct bare *b, const struct piece *piece, uint64_t page)
{
	static const uint64_t wrong[] =
		{ 0, 1, 8, 16, 65536, 1ull << 35, 1ull << 38, -(uint64_t)65536 };

	for (unsigned i = 1; i < sizeof wrong / sizeof *wrong; i++) {
		uint64_t offset = piece->offset + wrong[i];
		if (tz_pool_is_slot(b->pool, offset, piece->size) && wrong[i] >= 16)
			continue;	/* a slot it is, of another */
		CHECK(tz_pool_free(b->pool, offset, piece->size, page) < 0,
			"freed at +%lld", (long long)wrong[i]);
	}
	CHECK(tz_pool_free(b->pool, piece->offset, 4097, page) < 0,
		"freed what is larger than any slot");
	if (piece->size > TZ_POOL_HUGE)
		CHECK(tz_pool_free(b->pool, piece->offset, piece->size, page + 1) < 0,
			"freed another page's");
}

/* Objects of all sizes come and go: no two overlap, each is where its size may be, and nothing else
 * can be freed. */
static void test_bare_pool(void)
{
	enum { PIECES = 1200 };
	struct bare b = make_bare(65536);
	start_bare(&b, 65536);
	struct piece *pieces = calloc(PIECES, sizeof *pieces);
	uint8_t *taken = calloc(b.arena.size / 16, 1);
	uint64_t state = 5;

	for (unsigned step = 0; step < 200000 / share_of_work(); step++) {
		uint64_t page = next(&state) % PIECES;
		struct piece *piece = &pieces[page];
		unsigned units = (piece->size + 15) / 16;
		if (piece->size) {
			if (step % 16 == 0)
				check_refusals(&b, piece, page);
			CHECK(tz_pool_free(b.pool, piece->offset, piece->size, page) == 0, "free");
			CHECK(tz_pool_free(b.pool, piece->offset, piece->size, page) < 0,
				"freed twice");
			memset(taken + piece->offset / 16, 0, units);
			piece->size = 0;
			continue;
		}
		int err = 0;
		/* Small ones as often as large ones. */
		unsigned most = 1u << next(&state) % 13;
		unsigned size = 1 + (unsigned)(next(&state) % most);
		uint64_t offset = tz_pool_alloc(b.pool, size, page, &err);
		if (!offset) {
			CHECK(err == -EAGAIN, "%d", err);
			continue;
		}
		units = (size + 15) / 16;
		CHECK(offset % (size > TZ_POOL_HUGE ? 4096 : 16) == 0,
			"offset %llu", (unsigned long long)offset);
		CHECK(tz_pool_is_slot(b.pool, offset, size), "not a slot");
		for (unsigned i = 0; i < units; i++)
			CHECK(!taken[offset / 16 + i], "handed out twice");
		memset(taken + offset / 16, 1, units);
		*piece = (struct piece){ offset, size };
	}
	CHECK(wakes, "the reserve's thread was never woken");
	for (uint64_t page = 0; page < PIECES; page++)
		if (pieces[page].size)
			CHECK(tz_pool_free(b.pool, pieces[page].offset, pieces[page].size,
				page) == 0, "free");
	uint64_t objects = 0, slabs = 0;
	for (unsigned i = 0; i < b.pool->nr_classes; i++) {
		objects += b.stats->classes[i].objects;
		slabs += b.stats->classes[i].slabs;
	}
	CHECK(!objects && !slabs,
		"%llu objects, %llu slabs", (unsigned long long)objects, (unsigned long long)slabs);
	free(taken);
	free(pieces);
	end_bare(&b);
}

int main(void)
{
	test_bare_pool();
	test_parked();
	test_refilled_during_a_pass();
	test_packed(8192, 512);
	test_packed(8192, 290);
	test_packed(65536, 4);		/* slabs with a map of the full size */
	test_given_up();
	test_refused_growth();
	test_trim();
	puts("slabs: all right");
	return 0;
}
