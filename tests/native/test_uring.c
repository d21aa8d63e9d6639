/* test_uring.c - rings of the kernel's: every entry is taken once, also if a call takes none of
 * them, or not all. */
#include "harness.h"
#include "uring.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

#define ENTRIES 8u
#define ROUNDS 200u
#define WORDS (ENTRIES * (ROUNDS + 1))

static long fewer;		/* io_uring_enter gives the kernel so many entries less */
static int memory;		/* a file: each word of it is its number */
static uint64_t got[WORDS];
static uint8_t came[WORDS];
static unsigned next, taken;	/* words asked for, and how many have come */

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

long __wrap_syscall(long number, ...)
{
	long a[6];
	va_list args;

	va_start(args, number);
	for (unsigned i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_io_uring_enter)
		a[1] = (int)a[1] > fewer ? (int)a[1] - fewer : 0;
	return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int ask(struct tz_uring *r)
{
	struct tz_sqe *sqe = tz_uring_sqe(r);

	if (!sqe)
		return 0;
	sqe->opcode = TZ_IORING_OP_READ;
	sqe->fd = memory;
	sqe->off = next * sizeof got[0];
	sqe->addr = (uint64_t)(uintptr_t)&got[next];
	sqe->len = sizeof got[0];
	sqe->user_data = next++;
	return 1;
}

static void take(struct tz_uring *r)
{
	struct tz_cqe *cqe;

	while ((cqe = tz_uring_peek(r))) {
		CHECK(cqe->res == (int)sizeof got[0], "%d", cqe->res);
		uint64_t word = cqe->user_data;
		CHECK(word < next && !came[word]++, "%llu came", (unsigned long long)word);
		CHECK(got[word] == word, "%llu was read for %llu", (unsigned long long)got[word],
			(unsigned long long)word);
		taken++;
		tz_uring_seen(r);
	}
}

/* 0, or SKIP where there are no rings. */
static int check(unsigned flags)
{
	static const uint8_t ops[] = { TZ_IORING_OP_READ };
	struct tz_uring r;
	int rc = tz_uring_init(&r, ENTRIES, flags);

	if (rc == -EPERM || rc == -EACCES || rc == -ENOSYS)
		return SKIP;
	CHECK(rc == 0, "%d", rc);
	next = taken = 0;
	memset(came, 0, sizeof came);
	fewer = 0;
	/* A ring that takes nothing yet. */
	CHECK(ask(&r) && ask(&r) && ask(&r) && tz_uring_enter(&r, 0) == -EBADFD, "not enabled");
	while (ask(&r))
		;
	CHECK(next == ENTRIES && tz_uring_enter(&r, 0) == -EBADFD, "%u entries", next);
	CHECK(tz_uring_enable(&r, ops, 1) == 0, "enable");
	for (unsigned round = 0; round < ROUNDS; round++) {
		fewer = (long)random_below(3);
		/* So that there is something to wait for. */
		uint64_t wait = next - taken > (unsigned)fewer ? TZ_FOREVER : 0;
		CHECK(tz_uring_enter(&r, wait) == 0, "round %u", round);
		take(&r);
		for (unsigned n = random_below(ENTRIES + 1); n && next - taken < ENTRIES; n--)
			CHECK(ask(&r), "no entry for %u, and %u have come", next, taken);
	}
	for (fewer = 0; taken < next; take(&r))
		CHECK(tz_uring_enter(&r, TZ_FOREVER) == 0, "the end");
	CHECK(taken > ROUNDS, "%u", taken);
	tz_uring_exit(&r);
	return 0;
}

int main(void)
{
	static uint64_t words[WORDS];

	for (unsigned i = 0; i < WORDS; i++)
		words[i] = i;
	memory = memfd_create("test-uring", MFD_CLOEXEC);
	CHECK(memory >= 0 && write(memory, words, sizeof words) == (ssize_t)sizeof words, "memfd");
	static const unsigned kinds[] = { 0, TZ_URING_POLL, TZ_URING_SQE128, TZ_URING_SHARED,
		TZ_URING_SHARED | TZ_URING_IOWAIT };
	for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		if (check(kinds[i]) == SKIP) {
			printf("skipped: io_uring is not permitted here\n");
			return SKIP;
		}
		printf("flags %u: ok\n", kinds[i]);
	}
	return 0;
}
