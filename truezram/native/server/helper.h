/* helper.h - a small process next to the server, for work that may block or be killed: swapoff. */
#ifndef TZ_HELPER_H
#define TZ_HELPER_H

#include <sys/types.h>

#define TZ_HELPER_FD 3		/* where the helper finds its end of the socket pair */

struct tz_helper {
	pid_t pid;		/* 0: none runs */
	int fd;			/* our end of the socket pair, non-blocking; -1: none */
	int busy;		/* a swapoff is under way */
};

/* The helper's life: `truezramd --helper`. Returns its exit code. */
int tz_helper_main(void);

/* For the processes that the server starts: the first thing that one does, and how one is started:
 * this program with `option`, with nothing open but its end of a socket pair, TZ_HELPER_FD. Our
 * end, non-blocking, or negative errno. */
void tz_helper_be_ordinary(const char *process);
/* The contrary: last in line for the OOM killer. With such a process what is stored would be
 * lost. */
void tz_protect_from_oom(void);
int tz_helper_spawn(char *option, pid_t *pid);

/* One message, and with it a descriptor (-1: none). 0 when all of it went out, else -1. */
int tz_send_with_fd(int socket, const void *data, size_t size, int fd, int flags);

/* Starts one where none runs. 0 or negative errno. */
int tz_helper_start(struct tz_helper *h);
/* Asks for swapoff of `path`; h->fd becomes readable when it is done. 0 or negative errno. */
int tz_helper_swapoff(struct tz_helper *h, const char *path);
/* After h->fd became readable: 0 with *result (0, or the errno of swapoff), -EAGAIN when there is
 * nothing yet, or -EPIPE: the helper is dead, and h is as if none had been started. */
int tz_helper_result(struct tz_helper *h, int *result);
/* Closes our end, upon which the helper ends once it is done. */
void tz_helper_close(struct tz_helper *h);

#endif
