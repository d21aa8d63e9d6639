/* check.c - checks an arena as docs/arena.md describes it (interface: check.h).
 *
 * Head, dictionary, directory and every entry are checked as the server would; every object's owner
 * and CRC as well, and that no two objects share a unit and all of them lie where the file has
 * data. It reads with pread(): the file may be anybody's, and one that is cut short meanwhile ends
 * a program that has it mapped; and reading a hole of a live arena allocates nothing.
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
#include <time.h>
#include <unistd.h>

/* Live: how often something is looked at that changes, and how often in a row it must be found the
 * same and faulty. */
#define LIVE_TRIES 50u
#define LIVE_SAME 3u
#define LIVE_PAUSE_NS 20000

struct checker {
	struct tz_check *c;
	struct tz_arena_head head;
	int fd;
	uint64_t size;		/* bytes of the arena; the file may have more */
	uint8_t *populated;	/* a bit for each 4096 bytes of it */
	uint64_t *taken;	/* a bit for each unit of the segments, at rest */
	uint64_t *shared;	/* and: an object that pages share begins there */
	uint64_t *backed;	/* a bit for each unit of the backing file, at rest */
	uint64_t *groups;	/* and: a group begins there */
	uint64_t table[TZ_TABLE_ENTRIES];	/* the page of the table at hand */
	uint64_t directory[TZ_DIRECTORY_ENTRIES];
	uint8_t object[sizeof(struct tz_group_head) + TZ_GROUP_BYTES];
};

void tz_check_note(struct tz_check_problem *problems, uint32_t room, uint64_t *n, uint64_t page,
	const char *format, ...)
{
	if (*n < room) {
		va_list args;
		problems[*n].page = page;
		va_start(args, format);
		vsnprintf(problems[*n].what, sizeof problems[*n].what, format, args);
		va_end(args);
	}
	++*n;
}

#define problem(k, page, ...) \
	tz_check_note((k)->c->problems, (k)->c->room, &(k)->c->nr_problems, page, __VA_ARGS__)

static void pause_live(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = LIVE_PAUSE_NS }, NULL);
}

/* ---- what the file has ---- */

/* 0, or -1: it ends before, or cannot be read there. */
static int read_from(int fd, uint64_t offset, void *out, size_t n)
{
	while (n) {
		ssize_t got = pread(fd, out, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -1;
		out = (char *)out + got;
		offset += (size_t)got;
		n -= (size_t)got;
	}
	return 0;
}

static int read_at(const struct checker *k, uint64_t offset, void *out, size_t n)
{
	return read_from(k->fd, offset, out, n);
}

static void is_populated(void *arg, uint64_t from, uint64_t to)
{
	struct checker *k = arg;

	for (uint64_t p = from / TZ_PAGE_SIZE; p < (to + TZ_PAGE_SIZE - 1) / TZ_PAGE_SIZE; p++)
		k->populated[p / 8] |= (uint8_t)(1u << p % 8);
	k->c->populated_bytes += to - from;
}

static int find_populated(struct checker *k)
{
	k->populated = calloc(k->size / TZ_PAGE_SIZE / 8 + 1, 1);
	if (!k->populated)
		return -ENOMEM;
	return tz_arena_find_populated(k->fd, k->size, is_populated, k);
}

/* Whether all of [offset, offset + n) is in the arena and populated. */
static int is_there(const struct checker *k, uint64_t offset, uint64_t n)
{
	if (offset >= k->size || n > k->size - offset)
		return 0;
	for (uint64_t p = offset / TZ_PAGE_SIZE; p <= (offset + n - 1) / TZ_PAGE_SIZE; p++)
		if (!(k->populated[p / 8] >> p % 8 & 1))
			return 0;
	return 1;
}

/* The same now, for a live arena: what was found at the beginning is out of date. */
static int is_there_now(const struct checker *k, uint64_t offset, uint64_t n)
{
	if (!k->c->live)
		return is_there(k, offset, n);
	if (offset >= k->size || n > k->size - offset)
		return 0;
	return lseek(k->fd, (off_t)offset, SEEK_DATA) == (off_t)offset &&
		lseek(k->fd, (off_t)offset, SEEK_HOLE) >= (off_t)(offset + n);
}

/* ---- objects ---- */

/* Marks an object's units as taken; returns whether one was. */
static int is_taken(struct checker *k, uint64_t offset, unsigned units)
{
	uint64_t first = (offset - k->head.segment_offset) / TZ_UNIT;
	int twice = tz_units_any(k->taken, first, units);

	tz_units_take(k->taken, first, units);
	return twice;
}

/* Whether this entry is the first one found of an object that pages share. */
static int is_first_share(struct checker *k, uint64_t entry)
{
	uint64_t unit = (tz_entry_offset(entry) - k->head.segment_offset) / TZ_UNIT;
	int first = !tz_units_any(k->shared, unit, 1);

	tz_units_take(k->shared, unit, 1);
	return first;
}

/* The payload is looked at once, for the first member that is found. (Live, the next one may be of
 * another group.) */
static const char *group_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry);
	size_t size = tz_entry_units(entry) * TZ_UNIT, most = sizeof(struct tz_group_head);
	int whole = k->c->live ||
		!tz_units_any(k->shared, (offset - k->head.segment_offset) / TZ_UNIT, 1);
	struct tz_group_head head;
	const char *fault;

	if (!(k->head.incompatible & TZ_ARENA_GROUPS))
		return "it is in a group, but the head says that there are none";
	if (size > sizeof k->object || tz_entry_is_shared(entry))
		return "its entry is of an unknown kind";
	if (read_at(k, offset, k->object, whole || size < most ? size : most) < 0)
		return "its object cannot be read";
	fault = tz_group_head_fault(k->object, page, tz_entry_units(entry), &head);
	if (!fault && whole && !tz_group_payload_is_right(k->object, &head))
		return "its group's checksum does not match";
	return fault;
}

