/* test_queue.c - queue threads, against a kernel that the test plays and against clients of the
 * local ring.
 *
 * The tz_uring_* below replace uring.c: the queue thread's system call is a call of `step`, the
 * script of a test, which sees what was committed and posts requests. So nothing here depends on
 * time: what is counted is work between two calls. The char device is a memfd: descriptors at its
 * start, data where USER_COPY has it, unless the driver copies.
 */
#include "clock.h"
#include "harness.h"
#include "local.h"
#include "local_server.h"
#include "lock.h"
#include "queue.h"
#include "store_impl.h"
#include "store.h"

#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#define TAGS 64
#define PAGES 65536u
#define LONG_MS 600000			/* what is answered is answered sooner, on any machine */
#define MS 1000000ull			/* ns */

/* ---- a store, and memory that can be short ---- */

static _Atomic int no_memory, attempts;
static struct tz_queue_stats *served;	/* the queue's */
static _Atomic uint64_t noted;		/* what it said of itself during the last write */
static _Atomic uint64_t tried_at, longest;	/* when that was; the longest time between two */

int __real_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data);
int __wrap_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data);

int __wrap_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	uint64_t now = tz_now_ns(), last = atomic_exchange(&tried_at, now);

	if (now - last > longest)
		longest = now - last;
	attempts++;
	noted = __atomic_load_n(&served->serving, __ATOMIC_RELAXED);
	return no_memory ? -EAGAIN : __real_tz_store_write(t, page, data);
}

static struct tz_store *store;
static struct tz_queue queue;
static struct tz_suspects suspects;
static uint64_t killer;			/* the page whose read has killed three servers; 0: none */

static void let_three_servers_die(struct tz_stats *stats)
{
	for (unsigned i = 0; i < TZ_SUSPECT_DEATHS; i++) {
		tz_suspect_note(queue.stats, UBLK_IO_OP_READ, killer);
		tz_suspects_take_over(&suspects, stats, PAGES, tz_now_ns());
	}
	queue.suspects = &suspects;
}

static void fill_word(uint8_t *page, uint64_t word)
{
	for (unsigned i = 0; i < TZ_PAGE_SIZE; i += 8)
		memcpy(page + i, &word, 8);
}

