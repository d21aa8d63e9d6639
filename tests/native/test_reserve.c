/* test_reserve.c - segments on their way to and from the reserve, and the store's threads, in a
 * build of the store that has test points (alloc.h).
 *
 * Threads are parked and system calls refused at places that a run of the real thing meets once in
 * weeks, so each of these tests happens the same way every time. tz_arena_populate and
 * tz_arena_release are wrapped by the linker (meson.build).
 */
#include "clock.h"
#include "device.h"
#include "store_impl.h"

/* ---- test points ---- */

static _Thread_local int park_here;	/* this thread stops at the next "freed" */
static _Atomic int parked, go_on;
static _Atomic int hold_passes, held;	/* the compactor stops at the next `hold_at` */
static const char *_Atomic hold_at = "moving";
static _Atomic int before_pass;		/* the compactor stops before it begins a pass */
static _Atomic unsigned passes;
/* whoever looks at the page map stops, at a page of the table */
static _Atomic int hold_map, at_map;
/* at "wake", nothing of this store may be locked by this thread, its only one */
static _Thread_local struct tz_store *single;
static _Thread_local unsigned wakes;
/* places that the compactor of this store has looked at without going outside, and the most */
static _Atomic(struct tz_store *) walked;
static _Atomic unsigned longest_walk;

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
}

static void count_walk(const struct tz_store *s)
{
	static uint64_t turn;
	static unsigned walk;
	uint64_t now = atomic_load(&s->threads[s->nr_threads + TZ_HOUSEKEEPER].turns);

	walk = now == turn ? walk + 1 : 1;
	turn = now;
	if (walk > atomic_load(&longest_walk))
		atomic_store(&longest_walk, walk);
}

void tz_test_point(const char *name)
{
	struct tz_store *s = atomic_load(&walked);

	if (s && !strcmp(name, "walking"))
		count_walk(s);
	if (!strcmp(name, "freed") && park_here) {
		park_here = 0;
		atomic_store(&parked, 1);
		while (!atomic_load(&go_on))
			nap();
	} else if (!strcmp(name, atomic_load(&hold_at))) {
		while (atomic_load(&hold_passes)) {
			atomic_store(&held, 1);
			nap();
		}
	} else if (!strcmp(name, "map")) {
		while (atomic_load(&hold_map)) {
			atomic_store(&at_map, 1);
			nap();
		}
	} else if (!strcmp(name, "pass")) {
		while (atomic_load(&before_pass))
			nap();
		atomic_fetch_add(&passes, 1);
	} else if (!strcmp(name, "wake") && single) {
		wakes++;
		/* Its shard's lock is taken by the housekeeper, too, which drops it again; this
		 * thread cannot while it is here. */
		WAIT_FOR(!atomic_load(&single->alloc.shards[0].lock),
			"woken with the shard locked");
	}
}

/* ---- the kernel, refusing ---- */

int __real_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __real_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

static _Atomic int refuse, block;	/* populating: fails, or does not come back */
static _Atomic int blocked;		/* it does not */
static _Atomic unsigned refused;
static _Atomic uint64_t refused_at[64];	/* ns */
static _Atomic(pthread_t) never;	/* this thread must not change the arena */

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	CHECK(!pthread_equal(atomic_load(&never), pthread_self()), "grown by the wrong thread");
	while (atomic_load(&block)) {
		atomic_store(&blocked, 1);
		nap();
	}
	if (!atomic_load(&refuse))
		return __real_tz_arena_populate(a, offset, len);
	unsigned n = atomic_load(&refused);
	if (n < 64)
		atomic_store(&refused_at[n], tz_now_ns());
	atomic_store(&refused, n + 1);
	return -ENOMEM;
}

static _Atomic uint64_t slow;		/* ns that giving something back takes, if not 0 */
static _Atomic uint64_t ahead;		/* ns by which clocks are ahead for that reason */
static _Atomic unsigned released, pauses;	/* while it is slow */
static _Thread_local int gives_back;

