/* attach.c - a store from the arena that another server has left, killed or not (interface:
 * store.h).
 *
 * The page table is the truth: whatever else a store knows is rebuilt from it. Which segments there
 * are, the file says (SEEK_DATA); they are mapped, once, so that the data path takes no fault. Then
 *  - the directory is walked, and says which pages of the table there are;
 *  - each of their entries is looked at as a read would do it, and beyond that: the object it names
 *    must lie in a segment that has no pages of the table, be this page's (owner), and share no
 *    unit with another. A bit is set for each unit of it;
 *  - what those bits leave are the holes. Segments without an object go to the reserve, whose
 *    thread punches out what it does not need.
 *
 * Checksums are looked at of objects that several pages have (dedup.c), and of the heads of groups
 * (group.c), so that all of their entries mean the same units; how many they are is counted again.
 * Of others they are not: that would read all of the arena, and reads do.
 *
 * An entry that does not pass is replaced by a poisoned one, which reads as an error, names
 * nothing, and goes when the page is written or discarded. It must not stay as it is: one that is
 * out of range now would not be when the arena has grown, and two that share units would free each
 * other's. If some share units, those whose checksum is right are kept (the one met first, if they
 * all are). Damage hardly ever leads there, rather a fault in a program: entries have check bits,
 * objects an owner.
 *
 * A damaged entry of the directory is put right if one to three flipped bits explain it: the page
 * of the table that it named then is one that nothing else names, and its entries are those of the
 * right pages. Otherwise a page of poisoned entries takes its place.
 *
 * Nothing is written before all of it has been looked at, and the codecs are there. Each of the
 * stores made then leaves a sound arena, as those of a store at work do, so a server may die here
 * as well.
 */
#include "check.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define AHEAD 16u		/* entries whose objects are being loaded */
#define REPAIRS_MOST 1024u		/* of the directory: some 0.2 ms each */

/* what a segment's objects are, before it has a shard; 0: not known yet */
enum { FOR_OTHERS = 1, FOR_SHARED, FOR_GROUPS };

struct attaching {
	struct tz_store *s;
	struct tz_attach *a;
	uint64_t *taken;		/* a bit for each unit */
	uint64_t *shared;		/* and: an object that pages share begins there */
	uint64_t nr_shared;
	struct tz_queue_stats *q;		/* what there is */
	int64_t backed[TZ_KINDS];		/* and of what kinds, on the backing file */
	uint64_t before;		/* problems that are not of entries */
	unsigned repairs;
	uint64_t *lost_tables;		/* pages of the table that cannot be put right */
	uint64_t nr_lost_tables;
	int rc;		/* of mapping the segments, and of finding those */
	int damaged_directory;
	int strict;		/* some objects share room: all checksums are looked at */
	int shares;		/* that was found */
	int mend;		/* bad entries are replaced */
};

#define problem(k, page, ...) \
	tz_check_note((k)->a->problems, (k)->a->room, &(k)->a->nr_problems, page, __VA_ARGS__)

static _Atomic uint64_t *words_at(const struct attaching *k, uint64_t offset)
{
	return (_Atomic uint64_t *)(k->s->arena.base + offset);
}

static uint32_t segment_of(const struct attaching *k, uint64_t offset)
{
	return (uint32_t)((offset - k->s->arena.segment_offset) / TZ_SEGMENT_SIZE);
}

/* Whether the segment that this is in has pages of the table. */
static int is_in_table(const struct attaching *k, uint64_t offset)
{
	return tz_alloc_state(&k->s->alloc, segment_of(k, offset)) == TZ_SEGMENT_TABLE;
}

/* ---- which segments there are ---- */

/* Notes and maps what is populated. Only segments of the table are so in parts; what else is was
 * never in use: its server died while it was populated, or punched out. */
