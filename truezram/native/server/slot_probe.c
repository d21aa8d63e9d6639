/* slot_probe.c - the BPF program that marks freed swap slots (interface: slot_probe.h).
 *
 * No library and no compiler: the program is a table of instructions, and what loads it are the bpf
 * and perf_event_open system calls. It is attached to a function that the kernel calls for each
 * slot or range of slots that it frees, and must not be wrong in either of two ways: a slot that is
 * marked must be free, and must not have been taken again before the function is called. So
 * candidates are functions of which the kernel needs the same: zswap_invalidate drops the
 * compressed copy of a slot (called later, it would drop that of the slot's next page), and the
 * others drop what the swap cache remembers of a slot. In all kernels that have them, their caller,
 * swap_range_free, holds the lock without which no slot is taken: the area's (to 6.12) or the
 * cluster's. What a kernel really does is tested before it is believed (slot_test.c).
 *
 * The program: is it a swap type of ours, and a slot within the area? Then it sets the bits of all
 * slots of the range, a word at a time, and if the collector waits (`armed`), takes that back and
 * sends one record through a ring buffer, which wakes it. The record's content means nothing.
 */
#include "slot_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ELEMENT 4096u			/* bytes of a map element */
#define ELEMENT_SHIFT 15		/* 32768 bits in it */
#define RING_SIZE 4096u
#define WORDS_AT_ONCE 10		/* 512 slots, a cluster, not aligned, and one more */
#define LOG_SIZE 4096

/* Where a function's arguments are in the registers that the program gets, and how a swap entry is
 * laid out: 5 bits of type above 58 of offset. */
#if defined(__x86_64__)
static const int argument_at[] = { 112, 104, 96 };
#elif defined(__aarch64__)
static const int argument_at[] = { 0, 8, 16 };
#else
static const int argument_at[] = { -1, -1, -1 };
#endif
#define TYPE_SHIFT 58

enum arguments {
	ENTRY,			/* swp_entry_t */
	ENTRY_COUNT,		/* swp_entry_t, int */
	TYPE_FIRST_LAST		/* int type, unsigned long, unsigned long */
};

static const struct candidate {
	const char *function;
	enum arguments arguments;
} candidates[] = {
	{ "clear_shadow_from_swap_cache", TYPE_FIRST_LAST },	/* 5.9 to 6.17 */
	{ "zswap_invalidate", ENTRY },			/* 6.8 and later, with CONFIG_ZSWAP */
	{ "__swap_cache_clear_shadow", ENTRY_COUNT },	/* 6.18 and later */
};
#define CANDIDATES (sizeof candidates / sizeof *candidates)

const char *tz_probe_candidate(unsigned i)
{
	return i < CANDIDATES ? candidates[i].function : NULL;
}

/* ---- the program ---- */

enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP };
enum label { NONE, OUT, WAKE, AGAIN, FITS, WHOLE, LABELS };

#define MAX_CODE 96

/* A program as it is written: jumps name labels, which are resolved at the end. */
struct code {
	struct bpf_insn insn[MAX_CODE];
	uint8_t to[MAX_CODE];		/* enum label that a jump goes to */
	unsigned n, at[LABELS];
};

static void emit(struct code *c, int op, int dst, int src, int off, int imm)
{
	c->insn[c->n++] = (struct bpf_insn){ .code = (uint8_t)op, .dst_reg = (uint8_t)dst & 15,
		.src_reg = (uint8_t)src & 15, .off = (int16_t)off, .imm = imm };
}

static void set(struct code *c, int dst, int src)	/* dst = src */
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set_to(struct code *c, int dst, int value)
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

static void alu(struct code *c, int op, int dst, int src)
{
	emit(c, BPF_ALU64 | op | BPF_X, dst, src, 0, 0);
}

static void alu_by(struct code *c, int op, int dst, int value)
{
	emit(c, BPF_ALU64 | op | BPF_K, dst, 0, 0, value);
}

static void load(struct code *c, int dst, int src, int off)
{
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, dst, src, off, 0);
}

static void jump(struct code *c, int op, int dst, int src, enum label to)
{
	c->to[c->n] = (uint8_t)to;
	emit(c, BPF_JMP | op | BPF_X, dst, src, 0, 0);
}

static void jump_by(struct code *c, int op, int dst, int value, enum label to)
{
	c->to[c->n] = (uint8_t)to;
	emit(c, BPF_JMP | op | BPF_K, dst, 0, 0, value);
}

static void label(struct code *c, enum label which)
{
	c->at[which] = c->n;
}

static void map(struct code *c, int dst, int fd)	/* dst = the map; two instructions */
{
	emit(c, BPF_LD | BPF_IMM | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, fd);
	emit(c, 0, 0, 0, 0, 0);
}

