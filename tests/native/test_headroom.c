/* test_headroom.c - when the kernel may be asked for memory: the floor, from what /proc/zoneinfo
 * says (headroom.c), and that the reserve's thread heeds it (reserve.c). tz_headroom_has and
 * tz_arena_populate are wrapped by the linker (meson.build). */
#include "clock.h"
#include "device.h"
#include "headroom.h"

#include <sys/wait.h>

int __real_tz_headroom_has(uint64_t floor, uint64_t bytes);
int __wrap_tz_headroom_has(uint64_t floor, uint64_t bytes);

/* Of a machine with 16 GiB and Linux 6.12, shortened. */
static const char zoneinfo[] =
	"Node 0, zone      DMA\n"
	"  per-node stats\n      nr_inactive_anon 123\n      workingset_nodes 0\n"
	"  pages free     3840\n        boost    0\n"
	"        min      16\n        low      20\n        high     24\n"
	"        spanned  4095\n        present  3998\n        managed  3840\n        cma      0\n"
	"        protection: (0, 2990, 15880, 15880, 15880)\n      nr_free_pages 3840\n"
	"Node 0, zone    DMA32\n"
	"  pages free     765432\n        boost    512\n"
	"        min      3689\n        low      3971\n        high     4765\n"
	"        managed  765500\n"
	"        protection: (0, 0, 12890, 12890, 12890)\n"
	"Node 0, zone   Normal\n"
	"  pages free     1234\n        boost    0\n"
	"        min      13697\n        low      17121\n        high     20545\n"
	"        managed  3301122\n"
	"        protection: (0, 0, 0, 0, 0)\n"
	"  pagesets\n    cpu: 0\n              count: 0\n              high:  14\n"
	"Node 0, zone  Movable\n  pages free     0\n        boost    0\n        min      32\n"
	"        managed  0\n        protection: (0, 0, 0, 0, 0)\n";
/* DMA is smaller than what is protected of it. The boost of DMA32 does not count. */
#define USUAL (3840 + (3177 - 794 + 12890) + (13697 - 3424))
#define LAST (3840 + (3177 - 1588 + 12890) + (13697 - 6848))

/* The floor when the text comes in pieces of `piece` bytes, behind `padding` bytes of other lines.
 */
static struct tz_floor floor_of(size_t piece, size_t padding)
{
	size_t len = sizeof zoneinfo - 1;
	int ends[2];

	CHECK(pipe(ends) == 0, "pipe");
	pid_t child = fork();
	if (child == 0) {
		for (size_t i = 0; i < padding; i++)
			if (write(ends[1], i % 60 == 59 ? "\n" : "x", 1) != 1)
				_exit(1);
		for (size_t at = 0; at < len; at += piece) {
			size_t n = len - at < piece ? len - at : piece;
			if (write(ends[1], zoneinfo + at, n) != (ssize_t)n)
				_exit(1);
		}
		_exit(0);
	}
	close(ends[1]);
	struct tz_floor floor = tz_headroom_floor_in(ends[0]);
	close(ends[0]);
	waitpid(child, NULL, 0);
	return floor;
}

static void check_floor(size_t piece, size_t padding)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct tz_floor floor = floor_of(piece, padding);

	CHECK(floor.usual == USUAL * page && floor.last == LAST * page,
		"pieces of %zu behind %zu: %llu and %llu pages", piece, padding,
		(unsigned long long)(floor.usual / page), (unsigned long long)(floor.last / page));
}

static void test_floor(void)
{
	for (size_t piece = 1; piece < sizeof zoneinfo; piece = piece * 2 + 1)
		check_floor(piece, 0);
	/* Each line once at the end of a buffer. */
	for (size_t padding = 3000; padding < 4200; padding += 60)
		check_floor(sizeof zoneinfo, padding);
	CHECK(tz_headroom_floor_in(-1).usual == 0, "what cannot be read is not a floor");
}

static void test_has(void)
{
	struct tz_floor floor = tz_headroom_floor();

	CHECK(floor.last > 0 && floor.last < floor.usual && floor.usual < 1ull << 40,
		"this machine's floor: %llu, %llu", (unsigned long long)floor.last,
		(unsigned long long)floor.usual);
	CHECK(__real_tz_headroom_has(0, 4096), "a page of memory is free");
	CHECK(!__real_tz_headroom_has(UINT64_MAX / 2, 4096), "below a floor");
	CHECK(!__real_tz_headroom_has(0, UINT64_MAX / 2), "more than there is");
}

/* ---- the reserve's thread, with memory short ---- */

