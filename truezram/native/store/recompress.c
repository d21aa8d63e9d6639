/* recompress.c - pages that have not been touched for some time are written once more with a denser
 * codec.
 *
 * One run at a time, which the control thread prepares (workspaces, and that all threads can read
 * what will be written) and the housekeeper does: it walks the page table, and for each page that
 * is old enough it decompresses the object, compresses it with the codec asked for, and if that
 * takes at least a sixteenth less room, places the new object and exchanges the entry, as the
 * compactor does when it moves an object: with the entry announced all the time, by
 * compare-and-exchange. So what is written, discarded or read meanwhile wins, and a server that
 * dies leaves one object or the other. The new entry has the age of the old one.
 *
 * With "cold" the walk is one over windows of 16 pages: those of each that are old enough become a
 * group (group_pack.c), which takes about a millisecond.
 *
 * With "backing" objects are copied to the backing file as they are (backing_write.c), and with
 * "memory" all pages that are there come back.
 *
 * Left as they are: what pages share (all their entries would have to change), objects made with a
 * dictionary, and what does not decompress (a read will say so).
 *
 * It works in steps of half a millisecond (or one page, where the codec takes longer) and then
 * pauses, so that it takes the share of a core that it was given; four times as long while requests
 * come.
 */
#include "clock.h"
#include "cold.h"
#include "group.h"
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_NS 500000u
#define MOST_WAITS 200u		/* of a step each, for the reserve */
#define GIVES_WAY 4u
#define LEAST_GAIN 16u		/* a sixteenth of the object's room */

/* ---- one page ---- */

/* Of a group, its members that are still in it: whether all of them are that old. If one is not,
 * the group stays, and so would its room. */
static int is_group_old(const struct tz_store *s, uint64_t page, uint64_t entry, unsigned age)
{
	int damaged = 0;
	const _Atomic uint64_t *slots = tz_table_slot(s, page - tz_group_place(page), &damaged);

	for (unsigned i = 0; slots && i < TZ_GROUP_PAGES; i++) {
		uint64_t other = atomic_load_explicit(&slots[i], memory_order_relaxed);
		if (tz_entry_is_grouped(other) &&
			tz_entry_offset(other) == tz_entry_offset(entry) &&
			tz_entry_age(other) < age)
			return 0;
	}
	return slots != NULL;
}

static int is_for_backing(const struct tz_store *s, const struct tz_recompression *job,
	uint64_t page, uint64_t entry)
{
	unsigned kind = tz_entry_kind(entry);

	return tz_entry_has_object(entry) && !tz_entry_is_shared(entry) &&
		kind != TZ_KIND_SAME_U64 &&
		tz_entry_age(entry) >= (kind == TZ_KIND_RAW ? job->huge_age : job->age) &&
		!tz_store_fault(s, page, entry) &&
		(kind != TZ_KIND_GROUP || is_group_old(s, page, entry, job->age));
}

/* Whether it may be worth a try. */
static int is_wanted(const struct tz_store *s, const struct tz_recompression *job, uint64_t page,
	uint64_t entry)
{
	unsigned kind = tz_entry_kind(entry);

	if (job->to == TZ_TO_MEMORY)
		return tz_entry_is_backed(entry);
	if (job->to == TZ_TO_BACKING)
		return is_for_backing(s, job, page, entry);
	return tz_entry_has_object(entry) && tz_entry_age(entry) >= job->age &&
		!tz_entry_is_shared(entry) && !tz_entry_is_grouped(entry) &&
		kind != TZ_KIND_SAME_U64 &&
		kind != TZ_KIND_ZSTD_DICT &&
		(kind != job->set->encoder->kind || job->set->encoder->level_max) &&
		!tz_store_fault(s, page, entry);
}

/* Where it is counted what this one does. */
static struct tz_step_stats *counters(struct tz_store *s, const struct tz_recompression *job)
{
	return job->to == TZ_TO_CODEC ? &s->stats->dense
		: job->to == TZ_TO_GROUPS ? &s->stats->cold : &s->stats->backing;
}

/* Whether this is likely to be the first time for a page. (A policy tries what it gains nothing
 * with again and again.) */
static int is_new(const struct tz_recompression *job, uint64_t entry)
{
	return !job->again || tz_entry_age(entry) == job->age;
}

