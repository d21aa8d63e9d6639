/* privileges.h - what the server gives up for good: capabilities, and the gain of new ones. */
#ifndef TZ_PRIVILEGES_H
#define TZ_PRIVILEGES_H

/* Before any thread and any process of ours: gives up all capabilities but those that are kept for
 * life (privileges.c has the table) and those that threads need as they start (thread.h: they give
 * them up themselves), also for every program that we start. */
void tz_privileges_reduce(void);
/* What threads are to keep, when the calling one gives up what it does not keep only after they
 * have started. */
void tz_privileges_of_threads(void);
/* From a thread of the server: gives up what remained for its start. */
void tz_privileges_end(void);

#endif
