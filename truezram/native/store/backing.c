/* backing.c - the backing file: what it is, how one is opened, known again and given up (interface:
 * backing.h; backing_write.c writes to it, backing_read.c reads).
 *
 * An object that nobody has used for long is copied to a file, byte for byte as it is in the arena:
 * with its owner and its checksum, so that whatever happens to the file is noticed, and costs the
 * pages that it happened to. The page's entry then says where it is in the file. A group goes as
 * a whole, and so keeps its ratio.
 *
 * The file is written in chunks of 128 KiB, each of them once, from its beginning to what there was
 * to write. How much of a chunk entries name is counted, privately, and counted again from the page
 * table after a crash; when nothing is named any more the chunk is given back to the file system
 * (FALLOC_FL_PUNCH_HOLE) and may be written again. That is all there is of an allocator: four bytes
 * of memory for 128 KiB of file.
 *
 * An entry is changed only after the file has the bytes: a server that dies in between leaves the
 * object in the arena, and a chunk that nobody names. Durability beyond that is not needed: the
 * arena itself is memory. The file is opened with O_DIRECT where that is possible (the page cache
 * would take back the memory that was gained); where it is not, each chunk is synced, because only
 * then are errors known.
 *
 * Reading takes no lock and no hazard: the entry is looked at, the bytes are read, the entry is
 * looked at again. If it still is the same the bytes are this page's (owner, checksum), and if not
 * it begins anew. A chunk may be given back and written again meanwhile.
 *
 * Which file belongs to an arena both say: the arena's head has the file's uuid, device and inode,
 * the file's first block the arena's uuid, the file's, and the generation: that of the server that
 * has it open. So a copy of the file from the time of an earlier server, whose objects would pass
 * for newer ones, is refused. A file that is refused or cannot be opened costs what is on it, and
 * nothing else; `tz_store_set_backing` with the same path tries again.
 */
#include "backing.h"
#include "store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEAST_CHUNKS 2u		/* the head's, and one */

_Static_assert(sizeof(struct tz_backing_head) <= TZ_BACKING_BLOCK, "the head is in one block");

/* ---- state ---- */

void tz_backing_set_state(struct tz_store *s, enum tz_backing_state state, const char *text)
{
	struct tz_stats *to = s->stats;

	atomic_store(&s->backing.state, state);
	tz_stats_head_begin(to);
	TZ_STATS_SET(to->backing_state, state);
	tz_stats_set_text(to->backing_text, sizeof to->backing_text, text);
	tz_stats_head_end(to);
	if (*text) {
		tz_stats_error(to, text);
		tz_policy_tell(s);
	}
}

/* What the arena's head says. */
static void show(struct tz_store *s)
{
	const struct tz_arena_head *h = &s->arena.head;
	struct tz_stats *to = s->stats;

	atomic_store(&s->backing.daily, h->backing_daily);
	atomic_store(&s->backing.rate, h->backing_rate);
	tz_stats_head_begin(to);
	TZ_STATS_SET(to->backing_limit, h->backing_size);
	TZ_STATS_SET(to->backing_daily, h->backing_daily);
	TZ_STATS_SET(to->backing_rate, h->backing_rate);
	tz_stats_set_text(to->backing_path, sizeof to->backing_path, h->backing_path);
	tz_stats_head_end(to);
}

static uint64_t pages_there(const struct tz_store *s)
{
	int64_t n = 0;

	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++)
		n += __atomic_load_n(
			&s->threads[i].stats->kind_pages_now[TZ_KIND_BACKED], __ATOMIC_RELAXED);
	return n > 0 ? (uint64_t)n : 0;
}

/* ---- the file ---- */

struct opened {
	int fd, direct, is_device;
	uint64_t size, device, inode;
};

