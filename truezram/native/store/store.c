/* store.c - a device's pages: page table, publishing, reading while others write, accounting.
 *
 * The page table holds one 8-byte entry per page (entry.h), and it is the truth: what is in no
 * entry does not exist. It comes in pages of 512 entries that are there only where something is
 * stored; the directory says where each of them is.
 *
 * An object is a head of 8 bytes and the payload. The head has a CRC-32C of the payload, seeded
 * with page number and kind, so that an entry that points to a whole but wrong object is caught as
 * well; and the page number (owner), by which the housekeeper finds the entry of an object.
 *
 * The arena is not trusted: a bit of it may flip. Entries have check bits; what they name is
 * checked before it is used: kind, range, segment. A damaged entry reads as -EIO; when it is
 * overwritten or discarded, nothing is freed, so that no other page is lost by it. A damaged entry
 * of the directory is put right.
 *
 * Writing: compress into the thread's buffer, place the object, publish it with one atomic exchange
 * of the entry, free what the exchange returned. At every instant the table names complete objects
 * only.
 *
 * Reading without locks: a reader announces the entry it is about to use in its hazard slot, looks
 * at the table again, and goes on only if the entry is still there; whoever frees an object looks
 * through the hazard slots first and sets the object aside if it is in use. Each thread announces
 * one object at a time, but it may move on to the next while a writer looks through the slots: what
 * a thread has set aside is at most two objects for each other thread (tests/native/
 * test_hazard_model.py tries all orders). No thread waits for a reader; what threads do wait for,
 * for some tens of nanoseconds unless a holder loses its CPU, is the lock of a shard, of the
 * table's pages or of the reserve (alloc.c).
 *
 * An entry's age may change while somebody works with its object: a read makes it 0, and the
 * housekeeper's clock makes it higher (age.c), both by compare-and-exchange. Whoever exchanges an
 * entry that it has announced for another one of the same page therefore tries again when only the
 * age is another (tz_store_exchange): with the hazard announced, the object is still the same.
 *
 * Freed swap slots: the kernel sets a bit when it has freed a page's slot, a write clears it when
 * it arrives (before it stores anything), and the collector takes the page's entry out of the table
 * by compare-and-exchange, after it has looked at the entry first and taken the bit after that. A
 * write that comes in between publishes another entry, and the exchange fails: an object's entry
 * cannot come back while the collector announces it as a reader does. A same-filled page's could;
 * so the collector says which page it is at, and a write that finds it there makes an object of the
 * word. (tests/native/test_freed_model.py tries all orders. The kernel, for its part, frees a slot
 * only when no write to it is under way, and before the slot can be taken again.)
 */
#include "store_impl.h"
#include "clock.h"
#include "variants.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define CLOCK_EVERY 16u		/* codec time is taken on one page in so many */
/* added to the number of a page of the table: what its directory entry is sealed with */
#define DIRECTORY_PAGE (1ull << 40)
#define DISCARD_AHEAD 8u
#define DISCARD_COST 32u		/* of a page given back, in entries looked at */

_Static_assert(TZ_DISK_MAX / TZ_PAGE_SIZE <= 1ull << 32, "an object's owner has 32 bits");

/* ---- the page table ---- */

uint64_t tz_table_directory_entry(uint64_t index, uint64_t offset, int closing)
{
	return tz_entry_seal(DIRECTORY_PAGE + index,
		TZ_KIND_TABLE | offset / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT |
			(closing ? TZ_DIRECTORY_CLOSING : 0));
}

int tz_table_is_directory_entry(uint64_t index, uint64_t entry)
{
	return tz_entry_kind(entry) == TZ_KIND_TABLE &&
		tz_entry_check(DIRECTORY_PAGE + index, entry);
}

static int is_directory_entry(const struct tz_store *s, uint64_t index, uint64_t entry)
{
	return tz_table_is_directory_entry(index, entry) &&
		tz_alloc_in_range(&s->alloc, tz_entry_offset(entry), TZ_PAGE_SIZE / TZ_UNIT);
}

/* A damaged entry of the directory is known elsewhere, too. 0: it is not. */
static uint64_t put_right(const struct tz_store *s, uint64_t index, uint64_t entry)
{
	uint64_t offset = tz_alloc_find_table(&s->alloc, (uint32_t)index), right;

	if (!offset)
		return 0;
	right = tz_table_directory_entry(index, offset, 0);
	atomic_compare_exchange_strong(&s->arena.directory[index], &entry, right);
	return right;
}

uint64_t tz_table_page(const struct tz_store *s, uint64_t index, int *damaged)
{
	uint64_t entry;

	if (!tz_arena_directory_ready(&s->arena, index))
		return 0;
	/* After having gone inside, in the order that all threads agree on (seq_cst): either this
	 * finds the mark of a page that is about to go, or that waits for this thread. */
	entry = atomic_load_explicit(&s->arena.directory[index], memory_order_seq_cst);
	if (!entry)
		return 0;
	if (!is_directory_entry(s, index, entry) && !(entry = put_right(s, index, entry))) {
		*damaged = 1;
		return 0;
	}
	return tz_entry_offset(entry);
}

static _Atomic uint64_t *entries_at(const struct tz_store *s, uint64_t offset)
{
	return (_Atomic uint64_t *)(s->arena.base + offset);
}

