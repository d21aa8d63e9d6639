/* nbd.h - the control side of an nbd device: connect, reconnect, disconnect; and the kernel's ABI
 * for both sides.
 *
 * For kernels that have the module nbd and no ublk. The structures are the kernel's
 * (include/uapi/linux/nbd.h and nbd-netlink.h), written out here so that old headers do. The life
 * cycle is described at the top of nbd.c; the data side is queue_nbd.c.
 */
#ifndef TZ_NBD_H
#define TZ_NBD_H

#include <stddef.h>
#include <stdint.h>

/* --- kernel ABI; all numbers of requests and replies are big-endian --- */
#define TZ_NBD_REQUEST_MAGIC 0x25609513u
#define TZ_NBD_REPLY_MAGIC 0x67446698u

enum tz_nbd_command {
	TZ_NBD_READ = 0, TZ_NBD_WRITE = 1, TZ_NBD_DISCONNECT = 2, TZ_NBD_FLUSH = 3, TZ_NBD_TRIM = 4,
	TZ_NBD_WRITE_ZEROES = 6
};
#define TZ_NBD_COMMAND_MASK 0xffffu	/* of `type`; flags above */

struct tz_nbd_request {
	uint32_t magic, type;
	uint64_t handle, from;		/* handle: the kernel's own, comes back as it is */
	uint32_t length;
} __attribute__((packed));

struct tz_nbd_reply {
	uint32_t magic, error;		/* error: an errno, 0 none */
	uint64_t handle;
} __attribute__((packed));

/* --- ours --- */
#define TZ_NBD_MAX_DEPTH 128		/* requests that the driver has under way at most */
#define TZ_NBD_MAX_IO (128u << 10)	/* of a read or write */

struct tz_nbd {
	int netlink_fd;			/* -1: not open */
	uint16_t family;
	uint32_t sequence;
	unsigned index;
	int fd, kernels;		/* the socket pair: our end, and the kernel's until it has
					 * taken it; -1 */
	int connected;
	char identity[128];		/* how the kernel's device is known to be ours */
};

/* Opens the way to the driver and makes up the device's identity. 0, or negative errno with why.
 * -ENOENT: the kernel has no nbd (loaded). */
int tz_nbd_open(struct tz_nbd *n, char *why, size_t why_size);
/* From here on it is about that device, of that registry. */
void tz_nbd_name(struct tz_nbd *n, unsigned index, const char *run_dir);
/* Whether the number is in use, by whomever. */
int tz_nbd_is_taken(unsigned index);
/* The socket pair; n->fd is for the queue thread. 0 or negative errno with why. */
int tz_nbd_pair(struct tz_nbd *n, char *why, size_t why_size);
/* Makes the disk: returns when /dev/nbdN can be used; the queue thread must be serving. wait: so
 * many seconds requests wait for another server when this one dies; 0: they fail. -EBUSY: the
 * number is in use. */
int tz_nbd_connect(struct tz_nbd *n, uint64_t disksize, unsigned wait, char *why, size_t why_size);
/* Takes over a device whose server is dead, once the kernel has noticed that it is: from here on
 * requests come to n->fd. 0, or negative errno with why: the device stays as it is. -ENODEV: there
 * is none of ours; -EBUSY: it has a server. */
int tz_nbd_reconnect(struct tz_nbd *n, char *why, size_t why_size);
/* Whether the kernel's device is still there, and ours. */
int tz_nbd_is_there(const struct tz_nbd *n);
/* Takes the disk away, even if it is in use: what is under way, and what comes, fails. The queue
 * thread sees the end of its socket. Its number is free when the last user has closed it. */
int tz_nbd_disconnect(struct tz_nbd *n);
void tz_nbd_close(struct tz_nbd *n);

#endif
