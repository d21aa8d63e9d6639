/* queue.c - what all queue threads share (interface and rules: queue.h). */
#include "queue.h"
#include "clock.h"
#include "thread.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_SIZE (160u << 10)
#define START_SECONDS 10
#define BATCH 64
#define FLUSH_NS 1000000u
#define TELL_NS 1000000000u
#define UNFINISHED 1
#define WRITE_NS 20000u		/* for how long it works on writes before it looks for reads */
#define DISCARD_PIECE (TZ_DISCARD_WORK / 16)		/* likewise, some 12 us */

/* How long a write waits for memory. A swap write waits as long as the pages freed by earlier
 * writes take to reach the reserve's thread (tz-reserve): beyond that it would wait for memory that
 * only it can free, and must fail (the kernel keeps the page and tries another). Others may wait
 * longer, but less than the 120 s after which the kernel calls a task hung that waits for ublk. */
#define WAIT_NS 30000000000ull
#define SWAP_WAIT_NS 2000000000ull
#define RETRY_NS 1000000u
#define RETRY_MAX_NS 10000000u

/* How tz_queues_hold holds requests: until nothing has come for QUIET_NS, but for no longer than
 * HOLD_NS; so many times, with a pause in which they are served. */
#define QUIET_NS 20000000u
#define HOLD_NS 150000000u
#define HOLDS 15
#define HOLD_PAUSE_NS 50000000
#define LOOK_NS 1000000u

/* ---- lists of requests ---- */

void tz_io_push(struct tz_queue *q, struct tz_io_list *list, unsigned tag)
{
	if (list->n++)
		q->ios[list->last].next = (uint16_t)tag;
	else
		list->first = (uint16_t)tag;
	list->last = (uint16_t)tag;
}

unsigned tz_io_pop(struct tz_queue *q, struct tz_io_list *list)
{
	unsigned tag = list->first;

	list->first = q->ios[tag].next;
	list->n--;
	return tag;
}

/* ---- counting ---- */

static void signal_fd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof one) < 0)
		return;		/* an eventfd at its limit is readable all the same */
}

/* So that the control thread logs what a request has failed for. Not more often than once a second:
 * what follows at once is more of the same. */
static void tell_of_error(struct tz_queue *q, int result)
{
	if ((result != -ENOSPC && result != -EIO) ||
		(q->told_at && q->now - q->told_at < TELL_NS))
		return;
	q->told_at = q->now;
	signal_fd(q->end_fd);
}

static void count(struct tz_queue *q, const struct tz_io *io, int result, uint64_t latency_ns)
{
	struct tz_queue_stats *s = q->stats;

	tz_stats_begin(&s->seq);
	switch (io->op) {
	case UBLK_IO_OP_READ:
		tz_stats_add(&s->num_reads, 1);
		tz_stats_add(&s->failed_reads, result < 0);
		tz_stats_add(&s->read_lat[tz_lat_bin(latency_ns)], 1);
		break;
	case UBLK_IO_OP_WRITE:
		tz_stats_add(&s->num_writes, 1);
		tz_stats_add(&s->swap_writes, io->swap);
		tz_stats_add(&s->failed_writes, result < 0);
		tz_stats_add(&s->enospc, result == -ENOSPC);
		tz_stats_add(&s->write_lat[tz_lat_bin(latency_ns)], 1);
		break;
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		tz_stats_add(&s->num_discards, 1);
		break;
	case UBLK_IO_OP_FLUSH:
		tz_stats_add(&s->num_flushes, 1);
		break;
	default:
		break;
	}
	tz_stats_add(&s->invalid_io, result == -EINVAL || result == -EOPNOTSUPP);
	tz_stats_end(&s->seq);
	tell_of_error(q, result);
}

/* ---- rounds ---- */

static int moves_data(const struct tz_io *io)
{
	return io->op == UBLK_IO_OP_READ || io->op == UBLK_IO_OP_WRITE;
}

static int is_discard(const struct tz_io *io)
{
	return io->op == UBLK_IO_OP_DISCARD || io->op == UBLK_IO_OP_WRITE_ZEROES;
}

