/* arena.c - maps, populates and releases the arena file (layout: arena.h).
 *
 * The file is sparse and as large as the worst case needs; memory is what has been populated. Pages
 * are allocated with fallocate(), which reports a shortage as an error where a touch of the mapping
 * would be a SIGBUS, and are then mapped with MADV_POPULATE_WRITE, so that the data path takes no
 * fault at all.
 */
#include "arena.h"
#include "codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

int tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

	do
		rc = fallocate(a->fd, 0, (off_t)offset, (off_t)len);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	do
		rc = madvise(a->base + offset, len, MADV_POPULATE_WRITE);
	while (rc < 0 && (errno == EINTR || errno == EAGAIN));
	if (rc == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* Before Linux 5.14: the pages are there, a touch only maps them. */
	for (uint64_t p = 0; p < len; p += TZ_PAGE_SIZE) {
		volatile uint8_t *byte = a->base + offset + p;
		*byte = *byte;
	}
	return 0;
}

int tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

	do
		rc = fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			(off_t)len);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

/* The most slabs that a disk of this many pages can need: all of it raw, as much again for holes,
 * and some per class. */
static uint64_t slabs_for(uint64_t pages)
{
	return 2 * (round_up(pages, 16) / 16) + 1024;
}

static int fail(int err, char *why, size_t why_size, const char *what)
{
	snprintf(why, why_size, "%s: %s", what, strerror(err));
	return -err;
}

static int lock_mapping(struct tz_arena *a, char *why, size_t why_size)
{
	if (syscall(SYS_mlock2, a->base, a->size, MLOCK_ONFAULT) == 0)
		return 0;
	return fail(errno, why, why_size,
		"cannot lock the arena in memory (needs root or a higher RLIMIT_MEMLOCK)");
}

int tz_arena_create(struct tz_arena *a, int fd, uint64_t disksize, int lock, char *why,
	size_t why_size)
{
	uint64_t pages = disksize / TZ_PAGE_SIZE;
	uint64_t table_offset = TZ_PAGE_SIZE;
	uint64_t slab_offset = round_up(table_offset + pages * 8, TZ_SLAB_SIZE);
	uint64_t nr_slabs = slabs_for(pages);
	struct timespec now;
	int rc;

	memset(a, 0, sizeof *a);
	if (slab_offset + 1024 * TZ_SLAB_SIZE > TZ_ARENA_MAX) {
		snprintf(why, why_size,
			"a disk of %llu bytes needs a page table of %llu MiB, more than an arena"
			" can hold (512 GiB)",
			(unsigned long long)disksize, (unsigned long long)(pages * 8 >> 20));
		return -EFBIG;
	}
	if (slab_offset + nr_slabs * TZ_SLAB_SIZE > TZ_ARENA_MAX)
		nr_slabs = (TZ_ARENA_MAX - slab_offset) / TZ_SLAB_SIZE;
	a->fd = fd;
	a->disksize = disksize;
	a->slab_offset = slab_offset;
	a->nr_slabs = nr_slabs;
	a->size = slab_offset + nr_slabs * TZ_SLAB_SIZE;
	if (ftruncate(fd, (off_t)a->size) < 0)
		return fail(errno, why, why_size, "cannot size the arena file");
	a->base = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (a->base == MAP_FAILED)
		return fail(errno, why, why_size, "cannot map the arena");
	madvise(a->base, a->size, MADV_DONTDUMP);
	madvise(a->base, a->size, MADV_DONTFORK);
	if (lock && (rc = lock_mapping(a, why, why_size)) < 0)
		goto unmap;
	rc = tz_arena_populate(a, 0, slab_offset);
	if (rc < 0) {
		snprintf(why, why_size,
			"no memory for the page table (%llu KiB for this disk size): %s."
			" Choose a smaller size",
			(unsigned long long)(slab_offset >> 10), strerror(-rc));
		goto unmap;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	*(struct tz_arena_head *)a->base = (struct tz_arena_head){
		.magic = TZ_ARENA_MAGIC, .version = TZ_ARENA_VERSION, .slab_size = TZ_SLAB_SIZE,
		.disksize = disksize,
		.table_offset = table_offset, .slab_offset = slab_offset, .nr_slabs = nr_slabs,
		.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
	};
	a->table = (_Atomic uint64_t *)(a->base + table_offset);
	return 0;
unmap:
	munmap(a->base, a->size);
	a->base = NULL;
	return rc;
}

void tz_arena_destroy(struct tz_arena *a)
{
	if (!a->base)
		return;
	munmap(a->base, a->size);
	close(a->fd);
	a->base = NULL;
}
