/* guest-agent.c - runs in a test guest (started by guest-init, spoken to by guest.py, which
 * compiles it): one bash script after the other, each with a time limit. In C because each program
 * that is started costs some hundredths of a second under emulation: it runs thousands of scripts.
 *
 *   guest-agent PORT
 */
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLDER "/dev/shm/agent"
#define TIMED_OUT 124
#define KILL_SECONDS 5 /* after SIGTERM */
#define HUNG_SECONDS 10 /* after the limit: what cannot even be killed hangs in the kernel */

/* Names the blocked tasks in the kernel log, for the host to see. */
static void dump_blocked(void)
{
	FILE *file = fopen("/proc/sysrq-trigger", "w");

	if (!file || fputc('w', file) == EOF || fclose(file))
		err(1, "sysrq");
}

static void put_script(const char *base64)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	FILE *file = fopen(FOLDER "/script", "w");
	unsigned bits = 0, count = 0;
	const char *digit;

	if (!file)
		err(1, "script");
	for (; *base64 && (digit = strchr(digits, *base64)); base64++) {
		bits = bits << 6 | (unsigned)(digit - digits);
		count += 6;
		if (count >= 8)
			fputc((int)(bits >> (count -= 8) & 0xff), file);
	}
	if (fclose(file))
		err(1, "script");
}

static void redirect(int number, const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0 || dup2(fd, number) < 0)
		err(127, "%s", path);
	close(fd);
}

static pid_t start(void)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid) {
		setpgid(pid, pid);
		return pid;
	}
	setpgid(0, 0);
	redirect(0, "/dev/null", O_RDONLY);
	redirect(1, FOLDER "/out", O_WRONLY | O_CREAT | O_TRUNC);
	redirect(2, FOLDER "/err", O_WRONLY | O_CREAT | O_TRUNC);
	execl("/bin/bash", "bash", FOLDER "/script", (char *)NULL);
	err(127, "bash");
}

/* Whether the process ends within so many seconds. */
static int ends(int pidfd, int seconds)
{
	struct pollfd ready = { pidfd, POLLIN, 0 };

	return poll(&ready, 1, seconds * 1000) > 0;
}

/* Waits for the script; its status, TIMED_OUT after it was ended. */
static int wait_for(pid_t pid, int limit)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status, late;

	if (pidfd < 0)
		err(1, "pidfd");
	late = !ends(pidfd, limit);
	if (late) {
		kill(-pid, SIGTERM);
		kill(-pid, SIGCONT);
		if (!ends(pidfd, KILL_SECONDS))
			kill(-pid, SIGKILL);
		if (!ends(pidfd, HUNG_SECONDS - KILL_SECONDS))
			dump_blocked();
	}
	if (waitpid(pid, &status, 0) != pid)
		err(1, "wait");
	close(pidfd);
	if (late)
		dump_blocked();
	if (late)
		return TIMED_OUT;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void send_file(FILE *port, const char *path, long long bytes)
{
	FILE *file = fopen(path, "r");
	char room[4096];

	if (!file)
		err(1, "%s", path);
	while (bytes > 0) {
		/* Processes of the script that go on may write more. */
		size_t part = bytes < (long long)sizeof(room) ? (size_t)bytes : sizeof(room);
		size_t got = fread(room, 1, part, file);

		if (!got)
			memset(room, 0, got = part); /* or have cut it */
		if (fwrite(room, 1, got, port) != got)
			err(1, "port");
		bytes -= (long long)got;
	}
	fclose(file);
}

static void answer(FILE *port, const char *id, int status)
{
	struct stat out = { 0 }, error = { 0 };
	FILE *file = fopen("/proc/sys/kernel/tainted", "r");
	char taint[32];

	if (!file || fscanf(file, "%31s", taint) != 1)
		err(1, "taint");
	fclose(file);
	if (stat(FOLDER "/out", &out) || stat(FOLDER "/err", &error))
		err(1, "output");
	fprintf(port, "done %s %d %s %lld %lld\n", id, status, taint, (long long)out.st_size,
		(long long)error.st_size);
	send_file(port, FOLDER "/out", out.st_size);
	send_file(port, FOLDER "/err", error.st_size);
	if (fflush(port))
		err(1, "port");
}

int main(int argc, char **argv)
{
	FILE *in, *out;
	struct utsname system;
	char *line = NULL, *id, *limit, *script;
	size_t room = 0;

	if (argc != 2)
		errx(1, "usage: guest-agent PORT");
	in = fdopen(open(argv[1], O_RDWR | O_CLOEXEC), "r");
	if (!in || !(out = fdopen(fcntl(fileno(in), F_DUPFD_CLOEXEC, 3), "w")))
		err(1, "%s", argv[1]);
	mkdir(FOLDER, 0755);
	uname(&system);
	fprintf(out, "ready %s\n", system.release);
	fflush(out);
	while (getline(&line, &room, in) > 0) {
		id = strtok(line, " \n");
		limit = strtok(NULL, " \n");
		script = strtok(NULL, " \n");
		if (!id || !strcmp(id, "off"))
			break;
		put_script(script ? script : "");
		answer(out, id, wait_for(start(), limit ? atoi(limit) : 0));
	}
	sync();
	return 0;
}
