/* store_impl.h - the store's inside, shared by store.c (reading and writing), store_codecs.c
 * (algorithms) and housekeeping.c (what is done while nobody waits). */
#ifndef TZ_STORE_IMPL_H
#define TZ_STORE_IMPL_H

#include "alloc.h"
#include "arena.h"
#include "backing.h"
#include "cold.h"
#include "dedup.h"
#include "dictionary.h"
#include "entry.h"
#include "group.h"
#include "reserve.h"
#include "store.h"

#include <pthread.h>
#include <stdatomic.h>

/* An object: this, then the payload. */
struct tz_object_head {
	uint32_t crc, owner;
};
_Static_assert(sizeof(struct tz_object_head) == TZ_OBJECT_HEAD, "as entry.h counts units");

#define TZ_HUGE_SIZE 3840u	/* a longer object is not worth decompressing: kept raw */

struct tz_workspace {
	void *memory;		/* NULL: the codec needs none */
	size_t size;
};

/* What the CRC of an object begins with, so that a whole object of another page or kind is noticed.
 */
static inline uint32_t tz_object_seed(uint64_t page, unsigned kind)
{
	return (uint32_t)(page * 0x9e3779b1u) + kind;
}

/* What the head and the CRC of an object that pages share have in place of their numbers. (The last
 * page of the largest disk has this number, too. Entries say which of them is meant.) */
#define TZ_NO_OWNER 0xffffffffull

/* A longer object is not worth decompressing: such a page is kept raw. */
#define TZ_HUGE_SIZE 3840u

static inline uint64_t tz_object_owner(uint64_t page, uint64_t entry)
{
	return tz_entry_is_shared(entry) ? TZ_NO_OWNER : page;
}

/* How a thread encodes now and decodes each kind: replaced as a whole. */
struct tz_codec_set {
	const struct tz_codec *encoder;
	void *encoder_workspace;
	struct tz_workspace by_kind[TZ_KINDS];
};

/* What the codec of this kind works in (store.c); NULL: nothing. */
void *tz_codec_set_workspace(const struct tz_codec_set *set, unsigned kind);

/* Threads of the store after those of its callers: the one that collects freed swap slots,
 * which has no codecs, and the housekeeper. */
enum { TZ_COLLECTOR, TZ_HOUSEKEEPER, TZ_OWN_THREADS };
_Static_assert(TZ_OWN_THREADS == TZ_STATS_HELPERS, "each has counters");

struct tz_set_aside {
	uint64_t entry, page;
};

struct tz_store_thread {
	_Atomic uint64_t hazard;		/* entry being read, 0 = none */
	_Atomic(struct tz_codec_set *) set;
	struct tz_codec_set *inside_set;		/* valid between begin and end */
	const struct tz_dedup_index *inside_index;	/* the same; NULL: dedup is off */
	_Atomic(struct tz_group_reader *) groups;	/* NULL: groups are off */
	_Atomic(struct tz_backing_reader *) backing;	/* NULL: there is no backing file */
	int defers;		/* reads from there are not to be waited for */
	_Atomic uint64_t turns;		/* odd: inside begin/end */
	struct tz_store *store;
	struct tz_queue_stats *stats;
	unsigned index, nr_set_aside, ticks;
	/* since it last looked whether there is something to tidy up */
	unsigned freed_units, emptied;
	/* Freed entries that a thread still reads: two for each other thread, those of the store
	 * itself among them. */
	struct tz_set_aside set_aside[2 * (TZ_MAX_QUEUES + TZ_OWN_THREADS - 1)];
	const char *error;		/* of error_page, not yet in the statistics; NULL: none */
	uint64_t error_page;
	uint8_t object[TZ_DST_SIZE] __attribute__((aligned(64)));
} __attribute__((aligned(64)));

