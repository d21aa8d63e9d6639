/* test_attach.c - a store that attaches an arena which another one has left.
 *
 * round trip: in order, and as if killed; twice in a row; statistics, settings, codecs, dictionary.
 *	Afterwards the device works as a new one does, and gives back all that it held.
 * refused: what is not to be attached is not changed.
 * damage: one to three flipped bits anywhere cost at most the pages they are in.
 * poisoned: entries that name what is not theirs read as errors and free nothing.
 * holes in the table: what is not in use of its segments has been given back.
 * leftovers: what a killed server has allocated and not used yet goes.
 * shared: objects that several pages have.
 * every store: a server is stopped before each store that it makes to the arena - while it writes,
 *	overwrites, discards, shares, grows, compacts, takes a page of the table away, changes
 *	settings. A copy of the arena is checked (tz_check_arena), attached and compared with what
 *	was written. The arena is mapped read-only for that: a store is a SIGSEGV, upon which it is
 *	let through alone (the trap flag: x86-64 only), under a lock. What the store's own threads
 *	do is among it.
 *
 * `time`: how long it takes for 1 GiB of pages, or as many as TRUEZRAM_TEST_PAGES says.
 */
#include "clock.h"
#include "device.h"
#include "store_impl.h"
#include "zdict.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <ucontext.h>

enum { PAGES = 320 };
#define FAR ((66ull << 30) / 4096)	/* beyond what the directory has from the start */

static unsigned share;

/* ---- pages ---- */

/* make_page's sequence; 0: zeros; a number from WORDS on: filled with that word; with SMALL, a page
 * that is mostly zeros. */
#define WORDS 0x80000000u
#define SMALL 0x40000000u
/* incompressible, and a part of it looks like the object of page 13 */
#define FORGED 0x20000000u
static const uint64_t words[] =
	{ 0x4141414141414141ull, 0x00007fffdeadbeefull, 0x8123456789abcdefull };

/* the same whatever page it is in */
#define COPY 0x10000000u

struct model {
	uint64_t first;		/* number of the first of them */
	uint32_t version[PAGES];
};

static void page_of(uint8_t *out, uint64_t n, uint32_t version)
{
	if (version < WORDS && version & COPY)
		n = 0;
	if (!version)
		memset(out, 0, 4096);
	else if (version >= WORDS)
		tz_fill(out, words[version - WORDS]);
	else
		make_page(out, n, 0, version);
	if (version >= WORDS)
		return;
	if (version & SMALL)
		memset(out + 160, 0, 4096 - 160);
	if (version & FORGED) {
		uint64_t state = n + version;
		for (unsigned i = 0; i < 512; i++)
			((uint64_t *)(void *)out)[i] = next(&state);
		memcpy(out + 64 + 4 - TZ_OBJECT_HEAD, &(uint32_t){ 13 }, 4);
	}
}

static void write_version(struct tz_store_thread *t, uint64_t n, uint32_t version)
{
	uint8_t page[4096] __attribute__((aligned(8)));

	page_of(page, n, version);
	CHECK(write_waiting(t, n, page) == 0, "write");
}

static void put(struct tz_store_thread *t, struct model *m, unsigned i, uint32_t version)
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
static int look(struct tz_store_thread *t, uint64_t n, uint32_t version)
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
static uint64_t stored(const struct model *m, uint64_t *same)
{
	uint64_t n = 0;

	*same = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		n += m->version[i] != 0;
		*same += m->version[i] >= WORDS;
	}
	return n;
}

static void fill(struct tz_store_thread *t, struct model *m)
{
	for (unsigned i = 0; i < PAGES; i++)
		if (i % 16 != 3)
			put(t, m, i, i % 16 < 3 ? WORDS + i % 16 : i % 16 < 8 ? SMALL + i : i + 1);
}

/* Reading them for the first time faults on none of the arena's pages. (ThreadSanitizer and
 * emulators do, by themselves.) */
static void check_faults(struct device *d, const struct model *m)
{
	struct rusage before, after;
	uint8_t out[4096];

	if (UNDER_TSAN || getenv("TRUEZRAM_TEST_EMULATED"))
		return;
	look(tz_store_thread(d->store, 0), m->first, 0);
	CHECK(getrusage(RUSAGE_THREAD, &before) == 0, "getrusage");
	for (unsigned i = 0; i < PAGES; i++) {
		tz_store_begin(tz_store_thread(d->store, 0));
		CHECK(tz_store_read(tz_store_thread(d->store, 0), m->first + i, out) == 0, "read");
		tz_store_end(tz_store_thread(d->store, 0));
	}
	CHECK(getrusage(RUSAGE_THREAD, &after) == 0, "getrusage");
	CHECK(after.ru_minflt - before.ru_minflt < 8, "%ld page faults",
		after.ru_minflt - before.ru_minflt);
}

static void compare(struct device *d, const struct model *m, const char *after)
{
	for (unsigned i = 0; i < PAGES; i++)
		CHECK(look(tz_store_thread(d->store, 0), m->first + i, m->version[i]) == 1,
			"page %llu after %s", (unsigned long long)m->first + i, after);
}

/* ---- arenas ---- */

/* Of devices that are copied often: their reserve is small, too. */
#define LIMIT (6u << 20)

static void copy_range(void *arg, uint64_t from, uint64_t to)
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
static int copy_of(int fd)
{
	int fds[2] = { fd, memfd_create("copy", MFD_CLOEXEC) };
	struct stat st;

	CHECK(fds[1] >= 0 && fstat(fd, &st) == 0 && ftruncate(fds[1], st.st_size) == 0, "copy");
	CHECK(tz_arena_find_populated(fd, (uint64_t)st.st_size, copy_range, fds) == 0, "copy");
	return fds[1];
}

static void flip_bit(int fd, uint64_t offset, unsigned bit)
{
	uint64_t word;

	CHECK(pread(fd, &word, 8, (off_t)offset) == 8, "read");
	word ^= 1ull << bit;
	CHECK(pwrite(fd, &word, 8, (off_t)offset) == 8, "write");
}

static uint64_t kernel_bytes(int fd)
{
	struct stat st;

	CHECK(fstat(fd, &st) == 0, "stat");
	return (uint64_t)st.st_blocks * 512;
}