/* R0 = element `key` of the map, which is on the stack from then on; without one, the end. */
static void element(struct code *c, int map_fd, int key)
{
	emit(c, BPF_STX | BPF_MEM | BPF_W, FP, key, -4, 0);
	map(c, R1, map_fd);
	set(c, R2, FP);
	alu_by(c, BPF_ADD, R2, -4);
	emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem);
	jump_by(c, BPF_JEQ, R0, 0, OUT);
}

/* R9 = type, R7 = first slot, R8 = how many, from the function's arguments. */
static void arguments(struct code *c, enum arguments how)
{
	if (how == TYPE_FIRST_LAST) {
		load(c, R9, R1, argument_at[0]);
		alu_by(c, BPF_LSH, R9, 32);
		alu_by(c, BPF_RSH, R9, 32);
		load(c, R7, R1, argument_at[1]);
		load(c, R8, R1, argument_at[2]);
		alu(c, BPF_SUB, R8, R7);
		alu_by(c, BPF_ADD, R8, 1);
		return;
	}
	load(c, R7, R1, argument_at[0]);
	set(c, R9, R7);
	alu_by(c, BPF_RSH, R9, TYPE_SHIFT);
	alu_by(c, BPF_LSH, R7, 64 - TYPE_SHIFT);
	alu_by(c, BPF_RSH, R7, 64 - TYPE_SHIFT);
	if (how == ENTRY) {
		set_to(c, R8, 1);
		return;
	}
	load(c, R8, R1, argument_at[1]);
	alu_by(c, BPF_LSH, R8, 32);
	alu_by(c, BPF_RSH, R8, 32);
}

/* Slots of ours only: R7 becomes the first page, R8 is cut to the area. The control page's address
 * goes to the stack at -24. */
static void within_area(struct code *c, int map_fd, uint32_t control_key)
{
	jump_by(c, BPF_JGT, R9, TZ_SWAP_TYPES - 1, OUT);
	set_to(c, R6, (int)control_key);
	element(c, map_fd, R6);
	emit(c, BPF_STX | BPF_MEM | BPF_DW, FP, R0, -24, 0);
	alu_by(c, BPF_LSH, R9, 3);
	alu(c, BPF_ADD, R0, R9);
	load(c, R2, R0, offsetof(struct tz_probe_control, pages));
	jump(c, BPF_JGE, R7, R2, OUT);
	alu(c, BPF_SUB, R2, R7);
	jump(c, BPF_JLE, R8, R2, FITS);
	set(c, R8, R2);
	label(c, FITS);
	jump_by(c, BPF_JEQ, R8, 0, OUT);
	load(c, R1, R0, offsetof(struct tz_probe_control, base));
	alu(c, BPF_ADD, R7, R1);
}

/* Sets the bits of the pages R7 ... R7 + R8 - 1, word by word. */
static void mark(struct code *c, int map_fd)
{
	set_to(c, R6, WORDS_AT_ONCE);
	label(c, AGAIN);
	set(c, R1, R7);			/* bit in the word */
	alu_by(c, BPF_AND, R1, 63);
	set_to(c, R2, 64);		/* bits from there on */
	alu(c, BPF_SUB, R2, R1);
	jump(c, BPF_JLE, R2, R8, WHOLE);
	set(c, R2, R8);
	label(c, WHOLE);
	emit(c, BPF_STX | BPF_MEM | BPF_DW, FP, R2, -16, 0);
	set_to(c, R3, 64);		/* R9 = as many ones, shifted there */
	alu(c, BPF_SUB, R3, R2);
	set_to(c, R9, -1);
	alu(c, BPF_RSH, R9, R3);
	alu(c, BPF_LSH, R9, R1);
	set(c, R1, R7);
	alu_by(c, BPF_RSH, R1, ELEMENT_SHIFT);
	element(c, map_fd, R1);
	set(c, R1, R7);
	alu_by(c, BPF_RSH, R1, 6);
	alu_by(c, BPF_AND, R1, ELEMENT / 8 - 1);
	alu_by(c, BPF_LSH, R1, 3);
	alu(c, BPF_ADD, R0, R1);
	/* With FETCH it is a full barrier: `armed` is read after it. */
	emit(c, BPF_STX | BPF_ATOMIC | BPF_DW, R0, R9, 0, BPF_OR | BPF_FETCH);
	load(c, R2, FP, -16);
	alu(c, BPF_ADD, R7, R2);
	alu(c, BPF_SUB, R8, R2);
	jump_by(c, BPF_JEQ, R8, 0, WAKE);
	alu_by(c, BPF_SUB, R6, 1);
	jump_by(c, BPF_JNE, R6, 0, AGAIN);
	label(c, WAKE);
}

