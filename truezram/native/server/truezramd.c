/* truezramd.c - the server: one small process per device. Makes the device, serves it until it is
 * asked to stop, removes it.
 *
 *	truezramd --transport ublk|local --size BYTES --algorithm NAME[:LEVEL] --run-dir DIR
 *	          [--dictionary FILE] [--mem-limit BYTES] [--id N] [--queues N] [--queue-depth N]
 *	          [--ready-fd FD]
 *	truezramd --cleanup --transport ublk|local --id N --run-dir DIR
 *	truezramd --helper	(started by a server: helper.h)
 *	truezramd --slot-test	(started by a server: slot_test.h)
 *
 * It is started by `truezram create`, which checks options before; what is checked here is what
 * could do harm. Order of things: the creator's surroundings left (detach.c) - capabilities given
 * up (privileges.c) - helper process - a name and its lock, reported to FD (struct tz_ready with
 * TZ_STARTING), so that the process that ends the server knows what to clean up - ublk: ADD_DEV of
 * that number - arena and store - queue threads - memory locked - system calls filtered
 * (filter.c) - START_DEV - entry published - reported to FD again. A failure anywhere undoes what
 * was done and reports what and why.
 *
 * The main thread then is the control thread (control.c has the loop): messages, signals, queues
 * that end. Everything that I/O depends on is locked memory; the main thread may page-fault and
 * allocate, the queue threads never wait for it.
 */
#include "arena.h"
#include "check.h"
#include "clock.h"
#include "control.h"
#include "detach.h"
#include "dictionary.h"
#include "filter.h"
#include "locked.h"
#include "privileges.h"
#include "protocol.h"
#include "server.h"
#include "thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME_TRIES 10000		/* of a ms each: for a dead server's last breath */
#define UPGRADE_TRIES 60000		/* for one that has to be asked first */
#define STANDBY_MS 5000			/* for the first one to be ready */
#define QUIESCE_MS 200			/* for requests that are being served */
#define MAX_TRIES 4096	/* numbers looked at for a free one */

struct options {
	int transport;		/* enum tz_transport, -1 not given */
	uint64_t size, mem_limit;
	const char *algorithm, *run_dir, *dictionary;	/* dictionary: a file, NULL = none */
	uint8_t *dictionary_bytes;	/* what is in it */
	size_t dictionary_size;
	int id, ready_fd, cleanup, recover, upgrade, dedup;	/* id -1: any */
	unsigned queues, depth;		/* 0: default */
};

/* ---- options ---- */

