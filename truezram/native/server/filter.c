/* filter.c - a seccomp filter (interface: filter.h; for users: docs/security.md).
 *
 * The table lists every system call that the server, its helper and its test process make after the
 * device is set up: our own calls, and those that glibc and musl make for us, in the variants of
 * either CPU and of older and newer versions. A call that is not listed fails with ENOSYS, as on a
 * kernel that does not have it, so that a libc falls back to an older one; one that is listed with
 * another argument fails with EPERM. Both are logged by the kernel ("audit: type=1326"). Nothing is
 * killed: with the server would go what is stored.
 *
 * What io_uring may be asked for is not seen here: see tz_uring_enable.
 *
 * It costs some 40 ns a call: the kernel knows once for all which calls are always allowed, without
 * running the program (from 5.11 on), and SPEC_ALLOW leaves the CPU's mitigations as they were
 * (before 5.16 a filter would have switched speculative store bypass off).
 */
#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

#if defined(__has_feature)
#define TZ_HAS(feature) __has_feature(feature)
#else
#define TZ_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
	TZ_HAS(address_sanitizer) || TZ_HAS(thread_sanitizer) || TZ_HAS(memory_sanitizer)
#define SANITIZED 1	/* they make calls of their own */
#else
#define SANITIZED 0
#endif

/* May be missing from the headers that we build with. (Numbers from 424 on are those of every
 * CPU.) */
#ifndef SYS_futex_wake
#define SYS_futex_wake 454
#define SYS_futex_wait 455
#define SYS_futex_requeue 456
#endif
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif
#define IOCTL_TCGETS 0x5401		/* of both CPUs */
#define IOCTL_TCGETS2 0x802c542au
#define IOCTL_TIOCGWINSZ 0x5413
#define NEW_NAMESPACES 0x7e020000u	/* CLONE_NEWNS, NEWCGROUP, NEWUTS ... NEWNET */
#define WRITE_AND_EXECUTE (PROT_WRITE | PROT_EXEC)

const char tz_self_exe[] = "/proc/self/exe";

#ifdef ARCH

enum test {
	ALWAYS,
	IS,		/* the argument's lower 32 bits are `value` */
	IS_ADDRESS,	/* all 64 are that address */
	LACKS,		/* has none of these bits */
	NOT_ALL		/* has not all of these bits */
};

/* A call is allowed if the test of an argument (0 ... 5) says so. A call's rows follow each other:
 * any of them allows it. */
struct rule {
	uint32_t call;
	uint8_t test, argument;
	uint32_t value;
	const void *address;
};

#define CALL(name) { .call = SYS_##name }

