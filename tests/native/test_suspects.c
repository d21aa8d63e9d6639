/* test_suspects.c - what is accused, acquitted and refused when servers die (rules: suspects.h).
 *
 * A server's life is played: it takes over, its queues note what they serve, and it is gone. Time
 * is a number.
 */
#include "harness.h"
#include "suspects.h"
#include "ublk.h"

#include <pthread.h>

#define QUEUES 4
#define PAGES 100000u
#define MINUTE TZ_SUSPECT_NS
#define READ UBLK_IO_OP_READ
#define WRITE UBLK_IO_OP_WRITE
#define DISCARD UBLK_IO_OP_DISCARD
#define FLUSH UBLK_IO_OP_FLUSH

static struct tz_stats *stats;
static struct tz_suspects server;	/* the one that lives */
static uint64_t now;

static void make_stats(unsigned queues)
{
	size_t size = (tz_stats_size(queues) + 63) & ~(size_t)63;

	free(stats);
	stats = aligned_alloc(64, size);
	CHECK(stats && tz_stats_init(stats, size, queues) == 0, "statistics page");
	now = 1000;
	server = (struct tz_suspects){ 0 };
}

/* The server is dead, and another takes over. */
static void take_over(void)
{
	server = (struct tz_suspects){ 0 };
	now += 1000000;
	tz_stats_take_over(stats);
	tz_suspects_take_over(&server, stats, PAGES, now);
	for (unsigned i = 0; i < stats->nr_queues; i++)
		CHECK(!tz_stats_queue(stats, i)->serving, "queue %u has a note", i);
}

static void serve(unsigned queue, unsigned op, uint64_t page)
{
	tz_suspect_note(tz_stats_queue(stats, queue), op, page);
}

static void die_of(unsigned op, uint64_t page)
{
	serve(0, op, page);
	take_over();
}

static int refuses(unsigned op, uint64_t page, uint64_t n)
{
	return tz_suspects_any(&server) && tz_suspects_refuse(&server, op, page, n, now);
}

/* A request that was served in full. */
static void complete(unsigned op, uint64_t page, uint64_t n)
{
	if (tz_suspects_any(&server))
		tz_suspects_complete(&server, op, page, n, n);
}

static unsigned left(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < TZ_SUSPECTS; i++)
		n += stats->suspects[i].request != 0;
	CHECK(n == server.left, "%u suspects, said to be %u", n, server.left);
	return n;
}

static unsigned reports(char *last, size_t size)
{
	unsigned next = 0, n = 0;

	while (tz_suspects_report(&server, &next, last, size))
		n++;
	return n;
}

static void test_three_deaths(void)
{
	char text[128] = "";

	make_stats(QUEUES);
	take_over();
	CHECK(left() == 0 && !tz_suspects_any(&server) && !tz_suspects_any(NULL), "at first");
	for (unsigned deaths = 1; deaths <= 3; deaths++) {
		CHECK(!refuses(READ, 77, 1), "refused after %u deaths", deaths - 1);
		CHECK(reports(text, sizeof text) == 0, "%s", text);
		die_of(READ, 77);
		CHECK(left() == 1, "%u", left());
	}
	CHECK(refuses(READ, 77, 1) && refuses(READ, 70, 8), "not refused");
	CHECK(!refuses(READ, 76, 1) && !refuses(READ, 78, 1) && !refuses(READ, 70, 7), "others");
	CHECK(!refuses(WRITE, 77, 1) && !refuses(DISCARD, 0, PAGES) && !refuses(FLUSH, 77, 1),
		"other operations");
	CHECK(reports(text, sizeof text) == 1 && !strcmp(text,
		"reading page 77 has killed the server 3 times: it fails with EIO now"),
		"\"%s\"", text);
}

static void refuse_read_of(uint64_t page)
{
	make_stats(QUEUES);
	for (unsigned deaths = 1; deaths <= 3; deaths++)
		die_of(READ, page);
	CHECK(refuses(READ, page, 1), "page %llu", (unsigned long long)page);
}

