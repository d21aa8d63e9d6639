/* store.c - a device's pages: page table, publishing, reading while others write, accounting.
 *
 * The page table holds one 8-byte entry per page, and it is the truth: what is in no entry does not
 * exist.
 *
 *	63            32 31       17 16        5 4    0
 *	+---------------+-----------+-----------+------+
 *	| check offset / 16         | length - 1| kind |	object: SAME_U64, LZ4 … ZSTD_DICT
 *	|     crc32c    |   offset / 4096       | RAW  |	raw page
 *	|    word       |           0           | U32  |	same-filled by a 4-byte word
 *	|        word, sign-extended            | S59  |	same-filled by an 8-byte word
 *	|                   0                          |	empty
 *
 * An object's entry has 12 check bits, 35 of the offset, 12 of the length and 5 of the kind. A raw
 * page's checksum is in the entry, so its slot is just the page. S59 takes words that fit 59 bits,
 * as all pointers do.
 *
 * An object is its payload followed by its CRC32C, which is seeded with the page number and kind,
 * so that an entry that points to a whole but wrong object is caught as well.
 *
 * The arena is not trusted: a bit of it may flip. An object's entry has check bits over itself and
 * the page number; a RAW entry has no room for them, but the pool knows whose its slot is. What an
 * entry names is checked before it is used: kind, range, slab, alignment, size. A damaged entry
 * reads as -EIO; when it is overwritten or discarded, nothing is freed (a slot stays taken, no
 * other page is lost). What cannot be noticed in this format is a flipped bit in the word of a
 * same-filled page, and one that makes an S59 entry of an object's.
 *
 * Writing: compress into the thread's buffer, place the object, publish it with one atomic exchange
 * of the entry, free what the exchange returned. At every instant the table names complete objects
 * only.
 *
 * Reading without locks: a reader announces the entry it is about to use in its hazard slot, looks
 * at the table again, and continues only if the entry is still there; whoever frees an object looks
 * through the hazard slots first and sets the object aside if it is in use. Each thread announces
 * one object at a time, but it may move on to the next while a writer looks through the slots: what
 * a thread has set aside is at most two objects for each other thread
 * (tests/native/test_hazard_model.py tries all orders). No thread waits for a reader; what threads
 * do wait for, for some tens of nanoseconds unless a holder loses its CPU, is the lock of a size
 * class or of the reserve (pool.c).
 *
 * Changing the algorithm of a live device: workspaces for it are made and locked by the control
 * thread, published per thread, and the old ones freed after every thread has been outside
 * tz_store_begin/end once. So is zstd's dictionary, which all threads share: it is digested for one
 * level, and stays for as long as the device does, to read what it has made.
 */
#include "store.h"
#include "arena.h"
#include "clock.h"
#include "dictionary.h"
#include "pool.h"
#include "variants.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define KIND_BITS 5
#define LENGTH_BITS 12
#define KIND(entry) ((unsigned)((entry) & ((1u << KIND_BITS) - 1)))
#define CRC_SIZE 4u
#define CHECK_SHIFT 52		/* the upper 12 bits of an object's entry */
#define CLOCK_EVERY 16u		/* codec time is measured on one page in this many */
#define DISCARD_COST 32u	/* of a page given back, in entries looked at */

struct workspace {
	void *memory;		/* NULL: the codec needs none */
	size_t size;
};

/* How a thread encodes now and decodes each kind: replaced as a whole. */
struct codec_set {
	const struct tz_codec *encoder;
	void *encoder_workspace;
	struct workspace by_kind[TZ_KINDS];
};

struct aside { uint64_t entry, page; };

struct tz_store_thread {
	_Atomic uint64_t hazard;		/* entry being read, 0 = none */
	_Atomic(struct codec_set *) set;
	struct codec_set *inside_set;		/* valid between begin and end */
	_Atomic uint64_t turns;			/* odd: inside begin/end */
	struct tz_store *store;
	struct tz_queue_stats *stats;
	unsigned index, nr_set_aside, ticks;
	/* Freed entries that a thread still reads: two for each other thread, the compactor among
	 * them. */
	struct aside set_aside[2 * TZ_MAX_QUEUES + 2];
	const char *error;			/* of error_page, not yet in the statistics; NULL:
						 * none */
	uint64_t error_page;
	uint8_t object[TZ_DST_SIZE] __attribute__((aligned(64)));
} __attribute__((aligned(64)));

