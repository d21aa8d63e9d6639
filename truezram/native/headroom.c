/* headroom.c - when to ask the kernel for memory, and when better not to.
 *
 * A thread that asks for memory while there is little of it has to look for some itself (direct reclaim). Two things go wrong
 * when the thread that fills the reserve does so:
 *
 * - It sleeps. Below half of the `min` watermarks the kernel puts whoever asks to sleep until kswapd has made room, for a second at
 *   most if he may not start I/O (throttle_direct_reclaim in mm/vmscan.c); and it sleeps a tenth of a second at a time on the way
 *   (reclaim_throttle). The swap writes that would make room wait for the reserve meanwhile.
 * - The reserve's thread is a real-time thread, which may take memory down to just that half (gfp_to_alloc_flags in
 *   mm/page_alloc.c). There everybody else who asks for memory is put to sleep, too: the whole machine stands still.
 *
 * So it asks only while free memory is above a floor of three quarters of `min`, which is above that half and below what other
 * processes may take: memory that nobody else can have, got without a search.
 *
 * Watermarks belong to zones, and a request for a page of a process may not use all of a lower zone (`protection`). What is free is
 * only known, cheaply, of all zones together. If that is above the sum of the floors, then at least one zone is above its own.
 */
#include "headroom.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* The last number of "protection: (0, 1900, 1900)": for memory that may come from any zone. */
static uint64_t protection(const char *list)
{
	const char *last = strrchr(list, ',');

	return strtoull(last ? last + 1 : list + strcspn(list, "0123456789"), NULL, 10);
}

uint64_t tz_headroom_floor(void)
{
	uint64_t pages = 0, min;
	char line[512];
	FILE *f = fopen("/proc/zoneinfo", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof line, f)) {
		char *word = line + strspn(line, " ");
		if (sscanf(word, "min %llu", (unsigned long long *)&min) == 1)
			pages += min - min / 4;
		else if (!strncmp(word, "protection:", 11))
			pages += protection(word);
	}
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int tz_headroom_has(uint64_t floor, uint64_t bytes)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 || (uint64_t)info.freeram * info.mem_unit > floor + bytes;
}
