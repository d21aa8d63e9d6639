/* pool.c - where objects live: size classes, slabs, and the reserve that keeps the data path from
 * ever needing memory.
 *
 * The arena is cut into slabs of 64 KiB. A slab belongs to one size class at a time and holds equal
 * slots of that size; sizes are multiples of 16 chosen so that a whole number of slots fills the
 * slab, about 110 classes from 16 to 4096 bytes. An object that would need the largest class is not
 * worth decompressing: such pages are stored raw (TZ_POOL_HUGE). A slot's class follows from its
 * address, so an object carries no header, and its owner is found through the page table.
 *
 * Slabs move between these states:
 *
 *	unpopulated -> reserve		populated
 *	reserve -> unpopulated		punched out
 *	reserve -> class		first object; within the class a slab is partial or full
 *	class -> emptying -> reserve	last object freed
 *	class -> evacuating		compaction; then emptying, or class again if not all moved
 *
 * A change from or to "class" or "evacuating" is made under the class lock, together with what
 * belongs to it: the count of slots in use and the place in the class's list. Emptying is the
 * instant between two locks: the slab is in no list, and whoever freed its last object is about to
 * put it into the reserve.
 *
 * Nothing that is kept in the arena is used to manage it. Which slots are free is a bitmap in
 * private memory, so a damaged byte of the arena costs at most the object it is in, and freeing
 * what is not in use is noticed. Offsets that come out of the page table are checked here: range,
 * state of the slab, alignment to a slot, size.
 *
 * Queue threads only ever move slabs between reserve and class: list operations under a short lock,
 * no system call but futex calls. Everything that asks the kernel for memory or gives it back
 * happens in the reserve's thread, which keeps the reserve at its target: it populates ahead of
 * need (queue threads that find less than 3/4 of the target wake it), as long as the kernel has
 * memory at hand (headroom.c), and punches out what is left over. It does nothing else, so nothing
 * can delay it. When the kernel refuses memory it retries after growing delays (RETRY_MS ..
 * RETRY_MOST_MS). With the reserve empty an allocation tries free slots of larger classes, then
 * fails at once.
 *
 * Slots that overwriting and discarding leave free in many slabs are packed now and then where that
 * saves whole slabs (compaction, in a thread of its own): the sparsest slabs of a class are taken
 * out of use, the store finds their objects through the page table and moves them, and the empty
 * slabs go the usual way. Where nothing has been freed there is nothing to do: both threads sleep
 * until something happens.
 *
 * Memory is counted where it is populated: used_bytes is what has been populated (head, table,
 * slabs of every state), which is what the kernel holds for the file.
 */
#include "pool.h"
#include "clock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

/* slabs populated by one system call: what it got is in reserve before it asks for more */
#define BATCH 4u
/* after the kernel refused memory, doubled each time it does so again */
#define RETRY_MS 2u
#define RETRY_MOST_MS 100u
/* how old the floor of free memory may get (vm.min_free_kbytes may be changed) */
#define FLOOR_MS 10000
#define SHORT_MS 1000		/* below the floor for so long: ask all the same, once */
/* between two looks at what could be saved, while slots are being freed */
#define COMPACT_MS 1000u
#define TRIM_MS 2000u		/* that tz_pool_trim waits at most */
#define STACK_SIZE (64u << 10)
#define EMPTIED_MOST (2u << 20)	/* bytes in use at which a device counts as emptied, at most */
#define EMPTIED_RESERVE 2u	/* slabs it keeps at least */
#define COMPACT_LEAST (1u << 20)	/* bytes to be saved before compaction is worth its while */
#define NO_MAP UINT32_MAX
#define POISON 0xdeadbeefu	/* next and prev of a slab that is in no list of its class */

enum slab_state { SLAB_UNPOPULATED = 0, SLAB_RESERVE = 1, SLAB_CLASS = 2, SLAB_EVACUATING = 3,
	SLAB_EMPTYING = 4 };

/* Why the reserve's thread is woken. Slabs are needed; or there is something to do now, even if
 * memory was refused. */
enum wake { WAKE_NEED = 1, WAKE_NOW = 2 };

_Static_assert(TZ_SLAB_SIZE / 16 <= TZ_MAP_WORDS * 64 && TZ_MAP_WORDS <= UINT8_MAX,
	"a full-size map has a bit for each slot");
_Static_assert(TZ_RAW_SLOTS <= 64, "the map of a slab of the largest class is one word");

/* Values that are read without the lock they change under, or whose order does not matter. */
#define get(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define set(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

/* ---- size classes ---- */

