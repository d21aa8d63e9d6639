/* test_attach_stores.c - a server is stopped before each store that it makes to the arena, and
 * another one attaches what is there.
 *
 * While it writes, overwrites, discards, shares, packs groups, grows, compacts, makes pages older,
 * recompresses them, writes them to a backing file and has them come back, takes pages of the table
 * and gives them back, changes settings: a copy of the arena is checked (tz_check_arena), attached
 * and compared with what was written. What the store's own threads do is among it.
 *
 * The arena is mapped read-only for that: a store is a SIGSEGV, upon which it is let through alone
 * (the trap flag: x86-64 only), under a lock. What is populated and punched out is one step, with a
 * copy before and after (tz_arena_populate and tz_arena_release are wrapped by the linker:
 * meson.build). Each stop is counted by its kind, and each kind must have been met.
 *
 * The reserve's thread acts when it likes, and nothing here depends on when: a part begins with the
 * store at rest, or with the kernel refusing whatever that thread asks for (`refuse`), and ends
 * when what it is for has been seen.
 */
#include "attach_pages.h"

#include <signal.h>
#include <ucontext.h>

#if defined(__x86_64__) && !UNDER_TSAN
#define CAN_STEP 1
#else
#define CAN_STEP 0
#endif

int __real_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __real_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

#if CAN_STEP

/* ---- what a stop is for ---- */

enum kind {
	HEAD, DIRECTORY, ENTRY, OBJECT, CLEARED, CLEARED_USED,
	IN_USED, IN_NEW, TAKEN_AWAY,
	DIRECTORY_MADE, SEGMENT_MADE, SPARE_MADE, SPARE_PUNCHED, SEGMENT_PUNCHED, TORN_PUNCHED,
	KINDS
};

static const char *const kinds[KINDS] = {
	[HEAD] = "stores to the head",
	[DIRECTORY] = "stores to the directory",
	[ENTRY] = "stores to entries of the table",
	[OBJECT] = "stores to objects",
	[CLEARED] = "stores that clear a page of the table",
	[CLEARED_USED] = "the same, where an object was",
	/* of those to the directory */
	[IN_USED] = "pages of the table taken in a segment that has others",
	[IN_NEW] = "pages of the table taken in a new segment",
	[TAKEN_AWAY] = "pages of the table taken away",
	[DIRECTORY_MADE] = "pages of the directory mapped",
	/* two stops each: before and after */
	[SEGMENT_MADE] = "segments populated",
	[SPARE_MADE] = "spare pages of the table populated",
	[SPARE_PUNCHED] = "spare pages of the table punched out",
	[SEGMENT_PUNCHED] = "segments punched out",
	[TORN_PUNCHED] = "torn segments punched out",
};

static struct {
	uint8_t *_Atomic base;		/* of the arena that may be watched; NULL: there is none */
	uint64_t size;
	struct tz_store *store;
	int fd;
	pthread_mutex_t one;		/* at a time; guards what follows */
	int active;		/* it is read-only, but for what is let through */
	int refuse;		/* the kernel has no memory, and takes none */
	/* what it must hold: one page may be of either version */
	struct model model;
	unsigned flying;		/* PAGES: none; more: one that is not among them */
	uint32_t version;
	const char *algorithm, *other_algorithm, *doing;
	uint64_t limit, other_limit;
	uint64_t others;		/* same-filled pages that are not in the model */
	uint64_t stops, met[KINDS];
	char backing[64];		/* path of the file that it has; "": none */
	uint64_t two_groups;		/* of these with two groups in a window */
} watch = { .one = PTHREAD_MUTEX_INITIALIZER };

static char copied_backing[80];

static uint32_t segment_at(uint64_t offset)
{
	return (uint32_t)((offset - watch.store->arena.segment_offset) / TZ_SEGMENT_SIZE);
}

/* Whether the directory names the page of the table that this is in. */
static int is_named(uint64_t offset)
{
	const struct tz_segment *m = &watch.store->alloc.segments[segment_at(offset)];
	uint64_t in = offset - watch.store->arena.segment_offset;
	uint32_t index = tz_alloc_table_index(m, in % TZ_SEGMENT_SIZE / TZ_PAGE_SIZE);
	uint64_t entry = atomic_load(&watch.store->arena.directory[index]);

	return tz_entry_offset(entry) == (offset & ~4095ull);
}

/* Of a store to `offset`, where this word is still there. */
static enum kind kind_of(uint64_t offset, uint64_t word)
{
	const struct tz_arena *arena = &watch.store->arena;
	uint64_t directory = arena->head.directory_offset;

