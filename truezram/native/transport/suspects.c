/* suspects.c - requests that the server may have died of (rules: suspects.h).
 *
 * Entries of the table are made while there are no queue threads, and removed by those: each is
 * removed by one exchange, so it is counted once.
 */
#include "suspects.h"
#include "ublk.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const doing[] = {
	[UBLK_IO_OP_READ] = "reading",
	[UBLK_IO_OP_WRITE] = "writing",
	[UBLK_IO_OP_DISCARD] = "discarding",
	[UBLK_IO_OP_WRITE_ZEROES] = "zeroing",
};
#define OPERATIONS (sizeof doing / sizeof *doing)

static unsigned op_of(uint64_t request)
{
	return (unsigned)(request & 0xff) - 1;
}

static uint64_t page_of(uint64_t request)
{
	return request >> 8;
}

/* Whatever a dying server has left there. */
static int is_request(uint64_t word, uint64_t nr_pages)
{
	return op_of(word) < OPERATIONS && doing[op_of(word)] && page_of(word) < nr_pages;
}

static int is_refused(const struct tz_suspect *e)
{
	return e->deaths >= TZ_SUSPECT_DEATHS;
}

/* ---- taking over ---- */

static void set(struct tz_suspect *e, uint64_t request, uint64_t deaths, uint64_t now)
{
	TZ_STATS_SET(e->request, request);
	TZ_STATS_SET(e->deaths, deaths);
	TZ_STATS_SET(e->last_ns, now);
}

static int is_less(const struct tz_suspect *a, const struct tz_suspect *b)
{
	return a->deaths != b->deaths ? a->deaths < b->deaths : a->last_ns < b->last_ns;
}

/* The entry of a request; if it has none, NULL. */
static struct tz_suspect *find(struct tz_suspect *table, uint64_t request)
{
	for (unsigned i = 0; i < TZ_SUSPECTS; i++)
		if (table[i].request == request)
			return &table[i];
	return NULL;
}

/* An entry that is empty, or else the one that has killed least often. */
static struct tz_suspect *least(struct tz_suspect *table)
{
	struct tz_suspect *e = table;

	for (unsigned i = 1; i < TZ_SUSPECTS; i++)
		if (is_less(&table[i], e))
			e = &table[i];
	return e;
}

/* Those that are in the table first: none of them is to make room for another. What was being
 * served at one death has room. */
static void accuse(struct tz_suspect *table, uint64_t *requests, unsigned n, uint64_t now)
{
	for (unsigned i = 0; i < n; i++) {
		struct tz_suspect *e = find(table, requests[i]);
		if (e) {
			set(e, requests[i], e->deaths + 1, now);
			requests[i] = 0;
		}
	}
	for (unsigned i = 0; i < n; i++)
		if (requests[i])
			set(least(table), requests[i], 1, now);
}

/* Takes the queues' notes, each of them once: a server that dies here has accused nobody twice. */
static unsigned take_notes(struct tz_stats *stats, uint64_t nr_pages, uint64_t *notes)
{
	unsigned n = 0;

	for (unsigned i = 0; i < stats->nr_queues; i++) {
		uint64_t word = __atomic_exchange_n(
			&tz_stats_queue(stats, i)->serving, 0, __ATOMIC_RELAXED);
		unsigned k = 0;
		while (k < n && notes[k] != word)
			k++;
		if (k == n && is_request(word, nr_pages))
			notes[n++] = word;
	}
	return n;
}

void tz_suspects_take_over(struct tz_suspects *s, struct tz_stats *stats, uint64_t nr_pages,
	uint64_t now)
{
	uint64_t notes[TZ_MAX_QUEUES];
	unsigned n = take_notes(stats, nr_pages, notes), left = 0;

	s->table = stats->suspects;
	s->since = now;
	for (unsigned i = 0; i < TZ_SUSPECTS; i++) {
		struct tz_suspect *e = &s->table[i];
		if (!is_request(e->request, nr_pages) ||
			(is_refused(e) && now - e->last_ns > TZ_SUSPECT_NS))
			set(e, 0, 0, 0);
	}
	accuse(s->table, notes, n, now);
	for (unsigned i = 0; i < TZ_SUSPECTS; i++)
		left += s->table[i].request != 0;
	atomic_store(&s->left, left);
}

int tz_suspects_report(const struct tz_suspects *s, unsigned *next, char *text, size_t size)
{
	while (*next < TZ_SUSPECTS) {
		const struct tz_suspect *e = &s->table[(*next)++];
		if (!e->request || !is_refused(e) || e->last_ns != s->since)
			continue;
		snprintf(text, size, "%s page %" PRIu64 " has killed the server %" PRIu64
			" times: it fails with EIO now", doing[op_of(e->request)],
			page_of(e->request), e->deaths);
		return 1;
	}
	return 0;
}

/* ---- on queue threads ---- */

/* 1: it was this thread that removed it. */
static int acquit(struct tz_suspects *s, struct tz_suspect *e)
{
	if (!__atomic_exchange_n(&e->request, 0, __ATOMIC_RELAXED))
		return 0;
	atomic_fetch_sub(&s->left, 1);
	return 1;
}

static int is_among(uint64_t request, uint64_t page, uint64_t nr_pages)
{
	return page_of(request) - page < nr_pages;
}

int tz_suspects_refuse(struct tz_suspects *s, unsigned op, uint64_t page, uint64_t nr_pages,
	uint64_t now)
{
	int refused = 0;

	for (unsigned i = 0; i < TZ_SUSPECTS; i++) {
		struct tz_suspect *e = &s->table[i];
		uint64_t request = __atomic_load_n(&e->request, __ATOMIC_RELAXED);
		if (!request)
			continue;
		if (!is_refused(e)) {
			if (now - s->since > TZ_SUSPECT_NS)
				acquit(s, e);
		} else if (op_of(request) == op && is_among(request, page, nr_pages)) {
			refused |= op == UBLK_IO_OP_READ || acquit(s, e);
		}
	}
	return refused;
}

void tz_suspects_complete(struct tz_suspects *s, unsigned op, uint64_t page, uint64_t nr_pages,
	uint64_t done)
{
	for (unsigned i = 0; i < TZ_SUSPECTS; i++) {
		struct tz_suspect *e = &s->table[i];
		uint64_t request = __atomic_load_n(&e->request, __ATOMIC_RELAXED);
		if (request && ((op_of(request) == op && !is_refused(e) &&
			is_among(request, page, nr_pages)) ||
			(op != UBLK_IO_OP_READ && is_among(request, page, done))))
			acquit(s, e);
	}
}
