/* device.h - a server's device: made, served by its queues, ended; what is common to making one and
 * to taking one over (takeover.h). */
#ifndef TZ_DEVICE_H
#define TZ_DEVICE_H

#include "server.h"

/* The command line of truezramd.c. */
struct tz_options {
	int transport;		/* enum tz_transport, -1 not given */
	uint64_t size, mem_limit;
	const char *algorithm, *run_dir, *dictionary;	/* dictionary: a file, NULL = none */
	struct tz_policy policy;
	int has_policy;
	uint32_t mode;		/* enum tz_mode */
	enum tz_data_mode data;		/* as it was asked for */
	const char *backing;		/* NULL: none */
	uint64_t backing_limit, backing_daily, backing_rate;
	uint8_t *dictionary_bytes;	/* what is in it */
	size_t dictionary_size;
	int id, ready_fd, cleanup, recover, upgrade, dedup;	/* id -1: any */
	unsigned queues, depth;		/* 0: default */
};

/* truezramd.c: the name to the creator, as soon as there is one: from here on something may have to
 * be cleared. */
void tz_announce(const struct tz_server *s, int ready_fd);

/* What is done before there is a device: leaves the creator, and opens all that is found by a path
 * of the creator's. All that return an int: 0, or negative errno with s->why. */
int tz_device_prepare(struct tz_server *s, struct tz_options *o);
int tz_device_make(struct tz_server *s, const struct tz_options *o);
/* Undoes all that tz_device_make did, as far as it came. Called once, at the end of every life. */
void tz_device_unmake(struct tz_server *s);

/* The steps. fill_head and set_… are for the statistics page; flags: enum tz_device_flags. */
void tz_device_fill_head(struct tz_server *s, const struct tz_options *o, int flags);
/* Of a ublk device. */
int tz_device_data_flags(const struct tz_server *s, enum tz_data_mode asked);
void tz_device_set_state(struct tz_server *s, unsigned state, unsigned more_flags);
void tz_device_set_live(struct tz_server *s);
unsigned tz_device_queues(void);	/* of a ublk device that no number is given for */
int tz_device_start_queues(struct tz_server *s, const struct tz_options *o);
/* Without them a device works: the reason is logged. */
void tz_device_start_slots(struct tz_server *s, const struct tz_options *o);
void tz_device_open_nursery(struct tz_server *s, const struct tz_options *o);
void tz_device_confine(void);

#endif