int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	CHECK(!pthread_equal(atomic_load(&never), pthread_self()), "shrunk by the wrong thread");
	gives_back = atomic_load(&slow) != 0;
	atomic_fetch_add(&ahead, atomic_load(&slow));
	atomic_fetch_add(&released, (unsigned)gives_back);
	return __real_tz_arena_release(a, offset, len);
}

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	int rc = __real_clock_gettime(id, t);
	uint64_t ns = (uint64_t)t->tv_nsec + atomic_load(&ahead);

	t->tv_sec += (time_t)(ns / 1000000000u);
	t->tv_nsec = (long)(ns % 1000000000u);
	return rc;
}

int __real_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
	atomic_fetch_add(&pauses, (unsigned)gives_back);
	return __real_nanosleep(t, left);
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

/* The first pages of a device. */
static void put_all(struct tz_store_thread *t, uint64_t pages, unsigned random_words)
{
	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		put(t, n, 1, random_words);
	tz_store_end(t);
}

/* All of those but every `kept`th; 0: all. */
static void discard_all(struct tz_store_thread *t, uint64_t pages, unsigned kept)
{
	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		if (!kept || n % kept)
			tz_store_discard(t, n);
	tz_store_end(t);
}

static void expect(struct tz_store_thread *t, uint64_t page, uint32_t version,
	unsigned random_words)
{
	uint8_t data[4096] __attribute__((aligned(8))), out[4096];

	sized_page(data, page, version, random_words);
	CHECK(tz_store_read(t, page, out) == 0, "page %llu is lost", (unsigned long long)page);
	CHECK(!memcmp(data, out, 4096), "page %llu holds something else", (unsigned long long)page);
}

/* ---- a segment is emptied while compaction begins ---- */

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

/* A thread frees the last object of a segment and loses its CPU before the segment is in the
 * reserve. Meanwhile another writes, and compaction begins: the segment must not be taken for the
 * sparsest. */