struct tz_housekeeping {
	_Atomic uint32_t wake, stop;		/* futex words */
	_Atomic uint32_t look_at_table;	/* pages were discarded: a page of the table may be empty */
	_Atomic uint64_t enough; /* free bytes in segments above which another pass may pay */
	_Atomic uint64_t tickets;	/* compactions asked for */
	_Atomic uint32_t borrowed;	/* what it has made smaller may have left holes */
	_Atomic uint32_t squeezed;	/* a write waits for them */
	/* entries whose objects other threads left to it to free; 0: a free place */
	_Atomic uint64_t left[16];
	/* the thread's own */
	int no_room;		/* in this pass, something could not be moved */
	int asked;		/* this compaction was asked for */
	int thorough;		/* or is needed */
	int once_more;		/* the table is to be looked at again, when it has been quiet */
	uint64_t quiet_at;		/* ns: that is, if nothing happens until then */
	uint64_t holes_at_first;	/* bytes, when that began */
	pthread_t thread;
	int started;
};

struct tz_store {
	struct tz_arena arena;
	struct tz_alloc alloc;
	struct tz_reserve reserve;
	struct tz_housekeeping housekeeping;
	struct tz_dedup dedup;
	struct tz_groups groups;
	struct tz_backing backing;
	struct tz_stats *stats;
	uint64_t nr_pages;
	_Atomic uint64_t map_turns;	/* odd: the page map is being looked at */
	unsigned nr_threads;		/* callers; TZ_OWN_THREADS follow */
	struct tz_store_thread *threads;
	struct tz_dictionary *dictionary;		/* of zstd; NULL: none. Mapped */
	_Atomic(uint64_t *) freed;	/* bits of freed swap slots; NULL: not known */
	_Atomic int others;		/* something that is not swap has written since */
	/* No page is young: the clock sleeps until a thread begins to work (age.c). */
	_Atomic uint32_t resting;
	struct tz_aging aging;
	struct tz_recompress recompress;
	struct tz_policing policing;
	/* The page that the collector is at, + 1; 0: none. It writes this for each page: a cache
	 * line of its own. */
	_Atomic uint64_t collecting __attribute__((aligned(64)));
};

/* ---- the page table (store.c) ---- */

/* Where a page's entry is; NULL: it has none yet, which means empty, or *damaged is set. */
_Atomic uint64_t *tz_table_slot(const struct tz_store *s, uint64_t page, int *damaged);
/* The offset of a page of the table in the arena, by its number; 0: not there, or *damaged. */
uint64_t tz_table_page(const struct tz_store *s, uint64_t index, int *damaged);
/* What the directory says of a page of the table. closing: it is about to go, if nobody uses it. */
uint64_t tz_table_directory_entry(uint64_t index, uint64_t offset, int closing);
int tz_table_is_directory_entry(uint64_t index, uint64_t entry);
#define TZ_DIRECTORY_CLOSING TZ_ENTRY_SHARED

/* ---- entries and objects in use by threads (store.c) ---- */

uint64_t tz_store_announce(struct tz_store_thread *t, _Atomic uint64_t *slot);
/* Exchanges an entry that this thread has announced for another one of the page, which gets its
 * age, or for 0. 1: it was there, *entry is as it was last; 0: the page has been overwritten,
 * discarded or moved. */
int tz_store_exchange(_Atomic uint64_t *slot, uint64_t page, uint64_t *entry, uint64_t mine);
/* Writes an object of the page's into room that was taken for it; its entry. */
uint64_t tz_store_fill(struct tz_store *s, uint64_t offset, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length);
/* The page of an entry whose object is where it can be (tz_store_fault). NULL, or what is wrong
 * with the object. */
const char *tz_store_decode(
	struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out);
/* Frees what an entry that has just been exchanged out of the table names, or sets it aside. */
void tz_store_retire(struct tz_store_thread *t, uint64_t page, uint64_t entry);
void tz_store_free_set_aside(struct tz_store_thread *t);
/* Counts an exchange of a page's entry, adding one to *requests if that is not NULL, and frees what
 * the old one names. own: no other page uses what the new one names. */
void tz_store_account(struct tz_store_thread *t, uint64_t page, uint64_t old, uint64_t entry,
	int own, uint64_t *requests);
/* Compressed, in an object of the page's own: its entry, which is not in the table yet; 0: no
 * room. */
uint64_t tz_store_place_own(struct tz_store_thread *t, uint64_t page, const uint8_t *data);
/* The same of an object that is somewhere else. */
const char *tz_store_decode_at(struct tz_store_thread *t, uint64_t page, uint64_t entry,
	const uint8_t *object, uint8_t *out);