	if (offset < directory)
		return HEAD;
	if (offset < arena->segment_offset)
		return tz_arena_directory_ready(arena, (offset - directory) / 8) ? DIRECTORY
			: DIRECTORY_MADE;
	if (tz_alloc_state(&watch.store->alloc, segment_at(offset)) != TZ_SEGMENT_TABLE)
		return OBJECT;
	return is_named(offset) ? ENTRY : word ? CLEARED_USED : CLEARED;
}

/* What a store to the directory has done. */
static void count_change(uint64_t before, uint64_t now)
{
	if (before && !now)
		watch.met[TAKEN_AWAY]++;
	if (before || !now)
		return;
	uint32_t pages = __atomic_load_n(&watch.store->alloc.segments[
		segment_at(tz_entry_offset(now))].table.pages, __ATOMIC_RELAXED);
	watch.met[pages & (pages - 1) ? IN_USED : IN_NEW]++;
}

static enum kind kind_of_populated(uint64_t len)
{
	return len % TZ_SEGMENT_SIZE ? SPARE_MADE : SEGMENT_MADE;
}

/* Of what is to be punched out. A segment is torn if the file has a hole in it. */
static enum kind kind_of_released(uint64_t offset, uint64_t len)
{
	if (len % TZ_SEGMENT_SIZE)
		return SPARE_PUNCHED;
	return (uint64_t)lseek(watch.fd, (off_t)offset, SEEK_HOLE) < offset + len ? TORN_PUNCHED
		: SEGMENT_PUNCHED;
}

/* ---- a stop ---- */

/* It works as any other. */
static void try_out(struct device *e)
{
	struct tz_store_thread *t = tz_store_thread(e->store, 0);
	uint64_t same, pages = stored(&watch.model, &same);

	put(t, &(struct model){ .first = watch.model.first }, 0, watch.model.version[0]);
	if (watch.flying == PAGES)
		check_accounting(e, pages + watch.others, same + watch.others);
	for (unsigned i = 0; i < PAGES; i++)
		tz_store_discard(t, watch.model.first + i);
	if (watch.flying <= PAGES)
		check_accounting(e, watch.others, watch.others);
	/* (The housekeeper may be at work on shared objects.) */
	WAIT_FOR(holds_nothing(e->stats), "%s: objects stay", watch.doing);
}

static void compare_copy(struct device *e)
{
	struct tz_store_thread *t = tz_store_thread(e->store, 0);

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t page = watch.model.first + i;
		int result = look(t, page, watch.model.version[i]);
		if (result != 1 && i == watch.flying)
			result = look(t, page, watch.version);
		CHECK(result == 1, "%s, stop %llu: page %llu: %d", watch.doing,
			(unsigned long long)watch.stops, (unsigned long long)page, result);
	}
	CHECK(!strcmp(e->stats->algorithm, watch.algorithm) ||
		!strcmp(e->stats->algorithm, watch.other_algorithm), "algorithm %s",
		e->stats->algorithm);
	CHECK(NOW(e->stats->mem_limit) == watch.limit ||
		NOW(e->stats->mem_limit) == watch.other_limit, "mem_limit");
}

/* Whether entries of a window name two groups now. */
static int has_two_groups(void)
{
	uint64_t first = 0;
	int damaged = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t page = watch.model.first + i;
		_Atomic uint64_t *slot = tz_table_slot(watch.store, page, &damaged);
		uint64_t entry = slot ? atomic_load(slot) : 0;
		if (page % TZ_GROUP_PAGES == 0)
			first = 0;
		if (!tz_entry_is_grouped(entry))
			continue;
		if (first && tz_entry_offset(entry) != first)
			return 1;
		first = tz_entry_offset(entry);
	}
	return 0;
}

/* A copy of the arena as it is at this instant. */
static void check_copy(void)
{
	int copy = copy_of(watch.fd);
	struct tz_check_problem first[2] = { 0 };
	struct tz_attach a = { .problems = first, .room = 1 };
	uint64_t n = problems_of(copy, first, 2);
	int two = 0;

	if (watch.backing[0])
		copy_backing(copy, copied_backing);
	/* (One copy of the head may be half written.) */
	CHECK(n == 0 || (n == 1 && strstr(first[0].what, "of the head is damaged")),
		"%s, stop %llu: page %llu: %s", watch.doing, (unsigned long long)watch.stops,
		(unsigned long long)first[0].page, first[0].what);
	struct device e = attach(copy, 1, &a);
	CHECK(a.nr_problems == 0 && a.lost == 0 && a.lost_before == 0, "%s, stop %llu: %s",
		watch.doing, (unsigned long long)watch.stops, first[0].what);
	compare_copy(&e);
	if (has_two_groups())
		two = watch.two_groups++ % 4 == 0;
	if (watch.stops % 256 == 0 || two)
		try_out(&e);
	end(&e);
	watch.stops++;
}

