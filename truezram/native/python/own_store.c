/* own_store.c - a store in this process (own_store.h).
 *
 * Requests are done on the caller's thread, in turns, so that a change of algorithm does not wait
 * long for one that is large; and they are counted as a queue counts them (transport/queue.c), so
 * that the statistics of such a store read like a device's.
 */
#include "own_store.h"
#include "bench.h"
#include "clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define TURN 16u		/* pages between tz_store_begin and tz_store_end */
#define WAIT_NS 50000		/* before a write is tried again that waits for the reserve */
#define MAX_WAITS 200000u	/* of one write: ten seconds */

/* ---- requests ---- */

int tz_own_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data,
	uint64_t *waits)
{
	struct timespec pause = { 0, WAIT_NS };
	unsigned tries = 0;
	int rc;

	while ((rc = tz_store_write(t, page, data)) == -EAGAIN && tries < MAX_WAITS) {
		tz_store_end(t);
		nanosleep(&pause, NULL);
		tz_store_begin(t);
		tries++;
	}
	*waits += tries;
	return rc;
}

/* One turn: n pages, TURN at most. */
static int do_turn(struct tz_store_thread *t, enum tz_local_op op, uint64_t page, unsigned n,
	uint8_t *data, uint64_t *waits)
{
	unsigned work = UINT32_MAX;
	int rc = 0;

	if (op == TZ_LOCAL_DISCARD) {
		tz_store_discard_range(t, page, n, &work);
		return 0;
	}
	for (unsigned i = 0; i < n; i++)
		tz_store_prefetch_entry(t, page + i);
	for (unsigned i = 0; i < n && !rc; i++, data += TZ_PAGE_SIZE) {
		if (i + 1 < n)
			tz_store_prefetch_object(t, page + i + 1);
		rc = op == TZ_LOCAL_READ ? tz_store_read(t, page + i, data)
			: tz_own_store_write(t, page + i, data, waits);
	}
	return rc == -EAGAIN ? -ENOSPC : rc;
}

static void count(struct tz_queue_stats *s, enum tz_local_op op, int result, uint64_t latency_ns,
	uint64_t waits)
{
	tz_stats_begin(&s->seq);
	if (op == TZ_LOCAL_READ) {
		tz_stats_add(&s->num_reads, 1);
		tz_stats_add(&s->failed_reads, result < 0);
		tz_stats_add(&s->read_lat[tz_lat_bin(latency_ns)], 1);
	} else if (op == TZ_LOCAL_WRITE) {
		tz_stats_add(&s->num_writes, 1);
		tz_stats_add(&s->failed_writes, result < 0);
		tz_stats_add(&s->enospc, result == -ENOSPC);
		tz_stats_add(&s->deferred_writes, waits > 0);
		tz_stats_add(&s->write_lat[tz_lat_bin(latency_ns)], 1);
	} else {
		tz_stats_add(&s->num_discards, 1);
	}
	tz_stats_add(&s->invalid_io, result == -EINVAL);
	tz_stats_end(&s->seq);
}

static int do_request(struct tz_own_store *own, struct tz_store_thread *t, enum tz_local_op op,
	uint64_t page, uint64_t n, uint8_t *data, uint64_t *waits)
{
	int rc = 0;

	if (op > TZ_LOCAL_DISCARD || page > own->nr_pages || n > own->nr_pages - page)
		return -EINVAL;
	for (uint64_t done = 0; done < n && !rc; done += TURN) {
		unsigned turn = n - done < TURN ? (unsigned)(n - done) : TURN;
		uint8_t *at = data ? data + done * TZ_PAGE_SIZE : NULL;

		tz_store_begin(t);
		rc = do_turn(t, op, page + done, turn, at, waits);
		tz_store_end(t);
	}
	return rc;
}

int tz_own_store_io(struct tz_own_store *own, unsigned thread, enum tz_local_op op, uint64_t page,
	uint64_t n, void *data)
{
	struct tz_store_thread *t = tz_store_thread(own->store, thread);
	uint64_t start = tz_now_ns(), waits = 0;
	int rc = do_request(own, t, op, page, n, data, &waits);

	count(tz_store_thread_stats(t), op, rc, tz_now_ns() - start, waits);
	return rc;
}

/* ---- opening and closing ---- */

void tz_own_store_destroy(struct tz_own_store *own)
{
	if (!own)
		return;
	tz_store_destroy(own->store);
	tz_bench_unmap(own->stats, own->stats_size);
	free(own);
}

/* What of the head no store writes. */
static void fill_head(struct tz_stats *s)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	s->transport = TZ_TRANSPORT_LOCAL;
	s->queue_depth = 1;
	s->pid = (uint64_t)getpid();
	s->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	s->state = TZ_STATE_LIVE;
}

struct tz_own_store *tz_own_store_create(const struct tz_store_config *config, int *err, char *why,
	size_t why_size)
{
	struct tz_own_store *own = calloc(1, sizeof *own);
	struct tz_store_config c = *config;

	*err = -ENOMEM;
	snprintf(why, why_size, "no memory for an arena");
	if (!own)
		return NULL;
	own->nr_pages = c.disksize / TZ_PAGE_SIZE;
	own->stats_size = (tz_stats_size(c.nr_threads) + TZ_PAGE_SIZE - 1) &
		~(size_t)(TZ_PAGE_SIZE - 1);
	own->stats = c.stats = tz_bench_map(own->stats_size, 1);
	c.arena_fd = own->stats ? memfd_create("truezram-store", MFD_CLOEXEC) : -1;
	if (c.arena_fd >= 0 && !tz_stats_init(c.stats, own->stats_size, c.nr_threads)) {
		fill_head(c.stats);
		own->store = tz_store_create(&c, err, why, why_size);
	}
	if (own->store)
		return own;
	if (c.arena_fd >= 0)
		close(c.arena_fd);
	tz_own_store_destroy(own);
	return NULL;
}
