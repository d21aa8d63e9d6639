/* local_ring.h - the shared memory of the local transport, as server (queue_local.c) and client (local_client.c) see it.
 *
 * A memfd, sealed in size: struct tz_ring_head; then per queue a struct tz_ring_queue and `depth` slots; then per slot a data
 * area of max_pages pages. The client may write any of it at any time, so the server keeps its own copy of the geometry,
 * reads each request's fields once, and moves data through a private buffer.
 *
 * A slot: FREE -> (client, by compare-and-swap) CLAIMED -> SUBMITTED -> (server) SERVING -> DONE -> (client) FREE.
 * Futexes: the queue's doorbell for the server, the slot's state for the client.
 */
#ifndef TZ_LOCAL_RING_H
#define TZ_LOCAL_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define TZ_RING_MAGIC 0x31474e52545aull
#define TZ_RING_VERSION 1
#define TZ_RING_MAX_PAGES 16u		/* pages of the largest request: 64 KiB */
#define TZ_RING_MAX_DEPTH 64u

enum tz_slot_state { TZ_SLOT_FREE = 0, TZ_SLOT_CLAIMED = 1, TZ_SLOT_SUBMITTED = 2, TZ_SLOT_SERVING = 3, TZ_SLOT_DONE = 4 };

struct tz_ring_head {
	uint64_t magic;
	uint32_t version, nr_queues, depth, max_pages;
	uint64_t nr_pages;		/* of the device */
	uint64_t size;			/* of the whole memfd */
	uint64_t queue_offset, queue_stride, data_offset;
	int32_t server_pid;
	_Atomic uint32_t closed;	/* the device is gone */
};

struct tz_ring_queue {
	_Atomic uint32_t doorbell;	/* counts submissions */
	_Atomic uint32_t sleeping;	/* the queue thread waits for the doorbell */
	uint32_t pad[14];
};

struct tz_ring_slot {
	_Atomic uint32_t state;
	uint32_t op, nr_pages;
	int32_t result;
	uint64_t page;
	int32_t owner;			/* pid of the client, so that a dead client's slot can be taken back */
	uint32_t pad[9];
};

static inline uint64_t tz_ring_queue_stride(unsigned depth)
{
	return sizeof(struct tz_ring_queue) + depth * sizeof(struct tz_ring_slot);
}

static inline struct tz_ring_slot *tz_ring_slot(struct tz_ring_queue *q, unsigned index)
{
	return (struct tz_ring_slot *)(q + 1) + index;
}

#endif
