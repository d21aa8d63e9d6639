/* pool.c - where objects live: size classes, slabs, and the reserve that keeps the data path from ever needing memory.
 *
 * The arena is cut into slabs of 64 KiB. A slab belongs to one size class at a time and holds equal slots of that size;
 * sizes are multiples of 16 chosen so that a whole number of slots fills the slab, about 110 classes from 16 to 4096 bytes. An
 * object that would need the largest class is not worth decompressing: such pages are stored raw (TZ_POOL_HUGE).
 * A slot's class follows from its address, so an object carries no header, and its owner is found through the page table.
 *
 * Slabs move between four states:
 *
 *	unpopulated --populate--> reserve --first object--> class (partial <-> full) --last object freed--> reserve
 *	     ^                      |
 *	     +-----punched out------+
 *
 * Queue threads only ever move slabs between reserve and class: list operations under a short lock, no system call but
 * a futex wake. Everything that asks the kernel for memory or gives it back happens in the slab thread, which keeps the
 * reserve at its target: it populates ahead of need (queue threads that find less than 3/4 of the target wake it) and punches out
 * what is left over. With the reserve empty an allocation tries free slots of larger classes, then fails at once.
 *
 * Slots that overwriting and discarding leave free in many slabs are packed now and then where that saves whole slabs
 * (compaction): the sparsest slabs of a class are taken out of use, the store finds their objects through the page table and moves them,
 * and the empty slabs go the usual way.
 *
 * Memory is counted where it is had: used_bytes is what has been populated (head, table, slabs of every state), which is
 * what the kernel holds for the file.
 */
#include "pool.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

#define BATCH 4u		/* slabs populated by one system call: what it got is in reserve before it asks for more */
#define RETRY_MS 2		/* after the kernel refused memory */
#define IDLE_MS 250
#define COMPACT_MS 1000
#define STACK_SIZE (64u << 10)
#define EMPTIED_MOST (2u << 20)	/* bytes in use at which a device counts as emptied, at most */
#define EMPTIED_RESERVE 2u	/* slabs it keeps at least */
#define COMPACT_LEAST (1u << 20)	/* bytes to be saved before compaction is worth its while */

enum slab_state { SLAB_UNPOPULATED = 0, SLAB_RESERVE = 1, SLAB_CLASS = 2, SLAB_EVACUATING = 3 };

/* ---- size classes ---- */

static void make_classes(struct tz_pool *p)
{
	unsigned last = 0, n = 0;

	/* Largest first while counting slots per slab upwards, then turned round so that class 0 is the smallest. */
	uint32_t sizes[TZ_MAX_CLASSES];
	for (unsigned per = TZ_SLAB_SIZE / TZ_PAGE_SIZE; per <= TZ_SLAB_SIZE / 16; per++) {
		unsigned size = TZ_SLAB_SIZE / per & ~15u;
		if (size != last && n < TZ_MAX_CLASSES)
			sizes[n++] = last = size;
	}
	p->nr_classes = n;
	for (unsigned i = 0; i < n; i++) {
		struct tz_class *c = &p->classes[i];
		c->object_size = sizes[n - 1 - i];
		c->per_slab = TZ_SLAB_SIZE / c->object_size;
		c->partial = TZ_NO_SLAB;
		c->stats = &p->stats->classes[i];
		c->stats->object_size = c->object_size;
		c->stats->objects_per_slab = c->per_slab;
	}
	p->stats->nr_classes = n;
	for (unsigned u = 0, c = 0; u <= TZ_PAGE_SIZE / 16; u++) {
		while (p->classes[c].object_size < u * 16)
			c++;
		p->class_of[u] = (uint8_t)c;
	}
}

/* ---- the reserve ---- */

