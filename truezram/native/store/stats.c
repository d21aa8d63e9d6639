/* stats.c - the statistics page: laid out by the server, read by everyone else (layout and rules:
 * stats.h).
 *
 * Readers share the page with threads that write it all the time, so they copy word by word with
 * atomic loads (no torn 64-bit value, nothing undefined) and accept a copy only between two equal
 * even values of the sequence counter. The page comes from a file that anything may have written:
 * every number used as an index or a length is taken from one copy and checked against the mapping
 * before it is used.
 */
#include "stats.h"

#include <stdint.h>
#include <string.h>
#include <time.h>

#define WORDS(type) (sizeof(type) / sizeof(uint64_t))
#define WORD_OF(type, member) (offsetof(type, member) / sizeof(uint64_t))
#define SPIN_TRIES 64		/* a writer that runs is done within a few */
#define SLEEP_TRIES 200		/* a writer that lost its CPU needs the scheduler: 200 * 50 us */

_Static_assert(sizeof(struct tz_stats) % 8 == 0, "copied by 8-byte words");
_Static_assert(sizeof(struct tz_queue_stats) % 64 == 0, "queues do not share cache lines");
_Static_assert(offsetof(struct tz_stats, seq) % 8 == 0, "seq is a word");
_Static_assert(offsetof(struct tz_stats, algorithm) % 8 == 0 &&
	offsetof(struct tz_stats, slot_tracking_text) % 8 == 0 &&
	offsetof(struct tz_stats, backing_path) % 8 == 0 &&
	offsetof(struct tz_stats, backing_text) % 8 == 0 &&
	offsetof(struct tz_stats, last_error) % 8 == 0,
	"text is stored by words");
_Static_assert((int)TZ_KINDS_STORED <= TZ_KINDS_COUNTED, "each kind has its place");
_Static_assert(offsetof(struct tz_queue_stats, seq) == 0, "the counters follow seq");
_Static_assert(offsetof(struct tz_queue_stats, cpu) % 8 == 0,
	"everything before cpu is 64-bit values");

size_t tz_stats_size(unsigned nr_queues)
{
	return tz_round64(sizeof(struct tz_stats)) +
		(size_t)(nr_queues + TZ_STATS_HELPERS) * tz_round64(sizeof(struct tz_queue_stats));
}

