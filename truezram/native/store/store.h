/* store.h - the store: a device's pages, compressed, in one arena. The whole data path but for the
 * transport.
 *
 * One store per device; one tz_store_thread per thread that reads or writes it (a queue thread, a
 * test's thread). tz_store_read/write/discard allocate nothing, take no page fault in the arena,
 * and wait for nothing but the short locks of alloc.c (futexes, held around list operations). Any
 * number of threads may call them on the same pages at the same time: a page read is one value that
 * was written (or zeros), never a mixture.
 *
 * The design is described at the top of store.c (page table, publishing, hazards), alloc.c
 * (segments, holes), reserve.c and housekeeping.c.
 */
#ifndef TZ_STORE_H
#define TZ_STORE_H

#include "codec.h"
#include "policy.h"
#include "stats.h"

struct tz_store;
struct tz_store_thread;
struct tz_arena_device;

struct tz_store_config {
	uint64_t disksize;		/* bytes, a multiple of 4096 */
	uint64_t mem_limit;		/* bytes of arena, 0 = none */
	const char *algorithm;		/* "NAME[:LEVEL]" */
	const void *dictionary;		/* for zstd, now and whenever it is chosen later; NULL =
					 * none. Copied */
	size_t dictionary_size;
	int dedup;			/* tz_store_set_dedup */
	unsigned nr_threads;		/* threads that will call tz_store_thread() */
	int arena_fd;			/* tmpfs file or memfd of size 0; the store's own once
					 * created */
	int lock_arena;			/* mlock what is populated; failing to is an error */
	const struct tz_arena_device *device;	/* what the arena says of the device; NULL:
						 * nothing */
	struct tz_stats *stats;		/* page of nr_threads queues, prepared by tz_stats_init */
};

/* NULL on failure: err = negative errno, why = what, why, remedy (static string or into whybuf). */
struct tz_store *tz_store_create(const struct tz_store_config *config, int *err, char *why,
	size_t why_size);
/* The same from an arena that another server has left, however it ended (attach.c). Everything but
 * what `a` asks for is as the arena says. A page that is damaged there reads as an error from now
 * on until it is written or discarded. NULL on failure, as above; the file is not changed, unless
 * what failed was to get memory or start a thread, and never in what it holds. -EILSEQ: not an
 * arena, or both copies of its head are damaged; -EPROTONOSUPPORT: of another version, or with
 * features that this program does not know; -EBUSY: its device was never made; others: a codec that
 * it takes is not available.
 *
 * The caller sees to it that nobody else has the arena attached. */
struct tz_check_problem;
struct tz_attach {
	/* in */
	int arena_fd;			/* the store's own once it is attached */
	unsigned nr_threads;
	int lock_arena;
	struct tz_stats *stats;		/* a fresh page, or the one of the server before, which
					 * must be gone */
	const char *server_version;	/* NULL: stays as it is */
	struct tz_check_problem *problems;	/* what comes after the first `room` is counted */
	uint32_t room;
	/* out */
	uint64_t nr_problems;
	uint64_t lost;			/* pages found damaged now */
	uint64_t lost_before;		/* and by servers that attached it before */
	uint64_t generation;		/* of this server */
	int was_stopped;		/* the server before has ended in order */
};
struct tz_store *tz_store_attach(
	struct tz_attach *a, int *err, char *why, size_t why_size);
void tz_store_destroy(struct tz_store *store);

struct tz_store_thread *tz_store_thread(struct tz_store *store, unsigned index);
struct tz_queue_stats *tz_store_thread_stats(struct tz_store_thread *t);

/* Around every batch of calls below. A change of algorithm waits until each thread has been outside
 * once, so a thread stays inside for bounded time. */
void tz_store_begin(struct tz_store_thread *t);
void tz_store_end(struct tz_store_thread *t);

/* Reads of pages that are on the backing file. A thread that must not wait for them says so; then
 * a read returns -EINPROGRESS, and if it is the first, the caller is to have so many bytes read
 * (`bringing`), to say what came of it (`brought`: bytes or negative errno), to call read again
 * for the same page and for others of its request, and then `brought_end`. Until then, reads of
 * other such pages return -EINPROGRESS as well, and are to be tried after that. */
