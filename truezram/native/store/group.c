/* group.c - neighbouring pages as one object: what it is, reading it, leaving it (interface:
 * group.h; group_pack.c makes them).
 *
 * A window is 16 pages that begin at a multiple of 16. Those of its pages that nobody touches can
 * be one object, a group: a head, and one zstd frame of all of them. Each member's entry names the
 * same object; which member it is, the page number says, and how long the object is, the entry. A
 * group lies in segments of a shard of its own.
 *
 * How many entries name a group is counted in a word for each window, which also says where its
 * group is. Words are private: what the entries say is the truth, and they are counted again from
 * the table. A member is counted before its entry is published, and until it has been taken out;
 * whoever takes the last one out frees the object. A window has one group, but for the time in
 * which another one takes its place, entry by entry (group_pack.c): that one's word is `old` then.
 *
 * A page that is written or discarded leaves its group as it leaves any other object. One that is
 * read leaves it at the second time: the first may be for good (a page that is swapped in is not
 * needed here any more when it is written to), and costs no room. Then the thread that has read it
 * gives it an object of its own.
 *
 * Reading decompresses the whole group. Each thread keeps the last two, with their heads. These
 * have the checksums of each page and of the payload; so if the head in the arena is still the
 * same, the pages are, and nothing has to be told that a group is gone.
 *
 * Damage: each page has a checksum of its own. zstd decodes from the beginning, so what comes
 * before the damage is often still right, and is served.
 */
#include "group.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define WORDS_IN_PAGE (TZ_PAGE_SIZE / sizeof(struct tz_group_word))
#define GROUP_LEVEL 9		/* docs/tiers.md */

_Static_assert(sizeof(struct tz_group_word) == 8, "a word for each window");
_Static_assert(TZ_TABLE_ENTRIES % TZ_GROUP_PAGES == 0, "a window is in one page of the table");
_Static_assert(TZ_GROUP_BYTES / TZ_UNIT <= 1u << TZ_ENTRY_LENGTH_BITS, "a length has 12 bits");

/* ---- the object ---- */

unsigned tz_group_units(unsigned members, unsigned length)
{
	return (tz_group_head_size(members) + length + TZ_UNIT - 1) / TZ_UNIT;
}

const char *tz_group_head_fault(
	const uint8_t *object, uint64_t page, unsigned units, struct tz_group_head *head)
{
	uint64_t first = page - tz_group_place(page);
	unsigned size;

	if (units * TZ_UNIT < TZ_GROUP_HEAD_LEAST)
		return "group is too short";
	memset(head, 0, sizeof *head);
	memcpy(head, object, TZ_GROUP_HEAD_LEAST);
	if (head->owner != (uint32_t)first || !(head->members >> tz_group_place(page) & 1))
		return "object belongs to another page";
	if (!head->length || head->length > TZ_GROUP_BYTES ||
		tz_group_units(head->members, head->length) != units)
		return "group is of another length";
	size = tz_group_head_size(head->members);
	memcpy(head, object, size);
	if (tz_crc32c(tz_object_seed(first, TZ_KIND_GROUP), &head->members, size - 8) != head->crc)
		return "checksum of the group's head does not match";
	return NULL;
}

int tz_group_payload_is_right(const uint8_t *object, const struct tz_group_head *head)
{
	return tz_crc32c(0, object + tz_group_head_size(head->members), head->length) ==
		head->payload_crc;
}

void tz_group_count(struct tz_queue_stats *q, uint64_t entry, unsigned payload, int sign)
{
	tz_stats_add_object(q, TZ_KIND_GROUP, sign * (int64_t)(tz_entry_units(entry) * TZ_UNIT));
	tz_stats_add(&q->compr_bytes_now, sign * (int64_t)payload);
}

/* ---- how many entries name a group ---- */