/* All of that happens in a thread of its own: the one that was stopped may be on a small stack. */
static struct { _Atomic uint32_t asked, done; int stop; pthread_t thread; } checker;

static void *run_checker(void *arg)
{
	uint32_t done = 0;

	(void)arg;
	for (;;) {
		while (atomic_load(&checker.asked) == done)
			tz_futex(&checker.asked, FUTEX_WAIT_PRIVATE, done, NULL);
		if (checker.stop)
			return NULL;
		check_copy();
		atomic_store(&checker.done, ++done);
		tz_futex(&checker.done, FUTEX_WAKE_PRIVATE, 1, NULL);
	}
}

static void wake_checker(void)
{
	atomic_fetch_add(&checker.asked, 1);
	tz_futex(&checker.asked, FUTEX_WAKE_PRIVATE, 1, NULL);
}

/* With watch.one held. */
static void stop_here(void)
{
	uint32_t done = atomic_load(&checker.done);

	wake_checker();
	while (atomic_load(&checker.done) == done)
		tz_futex(&checker.done, FUTEX_WAIT_PRIVATE, done, NULL);
}

/* ---- one store at a time ---- */

static void protect(uint64_t offset, uint64_t len, int prot)
{
	uint8_t *base = atomic_load(&watch.base);

	CHECK(mprotect(base + offset, len, prot) == 0, "mprotect of %llu bytes at %llu: %s",
		(unsigned long long)len, (unsigned long long)offset, strerror(errno));
}

#define TRAP_FLAG 0x100
#define FAULTS_MOST 1000u

/* What this thread's store needs, and where it goes. */
static _Thread_local struct {
	unsigned n, faults;
	uint64_t page[4];
	enum kind kind;
	uint64_t *word, before;
} opened;

/* Takes the lock for a store. 0: nothing is watched any more (that ended while this thread waited),
 * so the store goes through by itself. */
static int begin_store(uint64_t offset)
{
	pthread_mutex_lock(&watch.one);
	if (!watch.active) {
		pthread_mutex_unlock(&watch.one);
		return 0;
	}
	opened.faults = 0;
	opened.word = (uint64_t *)(void *)(atomic_load(&watch.base) + (offset & ~7ull));
	opened.before = load(opened.word);
	opened.kind = kind_of(offset, opened.before);
	watch.met[opened.kind]++;
	stop_here();
	return 1;
}

static void on_segv(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;
	uint8_t *base = atomic_load(&watch.base);
	uint64_t offset = (uint64_t)((uint8_t *)info->si_addr - base);

	if (!base || offset >= watch.size || opened.n == 4 || ++opened.faults > FAULTS_MOST) {
		sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
		return;		/* an ordinary one: once more, and it ends the test */
	}
	if (!opened.n && !begin_store(offset))
		return;
	opened.page[opened.n] = offset & ~4095ull;
	protect(opened.page[opened.n++], 4096, PROT_READ | PROT_WRITE);
	c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	(void)signal;
	(void)info;
	if (opened.kind == DIRECTORY)
		count_change(opened.before, load(opened.word));
	while (opened.n)
		protect(opened.page[--opened.n], 4096, PROT_READ);
	opened.faults = 0;
	c->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	pthread_mutex_unlock(&watch.one);
}

/* The kernel does not write to what is read-only. (When nothing is watched, the real step is taken
 * under the lock all the same: watching may begin at any time.) */
static int in_one_step(struct tz_arena *a, uint64_t offset, uint64_t len,
	int (*step)(struct tz_arena *a, uint64_t offset, uint64_t len), enum kind kind)
{
	int rc;

	protect(offset, len, PROT_READ | PROT_WRITE);
	stop_here();
	rc = step(a, offset, len);
	protect(offset, len, PROT_READ);
	stop_here();
	if (rc == 0)
		watch.met[kind]++;
	return rc;
}

/* Whether it is the arena that may be watched; if so, with the lock. */
static int lock_watched(const struct tz_arena *a)
{
	if (a->base != atomic_load(&watch.base))
		return 0;
	pthread_mutex_lock(&watch.one);
	if (a->base == atomic_load(&watch.base))
		return 1;
	pthread_mutex_unlock(&watch.one);
	return 0;
}

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

	if (!lock_watched(a))
		return __real_tz_arena_populate(a, offset, len);
	if (watch.refuse)
		rc = -ENOMEM;
	else if (watch.active)
		rc = in_one_step(a, offset, len, __real_tz_arena_populate, kind_of_populated(len));
	else
		rc = __real_tz_arena_populate(a, offset, len);
	pthread_mutex_unlock(&watch.one);
	return rc;
}