static void find_segments(void *arg, uint64_t from, uint64_t to)
{
	struct attaching *k = arg;
	struct tz_arena *arena = &k->s->arena;
	uint64_t base = arena->segment_offset, end;

	if (from < base)
		from = base;
	if (to <= from || k->rc < 0)
		return;
	for (uint64_t at = from; at < to; at = end) {
		uint64_t segment = (at - base) / TZ_SEGMENT_SIZE,
			 in = (at - base) % TZ_SEGMENT_SIZE;
		end = at - in + TZ_SEGMENT_SIZE < to ? at - in + TZ_SEGMENT_SIZE : to;
		tz_alloc_adopt(&k->s->alloc, (uint32_t)segment, (unsigned)(in / TZ_PAGE_SIZE),
			(unsigned)((end - at) / TZ_PAGE_SIZE));
	}
	k->rc = tz_arena_map(arena, from, to - from);
}

static int map_segments(struct attaching *k, char *why, size_t why_size)
{
	struct tz_arena *arena = &k->s->arena;
	int rc = tz_arena_find_populated(arena->fd, arena->size, find_segments, k);

	if (rc == 0)
		rc = k->rc;
	if (rc < 0)
		snprintf(why, why_size, "cannot map the arena's segments: %s", strerror(-rc));
	return rc;
}

/* What is in the file and in no segment that there is: parts of segments, and what was allocated
 * but not mapped yet when the server died (SEEK_DATA does not find that). */
static void release_rest(struct tz_store *s)
{
	struct tz_arena *arena = &s->arena;
	uint64_t known = tz_arena_fixed_bytes(arena) +
		tz_arena_directory_more(arena) * TZ_PAGE_SIZE +
		s->alloc.adopted_bytes, first, last;
	struct stat st;

	if (fstat(arena->fd, &st) < 0 || (uint64_t)st.st_blocks * 512 <= known)
		return;
	for (first = 0; first < arena->nr_segments; first = last + 1) {
		for (last = first; last < arena->nr_segments &&
			!tz_alloc_is_present(&s->alloc, (uint32_t)last); last++)
			;
		if (last > first)
			tz_arena_release(arena, tz_segment_offset(arena, first),
				(last - first) * TZ_SEGMENT_SIZE);
	}
	for (uint64_t page = 0; page < arena->nr_directory; page++)
		if (!tz_arena_directory_ready(arena, page * TZ_DIRECTORY_ENTRIES))
			tz_arena_release(arena,
				arena->head.directory_offset + page * TZ_PAGE_SIZE, TZ_PAGE_SIZE);
}

/* ---- the directory ---- */

/* Calls it for each entry of the directory that is not 0. */
static void each_table(struct attaching *k,
	void (*what)(struct attaching *k, uint64_t index, uint64_t entry))
{
	struct tz_arena *arena = &k->s->arena;

	for (uint64_t i = 0; i < arena->nr_tables; i++) {
		uint64_t entry;
		if (!tz_arena_directory_ready(arena, i)) {
			i |= TZ_DIRECTORY_ENTRIES - 1;
			continue;
		}
		entry = atomic_load(&arena->directory[i]);
		if (entry)
			what(k, i, entry);
	}
}

/* Of the entries at `offset`, how many are those of the index'th page of the table. */
static unsigned matching(const struct attaching *k, uint64_t index, uint64_t offset, unsigned *used)
{
	_Atomic uint64_t *entries = words_at(k, offset);
	unsigned n = 0;

	*used = 0;
	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		uint64_t entry = atomic_load_explicit(&entries[i], memory_order_relaxed);
		*used += entry != 0;
		n += entry && tz_entry_check(index * TZ_TABLE_ENTRIES + i, entry);
	}
	return n;
}

/* Whose page of the table has been found there; UINT64_MAX: nobody's. */
static uint64_t owner_of(const struct attaching *k, uint64_t offset)
{
	const struct tz_segment *m = &k->s->alloc.segments[segment_of(k, offset)];
	uint64_t in = offset - k->s->arena.segment_offset;
	unsigned i = (unsigned)(in % TZ_SEGMENT_SIZE / TZ_PAGE_SIZE);

	if (!is_in_table(k, offset) || !(m->table.pages >> i & 1))
		return UINT64_MAX;
	return tz_alloc_table_index(m, i);
}