/* Of a page's group, when the lock is held; NULL: it is not known. */
static struct tz_group_word *word_of(struct tz_store *s, uint64_t page, uint64_t entry)
{
	struct tz_groups *g = &s->groups;
	uint64_t window = tz_group_window(page), unit = tz_entry_offset(entry) / TZ_UNIT;

	if (g->words && g->words[window].unit == unit)
		return &g->words[window];
	return g->old_window == window && g->old.unit == unit ? &g->old : NULL;
}

static unsigned payload_of(const struct tz_group_word *w, uint64_t entry)
{
	unsigned head = (unsigned)(TZ_GROUP_HEAD_LEAST + (w->more + 1u) * sizeof(uint32_t));

	return tz_entry_units(entry) * TZ_UNIT - head - (unsigned)w->slack;
}

int64_t tz_group_release(struct tz_store *s, uint64_t page, uint64_t entry, unsigned *payload)
{
	struct tz_groups *g = &s->groups;
	int64_t left = -1;
	uint32_t thinned = 0;

	tz_lock_take(&g->lock);
	struct tz_group_word *w = word_of(s, page, entry);
	if (w) {
		unsigned half = (w->more + 1u) / 2;
		*payload = payload_of(w, entry);
		left = (int64_t)(--w->count);
		if (left == 0)
			*w = (struct tz_group_word){ 0 };
		else if (left == half && w != &g->old)
			thinned = atomic_fetch_add_explicit(
					  &g->thinned, 1, memory_order_relaxed) + 1;
	}
	tz_lock_drop(&g->lock);
	if (thinned == TZ_GROUPS_THINNED)
		tz_housekeeping_wake(s);
	return left;
}

int tz_group_note_read(struct tz_store *s, uint64_t page, uint64_t entry)
{
	struct tz_groups *g = &s->groups;
	unsigned bit = 1u << tz_group_place(page);
	int before = 0;

	tz_lock_take(&g->lock);
	struct tz_group_word *w = word_of(s, page, entry);
	if (w) {
		before = (w->read & bit) != 0;
		w->read = (uint16_t)(w->read | bit);
	}
	tz_lock_drop(&g->lock);
	return before;
}

/* ---- reading ---- */

static struct tz_group_slot *find(struct tz_group_reader *r, const struct tz_group_head *head)
{
	for (unsigned i = 0; i < TZ_GROUP_SLOTS; i++)
		if (!memcmp(&r->slots[i].head, head, sizeof *head)) {
			r->last = i;
			return &r->slots[i];
		}
	return NULL;
}

/* Members come one after another, those that are not in it left out. */
static unsigned place_of(unsigned members, unsigned place)
{
	return (unsigned)__builtin_popcount(members & ((1u << place) - 1)) * TZ_PAGE_SIZE;
}

/* Decompresses a group. What its pages are then, only their checksums say. */
static struct tz_group_slot *fill(struct tz_group_reader *r, const uint8_t *object,
	const struct tz_group_head *head, struct tz_group_slot *slot)
{
	unsigned n = (unsigned)__builtin_popcount(head->members), rank = 0;

	if (!slot) {
		r->last = (r->last + 1) % TZ_GROUP_SLOTS;
		slot = &r->slots[r->last];
	}
	slot->head = *head;
	slot->right = 0;
	tz_zstd_group_decompress(r->zstd, object + tz_group_head_size(head->members), head->length,
		slot->pages, n * TZ_PAGE_SIZE);
	for (unsigned left = head->members; left; left &= left - 1, rank++) {
		unsigned place = (unsigned)__builtin_ctz(left);
		uint32_t seed = tz_object_seed((uint64_t)head->owner + place, TZ_KIND_GROUP);
		if (tz_crc32c(seed, slot->pages + rank * TZ_PAGE_SIZE, TZ_PAGE_SIZE) ==
			head->page_crc[rank])
			slot->right |= 1u << place;
	}
	return slot;
}

