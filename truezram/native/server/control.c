/* control.c - the control thread: messages on the socket (protocol.h), signals, and queues that end
 * by themselves.
 *
 * Every client is non-blocking and owns nothing but its descriptor; a message of the wrong size,
 * magic or version ends the connection. SIGTERM and SIGINT stop the device in order: a device in
 * use as swap is first taken out of use by the helper process (helper.c; the kernel may kill it for
 * lack of memory, where it would otherwise kill us), and if that fails the device stays: a dead
 * swap area would take every program with pages on it along. Meanwhile messages are answered.
 * SIGHUP is for terminals that go away: ignored. SIGSTOP cannot be, so the kernel continues us.
 */
#include "control.h"
#include "clock.h"
#include "disk.h"
#include "protocol.h"
#include "takeover.h"
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define MAX_AREAS 16
#define FULL_AGAIN_NS 60000000000ull
#define ONWARD_SECONDS 2	/* so long a stopped server stays so, or twice as long */
enum {
	SLOT_SOCKET, SLOT_SIGNAL, SLOT_QUEUE_END, SLOT_HELPER, SLOT_STANDBY, SLOT_NURSERY,
	SLOT_POLICY, SLOT_CLIENTS
};

struct control {
	struct tz_server *s;
	int stop;
	unsigned turn;
	struct pollfd fds[SLOT_CLIENTS + MAX_CLIENTS];
	struct tz_swap_area areas[MAX_AREAS];
	struct tz_reply reply;		/* 12 KiB: not on the stack */
	int lent_fd;			/* closed when the reply is out; -1: none */
};

/* ---- messages ---- */

static void answer(struct control *c, unsigned status, const char *text)
{
	c->reply.status = (uint16_t)status;
	snprintf(c->reply.text, sizeof c->reply.text, "%s", text);
}

/* The swap areas on our disk, into c->areas; how many there are. */
static unsigned swap_areas(struct control *c)
{
	const char *name = c->s->registry.name;

	return tz_is_disk(c->s)
		? tz_swap_areas(tz_disk_number(name), name, c->areas, MAX_AREAS) : 0;
}

static int set_mem_limit(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || *end || end == text || text[0] == '-' || n > TZ_MAX_SIZE) {
		snprintf(why, why_size, "mem_limit is not a number of bytes from 0 to 2^52");
		return -EINVAL;
	}
	return tz_store_set_mem_limit(s->store, n, why, why_size);
}

static int must_lock(const struct tz_server *s)
{
	return tz_is_disk(s) || s->registry.stats->flags & TZ_FLAG_MEMORY_LOCKED;
}

static int renew_policy(struct tz_server *s, char *why, size_t why_size);

/* What a change has newly mapped must be locked, where memory was locked before or has to be; else
 * the old algorithm is put back. */
static int set_algorithm(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	char before[sizeof s->registry.stats->algorithm], more[200];
	int must = must_lock(s), rc;

	memcpy(before, s->registry.stats->algorithm, sizeof before);
	rc = tz_store_set_algorithm(s->store, text, why, why_size);
	if (rc < 0)
		return rc;
	rc = tz_server_lock(s, why, why_size);
	if (rc == 0 || !must) {
		/* It must read what is written from now on. */
		if (renew_policy(s, more, sizeof more) < 0)
			tz_log("the policy is as it was: %s", more);
		return 0;
	}
	if (tz_store_set_algorithm(s->store, before, more, sizeof more) < 0)
		tz_log("cannot put back algorithm %s: %s", before, more);
	if (tz_server_lock(s, more, sizeof more) < 0)
		tz_log("%s", more);
	return rc;
}

/* What it newly maps must be locked as well; else it is switched off again. */
static int set_dedup(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	int on = !strcmp(text, "on"), rc;
	char more[200];

	if (!on && strcmp(text, "off")) {
		snprintf(why, why_size, "dedup is on or off");
		return -EINVAL;
	}
	rc = tz_store_set_dedup(s->store, on, why, why_size);
	if (rc < 0 || !on || !must_lock(s))
		return rc;
	rc = tz_server_lock(s, why, why_size);
	if (rc < 0 && tz_store_set_dedup(s->store, 0, more, sizeof more) < 0)
		tz_log("%s", more);
	return rc;
}