/* Whether that is an entry of the directory as far as it goes: its page is populated. */
static int is_table_entry(const struct attaching *k, uint64_t index, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry),
		 in = (offset - k->s->arena.segment_offset) % TZ_SEGMENT_SIZE;

	return tz_table_is_directory_entry(index, entry) && offset % TZ_PAGE_SIZE == 0 &&
		tz_alloc_in_range(&k->s->alloc, offset, TZ_PAGE_SIZE / TZ_UNIT) &&
		tz_alloc_ready(&k->s->alloc, segment_of(k, offset)) >> in / TZ_PAGE_SIZE & 1;
}

/* Whether this entry's page of the table has been found to be its. */
static int owns_table(const struct attaching *k, uint64_t index, uint64_t entry)
{
	return is_table_entry(k, index, entry) && owner_of(k, tz_entry_offset(entry)) == index;
}

static void claim_table(struct attaching *k, uint64_t index, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry), other;
	unsigned used;

	if (!is_table_entry(k, index, entry)) {
		k->damaged_directory = 1;
		return;
	}
	other = owner_of(k, offset);
	if (other != UINT64_MAX) {
		k->damaged_directory = 1;
		if (matching(k, index, offset, &used) <= matching(k, other, offset, &used))
			return;
	}
	tz_alloc_adopt_table_page(&k->s->alloc, offset, (uint32_t)index);
}

/* Looks whether a damaged entry may have been this one: the page that it names is nobody else's,
 * and most of its entries are those of the right pages. *found: its offset, 0 before one is found,
 * and UINT64_MAX when there are several. */
static void consider(const struct attaching *k, uint64_t index, uint64_t entry, uint64_t *found)
{
	uint64_t offset = tz_entry_offset(entry);
	unsigned used, right;

	if (!is_table_entry(k, index, entry) || owner_of(k, offset) != UINT64_MAX)
		return;
	right = matching(k, index, offset, &used);
	if (right > used / 2)
		*found = *found && *found != offset ? UINT64_MAX : offset;
}

/* Which page of the table an entry named before one to three bits of it were flipped; 0: that
 * cannot be said. */
static uint64_t unflipped(const struct attaching *k, uint64_t index, uint64_t entry)
{
	uint64_t found = 0;

	for (unsigned a = 0; a < 64; a++) {
		uint64_t one = entry ^ 1ull << a;
		consider(k, index, one, &found);
		for (unsigned b = a + 1; b < 64; b++) {
			uint64_t two = one ^ 1ull << b;
			consider(k, index, two, &found);
			for (unsigned c = b + 1; c < 64; c++)
				consider(k, index, two ^ 1ull << c, &found);
		}
	}
	return found == UINT64_MAX ? 0 : found;
}

static void note_lost_table(struct attaching *k, uint64_t index)
{
	uint64_t n = k->nr_lost_tables, *more = k->lost_tables;

	if (!(n & (n - 1)))		/* a power of two, and full */
		more = realloc(more, (n ? n * 2 : 1) * sizeof *more);
	if (!more) {
		k->rc = -ENOMEM;
		return;
	}
	k->lost_tables = more;
	k->lost_tables[k->nr_lost_tables++] = index;
}

static void repair_table(struct attaching *k, uint64_t index, uint64_t entry)
{
	unsigned long long first = index * TZ_TABLE_ENTRIES;
	uint64_t right;

	if (owns_table(k, index, entry))
		return;
	right = k->repairs++ < REPAIRS_MOST ? unflipped(k, index, entry) : 0;
	if (right) {
		tz_alloc_adopt_table_page(&k->s->alloc, right, (uint32_t)index);
		problem(k, first, "the directory's entry is damaged and was put right");
	} else {
		problem(k, first, "the directory's entry is damaged: pages %llu to %llu are lost",
			first, first + TZ_TABLE_ENTRIES - 1);
		note_lost_table(k, index);
	}
}

/* ---- entries ---- */

