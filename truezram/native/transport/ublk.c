/* ublk.c - control commands of a ublk device (interface: ublk.h).
 *
 * Life cycle:
 *
 *	open /dev/ublk-control		tz_ublk_open: GET_FEATURES reports which opcodes and flags
 *					this kernel has
 *	ADD_DEV				tz_ublk_add: flags are asked for, then read back: the kernel
 *					drops unknown ones silently
 *	SET_PARAMS, open /dev/ublkcN
 *	  queue threads: FETCH_REQ for every tag (queue_ublk.c)
 *	START_DEV			tz_ublk_start: blocks until all tags are fetched, then adds
 *					the disk (and before 7.0 scans partitions, which reads: the
 *					queue threads serve already)
 *	...
 *	STOP_DEV, TRY_STOP_DEV		tz_ublk_stop, tz_ublk_try_stop: the disk goes, the queues
 *					see -ENODEV and end
 *	close char device, DEL_DEV	tz_ublk_delete: until the device number is free
 *
 * All control commands are io_uring passthrough commands on one small ring with 128-byte SQEs.
 */
#include "ublk.h"
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	CMD_GET_QUEUE_AFFINITY = 0x01, CMD_GET_DEV_INFO = 0x02, CMD_ADD_DEV = 0x04,
	CMD_DEL_DEV = 0x05, CMD_START_DEV = 0x06, CMD_STOP_DEV = 0x07, CMD_SET_PARAMS = 0x08,
	CMD_START_USER_RECOVERY = 0x10, CMD_END_USER_RECOVERY = 0x11, CMD_GET_FEATURES = 0x13,
	CMD_DEL_DEV_ASYNC = 0x14, CMD_QUIESCE_DEV = 0x16, CMD_TRY_STOP_DEV = 0x17
};

#define PARAM_BASIC 1u
#define PARAM_DISCARD 2u
#define DISCARD_SECTORS (1u << 15)	/* 16 MiB a request: its answer is some milliseconds away */
#define DELETE_NS 5000000000ull
#define RECOVER_NS 30000000000ull	/* for the kernel to notice that the server is dead */

struct params {
	uint32_t len, types;
	struct {
		uint32_t attrs;
		uint8_t logical_bs_shift, physical_bs_shift, io_opt_shift, io_min_shift;
		uint32_t max_sectors, chunk_sectors;
		uint64_t dev_sectors, virt_boundary_mask;
	} basic;
	struct {
		uint32_t alignment, granularity, max_sectors, max_write_zeroes_sectors;
		uint16_t max_segments, reserved;
	} discard;
};

static uint32_t encode(const struct tz_ublk *u, unsigned nr)
{
	if (!u->ioctl_encoded)
		return nr;
	if (nr == CMD_GET_QUEUE_AFFINITY || nr == CMD_GET_DEV_INFO || nr == CMD_GET_FEATURES ||
	    nr == CMD_DEL_DEV_ASYNC)
		return (uint32_t)_IOR('u', nr, struct ublk_ctrl_cmd);
	return (uint32_t)_IOWR('u', nr, struct ublk_ctrl_cmd);
}

/* One command, waited for. 0 or negative errno. */
static int command(struct tz_ublk *u, unsigned nr, struct ublk_ctrl_cmd cmd)
{
	struct tz_sqe *sqe = tz_uring_sqe(&u->ring);
	struct tz_cqe *cqe;
	int rc;

	if (!sqe)
		return -EBUSY;
	sqe->opcode = TZ_IORING_OP_URING_CMD;
	sqe->fd = u->control_fd;
	sqe->cmd_op = encode(u, nr);
	memcpy(sqe->cmd, &cmd, sizeof cmd);
	do {
		rc = tz_uring_enter(&u->ring, TZ_FOREVER);
		cqe = tz_uring_peek(&u->ring);
	} while (!cqe && (rc == 0 || rc == -EINTR || rc == -EAGAIN));
	if (!cqe)
		return rc;
	rc = cqe->res;
	tz_uring_seen(&u->ring);
	return rc < 0 ? rc : 0;
}

