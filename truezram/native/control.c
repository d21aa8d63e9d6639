/* control.c - the control thread: messages on the socket (protocol.h), signals, and queues that end by themselves.
 *
 * Every client is non-blocking and owns nothing but its descriptor; a message of the wrong size, magic or version ends the
 * connection. SIGTERM and SIGINT stop the device in order: a device in use as swap is first taken out of use by a child process
 * (which the kernel may kill for lack of memory, where it would otherwise kill us), and if that fails the device stays: a
 * dead swap area would take every program with pages on it along. SIGHUP is for terminals that go away: ignored.
 */
#include "control.h"
#include "protocol.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CLIENTS 16
enum { SLOT_SOCKET, SLOT_SIGNAL, SLOT_QUEUE_END, SLOT_CLIENTS };

struct control {
	struct tz_server *s;
	int stop;
	unsigned turn;
	pid_t swapoff_child;
	struct pollfd fds[SLOT_CLIENTS + MAX_CLIENTS];
	struct tz_reply reply;		/* 12 KiB: not on the stack */
};

/* ---- messages ---- */

static void answer(struct control *c, unsigned status, const char *text)
{
	c->reply.status = (uint16_t)status;
	snprintf(c->reply.text, sizeof c->reply.text, "%s", text);
}

static int is_active_swap(const struct tz_server *s)
{
	char path[48], line[512];
	int found = 0;
	FILE *f;

	if (s->transport != TZ_TRANSPORT_UBLK || !(f = fopen("/proc/swaps", "re")))
		return 0;
	snprintf(path, sizeof path, "/dev/%s ", s->registry.name);
	while (!found && fgets(line, sizeof line, f))
		found = !strncmp(line, path, strlen(path));
	fclose(f);
	return found;
}

static void set(struct control *c, const char *text)
{
	const char *equals = strchr(text, '=');
	char why[216] = "";
	int rc;

	if (!strncmp(text, "mem_limit=", 10)) {
		char *end;
		errno = 0;
		unsigned long long n = strtoull(text + 10, &end, 10);
		if (errno || *end || end == text + 10 || text[10] == '-' || n > 1ull << 52) {
			answer(c, TZ_E_INVALID, "mem_limit is not a number of bytes from 0 to 2^52");
			return;
		}
		rc = tz_store_set_mem_limit(c->s->store, n, why, sizeof why);
	} else if (!strncmp(text, "algorithm=", 10)) {
		rc = tz_store_set_algorithm(c->s->store, text + 10, why, sizeof why);
	} else {
		snprintf(why, sizeof why, "no such setting: %.*s", equals ? (int)(equals - text) : 40, text);
		answer(c, TZ_E_INVALID, why);
		return;
	}
	answer(c, rc == 0 ? TZ_OK : rc == -EINVAL ? TZ_E_INVALID : TZ_E_FAILED, why);
	if (rc == 0)
		tz_log("set %s", text);
}

static void stop(struct control *c)
{
	if (is_active_swap(c->s)) {
		answer(c, TZ_E_BUSY, "the device is in use as swap: swapoff first");
		return;
	}
	c->stop = 1;
	answer(c, TZ_OK, "");
}

/* Fills c->reply; the returned descriptor (or -1) goes with it. */
static int handle(struct control *c, const struct tz_request *r)
{
	switch (r->op) {
	case TZ_OP_PING:
		answer(c, TZ_OK, "");
		return -1;
	case TZ_OP_SET:
		set(c, r->text);
		return -1;
	case TZ_OP_STOP:
		stop(c);
		return -1;
	case TZ_OP_ATTACH:
		if (c->s->transport == TZ_TRANSPORT_LOCAL) {
			answer(c, TZ_OK, "");
			return c->s->local.fd;
		}
		answer(c, TZ_E_INVALID, "not a local device: open its node in /dev");
		return -1;
	case TZ_OP_PAGE_MAP:
		if (r->arg[2] < 1 || r->arg[2] > TZ_MAP_REGIONS) {
			answer(c, TZ_E_INVALID, "the number of regions must be 1 to 256");
			return -1;
		}
		tz_store_page_map(c->s->store, r->arg[0], r->arg[1], (unsigned)r->arg[2], c->reply.map);
		answer(c, TZ_OK, "");
		return -1;
	case TZ_OP_TRIM:
		c->reply.value[0] = tz_store_trim(c->s->store);
		answer(c, TZ_OK, "");
		return -1;
	default:
		answer(c, TZ_E_PROTOCOL, "unknown operation");
		return -1;
	}
}

/* 0 when the whole reply went out. */
static int send_reply(struct control *c, int client, int fd)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec data = { &c->reply, sizeof c->reply };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control.room;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
	}
	return sendmsg(client, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof c->reply ? 0 : -1;
}

