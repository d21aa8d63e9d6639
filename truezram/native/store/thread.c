/* thread.c - starts the store's own threads (interface: thread.h). */
#include "thread.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

int tz_thread_start(pthread_t *thread, size_t stack, void *(*run)(void *), void *arg,
	const char *what, char *why, size_t why_size)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack);
	int rc = -pthread_create(thread, &attr, run, arg);
	pthread_attr_destroy(&attr);
	if (rc < 0)
		snprintf(why, why_size, "cannot start %s: %s", what, strerror(-rc));
	return rc;
}

void tz_thread_begin(const char *name)
{
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}
