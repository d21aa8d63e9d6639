/* fuzz_check.c - coverage-guided fuzzing (libFuzzer) of tz_check_arena and tz_store_attach, with an
 * arena that a store has made and the input damages.
 *
 * Input: byte 0, bit 0: as if live, otherwise it is attached as well; then edits of 11 bytes each:
 * what (enum edit), where (2 bytes), value (8 bytes). Checksums and check bits are put right again
 * after most edits, or nothing behind them would be reached. Whatever the damage: no access beyond
 * a buffer, no hang, and figures that make sense.
 */
#include "device.h"
#include "codec.h"
#include "fuzz.h"
#include "store_impl.h"

enum { PAGES = 600, EDITS_MAX = 64, EDIT_SIZE = 11, ROOM = 4 };
enum edit { HEAD, ENTRY, OBJECT, DIRECTORY, PAYLOAD, BYTE, SIZE, GROUP, NR_EDITS };

static struct {
	int fd;
	uint64_t size, populated;
	uint8_t *bytes;		/* the beginning of the file, as the store has left it */
	struct tz_arena_head head;
	uint64_t written;	/* of this input, the end of what it has written */
} arena;

static void rd(uint64_t offset, void *out, size_t n)
{
	memset(out, 0, n);
	CHECK(pread(arena.fd, out, n, (off_t)offset) >= 0, "read");
}

static void wr(uint64_t offset, const void *bytes, size_t n)
{
	CHECK(pwrite(arena.fd, bytes, n, (off_t)offset) == (ssize_t)n, "write");
	if (offset + n > arena.written)
		arena.written = offset + n;
}

/* A quarter of the pages, as far as they can be, if there is a libzstd. */
static void pack_some(struct device *d)
{
	char why[216];
	uint64_t ticket;

	if (tz_store_set_groups(d->store, why, sizeof why) < 0)
		return;
	ticket = tz_store_pack(d->store, 0, PAGES / 4);
	WAIT_FOR(tz_store_packed(d->store) >= ticket, "packing does not end");
}

static void make_arena(void)
{
	struct device d = make_device(PAGES, 1, 0, "lz4");
	struct tz_store_thread *t = tz_store_thread(d.store, 0);
	uint8_t page[4096] __attribute__((aligned(8)));

	for (uint64_t n = 0; n < PAGES - 40; n++) {
		make_page(page, n, 0, 1);
		if (n % 7 == 0)
			tz_fill(page, n % 2 ? 0x8123456789abcdefull : n);
		tz_store_begin(t);
		CHECK(write_waiting(t, n, page) == 0, "write");
		tz_store_end(t);
	}
	pack_some(&d);
	tz_store_destroy(d.store);
	arena.fd = d.fd;
	arena.size = (uint64_t)lseek(d.fd, 0, SEEK_END);
	rd(0, &arena.head, sizeof arena.head);
	/* All of it lies at the beginning. */
	arena.populated = arena.head.segment_offset;
	for (off_t at = 0; (at = lseek(d.fd, at, SEEK_DATA)) >= 0;) {
		at = lseek(d.fd, at, SEEK_HOLE);
		arena.populated = (uint64_t)at;
	}
	arena.bytes = malloc(arena.populated);
	CHECK(arena.bytes && arena.populated < 16 << 20, "%llu bytes",
		(unsigned long long)arena.populated);
	rd(0, arena.bytes, arena.populated);
}

static void restore(void)
{
	/* What lies beyond goes, and comes back as a hole. */
	CHECK(ftruncate(arena.fd, (off_t)arena.populated) == 0, "truncate");
	CHECK(ftruncate(arena.fd, (off_t)arena.size) == 0, "truncate");
	wr(0, arena.bytes, arena.populated);
	arena.written = 0;
}

static uint64_t table_at(uint64_t page)
{
	uint64_t entry;

	rd(arena.head.directory_offset + page / TZ_TABLE_ENTRIES * 8, &entry, 8);
	return tz_entry_offset(entry) + page % TZ_TABLE_ENTRIES * 8;
}

static void set_entry(uint64_t page, uint64_t data)
{
	uint64_t entry = tz_entry_seal(page, data & TZ_ENTRY_DATA);

	wr(table_at(page) % arena.size, &entry, 8);
}

static void edit_head(unsigned where, uint64_t value)
{
	uint8_t page[4096];
	uint32_t crc = 0;

	for (unsigned copy = 0; copy < TZ_HEAD_COPIES; copy++) {
		rd(copy * sizeof page, page, sizeof page);
		memcpy(page + where % 400, &value, 8);
		memcpy(page + offsetof(struct tz_arena_head, crc), &(uint32_t){ 0 }, 4);
		crc = tz_crc32c(0, page, sizeof page);
		memcpy(page + offsetof(struct tz_arena_head, crc), &crc, 4);
		wr(copy * sizeof page, page, sizeof page);
	}
}

/* An object that is as it should be but for its place, kind and length. */
static void edit_payload(uint64_t page, uint64_t value)
{
	unsigned kind = (unsigned)(value & 7) + 3, n = (unsigned)(value >> 3 & 4095) + 1;
	uint64_t offset = (arena.head.segment_offset + (value >> 16) % (2 << 20)) & ~15ull;
	uint8_t object[8 + 4096] = { 0 };
	uint32_t owner = (uint32_t)page, crc;

	memset(object + 8, (int)value, n);
	crc = tz_crc32c(tz_object_seed(page, kind), object + 8, n);
	memcpy(object, &crc, 4);
	memcpy(object + 4, &owner, 4);
	wr(offset, object, 8 + n);
	set_entry(page, kind | (uint64_t)(n - 1) << TZ_ENTRY_KIND_BITS |
		offset / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT);
}