static int has_right_checksum(const struct attaching *k, uint64_t page, uint64_t entry)
{
	const uint8_t *object = k->s->arena.base + tz_entry_offset(entry);
	struct tz_object_head head;
	struct tz_group_head group;

	if (tz_entry_is_grouped(entry))
		return !tz_group_head_fault(object, page, tz_entry_units(entry), &group) &&
			tz_group_payload_is_right(object, &group);
	memcpy(&head, object, sizeof head);
	return tz_crc32c(tz_object_seed(tz_object_owner(page, entry), tz_entry_kind(entry)),
		       object + sizeof head, tz_entry_length(entry)) == head.crc;
}

/* Whether the segment can have such an object: of those that pages share, of groups, and of all
 * others, it has one sort only. Noted in what will be its shard. */
static int is_for(struct attaching *k, uint32_t segment, uint64_t entry)
{
	struct tz_segment *m = &k->s->alloc.segments[segment];
	uint8_t now = atomic_load(&m->shard), wanted = tz_entry_is_grouped(entry) ? FOR_GROUPS
		: tz_entry_is_shared(entry) ? FOR_SHARED
					    : FOR_OTHERS;

	if (!now)
		atomic_store(&m->shard, wanted);
	return !now || now == wanted;
}

/* Takes the object's units; *own: it is the first entry that names it. What is wrong, NULL:
 * nothing. The entries of a shared object are all right by checksum, and those of a group by that
 * of its head, so they all name the same units. */
static const char *take_units(struct attaching *k, uint64_t page, uint64_t entry, int *own)
{
	uint64_t first = (tz_entry_offset(entry) - k->s->arena.segment_offset) / TZ_UNIT;
	unsigned n = tz_entry_units(entry);
	int shared = tz_entry_is_shared(entry), several = shared || tz_entry_is_grouped(entry);

	if ((shared || k->strict) && !has_right_checksum(k, page, entry))
		return "its object's checksum does not match";
	*own = !several || !tz_units_any(k->shared, first, 1);
	k->nr_shared += (unsigned)shared;
	if (!*own)
		return NULL;
	if (!is_for(k, segment_of(k, tz_entry_offset(entry)), entry) ||
		tz_units_any(k->taken, first, n)) {
		if (has_right_checksum(k, page, entry))
			k->shares = 1;
		return "its object shares room with another one";
	}
	tz_units_take(k->taken, first, n);
	if (several)
		tz_units_take(k->shared, first, 1);
	return NULL;
}

static const char *object_fault(struct attaching *k, uint64_t page, uint64_t entry, int *own)
{
	const uint8_t *object = k->s->arena.base + tz_entry_offset(entry);
	struct tz_object_head head;
	struct tz_group_head group;
	const char *fault;

	if (is_in_table(k, tz_entry_offset(entry)))
		return "its object lies among pages of the table";
	if (tz_alloc_ready(&k->s->alloc, segment_of(k, tz_entry_offset(entry))) != UINT32_MAX)
		return "its object is where the file has a hole";
	if (tz_entry_is_grouped(entry)) {
		fault = tz_group_head_fault(object, page, tz_entry_units(entry), &group);
		return fault ? fault : take_units(k, page, entry, own);
	}
	if (tz_entry_kind(entry) == TZ_KIND_RAW && tz_entry_length(entry) != TZ_PAGE_SIZE)
		return "its object is of a wrong length";
	memcpy(&head, object, sizeof head);
	if (head.owner != (uint32_t)tz_object_owner(page, entry))
		return "its object belongs to another page";
	return take_units(k, page, entry, own);
}

static const char *entry_fault(struct attaching *k, uint64_t page, uint64_t entry, int *own)
{
	const char *fault = tz_store_fault(k->s, page, entry);

	if (page >= k->s->nr_pages)
		return "an entry beyond the end of the disk";
	return fault || !tz_entry_has_object(entry) ? fault : object_fault(k, page, entry, own);
}