static struct ublk_ctrl_cmd for_device(const struct tz_ublk *u)
{
	return (struct ublk_ctrl_cmd){ .dev_id = u->info.dev_id, .queue_id = UINT16_MAX };
}

/* What the kernel says of u's device now. 0 or negative errno. */
static int fetch_info(struct tz_ublk *u, struct ublk_dev_info *info)
{
	struct ublk_ctrl_cmd cmd = for_device(u);

	cmd.addr = (uint64_t)(uintptr_t)info;
	cmd.len = sizeof *info;
	return command(u, CMD_GET_DEV_INFO, cmd);
}

/* TRUEZRAM_DISABLE_UBLK, a comma list, makes a new kernel look older, so that tests reach every
 * path: no_iowait (before 6.15), user_copy (before 6.5), ioctl (before 6.4), recovery (before
 * 6.1). */
static int disabled(const char *feature)
{
	const char *list = getenv("TRUEZRAM_DISABLE_UBLK");

	return list && strstr(list, feature);
}

int tz_data_mode_parse(const char *text)
{
	static const char *const names[] = { [TZ_DATA_AUTO] = "auto",
		[TZ_DATA_USER_COPY] = "user-copy", [TZ_DATA_DRIVER_COPY] = "driver-copy" };

	for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(text, names[i]))
			return (int)i;
	return -EINVAL;
}

int tz_ublk_open(struct tz_ublk *u, char *why, size_t why_size)
{
	int rc;

	memset(u, 0, sizeof *u);
	u->char_fd = -1;
	u->control_fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (u->control_fd < 0) {
		rc = -errno;
		snprintf(why, why_size,
			"cannot open /dev/ublk-control: %s%s", strerror(-rc), rc == -ENOENT
			? ". Load the driver: modprobe ublk_drv (Linux 6.0 or later)"
			: rc == -EACCES ? ". Run as root" : "");
		return rc;
	}
	u->wait_in_poll = disabled("no_iowait");
	static const uint8_t commands[] = { TZ_IORING_OP_URING_CMD };
	rc = tz_uring_init(&u->ring, 4, TZ_URING_SQE128 | (u->wait_in_poll ? TZ_URING_POLL : 0));
	if (rc == 0 && (rc = tz_uring_enable(&u->ring, commands, sizeof commands)) < 0)
		tz_uring_exit(&u->ring);
	if (rc < 0) {
		snprintf(why, why_size, "cannot set up io_uring: %s%s", strerror(-rc),
			rc == -EPERM ? ". The sysctl kernel.io_uring_disabled forbids it" : "");
		close(u->control_fd);
		return rc;
	}
	/* 6.5 and later know GET_FEATURES; 6.4 has ioctl-encoded opcodes without it; before, plain
	 * numbers. */
	u->ioctl_encoded = !disabled("ioctl");
	struct ublk_ctrl_cmd cmd =
		{ .dev_id = UINT32_MAX, .queue_id = UINT16_MAX, .len = sizeof u->features,
		.addr = (uint64_t)(uintptr_t)&u->features };
	rc = command(u, CMD_GET_FEATURES, cmd);
	if (rc < 0)
		u->features = 0;
	return 0;
}

static int set_params(struct tz_ublk *u, uint64_t disksize)
{
	struct params p = { .len = sizeof p, .types = PARAM_BASIC | PARAM_DISCARD };

	p.basic.logical_bs_shift = p.basic.physical_bs_shift = p.basic.io_opt_shift =
		p.basic.io_min_shift = 12;
	p.basic.max_sectors = u->info.max_io_buf_bytes >> 9;
	p.basic.dev_sectors = disksize >> 9;
	p.discard.granularity = 4096;
	p.discard.max_sectors = p.discard.max_write_zeroes_sectors = DISCARD_SECTORS;
	p.discard.max_segments = 1;
	struct ublk_ctrl_cmd cmd = for_device(u);
	cmd.addr = (uint64_t)(uintptr_t)&p;
	cmd.len = sizeof p;
	return command(u, CMD_SET_PARAMS, cmd);
}

