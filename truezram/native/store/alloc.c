/* alloc.c - the allocator: finds room for objects of 1 to 257 units of 16 bytes (and for groups of
 * pages, of up to 4096), and knows what is free.
 *
 * The arena's objects lie one after another in segments of 128 KiB. There are no size classes: an
 * object takes the units it needs, and what is free is known as holes, up to TZ_HOLES of each
 * segment, in private memory. Nothing about free space is in the arena, so nothing there can be
 * damaged: after a crash it is rebuilt from the page table. What does not fit in the list of holes
 * is still counted (free_units), and comes back when the segment is emptied.
 *
 * Room is found by best fit, which leaves 2 to 4 % in holes after any number of overwrites:
 *  - a hole of the very size, or the next larger one: for each size there is a short stack of
 *    segments that had such a hole not long ago (hints, which may be stale and are checked);
 *  - failing that, the best hole of a segment whose largest one is just large enough (lists by
 *    largest hole);
 *  - failing that, another shard's; then a segment of the reserve.
 *
 * A shard is the part of the segments that one queue thread places its objects in; one more has the
 * objects that pages share (dedup.c), and another one groups of pages (group.c). Everything known
 * of a segment, its membership of lists included, is guarded by its shard's lock, and a segment
 * changes hands only when it is empty:
 *
 *	absent -> reserve	populated
 *	reserve -> absent	punched out; what was known of it is forgotten
 *	reserve -> between	taken for use
 *	between -> objects	a shard's; objects <-> evacuating
 *	between -> table	pages of the page table, under the table lock
 *	table -> between	the last page in use was freed
 *	between -> absent	a table segment of which a part was a hole already (torn)
 *	objects -> between	the last object was freed
 *	between -> reserve
 *
 * BETWEEN means: in one thread's hands, in no list. EVACUATING stays so until the housekeeper,
 * which reads the segment, is done, even when the last object in it is freed meanwhile. A lock is
 * held for list operations only; no system call is made with one held, and no two are held at once.
 */
#include "alloc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define LOOK_FOR_HOLES 8u		/* segments of the table looked at */
/* segments that are described in one page */
#define GROUP (TZ_PAGE_SIZE / sizeof(struct tz_segment))

_Static_assert(sizeof(struct tz_segment) == 128, "two cache lines a segment");
_Static_assert(TZ_TABLE_PAGES == 32, "the pages of a table segment are the bits of a word");
_Static_assert(GROUP == 32, "half a word of `present`");
_Static_assert(TZ_DISK_MAX / TZ_PAGE_SIZE / TZ_TABLE_ENTRIES <= 1u << 24, "24 bits of index");

static unsigned state_of(const struct tz_segment *m)
{
	return atomic_load_explicit(&m->state, memory_order_acquire);
}

static void set_state(struct tz_segment *m, unsigned state)
{
	atomic_store_explicit(&m->state, (uint8_t)state, memory_order_release);
}

/* Changed under the shard's lock, and looked at without it. */
static unsigned free_of(const struct tz_segment *m)
{
	return atomic_load_explicit(&m->free_units, memory_order_relaxed);
}

static void set_free(struct tz_segment *m, unsigned units)
{
	atomic_store_explicit(&m->free_units, (uint16_t)units, memory_order_relaxed);
}

/* ---- sets of sizes ---- */

static void set_bit(uint64_t *bits, unsigned n)
{
	bits[n / 64] |= 1ull << n % 64;
}

static void clear_bit(uint64_t *bits, unsigned n)
{
	bits[n / 64] &= ~(1ull << n % 64);
}

/* The first bit from n on, or TZ_MAX_UNITS + 1. */
static unsigned next_bit(const uint64_t *bits, unsigned n)
{
	for (unsigned w = n / 64; w < TZ_SIZE_WORDS; w++) {
		uint64_t left = bits[w] & (w == n / 64 ? ~0ull << n % 64 : ~0ull);
		if (left)
			return w * 64 + (unsigned)__builtin_ctzll(left);
	}
	return TZ_MAX_UNITS + 1;
}

/* ---- a shard's lists, its lock held ---- */

static unsigned list_of(const struct tz_shard *sh, unsigned largest)
{
	largest >>= sh->shift;
	return largest < TZ_MAX_UNITS ? largest : TZ_MAX_UNITS;
}

static void list_add(struct tz_alloc *a, struct tz_shard *sh, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];
	unsigned n = list_of(sh, m->largest);

	m->prev = TZ_NO_SEGMENT;
	m->next = sh->by_largest[n];
	if (m->next != TZ_NO_SEGMENT)
		a->segments[m->next].prev = s;
	sh->by_largest[n] = s;
	set_bit(sh->listed, n);
}

static void list_remove(struct tz_alloc *a, struct tz_shard *sh, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];
	unsigned n = list_of(sh, m->largest);

	if (m->prev != TZ_NO_SEGMENT)
		a->segments[m->prev].next = m->next;
	else
		sh->by_largest[n] = m->next;
	if (m->next != TZ_NO_SEGMENT)
		a->segments[m->next].prev = m->prev;
	if (sh->by_largest[n] == TZ_NO_SEGMENT)
		clear_bit(sh->listed, n);
	m->next = m->prev = TZ_NO_SEGMENT;
}

/* Another largest hole; a segment without any is in no list. */
static void set_largest(struct tz_alloc *a, struct tz_shard *sh, uint32_t s, unsigned largest)
{
	struct tz_segment *m = &a->segments[s];
	int listed = state_of(m) == TZ_SEGMENT_OBJECTS;

	if (list_of(sh, largest) == list_of(sh, m->largest) && largest && m->largest) {
		m->largest = (uint16_t)largest;
		return;
	}
	if (listed && m->largest)
		list_remove(a, sh, s);
	m->largest = (uint16_t)largest;
	if (listed && largest)
		list_add(a, sh, s);
}