/* What does not pass counts as a page stored, until it is written or discarded. */
static void bad_entry(struct attaching *k, uint64_t page, _Atomic uint64_t *slot, const char *fault)
{
	int beyond = page >= k->s->nr_pages;

	problem(k, beyond ? TZ_CHECK_NO_PAGE : page, "%s", fault);
	if (k->mend)
		atomic_store(slot, beyond ? 0 : tz_entry_poisoned(page));
	k->q->pages_now += !beyond;
	k->a->lost += !beyond;
}

static void count(struct attaching *k, uint64_t page, uint64_t entry, int own)
{
	struct tz_group_head group;

	tz_store_count_entry(k->q, entry, own, 1);
	if (tz_entry_is_backed(entry)) {
		tz_backing_adopt(k->s, entry);
		k->backed[tz_backed_as(entry)]++;
	}
	if (own && tz_entry_is_grouped(entry) &&
		!tz_group_head_fault(k->s->arena.base + tz_entry_offset(entry), page,
			tz_entry_units(entry), &group))
		tz_group_count(k->q, entry, group.length, 1);
}

static void look_at_entry(struct attaching *k, uint64_t page, _Atomic uint64_t *slot)
{
	uint64_t entry = atomic_load_explicit(slot, memory_order_relaxed);
	const char *fault;
	int own = 1;

	if (!entry)
		return;
	if (page < k->s->nr_pages && entry == tz_entry_poisoned(page)) {
		k->a->lost_before++;
		k->q->pages_now++;
		return;
	}
	fault = entry_fault(k, page, entry, &own);
	if (fault)
		bad_entry(k, page, slot, fault);
	else
		count(k, page, entry, own);
}

/* What an entry will want, before anything is known of it. */
static void prefetch(const struct attaching *k, uint64_t entry)
{
	const struct tz_arena *arena = &k->s->arena;
	uint64_t offset = tz_entry_offset(entry);

	if (!tz_entry_has_object(entry) || offset < arena->segment_offset || offset >= arena->size)
		return;
	__builtin_prefetch(arena->base + offset, 0, 0);
	__builtin_prefetch(&k->taken[(offset - arena->segment_offset) / TZ_UNIT / 64], 1, 3);
}

static void look_at_table_page(struct attaching *k, uint64_t index, uint64_t offset)
{
	_Atomic uint64_t *entries = words_at(k, offset);

	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		if (i + AHEAD < TZ_TABLE_ENTRIES)
			prefetch(k, atomic_load_explicit(
				&entries[i + AHEAD], memory_order_relaxed));
		look_at_entry(k, index * TZ_TABLE_ENTRIES + i, &entries[i]);
	}
}

/* Calls it for each page of the table that has been found. */
static void each_table_page(struct attaching *k,
	void (*what)(struct attaching *k, uint64_t index, uint64_t offset))
{
	struct tz_alloc *alloc = &k->s->alloc;
	uint32_t known = atomic_load(&alloc->nr_known);

	for (uint32_t s = 0; s < known; s++) {
		if (tz_alloc_state(alloc, s) != TZ_SEGMENT_TABLE)
			continue;
		uint32_t left = __atomic_load_n(&alloc->segments[s].table.pages, __ATOMIC_ACQUIRE);
		for (; left; left &= left - 1) {
			unsigned i = (unsigned)__builtin_ctz(left);
			what(k, tz_alloc_table_index(&alloc->segments[s], i),
				tz_segment_offset(&k->s->arena, s) + (uint64_t)i * TZ_PAGE_SIZE);
		}
	}
}

static void free_units(struct attaching *k)
{
	tz_units_unmap(k->taken, k->s->arena.nr_segments);
	tz_units_unmap(k->shared, k->s->arena.nr_segments);
	k->taken = k->shared = NULL;
}