/* Of what is on the backing file, which may be closed. */
static const char *backed_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	uint64_t offset = tz_backed_offset(entry), object = tz_backed_object(page, entry, 0);
	unsigned as = tz_backed_as(entry), bytes = tz_backed_units(entry) * TZ_UNIT;
	struct tz_object_head head;
	struct tz_group_head group;

	if (!(k->head.incompatible & TZ_ARENA_BACKING))
		return "it is on a backing file, but the head says that there is none";
	if (as < TZ_KIND_SAME_U64 || !tz_kind_is_stored(as) || as == TZ_KIND_BACKED)
		return "its entry is of an unknown kind";
	if (offset < TZ_BACKING_CHUNK || offset + bytes > k->head.backing_size ||
		offset / TZ_BACKING_CHUNK != (offset + bytes - 1) / TZ_BACKING_CHUNK)
		return "its object is beyond the end of the backing file";
	if (k->c->backing_fd <= 0)
		return NULL;
	if (read_from(k->c->backing_fd, offset, k->object, bytes) < 0)
		return "its object cannot be read from the backing file";
	if (as == TZ_KIND_GROUP)
		return tz_group_head_fault(k->object, page, tz_entry_units(object), &group)
			? "its object on the backing file is not its group"
			: tz_group_payload_is_right(k->object, &group)
			? NULL
			: "its group's checksum on the backing file does not match";
	memcpy(&head, k->object, sizeof head);
	if (head.owner != (uint32_t)page)
		return "its object on the backing file belongs to another page";
	return tz_crc32c(tz_object_seed(page, as), k->object + sizeof head,
		       tz_entry_length(entry)) == head.crc
		? NULL : "its object's checksum on the backing file does not match";
}

/* Whether it shares room there with another one, which is no group that both are members of. */
static int is_backed_twice(struct checker *k, uint64_t entry)
{
	uint64_t first = tz_backed_offset(entry) / TZ_UNIT;
	unsigned units = tz_backed_units(entry);
	int group = tz_backed_as(entry) == TZ_KIND_GROUP,
	    known = k->groups && group && tz_units_any(k->groups, first, 1), twice;

	if (!k->backed || known)
		return 0;
	twice = tz_units_any(k->backed, first, units);
	tz_units_take(k->backed, first, units);
	if (group)
		tz_units_take(k->groups, first, 1);
	k->c->backing_bytes += units * TZ_UNIT;
	return twice;
}

