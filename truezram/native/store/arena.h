/* arena.h - the one file that holds a device's whole state (docs/arena.md describes it for whoever
 * reads it from outside).
 *
 *	0			head, two copies of a page each; the valid one with the higher
 *				sequence counts
 *	8192			zstd's dictionary, if there is one
 *	directory_offset	one 8-byte entry for each page of the page table, which has 512
 *				entries of 8 bytes
 *	segment_offset		nr_segments segments of 128 KiB: objects, or pages of the page
 *				table (alloc.c)
 *
 * The file is sparse: head, dictionary and the beginning of the directory are populated when the
 * device is made, the rest of the directory and segments as they are needed. Every reference inside
 * is an offset from the start of the file, so it can be mapped anywhere by anyone: a server that
 * takes over after a crash or for an upgrade needs nothing but this file. What is not in it (which
 * units are free) can be rebuilt from the table. The server itself reads the head from a private
 * copy: nothing in the file is trusted.
 */
#ifndef TZ_ARENA_H
#define TZ_ARENA_H

#include "codec.h"
#include "policy.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define TZ_ARENA_MAGIC 0x32415a54455552ull		/* "RUETZA2" */
#define TZ_ARENA_VERSION 2
#define TZ_SEGMENT_SIZE (128u << 10)
/* Entries address objects in units of 16 bytes with 35 bits; objects name their page with 32. */
#define TZ_ARENA_MAX (512ull << 30)
#define TZ_DISK_MAX (16ull << 40)
#define TZ_TABLE_ENTRIES 512u		/* of one page of the page table */
#define TZ_HEAD_COPIES 2u
#define TZ_DICTIONARY_OFFSET 8192u
/* A page of the directory: for 512 pages of the table, or 1 GiB of the disk. So many are populated
 * when the device is made. */
#define TZ_DIRECTORY_ENTRIES 512u
#define TZ_DIRECTORY_EAGER 64u

enum tz_arena_state { TZ_ARENA_MAKING = 1, TZ_ARENA_LIVE = 2, TZ_ARENA_STOPPING = 3 };

/* Features: a server refuses an arena with an incompatible one that it does not know; others it may
 * ignore. */
#define TZ_ARENA_GROUPS 1ull		/* incompatible: pages may be members of groups */
#define TZ_ARENA_BACKING 2ull		/* incompatible: pages may be on a backing file */
#define TZ_ARENA_INCOMPATIBLE (TZ_ARENA_GROUPS | TZ_ARENA_BACKING)
#define TZ_ARENA_DEDUP 1ull		/* compatible: dedup is on */

/* The device as it was made, for whoever takes over. */
struct tz_arena_device {
	uint32_t transport, id, queues, depth, max_io;
	uint32_t data_mode;		/* of ublk, as it was asked for: 0 was not, see ublk.h */
	uint64_t ublk_flags;
	char server_version[32];
};

struct tz_arena_head {
	uint64_t magic;
	uint32_t version;
	uint32_t crc;		/* CRC-32C of this page with crc = 0 */
	uint64_t sequence;
	uint64_t compatible, incompatible;		/* features in use */
	uint8_t uuid[16];
	uint64_t generation;		/* servers that have had it */
	uint64_t created_ns;		/* CLOCK_REALTIME */
	uint32_t state;		/* enum tz_arena_state */
	uint32_t segment_size;
	uint64_t disksize;
	uint64_t directory_offset, segment_offset, nr_segments;
	uint32_t dictionary_size, dictionary_crc;
	struct tz_arena_device device;
	/* as in force now: written before a change is acknowledged */
	uint64_t mem_limit;
	char algorithm[32];
	/* the backing file's identity; all zero: none */
	uint8_t backing_uuid[16];
	uint64_t backing_device, backing_inode, backing_size;
	char backing_path[256];
	struct tz_policy policy;	/* as in force now */
	uint64_t backing_daily, backing_rate;		/* the same */
	uint32_t mode;			/* enum tz_mode, likewise */
};

struct tz_arena {
	uint8_t *base;		/* where it is mapped */
	uint64_t size;		/* bytes mapped; most of it unpopulated */
	int fd;
	struct tz_arena_head head;	/* what the newer copy says, and what the next will say */
	_Atomic uint64_t *directory;
	_Atomic uint64_t *ready;	/* a bit for each page of the directory: populated */
	_Atomic uint64_t *wanted;		/* and: to be populated */
	uint64_t segment_offset, nr_segments, nr_tables, nr_directory;	/* the last two: pages */
};

