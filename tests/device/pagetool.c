/* pagetool.c - writes real pages' contents into a device or into memory and checks that they come
 * back (device tests).
 *
 *   pagetool hog POOL MIB
 *	anonymous memory filled with pages; commands on standard input, see hog()
 *   pagetool fill POOL DEVICE PAGES [FIRST]
 *	writes pages FIRST (0), FIRST + 1, ... until PAGES are written or the device reports ENOSPC,
 *	16 with one request; prints "written=N error=NAME"; status 0 in both cases
 *   pagetool check POOL DEVICE PAGES [FIRST]
 *	reads and compares them; prints "checked=N bad=M"; status 1 if any is bad
 *   pagetool stall [locked]
 *	touches 1 MiB of its own every 10 ms until SIGTERM; prints the longest time between two
 *	rounds and how many took longer: "longest_ms=N over_100ms=N over_1s=N"
 *
 * POOL is a file of 4096-byte pages collected from a running process. Page i holds a page of the
 * pool chosen by a hash of (i, generation) with both numbers written over 16 of its bytes at a
 * place that the hash chooses too: contents are real, and no two pages are equal, so a page that
 * comes back in another's place is found as surely as a changed one.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE 4096u
#define RUN 16u

static const unsigned char *pool;
static uint64_t pool_pages;

static volatile sig_atomic_t ended;

static void end(int signal)
{
	(void)signal;
	ended = 1;
}

static void end_by_sigterm(int on)
{
	struct sigaction action = { .sa_handler = on ? end : SIG_DFL, .sa_flags = SA_RESTART };

	sigaction(SIGTERM, &action, NULL);
}

static void die(const char *what)
{
	fprintf(stderr, "pagetool: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

static void open_pool(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || fstat(fd, &st))
		die(path);
	pool_pages = (uint64_t)st.st_size / PAGE;
	if (pool_pages < 256) {
		fprintf(stderr, "pagetool: %s holds %" PRIu64 " pages; too few\n", path,
			pool_pages);
		exit(2);
	}
	pool = mmap(NULL, pool_pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (pool == MAP_FAILED)
		die(path);
}

static void make_page(unsigned char *page, uint64_t index, uint64_t generation)
{
	uint64_t h = mix(index * 0x9e3779b97f4a7c15ull + generation + 1);
	uint64_t stamp[2] = { index, generation };

	memcpy(page, pool + (h % pool_pages) * PAGE, PAGE);
	memcpy(page + (h >> 40) % (PAGE / 16) * 16, stamp, sizeof(stamp));
}

static uint64_t hash_page(const unsigned char *page)
{
	uint64_t h = 0x243f6a8885a308d3ull, word;

	for (unsigned i = 0; i < PAGE; i += sizeof(word)) {
		memcpy(&word, page + i, sizeof(word));
		h = (h ^ word) * 0x9fb21c651e98df25ull;
		h ^= h >> 32;
	}
	return h;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- devices ---- */

static unsigned char *io_run(void)
{
	void *run;

	if (posix_memalign(&run, PAGE, RUN * PAGE))
		die("memory");
	return run;
}

static unsigned run_of(uint64_t left)
{
	return left < RUN ? (unsigned)left : RUN;
}

static void make_run(unsigned char *run, uint64_t first, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		make_page(run + i * PAGE, first + i, 0);
}

/* Writes n pages with one request; if there is no room for all, page by page as far as there is.
 * Returns how many. */
static unsigned put(int fd, const unsigned char *run, uint64_t first, unsigned n)
{
	ssize_t got = pwrite(fd, run, n * PAGE, (off_t)(first * PAGE));
	unsigned i = 0;

	if (got == (ssize_t)(n * PAGE))
		return n;
	if (got < 0 && errno != ENOSPC)
		die("write");
	while (n > 1 && i < n && put(fd, run + i * PAGE, first + i, 1))
		i++;
	return i;
}