struct tz_store {
	struct tz_arena arena;
	struct tz_pool pool;
	struct tz_stats *stats;
	uint64_t nr_pages;
	unsigned nr_threads;		/* callers; threads[nr_threads] is the compactor's */
	struct tz_store_thread *threads;
	struct tz_dictionary *dictionary;	/* of zstd; NULL: none. Mapped */
};

/* ---- entries ---- */

/* The check bits of an entry, given without them. The multiplier has no run of 12 equal bits, so
 * any one flipped bit changes what comes out. */
static uint64_t check_bits(uint64_t entry, uint64_t page)
{
	return (entry ^ page * 0xbf58476d1ce4e5b9ull) * 0x9e3779b97f4a7c15ull >> CHECK_SHIFT;
}

static uint64_t object_entry(uint64_t page, unsigned kind, uint64_t offset, unsigned length)
{
	uint64_t entry = kind | (uint64_t)(length - 1) << KIND_BITS |
		offset / 16 << (KIND_BITS + LENGTH_BITS);

	return entry | check_bits(entry, page) << CHECK_SHIFT;
}

static uint64_t raw_entry(uint64_t offset, uint32_t crc)
{
	return TZ_KIND_RAW | offset / TZ_PAGE_SIZE << KIND_BITS | (uint64_t)crc << 32;
}

static int has_object(uint64_t entry)
{
	return KIND(entry) >= TZ_KIND_SAME_U64;
}

static uint64_t entry_offset(uint64_t entry)
{
	if (KIND(entry) == TZ_KIND_RAW)
		return (entry >> KIND_BITS & ((1u << 27) - 1)) * TZ_PAGE_SIZE;
	return (entry >> (KIND_BITS + LENGTH_BITS) & ((1ull << 35) - 1)) * 16;
}

/* Bytes of payload, as compr_data_size counts them. */
static unsigned entry_length(uint64_t entry)
{
	if (!has_object(entry))
		return 0;
	if (KIND(entry) == TZ_KIND_RAW)
		return TZ_PAGE_SIZE;
	return (unsigned)(entry >> KIND_BITS & ((1u << LENGTH_BITS) - 1)) + 1;
}

/* Bytes of the object in its slot. */
static unsigned entry_size(uint64_t entry)
{
	return KIND(entry) == TZ_KIND_RAW ? TZ_PAGE_SIZE : entry_length(entry) + CRC_SIZE;
}

/* What is wrong with an entry, by itself; NULL: nothing. Whether its object can be where it says,
 * the pool knows. */
static const char *entry_fault(uint64_t page, uint64_t entry)
{
	unsigned kind = KIND(entry);

	switch (kind) {
	case TZ_KIND_EMPTY:
		return entry ? "entry is damaged" : NULL;
	case TZ_KIND_SAME_U32:
		return (uint32_t)entry >> KIND_BITS ? "entry is damaged" : NULL;
	case TZ_KIND_SAME_S59:
	case TZ_KIND_RAW:
		return NULL;
	default:
		if (!tz_kind_is_stored(kind))
			return "entry of an unknown kind";
		return check_bits(entry & ((1ull << CHECK_SHIFT) - 1), page) == entry >> CHECK_SHIFT
			? NULL : "entry is damaged";
	}
}

/* The entry that holds this word by itself, or 0 when it takes an object. */
static uint64_t same_entry(uint64_t word)
{
	if ((uint32_t)word == word >> 32)
		return TZ_KIND_SAME_U32 | word << 32;
	if ((uint64_t)((int64_t)(word << KIND_BITS) >> KIND_BITS) == word)
		return TZ_KIND_SAME_S59 | word << KIND_BITS;
	return 0;
}

static uint32_t seed_for(uint64_t page, unsigned kind)
{
	return (uint32_t)(page * 0x9e3779b1u) + kind;
}

/* ---- counters ---- */

/* An entry came into the table (sign 1) or left it (-1). */
static void count_entry(struct tz_queue_stats *q, uint64_t entry, int sign)
{
	unsigned length = entry_length(entry);

	if (!entry)
		return;
	tz_stats_add(&q->pages_now, sign);
	tz_stats_add(&q->compr_bytes_now, sign * (int64_t)length);
	tz_stats_add(&q->kind_pages_now[KIND(entry)], sign);
	if (length)
		tz_stats_add(&q->size_pages_now[length == TZ_PAGE_SIZE
			? TZ_SIZE_BINS - 1 : (length - 1) / 64], sign);
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
	char text[sizeof t->store->stats->last_error], digits[24], *end = text + sizeof text - 1,
		*to, *d = digits + sizeof digits - 1;
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

static void note_error(struct tz_store_thread *t, uint64_t page, const char *what)
{
	t->error_page = page;
	t->error = what;
	show_error(t);
}

/* An entry that must not be used. The compactor, which has no counters of its own, leaves it to the
 * next thread that meets it. */
static void note_damage(struct tz_store_thread *t, uint64_t page, const char *what)
{
	if (!t->stats)
		return;
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->damaged_entries, 1);
	tz_stats_end(&t->stats->seq);
	note_error(t, page, what);
}

