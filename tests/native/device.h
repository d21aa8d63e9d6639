/* device.h - what the tests of the store share: checks, a device in this process, pages that say
 * what they are.
 *
 * Included once per program. Statistics are read with NOW(): the store's threads write them at any
 * time.
 */
#ifndef TZ_DEVICE_H
#define TZ_DEVICE_H

#include "arena.h"
#include "check.h"
#include "entry.h"
#include "store.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition, ...) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
			fprintf(stderr, __VA_ARGS__); \
			fprintf(stderr, "\n"); \
			abort(); \
		} \
	} while (0)

#define NOW(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

/* One in this many steps is taken: under emulation and ThreadSanitizer each costs ten to thirty
 * times as much. */
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

static inline unsigned share_of_work(void)
{
	return UNDER_TSAN || getenv("TRUEZRAM_TEST_EMULATED") ? 8 : 1;
}

/* What make_device gives its devices, when there is one: see train(). */
static uint8_t dictionary[16384];
static size_t dictionary_size;
static int lock_arena;

struct device {
	struct tz_store *store;
	struct tz_stats *stats;
	int fd;
	unsigned threads;
	uint64_t fresh;		/* bytes of its arena when it was new */
};

/* Bytes of the arena: what the file takes. */
static inline uint64_t arena_bytes(const struct tz_stats *stats)
{
	return NOW(stats->mem_used_total) - NOW(stats->overhead_bytes);
}

static inline struct device make_device(uint64_t pages, unsigned threads, uint64_t limit,
	const char *algorithm)
{
	struct device d = { .threads = threads };
	char why[216] = "";
	int err;
	size_t len = (tz_stats_size(threads) + 4095) & ~(size_t)4095;

	d.stats = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(d.stats != MAP_FAILED && tz_stats_init(d.stats, len, threads) == 0, "stats");
	d.fd = memfd_create("test-arena", MFD_CLOEXEC);
	int second = dup(d.fd);		/* for fstat after the store has the first */
	struct tz_store_config c = {
		.disksize = pages * 4096, .mem_limit = limit, .algorithm = algorithm,
		.dictionary = dictionary_size ? dictionary : NULL,
		.dictionary_size = dictionary_size,
		.lock_arena = lock_arena, .nr_threads = threads, .arena_fd = d.fd, .stats = d.stats,
	};
	d.store = tz_store_create(&c, &err, why, sizeof why);
	CHECK(d.store, "create: %d %s", err, why);
	d.fd = second;
	d.fresh = arena_bytes(d.stats);
	return d;
}

/* Ends it, and checks the arena it leaves; how many problems that has. */
static inline uint64_t end_damaged_device(struct device *d, struct tz_check_problem *first)
{
	struct tz_check c = { .problems = first, .room = 1 };
	char why[216];

	tz_store_destroy(d->store);
	CHECK(tz_check_arena(d->fd, &c, why, sizeof why) == 0, "%s", why);
	close(d->fd);
	return c.nr_problems;
}

/* Whatever a test did, the arena that it leaves is sound. */
static inline void end_device(struct device *d)
{
	struct tz_check_problem first;
	uint64_t n = end_damaged_device(d, &first);

	CHECK(n == 0, "%llu problems in the arena, the first: page %llu: %s",
		(unsigned long long)n, (unsigned long long)first.page, first.what);
}

static inline uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A page that its stamp determines: (page, writer, sequence) in the first 16 bytes, then one of
 * five textures. */
static inline void make_page(uint8_t *out, uint64_t page, uint32_t writer, uint32_t sequence)
{
	uint64_t state = (page + 1) * 0x9e3779b97f4a7c15ull ^ ((uint64_t)writer << 40) ^ sequence,
		*words = (uint64_t *)out;
	unsigned texture = (unsigned)(next(&state) % 5);

	words[0] = 0;

	for (unsigned i = 0; i < 512; i++) {
		uint64_t r = next(&state);
		words[i] = texture == 0 ? r
			: texture == 1 ? (r & 0xff)
			: texture == 2 ? 0x7f0000000000ull + (r & 0xfff8)
			: texture == 3 ? (i % 64 < 48 ? 0 : r)
			: words[i ? (i - 1) / 2 : 0] + (r % 16 == 0);
	}
	memcpy(out, &page, 8);
	memcpy(out + 8, &writer, 4);
	memcpy(out + 12, &sequence, 4);
}

