/* test_backing.c - pages on the backing file.
 *
 * back: pages go there, take no memory any more, and read the same; read twice they come back; what
 *	is written or discarded gives its room back, and the file gets it.
 * groups: as a whole, if all of their members are old.
 * budgets: bytes a day, also in the next server; a second.
 * full, failing: a file that is full, cut short, removed, or cannot be written: nothing is written
 *	any more, all that is stored is still right or an error.
 * flips: every bit of an entry, and bits of the file: EIO for that page alone, never wrong bytes.
 * attached: another server reads it; not if it is another file, another device's, or a copy.
 * none: it goes when nothing is on it; all can be asked back.
 * defer: who must not wait has it read; and reads from the wrong place, short or failed.
 * huge: sooner than others, when a policy has it so.
 * policy: by itself.
 * threads: writers, readers, discards beside writing back and asking back.
 */
#include "attach_pages.h"
#include "clock.h"
#include "counts.h"
#include "store_impl.h"

#include <fcntl.h>

#define MANY 2048u

static char path[64];
static unsigned share;

static uint64_t backed(const struct device *d)
{
	return (uint64_t)sum_of(d->stats).total.kind_pages_now[TZ_KIND_BACKED];
}

static int is_backed(const struct device *d, uint64_t page)
{
	return tz_entry_is_backed(load(entry_of(d, page)));
}

static void set_file(struct device *d, uint64_t limit)
{
	char why[216] = "";

	CHECK(tz_store_set_backing(d->store, path, limit, why, sizeof why) == 0, "%s", why);
	CHECK(NOW(d->stats->backing_state) == TZ_BACKING_READY, "state %llu",
		(unsigned long long)NOW(d->stats->backing_state));
	CHECK(head_of(d)->incompatible & TZ_ARENA_BACKING, "the head does not say so");
}

static struct device make(uint64_t pages, uint64_t limit)
{
	struct device d = make_device(pages, 2, 0, "fast");

	unlink(path);
	set_file(&d, limit);
	return d;
}

static void run(struct device *d, const char *to, uint64_t idle_ns)
{
	char why[216] = "";
	int err;
	uint64_t least;
	struct tz_recompression *job = tz_store_prepare_recompress(
		d->store, to, idle_ns, 100, &err, why, sizeof why);

	CHECK(job, "%s: %d %s", to, err, why);
	uint64_t ticket = tz_store_recompress(d->store, job, &least);
	WAIT_FOR(NOW(d->stats->recompress_done) >= ticket, "it does not end");
}

static void refused(struct device *d, const char *to)
{
	char why[216] = "";
	int err;

	CHECK(!tz_store_prepare_recompress(d->store, to, 0, 100, &err, why, sizeof why) && *why,
		"it is not refused");
}

static void end_file(struct device *d)
{
	struct tz_check_problem first = { 0 };
	struct tz_check c = { .problems = &first, .room = 1 };
	char why[216];

	c.backing_fd = open(path, O_RDONLY);
	tz_store_destroy(d->store);
	CHECK(tz_check_arena(d->fd, &c, why, sizeof why) == 0, "%s", why);
	CHECK(c.nr_problems == 0, "page %llu: %s", (unsigned long long)first.page, first.what);
	close(c.backing_fd);
	close(d->fd);
	unmap_stats(d);
}

static void fill(struct device *d, struct model *m, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put(tz_store_thread(d->store, 0), m, i, i % 16 == 3 ? WORDS + i / 16 % 2
			: i % 16 == 5 ? FORGED + i : ALIKE_SMALL + i);
}

static uint64_t on_disk(void)
{
	struct stat st;

	CHECK(stat(path, &st) == 0, "stat");
	return (uint64_t)st.st_blocks * 512;
}

/* ---- there and back ---- */

