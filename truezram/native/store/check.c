/* check.c - checks an arena as docs/arena.md describes it (interface: check.h).
 *
 * Head, dictionary, directory and every entry are checked as the server would; every object's owner
 * and CRC as well, and that no two objects share a unit and all of them lie where the file has
 * data. It reads through a mapping of its own, private and read-only, and never reads what is not
 * populated: that would allocate it.
 */
#include "check.h"
#include "arena.h"
#include "dictionary.h"
#include "entry.h"
#include "store_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIVE_TRIES 3

struct checker {
	struct tz_check *c;
	struct tz_arena_head head;
	const uint8_t *map;
	uint64_t size;		/* bytes of the file */
	uint8_t *populated;		/* a bit for each 4096 bytes of the file */
	uint8_t *taken;		/* a bit for each unit of the segments, at rest */
};

__attribute__((format(printf, 3, 4))) static void problem(
	struct checker *k, uint64_t page, const char *format, ...)
{
	struct tz_check *c = k->c;

	if (c->nr_problems < c->room) {
		struct tz_check_problem *p = &c->problems[c->nr_problems];
		va_list args;
		p->page = page;
		va_start(args, format);
		vsnprintf(p->what, sizeof p->what, format, args);
		va_end(args);
	}
	c->nr_problems++;
}

/* ---- what the file has ---- */

static int find_populated(struct checker *k, int fd)
{
	off_t at = 0, end;

	k->populated = calloc(k->size / TZ_PAGE_SIZE / 8 + 1, 1);
	if (!k->populated)
		return -ENOMEM;
	while ((uint64_t)at < k->size && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		if (end < 0)
			return -errno;
		for (uint64_t p = (uint64_t)at / TZ_PAGE_SIZE;
			p < ((uint64_t)end + TZ_PAGE_SIZE - 1) / TZ_PAGE_SIZE; p++)
			k->populated[p / 8] |= (uint8_t)(1u << p % 8);
		k->c->populated_bytes += (uint64_t)(end - at);
		at = end;
	}
	return at < 0 && errno != ENXIO ? -errno : 0;
}

/* Whether all of [offset, offset + n) is in the file and populated. */
static int is_there(const struct checker *k, uint64_t offset, uint64_t n)
{
	if (offset >= k->size || n > k->size - offset)
		return 0;
	for (uint64_t p = offset / TZ_PAGE_SIZE; p <= (offset + n - 1) / TZ_PAGE_SIZE; p++)
		if (!(k->populated[p / 8] >> p % 8 & 1))
			return 0;
	return 1;
}

static uint64_t load(const struct checker *k, uint64_t offset)
{
	return __atomic_load_n((const uint64_t *)(const void *)(k->map + offset), __ATOMIC_ACQUIRE);
}

/* ---- objects ---- */

/* Marks an object's units as taken; returns whether one was. */
static int is_taken(struct checker *k, uint64_t offset, unsigned units)
{
	uint64_t first = (offset - k->head.segment_offset) / TZ_UNIT;
	int twice = 0;

	for (uint64_t u = first; u < first + units; u++) {
		twice |= k->taken[u / 8] >> u % 8 & 1;
		k->taken[u / 8] |= (uint8_t)(1u << u % 8);
	}
	return twice;
}

/* What is wrong with an object; NULL: nothing. */
static const char *object_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry), in = offset - k->head.segment_offset;
	unsigned length = tz_entry_length(entry), units = tz_entry_units(entry),
		 kind = tz_entry_kind(entry);
	struct tz_object_head head;

	if (offset < k->head.segment_offset ||
		in / TZ_SEGMENT_SIZE != (in + units * TZ_UNIT - 1) / TZ_SEGMENT_SIZE ||
		in / TZ_SEGMENT_SIZE >= k->head.nr_segments)
		return "its object is out of range";
	if (!is_there(k, offset, units * TZ_UNIT))
		return "its object is where the file has a hole";
	memcpy(&head, k->map + offset, sizeof head);
	if (head.owner != (uint32_t)page)
		return "its object belongs to another page";
	if (tz_crc32c(tz_object_seed(page, kind), k->map + offset + sizeof head, length) !=
		head.crc)
		return "its object's checksum does not match";
	return NULL;
}

static const char *entry_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	unsigned kind = tz_entry_kind(entry);

	if (!tz_entry_check(page, entry))
		return "its entry is damaged";
	if (kind == TZ_KIND_EMPTY || !tz_kind_is_stored(kind))
		return "its entry is of an unknown kind";
	if (!tz_entry_has_object(entry))
		return NULL;
	return object_fault(k, page, entry);
}

static void count(struct tz_check *c, uint64_t entry)
{
	c->pages++;
	if (tz_entry_kind(entry) <= TZ_KIND_SAME_U64)
		c->same_filled++;
	if (!tz_entry_has_object(entry))
		return;
	c->objects++;
	c->payload_bytes += tz_entry_length(entry);
	c->object_bytes += tz_entry_units(entry) * TZ_UNIT;
}

