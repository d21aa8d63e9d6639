/* locked.h - all memory that a queue thread can touch is locked. */
#ifndef TZ_LOCKED_H
#define TZ_LOCKED_H

#include "store.h"

/* Whether RLIMIT_MEMLOCK is in force. */
int tz_locking_is_limited(void);
/* Locks what is mapped now and brings it in: code, data, stacks, buffers. To be called again after
 * whatever may have mapped something. 0, or negative errno with why. */
int tz_lock_memory(const struct tz_store *store, char *why, size_t why_size);
/* Whether /proc/self/smaps says so: each mapping that a queue thread can touch is locked and all
 * there. `arena_is_safe`: the arena cannot be swapped out even unlocked (it is on a noswap tmpfs).
 * If not, why names the first mapping. */
int tz_memory_is_locked(const struct tz_store *store, int arena_is_safe, char *why,
	size_t why_size);

#endif