const char *tz_group_read(struct tz_store_thread *t, uint64_t page, uint64_t entry,
	const uint8_t *object, uint8_t *out)
{
	struct tz_group_reader *r = atomic_load_explicit(&t->groups, memory_order_acquire);
	unsigned place = tz_group_place(page);
	struct tz_group_head head;
	const char *fault = tz_group_head_fault(object, page, tz_entry_units(entry), &head);

	if (fault)
		return fault;
	if (!r)
		return "no decoder for its kind";
	struct tz_group_slot *slot = find(r, &head);
	/* (What was damaged may have been right again.) */
	if (!slot || !(slot->right >> place & 1))
		slot = fill(r, object, &head, slot);
	if (!(slot->right >> place & 1))
		return "checksum does not match";
	memcpy(out, slot->pages + place_of(head.members, place), TZ_PAGE_SIZE);
	return NULL;
}

/* ---- leaving ---- */

int tz_group_leave(struct tz_store_thread *t, uint64_t page, _Atomic uint64_t *slot,
	uint64_t entry, const uint8_t *data)
{
	uint64_t expected = entry, own = tz_store_place_own(t, page, data);
	int left = own ? 0 : -1;

	TZ_TEST_POINT("leaving");
	/* Announced until here: its room cannot have become another group's. */
	if (own)
		left = atomic_compare_exchange_strong(slot, &expected, own);
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (left > 0)
		tz_store_account(t, page, entry, own, 1, NULL);
	else if (own)
		tz_alloc_put(&t->store->alloc, tz_entry_offset(own), tz_entry_units(own));
	return left;
}

/* ---- making and ending ---- */

static uint64_t windows_of(const struct tz_store *s)
{
	return (s->nr_pages + TZ_GROUP_PAGES - 1) / TZ_GROUP_PAGES;
}

/* With the bits that follow. */
static size_t words_size(const struct tz_groups *g)
{
	return g->words_pages * TZ_PAGE_SIZE + g->words_pages / 64 * 8 + 8;
}

struct tz_range tz_store_groups(const struct tz_store *s)
{
	const struct tz_groups *g = &s->groups;
	uintptr_t from = (uintptr_t)g->words;

	return (struct tz_range){ from, from ? (from + words_size(g) + TZ_PAGE_SIZE - 1) &
			-(uintptr_t)TZ_PAGE_SIZE : from };
}

/* Address space, which becomes memory (locked, where that is allowed) as it is touched: by whoever
 * makes the first group there. */
static int map_words(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_groups *g = &s->groups;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t size;
	void *words;

	g->words_pages = windows_of(s) / WORDS_IN_PAGE + 1;
	size = words_size(g);
	words = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (words == MAP_FAILED) {
		snprintf(why, why_size, "no memory for groups of pages: %s", strerror(errno));
		return -ENOMEM;
	}
	madvise(words, size, MADV_NOHUGEPAGE);
	/* So that it stays a mapping of its own: the server looks at them one by one (locked.c). */
	madvise(words, size, MADV_DONTDUMP);
	syscall(SYS_mlock2, words, size, MLOCK_ONFAULT);
	g->words = words;
	g->touched = (uint64_t *)(void *)((char *)words + g->words_pages * TZ_PAGE_SIZE);
	return 0;
}

static int make_reader(struct tz_store_thread *t, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t zstd = tz_zstd_group_size(0, &reason), size = zstd ? sizeof(struct tz_group_reader) +
		zstd : 0;
	int err;
	struct tz_group_reader *r;

	if (atomic_load(&t->groups))
		return 0;
	r = tz_store_map_locked(size, "cold", reason, &err, why, why_size);
	if (!r)
		return err;
	r->size = size;
	if (tz_zstd_group_init(r->zstd, zstd, 0, &reason) < 0) {
		snprintf(why, why_size, "cannot prepare cold: %s", reason);
		munmap(r, size);
		return -EIO;
	}
	atomic_store(&t->groups, r);
	return 0;
}