static void test_until_other_content(void)
{
	refuse_read_of(77);
	/* That it has failed is no reason to let it through the next time. */
	complete(READ, 77, 1);
	complete(READ, 60, 32);
	complete(FLUSH, 77, 0);
	CHECK(refuses(READ, 77, 1), "after it has failed");
	/* A write that came to page 76 and found no memory. */
	tz_suspects_complete(&server, WRITE, 70, 16, 7);
	CHECK(refuses(READ, 77, 1), "after a write of other pages");
	tz_suspects_complete(&server, WRITE, 70, 16, 8);
	CHECK(!refuses(READ, 77, 1) && left() == 0, "after it was written");
	refuse_read_of(77);
	complete(DISCARD, 0, 100);
	CHECK(!refuses(READ, 77, 1) && left() == 0, "after it was discarded");
}

static void test_a_write_fails_once(void)
{
	static const unsigned ops[] = { WRITE, DISCARD, UBLK_IO_OP_WRITE_ZEROES };

	for (unsigned i = 0; i < 3; i++) {
		make_stats(QUEUES);
		for (unsigned deaths = 1; deaths <= 3; deaths++)
			die_of(ops[i], 5);
		CHECK(!refuses(READ, 5, 1), "operation %u: a read", ops[i]);
		CHECK(refuses(ops[i], 5, 1), "operation %u", ops[i]);
		CHECK(!refuses(ops[i], 5, 1) && left() == 0, "operation %u: twice", ops[i]);
	}
}

/* What was served elsewhere when the server died is completed by the next. */
static void test_the_innocent(void)
{
	make_stats(QUEUES);
	for (unsigned deaths = 1; deaths <= 3; deaths++) {
		for (unsigned q = 1; q < QUEUES; q++)
			serve(q, READ, 1000 + q);
		serve(0, WRITE, 5);
		take_over();
		CHECK(left() == QUEUES, "%u", left());
		complete(READ, 1000, QUEUES);
		CHECK(left() == 1, "%u", left());
	}
	CHECK(!refuses(READ, 1000, QUEUES) && refuses(WRITE, 5, 1), "innocent");
	/* Two queues that serve the same page die of it once. */
	make_stats(QUEUES);
	for (unsigned deaths = 1; deaths <= 2; deaths++) {
		for (unsigned q = 0; q < QUEUES; q++)
			serve(q, READ, 9);
		take_over();
	}
	CHECK(left() == 1 && !refuses(READ, 9, 1), "counted for each queue");
}

/* Each comes to its third death, whichever is served first by the next server. */
static void test_two_that_kill(void)
{
	char text[128];

	make_stats(QUEUES);
	for (unsigned deaths = 1; deaths <= 5; deaths++)
		die_of(READ, deaths & 1 ? 3 : 4);
	CHECK(refuses(READ, 3, 1) && !refuses(READ, 4, 1) && reports(text, sizeof text) == 1, "3");
	die_of(READ, 4);
	CHECK(refuses(READ, 3, 1) && refuses(READ, 4, 1), "both");
	CHECK(reports(text, sizeof text) == 1 && strstr(text, "page 4 "), "%s", text);
}

/* No server has lived for a minute: that nobody served for a day in between does not matter. */
static void test_time(void)
{
	make_stats(QUEUES);
	die_of(READ, 3);
	now += 1440 * MINUTE;
	die_of(READ, 3);
	now += MINUTE / 2;
	CHECK(!refuses(READ, 99, 1) && left() == 1, "acquitted too early");
	die_of(READ, 3);
	CHECK(refuses(READ, 3, 1), "not refused");
	/* For as long as the server lives. */
	now += 60 * MINUTE;
	CHECK(refuses(READ, 3, 1), "not refused any more");
	/* The next one tries it again, unless it comes at once. */
	take_over();
	CHECK(!refuses(READ, 3, 1) && left() == 0, "for ever");
	refuse_read_of(3);
	now += MINUTE / 2;
	take_over();
	CHECK(refuses(READ, 3, 1), "forgotten at once");

	make_stats(QUEUES);
	die_of(READ, 3);
	die_of(READ, 3);
	now += MINUTE + 1;
	CHECK(!refuses(READ, 99, 1) && left() == 0, "it has lived for a minute with it");
	die_of(READ, 3);
	CHECK(left() == 1 && !refuses(READ, 3, 1), "begins anew");
}

