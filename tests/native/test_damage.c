/* test_damage.c - flipped bits anywhere in the arena cost at most the page they belong to.
 *
 * entries: each bit of an entry of each kind, then a read, an overwrite or a discard: nothing
 *	crashes or hangs, all other pages stay right, now and after the room of their neighbours has
 *	been used again, and the entry's own page reads as -EIO, or right.
 * random: one to three bits of the page table, its directory, or an object, many times over: -EIO
 *	or right. Up to three flips of an entry are always noticed (entry.h); what is in an object
 *	escapes its CRC-32C once in 2^32 times at most.
 * directory: a damaged entry of the directory is put right.
 * Then what is not in use, compaction, and several threads that meet damage.
 */
#include "device.h"
#include "codec.h"

/* pages looked after, and pages beyond them to use up free room with */
enum { PAGES = 256, SPARE = 512 };

static unsigned share;

/* device.h: make_version */
static uint32_t version_of[PAGES];

static void put(struct tz_store_thread *t, uint64_t n, uint32_t version)
{
	uint8_t page[4096] __attribute__((aligned(8)));

	make_version(page, n, version);
	CHECK(write_waiting(t, n, page) == 0, "write");
	if (n < PAGES)
		version_of[n] = version;
}

/* 1: right, 0: wrong bytes, -1: EIO. */
static int look(struct tz_store_thread *t, uint64_t n)
{
	uint8_t page[4096] __attribute__((aligned(8))), out[4096];
	int rc = tz_store_read(t, n, out);

	CHECK(rc == 0 || rc == -EIO, "read: %d", rc);
	make_version(page, n, version_of[n]);
	return rc < 0 ? -1 : !memcmp(page, out, 4096);
}

static void check_others(struct tz_store_thread *t, uint64_t but, const char *after, unsigned bit)
{
	for (uint64_t n = 0; n < PAGES; n++)
		CHECK(n == but || look(t, n) == 1,
			"page %llu, after %s of page %llu with bit %u flipped",
			(unsigned long long)n, after, (unsigned long long)but, bit);
}

/* Writes that take free room, so that what was freed by mistake is overwritten. */
static void use_free_room(struct tz_store_thread *t, uint32_t version)
{
	for (uint64_t n = PAGES; n < PAGES + SPARE / share; n++)
		put(t, n, version);
	for (uint64_t n = PAGES; n < PAGES + SPARE / share; n++)
		tz_store_discard(t, n);
}

static unsigned kind_of(const struct device *d, uint64_t n)
{
	return tz_entry_kind(load(entry_of(d, n)));
}

/* While another thread writes the head, what a thread has to say waits for the end of its turn, or
 * of the next one. */
static int says(const struct device *d, struct tz_store_thread *t, const char *expected)
{
	struct tz_stats_sum sum = sum_of(d->stats);

	if (!strncmp(sum.head.last_error, expected, strlen(expected)) && sum.head.last_error_ns)
		return 1;
	tz_store_end(t);
	tz_store_begin(t);
	return 0;
}

static void flipped_read(const struct device *d, struct tz_store_thread *t, uint64_t n,
	unsigned bit)
{
	struct tz_queue_stats *q = tz_store_thread_stats(t);
	uint64_t *entry = entry_of(d, n), before = q->damaged_entries + q->checksum_errors;
	char expected[40];

	flip(entry, bit);
	int result = look(t, n);
	/* (A bit of an entry that is 0 makes no valid one.) */
	CHECK(result < 0, "kind %u, bit %u: %s", tz_entry_kind(load(entry)), bit,
		result ? "not noticed" : "wrong bytes");
	CHECK(q->damaged_entries + q->checksum_errors == before + (result < 0), "not counted");
	snprintf(expected, sizeof expected, "page %llu: ", (unsigned long long)n);
	WAIT_FOR(says(d, t, expected), "last_error is \"%s\" for page %llu", d->stats->last_error,
		(unsigned long long)n);
	tz_store_prefetch_object(t, n);
	check_others(t, n, "a read", bit);
	flip(entry, bit);
	CHECK(look(t, n) == 1, "flipped back, it is not the same");
}

