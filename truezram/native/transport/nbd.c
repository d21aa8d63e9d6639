/* nbd.c - control commands of an nbd device (interface: nbd.h).
 *
 * Life cycle:
 *
 *	generic netlink, family "nbd"	tz_nbd_open
 *	a socket pair			tz_nbd_pair: what an nbd client has a TCP connection for
 *	  queue thread: reads requests from our end (queue_nbd.c)
 *	CONNECT				tz_nbd_connect: the kernel takes the other end and the disk
 *					has its size
 *	...
 *	RECONFIGURE			tz_nbd_reconnect: another server's socket in the place of a
 *					dead one's
 *	DISCONNECT			tz_nbd_disconnect: the disk's size is 0, the queue thread
 *					sees the end of its socket
 *
 * One socket, and no time limit of a request. With several, the driver takes a request that is
 * not answered in time for one that is lost, and sends it again on another connection: the server
 * would have it twice, and the first one could overwrite what was written after the second. With
 * one, it waits for as long as the socket is open. It is sent again when its socket has ended and
 * another one is there, and then the server that had it is dead.
 *
 * That the driver looks for such requests only when they are as old as the queue's io_timeout
 * (30 s) is why that is set to RESEND_MS. And newer drivers make requests larger than we have room
 * for.
 *
 * A device of the driver is there before it is connected and afterwards, and anybody may connect
 * it as something else. So it carries an identity (`backend` in sysfs, Linux 5.14), and only a
 * device with ours is reconnected or disconnected.
 */
#include "nbd.h"
#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CMD_CONNECT = 1, CMD_DISCONNECT = 2, CMD_RECONFIGURE = 3 };
enum {
	ATTR_INDEX = 1, ATTR_SIZE_BYTES = 2, ATTR_BLOCK_SIZE_BYTES = 3, ATTR_SERVER_FLAGS = 5,
	ATTR_CLIENT_FLAGS = 6, ATTR_SOCKETS = 7, ATTR_DEAD_CONN_TIMEOUT = 8, ATTR_BACKEND = 10
};
enum { SOCK_ITEM = 1, SOCK_FD = 1 };
#define FAMILY_NAME "nbd"
#define FAMILY_VERSION 1
#define HAS_FLAGS (1u << 0)
#define SEND_FLUSH (1u << 2)
#define SEND_TRIM (1u << 5)
#define SEND_WRITE_ZEROES (1u << 6)	/* older drivers do not look at it */

#define BLOCK_SIZE 4096u
#define RESEND_MS 5000
#define DEFAULT_IO_TIMEOUT_MS 30000
#define BUSY_NS 3000000000ull		/* udev has a new device open for a moment */
#define RECOVER_NS 30000000000ull	/* for the kernel to notice that the server is dead */

/* ---- messages ---- */

struct message {
	struct nlmsghdr head;
	struct genlmsghdr command;
	uint8_t attributes[512];
};

static void begin(struct tz_nbd *n, struct message *m, uint16_t family, uint8_t command,
	uint8_t version)
{
	memset(m, 0, sizeof *m);
	m->head = (struct nlmsghdr){ .nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN, .nlmsg_type = family,
		.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, .nlmsg_seq = ++n->sequence };
	m->command = (struct genlmsghdr){ .cmd = command, .version = version };
}

/* Adds an attribute; one without data is the beginning of a nest, which `close_nest` ends. */
static struct nlattr *put(struct message *m, uint16_t type, const void *data, size_t size)
{
	struct nlattr *a = (struct nlattr *)((uint8_t *)m + m->head.nlmsg_len);

	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + size);
	if (size)
		memcpy((uint8_t *)a + NLA_HDRLEN, data, size);
	m->head.nlmsg_len += (uint32_t)NLA_ALIGN(NLA_HDRLEN + size);
	return a;
}

static void put_u32(struct message *m, uint16_t type, uint32_t value)
{
	put(m, type, &value, sizeof value);
}

static void put_u64(struct message *m, uint16_t type, uint64_t value)
{
	put(m, type, &value, sizeof value);
}

static void close_nest(struct message *m, struct nlattr *nest)
{
	nest->nla_len = (uint16_t)((uint8_t *)m + m->head.nlmsg_len - (uint8_t *)nest);
}

