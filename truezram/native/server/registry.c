/* registry.c - files of a device in the run directory (what they are: registry.h).
 *
 * Two locks. NAME.lock is held by NAME's server for life. DIR/arena.lock is held for moments:
 * around mounting the arenas' tmpfs and making an arena there, and around deleting one and
 * unmounting the tmpfs when it was the last. So the tmpfs is never unmounted while a server starts
 * on it, nor while it holds an arena, even a dead server's.
 */
#include "registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define TMPFS_MAGIC_NUMBER 0x01021994
#define LOG_MOST 65536			/* bytes that a log has at most, and */
#define LOG_KEPT 16384			/* those that stay of it then */

static int log_is_ours;			/* and not where our creator reads */

static int fail(char *why, size_t why_size, const char *what, const char *path)
{
	int err = errno;

	snprintf(why, why_size, "cannot %s %s: %s%s", what, path, strerror(err),
		err == ENOSPC ? ". That file system is full: free some space there" : "");
	return -err;
}

static void path_of(const struct tz_registry *r, char *path, size_t size, const char *suffix)
{
	/* tz_registry_take has seen to it that this fits. */
	if ((size_t)snprintf(path, size, "%s/%s%s", r->dir, r->name, suffix) >= size)
		path[0] = 0;
}

static void arena_path(const struct tz_registry *r, char *path, size_t size)
{
	snprintf(path, size, "%s/arena/%s", r->dir, r->name);
}

/* The log of a device whose arena is on the noswap tmpfs lies there as well: the server must not
 * have to wait for its own device to bring back the log's last page. */
static void safe_log_path(const struct tz_registry *r, char *path, size_t size)
{
	snprintf(path, size, "%s/arena/%s.log", r->dir, r->name);
}

/* It is found by the name that a log has elsewhere. */
static void link_log(const struct tz_registry *r)
{
	char path[192], target[64];

	path_of(r, path, sizeof path, ".log");
	snprintf(target, sizeof target, "arena/%s.log", r->name);
	(void)!symlink(target, path);		/* if that fails, it is not found so easily */
}

/* What a device consists of besides its lock and its log. The entry goes last: when it is gone,
 * nothing is left. */
static const char *const parts[] = { ".stats.new", ".sock", ".stats" };
#define PARTS (sizeof parts / sizeof parts[0])

static int exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* Whether a server that died left something of NAME. */
static int has_leftovers(const struct tz_registry *r)
{
	char path[192];

	for (unsigned i = 0; i < PARTS; i++) {
		path_of(r, path, sizeof path, parts[i]);
		if (exists(path))
			return 1;
	}
	arena_path(r, path, sizeof path);
	return exists(path);
}

/* The lock file may be unlinked by its last holder between our open and flock: then it is not the
 * one in the directory. */
static int take_lock(const char *path)
{
	for (int tries = 0; tries < 100; tries++) {
		struct stat held, named;
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			int err = errno;
			close(fd);
			return err == EWOULDBLOCK ? -EBUSY : -err;
		}
		if (fstat(fd, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino)
			return fd;
		close(fd);
	}
	return -EBUSY;
}

/* ---- the arenas' tmpfs ---- */

/* The lock around mount and umount. A descriptor, or negative errno; held for moments only, so
 * waiting for it is bounded. */
static int lock_arenas(const struct tz_registry *r)
{
	struct timespec pause = { 0, 5000000 };
	char path[192];
	int fd;

	snprintf(path, sizeof path, "%s/arena.lock", r->dir);
	for (int tries = 0; (fd = take_lock(path)) == -EBUSY && tries < 2000; tries++)
		nanosleep(&pause, NULL);
	return fd;
}

static int is_empty(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int empty = dir != NULL;

	while (empty && (entry = readdir(dir)))
		empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
	if (dir)
		closedir(dir);
	return empty;
}

/* With the lock held: the folder of the arenas, its tmpfs and the lock file go when no arena is
 * left. */