static void make_classes(struct tz_pool *p)
{
	unsigned last = 0, n = 0;

	/* Largest first while counting slots per slab upwards, then turned round so that class 0 is
	 * the smallest. */
	uint32_t sizes[TZ_MAX_CLASSES];
	for (unsigned per = TZ_SLAB_SIZE / TZ_PAGE_SIZE; per <= TZ_SLAB_SIZE / 16; per++) {
		unsigned size = TZ_SLAB_SIZE / per & ~15u;
		if (size != last && n < TZ_MAX_CLASSES)
			sizes[n++] = last = size;
	}
	p->nr_classes = n;
	for (unsigned i = 0; i < n; i++) {
		struct tz_class *c = &p->classes[i];
		c->object_size = sizes[n - 1 - i];
		c->per_slab = TZ_SLAB_SIZE / c->object_size;
		c->reciprocal = (1u << 20) / (c->object_size / 16) + 1;
		set(c->partial, TZ_NO_SLAB);
		if (c->per_slab > TZ_OWN_MAP_SLOTS)
			p->first_own = i + 1;
		c->stats = &p->stats->classes[i];
		c->stats->object_size = c->object_size;
		c->stats->objects_per_slab = c->per_slab;
	}
	p->stats->nr_classes = n;
	for (unsigned u = 0, c = 0; u <= TZ_PAGE_SIZE / 16; u++) {
		while (p->classes[c].object_size < u * 16)
			c++;
		p->class_of[u] = (uint8_t)c;
	}
}

/* ---- waking the pool's threads ---- */

static void wake(struct tz_pool *p, uint32_t why)
{
	TZ_TEST_POINT("wake");
	if (!(atomic_fetch_or(&p->wake, why) & why))
		tz_futex(&p->wake, FUTEX_WAKE_PRIVATE, 1, NULL);
}

/* A slot was freed: there may be something to compact. A store and a system call once in COMPACT_MS
 * at most. */
static void note_activity(struct tz_pool *p)
{
	if (!get(p->activity) && !atomic_exchange(&p->activity, 1))
		tz_futex(&p->activity, FUTEX_WAKE_PRIVATE, 1, NULL);
}

/* ---- the reserve ---- */

static void count_reserve(struct tz_pool *p, uint32_t now)
{
	set(p->reserve_count, now);
	__atomic_store_n(&p->stats->reserve_bytes, (uint64_t)now * TZ_SLAB_SIZE, __ATOMIC_RELAXED);
}

/* The first slab of the reserve; reserve_lock is held. */
static uint32_t unlink_first(struct tz_pool *p)
{
	uint32_t s = p->reserve;

	if (s != TZ_NO_SLAB) {
		p->reserve = p->slabs[s].next;
		count_reserve(p, get(p->reserve_count) - 1);
	}
	return s;
}

/* A slab out of the reserve, and where `map` is not NULL a map of the full size with it.
 * TZ_NO_SLAB: there is none. Sets *need when the reserve wants refilling: the caller wakes its
 * thread once it holds no lock. */
static uint32_t reserve_pop(struct tz_pool *p, uint32_t *map, int *need)
{
	uint32_t s = TZ_NO_SLAB;

	tz_lock_take(&p->reserve_lock);
	if (!map || p->spare_map != NO_MAP)
		s = unlink_first(p);
	if (map && s != TZ_NO_SLAB) {
		*map = p->spare_map;
		p->spare_map = (uint32_t)p->maps[*map][0];
		set(p->spare_maps, get(p->spare_maps) - 1);
	}
	tz_lock_drop(&p->reserve_lock);
	*need = s == TZ_NO_SLAB || get(p->reserve_count) < get(p->reserve_target) * 3 / 4;
	return s;
}

/* A device that has been emptied keeps no more than an 1/25 of what it once held, table included;
 * one that is new or in use keeps the full reserve. */
static uint32_t target_now(const struct tz_pool *p)
{
	uint64_t table = p->arena->slab_offset,
		peak = __atomic_load_n(&p->stats->mem_used_max, __ATOMIC_RELAXED);
	uint64_t reserve = (uint64_t)get(p->reserve_count) * TZ_SLAB_SIZE,
		used = get(p->used_bytes);
	uint64_t in_use = used > table + reserve ? used - table - reserve : 0;
	uint32_t full = get(p->reserve_full);

	if (peak < table + 2ull * full * TZ_SLAB_SIZE || in_use > EMPTIED_MOST ||
	    in_use > peak / 50)
		return full;
	uint64_t keep = peak / 25 > table + in_use
		? (peak / 25 - table - in_use) / TZ_SLAB_SIZE : 0;
	return keep < EMPTIED_RESERVE ? EMPTIED_RESERVE : keep < full ? (uint32_t)keep : full;
}

static uint32_t slack(uint32_t target)
{
	return target / 4 + 1;
}

/* reserve_lock is held, or there is no other thread yet. */
static void add_spare_map(struct tz_pool *p, uint32_t map)
{
	p->maps[map][0] = p->spare_map;
	p->spare_map = map;
	set(p->spare_maps, get(p->spare_maps) + 1);
}

/* `map`: the full-size map that the slab had, or NO_MAP. */
static void reserve_push(struct tz_pool *p, uint32_t s, uint32_t map)
{
	tz_lock_take(&p->reserve_lock);
	set(p->slabs[s].state, SLAB_RESERVE);
	p->slabs[s].next = p->reserve;
	p->reserve = s;
	uint32_t now = get(p->reserve_count) + 1, target = get(p->reserve_target);
	count_reserve(p, now);
	if (map != NO_MAP)
		add_spare_map(p, map);
	tz_lock_drop(&p->reserve_lock);
	if (now > target + slack(target))
		wake(p, WAKE_NEED);
}

