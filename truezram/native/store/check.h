/* check.h - reads an arena from outside and says what is wrong where. Changes nothing. */
#ifndef TZ_CHECK_H
#define TZ_CHECK_H

#include <stddef.h>
#include <stdint.h>

#define TZ_CHECK_NO_PAGE UINT64_MAX

struct tz_check_problem {
	uint64_t page;		/* of the disk; TZ_CHECK_NO_PAGE: of none in particular */
	char what[88];
};

struct tz_check {
	/* in: where problems go; what comes after the first `room` is only counted */
	struct tz_check_problem *problems;
	uint32_t room;
	uint32_t live;	/* a server is at work on it: what changes meanwhile is looked at again */
	int32_t backing_fd;	/* its backing file, open for reading; 0: what is there is not
				 * looked at */
	/* out */
	uint32_t version, state;		/* of the head; enum tz_arena_state */
	uint64_t disksize, generation;
	uint64_t nr_problems;
	uint64_t pages, same_filled, objects;		/* entries that are not empty; of these */
	uint64_t dup_pages;	/* and that share the object of another page */
	uint64_t group_pages;	/* and that are members of a group, which is one object */
	uint64_t backing_pages;	/* and that are on the backing file */
	uint64_t backing_bytes;	/* what they take there */
	uint64_t payload_bytes, object_bytes;	/* of the objects; what they take in segments */
	uint64_t table_pages;		/* of 4096 bytes */
	uint64_t populated_bytes;		/* of the file */
	uint64_t unsettled;	/* live: pages that changed whenever they were looked at */
	uint8_t uuid[16];
	char algorithm[32];
};

/* Counts a problem, and notes it while there is room. */
__attribute__((format(printf, 5, 6))) void tz_check_note(struct tz_check_problem *problems,
	uint32_t room, uint64_t *n, uint64_t page, const char *format, ...);

/* Checks the arena in an open file, which may be anything and may change or be cut short meanwhile.
 * 0, whatever problems it has; negative errno with why: it cannot be read as an arena. */
int tz_check_arena(int fd, struct tz_check *c, char *why, size_t why_size);

#endif
