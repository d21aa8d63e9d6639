/* takeover.h - a device that has had another server. */
#ifndef TZ_TAKEOVER_H
#define TZ_TAKEOVER_H

#include "device.h"

/* Takes over the device of a dead server, or of one that hands over (o->upgrade), first of all what
 * requests wait for. If it fails, this process ends, and all is as it was. 0, or negative errno
 * with s->why. */
int tz_takeover(struct tz_server *s, struct tz_options *o);
/* Before handing over, for as long as the kernel may crash if a server ends while requests are on
 * their way to it (docs/recovery.md): sees to it that none is. 0, or -EBUSY: they do not stop
 * coming. */
int tz_prepare_hand_over(struct tz_server *s);
/* Ends as if killed, but for requests that are being served, where the kernel can wait for these:
 * everything else is the next server's. */
void tz_hand_over(struct tz_server *s);
/* When this server cannot go on: ends it, for the standby to take over, or, if it has hardly begun,
 * for `truezram recover`. Returns if the device is gone, or cannot be taken over: then there is
 * nothing left to do but to clean up. */
void tz_give_up(struct tz_server *s);

#endif