static void flipped_overwrite(const struct device *d, struct tz_store_thread *t, uint64_t n,
	unsigned bit)
{
	uint32_t version = version_of[n];

	flip(entry_of(d, n), bit);
	put(t, n, 77);
	CHECK(look(t, n) == 1, "overwritten, page %llu is not what was written",
		(unsigned long long)n);
	use_free_room(t, bit);
	check_others(t, UINT64_MAX, "an overwrite", bit);
	put(t, n, version);
}

static void flipped_discard(const struct device *d, struct tz_store_thread *t, uint64_t n,
	unsigned bit)
{
	uint32_t version = version_of[n];

	flip(entry_of(d, n), bit);
	tz_store_discard(t, n);
	version_of[n] = 0;
	CHECK(look(t, n) == 1, "discarded, page %llu is not zeros", (unsigned long long)n);
	use_free_room(t, bit);
	check_others(t, UINT64_MAX, "a discard", bit);
	put(t, n, version);
}

/* All bits of one entry of each kind that these pages have and that was not `done` yet. Returns the
 * kinds done. */
static unsigned flip_all(struct device *d, struct tz_store_thread *t, unsigned done)
{
	for (uint64_t n = 1; n < PAGES; n++) {
		unsigned kind = kind_of(d, n);
		if (done >> kind & 1)
			continue;
		done |= 1u << kind;
		for (unsigned bit = 0; bit < 64; bit++) {
			flipped_read(d, t, n, bit);
			if (share > 1 && (bit + kind) % share)
				continue;
			flipped_overwrite(d, t, n, bit);
			flipped_discard(d, t, n, bit);
		}
	}
	return done;
}

/* Pages of every texture, of same-filled words, and holes. */
static void fill(struct tz_store_thread *t)
{
	for (uint64_t n = 0; n < PAGES; n++) {
		version_of[n] = 0;
		if (n % 16 < 3)
			put(t, n, WORDS + (uint32_t)(n % 16));
		else if (n % 16 > 3)
			put(t, n, (uint32_t)n + 1);
	}
}

static unsigned test_entries(const char *algorithm, unsigned done)
{
	struct device d = make_device(PAGES + SPARE, 1, 0, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);

	tz_store_begin(t);
	fill(t);
	done = flip_all(&d, t, done);
	tz_store_end(t);
	end_device(&d);
	return done;
}

/* ---- random flips ---- */

struct flips { uint64_t *word[3]; unsigned bit[3], n; };

/* One to three bits in some 8 bytes of the page table, its directory or an object. Returns the page
 * that it may cost. */
static uint64_t flip_some(struct device *d, uint64_t *state, struct flips *f)
{
	uint64_t page = next(state) % PAGES, *at = entry_of(d, page), entry = load(at);
	unsigned where = (unsigned)(next(state) % 4);

	if (where == 0)
		at = directory_of(d, page);
	else if (where > 1 && tz_entry_has_object(entry))
		at = (uint64_t *)((uintptr_t)head_of(d) + tz_entry_offset(entry)) +
			next(state) % ((TZ_OBJECT_HEAD + tz_entry_length(entry) + 7) / 8);
	f->n = 1 + (unsigned)(next(state) % 3);
	for (unsigned i = 0; i < f->n; i++) {
		f->word[i] = at;
		f->bit[i] = (unsigned)(next(state) % 64);
		flip(at, f->bit[i]);
	}
	return page;
}

static void test_random(const char *algorithm, unsigned rounds)
{
	struct device d = make_device(PAGES + SPARE, 1, 0, algorithm);
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t state = 3;
	unsigned noticed = 0;

	tz_store_begin(t);
	fill(t);
	for (unsigned i = 0; i < rounds / share; i++) {
		struct flips f;
		uint64_t page = flip_some(&d, &state, &f), other = next(&state) % PAGES;
		int result = look(t, page);
		CHECK(result, "wrong bytes in page %llu", (unsigned long long)page);
		noticed += result < 0;
		CHECK(other == page || look(t, other) == 1, "page %llu is lost, too",
			(unsigned long long)other);
		/* (What the directory had has been put right.) */
		for (unsigned k = 0; k < f.n && f.word[0] != directory_of(&d, page); k++)
			flip(f.word[k], f.bit[k]);
	}
	CHECK(noticed > rounds / share / 3, "%u of %u were noticed", noticed, rounds / share);
	check_others(t, UINT64_MAX, "all of it", 0);
	tz_store_end(t);
	end_device(&d);
}

