/* thread.h - the store's own threads: how one is started, and what it does first. */
#ifndef TZ_THREAD_H
#define TZ_THREAD_H

#include <linux/capability.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* A thread with a stack of that size, which is locked as a whole: not the usual 8 MiB. 0, or
 * negative errno with why; `what` is the thread in that message. */
int tz_thread_start(pthread_t *thread, size_t stack, void *(*run)(void *), void *arg,
	const char *what, char *why, size_t why_size);
/* From the thread: its name, and that its allocations do not wait for I/O that waits for it. It
 * then gives up the capabilities that threads start with. Whether they do not wait. */
int tz_thread_begin(const char *name);
/* For the calling thread, and what it starts: whether it is an I/O flusher, which does not wait for
 * writes when it needs memory. Whoever serves a swap device, or is to take over, must be one: a
 * thread that waits for its own device cannot even be killed, and the dead server's files stay open
 * as long as one of its threads is there. 0, or -1: it has no right to change that. */
int tz_thread_flusher(int on);
/* While everybody waits for it: it is one, and may use memory that the kernel keeps in reserve (a
 * real-time thread). Off: the latter ends. */
void tz_thread_urgent(int on);
/* What a thread needs as it starts: to be an I/O flusher, and for the reserve's its priority. */
#define TZ_THREAD_CAPABILITIES (1ull << CAP_SYS_RESOURCE | 1ull << CAP_SYS_NICE)
/* What threads keep after that; if it is not set, all but those. */
extern uint64_t tz_thread_keep;
/* The calling thread gives up all others. */
void tz_thread_drop(void);

#endif