/* 0, or why the request cannot be served. */
static int fault_of(const struct tz_queue *q, const struct tz_io *io)
{
	if (io->op == UBLK_IO_OP_FLUSH)
		return 0;
	if (!moves_data(io) && !is_discard(io))
		return -EOPNOTSUPP;
	if (io->page > q->nr_pages || io->nr_pages > q->nr_pages - io->page)
		return -EINVAL;
	return moves_data(io) && (io->nr_pages == 0 || io->nr_pages > q->max_pages) ? -EINVAL : 0;
}

/* Counts the requests that have been served since the last time, all with one look at the clock:
 * they go out together, later than this. */
static void settle(struct tz_queue *q)
{
	q->now = tz_now_ns();
	for (unsigned i = 0; i < q->nr_served; i++) {
		const struct tz_io *io = &q->ios[q->served[i]];
		count(q, io, io->answer, q->now - io->since);
	}
	q->nr_served = q->unsettled = 0;
}

/* Sends the answers so far. Outside of the store for a moment, so that a change of algorithm waits
 * no longer than this. */
static void flush(struct tz_queue *q)
{
	if (q->nr_served)	/* a client must not see an answer before it is counted */
		settle(q);
	tz_store_end(q->store);
	if (q->ops->flush)
		q->ops->flush(q);
	tz_store_begin(q->store);
	q->unflushed = 0;
	q->flushed_at = q->now;
}

static unsigned flush_pages(const struct tz_queue *q)
{
	return tz_mode_row(atomic_load_explicit(&q->spin.mode, memory_order_relaxed))->flush_pages;
}

static void finish(struct tz_queue *q, unsigned tag, int result)
{
	struct tz_io *io = &q->ios[tag];
	unsigned pages = moves_data(io) ? io->nr_pages : 1;

	io->answer = result;
	q->served[q->nr_served++] = (uint16_t)tag;
	q->unsettled += pages;
	if (!q->ops->gathers || q->unsettled >= TZ_SETTLE || q->nr_served == TZ_SETTLE)
		settle(q);
	if (tz_suspects_any(q->suspects))
		tz_suspects_complete(q->suspects, io->op, io->page, io->nr_pages, io->done);
	q->unflushed += pages;
	if (q->write_tag == tag)
		q->write_tag = TZ_NO_TAG;
	q->ops->answer(q, tag, result);
	if (q->unflushed >= flush_pages(q) || q->now - q->flushed_at >= FLUSH_NS)
		flush(q);
}

