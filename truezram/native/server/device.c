/* device.c - makes a device and ends it (interface: device.h; the order of things: truezramd.c). */
#include "device.h"
#include "arena.h"
#include "clock.h"
#include "control.h"
#include "detach.h"
#include "disk.h"
#include "dictionary.h"
#include "filter.h"
#include "locked.h"
#include "privileges.h"
#include "protocol.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STANDBY_MS 5000			/* for the first one to be ready */
#define MAX_TRIES 4096	/* numbers looked at for a free one */

static unsigned online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (unsigned)n;
}

/* Takes the name of that number; the creator knows of it from then on. 0 or negative errno. */
static int take_name(struct tz_server *s, const struct tz_options *o, int id)
{
	char name[32];

	tz_device_name(name, sizeof name, o->transport, (unsigned)id);
	int rc = tz_registry_take(&s->registry, o->run_dir, name, 0, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	s->id = (uint32_t)id;
	tz_announce(s, o->ready_fd);
	return 0;
}

/* The number that was asked for, or the first that neither a live server has, nor a dead one has
 * left something of, nor another program uses. The name comes first, then the device: so there
 * is never a device that is not in the registry. */
static int take_number(struct tz_server *s, const struct tz_options *o)
{
	int first = o->id >= 0 ? o->id : 0, rc = tz_disk_open(s);

	if (rc < 0)
		return rc;
	for (int id = first; id < first + MAX_TRIES; id++) {
		rc = take_name(s, o, id);
		if (rc == 0 && (rc = tz_disk_add(s, o->size, o->data)) == -EEXIST)
			tz_registry_drop(&s->registry);
		if (o->id >= 0 || (rc != -EBUSY && rc != -EEXIST))
			break;
	}
	return rc;
}

void tz_device_fill_head(struct tz_server *s, const struct tz_options *o, int flags)
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
	h->max_io = tz_disk_max_io(s);
	snprintf(h->name, sizeof h->name, "%s", s->registry.name);
	snprintf(h->server_version, sizeof h->server_version, "%s", VERSION);
}

