/* arena.c - maps, populates and releases the arena file, and writes its head (layout: arena.h).
 *
 * The file is sparse and as large as the worst case needs; memory is what has been populated. Pages
 * are allocated with fallocate(), which reports a shortage as an error where a touch of the mapping
 * would be a SIGBUS, and are then mapped with MADV_POPULATE_WRITE, so that the data path takes no
 * fault at all.
 */
#include "arena.h"
#include "codec.h"
#include "dictionary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

_Static_assert(sizeof(struct tz_arena_head) <= TZ_PAGE_SIZE, "a copy of the head is a page");
_Static_assert(TZ_DICTIONARY_OFFSET == TZ_HEAD_COPIES * TZ_PAGE_SIZE,
	"the dictionary comes after the head");

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* ---- populating ---- */

static int map_pages(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

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

int tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	int rc;

	do
		rc = fallocate(a->fd, 0, (off_t)offset, (off_t)len);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : map_pages(a, offset, len);
}

/* The kernel maps pages that it has at hand 16 at a time when they are to be read, and one by one
 * when they are to be written. The latter is what is promised, the former leaves it little to
 * do. */
int tz_arena_map(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	madvise(a->base + offset, len, MADV_POPULATE_READ);
	return map_pages(a, offset, len);
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

#if defined(__clang__) || defined(__SANITIZE_THREAD__)
#define UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#else
#define UNWATCHED
#endif

UNWATCHED void tz_arena_load(const struct tz_arena *a, uint64_t offset, void *out, size_t n)
{
	const volatile uint8_t *from = a->base + offset;

	for (size_t i = 0; i < n; i++)
		((uint8_t *)out)[i] = from[i];
}

/* ---- the head ---- */

/* Over a whole page, what is not used yet included. */
static uint32_t head_crc(const void *copy)
{
	uint8_t page[TZ_PAGE_SIZE];

	memcpy(page, copy, sizeof page);
	memset(page + offsetof(struct tz_arena_head, crc), 0, sizeof(uint32_t));
	return tz_crc32c(0, page, sizeof page);
}

/* The older copy is the one that is written over. Its magic goes first and comes back last, so that
 * a copy that is being written is never taken for a whole one. */
static void write_copy(struct tz_arena *a)
{
	struct tz_arena_head *copy =
		(void *)(a->base + ++a->head.sequence % TZ_HEAD_COPIES * TZ_PAGE_SIZE);

	uint8_t page[TZ_PAGE_SIZE] = { 0 };

	memcpy(page, &a->head, sizeof a->head);
	a->head.crc = head_crc(page);
	memcpy(page, &a->head, sizeof a->head);
	__atomic_store_n(&copy->magic, 0, __ATOMIC_SEQ_CST);
	memcpy((char *)copy + sizeof copy->magic, page + sizeof copy->magic,
		sizeof page - sizeof copy->magic);
	__atomic_store_n(&copy->magic, TZ_ARENA_MAGIC, __ATOMIC_SEQ_CST);
}

/* Both, so that one that is damaged later costs nothing. */
void tz_arena_write_head(struct tz_arena *a)
{
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++)
		write_copy(a);
}

int tz_arena_is_head(const void *copy)
{
	struct tz_arena_head h;

	memcpy(&h, copy, sizeof h);
	return h.magic == TZ_ARENA_MAGIC && h.crc == head_crc(copy);
}

static int plausible(const struct tz_arena_head *h)
{
	uint64_t tables = tz_tables_for(h->disksize);

	return h->disksize && h->disksize % TZ_PAGE_SIZE == 0 && h->disksize <= TZ_DISK_MAX &&
		h->segment_size == TZ_SEGMENT_SIZE && h->directory_offset % TZ_PAGE_SIZE == 0 &&
		h->directory_offset >= TZ_DICTIONARY_OFFSET + (uint64_t)h->dictionary_size &&
		h->segment_offset % TZ_SEGMENT_SIZE == 0 && h->segment_offset <= TZ_ARENA_MAX &&
		h->segment_offset >= h->directory_offset + tables * 8 && h->nr_segments &&
		h->nr_segments <= (TZ_ARENA_MAX - h->segment_offset) / TZ_SEGMENT_SIZE;
}