int tz_server_set_policy(
	struct tz_server *s, const struct tz_policy *policy, char *why, size_t why_size)
{
	int err;
	struct tz_standing *standing =
		tz_store_prepare_policy(s->store, policy, &err, why, why_size);

	if (!standing)
		return err;
	if (tz_store_policy_took_memory(standing) && must_lock(s) &&
		(err = tz_server_lock(s, why, why_size)) < 0) {
		tz_store_forget_policy(standing);
		return err;
	}
	tz_store_set_policy(s->store, standing);
	return 0;
}

static int renew_policy(struct tz_server *s, char *why, size_t why_size)
{
	struct tz_policy policy = tz_store_policy(s->store);

	return policy.idle_dense || policy.idle_cold || policy.idle_backing
		? tz_server_set_policy(s, &policy, why, why_size) : 0;
}

static void log_pressure(struct tz_server *s)
{
	static const char *const why[] = { [TZ_PRESSURE_NONE] = "no pressure any more",
		[TZ_PRESSURE_MEM_LIMIT] = "mem_limit is near: the policy acts earlier",
		[TZ_PRESSURE_MEMORY] = "processes wait for memory: the policy acts earlier" };
	uint64_t now = __atomic_load_n(&s->registry.stats->pressure, __ATOMIC_RELAXED);

	if (now != s->pressure && now < sizeof why / sizeof *why)
		tz_log("%s", why[now]);
	s->pressure = now;
}

/* The policy has something to do for the first time. */
static void equip_policy(struct tz_server *s)
{
	unsigned wishes = tz_store_take_wishes(s->store);
	char text[sizeof s->registry.stats->last_error], why[216];

	for (unsigned job = 1; job <= wishes; job <<= 1) {
		if (!(wishes & job))
			continue;
		tz_store_grant_wishes(s->store, job, 1);
		if (renew_policy(s, why, sizeof why) == 0)
			continue;
		tz_store_grant_wishes(s->store, job, 0);
		snprintf(text, sizeof text, "the policy cannot do its work: %.90s", why);
		tz_stats_error(s->registry.stats, text);	/* which log_errors logs */
	}
}

static int set_policy(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	struct tz_policy policy;

	if (tz_policy_parse(text, &policy) < 0) {
		snprintf(why, why_size,
			"a policy is three or four whole numbers, as 600:7200:3:72000");
		return -EINVAL;
	}
	return tz_server_set_policy(s, &policy, why, why_size);
}

/* One of its numbers. */
static int set_part(struct tz_server *s, size_t offset, const char *text, char *why,
	size_t why_size)
{
	struct tz_policy policy = tz_store_policy(s->store);
	uint32_t n;
	const char *end;

	if (tz_policy_number(text, UINT32_MAX, &n, &end) < 0 || *end) {
		snprintf(why, why_size, "it is not a whole number");
		return -EINVAL;
	}
	*(uint32_t *)((char *)&policy + offset) = n;
	return tz_server_set_policy(s, &policy, why, why_size);
}

static int set_idle_dense(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_part(s, offsetof(struct tz_policy, idle_dense), text, why, why_size);
}

static int set_idle_cold(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_part(s, offsetof(struct tz_policy, idle_cold), text, why, why_size);
}

static int set_cpu_percent(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_part(s, offsetof(struct tz_policy, cpu_percent), text, why, why_size);
}

void tz_server_set_mode(struct tz_server *s, uint32_t mode)
{
	tz_store_set_mode(s->store, mode);
	for (unsigned i = 0; i < s->nr_queues; i++)
		atomic_store(&s->queues[i].spin.mode, mode);
}

static int set_mode(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	int mode = tz_mode_parse(text);

	if (mode < 0)
		snprintf(why, why_size, "mode is low-latency, balanced or max-throughput");
	else
		tz_server_set_mode(s, (uint32_t)mode);
	return mode < 0 ? mode : 0;
}

