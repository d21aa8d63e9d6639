/* queue.c - what all queue threads share (interface and rules: queue.h). */
#include "queue.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

#define STACK_SIZE (160u << 10)
#define START_SECONDS 10

uint64_t tz_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- serving ---- */

static int serve_pages(struct tz_queue *q, struct tz_io *io, uint8_t *data)
{
	int write = io->op == UBLK_IO_OP_WRITE;

	for (uint32_t i = io->done; i < io->nr_pages; io->done = ++i) {
		if (i + 1 < io->nr_pages) {
			if (write)
				tz_store_prefetch_entry(q->store, io->page + i + 1);
			else
				tz_store_prefetch_object(q->store, io->page + i + 1);
		}
		int rc = write ? tz_store_write(q->store, io->page + i, data + (size_t)i * TZ_PAGE_SIZE)
			: tz_store_read(q->store, io->page + i, data + (size_t)i * TZ_PAGE_SIZE);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int tz_queue_serve(struct tz_queue *q, struct tz_io *io, uint8_t *data)
{
	if (io->op != UBLK_IO_OP_FLUSH && (io->page > q->nr_pages || io->nr_pages > q->nr_pages - io->page))
		return -EINVAL;
	switch (io->op) {
	case UBLK_IO_OP_READ:
	case UBLK_IO_OP_WRITE:
		return serve_pages(q, io, data);
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		for (uint32_t i = 0; i < io->nr_pages; i++)
			tz_store_discard(q->store, io->page + i);
		return 0;
	case UBLK_IO_OP_FLUSH:
		return 0;	/* memory is all there is: what is written is as durable as it gets */
	default:
		return -EOPNOTSUPP;
	}
}

static void bump(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

void tz_queue_count(struct tz_queue *q, const struct tz_io *io, int result, uint64_t latency_ns)
{
	struct tz_queue_stats *s = q->stats;

	__atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	switch (io->op) {
	case UBLK_IO_OP_READ:
		bump(&s->num_reads);
		if (result < 0)
			bump(&s->failed_reads);
		bump(&s->read_lat[tz_lat_bin(latency_ns)]);
		break;
	case UBLK_IO_OP_WRITE:
		bump(&s->num_writes);
		if (io->swap)
			bump(&s->swap_writes);
		if (result < 0)
			bump(&s->failed_writes);
		if (result == -ENOSPC)
			bump(&s->enospc);
		bump(&s->write_lat[tz_lat_bin(latency_ns)]);
		break;
	case UBLK_IO_OP_DISCARD:
	case UBLK_IO_OP_WRITE_ZEROES:
		bump(&s->num_discards);
		break;
	case UBLK_IO_OP_FLUSH:
		bump(&s->num_flushes);
		break;
	default:
		break;
	}
	if (result == -EINVAL || result == -EOPNOTSUPP)
		bump(&s->invalid_io);
	__atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELEASE);
}

/* ---- the thread ---- */

struct start {
	struct tz_queue *q;
	void (*run)(struct tz_queue *);
};

/* CPUs of the mask; the one recorded is the first. */
static void pin(struct tz_queue *q)
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
	if (first != UINT32_MAX && sched_setaffinity(0, sizeof set, &set) < 0)
		first = UINT32_MAX;	/* CPUs offline or not ours (cgroup): run where we may */
	q->stats->cpu = first;
}

static void *thread_main(void *arg)
{
	struct start start = *(struct start *)arg;
	struct tz_queue *q = start.q;
	char name[16];
	uint64_t one = 1;

	snprintf(name, sizeof name, "tz-queue-%u", q->index % 1000);
	prctl(PR_SET_NAME, name);
	/* Per thread; without CAP_SYS_RESOURCE it fails, which an ordinary user's local device can live with. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	atomic_store(&q->io_flusher, prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1);
	q->stats->tid = (uint32_t)syscall(SYS_gettid);
	pin(q);
	start.run(q);
	if (atomic_load(&q->state) >= 0)
		atomic_store(&q->state, TZ_QUEUE_ENDED);
	if (write(q->end_fd, &one, sizeof one) < 0)
		return NULL;	/* an eventfd at its limit is readable all the same */
	return NULL;
}

void tz_queue_serving(struct tz_queue *q)
{
	atomic_store(&q->state, TZ_QUEUE_SERVING);
}

static int allocate(struct tz_queue *q)
{
	size_t data = TZ_UBLK_MAX_IO;
	int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;

	q->stack = mmap(NULL, STACK_SIZE, prot, flags | MAP_STACK, -1, 0);
	q->data = mmap(NULL, data, prot, flags, -1, 0);
	if (q->stack == MAP_FAILED || q->data == MAP_FAILED)
		return -ENOMEM;
	mprotect(q->stack, 4096, PROT_NONE);	/* guard page: overflow is a crash, not a scribble */
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
	for (int ms = 0; atomic_load(&q->state) == TZ_QUEUE_STARTING && ms < START_SECONDS * 1000; ms++)
		nanosleep(&pause, NULL);
	rc = atomic_load(&q->state);
	if (rc == TZ_QUEUE_SERVING)
		return 0;
	rc = rc < 0 ? rc : -ETIMEDOUT;
	snprintf(why, why_size, "queue %u does not serve: %s", q->index, strerror(-rc));
	return rc;
}

void tz_queue_join(struct tz_queue *q)
{
	if (q->started)
		pthread_join(q->thread, NULL);
	q->started = 0;
	if (q->stack && q->stack != MAP_FAILED)
		munmap(q->stack, STACK_SIZE);
	if (q->data && q->data != MAP_FAILED)
		munmap(q->data, TZ_UBLK_MAX_IO);
	q->stack = q->data = NULL;
}
