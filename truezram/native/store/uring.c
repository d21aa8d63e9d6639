/* uring.c - io_uring by system call (interface: uring.h). Set-up asks for the newest modes and
 * steps down.
 *
 * Waiting. The kernel counts a thread that waits in io_uring_enter with requests outstanding as
 * waiting for I/O: a CPU at rest shows iowait and /proc/pressure/io rises. From 6.15 on
 * ENTER_NO_IOWAIT prevents that; before, the thread waits in poll on the ring's descriptor. That
 * does without DEFER_TASKRUN, whose completions are posted, and wake the thread, only while it is
 * in enter: with COOP_TASKRUN a completion interrupts the poll, and is posted on the way out.
 */
#include "uring.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SETUP_CQSIZE (1u << 3)
#define SETUP_CLAMP (1u << 4)
#define SETUP_R_DISABLED (1u << 6)
#define SETUP_SUBMIT_ALL (1u << 7)
#define SETUP_COOP_TASKRUN (1u << 8)
#define SETUP_TASKRUN_FLAG (1u << 9)	/* see tz_uring_has_come */
#define SETUP_SQE128 (1u << 10)
#define SETUP_SINGLE_ISSUER (1u << 12)
#define SETUP_DEFER_TASKRUN (1u << 13)
#define SETUP_NO_SQARRAY (1u << 16)	/* entries in order, not by their numbers (6.6) */
#define SETUP_SQ_REWIND (1u << 20)	/* entries from the first one on, each time (7.0) */
#define FEAT_SINGLE_MMAP (1u << 0)
#define FEAT_NO_IOWAIT (1u << 17)
#define ENTER_GETEVENTS (1u << 0)
#define ENTER_EXT_ARG (1u << 3)
#define ENTER_REGISTERED_RING (1u << 4)
#define ENTER_NO_IOWAIT (1u << 7)
#define REGISTER_FILES 2
#define REGISTER_RESTRICTIONS 11
#define REGISTER_ENABLE_RINGS 12
#define REGISTER_RING_FDS 20
#define RESTRICTION_SQE_OP 1
#define RESTRICTION_SQE_FLAGS_ALLOWED 2
#define SQ_TASKRUN (1u << 2)
#define MOST_OPS 4u
#define OFF_SQ_RING 0ll
#define OFF_SQES 0x10000000ll

struct sq_offsets { uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array,
	resv1; uint64_t user_addr; };
struct cq_offsets { uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags,
	resv1; uint64_t user_addr; };
struct params {
	uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd,
		resv[3];
	struct sq_offsets sq;
	struct cq_offsets cq;
};
struct getevents_arg { uint64_t sigmask; uint32_t sigmask_sz, min_wait_usec; uint64_t ts; };
struct restriction { uint16_t kind; uint8_t what, resv[13]; };
struct rsrc_update { uint32_t offset, resv; uint64_t data; };

static int waits_in_enter(const struct params *p, unsigned flags)
{
	return flags & TZ_URING_IOWAIT ||
		(p->features & FEAT_NO_IOWAIT && !(flags & TZ_URING_POLL));
}

/* A ring in these modes: its descriptor, or -1 with errno. */
static int setup_as(unsigned entries, uint32_t modes, struct params *p)
{
	static const uint32_t newer[] =
		{ SETUP_NO_SQARRAY | SETUP_SQ_REWIND, SETUP_NO_SQARRAY, 0 };
	int fd = -1;

	for (unsigned i = 0; i < sizeof newer / sizeof newer[0] && fd < 0; i++) {
		*p = (struct params){ .flags = modes | newer[i] | SETUP_CLAMP | SETUP_CQSIZE |
			SETUP_R_DISABLED, .cq_entries = entries * 2 };
		fd = (int)syscall(SYS_io_uring_setup, entries, p);
		if (fd < 0 && errno != EINVAL)
			break;
	}
	return fd;
}

/* The ring's descriptor, or negative errno. */
static int setup(unsigned entries, unsigned flags, struct params *p)
{
	unsigned first = flags & TZ_URING_SHARED ? 2 : 0;
	static const uint32_t modes[] = {	/* 6.1 (used from 6.15 on), 6.0, 5.19, older */
		SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_COOP_TASKRUN |
			SETUP_TASKRUN_FLAG | SETUP_SUBMIT_ALL,
		SETUP_SINGLE_ISSUER | SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG | SETUP_SUBMIT_ALL,
		SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG | SETUP_SUBMIT_ALL,
		0,
	};
	int fd = -1;

	for (unsigned i = first; i < sizeof modes / sizeof modes[0]; i++) {
		fd = setup_as(entries, modes[i] | (flags & TZ_URING_SQE128 ? SETUP_SQE128 : 0), p);
		if (fd < 0 && errno != EINVAL)
			break;
		if (fd >= 0 && !(modes[i] & SETUP_DEFER_TASKRUN))
			break;
		if (fd >= 0 && waits_in_enter(p, flags))
			break;
		if (fd >= 0)
			close(fd);
	}
	return fd < 0 ? -errno : fd;
}

