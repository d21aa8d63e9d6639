/* bench.c - times page codecs against each other (bench.h). */
#include "bench.h"
#include "cpu.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

/* untimed pages before each timing, to bring code and tables into the caches */
#define WARM_UP 4
#define TRIES 4			/* most timings of a group, if other threads interrupt them */
#define LONG_NS 10000000	/* if a timing takes longer, a retry would be interrupted too */
#define POISON 0xa5		/* what the output holds before decompression */
#define LINE 64

/* One subject working on one group. */
struct work {
	const struct tz_bench_subject *subject;
	const uint8_t *base;
	const uint32_t *order;
	unsigned n;
	uint8_t *objects, *out;
	uint32_t at[TZ_BENCH_GROUP], length[TZ_BENCH_GROUP];
};

void *tz_bench_map(size_t size, int populate)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | (populate ? MAP_POPULATE : 0), -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void tz_bench_unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

uint64_t tz_bench_now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t tz_bench_clock_cost(clockid_t clock)
{
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 100; i++) {
		uint64_t before = tz_bench_now_ns(clock);
		uint64_t took = tz_bench_now_ns(clock) - before;

		if (took < least)
			least = took;
	}
	return least;
}

/* How often this thread was switched out. */
static long switches(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw + usage.ru_nvcsw;
}

void tz_bench_flush(const uint8_t *p, size_t n)
{
#if defined(TZ_X86)
	for (size_t i = 0; i < n; i += LINE)
		_mm_clflush(p + i);
	_mm_mfence();
#elif defined(TZ_ARM64)
	for (size_t i = 0; i < n; i += LINE)
		__asm__ volatile("dc civac, %0" : : "r"(p + i) : "memory");
	__asm__ volatile("dsb sy" : : : "memory");
#else
	(void)p;
	(void)n;
#endif
}

int tz_bench_can_be_cold(void)
{
#if defined(TZ_X86) || defined(TZ_ARM64)
	return 1;
#else
	return 0;
#endif
}

static void put_into_caches(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += LINE)
		(void)*(const volatile uint8_t *)(p + i);
}

static const uint8_t *page_of(const struct work *w, unsigned i)
{
	return w->base + (size_t)w->order[i] * TZ_PAGE_SIZE;
}

static void compress_pages(struct work *w, unsigned from)
{
	const struct tz_bench_subject *s = w->subject;
	size_t at = 0;

	for (unsigned i = from; i < w->n; i++) {
		const uint8_t *page = page_of(w, i);
		size_t length = s->compress(s->context, page, w->objects + at);

		if (length == 0 || length >= TZ_PAGE_SIZE) {
			memcpy(w->objects + at, page, TZ_PAGE_SIZE);
			length = TZ_PAGE_SIZE;
		}
		w->at[i] = (uint32_t)at;
		w->length[i] = (uint32_t)length;
		at += (length + TZ_BENCH_ALIGN - 1) & ~(size_t)(TZ_BENCH_ALIGN - 1);
	}
}

/* Index of the first page that is refused; n if none is. */
static unsigned decompress_pages(struct work *w, unsigned from)
{
	const struct tz_bench_subject *s = w->subject;

	for (unsigned i = from; i < w->n; i++) {
		const uint8_t *object = w->objects + w->at[i];
		uint8_t *out = w->out + i * TZ_PAGE_SIZE;

		if (w->length[i] == TZ_PAGE_SIZE)
			memcpy(out, object, TZ_PAGE_SIZE);
		else if (s->decompress(s->context, object, w->length[i], out))
			return i;
	}
	return w->n;
}

static size_t objects_size(const struct work *w)
{
	return w->at[w->n - 1] + w->length[w->n - 1];
}

static void set_caches(const struct work *w, int cold, int objects)
{
	void (*put)(const uint8_t *p, size_t n) = cold ? tz_bench_flush : put_into_caches;

	for (unsigned i = 0; i < w->n; i++)
		put(page_of(w, i), TZ_PAGE_SIZE);
	put(w->objects, objects ? objects_size(w) : (size_t)w->n * TZ_PAGE_SIZE);
	put(w->out, (size_t)w->n * TZ_PAGE_SIZE);
}