/* ---- slots; the class lock is held ---- */

static void partial_add(struct tz_pool *p, struct tz_class *c, uint32_t s)
{
	uint32_t first = get(c->partial);

	p->slabs[s].prev = TZ_NO_SLAB;
	p->slabs[s].next = first;
	if (first != TZ_NO_SLAB)
		p->slabs[first].prev = s;
	set(c->partial, s);
}

static void partial_remove(struct tz_pool *p, struct tz_class *c, uint32_t s)
{
	struct tz_slab *m = &p->slabs[s];

	assert(m->next != POISON && m->prev != POISON);
	if (m->prev != TZ_NO_SLAB)
		p->slabs[m->prev].next = m->next;
	else
		set(c->partial, m->next);
	if (m->next != TZ_NO_SLAB)
		p->slabs[m->next].prev = m->prev;
	m->next = m->prev = POISON;
}

static int has_own_map(const struct tz_pool *p, unsigned class)
{
	return class >= p->first_own;
}

static uint64_t *map_of(const struct tz_pool *p, struct tz_slab *m, unsigned class)
{
	return has_own_map(p, class) ? m->map.own : p->maps[m->map.taken];
}

/* A slab from the reserve joins the class. */
static void join_class(struct tz_pool *p, unsigned class, uint32_t s, uint32_t map)
{
	struct tz_slab *m = &p->slabs[s];

	set(m->used, 0);
	set(m->class, (uint8_t)class);
	set(m->state, SLAB_CLASS);
	set(m->stuck, 0);
	m->first = 0;
	m->map.taken = map;
	memset(map_of(p, m, class), 0,
		has_own_map(p, class) ? sizeof m->map.own : sizeof p->maps[0]);
	partial_add(p, &p->classes[class], s);
	tz_stats_add(&p->classes[class].stats->slabs, 1);
}

/* Takes a slot of the class's first partial slab; there is one. */
static uint64_t take_slot(struct tz_pool *p, unsigned class, uint64_t page)
{
	struct tz_class *c = &p->classes[class];
	uint32_t s = get(c->partial);
	struct tz_slab *m = &p->slabs[s];
	uint64_t *map = map_of(p, m, class);

	assert(get(m->used) < c->per_slab);
	while (map[m->first] == UINT64_MAX)
		m->first++;
	unsigned bit = (unsigned)__builtin_ctzll(~map[m->first]), slot = m->first * 64u + bit;
	map[m->first] |= 1ull << bit;
	if (class == p->nr_classes - 1)
		m->map.raw.owner[slot] = (uint32_t)page;
	set(m->used, (uint16_t)(get(m->used) + 1));
	if (get(m->used) == c->per_slab)
		partial_remove(p, c, s);
	tz_stats_add(&c->stats->objects, 1);
	return tz_arena_slab_offset(p->arena, s) + (uint64_t)slot * c->object_size;
}

static uint64_t alloc_in_class(struct tz_pool *p, unsigned class, uint64_t page, int with_reserve)
{
	struct tz_class *c = &p->classes[class];
	uint32_t map = NO_MAP;
	uint64_t offset = 0;
	int need = 0;

	tz_lock_take(&c->lock);
	if (get(c->partial) == TZ_NO_SLAB && with_reserve) {
		uint32_t s = reserve_pop(p, has_own_map(p, class) ? NULL : &map, &need);
		if (s != TZ_NO_SLAB)
			join_class(p, class, s, map);
	}
	if (get(c->partial) != TZ_NO_SLAB)
		offset = take_slot(p, class, page);
	tz_lock_drop(&c->lock);
	if (need)
		wake(p, WAKE_NEED);
	return offset;
}

static int at_limit(const struct tz_pool *p, uint64_t more)
{
	uint64_t limit = get(p->mem_limit);

	return limit && get(p->used_bytes) + more > limit;
}

static unsigned class_for(const struct tz_pool *p, unsigned size)
{
	return p->class_of[(size + 15) / 16];
}

uint64_t tz_pool_alloc(struct tz_pool *p, unsigned size, uint64_t page, int *err)
{
	unsigned class = class_for(p, size);
	uint64_t offset = alloc_in_class(p, class, page, 1);

	if (offset)
		return offset;
	/* No map of the full size, perhaps: a class that needs none. */
	if (!has_own_map(p, class))
		offset = alloc_in_class(p, p->first_own, page, 1);
	/* Nothing in reserve: a free slot of a larger class is better than failing. */
	for (unsigned i = class + 1; i < p->nr_classes && !offset; i++)
		if (get(p->classes[i].partial) != TZ_NO_SLAB)
			offset = alloc_in_class(p, i, page, 0);
	if (!offset)
		*err = at_limit(p, TZ_SLAB_SIZE) ? -ENOSPC : -EAGAIN;
	return offset;
}

/* ---- what an offset means ---- */

/* Units of 16 bytes into a slab / units of a slot: exact for all 4096 x 256 pairs, and cheaper than
 * a division. */
static unsigned slot_of(const struct tz_class *c, unsigned units)
{
	return units * c->reciprocal >> 20;
}