/* What is wrong with an object; NULL: nothing. */
static const char *object_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry), in = offset - k->head.segment_offset;
	unsigned length = tz_entry_length(entry), units = tz_entry_units(entry),
		 kind = tz_entry_kind(entry);
	struct tz_object_head head;
	uint8_t *object = k->object;
	uint64_t owner = tz_object_owner(page, entry);

	if (offset < k->head.segment_offset ||
		in / TZ_SEGMENT_SIZE != (in + units * TZ_UNIT - 1) / TZ_SEGMENT_SIZE ||
		in / TZ_SEGMENT_SIZE >= k->head.nr_segments)
		return "its object is out of range";
	if (!k->c->live && !is_there(k, offset, units * TZ_UNIT))
		return "its object is where the file has a hole";
	if (tz_entry_is_grouped(entry))
		return group_fault(k, page, entry);
	if (read_at(k, offset, object, sizeof head + length) < 0)
		return "its object cannot be read";
	memcpy(&head, object, sizeof head);
	if (head.owner != (uint32_t)owner)
		return "its object belongs to another page";
	if (tz_crc32c(tz_object_seed(owner, kind), object + sizeof head, length) !=
		head.crc)
		return "its object's checksum does not match";
	return NULL;
}

static const char *entry_fault(struct checker *k, uint64_t page, uint64_t entry)
{
	unsigned kind = tz_entry_kind(entry);

	if (!tz_entry_check(page, entry))
		return "its entry is damaged";
	if (kind == TZ_KIND_POISONED)
		return "it was found damaged when a server attached the arena: it is lost";
	if (kind == TZ_KIND_EMPTY || !tz_kind_is_stored(kind))
		return "its entry is of an unknown kind";
	if (tz_entry_is_backed(entry))
		return backed_fault(k, page, entry);
	if (!tz_entry_has_object(entry))
		return NULL;
	return object_fault(k, page, entry);
}

/* own: and the object, which no entry before it named. */
static void count(struct checker *k, uint64_t entry, int own)
{
	struct tz_check *c = k->c;
	struct tz_group_head head;

	c->pages++;
	if (tz_entry_kind(entry) <= TZ_KIND_SAME_U64)
		c->same_filled++;
	c->backing_pages += tz_entry_is_backed(entry);
	c->group_pages += tz_entry_is_grouped(entry);
	c->dup_pages += !own && !tz_entry_is_grouped(entry);
	if (!tz_entry_has_object(entry) || !own)
		return;
	c->objects++;
	memcpy(&head, k->object, TZ_GROUP_HEAD_LEAST);	/* as it has just been read */
	c->payload_bytes += tz_entry_is_grouped(entry) ? head.length : tz_entry_length(entry);
	c->object_bytes += tz_entry_units(entry) * TZ_UNIT;
}

/* Live: a page's entry as it is now, by way of the directory; 0: it has none. */
static uint64_t entry_now(const struct checker *k, uint64_t page)
{
	uint64_t index = page / TZ_TABLE_ENTRIES, entry = 0;

	if (read_at(k, k->head.directory_offset + index * 8, &entry, 8) < 0 || !entry ||
		!tz_table_is_directory_entry(index, entry) ||
		read_at(k, tz_entry_offset(entry) + page % TZ_TABLE_ENTRIES * 8, &entry, 8) < 0)
		return 0;
	return entry;
}

/* Live: looks again, until the entry is found sound, or the same and faulty a few times. What is
 * wrong with it then; *entry is the last one. */
static const char *settle(struct checker *k, uint64_t page, uint64_t *entry, const char *fault)
{
	unsigned same = 0;

	for (unsigned try = 0; fault && same < LIVE_SAME; try++) {
		uint64_t now;

		if (try == LIVE_TRIES) {
			k->c->unsettled++;
			return NULL;
		}
		pause_live();
		now = entry_now(k, page);
		same = now == *entry ? same + 1 : 0;
		*entry = now;
		fault = now ? entry_fault(k, page, now) : NULL;
	}
	return fault;
}