static void test_back(void)
{
	struct device d = make(PAGES, 0);
	struct model m = { 0 };
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t memory, n;

	fill(&d, &m, PAGES);
	memory = (uint64_t)sum_of(d.stats).total.object_bytes_now;
	run(&d, "backing", 0);
	n = backed(&d);
	CHECK(n >= PAGES * 9 / 10, "%llu pages are there", (unsigned long long)n);
	CHECK(NOW(d.stats->backing.pages) == n, "they are not counted");
	CHECK((uint64_t)sum_of(d.stats).total.object_bytes_now +
		NOW(d.stats->backing.saved) == memory,
		"what is saved");
	CHECK(NOW(d.stats->backing_used) && on_disk() >= NOW(d.stats->backing_day_bytes),
		"what is used");
	check_counts(&d);
	compare(&d, &m, "being written back");
	CHECK(backed(&d) == n, "read once, they have come back");
	wait_for_reserve(&d);		/* what comes back needs room */
	compare(&d, &m, "being read once");
	CHECK(backed(&d) == 0 && sum_of(d.stats).total.backing_returned == n,
		"read twice, %llu stay",
		(unsigned long long)backed(&d));
	CHECK((uint64_t)sum_of(d.stats).total.object_bytes_now == memory, "they take other room");
	compare(&d, &m, "having come back");
	WAIT_FOR(NOW(d.stats->backing_used) == 0 && on_disk() <= TZ_BACKING_CHUNK,
		"the file has %llu bytes", (unsigned long long)on_disk());
	run(&d, "backing", 0);
	check_counts(&d);
	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, i % 2 ? 0 : 100 + i);
	CHECK(backed(&d) == 0, "they are still there");
	compare(&d, &m, "overwriting");
	WAIT_FOR(NOW(d.stats->backing_used) == 0, "chunks are not given back");
	run(&d, "backing", 0);
	check_counts(&d);
	run(&d, "memory", 0);
	CHECK(backed(&d) == 0, "asked back, %llu stay", (unsigned long long)backed(&d));
	compare(&d, &m, "asking back");
	run(&d, "backing", 0);
	end_file(&d);
}

static void make_old(struct device *d, unsigned n, unsigned age)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t *entry = entry_of(d, i);
		if (tz_entry_has_object(load(entry)))
			put_word(entry, tz_entry_aged(i, load(entry), age));
	}
}

/* Only pages that have been left alone for so long. */
static void test_old(void)
{
	struct device d = make(PAGES, 0);
	struct model m = { 0 };

	fill(&d, &m, PAGES);
	run(&d, "backing", 3600ull * 1000000000u);
	CHECK(backed(&d) == 0, "young ones are there");
	make_old(&d, PAGES, 4);
	CHECK(look(tz_store_thread(d.store, 0), 8, m.version[8]) == 1, "read");
	run(&d, "backing", 600ull * 1000000000u);
	CHECK(!is_backed(&d, 8), "what was read just now is there");
	CHECK(backed(&d) >= PAGES * 9 / 10 - 1, "%llu are there", (unsigned long long)backed(&d));
	compare(&d, &m, "old ones going");
	end_file(&d);
}

static void test_huge(void)
{
	struct device d = make(PAGES, 0);
	struct model m = { 0 };
	char why[216];
	int err;
	uint64_t least;

	fill(&d, &m, PAGES);
	make_old(&d, PAGES, 4);
	struct tz_recompression *job = tz_store_prepare_recompress(d.store, "backing",
		72000ull * 1000000000u, 100, &err, why, sizeof why);
	CHECK(job, "%s", why);
	job->huge_ns = 600ull * 1000000000u;
	uint64_t ticket = tz_store_recompress(d.store, job, &least);
	WAIT_FOR(NOW(d.stats->recompress_done) >= ticket, "it does not end");
	for (unsigned i = 0; i < PAGES; i++)
		CHECK(is_backed(&d, i) == (i % 16 == 5), "page %u", i);
	compare(&d, &m, "huge ones going");
	end_file(&d);
}

