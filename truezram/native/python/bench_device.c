/* bench_device.c - a load on a block device (interface: bench_device.h).
 *
 * One call is one stretch of time: each thread makes its ring, waits for the others, keeps its
 * requests in flight until the time is over, and waits for the last answers. A call takes some
 * tenths of a second, so that its caller can be interrupted between two.
 *
 * A request's time runs from the moment before the system call that submits it to the moment after
 * the one that finds it answered. Comparing is not part of that, but it takes this thread's time,
 * as a program would use what it has read.
 */
#include "bench_device.h"
#include "bench.h"
#include "clock.h"
#include "uring.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define POISON 0xa5		/* what a buffer begins with before it is read into */
#define UNKNOWN UINT32_MAX	/* in content[]: not written yet */

struct slot {			/* a request in flight */
	uint64_t since;
	uint32_t block, source;
	int writes;
};

struct job {
	struct tz_disk *disk;
	const struct tz_load *load;
	unsigned index;
	uint32_t first, blocks;	/* its part of the device */
	uint32_t next, left;	/* for sequential loads; left: still to be sent, if each is once */
	uint64_t state;		/* of the random numbers */
	uint64_t ends;		/* when no more are sent; 0: when all have been */
	struct tz_uring ring;
	struct slot slots[TZ_LOAD_DEPTH];
	uint16_t fresh[TZ_LOAD_DEPTH];	/* slots that get their time before the next system call */
	unsigned nr_fresh, in_flight;
	uint8_t *buffers;	/* a block for each slot */
	int error;
	uint32_t error_place;
	struct tz_load_tally tally;
};

struct tz_disk {
	int fd;
	enum tz_disk_holds holds;
	const uint8_t *pages;
	uint32_t nr_pages, places;
	uint32_t *content;	/* by place: index of the page that is there; NULL if it does not
				 * hold pages */
	uint8_t *busy;		/* by block of the load: a request is in flight */
	uint32_t at[TZ_LOAD_JOBS];	/* where a sequential load goes on */
	uint64_t at_load;	/* what the entries of at[] are of */
	atomic_uint ready, wanted;
};

/* ---- one request ---- */

static int is_sequential(const struct tz_load *load)
{
	return load->kind == TZ_LOAD_READ || load->kind == TZ_LOAD_WRITE;
}

static int chooses_write(struct job *j)
{
	switch (j->load->kind) {
	case TZ_LOAD_RANDWRITE:
	case TZ_LOAD_WRITE:
		return 1;
	case TZ_LOAD_MIXED:
		return tz_bench_below(&j->state, 100) >= TZ_LOAD_READS;
	default:
		return 0;
	}
}

/* A block of its part that no request is in flight for: there are more blocks than requests. */
static uint32_t choose_block(struct job *j)
{
	uint32_t n = is_sequential(j->load) ? j->next : tz_bench_below(&j->state, j->blocks);

	while (j->disk->busy[j->first + n])
		n = n + 1 == j->blocks ? 0 : n + 1;
	j->next = n + 1 == j->blocks ? 0 : n + 1;
	return j->first + n;
}

static void send_one(struct job *j, unsigned tag)
{
	const struct tz_disk *d = j->disk;
	uint32_t block = j->load->block;
	size_t bytes = (size_t)block * TZ_PAGE_SIZE;
	struct slot *s = &j->slots[tag];
	uint8_t *buffer = j->buffers + tag * bytes;
	struct tz_sqe *sqe = tz_uring_sqe(&j->ring);

	if (!sqe) {		/* cannot be: there is an entry for each slot */
		j->error = -EBUSY;
		return;
	}
	s->writes = chooses_write(j);
	s->block = choose_block(j);
	s->source = s->writes ? tz_bench_below(&j->state, d->nr_pages - block + 1) : UNKNOWN;
	d->busy[s->block] = 1;
	if (!s->writes)
		buffer[0] = buffer[bytes - 1] = POISON;
	sqe->opcode = s->writes ? TZ_IORING_OP_WRITE : TZ_IORING_OP_READ;
	sqe->fd = d->fd;
	sqe->addr = (uint64_t)(uintptr_t)(s->writes ? d->pages + (size_t)s->source * TZ_PAGE_SIZE
		: buffer);
	sqe->len = (uint32_t)bytes;
	sqe->off = (uint64_t)s->block * bytes;
	sqe->user_data = tag;
	j->fresh[j->nr_fresh++] = (uint16_t)tag;
	j->in_flight++;
	j->left -= j->left > 0;
}