/* A device of PAGES pages, all of which hold their number. */
static void make_store(unsigned depth)
{
	size_t len = (tz_stats_size(1) + 4095) & ~(size_t)4095;
	struct tz_stats *stats =
		mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t page[TZ_PAGE_SIZE];
	char why[216] = "";
	int err = 0;

	CHECK(stats != MAP_FAILED && tz_stats_init(stats, len, 1) == 0, "statistics page");
	struct tz_store_config c = {
		.disksize = (uint64_t)PAGES * TZ_PAGE_SIZE, .algorithm = "lz4", .nr_threads = 1,
		.arena_fd = memfd_create("test-arena", MFD_CLOEXEC), .stats = stats,
	};
	store = tz_store_create(&c, &err, why, sizeof why);
	CHECK(store, "store: %d %s", err, why);
	queue = (struct tz_queue){ .depth = depth, .nr_pages = PAGES,
		.store = tz_store_thread(store, 0),
		.end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	queue.stats = served = tz_store_thread_stats(queue.store);
	if (killer)
		let_three_servers_die(stats);
	tz_store_begin(queue.store);
	for (uint64_t p = 0; p < PAGES; p++) {
		fill_word(page, p + 1);
		CHECK(__real_tz_store_write(queue.store, p, page) == 0,
			"page %llu", (unsigned long long)p);
	}
	tz_store_end(queue.store);
	no_memory = attempts = 0;
}

static void start(void (*run)(struct tz_queue *))
{
	char why[216] = "";
	int rc = tz_queue_start(&queue, run, why, sizeof why);

	CHECK(rc == 0, "%d %s", rc, why);
}

static void end(void)
{
	tz_queue_join(&queue);
	close(queue.end_fd);
	tz_store_destroy(store);
}

/* ---- the kernel ---- */

static struct {
	unsigned enters, sqes, submitted, cq_head, cq_tail;
	unsigned looks;			/* calls of tz_uring_has_come, */
	int comes;			/* and what they see */
	int no_sqe;			/* this many calls of tz_uring_sqe find no entry */
	struct tz_sqe sqe[TAGS];
	struct tz_cqe cqe[4 * TAGS];
	int in_kernel[TAGS];		/* the tag's command is with the kernel */
	int answers[TAGS], result[TAGS];
	uint32_t op[TAGS];		/* of the last command, */
	uint8_t *buffer[TAGS];		/* and what it gives, if the driver copies */
	struct ublk_io_desc *descs;
	int (*step)(uint64_t wait_ns);	/* what tz_uring_enter returns */
	uint64_t mark[8];		/* the script's own */
	struct tz_sqe fetch;		/* of the backing file, under way; len 0: none */
} kernel;

int tz_uring_init(struct tz_uring *r, unsigned entries, unsigned flags)
{
	if (flags & TZ_URING_SHARED)		/* the store's, for its backing file */
		return -ENOSYS;
	r->entries = entries;
	return 0;
}

void tz_uring_exit(struct tz_uring *r)
{
	(void)r;
}

int tz_uring_register_file(struct tz_uring *r, int fd)
{
	(void)r;
	return fd < 0 ? -EBADF : 0;
}

int tz_uring_enable(struct tz_uring *r, const uint8_t *ops, unsigned n)
{
	(void)ops;
	(void)n;
	(void)r;
	return 0;
}

struct tz_sqe *tz_uring_sqe(struct tz_uring *r)
{
	if (kernel.no_sqe > 0) {
		kernel.no_sqe--;
		return NULL;
	}
	if (kernel.sqes == r->entries)
		return NULL;
	memset(&kernel.sqe[kernel.sqes], 0, sizeof kernel.sqe[0]);
	return &kernel.sqe[kernel.sqes++];
}

int tz_uring_has_come(const struct tz_uring *r)
{
	(void)r;
	kernel.looks++;
	return kernel.comes || kernel.cq_head != kernel.cq_tail;
}

struct tz_cqe *tz_uring_peek(struct tz_uring *r)
{
	(void)r;
	return kernel.cq_head == kernel.cq_tail ? NULL : &kernel.cqe[kernel.cq_head % (4 * TAGS)];
}

void tz_uring_seen(struct tz_uring *r)
{
	(void)r;
	kernel.cq_head++;
}

static void complete(unsigned tag, int res)
{
	CHECK(kernel.in_kernel[tag], "tag %u has no command", tag);
	kernel.in_kernel[tag] = 0;
	kernel.cqe[kernel.cq_tail++ % (4 * TAGS)] = (struct tz_cqe){ .user_data = tag, .res = res };
}

static void request(unsigned tag, unsigned op_flags, uint64_t page, uint32_t pages)
{
	kernel.descs[tag] = (struct ublk_io_desc){ .op_flags = op_flags, .start_sector = page * 8,
		.nr_sectors = pages * 8 };
	complete(tag, 0);
}

static void stop_device(void)
{
	for (unsigned tag = 0; tag < queue.depth; tag++)
		if (kernel.in_kernel[tag])
			complete(tag, -ENODEV);
}

static void accept_commands(void)
{
	for (unsigned i = 0; i < kernel.sqes; i++) {
		unsigned tag = (unsigned)kernel.sqe[i].user_data;
		struct ublk_io_cmd cmd;
		if (kernel.sqe[i].opcode == TZ_IORING_OP_READ) {
			CHECK(!kernel.fetch.len, "two reads of the backing file at once");
			kernel.fetch = kernel.sqe[i];
			continue;
		}
		memcpy(&cmd, kernel.sqe[i].cmd, sizeof cmd);
		CHECK(!kernel.in_kernel[tag] && cmd.tag == tag,
			"tag %u is with the kernel already", tag);
		kernel.in_kernel[tag] = 1;
		kernel.op[tag] = kernel.sqe[i].cmd_op;
		kernel.buffer[tag] = (uint8_t *)(uintptr_t)cmd.addr;
		kernel.result[tag] = cmd.result;
		kernel.answers[tag]++;
	}
	kernel.sqes = 0;
}

int tz_uring_enter(struct tz_uring *r, uint64_t wait_ns)
{
	struct timespec t = { 0, (long)(wait_ns % 1000000000u) };

	(void)r;
	kernel.enters++;
	if (kernel.enters == 1) {	/* the fetches */
		accept_commands();
		memset(kernel.answers, 0, sizeof kernel.answers);
		return 0;
	}
	int rc = kernel.step(wait_ns);
	if (rc < 0 || kernel.cq_head != kernel.cq_tail || !wait_ns)
		return rc;
	CHECK(wait_ns != TZ_FOREVER, "the queue waits for ever");
	nanosleep(&t, NULL);
	return -ETIME;
}

static int without_store, driver_copies;

static void run_as(unsigned depth, int (*step)(uint64_t wait_ns), void (*run)(struct tz_queue *))
{
	struct tz_ublk ublk = { .char_fd = memfd_create("test-ublkc", MFD_CLOEXEC),
		.ioctl_encoded = 1,
		.info.flags = driver_copies ? 0 : UBLK_F_USER_COPY,
		.info.max_io_buf_bytes = driver_copies ? TZ_UBLK_SMALL_IO : TZ_UBLK_MAX_IO };

	make_store(depth);
	if (without_store)
		queue.store = NULL;
	memset(&kernel, 0, sizeof kernel);
	CHECK(ftruncate(ublk.char_fd, (off_t)ublk_data_offset(1, 0)) == 0, "ftruncate");
	kernel.descs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ublk.char_fd, 0);
	CHECK(kernel.descs != MAP_FAILED, "mmap");
	kernel.step = step;
	queue.ublk = &ublk;
	start(run);
	while (atomic_load(&queue.state) == TZ_QUEUE_SERVING)
		usleep(1000);
	close(ublk.char_fd);
	munmap(kernel.descs, 4096);
}

static void run_ublk(unsigned depth, int (*step)(uint64_t wait_ns))
{
	run_as(depth, step, tz_queue_run_ublk);
}

/* ---- the driver copies ---- */

/* Tag 0 writes as much as there may be, tag 1 a page more; then tag 1 reads what tag 0 wrote. */
static int copy_as_the_driver(uint64_t wait_ns)
{
	const unsigned most = TZ_UBLK_SMALL_IO / TZ_PAGE_SIZE;

	(void)wait_ns;
	accept_commands();
	if (!kernel.mark[0]++) {
		memset(kernel.buffer[0], 'A', TZ_UBLK_SMALL_IO - 1);
		request(0, UBLK_IO_OP_WRITE, 0, most);
		request(1, UBLK_IO_OP_WRITE, 100, most + 1);
	} else if (kernel.answers[0] == 1 && kernel.answers[1] == 1 && kernel.in_kernel[1]) {
		CHECK(kernel.result[0] == (int)TZ_UBLK_SMALL_IO && kernel.result[1] == -EINVAL,
			"%d, %d", kernel.result[0], kernel.result[1]);
		request(1, UBLK_IO_OP_READ, 0, most);
	} else if (kernel.answers[1] == 2) {
		CHECK(!memcmp(kernel.buffer[0], kernel.buffer[1], TZ_UBLK_SMALL_IO), "it differs");
		stop_device();
	}
	return 0;
}

