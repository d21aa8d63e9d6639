/* dedup.c - identical pages share one object (interface: dedup.h).
 *
 * A page is compressed first. Codecs make the same payload of the same page, so equal payloads of
 * the same kind are equal pages: they are compared byte for byte, and nothing is decompressed.
 *
 * The index says which page had a payload with a certain checksum when it was last written. It is a
 * hint: the page may hold something else by now, or nothing. So nobody has to take anything out of
 * it, and it needs no lock: what it says is looked up in the page table, and announced as a reader
 * does. What does not fit in a bucket replaces something.
 *
 * A shared object is one of its own: sealed without a page number (entry.h: S), in segments of a
 * shard of its own, which are emptied in another way (dedup_compact.c). It is made when the second
 * page with this content is written: the first page's entry is exchanged for one of the
 * shared object, by compare-and-exchange, as the housekeeper does when it moves an object. After
 * that a page more is a number in `counts`, which has one for each shared object, by its place in
 * the arena. They are private: what a page's entry says is the truth, and they can be counted again
 * from the table. A page is counted before its entry is published, and until it has been taken out.
 *
 * An entry that the collector is looking at must not come back (store.c): a page that is being
 * collected gets an object of its own.
 */
#include "dedup.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define BUCKET 8u		/* places, of 8 bytes */
#define LEAST_PLACES 4096u
#define MOST_PLACES (4u << 20)	/* 32 MiB: pages that are known, if a disk has more */
#define PLACES_PER_COUNT 2u
#define COUNT_BITS 29u
#define COUNT_MASK ((1u << COUNT_BITS) - 1)
#define NO_PAGE UINT64_MAX

/* ---- how many pages use a shared object ---- */

static uint64_t unit_of(uint64_t entry)
{
	return tz_entry_offset(entry) / TZ_UNIT;
}

static uint64_t first_place(const struct tz_dedup *d, uint64_t unit)
{
	return unit * 0x9e3779b97f4a7c15ull >> 20 & (d->nr_counts - 1);
}

/* The place of a shared object, or the free one where it would be. The lock is held. */
static uint64_t *find(const struct tz_dedup *d, uint64_t unit)
{
	uint64_t i = first_place(d, unit);

	while (d->counts[i] && d->counts[i] >> COUNT_BITS != unit)
		i = (i + 1) & (d->nr_counts - 1);
	return &d->counts[i];
}

/* Closes the gap, so that whatever was put behind it is found. */
static void take_out(struct tz_dedup *d, uint64_t *place)
{
	uint64_t mask = d->nr_counts - 1, gap = (uint64_t)(place - d->counts);

	for (uint64_t i = (gap + 1) & mask; d->counts[i]; i = (i + 1) & mask) {
		uint64_t first = first_place(d, d->counts[i] >> COUNT_BITS);
		if (((i - first) & mask) < ((i - gap) & mask))
			continue;
		d->counts[gap] = d->counts[i];
		gap = i;
	}
	d->counts[gap] = 0;
	d->used--;
}

int tz_dedup_hold(struct tz_store *s, uint64_t entry)
{
	struct tz_dedup *d = &s->dedup;
	uint64_t *place;
	int held = 0;

	tz_lock_take(&d->lock);
	place = d->counts ? find(d, unit_of(entry)) : NULL;
	if (place && *place && (*place & COUNT_MASK) < COUNT_MASK) {
		++*place;
		held = 1;
	}
	tz_lock_drop(&d->lock);
	return held;
}

int tz_dedup_add(struct tz_store *s, uint64_t offset, unsigned pages)
{
	struct tz_dedup *d = &s->dedup;
	int added = 0;

	tz_lock_take(&d->lock);
	if (d->used < d->nr_counts / 4 * 3) {
		*find(d, offset / TZ_UNIT) = offset / TZ_UNIT << COUNT_BITS | pages;
		d->used++;
		added = 1;
	}
	tz_lock_drop(&d->lock);
	return added;
}

int64_t tz_dedup_release(struct tz_store *s, uint64_t entry)
{
	struct tz_dedup *d = &s->dedup;
	int64_t left = -1;

	tz_lock_take(&d->lock);
	uint64_t *place = d->counts ? find(d, unit_of(entry)) : NULL;
	if (place && *place) {
		left = (int64_t)(--*place & COUNT_MASK);
		if (left == 0)
			take_out(d, place);
	}
	tz_lock_drop(&d->lock);
	return left;
}

