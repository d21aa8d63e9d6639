/* takeover.c - taking over a device, and handing one over (interface: takeover.h; for users:
 * docs/recovery.md; who waits for it: standby.c).
 *
 * From the other server's end on, requests wait, those of swap among them. So whoever takes over
 * must not wait for memory that only they can free: it is an I/O flusher and a real-time thread for
 * as long as it takes (tz_thread_urgent), and what can wait is done after requests flow again.
 *
 * The name comes first: its lock is free when all of the other server is gone. Then the arena, the
 * statistics page (counters go on), the kernel's device (disk.h), the store
 * (attach.c), the queues, their memory locked, and END_USER_RECOVERY.
 */
#include "takeover.h"
#include "arena.h"
#include "check.h"
#include "clock.h"
#include "control.h"
#include "disk.h"
#include "helper.h"
#include "privileges.h"
#include "thread.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NAME_TRIES 10000		/* of a ms each: for a dead server's last breath */
#define UPGRADE_TRIES 60000		/* for one that has to be asked first */
#define QUIESCE_MS 200			/* for requests that are being served */
#define HARDLY_NS 10000000000ull	/* who lived no longer would be followed by many */

/* Looks for what killed the server, and shows what is refused from now on. */
static void accuse(struct tz_server *s, const struct tz_options *o)
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
static int attach_store(struct tz_server *s, const struct tz_options *o)
{
	struct tz_stats *h = s->registry.stats;
	struct tz_check_problem problems[8];
	struct tz_attach a = { .arena_fd = s->arena_fd, .nr_threads = s->nr_queues,
		.stats = s->registry.stats, .server_version = VERSION, .problems = problems,
		.room = sizeof problems / sizeof *problems };
	int rc, handed_over = h->state == TZ_STATE_HANDED_OVER;

	s->arena_is_safe = 1;
	tz_stats_take_over(h);
	/* First: with our pid beside the dead server's state it looks as if we served. */
	tz_device_set_state(s, TZ_STATE_RECOVERING, 0);
	tz_stats_head_begin(h);
	tz_device_fill_head(s, o, TZ_FLAG_NOSWAP_TMPFS | TZ_FLAG_RECOVERABLE |
			tz_device_data_flags(s, o->data));
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

/* The name of a device whose server is dead, or about to be: its lock is free when all of it is
 * gone. */
static int take_over_name(struct tz_server *s, const struct tz_options *o)
{
	struct timespec pause = { 0, 1000000 };
	char name[32];
	int rc;

	tz_device_name(name, sizeof name, s->transport, (unsigned)o->id);
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
static int read_arena(struct tz_server *s, struct tz_options *o, int fd)
{
	static uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE];
	struct tz_arena_head head;
	int rc = tz_arena_fetch_head(fd, copies, &head, s->why, sizeof s->why);

	if (rc < 0)
		return rc;
	if (head.device.transport != (uint32_t)s->transport || head.device.id != s->id ||
		!head.device.queues || head.device.queues > TZ_MAX_QUEUES) {
		snprintf(s->why, sizeof s->why, "its arena is of another device");
		return -EINVAL;
	}
	o->size = head.disksize;
	s->nr_queues = head.device.queues;
	s->depth = head.device.depth;
	o->data = (enum tz_data_mode)head.device.data_mode;
	return 0;
}

/* From here to the end of it requests wait. */
static int take_over(struct tz_server *s, const struct tz_options *o)
{
	int fresh, rc;

	rc = tz_registry_adopt(&s->registry, s->nr_queues, &fresh, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	rc = tz_disk_recover(s);
	if (rc < 0 || (rc = attach_store(s, o)) < 0 || (rc = tz_device_start_queues(s, o)) < 0)
		return rc;
	rc = tz_server_lock(s, s->why, sizeof s->why);
	if (rc < 0 || (rc = tz_disk_resume(s)) < 0)
		return rc;
	tz_device_set_live(s);
	return fresh ? tz_registry_publish(&s->registry, s->why, sizeof s->why) : 0;
}

/* Before a server is asked to end for us: what can fail, or take time, and does not need it to have
 * ended. The one who asks it waits for our announcement. */
static int get_ready(struct tz_server *s, struct tz_options *o)
{
	char name[32];
	int rc, fd;

	s->id = (uint32_t)o->id;
	tz_device_name(name, sizeof name, s->transport, (unsigned)o->id);
	fd = tz_registry_peek_arena(&s->registry, o->run_dir, name, s->why, sizeof s->why);
	if (fd < 0)
		return fd;
	rc = read_arena(s, o, fd);
	close(fd);
	if (rc < 0)
		return rc;
	mlockall(MCL_CURRENT);
	tz_announce(s, o->ready_fd);
	return 0;
}

/* It takes memory, which requests need not wait for. */
static void restore_policy(struct tz_server *s)
{
	struct tz_policy policy = tz_store_policy(s->store);
	char text[sizeof s->registry.stats->last_error], why[216];

	if (!policy.cpu_percent ||
		tz_server_set_policy(s, &policy, why, sizeof why) == 0)
		return;
	snprintf(text, sizeof text, "policy is off: %.110s", why);
	tz_log("%s", text);
	tz_stats_error(s->registry.stats, text);
}

int tz_takeover(struct tz_server *s, struct tz_options *o)
{
	int rc;

	s->transport = o->transport;
	tz_protect_from_oom();
	tz_thread_urgent(1);
	rc = tz_disk_open(s);
	if (rc < 0)
		return rc;
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
	/* Requests flow. What is left may take its time, but not wait for our own device: killed
	 * while it does, a server could not die. */
	if (s->standby.nursery_fd < 0)
		tz_device_open_nursery(s, o);
	tz_standby_ask(&s->standby, s->id);
	restore_policy(s);
	tz_server_set_mode(s, tz_store_mode(s->store));		/* shown: the page may be new */
	if ((rc = tz_helper_start(&s->helper)) < 0)
		tz_log("no helper process: %s", strerror(-rc));
	tz_privileges_reduce();
	if (s->transport == TZ_TRANSPORT_UBLK)
		tz_device_start_slots(s, o);
	tz_device_confine();
	return 0;
}

int tz_prepare_hand_over(struct tz_server *s)
{
	/* With QUIESCE_DEV the kernel itself sees to it, and is newer than that bug. */
	if (s->transport != TZ_TRANSPORT_UBLK || tz_ublk_can_quiesce(&s->ublk))
		return 0;
	return tz_queues_hold(s->queues, s->nr_queues);
}

void tz_hand_over(struct tz_server *s)
{
	int rc = s->transport == TZ_TRANSPORT_UBLK ? tz_ublk_quiesce(&s->ublk, QUIESCE_MS) : 0;

	if (rc < 0 && rc != -EOPNOTSUPP)
		tz_log("requests that are being served are issued again: %s", strerror(-rc));
	tz_device_set_state(s, TZ_STATE_HANDED_OVER, 0);
	tz_log("%s: handed over", s->registry.name);
	_exit(0);
}

void tz_give_up(struct tz_server *s)
{
	if (!(s->registry.stats->flags & TZ_FLAG_RECOVERABLE) || !tz_disk_is_there(s))
		return;
	if (tz_now_ns() - s->live_since < HARDLY_NS) {
		tz_log("%s: left as it is, for `truezram recover`", s->registry.name);
		tz_standby_close(&s->standby);
	} else {
		tz_log("%s: left to another server", s->registry.name);
	}
	_exit(1);
}