/* A group that is as it should be but for its place, its length and what it holds; and one entry
 * more that names it. */
static void edit_group(uint64_t page, uint64_t value)
{
	unsigned members = (unsigned)(value & 0xffff) | 1u << tz_group_place(page),
		 length = (unsigned)(value >> 16 & 0x3fff) + 1, size = tz_group_head_size(members);
	uint64_t offset = (arena.head.segment_offset + (value >> 30) % (2 << 20)) & ~15ull,
		 other = page ^ (value >> 52 & 15), data;
	uint8_t object[sizeof(struct tz_group_head) + 0x4000];
	struct tz_group_head *head = (void *)object;

	memset(object, (int)value, sizeof object);
	head->owner = (uint32_t)(page - tz_group_place(page));
	head->members = (uint16_t)members;
	head->length = length;
	head->payload_crc = tz_crc32c(0, object + size, length);
	head->crc = tz_crc32c(tz_object_seed(head->owner, TZ_KIND_GROUP), &head->members, size - 8);
	wr(offset, object, size + length);
	data = tz_entry_group(page, offset, tz_group_units(members, length)) & TZ_ENTRY_DATA;
	set_entry(page, data);
	if (other < PAGES)
		set_entry(other, data);
}

static void edit(enum edit what, unsigned where, uint64_t value)
{
	uint64_t page = where % PAGES, entry;

	switch (what) {
	case HEAD:
		edit_head(where, value);
		break;
	case ENTRY:
		set_entry(page, value);
		break;
	case OBJECT:
		set_entry(page, (value & ~31ull) | (3 + value % 8));
		break;
	case DIRECTORY:
		entry = tz_table_directory_entry(where % 8, value & ~15ull & (TZ_ARENA_MAX - 1), 0);
		wr(arena.head.directory_offset + where % 8 * 8, &entry, 8);
		break;
	case PAYLOAD:
		edit_payload(page, value);
		break;
	case BYTE:
		wr(value % arena.populated, &where, 1);
		break;
	case SIZE:
		CHECK(ftruncate(arena.fd, (off_t)(value % (arena.size * 2))) == 0, "truncate");
		break;
	case GROUP:
		edit_group(page, value);
		break;
	case NR_EDITS:
		break;
	}
}

static void check_it(uint32_t live)
{
	struct tz_check_problem *problems = malloc(ROOM * sizeof *problems);
	struct tz_check c = { .problems = problems, .room = ROOM, .live = live };
	char why[216] = "";
	int rc = tz_check_arena(arena.fd, &c, why, sizeof why);

	CHECK(rc <= 0 && (rc < 0) == (why[0] != 0), "result %d, %s", rc, why);
	CHECK(rc < 0 || (c.pages <= c.disksize / 4096 &&
				  c.same_filled + c.objects + c.dup_pages + c.group_pages >=
					  c.pages &&
			c.object_bytes >= c.objects * TZ_UNIT &&
			c.object_bytes <= c.objects * TZ_MAX_UNITS * TZ_UNIT +
					c.group_pages * TZ_GROUP_BYTES),
		"%llu pages", (unsigned long long)c.pages);
	for (uint64_t i = 0; rc == 0 && i < c.nr_problems && i < ROOM; i++)
		CHECK(memchr(problems[i].what, 0, sizeof problems[i].what) && problems[i].what[0],
			"text of problem %llu", (unsigned long long)i);
	free(problems);
}

/* Refused, or a store that reads, writes and gives back what there is. */
static void attach_it(void)
{
	static uint64_t stats_page[(64 << 10) / 8] __attribute__((aligned(64)));
	struct tz_stats *stats = (void *)stats_page;
	struct tz_check_problem problems[ROOM];
	struct tz_attach a = { .arena_fd = dup(arena.fd), .nr_threads = 1, .stats = stats,
		.problems = problems, .room = ROOM };
	uint8_t page[4096] __attribute__((aligned(8))) = { 1 };
	char why[216] = "";
	int err;

	CHECK(tz_stats_init(stats, sizeof stats_page, 1) == 0, "stats");
	struct tz_store *s = tz_store_attach(&a, &err, why, sizeof why);
	CHECK(!s == (err < 0) && !s == (why[0] != 0), "result %d, %s", err, why);
	if (!s) {
		close(a.arena_fd);
		return;
	}
	struct tz_store_thread *t = tz_store_thread(s, 0);
	uint64_t pages = stats->disksize / 4096;
	tz_store_begin(t);
	for (uint64_t n = 0; n < PAGES && n < pages; n++) {
		int rc = tz_store_read(t, n, page);
		CHECK(rc == 0 || rc == -EIO, "read: %d", rc);
		if (n % 3 == 0)
			tz_store_discard(t, n);
		else if (n % 3 == 1)
			tz_store_write(t, n, page);
	}
	tz_store_end(t);
	tz_store_destroy(s);
}

__attribute__((visibility("default"))) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!arena.bytes)
		make_arena();
	for (size_t at = 1; at + EDIT_SIZE <= size && at < EDITS_MAX * EDIT_SIZE; at += EDIT_SIZE) {
		uint16_t where;
		uint64_t value;
		memcpy(&where, data + at + 1, 2);
		memcpy(&value, data + at + 3, 8);
		edit(data[at] % NR_EDITS, where, value);
	}
	check_it(size && data[0] & 1);
	if (size && !(data[0] & 1))
		attach_it();
	restore();
	return 0;
}