static void compare(struct job *j, const struct slot *s, const uint8_t *data)
{
	static const uint8_t zeros[TZ_PAGE_SIZE];
	const struct tz_disk *d = j->disk;
	uint32_t place = s->block * j->load->block;

	for (uint32_t i = 0; i < j->load->block; i++, place++, data += TZ_PAGE_SIZE) {
		const uint8_t *wanted = zeros;

		if (d->holds == TZ_DISK_HOLDS_PAGES) {
			if (d->content[place] == UNKNOWN)
				continue;
			wanted = d->pages + (size_t)d->content[place] * TZ_PAGE_SIZE;
		}
		j->tally.compared++;
		if (memcmp(data, wanted, TZ_PAGE_SIZE) && !j->error) {
			j->error = -EILSEQ;
			j->error_place = place;
		}
	}
}

static void finish(struct job *j, unsigned tag, int result, uint64_t now)
{
	struct tz_disk *d = j->disk;
	struct slot *s = &j->slots[tag];
	uint32_t block = j->load->block, place = s->block * block;
	size_t bytes = (size_t)block * TZ_PAGE_SIZE;

	j->in_flight--;
	d->busy[s->block] = 0;
	j->tally.lat[tz_bench_lat_bin(now - s->since)]++;
	j->tally.requests++;
	if (result != (int)bytes && !j->error) {
		j->error = result < 0 ? result : -EIO;
		j->error_place = place;
	}
	if (s->writes) {
		j->tally.writes++;
		/* What a write that failed has left there is not known. */
		for (uint32_t i = 0; d->content && i < block; i++)
			d->content[place + i] = result == (int)bytes ? s->source + i : UNKNOWN;
	} else {
		j->tally.reads++;
		if (d->holds != TZ_DISK_HOLDS_UNKNOWN && !j->error)
			compare(j, s, j->buffers + tag * bytes);
	}
}

/* ---- a thread ---- */

static int may_send(const struct job *j, uint64_t now)
{
	return !j->error && (j->ends ? now < j->ends : j->left > 0);
}

/* Answers all that has come, and sends as many again. */
static void turn(struct job *j)
{
	uint64_t now = tz_now_ns();
	struct tz_cqe *cqe;

	while ((cqe = tz_uring_peek(&j->ring))) {
		unsigned tag = (unsigned)cqe->user_data;
		int result = cqe->res;

		tz_uring_seen(&j->ring);
		finish(j, tag, result, now);
		if (may_send(j, now))
			send_one(j, tag);
	}
}

static void submit_and_wait(struct job *j)
{
	uint64_t now = tz_now_ns();
	int rc;

	for (unsigned i = 0; i < j->nr_fresh; i++)
		j->slots[j->fresh[i]].since = now;
	j->nr_fresh = 0;
	rc = tz_uring_enter(&j->ring, TZ_FOREVER);
	if (rc < 0 && rc != -EINTR && rc != -ETIME && rc != -EAGAIN && rc != -EBUSY && !j->error)
		j->error = rc;
}

static void work(struct job *j)
{
	uint64_t start = tz_now_ns(), cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);

	j->ends = j->load->ms ? start + (uint64_t)j->load->ms * 1000000u : 0;
	for (unsigned tag = 0; tag < j->load->depth && may_send(j, start); tag++)
		send_one(j, tag);
	while (j->in_flight) {
		submit_and_wait(j);
		turn(j);
	}
	j->tally.ns = tz_now_ns() - start;
	j->tally.cpu_ns = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
}

static void wait_for_all(struct tz_disk *d)
{
	atomic_fetch_add(&d->ready, 1);
	while (atomic_load(&d->ready) < atomic_load(&d->wanted))
		sched_yield();
}

/* The ring belongs to the thread that makes it. Requests in flight are over when it goes. */
static void *thread_main(void *arg)
{
	struct job *j = arg;
	int rc = tz_uring_init(&j->ring, j->load->depth, TZ_URING_IOWAIT);

	if (rc == 0 && (rc = tz_uring_enable_all(&j->ring)) < 0)
		tz_uring_exit(&j->ring);
	j->error = rc < 0 ? rc : 0;
	wait_for_all(j->disk);
	if (rc < 0)
		return NULL;
	work(j);
	tz_uring_exit(&j->ring);
	return NULL;
}

/* ---- a call ---- */

static int is_possible(const struct tz_disk *d, const struct tz_load *load)
{
	return load->block >= 1 && load->block <= TZ_LOAD_BLOCK && load->block <= d->nr_pages &&
		load->depth >= 1 && load->depth <= TZ_LOAD_DEPTH &&
		load->jobs >= 1 && load->jobs <= TZ_LOAD_JOBS &&
		(load->ms || is_sequential(load)) &&
		d->places / load->block / load->jobs > load->depth;
}