/* Another one for each queue and each death, but for page 7, by one queue or another. */
static uint64_t page_in_crowd(unsigned queue, unsigned deaths)
{
	return queue == 63 - 20 * deaths ? 7 : 1000 * deaths + queue;
}

/* Whatever the queues were serving, there is room for it, and what has killed most often stays. */
static void test_a_full_table(void)
{
	make_stats(TZ_MAX_QUEUES);
	for (unsigned deaths = 1; deaths <= 3; deaths++) {
		for (unsigned q = 0; q < TZ_MAX_QUEUES; q++)
			serve(q, READ, page_in_crowd(q, deaths));
		take_over();
		CHECK(left() == TZ_SUSPECTS, "%u", left());
		for (unsigned q = 0; q < TZ_MAX_QUEUES; q++) {
			uint64_t wanted = page_in_crowd(q, deaths) << 8 | (READ + 1);
			unsigned i = 0;
			while (i < TZ_SUSPECTS && stats->suspects[i].request != wanted)
				i++;
			CHECK(i < TZ_SUSPECTS, "death %u: no page %llu", deaths,
				(unsigned long long)wanted >> 8);
		}
	}
	CHECK(refuses(READ, 7, 1), "crowded out");
}

static void test_scribbles(void)
{
	make_stats(QUEUES);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t *words = (uint64_t *)stats->suspects;
		for (unsigned w = 0; w < sizeof stats->suspects / 8; w++)
			words[w] = random64() >> random_below(64);
		for (unsigned q = 0; q < QUEUES; q++)
			tz_stats_queue(stats, q)->serving = random64() >> random_below(64);
		now = random64();
		take_over();
		for (unsigned k = 0; k < TZ_SUSPECTS; k++) {
			uint64_t request = stats->suspects[k].request;
			CHECK(request >> 8 < PAGES && (request & 0xff) <= 6, "%#llx",
				(unsigned long long)request);
		}
		left();
		complete(DISCARD, 0, PAGES);
		CHECK(left() == 0, "%u", left());
	}
}

/* Queues that acquit, refuse and overwrite at once: each suspect goes once, a write is refused
 * once. */
static _Atomic unsigned refused_writes;

static void *many(void *arg)
{
	uint64_t seed = (uintptr_t)arg;

	for (unsigned i = 0; i < 64; i++) {
		uint64_t page = (i + seed * 16) % 64;
		refused_writes += (unsigned)refuses(WRITE, page, 1);
		complete(page & 1 ? READ : DISCARD, page, 1);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[QUEUES];

	for (unsigned round = 0; round < 50; round++) {
		make_stats(TZ_MAX_QUEUES);
		for (unsigned deaths = 1; deaths <= 3; deaths++) {
			for (unsigned q = 0; q < TZ_MAX_QUEUES; q++)
				serve(q, q % 4 ? READ : WRITE, q);
			take_over();
		}
		refused_writes = 0;
		for (uintptr_t i = 0; i < QUEUES; i++)
			CHECK(!pthread_create(&threads[i], NULL, many, (void *)i), "thread");
		for (unsigned i = 0; i < QUEUES; i++)
			pthread_join(threads[i], NULL);
		/* Pages 0, 4 ... were written, all even ones discarded; the reads of odd ones stay
		 * refused. */
		CHECK(left() == 32 && refused_writes == 16, "%u left, %u", left(), refused_writes);
		CHECK(refuses(READ, 1, 1) && !refuses(READ, 2, 1), "refused");
	}
}

int main(void)
{
	static const struct { const char *name; void (*run)(void); } tests[] = {
		{ "three deaths", test_three_deaths },
		{ "until other content", test_until_other_content },
		{ "a write fails once", test_a_write_fails_once },
		{ "the innocent", test_the_innocent },
		{ "two that kill", test_two_that_kill },
		{ "time", test_time },
		{ "a full table", test_a_full_table },
		{ "scribbles", test_scribbles },
		{ "threads", test_threads },
	};

	for (unsigned i = 0; i < sizeof tests / sizeof tests[0]; i++) {
		tests[i].run();
		printf("%s: ok\n", tests[i].name);
		fflush(stdout);
	}
	return 0;
}
