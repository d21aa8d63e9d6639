/* batch.c - many pages in one call (batch.h). */
#include "batch.h"

#include <string.h>

size_t tz_compress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *pages,
	size_t n, uint8_t *out, size_t capacity, uint64_t *offsets)
{
	uint8_t spare[TZ_DST_SIZE];
	size_t at = 0;

	offsets[0] = 0;
	for (size_t i = 0; i < n; i++, pages += TZ_PAGE_SIZE) {
		/* otherwise what a codec writes past its object would not fit */
		int direct = capacity - at >= TZ_DST_SIZE;
		uint8_t *dst = direct ? out + at : spare;
		size_t length = codec->compress(workspace, pages, dst);
		const uint8_t *object = length ? dst : pages;

		if (!length)
			length = TZ_PAGE_SIZE;
		if (length > capacity - at)
			return i;
		if (object != out + at)
			memcpy(out + at, object, length);
		at += length;
		offsets[i + 1] = at;
	}
	return n;
}

size_t tz_decompress_pages(const struct tz_codec *codec, void *workspace, const uint8_t *data,
	size_t size, const uint64_t *offsets, size_t n, uint8_t *out)
{
	for (size_t i = 0; i < n; i++, out += TZ_PAGE_SIZE) {
		uint64_t from = offsets[i], to = offsets[i + 1];

		if (from > to || to > size)
			return i;
		if (to - from == TZ_PAGE_SIZE)
			memcpy(out, data + from, TZ_PAGE_SIZE);
		else if (codec->decompress(workspace, data + from, to - from, out))
			return i;
	}
	return n;
}

/* Four tables: a run of one value would wait for its own count each time. */
void tz_count_bytes(const uint8_t *data, size_t size, uint64_t *counts)
{
	uint64_t more[3][256] = { { 0 } };
	size_t i = 0;

	for (; i + 4 <= size; i += 4) {
		counts[data[i]]++;
		more[0][data[i + 1]]++;
		more[1][data[i + 2]]++;
		more[2][data[i + 3]]++;
	}
	for (; i < size; i++)
		counts[data[i]]++;
	for (unsigned value = 0; value < 256; value++)
		counts[value] += more[0][value] + more[1][value] + more[2][value];
}
