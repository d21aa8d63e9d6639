/* test_concurrency.c - everything at once: eight threads write, overwrite, read and discard, while
 * the control thread compacts, recompresses, trims, changes algorithm, mem_limit and dedup and
 * looks at the page map, and pages grow old within milliseconds.
 *
 * What must hold: a page reads as what the newest write or discard completed before the read began
 * has left, or something newer. A page that several threads write reads as one whole value that was
 * written to it, or zeros. At rest, contents, counters, the kernel's count and the arena itself
 * (tz_check_arena) agree.
 *
 * The disk: a few parts of one page of the page table each, on a small disk one after another, on a
 * large one (of more than 64 GiB) in different pages of the directory, which are populated when
 * they are first written to. There are four kinds of them, of which two come and go all the time:
 *	BLOCKS	all pages in use, eight in a row are one thread's: what compaction works on
 *	WHOLE	one thread's; it discards all of it at once
 *	SPARSE	eight pages in use, each another thread's: empty every now and then
 *	SHARED	eight pages in use, everybody's
 *
 * On the I/O path, between tz_store_begin and tz_store_end, nothing may be allocated, mapped, freed
 * or waited for: those functions are wrapped by the linker (meson.build) and stop the test there.
 *
 * `locked`: everything is locked in memory, and after a first round the threads must not take a
 * single page fault, nor make a system call other than futex and what the test's pauses take
 * (seccomp).
 *
 * Each round is an amount of work. TRUEZRAM_TEST_MINUTES=N: rounds, each with other random numbers,
 * for so long.
 */
#include "clock.h"
#include "device.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define SKIP 77
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED UNDER_TSAN
#endif

enum { THREADS = 8, PARTS = 16, USED_PAGES = PARTS * TZ_TABLE_ENTRIES, FEW = 8, BLOCK = 8 };
enum kind { BLOCKS, WHOLE, SPARSE, SHARED };

/* ---- what must not be called on the I/O path ---- */

static _Thread_local int inside;	/* begin/end; not while the test itself is at work there */

static void trap(const char *name)
{
	if (!inside)
		return;
	inside = 0;
	CHECK(0, "%s on the I/O path", name);
}

#define WRAP(type, name, parameters, ...) \
	type __real_##name parameters; \
	type __wrap_##name parameters; \
	type __wrap_##name parameters \
	{ \
		trap(#name); \
		return __real_##name(__VA_ARGS__); \
	}

WRAP(void *, malloc, (size_t size), size)
WRAP(void *, calloc, (size_t n, size_t size), n, size)
WRAP(void *, realloc, (void *p, size_t size), p, size)
WRAP(void, free, (void *p), p)
WRAP(void *, mmap, (void *at, size_t size, int prot, int flags, int fd, off_t offset), at, size,
	prot, flags, fd, offset)
WRAP(int, munmap, (void *at, size_t size), at, size)
WRAP(int, madvise, (void *at, size_t size, int advice), at, size, advice)
WRAP(int, mlock, (const void *at, size_t size), at, size)
WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t size), fd, mode, offset, size)
WRAP(int, nanosleep, (const struct timespec *t, struct timespec *left), t, left)

/* ---- the disk ---- */

struct page {
	/* The owner's operations on it are numbered. started: the newest one that has begun;
	 * completed: the one whose result it had when the owner was last between two. discard: the
	 * newest discard that has begun. */
	_Atomic uint32_t started, completed, discard;
	uint32_t value;		/* the owner's: what it holds. 0: zeros */
};

static struct page pages[USED_PAGES];

struct plan {
	uint64_t disk;		/* pages */
	uint64_t stride;	/* of parts, in pages of the table */
	unsigned steps, turns;	/* batches of each thread; of the control thread, at least */
};

static struct device d;
static struct plan plan;
static _Atomic int working;		/* threads */
static _Atomic uint32_t sequences;	/* of writes to shared pages */

static enum kind kind_of(unsigned part)
{
	return (enum kind)(part % 4);
}

static uint64_t disk_page(unsigned m)
{
	return (uint64_t)(m / TZ_TABLE_ENTRIES) * plan.stride * TZ_TABLE_ENTRIES +
		m % TZ_TABLE_ENTRIES;
}

