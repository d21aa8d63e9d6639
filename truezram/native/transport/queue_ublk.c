/* queue_ublk.c - one ublk queue: fetch requests from the kernel, serve them from the store, commit,
 * fetch again.
 *
 * Every tag is in the kernel (fetched or committed: `outstanding`), in our hands (a request that is
 * served or waits), or its command has been refused. Commits are gathered and go out with the one
 * system call that also waits for the next completion; the rounds of queue.c send them earlier when
 * there is much to do.
 *
 * Data: with USER_COPY (6.5 and later) a request's pages are read from or written to the char
 * device, one buffer per queue. Without it every tag has a buffer of its own, whose address goes
 * with the fetch. These are small, and so are the device's requests (ublk.h).
 *
 * Trouble: a command that completes with anything but a request (0) or the end (-ENODEV) is sent
 * again, as it was, every REFUSED_NS; an io_uring_enter that fails is tried again, ever more
 * slowly. Neither ends the queue: with it a swap device would go. Both are counted, and the control
 * thread logs them.
 *
 * The end: STOP_DEV completes every outstanding command with -ENODEV; the thread leaves when none
 * is outstanding.
 */
#include "clock.h"
#include "queue.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FETCHED UINT64_MAX		/* in place of a tag */
#define REFUSED_NS 10000000u
#define ENTER_PAUSE_NS 1000000u		/* after a failure, doubled with each that follows */
#define ENTER_PAUSE_DOUBLINGS 7u

struct ublk_queue {
	struct tz_queue *q;
	struct tz_uring ring;
	const volatile struct ublk_io_desc *descs;
	size_t descs_len;
	uint8_t *buffers;		/* without USER_COPY: for each tag */
	size_t buffer_size;
	uint32_t fetch_op, commit_op;
	unsigned outstanding;
	struct tz_io_list refused;	/* tags whose command is to be sent again */
	uint64_t refused_at;		/* when the last ones were sent, or the first came in */
};

/* ---- commands ---- */

static void refuse(struct ublk_queue *u, unsigned tag, enum tz_trouble what, int err)
{
	if (u->refused.n == 0)
		u->refused_at = tz_now_ns();
	tz_io_push(u->q, &u->refused, tag);
	tz_queue_trouble(u->q, what, err);
}

static uint8_t *buffer_of(const struct ublk_queue *u, unsigned tag)
{
	return u->buffers + tag * u->buffer_size;
}

/* Sends a tag's command: what is in `mark`, with `result`. */
static void send_command(struct ublk_queue *u, unsigned tag)
{
	const struct tz_io *io = &u->q->ios[tag];
	struct ublk_io_cmd cmd =
		{ .q_id = (uint16_t)u->q->index, .tag = (uint16_t)tag, .result = io->result };
	struct tz_sqe *sqe = tz_uring_sqe(&u->ring);

	if (!sqe) {		/* an entry per tag is enough as long as enter does not fail */
		tz_uring_enter(&u->ring, 0);
		sqe = tz_uring_sqe(&u->ring);
	}
	if (!sqe) {
		refuse(u, tag, TZ_TROUBLE_FULL, EBUSY);
		return;
	}
	if (u->buffers)
		cmd.addr = (uint64_t)(uintptr_t)buffer_of(u, tag);
	sqe->opcode = TZ_IORING_OP_URING_CMD;
	sqe->flags = TZ_IOSQE_FIXED_FILE;
	sqe->fd = 0;
	sqe->cmd_op = io->mark;
	sqe->user_data = tag;
	memcpy(sqe->cmd, &cmd, sizeof cmd);
	u->outstanding++;
}

static void send_refused(struct ublk_queue *u)
{
	unsigned n = u->refused.n;
	uint64_t now;

	if (!n || (now = tz_now_ns()) - u->refused_at < REFUSED_NS)
		return;
	u->refused_at = now;
	while (n--)
		send_command(u, tz_io_pop(u->q, &u->refused));
}

/* ---- the transport (queue.h) ---- */

static void describe(struct ublk_queue *u, unsigned tag)
{
	const volatile struct ublk_io_desc *d = &u->descs[tag];
	struct tz_io *io = &u->q->ios[tag];
	uint32_t op_flags = d->op_flags;

	io->op = op_flags & 0xff;
	io->swap = (op_flags & UBLK_IO_F_SWAP) != 0;
	io->page = d->start_sector / 8;
	io->nr_pages = d->nr_sectors / 8;
}