_Atomic uint64_t *tz_table_slot(const struct tz_store *s, uint64_t page, int *damaged)
{
	uint64_t offset = tz_table_page(s, page / TZ_TABLE_ENTRIES, damaged);

	return offset ? entries_at(s, offset) + page % TZ_TABLE_ENTRIES : NULL;
}

/* A fresh page of the table, unless another thread was first. 0 or negative errno. */
static int make_table_page(struct tz_store *s, uint64_t index)
{
	uint64_t offset = tz_alloc_take_table(&s->alloc, (uint32_t)index), none = 0;

	if (!offset)
		return tz_reserve_no_room(&s->reserve);
	memset(s->arena.base + offset, 0, TZ_PAGE_SIZE);
	if (!atomic_compare_exchange_strong(
		    &s->arena.directory[index], &none, tz_table_directory_entry(index, offset, 0)))
		tz_alloc_put_table(&s->alloc, offset);
	return 0;
}

/* Where a page's entry is to be written. The housekeeper may be about to take an empty page of the
 * table away (CLOSING): not any more then. NULL with *err. */
static _Atomic uint64_t *slot_to_write(struct tz_store *s, uint64_t page, int *err)
{
	uint64_t index = page / TZ_TABLE_ENTRIES;
	_Atomic uint64_t *directory = &s->arena.directory[index];

	if (!tz_arena_directory_ready(&s->arena, index)) {
		tz_arena_want_directory(&s->arena, index);
		tz_reserve_wake(&s->reserve);
		*err = tz_reserve_no_room(&s->reserve);
		return NULL;
	}
	for (*err = 0; !*err; ) {
		uint64_t entry = atomic_load_explicit(directory, memory_order_seq_cst);
		if (!entry) {
			*err = make_table_page(s, index);
			continue;
		}
		if (!is_directory_entry(s, index, entry)) {
			*err = put_right(s, index, entry) ? 0 : -EIO;
			continue;
		}
		_Atomic uint64_t *slot =
			entries_at(s, tz_entry_offset(entry)) + page % TZ_TABLE_ENTRIES;
		if (!(entry & TZ_DIRECTORY_CLOSING))
			return slot;
		if (atomic_compare_exchange_strong(directory, &entry,
			    tz_table_directory_entry(index, tz_entry_offset(entry), 0)))
			return slot;
	}
	return NULL;
}

/* ---- objects ---- */

/* Bytes of payload, as compr_data_size counts them. A group has others, and no part of it is one
 * page's. */
static unsigned payload_length(uint64_t entry)
{
	return tz_entry_has_object(entry) && !tz_entry_is_grouped(entry) ? tz_entry_length(entry)
									 : 0;
}

const char *tz_store_fault(const struct tz_store *s, uint64_t page, uint64_t entry)
{
	unsigned kind = tz_entry_kind(entry);

	if (!tz_entry_check(page, entry))
		return "entry is damaged";
	if (kind == TZ_KIND_POISONED)
		return "lost: it was found damaged when a server attached the arena";
	if (kind == TZ_KIND_EMPTY ? entry != 0 : !tz_kind_is_stored(kind))
		return "entry of an unknown kind";
	if (tz_entry_is_backed(entry))
		return tz_backing_fault(s, entry);
	if (tz_entry_is_grouped(entry) &&
		(tz_entry_is_shared(entry) ||
			!atomic_load_explicit(&s->groups.on, memory_order_acquire)))
		return "entry of an unknown kind";
	if (tz_entry_has_object(entry) &&
		!tz_alloc_in_range(&s->alloc, tz_entry_offset(entry), tz_entry_units(entry)))
		return "entry out of range";
	return NULL;
}

/* ---- counters ---- */

void tz_store_count_entry(struct tz_queue_stats *q, uint64_t entry, int own, int sign)
{
	unsigned length = payload_length(entry);

	if (!entry)
		return;
	if (!own && !tz_entry_is_grouped(entry)) {
		tz_stats_add(&q->dup_pages_now, sign);
	} else if (length) {
		tz_stats_add_object(q, tz_entry_kind(entry),
			sign * (int64_t)(tz_entry_units(entry) * TZ_UNIT));
		tz_stats_add(&q->compr_bytes_now, sign * (int64_t)length);
	}
	tz_stats_add(&q->pages_now, sign);
	tz_stats_add(&q->kind_pages_now[tz_entry_kind(entry)], sign);
	if (length)
		tz_stats_add(&q->size_pages_now[length == TZ_PAGE_SIZE ? TZ_SIZE_BINS - 1
								       : (length - 1) / 64],
			sign);
}

/* ---- errors ---- */

static char *append(char *to, const char *end, const char *text)
{
	while (*text && to < end)
		*to++ = *text++;
	*to = 0;
	return to;
}

/* Puts the thread's newest error into the statistics, unless another thread is writing there: then
 * with the next call. By hand, because queue threads come here: printf may allocate. */
static void show_error(struct tz_store_thread *t)
{
	char text[sizeof t->store->stats->last_error], digits[24];
	char *end = text + sizeof text - 1, *to, *d = digits + sizeof digits - 1;
	uint64_t n = t->error_page;

	*d = 0;
	do
		*--d = (char)('0' + n % 10);
	while (n /= 10);
	to = append(text, end, "page ");
	to = append(to, end, d);
	to = append(to, end, ": ");
	append(to, end, t->error);
	if (tz_stats_error(t->store->stats, text))
		t->error = NULL;
}

