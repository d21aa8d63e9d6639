/* users.h - who uses a block device as swap, asked by device number. */
#ifndef TZ_USERS_H
#define TZ_USERS_H

#include <stdint.h>
#include <sys/types.h>

struct tz_swap_area {
	char path[256];		/* as swapoff(2) takes it */
	uint64_t used;		/* bytes swapped out */
};

/* Swap areas on the disk `disk`, on its partitions and on block devices that hold either (dm, md,
 * loop, to any depth), under whatever name, and swap files on a filesystem that is directly on one
 * of them. `name`, "ublkb0", is for a line whose file cannot be found any more. Fills up to `most`
 * of `out`; returns how many there are. */
unsigned tz_swap_areas(dev_t disk, const char *name, struct tz_swap_area *out, unsigned most);
/* Where an area that is directly on the disk, or on a partition of it, is: its first 512-byte
 * sector on the disk, and how many. 0, or -1: it is not directly on it. */
int tz_area_on_disk(dev_t disk, const char *path, uint64_t *first, uint64_t *sectors);
/* The disk's device number, 0 when there is no such disk. */
dev_t tz_disk_number(const char *name);

#endif
