/* codec.h - what a page codec is, and the table of them.
 *
 * A codec turns one 4096-byte page into a shorter object and back. It is a table of named function
 * pointers, chosen once for the CPU (cpu.c) and called from queue threads, from Python through
 * cffi, and from tests; it holds no state of its own. Its working memory is a workspace that the
 * caller allocates beforehand, so nothing here allocates, locks or faults.
 *
 * Contract of every codec:
 *  - compress() reads exactly the 4096 bytes of `page`, writes at most TZ_DST_SIZE bytes to `dst`,
 *    and returns the object's length, 1 .. 4095, or 0 when the page does not shrink (the store then
 *    keeps it raw). The page must not change during the call; if it does, the object may be wrong,
 *    but nothing is written out of bounds.
 *  - decompress() accepts any bytes of any length. It never reads outside src[0 .. n), never writes
 *    outside out[0 .. 4096), and returns 0, or -1 for an object that compress() cannot have made
 *    (out is then undefined).
 *  - Neither keeps a pointer. A workspace is used by one thread at a time; its contents after a
 *    call are undefined.
 *  - All instruction-set variants of a codec decode each other's objects.
 */
#ifndef TZ_CODEC_H
#define TZ_CODEC_H

#include <stddef.h>
#include <stdint.h>

#define TZ_PAGE_SIZE 4096
/* Capacity of compress()'s output buffer: room for wide stores past the end of the object. */
#define TZ_DST_SIZE (4096 + 1024)

/* What a page-table entry says its object is: the codec and the version of its format (store.h).
 * The numbers are stored in arenas that outlive processes: never reuse one, take a new one when a
 * format changes. */
enum tz_kind {
	TZ_KIND_EMPTY = 0,	/* never written, or discarded: reads as zeros */
	/* one 8-byte word repeated, sign-extended from 51 bits of the entry */
	TZ_KIND_SAME_WORD = 1,
	TZ_KIND_SAME_U32 = 2,	/* one 4-byte word repeated, in the entry */
	TZ_KIND_SAME_U64 = 3,	/* one 8-byte word repeated, in an 8-byte object */
	TZ_KIND_RAW = 4,	/* incompressible ("huge"): the page itself */
	TZ_KIND_LZ4 = 5,	/* LZ4 block format */
	/* zstd frame: magicless, no checksum, no content size, no dictionary */
	TZ_KIND_ZSTD = 6,
	TZ_KIND_TURBO = 7,	/* block reference, 64-byte blocks, format 1 */
	TZ_KIND_FAST = 8,	/* block reference, 32-byte blocks, or byte-LZ, or LZ4, format 1 */
	TZ_KIND_DENSE = 9,	/* fine blocks and static entropy tables, format 1 */
	TZ_KIND_ZSTD_DICT = 10,	/* as ZSTD, with the device's dictionary (dictionary.h) */
	/* never stored: an object of FAST or DENSE, then a byte with that number (auto.c) */
	TZ_KIND_AUTO = 11,
	/* one of up to 16 neighbours that are one zstd frame, with a checksum for each (the store's
	 * group.h) */
	TZ_KIND_GROUP = 12,
	/* an object of one of the others, on the backing file (the store's backing.h) */
	TZ_KIND_BACKED = 13,
	/* must stay last: every kind is below it, so nothing that counts by kind can miss one */
	TZ_KINDS_STORED,
};
#define TZ_KINDS 32		/* room in an entry */
_Static_assert(TZ_KINDS_STORED <= TZ_KINDS,
	"the page table's entries have no room for so many kinds");

/* Whether an entry can be of this kind. */
static inline int tz_kind_is_stored(unsigned kind)
{
	return kind < TZ_KINDS_STORED && kind != TZ_KIND_AUTO;
}

/* Instruction sets, each including those before it on the same architecture. */
enum tz_isa { TZ_ISA_PORTABLE = 0, TZ_ISA_AVX2 = 1, TZ_ISA_AVX512 = 2, TZ_ISA_NEON = 3 };

struct tz_codec {
	const char *name;		/* "lz4", "zstd", "fast", ... */
	const char *summary;		/* what it is good for, in a few words */
	uint8_t kind;			/* enum tz_kind of its objects */
	uint8_t isa;			/* enum tz_isa of the code behind the pointers */
	int8_t level_min, level_max;	/* both 0: the codec has no levels */
	int8_t level_default;
	/* Bytes of workspace (64-byte aligned) for this level; 0 = unavailable, and `why` is set to
	 * the reason. */
	size_t (*workspace_size)(int level, const char **why);
	/* Prepares a workspace of that size. 0, or -1 with `why` set. */
	int (*workspace_init)(void *workspace, size_t size, int level, const char **why);
	size_t (*compress)(void *workspace, const uint8_t *page, uint8_t *dst);
	int (*decompress)(void *workspace, const uint8_t *src, size_t n, uint8_t *out);
};

/* All codecs, NULL-terminated, each in the best variant for this CPU (except those that
 * TRUEZRAM_DISABLE_CPU forbids). */
const struct tz_codec *const *tz_codecs(void);
/* By name, NULL if unknown. */
const struct tz_codec *tz_codec_by_name(const char *name);
/* By the kind of a stored object, NULL if no codec of that kind is compiled in. (ZSTD_DICT: see
 * dictionary.h.) */
const struct tz_codec *tz_codec_by_kind(unsigned kind);
/* The name of a kind: the codec's name; "same" for the three encodings of a same-filled page,
 * "huge" for a raw one, as the kernel calls them. NULL if there is no such kind. */
const char *tz_kind_name(unsigned kind);
/* A particular variant, for tests and benchmarks: NULL when not compiled in or not runnable on this
 * CPU. */
const struct tz_codec *tz_codec_variant(const char *name, enum tz_isa isa);

/* "NAME[:LEVEL]" -> codec and level. NULL with `why` set: unknown name, level out of range, no
 * libzstd. */
const struct tz_codec *tz_parse_algorithm(const char *text, int *level, char *why, size_t why_size);

/* The version of the libzstd that zstd uses, 10504 for 1.5.4; 0 when there is none. */
unsigned tz_zstd_version(void);

/* To whole cache lines. */
static inline size_t tz_round64(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

/* Page-aligned memory that is locked page by page when it is touched; the server leaves it out when
 * it locks the rest. */
struct tz_range { uintptr_t from, to; };
/* dense.c: its tables, built when the first workspace is initialized. */
struct tz_range tz_dense_table_range(void);

/* cpu.c: the best set that this CPU, its OS and TRUEZRAM_DISABLE_CPU (comma list of avx512, avx2,
 * neon) allow. Read once. */
enum tz_isa tz_cpu_isa(void);
const char *tz_isa_name(enum tz_isa isa);

/* same_filled.c: 1 and the word, when the page is one 8-byte word repeated 512 times. */
int tz_same_filled(const uint8_t *page, uint64_t *word);
void tz_fill(uint8_t *page, uint64_t word);

/* crc32c.c: CRC-32C (Castagnoli, reflected, init and xorout ~0 when seed = 0), in hardware where
 * the CPU supports it. */
uint32_t tz_crc32c(uint32_t seed, const void *data, size_t n);

#endif
