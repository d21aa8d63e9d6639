/* age.c - how long pages have not been touched: the three bits of an entry, and the clock that
 * makes them rise.
 *
 * A write stores a new entry, which has age 0; a read makes it 0 if it is not. So what is in use
 * costs the I/O path nothing but a look at an entry that it has at hand anyway. Pages without an
 * object (same-filled ones) have no age: nothing could be gained by it.
 *
 * The housekeeper goes through the page table once in three minutes (PERIOD_NS). Every pass makes
 * pages of age 0 one step older, every third those of age 1 as well, every ninth those of age 2,
 * and so on: the higher an age, the longer a page stays in it. A pass that raises an age raises
 * all lower ones, too, each page by one step. So a page that enters an age has been in the one
 * before for the time between two passes of the one before that at least: an age says how old a
 * page is at least, exactly, and at most, within a factor of about nine (tz_age_least,
 * tz_age_most; tests/native/test_age.c goes through all orders). A pass begins no sooner than
 * PERIOD_NS after the last one was through, so each page waits that long, wherever it is. What a
 * reader or writer does at the same time wins: the exchange fails then.
 *
 * Ages are in the arena, so another server finds them. It begins to count passes anew: ages rise
 * later than they would have, never sooner. Time is CLOCK_MONOTONIC, which stops while the machine
 * is suspended.
 *
 * A pass also counts pages and bytes of each age for the statistics; so does one that is asked for,
 * which makes nothing older.
 *
 * When no page is young any more the clock stops: `resting` is set, all threads are waited for
 * once, and if the next pass finds nothing young either, nobody having begun to work meanwhile,
 * there is nothing to do until somebody does.
 */
#include "cold.h"
#include "clock.h"
#include "store_impl.h"

#include <string.h>

#define PERIOD_NS 180000000000ull	/* three minutes */
#define STEP_NS 300000u
#define PAUSE_FOR 10u		/* a pass takes a tenth of a core */

_Static_assert(TZ_AGES == 1u << TZ_ENTRY_AGE_BITS, "each has its place in the statistics");

/* Ages from 0 on rise with every pass, every third, ... */
static const uint64_t every[TZ_AGES - 1] = { 1, 3, 9, 27, 81, 324, 324 };

unsigned tz_age_top(uint64_t pulse)
{
	unsigned top = 0;

	while (top + 1 < TZ_AGES - 1 && pulse % every[top + 1] == 0)
		top++;
	return top;
}

/* Of the first n of them, one after the other. */
static uint64_t sum_of(unsigned n)
{
	uint64_t sum = 0;

	while (n)
		sum += every[--n];
	return sum;
}

uint64_t tz_age_least(unsigned age)
{
	return age ? sum_of(age - 1) : 0;
}

uint64_t tz_age_most(unsigned age)
{
	return age < TZ_AGES - 1 ? sum_of(age + 1) : UINT64_MAX;
}

static uint64_t period(const struct tz_store *s)
{
	uint64_t speed = atomic_load_explicit(&s->aging.speed, memory_order_relaxed);

	return PERIOD_NS / (speed ? speed : 1);
}

uint64_t tz_age_least_ns(const struct tz_store *s, unsigned age)
{
	return tz_age_least(age) * period(s);
}

unsigned tz_age_after(const struct tz_store *s, uint64_t ns)
{
	unsigned age = 0;

	while (age < TZ_AGES && tz_age_least_ns(s, age) < ns)
		age++;
	return age;
}

/* ---- one page of the table ---- */

/* Counts an entry, and makes it older if that is due. */
static void look_at(struct tz_store *s, uint64_t page, _Atomic uint64_t *slot)
{
	struct tz_aging *a = &s->aging;
	uint64_t entry = atomic_load_explicit(slot, memory_order_relaxed);
	unsigned age = tz_entry_age(entry);

	if (!tz_entry_has_object(entry) || !tz_kind_is_stored(tz_entry_kind(entry)))
		return;
	/* (What is damaged stays as it is: to seal it anew would make it look sound.) */
	if (a->hand == TZ_HAND_AGES && age <= a->top && !tz_store_fault(s, page, entry)) {
		uint64_t older = tz_entry_aged(page, entry, age + 1);
		TZ_TEST_POINT("aging");
		if (atomic_compare_exchange_strong(slot, &entry, older))
			age++;
		else if (!tz_entry_has_object(entry))
			return;
		else
			age = tz_entry_age(entry);
	}
	a->pages[age]++;
	if (!tz_entry_is_shared(entry) && !tz_entry_is_grouped(entry))
		a->bytes[age] += tz_entry_units(entry) * TZ_UNIT;
}

/* From *at on; *at is where it ended. 1: that is the end of the table. (No page of the table can go
 * meanwhile: only this thread takes them away.) */