struct tz_arena_config {
	int fd;		/* an empty file; the arena's own once it is created */
	uint64_t disksize;
	int lock;		/* mlock what is populated; failing to is an error */
	const void *dictionary;		/* NULL: none */
	size_t dictionary_size;
	uint64_t mem_limit;
	const char *algorithm;
	const struct tz_arena_device *device;		/* NULL: none, as in tests */
};

/* Sizes and maps the file, populates head, dictionary and directory. 0, or negative errno with why.
 */
int tz_arena_create(
	struct tz_arena *a, const struct tz_arena_config *c, char *why, size_t why_size);
/* Maps a file that has been an arena before, and what is populated of its head, dictionary and
 * directory. Nothing in it is changed. 0, or negative errno with why: as tz_arena_fetch_head;
 * -EBUSY: its device was never made. */
int tz_arena_attach(struct tz_arena *a, int fd, int lock, char *why, size_t why_size);
/* Maps what is populated there already. 0 or negative errno. */
int tz_arena_map(struct tz_arena *a, uint64_t offset, uint64_t len);
void tz_arena_destroy(struct tz_arena *a);
/* From the control thread only. Writes a->head to the file, one copy after the other, so that one
 * is whole, whatever happens meanwhile. */
void tz_arena_write_head(struct tz_arena *a);
/* The newest valid head among the two in a file's first 8192 bytes. 0, or negative errno with why:
 * -EILSEQ it is not an arena, or damaged; -EPROTONOSUPPORT of a version or with features that this
 * program does not know. */
int tz_arena_read_head(const void *bytes, struct tz_arena_head *out, char *why, size_t why_size);
/* Whether these bytes are one valid copy of a head. */
int tz_arena_is_head(const void *copy);
/* The same for an open file, which may be anything: also -EINVAL, it is not a regular file; -EILSEQ
 * as well when it is shorter than its head says. `copies`: both as they are in the file. */
int tz_arena_fetch_head(int fd, uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE],
	struct tz_arena_head *out, char *why, size_t why_size);
/* Calls `found` for each range of the file's first `size` bytes that is populated, in order.
 * Touches nothing. 0 or negative errno. */
int tz_arena_find_populated(
	int fd, uint64_t size, void (*found)(void *arg, uint64_t from, uint64_t to), void *arg);
/* Gives [offset, offset + len) pages now, so that touching it later cannot fault. 0 or negative
 * errno; may wait for memory, so never called from a queue thread. */
int tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
/* Gives the pages back to the kernel; the range reads as unpopulated from then on. */
int tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

/* What is populated from the start. */
uint64_t tz_arena_fixed_bytes(const struct tz_arena *a);

/* Whether the directory's entry for a page of the table may be touched; if not, that page is not
 * there. */
static inline int tz_arena_directory_ready(const struct tz_arena *a, uint64_t table)
{
	uint64_t page = table / TZ_DIRECTORY_ENTRIES;

	return atomic_load_explicit(&a->ready[page / 64], memory_order_acquire) >> page % 64 & 1;
}

/* Pages of the directory that are populated, but for those that are from the start. */
uint64_t tz_arena_directory_more(const struct tz_arena *a);

/* Asks for it. */
static inline void tz_arena_want_directory(struct tz_arena *a, uint64_t table)
{
	uint64_t page = table / TZ_DIRECTORY_ENTRIES;

	atomic_fetch_or_explicit(&a->wanted[page / 64], 1ull << page % 64, memory_order_release);
}

/* From the reserve's thread: populates what has been asked for. How many pages, or negative errno.
 */
int tz_arena_populate_wanted(struct tz_arena *a);

/* Bytes that another thread may be writing: whoever wants them checks what they say. */
void tz_arena_load(const struct tz_arena *a, uint64_t offset, void *out, size_t n);

/* Pages of the page table that a disk has. */
static inline uint64_t tz_tables_for(uint64_t disksize)
{
	uint64_t covered = (uint64_t)TZ_TABLE_ENTRIES * TZ_PAGE_SIZE;

	return (disksize + covered - 1) / covered;
}

/* Bytes of the file. */
static inline uint64_t tz_arena_bytes(const struct tz_arena_head *h)
{
	return h->segment_offset + h->nr_segments * TZ_SEGMENT_SIZE;
}

static inline uint64_t tz_segment_offset(const struct tz_arena *a, uint64_t segment)
{
	return a->segment_offset + segment * TZ_SEGMENT_SIZE;
}

#endif
