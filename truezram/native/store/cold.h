/* cold.h - what is known of pages that nobody touches, and what is done with them: their age
 * (age.c), writing them once more with a denser codec (recompress.c), and doing so by itself
 * (policy.c).
 *
 * All of it is the housekeeper's. It calls a `turn` of each when it has nothing else to do: a turn
 * does less than a millisecond of what is due, and returns when the next one is.
 */
#ifndef TZ_COLD_H
#define TZ_COLD_H

#include "codec.h"
#include "policy.h"
#include "stats.h"

#include <stdatomic.h>
#include <stdint.h>

struct tz_store;
struct tz_store_thread;

#define TZ_NO_TURN UINT64_MAX

struct tz_aging {
	_Atomic uint64_t speed;		/* of the clock; 0: 1 */
	_Atomic uint64_t tickets;	/* counts asked for */
	/* the housekeeper's own */
	enum { TZ_HAND_RESTS, TZ_HAND_COUNTS, TZ_HAND_AGES } hand;
	_Atomic int verified;	/* nothing was young, with `resting` set all the time */
	uint64_t pulse;		/* passes that have made pages older, this one included */
	unsigned top;		/* this one does so with ages up to this */
	uint64_t ended;		/* ns: when the last one was through */
	uint64_t next;		/* page of the table that comes next */
	uint64_t next_step;	/* ns: when */
	uint64_t ticket;	/* the newest count that this pass is */
	uint64_t pages[TZ_AGES], bytes[TZ_AGES];
};

/* Ages up to this one rise by one in the pulse'th pass (1, 2, ...). */
unsigned tz_age_top(uint64_t pulse);
/* In units of the shortest time between two passes: what a page of this age has been left alone for
 * at least, and for at most (plus what passes take). UINT64_MAX: for ever. */
uint64_t tz_age_least(unsigned age);
uint64_t tz_age_most(unsigned age);
uint64_t tz_age_least_ns(const struct tz_store *s, unsigned age);
/* The least age that all of that have been left alone for `ns`; TZ_AGES: none says so. */
unsigned tz_age_after(const struct tz_store *s, uint64_t ns);
/* Before the housekeeper's thread starts. */
void tz_age_start(struct tz_store *s);
/* A queue thread begins to work, and the clock sleeps. */
void tz_age_rouse(struct tz_store_thread *t);
/* now, and what is returned: CLOCK_MONOTONIC in ns, TZ_NO_TURN: when it is woken. */
uint64_t tz_age_turn(struct tz_store_thread *t, uint64_t now);

/* Writing pages once more: one run, with what it takes. */
enum tz_recompress_to { TZ_TO_CODEC, TZ_TO_GROUPS, TZ_TO_BACKING, TZ_TO_MEMORY };
struct tz_recompression {
	enum tz_recompress_to to;
	struct tz_codec_set *set;	/* of TO_CODEC */
	uint64_t idle_ns;		/* of pages, at least */
	uint64_t huge_ns;		/* of pages stored raw, to be written to the backing file;
					 * 0: the same */
	unsigned percent;		/* of a core, at most */
	uint64_t ticket;
	/* the housekeeper's own */
	int begun;
	int again;			/* it has been through once */
	unsigned early;			/* age; TZ_AGES: does not count */
	unsigned age;			/* that idle_ns comes to, or `early` if that is less */
	unsigned huge_age;		/* of pages stored raw; TO_BACKING */
	int written;			/* TO_BACKING: all that is to be has been begun */
	uint64_t wait_until;		/* ns: it is not to go on before */
	unsigned waits;			/* for the reserve, in a row */
	uint64_t next;			/* page that comes next */
	uint64_t next_step;		/* ns: when */
	uint64_t seen, all;		/* pages that are stored */
	uint64_t requests;		/* pages that have been read or written, at the last step */
	uint8_t page[TZ_PAGE_SIZE] __attribute__((aligned(64)));
};

/* From the control thread: "dense", "zstd[:LEVEL]", "cold", "backing" or "memory". NULL with *err
 * and why. */
struct tz_recompression *tz_recompression_make(struct tz_store *s, const char *algorithm,
	uint64_t idle_ns, unsigned percent, int *err, char *why, size_t why_size);
void tz_recompression_free(struct tz_recompression *job);
/* Whether that can be made, as far as it takes no memory to know. 0 or negative errno with why. */
int tz_recompression_check(const struct tz_store *s, const char *algorithm, uint64_t idle_ns,
	unsigned percent, char *why, size_t why_size);
/* The next step of it, which begins with the first. 1: that was the last. */
int tz_recompression_step(struct tz_store_thread *t, struct tz_recompression *job, uint64_t now);

struct tz_recompress {
	_Atomic(struct tz_recompression *) job;		/* NULL: none */
	_Atomic uint32_t cancel;
	uint64_t tickets;		/* the control thread's */
};

uint64_t tz_recompress_turn(struct tz_store_thread *t, uint64_t now);
/* Ends it, whoever is at work: the housekeeper's thread has ended. */
void tz_recompress_drop(struct tz_store *s);

/* What is done by itself (policy.c). */
enum { TZ_STANDING_DENSE, TZ_STANDING_COLD, TZ_STANDING_BACKING, TZ_STANDING_JOBS };
struct tz_standing {
	struct tz_policy policy;
	/* NULL: not done, or there has been nothing to do for it yet */
	struct tz_recompression *jobs[TZ_STANDING_JOBS];
};

struct tz_policing {
	_Atomic(struct tz_standing *) next;	/* takes the place of `now`; NULL: none */
	_Atomic unsigned wishes;	/* jobs, as bits, that have something to do and are NULL */
	int wish_fd;			/* eventfd: there are some */
	_Atomic int psi_fd;		/* -1: there is no such file */
	/* the control thread's own */
	unsigned equipped;		/* jobs, as bits, that are not to be NULL */
	/* the housekeeper's own */
	struct tz_standing *now;
	int fresh;		/* that has just come */
	uint64_t pulse;		/* that it has seen */
	unsigned due;		/* jobs, as bits */
	int gains;		/* there are pages that would be next, under pressure */
	enum tz_pressure pressure;
	_Atomic uint64_t next_look;	/* ns: at that */
};

#define TZ_PSI_NOT_OPENED (-2)
/* From the control thread, with the first policy. */
void tz_pressure_open(struct tz_store *s);
/* What there is now, if there was `before`. */
enum tz_pressure tz_pressure_now(const struct tz_store *s, enum tz_pressure before);

/* Before the housekeeper's thread starts. 0 or negative errno with why. */
int tz_policy_start(struct tz_store *s, char *why, size_t why_size);
/* Has the control thread look at the statistics: something is wrong. From any thread. */
void tz_policy_tell(struct tz_store *s);
uint64_t tz_policy_turn(struct tz_store_thread *t, uint64_t now);
/* The housekeeper's thread has ended. */
void tz_policy_drop(struct tz_store *s);

#endif
