/* local_client.c - the client's side of the local transport (interface: local.h, layout: local_ring.h).
 *
 * A call claims a free slot (starting with the queue of the CPU it runs on), submits, and waits on the slot's state. Slots of
 * clients that died are taken back when no free one is found.
 */
#include "local.h"
#include "codec.h"
#include "local_ring.h"
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct tz_local_client {
	uint8_t *base;
	uint64_t size;
	struct tz_ring_head *head;
	unsigned nr_queues, depth, max_pages;
	uint64_t nr_pages, queue_offset, queue_stride, data_offset;
};

static int geometry_fits(const struct tz_local_client *c)
{
	return c->head->magic == TZ_RING_MAGIC && c->head->version == TZ_RING_VERSION && c->head->size == c->size &&
		c->nr_queues >= 1 && c->nr_queues <= 64 && c->depth >= 1 && c->depth <= TZ_RING_MAX_DEPTH &&
		c->max_pages == TZ_RING_MAX_PAGES && c->queue_stride == tz_ring_queue_stride(c->depth) &&
		c->queue_offset < c->size && c->data_offset < c->size &&
		c->queue_offset + c->nr_queues * c->queue_stride <= c->data_offset &&
		c->data_offset + (uint64_t)c->nr_queues * c->depth * c->max_pages * TZ_PAGE_SIZE <= c->size;
}

struct tz_local_client *tz_local_attach(int fd, int *err)
{
	struct tz_local_client *c = calloc(1, sizeof *c);
	struct stat st;

	*err = -ENOMEM;
	if (!c)
		return NULL;
	if (fstat(fd, &st) < 0 || st.st_size < 4096) {
		*err = -EINVAL;
		goto fail;
	}
	/* Whoever can make it shorter could end this process by SIGBUS. */
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK)) {
		*err = -EPERM;
		goto fail;
	}
	c->size = (uint64_t)st.st_size;
	c->base = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (c->base == MAP_FAILED) {
		*err = -errno;
		goto fail;
	}
	c->head = (struct tz_ring_head *)c->base;
	c->nr_queues = c->head->nr_queues;
	c->depth = c->head->depth;
	c->max_pages = c->head->max_pages;
	c->nr_pages = c->head->nr_pages;
	c->queue_offset = c->head->queue_offset;
	c->queue_stride = c->head->queue_stride;
	c->data_offset = c->head->data_offset;
	if (geometry_fits(c))
		return c;
	*err = -EINVAL;
	munmap(c->base, c->size);
fail:
	free(c);
	return NULL;
}

void tz_local_detach(struct tz_local_client *c)
{
	if (!c)
		return;
	munmap(c->base, c->size);
	free(c);
}

uint64_t tz_local_pages(const struct tz_local_client *c)
{
	return c->nr_pages;
}

unsigned tz_local_max_pages(const struct tz_local_client *c)
{
	return c->max_pages;
}

static struct tz_ring_queue *queue_at(const struct tz_local_client *c, unsigned q)
{
	return (struct tz_ring_queue *)(c->base + c->queue_offset + q * c->queue_stride);
}

static int is_dead(int pid)
{
	return pid > 0 && kill(pid, 0) < 0 && errno == ESRCH;
}

/* A claimed slot, its queue and index; NULL when all are taken. `steal`: also those of dead clients. */
static struct tz_ring_slot *claim(struct tz_local_client *c, unsigned *queue, unsigned *index, int steal)
{
	int cpu = sched_getcpu();
	unsigned first = cpu < 0 ? 0 : (unsigned)cpu;

	for (unsigned k = 0; k < c->nr_queues; k++) {
		*queue = (first + k) % c->nr_queues;
		for (*index = 0; *index < c->depth; ++*index) {
			struct tz_ring_slot *s = tz_ring_slot(queue_at(c, *queue), *index);
			uint32_t state = atomic_load(&s->state);
			int mine = state == TZ_SLOT_FREE || (steal && (state == TZ_SLOT_DONE || state == TZ_SLOT_CLAIMED) &&
				is_dead(s->owner));
			if (mine && atomic_compare_exchange_strong(&s->state, &state, TZ_SLOT_CLAIMED)) {
				s->owner = getpid();
				return s;
			}
		}
	}
	return NULL;
}

static int server_gone(const struct tz_local_client *c)
{
	return atomic_load(&c->head->closed) || is_dead(c->head->server_pid);
}

/* Waits in steps so that a dead server is noticed. */
static int wait_done(struct tz_local_client *c, struct tz_ring_slot *s, unsigned timeout_ms)
{
	for (unsigned waited = 0;; waited += 100) {
		uint32_t state = atomic_load(&s->state);
		if (state == TZ_SLOT_DONE)
			return 0;
		if (server_gone(c))
			return -ENODEV;
		if (waited >= timeout_ms)
			return -ETIMEDOUT;
		struct timespec step = { 0, 100000000 };
		if (tz_futex(&s->state, FUTEX_WAIT, state, &step) == 0 || errno == EAGAIN || errno == EINTR)
			waited = waited >= 100 ? waited - 100 : 0;	/* woken, not timed out */
	}
}

int tz_local_io(struct tz_local_client *c, unsigned op, uint64_t page, unsigned nr_pages, void *data, unsigned timeout_ms)
{
	int moves = op == TZ_LOCAL_READ || op == TZ_LOCAL_WRITE;
	size_t len = (size_t)nr_pages * TZ_PAGE_SIZE;
	struct tz_ring_slot *s;
	unsigned queue, index;
	struct timespec pause = { 0, 1000000 };

	if (op > TZ_LOCAL_FLUSH || (moves && (nr_pages == 0 || nr_pages > c->max_pages)) ||
	    page > c->nr_pages || nr_pages > c->nr_pages - page)
		return -EINVAL;
	for (unsigned waited = 0; !(s = claim(c, &queue, &index, waited > 100)); waited++) {
		if (server_gone(c))
			return -ENODEV;
		if (waited >= timeout_ms)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	uint8_t *shared = c->base + c->data_offset +
		((size_t)queue * c->depth + index) * c->max_pages * TZ_PAGE_SIZE;
	s->op = op;
	s->page = page;
	s->nr_pages = nr_pages;
	if (op == TZ_LOCAL_WRITE)
		memcpy(shared, data, len);
	atomic_store(&s->state, TZ_SLOT_SUBMITTED);
	struct tz_ring_queue *rq = queue_at(c, queue);
	atomic_fetch_add(&rq->doorbell, 1);
	if (atomic_load(&rq->sleeping))
		tz_futex(&rq->doorbell, FUTEX_WAKE, 1, NULL);
	int rc = wait_done(c, s, timeout_ms);
	if (rc < 0)
		return rc;	/* the slot stays with the server; it is taken back when this client ends */
	rc = s->result;
	if (rc == 0 && op == TZ_LOCAL_READ)
		memcpy(data, shared, len);
	atomic_store(&s->state, TZ_SLOT_FREE);
	return rc;
}