static unsigned largest_hole(const struct tz_segment *m)
{
	unsigned largest = 0;

	for (unsigned i = 0; i < m->nr_holes; i++)
		if (m->holes[i].units > largest)
			largest = m->holes[i].units;
	return largest;
}

/* The newest hints are kept: the older ones are the likelier to be stale. (Hardly two groups have
 * the same size: there are none for those.) */
static void hint(struct tz_shard *sh, uint32_t s, unsigned units)
{
	if (units > TZ_MAX_UNITS || sh->shift)
		return;
	sh->last_hint[units] = (uint8_t)((sh->last_hint[units] + 1) % TZ_HINTS);
	sh->hints[units][sh->last_hint[units]] = s;
	if (sh->nr_hints[units] < TZ_HINTS)
		sh->nr_hints[units]++;
	set_bit(sh->hinted, units);
}

static uint32_t take_hint(struct tz_shard *sh, unsigned units)
{
	uint32_t s = sh->hints[units][sh->last_hint[units]];

	sh->last_hint[units] = (uint8_t)((sh->last_hint[units] + TZ_HINTS - 1) % TZ_HINTS);
	sh->nr_hints[units]--;
	return s;
}

static void remove_hole(struct tz_segment *m, unsigned i)
{
	m->holes[i] = m->holes[--m->nr_holes];
}

/* ---- which segments there are ---- */

/* Whether a segment that shares the page of metadata with this one is populated. */
static int group_is_present(const struct tz_alloc *a, uint32_t s)
{
	uint64_t word = atomic_load_explicit(&a->present[s / 64], memory_order_relaxed);

	return (word >> s % 64 / GROUP * GROUP & UINT32_MAX) != 0;
}

uint32_t tz_alloc_absent(struct tz_alloc *a, unsigned want, unsigned *n)
{
	uint32_t known = atomic_load(&a->nr_known), words = (known + 63) / 64,
		 end = (uint32_t)a->arena->nr_segments;

	/* One that was there before, so that the arena stays dense, or neighbours at the end. */
	for (*n = 1; a->first_absent < words; a->first_absent++) {
		uint64_t absent = ~atomic_load_explicit(
			&a->present[a->first_absent], memory_order_relaxed);
		uint32_t s = a->first_absent * 64 +
			(absent ? (uint32_t)__builtin_ctzll(absent) : 64);
		if (absent && s < known)
			return s;
	}
	*n = want < end - known ? want : end - known;
	return *n ? known : TZ_NO_SEGMENT;
}

/* Segments whose bits are in one page of `present`. */
#define PRESENT_PAGE (TZ_PAGE_SIZE * 8u)

/* Touched here first. One that was there before may still be looked at (state, shard); the rest is
 * set when it is taken for use. */
static void be_present(struct tz_alloc *a, uint32_t s)
{
	uint32_t known = atomic_load(&a->nr_known);
	uint64_t more = group_is_present(a, s) ? 0 : TZ_PAGE_SIZE;

	for (uint32_t at = (known + PRESENT_PAGE - 1) / PRESENT_PAGE * PRESENT_PAGE; at <= s;
		at += PRESENT_PAGE, more += TZ_PAGE_SIZE)
		atomic_store_explicit(&a->present[at / 64], 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&a->metadata_bytes, more, memory_order_relaxed);
	set_state(&a->segments[s], TZ_SEGMENT_BETWEEN);
	atomic_fetch_or_explicit(&a->present[s / 64], 1ull << s % 64, memory_order_release);
	if (s >= known)
		atomic_store_explicit(&a->nr_known, s + 1, memory_order_release);
}

void tz_alloc_appear(struct tz_alloc *a, uint32_t first, unsigned n)
{
	for (uint32_t s = first; s < first + n; s++) {
		be_present(a, s);
		tz_alloc_reserve_push(a, s);
	}
}

/* Hints to segments that are gone would be looked up in memory that has been given back. */
static void forget_hints(struct tz_alloc *a, struct tz_shard *sh)
{
	tz_lock_take(&sh->lock);
	for (unsigned n = next_bit(sh->hinted, 0); n <= TZ_MAX_UNITS;
		n = next_bit(sh->hinted, n + 1)) {
		unsigned kept = 0;
		uint32_t keep[TZ_HINTS];
		while (sh->nr_hints[n]) {
			uint32_t s = take_hint(sh, n);
			if (tz_alloc_is_present(a, s))
				keep[kept++] = s;
		}
		while (kept)
			hint(sh, keep[--kept], n);
	}
	tz_lock_drop(&sh->lock);
}

/* Whether one of the first n is of the group that begins with `first`. */
static int is_among(const uint32_t *segments, unsigned n, uint32_t first)
{
	for (unsigned i = 0; i < n; i++)
		if (segments[i] / GROUP * GROUP == first)
			return 1;
	return 0;
}

void tz_alloc_vanish(struct tz_alloc *a, const uint32_t *segments, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint32_t s = segments[i];
		set_state(&a->segments[s], TZ_SEGMENT_ABSENT);
		atomic_fetch_and_explicit(
			&a->present[s / 64], ~(1ull << s % 64), memory_order_release);
		if (s / 64 < a->first_absent)
			a->first_absent = s / 64;
	}
	for (unsigned i = 0; i < a->nr_shards + TZ_OWN_SHARDS; i++)
		forget_hints(a, &a->shards[i]);
	for (unsigned i = 0; i < n; i++) {
		uint32_t s = segments[i] / GROUP * GROUP;
		if (group_is_present(a, s) || is_among(segments, i, s))
			continue;
		madvise(&a->segments[s], TZ_PAGE_SIZE, MADV_DONTNEED);
		atomic_fetch_sub_explicit(&a->metadata_bytes, TZ_PAGE_SIZE, memory_order_relaxed);
	}
}

