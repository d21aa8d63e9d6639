/* bench_store.h - fills, overwrites, reads and empties a store of its own, a block device, or a
 * local device, and times it (engine/measure/store_bench.py and tiers_bench.py decide on what and
 * how often).
 *
 * All are treated alike: N threads, one page at a time, in random order. What is written comes
 * from a set of pages given by the caller; which page of them is at which place is noted, and every
 * page that is read is compared. Sources and destinations are flushed from the caches before each
 * timing, where the CPU can do that; entries and objects are out of them if there are more than the
 * caches hold. Neither flushing nor comparing is timed.
 */
#ifndef TZ_BENCH_STORE_H
#define TZ_BENCH_STORE_H

#include "local.h"
#include "store.h"

/* most pages that a thread handles in one call: what it reads is compared after the timing */
#define TZ_BENCH_WINDOW 1024
/* Latency histogram in ns: 0..63 exactly, above 64 bins per power of two, up to a minute. */
#define TZ_BENCH_LAT_BINS 1984

enum tz_bench_op {
	TZ_BENCH_FILL,		/* writes each place once */
	TZ_BENCH_OVERWRITE,	/* writes random pages to random places */
	TZ_BENCH_READ,		/* reads each place once, and compares */
	TZ_BENCH_DISCARD
};

/* What has been done and how long it took, added up over calls. */
struct tz_bench_tally {
	uint64_t pages[TZ_MAX_QUEUES], ns[TZ_MAX_QUEUES];	/* of each thread */
	uint32_t timings, disturbed;	/* of threads; those interrupted by other work, for which
					 * CPU time was taken if the thread itself never waited */
	uint64_t cpu_ns;	/* CPU time of the threads while they were timed */
	uint64_t other_cpu_ns;	/* CPU time of the process' other threads during the calls: of the
				 * store's own */
	uint64_t waits;		/* how often a write waited for the reserve to be refilled */
	uint64_t lat[TZ_BENCH_LAT_BINS];
};

struct tz_bench_usage { uint64_t orig_bytes, compr_bytes, used_bytes, reserve_bytes; };

/* A store or an open device with its threads, and what is in it. */
struct tz_bench_target;

/* A store in this process, of `places` pages, for pages[0 .. nr_pages) (page-aligned; they stay the
 * caller's). NULL on failure: err = negative errno, why = what and why. */
struct tz_bench_target *tz_bench_open_store(const char *algorithm, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places, unsigned threads, int *err, char *why, size_t why_size);
/* The same on a block device opened with O_DIRECT, which stays the caller's. */
struct tz_bench_target *tz_bench_open_device(int fd, const uint8_t *pages, uint32_t nr_pages,
	uint32_t places, unsigned threads, int *err, char *why, size_t why_size);
/* And on a local device, whose client stays the caller's. */
struct tz_bench_target *tz_bench_open_local(struct tz_local_client *client, const uint8_t *pages,
	uint32_t nr_pages, uint32_t places, unsigned threads, int *err, char *why, size_t why_size);
void tz_bench_close(struct tz_bench_target *target);

/* Puts the places into another order for the next FILL, READ or DISCARD. */
void tz_bench_shuffle(struct tz_bench_target *target, uint64_t seed);
/* Puts these in front instead. -EINVAL: there is no such place, or there are not so many. */
int tz_bench_order(struct tz_bench_target *target, const uint32_t *places, uint32_t n);

/* Does `op` with the places order[first .. first + n), divided among the threads, at most
 * TZ_BENCH_WINDOW each; OVERWRITE chooses n places and pages by `seed`. Adds to the tally. 0, or
 * negative errno of the first operation that failed; -EILSEQ: a page that was read differs from
 * what was written. Then *place is where. */
int tz_bench_run(struct tz_bench_target *target, enum tz_bench_op op, uint32_t first, uint32_t n,
	uint64_t seed, struct tz_bench_tally *tally, uint32_t *place);

/* What a store holds and takes now. 0, or -ENOTSUP for a device: its driver knows. */
int tz_bench_usage(struct tz_bench_target *target, struct tz_bench_usage *usage);

/* The histogram: the bin of a time in ns, and the middle of a bin. */
unsigned tz_bench_lat_bin(uint64_t ns);
uint64_t tz_bench_lat_middle(unsigned bin);
/* Random numbers, and one below n. */
uint64_t tz_bench_random(uint64_t *state);
uint32_t tz_bench_below(uint64_t *state, uint32_t n);

#endif