/* The slab, or TZ_NO_SLAB: outside of what was ever populated. */
static uint32_t slab_at(const struct tz_pool *p, uint64_t offset)
{
	/* Below the first: a huge number. */
	uint64_t s = (offset - p->arena->slab_offset) / TZ_SLAB_SIZE;

	return s < get(p->never_populated) ? (uint32_t)s : TZ_NO_SLAB;
}

static int holds_objects(unsigned state)
{
	return state == SLAB_CLASS || state == SLAB_EVACUATING;
}

/* Whether there is a slot of `class` at this offset, for objects of `size` bytes. */
static int fits_class(const struct tz_pool *p, unsigned class, uint64_t offset, unsigned size)
{
	const struct tz_class *c = &p->classes[class];
	unsigned in_slab = (unsigned)(offset - p->arena->slab_offset) % TZ_SLAB_SIZE,
		slot = slot_of(c, in_slab / 16);

	return slot * c->object_size == in_slab && slot < c->per_slab && size <= c->object_size;
}

int tz_pool_is_slot(const struct tz_pool *p, uint64_t offset, unsigned size)
{
	uint32_t s = slab_at(p, offset);

	/* Of an object that the caller keeps from being freed, the slab's class cannot change. Of
	 * others, what is read here may be of two different instants: then it is some class all the
	 * same. */
	return s != TZ_NO_SLAB && holds_objects(get(p->slabs[s].state)) &&
		fits_class(p, get(p->slabs[s].class), offset, size);
}

void tz_pool_prefetch(const struct tz_pool *p, uint64_t offset)
{
	uint32_t s = slab_at(p, offset);

	if (s != TZ_NO_SLAB)
		__builtin_prefetch(&p->slabs[s], 0, 3);
}

/* Clears the slot's bit. 0: it is not in use, or not that page's. */
static int clear_slot(struct tz_pool *p, struct tz_slab *m, unsigned class, unsigned slot,
	uint64_t page)
{
	uint64_t *map = map_of(p, m, class), bit = 1ull << slot % 64;

	if (!(map[slot / 64] & bit) ||
	    (class == p->nr_classes - 1 && m->map.raw.owner[slot] != (uint32_t)page))
		return 0;
	map[slot / 64] &= ~bit;
	if (slot / 64 < m->first)
		m->first = (uint8_t)(slot / 64);
	return 1;
}

/* Counts the slot out, and the slab where it has to go. 1: the slab is empty, and the caller's. */
static int count_out(struct tz_pool *p, struct tz_class *c, uint32_t s)
{
	struct tz_slab *m = &p->slabs[s];
	unsigned used = get(m->used);
	int listed = get(m->state) == SLAB_CLASS;

	set(m->used, (uint16_t)(used - 1));
	set(m->stuck, 0);
	tz_stats_add(&c->stats->objects, -1);
	if (listed && used == c->per_slab && used > 1)
		partial_add(p, c, s);
	if (used > 1)
		return 0;
	if (listed && used < c->per_slab)
		partial_remove(p, c, s);
	set(m->state, SLAB_EMPTYING);
	tz_stats_add(&c->stats->slabs, -1);
	return 1;
}

int tz_pool_free(struct tz_pool *p, uint64_t offset, unsigned size, uint64_t page)
{
	uint32_t s = slab_at(p, offset), map = NO_MAP;
	int freed = 0, empty = 0;

	if (s == TZ_NO_SLAB)
		return -EINVAL;
	struct tz_slab *m = &p->slabs[s];
	/* Fixed while an object lives here; checked for what is none. */
	unsigned class = get(m->class);
	struct tz_class *c = &p->classes[class];
	unsigned in_slab = (unsigned)(offset - p->arena->slab_offset) % TZ_SLAB_SIZE;

	tz_lock_take(&c->lock);
	if (get(m->class) == class && holds_objects(get(m->state)) &&
	    fits_class(p, class, offset, size))
		freed = clear_slot(p, m, class, slot_of(c, in_slab / 16), page);
	if (freed) {
		empty = count_out(p, c, s);
		if (empty && !has_own_map(p, class))
			map = m->map.taken;
	}
	tz_lock_drop(&c->lock);
	if (!freed)
		return -EINVAL;
	TZ_TEST_POINT("freed");
	if (empty)
		reserve_push(p, s, map);
	note_activity(p);
	return 0;
}

/* ---- compaction ---- */

static uint64_t free_slots(const struct tz_class *c)
{
	uint64_t slots = __atomic_load_n(&c->stats->slabs, __ATOMIC_RELAXED) * c->per_slab;
	uint64_t used = __atomic_load_n(&c->stats->objects, __ATOMIC_RELAXED);

	return slots > used ? slots - used : 0;
}

/* Whole slabs that could be saved by packing every class tightly. */
static uint64_t wasted_slabs(const struct tz_pool *p)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < p->nr_classes; i++)
		n += free_slots(&p->classes[i]) / p->classes[i].per_slab;
	return n;
}

/* Whether a pass is worth its while, `wasted` being wasted_slabs(). After one that gained nothing,
 * not before an eighth more than then is wasted. */
