/* test_nbd.c - the queue of an nbd device, against a kernel that the test plays at the other end of
 * the socket pair: a good one that sends its stream in pieces, one that is slow to read, one that
 * asks for what is not there, and one that sends nonsense.
 *
 * Nothing depends on time: the test waits for replies, and whatever order they come in is right.
 */
#include "harness.h"
#include "nbd.h"
#include "queue.h"
#include "store.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define PAGES 4096u
#define MAX_PAGES (TZ_NBD_MAX_IO / TZ_PAGE_SIZE)

static _Atomic int no_memory, attempts;

int __real_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data);
int __wrap_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data);

int __wrap_tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data)
{
	attempts++;
	return no_memory ? -EAGAIN : __real_tz_store_write(t, page, data);
}

/* ---- the device, and our end of it ---- */

static struct tz_store *store;
static struct tz_queue queue;
static int kernel;
static unsigned piece;			/* bytes that are sent at once at most; 0: all */
static uint8_t model[PAGES][TZ_PAGE_SIZE];	/* what the device holds */

static void start(unsigned depth)
{
	size_t len = (tz_stats_size(1) + 4095) & ~(size_t)4095;
	struct tz_stats *stats =
		mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char why[216] = "";
	int err = 0, fds[2];

	CHECK(stats != MAP_FAILED && tz_stats_init(stats, len, 1) == 0, "statistics page");
	struct tz_store_config c = { .disksize = (uint64_t)PAGES * TZ_PAGE_SIZE, .algorithm = "lz4",
		.nr_threads = 1, .arena_fd = memfd_create("test-arena", MFD_CLOEXEC),
		.stats = stats };
	store = tz_store_create(&c, &err, why, sizeof why);
	CHECK(store, "store: %d %s", err, why);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0, "socketpair");
	kernel = fds[1];
	queue = (struct tz_queue){ .depth = depth, .nr_pages = PAGES, .socket = fds[0],
		.wake = tz_queue_wake_nbd, .store = tz_store_thread(store, 0),
		.end_fd = eventfd(0, EFD_CLOEXEC) };
	queue.stats = tz_store_thread_stats(queue.store);
	memset(model, 0, sizeof model);
	no_memory = attempts = 0;
	piece = 0;
	int rc = tz_queue_start(&queue, tz_queue_run_nbd, why, sizeof why);
	CHECK(rc == 0, "%d %s", rc, why);
}

static void end(void)
{
	tz_queue_join(&queue);
	close(queue.socket);
	close(kernel);
	close(queue.end_fd);
	tz_store_destroy(store);
}

static void send_all(const void *data, size_t size)
{
	const uint8_t *at = data;

	while (size) {
		size_t n = piece && size > piece ? 1 + random_below(piece) : size;
		ssize_t sent = send(kernel, at, n, MSG_NOSIGNAL);
		CHECK(sent > 0, "send: %s", strerror(errno));
		at += sent;
		size -= (size_t)sent;
	}
}

static void receive_all(void *data, size_t size)
{
	uint8_t *at = data;

	while (size) {
		struct pollfd fds[2] = { { kernel, POLLIN, 0 }, { queue.end_fd, POLLIN, 0 } };
		poll(fds, 2, -1);
		CHECK(fds[0].revents & POLLIN, "the queue has ended");
		ssize_t n = recv(kernel, at, size, 0);
		CHECK(n > 0, "recv: %zd %s", n, strerror(errno));
		at += n;
		size -= (size_t)n;
	}
}

static void request(uint32_t command, uint64_t handle, uint64_t from, uint32_t length)
{
	struct tz_nbd_request r = { .magic = htobe32(TZ_NBD_REQUEST_MAGIC),
		.type = htobe32(command | 1u << 16),	/* a flag, which is nobody's business */
		.handle = handle, .from = htobe64(from), .length = htobe32(length) };

	send_all(&r, sizeof r);
}

