/* test_hold.c - a queue that holds requests back, so that its server can end (queue.h).
 *
 * The queue's thread is a loop of rounds; what comes is put into a list by the test, which plays
 * clients that send a request when they have an answer, and such as do not wait for one.
 */
#include "device.h"
#include "queue.h"

#include <errno.h>
#include <string.h>

#define DEPTH 8u
#define PAGES 64u

static struct device d;
static struct tz_queue queue;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { unsigned tag, page; } waiting[DEPTH];	/* for `take` */
static unsigned nr_waiting;
static _Atomic unsigned sent, answers[DEPTH], floods;
static _Atomic int stop;

static void send_request(unsigned tag, unsigned page)
{
	pthread_mutex_lock(&lock);
	CHECK(nr_waiting < DEPTH, "too many");
	sent++;
	waiting[nr_waiting].tag = tag;
	waiting[nr_waiting++].page = page;
	pthread_mutex_unlock(&lock);
}

/* ---- the transport ---- */

static unsigned take(struct tz_queue *q, uint16_t *tags, unsigned most)
{
	unsigned n;

	pthread_mutex_lock(&lock);
	for (n = 0; n < most && nr_waiting; n++) {
		unsigned tag = waiting[--nr_waiting].tag;
		q->ios[tag].op = UBLK_IO_OP_READ;
		q->ios[tag].page = waiting[nr_waiting].page;
		q->ios[tag].nr_pages = 1;
		tags[n] = (uint16_t)tag;
	}
	pthread_mutex_unlock(&lock);
	return n;
}

static uint8_t *bring(struct tz_queue *q, unsigned tag)
{
	(void)tag;
	return q->data;
}

static int hand_over(struct tz_queue *q, unsigned tag, const uint8_t *data, uint32_t first,
	uint32_t n)
{
	(void)q, (void)tag, (void)data, (void)first, (void)n;
	return 0;
}

/* A client of a tag below `floods` has its next request ready. */
static void answer(struct tz_queue *q, unsigned tag, int result)
{
	(void)q;
	CHECK(result == 0, "tag %u: %d", tag, result);
	if (tag < atomic_load(&floods))
		send_request(tag, tag);
	answers[tag]++;
}

static const struct tz_queue_ops ops =
	{ .take = take, .bring = bring, .hand_over = hand_over, .answer = answer };

static void run(struct tz_queue *q)
{
	q->ops = &ops;
	tz_queue_serving(q);
	while (!atomic_load(&stop)) {
		uint64_t sleep = tz_queue_may_sleep(q);
		if (sleep)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
		tz_queue_round(q);
	}
}

static unsigned answered(void)
{
	unsigned sum = 0;

	for (unsigned tag = 0; tag < DEPTH; tag++)
		sum += atomic_load(&answers[tag]);
	return sum;
}

/* ---- the clients ---- */

static void test_nobody(void)
{
	CHECK(tz_queues_hold(&queue, 1) == 0, "an idle queue does not hold");
	tz_queues_release(&queue, 1);
}

/* Who waits for an answer before sending more: soon none comes, and none is served; afterwards all
 * go on. */
static void test_who_wait(void)
{
	unsigned before;

	atomic_store(&floods, DEPTH / 2);
	for (unsigned tag = 0; tag < DEPTH / 2; tag++)
		send_request(tag, tag);
	WAIT_FOR(answered() > 1000, "nothing is served");
	CHECK(tz_queues_hold(&queue, 1) == 0, "clients that wait do not stop");
	before = answered();
	CHECK(atomic_load(&sent) - before == DEPTH / 2, "%u requests are held",
		atomic_load(&sent) - before);
	send_request(DEPTH - 1, 0);
	WAIT_FOR(atomic_load(&queue.came) == before + DEPTH / 2 + 1, "it is not taken");
	CHECK(answered() == before, "served while it holds");
	tz_queues_release(&queue, 1);
	WAIT_FOR(answered() > before + 1000 && answers[DEPTH - 1] == 1, "it does not go on");
	atomic_store(&floods, 0);
	WAIT_FOR(answered() == atomic_load(&sent), "held for ever");
}

/* With all of its requests in hand it serves: there is no end of them. (But on a busy machine its
 * thread may have no CPU for as long as it takes to be still.) */
static void test_too_many(void)
{
	unsigned before, tries = 0;
	int rc;

	atomic_store(&floods, DEPTH);
	for (unsigned tag = 0; tag < DEPTH; tag++)
		send_request(tag, tag);
	while ((rc = tz_queues_hold(&queue, 1)) == 0 && ++tries < 1000)
		tz_queues_release(&queue, 1);
	CHECK(rc == -EBUSY, "it holds all there is");
	before = answered();
	WAIT_FOR(answered() > before + 1000, "it does not go on");
	atomic_store(&floods, 0);
	WAIT_FOR(answered() == atomic_load(&sent), "held for ever");
}

int main(void)
{
	char why[216] = "";

	d = make_device(PAGES, 1, 0, "lz4");
	queue = (struct tz_queue){ .depth = DEPTH, .nr_pages = PAGES, .max_pages = 1,
		.store = tz_store_thread(d.store, 0), .end_fd = -1 };
	queue.stats = tz_store_thread_stats(queue.store);
	CHECK(tz_queue_start(&queue, run, why, sizeof why) == 0, "%s", why);
	test_nobody();
	test_who_wait();
	test_too_many();
	atomic_store(&stop, 1);
	tz_queue_join(&queue);
	end_device(&d);
	puts("hold: all right");
	return 0;
}