int tz_stats_init(struct tz_stats *s, size_t len, unsigned nr_queues)
{
	if (!nr_queues || nr_queues > TZ_MAX_QUEUES || len < tz_stats_size(nr_queues) ||
	    ((uintptr_t)s & 63))
		return -1;
	memset(s, 0, tz_stats_size(nr_queues));
	s->version = TZ_STATS_VERSION;
	s->size = (uint32_t)tz_stats_size(nr_queues);
	s->queue_offset = (uint32_t)tz_round64(sizeof(struct tz_stats));
	s->queue_stride = (uint32_t)tz_round64(sizeof(struct tz_queue_stats));
	s->nr_queues = nr_queues;
	for (unsigned i = 0; i < nr_queues + TZ_STATS_HELPERS; i++)
		tz_stats_queue(s, i)->cpu = UINT32_MAX;
	/* Last: until the magic is there, a reader takes the file for something else. */
	__atomic_store_n(&s->magic, TZ_STATS_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

void tz_stats_take_over(struct tz_stats *s)
{
	uint64_t *now[] = { &s->mem_used_total, &s->table_bytes, &s->segment_bytes,
		&s->reserve_bytes, &s->overhead_bytes, &s->reserve_target, &s->compact_done,
		&s->compact_permille, &s->ages_counted_ns, &s->ages_counted,
		&s->recompress_started, &s->recompress_done, &s->recompress_stopped,
		&s->recompress_permille, &s->pressure, &s->backing_state, &s->backing_used };

	if (__atomic_load_n(&s->seq, __ATOMIC_RELAXED) & 1)
		tz_stats_end(&s->seq);
	for (unsigned i = 0; i < sizeof now / sizeof *now; i++)
		__atomic_store_n(now[i], 0, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < s->nr_queues + TZ_STATS_HELPERS; i++) {
		struct tz_queue_stats *q = tz_stats_queue(s, i);
		uint64_t *words = (uint64_t *)q;
		if (!(__atomic_load_n(&q->seq, __ATOMIC_RELAXED) & 1))
			tz_stats_begin(&q->seq);
		for (size_t w = WORD_OF(struct tz_queue_stats, pages_now);
			w < WORD_OF(struct tz_queue_stats, read_lat); w++)
			__atomic_store_n(&words[w], 0, __ATOMIC_RELEASE);
		tz_stats_end(&q->seq);
	}
}

/* ---- writing the head ---- */

int tz_stats_head_try(struct tz_stats *s)
{
	uint64_t seq = __atomic_load_n(&s->seq, __ATOMIC_RELAXED);

	return !(seq & 1) && __atomic_compare_exchange_n(&s->seq, &seq, seq + 1, 0,
		__ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void tz_stats_head_begin(struct tz_stats *s)
{
	while (!tz_stats_head_try(s))
		nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

void tz_stats_head_end(struct tz_stats *s)
{
	tz_stats_end(&s->seq);
}

void tz_stats_set_text(char *field, size_t size, const char *text)
{
	size_t n = strnlen(text, size - 1);

	for (size_t at = 0; at < size; at += 8) {
		uint64_t word = 0;

		if (at < n)
			memcpy(&word, text + at, n - at < 8 ? n - at : 8);
		TZ_STATS_SET(*(uint64_t *)(void *)(field + at), word);
	}
}

int tz_stats_error(struct tz_stats *s, const char *text)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (!tz_stats_head_try(s))
		return 0;
	tz_stats_set_text(s->last_error, sizeof s->last_error, text);
	TZ_STATS_SET(s->last_error_ns, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	tz_stats_head_end(s);
	return 1;
}

/* ---- reading ---- */

static void copy_words(uint64_t *dst, const uint64_t *src, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		dst[i] = __atomic_load_n(&src[i], __ATOMIC_ACQUIRE);	/* what comes next is seq */
}

/* Copies words [0, words), of which seq_word is the sequence counter. 0, or -2 when it never was
 * the same even value before and after; dst then holds the last try. */
static int copy_under_seq(uint64_t *dst, const uint64_t *src, size_t words, size_t seq_word)
{
	for (unsigned try = 0; try < SPIN_TRIES + SLEEP_TRIES; try++) {
		uint64_t before = __atomic_load_n(&src[seq_word], __ATOMIC_ACQUIRE);

		copy_words(dst, src, 0, words);
		if (!(before & 1) && __atomic_load_n(&src[seq_word], __ATOMIC_RELAXED) == before)
			return 0;
		if (try >= SPIN_TRIES)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
	}
	return -2;
}

static int refuse(const char **why, const char *text)
{
	if (why)
		*why = text;
	return -1;
}

/* Copies the head and checks all that later indexing relies on. */
static int read_head(const void *map, size_t len, struct tz_stats *head, const char **why)
{
	if (len < sizeof(*head) || ((uintptr_t)map & 7))
		return refuse(why, "shorter than a statistics page");
	if (__atomic_load_n(&((const struct tz_stats *)map)->magic,
	    __ATOMIC_ACQUIRE) != TZ_STATS_MAGIC)
		return refuse(why, "not a statistics page (wrong magic)");

	int result = copy_under_seq((void *)head, map, WORDS(struct tz_stats),
		WORD_OF(struct tz_stats, seq));

	if (head->version != TZ_STATS_VERSION)
		return refuse(why, "a statistics page of another version of truezram");
	if (!head->nr_queues || head->nr_queues > TZ_MAX_QUEUES)
		return refuse(why, "damaged statistics page (number of queues)");
	if (head->queue_offset < sizeof(*head) ||
	    head->queue_stride < sizeof(struct tz_queue_stats) || head->queue_offset % 64 ||
	    head->queue_stride % 64)
		return refuse(why, "damaged statistics page (queue layout)");
	if (head->size > len ||
	    (uint64_t)head->queue_offset +
	    ((uint64_t)head->nr_queues + TZ_STATS_HELPERS) * head->queue_stride > head->size)
		return refuse(why, "statistics page cut short");
	head->name[sizeof(head->name) - 1] = 0;
	head->server_version[sizeof(head->server_version) - 1] = 0;
	head->algorithm[sizeof(head->algorithm) - 1] = 0;
	head->last_error[sizeof(head->last_error) - 1] = 0;
	head->slot_tracking_text[sizeof(head->slot_tracking_text) - 1] = 0;
	head->backing_path[sizeof(head->backing_path) - 1] = 0;
	head->backing_text[sizeof(head->backing_text) - 1] = 0;
	if (result)
		refuse(why, "the statistics page kept changing while it was read");
	return result;
}

static int copy_queue(const void *map, const struct tz_stats *head, unsigned queue,
	struct tz_queue_stats *out, const char **why)
{
	const uint64_t *src = (const void *)((const char *)map + head->queue_offset +
		(size_t)queue * head->queue_stride);
	size_t counters = WORD_OF(struct tz_queue_stats, read_lat);
	int result = copy_under_seq((void *)out, src, counters, 0);

	copy_words((void *)out, src, counters, WORDS(struct tz_queue_stats));
	if (result)
		refuse(why, "the statistics page kept changing while it was read");
	return result;
}

int tz_stats_read_queue(const void *map, size_t len, unsigned queue, struct tz_queue_stats *out,
	const char **why)
{
	struct tz_stats head;
	int result = read_head(map, len, &head, why);

	if (result == -1)
		return -1;
	if (queue >= head.nr_queues)
		return refuse(why, "no such queue");
	return copy_queue(map, &head, queue, out, why);
}

int tz_stats_read(const void *map, size_t len, struct tz_stats_sum *out, const char **why)
{
	memset(out, 0, sizeof(*out));
	int result = read_head(map, len, &out->head, why);

	if (result == -1)
		return -1;
	uint64_t *total = (void *)&out->total;

	for (unsigned i = 0; i < out->head.nr_queues + TZ_STATS_HELPERS; i++) {
		struct tz_queue_stats q;

		if (copy_queue(map, &out->head, i, &q, why))
			result = -2;
		/* Counters, gauges (two's complement) and histograms all add as 64-bit words. */
		for (size_t w = 1; w < WORD_OF(struct tz_queue_stats, cpu); w++)
			total[w] += ((const uint64_t *)(const void *)&q)[w];
	}
	out->total.cpu = UINT32_MAX;
	return result;
}
