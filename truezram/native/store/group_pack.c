/* group_pack.c - the housekeeper makes groups, moves them, and takes them apart (interface:
 * group.h; what a group is: group.c).
 *
 * Packing: the pages of a window are read one after another, each announced while it is read, and
 * compressed together while this thread is outside. The group is put in place, and then each page's
 * entry exchanged for one that names it, if the page still is what it was. That its entry is the
 * same does not say so: the room may have been freed meanwhile, and have come back to the page with
 * other content. So the object is compared as well, announced again. (An entry that names a group
 * does say so: nobody else makes groups.) The thread itself counts as a member until it is done, so
 * that the group is there for as long as that takes, even if all pages have been written meanwhile.
 *
 * Packing again and moving are the same, with members of the window's group among the pages: its
 * word becomes `old` then. All of its members go along, so that nothing of it is left. If the
 * server dies in between, the window has two groups; the next one takes the older, or what it takes
 * for it, apart: each of its members gets an object of its own.
 *
 * Segments of groups that have become sparse are emptied by moving: a group names the first page of
 * its window (owner), and the entries there say whether it is in use.
 */
#include "group.h"
#include "store_impl.h"

#include <errno.h>
#include <string.h>

#define LEAST_PAGES 2u		/* that are worth it */
#define LEAST_WASTE (2 * TZ_SEGMENT_SIZE)
#define LEAST_FREE (TZ_SEGMENT_UNITS / 8)	/* of a segment that is emptied */
#define BATCH 16u		/* segments that are emptied in a pass */

/* ---- what a window has ---- */

/* Where a page's entry is. NULL: it has none. */
static _Atomic uint64_t *slot_of(const struct tz_store *s, uint64_t page)
{
	int damaged = 0;

	return page < s->nr_pages ? tz_table_slot(s, page, &damaged) : NULL;
}

static struct tz_group_word word_now(struct tz_store *s, uint64_t window)
{
	struct tz_groups *g = &s->groups;
	struct tz_group_word w;

	tz_lock_take(&g->lock);
	w = g->words[window];
	tz_lock_drop(&g->lock);
	return w;
}

static int names(uint64_t entry, uint64_t unit)
{
	return tz_entry_is_grouped(entry) && tz_entry_offset(entry) / TZ_UNIT == unit;
}

/* Whether the page of a sound entry can be in a group: it has an object to itself that is not of a
 * few bytes anyway, or is in the window's group already. */
static int can_be_packed(uint64_t entry, struct tz_group_word word)
{
	if (tz_entry_is_grouped(entry))
		return names(entry, word.unit);
	return tz_entry_has_object(entry) && !tz_entry_is_shared(entry) &&
		tz_entry_kind(entry) != TZ_KIND_SAME_U64;
}

/* What no codec could compress is left alone, unless zstd can. (`packed` is free to use.) */
static int is_compressible(struct tz_group_packer *p, uint64_t entry, const uint8_t *page)
{
	return tz_entry_kind(entry) != TZ_KIND_RAW ||
		tz_zstd_group_compress(p->zstd, page, TZ_PAGE_SIZE, p->packed, TZ_HUGE_SIZE);
}

static int is_stopped(const struct tz_store *s)
{
	return atomic_load_explicit(&s->housekeeping.stop, memory_order_relaxed) != 0;
}

/* ---- taking one apart ---- */

/* Gives each member of a window's group an object of its own. 0: there was no room for some. */
static int take_apart(struct tz_store_thread *t, uint64_t window, uint64_t unit)
{
	struct tz_store *s = t->store;
	uint8_t *data = s->groups.packer->pages;
	int room = 1;

	for (unsigned i = 0; i < TZ_GROUP_PAGES && room; i++) {
		uint64_t page = window * TZ_GROUP_PAGES + i;
		_Atomic uint64_t *slot = slot_of(s, page);
		tz_store_begin(t);
		uint64_t entry = slot ? tz_store_announce(t, slot) : 0;
		if (names(entry, unit) && !tz_store_fault(s, page, entry) &&
			!tz_store_decode(t, page, entry, data))
			room = tz_group_leave(t, page, slot, entry, data) >= 0;
		atomic_store_explicit(&t->hazard, 0, memory_order_release);
		tz_store_free_set_aside(t);
		tz_store_end(t);
	}
	return room;
}

