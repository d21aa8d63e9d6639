/* test_alloc.c - entries and the allocator by themselves.
 *
 * entries: what is sealed is what comes back; every change of one, two or three bits of an entry is
 *	noticed.
 * model: objects of all sizes are taken and freed at random, in several shards, beside a map of the
 *	units in use: no two overlap, what is free is counted, nothing but an object in use can be
 *	freed, and at the end all is in reserve.
 * forget: a segment with more holes than can be known of it loses none of them.
 * empty: segments that are being emptied get nothing new, and come back empty or not.
 * table: pages of the table are aligned, distinct, found by their number, and given back.
 * vanish: segments that are punched out are nowhere any more, what was known of them is given back,
 *	and the lowest come back first.
 */
#include "alloc.h"
#include "entry.h"
#include "harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SEGMENTS = 48, UNITS = SEGMENTS * TZ_SEGMENT_UNITS };

static struct tz_arena arena;
static struct tz_alloc alloc;
static struct tz_stats *stats;
static unsigned wakes;

static void wake(void *arg)
{
	(void)arg;
	wakes++;
}

/* An allocator over memory of its own, with all segments in reserve. */
static void make(unsigned shards)
{
	char why[216];

	stats = aligned_alloc(64, (tz_stats_size(1) + 63) & ~(size_t)63);
	CHECK(tz_stats_init(stats, tz_stats_size(1), 1) == 0, "stats");
	memset(&arena, 0, sizeof arena);
	arena.segment_offset = TZ_SEGMENT_SIZE;
	arena.nr_segments = SEGMENTS;
	CHECK(tz_alloc_create(&alloc, &arena, stats, shards, why, sizeof why) == 0, "%s", why);
	alloc.wake = wake;
	atomic_store(&alloc.reserve_high, SEGMENTS);
	atomic_store(&alloc.reserve_low, SEGMENTS / 2);
	tz_alloc_appear(&alloc, 0, SEGMENTS);
}

static void end(void)
{
	tz_alloc_destroy(&alloc);
	free(stats);
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- entries ---- */

static void check_flips(uint64_t page, uint64_t entry)
{
	CHECK(tz_entry_check(page, entry), "a sound entry is refused");
	for (unsigned i = 0; i < 64; i++) {
		uint64_t one = entry ^ 1ull << i;
		CHECK(one == 0 || !tz_entry_check(page, one), "bit %u", i);
		for (unsigned j = 0; j < i; j++) {
			uint64_t two = one ^ 1ull << j;
			CHECK(two == 0 || !tz_entry_check(page, two), "bits %u %u", i, j);
			for (unsigned k = 0; k < j; k++)
				CHECK((two ^ 1ull << k) == 0 ||
						!tz_entry_check(page, two ^ 1ull << k),
					"bits %u %u %u", i, j, k);
		}
	}
}

static void test_entries(void)
{
	static const uint64_t words[] = { 0, ~0ull, 1, 0x4141414141414141ull, 0x3ffffffffffffull,
		~0x3ffffffffffffull, 0x00007fffdeadbeefull, 0x8123456789abcdefull };
	uint64_t state = 7;

	for (unsigned i = 0; i < 40; i++) {
		uint64_t page = next(&state) >> 32, offset = (next(&state) >> 29) * TZ_UNIT;
		unsigned length = (unsigned)(next(&state) % 4096) + 1,
			 kind = TZ_KIND_SAME_U64 + (unsigned)(next(&state) % 8);
		uint64_t entry = tz_entry_object(page, kind, offset, length);
		CHECK(tz_entry_kind(entry) == kind && tz_entry_offset(entry) == offset &&
				tz_entry_length(entry) == length,
			"fields");
		check_flips(page, entry);
	}
	for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
		uint64_t entry = tz_entry_same(i * 12345, words[i]);
		CHECK(entry ? tz_entry_word(entry) == words[i] : words[i] == 0x8123456789abcdefull,
			"word %u", i);
		if (entry)
			check_flips(i * 12345, entry);
	}
	/* An entry of another page passes once in 128 times. */
	unsigned passed = 0;
	for (unsigned i = 0; i < 100000; i++)
		passed += tz_entry_check(next(&state) >> 32,
			tz_entry_object(next(&state) >> 32, TZ_KIND_FAST, 4096, 1000));
	CHECK(passed < 100000 / 128 * 2, "%u of 100000", passed);
}

/* ---- the allocator ---- */

struct object {
	uint64_t offset;
	unsigned units;
};

static uint8_t *used;  /* a byte for each unit */

static void mark(const struct object *o, int value)
{
	uint64_t first = (o->offset - arena.segment_offset) / TZ_UNIT;

	CHECK(first + o->units <= UNITS &&
			first / TZ_SEGMENT_UNITS == (first + o->units - 1) / TZ_SEGMENT_UNITS,
		"range");
	for (unsigned i = 0; i < o->units; i++) {
		CHECK(used[first + i] != value, "unit %llu", (unsigned long long)first + i);
		used[first + i] = (uint8_t)value;
	}
}