static const struct rule rules[] = {
	/* The queues: requests, waiting, memory for what is stored. */
	CALL(io_uring_enter), CALL(pread64), CALL(pwrite64), CALL(futex), CALL(futex_wait),
	CALL(futex_wake), CALL(futex_requeue), CALL(fallocate), CALL(madvise), CALL(ppoll),
	CALL(fdatasync), CALL(fadvise64), CALL(ftruncate), /* the backing file */
	CALL(nanosleep), CALL(clock_nanosleep), CALL(clock_gettime), CALL(clock_getres),
	CALL(gettimeofday), CALL(sched_yield), CALL(getcpu), CALL(getrusage), CALL(restart_syscall),
	/* A thread's first and last steps: one may be in them when the filter comes. */
	CALL(set_robust_list), CALL(set_tid_address), CALL(rseq), CALL(gettid), CALL(exit),
	CALL(sched_setaffinity), CALL(sched_getaffinity), CALL(capget), CALL(capset),
	{ SYS_prctl, IS, 0, PR_SET_NAME, NULL },
	{ SYS_prctl, IS, 0, PR_SET_IO_FLUSHER, NULL },
	{ SYS_prctl, IS, 0, PR_GET_IO_FLUSHER, NULL },
	/* Memory: heap, codecs' workspaces, locking. Nothing is both written and executed. */
	CALL(brk), CALL(munmap), CALL(mremap), CALL(mlock), CALL(mlock2), CALL(mlockall),
	CALL(msync), CALL(membarrier),
	{ SYS_mmap, NOT_ALL, 2, WRITE_AND_EXECUTE, NULL },
	{ SYS_mprotect, NOT_ALL, 2, WRITE_AND_EXECUTE, NULL },
	/* Files: /proc, /sys, the log, the registry, and its clearing at the end. */
	CALL(openat), CALL(close), CALL(read), CALL(write), CALL(readv), CALL(writev), CALL(lseek),
	CALL(fstat), CALL(newfstatat), CALL(statx), CALL(faccessat), CALL(faccessat2),
	CALL(readlinkat), CALL(getdents64), CALL(fcntl), CALL(flock), CALL(renameat),
	CALL(renameat2), CALL(unlinkat), CALL(sysinfo), CALL(uname), CALL(getrandom),
	{ SYS_umount2, IS, 1, UMOUNT_NOFOLLOW, NULL },
	/* Clients and signals; nbd's socket and netlink. No new socket but a pair for a process of
	 * ours. */
	CALL(accept4), CALL(recvfrom), CALL(recvmsg), CALL(sendto), CALL(sendmsg), CALL(getsockopt),
	CALL(socketpair), CALL(shutdown), CALL(getuid), CALL(geteuid), CALL(getgid), CALL(getegid),
	CALL(getpid), CALL(getppid), CALL(rt_sigaction), CALL(rt_sigprocmask), CALL(rt_sigreturn),
	CALL(wait4), CALL(waitid), CALL(timer_settime),
	/* Freed swap slots; and stdio asks whether it writes to a terminal. */
	CALL(perf_event_open),
	{ SYS_bpf, IS, 0, BPF_MAP_CREATE, NULL },
	{ SYS_bpf, IS, 0, BPF_PROG_LOAD, NULL },
	{ SYS_ioctl, IS, 1, PERF_EVENT_IOC_SET_BPF, NULL },
	{ SYS_ioctl, IS, 1, PERF_EVENT_IOC_ENABLE, NULL },
	{ SYS_ioctl, IS, 1, IOCTL_TCGETS, NULL },
	{ SYS_ioctl, IS, 1, IOCTL_TCGETS2, NULL },
	{ SYS_ioctl, IS, 1, IOCTL_TIOCGWINSZ, NULL },
	/* Starting the helper and the test process: this program, and in no new namespace. */
	{ SYS_clone, LACKS, 0, NEW_NAMESPACES, NULL },
	CALL(clone3),	/* but see install_silent */
	{ SYS_execve, IS_ADDRESS, 0, 0, tz_self_exe },
	CALL(dup), CALL(dup3), CALL(pipe2),
	/* Limits are read, not set. */
	{ SYS_prlimit64, IS_ADDRESS, 2, 0, NULL },
	/* Theirs: swapoff, and a filter of the helper's own, which can only take away. */
	CALL(swapoff), CALL(seccomp),
	/* The end; abort(). */
	CALL(exit_group), CALL(tgkill), CALL(tkill),
#ifdef __x86_64__
	/* What glibc and musl call there for some of the above. */
	CALL(open), CALL(stat), CALL(lstat), CALL(access), CALL(readlink), CALL(poll), CALL(dup2),
	CALL(rename), CALL(unlink), CALL(rmdir), CALL(time), CALL(arch_prctl),
	CALL(getrlimit),
#endif
};

#define ALLOW SECCOMP_RET_ALLOW
#define UNKNOWN (SECCOMP_RET_ERRNO | ENOSYS)
#define REFUSED (SECCOMP_RET_ERRNO | EPERM)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define JUMP(op, k, yes, no) BPF_JUMP(BPF_JMP | (op) | BPF_K, (uint32_t)(k), yes, no)
#define RETURN(k) BPF_STMT(BPF_RET | BPF_K, k)

static void emit(struct sock_filter *out, unsigned *n, struct sock_filter insn)
{
	out[(*n)++] = insn;
}

/* Loads half an argument. Both CPUs are little-endian. */
static void load_argument(struct sock_filter *out, unsigned *n, unsigned argument, unsigned high)
{
	emit(out, n, (struct sock_filter)LOAD(args));
	out[*n - 1].k += argument * 8 + high * 4;
}

