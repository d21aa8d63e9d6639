/* headroom.c - when to ask the kernel for memory, and when not to.
 *
 * A thread that asks for memory while there is little has to look for some itself (direct reclaim).
 * Two things go wrong when the thread that fills the reserve does so:
 *
 * - It sleeps. Below half of the zones' `min` watermark the kernel puts whoever asks to sleep until
 *   kswapd has made room, for up to a second if it may not start I/O (throttle_direct_reclaim in
 *   mm/vmscan.c), and on the way it sleeps a tenth of a second at a time (reclaim_throttle). The
 *   swap writes that would make room wait for the reserve meanwhile.
 * - It is a real-time thread, which may take memory down to that very half (gfp_to_alloc_flags in
 *   mm/page_alloc.c). There every other allocation is put to sleep, too.
 *
 * So it asks only while free memory is above a floor of three quarters of `min`: above that half,
 * and below what other processes may take. Memory between the two is allocated without reclaim, and
 * no other process can take it. The last quarter above the half is for when the reserve runs out: a
 * slab then brings more than it takes, as it is filled with pages that leave memory.
 *
 * The kernel raises `min` for a while when memory gets fragmented (`boost` in zoneinfo). That does
 * not count for a single page for a real-time thread (zone_watermark_fast), so it does not count
 * here.
 *
 * Watermarks belong to zones, and a page of a process may not come from the last of a lower zone
 * (`protection`; often that is all of it). What is cheap to know is what is free in all zones
 * together: if that is above the sum of the floors, at least one zone is above its own.
 */
#include "headroom.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* The last number of "protection: (0, 1900, 1900)": for memory that may come from any zone. */
static uint64_t last_number(const char *list)
{
	const char *last = strrchr(list, ',');

	return strtoull(last ? last + 1 : list + strcspn(list, "0123456789"), NULL, 10);
}

/* A zone as far as its lines have been seen, and the floors of those before it. In pages. */
struct zones {
	uint64_t boost, min, managed;
	struct tz_floor sum;
};

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void read_line(struct zones *z, const char *line)
{
	static const char *const words[] = { "boost ", "min ", "managed " };
	uint64_t *const values[] = { &z->boost, &z->min, &z->managed };

	line += strspn(line, " ");
	for (unsigned i = 0; i < 3; i++)
		if (!strncmp(line, words[i], strlen(words[i])))
			*values[i] = strtoull(line + strlen(words[i]), NULL, 10);
	if (strncmp(line, "protection:", 11))
		return;
	/* The last line of the four. A zone that is smaller than what is protected of it is left
	 * alone as it is. */
	uint64_t protected = last_number(line), min = z->min - z->boost;
	z->sum.usual += smaller(protected + min - min / 4, z->managed);
	z->sum.last += smaller(protected + min - min / 2, z->managed);
}

struct tz_floor tz_headroom_floor_in(int fd)
{
	char text[4096];	/* no stdio: it would allocate */
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct zones zones = { 0 };
	size_t have = 0;
	ssize_t n;

	while ((n = read(fd, text + have, sizeof text - 1 - have)) > 0) {
		char *line = text, *end;
		have += (size_t)n;
		text[have] = 0;
		while ((end = strchr(line, '\n'))) {
			*end = 0;
			read_line(&zones, line);
			line = end + 1;
		}
		have = (size_t)(text + have - line);
		if (have == sizeof text - 1)
			have = 0;	/* no line of zoneinfo is that long */
		memmove(text, line, have);
	}
	return (struct tz_floor){ zones.sum.usual * page, zones.sum.last * page };
}

struct tz_floor tz_headroom_floor(void)
{
	int fd = open("/proc/zoneinfo", O_RDONLY | O_CLOEXEC);
	struct tz_floor floor = { 0, 0 };

	if (fd >= 0) {
		floor = tz_headroom_floor_in(fd);
		close(fd);
	}
	return floor;
}

int tz_headroom_has(uint64_t floor, uint64_t bytes)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 || (uint64_t)info.freeram * info.mem_unit > floor + bytes;
}