void tz_store_note_error(struct tz_store_thread *t, uint64_t page, const char *what)
{
	t->error_page = page;
	t->error = what;
	show_error(t);
}

/* An entry that must not be used. */
static void note_damage(struct tz_store_thread *t, uint64_t page, const char *what)
{
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->damaged_entries, 1);
	tz_stats_end(&t->stats->seq);
	tz_store_note_error(t, page, what);
}

/* ---- freeing what others may be reading ---- */

/* Hazards and entries are stored and loaded in one order that all threads agree on (seq_cst):
 * either the reader finds its entry gone, or whoever took it out finds the hazard. */
static int is_read_by_someone(const struct tz_store *s, uint64_t entry)
{
	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++)
		if (!((atomic_load_explicit(&s->threads[i].hazard, memory_order_seq_cst) ^ entry) &
			    TZ_ENTRY_OFFSET_MASK))
			return 1;
	return 0;
}

static void free_object(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	unsigned units = tz_entry_units(entry);

	if (tz_alloc_put(&t->store->alloc, tz_entry_offset(entry), units) < 0)
		note_damage(t, page, "entry names room that is free, nothing freed");
	t->freed_units += units;
}

/* Frees of the set-aside objects those that nobody reads any more. */
void tz_store_free_set_aside(struct tz_store_thread *t)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < t->nr_set_aside; i++) {
		struct tz_set_aside a = t->set_aside[i];
		if (is_read_by_someone(t->store, a.entry))
			t->set_aside[kept++] = a;
		else
			free_object(t, a.page, a.entry);
	}
	t->nr_set_aside = kept;
}

void tz_store_retire(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	if (!tz_entry_has_object(entry))
		return;
	if (t->nr_set_aside)
		tz_store_free_set_aside(t);
	if (is_read_by_someone(t->store, entry)) {
		assert(t->nr_set_aside < sizeof t->set_aside / sizeof *t->set_aside);
		t->set_aside[t->nr_set_aside++] = (struct tz_set_aside){ entry, page };
	} else {
		free_object(t, page, entry);
	}
}

/* Loads a page's entry and keeps its object from being freed until the hazard is cleared. */
uint64_t tz_store_announce(struct tz_store_thread *t, _Atomic uint64_t *slot)
{
	uint64_t entry = atomic_load_explicit(slot, memory_order_acquire);

	while (tz_entry_has_object(entry)) {
		atomic_store_explicit(&t->hazard, entry, memory_order_seq_cst);
		uint64_t again = atomic_load_explicit(slot, memory_order_seq_cst);
		if (again == entry)
			break;
		entry = again;
	}
	return entry;
}

int tz_store_exchange(_Atomic uint64_t *slot, uint64_t page, uint64_t *entry, uint64_t mine)
{
	uint64_t now = *entry;

	do {
		*entry = now;
		if (mine)
			mine = tz_entry_aged(page, mine, tz_entry_age(now));
		if (atomic_compare_exchange_strong(slot, &now, mine))
			return 1;
	} while (tz_entry_is_same_object(now, *entry));
	return 0;
}

/* ---- writing and discarding ---- */

/* How many other pages have the object of an entry that has left the table; *payload: bytes of it,
 * if it is a group. NULL, or what is wrong with the entry: then nothing is to be freed. */
static const char *release(struct tz_store *s, uint64_t page, uint64_t entry, int64_t *others,
	unsigned *payload)
{
	const char *fault = entry ? tz_store_fault(s, page, entry) : NULL;

	*others = 0;
	if (fault)
		return fault;
	if (tz_entry_is_backed(entry))
		tz_backing_release(s, entry);
	if (tz_entry_is_grouped(entry)) {
		*others = tz_group_release(s, page, entry, payload);
		return *others < 0 ? "entry names a group that is not known" : NULL;
	}
	if (tz_entry_is_shared(entry))
		*others = tz_dedup_release(s, entry);
	return *others < 0 ? "entry names a shared object that is not known" : NULL;
}

void tz_store_account(struct tz_store_thread *t, uint64_t page, uint64_t old, uint64_t entry,
	int own, uint64_t *requests)
{
	struct tz_queue_stats *q = t->stats;
	unsigned payload = 0;
	int64_t others;
	const char *fault = release(t->store, page, old, &others, &payload);

	tz_stats_begin(&q->seq);
	if (!fault)
		tz_store_count_entry(q, old, !others, -1);
	else
		tz_stats_add(&q->pages_now, -1);
	if (!fault && !others && tz_entry_is_grouped(old))
		tz_group_count(q, old, payload, -1);
	tz_store_count_entry(q, entry, own, 1);
	if (requests) {
		tz_stats_add(requests, 1);
		if (tz_entry_kind(entry) == TZ_KIND_RAW)
			tz_stats_add(&q->huge_pages_since, 1);
	}
	tz_stats_end(&q->seq);
	if (fault)
		note_damage(t, page, fault);
	else if (!others)
		tz_store_retire(t, page, old);
	t->emptied += old && !entry;
	if (t->freed_units >= TZ_LOOK_UNITS || t->emptied >= TZ_TABLE_ENTRIES)
		tz_housekeeping_look(t);
}

static void publish(struct tz_store_thread *t, uint64_t page, _Atomic uint64_t *slot,
	uint64_t entry, int own, uint64_t *requests)
{
	tz_store_account(t, page, atomic_exchange_explicit(slot, entry, memory_order_seq_cst),
		entry, own, requests);
}

