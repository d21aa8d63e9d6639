/* test_age.c - how old pages are (age.c), and writing old ones once more (recompress.c).
 *
 * bounds: whenever a page is touched, its age never says more than is true, and hardly less.
 * rises: every kind of page gets old, or has no age; reads and writes make it young; what is
 *	damaged is not touched; the statistics add up; a clock with nothing to do stops.
 * at_once: a read, a write, a discard at the instant at which an entry is made older, moved,
 *	shared, collected or rewritten.
 * rewrites: what is old enough, and gains enough, takes less room, holds what it held and is as old
 *	as before; nothing else is changed; a run can be stopped; what is asked wrongly is refused.
 * threads: all of that at the same time, with dedup and compaction, next to threads that read and
 *	write.
 */
#include "attach_pages.h"

#include <sched.h>

enum { OLDEST = TZ_AGES - 1 };
#define FAST_CLOCK 1800000u	/* a pass in a tenth of a millisecond */
#define SHARE (COPY + SMALL)

/* ---- a place where the housekeeper is held up ---- */

static _Atomic(const char *) act_at;	/* at this point, */
static void (*_Atomic action)(void);		/* once, this is done, */
static _Atomic int acted;		/* and has been */

void tz_test_point(const char *name)
{
	const char *at = atomic_load(&act_at);
	void (*what)(void) = atomic_load(&action);		/* it may be armed anew at once */

	if (at && !strcmp(name, at) && atomic_compare_exchange_strong(&act_at, &at, NULL)) {
		what();
		atomic_store(&acted, 1);
	}
}

/* ---- bounds ---- */

/* A page that was touched between two passes: after each later one. They are one unit apart. */
static void follow(uint64_t touched)
{
	static unsigned seen_least[TZ_AGES], seen_most[TZ_AGES];
	unsigned age = 0;

	for (uint64_t pulse = touched + 1; pulse < touched + 3000; pulse++) {
		uint64_t youngest = pulse - touched - 1, oldest = pulse + 1 - touched;
		CHECK(tz_age_top(pulse) < OLDEST, "the oldest cannot be older");
		age += age <= tz_age_top(pulse) && age < OLDEST;
		CHECK(youngest >= tz_age_least(age), "age %u after %llu passes", age,
			(unsigned long long)youngest);
		CHECK(oldest <= tz_age_most(age), "age %u until %llu passes", age,
			(unsigned long long)oldest);
		seen_least[age] |= youngest == tz_age_least(age);
		seen_most[age] |= oldest == tz_age_most(age);
	}
	CHECK(age == OLDEST, "it ends at %u", age);
	for (unsigned i = 1; touched == 323 && i < TZ_AGES; i++)
		CHECK(seen_least[i] && (seen_most[i] || i == OLDEST), "bounds of %u", i);
}

static void bounds(void)
{
	/* After 324 it is the same again. */
	for (uint64_t touched = 0; touched < 324; touched++)
		follow(touched);
}

/* ---- what a device holds ---- */

static void clock_at(struct device *d, uint64_t speed)
{
	tz_store_set_age_speed(d->store, speed);
}

static void count_now(struct device *d)
{
	uint64_t ticket = tz_store_count_ages(d->store);

	WAIT_FOR(NOW(d->stats->ages_counted) >= ticket, "it is not counted");
}

static unsigned age_of(const struct device *d, uint64_t page)
{
	return tz_entry_age(load(entry_of(d, page)));
}

/* Until everything with an object is as old as can be, and the clock has stopped, so that no pass
 * is on its way; it would run slowly again then. */
static void grow_old(struct device *d)
{
	clock_at(d, FAST_CLOCK);
	WAIT_FOR((count_now(d), NOW(d->stats->age_pages[OLDEST])) &&
		!NOW(d->stats->age_pages[0]) && atomic_load(&d->store->resting),
		"pages stay young");
	for (unsigned age = 0; age < OLDEST; age++)
		WAIT_FOR((count_now(d), !NOW(d->stats->age_pages[age])), "pages stay at age %u",
			age);
	WAIT_FOR(atomic_load(&d->store->aging.verified), "the clock does not stop");
	clock_at(d, 1);
}