/* NULL store: refused, *err says why. `fd` stays open in any case. */
static struct device try_attach(int fd, unsigned threads, struct tz_attach *a, int *err)
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

static struct device attach(int fd, unsigned threads, struct tz_attach *a)
{
	int err;
	struct device d = try_attach(fd, threads, a, &err);

	CHECK(d.store, "refused: %d", err);
	return d;
}

static void unmap_stats(struct device *d)
{
	munmap(d->stats, (tz_stats_size(d->threads) + 4095) & ~(size_t)4095);
}

static void end(struct device *d)
{
	end_device(d);
	unmap_stats(d);
}

static uint64_t problems_of(int fd, struct tz_check_problem *list, uint32_t room)
{
	struct tz_check c = { .problems = list, .room = room };
	char why[216];

	CHECK(tz_check_arena(fd, &c, why, sizeof why) == 0, "%s", why);
	return c.nr_problems;
}

static void zero_damage(const struct tz_attach *a)
{
	CHECK(a->nr_problems == 0 && a->lost == 0, "%llu problems, the first: %s",
		(unsigned long long)a->nr_problems, a->room ? a->problems[0].what : "");
}

/* ---- round trip ---- */

/* All of it anew, compacted, and discarded: nothing is kept. */
static void use_up(struct device *d, struct model *m, uint64_t fresh)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);
	uint64_t ticket;

	for (uint32_t turn = 0; turn < 3; turn++)
		for (unsigned i = 0; i < PAGES; i++)
			put(t, m, i, 1000 + turn * PAGES + i);
	compare(d, m, "writing all of it");
	for (unsigned i = 0; i < PAGES; i++)
		if (i % 4)
			put(t, m, i, 0);
	ticket = tz_store_compact(d->store);
	WAIT_FOR(NOW(d->stats->compact_done) >= ticket, "it is not compacted");
	compare(d, m, "compaction");
	check_accounting(d, PAGES / 4, 0);
	for (unsigned i = 0; i < PAGES; i++)
		put(t, m, i, 0);
	tz_store_compact(d->store);
	WAIT_FOR(arena_bytes(d->stats) <= fresh, "%llu bytes stay of %llu",
		(unsigned long long)arena_bytes(d->stats), (unsigned long long)fresh);
	check_accounting(d, 0, 0);
}

/* The sums over queues that a store counts from the table. */
static void gauges(const struct tz_stats *stats, struct tz_queue_stats *out)
{
	struct tz_stats_sum sum;
	const char *why;

	CHECK(tz_stats_read(stats, stats->size, &sum, &why) == 0, "%s", why);
	*out = sum.total;
	memset(out, 0, offsetof(struct tz_queue_stats, pages_now));
	memset(&out->read_lat, 0, sizeof *out - offsetof(struct tz_queue_stats, read_lat));
}

static int holds_nothing(const struct tz_stats *stats)
{
	struct tz_queue_stats q;

	gauges(stats, &q);
	return q.object_bytes_now == 0 && q.compr_bytes_now == 0 && q.dup_pages_now == 0;
}

static void test_round_trip(uint64_t first, unsigned threads)
{
	struct device d = make_device(first ? FAR + 65536 : 65536, 2, 64 << 20, "lz4");
	struct model m = { .first = first };
	struct tz_attach a = { .server_version = "2.0", .lock_arena = geteuid() == 0 };
	struct tz_queue_stats before, after;
	uint64_t same, n, fresh = d.fresh;
	int fd = d.fd, copy;

	fill(tz_store_thread(d.store, 0), &m);
	n = stored(&m, &same);
	gauges(d.stats, &before);
	copy = copy_of(fd);
	tz_store_destroy(d.store);
	for (uint64_t generation = 2; generation < 4; generation++) {
		d = attach(fd, threads, &a);
		zero_damage(&a);
		CHECK(a.was_stopped && a.generation == generation, "generation %llu",
			(unsigned long long)a.generation);
		check_faults(&d, &m);
		compare(&d, &m, "a server that has ended in order");
		gauges(d.stats, &after);
		CHECK(!memcmp(&before, &after, sizeof before), "counters differ");
		check_accounting(&d, n, same);
		CHECK(NOW(d.stats->disksize) == head_of(&d)->disksize &&
			NOW(d.stats->mem_limit) == 64 << 20 && !strcmp(d.stats->algorithm, "lz4") &&
			!strcmp(head_of(&d)->device.server_version, "2.0"), "settings");
		tz_store_destroy(d.store);
		unmap_stats(&d);
	}
	/* Killed: its reserve and all are as they were. */
	d = attach(copy, threads, &a);
	zero_damage(&a);
	CHECK(!a.was_stopped && a.generation == 2, "generation");
	compare(&d, &m, "a server that was killed");
	check_accounting(&d, n, same);
	if (first)		/* the page of the directory stays, as in any device */
		fresh += 4096;
	use_up(&d, &m, fresh);
	end(&d);
	close(fd);
}

/* Objects that pages share: counted once, and each page as one that has it. */
static void test_shared(void)
{
	struct device d = make_device(4096, 2, 64 << 20, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	struct tz_queue_stats before, after;
	char why[216];
	int copy;

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, COPY + (i % 3 ? SMALL : FORGED) + i % 100);
	gauges(d.stats, &before);
	CHECK(before.dup_pages_now > 100, "%lld duplicates", (long long)before.dup_pages_now);
	copy = copy_of(d.fd);
	end(&d);
	d = attach(copy, 1, &a);
	zero_damage(&a);
	compare(&d, &m, "sharing");
	gauges(d.stats, &after);
	CHECK(!memcmp(&before, &after, sizeof before), "counters differ");
	CHECK(NOW(d.stats->dedup) == 1, "dedup is off");
	check_accounting(&d, PAGES, 0);
	/* A page more, and some less: what is left is right, and all of it goes in the end. */
	t = tz_store_thread(d.store, 0);
	for (unsigned i = 0; i < 200; i++)
		put(t, &m, i, i % 2 ? 0 : COPY + FORGED + 7);
	compare(&d, &m, "sharing more");
	use_up(&d, &m, UINT64_MAX);
	WAIT_FOR(holds_nothing(d.stats), "objects stay");
	end(&d);
}