uint64_t tz_store_fill(struct tz_store *s, uint64_t offset, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length)
{
	struct tz_object_head head = { tz_crc32c(tz_object_seed(page, kind), payload, length),
		(uint32_t)page };
	uint8_t *object = s->arena.base + offset;

	memcpy(object, &head, sizeof head);
	memcpy(object + sizeof head, payload, length);
	return tz_entry_object(page, kind, offset, length);
}

/* Places an object; returns the entry or 0 with *err. */
static uint64_t place(struct tz_store_thread *t, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length, int *err)
{
	struct tz_store *s = t->store;
	uint64_t offset = tz_alloc_take(&s->alloc, t->index, tz_units_for(length));

	if (offset)
		return tz_store_fill(s, offset, page, kind, payload, length);
	*err = tz_housekeeping_no_room(s);
	return 0;
}

/* Compresses, counting what it took on every CLOCK_EVERYth page. Returns the length, 0 = keep the
 * page raw. */
static unsigned encode(struct tz_store_thread *t, const uint8_t *data, unsigned *kind)
{
	const struct tz_codec_set *set = t->inside_set;
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? tz_now_ns() : 0;
	size_t n = set->encoder->compress(set->encoder_workspace, data, t->object);

	*kind = set->encoder->kind;
	if (n && *kind == TZ_KIND_AUTO)
		*kind = t->object[--n];
	if (n > TZ_HUGE_SIZE)
		n = 0;
	if (!n)
		*kind = TZ_KIND_RAW;
	if (timed) {
		tz_stats_add(&t->stats->compress_ns, (int64_t)(tz_now_ns() - start));
		tz_stats_add(&t->stats->compress_bytes_in, TZ_PAGE_SIZE);
		tz_stats_add(&t->stats->compress_bytes_out, (int64_t)(n ? n : TZ_PAGE_SIZE));
	}
	return (unsigned)n;
}

/* What freeing a page's object will touch. */
static void prefetch_to_free(const struct tz_store *s, const _Atomic uint64_t *slot)
{
	uint64_t entry = atomic_load_explicit(slot, memory_order_relaxed);

	if (tz_entry_has_object(entry))
		tz_alloc_prefetch(&s->alloc, tz_entry_offset(entry));
}

/* A write of the page has arrived. (Whoever sets its bit does so before or after the whole write,
 * so a look says whether there is something to clear.) */
static void clear_freed(struct tz_store *s, uint64_t page)
{
	uint64_t *freed = atomic_load_explicit(&s->freed, memory_order_acquire),
		 bit = 1ull << page % 64;

	if (freed && __atomic_load_n(&freed[page / 64], __ATOMIC_SEQ_CST) & bit)
		__atomic_fetch_and(&freed[page / 64], ~bit, __ATOMIC_SEQ_CST);
}

int tz_store_is_being_collected(const struct tz_store *s, uint64_t page)
{
	return atomic_load_explicit(&s->collecting, memory_order_seq_cst) == page + 1;
}

/* Compressed, in an object of its own or in one that another page has already. The entry, or 0 with
 * *err. */
static uint64_t compress(
	struct tz_store_thread *t, uint64_t page, const uint8_t *data, int *own, int *err)
{
	unsigned kind, n = encode(t, data, &kind);
	const uint8_t *payload = n ? t->object : data;
	uint64_t entry = 0;

	n = n ? n : TZ_PAGE_SIZE;
	if (t->inside_index)
		entry = tz_dedup_share(t, page, kind, payload, n, own);
	if (entry)
		return entry;
	*own = 1;
	return place(t, page, kind, payload, n, err);
}

uint64_t tz_store_place_own(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	unsigned kind, n = encode(t, data, &kind);
	int err;

	return place(t, page, kind, n ? t->object : data, n ? n : TZ_PAGE_SIZE, &err);
}

int tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	uint64_t word, entry;
	int err, own = 1;

	clear_freed(t->store, page);
	_Atomic uint64_t *slot = slot_to_write(t->store, page, &err);
	if (!slot) {
		if (err == -EIO)
			note_damage(t, page, "the directory of the page table is damaged");
		return err;
	}
	__builtin_prefetch((const void *)(uintptr_t)slot, 1, 3);
	prefetch_to_free(t->store, slot);
	if (tz_same_filled(data, &word)) {
		entry = tz_store_is_being_collected(t->store, page) ? 0 : tz_entry_same(page, word);
		if (!entry)
			entry = place(t, page, TZ_KIND_SAME_U64, (const uint8_t *)&word,
				sizeof word, &err);
	} else {
		entry = compress(t, page, data, &own, &err);
	}
	if (!entry)
		return err;
	publish(t, page, slot, entry, own, &t->stats->pages_written);
	return 0;
}

static void count_discards(struct tz_store_thread *t, uint64_t pages)
{
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->pages_discarded, (int64_t)pages);
	tz_stats_end(&t->stats->seq);
}

/* Within one page of the table, as far as *work lasts. How many. */
static unsigned discard_some(struct tz_store_thread *t, uint64_t page, _Atomic uint64_t *slot,
	unsigned n, unsigned *work)
{
	unsigned empty = 0, done;

	for (done = 0; done < n && *work; done++) {
		if (done + DISCARD_AHEAD < n)
			prefetch_to_free(t->store, &slot[done + DISCARD_AHEAD]);
		if (atomic_load_explicit(&slot[done], memory_order_relaxed)) {
			publish(t, page + done, &slot[done], 0, 1, &t->stats->pages_discarded);
			*work -= *work < DISCARD_COST ? *work : DISCARD_COST;
		} else {
			empty++;
			--*work;
		}
	}
	if (empty)
		count_discards(t, empty);
	return done;
}