static const uint32_t versions[] = { 1, 2, 3, 4, 5, 6, SMALL + 7, FORGED + 8, WORDS, WORDS + 1,
	WORDS + 2 };
#define VERSIONS (sizeof versions / sizeof *versions)

static void fill(struct device *d, struct model *m)
{
	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(d->store, 0), m, i, versions[i % VERSIONS]);
}

static struct tz_queue_stats sums(const struct device *d)
{
	struct tz_queue_stats q;

	gauges(d->stats, &q);
	return q;
}

/* ---- rises ---- */

static void check_histogram(struct device *d)
{
	struct tz_queue_stats q = sums(d);
	uint64_t pages = 0, bytes = 0;

	count_now(d);
	for (unsigned age = 0; age < TZ_AGES; age++) {
		pages += NOW(d->stats->age_pages[age]);
		bytes += NOW(d->stats->age_bytes[age]);
	}
	CHECK(pages == (uint64_t)(q.pages_now - q.kind_pages_now[TZ_KIND_SAME_WORD] -
		q.kind_pages_now[TZ_KIND_SAME_U32]), "%llu pages", (unsigned long long)pages);
	CHECK(bytes == (uint64_t)q.object_bytes_now, "%llu bytes, not %lld",
		(unsigned long long)bytes, (long long)q.object_bytes_now);
}

static void check_ages(const struct device *d, const struct model *m, unsigned age)
{
	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t entry = load(entry_of(d, m->first + i)), word = entry;
		CHECK(tz_entry_check(m->first + i, entry), "page %u", i);
		if (tz_entry_has_object(entry))
			CHECK(tz_entry_age(entry) == age, "page %u: %u, not %u", i,
				tz_entry_age(entry), age);
		else
			CHECK(word == tz_entry_same(m->first + i, tz_entry_word(entry)),
				"page %u is same-filled", i);
	}
}

/* All flips of an entry, in as many pages; two of the age together, too. What does not look sound
 * stays as it is to the bit. */
static void leave_damaged(struct device *d, struct model *m)
{
	uint64_t now[PAGES];

	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(d->store, 0), m, i, 1 + i % 6);
	for (unsigned i = 0; i < 64 + 3; i++) {
		flip(entry_of(d, i), i < 64 ? i : 53 + i % 3);
		if (i >= 64)
			flip(entry_of(d, i), 53 + (i + 1) % 3);
		now[i] = load(entry_of(d, i));
	}
	clock_at(d, FAST_CLOCK);
	WAIT_FOR(age_of(d, 100) == OLDEST, "page 100 stays young");
	clock_at(d, 1);
	for (unsigned i = 0; i < 64 + 3; i++) {
		CHECK(load(entry_of(d, i)) == now[i], "flip %u was changed", i);
		CHECK(look(tz_store_thread(d->store, 0), i, m->version[i]) == -1, "flip %u", i);
		flip(entry_of(d, i), i < 64 ? i : 53 + i % 3);
		if (i >= 64)
			flip(entry_of(d, i), 53 + (i + 1) % 3);
	}
}

static void rises(void)
{
	struct device d = make_device(FAR + 4096, 1, 0, "fast");
	struct model m = { .first = FAR }, near = { 0 };
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	WAIT_FOR(NOW(d.stats->ages_counted), "boundaries are not shown");
	CHECK(NOW(d.stats->age_least_ns[0]) == 0 && NOW(d.stats->age_least_ns[1]) == 0 &&
		NOW(d.stats->age_least_ns[5]) == 7200ull * 1000000000 &&
		NOW(d.stats->age_most_ns[0]) == 180ull * 1000000000 &&
		!NOW(d.stats->age_most_ns[OLDEST]), "boundaries");
	put(t, &m, 0, 1);		/* (so that the directory is there) */
	WAIT_FOR(tz_arena_directory_ready(&d.store->arena, FAR / TZ_TABLE_ENTRIES), "directory");
	fill(&d, &m);
	fill(&d, &near);
	check_histogram(&d);
	grow_old(&d);
	check_ages(&d, &m, OLDEST);
	check_ages(&d, &near, OLDEST);
	check_histogram(&d);
	compare(&d, &near, "growing old");
	check_ages(&d, &near, 0);
	check_ages(&d, &m, OLDEST);
	CHECK(!atomic_load(&d.store->resting), "the clock was not woken");
	check_histogram(&d);
	fill(&d, &m);
	check_ages(&d, &m, 0);
	leave_damaged(&d, &near);
	check_histogram(&d);
	compare(&d, &m, "all of it");
	compare(&d, &near, "all of it");
	end(&d);
}