static int map(struct tz_uring *r, const struct params *p)
{
	size_t sq = p->sq.array + p->sq_entries * sizeof(uint32_t);
	size_t cq = p->cq.cqes + p->cq_entries * sizeof(struct tz_cqe);

	if (!(p->features & FEAT_SINGLE_MMAP))
		return -EOPNOTSUPP;
	r->ring_len = sq > cq ? sq : cq;
	r->ring_map = mmap(NULL, r->ring_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		r->fd, OFF_SQ_RING);
	if (r->ring_map == MAP_FAILED)
		return -errno;
	r->sqes_len = (size_t)p->sq_entries << r->sqe_shift;
	r->sqes = mmap(NULL, r->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
		OFF_SQES);
	if (r->sqes == MAP_FAILED) {
		int err = -errno;
		munmap(r->ring_map, r->ring_len);
		return err;
	}
	uint8_t *m = r->ring_map;
	r->k_sq_head = (_Atomic uint32_t *)(m + p->sq.head);
	r->k_sq_tail = (_Atomic uint32_t *)(m + p->sq.tail);
	r->k_sq_flags = (_Atomic uint32_t *)(m + p->sq.flags);
	r->k_cq_head = (_Atomic uint32_t *)(m + p->cq.head);
	r->k_cq_tail = (_Atomic uint32_t *)(m + p->cq.tail);
	r->sq_mask = *(uint32_t *)(m + p->sq.ring_mask);
	r->cq_mask = *(uint32_t *)(m + p->cq.ring_mask);
	r->cqes = (struct tz_cqe *)(m + p->cq.cqes);
	r->entries = p->sq_entries;
	r->rewinds = (p->flags & SETUP_SQ_REWIND) != 0;
	uint32_t *array = (uint32_t *)(m + p->sq.array);
	for (uint32_t i = 0; i < p->sq_entries && !(p->flags & SETUP_NO_SQARRAY); i++)
		array[i] = i;
	return 0;
}

int tz_uring_init(struct tz_uring *r, unsigned entries, unsigned flags)
{
	struct params p;
	int rc;

	memset(r, 0, sizeof *r);
	r->sqe_shift = flags & TZ_URING_SQE128 ? 7 : 6;
	r->fd = setup(entries, flags, &p);
	if (r->fd < 0)
		return r->fd;
	rc = map(r, &p);
	if (rc < 0) {
		close(r->fd);
		return rc;
	}
	r->in_enter = waits_in_enter(&p, flags);
	r->no_iowait = r->in_enter && p.features & FEAT_NO_IOWAIT;
	r->enter_fd = r->fd;
	if (flags & TZ_URING_SHARED)		/* it would be registered for one thread */
		return 0;
	struct rsrc_update update = { .offset = UINT32_MAX, .data = (uint64_t)r->fd };
	if (syscall(SYS_io_uring_register, r->fd, REGISTER_RING_FDS, &update, 1) == 1) {
		r->enter_fd = (int)update.offset;
		r->registered = 1;
	}
	return 0;
}

void tz_uring_exit(struct tz_uring *r)
{
	if (!r->ring_map)
		return;
	munmap(r->sqes, r->sqes_len);
	munmap(r->ring_map, r->ring_len);
	close(r->fd);
	r->ring_map = NULL;
}

int tz_uring_register_file(struct tz_uring *r, int fd)
{
	return syscall(SYS_io_uring_register, r->fd, REGISTER_FILES, &fd, 1) < 0 ? -errno : 0;
}

/* No other opcode is taken, and nothing is registered any more: a ring could otherwise open files
 * and sockets past the filter of system calls. */
int tz_uring_enable(struct tz_uring *r, const uint8_t *ops, unsigned n)
{
	struct restriction allowed[MOST_OPS + 1] = {
		{ .kind = RESTRICTION_SQE_FLAGS_ALLOWED,
			.what = TZ_IOSQE_FIXED_FILE | TZ_IOSQE_ASYNC },
	};

	if (n > MOST_OPS)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		allowed[i + 1] =
			(struct restriction){ .kind = RESTRICTION_SQE_OP, .what = ops[i] };
	if (syscall(SYS_io_uring_register, r->fd, REGISTER_RESTRICTIONS, allowed, n + 1) < 0)
		return -errno;
	return tz_uring_enable_all(r);
}