static int read_pages(struct tz_queue *q, struct tz_io *io, uint8_t *data)
{
	for (uint32_t i = io->done; i < io->nr_pages; io->done = ++i) {
		if (i + 1 < io->nr_pages)
			tz_store_prefetch_object(q->store, io->page + i + 1);
		tz_suspect_note(q->stats, io->op, io->page + i);
		int rc = tz_store_read(q->store, io->page + i, data + (size_t)i * TZ_PAGE_SIZE);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int has_come(struct tz_queue *q)
{
	return q->ops->has_come && q->ops->has_come(q);
}

/* Whether something has come, and this round has worked on writes for long enough. The clock can be
 * a system call (User Mode Linux, some virtual machines), so a look at memory comes before it. */
static int reads_are_due(struct tz_queue *q)
{
	if (!q->ops->asks && !has_come(q))
		return 0;
	q->now = tz_now_ns();
	return q->now - q->writes_since >= WRITE_NS && has_come(q);
}

/* Writes what is left of a request's pages, but for UNFINISHED: reads are due. */
static int write_pages(struct tz_queue *q, struct tz_io *io, const uint8_t *data)
{
	while (io->done < io->nr_pages) {
		uint64_t page = io->page + io->done;
		if (io->done + 1 < io->nr_pages)
			tz_store_prefetch_entry(q->store, page + 1);
		tz_suspect_note(q->stats, io->op, page);
		int rc = tz_store_write(q->store, page, data + (size_t)io->done * TZ_PAGE_SIZE);
		if (rc < 0)
			return rc;
		if (++io->done < io->nr_pages && reads_are_due(q))
			return UNFINISHED;
	}
	return 0;
}

/* Who it is that writes matters to whoever follows the device's swap slots. */
static void note_writer(struct tz_queue *q, const struct tz_io *io)
{
	struct tz_swap_knock *knock = q->knock;

	if (!io->swap)
		tz_store_written_by_others(q->store);
	else if (knock && atomic_load_explicit(&knock->wanted, memory_order_relaxed) &&
		 atomic_exchange(&knock->wanted, 0))
		signal_fd(knock->fd);
}

/* Serves a read or a flush, or continues a read. 0, -EINPROGRESS: it waits for the backing file, or
 * negative errno. */
static int serve_read(struct tz_queue *q, unsigned tag)
{
	struct tz_io *io = &q->ios[tag];
	uint32_t first = io->done;
	uint8_t *data;
	int rc;

	if (io->op == UBLK_IO_OP_FLUSH)
		/* Memory is all there is: what is written is as durable as it gets. */
		return 0;
	tz_suspect_note(q->stats, io->op, io->page + io->done);
	data = q->ops->bring(q, tag);
	rc = data ? read_pages(q, io, data) : -EIO;
	/* What is there so far: the buffer is the next request's. */
	if ((rc == 0 || rc == -EINPROGRESS) && io->done > first &&
	    q->ops->hand_over(q, tag, data, first, io->done - first) < 0)
		io->lost = 1;
	if (rc == 0 && io->lost)
		rc = -EIO;
	tz_suspect_note_none(q->stats);
	return rc;
}

/* Serves a write, or continues it: its data is brought once, unless another write came between. 0,
 * UNFINISHED, -EAGAIN: it waits for memory, or negative errno. */
static int serve_write(struct tz_queue *q, unsigned tag)
{
	struct tz_io *io = &q->ios[tag];
	int rc = 0;

	if (io->done == 0)
		note_writer(q, io);
	tz_suspect_note(q->stats, io->op, io->page + io->done);
	if (q->write_tag != tag) {
		q->write_from = q->ops->bring(q, tag);
		q->write_tag = q->write_from ? tag : TZ_NO_TAG;
	}
	rc = q->write_from ? write_pages(q, io, q->write_from) : -EIO;
	tz_suspect_note_none(q->stats);
	return rc;
}

static void wait_for_memory(struct tz_queue *q, unsigned tag)
{
	if (q->waiting.n == 0) {
		q->retry_wait = RETRY_NS;
		q->retry_at = tz_now_ns() + RETRY_NS;
	}
	tz_io_push(q, &q->waiting, tag);
	tz_stats_add(&q->stats->deferred_writes, 1);
}

static void wait_for_backing(struct tz_queue *q, unsigned tag)
{
	tz_io_push(q, &q->reading, tag);
	if (q->reading.n == 1)
		q->ops->fetch(q);
}

/* What the first of those that wait has asked for is there: it goes on, and if that ends it, those
 * after it, as far as they need not wait themselves. */
static void serve_reading(struct tz_queue *q)
{
	int rc = 0;

	q->brought = 0;
	tz_store_brought(q->store, q->brought_result);
	while (q->reading.n && rc != -EINPROGRESS) {
		unsigned tag = q->reading.first;
		rc = serve_read(q, tag);
		tz_store_brought_end(q->store);
		if (rc == -EINPROGRESS)
			q->ops->fetch(q);
		else
			finish(q, tz_io_pop(q, &q->reading), rc);
	}
}

/* Puts a request that has come where it belongs, or fails it. */
static void sort(struct tz_queue *q, unsigned tag)
{
	struct tz_io *io = &q->ios[tag];
	int rc = fault_of(q, io);

	io->done = 0;
	io->lost = 0;
	io->since = q->now;
	if (rc == 0 && tz_suspects_any(q->suspects) &&
	    tz_suspects_refuse(q->suspects, io->op, io->page, io->nr_pages, q->now))
		rc = -EIO;
	if (rc < 0) {
		finish(q, tag, rc);
		return;
	}
	tz_store_prefetch_entry(q->store, io->page % q->nr_pages);
	tz_io_push(q, is_discard(io) ? &q->discards
		: io->op == UBLK_IO_OP_WRITE ? &q->writes : &q->reads, tag);
}

/* Takes what has come, a batch at most, and puts it where it belongs. Returns how many. */
static unsigned take_some(struct tz_queue *q)
{
	uint16_t tags[BATCH];
	unsigned n = q->ops->take(q, tags, BATCH);

	for (unsigned i = 0; i < n; i++)
		sort(q, tags[i]);
	atomic_store_explicit(&q->came,
		atomic_load_explicit(&q->came, memory_order_relaxed) + n, memory_order_relaxed);
	return n;
}

/* If it is to hold requests (queue.h): takes what has come. Returns whether none is to be served
 * now: with all of a queue's requests in our hands the kernel would notice our end only by their
 * timeout, after 30 s (Linux before 6.15). */
static int holds(struct tz_queue *q)
{
	if (!atomic_load_explicit(&q->hold, memory_order_relaxed))
		return 0;
	while (take_some(q) > 0)
		;
	return q->reads.n + q->writes.n + q->waiting.n + q->discards.n + q->reading.n < q->depth;
}

static void serve_reads(struct tz_queue *q)
{
	while (q->reads.n) {
		unsigned tag = tz_io_pop(q, &q->reads);
		if (q->reads.n)
			tz_store_prefetch_object(q->store,
				q->ios[q->reads.first].page % q->nr_pages);
		int rc = serve_read(q, tag);
		if (rc == -EINPROGRESS)
			wait_for_backing(q, tag);
		else
			finish(q, tag, rc);
	}
	if (q->nr_served)	/* `take` may bring their tags again */
		settle(q);
}

/* Takes what has come and serves the reads of it; no more than `depth` requests, so that a queue
 * under load gets to the others. Returns how many. */
static unsigned serve_arrived(struct tz_queue *q)
{
	unsigned n, taken = 0;

	serve_reads(q);		/* that were held */
	while (taken < q->depth && (n = take_some(q)) > 0) {
		serve_reads(q);
		taken += n;
	}
	return taken;
}

/* Serves a request without a store: data is moved, reads are zeros, writes are dropped. */
static int serve_nothing(struct tz_queue *q, unsigned tag)
{
	const struct tz_io *io = &q->ios[tag];
	int rc = fault_of(q, io);
	uint8_t *data;

	if (rc < 0 || !moves_data(io))
		return rc;
	data = q->ops->bring(q, tag);
	if (!data)
		return -EIO;
	if (io->op == UBLK_IO_OP_WRITE)
		return 0;
	memset(data, 0, (size_t)io->nr_pages * TZ_PAGE_SIZE);
	return q->ops->hand_over(q, tag, data, 0, io->nr_pages);
}

/* The round of a queue without a store (server/null.c). */
static void answer_arrived(struct tz_queue *q)
{
	uint16_t tags[BATCH];
	unsigned n, taken = 0;

	while (taken < q->depth && (n = q->ops->take(q, tags, BATCH)) > 0) {
		for (unsigned i = 0; i < n; i++)
			q->ops->answer(q, tags[i], serve_nothing(q, tags[i]));
		taken += n;
	}
}

/* Works on the writes, the oldest first, until they are done or reads are due. */
static void serve_writes(struct tz_queue *q)
{
	while (q->writes.n) {
		unsigned tag = q->writes.first;
		int rc = serve_write(q, tag);
		if (rc == UNFINISHED)
			return;
		tz_io_pop(q, &q->writes);
		if (rc == -EAGAIN)
			wait_for_memory(q, tag);
		else
			finish(q, tag, rc);
		if (q->writes.n && reads_are_due(q))
			return;
	}
}

/* Some work on the oldest discards: a piece at least, and no more than that when something has come
 * meanwhile. */
static void discard_piece(struct tz_queue *q)
{
	unsigned left = TZ_DISCARD_WORK, work = 0;

	while (q->discards.n) {
		if (!work) {
			if (!left || (left < TZ_DISCARD_WORK && has_come(q)))
				break;
			work = DISCARD_PIECE;
			left -= work;
		}
		struct tz_io *io = &q->ios[q->discards.first];
		tz_suspect_note(q->stats, io->op, io->page + io->done);
		io->done += (uint32_t)tz_store_discard_range(q->store, io->page + io->done,
			io->nr_pages - io->done, &work);
		tz_suspect_note_none(q->stats);
		if (io->done == io->nr_pages)
			finish(q, tz_io_pop(q, &q->discards), 0);
	}
	settle(q);
}

/* Tries again what waits for memory, in order: when one still finds none, or reads are due, those
 * after it are not tried. The next time is further away when none was found (each time, its data is
 * compressed again). */
static void retry_waiting(struct tz_queue *q)
{
	unsigned n = q->waiting.n, served = 0;
	int starved = 0, late = 0, give_up = q->stopping || atomic_load(&q->stop);

	q->now = tz_now_ns();
	if (q->now < q->retry_at && !give_up)
		return;
	for (unsigned i = 0; i < n; i++) {
		unsigned tag = tz_io_pop(q, &q->waiting);
		struct tz_io *io = &q->ios[tag];
		int rc = starved || late ? -EAGAIN : serve_write(q, tag);
		late |= rc == UNFINISHED;
		starved |= rc == -EAGAIN && !late;
		served += rc != -EAGAIN;
		if (rc == -EAGAIN && !late &&
		    (give_up || q->now - io->since > (io->swap ? SWAP_WAIT_NS : WAIT_NS)))
			rc = -ENOSPC;
		if (rc == -EAGAIN)
			tz_io_push(q, &q->waiting, tag);
		else if (rc == UNFINISHED)
			tz_io_push(q, &q->writes, tag);
		else
			finish(q, tag, rc);
	}
	q->retry_wait = served ? RETRY_NS : q->retry_wait * 2 < RETRY_MAX_NS
		? q->retry_wait * 2 : RETRY_MAX_NS;
	settle(q);
	q->retry_at = late ? q->now : q->now + q->retry_wait;
}

/* What has come, and some of what is left. Returns how many have come. */
static unsigned serve(struct tz_queue *q)
{
	unsigned taken = serve_arrived(q);

	if (q->brought)
		serve_reading(q);
	if (q->unflushed && (q->writes.n || q->discards.n || q->waiting.n))
		flush(q);	/* what was read does not wait for what follows */
	q->writes_since = q->now;
	if (q->writes.n)
		serve_writes(q);
	if (q->discards.n)
		discard_piece(q);
	if (q->waiting.n)
		retry_waiting(q);
	return taken;
}

void tz_queue_round(struct tz_queue *q)
{
	uint64_t start = tz_now_ns();
	unsigned taken = 0;
	int held;

	if (!q->store) {
		answer_arrived(q);
		return;
	}
	atomic_store_explicit(&q->resting, 0, memory_order_relaxed);
	q->now = q->flushed_at = start;
	q->unflushed = 0;
	tz_store_begin(q->store);
	held = holds(q);
	if (!held)
		taken = serve(q);
	if (q->nr_served)
		settle(q);
	tz_store_end(q->store);
	tz_stats_add(&q->stats->drains, taken > 0);
	tz_stats_add(&q->stats->busy_ns, (int64_t)(q->now - start));
	atomic_store_explicit(&q->resting, held || !tz_queue_has_work(q), memory_order_relaxed);
}

uint64_t tz_queue_may_sleep(const struct tz_queue *q)
{
	uint64_t now;

	if (atomic_load_explicit(&q->hold, memory_order_relaxed))
		return LOOK_NS;
	if (q->discards.n || q->writes.n || q->reads.n || q->brought)
		return 0;
	if (!q->waiting.n)
		return TZ_FOREVER;
	now = tz_now_ns();
	return now < q->retry_at ? q->retry_at - now : 0;
}

uint64_t tz_queue_may_spin(struct tz_queue *q, uint64_t sleep)
{
	return sleep == TZ_FOREVER ? tz_spin_window(&q->spin, q->now) : 0;
}

int tz_queue_spin(struct tz_queue *q, uint64_t window, int (*come)(const void *arg),
	const void *arg)
{
	uint64_t spent;
	int came = tz_spin(&q->spin, window, come, arg, &spent);

	tz_stats_add(&q->stats->spin_ns, (int64_t)spent);
	tz_stats_add(&q->stats->spin_hits, came);
	return came;
}

/* ---- holding requests ---- */

static void pause_for(uint64_t ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = (long)ns }, NULL);
}