static int set_idle_backing(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_part(s, offsetof(struct tz_policy, idle_backing), text, why, why_size);
}

int tz_server_set_backing(
	struct tz_server *s, const char *path, uint64_t limit, char *why, size_t why_size)
{
	char more[200];
	int rc = tz_store_set_backing(s->store, path, limit, why, why_size);

	if (rc < 0 || !path || !must_lock(s) || (rc = tz_server_lock(s, why, why_size)) == 0)
		return rc;
	if (tz_store_set_backing(s->store, NULL, 0, more, sizeof more) < 0)
		tz_log("%s", more);
	return rc;
}

/* "none", or "LIMIT:PATH". */
static int set_backing(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	char *end, more[200];
	int none = !strcmp(text, "none"), rc;

	errno = 0;
	unsigned long long limit = none ? 0 : strtoull(text, &end, 10);
	if (!none && (*text < '0' || *text > '9' || errno || *end != ':')) {
		snprintf(why, why_size, "a backing file is none, or BYTES:/PATH");
		return -EINVAL;
	}
	rc = tz_server_set_backing(s, none ? NULL : end + 1, limit, why, why_size);
	/* What is old enough goes there now. */
	if (rc < 0 || none || (rc = renew_policy(s, why, why_size)) == 0)
		return rc;
	if (tz_store_set_backing(s->store, NULL, 0, more, sizeof more) < 0)
		tz_log("%s", more);
	return rc;
}

static int set_budget(struct tz_server *s, int is_rate, const char *text, char *why,
	size_t why_size)
{
	uint64_t budget[2];
	char *end;

	tz_store_backing_budget(s->store, &budget[0], &budget[1]);
	errno = 0;
	budget[is_rate] = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno || *end || budget[is_rate] > TZ_MAX_SIZE) {
		snprintf(why, why_size, "it is not a number of bytes from 0 to 2^52");
		return -EINVAL;
	}
	tz_store_set_backing_budget(s->store, budget[0], budget[1]);
	return 0;
}

static int set_backing_daily(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_budget(s, 0, text, why, why_size);
}

static int set_backing_rate(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	return set_budget(s, 1, text, why, why_size);
}

#define MAX_AGE_SPEED 10000000u

static int set_age_speed(struct tz_server *s, const char *text, char *why, size_t why_size)
{
	uint32_t n;
	const char *end;

	if (tz_policy_number(text, MAX_AGE_SPEED, &n, &end) < 0 || *end || !n) {
		snprintf(why, why_size, "age_speed is a number from 1 to %u", MAX_AGE_SPEED);
		return -EINVAL;
	}
	tz_store_set_age_speed(s->store, n);
	return 0;
}

static const struct setting {
	const char *key;	/* with its '=' */
	int (*set)(struct tz_server *s, const char *text, char *why, size_t why_size);
} settings[] = {
	{ "mem_limit=", set_mem_limit },
	{ "algorithm=", set_algorithm },
	{ "dedup=", set_dedup },
	{ "policy=", set_policy },
	{ "idle_dense=", set_idle_dense },
	{ "idle_cold=", set_idle_cold },
	{ "cpu_percent=", set_cpu_percent },
	{ "mode=", set_mode },
	{ "idle_backing=", set_idle_backing },
	{ "backing=", set_backing },
	{ "backing_daily=", set_backing_daily },
	{ "backing_rate=", set_backing_rate },
	{ "age_speed=", set_age_speed },
};

static void set(struct control *c, const char *text)
{
	const char *equals = strchr(text, '=');
	char why[216] = "";

	for (unsigned i = 0; i < sizeof settings / sizeof *settings; i++) {
		size_t n = strlen(settings[i].key);
		if (strncmp(text, settings[i].key, n))
			continue;
		int rc = settings[i].set(c->s, text + n, why, sizeof why);
		answer(c, rc == 0 ? TZ_OK : rc == -EINVAL ? TZ_E_INVALID : rc == -EBUSY
			? TZ_E_BUSY : TZ_E_FAILED, why);
		if (rc == 0)
			tz_log("set %s", text);
		return;
	}
	snprintf(why, sizeof why,
		"no such setting: %.*s", equals ? (int)(equals - text) : 40, text);
	answer(c, TZ_E_INVALID, why);
}

