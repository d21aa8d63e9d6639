/* housekeeping.c - what is done while nobody waits: sparse segments are emptied, and empty pages of
 * the table taken away.
 *
 * One thread, which sleeps until a queue thread has freed enough that looking may pay, or something
 * is due: pages become older (age.c), or are written once more (recompress.c).
 *
 * Emptying: what overwriting and discarding leave free in many segments adds up. The sparsest
 * segments are taken out of use one at a time; each object in them is found by walking the
 * segment's units, for it names its page (owner), and the page's entry must name the object in
 * return: what is free, being written or damaged does not pass that test and is stepped over.
 * Objects are copied to where they fit best, and entries exchanged if they still are what they
 * were. What it costs depends on the segments emptied, not on the size of the table. A pass ends
 * when it gains little: with objects of many sizes, about one per cent always stays in holes.
 *
 * A page of the table that holds nothing is marked CLOSING in the directory; once every thread has
 * been outside since, none can be about to write to it without having seen the mark, which a writer
 * takes off first. If it is still empty and marked then, it leaves the directory, and when again
 * every thread has been outside, its memory is free.
 */
#include "clock.h"
#include "store_impl.h"
#include "thread.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define STACK_SIZE (96u << 10)
#define LEAST_WASTE TZ_SEGMENT_SIZE		/* bytes in holes that are worth a pass */
#define STEP 256u		/* places of a segment looked at without going outside */
/* segments emptied before gain and cost are compared: one in 64 of what there are, so that looking
 * at all of them costs less than emptying these; within */
#define LEAST_BATCH 64u
#define MOST_BATCH 1024u
#define BINS 256u		/* of a histogram of segments by free units */
#define TABLES_AT_ONCE 32u
#define QUIET_NS 1000000000u
#define MOST_WAITS 2000u		/* for a segment, of 1 ms each */

void tz_housekeeping_wake(struct tz_store *s)
{
	struct tz_housekeeping *h = &s->housekeeping;

	if (atomic_exchange(&h->wake, 1) == 0)
		tz_futex(&h->wake, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static uint64_t free_bytes(const struct tz_alloc *a)
{
	uint64_t units = 0;

	for (unsigned i = 0; i < a->nr_shards; i++)
		units += atomic_load_explicit(&a->shards[i].free_units, memory_order_relaxed);
	return units * TZ_UNIT;
}

static uint64_t segments_in_use(const struct tz_alloc *a)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < a->nr_shards; i++)
		n += atomic_load_explicit(&a->shards[i].segments, memory_order_relaxed);
	return n;
}

/* Holes worth a pass: more than one per cent of what the segments hold, and more than the last pass
 * had to leave. When compaction was asked for, whatever is more than a segment. */
static int is_wasteful(struct tz_store *s, int asked)
{
	uint64_t waste = free_bytes(&s->alloc), all = segments_in_use(&s->alloc) * TZ_SEGMENT_SIZE;

	return waste > LEAST_WASTE && waste > atomic_load(&s->housekeeping.enough) &&
		(waste > all / 100 || asked);
}

void tz_housekeeping_look(struct tz_store_thread *t)
{
	struct tz_housekeeping *h = &t->store->housekeeping;

	if (t->emptied >= TZ_TABLE_ENTRIES) {
		t->emptied = 0;
		atomic_store(&h->look_at_table, 1);
		tz_housekeeping_wake(t->store);
	}
	if (t->freed_units < TZ_LOOK_UNITS)
		return;
	t->freed_units = 0;
	if (is_wasteful(t->store, 0) || tz_dedup_is_sparse(t->store, 0) ||
		tz_groups_want_care(t->store))
		tz_housekeeping_wake(t->store);
}

void tz_housekeeping_look_at_all(struct tz_store *s)
{
	atomic_store(&s->housekeeping.look_at_table, 1);
	tz_housekeeping_wake(s);
}

/* ---- what other threads leave to be freed ---- */

