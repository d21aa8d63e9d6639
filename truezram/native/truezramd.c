/* truezramd.c - the server: one small process per device. Makes the device, serves it until told to stop, removes it.
 *
 *	truezramd --transport ublk|local --size BYTES --algorithm NAME[:LEVEL] --run-dir DIR
 *	          [--dictionary FILE] [--mem-limit BYTES] [--id N] [--queues N] [--queue-depth N] [--ready-fd FD]
 *	truezramd --cleanup --transport ublk|local --id N --run-dir DIR
 *
 * It is started by `truezram create`, which checks options before; what is checked here is what could do harm. Order of things:
 * device number (ublk: ADD_DEV gives it) - registry entry and its lock - arena and store - queue threads - memory locked - START_DEV -
 * entry published - struct tz_ready written to FD. A failure anywhere undoes what was done and reports what and why.
 *
 * The main thread then is the control thread (control.c has the loop): messages, signals, queues that end. Everything
 * that I/O depends on is locked memory; the main thread may page-fault and allocate, the queue threads never wait for it.
 */
#include "control.h"
#include "dictionary.h"
#include "lock.h"
#include "protocol.h"
#include "server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define VERSION "0.1.0"
#define MAX_DEPTH 4096

struct options {
	int transport;		/* enum tz_transport, -1 not given */
	uint64_t size, mem_limit;
	const char *algorithm, *run_dir, *dictionary;	/* dictionary: a file, NULL = none */
	int id, ready_fd, cleanup;	/* id -1: any */
	unsigned queues, depth;		/* 0: default */
};

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
}

/* ---- options ---- */

static int number(const char *option, const char *text, uint64_t most, uint64_t *out)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || *end || end == text || text[0] == '-' || n > most) {
		fprintf(stderr, "truezramd: --%s %s: not a whole number from 0 to %" PRIu64 "\n", option, text, most);
		return -1;
	}
	*out = n;
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "transport", required_argument, NULL, 't' }, { "size", required_argument, NULL, 's' },
		{ "algorithm", required_argument, NULL, 'a' }, { "mem-limit", required_argument, NULL, 'm' },
		{ "id", required_argument, NULL, 'i' }, { "queues", required_argument, NULL, 'q' },
		{ "queue-depth", required_argument, NULL, 'd' }, { "run-dir", required_argument, NULL, 'r' },
		{ "ready-fd", required_argument, NULL, 'f' }, { "cleanup", no_argument, NULL, 'c' },
		{ "dictionary", required_argument, NULL, 'D' }, { "version", no_argument, NULL, 'V' }, { NULL, 0, NULL, 0 },
	};
	uint64_t n;
	int c;

	*o = (struct options){ .transport = -1, .id = -1, .ready_fd = -1 };
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int bad = 0;
		switch (c) {
		case 't':
			o->transport = !strcmp(optarg, "ublk") ? TZ_TRANSPORT_UBLK : !strcmp(optarg, "local") ? TZ_TRANSPORT_LOCAL : -1;
			break;
		case 's': bad = number("size", optarg, 1ull << 52, &o->size); break;
		case 'm': bad = number("mem-limit", optarg, 1ull << 52, &o->mem_limit); break;
		case 'a': o->algorithm = optarg; break;
		case 'D': o->dictionary = optarg; break;
		case 'r': o->run_dir = optarg; break;
		case 'i': bad = number("id", optarg, 1u << 20, &n); o->id = (int)n; break;
		case 'q': bad = number("queues", optarg, TZ_MAX_QUEUES, &n); o->queues = (unsigned)n; break;
		case 'd': bad = number("queue-depth", optarg, MAX_DEPTH, &n); o->depth = (unsigned)n; break;
		case 'f': bad = number("ready-fd", optarg, 1u << 20, &n); o->ready_fd = (int)n; break;
		case 'c': o->cleanup = 1; break;
		case 'V': printf("truezramd %s\n", VERSION); exit(0);
		default: bad = -1;
		}
		if (bad)
			return -1;
	}
	if (o->transport < 0 || !o->run_dir || optind != argc || (o->cleanup ? o->id < 0 : !o->size || !o->algorithm)) {
		fprintf(stderr, "usage: truezramd --transport ublk|local --size BYTES --algorithm NAME[:LEVEL] --run-dir DIR\n"
			"                 [--dictionary FILE] [--mem-limit BYTES] [--id N] [--queues N] [--queue-depth N]\n"
			"                 [--ready-fd FD]\n"
			"       truezramd --cleanup --transport ublk|local --id N --run-dir DIR\n"
			"This is the server behind a device; use truezram create.\n");
		return -1;
	}
	return 0;
}