static void check_entry(struct checker *k, uint64_t page, uint64_t entry)
{
	const char *fault = entry ? entry_fault(k, page, entry) : NULL;
	int own = 1;

	if (fault && k->c->live)
		fault = settle(k, page, &entry, fault);
	if (!entry)
		return;
	if (!fault && (tz_entry_is_shared(entry) || tz_entry_is_grouped(entry)))
		own = is_first_share(k, entry);
	if (fault)
		problem(k, page, "%s", fault);
	else if (tz_entry_is_backed(entry) && is_backed_twice(k, entry))
		problem(k, page, "its object shares room with another one on the backing file");
	else if (own && tz_entry_has_object(entry) && k->taken &&
		is_taken(k, tz_entry_offset(entry), tz_entry_units(entry)))
		problem(k, page, "its object shares room with another one");
	else
		count(k, entry, own);
}

/* ---- the rest ---- */

static const char *table_fault(struct checker *k, uint64_t index, uint64_t entry)
{
	uint64_t offset = tz_entry_offset(entry);

	if (!tz_table_is_directory_entry(index, entry) || offset % TZ_PAGE_SIZE ||
		offset < k->head.segment_offset || offset >= k->size)
		return "the directory's entry is damaged";
	if (!is_there_now(k, offset, TZ_PAGE_SIZE))
		return "the page of the table is where the file has a hole";
	if (read_at(k, offset, k->table, sizeof k->table) < 0)
		return "the page of the table cannot be read";
	return NULL;
}

/* As settle(), for a page of the table. Afterwards k->table is that page. */
static const char *settle_table(
	struct checker *k, uint64_t index, uint64_t *entry, const char *fault)
{
	unsigned same = 0;

	for (unsigned try = 0; fault && same < LIVE_SAME && try < LIVE_TRIES; try++) {
		uint64_t now = 0;

		pause_live();
		read_at(k, k->head.directory_offset + index * 8, &now, 8);
		same = now == *entry ? same + 1 : 0;
		*entry = now;
		fault = now ? table_fault(k, index, now) : NULL;
	}
	return fault;
}

static void check_table_page(struct checker *k, uint64_t index, uint64_t entry)
{
	uint64_t first = index * TZ_TABLE_ENTRIES, pages = k->head.disksize / TZ_PAGE_SIZE;
	const char *fault = table_fault(k, index, entry);

	if (fault && k->c->live)
		fault = settle_table(k, index, &entry, fault);
	if (!entry)
		return;
	if (fault) {
		problem(k, first, "%s: pages %llu to %llu are lost", fault,
			(unsigned long long)first,
			(unsigned long long)first + TZ_TABLE_ENTRIES - 1);
		return;
	}
	if (k->taken && is_taken(k, tz_entry_offset(entry), TZ_PAGE_SIZE / TZ_UNIT))
		problem(k, first, "page %llu of the table shares room with something else",
			(unsigned long long)index);
	k->c->table_pages++;
	for (unsigned i = 0; i < TZ_TABLE_ENTRIES; i++) {
		if (first + i < pages)
			check_entry(k, first + i, k->table[i]);
		else if (k->table[i])
			problem(k, TZ_CHECK_NO_PAGE, "an entry beyond the end of the disk");
	}
}

static void check_table(struct checker *k)
{
	uint64_t tables = tz_tables_for(k->head.disksize);

	for (uint64_t at = 0; at < tables; at += TZ_DIRECTORY_ENTRIES) {
		uint64_t n = tables - at < TZ_DIRECTORY_ENTRIES ? tables - at
								 : TZ_DIRECTORY_ENTRIES;
		uint64_t offset = k->head.directory_offset + at * 8;

		if (!is_there_now(k, offset, n * 8))
			continue;
		if (read_at(k, offset, k->directory, n * 8) < 0) {
			problem(k, at * TZ_TABLE_ENTRIES, "a page of the directory cannot be read");
			continue;
		}
		for (uint64_t i = 0; i < n; i++)
			if (k->directory[i])
				check_table_page(k, at + i, k->directory[i]);
	}
}