/* The test of an argument: the instruction that follows is run if it is true, else passed over. */
static void write_test(struct sock_filter *out, unsigned *n, const struct rule *r)
{
	uint64_t address = (uint64_t)(uintptr_t)r->address;

	if (r->test == IS_ADDRESS) {
		load_argument(out, n, r->argument, 1);
		emit(out, n, (struct sock_filter)JUMP(BPF_JEQ, address >> 32, 0, 3));
	}
	load_argument(out, n, r->argument, 0);
	switch (r->test) {
	case IS_ADDRESS:
		emit(out, n, (struct sock_filter)JUMP(BPF_JEQ, address, 0, 1));
		break;
	case IS:
		emit(out, n, (struct sock_filter)JUMP(BPF_JEQ, r->value, 0, 1));
		break;
	case LACKS:
		emit(out, n, (struct sock_filter)JUMP(BPF_JSET, r->value, 1, 0));
		break;
	default:	/* NOT_ALL */
		emit(out, n, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, r->value));
		emit(out, n, (struct sock_filter)JUMP(BPF_JEQ, r->value, 1, 0));
		break;
	}
}

/* It finds the call's number loaded, and leaves it so. */
static void write_rule(struct sock_filter *out, unsigned *n, const struct rule *r, int is_last)
{
	unsigned first = *n;

	emit(out, n, (struct sock_filter)JUMP(BPF_JEQ, r->call, 0, 0));
	if (r->test != ALWAYS)
		write_test(out, n, r);
	emit(out, n, (struct sock_filter)RETURN(ALLOW));
	if (r->test != ALWAYS && is_last)
		emit(out, n, (struct sock_filter)RETURN(REFUSED));
	else if (r->test != ALWAYS)
		emit(out, n, (struct sock_filter)LOAD(nr));
	out[first].jf = (uint8_t)(*n - first - 1);
}

unsigned tz_filter_write(struct sock_filter *out)
{
	unsigned n = 0, rows = sizeof rules / sizeof *rules;

	emit(out, &n, (struct sock_filter)LOAD(arch));
	emit(out, &n, (struct sock_filter)JUMP(BPF_JEQ, ARCH, 1, 0));
	emit(out, &n, (struct sock_filter)RETURN(UNKNOWN));
	emit(out, &n, (struct sock_filter)LOAD(nr));
	for (unsigned i = 0; i < rows; i++)
		write_rule(out, &n, &rules[i],
			i + 1 == rows || rules[i + 1].call != rules[i].call);
	emit(out, &n, (struct sock_filter)RETURN(UNKNOWN));
	return n;
}

static int install(struct sock_filter *code, unsigned n, unsigned long flags)
{
	struct sock_fprog program = { .len = (unsigned short)n, .filter = code };
	long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		flags | SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);

	/* A positive answer is a thread that has a filter of its own. */
	return rc < 0 ? -errno : rc ? -EBUSY : 0;
}

/* glibc tries clone3 first, whose flags no filter can see: it is to take clone. That happens each
 * time, and is not to be logged: so a filter of its own refuses it, and the other does not. */
static int install_silent(void)
{
	struct sock_filter code[] = {
		LOAD(arch),
		JUMP(BPF_JEQ, ARCH, 0, 3),
		LOAD(nr),
		JUMP(BPF_JEQ, SYS_clone3, 0, 1),
		RETURN(UNKNOWN),
		RETURN(ALLOW),
	};

	return install(code, sizeof code / sizeof *code, 0);
}

int tz_filter_install(char *why, size_t why_size)
{
	static struct sock_filter code[TZ_FILTER_MAX];
	int rc;

	if (SANITIZED) {
		snprintf(why, why_size, "this program is built with a sanitizer");
		return -ENOTSUP;
	}
	rc = install_silent();
	if (rc == 0)
		rc = install(code, tz_filter_write(code), SECCOMP_FILTER_FLAG_LOG);
	if (rc < 0)
		snprintf(why, why_size, "the kernel refuses it: %s", strerror(-rc));
	return rc;
}

#else

unsigned tz_filter_write(struct sock_filter *out)
{
	(void)out;
	return 0;
}

int tz_filter_install(char *why, size_t why_size)
{
	snprintf(why, why_size, "there is no table of system calls for this CPU");
	return -ENOTSUP;
}

#endif