static int is_wasteful(struct tz_pool *p, uint64_t wasted)
{
	if (wasted < p->futile)
		p->futile = wasted;
	return wasted * TZ_SLAB_SIZE >= COMPACT_LEAST &&
		wasted * TZ_SLAB_SIZE > get(p->used_bytes) / 16 &&
		(!p->futile || wasted > p->futile + p->futile / 8);
}

static unsigned bin_of(const struct tz_class *c, unsigned used)
{
	return used * 64 / c->per_slab;
}

/* A slab that compaction may empty: what is read here without the lock is looked at again under
 * it. */
static int is_candidate(const struct tz_slab *m)
{
	return get(m->state) == SLAB_CLASS && !get(m->stuck);
}

/* What to take of one class: all slabs of less than `bin`, and `rest` of those in it. */
struct sparse { uint32_t bin; uint64_t rest; };

/* The `want` sparsest slabs of each class, `want` being as many as the free slots add up to: then
 * what is in them fits the others. */
static void choose_sparse(struct tz_pool *p, struct sparse *sparse)
{
	memset(p->by_used, 0, sizeof p->by_used);
	for (uint32_t s = 0, n = get(p->never_populated); s < n; s++) {
		const struct tz_slab *m = &p->slabs[s];
		unsigned class = get(m->class), bin = bin_of(&p->classes[class], get(m->used));
		if (is_candidate(m) && bin < 64)
			p->by_used[class][bin]++;
	}
	for (unsigned i = 0; i < p->nr_classes; i++) {
		uint64_t want = free_slots(&p->classes[i]) / p->classes[i].per_slab;
		unsigned bin = 0;
		while (bin < 64 && p->by_used[i][bin] <= want)
			want -= p->by_used[i][bin++];
		sparse[i] = (struct sparse){ bin, want };
	}
}

/* Takes a slab out of its class's hands if it is still as sparse as it looked. */
static void evacuate(struct tz_pool *p, uint32_t s, unsigned class, struct sparse *sparse)
{
	struct tz_class *c = &p->classes[class];
	struct tz_slab *m = &p->slabs[s];

	tz_lock_take(&c->lock);
	unsigned bin = bin_of(c, get(m->used));
	if (get(m->state) == SLAB_CLASS && get(m->class) == class && get(m->used) < c->per_slab &&
	    (bin < sparse->bin || (bin == sparse->bin && sparse->rest))) {
		sparse->rest -= bin == sparse->bin;
		partial_remove(p, c, s);
		set(m->state, SLAB_EVACUATING);
		p->evacuating_class[p->nr_evacuating] = (uint8_t)class;
		p->evacuating[p->nr_evacuating++] = s;
	}
	tz_lock_drop(&c->lock);
}

unsigned tz_pool_evacuate_begin(struct tz_pool *p)
{
	struct sparse sparse[TZ_MAX_CLASSES];

	TZ_TEST_POINT("pass");
	p->nr_evacuating = 0;
	choose_sparse(p, sparse);
	for (uint32_t s = 0, n = get(p->never_populated);
	    s < n && p->nr_evacuating < TZ_EVACUATE_MAX; s++) {
		unsigned class = get(p->slabs[s].class);
		if (is_candidate(&p->slabs[s]))
			evacuate(p, s, class, &sparse[class]);
	}
	return p->nr_evacuating;
}

int tz_pool_is_evacuating(const struct tz_pool *p, uint64_t offset)
{
	uint32_t s = slab_at(p, offset);

	return s != TZ_NO_SLAB && get(p->slabs[s].state) == SLAB_EVACUATING;
}

uint64_t tz_pool_alloc_existing(struct tz_pool *p, unsigned size, uint64_t page)
{
	return alloc_in_class(p, class_for(p, size), page, 0);
}

void tz_pool_evacuate_end(struct tz_pool *p)
{
	uint64_t saved = p->nr_evacuating;

	for (unsigned i = 0; i < p->nr_evacuating; i++) {
		struct tz_slab *m = &p->slabs[p->evacuating[i]];
		struct tz_class *c = &p->classes[p->evacuating_class[i]];
		tz_lock_take(&c->lock);
		/* Something did not move: back into use. */
		if (get(m->state) == SLAB_EVACUATING) {
			set(m->state, SLAB_CLASS);
			set(m->stuck, 1);
			if (get(m->used) < c->per_slab)
				partial_add(p, c, p->evacuating[i]);
			saved--;
		}
		tz_lock_drop(&c->lock);
	}
	p->nr_evacuating = 0;
	p->futile = saved ? 0 : wasted_slabs(p);
	__atomic_store_n(&p->stats->pages_compacted,
		p->stats->pages_compacted + saved * (TZ_SLAB_SIZE / TZ_PAGE_SIZE),
		__ATOMIC_RELAXED);
}

int tz_pool_is_stopping(const struct tz_pool *p)
{
	return get(p->stop) != 0;
}

static void pause_ms(_Atomic uint32_t *word, uint32_t while_it_is, unsigned ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	tz_futex(word, FUTEX_WAIT_PRIVATE, while_it_is, ms ? &t : NULL);
}

