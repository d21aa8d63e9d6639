/* registry.c - files of a device in the run directory (what they are: registry.h). */
#include "registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS_MAGIC_NUMBER 0x01021994

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

static void remove_files(struct tz_registry *r)
{
	static const char *const suffixes[] = { ".stats.new", ".sock", ".log", ".stats" };
	char path[192];

	arena_path(r, path, sizeof path);
	unlink(path);
	/* The mount goes with the last arena; EBUSY while others are there. The entry goes last: seen no more, nothing is left. */
	snprintf(path, sizeof path, "%s/arena", r->dir);
	umount2(path, UMOUNT_NOFOLLOW);
	rmdir(path);
	for (unsigned i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		path_of(r, path, sizeof path, suffixes[i]);
		unlink(path);
	}
}

/* The lock file may be unlinked by its last holder between our open and flock: then it is not the one in the directory. */
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

int tz_registry_take(struct tz_registry *r, const char *dir, const char *name, char *why, size_t why_size)
{
	char path[192];

	*r = (struct tz_registry){ .lock_fd = -1, .socket_fd = -1 };
	if (strlen(dir) > 85) {	/* a socket's path has 107 bytes in all */
		snprintf(why, why_size, "the run directory's path is too long: %s", dir);
		return -ENAMETOOLONG;
	}
	snprintf(r->dir, sizeof r->dir, "%s", dir);
	snprintf(r->name, sizeof r->name, "%s", name);
	if (mkdir(dir, geteuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
		return fail(why, why_size, "make", dir);
	path_of(r, path, sizeof path, ".lock");
	r->lock_fd = take_lock(path);
	if (r->lock_fd == -EBUSY)
		snprintf(why, why_size, "%s is in use by a running server", name);
	else if (r->lock_fd < 0) {
		errno = -r->lock_fd;
		return fail(why, why_size, "lock", path);
	}
	if (r->lock_fd >= 0)
		remove_files(r);
	return r->lock_fd < 0 ? r->lock_fd : 0;
}

static int make_stats(struct tz_registry *r, unsigned queues, char *why, size_t why_size)
{
	char path[192];

	r->stats_len = (tz_stats_size(queues) + 4095) & ~(size_t)4095;
	path_of(r, path, sizeof path, ".stats.new");
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(why, why_size, "make", path);
	errno = posix_fallocate(fd, 0, (off_t)r->stats_len);	/* a full file system shows here, not as SIGBUS */
	if (errno || fchmod(fd, 0644) < 0) {
		int rc = fail(why, why_size, "make", path);
		close(fd);
		return rc;
	}
	void *map = mmap(NULL, r->stats_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
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

/* Mounts the arenas' tmpfs unless it is there. 0, or negative errno: this kernel or this user can't. */
static int mount_noswap(const char *dir)
{
	struct statfs fs;
	char up[208];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	snprintf(up, sizeof up, "%s/..", dir);
	struct stat here, above;
	if (stat(dir, &here) == 0 && stat(up, &above) == 0 && here.st_dev != above.st_dev && statfs(dir, &fs) == 0 &&
	    fs.f_type == TMPFS_MAGIC_NUMBER)
		return 0;	/* only we mount here, and only noswap */
	return mount("truezram", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "noswap,size=0,mode=0700") < 0 ? -errno : 0;
}

int tz_registry_arena(struct tz_registry *r, int *noswap, char *why, size_t why_size)
{
	char path[192];
	int fd;

	snprintf(path, sizeof path, "%s/arena", r->dir);
	*noswap = geteuid() == 0 && mount_noswap(path) == 0;
	if (*noswap) {
		arena_path(r, path, sizeof path);
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		return fd < 0 ? fail(why, why_size, "make", path) : fd;
	}
	fd = memfd_create("truezram-arena", MFD_CLOEXEC);
	return fd < 0 ? fail(why, why_size, "make", "an anonymous arena file") : fd;
}

int tz_registry_publish(struct tz_registry *r, char *why, size_t why_size)
{
	char from[192], to[192];

	path_of(r, from, sizeof from, ".stats.new");
	path_of(r, to, sizeof to, ".stats");
	if (rename(from, to) < 0)
		return fail(why, why_size, "make", to);
	r->published = 1;
	return 0;
}

void tz_registry_log(struct tz_registry *r)
{
	char path[192];

	path_of(r, path, sizeof path, ".log");
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return;		/* then the log goes where it went */
	dup2(fd, STDERR_FILENO);
	close(fd);
}

void tz_registry_drop(struct tz_registry *r)
{
	char path[192];

	if (r->lock_fd < 0)
		return;
	if (r->stats)
		munmap(r->stats, r->stats_len);
	if (r->socket_fd >= 0)
		close(r->socket_fd);
	remove_files(r);
	path_of(r, path, sizeof path, ".lock");
	unlink(path);
	close(r->lock_fd);
	r->lock_fd = -1;
}
