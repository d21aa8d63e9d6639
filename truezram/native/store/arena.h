/* arena.h - the one file that holds a device's whole state: head, page table, slabs.
 *
 *   0            struct tz_arena_head (one page)
 *   table_offset 8 bytes per page of the disk (store.c), populated when the device is made
 *   slab_offset  nr_slabs slabs of TZ_SLAB_SIZE, populated and punched out as the pool grows and
 *                shrinks (pool.c)
 *
 * Every reference inside is an offset from the start of the file, so the file can be mapped
 * anywhere by anyone: a server that takes over after a crash or for an upgrade needs nothing but
 * this file. What is not in it (free lists, occupancy) can be rebuilt from the table.
 */
#ifndef TZ_ARENA_H
#define TZ_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define TZ_ARENA_MAGIC 0x31415a54455552ull	/* "RUETZA1" */
#define TZ_ARENA_VERSION 1
#define TZ_SLAB_SIZE 65536u
/* Entries address objects in units of 16 bytes with 35 bits, raw pages in units of 4096 with 27
 * (store.c). */
#define TZ_ARENA_MAX (512ull << 30)

struct tz_arena_head {
	uint64_t magic;
	uint32_t version, slab_size;
	uint64_t disksize;
	uint64_t table_offset, slab_offset, nr_slabs;
	uint64_t created_ns;	/* CLOCK_REALTIME */
};

struct tz_arena {
	uint8_t *base;		/* where it is mapped */
	uint64_t size;		/* bytes mapped; most of it unpopulated */
	int fd;
	/* Where things are. The head has the same values, for whoever maps the file later; these
	 * are never read back from it. */
	uint64_t disksize, slab_offset, nr_slabs;
	_Atomic uint64_t *table;
};

/* Sizes and maps an empty file, populates head and table. 0, or negative errno with why. Takes over
 * fd on success. */
int tz_arena_create(struct tz_arena *a, int fd, uint64_t disksize, int lock, char *why,
	size_t why_size);
void tz_arena_destroy(struct tz_arena *a);
/* Gives [offset, offset + len) pages now, so that touching it later cannot fault. 0 or negative
 * errno; may wait for memory, so never called from a queue thread. */
int tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
/* Gives the pages back to the kernel; the range reads as unpopulated from then on. */
int tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

static inline uint64_t tz_arena_slab_offset(const struct tz_arena *a, uint64_t slab)
{
	return a->slab_offset + slab * TZ_SLAB_SIZE;
}

#endif
