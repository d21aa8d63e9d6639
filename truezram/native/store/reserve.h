/* reserve.h - populated segments kept ahead of need, and the thread that gets them and gives them
 * back (reserve.c). */
#ifndef TZ_RESERVE_H
#define TZ_RESERVE_H

#include "alloc.h"
#include "headroom.h"

#include <pthread.h>

struct tz_reserve {
	struct tz_alloc *alloc;
	struct tz_arena *arena;
	struct tz_stats *stats;
	_Atomic uint64_t mem_limit;  /* 0 = none */
	_Atomic uint64_t used;	 /* bytes of the arena that are populated */
	_Atomic uint64_t freed;	  /* bytes given back so far */
	_Atomic uint32_t wake;	 /* futex word: enum wake in reserve.c */
	_Atomic uint32_t stop;
	_Atomic uint32_t begun;	/* futex word: the thread has its priority */
	_Atomic uint32_t trims, trimmed; /* asked for, and done: futex word */
	/* the thread's own */
	uint32_t pops;	  /* taken from the reserve, when it last looked */
	uint64_t taken_at;   /* ns: when it last saw that more had been taken */
	int idle;    /* nothing has been taken for a while */
	uint32_t target;   /* segments to keep now */
	struct tz_floor floor;	 /* of free memory; 0 until the reserve is full */
	uint64_t floor_at;   /* ns: when that was looked at */
	uint64_t short_since;	/* ns: since when less is free; 0: there is more */
	pthread_t thread;
	int started;
};

/* Counts what is populated, fills the reserve and starts the thread. 0, or negative errno with
 * why. */
int tz_reserve_start(
	struct tz_reserve *r, struct tz_alloc *a, uint64_t mem_limit, char *why, size_t why_size);
void tz_reserve_stop(struct tz_reserve *r);
/* Whether `more` bytes would exceed mem_limit. */
int tz_reserve_at_limit(const struct tz_reserve *r, uint64_t more);
/* Why there is no segment in reserve: -ENOSPC (mem_limit), -EAGAIN (more is being made ready). */
int tz_reserve_no_room(const struct tz_reserve *r);
int tz_reserve_set_limit(struct tz_reserve *r, uint64_t bytes, char *why, size_t why_size);
/* Something other than segments is wanted of the thread: a page of the directory. */
void tz_reserve_wake(struct tz_reserve *r);
/* Gives the kernel back what the reserve holds above its least size, now; waits for that at most
 * 2 s. Bytes given back since it was asked. */
/* Counts memory outside of the arena that others have got or given back. */
void tz_reserve_count_more(struct tz_reserve *r, int64_t bytes);
uint64_t tz_reserve_trim(struct tz_reserve *r);

#endif