/* A reply's head: its handle. */
static uint64_t reply(uint32_t *error)
{
	struct tz_nbd_reply r;

	receive_all(&r, sizeof r);
	CHECK(be32toh(r.magic) == TZ_NBD_REPLY_MAGIC, "magic %x", be32toh(r.magic));
	*error = be32toh(r.error);
	return r.handle;
}

static void expect(uint64_t handle, uint32_t wanted)
{
	uint32_t error;
	uint64_t got = reply(&error);

	CHECK(got == handle, "reply to %llx, not %llx", (unsigned long long)got,
		(unsigned long long)handle);
	CHECK(error == wanted, "error %u, not %u", error, wanted);
}

static void fill_model(unsigned page, unsigned n)
{
	for (unsigned i = page; i < page + n; i++)
		for (unsigned at = 0; at < TZ_PAGE_SIZE; at += 8) {
			uint64_t word = at % 64 ? i : random64();
			memcpy(model[i] + at, &word, 8);
		}
}

static void send_write(uint64_t handle, unsigned page, unsigned n)
{
	fill_model(page, n);
	request(TZ_NBD_WRITE, handle, (uint64_t)page * TZ_PAGE_SIZE, n * TZ_PAGE_SIZE);
	send_all(model[page], (size_t)n * TZ_PAGE_SIZE);
}

static void check_pages(unsigned page, unsigned n)
{
	static uint8_t data[MAX_PAGES * TZ_PAGE_SIZE];

	receive_all(data, (size_t)n * TZ_PAGE_SIZE);
	CHECK(!memcmp(data, model[page], (size_t)n * TZ_PAGE_SIZE), "pages %u to %u are others",
		page, page + n - 1);
}

static void read_back(unsigned page, unsigned n)
{
	request(TZ_NBD_READ, page, (uint64_t)page * TZ_PAGE_SIZE, n * TZ_PAGE_SIZE);
	expect(page, 0);
	check_pages(page, n);
}

/* ---- tests ---- */

static void erase(uint32_t command, unsigned page, unsigned n)
{
	request(command, 5, (uint64_t)page * TZ_PAGE_SIZE, n * TZ_PAGE_SIZE);
	memset(model[page], 0, (size_t)n * TZ_PAGE_SIZE);
	expect(5, 0);
}

/* Requests one at a time, their stream in pieces of any size. */
static void test_in_pieces(void)
{
	static const unsigned pieces[] = { 0, 1, 7, 30, 5000 };

	start(16);
	for (unsigned i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		piece = pieces[i];
		send_write(0x1122334455667788ull, 3, 1);
		expect(0x1122334455667788ull, 0);
		send_write(1, 40, MAX_PAGES);
		expect(1, 0);
		read_back(2, 4);
		read_back(40, MAX_PAGES);
		request(TZ_NBD_FLUSH, 9, 0, 0);
		expect(9, 0);
		erase(TZ_NBD_TRIM, 41, 2);
		erase(TZ_NBD_WRITE_ZEROES, 44, 1);
		read_back(40, 8);
	}
	CHECK(queue.stats->num_flushes == 5, "flushes");
	CHECK(queue.stats->num_discards == 10, "discards");
	CHECK(queue.stats->invalid_io == 0, "invalid");
	end();
}