static void count_tried(struct tz_step_stats *to, uint64_t units)
{
	TZ_STATS_SET(to->tried, to->tried + units * TZ_UNIT);
}

/* The room that a new object of the page takes, in units, with the object in t->object; 0: it is
 * not worth it. */
static unsigned compress(struct tz_store_thread *t, struct tz_recompression *job, uint64_t page,
	uint64_t entry, unsigned *length)
{
	const struct tz_codec *codec = job->set->encoder;
	unsigned before = tz_entry_units(entry), units;

	t->ticks = 0;		/* what it takes is not counted as the device's */
	if (tz_store_decode(t, page, entry, job->page))
		return 0;
	if (is_new(job, entry))
		count_tried(counters(t->store, job), before);
	*length = (unsigned)codec->compress(job->set->encoder_workspace, job->page, t->object);
	if (!*length || *length > TZ_HUGE_SIZE)
		return 0;
	units = tz_units_for(*length);
	return units < before && (before - units) * LEAST_GAIN >= before ? units : 0;
}

static void count(struct tz_step_stats *to, unsigned pages, uint64_t units)
{
	TZ_STATS_SET(to->pages, to->pages + pages);
	TZ_STATS_SET(to->saved, to->saved + units * TZ_UNIT);
}

/* Between begin and end. */
static void rewrite(struct tz_store_thread *t, struct tz_recompression *job, uint64_t page,
	_Atomic uint64_t *slot)
{
	struct tz_store *s = t->store;
	uint64_t entry = tz_store_announce(t, slot), to = 0, new = 0, expected = entry;
	unsigned units = 0, length;

	if (is_wanted(s, job, page, entry))
		units = compress(t, job, page, entry, &length);
	if (units)
		to = tz_housekeeping_room(s, (unsigned)page % s->alloc.nr_shards, units);
	if (units && !to)
		TZ_STATS_SET(counters(s, job)->no_room, counters(s, job)->no_room + 1);
	if (to) {
		new = tz_entry_aged(page, tz_store_fill(s, to, page, job->set->encoder->kind,
			t->object, length), tz_entry_age(entry));
		TZ_TEST_POINT("rewriting");
		/* (Not if only the age is another: somebody has just read it.) */
		if (!atomic_compare_exchange_strong(slot, &expected, new)) {
			tz_alloc_put(&s->alloc, to, units);
			new = 0;
		}
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (!new)
		return;
	tz_store_account(t, page, entry, new, 1, NULL);
	atomic_store(&s->housekeeping.borrowed, 1);
	t->freed_units = 0;		/* the next objects take the holes; then finish() */
	count(counters(s, job), 1, tz_entry_units(entry) - units);
}

/* Between begin and end: into the batch at hand. 0: that is full. */
static int back(struct tz_store_thread *t, const struct tz_recompression *job, uint64_t page,
	_Atomic uint64_t *slot)
{
	uint64_t entry = tz_store_announce(t, slot);
	int added = 1;

	if (is_wanted(t->store, job, page, entry))
		added = tz_backing_add(t, page, entry);
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	return added;
}

/* 0: there is no room for it now, but soon. */
static int bring_back(struct tz_store_thread *t, struct tz_recompression *job, uint64_t page)
{
	struct tz_store *s = t->store;
	struct tz_step_stats *to = counters(s, job);
	int damaged = 0, rc = tz_backing_read(t, page, job->page, 1);
	const _Atomic uint64_t *slot = tz_table_slot(s, page, &damaged);

	if (!slot || !tz_entry_is_backed(atomic_load(slot)))
		return 1;
	if (rc == 0 && tz_reserve_no_room(&s->reserve) == -EAGAIN) {
		tz_reserve_wake(&s->reserve);
		job->wait_until = tz_now_ns() + STEP_NS;
		return 0;
	}
	TZ_STATS_SET(to->no_room, to->no_room + 1);
	return 1;
}

/* One page, as the job has it. 0: not now, there is something to be done first. */
static int do_page(struct tz_store_thread *t, struct tz_recompression *job, uint64_t page,
	_Atomic uint64_t *slot)
{
	if (job->to == TZ_TO_BACKING)
		return back(t, job, page, slot);
	if (job->to == TZ_TO_MEMORY)
		return bring_back(t, job, page);
	rewrite(t, job, page, slot);
	return 1;
}

/* ---- a step ---- */

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t sum(const struct tz_store *s, int64_t (*of)(const struct tz_queue_stats *q))
{
	int64_t n = 0;

	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++)
		n += of(s->threads[i].stats);
	return n > 0 ? (uint64_t)n : 0;
}