static void put_socket(struct message *m, int fd)
{
	struct nlattr *list = put(m, ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	struct nlattr *item = put(m, SOCK_ITEM | NLA_F_NESTED, NULL, 0);

	put_u32(m, SOCK_FD, (uint32_t)fd);
	close_nest(m, item);
	close_nest(m, list);
}

/* The id of a family in CTRL_CMD_NEWFAMILY's attributes; 0: none. */
static uint16_t family_in(const uint8_t *at, size_t left)
{
	struct nlattr a;
	uint16_t id;

	while (left >= NLA_HDRLEN) {
		memcpy(&a, at, sizeof a);
		size_t step = NLA_ALIGN(a.nla_len);
		if (a.nla_len < NLA_HDRLEN || a.nla_len > left)
			break;
		if (a.nla_type == CTRL_ATTR_FAMILY_ID && a.nla_len >= NLA_HDRLEN + sizeof id) {
			memcpy(&id, at + NLA_HDRLEN, sizeof id);
			return id;
		}
		if (step >= left)
			break;
		at += step;
		left -= step;
	}
	return 0;
}

/* What has come, which may be several messages: 1 if there is the acknowledgement, or the error, of
 * that number among them, in *rc. */
static int look_through(const uint8_t *at, size_t left, uint32_t number, int *rc, uint16_t *family)
{
	struct nlmsghdr h;

	while (left >= sizeof h) {
		memcpy(&h, at, sizeof h);
		if (h.nlmsg_len < sizeof h || h.nlmsg_len > left)
			break;
		const uint8_t *body = at + NLMSG_HDRLEN;
		size_t size = h.nlmsg_len - NLMSG_HDRLEN, step = NLMSG_ALIGN(h.nlmsg_len);
		int is_ours = h.nlmsg_seq == number;	/* else the rest of an earlier answer */
		if (is_ours && h.nlmsg_type == NLMSG_ERROR) {
			*rc = -EPROTO;
			if (size >= sizeof *rc)
				memcpy(rc, body, sizeof *rc);	/* begins struct nlmsgerr */
			return 1;
		}
		if (is_ours && family && size > GENL_HDRLEN)
			*family = family_in(body + GENL_HDRLEN, size - GENL_HDRLEN);
		step = step < left ? step : left;
		at += step;
		left -= step;
	}
	return 0;
}

/* Sends a message and waits until it is acknowledged. 0, or the kernel's negative errno. *family:
 * the one that an answer names. */
static int ask(struct tz_nbd *n, const struct message *m, uint16_t *family)
{
	uint8_t buffer[4096];
	ssize_t got;
	int rc;

	if (send(n->netlink_fd, m, m->head.nlmsg_len, 0) != (ssize_t)m->head.nlmsg_len)
		return -errno;
	for (;;) {
		got = recv(n->netlink_fd, buffer, sizeof buffer, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (look_through(buffer, (size_t)got, m->head.nlmsg_seq, &rc, family))
			return rc;
	}
}

int tz_nbd_open(struct tz_nbd *n, char *why, size_t why_size)
{
	static const char name[] = FAMILY_NAME;
	struct message m;
	int rc;

	*n = (struct tz_nbd){ .fd = -1, .kernels = -1 };
	n->netlink_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (n->netlink_fd < 0) {
		rc = -errno;
		snprintf(why, why_size, "cannot open a netlink socket: %s", strerror(-rc));
		return rc;
	}
	begin(n, &m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	put(&m, CTRL_ATTR_FAMILY_NAME, name, sizeof name);
	rc = ask(n, &m, &n->family);
	if (rc == 0 && !n->family)
		rc = -ENOENT;
	if (rc == 0)
		return 0;
	snprintf(why, why_size, "the kernel's nbd driver does not answer: %s%s", strerror(-rc),
		rc == -ENOENT ? ". Load it: modprobe nbd" : "");
	tz_nbd_close(n);
	return rc;
}

/* ---- sysfs ---- */

static int open_sysfs(unsigned index, const char *file, int flags)
{
	char path[80];

	snprintf(path, sizeof path, "/sys/block/nbd%u/%s", index, file);
	return open(path, flags | O_CLOEXEC);
}

static void write_sysfs(unsigned index, const char *file, unsigned value)
{
	char text[16];
	int fd = open_sysfs(index, file, O_WRONLY),
		length = snprintf(text, sizeof text, "%u", value);

	if (fd >= 0) {
		(void)!write(fd, text, (size_t)length);
		close(fd);
	}
}

/* Before it is connected, if it is there by then, and afterwards. A kernel that takes a setting not
 * has smaller requests anyway, or what was under way waits longer after a recovery. */
static void set_queue(unsigned index)
{
	write_sysfs(index, "queue/max_sectors_kb", TZ_NBD_MAX_IO >> 10);
	write_sysfs(index, "queue/io_timeout", RESEND_MS);
}

/* As whoever connects it next will expect it. */
static void reset_queue(unsigned index)
{
	write_sysfs(index, "queue/max_sectors_kb", 0);
	write_sysfs(index, "queue/io_timeout", DEFAULT_IO_TIMEOUT_MS);
}

void tz_nbd_name(struct tz_nbd *n, unsigned index, const char *run_dir)
{
	n->index = index;
	snprintf(n->identity, sizeof n->identity, "truezram:%.100s/nbd%u", run_dir, index);
}

int tz_nbd_is_taken(unsigned index)
{
	int fd = open_sysfs(index, "pid", O_RDONLY);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int tz_nbd_is_there(const struct tz_nbd *n)
{
	char text[sizeof n->identity + 2] = "";
	int fd = open_sysfs(n->index, "backend", O_RDONLY);
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	if (got > 0)
		text[strcspn(text, "\n")] = 0;
	return got > 0 && !strcmp(text, n->identity) && tz_nbd_is_taken(n->index);
}

/* ---- the life of a device ---- */

int tz_nbd_pair(struct tz_nbd *n, char *why, size_t why_size)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
		int rc = -errno;
		snprintf(why, why_size, "cannot make a socket pair: %s", strerror(-rc));
		return rc;
	}
	n->fd = fds[0];
	n->kernels = fds[1];
	return 0;
}

static void close_kernels(struct tz_nbd *n)
{
	if (n->kernels >= 0)
		close(n->kernels);
	n->kernels = -1;
}

static int connect_once(struct tz_nbd *n, uint64_t disksize, unsigned wait)
{
	struct message m;

	begin(n, &m, n->family, CMD_CONNECT, FAMILY_VERSION);
	put_u32(&m, ATTR_INDEX, n->index);
	put_u64(&m, ATTR_SIZE_BYTES, disksize);
	put_u64(&m, ATTR_BLOCK_SIZE_BYTES, BLOCK_SIZE);
	put_u64(&m, ATTR_SERVER_FLAGS, HAS_FLAGS | SEND_FLUSH | SEND_TRIM | SEND_WRITE_ZEROES);
	put_u64(&m, ATTR_CLIENT_FLAGS, 0);
	put_u64(&m, ATTR_DEAD_CONN_TIMEOUT, wait);
	put(&m, ATTR_BACKEND, n->identity, strlen(n->identity) + 1);
	put_socket(&m, n->kernels);
	return ask(n, &m, NULL);
}

static int disconnect(struct tz_nbd *n)
{
	struct message m;

	n->connected = 0;
	reset_queue(n->index);
	begin(n, &m, n->family, CMD_DISCONNECT, FAMILY_VERSION);
	put_u32(&m, ATTR_INDEX, n->index);
	return ask(n, &m, NULL);
}

int tz_nbd_connect(struct tz_nbd *n, uint64_t disksize, unsigned wait, char *why, size_t why_size)
{
	struct timespec pause = { 0, 20000000 };
	uint64_t start = tz_now_ns();
	int rc;

	set_queue(n->index);
	/* Who has an unconnected device open keeps it from being connected. */
	while ((rc = connect_once(n, disksize, wait)) == -EBUSY && !tz_nbd_is_taken(n->index) &&
		tz_now_ns() - start < BUSY_NS)
		nanosleep(&pause, NULL);
	close_kernels(n);
	if (rc < 0) {
		snprintf(why, why_size, rc == -EBUSY ? "another program has /dev/nbd%u in use"
			: "the kernel does not connect /dev/nbd%u: %s", n->index, strerror(-rc));
		return rc;
	}
	n->connected = 1;
	set_queue(n->index);
	if (!tz_nbd_is_there(n)) {
		disconnect(n);
		snprintf(why, why_size, "this kernel's nbd driver does not say whose device"
			" /dev/nbd%u is: it needs Linux 5.14 or later", n->index);
		return -EOPNOTSUPP;
	}
	return 0;
}

/* Whether the kernel has taken our socket: if it has not, nobody has the other end. */
static int is_taken_up(const struct tz_nbd *n)
{
	struct pollfd p = { .fd = n->fd };

	return poll(&p, 1, 0) == 0 || !(p.revents & (POLLHUP | POLLERR));
}

/* RECONFIGURE succeeds without a word where there is no dead socket to replace. */
static int reconnect_once(struct tz_nbd *n)
{
	char why[80];
	struct message m;
	int rc = tz_nbd_pair(n, why, sizeof why);

	if (rc < 0)
		return rc;
	begin(n, &m, n->family, CMD_RECONFIGURE, FAMILY_VERSION);
	put_u32(&m, ATTR_INDEX, n->index);
	put(&m, ATTR_BACKEND, n->identity, strlen(n->identity) + 1);
	put_socket(&m, n->kernels);
	rc = ask(n, &m, NULL);
	close_kernels(n);
	if (rc == 0 && !is_taken_up(n))
		rc = -EBUSY;
	if (rc < 0) {
		close(n->fd);
		n->fd = -1;
	}
	return rc;
}

int tz_nbd_reconnect(struct tz_nbd *n, char *why, size_t why_size)
{
	struct timespec pause = { 0, 500000 };
	uint64_t start = tz_now_ns();
	int rc;

	if (!tz_nbd_is_there(n)) {
		snprintf(why, why_size, "the kernel has no nbd device %u of this registry",
			n->index);
		return -ENODEV;
	}
	while ((rc = reconnect_once(n)) == -EBUSY && tz_now_ns() - start < RECOVER_NS) {
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 10000000)
			pause.tv_nsec *= 2;
	}
	n->connected = rc == 0;
	if (rc < 0)
		snprintf(why, why_size, "the kernel does not let go of /dev/nbd%u: %s", n->index,
			rc == -EBUSY ? "another program serves it" : strerror(-rc));
	return rc;
}

int tz_nbd_disconnect(struct tz_nbd *n)
{
	return tz_nbd_is_there(n) ? disconnect(n) : -ENODEV;
}

void tz_nbd_close(struct tz_nbd *n)
{
	close_kernels(n);
	if (n->fd >= 0)
		close(n->fd);
	if (n->netlink_fd >= 0)
		close(n->netlink_fd);
	n->fd = n->netlink_fd = -1;
}