/* ---- making the device ---- */

static unsigned online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (unsigned)n;
}

/* A free number for a local device: the first whose lock can be had. */
static int take_local(struct tz_server *s, const struct options *o)
{
	char name[32];
	int rc = -EBUSY;

	for (int id = o->id >= 0 ? o->id : 0; id < 4096 && rc == -EBUSY; id++) {
		snprintf(name, sizeof name, "local%d", id);
		rc = tz_registry_take(&s->registry, o->run_dir, name, s->why, sizeof s->why);
		s->id = (uint32_t)id;
		if (o->id >= 0)
			break;
	}
	return rc;
}

static int take_ublk(struct tz_server *s, const struct options *o)
{
	char name[32];
	int rc = tz_ublk_open(&s->ublk, s->why, sizeof s->why);

	if (rc < 0)
		return rc;
	s->ublk_open = 1;
	rc = tz_ublk_add(&s->ublk, o->id, s->nr_queues, s->depth, o->size, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	s->id = s->ublk.info.dev_id;
	s->nr_queues = s->ublk.info.nr_hw_queues;	/* the kernel caps both */
	s->depth = s->ublk.info.queue_depth;
	snprintf(name, sizeof name, "ublkb%u", s->id);
	return tz_registry_take(&s->registry, o->run_dir, name, s->why, sizeof s->why);
}

static void fill_head(struct tz_server *s, const struct options *o, int flags)
{
	struct tz_stats *h = s->registry.stats;
	struct timespec now;
	char stat[1024] = "";
	unsigned long long start = 0;
	FILE *f = fopen("/proc/self/stat", "re");

	/* Field 22, counted from behind the command name's closing parenthesis (field 2). */
	if (f && fgets(stat, sizeof stat, f)) {
		char *p = strrchr(stat, ')');
		for (int field = 2; p && field < 22; field++)
			p = strchr(p + 1, ' ');
		if (p)
			start = strtoull(p, NULL, 10);
	}
	if (f)
		fclose(f);
	clock_gettime(CLOCK_REALTIME, &now);
	h->queue_depth = s->depth;
	h->transport = (uint32_t)o->transport;
	h->id = s->id;
	h->pid = (uint64_t)getpid();
	h->pid_start = start;
	h->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	h->flags = (uint32_t)flags;
	h->max_io = o->transport == TZ_TRANSPORT_UBLK ? s->ublk.info.max_io_buf_bytes : TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
	snprintf(h->name, sizeof h->name, "%s", s->registry.name);
	snprintf(h->server_version, sizeof h->server_version, "%s", VERSION);
}

/* Reads a regular file (reading another might not end) of up to `room` bytes. Bytes, or negative errno. */
static ssize_t read_file(const char *path, uint8_t *out, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err;
	ssize_t got = 1, n = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) {
		close(fd);
		return -EINVAL;
	}
	while (got > 0 && (size_t)n < room) {
		got = read(fd, out + n, room - (size_t)n);
		n += got > 0 ? got : 0;
	}
	err = errno;
	close(fd);
	return got < 0 ? -err : n;
}

/* The dictionary, to be freed; it is asked for one byte more than it may have, so that a larger one is told apart. NULL
 * with *err and why. */
static uint8_t *read_dictionary(struct tz_server *s, const char *path, size_t *n, int *err)
{
	uint8_t *bytes = malloc(TZ_DICTIONARY_MAX + 1);
	ssize_t got = bytes ? read_file(path, bytes, TZ_DICTIONARY_MAX + 1) : -ENOMEM;
	const char *fault = got == -EINVAL ? "it is no regular file" : got < 0 ? strerror((int)-got)
		: tz_dictionary_fault(bytes, (size_t)got);

	if (!fault) {
		*n = (size_t)got;
		return bytes;
	}
	snprintf(s->why, sizeof s->why, "cannot use the dictionary %.100s: %s", path, fault);
	*err = got < 0 ? (int)got : -EINVAL;
	free(bytes);
	return NULL;
}