static void test_groups(void)
{
	struct device d;
	struct model m = { 0 };
	char why[216];

	if (!tz_zstd_version())
		return;
	d = make(PAGES, 0);
	CHECK(tz_store_set_groups(d.store, why, sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(d.store, 0), &m, i, ALIKE + i + 1);
	WAIT_FOR(atomic_load(&d.store->alloc.reserve_count) > 2, "the reserve is not filled");
	uint64_t ticket = tz_store_pack(d.store, 0, PAGES);
	WAIT_FOR(tz_store_packed(d.store) >= ticket, "packing does not end");
	uint64_t grouped = (uint64_t)sum_of(d.stats).total.kind_pages_now[TZ_KIND_GROUP];
	CHECK(grouped > PAGES / 2, "%llu in groups", (unsigned long long)grouped);
	uint64_t bytes = (uint64_t)sum_of(d.stats).total.object_bytes_now;
	run(&d, "backing", 0);
	CHECK(backed(&d) == PAGES && sum_of(d.stats).total.object_bytes_now == 0, "%llu are there",
		(unsigned long long)backed(&d));
	CHECK(NOW(d.stats->backing_written) < bytes + 3 * TZ_BACKING_CHUNK,
		"%llu bytes were written, %llu taken",
		(unsigned long long)NOW(d.stats->backing_written), (unsigned long long)bytes);
	check_counts(&d);
	compare(&d, &m, "going in groups");
	wait_for_reserve(&d);
	compare(&d, &m, "coming back from groups");
	CHECK(backed(&d) == 0, "%llu stay", (unsigned long long)backed(&d));
	compare(&d, &m, "being in no group");
	end_file(&d);
}

/* ---- budgets ---- */

static uint64_t day_now(void)
{
	return (uint64_t)time(NULL) / 86400;
}

/* (At midnight there is more to be had.) */
static void test_daily(void)
{
	uint64_t day = day_now();
	struct device d = make(MANY, 0);
	struct tz_attach a = { 0 };
	struct model m = { 0 };
	uint64_t n;

	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(d.store, 0), &m, i, FORGED + i);
	tz_store_set_backing_budget(d.store, 3 * TZ_BACKING_CHUNK, 0);
	run(&d, "backing", 0);
	n = backed(&d);
	CHECK(NOW(d.stats->backing_day_bytes) <= 3 * TZ_BACKING_CHUNK && n > 60 &&
			(n < 96 || day_now() != day),
		"%llu bytes, %llu pages", (unsigned long long)NOW(d.stats->backing_day_bytes),
		(unsigned long long)n);
	run(&d, "backing", 0);
	CHECK(backed(&d) == n || day_now() != day, "there are more");
	CHECK(NOW(d.stats->backing_state) == TZ_BACKING_READY, "it is a failure");
	/* The page of statistics stays when a server goes. */
	int arena = dup(d.fd), err;
	char why[216];
	tz_store_destroy(d.store);
	a.arena_fd = arena;
	a.nr_threads = 2;
	a.stats = d.stats;
	d.store = tz_store_attach(&a, &err, why, sizeof why);
	CHECK(d.store, "%s", why);
	run(&d, "backing", 0);
	CHECK(backed(&d) == n || day_now() != day, "there are more, in the next server");
	tz_store_set_backing_budget(d.store, 0, 0);
	run(&d, "backing", 0);
	CHECK(backed(&d) == PAGES, "not all are there");
	end_file(&d);
}

static void test_rate(void)
{
	struct device d = make(MANY, 0);
	struct model m = { 0 };
	uint64_t start = tz_now_ns();

	for (unsigned i = 0; i < PAGES; i++)
		put(tz_store_thread(d.store, 0), &m, i, FORGED + i);
	tz_store_set_backing_budget(d.store, 0, 4 << 20);
	run(&d, "backing", 0);
	/* All but the last chunk have been waited for. */
	uint64_t least = (PAGES * 4096ull - TZ_BACKING_CHUNK) * 1000000000ull / (4 << 20);
	CHECK(tz_now_ns() - start >= least, "too fast");
	end_file(&d);
}

/* ---- what can happen to the file ---- */

static void test_full(void)
{
	struct device d = make(MANY, 4 * TZ_BACKING_CHUNK);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };

	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, FORGED + i);
	run(&d, "backing", 0);
	CHECK(NOW(d.stats->backing_state) == TZ_BACKING_FULL &&
			NOW(d.stats->backing_text[0]),
		"it is not full");
	CHECK(backed(&d) < 96 && backed(&d) > 60, "%llu", (unsigned long long)backed(&d));
	refused(&d, "backing");
	compare(&d, &m, "the file being full");
	for (unsigned i = 0; i < PAGES; i++)
		put(t, &m, i, FORGED + 1000 + i);
	WAIT_FOR(NOW(d.stats->backing_state) == TZ_BACKING_READY, "it stays full");
	run(&d, "backing", 0);
	CHECK(backed(&d) > 60, "%llu", (unsigned long long)backed(&d));
	compare(&d, &m, "the file being full again");
	end_file(&d);
}