/* Whether a group may be replaced now: there is no other that is `old`. Usually that is gone by
 * now. If not, a thread has just exchanged an entry that names it and has not let go of it yet, so
 * all of them are waited for; or the server before has died while it was being replaced. (A member
 * that is damaged keeps its room until the next server counts.) */
static int settle(struct tz_store_thread *t)
{
	struct tz_groups *g = &t->store->groups;
	struct tz_group_word old;

	tz_lock_take(&g->lock);
	old = g->old;
	tz_lock_drop(&g->lock);
	if (!old.unit)
		return 1;
	if (!take_apart(t, g->old_window, old.unit))
		return 0;
	tz_store_wait_for_all(t->store);
	if (is_stopped(t->store))
		return 0;
	tz_lock_take(&g->lock);
	g->old = (struct tz_group_word){ 0 };
	tz_lock_drop(&g->lock);
	return 1;
}

/* ---- packing ---- */

struct packing {
	struct tz_store_thread *t;
	struct tz_group_packer *p;
	uint64_t window;
	struct tz_group_word word;	/* of the group that the window has; unit 0: none */
	struct tz_group_head head;	/* of the new one */
	uint64_t offset;		/* where that is */
	unsigned members, units;	/* of it */
	unsigned before;	/* units that its members take now */
};

static uint64_t page_of(const struct packing *k, unsigned place)
{
	return k->window * TZ_GROUP_PAGES + place;
}

/* Reads a page to the end of those that have been. 0; -1: it is a member of the group that the
 * window has, which is damaged. */
static int gather_page(struct packing *k, unsigned place, unsigned wanted)
{
	struct tz_store *s = k->t->store;
	uint64_t page = page_of(k, place), entry;
	unsigned n = (unsigned)__builtin_popcount(k->members);
	uint8_t *to = k->p->pages + n * TZ_PAGE_SIZE;
	_Atomic uint64_t *slot = slot_of(s, page);
	int rc = 0;

	entry = slot ? tz_store_announce(k->t, slot) : 0;
	if (entry && !tz_store_fault(s, page, entry) && can_be_packed(entry, k->word) &&
		(wanted >> place & 1 || tz_entry_is_grouped(entry))) {
		if (tz_store_decode(k->t, page, entry, to)) {
			rc = tz_entry_is_grouped(entry) ? -1 : 0;
		} else if (is_compressible(k->p, entry, to)) {
			uint32_t seed = tz_object_seed(page, TZ_KIND_GROUP);
			if (!tz_entry_is_grouped(entry)) {
				unsigned units = tz_entry_units(entry);
				memcpy(k->p->objects[place],
					s->arena.base + tz_entry_offset(entry), units * TZ_UNIT);
				k->before += units;
			}
			k->p->entries[place] = entry;
			k->members |= 1u << place;
			k->head.page_crc[n] = tz_crc32c(seed, to, TZ_PAGE_SIZE);
		}
	}
	atomic_store_explicit(&k->t->hazard, 0, memory_order_release);
	return rc;
}

/* An entry of the group that is replaced; 0: none was read. */
static uint64_t old_entry(const struct packing *k)
{
	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++)
		if (k->members >> i & 1 && tz_entry_is_grouped(k->p->entries[i]))
			return k->p->entries[i];
	return 0;
}

static int gather(struct packing *k, unsigned wanted)
{
	int rc = 0;

	tz_store_begin(k->t);
	for (unsigned place = 0; place < TZ_GROUP_PAGES && rc == 0; place++)
		rc = gather_page(k, place, wanted);
	if (old_entry(k))
		k->before += tz_entry_units(old_entry(k));
	tz_store_end(k->t);
	return rc;
}