/* ---- freeing what others may be reading ---- */

/* Hazards and entries are stored and loaded in one order that all threads agree on (seq_cst):
 * either the reader finds its entry gone, or whoever took it out finds the hazard. */
static int is_read_by_someone(const struct tz_store *s, uint64_t entry)
{
	for (unsigned i = 0; i <= s->nr_threads; i++)
		if (atomic_load_explicit(&s->threads[i].hazard, memory_order_seq_cst) == entry)
			return 1;
	return 0;
}

static void free_object(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	if (tz_pool_free(&t->store->pool, entry_offset(entry), entry_size(entry), page) < 0)
		note_damage(t, page, "entry names a slot that is not its own, nothing freed");
}

/* Frees of the set-aside objects those that no thread reads any more. */
static void free_set_aside(struct tz_store_thread *t)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < t->nr_set_aside; i++) {
		struct aside a = t->set_aside[i];
		if (is_read_by_someone(t->store, a.entry))
			t->set_aside[kept++] = a;
		else
			free_object(t, a.page, a.entry);
	}
	t->nr_set_aside = kept;
}

/* `entry` has just been exchanged out of the table. */
static void retire(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	const char *fault = entry_fault(page, entry);

	if (fault)
		note_damage(t, page, fault);
	if (fault || !has_object(entry))
		return;
	if (t->nr_set_aside)
		free_set_aside(t);
	if (is_read_by_someone(t->store, entry)) {
		assert(t->nr_set_aside < sizeof t->set_aside / sizeof *t->set_aside);
		t->set_aside[t->nr_set_aside++] = (struct aside){ entry, page };
	} else {
		free_object(t, page, entry);
	}
}

/* Loads a page's entry and keeps its object from being freed until hazard is cleared. */
static uint64_t announce(struct tz_store_thread *t, _Atomic uint64_t *slot)
{
	uint64_t entry = atomic_load_explicit(slot, memory_order_acquire);

	while (has_object(entry)) {
		atomic_store_explicit(&t->hazard, entry, memory_order_seq_cst);
		uint64_t again = atomic_load_explicit(slot, memory_order_seq_cst);
		if (again == entry)
			break;
		entry = again;
	}
	return entry;
}

/* ---- the three operations ---- */

static void publish(struct tz_store_thread *t, uint64_t page, uint64_t entry, uint64_t *requests)
{
	struct tz_queue_stats *q = t->stats;
	uint64_t old = atomic_exchange_explicit(&t->store->arena.table[page], entry,
		memory_order_seq_cst);

	tz_stats_begin(&q->seq);
	count_entry(q, old, -1);
	count_entry(q, entry, 1);
	tz_stats_add(requests, 1);
	if (KIND(entry) == TZ_KIND_RAW)
		tz_stats_add(&q->huge_pages_since, 1);
	tz_stats_end(&q->seq);
	retire(t, page, old);
}

/* Places payload and checksum; returns the entry or 0 with *err. */
static uint64_t place(struct tz_store_thread *t, uint64_t page, unsigned kind,
	const uint8_t *payload, unsigned length, int *err)
{
	struct tz_store *s = t->store;
	uint32_t crc = tz_crc32c(seed_for(page, kind), payload, length);
	uint64_t offset = tz_pool_alloc(&s->pool, kind == TZ_KIND_RAW ? length : length + CRC_SIZE,
		page, err);

	if (!offset)
		return 0;
	memcpy(s->arena.base + offset, payload, length);
	if (kind == TZ_KIND_RAW)
		return raw_entry(offset, crc);
	memcpy(s->arena.base + offset + length, &crc, CRC_SIZE);
	return object_entry(page, kind, offset, length);
}

/* Compresses, counting what it took on every CLOCK_EVERYth page. Returns the length, 0 = keep the
 * page raw. */
