/* test_spin.c - for how long a queue waits awake (spin.c). Time is a number here; that a queue does
 * so: test_queue.c.
 */
#include "harness.h"
#include "spin.h"
#include "stats.h"

#include <sched.h>
#include <sys/resource.h>

#define MS 1000000ull		/* ns */

/* A sleep that was short makes the window longer, a long one shorter; and spinning has to stay
 * within its share of a core. */
static void test_spin_window(void)
{
	struct tz_spin s = { .mode = TZ_MODE_LOW_LATENCY };
	uint64_t now = 1000000 * MS, first, longest = 0;

	s.looked_at = s.filled_at = now;	/* so that it asks the kernel nothing */
	now += 9 * MS;
	first = tz_spin_window(&s, now);
	CHECK(first > 0, "it does not begin");
	for (unsigned i = 0; i < 10; i++)
		tz_spin_slept(&s, first);
	longest = tz_spin_window(&s, now);
	CHECK(longest == tz_mode_row(TZ_MODE_LOW_LATENCY)->window_max, "%llu",
		(unsigned long long)longest);
	for (unsigned i = 0; i < 10; i++)
		tz_spin_slept(&s, longest + 1);
	CHECK(tz_spin_window(&s, now) == 0, "it goes on at rest");
	tz_spin_slept(&s, longest);
	CHECK(tz_spin_window(&s, now) == first, "it does not begin again");

	s.credit = -1;
	CHECK(tz_spin_window(&s, now) == 0, "it spins beyond its share");
	s.looked_at = now += MS;
	CHECK(s.credit < 0 && tz_spin_window(&s, now) == first && s.credit == (int64_t)(MS / 2) - 1,
		"a share of %lld in a millisecond", (long long)s.credit);
	s.paused_until = now + 1;
	CHECK(tz_spin_window(&s, now) == 0, "it spins although it gives way");
	s.paused_until = 0;
	atomic_store(&s.mode, TZ_MODE_BALANCED);
	CHECK(tz_spin_window(&s, now) == 0, "balanced spins");
	atomic_store(&s.mode, TZ_MODE_MAX_THROUGHPUT);
	tz_spin_slept(&s, 1000 * MS);
	s.credit = -1;
	CHECK(tz_spin_window(&s, now) == MS, "%llu", (unsigned long long)tz_spin_window(&s, now));
	atomic_store(&s.mode, 77);
	CHECK(tz_spin_window(&s, now) == 0, "a mode that does not exist spins");
}

/* A thread that has lost its CPU while it spun gives way, for longer each time; one that has
 * lost it during such a pause spins again when that is over. */
static void test_spin_gives_way(void)
{
	struct tz_spin s = { .mode = TZ_MODE_MAX_THROUGHPUT };
	uint64_t now = 1000000 * MS;
	struct rusage usage;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < 2)
		return;			/* there it never spins */
	CHECK(tz_spin_window(&s, now) == MS, "it does not begin");
	for (uint64_t pause = 100 * MS; pause <= 400 * MS; pause *= 2) {
		CHECK(getrusage(RUSAGE_THREAD, &usage) == 0, "getrusage");
		s.preempted = usage.ru_nivcsw - 1;
		now += 10 * MS;
		CHECK(tz_spin_window(&s, now) == 0 && s.paused_until == now + pause, "%llu ns",
			(unsigned long long)(s.paused_until - now));
		s.preempted = -1;
		now = s.paused_until;
		CHECK(tz_spin_window(&s, now) == MS, "it pauses for ever");
	}
}

int main(void)
{
	test_spin_window();
	test_spin_gives_way();
	puts("spin: all right");
	return 0;
}