/* From the beginning: 0, or -ENOMEM. */
static int look_at_entries(struct attaching *k)
{
	struct tz_alloc *alloc = &k->s->alloc;
	uint32_t known = atomic_load(&alloc->nr_known);

	free_units(k);
	k->taken = tz_units_map(k->s->arena.nr_segments);
	k->shared = tz_units_map(k->s->arena.nr_segments);
	if (!k->taken || !k->shared)
		return -ENOMEM;
	for (uint32_t s = 0; s < known; s++)
		if (tz_alloc_is_present(alloc, s))
			atomic_store(&alloc->segments[s].shard, 0);
	k->nr_shared = 0;
	tz_backing_forget_counts(k->s);
	memset(k->backed, 0, sizeof k->backed);
	memset(k->q, 0, sizeof *k->q);
	k->a->nr_problems = k->before;
	k->a->lost = k->a->lost_before = 0;
	each_table_page(k, look_at_table_page);
	return 0;
}

static int look(struct attaching *k, char *why, size_t why_size)
{
	int rc;

	each_table(k, claim_table);
	if (k->damaged_directory)
		each_table(k, repair_table);
	k->before = k->a->nr_problems;
	rc = k->rc < 0 ? k->rc : look_at_entries(k);
	if (rc == 0 && k->shares) {
		k->strict = 1;
		rc = look_at_entries(k);
	}
	if (rc < 0)
		snprintf(why, why_size, "no memory to look through the page table");
	return rc;
}

/* ---- the allocator ---- */

/* They are dealt out; shared objects and groups have shards of their own. */
static unsigned shard_for(const struct tz_alloc *alloc, uint32_t s)
{
	switch (tz_alloc_shard(alloc, s)) {
	case FOR_SHARED: return tz_alloc_own_shard(alloc, TZ_SHARD_SHARED);
	case FOR_GROUPS: return tz_alloc_own_shard(alloc, TZ_SHARD_GROUPS);
	}
	return s % alloc->nr_shards;
}

static void adopt_segments(struct attaching *k)
{
	struct tz_alloc *alloc = &k->s->alloc;

	/* From the end: the first ones are on top of the reserve then. */
	for (uint32_t s = atomic_load(&alloc->nr_known); s-- > 0;) {
		const uint64_t *taken = k->taken + (uint64_t)s * (TZ_SEGMENT_UNITS / 64);
		unsigned state = tz_alloc_state(alloc, s);
		if (state == TZ_SEGMENT_TABLE)
			tz_alloc_adopt_table(alloc, s);
		else if (state == TZ_SEGMENT_BETWEEN && tz_alloc_ready(alloc, s) != UINT32_MAX)
			tz_alloc_tear(alloc, s);
		else if (state == TZ_SEGMENT_BETWEEN && tz_units_any(taken, 0, TZ_SEGMENT_UNITS))
			tz_alloc_adopt_objects(alloc, s, shard_for(alloc, s), taken);
		else if (state == TZ_SEGMENT_BETWEEN)
			tz_alloc_reserve_push(alloc, s);
	}
}

/* ---- putting things right ---- */

/* As the directory should name it: put right, and not about to be taken away, as the server before
 * may have meant to. */
static void restore_directory(struct attaching *k, uint64_t index, uint64_t offset)
{
	uint64_t right = tz_table_directory_entry(index, offset, 0);

	if (atomic_load(&k->s->arena.directory[index]) != right)
		atomic_store(&k->s->arena.directory[index], right);
}

/* What cannot be put right: 512 poisoned entries. Without room for them the directory's entry stays
 * damaged, and reads and writes fail. (The store's threads are at work by now, and change what is
 * known of segments: which ones are lost was found before.) */
static void replace_table(struct attaching *k, uint64_t index)
{
	struct tz_store *s = k->s;
	uint64_t first = index * TZ_TABLE_ENTRIES,
		 offset = tz_alloc_take_table(&s->alloc, (uint32_t)index);

	if (!offset)
		return;
	_Atomic uint64_t *entries = words_at(k, offset);
	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		int there = first + i < s->nr_pages;
		atomic_store_explicit(&entries[i], there ? tz_entry_poisoned(first + i) : 0,
			memory_order_relaxed);
		k->q->pages_now += there;
		k->a->lost += (unsigned)there;
	}
	atomic_store(&s->arena.directory[index], tz_table_directory_entry(index, offset, 0));
}