/* A shared object that is damaged costs the pages that share it, and frees nothing. */
static void test_shared_damage(void)
{
	struct device d = make_device(4096, 1, 64 << 20, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	char why[216];
	int copy;

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, COPY + FORGED + i % 40);
	copy = copy_of(d.fd);
	flip_bit(copy, (tz_entry_offset(load(entry_of(&d, 3))) + 64) & ~7ull, 5);
	tz_store_destroy(d.store);
	close(d.fd);
	unmap_stats(&d);
	d = attach(copy, 1, &a);
	CHECK(a.lost == PAGES / 40 && a.nr_problems == a.lost, "%llu lost",
		(unsigned long long)a.lost);
	for (unsigned i = 0; i < PAGES; i++)
		CHECK(look(tz_store_thread(d.store, 0), i, m.version[i]) == (i % 40 == 3 ? -1 : 1),
			"page %u", i);
	use_up(&d, &m, UINT64_MAX);
	end(&d);
}

/* A dead server's page of statistics: counters stay, gauges are counted anew. */
static void test_same_statistics(void)
{
	struct device d = make_device(4096, 1, 0, "lz4");
	struct model m = { 0 };
	struct tz_attach a = { .nr_threads = 1, .stats = d.stats };
	struct tz_queue_stats before, after, *q = tz_stats_queue(d.stats, 0);
	uint64_t same, n, written;
	char why[216];
	int err;

	fill(tz_store_thread(d.store, 0), &m);
	n = stored(&m, &same);
	gauges(d.stats, &before);
	written = q->pages_written;
	a.arena_fd = copy_of(d.fd);
	tz_store_destroy(d.store);
	close(d.fd);
	/* It has died in the middle of everything. */
	d.stats->seq |= 1;
	q->seq |= 1;
	q->pages_now += 5;
	d.fd = dup(a.arena_fd);
	d.store = tz_store_attach(&a, &err, why, sizeof why);
	CHECK(d.store, "%s", why);
	gauges(d.stats, &after);
	CHECK(!memcmp(&before, &after, sizeof before) && q->pages_written == written, "counters");
	check_accounting(&d, n, same);
	end(&d);
}

/* Objects of several codecs, while another one is in force. */
static void test_codecs(void)
{
	static const char *const names[] = { "zstd", "dense", "fast", "turbo", "auto", "lz4" };
	struct device d = make_device(4096, 2, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	char why[216];

	for (unsigned k = 0, i = 0; k < 6; k++) {
		if (tz_store_set_algorithm(d.store, names[k], why, sizeof why) < 0) {
			printf("%s: left out: %s\n", names[k], why);
			continue;
		}
		for (unsigned end_of = i + 40; i < end_of; i++)
			put(t, &m, i, SMALL + i + 1);
		int copy = copy_of(d.fd);
		struct device e = attach(copy, 2, &a);
		zero_damage(&a);
		CHECK(!strcmp(e.stats->algorithm, names[k]), "algorithm %s", e.stats->algorithm);
		compare(&e, &m, names[k]);
		compare(&e, &m, names[k]);
		put(tz_store_thread(e.store, 1), &(struct model){ 0 }, 300, 7);
		CHECK(look(tz_store_thread(e.store, 0), 300, 7) == 1, "a new page");
		end(&e);
	}
	end(&d);
}

static size_t train(void)
{
	static uint8_t pages[PAGES * 4096] __attribute__((aligned(8)));

	for (unsigned i = 0; i < PAGES; i++)
		page_of(pages + i * 4096, i, i % 2 ? SMALL + i : i);
	dictionary_size = train_on(dictionary, sizeof dictionary, pages, PAGES);
	return dictionary_size;
}

static void test_dictionary(void)
{
	struct tz_attach a = { 0 };
	struct model m = { 0 };
	char why[216];

	if (!train()) {
		puts("dictionary: left out: no libzstd, or one that cannot train");
		return;
	}
	struct device d = make_device(4096, 1, 0, "zstd:3"), e;
	dictionary_size = 0;
	for (unsigned i = 0; i < 100; i++)
		put(tz_store_thread(d.store, 0), &m, i, SMALL + i + 1);
	CHECK(tz_store_set_algorithm(d.store, "lz4", why, sizeof why) == 0, "%s", why);
	for (unsigned i = 100; i < 200; i++)
		put(tz_store_thread(d.store, 0), &m, i, SMALL + i + 1);
	int copy = copy_of(d.fd), damaged = copy_of(d.fd);
	end(&d);
	e = attach(copy, 1, &a);
	zero_damage(&a);
	compare(&e, &m, "attaching with a dictionary");
	CHECK(NOW(e.stats->dictionary_size), "the dictionary is gone");
	CHECK(tz_store_set_algorithm(e.store, "zstd", why, sizeof why) == 0, "%s", why);
	for (unsigned i = 200; i < 300; i++)
		put(tz_store_thread(e.store, 0), &m, i, SMALL + i + 1);
	compare(&e, &m, "using it again");
	end(&e);
	/* Damaged, it costs the pages that were compressed with it. */
	struct tz_check_problem first;
	CHECK(pwrite(damaged, "?", 1, TZ_DICTIONARY_OFFSET + 99) == 1, "damage");
	e = attach(damaged, 1, &a);
	CHECK(a.nr_problems == 1 && a.lost == 0, "%llu problems",
		(unsigned long long)a.nr_problems);
	for (unsigned i = 0; i < 200; i++) {
		int result = look(tz_store_thread(e.store, 0), i, m.version[i]);
		CHECK(result == (i < 100 ? -1 : 1), "page %u: %d", i, result);
	}
	CHECK(end_damaged_device(&e, &first) == 1, "the checker sees it otherwise");
	unmap_stats(&e);
}

/* ---- refused ---- */

static void set_head(int fd, unsigned copies, void (*edit)(struct tz_arena_head *h))
{
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++) {
		struct tz_arena_head *h;
		uint8_t page[4096] __attribute__((aligned(8)));
		CHECK(pread(fd, page, sizeof page, i * 4096) == 4096, "head");
		h = (void *)page;
		edit(h);
		h->crc = 0;
		h->crc = tz_crc32c(0, page, sizeof page);
		if (copies >> i & 1)
			CHECK(pwrite(fd, page, sizeof page, i * 4096) == 4096, "head");
	}
}

