/* bench.h - times page codecs, ours and others, side by side (truezram/engine/benchmark.py says of what and how often).
 *
 * A subject is anything that has the two functions of a codec. Pages are worked on in groups: every subject compresses
 * and decompresses one group before any goes on to the next, so that whatever else the machine does meanwhile, and its
 * changing clock, meets them all alike. Only the codec's calls lie between the two readings of the clock, and the copy
 * of a page that does not shrink, which a device has to make too.
 */
#ifndef TZ_BENCH_H
#define TZ_BENCH_H

#include "codec.h"

/* pages in a group, at most: with its copy it fits a second-level cache */
#define TZ_BENCH_GROUP 64
#define TZ_BENCH_ALIGN 16	/* objects start at multiples of this, as in the pool */
/* Bytes of memory that tz_bench_group() works in: objects, then pages that come out. */
#define TZ_BENCH_OBJECTS (TZ_BENCH_GROUP * TZ_PAGE_SIZE + TZ_DST_SIZE)
#define TZ_BENCH_ROOM (TZ_BENCH_OBJECTS + TZ_PAGE_SIZE + TZ_BENCH_GROUP * TZ_PAGE_SIZE)

/* As in struct tz_codec, but that a length of 4096 or more also means: does not shrink. */
struct tz_bench_subject {
	size_t (*compress)(void *context, const uint8_t *page, uint8_t *dst);
	int (*decompress)(void *context, const uint8_t *src, size_t n, uint8_t *out);
	void *context;
};

/* What one subject took for one group. */
struct tz_bench_time {
	uint64_t compress_ns, decompress_ns;
	uint64_t object_bytes;		/* a page that does not shrink counts as 4096 */
	uint32_t raw_pages;		/* that many did not */
	/* timings that other threads broke into every time: processor time, then */
	uint32_t disturbed;
};

enum tz_bench_fault { TZ_BENCH_OK, TZ_BENCH_REFUSED, TZ_BENCH_DIFFERS };

/* Times subjects[0 .. nr) on the pages base[order[i] * 4096 ..), i < n <= TZ_BENCH_GROUP, beginning with no. `first`;
 * times[] has nr entries. `cold`: pages, objects and results are put out of the caches before each timing; else into
 * them. Every page is verified. Returns TZ_BENCH_OK, or what is wrong; then *subject and *page (an index of base) say
 * where. */
int tz_bench_group(const struct tz_bench_subject *subjects, unsigned nr, unsigned first,
	const uint8_t *base, const uint32_t *order, unsigned n, int cold, uint8_t *room,
	struct tz_bench_time *times, unsigned *subject, uint32_t *page);

/* Whether there is a way to put memory out of this processor's caches. */
int tz_bench_can_be_cold(void);

/* Writes the indices of those of n pages that are not same-filled to order[]; returns how many. */
size_t tz_bench_select(const uint8_t *pages, size_t n, uint32_t *order);

/* Baselines: the functions of other libraries, whose addresses the caller has found, made into subjects. */
struct tz_bench_lz4 {
	int (*compress_fast)(void *state, const char *src, char *dst, int n, int capacity,
		int acceleration);
	int (*compress_hc)(void *state, const char *src, char *dst, int n, int capacity, int level);
	int (*decompress)(const char *src, char *dst, int n, int capacity);
	void *state;
	int level;	/* acceleration, or hc's level */
};
/* hc when compress_hc is not NULL */
void tz_bench_use_lz4(struct tz_bench_subject *s, struct tz_bench_lz4 *lz4);

struct tz_bench_zstd {
	size_t (*compress2)(void *cctx, void *dst, size_t capacity, const void *src, size_t n);
	size_t (*decompress)(void *dctx, void *dst, size_t capacity, const void *src, size_t n);
	void *cctx, *dctx;
};
void tz_bench_use_zstd(struct tz_bench_subject *s, struct tz_bench_zstd *zstd);

void tz_bench_use_memcpy(struct tz_bench_subject *s);

#endif