int tz_uring_enable_all(struct tz_uring *r)
{
	return syscall(SYS_io_uring_register, r->fd, REGISTER_ENABLE_RINGS, NULL, 0) < 0
		? -errno : 0;
}

struct tz_sqe *tz_uring_sqe(struct tz_uring *r)
{
	uint32_t head = r->rewinds ? 0
		: atomic_load_explicit(r->k_sq_head, memory_order_acquire);

	if (r->sq_tail - head >= r->entries)
		return NULL;
	struct tz_sqe *sqe = (struct tz_sqe *)(r->sqes +
		((size_t)(r->sq_tail & r->sq_mask) << r->sqe_shift));
	memset(sqe, 0, (size_t)1 << r->sqe_shift);
	r->sq_tail++;
	return sqe;
}

/* The kernel has taken the first `taken` entries of a ring that rewinds: what is left is first. */
static void rewind_to_start(struct tz_uring *r, unsigned taken)
{
	r->sq_tail -= taken;
	if (taken && r->sq_tail)
		memmove(r->sqes, r->sqes + ((size_t)taken << r->sqe_shift),
			(size_t)r->sq_tail << r->sqe_shift);
}

/* One io_uring_enter. Timeouts need 5.11, ublk 6.0. */
static int enter(struct tz_uring *r, uint64_t wait_ns)
{
	struct { int64_t sec, nsec; } ts =
		{ (int64_t)(wait_ns / 1000000000u), (int64_t)(wait_ns % 1000000000u) };
	struct getevents_arg arg = { .ts = (uint64_t)(uintptr_t)&ts };
	int timed = wait_ns && wait_ns != TZ_FOREVER;
	unsigned flags = ENTER_GETEVENTS | (r->registered ? ENTER_REGISTERED_RING : 0) |
		(r->no_iowait ? ENTER_NO_IOWAIT : 0) | (timed ? ENTER_EXT_ARG : 0);

	if (!r->rewinds)		/* else the kernel does not look */
		atomic_store_explicit(r->k_sq_tail, r->sq_tail, memory_order_release);
	unsigned to_submit = r->sq_tail - r->submitted;
	long rc = syscall(SYS_io_uring_enter, r->enter_fd, to_submit, wait_ns ? 1 : 0, flags,
		timed ? &arg : NULL, timed ? sizeof arg : 0);
	int err = rc < 0 ? -errno : 0;
	if (r->rewinds) {		/* an error says that nothing was taken */
		rewind_to_start(r, rc < 0 ? 0 : (unsigned)rc);
		return err;
	}
	/* What was consumed is in the SQ head: an error may come after a successful submission. */
	r->submitted = atomic_load_explicit(r->k_sq_head, memory_order_acquire);
	return err;
}

static int wait_in_poll(struct tz_uring *r, uint64_t wait_ns)
{
	struct timespec ts = { (time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u) };
	struct pollfd fd = { .fd = r->fd, .events = POLLIN };
	int rc = ppoll(&fd, 1, wait_ns == TZ_FOREVER ? NULL : &ts, NULL);

	return rc < 0 ? -errno : rc ? 0 : -ETIME;
}

int tz_uring_enter(struct tz_uring *r, uint64_t wait_ns)
{
	if (r->in_enter || !wait_ns)
		return enter(r, wait_ns);
	int rc = enter(r, 0);
	return rc < 0 || tz_uring_peek(r) ? rc : wait_in_poll(r, wait_ns);
}

/* A request that has come is work for this thread to do in the kernel (TASKRUN, from 5.19 on),
 * which makes it a completion. */
int tz_uring_has_come(const struct tz_uring *r)
{
	return atomic_load_explicit(r->k_cq_head, memory_order_relaxed) !=
		atomic_load_explicit(r->k_cq_tail, memory_order_acquire) ||
		atomic_load_explicit(r->k_sq_flags, memory_order_acquire) & SQ_TASKRUN;
}

struct tz_cqe *tz_uring_peek(struct tz_uring *r)
{
	uint32_t head = atomic_load_explicit(r->k_cq_head, memory_order_relaxed);

	if (head == atomic_load_explicit(r->k_cq_tail, memory_order_acquire))
		return NULL;
	return &r->cqes[head & r->cq_mask];
}

void tz_uring_seen(struct tz_uring *r)
{
	atomic_store_explicit(r->k_cq_head,
		atomic_load_explicit(r->k_cq_head, memory_order_relaxed) + 1, memory_order_release);
}
