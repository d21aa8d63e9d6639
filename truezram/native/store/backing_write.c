/* backing_write.c - the housekeeper writes pages to the backing file, and gives back what nobody
 * names any more (interface: backing.h; what is relied on: backing.c; who decides which pages:
 * recompress.c).
 *
 * Objects are copied into a batch, which is a chunk of the file. It is written, with io_uring so
 * that the housekeeper does other things meanwhile; then, page by page, the entry is exchanged if
 * it still names the object that was copied: the same entry, and the same bytes there (the room may
 * have been freed and become another object of the same page and length in between). One operation
 * is under way at a time.
 */
#include "backing.h"
#include "clock.h"
#include "store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS 500000u
#define PUBLISH_STEP 64u
#define PUNCH_MOST 1024u		/* chunks at once */
#define LEAST_ROOM (TZ_BACKING_CHUNK / 8)
#define SECOND 1000000000ull
#define DAY_SECONDS 86400

/* ---- one operation ---- */

static void submit(struct tz_backing *b, uint8_t op, uint64_t offset, uint64_t length)
{
	int fd = atomic_load(&b->fd), mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct tz_sqe *sqe = b->has_ring ? tz_uring_sqe(&b->ring) : NULL;
	ssize_t n;

	if (sqe) {
		sqe->opcode = op;
		sqe->flags = TZ_IOSQE_ASYNC;
		sqe->fd = fd;
		if (op == TZ_IORING_OP_WRITE) {
			sqe->off = offset;
			sqe->addr = (uint64_t)(uintptr_t)b->batch->bytes;
			sqe->len = (uint32_t)length;
		} else if (op == TZ_IORING_OP_FSYNC) {
			sqe->op_flags = TZ_IORING_FSYNC_DATASYNC;
		} else {
			sqe->off = offset;
			sqe->addr = length;
			sqe->len = (uint32_t)mode;
		}
		b->result = 1;		/* not known yet: poll() */
		tz_uring_enter(&b->ring, 0);
		return;
	}
	do
		n = op == TZ_IORING_OP_WRITE
			? pwrite(fd, b->batch->bytes, length, (off_t)offset)
			: op == TZ_IORING_OP_FSYNC
			? fdatasync(fd)
			: fallocate(fd, mode, (off_t)offset, (off_t)length);
	while (n < 0 && errno == EINTR);
	b->result = n < 0 ? -errno : n == 0 || n == (ssize_t)length ? 0 : -ENOSPC;
}

/* 1: it is done, and b->result is 0 or negative errno. */
static int poll(struct tz_backing *b, uint64_t wait_ns)
{
	struct tz_cqe *cqe;

	if (b->result <= 0)
		return 1;
	tz_uring_enter(&b->ring, wait_ns);
	cqe = tz_uring_peek(&b->ring);
	if (!cqe)
		return 0;
	b->result = cqe->res < 0 ? cqe->res
		: b->phase == TZ_BATCH_WRITING && cqe->res != (int)b->fill ? -ENOSPC : 0;
	tz_uring_seen(&b->ring);
	return 1;
}

/* ---- chunks ---- */

static int is_written(const struct tz_backing *b, uint32_t chunk)
{
	return b->written[chunk / 64] >> chunk % 64 & 1;
}

static int is_free(const struct tz_backing *b, uint32_t chunk)
{
	return atomic_load(&b->live[chunk]) == 0;
}

/* One that nobody names, rather than one that has to be given back yet. 0: there is none. */
static uint32_t find_chunk(const struct tz_backing *b)
{
	uint32_t empty = 0;

	for (uint32_t chunk = 1; chunk < b->nr_chunks; chunk++) {
		if (!is_free(b, chunk))
			continue;
		if (!is_written(b, chunk))
			return chunk;
		if (!empty)
			empty = chunk;
	}
	return empty;
}

static void show_used(struct tz_store *s)
{
	const struct tz_backing *b = &s->backing;
	uint64_t n = 0;

	for (uint32_t chunk = 1; chunk < b->nr_chunks; chunk++)
		n += !is_free(b, chunk);
	TZ_STATS_SET(s->stats->backing_used, n * TZ_BACKING_CHUNK);
}