/* How many pages use each shared object: the first entry adds it. (If there is no room for it, as
 * there was before, it stays until the device goes: tz_store_account.) */
static void count_shares(struct attaching *k, uint64_t index, uint64_t offset)
{
	_Atomic uint64_t *entries = words_at(k, offset);

	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		uint64_t entry = atomic_load_explicit(&entries[i], memory_order_relaxed);
		if (tz_entry_is_shared(entry) && tz_entry_kind(entry) < TZ_KINDS_STORED &&
			!tz_store_fault(k->s, index * TZ_TABLE_ENTRIES + i, entry) &&
			!tz_dedup_hold(k->s, entry))
			tz_dedup_add(k->s, tz_entry_offset(entry), 1);
	}
}

static void count_members(struct attaching *k, uint64_t index, uint64_t offset)
{
	_Atomic uint64_t *entries = words_at(k, offset);

	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		uint64_t page = index * TZ_TABLE_ENTRIES + i,
			 entry = atomic_load_explicit(&entries[i], memory_order_relaxed);
		if (tz_entry_is_grouped(entry) && page < k->s->nr_pages &&
			!tz_store_fault(k->s, page, entry))
			tz_group_adopt(k->s, page, entry);
	}
}

static int restore_dedup(struct attaching *k, char *why, size_t why_size)
{
	struct tz_store *s = k->s;
	int on = (s->arena.head.compatible & TZ_ARENA_DEDUP) != 0,
	    rc = tz_dedup_attach(s, on, k->nr_shared != 0, why, why_size);

	if (rc < 0)
		return rc;
	if (k->nr_shared)
		each_table_page(k, count_shares);
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->dedup, (uint64_t)on);
	tz_stats_head_end(s->stats);
	return 0;
}

static int mend_entries(struct attaching *k, char *why, size_t why_size)
{
	int rc = 0;

	k->mend = 1;
	if (k->a->nr_problems > k->before && (rc = look_at_entries(k)) < 0)
		snprintf(why, why_size, "no memory to look through the page table again");
	return rc;
}

/* ---- attaching ---- */

/* The dictionary's bytes, to be freed; NULL with *n 0: there is none, or it is damaged. Pages that
 * were compressed with it are lost then, and no others. */
static void *read_dictionary(struct attaching *k, size_t *n)
{
	const struct tz_arena_head *h = &k->s->arena.head;
	uint8_t *bytes;

	*n = h->dictionary_size;
	bytes = *n && *n <= TZ_DICTIONARY_MAX ? malloc(*n) : NULL;
	if (bytes)
		memcpy(bytes, k->s->arena.base + TZ_DICTIONARY_OFFSET, *n);
	if (bytes && tz_crc32c(0, bytes, *n) == h->dictionary_crc)
		return bytes;
	if (*n)
		problem(k, TZ_CHECK_NO_PAGE, "the dictionary is damaged: pages that were compressed"
			" with it cannot be read");
	free(bytes);
	*n = 0;
	return NULL;
}

static int look_and_choose(struct attaching *k, char *why, size_t why_size)
{
	size_t n;
	void *dictionary = read_dictionary(k, &n);
	int rc = look(k, why, why_size);

	for (unsigned kind = 0; kind < TZ_KINDS; kind++)
		k->backed[kind] += k->q->kind_pages_now[kind];
	if (rc == 0)
		rc = tz_store_attach_codecs(k->s, k->backed, dictionary, n, why, why_size);
	free(dictionary);
	return rc;
}

/* All counts of what there is go to the first queue: the sum over queues is what matters. */
static void show_gauges(struct attaching *k)
{
	struct tz_queue_stats *to = tz_stats_queue(k->s->stats, 0);
	size_t size = offsetof(struct tz_queue_stats, read_lat) -
		offsetof(struct tz_queue_stats, pages_now);
	int64_t *from = &k->q->pages_now, *counter = &to->pages_now;

	tz_stats_begin(&to->seq);
	for (size_t i = 0; i < size / sizeof *from; i++)
		tz_stats_add(&counter[i], from[i]);
	tz_stats_end(&to->seq);
}

