/* protocol.h - control messages between truezramd and its clients, over a Unix SOCK_SEQPACKET
 * socket.
 *
 * The socket is /run/truezram/NAME.sock (or $XDG_RUNTIME_DIR/truezram/NAME.sock), mode 0600; the
 * server also checks the peer's uid (SO_PEERCRED): its own or root. One request, one reply, both of
 * fixed size and version; a message of another size, magic or version gets a reply with
 * TZ_E_PROTOCOL and the connection is closed. Strings are NUL-terminated inside their arrays; a
 * string without a NUL is refused.
 */
#ifndef TZ_PROTOCOL_H
#define TZ_PROTOCOL_H

#include "codec.h"

#define TZ_MSG_MAGIC 0x315a5254u /* "TRZ1" */
#define TZ_MSG_VERSION 1

/* Limits of a device's options. */
#define TZ_MAX_SIZE (1ull << 52)	/* bytes, of disk and memory limit: page numbers must fit
					 * into an entry */
#define TZ_MAX_ID ((1u << 20) - 1)	/* ids are minors, which have 20 bits */
#define TZ_MAX_DEPTH 4096		/* of a queue; local: TZ_RING_MAX_DEPTH */

/* Exit codes, of the server and of `truezram`. */
enum tz_exit {
	TZ_EXIT_OK = 0,
	TZ_EXIT_FAILED = 1,
	TZ_EXIT_USAGE = 2,
	TZ_EXIT_UNSUPPORTED = 3,	/* missing permission or kernel support */
	TZ_EXIT_BUSY = 4
};

enum tz_op {
	TZ_OP_PING = 1,		/* reply: nothing but a status */
	TZ_OP_SET = 2,		/* text = "mem_limit=BYTES", "algorithm=NAME[:LEVEL]",
				 * "dedup=on|off", "backing=LIMIT:PATH|none", or another row of
				 * control.c's table (TZ_E_BUSY: of backing alone); for tests and
				 * measurements "age_speed=N": pages grow old N times as fast
				 * (store.h) */
	TZ_OP_STOP = 3,		/* stop and remove the device; the reply comes first, then the
				 * server ends. arg[0]: enum tz_stop */
	TZ_OP_ATTACH = 4,	/* local transport: the reply carries the ring's descriptor
				 * (SCM_RIGHTS) */
	TZ_OP_PAGE_MAP = 5,	/* arg[0] first page, arg[1] pages, arg[2] regions (<=
				 * TZ_MAP_REGIONS), arg[3] enum tz_map_by: kinds, or ages, per
				 * region. Reply value[0]: what it is by (a server of before there
				 * were ages does not look at arg[3]) */
	TZ_OP_TRIM = 6,		/* give the kernel back every unused segment now; reply value[0] =
				 * bytes returned */
	TZ_OP_COMPACT = 7,	/* pack segments, then trim; does not wait. Reply value[0]: what
				 * compact_done in the statistics will be */
	TZ_OP_ARENA = 8,	/* the reply carries a descriptor of the arena to read from
				 * (SCM_RIGHTS): for check.h */
	TZ_OP_HAND_OVER = 9,	/* another server, arg[0] its pid, is ready to take over: the reply
				 * comes first, then this one ends and leaves the device as it is */
	TZ_OP_AGES = 10,	/* count pages by age now; does not wait. Reply value[0]: what
				 * ages_counted in the statistics will be */
	TZ_OP_RECOMPRESS = 11,	/* write pages that have been idle for arg[0] ns at least once more,
				 * text = "dense", "zstd[:LEVEL]", "cold", or "backing" (to the
				 * backing file) or "memory" (all that is there comes back), with at
				 * most arg[1] per cent of a core; does not wait. Reply value[0]:
				 * what recompress_done in the statistics will be; value[1]: for how
				 * many ns the pages that are meant have been idle. TZ_E_BUSY: one
				 * is at work */
	TZ_OP_STOP_RECOMPRESS = 12	/* reply value[0]: 1, there was one to stop */
};

enum tz_map_by { TZ_MAP_BY_KIND = 0, TZ_MAP_BY_AGE = 1 };

/* What STOP refuses (TZ_E_BUSY): swap, under whatever name, always. */
enum tz_stop {
	TZ_STOP_UNLESS_SWAP = 0,
	TZ_STOP_UNLESS_CLAIMED = 1	/* a mounted disk too, or one with a block device on it:
					 * anything that has it open exclusively */
};

enum tz_status {
	TZ_OK = 0,
	TZ_E_FAILED = 1,	/* text says what and why */
	TZ_E_PROTOCOL = 2,	/* wrong size, magic, version, op or string */
	TZ_E_INVALID = 3,	/* value out of range, unknown key or algorithm */
	TZ_E_PERMISSION = 4,	/* reserved: clients know it, no server sends it */
	TZ_E_BUSY = 5,
	TZ_STARTING = 6		/* in struct tz_ready only */
};

#define TZ_MAP_REGIONS 256

struct tz_request {
	uint32_t magic;
	uint16_t version, op;	/* enum tz_op */
	uint64_t arg[4];
	char text[216];
};

struct tz_reply {
	uint32_t magic;
	uint16_t version, status;	/* enum tz_status */
	uint64_t value[4];
	char text[216];
	uint32_t map[TZ_MAP_REGIONS][TZ_KINDS_STORED];	/* PAGE_MAP only, else zero */
};

/* What a starting server writes to the descriptor named by --ready-fd: first, with TZ_STARTING, as
 * soon as it has a name; then, when the device is usable or has failed, and closes it. */
struct tz_ready {
	uint32_t magic;
	uint16_t version, status;	/* TZ_OK: the node is usable; TZ_STARTING: id and name are
					 * known */
	uint32_t id, exit_code;		/* exit code for the CLI where status is not TZ_OK */
	char name[32];			/* "ublkb0" */
	char text[216];			/* reason */
};

#endif