/* ---- at once ---- */

static struct device now;
static struct model model;
static uint64_t freed_bits[PAGES / 64 + 2];
#define AT 20u		/* the page at which something happens */

static void read_it(void)
{
	CHECK(look(tz_store_thread(now.store, 0), AT, model.version[AT]) == 1, "read");
}

static void write_it(void)
{
	put(tz_store_thread(now.store, 0), &model, AT, 77);
}

static void write_it_again(void)
{
	put(tz_store_thread(now.store, 0), &model, AT, model.version[AT]);
}

static void discard_it(void)
{
	put(tz_store_thread(now.store, 0), &model, AT, 0);
}

/* As the clock would. */
static void age_it(void)
{
	_Atomic uint64_t *slot = (_Atomic uint64_t *)entry_of(&now, AT);
	uint64_t entry = atomic_load(slot);

	CHECK(atomic_compare_exchange_strong(slot, &entry,
		tz_entry_aged(AT, entry, tz_entry_age(entry) ^ 4)), "aging");
}

static void arm(const char *point, void (*what)(void))
{
	atomic_store(&acted, 0);
	atomic_store(&action, what);
	atomic_store(&act_at, point);
}

static void expect_met(const char *point)
{
	CHECK(!atomic_load(&act_at) && atomic_load(&acted), "%s was not met", point);
}

/* One page only, at a time: it is the one that is held up. */
static void only_page(uint32_t version)
{
	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(now.store, 0), &model, i, i == AT ? version : 0);
}

static void aging_at_once(void)
{
	static void (*const what[])(void) = { write_it, write_it_again, discard_it };

	for (unsigned i = 0; i < sizeof what / sizeof *what; i++) {
		only_page(3);
		arm("aging", what[i]);
		clock_at(&now, FAST_CLOCK);
		WAIT_FOR(atomic_load(&acted), "nothing grows older");
		clock_at(&now, 1);
		compare(&now, &model, "aging");
	}
	only_page(3);
	grow_old(&now);
	CHECK(age_of(&now, AT) == OLDEST, "it is not old");
}

static uint64_t recompress(struct device *d, const char *algorithm, uint64_t idle_ns)
{
	char why[216] = "";
	uint64_t least;
	int err;
	struct tz_recompression *job = tz_store_prepare_recompress(d->store, algorithm, idle_ns,
		100, &err, why, sizeof why);

	CHECK(job, "recompress: %d %s", err, why);
	return tz_store_recompress(d->store, job, &least);
}

static void wait_recompressed(struct device *d, uint64_t ticket)
{
	WAIT_FOR(NOW(d->stats->recompress_done) >= ticket, "it does not end");
}

static unsigned kind_of_page(uint64_t page)
{
	return tz_entry_kind(load(entry_of(&now, page)));
}

