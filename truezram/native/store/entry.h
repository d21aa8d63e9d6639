/* entry.h - the page table's entries: 8 bytes that say where a page is and how it is stored.
 *
 *	63   56 55 53 52  51          17 16         5 4    0
 *	+------+-----+---+--------------+------------+------+
 *	| check| age | S | offset / 16  | length - 1 | kind |	object
 *	| check| age | 0 | offset / 16  | units - 1  | GROUP|	member of a group (group.h)
 *	| check| stored as | offset / 16| length - 1 |BACKED|	on the backing file (backing.h)
 *	| check|  0  | 0 | 0 |    word, 32 bits      | U32  |	same-filled by a 4-byte word
 *	| check|         word, 51 bits, signed       | WORD |	same-filled by an 8-byte word
 *	|                         0                         |	empty
 *
 * S: sealed without the page number (an object that several pages share). `age`: for how long the
 * page has not been touched, in eight steps (age.c); a new entry has 0. `check` is an extended
 * Hamming code of the other 56 bits: any two valid entries of a page differ in at least four bits,
 * so up to three flipped bits are always noticed. The page number goes into it as well: what is not
 * an entry of this page is taken for one once in 128 times. EMPTY is exactly 0; no single flip
 * makes an entry of it, or it of an entry, that reads as anything but zeros.
 *
 * Nothing here trusts an entry: tz_entry_check() comes first, and what is left to check (that an
 * object lies where objects are) is the allocator's business.
 */
#ifndef TZ_ENTRY_H
#define TZ_ENTRY_H

#include "codec.h"

#include <stdint.h>

#define TZ_UNIT 16u
#define TZ_OBJECT_HEAD 8u		/* bytes before the payload (store.c) */
/* of one page's object: 257 */
#define TZ_MAX_UNITS ((TZ_OBJECT_HEAD + TZ_PAGE_SIZE + TZ_UNIT - 1) / TZ_UNIT)

#define TZ_ENTRY_KIND_BITS 5
#define TZ_ENTRY_LENGTH_BITS 12
#define TZ_ENTRY_OFFSET_SHIFT (TZ_ENTRY_KIND_BITS + TZ_ENTRY_LENGTH_BITS)
#define TZ_ENTRY_OFFSET_BITS 35
#define TZ_ENTRY_OFFSET_MASK (((1ull << TZ_ENTRY_OFFSET_BITS) - 1) << TZ_ENTRY_OFFSET_SHIFT)
#define TZ_ENTRY_SHARED (1ull << 52)
#define TZ_ENTRY_AGE_SHIFT 53
#define TZ_ENTRY_AGE_BITS 3
#define TZ_ENTRY_AGE (((1ull << TZ_ENTRY_AGE_BITS) - 1) << TZ_ENTRY_AGE_SHIFT)
#define TZ_ENTRY_DATA_BITS 56
#define TZ_ENTRY_DATA ((1ull << TZ_ENTRY_DATA_BITS) - 1)
#define TZ_ENTRY_WORD_BITS (TZ_ENTRY_DATA_BITS - TZ_ENTRY_KIND_BITS)

/* Kinds that no codec has. POISONED: the page was found damaged when a server attached the arena.
 * It reads as an error, and the entry names nothing. TABLE: entries of the directory, never a
 * page's. */
#define TZ_KIND_POISONED 30u
#define TZ_KIND_TABLE 31u

static inline unsigned tz_entry_kind(uint64_t entry)
{
	return (unsigned)(entry & ((1u << TZ_ENTRY_KIND_BITS) - 1));
}

/* On the backing file: no object of the arena. */
static inline int tz_entry_is_backed(uint64_t entry)
{
	return tz_entry_kind(entry) == TZ_KIND_BACKED;
}

static inline int tz_entry_has_object(uint64_t entry)
{
	return tz_entry_kind(entry) >= TZ_KIND_SAME_U64 && !tz_entry_is_backed(entry);
}

