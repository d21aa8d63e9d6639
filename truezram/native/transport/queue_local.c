/* queue_local.c - the server's side of the local transport: makes the ring, serves its queues
 * (layout: local_ring.h). */
#include "clock.h"
#include "local.h"
#include "local_ring.h"
#include "local_server.h"
#include "lock.h"
#include "queue.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int tz_local_server_create(struct tz_local_server *s, unsigned queues, unsigned depth,
	uint64_t nr_pages, char *why, size_t why_size)
{
	uint64_t stride = tz_ring_queue_stride(depth),
		data = (sizeof(struct tz_ring_head) + 4095) & ~4095ull;
	uint64_t queue_offset = data,
		data_offset = (queue_offset + queues * stride + 4095) & ~4095ull;
	uint64_t size = data_offset + (uint64_t)queues * depth * TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
	int rc;

	*s = (struct tz_local_server){ .fd = -1, .queues = queues, .depth = depth, .size = size,
		.queue_offset = queue_offset, .queue_stride = stride, .data_offset = data_offset };
	s->fd = memfd_create("truezram-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->fd < 0 || ftruncate(s->fd, (off_t)size) < 0 ||
	    fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail;
	do
		/* A shortage shows here, not as SIGBUS later. */
		rc = fallocate(s->fd, 0, 0, (off_t)size);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		goto fail;
	s->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s->fd, 0);
	if (s->base == MAP_FAILED)
		goto fail;
	struct tz_ring_head *h = (struct tz_ring_head *)s->base;
	*h = (struct tz_ring_head){ .magic = TZ_RING_MAGIC, .version = TZ_RING_VERSION,
		.nr_queues = queues, .depth = depth,
		.max_pages = TZ_RING_MAX_PAGES, .nr_pages = nr_pages, .size = size,
		.queue_offset = queue_offset,
		.queue_stride = stride, .data_offset = data_offset, .server_pid = getpid() };
	return 0;
fail:
	rc = -errno;
	snprintf(why, why_size,
		"cannot make the local ring (%llu KiB): %s", (unsigned long long)(size >> 10),
		strerror(-rc));
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	s->base = NULL;
	return rc;
}

void tz_local_server_close(struct tz_local_server *s)
{
	if (!s->base)
		return;
	struct tz_ring_head *h = (struct tz_ring_head *)s->base;
	atomic_store(&h->closed, 1);
	for (unsigned q = 0; q < s->queues; q++) {
		struct tz_ring_queue *rq = tz_local_server_queue(s, q);
		for (unsigned i = 0; i < s->depth; i++)
			tz_futex(&tz_ring_slot(rq, i)->word, FUTEX_WAKE, INT_MAX, NULL);
	}
	munmap(s->base, s->size);
	close(s->fd);
	s->base = NULL;
}

/* ---- the transport (queue.h) ---- */

static unsigned local_op(uint32_t op)
{
	static const uint8_t ops[] =
		{ [TZ_LOCAL_READ] = UBLK_IO_OP_READ, [TZ_LOCAL_WRITE] = UBLK_IO_OP_WRITE,
		[TZ_LOCAL_DISCARD] = UBLK_IO_OP_DISCARD, [TZ_LOCAL_FLUSH] = UBLK_IO_OP_FLUSH };

	return op < sizeof ops / sizeof ops[0] ? ops[op] : UINT8_MAX;
}

/* A slot is `busy` from here until it is answered, whatever a client writes into its word
 * meanwhile. */
static unsigned take(struct tz_queue *q, uint16_t *tags, unsigned most)
{
	struct tz_ring_queue *rq = q->ring;
	unsigned n = 0;

	for (unsigned i = 0; i < q->depth && n < most; i++) {
		struct tz_ring_slot *slot = tz_ring_slot(rq, i);
		struct tz_io *io = &q->ios[i];
		uint32_t word = atomic_load(&slot->word);
		if (io->busy || tz_slot_state(word) != TZ_SLOT_SUBMITTED ||
		    !tz_slot_change(slot, word, TZ_SLOT_SERVING))
			continue;
		io->busy = 1;
		io->mark = tz_slot_with_state(word, TZ_SLOT_SERVING);
		io->op = (uint8_t)local_op(__atomic_load_n(&slot->op, __ATOMIC_RELAXED));
		io->swap = 0;
		io->page = __atomic_load_n(&slot->page, __ATOMIC_RELAXED);
		io->nr_pages = __atomic_load_n(&slot->nr_pages, __ATOMIC_RELAXED);
		tags[n++] = (uint16_t)i;
	}
	return n;
}

