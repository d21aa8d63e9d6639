/* truezramd.c - the server: one small process per device. Makes the device (device.c) or takes it
 * over (takeover.c), serves it until it is asked to stop, removes it.
 *
 *	truezramd --transport ublk|nbd|local --size BYTES --algorithm NAME[:LEVEL] --run-dir DIR
 *	          [--dictionary FILE] [--mem-limit BYTES] [--id N] [--queues N] [--queue-depth N]
 *	          [--dedup] [--policy N:N:N[:N]] [--backing PATH] [--backing-limit BYTES]
 *	          [--backing-daily BYTES] [--backing-rate BYTES] [--mode NAME]
 *	          [--data-mode NAME] [--ready-fd FD]
 *	truezramd --recover|--upgrade --transport ublk|nbd --id N --run-dir DIR [--ready-fd FD]
 *	truezramd --cleanup --transport ublk|nbd|local --id N --run-dir DIR
 *	truezramd --helper	(started by a server: helper.h)
 *	truezramd --nursery	(started by a server: standby.h)
 *	truezramd --slot-test	(started by a server: slot_test.h)
 *	truezramd --null BYTES QUEUES DEPTH DATA-MODE	(a device without a store: null.c)
 *
 * It is started by `truezram create`, which checks options before; what is checked here is what
 * could do harm. Order of things: the creator's surroundings left (detach.c) - capabilities given
 * up (privileges.c) - helper process - a name and its lock, reported to FD (struct tz_ready with
 * TZ_STARTING), so that the process that ends the server knows what to clean up - ublk: ADD_DEV of
 * that number; nbd: a socket pair - arena and store - queue threads - memory locked - system calls
 * filtered (filter.c) - START_DEV or CONNECT - entry published - reported to FD again. A failure
 * anywhere undoes what was done and reports what and why.
 *
 * The main thread then is the control thread (control.c has the loop): messages, signals, queues
 * that end. Everything that I/O depends on is locked memory; the main thread may page-fault and
 * allocate, the queue threads never wait for it.
 */
#include "control.h"
#include "disk.h"
#include "null.h"
#include "privileges.h"
#include "protocol.h"
#include "slot_test.h"
#include "takeover.h"

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
#include <sys/prctl.h>
#include <unistd.h>

/* A day and a second; docs/tiers.md. */
#define BACKING_DAILY (1ull << 30)
#define BACKING_RATE (16ull << 20)

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