static void fail(struct tz_store *s, int err)
{
	const char *what = err == -ENOSPC ? "the file system of the backing file is full"
					  : "the backing file cannot be written";

	tz_backing_set_state(s, err == -ENOSPC ? TZ_BACKING_FULL : TZ_BACKING_FAILED, what);
}

/* Whether it is still where it was, and as large. */
static int is_file_there(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;
	struct stat st;

	if (b->is_device)
		return 1;
	if (fstat(atomic_load(&b->fd), &st) < 0 || st.st_nlink == 0)
		tz_backing_set_state(s, TZ_BACKING_FAILED, "the backing file has been removed");
	else if ((uint64_t)st.st_size < (uint64_t)b->nr_chunks * TZ_BACKING_CHUNK)
		tz_backing_set_state(s, TZ_BACKING_FAILED, "the backing file has been cut short");
	else
		return 1;
	return 0;
}

/* ---- budgets ---- */

static uint64_t today(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec / DAY_SECONDS;
}

/* What has been written is in the statistics, which outlive this server. */
static int is_within_day(struct tz_store *s)
{
	struct tz_stats *to = s->stats;
	uint64_t day = today(), daily = atomic_load(&s->backing.daily);

	if (to->backing_day != day) {
		TZ_STATS_SET(to->backing_day, day);
		TZ_STATS_SET(to->backing_day_bytes, 0);
	}
	return !daily || to->backing_day_bytes + TZ_BACKING_CHUNK <= daily;
}

static void count_written(struct tz_store *s, uint64_t bytes)
{
	struct tz_backing *b = &s->backing;
	uint64_t rate = atomic_load(&b->rate);

	TZ_STATS_SET(s->stats->backing_day_bytes, s->stats->backing_day_bytes + bytes);
	TZ_STATS_SET(s->stats->backing_written, s->stats->backing_written + bytes);
	b->next_write = rate ? tz_now_ns() + bytes * SECOND / rate : 0;
}

/* ---- a batch ---- */

static int is_in_hand(const struct tz_backing *b)
{
	return b->phase != TZ_BATCH_NONE;
}

int tz_backing_is_idle(const struct tz_store *s)
{
	return !is_in_hand(&s->backing);
}

/* It is nobody's but for what entries name by now; or, if there is some room left in it, the next
 * batch's. (A run may have a few pages only.) */
static void drop_chunk(struct tz_store *s, uint32_t used)
{
	struct tz_backing *b = &s->backing;

	b->phase = TZ_BATCH_NONE;
	b->base += used;
	b->open = b->base <= TZ_BACKING_CHUNK - LEAST_ROOM ? b->chunk : 0;
	if (!b->open && atomic_fetch_sub(&b->live[b->chunk], 1) == 1)
		atomic_store(&b->emptied, 1);
	show_used(s);
}

/* The next batch begins in another chunk. */
static void close_chunk(struct tz_backing *b)
{
	if (b->open && atomic_fetch_sub(&b->live[b->open], 1) == 1)
		atomic_store(&b->emptied, 1);
	b->open = 0;
}

void tz_backing_abandon(struct tz_store *s)
{
	if (s->backing.phase == TZ_BATCH_FILLING)
		drop_chunk(s, 0);
}

/* 0: there is none. */
static int take_chunk(struct tz_backing *b)
{
	b->chunk = b->open;
	if (b->chunk)
		return 1;
	b->base = 0;
	b->chunk = find_chunk(b);
	if (b->chunk)
		atomic_fetch_add(&b->live[b->chunk], 1);
	return b->chunk != 0;
}

int tz_backing_ready(struct tz_store *s, uint64_t now, uint64_t *when)
{
	struct tz_backing *b = &s->backing;
	unsigned state = atomic_load(&b->state);

	*when = now + POLL_NS;
	if (b->phase == TZ_BATCH_FILLING)
		return 1;
	if (is_in_hand(b))
		return 0;
	if (now < b->next_write) {
		*when = b->next_write;
		return 0;
	}
	if ((state != TZ_BACKING_READY && state != TZ_BACKING_FULL) || !is_within_day(s) ||
		!is_file_there(s))
		return -1;
	if (!take_chunk(b)) {
		if (state == TZ_BACKING_READY)
			tz_backing_set_state(s, TZ_BACKING_FULL, "the backing file is full");
		return -1;
	}
	b->phase = TZ_BATCH_FILLING;
	b->fill = 0;
	b->nr_items = 0;
	return 1;
}