static int make_store(struct tz_server *s, const struct options *o)
{
	int noswap, rc = 0, fd, flags = 0;
	uint8_t *dictionary = NULL;
	size_t n = 0;

	rc = tz_registry_make(&s->registry, s->nr_queues, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	fd = tz_registry_arena(&s->registry, &noswap, s->why, sizeof s->why);
	if (fd < 0)
		return fd;
	/* Without a noswap tmpfs the arena must be locked for a block device: it may become swap. */
	int lock = !noswap && o->transport == TZ_TRANSPORT_UBLK;
	if (noswap)
		flags |= TZ_FLAG_NOSWAP_TMPFS;
	if (noswap || lock)
		flags |= TZ_FLAG_MEMORY_LOCKED;
	if (o->transport == TZ_TRANSPORT_UBLK && s->ublk.info.flags & UBLK_F_USER_COPY)
		flags |= TZ_FLAG_USER_COPY;
	fill_head(s, o, flags);
	if (o->dictionary && !(dictionary = read_dictionary(s, o->dictionary, &n, &rc))) {
		close(fd);
		return rc;
	}
	struct tz_store_config config = { .disksize = o->size, .mem_limit = o->mem_limit, .algorithm = o->algorithm,
		.dictionary = dictionary, .dictionary_size = n,
		.nr_threads = s->nr_queues, .arena_fd = fd, .lock_arena = lock, .stats = s->registry.stats };
	s->store = tz_store_create(&config, &rc, s->why, sizeof s->why);
	free(dictionary);	/* the store has a copy */
	if (!s->store)
		close(fd);
	return s->store ? 0 : rc;
}

static int start_queues(struct tz_server *s, const struct options *o)
{
	void (*run)(struct tz_queue *) = o->transport == TZ_TRANSPORT_UBLK ? tz_queue_run_ublk : tz_queue_run_local;

	s->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->end_fd < 0)
		return -errno;
	if (o->transport == TZ_TRANSPORT_LOCAL) {
		int rc = tz_local_server_create(&s->local, s->nr_queues, s->depth, o->size / TZ_PAGE_SIZE, s->why, sizeof s->why);
		if (rc < 0)
			return rc;
	}
	for (unsigned i = 0; i < s->nr_queues; i++) {
		struct tz_queue *q = &s->queues[i];
		*q = (struct tz_queue){ .index = i, .depth = s->depth, .nr_pages = o->size / TZ_PAGE_SIZE, .end_fd = s->end_fd,
			.store = tz_store_thread(s->store, i), .ublk = &s->ublk, .local = &s->local };
		q->stats = tz_store_thread_stats(q->store);
		if (o->transport == TZ_TRANSPORT_UBLK)
			tz_ublk_queue_affinity(&s->ublk, i, q->cpu_mask, sizeof q->cpu_mask);	/* refused: runs anywhere */
		int rc = tz_queue_start(q, run, s->why, sizeof s->why);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Locks from..to but for the lazy ranges in it, which are in order of their addresses. */
static int lock_range(uintptr_t from, uintptr_t to, const struct tz_range *lazy, unsigned n)
{
	int failed = 0;

	for (unsigned i = 0; i <= n; i++) {
		uintptr_t end = i < n && lazy[i].from < to ? lazy[i].from : to;
		if (end > from && mlock((void *)from, end - from) < 0 && errno != ENOMEM)
			failed = 1;
		if (i < n && lazy[i].to > from)
			from = lazy[i].to;
	}
	return failed;
}

static int by_address(const void *a, const void *b)
{
	uintptr_t x = ((const struct tz_range *)a)->from, y = ((const struct tz_range *)b)->from;

	return x < y ? -1 : x > y;
}

/* Locks what is mapped now, which also brings in all code. Not the arena, which is locked or on noswap tmpfs by itself, and not
 * what is locked as it is touched: slab metadata and the tables of codecs that are not in use. */
static int lock_process(struct tz_store *store)
{
	struct tz_range tables = tz_dense_table_range();
	struct tz_range lazy[3] = { tz_store_arena(store), tz_store_slab_metadata(store), tables };
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	int failed = 0;

	if (!f)
		return -errno;
	qsort(lazy, 3, sizeof lazy[0], by_address);
	syscall(SYS_mlock2, tables.from, tables.to - tables.from, MLOCK_ONFAULT);
	while (fgets(line, sizeof line, f)) {
		unsigned long from, to;
		char perms[8];
		if (sscanf(line, "%lx-%lx %7s", &from, &to, perms) != 3 || perms[0] != 'r')
			continue;
		if (strstr(line, "[vvar") || strstr(line, "[vsyscall]") || strstr(line, "io_uring") || strstr(line, "/dev/ublkc"))
			continue;	/* the kernel's own pages, always there */
		if (strstr(line, "[stack]"))
			continue;	/* the control thread's */
		failed |= lock_range(from, to, lazy, 3);
	}
	fclose(f);
	return failed ? -EPERM : 0;
}

/* Last in line for the OOM killer: killing the server would lose what is swapped to it. */
static void protect_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "-1000", 5) < 0)
		tz_log("cannot set oom_score_adj to -1000: %s", strerror(errno));
	close(fd);
}

