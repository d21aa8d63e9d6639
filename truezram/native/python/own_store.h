/* own_store.h - a store in this process: of the Python library (truezram.Store) and of the
 * benchmarks, with the memory and the statistics that it takes.
 *
 * Its arena is a memfd, not locked: nothing here serves a device.
 */
#ifndef TZ_OWN_STORE_H
#define TZ_OWN_STORE_H

#include "local.h"
#include "store.h"

struct tz_own_store {
	struct tz_store *store;
	struct tz_stats *stats;		/* page of as many queues as threads */
	size_t stats_size;
	uint64_t nr_pages;
};

/* As `c` says, but for arena_fd and stats, which are made here; c->nr_threads is 1 to
 * TZ_MAX_QUEUES. NULL on failure: err = negative errno, why = what and why. */
struct tz_own_store *tz_own_store_create(const struct tz_store_config *c, int *err, char *why,
	size_t why_size);
/* Gives all memory back. No thread may be in it. */
void tz_own_store_destroy(struct tz_own_store *own);

/* Reads, writes or discards `n` pages from `page` on, as thread number `thread` of the store: one
 * call at a time for each. `data`: n pages, NULL to discard. Counted as one request in the
 * statistics. 0, or negative errno of the first page that failed, those before which are done:
 * -EINVAL (no such pages, nothing is done), -EIO (damaged), -ENOSPC (mem_limit, or no memory within
 * ten seconds). */
int tz_own_store_io(struct tz_own_store *own, unsigned thread, enum tz_local_op op, uint64_t page,
	uint64_t n, void *data);

/* Writes a page, between tz_store_begin and tz_store_end, which it calls as well: while the reserve
 * is empty it waits and tries again, as a queue does. Adds to *waits how often. As
 * tz_store_write. */
int tz_own_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data,
	uint64_t *waits);

#endif