uint64_t tz_alloc_overhead(const struct tz_alloc *a)
{
	return (a->nr_shards + TZ_OWN_SHARDS) * sizeof *a->shards +
		atomic_load_explicit(&a->metadata_bytes, memory_order_relaxed);
}

/* ---- the reserve ---- */

static void count_reserve(struct tz_alloc *a, uint32_t count)
{
	atomic_store_explicit(&a->reserve_count, count, memory_order_relaxed);
	__atomic_store_n(
		&a->stats->reserve_bytes, (uint64_t)count * TZ_SEGMENT_SIZE, __ATOMIC_RELAXED);
}

void tz_alloc_reserve_push(struct tz_alloc *a, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];
	uint32_t now;

	tz_lock_take(&a->reserve_lock);
	set_state(m, TZ_SEGMENT_RESERVE);
	m->next = a->reserve;
	a->reserve = s;
	now = atomic_load_explicit(&a->reserve_count, memory_order_relaxed) + 1;
	count_reserve(a, now);
	tz_lock_drop(&a->reserve_lock);
	if (now > atomic_load_explicit(&a->reserve_high, memory_order_relaxed))
		a->wake(a->wake_arg);
}

static uint32_t unlink_first(struct tz_alloc *a)
{
	uint32_t s;

	tz_lock_take(&a->reserve_lock);
	s = a->reserve;
	if (s != TZ_NO_SEGMENT) {
		a->reserve = a->segments[s].next;
		set_state(&a->segments[s], TZ_SEGMENT_BETWEEN);
		count_reserve(a, atomic_load_explicit(&a->reserve_count, memory_order_relaxed) - 1);
	}
	tz_lock_drop(&a->reserve_lock);
	return s;
}

uint32_t tz_alloc_reserve_take_out(struct tz_alloc *a)
{
	return unlink_first(a);
}

/* A segment to use. */
static uint32_t reserve_pop(struct tz_alloc *a)
{
	uint32_t s = unlink_first(a);

	atomic_fetch_add_explicit(&a->pops, 1, memory_order_relaxed);
	if (s == TZ_NO_SEGMENT ||
		atomic_load_explicit(&a->reserve_count, memory_order_relaxed) <
			atomic_load_explicit(&a->reserve_low, memory_order_relaxed))
		a->wake(a->wake_arg);
	return s;
}

/* A shard has one more, or less. */
static void count_segments(struct tz_alloc *a, struct tz_shard *sh, int64_t n)
{
	atomic_fetch_add_explicit(&sh->segments, (uint64_t)n, memory_order_relaxed);
	__atomic_fetch_add(
		&a->stats->segment_bytes, (uint64_t)(n * TZ_SEGMENT_SIZE), __ATOMIC_RELAXED);
}

/* ---- taking ---- */

/* Cuts `units` off the front of a hole; the shard's lock is held. */
static uint64_t cut(struct tz_alloc *a, struct tz_shard *sh, uint32_t s, unsigned i, unsigned units)
{
	struct tz_segment *m = &a->segments[s];
	struct tz_hole *h = &m->holes[i];
	uint64_t offset = tz_segment_offset(a->arena, s) + (uint64_t)h->start * TZ_UNIT;
	unsigned was = h->units, left = was - units;

	h->start = (uint16_t)(h->start + units);
	h->units = (uint16_t)left;
	if (left)
		hint(sh, s, left);
	else
		remove_hole(m, i);
	set_free(m, free_of(m) - units);
	atomic_fetch_sub_explicit(&sh->free_units, units, memory_order_relaxed);
	if (was == m->largest)
		set_largest(a, sh, s, largest_hole(m));
	return offset;
}

/* The smallest hole of a segment that has room for `units`; nr_holes if none. */
static unsigned best_hole(const struct tz_segment *m, unsigned units)
{
	unsigned best = m->nr_holes, size = UINT16_MAX + 1u;

	for (unsigned i = 0; i < m->nr_holes; i++) {
		if (m->holes[i].units >= units && m->holes[i].units < size) {
			best = i;
			size = m->holes[i].units;
		}
	}
	return best;
}

/* Whether this shard has the segment, and may place something in it; the shard's lock is held, so
 * that stays so. */
static int has(const struct tz_alloc *a, const struct tz_shard *sh, uint32_t s)
{
	const struct tz_segment *m = &a->segments[s];

	return state_of(m) == TZ_SEGMENT_OBJECTS &&
		&a->shards[atomic_load_explicit(&m->shard, memory_order_relaxed)] == sh;
}

static uint64_t take_hinted(struct tz_alloc *a, struct tz_shard *sh, unsigned units)
{
	for (unsigned n = next_bit(sh->hinted, units); n <= TZ_MAX_UNITS;
		n = next_bit(sh->hinted, n)) {
		while (sh->nr_hints[n]) {
			uint32_t s = take_hint(sh, n);
			const struct tz_segment *m = &a->segments[s];
			if (!has(a, sh, s))
				continue;
			for (unsigned i = 0; i < m->nr_holes; i++)
				if (m->holes[i].units == n)
					return cut(a, sh, s, i, units);
		}
		clear_bit(sh->hinted, n);
	}
	return 0;
}