static unsigned take(struct tz_queue *q, uint16_t *tags, unsigned most)
{
	struct ublk_queue *u = q->ring;
	struct tz_cqe *cqe;
	unsigned n = 0;

	while (n < most && (cqe = tz_uring_peek(&u->ring))) {
		unsigned tag = (unsigned)cqe->user_data;
		int res = cqe->res, fetched = cqe->user_data == FETCHED;
		tz_uring_seen(&u->ring);
		if (fetched) {
			q->brought = 1;
			q->brought_result = res;
			continue;
		}
		u->outstanding--;
		if (res == 0) {
			describe(u, tag);
			tags[n++] = (uint16_t)tag;
		} else if (res == -ENODEV) {
			q->stopping = 1;
		} else {
			refuse(u, tag, TZ_TROUBLE_COMMAND, res);
		}
	}
	return n;
}

/* Moves a request's data between the kernel and our buffer. */
static int moved(const struct tz_queue *q, unsigned tag, ssize_t n)
{
	return n == (ssize_t)((size_t)q->ios[tag].nr_pages * TZ_PAGE_SIZE);
}

static uint8_t *bring(struct tz_queue *q, unsigned tag)
{
	struct ublk_queue *u = q->ring;
	const struct tz_io *io = &q->ios[tag];

	if (u->buffers)
		return buffer_of(u, tag);
	if (io->op == UBLK_IO_OP_READ)
		return q->data;
	ssize_t n = pread(q->ublk->char_fd, q->write_data, (size_t)io->nr_pages * TZ_PAGE_SIZE,
		(off_t)ublk_data_offset(q->index, tag));
	return moved(q, tag, n) ? q->write_data : NULL;
}

static int hand_over(struct tz_queue *q, unsigned tag, const uint8_t *data, uint32_t first,
	uint32_t n)
{
	const struct ublk_queue *u = q->ring;
	size_t at = (size_t)first * TZ_PAGE_SIZE, size = (size_t)n * TZ_PAGE_SIZE;

	if (u->buffers)
		return 0;
	return pwrite(q->ublk->char_fd, data + at, size,
		       (off_t)(ublk_data_offset(q->index, tag) + at)) == (ssize_t)size ? 0 : -EIO;
}

/* From the backing file. Its entry in the ring is that of the tag that waits for it. */
static void fetch(struct tz_queue *q)
{
	struct ublk_queue *u = q->ring;
	struct tz_sqe *sqe = tz_uring_sqe(&u->ring);
	struct tz_bring b;

	if (!sqe) {
		tz_uring_enter(&u->ring, 0);
		sqe = tz_uring_sqe(&u->ring);
	}
	if (!sqe) {
		q->brought = 1;
		q->brought_result = -EBUSY;
		return;
	}
	tz_store_bringing(q->store, &b);
	sqe->opcode = TZ_IORING_OP_READ;
	sqe->fd = b.fd;
	sqe->off = b.from;
	sqe->addr = (uint64_t)(uintptr_t)b.to;
	sqe->len = b.length;
	sqe->user_data = FETCHED;
}

static void answer(struct tz_queue *q, unsigned tag, int result)
{
	struct ublk_queue *u = q->ring;
	struct tz_io *io = &q->ios[tag];
	int moves = io->op == UBLK_IO_OP_READ || io->op == UBLK_IO_OP_WRITE;

	io->mark = u->commit_op;
	io->result = result < 0 ? result : moves ? (int)(io->nr_pages * TZ_PAGE_SIZE) : 0;
	send_command(u, tag);
}

static void flush(struct tz_queue *q)
{
	struct ublk_queue *u = q->ring;

	tz_uring_enter(&u->ring, 0);	/* what fails here fails again in serve_until_stopped */
}

static int ring_has_come(const void *ring)
{
	return tz_uring_has_come(ring);
}

static int has_come(struct tz_queue *q)
{
	const struct ublk_queue *u = q->ring;

	return ring_has_come(&u->ring);
}

static const struct tz_queue_ops ops =
	{ take, bring, hand_over, fetch, answer, flush, has_come, .gathers = 1 };

/* ---- the thread ---- */

static uint64_t may_sleep(const struct ublk_queue *u)
{
	uint64_t sleep = tz_queue_may_sleep(u->q);

	return u->refused.n && sleep > REFUSED_NS ? REFUSED_NS : sleep;
}