static int hold_once(struct tz_queue *queues, unsigned n)
{
	uint64_t start = tz_now_ns(), now = start, since = start, before = 0, came;
	int rest;

	for (unsigned i = 0; i < n; i++)
		atomic_store(&queues[i].hold, 1);
	do {
		pause_for(LOOK_NS);
		now = tz_now_ns();
		came = 0;
		rest = 1;
		for (unsigned i = 0; i < n; i++) {
			came += atomic_load(&queues[i].came);
			rest &= atomic_load(&queues[i].resting);
		}
		if (!rest || came != before)
			since = now;
		else if (now - since >= QUIET_NS)
			return 0;
		before = came;
	} while (now - start < HOLD_NS);
	tz_queues_release(queues, n);
	return -EBUSY;
}

int tz_queues_hold(struct tz_queue *queues, unsigned n)
{
	int rc = hold_once(queues, n);

	for (unsigned i = 1; i < HOLDS && rc < 0; i++) {
		pause_for(HOLD_PAUSE_NS);
		rc = hold_once(queues, n);
	}
	return rc;
}

void tz_queues_release(struct tz_queue *queues, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		atomic_store(&queues[i].hold, 0);
}

/* ---- trouble ---- */

void tz_queue_trouble(struct tz_queue *q, enum tz_trouble what, int err)
{
	uint32_t times = (uint32_t)(atomic_load(&q->trouble) >> 32) + 1;

	atomic_store(&q->trouble,
		(uint64_t)times << 32 | (uint64_t)what << 16 | (uint16_t)(err < 0 ? -err : err));
	if ((times & (times - 1)) == 0)		/* 1, 2, 4 ...: the log stays readable */
		signal_fd(q->end_fd);	/* the control thread's */
}