int tz_backing_add(struct tz_store_thread *t, uint64_t page, uint64_t entry)
{
	struct tz_store *s = t->store;
	struct tz_backing *b = &s->backing;
	unsigned bytes = tz_entry_units(entry) * TZ_UNIT, n = b->nr_items;
	struct tz_backing_item *item = &b->batch->items[n], *last = n ? item - 1 : NULL;

	if (n == TZ_BACKING_ITEMS)
		return 0;
	*item = (struct tz_backing_item){ page, entry, b->fill };
	/* The next member of a group that is there. */
	if (last && tz_entry_is_grouped(entry) && tz_entry_is_grouped(last->entry) &&
		tz_entry_offset(entry) == tz_entry_offset(last->entry)) {
		item->at = last->at;
		b->nr_items++;
		return 1;
	}
	/* (A group's members go into one batch.) */
	if (b->base + b->fill + bytes > TZ_BACKING_CHUNK ||
		(tz_entry_is_grouped(entry) && n + TZ_GROUP_PAGES > TZ_BACKING_ITEMS))
		return 0;
	memcpy(b->batch->bytes + b->fill, s->arena.base + tz_entry_offset(entry), bytes);
	b->fill += bytes;
	b->nr_items++;
	return 1;
}

void tz_backing_write(struct tz_store *s, int at_end)
{
	struct tz_backing *b = &s->backing;
	uint32_t end = (b->fill + TZ_BACKING_BLOCK - 1) / TZ_BACKING_BLOCK * TZ_BACKING_BLOCK;

	if (b->phase != TZ_BATCH_FILLING)
		return;
	if (!b->nr_items) {
		/* (Not even the first page fits into what is left of it.) */
		drop_chunk(s, b->base && !at_end ? TZ_BACKING_CHUNK - b->base : 0);
		return;
	}
	memset(b->batch->bytes + b->fill, 0, end - b->fill);
	b->fill = end;
	b->written[b->chunk / 64] |= 1ull << b->chunk % 64;
	b->phase = TZ_BATCH_WRITING;
	count_written(s, end);
	TZ_TEST_POINT("writing back");
	submit(b, TZ_IORING_OP_WRITE, (uint64_t)b->chunk * TZ_BACKING_CHUNK + b->base, end);
}

/* ---- exchanging entries ---- */

/* Between begin and end. The page is in the arena until its entry has been exchanged. */
static void publish_item(struct tz_store_thread *t, const struct tz_backing_item *item)
{
	struct tz_store *s = t->store;
	struct tz_backing *b = &s->backing;
	int damaged = 0, done = 0;
	uint64_t page = item->page;
	_Atomic uint64_t *slot = tz_table_slot(s, page, &damaged);
	uint64_t entry = slot ? tz_store_announce(t, slot) : 0, new;
	unsigned units = tz_entry_units(item->entry);

	TZ_TEST_POINT("written back");
	if (tz_entry_is_same_object(entry, item->entry) &&
		tz_entry_age(entry) >= tz_entry_age(item->entry) && tz_entry_check(page, entry) &&
		!tz_store_is_being_collected(s, page) &&
		!memcmp(s->arena.base + tz_entry_offset(entry), b->batch->bytes + item->at,
			units * TZ_UNIT)) {
		new = tz_entry_backed(page, tz_entry_kind(entry),
			(uint64_t)b->chunk * TZ_BACKING_CHUNK + b->base + item->at,
			tz_entry_length(entry));
		atomic_fetch_add(&b->live[b->chunk], units);
		done = atomic_compare_exchange_strong(slot, &entry, new);
		if (!done)
			atomic_fetch_sub(&b->live[b->chunk], units);
	}
	atomic_store_explicit(&t->hazard, 0, memory_order_release);
	if (!done)
		return;
	tz_store_account(t, page, entry, new, 1, NULL);
	TZ_STATS_SET(s->stats->backing.pages, s->stats->backing.pages + 1);
	if (item == b->batch->items || item->at != (item - 1)->at)
		TZ_STATS_SET(s->stats->backing.saved, s->stats->backing.saved + units * TZ_UNIT);
}