static unsigned encode(struct tz_store_thread *t, const uint8_t *data, unsigned *kind)
{
	const struct codec_set *set = t->inside_set;
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? tz_now_ns() : 0;
	size_t n = set->encoder->compress(set->encoder_workspace, data, t->object);

	*kind = set->encoder->kind;
	if (n && *kind == TZ_KIND_AUTO)
		*kind = t->object[--n];
	if (n + CRC_SIZE > TZ_POOL_HUGE)
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

int tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	uint64_t word, entry;
	int err = -EIO;

	if (tz_same_filled(data, &word)) {
		entry = same_entry(word);
		if (!entry)
			entry =
				place(t, page, TZ_KIND_SAME_U64, (const uint8_t *)&word,
				sizeof word, &err);
	} else {
		unsigned kind, n = encode(t, data, &kind);
		entry = n ? place(t, page, kind, t->object, n, &err)
			: place(t, page, kind, data, TZ_PAGE_SIZE, &err);
	}
	if (!entry)
		return err;
	publish(t, page, entry, &t->stats->pages_written);
	return 0;
}

void tz_store_discard(struct tz_store_thread *t, uint64_t page)
{
	if (atomic_load_explicit(&t->store->arena.table[page], memory_order_relaxed) == 0) {
		tz_stats_begin(&t->stats->seq);
		tz_stats_add(&t->stats->pages_discarded, 1);
		tz_stats_end(&t->stats->seq);
		return;
	}
	publish(t, page, 0, &t->stats->pages_discarded);
}

uint64_t tz_store_discard_range(struct tz_store_thread *t, uint64_t page, uint64_t n,
	unsigned *work)
{
	_Atomic uint64_t *table = t->store->arena.table;
	uint64_t at = page, empty = 0;
	unsigned left = *work;

	while (at < page + n && left) {
		if (atomic_load_explicit(&table[at], memory_order_relaxed) == 0) {
			empty++;
			left--;
		} else {
			publish(t, at, 0, &t->stats->pages_discarded);
			left -= left < DISCARD_COST ? left : DISCARD_COST;
		}
		at++;
	}
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->pages_discarded, (int64_t)empty);
	tz_stats_end(&t->stats->seq);
	*work = left;
	return at - page;
}

/* What the codec of this kind works in; objects of FAST and DENSE may have been made by `auto`. */
static void *workspace_for(const struct codec_set *set, unsigned kind)
{
	void *own = set->by_kind[kind].memory, *of_auto = set->by_kind[TZ_KIND_AUTO].memory;

	return own || !of_auto ? own : tz_auto_part(of_auto, kind);
}

/* The page of an entry whose object is where it can be. NULL, or what is wrong with the object. */
static const char *decode(struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out)
{
	static const char mismatch[] = "checksum does not match",
		undecodable[] = "object cannot be decoded";
	const uint8_t *object = t->store->arena.base + entry_offset(entry);
	unsigned kind = KIND(entry), n = entry_length(entry);
	uint32_t crc;

	if (kind == TZ_KIND_RAW) {
		memcpy(out, object, TZ_PAGE_SIZE);
		crc = (uint32_t)(entry >> 32);
		return tz_crc32c(seed_for(page, kind), out, TZ_PAGE_SIZE) == crc ? NULL : mismatch;
	}
	memcpy(&crc, object + n, CRC_SIZE);
	if (tz_crc32c(seed_for(page, kind), object, n) != crc)
		return mismatch;
	if (kind == TZ_KIND_SAME_U64) {
		uint64_t word;
		memcpy(&word, object, sizeof word);
		tz_fill(out, word);
		return n == sizeof word ? NULL : undecodable;
	}
	const struct tz_codec *codec = tz_codec_by_kind(kind);
	if (!codec)
		return "no decoder for its kind";
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? tz_now_ns() : 0;
	int rc = codec->decompress(workspace_for(t->inside_set, kind), object, n, out);
	if (timed) {
		tz_stats_add(&t->stats->decompress_ns, (int64_t)(tz_now_ns() - start));
		tz_stats_add(&t->stats->decompress_bytes_out, TZ_PAGE_SIZE);
	}
	return rc ? undecodable : NULL;
}

/* What an entry means. NULL, or what is wrong with the object; *damaged: or with the entry. */
static const char *fetch(struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out,
	int *damaged)
{
	const char *fault = entry_fault(page, entry);

	if (!fault && has_object(entry) &&
	    !tz_pool_is_slot(&t->store->pool, entry_offset(entry), entry_size(entry)))
		fault = "entry out of range";
	*damaged = fault != NULL;
	if (fault)
		return fault;
	switch (KIND(entry)) {
	case TZ_KIND_EMPTY:
		memset(out, 0, TZ_PAGE_SIZE);
		return NULL;
	case TZ_KIND_SAME_S59:
		tz_fill(out, (uint64_t)((int64_t)entry >> KIND_BITS));
		return NULL;
	case TZ_KIND_SAME_U32:
		tz_fill(out, entry >> 32 | (entry >> 32 << 32));
		return NULL;
	default:
		return decode(t, page, entry, out);
	}
}

