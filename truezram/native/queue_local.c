/* queue_local.c - the server's side of the local transport: makes the ring, serves its queues (layout: local_ring.h). */
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

#define RETRY_NS 30000000000ull	/* well below the 120 s of a hung task */
#define IDLE_NS 100000000		/* a look at `stop` now and then; a request rings the doorbell */

int tz_local_server_create(struct tz_local_server *s, unsigned queues, unsigned depth, uint64_t nr_pages, char *why, size_t why_size)
{
	uint64_t stride = tz_ring_queue_stride(depth), data = (sizeof(struct tz_ring_head) + 4095) & ~4095ull;
	uint64_t queue_offset = data, data_offset = (queue_offset + queues * stride + 4095) & ~4095ull;
	uint64_t size = data_offset + (uint64_t)queues * depth * TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
	int rc;

	*s = (struct tz_local_server){ .fd = -1, .queues = queues, .depth = depth, .size = size,
		.queue_offset = queue_offset, .queue_stride = stride, .data_offset = data_offset };
	s->fd = memfd_create("truezram-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->fd < 0 || ftruncate(s->fd, (off_t)size) < 0 ||
	    fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail;
	do
		rc = fallocate(s->fd, 0, 0, (off_t)size);	/* a shortage shows here, not as SIGBUS later */
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		goto fail;
	s->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s->fd, 0);
	if (s->base == MAP_FAILED)
		goto fail;
	struct tz_ring_head *h = (struct tz_ring_head *)s->base;
	*h = (struct tz_ring_head){ .magic = TZ_RING_MAGIC, .version = TZ_RING_VERSION, .nr_queues = queues, .depth = depth,
		.max_pages = TZ_RING_MAX_PAGES, .nr_pages = nr_pages, .size = size, .queue_offset = queue_offset,
		.queue_stride = stride, .data_offset = data_offset, .server_pid = getpid() };
	return 0;
fail:
	rc = -errno;
	snprintf(why, why_size, "cannot make the local ring (%llu KiB): %s", (unsigned long long)(size >> 10), strerror(-rc));
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
			tz_futex(&tz_ring_slot(rq, i)->state, FUTEX_WAKE, INT_MAX, NULL);
	}
	munmap(s->base, s->size);
	close(s->fd);
	s->base = NULL;
}

static int local_op(uint32_t op, unsigned *out)
{
	static const unsigned ops[] = { [TZ_LOCAL_READ] = UBLK_IO_OP_READ, [TZ_LOCAL_WRITE] = UBLK_IO_OP_WRITE,
		[TZ_LOCAL_DISCARD] = UBLK_IO_OP_DISCARD, [TZ_LOCAL_FLUSH] = UBLK_IO_OP_FLUSH };

	if (op >= sizeof ops / sizeof ops[0])
		return -EOPNOTSUPP;
	*out = ops[op];
	return 0;
}

/* Serves one submitted slot; waits for the slab thread where a write must (there is no swap behind this transport). */
static int serve_slot(struct tz_queue *q, const struct tz_ring_slot *slot, struct tz_io *io, uint8_t *shared)
{
	io->done = 0;
	io->page = __atomic_load_n(&slot->page, __ATOMIC_RELAXED);
	io->nr_pages = __atomic_load_n(&slot->nr_pages, __ATOMIC_RELAXED);
	int rc = local_op(__atomic_load_n(&slot->op, __ATOMIC_RELAXED), &io->op);
	int moves = io->op == UBLK_IO_OP_READ || io->op == UBLK_IO_OP_WRITE;
	size_t len = (size_t)io->nr_pages * TZ_PAGE_SIZE;
	struct timespec pause = { 0, 1000000 };

	if (rc < 0)
		return rc;
	if (moves && (io->nr_pages == 0 || io->nr_pages > TZ_RING_MAX_PAGES))
		return -EINVAL;
	if (io->op == UBLK_IO_OP_WRITE)
		memcpy(q->data, shared, len);
	uint64_t start = tz_now_ns();
	while ((rc = tz_queue_serve(q, io, q->data)) == -EAGAIN) {
		if (tz_now_ns() - start > RETRY_NS || atomic_load(&q->stop))
			return -ENOSPC;
		tz_store_end(q->store);
		nanosleep(&pause, NULL);
		tz_store_begin(q->store);
	}
	if (rc == 0 && io->op == UBLK_IO_OP_READ)
		memcpy(shared, q->data, len);
	return rc;
}

/* Serves every slot that is submitted now. Returns how many. */
static unsigned drain(struct tz_queue *q, struct tz_ring_queue *rq)
{
	unsigned served = 0;
	uint64_t start = tz_now_ns();

	tz_store_begin(q->store);
	for (unsigned i = 0; i < q->local->depth; i++) {
		struct tz_ring_slot *slot = tz_ring_slot(rq, i);
		uint32_t submitted = TZ_SLOT_SUBMITTED;
		if (!atomic_compare_exchange_strong(&slot->state, &submitted, TZ_SLOT_SERVING))
			continue;
		struct tz_io io = { 0 };
		uint8_t *shared = q->local->base + q->local->data_offset +
			((size_t)q->index * q->local->depth + i) * TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
		uint64_t since = tz_now_ns();
		int rc = serve_slot(q, slot, &io, shared);
		tz_queue_count(q, &io, rc, tz_now_ns() - since);
		slot->result = rc;
		atomic_store(&slot->state, TZ_SLOT_DONE);
		tz_futex(&slot->state, FUTEX_WAKE, 1, NULL);
		served++;
	}
	tz_store_end(q->store);
	if (served) {
		struct tz_queue_stats *s = q->stats;
		__atomic_store_n(&s->drains, s->drains + 1, __ATOMIC_RELAXED);
		__atomic_store_n(&s->busy_ns, s->busy_ns + (tz_now_ns() - start), __ATOMIC_RELAXED);
	}
	return served;
}

void tz_queue_run_local(struct tz_queue *q)
{
	struct tz_ring_queue *rq = tz_local_server_queue(q->local, q->index);
	struct timespec idle = { 0, IDLE_NS };

	tz_queue_serving(q);
	while (!atomic_load(&q->stop)) {
		uint32_t seen = atomic_load(&rq->doorbell);
		if (drain(q, rq))
			continue;
		atomic_store(&rq->sleeping, 1);
		if (atomic_load(&rq->doorbell) == seen)
			tz_futex(&rq->doorbell, FUTEX_WAIT, seen, &idle);
		atomic_store(&rq->sleeping, 0);
	}
}