void tz_housekeeping_leave(struct tz_store_thread *t)
{
	struct tz_housekeeping *h = &t->store->housekeeping;
	unsigned places = sizeof h->left / sizeof *h->left, before = t->nr_set_aside;

	if (t == &t->store->threads[t->store->nr_threads + TZ_HOUSEKEEPER])
		return;
	for (unsigned i = 0; i < places && t->nr_set_aside; i++) {
		uint64_t none = 0;
		if (atomic_compare_exchange_strong(
			    &h->left[i], &none, t->set_aside[t->nr_set_aside - 1].entry))
			t->nr_set_aside--;
	}
	if (t->nr_set_aside < before)
		tz_housekeeping_wake(t->store);
}

/* Only a message about damage needs the page, and this thread has none to give. */
static void take_over(struct tz_store_thread *t)
{
	struct tz_housekeeping *h = &t->store->housekeeping;

	tz_store_begin(t);
	for (unsigned i = 0; i < sizeof h->left / sizeof *h->left; i++)
		tz_store_retire(t, 0, atomic_exchange(&h->left[i], 0));
	tz_store_end(t);
}

/* ---- emptying segments ---- */

/* At mem_limit, what was made smaller is held against it until its holes are given back. */
int tz_housekeeping_no_room(struct tz_store *s)
{
	int rc = tz_reserve_no_room(&s->reserve);

	if (rc != -ENOSPC || !atomic_load(&s->housekeeping.borrowed))
		return rc;
	atomic_store(&s->housekeeping.squeezed, 1);
	tz_housekeeping_wake(s);
	return -EAGAIN;
}

/* In a segment's hole, or where the reserve can spare one, in a new segment. */
uint64_t tz_housekeeping_room(struct tz_store *s, unsigned shard, unsigned units)
{
	uint64_t offset = tz_alloc_take_existing(&s->alloc, shard, units);

	if (!offset && atomic_load(&s->alloc.reserve_count) > 1)
		offset = tz_alloc_take(&s->alloc, shard, units);
	if (!offset)
		s->housekeeping.no_room = 1;
	return offset;
}

/* Moves the page's object if it is the one at `offset`. Units to step over: 1 if it is not
 * there. */