int tz_store_read(struct tz_store_thread *t, uint64_t page, uint8_t *out)
{
	int damaged;
	const char *fault = fetch(t, page, announce(t, &t->store->arena.table[page]), out,
		&damaged);

	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (damaged) {
		note_damage(t, page, fault);
		return -EIO;
	}
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(fault ? &t->stats->checksum_errors : &t->stats->pages_read, 1);
	tz_stats_end(&t->stats->seq);
	if (fault)
		note_error(t, page, fault);
	return fault ? -EIO : 0;
}

void tz_store_prefetch_entry(const struct tz_store_thread *t, uint64_t page)
{
	__builtin_prefetch((const void *)&t->store->arena.table[page], 0, 3);
}

void tz_store_prefetch_object(const struct tz_store_thread *t, uint64_t page)
{
	uint64_t entry = atomic_load_explicit(&t->store->arena.table[page], memory_order_relaxed);

	if (!has_object(entry) || entry_offset(entry) >= t->store->arena.size - TZ_PAGE_SIZE)
		return;
	tz_pool_prefetch(&t->store->pool, entry_offset(entry));
	const uint8_t *object = t->store->arena.base + entry_offset(entry);
	unsigned n = entry_length(entry);
	for (unsigned i = 0; i < n && i < 1024; i += 64)
		__builtin_prefetch(object + i, 0, 3);
}

void tz_store_begin(struct tz_store_thread *t)
{
	atomic_fetch_add_explicit(&t->turns, 1, memory_order_seq_cst);
	t->inside_set = atomic_load_explicit(&t->set, memory_order_seq_cst);
}

void tz_store_end(struct tz_store_thread *t)
{
	if (t->nr_set_aside)
		free_set_aside(t);
	if (t->error)
		show_error(t);
	atomic_fetch_add_explicit(&t->turns, 1, memory_order_release);
}

/* ---- compaction ---- */

/* Moves a page's object out of a slab that is being emptied to a free slot of its class, where
 * there is one. */