static int64_t requests_of(const struct tz_queue_stats *q)
{
	return (int64_t)(__atomic_load_n(&q->pages_read, __ATOMIC_RELAXED) +
		__atomic_load_n(&q->pages_written, __ATOMIC_RELAXED) +
		__atomic_load_n(&q->pages_discarded, __ATOMIC_RELAXED));
}

static int64_t pages_of(const struct tz_queue_stats *q)
{
	return __atomic_load_n(&q->pages_now, __ATOMIC_RELAXED);
}

/* The first page from `page` on whose entry may be there. */
static uint64_t skip(const struct tz_store *s, uint64_t page)
{
	uint64_t step = TZ_TABLE_ENTRIES;

	if (!tz_arena_directory_ready(&s->arena, page / TZ_TABLE_ENTRIES))
		step *= TZ_DIRECTORY_ENTRIES;
	return page - page % step + step;
}

/* 1: that is the end of the table; -1: do_page has something to be done first. (Pages of the table
 * stay where they are: only this thread takes them away.) */
static int walk(struct tz_store_thread *t, struct tz_recompression *job, uint64_t end)
{
	struct tz_store *s = t->store;

	while (job->next < s->nr_pages) {
		int damaged = 0;
		_Atomic uint64_t *slot = tz_table_slot(s, job->next, &damaged);
		uint64_t entry = slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0;
		if (!slot || job->next % 64 == 0 || is_wanted(s, job, job->next, entry))
			if (tz_now_ns() >= end)
				return 0;
		if (!slot) {
			job->next = skip(s, job->next);
			continue;
		}
		if (is_wanted(s, job, job->next, entry) && !do_page(t, job, job->next, slot))
			return -1;
		job->seen += entry != 0;
		job->next++;
	}
	return 1;
}

static uint64_t entry_of(struct tz_store *s, uint64_t page)
{
	int damaged = 0;
	_Atomic uint64_t *slot = tz_table_slot(s, page, &damaged);

	return slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0;
}

/* Pages of a window that are stored, and how many of them in a group. */
static unsigned stored(struct tz_store *s, uint64_t window, unsigned *grouped)
{
	unsigned n = 0;

	*grouped = 0;
	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++) {
		uint64_t entry = entry_of(s, window * TZ_GROUP_PAGES + i);
		n += entry != 0;
		*grouped += (unsigned)tz_entry_is_grouped(entry);
	}
	return n;
}

/* What the objects of these pages of a window take, in units, where it is the first time. */
static unsigned new_units(struct tz_store *s, const struct tz_recompression *job, uint64_t window,
	unsigned pages)
{
	unsigned units = 0;

	for (unsigned i = 0; i < TZ_GROUP_PAGES; i++) {
		uint64_t entry = entry_of(s, window * TZ_GROUP_PAGES + i);
		if (pages >> i & 1 && tz_entry_has_object(entry) && is_new(job, entry))
			units += tz_entry_units(entry);
	}
	return units;
}

static void pack(struct tz_store_thread *t, const struct tz_recompression *job, uint64_t window,
	unsigned wanted, unsigned before)
{
	unsigned saved, after;

	count_tried(&t->store->stats->cold, new_units(t->store, job, window, wanted));
	if (!tz_group_pack(t, window, wanted, &saved))
		return;
	stored(t->store, window, &after);
	if (after > before)		/* else others have left at the same time */
		count(&t->store->stats->cold, after - before, saved);
}