/* Whether it gains a sixteenth at least. */
static int compress(struct packing *k)
{
	unsigned n = (unsigned)__builtin_popcount(k->members);
	size_t most = (size_t)k->before * TZ_UNIT * 15 / 16, length;
	unsigned head = tz_group_head_size(k->members);

	if (most <= head)
		return 0;
	most = most - head < TZ_GROUP_BYTES ? most - head : TZ_GROUP_BYTES;
	length = tz_zstd_group_compress(
		k->p->zstd, k->p->pages, n * TZ_PAGE_SIZE, k->p->packed, most);
	if (!length)
		return 0;
	k->head.owner = (uint32_t)page_of(k, 0);
	k->head.members = (uint16_t)k->members;
	k->head.length = (uint32_t)length;
	k->head.payload_crc = tz_crc32c(0, k->p->packed, length);
	k->head.crc = tz_crc32c(tz_object_seed(k->head.owner, TZ_KIND_GROUP), &k->head.members,
		head - 8);
	k->units = tz_group_units(k->members, (unsigned)length);
	return 1;
}

/* Room for a group, where the reserve can spare it. */
static uint64_t room_for(struct tz_store *s, unsigned units)
{
	return tz_alloc_take_own(&s->alloc, TZ_SHARD_GROUPS, units,
		atomic_load(&s->alloc.reserve_count) > 1);
}

/* ---- a group takes the place of what the window had ---- */

/* Those that come from the group that is replaced. */
static unsigned old_members(const struct packing *k)
{
	unsigned members = 0;

	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++)
		members |= (unsigned)tz_entry_is_grouped(k->p->entries[i]) << i;
	return members & 0xffff;
}

/* The word says from now on that the group is there; this thread counts as a member of it, and what
 * was there before is `old`. Of that this thread is a member, too, if `entry` names it: whether it
 * does. (Its room may have become the new one's since it was read.) */
static int begin_word(struct packing *k, uint64_t entry)
{
	struct tz_groups *g = &k->t->store->groups;
	struct tz_group_word word = tz_group_word_for(k->offset, &k->head);
	int held;

	tz_group_touch(k->t->store, k->window);
	tz_lock_take(&g->lock);
	g->old = g->words[k->window];
	g->old_window = k->window;
	held = entry && names(entry, g->old.unit);
	if (held) {
		g->old.count = (g->old.count + 1) & 31;
		word.read = g->old.read & old_members(k);
	}
	word.count = 1;
	g->words[k->window] = word;
	tz_lock_drop(&g->lock);
	return held;
}

static void one_more(struct packing *k)
{
	struct tz_groups *g = &k->t->store->groups;
	struct tz_group_word *w = &g->words[k->window];

	tz_lock_take(&g->lock);
	w->count = (w->count + 1) & 31;
	tz_lock_drop(&g->lock);
}

/* Nobody who reads it is in the way: this thread holds what it lets go of, and has counted it. */
static void let_go(struct packing *k, unsigned place, uint64_t entry)
{
	struct tz_queue_stats *q = k->t->stats;
	unsigned payload;

	if (tz_group_release(k->t->store, page_of(k, place), entry, &payload) != 0)
		return;
	tz_stats_begin(&q->seq);
	tz_group_count(q, entry, payload, -1);
	tz_stats_end(&q->seq);
	tz_store_retire(k->t, page_of(k, place), entry);
}

/* Whether the page's object, which is announced, is the one that was read. */
static int is_same(const struct packing *k, unsigned place, uint64_t entry)
{
	return entry == k->p->entries[place] &&
		(tz_entry_is_grouped(entry) ||
			!memcmp(k->t->store->arena.base + tz_entry_offset(entry),
				k->p->objects[place], tz_entry_units(entry) * TZ_UNIT));
}

/* Whether the page is a member now. */
static int join(struct packing *k, unsigned place)
{
	struct tz_store *s = k->t->store;
	uint64_t page = page_of(k, place), mine = tz_entry_group(page, k->offset, k->units);
	_Atomic uint64_t *slot = slot_of(s, page);
	uint64_t entry = slot ? tz_store_announce(k->t, slot) : 0, expected = entry;
	int same = entry && is_same(k, place, entry), joined = 0;

	if (same) {
		one_more(k);
		TZ_TEST_POINT("joining");
		mine = tz_entry_aged(page, mine, tz_entry_age(entry));
		joined = atomic_compare_exchange_strong(slot, &expected, mine);
	}
	atomic_store_explicit(&k->t->hazard, 0, memory_order_release);
	if (joined)
		tz_store_account(k->t, page, entry, mine, 1, NULL);
	else if (same)
		let_go(k, place, mine);
	return joined;
}