static void wake_slab_thread(struct tz_pool *p)
{
	if (atomic_exchange(&p->wake, 1) == 0)
		tz_futex(&p->wake, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static void count_reserve(struct tz_pool *p)
{
	__atomic_store_n(&p->stats->reserve_bytes, (uint64_t)atomic_load(&p->reserve_count) * TZ_SLAB_SIZE,
		__ATOMIC_RELAXED);
}

static uint32_t reserve_pop(struct tz_pool *p)
{
	tz_lock_take(&p->reserve_lock);
	uint32_t s = p->reserve;
	uint32_t left = atomic_load_explicit(&p->reserve_count, memory_order_relaxed);
	if (s != TZ_NO_SLAB) {
		p->reserve = p->slabs[s].next;
		atomic_store_explicit(&p->reserve_count, --left, memory_order_relaxed);
		count_reserve(p);
	}
	tz_lock_drop(&p->reserve_lock);
	if (left < atomic_load_explicit(&p->reserve_target, memory_order_relaxed) * 3 / 4 || s == TZ_NO_SLAB)
		wake_slab_thread(p);
	return s;
}

static uint32_t slack(uint32_t target)
{
	return target / 4 + 1;
}

static void reserve_push(struct tz_pool *p, uint32_t s)
{
	tz_lock_take(&p->reserve_lock);
	p->slabs[s].state = SLAB_RESERVE;
	p->slabs[s].next = p->reserve;
	p->reserve = s;
	uint32_t now = atomic_load_explicit(&p->reserve_count, memory_order_relaxed) + 1;
	atomic_store_explicit(&p->reserve_count, now, memory_order_relaxed);
	count_reserve(p);
	tz_lock_drop(&p->reserve_lock);
	uint32_t target = atomic_load_explicit(&p->reserve_target, memory_order_relaxed);
	if (now > target + slack(target))
		wake_slab_thread(p);
}

/* ---- slots ---- */

static void partial_add(struct tz_pool *p, struct tz_class *c, uint32_t s)
{
	p->slabs[s].prev = TZ_NO_SLAB;
	p->slabs[s].next = c->partial;
	if (c->partial != TZ_NO_SLAB)
		p->slabs[c->partial].prev = s;
	c->partial = s;
}

static void partial_remove(struct tz_pool *p, struct tz_class *c, uint32_t s)
{
	struct tz_slab *m = &p->slabs[s];

	if (m->prev != TZ_NO_SLAB)
		p->slabs[m->prev].next = m->next;
	else
		c->partial = m->next;
	if (m->next != TZ_NO_SLAB)
		p->slabs[m->next].prev = m->prev;
}

static void stat_add(uint64_t *counter, int64_t delta)
{
	__atomic_store_n(counter, *counter + (uint64_t)delta, __ATOMIC_RELAXED);	/* written under the class lock */
}

static uint8_t *slot_address(const struct tz_pool *p, uint32_t s, unsigned size, unsigned slot)
{
	return tz_arena_slab(p->arena, s) + (size_t)slot * size;
}

/* Takes a slot of the class's first partial slab; the class lock is held and there is one. */
static uint64_t take_slot(struct tz_pool *p, struct tz_class *c)
{
	uint32_t s = c->partial;
	struct tz_slab *m = &p->slabs[s];
	unsigned slot;

	if (m->free) {
		slot = m->free - 1u;
		uint16_t next;
		memcpy(&next, slot_address(p, s, c->object_size, slot), sizeof next);
		m->free = next <= c->per_slab ? next : 0;	/* a scribbled link costs slots, not memory safety */
	} else {
		slot = m->bump++;
	}
	if (++m->used == c->per_slab || (!m->free && m->bump >= c->per_slab))
		partial_remove(p, c, s);
	stat_add(&c->stats->objects, 1);
	return (uint64_t)(slot_address(p, s, c->object_size, slot) - p->arena->base);
}

static uint64_t alloc_in_class(struct tz_pool *p, unsigned index, int with_reserve)
{
	struct tz_class *c = &p->classes[index];
	uint64_t offset = 0;

	tz_lock_take(&c->lock);
	if (c->partial == TZ_NO_SLAB && with_reserve) {
		uint32_t s = reserve_pop(p);
		if (s != TZ_NO_SLAB) {
			p->slabs[s] = (struct tz_slab){ .class = (uint8_t)index, .state = SLAB_CLASS };
			partial_add(p, c, s);
			stat_add(&c->stats->slabs, 1);
		}
	}
	if (c->partial != TZ_NO_SLAB)
		offset = take_slot(p, c);
	tz_lock_drop(&c->lock);
	return offset;
}

static int at_limit(const struct tz_pool *p, uint64_t more)
{
	uint64_t limit = atomic_load_explicit(&p->mem_limit, memory_order_relaxed);

	return limit && atomic_load_explicit(&p->used_bytes, memory_order_relaxed) + more > limit;
}

uint64_t tz_pool_alloc(struct tz_pool *p, unsigned size, int *err)
{
	unsigned index = p->class_of[(size + 15) / 16];
	uint64_t offset = alloc_in_class(p, index, 1);

	if (offset)
		return offset;
	/* Nothing in reserve: a free slot of a larger class is better than failing. */
	for (unsigned i = index + 1; i < p->nr_classes && !offset; i++)
		if (__atomic_load_n(&p->classes[i].partial, __ATOMIC_RELAXED) != TZ_NO_SLAB)
			offset = alloc_in_class(p, i, 0);
	if (!offset)
		*err = at_limit(p, TZ_SLAB_SIZE) ? -ENOSPC : -EAGAIN;
	return offset;
}

void tz_pool_free(struct tz_pool *p, uint64_t offset)
{
	uint64_t in_slabs = offset - p->arena->head->slab_offset;
	uint32_t s = (uint32_t)(in_slabs / TZ_SLAB_SIZE);
	struct tz_slab *m = &p->slabs[s];
	struct tz_class *c = &p->classes[m->class];	/* fixed while an object lives here */

	tz_lock_take(&c->lock);
	unsigned slot = (unsigned)(in_slabs % TZ_SLAB_SIZE) / c->object_size;
	int was_full = !m->free && m->bump >= c->per_slab;
	memcpy(slot_address(p, s, c->object_size, slot), &m->free, sizeof m->free);
	m->free = (uint16_t)(slot + 1);
	m->used--;
	stat_add(&c->stats->objects, -1);
	int listed = m->state == SLAB_CLASS;
	if (was_full && listed)
		partial_add(p, c, s);
	int empty = m->used == 0;
	if (empty) {
		if (listed)
			partial_remove(p, c, s);
		stat_add(&c->stats->slabs, -1);
	}
	tz_lock_drop(&c->lock);
	if (empty)
		reserve_push(p, s);
}

/* ---- compaction ---- */

static uint64_t free_slots(const struct tz_class *c)
{
	uint64_t slots = __atomic_load_n(&c->stats->slabs, __ATOMIC_RELAXED) * c->per_slab;
	uint64_t used = __atomic_load_n(&c->stats->objects, __ATOMIC_RELAXED);

	return slots > used ? slots - used : 0;
}

/* Whole slabs that could be saved by packing every class tightly. */
static uint64_t wasted_slabs(const struct tz_pool *p)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < p->nr_classes; i++)
		n += free_slots(&p->classes[i]) / p->classes[i].per_slab;
	return n;
}

