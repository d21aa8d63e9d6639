/* pressure.c - whether memory is short, so that idle pages had better be made smaller sooner
 * (interface: cold.h; what follows from it: policy.c).
 *
 * Either of two says so. The device uses 90 per cent of its mem_limit or more, until it is below 85
 * again. Or some process waited for memory for 10 per cent of the last ten seconds or more, as the
 * kernel's pressure stall information says, until that is below 5. A kernel without it (CONFIG_PSI,
 * psi=1) says nothing.
 *
 * The file is opened by the control thread, and read once: from then on reading it takes no memory.
 */
#include "cold.h"
#include "store_impl.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_BEGINS 90u		/* per cent of mem_limit */
#define LIMIT_ENDS 85u
#define MEMORY_BEGINS 10.0		/* per cent of ten seconds */
#define MEMORY_ENDS 5.0

/* "some avg10=1.23 avg60=..." 0: that cannot be read. */
static double some_avg10(int fd)
{
	static const char head[] = "some avg10=";
	char text[128];
	ssize_t n = fd >= 0 ? pread(fd, text, sizeof text - 1, 0) : -1;

	if (n < (ssize_t)sizeof head)
		return 0;
	text[n] = 0;
	return strncmp(text, head, sizeof head - 1) ? 0 : strtod(text + sizeof head - 1, NULL);
}

void tz_pressure_open(struct tz_store *s)
{
	_Atomic int *to = &s->policing.psi_fd;
	int fd;

	if (atomic_load(to) != TZ_PSI_NOT_OPENED)
		return;
	fd = open("/proc/pressure/memory", O_RDONLY | O_CLOEXEC);
	some_avg10(fd);
	atomic_store(to, fd);
}

enum tz_pressure tz_pressure_now(const struct tz_store *s, enum tz_pressure before)
{
	uint64_t limit = atomic_load_explicit(&s->reserve.mem_limit, memory_order_relaxed),
		 used = __atomic_load_n(&s->stats->mem_used_total, __ATOMIC_RELAXED);

	if (limit && used >= limit / 100 * (before == TZ_PRESSURE_MEM_LIMIT ? LIMIT_ENDS
									   : LIMIT_BEGINS))
		return TZ_PRESSURE_MEM_LIMIT;
	return some_avg10(atomic_load(&s->policing.psi_fd)) >=
			(before == TZ_PRESSURE_MEMORY ? MEMORY_ENDS : MEMORY_BEGINS)
		? TZ_PRESSURE_MEMORY : TZ_PRESSURE_NONE;
}