/* 3: of a texture that dense packs better than lz4. */
static void rewriting_at_once(void)
{
	static const struct { void (*what)(void); unsigned kind; } cases[] = {
		{ write_it, TZ_KIND_LZ4 }, { write_it_again, TZ_KIND_LZ4 },
		{ discard_it, TZ_KIND_EMPTY }, { age_it, TZ_KIND_LZ4 } };

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		only_page(3);
		CHECK(kind_of_page(AT) == TZ_KIND_LZ4, "it is of kind %u", kind_of_page(AT));
		arm("rewriting", cases[i].what);
		wait_recompressed(&now, recompress(&now, "dense", 0));
		expect_met("rewriting");
		CHECK(kind_of_page(AT) == cases[i].kind, "case %u: kind %u", i, kind_of_page(AT));
		compare(&now, &model, "rewriting");
	}
	wait_recompressed(&now, recompress(&now, "dense", 0));
	only_page(3);
	grow_old(&now);
	arm("rewriting", read_it);
	wait_recompressed(&now, recompress(&now, "dense", 0));
	expect_met("rewriting");
	CHECK(kind_of_page(AT) == TZ_KIND_LZ4 && age_of(&now, AT) == 0, "it was not left alone");
	wait_recompressed(&now, recompress(&now, "dense", 0));
	CHECK(kind_of_page(AT) == TZ_KIND_DENSE, "it was left alone");
}

/* An age that changes keeps nobody from moving, sharing or collecting a page. */
static void others_at_once(void)
{
	struct tz_store_thread *collector = tz_store_collector(now.store);
	char why[216];
	unsigned age;

	only_page(3);
	CHECK(tz_store_set_dedup(now.store, 1, why, sizeof why) == 0, "%s", why);
	put(tz_store_thread(now.store, 0), &model, AT, SHARE);
	grow_old(&now);
	wait_for_reserve(&now);		/* what is shared needs room */
	arm("sharing", age_it);
	put(tz_store_thread(now.store, 0), &model, AT + 1, SHARE);
	expect_met("sharing");
	age = age_of(&now, AT);
	CHECK(tz_entry_is_shared(load(entry_of(&now, AT))) && age == (OLDEST ^ 4),
		"page %u does not share, or has age %u", AT, age);
	CHECK(age_of(&now, AT + 1) == 0, "a page that is written is young");
	CHECK(sums(&now).dup_pages_now == 1, "they do not share");
	compare(&now, &model, "sharing");
	tz_store_set_freed(now.store, freed_bits);
	__atomic_fetch_or(&freed_bits[0], 1ull << AT, __ATOMIC_SEQ_CST);
	arm("collecting", age_it);
	tz_store_begin(collector);
	CHECK(tz_store_collect(collector, AT), "it was not collected");
	tz_store_end(collector);
	expect_met("collecting");
	model.version[AT] = 0;
	tz_store_set_freed(now.store, NULL);
	compare(&now, &model, "collecting");
	CHECK(tz_store_set_dedup(now.store, 0, why, sizeof why) == 0, "%s", why);
}

static uint64_t offsets[PAGES];

/* The first object that moved has moved, and no other has. */
static void count_moved(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PAGES; i++)
		n += model.version[i] && tz_entry_offset(load(entry_of(&now, i))) != offsets[i];
	CHECK(n == 1, "%u have moved", n);
}

static void age_all(void)
{
	for (unsigned i = 0; i < PAGES; i++) {
		_Atomic uint64_t *slot = (_Atomic uint64_t *)entry_of(&now, i);
		uint64_t entry = atomic_load(slot);
		offsets[i] = tz_entry_offset(entry);
		if (model.version[i])
			CHECK(atomic_compare_exchange_strong(slot, &entry,
				tz_entry_aged(i, entry, 5)), "aging");
	}
	arm("moving", count_moved);
}

static _Atomic int released;

static void wait_for_release(void)
{
	WAIT_FOR(atomic_load(&released), "nobody goes on");
}

/* Of segments full of pages, those stay that make them worth emptying. */
static void moving_at_once(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(now.store, 0), &model, i, FORGED + i);
	arm("pass", wait_for_release);
	for (unsigned i = 0; i < PAGES; i++)
		if (i % 16 != AT % 16)
			put(tz_store_thread(now.store, 0), &model, i, 0);
	uint64_t ticket = tz_store_compact(now.store);
	WAIT_FOR(!atomic_load(&act_at), "no pass");
	arm("moving", age_all);
	atomic_store(&released, 1);
	WAIT_FOR(NOW(now.stats->compact_done) >= ticket, "it is not done");
	expect_met("moving");
	compare(&now, &model, "moving");
}