int tz_arena_read_head(const void *bytes, struct tz_arena_head *out, char *why, size_t why_size)
{
	int found = 0;

	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++) {
		struct tz_arena_head h;
		memcpy(&h, (const char *)bytes + i * TZ_PAGE_SIZE, sizeof h);
		if (!tz_arena_is_head((const char *)bytes + i * TZ_PAGE_SIZE) ||
			(found && h.sequence < out->sequence))
			continue;
		*out = h;
		found = 1;
	}
	if (!found) {
		snprintf(why, why_size,
			"it is not an arena, or both copies of its head are damaged");
		return -EILSEQ;
	}
	if (out->version != TZ_ARENA_VERSION || out->incompatible & ~TZ_ARENA_INCOMPATIBLE) {
		snprintf(why, why_size,
			"it has version %u and features %#llx; this program knows version %u and"
			" features %#llx",
			out->version, (unsigned long long)out->incompatible, TZ_ARENA_VERSION,
			TZ_ARENA_INCOMPATIBLE);
		return -EPROTONOSUPPORT;
	}
	if (!plausible(out)) {
		snprintf(why, why_size, "its head does not make sense");
		return -EILSEQ;
	}
	return 0;
}

static int read_copies(int fd, uint8_t *copies, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t got = pread(fd, copies + at, n - at, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -1;
		at += (size_t)got;
	}
	return 0;
}

int tz_arena_fetch_head(int fd, uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE],
	struct tz_arena_head *out, char *why, size_t why_size)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		snprintf(why, why_size, "it is not a regular file");
		return -EINVAL;
	}
	if (read_copies(fd, copies, TZ_HEAD_COPIES * TZ_PAGE_SIZE) < 0) {
		snprintf(why, why_size, "it is too short for an arena");
		return -EILSEQ;
	}
	int rc = tz_arena_read_head(copies, out, why, why_size);
	if (rc == 0 && tz_arena_bytes(out) > (uint64_t)st.st_size) {
		snprintf(why, why_size, "it is cut short");
		return -EILSEQ;
	}
	return rc;
}

int tz_arena_find_populated(
	int fd, uint64_t size, void (*found)(void *arg, uint64_t from, uint64_t to), void *arg)
{
	off_t at = 0, end;

	while ((uint64_t)at < size && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		if (end < 0 || end <= at)
			return 0;		/* it has just been cut short */
		if ((uint64_t)end > size)
			end = (off_t)size;
		if (end > at)
			found(arg, (uint64_t)at, (uint64_t)end);
		at = end;
	}
	return at < 0 && errno != ENXIO ? -errno : 0;
}

/* ---- making ---- */

/* The most segments a disk of so many pages can come to need: all of it raw, the page table, as
 * much again for holes, and a few for threads to begin with. */
static uint64_t segments_for(uint64_t pages, uint64_t tables)
{
	uint64_t raw = round_up(pages, 31) / 31, table = round_up(tables, 32) / 32;

	return raw + table + pages / 32 + 512;
}

static int fail(int err, char *why, size_t why_size, const char *what)
{
	snprintf(why, why_size, "%s: %s", what, strerror(err));
	return -err;
}

static uint64_t directory_after(uint64_t dictionary_size)
{
	return round_up(TZ_DICTIONARY_OFFSET + dictionary_size, TZ_PAGE_SIZE);
}

/* Where things are, as the head says. */
static void find_parts(struct tz_arena *a)
{
	a->segment_offset = a->head.segment_offset;
	a->nr_segments = a->head.nr_segments;
	a->size = tz_arena_bytes(&a->head);
	a->nr_tables = tz_tables_for(a->head.disksize);
	a->nr_directory = (a->nr_tables + TZ_DIRECTORY_ENTRIES - 1) / TZ_DIRECTORY_ENTRIES;
}

