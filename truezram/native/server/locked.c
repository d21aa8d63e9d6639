/* locked.c - locks the process's mappings, and checks that they are (interface: locked.h).
 *
 * Not mlockall: MCL_CURRENT would fill the arena's holes. So mappings are walked. Left out are
 * those of the kernel (rings, BPF maps, vdso), which are always there. Five ranges are locked
 * page by page as they come into use (MLOCK_ONFAULT): the arena, what is known of its segments,
 * what is known of groups, tables of codecs that are not in use, and the control thread's stack.
 * That thread's other memory, which comes and goes, is locked likewise (MCL_FUTURE) unless a
 * limit would make mmap fail then: it must not wait for our own device either, since a server
 * that does cannot die when it is killed, and nobody can take over. The check is about queue
 * threads only, and does not believe what mlock said: RLIMIT_MEMLOCK, too, shows as ENOMEM,
 * which is also the answer for a mapping that has gone meanwhile.
 */
#include "locked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

enum { ARENA, METADATA, GROUPS, TABLES, LAZY };

struct mapping {
	uintptr_t from, to;
	char perms[8], name[128];
};

static void lazy_ranges(const struct tz_store *store, struct tz_range *lazy)
{
	lazy[ARENA] = tz_store_arena(store);
	lazy[METADATA] = tz_store_metadata(store);
	lazy[GROUPS] = tz_store_groups(store);
	lazy[TABLES] = tz_dense_table_range();
}

/* A line that begins a mapping in maps and smaps. */
static int parse(const char *line, struct mapping *m)
{
	unsigned long from, to;

	m->name[0] = 0;
	if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %127[^\n]", &from, &to, m->perms, m->name) < 3)
		return 0;
	m->from = from;
	m->to = to;
	return 1;
}

/* Whether a queue thread can touch it and it could go away. */
static int matters(const struct mapping *m)
{
	static const char *const others[] = { "[vvar", "[vdso]", "[vsyscall]", "[stack]",
		"io_uring", "/dev/ublkc", "bpf-map" };

	for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
		if (strstr(m->name, others[i]))
			return 0;
	return m->perms[0] == 'r';
}

/* ---- locking ---- */

static int by_address(const void *a, const void *b)
{
	uintptr_t x = ((const struct tz_range *)a)->from, y = ((const struct tz_range *)b)->from;

	return x < y ? -1 : x > y;
}

/* Locks from..to but for the lazy ranges in it, which are in order of their addresses. 0 or an
 * errno. */
static int lock_range(uintptr_t from, uintptr_t to, const struct tz_range *lazy)
{
	int err = 0;

	for (unsigned i = 0; i <= LAZY; i++) {
		uintptr_t end = i < LAZY && lazy[i].from < to ? lazy[i].from : to;
		if (end > from && mlock((void *)from, end - from) < 0)
			err = errno;
		if (i < LAZY && lazy[i].to > from)
			from = lazy[i].to;
	}
	return err;
}

/* Whether from..to is still mapped: ENOMEM of mlock is either that it is not, or the limit. */
static int is_mapped(const struct mapping *m)
{
	return msync((void *)m->from, m->to - m->from, MS_ASYNC) == 0;
}

int tz_locking_is_limited(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY;
}

int tz_lock_memory(const struct tz_store *store, char *why, size_t why_size)
{
	struct tz_range lazy[LAZY];
	FILE *f = fopen("/proc/self/maps", "re");
	struct mapping m;
	char line[512];
	int err = 0;

	if (!f) {
		snprintf(why, why_size, "cannot read /proc/self/maps: %s", strerror(errno));
		return -errno;
	}
	lazy_ranges(store, lazy);
	syscall(SYS_mlock2, lazy[TABLES].from, lazy[TABLES].to - lazy[TABLES].from, MLOCK_ONFAULT);
	qsort(lazy, LAZY, sizeof lazy[0], by_address);
	while (fgets(line, sizeof line, f)) {
		if (!parse(line, &m))
			continue;
		if (!strcmp(m.name, "[stack]"))
			syscall(SYS_mlock2, m.from, m.to - m.from, MLOCK_ONFAULT);
		if (!matters(&m))
			continue;
		int rc = lock_range(m.from, m.to, lazy);
		if (rc && !err && (rc != ENOMEM || is_mapped(&m)))
			err = rc;
	}
	fclose(f);
	if (!tz_locking_is_limited())
		mlockall(MCL_FUTURE | MCL_ONFAULT);
	if (err)
		snprintf(why, why_size,
			"cannot lock the server's memory: %s (it needs CAP_IPC_LOCK or a"
			" higher RLIMIT_MEMLOCK)",
			strerror(err));
	return err ? -EPERM : 0;
}

/* ---- checking ---- */

/* What smaps says of a mapping. */
struct residence {
	unsigned long long size, rss;
	int locked;
};

static int is_within(const struct mapping *m, struct tz_range range)
{
	return m->from >= range.from && m->to <= range.to;
}

/* "Locked:" of smaps is a share among processes (of libc's code, say), so it cannot be compared
 * with Rss; the flag "lo" can. */
static int is_kept(const struct mapping *m, const struct residence *r, const struct tz_range *lazy,
	int arena_is_safe)
{
	if (!matters(m) || (arena_is_safe && is_within(m, lazy[ARENA])))
		return 1;
	if (is_within(m, lazy[ARENA]) || is_within(m, lazy[METADATA]) ||
		is_within(m, lazy[GROUPS]) || is_within(m, lazy[TABLES]))
		return r->locked || !r->rss;
	return r->locked && r->rss == r->size;
}

int tz_memory_is_locked(const struct tz_store *store, int arena_is_safe, char *why, size_t why_size)
{
	struct tz_range lazy[LAZY];
	struct mapping m = { .perms = "-" }, next;
	struct residence r = { 0 };
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	int kept = f != NULL;

	lazy_ranges(store, lazy);
	while (kept && fgets(line, sizeof line, f)) {
		if (parse(line, &next)) {
			m = next;
			r = (struct residence){ 0 };
			continue;
		}
		if (sscanf(line, "Size: %llu", &r.size) == 1 ||
		    sscanf(line, "Rss: %llu", &r.rss) == 1 || strncmp(line, "VmFlags:", 8))
			continue;
		r.locked = strstr(line, " lo") != NULL;		/* the last line of a mapping */
		kept = is_kept(&m, &r, lazy, arena_is_safe);
	}
	if (f)
		fclose(f);
	if (!kept)
		snprintf(why, why_size,
			"%lx-%lx %.100s: %llu KiB, %llu resident, %s", (unsigned long)m.from,
			(unsigned long)m.to, m.name, r.size, r.rss,
			r.locked ? "locked" : "not locked");
	return kept;
}
