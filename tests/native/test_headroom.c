/* test_headroom.c - when the kernel may be asked for memory (headroom.c): the floor, from what /proc/zoneinfo says. */
#include "harness.h"
#include "headroom.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of a machine with 16 GiB and Linux 6.12, shortened. */
static const char zoneinfo[] =
	"Node 0, zone      DMA\n"
	"  per-node stats\n      nr_inactive_anon 123\n      workingset_nodes 0\n"
	"  pages free     3840\n        boost    0\n        min      16\n        low      20\n        high     24\n"
	"        spanned  4095\n        present  3998\n        managed  3840\n        cma      0\n"
	"        protection: (0, 2990, 15880, 15880, 15880)\n      nr_free_pages 3840\n"
	"Node 0, zone    DMA32\n"
	"  pages free     765432\n        boost    512\n        min      3689\n        low      3971\n        high     4765\n"
	"        protection: (0, 0, 12890, 12890, 12890)\n"
	"Node 0, zone   Normal\n"
	"  pages free     1234\n        boost    0\n        min      13697\n        low      17121\n        high     20545\n"
	"        protection: (0, 0, 0, 0, 0)\n  pagesets\n    cpu: 0\n              count: 0\n              high:  14\n"
	"Node 0, zone  Movable\n  pages free     0\n        min      0\n        protection: (0, 0, 0, 0, 0)\n";
#define PROTECTION (15880 + 12890)
#define USUAL (16 - 4 + 3177 - 794 + 13697 - 3424 + PROTECTION)
#define LAST (16 - 8 + 3177 - 1588 + 13697 - 6848 + PROTECTION)

/* The floor when the text comes in pieces of `piece` bytes, behind `padding` bytes of other lines. */
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

	CHECK(floor.usual == USUAL * page && floor.last == LAST * page, "pieces of %zu behind %zu: %llu and %llu pages",
		piece, padding, (unsigned long long)(floor.usual / page), (unsigned long long)(floor.last / page));
}

static void test_floor(void)
{
	for (size_t piece = 1; piece < sizeof zoneinfo; piece = piece * 2 + 1)
		check_floor(piece, 0);
	for (size_t padding = 3000; padding < 4200; padding += 60)	/* each line once at the end of a buffer */
		check_floor(sizeof zoneinfo, padding);
	CHECK(tz_headroom_floor_in(-1).usual == 0, "what cannot be read is no floor");
}

static void test_has(void)
{
	struct tz_floor floor = tz_headroom_floor();

	CHECK(floor.last > 0 && floor.last < floor.usual && floor.usual < 1ull << 40, "this machine's floor: %llu, %llu",
		(unsigned long long)floor.last, (unsigned long long)floor.usual);
	CHECK(tz_headroom_has(0, 4096), "a page of memory is free");
	CHECK(!tz_headroom_has(UINT64_MAX / 2, 4096), "below a floor");
	CHECK(!tz_headroom_has(0, UINT64_MAX / 2), "more than there is");
}

int main(void)
{
	test_floor();
	test_has();
	return 0;
}
