/* dedup_compact.c - empties sparse segments of objects that pages share.
 *
 * The housekeeper finds the page of another object by the object's head. Which pages share one,
 * only the page table says: it is looked through from end to end, once for a few segments. (So this
 * costs more than emptying others, and is done when an eighth is in holes.) Objects are copied when
 * the first page that has them is met; each page's entry is exchanged if it still is what it was,
 * and the two objects' counts go up and down with it. The housekeeper itself counts as a page of
 * each copy until it is done, so that none can go and its room become another's meanwhile.
 *
 * No page may begin to share an object once it is on its way, or it might be one that the
 * housekeeper has passed by. `gathering` says so, and all threads are waited for once after it is
 * set.
 */
#include "dedup.h"
#include "store_impl.h"

#include <string.h>
#include <sys/mman.h>

#define BATCH 4u		/* segments for which the table is looked through once */
#define LEAST_FREE (TZ_SEGMENT_UNITS / 8)	/* of a segment that is emptied */
#define LEAST_WASTE (2 * TZ_SEGMENT_SIZE)

struct copy {
	uint64_t entry;		/* names it; 0: there is none yet */
	uint64_t moved;		/* this thread has taken the last page from the object itself */
};

struct gathering {
	struct tz_store_thread *t;
	struct tz_evacuation from[BATCH];
	unsigned n;
	struct copy (*copies)[TZ_SEGMENT_UNITS];	/* of the objects that begin there */
};

static const struct tz_shard *shard_of(const struct tz_store *s)
{
	return &s->alloc.shards[tz_alloc_own_shard(&s->alloc, TZ_SHARD_SHARED)];
}

static uint64_t free_bytes(const struct tz_store *s)
{
	return atomic_load_explicit(&shard_of(s)->free_units, memory_order_relaxed) * TZ_UNIT;
}

static uint64_t segments(const struct tz_store *s)
{
	return atomic_load_explicit(&shard_of(s)->segments, memory_order_relaxed);
}

int tz_dedup_is_sparse(const struct tz_store *s, int asked)
{
	uint64_t waste = free_bytes(s), all = segments(s) * TZ_SEGMENT_SIZE;

	return waste > LEAST_WASTE &&
		(asked || (waste > all / 8 && waste > atomic_load(&s->dedup.enough)));
}

/* ---- which ---- */

/* The sparsest segments, out of use from here on. */
static void choose(struct gathering *g)
{
	struct tz_alloc *a = &g->t->store->alloc;
	uint32_t known = atomic_load(&a->nr_known), sparsest[BATCH + 1];
	unsigned n = 0;

	for (uint32_t i = 0; i < known; i++) {
		if (tz_alloc_state(a, i) != TZ_SEGMENT_OBJECTS ||
			tz_alloc_shard(a, i) != tz_alloc_own_shard(a, TZ_SHARD_SHARED) ||
			tz_alloc_free_units(a, i) < LEAST_FREE)
			continue;
		unsigned at = n;
		for (; at && tz_alloc_free_units(a, sparsest[at - 1]) < tz_alloc_free_units(a, i);
			at--)
			sparsest[at] = sparsest[at - 1];
		sparsest[at] = i;
		n += n < BATCH;
	}
	for (unsigned i = 0; i < n; i++)
		if (tz_alloc_evacuate_begin(a, sparsest[i], &g->from[g->n]) == 0)
			g->n++;
}

/* Where the copy of an object is kept; NULL: it is in none of these segments. */
static struct copy *copy_of(const struct gathering *g, uint64_t entry)
{
	const struct tz_arena *arena = &g->t->store->arena;
	uint64_t in = tz_entry_offset(entry) - arena->segment_offset;

	if (!tz_entry_is_shared(entry) || tz_entry_offset(entry) < arena->segment_offset)
		return NULL;
	for (unsigned i = 0; i < g->n; i++)
		if (g->from[i].segment == in / TZ_SEGMENT_SIZE)
			return &g->copies[i][in % TZ_SEGMENT_SIZE / TZ_UNIT];
	return NULL;
}

/* ---- moving ---- */

/* The copy of an object, made if it is not there yet. 0: there is no room for it. */
static uint64_t make_copy(
	const struct gathering *g, uint64_t page, uint64_t entry, struct copy *copy)
{
	struct tz_store *s = g->t->store;
	unsigned units = tz_entry_units(entry);
	uint64_t to;

	if (copy->entry)
		return copy->entry;
	to = tz_alloc_take_own(
		&s->alloc, TZ_SHARD_SHARED, units, atomic_load(&s->alloc.reserve_count) > 1);
	if (!to)
		return 0;
	memcpy(s->arena.base + to, s->arena.base + tz_entry_offset(entry), units * TZ_UNIT);
	if (!tz_dedup_add(s, to, 1)) {
		tz_alloc_put(&s->alloc, to, units);
		return 0;
	}
	copy->entry = tz_entry_shared(page, tz_entry_kind(entry), to, tz_entry_length(entry));
	return copy->entry;
}