uint64_t tz_store_discard_range(
	struct tz_store_thread *t, uint64_t page, uint64_t n, unsigned *work)
{
	uint64_t at = page, end = page + n;

	while (at < end && *work) {
		const struct tz_arena *arena = &t->store->arena;
		int damaged = 0, ready = tz_arena_directory_ready(arena, at / TZ_TABLE_ENTRIES);
		uint64_t step = ready ? TZ_TABLE_ENTRIES : TZ_TABLE_ENTRIES * TZ_DIRECTORY_ENTRIES;
		uint64_t here = step - at % step;
		if (here > end - at)
			here = end - at;
		_Atomic uint64_t *slot = tz_table_slot(t->store, at, &damaged);
		if (damaged)
			note_damage(t, at, "the directory of the page table is damaged");
		if (slot) {
			here = discard_some(t, at, slot, (unsigned)here, work);
		} else {
			count_discards(t, here);
			--*work;
		}
		at += here;
	}
	return at - page;
}

void tz_store_discard(struct tz_store_thread *t, uint64_t page)
{
	unsigned work = DISCARD_COST;

	tz_store_discard_range(t, page, 1, &work);
}

/* ---- freed swap slots ---- */

int tz_store_collect(struct tz_store_thread *t, uint64_t page)
{
	struct tz_store *s = t->store;
	int damaged = 0, taken = 0;
	_Atomic uint64_t *slot = tz_table_slot(s, page, &damaged);
	uint64_t *freed = atomic_load(&s->freed), bit = 1ull << page % 64, entry;

	if (!freed)
		return 0;
	atomic_store_explicit(&s->collecting, page + 1, memory_order_seq_cst);
	entry = slot ? tz_store_announce(t, slot) : 0;
	TZ_TEST_POINT("looked");
	if (__atomic_fetch_and(&freed[page / 64], ~bit, __ATOMIC_SEQ_CST) & bit && entry &&
		!atomic_load(&s->others)) {
		TZ_TEST_POINT("collecting");
		taken = tz_store_exchange(slot, page, &entry, 0);
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	atomic_store_explicit(&s->collecting, 0, memory_order_release);
	if (!taken)
		return 0;
	tz_store_account(t, page, entry, 0, 1, &t->stats->pages_discarded);
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->slots_freed, 1);
	tz_stats_end(&t->stats->seq);
	return 1;
}

void tz_store_written_by_others(struct tz_store_thread *t)
{
	if (!atomic_load_explicit(&t->store->others, memory_order_relaxed))
		atomic_store(&t->store->others, 1);
}

int tz_store_has_others(const struct tz_store *s)
{
	return atomic_load(&s->others);
}

int tz_store_is_filled(const struct tz_store *s, uint64_t page, uint64_t word)
{
	int damaged = 0;
	uint64_t entry = tz_entry_same(page, word);
	_Atomic uint64_t *slot = page < s->nr_pages ? tz_table_slot(s, page, &damaged) : NULL;

	return entry && slot && atomic_load(slot) == entry;
}

void tz_store_set_freed(struct tz_store *s, uint64_t *bits)
{
	atomic_store(&s->others, 0);
	atomic_store(&s->freed, bits);
	for (unsigned i = 0; i < s->nr_threads; i++)
		tz_store_wait_outside(&s->threads[i].turns, NULL);
}

struct tz_store_thread *tz_store_collector(struct tz_store *s)
{
	return &s->threads[s->nr_threads + TZ_COLLECTOR];
}

/* ---- reading ---- */

/* Objects of FAST and DENSE may have been made by `auto`. */
void *tz_codec_set_workspace(const struct tz_codec_set *set, unsigned kind)
{
	void *own = set->by_kind[kind].memory, *of_auto = set->by_kind[TZ_KIND_AUTO].memory;

	return own || !of_auto ? own : tz_auto_part(of_auto, kind);
}

const char *tz_store_decode(
	struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out)
{
	return tz_store_decode_at(
		t, page, entry, t->store->arena.base + tz_entry_offset(entry), out);
}

const char *tz_store_decode_at(struct tz_store_thread *t, uint64_t page, uint64_t entry,
	const uint8_t *object, uint8_t *out)
{
	static const char mismatch[] = "checksum does not match",
			  undecodable[] = "object cannot be decoded";
	const uint8_t *payload = object + TZ_OBJECT_HEAD;
	unsigned kind = tz_entry_kind(entry), n = payload_length(entry);
	struct tz_object_head head;
	uint64_t word, owner = tz_object_owner(page, entry);

	if (kind == TZ_KIND_GROUP)
		return tz_group_read(t, page, entry, object, out);
	memcpy(&head, object, sizeof head);
	if (head.owner != (uint32_t)owner)
		return "object belongs to another page";
	if (kind == TZ_KIND_RAW) {
		if (n != TZ_PAGE_SIZE)
			return undecodable;
		memcpy(out, payload, TZ_PAGE_SIZE);
		return tz_crc32c(tz_object_seed(owner, kind), out, TZ_PAGE_SIZE) == head.crc
			? NULL
			: mismatch;
	}
	if (tz_crc32c(tz_object_seed(owner, kind), payload, n) != head.crc)
		return mismatch;
	if (kind == TZ_KIND_SAME_U64) {
		memcpy(&word, payload, sizeof word);
		tz_fill(out, word);
		return n == sizeof word ? NULL : undecodable;
	}
	const struct tz_codec *codec = tz_codec_by_kind(kind);
	void *workspace = tz_codec_set_workspace(t->inside_set, kind);
	if (!codec || (codec->workspace_size && !workspace))
		return "no decoder for its kind";
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? tz_now_ns() : 0;
	int rc = codec->decompress(workspace, payload, n, out);
	if (timed) {
		tz_stats_add(&t->stats->decompress_ns, (int64_t)(tz_now_ns() - start));
		tz_stats_add(&t->stats->decompress_bytes_out, TZ_PAGE_SIZE);
	}
	return rc ? undecodable : NULL;
}

