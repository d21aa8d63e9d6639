/* attach_pages.h - what the tests of attaching share (test_attach.c, test_attach_stores.c): a model
 * of what a device holds, copies of arenas, devices that attach them.
 *
 * Included once per program.
 */
#ifndef TZ_ATTACH_PAGES_H
#define TZ_ATTACH_PAGES_H

#include "device.h"
#include "store_impl.h"

#include <fcntl.h>

enum { PAGES = 320 };
#define FAR ((66ull << 30) / 4096)	/* beyond what the directory has from the start */

/* ---- pages ---- */

/* make_version's numbers; with SMALL, a page that is mostly zeros. */
#define SMALL 0x40000000u
/* incompressible, and a part of it looks like the object of page 13 */
#define FORGED 0x20000000u

/* the same whatever page it is in */
#define COPY 0x10000000u

/* the first half is its own, the rest that of all such pages */
#define ALIKE 0x08000000u
/* the same, but most of it is zeros */
#define ALIKE_SMALL 0x04000000u

struct model {
	uint64_t first;		/* number of the first of them */
	uint32_t version[PAGES];
};

static inline void page_of(uint8_t *out, uint64_t n, uint32_t version)
{
	if (version < WORDS && version & COPY)
		n = 0;
	make_version(out, n, version);
	if (version >= WORDS)
		return;
	if (version & SMALL)
		memset(out + 160, 0, 4096 - 160);
	if (version & (ALIKE | ALIKE_SMALL)) {
		uint64_t own = n + version, common = 1;
		unsigned words = version & ALIKE ? 192 : 24;
		for (unsigned i = 0; i < 2 * words; i++)
			((uint64_t *)(void *)out)[i] = next(i < words ? &own : &common);
		memset(out + 16 * words, 0, 4096 - 16 * words);
	}
	if (version & FORGED) {
		uint64_t state = n + version;
		for (unsigned i = 0; i < 512; i++)
			((uint64_t *)(void *)out)[i] = next(&state);
		memcpy(out + 64 + 4 - TZ_OBJECT_HEAD, &(uint32_t){ 13 }, 4);
	}
}

static inline void write_version(struct tz_store_thread *t, uint64_t n, uint32_t version)
{
	uint8_t page[4096] __attribute__((aligned(8)));

	page_of(page, n, version);
	CHECK(write_waiting(t, n, page) == 0, "write");
}

static inline void put(struct tz_store_thread *t, struct model *m, unsigned i, uint32_t version)
{
	tz_store_begin(t);
	if (version)
		write_version(t, m->first + i, version);
	else
		tz_store_discard(t, m->first + i);
	tz_store_end(t);
	m->version[i] = version;
}

/* 1: it is this version, 0: something else, -1: EIO. */
static inline int look(struct tz_store_thread *t, uint64_t n, uint32_t version)
{
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];
	int rc;

	tz_store_begin(t);
	rc = tz_store_read(t, n, out);
	tz_store_end(t);
	CHECK(rc == 0 || rc == -EIO, "read: %d", rc);
	page_of(page, n, version);
	return rc < 0 ? -1 : !memcmp(page, out, 4096);
}

/* Pages that are stored, and of these the same-filled ones. */
static inline uint64_t stored(const struct model *m, uint64_t *same)
{
	uint64_t n = 0;

	*same = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		n += m->version[i] != 0;
		*same += m->version[i] >= WORDS;
	}
	return n;
}

static inline void compare(struct device *d, const struct model *m, const char *after)
{
	for (unsigned i = 0; i < PAGES; i++)
		CHECK(look(tz_store_thread(d->store, 0), m->first + i, m->version[i]) == 1,
			"page %llu after %s", (unsigned long long)m->first + i, after);
}

/* ---- arenas ---- */

/* Of devices that are copied often: their reserve is small, too. */
#define LIMIT (6u << 20)

static inline void copy_range(void *arg, uint64_t from, uint64_t to)
{
	static uint8_t buffer[1 << 18];
	const int *fds = arg;

	while (from < to) {
		size_t n = to - from < sizeof buffer ? to - from : sizeof buffer;
		CHECK(pread(fds[0], buffer, n, (off_t)from) == (ssize_t)n &&
			pwrite(fds[1], buffer, n, (off_t)from) == (ssize_t)n, "copy");
		from += n;
	}
}