/* Of a page's versions, numbers are make_page's sequences; 0: zeros; from WORDS on: filled with one
 * of three words, the last of which takes an object. */
#define WORDS 0x80000000u
static inline void make_version(uint8_t *out, uint64_t page, uint32_t version)
{
	static const uint64_t words[] =
		{ 0x4141414141414141ull, 0x00007fffdeadbeefull, 0x8123456789abcdefull };

	if (!version)
		memset(out, 0, 4096);
	else if (version >= WORDS)
		tz_fill(out, words[version - WORDS]);
	else
		make_page(out, page, 0, version);
}

/* A whole page of this number, or zeros (sequence 0). */
static inline uint32_t check_page(const uint8_t *in, uint64_t page, uint32_t *writer)
{
	static const uint8_t zeros[4096];
	uint8_t expected[4096] __attribute__((aligned(8)));
	uint64_t stamped;
	uint32_t sequence;

	*writer = 0;
	if (!memcmp(in, zeros, 4096))
		return 0;
	memcpy(&stamped, in, 8);
	memcpy(writer, in + 8, 4);
	memcpy(&sequence, in + 12, 4);
	CHECK(stamped == page, "page %llu holds page %llu", (unsigned long long)page,
		(unsigned long long)stamped);
	make_page(expected, page, *writer, sequence);
	CHECK(!memcmp(in, expected, 4096), "page %llu is a mixture", (unsigned long long)page);
	return sequence;
}

static inline int write_waiting(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	struct timespec pause = { 0, 100000 };
	int rc;

	while ((rc = tz_store_write(t, page, data)) == -EAGAIN) {
		tz_store_end(t);
		nanosleep(&pause, NULL);
		tz_store_begin(t);
	}
	return rc;
}

static inline const struct tz_arena_head *head_of(const struct device *d)
{
	return (const void *)tz_store_arena(d->store).from;
}

/* The directory's entry for the part of the page table that a page's entry is in, and that entry;
 * NULL: it has none. */
static inline uint64_t *directory_of(const struct device *d, uint64_t page)
{
	return (uint64_t *)((uintptr_t)head_of(d) + head_of(d)->directory_offset) +
		page / TZ_TABLE_ENTRIES;
}

static inline uint64_t *entry_of(const struct device *d, uint64_t page)
{
	uint64_t offset = tz_entry_offset(__atomic_load_n(directory_of(d, page), __ATOMIC_ACQUIRE));

	return offset ? (uint64_t *)((uintptr_t)head_of(d) + offset) + page % TZ_TABLE_ENTRIES
		: NULL;
}

/* The segment that a page's object is in. */
static inline uint64_t segment_of(const struct device *d, uint64_t page)
{
	uint64_t entry = __atomic_load_n(entry_of(d, page), __ATOMIC_RELAXED);

	return (tz_entry_offset(entry) - head_of(d)->segment_offset) / TZ_SEGMENT_SIZE;
}

