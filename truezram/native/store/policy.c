/* policy.c - what is done with idle pages without being asked for each time.
 *
 * A device's policy has two jobs (recompress.c): pages that have been idle for some time are
 * written once more with `dense`, and those that have been so for longer are packed in groups. The
 * housekeeper does a job whenever pages have become old enough for it, which is at the end of some
 * passes of the clock only (age.c): so what does not get smaller is tried once in a while, and not
 * every three minutes. What somebody asked for comes first.
 *
 * The control thread prepares jobs and hands them over by one exchange; whoever finds that they
 * have been replaced before they were taken frees them.
 */
#include "cold.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SECOND 1000000000ull

static void free_standing(struct tz_standing *standing)
{
	for (unsigned i = 0; standing && i < TZ_STANDING_JOBS; i++)
		tz_recompression_free(standing->jobs[i]);
	free(standing);
}

/* ---- the housekeeper's turns ---- */

static void take_over(struct tz_policing *p)
{
	struct tz_standing *next = atomic_exchange(&p->next, NULL);

	if (!next)
		return;
	free_standing(p->now);
	p->now = next;
	p->due = (1u << TZ_STANDING_JOBS) - 1;		/* what is old enough already */
}

/* The jobs for which the pass that has just ended has made pages old enough. */
static unsigned due(const struct tz_store *s)
{
	const struct tz_standing *now = s->policing.now;
	unsigned top = tz_age_top(s->aging.pulse), jobs = 0;

	for (unsigned i = 0; i < TZ_STANDING_JOBS; i++)
		if (now->jobs[i] && tz_age_after(s, now->jobs[i]->idle_ns) <= top + 1)
			jobs |= 1u << i;
	return jobs;
}

uint64_t tz_policy_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_policing *p = &s->policing;

	take_over(p);
	if (!p->now || atomic_load(&s->recompress.job))
		return TZ_NO_TURN;
	if (s->aging.hand == TZ_HAND_RESTS && s->aging.pulse != p->pulse) {
		p->pulse = s->aging.pulse;
		p->due |= due(s);
	}
	while (p->due) {
		unsigned first = (unsigned)__builtin_ctz(p->due);
		struct tz_recompression *job = p->now->jobs[first];
		if (job && now < job->next_step)
			return job->next_step;
		if (job && !tz_recompression_step(t, job, now))
			return job->next_step;
		p->due &= ~(1u << first);
		if (job)
			tz_housekeeping_wake(s);	/* for the holes that it leaves */
	}
	return TZ_NO_TURN;
}

void tz_policy_drop(struct tz_store *s)
{
	free_standing(atomic_exchange(&s->policing.next, NULL));
	free_standing(s->policing.now);
	s->policing.now = NULL;
}

/* ---- the control thread's part ---- */

struct tz_standing *tz_store_prepare_policy(struct tz_store *s, const struct tz_policy *policy,
	int *err, char *why, size_t why_size)
{
	static const char *const algorithms[TZ_STANDING_JOBS] = { "dense", "cold" };
	const uint32_t idle[TZ_STANDING_JOBS] = { policy->idle_dense, policy->idle_cold };
	struct tz_standing *standing = calloc(1, sizeof *standing);

	*err = standing ? 0 : -ENOMEM;
	if (!standing) {
		snprintf(why, why_size, "no memory");
		return NULL;
	}
	standing->policy = *policy;
	for (unsigned i = 0; i < TZ_STANDING_JOBS && *err == 0; i++)
		if (idle[i])
			standing->jobs[i] = tz_recompression_make(s, algorithms[i],
				idle[i] * SECOND, policy->cpu_percent, err, why, why_size);
	if (*err == 0)
		return standing;
	free_standing(standing);
	return NULL;
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
	tz_stats_head_end(to);
	free_standing(atomic_exchange(&s->policing.next, standing));
	tz_housekeeping_wake(s);
}

struct tz_policy tz_store_policy(const struct tz_store *s)
{
	return s->arena.head.policy;
}
