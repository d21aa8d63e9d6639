/* queue_nbd.c - the queue of an nbd device: reads requests from a socket, serves them from the
 * store, writes replies (the control side is nbd.c).
 *
 * What comes is a stream: a request of 28 bytes, and after a write's the data. So a request is
 * taken only if there is a place for it: a tag, and for a write one of BUFFERS buffers, which it
 * keeps until it is answered (it may wait for memory, and what has been read from a socket cannot
 * be read again). Else the stream waits, and with it all that comes after.
 *
 * Replies are a stream as well, of 16 bytes, and after a successful read's the data. They are
 * gathered and go out with one system call, before the thread sleeps at the latest. A reply says
 * whether all of a read succeeded before its data comes, so a page that is on the backing file is
 * waited for (queue.h: no `fetch`).
 *
 * A request that is not of whole pages, too long, or beyond the end is answered with EINVAL, its
 * data passed over. What is no request at all ends the queue, as the end of the socket does: then
 * the device has been disconnected.
 */
#include "clock.h"
#include "nbd.h"
#include "queue.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BUFFERS 16u
#define IN_SIZE (16u << 10)
#define OUT_SIZE (64u << 10)
#define GATHERED (16u << 10)	/* a read's data up to this is copied to the other replies */
#define SEND_MS 100		/* the thread looks whether it is to stop */
#define STALLED_NS 10000000u

struct nbd_queue {
	struct tz_queue *q;
	int fd;
	int ended;			/* 0, or negative errno: why there is nothing more */
	int stalled;			/* what has come waits for a tag, or a buffer */
	unsigned writing;		/* the tag whose data is being read, or TZ_NO_TAG */
	uint32_t length, got;		/* how much that is, and how much has come */
	uint32_t pass_over;		/* bytes of data that nobody wants */
	unsigned in_from, in_to;	/* what of `in` has not been looked at */
	unsigned out;			/* bytes of `replies` */
	unsigned free_tags, free_buffers;
	uint8_t tags[TZ_NBD_MAX_DEPTH], buffers[BUFFERS];	/* the free ones, as stacks */
	uint64_t handles[TZ_NBD_MAX_DEPTH];	/* by tag */
	uint8_t buffer_of[TZ_NBD_MAX_DEPTH];	/* of a write */
	uint8_t in[IN_SIZE], replies[OUT_SIZE];
	uint8_t data[BUFFERS][TZ_NBD_MAX_IO] __attribute__((aligned(4096)));
};

/* ---- the stream of requests ---- */

static void end(struct nbd_queue *u, int why)
{
	if (!u->ended)
		u->ended = why;
	u->q->stopping = 1;
}

/* What there is, up to `size` bytes; does not wait. 0: nothing, or no more ever. */
static size_t receive(struct nbd_queue *u, void *to, size_t size)
{
	ssize_t n;

	if (u->ended)
		return 0;
	do
		n = recv(u->fd, to, size, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return (size_t)n;
	if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOMEM))
		end(u, n == 0 ? -ENODEV : -errno);
	return 0;
}

/* Reads more into `in`. 0: there is no more, or no room for it. */
static size_t fill(struct nbd_queue *u)
{
	if (u->in_from) {
		memmove(u->in, u->in + u->in_from, u->in_to - u->in_from);
		u->in_to -= u->in_from;
		u->in_from = 0;
	}
	if (u->in_to == IN_SIZE)
		return 0;
	size_t n = receive(u, u->in + u->in_to, IN_SIZE - u->in_to);
	u->in_to += (unsigned)n;
	return n;
}

/* Up to `size` bytes of data, those that were read ahead first. NULL: they are passed over. */
static uint32_t take_data(struct nbd_queue *u, uint8_t *to, uint32_t size)
{
	uint32_t n = u->in_to - u->in_from;

	if (!n && to && size > IN_SIZE / 2)
		return (uint32_t)receive(u, to, size);
	if (!n)
		n = (uint32_t)fill(u);
	n = n < size ? n : size;
	if (to)
		memcpy(to, u->in + u->in_from, n);
	u->in_from += n;
	return n;
}

static uint8_t operation(uint32_t command)
{
	switch (command) {
	case TZ_NBD_READ: return UBLK_IO_OP_READ;
	case TZ_NBD_WRITE: return UBLK_IO_OP_WRITE;
	case TZ_NBD_FLUSH: return UBLK_IO_OP_FLUSH;
	case TZ_NBD_TRIM: return UBLK_IO_OP_DISCARD;
	case TZ_NBD_WRITE_ZEROES: return UBLK_IO_OP_WRITE_ZEROES;
	default: return UINT8_MAX;
	}
}

/* Fills a tag's request; one that is not of whole pages is beyond the end (queue.c refuses it). */
static void describe(struct tz_io *io, const struct tz_nbd_request *r, uint8_t op)
{
	uint64_t from = be64toh(r->from);
	uint32_t length = be32toh(r->length);
	int whole = from % TZ_PAGE_SIZE == 0 && length % TZ_PAGE_SIZE == 0;

	io->op = op;
	io->swap = 0;
	io->page = whole ? from / TZ_PAGE_SIZE : UINT64_MAX;
	io->nr_pages = length / TZ_PAGE_SIZE;
}