struct tz_bring {
	int fd;
	void *to;
	unsigned length;
	uint64_t from;
};
void tz_store_defer(struct tz_store_thread *t, int on);
void tz_store_bringing(const struct tz_store_thread *t, struct tz_bring *out);
void tz_store_brought(struct tz_store_thread *t, int result);
void tz_store_brought_end(struct tz_store_thread *t);

/* One page each; page < disksize / 4096 is the caller's to check.
 * read: 0, -EIO (entry or object damaged: last_error in the statistics says which page, and what),
 * -EINPROGRESS (tz_store_defer).
 * write: 0, -ENOSPC (mem_limit), -EAGAIN (reserve empty, limit not reached: it is being refilled).
 * discard: returns nothing, the page reads as zeros.
 * Over a damaged entry, write and discard succeed and free nothing that may be another page's. */
int tz_store_read(struct tz_store_thread *t, uint64_t page, uint8_t *out);
int tz_store_write(struct tz_store_thread *t, uint64_t page, const uint8_t *data);
void tz_store_discard(struct tz_store_thread *t, uint64_t page);
/* Discards n pages as far as *work lasts, from which it takes 1 for an entry looked at (or a page
 * of the table that is not there) and 32 for a page given back. Returns how many pages are done:
 * less than n only when *work is 0. */
uint64_t tz_store_discard_range(struct tz_store_thread *t, uint64_t page, uint64_t n,
	unsigned *work);
/* Starts loading a page's entry into the cache, then (the entry at hand) the head of its object. */
void tz_store_prefetch_entry(const struct tz_store_thread *t, uint64_t page);
void tz_store_prefetch_object(const struct tz_store_thread *t, uint64_t page);

/* Freed swap slots. `bits` has a bit for each page, which the kernel sets when the page's swap slot
 * is freed (server/slots.c). From the moment it is given, every write clears its page's bit when it
 * arrives; so a bit that is set says that the last thing that happened to the slot was its freeing.
 * NULL ends it. From one thread at a time; returns when all threads know, and `bits` must last
 * until then. */
void tz_store_set_freed(struct tz_store *store, uint64_t *bits);
/* Of one thread of the server's: it may collect and discard, and neither read nor write. */
struct tz_store_thread *tz_store_collector(struct tz_store *store);
/* Gives a page back if its bit is set, and clears the bit; between begin and end. Returns whether
 * there was something to give back. Never a page that has been written after its slot was freed;
 * one that is written or moved at this instant may be left until its slot is freed again. */
int tz_store_collect(struct tz_store_thread *t, uint64_t page);
/* From queue threads: a write has come that is not the swap code's. From then on, and until
 * tz_store_set_freed is called, nothing is collected: the device is somebody else's by now. */
void tz_store_written_by_others(struct tz_store_thread *t);
int tz_store_has_others(const struct tz_store *store);
/* Whether a page is now stored as this word repeated; it must fit 32 bits twice or, signed, 51. */
int tz_store_is_filled(const struct tz_store *store, uint64_t page, uint64_t word);

/* From the control thread. 0 or negative errno with why. */
int tz_store_set_algorithm(struct tz_store *store, const char *algorithm, char *why,
	size_t why_size);
int tz_store_set_mem_limit(struct tz_store *store, uint64_t bytes, char *why, size_t why_size);
/* on: from now on a page that is identical to one that was written since shares its object. off:
 * what is shared stays so. */
int tz_store_set_dedup(struct tz_store *store, int on, char *why, size_t why_size);
/* From now on pages can be packed in groups (group.c), which takes libzstd and some memory. A
 * program that does not know groups refuses the arena from then on. */
int tz_store_set_groups(struct tz_store *store, char *why, size_t why_size);
/* From any thread: has neighbours among n pages packed in groups, as far as that gains memory.
 * Returns at once, with a number; tz_store_packed: the last that is done. Without
 * tz_store_set_groups, nothing is done. */
uint64_t tz_store_pack(struct tz_store *store, uint64_t page, uint64_t n);
uint64_t tz_store_packed(const struct tz_store *store);
uint64_t tz_store_trim(struct tz_store *store);	/* reserve.h */
/* Has segments packed as far as that gains memory, and what it gains given back. Returns at once,
 * with a number: the statistics say how far it is (compact_permille), and which was the last that
 * is done (compact_done). */