static void errors(struct device *d, const struct model *m, unsigned n)
{
	unsigned lost = 0;

	for (unsigned i = 0; i < n; i++) {
		int was = is_backed(d, i),
		    result = look(tz_store_thread(d->store, 0), i, m->version[i]);
		CHECK(result == (was ? -1 : 1), "page %u: %d", i, result);
		lost += was;
	}
	CHECK(lost && sum_of(d->stats).total.backing_errors == lost, "%u are lost", lost);
}

static void test_cut_short(void)
{
	struct device d = make(MANY, 0);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };
	char why[216];

	fill(&d, &m, 100);
	run(&d, "backing", 0);
	fill(&d, &m, 10);
	CHECK(truncate(path, TZ_BACKING_CHUNK) == 0, "truncate");
	run(&d, "backing", 0);
	CHECK(NOW(d.stats->backing_state) == TZ_BACKING_FAILED, "it goes on");
	errors(&d, &m, 100);
	refused(&d, "backing");
	CHECK(tz_store_set_backing(d.store, path, 0, why, sizeof why) == -EINVAL &&
		NOW(d.stats->backing_state) == TZ_BACKING_MISSING, "it is taken");
	for (unsigned i = 0; i < 100; i++)
		put(t, &m, i, 7 + i);
	compare(&d, &m, "overwriting what was lost");
	CHECK(tz_store_set_backing(d.store, NULL, 0, why, sizeof why) == 0, "%s", why);
	CHECK(!(head_of(&d)->incompatible & TZ_ARENA_BACKING), "the head names it");
	unlink(path);
	set_file(&d, 0);
	run(&d, "backing", 0);
	compare(&d, &m, "another file");
	end_file(&d);
}

static void test_removed(void)
{
	struct device d = make(MANY, 0);
	struct model m = { 0 };

	fill(&d, &m, 100);
	run(&d, "backing", 0);
	unlink(path);
	compare(&d, &m, "removing the file");	/* it is still open */
	fill(&d, &m, 50);
	uint64_t n = backed(&d);
	run(&d, "backing", 0);
	CHECK(NOW(d.stats->backing_state) == TZ_BACKING_FAILED && backed(&d) == n, "it goes on");
	compare(&d, &m, "going on without it");
	tz_store_destroy(d.store);
	struct tz_attach a = { 0 };
	struct device e = attach(d.fd, 1, &a);
	CHECK(NOW(e.stats->backing_state) == TZ_BACKING_MISSING && NOW(e.stats->backing_text[0]),
		"it is there");
	CHECK(a.lost == 0, "what is not there is not lost for ever");
	if (backed(&e))
		errors(&e, &m, 100);
	end(&e);
	unmap_stats(&d);
}

/* ---- damage ---- */

static void test_flipped_entries(void)
{
	struct device d = make(MANY, 64 << 20);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };

	fill(&d, &m, 32);
	run(&d, "backing", 0);
	for (unsigned bit = 0; bit < 64; bit++) {
		CHECK(is_backed(&d, 6), "page 6 has come back, bit %u: %s", bit,
			d.stats->last_error);
		flip(entry_of(&d, 6), bit);
		CHECK(look(t, 6, m.version[6]) == -1, "bit %u is not noticed", bit);
		put(t, &m, 6, bit % 2 ? 0 : 100 + bit);
		CHECK(look(t, 6, m.version[6]) == 1, "bit %u, overwritten", bit);
		CHECK(look(t, 7, m.version[7]) == 1, "bit %u costs another page", bit);
		put(t, &m, 6, ALIKE_SMALL + bit);
		put(t, &m, 7, ALIKE_SMALL + bit);
		run(&d, "backing", 0);
	}
	compare(&d, &m, "flips of an entry");
	tz_store_destroy(d.store);
	close(d.fd);
	unmap_stats(&d);
}

