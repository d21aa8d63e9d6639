/* backing.h - pages that have been idle for long are on a file instead of in memory: the backing
 * file, which may be a block device. How it works is at the top of backing.c. */
#ifndef TZ_BACKING_H
#define TZ_BACKING_H

#include "codec.h"
#include "entry.h"
#include "stats.h"
#include "uring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct tz_store;
struct tz_store_thread;
struct tz_arena_head;

/* The file is written, and given back, a chunk at a time. The first one has the head. */
#define TZ_BACKING_CHUNK (128u << 10)
#define TZ_BACKING_BLOCK 4096u		/* what is read and written begins and ends at */
#define TZ_BACKING_MAX (1ull << (TZ_BACKED_OFFSET_BITS + 4))
#define TZ_BACKING_MAGIC "TZBACK1"
#define TZ_BACKING_VERSION 1u

/* The file's first bytes (docs/arena.md). */
struct tz_backing_head {
	char magic[8];
	uint32_t version, crc;		/* CRC-32C of the first 4096 bytes with crc = 0 */
	uint8_t arena[16], uuid[16];
	uint64_t generation, size;
};

/* What one thread reads with. */
struct tz_backing_reader {
	enum { TZ_BRING_NOTHING, TZ_BRINGING, TZ_BROUGHT } state;
	uint64_t page, entry;		/* what is being brought */
	int result;			/* bytes, or negative errno */
	int tried;			/* what was brought for it was not right */
	uint8_t bytes[(1u << 16) + 2 * TZ_BACKING_BLOCK] __attribute__((aligned(4096)));
};

/* A page in a batch. */
struct tz_backing_item {
	uint64_t page, entry;
	uint32_t at;			/* where in the batch its object is */
};
#define TZ_BACKING_ITEMS 2048u

struct tz_backing_batch {
	uint8_t bytes[TZ_BACKING_CHUNK] __attribute__((aligned(4096)));
	struct tz_backing_item items[TZ_BACKING_ITEMS];
};

struct tz_backing {
	/* Of the control thread, and of the housekeeper when it is at work here: one at a time. */
	pthread_mutex_t lock;
	_Atomic int fd;			/* -1: not open */
	int direct, is_device;
	uint32_t nr_chunks;		/* 0: there is none */
	/* units of a chunk that entries name, and one more while it is written to */
	_Atomic uint32_t *live;
	uint64_t *written;		/* a bit for each: the file has something there */
	size_t map_size;		/* of both */
	_Atomic uint32_t emptied;	/* a chunk has become empty since the last look */
	_Atomic uint32_t state;		/* enum tz_backing_state */
	_Atomic uint64_t daily, rate;
	_Atomic int paused;		/* its pages were asked back: none is written by itself */
	/* what is being written */
	enum { TZ_BATCH_NONE, TZ_BATCH_FILLING, TZ_BATCH_WRITING, TZ_BATCH_SYNCING,
		TZ_BATCH_PUNCHING } phase;
	struct tz_backing_batch *batch;
	uint32_t chunk, chunks;		/* in hand: the one that is written to, or those punched */
	uint32_t open;		/* the chunk that the next batch goes on with; 0: a fresh one */
	uint32_t base;			/* where in it the batch begins */
	uint32_t fill;			/* bytes of the batch */
	unsigned nr_items;
	uint64_t next_write;		/* ns: as the rate allows */
	int cannot_punch;
	struct tz_uring ring;
	int has_ring;
	int result;			/* of what was done without a ring */
};

/* ---- backing.c: from the control thread, but for what is said to be from others ---- */

/* Before the system calls are filtered: the ring. Without one, ordinary calls are made. */
void tz_backing_init(struct tz_store *s);
void tz_backing_destroy(struct tz_store *s);
/* While an arena is attached: makes what it takes to count what is there, and opens the file that
 * its head names, if that is the one. If not, the state says so: its pages read as errors. -ENOMEM
 * with why: else 0. */
int tz_backing_attach(struct tz_store *s, char *why, size_t why_size);
/* After that: nothing of the file is named yet. */
void tz_backing_forget_counts(struct tz_store *s);
/* And an entry is. */
void tz_backing_adopt(struct tz_store *s, uint64_t entry);
/* And all are: the file gets the generation that the arena's head will have. */
void tz_backing_resume(struct tz_store *s);
/* Shows a state in the statistics, and is in it. From any one thread that has the lock. */
void tz_backing_set_state(struct tz_store *s, enum tz_backing_state state, const char *text);

/* What is wrong with where an entry of kind BACKED says that its object is. NULL: nothing. */
const char *tz_backing_fault(const struct tz_store *s, uint64_t entry);
/* From any thread: an entry names its object no longer. */
void tz_backing_release(struct tz_store *s, uint64_t entry);

/* ---- backing_read.c ---- */

/* From a thread that is inside: the page, if it is on the file. 0, -EIO; -EAGAIN: it is not there
 * now; -EINPROGRESS: it has to be brought (tz_store_defer). keep: it comes back to memory, whether
 * it has been read before or not. */
int tz_backing_read(struct tz_store_thread *t, uint64_t page, uint8_t *out, int keep);

/* ---- backing_write.c: from the housekeeper ---- */

/* Whether pages can be added to a batch now. 1, 0: at *when; -1: not at all, for now. */
int tz_backing_ready(struct tz_store *s, uint64_t now, uint64_t *when);
/* Adds a page whose entry the thread has announced; 0: there is no room in it, write it first. */
int tz_backing_add(struct tz_store_thread *t, uint64_t page, uint64_t entry);
/* Begins to write what has been added; at_end: nothing more is to come. */
void tz_backing_write(struct tz_store *s, int at_end);
/* What has been added and not begun to be written is not to be. */
void tz_backing_abandon(struct tz_store *s);
/* Whether nothing is being written. */
int tz_backing_is_idle(const struct tz_store *s);
/* Ends what is being written, whatever comes of it. */
void tz_backing_drain(struct tz_store *s);
uint64_t tz_backing_turn(struct tz_store_thread *t, uint64_t now);

#endif