/* The object is a group, and the page one of its members. */
static inline int tz_entry_is_grouped(uint64_t entry)
{
	return tz_entry_kind(entry) == TZ_KIND_GROUP;
}

/* Bytes of an object's payload; of a group, units of the object. */
static inline unsigned tz_entry_length(uint64_t entry)
{
	return (unsigned)(entry >> TZ_ENTRY_KIND_BITS & ((1u << TZ_ENTRY_LENGTH_BITS) - 1)) + 1;
}

/* Units that an object of so many bytes takes. */
static inline unsigned tz_units_for(unsigned length)
{
	return (TZ_OBJECT_HEAD + length + TZ_UNIT - 1) / TZ_UNIT;
}

static inline unsigned tz_entry_units(uint64_t entry)
{
	unsigned length = tz_entry_length(entry);

	return tz_entry_is_grouped(entry) ? length : tz_units_for(length);
}

static inline uint64_t tz_entry_offset(uint64_t entry)
{
	return (entry & TZ_ENTRY_OFFSET_MASK) >> TZ_ENTRY_OFFSET_SHIFT << 4;
}

/* entry.c: the code of a bit is that of its byte (four bits, at least two of them set, so that no
 * code is that of a check bit) and its number in the byte (three bits); the eighth check bit makes
 * the number of ones even. */
extern uint8_t tz_entry_code_of_columns[256]; /* by the sum of the bytes: which bit numbers occur an
						 odd number of times */
extern uint8_t tz_entry_code_of_bytes[128];		/* by the parities of the bytes */
extern uint8_t tz_entry_code_of_page[128];		/* even numbers of ones */

static inline uint64_t tz_entry_code(uint64_t page, uint64_t data)
{
	uint64_t columns = data ^ data >> 32, parities = data ^ data >> 4;

	columns ^= columns >> 16;
	columns ^= columns >> 8;
	parities ^= parities >> 2;
	parities ^= parities >> 1;
	parities = (parities & 0x0001010101010101ull) * 0x0102040810204080ull >> 56;
	return (uint64_t)(tz_entry_code_of_columns[columns & 0xff] ^
		tz_entry_code_of_bytes[parities] ^
		tz_entry_code_of_page[page * 0x9e3779b97f4a7c15ull >> 57]);
}

/* Adds the check to the other bits. */
static inline uint64_t tz_entry_seal(uint64_t page, uint64_t data)
{
	return data | tz_entry_code(page, data) << TZ_ENTRY_DATA_BITS;
}

/* 1 when the entry is EMPTY or one that tz_entry_seal() made for this page. */
static inline int tz_entry_check(uint64_t page, uint64_t entry)
{
	return entry == 0 ||
		tz_entry_code(page, entry & TZ_ENTRY_DATA) == entry >> TZ_ENTRY_DATA_BITS;
}

static inline uint64_t tz_entry_object(
	uint64_t page, unsigned kind, uint64_t offset, unsigned length)
{
	return tz_entry_seal(page,
		kind | (uint64_t)(length - 1) << TZ_ENTRY_KIND_BITS |
			offset / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT);
}

/* The same, of an object that pages share: not sealed with a page's number. */
static inline uint64_t tz_entry_shared(
	uint64_t page, unsigned kind, uint64_t offset, unsigned length)
{
	uint64_t entry = tz_entry_object(page, kind, offset, length);

	return tz_entry_seal(page, (entry & TZ_ENTRY_DATA) | TZ_ENTRY_SHARED);
}

/* Of a member of a group that takes so many units. */
static inline uint64_t tz_entry_group(uint64_t page, uint64_t offset, unsigned units)
{
	return tz_entry_object(page, TZ_KIND_GROUP, offset, units);
}

static inline int tz_entry_is_shared(uint64_t entry)
{
	return tz_entry_has_object(entry) && entry & TZ_ENTRY_SHARED;
}