static void set_head(struct tz_server *s, unsigned state, unsigned more_flags)
{
	struct tz_stats *h = s->registry.stats;

	tz_stats_head_begin(h);
	TZ_STATS_SET(h->state, state);
	TZ_STATS_SET(h->flags, h->flags | more_flags);
	tz_stats_head_end(h);
}

static int all_io_flushers(const struct tz_server *s)
{
	for (unsigned i = 0; i < s->nr_queues; i++)
		if (!atomic_load(&s->queues[i].io_flusher))
			return 0;
	return 1;
}

static int make_device(struct tz_server *s, const struct options *o)
{
	int ublk = o->transport == TZ_TRANSPORT_UBLK, rc;

	s->transport = o->transport;
	s->nr_queues = o->queues ? o->queues : ublk ? (online_cpus() < 4 ? online_cpus() : 4) : 1;
	s->depth = o->depth ? o->depth : ublk ? 64 : 16;
	if (!ublk && s->depth > TZ_RING_MAX_DEPTH)
		s->depth = TZ_RING_MAX_DEPTH;
	if (o->size % TZ_PAGE_SIZE) {
		snprintf(s->why, sizeof s->why, "the size must be a multiple of 4096 bytes");
		return -EINVAL;
	}
	rc = ublk ? take_ublk(s, o) : take_local(s, o);
	if (rc < 0 || (rc = make_store(s, o)) < 0 || (rc = start_queues(s, o)) < 0)
		return rc;
	rc = lock_process(s->store);
	if (rc < 0 && ublk) {
		snprintf(s->why, sizeof s->why, "cannot lock the server's memory (needs CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK)");
		return rc;
	}
	if (ublk)
		protect_from_oom();
	if (ublk && (rc = tz_ublk_start(&s->ublk, s->why, sizeof s->why)) < 0)
		return rc;
	set_head(s, TZ_STATE_LIVE, all_io_flushers(s) ? TZ_FLAG_IO_FLUSHER : 0);
	tz_registry_log(&s->registry);
	return tz_registry_publish(&s->registry, s->why, sizeof s->why);
}

/* Undoes all that make_device did, as far as it came. Called once, at the end of every life. */
static void unmake_device(struct tz_server *s)
{
	if (s->registry.stats)
		set_head(s, TZ_STATE_STOPPING, 0);
	if (s->ublk_open && s->ublk.added && !s->ublk.started) {
		/* Fetched but never started: only deleting the device ends the queues. */
		s->ublk.started = 1;
	}
	if (s->ublk_open)
		tz_ublk_stop(&s->ublk);
	for (unsigned i = 0; i < s->nr_queues; i++)
		atomic_store(&s->queues[i].stop, 1);
	for (unsigned i = 0; i < s->nr_queues; i++)
		tz_queue_join(&s->queues[i]);
	if (s->ublk_open) {
		tz_ublk_delete(&s->ublk);
		tz_ublk_close(&s->ublk);
	}
	tz_local_server_close(&s->local);
	tz_store_destroy(s->store);
	tz_registry_drop(&s->registry);
}

/* ---- reporting to whoever started us ---- */

static int exit_code(int err)
{
	switch (-err) {
	case EINVAL: case EFBIG: case ENAMETOOLONG:
		return 2;
	case EPERM: case EACCES: case ENOENT: case EOPNOTSUPP: case ENOSYS:
		return 3;
	case EEXIST: case EBUSY:
		return 4;
	default:
		return 1;
	}
}

