/* helper.c - the helper process (interface: helper.h).
 *
 * swapoff takes minutes, may be killed by the OOM killer, and needs a process that can sleep in the
 * kernel until pages have come back from the device. That must not be the server, nor a fork of it:
 * a fork keeps the char device and the rings open when the server dies, so that the kernel never
 * fails the reads that the fork waits for; and it makes every page of the server copy-on-write, so
 * that queue threads fault. The helper is a program of its own (posix_spawn of /proc/self/exe: no
 * copy of our page tables), started before the device exists, with nothing open but its end of a
 * socket pair. When the server dies, the kernel fails what is in flight, swapoff runs to its end,
 * and then the helper finds its socket closed and exits.
 */
#include "helper.h"
#include "filter.h"
#include "privileges.h"
#include "registry.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <unistd.h>

struct order {
	char path[256];
};

/* ---- the helper's side ---- */

static int set_oom_score(const char *score)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, score, strlen(score)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

/* Not above others for the OOM killer, whatever the server is when it starts us: swapoff is what
 * can be given up. (To raise it back to 0 is anybody's right, so this does not fail.) */
void tz_helper_be_ordinary(const char *process)
{
	set_oom_score("0");
	prctl(PR_SET_NAME, process);
}

void tz_protect_from_oom(void)
{
	int rc = set_oom_score("-1000");

	if (rc < 0)
		tz_log("cannot set oom_score_adj to -1000: %s", strerror(-rc));
}

int tz_helper_main(void)
{
	struct order order;
	char why[200];
	ssize_t n;

	if (fcntl(TZ_HELPER_FD, F_GETFD) < 0) {
		fprintf(stderr, "truezramd: --helper is what the server starts for itself\n");
		return 2;
	}
	tz_helper_be_ordinary("tz-helper");
	/* swapoff may wait for memory that swapping gives, unlike the server, whose nature we have.
	 * (One that has no right to change that was started when the server had given up its own:
	 * its swapoff may take longer when memory is short.) */
	if (tz_thread_flusher(0) == 0) {
		tz_privileges_reduce();
		tz_privileges_end();
	}
	/* The first one is started before the server has a filter. Without one, too, it serves. */
	tz_filter_install(why, sizeof why);
	while ((n = recv(TZ_HELPER_FD, &order, sizeof order, 0)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof order || !memchr(order.path, 0, sizeof order.path))
			return 1;
		int result = swapoff(order.path) == 0 ? 0 : errno;
		if (send(TZ_HELPER_FD, &result, sizeof result, MSG_NOSIGNAL) < 0)
			return 1;	/* the server is dead */
	}
	return 0;
}

/* ---- the server's side ---- */

static int spawn(char *option, int socket, pid_t *pid)
{
	static char name[] = "@truezramd";	/* as engine/device/server.py's SURVIVOR says */
	char *argv[] = { name, option, NULL }, *env[] = { NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int rc;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawn_file_actions_init(&actions);
	/* All that the server opens is close-on-exec but the standard three. */
	for (int fd = 0; fd <= 2; fd++)
		posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, socket, TZ_HELPER_FD);
	rc = posix_spawn(pid, tz_self_exe, &actions, &attributes, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -rc;
}

int tz_helper_spawn(char *option, pid_t *pid)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	/* adddup2 of a descriptor to itself need not clear close-on-exec: never let it be
	 * TZ_HELPER_FD. */
	int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, TZ_HELPER_FD + 1);
	close(pair[1]);
	rc = theirs < 0 ? -errno : spawn(option, theirs, pid);
	if (theirs >= 0)
		close(theirs);
	if (rc < 0) {
		close(pair[0]);
		return rc;
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	return pair[0];
}

int tz_send_with_fd(int socket, const void *data, size_t size, int fd, int flags)
{
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)data, size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control.room;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
	}
	return sendmsg(socket, &m, flags | MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

int tz_helper_start(struct tz_helper *h)
{
	static char option[] = "--helper";

	if (h->pid > 0)
		return 0;
	int fd = tz_helper_spawn(option, &h->pid);
	if (fd < 0) {
		h->pid = 0;
		return fd;
	}
	h->fd = fd;
	h->busy = 0;
	return 0;
}

/* The helper is dead, or ends once it sees that its socket is closed; the handler of SIGCHLD reaps
 * it. */
static void forget(struct tz_helper *h)
{
	if (h->fd >= 0)
		close(h->fd);
	*h = (struct tz_helper){ .fd = -1 };
}

int tz_helper_swapoff(struct tz_helper *h, const char *path)
{
	struct order order = { "" };
	int rc;

	snprintf(order.path, sizeof order.path, "%s", path);
	/* Twice: one that has been killed meanwhile shows here. */
	for (int tries = 0; tries < 2; tries++) {
		rc = tz_helper_start(h);
		if (rc < 0)
			return rc;
		if (send(h->fd, &order, sizeof order, MSG_NOSIGNAL) == (ssize_t)sizeof order) {
			h->busy = 1;
			return 0;
		}
		rc = -errno;
		forget(h);
	}
	return rc;
}

int tz_helper_result(struct tz_helper *h, int *result)
{
	ssize_t n = h->fd < 0 ? 0 : recv(h->fd, result, sizeof *result, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n == (ssize_t)sizeof *result) {
		h->busy = 0;
		return 0;
	}
	forget(h);
	return -EPIPE;
}

void tz_helper_close(struct tz_helper *h)
{
	forget(h);
}