/* Of a page that is on the backing file: bits 17 to 50 are where, in units, 51 says that it has
 * been read since it was written there, 52 to 55 are the kind of its object, and the length is that
 * object's as its entry had it. */
#define TZ_BACKED_OFFSET_BITS 34
#define TZ_BACKED_READ (1ull << 51)
#define TZ_BACKED_AS_SHIFT 52

static inline uint64_t tz_entry_backed(
	uint64_t page, unsigned as, uint64_t offset, unsigned length)
{
	return tz_entry_seal(page,
		TZ_KIND_BACKED | (uint64_t)(length - 1) << TZ_ENTRY_KIND_BITS |
			offset / TZ_UNIT << TZ_ENTRY_OFFSET_SHIFT |
			(uint64_t)as << TZ_BACKED_AS_SHIFT);
}

static inline uint64_t tz_backed_offset(uint64_t entry)
{
	return (entry >> TZ_ENTRY_OFFSET_SHIFT & ((1ull << TZ_BACKED_OFFSET_BITS) - 1)) * TZ_UNIT;
}

static inline unsigned tz_backed_as(uint64_t entry)
{
	return (unsigned)(entry >> TZ_BACKED_AS_SHIFT & 15);
}

/* The same object's entry if it were in the arena, at `offset`. */
static inline uint64_t tz_backed_object(uint64_t page, uint64_t entry, uint64_t offset)
{
	return tz_entry_object(page, tz_backed_as(entry), offset, tz_entry_length(entry));
}

static inline unsigned tz_backed_units(uint64_t entry)
{
	unsigned length = tz_entry_length(entry);

	return tz_backed_as(entry) == TZ_KIND_GROUP ? length : tz_units_for(length);
}

/* Of an entry with an object; others have none. */
static inline unsigned tz_entry_age(uint64_t entry)
{
	return (unsigned)((entry & TZ_ENTRY_AGE) >> TZ_ENTRY_AGE_SHIFT);
}

/* The same entry with another age. */
static inline uint64_t tz_entry_aged(uint64_t page, uint64_t entry, unsigned age)
{
	return tz_entry_seal(page,
		(entry & TZ_ENTRY_DATA & ~TZ_ENTRY_AGE) | (uint64_t)age << TZ_ENTRY_AGE_SHIFT);
}

/* Whether two entries of a page with objects differ in nothing but age. */
static inline int tz_entry_is_same_object(uint64_t a, uint64_t b)
{
	return tz_entry_has_object(a) && !((a ^ b) & TZ_ENTRY_DATA & ~TZ_ENTRY_AGE);
}

static inline uint64_t tz_entry_poisoned(uint64_t page)
{
	return tz_entry_seal(page, TZ_KIND_POISONED);
}

/* The entry that holds this word by itself, or 0 when it takes an object. */
static inline uint64_t tz_entry_same(uint64_t page, uint64_t word)
{
	unsigned spare = 64 - TZ_ENTRY_WORD_BITS;

	if ((uint32_t)word == word >> 32)
		return tz_entry_seal(
			page, TZ_KIND_SAME_U32 | (word & UINT32_MAX) << TZ_ENTRY_KIND_BITS);
	if ((uint64_t)((int64_t)(word << spare) >> spare) == word)
		return tz_entry_seal(
			page, (TZ_KIND_SAME_WORD | word << TZ_ENTRY_KIND_BITS) & TZ_ENTRY_DATA);
	return 0;
}

/* The word of a same-filled page whose entry holds it. */
static inline uint64_t tz_entry_word(uint64_t entry)
{
	if (tz_entry_kind(entry) == TZ_KIND_SAME_U32)
		return (entry >> TZ_ENTRY_KIND_BITS & UINT32_MAX) * 0x100000001ull;
	return (uint64_t)((int64_t)(entry << (64 - TZ_ENTRY_DATA_BITS)) >>
		(64 - TZ_ENTRY_WORD_BITS));
}

#endif
