/* filter.h - the system calls that the server may make once its device is set up. */
#ifndef TZ_FILTER_H
#define TZ_FILTER_H

#include <linux/filter.h>
#include <stddef.h>

#define TZ_FILTER_MAX 1024	/* instructions */

/* The one path that may be executed, by this address. */
extern const char tz_self_exe[];

/* Applies to all threads, and to the processes that they start. 0; -ENOTSUP: there is no table for
 * this CPU, or the program is built with a sanitizer; or another negative errno with why. */
int tz_filter_install(char *why, size_t why_size);
/* For tests: the program, into room for TZ_FILTER_MAX. Its length; 0: none for this CPU. */
unsigned tz_filter_write(struct sock_filter *out);

#endif
