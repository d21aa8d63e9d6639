/* slots.c - freed swap slots: learns of them and gives their pages back (interface: slots.h).
 *
 * A ublk device gets a discard only when all 512 slots of a cluster are free, so most of what swap
 * frees would stay stored. The kernel can be asked to tell, by a BPF program that marks each freed
 * slot in a bitmap (slot_probe.c). This thread attaches it while the device is swap, and collects
 * (collect.c). It sleeps until one of these:
 *
 *	/proc/swaps	an area was switched on or off, by whomever: areas are looked for anew
 *	the ring buffer	a slot was freed: rounds over the bitmap, until one finds nothing; then the
 *			program is armed again
 *	the knock	the first swap write after a test that could not tell: it is made again
 *
 * How it attaches: a process of ours swaps out pages; the areas that they come to tell their types;
 * then candidates are attached and tested one after another with pages that the process frees
 * (slot_test.c). One page for each area stays there. Before each step of a round it must be where
 * it was: then the area has been on since the test, as the same type, and what is marked is ours.
 * (When an area is switched off, another gets its type, and marks would be about that one's slots.)
 * And nothing but swap may have written to the device since. Whatever fails is shown, and the
 * device does without.
 *
 * The order that keeps a write from being taken for what was there before: a write's page is
 * cleared when it arrives, which the queues know before the program is attached, and which they
 * stop doing after it is detached (store.c: tz_store_collect).
 */
#include "slots.h"
#include "clock.h"
#include "privileges.h"
#include "registry.h"
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_SIZE (64u << 10)
#define MAX_AREAS 16
#define ROUND_MS 100
#define STEP_PAUSE_MS 1
#define RETRY_NS 10000000000ull		/* the next test after one that could not tell, doubled with
					 * each */
#define RETRY_DOUBLINGS 8u

/* ---- what is shown ---- */

static void show(struct tz_slots *s, enum tz_slot_tracking state, const char *text)
{
	struct tz_stats *h = s->stats;

	if (h->slot_tracking != state || strcmp(h->slot_tracking_text, text))
		tz_log("slot tracking: %s%s%s", state == TZ_SLOT_TRACKING_ON ? "on, by "
			: state == TZ_SLOT_TRACKING_OFF ? "off"
			: state == TZ_SLOT_TRACKING_TESTING ? "not yet" : "not available",
			text[0] && state != TZ_SLOT_TRACKING_ON ? ": " : "", text);
	tz_stats_head_begin(h);
	TZ_STATS_SET(h->slot_tracking, state);
	tz_stats_set_text(h->slot_tracking_text, sizeof h->slot_tracking_text, text);
	tz_stats_head_end(h);
}

static unsigned known_areas(const struct tz_slots *s)
{
	unsigned known = 0;

	for (unsigned i = 0; i < s->nr_areas; i++)
		known += s->areas[i].type >= 0;
	return known;
}

static void show_state(struct tz_slots *s)
{
	unsigned known = known_areas(s), left = s->nr_areas - known + s->elsewhere;
	char text[128];

	if (!s->nr_areas && !s->elsewhere) {
		show(s, TZ_SLOT_TRACKING_OFF, "");
	} else if (!s->nr_areas) {
		show(s, TZ_SLOT_TRACKING_UNAVAILABLE,
			"swap is on a device or file on top of this one, not on the device itself");
	} else if (s->hopeless) {
		show(s, TZ_SLOT_TRACKING_UNAVAILABLE, s->why);
	} else if (!known || !s->probe.function) {
		show(s, TZ_SLOT_TRACKING_TESTING, s->why);
	} else {
		snprintf(text, sizeof text, left ? "%s; not for %u more swap areas on it" : "%s",
			s->probe.function, left);
		show(s, TZ_SLOT_TRACKING_ON, text);
	}
}

/* ---- areas ---- */

/* The areas that are directly on the device or on a partition of it, as they are now, with nothing
 * known of them. Returns how many; *elsewhere: those that are on top of it in another way. */