static uint64_t free_units(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < alloc.nr_shards; i++)
		n += atomic_load(&alloc.shards[i].free_units);
	return n;
}

static void check_counts(uint64_t in_use)
{
	CHECK(stats->segment_bytes / TZ_UNIT == in_use + free_units(),
		"%llu units in use, %llu free, of %llu", (unsigned long long)in_use,
		(unsigned long long)free_units(),
		(unsigned long long)(stats->segment_bytes / TZ_UNIT));
	CHECK(stats->segment_bytes + stats->reserve_bytes + stats->table_bytes ==
			SEGMENTS * (uint64_t)TZ_SEGMENT_SIZE,
		"segments are missing");
}

/* Neither twice, nor what was never taken, nor out of range. */
static void check_refused(const struct object *o)
{
	static const uint64_t wild[] = { 0, 8, TZ_SEGMENT_SIZE - TZ_UNIT, ~0ull, 1ull << 45 };

	CHECK(tz_alloc_put(&alloc, o->offset, o->units) == -EINVAL, "freed twice");
	for (unsigned i = 0; i < sizeof wild / sizeof *wild; i++)
		CHECK(tz_alloc_put(&alloc, wild[i], 1) == -EINVAL, "offset %llx",
			(unsigned long long)wild[i]);
	CHECK(tz_alloc_put(&alloc, arena.segment_offset + TZ_SEGMENT_SIZE - TZ_UNIT, 2) == -EINVAL,
		"across segments");
}

static void test_model(unsigned shards)
{
	enum { OBJECTS = 3000 };
	struct object *objects = calloc(OBJECTS, sizeof *objects);
	uint64_t state = 99 + shards, in_use = 0;

	make(shards);
	used = calloc(UNITS, 1);
	for (unsigned step = 0; step < 200000; step++) {
		struct object *o = &objects[next(&state) % OBJECTS];
		if (o->units) {
			mark(o, 0);
			CHECK(tz_alloc_put(&alloc, o->offset, o->units) == 0, "free");
			in_use -= o->units;
			if (step % 64 == 0)
				check_refused(o);
			o->units = 0;
			continue;
		}
		unsigned r = (unsigned)(next(&state) % 100);
		unsigned units = r < 10 ? 1
			: r < 15	? TZ_MAX_UNITS
					: 1 + (unsigned)(next(&state) % TZ_MAX_UNITS);
		uint64_t offset = tz_alloc_take(&alloc, (unsigned)(next(&state) % shards), units);
		if (!offset) {
			CHECK(stats->reserve_bytes == 0, "refused with a reserve");
			continue;
		}
		*o = (struct object){ offset, units };
		mark(o, 1);
		in_use += units;
		if (step % 1000 == 0)
			check_counts(in_use);
	}
	check_counts(in_use);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (objects[i].units)
			CHECK(tz_alloc_put(&alloc, objects[i].offset, objects[i].units) == 0,
				"free");
	CHECK(stats->segment_bytes == 0 &&
			stats->reserve_bytes == SEGMENTS * (uint64_t)TZ_SEGMENT_SIZE,
		"not all came back");
	free(objects);
	free(used);
	end();
}

/* Every second unit of a segment is freed: far more holes than the list has room for. */
static void test_forget(void)
{
	uint64_t offsets[TZ_SEGMENT_UNITS];

	make(1);
	for (unsigned i = 0; i < TZ_SEGMENT_UNITS; i++)
		CHECK((offsets[i] = tz_alloc_take(&alloc, 0, 1)) != 0, "unit %u", i);
	CHECK(stats->segment_bytes == TZ_SEGMENT_SIZE && free_units() == 0,
		"not one after another");
	for (unsigned i = 0; i < TZ_SEGMENT_UNITS; i += 2)
		CHECK(tz_alloc_put(&alloc, offsets[i], 1) == 0, "free");
	CHECK(free_units() == TZ_SEGMENT_UNITS / 2, "a hole is lost");
	for (unsigned i = 0; i < TZ_HOLES; i++)
		CHECK(tz_alloc_take_existing(&alloc, 0, 1), "hole %u is not known", i);
	for (unsigned i = 1; i < TZ_SEGMENT_UNITS; i += 2)
		CHECK(tz_alloc_put(&alloc, offsets[i], 1) == 0, "free");
	CHECK(free_units() + TZ_HOLES == TZ_SEGMENT_UNITS, "%llu units free",
		(unsigned long long)free_units());
	end();
}

