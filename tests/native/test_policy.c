/* test_policy.c - what a device does with idle pages by itself.
 *
 * means: what a step takes is asked for when there is something to do for it, and not before.
 * early: under pressure pages count as old enough earlier; that ends. Without pages that it is
 *	about, nobody looks.
 * budget: the CPU time that it takes is within its share of the time that has passed, and a quarter
 *	of that while requests come.
 * full: at mem_limit, no write fails for lack of room because of it.
 * attached: the server that attaches the arena goes on with it.
 */
#include "attach_pages.h"
#include "clock.h"
#include "counts.h"
#include "store_impl.h"

#define SPEED 18000u			/* of the clock: a pass takes a hundredth of a second */
#define GREAT (UNDER_TSAN ? 1u << 10 : 1u << 12)	/* pages */

static struct tz_policy policy_now(uint32_t dense, uint32_t cold, uint32_t percent)
{
	return (struct tz_policy){ .idle_dense = dense, .idle_cold = cold, .cpu_percent = percent };
}

static void set_policy(struct device *d, struct tz_policy policy)
{
	char why[216] = "";
	int err;
	struct tz_standing *standing =
		tz_store_prepare_policy(d->store, &policy, &err, why, sizeof why);

	CHECK(standing, "%d: %s", err, why);
	tz_store_set_policy(d->store, standing);
}

/* As the control thread does. */
static unsigned grant(struct device *d)
{
	unsigned wishes = tz_store_take_wishes(d->store);

	if (!wishes)
		return 0;
	tz_store_grant_wishes(d->store, wishes, 1);
	set_policy(d, tz_store_policy(d->store));
	return wishes;
}

/* Pages that are like their neighbours, or that cannot be compressed. */
static void fill(struct device *d, uint64_t first, uint64_t n, int noise)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	uint64_t *words = (uint64_t *)(void *)page;

	tz_store_begin(t);
	for (uint64_t i = first; i < first + n; i++) {
		uint64_t state = i / (noise ? 1 : TZ_GROUP_PAGES) + 1;
		for (unsigned at = 0; at < 512; at++) {
			uint64_t r = next(&state);
			words[at] = noise ? r : (r % 97) * (r % 89 + 1) * 0x0123456789abull;
		}
		words[0] = i;
		CHECK(write_waiting(t, i, page) == 0, "write");
	}
	tz_store_end(t);
}

static uint64_t pages_of(const struct device *d, unsigned kind)
{
	return (uint64_t)sum_of(d->stats).total.kind_pages_now[kind];
}

static uint64_t younger(const struct device *d, unsigned age)
{
	uint64_t n = 0;

	while (age)
		n += NOW(d->stats->age_pages[--age]);
	return n;
}

/* Until all pages are of that age at least. Then the clock is as it should be again, and the policy
 * looks at what there is. */
static void grow_old(struct device *d, unsigned age)
{
	uint64_t counted;

	/* Slower where they must not be much older: this thread may be late. */
	tz_store_set_age_speed(d->store, age < 5 ? SPEED / 20 : SPEED);
	counted = tz_store_count_ages(d->store);
	WAIT_FOR(NOW(d->stats->ages_counted) >= counted && !younger(d, age),
		"%llu pages stay younger than %u", (unsigned long long)younger(d, age), age);
	tz_store_set_age_speed(d->store, 1);
	set_policy(d, tz_store_policy(d->store));
}

/* ---- means ---- */

static void means(void)
{
	struct device d = make_device(GREAT, 1, 0, "lz4");
	uint64_t counted;

	set_policy(&d, policy_now(600, 7200, 100));
	fill(&d, 0, GREAT, 0);
	counted = tz_store_count_ages(d.store);
	WAIT_FOR(NOW(d.stats->ages_counted) >= counted, "it is not counted");
	CHECK(!tz_store_take_wishes(d.store), "nothing is old yet");
	CHECK(!d.store->groups.packer && !atomic_load(&d.store->groups.on), "groups are on");
	grow_old(&d, 5);
	unsigned granted = 0;
	WAIT_FOR((granted |= grant(&d)) == 3, "%u are wished for", granted);
	WAIT_FOR(pages_of(&d, TZ_KIND_GROUP) == GREAT, "%llu are in groups",
		(unsigned long long)pages_of(&d, TZ_KIND_GROUP));
	WAIT_FOR(NOW(d.stats->cold.pages) == GREAT, "%llu are counted",
		(unsigned long long)NOW(d.stats->cold.pages));
	CHECK(!grant(&d), "it has what it takes");
	/* What cannot be granted is wished for again when more pages get old. */
	tz_store_grant_wishes(d.store, 2, 0);
	set_policy(&d, tz_store_policy(d.store));
	WAIT_FOR(tz_store_take_wishes(d.store) == 2, "it does not wish again");
	check_counts(&d);
	end(&d);
}

/* ---- early ---- */

static int psi;

