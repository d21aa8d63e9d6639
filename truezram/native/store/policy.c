/* policy.c - what is done with idle pages without being asked for each time.
 *
 * A device's policy has three jobs (recompress.c): pages that have been idle for some time are
 * written once more with `dense`, those that have been so for longer are packed in groups, and for
 * longer still, to the backing file, if there is one; huge ones go there after two hours. The
 * housekeeper does a job whenever pages have become old enough for it, which is at the end of some
 * passes of the clock only (age.c): so what does not get smaller is tried once in a while, and not
 * every three minutes. What somebody asked for comes first.
 *
 * When memory is short (pressure.c), pages count as old enough earlier: for `dense` after one pass
 * of the clock, for groups after what is usual for `dense`, for the file after what is usual for
 * groups. What that costs stays the same, so it takes effect sooner, not harder. It is looked at
 * each ten seconds, but only while there are pages that it is about: a device at rest is left at
 * rest.
 *
 * The control thread prepares jobs and hands them over by one exchange; whoever finds that they
 * have been replaced before they were taken frees them. What a job takes, workspaces of codecs, it
 * prepares when there is something to do for it: the housekeeper, which does not ask for memory,
 * tells it so (wishes). So a device that nothing is done with does not take more memory for having
 * a policy.
 */
#include "cold.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define LOOK_NS (10 * SECOND)	/* at pressure */
#define EARLIEST_AGE 2u		/* one pass of the clock at least */

#define HUGE_IDLE_NS (7200 * SECOND)	/* nothing else can be done with them */

static const char *const algorithms[TZ_STANDING_JOBS] = { "dense", "cold", "backing" };

static uint64_t idle_ns(const struct tz_policy *policy, unsigned job)
{
	const uint32_t seconds[] = { policy->idle_dense, policy->idle_cold, policy->idle_backing };

	return seconds[job] * SECOND;
}

static uint64_t huge_ns(const struct tz_policy *policy)
{
	uint64_t idle = idle_ns(policy, TZ_STANDING_BACKING);

	return idle < HUGE_IDLE_NS ? idle : HUGE_IDLE_NS;
}

/* Whether it is to be done at all, as things are. */
static int is_on(const struct tz_store *s, unsigned job)
{
	unsigned state = atomic_load(&s->backing.state);

	return idle_ns(&s->policing.now->policy, job) &&
		(job != TZ_STANDING_BACKING || ((state == TZ_BACKING_READY ||
			state == TZ_BACKING_FULL) && !atomic_load(&s->backing.paused)));
}

static void free_standing(struct tz_standing *standing)
{
	for (unsigned i = 0; standing && i < TZ_STANDING_JOBS; i++)
		tz_recompression_free(standing->jobs[i]);
	free(standing);
}

/* ---- the housekeeper's turns ---- */

static void take_over(struct tz_store *s)
{
	struct tz_policing *p = &s->policing;
	struct tz_standing *next = atomic_exchange(&p->next, NULL);

	if (!next)
		return;
	/* (What its job has gathered for the backing file, and not begun to write.) */
	pthread_mutex_lock(&s->backing.lock);
	tz_backing_abandon(s);
	pthread_mutex_unlock(&s->backing.lock);
	free_standing(p->now);
	p->now = next;
	p->due = 0;
	p->fresh = 1;		/* what is old enough already */
}

/* Of that age, or an older one below `end`, as they were counted last. */
static int has_pages(const struct tz_store *s, unsigned age, unsigned end)
{
	for (; age < end; age++)
		if (s->aging.pages[age])
			return 1;
	return 0;
}

static unsigned usual_age(const struct tz_store *s, unsigned job)
{
	return tz_age_after(s, idle_ns(&s->policing.now->policy, job));
}

/* Under pressure. */
static unsigned early_age(const struct tz_store *s, unsigned job)
{
	unsigned usual = usual_age(s, job), early = EARLIEST_AGE;

	if (job != TZ_STANDING_DENSE)
		early = idle_ns(&s->policing.now->policy, job - 1) ? usual_age(s, job - 1)
								   : usual - 1;
	early = early < EARLIEST_AGE ? EARLIEST_AGE : early;
	return early < usual ? early : usual;
}

static unsigned age_now(const struct tz_store *s, unsigned job)
{
	return s->policing.pressure ? early_age(s, job) : usual_age(s, job);
}

/* The jobs for which the pass that has just ended has made pages old enough; of a new policy, those
 * that find any. */