static void test_empty(void)
{
	struct tz_evacuation e;
	uint64_t a, b, c;

	make(2);
	a = tz_alloc_take(&alloc, 0, 100);
	b = tz_alloc_take(&alloc, 0, 200);
	c = tz_alloc_take(&alloc, 0, 50);
	uint32_t s = (uint32_t)((a - arena.segment_offset) / TZ_SEGMENT_SIZE);
	CHECK(tz_alloc_put(&alloc, b, 200) == 0, "free");
	CHECK(tz_alloc_evacuate_begin(&alloc, s, &e) == 0, "begin");
	CHECK(e.nr_holes == 2 && e.holes[0].units == 200 && e.holes[0].start == 100, "%u holes",
		e.nr_holes);
	CHECK(tz_alloc_evacuate_begin(&alloc, s, &e) == -EBUSY, "twice");
	CHECK(tz_alloc_evacuate_begin(&alloc, s == 0, &e) == -EBUSY, "one of the reserve");
	CHECK(!tz_alloc_take_existing(&alloc, 0, 1), "something new was placed in it");
	tz_alloc_evacuate_end(&alloc, &e);
	CHECK(tz_alloc_take_existing(&alloc, 1, 200) == b, "not in use again");
	CHECK(tz_alloc_evacuate_begin(&alloc, s, &e) == 0, "begin");
	CHECK(tz_alloc_put(&alloc, a, 100) == 0 && tz_alloc_put(&alloc, b, 200) == 0 &&
			tz_alloc_put(&alloc, c, 50) == 0,
		"free");
	CHECK(tz_alloc_state(&alloc, s) == TZ_SEGMENT_EVACUATING, "given away while it is read");
	tz_alloc_evacuate_end(&alloc, &e);
	CHECK(stats->segment_bytes == 0, "empty, and still counted");
	CHECK(tz_alloc_state(&alloc, s) == TZ_SEGMENT_RESERVE, "end put it back into use");
	end();
}

static void test_table(void)
{
	enum { PAGES = 100 };
	uint64_t pages[PAGES];

	make(1);
	for (unsigned i = 0; i < PAGES; i++) {
		pages[i] = tz_alloc_take_table(&alloc, 7 * i + 1);
		CHECK(pages[i] && pages[i] % TZ_PAGE_SIZE == 0, "page %u", i);
		for (unsigned k = 0; k < i; k++)
			CHECK(pages[k] != pages[i], "the same twice");
	}
	CHECK(stats->table_bytes == 4 * TZ_SEGMENT_SIZE &&
			tz_alloc_put(&alloc, pages[0], 1) == -EINVAL,
		"table");
	for (unsigned i = 0; i < 7 * PAGES; i++)
		CHECK(tz_alloc_find_table(&alloc, i) == (i % 7 == 1 ? pages[i / 7] : 0),
			"page %u of the table is elsewhere", i);
	for (unsigned i = 0; i < PAGES; i++)
		tz_alloc_put_table(&alloc, pages[i * 37 % PAGES]);
	CHECK(stats->table_bytes == 0 &&
			stats->reserve_bytes == SEGMENTS * (uint64_t)TZ_SEGMENT_SIZE,
		"not all came back");
	end();
}

static void test_vanish(void)
{
	enum { GONE = 40 };
	uint32_t gone[GONE];
	unsigned n;

	make(2);
	uint64_t before = tz_alloc_overhead(&alloc);
	/* Holes of many sizes leave hints to segments that go. */
	for (unsigned units = 1; units < 200; units++) {
		uint64_t a = tz_alloc_take(&alloc, 1, units), b = tz_alloc_take(&alloc, 1, 3);
		CHECK(a && b && tz_alloc_put(&alloc, a, units) == 0 &&
			tz_alloc_put(&alloc, b, 3) == 0, "units %u", units);
	}
	for (unsigned i = 0; i < GONE; i++)
		gone[i] = tz_alloc_reserve_take_out(&alloc);
	tz_alloc_vanish(&alloc, gone, GONE);
	CHECK(tz_alloc_overhead(&alloc) < before, "nothing is given back for %u segments", GONE);
	uint32_t lowest = TZ_NO_SEGMENT;
	for (unsigned i = 0; i < GONE; i++) {
		lowest = gone[i] < lowest ? gone[i] : lowest;
		CHECK(tz_alloc_state(&alloc, gone[i]) == TZ_SEGMENT_ABSENT &&
			!tz_alloc_in_range(&alloc, tz_segment_offset(&arena, gone[i]), 1) &&
			tz_alloc_put(&alloc, tz_segment_offset(&arena, gone[i]), 1) == -EINVAL,
			"segment %u is still there", gone[i]);
	}
	for (unsigned i = 0; i < 1000; i++)
		tz_alloc_take(&alloc, 1, i % 200 + 1);
	CHECK(stats->reserve_bytes == 0, "there was room for more");
	CHECK(tz_alloc_absent(&alloc, 4, &n) == lowest && n == 1, "not the lowest");
	tz_alloc_appear(&alloc, lowest, 1);
	CHECK(tz_alloc_take(&alloc, 0, 257) == tz_segment_offset(&arena, lowest), "not used");
	end();
}

int main(void)
{
	test_entries();
	test_model(1);
	test_model(3);
	test_forget();
	test_empty();
	test_table();
	test_vanish();
	CHECK(wakes > 0, "nobody was woken");
	puts("entries, allocator");
	return 0;
}
