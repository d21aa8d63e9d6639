/* registry.h - a device's place in the run directory: lock, statistics page, control socket, log,
 * arena file.
 *
 *	DIR/NAME.lock	held (flock) by the server as long as it lives: a process that can take it
 *			knows that no server has NAME. Its content, "PID START\n" (START: field 22
 *			of /proc/PID/stat), says which server does
 *	DIR/NAME.stats	the statistics page, 0644; appears complete, by rename, when the device is
 *			usable
 *	DIR/NAME.sock	the control socket, 0600
 *	DIR/NAME.log	what the server had to say, 0644; where there is an arena below, a link to
 *			DIR/arena/NAME.log
 *	DIR/arena/NAME	the arena, on a tmpfs mounted noswap (root, Linux 6.4 and later); locked
 *			(flock) by the process that has it attached
 *	DIR/arena.lock	held around mounting and unmounting that tmpfs
 *
 * What a server that died has left stays until its own device is removed (adopted and dropped):
 * other devices that come or go do not touch it.
 */
#ifndef TZ_REGISTRY_H
#define TZ_REGISTRY_H

#include "stats.h"

struct tz_registry {
	char dir[96], name[32];
	int lock_fd, socket_fd;
	struct tz_stats *stats;
	size_t stats_len;
};

/* What is to be known of a transport by its name. */
struct tz_transport_row {
	const char *word;		/* in options */
	const char *prefix;		/* of names of devices; a disk's are /dev/PREFIXN */
	int is_disk;
};
const struct tz_transport_row *tz_transport_row(int transport);
/* enum tz_transport, or -1. */
int tz_transport_parse(const char *word);
void tz_device_name(char *name, size_t size, int transport, unsigned id);

/* Field 22 of /proc/self/stat: with the pid, it names this process for good. */
uint64_t tz_process_start(void);
/* Takes NAME in DIR (made if absent). 0; -EBUSY when a live server has it or, unless `adopt`, when
 * a dead one has left something of it; or another negative errno; why says so. */
int tz_registry_take(struct tz_registry *r, const char *dir, const char *name, int adopt, char *why,
	size_t why_size);
/* Makes the statistics page (zeroed, laid out, not yet visible) and the listening socket. */
int tz_registry_make(struct tz_registry *r, unsigned queues, char *why, size_t why_size);
/* An open, empty file for the arena; *noswap says whether it is on a noswap tmpfs (else a
 * memfd). */
int tz_registry_arena(struct tz_registry *r, int *noswap, char *why, size_t why_size);
/* Of a device that has a server: its arena, to read from, and r's names. An open file, or negative
 * errno with why. */
int tz_registry_peek_arena(struct tz_registry *r, const char *dir, const char *name, char *why,
	size_t why_size);
/* Of a device whose server is dead, taken with `adopt`: the arena it has left, locked as attached.
 * An open file, or negative errno with why. */
int tz_registry_adopt_arena(struct tz_registry *r, char *why, size_t why_size);
/* The same for its statistics page, if that is one of this version for as many queues, else a new
 * one (not yet visible, *fresh set); and a new socket in the place of the old. */
int tz_registry_adopt(struct tz_registry *r, unsigned queues, int *fresh, char *why,
	size_t why_size);
/* The statistics page becomes visible. */
int tz_registry_publish(struct tz_registry *r, char *why, size_t why_size);
/* One line to stderr. */
void tz_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* stderr goes to the log from here on. */
void tz_registry_log(struct tz_registry *r);
/* Removes every file of NAME, which the caller has closed, and releases the name. 0, or -EBUSY:
 * another process has the arena attached; all stays. */
int tz_registry_drop(struct tz_registry *r);

#endif