int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

	if (!lock_watched(a))
		return __real_tz_arena_release(a, offset, len);
	if (watch.refuse)
		rc = -ENOMEM;
	else if (watch.active)
		rc = in_one_step(a, offset, len, __real_tz_arena_release,
			kind_of_released(offset, len));
	else
		rc = __real_tz_arena_release(a, offset, len);
	pthread_mutex_unlock(&watch.one);
	return rc;
}

/* ---- what is watched ---- */

static void begin(const struct device *d, uint64_t first)
{
	struct tz_range r = tz_store_arena(d->store);

	pthread_mutex_lock(&watch.one);
	watch.fd = d->fd;
	watch.store = d->store;
	watch.size = r.to - r.from;
	watch.model = (struct model){ .first = first };
	watch.algorithm = watch.other_algorithm = "lz4";
	watch.limit = watch.other_limit = LIMIT;
	watch.flying = PAGES;
	watch.others = 0;
	atomic_store(&watch.base, (uint8_t *)r.from);
	pthread_mutex_unlock(&watch.one);
}

static void finish(struct device *d)
{
	compare(d, &watch.model, "all of it");
	pthread_mutex_lock(&watch.one);
	atomic_store(&watch.base, NULL);
	pthread_mutex_unlock(&watch.one);
	end(d);
}

static void watch_it(const char *doing)
{
	pthread_mutex_lock(&watch.one);
	watch.doing = doing;
	watch.active = 1;
	protect(0, watch.size, PROT_READ);
	pthread_mutex_unlock(&watch.one);
}

/* After everything that was to be done is done. */
static void stop_watching(unsigned least)
{
	static uint64_t before;

	pthread_mutex_lock(&watch.one);
	stop_here();
	protect(0, watch.size, PROT_READ | PROT_WRITE);
	watch.active = 0;
	pthread_mutex_unlock(&watch.one);
	printf("%s: %llu stops\n", watch.doing, (unsigned long long)(watch.stops - before));
	CHECK(watch.stops - before > least, "it was not watched");
	before = watch.stops;
}

/* (The reserve's thread may have given up by then, and sleep until something happens.) */
static void refuse(int on)
{
	pthread_mutex_lock(&watch.one);
	watch.refuse = on;
	pthread_mutex_unlock(&watch.one);
	if (!on)
		tz_reserve_wake(&watch.store->reserve);
}

static uint64_t met(enum kind kind)
{
	uint64_t n;

	pthread_mutex_lock(&watch.one);
	n = watch.met[kind];
	pthread_mutex_unlock(&watch.one);
	return n;
}

#define WAIT_FOR_MORE(kind, before) WAIT_FOR(met(kind) > (before), "no %s", kinds[kind])

static void fly(unsigned i, uint32_t version)
{
	pthread_mutex_lock(&watch.one);
	watch.version = version;
	watch.flying = i;
	pthread_mutex_unlock(&watch.one);
}

/* A write or discard under watch. */
static void change(struct tz_store_thread *t, unsigned i, uint32_t version)
{
	fly(i, version);
	put(t, &(struct model){ .first = watch.model.first }, i, version);
	pthread_mutex_lock(&watch.one);
	watch.model.version[i] = version;
	watch.flying = PAGES;
	pthread_mutex_unlock(&watch.one);
}

/* The page that is the only one of its page of the table: one more, or one less. */
static void change_other(struct tz_store_thread *t, uint64_t index, int there)
{
	struct model other = { .first = index * TZ_TABLE_ENTRIES };

	fly(PAGES + 1, 0);
	put(t, &other, 0, there ? WORDS : 0);
	pthread_mutex_lock(&watch.one);
	watch.others += there ? 1 : UINT64_MAX;
	watch.flying = PAGES;
	pthread_mutex_unlock(&watch.one);
}

static void compact(struct device *d)
{
	uint64_t ticket = tz_store_compact(d->store);

	WAIT_FOR(NOW(d->stats->compact_done) >= ticket, "it is not done");
}

/* ---- the reserve's thread ---- */

enum { AT_REST = 2 };		/* spare pages of the table, when the device is idle */

static unsigned spare(const struct device *d)
{
	return atomic_load(&d->store->alloc.table_spare);
}

/* Pages of table segments that are not populated. */
static uint64_t holes(const struct device *d)
{
	return NOW(d->store->alloc.table_holes);
}

static void wait_for_rest(const struct device *d)
{
	WAIT_FOR(spare(d) == AT_REST && atomic_load(&d->store->alloc.spare_low) == AT_REST,
		"%u spare pages of the table", spare(d));
}

/* ---- the parts ---- */