static void remove_empty(const struct tz_registry *r)
{
	char path[192];

	snprintf(path, sizeof path, "%s/arena", r->dir);
	if (exists(path) && !is_empty(path))
		return;
	umount2(path, UMOUNT_NOFOLLOW);
	if (rmdir(path) < 0 && errno != ENOENT)
		return;
	snprintf(path, sizeof path, "%s/arena.lock", r->dir);
	unlink(path);
}

static int has_arenas(const struct tz_registry *r)
{
	char path[192], lock[192];

	snprintf(path, sizeof path, "%s/arena", r->dir);
	snprintf(lock, sizeof lock, "%s/arena.lock", r->dir);
	return exists(path) || exists(lock);
}

/* Our own log, open, would keep the tmpfs from being unmounted. */
static void close_log(const char *log)
{
	struct stat file, open_one;
	int null;

	if (stat(log, &file) < 0 || fstat(STDERR_FILENO, &open_one) < 0 ||
		file.st_dev != open_one.st_dev || file.st_ino != open_one.st_ino)
		return;
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDERR_FILENO);
		close(null);
	}
}

/* Deletes NAME's arena, and the tmpfs when that was the last. -EBUSY: a process has it attached. */
static int remove_arena(struct tz_registry *r)
{
	char path[192];
	int lock, fd, rc = 0;

	arena_path(r, path, sizeof path);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		rc = -EBUSY;
	if (fd >= 0)
		close(fd);
	if (rc < 0 || (fd < 0 && !has_arenas(r)))
		return rc;
	lock = lock_arenas(r);
	unlink(path);
	safe_log_path(r, path, sizeof path);
	close_log(path);
	unlink(path);
	if (lock >= 0) {
		remove_empty(r);
		close(lock);
	}
	return 0;
}

static void remove_files(struct tz_registry *r)
{
	char path[192];

	path_of(r, path, sizeof path, ".log");
	unlink(path);
	for (unsigned i = 0; i < PARTS; i++) {
		path_of(r, path, sizeof path, parts[i]);
		unlink(path);
	}
}

/* ---- a name and its lock ---- */

const struct tz_transport_row *tz_transport_row(int transport)
{
	static const struct tz_transport_row rows[] = {
		[TZ_TRANSPORT_UBLK] = { "ublk", "ublkb", 1 },
		[TZ_TRANSPORT_LOCAL] = { "local", "local", 0 },
		[TZ_TRANSPORT_NBD] = { "nbd", "nbd", 1 },
	};

	return transport >= 0 && (size_t)transport < sizeof rows / sizeof *rows
		? &rows[transport] : NULL;
}

int tz_transport_parse(const char *word)
{
	const struct tz_transport_row *row;

	for (int t = 0; (row = tz_transport_row(t)); t++)
		if (!strcmp(word, row->word))
			return t;
	return -1;
}

void tz_device_name(char *name, size_t size, int transport, unsigned id)
{
	snprintf(name, size, "%s%u", tz_transport_row(transport)->prefix, id);
}

uint64_t tz_process_start(void)
{
	char stat[1024] = "";
	FILE *f = fopen("/proc/self/stat", "re");
	char *p = f && fgets(stat, sizeof stat, f) ? strrchr(stat, ')') : NULL;

	/* Field 22, counted from behind the command name's closing parenthesis (field 2). */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (f)
		fclose(f);
	return p ? strtoull(p, NULL, 10) : 0;
}

/* Who serves NAME, for those who wait for a server that is not ready yet. */
static void sign(int fd)
{
	char text[64];
	int n = snprintf(text, sizeof text, "%d %" PRIu64 "\n", (int)getpid(), tz_process_start());

	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
		fprintf(stderr, "truezramd: cannot write to the lock file: %s\n", strerror(errno));
}

/* Root's registry may be read by everybody, whatever the umask. */
static int make_directory(const char *dir)
{
	mode_t mode = geteuid() == 0 ? 0755 : 0700;

	if (mkdir(dir, mode) < 0)
		return errno == EEXIST ? 0 : -1;
	return chmod(dir, mode);
}

/* Gives NAME back untouched but for the lock, which goes. */
static void release(struct tz_registry *r)
{
	char path[192];

	path_of(r, path, sizeof path, ".lock");
	unlink(path);
	close(r->lock_fd);
	r->lock_fd = -1;
}

