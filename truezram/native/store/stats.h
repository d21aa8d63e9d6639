/* stats.h - the statistics page: one file per device, written by its server, mapped read-only by
 * everyone else.
 *
 * The file is also the device's registry entry (/run/truezram/NAME.stats): its head says who serves
 * the device and what it is. Layout: struct tz_stats, then struct tz_queue_stats for each of the
 * nr_queues and of TZ_STATS_HELPERS, at queue_offset (64-byte multiples). Everything is
 * little-endian as the host is; sizes in bytes, times in nanoseconds, clocks CLOCK_MONOTONIC.
 *
 * Who writes: the head changes under its `seq`, which is also the lock of its several writers (the
 * control thread, and any thread that has an error to report); queue thread i writes its
 * tz_queue_stats, the counters under its own `seq` (odd while they change), histograms without
 * (each bin is consistent by itself). Readers copy between two equal even values of seq (stats.c:
 * tz_stats_read).
 */
#ifndef TZ_STATS_H
#define TZ_STATS_H

#include "codec.h"

#define TZ_STATS_MAGIC 0x3153545a54ull /* "TZTS1" */
#define TZ_STATS_VERSION 9
#define TZ_MAX_QUEUES 64
/* Threads that are not queues and have a tz_queue_stats too, after those of the queues: the one
 * that collects freed swap slots, and the housekeeper. Sums include them. */
#define TZ_STATS_HELPERS 2
/* As many as may have been served at one death. */
#define TZ_SUSPECTS TZ_MAX_QUEUES

/* Ages of pages (age.c). */
#define TZ_AGES 8

/* The columns of a page map by age (tz_store_age_map). */
enum tz_map_age {
	TZ_MAP_AGE_EMPTY = 0,
	TZ_MAP_AGE_NONE = 1,	/* same-filled, or damaged */
	TZ_MAP_AGE_0 = 2	/* and the others after it */
};

/* Latency histogram, log-linear: bins 0..7 are 0..7 units of 64 ns; above, 8 bins per power of
 * two. */
#define TZ_LAT_UNIT_NS 64
#define TZ_LAT_BINS 200
/* Stored size histogram: bin i counts pages now stored in i*64+1 .. (i+1)*64 bytes; bin 64 is
 * unused by compressed pages and holds raw ones. Pages in groups are in none: they have no size of
 * their own. */
#define TZ_SIZE_BINS 65
/* Kinds whose bytes are counted: all that there are. (A reader copies them each time.) */
#define TZ_KINDS_COUNTED 16

enum tz_state {
	TZ_STATE_STARTING = 0, TZ_STATE_LIVE = 1, TZ_STATE_STOPPING = 2,
	/* Reserved: readers know these numbers, no server writes them. */
	TZ_STATE_STOPPED = 3, TZ_STATE_FAILED = 4,
	TZ_STATE_RECOVERING = 5,	/* another server takes over */
	TZ_STATE_HANDED_OVER = 6	/* this one has ended for another to take over */
};
/* Whether the kernel tells the server which swap slots it has freed (server/slots.c). */
enum tz_slot_tracking {
	TZ_SLOT_TRACKING_OFF = 0,	/* not in use as swap */
	TZ_SLOT_TRACKING_ON = 1,
	TZ_SLOT_TRACKING_TESTING = 2,	/* being tested, or to be tested again: the text says why */
	TZ_SLOT_TRACKING_UNAVAILABLE = 3
};
/* Why a policy acts earlier now (pressure.c): for nothing; used memory is near mem_limit; processes
 * wait for memory. */
enum tz_pressure { TZ_PRESSURE_NONE = 0, TZ_PRESSURE_MEM_LIMIT = 1, TZ_PRESSURE_MEMORY = 2 };
/* What a device's queues are to be good at (transport/spin.h). */
enum tz_mode { TZ_MODE_BALANCED = 0, TZ_MODE_LOW_LATENCY = 1, TZ_MODE_MAX_THROUGHPUT = 2 };
#define TZ_MODES 3
/* Of the backing file (backing.h). */
enum tz_backing_state {
	TZ_BACKING_NONE = 0,
	TZ_BACKING_READY = 1,
	TZ_BACKING_FULL = 2,		/* nothing is written until there is room again */
	TZ_BACKING_FAILED = 3,		/* nothing is written any more; reads are tried */
	TZ_BACKING_MISSING = 4		/* not opened, or another one: its pages read as errors */
};
enum tz_transport { TZ_TRANSPORT_UBLK = 0, TZ_TRANSPORT_LOCAL = 1, TZ_TRANSPORT_NBD = 2 };
enum tz_device_flags {
	TZ_FLAG_MEMORY_LOCKED = 1,	/* arena cannot be swapped out */
	TZ_FLAG_NOSWAP_TMPFS = 2,	/* arena is a file on a noswap tmpfs: it can outlive the
					 * server */
	TZ_FLAG_USER_COPY = 4,		/* ublk: data moves by pread/pwrite; else each request
					 * has a buffer */
	TZ_FLAG_IO_FLUSHER = 8,		/* queue threads run with PR_SET_IO_FLUSHER, read back */
	TZ_FLAG_RECOVERABLE = 16,	/* when its server dies another one can take over */
	TZ_FLAG_DATA_ASKED = 32		/* ublk: whether it is USER_COPY was asked for */
};