/* Whose a page is; THREADS: everybody's; -1: it is never written to. */
static int owner_of(unsigned m)
{
	unsigned part = m / TZ_TABLE_ENTRIES, n = m % TZ_TABLE_ENTRIES;

	switch (kind_of(part)) {
	case BLOCKS:
		return (int)(n / BLOCK % THREADS);
	case WHOLE:
		return (int)(part / 4 * 3 % THREADS);
	case SPARSE:
		return n < FEW ? (int)(n % THREADS) : -1;
	default:
		return n < FEW ? THREADS : -1;
	}
}

/* ---- threads ---- */

struct worker {
	unsigned index;
	struct tz_store_thread *t;
	uint64_t state;
	uint64_t reads, writes, refused, discards, zeros;
	struct rusage first, last;
	uint8_t page[4096] __attribute__((aligned(8)));
};

static struct worker workers[THREADS];

static uint64_t pick(struct worker *w, uint64_t n)
{
	return next(&w->state) % n;
}

static void enter(struct worker *w)
{
	tz_store_begin(w->t);
	inside = 1;
}

static void leave(struct worker *w)
{
	tz_store_end(w->t);
	inside = 0;
}

/* As a queue does when the reserve is empty. */
static int write_patiently(struct worker *w, uint64_t page)
{
	int rc;

	while ((rc = tz_store_write(w->t, page, w->page)) == -EAGAIN) {
		leave(w);
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
		enter(w);
	}
	CHECK(rc == 0 || rc == -ENOSPC, "write of page %llu: %d", (unsigned long long)page, rc);
	w->writes += rc == 0;
	w->refused += rc != 0;
	return rc;
}

static void write_own(struct worker *w, unsigned m)
{
	struct page *p = &pages[m];
	uint32_t op = atomic_load(&p->started) + 1;

	make_page(w->page, disk_page(m), w->index, op);
	atomic_store(&p->started, op);
	if (write_patiently(w, disk_page(m)) < 0)
		return;			/* it holds what it held */
	p->value = op;
	atomic_store(&p->completed, op);
}

/* n pages of this thread in a row. */
static void discard_own(struct worker *w, unsigned m, unsigned n)
{
	unsigned work;
	uint64_t done = 0;

	for (unsigned i = m; i < m + n; i++) {
		uint32_t op = atomic_load(&pages[i].started) + 1;
		atomic_store(&pages[i].discard, op);
		atomic_store(&pages[i].started, op);
	}
	while (done < n) {
		work = 1 + (unsigned)pick(w, 4000);
		done += tz_store_discard_range(w->t, disk_page(m) + done, n - done, &work);
	}
	for (unsigned i = m; i < m + n; i++) {
		pages[i].value = 0;
		atomic_store(&pages[i].completed, atomic_load(&pages[i].started));
	}
	w->discards += n;
}

static void read_any(struct worker *w, unsigned m)
{
	struct page *p = &pages[m];
	uint32_t writer, low = atomic_load(&p->completed), value;
	uint64_t page = disk_page(m);
	int owner = owner_of(m);

	CHECK(tz_store_read(w->t, page, w->page) == 0, "read of page %llu",
		(unsigned long long)page);
	value = check_page(w->page, page, &writer);
	w->reads++;
	w->zeros += value == 0;
	CHECK(value == 0 || owner == THREADS || (int)writer == owner,
		"page %llu of thread %d was written by %u", (unsigned long long)page, owner,
		writer);
	if (owner == THREADS)
		return;
	if (value)
		CHECK(value >= low && value <= atomic_load(&p->started),
			"page %llu: read %u, not in %u..%u", (unsigned long long)page, value, low,
			atomic_load(&p->started));
	else
		CHECK(low == 0 || atomic_load(&p->discard) >= low,
			"page %llu: zeros, but %u was written", (unsigned long long)page, low);
}

static void use_shared(struct worker *w, unsigned m)
{
	unsigned what = (unsigned)pick(w, 4), work = 4000;

	if (what == 0) {
		make_page(w->page, disk_page(m), w->index,
			atomic_fetch_add(&sequences, 1) + 1);
		write_patiently(w, disk_page(m));
	} else if (what == 1) {
		tz_store_discard(w->t, disk_page(m));
		w->discards++;
	} else if (what == 2) {
		m -= m % TZ_TABLE_ENTRIES;
		tz_store_discard_range(w->t, disk_page(m), TZ_TABLE_ENTRIES, &work);
		w->discards += FEW;
	} else {
		read_any(w, m);
	}
}