/* Wakes the collector, if it waits: once. */
static void wake(struct code *c, int ring_fd)
{
	load(c, R6, FP, -24);
	load(c, R1, R6, offsetof(struct tz_probe_control, armed));
	jump_by(c, BPF_JEQ, R1, 0, OUT);
	set_to(c, R1, 0);
	emit(c, BPF_STX | BPF_ATOMIC | BPF_DW, R6, R1,
		offsetof(struct tz_probe_control, armed), BPF_XCHG);
	jump_by(c, BPF_JEQ, R1, 0, OUT);
	map(c, R1, ring_fd);
	set(c, R2, FP);
	alu_by(c, BPF_ADD, R2, -16);
	set_to(c, R3, 8);
	set_to(c, R4, 0);
	emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_output);
	label(c, OUT);
	set_to(c, R0, 0);
	emit(c, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static void write_program(struct code *c, const struct tz_probe *p, enum arguments how)
{
	*c = (struct code){ .n = 0 };
	arguments(c, how);
	within_area(c, p->map_fd, (uint32_t)(p->map_size / ELEMENT) - 1);
	mark(c, p->map_fd);
	wake(c, p->ring_fd);
	for (unsigned i = 0; i < c->n; i++)
		if (c->to[i] != NONE)
			c->insn[i].off = (int16_t)((int)c->at[c->to[i]] - (int)i - 1);
}

/* ---- system calls ---- */

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	int rc = (int)syscall(SYS_bpf, cmd, attr, sizeof *attr);

	return rc < 0 ? -errno : rc;
}

static int make_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t entries,
	uint32_t flags)
{
	union bpf_attr a;

	memset(&a, 0, sizeof a);
	a.map_type = type;
	a.key_size = key;
	a.value_size = value;
	a.max_entries = entries;
	a.map_flags = flags;
	return bpf(BPF_MAP_CREATE, &a);
}

static int load_program(const struct code *c, char *why, size_t why_size)
{
	static char log[LOG_SIZE];	/* of the verifier; one thread comes here */
	union bpf_attr a;

	memset(&a, 0, sizeof a);
	log[0] = 0;
	a.prog_type = BPF_PROG_TYPE_KPROBE;
	a.insns = (uint64_t)(uintptr_t)c->insn;
	a.insn_cnt = c->n;
	a.license = (uint64_t)(uintptr_t)"Dual MIT/GPL";
	int fd = bpf(BPF_PROG_LOAD, &a);
	if (fd < 0 && fd != -EPERM) {
		a.log_buf = (uint64_t)(uintptr_t)log;
		a.log_size = sizeof log;
		a.log_level = 1;
		fd = bpf(BPF_PROG_LOAD, &a);
	}
	if (fd < 0) {
		/* The last line but the summary says what it did not like. */
		log[strcspn(log, "\n")] = 0;
		snprintf(why, why_size, "the kernel refuses the BPF program: %s%s%.40s",
			strerror(-fd), log[0] ? ": " : "", log);
	}
	return fd;
}

/* The type of kprobe events, or negative errno. */
static int kprobe_type(void)
{
	FILE *f = fopen("/sys/bus/event_source/devices/kprobe/type", "re");
	int type, n;

	if (!f)
		return -errno;
	n = fscanf(f, "%d", &type);
	fclose(f);
	return n == 1 ? type : -EIO;
}

/* A kprobe of the function, as an event. It is for all CPUs whichever it is opened on, which must
 * be online. */
