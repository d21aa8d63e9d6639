/* test_filter.c - the server's filter of system calls: what it allows, by running it as the kernel
 * would, and what the kernel then does, for the calling thread, one that was there before, and a
 * program that is started. */
#include "harness.h"
#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define ALLOWED 0
#define X32_BIT 0x40000000u

static struct sock_filter code[TZ_FILTER_MAX];
static unsigned length;

/* ---- the program, run as the kernel does ---- */

static uint32_t run(const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (unsigned i = 0; i < length; i++) {
		const struct sock_filter *f = &code[i];
		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			CHECK(f->k % 4 == 0 && f->k < sizeof *data, "loads from %u", f->k);
			memcpy(&a, (const char *)data + f->k, 4);
			break;
		case BPF_ALU | BPF_AND | BPF_K: a &= f->k; break;
		case BPF_JMP | BPF_JEQ | BPF_K: i += a == f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JSET | BPF_K: i += a & f->k ? f->jt : f->jf; break;
		case BPF_RET | BPF_K: return f->k;
		default: CHECK(0, "instruction %u: %#x", i, f->code);
		}
	}
	CHECK(0, "it runs off its end");
	return 0;
}

/* 0, or the errno that the call ends with. */
static int verdict(long call, uint64_t a0, uint64_t a1, uint64_t a2)
{
	uint32_t action = run(&(struct seccomp_data){ .nr = (int)call, .arch = ARCH,
		.args = { a0, a1, a2 } });

	if (action == SECCOMP_RET_ALLOW)
		return ALLOWED;
	CHECK((action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO, "call %ld: %#x", call,
		action);
	return (int)(action & SECCOMP_RET_DATA);
}

static const struct expected {
	long call;
	uint64_t a0, a1, a2;
	int verdict;
} expected[] = {
	/* on the I/O path, and what libcs do behind our back */
	{ SYS_io_uring_enter, 0, 0, 0, ALLOWED }, { SYS_pread64, 0, 0, 0, ALLOWED },
	{ SYS_pwrite64, 0, 0, 0, ALLOWED }, { SYS_futex, 0, 0, 0, ALLOWED },
	{ SYS_fallocate, 0, 0, 0, ALLOWED }, { SYS_nanosleep, 0, 0, 0, ALLOWED },
	{ SYS_clock_nanosleep, 0, 0, 0, ALLOWED }, { SYS_madvise, 0, 0, 0, ALLOWED },
	{ SYS_restart_syscall, 0, 0, 0, ALLOWED }, { SYS_rt_sigreturn, 0, 0, 0, ALLOWED },
	{ SYS_exit_group, 0, 0, 0, ALLOWED }, { SYS_exit, 0, 0, 0, ALLOWED },
	{ SYS_mremap, 0, 0, 0, ALLOWED }, { SYS_sched_yield, 0, 0, 0, ALLOWED },
	{ SYS_swapoff, 0, 0, 0, ALLOWED }, { SYS_seccomp, 0, 0, 0, ALLOWED },
	/* by argument */
	{ SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, ALLOWED },
	{ SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, ALLOWED },
	{ SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, EPERM },
	{ SYS_mprotect, 0, 4096, PROT_WRITE | PROT_EXEC, EPERM },
	{ SYS_mprotect, 0, 4096, PROT_NONE, ALLOWED },
	{ SYS_prctl, PR_SET_NAME, 0, 0, ALLOWED },
	{ SYS_prctl, PR_SET_DUMPABLE, 1, 0, EPERM }, { SYS_prctl, PR_SET_MM, 0, 0, EPERM },
	{ SYS_ioctl, 0, TIOCSTI, 0, EPERM }, { SYS_ioctl, 0, 0x5401, 0, ALLOWED },
	{ SYS_clone, SIGCHLD | CLONE_VM | CLONE_VFORK, 0, 0, ALLOWED },
	{ SYS_clone, SIGCHLD | CLONE_NEWUSER, 0, 0, EPERM },
	{ SYS_clone, SIGCHLD | CLONE_NEWNS, 0, 0, EPERM },
	{ SYS_execve, 0, 0, 0, EPERM }, { SYS_execve, 1ull << 32, 0, 0, EPERM },
	{ SYS_prlimit64, 0, RLIMIT_STACK, 0, ALLOWED },
	{ SYS_prlimit64, 0, RLIMIT_STACK, 4096, EPERM },
	{ SYS_prlimit64, 0, RLIMIT_STACK, 1ull << 32, EPERM },
	{ SYS_bpf, BPF_PROG_LOAD, 0, 0, ALLOWED }, { SYS_bpf, BPF_PROG_ATTACH, 0, 0, EPERM },
	{ SYS_umount2, 0, UMOUNT_NOFOLLOW, 0, ALLOWED }, { SYS_umount2, 0, MNT_FORCE, 0, EPERM },
	/* never */
	{ SYS_execveat, 0, 0, 0, ENOSYS }, { SYS_socket, AF_INET, SOCK_STREAM, 0, ENOSYS },
	{ SYS_connect, 0, 0, 0, ENOSYS },
	{ SYS_bind, 0, 0, 0, ENOSYS }, { SYS_ptrace, 0, 0, 0, ENOSYS },
	{ SYS_process_vm_readv, 0, 0, 0, ENOSYS }, { SYS_process_vm_writev, 0, 0, 0, ENOSYS },
	{ SYS_mount, 0, 0, 0, ENOSYS }, { SYS_setns, 0, 0, 0, ENOSYS },
	{ SYS_unshare, 0, 0, 0, ENOSYS }, { SYS_pivot_root, 0, 0, 0, ENOSYS },
	{ SYS_chroot, 0, 0, 0, ENOSYS }, { SYS_init_module, 0, 0, 0, ENOSYS },
	{ SYS_finit_module, 0, 0, 0, ENOSYS }, { SYS_kexec_load, 0, 0, 0, ENOSYS },
	{ SYS_reboot, 0, 0, 0, ENOSYS }, { SYS_swapon, 0, 0, 0, ENOSYS },
	{ SYS_kill, 0, 0, 0, ENOSYS }, { SYS_setuid, 0, 0, 0, ENOSYS },
	{ SYS_io_uring_setup, 0, 0, 0, ENOSYS }, { SYS_io_uring_register, 0, 0, 0, ENOSYS },
	{ SYS_linkat, 0, 0, 0, ENOSYS }, { SYS_symlinkat, 0, 0, 0, ENOSYS },
	{ SYS_mknodat, 0, 0, 0, ENOSYS }, { SYS_fchmodat, 0, 0, 0, ENOSYS },
	{ SYS_fchownat, 0, 0, 0, ENOSYS },
	{ -1, 0, 0, 0, ENOSYS }, { 100000, 0, 0, 0, ENOSYS },
	{ SYS_read | X32_BIT, 0, 0, 0, ENOSYS },
};

static void test_the_program(void)
{
	for (unsigned i = 0; i < sizeof expected / sizeof *expected; i++) {
		const struct expected *e = &expected[i];
		int got = verdict(e->call, e->a0, e->a1, e->a2);
		CHECK(got == e->verdict, "call %ld (%#llx, %#llx, %#llx): %d, not %d", e->call,
			(unsigned long long)e->a0, (unsigned long long)e->a1,
			(unsigned long long)e->a2, got, e->verdict);
	}
	uint64_t self = (uint64_t)(uintptr_t)tz_self_exe;
	CHECK(verdict(SYS_execve, self, 0, 0) == ALLOWED, "this program cannot be started");
	CHECK(verdict(SYS_execve, self ^ 1ull << 40, 0, 0) == EPERM, "another path is executed");
	/* 32-bit calls have other numbers. */
	struct seccomp_data i386 = { .nr = 3, .arch = AUDIT_ARCH_I386 };
	CHECK(run(&i386) == (SECCOMP_RET_ERRNO | ENOSYS), "a call of another architecture");
}

/* ---- the kernel ---- */

static int to_thread[2], from_thread[2];

static int refused(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0) < 0 && errno == ENOSYS;
}