/* What an entry stands for. NULL, or what is wrong with the object; *damaged: or with the entry. */
static const char *fetch(
	struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out, int *damaged)
{
	const char *fault = entry ? tz_store_fault(t->store, page, entry) : NULL;

	*damaged = fault != NULL;
	if (fault)
		return fault;
	if (tz_entry_has_object(entry))
		return tz_store_decode(t, page, entry, out);
	tz_fill(out, entry ? tz_entry_word(entry) : 0);
	return NULL;
}

/* It is in use again. (Most pages that are read have been touched not long ago, and are left
 * alone.) */
static uint64_t make_young(uint64_t page, _Atomic uint64_t *slot, uint64_t entry)
{
	uint64_t young;

	if (!tz_entry_has_object(entry) || !tz_entry_age(entry))
		return entry;
	young = tz_entry_aged(page, entry, 0);
	return atomic_compare_exchange_strong(slot, &entry, young) ? young : entry;
}

/* A page that is not on the backing file; -EAGAIN: it is there now. */
static int read_stored(struct tz_store_thread *t, uint64_t page, uint8_t *out)
{
	int damaged = 0;
	_Atomic uint64_t *slot = tz_table_slot(t->store, page, &damaged);
	uint64_t entry = slot ? tz_store_announce(t, slot) : 0;
	const char *fault;

	if (tz_entry_is_backed(entry) && !tz_store_fault(t->store, page, entry)) {
		/* (It may have had an object that was announced.) */
		atomic_store_explicit(&t->hazard, 0, memory_order_release);
		return -EAGAIN;
	}
	fault = damaged ? "the directory of the page table is damaged"
			: fetch(t, page, entry, out, &damaged);
	if (!fault)
		entry = make_young(page, slot, entry);
	if (!fault && tz_entry_is_grouped(entry) && tz_group_note_read(t->store, page, entry))
		tz_group_leave(t, page, slot, entry, out);
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (damaged) {
		note_damage(t, page, fault);
		return -EIO;
	}
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(fault ? &t->stats->checksum_errors : &t->stats->pages_read, 1);
	tz_stats_end(&t->stats->seq);
	if (fault)
		tz_store_note_error(t, page, fault);
	return fault ? -EIO : 0;
}

int tz_store_read(struct tz_store_thread *t, uint64_t page, uint8_t *out)
{
	int rc = read_stored(t, page, out);

	/* Each turn of this is a page that has moved meanwhile. */
	while (rc == -EAGAIN)
		if ((rc = tz_backing_read(t, page, out, 0)) == -EAGAIN)
			rc = read_stored(t, page, out);
	return rc;
}

void tz_store_prefetch_entry(const struct tz_store_thread *t, uint64_t page)
{
	int damaged = 0;
	const void *slot = (const void *)(uintptr_t)tz_table_slot(t->store, page, &damaged);

	if (slot)
		__builtin_prefetch(slot, 0, 3);
}

void tz_store_prefetch_object(const struct tz_store_thread *t, uint64_t page)
{
	int damaged = 0;
	_Atomic uint64_t *slot = tz_table_slot(t->store, page, &damaged);
	uint64_t entry = slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0,
		 offset = tz_entry_offset(entry);

	if (!tz_entry_has_object(entry) || offset >= t->store->arena.size - TZ_MAX_UNITS * TZ_UNIT)
		return;
	const uint8_t *object = t->store->arena.base + offset;
	unsigned n = tz_entry_units(entry) * TZ_UNIT;
	for (unsigned i = 0; i < n && i < 1024; i += 64)
		__builtin_prefetch(object + i, 0, 3);
}

/* ---- inside and outside ---- */

void tz_store_begin(struct tz_store_thread *t)
{
	atomic_fetch_add_explicit(&t->turns, 1, memory_order_seq_cst);
	t->inside_set = atomic_load_explicit(&t->set, memory_order_seq_cst);
	t->inside_index = atomic_load_explicit(&t->store->dedup.index, memory_order_seq_cst);
	if (atomic_load_explicit(&t->store->resting, memory_order_seq_cst))
		tz_age_rouse(t);
}

void tz_store_end(struct tz_store_thread *t)
{
	if (t->nr_set_aside) {
		tz_store_free_set_aside(t);
		tz_housekeeping_leave(t);
	}
	if (t->error)
		show_error(t);
	atomic_fetch_add_explicit(&t->turns, 1, memory_order_release);
}