static ssize_t block_at_0(int fd, void *block, int write)
{
	ssize_t n;

	do
		n = write ? pwrite(fd, block, TZ_BACKING_BLOCK, 0)
			  : pread(fd, block, TZ_BACKING_BLOCK, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* With O_DIRECT, if the file system can do that at our size of blocks. */
static int open_direct(const char *path, int flags, int *direct)
{
	static _Alignas(TZ_BACKING_BLOCK) uint8_t block[TZ_BACKING_BLOCK];
	int fd = open(path, flags | O_DIRECT, 0600);

	*direct = fd >= 0 && block_at_0(fd, block, 0) >= 0;
	if (*direct || (fd < 0 && errno != EINVAL))
		return fd;
	if (fd >= 0)
		close(fd);
	return open(path, flags, 0600);
}

static int refuse(int err, char *why, size_t why_size, const char *path, const char *what)
{
	snprintf(why, why_size, "backing file %.120s: %s", path, what);
	return err;
}

static int look_at_file(struct opened *f, const char *path, char *why, size_t why_size)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return refuse(-errno, why, why_size, path, strerror(errno));
	f->is_device = S_ISBLK(st.st_mode);
	if (!f->is_device && !S_ISREG(st.st_mode))
		return refuse(-EINVAL, why, why_size, path,
			"it is neither a regular file nor a block device");
	f->device = f->is_device ? st.st_rdev : st.st_dev;
	f->inode = f->is_device ? 0 : st.st_ino;
	off_t end = f->is_device ? lseek(f->fd, 0, SEEK_END) : st.st_size;
	f->size = end > 0 ? (uint64_t)end : 0;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		return refuse(-EBUSY, why, why_size, path, "another program has it locked");
	return 0;
}

/* 0 or negative errno with why. create: a file that is not there is made. */
static int open_file(
	struct opened *f, const char *path, int create, char *why, size_t why_size)
{
	struct stat st;
	int is_device = stat(path, &st) == 0 && S_ISBLK(st.st_mode), rc;
	/* A node that is not there (yet) is not to become a file, which would not be encrypted. */
	int may_make = create &&
		(strncmp(path, "/dev/", 5) || !strncmp(path, "/dev/shm/", 9));
	/* O_EXCL without O_CREAT: of a block device, that nobody has mounted or swaps to it. */
	int flags = O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
		(is_device ? O_EXCL : may_make ? O_CREAT : 0);

	*f = (struct opened){ .fd = open_direct(path, flags, &f->direct) };
	if (f->fd < 0)
		return refuse(-errno, why, why_size, path, errno == EBUSY
				? "it is in use (mounted, swap, or below another device)"
				: strerror(errno));
	int direct = (fcntl(f->fd, F_GETFL) & O_DIRECT) != 0;
	rc = look_at_file(f, path, why, why_size);
	f->direct = direct;
	if (rc < 0)
		close(f->fd);
	return rc;
}

/* ---- the file's head ---- */

static _Alignas(TZ_BACKING_BLOCK) uint8_t head_block[TZ_BACKING_BLOCK];

static uint32_t head_crc(void)
{
	uint8_t copy[TZ_BACKING_BLOCK];

	memcpy(copy, head_block, sizeof copy);
	memset(copy + offsetof(struct tz_backing_head, crc), 0, sizeof(uint32_t));
	return tz_crc32c(0, copy, sizeof copy);
}

/* From one thread at a time: 1 and *head, 0: there is none of ours, or negative errno. */
static int read_head(int fd, struct tz_backing_head *head)
{
	ssize_t n = block_at_0(fd, head_block, 0);

	memcpy(head, head_block, sizeof *head);
	if (n < 0)
		return (int)n;
	return n == (ssize_t)TZ_BACKING_BLOCK &&
		!memcmp(head->magic, TZ_BACKING_MAGIC, sizeof head->magic) &&
		head->version == TZ_BACKING_VERSION && head->crc == head_crc();
}

static int write_head(const struct tz_store *s, int fd, uint64_t generation)
{
	const struct tz_arena_head *h = &s->arena.head;
	struct tz_backing_head head = { .magic = TZ_BACKING_MAGIC,
		.version = TZ_BACKING_VERSION, .generation = generation, .size = h->backing_size };
	ssize_t n;

	memcpy(head.arena, h->uuid, sizeof head.arena);
	memcpy(head.uuid, h->backing_uuid, sizeof head.uuid);
	memset(head_block, 0, sizeof head_block);
	memcpy(head_block, &head, sizeof head);
	head.crc = head_crc();
	memcpy(head_block, &head, sizeof head);
	n = block_at_0(fd, head_block, 1);
	if (n != (ssize_t)TZ_BACKING_BLOCK)
		return n < 0 ? (int)n : -ENOSPC;
	return fdatasync(fd) < 0 ? -errno : 0;
}

/* Whether this is the file that the arena's head names, as our server, or the one before, left it.
 * NULL, or why not. */
static const char *identity_fault(const struct tz_store *s, const struct opened *f)
{
	const struct tz_arena_head *h = &s->arena.head;
	struct tz_backing_head head;
	int rc;

	if (f->device != h->backing_device || f->inode != h->backing_inode)
		return "it is another file than it was";
	if (f->size < h->backing_size)
		return "it has been cut short";
	rc = read_head(f->fd, &head);
	if (rc < 0)
		return strerror(-rc);
	if (!rc || memcmp(head.arena, h->uuid, sizeof head.arena) ||
		memcmp(head.uuid, h->backing_uuid, sizeof head.uuid))
		return "it belongs to another device, or its head is damaged";
	if (head.generation != h->generation && head.generation != h->generation + 1)
		return "it is a copy from another time";
	return NULL;
}

/* ---- what it takes ---- */

static void unmap_counts(struct tz_backing *b)
{
	if (b->live)
		munmap(b->live, b->map_size);
	b->live = NULL;
	b->written = NULL;
	b->nr_chunks = 0;
}

/* Address space that becomes memory as the file is used. */
static int map_counts(struct tz_backing *b, uint64_t size, char *why, size_t why_size)
{
	uint32_t chunks = (uint32_t)(size / TZ_BACKING_CHUNK);
	size_t live = (chunks * sizeof *b->live + 63) & ~(size_t)63;

	b->map_size = live + (chunks / 64 + 1) * sizeof *b->written;
	void *map = mmap(NULL, b->map_size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (map == MAP_FAILED) {
		snprintf(why, why_size, "no memory for a backing file of %llu MiB",
			(unsigned long long)size >> 20);
		return -ENOMEM;
	}
	b->live = map;
	b->written = (uint64_t *)(void *)((char *)map + live);
	b->nr_chunks = chunks;
	return 0;
}

static int make_buffers(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_backing *b = &s->backing;
	int err = 0;

	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++) {
		struct tz_store_thread *t = &s->threads[i];
		if (i == s->nr_threads + TZ_COLLECTOR || atomic_load(&t->backing))
			continue;
		struct tz_backing_reader *r = tz_store_map_locked(
			sizeof *r, "the backing file", "", &err, why, why_size);
		if (!r)
			return err;
		atomic_store(&t->backing, r);
	}
	if (!b->batch)
		b->batch = tz_store_map_locked(
			sizeof *b->batch, "the backing file", "", &err, why, why_size);
	return b->batch ? 0 : err;
}

/* ---- counts ---- */

const char *tz_backing_fault(const struct tz_store *s, uint64_t entry)
{
	const struct tz_backing *b = &s->backing;
	unsigned as = tz_backed_as(entry);
	uint64_t first = tz_backed_offset(entry),
		 last = first + tz_backed_units(entry) * TZ_UNIT - 1;

	if (!b->nr_chunks || as < TZ_KIND_SAME_U64 || !tz_kind_is_stored(as) ||
		as == TZ_KIND_BACKED ||
		(as == TZ_KIND_GROUP &&
			!atomic_load_explicit(&s->groups.on, memory_order_acquire)))
		return "entry of an unknown kind";
	if (first < TZ_BACKING_CHUNK || first / TZ_BACKING_CHUNK != last / TZ_BACKING_CHUNK ||
		last / TZ_BACKING_CHUNK >= b->nr_chunks)
		return "entry out of range";
	return NULL;
}

void tz_backing_release(struct tz_store *s, uint64_t entry)
{
	struct tz_backing *b = &s->backing;
	unsigned units = tz_backed_units(entry);
	_Atomic uint32_t *live = &b->live[tz_backed_offset(entry) / TZ_BACKING_CHUNK];

	/* (One that is left may be the batch's.) */
	if (atomic_fetch_sub(live, units) > units + 1)
		return;
	atomic_store(&b->emptied, 1);
	tz_housekeeping_wake(s);
}

void tz_backing_forget_counts(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;

	if (b->live)
		memset(b->live, 0, b->map_size);
}

void tz_backing_adopt(struct tz_store *s, uint64_t entry)
{
	struct tz_backing *b = &s->backing;
	uint32_t chunk = (uint32_t)(tz_backed_offset(entry) / TZ_BACKING_CHUNK);

	atomic_fetch_add_explicit(&b->live[chunk], tz_backed_units(entry), memory_order_relaxed);
}

/* ---- attaching ---- */

int tz_backing_attach(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_arena_head *h = &s->arena.head;
	struct tz_backing *b = &s->backing;
	struct opened f;
	const char *fault;
	char text[200];
	int rc;

	h->backing_path[sizeof h->backing_path - 1] = 0;
	if (!(h->incompatible & TZ_ARENA_BACKING) || h->backing_size > TZ_BACKING_MAX ||
		h->backing_size < LEAST_CHUNKS * TZ_BACKING_CHUNK)
		return 0;
	if ((rc = map_counts(b, h->backing_size, why, why_size)) < 0 ||
		(rc = make_buffers(s, why, why_size)) < 0)
		return rc;
	show(s);
	rc = open_file(&f, h->backing_path, 0, text, sizeof text);
	if (rc == 0 && (fault = identity_fault(s, &f))) {
		rc = refuse(-EINVAL, text, sizeof text, h->backing_path, fault);
		close(f.fd);
	}
	if (rc < 0) {
		tz_backing_set_state(s, TZ_BACKING_MISSING, text);
		return 0;
	}
	b->direct = f.direct;
	b->is_device = f.is_device;
	atomic_store(&b->fd, f.fd);
	return 0;
}

/* (What of the file nobody names was being written, or given back, when the server before died.) */
static void find_written(struct tz_backing *b)
{
	for (uint32_t chunk = 1; chunk < b->nr_chunks; chunk++)
		b->written[chunk / 64] |= 1ull << chunk % 64;
	atomic_store(&b->emptied, 1);
}

void tz_backing_resume(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;
	char why[200];
	int fd = atomic_load(&b->fd), rc;

	if (fd < 0)
		return;
	find_written(b);
	rc = write_head(s, fd, s->arena.head.generation + 1);
	if (rc < 0) {
		refuse(rc, why, sizeof why, s->arena.head.backing_path, strerror(-rc));
		tz_backing_set_state(s, TZ_BACKING_FAILED, why);
	} else {
		tz_backing_set_state(s, TZ_BACKING_READY, "");
	}
}

/* ---- changing it ---- */

/* So that nothing of what was stored stays behind, as far as the file can do that. */
static void erase(int fd, int is_device)
{
	memset(head_block, 0, sizeof head_block);
	if (is_device) {
		off_t size = lseek(fd, 0, SEEK_END);
		block_at_0(fd, head_block, 1);
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size);
	} else if (ftruncate(fd, 0) < 0) {
		block_at_0(fd, head_block, 1);
	}
}

