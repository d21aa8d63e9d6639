/* privileges.c - gives up capabilities (interface: privileges.h; for users: docs/security.md).
 *
 * Capabilities belong to threads. So the main thread gives up nearly all of them before it starts
 * any, and what a thread needs as it starts (TZ_THREAD_CAPABILITIES) each gives up itself. The
 * bounding set goes at once: what the server starts (helper.c) has no more than what is kept. An
 * ordinary user's server has none to begin with.
 */
#include "privileges.h"
#include "locked.h"
#include "registry.h"
#include "thread.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif
#define ALL_CAPABILITIES 64u	/* the kernel has 41 */

static const struct kept {
	unsigned capability;
	int only_if_limited;		/* RLIMIT_MEMLOCK could not be lifted */
} kept[] = {
	/* ublk's and nbd's control commands (stop, delete); swapoff by a new helper; unmounting the
	 * arenas' tmpfs; freed swap slots: BPF, kprobes, and where the test process's pages are. */
	{ CAP_SYS_ADMIN, 0 },
	/* To find out whether the device is in use: a swap file, or what is below a loop device,
	 * may be in a folder of another user's. Not seen, it would be taken for unused. */
	{ CAP_DAC_READ_SEARCH, 0 },
	/* What a change of algorithm maps has to be locked. */
	{ CAP_IPC_LOCK, 1 },
};

static uint64_t kept_for_life(void)
{
	int limited = tz_locking_is_limited();
	uint64_t set = 0;

	for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++)
		if (!kept[i].only_if_limited || limited)
			set |= 1ull << kept[i].capability;
	return set;
}

static void keep_only(uint64_t set)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, data) == 0) {
		for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
			data[i].permitted &= (uint32_t)(set >> (32 * i));
			data[i].effective = data[i].permitted;
			data[i].inheritable = 0;
		}
		if (syscall(SYS_capset, &head, data) == 0)
			return;
	}
	tz_log("cannot give up capabilities: %s", strerror(errno));
}

void tz_privileges_reduce(void)
{
	uint64_t set = kept_for_life();

	tz_thread_keep = set;
	/* Refused to those who have no capabilities to lose; unknown to older kernels. */
	for (unsigned i = 0; i < ALL_CAPABILITIES; i++)
		if (!(set >> i & 1))
			prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	keep_only(set | TZ_THREAD_CAPABILITIES);
	/* No program that is started from here has more than we have; also what an ordinary user's
	 * server needs for a filter of system calls. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		tz_log("cannot rule out new privileges: %s", strerror(errno));
}

void tz_privileges_of_threads(void)
{
	tz_thread_keep = kept_for_life();
}

void tz_privileges_end(void)
{
	tz_thread_drop();
}
