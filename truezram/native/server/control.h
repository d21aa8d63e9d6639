/* control.h - the control thread's loop. */
#ifndef TZ_CONTROL_H
#define TZ_CONTROL_H

#include "server.h"

/* Opens what the loop needs. 0, or negative errno with why. */
int tz_control_open(struct tz_server *s, char *why, size_t why_size);
/* What the device does with idle pages by itself, with what it takes locked in memory. 0, or
 * negative errno with why: then all is as before. */
int tz_server_set_policy(
	struct tz_server *s, const struct tz_policy *policy, char *why, size_t why_size);
/* What its queues are to be good at (enum tz_mode): kept, shown, and told to them. */
void tz_server_set_mode(struct tz_server *s, uint32_t mode);
/* The backing file (store.h), likewise. */
int tz_server_set_backing(
	struct tz_server *s, const char *path, uint64_t limit, char *why, size_t why_size);
/* Serves control messages and signals until the device is to be stopped and may be. */
void tz_control_loop(struct tz_server *s);

#endif
