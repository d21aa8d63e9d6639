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
 * spare: such pages are taken and freed at random, while those that are free are punched out and
 *	come back: what is taken is never a hole, and what is populated is counted.
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

/* Whether all holes of an object's segment are known. */
static int all_known(const struct object *o)
{
	uint32_t s = (uint32_t)((o->offset - arena.segment_offset) / TZ_SEGMENT_SIZE);
	const struct tz_segment *m = &alloc.segments[s];
	unsigned known = 0;

	if (tz_alloc_state(&alloc, s) != TZ_SEGMENT_OBJECTS)
		return 1;
	for (unsigned i = 0; i < m->nr_holes; i++)
		known += m->holes[i].units;
	return known == tz_alloc_free_units(&alloc, s);
}

/* Neither twice, nor what was never taken, nor out of range. Returns whether it could be tried. */
static unsigned check_refused(const struct object *o)
{
	static const uint64_t wild[] = { 0, 8, TZ_SEGMENT_SIZE - TZ_UNIT, ~0ull, 1ull << 45 };
	unsigned known = (unsigned)all_known(o);

	CHECK(!known || tz_alloc_put(&alloc, o->offset, o->units) == -EINVAL, "freed twice");
	for (unsigned i = 0; i < sizeof wild / sizeof *wild; i++)
		CHECK(tz_alloc_put(&alloc, wild[i], 1) == -EINVAL, "offset %llx",
			(unsigned long long)wild[i]);
	CHECK(tz_alloc_put(&alloc, arena.segment_offset + TZ_SEGMENT_SIZE - TZ_UNIT, 2) == -EINVAL,
		"across segments");
	return known;
}