static uint64_t take_in(struct tz_alloc *a, struct tz_shard *sh, unsigned units)
{
	uint64_t offset;
	unsigned n;

	tz_lock_take(&sh->lock);
	offset = take_hinted(a, sh, units);
	n = (units + (1u << sh->shift) - 1) >> sh->shift;
	if (!offset && (n = next_bit(sh->listed, n)) <= TZ_MAX_UNITS) {
		uint32_t s = sh->by_largest[n];
		offset = cut(a, sh, s, best_hole(&a->segments[s], units), units);
	}
	tz_lock_drop(&sh->lock);
	return offset;
}

uint64_t tz_alloc_take_existing(struct tz_alloc *a, unsigned shard, unsigned units)
{
	uint64_t offset = 0;

	for (unsigned i = 0; i < a->nr_shards && !offset; i++)
		offset = take_in(a, &a->shards[(shard + i) % a->nr_shards], units);
	return offset;
}

/* A fresh segment for a shard, and the first object in it. */
static uint64_t take_in_new(struct tz_alloc *a, unsigned shard, unsigned units)
{
	struct tz_shard *sh = &a->shards[shard];
	uint32_t s = reserve_pop(a);
	uint64_t offset;

	if (s == TZ_NO_SEGMENT)
		return 0;
	struct tz_segment *m = &a->segments[s];
	tz_lock_take(&sh->lock);
	m->nr_holes = 1;
	m->holes[0] = (struct tz_hole){ 0, TZ_SEGMENT_UNITS };
	set_free(m, TZ_SEGMENT_UNITS);
	m->largest = TZ_SEGMENT_UNITS;
	atomic_store_explicit(&m->shard, (uint8_t)shard, memory_order_relaxed);
	set_state(m, TZ_SEGMENT_OBJECTS);
	list_add(a, sh, s);
	count_segments(a, sh, 1);
	atomic_fetch_add_explicit(&sh->free_units, TZ_SEGMENT_UNITS, memory_order_relaxed);
	offset = cut(a, sh, s, 0, units);
	tz_lock_drop(&sh->lock);
	return offset;
}

uint64_t tz_alloc_take(struct tz_alloc *a, unsigned shard, unsigned units)
{
	shard %= a->nr_shards;
	uint64_t offset = tz_alloc_take_existing(a, shard, units);

	return offset ? offset : take_in_new(a, shard, units);
}

uint64_t tz_alloc_take_own(struct tz_alloc *a, unsigned which, unsigned units, int more)
{
	unsigned shard = tz_alloc_own_shard(a, which);
	uint64_t offset = take_in(a, &a->shards[shard], units);

	return offset || !more ? offset : take_in_new(a, shard, units);
}

/* ---- freeing ---- */

/* The segment and the unit in it that an offset means; 0 when `units` from there are not within one
 * known segment. */
static int locate(
	const struct tz_alloc *a, uint64_t offset, unsigned units, uint32_t *s, unsigned *start)
{
	uint64_t in = offset - a->arena->segment_offset;

	if (offset < a->arena->segment_offset || offset % TZ_UNIT)
		return 0;
	if (in / TZ_SEGMENT_SIZE >= atomic_load_explicit(&a->nr_known, memory_order_acquire))
		return 0;
	*s = (uint32_t)(in / TZ_SEGMENT_SIZE);
	if (!tz_alloc_is_present(a, *s))
		return 0;
	*start = (unsigned)(in % TZ_SEGMENT_SIZE / TZ_UNIT);
	return units && *start + units <= TZ_SEGMENT_UNITS;
}

static int holds_objects(const struct tz_segment *m)
{
	unsigned state = state_of(m);

	return state == TZ_SEGMENT_OBJECTS || state == TZ_SEGMENT_EVACUATING;
}

int tz_alloc_in_range(const struct tz_alloc *a, uint64_t offset, unsigned units)
{
	uint32_t s;
	unsigned start;

	return locate(a, offset, units, &s, &start);
}

void tz_alloc_prefetch(const struct tz_alloc *a, uint64_t offset)
{
	uint32_t s;
	unsigned start;

	if (locate(a, offset, 1, &s, &start))
		for (unsigned line = 0; line < 2; line++)
			__builtin_prefetch((const char *)&a->segments[s] + 64 * line, 1, 3);
}

/* Joins [start, end) with the holes beside it. 0, or -EINVAL when a part of it is free already.
 * (Without branches, for the compiler to use vectors.) */
static int join(struct tz_segment *m, unsigned *start, unsigned *end)
{
	unsigned from = *start, to = *end, before = TZ_HOLES, after = TZ_HOLES, overlaps = 0;

	for (unsigned i = 0; i < m->nr_holes; i++) {
		unsigned hole = m->holes[i].start, hole_end = hole + m->holes[i].units;
		overlaps |= (hole < to) & (hole_end > from);
		before = hole_end == from ? i : before;
		after = hole == to ? i : after;
	}
	if (overlaps)
		return -EINVAL;
	if (before < TZ_HOLES)
		*start = m->holes[before].start;
	if (after < TZ_HOLES)
		*end = m->holes[after].start + m->holes[after].units;
	/* The later of the two first: removing it does not move the other. */
	if (after < TZ_HOLES && (before == TZ_HOLES || after > before))
		remove_hole(m, after);
	if (before < TZ_HOLES)
		remove_hole(m, before);
	if (after < TZ_HOLES && before < TZ_HOLES && after < before)
		remove_hole(m, after);
	return 0;
}

