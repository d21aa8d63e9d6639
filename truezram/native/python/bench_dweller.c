/* bench_dweller.c - a program that lives in swap (interface: bench_device.h).
 *
 * It has more to do with its memory than memory has room for, as MADV_PAGEOUT has it: all of its
 * pages are given to swap, by its own request, so that nothing else on the machine has to suffer;
 * then it touches them in random order, or in runs of neighbours, each touch timed, compares each
 * with what it must be, and changes every other one, which is written again the next time. A page
 * whose fault finds it read ahead already counts as what it is: quick.
 */
#include "bench_device.h"
#include "bench.h"
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21		/* 5.4 */
#endif
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_CHUNK 512u

struct tz_dweller {
	uint8_t *memory;
	const uint8_t *pages;
	uint32_t nr_pages, count;
	uint32_t *content, *order;	/* content: which page each must be */
	uint64_t state;			/* of the random numbers */
};

void tz_dweller_close(struct tz_dweller *d)
{
	if (!d)
		return;
	tz_bench_unmap(d->memory, (size_t)d->count * TZ_PAGE_SIZE);
	tz_bench_unmap(d->content, d->count * sizeof *d->content);
	tz_bench_unmap(d->order, d->count * sizeof *d->order);
	free(d);
}

static void put(struct tz_dweller *d, uint32_t place, uint32_t source)
{
	d->content[place] = source;
	memcpy(d->memory + (size_t)place * TZ_PAGE_SIZE, d->pages + (size_t)source * TZ_PAGE_SIZE,
		TZ_PAGE_SIZE);
}

struct tz_dweller *tz_dweller_open(const uint8_t *pages, uint32_t nr_pages, uint32_t count)
{
	struct tz_dweller *d = calloc(1, sizeof *d);

	if (!d)
		return NULL;
	d->pages = pages;
	d->nr_pages = nr_pages;
	d->count = count;
	d->memory = tz_bench_map((size_t)count * TZ_PAGE_SIZE, 0);
	d->content = tz_bench_map(count * sizeof *d->content, 0);
	d->order = tz_bench_map(count * sizeof *d->order, 0);
	if (!d->memory || !d->content || !d->order) {
		tz_dweller_close(d);
		return NULL;
	}
	madvise(d->memory, (size_t)count * TZ_PAGE_SIZE, MADV_NOHUGEPAGE);
	for (uint32_t i = 0; i < count; i++)
		put(d, i, i % nr_pages);
	tz_dweller_shuffle(d, 1, 1);
	return d;
}

void tz_dweller_shuffle(struct tz_dweller *d, uint64_t seed, uint32_t run)
{
	d->state = seed;
	for (uint32_t i = 0; i < d->count; i++)
		d->order[i] = i;
	if (run > d->count)
		run = d->count;
	if (run == 0)
		return;
	/* What does not fill a run comes last. */
	for (uint32_t i = d->count / run - 1; i > 0; i--) {
		uint32_t *a = &d->order[tz_bench_below(&d->state, i + 1) * run];
		uint32_t *b = &d->order[i * run];

		for (uint32_t n = 0; n < run; n++) {
			uint32_t other = a[n];
			a[n] = b[n];
			b[n] = other;
		}
	}
}

/* The pagemap entries of n pages from `first` on, n <= PAGEMAP_CHUNK. 0 or negative errno. */
static int look(int fd, const struct tz_dweller *d, uint32_t first, uint32_t n, uint64_t *entries)
{
	off_t at = (off_t)((uintptr_t)d->memory / TZ_PAGE_SIZE + first) * (off_t)sizeof *entries;
	ssize_t got = pread(fd, entries, n * sizeof *entries, at);

	return got == (ssize_t)(n * sizeof *entries) ? 0 : got < 0 ? -errno : -EIO;
}

/* How many of n pages are in swap; negative errno if the kernel does not say. */
static int64_t swapped(const struct tz_dweller *d, uint32_t first, uint32_t n)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entries[PAGEMAP_CHUNK];
	int64_t found = 0;
	int rc = fd < 0 ? -errno : 0;

	for (uint32_t at = 0; at < n && rc == 0; at += PAGEMAP_CHUNK) {
		uint32_t some = n - at < PAGEMAP_CHUNK ? n - at : PAGEMAP_CHUNK;

		rc = look(fd, d, first + at, some, entries);
		for (uint32_t i = 0; i < some && rc == 0; i++)
			found += (entries[i] & PAGEMAP_SWAPPED) != 0;
	}
	if (fd >= 0)
		close(fd);
	return rc < 0 ? rc : found;
}