static void move(struct tz_store_thread *t, uint64_t page)
{
	struct tz_store *s = t->store;
	uint64_t entry = announce(t, &s->arena.table[page]), offset = entry_offset(entry), to = 0;
	unsigned size = entry_size(entry);
	int published = 0;

	if (has_object(entry) && !entry_fault(page, entry) &&
	    tz_pool_is_slot(&s->pool, offset, size) && tz_pool_is_evacuating(&s->pool, offset))
		to = tz_pool_alloc_existing(&s->pool, size, page);
	if (to) {
		uint64_t expected = entry,
			moved = KIND(entry) == TZ_KIND_RAW ? raw_entry(to, (uint32_t)(entry >> 32))
			: object_entry(page, KIND(entry), to, entry_length(entry));
		memcpy(s->arena.base + to, s->arena.base + offset, size);
		/* Still announced: the slot cannot come back to this page with other content and
		 * the same entry. */
		published = atomic_compare_exchange_strong(&s->arena.table[page], &expected, moved);
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (published)
		retire(t, page, entry);
	else if (to)
		tz_pool_free(&s->pool, to, size, page);	/* overwritten meanwhile */
}

/* Called by the pool's compactor. One pass is one look through the page table; between passes, what
 * was still being read at the end of the last one is freed. Returns whether there is such. */
static int compact(void *arg, int pass)
{
	struct tz_store *s = arg;
	struct tz_store_thread *t = &s->threads[s->nr_threads];

	if (pass && tz_pool_evacuate_begin(&s->pool)) {
		for (uint64_t page = 0; page < s->nr_pages && !tz_pool_is_stopping(&s->pool);
		    page++) {
			uint64_t entry =
				atomic_load_explicit(&s->arena.table[page], memory_order_relaxed);
			/* This look only saves time. */
			if (!has_object(entry) ||
			    !tz_pool_is_evacuating(&s->pool, entry_offset(entry)))
				continue;
			TZ_TEST_POINT("moving");
			move(t, page);
		}
	}
	free_set_aside(t);
	if (pass)
		tz_pool_evacuate_end(&s->pool);
	return t->nr_set_aside != 0;
}

/* ---- algorithms ---- */

/* Locked memory of a size that `what` asks for, `reason` being why it is 0. NULL with *err and
 * why. */
static void *map_locked(size_t size, const char *what, const char *reason, int *err, char *why,
	size_t why_size)
{
	void *memory = MAP_FAILED;

	*err = size ? -ENOMEM : -ENOTSUP;
	if (size)
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	else
		snprintf(why, why_size, "algorithm %s is not available: %s", what, reason);
	if (size && memory == MAP_FAILED)
		snprintf(why, why_size,
			"no memory for the workspace of %s (%zu KiB)", what, size >> 10);
	if (memory == MAP_FAILED)
		return NULL;
	mlock(memory, size);		/* the server reports whether its memory is locked */
	return memory;
}

/* `dictionary`: of the codec, NULL: none. */
static int make_workspace(const struct tz_codec *codec, int level,
	const struct tz_dictionary *dictionary, struct workspace *w, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t size;
	int rc;

	*w = (struct workspace){ 0 };
	if (!codec->workspace_size)
		return 0;
	size = dictionary ? tz_dictionary_workspace_size(dictionary, &reason)
		: codec->workspace_size(level, &reason);
	w->memory = map_locked(size, codec->name, reason, &rc, why, why_size);
	if (!w->memory)
		return rc;
	w->size = size;
	rc = dictionary ? tz_dictionary_workspace_init(dictionary, w->memory, size, &reason)
		: codec->workspace_init(w->memory, size, level, &reason);
	if (rc < 0) {
		snprintf(why, why_size, "cannot prepare %s: %s", codec->name, reason);
		munmap(w->memory, size);
		w->memory = NULL;
		return -EIO;
	}
	return 0;
}

static void free_dictionary(struct tz_dictionary *d)
{
	if (d)
		munmap(d, tz_dictionary_memory(d));
}

/* A dictionary digested for a level. NULL with *err and why. */
static struct tz_dictionary *make_dictionary(const void *bytes, size_t n, int level, int *err,
	char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t size = tz_dictionary_size(n, level, &reason);
	void *memory = map_locked(size, "zstd", reason, err, why, why_size);

	if (!memory)
		return NULL;
	if (tz_dictionary_init(memory, size, bytes, n, level, &reason))
		return memory;
	snprintf(why, why_size, "cannot use the dictionary: %s", reason);
	munmap(memory, size);
	*err = -EINVAL;
	return NULL;
}

/* Waits until the thread has been outside begin/end after the set was replaced. */
static void wait_outside(struct tz_store_thread *t)
{
	uint64_t seen = atomic_load(&t->turns);
	struct timespec pause = { 0, 200000 };

	while ((seen & 1) && atomic_load(&t->turns) == seen)
		nanosleep(&pause, NULL);
}

/* Replaces a thread's set; returns once no thread uses the old one, and frees it. */
static void publish_set(struct tz_store_thread *t, struct codec_set *set)
{
	struct codec_set *old = atomic_exchange(&t->set, set);

	wait_outside(t);
	free(old);
}

/* An algorithm as it is to be used. */
struct choice {
	const struct tz_codec *codec;
	int level;
	struct tz_dictionary *dictionary;	/* digested for the level; NULL: none */
};

/* What set_algorithm needs for one thread, made before anything is changed. */
struct switching {
	struct codec_set *decoding, *encoding;
	struct workspace workspace;
};

static int prepare_switch(struct tz_store_thread *t, const struct choice *c, struct switching *w,
	char *why, size_t why_size)
{
	const struct codec_set *now = atomic_load(&t->set);
	const struct tz_codec *codec = c->codec;
	int rc = make_workspace(codec, c->level, c->dictionary, &w->workspace, why, why_size);

	if (rc < 0)
		return rc;
	w->decoding = malloc(sizeof *w->decoding);
	w->encoding = malloc(sizeof *w->encoding);
	if (!w->decoding || !w->encoding) {
		snprintf(why, why_size, "no memory for codec state");
		return -ENOMEM;
	}
	*w->decoding = now ? *now : (struct codec_set){ 0 };
	w->decoding->by_kind[codec->kind] = w->workspace;
	/* Another level: encoder and decoder share the workspace. */
	if (!now || now->encoder == codec) {
		w->decoding->encoder = codec;
		w->decoding->encoder_workspace = w->workspace.memory;
	}
	*w->encoding = *w->decoding;
	w->encoding->encoder = codec;
	w->encoding->encoder_workspace = w->workspace.memory;
	return 0;
}

static void abandon_switch(struct switching *w)
{
	if (w->workspace.memory)
		munmap(w->workspace.memory, w->workspace.size);
	free(w->decoding);
	free(w->encoding);
}

/* What `algorithm` means for a device with this dictionary of n bytes (NULL: none): zstd is zstd
 * with it. 0 or negative errno. */
static int choose(const char *algorithm, const void *dictionary, size_t n, struct choice *c,
	char *why, size_t why_size)
{
	int err;

	*c = (struct choice){ 0 };
	c->codec = tz_parse_algorithm(algorithm, &c->level, why, why_size);
	if (!c->codec)
		return -EINVAL;
	if (c->codec->kind != TZ_KIND_ZSTD || !dictionary)
		return 0;
	c->codec = tz_codec_by_kind(TZ_KIND_ZSTD_DICT);
	c->dictionary = make_dictionary(dictionary, n, c->level, &err, why, why_size);
	return c->dictionary ? 0 : err;
}

/* In two steps, so that no thread meets an object it cannot decode yet: first every thread can
 * decode it, then they begin to make it. */
static void switch_threads(struct tz_store *s, const struct tz_codec *codec, struct switching *w)
{
	for (unsigned i = 0; i < s->nr_threads; i++) {
		const struct codec_set *now = atomic_load(&s->threads[i].set);
		struct workspace gone = now ? now->by_kind[codec->kind] : (struct workspace){ 0 };
		publish_set(&s->threads[i], w[i].decoding);
		if (gone.memory)
			munmap(gone.memory, gone.size);
	}
	for (unsigned i = 0; i < s->nr_threads; i++)
		publish_set(&s->threads[i], w[i].encoding);
}

static void show_algorithm(struct tz_store *s, const char *algorithm, const struct tz_codec *codec)
{
	struct tz_stats *head = s->stats;
	size_t n = 0;

	tz_stats_head_begin(head);
	tz_stats_set_text(head->algorithm, sizeof head->algorithm, algorithm);
	TZ_STATS_SET(head->isa, codec->isa);
	if (s->dictionary) {
		tz_dictionary_bytes(s->dictionary, &n);
		TZ_STATS_SET(head->dictionary_id, tz_dictionary_id(s->dictionary));
		TZ_STATS_SET(head->dictionary_memory,
			(uint32_t)tz_dictionary_memory(s->dictionary));
	}
	TZ_STATS_SET(head->dictionary_size, (uint32_t)n);
	tz_stats_head_end(head);
}

/* `dictionary`: its n bytes, as given or as the store has them; NULL: none. */
static int set_algorithm(struct tz_store *s, const char *algorithm, const void *dictionary,
	size_t n, char *why, size_t why_size)
{
	struct switching w[TZ_MAX_QUEUES] = { 0 };
	struct choice c;
	int rc = choose(algorithm, dictionary, n, &c, why, why_size);

	for (unsigned i = 0; i < s->nr_threads && rc == 0; i++)
		rc = prepare_switch(&s->threads[i], &c, &w[i], why, why_size);
	if (rc < 0) {
		for (unsigned i = 0; i < s->nr_threads; i++)
			abandon_switch(&w[i]);
		free_dictionary(c.dictionary);
		return rc;
	}
	switch_threads(s, c.codec, w);
	if (c.dictionary) {	/* the workspaces that used the last one are gone */
		free_dictionary(s->dictionary);
		s->dictionary = c.dictionary;
	}
	show_algorithm(s, algorithm, c.codec);
	return 0;
}

int tz_store_set_algorithm(struct tz_store *s, const char *algorithm, char *why, size_t why_size)
{
	size_t n = 0;
	const void *dictionary = s->dictionary ? tz_dictionary_bytes(s->dictionary, &n) : NULL;

	return set_algorithm(s, algorithm, dictionary, n, why, why_size);
}

int tz_store_set_mem_limit(struct tz_store *s, uint64_t bytes, char *why, size_t why_size)
{
	int rc = tz_pool_set_limit(&s->pool, bytes, why, why_size);

	if (rc < 0)
		return rc;
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->mem_limit, bytes);
	tz_stats_head_end(s->stats);
	return 0;
}