static void flip_file(uint64_t at, unsigned bit)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	CHECK(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1, "read");
	byte ^= (uint8_t)(1u << bit);
	CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1, "write");
	close(fd);
}

static void test_flipped_file(void)
{
	struct device d = make(MANY, 0);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct tz_check c = { 0 };
	struct model m = { 0 };
	char why[216];

	fill(&d, &m, 64);
	run(&d, "backing", 0);
	uint64_t entry = load(entry_of(&d, 8)), first = tz_backed_offset(entry);
	unsigned bits = (TZ_OBJECT_HEAD + tz_entry_length(entry)) * 8;
	for (unsigned bit = 0; bit < bits; bit += share) {
		flip_file(first + bit / 8, bit % 8);
		CHECK(look(t, 8, m.version[8]) == -1, "bit %u is not noticed", bit);
		flip_file(first + bit / 8, bit % 8);
	}
	CHECK(is_backed(&d, 8) && look(t, 8, m.version[8]) == 1, "flipped back it is not right");
	run(&d, "backing", 0);
	entry = load(entry_of(&d, 9));
	flip_file(tz_backed_offset(entry) + 20, 3);
	tz_store_destroy(d.store);
	c.backing_fd = open(path, O_RDONLY);
	CHECK(tz_check_arena(d.fd, &c, why, sizeof why) == 0 && c.nr_problems == 1,
		"the checker finds %llu", (unsigned long long)c.nr_problems);
	close(c.backing_fd);
	close(d.fd);
	unmap_stats(&d);
}

/* ---- other servers ---- */

static void expect_missing(int arena, const struct model *m, unsigned line)
{
	struct tz_attach a = { 0 };
	int copy = copy_of(arena);
	struct device e = attach(copy, 1, &a);

	CHECK(NOW(e.stats->backing_state) == TZ_BACKING_MISSING, "it is taken: %s, line %u",
		e.stats->backing_text, line);
	CHECK(a.lost == 0 && backed(&e), "they are lost");
	errors(&e, m, PAGES);
	end(&e);
}

static void test_attached(void)
{
	struct device d = make(MANY, 0);
	struct model m = { 0 };
	struct tz_attach a = { 0 };
	char other[80], command[512];

	fill(&d, &m, PAGES);
	run(&d, "backing", 0);
	uint64_t n = backed(&d);
	expect_missing(d.fd, &m, __LINE__);		/* it is locked */
	tz_store_destroy(d.store);
	int before = copy_of(d.fd);
	snprintf(other, sizeof other, "%s.other", path);
	snprintf(command, sizeof command, "cp %s %s && mv %s %s.away && cp %s %s", path, other,
		path, path, other, path);
	CHECK(system(command) == 0, "cp");
	expect_missing(before, &m, __LINE__);		/* a copy */
	snprintf(command, sizeof command, "rm %s && mv %s.away %s", path, path, path);
	CHECK(system(command) == 0, "mv");
	struct device e = attach(d.fd, 1, &a);
	CHECK(NOW(e.stats->backing_state) == TZ_BACKING_READY && backed(&e) == n &&
		a.nr_problems == 0, "%llu are there: %s", (unsigned long long)backed(&e),
		e.stats->backing_text);
	compare(&e, &m, "attaching");
	check_counts(&e);
	wait_for_reserve(&e);
	compare(&e, &m, "attaching, the second time");
	CHECK(backed(&e) == 0, "%llu stay", (unsigned long long)backed(&e));
	run(&e, "backing", 0);
	tz_store_destroy(e.store);
	unmap_stats(&e);
	e = attach(dup(d.fd), 1, &(struct tz_attach){ 0 });
	compare(&e, &m, "attaching once more");
	end_file(&e);
	/* What the file had two servers ago: objects of it would pass for those of now. */
	snprintf(command, sizeof command, "cat %s > %s", other, path);
	CHECK(system(command) == 0, "cat");
	expect_missing(d.fd, &m, __LINE__);
	unlink(other);
	close(before);
	close(d.fd);
	unmap_stats(&d);
}