static int is_wasteful(const struct tz_pool *p)
{
	uint64_t wasted = wasted_slabs(p) * TZ_SLAB_SIZE, used = atomic_load(&p->used_bytes);

	return wasted >= COMPACT_LEAST && wasted > used / 16;
}

/* The occupancy below which a class's slabs are to be emptied: at most `want` slabs have less. */
static unsigned threshold_for(struct tz_pool *p, unsigned index, uint64_t want)
{
	uint32_t by_used[65] = { 0 };
	uint32_t per = p->classes[index].per_slab;
	unsigned k;

	for (uint32_t s = 0; s < p->virgin; s++)
		if (p->slabs[s].state == SLAB_CLASS && p->slabs[s].class == index)
			by_used[(uint32_t)p->slabs[s].used * 64 / per]++;
	uint64_t sum = 0;
	for (k = 0; k < 64 && sum + by_used[k] <= want; k++)
		sum += by_used[k];
	return k;
}

/* Takes a slab out of its class's hands if it is still as sparse as it looked. */
static void evacuate(struct tz_pool *p, uint32_t s, unsigned index, unsigned threshold)
{
	struct tz_class *c = &p->classes[index];
	struct tz_slab *m = &p->slabs[s];

	tz_lock_take(&c->lock);
	int fits = m->state == SLAB_CLASS && m->class == index && (uint32_t)m->used * 64 / c->per_slab < threshold &&
		m->used < c->per_slab;
	if (fits) {
		partial_remove(p, c, s);
		m->state = SLAB_EVACUATING;
		p->evacuating[p->nr_evacuating++] = s;
	}
	tz_lock_drop(&c->lock);
}