/* All members, one after another. How many have become members. */
static unsigned install(struct packing *k)
{
	struct tz_queue_stats *q = k->t->stats;
	uint64_t mine = tz_entry_group(page_of(k, 0), k->offset, k->units), old = old_entry(k);
	int held = begin_word(k, old);
	unsigned joined = 0;

	tz_stats_begin(&q->seq);
	tz_group_count(q, mine, k->head.length, 1);
	tz_stats_end(&q->seq);
	tz_store_begin(k->t);
	for (unsigned place = 0; place < TZ_GROUP_PAGES; place++)
		if (k->members >> place & 1)
			joined += (unsigned)join(k, place);
	let_go(k, 0, mine);
	if (held)
		let_go(k, 0, old);
	tz_store_free_set_aside(k->t);
	tz_store_end(k->t);
	return joined;
}

/* Puts the new group where there is room. 0: there is none. */
static int place(struct packing *k)
{
	struct tz_store *s = k->t->store;
	unsigned head = tz_group_head_size(k->head.members);

	k->offset = room_for(s, k->units);
	if (!k->offset) {
		TZ_STATS_SET(s->stats->cold.no_room, s->stats->cold.no_room + 1);
		return 0;
	}
	atomic_store(&s->housekeeping.borrowed, 1);
	memcpy(s->arena.base + k->offset, &k->head, head);
	memcpy(s->arena.base + k->offset + head, k->p->packed, k->head.length);
	return 1;
}

unsigned tz_group_pack(struct tz_store_thread *t, uint64_t window, unsigned pages, unsigned *saved)
{
	struct tz_store *s = t->store;
	struct packing k = { .t = t, .p = s->groups.packer, .window = window };
	unsigned none;

	saved = saved ? saved : &none;
	*saved = 0;
	if (!settle(t))
		return 0;
	k.word = word_now(s, window);
	memset(k.p->entries, 0, sizeof k.p->entries);
	if (gather(&k, pages) < 0 || (unsigned)__builtin_popcount(k.members) < LEAST_PAGES)
		return 0;
	TZ_TEST_POINT("gathered");
	if (!compress(&k) || !place(&k))
		return 0;
	*saved = k.before - k.units;
	return install(&k);
}

/* ---- groups that many have left ---- */

static int is_thin(struct tz_group_word w)
{
	return w.unit && w.count <= (w.more + 1u) / 2;
}

/* A page of words. */
static void look_at_words(struct tz_store_thread *t, uint64_t page)
{
	enum { WORDS = TZ_PAGE_SIZE / sizeof(struct tz_group_word) };
	struct tz_store *s = t->store;

	for (uint64_t window = page * WORDS; window < (page + 1) * WORDS && !is_stopped(s);
		window++) {
		struct tz_group_word w = word_now(s, window);
		if (is_thin(w) && !tz_group_pack(t, window, 0, NULL))
			take_apart(t, window, w.unit);	/* one is left, or one is damaged */
	}
}

static void pack_thinned(struct tz_store_thread *t)
{
	struct tz_groups *g = &t->store->groups;

	atomic_store(&g->thinned, 0);
	for (uint64_t page = 0; page < g->words_pages; page++)
		if (g->touched[page / 64] >> page % 64 & 1)
			look_at_words(t, page);
}

/* ---- sparse segments ---- */

static uint64_t free_bytes(const struct tz_store *s)
{
	const struct tz_alloc *a = &s->alloc;

	return atomic_load_explicit(&a->shards[tz_alloc_own_shard(a, TZ_SHARD_GROUPS)].free_units,
		       memory_order_relaxed) * TZ_UNIT;
}

static uint64_t segments(const struct tz_store *s)
{
	const struct tz_alloc *a = &s->alloc;

	return atomic_load_explicit(&a->shards[tz_alloc_own_shard(a, TZ_SHARD_GROUPS)].segments,
		memory_order_relaxed);
}

static int is_sparse(const struct tz_store *s, int asked)
{
	uint64_t waste = free_bytes(s), all = segments(s) * TZ_SEGMENT_SIZE;

	if (asked)
		return waste > TZ_SEGMENT_SIZE;
	return waste > LEAST_WASTE && waste > all / 8 && waste > atomic_load(&s->groups.enough);
}

