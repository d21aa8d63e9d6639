/* thread.c - starts the store's own threads (interface: thread.h). */
#include "thread.h"

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
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

uint64_t tz_thread_keep = ~TZ_THREAD_CAPABILITIES;

void tz_thread_drop(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, data) < 0)
		return;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].permitted &= (uint32_t)(tz_thread_keep >> (32 * i));
		data[i].effective &= data[i].permitted;
		data[i].inheritable &= data[i].permitted;
	}
	syscall(SYS_capset, &head, data);	/* to have less is always allowed */
}

int tz_thread_begin(const char *name)
{
	int flusher;

	prctl(PR_SET_NAME, name);
	/* Without CAP_SYS_RESOURCE it fails, which an ordinary user's device can live with. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1;
	tz_thread_drop();
	return flusher;
}

int tz_thread_flusher(int on)
{
	return prctl(PR_SET_IO_FLUSHER, on, 0, 0, 0);
}

void tz_thread_urgent(int on)
{
	struct sched_param param = { .sched_priority = on ? 1 : 0 };

	if (on)
		tz_thread_flusher(1);
	/* Threads that it starts are ordinary ones. */
	sched_setscheduler(0, on ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER, &param);
}
