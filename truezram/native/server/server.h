/* server.h - what truezramd holds: everything of one device, from the kernel's side to the
 * registry's. */
#ifndef TZ_SERVER_H
#define TZ_SERVER_H

#include "helper.h"
#include "local_server.h"
#include "nbd.h"
#include "queue.h"
#include "registry.h"
#include "slots.h"
#include "standby.h"
#include "ublk.h"

#include <time.h>

struct tz_server {
	int transport;			/* enum tz_transport */
	uint32_t id;
	unsigned nr_queues, depth;
	int disk_open;			/* one of these: */
	struct tz_ublk ublk;
	struct tz_nbd nbd;
	struct tz_local_server local;
	struct tz_registry registry;
	struct tz_store *store;
	struct tz_queue queues[TZ_MAX_QUEUES];
	struct tz_helper helper;
	struct tz_standby standby;
	int arena_fd;			/* the store's, which closes it */
	struct tz_slots slots;
	int arena_is_safe;		/* on a noswap tmpfs, or locked as it is populated */
	struct tz_suspects suspects;
	int end_fd;			/* eventfd: a queue thread has ended */
	int signal_fd;
	timer_t onward[2];		/* control.c */
	int handed_over;		/* another server takes over: nothing is removed */
	int queue_ended;		/* so that this one cannot go on */
	uint64_t live_since;		/* in ns */
	uint64_t pressure;		/* enum tz_pressure, as it was logged last */
	uint64_t logged_error;		/* last_error_ns, and */
	uint64_t logged_full;		/* writes that failed for lack of room, as of */
	uint64_t logged_full_at;	/* when that was logged, in ns; 0: not yet */
	int spare_fd;			/* given up for a moment when there are no descriptors left
					 * to accept with */
	uint64_t generation;		/* how many servers the device has had, with this one */
	int claim_fd;			/* our disk opened exclusively: it cannot be mounted
					 * or become swap while it is being stopped */
	char why[216];			/* reason of the last failure */
};

/* Locks what is mapped now and shows in the statistics page whether all of it is. 0, or negative
 * errno with why when it could not be locked. */
int tz_server_lock(struct tz_server *s, char *why, size_t why_size);
/* Shows who would take over now. */
void tz_server_show_standby(struct tz_server *s);

#endif