/* Moving objects can wait for anybody, so this is a thread without a priority of its own. It looks
 * once in COMPACT_MS for as long as slots are freed or the last look had something to do, then
 * sleeps until a slot is freed. */
static void *compactor(void *arg)
{
	struct tz_pool *p = arg;

	prctl(PR_SET_NAME, "tz-compact");
	while (!tz_pool_is_stopping(p)) {
		atomic_exchange(&p->activity, 0);
		pause_ms(&p->stop, 0, COMPACT_MS);
		int pass = is_wasteful(p, wasted_slabs(p)) && !tz_pool_is_stopping(p);
		int more = p->compact(p->compact_arg, pass) || pass;
		if (target_now(p) != get(p->reserve_target))
			wake(p, WAKE_NEED);
		if (!more && !tz_pool_is_stopping(p))
			pause_ms(&p->activity, 0, 0);
	}
	return NULL;
}

/* ---- the reserve's thread ---- */

static void count_used(struct tz_pool *p, int64_t delta)
{
	uint64_t now = atomic_fetch_add(&p->used_bytes, (uint64_t)delta) + (uint64_t)delta;

	__atomic_store_n(&p->stats->mem_used_total, now, __ATOMIC_RELAXED);
	if (now > __atomic_load_n(&p->stats->mem_used_max, __ATOMIC_RELAXED))	/* one writer */
		__atomic_store_n(&p->stats->mem_used_max, now, __ATOMIC_RELAXED);
}

/* Slabs join those that queue threads may look at: their metadata is there from now on. */
static void touch_metadata(struct tz_pool *p, uint32_t first, unsigned n)
{
	for (uint32_t s = first; s < first + n; s++)
		p->slabs[s].next = p->slabs[s].prev = POISON;
	atomic_store_explicit(&p->never_populated, first + n, memory_order_release);
}

/* Has as many full-size maps ready as the reserve is to have slabs. */
static void refill_maps(struct tz_pool *p, uint32_t target)
{
	while (get(p->spare_maps) < target && p->next_map < p->nr_maps) {
		p->maps[p->next_map][0] = 0;	/* a page fault here is not one of a queue thread */
		tz_lock_take(&p->reserve_lock);
		add_spare_map(p, p->next_map++);
		tz_lock_drop(&p->reserve_lock);
	}
}

/* How many slabs, up to `want`, the kernel can be asked for without being made to look for memory.
 * If that is none for long, the floor may be wrong (it is a guess on machines with several zones),
 * and it is asked for one all the same. */
static unsigned affordable(struct tz_pool *p, unsigned want)
{
	int runs_out = get(p->reserve_count) < get(p->reserve_target) / 4;
	uint64_t floor = runs_out ? p->floor.last : p->floor.usual, now;

	for (unsigned n = want; n > 0; n--)
		if (tz_headroom_has(floor, (uint64_t)n * TZ_SLAB_SIZE)) {
			p->short_since = 0;
			return n;
		}
	now = tz_now_ns();
	if (!p->short_since)
		p->short_since = now;
	if (now - p->short_since < SHORT_MS * 1000000ull)
		return 0;
	p->short_since = 0;
	return 1;
}

/* With the reserve full, when reading the kernel's watermarks delays nothing. */
static void look_at_floor(struct tz_pool *p)
{
	uint64_t now = tz_now_ns();

	if (p->floor_at && now - p->floor_at < FLOOR_MS * 1000000ull)
		return;
	p->floor_at = now;
	p->floor = tz_headroom_floor();
}

/* Populates up to `want` slabs: neighbours never used before by one call, or one that was punched
 * out. Returns how many, or negative errno. */
static int populate_some(struct tz_pool *p, unsigned want)
{
	uint64_t end = p->arena->nr_slabs;
	uint32_t first = p->unpopulated;
	unsigned n = 1;

	if (want > BATCH)
		want = BATCH;
	while (want > 1 && at_limit(p, (uint64_t)want * TZ_SLAB_SIZE))
		want--;
	if (at_limit(p, TZ_SLAB_SIZE))
		return -ENOSPC;
	if (first == TZ_NO_SLAB) {
		first = get(p->never_populated);
		if (first >= end)
			return -ENOSPC;
		n = want < end - first ? want : (unsigned)(end - first);
	}
	n = affordable(p, n);
	if (!n)
		return -EAGAIN;
	int rc = tz_arena_populate(p->arena, tz_arena_slab_offset(p->arena, first),
		(uint64_t)n * TZ_SLAB_SIZE);
	if (rc < 0)
		return rc;
	if (first == p->unpopulated)
		p->unpopulated = p->slabs[first].next;
	else
		touch_metadata(p, first, n);
	count_used(p, (int64_t)n * TZ_SLAB_SIZE);
	for (unsigned i = 0; i < n; i++)
		reserve_push(p, first + i, NO_MAP);
	return (int)n;
}

/* Brings the reserve up to its target. 0 when it is, or can't be (mem_limit); negative errno when
 * the kernel refused, or would have had to look for memory (-EAGAIN). */