/* Shows what is wrong with a page in the statistics. */
void tz_store_note_error(struct tz_store_thread *t, uint64_t page, const char *what);
/* Whether an entry that the page had before must not come back now: see the top of store.c. */
int tz_store_is_being_collected(const struct tz_store *s, uint64_t page);
/* What is wrong with an entry that is not EMPTY; NULL: nothing, and its object, if it has one, is
 * where one can be. */
const char *tz_store_fault(const struct tz_store *s, uint64_t page, uint64_t entry);
/* An entry came into the table (sign 1) or left it (-1). own: and its object with it; if not, other
 * pages have that. (Groups are counted by tz_group_count.) */
void tz_store_count_entry(struct tz_queue_stats *q, uint64_t entry, int own, int sign);
/* Waits until the thread whose turns these are has been outside begin/end; gives up when *stop (if
 * not NULL) is set. */
void tz_store_wait_outside(const _Atomic uint64_t *turns, const _Atomic uint32_t *stop);
/* From the housekeeper: until all other threads have been outside. */
void tz_store_wait_for_all(const struct tz_store *s);

/* ---- making one (store.c) ---- */

/* All zeros; NULL with *err and why. */
struct tz_store *tz_store_new(int *err, char *why, size_t why_size);
/* Uses nr_threads and stats of the configuration. 0 or negative errno with why. */
int tz_store_make_threads(
	struct tz_store *s, const struct tz_store_config *c, char *why, size_t why_size);
/* From here on the arena is one that another server may attach, and statistics show the device. */
void tz_store_set_live(struct tz_store *s);

/* ---- housekeeping.c ---- */

int tz_housekeeping_start(struct tz_store *s, char *why, size_t why_size);
void tz_housekeeping_stop(struct tz_store *s);
void tz_housekeeping_wake(struct tz_store *s);
/* What another server has left is looked at as a whole: sparse segments, empty pages of the
 * table. */
void tz_housekeeping_look_at_all(struct tz_store *s);
/* After a thread has freed so many units, or emptied as many entries as a page of the table has. */
#define TZ_LOOK_UNITS 4096u
void tz_housekeeping_look(struct tz_store_thread *t);
/* A thread stops working, maybe for hours, with objects set aside that somebody still reads: the
 * housekeeper frees them (all that it has places for). */
void tz_housekeeping_leave(struct tz_store_thread *t);
/* There is something to do (look_after in housekeeping.c, and the turns of cold.h). */
void tz_housekeeping_wake(struct tz_store *s);
/* For a write that finds no room: -ENOSPC, or -EAGAIN, there may be some soon. */
int tz_housekeeping_no_room(struct tz_store *s);
/* Room for an object that the housekeeper makes; 0: there is none now. */
uint64_t tz_housekeeping_room(struct tz_store *s, unsigned shard, unsigned units);

/* ---- store_codecs.c ---- */

/* Locked memory of a size that `what` asks for, `reason` being why it is 0. NULL with *err and
 * why. */
void *tz_store_map_locked(
	size_t size, const char *what, const char *reason, int *err, char *why, size_t why_size);

int tz_store_check_algorithm(const struct tz_store_config *c, char *why, size_t why_size);
/* `dictionary`: its n bytes, as given or as the store has them; NULL: none. 0 or negative errno
 * with why. */
int tz_store_switch_algorithm(struct tz_store *s, const char *algorithm, const void *dictionary,
	size_t n, char *why, size_t why_size);
/* The same for an arena that another server has written: first what it takes to read objects of
 * each kind that kinds[] counts. */
int tz_store_attach_codecs(struct tz_store *s, const int64_t kinds[TZ_KINDS],
	const void *dictionary, size_t n, char *why, size_t why_size);
void tz_store_free_codecs(struct tz_store *s);
/* Has all threads, the housekeeper too (which packs it), read what this codec makes, whatever they
 * write. 0 or negative errno with why. */
int tz_store_add_decoder(
	struct tz_store *s, const struct tz_codec *codec, char *why, size_t why_size);
/* For the housekeeper: writes with this codec, and reads all kinds that the threads read now but
 * those with a dictionary. NULL with *err and why. */
struct tz_codec_set *tz_store_make_set(struct tz_store *s, const struct tz_codec *codec, int level,
	int *err, char *why, size_t why_size);
void tz_store_free_set(struct tz_codec_set *set);

#endif
