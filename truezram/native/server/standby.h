/* standby.h - a process that waits for the server's death, ready to take over; and the nursery,
 * which starts it. What they are for is at the top of standby.c. */
#ifndef TZ_STANDBY_H
#define TZ_STANDBY_H

#include <stdint.h>
#include <sys/types.h>

struct tz_standby {
	int nursery_fd, fd;		/* our ends; -1: none */
	pid_t pid;			/* of the standby, if there is one */
	int asked;			/* the nursery is starting one */
	int ready;			/* it has locked its memory, and waits */
	uint64_t asked_at;		/* when, in ns */
	uint32_t id;
};

/* What a process has that becomes the server. */
struct tz_succession {
	char run_dir[96];
	int transport;		/* enum tz_transport */
	uint32_t id;
	int nursery_fd;		/* -1: no nursery */
};

/* The life of the nursery, `truezramd --nursery`, and of the standbys that it forks. Returns when
 * it ends: 1, to take over the device in this process, else 0. */
int tz_nursery_main(struct tz_succession *out);

/* By the process that becomes the server: the nursery goes on for it, if there is one. */
void tz_standby_inherit(struct tz_standby *b, const struct tz_succession *from);
/* From the server: the nursery, before capabilities are given up. 0 or negative errno. */
int tz_standby_open(struct tz_standby *b, const char *run_dir, int transport);
/* Asks for a standby of this device. */
void tz_standby_ask(struct tz_standby *b, uint32_t id);
/* nursery_fd or fd is readable. 1: there is another standby than before, or none. */
int tz_standby_event(struct tz_standby *b);
/* Waits for one that is ready, for so many ms at most. */
void tz_standby_await(struct tz_standby *b, int ms);
/* Its pid if there is one that is ready, else 0. */
pid_t tz_standby_pid(const struct tz_standby *b);
/* The server is about to end for another one to take over: the standby is to wait for what becomes
 * of that. */
void tz_standby_hand_over(struct tz_standby *b, pid_t successor);
/* The server ends, and the device with it: they are to end as well. */
void tz_standby_close(struct tz_standby *b);

#endif