/* The same, making groups. */
static int walk_windows(struct tz_store_thread *t, struct tz_recompression *job, uint64_t end)
{
	struct tz_store *s = t->store;

	while (job->next < s->nr_pages) {
		int damaged = 0;
		uint64_t window = tz_group_window(job->next);
		_Atomic uint64_t *slot = tz_table_slot(s, job->next, &damaged);
		unsigned wanted = slot ? tz_group_wanted(s, window, job->age) : 0, grouped;
		if ((wanted || job->next % 1024 == 0) && tz_now_ns() >= end)
			return 0;
		if (!slot) {
			job->next = skip(s, job->next);
			continue;
		}
		job->seen += stored(s, window, &grouped);
		if (wanted)
			pack(t, job, window, wanted, grouped);
		job->next += TZ_GROUP_PAGES;
	}
	return 1;
}

static int walk_on(struct tz_store_thread *t, struct tz_recompression *job, uint64_t now)
{
	int done;

	if (job->to == TZ_TO_GROUPS)
		return walk_windows(t, job, now + STEP_NS);
	tz_store_begin(t);
	if (job->set)
		t->inside_set = job->set;
	done = walk(t, job, now + STEP_NS);
	if (done < 0 && job->to == TZ_TO_MEMORY)
		done = 0;
	tz_store_free_set_aside(t);
	tz_store_end(t);
	return done;
}

/* The same, writing to the backing file. */
static int walk_to_backing(struct tz_store_thread *t, struct tz_recompression *job, uint64_t now)
{
	struct tz_store *s = t->store;
	int ready, end;

	job->wait_until = now + STEP_NS;
	if (job->written)		/* the last batch is on its way */
		return tz_backing_is_idle(s);
	ready = tz_backing_ready(s, now, &job->wait_until);
	if (ready <= 0)
		return ready < 0;
	job->wait_until = 0;
	end = walk_on(t, job, now);
	job->written = end == 1;
	if (end)
		tz_backing_write(s, end == 1);
	return 0;
}

/* What is to be smaller needs room first, and writes have the last segment of the reserve for
 * themselves. If more are on their way they are waited for; not for ever: where the kernel has no
 * memory, what finds a hole goes on. */
static int waits_for_reserve(struct tz_store *s, struct tz_recompression *job, uint64_t now)
{
	if (atomic_load(&s->alloc.reserve_count) > 1 || job->waits == MOST_WAITS ||
		tz_reserve_no_room(&s->reserve) != -EAGAIN) {
		job->waits = 0;
		return 0;
	}
	tz_reserve_wake(&s->reserve);
	job->waits++;
	job->wait_until = now + STEP_NS;
	return 1;
}

static int do_some(struct tz_store_thread *t, struct tz_recompression *job, uint64_t now)
{
	struct tz_backing *b = &t->store->backing;
	int done = 0;

	job->wait_until = 0;
	if (job->to != TZ_TO_BACKING)
		return waits_for_reserve(t->store, job, now) ? 0 : walk_on(t, job, now);
	if (pthread_mutex_trylock(&b->lock)) {
		job->wait_until = now + STEP_NS;	/* another file is being set */
	} else {
		done = walk_to_backing(t, job, now);
		pthread_mutex_unlock(&b->lock);
	}
	return done;
}

/* How long it pauses after so much work. */
static uint64_t pause_after(struct tz_store *s, struct tz_recompression *job, uint64_t ns)
{
	uint64_t requests = sum(s, requests_of), pause = ns * (100 - job->percent) / job->percent;

	if (requests != job->requests)
		pause = (ns + pause) * GIVES_WAY - ns;
	job->requests = requests;
	return pause;
}

/* ---- the run ---- */

static void begin(struct tz_store *s, struct tz_recompression *job)
{
	job->begun = 1;
	job->age = tz_age_after(s, job->idle_ns);
	if (job->early < job->age)
		job->age = job->early;
	job->huge_age = job->huge_ns ? tz_age_after(s, job->huge_ns) : job->age;
	if (job->age < job->huge_age)
		job->huge_age = job->age;
	job->written = 0;
	if (job->to == TZ_TO_MEMORY)
		atomic_store(&s->backing.paused, 1);
	job->next = 0;
	job->seen = 0;
	job->all = sum(s, pages_of);
	job->requests = sum(s, requests_of);
}