/* Opens our disk exclusively. That fails while it is mounted, in use as swap or below another block
 * device, and as long as we have it open it cannot become any of these. 0, or -1 with errno. */
static int claim(struct tz_server *s)
{
	char path[48];

	if (!tz_is_disk(s) || s->claim_fd >= 0)
		return 0;
	snprintf(path, sizeof path, "/dev/%s", s->registry.name);
	s->claim_fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
	return s->claim_fd < 0 ? -1 : 0;
}

static void unclaim(struct tz_server *s)
{
	if (s->claim_fd >= 0)
		close(s->claim_fd);
	s->claim_fd = -1;
}

#define TRY_STOPS 20u
#define TRY_STOP_PAUSE_NS 50000000

/* Where the kernel can (7.0), it checks at the moment of stopping that no process has the disk
 * open, which our own check before cannot know. udev opens it for a moment now and then: try again.
 * 0, -EBUSY, or another negative errno: the kernel cannot say. */
static int try_stop(struct tz_server *s)
{
	struct timespec pause = { 0, TRY_STOP_PAUSE_NS };
	int rc = -EOPNOTSUPP;

	unclaim(s);
	for (unsigned i = 0; i < TRY_STOPS; i++) {
		rc = tz_ublk_try_stop(&s->ublk);
		if (rc != -EBUSY)
			break;
		nanosleep(&pause, NULL);
	}
	return rc;
}

/* ---- operations: each fills c->reply; the returned descriptor (or -1) goes with it ---- */

static int op_ping(struct control *c, const struct tz_request *r)
{
	(void)r;
	answer(c, TZ_OK, "");
	return -1;
}

static int op_set(struct control *c, const struct tz_request *r)
{
	set(c, r->text);
	return -1;
}

static int op_stop(struct control *c, const struct tz_request *r)
{
	char why[216];

	if (r->arg[0] > TZ_STOP_UNLESS_CLAIMED) {
		answer(c, TZ_E_INVALID, "unknown way to stop");
		return -1;
	}
	int claimed_by_others = claim(c->s) < 0 && errno == EBUSY;
	if (swap_areas(c)) {
		unclaim(c->s);
		snprintf(why, sizeof why,
			"the device is in use as swap (%.150s): swapoff it first",
			c->areas[0].path);
		answer(c, TZ_E_BUSY, why);
	} else if (claimed_by_others && r->arg[0] == TZ_STOP_UNLESS_CLAIMED) {
		answer(c, TZ_E_BUSY, "the device is mounted or has a block device on it");
	} else if (r->arg[0] == TZ_STOP_UNLESS_CLAIMED && c->s->transport == TZ_TRANSPORT_UBLK &&
		   try_stop(c->s) == -EBUSY) {
		answer(c, TZ_E_BUSY, "a process has the device open");
	} else {
		c->stop = 1;
		answer(c, TZ_OK, "");
	}
	return -1;
}

static int op_attach(struct control *c, const struct tz_request *r)
{
	(void)r;
	if (c->s->transport == TZ_TRANSPORT_LOCAL) {
		answer(c, TZ_OK, "");
		return c->s->local.fd;
	}
	answer(c, TZ_E_INVALID, "not a local device: open its node in /dev");
	return -1;
}

static int op_page_map(struct control *c, const struct tz_request *r)
{
	if (r->arg[2] < 1 || r->arg[2] > TZ_MAP_REGIONS) {
		answer(c, TZ_E_INVALID, "the number of regions must be 1 to 256");
		return -1;
	}
	if (r->arg[3] > TZ_MAP_BY_AGE) {
		answer(c, TZ_E_INVALID, "a page map is by kind or by age");
		return -1;
	}
	c->reply.value[0] = r->arg[3];
	(r->arg[3] == TZ_MAP_BY_AGE ? tz_store_age_map : tz_store_page_map)(
		c->s->store, r->arg[0], r->arg[1], (unsigned)r->arg[2], c->reply.map);
	answer(c, TZ_OK, "");
	return -1;
}