/* Between two parts nothing is ever written. */
static void use_gap(struct worker *w, unsigned part)
{
	uint64_t first = disk_page(part * TZ_TABLE_ENTRIES) + TZ_TABLE_ENTRIES,
		 n = (plan.stride - 1) * TZ_TABLE_ENTRIES, from;
	unsigned work = 2000;

	if (!n)
		return;
	from = pick(w, n);
	CHECK(tz_store_read(w->t, first + from, w->page) == 0 && !w->page[0], "read of a gap");
	tz_store_discard_range(w->t, first + from, n - from, &work);
}

/* One page, or for the owner of a whole part now and then all of it. */
static void one_step(struct worker *w)
{
	unsigned part = (unsigned)pick(w, PARTS), m = part * TZ_TABLE_ENTRIES, what, n;
	int own = 0;

	if (pick(w, 64) == 0)
		use_gap(w, part);
	n = (unsigned)pick(w, kind_of(part) >= SPARSE ? FEW : TZ_TABLE_ENTRIES);
	what = (unsigned)pick(w, 16);
	if (kind_of(part) == SPARSE && what < 12)
		n = w->index;
	if (kind_of(part) == BLOCKS && what < 12)
		n = n / (BLOCK * THREADS) * BLOCK * THREADS + w->index * BLOCK + n % BLOCK;
	own = owner_of(m + n) == (int)w->index;
	if (kind_of(part) == SHARED)
		use_shared(w, m + n);
	else if (!own || what >= 10)
		read_any(w, m + n);
	else if (kind_of(part) == WHOLE && pick(w, 1024) == 0)
		discard_own(w, m, TZ_TABLE_ENTRIES);
	else if (kind_of(part) == BLOCKS && what == 0 && pick(w, 4) == 0)
		discard_own(w, m + n / BLOCK * BLOCK, BLOCK);
	else if (what < (kind_of(part) == SPARSE ? 5u : 1u))
		discard_own(w, m + n, 1);
	else
		write_own(w, m + n);
}

static void run_steps(struct worker *w)
{
	for (unsigned step = 0; step < plan.steps; step++) {
		unsigned batch = 1 + (unsigned)pick(w, 32);
		enter(w);
		for (unsigned i = 0; i < batch; i++)
			one_step(w);
		leave(w);
	}
}

/* ---- the control thread ---- */

static const char *algorithms[8];
static unsigned nr_algorithms;

static void find_algorithms(void)
{
	static const char *const wanted[] = { "lz4", "fast", "zstd:1", "turbo", "auto", "dense" };

	for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
		const char *why;
		char text[216];
		int level;
		const struct tz_codec *c = tz_parse_algorithm(wanted[i], &level, text, sizeof text);
		if (c && (!c->workspace_size || c->workspace_size(level, &why)))
			algorithms[nr_algorithms++] = wanted[i];
	}
	CHECK(nr_algorithms >= 3, "%u algorithms", nr_algorithms);
}

/* Of every region all pages are of a kind that there is. */
static void look_at_map(uint64_t *state)
{
	enum { REGIONS = 64 };
	static uint32_t map[REGIONS][TZ_KINDS_STORED];
	unsigned part = (unsigned)(next(state) % PARTS);
	uint64_t first = disk_page(part * TZ_TABLE_ENTRIES), n = TZ_TABLE_ENTRIES, sum = 0;

	if (next(state) % 2) {
		first = 0;
		n = plan.disk;
	}
	(next(state) % 2 ? tz_store_page_map : tz_store_age_map)(d.store, first, n, REGIONS, map);
	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned k = 0; k < TZ_KINDS_STORED; k++)
			sum += map[r][k];
	CHECK(sum == n, "%llu of %llu pages are of a known kind", (unsigned long long)sum,
		(unsigned long long)n);
}

/* Sometimes less than there is. */
static void change_limit(uint64_t *state)
{
	uint64_t used = NOW(d.stats->mem_used_total), limit = used - used / 8 +
		next(state) % (used / 4);
	char why[216];
	int rc = tz_store_set_mem_limit(d.store, next(state) % 3 ? limit : 0, why, sizeof why);

	CHECK(rc == 0 || rc == -EINVAL, "mem_limit: %d %s", rc, why);
}