static uint8_t *shared_data(const struct tz_queue *q, unsigned tag)
{
	return q->local->base + q->local->data_offset +
		((size_t)q->index * q->local->depth + tag) * TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
}

static uint8_t *bring(struct tz_queue *q, unsigned tag)
{
	const struct tz_io *io = &q->ios[tag];

	if (io->op == UBLK_IO_OP_READ)
		return q->data;
	memcpy(q->write_data, shared_data(q, tag), (size_t)io->nr_pages * TZ_PAGE_SIZE);
	return q->write_data;
}

static int hand_over(struct tz_queue *q, unsigned tag, const uint8_t *data, uint32_t first,
	uint32_t n)
{
	size_t at = (size_t)first * TZ_PAGE_SIZE;

	memcpy(shared_data(q, tag) + at, data + at, (size_t)n * TZ_PAGE_SIZE);
	return 0;
}

static void answer(struct tz_queue *q, unsigned tag, int result)
{
	struct tz_ring_slot *slot = tz_ring_slot(q->ring, tag);
	struct tz_io *io = &q->ios[tag];

	slot->result = result;
	if (!tz_slot_change(slot, io->mark, TZ_SLOT_DONE))	/* the client waits no longer */
		atomic_store(&slot->word, tz_slot_with_state(io->mark, TZ_SLOT_FREE));
	io->busy = 0;
	tz_futex(&slot->word, FUTEX_WAKE, 1, NULL);
}

/* Whether the bell has rung since the round began. */
static int has_rung(const void *arg)
{
	const struct tz_queue *q = arg;
	struct tz_ring_queue *rq = q->ring;

	return atomic_load_explicit(&rq->doorbell, memory_order_acquire) != q->seen;
}

static int has_come(struct tz_queue *q)
{
	return has_rung(q);
}

static const struct tz_queue_ops ops =
	{ take, bring, hand_over, NULL, answer, NULL, has_come, .gathers = 0 };

/* ---- the thread ---- */

static void wait_for_doorbell(struct tz_ring_queue *rq, uint32_t seen, uint64_t most_ns)
{
	struct timespec t = { (time_t)(most_ns / 1000000000u), (long)(most_ns % 1000000000u) };

	atomic_store(&rq->sleeping, 1);
	if (atomic_load(&rq->doorbell) == seen)
		tz_futex(&rq->doorbell, FUTEX_WAIT, seen, most_ns == TZ_FOREVER ? NULL : &t);
	atomic_store(&rq->sleeping, 0);
}

void tz_queue_wake_local(struct tz_queue *q)
{
	struct tz_ring_queue *rq = tz_local_server_queue(q->local, q->index);
	atomic_fetch_add(&rq->doorbell, 1);
	tz_futex(&rq->doorbell, FUTEX_WAKE, 1, NULL);
}

void tz_queue_attach_local(struct tz_queue *q)
{
	q->ops = &ops;
	q->ring = tz_local_server_queue(q->local, q->index);
	q->max_pages = TZ_RING_MAX_PAGES;
}

void tz_queue_run_local(struct tz_queue *q)
{
	tz_queue_attach_local(q);
	struct tz_ring_queue *rq = q->ring;

	tz_queue_serving(q);
	for (;;) {
		q->seen = atomic_load(&rq->doorbell);
		if (atomic_load(&q->stop))
			break;
		tz_queue_round(q);
		uint64_t sleep = tz_queue_may_sleep(q), start;
		uint64_t window = tz_queue_may_spin(q, sleep);
		if (!sleep || (window && tz_queue_spin(q, window, has_rung, q)))
			continue;
		start = tz_now_ns();
		wait_for_doorbell(rq, q->seen, sleep);
		tz_spin_slept(&q->spin, tz_now_ns() - start);
	}
}