static unsigned due(const struct tz_store *s)
{
	const struct tz_policing *p = &s->policing;
	unsigned top = tz_age_top(s->aging.pulse), jobs = 0;

	for (unsigned i = 0; i < TZ_STANDING_JOBS; i++) {
		unsigned age = age_now(s, i), first = age;
		if (i == TZ_STANDING_BACKING && age > tz_age_after(s, huge_ns(&p->now->policy)))
			first = tz_age_after(s, huge_ns(&p->now->policy));
		if (is_on(s, i) && (p->fresh || age <= top + 1 || first == top + 1) &&
			has_pages(s, first, TZ_AGES))
			jobs |= 1u << i;
	}
	return jobs;
}

/* Whether there is anything that pressure would make a difference for. */
static int gains(const struct tz_store *s)
{
	for (unsigned i = 0; i < TZ_STANDING_JOBS; i++)
		if (is_on(s, i) && has_pages(s, early_age(s, i), usual_age(s, i)))
			return 1;
	return 0;
}

static void look_at_ages(struct tz_store *s)
{
	struct tz_policing *p = &s->policing;

	if (s->aging.hand != TZ_HAND_RESTS || !s->stats->ages_counted_ns ||
		(!p->fresh && s->aging.pulse == p->pulse))
		return;
	p->due |= due(s);
	p->gains = gains(s);
	p->pulse = s->aging.pulse;
	p->fresh = 0;
}

/* So that the control thread has a look at it. */
static void tell(struct tz_policing *p)
{
	/* (Full, it is readable anyway.) */
	if (write(p->wish_fd, &(uint64_t){ 1 }, sizeof(uint64_t)) < 0)
		return;
}

void tz_policy_tell(struct tz_store *s)
{
	if (s->policing.wish_fd > 0)	/* else it is only being made, or attached */
		tell(&s->policing);
}

static void set_pressure(struct tz_store *s, enum tz_pressure pressure)
{
	struct tz_policing *p = &s->policing;

	if (pressure == p->pressure)
		return;
	if (!p->pressure)
		TZ_STATS_SET(s->stats->pressures, s->stats->pressures + 1);
	TZ_STATS_SET(s->stats->pressure, pressure);
	/* Jobs at work begin once more, with the ages that count from now on. */
	for (unsigned i = 0; i < TZ_STANDING_JOBS && !p->pressure != !pressure; i++)
		if (p->now && p->now->jobs[i])
			p->now->jobs[i]->begun = 0;
	p->fresh = 1;
	p->pressure = pressure;
	tell(p);
}

/* When the next look is due. */
static uint64_t look_at_pressure(struct tz_store *s, uint64_t now)
{
	struct tz_policing *p = &s->policing;

	if (!p->gains) {
		set_pressure(s, TZ_PRESSURE_NONE);
		return TZ_NO_TURN;
	}
	if (now >= atomic_load(&p->next_look)) {
		atomic_store(&p->next_look, now + LOOK_NS);
		set_pressure(s, tz_pressure_now(s, p->pressure));
	}
	return atomic_load(&p->next_look);
}

static void wish(struct tz_policing *p, unsigned job)
{
	atomic_fetch_or(&p->wishes, 1u << job);
	tell(p);
}

/* The jobs that are due, one after the other. When there is more to do. */
static uint64_t work(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_policing *p = &s->policing;

	while (p->due) {
		unsigned first = (unsigned)__builtin_ctz(p->due);
		struct tz_recompression *job = p->now->jobs[first];
		if (job && now < job->next_step)
			return job->next_step;
		if (job)
			job->early = age_now(s, first);
		if (job && !tz_recompression_step(t, job, now))
			return job->next_step;
		p->due &= ~(1u << first);
		if (job)
			tz_housekeeping_wake(s);	/* for the holes that it leaves */
		else
			wish(p, first);
	}
	return TZ_NO_TURN;
}

uint64_t tz_policy_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_policing *p = &s->policing;
	uint64_t look, next;

	take_over(s);
	if (!p->now || atomic_load(&s->recompress.job))
		return TZ_NO_TURN;
	look_at_ages(s);
	look = look_at_pressure(s, now);
	look_at_ages(s);		/* other ones may count now */
	next = work(t, now);
	return next < look ? next : look;
}

int tz_policy_start(struct tz_store *s, char *why, size_t why_size)
{
	atomic_store(&s->policing.psi_fd, TZ_PSI_NOT_OPENED);
	s->policing.wish_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->policing.wish_fd >= 0)
		return 0;
	snprintf(why, why_size, "cannot open what the housekeeper needs: %s", strerror(errno));
	return -errno;
}

