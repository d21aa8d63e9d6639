/* queue.h - queue threads: what brings requests to the store, from ublk (queue_ublk.c) or the local ring (queue_local.c).
 *
 * queue.c holds what both share: starting a thread with everything it needs in hand (locked stack and buffer, CPU, IO_FLUSHER), and
 * serving one request. A queue thread allocates nothing after it has reported itself serving.
 */
#ifndef TZ_QUEUE_H
#define TZ_QUEUE_H

#include "store.h"
#include "ublk.h"

#include <pthread.h>
#include <stdatomic.h>

struct tz_local_server;

enum tz_queue_state { TZ_QUEUE_STARTING = 0, TZ_QUEUE_SERVING = 1, TZ_QUEUE_ENDED = 2 };

struct tz_io {			/* one request */
	unsigned op;		/* UBLK_IO_OP_* */
	int swap;		/* a swap write: waits for memory only as long as completed writes may bring some */
	uint64_t page;
	uint32_t nr_pages;
	uint32_t done;		/* pages served: after -EAGAIN it goes on from there */
};

struct tz_queue {
	unsigned index, depth;
	uint64_t nr_pages;		/* of the device */
	struct tz_store_thread *store;
	struct tz_queue_stats *stats;
	struct tz_ublk *ublk;		/* transport ublk */
	struct tz_local_server *local;	/* transport local */
	uint8_t *data;			/* one request's data, TZ_UBLK_MAX_IO bytes */
	uint8_t cpu_mask[128];		/* CPUs to run on, all zero: any */
	int end_fd;			/* eventfd written to when the thread ends */

	pthread_t thread;
	void *stack;
	_Atomic int state;		/* enum tz_queue_state, or negative errno: could not start */
	_Atomic int io_flusher;		/* PR_SET_IO_FLUSHER was set and reads back */
	_Atomic int stop;
	int started;
};

/* Starts `run` (below) and waits until it serves. 0, or negative errno with why. */
int tz_queue_start(struct tz_queue *q, void (*run)(struct tz_queue *), char *why, size_t why_size);
void tz_queue_join(struct tz_queue *q);
void tz_queue_serving(struct tz_queue *q);	/* called by run */

void tz_queue_run_ublk(struct tz_queue *q);
void tz_queue_run_local(struct tz_queue *q);

uint64_t tz_now_ns(void);	/* CLOCK_MONOTONIC */

/* Serves one request against the store; data holds or receives nr_pages pages. 0, -EAGAIN (a write waits for the slab thread: try again), or
 * negative errno. Counters and latency are the caller's to add with tz_queue_count once it is answered. */
int tz_queue_serve(struct tz_queue *q, struct tz_io *io, uint8_t *data);
void tz_queue_count(struct tz_queue *q, const struct tz_io *io, int result, uint64_t latency_ns);

#endif