/* Kernels that have it can say so: both came with 6.5. */
static int has_user_copy(const struct tz_ublk *u)
{
	return u->features & UBLK_F_USER_COPY && !disabled("user_copy");
}

static int add(struct tz_ublk *u, int id, unsigned queues, unsigned depth, enum tz_data_mode data,
	int recoverable)
{
	uint64_t wanted = UBLK_F_CMD_IOCTL_ENCODE | UBLK_F_NO_AUTO_PART_SCAN;
	int user_copy = data != TZ_DATA_DRIVER_COPY && has_user_copy(u);

	if (recoverable && !disabled("recovery"))
		wanted |= UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
			(u->features & UBLK_F_QUIESCE);
	if (user_copy)
		wanted |= UBLK_F_USER_COPY;
	if (u->features)
		wanted &= u->features;
	if (!u->ioctl_encoded)
		wanted &= ~UBLK_F_CMD_IOCTL_ENCODE;
	u->info = (struct ublk_dev_info){ .nr_hw_queues = (uint16_t)queues,
		.queue_depth = (uint16_t)depth,
		.max_io_buf_bytes = user_copy ? TZ_UBLK_MAX_IO : TZ_UBLK_SMALL_IO,
		.dev_id = (uint32_t)id, .ublksrv_pid = getpid(), .flags = wanted };
	struct ublk_ctrl_cmd cmd =
		{ .dev_id = (uint32_t)id, .queue_id = UINT16_MAX, .len = sizeof u->info,
		.addr = (uint64_t)(uintptr_t)&u->info };
	return command(u, CMD_ADD_DEV, cmd);
}

/* devtmpfs makes the node at once, a udev rule may take it away for a moment: retry for two
 * seconds. */
static int open_char(struct tz_ublk *u)
{
	char path[32];
	struct timespec pause = { 0, 10000000 };

	snprintf(path, sizeof path, "/dev/ublkc%u", u->info.dev_id);
	for (int i = 0; i < 200; i++) {
		u->char_fd = open(path, O_RDWR | O_CLOEXEC);
		if (u->char_fd >= 0 || (errno != ENOENT && errno != EACCES && errno != EBUSY))
			break;
		nanosleep(&pause, NULL);
	}
	return u->char_fd < 0 ? -errno : 0;
}

/* The kernel answers that there is no such device a moment before it frees the number: waits for
 * that. */
static int add_when_free(struct tz_ublk *u, int id, unsigned queues, unsigned depth,
	enum tz_data_mode data, int recoverable)
{
	struct timespec pause = { 0, 1000000 };
	struct ublk_dev_info info;
	uint64_t start = tz_now_ns();
	int rc;

	while ((rc = add(u, id, queues, depth, data, recoverable)) == -EEXIST &&
		fetch_info(u, &info) == -ENODEV && tz_now_ns() - start < DELETE_NS)
		nanosleep(&pause, NULL);
	return rc;
}

int tz_ublk_add(struct tz_ublk *u, int id, unsigned queues, unsigned depth, uint64_t disksize,
	enum tz_data_mode data, int recoverable, char *why, size_t why_size)
{
	int rc;

	if (data == TZ_DATA_USER_COPY && !has_user_copy(u)) {
		snprintf(why, why_size, "this kernel's ublk driver has no USER_COPY (Linux 6.5 and"
			" later)");
		return -EOPNOTSUPP;
	}
	rc = add_when_free(u, id, queues, depth, data, recoverable);

