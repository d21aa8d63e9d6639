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
 *
 * (A server that is stopped before each store to the arena: test_attach_stores.c.)
 *
 * `time`: how long it takes for 1 GiB of pages, or as many as TRUEZRAM_TEST_PAGES says.
 */
#include "attach_pages.h"
#include "clock.h"
#include "zdict.h"

#include <fcntl.h>
#include <sys/resource.h>

static unsigned share;

/* ---- pages and arenas ---- */

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

/* Not under an emulator, which may have no mlock2. */
static int can_lock(void)
{
	return geteuid() == 0 && !getenv("TRUEZRAM_TEST_EMULATED");
}

static void test_round_trip(uint64_t first, unsigned threads)
{
	struct device d = make_device(first ? FAR + 65536 : 65536, 2, 64 << 20, "lz4");
	struct model m = { .first = first };
	struct tz_attach a = { .server_version = "2.0", .lock_arena = can_lock() };
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

/* As put: a page that is like another one shares its object, which needs room in the reserve. */
static void put_shared(struct device *d, struct model *m, unsigned i, uint32_t version)
{
	wait_for_reserve(d);
	put(tz_store_thread(d->store, 0), m, i, version);
}

/* Objects that pages share: counted once, and each page as one that has it. */
static void test_shared(void)
{
	struct device d = make_device(4096, 2, 64 << 20, "lz4");
	struct tz_store_thread *t;
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	struct tz_queue_stats before, after;
	char why[216];
	int copy;

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++)
		put_shared(&d, &m, i, COPY + (i % 3 ? SMALL : FORGED) + i % 100);
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
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	char why[216];
	int copy;

	CHECK(tz_store_set_dedup(d.store, 1, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++)
		put_shared(&d, &m, i, COPY + FORGED + i % 40);
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
	flip(entry_of(&d, 15), 40);
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
	/* (The reserve's thread may be giving back what is too much.) */
	WAIT_FOR(kernel_bytes(copy) == arena_bytes(d.stats), "%llu bytes, counted %llu",
		(unsigned long long)kernel_bytes(copy), (unsigned long long)arena_bytes(d.stats));
	for (uint32_t n = USED; n < TABLES; n++) {
		tz_store_begin(t);
		write_version(t, n * TZ_TABLE_ENTRIES, n + 1);
		tz_store_end(t);
	}
	for (uint32_t n = 0; n < TABLES; n++)
		CHECK(look(t, n * TZ_TABLE_ENTRIES, n + 1) == 1, "page of table %u", n);
	WAIT_FOR(NOW(d.stats->table_bytes) == fixed + (TABLES + SPARE) * 4096,
		"%llu bytes of table", (unsigned long long)NOW(d.stats->table_bytes));
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
	/* (The reserve's thread may be giving back what is too much.) */
	WAIT_FOR(kernel_bytes(copy) == arena_bytes(d.stats), "%llu bytes, counted %llu",
		(unsigned long long)kernel_bytes(copy), (unsigned long long)arena_bytes(d.stats));
	use_up(&d, &m, UINT64_MAX);
	end(&d);
}

/* ---- time ---- */

static void measure(void)
{
	const char *text = getenv("TRUEZRAM_TEST_PAGES");
	uint64_t n = text ? strtoull(text, NULL, 10) : (1ull << 30) / 4096, start, end_ns;
	struct device d = make_device(n, 1, 0, "lz4"), e;
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_attach a = { .lock_arena = can_lock() };

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
	if (getenv("TRUEZRAM_TEST_EMULATED") && !populates()) {
		puts("attach: left out: the emulator does not populate memory");
		return 77;
	}
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
