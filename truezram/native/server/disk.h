/* disk.h - the kernel's side of a device, whichever driver it is of: ublk (ublk.h) or nbd (nbd.h).
 * A local device has none, and nothing is done for it.
 *
 * All that return an int: 0, or negative errno with s->why. */
#ifndef TZ_DISK_H
#define TZ_DISK_H

#include "device.h"

static inline int tz_is_disk(const struct tz_server *s)
{
	return tz_transport_row(s->transport)->is_disk;
}

/* The way to the driver. */
int tz_disk_open(struct tz_server *s);
/* What the queues of device s->id need. -EEXIST: another program has the number. */
int tz_disk_add(struct tz_server *s, uint64_t size, enum tz_data_mode data);
uint32_t tz_disk_max_io(const struct tz_server *s);
/* Whether another server can take over when this one dies. */
int tz_disk_is_recoverable(const struct tz_server *s);
/* Its node can be used afterwards; the queues must be serving. */
int tz_disk_start(struct tz_server *s, uint64_t size);
/* Takes over from a server that is dead; tz_disk_resume: requests flow again. */
int tz_disk_recover(struct tz_server *s);
int tz_disk_resume(struct tz_server *s);
/* Whether the kernel's device is still there, and not stopped by somebody else. */
int tz_disk_is_there(struct tz_server *s);
/* It goes, even if it is in use, and the queues see the end. */
void tz_disk_stop(struct tz_server *s);
/* Once they have ended. */
void tz_disk_close(struct tz_server *s);
/* Removes what a dead server left of device s->id. -EBUSY: it has a server. */
int tz_disk_remove_orphan(struct tz_server *s, int (*is_running)(int pid));

#endif
