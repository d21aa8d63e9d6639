/* store.c - a device's pages: page table, publishing, reading while others write, accounting.
 *
 * The page table holds one 8-byte entry per page, and it is the truth: what is in no entry does not exist.
 *
 *	63            32 31       17 16        5 4    0
 *	+---------------+-----------+-----------+------+
 *	|      0        offset / 16 | length - 1| kind |	object: SAME_U64, LZ4, ZSTD … ZSTD_DICT (35 + 12 bits, 12 spare)
 *	|     crc32c    |   offset / 4096       | RAW  |	raw page: the checksum is in the entry, so its slot is just the page
 *	|    word       |           0           | U32  |	same-filled by a 4-byte word
 *	|        word, sign-extended            | S59  |	same-filled by an 8-byte word that fits 59 bits (all pointers do)
 *	|                   0                          |	empty
 *
 * An object is its payload followed by its CRC32C, which is seeded with the page number and kind, so that an entry that points to
 * a whole but wrong object is caught as well.
 *
 * Writing: compress into the thread's buffer, place the object, publish it with one atomic exchange of the entry, free
 * what the exchange returned. At every instant the table names complete objects only.
 *
 * Reading without locks: a reader announces the entry it is about to use in its hazard slot, looks at the table again,
 * and goes on only if the entry is still there; whoever frees an object looks through the hazard slots first and sets the object
 * aside if it is in use. Each thread announces one object at a time, so what a thread has set aside never exceeds the
 * number of threads, and nobody ever waits for anybody.
 *
 * Changing the algorithm of a live device: workspaces for it are made and locked by the control thread, published per
 * thread, and the old ones freed after every thread has been outside tz_store_begin/end once. So is zstd's dictionary, which
 * all threads share: it is digested for one level, and stays for as long as the device does, to read what it has made.
 */
#include "store.h"
#include "arena.h"
#include "dictionary.h"
#include "pool.h"
#include "variants.h"

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
#define CLOCK_EVERY 16u		/* codec time is taken on one page in so many */

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