static void test_none(void)
{
	struct device d = make(MANY, 0), e;
	struct model m = { 0 };
	char why[216], text[100];

	refused(&d, "nothing");
	fill(&d, &m, 64);
	run(&d, "backing", 0);
	CHECK(tz_store_set_backing(d.store, NULL, 0, why, sizeof why) == -EBUSY && *why,
		"pages are there, and it goes");
	CHECK(tz_store_set_backing(d.store, "/tmp", 0, why, sizeof why) == -EBUSY, "the same");
	run(&d, "memory", 0);
	CHECK(tz_store_set_backing(d.store, NULL, 0, why, sizeof why) == 0, "%s", why);
	CHECK(on_disk() == 0, "the file has something left");
	refused(&d, "backing");
	refused(&d, "memory");
	compare(&d, &m, "having none");
	CHECK(tz_store_set_backing(d.store, "relative", 0, why, sizeof why) == -EINVAL, "taken");
	CHECK(tz_store_set_backing(d.store, "/nowhere/file", 0, why, sizeof why) == -ENOENT,
		"taken");
	CHECK(tz_store_set_backing(d.store, "/dev/null", 0, why, sizeof why) == -EINVAL, "taken");
	CHECK(tz_store_set_backing(d.store, "/dev/truezram-test", 0, why, sizeof why) == -ENOENT,
		"made");
	snprintf(text, sizeof text, "echo something > %s", path);
	CHECK(system(text) == 0 && tz_store_set_backing(d.store, path, 0, why, sizeof why) ==
		-EINVAL && *why, "somebody's file is taken");
	CHECK(NOW(d.stats->backing_state) == TZ_BACKING_NONE, "there is one");
	unlink(path);
	set_file(&d, 0);
	e = make_device(MANY, 1, 0, "lz4");
	CHECK(tz_store_set_backing(e.store, path, 0, why, sizeof why) == -EBUSY,
		"two devices have one file");
	end_device(&e);
	unmap_stats(&e);
	end_file(&d);
}

/* ---- not waiting ---- */

static int read_deferred(struct tz_store_thread *t, uint64_t page, const struct model *m,
	int (*how)(struct tz_bring *b))
{
	uint8_t out[4096], right[4096] __attribute__((aligned(8)));
	struct tz_bring b;
	int rc;

	tz_store_begin(t);
	while ((rc = tz_store_read(t, page, out)) == -EINPROGRESS) {
		tz_store_bringing(t, &b);
		tz_store_end(t);
		int result = how(&b);
		tz_store_begin(t);
		CHECK(tz_store_read(t, page + 1, right) != 1, "never");
		tz_store_brought(t, result);
	}
	tz_store_brought_end(t);
	tz_store_end(t);
	page_of(right, page, m->version[page]);
	return rc < 0 ? -1 : !memcmp(out, right, 4096);
}

static int well(struct tz_bring *b)
{
	return (int)pread(b->fd, b->to, b->length, (off_t)b->from);
}

static int elsewhere(struct tz_bring *b)
{
	return (int)pread(b->fd, b->to, b->length, (off_t)b->from + TZ_BACKING_BLOCK);
}

static int in_part(struct tz_bring *b)
{
	return (int)pread(b->fd, b->to, b->length, (off_t)b->from) - 1;
}

static int not(struct tz_bring *b)
{
	(void)b;
	return -EIO;
}

static void test_defer(void)
{
	struct device d = make(MANY, 0);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	struct model m = { 0 };

	fill(&d, &m, 64);
	run(&d, "backing", 0);
	tz_store_defer(t, 1);
	for (unsigned i = 0; i < 64; i++) {
		if (is_backed(&d, i)) {
			CHECK(read_deferred(t, i, &m, elsewhere) == -1, "page %u", i);
			CHECK(read_deferred(t, i, &m, in_part) == -1, "page %u", i);
			CHECK(read_deferred(t, i, &m, not) == -1, "page %u", i);
		}
		CHECK(read_deferred(t, i, &m, well) == 1, "page %u", i);
	}
	tz_store_defer(t, 0);
	compare(&d, &m, "deferred reads");
	end_file(&d);
}

/* ---- by itself ---- */

