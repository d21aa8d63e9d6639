/* warmcall.c - has a program run by the guest's warm process (warm.py says what that is).
 *
 *   warmcall PROGRAM [ARGUMENT]...
 *
 * Gives it the standard streams; the rest it reads from /proc. Passes on the signals that would
 * end a program, and ends as the program did. Status 125 and a line in /dev/shm/warm.failed, which
 * makes the test fail, when the warm process does not answer.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char name[] = "truezram-warm"; /* in the abstract namespace */
static const int passed_on[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };

static _Noreturn void fail(const char *what)
{
	FILE *file = fopen("/dev/shm/warm.failed", "a");

	fprintf(stderr, "warmcall: %s: %s\n", what, strerror(errno));
	if (file)
		fprintf(file, "warmcall: %s: %s\n", what, strerror(errno));
	exit(125);
}

static int ask(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int streams[3] = { 0, 1, 2 }, sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(streams))];
	} control = { .header = { CMSG_LEN(sizeof(streams)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec byte = { "", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };

	memcpy(address.sun_path + 1, name, sizeof(name) - 1);
	memcpy(CMSG_DATA(&control.header), streams, sizeof(streams));
	if (sock < 0 || connect(sock, (struct sockaddr *)&address,
				offsetof(struct sockaddr_un, sun_path) + sizeof(name)))
		fail("cannot reach the warm process");
	if (sendmsg(sock, &message, MSG_NOSIGNAL) != 1)
		fail("cannot ask the warm process");
	return sock;
}

/* A descriptor for the signals that are passed on: those that the caller does not ignore. */
static int watch_signals(void)
{
	struct sigaction action;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(*passed_on); i++)
		if (!sigaction(passed_on[i], NULL, &action) && action.sa_handler != SIG_IGN)
			sigaddset(&set, passed_on[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void end_by(int number)
{
	struct rlimit none = { 0, 0 };
	sigset_t all;

	setrlimit(RLIMIT_CORE, &none);
	signal(number, SIG_DFL);
	sigfillset(&all);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	raise(number);
}

int main(int argc, char **argv)
{
	int signals = watch_signals(), sock, status;

	if (argc < 2)
		return fprintf(stderr, "usage: warmcall PROGRAM [ARGUMENT]...\n"), 125;
	(void)argv;
	sock = ask();
	for (;;) {
		struct pollfd ready[] = { { sock, POLLIN, 0 }, { signals, POLLIN, 0 } };
		struct signalfd_siginfo info;
		unsigned char number;

		if (poll(ready, 2, -1) < 0)
			fail("poll");
		if (ready[0].revents)
			break;
		if (read(signals, &info, sizeof(info)) != sizeof(info))
			fail("signals");
		number = (unsigned char)info.ssi_signo;
		if (send(sock, &number, 1, MSG_NOSIGNAL) != 1)
			break;
	}
	if (recv(sock, &status, sizeof(status), MSG_WAITALL) != sizeof(status))
		fail("the warm process is gone");
	if (WIFSIGNALED(status))
		end_by(WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
