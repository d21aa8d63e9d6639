/* disk.c - the kernel's side of a device: what ublk and nbd have in common (interface: disk.h). */
#include "disk.h"
#include "local_server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NBD_WAIT_SECONDS 86400u	/* requests for another server; ublk lets them wait for ever */
#define NBD_GOES_TRIES 100u	/* 10 ms each */

int tz_disk_open(struct tz_server *s)
{
	int rc = 0;

	if (s->transport == TZ_TRANSPORT_UBLK)
		rc = tz_ublk_open(&s->ublk, s->why, sizeof s->why);
	else if (s->transport == TZ_TRANSPORT_NBD)
		rc = tz_nbd_open(&s->nbd, s->why, sizeof s->why);
	s->disk_open = rc == 0 && tz_is_disk(s);
	return rc;
}

static int add_ublk(struct tz_server *s, uint64_t size, enum tz_data_mode data)
{
	int rc = tz_ublk_add(&s->ublk, (int)s->id, s->nr_queues, s->depth, size, data, 1,
		s->why, sizeof s->why);

	if (rc < 0)
		return rc;
	s->nr_queues = s->ublk.info.nr_hw_queues;	/* the kernel caps both */
	s->depth = s->ublk.info.queue_depth;
	return 0;
}

static int add_nbd(struct tz_server *s)
{
	tz_nbd_name(&s->nbd, s->id, s->registry.dir);
	if (!tz_nbd_is_taken(s->id))
		return tz_nbd_pair(&s->nbd, s->why, sizeof s->why);
	snprintf(s->why, sizeof s->why, "/dev/nbd%u is in use by another program", s->id);
	return -EEXIST;
}

int tz_disk_add(struct tz_server *s, uint64_t size, enum tz_data_mode data)
{
	return s->transport == TZ_TRANSPORT_UBLK ? add_ublk(s, size, data)
		: s->transport == TZ_TRANSPORT_NBD ? add_nbd(s) : 0;
}

uint32_t tz_disk_max_io(const struct tz_server *s)
{
	return s->transport == TZ_TRANSPORT_UBLK ? s->ublk.info.max_io_buf_bytes
		: s->transport == TZ_TRANSPORT_NBD ? TZ_NBD_MAX_IO
		: TZ_RING_MAX_PAGES * TZ_PAGE_SIZE;
}

int tz_disk_is_recoverable(const struct tz_server *s)
{
	return s->arena_is_safe && (s->transport == TZ_TRANSPORT_NBD ||
		(s->transport == TZ_TRANSPORT_UBLK && tz_ublk_is_recoverable(&s->ublk)));
}

int tz_disk_start(struct tz_server *s, uint64_t size)
{
	unsigned wait = tz_disk_is_recoverable(s) ? NBD_WAIT_SECONDS : 0;

	return s->transport == TZ_TRANSPORT_UBLK
		? tz_ublk_start(&s->ublk, s->why, sizeof s->why)
		: s->transport == TZ_TRANSPORT_NBD
		? tz_nbd_connect(&s->nbd, size, wait, s->why, sizeof s->why) : 0;
}

int tz_disk_recover(struct tz_server *s)
{
	if (s->transport == TZ_TRANSPORT_NBD) {
		tz_nbd_name(&s->nbd, s->id, s->registry.dir);
		return tz_nbd_reconnect(&s->nbd, s->why, sizeof s->why);
	}
	int rc = tz_ublk_recover(&s->ublk, (int)s->id, s->why, sizeof s->why);
	if (rc == 0 && (s->ublk.info.nr_hw_queues != s->nr_queues ||
		s->ublk.info.queue_depth != s->depth)) {
		snprintf(s->why, sizeof s->why,
			"the kernel's device has other queues than its arena");
		rc = -EINVAL;
	}
	return rc;
}

/* An nbd device's requests have been coming since tz_disk_recover, and its queue serves them. */
int tz_disk_resume(struct tz_server *s)
{
	return s->transport == TZ_TRANSPORT_UBLK
		? tz_ublk_resume(&s->ublk, s->why, sizeof s->why) : 0;
}

int tz_disk_is_there(struct tz_server *s)
{
	struct timespec pause = { 0, 10000000 };

	if (s->transport != TZ_TRANSPORT_NBD)
		return s->transport == TZ_TRANSPORT_UBLK && tz_ublk_is_there(&s->ublk);
	/* Whoever disconnects it shuts the socket first, and lets go of the device then. */
	for (unsigned tries = 0; tz_nbd_is_there(&s->nbd); tries++) {
		if (tries == NBD_GOES_TRIES)
			return 1;
		nanosleep(&pause, NULL);
	}
	return 0;
}

void tz_disk_stop(struct tz_server *s)
{
	if (!s->disk_open)
		return;
	if (s->transport == TZ_TRANSPORT_NBD) {
		if (s->nbd.connected)
			tz_nbd_disconnect(&s->nbd);
		return;
	}
	/* Also a device that was never started: STOP_DEV is what ends the queues, which wait for
	 * requests already. */
	s->ublk.started |= s->ublk.added;
	tz_ublk_stop(&s->ublk);
}

void tz_disk_close(struct tz_server *s)
{
	if (!s->disk_open)
		return;
	if (s->transport == TZ_TRANSPORT_NBD) {
		tz_nbd_close(&s->nbd);
	} else {
		tz_ublk_delete(&s->ublk);
		tz_ublk_close(&s->ublk);
	}
	s->disk_open = 0;
}

int tz_disk_remove_orphan(struct tz_server *s, int (*is_running)(int pid))
{
	if (s->transport == TZ_TRANSPORT_UBLK)
		return tz_ublk_remove_orphan(&s->ublk, (int)s->id, is_running);
	/* Its name's lock is ours, so the server that had it is dead. */
	tz_nbd_name(&s->nbd, s->id, s->registry.dir);
	return tz_nbd_disconnect(&s->nbd);
}