/* A stopwatch for one or more tries at the same work. If this thread was not switched out during a
 * try, the wall time of that try counts. If every try was interrupted, the CPU time of the last one
 * counts; that leaves out other threads' time, but not their effect on the caches. */
struct watch {
	uint64_t wall_cost, cpu_cost;	/* cost of reading the clocks */
	uint64_t wall, cpu, took;
	long switches;
	unsigned tries;
};

static void start(struct watch *w)
{
	w->tries++;
	w->switches = switches();
	w->cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	w->wall = tz_bench_now_ns(CLOCK_MONOTONIC);
}

/* Whether to try again. */
static int stop(struct watch *w, uint32_t *disturbed)
{
	uint64_t wall = tz_bench_now_ns(CLOCK_MONOTONIC) - w->wall;
	uint64_t cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - w->cpu;
	int alone = switches() == w->switches;

	w->took = wall > w->wall_cost ? wall - w->wall_cost : 1;
	if (alone)
		return 0;
	if (w->tries < TRIES && wall < LONG_NS)
		return 1;
	*disturbed += 1;
	if (cpu > w->cpu_cost && cpu - w->cpu_cost < w->took)
		w->took = cpu - w->cpu_cost;
	return 0;
}

static void time_compression(struct work *w, struct watch watch, int cold, struct tz_bench_time *t)
{
	do {
		compress_pages(w, w->n > WARM_UP ? w->n - WARM_UP : 0);
		set_caches(w, cold, 0);
		start(&watch);
		compress_pages(w, 0);
	} while (stop(&watch, &t->disturbed));
	t->compress_ns = watch.took;
	for (unsigned i = 0; i < w->n; i++) {
		t->object_bytes += w->length[i];
		t->raw_pages += w->length[i] == TZ_PAGE_SIZE;
	}
}

/* Number of pages decompressed: n, or less if the next is refused. */
static unsigned time_decompression(struct work *w, struct watch watch, int cold,
	struct tz_bench_time *t)
{
	unsigned done;

	do {
		decompress_pages(w, w->n > WARM_UP ? w->n - WARM_UP : 0);
		memset(w->out, POISON, (size_t)w->n * TZ_PAGE_SIZE);
		set_caches(w, cold, 1);
		start(&watch);
		done = decompress_pages(w, 0);
	} while (stop(&watch, &t->disturbed) && done == w->n);
	t->decompress_ns = watch.took;
	return done;
}

static int time_subject(struct work *w, const struct watch *watch, int cold,
	struct tz_bench_time *t, uint32_t *page)
{
	unsigned done;

	memset(t, 0, sizeof(*t));
	time_compression(w, *watch, cold, t);
	done = time_decompression(w, *watch, cold, t);
	if (done < w->n) {
		*page = w->order[done];
		return TZ_BENCH_REFUSED;
	}
	for (unsigned i = 0; i < w->n; i++)
		if (memcmp(w->out + i * TZ_PAGE_SIZE, page_of(w, i), TZ_PAGE_SIZE)) {
			*page = w->order[i];
			return TZ_BENCH_DIFFERS;
		}
	return TZ_BENCH_OK;
}

int tz_bench_group(const struct tz_bench_subject *subjects, unsigned nr, unsigned first,
	const uint8_t *base, const uint32_t *order, unsigned n, int cold, uint8_t *room,
	struct tz_bench_time *times, unsigned *subject, uint32_t *page)
{
	struct work w = {
		.base = base, .order = order, .n = n < TZ_BENCH_GROUP ? n : TZ_BENCH_GROUP
	};
	struct watch watch = { 0 };