/* With no room in the list, the smallest hole is forgotten; it stays counted. */
static void add_hole(struct tz_segment *m, unsigned start, unsigned units)
{
	unsigned at = m->nr_holes, smallest = 0;

	if (at == TZ_HOLES) {
		for (unsigned i = 1; i < TZ_HOLES; i++)
			if (m->holes[i].units < m->holes[smallest].units)
				smallest = i;
		if (m->holes[smallest].units >= units)
			return;
		at = smallest;
	} else {
		m->nr_holes++;
	}
	m->holes[at] = (struct tz_hole){ (uint16_t)start, (uint16_t)units };
}

/* An empty segment leaves its shard, whose lock is held, and is in the caller's hands. */
static void detach(struct tz_alloc *a, struct tz_shard *sh, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];

	if (state_of(m) == TZ_SEGMENT_OBJECTS && m->largest)
		list_remove(a, sh, s);
	set_state(m, TZ_SEGMENT_BETWEEN);
	count_segments(a, sh, -1);
	atomic_fetch_sub_explicit(&sh->free_units, TZ_SEGMENT_UNITS, memory_order_relaxed);
}

/* Frees within a segment; the shard's lock is held. 1 when it is empty now and in the caller's
 * hands, 0, or -EINVAL. */
static int put_in(
	struct tz_alloc *a, struct tz_shard *sh, uint32_t s, unsigned start, unsigned units)
{
	struct tz_segment *m = &a->segments[s];
	unsigned end = start + units;

	if (free_of(m) + units > TZ_SEGMENT_UNITS || join(m, &start, &end) < 0)
		return -EINVAL;
	set_free(m, free_of(m) + units);
	atomic_fetch_add_explicit(&sh->free_units, units, memory_order_relaxed);
	add_hole(m, start, end - start);
	/* The housekeeper reads what it is emptying, so it gives that back itself. */
	if (free_of(m) == TZ_SEGMENT_UNITS && state_of(m) == TZ_SEGMENT_OBJECTS) {
		detach(a, sh, s);
		return 1;
	}
	if (state_of(m) == TZ_SEGMENT_OBJECTS)
		hint(sh, s, end - start);
	if (end - start > m->largest)
		set_largest(a, sh, s, end - start);
	return 0;
}

int tz_alloc_put(struct tz_alloc *a, uint64_t offset, unsigned units)
{
	uint32_t s;
	unsigned start;
	int rc = -EINVAL;

	if (!locate(a, offset, units, &s, &start))
		return rc;
	struct tz_segment *m = &a->segments[s];
	struct tz_shard *sh = &a->shards[atomic_load_explicit(&m->shard, memory_order_relaxed)];
	tz_lock_take(&sh->lock);
	/* While an object lives in it a segment stays where it is: if not, there is no such object.
	 */
	if (holds_objects(m) &&
		&a->shards[atomic_load_explicit(&m->shard, memory_order_relaxed)] == sh)
		rc = put_in(a, sh, s, start, units);
	tz_lock_drop(&sh->lock);
	TZ_TEST_POINT("freed");
	if (rc > 0)
		tz_alloc_reserve_push(a, s);
	return rc < 0 ? rc : 0;
}

/* ---- pages of the page table ----
 *
 * A page of a table segment is in use, or spare (populated and free), or a hole in the file: what
 * is spare beyond a few pages is given back. The reserve's thread does that, and makes pages spare
 * again ahead of need; if they run out all the same, a segment of the reserve has 32. Pages that
 * are not spare are that thread's alone, so it needs no lock while it populates them or punches
 * them out. */

static uint32_t spare_of(const struct tz_segment *m)
{
	return m->table.ready & ~m->table.pages;
}

static uint32_t run_of(unsigned first, unsigned n)
{
	return (n < TZ_TABLE_PAGES ? (1u << n) - 1 : UINT32_MAX) << first;
}

/* So many pages more, or less. The reserve's thread counts pages of the directory here, too. */
static void count_table(struct tz_alloc *a, int pages, int spare)
{
	atomic_fetch_add_explicit(&a->table_pages, (uint64_t)(int64_t)pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&a->table_spare, (uint32_t)spare, memory_order_relaxed);
	__atomic_fetch_add(&a->stats->table_bytes,
		(uint64_t)((int64_t)(pages + spare) * TZ_PAGE_SIZE), __ATOMIC_RELAXED);
}

/* Which list a segment of the table is in; NULL: all its pages are in use. */
static uint32_t *table_list(struct tz_alloc *a, const struct tz_segment *m)
{
	if (m->table.pages == UINT32_MAX)
		return NULL;
	return spare_of(m) ? &a->table_partial : &a->table_dry;
}

static void table_add(struct tz_alloc *a, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];
	uint32_t *list = table_list(a, m);

	if (!list)
		return;
	m->prev = TZ_NO_SEGMENT;
	m->next = *list;
	if (m->next != TZ_NO_SEGMENT)
		a->segments[m->next].prev = s;
	*list = s;
}

static void table_remove(struct tz_alloc *a, uint32_t s)
{
	struct tz_segment *m = &a->segments[s];
	uint32_t *list = table_list(a, m);

	if (!list)
		return;
	if (m->prev != TZ_NO_SEGMENT)
		a->segments[m->prev].next = m->next;
	else
		*list = m->next;
	if (m->next != TZ_NO_SEGMENT)
		a->segments[m->next].prev = m->prev;
}

/* The lock is held, as it is for all that changes these. */
static void table_set(struct tz_alloc *a, uint32_t s, uint32_t pages, uint32_t ready)
{
	struct tz_segment *m = &a->segments[s];
	int used = __builtin_popcount(pages) - __builtin_popcount(m->table.pages),
	    more = __builtin_popcount(ready) - __builtin_popcount(m->table.ready);

	table_remove(a, s);
	__atomic_store_n(&m->table.pages, pages, __ATOMIC_RELEASE);
	m->table.ready = ready;
	table_add(a, s);
	count_table(a, used, more - used);
	a->table_holes -= (uint64_t)(int64_t)more;
}