/* Begins with the request at the head of `in`. Its tag if it is complete, else TZ_NO_TAG: a write's
 * data is to come, there is no place for it, or it is none. */
static unsigned begin_request(struct nbd_queue *u)
{
	struct tz_nbd_request r;

	memcpy(&r, u->in + u->in_from, sizeof r);
	uint32_t command = be32toh(r.type) & TZ_NBD_COMMAND_MASK, length = be32toh(r.length);
	if (be32toh(r.magic) != TZ_NBD_REQUEST_MAGIC) {
		end(u, -EPROTO);
		return TZ_NO_TAG;
	}
	if (command == TZ_NBD_DISCONNECT) {	/* has no reply; the end of the socket follows */
		u->in_from += sizeof r;
		return TZ_NO_TAG;
	}
	int has_data = command == TZ_NBD_WRITE, fits = length && length <= TZ_NBD_MAX_IO;
	u->stalled = !u->free_tags || (has_data && fits && !u->free_buffers);
	if (u->stalled)
		return TZ_NO_TAG;
	u->in_from += sizeof r;
	unsigned tag = u->tags[--u->free_tags];
	u->handles[tag] = r.handle;
	describe(&u->q->ios[tag], &r, operation(command));
	if (has_data && fits) {
		u->buffer_of[tag] = u->buffers[--u->free_buffers];
		u->writing = tag;
		u->length = length;
		u->got = 0;
		return TZ_NO_TAG;
	}
	u->buffer_of[tag] = BUFFERS;
	if (has_data)
		u->pass_over = length;
	return tag;
}

/* Goes on with the data of a write. Its tag when that is complete, else TZ_NO_TAG, with *more: none
 * has come. */
static unsigned go_on_writing(struct nbd_queue *u, int *more)
{
	unsigned tag = u->writing;
	uint32_t n = take_data(u, u->data[u->buffer_of[tag]] + u->got, u->length - u->got);

	*more = n > 0;
	u->got += n;
	if (u->got < u->length)
		return TZ_NO_TAG;
	u->writing = TZ_NO_TAG;
	return tag;
}

/* One step along the stream. A tag whose request is complete, or TZ_NO_TAG; *more: there may be
 * another step. */
static unsigned step(struct nbd_queue *u, int *more)
{
	*more = 1;
	if (u->pass_over) {
		uint32_t n = take_data(u, NULL, u->pass_over);
		u->pass_over -= n;
		*more = n > 0;
		return TZ_NO_TAG;
	}
	if (u->writing != TZ_NO_TAG)
		return go_on_writing(u, more);
	if (u->in_to - u->in_from < sizeof(struct tz_nbd_request)) {
		*more = fill(u) > 0;
		return TZ_NO_TAG;
	}
	unsigned tag = begin_request(u);
	*more = !u->stalled && !u->ended;
	return tag;
}

/* ---- the transport (queue.h) ---- */

static unsigned take(struct tz_queue *q, uint16_t *tags, unsigned most)
{
	struct nbd_queue *u = q->ring;
	unsigned n = 0;
	int more = 1;

	u->stalled = 0;
	while (n < most && more && !u->ended) {
		unsigned tag = step(u, &more);
		if (tag != TZ_NO_TAG)
			tags[n++] = (uint16_t)tag;
	}
	return n;
}

static uint8_t *bring(struct tz_queue *q, unsigned tag)
{
	struct nbd_queue *u = q->ring;

	return q->ios[tag].op == UBLK_IO_OP_WRITE ? u->data[u->buffer_of[tag]] : q->data;
}

/* A read's data stays where it is until it is answered, which comes next. */
static int hand_over(struct tz_queue *q, unsigned tag, const uint8_t *data, uint32_t first,
	uint32_t n)
{
	(void)data;
	return first == 0 && n == q->ios[tag].nr_pages ? 0 : -EIO;
}

/* Waits until the kernel reads on, or the queue is to stop. */
static void wait_for_room(struct nbd_queue *u)
{
	struct pollfd p = { .fd = u->fd, .events = POLLOUT };

	if (atomic_load(&u->q->stop))
		end(u, -ESHUTDOWN);
	else
		poll(&p, 1, SEND_MS);
}

/* Sends the replies so far, and `size` bytes of data after them. */
static void send_out(struct nbd_queue *u, const uint8_t *data, size_t size)
{
	struct iovec parts[2] = { { u->replies, u->out }, { (void *)(uintptr_t)data, size } };
	struct msghdr m = { .msg_iov = parts, .msg_iovlen = 2 };

	while (!u->ended && parts[0].iov_len + parts[1].iov_len) {
		ssize_t n = sendmsg(u->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM))
			wait_for_room(u);
		else if (n < 0 && errno != EINTR)
			end(u, errno == EPIPE ? -ENODEV : -errno);
		for (unsigned i = 0; n > 0 && i < 2; i++) {
			size_t of = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
			parts[i].iov_base = (uint8_t *)parts[i].iov_base + of;
			parts[i].iov_len -= of;
			n -= (ssize_t)of;
		}
	}
	u->out = 0;
}