/* What cannot be served is refused, its data passed over, and the next request is understood. */
static void test_refused(void)
{
	static const struct { uint32_t command; uint64_t from; uint32_t length, error; } bad[] = {
		{ TZ_NBD_READ, 1, 4096, EINVAL },		/* between pages */
		{ TZ_NBD_READ, 0, 100, EINVAL },
		{ TZ_NBD_READ, 0, 0, EINVAL },
		{ TZ_NBD_READ, (uint64_t)PAGES * TZ_PAGE_SIZE, 4096, EINVAL },
		{ TZ_NBD_READ, UINT64_MAX - 4095, 4096, EINVAL },
		{ TZ_NBD_READ, 0, TZ_NBD_MAX_IO + 4096, EINVAL },
		{ TZ_NBD_READ, 0, 0xfffff000u, EINVAL },
		{ TZ_NBD_WRITE, 4095, 4096, EINVAL },
		{ TZ_NBD_WRITE, 0, 4095, EINVAL },
		{ TZ_NBD_WRITE, 0, 0, EINVAL },
		{ TZ_NBD_WRITE, (uint64_t)(PAGES - 1) * TZ_PAGE_SIZE, 8192, EINVAL },
		{ TZ_NBD_WRITE, 0, 3 * TZ_NBD_MAX_IO + 1, EINVAL },
		{ TZ_NBD_TRIM, 512, 4096, EINVAL },
		{ TZ_NBD_TRIM, 0, 0xfffff000u, EINVAL },
		{ 5, 0, 4096, EOPNOTSUPP },
		{ 0xffff, 0, 4096, EOPNOTSUPP },
	};
	unsigned n = sizeof bad / sizeof *bad;
	static uint8_t nothing[3 * TZ_NBD_MAX_IO + 1];

	start(4);
	send_write(1, 0, 2);
	expect(1, 0);
	for (unsigned i = 0; i < n; i++) {
		request(bad[i].command, 100 + i, bad[i].from, bad[i].length);
		if (bad[i].command == TZ_NBD_WRITE)
			send_all(nothing, bad[i].length);
		uint32_t error;
		CHECK(reply(&error) == 100 + i && error == bad[i].error, "request %u: error %u", i,
			error);
		read_back(0, 2);
	}
	CHECK(queue.stats->invalid_io == n, "%llu of %u are counted",
		(unsigned long long)queue.stats->invalid_io, n);
	end();
}

/* More requests than the queue has tags: the rest waits in the socket. */
static void test_few_tags(void)
{
	enum { N = 300 };
	static uint8_t seen[N];
	uint32_t error;

	start(2);
	send_write(0, 7, 1);
	expect(0, 0);
	for (unsigned i = 0; i < N; i++)
		request(TZ_NBD_READ, i, 7 * TZ_PAGE_SIZE, TZ_PAGE_SIZE);
	for (unsigned i = 0; i < N; i++) {
		uint64_t handle = reply(&error);
		CHECK(handle < N && !seen[handle] && !error, "request %u", i);
		seen[handle] = 1;
		check_pages(7, 1);
	}
	end();
}

/* Writes that wait for memory keep their data; those that no buffer is left for wait before, and so
 * does a read behind them. All are served in the end. */
static void test_writes_that_wait(void)
{
	enum { N = 24 };		/* there are 16 buffers, and room for more in the socket */
	uint8_t seen[N + 1] = { 0 };
	uint32_t error;
	int flags = MSG_PEEK | MSG_DONTWAIT;
	char byte;

	start(TZ_NBD_MAX_DEPTH);
	no_memory = 1;
	for (unsigned i = 0; i < N; i++)
		send_write(i, 10 + i, 1);
	request(TZ_NBD_READ, N, 0, TZ_PAGE_SIZE);
	while (attempts < 24)
		usleep(1000);
	CHECK(recv(kernel, &byte, 1, flags) < 0 && errno == EAGAIN, "a write was answered");
	no_memory = 0;
	for (unsigned i = 0; i <= N; i++) {
		uint64_t handle = reply(&error);
		CHECK(handle <= N && !seen[handle] && !error, "request %u: error %u", i, error);
		seen[handle] = 1;
		if (handle == N)
			check_pages(0, 1);
	}
	for (unsigned i = 0; i < N; i++)
		read_back(10 + i, 1);
	CHECK(queue.stats->deferred_writes > 0, "none waited");
	end();
}