static int open_kprobe(int type, const char *function)
{
	struct perf_event_attr a;
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	int fd = -ENODEV;

	memset(&a, 0, sizeof a);
	a.type = (uint32_t)type;
	a.size = sizeof a;
	a.config1 = (uint64_t)(uintptr_t)function;
	a.sample_period = 1;
	a.wakeup_events = 1;
	for (int cpu = 0; cpu < cpus && fd == -ENODEV; cpu++) {
		fd = (int)syscall(SYS_perf_event_open, &a, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
		fd = fd < 0 ? -errno : fd;
	}
	return fd;
}

static void *map_page(int fd, int prot, off_t at)
{
	void *page = mmap(NULL, RING_SIZE, prot, MAP_SHARED, fd, at);

	return page == MAP_FAILED ? NULL : page;
}

static int refused(int err, const char *what, char *why, size_t why_size)
{
	snprintf(why, why_size, "the kernel has no %s, or refuses it: %s", what, strerror(-err));
	return err;
}

int tz_probe_open(struct tz_probe *p, uint64_t nr_pages, char *why, size_t why_size)
{
	uint32_t elements = (uint32_t)((nr_pages + (1u << ELEMENT_SHIFT) - 1) >> ELEMENT_SHIFT) + 1;

	*p = (struct tz_probe){ .map_fd = -1, .ring_fd = -1, .program_fd = -1, .event_fd = -1 };
	if (argument_at[0] < 0) {
		snprintf(why, why_size, "it is not known how this CPU passes arguments");
		return -ENOTSUP;
	}
	if (sysconf(_SC_PAGESIZE) != 4096) {
		snprintf(why, why_size, "the kernel's pages are not of 4096 bytes");
		return -ENOTSUP;
	}
	p->map_fd = make_map(BPF_MAP_TYPE_ARRAY, 4, ELEMENT, elements, BPF_F_MMAPABLE);
	if (p->map_fd < 0)
		return refused(p->map_fd, "BPF", why, why_size);
	p->ring_fd = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, RING_SIZE, 0);
	if (p->ring_fd < 0) {
		int err = p->ring_fd;
		tz_probe_close(p);
		return refused(err, "BPF ring buffers (Linux 5.8)", why, why_size);
	}
	p->map_size = (size_t)elements * ELEMENT;
	p->bits = mmap(NULL, p->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		p->map_fd, 0);
	if (p->bits == MAP_FAILED)
		p->bits = NULL;
	p->consumed = map_page(p->ring_fd, PROT_READ | PROT_WRITE, 0);
	p->produced = map_page(p->ring_fd, PROT_READ, RING_SIZE);
	if (!p->bits || !p->consumed || !p->produced) {
		int err = -errno;
		tz_probe_close(p);
		return refused(err, "maps that a process can map", why, why_size);
	}
	p->control = (struct tz_probe_control *)(void *)((char *)p->bits + p->map_size - ELEMENT);
	return 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void tz_probe_close(struct tz_probe *p)
{
	tz_probe_detach(p);
	if (p->bits)
		munmap(p->bits, p->map_size);
	if (p->consumed)
		munmap(p->consumed, RING_SIZE);
	if (p->produced)
		munmap(p->produced, RING_SIZE);
	p->bits = p->consumed = p->produced = NULL;
	p->control = NULL;
	close_fd(&p->map_fd);
	close_fd(&p->ring_fd);
}

int tz_probe_attach(struct tz_probe *p, unsigned i, char *why, size_t why_size)
{
	struct code code;
	int type = kprobe_type();

	if (type < 0) {
		snprintf(why, why_size, "the kernel has no kprobes (CONFIG_KPROBE_EVENTS): %s",
			strerror(-type));
		return type == -ENOENT ? -ENOTSUP : type;
	}
	p->event_fd = open_kprobe(type, candidates[i].function);
	if (p->event_fd < 0) {
		if (p->event_fd == -ENOENT)
			return -ENOENT;
		snprintf(why, why_size, "the kernel refuses a kprobe of %s: %s",
			candidates[i].function, strerror(-p->event_fd));
		return p->event_fd;
	}
	write_program(&code, p, candidates[i].arguments);
	int rc = p->program_fd = load_program(&code, why, why_size);
	if (rc >= 0 && (ioctl(p->event_fd, PERF_EVENT_IOC_SET_BPF, p->program_fd) < 0 ||
	    ioctl(p->event_fd, PERF_EVENT_IOC_ENABLE, 0) < 0)) {
		rc = -errno;
		snprintf(why, why_size, "the kernel refuses BPF programs on kprobes: %s",
			strerror(-rc));
	}
	if (rc < 0) {
		tz_probe_detach(p);
		return rc == -ENOENT ? -EIO : rc;
	}
	p->function = candidates[i].function;
	return 0;
}

void tz_probe_detach(struct tz_probe *p)
{
	close_fd(&p->event_fd);
	close_fd(&p->program_fd);
	p->function = NULL;
}

void tz_probe_area(struct tz_probe *p, unsigned type, uint64_t base, uint64_t pages)
{
	__atomic_store_n(&p->control->pages[type], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->control->base[type], base, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->control->pages[type], pages, __ATOMIC_SEQ_CST);
}

void tz_probe_clear(struct tz_probe *p, uint64_t first, uint64_t pages)
{
	struct timespec pause = { 0, 2000000 };

	nanosleep(&pause, NULL);
	for (uint64_t page = first, n; page < first + pages; page += n) {
		unsigned from = page % 64;
		uint64_t ones;
		n = first + pages - page < 64 - from ? first + pages - page : 64 - from;
		ones = ~0ull >> (64 - n) << from;
		if (__atomic_load_n(&p->bits[page / 64], __ATOMIC_SEQ_CST) & ones)
			__atomic_fetch_and(&p->bits[page / 64], ~ones, __ATOMIC_SEQ_CST);
	}
}

void tz_probe_drain(struct tz_probe *p)
{
	uint64_t produced = __atomic_load_n(p->produced, __ATOMIC_ACQUIRE);

	__atomic_store_n(p->consumed, produced, __ATOMIC_RELEASE);
}