static void set_index(struct tz_segment *m, unsigned i, uint32_t index)
{
	__atomic_store_n(&m->table.index_high[i], (uint8_t)(index >> 16), __ATOMIC_RELAXED);
	__atomic_store_n(&m->table.index_low[i], (uint16_t)index, __ATOMIC_RELAXED);
}

static unsigned spare(const struct tz_alloc *a)
{
	return atomic_load_explicit(&a->table_spare, memory_order_relaxed);
}

/* fresh: a segment that is one of the table's from now on, or none. */
static uint64_t take_spare(struct tz_alloc *a, uint32_t index, uint32_t fresh)
{
	uint64_t offset = 0;
	int few, more = fresh != TZ_NO_SEGMENT;

	tz_lock_take(&a->table_lock);
	if (more) {
		struct tz_segment *m = &a->segments[fresh];
		m->table.pages = 0;
		m->table.ready = UINT32_MAX;
		set_state(m, TZ_SEGMENT_TABLE);
		table_add(a, fresh);
		count_table(a, 0, TZ_TABLE_PAGES);
	}
	uint32_t s = a->table_partial;
	if (s != TZ_NO_SEGMENT) {
		struct tz_segment *m = &a->segments[s];
		unsigned i = (unsigned)__builtin_ctz(spare_of(m));
		set_index(m, i, index);
		table_set(a, s, m->table.pages | 1u << i, m->table.ready);
		offset = tz_segment_offset(a->arena, s) + (uint64_t)i * TZ_PAGE_SIZE;
	}
	few = a->table_holes &&
		spare(a) < atomic_load_explicit(&a->spare_low, memory_order_relaxed);
	tz_lock_drop(&a->table_lock);
	if (few)		/* the device is in use */
		atomic_fetch_add_explicit(&a->pops, 1, memory_order_relaxed);
	if (few || more)		/* later, what of these is still spare is given back */
		a->wake(a->wake_arg);
	return offset;
}

uint64_t tz_alloc_take_table(struct tz_alloc *a, uint32_t index)
{
	uint64_t offset = spare(a) ? take_spare(a, index, TZ_NO_SEGMENT) : 0;

	/* There was none, or another thread has taken the last one. */
	return offset ? offset : take_spare(a, index, reserve_pop(a));
}

void tz_alloc_tear(struct tz_alloc *a, uint32_t s)
{
	tz_lock_take(&a->table_lock);
	a->segments[s].next = a->torn;
	a->torn = s;
	tz_lock_drop(&a->table_lock);
}

uint32_t tz_alloc_take_torn(struct tz_alloc *a, unsigned *n)
{
	uint32_t s;

	tz_lock_take(&a->table_lock);
	s = a->torn;
	if (s != TZ_NO_SEGMENT) {
		a->torn = a->segments[s].next;
		*n = (unsigned)__builtin_popcount(a->segments[s].table.ready);
	}
	tz_lock_drop(&a->table_lock);
	return s;
}

void tz_alloc_put_table(struct tz_alloc *a, uint64_t offset)
{
	uint64_t in = offset - a->arena->segment_offset;
	uint32_t s = (uint32_t)(in / TZ_SEGMENT_SIZE),
		 bit = 1u << in % TZ_SEGMENT_SIZE / TZ_PAGE_SIZE;
	struct tz_segment *m = &a->segments[s];
	int empty, whole, many;

	tz_lock_take(&a->table_lock);
	table_set(a, s, m->table.pages & ~bit, m->table.ready);
	empty = m->table.pages == 0;
	whole = m->table.ready == UINT32_MAX;
	if (empty) {
		table_remove(a, s);
		set_state(m, TZ_SEGMENT_BETWEEN);
		count_table(a, 0, -__builtin_popcount(m->table.ready));
		a->table_holes -= (uint64_t)__builtin_popcount(~m->table.ready);
	}
	many = spare(a) > atomic_load_explicit(&a->spare_high, memory_order_relaxed);
	tz_lock_drop(&a->table_lock);
	if (empty && whole)
		tz_alloc_reserve_push(a, s);
	else if (empty)
		tz_alloc_tear(a, s);
	if (many || (empty && !whole))
		a->wake(a->wake_arg);
}

uint64_t tz_alloc_shrink_table(struct tz_alloc *a, unsigned most, unsigned *n)
{
	uint64_t offset = 0;

	tz_lock_take(&a->table_lock);
	uint32_t s = a->table_partial;
	if (s != TZ_NO_SEGMENT) {
		struct tz_segment *m = &a->segments[s];
		uint32_t left = spare_of(m);
		unsigned first = TZ_TABLE_PAGES - (unsigned)__builtin_clz(left);
		for (*n = 0; *n < most && first && left >> (first - 1) & 1; ++*n)
			first--;
		table_set(a, s, m->table.pages, m->table.ready & ~run_of(first, *n));
		offset = tz_segment_offset(a->arena, s) + (uint64_t)first * TZ_PAGE_SIZE;
	}
	tz_lock_drop(&a->table_lock);
	return offset;
}

