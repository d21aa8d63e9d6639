/* queue.h - queue threads: what brings requests to the store, from ublk (queue_ublk.c), nbd
 * (queue_nbd.c) or the local ring (queue_local.c).
 *
 * queue.c holds what they share: starting a thread with everything it needs in hand (locked stack
 * and buffers, CPU, IO_FLUSHER), and serving requests in rounds. A queue thread allocates nothing
 * after it has reported itself serving.
 *
 * A round takes the requests that have come. It serves the reads, then pages of the oldest writes,
 * then a piece of the oldest discard: somebody waits for each read, and nobody, as a rule, for a
 * write. As soon as it has worked on writes for WRITE_NS, or a piece of a discard, it looks for
 * reads again; a write goes on from the page that it had come to. So a read waits for WRITE_NS and
 * one page at most. Writes are not starved: each round works on them for that long. Answers go out
 * as it goes, after so many pages as the mode says (spin.h), or FLUSH_NS. A write that finds no
 * memory while some is still to be had waits in a list and is tried again in a later round, from
 * the page it had come to. So does a read whose next page is on the backing file: the first in
 * their list is having it read.
 */
#ifndef TZ_QUEUE_H
#define TZ_QUEUE_H

#include "spin.h"
#include "store.h"
#include "suspects.h"
#include "ublk.h"

#include <pthread.h>
#include <stdatomic.h>

struct tz_local_server;
struct tz_queue;

enum tz_queue_state { TZ_QUEUE_STARTING = 0, TZ_QUEUE_SERVING = 1, TZ_QUEUE_ENDED = 2 };

/* Discard work of one round (store.h: tz_store_discard_range), some 0.2 ms: 8192 empty entries, or
 * 256 pages given back. */
#define TZ_DISCARD_WORK 8192u

/* Pages, and requests, that are served between two looks at the clock, at most. */
#define TZ_SETTLE 16u

struct tz_io {			/* one request; a queue has one per tag */
	uint8_t op;		/* UBLK_IO_OP_* */
	uint8_t swap;		/* a swap write: waits for memory only as long as completed writes
				 * may bring some */
	uint8_t lost;		/* some of a read's pages could not be handed over */
	int32_t answer;		/* once it is served, until it is counted */
	uint16_t next;		/* in the list that it is in */
	uint32_t nr_pages;
	uint32_t done;		/* pages served: it continues from there */
	uint64_t page;
	uint64_t since;		/* when it was taken */
	/* the transport's own: */
	uint32_t mark;
	int32_t result;
	uint8_t busy;
};

/* How a thread learns that the device is written to as swap: it sets `wanted`, and the first swap
 * write clears it and writes to `fd`, an eventfd. */
struct tz_swap_knock {
	_Atomic int wanted;
	int fd;
};

#define TZ_NO_TAG UINT32_MAX

struct tz_io_list { uint16_t first, last; unsigned n; };

/* What a transport does for the rounds. */
struct tz_queue_ops {
	/* Up to `most` requests that have come: their tags; fills q->ios[tag] but for `done` and
	 * `since`. */
	unsigned (*take)(struct tz_queue *q, uint16_t *tags, unsigned most);
	/* Where a request's pages are, a write's brought to write_data; NULL: that failed. */
	uint8_t *(*bring)(struct tz_queue *q, unsigned tag);
	/* Hands over n pages of a read, from the first'th on. 0 or negative errno. */
	int (*hand_over)(struct tz_queue *q, unsigned tag, const uint8_t *data, uint32_t first,
		uint32_t n);
	/* Has read what tz_store_bringing says; when it is there, q->brought is set. NULL: the
	 * store waits itself. */
	void (*fetch)(struct tz_queue *q);
	void (*answer)(struct tz_queue *q, unsigned tag, int result);
	/* Sends the answers so far; NULL: each goes out by itself. */
	void (*flush)(struct tz_queue *q);
	/* Whether `take` would find something; 0: not that it knew. */
	int (*has_come)(struct tz_queue *q);
	uint8_t asks;		/* has_come may be a system call, and not just a look at memory */
	uint8_t gathers;	/* nobody sees an answer before `flush` or the end of the round */
};

struct tz_queue {
	unsigned index, depth;
	uint64_t nr_pages;		/* of the device */
	struct tz_store_thread *store;	/* NULL: none, reads are zeros (server/null.c) */
	struct tz_queue_stats *stats;
	struct tz_ublk *ublk;		/* transport ublk */
	struct tz_local_server *local;	/* transport local */
	int socket;			/* transport nbd: our end of the pair */
	void (*wake)(struct tz_queue *q);	/* so that the thread sees `stop`; NULL: ublk, where
					 * STOP_DEV ends it */
	uint8_t cpu_mask[128];		/* CPUs whose requests come here: it runs on these if they
					 * are several, else anywhere */
	int end_fd;			/* eventfd written to when the thread ends, has trouble to
					 * report, or requests fail */

	struct tz_swap_knock *knock;	/* NULL: nobody wants to know */
	struct tz_suspects *suspects;	/* NULL: no server before us */