static int op_trim(struct control *c, const struct tz_request *r)
{
	(void)r;
	c->reply.value[0] = tz_store_trim(c->s->store);
	answer(c, TZ_OK, "");
	return -1;
}

static int op_compact(struct control *c, const struct tz_request *r)
{
	(void)r;
	c->reply.value[0] = tz_store_compact(c->s->store);
	answer(c, TZ_OK, "");
	return -1;
}

static int op_ages(struct control *c, const struct tz_request *r)
{
	(void)r;
	c->reply.value[0] = tz_store_count_ages(c->s->store);
	answer(c, TZ_OK, "");
	return -1;
}

/* What all queues may have to read from now on must be locked, as in set_algorithm. */
static int op_recompress(struct control *c, const struct tz_request *r)
{
	struct tz_server *s = c->s;
	char why[216] = "";
	int err;
	unsigned percent = r->arg[1] > 100 ? 0 : (unsigned)r->arg[1];
	struct tz_recompression *job = tz_store_prepare_recompress(
		s->store, r->text, r->arg[0], percent, &err, why, sizeof why);

	if (job && must_lock(s) && (err = tz_server_lock(s, why, sizeof why)) < 0) {
		tz_store_forget_recompress(job);
		job = NULL;
	}
	if (job) {
		c->reply.value[0] = tz_store_recompress(s->store, job, &c->reply.value[1]);
		tz_log("recompress with %s", r->text);
	}
	answer(c, job ? TZ_OK : err == -EINVAL ? TZ_E_INVALID : err == -EBUSY ? TZ_E_BUSY
		: TZ_E_FAILED, why);
	return -1;
}

static int op_stop_recompress(struct control *c, const struct tz_request *r)
{
	(void)r;
	c->reply.value[0] = (uint64_t)tz_store_stop_recompress(c->s->store);
	answer(c, TZ_OK, "");
	return -1;
}

/* A description of its own: one that can only read, and whose offset is not ours. */
static int op_arena(struct control *c, const struct tz_request *r)
{
	char path[48], why[216];

	(void)r;
	snprintf(path, sizeof path, "/proc/self/fd/%d", c->s->arena_fd);
	c->lent_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (c->lent_fd < 0)
		snprintf(why, sizeof why, "cannot open the arena for reading: %s", strerror(errno));
	answer(c, c->lent_fd < 0 ? TZ_E_FAILED : TZ_OK, c->lent_fd < 0 ? why : "");
	return c->lent_fd;
}

static int op_hand_over(struct control *c, const struct tz_request *r)
{
	pid_t successor = (pid_t)r->arg[0];
	char path[32];

	snprintf(path, sizeof path, "/proc/%d", (int)successor);
	if (!(c->s->registry.stats->flags & TZ_FLAG_RECOVERABLE)) {
		answer(c, TZ_E_INVALID, "the device cannot be taken over");
	} else if (successor <= 1 || access(path, F_OK) < 0) {
		answer(c, TZ_E_INVALID, "there is no such process");
	} else if (c->s->helper.busy) {
		answer(c, TZ_E_BUSY, "swapoff is at work");
	} else if (tz_prepare_hand_over(c->s) < 0) {
		answer(c, TZ_E_BUSY, "reads and writes come without a pause, and Linux before 6.16 "
			"cannot hold them back: try again when there are fewer");
	} else {
		/* Should it fail, the standby takes over after all. */
		tz_standby_hand_over(&c->s->standby, successor);
		c->s->handed_over = c->stop = 1;
		answer(c, TZ_OK, "");
	}
	return -1;
}