uint64_t tz_alloc_grow_table(struct tz_alloc *a, unsigned most, unsigned *n)
{
	uint64_t offset = 0;

	tz_lock_take(&a->table_lock);
	uint32_t s = a->table_dry != TZ_NO_SEGMENT ? a->table_dry : a->table_partial;
	for (unsigned i = 0; i < LOOK_FOR_HOLES && s != TZ_NO_SEGMENT; i++)
		if (a->segments[s].table.ready == UINT32_MAX)
			s = a->segments[s].next;
	if (s != TZ_NO_SEGMENT && a->segments[s].table.ready != UINT32_MAX) {
		uint32_t ready = a->segments[s].table.ready;
		unsigned first = (unsigned)__builtin_ctz(~ready);
		for (*n = 0; *n < most && first + *n < TZ_TABLE_PAGES; ++*n)
			if (ready >> (first + *n) & 1)
				break;
		offset = tz_segment_offset(a->arena, s) + (uint64_t)first * TZ_PAGE_SIZE;
	}
	tz_lock_drop(&a->table_lock);
	return offset;
}

void tz_alloc_spare_table(struct tz_alloc *a, uint64_t offset, unsigned n)
{
	uint64_t in = offset - a->arena->segment_offset;
	uint32_t s = (uint32_t)(in / TZ_SEGMENT_SIZE),
		 run = run_of((unsigned)(in % TZ_SEGMENT_SIZE / TZ_PAGE_SIZE), n);
	struct tz_segment *m = &a->segments[s];

	tz_lock_take(&a->table_lock);
	/* Its last page in use may have been freed meanwhile: it is torn then. */
	if (state_of(m) == TZ_SEGMENT_TABLE)
		table_set(a, s, m->table.pages, m->table.ready | run);
	else
		m->table.ready |= run;
	tz_lock_drop(&a->table_lock);
}

static int has_index(const struct tz_segment *m, unsigned i, uint32_t index)
{
	return __atomic_load_n(&m->table.pages, __ATOMIC_ACQUIRE) >> i & 1 &&
		tz_alloc_table_index(m, i) == index;
}

uint64_t tz_alloc_find_table(const struct tz_alloc *a, uint32_t index)
{
	tz_lock *lock = (tz_lock *)(uintptr_t)&a->table_lock;
	uint32_t known = atomic_load(&a->nr_known);

	for (uint32_t s = 0; s < known; s++) {
		const struct tz_segment *m = &a->segments[s];
		if (tz_alloc_state(a, s) != TZ_SEGMENT_TABLE)
			continue;
		for (unsigned i = 0; i < TZ_TABLE_PAGES; i++) {
			if (!has_index(m, i, index))
				continue;
			/* Not while it changes. */
			tz_lock_take(lock);
			int found = state_of(m) == TZ_SEGMENT_TABLE && has_index(m, i, index);
			tz_lock_drop(lock);
			if (found)
				return tz_segment_offset(a->arena, s) + (uint64_t)i * TZ_PAGE_SIZE;
		}
	}
	return 0;
}

/* ---- emptying a segment ---- */

static void sort_holes(struct tz_hole *holes, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		struct tz_hole h = holes[i];
		unsigned k = i;
		for (; k && holes[k - 1].start > h.start; k--)
			holes[k] = holes[k - 1];
		holes[k] = h;
	}
}

int tz_alloc_evacuate_begin(struct tz_alloc *a, uint32_t s, struct tz_evacuation *e)
{
	struct tz_segment *m = &a->segments[s];
	struct tz_shard *sh = &a->shards[atomic_load_explicit(&m->shard, memory_order_relaxed)];
	int ours;

	tz_lock_take(&sh->lock);
	ours = has(a, sh, s);
	if (ours) {
		if (m->largest)
			list_remove(a, sh, s);
		set_state(m, TZ_SEGMENT_EVACUATING);
		e->segment = s;
		e->nr_holes = m->nr_holes;
		memcpy(e->holes, m->holes, m->nr_holes * sizeof *e->holes);
	}
	tz_lock_drop(&sh->lock);
	if (ours)
		sort_holes(e->holes, e->nr_holes);
	return ours ? 0 : -EBUSY;
}

void tz_alloc_evacuate_end(struct tz_alloc *a, const struct tz_evacuation *e)
{
	struct tz_segment *m = &a->segments[e->segment];
	struct tz_shard *sh = &a->shards[atomic_load_explicit(&m->shard, memory_order_relaxed)];
	int empty;

	tz_lock_take(&sh->lock);
	empty = free_of(m) == TZ_SEGMENT_UNITS;
	if (empty) {
		detach(a, sh, e->segment);
	} else {
		set_state(m, TZ_SEGMENT_OBJECTS);
		if (m->largest)
			list_add(a, sh, e->segment);
	}
	tz_lock_drop(&sh->lock);
	if (empty)
		tz_alloc_reserve_push(a, e->segment);
}

/* ---- rebuilding ---- */

void tz_alloc_adopt(struct tz_alloc *a, uint32_t s, unsigned first, unsigned n)
{
	if (!tz_alloc_is_present(a, s))
		be_present(a, s);
	a->segments[s].table.ready |= run_of(first, n);
	a->adopted_bytes += (uint64_t)n * TZ_PAGE_SIZE;
}

void tz_alloc_adopt_table_page(struct tz_alloc *a, uint64_t offset, uint32_t index)
{
	uint64_t in = offset - a->arena->segment_offset;
	struct tz_segment *m = &a->segments[in / TZ_SEGMENT_SIZE];
	unsigned i = (unsigned)(in % TZ_SEGMENT_SIZE / TZ_PAGE_SIZE);

	set_state(m, TZ_SEGMENT_TABLE);
	set_index(m, i, index);
	m->table.pages |= 1u << i;
}

