/* spin.h - a queue that has served its requests and expects more waits awake for a while, instead
 * of being put to sleep and woken: a round trip then costs no switch of context.
 *
 * How long depends on the device's mode. In low-latency it is learnt as the kernel's KVM learns how
 * long to poll for a halted guest: a sleep that turns out short makes it longer, a long one
 * shorter, down to nothing. A bucket of time, filled with a share of a core, bounds it. In
 * max-throughput it is a fixed time, without a bound. In either mode a queue that waits longer than
 * that sleeps: a device at rest costs nothing.
 *
 * It stops by itself where it takes a CPU from others: with one CPU to run on, and for a while
 * after the thread has lost its CPU to another.
 *
 * All times in nanoseconds. No system call is made while it spins but every SPIN_LOOK_NS.
 */
#ifndef TZ_SPIN_H
#define TZ_SPIN_H

#include <stdatomic.h>
#include <stdint.h>

/* What a mode means for a queue. */
struct tz_mode_row {
	const char *name;
	uint32_t window, window_max;	/* for how long it spins: from the start, and at most. The
					 * same: always that long. 0: never */
	unsigned share;			/* per cent of a core that spinning may take */
	unsigned flush_pages;		/* so many pages are served before their answers go out */
};

struct tz_spin {
	_Atomic uint32_t mode;		/* enum tz_mode, may be changed at any time */
	uint32_t learnt_in;		/* the mode that `window` is of */
	uint32_t window;		/* for how long it spins now */
	int64_t credit;			/* what is in the bucket */
	uint64_t filled_at;
	uint64_t looked_at;		/* when it was last asked who else wants the CPU */
	long preempted;			/* how often this thread had lost its CPU by then */
	uint64_t paused_until, pause;
};

/* Of 0 ... TZ_MODES - 1 (stats.h); what is none is balanced. */
const struct tz_mode_row *tz_mode_row(uint32_t mode);
/* enum tz_mode of a name, or -EINVAL. */
int tz_mode_parse(const char *text);

/* For how long to spin now, 0: not at all. */
uint64_t tz_spin_window(struct tz_spin *s, uint64_t now);
/* Spins until `come` says so or the time is up. Returns what it said last; `spent`: for how
 * long. */
int tz_spin(struct tz_spin *s, uint64_t window, int (*come)(const void *arg), const void *arg,
	uint64_t *spent);
/* Whether it wants to know how long it has slept, and that it has. */
static inline int tz_spin_learns(const struct tz_spin *s)
{
	const struct tz_mode_row *row = tz_mode_row(s->learnt_in);

	return row->window != row->window_max;
}
/* It has slept for so long. */
void tz_spin_slept(struct tz_spin *s, uint64_t ns);

#endif