static void other_version(struct tz_arena_head *h) { h->version = 3; }
static void other_feature(struct tz_arena_head *h) { h->incompatible = 1ull << 40; }
static void being_made(struct tz_arena_head *h) { h->state = TZ_ARENA_MAKING; }
static void unknown_state(struct tz_arena_head *h) { h->state = 4; }
static void larger(struct tz_arena_head *h) { h->nr_segments++; }
static void no_disk(struct tz_arena_head *h) { h->disksize = 0; }
static void no_directory(struct tz_arena_head *h) { h->directory_offset += 4096; }
static void no_algorithm(struct tz_arena_head *h) { strcpy(h->algorithm, "none"); }
static void newer_version(struct tz_arena_head *h) { h->sequence += 100; h->version = 3; }

static void test_refused(void)
{
	static const struct { void (*edit)(struct tz_arena_head *h); unsigned copies; int err; }
	refused[] = {
		{ other_version, 3, -EPROTONOSUPPORT }, { other_feature, 3, -EPROTONOSUPPORT },
		{ being_made, 3, -EBUSY }, { unknown_state, 3, -EBUSY }, { larger, 3, -EILSEQ },
		{ no_disk, 3, -EILSEQ }, { no_directory, 3, -EILSEQ },
		{ no_algorithm, 3, -EINVAL },
		{ newer_version, 1, -EPROTONOSUPPORT }, { newer_version, 2, -EPROTONOSUPPORT },
	};
	struct device d = make_device(4096, 1, 0, "lz4");
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	int err;

	fill(tz_store_thread(d.store, 0), &m);
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++) {
		int copy = copy_of(d.fd), before;
		uint64_t size = (uint64_t)lseek(copy, 0, SEEK_END);
		set_head(copy, refused[i].copies, refused[i].edit);
		before = copy_of(copy);
		struct device e = try_attach(copy, 1, &a, &err);
		CHECK(!e.store && err == refused[i].err, "number %u: %d", i, err);
		unmap_stats(&e);
		void *x = mmap(NULL, size, PROT_READ, MAP_SHARED, copy, 0),
		     *y = mmap(NULL, size, PROT_READ, MAP_SHARED, before, 0);
		CHECK(kernel_bytes(copy) == kernel_bytes(before) && !memcmp(x, y, 8 << 20),
			"number %u was changed", i);
		munmap(x, size);
		munmap(y, size);
		close(copy);
		close(before);
	}
	/* One whole copy is enough, whichever it is. */
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++) {
		int copy = copy_of(d.fd);
		CHECK(pwrite(copy, "x", 1, i * 4096 + 190) == 1, "damage");
		struct device e = attach(copy, 1, &a);
		compare(&e, &m, "losing a copy of the head");
		end(&e);
	}
	end(&d);
}

/* ---- damage ---- */

struct flips { uint64_t pages; unsigned n; uint64_t page[3]; int heads; };

/* Where to flip, and which page of the model that may cost; PAGES: none. */
static uint64_t somewhere(const struct device *d, const struct model *m, uint64_t *state,
	uint64_t *page)
{
	unsigned what = (unsigned)(next(state) % 8), i = (unsigned)(next(state) % PAGES);
	uint64_t *at = entry_of(d, m->first + i), entry = load(at), base = (uintptr_t)head_of(d);

	*page = what < 2 ? PAGES : i;
	if (what == 0)
		return next(state) % (TZ_HEAD_COPIES * 512) * 8;
	if (what == 1)
		return (uintptr_t)directory_of(d, m->first + i) - base;
	if (what < 5 || !tz_entry_has_object(entry))
		return (uintptr_t)at - base;
	return (tz_entry_offset(entry) +
		next(state) % (TZ_OBJECT_HEAD + tz_entry_length(entry))) & ~7ull;
}

static void test_flips(unsigned rounds)
{
	struct device d = make_device(4096, 1, LIMIT, "fast");
	struct model m = { .first = 300 };
	struct tz_attach a = { 0 };
	uint64_t state = 7, lost = 0, refused = 0, right = 0;
	int err;

	fill(tz_store_thread(d.store, 0), &m);
	for (unsigned round = 0; round < rounds / share; round++) {
		int copy = copy_of(d.fd);
		uint64_t page[3] = { PAGES, PAGES, PAGES }, offset = 0;
		unsigned n = 1 + (unsigned)(next(&state) % 3);
		for (unsigned i = 0; i < n; i++) {
			if (i == 0 || next(&state) % 2)
				offset = somewhere(&d, &m, &state, &page[i]);
			flip_bit(copy, offset, (unsigned)(next(&state) % 64));
		}
		struct device e = try_attach(copy, 1, &a, &err);
		refused += !e.store;
		for (unsigned i = 0; e.store && i < PAGES; i++) {
			int result = look(tz_store_thread(e.store, 0), m.first + i, m.version[i]);
			CHECK(result, "round %u: wrong bytes in page %u", round, i);
			CHECK(result == 1 || i == page[0] || i == page[1] || i == page[2],
				"round %u: page %u is lost, too", round, i);
			lost += result < 0;
			right += result > 0;
		}
		/* What is written over damage does not cost another page anything either. */
		if (e.store && round % 8 == 0) {
			struct model all = m;
			use_up(&e, &all, e.fresh ? e.fresh : UINT64_MAX);
		}
		if (e.store)
			tz_store_destroy(e.store);
		unmap_stats(&e);
		close(copy);
	}
	printf("flips: %u arenas, %llu refused, %llu pages lost, %llu right\n", rounds / share,
		(unsigned long long)refused, (unsigned long long)lost, (unsigned long long)right);
	CHECK(refused < rounds / share / 50 && lost > rounds / share / 4, "hardly credible");
	end(&d);
}

/* ---- poisoned ---- */

static void set_entry(const struct device *d, uint64_t page, uint64_t data)
{
	__atomic_store_n(entry_of(d, page), tz_entry_seal(page, data & TZ_ENTRY_DATA),
		__ATOMIC_RELAXED);
}

/* Pages 10 and on name: another's object; a segment that is not there; the table; a part of page
 * 20, which is right by checksum and stays, though it comes later; an unknown kind; something
 * damaged. */