static int make_packer(struct tz_store *s, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t zstd = tz_zstd_group_size(GROUP_LEVEL, &reason),
	       size = zstd ? sizeof(struct tz_group_packer) + zstd : 0;
	int err;
	struct tz_group_packer *p;

	if (s->groups.packer)
		return 0;
	p = tz_store_map_locked(size, "cold", reason, &err, why, why_size);
	if (!p)
		return err;
	p->size = size;
	if (tz_zstd_group_init(p->zstd, zstd, GROUP_LEVEL, &reason) < 0) {
		snprintf(why, why_size, "cannot prepare cold: %s", reason);
		munmap(p, size);
		return -EIO;
	}
	s->groups.packer = p;
	return 0;
}

int tz_groups_check(char *why, size_t why_size)
{
	const char *reason = "unknown reason";

	if (tz_zstd_group_size(GROUP_LEVEL, &reason))
		return 0;
	snprintf(why, why_size, "groups of pages need libzstd: %s", reason);
	return -ENOTSUP;
}

int tz_groups_prepare(struct tz_store *s, char *why, size_t why_size)
{
	int rc = s->groups.words ? 0 : map_words(s, why, why_size);

	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS && rc == 0; i++)
		if (i != s->nr_threads + TZ_COLLECTOR)
			rc = make_reader(&s->threads[i], why, why_size);
	return rc == 0 ? make_packer(s, why, why_size) : rc;
}

void tz_groups_destroy(struct tz_store *s)
{
	struct tz_groups *g = &s->groups;

	for (unsigned i = 0; s->threads && i < s->nr_threads + TZ_OWN_THREADS; i++) {
		struct tz_group_reader *r = atomic_load(&s->threads[i].groups);
		if (r)
			munmap(r, r->size);
	}
	if (g->packer)
		munmap(g->packer, g->packer->size);
	if (g->words)
		munmap(g->words, words_size(g));
}

/* ---- words ---- */

void tz_group_touch(struct tz_store *s, uint64_t window)
{
	struct tz_groups *g = &s->groups;
	uint64_t page = window / WORDS_IN_PAGE, bit = 1ull << page % 64;

	if (g->touched[page / 64] & bit)
		return;
	g->touched[page / 64] |= bit;
	tz_lock_take(&g->lock);
	*(volatile uint64_t *)(void *)&g->words[page * WORDS_IN_PAGE] = 0;
	tz_lock_drop(&g->lock);
	tz_reserve_count_more(&s->reserve, TZ_PAGE_SIZE);
}

struct tz_group_word tz_group_word_for(uint64_t offset, const struct tz_group_head *head)
{
	unsigned units = tz_group_units(head->members, head->length);

	return (struct tz_group_word){ .unit = offset / TZ_UNIT,
		.slack = (units * TZ_UNIT - tz_group_head_size(head->members) - head->length) & 15,
		.more = ((unsigned)__builtin_popcount(head->members) - 1) & 15 };
}

/* (More than two groups in a window are nothing that a server leaves. If they are there all the
 * same, the room of some is not freed before the next server counts.) */
void tz_group_adopt(struct tz_store *s, uint64_t page, uint64_t entry)
{
	struct tz_groups *g = &s->groups;
	uint64_t window = tz_group_window(page);
	struct tz_group_word *w;
	struct tz_group_head head;

	if (tz_group_head_fault(s->arena.base + tz_entry_offset(entry), page, tz_entry_units(entry),
		    &head))
		return;
	tz_group_touch(s, window);
	w = word_of(s, page, entry);
	if (!w && !g->words[window].unit) {
		w = &g->words[window];
		*w = tz_group_word_for(tz_entry_offset(entry), &head);
	} else if (!w && !g->old.unit) {
		w = &g->old;
		g->old_window = window;
		*w = tz_group_word_for(tz_entry_offset(entry), &head);
	}
	if (w)
		w->count = (w->count + 1) & 31;
}