/* Nobody uses the file any more: no page is there. */
static void give_up(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;
	struct tz_arena_head *h = &s->arena.head;
	int fd = atomic_exchange(&b->fd, -1);

	h->incompatible &= ~TZ_ARENA_BACKING;
	memset(h->backing_uuid, 0, sizeof h->backing_uuid);
	memset(h->backing_path, 0, sizeof h->backing_path);
	h->backing_device = h->backing_inode = h->backing_size = 0;
	tz_arena_write_head(&s->arena);
	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++)
		tz_store_wait_outside(&s->threads[i].turns, NULL);
	if (fd >= 0) {
		erase(fd, b->is_device);
		close(fd);
	}
	unmap_counts(b);
	TZ_STATS_SET(s->stats->backing_used, 0);
	tz_backing_set_state(s, TZ_BACKING_NONE, "");
	show(s);
}

/* How much of it is to be used. 0: why says why nothing. */
static uint64_t usable(const struct tz_store *s, const struct opened *f, uint64_t limit, char *why,
	size_t why_size, const char *path)
{
	uint64_t size = limit ? limit : f->size ? f->size : s->arena.head.disksize;

	if (f->is_device && size > f->size)
		size = f->size;
	if (size > TZ_BACKING_MAX)
		size = TZ_BACKING_MAX;
	size -= size % TZ_BACKING_CHUNK;
	if (size >= LEAST_CHUNKS * TZ_BACKING_CHUNK)
		return size;
	refuse(0, why, why_size, path, "it must have 256 KiB at least");
	return 0;
}