void tz_store_wait_outside(const _Atomic uint64_t *turns, const _Atomic uint32_t *stop)
{
	uint64_t seen = atomic_load(turns);
	struct timespec pause = { 0, 200000 };

	while ((seen & 1) && atomic_load(turns) == seen && !(stop && atomic_load(stop)))
		nanosleep(&pause, NULL);
}

void tz_store_wait_for_all(const struct tz_store *s)
{
	for (unsigned i = 0; i < s->nr_threads + TZ_HOUSEKEEPER; i++)
		tz_store_wait_outside(&s->threads[i].turns, &s->housekeeping.stop);
	tz_store_wait_outside(&s->map_turns, &s->housekeeping.stop);
}

/* ---- making, ending, looking ---- */

int tz_store_make_threads(
	struct tz_store *s, const struct tz_store_config *c, char *why, size_t why_size)
{
	size_t size = (c->nr_threads + TZ_OWN_THREADS) * sizeof *s->threads;

	s->threads = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->threads == MAP_FAILED) {
		s->threads = NULL;
		snprintf(why, why_size, "no memory for %u threads", c->nr_threads);
		return -ENOMEM;
	}
	s->nr_threads = c->nr_threads;
	s->stats = c->stats;
	for (unsigned i = 0; i < c->nr_threads + TZ_OWN_THREADS; i++) {
		s->threads[i].store = s;
		s->threads[i].index = i;
		s->threads[i].stats = tz_stats_queue(c->stats, i);
	}
	return 0;
}

static int make_parts(
	struct tz_store *s, const struct tz_store_config *c, char *why, size_t why_size)
{
	int rc = tz_alloc_create(&s->alloc, &s->arena, c->stats, c->nr_threads, why, why_size);

	if (rc == 0)
		rc = tz_store_make_threads(s, c, why, why_size);
	if (rc == 0)
		rc = tz_store_switch_algorithm(
			s, c->algorithm, c->dictionary, c->dictionary_size, why, why_size);
	if (rc == 0)
		rc = tz_reserve_start(&s->reserve, &s->alloc, c->mem_limit, why, why_size);
	if (rc == 0)
		rc = tz_housekeeping_start(s, why, why_size);
	return rc;
}

struct tz_store *tz_store_new(int *err, char *why, size_t why_size)
{
	struct tz_store *s = aligned_alloc(_Alignof(struct tz_store), sizeof *s);

	if (s) {
		memset(s, 0, sizeof *s);
		tz_backing_init(s);
		return s;
	}
	*err = -ENOMEM;
	snprintf(why, why_size, "no memory");
	return NULL;
}

void tz_store_set_live(struct tz_store *s)
{
	s->arena.head.state = TZ_ARENA_LIVE;
	tz_arena_write_head(&s->arena);
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->disksize, s->arena.head.disksize);
	TZ_STATS_SET(s->stats->mem_limit, s->arena.head.mem_limit);
	tz_stats_head_end(s->stats);
}

struct tz_store *tz_store_create(
	const struct tz_store_config *c, int *err, char *why, size_t why_size)
{
	struct tz_arena_config arena = { .fd = c->arena_fd,
		.disksize = c->disksize,
		.lock = c->lock_arena,
		.dictionary = c->dictionary,
		.dictionary_size = c->dictionary_size,
		.mem_limit = c->mem_limit,
		.algorithm = c->algorithm,
		.device = c->device };
	struct tz_store *s;

	*err = -EINVAL;
	if (c->disksize == 0 || c->disksize % TZ_PAGE_SIZE || c->nr_threads == 0 ||
		c->nr_threads > TZ_MAX_QUEUES) {
		snprintf(why, why_size,
			"disk size must be a positive multiple of 4096, threads 1 to %d",
			TZ_MAX_QUEUES);
		return NULL;
	}
	if (tz_store_check_algorithm(c, why, why_size) < 0)
		return NULL;
	s = tz_store_new(err, why, why_size);
	if (!s)
		return NULL;
	s->nr_pages = c->disksize / TZ_PAGE_SIZE;
	*err = tz_arena_create(&s->arena, &arena, why, why_size);
	if (*err < 0) {
		tz_backing_destroy(s);
		free(s);
		return NULL;
	}
	*err = make_parts(s, c, why, why_size);
	if (*err == 0 && c->dedup)
		*err = tz_store_set_dedup(s, 1, why, why_size);
	if (*err < 0) {
		s->arena.fd = -1;		/* stays the caller's */
		tz_store_destroy(s);
		return NULL;
	}
	tz_store_set_live(s);
	return s;
}

void tz_store_destroy(struct tz_store *s)
{
	if (!s)
		return;
	tz_housekeeping_stop(s);
	tz_reserve_stop(&s->reserve);
	if (s->arena.base && s->arena.head.state == TZ_ARENA_LIVE) {
		s->arena.head.state = TZ_ARENA_STOPPING;
		tz_arena_write_head(&s->arena);
	}
	tz_store_free_codecs(s);
	tz_groups_destroy(s);
	tz_backing_destroy(s);
	if (s->threads)
		munmap(s->threads, (s->nr_threads + TZ_OWN_THREADS) * sizeof *s->threads);
	tz_dedup_destroy(&s->dedup);
	tz_alloc_destroy(&s->alloc);
	tz_arena_destroy(&s->arena);
	free(s);
}

struct tz_store_thread *tz_store_thread(struct tz_store *s, unsigned index)
{
	return index < s->nr_threads ? &s->threads[index] : NULL;
}