struct tz_store_thread {
	_Atomic uint64_t hazard;		/* entry being read, 0 = none */
	_Atomic(struct codec_set *) set;
	struct codec_set *inside_set;		/* valid between begin and end */
	_Atomic uint64_t turns;			/* odd: inside begin/end */
	struct tz_store *store;
	struct tz_queue_stats *stats;
	unsigned index, nr_set_aside, ticks;
	uint64_t set_aside[TZ_MAX_QUEUES + 2];	/* freed entries that somebody still reads */
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

static uint64_t object_entry(unsigned kind, uint64_t offset, unsigned length)
{
	return kind | (uint64_t)(length - 1) << KIND_BITS | offset / 16 << (KIND_BITS + LENGTH_BITS);
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

static void count_begin(struct tz_queue_stats *q)
{
	__atomic_store_n(&q->seq, q->seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void count_end(struct tz_queue_stats *q)
{
	__atomic_store_n(&q->seq, q->seq + 1, __ATOMIC_RELEASE);
}

static void bump(void *counter, int64_t by)
{
	uint64_t *c = counter;

	__atomic_store_n(c, *c + (uint64_t)by, __ATOMIC_RELAXED);	/* one writer */
}

/* An entry came into the table (sign 1) or left it (-1). */
static void count_entry(struct tz_queue_stats *q, uint64_t entry, int sign)
{
	unsigned length = entry_length(entry);

	if (!entry)
		return;
	bump(&q->pages_now, sign);
	bump(&q->compr_bytes_now, sign * (int64_t)length);
	bump(&q->kind_pages_now[KIND(entry)], sign);
	if (length)
		bump(&q->size_pages_now[length == TZ_PAGE_SIZE ? TZ_SIZE_BINS - 1 : (length - 1) / 64], sign);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- freeing what others may be reading ---- */

static int is_read_by_someone(const struct tz_store *s, uint64_t entry)
{
	for (unsigned i = 0; i <= s->nr_threads; i++)
		if (atomic_load_explicit(&s->threads[i].hazard, memory_order_acquire) == entry)
			return 1;
	return 0;
}

/* Frees of the set-aside objects those that nobody reads any more. */
static void free_set_aside(struct tz_store_thread *t)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < t->nr_set_aside; i++) {
		uint64_t entry = t->set_aside[i];
		if (is_read_by_someone(t->store, entry))
			t->set_aside[kept++] = entry;
		else
			tz_pool_free(&t->store->pool, entry_offset(entry));
	}
	t->nr_set_aside = kept;
}

/* `entry` has just been exchanged out of the table. */
static void retire(struct tz_store_thread *t, uint64_t entry)
{
	if (!has_object(entry))
		return;
	atomic_thread_fence(memory_order_seq_cst);	/* pairs with announce(): exchange before looking */
	if (t->nr_set_aside)
		free_set_aside(t);
	if (is_read_by_someone(t->store, entry))
		t->set_aside[t->nr_set_aside++] = entry;
	else
		tz_pool_free(&t->store->pool, entry_offset(entry));
}

/* Loads a page's entry and keeps its object from being freed until hazard is cleared. */
static uint64_t announce(struct tz_store_thread *t, _Atomic uint64_t *slot)
{
	uint64_t entry = atomic_load_explicit(slot, memory_order_acquire);

	while (has_object(entry)) {
		atomic_store_explicit(&t->hazard, entry, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		uint64_t again = atomic_load_explicit(slot, memory_order_acquire);
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
	uint64_t old = atomic_exchange_explicit(&t->store->arena.table[page], entry, memory_order_acq_rel);

	count_begin(q);
	count_entry(q, old, -1);
	count_entry(q, entry, 1);
	bump(requests, 1);
	if (KIND(entry) == TZ_KIND_RAW)
		bump(&q->huge_pages_since, 1);
	count_end(q);
	retire(t, old);
}

/* Places payload and checksum; returns the entry or 0 with *err. */
static uint64_t place(struct tz_store_thread *t, uint64_t page, unsigned kind, const uint8_t *payload, unsigned length,
	int *err)
{
	struct tz_store *s = t->store;
	uint32_t crc = tz_crc32c(seed_for(page, kind), payload, length);
	uint64_t offset = tz_pool_alloc(&s->pool, kind == TZ_KIND_RAW ? length : length + CRC_SIZE, err);

	if (!offset)
		return 0;
	memcpy(s->arena.base + offset, payload, length);
	if (kind == TZ_KIND_RAW)
		return raw_entry(offset, crc);
	memcpy(s->arena.base + offset + length, &crc, CRC_SIZE);
	return object_entry(kind, offset, length);
}

/* Compresses, counting what it took on every CLOCK_EVERYth page. Returns the length, 0 = keep the page raw. */
static unsigned encode(struct tz_store_thread *t, const uint8_t *data, unsigned *kind)
{
	const struct codec_set *set = t->inside_set;
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? now_ns() : 0;
	size_t n = set->encoder->compress(set->encoder_workspace, data, t->object);

	*kind = set->encoder->kind;
	if (n && *kind == TZ_KIND_AUTO)
		*kind = t->object[--n];
	if (n + CRC_SIZE > TZ_POOL_HUGE)
		n = 0;
	if (!n)
		*kind = TZ_KIND_RAW;
	if (timed) {
		bump(&t->stats->compress_ns, (int64_t)(now_ns() - start));
		bump(&t->stats->compress_bytes_in, TZ_PAGE_SIZE);
		bump(&t->stats->compress_bytes_out, (int64_t)(n ? n : TZ_PAGE_SIZE));
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
			entry = place(t, page, TZ_KIND_SAME_U64, (const uint8_t *)&word, sizeof word, &err);
	} else {
		unsigned kind, n = encode(t, data, &kind);
		entry = n ? place(t, page, kind, t->object, n, &err) : place(t, page, kind, data, TZ_PAGE_SIZE, &err);
	}
	if (!entry)
		return err;
	publish(t, page, entry, &t->stats->pages_written);
	return 0;
}

void tz_store_discard(struct tz_store_thread *t, uint64_t page)
{
	if (atomic_load_explicit(&t->store->arena.table[page], memory_order_relaxed) == 0) {
		count_begin(t->stats);
		bump(&t->stats->pages_discarded, 1);
		count_end(t->stats);
		return;
	}
	publish(t, page, 0, &t->stats->pages_discarded);
}

/* What the codec of this kind works in; objects of FAST and DENSE may have been made by `auto`. */
static void *workspace_for(const struct codec_set *set, unsigned kind)
{
	void *own = set->by_kind[kind].memory, *of_auto = set->by_kind[TZ_KIND_AUTO].memory;

	return own || !of_auto ? own : tz_auto_part(of_auto, kind);
}

static int decode(struct tz_store_thread *t, uint64_t page, uint64_t entry, uint8_t *out)
{
	const uint8_t *object = t->store->arena.base + entry_offset(entry);
	unsigned kind = KIND(entry), n = entry_length(entry);
	uint32_t crc;

	if (entry_offset(entry) + n + CRC_SIZE > t->store->arena.size)
		return -EIO;	/* a damaged entry */
	if (kind == TZ_KIND_RAW) {
		memcpy(out, object, TZ_PAGE_SIZE);
		crc = (uint32_t)(entry >> 32);
		return tz_crc32c(seed_for(page, kind), out, TZ_PAGE_SIZE) == crc ? 0 : -EIO;
	}
	memcpy(&crc, object + n, CRC_SIZE);
	if (tz_crc32c(seed_for(page, kind), object, n) != crc)
		return -EIO;
	if (kind == TZ_KIND_SAME_U64) {
		uint64_t word;
		memcpy(&word, object, sizeof word);
		tz_fill(out, word);
		return n == sizeof word ? 0 : -EIO;
	}
	const struct tz_codec *codec = tz_codec_by_kind(kind);
	if (!codec)
		return -EIO;
	int timed = ++t->ticks % CLOCK_EVERY == 0;
	uint64_t start = timed ? now_ns() : 0;
	int rc = codec->decompress(workspace_for(t->inside_set, kind), object, n, out);
	if (timed) {
		bump(&t->stats->decompress_ns, (int64_t)(now_ns() - start));
		bump(&t->stats->decompress_bytes_out, TZ_PAGE_SIZE);
	}
	return rc ? -EIO : 0;
}

int tz_store_read(struct tz_store_thread *t, uint64_t page, uint8_t *out)
{
	uint64_t entry = announce(t, &t->store->arena.table[page]);
	int rc = 0;

	switch (KIND(entry)) {
	case TZ_KIND_EMPTY:
		memset(out, 0, TZ_PAGE_SIZE);
		break;
	case TZ_KIND_SAME_S59:
		tz_fill(out, (uint64_t)((int64_t)entry >> KIND_BITS));
		break;
	case TZ_KIND_SAME_U32:
		tz_fill(out, entry >> 32 | (entry >> 32 << 32));
		break;
	default:
		rc = decode(t, page, entry, out);
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	count_begin(t->stats);
	bump(rc ? &t->stats->checksum_errors : &t->stats->pages_read, 1);
	count_end(t->stats);
	return rc;
}

void tz_store_prefetch_entry(const struct tz_store_thread *t, uint64_t page)
{
	__builtin_prefetch((const void *)&t->store->arena.table[page], 0, 3);
}

void tz_store_prefetch_object(const struct tz_store_thread *t, uint64_t page)
{
	uint64_t entry = atomic_load_explicit(&t->store->arena.table[page], memory_order_relaxed);

	if (!has_object(entry))
		return;
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
	atomic_fetch_add_explicit(&t->turns, 1, memory_order_release);
}

/* ---- compaction ---- */

/* Moves a page's object to a free slot of its class. 0, or -ENOSPC: the class has none left. */
static int move(struct tz_store_thread *t, uint64_t page)
{
	struct tz_store *s = t->store;
	uint64_t entry = announce(t, &s->arena.table[page]), offset = entry_offset(entry), moved;
	unsigned n = entry_length(entry), size = KIND(entry) == TZ_KIND_RAW ? n : n + CRC_SIZE;
	int rc = 0;

	if (has_object(entry) && tz_pool_is_evacuating(&s->pool, offset)) {
		uint64_t to = tz_pool_alloc_existing(&s->pool, size);
		if (to) {
			memcpy(s->arena.base + to, s->arena.base + offset, size);
			moved = KIND(entry) == TZ_KIND_RAW ? raw_entry(to, (uint32_t)(entry >> 32))
				: object_entry(KIND(entry), to, n);
			/* Still announced: the slot cannot come back to this page with other content and the same entry. */
			uint64_t expected = entry;
			int published = atomic_compare_exchange_strong(&s->arena.table[page], &expected, moved);
			atomic_store_explicit(&t->hazard, 0, memory_order_release);
			if (published)
				retire(t, entry);
			else
				tz_pool_free(&s->pool, to);	/* overwritten meanwhile */
		} else {
			rc = -ENOSPC;
		}
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	return rc;
}

/* Called by the pool's slab thread. One pass is one look through the page table; between passes, what was still being read
 * at the end of the last one is freed. */
static void compact(void *arg, int pass)
{
	struct tz_store *s = arg;
	struct tz_store_thread *t = &s->threads[s->nr_threads];

	free_set_aside(t);
	if (!pass || !tz_pool_evacuate_begin(&s->pool))
		return;
	for (uint64_t page = 0; page < s->nr_pages; page++) {
		uint64_t entry = atomic_load_explicit(&s->arena.table[page], memory_order_relaxed);
		/* The racy look only saves time; a slab number from a torn state is still one of ours. */
		if (has_object(entry) && tz_pool_is_evacuating(&s->pool, entry_offset(entry)))
			move(t, page);
	}
	free_set_aside(t);
	tz_pool_evacuate_end(&s->pool);
}

/* ---- algorithms ---- */

/* Locked memory of a size that `what` asks for, `reason` being why it is 0. NULL with *err and why. */
static void *map_locked(size_t size, const char *what, const char *reason, int *err, char *why, size_t why_size)
{
	void *memory = MAP_FAILED;

	*err = size ? -ENOMEM : -ENOTSUP;
	if (size)
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	else
		snprintf(why, why_size, "algorithm %s is not available: %s", what, reason);
	if (size && memory == MAP_FAILED)
		snprintf(why, why_size, "no memory for the workspace of %s (%zu KiB)", what, size >> 10);
	if (memory == MAP_FAILED)
		return NULL;
	mlock(memory, size);		/* the server reports whether its memory is locked */
	return memory;
}

/* `dictionary`: of the codec, NULL: none. */
static int make_workspace(const struct tz_codec *codec, int level, const struct tz_dictionary *dictionary,
	struct workspace *w, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t size;
	int rc;

	*w = (struct workspace){ 0 };
	if (!codec->workspace_size)
		return 0;
	size = dictionary ? tz_dictionary_workspace_size(dictionary, &reason) : codec->workspace_size(level, &reason);
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
static struct tz_dictionary *make_dictionary(const void *bytes, size_t n, int level, int *err, char *why, size_t why_size)
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

/* Replaces a thread's set; returns once the old one is in nobody's hands, and frees it. */
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

static int prepare_switch(struct tz_store_thread *t, const struct choice *c, struct switching *w, char *why, size_t why_size)
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
	if (!now || now->encoder == codec) {	/* another level: encoder and decoder share the workspace */
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

static void stats_head_begin(struct tz_stats *s)
{
	__atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void stats_head_end(struct tz_stats *s)
{
	__atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELEASE);
}

/* What `algorithm` means for a device with this dictionary of n bytes (NULL: none): zstd is zstd with it. 0 or negative
 * errno. */
static int choose(const char *algorithm, const void *dictionary, size_t n, struct choice *c, char *why, size_t why_size)
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

/* In two steps, so that no thread meets an object it cannot decode yet: first every thread can decode it, then they
 * begin to make it. */
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

	stats_head_begin(head);
	snprintf(head->algorithm, sizeof head->algorithm, "%s", algorithm);
	head->isa = codec->isa;
	if (s->dictionary) {
		tz_dictionary_bytes(s->dictionary, &n);
		head->dictionary_id = tz_dictionary_id(s->dictionary);
		head->dictionary_memory = (uint32_t)tz_dictionary_memory(s->dictionary);
	}
	head->dictionary_size = (uint32_t)n;
	stats_head_end(head);
}

/* `dictionary`: its n bytes, as given or as the store has them; NULL: none. */
static int set_algorithm(struct tz_store *s, const char *algorithm, const void *dictionary, size_t n, char *why,
	size_t why_size)
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
	stats_head_begin(s->stats);
	s->stats->mem_limit = bytes;
	stats_head_end(s->stats);
	return 0;
}

/* ---- making, ending, looking ---- */

static int make_threads(struct tz_store *s, const struct tz_store_config *c, char *why, size_t why_size)
{
	size_t size = (c->nr_threads + 1) * sizeof *s->threads;

	s->threads = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
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
		s->threads[i].stats = (struct tz_queue_stats *)((char *)c->stats + c->stats->queue_offset +
			(size_t)i * c->stats->queue_stride);
	}
	return 0;
}

/* That there is such an algorithm, and that it has a use for the dictionary, if there is one. 0 or -EINVAL. */
static int check_algorithm(const struct tz_store_config *c, char *why, size_t why_size)
{
	int level;
	const struct tz_codec *codec = tz_parse_algorithm(c->algorithm, &level, why, why_size);

	if (!codec)
		return -EINVAL;
	if (!c->dictionary || codec->kind == TZ_KIND_ZSTD)
		return 0;
	snprintf(why, why_size, "algorithm \"%s\" has no use for a dictionary. Use zstd, or no dictionary", codec->name);
	return -EINVAL;
}

struct tz_store *tz_store_create(const struct tz_store_config *c, int *err, char *why, size_t why_size)
{
	struct tz_store *s;

	*err = -EINVAL;
	if (c->disksize == 0 || c->disksize % TZ_PAGE_SIZE || c->nr_threads == 0 || c->nr_threads > TZ_MAX_QUEUES) {
		snprintf(why, why_size, "disk size must be a positive multiple of 4096, threads 1 to %d", TZ_MAX_QUEUES);
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
		*err = set_algorithm(s, c->algorithm, c->dictionary, c->dictionary_size, why, why_size);
	if (*err < 0) {
		s->arena.fd = -1;	/* stays the caller's */
		tz_store_destroy(s);
		return NULL;
	}
	s->pool.compact_arg = s;
	__atomic_store_n(&s->pool.compact, compact, __ATOMIC_RELEASE);
	stats_head_begin(s->stats);
	s->stats->disksize = c->disksize;
	s->stats->mem_limit = c->mem_limit;
	stats_head_end(s->stats);
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

void tz_store_page_map(struct tz_store *s, uint64_t first, uint64_t pages, unsigned regions, uint32_t (*out)[TZ_MAP_KINDS])
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
			unsigned kind = KIND(atomic_load_explicit(&s->arena.table[p], memory_order_relaxed));
			if (kind < TZ_MAP_KINDS)
				out[r][kind]++;
		}
	}
}

static struct tz_range range(const void *base, uint64_t size)
{
	return (struct tz_range){ (uintptr_t)base, ((uintptr_t)base + size + TZ_PAGE_SIZE - 1) & -(uintptr_t)TZ_PAGE_SIZE };
}

struct tz_range tz_store_arena(const struct tz_store *s)
{
	return range(s->arena.base, s->arena.size);
}

struct tz_range tz_store_slab_metadata(const struct tz_store *s)
{
	return range(s->pool.slabs, s->pool.slabs_len);
}