/* A file that has something in it which is not ours is not written over. */
static int prepare_file(const struct opened *f, uint64_t size, const char *path, char *why,
	size_t why_size)
{
	struct tz_backing_head head;

	if (f->is_device)
		return 0;
	if (f->size && read_head(f->fd, &head) != 1)
		return refuse(-EINVAL, why, why_size, path,
			"it is not empty, and no backing file: give another name, or empty it");
	if (ftruncate(f->fd, 0) < 0 || ftruncate(f->fd, (off_t)size) < 0)
		return refuse(-errno, why, why_size, path, strerror(errno));
	return 0;
}

static void name_in_head(struct tz_arena_head *h, const struct opened *f, uint64_t size,
	const char *path)
{
	h->backing_device = f->device;
	h->backing_inode = f->inode;
	h->backing_size = size;
	snprintf(h->backing_path, sizeof h->backing_path, "%s", path);
}

/* From here on it is the file. */
static void use(struct tz_store *s, const struct opened *f)
{
	struct tz_backing *b = &s->backing;

	b->direct = f->direct;
	b->is_device = f->is_device;
	b->cannot_punch = 0;
	atomic_store(&b->paused, 0);
	atomic_store(&b->fd, f->fd);
	tz_backing_set_state(s, TZ_BACKING_READY, "");
}