/* Pages are all different here (test_dedup.c has others); what remains is that their queue threads
 * look for duplicates in memory that comes and goes. */
static void change_dedup(uint64_t *state)
{
	char why[216];
	int rc = tz_store_set_dedup(d.store, next(state) % 2 ? 1 : 0, why, sizeof why);

	CHECK(rc == 0 || rc == -ENOMEM, "dedup: %d %s", rc, why);
}

static uint64_t recompression;	/* the newest */
static uint64_t recompressed;	/* pages, in all rounds */

static void recompress(uint64_t *state)
{
	uint64_t least;
	char why[216];
	int err;
	struct tz_recompression *job = tz_store_prepare_recompress(d.store, next(state) % 4 ?
		"dense" : algorithms[next(state) % nr_algorithms], 0, 100, &err, why, sizeof why);

	if (job)
		recompression = tz_store_recompress(d.store, job, &least);
	else
		CHECK(err == -EBUSY || err == -EINVAL, "recompress: %d %s", err, why);
	if (next(state) % 8 == 0)
		tz_store_stop_recompress(d.store);
}

static uint64_t asked;		/* the newest compaction */

static void control(uint64_t *state)
{
	char why[216];

	switch (next(state) % 8) {
	case 0:
		CHECK(tz_store_set_algorithm(d.store, algorithms[next(state) % nr_algorithms], why,
			sizeof why) == 0, "%s", why);
		break;
	case 1:
		change_limit(state);
		break;
	case 2:
		tz_store_trim(d.store);
		break;
	case 3:
		look_at_map(state);
		break;
	case 4:
		change_dedup(state);
		break;
	case 5:
		recompress(state);
		break;
	default:
		asked = tz_store_compact(d.store);
	}
}

/* ---- `locked` ---- */

static int locked;

static void deny(int signal, siginfo_t *info, void *context)
{
	static const char text[] = "a system call on a queue thread: number ";
	char digits[8];
	unsigned n = (unsigned)info->si_syscall, i = sizeof digits;

	(void)signal;
	(void)context;
	digits[--i] = '\n';
	do
		digits[--i] = (char)('0' + n % 10);
	while ((n /= 10) && i);
	if (write(2, text, sizeof text - 1) < 0 || write(2, digits + i, sizeof digits - i) < 0)
		_exit(2);
	_exit(1);
}

#define ALLOW(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Of this thread from now on. What it takes to wait for the reserve between two batches and to end,
 * and futex: a contended lock. */
static void forbid_system_calls(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(futex), ALLOW(nanosleep), ALLOW(clock_nanosleep), ALLOW(clock_gettime),
		ALLOW(getrusage), ALLOW(write), ALLOW(exit), ALLOW(exit_group),
		ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn), ALLOW(gettid), ALLOW(getpid),
		ALLOW(tgkill),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp: %s",
		strerror(errno));
}

/* Two rounds: in the first, what is touched for the first time is touched. */
static void run_locked(struct worker *w)
{
	run_steps(w);
	forbid_system_calls();
	CHECK(getrusage(RUSAGE_THREAD, &w->first) == 0, "getrusage");
	run_steps(w);
	CHECK(getrusage(RUSAGE_THREAD, &w->last) == 0, "getrusage");
}

/* Why it cannot be run here; NULL: it can. */
static const char *cannot_lock(void)
{
	struct rusage before, after;
	volatile char *fresh = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (SANITIZED)
		return "a sanitizer faults and maps by itself";
	if (getenv("TRUEZRAM_TEST_EMULATED"))
		return "it would be the emulator's faults and system calls";
	CHECK(fresh != MAP_FAILED && getrusage(RUSAGE_THREAD, &before) == 0, "getrusage");
	*fresh = 1;
	CHECK(getrusage(RUSAGE_THREAD, &after) == 0, "getrusage");
	if (after.ru_minflt == before.ru_minflt)
		return "this kernel does not count page faults";
	return mlockall(MCL_CURRENT) == 0 ? NULL
		: "memory cannot be locked (needs root or a higher RLIMIT_MEMLOCK)";
}

/* How many pages the kernel has moved for reasons of its own, on the whole machine: to have larger
 * ones, or nearer to a CPU. Whoever uses one that is on its way faults, locked or not. */