static void test_driver_copies(void)
{
	driver_copies = 1;
	run_ublk(2, copy_as_the_driver);
	driver_copies = 0;
	CHECK(kernel.buffer[1] == kernel.buffer[0] + TZ_UBLK_SMALL_IO, "the tags' buffers");
	end();
}

/* ---- discards ---- */

/* Tag 0 discards the whole disk; meanwhile tag 1 reads, one page after another. */
static int discard_and_read(uint64_t wait_ns)
{
	uint64_t *begun = &kernel.mark[0], *arrived = &kernel.mark[1], *worst = &kernel.mark[2],
		*reads = &kernel.mark[3];
	uint64_t discarded = queue.stats->pages_discarded;

	(void)wait_ns;
	accept_commands();
	if (!*begun) {
		*begun = 1;
		request(0, UBLK_IO_OP_DISCARD, 0, PAGES);
	} else if (kernel.answers[1] > (int)*reads) {
		CHECK(kernel.result[1] == TZ_PAGE_SIZE, "read: %d", kernel.result[1]);
		++*reads;
		*worst = discarded - *arrived > *worst ? discarded - *arrived : *worst;
	}
	if (kernel.answers[0]) {
		stop_device();
	} else if (kernel.in_kernel[1]) {
		*arrived = discarded;
		request(1, UBLK_IO_OP_READ, *reads % PAGES, 1);
	}
	return 0;
}

static void test_reads_pass_discards(void)
{
	run_ublk(4, discard_and_read);
	CHECK(kernel.result[0] == 0 && queue.stats->pages_discarded == PAGES &&
		queue.stats->num_discards == 1,
		"%d, %llu pages", kernel.result[0],
		(unsigned long long)queue.stats->pages_discarded);
	CHECK(kernel.mark[3] > PAGES / 512,
		"only %llu reads during the discard", (unsigned long long)kernel.mark[3]);
	CHECK(kernel.mark[2] <= 512, "%llu pages were discarded while a read waited",
		(unsigned long long)kernel.mark[2]);
	CHECK(queue.stats->pages_now == 0, "%lld are left", (long long)queue.stats->pages_now);
	end();
}

/* ---- reads pass writes ---- */

/* A writer with TAGS - 1 requests of 32 pages in flight, each issued again when it is answered, and
 * a reader of one page at a time. The bell rings as soon as there is something to be had. */
static int write_and_read(uint64_t wait_ns)
{
	uint64_t *worst = &kernel.mark[0], *reads = &kernel.mark[1], *arrived = &kernel.mark[2],
		*writes = &kernel.mark[3];
	uint64_t written = queue.stats->pages_written;

	(void)wait_ns;
	accept_commands();
	if (*reads == 200) {
		kernel.comes = 0;
		stop_device();
		return 0;
	}
	if (kernel.in_kernel[0]) {
		*worst = *reads && written - *arrived > *worst ? written - *arrived : *worst;
		*arrived = written;
		request(0, UBLK_IO_OP_READ, 7 * ++*reads, 1);
	}
	for (unsigned tag = 1; tag < TAGS; tag++)
		if (kernel.in_kernel[tag] && *reads < 200) {
			++*writes;
			request(tag, UBLK_IO_OP_WRITE, 2048 + tag * 32, 32);
		}
	kernel.comes = 1;
	return 0;
}

/* Between the arrival of a read and its answer lie the writes of WRITE_NS: at 0.1 us for each page
 * of zeros some 100 to 200, not the 2016 in flight. And writes are served as well. */
static void test_reads_pass_writes(void)
{
	run_ublk(TAGS, write_and_read);
	CHECK(queue.stats->num_reads == 200 && kernel.result[0] == TZ_PAGE_SIZE,
		"%llu reads", (unsigned long long)queue.stats->num_reads);
	CHECK(kernel.mark[0] <= 1000, "%llu pages were written while a read waited",
		(unsigned long long)kernel.mark[0]);
	CHECK(queue.stats->pages_written >= PAGES + 200, "%llu pages written in 200 rounds",
		(unsigned long long)queue.stats->pages_written - PAGES);
	end();
}

/* ---- the backing file ---- */

static char backing_path[64];

static void noise(uint8_t *page, uint64_t n)
{
	uint64_t state = n + 1;

	for (unsigned i = 0; i < 512; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		((uint64_t *)(void *)page)[i] = state;
	}
}

static int is_noise(uint64_t n)
{
	return n == 8 || n == 9 || n == 11 || n == 40 || n == 60;
}

/* Has some pages on the backing file. */
static void back_pages(void)
{
	static uint8_t page[TZ_PAGE_SIZE] __attribute__((aligned(8)));
	char why[216] = "";
	uint64_t least, ticket;
	int err;

	tz_store_begin(queue.store);
	for (uint64_t n = 0; n < PAGES; n++) {
		noise(page, n);
		CHECK(!is_noise(n) || __real_tz_store_write(queue.store, n, page) == 0, "write");
	}
	tz_store_end(queue.store);
	snprintf(backing_path, sizeof backing_path, "/tmp/truezram-queue-%d", (int)getpid());
	CHECK(tz_store_set_backing(store, backing_path, 1 << 20, why, sizeof why) == 0, "%s", why);
	struct tz_recompression *job =
		tz_store_prepare_recompress(store, "backing", 0, 100, &err, why, sizeof why);
	CHECK(job, "%s", why);
	ticket = tz_store_recompress(store, job, &least);
	while (__atomic_load_n(&store->stats->recompress_done, __ATOMIC_RELAXED) < ticket)
		usleep(1000);
}