static int set_name(
	struct tz_registry *r, const char *dir, const char *name, char *why, size_t why_size)
{
	*r = (struct tz_registry){ .lock_fd = -1, .socket_fd = -1 };
	if (strlen(dir) > 85) {	/* a socket's path has 107 bytes in all */
		snprintf(why, why_size, "the run directory's path is too long: %s", dir);
		return -ENAMETOOLONG;
	}
	snprintf(r->dir, sizeof r->dir, "%s", dir);
	snprintf(r->name, sizeof r->name, "%s", name);
	return 0;
}

int tz_registry_take(struct tz_registry *r, const char *dir, const char *name, int adopt, char *why,
	size_t why_size)
{
	char path[192];
	int rc = set_name(r, dir, name, why, why_size);

	if (rc < 0)
		return rc;
	if (make_directory(dir) < 0)
		return fail(why, why_size, "make", dir);
	path_of(r, path, sizeof path, ".lock");
	r->lock_fd = take_lock(path);
	if (r->lock_fd == -EBUSY) {
		snprintf(why, why_size, "%s is in use by a running server", name);
		return -EBUSY;
	}
	if (r->lock_fd < 0) {
		errno = -r->lock_fd;
		return fail(why, why_size, "lock", path);
	}
	if (!adopt && has_leftovers(r)) {
		/* The lock file is the dead server's too: it stays. */
		close(r->lock_fd);
		r->lock_fd = -1;
		snprintf(why, why_size,
			"%s was left by a server that died. First: truezram remove %s", name, name);
		return -EBUSY;
	}
	sign(r->lock_fd);
	return 0;
}

static int make_stats(struct tz_registry *r, unsigned queues, char *why, size_t why_size)
{
	char path[192];

	r->stats_len = (tz_stats_size(queues) + 4095) & ~(size_t)4095;
	path_of(r, path, sizeof path, ".stats.new");
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(why, why_size, "make", path);
	/* A full file system shows here, not as SIGBUS. */
	errno = posix_fallocate(fd, 0, (off_t)r->stats_len);
	if (errno || fchmod(fd, 0644) < 0) {
		int rc = fail(why, why_size, "make", path);
		close(fd);
		return rc;
	}
	void *map = mmap(NULL, r->stats_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		0);
	close(fd);
	if (map == MAP_FAILED)
		return fail(why, why_size, "map", path);
	r->stats = map;
	if (tz_stats_init(r->stats, r->stats_len, queues) < 0) {
		snprintf(why, why_size, "%u queues do not fit the statistics page", queues);
		return -EINVAL;
	}
	return 0;
}

static int make_socket(struct tz_registry *r, char *why, size_t why_size)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	path_of(r, a.sun_path, sizeof a.sun_path, ".sock");
	r->socket_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->socket_fd < 0)
		return fail(why, why_size, "make", a.sun_path);
	mode_t mask = umask(0177);
	int rc = bind(r->socket_fd, (struct sockaddr *)&a, sizeof a);
	umask(mask);
	if (rc < 0 || listen(r->socket_fd, 128) < 0)
		return fail(why, why_size, "make", a.sun_path);
	return 0;
}

int tz_registry_make(struct tz_registry *r, unsigned queues, char *why, size_t why_size)
{
	int rc = make_stats(r, queues, why, why_size);

	return rc < 0 ? rc : make_socket(r, why, why_size);
}

/* Mounts the arenas' tmpfs unless a file system is there. What it is then, is asked of the opened
 * file. */
static int mount_noswap(const char *dir)
{
	struct stat here, above;
	char up[208];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	snprintf(up, sizeof up, "%s/..", dir);
	if (lstat(dir, &here) < 0 || !S_ISDIR(here.st_mode) || stat(up, &above) < 0)
		return -ENOTDIR;
	if (here.st_dev != above.st_dev)
		return 0;
	return mount("truezram", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		"noswap,size=0,mode=0700") < 0 ? -errno : 0;
}