static void test_poisoned(void)
{
	struct device d = make_device(4096, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };
	struct tz_check_problem problems[16];
	struct tz_attach a = { .problems = problems, .room = 16 };
	uint64_t lz4 = TZ_KIND_LZ4 | 99ull << TZ_ENTRY_KIND_BITS, n, other, beyond;
	int copy;

	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, 5);
	put(t, &m, 20, FORGED + 1);
	other = load(entry_of(&d, 20));
	beyond = head_of(&d)->segment_offset + (head_of(&d)->nr_segments - 2) * TZ_SEGMENT_SIZE;
	CHECK(tz_entry_kind(other) == TZ_KIND_RAW, "page 20");
	set_entry(&d, 10, other);
	set_entry(&d, 11, lz4 | beyond / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT);
	set_entry(&d, 12, lz4 | (load(directory_of(&d, 0)) & TZ_ENTRY_OFFSET_MASK));
	set_entry(&d, 13, lz4 | (tz_entry_offset(other) + 64) / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT);
	set_entry(&d, 14, 17);
	*entry_of(&d, 15) ^= 1ull << 40;
	__atomic_store_n(entry_of(&d, 500), tz_entry_object(500, TZ_KIND_LZ4, 1 << 20, 9),
		__ATOMIC_RELAXED);
	copy = copy_of(d.fd);
	tz_store_destroy(d.store);
	close(d.fd);
	unmap_stats(&d);
	for (unsigned turn = 0; turn < 2; turn++) {
		d = attach(copy, 1, &a);
		t = tz_store_thread(d.store, 0);
		n = a.nr_problems;
		CHECK(turn ? n == 0 && a.lost == 0 && a.lost_before >= 7
			: n >= 7 && a.lost == n && a.lost_before == 0, "%llu problems, %llu lost",
			(unsigned long long)n, (unsigned long long)a.lost);
		for (unsigned i = 0; i < PAGES; i++) {
			int bad = i >= 10 && i < 16;
			CHECK(look(t, i, m.version[i]) == (bad ? -1 : 1), "page %u", i);
		}
		CHECK(look(t, 500, 1) == -1, "page 500");
		if (turn == 0) {
			for (uint64_t i = 0; i < n; i++)
				printf("poisoned: page %llu: %s\n",
					(unsigned long long)problems[i].page, problems[i].what);
			tz_store_destroy(d.store);
			unmap_stats(&d);
		}
	}
	for (unsigned i = 10; i < 16; i++)
		put(t, &m, i, i % 2 ? 0 : 6);
	tz_store_begin(t);
	tz_store_discard(t, 500);
	tz_store_end(t);
	compare(&d, &m, "overwriting what was poisoned");
	use_up(&d, &m, UINT64_MAX);
	end(&d);
}


/* ---- leftovers ---- */

/* A segment of the table has pages that have been given back: it is attached as it is, and what is
 * written next fills them. */
static void test_holes_in_the_table(void)
{
	enum { TABLES = 40, USED = 10, SPARE = 2 };
	struct device d = make_device(TABLES * TZ_TABLE_ENTRIES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t fixed = NOW(d.stats->table_bytes);
	struct tz_attach a = { 0 };
	int copy;

	tz_store_begin(t);
	for (uint32_t n = 0; n < USED; n++)
		write_version(t, n * TZ_TABLE_ENTRIES, n + 1);
	tz_store_end(t);
	WAIT_FOR(NOW(d.stats->table_bytes) == fixed + (USED + SPARE) * 4096, "%llu bytes of table",
		(unsigned long long)NOW(d.stats->table_bytes));
	copy = copy_of(d.fd);
	end(&d);
	d = attach(copy, 1, &a);
	zero_damage(&a);
	t = tz_store_thread(d.store, 0);
	check_accounting(&d, USED, 0);
	CHECK(NOW(d.stats->table_bytes) == fixed + (USED + SPARE) * 4096, "%llu bytes attached",
		(unsigned long long)NOW(d.stats->table_bytes));
	CHECK(kernel_bytes(copy) == arena_bytes(d.stats), "%llu bytes, counted %llu",
		(unsigned long long)kernel_bytes(copy), (unsigned long long)arena_bytes(d.stats));
	for (uint32_t n = USED; n < TABLES; n++) {
		tz_store_begin(t);
		write_version(t, n * TZ_TABLE_ENTRIES, n + 1);
		tz_store_end(t);
	}
	for (uint32_t n = 0; n < TABLES; n++)
		CHECK(look(t, n * TZ_TABLE_ENTRIES, n + 1) == 1, "page of table %u", n);
	WAIT_FOR(NOW(d.stats->table_bytes) == fixed + (TABLES + SPARE) * 4096, "%llu bytes of table",
		(unsigned long long)NOW(d.stats->table_bytes));
	end(&d);
}


/* What a killed server may have left: segments allocated and not mapped yet (of which SEEK_DATA
 * says nothing), a part of one, a page of the directory. */
static void test_leftovers(void)
{
	struct device d = make_device(FAR + 65536, 1, 0, "lz4");
	const struct tz_arena_head *h = head_of(&d);
	uint64_t segments = h->segment_offset, directory = h->directory_offset, before;
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	int copy;

	fill(tz_store_thread(d.store, 0), &m);
	copy = copy_of(d.fd);
	end(&d);
	before = kernel_bytes(copy);
	CHECK(fallocate(copy, 0, (off_t)(segments + 400ull * TZ_SEGMENT_SIZE),
		      4 * TZ_SEGMENT_SIZE) == 0 &&
		pwrite(copy, "x", 1, (off_t)(segments + 600ull * TZ_SEGMENT_SIZE)) == 1 &&
		fallocate(copy, 0, (off_t)(directory + 65 * 4096), 4096) == 0 &&
		kernel_bytes(copy) > before + 4 * TZ_SEGMENT_SIZE, "leftovers");
	d = attach(copy, 1, &a);
	zero_damage(&a);
	uint64_t same, n = stored(&m, &same);
	check_accounting(&d, n, same);
	CHECK(kernel_bytes(copy) == arena_bytes(d.stats), "%llu bytes, counted %llu",
		(unsigned long long)kernel_bytes(copy), (unsigned long long)arena_bytes(d.stats));
	use_up(&d, &m, UINT64_MAX);
	end(&d);
}

/* ---- every store ---- */

#if defined(CAN_STEP)
#elif defined(__x86_64__) && !UNDER_TSAN
#define CAN_STEP 1
#else
#define CAN_STEP 0
#endif

static struct {
	uint8_t *base;		/* of the arena that is watched; NULL: none is */
	uint64_t size;
	int fd;
	pthread_mutex_t one;		/* at a time */
	/* what it must hold: one page may be of either version */
	struct model model;
	unsigned flying;		/* PAGES: none; more: one that is not among them */
	uint32_t version;
	const char *algorithm, *other_algorithm, *doing;
	uint64_t limit, other_limit;
	uint64_t others;		/* same-filled pages that are not in the model */
	uint64_t stops, grown, shrunk;
} watch = { .one = PTHREAD_MUTEX_INITIALIZER };

/* A copy of the arena as it is at this instant. */
static void check_copy(void)
{
	int copy = copy_of(watch.fd);
	struct tz_check_problem first[2] = { 0 };
	struct tz_attach a = { .problems = first, .room = 1 };
	uint64_t n = problems_of(copy, first, 2);
	int result;

	/* (One copy of the head may be half written.) */
	CHECK(n == 0 || (n == 1 && strstr(first[0].what, "of the head is damaged")),
		"%s, stop %llu: page %llu: %s", watch.doing, (unsigned long long)watch.stops,
		(unsigned long long)first[0].page, first[0].what);
	struct device e = attach(copy, 1, &a);
	CHECK(a.nr_problems == 0 && a.lost == 0 && a.lost_before == 0, "%s, stop %llu: %s",
		watch.doing, (unsigned long long)watch.stops, first[0].what);
	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t page = watch.model.first + i;
		result = look(tz_store_thread(e.store, 0), page, watch.model.version[i]);
		if (result != 1 && i == watch.flying)
			result = look(tz_store_thread(e.store, 0), page, watch.version);
		CHECK(result == 1, "%s, stop %llu: page %llu: %d", watch.doing,
			(unsigned long long)watch.stops, (unsigned long long)page, result);
	}
	CHECK(!strcmp(e.stats->algorithm, watch.algorithm) ||
		!strcmp(e.stats->algorithm, watch.other_algorithm), "algorithm %s",
		e.stats->algorithm);
	CHECK(NOW(e.stats->mem_limit) == watch.limit ||
		NOW(e.stats->mem_limit) == watch.other_limit, "mem_limit");
	if (watch.stops % 256 == 0) {		/* it works as any other */
		uint64_t same, pages;
		put(tz_store_thread(e.store, 0), &watch.model, 0, watch.model.version[0]);
		pages = stored(&watch.model, &same);
		if (watch.flying == PAGES)
			check_accounting(&e, pages + watch.others, same + watch.others);
		for (unsigned i = 0; i < PAGES; i++)
			tz_store_discard(tz_store_thread(e.store, 0), watch.model.first + i);
		if (watch.flying <= PAGES)
			check_accounting(&e, watch.others, watch.others);
		/* (The housekeeper may be at work on shared objects.) */
		WAIT_FOR(holds_nothing(e.stats), "%s: objects stay", watch.doing);
	}
	end(&e);
	watch.stops++;
}