/* ---- making, ending, looking ---- */

static int make_threads(struct tz_store *s, const struct tz_store_config *c, char *why,
	size_t why_size)
{
	size_t size = (c->nr_threads + 1) * sizeof *s->threads;

	s->threads = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->threads == MAP_FAILED) {
		s->threads = NULL;
		snprintf(why, why_size, "no memory for %u threads", c->nr_threads);
		return -ENOMEM;
	}
	s->nr_threads = c->nr_threads;
	s->threads[c->nr_threads].store = s;
	for (unsigned i = 0; i < c->nr_threads; i++) {
		s->threads[i].store = s;
		s->threads[i].index = i;
		s->threads[i].stats =
			(struct tz_queue_stats *)((char *)c->stats + c->stats->queue_offset +
			(size_t)i * c->stats->queue_stride);
	}
	return 0;
}

/* That there is such an algorithm, and that it has a use for the dictionary, if there is one. 0 or
 * -EINVAL. */
static int check_algorithm(const struct tz_store_config *c, char *why, size_t why_size)
{
	int level;
	const struct tz_codec *codec = tz_parse_algorithm(c->algorithm, &level, why, why_size);

	if (!codec)
		return -EINVAL;
	if (!c->dictionary || codec->kind == TZ_KIND_ZSTD)
		return 0;
	snprintf(why, why_size,
		"algorithm \"%s\" has no use for a dictionary. Use zstd, or no dictionary",
		codec->name);
	return -EINVAL;
}