int tz_dweller_out(struct tz_dweller *d, uint32_t first, uint32_t n, struct tz_dwell_tally *tally)
{
	uint64_t start, cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	int64_t before, after;

	if (first > d->count || n > d->count - first)
		return -EINVAL;
	before = swapped(d, first, n);
	start = tz_now_ns();
	if (madvise(d->memory + (size_t)first * TZ_PAGE_SIZE, (size_t)n * TZ_PAGE_SIZE,
		MADV_PAGEOUT) < 0)
		return -errno;
	tally->out_ns += tz_now_ns() - start;
	tally->cpu_ns += tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	after = swapped(d, first, n);
	if (before < 0 || after < 0)
		return (int)(before < 0 ? before : after);
	tally->out_pages += after > before ? (uint64_t)(after - before) : 0;
	return 0;
}

/* Whether a page that is swapped out is in memory still: it has been written, and is left in the
 * swap cache for reclaim to find. A device that is written to at once, as zram, leaves none. */
static int stays(const struct tz_dweller *d, uint32_t first, uint32_t n, unsigned char *stay)
{
	uint8_t *from = d->memory + (size_t)first * TZ_PAGE_SIZE;

	return mincore(from, (size_t)n * TZ_PAGE_SIZE, stay) < 0 ? -errno : 0;
}

int64_t tz_dweller_settle(struct tz_dweller *d, uint32_t first, uint32_t n)
{
	unsigned char stay[PAGEMAP_CHUNK];
	int64_t left = 0;
	int rc = first > d->count || n > d->count - first ? -EINVAL : 0;

	for (uint32_t at = 0; at < n && rc == 0; at += PAGEMAP_CHUNK) {
		uint32_t some = n - at < PAGEMAP_CHUNK ? n - at : PAGEMAP_CHUNK;
		uint8_t *from = d->memory + (size_t)(first + at) * TZ_PAGE_SIZE;

		rc = stays(d, first + at, some, stay);
		for (uint32_t i = 0; i < some && rc == 0; i++)
			if (stay[i] & 1)
				(void)*(volatile uint8_t *)(from + (size_t)i * TZ_PAGE_SIZE);
		if (rc == 0 && madvise(from, (size_t)some * TZ_PAGE_SIZE, MADV_PAGEOUT) < 0)
			rc = -errno;
		if (rc == 0)
			rc = stays(d, first + at, some, stay);
		for (uint32_t i = 0; i < some && rc == 0; i++)
			left += stay[i] & 1;
	}
	return rc < 0 ? rc : left;
}

/* Touches one page and says how long that took. */
static uint64_t touch(const struct tz_dweller *d, uint32_t place)
{
	const volatile uint8_t *page = d->memory + (size_t)place * TZ_PAGE_SIZE;
	uint64_t start = tz_now_ns();

	(void)page[place % TZ_PAGE_SIZE];
	return tz_now_ns() - start;
}

int tz_dweller_in(struct tz_dweller *d, uint32_t first, uint32_t n, struct tz_dwell_tally *tally,
	uint32_t *place)
{
	uint64_t cpu = tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID);
	struct rusage before, after;

	if (first > d->count || n > d->count - first)
		return -EINVAL;
	getrusage(RUSAGE_THREAD, &before);
	for (uint32_t i = first; i < first + n; i++) {
		uint32_t at = d->order[i];
		uint64_t took = touch(d, at);

		tally->in_pages++;
		tally->in_ns += took;
		tally->lat[tz_bench_lat_bin(took)]++;
		tally->compared++;
		if (memcmp(d->memory + (size_t)at * TZ_PAGE_SIZE,
			d->pages + (size_t)d->content[at] * TZ_PAGE_SIZE, TZ_PAGE_SIZE)) {
			*place = at;
			return -EILSEQ;
		}
		if (i & 1)
			put(d, at, tz_bench_below(&d->state, d->nr_pages));
	}
	getrusage(RUSAGE_THREAD, &after);
	tally->major += (uint64_t)(after.ru_majflt - before.ru_majflt);
	tally->cpu_ns += tz_bench_now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	return 0;
}
