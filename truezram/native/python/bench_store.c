/* bench_store.c - times a store or a device (bench_store.h).
 *
 * One call is one window: the threads are started, choose what to do, flush it from the caches, and
 * wait for each other; then all of them work at the same time, and only that is timed. Afterwards
 * each compares what it has read. A call takes some milliseconds, so that its caller can be
 * interrupted between two.
 *
 * A store is used as a queue thread uses it: requests in turns of some, with the entries of a turn
 * and the next object prefetched. A device gets one request at a time, as a swap device gets one
 * for each page.
 */
#include "bench_store.h"
#include "bench.h"
#include "clock.h"
#include "own_store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TURN 16u		/* requests between tz_store_begin and tz_store_end */
#define EMPTY UINT32_MAX	/* in content[]: the place reads as zeros */
#define POISON 0xa5		/* what a page holds before it is read */
#define LOCAL_TIMEOUT_MS 30000u	/* of one request */

struct worker {
	struct tz_bench_target *target;
	unsigned index;
	uint32_t n, first;
	enum tz_bench_op op;
	uint64_t state;			/* of the random numbers */
	uint8_t *out;			/* TZ_BENCH_WINDOW pages */
	uint32_t place[TZ_BENCH_WINDOW], source[TZ_BENCH_WINDOW];
	int error;
	uint32_t error_place;
	uint64_t ns, cpu_ns, whole_cpu_ns, waits;
	int disturbed;
	uint64_t lat[TZ_BENCH_LAT_BINS];
};

struct tz_bench_target {
	struct tz_own_store *own;	/* NULL: a device */
	int fd;				/* of a block device */
	struct tz_local_client *local;	/* NULL: not a local device */
	const uint8_t *pages;
	uint32_t nr_pages, places;
	uint32_t *order, *content;	/* content: which page is at a place */
	unsigned nr_threads;
	struct worker *workers;
	uint8_t *out;			/* of all workers */
	uint64_t clock_cost;
	atomic_uint ready;		/* workers that have come to the start */
};

/* ---- random numbers and the histogram ---- */

uint64_t tz_bench_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;	/* splitmix64 */

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint32_t tz_bench_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)((tz_bench_random(state) >> 32) * n >> 32);
}

unsigned tz_bench_lat_bin(uint64_t ns)
{
	unsigned e, bin;

	if (ns < 64)
		return (unsigned)ns;
	e = 63u - (unsigned)__builtin_clzll(ns);	/* >= 6 */
	bin = (e - 5) * 64 + (unsigned)(ns >> (e - 6) & 63);
	return bin < TZ_BENCH_LAT_BINS ? bin : TZ_BENCH_LAT_BINS - 1;
}

uint64_t tz_bench_lat_middle(unsigned bin)
{
	unsigned shift;

	if (bin < 64)
		return bin;
	shift = bin / 64 - 1;
	return ((uint64_t)(64 + bin % 64) << shift) + ((1ull << shift) >> 1);
}

/* ---- one page ---- */

static const uint8_t *source_page(const struct tz_bench_target *t, uint32_t source)
{
	return t->pages + (size_t)source * TZ_PAGE_SIZE;
}

static int do_in_store(struct worker *w, struct tz_store_thread *s, uint32_t i)
{
	unsigned work = UINT32_MAX;

	switch (w->op) {
	case TZ_BENCH_READ:
		return tz_store_read(s, w->place[i], w->out + (size_t)i * TZ_PAGE_SIZE);
	case TZ_BENCH_DISCARD:
		tz_store_discard_range(s, w->place[i], 1, &work);
		return 0;
	default:
		return tz_own_store_write(s, w->place[i], source_page(w->target, w->source[i]),
			&w->waits);
	}
}