/* What was fetched is there, or not. */
static void end_fetch(int result)
{
	struct tz_sqe *sqe = &kernel.fetch;

	if (!result)
		result = (int)pread(sqe->fd, (void *)(uintptr_t)sqe->addr, sqe->len,
			(off_t)sqe->off);
	kernel.cqe[kernel.cq_tail++ % (4 * TAGS)] =
		(struct tz_cqe){ .user_data = sqe->user_data, .res = result };
	sqe->len = 0;
}

static void check_data(unsigned tag, uint64_t first, unsigned n)
{
	static uint8_t page[TZ_PAGE_SIZE] __attribute__((aligned(8))), out[TZ_PAGE_SIZE];

	for (unsigned i = 0; i < n; i++) {
		off_t at = (off_t)(ublk_data_offset(0, tag) + i * TZ_PAGE_SIZE);
		if (is_noise(first + i))
			noise(page, first + i);
		else
			fill_word(page, first + i + 1);
		CHECK(pread(queue.ublk->char_fd, out, sizeof out, at) == TZ_PAGE_SIZE &&
			!memcmp(page, out, sizeof out), "page %llu",
			(unsigned long long)first + i);
	}
}

/* Tag 0 reads pages of which some are on the file, tags 1 and 3 others, tag 2 one in memory. The
 * file does not answer before tag 2 has been; and of tag 3's page, it answers with an error. */
static int read_backed(uint64_t wait_ns)
{
	static const int pages[] = { 6, 1, 1, 1 };
	uint64_t *begun = &kernel.mark[0], *fetches = &kernel.mark[1];
	int answered = 0;

	(void)wait_ns;
	accept_commands();
	for (unsigned tag = 0; tag < 4; tag++)
		answered += kernel.answers[tag];
	if (!*begun) {
		*begun = 1;
		back_pages();
		request(0, UBLK_IO_OP_READ, 6, 6);
		request(1, UBLK_IO_OP_READ, 40, 1);
		request(2, UBLK_IO_OP_READ, 100, 1);
		request(3, UBLK_IO_OP_READ, 60, 1);
		return 0;
	}
	if (answered == 4) {
		for (unsigned tag = 0; tag < 3; tag++)
			CHECK(kernel.result[tag] == pages[tag] * TZ_PAGE_SIZE, "tag %u: %d", tag,
				kernel.result[tag]);
		CHECK(kernel.result[3] == -EIO, "an error: %d", kernel.result[3]);
		check_data(0, 6, 6);
		check_data(1, 40, 1);
		check_data(2, 100, 1);
		stop_device();
	} else if (kernel.fetch.len && kernel.answers[2]) {
		++*fetches;
		end_fetch(kernel.answers[0] && kernel.answers[1] ? -EIO : 0);
	}
	return 0;
}

static void test_backing_does_not_block(void)
{
	run_ublk(4, read_backed);
	CHECK(kernel.mark[1] == 6, "%llu reads of the file", (unsigned long long)kernel.mark[1]);
	CHECK(queue.stats->backing_reads == 4 && queue.stats->backing_errors == 1, "not counted");
	end();
	unlink(backing_path);
}

/* ---- without a store ---- */

/* One request after another, and what the last two reads gave. */
static int all_kinds(uint64_t wait_ns)
{
	static const struct { unsigned op; uint64_t page; unsigned pages; int result; } steps[] = {
		{ UBLK_IO_OP_WRITE, 5, 2, 2 * TZ_PAGE_SIZE },
		{ UBLK_IO_OP_READ, 5, 2, 2 * TZ_PAGE_SIZE },
		{ UBLK_IO_OP_FLUSH, 0, 0, 0 },
		{ UBLK_IO_OP_DISCARD, 0, PAGES, 0 },
		{ UBLK_IO_OP_READ, PAGES, 1, -EINVAL },
	};
	uint64_t *next = &kernel.mark[0], *zeros = &kernel.mark[1];
	uint8_t data[2 * TZ_PAGE_SIZE];

	(void)wait_ns;
	accept_commands();
	if (*next && kernel.answers[0] < (int)*next)
		return 0;
	if (*next)
		CHECK(kernel.result[0] == steps[*next - 1].result, "request %llu: %d",
			(unsigned long long)*next, kernel.result[0]);
	if (*next == 2) {
		CHECK(pread(queue.ublk->char_fd, data, sizeof data,
			(off_t)ublk_data_offset(0, 0)) == sizeof data, "data");
		for (unsigned i = 0; i < sizeof data; i++)
			*zeros += data[i] == 0;
	}
	if (*next == sizeof steps / sizeof *steps) {
		stop_device();
		return 0;
	}
	if (*next < 2) {	/* what is written, and what the reader's memory holds before */
		memset(data, 0xa5, sizeof data);
		CHECK(pwrite(queue.ublk->char_fd, data, sizeof data,
			(off_t)ublk_data_offset(0, 0)) == sizeof data, "data");
	}
	request(0, steps[*next].op, steps[*next].page, steps[*next].pages);
	++*next;
	return 0;
}

static void test_without_a_store(void)
{
	without_store = 1;
	run_ublk(4, all_kinds);
	without_store = 0;
	CHECK(kernel.answers[0] == 5, "%d answers", kernel.answers[0]);
	CHECK(kernel.mark[1] == 2 * TZ_PAGE_SIZE, "%llu zeros", (unsigned long long)kernel.mark[1]);
	CHECK(attempts == 0 && queue.stats->pages_now == PAGES, "the store was written to");
	end();
}

/* ---- answers go out as it goes ---- */

