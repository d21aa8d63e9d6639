/* suspects.h - requests that the server may have died of.
 *
 * A request that was being served when the server died is issued again to the server that takes
 * over. If that request is what kills, because of what is stored or of a bug, it kills each of
 * them. So a queue thread notes which page it is serving, and for what, on the statistics page,
 * which outlives the server. Whoever takes over accuses all that it finds noted there, and:
 *
 * - What is completed is innocent. So is, once a server has lived for a minute, all that no server
 *   has been killed by three times until then. Time in which nobody serves does not count.
 * - What three servers died of is refused with EIO: a write or discard once, a read until its page
 *   is written or discarded, since it is what is stored there that kills. A server that takes over
 *   more than a minute later tries such a read again.
 *
 * It is a page that is noted, not a request: the kernel may merge requests while they wait for a
 * server, and of a request's pages it is one that kills.
 *
 * The table is on the statistics page too. If that cannot be gone on with, as that of another
 * version, suspects are forgotten, and the next three deaths count.
 */
#ifndef TZ_SUSPECTS_H
#define TZ_SUSPECTS_H

#include "stats.h"

#include <stdatomic.h>

#define TZ_SUSPECT_DEATHS 3u
#define TZ_SUSPECT_NS 60000000000ull

/* All times are those of tz_now_ns, which goes on from server to server. */
struct tz_suspects {
	struct tz_suspect *table;	/* TZ_SUSPECTS of them, on the statistics page */
	_Atomic unsigned left;		/* in the table: none, as a rule */
	uint64_t since;			/* when this server took over */
};

/* On a queue thread: what it is serving now, and that it is serving nothing. */
static inline void tz_suspect_note(struct tz_queue_stats *q, unsigned op, uint64_t page)
{
	__atomic_store_n(&q->serving, page << 8 | (op + 1), __ATOMIC_RELAXED);
}

static inline void tz_suspect_note_none(struct tz_queue_stats *q)
{
	__atomic_store_n(&q->serving, 0, __ATOMIC_RELAXED);
}

/* Before the queues are started: accuses what the dead server was serving. */
void tz_suspects_take_over(struct tz_suspects *s, struct tz_stats *stats, uint64_t nr_pages,
	uint64_t now);
/* What is refused since this take-over, for the log: one of them, from number *next of the table
 * on. 0: no more. */
int tz_suspects_report(const struct tz_suspects *s, unsigned *next, char *text, size_t size);

/* From any queue thread. Nothing below has to be called while there are none. */
static inline int tz_suspects_any(const struct tz_suspects *s)
{
	return s && __builtin_expect(
		atomic_load_explicit(&s->left, memory_order_relaxed) != 0, 0);
}

/* Whether a request is to fail. */
int tz_suspects_refuse(struct tz_suspects *s, unsigned op, uint64_t page, uint64_t nr_pages,
	uint64_t now);
/* A request is completed. If it was a write or discard, `done` of its pages, the first, have
 * another content now. */
void tz_suspects_complete(struct tz_suspects *s, unsigned op, uint64_t page, uint64_t nr_pages,
	uint64_t done);

#endif