static int number(const char *option, const char *text, uint64_t most, uint64_t *out)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || *end || end == text || text[0] == '-' || n > most) {
		fprintf(stderr,
			"truezramd: --%s %s: not a whole number from 0 to %" PRIu64 "\n", option,
			text, most);
		return -1;
	}
	*out = n;
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "transport", required_argument, NULL, 't' },
		{ "size", required_argument, NULL, 's' },
		{ "algorithm", required_argument, NULL, 'a' },
		{ "mem-limit", required_argument, NULL, 'm' },
		{ "id", required_argument, NULL, 'i' },
		{ "queues", required_argument, NULL, 'q' },
		{ "queue-depth", required_argument, NULL, 'd' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "ready-fd", required_argument, NULL, 'f' },
		{ "cleanup", no_argument, NULL, 'c' },
		{ "recover", no_argument, NULL, 'R' },
		{ "upgrade", no_argument, NULL, 'U' },
		{ "dictionary", required_argument, NULL, 'D' },
		{ "dedup", no_argument, NULL, 'u' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t n;
	int c;

	*o = (struct options){ .transport = -1, .id = -1, .ready_fd = -1 };
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int bad = 0;
		switch (c) {
		case 't':
			o->transport = !strcmp(optarg, "ublk")
				? TZ_TRANSPORT_UBLK
				: !strcmp(optarg, "local") ? TZ_TRANSPORT_LOCAL : -1;
			break;
		case 's': bad = number("size", optarg, TZ_MAX_SIZE, &o->size); break;
		case 'm': bad = number("mem-limit", optarg, TZ_MAX_SIZE, &o->mem_limit); break;
		case 'a': o->algorithm = optarg; break;
		case 'D': o->dictionary = optarg; break;
		case 'u': o->dedup = 1; break;
		case 'r': o->run_dir = optarg; break;
		case 'i': bad = number("id", optarg, TZ_MAX_ID, &n); o->id = (int)n; break;
		case 'q':
			bad = number("queues", optarg, TZ_MAX_QUEUES, &n);
			o->queues = (unsigned)n;
			break;
		case 'd':
			bad = number("queue-depth", optarg, TZ_MAX_DEPTH, &n);
			o->depth = (unsigned)n;
			break;
		case 'f':
			bad = number("ready-fd", optarg, 1u << 20, &n);
			o->ready_fd = (int)n;
			break;
		case 'c': o->cleanup = 1; break;
		case 'R': o->recover = 1; break;
		case 'U': o->recover = o->upgrade = 1; break;
		case 'V': printf("truezramd %s\n", VERSION); exit(0);
		default: bad = -1;
		}
		if (bad)
			return -1;
	}
	if (o->transport < 0 || !o->run_dir || optind != argc ||
	    (o->cleanup || o->recover ? o->id < 0 : !o->size || !o->algorithm)) {
		fprintf(stderr,
			"usage: truezramd --transport ublk|local --size BYTES"
			" --algorithm NAME[:LEVEL] --run-dir DIR\n"
			"                 [--dictionary FILE] [--mem-limit BYTES] [--id N]"
			" [--queues N] [--queue-depth N]\n"
			"                 [--dedup] [--ready-fd FD]\n"
			"       truezramd --cleanup --transport ublk|local --id N --run-dir DIR\n"
			"       truezramd --recover|--upgrade --transport ublk --id N --run-dir DIR"
			" [--ready-fd FD]\n"
			"This is the server behind a device; use truezram create.\n");
		return -1;
	}
	return 0;
}

/* ---- messages to the creator ---- */

static void send_ready(const struct tz_server *s, int ready_fd, unsigned status, int exit_code)
{
	struct tz_ready r = { .magic = TZ_MSG_MAGIC, .version = TZ_MSG_VERSION,
		.status = (uint16_t)status, .id = s->id,
		.exit_code = (uint32_t)exit_code };

	snprintf(r.name, sizeof r.name, "%s", s->registry.name);
	snprintf(r.text, sizeof r.text, "%s", status == TZ_E_FAILED ? s->why : "");
	if (ready_fd >= 0 && write(ready_fd, &r, sizeof r) != (ssize_t)sizeof r)
		tz_log("the creator of the device is gone: %s", strerror(errno));
}

/* The name, as soon as there is one: from here on something may have to be cleared. */
static void announce(const struct tz_server *s, int ready_fd)
{
	send_ready(s, ready_fd, TZ_STARTING, 0);
}

/* ---- making the device ---- */

static unsigned online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (unsigned)n;
}