/* What the kernel says now. */
static void stall(const char *some)
{
	char text[160];
	int n = snprintf(text, sizeof text, "some avg10=%s avg60=0.50 avg300=0.10 total=1\n"
		"full avg10=99.00 avg60=0.00 avg300=0.00 total=1\n", some);

	CHECK(pwrite(psi, text, (size_t)n, 0) == n && ftruncate(psi, n) == 0, "psi");
}

/* It is not waited for: the next look is now. */
static void look_again(struct device *d)
{
	atomic_store(&d->store->policing.next_look, 0);
	tz_housekeeping_wake(d->store);
}

static void expect_pressure(struct device *d, enum tz_pressure pressure)
{
	WAIT_FOR((look_again(d), NOW(d->stats->pressure) == pressure), "pressure %llu, not %u",
		(unsigned long long)NOW(d->stats->pressure), pressure);
}

static void early_with(struct device *d, const char *some)
{
	uint64_t before = NOW(d->stats->pressures);
	unsigned granted = 0;

	stall(some);		/* somebody may look right then */
	expect_pressure(d, TZ_PRESSURE_MEMORY);
	CHECK(NOW(d->stats->pressures) == before + 1, "it is counted");
	WAIT_FOR((granted |= grant(d)) & 2 || d->store->policing.equipped & 2, "no wish");
	WAIT_FOR(pages_of(d, TZ_KIND_GROUP) >= GREAT, "%llu are in groups",
		(unsigned long long)pages_of(d, TZ_KIND_GROUP));
}

static void limit_near(struct device *d)
{
	char why[216];

	CHECK(tz_store_set_mem_limit(d->store, NOW(d->stats->mem_used_total) * 100 / 95, why,
		sizeof why) == 0, "%s", why);
}

static void early(void)
{
	struct device d = make_device(GREAT * 4, 1, 0, "lz4");
	char why[216];

	psi = memfd_create("psi", MFD_CLOEXEC);
	stall("0.00");
	atomic_store(&d.store->policing.psi_fd, dup(psi));
	set_policy(&d, policy_now(600, 7200, 100));
	/* Nothing is idle: nobody looks. */
	stall("80.00");
	look_again(&d);
	CHECK(!NOW(d.stats->pressure), "it has nothing to gain");
	stall("9.99");
	fill(&d, 0, GREAT, 0);
	grow_old(&d, 3);		/* for 12 minutes, which is not two hours */
	expect_pressure(&d, TZ_PRESSURE_NONE);
	CHECK(pages_of(&d, TZ_KIND_GROUP) == 0, "groups of pages that are not old");
	early_with(&d, "10.00");
	stall("5.01");
	look_again(&d);
	CHECK(NOW(d.stats->pressure) == TZ_PRESSURE_MEMORY, "it has not ended");
	stall("4.99");
	expect_pressure(&d, TZ_PRESSURE_NONE);
	stall("garbage");
	look_again(&d);
	/* mem_limit: 90 per cent of it are in use. */
	fill(&d, GREAT, GREAT, 0);
	fill(&d, GREAT * 2, GREAT / 4, 1);
	grow_old(&d, 3);		/* for 12 minutes, which is not two hours */
	expect_pressure(&d, TZ_PRESSURE_NONE);
	/* (Of what is in use now: the reserve becomes smaller.) */
	WAIT_FOR((limit_near(&d), look_again(&d), NOW(d.stats->pressure) == TZ_PRESSURE_MEM_LIMIT),
		"no pressure");
	WAIT_FOR(pages_of(&d, TZ_KIND_GROUP) >= GREAT * 2, "%llu are in groups",
		(unsigned long long)pages_of(&d, TZ_KIND_GROUP));
	CHECK(tz_store_set_mem_limit(d.store, 0, why, sizeof why) == 0, "%s", why);
	expect_pressure(&d, TZ_PRESSURE_NONE);
	/* What is young is left alone under any pressure. */
	stall("90.00");
	fill(&d, GREAT * 3, GREAT, 0);
	expect_pressure(&d, TZ_PRESSURE_MEMORY);
	compact(&d);
	CHECK(pages_of(&d, TZ_KIND_GROUP) == GREAT * 2, "young pages are in groups");
	check_counts(&d);
	end(&d);
	close(psi);
}

/* ---- budget ---- */

#define PERCENT 4u
/* CPU of a step at most: half a millisecond and a window. */
#define STEP_NS (share_of_work() * 4000000ull)

static uint64_t spent(const struct device *d)
{
	return NOW(d->stats->dense.cpu_ns) + NOW(d->stats->cold.cpu_ns);
}

/* Until it has taken so much CPU time, with requests or without, and that it took its time. */
static void spend(struct device *d, uint64_t cpu_ns, unsigned percent, int requests)
{
	struct tz_store_thread *t = tz_store_thread(d->store, 0);
	uint64_t began = tz_now_ns(), before = spent(d), now, took = 0, last, step = STEP_NS;
	uint8_t page[4096];

	do {
		nanosleep(&(struct timespec){ 0, 200000 }, NULL);
		tz_store_begin(t);
		CHECK(!requests || tz_store_read(t, GREAT * 4 - 1, page) == 0, "read");
		tz_store_end(t);
		last = took;
		took = spent(d) - before;
		now = tz_now_ns();
		/* (A virtual machine may count as a step's what its host did meanwhile.) */
		step = took - last > step ? took - last : step;
		CHECK(took <= (now - began) * percent / (requests ? 400 : 100) + 2 * step,
			"%llu us of CPU in %llu ms", (unsigned long long)took / 1000,
			(unsigned long long)(now - began) / 1000000);
		CHECK(now - began < 1200000000000ull, "it does not work");
	} while (took < cpu_ns);
}