/* Reads the window's group if it is the one at `offset`, with the entries that name it. Units of
 * it; 0: it is not there. */
static unsigned gather_group(struct packing *k, uint64_t offset)
{
	struct tz_store *s = k->t->store;

	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++) {
		_Atomic uint64_t *slot = slot_of(s, page_of(k, i));
		uint64_t entry = slot ? tz_store_announce(k->t, slot) : 0;
		if (!names(entry, offset / TZ_UNIT) || tz_store_fault(s, page_of(k, i), entry))
			continue;
		if (!k->members && !tz_group_head_fault(s->arena.base + offset, page_of(k, i),
					   tz_entry_units(entry), &k->head)) {
			k->units = tz_entry_units(entry);
			memcpy(k->p->packed, s->arena.base + offset +
				tz_group_head_size(k->head.members), k->head.length);
		}
		if (!k->units)
			break;
		k->p->entries[i] = entry;
		k->members |= 1u << i;
	}
	atomic_store_explicit(&k->t->hazard, 0, memory_order_release);
	return k->units;
}

/* Moves the window's group if it is the one at `offset`. Units to step over: 1 if it is not there,
 * 0 if there is no room for it elsewhere. */
static unsigned move(struct tz_store_thread *t, uint64_t window, uint64_t offset)
{
	struct tz_store *s = t->store;
	struct packing k = { .t = t, .p = s->groups.packer, .window = window };
	unsigned units;

	if (window * TZ_GROUP_PAGES >= s->nr_pages ||
		word_now(s, window).unit != offset / TZ_UNIT)
		return 1;
	if (!settle(t))
		return 0;
	memset(k.p->entries, 0, sizeof k.p->entries);
	tz_store_begin(t);
	units = gather_group(&k, offset);
	tz_store_end(t);
	if (!units)
		return 1;
	if (!place(&k))
		return 0;
	install(&k);
	return units;
}

/* Walks a segment's units, as housekeeping.c does. */
static void empty_segment(struct tz_store_thread *t, const struct tz_evacuation *e)
{
	const struct tz_store *s = t->store;
	uint64_t base = tz_segment_offset(&s->arena, e->segment);
	unsigned at = 0, hole = 0, units;

	while (at < TZ_SEGMENT_UNITS && !is_stopped(s)) {
		if (hole < e->nr_holes && at == e->holes[hole].start) {
			at += e->holes[hole++].units;
			continue;
		}
		struct tz_object_head head;
		uint64_t offset = base + (uint64_t)at * TZ_UNIT;
		tz_arena_load(&s->arena, offset, &head, sizeof head);
		units = move(t, tz_group_window(head.owner), offset);
		if (!units)
			return;
		at += units;
		while (hole < e->nr_holes && e->holes[hole].start < at)
			hole++;
	}
}

/* The sparsest segments. How many. */
static unsigned choose(const struct tz_store *s, uint32_t *sparsest)
{
	const struct tz_alloc *a = &s->alloc;
	uint32_t known = atomic_load(&a->nr_known);
	unsigned n = 0, at;

	for (uint32_t i = 0; i < known; i++) {
		unsigned free_units;
		if (tz_alloc_state(a, i) != TZ_SEGMENT_OBJECTS ||
			tz_alloc_shard(a, i) != tz_alloc_own_shard(a, TZ_SHARD_GROUPS))
			continue;
		free_units = tz_alloc_free_units(a, i);
		if (free_units < LEAST_FREE)
			continue;
		for (at = n; at && tz_alloc_free_units(a, sparsest[at - 1]) < free_units; at--)
			sparsest[at] = sparsest[at - 1];
		sparsest[at] = i;
		n += n < BATCH;
	}
	return n;
}

