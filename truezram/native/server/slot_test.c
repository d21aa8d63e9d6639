/* slot_test.c - swaps out and frees pages of a process of its own (interface: slot_test.h).
 *
 * The process is this program with --slot-test, started as the helper is (helper.c says why not a
 * fork). It has 4 MiB, each page a word repeated that nobody else has, and does as it is told: swap
 * them out (MADV_PAGEOUT), touch them, free them. Its /proc/PID/pagemap tells the server in which
 * slot of which swap type a page is.
 *
 * Which type is ours: the one whose slot's page on our device holds the page's word. Other areas
 * may take the pages, or zswap; then it is not known, and asked again later.
 *
 * One page for each area is left there, the canary. As long as pagemap has it in the same slot of
 * the same type, the area has not been switched off: swapoff would have brought it back.
 *
 * What is tested: pages freed one at a time, and many at once, are marked; what is still in a slot
 * is not, including pages that have been read again. Some marks may be missing: the kernel (to
 * 6.13) keeps up to 64 freed slots on each CPU, and does not take them for free either.
 */
#include "slot_test.h"
#include "clock.h"
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define ALONE (TZ_TEST_PAGES / 2)	/* pages freed one at a time; the others, at once */
#define TOUCHED 32u
#define LEAST 96u		/* pages in areas of ours, of either kind, that a test needs */
#define IN_CACHE 64u
#define ANSWER_NS 20000000000ull	/* a machine that is short of memory is slow */
#define ARRIVE_NS 5000000000ull
#define PAUSE_MS 2
#define SWAPPED (1ull << 62)	/* of a pagemap entry; type and offset below */
#define WHERE (SWAPPED | ((1ull << 55) - 1))
#define ENTRY_TYPE(entry) ((unsigned)((entry) & 31))
#define ENTRY_OFFSET(entry) (((entry) & ((1ull << 55) - 1)) >> 5)

enum task { OUT, TOUCH, FREE };

/* From first on, every step-th of count pages; FREE with step 0: all of them in one call. */
struct order {
	uint64_t seed;
	uint32_t task, first, count, step;
	uint32_t keep[TZ_TEST_AREAS];	/* pages not to be written anew, + 1 */
};

struct answer {
	uint64_t address;
	int32_t error;
};

/* ---- the process's side ---- */

/* A word that fits 51 bits, signed, so that the device keeps it in the page's entry. */
static uint64_t word_of(uint64_t seed, unsigned page)
{
	return ((seed + page) * 0x9e3779b97f4a7c15ull ^ seed) >> 14 | 1;
}

static int is_kept(const struct order *o, unsigned page)
{
	for (unsigned i = 0; i < TZ_TEST_AREAS; i++)
		if (o->keep[i] == page + 1)
			return 1;
	return 0;
}

/* Never touches a page that is kept: that would bring it back. */
static int swap_out(uint8_t *pages, const struct order *o)
{
	for (unsigned i = o->first; i < o->first + o->count; i += o->step) {
		uint64_t word = word_of(o->seed, i);
		if (is_kept(o, i))
			continue;
		for (unsigned at = 0; o->seed && at < 4096; at += 8)
			memcpy(pages + (size_t)i * 4096 + at, &word, 8);
	}
	return madvise(pages, TZ_TEST_PAGES * 4096, MADV_PAGEOUT) < 0 ? errno : 0;
}

static int carry_out(uint8_t *pages, const struct order *o)
{
	volatile const uint8_t *byte = pages;
	int err = 0;

	if (o->task == OUT)
		return swap_out(pages, o);
	if (o->task == FREE && !o->step)
		return madvise(pages + (size_t)o->first * 4096, (size_t)o->count * 4096,
			MADV_DONTNEED) < 0 ? errno : 0;
	for (unsigned i = o->first; i < o->first + o->count && !err; i += o->step) {
		if (is_kept(o, i))
			continue;
		if (o->task == TOUCH)
			(void)byte[(size_t)i * 4096];
		else if (madvise(pages + (size_t)i * 4096, 4096, MADV_DONTNEED) < 0)
			err = errno;
	}
	return err;
}