/* ---- the index ---- */

static _Atomic uint64_t *bucket_of(const struct tz_dedup_index *x, uint32_t crc)
{
	return &x->places[(crc * 0x9e3779b97f4a7c15ull >> 24 & (x->nr_buckets - 1)) * BUCKET];
}

/* The page that had such a payload, which is this page's from now on. */
static uint64_t exchange(_Atomic uint64_t *bucket, uint32_t crc, uint64_t page)
{
	uint64_t mine = (uint64_t)crc << 32 | (uint32_t)(page + 1), found = 0;
	unsigned at = (unsigned)(page * 0x9e3779b97f4a7c15ull >> 61);

	for (unsigned i = 0; i < BUCKET; i++) {
		uint64_t there = atomic_load_explicit(&bucket[i], memory_order_relaxed);
		if (there && there >> 32 != crc)
			continue;
		at = i;
		found = there;
		if (there)
			break;
	}
	if (found != mine)
		atomic_store_explicit(&bucket[at], mine, memory_order_relaxed);
	return found ? (uint32_t)found - 1 : NO_PAGE;
}

/* ---- sharing ---- */

/* Whether the housekeeper may be taking it elsewhere: see dedup_compact.c. */
static int is_on_its_way(const struct tz_store *s, uint64_t entry)
{
	uint64_t in = tz_entry_offset(entry) - s->arena.segment_offset;

	return atomic_load_explicit(&s->dedup.gathering, memory_order_seq_cst) &&
		tz_alloc_state(&s->alloc, (uint32_t)(in / TZ_SEGMENT_SIZE)) != TZ_SEGMENT_OBJECTS;
}

static int is_equal(const struct tz_store *s, uint64_t page, uint64_t entry, unsigned kind,
	const uint8_t *payload, unsigned length)
{
	return tz_entry_has_object(entry) && !tz_store_fault(s, page, entry) &&
		tz_entry_kind(entry) == kind && tz_entry_length(entry) == length &&
		!memcmp(s->arena.base + tz_entry_offset(entry) + TZ_OBJECT_HEAD, payload, length);
}

/* A shared object for two pages, of which the other one has *entry now. Its offset, or 0; *both:
 * the other page uses it, too, and had *entry last. */
static uint64_t make_shared(struct tz_store_thread *t, uint64_t other, _Atomic uint64_t *slot,
	uint64_t *entry, uint32_t crc, const uint8_t *payload, int *both)
{
	struct tz_store *s = t->store;
	struct tz_object_head head = { crc, TZ_NO_OWNER };
	unsigned kind = tz_entry_kind(*entry), length = tz_entry_length(*entry);
	uint64_t offset =
		tz_alloc_take_own(&s->alloc, TZ_SHARD_SHARED, tz_units_for(length), 1);

	if (!offset)
		return 0;
	memcpy(s->arena.base + offset, &head, sizeof head);
	memcpy(s->arena.base + offset + sizeof head, payload, length);
	if (!tz_dedup_add(s, offset, 2)) {
		tz_alloc_put(&s->alloc, offset, tz_units_for(length));
		return 0;
	}
	TZ_TEST_POINT("sharing");
	*both = tz_store_exchange(
		slot, other, entry, tz_entry_shared(other, kind, offset, length));
	if (!*both)
		tz_dedup_release(s, tz_entry_shared(other, kind, offset, length));
	return offset;
}

static uint64_t share_with(struct tz_store_thread *t, uint64_t other, uint64_t page, unsigned kind,
	uint32_t crc, const uint8_t *payload, unsigned length, int *own)
{
	struct tz_store *s = t->store;
	int damaged = 0, both = 0;
	_Atomic uint64_t *slot = other < s->nr_pages ? tz_table_slot(s, other, &damaged) : NULL;
	uint64_t entry = slot ? tz_store_announce(t, slot) : 0, offset = 0;

	*own = 0;
	if (is_equal(s, other, entry, kind, payload, length)) {
		if (!tz_entry_is_shared(entry)) {
			offset = make_shared(t, other, slot, &entry, crc, payload, &both);
			*own = !both;
		} else if (!is_on_its_way(s, entry) && tz_dedup_hold(s, entry)) {
			offset = tz_entry_offset(entry);
		}
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (both)
		tz_store_account(t, other, entry, tz_entry_shared(other, kind, offset, length), 1,
			NULL);
	return offset ? tz_entry_shared(page, kind, offset, length) : 0;
}

uint64_t tz_dedup_share(struct tz_store_thread *t, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length, int *own)
{
	uint32_t crc = tz_crc32c(tz_object_seed(TZ_NO_OWNER, kind), payload, length);
	uint64_t other = exchange(bucket_of(t->inside_index, crc), crc, page);

	if (other == NO_PAGE || other == page || tz_store_is_being_collected(t->store, page))
		return 0;
	return share_with(t, other, page, kind, crc, payload, length, own);
}

/* ---- switching it on and off ---- */

/* Memory that queue threads will touch: there from the start. (The server locks it.) NULL with
 * why. */
static void *map(struct tz_store *s, uint64_t size, char *why, size_t why_size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED) {
		snprintf(why, why_size, "no memory for what finds duplicates (%llu KiB): %s",
			(unsigned long long)size >> 10, strerror(errno));
		return NULL;
	}
	tz_reserve_count_more(&s->reserve, (int64_t)size);
	return p;
}