static int many_writes(uint64_t wait_ns)
{
	uint64_t *begun = &kernel.mark[0], *last = &kernel.mark[1], *worst = &kernel.mark[2],
		*done = &kernel.mark[3];
	uint64_t written = queue.stats->pages_written;
	int answered = 0;

	(void)wait_ns;
	accept_commands();
	for (unsigned tag = 0; tag < TAGS; tag++)
		answered += kernel.answers[tag];
	if (!*begun) {
		*begun = 1;
		*last = written;
		for (unsigned tag = 0; tag < TAGS; tag++)
			request(tag, UBLK_IO_OP_WRITE, tag * 32, 32);
		return 0;
	}
	*worst = written - *last > *worst ? written - *last : *worst;
	*last = written;
	if (answered == TAGS && !*done) {
		*done = 1;
		stop_device();
	}
	return 0;
}

static void test_answers_go_out(void)
{
	run_ublk(TAGS, many_writes);
	CHECK(kernel.mark[2] <= 160,
		"%llu pages were written before an answer went out",
		(unsigned long long)kernel.mark[2]);
	end();
}

/* ---- the clock ---- */

static _Thread_local unsigned clock_reads;
int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	return clock_reads++, __real_clock_gettime(id, t);
}

/* 48 reads at once; when all are answered, and counted, 48 more; and so on. */
static int many_reads(__attribute__((unused)) uint64_t wait_ns)
{
	uint64_t *turn = &kernel.mark[0], *most = &kernel.mark[1];

	accept_commands();
	for (unsigned tag = 0; tag < TAGS; tag++)
		if (!kernel.in_kernel[tag])
			return 0;
	CHECK(queue.stats->num_reads == *turn * 48, "not all are counted");
	*most = *turn && clock_reads > *most ? clock_reads : *most;
	clock_reads = 0;
	if (++*turn > 20)
		stop_device();
	for (unsigned tag = 0; *turn <= 20 && tag < 48; tag++)
		request(tag, UBLK_IO_OP_READ, tag, 1);
	return 0;
}

/* It is read when a round begins, then for 16 reads. */
static void test_clock(void)
{
	run_ublk(TAGS, many_reads);
	CHECK(kernel.mark[1] <= 4, "48 reads: %u times", (unsigned)kernel.mark[1]);
	end();
}

/* ---- memory ---- */

static int swap_write_without_memory(uint64_t wait_ns)
{
	(void)wait_ns;
	accept_commands();
	if (!kernel.mark[0]) {
		kernel.mark[0] = 1;
		no_memory = 1;
		tried_at = tz_now_ns();
		longest = 0;
		request(0, UBLK_IO_OP_WRITE | UBLK_IO_F_SWAP, 7, 1);
	} else if (kernel.answers[0]) {
		stop_device();
	}
	return 0;
}

/* Two seconds of waiting are some two hundred attempts, ten milliseconds apart, with sleep in
 * between; fewer on a busy machine, and only two if there is no CPU for a second. */
static void test_waiting_sleeps(void)
{
	run_ublk(1, swap_write_without_memory);
	CHECK(kernel.result[0] == -ENOSPC && queue.stats->enospc == 1, "%d", kernel.result[0]);
	CHECK((attempts >= 3 || longest > 1000 * MS) && attempts <= 300, "%d attempts", attempts);
	CHECK(kernel.enters <= 320, "%u system calls", kernel.enters);
	CHECK(queue.stats->deferred_writes == 1,
		"%llu", (unsigned long long)queue.stats->deferred_writes);
	end();
}

static int write_until_memory(uint64_t wait_ns)
{
	int rc = swap_write_without_memory(wait_ns);

	no_memory = attempts < 5;
	return rc;
}

/* (A queue that has no CPU for so long that the two seconds are over at the fifth attempt, or
 * before, gives up: again, then.) */
static void test_waiting_ends(void)
{
	int result;

	do {
		run_ublk(1, write_until_memory);
		result = kernel.result[0];
		CHECK(result == TZ_PAGE_SIZE || longest > 400 * MS, "%d", result);
		end();
	} while (result != TZ_PAGE_SIZE);
}

/* ---- trouble ---- */

static int refused_commands(uint64_t wait_ns)
{
	static const int refusals[] = { -EIO, -EINVAL, 1 };
	uint64_t *at = &kernel.mark[0];

	(void)wait_ns;
	accept_commands();
	if (*at == 0) {
		request(0, UBLK_IO_OP_READ, 3, 1);
	} else if (*at <= 3) {
		if (!kernel.in_kernel[0])
			return 0;	/* not sent again yet */
		CHECK(kernel.answers[0] == (int)*at && kernel.result[0] == TZ_PAGE_SIZE,
			"%d times, %d", kernel.answers[0], kernel.result[0]);
		CHECK(kernel.op[0] == _IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublk_io_cmd),
			"%#x", kernel.op[0]);
		complete(0, refusals[*at - 1]);
	} else if (*at == 4) {
		if (!kernel.in_kernel[0])
			return 0;
		request(0, UBLK_IO_OP_READ, 4, 1);	/* accepted, and the tag is in use again */
	} else {
		if (kernel.answers[0] < 5)
			return 0;
		stop_device();
	}
	++*at;
	return 0;
}

static void test_refused_commands_are_sent_again(void)
{
	char text[200];
	uint64_t n = 0;

	run_ublk(2, refused_commands);
	CHECK(kernel.answers[0] == 5 && queue.stats->num_reads == 2,
		"%d answers", kernel.answers[0]);
	CHECK(read(queue.end_fd, &n, sizeof n) == sizeof n && n >= 2,
		"the control thread was not woken");
	CHECK(tz_queue_report(&queue, text, sizeof text) && strstr(text, "3 times"), "%s", text);
	CHECK(!tz_queue_report(&queue, text, sizeof text), "reported twice: %s", text);
	end();
}