static int fill(const char *device, uint64_t pages, uint64_t first)
{
	unsigned char *run = io_run();
	uint64_t written = 0;
	unsigned n, done;
	int fd = open(device, O_WRONLY | O_DIRECT);

	if (fd < 0)
		die(device);
	do {
		n = run_of(pages - written);
		make_run(run, first + written, n);
		done = n ? put(fd, run, first + written, n) : 0;
		written += done;
	} while (done && done == n);
	printf("written=%" PRIu64 " error=%s\n", written, written == pages ? "none" : "ENOSPC");
	return 0;
}

static int check(const char *device, uint64_t pages, uint64_t first)
{
	unsigned char *run = io_run(), *want = io_run();
	uint64_t bad = 0;
	unsigned n;
	int fd = open(device, O_RDONLY | O_DIRECT);

	if (fd < 0)
		die(device);
	for (uint64_t at = first; at < first + pages; at += n) {
		n = run_of(first + pages - at);
		if (pread(fd, run, n * PAGE, (off_t)(at * PAGE)) != (ssize_t)(n * PAGE))
			die("read");
		make_run(want, at, n);
		for (unsigned i = 0; i < n; i++)
			if (memcmp(run + i * PAGE, want + i * PAGE, PAGE) && bad++ < 5)
				fprintf(stderr, "page %" PRIu64 " differs\n", at + i);
	}
	printf("checked=%" PRIu64 " bad=%" PRIu64 "\n", pages, bad);
	return bad != 0;
}

/* ---- memory ---- */

struct hog {
	unsigned char *memory;
	uint64_t *hashes, pages;
};

/* Runs of 16 pages are visited in steps of `step` runs, which has no factor in common with their
 * number: 1 is in order. One in `share` of them is. */
static uint64_t verify(const struct hog *hog, uint64_t step, uint64_t share)
{
	uint64_t bad = 0, runs = hog->pages / RUN, run = 0;

	for (uint64_t n = 0; n < runs / share; n++, run = (run + step) % runs)
		for (uint64_t i = run * RUN; i < (run + 1) * RUN; i++)
			if (hash_page(hog->memory + i * PAGE) != hog->hashes[i] && bad++ < 5)
				fprintf(stderr, "page %" PRIu64 " differs\n", i);
	return bad;
}

static void write_pages(struct hog *hog, uint64_t share, uint64_t generation)
{
	for (uint64_t i = 0; i < hog->pages / share; i++) {
		make_page(hog->memory + i * PAGE, i, generation);
		hog->hashes[i] = hash_page(hog->memory + i * PAGE);
	}
}

static uint64_t renew(struct hog *hog, uint64_t generation)
{
	uint64_t bad = verify(hog, 1031, 8);

	madvise(hog->memory, hog->pages * PAGE, MADV_DONTNEED);
	write_pages(hog, 1, generation);
	return bad;
}

/* One command a line, one line of answer each ("NAME pages=N bad=M"):
 *   fill             writes every page
 *   rewrite SHARE    writes the first 1/SHARE of the pages anew
 *   renew GENERATION checks one run in 8, gives all memory back and writes every page with other
 *                    contents
 *   churn SECONDS    renews for so long, or until SIGTERM, at least once
 *   verify STEP [SHARE]  checks every page, or one run in SHARE, against the hash taken when it
 *                    was written; STEP is a prime, 1 for in order
 *   keep MIB         gives the memory beyond the first MIB back
 *   pageout          asks the kernel to swap all of it out now
 *   damage           changes one bit, so that a test can see verify find it
 *   quit
 */