static void at_once(void)
{
	now = make_device(4096, 1, 0, "lz4");
	model = (struct model){ 0 };
	aging_at_once();
	rewriting_at_once();
	others_at_once();
	moving_at_once();
	end(&now);
}

/* ---- rewrites ---- */

static void refused(struct device *d, const char *algorithm, uint64_t idle_ns, unsigned percent,
	int expected)
{
	char why[216] = "";
	int err;

	CHECK(!tz_store_prepare_recompress(d->store, algorithm, idle_ns, percent, &err, why,
		sizeof why) && err == expected && why[0], "%s: %d, not %d", algorithm, err,
		expected);
}

static void check_rewritten(const struct device *d, const struct model *m, const uint64_t *before,
	unsigned kind)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t entry = load(entry_of(d, m->first + i));
		unsigned was = tz_entry_units(before[i]), is = tz_entry_units(entry);
		if (entry == before[i])
			continue;
		n++;
		CHECK(tz_entry_age(before[i]) == OLDEST, "page %u was in use", i);
		CHECK(tz_entry_age(entry) == OLDEST, "page %u is young now", i);
		CHECK(tz_entry_kind(entry) == kind, "page %u is of kind %u", i,
			tz_entry_kind(entry));
		CHECK((was - is) * 16 >= was && is < was, "page %u: %u units, then %u", i, was, is);
	}
	CHECK(n > 10 && n < PAGES / 2, "%u are rewritten", n);
	CHECK(n == NOW(d->stats->dense.pages), "%llu are counted",
		(unsigned long long)NOW(d->stats->dense.pages));
}

static void rewrite_with(const char *algorithm, unsigned kind)
{
	struct device d = make_device(4096, 2, 0, "lz4");
	struct model m = { 0 };
	uint64_t before[PAGES], bytes, half = 7200ull * 1000000000;

	fill(&d, &m);
	grow_old(&d);
	wait_for_reserve(&d);
	for (unsigned i = 0; i < PAGES; i += 2)
		CHECK(look(tz_store_thread(d.store, 0), i, m.version[i]) == 1, "read");
	for (unsigned i = 0; i < PAGES; i++)
		before[i] = load(entry_of(&d, i));
	bytes = (uint64_t)sums(&d).object_bytes_now;
	wait_recompressed(&d, recompress(&d, algorithm, half));
	check_rewritten(&d, &m, before, kind);
	CHECK(bytes - NOW(d.stats->dense.saved) == (uint64_t)sums(&d).object_bytes_now,
		"%llu bytes saved", (unsigned long long)NOW(d.stats->dense.saved));
	CHECK(NOW(d.stats->dense.cpu_ns) && !NOW(d.stats->recompress_stopped), "counters");
	compare(&d, &m, "recompression");
	uint64_t same, n = stored(&m, &same);
	check_accounting(&d, n, same);
	end(&d);
}

/* What they would have to read with a dictionary of the device's, or what they share, stays. */
static void leave_shared(void)
{
	struct device d = make_device(4096, 1, 0, "lz4");
	struct model m = { 0 };
	char why[216];

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++) {
		wait_for_reserve(&d);		/* for the shared object */
		put(tz_store_thread(d.store, 0), &m, i, COPY + 3);
	}
	wait_recompressed(&d, recompress(&d, "dense", 0));
	CHECK(!NOW(d.stats->dense.pages), "what is shared was rewritten");
	compare(&d, &m, "recompression");
	end(&d);
}

static void hold_up(void)
{
	refused(&now, "dense", 0, 10, -EBUSY);
	CHECK(tz_store_stop_recompress(now.store), "nothing to stop");
}