/* Every bit of an entry of the directory, and many at once: none of its 512 pages is lost. */
static void test_directory(void)
{
	struct device d = make_device(PAGES + SPARE, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint64_t right;

	tz_store_begin(t);
	fill(t);
	right = load(directory_of(&d, 0));
	for (unsigned bit = 0; bit < 64; bit++) {
		flip(directory_of(&d, 0), bit);
		if (bit % 2)
			__atomic_fetch_xor(directory_of(&d, 0), 0x0123456789abcdefull << bit % 7,
				__ATOMIC_RELAXED);
		if (bit % 3 == 0)
			put(t, bit, 1000 + bit);
		else if (bit % 3 == 1)
			CHECK(look(t, bit) == 1, "page %u is lost", bit);
		else
			tz_store_discard(t, PAGES + bit);
		check_others(t, UINT64_MAX, "damage of the directory", bit);
		CHECK(load(directory_of(&d, 0)) == right, "not put right: bit %u", bit);
	}
	tz_store_end(t);
	end_device(&d);
}

/* ---- what is not in use ---- */

/* Everything in the segments that is not a live object or the page table, turned over: holes, the
 * reserve. */
static void test_free_memory(void)
{
	struct device d = make_device(4096, 1, 0, "fast");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t *segments = (uint8_t *)(uintptr_t)head_of(&d) + head_of(&d)->segment_offset;

	tz_store_begin(t);
	for (uint64_t n = PAGES; n < 2048; n++)
		put(t, n, 5);
	fill(t);
	/* (Too little for compaction, which would move objects meanwhile.) */
	for (uint64_t n = PAGES; n < 2048; n += 64)
		tz_store_discard(t, n);
	size_t size = NOW(d.stats->mem_used_max);
	uint8_t *live = calloc(size, 1);
	for (uint64_t n = 0; n < 4096; n++) {
		uint64_t *entry = entry_of(&d, n);
		if (entry && n % 512 == 0)
			memset(live + ((uint8_t *)entry - segments), 1, 4096);
		if (entry && tz_entry_has_object(load(entry)))
			memset(live + tz_entry_offset(load(entry)) - head_of(&d)->segment_offset, 1,
				TZ_OBJECT_HEAD + tz_entry_length(load(entry)));
	}
	/* (What was punched out of the file comes into being by this, and is in nobody's count.) */
	for (size_t at = 0; at < size; at++)
		if (!live[at])
			segments[at] ^= 0x5a;
	check_others(t, UINT64_MAX, "turning over the rest", 0);
	for (uint64_t n = 2048; n < 4096; n++)
		put(t, n, 6);
	check_others(t, UINT64_MAX, "turning over the rest", 1);
	CHECK(tz_store_thread_stats(t)->damaged_entries == 0, "free memory is looked at");
	tz_store_end(t);
	free(live);
	end_device(&d);
}

/* The same flips where compaction meets them. */
static void test_compaction(void)
{
	enum { MANY = 8192 };
	struct device d = make_device(MANY, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	uint32_t writer;
	uint64_t state = 11;

	tz_store_begin(t);
	for (uint64_t n = 0; n < MANY; n++) {
		make_page(page, n, 0, 1);
		CHECK(write_waiting(t, n, page) == 0, "write");
	}
	for (uint64_t n = 0; n < MANY; n++) {
		if (n % 8)
			tz_store_discard(t, n);
		else if (n % 64 == 0)
			flip(entry_of(&d, n), (unsigned)(next(&state) % 64));
	}
	tz_store_end(t);
	WAIT_FOR(NOW(d.stats->pages_compacted) > 0, "nothing was compacted");
	tz_store_begin(t);
	for (unsigned turn = 0; turn < 2; turn++) {
		for (uint64_t n = 0; n < MANY; n += 8) {
			int rc = tz_store_read(t, n, page);
			CHECK(rc == 0 || n % 64 == 0, "page %llu is lost", (unsigned long long)n);
			if (n % 64)
				CHECK(check_page(page, n, &writer) == 1,
					"page %llu", (unsigned long long)n);
			if (n % 64 == 0 && turn == 0)
				tz_store_discard(t, n);
		}
	}
	tz_store_end(t);
	end_device(&d);
}

/* Several threads meet damage while the control thread writes the head and others read it. */
struct meeting { struct device *d; unsigned index; _Atomic int *stop; };

static void *meet(void *arg)
{
	struct meeting *m = arg;
	struct tz_store_thread *t = tz_store_thread(m->d->store, m->index);
	uint8_t out[4096];

	for (unsigned i = 0; i < 20000 / share; i++) {
		tz_store_begin(t);
		CHECK(tz_store_read(t, m->index, out) == -EIO, "damage was not noticed");
		tz_store_end(t);
	}
	return NULL;
}

static void *read_head(void *arg)
{
	struct meeting *m = arg;
	struct tz_stats_sum sum;
	const char *why;
	unsigned page, end;

	while (!atomic_load(m->stop)) {
		if (tz_stats_read(m->d->stats, m->d->stats->size, &sum, &why))
			continue;
		CHECK(sum.head.mem_limit % (1 << 20) == 0 && !strcmp(sum.head.algorithm, "lz4"),
			"head of two instants");
		if (!*sum.head.last_error)
			continue;
		end = 0;
		CHECK(sscanf(sum.head.last_error,
			"page %u: entry is damaged%n", &page, &end) == 1 && end && page < 4 &&
			!sum.head.last_error[end], "last_error \"%s\"", sum.head.last_error);
	}
	return NULL;
}

static void test_last_error(void)
{
	enum { THREADS = 4 };
	struct device d = make_device(64, THREADS, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	_Atomic int stop = 0;
	struct meeting m[THREADS], reader = { &d, 0, &stop };
	pthread_t id[THREADS], reader_id;
	uint8_t page[4096] __attribute__((aligned(8)));
	char why[216];

	tz_store_begin(t);
	for (uint64_t n = 0; n < THREADS; n++) {
		make_page(page, n, 0, (uint32_t)n == 0 ? 3 : 1);
		CHECK(write_waiting(t, n, page) == 0, "write");
		put_word(entry_of(&d, n), 1ull << 60);	/* EMPTY, and yet not 0 */
	}
	tz_stats_head_begin(d.stats);
	CHECK(!tz_stats_head_try(d.stats), "two writers");
	CHECK(tz_store_read(t, 2, page) == -EIO && !d.stats->last_error[0],
		"written into another's turn");
	tz_stats_head_end(d.stats);
	WAIT_FOR(says(&d, t, "page 2: entry is damaged"), "\"%s\"", d.stats->last_error);
	tz_store_end(t);

	pthread_create(&reader_id, NULL, read_head, &reader);
	for (unsigned i = 0; i < THREADS; i++) {
		m[i] = (struct meeting){ &d, i, &stop };
		pthread_create(&id[i], NULL, meet, &m[i]);
	}
	for (unsigned i = 0; i < 300; i++)
		CHECK(tz_store_set_mem_limit(d.store, (uint64_t)(i % 7 + 8) << 20, why,
			sizeof why) == 0, "%s", why);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(id[i], NULL);
	atomic_store(&stop, 1);
	pthread_join(reader_id, NULL);
	struct tz_stats_sum sum = sum_of(d.stats);
	CHECK(sum.total.damaged_entries == 1 + THREADS * (20000 / share), "%llu counted",
		(unsigned long long)sum.total.damaged_entries);
	CHECK(sum.total.checksum_errors == 0, "counted as something else");
	struct tz_check_problem first;
	CHECK(end_damaged_device(&d, &first) == THREADS, "the checker sees it otherwise");
}

int main(void)
{
	unsigned kinds = 0, wanted = 1u << TZ_KIND_EMPTY | 1u << TZ_KIND_SAME_WORD |
		1u << TZ_KIND_SAME_U32 | 1u << TZ_KIND_SAME_U64 | 1u << TZ_KIND_RAW;

	share = share_of_work();
	for (const struct tz_codec *const *c = tz_codecs(); *c; c++) {
		const char *why;
		if ((*c)->workspace_size && !(*c)->workspace_size((*c)->level_default, &why)) {
			printf("%s: left out: %s\n", (*c)->name, why);
			continue;
		}
		kinds = test_entries((*c)->name, kinds);
		if ((*c)->kind != TZ_KIND_AUTO)
			wanted |= 1u << (*c)->kind;
	}
	CHECK((kinds & wanted) == wanted, "kinds %x of %x", kinds, wanted);
	test_random("fast", 60000);
	test_random("lz4", 40000);
	test_directory();
	test_free_memory();
	test_compaction();
	test_last_error();
	puts("damage: all right");
	return 0;
}