static int parse(int argc, char **argv, struct tz_options *o)
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
		{ "policy", required_argument, NULL, 'p' },
		{ "mode", required_argument, NULL, 'M' },
		{ "data-mode", required_argument, NULL, 'A' },
		{ "backing", required_argument, NULL, 'b' },
		{ "backing-limit", required_argument, NULL, 'B' },
		{ "backing-daily", required_argument, NULL, 'y' },
		{ "backing-rate", required_argument, NULL, 'e' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t n;
	int c;

	*o = (struct tz_options){ .transport = -1, .id = -1, .ready_fd = -1,
		.backing_daily = BACKING_DAILY, .backing_rate = BACKING_RATE };
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int bad = 0;
		switch (c) {
		case 't':
			o->transport = tz_transport_parse(optarg);
			break;
		case 's': bad = number("size", optarg, TZ_MAX_SIZE, &o->size); break;
		case 'm': bad = number("mem-limit", optarg, TZ_MAX_SIZE, &o->mem_limit); break;
		case 'a': o->algorithm = optarg; break;
		case 'D': o->dictionary = optarg; break;
		case 'u': o->dedup = 1; break;
		case 'p':
			bad = tz_policy_parse(optarg, &o->policy);
			o->has_policy = 1;
			if (bad)
				fprintf(stderr, "truezramd: --policy %s: not N:N:N[:N]\n", optarg);
			break;
		case 'b': o->backing = optarg; break;
		case 'B':
			bad = number("backing-limit", optarg, TZ_MAX_SIZE, &o->backing_limit);
			break;
		case 'y':
			bad = number("backing-daily", optarg, TZ_MAX_SIZE, &o->backing_daily);
			break;
		case 'e':
			bad = number("backing-rate", optarg, TZ_MAX_SIZE, &o->backing_rate);
			break;
		case 'M':
			bad = tz_mode_parse(optarg);
			o->mode = (uint32_t)bad;
			if (bad < 0)
				fprintf(stderr, "truezramd: --mode %s: no such mode\n", optarg);
			break;
		case 'A':
			bad = tz_data_mode_parse(optarg);
			o->data = bad < 0 ? TZ_DATA_AUTO : (enum tz_data_mode)bad;
			if (bad < 0)
				fprintf(stderr, "truezramd: --data-mode %s: no such mode\n",
					optarg);
			break;
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
		if (bad < 0)
			return -1;
	}
	if (o->transport < 0 || (o->recover && !tz_transport_row(o->transport)->is_disk) ||
	    !o->run_dir || optind != argc ||
	    (o->cleanup || o->recover ? o->id < 0 : !o->size || !o->algorithm)) {
		fprintf(stderr,
			"usage: truezramd --transport ublk|nbd|local --size BYTES"
			" --algorithm NAME[:LEVEL] --run-dir DIR\n"
			"                 [--dictionary FILE] [--mem-limit BYTES] [--id N]"
			" [--queues N] [--queue-depth N]\n"
			"                 [--dedup] [--policy IDLE_DENSE:IDLE_COLD:CPU_PERCENT"
			"[:IDLE_BACKING]]\n"
			"                 [--backing PATH] [--backing-limit BYTES]"
			" [--backing-daily BYTES]\n"
			"                 [--backing-rate BYTES] [--mode NAME] [--data-mode NAME]"
			" [--ready-fd FD]\n"
			"       truezramd --cleanup --transport ublk|nbd|local --id N"
			" --run-dir DIR\n"
			"       truezramd --recover|--upgrade --transport ublk|nbd --id N"
			" --run-dir DIR [--ready-fd FD]\n"
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

void tz_announce(const struct tz_server *s, int ready_fd)
{
	send_ready(s, ready_fd, TZ_STARTING, 0);
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

static int cleanup(struct tz_server *s, const struct tz_options *o)
{
	char name[32];
	int rc;

	s->transport = o->transport;
	s->id = (uint32_t)o->id;
	tz_device_name(name, sizeof name, o->transport, s->id);
	rc = tz_registry_take(&s->registry, o->run_dir, name, 1, s->why, sizeof s->why);
	if (rc < 0)
		return rc;
	if (tz_transport_row(o->transport)->is_disk && tz_disk_open(s) == 0) {
		snprintf(orphan_node, sizeof orphan_node, "ublkc%d", o->id);
		rc = tz_disk_remove_orphan(s, is_running);
		if (rc < 0 && rc != -ENODEV)
			snprintf(s->why, sizeof s->why,
				"cannot delete the device that %s left behind: %s", name,
				rc == -EBUSY ? "another program serves it" : strerror(-rc));
		tz_disk_close(s);
	}
	if (tz_registry_drop(&s->registry) < 0) {
		snprintf(s->why, sizeof s->why,
			"another process has the arena of %s attached", name);
		return -EBUSY;
	}
	return rc == -ENODEV ? 0 : rc;
}

/* The life of a standby or of the nursery, until it becomes a server: 1. Else 0. */
static int wait_for_death(struct tz_server *s, struct tz_options *o)
{
	static struct tz_succession from;

	if (!tz_nursery_main(&from))
		return 0;
	prctl(PR_SET_NAME, "truezramd");
	tz_privileges_of_threads();
	tz_standby_inherit(&s->standby, &from);
	*o = (struct tz_options){ .transport = from.transport, .id = (int)from.id,
		.run_dir = from.run_dir, .ready_fd = -1, .recover = 2 };
	return 1;
}

int main(int argc, char **argv)
{
	static struct tz_server server;		/* zeroed; some KiB, not on the stack */
	struct tz_options o;
	sigset_t all;

	if (argc == 2 && !strcmp(argv[1], "--helper"))
		return tz_helper_main();
	if (argc == 2 && !strcmp(argv[1], "--slot-test"))
		return tz_slot_test_main();
	if (argc >= 2 && !strcmp(argv[1], "--null"))
		return tz_null_main(argc, argv);
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
	int rc = o.cleanup ? cleanup(&server, &o)
		: o.recover == 2 ? 0 : tz_device_prepare(&server, &o);
	if (!o.cleanup && rc == 0)
		rc = o.recover ? tz_takeover(&server, &o) : tz_device_make(&server, &o);
	free(o.dictionary_bytes);	/* the store has a copy */
	if (o.cleanup || rc < 0) {
		if (rc < 0 && !server.why[0])
			snprintf(server.why, sizeof server.why, "%s", strerror(-rc));
		if (!o.cleanup) {
			report(&server, o.ready_fd, rc);
			if (!o.recover)
				tz_device_unmake(&server);
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
		tz_hand_over(&server);
	if (server.queue_ended)
		tz_give_up(&server);
	tz_device_unmake(&server);
	return 0;
}