/* On one CPU: so what the kernel keeps back of freed slots is what one CPU keeps. */
static void stay_on_this_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

int tz_slot_test_main(void)
{
	struct answer answer = { 0 };
	struct order order;
	uint8_t *pages;

	if (fcntl(TZ_HELPER_FD, F_GETFD) < 0) {
		fprintf(stderr, "truezramd: --slot-test is what the server starts for itself\n");
		return 2;
	}
	tz_helper_be_ordinary("tz-slot-test");
	stay_on_this_cpu();
	pages = mmap(NULL, TZ_TEST_PAGES * 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		return 1;
	madvise(pages, TZ_TEST_PAGES * 4096, MADV_NOHUGEPAGE);
	answer.address = (uintptr_t)pages;
	while (recv(TZ_HELPER_FD, &order, sizeof order, 0) == (ssize_t)sizeof order) {
		if (order.count > TZ_TEST_PAGES || order.first > TZ_TEST_PAGES - order.count)
			return 1;
		answer.error = carry_out(pages, &order);
		if (send(TZ_HELPER_FD, &answer, sizeof answer, MSG_NOSIGNAL) < 0)
			return 1;
	}
	return 0;
}

/* ---- the server's side ---- */

/* 0; or -ECANCELED: the server is to end. */
static int pause_ms(const struct tz_slot_test *t, int ms)
{
	struct pollfd stop = { .fd = t->stop_fd, .events = POLLIN };

	return poll(&stop, 1, ms) > 0 ? -ECANCELED : 0;
}

/* The answer to an order. 0 or negative errno. */
static int hear(struct tz_slot_test *t, struct answer *a)
{
	struct pollfd fds[] = { { .fd = t->fd, .events = POLLIN },
		{ .fd = t->stop_fd, .events = POLLIN } };

	if (poll(fds, 2, (int)(ANSWER_NS / 1000000)) <= 0)
		return -ETIMEDOUT;
	if (fds[1].revents)
		return -ECANCELED;
	return recv(t->fd, a, sizeof *a, MSG_DONTWAIT) == (ssize_t)sizeof *a ? 0 : -EPIPE;
}

static int tell(struct tz_slot_test *t, struct order o, const struct tz_slot_area *areas,
	unsigned n)
{
	struct answer a;

	for (unsigned i = 0; i < n; i++)
		o.keep[i] = (uint32_t)(areas[i].canary + 1);
	if (send(t->fd, &o, sizeof o, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof o)
		return -EPIPE;
	int rc = hear(t, &a);
	if (rc < 0)
		return rc;
	t->address = a.address;
	return -a.error;
}

/* Only after it has answered: until it has become another program, its memory is still ours. */
static int open_pagemap(struct tz_slot_test *t)
{
	char path[48];

	if (t->pagemap_fd >= 0)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/pagemap", (int)t->pid);
	t->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	return t->pagemap_fd < 0 ? -errno : 0;
}

int tz_slot_test_start(struct tz_slot_test *t, int stop_fd, char *why, size_t why_size)
{
	static char option[] = "--slot-test";

	*t = (struct tz_slot_test){ .fd = -1, .pagemap_fd = -1, .stop_fd = stop_fd };
	t->fd = tz_helper_spawn(option, &t->pid);
	if (t->fd >= 0)
		return 0;
	snprintf(why, why_size, "cannot start a process for the test: %s", strerror(-t->fd));
	return t->fd;
}

/* It ends when its socket is closed. */
void tz_slot_test_end(struct tz_slot_test *t)
{
	if (t->fd >= 0)
		close(t->fd);
	if (t->pagemap_fd >= 0)
		close(t->pagemap_fd);
	*t = (struct tz_slot_test){ .fd = -1, .pagemap_fd = -1 };
}

/* ---- where its pages are ---- */

static int read_entries(struct tz_slot_test *t)
{
	ssize_t n = pread(t->pagemap_fd, t->entries, sizeof t->entries,
		(off_t)(t->address / 4096 * 8));

	return n == (ssize_t)sizeof t->entries ? 0 : -EIO;
}

int tz_slot_test_is_alive(const struct tz_slot_test *t, const struct tz_slot_area *area)
{
	uint64_t entry = 0;

	return area->canary >= 0 && t->pagemap_fd >= 0 &&
		pread(t->pagemap_fd, &entry, sizeof entry,
		(off_t)((t->address / 4096 + (uint64_t)area->canary) * 8)) == sizeof entry &&
		(entry & WHERE) == area->canary_entry;
}

/* The area whose page, on our device, has the word of the process's page i; NULL: none. */
static struct tz_slot_area *holder(const struct tz_slot_test *t, const struct tz_store *store,
	unsigned i, struct tz_slot_area *areas, unsigned n)
{
	uint64_t entry = t->entries[i], offset = ENTRY_OFFSET(entry);

	for (unsigned a = 0; a < n && entry & SWAPPED; a++)
		if (offset < areas[a].pages &&
		    tz_store_is_filled(store, areas[a].base + offset, word_of(t->seed, i)))
			return &areas[a];
	return NULL;
}

/* Waits until all that was swapped out has come to our device, or no more does. How much has, or
 * negative errno. */
static int await_arrival(struct tz_slot_test *t, const struct tz_store *store,
	struct tz_slot_area *areas, unsigned n)
{
	uint64_t since = tz_now_ns();
	unsigned most = 0, found, swapped;

	do {
		int rc = pause_ms(t, PAUSE_MS);
		if (rc == 0)
			rc = read_entries(t);
		if (rc < 0)
			return rc;
		found = swapped = 0;
		for (unsigned i = 0; i < TZ_TEST_PAGES; i++) {
			swapped += (t->entries[i] & SWAPPED) != 0;
			found += holder(t, store, i, areas, n) != NULL;
		}
		if (found > most)
			since = tz_now_ns();
		most = found;
	} while (found + n < swapped && tz_now_ns() - since < ARRIVE_NS);
	return (int)found;
}

int tz_slot_test_find(struct tz_slot_test *t, const struct tz_store *store,
	struct tz_slot_area *areas, unsigned n, char *why, size_t why_size)
{
	struct order out = { .task = OUT, .count = TZ_TEST_PAGES, .step = 1 };
	int rc;

	/* What nobody else has on the device; it need not be a secret. */
	t->seed = (tz_now_ns() ^ (uint64_t)t->pid << 40) * 0xbf58476d1ce4e5b9ull | 1;
	out.seed = t->seed;
	rc = tell(t, out, areas, n);
	if (rc == 0)
		rc = open_pagemap(t);
	if (rc == 0)
		rc = await_arrival(t, store, areas, n);
	if (rc < 0) {
		snprintf(why, why_size, "cannot swap out pages for the test: %s", strerror(-rc));
		return rc;
	}
	for (unsigned i = 0; i < TZ_TEST_PAGES; i++) {
		struct tz_slot_area *area = holder(t, store, i, areas, n);
		if (!area)
			continue;
		area->type = (int)ENTRY_TYPE(t->entries[i]);
		if (area->canary < 0 && i < ALONE && i % 2) {
			area->canary = (int)i;
			area->canary_entry = t->entries[i] & WHERE;
		}
	}
	return rc;
}

/* ---- what the probe marks ---- */

/* The page of our device in which the process's page i is, -1: none. */
static int64_t device_page(uint64_t entry, const struct tz_slot_area *areas, unsigned n)
{
	for (unsigned a = 0; a < n && entry & SWAPPED; a++)
		if ((int)ENTRY_TYPE(entry) == areas[a].type &&
		    ENTRY_OFFSET(entry) < areas[a].pages)
			return (int64_t)(areas[a].base + ENTRY_OFFSET(entry));
	return -1;
}

struct marks { unsigned ours, marked; };

static struct marks count_marks(const struct tz_slot_test *t, const struct tz_probe *p,
	const struct tz_slot_area *areas, unsigned n, unsigned first, unsigned end, unsigned step)
{
	struct marks m = { 0, 0 };

	for (unsigned i = first; i < end; i += step) {
		int64_t page = device_page(t->entries[i], areas, n);
		if (page < 0)
			continue;
		m.ours++;
		m.marked += __atomic_load_n(&p->bits[page / 64], __ATOMIC_SEQ_CST) >>
			(page % 64) & 1;
	}
	return m;
}

/* Enough of those that were freed: but for what may be in the kernel's cache of them, and for some
 * that were being written at that instant. */
static int is_enough(struct marks m)
{
	return m.marked + IN_CACHE + m.ours / 16 >= m.ours;
}

/* Frees pages and counts the marks of their slots, waiting for them for some time. */
static int free_and_count(struct tz_slot_test *t, const struct tz_probe *p,
	const struct tz_slot_area *areas, unsigned n, unsigned first, unsigned step,
	struct marks *m)
{
	struct order order = { .task = FREE, .first = first, .count = ALONE, .step = step };
	uint64_t start = tz_now_ns();
	int rc = tell(t, order, areas, n);

	do {
		*m = count_marks(t, p, areas, n, first, first + ALONE, step ? step : 1);
		if (rc == 0)
			rc = pause_ms(t, PAUSE_MS);
	} while (rc == 0 && !is_enough(*m) && tz_now_ns() - start < ARRIVE_NS);
	return rc;
}

/* Reads some pages back, swaps them out again, and looks that no slot in use is marked; a slot that
 * was freed and taken again is until its write has come. */
static int in_use_are_clear(struct tz_slot_test *t, const struct tz_probe *p,
	const struct tz_slot_area *areas, unsigned n)
{
	struct order touch = { .task = TOUCH, .first = ALONE, .count = TOUCHED, .step = 1 },
		out = { .task = OUT, .step = 1 };
	uint64_t start = tz_now_ns();
	struct marks m;
	int rc = tell(t, touch, areas, n);

	if (rc == 0)
		rc = tell(t, out, areas, n);
	do {
		if (rc == 0)
			rc = pause_ms(t, PAUSE_MS);
		if (rc == 0)
			rc = read_entries(t);
		m = count_marks(t, p, areas, n, 0, TZ_TEST_PAGES, 1);
	} while (rc == 0 && m.marked && tz_now_ns() - start < ARRIVE_NS);
	return rc < 0 ? rc : m.marked ? -ERANGE : 0;
}

int tz_slot_test_probe(struct tz_slot_test *t, const struct tz_probe *p,
	const struct tz_slot_area *areas, unsigned n, char *why, size_t why_size)
{
	struct marks alone = count_marks(t, p, areas, n, 0, ALONE, 2),
		together = count_marks(t, p, areas, n, ALONE, TZ_TEST_PAGES, 1);
	int rc;

	if (alone.ours < LEAST || together.ours < LEAST)
		return -EAGAIN;
	rc = free_and_count(t, p, areas, n, 0, 2, &alone);
	if (rc == 0 && !is_enough(alone)) {
		snprintf(why, why_size, "%s reports %u of %u freed slots%s", p->function,
			alone.marked, alone.ours, alone.marked ? ""
			: " (are kprobes switched off? /sys/kernel/debug/kprobes/enabled)");
		return -ENOTSUP;
	}
	if (rc == 0)
		rc = in_use_are_clear(t, p, areas, n);
	if (rc == -ERANGE)
		snprintf(why, why_size, "%s reports slots that are in use", p->function);
	if (rc == 0)
		rc = free_and_count(t, p, areas, n, ALONE, 0, &together);
	if (rc == 0 && !is_enough(together)) {
		snprintf(why, why_size, "%s reports %u of %u slots that are freed at once",
			p->function, together.marked, together.ours);
		return -ENOTSUP;
	}
	if (rc == 0)		/* all that is left but the canaries */
		rc = free_and_count(t, p, areas, n, 0, 1, &alone);
	if (rc < 0 && rc != -ERANGE)
		snprintf(why, why_size, "the test of %s was cut short: %s", p->function,
			strerror(-rc));
	return rc;
}