/* A flipped bit: damage, behind the store's back. */
static inline uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void put_word(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void flip(uint64_t *word, unsigned bit)
{
	__atomic_fetch_xor(word, 1ull << bit, __ATOMIC_RELAXED);
}

/* Waits until `condition` holds, looking every ms, for ten minutes at most: long enough for any
 * machine, however busy, and no test depends on it. */
#define WAIT_FOR(condition, ...) \
	do { \
		struct timespec a_ms = { 0, 1000000 }; \
		unsigned left = 600000; \
		while (!(condition) && --left) \
			nanosleep(&a_ms, NULL); \
		CHECK(left, __VA_ARGS__); \
	} while (0)

/* The sums over all queues, read when no queue is counting: on a busy machine that may take a
 * while. */
static inline struct tz_stats_sum sum_of(const struct tz_stats *stats)
{
	struct tz_stats_sum sum;
	const char *why;

	WAIT_FOR(tz_stats_read(stats, stats->size, &sum, &why) == 0, "%s", why);
	return sum;
}

/* What the store counts agrees with the model (pages stored, of which same-filled) and with the
 * kernel, once it comes to rest. */
static inline void check_accounting(const struct device *d, uint64_t stored, uint64_t same)
{
	struct tz_stats_sum sum = sum_of(d->stats);
	struct stat st;

	CHECK((uint64_t)sum.total.pages_now == stored,
		"%lld pages, model has %llu", (long long)sum.total.pages_now,
		(unsigned long long)stored);
	uint64_t s = (uint64_t)(sum.total.kind_pages_now[1] + sum.total.kind_pages_now[2] +
		sum.total.kind_pages_now[3]);
	CHECK(s == same, "%llu same-filled, model has %llu", (unsigned long long)s,
		(unsigned long long)same);
	/* The store's threads may be moving segments at this instant: what must hold is that it
	 * comes to rest in agreement. */
	uint64_t objects, kernel, ours;
	int parts, same_as_kernel;
	for (unsigned tries = 0; tries < 60000; tries++) {
		struct timespec pause = { 0, 10000000 };
		objects = 0;
		/* What compaction was reading when it was freed, a thread frees in its next
		 * turn. */
		for (unsigned i = 0; i < d->threads; i++) {
			tz_store_begin(tz_store_thread(d->store, i));
			tz_store_end(tz_store_thread(d->store, i));
		}
		sum = sum_of(d->stats);
		for (unsigned kind = TZ_KIND_SAME_U64; kind < TZ_KINDS_STORED; kind++)
			objects += (uint64_t)sum.total.kind_pages_now[kind];
		fstat(d->fd, &st);
		kernel = (uint64_t)st.st_blocks * 512;
		ours = sum.head.mem_used_total;
		parts = ours == sum.head.table_bytes + sum.head.reserve_bytes +
			sum.head.segment_bytes + sum.head.overhead_bytes &&
			sum.head.segment_bytes >= (uint64_t)sum.total.object_bytes_now;
		ours -= sum.head.overhead_bytes;
		same_as_kernel = kernel <= ours + ours / 50 && ours <= kernel + kernel / 50;
		if (parts && same_as_kernel &&
		    objects == stored - same + (uint64_t)sum.total.kind_pages_now[TZ_KIND_SAME_U64])
			break;
		nanosleep(&pause, NULL);
	}
	CHECK(objects == stored - same + (uint64_t)sum.total.kind_pages_now[TZ_KIND_SAME_U64],
		"%llu objects; %llu pages stored, %llu same-filled, %lld of them with an object",
		(unsigned long long)objects, (unsigned long long)stored, (unsigned long long)same,
		(long long)sum.total.kind_pages_now[TZ_KIND_SAME_U64]);
	CHECK(parts, "used is not the sum of its parts");
	CHECK(same_as_kernel, "kernel says %llu, we say %llu", (unsigned long long)kernel,
		(unsigned long long)ours);
}

/* Until the reserve's thread has no reason to add to it. (It starts below three quarters.) */
static inline void wait_for_reserve(const struct device *d)
{
	WAIT_FOR(NOW(d->stats->reserve_bytes) >= NOW(d->stats->reserve_target) / 4 * 3,
		"no reserve");
}

/* An emulator may ignore MADV_POPULATE_WRITE. What is populated then, the file does not say. */
static inline int populates(void)
{
	struct device d = make_device(4096, 1, 0, "lz4");
	off_t end = (off_t)(head_of(&d)->segment_offset + TZ_SEGMENT_SIZE);
	int whole = lseek(d.fd, end - TZ_PAGE_SIZE, SEEK_DATA) == end - TZ_PAGE_SIZE;

	end_device(&d);
	return whole;
}

#endif
