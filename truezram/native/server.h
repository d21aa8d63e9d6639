/* server.h - what truezramd holds: everything of one device, from the kernel's side to the registry's. */
#ifndef TZ_SERVER_H
#define TZ_SERVER_H

#include "local_server.h"
#include "queue.h"
#include "registry.h"
#include "ublk.h"

struct tz_server {
	int transport;			/* enum tz_transport */
	uint32_t id;
	unsigned nr_queues, depth;
	int ublk_open;
	struct tz_ublk ublk;
	struct tz_local_server local;
	struct tz_registry registry;
	struct tz_store *store;
	struct tz_queue queues[TZ_MAX_QUEUES];
	int end_fd;			/* eventfd: a queue thread has ended */
	char why[216];			/* reason of the last failure */
};

/* One line to stderr, which is the device's log. */
void tz_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
