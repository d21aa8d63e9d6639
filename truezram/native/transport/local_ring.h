/* local_ring.h - the shared memory of the local transport, as server (queue_local.c) and client
 * (local_client.c) see it.
 *
 * A memfd, sealed in size: struct tz_ring_head; then per queue a struct tz_ring_queue and `depth`
 * slots; then per slot a data area of max_pages pages. The client may write any of it at any time,
 * so the server keeps its own copy of the geometry, reads each request's fields once, and moves
 * data through a private buffer.
 *
 * A slot: FREE -> (client) CLAIMED -> SUBMITTED -> (server) SERVING -> DONE -> (client) FREE. A
 * client that waits no longer takes a request back that is SUBMITTED (FREE), or marks one that is
 * SERVING as ABANDONED, which the server makes FREE when it is done. State and owner are one word
 * and change by compare-and-swap, so that a slot never has a new state and an old owner: others
 * take a slot away only from an owner that is dead. Futexes: the queue's doorbell for the server,
 * the slot's word for the client.
 */
#ifndef TZ_LOCAL_RING_H
#define TZ_LOCAL_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define TZ_RING_MAGIC 0x31474e52545aull
#define TZ_RING_VERSION 2
#define TZ_RING_MAX_PAGES 16u		/* pages of the largest request: 64 KiB */
#define TZ_RING_MAX_DEPTH 64u

enum tz_slot_state {
	TZ_SLOT_FREE = 0, TZ_SLOT_CLAIMED = 1, TZ_SLOT_SUBMITTED = 2, TZ_SLOT_SERVING = 3,
	TZ_SLOT_DONE = 4, TZ_SLOT_ABANDONED = 5
};

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
	_Atomic uint32_t word;		/* state, owner's pid, number of claims: below */
	uint32_t op, nr_pages;
	int32_t result;
	uint64_t page;
	uint32_t pad[10];
};

/* A word: bits 0-2 the state, 3-24 the owner's pid (pid_max is at most 2^22), 25-31 count the
 * claims. */
static inline unsigned tz_slot_state(uint32_t word)
{
	return word & 7;
}

static inline int tz_slot_owner(uint32_t word)
{
	return (int)(word >> 3 & 0x3fffff);
}

static inline uint32_t tz_slot_with_state(uint32_t word, unsigned state)
{
	return (word & ~7u) | state;
}

/* Takes a slot that was seen as `seen` for `pid`. The new word, or 0: another client was faster. */
static inline uint32_t tz_slot_claim(struct tz_ring_slot *s, uint32_t seen, int pid)
{
	uint32_t claimed = ((seen >> 25) + 1) << 25 | (uint32_t)pid << 3 | TZ_SLOT_CLAIMED;

	return atomic_compare_exchange_strong(&s->word, &seen, claimed) ? claimed : 0;
}

/* Changes the state of a slot whose word is expected to be `word`. 0: it is another by now. */
static inline int tz_slot_change(struct tz_ring_slot *s, uint32_t word, unsigned state)
{
	return atomic_compare_exchange_strong(&s->word, &word, tz_slot_with_state(word, state));
}

static inline uint64_t tz_ring_queue_stride(unsigned depth)
{
	return sizeof(struct tz_ring_queue) + depth * sizeof(struct tz_ring_slot);
}

static inline struct tz_ring_slot *tz_ring_slot(struct tz_ring_queue *q, unsigned index)
{
	return (struct tz_ring_slot *)(q + 1) + index;
}

#endif
