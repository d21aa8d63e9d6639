/* spin.c - waiting awake (interface and rules: spin.h). */
#include "spin.h"
#include "clock.h"
#include "stats.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#define SPIN_FIRST_NS 10000u		/* the window grows from here, and falls from here to 0 */
#define SPIN_LOOK_NS 10000000u
#define SPIN_BUCKET_NS 5000000		/* what it holds at most */
#define SPIN_GAP_NS 150000u		/* between two looks at the clock: the CPU was another's */
#define SPIN_PAUSE_NS 100000000u	/* after such a loss, doubled with each that follows */
#define SPIN_PAUSE_MAX_NS 3200000000u
#define SPIN_ROUNDS 16u			/* between two looks at the clock */

static const struct tz_mode_row rows[TZ_MODES] = {
	[TZ_MODE_BALANCED] = { "balanced", 0, 0, 0, 128 },
	[TZ_MODE_LOW_LATENCY] = { "low-latency", SPIN_FIRST_NS, 200000, 50, 32 },
	[TZ_MODE_MAX_THROUGHPUT] = { "max-throughput", 1000000, 1000000, 100, 512 },
};

const struct tz_mode_row *tz_mode_row(uint32_t mode)
{
	return &rows[mode < TZ_MODES ? mode : TZ_MODE_BALANCED];
}

int tz_mode_parse(const char *text)
{
	for (int i = 0; i < TZ_MODES; i++)
		if (!strcmp(text, rows[i].name))
			return i;
	return -EINVAL;
}

/* ---- others ---- */

static void give_way(struct tz_spin *s, uint64_t now)
{
	s->pause = s->pause ? s->pause * 2 : SPIN_PAUSE_NS;
	if (s->pause > SPIN_PAUSE_MAX_NS)
		s->pause = SPIN_PAUSE_MAX_NS;
	s->paused_until = now + s->pause;
}

/* Whether this thread may spin as far as others are concerned. */
static int look(struct tz_spin *s, uint64_t now)
{
	struct rusage usage;
	cpu_set_t cpus;
	/* What it lost before it spun for the first time, or while it paused, says nothing:
	 * a thread that works loses its CPU now and then, and would pause for ever. */
	int spun = s->looked_at && s->looked_at >= s->paused_until;

	s->looked_at = now;
	if (sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) < 2) {
		s->paused_until = now + SPIN_PAUSE_NS;
		return 0;
	}
	if (getrusage(RUSAGE_THREAD, &usage) < 0)
		return 1;
	long lost = usage.ru_nivcsw - s->preempted;
	s->preempted = usage.ru_nivcsw;
	if (spun && lost > 0)
		give_way(s, now);
	else if (spun)
		s->pause /= 2;
	return now >= s->paused_until;
}

/* ---- for how long ---- */

static void fill_bucket(struct tz_spin *s, const struct tz_mode_row *row, uint64_t now)
{
	uint64_t passed = now - s->filled_at;

	if (passed > SPIN_BUCKET_NS * 100ull)
		passed = SPIN_BUCKET_NS * 100ull;
	s->filled_at = now;
	s->credit += (int64_t)(passed * row->share / 100);
	if (s->credit > SPIN_BUCKET_NS)
		s->credit = SPIN_BUCKET_NS;
}

uint64_t tz_spin_window(struct tz_spin *s, uint64_t now)
{
	uint32_t mode = atomic_load_explicit(&s->mode, memory_order_relaxed);
	const struct tz_mode_row *row = tz_mode_row(mode);

	if (mode != s->learnt_in) {
		s->learnt_in = mode;
		s->window = row->window;
	}
	if (!s->window || now < s->paused_until)
		return 0;
	if ((int64_t)(now - s->looked_at) >= (int64_t)SPIN_LOOK_NS && !look(s, now))
		return 0;
	if (row->share >= 100)
		return s->window;
	fill_bucket(s, row, now);
	if (s->credit <= 0)
		return 0;
	return (uint64_t)s->credit < s->window ? (uint64_t)s->credit : s->window;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");	/* some 10 ns, as pause; yield is nothing there */
#endif
}

int tz_spin(struct tz_spin *s, uint64_t window, int (*come)(const void *arg), const void *arg,
	uint64_t *spent)
{
	uint64_t start = tz_now_ns(), last = start, now = start;
	int came = come(arg);

	while (!came && now - start < window && now - last < SPIN_GAP_NS) {
		for (unsigned i = 0; i < SPIN_ROUNDS && !(came = come(arg)); i++)
			relax();
		last = now;
		now = tz_now_ns();
	}
	if (now - last >= SPIN_GAP_NS)
		give_way(s, now);
	*spent = now - start;
	s->credit -= (int64_t)*spent;
	return came;
}

void tz_spin_slept(struct tz_spin *s, uint64_t ns)
{
	const struct tz_mode_row *row = tz_mode_row(s->learnt_in);

	if (!tz_spin_learns(s))
		return;
	if (ns > row->window_max)
		s->window = s->window > SPIN_FIRST_NS ? s->window / 2 : 0;
	else
		s->window = !s->window ? SPIN_FIRST_NS : s->window * 2 < row->window_max
			? s->window * 2 : row->window_max;
}