static void test_parked(void)
{
	enum { PAGES = 1600, LATER = 4000 };
	struct device d = make_device(8192, 2, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 1);
	uint8_t live[8192] = { 0 };
	uint64_t state = 99, emptied;

	atomic_store(&before_pass, 1);	/* nothing is moved until the thread is parked */
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 512);
	memset(live, 1, PAGES);
	tz_store_end(t);
	emptied = segment_of(&d, 0);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++) {
		int in_emptied = segment_of(&d, n) == emptied && n;
		if (in_emptied || (n >= 800 && next(&state) % 10 < 6)) {
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
	put(t, LATER, 1, 512);		/* changes the lists */
	live[LATER] = 1;
	tz_store_end(t);
	atomic_store(&before_pass, 0);
	/* Holes until there is a pass. */
	tz_store_begin(t);
	for (uint64_t n = 1; n < PAGES && atomic_load(&passes) == before; n++) {
		if (n % 16 == 0)
			continue;
		tz_store_discard(t, n);
		live[n] = 0;
	}
	tz_store_end(t);
	WAIT_FOR(atomic_load(&passes) > before, "no pass");
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

	put_all(t, PAGES, 290);
	atomic_store(&hold_passes, 1);
	discard_all(t, PAGES, 4);
	WAIT_FOR(atomic_load(&held), "no pass");
	/* It is stopped in its middle. More than a reserve is written, of pages that are larger
	 * than any hole. */
	uint64_t bytes = 8 * NOW(d.stats->reserve_target);
	unsigned new_pages = (unsigned)(bytes / 4096), waited = 0;
	uint8_t page[4096] __attribute__((aligned(8)));
	tz_store_begin(t);
	for (unsigned i = 0; i < new_pages; i++) {
		sized_page(page, PAGES + i, 1, 512);
		int rc;
		while ((rc = tz_store_write(t, PAGES + i, page)) == -EAGAIN && waited < 1200000) {
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

/* The housekeeper has looked at everything `n` times from now on, and done what it found. (Ages are
 * counted when it is through with that.) */
static void let_look(struct device *d, unsigned n)
{
	for (unsigned i = 0; i <= n; i++) {
		uint64_t ticket = tz_store_count_ages(d->store);
		WAIT_FOR(NOW(d->stats->ages_counted) >= ticket, "ages are not counted");
	}
}

/* Every second page goes: all segments are equally full. They are packed all the same, and then
 * left alone. at_once: compaction meets them only when all have gone. */
static void test_packed(uint64_t pages, unsigned random_words, int at_once)
{
	enum { STAY = 2 };
	struct device d = make_device(pages, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t peak;

	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n++)
		put(t, n, 1, random_words);
	peak = NOW(d.stats->mem_used_total);
	atomic_store(&before_pass, at_once);
	for (uint64_t n = 0; n < pages; n++)
		if (n % STAY)
			tz_store_discard(t, n);
	tz_store_end(t);
	atomic_store(&before_pass, 0);
	struct tz_stats_sum sum = sum_of(d.stats);
	/* Holes are a twentieth of it at most, or two segments. */
	uint64_t most = (uint64_t)sum.total.object_bytes_now * 105 / 100 + 2 * TZ_SEGMENT_SIZE +
		NOW(d.stats->table_bytes) + NOW(d.stats->overhead_bytes) + (1u << 20);
	WAIT_FOR(NOW(d.stats->mem_used_total) <= most,
		"%llu bytes of %llu are held for one page of %u",
		(unsigned long long)NOW(d.stats->mem_used_total), (unsigned long long)peak, STAY);
	/* Three looks later there has been at most the pass that found nothing more. */
	let_look(&d, 1);
	unsigned before = atomic_load(&passes);
	let_look(&d, 3);
	CHECK(atomic_load(&passes) <= before + 1,
		"%u passes in vain", atomic_load(&passes) - before);
	tz_store_begin(t);
	for (uint64_t n = 0; n < pages; n += STAY)
		expect(t, n, 1, random_words);
	tz_store_end(t);
	end_device(&d);
}

/* Segments that cannot be emptied, because what is in them belongs to no entry any more, are tried
 * once. */
static void test_given_up(void)
{
	enum { PAGES = 4096 };
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_check_problem first;
	unsigned before = atomic_load(&passes);

	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 512);
	for (uint64_t n = 0; n < PAGES; n++) {
		if (n % 31 == 0)
			flip(entry_of(&d, n), 31);
		else
			tz_store_discard(t, n);
	}
	tz_store_end(t);
	WAIT_FOR(atomic_load(&passes) > before, "no pass");
	let_look(&d, 1);
	before = atomic_load(&passes);
	let_look(&d, 3);
	CHECK(atomic_load(&passes) <= before + 2,
		"%u passes in vain", atomic_load(&passes) - before);
	CHECK(end_damaged_device(&d, &first) == (PAGES + 30) / 31 &&
		!strcmp(first.what, "its entry is damaged"), "\"%s\"", first.what);
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
		int rc = tz_store_write(t, *page % 65536, data);
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

	/* (The first gap is 2 ms, and 100 ms if that does not begin anew. On a busy machine it may
	 * be any time, but not always.) */
	for (unsigned turn = 0; turn < 4 || (shortest >= 90000000 && turn < 200); turn++) {
		/* 2 + 4 + 8 + 16 + 32 + 64 + 5 x 100 ms, rounding left out. On a busy machine it is
		 * longer, or this thread loses its CPU for so long that the device counts as idle,
		 * which ends the backing off: again, then. */
		unsigned tries = 0;
		while (attempts(t, &page, &gap) < 600000000)
			CHECK(++tries < 200, "asked 12 times in less than 600 ms");
		shortest = gap < shortest ? gap : shortest;
		atomic_store(&refuse, 0);
		tz_store_begin(t);
		/* More than is in reserve: it has succeeded again. */
		for (uint64_t end = page + 2000; page < end; page++)
			put(t, page % 65536, 1, 512);
		tz_store_end(t);
	}
	CHECK(shortest < 90000000,
		"success does not end the backing off: %llu us",
		(unsigned long long)shortest / 1000);
	end_device(&d);
}

/* ---- giving back much ---- */

/* Where a segment takes a millisecond, the thread, which is a real-time one, lets others have the
 * CPU after each, not after 64. (Parts of the page table go back without a pause: they are few.) */
static void test_pauses(void)
{
	enum { PAGES = 16384 };
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	put_all(t, PAGES, 512);
	atomic_store(&slow, 1000000);
	discard_all(t, PAGES, 0);
	WAIT_FOR(atomic_load(&released) >= 256, "%u went back", atomic_load(&released));
	unsigned n = atomic_load(&released);
	CHECK(atomic_load(&pauses) >= n / 2, "%u pauses, %u segments", atomic_load(&pauses), n);
	atomic_store(&slow, 0);
	end_device(&d);
}

/* ---- trim ---- */

static void test_trim(void)
{
	enum { PAGES = 16384 };
	struct device d = make_device(2 * PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	put_all(t, PAGES, 512);
	/* A device that has just been in use has a full reserve; trim makes it one that is idle. On
	 * a busy machine half a second may be over before that: again, then. */
	uint64_t bytes = 0, idle;
	atomic_store(&never, pthread_self());
	for (unsigned turn = 0; !bytes; turn++) {
		CHECK(turn < 100, "trim never gave anything back");
		tz_store_begin(t);
		for (uint64_t n = 0; n < PAGES / 2; n++)
			put(t, PAGES + (turn * PAGES / 2 + n) % PAGES, turn, 512);
		for (uint64_t n = 0; n < 200; n++)
			tz_store_discard(t, (turn * 200 + n) % PAGES);
		tz_store_end(t);
		bytes = tz_store_trim(d.store);
	}
	/* (Compaction may take segments meanwhile, and then it is in use for half a second.) */
	idle = 1 << 20;
	WAIT_FOR(NOW(d.stats->reserve_target) == idle && NOW(d.stats->reserve_bytes) <= idle,
		"reserve %llu, target %llu", (unsigned long long)NOW(d.stats->reserve_bytes),
		(unsigned long long)NOW(d.stats->reserve_target));
	/* The reserve's thread does not come back from the kernel: trim does. */
	WAIT_FOR(NOW(d.stats->reserve_bytes) == idle, "the reserve is not full");
	atomic_store(&block, 1);
	tz_store_begin(t);
	for (uint64_t n = 0; NOW(d.stats->reserve_bytes) > idle / 2; n++)
		put(t, n, 99, 512);
	tz_store_end(t);
	WAIT_FOR(atomic_load(&blocked), "it asks for nothing");
	CHECK(tz_store_trim(d.store) == 0, "given back by whom?");
	atomic_store(&block, 0);
	atomic_store(&never, (pthread_t)0);
	end_device(&d);
}

/* At rest it is 1/64 of what the device holds, within 384 KiB and 1 MiB. */
static void test_at_rest(void)
{
	struct device d = make_device(32768, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	CHECK(NOW(d.stats->reserve_bytes) == 384 << 10, "a new device has %llu",
		(unsigned long long)NOW(d.stats->reserve_bytes));
	tz_store_begin(t);
	for (uint64_t n = 0; n < 10240; n++)
		put(t, n, 1, 512);
	tz_store_end(t);
	WAIT_FOR(NOW(d.stats->reserve_bytes) == NOW(d.stats->reserve_target) &&
			NOW(d.stats->reserve_target) == 5 * TZ_SEGMENT_SIZE,
		"40 MiB: reserve %llu, target %llu",
		(unsigned long long)NOW(d.stats->reserve_bytes),
		(unsigned long long)NOW(d.stats->reserve_target));
	end_device(&d);
}

/* Whoever wakes the reserve's thread holds no lock. */
static void test_wakes(void)
{
	struct device d = make_device(8192, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	single = d.store;
	tz_store_begin(t);
	for (uint64_t n = 0; n < 4000; n++)
		put(t, n, 1, 512);
	for (uint64_t n = 0; n < 4000; n++)
		tz_store_discard(t, n);
	tz_store_end(t);
	single = NULL;
	CHECK(wakes, "the reserve's thread was never woken");
	end_device(&d);
}

/* ---- memory that is given back while somebody looks at it ---- */

static void *look_at_map(void *arg)
{
	struct device *d = arg;
	static uint32_t map[1][TZ_KINDS_STORED];

	tz_store_page_map(d->store, 0, TZ_TABLE_ENTRIES, 1, map);
	CHECK(map[0][TZ_KIND_EMPTY] == TZ_TABLE_ENTRIES, "a map of something else");
	return NULL;
}

/* An empty page of the table stays for as long as the page map is counted on it. */
static void test_map(void)
{
	struct device d = make_device(8192, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	pthread_t thread;

	tz_store_begin(t);
	put(t, 3, 1, 4);
	tz_store_discard(t, 3);
	tz_store_end(t);
	atomic_store(&hold_map, 1);
	pthread_create(&thread, NULL, look_at_map, &d);
	WAIT_FOR(atomic_load(&at_map), "nobody looks at the map");
	tz_store_compact(d.store);
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	CHECK(atomic_load(&d.store->alloc.table_pages) == 1, "taken away under the page map");
	atomic_store(&hold_map, 0);
	pthread_join(thread, NULL);
	WAIT_FOR(atomic_load(&d.store->alloc.table_pages) == 0, "it stays");
	check_accounting(&d, 0, 0);
	end_device(&d);
}

/* A segment that queue threads empty while the compactor walks through it is given back when that
 * is done: reading what has been punched out would populate it again, uncounted. */
static void test_emptied_while_walked(void)
{
	enum { PAGES = 4096 };
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	put_all(t, PAGES, 290);
	atomic_store(&held, 0);
	atomic_store(&hold_at, "walking");	/* it has announced nothing */
	atomic_store(&hold_passes, 1);
	discard_all(t, PAGES, 4);
	WAIT_FOR(atomic_load(&held), "no pass");
	/* The reserve is full: what comes on top of it goes first. */
	tz_store_trim(d.store);
	WAIT_FOR(NOW(d.stats->reserve_bytes) >= NOW(d.stats->reserve_target), "no reserve");
	discard_all(t, PAGES, 0);
	for (unsigned i = 0; i < 2; i++)
		tz_store_trim(d.store);
	atomic_store(&hold_passes, 0);
	uint64_t ticket = tz_store_compact(d.store);
	WAIT_FOR(NOW(d.stats->compact_done) >= ticket, "the pass does not end");
	CHECK(NOW(d.stats->segment_bytes) == 0, "segments stay");
	check_accounting(&d, 0, 0);
	end_device(&d);
}

/* ---- a large disk ---- */

/* Whether looking at pages that were never written leaves memory as it is: of many pages of the
 * table at once, so that the reserve's thread, which has its own reasons now and then, is not taken
 * for it when that is tried again. */
static int looks_without_room_at(struct device *d, struct tz_store_thread *t, uint64_t n,
	unsigned try)
{
	enum { TABLES = 64 };
	uint8_t page[4096] __attribute__((aligned(8)));
	uint64_t before = NOW(d->stats->mem_used_total);
	uint32_t writer;

	for (unsigned i = 0; i < TABLES; i++) {
		uint64_t at = n + (try * TABLES + i) * TZ_TABLE_ENTRIES;
		tz_store_prefetch_entry(t, at);
		tz_store_prefetch_object(t, at);
		tz_store_discard(t, at);
		CHECK(tz_store_read(t, at, page) == 0 && check_page(page, at, &writer) == 0,
			"zeros");
	}
	return NOW(d->stats->mem_used_total) == before;
}

static int looks_without_room(struct device *d, struct tz_store_thread *t, uint64_t n)
{
	for (unsigned try = 0; try < 100; try++) {
		if (looks_without_room_at(d, t, n, try))
			return 1;
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	return 0;
}

/* Of 1 TiB, 64 GiB of the directory are there from the start. Beyond, a write waits once for the
 * reserve's thread, what was never written reads as zeros, and nothing is allocated for that. */
static void test_directory(void)
{
	enum { GIB = 262144 };
	struct device d = make_device(1024ull * GIB, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	unsigned waited = 0;
	uint32_t writer;

	CHECK(NOW(d.stats->mem_used_total) < 2 << 20, "%llu bytes for nothing",
		(unsigned long long)NOW(d.stats->mem_used_total));
	tz_store_begin(t);
	for (uint64_t n = 5; n < 1024ull * GIB; n += 100 * GIB) {
		/* Until what it does after a write is over. */
		WAIT_FOR(NOW(d.stats->reserve_bytes) >= NOW(d.stats->reserve_target), "no reserve");
		CHECK(looks_without_room(&d, t, n), "reading allocates");
		make_page(page, n, 0, 1);
		int rc = tz_store_write(t, n, page);
		CHECK(rc == (n / GIB < 64 ? 0 : -EAGAIN), "page %llu: %d", (unsigned long long)n,
			rc);
		waited += rc != 0;
		CHECK(rc == 0 || write_waiting(t, n, page) == 0, "write");
		CHECK(tz_store_read(t, n, page) == 0 && check_page(page, n, &writer) == 1, "read");
	}
	/* All of the disk but that: an empty TiB. */
	unsigned work = 1 << 30;
	uint64_t done = tz_store_discard_range(t, 6, 1024ull * GIB - 6, &work);
	CHECK(done == 1024ull * GIB - 6 && (1 << 30) - work < 1000000,
		"%llu pages of an empty TiB are %u steps of work", (unsigned long long)done,
		(1 << 30) - work);
	CHECK(waited == 10, "%u writes waited", waited);
	tz_store_end(t);
	end_device(&d);
}

/* ---- steps ---- */

/* A segment of the smallest objects is thousands of places to walk; whoever waits for the
 * housekeeper to be outside waits for a few hundred at most. */
static void test_steps(void)
{
	enum { PAGES = 20000, LOOKS = 256 };
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	atomic_store(&walked, d.store);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n++)
		put(t, n, 1, 1);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n % 8)
			tz_store_discard(t, n);
	tz_store_end(t);
	uint64_t ticket = tz_store_compact(d.store);
	WAIT_FOR(NOW(d.stats->compact_done) >= ticket, "compaction does not end");
	unsigned longest = atomic_load(&longest_walk);
	CHECK(longest > LOOKS / 2 && longest <= LOOKS, "%u places in one step", longest);
	CHECK(NOW(d.stats->segment_bytes) <= 3 * TZ_SEGMENT_SIZE, "%llu bytes for %u small objects",
		(unsigned long long)NOW(d.stats->segment_bytes), PAGES / 8);
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES; n += 8)
		expect(t, n, 1, 1);
	tz_store_end(t);
	atomic_store(&walked, NULL);
	end_device(&d);
}

/* ---- spare pages of the table ---- */

/* One page in each of so many pages of the table, written. */
static void write_tables(struct tz_store_thread *t, uint64_t from, uint64_t to)
{
	tz_store_begin(t);
	for (uint64_t n = from; n < to; n++)
		put(t, n * TZ_TABLE_ENTRIES + n % TZ_TABLE_ENTRIES, 1, 20);
	tz_store_end(t);
}

static uint64_t file_bytes(const struct device *d)
{
	struct stat st;

	CHECK(fstat(d->fd, &st) == 0, "stat");
	return (uint64_t)st.st_blocks * 512;
}

/* Of the table, what is in use and two pages more are held when a device has nothing to do. */
static void expect_tables(const struct device *d, uint64_t fixed, uint64_t tables)
{
	uint64_t most = fixed + (tables + 2) * TZ_PAGE_SIZE;

	WAIT_FOR(NOW(d->stats->table_bytes) <= most,
		"%llu bytes for %llu pages of the table and %llu others",
		(unsigned long long)NOW(d->stats->table_bytes), (unsigned long long)tables,
		(unsigned long long)fixed);
	/* What is counted is what the file takes. */
	WAIT_FOR(file_bytes(d) == arena_bytes(d->stats), "%llu bytes in the file, %llu counted",
		(unsigned long long)file_bytes(d), (unsigned long long)arena_bytes(d->stats));
}

/* Pages of the table that are not in use are given back, in segments that have others in use, and
 * come back when they are needed. A segment of which that is all goes, too. */
static void test_spare_tables(void)
{
	enum { TABLES = 400 };
	struct device d = make_device((uint64_t)TABLES * TZ_TABLE_ENTRIES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t fixed = NOW(d.stats->table_bytes);

	write_tables(t, 0, 5);
	expect_tables(&d, fixed, 5);
	/* Far apart in time, one by one: pages of the same segment are used. */
	for (uint64_t n = 5; n < 10; n++) {
		write_tables(t, n, n + 1);
		WAIT_FOR(atomic_load(&d.store->alloc.table_spare) >= 2, "no spare page");
	}
	unsigned segments = 0;
	for (uint32_t s = 0; s < atomic_load(&d.store->alloc.nr_known); s++)
		segments += tz_alloc_state(&d.store->alloc, s) == TZ_SEGMENT_TABLE;
	CHECK(segments == 1, "%u segments for 10 pages of the table", segments);
	expect_tables(&d, fixed, 10);
	write_tables(t, 10, TABLES);
	expect_tables(&d, fixed, TABLES);
	/* Most of them go, and with them all of some segments. */
	tz_store_begin(t);
	for (uint64_t n = 0; n < TABLES; n++)
		if (n % 64)
			tz_store_discard(t, n * TZ_TABLE_ENTRIES + n % TZ_TABLE_ENTRIES);
	tz_store_end(t);
	tz_store_compact(d.store);
	expect_tables(&d, fixed, (TABLES + 63) / 64);
	tz_store_begin(t);
	for (uint64_t n = 0; n < TABLES; n += 64) {
		expect(t, n * TZ_TABLE_ENTRIES + n % TZ_TABLE_ENTRIES, 1, 20);
		tz_store_discard(t, n * TZ_TABLE_ENTRIES + n % TZ_TABLE_ENTRIES);
	}
	tz_store_end(t);
	tz_store_compact(d.store);
	WAIT_FOR(NOW(d.stats->table_bytes) == fixed, "%llu bytes for no page of the table",
		(unsigned long long)NOW(d.stats->table_bytes));
	end_device(&d);
}

int main(void)
{
	test_parked();
	test_steps();
	test_spare_tables();
	test_refilled_during_a_pass();
	for (int at_once = 0; at_once < 2; at_once++) {
		test_packed(8192, 512, at_once);
		test_packed(8192, 290, at_once);
		test_packed(65536, 4, at_once);
	}
	test_given_up();
	test_refused_growth();
	test_pauses();
	test_trim();
	test_at_rest();
	test_wakes();
	test_directory();
	test_map();
	test_emptied_while_walked();
	puts("reserve: all right");
	return 0;
}