/* The id of the mount that an open file is on; -1: unknown. */
static int mount_id(int fd)
{
	char path[48], line[128];
	int id = -1;

	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f) && sscanf(line, "mnt_id: %d", &id) != 1)
		;
	if (f)
		fclose(f);
	return id;
}

static int has_option(const char *options, const char *option)
{
	size_t n = strlen(option);

	for (const char *at = options; (at = strstr(at, option)); at += n)
		if ((at == options || at[-1] == ',') &&
		    (at[n] == 0 || at[n] == ',' || at[n] == '\n'))
			return 1;
	return 0;
}

/* Whether an open file is on a tmpfs mounted noswap: statfs has no flag for it, mountinfo has ("ID
 * ... - tmpfs SOURCE OPTIONS"). */
static int is_noswap(int fd)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	int wanted = mount_id(fd), id, found = 0;
	char line[1024], type[32], options[256];

	while (f && !found && wanted >= 0 && fgets(line, sizeof line, f)) {
		const char *rest = strstr(line, " - ");
		found = rest && sscanf(line, "%d", &id) == 1 && id == wanted &&
			sscanf(rest, " - %31s %*s %255s", type, options) == 2 &&
			!strcmp(type, "tmpfs") && has_option(options, "noswap");
	}
	if (f)
		fclose(f);
	return found;
}

/* Judged by the descriptor: whatever has been mounted or unmounted by name, this file is where it
 * is. */
static int is_safe_arena(const struct tz_registry *r, int fd)
{
	struct stat file, dir;
	struct statfs fs;

	return fstat(fd, &file) == 0 && stat(r->dir, &dir) == 0 && file.st_dev != dir.st_dev &&
		fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC_NUMBER && is_noswap(fd);
}

/* A file for the arena on the noswap tmpfs, locked as attached. A descriptor, or negative errno:
 * this kernel or this user can't. */
static int make_arena(struct tz_registry *r)
{
	char path[192];
	int lock, fd, rc;

	lock = lock_arenas(r);
	if (lock < 0)
		return lock;
	snprintf(path, sizeof path, "%s/arena", r->dir);
	rc = mount_noswap(path);
	arena_path(r, path, sizeof path);
	fd = rc < 0 ? rc : open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (rc == 0 && fd < 0)
		fd = -errno;
	if (fd >= 0 && (!is_safe_arena(r, fd) || flock(fd, LOCK_EX | LOCK_NB) < 0)) {
		unlink(path);
		close(fd);
		fd = -EOPNOTSUPP;
	}
	if (fd < 0)
		remove_empty(r);
	else
		link_log(r);
	close(lock);
	return fd;
}

int tz_registry_arena(struct tz_registry *r, int *noswap, char *why, size_t why_size)
{
	int fd = geteuid() == 0 ? make_arena(r) : -EPERM;

	*noswap = fd >= 0;
	if (fd == -EEXIST || fd == -EBUSY) {
		errno = -fd;
		return fail(why, why_size, "make the arena of", r->name);
	}
	if (fd < 0)
		fd = memfd_create("truezram-arena", MFD_CLOEXEC);
	return fd < 0 ? fail(why, why_size, "make", "an anonymous arena file") : fd;
}