static void report(const struct tz_server *s, int ready_fd, int err)
{
	struct tz_ready r = { .magic = TZ_MSG_MAGIC, .version = TZ_MSG_VERSION, .status = err ? TZ_E_FAILED : TZ_OK,
		.id = s->id, .exit_code = err ? (uint32_t)exit_code(err) : 0 };

	snprintf(r.name, sizeof r.name, "%s", s->registry.name);
	snprintf(r.text, sizeof r.text, "%s", err ? s->why : "");
	if (err)
		fprintf(stderr, "truezramd: %s\n", s->why);
	if (ready_fd < 0)
		return;
	if (write(ready_fd, &r, sizeof r) != (ssize_t)sizeof r)
		tz_log("nobody waits for the device any more: %s", strerror(errno));
	close(ready_fd);
}

/* ---- cleaning up after a dead server ---- */

/* The device's node that a server has open as long as it serves. */
static char orphan_node[32];

/* Whether that process serves the device. Its pid alone does not say so: the number may be another program's by now. */
static int is_running(int pid)
{
	char path[64], target[256];
	struct dirent *entry;
	int serves = 0;

	if (pid <= 0 || (kill(pid, 0) < 0 && errno == ESRCH))
		return 0;
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	DIR *fds = opendir(path);
	if (!fds)
		return errno != ENOENT;		/* it cannot be seen: taken for a server */
	while (!serves && (entry = readdir(fds))) {
		ssize_t n = readlinkat(dirfd(fds), entry->d_name, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		const char *slash = strrchr(target, '/');	/* its /dev may not be where ours is */
		serves = slash && !strcmp(slash + 1, orphan_node);
	}
	closedir(fds);
	return serves;
}

static int cleanup(struct tz_server *s, const struct options *o)
{
	char name[32];
	int rc;

	snprintf(name, sizeof name, "%s%d", o->transport == TZ_TRANSPORT_UBLK ? "ublkb" : "local", o->id);
	rc = tz_registry_take(&s->registry, o->run_dir, name, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	if (o->transport == TZ_TRANSPORT_UBLK && tz_ublk_open(&s->ublk, s->why, sizeof s->why) == 0) {
		snprintf(orphan_node, sizeof orphan_node, "ublkc%d", o->id);
		rc = tz_ublk_remove_orphan(&s->ublk, o->id, is_running);
		if (rc < 0 && rc != -ENODEV)
			snprintf(s->why, sizeof s->why, "cannot delete the ublk device that %s left behind: %s", name,
				rc == -EBUSY ? "another program serves it" : strerror(-rc));
		tz_ublk_close(&s->ublk);
	}
	tz_registry_drop(&s->registry);
	return rc == -ENODEV ? 0 : rc;
}

int main(int argc, char **argv)
{
	static struct tz_server server;		/* zeroed; some KiB, not on the stack */
	struct options o;
	sigset_t all;

	if (parse(argc, argv, &o) < 0)
		return 2;
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, 1);	/* threads allocate once, at their start: no arena of 132 KiB for each */
#endif
	server.end_fd = server.registry.lock_fd = server.registry.socket_fd = -1;
	/* Signals come through a signalfd (control.c); the threads inherit the mask. A broken pipe is an error code. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	if (o.ready_fd >= 0)
		fcntl(o.ready_fd, F_SETFD, FD_CLOEXEC);
	int rc = o.cleanup ? cleanup(&server, &o) : make_device(&server, &o);
	if (o.cleanup || rc < 0) {
		if (rc < 0 && !server.why[0])
			snprintf(server.why, sizeof server.why, "%s", strerror(-rc));
		if (!o.cleanup) {
			report(&server, o.ready_fd, rc);
			unmake_device(&server);
		} else if (rc < 0) {
			fprintf(stderr, "truezramd: %s\n", server.why);
		}
		return rc < 0 ? exit_code(rc) : 0;
	}
	report(&server, o.ready_fd, 0);
	tz_log("%s: %" PRIu64 " bytes, %s, %u queues of %u", server.registry.name, o.size, o.algorithm, server.nr_queues,
		server.depth);
	tz_control_loop(&server);
	unmake_device(&server);
	return 0;
}