int tz_device_data_flags(const struct tz_server *s, enum tz_data_mode asked)
{
	if (s->transport != TZ_TRANSPORT_UBLK)
		return 0;
	return (tz_ublk_is_user_copy(&s->ublk) ? TZ_FLAG_USER_COPY : 0) |
		(asked != TZ_DATA_AUTO ? TZ_FLAG_DATA_ASKED : 0);
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
static int read_dictionary(struct tz_server *s, struct tz_options *o)
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

static int make_store(struct tz_server *s, const struct tz_options *o)
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
	int lock = !noswap && tz_is_disk(s);
	if (noswap)
		flags |= TZ_FLAG_NOSWAP_TMPFS;
	s->arena_fd = fd;
	s->arena_is_safe = noswap;
	flags |= tz_device_data_flags(s, o->data);
	if (tz_disk_is_recoverable(s))
		flags |= TZ_FLAG_RECOVERABLE;
	tz_device_fill_head(s, o, flags);
	struct tz_arena_device device = { .transport = (uint32_t)o->transport,
		.id = s->registry.stats->id, .queues = s->nr_queues, .depth = s->depth,
		.max_io = s->registry.stats->max_io,
		.data_mode = o->data,
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

int tz_device_start_queues(struct tz_server *s, const struct tz_options *o)
{
	static const struct {
		void (*run)(struct tz_queue *), (*wake)(struct tz_queue *);
	} queues[] = {
		[TZ_TRANSPORT_UBLK] = { tz_queue_run_ublk, NULL },
		[TZ_TRANSPORT_LOCAL] = { tz_queue_run_local, tz_queue_wake_local },
		[TZ_TRANSPORT_NBD] = { tz_queue_run_nbd, tz_queue_wake_nbd },
	};

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
			.local = &s->local, .socket = s->nbd.fd,
			.wake = queues[s->transport].wake, .knock = &s->slots.knock,
			.suspects = &s->suspects,
			.spin.mode = tz_store_mode(s->store) };
		q->stats = tz_store_thread_stats(q->store);
		if (o->transport == TZ_TRANSPORT_UBLK)
			/* Refused: runs anywhere. */
			tz_ublk_queue_affinity(&s->ublk, i, q->cpu_mask, sizeof q->cpu_mask);
		int rc = tz_queue_start(q, queues[s->transport].run, s->why, sizeof s->why);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void tz_device_set_state(struct tz_server *s, unsigned state, unsigned more_flags)
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
void tz_device_start_slots(struct tz_server *s, const struct tz_options *o)
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

void tz_device_set_live(struct tz_server *s)
{
	tz_device_set_state(s, TZ_STATE_LIVE, all_io_flushers(s) ? TZ_FLAG_IO_FLUSHER : 0);
	s->live_since = tz_now_ns();
}

void tz_device_open_nursery(struct tz_server *s, const struct tz_options *o)
{
	int rc = tz_standby_open(&s->standby, o->run_dir, o->transport);

	if (rc < 0)
		tz_log("no standby: %s", strerror(-rc));
}

int tz_device_prepare(struct tz_server *s, struct tz_options *o)
{
	int rc;

	s->transport = o->transport;
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
	if (tz_is_disk(s))
		tz_device_open_nursery(s, o);
	tz_privileges_reduce();
	if (!tz_is_disk(s))
		return 0;
	rc = tz_helper_start(&s->helper);
	if (rc < 0)
		snprintf(s->why, sizeof s->why,
			"cannot start the helper process: %s", strerror(-rc));
	tz_thread_flusher(1);
	return rc;
}

/* All that is left to do needs no more than this. A kernel that cannot filter is no reason not to
 * serve: it is logged. */
void tz_device_confine(void)
{
	char why[200];

	tz_privileges_end();
	if (tz_filter_install(why, sizeof why) < 0)
		tz_log("system calls are not filtered: %s", why);
}

static int begin_backing(struct tz_server *s, const struct tz_options *o)
{
	tz_store_set_backing_budget(s->store, o->backing_daily, o->backing_rate);
	return o->backing ? tz_server_set_backing(s, o->backing, o->backing_limit, s->why,
			sizeof s->why) : 0;
}

/* Without libzstd there are no groups, and the rest of it all the same. */
static int begin_policy(struct tz_server *s, const struct tz_options *o)
{
	struct tz_policy policy = o->policy;
	int rc;

	if (!o->has_policy)
		return 0;
	rc = tz_server_set_policy(s, &policy, s->why, sizeof s->why);
	if (rc != -ENOTSUP || !policy.idle_cold)
		return rc;
	tz_log("idle pages are not packed: %s", s->why);
	policy.idle_cold = 0;
	return tz_server_set_policy(s, &policy, s->why, sizeof s->why);
}

/* A queue for two CPUs: one to serve on while requests are made on the other. More queues gain
 * nothing as long as one keeps up, and their threads compete with the clients (docs/server.md). */
static unsigned queues_for(unsigned cpus)
{
	return cpus < 4 ? 1 : cpus < 8 ? cpus / 2 : 4;
}

unsigned tz_device_queues(void)
{
	return queues_for(online_cpus());
}

/* An nbd device has one queue (nbd.c). */
static int choose_queues(struct tz_server *s, const struct tz_options *o)
{
	static const struct { unsigned depth, most; } depths[] = {
		[TZ_TRANSPORT_UBLK] = { 64, TZ_MAX_DEPTH },
		[TZ_TRANSPORT_LOCAL] = { 16, TZ_RING_MAX_DEPTH },
		[TZ_TRANSPORT_NBD] = { TZ_NBD_MAX_DEPTH, TZ_NBD_MAX_DEPTH },
	};

	s->nr_queues = o->queues ? o->queues
		: s->transport == TZ_TRANSPORT_UBLK ? tz_device_queues() : 1;
	s->depth = o->depth ? o->depth : depths[s->transport].depth;
	if (s->depth > depths[s->transport].most)
		s->depth = depths[s->transport].most;
	if (s->transport != TZ_TRANSPORT_NBD || s->nr_queues == 1)
		return 0;
	snprintf(s->why, sizeof s->why, "an nbd device has one queue");
	return -EINVAL;
}

int tz_device_make(struct tz_server *s, const struct tz_options *o)
{
	int disk = tz_is_disk(s), rc;

	rc = choose_queues(s, o);
	if (rc < 0)
		return rc;
	if (o->size % TZ_PAGE_SIZE) {
		snprintf(s->why, sizeof s->why, "the size must be a multiple of 4096 bytes");
		return -EINVAL;
	}
	rc = take_number(s, o);
	if (rc < 0 || (rc = make_store(s, o)) < 0 || (rc = tz_device_start_queues(s, o)) < 0)
		return rc;
	rc = tz_control_open(s, s->why, sizeof s->why);
	if (rc < 0 || (rc = begin_backing(s, o)) < 0 || (rc = begin_policy(s, o)) < 0)
		return rc;
	tz_server_set_mode(s, o->mode);
	if (s->transport == TZ_TRANSPORT_UBLK)
		tz_device_start_slots(s, o);
	rc = tz_server_lock(s, s->why, sizeof s->why);
	if (rc < 0 && disk)
		return rc;
	if (disk)
		tz_protect_from_oom();
	tz_device_confine();
	if ((rc = tz_disk_start(s, o->size)) < 0)
		return rc;
	tz_device_set_live(s);
	tz_registry_log(&s->registry);
	if (tz_disk_is_recoverable(s)) {
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

void tz_device_unmake(struct tz_server *s)
{
	tz_standby_close(&s->standby);
	if (s->registry.stats)
		tz_device_set_state(s, TZ_STATE_STOPPING, 0);
	tz_disk_stop(s);
	close_fd(&s->claim_fd);
	for (unsigned i = 0; i < s->nr_queues; i++)
		atomic_store(&s->queues[i].stop, 1);
	for (unsigned i = 0; i < s->nr_queues; i++)
		tz_queue_join(&s->queues[i]);
	tz_disk_close(s);
	tz_slots_stop(&s->slots);
	tz_local_server_close(&s->local);
	if (s->store)
		tz_store_erase_backing(s->store);
	tz_store_destroy(s->store);
	tz_registry_drop(&s->registry);
	tz_helper_close(&s->helper);
}
