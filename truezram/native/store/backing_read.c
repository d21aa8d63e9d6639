/* backing_read.c - pages that are on the backing file are read (interface: backing.h; what is
 * relied on: backing.c).
 *
 * The bytes are brought into the thread's buffer: here, by a call that waits, outside of begin and
 * end; or, for a thread that must not wait (tz_store_defer), by whoever called it, who then asks
 * once more. What has been brought counts while the page's entry is the one that it was brought
 * for. Brought by the caller, it also serves the members of the same group until the caller says
 * that its request ends.
 *
 * A page that is read for the second time comes back to memory: the first time may have been for
 * good, as with a page that is swapped in.
 */
#include "backing.h"
#include "store_impl.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- bringing ---- */

static uint64_t first_byte(uint64_t entry)
{
	return tz_backed_offset(entry) / TZ_BACKING_BLOCK * TZ_BACKING_BLOCK;
}

static unsigned nr_bytes(uint64_t entry)
{
	uint64_t end = tz_backed_offset(entry) + tz_backed_units(entry) * TZ_UNIT;

	return (unsigned)((end - first_byte(entry) + TZ_BACKING_BLOCK - 1) / TZ_BACKING_BLOCK *
		TZ_BACKING_BLOCK);
}

/* Whether two entries name the same bytes. */
static int is_same_place(uint64_t a, uint64_t b)
{
	return !((a ^ b) & TZ_ENTRY_DATA & ~TZ_BACKED_READ);
}

static int has(const struct tz_backing_reader *r, uint64_t page, uint64_t entry)
{
	return r->state == TZ_BROUGHT && is_same_place(r->entry, entry) &&
		(r->page == page || tz_backed_as(entry) == TZ_KIND_GROUP);
}

static void begin(struct tz_backing_reader *r, uint64_t page, uint64_t entry)
{
	if (r->page != page || !is_same_place(r->entry, entry))
		r->tried = 0;
	r->page = page;
	r->entry = entry;
	r->state = TZ_BRINGING;
}

static void bring(struct tz_store_thread *t, struct tz_backing_reader *r)
{
	int fd = atomic_load(&t->store->backing.fd);
	ssize_t n;

	tz_store_end(t);
	do
		n = pread(fd, r->bytes, nr_bytes(r->entry), (off_t)first_byte(r->entry));
	while (n < 0 && errno == EINTR);
	tz_store_begin(t);
	r->result = n < 0 ? -errno : (int)n;
	r->state = TZ_BROUGHT;
}

void tz_store_defer(struct tz_store_thread *t, int on)
{
	t->defers = on;
}

void tz_store_bringing(const struct tz_store_thread *t, struct tz_bring *out)
{
	struct tz_backing_reader *r = atomic_load(&t->backing);

	*out = (struct tz_bring){ atomic_load(&t->store->backing.fd), r->bytes, nr_bytes(r->entry),
		first_byte(r->entry) };
}

void tz_store_brought(struct tz_store_thread *t, int result)
{
	struct tz_backing_reader *r = atomic_load(&t->backing);

	r->result = result;
	r->state = TZ_BROUGHT;
}

void tz_store_brought_end(struct tz_store_thread *t)
{
	struct tz_backing_reader *r = atomic_load(&t->backing);

	if (r->state == TZ_BROUGHT)
		r->state = TZ_BRING_NOTHING;
}

/* ---- reading ---- */

/* What is in the buffer. NULL, or what is wrong with it. */
static const char *decode(struct tz_store_thread *t, const struct tz_backing_reader *r,
	uint64_t page, uint64_t entry, uint8_t *out)
{
	if (r->result < 0)
		return "the backing file cannot be read";
	if (r->result < (int)nr_bytes(entry))
		return "the backing file is cut short";
	return tz_store_decode_at(t, page, tz_backed_object(page, entry, 0),
		r->bytes + (tz_backed_offset(entry) - first_byte(entry)), out);
}