static int rebuild(struct attaching *k, char *why, size_t why_size)
{
	struct tz_store *s = k->s;
	int rc = tz_alloc_create(
		&s->alloc, &s->arena, s->stats, k->a->nr_threads, why, why_size);

	if (rc == 0)
		rc = map_segments(k, why, why_size);
	if (rc == 0 && s->arena.head.incompatible & TZ_ARENA_GROUPS) {
		rc = tz_groups_prepare(s, why, why_size);
		atomic_store(&s->groups.on, rc == 0);
	}
	if (rc == 0)
		rc = tz_backing_attach(s, why, why_size);
	return rc < 0 ? rc : look_and_choose(k, why, why_size);
}

static int start(struct attaching *k, char *why, size_t why_size)
{
	struct tz_store *s = k->s;
	int rc = mend_entries(k, why, why_size);

	if (rc < 0)
		return rc;
	each_table_page(k, restore_directory);
	adopt_segments(k);
	release_rest(s);
	rc = tz_reserve_start(&s->reserve, &s->alloc, s->arena.head.mem_limit, why, why_size);
	if (rc == 0)
		rc = restore_dedup(k, why, why_size);
	if (rc == 0 && atomic_load(&s->groups.on))
		each_table_page(k, count_members);
	if (rc == 0)
		tz_backing_resume(s);
	if (rc == 0)
		rc = tz_housekeeping_start(s, why, why_size);
	if (rc < 0)
		return rc;
	for (uint64_t i = 0; i < k->nr_lost_tables; i++)
		replace_table(k, k->lost_tables[i]);
	show_gauges(k);
	return 0;
}

/* Until it is live, the private copy of the head says otherwise: nothing is to be written then. */
static int attach(struct attaching *k, char *why, size_t why_size)
{
	struct tz_store *s = k->s;
	struct tz_store_config c = { .nr_threads = k->a->nr_threads, .stats = k->a->stats };
	int rc = tz_arena_attach(&s->arena, k->a->arena_fd, k->a->lock_arena, why, why_size);

	if (rc < 0)
		return rc;
	k->a->was_stopped = s->arena.head.state == TZ_ARENA_STOPPING;
	s->arena.head.state = TZ_ARENA_MAKING;
	s->nr_pages = s->arena.head.disksize / TZ_PAGE_SIZE;
	tz_stats_take_over(c.stats);
	rc = tz_store_make_threads(s, &c, why, why_size);
	if (rc == 0)
		rc = rebuild(k, why, why_size);
	if (rc == 0)
		rc = start(k, why, why_size);
	if (rc < 0)
		return rc;
	k->a->generation = ++s->arena.head.generation;
	if (k->a->server_version)
		snprintf(s->arena.head.device.server_version,
			sizeof s->arena.head.device.server_version, "%s", k->a->server_version);
	tz_store_set_live(s);
	tz_housekeeping_look_at_all(s);
	return 0;
}

struct tz_store *tz_store_attach(struct tz_attach *a, int *err, char *why, size_t why_size)
{
	struct attaching k = { .a = a };

	*err = -EINVAL;
	a->nr_problems = a->lost = a->lost_before = a->generation = 0;
	if (a->nr_threads == 0 || a->nr_threads > TZ_MAX_QUEUES) {
		snprintf(why, why_size, "threads must be 1 to %d", TZ_MAX_QUEUES);
		return NULL;
	}
	k.s = tz_store_new(err, why, why_size);
	k.q = calloc(1, sizeof *k.q);
	if (k.s && k.q) {
		*err = attach(&k, why, why_size);
	} else if (k.s) {
		*err = -ENOMEM;
		snprintf(why, why_size, "no memory");
	}
	if (k.s)
		free_units(&k);
	free(k.lost_tables);
	free(k.q);
	if (*err < 0 && k.s) {
		k.s->arena.fd = -1;		/* stays the caller's */
		tz_store_destroy(k.s);
		k.s = NULL;
	}
	return k.s;
}
