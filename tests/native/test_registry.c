/* test_registry.c - devices that come, go and die side by side: names, locks and arenas
 * (registry.h).
 *
 * With root and a kernel that has noswap, in a mount namespace of its own, the parts about the
 * arenas' tmpfs run too.
 */
#include "harness.h"
#include "registry.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ROUNDS 1500

static char dir[64];
static char why[216];

static int take(struct tz_registry *r, const char *name, int adopt)
{
	why[0] = 0;
	return tz_registry_take(r, dir, name, adopt, why, sizeof why);
}

static int there(const char *file)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", dir, file);
	return lstat(path, &st) == 0;
}

static void make_file(const char *file)
{
	char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, file);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0, "%s: %s", path, strerror(errno));
	close(fd);
}

/* What a server that died has left is refused to a server that wants the name, and removed only
 * by one that adopts it. */
static void test_leftovers(void)
{
	static const char *const left[] = { "ublkb0.stats", "ublkb0.sock", "ublkb0.stats.new",
		"arena/ublkb0" };
	struct tz_registry r;
	char path[128];

	snprintf(path, sizeof path, "%s/arena", dir);
	for (unsigned i = 0; i < sizeof left / sizeof *left; i++) {
		mkdir(path, 0700);
		make_file(left[i]);
		make_file("ublkb0.lock");
		CHECK(take(&r, "ublkb0", 0) == -EBUSY, "%s was not an obstacle", left[i]);
		CHECK(strstr(why, "truezram remove ublkb0"), "%s", why);
		CHECK(there(left[i]), "%s was removed by a refused take", left[i]);
		CHECK(take(&r, "ublkb1", 0) == 0 && tz_registry_drop(&r) == 0, "%s", why);
		CHECK(there(left[i]), "%s was removed by another device", left[i]);
		CHECK(take(&r, "ublkb0", 1) == 0 && tz_registry_drop(&r) == 0, "%s", why);
		CHECK(!there(left[i]) && !there("ublkb0.lock"), "%s is still there", left[i]);
	}
	rmdir(path);
	/* A lock file alone belongs to no device. */
	make_file("ublkb0.lock");
	CHECK(take(&r, "ublkb0", 0) == 0 && tz_registry_drop(&r) == 0, "%s", why);
}

static void test_lock(void)
{
	struct tz_registry a, b;
	unsigned long long start;
	char path[128];
	int pid = 0;

	CHECK(take(&a, "local3", 0) == 0, "%s", why);
	CHECK(take(&b, "local3", 0) == -EBUSY && take(&b, "local3", 1) == -EBUSY, "taken twice");
	snprintf(path, sizeof path, "%s/local3.lock", dir);
	FILE *f = fopen(path, "r");
	CHECK(f && fscanf(f, "%d %llu", &pid, &start) == 2, "the lock does not say whose it is");
	fclose(f);
	CHECK(pid == getpid() && start == tz_process_start() && start, "pid %d", pid);
	CHECK(tz_registry_drop(&a) == 0 && !there("local3.lock"), "drop");
}

/* Root's registry may be read by everybody, whatever the umask of who makes it. */
static void test_directory_mode(void)
{
	struct tz_registry r;
	struct stat st;

	CHECK(rmdir(dir) == 0 || errno == ENOENT || errno == ENOTEMPTY, "%s", strerror(errno));
	char kept[sizeof dir];
	memcpy(kept, dir, sizeof dir);
	strcat(dir, "m");
	mode_t mask = umask(077);
	CHECK(take(&r, "local0", 0) == 0, "%s", why);
	umask(mask);
	CHECK(stat(dir, &st) == 0 && (st.st_mode & 0777) == (geteuid() == 0 ? 0755 : 0700),
		"mode %o", st.st_mode);
	tz_registry_drop(&r);
	rmdir(dir);
	memcpy(dir, kept, sizeof dir);
	mkdir(dir, 0755);
}

/* ---- with root and noswap ---- */

static int can_mount_noswap(void)
{
	char path[80];

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 0;
	/* The registry's folder on a tmpfs, as /run is: memory that can be swapped out. */
	if (mount("run", dir, "tmpfs", 0, "size=8m") < 0)
		return 0;
	snprintf(path, sizeof path, "%s/probe", dir);
	mkdir(path, 0700);
	int ok = mount("probe", path, "tmpfs", 0, "noswap") == 0;
	if (ok)
		umount(path);
	rmdir(path);
	return ok;
}

static int is_apart(int fd)
{
	struct stat file, run;

	return fstat(fd, &file) == 0 && stat(dir, &run) == 0 && file.st_dev != run.st_dev;
}

/* Servers that come and go side by side: an arena that is said to be on the noswap tmpfs is there,
 * and none fails. */
static void come_and_go(const char *name)
{
	struct tz_registry r;
	int noswap, fd;

	for (int i = 0; i < ROUNDS; i++) {
		CHECK(take(&r, name, 0) == 0, "round %d: %s", i, why);
		fd = tz_registry_arena(&r, &noswap, why, sizeof why);
		CHECK(fd >= 0, "round %d: %s", i, why);
		CHECK(noswap, "round %d: the arena is not on the noswap tmpfs", i);
		CHECK(is_apart(fd), "round %d: the arena is on the run directory's file system", i);
		close(fd);
		CHECK(tz_registry_drop(&r) == 0, "round %d: drop", i);
	}
}

