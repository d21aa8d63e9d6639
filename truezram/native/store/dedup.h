/* dedup.h - identical pages share one object. How it works is at the top of dedup.c. */
#ifndef TZ_DEDUP_H
#define TZ_DEDUP_H

#include "lock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct tz_store;
struct tz_store_thread;

/* Where pages with some content may be: hints, in buckets of a cache line. */
struct tz_dedup_index {
	_Atomic uint64_t *places;	/* checksum << 32 | page + 1; 0: none */
	uint64_t nr_buckets;		/* a power of two */
};

struct tz_dedup {
	_Atomic(struct tz_dedup_index *) index;		/* NULL: switched off */
	struct tz_dedup_index made;		/* what that points to */
	tz_lock lock;		/* of the rest */
	uint64_t *counts;	/* of shared objects: unit << 29 | pages; 0: free. NULL: none yet */
	uint64_t nr_counts, used;	/* places, a power of two, and how many of them are taken */
	_Atomic uint32_t gathering;	/* dedup_compact.c is at work */
	_Atomic uint64_t enough;	/* free bytes above which it may pay again */
};

/* The entry of an object that the page can share, which a page with the same kind and payload has:
 * counted as used by this page. 0: there is none, or it cannot be shared now. *own: the object is
 * used by no other page (any more). Between begin and end; t->inside_index is not NULL. */
uint64_t tz_dedup_share(struct tz_store_thread *t, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length, int *own);
/* A page uses a shared object no longer. How many others do; -1: no such object is known, and
 * nothing must be freed. */
int64_t tz_dedup_release(struct tz_store *s, uint64_t entry);

/* One page more uses a shared object. 0: nobody uses it any more, or too many do. */
int tz_dedup_hold(struct tz_store *s, uint64_t entry);
/* A new one, which that many pages will use. 0: there are too many. */
int tz_dedup_add(struct tz_store *s, uint64_t offset, unsigned pages);

/* dedup_compact.c. Whether it may pay to empty segments of shared objects; asked: compaction was
 * asked for. From the housekeeper's thread, outside of begin and end: empties some. How many fewer
 * there are. */
int tz_dedup_is_sparse(const struct tz_store *s, int asked);
unsigned tz_dedup_compact(struct tz_store_thread *t, int asked);

/* From the control thread. 0 or negative errno with why. */
int tz_dedup_switch(struct tz_store *s, int on, char *why, size_t why_size);
/* For an arena that another server has left; `shared`: there are shared objects in it, which are
 * then to be counted with tz_dedup_add and tz_dedup_hold. Whatever mem_limit is. */
int tz_dedup_attach(struct tz_store *s, int on, int shared, char *why, size_t why_size);
void tz_dedup_destroy(struct tz_dedup *d);

#endif