/* One message of a client. 0, or -1: the connection is to be closed. */
static int serve_client(struct control *c, int client)
{
	struct tz_request r;
	ssize_t n = recv(client, &r, sizeof r, MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	c->reply = (struct tz_reply){ .magic = TZ_MSG_MAGIC, .version = TZ_MSG_VERSION };
	if (n != (ssize_t)sizeof r || r.magic != TZ_MSG_MAGIC || r.version != TZ_MSG_VERSION ||
	    !memchr(r.text, 0, sizeof r.text)) {
		answer(c, TZ_E_PROTOCOL, "not a message of this protocol version");
		send_reply(c, client, -1);
		return -1;
	}
	int fd = handle(c, &r);
	return send_reply(c, client, fd);
}

static void accept_client(struct control *c)
{
	struct ucred who;
	socklen_t len = sizeof who;
	int fd = accept4(c->s->registry.socket_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && (who.uid == 0 || who.uid == geteuid())) {
		unsigned i = SLOT_CLIENTS;
		while (i < SLOT_CLIENTS + MAX_CLIENTS && c->fds[i].fd >= 0)
			i++;
		if (i == SLOT_CLIENTS + MAX_CLIENTS) {	/* one too many: an earlier one gives way, in turn */
			i = SLOT_CLIENTS + c->turn++ % MAX_CLIENTS;
			close(c->fds[i].fd);
		}
		c->fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
		return;
	}
	close(fd);	/* a stranger */
}

/* ---- signals ---- */

static uint64_t mem_available(void)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (uint64_t)kib * 1024;
}

/* What has been swapped out, uncompressed. */
static uint64_t stored_bytes(const struct tz_server *s)
{
	int64_t pages = 0;

	for (unsigned i = 0; i < s->nr_queues; i++)
		pages += __atomic_load_n(&s->queues[i].stats->pages_now, __ATOMIC_RELAXED);
	return pages > 0 ? (uint64_t)pages * 4096 : 0;
}

static void start_swapoff(struct control *c)
{
	char path[48];

	if (c->swapoff_child > 0)
		return;
	uint64_t need = stored_bytes(c->s), have = mem_available();
	if (need > have) {
		tz_log("SIGTERM refused: %s is in use as swap and holds %llu MiB, more than the %llu MiB of available memory."
			" Free memory or add other swap, then swapoff /dev/%s", c->s->registry.name,
			(unsigned long long)need >> 20, (unsigned long long)have >> 20, c->s->registry.name);
		return;
	}
	snprintf(path, sizeof path, "/dev/%s", c->s->registry.name);
	tz_log("SIGTERM: swapoff %s first (%llu MiB)", path, (unsigned long long)need >> 20);
	c->swapoff_child = fork();
	if (c->swapoff_child == 0)
		_exit(swapoff(path) == 0 ? 0 : errno);
	if (c->swapoff_child < 0)
		tz_log("cannot start a process for swapoff: %s", strerror(errno));
}

static void child_ended(struct control *c)
{
	int status;

	if (c->swapoff_child <= 0 || waitpid(c->swapoff_child, &status, WNOHANG) != c->swapoff_child)
		return;
	c->swapoff_child = 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		c->stop = 1;
	else
		tz_log("swapoff failed (%s): the device stays", WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "killed");
}

static void take_signal(struct control *c)
{
	struct signalfd_siginfo info;

	if (read(c->fds[SLOT_SIGNAL].fd, &info, sizeof info) != (ssize_t)sizeof info)
		return;
	switch (info.ssi_signo) {
	case SIGTERM:
	case SIGINT:
		if (is_active_swap(c->s))
			start_swapoff(c);
		else
			c->stop = 1;
		break;
	case SIGCHLD:
		child_ended(c);
		break;
	default:
		break;	/* SIGHUP, SIGPIPE */
	}
}

/* ---- queues ---- */

/* Logs what the queues have to report. 1: one of them has ended. */
static int hear_queues(struct tz_server *s)
{
	char text[200];
	uint64_t n;
	int ended = 0;

	if (read(s->end_fd, &n, sizeof n) < 0)
		return 0;
	for (unsigned i = 0; i < s->nr_queues; i++) {
		if (tz_queue_tell(&s->queues[i], text, sizeof text))
			tz_log("%s", text);
		ended |= atomic_load(&s->queues[i].state) == TZ_QUEUE_ENDED;
	}
	return ended;
}

/* ---- the loop ---- */

void tz_control_loop(struct tz_server *s)
{
	static struct control c;
	sigset_t set;

	c = (struct control){ .s = s };
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	for (unsigned i = 0; i < SLOT_CLIENTS + MAX_CLIENTS; i++)
		c.fds[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	c.fds[SLOT_SOCKET].fd = s->registry.socket_fd;
	c.fds[SLOT_SIGNAL].fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	c.fds[SLOT_QUEUE_END].fd = s->end_fd;
	while (!c.stop) {
		if (poll(c.fds, SLOT_CLIENTS + MAX_CLIENTS, -1) < 0)
			continue;
		if (c.fds[SLOT_SIGNAL].revents)
			take_signal(&c);
		if (c.fds[SLOT_QUEUE_END].revents && hear_queues(s)) {
			tz_log("a queue has ended: the kernel stopped the device");
			c.stop = 1;
		}
		if (c.fds[SLOT_SOCKET].revents)
			accept_client(&c);
		for (unsigned i = SLOT_CLIENTS; i < SLOT_CLIENTS + MAX_CLIENTS; i++) {
			if (c.fds[i].fd >= 0 && c.fds[i].revents && serve_client(&c, c.fds[i].fd) < 0) {
				close(c.fds[i].fd);
				c.fds[i].fd = -1;
			}
		}
	}
	tz_log("stopping %s", s->registry.name);
}
