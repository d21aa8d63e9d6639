/* quiesce.c - what any ublk program can do to a device: QUIESCE_DEV, which ends the server's queues
 * and lets requests wait (device tests).
 *
 *   quiesce NUMBER	of /dev/ublkbNUMBER; status 3: this kernel cannot (before 6.16)
 */
#include "../../truezram/native/transport/ublk.c"

int main(int argc, char **argv)
{
	struct tz_ublk u;
	char why[216] = "";

	if (argc != 2 || tz_ublk_open(&u, why, sizeof why) < 0 || get_info(&u, atoi(argv[1])) < 0) {
		fprintf(stderr, "quiesce: %s\n", why);
		return 2;
	}
	int rc = tz_ublk_quiesce(&u, 1000);
	if (rc < 0)
		fprintf(stderr, "quiesce: %s\n", strerror(-rc));
	return rc == -EOPNOTSUPP ? 3 : rc < 0;
}