/* What servers may have died of (transport/suspects.h). */
struct tz_suspect {
	uint64_t request;		/* as `serving` of a queue; 0: none */
	uint64_t deaths;
	uint64_t last_ns;		/* when the last was noticed */
};

/* What has been done with idle pages since the device was created, one step of it. */
struct tz_step_stats {
	uint64_t pages;			/* written once more, */
	uint64_t saved;			/* by how many bytes less, */
	uint64_t cpu_ns;		/* and what that took */
	uint64_t no_room;		/* pages, or windows of them, left for lack of room */
	uint64_t tried;			/* what objects took that it was tried with for the first
					 * time, those that it gains nothing with included */
	uint64_t runs;			/* that went to the end */
};

struct tz_stats {
	uint64_t magic;
	uint32_t version, size;		/* of the whole file, all queues included */
	uint32_t queue_offset, queue_stride;
	uint32_t nr_queues, queue_depth;
	uint32_t transport;		/* enum tz_transport */
	uint32_t id;			/* N of /dev/ublkbN, /dev/nbdN or local N */
	uint64_t pid, pid_start;	/* server, and field 22 of /proc/PID/stat: so that a reused
					 * pid is recognized */
	uint64_t created_ns;		/* CLOCK_REALTIME */
	char name[32];			/* "ublkb0", "nbd0", "local0" */
	char server_version[32];

	/* --- under seq --- */
	uint64_t seq;
	uint32_t state;			/* enum tz_state */
	uint32_t flags;			/* enum tz_device_flags */
	uint64_t disksize;		/* bytes */
	uint64_t mem_limit;		/* bytes, 0 = none */
	char algorithm[32];		/* as given: "lz4", "zstd:3" */
	uint32_t isa;			/* enum tz_isa of the algorithm in use */
	uint32_t max_io;		/* bytes of the largest request */
	uint32_t dictionary_size;	/* bytes of zstd's dictionary, 0 = none */
	uint32_t dictionary_id;		/* the number that training gave it */
	uint32_t dictionary_memory;	/* bytes that it takes with its tables, outside of
					 * mem_used_total */
	uint32_t slot_tracking;		/* enum tz_slot_tracking */
	uint64_t recoveries;		/* servers that have died, and another one took over */
	uint64_t standby;		/* pid of the process that will take over; 0: none */
	uint64_t dedup;			/* 1: identical pages share one object */
	uint64_t idle_dense, idle_cold;	/* the policy (policy.h): seconds, 0: never */
	uint64_t cpu_percent;
	uint64_t mode;			/* enum tz_mode, */
	uint64_t mode_since_ns;		/* since then (CLOCK_MONOTONIC), */
	uint64_t spin_before_ns;	/* and what spin_ns of all queues was then */
	uint64_t idle_backing;		/* the same, seconds */
	uint64_t backing_daily, backing_rate;	/* bytes a day and a second at most; 0: any */
	uint64_t backing_limit;		/* bytes of the backing file that are used at most */
	uint64_t backing_state;		/* enum tz_backing_state */
	char backing_path[256];		/* "": none */
	char backing_text[128];		/* why the state is FULL, FAILED or MISSING */
	char slot_tracking_text[128];	/* on: by which function of the kernel; else why not */
	char last_error[128];		/* newest thing that went wrong, "" if nothing */
	uint64_t last_error_ns;		/* CLOCK_REALTIME */
	/* Pages with an object, by age, as they were counted last. Each age: for how long its pages
	 * have not been touched, at least and at most (0: no limit); how many there are; and what
	 * their objects take, those that pages share left out. */
	uint64_t age_least_ns[TZ_AGES], age_most_ns[TZ_AGES];
	uint64_t age_pages[TZ_AGES], age_bytes[TZ_AGES];
	uint64_t ages_counted_ns;	/* CLOCK_MONOTONIC; 0: not yet */