/* A new one, with nothing on it. */
static int take_new(struct tz_store *s, const char *path, uint64_t limit, char *why,
	size_t why_size)
{
	struct tz_backing *b = &s->backing;
	struct tz_arena_head *h = &s->arena.head;
	struct opened f;
	uint64_t size;
	int rc = open_file(&f, path, 1, why, why_size);

	if (rc < 0)
		return rc;
	size = usable(s, &f, limit, why, why_size, path);
	rc = size ? prepare_file(&f, size, path, why, why_size) : -EINVAL;
	if (rc == 0 && getrandom(h->backing_uuid, sizeof h->backing_uuid, 0) < 0)
		rc = refuse(-errno, why, why_size, path, "no random bytes");
	if (rc == 0 && (rc = map_counts(b, size, why, why_size)) == 0)
		rc = make_buffers(s, why, why_size);
	if (rc == 0) {
		name_in_head(h, &f, size, path);
		rc = write_head(s, f.fd, h->generation);
		if (rc < 0)
			refuse(rc, why, why_size, path, strerror(-rc));
	}
	if (rc < 0) {
		close(f.fd);
		give_up(s);
		return rc;
	}
	h->incompatible |= TZ_ARENA_BACKING;
	tz_arena_write_head(&s->arena);
	show(s);
	use(s, &f);
	return 0;
}