int tz_queue_report(struct tz_queue *q, char *text, size_t size)
{
	static const char *const what[] = { [TZ_TROUBLE_ENTER] = "io_uring_enter failed",
		[TZ_TROUBLE_COMMAND] = "the kernel refused a command",
		[TZ_TROUBLE_FULL] = "the submission queue is full" };
	uint64_t trouble = atomic_load(&q->trouble);
	uint32_t times = (uint32_t)(trouble >> 32);

	if (times == q->trouble_reported)
		return 0;
	q->trouble_reported = times;
	snprintf(text, size, "queue %u: %s: %s (%u times so far); it is tried again", q->index,
		what[trouble >> 16 & 3], strerror((int)(trouble & 0xffff)), times);
	return 1;
}

/* ---- the thread ---- */

struct start {
	struct tz_queue *q;
	void (*run)(struct tz_queue *);
};

/* The CPUs of the mask, where there are several. A mask of one is the CPU of those whose requests
 * come here: pinned there, the thread would push its own client off the CPU at each request that
 * arrives, so that requests come one at a time whatever the depth, while another CPU may be idle.
 * Then the thread runs where the server may, and the kernel prefers an idle CPU. */
static void place(struct tz_queue *q)
{
	cpu_set_t set;
	uint32_t first = UINT32_MAX;

	CPU_ZERO(&set);
	for (unsigned cpu = 0; cpu < sizeof q->cpu_mask * 8 && cpu < CPU_SETSIZE; cpu++) {
		if (q->cpu_mask[cpu / 8] >> (cpu % 8) & 1) {
			CPU_SET(cpu, &set);
			if (first == UINT32_MAX)
				first = cpu;
		}
	}
	if (CPU_COUNT(&set) < 2 || sched_setaffinity(0, sizeof set, &set) < 0)
		first = UINT32_MAX;	/* also: CPUs offline or not ours (cgroup) */
	q->stats->cpu = first;
}