	const struct tz_queue_ops *ops;
	void *ring;			/* of the transport */
	unsigned max_pages;		/* of a read or write */
	uint8_t *data;			/* one read's data, TZ_UBLK_MAX_IO bytes */
	uint8_t *write_data;		/* the same of a write, which reads may interrupt, */
	unsigned write_tag;		/* and whose it is, or TZ_NO_TAG; */
	const uint8_t *write_from;	/* where `bring` put it */
	uint32_t seen;			/* local: the doorbell */
	struct tz_io *ios;		/* by tag */
	struct tz_io_list reads;	/* that have come in this round, or are held; flushes,
					 * too */
	struct tz_io_list writes;	/* that are to be served, or continued */
	struct tz_io_list waiting;	/* writes that wait for memory */
	struct tz_io_list discards;
	struct tz_io_list reading;	/* the backing file */
	uint16_t served[TZ_SETTLE];	/* requests that have not been counted yet, */
	unsigned nr_served, unsettled;	/* and their pages */
	int brought;			/* what the first of them has asked for is there, */
	int brought_result;		/* or not: bytes or negative errno */
	uint64_t retry_at, retry_wait;	/* for `waiting`: when it is tried again, and what the next
					 * wait is */
	uint64_t now;			/* the clock as last read: reading it costs as much as a
					 * small page */
	uint64_t writes_since;		/* when this round began with writes */
	uint64_t flushed_at;
	unsigned unflushed;		/* pages served since */
	struct tz_spin spin;		/* what it does before it sleeps */
	int stopping;			/* the device is being stopped: nothing waits for memory any
					 * more */

	pthread_t thread;
	void *stack;
	_Atomic int state;		/* enum tz_queue_state, or negative errno: could not
					 * start */
	_Atomic int io_flusher;		/* PR_SET_IO_FLUSHER was set and reads back */
	_Atomic int stop;
	_Atomic int hold;		/* requests are taken, and not served: tz_queues_hold */
	_Atomic int resting;		/* between two rounds, and nothing to do until more come */
	_Atomic uint64_t came;		/* requests so far */
	uint64_t told_at;		/* when the control thread was told of an error; 0:
					 * not yet */
	_Atomic uint64_t trouble;	/* how often << 32 | what << 16 | errno of the last time */
	uint32_t trouble_reported;
	int started;
};

/* Starts `run` (below) and waits until it serves. 0, or negative errno with why. */
int tz_queue_start(struct tz_queue *q, void (*run)(struct tz_queue *), char *why, size_t why_size);
/* Asks the thread to stop (ublk: only STOP_DEV makes it) and waits until it has ended. */
void tz_queue_join(struct tz_queue *q);
void tz_queue_serving(struct tz_queue *q);	/* called by run */
/* Has n queues take what comes and serve none of it, until nothing has come for a while: as a rule
 * whoever sends requests waits for those that are held. 0: it remains so until tz_queues_release.
 * -EBUSY: they do not stop coming, and are served as before. Takes 20 ms, or 3 s. */
int tz_queues_hold(struct tz_queue *queues, unsigned n);
void tz_queues_release(struct tz_queue *queues, unsigned n);

void tz_queue_run_ublk(struct tz_queue *q);
void tz_queue_run_nbd(struct tz_queue *q);
void tz_queue_run_local(struct tz_queue *q);
/* Their `wake`. */
void tz_queue_wake_nbd(struct tz_queue *q);
void tz_queue_wake_local(struct tz_queue *q);
/* The local transport's part of starting: what rounds need. */
void tz_queue_attach_local(struct tz_queue *q);

void tz_queue_round(struct tz_queue *q);	/* one round, on the queue's thread */
/* How long the queue may sleep before the next: 0 not at all, TZ_FOREVER until a request comes. */
uint64_t tz_queue_may_sleep(const struct tz_queue *q);
/* For how long to wait awake (spin.h) before that sleep; 0: not at all. */
uint64_t tz_queue_may_spin(struct tz_queue *q, uint64_t sleep);
/* Does so until `come`. 1: it has come; 0: sleep now. */
int tz_queue_spin(struct tz_queue *q, uint64_t window, int (*come)(const void *arg),
	const void *arg);
static inline int tz_queue_has_work(const struct tz_queue *q)
{
	return q->reads.n || q->writes.n || q->waiting.n || q->discards.n || q->reading.n;
}

void tz_io_push(struct tz_queue *q, struct tz_io_list *list, unsigned tag);
unsigned tz_io_pop(struct tz_queue *q, struct tz_io_list *list);

/* Trouble with the kernel that the thread deals with itself and that the log should have: a queue
 * thread does not log. */
enum tz_trouble { TZ_TROUBLE_ENTER = 1, TZ_TROUBLE_COMMAND = 2, TZ_TROUBLE_FULL = 3 };
void tz_queue_trouble(struct tz_queue *q, enum tz_trouble what, int err);
/* From the control thread, when end_fd is readable: a line for the log. 0: nothing new. */
int tz_queue_report(struct tz_queue *q, char *text, size_t size);

#endif