/* Sends the answers and waits for requests. As tz_uring_enter. */
static int wait_for_requests(struct ublk_queue *u)
{
	struct tz_queue *q = u->q;
	uint64_t sleep = may_sleep(u), window = tz_queue_may_spin(q, sleep), start;
	int rc;

	if (window) {
		rc = tz_uring_enter(&u->ring, 0);
		if (rc < 0 || tz_uring_peek(&u->ring))
			return rc;
		if (tz_queue_spin(q, window, ring_has_come, &u->ring))
			return tz_uring_enter(&u->ring, 0);
	}
	if (!tz_spin_learns(&q->spin))
		return tz_uring_enter(&u->ring, sleep);
	start = tz_now_ns();
	rc = tz_uring_enter(&u->ring, sleep);
	tz_spin_slept(&q->spin, tz_now_ns() - start);
	return rc;
}

static void serve_until_stopped(struct ublk_queue *u)
{
	struct tz_queue *q = u->q;
	unsigned failures = 0;

	while (u->outstanding || tz_queue_has_work(q) || (u->refused.n && !q->stopping)) {
		int rc = wait_for_requests(u);
		if (rc == 0 || rc == -ETIME || rc == -EINTR) {
			failures = 0;
		} else {
			struct timespec pause = { 0, (long)ENTER_PAUSE_NS << failures };
			if (atomic_load(&q->stop))
				return;
			tz_queue_trouble(q, TZ_TROUBLE_ENTER, rc);
			nanosleep(&pause, NULL);
			failures += failures < ENTER_PAUSE_DOUBLINGS;
		}
		tz_queue_round(q);
		send_refused(u);
	}
}

static int map_descriptors(struct ublk_queue *u)
{
	struct tz_queue *q = u->q;
	size_t most = 4096 * sizeof(struct ublk_io_desc);

	u->descs_len = (q->depth * sizeof(struct ublk_io_desc) + 4095) & ~(size_t)4095;
	void *descs = mmap(NULL, u->descs_len, PROT_READ, MAP_SHARED | MAP_POPULATE,
		q->ublk->char_fd, (off_t)(q->index * most));
	if (descs == MAP_FAILED)
		return -errno;
	u->descs = descs;
	return 0;
}

static int map_buffers(struct ublk_queue *u)
{
	size_t size = u->q->depth * u->buffer_size;
	void *buffers = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (buffers == MAP_FAILED)
		return -ENOMEM;
	u->buffers = buffers;
	return mlock(buffers, size) < 0 ? -errno : 0;
}

/* Fetches every tag. Nothing completes before START_DEV unless it is refused. */
static int fetch_all(struct ublk_queue *u)
{
	struct tz_cqe *cqe;

	for (unsigned tag = 0; tag < u->q->depth; tag++) {
		u->q->ios[tag].mark = u->fetch_op;
		u->q->ios[tag].result = -1;
		send_command(u, tag);
	}
	int rc = tz_uring_enter(&u->ring, 0);
	if (rc == 0 && (cqe = tz_uring_peek(&u->ring)) && cqe->res < 0)
		rc = cqe->res;
	return rc;
}

static int set_up(struct ublk_queue *u)
{
	struct tz_queue *q = u->q;
	int encoded = q->ublk->ioctl_encoded;
	static const uint8_t ring_ops[] = { TZ_IORING_OP_URING_CMD, TZ_IORING_OP_READ };
	int rc = tz_uring_init(&u->ring, q->depth, q->ublk->wait_in_poll ? TZ_URING_POLL : 0);

	if (rc < 0 || (rc = tz_uring_register_file(&u->ring, q->ublk->char_fd)) < 0 ||
	    (rc = tz_uring_enable(&u->ring, ring_ops, sizeof ring_ops)) < 0 ||
	    (rc = map_descriptors(u)) < 0)
		return rc;
	u->buffer_size = q->ublk->info.max_io_buf_bytes;
	if (tz_ublk_is_user_copy(q->ublk))
		u->buffer_size = TZ_UBLK_MAX_IO;	/* the queue's own */
	else if ((rc = map_buffers(u)) < 0)
		return rc;
	u->fetch_op = encoded ? (uint32_t)_IOWR('u', UBLK_IO_FETCH_REQ, struct ublk_io_cmd)
		: UBLK_IO_FETCH_REQ;
	u->commit_op = encoded ? (uint32_t)_IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ,
		struct ublk_io_cmd)
		: UBLK_IO_COMMIT_AND_FETCH_REQ;
	q->ops = &ops;
	q->ring = u;
	if (q->store)
		tz_store_defer(q->store, 1);
	q->max_pages = (unsigned)(u->buffer_size / TZ_PAGE_SIZE);
	return fetch_all(u);
}

static void tear_down(struct ublk_queue *u)
{
	tz_uring_exit(&u->ring);
	if (u->descs)
		munmap((void *)(uintptr_t)u->descs, u->descs_len);
	if (u->buffers)
		munmap(u->buffers, u->q->depth * u->buffer_size);
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
