/* headroom.h - how much memory the kernel can give without having to look for it; see headroom.c.
 */
#ifndef TZ_HEADROOM_H
#define TZ_HEADROOM_H

#include <stdint.h>

/* Bytes of free memory, of the whole machine, below which nothing is to be asked for. */
struct tz_floor {
	uint64_t usual;		/* three quarters of the `min` watermarks */
	uint64_t last;		/* half of them: what a real-time thread can get at all */
};

/* 0 and 0 when the kernel does not say. Reads /proc/zoneinfo, for which the kernel allocates: not
 * to be called while memory is short. */
struct tz_floor tz_headroom_floor(void);

/* The same from an open file of that form. */
struct tz_floor tz_headroom_floor_in(int fd);

/* Whether that much can be had and the floor is kept. One system call. */
int tz_headroom_has(uint64_t floor, uint64_t bytes);

#endif