static unsigned move(struct tz_store_thread *t, uint64_t page, uint64_t offset, unsigned shard)
{
	struct tz_store *s = t->store;
	int damaged = 0, published = 0;
	_Atomic uint64_t *slot = page < s->nr_pages ? tz_table_slot(s, page, &damaged) : NULL;
	uint64_t entry = slot ? tz_store_announce(t, slot) : 0, to = 0;
	unsigned units = 1;

	TZ_TEST_POINT("moving");
	if (tz_entry_has_object(entry) && !tz_entry_is_grouped(entry) &&
		tz_entry_offset(entry) == offset && !tz_store_fault(s, page, entry)) {
		units = tz_entry_units(entry);
		to = tz_housekeeping_room(s, shard, units);
	}
	if (to) {
		memcpy(s->arena.base + to, s->arena.base + offset, units * TZ_UNIT);
		/* Still announced: the room cannot come back to this page with other content and
		 * the same entry. */
		published = tz_store_exchange(slot, page, &entry,
			tz_entry_object(page, tz_entry_kind(entry), to, tz_entry_length(entry)));
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (published)
		tz_store_retire(t, page, entry);
	else if (to)
		tz_alloc_put(&s->alloc, to, units);		/* overwritten meanwhile */
	return units;
}

/* Walks a segment's units and moves what it finds, as far as there is room for it elsewhere. After
 * each STEP places it goes outside: nobody waits for it longer than that takes. */
static void empty_segment(struct tz_store_thread *t, const struct tz_evacuation *e, unsigned shard)
{
	const struct tz_store *s = t->store;
	uint64_t base = tz_segment_offset(&s->arena, e->segment);
	unsigned at = 0, hole = 0, looks = 0;

	while (at < TZ_SEGMENT_UNITS &&
		!atomic_load_explicit(&s->housekeeping.stop, memory_order_relaxed)) {
		if (hole < e->nr_holes && at == e->holes[hole].start) {
			at += e->holes[hole++].units;
			continue;
		}
		if (++looks % STEP == 0) {
			tz_store_end(t);
			tz_store_begin(t);
		}
		TZ_TEST_POINT("walking");
		struct tz_object_head head;
		uint64_t offset = base + (uint64_t)at * TZ_UNIT;
		tz_arena_load(&s->arena, offset, &head, sizeof head);
		at += move(t, head.owner, offset, shard);
		while (hole < e->nr_holes && e->holes[hole].start < at)
			hole++;
	}
}

/* Not what has objects that pages share, or groups: that is done in other ways (dedup_compact.c,
 * group_pack.c). */
static int can_be_emptied(const struct tz_store *s, uint32_t segment)
{
	return tz_alloc_state(&s->alloc, segment) == TZ_SEGMENT_OBJECTS &&
		tz_alloc_shard(&s->alloc, segment) < s->alloc.nr_shards;
}

static unsigned batch(const struct tz_store *s)
{
	unsigned n = atomic_load(&s->alloc.nr_known) / 64;

	return n < LEAST_BATCH ? LEAST_BATCH : n < MOST_BATCH ? n : MOST_BATCH;
}

/* The free units from which on about `want` segments are the sparsest; nearly what they all have on
 * average at least (when all are equally full, one is as good as another), and a hundredth of a
 * segment, for less is not worth moving the rest. */
static unsigned threshold(struct tz_store *s, unsigned want)
{
	uint32_t by_free[BINS + 1] = { 0 }, known = atomic_load(&s->alloc.nr_known), sum = 0;
	uint64_t n = segments_in_use(&s->alloc), mean = n ? free_bytes(&s->alloc) / TZ_UNIT / n : 0;
	unsigned width = TZ_SEGMENT_UNITS / BINS, least = (unsigned)(mean - mean / 8),
		 bin = BINS + 1;

	for (uint32_t i = 0; i < known; i++)
		if (can_be_emptied(s, i))
			by_free[tz_alloc_free_units(&s->alloc, i) / width]++;
	while (bin && sum < want)
		sum += by_free[--bin];
	if (least < TZ_SEGMENT_UNITS / 100)
		least = TZ_SEGMENT_UNITS / 100;
	return bin * width > least ? bin * width : least;
}

/* The segments to empty in one pass, and the free units that they have at least. How many. */
static unsigned choose(struct tz_store *s, uint32_t *chosen, unsigned *from)
{
	uint32_t known = atomic_load(&s->alloc.nr_known);
	unsigned want = batch(s), n = 0;

	*from = threshold(s, want);
	for (uint32_t i = 0; i < known && n < want; i++)
		if (can_be_emptied(s, i) && tz_alloc_free_units(&s->alloc, i) >= *from)
			chosen[n++] = i;
	return n;
}

/* Empties the sparsest segments. How many it took up. They are chosen beforehand: one that takes up
 * what is moved is sparse, too, at first; and one that has taken up much is left alone. */
static unsigned empty_some(struct tz_store_thread *t)
{
	struct tz_store *s = t->store;
	uint32_t chosen[MOST_BATCH];
	unsigned from, n = choose(s, chosen, &from), done = 0;
	struct tz_evacuation e;

	for (unsigned i = 0; i < n && !atomic_load(&s->housekeeping.stop); i++) {
		if (tz_alloc_free_units(&s->alloc, chosen[i]) < from ||
			tz_alloc_evacuate_begin(&s->alloc, chosen[i], &e) < 0)
			continue;
		tz_store_begin(t);
		empty_segment(t, &e, tz_alloc_shard(&s->alloc, chosen[i]));
		tz_store_free_set_aside(t);
		tz_store_end(t);
		tz_alloc_evacuate_end(&s->alloc, &e);
		done++;
	}
	return done;
}

/* Whether another pass may gain what this one did not, because there was no segment to spare: the
 * reserve's thread is at it, but not for ever. */
static int wait_for_room(struct tz_store *s, unsigned *waited)
{
	if (!s->housekeeping.no_room || tz_reserve_no_room(&s->reserve) == -ENOSPC ||
	    ++*waited > MOST_WAITS)
		return 0;
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return 1;
}

/* Of the compaction that was asked for: how much of the holes there were then is gone. */
static void show_progress(struct tz_store *s)
{
	uint64_t now = free_bytes(&s->alloc), first = s->housekeeping.holes_at_first;

	if (s->housekeeping.asked)
		TZ_STATS_SET(s->stats->compact_permille,
			first && now < first ? (first - now) * 999 / first : 0);
}

static void compact(struct tz_store_thread *t)
{
	struct tz_store *s = t->store;
	unsigned waited = 0;

	while (is_wasteful(s, s->housekeeping.thorough) && !atomic_load(&s->housekeeping.stop)) {
		uint64_t before = segments_in_use(&s->alloc), now, gained;
		uint64_t holes = free_bytes(&s->alloc);
		TZ_TEST_POINT("pass");
		s->housekeeping.no_room = 0;
		unsigned n = empty_some(t);
		now = segments_in_use(&s->alloc);
		gained = before > now ? before - now : 0;
		__atomic_store_n(&s->stats->pages_compacted, s->stats->pages_compacted +
			gained * (TZ_SEGMENT_SIZE / TZ_PAGE_SIZE), __ATOMIC_RELAXED);
		show_progress(s);
		if (gained * 64 > n || wait_for_room(s, &waited)) {
			atomic_store(&s->housekeeping.enough, 0);
			continue;
		}
		/* Not before there is more than when it began. */
		atomic_store(&s->housekeeping.enough, holes + now * (TZ_SEGMENT_SIZE / 128));
	}
}

/* ---- empty pages of the table ---- */

static int is_empty(const struct tz_store *s, uint64_t offset)
{
	_Atomic uint64_t *entries = (_Atomic uint64_t *)(s->arena.base + offset);

	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++)
		if (atomic_load_explicit(&entries[i], memory_order_relaxed))
			return 0;
	return 1;
}