static unsigned look_for_areas(const struct tz_slots *s, struct tz_slot_area *out,
	unsigned *elsewhere)
{
	static struct tz_swap_area areas[MAX_AREAS];
	dev_t disk = tz_disk_number(s->name);
	unsigned n = tz_swap_areas(disk, s->name, areas, MAX_AREAS), found = 0;

	*elsewhere = n > MAX_AREAS ? n - MAX_AREAS : 0;
	for (unsigned i = 0; i < n && i < MAX_AREAS; i++) {
		uint64_t first, sectors;
		if (found == TZ_TEST_AREAS ||
		    tz_area_on_disk(disk, areas[i].path, &first, &sectors) < 0 || first % 8 ||
		    first / 8 + sectors / 8 > s->nr_pages)
			++*elsewhere;
		else
			out[found++] = (struct tz_slot_area){ .base = first / 8,
				.pages = sectors / 8, .type = -1, .canary = -1 };
	}
	return found;
}

static void forget_type(struct tz_slots *s, struct tz_slot_area *area)
{
	/* Its type may be another area's by now, which has marked the same slots. */
	if (area->type >= 0 && s->probing) {
		tz_probe_area(&s->probe, (unsigned)area->type, 0, 0);
		tz_probe_clear(&s->probe, area->base, area->pages);
	}
	area->type = area->canary = -1;
}

static void stop_probing(struct tz_slots *s)
{
	for (unsigned i = 0; i < s->nr_areas; i++)
		forget_type(s, &s->areas[i]);
	s->collecting = 0;
	if (!s->probing)
		return;
	tz_probe_detach(&s->probe);
	tz_store_set_freed(s->store, NULL);
	tz_probe_close(&s->probe);
	s->probing = 0;
}

/* Takes over what is known of an area that has been on without a break. */
static void update_areas(struct tz_slots *s)
{
	struct tz_slot_area now[TZ_TEST_AREAS];
	unsigned n = look_for_areas(s, now, &s->elsewhere);

	for (unsigned i = 0; i < s->nr_areas; i++) {
		struct tz_slot_area *old = &s->areas[i];
		int kept = 0;
		for (unsigned k = 0; k < n; k++) {
			if (old->type < 0 || old->base != now[k].base ||
			    old->pages != now[k].pages || !tz_slot_test_is_alive(&s->test, old))
				continue;
			now[k] = *old;
			kept = 1;
		}
		if (!kept)
			forget_type(s, old);
	}
	memcpy(s->areas, now, sizeof now);
	s->nr_areas = n;
	if (n)
		return;
	stop_probing(s);
	tz_slot_test_end(&s->test);
	s->hopeless = 0;
	s->tries = 0;
	s->test_at = 0;
	s->why[0] = 0;
}

/* ---- attaching ---- */

static void give_up(struct tz_slots *s)
{
	s->hopeless = 1;
	stop_probing(s);
	tz_slot_test_end(&s->test);
}

/* The test could not tell: it is made again, at the first swap write after some time. */
static void try_later(struct tz_slots *s)
{
	s->test_at = tz_now_ns() + (RETRY_NS << s->tries);
	s->tries += s->tries < RETRY_DOUBLINGS;
	atomic_store(&s->knock.wanted, 1);
}

static void tell_probe(struct tz_slots *s)
{
	for (unsigned i = 0; i < s->nr_areas; i++)
		if (s->areas[i].type >= 0)
			tz_probe_area(&s->probe, (unsigned)s->areas[i].type, s->areas[i].base,
				s->areas[i].pages);
}

/* Swaps pages out and learns the types of the areas that get them. 0; -ECANCELED; or -EAGAIN with
 * why: it is not known yet. */
static int find_types(struct tz_slots *s)
{
	int rc, fresh;

	do {
		fresh = s->test.pid <= 0;
		rc = fresh ? tz_slot_test_start(&s->test, s->stop_fd, s->why, sizeof s->why) : 0;
		if (rc == 0)
			rc = tz_slot_test_find(&s->test, s->store, s->areas, s->nr_areas, s->why,
				sizeof s->why);
		if (rc < 0) {
			tz_slot_test_end(&s->test);
			for (unsigned i = 0; i < s->nr_areas; i++)
				forget_type(s, &s->areas[i]);
		}
	} while (rc == -EPIPE && !fresh);	/* the old one was killed: a new one */
	if (rc < 0)
		return rc == -ECANCELED ? rc : -EAGAIN;
	if (known_areas(s))
		return 0;
	snprintf(s->why, sizeof s->why, "other swap has a higher priority, or zswap keeps the"
		" pages; tested again when pages come");
	return -EAGAIN;
}