static void prepare(struct tz_disk *d, const struct tz_load *load, struct job *jobs,
	uint8_t *buffers)
{
	uint32_t blocks = d->places / load->block;
	uint64_t kind = (uint64_t)load->kind << 48 | (uint64_t)load->block << 32 | load->jobs;

	/* A sequential load goes on where the last such one ended, unless it is for all blocks. */
	if (d->at_load != kind || !load->ms)
		memset(d->at, 0, sizeof d->at);
	d->at_load = kind;
	memset(d->busy, 0, blocks);
	atomic_store(&d->ready, 0);
	atomic_store(&d->wanted, load->jobs);
	for (unsigned i = 0; i < load->jobs; i++) {
		struct job *j = &jobs[i];

		j->disk = d;
		j->load = load;
		j->index = i;
		j->first = (uint32_t)((uint64_t)blocks * i / load->jobs);
		j->blocks = (uint32_t)((uint64_t)blocks * (i + 1) / load->jobs) - j->first;
		j->next = d->at[i];
		j->left = load->ms ? 0 : j->blocks;
		j->state = load->seed * TZ_LOAD_JOBS + i;
		j->buffers = buffers + (size_t)i * load->depth * load->block * TZ_PAGE_SIZE;
	}
}

static void add(struct tz_load_tally *sum, const struct tz_load_tally *one)
{
	sum->requests += one->requests;
	sum->reads += one->reads;
	sum->writes += one->writes;
	sum->compared += one->compared;
	sum->cpu_ns += one->cpu_ns;
	for (unsigned i = 0; i < TZ_BENCH_LAT_BINS; i++)
		sum->lat[i] += one->lat[i];
}

/* Signals are the caller's. If a thread cannot be started, those that were must not wait for it. */
static int start_and_join(struct tz_disk *d, struct job *jobs, unsigned n)
{
	pthread_t ids[TZ_LOAD_JOBS];
	sigset_t all, before;
	unsigned started;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (started = 0; started < n && !rc; started += !rc)
		rc = pthread_create(&ids[started], NULL, thread_main, &jobs[started]);
	if (rc)
		atomic_store(&d->wanted, started);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	for (unsigned i = 0; i < started; i++)
		pthread_join(ids[i], NULL);
	return -rc;
}

int tz_disk_run(struct tz_disk *d, const struct tz_load *load, struct tz_load_tally *tally,
	uint32_t *place)
{
	size_t jobs_size = load->jobs * sizeof(struct job), room;
	uint64_t longest = 0;
	struct job *jobs;
	uint8_t *buffers;
	int rc = -ENOMEM;

	if (!is_possible(d, load))
		return -EINVAL;
	room = (size_t)load->jobs * load->depth * load->block * TZ_PAGE_SIZE;
	jobs = tz_bench_map(jobs_size, 1);
	buffers = tz_bench_map(room, 1);
	if (jobs && buffers) {
		prepare(d, load, jobs, buffers);
		rc = start_and_join(d, jobs, load->jobs);
		for (unsigned i = 0; i < load->jobs; i++) {
			add(tally, &jobs[i].tally);
			d->at[i] = jobs[i].next;
			longest = jobs[i].tally.ns > longest ? jobs[i].tally.ns : longest;
			if (jobs[i].error && !rc) {
				rc = jobs[i].error;
				*place = jobs[i].error_place;
			}
		}
		tally->ns += longest;
	}
	tz_bench_unmap(jobs, jobs_size);
	tz_bench_unmap(buffers, room);
	return rc;
}

/* ---- opening and closing ---- */

struct tz_disk *tz_disk_open(int fd, enum tz_disk_holds holds, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places)
{
	struct tz_disk *d = calloc(1, sizeof *d);

	if (!d)
		return NULL;
	d->fd = fd;
	d->holds = holds;
	d->pages = pages;
	d->nr_pages = nr_pages;
	d->places = places;
	if (holds == TZ_DISK_HOLDS_PAGES)
		d->content = tz_bench_map(places * sizeof *d->content, 1);
	d->busy = calloc(places, 1);
	if (!d->busy || (holds == TZ_DISK_HOLDS_PAGES && !d->content)) {
		tz_disk_close(d);
		return NULL;
	}
	for (uint32_t i = 0; d->content && i < places; i++)
		d->content[i] = UNKNOWN;
	return d;
}

void tz_disk_close(struct tz_disk *d)
{
	if (!d)
		return;
	tz_bench_unmap(d->content, d->places * sizeof *d->content);
	free(d->busy);
	free(d);
}