unsigned tz_pool_evacuate_begin(struct tz_pool *p)
{
	p->nr_evacuating = 0;
	for (unsigned i = 0; i < p->nr_classes; i++) {
		uint64_t want = free_slots(&p->classes[i]) / p->classes[i].per_slab;
		unsigned threshold = want ? threshold_for(p, i, want) : 0;
		for (uint32_t s = 0; threshold && s < p->virgin && p->nr_evacuating < TZ_EVACUATE_MAX; s++)
			if (p->slabs[s].state == SLAB_CLASS && p->slabs[s].class == i)
				evacuate(p, s, i, threshold);
	}
	return p->nr_evacuating;
}

int tz_pool_is_evacuating(const struct tz_pool *p, uint64_t offset)
{
	return p->slabs[(offset - p->arena->head->slab_offset) / TZ_SLAB_SIZE].state == SLAB_EVACUATING;
}

uint64_t tz_pool_alloc_existing(struct tz_pool *p, unsigned size)
{
	return alloc_in_class(p, p->class_of[(size + 15) / 16], 0);
}

void tz_pool_evacuate_end(struct tz_pool *p)
{
	uint64_t saved = p->nr_evacuating;

	for (unsigned i = 0; i < p->nr_evacuating; i++) {
		struct tz_slab *m = &p->slabs[p->evacuating[i]];
		struct tz_class *c = &p->classes[m->class];
		tz_lock_take(&c->lock);
		if (m->state == SLAB_EVACUATING && m->used) {	/* something did not move: back into use */
			m->state = SLAB_CLASS;
			if (m->free || m->bump < c->per_slab)
				partial_add(p, c, p->evacuating[i]);
			saved--;
		}
		tz_lock_drop(&c->lock);
	}
	p->nr_evacuating = 0;
	__atomic_store_n(&p->stats->pages_compacted, p->stats->pages_compacted + saved * (TZ_SLAB_SIZE / TZ_PAGE_SIZE),
		__ATOMIC_RELAXED);
}