static int (*const operations[])(struct control *c, const struct tz_request *r) = {
	[TZ_OP_PING] = op_ping,
	[TZ_OP_SET] = op_set,
	[TZ_OP_STOP] = op_stop,
	[TZ_OP_ATTACH] = op_attach,
	[TZ_OP_PAGE_MAP] = op_page_map,
	[TZ_OP_TRIM] = op_trim,
	[TZ_OP_COMPACT] = op_compact,
	[TZ_OP_ARENA] = op_arena,
	[TZ_OP_HAND_OVER] = op_hand_over,
	[TZ_OP_AGES] = op_ages,
	[TZ_OP_RECOMPRESS] = op_recompress,
	[TZ_OP_STOP_RECOMPRESS] = op_stop_recompress,
};

static int handle(struct control *c, const struct tz_request *r)
{
	if (r->op < sizeof operations / sizeof *operations && operations[r->op])
		return operations[r->op](c, r);
	answer(c, TZ_E_PROTOCOL, "unknown operation");
	return -1;
}

/* 0 when the whole reply went out. */
static int send_reply(struct control *c, int client, int fd)
{
	return tz_send_with_fd(client, &c->reply, sizeof c->reply, fd, MSG_DONTWAIT);
}

/* One message of a client. 0, or -1: the connection is to be closed. */
static int serve_client(struct control *c, int client)
{
	struct tz_request r;
	ssize_t n = recv(client, &r, sizeof r, MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	c->reply = (struct tz_reply){ .magic = TZ_MSG_MAGIC, .version = TZ_MSG_VERSION };
	if (n != (ssize_t)sizeof r || r.magic != TZ_MSG_MAGIC || r.version != TZ_MSG_VERSION ||
	    !memchr(r.text, 0, sizeof r.text)) {
		answer(c, TZ_E_PROTOCOL, "not a message of this protocol version");
		send_reply(c, client, -1);
		return -1;
	}
	c->lent_fd = -1;
	int rc = send_reply(c, client, handle(c, &r));
	if (c->lent_fd >= 0)
		close(c->lent_fd);
	return rc;
}

/* A free slot; if there is none, that of an earlier client, who gives way, in turn. */
static unsigned client_slot(struct control *c)
{
	unsigned i = SLOT_CLIENTS;

	while (i < SLOT_CLIENTS + MAX_CLIENTS && c->fds[i].fd >= 0)
		i++;
	if (i == SLOT_CLIENTS + MAX_CLIENTS) {
		i = SLOT_CLIENTS + c->turn++ % MAX_CLIENTS;
		close(c->fds[i].fd);
	}
	return i;
}

/* Without a descriptor left, a client that waits would have the loop spin: it is accepted with the
 * spare one, and closed. */
static void turn_away(struct tz_server *s)
{
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	int fd = accept4(s->registry.socket_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		close(fd);
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_client(struct control *c)
{
	struct ucred who;
	socklen_t len = sizeof who;
	int fd = accept4(c->s->registry.socket_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			turn_away(c->s);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
	    (who.uid == 0 || who.uid == geteuid()))
		c->fds[client_slot(c)] = (struct pollfd){ .fd = fd, .events = POLLIN };
	else
		close(fd);	/* a peer with another uid */
}

/* ---- signals ---- */

static uint64_t mem_available(void)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (uint64_t)kib * 1024;
}

/* Swapoff of the areas one after the other, then the end. What it brings back must fit into memory:
 * not what the device stores, because the kernel keeps zero-filled pages itself, and they take
 * memory too. */
static void end_swap(struct control *c)
{
	const char *name = c->s->registry.name;
	unsigned n = swap_areas(c);
	uint64_t need = 0, have = mem_available();

	if (!n) {
		claim(c->s);
		c->stop = 1;
		return;
	}
	for (unsigned i = 0; i < n && i < MAX_AREAS; i++)
		need += c->areas[i].used;
	if (need > have) {
		tz_log("SIGTERM refused: %s is in use as swap (%s) and has %llu MiB"
			" swapped out, more than the %llu MiB of available memory."
			" Free memory or add other swap, then swapoff %s", name, c->areas[0].path,
			(unsigned long long)need >> 20, (unsigned long long)have >> 20,
			c->areas[0].path);
		return;
	}
	tz_log("SIGTERM: swapoff %s first (%llu MiB)", c->areas[0].path,
		(unsigned long long)need >> 20);
	int rc = tz_helper_swapoff(&c->s->helper, c->areas[0].path);
	if (rc < 0)
		tz_log("cannot start a process for swapoff: %s", strerror(-rc));
}

static void swapoff_ended(struct control *c)
{
	int busy = c->s->helper.busy, result = 0;
	int rc = tz_helper_result(&c->s->helper, &result);

	if (rc == -EAGAIN || !busy)
		return;
	/* A killed one may have come to the end of it, too. */
	if ((rc == 0 && result == 0) || !swap_areas(c))
		end_swap(c);	/* is there another area? */
	else
		tz_log("swapoff failed (%s): the device stays",
			rc < 0 ? "its process was killed" : strerror(result));
}

/* Whoever ends all processes (systemd's shutdown, killall5) stops them first, us too, and then
 * reads their command lines. One that is swapped out to our device would never come, and nobody is
 * left to continue us. So the kernel does: these timers' signal is SIGCONT. The first does it every
 * time but when its signal, not taken yet, is dropped for the next stop; then the second does. */
static int make_onward(struct tz_server *s)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT };

	for (unsigned i = 0; i < 2; i++)
		if (timer_create(CLOCK_MONOTONIC, &event, &s->onward[i]) < 0)
			return -1;
	return 0;
}