/* The page in memory again; 0: there is no room. */
static uint64_t place(struct tz_store_thread *t, const struct tz_backing_reader *r, uint64_t page,
	uint64_t entry, const uint8_t *data)
{
	struct tz_store *s = t->store;
	unsigned units = tz_backed_units(entry);
	uint64_t to;

	if (tz_backed_as(entry) == TZ_KIND_GROUP)
		return tz_store_place_own(t, page, data);
	to = tz_alloc_take(&s->alloc, t->index % s->alloc.nr_shards, units);
	if (!to)
		return 0;
	memcpy(s->arena.base + to, r->bytes + (tz_backed_offset(entry) - first_byte(entry)),
		units * TZ_UNIT);
	return tz_backed_object(page, entry, to);
}

static void come_back(struct tz_store_thread *t, const struct tz_backing_reader *r, uint64_t page,
	_Atomic uint64_t *slot, uint64_t entry, const uint8_t *data)
{
	uint64_t expected = entry, own = place(t, r, page, entry, data);

	if (!own)
		return;
	TZ_TEST_POINT("returning");
	if (atomic_compare_exchange_strong(slot, &expected, own))
		tz_store_account(t, page, entry, own, 1, &t->stats->backing_returned);
	else
		tz_alloc_put(&t->store->alloc, tz_entry_offset(own), tz_entry_units(own));
}

static void has_been_read(struct tz_store_thread *t, const struct tz_backing_reader *r,
	uint64_t page, _Atomic uint64_t *slot, uint64_t entry, const uint8_t *data, int keep)
{
	uint64_t read = tz_entry_seal(page, (entry & TZ_ENTRY_DATA) | TZ_BACKED_READ);

	if (keep || entry & TZ_BACKED_READ)
		come_back(t, r, page, slot, entry, data);
	else
		atomic_compare_exchange_strong(slot, &entry, read);
}

static int fail(struct tz_store_thread *t, uint64_t page, const char *fault)
{
	struct tz_backing_reader *r = atomic_load(&t->backing);

	if (r)
		r->tried = 0;
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->backing_errors, 1);
	tz_stats_end(&t->stats->seq);
	tz_store_note_error(t, page, fault);
	return -EIO;
}

/* 0; -EAGAIN: what has been brought is not this page, or not all of it is right; -EIO: the second
 * time. (Whoever wrote there meanwhile has changed the entry, too; but the same place may be the
 * page's again.) */
static int read_brought(struct tz_store_thread *t, struct tz_backing_reader *r, uint64_t page,
	_Atomic uint64_t *slot, uint64_t entry, uint8_t *out, int keep, const char **fault)
{
	*fault = decode(t, r, page, entry, out);
	if (*fault || !t->defers)
		r->state = TZ_BRING_NOTHING;
	if (*fault)
		return r->tried++ ? -EIO : -EAGAIN;
	r->tried = 0;
	has_been_read(t, r, page, slot, entry, out, keep);
	tz_stats_begin(&t->stats->seq);
	tz_stats_add(&t->stats->backing_reads, 1);
	tz_stats_add(&t->stats->pages_read, 1);
	tz_stats_end(&t->stats->seq);
	return 0;
}

int tz_backing_read(struct tz_store_thread *t, uint64_t page, uint8_t *out, int keep)
{
	struct tz_backing_reader *r = atomic_load_explicit(&t->backing, memory_order_acquire);

	for (;;) {
		int damaged = 0;
		_Atomic uint64_t *slot = tz_table_slot(t->store, page, &damaged);
		uint64_t entry = slot ? atomic_load(slot) : 0;
		if (!tz_entry_is_backed(entry) || tz_store_fault(t->store, page, entry))
			return -EAGAIN;
		if (!r || atomic_load(&t->store->backing.fd) < 0)
			return fail(t, page, "the backing file is not there");
		if (has(r, page, entry)) {
			const char *fault;
			int rc = read_brought(t, r, page, slot, entry, out, keep, &fault);
			if (rc != -EAGAIN)
				return rc == 0 ? 0 : fail(t, page, fault);
			continue;
		}
		if (r->state == TZ_BRINGING)
			return -EINPROGRESS;		/* somebody else's */
		begin(r, page, entry);
		if (t->defers)
			return -EINPROGRESS;
		bring(t, r);
	}
}