static uint64_t moved_by_the_kernel(void)
{
	static const char *const names[] = { "pgmigrate_success", "numa_pte_updates",
		"numa_hint_faults", "thp_collapse_alloc", "thp_split_page" };
	FILE *f = fopen("/proc/vmstat", "re");
	unsigned long long n, sum = 0;
	char line[100], name[64];

	while (f && fgets(line, sizeof line, f))
		for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
			if (sscanf(line, "%63s %llu", name, &n) == 2 && !strcmp(name, names[i]))
				sum += n;
	if (f)
		fclose(f);
	return sum;
}

/* 0: there were some, and they may be the kernel's. */
static int took_no_faults(int moved)
{
	for (unsigned i = 0; i < THREADS; i++) {
		const struct rusage *a = &workers[i].first, *b = &workers[i].last;
		if (b->ru_minflt == a->ru_minflt && b->ru_majflt == a->ru_majflt)
			continue;
		printf("thread %u took %ld minor and %ld major page faults%s\n", i,
			b->ru_minflt - a->ru_minflt, b->ru_majflt - a->ru_majflt,
			moved ? ", and the kernel moved pages meanwhile: once more" : "");
		fflush(stdout);
		return 0;
	}
	return 1;
}

/* ---- a round ---- */

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	if (locked)
		run_locked(w);
	else
		run_steps(w);
	atomic_fetch_sub(&working, 1);
	return NULL;
}

/* Stacks that are there as a whole. */
static void start(struct worker *w, pthread_t *id)
{
	enum { STACK = 512 << 10 };
	static void *stacks[THREADS];
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	if (locked && !stacks[w->index]) {
		stacks[w->index] = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
		CHECK(stacks[w->index] != MAP_FAILED, "stack");
	}
	if (locked)
		pthread_attr_setstack(&attr, stacks[w->index], STACK);
	CHECK(pthread_create(id, &attr, worker_main, w) == 0, "pthread_create");
	pthread_attr_destroy(&attr);
}

/* Everything holds what it must; how many pages are stored. */
static uint64_t check_contents(void)
{
	struct worker *w = &workers[0];
	uint64_t stored = 0;

	for (unsigned m = 0; m < USED_PAGES; m++) {
		uint32_t writer, value;
		enter(w);
		CHECK(tz_store_read(w->t, disk_page(m), w->page) == 0, "read");
		leave(w);
		value = check_page(w->page, disk_page(m), &writer);
		stored += value != 0;
		CHECK(owner_of(m) == THREADS || value == pages[m].value,
			"page %llu holds %u, not %u", (unsigned long long)disk_page(m), value,
			pages[m].value);
	}
	return stored;
}

/* Objects that were being read when they were freed are freed with the thread's next turn. */
static void come_to_rest(void)
{
	uint64_t ticket = tz_store_compact(d.store);

	for (unsigned i = 0; i < THREADS; i++) {
		enter(&workers[i]);
		leave(&workers[i]);
	}
	WAIT_FOR(NOW(d.stats->compact_done) >= ticket, "compaction does not end");
	WAIT_FOR(NOW(d.stats->recompress_done) >= recompression, "recompression does not end");
}

static void discard_all(void)
{
	struct worker *w = &workers[0];
	uint64_t at = 0, used;

	enter(w);
	while (at < plan.disk) {
		unsigned work = 100000;
		at += tz_store_discard_range(w->t, at, plan.disk - at, &work);
	}
	leave(w);
	come_to_rest();
	check_accounting(&d, 0, 0);
	/* Of the table the directory is left. */
	used = NOW(d.stats->table_bytes);
	CHECK(used < d.fresh + PARTS * 4096, "%llu bytes of page table for no page",
		(unsigned long long)used);
	CHECK(NOW(d.stats->segment_bytes) == 0, "%llu bytes of segments for no page",
		(unsigned long long)NOW(d.stats->segment_bytes));
}

/* So that something is recompressed even where a busy machine stopped all that control began. */
static void recompress_at_rest(void)
{
	uint64_t least;
	char why[216];
	int err;
	struct tz_recompression *job = tz_store_prepare_recompress(d.store, "dense", 0, 100, &err,
		why, sizeof why);

	CHECK(job, "recompress: %d %s", err, why);
	recompression = tz_store_recompress(d.store, job, &least);
	come_to_rest();
}