struct tz_queue_stats *tz_store_thread_stats(struct tz_store_thread *t)
{
	return t->stats;
}

int tz_store_set_mem_limit(struct tz_store *s, uint64_t bytes, char *why, size_t why_size)
{
	int rc = tz_reserve_set_limit(&s->reserve, bytes, why, why_size);

	if (rc < 0)
		return rc;
	s->arena.head.mem_limit = bytes;
	tz_arena_write_head(&s->arena);
	if (tz_reserve_at_limit(&s->reserve, 0))
		tz_store_compact(s);
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->mem_limit, bytes);
	tz_stats_head_end(s->stats);
	return 0;
}

static uint64_t spun(struct tz_stats *stats)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < stats->nr_queues; i++)
		sum += __atomic_load_n(&tz_stats_queue(stats, i)->spin_ns, __ATOMIC_RELAXED);
	return sum;
}

void tz_store_set_mode(struct tz_store *s, uint32_t mode)
{
	s->arena.head.mode = mode;
	tz_arena_write_head(&s->arena);
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->mode, mode);
	TZ_STATS_SET(s->stats->mode_since_ns, tz_now_ns());
	TZ_STATS_SET(s->stats->spin_before_ns, spun(s->stats));
	tz_stats_head_end(s->stats);
}

uint32_t tz_store_mode(const struct tz_store *s)
{
	return s->arena.head.mode;
}

int tz_store_set_dedup(struct tz_store *s, int on, char *why, size_t why_size)
{
	int rc = tz_dedup_switch(s, on, why, why_size);

	if (rc < 0)
		return rc;
	s->arena.head.compatible &= ~TZ_ARENA_DEDUP;
	s->arena.head.compatible |= on ? TZ_ARENA_DEDUP : 0;
	tz_arena_write_head(&s->arena);
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->dedup, (uint64_t)(on != 0));
	tz_stats_head_end(s->stats);
	return 0;
}

int tz_store_set_groups(struct tz_store *s, char *why, size_t why_size)
{
	int rc;

	if (atomic_load(&s->groups.on))
		return 0;
	rc = tz_groups_prepare(s, why, why_size);
	if (rc < 0)
		return rc;
	s->arena.head.incompatible |= TZ_ARENA_GROUPS;
	tz_arena_write_head(&s->arena);
	/* Not before: what has a group must say so. */
	atomic_store(&s->groups.on, 1);
	return 0;
}

uint64_t tz_store_trim(struct tz_store *s)
{
	return tz_reserve_trim(&s->reserve);
}

_Static_assert(TZ_MAP_AGE_0 + TZ_AGES <= TZ_KINDS_STORED, "a region has room for each age");

static unsigned age_column(uint64_t entry)
{
	if (entry == 0)
		return TZ_MAP_AGE_EMPTY;
	if (!tz_entry_has_object(entry) || !tz_kind_is_stored(tz_entry_kind(entry)))
		return TZ_MAP_AGE_NONE;
	return TZ_MAP_AGE_0 + tz_entry_age(entry);
}

/* Pages [from, to) of one region, a page of the table at a time. */
static void count_pages(const struct tz_store *s, uint64_t from, uint64_t to, uint32_t *out,
	unsigned (*column)(uint64_t entry))
{
	while (from < to) {
		uint64_t here = TZ_TABLE_ENTRIES - from % TZ_TABLE_ENTRIES;
		int damaged = 0;
		if (here > to - from)
			here = to - from;
		_Atomic uint64_t *slot = tz_table_slot(s, from, &damaged);
		TZ_TEST_POINT("map");
		if (!slot)
			out[column(0)] += (uint32_t)here;
		for (uint64_t i = 0; slot && i < here; i++) {
			unsigned n =
				column(atomic_load_explicit(&slot[i], memory_order_relaxed));
			if (n < TZ_KINDS_STORED)
				out[n]++;
		}
		from += here;
	}
}

static void make_map(struct tz_store *s, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED], unsigned (*column)(uint64_t entry))
{
	if (first > s->nr_pages)
		first = s->nr_pages;
	if (pages > s->nr_pages - first)
		pages = s->nr_pages - first;
	memset(out, 0, regions * sizeof *out);
	for (unsigned r = 0; r < regions; r++) {
		/* Inside, as queue threads are when they look at a page of the table. */
		atomic_fetch_add(&s->map_turns, 1);
		count_pages(s, first + (uint64_t)((unsigned __int128)pages * r / regions),
			first + (uint64_t)((unsigned __int128)pages * (r + 1) / regions), out[r],
			column);
		atomic_fetch_add(&s->map_turns, 1);
	}
}

void tz_store_page_map(struct tz_store *s, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED])
{
	make_map(s, first, pages, regions, out, tz_entry_kind);
}

void tz_store_age_map(struct tz_store *s, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED])
{
	make_map(s, first, pages, regions, out, age_column);
}

static struct tz_range range(const void *base, uint64_t size)
{
	return (struct tz_range){ (uintptr_t)base,
		((uintptr_t)base + size + TZ_PAGE_SIZE - 1) & -(uintptr_t)TZ_PAGE_SIZE };
}

struct tz_range tz_store_arena(const struct tz_store *s)
{
	return range(s->arena.base, s->arena.size);
}

struct tz_range tz_store_metadata(const struct tz_store *s)
{
	return range(s->alloc.segments, s->alloc.mapping_len);
}