static int hog(uint64_t mib)
{
	struct hog hog = { .pages = mib << 20 >> 12 };
	char line[64], name[16];
	uint64_t argument, share, bad;

	hog.memory = mmap(NULL, hog.pages * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hog.hashes = mmap(NULL, hog.pages * 8, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (hog.memory == MAP_FAILED || hog.hashes == MAP_FAILED)
		die("memory");
	while (fgets(line, sizeof(line), stdin)) {
		argument = bad = 0;
		share = 1;
		if (sscanf(line, "%15s %" SCNu64 " %" SCNu64, name, &argument, &share) < 1)
			continue;
		if (!strcmp(name, "fill")) {
			write_pages(&hog, 1, 0);
		} else if (!strcmp(name, "rewrite") && argument) {
			write_pages(&hog, argument, 1);
		} else if (!strcmp(name, "renew") && argument) {
			bad = renew(&hog, argument);
		} else if (!strcmp(name, "churn") && argument) {
			uint64_t end = now_ns() + argument * 1000000000u;
			end_by_sigterm(1);
			for (uint64_t g = 1; g == 1 || (now_ns() < end && !ended); g++)
				bad += renew(&hog, g);
			end_by_sigterm(0);
		} else if (!strcmp(name, "verify") && argument && share) {
			bad = verify(&hog, argument, share);
		} else if (!strcmp(name, "keep") && argument << 8 <= hog.pages) {
			madvise(hog.memory + (argument << 20),
				(hog.pages - (argument << 8)) * PAGE, MADV_DONTNEED);
			hog.pages = argument << 8;
		} else if (!strcmp(name, "pageout")) {
			if (madvise(hog.memory, hog.pages * PAGE, MADV_PAGEOUT))
				die("pageout");
		} else if (!strcmp(name, "damage")) {
			hog.memory[hog.pages / 2 * PAGE + 77] ^= 4;
		} else if (!strcmp(name, "quit")) {
			return 0;
		} else {
			fprintf(stderr, "pagetool: bad command: %s", line);
			return 2;
		}
		printf("%s pages=%" PRIu64 " bad=%" PRIu64 "\n", name, hog.pages, bad);
		fflush(stdout);
	}
	return 0;
}

/* ---- stalls ---- */

#define STALL_MEMORY (1u << 20)
#define STALL_NS 10000000

static int stall(int locked)
{
	unsigned char *memory = mmap(NULL, STALL_MEMORY, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec pause = { 0, STALL_NS };
	uint64_t longest = 0, over[2] = { 0 };

	if (memory == MAP_FAILED || (locked && mlockall(MCL_CURRENT | MCL_FUTURE)))
		die("memory");
	end_by_sigterm(1);
	uint64_t last = now_ns();
	while (!ended) {
		for (unsigned i = 0; i < STALL_MEMORY; i += PAGE)
			memory[i]++;
		nanosleep(&pause, NULL);
		uint64_t now = now_ns(), took = now - last;
		last = now;
		if (took > longest)
			longest = took;
		over[0] += took > 100000000u;
		over[1] += took > 1000000000u;
	}
	printf("longest_ms=%" PRIu64 " over_100ms=%" PRIu64 " over_1s=%" PRIu64 "\n",
		longest / 1000000u, over[0], over[1]);
	return 0;
}

int main(int argc, char **argv)
{
	if ((argc == 2 || (argc == 3 && !strcmp(argv[2], "locked"))) && !strcmp(argv[1], "stall"))
		return stall(argc == 3);
	if (argc == 4 && !strcmp(argv[1], "hog")) {
		open_pool(argv[2]);
		return hog(strtoull(argv[3], NULL, 10));
	}
	if ((argc == 5 || argc == 6) && (!strcmp(argv[1], "fill") || !strcmp(argv[1], "check"))) {
		uint64_t first = argc == 6 ? strtoull(argv[5], NULL, 10) : 0;
		open_pool(argv[2]);
		return (argv[1][0] == 'f' ? fill : check)(argv[3],
			strtoull(argv[4], NULL, 10), first);
	}
	fprintf(stderr, "usage: pagetool hog POOL MIB | fill POOL DEVICE PAGES [FIRST]"
		" | check POOL DEVICE PAGES [FIRST] | stall [locked]\n");
	return 2;
}