	w.objects = (uint8_t *)(((uintptr_t)room + LINE - 1) & ~(uintptr_t)(LINE - 1));
	w.out = (uint8_t *)(((uintptr_t)room + TZ_BENCH_OBJECTS + TZ_PAGE_SIZE - 1) &
		~(uintptr_t)(TZ_PAGE_SIZE - 1));
	if (!w.n)
		return TZ_BENCH_OK;
	watch.wall_cost = tz_bench_clock_cost(CLOCK_MONOTONIC);
	watch.cpu_cost = tz_bench_clock_cost(CLOCK_THREAD_CPUTIME_ID);
	for (unsigned k = 0; k < nr; k++) {
		unsigned i = (first + k) % nr;
		int fault;

		w.subject = &subjects[i];
		fault = time_subject(&w, &watch, cold, &times[i], page);
		if (fault) {
			*subject = i;
			return fault;
		}
	}
	return TZ_BENCH_OK;
}

size_t tz_bench_select(const uint8_t *pages, size_t n, uint32_t *order)
{
	size_t kept = 0;
	uint64_t word;

	for (size_t i = 0; i < n; i++)
		if (!tz_same_filled(pages + i * TZ_PAGE_SIZE, &word))
			order[kept++] = (uint32_t)i;
	return kept;
}

/* ---- baselines ---- */

static size_t lz4_fast(void *context, const uint8_t *page, uint8_t *dst)
{
	const struct tz_bench_lz4 *c = context;
	int n = c->compress_fast(c->state, (const char *)page, (char *)dst, TZ_PAGE_SIZE,
		TZ_DST_SIZE, c->level);

	return n > 0 ? (size_t)n : 0;
}

static size_t lz4_hc(void *context, const uint8_t *page, uint8_t *dst)
{
	const struct tz_bench_lz4 *c = context;
	int n = c->compress_hc(c->state, (const char *)page, (char *)dst, TZ_PAGE_SIZE, TZ_DST_SIZE,
		c->level);

	return n > 0 ? (size_t)n : 0;
}

static int lz4_decompress(void *context, const uint8_t *src, size_t n, uint8_t *out)
{
	const struct tz_bench_lz4 *c = context;

	return c->decompress((const char *)src, (char *)out, (int)n, TZ_PAGE_SIZE) == TZ_PAGE_SIZE
		? 0
		: -1;
}

void tz_bench_use_lz4(struct tz_bench_subject *s, struct tz_bench_lz4 *lz4)
{
	*s = (struct tz_bench_subject){ lz4->compress_hc ? lz4_hc : lz4_fast, lz4_decompress, lz4 };
}

static size_t zstd_compress(void *context, const uint8_t *page, uint8_t *dst)
{
	const struct tz_bench_zstd *c = context;
	size_t n = c->compress2(c->cctx, dst, TZ_DST_SIZE, page, TZ_PAGE_SIZE);

	return n < TZ_PAGE_SIZE ? n : 0;	/* an error code is a number near SIZE_MAX */
}

static int zstd_decompress(void *context, const uint8_t *src, size_t n, uint8_t *out)
{
	const struct tz_bench_zstd *c = context;

	return c->decompress(c->dctx, out, TZ_PAGE_SIZE, src, n) == TZ_PAGE_SIZE ? 0 : -1;
}

void tz_bench_use_zstd(struct tz_bench_subject *s, struct tz_bench_zstd *zstd)
{
	*s = (struct tz_bench_subject){ zstd_compress, zstd_decompress, zstd };
}

/* A page that does not shrink is copied in both directions (compress_pages, decompress_pages),
 * which is what memcpy measures. */
static size_t no_compress(void *context, const uint8_t *page, uint8_t *dst)
{
	(void)context;
	(void)page;
	(void)dst;
	return 0;
}

static int no_decompress(void *context, const uint8_t *src, size_t n, uint8_t *out)
{
	(void)context;
	(void)src;
	(void)n;
	(void)out;
	return -1;
}

void tz_bench_use_memcpy(struct tz_bench_subject *s)
{
	*s = (struct tz_bench_subject){ no_compress, no_decompress, NULL };
}