	/* --- single values, each written atomically, by the store's threads --- */
	uint64_t mem_used_total;	/* bytes that the kernel holds for the device's pages: the
					 * arena (head, table, segments, reserve) and what is known
					 * of its segments */
	uint64_t mem_used_max;		/* its highest value */
	uint64_t table_bytes;		/* of which head, directory and page table, a few spare
					 * pages of that included */
	uint64_t segment_bytes;		/* of which segments with objects, holes included */
	uint64_t reserve_bytes;		/* of which segments populated and not yet used */
	uint64_t overhead_bytes;	/* of which what is known of segments and, with dedup,
					 * what finds duplicates: outside of the arena */
	uint64_t reserve_target;	/* what the reserve's thread keeps reserve_bytes at */
	uint64_t pages_compacted;	/* pages of memory that emptying segments has freed */
	uint64_t compact_done;		/* the last compaction asked for that is done (store.h) */
	uint64_t compact_permille;	/* how far the one at work is */
	uint64_t ages_counted;		/* the last count asked for that is done (store.h) */
	uint64_t recompress_started;	/* the last recompression asked for (store.h) */
	uint64_t recompress_done;	/* and the last that has ended */
	uint64_t recompress_stopped;	/* 1: because it was stopped */
	uint64_t recompress_permille;	/* how far the one at work is */
	struct tz_step_stats dense;	/* pages with a denser codec each */
	struct tz_step_stats cold;	/* pages in groups */
	struct tz_step_stats backing;	/* pages written to the backing file */
	uint64_t backing_used;		/* bytes of it in use */
	uint64_t backing_day;		/* days since 1970 (UTC), to which belongs: */
	uint64_t backing_day_bytes;	/* bytes written to it */
	uint64_t backing_written, backing_discarded;	/* bytes, all */
	uint64_t pressure;		/* enum tz_pressure */
	uint64_t pressures;		/* how often that has begun */
	/* --- written by a server that takes over, removed by the queues --- */
	struct tz_suspect suspects[TZ_SUSPECTS];
};

/* Gauges (…_now) are signed: a page written by queue 0 and discarded by queue 1 leaves +1 here and
 * -1 there; the sum over queues is the truth. */
struct tz_queue_stats {
	/* --- under seq --- */
	uint64_t seq;
	uint64_t num_reads, num_writes, num_discards, num_flushes;	/* requests */
	uint64_t pages_read, pages_written, pages_discarded;
	uint64_t failed_reads, failed_writes, invalid_io;		/* requests */
	uint64_t enospc;		/* write requests refused at mem_limit or with the reserve
					 * empty */
	uint64_t checksum_errors;	/* objects whose CRC32C did not match, or that do not
					 * decode: EIO */
	uint64_t damaged_entries;	/* page-table entries found damaged: read, EIO; overwritten,
					 * nothing freed */
	uint64_t swap_writes;		/* write requests that the kernel marked as swap */
	uint64_t huge_pages_since;	/* pages stored raw since start */
	uint64_t drains;		/* ring wake-ups: requests / drains = batch size */
	uint64_t deferred_writes;	/* writes that waited for the reserve to be refilled */
	uint64_t slots_freed;		/* pages given back because their swap slot was freed; in
					 * pages_discarded, too */
	uint64_t backing_reads;		/* pages read from the backing file */
	uint64_t backing_errors;	/* pages that could not be: EIO */
	uint64_t backing_returned;	/* pages that came back to memory from there */
	/* codec time and bytes; same-filled not counted */
	uint64_t compress_ns, compress_bytes_in, compress_bytes_out;
	uint64_t decompress_ns, decompress_bytes_out;
	uint64_t busy_ns;		/* time between wake-up and wait */
	uint64_t spin_ns;		/* time that it waited awake */
	uint64_t spin_hits;		/* how often something came meanwhile */
	int64_t pages_now;		/* pages stored: orig_data_size = 4096 * sum */
	int64_t compr_bytes_now;	/* object payload bytes: compr_data_size */
	int64_t object_bytes_now;	/* what objects take in segments, head and rounding
					 * included: tz_stats_add_object */
	int64_t dup_pages_now;		/* pages that share the object of another: they take no
					 * room. compr_bytes_now counts a shared object once */
	int64_t kind_pages_now[TZ_KINDS];	/* pages stored by enum tz_kind */
	int64_t kind_bytes_now[TZ_KINDS_COUNTED];	/* object_bytes_now by enum tz_kind */
	int64_t size_pages_now[TZ_SIZE_BINS];
	/* --- not under seq --- */
	/* requests by service time */
	uint64_t read_lat[TZ_LAT_BINS], write_lat[TZ_LAT_BINS];
	uint32_t cpu, tid;		/* the first of the CPUs that the thread keeps to
					 * (UINT32_MAX: it runs anywhere), its thread id */
	uint64_t serving;		/* page << 8 | UBLK_IO_OP_* + 1; 0: nothing */
	uint64_t pad[3];		/* to whole cache lines */
};

