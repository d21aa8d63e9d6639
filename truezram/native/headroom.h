/* headroom.h - how much memory the kernel can give without having to look for it; see headroom.c. */
#ifndef TZ_HEADROOM_H
#define TZ_HEADROOM_H

#include <stdint.h>

/* Bytes of free memory, of the whole machine, below which nothing is to be asked for; 0 when the kernel does not say. Reads
 * /proc/zoneinfo, for which the kernel allocates: not to be called while memory is short. */
uint64_t tz_headroom_floor(void);

/* The same from an open file of that form. */
uint64_t tz_headroom_floor_in(int fd);

/* Whether that much can be had and the floor is kept. One system call. */
int tz_headroom_has(uint64_t floor, uint64_t bytes);

#endif
