/* group.h - neighbouring pages that nobody touches are one object, compressed together. How it
 * works is at the top of group.c. */
#ifndef TZ_GROUP_H
#define TZ_GROUP_H

#include "alloc.h"
#include "lock.h"
#include "zstd_group.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct tz_store;
struct tz_store_thread;
struct tz_queue_stats;

/* A group begins with this, as far as it has members; its payload follows the last page_crc. */
struct tz_group_head {
	uint32_t crc;		/* of what follows `owner`, up to the payload */
	uint32_t owner;		/* the first of the 16 pages */
	uint16_t members;	/* a bit for each of them that was put in */
	uint16_t zero;
	uint32_t length;	/* of the payload */
	uint32_t payload_crc;
	uint32_t page_crc[TZ_GROUP_PAGES];	/* of each member's 4096 bytes, in order */
};
#define TZ_GROUP_HEAD_LEAST offsetof(struct tz_group_head, page_crc)

static inline unsigned tz_group_head_size(unsigned members)
{
	return (unsigned)(TZ_GROUP_HEAD_LEAST +
		(unsigned)__builtin_popcount(members) * sizeof(uint32_t));
}

/* Of 16 pages: the window that a page is in, and its place there. */
static inline uint64_t tz_group_window(uint64_t page)
{
	return page / TZ_GROUP_PAGES;
}

static inline unsigned tz_group_place(uint64_t page)
{
	return (unsigned)(page % TZ_GROUP_PAGES);
}

/* What is known of a window's group: private, counted again from the page table after a crash. */
struct tz_group_word {
	uint64_t unit : 35;	/* where it is; 0: there is none */
	uint64_t count : 5;	/* entries that name it, and one while it is being made or moved */
	uint64_t read : 16;	/* members that have been read since */
	uint64_t slack : 4;	/* bytes after the payload */
	uint64_t more : 4;	/* pages that were put in, less 1 */
};

/* Decompressed groups of one thread. Their heads say whether they are still what the arena has. */
#define TZ_GROUP_SLOTS 2u
/* Groups that half of the members have left, before the housekeeper looks for them. */
#define TZ_GROUPS_THINNED 64u
struct tz_group_slot {
	struct tz_group_head head;	/* members 0: there is none */
	uint32_t right;		/* members whose checksum is right */
	uint8_t pages[TZ_GROUP_BYTES] __attribute__((aligned(64)));
};

struct tz_group_reader {
	struct tz_group_slot slots[TZ_GROUP_SLOTS];
	unsigned last;		/* used */
	size_t size;		/* of all of it */
	uint8_t zstd[] __attribute__((aligned(64)));	/* its workspace */
};

/* What the housekeeper packs with. */
struct tz_group_packer {
	uint8_t pages[TZ_GROUP_BYTES], packed[TZ_GROUP_BYTES];
	uint8_t objects[TZ_GROUP_PAGES][TZ_MAX_UNITS * TZ_UNIT];	/* as they were read */
	uint64_t entries[TZ_GROUP_PAGES];	/* the same; 0: not to be put in */
	size_t size;
	uint8_t zstd[] __attribute__((aligned(64)));
};

struct tz_groups {
	_Atomic int on;
	tz_lock lock;		/* of the words */
	struct tz_group_word *words;	/* of each window, touched where there was a group once */
	uint64_t words_pages;
	uint64_t *touched;		/* a bit for each of these pages; in the same mapping */
	/* While a group takes the place of another one in a window: that one. After a crash, one
	 * that was being replaced. */
	uint64_t old_window;
	struct tz_group_word old;
	_Atomic uint32_t thinned;	/* groups that half of the members have left, since the last
					 * look */
	_Atomic uint64_t enough;	/* free bytes above which moving groups may pay again */
	struct tz_group_packer *packer;
	/* windows to be packed: [from, to) */
	tz_lock asked_lock;
	uint64_t from, to;
	_Atomic uint64_t asked, done;	/* tickets */
};

/* ---- group.c ---- */

/* Units of a group with these members (bits) and so many bytes of payload. */
unsigned tz_group_units(unsigned members, unsigned length);
/* Reads the head of what an entry of this page says is a group of so many units. NULL, or what is
 * wrong: then *head means nothing. Its checksum is looked at, the payload's is not. */
const char *tz_group_head_fault(
	const uint8_t *object, uint64_t page, unsigned units, struct tz_group_head *head);
int tz_group_payload_is_right(const uint8_t *object, const struct tz_group_head *head);

/* The page of an entry whose group, there, is where one can be. NULL, or what is wrong. */
const char *tz_group_read(struct tz_store_thread *t, uint64_t page, uint64_t entry,
	const uint8_t *object, uint8_t *out);
/* The page has been read. Whether it was so before, since it is in its group. */
int tz_group_note_read(struct tz_store *s, uint64_t page, uint64_t entry);
/* Gives the page, whose content is `data`, an object of its own if it still has the entry, which is
 * announced. Ends the announcement. 1: it has left, 0: it was written meanwhile, -1: there is no
 * room. */
int tz_group_leave(struct tz_store_thread *t, uint64_t page, _Atomic uint64_t *slot,
	uint64_t entry, const uint8_t *data);
/* A page uses its group no longer. How many others do; -1: no such group is known, and nothing must
 * be freed. *payload: bytes of it. */
int64_t tz_group_release(struct tz_store *s, uint64_t page, uint64_t entry, unsigned *payload);
/* A group came into the arena (sign 1) or is to be freed (-1). */
void tz_group_count(struct tz_queue_stats *q, uint64_t entry, unsigned payload, int sign);

/* From the housekeeper alone, and while an arena is attached: a window's word may be used from now
 * on; and what it says of a new group, which nobody names yet. */
void tz_group_touch(struct tz_store *s, uint64_t window);
struct tz_group_word tz_group_word_for(uint64_t offset, const struct tz_group_head *head);

/* Whether there can be groups: libzstd is there. 0 or -ENOTSUP with why. */
int tz_groups_check(char *why, size_t why_size);
/* Everything that it takes to have groups; they are not switched on by that. 0 or negative errno
 * with why. */
int tz_groups_prepare(struct tz_store *s, char *why, size_t why_size);
/* After that, for an arena that another server has left: an entry that names a group. */
void tz_group_adopt(struct tz_store *s, uint64_t page, uint64_t entry);
void tz_groups_destroy(struct tz_store *s);

/* ---- group_pack.c: from the housekeeper's thread, outside of begin and end ---- */

/* The pages of a window, as bits, that it pays to look at more closely: in no group yet, of that
 * age at least, and enough of them; or 0. */
unsigned tz_group_wanted(struct tz_store *s, uint64_t window, unsigned age);
/* Makes one group of those pages of a window whose bits are set and that can be in one, and of the
 * members of the group that it has. How many are in it; 0: that gains nothing. *saved (not NULL):
 * units that they take less, if nobody was in the way. */
unsigned tz_group_pack(
	struct tz_store_thread *t, uint64_t window, unsigned pages, unsigned *saved);
/* Whether there may be something for it to do. */
int tz_groups_want_care(const struct tz_store *s);
/* Packs what was asked for, packs groups again that many have left, empties sparse segments. */
void tz_groups_look_after(struct tz_store_thread *t, int asked);

#endif
