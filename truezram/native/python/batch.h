/* batch.h - many pages in one call, for the Python library: one crossing of the language border, the GIL released. */
#ifndef TZ_BATCH_H
#define TZ_BATCH_H

#include "codec.h"

/* Compresses pages[0 .. n) one after another into out[0 .. capacity), packed: object i is out[offsets[i] .. offsets[i + 1]),
 * 4096 bytes long (the page itself) when the page does not shrink. offsets has n + 1 entries, the first is 0.
 * Returns the number of pages done: less than n when the next object does not fit. Nothing beyond the capacity is written;
 * within it, bytes after the last object may be. */
size_t tz_compress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *pages,
	size_t n, uint8_t *out, size_t capacity, uint64_t *offsets);

/* The reverse; out has room for n pages. An object of 4096 bytes is a page as it is.
 * Returns the number of pages done: less than n when object number that is corrupt, or its offsets do not lie in
 * data[0 .. size). */
size_t tz_decompress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *data,
	size_t size, const uint64_t *offsets, size_t n, uint8_t *out);

#endif