static int lay_out(struct tz_arena *a, const struct tz_arena_config *c, char *why, size_t why_size)
{
	struct tz_arena_head *h = &a->head;
	struct timespec now;

	if (c->disksize > TZ_DISK_MAX) {
		snprintf(why, why_size, "a disk can have at most %llu TiB", TZ_DISK_MAX >> 40);
		return -EFBIG;
	}
	uint64_t pages = c->disksize / TZ_PAGE_SIZE, tables = tz_tables_for(c->disksize);
	clock_gettime(CLOCK_REALTIME, &now);
	*h = (struct tz_arena_head){ .magic = TZ_ARENA_MAGIC,
		.version = TZ_ARENA_VERSION,
		.state = TZ_ARENA_MAKING,
		.generation = 1,
		.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
		.segment_size = TZ_SEGMENT_SIZE,
		.disksize = c->disksize,
		.dictionary_size = (uint32_t)c->dictionary_size,
		.mem_limit = c->mem_limit };
	snprintf(h->algorithm, sizeof h->algorithm, "%s", c->algorithm);
	if (c->device)
		h->device = *c->device;
	if (c->dictionary)
		h->dictionary_crc = tz_crc32c(0, c->dictionary, c->dictionary_size);
	if (getrandom(h->uuid, sizeof h->uuid, 0) != (ssize_t)sizeof h->uuid)
		return fail(errno, why, why_size, "cannot get random bytes");
	h->directory_offset = directory_after(c->dictionary_size);
	h->segment_offset = round_up(h->directory_offset + tables * 8, TZ_SEGMENT_SIZE);
	h->nr_segments = segments_for(pages, tables);
	if (tz_arena_bytes(h) > TZ_ARENA_MAX)
		h->nr_segments = (TZ_ARENA_MAX - h->segment_offset) / TZ_SEGMENT_SIZE;
	find_parts(a);
	return 0;
}

static int map(struct tz_arena *a, int lock, char *why, size_t why_size)
{
	a->base = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, a->fd, 0);
	if (a->base == MAP_FAILED) {
		a->base = NULL;
		return fail(errno, why, why_size, "cannot map the arena");
	}
	a->directory = (_Atomic uint64_t *)(a->base + a->head.directory_offset);
	madvise(a->base, a->size, MADV_DONTDUMP);
	madvise(a->base, a->size, MADV_DONTFORK);
	if (lock && syscall(SYS_mlock2, a->base, a->size, MLOCK_ONFAULT) < 0)
		return fail(errno, why, why_size,
			"cannot lock the arena in memory (needs root or a higher RLIMIT_MEMLOCK)");
	return 0;
}

static uint64_t words_of(const struct tz_arena *a)
{
	return a->nr_directory / 64 + 1;
}

static uint64_t eager_pages(const struct tz_arena *a)
{
	return a->nr_directory < TZ_DIRECTORY_EAGER ? a->nr_directory : TZ_DIRECTORY_EAGER;
}

uint64_t tz_arena_fixed_bytes(const struct tz_arena *a)
{
	return a->head.directory_offset + eager_pages(a) * TZ_PAGE_SIZE;
}

int tz_arena_populate_wanted(struct tz_arena *a)
{
	int n = 0;

	for (uint64_t w = 0; w < words_of(a); w++) {
		uint64_t wanted = atomic_load(&a->wanted[w]) & ~atomic_load(&a->ready[w]);
		for (; wanted; wanted &= wanted - 1, n++) {
			uint64_t page = w * 64 + (unsigned)__builtin_ctzll(wanted);
			int rc = tz_arena_populate(
				a, a->head.directory_offset + page * TZ_PAGE_SIZE, TZ_PAGE_SIZE);
			if (rc < 0)	/* what there is now is counted; the rest comes later */
				return n ? n : rc;
			atomic_fetch_or_explicit(
				&a->ready[w], 1ull << page % 64, memory_order_release);
		}
	}
	return n;
}

/* The bits of the directory's pages: private memory, 256 bytes a TiB. */
static int make_directory_bits(struct tz_arena *a)
{
	a->ready = calloc(words_of(a) * 2, sizeof *a->ready);
	if (!a->ready)
		return -ENOMEM;
	a->wanted = a->ready + words_of(a);
	for (uint64_t page = 0; page < eager_pages(a); page++)
		a->ready[page / 64] |= 1ull << page % 64;
	return 0;
}

static void unmap(struct tz_arena *a)
{
	if (a->base)
		munmap(a->base, a->size);
	free(a->ready);
	a->base = NULL;
	a->ready = NULL;
}