/* Tests candidate i. 0; -EAGAIN: cannot tell now; or another negative errno: not this one. */
static int try_candidate(struct tz_slots *s, unsigned i)
{
	int rc = tz_probe_attach(&s->probe, i, s->why, sizeof s->why);

	if (rc < 0)
		return rc == -EAGAIN ? -EIO : rc;
	tz_probe_clear(&s->probe, 0, s->nr_pages);
	tell_probe(s);
	rc = tz_slot_test_probe(&s->test, &s->probe, s->areas, s->nr_areas, s->why, sizeof s->why);
	if (rc == 0)
		return 0;
	for (unsigned type = 0; type < TZ_SWAP_TYPES; type++)
		tz_probe_area(&s->probe, type, 0, 0);
	tz_probe_detach(&s->probe);
	tz_probe_clear(&s->probe, 0, s->nr_pages);
	if (rc == -EAGAIN)
		snprintf(s->why, sizeof s->why, "too few pages come to the device to tell;"
			" tested again when more do");
	/* What went wrong with the process (-EPIPE, -ETIMEDOUT) says nothing of the candidate. */
	return rc == -ENOTSUP || rc == -ERANGE || rc == -ECANCELED ? rc : -EAGAIN;
}

/* The first candidate that does what it should. 0; -EAGAIN: cannot tell now; or another negative
 * errno with why. */
static int find_function(struct tz_slots *s)
{
	int rc, none = 1;

	for (unsigned i = 0; tz_probe_candidate(i); i++) {
		rc = try_candidate(s, i);
		if (rc == 0 || rc == -EAGAIN || rc == -ECANCELED)
			return rc;
		if (rc == -ENOENT)
			continue;
		none = 0;
		if (rc != -ENOTSUP && rc != -ERANGE)
			return rc;	/* refused: so would be the others */
		rc = find_types(s);	/* for the next: this one's pages are freed */
		if (rc < 0)
			return rc;
	}
	if (none)
		snprintf(s->why, sizeof s->why,
			"the kernel has no function that is known to tell of freed slots");
	return -ENOTSUP;
}

static int start_probing(struct tz_slots *s)
{
	int rc = tz_probe_open(&s->probe, s->nr_pages, s->why, sizeof s->why);

	if (rc < 0)
		return rc == -EAGAIN ? -EIO : rc;
	tz_store_set_freed(s->store, s->probe.bits);
	s->probing = 1;
	s->collect = (struct tz_collect){ .thread = tz_store_collector(s->store),
		.bits = s->probe.bits, .nr_pages = s->nr_pages };
	return 0;
}

/* Makes what is missing: types of areas, and a function that tells. */
static void make_test(struct tz_slots *s)
{
	int rc = 0;

	snprintf(s->why, sizeof s->why, "being tested");
	show_state(s);
	if (!s->probing)
		rc = start_probing(s);
	if (rc == 0)
		rc = find_types(s);
	if (rc == 0 && s->probe.function)
		tell_probe(s);
	else if (rc == 0)
		rc = find_function(s);
	if (rc == -ECANCELED)
		return;
	if (rc < 0 && rc != -EAGAIN) {
		give_up(s);
	} else if (rc < 0 || known_areas(s) < s->nr_areas) {
		try_later(s);
	} else {
		s->tries = 0;
	}
	s->collecting = s->probe.function != NULL;
	show_state(s);
}

static void check_areas(struct tz_slots *s)
{
	update_areas(s);
	if (s->nr_areas && !s->hopeless &&
	    (known_areas(s) < s->nr_areas || !s->probe.function))
		make_test(s);
	else
		show_state(s);
}

/* ---- collecting ---- */

/* Whether what is marked is still about our areas. */
static int may_collect(struct tz_slots *s)
{
	if (tz_store_has_others(s->store)) {
		snprintf(s->why, sizeof s->why,
			"something other than swap has written to the device");
		give_up(s);
		show_state(s);
		return 0;
	}
	for (unsigned i = 0; i < s->nr_areas; i++) {
		if (s->areas[i].type < 0 || tz_slot_test_is_alive(&s->test, &s->areas[i]))
			continue;
		/* Switched off, or being so; or the process was killed. */
		stop_probing(s);
		tz_slot_test_end(&s->test);
		snprintf(s->why, sizeof s->why, "being switched off, or its test process is gone");
		try_later(s);
		show_state(s);
		return 0;
	}
	return 1;
}