/* As the file is now; holes stay holes. */
static inline int copy_of(int fd)
{
	int fds[2] = { fd, memfd_create("copy", MFD_CLOEXEC) };
	struct stat st;

	CHECK(fds[1] >= 0 && fstat(fd, &st) == 0 && ftruncate(fds[1], st.st_size) == 0, "copy");
	CHECK(tz_arena_find_populated(fd, (uint64_t)st.st_size, copy_range, fds) == 0, "copy");
	return fds[1];
}

/* Gives a copy of an arena a copy of its backing file, if it has one, of that path. */
static inline void copy_backing(int arena, const char *path)
{
	uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE], buffer[1 << 16];
	struct tz_arena_head head;
	struct stat st;
	char why[200];
	ssize_t n;

	CHECK(tz_arena_fetch_head(arena, copies, &head, why, sizeof why) == 0, "%s", why);
	if (!(head.incompatible & TZ_ARENA_BACKING))
		return;
	int from = open(head.backing_path, O_RDONLY),
	    to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(from >= 0 && to >= 0, "open");
	for (uint64_t at = 0; (n = pread(from, buffer, sizeof buffer, (off_t)at)) > 0;
		at += (uint64_t)n)
		CHECK(pwrite(to, buffer, (size_t)n, (off_t)at) == n, "copy");
	CHECK(fstat(to, &st) == 0, "fstat");
	close(from);
	close(to);
	head.backing_inode = st.st_ino;
	head.backing_device = st.st_dev;
	snprintf(head.backing_path, sizeof head.backing_path, "%s", path);
	head.crc = 0;
	memset(copies, 0, TZ_PAGE_SIZE);
	memcpy(copies, &head, sizeof head);
	head.crc = tz_crc32c(0, copies, TZ_PAGE_SIZE);
	memcpy(copies, &head, sizeof head);
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++)
		CHECK(pwrite(arena, copies, TZ_PAGE_SIZE, (off_t)(i * TZ_PAGE_SIZE)) ==
			(ssize_t)TZ_PAGE_SIZE, "head");
}

/* NULL store: refused, *err says why. `fd` stays open in any case. */
static inline struct device try_attach(int fd, unsigned threads, struct tz_attach *a, int *err)
{
	struct device d = { .threads = threads, .fd = fd };
	size_t len = (tz_stats_size(threads) + 4095) & ~(size_t)4095;
	char why[216] = "";

	d.stats = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(d.stats != MAP_FAILED && tz_stats_init(d.stats, len, threads) == 0, "stats");
	a->arena_fd = dup(fd);
	a->nr_threads = threads;
	a->stats = d.stats;
	d.store = tz_store_attach(a, err, why, sizeof why);
	CHECK(!d.store == (*err < 0) && !d.store == (why[0] != 0), "%d: %s", *err, why);
	if (!d.store)
		close(a->arena_fd);
	return d;
}

static inline struct device attach(int fd, unsigned threads, struct tz_attach *a)
{
	int err;
	struct device d = try_attach(fd, threads, a, &err);

	CHECK(d.store, "refused: %d", err);
	return d;
}

static inline void unmap_stats(struct device *d)
{
	munmap(d->stats, (tz_stats_size(d->threads) + 4095) & ~(size_t)4095);
}

static inline void end(struct device *d)
{
	end_device(d);
	unmap_stats(d);
}

static inline uint64_t problems_of(int fd, struct tz_check_problem *list, uint32_t room)
{
	struct tz_check c = { .problems = list, .room = room };
	char why[216];

	CHECK(tz_check_arena(fd, &c, why, sizeof why) == 0, "%s", why);
	return c.nr_problems;
}

/* ---- what is counted ---- */

/* The sums over queues that a store counts from the table. */
static inline void gauges(const struct tz_stats *stats, struct tz_queue_stats *out)
{
	*out = sum_of(stats).total;
	memset(out, 0, offsetof(struct tz_queue_stats, pages_now));
	memset(&out->read_lat, 0, sizeof *out - offsetof(struct tz_queue_stats, read_lat));
}

static inline int holds_nothing(const struct tz_stats *stats)
{
	struct tz_queue_stats q;

	gauges(stats, &q);
	return q.object_bytes_now == 0 && q.compr_bytes_now == 0 && q.dup_pages_now == 0;
}

#endif