void tz_alloc_adopt_table(struct tz_alloc *a, uint32_t s)
{
	const struct tz_segment *m = &a->segments[s];

	table_add(a, s);
	count_table(a, __builtin_popcount(m->table.pages), __builtin_popcount(spare_of(m)));
	a->table_holes += (unsigned)__builtin_popcount(~m->table.ready);
}

/* The first unit from `at` on that is taken (or free), or TZ_SEGMENT_UNITS. */
static unsigned next_unit(const uint64_t *taken, unsigned at, int is_taken)
{
	for (; at < TZ_SEGMENT_UNITS; at = (at / 64 + 1) * 64) {
		uint64_t left = (is_taken ? taken[at / 64] : ~taken[at / 64]) & ~0ull << at % 64;
		if (left)
			return at / 64 * 64 + (unsigned)__builtin_ctzll(left);
	}
	return TZ_SEGMENT_UNITS;
}

void tz_alloc_adopt_objects(
	struct tz_alloc *a, uint32_t s, unsigned shard, const uint64_t *taken)
{
	struct tz_segment *m = &a->segments[s];
	struct tz_shard *sh = &a->shards[shard];
	unsigned units = 0, end;

	m->nr_holes = 0;
	for (unsigned at = 0; (at = next_unit(taken, at, 0)) < TZ_SEGMENT_UNITS; at = end) {
		end = next_unit(taken, at, 1);
		add_hole(m, at, end - at);
		hint(sh, s, end - at);
		units += end - at;
	}
	set_free(m, units);
	m->largest = (uint16_t)largest_hole(m);
	m->next = m->prev = TZ_NO_SEGMENT;
	atomic_store_explicit(&m->shard, (uint8_t)shard, memory_order_relaxed);
	set_state(m, TZ_SEGMENT_OBJECTS);
	if (m->largest)
		list_add(a, sh, s);
	count_segments(a, sh, 1);
	atomic_fetch_add_explicit(&sh->free_units, units, memory_order_relaxed);
}

uint64_t *tz_units_map(uint64_t segments)
{
	uint64_t *bits = mmap(NULL, segments * (TZ_SEGMENT_UNITS / 8), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return bits == MAP_FAILED ? NULL : bits;
}

void tz_units_unmap(uint64_t *bits, uint64_t segments)
{
	if (bits)
		munmap(bits, segments * (TZ_SEGMENT_UNITS / 8));
}

/* The n bits from `first` on that are in one word of them; *n is how many. */
static uint64_t word_mask(uint64_t first, unsigned *n)
{
	unsigned room = 64 - (unsigned)(first % 64);

	*n = *n < room ? *n : room;
	return (*n == 64 ? ~0ull : (1ull << *n) - 1) << first % 64;
}

int tz_units_any(const uint64_t *bits, uint64_t first, unsigned n)
{
	uint64_t any = 0;

	for (unsigned here; n; first += here, n -= here) {
		here = n;
		any |= bits[first / 64] & word_mask(first, &here);
	}
	return any != 0;
}

void tz_units_take(uint64_t *bits, uint64_t first, unsigned n)
{
	for (unsigned here; n; first += here, n -= here) {
		here = n;
		bits[first / 64] |= word_mask(first, &here);
	}
}

/* ---- making and ending ---- */

int tz_alloc_create(struct tz_alloc *a, struct tz_arena *arena, struct tz_stats *stats,
	unsigned shards, char *why, size_t why_size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	size_t metadata = (arena->nr_segments + GROUP - 1) / GROUP * TZ_PAGE_SIZE;

	memset(a, 0, sizeof *a);
	a->arena = arena;
	a->stats = stats;
	a->nr_shards = shards < TZ_MAX_SHARDS ? shards : TZ_MAX_SHARDS;
	a->reserve = a->table_partial = a->table_dry = a->torn = TZ_NO_SEGMENT;
	a->reserve_high = UINT32_MAX;		/* until there is somebody to wake */
	a->mapping_len = metadata + arena->nr_segments / 8 + 64;
	a->segments = mmap(
		NULL, a->mapping_len, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
	a->shards = mmap(NULL, (a->nr_shards + TZ_OWN_SHARDS) * sizeof *a->shards,
		PROT_READ | PROT_WRITE, flags | MAP_POPULATE, -1, 0);
	if (a->segments == MAP_FAILED || a->shards == MAP_FAILED) {
		snprintf(why, why_size, "cannot map the allocator's memory: %s", strerror(errno));
		return -ENOMEM;
	}
	a->present = (_Atomic uint64_t *)(void *)((char *)a->segments + metadata);
	/* A huge page would be 2 MiB for the first segment. */
	madvise(a->segments, a->mapping_len, MADV_NOHUGEPAGE);
	/* Locked as it is touched, which only the thread that populates a segment does first.
	 * Without the right to (an ordinary user's local device) it works unlocked; the server
	 * shows that. */
	syscall(SYS_mlock2, a->segments, a->mapping_len, MLOCK_ONFAULT);
	a->shards[tz_alloc_own_shard(a, TZ_SHARD_GROUPS)].shift = 4;
	for (unsigned i = 0; i < a->nr_shards + TZ_OWN_SHARDS; i++)
		for (unsigned n = 0; n <= TZ_MAX_UNITS; n++)
			a->shards[i].by_largest[n] = TZ_NO_SEGMENT;
	return 0;
}

void tz_alloc_destroy(struct tz_alloc *a)
{
	if (a->segments && a->segments != MAP_FAILED)
		munmap(a->segments, a->mapping_len);
	if (a->shards && a->shards != MAP_FAILED)
		munmap(a->shards, (a->nr_shards + TZ_OWN_SHARDS) * sizeof *a->shards);
}