int tz_recompression_step(struct tz_store_thread *t, struct tz_recompression *job, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_step_stats *to = counters(s, job);
	uint64_t before = cpu_ns(), spent;

	if (!job->begun)
		begin(s, job);
	job->begun = !do_some(t, job, now);
	spent = cpu_ns() - before;
	TZ_STATS_SET(to->cpu_ns, to->cpu_ns + spent);
	TZ_STATS_SET(to->runs, to->runs + (!job->begun && job->to != TZ_TO_MEMORY));
	job->again |= !job->begun;
	job->next_step = tz_now_ns() + pause_after(s, job, spent);
	if (job->next_step < job->wait_until)
		job->next_step = job->wait_until;
	return !job->begun;
}

void tz_recompression_free(struct tz_recompression *job)
{
	if (job)
		tz_store_free_set(job->set);
	free(job);
}

static void finish(struct tz_store *s, struct tz_recompression *job)
{
	uint64_t ticket = job->ticket, stopped = atomic_load(&s->recompress.cancel);

	if (job->to == TZ_TO_BACKING) {
		pthread_mutex_lock(&s->backing.lock);
		tz_backing_abandon(s);
		pthread_mutex_unlock(&s->backing.lock);
	}
	tz_recompression_free(job);
	atomic_store(&s->recompress.job, NULL);
	TZ_STATS_SET(s->stats->recompress_stopped, stopped);
	TZ_STATS_SET(s->stats->recompress_done, ticket);
	tz_housekeeping_wake(s);	/* the holes that it leaves may be worth a pass */
}

uint64_t tz_recompress_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_recompression *job = atomic_load(&s->recompress.job);

	if (!job)
		return TZ_NO_TURN;
	if (!atomic_load(&s->recompress.cancel)) {
		if (now < job->next_step)
			return job->next_step;
		int done = tz_recompression_step(t, job, now);
		TZ_STATS_SET(s->stats->recompress_permille,
			job->seen < job->all ? job->seen * 999 / job->all : 999);
		if (!done)
			return job->next_step;
	}
	finish(s, job);
	return TZ_NO_TURN;
}

void tz_recompress_drop(struct tz_store *s)
{
	tz_recompression_free(atomic_exchange(&s->recompress.job, NULL));
}

/* ---- the control thread's part ---- */

static enum tz_recompress_to parse_to(const char *algorithm)
{
	static const char *const names[] = { [TZ_TO_GROUPS] = "cold", [TZ_TO_BACKING] = "backing",
		[TZ_TO_MEMORY] = "memory" };

	for (unsigned to = TZ_TO_GROUPS; to <= TZ_TO_MEMORY; to++)
		if (!strcmp(algorithm, names[to]))
			return to;
	return TZ_TO_CODEC;
}

static int check(const struct tz_store *s, const struct tz_codec *codec, uint64_t idle_ns,
	unsigned percent, char *why, size_t why_size)
{
	int rc = -EINVAL;

	if (codec && codec->kind != TZ_KIND_DENSE && codec->kind != TZ_KIND_ZSTD)
		snprintf(why, why_size,
			"pages are recompressed with dense, zstd or cold, not with %s",
			codec->name);
	else if (percent < 1 || percent > 100)
		snprintf(why, why_size, "the share of a core is 1 to 100 per cent");
	else if (tz_age_after(s, idle_ns) == TZ_AGES)
		snprintf(why, why_size, "pages that have been idle for longer than %llu s are not"
			" told apart",
			(unsigned long long)(tz_age_least_ns(s, TZ_AGES - 1) / 1000000000));
	else
		rc = 0;
	return rc;
}

/* Also *codec, NULL for what is none, and its *level. */
static int parse(const struct tz_store *s, const char *algorithm, uint64_t idle_ns,
	unsigned percent, const struct tz_codec **codec, int *level, char *why, size_t why_size)
{
	enum tz_recompress_to to = parse_to(algorithm);

	*codec = to == TZ_TO_CODEC ? tz_parse_algorithm(algorithm, level, why, why_size) : NULL;
	if (to == TZ_TO_CODEC && !*codec)
		return -EINVAL;
	return check(s, *codec, to == TZ_TO_MEMORY ? 0 : idle_ns, percent, why, why_size);
}

int tz_recompression_check(const struct tz_store *s, const char *algorithm, uint64_t idle_ns,
	unsigned percent, char *why, size_t why_size)
{
	const struct tz_codec *codec;
	int level, rc = parse(s, algorithm, idle_ns, percent, &codec, &level, why, why_size);

	return rc == 0 && parse_to(algorithm) == TZ_TO_GROUPS ? tz_groups_check(why, why_size) : rc;
}