static void go_onward(struct tz_server *s)
{
	if (!tz_is_disk(s))
		return;
	for (unsigned i = 0; i < 2; i++) {
		struct itimerspec when = { .it_value.tv_sec = ONWARD_SECONDS << i };
		timer_settime(s->onward[i], 0, &when, NULL);
	}
}

static void take_signal(struct control *c)
{
	struct signalfd_siginfo info;

	if (read(c->fds[SLOT_SIGNAL].fd, &info, sizeof info) != (ssize_t)sizeof info)
		return;
	switch (info.ssi_signo) {
	case SIGTERM:
	case SIGINT:
		if (!c->s->helper.busy)
			end_swap(c);
		break;
	case SIGCHLD:
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;	/* a helper; what became of its work shows at its socket */
		break;
	case SIGCONT:
		go_onward(c->s);
		break;
	default:
		break;	/* SIGHUP, SIGPIPE */
	}
}

/* ---- the standby ---- */

static void look_after_standby(struct tz_server *s)
{
	if (tz_standby_event(&s->standby))
		tz_server_show_standby(s);
}

/* ---- queues ---- */

/* Logs the queues' reports. 1: one of them has ended. */
static int log_queues(struct tz_server *s)
{
	char text[200];
	uint64_t n;
	int ended = 0;

	if (read(s->end_fd, &n, sizeof n) < 0)
		return 0;
	for (unsigned i = 0; i < s->nr_queues; i++) {
		if (tz_queue_report(&s->queues[i], text, sizeof text))
			tz_log("%s", text);
		ended |= atomic_load(&s->queues[i].state) == TZ_QUEUE_ENDED;
	}
	return ended;
}

/* ---- what went wrong ---- */

static uint64_t full_writes(const struct tz_server *s)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < s->nr_queues; i++)
		n += __atomic_load_n(&s->queues[i].stats->enospc, __ATOMIC_RELAXED);
	return n;
}

/* What queues and the store have met since we last looked. (`truezram events` reads it in the log:
 * it was there whoever watched.) A full device is said once a minute while writes fail. */