static void *earlier_thread(void *arg)
{
	char byte;

	(void)arg;
	CHECK(!refused(), "refused before there is a filter");
	CHECK(write(from_thread[1], "", 1) == 1, "%s", strerror(errno));
	CHECK(read(to_thread[0], &byte, 1) == 1, "%s", strerror(errno));
	CHECK(refused(), "a thread that was there before is not filtered");
	return NULL;
}

static void *later_thread(void *arg)
{
	CHECK(refused(), "a new thread is not filtered");
	return arg;
}

static int start(const char *path, char *const *argv)
{
	char *env[] = { NULL };
	pid_t pid;
	int rc = posix_spawn(&pid, path, NULL, NULL, argv, env), status;

	if (rc)
		return -rc;
	CHECK(waitpid(pid, &status, 0) == pid, "%s", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int in_a_child(void)
{
	char name[] = "test_filter", option[] = "--started";
	char *argv[] = { name, option, NULL };
	char why[200], byte;
	pthread_t thread;

	CHECK(pipe(to_thread) == 0 && pipe(from_thread) == 0, "%s", strerror(errno));
	CHECK(pthread_create(&thread, NULL, earlier_thread, NULL) == 0, "no thread");
	CHECK(read(from_thread[0], &byte, 1) == 1, "%s", strerror(errno));
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	int rc = tz_filter_install(why, sizeof why);
	if (rc < 0) {
		fprintf(stderr, "not installed: %s\n", why);
		exit(rc == -ENOTSUP || rc == -EINVAL || rc == -ENOSYS ? SKIP : 1);
	}
	CHECK(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == -1 && errno == EPERM, "prctl is not filtered");
	CHECK(refused(), "a socket is made");
	CHECK(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS, "clone3: %s", strerror(errno));
	CHECK(write(to_thread[1], "", 1) == 1, "%s", strerror(errno));
	pthread_join(thread, NULL);
	/* What it is for goes on: threads, memory, files, a pair of sockets, programs. */
	CHECK(pthread_create(&thread, NULL, later_thread, NULL) == 0, "no thread");
	pthread_join(thread, NULL);
	free(malloc(64 << 20));
	FILE *f = fopen("/proc/self/status", "re");
	char line[200];
	int seccomp = -1;
	while (f && fgets(line, sizeof line, f))
		sscanf(line, "Seccomp: %d", &seccomp);
	CHECK(f && seccomp == 2, "/proc/self/status has %d", seccomp);
	fclose(f);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, to_thread) == 0, "%s", strerror(errno));
	CHECK(start(tz_self_exe, argv) == 7, "this program is not started");
	CHECK(start("/bin/true", argv) == -EPERM, "another program is started");
	return 0;
}

int main(int argc, char **argv)
{
	int status;

	if (argc == 2 && !strcmp(argv[1], "--started"))
		return refused() ? 7 : 1;	/* filtered as well */
	length = tz_filter_write(code);
	if (!length) {
		fprintf(stderr, "there is no filter for this CPU\n");
		return SKIP;
	}
	CHECK(length <= TZ_FILTER_MAX, "%u instructions", length);
	test_the_program();
	if (getenv("TRUEZRAM_TEST_EMULATED"))
		return 0;	/* the emulator's system calls are others */
	pid_t pid = fork();
	if (pid == 0)
		_exit(in_a_child());
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "the child: %#x", status);
	return WEXITSTATUS(status);
}