static void publish(struct tz_store_thread *t)
{
	struct tz_backing *b = &t->store->backing;

	for (unsigned i = 0; i < b->nr_items;) {
		unsigned end = i + PUBLISH_STEP < b->nr_items ? i + PUBLISH_STEP : b->nr_items;
		tz_store_begin(t);
		for (; i < end; i++)
			publish_item(t, &b->batch->items[i]);
		tz_store_free_set_aside(t);
		tz_store_end(t);
	}
	drop_chunk(t->store, b->fill);
	tz_housekeeping_wake(t->store);		/* for the holes that it leaves */
}

/* ---- giving back ---- */

static void punch(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;
	uint32_t first = 1;

	atomic_store(&b->emptied, 0);
	if (b->open && atomic_load(&b->live[b->open]) == 1)
		close_chunk(b);
	while (first < b->nr_chunks && !(is_written(b, first) && is_free(b, first)))
		first++;
	show_used(s);
	if (first >= b->nr_chunks || b->cannot_punch || atomic_load(&b->fd) < 0)
		return;
	for (b->chunks = 0; b->chunks < PUNCH_MOST && first + b->chunks < b->nr_chunks &&
		is_written(b, first + b->chunks) && is_free(b, first + b->chunks); b->chunks++)
		b->written[(first + b->chunks) / 64] &= ~(1ull << (first + b->chunks) % 64);
	b->chunk = first;
	b->phase = TZ_BATCH_PUNCHING;
	submit(b, TZ_IORING_OP_FALLOCATE, (uint64_t)first * TZ_BACKING_CHUNK,
		(uint64_t)b->chunks * TZ_BACKING_CHUNK);
}

static void punched(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;

	b->phase = TZ_BATCH_NONE;
	if (b->result == 0)
		TZ_STATS_SET(s->stats->backing_discarded,
			s->stats->backing_discarded + (uint64_t)b->chunks * TZ_BACKING_CHUNK);
	else
		b->cannot_punch = 1;	/* chunks are written again all the same */
	atomic_store(&b->emptied, 1);	/* there may be more */
	if (atomic_load(&b->state) == TZ_BACKING_FULL)
		tz_backing_set_state(s, TZ_BACKING_READY, "");
}

/* ---- turns ---- */

/* What comes after the operation that is done. t NULL: nothing of it is to count. */
static void go_on(struct tz_store *s, struct tz_store_thread *t)
{
	struct tz_backing *b = &s->backing;

	if (b->phase == TZ_BATCH_PUNCHING) {
		punched(s);
	} else if (b->result < 0 || !t) {
		if (b->result < 0)
			fail(s, b->result);
		drop_chunk(s, b->fill);
	} else if (b->phase == TZ_BATCH_WRITING && !b->direct) {
		b->phase = TZ_BATCH_SYNCING;
		submit(b, TZ_IORING_OP_FSYNC, 0, 0);
	} else {
		if (!b->direct)
			posix_fadvise(atomic_load(&b->fd), (off_t)b->chunk * TZ_BACKING_CHUNK,
				TZ_BACKING_CHUNK, POSIX_FADV_DONTNEED);
		publish(t);
		if (atomic_load(&b->state) == TZ_BACKING_FULL)
			tz_backing_set_state(s, TZ_BACKING_READY, "");
	}
}

static int is_under_way(const struct tz_backing *b)
{
	return b->phase > TZ_BATCH_FILLING;
}

void tz_backing_drain(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;

	while (is_under_way(b))
		if (poll(b, POLL_NS))
			go_on(s, NULL);
	tz_backing_abandon(s);
	close_chunk(b);
}

uint64_t tz_backing_turn(struct tz_store_thread *t, uint64_t now)
{
	struct tz_store *s = t->store;
	struct tz_backing *b = &s->backing;
	uint64_t next = TZ_NO_TURN;

	if (pthread_mutex_trylock(&b->lock))
		return now + POLL_NS;
	if (is_under_way(b) && poll(b, 0))
		go_on(s, t);
	if (b->phase == TZ_BATCH_NONE && b->nr_chunks && atomic_load(&b->emptied))
		punch(s);
	if (is_under_way(b))
		next = tz_now_ns() + POLL_NS;
	pthread_mutex_unlock(&b->lock);
	return next;
}