struct closing {
	uint64_t index, entry;
};

/* Marks empty pages from `*at` on. How many; *at is where it ended. */
static unsigned mark_empty(struct tz_store *s, uint64_t *at, struct closing *found)
{
	unsigned n = 0;
	uint64_t i;

	for (i = *at; i < s->arena.nr_tables && n < TABLES_AT_ONCE &&
		!atomic_load(&s->housekeeping.stop); i++) {
		int damaged = 0;
		if (!tz_arena_directory_ready(&s->arena, i)) {
			i |= TZ_DIRECTORY_ENTRIES - 1;
			continue;
		}
		uint64_t offset = tz_table_page(s, i, &damaged);
		if (!offset || !is_empty(s, offset))
			continue;
		uint64_t open = tz_table_directory_entry(i, offset, 0);
		uint64_t closing = tz_table_directory_entry(i, offset, 1);
		if (atomic_compare_exchange_strong(&s->arena.directory[i], &open, closing) ||
			open == closing)
			found[n++] = (struct closing){ i, closing };
	}
	*at = i;
	return n;
}

/* Takes the marked ones that are still empty out of the directory. How many, moved to the front. */
static unsigned take_out(struct tz_store *s, struct closing *found, unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t expected = found[i].entry, open;
		open = tz_table_directory_entry(found[i].index, tz_entry_offset(expected), 0);
		if (is_empty(s, tz_entry_offset(expected))) {
			if (atomic_compare_exchange_strong(
				    &s->arena.directory[found[i].index], &expected, 0))
				found[kept++] = found[i];
		} else {
			atomic_compare_exchange_strong(
				&s->arena.directory[found[i].index], &expected, open);
		}
	}
	return kept;
}

static void tidy_table(struct tz_store *s)
{
	struct closing found[TABLES_AT_ONCE];
	const _Atomic uint32_t *stop = &s->housekeeping.stop;
	uint64_t at = 0;
	unsigned n;

	while ((n = mark_empty(s, &at, found)) > 0) {
		tz_store_wait_for_all(s);
		if (atomic_load(stop) || !(n = take_out(s, found, n)))
			continue;
		tz_store_wait_for_all(s);
		if (atomic_load(stop))
			return;	/* somebody may still be reading them; they go with the arena */
		for (unsigned i = 0; i < n; i++)
			tz_alloc_put_table(&s->alloc, tz_entry_offset(found[i].entry));
	}
}

/* ---- the thread ---- */

/* What was still being read at the end of a pass is freed when it is not. */
static void free_rest(struct tz_store_thread *t, const _Atomic uint32_t *stop)
{
	struct timespec pause = { 0, 1000000 };

	while (t->nr_set_aside && !atomic_load(stop)) {
		nanosleep(&pause, NULL);
		tz_store_begin(t);
		tz_store_free_set_aside(t);
		tz_store_end(t);
	}
}