static void *thread_main(void *arg)
{
	struct start start = *(struct start *)arg;
	struct tz_queue *q = start.q;
	char name[16];

	snprintf(name, sizeof name, "tz-queue-%u", q->index % 1000);
	atomic_store(&q->io_flusher, tz_thread_begin(name));
	q->stats->tid = (uint32_t)syscall(SYS_gettid);
	place(q);
	start.run(q);
	if (atomic_load(&q->state) >= 0)
		atomic_store(&q->state, TZ_QUEUE_ENDED);
	signal_fd(q->end_fd);
	return NULL;
}

void tz_queue_serving(struct tz_queue *q)
{
	atomic_store(&q->resting, 1);
	atomic_store(&q->state, TZ_QUEUE_SERVING);
}

static size_t ios_size(const struct tz_queue *q)
{
	return (q->depth * sizeof(struct tz_io) + 4095) & ~(size_t)4095;
}

static int allocate(struct tz_queue *q)
{
	size_t data = 2 * TZ_UBLK_MAX_IO, ios = ios_size(q);
	int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;

	q->stack = mmap(NULL, STACK_SIZE, prot, flags | MAP_STACK, -1, 0);
	q->data = mmap(NULL, data, prot, flags, -1, 0);
	q->ios = mmap(NULL, ios, prot, flags, -1, 0);
	if (q->stack == MAP_FAILED || q->data == MAP_FAILED || q->ios == MAP_FAILED)
		return -ENOMEM;
	q->write_data = q->data + TZ_UBLK_MAX_IO;
	q->write_tag = TZ_NO_TAG;
	/* Guard page: overflow is a crash, not a scribble. */
	mprotect(q->stack, 4096, PROT_NONE);
	return 0;
}