static int do_on_device(struct worker *w, uint32_t i)
{
	int fd = w->target->fd;
	off_t at = (off_t)w->place[i] * TZ_PAGE_SIZE;
	ssize_t done;

	switch (w->op) {
	case TZ_BENCH_READ:
		done = pread(fd, w->out + (size_t)i * TZ_PAGE_SIZE, TZ_PAGE_SIZE, at);
		break;
	case TZ_BENCH_DISCARD:
		done = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, TZ_PAGE_SIZE)
			? -1 : TZ_PAGE_SIZE;
		break;
	default:
		done = pwrite(fd, source_page(w->target, w->source[i]), TZ_PAGE_SIZE, at);
	}
	return done == TZ_PAGE_SIZE ? 0 : done < 0 ? -errno : -EIO;
}

static int do_on_local(struct worker *w, uint32_t i)
{
	static const unsigned ops[] = {
		[TZ_BENCH_FILL] = TZ_LOCAL_WRITE, [TZ_BENCH_OVERWRITE] = TZ_LOCAL_WRITE,
		[TZ_BENCH_READ] = TZ_LOCAL_READ, [TZ_BENCH_DISCARD] = TZ_LOCAL_DISCARD,
	};
	uint8_t *data = w->out + (size_t)i * TZ_PAGE_SIZE;

	/* (What is written goes through `out`: the client's buffer is not const.) */
	if (ops[w->op] == TZ_LOCAL_WRITE)
		memcpy(data, source_page(w->target, w->source[i]), TZ_PAGE_SIZE);
	return tz_local_io(w->target->local, ops[w->op], w->place[i], 1, data, LOCAL_TIMEOUT_MS);
}

/* ---- a thread ---- */

/* Chooses places and pages. An overwriting thread has places of its own, so that what is noted of
 * them is true. */
static void choose(struct worker *w)
{
	const struct tz_bench_target *t = w->target;
	uint32_t own = (t->places - w->index + t->nr_threads - 1) / t->nr_threads;

	for (uint32_t i = 0; i < w->n; i++) {
		uint32_t place = w->op == TZ_BENCH_OVERWRITE
			? tz_bench_below(&w->state, own) * t->nr_threads + w->index
			: t->order[w->first + i];

		w->place[i] = place;
		if (w->op == TZ_BENCH_FILL)
			w->source[i] = t->places < t->nr_pages
				? (uint32_t)((uint64_t)place * t->nr_pages / t->places)
				: place % t->nr_pages;
		else if (w->op == TZ_BENCH_OVERWRITE)
			w->source[i] = tz_bench_below(&w->state, t->nr_pages);
		else
			w->source[i] = w->op == TZ_BENCH_READ ? t->content[place] : EMPTY;
	}
}

static void flush(struct worker *w)
{
	if (w->op == TZ_BENCH_READ) {
		memset(w->out, POISON, (size_t)w->n * TZ_PAGE_SIZE);
		tz_bench_flush(w->out, (size_t)w->n * TZ_PAGE_SIZE);
	} else if (w->op != TZ_BENCH_DISCARD) {
		for (uint32_t i = 0; i < w->n; i++)
			tz_bench_flush(source_page(w->target, w->source[i]), TZ_PAGE_SIZE);
	}
}

static void wait_for_all(struct tz_bench_target *t)
{
	atomic_fetch_add(&t->ready, 1);
	while (atomic_load(&t->ready) < t->nr_threads)
		sched_yield();
}

static void begin_turn(struct worker *w, struct tz_store_thread *s, uint32_t i)
{
	tz_store_begin(s);
	for (uint32_t k = i; k < w->n && k < i + TURN; k++)
		tz_store_prefetch_entry(s, w->place[k]);
}

static int do_one(struct worker *w, struct tz_store_thread *s, uint32_t i)
{
	int rc;

	if (!s)
		return w->target->local ? do_on_local(w, i) : do_on_device(w, i);
	if (i % TURN == 0)
		begin_turn(w, s, i);
	if (i % TURN < TURN - 1 && i + 1 < w->n)
		tz_store_prefetch_object(s, w->place[i + 1]);
	rc = do_in_store(w, s, i);
	if (i % TURN == TURN - 1 || i + 1 == w->n || rc)
		tz_store_end(s);
	return rc;
}