static void report(unsigned round, unsigned turns, uint64_t done, uint64_t compacted)
{
	struct worker sum = { 0 };

	for (unsigned i = 0; i < THREADS; i++) {
		sum.reads += workers[i].reads;
		sum.writes += workers[i].writes;
		sum.refused += workers[i].refused;
		sum.discards += workers[i].discards;
		sum.zeros += workers[i].zeros;
	}
	recompressed += NOW(d.stats->dense.pages);
	printf("round %u: %llu reads (%llu of zeros), %llu writes, %llu refused, %llu discards;"
		" %u turns of control, %llu of %llu compactions done, %llu pages compacted\n",
		round,
		(unsigned long long)sum.reads, (unsigned long long)sum.zeros,
		(unsigned long long)sum.writes, (unsigned long long)sum.refused,
		(unsigned long long)sum.discards, turns, (unsigned long long)done,
		(unsigned long long)asked,
		(unsigned long long)compacted);
	fflush(stdout);
	/* (Refused: for as long as the control thread has no CPU, a limit that it set may last.) */
	CHECK(sum.reads > plan.steps && sum.zeros && sum.writes &&
		sum.writes + sum.refused > plan.steps && sum.discards > plan.steps,
		"hardly anything happened");
}

/* 0: once more. */
static int run_round(unsigned round, uint64_t seed)
{
	pthread_t id[THREADS];
	uint64_t state = seed | 1, stored, compacted, done, before = moved_by_the_kernel();
	unsigned turns = 0;
	int moved, again;
	char why[216];

	d = make_device(plan.disk, THREADS, 0, algorithms[round % nr_algorithms]);
	memset(pages, 0, sizeof pages);
	asked = recompression = 0;
	tz_store_set_age_speed(d.store, 180000);	/* a pass in a millisecond */
	atomic_store(&sequences, 0);
	atomic_store(&working, THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .index = i, .t = tz_store_thread(d.store, i) };
		workers[i].state = (seed + i + 1) * 0x9e3779b97f4a7c15ull | 1;
		start(&workers[i], &id[i]);
	}
	for (; atomic_load(&working); turns++) {
		nanosleep(&(struct timespec){ .tv_nsec = (long)(next(&state) % 4000000) }, NULL);
		control(&state);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	done = NOW(d.stats->compact_done);
	moved = moved_by_the_kernel() != before;
	again = locked && !took_no_faults(moved);
	CHECK(!again || moved, "page faults on a queue thread");
	CHECK(tz_store_set_mem_limit(d.store, 0, why, sizeof why) == 0, "%s", why);
	come_to_rest();
	recompress_at_rest();
	stored = check_contents();
	compacted = NOW(d.stats->pages_compacted);
	report(round, turns, done, compacted);
	check_accounting(&d, stored, 0);
	if (round % 4 >= 2)
		discard_all();
	end_device(&d);
	return !again;
}

/* Small, and of 200 GiB. */
static void choose_disk(int large)
{
	plan.stride = large ? 6151 : 1;
	plan.disk = large ? (200ull << 30) / 4096 : USED_PAGES;
}

int main(int argc, char **argv)
{
	const char *minutes = getenv("TRUEZRAM_TEST_MINUTES"), *missing;
	uint64_t end = tz_now_ns() + (minutes ? strtoull(minutes, NULL, 10) : 0) * 60000000000ull;
	uint64_t seed = minutes ? tz_now_ns() : 1;

	find_algorithms();
	locked = lock_arena = argc > 1 && !strcmp(argv[1], "locked");
	if (locked && (missing = cannot_lock())) {
		printf("left out: %s\n", missing);
		return SKIP;
	}
	sigaction(SIGSYS, &(struct sigaction){ .sa_sigaction = deny, .sa_flags = SA_SIGINFO },
		NULL);
	plan.steps = 1200 / share_of_work();
	printf("seed %llu\n", (unsigned long long)seed);
	for (unsigned round = 0; round < 4 || (minutes && tz_now_ns() < end); round++) {
		unsigned tries = 0;
		choose_disk(round % 2);
		while (!run_round(round, seed + round * 1000003))
			CHECK(++tries < 20, "page faults on a queue thread, each time");
	}
	printf("%llu pages recompressed\n", (unsigned long long)recompressed);
	CHECK(recompressed, "nothing is recompressed");
	return 0;
}
