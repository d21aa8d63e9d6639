/* alloc.h - where objects live: segments of 128 KiB cut into units of 16 bytes. How it works is at
 * the top of alloc.c. */
#ifndef TZ_ALLOC_H
#define TZ_ALLOC_H

#include "arena.h"
#include "entry.h"
#include "lock.h"
#include "stats.h"

#include <stdatomic.h>
#include <stdint.h>

#define TZ_SEGMENT_UNITS (TZ_SEGMENT_SIZE / TZ_UNIT)
#define TZ_NO_SEGMENT UINT32_MAX
#define TZ_HOLES 28		/* that are known of one segment */
#define TZ_HINTS 4		/* for each size of hole */
#define TZ_MAX_SHARDS 16
#define TZ_TABLE_PAGES (TZ_SEGMENT_SIZE / TZ_PAGE_SIZE)	/* of the page table, in a segment */
#define TZ_SIZE_WORDS ((TZ_MAX_UNITS + 64) / 64)

enum tz_segment_state {
	TZ_SEGMENT_ABSENT = 0,		/* a hole in the file */
	TZ_SEGMENT_RESERVE,		/* populated, empty, in the reserve's list */
	TZ_SEGMENT_BETWEEN,		/* in nobody's list, in one thread's hands */
	TZ_SEGMENT_OBJECTS,		/* a shard's */
	TZ_SEGMENT_EVACUATING,		/* a shard's, but nothing new is placed in it */
	TZ_SEGMENT_TABLE		/* 32 pages of the page table */
};

struct tz_hole {
	uint16_t start, units;
};

/* What is known of one segment: private, rebuilt from the page table after a crash. */
struct tz_segment {
	/* in a list of its shard, or of table segments; next: in the reserve, or torn */
	uint32_t next, prev;
	_Atomic uint16_t free_units;		/* in holes, known or not */
	uint16_t largest;		/* units of the largest known hole */
	uint8_t nr_holes;
	_Atomic uint8_t shard;
	_Atomic uint8_t state;		/* enum tz_segment_state */
	uint8_t pad;
	union {
		struct tz_hole holes[TZ_HOLES];		/* in no order */
		struct {		/* TABLE */
			uint32_t pages;		/* in use: bits */
			uint32_t ready;		/* populated: those in use, and spare ones */
			/* of the pages in use, in the page table: 24 bits */
			uint16_t index_low[TZ_TABLE_PAGES];
			uint8_t index_high[TZ_TABLE_PAGES];
		} table;
	};
};

struct tz_shard {
	tz_lock lock;
	/* Sizes below are in units >> shift: 0, and 4 for groups, of which one takes up to half of
	 * a segment. */
	unsigned shift;
	_Atomic uint64_t segments;		/* that it has */
	_Atomic uint64_t free_units;		/* in them */
	/* a bit for each n below that has some */
	uint64_t listed[TZ_SIZE_WORDS], hinted[TZ_SIZE_WORDS];
	/* [n]: segments whose largest hole has n units; the last: or more */
	uint32_t by_largest[TZ_MAX_UNITS + 1];
	/* [n]: segments that had a hole of just n units, a ring */
	uint8_t nr_hints[TZ_MAX_UNITS + 1], last_hint[TZ_MAX_UNITS + 1];
	uint32_t hints[TZ_MAX_UNITS + 1][TZ_HINTS];
} __attribute__((aligned(64)));

struct tz_alloc {
	struct tz_arena *arena;
	struct tz_stats *stats;
	struct tz_segment *segments;	/* of the whole arena; touched as they are populated */
	_Atomic uint64_t *present; /* a bit for each: populated. After them in the same mapping */
	size_t mapping_len;
	uint64_t adopted_bytes;		/* of the arena that it was rebuilt from; 0: it is new */
	/* after these come two more, TZ_SHARD_SHARED and TZ_SHARD_GROUPS */
	struct tz_shard *shards;
	unsigned nr_shards;
	_Atomic uint32_t nr_known;		/* segments from here on were never populated */
	_Atomic uint64_t metadata_bytes;		/* of `segments` and `present`, in memory,
							 * and of dedup.c */
	uint32_t first_absent;		/* words of `present` before this one are full */

	tz_lock reserve_lock;
	uint32_t reserve;		/* list */
	_Atomic uint32_t reserve_count;
	_Atomic uint32_t pops;		/* segments taken for use so far */