static int failing_enter(uint64_t wait_ns)
{
	(void)wait_ns;
	if (kernel.mark[0]++ < 5)
		return -ENXIO;
	accept_commands();
	if (kernel.mark[0] == 6)
		request(1, UBLK_IO_OP_READ, 9, 2);
	else if (kernel.answers[1])
		stop_device();
	return 0;
}

static void test_enter_may_fail(void)
{
	char text[200] = "";

	run_ublk(2, failing_enter);
	CHECK(kernel.answers[1] == 1 && kernel.result[1] == 2 * TZ_PAGE_SIZE,
		"%d", kernel.result[1]);
	CHECK(tz_queue_report(&queue, text, sizeof text) && strstr(text,
		"5 times") && strstr(text, strerror(ENXIO)), "%s", text);
	end();
}

static int full_queue(uint64_t wait_ns)
{
	(void)wait_ns;
	accept_commands();
	if (kernel.mark[0] == 0) {
		kernel.no_sqe = (int)kernel.mark[1];
		request(0, UBLK_IO_OP_READ, 9, 1);
		kernel.mark[0] = 1;
	} else if (kernel.answers[0]) {
		stop_device();
	}
	return 0;
}

static int full_queue_for_long(uint64_t wait_ns)
{
	kernel.mark[1] = 5;
	return full_queue(wait_ns);
}

static int full_queue_once(uint64_t wait_ns)
{
	kernel.mark[1] = 1;
	return full_queue(wait_ns);
}

static void test_full_submission_queue(void)
{
	char text[200] = "";

	run_ublk(1, full_queue_once);
	CHECK(kernel.answers[0] == 1 && !tz_queue_report(&queue, text, sizeof text), "%s", text);
	end();
	run_ublk(1, full_queue_for_long);
	CHECK(kernel.answers[0] == 1 && tz_queue_report(&queue, text, sizeof text) && strstr(text,
		"full"), "%s", text);
	end();
}

/* ---- a request that kills ---- */

static int read_what_kills(uint64_t wait_ns)
{
	static const struct { unsigned op; uint64_t page; uint32_t pages; int result; } script[] = {
		{ UBLK_IO_OP_READ, 7, 1, -EIO }, { UBLK_IO_OP_READ, 6, 3, -EIO },
		{ UBLK_IO_OP_READ, 8, 2, 8192 }, { UBLK_IO_OP_READ, 7, 1, -EIO },
		{ UBLK_IO_OP_WRITE, 8, 2, 8192 }, { UBLK_IO_OP_READ, 7, 1, -EIO },
		{ UBLK_IO_OP_WRITE, 6, 2, 8192 }, { UBLK_IO_OP_READ, 6, 3, 3 * 4096 },
	};
	uint64_t *at = &kernel.mark[0];

	(void)wait_ns;
	accept_commands();
	if (!kernel.in_kernel[0])
		return 0;
	CHECK(!queue.stats->serving, "%#llx", (unsigned long long)queue.stats->serving);
	if (*at)
		CHECK(kernel.result[0] == script[*at - 1].result, "step %llu: %d",
			(unsigned long long)*at - 1, kernel.result[0]);
	if (*at == sizeof script / sizeof *script)
		stop_device();
	else
		request(0, script[*at].op, script[*at].page, script[*at].pages);
	++*at;
	return 0;
}

static void test_what_kills_is_refused(void)
{
	killer = 7;
	run_ublk(1, read_what_kills);
	CHECK(queue.stats->failed_reads == 4 && queue.stats->num_reads == 6,
		"%llu of %llu", (unsigned long long)queue.stats->failed_reads,
		(unsigned long long)queue.stats->num_reads);
	/* The page that is at hand, not the request's first. */
	CHECK(noted == (7 << 8 | (UBLK_IO_OP_WRITE + 1)), "%#llx", (unsigned long long)noted);
	CHECK(suspects.left == 0, "%u", suspects.left);
	killer = 0;
	end();
}

/* ---- waiting awake ---- */

/* Sixteen requests that come while it is awake, each seen at the first look: it sends the answer,
 * and never sleeps. Then none comes any more. */
static int come_while_awake(uint64_t wait_ns)
{
	uint64_t *reads = &kernel.mark[0], *slept = &kernel.mark[1], *looks = &kernel.mark[2];

	accept_commands();
	if (*reads == 16 && wait_ns) {
		++*slept;
		stop_device();
		return 0;
	}
	CHECK(*reads == 0 || !wait_ns, "it sleeps after request %llu", (unsigned long long)*reads);
	/* (A queue that has been slow sends its answer at once, and enters once more before it
	 * looks.) */
	if (*reads == 0 || (kernel.comes && kernel.looks > *looks)) {
		kernel.comes = 0;
		request(0, UBLK_IO_OP_READ, ++*reads, 1);
	} else if (*reads < 16) {
		kernel.comes = 1;
		*looks = kernel.looks;
	}
	return 0;
}

static void let_spin(struct tz_queue *q)
{
	q->spin = (struct tz_spin){ .mode = TZ_MODE_LOW_LATENCY, .looked_at = tz_now_ns(),
		.filled_at = 1 };
	q->spin.looked_at += 3600000 * MS;	/* it does not ask whether it is in the way */
	tz_queue_run_ublk(q);
}

static void test_awake(void)
{
	run_as(1, come_while_awake, let_spin);
	CHECK(kernel.mark[1] == 1 && queue.stats->num_reads == 16,
		"%llu reads", (unsigned long long)queue.stats->num_reads);
	CHECK(queue.stats->spin_hits == 15 && kernel.looks >= 16, "%llu hits, %u looks",
		(unsigned long long)queue.stats->spin_hits, kernel.looks);
	end();
}

/* ---- where a thread runs ---- */

static cpu_set_t placed;