/* The program wakes us from here on. A slot that was freed before it saw that shows in the
 * bitmap. */
static void rest(struct tz_slots *s)
{
	__atomic_store_n(&s->probe.control->armed, 1, __ATOMIC_SEQ_CST);
	s->collecting = tz_collect_is_due(&s->collect);
	if (s->collecting)
		__atomic_store_n(&s->probe.control->armed, 0, __ATOMIC_SEQ_CST);
}

/* A step of a round. Returns after how many milliseconds the next is due. */
static int collect(struct tz_slots *s)
{
	if (!may_collect(s))
		return 0;
	if (!tz_collect_step(&s->collect))
		return STEP_PAUSE_MS;
	if (!s->collect.found)
		rest(s);
	return ROUND_MS;
}

/* ---- the thread ---- */

enum { STOP, SWAPS, RING, KNOCK, FDS };

/* Milliseconds to sleep; -1: until something comes. */
static int may_sleep(const struct tz_slots *s, int knocked, int next)
{
	uint64_t now = tz_now_ns();

	if (s->collecting)
		return next;
	if (!knocked)
		return -1;
	return s->test_at > now ? (int)((s->test_at - now) / 1000000 + 1) : 0;
}

static void *thread_main(void *arg)
{
	struct tz_slots *s = arg;
	uint64_t n;
	int knocked = 0, next = 0;

	prctl(PR_SET_NAME, "tz-slots");
	tz_privileges_end();
	tz_store_thread_stats(tz_store_collector(s->store))->tid = (uint32_t)syscall(SYS_gettid);
	check_areas(s);
	for (;;) {
		struct pollfd fds[FDS] = { [STOP] = { .fd = s->stop_fd, .events = POLLIN },
			[SWAPS] = { .fd = s->swaps_fd, .events = POLLPRI },
			[RING] = { .fd = s->probing ? s->probe.ring_fd : -1, .events = POLLIN },
			[KNOCK] = { .fd = s->knock.fd, .events = POLLIN } };
		if (poll(fds, FDS, may_sleep(s, knocked, next)) < 0 && errno != EINTR)
			break;
		if (fds[STOP].revents)
			break;
		if (fds[KNOCK].revents)
			knocked |= read(s->knock.fd, &n, sizeof n) > 0;
		if (fds[RING].revents) {
			tz_probe_drain(&s->probe);
			s->collecting = 1;
		}
		if (fds[SWAPS].revents) {
			check_areas(s);
		} else if (knocked && s->nr_areas && !s->hopeless && tz_now_ns() >= s->test_at) {
			knocked = 0;
			check_areas(s);
		}
		knocked &= s->nr_areas && !s->hopeless;
		if (s->collecting)
			next = collect(s);
	}
	stop_probing(s);
	tz_slot_test_end(&s->test);
	return NULL;
}

static int start(struct tz_slots *s)
{
	pthread_attr_t attr;

	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->knock.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->swaps_fd = open("/proc/swaps", O_RDONLY | O_CLOEXEC);
	s->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_STACK, -1, 0);
	if (s->stop_fd < 0 || s->swaps_fd < 0 || s->knock.fd < 0 || s->stack == MAP_FAILED)
		return -errno;
	mprotect(s->stack, 4096, PROT_NONE);
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, (char *)s->stack + 4096, STACK_SIZE - 4096);
	int rc = -pthread_create(&s->thread, &attr, thread_main, s);
	pthread_attr_destroy(&attr);
	return rc;
}

int tz_slots_start(struct tz_slots *s, char *why, size_t why_size)
{
	s->stop_fd = s->swaps_fd = s->knock.fd = -1;
	s->test.fd = s->test.pagemap_fd = -1;
	int rc = start(s);

	s->started = rc == 0;
	if (rc < 0) {
		snprintf(why, why_size, "cannot start its thread: %s", strerror(-rc));
		snprintf(s->why, sizeof s->why, "%.100s", why);
		show(s, TZ_SLOT_TRACKING_UNAVAILABLE, s->why);
	}
	return rc;
}

void tz_slots_stop(struct tz_slots *s)
{
	uint64_t one = 1;

	if (s->started && write(s->stop_fd, &one, sizeof one) == (ssize_t)sizeof one)
		pthread_join(s->thread, NULL);
	s->started = 0;
}