	tz_lock table_lock;
	/* lists of segments of table pages: with a spare page; with a free one, but none spare; and
	 * without any in use, to be punched out */
	uint32_t table_partial, table_dry, torn;
	_Atomic uint64_t table_pages;		/* in use */
	_Atomic uint32_t table_spare;		/* pages: free and populated */
	uint64_t table_holes;		/* and neither, in segments of the table */

	/* called, without a lock held, when the reserve is short or too large, or spare pages of
	 * the table are few or many, or a segment is torn */
	void (*wake)(void *arg);
	void *wake_arg;
	_Atomic uint32_t reserve_low, reserve_high;	/* that is: when it has less or more */
	_Atomic uint32_t spare_low, spare_high;		/* the same for spare pages of the table */
};

/* Shards after those of the queue threads: for objects that pages share, and for groups. */
enum { TZ_SHARD_SHARED, TZ_SHARD_GROUPS, TZ_OWN_SHARDS };

static inline unsigned tz_alloc_own_shard(const struct tz_alloc *a, unsigned which)
{
	return a->nr_shards + which;
}

/* 0, or negative errno with why. Nothing is populated. */
int tz_alloc_create(struct tz_alloc *a, struct tz_arena *arena, struct tz_stats *stats,
	unsigned shards, char *why, size_t why_size);
void tz_alloc_destroy(struct tz_alloc *a);

/* Room for `units` (1 to TZ_MAX_UNITS), preferably in the shard: its offset in the arena, or 0:
 * there is none, nor a segment in reserve. */
uint64_t tz_alloc_take(struct tz_alloc *a, unsigned shard, unsigned units);
/* The same for an object that pages share, or a group (of any size that a segment has), which lies
 * in segments with others of its like (which: TZ_SHARD_...); more: the reserve may be used. */
uint64_t tz_alloc_take_own(struct tz_alloc *a, unsigned which, unsigned units, int more);
/* Only in what the shards have, without the reserve: for the compactor. */
uint64_t tz_alloc_take_existing(struct tz_alloc *a, unsigned shard, unsigned units);
/* 0, or -EINVAL: that is not an object in use, nothing was changed. */
int tz_alloc_put(struct tz_alloc *a, uint64_t offset, unsigned units);
/* Whether an object may be there: it lies in one segment, which is populated. */
int tz_alloc_in_range(const struct tz_alloc *a, uint64_t offset, unsigned units);
/* Loads what freeing an object there will touch; any offset will do. */
void tz_alloc_prefetch(const struct tz_alloc *a, uint64_t offset);

/* A page of 4096 bytes, aligned, for the page table; 0: no room. Its content is not cleared. */
uint64_t tz_alloc_take_table(struct tz_alloc *a, uint32_t index);
void tz_alloc_put_table(struct tz_alloc *a, uint64_t offset);
/* Where a page of the table is, when the directory does not say any more; 0: nowhere. Looks through
 * all segments. */
uint64_t tz_alloc_find_table(const struct tz_alloc *a, uint32_t index);

/* From the reserve's thread alone. shrink: up to `most` spare neighbours, which are not any more
 * from now on; grow: up to `most` neighbours that are not populated. Where, and *n of them; 0:
 * there are none. spare: they are populated (again, if they could not be punched out). */
uint64_t tz_alloc_shrink_table(struct tz_alloc *a, unsigned most, unsigned *n);
uint64_t tz_alloc_grow_table(struct tz_alloc *a, unsigned most, unsigned *n);
void tz_alloc_spare_table(struct tz_alloc *a, uint64_t offset, unsigned n);
/* And: a segment of the table without a page in use, to be punched out (and then to vanish), of
 * which *n pages are populated; TZ_NO_SEGMENT: there is none. tear: back, if that failed. */
uint32_t tz_alloc_take_torn(struct tz_alloc *a, unsigned *n);
void tz_alloc_tear(struct tz_alloc *a, uint32_t segment);

/* From the reserve's thread alone. absent: the first of up to `want` neighbours that are not
 * populated, *n of them; TZ_NO_SEGMENT: there are none. appear: they are populated now, and in
 * reserve. vanish: these are not any more; what was known of them is forgotten, and its memory
 * given back where that is whole pages. */
