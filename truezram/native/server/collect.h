/* collect.h - walks a bitmap of freed swap slots and gives their pages back, in short steps. */
#ifndef TZ_COLLECT_H
#define TZ_COLLECT_H

#include "store.h"

#define TZ_COLLECT_STEP_NS 1000000u

struct tz_collect {
	struct tz_store_thread *thread;		/* tz_store_collector */
	const uint64_t *bits;			/* given to tz_store_set_freed */
	uint64_t nr_pages, next;		/* next: page, a multiple of 64, where the next step
						 * begins */
	uint64_t found;				/* bits seen in this round */
};

/* A step of at most about a millisecond. 1: the round has come to the end of the bitmap, and the
 * next step begins another (found is then what this round saw). */
int tz_collect_step(struct tz_collect *c);
/* Whether any bit is set. */
int tz_collect_is_due(const struct tz_collect *c);

#endif