#if CAN_STEP

/* All of that happens in a thread of its own: the one that was stopped may be on a small stack. */
static struct { _Atomic uint32_t asked, done; int stop; pthread_t thread; } checker;

static void *run_checker(void *arg)
{
	uint32_t done = 0;

	(void)arg;
	for (;;) {
		while (atomic_load(&checker.asked) == done)
			tz_futex(&checker.asked, FUTEX_WAIT_PRIVATE, done, NULL);
		if (checker.stop)
			return NULL;
		check_copy();
		atomic_store(&checker.done, ++done);
		tz_futex(&checker.done, FUTEX_WAKE_PRIVATE, 1, NULL);
	}
}

static void wake_checker(void)
{
	atomic_fetch_add(&checker.asked, 1);
	tz_futex(&checker.asked, FUTEX_WAKE_PRIVATE, 1, NULL);
}

/* With watch.one held. */
static void stop_here(void)
{
	uint32_t done = atomic_load(&checker.done);

	wake_checker();
	while (atomic_load(&checker.done) == done)
		tz_futex(&checker.done, FUTEX_WAIT_PRIVATE, done, NULL);
}

static void protect(uint64_t offset, uint64_t len, int prot)
{
	CHECK(mprotect(watch.base + offset, len, prot) == 0, "mprotect");
}

#define TRAP_FLAG 0x100

/* pages that this thread's store needs */
static _Thread_local struct { unsigned n; uint64_t page[4]; } opened;

static void on_segv(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;
	uint64_t offset = (uint64_t)((uint8_t *)info->si_addr - watch.base);

	if (!watch.base || offset >= watch.size || opened.n == 4) {
		sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
		return;		/* an ordinary one: once more, and it ends the test */
	}
	if (!opened.n) {
		pthread_mutex_lock(&watch.one);
		stop_here();
	}
	opened.page[opened.n] = offset & ~4095ull;
	protect(opened.page[opened.n++], 4096, PROT_READ | PROT_WRITE);
	c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;

	(void)signal;
	(void)info;
	while (opened.n)
		protect(opened.page[--opened.n], 4096, PROT_READ);
	c->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	pthread_mutex_unlock(&watch.one);
}

static void watch_it(const struct device *d, const char *doing)
{
	struct tz_range r = tz_store_arena(d->store);

	watch.doing = doing;
	watch.size = r.to - r.from;
	watch.base = (uint8_t *)r.from;
	protect(0, watch.size, PROT_READ);
}

/* After everything that was to be done is done. */
static void stop_watching(unsigned least)
{
	static uint64_t before;

	pthread_mutex_lock(&watch.one);
	stop_here();
	protect(0, watch.size, PROT_READ | PROT_WRITE);
	watch.base = NULL;
	pthread_mutex_unlock(&watch.one);
	printf("%s: %llu stops\n", watch.doing, (unsigned long long)(watch.stops - before));
	CHECK(watch.stops - before > least, "it was not watched");
	before = watch.stops;
}
#else
static void stop_here(void) { check_copy(); }
static void protect(uint64_t offset, uint64_t len, int prot)
{
	(void)offset;
	(void)len;
	(void)prot;
}
#endif