static void grant(struct device *d, const struct tz_policy *policy)
{
	char why[216] = "";
	int err;
	struct tz_standing *standing =
		tz_store_prepare_policy(d->store, policy, &err, why, sizeof why);

	CHECK(standing, "%s", why);
	tz_store_set_policy(d->store, standing);
}

static void test_policy(void)
{
	struct device d = make(MANY, 0);
	struct tz_policy policy = { .cpu_percent = 100, .idle_backing = 1 };
	struct model m = { 0 };

	fill(&d, &m, PAGES);
	grant(&d, &policy);
	tz_store_set_age_speed(d.store, 18000);
	WAIT_FOR(tz_store_take_wishes(d.store) || backed(&d), "it has no wishes");
	tz_store_grant_wishes(d.store, 1u << TZ_STANDING_BACKING, 1);
	grant(&d, &policy);
	WAIT_FOR(backed(&d) > PAGES * 9 / 10, "%llu are there", (unsigned long long)backed(&d));
	run(&d, "memory", 0);
	WAIT_FOR(NOW(d.stats->age_pages[TZ_AGES - 1]), "nothing is old");
	CHECK(backed(&d) == 0, "asked back, they go again");
	grant(&d, &policy);
	WAIT_FOR(backed(&d) > PAGES * 9 / 10, "%llu are there", (unsigned long long)backed(&d));
	compare(&d, &m, "the policy's work");
	end_file(&d);
}

/* ---- many at once ---- */

static struct {
	struct device d;
	_Atomic int stop;
	unsigned rounds;
} many;

static int enough_has_happened(void)
{
	return NOW(many.d.stats->backing.pages) > 100 &&
		sum_of(many.d.stats).total.backing_reads > 100;
}

/* One thread has the even pages, one the odd ones. They go on until the file has been used, which
 * on a busy machine may be late. */
static void *work(void *arg)
{
	unsigned index = (unsigned)(uintptr_t)arg;
	struct tz_store_thread *t = tz_store_thread(many.d.store, index);
	static struct model models[2];
	struct model *m = &models[index];
	uint64_t state = 77 + index;

	for (unsigned n = 0; n < many.rounds ||
		(n < 20000 * many.rounds && (n % 64 || !enough_has_happened())); n++) {
		unsigned i = (unsigned)(next(&state) % (PAGES / 2)) * 2 + index,
			 what = (unsigned)(next(&state) % 8);
		if (what == 0)
			put(t, m, i, 0);
		else if (what < 3)
			put(t, m, i, what == 1 ? FORGED + n : ALIKE_SMALL + n);
		else
			CHECK(look(t, i, m->version[i]) == 1, "page %u, round %u: %s", i, n,
				many.d.stats->last_error);
		if (n % 64 == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	}
	for (unsigned i = index; i < PAGES; i += 2)
		CHECK(look(t, i, m->version[i]) == 1, "page %u at the end", i);
	atomic_fetch_add(&many.stop, 1);
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[2];
	unsigned runs = 0;

	many.d = make(MANY, 0);
	many.rounds = 40000 / share;
	tz_store_set_backing_budget(many.d.store, 0, 0);
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	while (atomic_load(&many.stop) < 2)
		run(&many.d, ++runs % 8 ? "backing" : "memory", 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(enough_has_happened(), "little has happened");
	check_counts(&many.d);
	end_file(&many.d);
}

int main(void)
{
	share = share_of_work();
	setvbuf(stdout, NULL, _IOLBF, 0);
	snprintf(path, sizeof path, "/tmp/truezram-backing-%d", (int)getpid());
	if (getenv("TRUEZRAM_TEST_EMULATED") && !populates()) {
		puts("backing: left out: the emulator does not populate memory");
		return 77;
	}
	test_back();
	puts("back: all right");
	test_old();
	test_huge();
	test_groups();
	test_daily();
	test_rate();
	puts("budgets: all right");
	test_full();
	test_cut_short();
	test_removed();
	puts("failing: all right");
	test_flipped_entries();
	test_flipped_file();
	puts("flips: all right");
	test_attached();
	test_none();
	puts("attached, none: all right");
	test_defer();
	puts("defer: all right");
	test_policy();
	puts("policy: all right");
	test_threads();
	unlink(path);
	puts("backing: all right");
	return 0;
}
