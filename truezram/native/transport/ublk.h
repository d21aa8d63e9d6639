/* ublk.h - the control side of a ublk device: add, parameters, start, stop, delete; and the
 * kernel's ABI for both sides.
 *
 * The structures are the kernel's (include/uapi/linux/ublk_cmd.h), written out here so that old
 * headers do. The life cycle is described at the top of ublk.c; the data side is queue_ublk.c.
 */
#ifndef TZ_UBLK_H
#define TZ_UBLK_H

#include "uring.h"

#include <stddef.h>
#include <stdint.h>

/* --- kernel ABI --- */
#define UBLK_F_USER_RECOVERY (1ull << 3)
#define UBLK_F_USER_RECOVERY_REISSUE (1ull << 4)
#define UBLK_F_CMD_IOCTL_ENCODE (1ull << 6)
#define UBLK_F_USER_COPY (1ull << 7)
#define UBLK_F_QUIESCE (1ull << 12)
#define UBLK_F_SAFE_STOP_DEV (1ull << 17)
#define UBLK_F_NO_AUTO_PART_SCAN (1ull << 18)

#define UBLK_IO_FETCH_REQ 0x20u
#define UBLK_IO_COMMIT_AND_FETCH_REQ 0x21u
#define UBLK_IO_OP_READ 0u
#define UBLK_IO_OP_WRITE 1u
#define UBLK_IO_OP_FLUSH 2u
#define UBLK_IO_OP_DISCARD 3u
#define UBLK_IO_OP_WRITE_ZEROES 5u
#define UBLK_IO_F_SWAP (1u << 16)

struct ublk_io_desc { uint32_t op_flags, nr_sectors; uint64_t start_sector, addr; };
struct ublk_io_cmd { uint16_t q_id, tag; int32_t result; uint64_t addr; };
struct ublk_ctrl_cmd {
	uint32_t dev_id;
	uint16_t queue_id, len;
	uint64_t addr, data;
	uint16_t dev_path_len, pad;
	uint32_t reserved;
};
#define UBLK_S_DEV_DEAD 0
struct ublk_dev_info {
	uint16_t nr_hw_queues, queue_depth, state, pad0;
	uint32_t max_io_buf_bytes, dev_id;
	int32_t ublksrv_pid;
	uint32_t pad1;
	uint64_t flags, ublksrv_flags;
	uint32_t owner_uid, owner_gid;
	uint64_t reserved1, reserved2;
};

/* Offset in the char device of a request's data (USER_COPY). */
static inline uint64_t ublk_data_offset(unsigned queue, unsigned tag)
{
	return 0x80000000ull + ((uint64_t)queue << 41 | (uint64_t)tag << 25);
}

/* --- ours --- */
struct tz_ublk {
	struct tz_uring ring;		/* for control commands */
	int control_fd, char_fd;
	int ioctl_encoded;		/* opcodes: 6.4 and later; before, plain numbers */
	int wait_in_poll;		/* as before 6.15 (uring.h) */
	int added, started;
	uint64_t features;		/* what the kernel offers, 0 where it cannot say */
	struct ublk_dev_info info;	/* as the kernel made it */
};

#define TZ_UBLK_MAX_IO (128u << 10)
/* The same where each tag has a buffer of that size: 8 pages, as the kernel reads ahead from swap
 * by default (docs/modes.md has what was measured). */
#define TZ_UBLK_SMALL_IO (32u << 10)

/* How a request's data gets to the server and back. */
enum tz_data_mode {
	TZ_DATA_AUTO = 0,		/* the first where the kernel has it */
	TZ_DATA_USER_COPY = 1,		/* by pread and pwrite, when the server wants it (6.5) */
	TZ_DATA_DRIVER_COPY = 2		/* by the driver, to and from a buffer of each tag */
};
/* Of "auto", "user-copy" or "driver-copy"; -EINVAL. */
int tz_data_mode_parse(const char *text);

/* Opens /dev/ublk-control and asks for features. 0 or negative errno with why. */
int tz_ublk_open(struct tz_ublk *u, char *why, size_t why_size);
/* ADD_DEV (id < 0: the kernel chooses), SET_PARAMS, open the char device. -EEXIST: the id is in
 * use; -EOPNOTSUPP: USER_COPY was asked for, and the kernel does not have it. recoverable: when the
 * server dies the device stays, requests wait, and another server can take over; whether that is so
 * is in info.flags. */
int tz_ublk_add(struct tz_ublk *u, int id, unsigned queues, unsigned depth, uint64_t disksize,
	enum tz_data_mode data, int recoverable, char *why, size_t why_size);
static inline int tz_ublk_is_user_copy(const struct tz_ublk *u)
{
	return (u->info.flags & UBLK_F_USER_COPY) != 0;
}
static inline int tz_ublk_is_recoverable(const struct tz_ublk *u)
{
	uint64_t wanted = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;

	return (u->info.flags & wanted) == wanted;
}
/* Takes over a device whose server is dead: START_USER_RECOVERY, which waits until the kernel has
 * noticed that it is, and opens the char device. 0, or negative errno with why: the device stays as
 * it is. -ENODEV: there is none; -EBUSY: it has a server. */
int tz_ublk_recover(struct tz_ublk *u, int id, char *why, size_t why_size);
/* END_USER_RECOVERY: requests flow again, those in flight at the death first; the queue threads
 * must be serving. */
int tz_ublk_resume(struct tz_ublk *u, char *why, size_t why_size);
/* Whether the kernel's device is still there, and not stopped by somebody else. */
int tz_ublk_is_there(struct tz_ublk *u);
static inline int tz_ublk_can_quiesce(const struct tz_ublk *u)
{
	return (u->info.flags & UBLK_F_QUIESCE) != 0;
}
/* QUIESCE_DEV: requests that are being served are completed, others wait, and the queue threads
 * end. 0, or negative errno: the kernel cannot (before 6.16), or they are not completed within
 * `ms`. */
int tz_ublk_quiesce(struct tz_ublk *u, unsigned ms);
/* The bytes of `mask` that were filled: CPUs of a queue, one bit each. 0 or negative errno. */
int tz_ublk_queue_affinity(struct tz_ublk *u, unsigned queue, uint8_t *mask, size_t size);
/* START_DEV: returns once /dev/ublkbN is usable; the queue threads must be serving. */
int tz_ublk_start(struct tz_ublk *u, char *why, size_t why_size);
/* STOP_DEV, even if the disk is in use: requests in flight are served or aborted, then the queues
 * see -ENODEV. */
int tz_ublk_stop(struct tz_ublk *u);
/* The same, but only if the disk is not open anywhere, which the kernel checks. -EBUSY: it is open,
 * nothing was done; -EOPNOTSUPP: a kernel before 7.0. */
int tz_ublk_try_stop(struct tz_ublk *u);
/* Closes the char device and deletes the device. 0: its number is free again. -EBUSY: it will be
 * when the last user of the disk has closed it. Waits for that 5 s, before 6.9 as long as it
 * takes. */
int tz_ublk_delete(struct tz_ublk *u);
void tz_ublk_close(struct tz_ublk *u);
/* Stops and deletes a device that a dead server left behind. 0, -ENODEV when there is none, -EBUSY
 * when another process serves it. */
int tz_ublk_remove_orphan(struct tz_ublk *u, int id, int (*is_running)(int pid));

#endif
