/* killer.c - kills the server and the standby of a device, at random instants and in any order, and
 * waits each time until another server serves (device tests).
 *
 *   killer NAME COUNT SEED
 *
 * NAME is "ublkb0". One kill is of the server, of the standby, or of both at once. Half of the
 * kills wait for the standby before; the others hit whatever is there at that moment, also a server
 * that has just taken over and a standby on its way. If nobody takes over, the device is recovered
 * by hand, `truezram recover`. Prints "kills=N servers=N standbys=N recovered=N
 * longest_ms=N": kills, of which of the server, of the standby; recovered by hand; the longest time
 * from a server's death to a request that was served (recovered by hand ones apart: that is Python
 * starting). Ends with status 1 when after PATIENCE seconds nothing is served, or nobody stands by.
 */
#include "stats.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 300
#define BY_HAND_MS 60000		/* the nursery's time to take over, on a busy machine */
#define RANDOM_MS 400u

static const volatile struct tz_stats *stats;
static const char *name;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ ms / 1000, (long)(ms % 1000) * 1000000 }, NULL);
}

static void give_up(const char *what)
{
	fprintf(stderr, "killer: %s: server %d, standby %d, state %u, recoveries %" PRIu64 "\n",
		what, (int)stats->pid, (int)stats->standby, stats->state, stats->recoveries);
	exit(1);
}

static int runs(uint64_t pid)
{
	char path[32], line[64] = "";
	const char *state;

	snprintf(path, sizeof path, "/proc/%u/stat", (unsigned)pid);
	int fd = pid ? open(path, O_RDONLY) : -1;
	ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
	if (fd >= 0)
		close(fd);
	state = n > 0 ? strrchr(line, ')') : NULL;
	return state && state[1] && !strchr("ZX", state[2]);
}

/* Reads and writes that were completed. */
static uint64_t served(void)
{
	uint64_t n[8] = { 0 };
	char path[64];

	snprintf(path, sizeof path, "/sys/block/%s/stat", name);
	FILE *f = fopen(path, "r");
	for (unsigned i = 0; f && i < 8 && fscanf(f, "%" SCNu64, &n[i]) == 1; i++)
		;
	if (f)
		fclose(f);
	return n[0] + n[4];
}

static void recover(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execlp("truezram", "truezram", "recover", name, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		give_up("truezram recover failed");
}

static int is_live(void)
{
	return stats->state == TZ_STATE_LIVE && runs(stats->pid);
}

/* Until a server serves. 1: it had to be recovered by hand. */
static int wait_until_served(uint64_t before, int flows)
{
	uint64_t start = now_ms(), end = start + PATIENCE * 1000;
	int by_hand = 0;

	while (!is_live() || (flows && served() == before)) {
		if (!runs(stats->pid) && !runs(stats->standby) && now_ms() - start > BY_HAND_MS) {
			recover();
			by_hand = 1;
		}
		if (now_ms() > end)
			give_up("nothing is served");
		pause_ms(1);
	}
	return by_hand;
}

static void wait_for_standby(void)
{
	uint64_t end = now_ms() + PATIENCE * 1000;

	while (!runs(stats->standby) || stats->standby == stats->pid) {
		if (now_ms() > end)
			give_up("nobody stands by");
		pause_ms(1);
	}
}

static const void *map_stats(void)
{
	char path[64];

	snprintf(path, sizeof path, "/run/truezram/%s.stats", name);
	int fd = open(path, O_RDONLY);
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *stats, PROT_READ, MAP_SHARED, fd, 0);
	return map == MAP_FAILED ? NULL : map;
}

int main(int argc, char **argv)
{
	unsigned count = argc == 4 ? (unsigned)atoi(argv[2]) : 0;
	unsigned servers = 0, standbys = 0, by_hand = 0;
	uint64_t longest = 0;

	name = argv[1];
	if (!count || !(stats = map_stats())) {
		fprintf(stderr, "usage: killer NAME COUNT SEED\n");
		return 2;
	}
	mlockall(MCL_CURRENT | MCL_FUTURE);
	srandom((unsigned)atoi(argv[3]));
	for (unsigned i = 0; i < count; i++) {
		int what = (int)(random() % 4);		/* 0, 1: server; 2: standby; 3: both */
		if (random() % 2)
			wait_for_standby();
		pause_ms((unsigned)random() % RANDOM_MS);
		uint64_t server = stats->pid, standby = stats->standby;
		uint64_t before = served(), start = now_ms();
		if (what >= 2 && standby && standby != server) {
			kill((pid_t)standby, SIGKILL);
			standbys++;
		}
		if (what != 2) {
			kill((pid_t)server, SIGKILL);
			servers++;
			while (runs(server))
				pause_ms(1);
			if (wait_until_served(before, 1))
				by_hand++;
			else if (now_ms() - start > longest)
				longest = now_ms() - start;
		}
	}
	wait_until_served(0, 0);
	wait_for_standby();
	printf("kills=%u servers=%u standbys=%u recovered=%u longest_ms=%" PRIu64 "\n",
		count, servers, standbys, by_hand, longest);
	return 0;
}