#define SEGMENT (128u << 10)
#define PAGES 65536u
#define FULL 32u	/* segments: 1/64 of 256 MiB */

static _Atomic int is_short;
static _Atomic unsigned looks;
static _Atomic uint64_t floor_then;
static _Thread_local int was_short;	/* when this thread looked last */
static _Atomic uint64_t asked;		/* times that memory was asked for all the same */

int __wrap_tz_headroom_has(uint64_t floor, uint64_t bytes)
{
	(void)bytes;
	was_short = atomic_load(&is_short);
	if (!was_short)
		return 1;
	atomic_store(&floor_then, floor);
	atomic_fetch_add(&looks, 1);
	return 0;
}

int __real_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	CHECK(!was_short || len <= SEGMENT, "%llu bytes at once", (unsigned long long)len);
	atomic_fetch_add(&asked, (unsigned)was_short);
	return __real_tz_arena_populate(a, offset, len);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* Writes a page that does not compress. With the disk full, it begins anew: overwriting would take
 * no segments. */
static void use(struct device *d, uint64_t *page)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);
	static uint64_t data[512], x = 1;
	unsigned work = UINT32_MAX;

	for (unsigned i = 0; i < 512; i++)
		data[i] = x = x * 0x9fb21c651e98df25ull + 1;
	tz_store_begin(t);
	if (*page == PAGES) {
		tz_store_discard_range(t, 0, PAGES, &work);
		*page = 0;
	}
	CHECK(write_waiting(t, *page, (const uint8_t *)data) == 0, "page %llu",
		(unsigned long long)*page);
	tz_store_end(t);
	++*page;
}

/* Writes until no more than `keep` segments are in reserve, with memory short. */
static void use_reserve(struct device *d, uint64_t *page, uint64_t keep)
{
	while (NOW(d->stats->reserve_bytes) > keep * SEGMENT)
		use(d, page);
}

static uint64_t target(const struct device *d)
{
	return NOW(d->stats->reserve_target) / SEGMENT;
}

/* The floor that the reserve's thread asks with while it finds memory short. 0: it does not ask any
 * more, as the device has become idle, and has enough for that. */
static uint64_t wait_for_looks(const struct device *d)
{
	for (unsigned n = atomic_load(&looks) + 3; atomic_load(&looks) < n; nap())
		if (NOW(d->stats->reserve_bytes) >= NOW(d->stats->reserve_target))
			return 0;
	return atomic_load(&floor_then);
}

/* In use, the device has a full reserve of 4 MiB; on a busy machine it may be idle again before
 * that is seen. */
static void fill_reserve(struct device *d, uint64_t *page)
{
	do {
		for (unsigned i = 0; i < 4 * SEGMENT / 4096; i++)
			use(d, page);
		while (NOW(d->stats->reserve_bytes) < NOW(d->stats->reserve_target))
			nap();
	} while (target(d) < FULL);
}

/* The floors that it asks with while memory is short, with half of the reserve left and nearly
 * out. 0: the device was idle before that was seen. */
static void see_floors(struct device *d, uint64_t *page, uint64_t *usual, uint64_t *last)
{
	atomic_store(&is_short, 0);
	fill_reserve(d, page);
	atomic_store(&is_short, 1);
	use_reserve(d, page, FULL / 2);
	*usual = wait_for_looks(d);
	use_reserve(d, page, 1);
	*last = wait_for_looks(d);
}

/* Below the floor nothing is asked for, but a segment a second in case the floor is wrong; nearly
 * out, the last floor counts; with memory there again the reserve is filled. */
static void test_reserve(void)
{
	struct device d = make_device(PAGES, 1, 0, "lz4");
	uint64_t page = 0, start = tz_now_ns(), usual = 0, last = 0;

	/* Its thread looks at the floor once the reserve is full for the first time. On a busy
	 * machine the device may be idle before this thread has looked: then it has less to ask
	 * for, and is not nearly out with the same. */
	for (unsigned n = 0; n < 1000 && (!usual || !last || last >= usual); n++)
		see_floors(&d, &page, &usual, &last);
	CHECK(last > 0 && last < usual, "the floors: %llu, %llu", (unsigned long long)usual,
		(unsigned long long)last);
	CHECK(atomic_load(&asked) <= (tz_now_ns() - start) / 1000000000u,
		"memory was asked for %llu times", (unsigned long long)atomic_load(&asked));
	atomic_store(&is_short, 0);
	fill_reserve(&d, &page);
	end_device(&d);
}

int main(void)
{
	test_floor();
	test_has();
	test_reserve();
	return 0;
}