/* The time of n operations. If other work took the CPU away in between, and nothing was waited for,
 * what counts is CPU time: on a busy machine that hits the slower side more often. */
static void take_time(struct worker *w, uint64_t wall, uint64_t cpu, const struct rusage *before,
	uint32_t n)
{
	uint64_t cost = w->target->clock_cost * n, took = wall;
	struct rusage after;

	getrusage(RUSAGE_THREAD, &after);
	w->disturbed = after.ru_nivcsw != before->ru_nivcsw;
	if (w->disturbed && after.ru_nvcsw == before->ru_nvcsw && cpu < wall)
		took = cpu;
	w->ns = took > cost ? took - cost : 1;
	w->cpu_ns = cpu;
}

/* The timed part. What is written is noted, also if a later one fails. */
static void work(struct worker *w)
{
	struct tz_bench_target *t = w->target;
	struct tz_store_thread *s = t->own ? tz_store_thread(t->own->store, w->index) : NULL;
	uint64_t cost = t->clock_cost, cpu, start, last;
	struct rusage before;
	uint32_t i;

	getrusage(RUSAGE_THREAD, &before);
	cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	start = last = tz_now_ns();
	for (i = 0; i < w->n && !w->error; i++) {
		uint64_t now, took;

		w->error = do_one(w, s, i);
		now = tz_now_ns();
		took = now - last;
		w->lat[tz_bench_lat_bin(took > cost ? took - cost : 0)]++;
		last = now;
	}
	cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	take_time(w, last - start, cpu, &before, i);
	if (w->error)
		w->error_place = w->place[--i];
	if (w->op != TZ_BENCH_READ)
		for (uint32_t k = 0; k < i; k++)
			t->content[w->place[k]] = w->source[k];
}

static void compare(struct worker *w)
{
	static const uint8_t zeros[TZ_PAGE_SIZE];

	for (uint32_t i = 0; i < w->n && !w->error; i++) {
		const uint8_t *wanted = w->source[i] == EMPTY ? zeros
			: source_page(w->target, w->source[i]);
		if (memcmp(w->out + (size_t)i * TZ_PAGE_SIZE, wanted, TZ_PAGE_SIZE)) {
			w->error = -EILSEQ;
			w->error_place = w->place[i];
		}
	}
}

static void *thread_main(void *arg)
{
	struct worker *w = arg;

	choose(w);
	flush(w);
	wait_for_all(w->target);
	work(w);
	if (w->op == TZ_BENCH_READ)
		compare(w);
	w->whole_cpu_ns = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	return NULL;
}

/* ---- a call ---- */

/* Starts all workers. Signals are the caller's. If one cannot be started, those that were must not
 * wait for it. */
static int start(struct tz_bench_target *t, pthread_t *ids, unsigned *started)
{
	sigset_t all, before;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	atomic_store(&t->ready, 0);
	for (*started = 0; *started < t->nr_threads && !rc; *started += !rc)
		rc = pthread_create(&ids[*started], NULL, thread_main, &t->workers[*started]);
	if (rc)
		atomic_store(&t->ready, t->nr_threads);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}

static void add(struct tz_bench_tally *tally, const struct worker *w)
{
	tally->pages[w->index] += w->n;
	tally->ns[w->index] += w->ns;
	tally->cpu_ns += w->cpu_ns;
	tally->waits += w->waits;
	tally->timings++;
	tally->disturbed += (uint32_t)w->disturbed;
	for (unsigned i = 0; i < TZ_BENCH_LAT_BINS; i++)
		tally->lat[i] += w->lat[i];
}