static int refill(struct tz_pool *p)
{
	refill_maps(p, get(p->reserve_target));
	for (;;) {
		uint32_t have = get(p->reserve_count), target = get(p->reserve_target);
		if (have >= target || tz_pool_is_stopping(p))
			break;
		int rc = populate_some(p, target - have);
		if (rc < 0)
			return at_limit(p, TZ_SLAB_SIZE) ? 0 : rc;
	}
	return 0;
}

/* Punches out reserve slabs until at most `keep` are left and mem_limit is met. Returns bytes given
 * back. */
static uint64_t punch_surplus(struct tz_pool *p, uint32_t keep)
{
	uint64_t bytes = 0;

	while (get(p->reserve_count) > keep || (get(p->reserve_count) && at_limit(p, 0))) {
		tz_lock_take(&p->reserve_lock);
		uint32_t s = unlink_first(p);
		tz_lock_drop(&p->reserve_lock);
		if (s == TZ_NO_SLAB)
			break;
		set(p->slabs[s].state, SLAB_UNPOPULATED);
		if (tz_arena_release(p->arena, tz_arena_slab_offset(p->arena, s), TZ_SLAB_SIZE)) {
			reserve_push(p, s, NO_MAP);	/* kept: still ours, still counted */
			break;
		}
		p->slabs[s].next = p->unpopulated;
		p->unpopulated = s;
		count_used(p, -(int64_t)TZ_SLAB_SIZE);
		bytes += TZ_SLAB_SIZE;
	}
	return bytes;
}

static void set_target(struct tz_pool *p, uint32_t target)
{
	set(p->reserve_target, target);
	__atomic_store_n(&p->stats->reserve_target, (uint64_t)target * TZ_SLAB_SIZE,
		__ATOMIC_RELAXED);
}

static void answer_trim(struct tz_pool *p, uint32_t asked, uint64_t bytes)
{
	atomic_fetch_add(&p->trimmed, bytes);
	atomic_store(&p->trim_done, asked);
	tz_futex(&p->trim_done, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
}

/* Gives back what is too much, then gets what is missing. Negative errno as of refill(); *gave is
 * whether something went back. */
static int balance(struct tz_pool *p, int *gave)
{
	uint32_t target = target_now(p), have = get(p->reserve_count);
	uint32_t asked = atomic_load(&p->trim_asked);
	int trim = asked != get(p->trim_done);
	uint64_t bytes = 0;

	set_target(p, target);
	if (trim || have > target + slack(target) || (have && at_limit(p, 0)))
		bytes = punch_surplus(p, target);
	if (trim)
		answer_trim(p, asked, bytes);
	*gave = bytes != 0;
	return refill(p);
}

/* Lowest real-time priority: the reserve is refilled before queue threads use up what is left, and
 * the kernel lets a real-time thread go below the watermark at which others wait for memory. It
 * does not starve other threads: it neither computes nor searches for memory (headroom.c). Threads
 * it creates do not inherit that. Without the privilege (a local device) it is an ordinary
 * thread. */
static void be_first(void)
{
	struct sched_param param = { .sched_priority = 1 };

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
}

static void *reserve_thread(void *arg)
{
	struct tz_pool *p = arg;
	unsigned retry = 0;		/* ms */
	int gave;

	prctl(PR_SET_NAME, "tz-reserve");
	/* Its allocations must not wait for I/O that waits for it. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	be_first();
	for (;;) {
		/* Before looking at what there is to do, stop included. */
		atomic_exchange(&p->wake, 0);
		if (tz_pool_is_stopping(p))
			return NULL;
		int rc = balance(p, &gave);
		if (rc == 0) {
			retry = 0;
			look_at_floor(p);
			pause_ms(&p->wake, 0, 0);
			continue;
		}
		/* Not now. That slabs are needed is known: only WAKE_NOW ends this pause early. */
		if (!retry || gave || rc == -EAGAIN)
			retry = RETRY_MS;
		else
			retry = retry * 2 < RETRY_MOST_MS ? retry * 2 : RETRY_MOST_MS;
		atomic_fetch_or(&p->wake, WAKE_NEED);
		pause_ms(&p->wake, WAKE_NEED, retry);
	}
}

uint64_t tz_pool_trim(struct tz_pool *p)
{
	uint64_t before = atomic_load(&p->trimmed),
		deadline = tz_now_ns() + TRIM_MS * 1000000ull, now;
	uint32_t mine = atomic_fetch_add(&p->trim_asked, 1) + 1, done;

	wake(p, WAKE_NOW);
	while ((int32_t)((done = atomic_load(&p->trim_done)) - mine) < 0 &&
	    (now = tz_now_ns()) < deadline)
		pause_ms(&p->trim_done, done, (unsigned)((deadline - now) / 1000000) + 1);
	return atomic_load(&p->trimmed) - before;
}

/* ---- making and ending ---- */

/* 1/64 of the disk, 512 KiB to 16 MiB, and at most 1/16 of the limit: what bursts of writes take
 * while the kernel has no free memory. (Measured with hogs in guests of 256 MiB to 1 GiB:
 * docs/swap-safety.md.) */