static void unmap(struct tz_store *s, void *p, uint64_t size)
{
	munmap(p, size);
	tz_reserve_count_more(&s->reserve, -(int64_t)size);
}

static uint64_t places_for(const struct tz_store *s)
{
	uint64_t n = LEAST_PLACES;

	while (n < s->nr_pages && n < MOST_PLACES)
		n *= 2;
	return n;
}

static int make_counts(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_dedup *d = &s->dedup;
	uint64_t n = places_for(s) / PLACES_PER_COUNT, *counts;

	if (d->counts)
		return 0;
	counts = map(s, n * sizeof *counts, why, why_size);
	if (!counts)
		return -ENOMEM;
	tz_lock_take(&d->lock);
	d->nr_counts = n;
	d->counts = counts;
	tz_lock_drop(&d->lock);
	return 0;
}

/* When nothing is shared (any more). */
static void drop_counts(struct tz_store *s)
{
	struct tz_dedup *d = &s->dedup;
	uint64_t *counts = NULL;

	tz_lock_take(&d->lock);
	if (d->counts && !d->used) {
		counts = d->counts;
		d->counts = NULL;
	}
	tz_lock_drop(&d->lock);
	if (counts)
		unmap(s, counts, d->nr_counts * sizeof *counts);
}

static int switch_on(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_dedup *d = &s->dedup;
	uint64_t n = places_for(s);
	int rc = make_counts(s, why, why_size);

	if (rc < 0)
		return rc;
	d->made.places = map(s, n * sizeof *d->made.places, why, why_size);
	if (!d->made.places) {
		drop_counts(s);
		return -ENOMEM;
	}
	d->made.nr_buckets = n / BUCKET;
	atomic_store(&d->index, &d->made);
	return 0;
}

static void switch_off(struct tz_store *s)
{
	struct tz_dedup *d = &s->dedup;

	atomic_store(&d->index, NULL);
	for (unsigned i = 0; i < s->nr_threads; i++)
		tz_store_wait_outside(&s->threads[i].turns, NULL);
	unmap(s, d->made.places, d->made.nr_buckets * BUCKET * sizeof *d->made.places);
	drop_counts(s);
}

int tz_dedup_switch(struct tz_store *s, int on, char *why, size_t why_size)
{
	uint64_t n = places_for(s),
		 size = (n + (s->dedup.counts ? 0 : n / PLACES_PER_COUNT)) * sizeof(uint64_t);

	if (on == (atomic_load(&s->dedup.index) != NULL))
		return 0;
	if (!on) {
		switch_off(s);
		return 0;
	}
	if (tz_reserve_at_limit(&s->reserve, size)) {
		snprintf(why, why_size, "what finds duplicates takes %llu KiB: more than mem_limit"
			" leaves", (unsigned long long)size >> 10);
		return -ENOMEM;
	}
	return switch_on(s, why, why_size);
}

int tz_dedup_attach(struct tz_store *s, int on, int shared, char *why, size_t why_size)
{
	int rc = shared ? make_counts(s, why, why_size) : 0;

	return rc == 0 && on ? switch_on(s, why, why_size) : rc;
}

void tz_dedup_destroy(struct tz_dedup *d)
{
	if (atomic_load(&d->index))
		munmap(d->made.places, d->made.nr_buckets * BUCKET * sizeof *d->made.places);
	if (d->counts)
		munmap(d->counts, d->nr_counts * sizeof *d->counts);
}