static void log_errors(struct tz_server *s)
{
	struct tz_stats *h = s->registry.stats;
	char text[sizeof h->last_error];
	uint64_t full = full_writes(s), now = tz_now_ns(), time;

	if (full != s->logged_full &&
		(!s->logged_full_at || now - s->logged_full_at >= FULL_AGAIN_NS)) {
		s->logged_full = full;
		s->logged_full_at = now;
		tz_log("a write failed: mem_limit reached (ENOSPC)");
	}
	tz_stats_head_begin(h);
	time = h->last_error_ns;
	memcpy(text, h->last_error, sizeof text);
	tz_stats_head_end(h);
	if (time != s->logged_error && *text)
		tz_log("error: %.*s", (int)sizeof text, text);
	s->logged_error = time;
}

/* ---- the loop ---- */

int tz_control_open(struct tz_server *s, char *why, size_t why_size)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGCONT);
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (s->signal_fd >= 0 && s->spare_fd >= 0 && make_onward(s) == 0)
		return 0;
	int err = errno;
	snprintf(why, why_size, "cannot open what the control thread needs: %s", strerror(err));
	return -err;
}

static void serve_clients(struct control *c)
{
	for (unsigned i = SLOT_CLIENTS; i < SLOT_CLIENTS + MAX_CLIENTS; i++) {
		if (c->fds[i].fd >= 0 && c->fds[i].revents && serve_client(c, c->fds[i].fd) < 0) {
			close(c->fds[i].fd);
			c->fds[i].fd = -1;
		}
	}
}

/* Slots up to the last that is taken. poll() refuses more of them than RLIMIT_NOFILE allows
 * descriptors, so no more are shown to it. */
static unsigned used_slots(const struct control *c)
{
	unsigned n = SLOT_CLIENTS + MAX_CLIENTS;

	while (n > SLOT_CLIENTS && c->fds[n - 1].fd < 0)
		n--;
	return n;
}

/* Waits for something to do. Should it be refused all the same, the last client goes. */
static int wait_for_events(struct control *c)
{
	unsigned n = used_slots(c);
	int rc = poll(c->fds, n, -1);

	if (rc < 0 && errno != EINTR && n > SLOT_CLIENTS) {
		close(c->fds[n - 1].fd);
		c->fds[n - 1].fd = -1;
	}
	return rc;
}

void tz_control_loop(struct tz_server *s)
{
	static struct control c;

	c = (struct control){ .s = s };
	for (unsigned i = 0; i < SLOT_CLIENTS + MAX_CLIENTS; i++)
		c.fds[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	c.fds[SLOT_SOCKET].fd = s->registry.socket_fd;
	c.fds[SLOT_SIGNAL].fd = s->signal_fd;
	c.fds[SLOT_QUEUE_END].fd = s->end_fd;
	c.fds[SLOT_POLICY].fd = tz_store_wish_fd(s->store);
	s->logged_full = full_writes(s);
	s->logged_error = s->registry.stats->last_error_ns;
	go_onward(s);
	while (!c.stop) {
		c.fds[SLOT_HELPER].fd = s->helper.fd;
		c.fds[SLOT_STANDBY].fd = s->standby.fd;
		c.fds[SLOT_NURSERY].fd = s->standby.nursery_fd;
		if (wait_for_events(&c) < 0)
			continue;
		if (c.fds[SLOT_SIGNAL].revents)
			take_signal(&c);
		if (c.fds[SLOT_HELPER].revents)
			swapoff_ended(&c);
		if (c.fds[SLOT_STANDBY].revents || c.fds[SLOT_NURSERY].revents)
			look_after_standby(s);
		if (c.fds[SLOT_QUEUE_END].revents && log_queues(s)) {
			tz_log("a queue has ended: the device cannot be served any more");
			s->queue_ended = c.stop = 1;
		}
		if (c.fds[SLOT_POLICY].revents) {
			equip_policy(s);
			log_pressure(s);
		}
		if (c.fds[SLOT_QUEUE_END].revents || c.fds[SLOT_POLICY].revents)
			log_errors(s);
		/* Before a new one may take a slot, with what poll said of the old. */
		serve_clients(&c);
		if (c.fds[SLOT_SOCKET].revents)
			accept_client(&c);
	}
	if (!s->handed_over && !s->queue_ended)
		tz_log("stopping %s", s->registry.name);
}