static void stop_it(void)
{
	now = make_device(1 << 16, 1, 0, "lz4");
	model = (struct model){ 0 };
	CHECK(!tz_store_stop_recompress(now.store), "something to stop");
	for (uint64_t i = 0; i < 1 << 13; i++)
		put(tz_store_thread(now.store, 0), &(struct model){ .first = i }, 0, 3);
	refused(&now, "fast", 0, 10, -EINVAL);
	refused(&now, "dense", 0, 0, -EINVAL);
	refused(&now, "dense", 0, 101, -EINVAL);
	refused(&now, "dense", 86400ull * 1000000000, 10, -EINVAL);
	refused(&now, "tar", 0, 10, -EINVAL);
	refused(&now, "zstd:99", 0, 10, -EINVAL);
	arm("rewriting", hold_up);
	wait_recompressed(&now, recompress(&now, "dense", 0));
	expect_met("rewriting");
	CHECK(NOW(now.stats->recompress_stopped) && NOW(now.stats->dense.pages) < 1 << 13,
		"it was not stopped");
	wait_recompressed(&now, recompress(&now, "dense", 0));
	CHECK(!NOW(now.stats->recompress_stopped), "it was stopped");
	/* In the midst of one the device ends. */
	for (uint64_t i = 0; i < 1 << 13; i++)
		put(tz_store_thread(now.store, 0), &(struct model){ .first = i }, 0, 3);
	recompress(&now, "dense", 0);
	end(&now);
}

static void rewrites(void)
{
	rewrite_with("dense", TZ_KIND_DENSE);
	if (tz_zstd_version())
		rewrite_with("zstd:3", TZ_KIND_ZSTD);
	leave_shared();
	stop_it();
}

/* ---- threads ---- */

#define WORKERS 3u
#define OWNED 512u

struct owner {
	struct device *d;
	unsigned index, rounds;
};

static _Atomic unsigned at_work;

static void *own(void *arg)
{
	struct owner *o = arg;
	struct tz_store_thread *t = tz_store_thread(o->d->store, o->index);
	struct model *m = calloc(1, sizeof *m);
	uint64_t state = o->index + 1;

	m->first = o->index * OWNED;
	for (unsigned i = 0; i < o->rounds; i++) {
		unsigned page = (unsigned)(next(&state) % 64);
		uint32_t what = (uint32_t)(next(&state) % 8);
		CHECK(look(t, m->first + page, m->version[page]) == 1, "page %u of %u", page,
			o->index);
		if (what < 3)
			put(t, m, page, COPY + 1 + what);
		else if (what < 6)
			put(t, m, page, what);
		else if (what == 6)
			put(t, m, page, 0);
		if (i % 64 == 0)
			sched_yield();
	}
	for (unsigned i = 0; i < 64; i++)
		CHECK(look(t, m->first + i, m->version[i]) == 1, "page %u at the end", i);
	free(m);
	at_work--;
	return NULL;
}

static void threads(void)
{
	struct device d = make_device(OWNED * WORKERS, WORKERS, 0, "lz4");
	struct owner owners[WORKERS];
	pthread_t ids[WORKERS];
	struct timespec a_while = { 0, 2000000 };
	unsigned runs = 0;
	char why[216];

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	clock_at(&d, FAST_CLOCK);
	at_work = WORKERS;
	for (unsigned i = 0; i < WORKERS; i++) {
		owners[i] = (struct owner){ &d, i, 60000 / share_of_work() };
		CHECK(!pthread_create(&ids[i], NULL, own, &owners[i]), "thread");
	}
	for (; atomic_load(&at_work); runs++) {
		const char *to = runs % 2 && tz_zstd_version() ? "zstd:1" : "dense";
		wait_recompressed(&d, recompress(&d, to, 0));
		tz_store_compact(d.store);
		count_now(&d);
		nanosleep(&a_while, NULL);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(ids[i], NULL);
	/* On a busy machine they may have been through before the first run. */
	wait_for_reserve(&d);
	wait_recompressed(&d, recompress(&d, "dense", 0));
	CHECK(NOW(d.stats->dense.pages), "nothing was rewritten");
	printf("%u runs, %llu pages rewritten\n", runs,
		(unsigned long long)NOW(d.stats->dense.pages));
	end(&d);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	bounds();
	rises();
	at_once();
	rewrites();
	threads();
	puts("ages: all right");
	return 0;
}