static void prepare(struct tz_bench_target *t, enum tz_bench_op op, uint32_t first, uint32_t n,
	uint64_t seed)
{
	for (unsigned i = 0; i < t->nr_threads; i++) {
		struct worker *w = &t->workers[i];
		uint32_t from = (uint32_t)((uint64_t)n * i / t->nr_threads);

		w->op = op;
		w->first = first + from;
		w->n = (uint32_t)((uint64_t)n * (i + 1) / t->nr_threads) - from;
		w->state = seed * 64 + i;
		w->error = 0;
		w->waits = 0;
		memset(w->lat, 0, sizeof w->lat);
	}
}

int tz_bench_run(struct tz_bench_target *t, enum tz_bench_op op, uint32_t first, uint32_t n,
	uint64_t seed, struct tz_bench_tally *tally, uint32_t *place)
{
	uint64_t all_cpu = tz_bench_now_ns(CLOCK_PROCESS_CPUTIME_ID),
		own_cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	pthread_t ids[TZ_MAX_QUEUES];
	unsigned started;
	int rc;

	if (n > (uint64_t)TZ_BENCH_WINDOW * t->nr_threads || first > t->places ||
	    (op != TZ_BENCH_OVERWRITE && n > t->places - first))
		return -EINVAL;
	prepare(t, op, first, n, seed);
	rc = start(t, ids, &started);
	for (unsigned i = 0; i < started; i++)
		pthread_join(ids[i], NULL);
	all_cpu = tz_bench_now_ns(CLOCK_PROCESS_CPUTIME_ID) - all_cpu;
	own_cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - own_cpu;
	for (unsigned i = 0; i < started; i++) {
		struct worker *w = &t->workers[i];

		add(tally, w);
		own_cpu += w->whole_cpu_ns;
		if (w->error && !rc) {
			rc = w->error;
			*place = w->error_place;
		}
	}
	tally->other_cpu_ns += all_cpu > own_cpu ? all_cpu - own_cpu : 0;
	return rc;
}

void tz_bench_shuffle(struct tz_bench_target *t, uint64_t seed)
{
	for (uint32_t i = t->places - 1; i > 0; i--) {
		uint32_t k = tz_bench_below(&seed, i + 1), other = t->order[k];

		t->order[k] = t->order[i];
		t->order[i] = other;
	}
}

int tz_bench_order(struct tz_bench_target *t, const uint32_t *places, uint32_t n)
{
	if (n > t->places)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++)
		if (places[i] >= t->places)
			return -EINVAL;
	memcpy(t->order, places, n * sizeof *places);
	return 0;
}

/* The statistics at a moment at which the reserve is not being filled or emptied, so that its
 * bytes are part of the memory used. 0, -EIO or -EAGAIN. */
static int read_at_rest(struct tz_bench_target *t, struct tz_stats_sum *sum)
{
	struct timespec pause = { 0, 2000000 };
	struct tz_stats_sum again;
	const char *why;

	for (unsigned tries = 0; tries < 1000; tries++) {
		if (tz_stats_read(t->own->stats, t->own->stats_size, sum, &why))
			return -EIO;
		nanosleep(&pause, NULL);
		if (tz_stats_read(t->own->stats, t->own->stats_size, &again, &why))
			return -EIO;
		if (again.head.mem_used_total == sum->head.mem_used_total &&
			again.head.reserve_bytes == sum->head.reserve_bytes)
			return 0;
	}
	return -EAGAIN;
}

int tz_bench_usage(struct tz_bench_target *t, struct tz_bench_usage *usage)
{
	struct tz_stats_sum sum;
	int rc;

	if (!t->own)
		return -ENOTSUP;
	/* What compaction was reading when it was freed, a thread frees in its next turn. */
	for (unsigned i = 0; i < t->nr_threads; i++) {
		tz_store_begin(tz_store_thread(t->own->store, i));
		tz_store_end(tz_store_thread(t->own->store, i));
	}
	rc = read_at_rest(t, &sum);
	if (rc < 0)
		return rc;
	*usage = (struct tz_bench_usage){
		.orig_bytes = (uint64_t)sum.total.pages_now * TZ_PAGE_SIZE,
		.compr_bytes = (uint64_t)sum.total.compr_bytes_now,
		.used_bytes = sum.head.mem_used_total,
		.reserve_bytes = sum.head.reserve_bytes,
	};
	return 0;
}