uint64_t tz_store_compact(struct tz_store *store);
/* Has pages and bytes of each age counted for the statistics. Returns at once, with a number: the
 * statistics say which was the last that is done (ages_counted). */
uint64_t tz_store_count_ages(struct tz_store *store);
/* Makes the clock of ages run so many times as fast, from now on: for tests and measurements. What
 * is old by now stays so. */
void tz_store_set_age_speed(struct tz_store *store, uint64_t speed);
/* The backing file (backing.c): a file or block device of this path (absolute), of which so many
 * bytes are used at most (0: as many as it has, or as the disk has); NULL: none. The same path once
 * more: it is tried again after it had failed. 0 or negative errno with why: -EBUSY, pages are on
 * the one that there is, or somebody uses this one. */
#define TZ_BACKING_PATH 180u		/* bytes of the path at most */
int tz_store_set_backing(struct tz_store *store, const char *path, uint64_t limit, char *why,
	size_t why_size);
/* Bytes written a day and a second at most; 0: any. */
void tz_store_set_backing_budget(struct tz_store *store, uint64_t daily, uint64_t rate);
void tz_store_backing_budget(const struct tz_store *store, uint64_t *daily, uint64_t *rate);
/* The device is to go: what is on the file goes first, as far as it can be erased. */
void tz_store_erase_backing(struct tz_store *store);
/* Writing pages that are idle once more (recompress.c): prepares it, for pages that have not been
 * touched for that long at least, with "dense", "zstd[:LEVEL]", "cold", "backing" (to the backing
 * file) or "memory" (all that is there comes back), taking up to so much of a core.
 * NULL with *err and why; -EBUSY: one is at work. Then either of the other two follows: to begin
 * returns at once, with a number, as compact does (recompress_done, recompress_permille).
 * *least_ns: what the pages that it is for have been left alone for. */
struct tz_recompression;
struct tz_recompression *tz_store_prepare_recompress(struct tz_store *store, const char *algorithm,
	uint64_t idle_ns, unsigned percent, int *err, char *why, size_t why_size);
void tz_store_forget_recompress(struct tz_recompression *job);
uint64_t tz_store_recompress(
	struct tz_store *store, struct tz_recompression *job, uint64_t *least_ns);
/* Whether there was one to stop. It ends within a millisecond or so. */
int tz_store_stop_recompress(struct tz_store *store);
/* What is done with idle pages without being asked for each time (policy.c): prepares it, as above.
 * NULL with *err and why (-ENOTSUP: groups need libzstd). Then either of the other two follows. */
struct tz_standing;
struct tz_standing *tz_store_prepare_policy(struct tz_store *store, const struct tz_policy *policy,
	int *err, char *why, size_t why_size);
void tz_store_forget_policy(struct tz_standing *standing);
/* Whether preparing it took memory, which is not locked yet. */
int tz_store_policy_took_memory(const struct tz_standing *standing);
void tz_store_set_policy(struct tz_store *store, struct tz_standing *standing);
/* Readable when it has something to do for which it has not been prepared yet. Take its wishes,
 * jobs as bits; grant some of them; then prepare and set the same policy once more. If that fails,
 * do not grant them: it will wish again. */
int tz_store_wish_fd(const struct tz_store *store);
unsigned tz_store_take_wishes(struct tz_store *store);
void tz_store_grant_wishes(struct tz_store *store, unsigned jobs, int granted);
/* What is in force; after an arena was attached, what was, until it is set again. */
struct tz_policy tz_store_policy(const struct tz_store *store);

/* The mode that whoever serves the device is in (enum tz_mode): kept and shown here, used there. */
void tz_store_set_mode(struct tz_store *store, uint32_t mode);
uint32_t tz_store_mode(const struct tz_store *store);
void tz_store_page_map(struct tz_store *store, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED]);
/* The same by age: enum tz_map_age. */
void tz_store_age_map(struct tz_store *store, uint64_t first, uint64_t pages, unsigned regions,
	uint32_t (*out)[TZ_KINDS_STORED]);
/* Where the arena is mapped, and what is known of its segments. */
struct tz_range tz_store_arena(const struct tz_store *store);
struct tz_range tz_store_metadata(const struct tz_store *store);
/* And what is known of groups; empty while they are off. */
struct tz_range tz_store_groups(const struct tz_store *store);

#endif
