/* standby.c - what is there when the server dies (interface: standby.h).
 *
 * A server holds the only copy of everybody's swapped-out memory. When it dies, the arena stays (a
 * file on a noswap tmpfs), the kernel keeps the device and lets requests wait; but a program that
 * is started only then would need memory that can only be had by swapping. So the standby is
 * started with the device, has locked its memory, and waits. It sees the server's death when their
 * socket pair ends without a last word, takes the server's name, attaches the arena and goes on.
 *
 * The standby needs the capabilities and system calls of a server's start, which the server has
 * given up by the time the next standby is wanted. The nursery is started before that, and forks a
 * standby when its server asks: to fork a small process whose memory is locked takes hardly any
 * memory and reads no file. When a standby becomes the server, the nursery goes on for that one. If
 * there is no standby at that moment, the nursery forks another nursery and becomes the server
 * itself. So at every moment somebody waits who is ready.
 *
 * What the server could make them do is limited to its own device: the registry's folder, which all
 * else follows from, is what the nursery was given at its start.
 */
#include "standby.h"
#include "clock.h"
#include "detach.h"
#include "dictionary.h"
#include "helper.h"
#include "registry.h"
#include "stats.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NURSERY_MS 2000		/* for a new one to be ready */
#define MOST_FAILURES 8u	/* then a device is left as it is, for `truezram recover` */
#define AGAIN_NS 1000000000ull	/* a standby that dies at once is asked for again after that */

enum { START = 1, WAIT, HAND_OVER, END };

/* The first message, from the server to its nursery. */
struct place {
	char run_dir[96];
	int32_t transport;	/* enum tz_transport */
};

/* From the server to either. */
struct order {
	uint32_t what;
	uint32_t server;	/* its pid */
	uint32_t number;	/* START (the nursery only), WAIT (a standby only): the device's;
				 * HAND_OVER: the pid of another server, which is to take over */
};

/* From the nursery to the server. */
struct answer {
	int32_t pid;		/* or negative errno */
};

/* ---- both: waiting ---- */

struct watch {
	struct place place;
	uint32_t id;
	int fd;			/* to the server */
	pid_t server, successor;	/* successor: another server is to take over; 0: none */
	int link;		/* the nursery's to the standby, the standby's to the nursery; -1 */
	pid_t other;		/* who is at its end */
	unsigned failures;	/* servers in a row that ended before they served */
	void *stats;		/* the statistics page, locked; NULL: none */
	size_t stats_len;
};

/* Not one that has died and was not waited for, either. */
static int runs(pid_t pid)
{
	char path[32], line[64] = "";
	int fd;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
	if (fd >= 0)
		close(fd);
	const char *state = n > 0 ? strrchr(line, ')') : NULL;
	return state && state[1] && !strchr("ZX", state[2]);
}

static void stats_path(const struct watch *w, char *path, size_t size, const char *part)
{
	char name[32];

	tz_device_name(name, sizeof name, w->place.transport, w->id);
	snprintf(path, size, "%s/%s%s", w->place.run_dir, name, part);
}

/* The pid of a server that serves, other than the one that ended; 0: none. */
static pid_t find_server(const struct watch *w)
{
	struct tz_stats head = { 0 };
	char path[192];

	stats_path(w, path, sizeof path, ".stats");
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? 0 : read(fd, &head, sizeof head);
	if (fd >= 0)
		close(fd);
	return n == (ssize_t)sizeof head && head.magic == TZ_STATS_MAGIC &&
		head.state == TZ_STATE_LIVE && head.pid != (uint64_t)w->server &&
		runs((pid_t)head.pid) ? (pid_t)head.pid : 0;
}

/* Keeps the statistics page in memory while nobody serves: whoever takes over writes to it first,
 * and it is in a file that may be swapped out to the very device. A fork has it mapped, too, and
 * locks all that it has. */