static int look_through(struct tz_store *s, uint64_t *at, uint64_t end_ns)
{
	int looked = 1;

	for (; *at < s->arena.nr_tables; ++*at) {
		int damaged = 0;
		/* (Where there is no page of the table, the clock is most of the work.) */
		if ((looked || *at % 64 == 0) &&
		    (tz_now_ns() >= end_ns || atomic_load(&s->housekeeping.stop)))
			return 0;
		if (!tz_arena_directory_ready(&s->arena, *at)) {
			*at |= TZ_DIRECTORY_ENTRIES - 1;
			continue;
		}
		uint64_t offset = tz_table_page(s, *at, &damaged);
		_Atomic uint64_t *slots = (_Atomic uint64_t *)(s->arena.base + offset);
		looked = offset != 0;
		for (unsigned i = 0; offset && i < TZ_TABLE_ENTRIES; i++)
			look_at(s, *at * TZ_TABLE_ENTRIES + i, &slots[i]);
	}
	return 1;
}

/* ---- passes ---- */

static void begin(struct tz_store *s, unsigned hand)
{
	struct tz_aging *a = &s->aging;

	a->hand = hand;
	a->next = 0;
	a->next_step = 0;
	a->ticket = atomic_load(&a->tickets);
	memset(a->pages, 0, sizeof a->pages);
	memset(a->bytes, 0, sizeof a->bytes);
	if (hand == TZ_HAND_AGES)
		a->top = tz_age_top(++a->pulse);
}

static void show(struct tz_store *s, uint64_t now)
{
	struct tz_aging *a = &s->aging;
	struct tz_stats *to = s->stats;

	tz_stats_head_begin(to);
	for (unsigned age = 0; age < TZ_AGES; age++) {
		uint64_t most = tz_age_most(age);
		TZ_STATS_SET(to->age_least_ns[age], tz_age_least_ns(s, age));
		TZ_STATS_SET(to->age_most_ns[age], most == UINT64_MAX ? 0 : most * period(s));
		TZ_STATS_SET(to->age_pages[age], a->pages[age]);
		TZ_STATS_SET(to->age_bytes[age], a->bytes[age]);
	}
	TZ_STATS_SET(to->ages_counted_ns, now);
	tz_stats_head_end(to);
	TZ_STATS_SET(to->ages_counted, a->ticket);
}

static int is_anything_young(const struct tz_aging *a)
{
	for (unsigned age = 0; age < TZ_AGES - 1; age++)
		if (a->pages[age])
			return 1;
	return 0;
}

/* Whether there will be something to do depends on who comes. */
static void think_of_rest(struct tz_store *s)
{
	struct tz_aging *a = &s->aging;
	int resting = (int)atomic_load(&s->resting), young = is_anything_young(a);

	a->verified = resting && !young;
	if (young) {
		atomic_store(&s->resting, 0);
	} else if (!resting) {
		atomic_store(&s->resting, 1);
		tz_store_wait_for_all(s);
	}
}

static void end(struct tz_store *s)
{
	struct tz_aging *a = &s->aging;
	unsigned hand = a->hand;

	a->hand = TZ_HAND_RESTS;
	show(s, tz_now_ns());
	if (hand != TZ_HAND_AGES)
		return;
	think_of_rest(s);
	a->ended = tz_now_ns();
}

/* ---- the housekeeper's turns ---- */

/* When the next pass that makes pages older is due. */
static uint64_t when(const struct tz_store *s)
{
	return s->aging.verified && atomic_load(&s->resting) ? TZ_NO_TURN
		: s->aging.ended + period(s);
}

uint64_t tz_age_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_aging *a = &s->aging;

	if (a->hand == TZ_HAND_RESTS) {
		uint64_t due = when(s);
		if (now >= due)
			begin(s, TZ_HAND_AGES);
		else if (atomic_load(&a->tickets) != a->ticket)
			begin(s, TZ_HAND_COUNTS);
		else
			return due;
	}
	if (now < a->next_step)
		return a->next_step;
	if (look_through(s, &a->next, now + STEP_NS)) {
		end(s);
		return now;		/* what is next? */
	}
	/* (If it was away for longer, others had the CPU.) */
	uint64_t end = tz_now_ns(), spent = end - now < STEP_NS ? end - now : STEP_NS;
	a->next_step = end + spent * (PAUSE_FOR - 1);
	return a->next_step;
}

void tz_age_rouse(struct tz_store_thread *t)
{
	struct tz_store *s = t->store;

	if (t->index < s->nr_threads && atomic_exchange(&s->resting, 0))
		tz_housekeeping_wake(s);
}

void tz_age_start(struct tz_store *s)
{
	s->aging.ended = tz_now_ns();
	atomic_store(&s->aging.tickets, 1);		/* what there is, is counted at once */
}

uint64_t tz_store_count_ages(struct tz_store *s)
{
	uint64_t ticket = atomic_fetch_add(&s->aging.tickets, 1) + 1;

	tz_housekeeping_wake(s);
	return ticket;
}

void tz_store_set_age_speed(struct tz_store *s, uint64_t speed)
{
	atomic_store(&s->aging.speed, speed);
	tz_store_count_ages(s);
}
