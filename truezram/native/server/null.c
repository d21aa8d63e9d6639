/* null.c - a ublk device without a store: what a request costs before a store is asked
 * (`truezram benchmark device --against null`).
 *
 *	truezramd --null BYTES QUEUES DEPTH DATA-MODE
 *
 * (QUEUES 0: as many as a device of ours has.)
 *
 * The queue threads are those of any other device, and data moves in and out as it does there; but
 * reads are zeros, and what is written is dropped (queue.c). Ring, driver and transfers are in its
 * figures, store and codec are not.
 *
 * It is no device of truezram's: no name in the registry, so no verb and no page of the app shows
 * it; no arena, no socket, no standby. It says "ublkbN QUEUES DEPTH" on its standard output when it
 * can be used, and is gone when its standard input ends: with whoever made it, however that one
 * ended. If it is killed, the kernel removes the device, since it was not made to be recovered.
 */
#include "null.h"
#include "detach.h"
#include "device.h"
#include "protocol.h"
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct null_device {
	struct tz_ublk ublk;
	uint64_t size;
	unsigned nr_queues, depth, started;
	enum tz_data_mode data;
	int end_fd;
	struct tz_queue queues[TZ_MAX_QUEUES];
	struct tz_queue_stats stats[TZ_MAX_QUEUES];
	char why[216];
};

static int parse(struct null_device *d, int argc, char **argv)
{
	unsigned long long n[3];
	int data = argc == 6 ? tz_data_mode_parse(argv[5]) : -EINVAL;

	for (int i = 0; i < 3; i++) {
		char *end;

		errno = 0;
		n[i] = argc == 6 ? strtoull(argv[2 + i], &end, 10) : 0;
		if (argc != 6 || *end || errno)
			return -EINVAL;
	}
	if (data < 0 || !n[0] || n[0] % TZ_PAGE_SIZE || n[0] > TZ_MAX_SIZE ||
	    n[1] > TZ_MAX_QUEUES || !n[2] || n[2] > TZ_MAX_DEPTH)
		return -EINVAL;
	d->size = n[0];
	d->nr_queues = n[1] ? (unsigned)n[1] : tz_device_queues();
	d->depth = (unsigned)n[2];
	d->data = (enum tz_data_mode)data;
	return 0;
}

static int start_queues(struct null_device *d)
{
	d->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->end_fd < 0)
		return -errno;
	for (unsigned i = 0; i < d->nr_queues; i++) {
		struct tz_queue *q = &d->queues[i];

		*q = (struct tz_queue){ .index = i, .depth = d->depth,
			.nr_pages = d->size / TZ_PAGE_SIZE, .end_fd = d->end_fd, .ublk = &d->ublk,
			.stats = &d->stats[i] };
		tz_ublk_queue_affinity(&d->ublk, i, q->cpu_mask, sizeof q->cpu_mask);
		int rc = tz_queue_start(q, tz_queue_run_ublk, d->why, sizeof d->why);
		d->started = i + 1;
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* What a failure leaves undone, `unmake` undoes. */
static int make(struct null_device *d)
{
	int rc = tz_ublk_add(&d->ublk, -1, d->nr_queues, d->depth, d->size, d->data, 0,
		d->why, sizeof d->why);

	if (rc == 0) {
		d->nr_queues = d->ublk.info.nr_hw_queues;	/* the kernel caps both */
		d->depth = d->ublk.info.queue_depth;
		rc = start_queues(d);
	}
	return rc < 0 ? rc : tz_ublk_start(&d->ublk, d->why, sizeof d->why);
}

static void unmake(struct null_device *d)
{
	d->ublk.started |= d->ublk.added;	/* STOP_DEV is what ends the queues */
	tz_ublk_stop(&d->ublk);
	for (unsigned i = 0; i < d->started; i++)
		tz_queue_join(&d->queues[i]);
	tz_ublk_delete(&d->ublk);
	tz_ublk_close(&d->ublk);
}

static void announce_and_wait(const struct null_device *d)
{
	char byte;
	ssize_t n;

	printf("ublkb%u %u %u\n", d->ublk.info.dev_id, d->nr_queues, d->depth);
	fflush(stdout);
	do
		n = read(STDIN_FILENO, &byte, 1);
	while (n > 0 || (n < 0 && errno == EINTR));
}

int tz_null_main(int argc, char **argv)
{
	static struct null_device d;		/* zeroed, and not on the stack */
	sigset_t all;
	int rc;

	if (parse(&d, argc, argv) < 0) {
		fprintf(stderr, "usage: truezramd --null BYTES QUEUES DEPTH DATA-MODE\n");
		return TZ_EXIT_USAGE;
	}
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);	/* it ends with its input */
	tz_detach();
	rc = tz_ublk_open(&d.ublk, d.why, sizeof d.why);
	if (rc == 0) {
		rc = make(&d);
		if (rc == 0)
			announce_and_wait(&d);
		unmake(&d);
	}
	if (rc < 0)
		fprintf(stderr, "truezramd: %s\n", d.why);
	return rc == 0 ? 0 : rc == -EPERM || rc == -EACCES || rc == -ENOENT || rc == -EOPNOTSUPP
		? TZ_EXIT_UNSUPPORTED : TZ_EXIT_FAILED;
}
