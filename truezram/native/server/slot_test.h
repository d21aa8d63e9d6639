/* slot_test.h - a process whose pages are swapped out on purpose: which swap type is ours, and does
 * the kernel tell of what it frees?
 */
#ifndef TZ_SLOT_TEST_H
#define TZ_SLOT_TEST_H

#include "slot_probe.h"
#include "store.h"

#include <sys/types.h>

#define TZ_TEST_PAGES 1024u
#define TZ_TEST_AREAS 4u

struct tz_slot_area {		/* a swap area on our device */
	uint64_t base, pages;	/* of the device */
	int type;		/* of the kernel's; -1: not known yet */
	int canary;		/* page of the test process that stays there; -1: none */
	uint64_t canary_entry;	/* its pagemap entry */
};

struct tz_slot_test {
	pid_t pid;		/* 0: there is no process */
	int fd, pagemap_fd;
	uint64_t address, seed;	/* of its pages, and of what is in them */
	int stop_fd;		/* readable: give up */
	uint64_t entries[TZ_TEST_PAGES];
};

/* The process's life: `truezramd --slot-test`. */
int tz_slot_test_main(void);
/* Starts it. 0 or negative errno. */
int tz_slot_test_start(struct tz_slot_test *t, int stop_fd, char *why, size_t why_size);
void tz_slot_test_end(struct tz_slot_test *t);
/* Swaps its pages out and finds the types of the areas that they came to, all of whose canaries it
 * renews. How many pages came to areas of ours, or negative errno with why. */
int tz_slot_test_find(struct tz_slot_test *t, const struct tz_store *store,
	struct tz_slot_area *areas, unsigned n, char *why, size_t why_size);
/* Whether the probe, which is attached and has the areas, marks all slots that are freed and no
 * others; after tz_slot_test_find. 0; -EAGAIN: too few pages came to our areas to tell; or another
 * negative errno with why. */
int tz_slot_test_probe(struct tz_slot_test *t, const struct tz_probe *p,
	const struct tz_slot_area *areas, unsigned n, char *why, size_t why_size);
/* Whether the area's canary is where it was: then the area has been in use without a break, as the
 * same type. */
int tz_slot_test_is_alive(const struct tz_slot_test *t, const struct tz_slot_area *area);

#endif