static void watch_writes(struct tz_store_thread *t)
{
	watch_it("write");
	change(t, 200, SMALL + 1);
	change(t, 201, WORDS);
	change(t, 202, WORDS + 2);		/* a word that takes an object */
	change(t, 203, FORGED);
	stop_watching(10);
	watch_it("overwrite");
	change(t, 200, SMALL + 2);
	change(t, 201, 3);
	change(t, 202, SMALL + 4);
	change(t, 5, WORDS + 1);
	stop_watching(20);
	watch_it("discard");
	for (unsigned i = 0; i < 10; i++)
		change(t, i, 0);
	stop_watching(5);
}

/* The model's pages are on both sides of the boundary of two pages of the directory, and of the
 * table. The table's page is one of the two that are spare: more are populated then, and punched
 * out when the device is idle. */
static void watch_table(struct device *d, struct tz_store_thread *t)
{
	uint64_t made, punched, in_used = met(IN_USED), gone = met(TAKEN_AWAY);

	CHECK(!tz_arena_directory_ready(&d->store->arena, (watch.model.first + PAGES - 1) /
		TZ_TABLE_ENTRIES), "it is there already");
	wait_for_rest(d);
	made = met(SPARE_MADE);
	punched = met(SPARE_PUNCHED);
	watch_it("new page of the table and the directory");
	change(t, PAGES - 1, SMALL + 9);
	WAIT_FOR_MORE(SPARE_MADE, made);
	WAIT_FOR_MORE(SPARE_PUNCHED, punched);
	stop_watching(40);
	CHECK(met(IN_USED) == in_used + 1, "it is in another segment");
	CHECK(load(directory_of(d, watch.model.first + PAGES - 1)), "there is none");
	watch_it("page of the table taken away");
	change(t, PAGES - 1, 0);
	compact(d);
	stop_watching(3);
	CHECK(met(TAKEN_AWAY) == gone + 1, "none is taken away");
	CHECK(!load(directory_of(d, watch.model.first + PAGES - 1)), "it is still there");
}

/* Until all pages of the table's segment are in use. *index: the next page of the table. */
static void fill_table(struct device *d, struct tz_store_thread *t, uint64_t *index)
{
	for (;;) {
		WAIT_FOR(spare(d) || !holes(d), "no spare page");
		if (!spare(d) && !holes(d))
			return;
		change_other(t, (*index)++, 1);
	}
}

/* All that is in reserve has held objects: nothing is populated or punched out from here on. */
static void use_reserve(struct device *d, struct tz_store_thread *t, uint64_t index)
{
	struct model dirt = { .first = index * TZ_TABLE_ENTRIES + 1 };
	unsigned n;

	refuse(1);
	for (n = 0; NOW(d->stats->reserve_bytes); n++) {
		CHECK(n < PAGES, "the reserve does not get smaller");
		put(t, &dirt, n, FORGED + n);
	}
	while (n--)
		put(t, &dirt, n, 0);
	WAIT_FOR(NOW(d->stats->reserve_bytes), "nothing comes back");
}

/* A page of the table in another segment, where objects were. That is its only one, and when it is
 * gone, so is the segment, of which most has been punched out before. */
static void watch_table_segment(struct device *d, struct tz_store_thread *t)
{
	uint64_t index = 100, in_new = met(IN_NEW), cleared = met(CLEARED_USED), punched, torn;

	change_other(t, index++, 1);
	fill_table(d, t, &index);
	use_reserve(d, t, 100);
	watch_it("page of the table in a segment that was in use");
	change_other(t, index, 1);
	punched = met(SPARE_PUNCHED);
	refuse(0);
	WAIT_FOR_MORE(SPARE_PUNCHED, punched);
	stop_watching(40);
	CHECK(met(IN_NEW) == in_new + 1, "there was room in another");
	CHECK(met(CLEARED_USED) > cleared, "it was a fresh one");
	wait_for_rest(d);
	torn = met(TORN_PUNCHED);
	watch_it("torn segment");
	change_other(t, index, 0);
	compact(d);
	WAIT_FOR_MORE(TORN_PUNCHED, torn);
	stop_watching(4);
}

/* Until there is no room, nor a segment in reserve. The write that is waiting for one gets it. */
static void watch_growth(struct tz_store_thread *t)
{
	uint8_t page[4096] __attribute__((aligned(8)));
	uint64_t made;
	unsigned i;
	int rc = 0;

	refuse(1);
	for (i = 20; rc == 0; i += rc == 0) {
		CHECK(i < PAGES - 20, "the reserve does not get smaller");
		page_of(page, watch.model.first + i, FORGED + i);
		tz_store_begin(t);
		rc = tz_store_write(t, watch.model.first + i, page);
		tz_store_end(t);
		if (rc == 0)
			watch.model.version[i] = FORGED + i;
	}
	CHECK(rc == -EAGAIN, "write: %d", rc);
	made = met(SEGMENT_MADE);
	watch_it("new segment");
	refuse(0);
	change(t, i, FORGED + i);
	change(t, i + 1, FORGED + i + 1);
	WAIT_FOR_MORE(SEGMENT_MADE, made);
	stop_watching(50);
}