int tz_queue_start(struct tz_queue *q, void (*run)(struct tz_queue *), char *why, size_t why_size)
{
	struct start start = { q, run };
	struct timespec pause = { 0, 1000000 };
	pthread_attr_t attr;
	int rc = allocate(q);

	if (rc == 0) {
		pthread_attr_init(&attr);
		pthread_attr_setstack(&attr, (char *)q->stack + 4096, STACK_SIZE - 4096);
		rc = -pthread_create(&q->thread, &attr, thread_main, &start);
		pthread_attr_destroy(&attr);
	}
	if (rc < 0) {
		snprintf(why, why_size, "cannot start queue %u: %s", q->index, strerror(-rc));
		return rc;
	}
	q->started = 1;
	for (int ms = 0; atomic_load(&q->state) == TZ_QUEUE_STARTING && ms < START_SECONDS * 1000;
	    ms++)
		nanosleep(&pause, NULL);
	rc = atomic_load(&q->state);
	if (rc > TZ_QUEUE_STARTING)	/* it may have ended by now */
		return 0;
	rc = rc < 0 ? rc : -ETIMEDOUT;
	snprintf(why, why_size, "queue %u does not serve: %s", q->index, strerror(-rc));
	return rc;
}

static void unmap(void *memory, size_t size)
{
	if (memory && memory != MAP_FAILED)
		munmap(memory, size);
}

void tz_queue_join(struct tz_queue *q)
{
	struct timespec pause = { 0, 1000000 };

	atomic_store(&q->stop, 1);
	/* Again and again: the word that a local queue waits on belongs to its clients as well. */
	while (q->started && atomic_load(&q->state) == TZ_QUEUE_SERVING) {
		if (q->wake)
			q->wake(q);
		if (atomic_load(&q->state) == TZ_QUEUE_SERVING)
			nanosleep(&pause, NULL);
	}
	if (q->started)
		pthread_join(q->thread, NULL);
	q->started = 0;
	unmap(q->stack, STACK_SIZE);
	unmap(q->data, 2 * TZ_UBLK_MAX_IO);
	unmap(q->ios, ios_size(q));
	q->stack = q->data = NULL;
	q->ios = NULL;
}