/* Takes the name of that number; the creator knows of it from then on. 0 or negative errno. */
static int take_name(struct tz_server *s, const struct options *o, int id)
{
	char name[32];

	snprintf(name, sizeof name,
		"%s%d", o->transport == TZ_TRANSPORT_UBLK ? "ublkb" : "local", id);
	int rc = tz_registry_take(&s->registry, o->run_dir, name, 0, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	s->id = (uint32_t)id;
	announce(s, o->ready_fd);
	return 0;
}

/* The device of our number in the kernel. -EEXIST: another ublk server has the number. */
static int add_ublk(struct tz_server *s, const struct options *o)
{
	int rc = tz_ublk_add(&s->ublk, (int)s->id, s->nr_queues, s->depth, o->size, 1, s->why,
		sizeof s->why);

	if (rc < 0)
		return rc;
	s->nr_queues = s->ublk.info.nr_hw_queues;	/* the kernel caps both */
	s->depth = s->ublk.info.queue_depth;
	return 0;
}

/* The number that was asked for, or the first that neither a live server has, nor a dead one has
 * left something of, nor another ublk server uses. The name comes first, then the device: so there
 * is never a device that is not in the registry. */
static int take_number(struct tz_server *s, const struct options *o)
{
	int ublk = o->transport == TZ_TRANSPORT_UBLK, first = o->id >= 0 ? o->id : 0, rc = -EBUSY;

	if (ublk && (rc = tz_ublk_open(&s->ublk, s->why, sizeof s->why)) < 0)
		return rc;
	s->ublk_open = ublk;
	for (int id = first; id < first + MAX_TRIES; id++) {
		rc = take_name(s, o, id);
		if (rc == 0 && ublk && (rc = add_ublk(s, o)) == -EEXIST)
			tz_registry_drop(&s->registry);
		if (o->id >= 0 || (rc != -EBUSY && rc != -EEXIST))
			break;
	}
	return rc;
}

static void fill_head(struct tz_server *s, const struct options *o, int flags)
{
	struct tz_stats *h = s->registry.stats;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	h->queue_depth = s->depth;
	h->transport = (uint32_t)o->transport;
	h->id = s->id;
	h->pid = (uint64_t)getpid();
	h->pid_start = tz_process_start();
	if (!h->created_ns)		/* else a server before us made it */
		h->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	h->flags = (uint32_t)flags;
	h->max_io = o->transport == TZ_TRANSPORT_UBLK
		? s->ublk.info.max_io_buf_bytes : TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
	snprintf(h->name, sizeof h->name, "%s", s->registry.name);
	snprintf(h->server_version, sizeof h->server_version, "%s", VERSION);
}

/* Reads a regular file (reading another might not end) of up to `room` bytes. Bytes, or negative
 * errno. */
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

/* Reads the dictionary, if one is asked for. One byte more than it may have is asked for, so that a
 * larger one shows. 0 or negative errno. */
static int read_dictionary(struct tz_server *s, struct options *o)
{
	if (!o->dictionary)
		return 0;
	uint8_t *bytes = malloc(TZ_DICTIONARY_MAX + 1);
	ssize_t got = bytes ? read_file(o->dictionary, bytes, TZ_DICTIONARY_MAX + 1) : -ENOMEM;
	const char *fault = got == -EINVAL ? "it is not a regular file" : got < 0
		? strerror((int)-got)
		: tz_dictionary_fault(bytes, (size_t)got);

	if (!fault) {
		o->dictionary_bytes = bytes;
		o->dictionary_size = (size_t)got;
		return 0;
	}
	snprintf(s->why, sizeof s->why,
		"cannot use the dictionary %.100s: %s", o->dictionary, fault);
	free(bytes);
	return got < 0 ? (int)got : -EINVAL;
}

static int make_store(struct tz_server *s, const struct options *o)
{
	int noswap, rc, fd, flags = 0;

	rc = tz_registry_make(&s->registry, s->nr_queues, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	fd = tz_registry_arena(&s->registry, &noswap, s->why, sizeof s->why);
	if (fd < 0)
		return fd;
	/* Without a noswap tmpfs the arena must be locked for a block device: it may become
	 * swap. */
	int lock = !noswap && o->transport == TZ_TRANSPORT_UBLK;
	if (noswap)
		flags |= TZ_FLAG_NOSWAP_TMPFS;
	s->arena_fd = fd;
	s->arena_is_safe = noswap;
	if (o->transport == TZ_TRANSPORT_UBLK && s->ublk.info.flags & UBLK_F_USER_COPY)
		flags |= TZ_FLAG_USER_COPY;
	if (o->transport == TZ_TRANSPORT_UBLK && noswap && tz_ublk_is_recoverable(&s->ublk))
		flags |= TZ_FLAG_RECOVERABLE;
	fill_head(s, o, flags);
	struct tz_arena_device device = { .transport = (uint32_t)o->transport,
		.id = s->registry.stats->id, .queues = s->nr_queues, .depth = s->depth,
		.max_io = s->registry.stats->max_io,
		.ublk_flags = o->transport == TZ_TRANSPORT_UBLK ? s->ublk.info.flags : 0,
		.server_version = VERSION };
	struct tz_store_config config = {
		.disksize = o->size, .mem_limit = o->mem_limit, .algorithm = o->algorithm,
		.dedup = o->dedup,
		.dictionary = o->dictionary_bytes, .dictionary_size = o->dictionary_size,
		.nr_threads = s->nr_queues, .arena_fd = fd, .lock_arena = lock,
		.device = &device, .stats = s->registry.stats,
	};
	s->store = tz_store_create(&config, &rc, s->why, sizeof s->why);
	if (!s->store)
		close(fd);
	return s->store ? 0 : rc;
}

/* Looks for what killed the server, and shows what is refused from now on. */
static void accuse(struct tz_server *s, const struct options *o)
{
	char text[sizeof s->registry.stats->last_error];
	unsigned next = 0;

	tz_suspects_take_over(
		&s->suspects, s->registry.stats, o->size / TZ_PAGE_SIZE, tz_now_ns());
	while (tz_suspects_report(&s->suspects, &next, text, sizeof text)) {
		tz_log("%s", text);
		tz_stats_error(s->registry.stats, text);
	}
}

/* The store of the device whose server is dead. */
static int attach_store(struct tz_server *s, const struct options *o)
{
	struct tz_stats *h = s->registry.stats;
	struct tz_check_problem problems[8];
	struct tz_attach a = { .arena_fd = s->arena_fd, .nr_threads = s->nr_queues,
		.stats = s->registry.stats, .server_version = VERSION, .problems = problems,
		.room = sizeof problems / sizeof *problems };
	int rc;

	int handed_over = h->state == TZ_STATE_HANDED_OVER;

	s->arena_is_safe = 1;
	tz_stats_take_over(h);
	tz_stats_head_begin(h);
	fill_head(s, o, TZ_FLAG_NOSWAP_TMPFS | TZ_FLAG_RECOVERABLE |
			(s->ublk.info.flags & UBLK_F_USER_COPY ? TZ_FLAG_USER_COPY : 0));
	TZ_STATS_SET(h->state, TZ_STATE_RECOVERING);
	TZ_STATS_SET(h->standby, 0);	/* it may be us */
	tz_stats_head_end(h);
	accuse(s, o);
	s->store = tz_store_attach(&a, &rc, s->why, sizeof s->why);
	if (!s->store)
		return rc;
	if (a.nr_problems)
		tz_log("%" PRIu64 " problems in the arena, %" PRIu64 " pages are lost. The first:"
			" page %" PRIu64 ": %s", a.nr_problems, a.lost, problems[0].page,
			problems[0].what);
	s->generation = a.generation;
	tz_stats_head_begin(h);
	TZ_STATS_SET(h->recoveries, h->recoveries + !handed_over);
	tz_stats_head_end(h);
	return 0;
}

static int start_queues(struct tz_server *s, const struct options *o)
{
	void (*run)(struct tz_queue *) = o->transport == TZ_TRANSPORT_UBLK
		? tz_queue_run_ublk : tz_queue_run_local;

	s->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->end_fd < 0)
		return -errno;
	if (o->transport == TZ_TRANSPORT_LOCAL) {
		int rc = tz_local_server_create(&s->local, s->nr_queues, s->depth,
			o->size / TZ_PAGE_SIZE, s->why, sizeof s->why);
		if (rc < 0)
			return rc;
	}
	for (unsigned i = 0; i < s->nr_queues; i++) {
		struct tz_queue *q = &s->queues[i];
		*q = (struct tz_queue){ .index = i, .depth = s->depth,
			.nr_pages = o->size / TZ_PAGE_SIZE, .end_fd = s->end_fd,
			.store = tz_store_thread(s->store, i), .ublk = &s->ublk,
			.local = &s->local, .knock = &s->slots.knock,
			.suspects = &s->suspects };
		q->stats = tz_store_thread_stats(q->store);
		if (o->transport == TZ_TRANSPORT_UBLK)
			/* Refused: runs anywhere. */
			tz_ublk_queue_affinity(&s->ublk, i, q->cpu_mask, sizeof q->cpu_mask);
		int rc = tz_queue_start(q, run, s->why, sizeof s->why);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void set_state(struct tz_server *s, unsigned state, unsigned more_flags)
{
	struct tz_stats *h = s->registry.stats;

	tz_stats_head_begin(h);
	TZ_STATS_SET(h->state, state);
	TZ_STATS_SET(h->flags, h->flags | more_flags);
	tz_stats_head_end(h);
}

void tz_server_show_standby(struct tz_server *s)
{
	struct tz_stats *h = s->registry.stats;

	tz_stats_head_begin(h);
	TZ_STATS_SET(h->standby, (uint64_t)tz_standby_pid(&s->standby));
	tz_stats_head_end(h);
}

int tz_server_lock(struct tz_server *s, char *why, size_t why_size)
{
	struct tz_stats *h = s->registry.stats;
	char not_locked[200] = "";
	int rc = tz_lock_memory(s->store, why, why_size);
	int kept = tz_memory_is_locked(s->store, s->arena_is_safe, not_locked, sizeof not_locked);

	tz_stats_head_begin(h);
	TZ_STATS_SET(h->flags, (h->flags & ~(uint32_t)TZ_FLAG_MEMORY_LOCKED) |
		(kept ? TZ_FLAG_MEMORY_LOCKED : 0));
	tz_stats_head_end(h);
	if (rc == 0 && !kept) {
		snprintf(why, why_size, "the server's memory is not locked: %s", not_locked);
		rc = -EPERM;
	}
	return rc;
}

/* Whatever comes of it, it is shown in the statistics page, and the device works. */
static void start_slots(struct tz_server *s, const struct options *o)
{
	char why[216];

	s->slots.name = s->registry.name;
	s->slots.nr_pages = o->size / TZ_PAGE_SIZE;
	s->slots.store = s->store;
	s->slots.stats = s->registry.stats;
	if (tz_slots_start(&s->slots, why, sizeof why) < 0)
		tz_log("slot tracking: %s", why);
}

static int all_io_flushers(const struct tz_server *s)
{
	for (unsigned i = 0; i < s->nr_queues; i++)
		if (!atomic_load(&s->queues[i].io_flusher))
			return 0;
	return 1;
}

static void open_nursery(struct tz_server *s, const struct options *o)
{
	int rc = tz_standby_open(&s->standby, o->run_dir);

	if (rc < 0)
		tz_log("no standby: %s", strerror(-rc));
}

/* What is done before there is a device: leaves the creator, and opens all that is found by a path
 * of the creator's. */
static int prepare(struct tz_server *s, struct options *o)
{
	int rc;

	tz_detach();
	/* Opens libzstd now: it is locked with the rest, and a change of algorithm maps nothing
	 * more of it. */
	tz_zstd_version();
	rc = read_dictionary(s, o);
	if (rc < 0)
		return rc;
	tz_leave_mount_namespace(o->run_dir);
	if (o->recover) {
		tz_privileges_of_threads();
		return 0;
	}
	if (o->transport == TZ_TRANSPORT_UBLK)
		open_nursery(s, o);
	tz_privileges_reduce();
	if (o->transport != TZ_TRANSPORT_UBLK)
		return 0;
	rc = tz_helper_start(&s->helper);
	if (rc < 0)
		snprintf(s->why, sizeof s->why,
			"cannot start the helper process: %s", strerror(-rc));
	return rc;
}

/* All that is left to do needs no more than this. A kernel that cannot filter is no reason not to
 * serve: it is logged. */
static void confine(void)
{
	char why[200];

	tz_privileges_end();
	if (tz_filter_install(why, sizeof why) < 0)
		tz_log("system calls are not filtered: %s", why);
}

/* The name of a device whose server is dead, or about to be: its lock is free when all of it is
 * gone. */
static int take_over_name(struct tz_server *s, const struct options *o)
{
	struct timespec pause = { 0, 1000000 };
	char name[32];
	int rc;

	snprintf(name, sizeof name, "ublkb%d", o->id);
	for (unsigned tries = 0;; tries++) {
		rc = tz_registry_take(&s->registry, o->run_dir, name, 1, s->why, sizeof s->why);
		if (rc != -EBUSY || tries == (o->upgrade ? UPGRADE_TRIES : NAME_TRIES))
			break;
		nanosleep(&pause, NULL);
	}
	s->id = (uint32_t)o->id;
	return rc;
}

/* What the arena says of its device. -EPROTONOSUPPORT: it is of a version that we do not know. */
static int read_arena(struct tz_server *s, struct options *o, int fd)
{
	static uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE];
	struct tz_arena_head head;
	int rc = tz_arena_fetch_head(fd, copies, &head, s->why, sizeof s->why);

	if (rc < 0)
		return rc;
	if (head.device.transport != TZ_TRANSPORT_UBLK || head.device.id != s->id ||
		!head.device.queues || head.device.queues > TZ_MAX_QUEUES) {
		snprintf(s->why, sizeof s->why, "its arena is of another device");
		return -EINVAL;
	}
	o->size = head.disksize;
	s->nr_queues = head.device.queues;
	s->depth = head.device.depth;
	return 0;
}

/* From here to the end of it requests wait. */
static int take_over(struct tz_server *s, const struct options *o)
{
	int fresh, rc;

	rc = tz_registry_adopt(&s->registry, s->nr_queues, &fresh, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	rc = tz_ublk_recover(&s->ublk, o->id, s->why, sizeof s->why);
	if (rc == 0 && (s->ublk.info.nr_hw_queues != s->nr_queues ||
			       s->ublk.info.queue_depth != s->depth)) {
		snprintf(s->why, sizeof s->why,
			"the kernel's device has other queues than its arena");
		rc = -EINVAL;
	}
	if (rc < 0 || (rc = attach_store(s, o)) < 0 || (rc = start_queues(s, o)) < 0)
		return rc;
	rc = tz_server_lock(s, s->why, sizeof s->why);
	if (rc < 0 || (rc = tz_ublk_resume(&s->ublk, s->why, sizeof s->why)) < 0)
		return rc;
	set_state(s, TZ_STATE_LIVE, all_io_flushers(s) ? TZ_FLAG_IO_FLUSHER : 0);
	return fresh ? tz_registry_publish(&s->registry, s->why, sizeof s->why) : 0;
}

/* Before a server is asked to end for us: what can fail, or take time, and does not need it to have
 * ended. The one who asks it waits for our announcement. */
static int get_ready(struct tz_server *s, struct options *o)
{
	char name[32];
	int rc, fd;

	s->id = (uint32_t)o->id;
	snprintf(name, sizeof name, "ublkb%d", o->id);
	fd = tz_registry_peek_arena(&s->registry, o->run_dir, name, s->why, sizeof s->why);
	if (fd < 0)
		return fd;
	rc = read_arena(s, o, fd);
	close(fd);
	if (rc < 0)
		return rc;
	mlockall(MCL_CURRENT);
	announce(s, o->ready_fd);
	return 0;
}

/* Takes over the device of a dead server, or of one that hands over, first of all what requests
 * wait for. If it fails, this process ends, and all is as it was. */
static int recover_device(struct tz_server *s, struct options *o)
{
	int rc;

	s->transport = TZ_TRANSPORT_UBLK;
	tz_protect_from_oom();
	tz_thread_urgent(1);
	rc = tz_ublk_open(&s->ublk, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	s->ublk_open = 1;
	if (o->upgrade && (rc = get_ready(s, o)) < 0)
		return rc;
	rc = take_over_name(s, o);
	if (rc < 0)
		return rc;
	uint64_t start = tz_now_ns();
	tz_registry_log(&s->registry);
	s->arena_fd = tz_registry_adopt_arena(&s->registry, s->why, sizeof s->why);
	if (s->arena_fd < 0)
		return s->arena_fd;
	if ((rc = read_arena(s, o, s->arena_fd)) < 0 || (rc = take_over(s, o)) < 0)
		return rc;
	rc = tz_control_open(s, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	tz_thread_urgent(0);
	tz_log("%s: taken over in %" PRIu64 " ms: its server number %" PRIu64, s->registry.name,
		(tz_now_ns() - start) / 1000000, s->generation);
	/* Requests flow. What is left, and what it takes, may wait for memory. */
	if (s->standby.nursery_fd < 0)
		open_nursery(s, o);
	tz_standby_ask(&s->standby, s->id);
	tz_privileges_reduce();
	if ((rc = tz_helper_start(&s->helper)) < 0)
		tz_log("no helper process: %s", strerror(-rc));
	start_slots(s, o);
	confine();
	return 0;
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
	rc = take_number(s, o);
	if (rc < 0 || (rc = make_store(s, o)) < 0 || (rc = start_queues(s, o)) < 0)
		return rc;
	rc = tz_control_open(s, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	if (ublk)
		start_slots(s, o);
	rc = tz_server_lock(s, s->why, sizeof s->why);
	if (rc < 0 && ublk)
		return rc;
	if (ublk)
		tz_protect_from_oom();
	confine();
	if (ublk && (rc = tz_ublk_start(&s->ublk, s->why, sizeof s->why)) < 0)
		return rc;
	set_state(s, TZ_STATE_LIVE, all_io_flushers(s) ? TZ_FLAG_IO_FLUSHER : 0);
	tz_registry_log(&s->registry);
	if (ublk && s->arena_is_safe && tz_ublk_is_recoverable(&s->ublk)) {
		tz_standby_ask(&s->standby, s->id);
		tz_standby_await(&s->standby, STANDBY_MS);
		tz_server_show_standby(s);
	}
	return tz_registry_publish(&s->registry, s->why, sizeof s->why);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Undoes all that make_device did, as far as it came. Called once, at the end of every life. */
static void unmake_device(struct tz_server *s)
{
	tz_standby_close(&s->standby);
	if (s->registry.stats)
		set_state(s, TZ_STATE_STOPPING, 0);
	/* Also a device that was never started: STOP_DEV is what ends the queues, which wait for
	 * requests already. */
	s->ublk.started |= s->ublk.added;
	if (s->ublk_open)
		tz_ublk_stop(&s->ublk);
	close_fd(&s->claim_fd);
	for (unsigned i = 0; i < s->nr_queues; i++)
		atomic_store(&s->queues[i].stop, 1);
	for (unsigned i = 0; i < s->nr_queues; i++)
		tz_queue_join(&s->queues[i]);
	if (s->ublk_open) {
		tz_ublk_delete(&s->ublk);
		tz_ublk_close(&s->ublk);
	}
	tz_slots_stop(&s->slots);
	tz_local_server_close(&s->local);
	tz_store_destroy(s->store);
	tz_registry_drop(&s->registry);
	tz_helper_close(&s->helper);
}

/* ---- the end of it ---- */

static int exit_code(int err)
{
	switch (-err) {
	case EINVAL: case ENAMETOOLONG:
		return TZ_EXIT_USAGE;
	case EPERM: case EACCES: case ENOENT: case EOPNOTSUPP: case ENOSYS:
		return TZ_EXIT_UNSUPPORTED;
	case EEXIST: case EBUSY:
		return TZ_EXIT_BUSY;
	default:
		return TZ_EXIT_FAILED;
	}
}

/* The last word to the creator. */
static void report(const struct tz_server *s, int ready_fd, int err)
{
	if (err)
		fprintf(stderr, "truezramd: %s\n", s->why);
	send_ready(s, ready_fd, err ? TZ_E_FAILED : TZ_OK, err ? exit_code(err) : 0);
	if (ready_fd >= 0)
		close(ready_fd);
}

/* Ends as if killed, but for requests that are being served, where the kernel can wait for these:
 * everything else is the next server's. */
static void hand_over(struct tz_server *s)
{
	int rc = tz_ublk_quiesce(&s->ublk, QUIESCE_MS);

	if (rc < 0 && rc != -EOPNOTSUPP)
		tz_log("requests that are being served are issued again: %s", strerror(-rc));
	set_state(s, TZ_STATE_HANDED_OVER, 0);
	tz_log("%s: handed over", s->registry.name);
	_exit(0);
}

/* ---- cleaning up after a dead server ---- */

/* The device's node that a server has open as long as it serves. */
static char orphan_node[32];

/* Whether that process serves the device. Its pid alone does not say so: the number may be another
 * program's by now. */
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
		/* Its /dev may not be where ours is. */
		const char *slash = strrchr(target, '/');
		serves = slash && !strcmp(slash + 1, orphan_node);
	}
	closedir(fds);
	return serves;
}

static int cleanup(struct tz_server *s, const struct options *o)
{
	char name[32];
	int rc;

	snprintf(name, sizeof name,
		"%s%d", o->transport == TZ_TRANSPORT_UBLK ? "ublkb" : "local", o->id);
	rc = tz_registry_take(&s->registry, o->run_dir, name, 1, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	if (o->transport == TZ_TRANSPORT_UBLK &&
	    tz_ublk_open(&s->ublk, s->why, sizeof s->why) == 0) {
		snprintf(orphan_node, sizeof orphan_node, "ublkc%d", o->id);
		rc = tz_ublk_remove_orphan(&s->ublk, o->id, is_running);
		if (rc < 0 && rc != -ENODEV)
			snprintf(s->why, sizeof s->why,
				"cannot delete the ublk device that %s left behind: %s", name,
				rc == -EBUSY ? "another program serves it" : strerror(-rc));
		tz_ublk_close(&s->ublk);
	}
	if (tz_registry_drop(&s->registry) < 0) {
		snprintf(s->why, sizeof s->why,
			"another process has the arena of %s attached", name);
		return -EBUSY;
	}
	return rc == -ENODEV ? 0 : rc;
}

/* The life of a standby or of the nursery, until it becomes a server: 1. Else 0. */
static int wait_for_death(struct tz_server *s, struct options *o)
{
	static struct tz_succession from;

	if (!tz_nursery_main(&from))
		return 0;
	prctl(PR_SET_NAME, "truezramd");
	tz_privileges_of_threads();
	tz_standby_inherit(&s->standby, &from);
	*o = (struct options){ .transport = TZ_TRANSPORT_UBLK, .id = (int)from.id,
		.run_dir = from.run_dir, .ready_fd = -1, .recover = 2 };
	return 1;
}

int main(int argc, char **argv)
{
	static struct tz_server server;		/* zeroed; some KiB, not on the stack */
	struct options o;
	sigset_t all;

	if (argc == 2 && !strcmp(argv[1], "--helper"))
		return tz_helper_main();
	if (argc == 2 && !strcmp(argv[1], "--slot-test"))
		return tz_slot_test_main();
	sigfillset(&all);
	server.end_fd = server.signal_fd = server.spare_fd = server.claim_fd = server.helper.fd =
		server.standby.fd = server.standby.nursery_fd = -1;
	server.registry.lock_fd = server.registry.socket_fd = -1;
	if (argc == 2 && !strcmp(argv[1], "--nursery") && fcntl(TZ_HELPER_FD, F_GETFD) >= 0) {
		sigprocmask(SIG_BLOCK, &all, NULL);
		if (!wait_for_death(&server, &o))
			return 0;
	} else if (parse(argc, argv, &o) < 0) {
		return 2;
	}
#ifdef __GLIBC__
	/* Threads allocate once, at their start: no arena of 132 KiB for each. */
	mallopt(M_ARENA_MAX, 1);
#endif
	/* Signals come through a signalfd (control.c); the threads inherit the mask. A broken pipe
	 * is an error code. */
	sigprocmask(SIG_BLOCK, &all, NULL);
	if (o.ready_fd >= 0)
		fcntl(o.ready_fd, F_SETFD, FD_CLOEXEC);
	int rc = o.cleanup ? cleanup(&server, &o) : o.recover == 2 ? 0 : prepare(&server, &o);
	if (!o.cleanup && rc == 0)
		rc = o.recover ? recover_device(&server, &o) : make_device(&server, &o);
	free(o.dictionary_bytes);	/* the store has a copy */
	if (o.cleanup || rc < 0) {
		if (rc < 0 && !server.why[0])
			snprintf(server.why, sizeof server.why, "%s", strerror(-rc));
		if (!o.cleanup) {
			report(&server, o.ready_fd, rc);
			if (!o.recover)
				unmake_device(&server);
		} else if (rc < 0) {
			fprintf(stderr, "truezramd: %s\n", server.why);
		}
		return rc < 0 ? exit_code(rc) : 0;
	}
	report(&server, o.ready_fd, 0);
	tz_log("%s: %" PRIu64 " bytes, %s, %u queues of %u", server.registry.name, o.size,
		server.registry.stats->algorithm, server.nr_queues, server.depth);
	tz_control_loop(&server);
	if (server.handed_over)
		hand_over(&server);
	unmake_device(&server);
	return 0;
}
