/* lock.h - the one lock of the data path: a futex word held for tens of nanoseconds around a list
 * operation.
 *
 * No allocation, no kernel state, works from any thread; the kernel is entered only under
 * contention. Ordinary mutexes would do as well but cost 40 bytes each where a size class has 64 in
 * all.
 */
#ifndef TZ_LOCK_H
#define TZ_LOCK_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef _Atomic uint32_t tz_lock;	/* 0 free, 1 held, 2 held and waited for */

static inline long tz_futex(_Atomic uint32_t *word, int op, uint32_t value,
	const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

static inline void tz_lock_take(tz_lock *lock)
{
	uint32_t seen = 0;

	if (atomic_compare_exchange_strong_explicit(lock, &seen, 1, memory_order_acquire,
	    memory_order_relaxed))
		return;
	for (int spin = 0; spin < 100; spin++) {
		seen = 0;
		if (atomic_load_explicit(lock, memory_order_relaxed) == 0 &&
		    atomic_compare_exchange_weak_explicit(lock, &seen, 1, memory_order_acquire,
		    memory_order_relaxed))
			return;
#if defined(__x86_64__)
		__builtin_ia32_pause();
#endif
	}
	while (atomic_exchange_explicit(lock, 2, memory_order_acquire) != 0)
		tz_futex(lock, FUTEX_WAIT_PRIVATE, 2, NULL);
}

static inline void tz_lock_drop(tz_lock *lock)
{
	if (atomic_exchange_explicit(lock, 0, memory_order_release) == 2)
		tz_futex(lock, FUTEX_WAKE_PRIVATE, 1, NULL);
}

#endif
