/* reserve.c - the reserve: what keeps the data path from ever needing memory.
 *
 * Queue threads take whole segments from the reserve and put emptied ones back, a list operation
 * each. Whatever asks the kernel for memory or gives it back happens in this file's thread, which
 * does nothing else, so nothing can delay it: it populates ahead of need (queue threads that find
 * less than 3/4 of the target wake it) as long as the kernel has memory at hand (headroom.c), and
 * punches out what is left over. When the kernel refuses memory it retries after growing delays
 * (RETRY_MS .. RETRY_MOST_MS).
 *
 * A device in use has a reserve for a burst of writes while the kernel has no free memory: 1/64 of
 * the disk within 1 and 16 MiB, and at most 1/16 of mem_limit. (Measured with hogs in guests of
 * 256 MiB to 1 GiB: docs/swap-safety.md.) Half a second after the last segment was taken it shrinks
 * to 1/64 of what the device holds, within 384 KiB and 1 MiB, and the thread sleeps until it is
 * needed. At mem_limit nothing more is populated, and the reserve is used up to the last segment.
 *
 * Of segments with pages of the page table the thread gives back the pages that are not in use, but
 * for a few, and gets more when those are taken (alloc.c).
 *
 * Memory is counted where it is obtained: mem_used_total is what the kernel holds for the arena's
 * file (head, directory, segments of every state) and what the allocator knows of its segments.
 */
#include "reserve.h"
#include "clock.h"
#include "thread.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

/* segments populated by one system call: what it got is in reserve before it asks for more */
#define BATCH 4u
#define RELEASE_BATCH 64u /* segments punched out before their metadata is given back */
#define PUNCH_NS 200000u /* for how long it punches before it lets others have the CPU, */
#define PAUSE_LEAST_NS 50000u /* which is for as long, but within these limits: */
#define PAUSE_MOST_NS 2000000u /* the reserve may be needed */
/* after the kernel refused memory, doubled each time it does so again */
#define RETRY_MS 2u
#define RETRY_MOST_MS 100u
#define IDLE_MS 500u
/* how old the floor of free memory may get (vm.min_free_kbytes may be changed) */
#define FLOOR_MS 10000
#define SHORT_MS 1000  /* below the floor for so long: ask all the same, once */
#define TRIM_MS 2000u  /* that tz_reserve_trim waits at most */
#define STACK_SIZE (64u << 10)
/* segments to keep: of an idle device, and of one in use */
#define IDLE_LEAST ((384u << 10) / TZ_SEGMENT_SIZE)
#define IDLE_MOST ((1u << 20) / TZ_SEGMENT_SIZE)
#define FULL_LEAST IDLE_MOST
#define FULL_MOST ((16u << 20) / TZ_SEGMENT_SIZE)
/* free pages of the page table that are populated: when the device is idle; in use, it gets more
 * below the least, up to the target, and gives some back above the most */
#define SPARE_IDLE 2u
#define SPARE_LEAST 8u
#define SPARE_TARGET 16u
#define SPARE_MOST 64u
#define ONE_SEGMENT (TZ_SEGMENT_SIZE + TZ_PAGE_SIZE) /* with what is known of it */

/* Why the thread is woken. Segments are needed; or there is something to do now, even if memory was
 * refused. */
enum wake { WAKE_NEED = 1, WAKE_NOW = 2 };

/* ---- counting ---- */

static uint64_t total(const struct tz_reserve *r)
{
	return atomic_load_explicit(&r->used, memory_order_relaxed) + tz_alloc_overhead(r->alloc);
}

static void count_used(struct tz_reserve *r, int64_t delta)
{
	atomic_fetch_add(&r->used, (uint64_t)delta);
	uint64_t now = total(r), overhead = tz_alloc_overhead(r->alloc);

	__atomic_store_n(&r->stats->mem_used_total, now, __ATOMIC_RELAXED);
	__atomic_store_n(&r->stats->overhead_bytes, overhead, __ATOMIC_RELAXED);
	if (now > __atomic_load_n(&r->stats->mem_used_max, __ATOMIC_RELAXED))
		__atomic_store_n(&r->stats->mem_used_max, now, __ATOMIC_RELAXED);
}

void tz_reserve_count_more(struct tz_reserve *r, int64_t bytes)
{
	atomic_fetch_add(&r->alloc->metadata_bytes, (uint64_t)bytes);
	count_used(r, 0);
}

