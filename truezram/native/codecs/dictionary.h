/* dictionary.h - zstd with a trained dictionary: the codec "zstd" of codec.h, with data shared by
 * its workspaces.
 *
 * A dictionary is digested once for a level, into memory that the caller provides, and only read
 * after that: all threads of a device share one. Its codec is not in tz_codecs(), as it has no name
 * of its own ("zstd") and its workspaces are made by the functions here;
 * tz_codec_by_kind(TZ_KIND_ZSTD_DICT) returns it. Both live in zstd.c.
 */
#ifndef TZ_DICTIONARY_H
#define TZ_DICTIONARY_H

#include "codec.h"

/* Size of a dictionary. Fewer bytes cannot hold its tables; more would only evict pages from the
 * caches. */
#define TZ_DICTIONARY_MIN 256
#define TZ_DICTIONARY_MAX (128 * 1024)

struct tz_dictionary;

/* Why these bytes cannot be a dictionary (a quick check, without libzstd); NULL when they may be
 * one. */
const char *tz_dictionary_fault(const void *bytes, size_t n);

/* Bytes of memory (64-byte aligned) for a digested dictionary of n bytes; 0 = unavailable, and
 * `why` is set to the reason. */
size_t tz_dictionary_size(size_t n, int level, const char **why);
/* Digests it; keeps a copy of the bytes, not a pointer to them. NULL with `why` set. */
struct tz_dictionary *tz_dictionary_init(void *memory, size_t size, const void *bytes, size_t n,
	int level, const char **why);

/* The bytes it was made from, its id (assigned by training), and the memory that it takes. */
const void *tz_dictionary_bytes(const struct tz_dictionary *d, size_t *n);
uint32_t tz_dictionary_id(const struct tz_dictionary *d);
size_t tz_dictionary_memory(const struct tz_dictionary *d);

/* As workspace_size and workspace_init of a codec. The dictionary must outlive the workspace. */
size_t tz_dictionary_workspace_size(const struct tz_dictionary *d, const char **why);
int tz_dictionary_workspace_init(const struct tz_dictionary *d, void *workspace, size_t size,
	const char **why);

#endif