/* The kernel does not write to what is read-only. */
int __real_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len);
int __real_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);
int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len);

static int in_one_step(struct tz_arena *a, uint64_t offset, uint64_t len,
	int (*step)(struct tz_arena *a, uint64_t offset, uint64_t len), uint64_t *count)
{
	int rc;

	if (a->base != watch.base)
		return step(a, offset, len);
	pthread_mutex_lock(&watch.one);
	protect(offset, len, PROT_READ | PROT_WRITE);
	stop_here();
	rc = step(a, offset, len);
	protect(offset, len, PROT_READ);
	stop_here();
	++*count;
	pthread_mutex_unlock(&watch.one);
	return rc;
}

int __wrap_tz_arena_populate(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	return in_one_step(a, offset, len, __real_tz_arena_populate, &watch.grown);
}

int __wrap_tz_arena_release(struct tz_arena *a, uint64_t offset, uint64_t len)
{
	return in_one_step(a, offset, len, __real_tz_arena_release, &watch.shrunk);
}

#if CAN_STEP
/* A write or discard under watch. */
static void change(struct tz_store_thread *t, unsigned i, uint32_t version)
{
	watch.version = version;
	watch.flying = i;
	put(t, &(struct model){ .first = watch.model.first }, i, version);
	pthread_mutex_lock(&watch.one);
	watch.model.version[i] = version;
	watch.flying = PAGES;
	pthread_mutex_unlock(&watch.one);
}

/* glibc's memset is one instruction of 4096 steps for a page of the table otherwise. */
static void step_by_vectors(void)
{
	static const char tunables[] =
		"glibc.cpu.x86_rep_movsb_threshold=1000000:"
		"glibc.cpu.x86_rep_stosb_threshold=1000000";

	if (getenv("GLIBC_TUNABLES"))
		return;
	setenv("GLIBC_TUNABLES", tunables, 1);
	execl("/proc/self/exe", "test_attach", NULL);
}

static void start_checker(void)
{
	struct sigaction segv = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER },
		trap = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };

	CHECK(sigaction(SIGSEGV, &segv, NULL) == 0 && sigaction(SIGTRAP, &trap, NULL) == 0 &&
		pthread_create(&checker.thread, NULL, run_checker, NULL) == 0, "start");
}

static void end_checker(void)
{
	checker.stop = 1;
	wake_checker();
	pthread_join(checker.thread, NULL);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGTRAP, SIG_DFL);
}

static void watch_writes(struct device *d, struct tz_store_thread *t)
{
	watch_it(d, "write");
	change(t, 200, SMALL + 1);
	change(t, 201, WORDS);
	change(t, 202, WORDS + 2);		/* a word that takes an object */
	change(t, 203, FORGED);
	stop_watching(10);
	watch_it(d, "overwrite");
	change(t, 200, SMALL + 2);
	change(t, 201, 3);
	change(t, 202, SMALL + 4);
	change(t, 5, WORDS + 1);
	stop_watching(20);
	watch_it(d, "discard");
	for (unsigned i = 0; i < 10; i++)
		change(t, i, 0);
	stop_watching(5);
}

/* Segments, until the reserve's thread populates some. */
static void watch_growth(struct device *d, struct tz_store_thread *t)
{
	uint64_t low = NOW(d->stats->reserve_target) / TZ_SEGMENT_SIZE * 3 / 4 * TZ_SEGMENT_SIZE;
	uint64_t grown = NOW(watch.grown);
	unsigned i = 20, in_segment = 0;

	/* (31 of these pages fit into one.) */
	while (in_segment < 28 || NOW(d->stats->reserve_bytes) > low) {
		uint64_t before = NOW(d->stats->reserve_bytes);
		put(t, &watch.model, i, FORGED + i);
		in_segment = NOW(d->stats->reserve_bytes) < before ? 1 : in_segment + 1;
		CHECK(++i < PAGES - 20, "the reserve does not get smaller");
	}
	watch_it(d, "new segment");
	for (unsigned n = 0; n < 8 && NOW(watch.grown) == grown; n++) {
		change(t, i + n, FORGED + 1000 + n);
		if (NOW(d->stats->reserve_bytes) < low)
			WAIT_FOR(NOW(watch.grown) > grown, "the reserve is not filled");
	}
	CHECK(NOW(watch.grown) > grown, "nothing was populated");
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	stop_watching(50);
}

/* The model's pages are on both sides of the boundary of two pages of the directory, and of the
 * table. */
static void watch_table(struct device *d, struct tz_store_thread *t)
{
	uint64_t ticket;

	CHECK(!tz_arena_directory_ready(&d->store->arena, (watch.model.first + PAGES - 1) /
		TZ_TABLE_ENTRIES), "it is there already");
	watch_it(d, "new page of the table and the directory");
	change(t, PAGES - 1, SMALL + 9);
	stop_watching(40);
	CHECK(load(directory_of(d, watch.model.first + PAGES - 1)), "there is none");
	watch_it(d, "page of the table taken away");
	change(t, PAGES - 1, 0);
	ticket = tz_store_compact(d->store);
	WAIT_FOR(NOW(d->stats->compact_done) >= ticket, "it is not done");
	stop_watching(3);
	CHECK(!load(directory_of(d, watch.model.first + PAGES - 1)), "it is still there");
}

/* A page of the table in a segment that has held objects. */
static void watch_used_segment(struct device *d, struct tz_store_thread *t)
{
	struct model other = { 0 }, dirt = { .first = 1000 };
	uint64_t before;
	unsigned i, n;

	for (i = 0; atomic_load(&d->store->alloc.table_pages) % TZ_TABLE_PAGES; i++)
		put(t, &(struct model){ .first = (100 + i) * TZ_TABLE_ENTRIES }, 0, WORDS);
	watch.others = i;
	/* (1000 is in a page of the table of its own.) */
	before = NOW(d->stats->segment_bytes);
	for (n = 0; NOW(d->stats->segment_bytes) < before + 2 * TZ_SEGMENT_SIZE; n++)
		put(t, &dirt, n, FORGED + n);
	while (n--)
		put(t, &dirt, n, 0);
	while (atomic_load(&d->store->alloc.table_pages) % TZ_TABLE_PAGES)
		put(t, &(struct model){ .first = (100 + i++) * TZ_TABLE_ENTRIES }, 0, WORDS);
	watch.others = i;
	before = NOW(d->stats->table_bytes);
	watch_it(d, "page of the table in a used segment");
	watch.flying = PAGES + 1;
	other.first = (100 + i++) * TZ_TABLE_ENTRIES;
	put(t, &other, 0, WORDS);
	watch.others = i;
	watch.flying = PAGES;
	stop_watching(40);
	CHECK(NOW(d->stats->table_bytes) > before, "there was room in another");
}