/* Room that nothing but groups can use, up to a segment. */
static uint64_t kept_for_groups(const struct tz_reserve *r)
{
	const struct tz_alloc *a = r->alloc;
	uint64_t units = atomic_load_explicit(
		&a->shards[tz_alloc_own_shard(a, TZ_SHARD_GROUPS)].free_units,
		memory_order_relaxed);

	return units < TZ_SEGMENT_UNITS ? units * TZ_UNIT : TZ_SEGMENT_SIZE;
}

/* Packing needs room before it frees any. A segment that has just been taken for groups must not be
 * what a write fails for: so what is free in it is not held against the limit. */
int tz_reserve_at_limit(const struct tz_reserve *r, uint64_t more)
{
	uint64_t limit = atomic_load_explicit(&r->mem_limit, memory_order_relaxed);

	return limit && total(r) + more > limit + kept_for_groups(r);
}

int tz_reserve_no_room(const struct tz_reserve *r)
{
	return tz_reserve_at_limit(r, ONE_SEGMENT) ? -ENOSPC : -EAGAIN;
}

static uint32_t in_reserve(const struct tz_reserve *r)
{
	return atomic_load_explicit(&r->alloc->reserve_count, memory_order_relaxed);
}

/* ---- waking and sleeping ---- */

static void wake(struct tz_reserve *r, uint32_t why)
{
	TZ_TEST_POINT("wake");
	if (!(atomic_fetch_or(&r->wake, why) & why))
		tz_futex(&r->wake, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static void wake_for_segments(void *arg)
{
	wake(arg, WAKE_NEED);
}

void tz_reserve_wake(struct tz_reserve *r)
{
	wake(r, WAKE_NOW);
}

static void pause_ms(_Atomic uint32_t *word, uint32_t while_it_is, unsigned ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	tz_futex(word, FUTEX_WAIT_PRIVATE, while_it_is, ms ? &t : NULL);
}

/* ---- getting memory and giving it back ---- */

/* How many segments of up to `want` can be had without pushing free memory below the floor; 0: none
 * now. If that has been so for SHORT_MS, the floor may be wrong (it is of the machine, not of a
 * cgroup or a memory policy), and it is asked for one all the same. */
static unsigned affordable(struct tz_reserve *r, unsigned want)
{
	uint64_t floor = in_reserve(r) < r->target / 4 ? r->floor.last : r->floor.usual, now;

	for (unsigned n = want; n > 0; n--)
		if (tz_headroom_has(floor, (uint64_t)n * TZ_SEGMENT_SIZE)) {
			r->short_since = 0;
			return n;
		}
	now = tz_now_ns();
	if (!r->short_since)
		r->short_since = now;
	if (now - r->short_since < SHORT_MS * 1000000ull)
		return 0;
	r->short_since = 0;
	return 1;
}

/* With the reserve full, when reading the kernel's watermarks delays nothing. */
static void look_at_floor(struct tz_reserve *r)
{
	uint64_t now = tz_now_ns();

	if (r->floor_at && now - r->floor_at < FLOOR_MS * 1000000ull)
		return;
	r->floor_at = now;
	r->floor = tz_headroom_floor();
}

/* Populates up to `want` segments: neighbours never used before by one call, or one that was
 * punched out. Returns how many, or negative errno. */
static int populate_some(struct tz_reserve *r, unsigned want)
{
	unsigned n;

	if (want > BATCH)
		want = BATCH;
	while (want && tz_reserve_at_limit(r, (uint64_t)want * ONE_SEGMENT))
		want--;
	uint32_t first = want ? tz_alloc_absent(r->alloc, want, &n) : TZ_NO_SEGMENT;
	if (first == TZ_NO_SEGMENT)
		return -ENOSPC;
	n = affordable(r, n);
	if (!n)
		return -EAGAIN;
	int rc = tz_arena_populate(
		r->arena, tz_segment_offset(r->arena, first), (uint64_t)n * TZ_SEGMENT_SIZE);
	if (rc < 0)
		return rc;
	tz_alloc_appear(r->alloc, first, n);
	count_used(r, (int64_t)n * TZ_SEGMENT_SIZE);
	return (int)n;
}

/* Brings the reserve up to its target. 0 when it is, or can't be (mem_limit); negative errno when
 * the kernel refused, or would have had to look for memory (-EAGAIN). */
static int refill(struct tz_reserve *r)
{
	while (in_reserve(r) < r->target && !atomic_load(&r->stop)) {
		int rc = populate_some(r, r->target - in_reserve(r));
		if (rc < 0)
			return tz_reserve_at_limit(r, ONE_SEGMENT) ? 0 : rc;
	}
	return 0;
}

/* Punches out up to a batch of segments, until at most `keep` are left and mem_limit is met, or
 * PUNCH_NS have passed. How many. */
static unsigned punch_some(struct tz_reserve *r, uint32_t keep)
{
	uint64_t start = tz_now_ns();
	uint32_t gone[RELEASE_BATCH];
	unsigned n = 0;

	while (n < RELEASE_BATCH && (!n || tz_now_ns() - start < PUNCH_NS) &&
		(in_reserve(r) > keep || (in_reserve(r) && tz_reserve_at_limit(r, 0)))) {
		uint32_t s = tz_alloc_reserve_take_out(r->alloc);
		if (s == TZ_NO_SEGMENT)
			break;
		if (tz_arena_release(r->arena, tz_segment_offset(r->arena, s), TZ_SEGMENT_SIZE)) {
			tz_alloc_reserve_push(r->alloc, s); /* kept: still ours, still counted */
			break;
		}
		gone[n++] = s;
		count_used(r, -(int64_t)TZ_SEGMENT_SIZE);
	}
	if (n) {
		tz_alloc_vanish(r->alloc, gone, n);
		count_used(r, 0);
	}
	atomic_fetch_add(&r->freed, (uint64_t)n * TZ_SEGMENT_SIZE);
	return n;
}

/* ---- pages of the page table ---- */

static unsigned spare_pages(const struct tz_reserve *r)
{
	return atomic_load_explicit(&r->alloc->table_spare, memory_order_relaxed);
}

/* Punches out spare pages until `keep` are left and mem_limit is met. */
static void punch_spare(struct tz_reserve *r, unsigned keep)
{
	unsigned have, n;

	while ((have = spare_pages(r)) > keep || (have && tz_reserve_at_limit(r, 0))) {
		uint64_t offset =
			tz_alloc_shrink_table(r->alloc, have > keep ? have - keep : 1, &n);
		if (!offset)
			return;
		if (tz_arena_release(r->arena, offset, (uint64_t)n * TZ_PAGE_SIZE)) {
			tz_alloc_spare_table(r->alloc, offset, n); /* kept, and still counted */
			return;
		}
		count_used(r, -(int64_t)n * TZ_PAGE_SIZE);
		atomic_fetch_add(&r->freed, (uint64_t)n * TZ_PAGE_SIZE);
	}
}

/* And segments of the table without a page in use, which cannot go into the reserve as they are. */
static void punch_torn(struct tz_reserve *r)
{
	unsigned n;
	uint32_t s;

	while ((s = tz_alloc_take_torn(r->alloc, &n)) != TZ_NO_SEGMENT) {
		if (tz_arena_release(r->arena, tz_segment_offset(r->arena, s), TZ_SEGMENT_SIZE)) {
			tz_alloc_tear(r->alloc, s);
			return;
		}
		tz_alloc_vanish(r->alloc, &s, 1);
		count_used(r, -(int64_t)n * TZ_PAGE_SIZE);
		atomic_fetch_add(&r->freed, (uint64_t)n * TZ_PAGE_SIZE);
	}
}

/* Spare pages up to `want`, as far as there are segments of the table for them. 0, or negative
 * errno as of refill(). */
static int populate_spare(struct tz_reserve *r, unsigned want)
{
	unsigned have, n;

	while ((have = spare_pages(r)) < want && !atomic_load(&r->stop)) {
		uint64_t offset = tz_alloc_grow_table(r->alloc, want - have, &n);
		if (!offset || tz_reserve_at_limit(r, (uint64_t)n * TZ_PAGE_SIZE))
			return 0;
		if (!affordable(r, 1))
			return -EAGAIN;
		int rc = tz_arena_populate(r->arena, offset, (uint64_t)n * TZ_PAGE_SIZE);
		if (rc < 0)
			return rc;
		tz_alloc_spare_table(r->alloc, offset, n);
		count_used(r, (int64_t)n * TZ_PAGE_SIZE);
	}
	return 0;
}

/* ---- how much ---- */

/* 1/64 of so many bytes in segments, within these limits. */
static uint32_t share_of(uint64_t bytes, uint32_t least, uint32_t most)
{
	uint64_t n = bytes / 64 / TZ_SEGMENT_SIZE;

	return n < least ? least : n > most ? most : (uint32_t)n;
}

static uint32_t wanted(const struct tz_reserve *r)
{
	uint64_t limit = atomic_load(&r->mem_limit) / 16 / TZ_SEGMENT_SIZE;
	uint32_t n = r->idle ? share_of(total(r), IDLE_LEAST, IDLE_MOST)
			     : share_of(r->arena->head.disksize, FULL_LEAST, FULL_MOST);

	if (atomic_load(&r->mem_limit) && n > limit)
		n = (uint32_t)limit;
	return n ? n : 1;
}

/* How many segments to keep now, and when queue threads are to wake the thread. */
static void aim(struct tz_reserve *r)
{
	struct tz_alloc *a = r->alloc;
	uint32_t n = wanted(r);

	r->target = n;
	atomic_store(&a->reserve_low, n - n / 4);
	atomic_store(&a->reserve_high, r->idle ? n : n + n / 4 + 1);
	atomic_store(&a->spare_low, r->idle ? SPARE_IDLE : SPARE_LEAST);
	atomic_store(&a->spare_high, r->idle ? SPARE_IDLE : SPARE_MOST);
	__atomic_store_n(
		&r->stats->reserve_target, (uint64_t)n * TZ_SEGMENT_SIZE, __ATOMIC_RELAXED);
}

/* Whether the device is idle, and if not, in how many ms it may be. */
static unsigned look_for_use(struct tz_reserve *r)
{
	uint32_t pops = atomic_load(&r->alloc->pops);
	uint64_t now = tz_now_ns();

	if (pops != r->pops)
		r->taken_at = now;
	r->pops = pops;
	r->idle = !r->taken_at || now - r->taken_at >= IDLE_MS * 1000000ull;
	return r->idle ? 0 : IDLE_MS - (unsigned)((now - r->taken_at) / 1000000);
}

/* ---- the thread ---- */

/* Lowest real-time priority: the reserve is refilled before queue threads use up what is left, and
 * the kernel lets a real-time thread go below the watermark at which others wait for memory. It
 * does not starve other threads: it neither computes nor searches for memory (headroom.c). Threads
 * it creates do not inherit that. Without the privilege (a local device) it is an ordinary
 * thread. */
static void be_first(void)
{
	struct sched_param param = { .sched_priority = 1 };

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
}

static void answer_trim(struct tz_reserve *r, uint32_t asked)
{
	atomic_store(&r->trimmed, asked);
	tz_futex(&r->trimmed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
}

/* A page of the directory that a write is waiting for. 0 or negative errno. */
static int populate_directory(struct tz_reserve *r)
{
	int n = tz_reserve_at_limit(r, TZ_PAGE_SIZE) ? 0 : tz_arena_populate_wanted(r->arena);

	if (n > 0) {
		count_used(r, n * TZ_PAGE_SIZE);
		__atomic_fetch_add(
			&r->stats->table_bytes, (uint64_t)n * TZ_PAGE_SIZE, __ATOMIC_RELAXED);
	}
	return n < 0 ? n : 0;
}

/* Punches out all that is more than the target. It is a real-time thread, this can be much, and
 * where the kernel is slow at it (a virtual machine) a segment takes long: others get the CPU for
 * half of the time. Whether anything went back. */
static int punch_surplus(struct tz_reserve *r)
{
	uint64_t start = tz_now_ns(), took;
	int gave = 0;

	while (punch_some(r, r->target)) {
		gave = 1;
		took = tz_now_ns() - start;
		if (took < PAUSE_LEAST_NS || took > PAUSE_MOST_NS)
			took = took < PAUSE_LEAST_NS ? PAUSE_LEAST_NS : PAUSE_MOST_NS;
		nanosleep(&(struct timespec){ .tv_nsec = (long)took }, NULL);
		start = tz_now_ns();
	}
	return gave;
}

/* Gives back what is too much, then gets what is missing. Negative errno as of refill(); *gave is
 * whether something went back. */
static int balance(struct tz_reserve *r, int *gave)
{
	uint32_t asked = atomic_load(&r->trims);
	int trim = asked != atomic_load(&r->trimmed), rc;

	*gave = 0;
	if (trim) {		/* until the next segment is taken */
		r->idle = 1;
		r->taken_at = 0;
		r->pops = atomic_load(&r->alloc->pops);
	}
	aim(r);
	if (trim || in_reserve(r) > atomic_load(&r->alloc->reserve_high) ||
		tz_reserve_at_limit(r, 0))
		*gave = punch_surplus(r);
	punch_torn(r);
	if (spare_pages(r) > atomic_load(&r->alloc->spare_high) || tz_reserve_at_limit(r, 0))
		punch_spare(r, r->idle ? SPARE_IDLE : SPARE_TARGET);
	if (trim)
		answer_trim(r, asked);
	rc = populate_directory(r);
	if (rc == 0)
		rc = refill(r);
	if (rc == 0 && spare_pages(r) < atomic_load(&r->alloc->spare_low))
		rc = populate_spare(r, r->idle ? SPARE_IDLE : SPARE_TARGET);
	return rc;
}

static void *run(void *arg)
{
	struct tz_reserve *r = arg;
	unsigned retry = 0, ms;
	int gave;

	be_first();
	tz_thread_begin("tz-reserve");
	/* Only now may the server give up what that took. */
	atomic_store(&r->begun, 1);
	tz_futex(&r->begun, FUTEX_WAKE_PRIVATE, 1, NULL);
	for (;;) {
		/* Before looking at what there is to do, stop included. */
		atomic_exchange(&r->wake, 0);
		if (atomic_load(&r->stop))
			return NULL;
		ms = look_for_use(r);
		int rc = balance(r, &gave);
		if (rc == 0) {
			retry = 0;
			look_at_floor(r);
			pause_ms(&r->wake, 0, ms);
			continue;
		}
		/* Not now. That segments are needed is known: only WAKE_NOW ends this pause
		 * early. */
		if (!retry || gave || rc == -EAGAIN)
			retry = RETRY_MS;
		else
			retry = retry * 2 < RETRY_MOST_MS ? retry * 2 : RETRY_MOST_MS;
		atomic_fetch_or(&r->wake, WAKE_NEED);
		pause_ms(&r->wake, WAKE_NEED, retry);
	}
}

/* ---- from the control thread ---- */

uint64_t tz_reserve_trim(struct tz_reserve *r)
{
	uint64_t before = atomic_load(&r->freed), now,
		 deadline = tz_now_ns() + TRIM_MS * 1000000ull;
	uint32_t mine = atomic_fetch_add(&r->trims, 1) + 1, done;

	wake(r, WAKE_NOW);
	while ((int32_t)((done = atomic_load(&r->trimmed)) - mine) < 0 &&
		(now = tz_now_ns()) < deadline)
		pause_ms(&r->trimmed, done, (unsigned)((deadline - now) / 1000000) + 1);
	return atomic_load(&r->freed) - before;
}

static int check_limit(const struct tz_reserve *r, uint64_t limit, char *why, size_t why_size)
{
	uint64_t least = tz_arena_fixed_bytes(r->arena) + tz_alloc_overhead(r->alloc) + (1u << 20);

	if (limit == 0 || limit >= least)
		return 0;
	snprintf(why, why_size,
		"mem_limit %" PRIu64 "K is too small: what this device always holds and 1 MiB of"
		" pages take %" PRIu64 "K",
		limit >> 10, (least + 1023) >> 10);
	return -EINVAL;
}

int tz_reserve_set_limit(struct tz_reserve *r, uint64_t bytes, char *why, size_t why_size)
{
	int rc = check_limit(r, bytes, why, why_size);

	if (rc < 0)
		return rc;
	atomic_store(&r->mem_limit, bytes);
	wake(r, WAKE_NOW);
	return 0;
}

/* ---- making and ending ---- */

int tz_reserve_start(
	struct tz_reserve *r, struct tz_alloc *a, uint64_t mem_limit, char *why, size_t why_size)
{
	memset(r, 0, sizeof *r);
	r->alloc = a;
	r->arena = a->arena;
	r->stats = a->stats;
	/* (A device that is attached comes up with whatever it has; the thread goes on trying.) */
	uint64_t adopted = a->adopted_bytes,
		 table = tz_arena_fixed_bytes(r->arena) +
		tz_arena_directory_more(r->arena) * TZ_PAGE_SIZE;
	int rc = adopted ? 0 : check_limit(r, mem_limit, why, why_size);
	if (rc < 0)
		return rc;
	atomic_store(&r->mem_limit, mem_limit);
	a->wake = wake_for_segments;
	a->wake_arg = r;
	r->stats->table_bytes += table;
	count_used(r, (int64_t)(table + adopted));
	r->idle = 1;
	aim(r);
	rc = refill(r);
	if (rc < 0 && !adopted) {
		snprintf(why, why_size, "no memory for the reserve (%llu KiB): %s",
			(unsigned long long)(r->stats->reserve_target >> 10), strerror(-rc));
		return rc;
	}
	rc = tz_thread_start(&r->thread, STACK_SIZE, run, r, "the thread that keeps the reserve",
		why, why_size);
	r->started = rc == 0;
	while (r->started && !atomic_load(&r->begun))
		pause_ms(&r->begun, 0, 0);
	return rc;
}

void tz_reserve_stop(struct tz_reserve *r)
{
	if (!r->started)
		return;
	atomic_store(&r->stop, 1);
	atomic_fetch_or(&r->wake, WAKE_NOW);
	tz_futex(&r->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
	pthread_join(r->thread, NULL);
	r->started = 0;
}