int tz_registry_peek_arena(struct tz_registry *r, const char *dir, const char *name, char *why,
	size_t why_size)
{
	char path[192];
	int fd = set_name(r, dir, name, why, why_size);

	if (fd < 0)
		return fd;
	arena_path(r, path, sizeof path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? fail(why, why_size, "open", path) : fd;
}

int tz_registry_adopt_arena(struct tz_registry *r, char *why, size_t why_size)
{
	char path[192];
	int fd;

	arena_path(r, path, sizeof path);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return fail(why, why_size, "open", path);
	if (!is_safe_arena(r, fd) || flock(fd, LOCK_EX | LOCK_NB) < 0) {
		snprintf(why, why_size, "cannot attach %s: %s", path,
			errno == EWOULDBLOCK ? "another process has it attached"
					     : "it is not on a tmpfs mounted noswap");
		close(fd);
		return -EBUSY;
	}
	return fd;
}

/* The dead server's page, if it can be gone on with. */
static int adopt_stats(struct tz_registry *r, unsigned queues)
{
	size_t len = (tz_stats_size(queues) + 4095) & ~(size_t)4095;
	char path[192];
	struct stat st;

	path_of(r, path, sizeof path, ".stats");
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	void *map = fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size != len
		? MAP_FAILED
		: mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return -EINVAL;
	const struct tz_stats *s = map;
	if (s->magic != TZ_STATS_MAGIC || s->version != TZ_STATS_VERSION ||
		s->nr_queues != queues || s->size > len) {
		munmap(map, len);
		return -EINVAL;
	}
	r->stats = map;
	r->stats_len = len;
	return 0;
}

int tz_registry_adopt(struct tz_registry *r, unsigned queues, int *fresh, char *why,
	size_t why_size)
{
	char path[192];
	int rc = adopt_stats(r, queues);

	*fresh = rc < 0;
	path_of(r, path, sizeof path, ".stats.new");
	unlink(path);
	if (*fresh && (rc = make_stats(r, queues, why, why_size)) < 0)
		return rc;
	path_of(r, path, sizeof path, ".sock");
	unlink(path);
	return make_socket(r, why, why_size);
}

int tz_registry_publish(struct tz_registry *r, char *why, size_t why_size)
{
	char from[192], to[192];

	path_of(r, from, sizeof from, ".stats.new");
	path_of(r, to, sizeof to, ".stats");
	if (rename(from, to) < 0)
		return fail(why, why_size, "make", to);
	return 0;
}

/* Whoever has changed settings for months, or a device that is always full, would fill /run. */
static void shorten_log(void)
{
	static char kept[LOG_KEPT];
	static atomic_flag busy = ATOMIC_FLAG_INIT;
	struct stat st;

	if (!log_is_ours || fstat(STDERR_FILENO, &st) < 0 || st.st_size <= LOG_MOST ||
		atomic_flag_test_and_set(&busy))
		return;
	ssize_t n = pread(STDERR_FILENO, kept, sizeof kept, st.st_size - LOG_KEPT);
	const char *line = n > 0 ? memchr(kept, '\n', (size_t)n) : NULL;
	if (line && ftruncate(STDERR_FILENO, 0) == 0)
		fwrite(line + 1, 1, (size_t)(kept + n - line - 1), stderr);
	atomic_flag_clear(&busy);
}

void tz_log(const char *format, ...)
{
	char text[400], when[32];
	time_t now = time(NULL);
	struct tm tm;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	strftime(when, sizeof when, "%F %T", localtime_r(&now, &tm));
	fprintf(stderr, "%s truezramd: %s\n", when, text);
	shorten_log();
}

/* What has been logged so far went to a file without a name that the creator reads if we fail: it
 * belongs to the log. */
static void take_over_log(int log)
{
	char text[4096];
	struct stat st;

	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink)
		return;
	ssize_t n = pread(STDERR_FILENO, text, sizeof text, 0);
	if (n > 0 && write(log, text, (size_t)n) != n)
		fprintf(stderr, "truezramd: cannot write to the log: %s\n", strerror(errno));
}

void tz_registry_log(struct tz_registry *r)
{
	char path[192];

	arena_path(r, path, sizeof path);
	if (exists(path))
		safe_log_path(r, path, sizeof path);
	else
		path_of(r, path, sizeof path, ".log");
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return;		/* then the log goes where it went */
	take_over_log(fd);
	log_is_ours = dup2(fd, STDERR_FILENO) >= 0;
	close(fd);
}

int tz_registry_drop(struct tz_registry *r)
{
	int rc;

	if (r->lock_fd < 0)
		return 0;
	if (r->stats)
		munmap(r->stats, r->stats_len);
	if (r->socket_fd >= 0)
		close(r->socket_fd);
	r->stats = NULL;
	r->socket_fd = -1;
	rc = remove_arena(r);
	if (rc < 0) {
		close(r->lock_fd);
		r->lock_fd = -1;
		return rc;
	}
	remove_files(r);
	release(r);
	return 0;
}