	/* A kernel before ioctl-encoded opcodes. */
	if ((rc == -EOPNOTSUPP || rc == -ENOTTY) && !u->features) {
		u->ioctl_encoded = 0;
		rc = add_when_free(u, id, queues, depth, data, recoverable);
	}
	if (rc < 0) {
		snprintf(why, why_size, rc == -EEXIST ? "ublk device %d exists already" :
			"the kernel refuses to add a ublk device (id %d): %s", id, strerror(-rc));
		return rc;
	}
	u->added = 1;
	if (u->info.nr_hw_queues < 1 || u->info.max_io_buf_bytes < 4096) {
		snprintf(why, why_size,
			"the ublk driver made a device that cannot be served (%u queues, %u bytes"
			" a request)",
			u->info.nr_hw_queues, u->info.max_io_buf_bytes);
		return -EPROTO;
	}
	rc = set_params(u, disksize);
	if (rc < 0) {
		snprintf(why, why_size,
			"the kernel refuses the device's parameters: %s", strerror(-rc));
		return rc;
	}
	rc = open_char(u);
	if (rc < 0)
		snprintf(why, why_size,
			"cannot open /dev/ublkc%u: %s", u->info.dev_id, strerror(-rc));
	return rc;
}

int tz_ublk_queue_affinity(struct tz_ublk *u, unsigned queue, uint8_t *mask, size_t size)
{
	struct ublk_ctrl_cmd cmd = for_device(u);

	memset(mask, 0, size);
	cmd.addr = (uint64_t)(uintptr_t)mask;
	cmd.len = (uint16_t)size;
	cmd.data = queue;
	return command(u, CMD_GET_QUEUE_AFFINITY, cmd);
}

int tz_ublk_start(struct tz_ublk *u, char *why, size_t why_size)
{
	struct ublk_ctrl_cmd cmd = for_device(u);
	char path[32];
	struct stat st;
	struct timespec pause = { 0, 10000000 };

	cmd.data = (uint64_t)getpid();
	int rc = command(u, CMD_START_DEV, cmd);
	if (rc < 0) {
		snprintf(why, why_size,
			"the kernel does not start /dev/ublkb%u: %s", u->info.dev_id,
			strerror(-rc));
		return rc;
	}
	u->started = 1;
	snprintf(path, sizeof path, "/dev/ublkb%u", u->info.dev_id);
	for (int i = 0; i < 500; i++) {
		int there = lstat(path, &st) == 0;
		if (there && S_ISBLK(st.st_mode))
			return 0;
		if (there) {
			snprintf(why, why_size, "%s is in the way of %s: remove it, then try again",
				S_ISREG(st.st_mode) ? "a regular file" : S_ISDIR(st.st_mode)
				? "a folder" : "something else", path);
			return -EEXIST;
		}
		nanosleep(&pause, NULL);
	}
	snprintf(why, why_size, "%s did not appear within 5 s. Is devtmpfs mounted on /dev?", path);
	return -ENOENT;
}

int tz_ublk_stop(struct tz_ublk *u)
{
	if (!u->started)
		return 0;
	u->started = 0;
	return command(u, CMD_STOP_DEV, for_device(u));
}

int tz_ublk_try_stop(struct tz_ublk *u)
{
	int rc;

	if (!u->started)
		return 0;
	if (!(u->features & UBLK_F_SAFE_STOP_DEV))
		return -EOPNOTSUPP;
	rc = command(u, CMD_TRY_STOP_DEV, for_device(u));
	if (rc == 0)
		u->started = 0;
	return rc;
}

/* The kernel frees a device's number when the last reference is gone: its own a moment after the
 * char device is closed, an opener's of the disk when that closes. */
static int wait_for_number(struct tz_ublk *u)
{
	struct ublk_dev_info info;
	struct timespec pause = { 0, 500000 };
	uint64_t start = tz_now_ns();
	int rc;

	while ((rc = fetch_info(u, &info)) == 0 && tz_now_ns() - start < DELETE_NS) {
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 50000000)
			pause.tv_nsec *= 2;
	}
	return rc == -ENODEV ? 0 : rc < 0 ? rc : -ETIMEDOUT;
}

int tz_ublk_delete(struct tz_ublk *u)
{
	if (u->char_fd >= 0)
		close(u->char_fd);
	u->char_fd = -1;
	if (!u->added)
		return 0;
	u->added = 0;
	/* DEL_DEV waits until the last opener of the disk has closed it, which may be never: prefer
	 * not to wait for that (6.9). */
	int rc = u->ioctl_encoded ? command(u, CMD_DEL_DEV_ASYNC, for_device(u)) : -EOPNOTSUPP;
	if (rc == -EOPNOTSUPP || rc == -ENOTTY || rc == -EINVAL)
		return command(u, CMD_DEL_DEV, for_device(u));
	return rc < 0 ? rc : wait_for_number(u);
}