static void test_model(unsigned shards)
{
	enum { OBJECTS = 3000 };
	struct object *objects = calloc(OBJECTS, sizeof *objects);
	uint64_t state = 99 + shards, in_use = 0;
	unsigned tried = 0, refused = 0;

	make(shards);
	used = calloc(UNITS, 1);
	for (unsigned step = 0; step < 200000; step++) {
		struct object *o = &objects[next(&state) % OBJECTS];
		if (o->units) {
			mark(o, 0);
			CHECK(tz_alloc_put(&alloc, o->offset, o->units) == 0, "free");
			in_use -= o->units;
			if (step % 64 == 0) {
				tried++;
				refused += check_refused(o);
			}
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
	CHECK(refused > tried / 3, "%u of %u", refused, tried);
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

/* What the arena would have: a byte for each page of a segment. */
enum { NOT_TABLE, A_HOLE, SPARE, IN_USE };
static uint8_t table_map[SEGMENTS * TZ_TABLE_PAGES];

static uint8_t *table_at(uint64_t offset)
{
	return &table_map[(offset - arena.segment_offset) / TZ_PAGE_SIZE];
}

static void put_table(uint64_t offset)
{
	uint8_t *first = table_at(offset), used = 0, holes = 0;

	CHECK(*first == IN_USE, "the test frees what is not in use");
	*first = SPARE;
	tz_alloc_put_table(&alloc, offset);
	first = table_map + (first - table_map) / TZ_TABLE_PAGES * TZ_TABLE_PAGES;
	for (unsigned i = 0; i < TZ_TABLE_PAGES; i++) {
		used |= first[i] == IN_USE;
		holes |= first[i] == A_HOLE;
	}
	/* To the reserve, when it is whole. */
	if (!used && !holes)
		memset(first, NOT_TABLE, TZ_TABLE_PAGES);
}

/* Takes a page; a segment that it takes for that is all populated. */
static uint64_t take_table(uint32_t index)
{
	uint64_t offset = tz_alloc_take_table(&alloc, index);
	uint8_t *page = offset ? table_at(offset) : NULL;

	if (page && *page == NOT_TABLE)
		memset(table_map + (page - table_map) / TZ_TABLE_PAGES * TZ_TABLE_PAGES, SPARE,
			TZ_TABLE_PAGES);
	CHECK(!page || *page == SPARE, "page %td of the table is %u", page - table_map, *page);
	if (page)
		*page = IN_USE;
	return offset;
}

/* What the reserve's thread does with torn segments, and populates them again. */
static void mend_torn(void)
{
	unsigned n;
	uint32_t s;

	while ((s = tz_alloc_take_torn(&alloc, &n)) != TZ_NO_SEGMENT) {
		uint8_t *first = table_map + s * TZ_TABLE_PAGES;
		for (unsigned i = 0; i < TZ_TABLE_PAGES; i++) {
			CHECK(first[i] == SPARE || first[i] == A_HOLE, "torn, and in use");
			n -= first[i] == SPARE;
			first[i] = NOT_TABLE;
		}
		CHECK(n == 0, "%u pages of a torn segment too many", n);
		tz_alloc_vanish(&alloc, &s, 1);
		CHECK(tz_alloc_absent(&alloc, 1, &n) == s && n == 1, "not the one that went");
		tz_alloc_appear(&alloc, s, 1);
	}
}

static void check_spare(void)
{
	unsigned count[4] = { 0 };

	/* Torn ones are nobody's. */
	for (uint32_t s = 0; s < SEGMENTS; s++)
		for (unsigned i = 0; i < TZ_TABLE_PAGES; i++)
			if (tz_alloc_state(&alloc, s) == TZ_SEGMENT_TABLE)
				count[table_map[s * TZ_TABLE_PAGES + i]]++;
	CHECK(atomic_load(&alloc.table_pages) == count[IN_USE] &&
			atomic_load(&alloc.table_spare) == count[SPARE],
		"%u in use, %u spare", count[IN_USE], count[SPARE]);
	CHECK(stats->table_bytes == (count[IN_USE] + count[SPARE]) * (uint64_t)TZ_PAGE_SIZE,
		"%llu bytes", (unsigned long long)stats->table_bytes);
}

/* Spare ones become holes, or stay what they are if that fails; meanwhile `freed`, if not 0, is. */
static void shrink_table(unsigned most, int fails, uint64_t freed)
{
	unsigned n;
	uint64_t offset = tz_alloc_shrink_table(&alloc, most, &n);

	CHECK(offset || atomic_load(&alloc.table_spare) == 0, "none is found");
	for (unsigned i = 0; offset && i < n; i++) {
		CHECK(table_at(offset)[i] == SPARE, "not spare");
		table_at(offset)[i] = A_HOLE;
	}
	if (freed)
		put_table(freed);
	if (!offset)
		return;
	CHECK(n >= 1 && n <= most, "%u of %u", n, most);
	if (fails) {
		memset(table_at(offset), SPARE, n);
		tz_alloc_spare_table(&alloc, offset, n);
	}
}

/* And back; the same. */
static void grow_table(unsigned most, uint64_t freed)
{
	unsigned n;
	uint64_t offset = tz_alloc_grow_table(&alloc, most, &n);

	if (freed)
		put_table(freed);
	if (!offset)
		return;
	CHECK(n >= 1 && n <= most, "%u of %u", n, most);
	for (unsigned i = 0; i < n; i++) {
		CHECK(table_at(offset)[i] == A_HOLE, "not a hole");
		table_at(offset)[i] = SPARE;
	}
	tz_alloc_spare_table(&alloc, offset, n);
}

static void test_spare(void)
{
	enum { PAGES = 400 };
	uint64_t pages[PAGES] = { 0 }, state = 5;
	unsigned most;

	make(1);
	memset(table_map, NOT_TABLE, sizeof table_map);
	for (unsigned step = 0; step < 100000; step++) {
		uint64_t *p = &pages[next(&state) % (step / 1000 % 2 ? PAGES : 20)];
		unsigned what = (unsigned)(next(&state) % 16);
		most = 1 + (unsigned)(next(&state) % (step & 1 ? 64 : 4));
		if (what < 3) {
			shrink_table(most, what == 0, *p);
			*p = 0;
		} else if (what < 5) {
			grow_table(most, *p);
			*p = 0;
		} else if (what == 5) {
			mend_torn();
		} else if (*p) {
			put_table(*p);
			*p = 0;
		} else {
			*p = take_table((uint32_t)(p - pages) << 15);
			CHECK(!*p || tz_alloc_find_table(&alloc,
					(uint32_t)(p - pages) << 15) == *p, "not found");
		}
		check_spare();
	}
	for (unsigned i = 0; i < PAGES; i++)
		if (pages[i])
			put_table(pages[i]);
	mend_torn();
	CHECK(stats->table_bytes == 0 && atomic_load(&alloc.table_spare) == 0 &&
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
	test_spare();
	test_vanish();
	CHECK(wakes > 0, "nobody was woken");
	puts("entries, allocator");
	return 0;
}
