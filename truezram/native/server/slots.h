/* slots.h - freed swap slots: the thread that learns of them and gives their pages back. */
#ifndef TZ_SLOTS_H
#define TZ_SLOTS_H

#include "collect.h"
#include "queue.h"
#include "slot_test.h"

#include <pthread.h>

struct tz_slots {
	/* given */
	const char *name;		/* of the disk, "ublkb0" */
	uint64_t nr_pages;
	struct tz_store *store;
	struct tz_stats *stats;

	struct tz_swap_knock knock;	/* for the queues */
	int stop_fd, swaps_fd;		/* eventfd; /proc/swaps */
	int started;
	pthread_t thread;
	void *stack;

	/* the thread's own */
	struct tz_slot_area areas[TZ_TEST_AREAS];
	unsigned nr_areas;
	unsigned elsewhere;		/* swap areas that are not directly on the device */
	struct tz_probe probe;
	struct tz_slot_test test;
	struct tz_collect collect;
	int probing;			/* the probe's maps are there, and the queues know them */
	int collecting;			/* rounds are under way */
	uint64_t test_at;		/* when a test may be made again; 0: now */
	unsigned tries;			/* tests that did not tell, in a row */
	int hopeless;			/* tests have told that it cannot be */
	char why[128];
};

/* Starts the thread. `knock` is there afterwards, whatever came of it. 0 or negative errno with why
 * (the device works without). */
int tz_slots_start(struct tz_slots *s, char *why, size_t why_size);
/* Ends it, after the queues have ended. */
void tz_slots_stop(struct tz_slots *s);

#endif