static void look_where(struct tz_queue *q)
{
	CHECK(sched_getaffinity(0, sizeof placed, &placed) == 0, "%d", errno);
	tz_queue_serving(q);
}

/* A queue of one CPU is not held there, where its clients are; one of several is. (The second of
 * them here does not exist, so that this shows on any machine.) */
static void test_placement(void)
{
	cpu_set_t ours;
	unsigned cpu = 0;

	CHECK(sched_getaffinity(0, sizeof ours, &ours) == 0, "%d", errno);
	while (!CPU_ISSET(cpu, &ours))
		cpu++;
	make_store(1);
	queue.cpu_mask[cpu / 8] |= (uint8_t)(1u << (cpu % 8));
	start(look_where);
	tz_queue_join(&queue);
	CHECK(CPU_EQUAL(&placed, &ours) && queue.stats->cpu == UINT32_MAX,
		"%d of %d CPUs, the first of its own %u", CPU_COUNT(&placed), CPU_COUNT(&ours),
		queue.stats->cpu);
	queue.cpu_mask[127] = 0x80;
	atomic_store(&queue.state, TZ_QUEUE_STARTING);
	atomic_store(&queue.stop, 0);
	start(look_where);
	CHECK(CPU_COUNT(&placed) == 1 && CPU_ISSET(cpu, &placed) && queue.stats->cpu == cpu,
		"%d CPUs, the first of its own %u", CPU_COUNT(&placed), queue.stats->cpu);
	end();
}

/* ---- the local ring ---- */

static struct tz_local_server server;

static struct tz_ring_slot *slot_at(unsigned index)
{
	return tz_ring_slot(tz_local_server_queue(&server, 0), index);
}

static void submit(unsigned index, uint32_t op, uint64_t page, uint32_t pages)
{
	struct tz_ring_slot *s = slot_at(index);
	uint32_t word = tz_slot_claim(s, atomic_load(&s->word), getpid());

	CHECK(word, "slot %u", index);
	s->op = op;
	s->page = page;
	s->nr_pages = pages;
	atomic_store(&s->word, tz_slot_with_state(word, TZ_SLOT_SUBMITTED));
}

static unsigned state_of(unsigned index)
{
	return tz_slot_state(atomic_load(&slot_at(index)->word));
}

static void make_local(unsigned depth, void (*run)(struct tz_queue *))
{
	char why[216] = "";

	make_store(depth);
	CHECK(tz_local_server_create(&server, 1, depth, PAGES, why, sizeof why) == 0, "%s", why);
	queue.local = &server;
	queue.wake = tz_queue_wake_local;
	start(run);
}

static void end_local(void)
{
	tz_queue_join(&queue);
	tz_local_server_close(&server);
	end();
}

/* Each read is answered in the round that finds it, and a round discards no more than a piece, or
 * less, but something, when the bell rings meanwhile (which it does once tz_queue_join is called).
 */
static void rounds(struct tz_queue *q)
{
	unsigned rounds = 0;

	tz_queue_attach_local(q);
	tz_queue_serving(q);
	submit(0, TZ_LOCAL_DISCARD, 0, PAGES);
	for (; state_of(0) != TZ_SLOT_DONE; rounds++) {
		uint64_t before = q->stats->pages_discarded;
		submit(1, TZ_LOCAL_READ, rounds % PAGES, 1);
		tz_queue_round(q);
		CHECK(state_of(1) == TZ_SLOT_DONE && slot_at(1)->result == 0,
			"round %u: %d", rounds, slot_at(1)->result);
		before = q->stats->pages_discarded - before;
		CHECK(before >= 16 && before <= 256, "%u: %u", rounds, (unsigned)before);
		atomic_store(&slot_at(1)->word, 0);
		/* A client that scribbles: the request is in work and must not be taken a second
		 * time. */
		if (rounds == 3)
			atomic_store(&slot_at(0)->word,
				tz_slot_with_state(atomic_load(&slot_at(0)->word),
				TZ_SLOT_SUBMITTED));
		if (rounds == 5)
			atomic_store(&slot_at(0)->word,
				tz_slot_with_state(atomic_load(&slot_at(0)->word),
				TZ_SLOT_SERVING));
	}
	atomic_store(&slot_at(0)->word, 0);
	/* Of pages that are empty many more make a piece. */
	submit(0, TZ_LOCAL_DISCARD, 0, PAGES);
	for (rounds = 0; state_of(0) != TZ_SLOT_DONE; rounds++)
		tz_queue_round(q);
	CHECK(rounds <= 16 * (PAGES / TZ_DISCARD_WORK) + 1 &&
		q->stats->pages_discarded == 2 * PAGES,
		"%u rounds", rounds);
	submit(2, 99, 0, 1);
	submit(3, TZ_LOCAL_READ, PAGES - 1, 2);
	tz_queue_round(q);
	CHECK(slot_at(2)->result == -EOPNOTSUPP && slot_at(3)->result == -EINVAL,
		"%d %d", slot_at(2)->result, slot_at(3)->result);
}

static void test_local_rounds(void)
{
	make_local(4, rounds);
	end_local();
}

static struct tz_local_client *attach(void)
{
	int err = 0;
	struct tz_local_client *c = tz_local_attach(server.fd, &err);

	CHECK(c, "attach: %d", err);
	return c;
}

static _Atomic int served_late;

static void serve_when_told(struct tz_queue *q)
{
	tz_queue_serving(q);
	while (!served_late)
		usleep(1000);
	tz_queue_run_local(q);
}

/* A write that is in work when its time is up, in slot i. (One that the queue, without a CPU, has
 * not taken by then is taken back: again with more time, then.) */