static void watch_compaction(struct device *d, struct tz_store_thread *t)
{
	uint64_t ticket, before;

	for (unsigned i = 0; i < PAGES - 60; i++)
		put(t, &watch.model, i, i % 8 == 0 ? SMALL + i : FORGED + i);
	before = NOW(d->stats->pages_compacted);
	watch_it(d, "compaction");
	for (unsigned i = 0; i < PAGES - 60; i++)
		if (i % 8)
			change(t, i, 0);
	ticket = tz_store_compact(d->store);
	WAIT_FOR(NOW(d->stats->compact_done) >= ticket, "it is not done");
	stop_watching(250);
	CHECK(NOW(d->stats->pages_compacted) > before, "nothing was compacted");
	CHECK(watch.shrunk, "nothing was given back");
}

static void watch_settings(struct device *d)
{
	char why[216];

	watch.other_algorithm = "fast";
	watch_it(d, "algorithm");
	CHECK(tz_store_set_algorithm(d->store, "fast", why, sizeof why) == 0, "%s", why);
	watch.algorithm = "fast";
	stop_watching(20);
	watch.other_limit = LIMIT + (1 << 20);
	watch_it(d, "mem_limit");
	CHECK(tz_store_set_mem_limit(d->store, watch.other_limit, why, sizeof why) == 0, "%s", why);
	watch.limit = watch.other_limit;
	stop_watching(20);
}

static void begin(const struct device *d, uint64_t first)
{
	watch.fd = d->fd;
	watch.model = (struct model){ .first = first };
	watch.algorithm = watch.other_algorithm = "lz4";
	watch.limit = watch.other_limit = LIMIT;
	watch.flying = PAGES;
	watch.others = 0;
}

/* Pages that share objects: one more, one less, none; and the housekeeper moves what is left. */
static void watch_dedup(void)
{
	struct device d = make_device(4096, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t ticket, before;
	char why[216];

	begin(&d, 0);
	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	put(t, &watch.model, 300, COPY + SMALL);
	watch_it(&d, "dedup");
	change(t, 301, COPY + SMALL);
	change(t, 302, COPY + SMALL);
	change(t, 300, SMALL + 3);
	change(t, 301, 0);
	change(t, 302, COPY + SMALL + 1);
	stop_watching(20);
	for (unsigned i = 0; i < 270; i++)
		put(t, &watch.model, i, COPY + FORGED + i / 2);
	before = NOW(d.stats->segment_bytes);
	watch_it(&d, "compaction of shared objects");
	for (unsigned i = 0; i < 270; i++)
		if (i / 2 % 64)
			change(t, i, 0);
	ticket = tz_store_compact(d.store);
	WAIT_FOR(NOW(d.stats->compact_done) >= ticket, "it is not done");
	stop_watching(250);
	CHECK(NOW(d.stats->segment_bytes) + 3 * TZ_SEGMENT_SIZE <= before, "it is not compacted");
	compare(&d, &watch.model, "all of it");
	end(&d);
}

static void test_every_store(void)
{
	struct device d = make_device(FAR + 65536, 1, LIMIT, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t boundary = 65ull * TZ_DIRECTORY_ENTRIES * TZ_TABLE_ENTRIES;

	begin(&d, boundary - PAGES + 1);
	start_checker();
	for (unsigned i = 0; i < 200; i++)
		put(t, &watch.model, i, i % 16 == 3 ? WORDS + i % 3 : SMALL + i);
	watch_writes(&d, t);
	watch_table(&d, t);
	watch_used_segment(&d, t);
	watch_growth(&d, t);
	watch_compaction(&d, t);
	watch_settings(&d);
	compare(&d, &watch.model, "all of it");
	end(&d);
	watch_dedup();
	printf("every store: %llu stops\n", (unsigned long long)watch.stops);
	end_checker();
}
#endif

/* ---- time ---- */

static void measure(void)
{
	const char *text = getenv("TRUEZRAM_TEST_PAGES");
	uint64_t n = text ? strtoull(text, NULL, 10) : (1ull << 30) / 4096, start, end_ns;
	struct device d = make_device(n, 1, 0, "lz4"), e;
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_attach a = { .lock_arena = geteuid() == 0 };

	for (uint64_t i = 0; i < n; i++) {
		tz_store_begin(t);
		write_version(t, i, (uint32_t)i + 1 < FORGED ? (uint32_t)i + 1 : 1);
		tz_store_end(t);
	}
	uint64_t bytes = arena_bytes(d.stats);
	int fd = d.fd;
	tz_store_destroy(d.store);
	for (unsigned turn = 0; turn < 3; turn++) {
		start = tz_now_ns();
		e = attach(fd, 1, &a);
		end_ns = tz_now_ns();
		zero_damage(&a);
		printf("%llu pages in %llu MiB attached in %.1f ms\n", (unsigned long long)n,
			(unsigned long long)(bytes >> 20), (double)(end_ns - start) / 1e6);
		tz_store_destroy(e.store);
	}
}

int main(int argc, char **argv)
{
	share = share_of_work();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "time")) {
		measure();
		return 0;
	}
#if CAN_STEP
	if (!getenv("TRUEZRAM_TEST_EMULATED")) {
		step_by_vectors();
		test_every_store();
	} else {
		puts("every store: left out: an emulator does not step");
	}
#else
	puts("every store: left out: it takes x86-64's trap flag, and no ThreadSanitizer");
#endif
	test_round_trip(0, 2);
	test_round_trip(0, 5);
	test_round_trip(FAR, 1);
	test_shared();
	test_shared_damage();
	test_same_statistics();
	test_codecs();
	test_dictionary();
	test_refused();
	test_poisoned();
	test_holes_in_the_table();
	test_leftovers();
	test_flips(2500);
	puts("attach: all right");
	return 0;
}