static void flush(struct tz_queue *q)
{
	send_out(q->ring, NULL, 0);
}

static void answer(struct tz_queue *q, unsigned tag, int result)
{
	struct nbd_queue *u = q->ring;
	const struct tz_io *io = &q->ios[tag];
	struct tz_nbd_reply r = { .magic = htobe32(TZ_NBD_REPLY_MAGIC),
		.error = htobe32(result < 0 ? (uint32_t)-result : 0), .handle = u->handles[tag] };
	size_t size = result >= 0 && io->op == UBLK_IO_OP_READ
		? (size_t)io->nr_pages * TZ_PAGE_SIZE : 0;

	if (u->out + sizeof r + (size <= GATHERED ? size : 0) > OUT_SIZE)
		send_out(u, NULL, 0);
	memcpy(u->replies + u->out, &r, sizeof r);
	u->out += sizeof r;
	if (size > GATHERED) {
		send_out(u, q->data, size);
	} else if (size) {
		memcpy(u->replies + u->out, q->data, size);
		u->out += (unsigned)size;
	}
	if (u->buffer_of[tag] < BUFFERS)
		u->buffers[u->free_buffers++] = u->buffer_of[tag];
	u->tags[u->free_tags++] = (uint8_t)tag;
	u->stalled = 0;
}

/* A system call, if nothing has been read ahead. */
static int socket_has_come(const void *arg)
{
	struct nbd_queue *u = (struct nbd_queue *)(uintptr_t)arg;
	unsigned ahead = u->in_to - u->in_from;

	if (u->stalled || u->ended)
		return u->ended != 0;
	if (u->writing != TZ_NO_TAG || u->pass_over ? ahead > 0
		: ahead >= sizeof(struct tz_nbd_request))
		return 1;
	return fill(u) > 0 || u->ended;
}

static int has_come(struct tz_queue *q)
{
	const struct nbd_queue *u = q->ring;

	return !u->ended && socket_has_come(u);
}

static const struct tz_queue_ops ops =
	{ take, bring, hand_over, NULL, answer, flush, has_come, .asks = 1, .gathers = 0 };

/* ---- the thread ---- */

static void wait_for_requests(struct nbd_queue *u, uint64_t most_ns)
{
	struct timespec t = { (time_t)(most_ns / 1000000000u), (long)(most_ns % 1000000000u) };
	struct pollfd p = { .fd = u->fd, .events = POLLIN };

	ppoll(&p, 1, most_ns == TZ_FOREVER ? NULL : &t, NULL);
}

/* Sends the replies and waits for requests, or for what is to be done without one. */
static void rest(struct nbd_queue *u)
{
	struct tz_queue *q = u->q;
	uint64_t sleep = tz_queue_may_sleep(q), window = tz_queue_may_spin(q, sleep), start;

	send_out(u, NULL, 0);
	if (!sleep || u->ended)
		return;
	if (u->stalled) {	/* the socket is readable all the while */
		struct timespec pause = { 0, (long)(sleep < STALLED_NS ? sleep : STALLED_NS) };
		nanosleep(&pause, NULL);
		return;
	}
	if (socket_has_come(u) || (window && tz_queue_spin(q, window, socket_has_come, u)))
		return;
	start = tz_now_ns();
	wait_for_requests(u, sleep);
	tz_spin_slept(&q->spin, tz_now_ns() - start);
}

static void prepare(struct nbd_queue *u, struct tz_queue *q)
{
	u->q = q;
	u->fd = q->socket;
	u->writing = TZ_NO_TAG;
	for (unsigned i = 0; i < q->depth; i++)
		u->tags[u->free_tags++] = (uint8_t)(q->depth - 1 - i);
	for (unsigned i = 0; i < BUFFERS; i++)
		u->buffers[u->free_buffers++] = (uint8_t)(BUFFERS - 1 - i);
	q->ops = &ops;
	q->ring = u;
	q->max_pages = TZ_NBD_MAX_IO / TZ_PAGE_SIZE;
}

void tz_queue_run_nbd(struct tz_queue *q)
{
	size_t size = sizeof(struct nbd_queue);
	struct nbd_queue *u = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (u == MAP_FAILED || q->depth > TZ_NBD_MAX_DEPTH) {
		atomic_store(&q->state, u == MAP_FAILED ? -ENOMEM : -EINVAL);
	} else {
		prepare(u, q);
		tz_queue_serving(q);
		while (!u->ended && !atomic_load(&q->stop)) {
			tz_queue_round(q);
			rest(u);
		}
	}
	if (u != MAP_FAILED)
		munmap(u, size);
}

void tz_queue_wake_nbd(struct tz_queue *q)
{
	if (q->socket >= 0)
		shutdown(q->socket, SHUT_RDWR);
}
