/* detach.h - the server's own surroundings in place of its creator's. */
#ifndef TZ_DETACH_H
#define TZ_DETACH_H

/* First thing in a server's life, before anything is allocated: cgroups, resource limits,
 * scheduling, umask, no core dumps, no transparent huge pages. What this user may not change stays
 * as it is; as root that is logged. */
void tz_detach(void);
/* Into the mount namespace of process 1, if that is another one and has the same directory
 * `run_dir`. One thread only. */
void tz_leave_mount_namespace(const char *run_dir);

#endif