static void keep_stats(struct watch *w)
{
	static const char *const parts[] = { ".stats", ".stats.new" };	/* before it is published */
	struct stat st;
	char path[192];
	int fd = -1;

	for (unsigned i = 0; i < 2 && fd < 0; i++) {
		stats_path(w, path, sizeof path, parts[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	}
	if (w->stats)
		munmap(w->stats, w->stats_len);
	w->stats = NULL;
	if (fd < 0)
		return;
	void *map = fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0
		? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return;
	w->stats = map;
	w->stats_len = (size_t)st.st_size;
	mlock(w->stats, w->stats_len);
}

static void lose(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* 1: an order; 0: whoever gives them has ended. */
static int get_order(int fd, struct order *order)
{
	ssize_t n;

	do
		n = recv(fd, order, sizeof *order, 0);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof *order;
}

/* If the server has ended for another to take over, waits for what becomes of that one. 1: the
 * device has a server; 0: it has none. */
static int has_succeeded(const struct watch *w)
{
	struct timespec pause = { 0, 10000000 };

	if (!w->successor)
		return 0;
	while (!find_server(w)) {
		if (!runs(w->successor))
			return find_server(w) != 0;
		nanosleep(&pause, NULL);
	}
	return 1;
}

/* ---- the standby ---- */

/* 1: the server has ended, and it is our turn. */
static int stand_by(struct watch *w)
{
	struct order order = { 0 };

	prctl(PR_SET_NAME, "tz-standby");
	mlockall(MCL_CURRENT);
	while (get_order(w->fd, &order) && order.what != END) {
		w->server = (pid_t)order.server;
		if (order.what == WAIT)
			(void)!send(w->fd, &order.what, sizeof order.what, MSG_NOSIGNAL);
		else if (order.what == HAND_OVER)
			w->successor = (pid_t)order.number;
	}
	close(w->fd);
	return order.what != END && w->server && !has_succeeded(w);
}

/* ---- the nursery ---- */

static int pair(int fds[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds);
}

/* In the standby that was forked: 1. Here, and if it fails: 0. */
static int fork_standby(struct watch *w)
{
	int orders[2] = { -1, -1 }, link[2] = { -1, -1 };
	pid_t pid = pair(orders) < 0 || pair(link) < 0 ? -1 : fork();
	int error = errno;

	if (pid == 0) {
		close(orders[0]);
		close(link[0]);
		close(w->fd);
		if (w->link >= 0)
			close(w->link);
		w->fd = orders[1];
		w->link = link[1];
		w->other = getppid();
		return 1;
	}
	struct answer answer = { pid < 0 ? -error : (int)pid };
	tz_send_with_fd(w->fd, &answer, sizeof answer, pid < 0 ? -1 : orders[0], 0);
	lose(&w->link);
	if (pid > 0) {
		w->link = link[0];
		w->other = pid;
		link[0] = -1;
	}
	for (int i = 0; i < 2; i++) {
		if (orders[i] >= 0)
			close(orders[i]);
		if (link[i] >= 0)
			close(link[i]);
	}
	return 0;
}

/* Another nursery, which goes on here (1), while we become its server (0). Without one, too. */
static int fork_nursery(struct watch *w)
{
	struct pollfd ready = { .events = POLLIN };
	int fds[2];
	char byte = 1;
	pid_t pid = pair(fds) < 0 ? -1 : fork();

	lose(&w->link);
	if (pid == 0) {
		close(fds[0]);
		w->fd = fds[1];
		w->server = getppid();
		mlockall(MCL_CURRENT);
		(void)!send(w->fd, &byte, 1, MSG_NOSIGNAL);
		return 1;
	}
	if (pid < 0)
		return 0;
	close(fds[1]);
	w->link = ready.fd = fds[0];
	w->other = pid;
	if (poll(&ready, 1, NURSERY_MS) > 0)
		(void)!recv(w->link, &byte, 1, MSG_DONTWAIT);
	return 0;
}

/* Memory may be what the one before lacked: 0 at first, then ever longer, 4 s in all. */
static void wait_longer(unsigned failures)
{
	struct timespec pause = { 0, (long)(failures * failures) * 20000000 };

	while (pause.tv_nsec >= 1000000000) {
		pause.tv_sec++;
		pause.tv_nsec -= 1000000000;
	}
	nanosleep(&pause, NULL);
}

/* The server has ended without a last word. 1: the standby is the server now, and we are its
 * nursery, or a new one is; 0: it is our turn; -1: there is nothing left to do. */
static int next_server(struct watch *w)
{
	char byte;

	close(w->fd);
	w->fd = -1;
	if (!w->server || w->failures++ >= MOST_FAILURES || has_succeeded(w))
		return -1;
	w->successor = 0;
	if (w->link >= 0 && recv(w->link, &byte, 1, MSG_DONTWAIT | MSG_PEEK) != 0) {
		w->fd = w->link;
		w->server = w->other;
		w->link = -1;
		return 1;
	}
	wait_longer(w->failures - 1);
	return fork_nursery(w);
}

/* 1: the process is to become the server, else 0. */
static int nurse(struct watch *w)
{
	struct order order = { 0 };
	int next = 1;

	while (next == 1) {
		if (!get_order(w->fd, &order)) {
			next = next_server(w);
			continue;
		}
		w->server = (pid_t)order.server;
		if (order.what == END)
			return 0;
		if (order.what == HAND_OVER)
			w->successor = (pid_t)order.number;
		if (order.what == START) {
			w->id = order.number;
			w->failures = 0;
			keep_stats(w);
			if (fork_standby(w))
				return stand_by(w);
		}
	}
	return next == 0;
}

int tz_nursery_main(struct tz_succession *out)
{
	struct watch w = { .fd = TZ_HELPER_FD, .link = -1 };

	fcntl(TZ_HELPER_FD, F_SETFD, FD_CLOEXEC);
	prctl(PR_SET_NAME, "tz-nursery");
	tz_protect_from_oom();			/* and what it forks */
	tz_thread_flusher(1);			/* likewise */
	tz_detach();
	tz_zstd_version();		/* loads libzstd: it is locked as well */
	if (recv(w.fd, &w.place, sizeof w.place, 0) != (ssize_t)sizeof w.place ||
		!memchr(w.place.run_dir, 0, sizeof w.place.run_dir) ||
		!tz_transport_row(w.place.transport))
		return 0;
	mlockall(MCL_CURRENT);
	signal(SIGCHLD, SIG_IGN);		/* nobody asks how a standby ended */
	if (!nurse(&w))
		return 0;
	signal(SIGCHLD, SIG_DFL);
	snprintf(out->run_dir, sizeof out->run_dir, "%s", w.place.run_dir);
	out->transport = w.place.transport;
	out->id = w.id;
	out->nursery_fd = w.link;
	return 1;
}

/* ---- the server's side ---- */

void tz_standby_inherit(struct tz_standby *b, const struct tz_succession *from)
{
	char byte;

	b->nursery_fd = from->nursery_fd;
	if (b->nursery_fd < 0)
		return;
	fcntl(b->nursery_fd, F_SETFL, O_NONBLOCK);
	if (recv(b->nursery_fd, &byte, 1, MSG_PEEK) == 0)		/* it is dead, too */
		lose(&b->nursery_fd);
}

int tz_standby_open(struct tz_standby *b, const char *run_dir, int transport)
{
	static char option[] = "--nursery";
	struct place place = { "", transport };
	pid_t pid;
	int fd = tz_helper_spawn(option, &pid);

	b->fd = -1;
	b->nursery_fd = fd < 0 ? -1 : fd;
	if (fd < 0)
		return fd;
	snprintf(place.run_dir, sizeof place.run_dir, "%s", run_dir);
	return send(fd, &place, sizeof place, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* 0, or -1: nobody is there. */
static int tell(int fd, uint32_t what, uint32_t number)
{
	struct order order = { what, (uint32_t)getpid(), number };

	return fd >= 0 && send(fd, &order, sizeof order, MSG_NOSIGNAL) == (ssize_t)sizeof order
		? 0 : -1;
}

static void ask(struct tz_standby *b)
{
	if (!b->asked && tell(b->nursery_fd, START, b->id) == 0) {
		b->asked = 1;
		b->asked_at = tz_now_ns();
	}
}

void tz_standby_ask(struct tz_standby *b, uint32_t id)
{
	b->id = id;
	ask(b);
}

/* The nursery's answer: a descriptor, or -1; *again: there is none yet. */
static int take_answer(struct tz_standby *b, int *pid, int *again)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct answer answer = { -EPIPE };
	struct iovec data = { &answer, sizeof answer };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof control.room };
	ssize_t n = recvmsg(b->nursery_fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *h;
	int fd = -1;

	*again = n < 0 && (errno == EAGAIN || errno == EINTR);
	*pid = answer.pid;
	if (n == (ssize_t)sizeof answer && (h = CMSG_FIRSTHDR(&m)) && h->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(h), sizeof fd);
	return fd;
}

static int welcome(struct tz_standby *b)
{
	int pid, again, fd = take_answer(b, &pid, &again);

	if (again)
		return 0;
	b->asked = 0;
	if (fd < 0) {		/* the nursery is dead, or cannot start any */
		tz_log("no standby: %s", pid < 0 ? strerror(-pid) : "the nursery is gone");
		lose(&b->nursery_fd);
		return 1;
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (tell(fd, WAIT, b->id) < 0) {
		close(fd);
		return 0;
	}
	lose(&b->fd);
	b->fd = fd;
	b->pid = pid;
	b->ready = 0;
	return 0;
}

int tz_standby_event(struct tz_standby *b)
{
	ssize_t n = -1;
	char byte;

	if (b->fd >= 0 && (n = recv(b->fd, &byte, 1, MSG_DONTWAIT)) > 0) {
		b->ready = 1;
		return 1;
	}
	if (b->fd >= 0 && (n == 0 || errno == ECONNRESET)) {
		uint64_t since = tz_now_ns() - b->asked_at;
		struct timespec pause = { 0, (long)(AGAIN_NS - 1) };
		tz_log("the standby (pid %d) has died: another one is started", (int)b->pid);
		lose(&b->fd);
		if (since < AGAIN_NS)
			nanosleep(&pause, NULL);
		ask(b);
		return 1;
	}
	return b->nursery_fd >= 0 ? welcome(b) : 0;
}

void tz_standby_await(struct tz_standby *b, int ms)
{
	uint64_t end = tz_now_ns() + (uint64_t)ms * 1000000;

	while (!b->ready && (b->fd >= 0 || b->asked) && tz_now_ns() < end) {
		struct pollfd fds[2] = { { b->fd, POLLIN, 0 }, { b->nursery_fd, POLLIN, 0 } };
		if (poll(fds, 2, 100) > 0)
			tz_standby_event(b);
	}
}

pid_t tz_standby_pid(const struct tz_standby *b)
{
	return b->ready && b->fd >= 0 ? b->pid : 0;
}

void tz_standby_hand_over(struct tz_standby *b, pid_t successor)
{
	tell(b->fd, HAND_OVER, (uint32_t)successor);
	tell(b->nursery_fd, HAND_OVER, (uint32_t)successor);
}

void tz_standby_close(struct tz_standby *b)
{
	tell(b->fd, END, 0);
	tell(b->nursery_fd, END, 0);
	lose(&b->fd);
	lose(&b->nursery_fd);
}