/* What it takes. 0 or negative errno with why. */
static int prepare(struct tz_store *s, struct tz_recompression *job, const struct tz_codec *codec,
	int level, char *why, size_t why_size)
{
	int err;

	if (job->to != TZ_TO_CODEC)
		return job->to == TZ_TO_GROUPS ? tz_store_set_groups(s, why, why_size) : 0;
	job->set = tz_store_make_set(s, codec, level, &err, why, why_size);
	return job->set ? tz_store_add_decoder(s, codec, why, why_size) : err;
}

struct tz_recompression *tz_recompression_make(struct tz_store *s, const char *algorithm,
	uint64_t idle_ns, unsigned percent, int *err, char *why, size_t why_size)
{
	const struct tz_codec *codec;
	struct tz_recompression *job;
	int level = 0;

	*err = parse(s, algorithm, idle_ns, percent, &codec, &level, why, why_size);
	if (*err < 0)
		return NULL;
	job = aligned_alloc(_Alignof(struct tz_recompression), sizeof *job);
	if (!job) {
		*err = -ENOMEM;
		snprintf(why, why_size, "no memory");
		return NULL;
	}
	memset(job, 0, sizeof *job);
	job->to = parse_to(algorithm);
	job->idle_ns = idle_ns;
	job->percent = percent;
	job->early = TZ_AGES;
	*err = prepare(s, job, codec, level, why, why_size);
	if (*err == 0)
		return job;
	tz_recompression_free(job);
	return NULL;
}

/* Whether a run can use the backing file as it is now. 0 or negative errno with why. */
static int check_backing(const struct tz_store *s, const char *algorithm, char *why,
	size_t why_size)
{
	static const char *const states[] = { [TZ_BACKING_NONE] = "there is no backing file",
		[TZ_BACKING_READY] = NULL, [TZ_BACKING_FULL] = "the backing file is full",
		[TZ_BACKING_FAILED] = "the backing file has failed: set it once more to try again",
		[TZ_BACKING_MISSING] =
			"the backing file is not there: set it once more when it is" };
	enum tz_recompress_to to = parse_to(algorithm);
	unsigned state = atomic_load(&s->backing.state);
	const char *fault = states[state];

	if ((to != TZ_TO_BACKING && to != TZ_TO_MEMORY) || !fault ||
		(to == TZ_TO_MEMORY && state != TZ_BACKING_NONE && state != TZ_BACKING_MISSING))
		return 0;
	snprintf(why, why_size, "%s", fault);
	return -ENODEV;
}

struct tz_recompression *tz_store_prepare_recompress(struct tz_store *s, const char *algorithm,
	uint64_t idle_ns, unsigned percent, int *err, char *why, size_t why_size)
{
	struct tz_recompression *job = NULL;

	*err = check_backing(s, algorithm, why, why_size);
	if (*err == 0)
		job = tz_recompression_make(s, algorithm, idle_ns, percent, err, why, why_size);
	if (!job || !atomic_load(&s->recompress.job))
		return job;
	tz_recompression_free(job);
	snprintf(why, why_size, "a recompression is at work: wait for it, or stop it");
	*err = -EBUSY;
	return NULL;
}

void tz_store_forget_recompress(struct tz_recompression *job)
{
	tz_recompression_free(job);
}

uint64_t tz_store_recompress(struct tz_store *s, struct tz_recompression *job, uint64_t *least_ns)
{
	*least_ns = tz_age_least_ns(s, tz_age_after(s, job->idle_ns));
	job->ticket = ++s->recompress.tickets;
	TZ_STATS_SET(s->stats->recompress_started, job->ticket);
	atomic_store(&s->recompress.cancel, 0);
	TZ_STATS_SET(s->stats->recompress_permille, 0);
	atomic_store(&s->recompress.job, job);
	tz_housekeeping_wake(s);
	return s->recompress.tickets;
}

int tz_store_stop_recompress(struct tz_store *s)
{
	int running = atomic_load(&s->recompress.job) != NULL;

	atomic_store(&s->recompress.cancel, 1);
	tz_housekeeping_wake(s);
	return running;
}