static void look_after(struct tz_store_thread *t)
{
	struct tz_store *s = t->store;
	struct tz_housekeeping *h = &s->housekeeping;
	uint64_t ticket = atomic_load(&h->tickets);
	uint32_t squeezed = atomic_exchange(&h->squeezed, 0);

	h->asked = ticket != s->stats->compact_done;
	h->thorough = h->asked || squeezed;
	if (h->thorough) {
		atomic_store(&h->enough, 0);
		h->holes_at_first = free_bytes(&s->alloc);
	}
	show_progress(s);
	take_over(t);
	compact(t);
	while (tz_dedup_compact(t, h->thorough))
		;
	tz_groups_look_after(t, h->thorough);
	if (squeezed)
		atomic_store(&h->borrowed, 0);
	if (atomic_exchange(&h->look_at_table, 0))
		h->once_more = 1;
	if (h->once_more || h->asked)
		tidy_table(s);
	free_rest(t, &h->stop);
	if (h->asked)
		tz_reserve_trim(&s->reserve);
	TZ_STATS_SET(s->stats->compact_done, ticket);
}

/* When it has been quiet: what was discarded since the last look was too little to wake this
 * thread. */
static uint64_t tidy_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_housekeeping *h = &t->store->housekeeping;

	if (!h->once_more)
		return TZ_NO_TURN;
	if (now < h->quiet_at)
		return h->quiet_at;
	h->once_more = 0;
	tidy_table(t->store);
	return TZ_NO_TURN;
}

/* Does what is due of that which can wait. When something will be again. */
static uint64_t take_turns(struct tz_store_thread *t)
{
	static uint64_t (*const turns[])(struct tz_store_thread *t, uint64_t now) = {
		tidy_turn, tz_age_turn, tz_recompress_turn, tz_policy_turn, tz_backing_turn,
	};
	uint64_t first = TZ_NO_TURN;

	for (unsigned i = 0; i < sizeof turns / sizeof *turns; i++) {
		uint64_t next = turns[i](t, tz_now_ns());
		if (next < first)
			first = next;
	}
	return first;
}

static void wait_until(struct tz_housekeeping *h, uint64_t until)
{
	uint64_t now = tz_now_ns(), ns = until > now ? until - now : 0;
	struct timespec pause = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };

	if (ns)
		tz_futex(&h->wake, FUTEX_WAIT_PRIVATE, 0, until == TZ_NO_TURN ? NULL : &pause);
}

static void *run(void *arg)
{
	struct tz_store *s = arg;
	struct tz_housekeeping *h = &s->housekeeping;
	struct tz_store_thread *t = &s->threads[s->nr_threads + TZ_HOUSEKEEPER];

	tz_thread_begin("tz-housekeeping");
	while (!atomic_load(&h->stop)) {
		if (atomic_exchange(&h->wake, 0)) {
			look_after(t);
			h->quiet_at = tz_now_ns() + QUIET_NS;
		} else {
			wait_until(h, take_turns(t));
		}
	}
	return NULL;
}

uint64_t tz_store_compact(struct tz_store *s)
{
	uint64_t ticket = atomic_fetch_add(&s->housekeeping.tickets, 1) + 1;

	tz_housekeeping_wake(s);
	return ticket;
}

int tz_housekeeping_start(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_housekeeping *h = &s->housekeeping;
	int rc;

	tz_age_start(s);
	rc = tz_policy_start(s, why, why_size);
	if (rc < 0)
		return rc;
	rc = tz_thread_start(&h->thread, STACK_SIZE, run, s, "the housekeeping thread", why,
		why_size);
	h->started = rc == 0;
	if (rc < 0)
		tz_policy_drop(s);
	return rc;
}

void tz_housekeeping_stop(struct tz_store *s)
{
	struct tz_housekeeping *h = &s->housekeeping;

	if (!h->started)
		return;
	atomic_store(&h->stop, 1);
	atomic_store(&h->wake, 1);
	tz_futex(&h->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
	pthread_join(h->thread, NULL);
	h->started = 0;
	tz_recompress_drop(s);
	tz_policy_drop(s);
}
