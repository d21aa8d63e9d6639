/* pool.h - objects of 16 .. 4096 bytes in the arena's slabs. How it works is described at the top
 * of pool.c. */
#ifndef TZ_POOL_H
#define TZ_POOL_H

#include "headroom.h"
#include "arena.h"
#include "codec.h"
#include "lock.h"
#include "stats.h"

#include <pthread.h>

/* Object sizes that are not worth a slot: such a page is kept raw (pool.c: the class below
 * 4096). */
#define TZ_POOL_HUGE 3840u

#define TZ_NO_SLAB UINT32_MAX
/* Slabs emptied in one pass of compaction: 16 MiB. */
#define TZ_EVACUATE_MAX 256u

#define TZ_RAW_SLOTS (TZ_SLAB_SIZE / TZ_PAGE_SIZE)
/* A slab's map has one bit per slot, 1 = in use. Up to so many slots (objects of 112 bytes and
 * more) it is in the slab's metadata; smaller objects are few, and their slabs take a map of the
 * full size from a list of spare ones. */
#define TZ_OWN_MAP_SLOTS 576u
#define TZ_MAP_WORDS (TZ_SLAB_SIZE / 16 / 64)

/* What is known of one slab; private memory, rebuilt from the page table after a crash. `used`,
 * `class`, `state` and the membership in the class's list change under the class lock while the
 * slab belongs to a class. */
struct tz_slab {
	uint32_t next, prev;		/* in its class's partial list; next: in the reserve or the
					 * unpopulated list */
	_Atomic uint16_t used;		/* slots in use */
	_Atomic uint8_t class, state;	/* enum slab_state in pool.c */
	_Atomic uint8_t stuck;		/* compaction could not empty it, and no slot was freed
					 * since */
	uint8_t first;			/* words of the map before this one are full */
	union {
		uint64_t own[TZ_OWN_MAP_SLOTS / 64];
		uint32_t taken;		/* number of the full-size map */
		struct {		/* the largest class: who owns each slot, since RAW entries
					 * have no check bits */
			uint64_t map;
			uint32_t owner[TZ_RAW_SLOTS];
		} raw;
	} map;
};

struct tz_class {
	tz_lock lock;
	_Atomic uint32_t partial;	/* slabs with a free slot, TZ_NO_SLAB if none; changed under
					 * the lock */
	uint32_t object_size, per_slab;
	uint32_t reciprocal;		/* of object_size / 16, see slot_of() */
	struct tz_class_stats *stats;
} __attribute__((aligned(64)));

struct tz_pool {
	struct tz_arena *arena;
	struct tz_stats *stats;
	struct tz_slab *slabs;
	uint64_t (*maps)[TZ_MAP_WORDS];		/* full-size maps */
	size_t metadata_len;			/* bytes of the one mapping of both */
	uint32_t nr_maps;
	unsigned nr_classes;
	unsigned first_own;			/* the first class whose slabs have their map in the
						 * metadata */
	_Atomic uint32_t never_populated;	/* the slabs from this number on */
	_Atomic uint32_t activity;		/* a slot was freed since the compactor last set it
						 * to 0; its futex word */
	uint8_t class_of[TZ_PAGE_SIZE / 16 + 1];	/* (size + 15) / 16 -> class */
	struct tz_class classes[TZ_MAX_CLASSES];

	tz_lock reserve_lock;
	uint32_t reserve;			/* list of populated, unused slabs */
	uint32_t spare_map;			/* list of full-size maps; the first word of each
						 * names the next */
	_Atomic uint32_t reserve_count, spare_maps;
	_Atomic uint32_t reserve_target;	/* slabs that its thread keeps there now (pool.c:
						 * target_now) */
	_Atomic uint32_t reserve_full;		/* and while the device is in use */
	_Atomic uint64_t used_bytes;		/* of the arena, populated */
	_Atomic uint64_t mem_limit;		/* 0 = none */

