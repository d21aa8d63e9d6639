/* batch.h - many pages in one call, for the Python library: one crossing of the language boundary,
 * without the GIL. */
#ifndef TZ_BATCH_H
#define TZ_BATCH_H

#include "codec.h"

/* Compresses pages[0 .. n) one after another into out[0 .. capacity), packed: object i is
 * out[offsets[i] .. offsets[i + 1]), 4096 bytes long (the page itself) when the page does not
 * shrink. offsets has n + 1 entries, the first is 0. Returns the number of pages done: less than n
 * if the next object does not fit. Nothing past the capacity is written; bytes between the last
 * object and the capacity may be overwritten. */
size_t tz_compress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *pages,
	size_t n, uint8_t *out, size_t capacity, uint64_t *offsets);

/* The reverse; out has room for n pages. An object of 4096 bytes is a raw page. Returns the number
 * of pages done: if less than n, the object of that index is corrupt or its offsets are not within
 * data[0 .. size). */
size_t tz_decompress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *data,
	size_t size, const uint64_t *offsets, size_t n, uint8_t *out);

/* How often each byte value occurs in data[0 .. size), added to counts[0 .. 256). */
void tz_count_bytes(const uint8_t *data, size_t size, uint64_t *counts);

#endif