static void check_dictionary(struct checker *k)
{
	uint32_t n = k->head.dictionary_size;
	uint8_t *bytes = n && n <= TZ_DICTIONARY_MAX ? malloc(n) : NULL;

	if (n && (!bytes || !is_there(k, TZ_DICTIONARY_OFFSET, n) ||
			 read_at(k, TZ_DICTIONARY_OFFSET, bytes, n) < 0 ||
			 tz_crc32c(0, bytes, n) != k->head.dictionary_crc))
		problem(k, TZ_CHECK_NO_PAGE, "the dictionary's size or checksum is wrong");
	free(bytes);
}

static int refuse(char *why, size_t why_size, int err, const char *what)
{
	snprintf(why, why_size, "%s", what);
	return err;
}

/* Both copies; live: one of them may be being written. */
static int read_head(struct checker *k, char *why, size_t why_size)
{
	uint8_t copies[TZ_HEAD_COPIES * TZ_PAGE_SIZE];
	int rc = -EILSEQ;

	for (unsigned try = 0; rc == -EILSEQ && try < (k->c->live ? LIVE_TRIES : 1); try++) {
		if (try)
			pause_live();
		rc = tz_arena_fetch_head(k->fd, copies, &k->head, why, why_size);
	}
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < TZ_HEAD_COPIES; i++)
		if (!tz_arena_is_head(copies + i * TZ_PAGE_SIZE) && !k->c->live)
			problem(k, TZ_CHECK_NO_PAGE, "copy %u of the head is damaged", i);
	k->size = tz_arena_bytes(&k->head);
	return 0;
}

static void show_head(struct tz_check *c, const struct tz_arena_head *head)
{
	c->version = head->version;
	c->state = head->state;
	c->disksize = head->disksize;
	c->generation = head->generation;
	memcpy(c->uuid, head->uuid, sizeof c->uuid);
	memcpy(c->algorithm, head->algorithm, sizeof c->algorithm - 1);
}

static int check(struct checker *k, char *why, size_t why_size)
{
	int rc = read_head(k, why, why_size);

	if (rc < 0)
		return rc;
	show_head(k->c, &k->head);
	rc = find_populated(k);
	if (rc == 0 && (!(k->shared = tz_units_map(k->head.nr_segments)) ||
			       (!k->c->live && !(k->taken = tz_units_map(k->head.nr_segments)))))
		rc = -ENOMEM;
	if (rc == 0 && !k->c->live && k->head.incompatible & TZ_ARENA_BACKING &&
		k->head.backing_size <= TZ_BACKING_MAX &&
		(!(k->backed = tz_units_map(k->head.backing_size / TZ_SEGMENT_SIZE)) ||
			!(k->groups = tz_units_map(k->head.backing_size / TZ_SEGMENT_SIZE))))
		rc = -ENOMEM;
	if (rc < 0) {
		snprintf(why, why_size, "it cannot be read: %s", strerror(-rc));
		return rc;
	}
	check_dictionary(k);
	check_table(k);
	return 0;
}

int tz_check_arena(int fd, struct tz_check *c, char *why, size_t why_size)
{
	struct checker *k = calloc(1, sizeof *k);
	int rc;

	if (!k)
		return refuse(why, why_size, -ENOMEM, "there is no memory to check it");
	k->c = c;
	k->fd = fd;
	rc = check(k, why, why_size);
	free(k->populated);
	tz_units_unmap(k->taken, k->head.nr_segments);
	tz_units_unmap(k->shared, k->head.nr_segments);
	tz_units_unmap(k->backed, k->head.backing_size / TZ_SEGMENT_SIZE);
	tz_units_unmap(k->groups, k->head.backing_size / TZ_SEGMENT_SIZE);
	free(k);
	return rc;
}