uint32_t tz_alloc_absent(struct tz_alloc *a, unsigned want, unsigned *n);
void tz_alloc_appear(struct tz_alloc *a, uint32_t first, unsigned n);
void tz_alloc_vanish(struct tz_alloc *a, const uint32_t *segments, unsigned n);
/* A segment out of the reserve to be punched out, and back into it if that fails. */
uint32_t tz_alloc_reserve_take_out(struct tz_alloc *a);
void tz_alloc_reserve_push(struct tz_alloc *a, uint32_t segment);
/* Bytes that what is known of segments takes, and what finds duplicates. */
uint64_t tz_alloc_overhead(const struct tz_alloc *a);

/* Rebuilding what is known of an arena, before any thread works (attach.c). adopt: these pages of a
 * segment are populated. If it is whole, either table pages are found in it, one by one, and that
 * is all of them; or it holds objects in the units whose bits are set in `taken`, and free ones in
 * all others; or it is pushed into the reserve. If not, it has table pages or is torn. */
void tz_alloc_adopt(struct tz_alloc *a, uint32_t segment, unsigned first, unsigned n);
void tz_alloc_adopt_table_page(struct tz_alloc *a, uint64_t offset, uint32_t index);
void tz_alloc_adopt_table(struct tz_alloc *a, uint32_t segment);
void tz_alloc_adopt_objects(
	struct tz_alloc *a, uint32_t segment, unsigned shard, const uint64_t *taken);

/* A bit for each unit of so many segments: for the largest arenas 4 GiB of address space; what is
 * touched of it is memory. NULL: no memory. */
uint64_t *tz_units_map(uint64_t segments);
void tz_units_unmap(uint64_t *bits, uint64_t segments);
int tz_units_any(const uint64_t *bits, uint64_t first, unsigned n);
void tz_units_take(uint64_t *bits, uint64_t first, unsigned n);

/* Emptying a segment. begin: nothing is placed in it from now on; the holes that are known of it,
 * in order. 0, or -EBUSY: it holds no objects now. In between it stays where it is, even when all
 * of it is free. end: into the reserve if it is, or back into use. */
struct tz_evacuation {
	uint32_t segment;
	unsigned nr_holes;
	struct tz_hole holes[TZ_HOLES];
};
int tz_alloc_evacuate_begin(struct tz_alloc *a, uint32_t segment, struct tz_evacuation *e);
void tz_alloc_evacuate_end(struct tz_alloc *a, const struct tz_evacuation *e);

static inline int tz_alloc_is_present(const struct tz_alloc *a, uint32_t segment)
{
	return atomic_load_explicit(&a->present[segment / 64], memory_order_acquire) >>
		segment % 64 &
		1;
}

/* Of a segment of the table, or one that is being adopted, the pages that are populated, as
 * bits. */
static inline uint32_t tz_alloc_ready(const struct tz_alloc *a, uint32_t segment)
{
	return a->segments[segment].table.ready;
}

/* Which page of the page table the i'th page of such a segment is. */
static inline uint32_t tz_alloc_table_index(const struct tz_segment *m, unsigned i)
{
	return (uint32_t)__atomic_load_n(&m->table.index_high[i], __ATOMIC_RELAXED) << 16 |
		__atomic_load_n(&m->table.index_low[i], __ATOMIC_RELAXED);
}

/* What is known of a segment at this moment. */
static inline unsigned tz_alloc_state(const struct tz_alloc *a, uint32_t segment)
{
	if (!tz_alloc_is_present(a, segment))
		return TZ_SEGMENT_ABSENT;
	return atomic_load_explicit(&a->segments[segment].state, memory_order_acquire);
}

static inline unsigned tz_alloc_free_units(const struct tz_alloc *a, uint32_t segment)
{
	return atomic_load_explicit(&a->segments[segment].free_units, memory_order_relaxed);
}

static inline unsigned tz_alloc_shard(const struct tz_alloc *a, uint32_t segment)
{
	return atomic_load_explicit(&a->segments[segment].shard, memory_order_relaxed);
}

/* Places where tests stop a thread or look at it; they exist in the tests' own build of the store
 * only. */
#ifdef TZ_TEST_POINTS
void tz_test_point(const char *name);
#define TZ_TEST_POINT(name) tz_test_point(name)
#else
#define TZ_TEST_POINT(name) ((void)0)
#endif

#endif
