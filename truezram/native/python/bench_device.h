/* bench_device.h - I/O on a block device as programs do it, timed and verified, and a program that
 * lives in swap (engine/measure/device_bench.py decides on what and for how long).
 *
 * Threads with a ring each keep `depth` requests in flight, with O_DIRECT. What is written comes
 * from a set of pages given by the caller; which page of them is at which place is noted, and every
 * page that is read is compared, after its time has been taken. Each thread has a part of the
 * device of its own, and never two requests for the same block at the same time, so that what is
 * noted is true.
 */
#ifndef TZ_BENCH_DEVICE_H
#define TZ_BENCH_DEVICE_H

#include "bench_store.h"

#define TZ_LOAD_DEPTH 1024
#define TZ_LOAD_JOBS 64
#define TZ_LOAD_BLOCK 256	/* pages of the largest request */
#define TZ_LOAD_READS 70	/* per cent of TZ_LOAD_MIXED that are reads */

enum tz_load_kind {
	TZ_LOAD_RANDREAD, TZ_LOAD_RANDWRITE, TZ_LOAD_READ, TZ_LOAD_WRITE, TZ_LOAD_MIXED
};

/* What reads of a device return. */
enum tz_disk_holds {
	TZ_DISK_HOLDS_PAGES,	/* what was written there */
	TZ_DISK_HOLDS_ZEROS,	/* zeros, whatever was written */
	TZ_DISK_HOLDS_UNKNOWN	/* nothing that could be compared */
};

struct tz_load {
	enum tz_load_kind kind;
	uint32_t block;		/* pages of a request */
	uint32_t depth, jobs;
	uint32_t ms;		/* how long; 0: each block once (TZ_LOAD_READ and TZ_LOAD_WRITE) */
	uint64_t seed;
};

/* What was done and how long it took, added up over calls. */
struct tz_load_tally {
	uint64_t requests, reads, writes;
	uint64_t compared;	/* pages of reads */
	uint64_t ns;		/* from the first request to the last answer */
	uint64_t cpu_ns;	/* of the threads, system calls included */
	uint64_t lat[TZ_BENCH_LAT_BINS];	/* of requests */
};

/* An open device and what is on it. */
struct tz_disk;

/* `fd` (a block device, or for tests a file) stays the caller's; `places`: pages of it to use;
 * pages[0 .. nr_pages) are page-aligned and stay the caller's. Nothing is written; of
 * TZ_DISK_HOLDS_PAGES, what tz_disk_run has not written is not compared. NULL: no memory. */
struct tz_disk *tz_disk_open(int fd, enum tz_disk_holds holds, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places);
void tz_disk_close(struct tz_disk *disk);

/* Puts a load on it. 0, or negative errno of the first request that failed: -EILSEQ if a page
 * differs from what was written there, -EINVAL if there are not enough blocks or pages for the
 * load. Then *place is where. */
int tz_disk_run(struct tz_disk *disk, const struct tz_load *load, struct tz_load_tally *tally,
	uint32_t *place);

/* A program that lives in swap. */
struct tz_dweller;

struct tz_dwell_tally {
	uint64_t out_pages, out_ns;	/* paged out, and how long that took */
	uint64_t in_pages, in_ns;	/* pages touched that were in swap */
	uint64_t major;		/* faults that waited for the device: others were read ahead */
	uint64_t compared;
	uint64_t cpu_ns;
	uint64_t lat[TZ_BENCH_LAT_BINS];	/* of touching such a page */
};

/* `count` pages of memory, filled with pages[0 .. nr_pages) in turn. NULL: no memory. */
struct tz_dweller *tz_dweller_open(const uint8_t *pages, uint32_t nr_pages, uint32_t count);
void tz_dweller_close(struct tz_dweller *d);
/* Gives `n` of its pages from `first` on to swap. 0 or negative errno. */
int tz_dweller_out(struct tz_dweller *d, uint32_t first, uint32_t n, struct tz_dwell_tally *tally);
/* Has those of n pages dropped from memory that have been written and are in the swap cache still:
 * they are mapped again, and given to swap as what they are, clean. How many stay (some may be
 * being written), or negative errno. */
int64_t tz_dweller_settle(struct tz_dweller *d, uint32_t first, uint32_t n);
/* Touches n pages, those at order[first .. first + n), compares each, and gives
 * every other one another content. 0, or -EILSEQ; then *place is where. */
int tz_dweller_in(struct tz_dweller *d, uint32_t first, uint32_t n, struct tz_dwell_tally *tally,
	uint32_t *place);
/* Another random order, of `run` neighbours at a time (1: of pages; 0: none, all in sequence). */
void tz_dweller_shuffle(struct tz_dweller *d, uint64_t seed, uint32_t run);

#endif
