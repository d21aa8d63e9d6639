/* queue_ublk.c - one ublk queue: fetch requests from the kernel, serve them from the store, commit, fetch again.
 *
 * Every tag is always either in the kernel (fetched or committed: `outstanding`) or in our hands. A drain takes all
 * completions that are there, reads their descriptors and prefetches their page-table entries, serves them one after another, and
 * submits all commits with the one system call that also waits for the next completion.
 *
 * Data: with USER_COPY (6.5 and later) a request's pages are read from or written to the char device, one buffer per queue. Without it
 * every tag has a buffer of its own, whose address goes with the fetch.
 *
 * A write that finds the slab reserve empty while memory is still to be had is put aside and tried again after the other
 * requests, from the page it had come to, for RETRY_NS at most. A swap write waits no longer than SWAP_RETRY_NS: the pages
 * that writes before it have freed reach the slab thread within that time, or it waits for what it is itself to free, and
 * must fail (the kernel keeps the page and tries another).
 *
 * The end: STOP_DEV completes every outstanding command with -ENODEV; the thread leaves when none is outstanding.
 */
#include "queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RETRY_NS 30000000000ull	/* well below the 120 s of a hung task */
#define SWAP_RETRY_NS 200000000ull
#define RETRY_WAIT_NS 1000000ull
#define BATCH 64

struct ublk_queue {
	struct tz_queue *q;
	struct tz_uring ring;
	const volatile struct ublk_io_desc *descs;
	size_t descs_len;
	uint8_t *buffers;		/* per tag, without USER_COPY */
	uint32_t fetch_op, commit_op;
	unsigned outstanding;
	int stopping;
	unsigned nr_waiting;
	struct waiting { uint16_t tag; uint32_t done; uint64_t since; } *waiting;
};

static int queue_command(struct ublk_queue *u, uint32_t op, unsigned tag, int result)
{
	struct tz_sqe *sqe = tz_uring_sqe(&u->ring);
	struct ublk_io_cmd cmd = { .q_id = (uint16_t)u->q->index, .tag = (uint16_t)tag, .result = result };

	if (!sqe)
		return -EBUSY;	/* cannot be: the ring has an entry per tag */
	if (u->buffers)
		cmd.addr = (uint64_t)(uintptr_t)(u->buffers + (size_t)tag * TZ_UBLK_MAX_IO);
	sqe->opcode = TZ_IORING_OP_URING_CMD;
	sqe->flags = TZ_IOSQE_FIXED_FILE;
	sqe->fd = 0;
	sqe->cmd_op = op;
	sqe->user_data = tag;
	memcpy(sqe->cmd, &cmd, sizeof cmd);
	u->outstanding++;
	return 0;
}

static struct tz_io io_of(const struct ublk_queue *u, unsigned tag)
{
	const volatile struct ublk_io_desc *d = &u->descs[tag];
	uint32_t op_flags = d->op_flags;

	return (struct tz_io){ .op = op_flags & 0xff, .swap = (op_flags & UBLK_IO_F_SWAP) != 0,
		.page = d->start_sector / 8, .nr_pages = d->nr_sectors / 8 };
}

/* Moves a request's data between the kernel and our buffer. 0 or -EIO. */
static int copy_data(struct ublk_queue *u, unsigned tag, const struct tz_io *io, uint8_t *data, int out)
{
	size_t len = (size_t)io->nr_pages * TZ_PAGE_SIZE;
	off_t at = (off_t)ublk_data_offset(u->q->index, tag);
	int fd = u->q->ublk->char_fd;

	if (u->buffers)
		return 0;
	ssize_t n = out ? pwrite(fd, data, len, at) : pread(fd, data, len, at);
	return n == (ssize_t)len ? 0 : -EIO;
}

/* Serves one request. The result for the kernel, or -EAGAIN. */
static int serve(struct ublk_queue *u, unsigned tag, struct tz_io *io)
{
	uint8_t *data = u->buffers ? u->buffers + (size_t)tag * TZ_UBLK_MAX_IO : u->q->data;
	size_t len = (size_t)io->nr_pages * TZ_PAGE_SIZE;
	int moves = io->op == UBLK_IO_OP_READ || io->op == UBLK_IO_OP_WRITE, rc = 0;

	if (moves && len > TZ_UBLK_MAX_IO)
		return -EINVAL;
	if (io->op == UBLK_IO_OP_WRITE)
		rc = copy_data(u, tag, io, data, 0);
	if (rc == 0)
		rc = tz_queue_serve(u->q, io, data);
	if (rc == 0 && io->op == UBLK_IO_OP_READ)
		rc = copy_data(u, tag, io, data, 1);
	return rc < 0 ? rc : moves ? (int)len : 0;
}

static void answer(struct ublk_queue *u, unsigned tag, const struct tz_io *io, int result, uint64_t since)
{
	tz_queue_count(u->q, io, result, tz_now_ns() - since);
	queue_command(u, u->commit_op, tag, result);
}

static void handle(struct ublk_queue *u, unsigned tag, uint64_t since)
{
	struct tz_io io = io_of(u, tag);
	int rc = serve(u, tag, &io);

	if (rc == -EAGAIN) {
		u->waiting[u->nr_waiting++] = (struct waiting){ (uint16_t)tag, io.done, since };
		__atomic_store_n(&u->q->stats->deferred_writes, u->q->stats->deferred_writes + 1, __ATOMIC_RELAXED);
		return;
	}
	answer(u, tag, &io, rc, since);
}

