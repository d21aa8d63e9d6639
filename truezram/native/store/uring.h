/* uring.h - io_uring by system call, as much of it as a ublk server and the backing file need, and
 * the kernel's ABI for it.
 *
 * No liburing and no recent kernel headers: the structures below are the kernel's, fixed for ever.
 * One ring belongs to one thread (SINGLE_ISSUER), but for SHARED ones. Usage: tz_uring_init(); a
 * file registered; tz_uring_enable(); then sqe = tz_uring_sqe(); fill; tz_uring_enter(); for each
 * completion tz_uring_peek(), tz_uring_seen(). A thread that waits is at rest: it does not count
 * as waiting for I/O (uring.c).
 */
#ifndef TZ_URING_H
#define TZ_URING_H

#include <stddef.h>
#include <stdint.h>

/* --- kernel ABI (include/uapi/linux/io_uring.h) --- */
struct tz_sqe {
	uint8_t opcode, flags;
	uint16_t ioprio;
	int32_t fd;
	union {
		uint64_t off;
		struct { uint32_t cmd_op, pad1; };
	};
	uint64_t addr;
	uint32_t len, op_flags;
	uint64_t user_data;
	uint16_t buf_index, personality;
	int32_t file_index;
	uint8_t cmd[80];	/* 16 bytes in a normal SQE, 80 with SQE128 */
};

struct tz_cqe {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

#define TZ_IORING_OP_FSYNC 3
#define TZ_IORING_OP_FALLOCATE 17
#define TZ_IORING_OP_READ 22
#define TZ_IORING_OP_WRITE 23
#define TZ_IORING_OP_URING_CMD 46
#define TZ_IORING_FSYNC_DATASYNC 1
#define TZ_IOSQE_FIXED_FILE 1
#define TZ_IOSQE_ASYNC 16

struct tz_uring {
	int fd, enter_fd;		/* enter_fd: registered index when `registered` */
	int registered;
	unsigned sqe_shift;		/* 6, or 7 with SQE128 */
	unsigned entries, sq_mask, cq_mask;
	unsigned sq_tail, submitted;	/* local tail, and what the kernel has been given */
	int rewinds;			/* it is given the first sq_tail entries each time (7.0) */
	_Atomic uint32_t *k_sq_head, *k_sq_tail, *k_cq_head, *k_cq_tail;
	_Atomic uint32_t *k_sq_flags;
	struct tz_cqe *cqes;
	uint8_t *sqes;
	void *ring_map;
	size_t ring_len, sqes_len;
	int in_enter;			/* waits there, not in poll */
	int no_iowait;			/* and does not count as waiting for I/O (6.15) */
};

#define TZ_FOREVER UINT64_MAX
enum {
	TZ_URING_SQE128 = 1,
	TZ_URING_POLL = 2,		/* wait in poll, as before 6.15 */
	TZ_URING_SHARED = 4,		/* by threads that see to it that one at a time has it */
	TZ_URING_IOWAIT = 8		/* of one who does wait for I/O: in enter, and may be
					 * counted so */
};

/* A ring of `entries` SQEs (rounded up to a power of two by the kernel). 0 or negative errno. */
int tz_uring_init(struct tz_uring *r, unsigned entries, unsigned flags);
void tz_uring_exit(struct tz_uring *r);
int tz_uring_register_file(struct tz_uring *r, int fd);
/* From here on it takes these n operations (4 at most), and nothing else, ever. 0 or negative
 * errno. */
int tz_uring_enable(struct tz_uring *r, const uint8_t *ops, unsigned n);
/* Instead: it takes everything. */
int tz_uring_enable_all(struct tz_uring *r);
/* A zeroed SQE, NULL when the queue is full. Its cmd has room for 16 bytes, or 80 with sqe128. */
struct tz_sqe *tz_uring_sqe(struct tz_uring *r);
/* Submits what is prepared and waits for a completion, at most wait_ns (0: does not wait). It may
 * return without one. 0 or negative errno; -ETIME and -EINTR are ordinary. */
int tz_uring_enter(struct tz_uring *r, uint64_t wait_ns);
/* Whether tz_uring_enter would bring, or has brought, a completion: looks, makes no system call. */
int tz_uring_has_come(const struct tz_uring *r);
/* The oldest completion not yet seen, NULL when there is none. */
struct tz_cqe *tz_uring_peek(struct tz_uring *r);
void tz_uring_seen(struct tz_uring *r);

#endif
