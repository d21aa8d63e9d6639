/* pool.h - objects of 16 .. 4096 bytes in the arena's slabs. How it works is told at the top of pool.c. */
#ifndef TZ_POOL_H
#define TZ_POOL_H

#include "arena.h"
#include "codec.h"
#include "lock.h"
#include "stats.h"

#include <pthread.h>

/* Object sizes that are not worth a slot: such a page is kept raw (pool.c: the class below 4096). */
#define TZ_POOL_HUGE 3840u

#define TZ_NO_SLAB UINT32_MAX
/* Slabs emptied in one pass of compaction: 16 MiB. */
#define TZ_EVACUATE_MAX 256u

struct tz_slab {		/* what is known of one slab; private, rebuilt from the page table after a crash */
	uint32_t next, prev;	/* in its class's partial list, or next in the list of unpopulated slabs */
	uint16_t used;		/* slots in use */
	uint16_t bump;		/* slots from here on were never used */
	uint16_t free;		/* 1 + first slot of the free list, 0 = empty */
	uint8_t class, state;	/* enum slab_state in pool.c */
};

struct tz_class {
	tz_lock lock;
	uint32_t partial;	/* slabs with a free slot, TZ_NO_SLAB if none */
	uint32_t object_size, per_slab;
	struct tz_class_stats *stats;
} __attribute__((aligned(64)));

struct tz_pool {
	struct tz_arena *arena;
	struct tz_stats *stats;
	struct tz_slab *slabs;
	size_t slabs_len;			/* bytes of that mapping */
	unsigned nr_classes;
	uint8_t class_of[TZ_PAGE_SIZE / 16 + 1];	/* (size + 15) / 16 -> class */
	struct tz_class classes[TZ_MAX_CLASSES];

	tz_lock reserve_lock;
	uint32_t reserve;			/* list of populated, unused slabs */
	_Atomic uint32_t reserve_count;
	_Atomic uint32_t reserve_target;	/* slabs the slab thread keeps there now (pool.c: target_now) */
	_Atomic uint32_t reserve_full;		/* and while the device is in use */

	/* the slab thread and tz_pool_trim, under grow_lock */
	pthread_mutex_t grow_lock;
	uint32_t unpopulated;			/* list of slabs that were punched out */
	uint32_t virgin;			/* slabs from here on were never populated */

	_Atomic uint64_t used_bytes;		/* of the arena, populated */
	_Atomic uint64_t mem_limit;		/* 0 = none */
	_Atomic uint32_t wake, stop;		/* futex words of the slab thread */
	/* compaction: called by the slab thread in every turn, `pass` when slots are wasted */
	void (*compact)(void *arg, int pass);
	void *compact_arg;
	uint64_t compacted_ms;			/* when it last ran */
	uint32_t evacuating[TZ_EVACUATE_MAX];	/* slabs being emptied in this pass */
	unsigned nr_evacuating;
	pthread_t thread;
	int thread_started;
};

/* 0 or negative errno with why. The reserve is filled before it returns; the slab thread runs until destroy. */
int tz_pool_create(struct tz_pool *pool, struct tz_arena *arena, struct tz_stats *stats, uint64_t mem_limit,
	char *why, size_t why_size);
void tz_pool_destroy(struct tz_pool *pool);

/* A slot for `size` bytes (1 .. 4096): its offset in the arena, 16-byte aligned (4096-aligned for size > TZ_POOL_HUGE). 0 with
 * *err: -ENOSPC (mem_limit), -EAGAIN (the slab thread is at work on more). */
uint64_t tz_pool_alloc(struct tz_pool *pool, unsigned size, int *err);
void tz_pool_free(struct tz_pool *pool, uint64_t offset);

/* Compaction, in the slab thread. begin picks sparse slabs whose objects fit the free slots of the others, and takes them out of
 * use; the store moves their objects (alloc_existing never takes a new slab; 0 = no room); end puts back what is not empty. */
unsigned tz_pool_evacuate_begin(struct tz_pool *pool);
int tz_pool_is_evacuating(const struct tz_pool *pool, uint64_t offset);
uint64_t tz_pool_alloc_existing(struct tz_pool *pool, unsigned size);
void tz_pool_evacuate_end(struct tz_pool *pool);

int tz_pool_set_limit(struct tz_pool *pool, uint64_t bytes, char *why, size_t why_size);
/* Returns the reserve to the kernel now; it is refilled at the next need. Bytes returned. */
uint64_t tz_pool_trim(struct tz_pool *pool);

#endif