/* At most once in COMPACT_MS, in the slab thread: takes free slots that add up to slabs and gives the slabs back. */
static void compact_if_wasteful(struct tz_pool *p)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	uint64_t now = (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
	if (!p->compact)
		return;
	int pass = now - p->compacted_ms >= COMPACT_MS && is_wasteful(p);
	p->compact(p->compact_arg, pass);
	if (!pass)
		return;
	clock_gettime(CLOCK_MONOTONIC, &t);
	p->compacted_ms = (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* ---- the slab thread ---- */

static void count_used(struct tz_pool *p, int64_t delta)
{
	uint64_t now = atomic_fetch_add(&p->used_bytes, (uint64_t)delta) + (uint64_t)delta;

	__atomic_store_n(&p->stats->mem_used_total, now, __ATOMIC_RELAXED);
	if (now > __atomic_load_n(&p->stats->mem_used_max, __ATOMIC_RELAXED))
		__atomic_store_n(&p->stats->mem_used_max, now, __ATOMIC_RELAXED);
}

/* Populates up to `want` slabs: neighbours never used before by one call, or one that was punched out. Returns how many,
 * or negative errno. */
static int populate_some(struct tz_pool *p, unsigned want)
{
	uint64_t end = p->arena->head->nr_slabs;
	uint32_t first = p->unpopulated;
	unsigned n = 1;

	if (want > BATCH)
		want = BATCH;
	while (want > 1 && at_limit(p, (uint64_t)want * TZ_SLAB_SIZE))
		want--;
	if (at_limit(p, TZ_SLAB_SIZE))
		return -ENOSPC;
	if (first == TZ_NO_SLAB) {
		if (p->virgin >= end)
			return -ENOSPC;
		first = p->virgin;
		n = want < end - first ? want : (unsigned)(end - first);
	}
	int rc = tz_arena_populate(p->arena, p->arena->head->slab_offset + (uint64_t)first * TZ_SLAB_SIZE,
		(uint64_t)n * TZ_SLAB_SIZE);
	if (rc < 0)
		return rc;
	if (first == p->unpopulated)
		p->unpopulated = p->slabs[first].next;
	else
		p->virgin += n;
	count_used(p, (int64_t)n * TZ_SLAB_SIZE);
	for (unsigned i = 0; i < n; i++)
		reserve_push(p, first + i);
	return (int)n;
}

/* Brings the reserve up to its target. 0 when it is, or can't be (mem_limit); negative errno when the kernel refused. */
static int refill(struct tz_pool *p)
{
	for (;;) {
		uint32_t have = atomic_load(&p->reserve_count), target = atomic_load(&p->reserve_target);
		if (have >= target || atomic_load(&p->stop))
			break;
		int rc = populate_some(p, target - have);
		if (rc < 0)
			return at_limit(p, TZ_SLAB_SIZE) ? 0 : rc;
	}
	return 0;
}

/* Punches out reserve slabs until at most `keep` are left and mem_limit is met. Returns bytes given back. */
static uint64_t punch_surplus(struct tz_pool *p, uint32_t keep)
{
	uint64_t bytes = 0;

	while (atomic_load(&p->reserve_count) > keep || (atomic_load(&p->reserve_count) && at_limit(p, 0))) {
		tz_lock_take(&p->reserve_lock);
		uint32_t s = p->reserve;
		if (s != TZ_NO_SLAB) {
			p->reserve = p->slabs[s].next;
			atomic_fetch_sub(&p->reserve_count, 1);
			count_reserve(p);
		}
		tz_lock_drop(&p->reserve_lock);
		if (s == TZ_NO_SLAB)
			break;
		if (tz_arena_release(p->arena, p->arena->head->slab_offset + (uint64_t)s * TZ_SLAB_SIZE, TZ_SLAB_SIZE)) {
			reserve_push(p, s);	/* kept: still ours, still counted */
			break;
		}
		p->slabs[s].state = SLAB_UNPOPULATED;
		p->slabs[s].next = p->unpopulated;
		p->unpopulated = s;
		count_used(p, -(int64_t)TZ_SLAB_SIZE);
		bytes += TZ_SLAB_SIZE;
	}
	return bytes;
}

static void sleep_until_woken(struct tz_pool *p, unsigned ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	tz_futex(&p->wake, FUTEX_WAIT_PRIVATE, 0, &t);
}

/* A device that has been emptied keeps no more than an 1/25 of what it once held, table included; one that is new or in
 * use keeps the full reserve. */
static uint32_t target_now(const struct tz_pool *p)
{
	uint64_t table = p->stats->table_bytes, peak = p->stats->mem_used_max;
	uint64_t reserve = (uint64_t)atomic_load(&p->reserve_count) * TZ_SLAB_SIZE;
	uint64_t in_use = atomic_load(&p->used_bytes) - table - reserve;
	uint32_t full = atomic_load(&p->reserve_full);

	if (peak < table + 2ull * full * TZ_SLAB_SIZE || in_use > EMPTIED_MOST || in_use > peak / 50)
		return full;
	uint64_t keep = peak / 25 > table + in_use ? (peak / 25 - table - in_use) / TZ_SLAB_SIZE : 0;
	return keep < EMPTIED_RESERVE ? EMPTIED_RESERVE : keep < full ? (uint32_t)keep : full;
}

/* Lowest real-time priority: the reserve is refilled before queue threads use up the rest, and the kernel lets a real-time
 * thread go below the watermark at which others wait for memory. Nothing made by it inherits that. Without the right to
 * (a local device) it is a thread like others. */
static void be_first(int first)
{
	struct sched_param param = { .sched_priority = first };

	sched_setscheduler(0, first ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER, &param);
}

static void *slab_thread(void *arg)
{
	struct tz_pool *p = arg;

	prctl(PR_SET_NAME, "tz-slabs");
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);	/* its allocations must not wait for I/O that waits for it */
	be_first(1);
	while (!atomic_load(&p->stop)) {
		atomic_store(&p->wake, 0);
		pthread_mutex_lock(&p->grow_lock);
		uint32_t target = target_now(p);
		uint32_t have = atomic_load(&p->reserve_count);
		int rc = 0;
		atomic_store(&p->reserve_target, target);
		p->stats->reserve_target = (uint64_t)target * TZ_SLAB_SIZE;
		if (have > target + slack(target) || (have && at_limit(p, 0)))
			punch_surplus(p, target);
		else
			rc = refill(p);
		if (rc == 0) {
			be_first(0);	/* moving objects can wait for anybody */
			compact_if_wasteful(p);
			be_first(1);
		}
		pthread_mutex_unlock(&p->grow_lock);
		sleep_until_woken(p, rc < 0 ? RETRY_MS : IDLE_MS);
	}
	return NULL;
}

uint64_t tz_pool_trim(struct tz_pool *p)
{
	pthread_mutex_lock(&p->grow_lock);
	uint64_t bytes = punch_surplus(p, 0);
	pthread_mutex_unlock(&p->grow_lock);
	return bytes;
}

/* ---- making and ending ---- */

/* 1/128 of the disk, 512 KiB to 8 MiB, and at most 1/16 of the limit: what a burst of writes may take before the slab
 * thread has run. */
static uint32_t target_for(uint64_t disksize, uint64_t limit)
{
	uint64_t bytes = disksize / 128;

	if (bytes > (8u << 20))
		bytes = 8u << 20;
	if (bytes < (512u << 10))
		bytes = 512u << 10;
	if (limit && bytes > limit / 16)
		bytes = limit / 16;
	return bytes / TZ_SLAB_SIZE ? (uint32_t)(bytes / TZ_SLAB_SIZE) : 1;
}

static int check_limit(const struct tz_pool *p, uint64_t limit, char *why, size_t why_size)
{
	uint64_t least = p->arena->head->slab_offset + 16 * TZ_SLAB_SIZE;

	if (limit == 0 || limit >= least)
		return 0;
	snprintf(why, why_size, "mem_limit %.1fM is too small: the page table of this disk and 1 MiB of slabs take %.1fM",
		(double)limit / (1 << 20), (double)least / (1 << 20));
	return -EINVAL;
}

int tz_pool_set_limit(struct tz_pool *p, uint64_t bytes, char *why, size_t why_size)
{
	int rc = check_limit(p, bytes, why, why_size);

	if (rc < 0)
		return rc;
	atomic_store(&p->mem_limit, bytes);
	atomic_store(&p->reserve_full, target_for(p->arena->head->disksize, bytes));
	atomic_store(&p->reserve_target, atomic_load(&p->reserve_full));
	p->stats->reserve_target = (uint64_t)atomic_load(&p->reserve_target) * TZ_SLAB_SIZE;
	wake_slab_thread(p);
	return 0;
}

int tz_pool_create(struct tz_pool *p, struct tz_arena *arena, struct tz_stats *stats, uint64_t mem_limit,
	char *why, size_t why_size)
{
	int rc;

	memset(p, 0, sizeof *p);
	p->arena = arena;
	p->stats = stats;
	p->reserve = p->unpopulated = TZ_NO_SLAB;
	pthread_mutex_init(&p->grow_lock, NULL);
	rc = check_limit(p, mem_limit, why, why_size);
	if (rc < 0)
		return rc;
	p->slabs_len = arena->head->nr_slabs * sizeof *p->slabs;
	p->slabs = mmap(NULL, p->slabs_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->slabs == MAP_FAILED) {
		snprintf(why, why_size, "cannot map slab metadata: %s", strerror(errno));
		return -ENOMEM;
	}
	/* Locked as it is touched, which only the slab thread does first. Without the right to (an ordinary user's local
	 * device) it works unlocked; the server shows that. */
	syscall(SYS_mlock2, p->slabs, p->slabs_len, MLOCK_ONFAULT);
	make_classes(p);
	stats->table_bytes = arena->head->slab_offset;
	count_used(p, (int64_t)arena->head->slab_offset);
	tz_pool_set_limit(p, mem_limit, why, why_size);
	rc = refill(p);
	if (rc < 0) {
		snprintf(why, why_size, "no memory for the reserve (%llu KiB): %s",
			(unsigned long long)(stats->reserve_target >> 10), strerror(-rc));
		munmap(p->slabs, p->slabs_len);
		return rc;
	}
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);	/* it is locked as a whole: not the usual 8 MiB */
	rc = -pthread_create(&p->thread, &attr, slab_thread, p);
	pthread_attr_destroy(&attr);
	if (rc < 0) {
		snprintf(why, why_size, "cannot start the slab thread: %s", strerror(-rc));
		munmap(p->slabs, p->slabs_len);
		return rc;
	}
	p->thread_started = 1;
	return 0;
}

void tz_pool_destroy(struct tz_pool *p)
{
	if (!p->thread_started)
		return;
	atomic_store(&p->stop, 1);
	atomic_store(&p->wake, 1);
	tz_futex(&p->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL);
	pthread_join(p->thread, NULL);
	pthread_mutex_destroy(&p->grow_lock);
	munmap(p->slabs, p->slabs_len);
}