static void be_late_in_work(struct tz_local_client *c, unsigned i, uint8_t *page)
{
	unsigned ms = 50;

	do
		CHECK(tz_local_io(c, TZ_LOCAL_WRITE, i, 1, page, ms) == -ETIMEDOUT, "write %u", i);
	while (state_of(i) == TZ_SLOT_FREE && (ms *= 2) < LONG_MS);
}

/* Requests whose time is up leave no slot taken: neither those that were not served yet nor those
 * in work. */
static void test_timed_out_requests(void)
{
	uint8_t page[TZ_PAGE_SIZE], back[TZ_PAGE_SIZE];

	served_late = 0;
	make_local(2, serve_when_told);
	struct tz_local_client *c = attach();
	fill_word(page, 77);
	for (unsigned i = 0; i < 3; i++)
		CHECK(tz_local_io(c, TZ_LOCAL_WRITE, i, 1, page, 20) == -ETIMEDOUT, "write %u", i);
	CHECK(state_of(0) == TZ_SLOT_FREE && state_of(1) == TZ_SLOT_FREE,
		"%u %u", state_of(0), state_of(1));
	served_late = 1;
	CHECK(tz_local_io(c, TZ_LOCAL_READ, 1, 1, back, LONG_MS) == 0, "read");
	fill_word(page, 2);
	CHECK(!memcmp(page, back, sizeof page), "a write that was taken back has taken place");

	no_memory = 1;
	for (unsigned i = 0; i < 2; i++)
		be_late_in_work(c, i, page);
	CHECK(state_of(0) == TZ_SLOT_ABANDONED && state_of(1) == TZ_SLOT_ABANDONED,
		"%u %u", state_of(0), state_of(1));
	no_memory = 0;
	for (unsigned i = 0; i < 5; i++)
		CHECK(tz_local_io(c, TZ_LOCAL_READ, i, 1, back, LONG_MS) == 0, "read %u", i);
	tz_local_detach(c);
	end_local();
}

static int dead_pid(void)
{
	int pid = fork();

	if (pid == 0)
		_exit(0);
	CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid, "fork");
	return pid;
}

/* A slot is taken from a dead owner, and from no other: also when its last owner is dead and the
 * new one has only just come. */
static void test_slots_of_the_dead(void)
{
	uint8_t back[TZ_PAGE_SIZE];

	make_local(1, tz_queue_run_local);
	struct tz_local_client *c = attach();
	struct tz_ring_slot *s = slot_at(0);
	uint32_t of_dead = (uint32_t)dead_pid() << 3;
	for (unsigned state = TZ_SLOT_CLAIMED; state <= TZ_SLOT_DONE;
	    state += TZ_SLOT_DONE - TZ_SLOT_CLAIMED) {
		atomic_store(&s->word, of_dead | state);
		CHECK(tz_local_io(c, TZ_LOCAL_READ, 5, 1, back, LONG_MS) == 0,
			"the slot of a dead client, state %u", state);
	}
	atomic_store(&s->word, of_dead | TZ_SLOT_FREE);
	uint32_t word = tz_slot_claim(s, of_dead | TZ_SLOT_FREE, getpid());
	CHECK(word && tz_slot_owner(word) == getpid() && atomic_load(&s->word) == word,
		"%#x", word);
	CHECK(!tz_slot_claim(s, of_dead | TZ_SLOT_FREE, 1), "claimed twice");
	CHECK(tz_local_io(c, TZ_LOCAL_READ, 5, 1, back, 150) == -ETIMEDOUT,
		"taken from an owner that lives");
	CHECK(atomic_load(&s->word) == word, "%#x", atomic_load(&s->word));
	tz_local_detach(c);
	end_local();
}

static long switches_of(unsigned tid)
{
	char path[64], line[200];
	long n = -1;

	snprintf(path, sizeof path, "/proc/self/task/%u/status", tid);
	FILE *f = fopen(path, "re");
	CHECK(f, "%s", path);
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
			break;
	fclose(f);
	CHECK(n >= 0, "no count in %s", path);
	return n;
}

static void test_idle_sleeps(void)
{
	long before, after;
	unsigned tries = 0;

	make_local(4, tz_queue_run_local);
	/* (Until it sleeps for the first time, and whatever else may have stopped it.) */
	do {
		before = switches_of(queue.stats->tid);
		usleep(700000);
		after = switches_of(queue.stats->tid);
	} while (after != before && ++tries < 100);
	CHECK(after == before, "an idle queue thread slept %ld times", after - before);
	end_local();
}

int main(void)
{
	static const struct { const char *name; void (*run)(void); } tests[] = {
		{ "the driver copies", test_driver_copies },
		{ "reads pass discards", test_reads_pass_discards },
		{ "reads pass writes", test_reads_pass_writes },
		{ "without a store", test_without_a_store },
		{ "answers go out", test_answers_go_out },
		{ "the clock", test_clock },
		{ "the backing file does not block", test_backing_does_not_block },
		{ "waiting sleeps", test_waiting_sleeps },
		{ "waiting ends", test_waiting_ends },
		{ "refused commands are sent again", test_refused_commands_are_sent_again },
		{ "enter may fail", test_enter_may_fail },
		{ "full submission queue", test_full_submission_queue },
		{ "what kills is refused", test_what_kills_is_refused },
		{ "awake", test_awake },
		{ "placement", test_placement },
		{ "local rounds", test_local_rounds },
		{ "timed-out requests", test_timed_out_requests },
		{ "slots of the dead", test_slots_of_the_dead },
		{ "idle sleeps", test_idle_sleeps },
	};

	for (unsigned i = 0; i < sizeof tests / sizeof tests[0]; i++) {
		tests[i].run();
		printf("%s: ok\n", tests[i].name);
		fflush(stdout);
	}
	return 0;
}