static void watch_compaction(struct device *d, struct tz_store_thread *t)
{
	uint64_t before, punched;

	for (unsigned i = 0; i < PAGES - 60; i++)
		put(t, &watch.model, i, i % 8 == 0 ? SMALL + i : FORGED + i);
	before = NOW(d->stats->pages_compacted);
	punched = met(SEGMENT_PUNCHED);
	watch_it("compaction");
	for (unsigned i = 0; i < PAGES - 60; i++)
		if (i % 8)
			change(t, i, 0);
	compact(d);
	WAIT_FOR_MORE(SEGMENT_PUNCHED, punched);
	stop_watching(250);
	CHECK(NOW(d->stats->pages_compacted) > before, "nothing was compacted");
}

static void watch_settings(struct device *d)
{
	char why[216];

	watch.other_algorithm = "fast";
	watch_it("algorithm");
	CHECK(tz_store_set_algorithm(d->store, "fast", why, sizeof why) == 0, "%s", why);
	stop_watching(20);
	watch.algorithm = "fast";
	watch.other_limit = LIMIT + (1 << 20);
	watch_it("mem_limit");
	CHECK(tz_store_set_mem_limit(d->store, watch.other_limit, why, sizeof why) == 0, "%s", why);
	stop_watching(20);
	watch.limit = watch.other_limit;
}