/* Tries again what waits for memory, in order: when one still finds none, those after it are not tried. */
static void retry_waiting(struct ublk_queue *u)
{
	unsigned kept = 0, n = u->nr_waiting;
	uint64_t now = tz_now_ns();
	int starved = 0;

	for (unsigned i = 0; i < n; i++) {
		struct waiting w = u->waiting[i];
		struct tz_io io = io_of(u, w.tag);
		io.done = w.done;
		int rc = starved ? -EAGAIN : serve(u, w.tag, &io);
		starved |= rc == -EAGAIN;
		w.done = io.done;
		if (rc == -EAGAIN && (u->stopping || now - w.since > (io.swap ? SWAP_RETRY_NS : RETRY_NS)))
			rc = -ENOSPC;
		if (rc == -EAGAIN)
			u->waiting[kept++] = w;
		else
			answer(u, w.tag, &io, rc, w.since);
	}
	u->nr_waiting = kept;
}

/* Takes up to BATCH completions. Returns the number of tags to serve. */
static unsigned take(struct ublk_queue *u, uint16_t *tags)
{
	unsigned n = 0;
	struct tz_cqe *cqe;

	while (n < BATCH && (cqe = tz_uring_peek(&u->ring))) {
		unsigned tag = (unsigned)cqe->user_data;
		int res = cqe->res;
		tz_uring_seen(&u->ring);
		u->outstanding--;
		if (res == 0)
			tags[n++] = (uint16_t)tag;
		else
			u->stopping = 1;	/* -ENODEV: the device is being stopped; anything else: so is the queue */
	}
	return n;
}

static void drain(struct ublk_queue *u)
{
	uint16_t tags[BATCH];
	uint64_t start = tz_now_ns();
	unsigned n;

	tz_store_begin(u->q->store);
	while ((n = take(u, tags)) > 0) {
		for (unsigned i = 0; i < n; i++)
			tz_store_prefetch_entry(u->q->store, io_of(u, tags[i]).page % u->q->nr_pages);
		for (unsigned i = 0; i < n; i++) {
			if (i + 1 < n)
				tz_store_prefetch_object(u->q->store, io_of(u, tags[i + 1]).page % u->q->nr_pages);
			handle(u, tags[i], start);
		}
	}
	if (u->nr_waiting)
		retry_waiting(u);
	tz_store_end(u->q->store);
	struct tz_queue_stats *s = u->q->stats;
	__atomic_store_n(&s->drains, s->drains + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&s->busy_ns, s->busy_ns + (tz_now_ns() - start), __ATOMIC_RELAXED);
}

static void serve_until_stopped(struct ublk_queue *u)
{
	while (u->outstanding || u->nr_waiting) {
		int rc = tz_uring_enter(&u->ring, u->outstanding ? 1 : 0, u->nr_waiting ? RETRY_WAIT_NS : 0);
		if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
			return;
		drain(u);
	}
}

static int set_up(struct ublk_queue *u)
{
	struct tz_queue *q = u->q;
	size_t most = 4096 * sizeof(struct ublk_io_desc);
	int rc = tz_uring_init(&u->ring, q->depth, 0);

	if (rc < 0)
		return rc;
	rc = tz_uring_register_file(&u->ring, q->ublk->char_fd);
	if (rc < 0)
		return rc;
	u->descs_len = (q->depth * sizeof(struct ublk_io_desc) + 4095) & ~(size_t)4095;
	void *descs = mmap(NULL, u->descs_len, PROT_READ, MAP_SHARED | MAP_POPULATE, q->ublk->char_fd,
		(off_t)(q->index * most));
	if (descs == MAP_FAILED)
		return -errno;
	u->descs = descs;
	u->waiting = calloc(q->depth, sizeof *u->waiting);
	if (!u->waiting)
		return -ENOMEM;
	if (!(q->ublk->info.flags & UBLK_F_USER_COPY)) {
		u->buffers = mmap(NULL, (size_t)q->depth * TZ_UBLK_MAX_IO, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (u->buffers == MAP_FAILED) {
			u->buffers = NULL;
			return -ENOMEM;
		}
		if (mlock(u->buffers, (size_t)q->depth * TZ_UBLK_MAX_IO) < 0)
			return -errno;
	}
	int encoded = q->ublk->ioctl_encoded;
	u->fetch_op = encoded ? (uint32_t)_IOWR('u', UBLK_IO_FETCH_REQ, struct ublk_io_cmd) : UBLK_IO_FETCH_REQ;
	u->commit_op = encoded ? (uint32_t)_IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublk_io_cmd)
		: UBLK_IO_COMMIT_AND_FETCH_REQ;
	for (unsigned tag = 0; tag < q->depth && rc == 0; tag++)
		rc = queue_command(u, u->fetch_op, tag, -1);
	return rc < 0 ? rc : tz_uring_enter(&u->ring, 0, 0);
}

static void tear_down(struct ublk_queue *u)
{
	tz_uring_exit(&u->ring);
	if (u->descs)
		munmap((void *)(uintptr_t)u->descs, u->descs_len);
	if (u->buffers)
		munmap(u->buffers, (size_t)u->q->depth * TZ_UBLK_MAX_IO);
	free(u->waiting);
}

void tz_queue_run_ublk(struct tz_queue *q)
{
	struct ublk_queue u = { .q = q };
	int rc = set_up(&u);

	if (rc < 0) {
		atomic_store(&q->state, rc);
	} else {
		tz_queue_serving(q);
		serve_until_stopped(&u);
	}
	tear_down(&u);
}
