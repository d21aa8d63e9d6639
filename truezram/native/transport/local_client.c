/* local_client.c - the client's side of the local transport (interface: local.h, layout:
 * local_ring.h).
 *
 * A call claims a free slot (starting with the queue of the CPU it runs on), submits, and waits on
 * the slot's word. Slots of clients that died are taken when no free one is found.
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
	return c->head->magic == TZ_RING_MAGIC && c->head->version == TZ_RING_VERSION &&
		c->head->size == c->size && c->nr_queues >= 1 && c->nr_queues <= 64 &&
		c->depth >= 1 && c->depth <= TZ_RING_MAX_DEPTH &&
		c->max_pages == TZ_RING_MAX_PAGES &&
		c->queue_stride == tz_ring_queue_stride(c->depth) && c->queue_offset < c->size &&
		c->data_offset < c->size &&
		c->queue_offset + c->nr_queues * c->queue_stride <= c->data_offset &&
		c->data_offset + (uint64_t)c->nr_queues * c->depth * c->max_pages * TZ_PAGE_SIZE
			<= c->size;
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
	/* A process that can shorten it could end this one by SIGBUS. */
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

struct claim {
	struct tz_ring_slot *slot;
	struct tz_ring_queue *queue;
	uint8_t *data;
	uint32_t word;		/* as claimed */
};

static int is_to_be_had(uint32_t word, int steal)
{
	unsigned state = tz_slot_state(word);

	return state == TZ_SLOT_FREE ||
		(steal && (state == TZ_SLOT_DONE || state == TZ_SLOT_CLAIMED) &&
		is_dead(tz_slot_owner(word)));
}

/* Claims a slot. 0: all are taken. `steal`: also those of dead clients. */
static int claim(struct tz_local_client *c, struct claim *out, int steal)
{
	int cpu = sched_getcpu(), pid = getpid();
	unsigned first = cpu < 0 ? 0 : (unsigned)cpu;

	for (unsigned k = 0; k < c->nr_queues; k++) {
		unsigned q = (first + k) % c->nr_queues;
		for (unsigned i = 0; i < c->depth; i++) {
			struct tz_ring_slot *s = tz_ring_slot(queue_at(c, q), i);
			uint32_t seen = atomic_load(&s->word), word = 0;
			if (is_to_be_had(seen, steal))
				word = tz_slot_claim(s, seen, pid);
			if (!word)
				continue;
			*out = (struct claim){ s, queue_at(c, q), c->base + c->data_offset +
				((size_t)q * c->depth + i) * c->max_pages * TZ_PAGE_SIZE, word };
			return 1;
		}
	}
	return 0;
}

static void ring_doorbell(struct tz_ring_queue *rq)
{
	atomic_fetch_add(&rq->doorbell, 1);
	if (atomic_load(&rq->sleeping))
		tz_futex(&rq->doorbell, FUTEX_WAKE, 1, NULL);
}

static int server_gone(const struct tz_local_client *c)
{
	return atomic_load(&c->head->closed) || is_dead(c->head->server_pid);
}

/* Waits in steps so that a dead server is noticed, and a doorbell that another client has
 * spoilt. */
static int wait_done(struct tz_local_client *c, const struct claim *m, unsigned timeout_ms)
{
	for (unsigned waited = 0;;) {
		uint32_t word = atomic_load(&m->slot->word);
		if (tz_slot_state(word) == TZ_SLOT_DONE)
			return 0;
		if (server_gone(c))
			return -ENODEV;
		if (waited >= timeout_ms)
			return -ETIMEDOUT;
		unsigned ms = timeout_ms - waited < 100 ? timeout_ms - waited : 100;
		struct timespec step = { 0, (long)ms * 1000000 };
		if (tz_futex(&m->slot->word, FUTEX_WAIT, word, &step) < 0 && errno == ETIMEDOUT) {
			waited += ms;
			ring_doorbell(m->queue);
		}
	}
}

/* The time is up: takes the request back, or leaves the slot to the server. 0 when it is done after
 * all. */
static int give_up(const struct claim *m)
{
	if (tz_slot_change(m->slot, tz_slot_with_state(m->word, TZ_SLOT_SUBMITTED), TZ_SLOT_FREE) ||
	    tz_slot_change(m->slot, tz_slot_with_state(m->word, TZ_SLOT_SERVING),
	    TZ_SLOT_ABANDONED))
		return -ETIMEDOUT;
	return 0;
}

int tz_local_io(struct tz_local_client *c, unsigned op, uint64_t page, unsigned nr_pages,
	void *data, unsigned timeout_ms)
{
	int moves = op == TZ_LOCAL_READ || op == TZ_LOCAL_WRITE;
	size_t len = (size_t)nr_pages * TZ_PAGE_SIZE;
	struct timespec pause = { 0, 1000000 };
	struct claim m;

	if (op > TZ_LOCAL_FLUSH || (moves && (nr_pages == 0 || nr_pages > c->max_pages)) ||
	    page > c->nr_pages || nr_pages > c->nr_pages - page)
		return -EINVAL;
	for (unsigned waited = 0; !claim(c, &m, waited > 100); waited++) {
		if (server_gone(c))
			return -ENODEV;
		if (waited >= timeout_ms)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	m.slot->op = op;
	m.slot->page = page;
	m.slot->nr_pages = nr_pages;
	if (op == TZ_LOCAL_WRITE)
		memcpy(m.data, data, len);
	atomic_store(&m.slot->word, tz_slot_with_state(m.word, TZ_SLOT_SUBMITTED));
	ring_doorbell(m.queue);
	int rc = wait_done(c, &m, timeout_ms);
	if (rc == -ETIMEDOUT)
		rc = give_up(&m);
	if (rc < 0)
		return rc;
	rc = m.slot->result;
	if (rc == 0 && op == TZ_LOCAL_READ)
		memcpy(data, m.data, len);
	atomic_store(&m.slot->word, tz_slot_with_state(m.word, TZ_SLOT_FREE));
	return rc;
}