/* Pages that share objects: one more, one less, none; and the housekeeper moves what is left. */
static void watch_dedup(void)
{
	struct device d = make_device(4096, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t before;
	char why[216];

	begin(&d, 0);
	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	put(t, &watch.model, 300, COPY + SMALL);
	watch_it("dedup");
	change(t, 301, COPY + SMALL);
	change(t, 302, COPY + SMALL);
	change(t, 300, SMALL + 3);
	change(t, 301, 0);
	change(t, 302, COPY + SMALL + 1);
	stop_watching(20);
	for (unsigned i = 0; i < 270; i++) {
		wait_for_reserve(&d);		/* for the object that two pages share */
		put(t, &watch.model, i, COPY + FORGED + i / 2);
	}
	before = NOW(d.stats->segment_bytes);
	watch_it("compaction of shared objects");
	for (unsigned i = 0; i < 270; i++)
		if (i / 2 % 64)
			change(t, i, 0);
	compact(&d);
	stop_watching(250);
	CHECK(NOW(d.stats->segment_bytes) + 3 * TZ_SEGMENT_SIZE <= before, "it is not compacted");
	finish(&d);
}

/* Another server finds the ages that there were. */
static void compare_ages(const struct device *d)
{
	struct tz_attach a = { 0 };
	int copy = copy_of(watch.fd);
	struct device e = attach(copy, 1, &a);

	for (unsigned i = 0; i < PAGES; i++)
		CHECK(load(entry_of(&e, i)) == load(entry_of(d, i)), "the entry of page %u", i);
	end(&e);
}

static void wait_for_age(struct device *d, unsigned i, unsigned age)
{
	WAIT_FOR(tz_entry_age(load(entry_of(d, i))) >= age, "page %u stays young", i);
}

/* Pages get older, are read, and are written once more with another codec. */
static void watch_cold(void)
{
	struct device d = make_device(4096, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_recompression *job;
	uint64_t before = 0, ticket;
	char why[216];
	int err;

	begin(&d, 0);
	for (unsigned i = 0; i < 40; i++)
		put(t, &watch.model, i, i % 8 == 3 ? WORDS + i % 3 : i % 8 ? SMALL + i : i + 1);
	watch_it("ages");
	tz_store_set_age_speed(d.store, 1800000);
	wait_for_age(&d, 39, 2);
	tz_store_set_age_speed(d.store, 1);
	/* The next pass may have begun: until it is through. */
	ticket = tz_store_count_ages(d.store);
	WAIT_FOR(NOW(d.stats->ages_counted) >= ticket, "ages are not counted");
	stop_watching(60);
	compare_ages(&d);
	watch_it("old pages that are read");
	for (unsigned i = 0; i < 40; i += 4)
		CHECK(look(t, i, watch.model.version[i]) == 1, "read");
	stop_watching(8);
	job = tz_store_prepare_recompress(d.store, "dense", 0, 100, &err, why, sizeof why);
	CHECK(job, "%s", why);
	watch_it("recompression");
	ticket = tz_store_recompress(d.store, job, &before);
	WAIT_FOR(NOW(d.stats->recompress_done) >= ticket, "it is not done");
	stop_watching(40);
	before = NOW(d.stats->dense.pages);
	CHECK(before >= 8, "%llu pages are rewritten", (unsigned long long)before);
	compare_ages(&d);
	finish(&d);
}

static void pack(struct device *d)
{
	/* What the reserve cannot spare at the moment is not packed. */
	WAIT_FOR(atomic_load(&d->store->alloc.reserve_count) > 2, "the reserve is not filled");
	uint64_t ticket = tz_store_pack(d->store, 0, PAGES);

	WAIT_FOR(tz_store_packed(d->store) >= ticket, "it is not done");
}

static unsigned grouped(const struct device *d, unsigned n)
{
	unsigned found = 0;

	for (unsigned i = 0; i < n; i++)
		found += tz_entry_is_grouped(load(entry_of(d, i)));
	return found;
}

/* Of six groups, each a fifth of a segment, three of the four in the first segment go. */
static void watch_groups_move(struct device *d, struct tz_store_thread *t)
{
	uint64_t before = watch.two_groups;

	for (unsigned i = 0; i < 96; i++)
		put(t, &watch.model, 32 + i, ALIKE + i + 1);
	pack(d);
	CHECK(grouped(d, 128) - grouped(d, 32) == 96, "%u in groups", grouped(d, 128));
	for (unsigned i = 0; i < 48; i++)
		put(t, &watch.model, 32 + i, 0);
	uint64_t segments = NOW(d->stats->segment_bytes);
	watch_it("compaction of groups");
	compact(d);
	stop_watching(250);
	CHECK(NOW(d->stats->segment_bytes) < segments, "it is not compacted");
	CHECK(watch.two_groups > before, "no group was moved");
}

/* Pages join a group, leave it when they are written, discarded or read, and are packed again with
 * others; a group that all but a few have left is, too; and one is moved. */
static void watch_groups(void)
{
	struct device d = make_device(4096, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	char why[216];

	if (!tz_zstd_version()) {
		puts("groups: left out: there is no libzstd");
		end(&d);
		return;
	}
	begin(&d, 0);
	CHECK(tz_store_set_groups(d.store, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < 6; i++)
		put(t, &watch.model, 2 * i, ALIKE_SMALL + i + 1);
	watch_it("packing");
	pack(&d);
	stop_watching(20);
	CHECK(grouped(&d, 16) == 6, "%u in groups", grouped(&d, 16));
	wait_for_reserve(&d);
	watch_it("leaving a group");
	change(t, 0, ALIKE_SMALL + 20);
	change(t, 2, 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK(look(t, 4, watch.model.version[4]) == 1, "read");
	stop_watching(10);
	CHECK(grouped(&d, 16) == 3, "%u in groups", grouped(&d, 16));
	watch_it("packing with others");
	pack(&d);
	stop_watching(20);
	CHECK(grouped(&d, 16) == 5 && watch.two_groups, "%u in groups", grouped(&d, 16));
	watch_it("packing again");
	change(t, 0, 0);
	change(t, 4, 0);
	change(t, 6, 0);
	compact(&d);
	stop_watching(20);
	CHECK(grouped(&d, 16) == 2, "%u in groups", grouped(&d, 16));
	watch_it("the last one of a group");
	change(t, 8, 0);
	compact(&d);
	stop_watching(3);
	CHECK(grouped(&d, 16) == 0, "%u in groups", grouped(&d, 16));
	watch_groups_move(&d, t);
	finish(&d);
}

static uint64_t backed(const struct device *d)
{
	struct tz_queue_stats q;

	gauges(d->stats, &q);
	return (uint64_t)q.kind_pages_now[TZ_KIND_BACKED];
}

static void run_to(struct device *d, const char *to)
{
	char why[216];
	uint64_t least, ticket;
	int err;
	struct tz_recompression *job =
		tz_store_prepare_recompress(d->store, to, 0, 100, &err, why, sizeof why);

	CHECK(job, "%s", why);
	ticket = tz_store_recompress(d->store, job, &least);
	WAIT_FOR(NOW(d->stats->recompress_done) >= ticket, "it is not done");
}

/* Pages go to the backing file, a group as a whole; they are read, come back, are overwritten and
 * discarded there. A copy of the arena has a copy of the file with it. */
static void watch_backing(void)
{
	struct device d = make_device(4096, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	char why[216];

	begin(&d, 0);
	for (unsigned i = 0; i < 24; i++)
		put(t, &watch.model, i, i % 8 == 3 ? WORDS : i % 8 ? ALIKE_SMALL + i : FORGED + i);
	if (tz_zstd_version()) {
		CHECK(tz_store_set_groups(d.store, why, sizeof why) == 0, "%s", why);
		WAIT_FOR(atomic_load(&d.store->alloc.reserve_count) > 2, "no reserve");
		uint64_t ticket = tz_store_pack(d.store, 0, 16);
		WAIT_FOR(tz_store_packed(d.store) >= ticket, "it is not done");
	}
	snprintf(watch.backing, sizeof watch.backing, "/tmp/truezram-stores-%d", (int)getpid());
	snprintf(copied_backing, sizeof copied_backing, "%s.copy", watch.backing);
	CHECK(tz_store_set_backing(d.store, watch.backing, 16 * TZ_BACKING_CHUNK, why,
		sizeof why) == 0, "%s", why);
	watch_it("writing to the backing file");
	run_to(&d, "backing");
	stop_watching(20);
	CHECK(backed(&d) == 21, "%llu are there", (unsigned long long)backed(&d));
	wait_for_reserve(&d);		/* what comes back needs room */
	watch_it("reading from the backing file");
	for (unsigned i = 0; i < 8; i++)
		CHECK(look(t, i % 4, watch.model.version[i % 4]) == 1, "read");
	stop_watching(6);
	CHECK(backed(&d) == 18, "%llu are there", (unsigned long long)backed(&d));
	watch_it("overwriting what is on the backing file");
	change(t, 4, SMALL + 4);
	change(t, 5, 0);
	change(t, 16, WORDS);
	stop_watching(3);
	watch_it("asking all back");
	run_to(&d, "memory");
	stop_watching(30);
	CHECK(backed(&d) == 0, "%llu stay", (unsigned long long)backed(&d));
	run_to(&d, "backing");
	finish(&d);
	unlink(watch.backing);
	unlink(copied_backing);
	watch.backing[0] = 0;
}

/* ---- all of it ---- */

/* glibc's memset is one instruction of 4096 steps for a page of the table otherwise. */
static void step_by_vectors(void)
{
	static const char tunables[] =
		"glibc.cpu.x86_rep_movsb_threshold=1000000:"
		"glibc.cpu.x86_rep_stosb_threshold=1000000";

	if (getenv("GLIBC_TUNABLES"))
		return;
	setenv("GLIBC_TUNABLES", tunables, 1);
	execl("/proc/self/exe", "test_attach_stores", NULL);
}

static void start_checker(void)
{
	struct sigaction segv = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER },
		trap = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };

	CHECK(sigaction(SIGSEGV, &segv, NULL) == 0 && sigaction(SIGTRAP, &trap, NULL) == 0 &&
		pthread_create(&checker.thread, NULL, run_checker, NULL) == 0, "start");
}

static void end_checker(void)
{
	checker.stop = 1;
	wake_checker();
	pthread_join(checker.thread, NULL);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGTRAP, SIG_DFL);
}

static void report(void)
{
	printf("every store: %llu stops\n", (unsigned long long)watch.stops);
	for (unsigned kind = 0; kind < KINDS; kind++)
		printf("%8llu %s\n", (unsigned long long)watch.met[kind], kinds[kind]);
	for (unsigned kind = 0; kind < KINDS; kind++)
		CHECK(watch.met[kind], "no %s", kinds[kind]);
}

static void test_every_store(void)
{
	struct device d = make_device(FAR + 65536, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t boundary = 65ull * TZ_DIRECTORY_ENTRIES * TZ_TABLE_ENTRIES;

	begin(&d, boundary - PAGES + 1);
	start_checker();
	for (unsigned i = 0; i < 200; i++)
		put(t, &watch.model, i, i % 16 == 3 ? WORDS + i % 3 : SMALL + i);
	watch_writes(t);
	watch_table(&d, t);
	watch_table_segment(&d, t);
	watch_growth(t);
	watch_compaction(&d, t);
	watch_settings(&d);
	finish(&d);
	watch_dedup();
	watch_cold();
	watch_groups();
	watch_backing();
	end_checker();
	report();
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv("TRUEZRAM_TEST_EMULATED")) {
		puts("every store: left out: an emulator does not step");
		return 0;
	}
	step_by_vectors();
	test_every_store();
	puts("attach, every store: all right");
	return 0;
}

#else

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	return __real_tz_arena_populate(a, offset, len);
}

int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	return __real_tz_arena_release(a, offset, len);
}

int main(void)
{
	puts("every store: left out: it takes x86-64's trap flag, and no ThreadSanitizer");
	return 0;
}
#endif