static uint32_t target_for(uint64_t disksize, uint64_t limit)
{
	uint64_t bytes = disksize / 64;

	if (bytes > (16u << 20))
		bytes = 16u << 20;
	if (bytes < (512u << 10))
		bytes = 512u << 10;
	if (limit && bytes > limit / 16)
		bytes = limit / 16;
	return bytes / TZ_SLAB_SIZE ? (uint32_t)(bytes / TZ_SLAB_SIZE) : 1;
}

static int check_limit(const struct tz_pool *p, uint64_t limit, char *why, size_t why_size)
{
	uint64_t least = p->arena->slab_offset + 16 * TZ_SLAB_SIZE;

	if (limit == 0 || limit >= least)
		return 0;
	snprintf(why, why_size,
		"mem_limit %.1fM is too small: the page table of this disk and 1 MiB of"
		" slabs take %.1fM",
		(double)limit / (1 << 20), (double)least / (1 << 20));
	return -EINVAL;
}

int tz_pool_set_limit(struct tz_pool *p, uint64_t bytes, char *why, size_t why_size)
{
	int rc = check_limit(p, bytes, why, why_size);

	if (rc < 0)
		return rc;
	set(p->mem_limit, bytes);
	set(p->reserve_full, target_for(p->arena->disksize, bytes));
	wake(p, WAKE_NOW);
	return 0;
}

/* Slabs and maps in one mapping. Locked as it is touched, which only the reserve's thread does
 * first. Without the right to (an ordinary user's local device) it works unlocked; the server shows
 * that. */
static int map_metadata(struct tz_pool *p, char *why, size_t why_size)
{
	uint64_t pages = p->arena->disksize / TZ_PAGE_SIZE;
	size_t slabs = (p->arena->nr_slabs * sizeof *p->slabs +
		TZ_PAGE_SIZE - 1) / TZ_PAGE_SIZE * TZ_PAGE_SIZE;

	/* For tiny objects on every page, in slabs filled to a quarter. When they run out, such
	 * objects take larger slots. */
	p->nr_maps = (uint32_t)(pages / (TZ_OWN_MAP_SLOTS / 4) + 256);
	p->metadata_len = slabs + p->nr_maps * sizeof *p->maps;
	p->slabs = mmap(NULL, p->metadata_len, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->slabs == MAP_FAILED) {
		p->slabs = NULL;
		snprintf(why, why_size, "cannot map slab metadata: %s", strerror(errno));
		return -ENOMEM;
	}
	p->maps = (void *)((uint8_t *)p->slabs + slabs);
	syscall(SYS_mlock2, p->slabs, p->metadata_len, MLOCK_ONFAULT);
	return 0;
}

int tz_pool_create(struct tz_pool *p, struct tz_arena *arena, struct tz_stats *stats,
	uint64_t mem_limit, char *why, size_t why_size)
{
	int rc;

	memset(p, 0, sizeof *p);
	p->arena = arena;
	p->stats = stats;
	p->reserve = p->unpopulated = TZ_NO_SLAB;
	p->spare_map = NO_MAP;
	rc = tz_pool_set_limit(p, mem_limit, why, why_size);
	if (rc == 0)
		rc = map_metadata(p, why, why_size);
	if (rc < 0)
		return rc;
	make_classes(p);
	stats->table_bytes = arena->slab_offset;
	count_used(p, (int64_t)arena->slab_offset);
	set_target(p, get(p->reserve_full));
	rc = refill(p);
	if (rc < 0)
		snprintf(why, why_size, "no memory for the reserve (%llu KiB): %s",
			(unsigned long long)(stats->reserve_target >> 10), strerror(-rc));
	return rc;
}

static int start_thread(struct tz_pool *p, pthread_t *thread, void *(*run)(void *), char *why,
	size_t why_size)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	/* It is locked as a whole: not the usual 8 MiB. */
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	int rc = -pthread_create(thread, &attr, run, p);
	pthread_attr_destroy(&attr);
	if (rc < 0)
		snprintf(why, why_size, "cannot start the pool's threads: %s", strerror(-rc));
	else
		p->nr_threads++;
	return rc;
}

int tz_pool_start(struct tz_pool *p, int (*compact)(void *arg, int pass), void *arg, char *why,
	size_t why_size)
{
	p->compact = compact;
	p->compact_arg = arg;
	int rc = start_thread(p, &p->reserve_thread, reserve_thread, why, why_size);
	return rc < 0 ? rc : start_thread(p, &p->compactor, compactor, why, why_size);
}

static void stop_waiting_on(_Atomic uint32_t *word)
{
	atomic_fetch_or(word, WAKE_NOW);
	tz_futex(word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
}

void tz_pool_destroy(struct tz_pool *p)
{
	stop_waiting_on(&p->stop);
	stop_waiting_on(&p->wake);
	stop_waiting_on(&p->activity);
	if (p->nr_threads > 0)
		pthread_join(p->reserve_thread, NULL);
	if (p->nr_threads > 1)
		pthread_join(p->compactor, NULL);
	if (p->slabs)
		munmap(p->slabs, p->metadata_len);
	p->nr_threads = 0;
	p->slabs = NULL;
}