int tz_arena_create(struct tz_arena *a, const struct tz_arena_config *c, char *why, size_t why_size)
{
	int rc;

	memset(a, 0, sizeof *a);
	a->fd = c->fd;
	rc = lay_out(a, c, why, why_size);
	if (rc < 0)
		return rc;
	if (ftruncate(a->fd, (off_t)a->size) < 0)
		return fail(errno, why, why_size, "cannot size the arena file");
	rc = map(a, c->lock, why, why_size);
	if (rc == 0 &&
		((rc = make_directory_bits(a)) < 0 ||
			(rc = tz_arena_populate(a, 0, tz_arena_fixed_bytes(a))) < 0))
		snprintf(why, why_size, "no memory for the page table's directory (%llu KiB): %s",
			(unsigned long long)(tz_arena_fixed_bytes(a) >> 10), strerror(-rc));
	if (rc < 0) {
		unmap(a);
		return rc;
	}
	if (c->dictionary)
		memcpy(a->base + TZ_DICTIONARY_OFFSET, c->dictionary, c->dictionary_size);
	tz_arena_write_head(a);
	return 0;
}

/* ---- attaching ---- */

uint64_t tz_arena_directory_more(const struct tz_arena *a)
{
	uint64_t n = 0;

	for (uint64_t w = 0; w < words_of(a); w++)
		n += (uint64_t)__builtin_popcountll(atomic_load(&a->ready[w]));
	return n - eager_pages(a);
}

/* Of a range that is populated, the pages of the directory: they are ready. */
static void find_directory(void *arg, uint64_t from, uint64_t to)
{
	struct tz_arena *a = arg;
	uint64_t base = a->head.directory_offset, page = from > base ? (from - base) / TZ_PAGE_SIZE
								      : 0;

	for (; page < a->nr_directory && base + (page + 1) * TZ_PAGE_SIZE <= to; page++)
		a->ready[page / 64] |= 1ull << page % 64;
}

static int map_directory(struct tz_arena *a)
{
	int rc = tz_arena_find_populated(a->fd, a->segment_offset, find_directory, a);

	/* (All of that is there, in an arena that nobody has cut holes into.) */
	if (rc == 0)
		rc = tz_arena_populate(a, 0, tz_arena_fixed_bytes(a));
	for (uint64_t page = eager_pages(a); page < a->nr_directory && rc == 0; page++)
		if (a->ready[page / 64] >> page % 64 & 1)
			rc = tz_arena_map(a, a->head.directory_offset + page * TZ_PAGE_SIZE,
				TZ_PAGE_SIZE);
	return rc;
}

int tz_arena_attach(struct tz_arena *a, int fd, int lock, char *why, size_t why_size)
{
	uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE];
	int rc;

	memset(a, 0, sizeof *a);
	a->fd = fd;
	rc = tz_arena_fetch_head(fd, copies, &a->head, why, why_size);
	if (rc < 0)
		return rc;
	if (a->head.state != TZ_ARENA_LIVE && a->head.state != TZ_ARENA_STOPPING) {
		snprintf(why, why_size,
			"its state is %u: the server that made it did not get as far as its first"
			" page", a->head.state);
		return -EBUSY;
	}
	if (a->head.dictionary_size > TZ_DICTIONARY_MAX ||
		a->head.directory_offset != directory_after(a->head.dictionary_size)) {
		snprintf(why, why_size, "its head does not make sense: directory at %llu",
			(unsigned long long)a->head.directory_offset);
		return -EILSEQ;
	}
	a->head.algorithm[sizeof a->head.algorithm - 1] = 0;
	a->head.device.server_version[sizeof a->head.device.server_version - 1] = 0;
	find_parts(a);
	rc = map(a, lock, why, why_size);
	if (rc == 0 && ((rc = make_directory_bits(a)) < 0 || (rc = map_directory(a)) < 0))
		snprintf(why, why_size, "cannot map the page table's directory: %s",
			strerror(-rc));
	if (rc < 0)
		unmap(a);
	return rc;
}

void tz_arena_destroy(struct tz_arena *a)
{
	if (!a->base)
		return;
	unmap(a);
	close(a->fd);
}