/* Replies that do not fit the socket wait in the queue's thread until they are read. */
static void test_slow_reader(void)
{
	enum { N = 64 };
	uint32_t error;

	start(TZ_NBD_MAX_DEPTH);
	for (unsigned page = 0; page < 4 * MAX_PAGES; page += MAX_PAGES) {
		send_write(1, page, MAX_PAGES);
		expect(1, 0);
	}
	for (unsigned i = 0; i < N; i++)
		request(TZ_NBD_READ, i % 4, (uint64_t)(i % 4) * TZ_NBD_MAX_IO, TZ_NBD_MAX_IO);
	for (unsigned i = 0; i < N; i++) {
		unsigned page = (unsigned)reply(&error) * MAX_PAGES;
		CHECK(!error && page < 4 * MAX_PAGES, "reply %u", i);
		check_pages(page, MAX_PAGES);
	}
	end();
}

/* A queue whose replies nobody reads can be stopped. */
static void test_stop_while_sending(void)
{
	start(TZ_NBD_MAX_DEPTH);
	for (unsigned i = 0; i < 64; i++)
		request(TZ_NBD_READ, i, 0, TZ_NBD_MAX_IO);
	end();
}

static void wait_for_end(void)
{
	uint64_t n;

	CHECK(read(queue.end_fd, &n, sizeof n) == (ssize_t)sizeof n, "eventfd");
	CHECK(atomic_load(&queue.state) == TZ_QUEUE_ENDED, "it reports something else");
}

/* The end of the socket ends the queue, in the middle of a request as well; so does what is no
 * request. What is said before the end has no reply. */
static void test_ends(void)
{
	static const uint8_t nonsense[64] = "GET / HTTP/1.1\r\n";

	for (unsigned how = 0; how < 4; how++) {
		start(8);
		send_write(1, 0, 1);
		expect(1, 0);
		if (how == 0)
			request(TZ_NBD_WRITE, 2, 0, 4096);	/* its data never comes */
		else if (how == 1)
			send_all(nonsense, sizeof nonsense);
		else if (how == 2)
			request(TZ_NBD_DISCONNECT, 0, 0, 0);
		if (how == 2)
			read_back(0, 1);
		if (how != 1)
			shutdown(kernel, SHUT_RDWR);
		wait_for_end();
		end();
	}
}

/* One request of any kind on pages of its own. How many pages the reply has. */
static unsigned send_any(unsigned handle, unsigned page)
{
	uint64_t from = (uint64_t)page * TZ_PAGE_SIZE;
	unsigned what = random_below(4), n = 1 + random_below(what == 3 ? 3 : MAX_PAGES);

	switch (what) {
	case 0:
		send_write(handle, page, n);
		return 0;
	case 1:
		send_write(handle, page, 1);
		return 0;
	case 2:
		request(TZ_NBD_TRIM, handle, from, n * TZ_PAGE_SIZE);
		memset(model[page], 0, (size_t)n * TZ_PAGE_SIZE);
		return 0;
	default:
		request(TZ_NBD_READ, handle, from, n * TZ_PAGE_SIZE);
		return n;
	}
}

/* Several under way, in pieces, whose replies may come in any order. What is read fits the socket:
 * the test sends before it reads. */
static void test_random(void)
{
	enum { ROUNDS = 300, MOST = 8 };
	uint32_t error;

	start(5);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned n = 1 + random_below(MOST), pages[MOST];
		piece = random_below(3) ? 0 : 1 + random_below(9000);
		for (unsigned i = 0; i < n; i++)
			pages[i] = send_any(i, i * MAX_PAGES);
		for (unsigned i = 0; i < n; i++) {
			uint64_t handle = reply(&error);
			CHECK(handle < n && !error, "round %u: error %u", round, error);
			if (pages[handle])
				check_pages((unsigned)handle * MAX_PAGES, pages[handle]);
		}
	}
	end();
}

int main(void)
{
	test_in_pieces();
	test_refused();
	test_few_tags();
	test_writes_that_wait();
	test_slow_reader();
	test_stop_while_sending();
	test_ends();
	test_random();
	return 0;
}