struct tz_store *tz_store_create(const struct tz_store_config *c, int *err, char *why,
	size_t why_size)
{
	struct tz_store *s;

	*err = -EINVAL;
	if (c->disksize == 0 || c->disksize % TZ_PAGE_SIZE || c->nr_threads == 0 ||
	    c->nr_threads > TZ_MAX_QUEUES) {
		snprintf(why, why_size,
			"disk size must be a positive multiple of 4096, threads 1 to %d",
			TZ_MAX_QUEUES);
		return NULL;
	}
	if (check_algorithm(c, why, why_size) < 0)
		return NULL;
	s = aligned_alloc(_Alignof(struct tz_store), sizeof *s);
	if (!s) {
		*err = -ENOMEM;
		snprintf(why, why_size, "no memory");
		return NULL;
	}
	memset(s, 0, sizeof *s);
	s->stats = c->stats;
	s->nr_pages = c->disksize / TZ_PAGE_SIZE;
	*err = tz_arena_create(&s->arena, c->arena_fd, c->disksize, c->lock_arena, why, why_size);
	if (*err < 0) {
		free(s);
		return NULL;
	}
	*err = tz_pool_create(&s->pool, &s->arena, c->stats, c->mem_limit, why, why_size);
	if (*err == 0)
		*err = make_threads(s, c, why, why_size);
	if (*err == 0)
		*err = set_algorithm(s, c->algorithm, c->dictionary, c->dictionary_size, why,
			why_size);
	if (*err == 0)
		*err = tz_pool_start(&s->pool, compact, s, why, why_size);
	if (*err < 0) {
		s->arena.fd = -1;	/* stays the caller's */
		tz_store_destroy(s);
		return NULL;
	}
	tz_stats_head_begin(s->stats);
	TZ_STATS_SET(s->stats->disksize, c->disksize);
	TZ_STATS_SET(s->stats->mem_limit, c->mem_limit);
	tz_stats_head_end(s->stats);
	return s;
}

void tz_store_destroy(struct tz_store *s)
{
	if (!s)
		return;
	tz_pool_destroy(&s->pool);
	for (unsigned i = 0; i < s->nr_threads; i++) {
		struct codec_set *set = atomic_load(&s->threads[i].set);
		for (unsigned k = 0; set && k < TZ_KINDS; k++)
			if (set->by_kind[k].memory)
				munmap(set->by_kind[k].memory, set->by_kind[k].size);
		free(set);
	}
	free_dictionary(s->dictionary);
	if (s->threads)
		munmap(s->threads, (s->nr_threads + 1) * sizeof *s->threads);
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

uint64_t tz_store_trim(struct tz_store *s)
{
	return tz_pool_trim(&s->pool);
}

void tz_store_page_map(struct tz_store *s, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED])
{
	if (first > s->nr_pages)
		first = s->nr_pages;
	if (pages > s->nr_pages - first)
		pages = s->nr_pages - first;
	memset(out, 0, regions * sizeof *out);
	for (unsigned r = 0; r < regions; r++) {
		uint64_t from = first + (uint64_t)((unsigned __int128)pages * r / regions);
		uint64_t to = first + (uint64_t)((unsigned __int128)pages * (r + 1) / regions);
		for (uint64_t p = from; p < to; p++) {
			unsigned kind =
				KIND(atomic_load_explicit(&s->arena.table[p],
				memory_order_relaxed));
			if (kind < TZ_KINDS_STORED)
				out[r][kind]++;
		}
	}
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

struct tz_range tz_store_slab_metadata(const struct tz_store *s)
{
	return range(s->pool.slabs, s->pool.metadata_len);
}
