/* slot_probe.h - a BPF program on a function of the kernel that marks freed swap slots in a bitmap
 * which the server has mapped.
 *
 * One bit for each page of the device. The program knows by swap type which pages a slot is: user
 * space writes that into the control page (tz_probe_area) and changes it at any time.
 */
#ifndef TZ_SLOT_PROBE_H
#define TZ_SLOT_PROBE_H

#include <stddef.h>
#include <stdint.h>

#define TZ_SWAP_TYPES 32	/* a swap entry has 5 bits for it */

struct tz_probe_control {	/* in the map, shared with the program */
	uint64_t armed;			/* set by the collector: it wants to be woken */
	uint64_t unused[7];
	uint64_t base[TZ_SWAP_TYPES];	/* page of the device that is slot 0 of the area */
	uint64_t pages[TZ_SWAP_TYPES];	/* slots of the area, 0: not ours */
};

struct tz_probe {
	int map_fd, ring_fd;		/* ring_fd: readable when the program has woken us */
	int program_fd, event_fd;	/* -1: not attached */
	const char *function;		/* attached to it */
	uint64_t *bits;			/* mapped */
	size_t map_size;
	struct tz_probe_control *control;
	uint64_t *consumed, *produced;	/* positions of the ring */
};

/* Makes the bitmap and the ring. 0, or negative errno with why; then there is nothing to close. */
int tz_probe_open(struct tz_probe *p, uint64_t nr_pages, char *why, size_t why_size);
void tz_probe_close(struct tz_probe *p);
/* The functions that may tell of freed slots, best first; NULL: no more. */
const char *tz_probe_candidate(unsigned i);
/* Attaches to candidate i. 0; -ENOENT: this kernel has no such function; or another negative errno
 * with why. */
int tz_probe_attach(struct tz_probe *p, unsigned i, char *why, size_t why_size);
void tz_probe_detach(struct tz_probe *p);
/* From here on the slots of that swap type are these pages; 0 pages: none of ours. */
void tz_probe_area(struct tz_probe *p, unsigned type, uint64_t base, uint64_t pages);
/* Clears the bits of these pages, also those that a program which is running at this moment sets
 * for what their area was before. */
void tz_probe_clear(struct tz_probe *p, uint64_t first, uint64_t pages);
/* After ring_fd became readable. */
void tz_probe_drain(struct tz_probe *p);

#endif
