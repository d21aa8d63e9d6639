/* bench.h - times page codecs, ours and others, against each other (engine/measure/benchmark.py
 * decides on what and how often).
 *
 * A subject is anything with the two functions of a codec. Pages are processed in groups: every
 * subject compresses and decompresses one group before any starts the next, so other load and a
 * changing clock frequency affect all of them alike. Only the codec's calls are timed, and the copy
 * of a page that does not shrink, which a device has to make too.
 */
#ifndef TZ_BENCH_H
#define TZ_BENCH_H

#include "codec.h"

#include <time.h>

/* most pages in a group: with its copy it fits a second-level cache */
#define TZ_BENCH_GROUP 64
#define TZ_BENCH_ALIGN 16	/* objects start at multiples of this, as in the pool */
/* Working memory of tz_bench_group(): objects, then the decompressed pages. */
#define TZ_BENCH_OBJECTS (TZ_BENCH_GROUP * TZ_PAGE_SIZE + TZ_DST_SIZE)
#define TZ_BENCH_ROOM (TZ_BENCH_OBJECTS + TZ_PAGE_SIZE + TZ_BENCH_GROUP * TZ_PAGE_SIZE)

/* As in struct tz_codec, except that a length of 4096 or more also means that the page does not
 * shrink. */
struct tz_bench_subject {
	size_t (*compress)(void *context, const uint8_t *page, uint8_t *dst);
	int (*decompress)(void *context, const uint8_t *src, size_t n, uint8_t *out);
	void *context;
};

/* Times of one subject for one group. */
struct tz_bench_time {
	uint64_t compress_ns, decompress_ns;
	uint64_t object_bytes;		/* a page that does not shrink counts as 4096 */
	uint32_t raw_pages;		/* pages that do not shrink */
	/* timings interrupted on every try, so that CPU time was used */
	uint32_t disturbed;
};

enum tz_bench_fault { TZ_BENCH_OK, TZ_BENCH_REFUSED, TZ_BENCH_DIFFERS };

/* Times subjects[0 .. nr) on the pages base[order[i] * 4096 ..), i < n <= TZ_BENCH_GROUP, starting
 * with subject `first`; times[] has nr entries. `cold`: pages, objects and results are flushed from
 * the caches before each timing; otherwise they are loaded into them. Every page is verified.
 * Returns TZ_BENCH_OK, or what is wrong; then *subject and *page (an index into base) say where. */
int tz_bench_group(const struct tz_bench_subject *subjects, unsigned nr, unsigned first,
	const uint8_t *base, const uint32_t *order, unsigned n, int cold, uint8_t *room,
	struct tz_bench_time *times, unsigned *subject, uint32_t *page);

/* For this and the other bench_*.c: private memory, populated at once or when it is touched (NULL:
 * there is none), and giving it back (NULL: nothing); a clock in ns, the least time between two
 * readings of it, and flushing memory from the caches (which does nothing where that is not
 * possible). */
void *tz_bench_map(size_t size, int populate);
void tz_bench_unmap(void *p, size_t size);
uint64_t tz_bench_now_ns(clockid_t clock);
uint64_t tz_bench_clock_cost(clockid_t clock);
void tz_bench_flush(const uint8_t *p, size_t n);

/* Whether memory can be flushed from this CPU's caches. */
int tz_bench_can_be_cold(void);

/* Writes the indices of those of n pages that are not same-filled to order[]; returns how many. */
size_t tz_bench_select(const uint8_t *pages, size_t n, uint32_t *order);

/* Baselines: functions of other libraries, at addresses that the caller has found, as subjects. */
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