/* A page, or this thread, uses an object no longer. Whether nobody does. */
static int let_go(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	int last = tz_dedup_release(t->store, entry) == 0;

	if (last)
		tz_store_retire(t, page, entry);
	return last;
}

static void move(const struct gathering *g, uint64_t page, _Atomic uint64_t *slot)
{
	struct tz_store_thread *t = g->t;
	uint64_t entry = tz_store_announce(t, slot), mine, no_longer = 0, made;
	struct copy *copy = copy_of(g, entry);

	if (copy && !tz_store_fault(t->store, page, entry) &&
		(made = make_copy(g, page, entry, copy)) && tz_dedup_hold(t->store, made)) {
		mine = tz_entry_shared(page, tz_entry_kind(entry), tz_entry_offset(made),
			tz_entry_length(entry));
		TZ_TEST_POINT("gathering");
		no_longer = tz_store_exchange(slot, page, &entry, mine) ? entry : mine;
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (no_longer && let_go(t, page, no_longer) && no_longer == entry)
		copy->moved = 1;
}

/* A page of the table. */
static void look_through(const struct gathering *g, uint64_t index)
{
	const struct tz_store *s = g->t->store;
	int damaged = 0;
	uint64_t offset = tz_table_page(s, index, &damaged);
	_Atomic uint64_t *slots = (_Atomic uint64_t *)(s->arena.base + offset);

	for (unsigned i = 0; offset && i < TZ_TABLE_ENTRIES; i++)
		if (copy_of(g, atomic_load_explicit(&slots[i], memory_order_relaxed)))
			move(g, index * TZ_TABLE_ENTRIES + i, &slots[i]);
}

static void look_through_all(const struct gathering *g)
{
	const struct tz_store *s = g->t->store;

	for (uint64_t i = 0; i < s->arena.nr_tables; i++) {
		if (atomic_load_explicit(&s->housekeeping.stop, memory_order_relaxed))
			return;
		if (!tz_arena_directory_ready(&s->arena, i)) {
			i |= TZ_DIRECTORY_ENTRIES - 1;
			continue;
		}
		tz_store_begin(g->t);
		look_through(g, i);
		tz_store_free_set_aside(g->t);
		tz_store_end(g->t);
	}
}

/* An object more than was counted, or one less: a page that went while there were two of them was
 * not the last of both. */
static void count_objects(struct tz_store_thread *t, uint64_t entry, int more)
{
	struct tz_queue_stats *q = t->stats;

	tz_stats_begin(&q->seq);
	tz_stats_add(&q->dup_pages_now, -more);
	tz_stats_add(&q->compr_bytes_now, more * (int64_t)tz_entry_length(entry));
	tz_stats_add_object(
		q, tz_entry_kind(entry), more * (int64_t)(tz_entry_units(entry) * TZ_UNIT));
	tz_stats_end(&q->seq);
}

static void let_go_copy(struct tz_store_thread *t, const struct copy *copy)
{
	if (!copy->entry)
		return;
	if (!copy->moved)
		count_objects(t, copy->entry, 1);
	if (let_go(t, 0, copy->entry))
		count_objects(t, copy->entry, -1);
}

static void finish(struct gathering *g)
{
	tz_store_begin(g->t);
	for (unsigned i = 0; i < g->n; i++)
		for (unsigned unit = 0; unit < TZ_SEGMENT_UNITS; unit++)
			let_go_copy(g->t, &g->copies[i][unit]);
	tz_store_end(g->t);
	for (unsigned i = 0; i < g->n; i++)
		tz_alloc_evacuate_end(&g->t->store->alloc, &g->from[i]);
}

unsigned tz_dedup_compact(struct tz_store_thread *t, int asked)
{
	struct tz_store *s = t->store;
	struct gathering g = { .t = t };
	uint64_t before = segments(s), size = BATCH * sizeof *g.copies, after;

	if (!tz_dedup_is_sparse(s, asked))
		return 0;
	g.copies = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g.copies == MAP_FAILED)
		return 0;
	choose(&g);
	if (g.n) {
		atomic_store(&s->dedup.gathering, 1);
		tz_store_wait_for_all(s);
		look_through_all(&g);
		finish(&g);
		atomic_store(&s->dedup.gathering, 0);
	}
	munmap(g.copies, size);
	after = segments(s);
	/* Not before there is more than when it began. */
	atomic_store(&s->dedup.enough, after < before ? 0 : free_bytes(s) + TZ_SEGMENT_SIZE);
	return after < before ? (unsigned)(before - after) : 0;
}