void tz_policy_drop(struct tz_store *s)
{
	free_standing(atomic_exchange(&s->policing.next, NULL));
	free_standing(s->policing.now);
	s->policing.now = NULL;
	close(s->policing.wish_fd);
	if (atomic_load(&s->policing.psi_fd) >= 0)
		close(atomic_load(&s->policing.psi_fd));
}

/* ---- the control thread's part ---- */

int tz_policy_number(const char *text, uint32_t most, uint32_t *out, const char **end)
{
	char *after;

	errno = 0;
	unsigned long long n = strtoull(text, &after, 10);
	*out = (uint32_t)n;
	*end = after;
	return *text < '0' || *text > '9' || errno || n > most ? -EINVAL : 0;
}

int tz_policy_parse(const char *text, struct tz_policy *out)
{
	uint32_t *const to[] = { &out->idle_dense, &out->idle_cold, &out->cpu_percent,
		&out->idle_backing };
	const char *end = text;
	unsigned n = 0;

	out->idle_backing = 0;
	do {
		if (tz_policy_number(text, UINT32_MAX, to[n], &end) < 0)
			return -EINVAL;
		text = end + 1;
	} while (++n < 4 && *end == ':');
	return n >= 3 && !*end ? 0 : -EINVAL;
}

int tz_store_wish_fd(const struct tz_store *s)
{
	return s->policing.wish_fd;
}

unsigned tz_store_take_wishes(struct tz_store *s)
{
	uint64_t n;

	if (read(s->policing.wish_fd, &n, sizeof n) < 0)
		return 0;
	return atomic_exchange(&s->policing.wishes, 0) & ~s->policing.equipped;
}

void tz_store_grant_wishes(struct tz_store *s, unsigned jobs, int granted)
{
	s->policing.equipped = granted ? s->policing.equipped | jobs : s->policing.equipped & ~jobs;
}

struct tz_standing *tz_store_prepare_policy(struct tz_store *s, const struct tz_policy *policy,
	int *err, char *why, size_t why_size)
{
	struct tz_standing *standing = calloc(1, sizeof *standing);

	*err = standing ? 0 : -ENOMEM;
	if (!standing) {
		snprintf(why, why_size, "no memory");
		return NULL;
	}
	standing->policy = *policy;
	tz_pressure_open(s);
	if (policy->cpu_percent < 1 || policy->cpu_percent > 100) {
		snprintf(why, why_size, "the share of a core is 1 to 100 per cent");
		*err = -EINVAL;
	}
	for (unsigned i = 0; i < TZ_STANDING_JOBS && *err == 0; i++) {
		uint64_t idle = idle_ns(policy, i);
		if (i == TZ_STANDING_BACKING &&
			atomic_load(&s->backing.state) == TZ_BACKING_NONE)
			break;	/* looked at when there is a file */
		if (idle && s->policing.equipped >> i & 1)
			standing->jobs[i] = tz_recompression_make(s, algorithms[i], idle,
				policy->cpu_percent, err, why, why_size);
		if (standing->jobs[i] && i == TZ_STANDING_BACKING)
			standing->jobs[i]->huge_ns = huge_ns(policy);
		if (idle && !(s->policing.equipped >> i & 1))
			*err = tz_recompression_check(s, algorithms[i], idle,
				policy->cpu_percent, why, why_size);
	}
	if (*err == 0)
		return standing;
	free_standing(standing);
	return NULL;
}

int tz_store_policy_took_memory(const struct tz_standing *standing)
{
	for (unsigned i = 0; i < TZ_STANDING_JOBS; i++)
		if (standing->jobs[i])
			return 1;
	return 0;
}

void tz_store_forget_policy(struct tz_standing *standing)
{
	free_standing(standing);
}

void tz_store_set_policy(struct tz_store *s, struct tz_standing *standing)
{
	struct tz_stats *to = s->stats;

	s->arena.head.policy = standing->policy;
	tz_arena_write_head(&s->arena);
	tz_stats_head_begin(to);
	TZ_STATS_SET(to->idle_dense, standing->policy.idle_dense);
	TZ_STATS_SET(to->idle_cold, standing->policy.idle_cold);
	TZ_STATS_SET(to->cpu_percent, standing->policy.cpu_percent);
	TZ_STATS_SET(to->idle_backing, standing->policy.idle_backing);
	tz_stats_head_end(to);
	atomic_store(&s->backing.paused, 0);
	free_standing(atomic_exchange(&s->policing.next, standing));
	tz_housekeeping_wake(s);
}

struct tz_policy tz_store_policy(const struct tz_store *s)
{
	return s->arena.head.policy;
}
