/* detach.c - makes the server independent of the process that started it (interface: detach.h).
 *
 * A device outlives its creator and serves the whole machine. So its memory must not be charged to
 * the creator's cgroup, whose limit would stop the device and whose OOM killer would end the
 * creator for it; and its queue threads must not run at the creator's nice value, on its CPUs only,
 * or under its limits. A mount namespace of the creator would be kept alive by the server: if the
 * server were the last in it, its own exit would unmount a filesystem on its own device, and wait
 * for itself.
 */
#include "detach.h"
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES_WANTED 65536u
#define TIMER_SLACK_NS 50000	/* the kernel's default */
enum { IOPRIO_WHO_PROCESS = 1, IOPRIO_NONE = 0 };

static int is_root(void)
{
	return geteuid() == 0;
}

/* Failures that root would want to know of; an ordinary user's device keeps what it may not
 * change. */
static void note(int failed, const char *what)
{
	if (failed && is_root())
		tz_log("cannot %s: %s", what, strerror(errno));
}

/* ---- cgroups ---- */

/* Whether the mount with these options (mountinfo's last field) is the hierarchy of those
 * controllers ("" is version 2). */
static int is_hierarchy(const char *type, const char *options, const char *controllers)
{
	size_t n = strlen(controllers);

	if (!n)
		return !strcmp(type, "cgroup2");
	if (strcmp(type, "cgroup"))
		return 0;
	for (const char *at = options; (at = strstr(at, controllers)); at += n)
		if ((at == options || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
			return 1;
	return 0;
}

/* Where the root of a hierarchy is mounted. 0, or -1: nowhere that we can see. */
static int hierarchy_root(const char *controllers, char *path, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[1024], root[256], at[256], type[32], options[256];
	int found = 0;

	while (f && !found && fgets(line, sizeof line, f)) {
		const char *rest = strstr(line, " - ");
		if (!rest || sscanf(line, "%*s %*s %*s %255s %255s", root, at) != 2 ||
		    strcmp(root, "/") || sscanf(rest, " - %31s %*s %255s", type, options) != 2)
			continue;
		found = is_hierarchy(type, options, controllers);
	}
	if (f)
		fclose(f);
	return found && (size_t)snprintf(path, size, "%s/cgroup.procs", at) < size ? 0 : -1;
}

static void enter_root_of(const char *controllers)
{
	char path[300];
	int fd;

	if (hierarchy_root(controllers, path, sizeof path) < 0) {
		errno = ENOENT;
		note(1, "leave the creator's cgroup: its hierarchy is not mounted here");
		return;
	}
	fd = open(path, O_WRONLY | O_CLOEXEC);
	note(fd < 0 || write(fd, "0", 1) != 1, "leave the creator's cgroup");
	if (fd >= 0)
		close(fd);
}

/* Lines of /proc/self/cgroup: NUMBER:CONTROLLERS:PATH, for version 2 "0::PATH". */
static void leave_cgroups(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[1024];

	while (f && fgets(line, sizeof line, f)) {
		char *controllers = strchr(line, ':'),
			*path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = 0;
		path[strcspn(path, "\n")] = 0;
		if (strcmp(path, "/"))
			enter_root_of(controllers + 1);
	}
	if (f)
		fclose(f);
}

/* ---- what exec hands on ---- */

/* As high as this user may. */
static void raise_limit(int resource, rlim_t wanted)
{
	struct rlimit now, more;

	if (getrlimit(resource, &now) < 0)
		return;
	more = (struct rlimit){ wanted,
		now.rlim_max == RLIM_INFINITY || now.rlim_max > wanted ? now.rlim_max : wanted };
	if (is_root() && setrlimit(resource, &more) == 0)
		return;
	more = (struct rlimit){ now.rlim_max < wanted ? now.rlim_max : wanted, now.rlim_max };
	setrlimit(resource, &more);
}

static void lift_limits(void)
{
	static const int lifted[] = {
		RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_DATA, RLIMIT_CPU, RLIMIT_NPROC,
		RLIMIT_RTTIME
	};

	for (unsigned i = 0; i < sizeof lifted / sizeof *lifted; i++)
		raise_limit(lifted[i], RLIM_INFINITY);
	raise_limit(RLIMIT_NOFILE, FILES_WANTED);
}

static void reset_scheduling(void)
{
	struct sched_param none = { 0 };
	cpu_set_t all;

	/* The kernel keeps those that there are and that we may use. */
	memset(&all, 0xff, sizeof all);
	note(sched_setaffinity(0, sizeof all, &all) < 0, "run on all CPUs");
	note(sched_setscheduler(0, SCHED_OTHER, &none) < 0, "leave the creator's scheduling class");
	errno = 0;
	if (getpriority(PRIO_PROCESS, 0) != 0)
		note(setpriority(PRIO_PROCESS, 0, 0) < 0, "leave the creator's nice value");
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE);
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
}

void tz_detach(void)
{
	leave_cgroups();
	lift_limits();
	reset_scheduling();
	umask(022);
	/* A core dump would hold contents of pages. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	/* No transparent huge pages: one in the slab metadata takes 2 MiB where 0.15 are in use,
	 * and when khugepaged makes one, it unmaps what is there, and queue threads fault. */
	note(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0, "do without transparent huge pages");
}

/* ---- the mount namespace ---- */

static int same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

void tz_leave_mount_namespace(const char *run_dir)
{
	struct stat own, init, before, after;
	int home, there;

	if (!is_root() || stat("/proc/self/ns/mnt", &own) < 0 ||
	    stat("/proc/1/ns/mnt", &init) < 0 || same_file(&own, &init))
		return;
	home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	there = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (home < 0 || there < 0 || stat(run_dir, &before) < 0 || setns(there, CLONE_NEWNS) < 0) {
		tz_log("cannot leave the creator's mount namespace: %s. Do not let the"
			" server be the last process in it while a filesystem on the device is"
			" mounted there: unmount it first", strerror(errno));
	} else if (stat(run_dir, &after) < 0 || !same_file(&before, &after)) {
		tz_log("stays in the creator's mount namespace: %s is another directory"
			" outside of it. Unmount a filesystem on the device before the last other"
			" process leaves that namespace", run_dir);
		if (setns(home, CLONE_NEWNS) < 0)
			tz_log("cannot return to the creator's mount namespace: %s",
				strerror(errno));
	}
	if (chdir("/") < 0)
		tz_log("cannot change to /: %s", strerror(errno));
	if (home >= 0)
		close(home);
	if (there >= 0)
		close(there);
}