static void check_entry(struct checker *k, uint64_t page, uint64_t offset)
{
	uint64_t entry = load(k, offset);
	const char *fault = entry ? entry_fault(k, page, entry) : NULL;

	for (unsigned try = 0; fault && k->c->live && try < LIVE_TRIES && load(k, offset) != entry;
		try++) {
		entry = load(k, offset);		/* it was being written */
		fault = entry ? entry_fault(k, page, entry) : NULL;
	}
	if (!entry)
		return;
	if (fault)
		problem(k, page, "%s", fault);
	else if (tz_entry_has_object(entry) && k->taken &&
		is_taken(k, tz_entry_offset(entry), tz_entry_units(entry)))
		problem(k, page, "its object shares room with another one");
	else
		count(k->c, entry);
}

/* ---- the rest ---- */

static void check_table_page(struct checker *k, uint64_t index, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry), first = index * TZ_TABLE_ENTRIES;
	uint64_t pages = k->head.disksize / TZ_PAGE_SIZE;

	if (!tz_table_is_directory_entry(index, entry) || offset % TZ_PAGE_SIZE ||
		offset < k->head.segment_offset) {
		problem(k, first,
			"the directory's entry %llu is damaged: pages %llu to %llu are lost",
			(unsigned long long)index, (unsigned long long)first,
			(unsigned long long)first + TZ_TABLE_ENTRIES - 1);
		return;
	}
	if (!is_there(k, offset, TZ_PAGE_SIZE)) {
		problem(k, first, "page %llu of the table is where the file has a hole",
			(unsigned long long)index);
		return;
	}
	if (k->taken && is_taken(k, offset, TZ_PAGE_SIZE / TZ_UNIT))
		problem(k, first, "page %llu of the table shares room with something else",
			(unsigned long long)index);
	k->c->table_pages++;
	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		if (first + i < pages)
			check_entry(k, first + i, offset + i * 8);
		else if (load(k, offset + i * 8))
			problem(k, TZ_CHECK_NO_PAGE, "an entry beyond the end of the disk");
	}
}

static void check_table(struct checker *k)
{
	uint64_t tables = (k->head.disksize / TZ_PAGE_SIZE + TZ_TABLE_ENTRIES - 1) /
		TZ_TABLE_ENTRIES;

	for (uint64_t i = 0; i < tables; i++) {
		uint64_t at = k->head.directory_offset + i * 8,
			 entry = is_there(k, at, 8) ? load(k, at) : 0;
		if (entry)
			check_table_page(k, i, entry);
	}
}

static void check_dictionary(struct checker *k)
{
	const uint8_t *bytes = k->map + TZ_DICTIONARY_OFFSET;

	if (k->head.dictionary_size &&
		(!is_there(k, TZ_DICTIONARY_OFFSET, k->head.dictionary_size) ||
			tz_crc32c(0, bytes, k->head.dictionary_size) != k->head.dictionary_crc))
		problem(k, TZ_CHECK_NO_PAGE, "the dictionary's checksum does not match");
}

static int refuse(char *why, size_t why_size, int err, const char *what)
{
	snprintf(why, why_size, "%s", what);
	return err;
}

static int read_head(struct checker *k, int fd, char *why, size_t why_size)
{
	struct stat st;
	uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE];
	struct tz_check *c = k->c;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return refuse(why, why_size, -EINVAL, "it is not a regular file");
	if (pread(fd, copies, sizeof copies, 0) != (ssize_t)sizeof copies)
		return refuse(why, why_size, -EILSEQ, "it is too short for an arena");
	int rc = tz_arena_read_head(copies, &k->head, why, why_size);
	if (rc < 0)
		return rc;
	k->size = (uint64_t)st.st_size;
	c->version = k->head.version;
	c->state = k->head.state;
	c->disksize = k->head.disksize;
	c->generation = k->head.generation;
	memcpy(c->uuid, k->head.uuid, sizeof c->uuid);
	memcpy(c->algorithm, k->head.algorithm, sizeof c->algorithm - 1);
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++)
		if (!tz_arena_is_head(copies + i * TZ_PAGE_SIZE) && !c->live)
			problem(k, TZ_CHECK_NO_PAGE, "copy %u of the head is damaged", i);
	if (k->head.segment_offset + k->head.nr_segments * TZ_SEGMENT_SIZE > k->size)
		return refuse(why, why_size, -EILSEQ, "it is cut short");
	return 0;
}

int tz_check_arena(int fd, struct tz_check *c, char *why, size_t why_size)
{
	struct checker k = { .c = c };
	int rc = read_head(&k, fd, why, why_size);

	if (rc < 0)
		return rc;
	rc = find_populated(&k, fd);
	if (rc == 0 && !c->live &&
		!(k.taken = calloc(k.head.nr_segments * TZ_SEGMENT_UNITS / 8, 1)))
		rc = -ENOMEM;
	void *map = rc < 0 ? MAP_FAILED : mmap(NULL, k.size, PROT_READ, MAP_SHARED, fd, 0);
	if (rc == 0 && map == MAP_FAILED)
		rc = -errno;
	if (rc < 0) {
		snprintf(why, why_size, "cannot read it: %s", strerror(-rc));
	} else {
		k.map = map;
		check_dictionary(&k);
		check_table(&k);
		munmap(map, k.size);
	}
	free(k.populated);
	free(k.taken);
	return rc;
}