static inline unsigned tz_lat_bin(uint64_t ns)
{
	uint64_t u = ns / TZ_LAT_UNIT_NS;
	if (u < 8)
		return (unsigned)u;
	unsigned e = 63u - (unsigned)__builtin_clzll(u);	/* >= 3 */
	unsigned b = (e - 2) * 8 + (unsigned)((u >> (e - 3)) & 7);
	return b < TZ_LAT_BINS ? b : TZ_LAT_BINS - 1;
}

/* Lower bound in ns of a bin. */
static inline uint64_t tz_lat_floor(unsigned bin)
{
	if (bin < 8)
		return (uint64_t)bin * TZ_LAT_UNIT_NS;
	return (uint64_t)(8 + (bin & 7)) << (bin / 8 - 1) << 6;
}

/* For writers. The order of the stores is what readers rely on; there is no fence, which
 * ThreadSanitizer would not see. One writer per tz_queue_stats: begin, any number of adds, end. */
static inline void tz_stats_begin(uint64_t *seq)
{
	__atomic_store_n(seq, __atomic_load_n(seq, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

static inline void tz_stats_add(void *counter, int64_t by)
{
	uint64_t *c = counter;

	/* After seq has become odd. */
	__atomic_store_n(c, *c + (uint64_t)by, __ATOMIC_RELEASE);
}

/* `bytes` of an object came into segments, or left them. */
static inline void tz_stats_add_object(struct tz_queue_stats *q, unsigned kind, int64_t bytes)
{
	tz_stats_add(&q->object_bytes_now, bytes);
	tz_stats_add(&q->kind_bytes_now[kind % TZ_KINDS_COUNTED], bytes);
}

static inline void tz_stats_end(uint64_t *seq)
{
	__atomic_store_n(seq, __atomic_load_n(seq, __ATOMIC_RELAXED) + 1, __ATOMIC_RELEASE);
}

/* The head's writers. try: 1, or 0 when another thread is writing; begin waits for that one, so it
 * is not for queue threads. Between them and end, values are stored with TZ_STATS_SET and text with
 * tz_stats_set_text. */
int tz_stats_head_try(struct tz_stats *s);
void tz_stats_head_begin(struct tz_stats *s);
void tz_stats_head_end(struct tz_stats *s);
#define TZ_STATS_SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
/* `size` is that of the field, a multiple of 8; longer text is cut. */
void tz_stats_set_text(char *field, size_t size, const char *text);
/* last_error, from any thread: allocates nothing, does not wait. 0: another thread was writing; try
 * again later. */
int tz_stats_error(struct tz_stats *s, const char *text);

/* stats.c - for the server. Bytes of a page with that many queues. */
size_t tz_stats_size(unsigned nr_queues);
/* Lays the page out in `len` bytes at `s` (64-byte aligned; all is zeroed, the magic is stored
 * last). The caller fills the rest of the head. 0, or -1: nr_queues not 1..TZ_MAX_QUEUES, len too
 * small, or misaligned. */
int tz_stats_init(struct tz_stats *s, size_t len, unsigned nr_queues);
/* For the server that takes over a page from one that is gone: what is counted as of now begins at
 * 0 again (the store counts it anew), what has been counted since the start stays, and what that
 * one was writing when it died counts as written. */
void tz_stats_take_over(struct tz_stats *s);
static inline struct tz_queue_stats *tz_stats_queue(struct tz_stats *s, unsigned queue)
{
	return (struct tz_queue_stats *)(void *)((char *)s + s->queue_offset +
		(size_t)queue * s->queue_stride);
}

/* stats.c - for readers. Checks magic, version and sizes against the mapping's length; copies the
 * head and sums the queues. 0; -1 not a statistics page (why says so); -2 it kept changing for some
 * 10 ms, as when the writer died in the middle (out holds the last copy, whose parts may belong to
 * different instants). */
struct tz_stats_sum { struct tz_stats head; struct tz_queue_stats total; };
int tz_stats_read(const void *map, size_t len, struct tz_stats_sum *out, const char **why);
/* One queue of it. Same results. */
int tz_stats_read_queue(const void *map, size_t len, unsigned queue, struct tz_queue_stats *out,
	const char **why);

#endif