	/* The reserve's thread alone grows and shrinks the arena. */
	_Atomic uint32_t wake;			/* its futex word: enum wake in pool.c */
	uint32_t unpopulated;			/* list of slabs that were punched out */
	struct tz_floor floor;			/* of free memory; 0 until the reserve is full */
	uint64_t floor_at;			/* ns: when that was looked at */
	uint64_t short_since;			/* ns: since when less is free; 0: there is more */
	uint32_t next_map;			/* maps from here on were never touched */
	_Atomic uint32_t trim_asked, trim_done;
	_Atomic uint64_t trimmed;		/* bytes given back for tz_pool_trim */

	/* The compactor alone. */
	int (*compact)(void *arg, int pass);
	void *compact_arg;
	uint32_t evacuating[TZ_EVACUATE_MAX];	/* slabs being emptied in this pass, and the classes
						 * they are of */
	uint8_t evacuating_class[TZ_EVACUATE_MAX];
	unsigned nr_evacuating;
	uint64_t futile;			/* slabs wasted when a pass gained nothing, 0: the
						 * last one did */
	uint32_t by_used[TZ_MAX_CLASSES][65];	/* slabs of each class by occupancy in 64ths */

	_Atomic uint32_t stop;			/* futex word of the compactor's pauses */
	pthread_t reserve_thread, compactor;
	int nr_threads;
};

/* 0 or negative errno with why. The reserve is filled before it returns. */
int tz_pool_create(struct tz_pool *pool, struct tz_arena *arena, struct tz_stats *stats,
	uint64_t mem_limit, char *why, size_t why_size);
/* Starts the pool's two threads; they run until destroy. `compact` is called by the compactor now
 * and then, with `pass` when slots are wasted (see evacuate_begin); it returns whether it has
 * something left to do when it is called the next time. */
int tz_pool_start(struct tz_pool *pool, int (*compact)(void *arg, int pass), void *arg, char *why,
	size_t why_size);
void tz_pool_destroy(struct tz_pool *pool);

/* A slot for `size` bytes (1 .. 4096) of a page: its offset in the arena, 16-byte aligned
 * (4096-aligned for size > TZ_POOL_HUGE). 0 with *err: -ENOSPC (mem_limit), -EAGAIN (more is being
 * made ready). */
uint64_t tz_pool_alloc(struct tz_pool *pool, unsigned size, uint64_t page, int *err);
/* Gives a slot back. -EINVAL, and nothing happens: there is no slot for `size` bytes at that
 * offset, it is not in use, or, for pages kept raw, it is another page's. */
int tz_pool_free(struct tz_pool *pool, uint64_t offset, unsigned size, uint64_t page);
/* Whether an object of `size` bytes can be there: a slot that is large enough, in a slab that is in
 * use. */
int tz_pool_is_slot(const struct tz_pool *pool, uint64_t offset, unsigned size);
void tz_pool_prefetch(const struct tz_pool *pool, uint64_t offset);

/* Compaction, in the compactor. begin picks sparse slabs whose objects fit the free slots of the
 * others, and takes them out of use; the store moves their objects (alloc_existing never takes a
 * new slab; 0 = no room); end puts back what is not empty. */
unsigned tz_pool_evacuate_begin(struct tz_pool *pool);
int tz_pool_is_evacuating(const struct tz_pool *pool, uint64_t offset);
uint64_t tz_pool_alloc_existing(struct tz_pool *pool, unsigned size, uint64_t page);
void tz_pool_evacuate_end(struct tz_pool *pool);
int tz_pool_is_stopping(const struct tz_pool *pool);

int tz_pool_set_limit(struct tz_pool *pool, uint64_t bytes, char *why, size_t why_size);
/* Has the reserve's thread return to the kernel what the reserve holds above its target, and waits
 * for it, at most 2 s. Bytes returned. The reserve itself stays: a device in use may need it at any
 * moment. */
uint64_t tz_pool_trim(struct tz_pool *pool);

/* Places where tests stop a thread or look at it; they exist in the tests' own build of the store
 * only. */
#ifdef TZ_TEST_POINTS
void tz_test_point(const char *name);
#define TZ_TEST_POINT(name) tz_test_point(name)
#else
#define TZ_TEST_POINT(name) ((void)0)
#endif

#endif