void tz_ublk_close(struct tz_ublk *u)
{
	if (u->char_fd >= 0)
		close(u->char_fd);
	tz_uring_exit(&u->ring);
	if (u->control_fd >= 0)
		close(u->control_fd);
	u->char_fd = u->control_fd = -1;
}

/* What the kernel says of a device that is there, into u->info. 0 or negative errno. */
static int get_info(struct tz_ublk *u, int id)
{
	u->info.dev_id = (uint32_t)id;
	int rc = fetch_info(u, &u->info);
	if (rc == -EOPNOTSUPP || rc == -ENOTTY) {
		u->ioctl_encoded = 0;
		rc = fetch_info(u, &u->info);
	}
	u->info.dev_id = (uint32_t)id;
	return rc;
}

/* The kernel cleans up after a server for a moment after it has died: -EBUSY until then. */
static int start_recovery(struct tz_ublk *u)
{
	struct timespec pause = { 0, 500000 };
	uint64_t start = tz_now_ns();
	int rc;

	while ((rc = command(u, CMD_START_USER_RECOVERY, for_device(u))) == -EBUSY &&
		tz_now_ns() - start < RECOVER_NS) {
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 10000000)
			pause.tv_nsec *= 2;
	}
	return rc;
}

int tz_ublk_recover(struct tz_ublk *u, int id, char *why, size_t why_size)
{
	int rc = get_info(u, id);

	if (rc < 0) {
		snprintf(why, why_size, "the kernel has no ublk device %d: %s", id, strerror(-rc));
		return rc;
	}
	if (!tz_ublk_is_recoverable(u)) {
		snprintf(why, why_size, "/dev/ublkb%d was not made to be recovered", id);
		return -EOPNOTSUPP;
	}
	rc = start_recovery(u);
	if (rc < 0) {
		snprintf(why, why_size, "the kernel does not let go of /dev/ublkb%d: %s", id,
			rc == -EBUSY ? "another program serves it" : strerror(-rc));
		return rc;
	}
	rc = open_char(u);
	if (rc < 0)
		snprintf(why, why_size, "cannot open /dev/ublkc%d: %s", id, strerror(-rc));
	return rc;
}

int tz_ublk_resume(struct tz_ublk *u, char *why, size_t why_size)
{
	struct ublk_ctrl_cmd cmd = for_device(u);

	cmd.data = (uint64_t)getpid();
	int rc = command(u, CMD_END_USER_RECOVERY, cmd);
	if (rc < 0) {
		snprintf(why, why_size, "the kernel does not resume /dev/ublkb%u: %s",
			u->info.dev_id, strerror(-rc));
		return rc;
	}
	u->added = u->started = 1;
	return 0;
}

int tz_ublk_is_there(struct tz_ublk *u)
{
	struct ublk_dev_info info;

	return fetch_info(u, &info) == 0 && info.state != UBLK_S_DEV_DEAD;
}

int tz_ublk_quiesce(struct tz_ublk *u, unsigned ms)
{
	struct ublk_ctrl_cmd cmd = for_device(u);

	if (!tz_ublk_can_quiesce(u))
		return -EOPNOTSUPP;
	cmd.data = ms;
	return command(u, CMD_QUIESCE_DEV, cmd);
}

int tz_ublk_remove_orphan(struct tz_ublk *u, int id, int (*is_running)(int pid))
{
	int rc = get_info(u, id);

	if (rc < 0)
		return rc;
	if (u->info.ublksrv_pid != getpid() && is_running(u->info.ublksrv_pid))
		return -EBUSY;
	u->added = u->started = 1;
	tz_ublk_stop(u);	/* fails on a device that never started: delete decides */
	rc = tz_ublk_delete(u);
	/* Deleted; its number is free once nothing has the disk open any more. */
	return rc == -ETIMEDOUT ? 0 : rc;
}