static void budget(void)
{
	struct device d = make_device(GREAT * 16, 1, 0, "lz4");

	fill(&d, 0, GREAT * 16, 0);
	set_policy(&d, policy_now(0, 7200, PERCENT));
	grow_old(&d, 5);
	WAIT_FOR(grant(&d) == 2, "no wish");
	spend(&d, 10 * STEP_NS, PERCENT, 0);
	spend(&d, 5 * STEP_NS, PERCENT, 1);
	CHECK(pages_of(&d, TZ_KIND_GROUP) < GREAT * 16, "that was all: nothing was measured");
	end(&d);
}

/* ---- full ---- */

/* How many more pages a device takes that is nearly full, with the policy at work or without. */
static uint64_t pages_more(int with_policy)
{
	enum { LIMIT_BYTES = 12 << 20, FULL = 1 << 12 };
	struct device d = make_device(FULL * 8, 1, LIMIT_BYTES, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));
	uint64_t state = 1, n = 0, *words = (uint64_t *)(void *)page;
	int rc = 0;

	/* The holes that it leaves are too small for what comes. */
	for (unsigned i = 0; i < FULL / 2; i++)
		fill(&d, i, 1, i % 2);
	set_policy(&d, policy_now(0, with_policy ? 7200 : 0, 100));
	grow_old(&d, 5);
	WAIT_FOR(!with_policy || grant(&d) == 2, "no wish");
	WAIT_FOR(!with_policy || pages_of(&d, TZ_KIND_GROUP) > 0, "it does not work");
	tz_store_begin(t);
	while (rc == 0) {
		for (unsigned i = 0; i < 512; i++)
			words[i] = next(&state);
		rc = write_waiting(t, FULL + n, page);
		n += rc == 0;
	}
	tz_store_end(t);
	CHECK(rc == -ENOSPC, "%d", rc);
	CHECK(!with_policy || pages_of(&d, TZ_KIND_GROUP) > 0, "no groups");
	CHECK(NOW(d.stats->mem_used_max) <= LIMIT_BYTES + TZ_SEGMENT_SIZE, "%llu bytes are used",
		(unsigned long long)NOW(d.stats->mem_used_max));
	end(&d);
	return n;
}

static void full(void)
{
	uint64_t without = pages_more(0);

	for (unsigned i = 0; i < 6; i++) {
		uint64_t with = pages_more(1);
		CHECK(with >= without, "%llu pages, %llu without a policy",
			(unsigned long long)with, (unsigned long long)without);
	}
}

/* ---- attached ---- */

static void attached(void)
{
	struct device d = make_device(GREAT, 1, 0, "lz4"), e;
	struct tz_policy policy = policy_now(600, 7200, 100), found;
	struct tz_attach a = { 0 };
	uint32_t in_file[3] = { 0 };
	int fd;

	set_policy(&d, policy_now(1, 2, 3));
	set_policy(&d, policy);
	fill(&d, 0, GREAT, 0);
	grow_old(&d, 5);
	/* It ends when it has put some of the pages in groups. */
	WAIT_FOR((grant(&d), pages_of(&d, TZ_KIND_GROUP) > 100), "no groups");
	fd = dup(d.fd);
	end(&d);
	CHECK(pread(fd, in_file, sizeof in_file, 520) == sizeof in_file, "head");
	CHECK(in_file[0] == 600 && in_file[1] == 7200 && in_file[2] == 100, "%u %u %u in the file",
		in_file[0], in_file[1], in_file[2]);
	e = attach(fd, 1, &a);
	found = tz_store_policy(e.store);
	CHECK(!memcmp(&found, &policy, sizeof found), "%u %u %u", found.idle_dense,
		found.idle_cold, found.cpu_percent);
	/* As takeover.c does. */
	set_policy(&e, found);
	CHECK(NOW(e.stats->idle_cold) == 7200, "it is not shown");
	WAIT_FOR((grant(&e), pages_of(&e, TZ_KIND_GROUP) == GREAT), "%llu are in groups",
		(unsigned long long)pages_of(&e, TZ_KIND_GROUP));
	check_counts(&e);
	end(&e);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "means", means }, { "early", early }, { "budget", budget },
		{ "full", full }, { "attached", attached },
	};
	const char *why;

	if (!tz_zstd_group_size(9, &why)) {
		printf("left out: %s\n", why);
		return 77;
	}

	for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++)
		if (argc < 2 || !strcmp(argv[1], tests[i].name))
			tests[i].run();
	puts("policies: all right");
	return 0;
}
