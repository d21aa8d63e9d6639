/* test_bench_store.c - what times the store: that it does what it is asked, and notices what is
 * wrong.
 *
 * A store and a file in place of a device are filled, overwritten, read and emptied by one, two and
 * three threads; the counts are those asked for. A flipped bit in the file is a difference, a file
 * cut short an error. Run under ThreadSanitizer it shows that the threads of a window do not touch
 * each other's places.
 */
#include "bench_store.h"
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 150, PLACES = 1000, EMPTIED = 700, WINDOW = 100 };

static uint8_t *make_pages(void)
{
	uint8_t *pages = aligned_alloc(TZ_PAGE_SIZE, PAGES * TZ_PAGE_SIZE);
	uint64_t state = 1;

	for (size_t i = 0; i < PAGES * TZ_PAGE_SIZE; i++) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		pages[i] = i % 64 < 40 ? (uint8_t)(i / TZ_PAGE_SIZE) : (uint8_t)(state >> 56);
	}
	return pages;
}

static int pass(struct tz_bench_target *t, enum tz_bench_op op, uint32_t n,
	struct tz_bench_tally *tally, uint32_t *place)
{
	int rc = 0;

	memset(tally, 0, sizeof *tally);
	for (uint32_t at = 0; at < n && !rc; at += WINDOW)
		rc = tz_bench_run(t, op, at, n - at < WINDOW ? n - at : WINDOW, at + 1, tally,
			place);
	return rc;
}

static void check_tally(const struct tz_bench_tally *tally, unsigned threads, uint32_t n)
{
	uint64_t pages = 0, timed = 0;

	for (unsigned i = 0; i < TZ_MAX_QUEUES; i++) {
		pages += tally->pages[i];
		CHECK((tally->pages[i] > 0) == (i < threads), "thread %u", i);
		CHECK((tally->ns[i] > 0) == (i < threads), "thread %u", i);
	}
	for (unsigned i = 0; i < TZ_BENCH_LAT_BINS; i++)
		timed += tally->lat[i];
	CHECK(pages == n && timed == n, "%llu pages, %llu timed", (unsigned long long)pages,
		(unsigned long long)timed);
	CHECK(tally->cpu_ns > 0, "no CPU time");
	CHECK(tally->timings == threads * ((n + WINDOW - 1) / WINDOW), "%u timings",
		tally->timings);
	CHECK(tally->disturbed <= tally->timings, "%u disturbed", tally->disturbed);
}

/* All operations; usage is looked at where there is one. */
static void exercise(struct tz_bench_target *t, unsigned threads, int has_usage)
{
	static const struct { enum tz_bench_op op; uint32_t n; int shuffle; } steps[] = {
		{ TZ_BENCH_READ, PLACES, 0 }, { TZ_BENCH_FILL, PLACES, 1 },
		{ TZ_BENCH_READ, PLACES, 1 }, { TZ_BENCH_OVERWRITE, PLACES, 1 },
		{ TZ_BENCH_READ, PLACES, 1 }, { TZ_BENCH_DISCARD, EMPTIED, 1 },
		{ TZ_BENCH_READ, EMPTIED, 0 }, { TZ_BENCH_READ, PLACES, 1 },
	};
	struct tz_bench_tally tally;
	struct tz_bench_usage usage;
	uint32_t place = 0;

	for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++) {
		if (steps[i].shuffle)
			tz_bench_shuffle(t, i);
		int rc = pass(t, steps[i].op, steps[i].n, &tally, &place);
		CHECK(rc == 0, "step %u: %d at %u", i, rc, place);
		check_tally(&tally, threads, steps[i].n);
		if (!has_usage)
			continue;
		CHECK(tz_bench_usage(t, &usage) == 0, "usage");
		uint64_t stored = i == 0 ? 0 : i < 5 ? PLACES : PLACES - EMPTIED;
		CHECK(usage.orig_bytes == stored * TZ_PAGE_SIZE, "step %u: %llu bytes", i,
			(unsigned long long)usage.orig_bytes);
		CHECK(usage.compr_bytes <= usage.orig_bytes, "step %u", i);
		CHECK(usage.used_bytes >= usage.compr_bytes, "step %u", i);
	}
}

static int make_file(void)
{
	int fd = memfd_create("device", MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, PLACES * TZ_PAGE_SIZE) == 0, "file");
	return fd;
}

static void test_wrong(const uint8_t *pages)
{
	struct tz_bench_tally tally;
	char why[200];
	int err, fd = make_file();
	struct tz_bench_target *t = tz_bench_open_device(fd, pages, PAGES, PLACES, 2, &err, why,
		sizeof why);
	uint32_t place = UINT32_MAX;
	uint8_t byte;
	off_t at = 123 * TZ_PAGE_SIZE + 4095;

	CHECK(t, "%s", why);
	CHECK(pass(t, TZ_BENCH_FILL, PLACES, &tally, &place) == 0, "fill");
	CHECK(pread(fd, &byte, 1, at) == 1, "read");
	byte ^= 1;
	CHECK(pwrite(fd, &byte, 1, at) == 1, "write");
	tz_bench_shuffle(t, 9);
	CHECK(pass(t, TZ_BENCH_READ, PLACES, &tally, &place) == -EILSEQ && place == 123,
		"a flipped bit, %u", place);
	CHECK(ftruncate(fd, 999 * TZ_PAGE_SIZE) == 0, "cut");
	byte ^= 1;
	CHECK(pwrite(fd, &byte, 1, at) == 1, "write");
	CHECK(pass(t, TZ_BENCH_READ, PLACES, &tally, &place) == -EIO && place == 999,
		"a page that is missing, %u", place);
	CHECK(tz_bench_run(t, TZ_BENCH_READ, PLACES - 1, 2, 0, &tally, &place) == -EINVAL, "end");
	tz_bench_close(t);
	close(fd);
	CHECK(!tz_bench_open_device(0, pages, PAGES, 2, 3, &err, why, sizeof why) && err == -EINVAL,
		"a thread without a place");
	CHECK(!tz_bench_open_store("nothing", pages, PAGES, 8, 1, &err, why, sizeof why) &&
		err == -EINVAL && strstr(why, "nothing"), "%s", why);
}

int main(void)
{
	uint8_t *pages = make_pages();
	char why[200] = "";
	int err;

	for (unsigned threads = 1; threads <= 3; threads++) {
		int fd = make_file();
		struct tz_bench_target *store = tz_bench_open_store("lz4", pages, PAGES, PLACES,
			threads, &err, why, sizeof why);
		struct tz_bench_target *device = tz_bench_open_device(fd, pages, PAGES, PLACES,
			threads, &err, why, sizeof why);
		CHECK(store && device, "%s", why);
		exercise(store, threads, 1);
		exercise(device, threads, 0);
		tz_bench_close(store);
		tz_bench_close(device);
		close(fd);
	}
	test_wrong(pages);
	free(pages);
	return 0;
}
