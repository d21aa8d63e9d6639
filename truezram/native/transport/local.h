/* local.h - the `local` transport: the same store and queue threads behind a ring in shared memory,
 * for machines without ublk or root. Real pages in, real pages out; no node in /dev.
 *
 * The ring lives in a memfd that truezramd makes and hands out over the control socket
 * (TZ_OP_ATTACH). A client claims a free slot of a queue by compare-and-swap, copies its request
 * and data in, marks it submitted and wakes the queue with a futex; the queue thread copies request
 * and data out (a client that scribbles can only harm its own request), serves it, and wakes the
 * client. Blocking calls; any number of threads and processes may use one ring.
 */
#ifndef TZ_LOCAL_H
#define TZ_LOCAL_H

#include <stdint.h>

enum tz_local_op { TZ_LOCAL_READ = 0, TZ_LOCAL_WRITE = 1, TZ_LOCAL_DISCARD = 2,
	TZ_LOCAL_FLUSH = 3 };

struct tz_local_client;

/* Maps the ring behind `fd` (which the caller may close afterwards). NULL with *err = -errno;
 * -EPERM: it is not sealed against shrinking, as a server's is. */
struct tz_local_client *tz_local_attach(int fd, int *err);
void tz_local_detach(struct tz_local_client *client);

uint64_t tz_local_pages(const struct tz_local_client *client);	/* disksize / 4096 */
/* pages in the largest request */
unsigned tz_local_max_pages(const struct tz_local_client *client);

/* One request over nr_pages consecutive pages from `page` on (READ, WRITE: at most
 * tz_local_max_pages; DISCARD: any). Blocks until served. 0 or negative errno: -EIO, -ENOSPC,
 * -EINVAL (out of range), -ETIMEDOUT (a write may still take place), -ENODEV (server gone). */
int tz_local_io(struct tz_local_client *client, unsigned op, uint64_t page, unsigned nr_pages,
	void *data, unsigned timeout_ms);

#endif