static void test_race(void)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		come_and_go("ublkb1");
		_exit(0);
	}
	come_and_go("ublkb0");
	CHECK(waitpid(child, &status, 0) == child && status == 0, "the other one: %d", status);
	CHECK(!there("arena") && !there("arena.lock"), "the tmpfs stays though no arena is left");
}

/* A server is killed; others come and go. Its arena is there until its own device is removed. */
static void test_dead_arena(void)
{
	struct tz_registry r;
	int noswap, status, fd;
	pid_t child = fork();

	if (child == 0) {
		take(&r, "ublkb0", 0);
		fd = tz_registry_arena(&r, &noswap, why, sizeof why);
		if (fd < 0 || write(fd, "everything", 10) != 10)
			_exit(1);
		raise(SIGKILL);
	}
	waitpid(child, &status, 0);
	CHECK(WIFSIGNALED(status) && there("arena/ublkb0"), "no arena to begin with");
	CHECK(take(&r, "ublkb1", 0) == 0, "%s", why);
	fd = tz_registry_arena(&r, &noswap, why, sizeof why);
	CHECK(fd >= 0 && noswap, "%s", why);
	close(fd);
	CHECK(tz_registry_drop(&r) == 0 && there("arena/ublkb0"),
		"another device's end took it along");
	CHECK(take(&r, "ublkb2", 1) == 0 && tz_registry_drop(&r) == 0 && there("arena/ublkb0"),
		"another's clean-up took it along");
	CHECK(take(&r, "ublkb0", 0) == -EBUSY && there("arena/ublkb0"),
		"who takes the name again has it");
	CHECK(take(&r, "ublkb0", 1) == 0, "%s", why);
	CHECK(tz_registry_drop(&r) == 0 && !there("arena"), "its own removal leaves it");
}

/* An arena that a process has attached is not deleted. */
static void test_attached(void)
{
	struct tz_registry r;
	int noswap, fd;

	CHECK(take(&r, "ublkb0", 0) == 0, "%s", why);
	fd = tz_registry_arena(&r, &noswap, why, sizeof why);
	CHECK(fd >= 0 && noswap, "%s", why);
	CHECK(tz_registry_drop(&r) == -EBUSY && there("arena/ublkb0"), "deleted while attached");
	close(fd);
	CHECK(take(&r, "ublkb0", 1) == 0 && tz_registry_drop(&r) == 0 && !there("arena"),
		"%s", why);
}

/* The log lies beside the arena, where it cannot be swapped out to the device, and is found by its
 * old name; though it is open, the tmpfs goes with the device. */
static void test_log(void)
{
	struct tz_registry r;
	char path[128], text[200] = "";
	int noswap, status;
	pid_t child = fork();

	if (child == 0) {		/* its stderr goes to the log */
		take(&r, "ublkb0", 0);
		close(tz_registry_arena(&r, &noswap, why, sizeof why));
		tz_registry_log(&r);
		tz_log("first");
		tz_registry_log(&r);	/* as whoever takes over does */
		tz_log("second");
		snprintf(path, sizeof path, "%s/ublkb0.log", dir);
		int fd = open(path, O_RDONLY);
		int read_back = read(fd, text, sizeof text - 1) > 0 && strstr(text, "first") &&
			strstr(text, "second");
		close(fd);
		_exit(!read_back + 2 * !there("arena/ublkb0.log") + 4 * tz_registry_drop(&r) +
			8 * there("arena") + 16 * there("ublkb0.log"));
	}
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", WEXITSTATUS(status));
}

/* A tmpfs that was mounted there without noswap is not accepted. */
static void test_foreign_tmpfs(void)
{
	struct tz_registry r;
	char path[80];
	int noswap, fd;

	snprintf(path, sizeof path, "%s/arena", dir);
	mkdir(path, 0700);
	CHECK(mount("foreign", path, "tmpfs", 0, "size=1m") == 0, "%s", strerror(errno));
	CHECK(take(&r, "ublkb0", 0) == 0, "%s", why);
	fd = tz_registry_arena(&r, &noswap, why, sizeof why);
	CHECK(fd >= 0 && !noswap && !there("arena/ublkb0"), "it is believed to be noswap");
	close(fd);
	tz_registry_drop(&r);
	umount(path);
	rmdir(path);
}

int main(void)
{
	snprintf(dir, sizeof dir, "/tmp/tzregXXXXXX");
	CHECK(mkdtemp(dir), "%s", strerror(errno));
	test_directory_mode();
	test_lock();
	test_leftovers();
	if (can_mount_noswap()) {
		test_dead_arena();
		test_attached();
		test_log();
		test_foreign_tmpfs();
		test_race();
		umount2(dir, MNT_DETACH);
	} else {
		printf("without the noswap tmpfs: needs root and Linux 6.4\n");
	}
	char command[100];
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command) != 0;
}