/* The same once more, after it had failed or was missing. */
static int take_again(struct tz_store *s, char *why, size_t why_size)
{
	struct tz_backing *b = &s->backing;
	const char *path = s->arena.head.backing_path, *fault;
	struct opened f;
	int rc, before = atomic_exchange(&b->fd, -1);

	for (unsigned i = 0; i < s->nr_threads + TZ_OWN_THREADS; i++)
		tz_store_wait_outside(&s->threads[i].turns, NULL);
	if (before >= 0)
		close(before);		/* it has the lock */
	rc = open_file(&f, path, 0, why, why_size);
	if (rc == 0 && (fault = identity_fault(s, &f))) {
		rc = refuse(-EINVAL, why, why_size, path, fault);
		close(f.fd);
	}
	if (rc == 0 && (rc = write_head(s, f.fd, s->arena.head.generation)) < 0) {
		refuse(rc, why, why_size, path, strerror(-rc));
		close(f.fd);
	}
	if (rc < 0) {
		tz_backing_set_state(s, TZ_BACKING_MISSING, why);
		return rc;
	}
	find_written(b);
	use(s, &f);
	return 0;
}

static int set_locked(struct tz_store *s, const char *path, uint64_t limit, char *why,
	size_t why_size)
{
	struct tz_arena_head *h = &s->arena.head;
	uint64_t there;

	tz_backing_drain(s);
	there = pages_there(s);
	if (path && s->backing.nr_chunks && there && !strcmp(path, h->backing_path))
		return take_again(s, why, why_size);
	if (there) {
		snprintf(why, why_size, "%llu pages are on the backing file: bring them back first",
			(unsigned long long)there);
		return -EBUSY;
	}
	if (s->backing.nr_chunks)
		give_up(s);
	return path ? take_new(s, path, limit, why, why_size) : 0;
}

int tz_store_set_backing(struct tz_store *s, const char *path, uint64_t limit, char *why,
	size_t why_size)
{
	int rc;

	if (path && (*path != '/' || strlen(path) > TZ_BACKING_PATH)) {
		snprintf(why, why_size,
			"the path of a backing file is absolute, and has up to %u bytes",
			TZ_BACKING_PATH);
		return -EINVAL;
	}
	pthread_mutex_lock(&s->backing.lock);
	rc = set_locked(s, path, limit, why, why_size);
	pthread_mutex_unlock(&s->backing.lock);
	tz_housekeeping_wake(s);
	return rc;
}

void tz_store_set_backing_budget(struct tz_store *s, uint64_t daily, uint64_t rate)
{
	s->arena.head.backing_daily = daily;
	s->arena.head.backing_rate = rate;
	tz_arena_write_head(&s->arena);
	show(s);
	tz_housekeeping_wake(s);
}

void tz_store_backing_budget(const struct tz_store *s, uint64_t *daily, uint64_t *rate)
{
	*daily = s->arena.head.backing_daily;
	*rate = s->arena.head.backing_rate;
}

/* ---- the beginning and the end ---- */

void tz_backing_init(struct tz_store *s)
{
	static const uint8_t ops[] = { TZ_IORING_OP_FSYNC, TZ_IORING_OP_FALLOCATE,
		TZ_IORING_OP_WRITE };
	struct tz_backing *b = &s->backing;

	pthread_mutex_init(&b->lock, NULL);
	atomic_store(&b->fd, -1);
	b->has_ring = tz_uring_init(&b->ring, 2, TZ_URING_SHARED) == 0;
	if (b->has_ring && tz_uring_enable(&b->ring, ops, sizeof ops) < 0) {
		tz_uring_exit(&b->ring);
		b->has_ring = 0;
	}
}

void tz_store_erase_backing(struct tz_store *s)
{
	int fd = atomic_load(&s->backing.fd);

	if (fd >= 0)
		erase(fd, s->backing.is_device);
}

void tz_backing_destroy(struct tz_store *s)
{
	struct tz_backing *b = &s->backing;
	int fd = atomic_load(&b->fd);

	if (b->has_ring) {
		tz_backing_drain(s);
		tz_uring_exit(&b->ring);
	}
	for (unsigned i = 0; s->threads && i < s->nr_threads + TZ_OWN_THREADS; i++) {
		struct tz_backing_reader *r = atomic_load(&s->threads[i].backing);
		if (r)
			munmap(r, sizeof *r);
	}
	if (b->batch)
		munmap(b->batch, sizeof *b->batch);
	unmap_counts(b);
	if (fd >= 0)
		close(fd);
}
