/* local_server.h - the server's end of the local ring: private geometry and mapping (shared layout:
 * local_ring.h). */
#ifndef TZ_LOCAL_SERVER_H
#define TZ_LOCAL_SERVER_H

#include "local_ring.h"

struct tz_local_server {
	int fd;
	unsigned queues, depth;
	uint8_t *base;
	uint64_t size, queue_offset, queue_stride, data_offset;
};

/* 0 or negative errno with why. nr_pages: of the device. */
int tz_local_server_create(struct tz_local_server *s, unsigned queues, unsigned depth,
	uint64_t nr_pages, char *why, size_t why_size);
/* Marks the ring closed, wakes its clients, unmaps it. The queue threads have ended. */
void tz_local_server_close(struct tz_local_server *s);

static inline struct tz_ring_queue *tz_local_server_queue(const struct tz_local_server *s,
	unsigned queue)
{
	return (struct tz_ring_queue *)(s->base + s->queue_offset + queue * s->queue_stride);
}

#endif