/* ---- opening and closing ---- */

void tz_bench_close(struct tz_bench_target *t)
{
	if (!t)
		return;
	tz_own_store_destroy(t->own);
	tz_bench_unmap(t->order, t->places * sizeof *t->order);
	tz_bench_unmap(t->content, t->places * sizeof *t->content);
	tz_bench_unmap(t->workers, t->nr_threads * sizeof *t->workers);
	tz_bench_unmap(t->out, (size_t)t->nr_threads * TZ_BENCH_WINDOW * TZ_PAGE_SIZE);
	free(t);
}

/* All but the store or the device. */
static struct tz_bench_target *make_target(const uint8_t *pages, uint32_t nr_pages, uint32_t places,
	unsigned threads, int *err, char *why, size_t why_size)
{
	struct tz_bench_target *t;

	*err = -EINVAL;
	snprintf(why, why_size, "it takes 1 to %d threads, and a place for each", TZ_MAX_QUEUES);
	if (!nr_pages || threads < 1 || threads > TZ_MAX_QUEUES || places < threads ||
	    places == EMPTY)
		return NULL;
	*err = -ENOMEM;
	snprintf(why, why_size, "no memory for %u threads and %u places", threads, places);
	t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->pages = pages;
	t->nr_pages = nr_pages;
	t->places = places;
	t->nr_threads = threads;
	t->fd = -1;
	t->clock_cost = tz_bench_clock_cost(CLOCK_MONOTONIC);
	t->order = tz_bench_map(places * sizeof *t->order, 1);
	t->content = tz_bench_map(places * sizeof *t->content, 1);
	t->workers = tz_bench_map(threads * sizeof *t->workers, 1);
	t->out = tz_bench_map((size_t)threads * TZ_BENCH_WINDOW * TZ_PAGE_SIZE, 1);
	if (!t->order || !t->content || !t->workers || !t->out) {
		tz_bench_close(t);
		return NULL;
	}
	for (uint32_t i = 0; i < places; i++) {
		t->order[i] = i;
		t->content[i] = EMPTY;
	}
	for (unsigned i = 0; i < threads; i++) {
		t->workers[i].target = t;
		t->workers[i].index = i;
		t->workers[i].out = t->out + (size_t)i * TZ_BENCH_WINDOW * TZ_PAGE_SIZE;
	}
	return t;
}

struct tz_bench_target *tz_bench_open_store(const char *algorithm, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places, unsigned threads, int *err, char *why, size_t why_size)
{
	struct tz_bench_target *t = make_target(pages, nr_pages, places, threads, err, why,
		why_size);
	struct tz_store_config c = {
		.disksize = (uint64_t)places * TZ_PAGE_SIZE, .algorithm = algorithm,
		.nr_threads = threads,
	};

	if (!t)
		return NULL;
	t->own = tz_own_store_create(&c, err, why, why_size);
	if (!t->own) {
		tz_bench_close(t);
		return NULL;
	}
	return t;
}

struct tz_bench_target *tz_bench_open_device(int fd, const uint8_t *pages, uint32_t nr_pages,
	uint32_t places, unsigned threads, int *err, char *why, size_t why_size)
{
	struct tz_bench_target *t = make_target(pages, nr_pages, places, threads, err, why,
		why_size);

	if (t)
		t->fd = fd;
	return t;
}

struct tz_bench_target *tz_bench_open_local(struct tz_local_client *client, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places, unsigned threads, int *err, char *why, size_t why_size)
{
	struct tz_bench_target *t = make_target(pages, nr_pages, places, threads, err, why,
		why_size);

	if (t)
		t->local = client;
	return t;
}