/* One pass. How many segments fewer there are. */
static unsigned empty_some(struct tz_store_thread *t, int asked)
{
	struct tz_store *s = t->store;
	uint32_t chosen[BATCH + 1];
	unsigned n = choose(s, chosen);
	uint64_t before = segments(s), after;
	struct tz_evacuation e;

	for (unsigned i = 0; i < n && is_sparse(s, asked) && !is_stopped(s); i++) {
		/* One that has taken up what was moved is not sparse any more. */
		if (tz_alloc_free_units(&s->alloc, chosen[i]) < LEAST_FREE ||
			tz_alloc_evacuate_begin(&s->alloc, chosen[i], &e) < 0)
			continue;
		empty_segment(t, &e);
		tz_alloc_evacuate_end(&s->alloc, &e);
	}
	after = segments(s);
	/* Not before there is more than when it began. */
	atomic_store(&s->groups.enough, after < before ? 0 : free_bytes(s) + TZ_SEGMENT_SIZE);
	return after < before ? (unsigned)(before - after) : 0;
}

/* ---- what it is asked for ---- */

unsigned tz_group_wanted(struct tz_store *s, uint64_t window, unsigned age)
{
	struct tz_group_word word = word_now(s, window);
	unsigned wanted = 0;

	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++) {
		_Atomic uint64_t *slot = slot_of(s, window * TZ_GROUP_PAGES + i);
		uint64_t entry = slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0;
		if (!tz_entry_is_grouped(entry) && can_be_packed(entry, word) &&
			tz_entry_age(entry) >= age)
			wanted |= 1u << i;
	}
	return (unsigned)__builtin_popcount(wanted) >= (word.unit ? 1 : LEAST_PAGES) ? wanted : 0;
}

/* may: groups can be made now; if not, that is all there is to be done. */
static void pack_asked(struct tz_store_thread *t, int may)
{
	enum { WINDOWS = TZ_TABLE_ENTRIES / TZ_GROUP_PAGES };
	struct tz_store *s = t->store;
	struct tz_groups *g = &s->groups;
	uint64_t window, to, ticket;

	tz_lock_take(&g->asked_lock);
	window = g->from;
	to = g->to;
	ticket = atomic_load(&g->asked);
	g->from = g->to = 0;
	tz_lock_drop(&g->asked_lock);
	while (may && window < to && !is_stopped(s)) {
		if (!slot_of(s, window * TZ_GROUP_PAGES)) {
			window = (window / WINDOWS + 1) * WINDOWS;
			continue;
		}
		if (tz_group_wanted(s, window, 0) || is_thin(word_now(s, window)))
			tz_group_pack(t, window, (1u << TZ_GROUP_PAGES) - 1, NULL);
		window++;
	}
	atomic_store(&g->done, ticket);
}

int tz_groups_want_care(const struct tz_store *s)
{
	const struct tz_groups *g = &s->groups;

	return atomic_load_explicit(&g->on, memory_order_relaxed) &&
		(atomic_load_explicit(&g->thinned, memory_order_relaxed) >= TZ_GROUPS_THINNED ||
			is_sparse(s, 0));
}

void tz_groups_look_after(struct tz_store_thread *t, int asked)
{
	struct tz_store *s = t->store;
	struct tz_groups *g = &s->groups;
	int settled;

	if (!atomic_load(&g->on))
		return;
	settled = settle(t);
	if (atomic_load(&g->asked) != atomic_load(&g->done))
		pack_asked(t, settled);
	if (!settled)
		return;
	if (atomic_load(&g->thinned) >= (asked ? 1 : TZ_GROUPS_THINNED))
		pack_thinned(t);
	while (is_sparse(s, asked) && !is_stopped(s) && empty_some(t, asked))
		;
}

uint64_t tz_store_pack(struct tz_store *s, uint64_t page, uint64_t n)
{
	struct tz_groups *g = &s->groups;
	uint64_t from = tz_group_window(page), to, ticket;

	if (!atomic_load(&g->on) || page >= s->nr_pages || !n)
		return atomic_load(&g->done);
	n = n < s->nr_pages - page ? n : s->nr_pages - page;
	to = tz_group_window(page + n - 1) + 1;
	tz_lock_take(&g->asked_lock);
	if (g->from < g->to) {
		from = from < g->from ? from : g->from;
		to = to > g->to ? to : g->to;
	}
	g->from = from;
	g->to = to;
	ticket = atomic_fetch_add(&g->asked, 1) + 1;
	tz_lock_drop(&g->asked_lock);
	tz_housekeeping_wake(s);
	return ticket;
}

uint64_t tz_store_packed(const struct tz_store *s)
{
	return atomic_load(&s->groups.done);
}
