/* zstd_group.h - zstd for several pages at once: one frame of up to 64 KiB, as the codec zstd makes
 * them of a page. What a group of pages is, the store knows (store/group.h). Lives in zstd.c.
 *
 * A workspace is the caller's, as with codecs (codec.h): nothing here allocates.
 */
#ifndef TZ_ZSTD_GROUP_H
#define TZ_ZSTD_GROUP_H

#include "codec.h"

#define TZ_GROUP_PAGES 16u
#define TZ_GROUP_BYTES (TZ_GROUP_PAGES * TZ_PAGE_SIZE)

/* For this level, or to decompress only (level 0). As workspace_size and workspace_init of a
 * codec. */
size_t tz_zstd_group_size(int level, const char **why);
int tz_zstd_group_init(void *workspace, size_t size, int level, const char **why);
/* n bytes, TZ_GROUP_BYTES at most. The frame's length; 0: it does not fit in `capacity`. */
size_t tz_zstd_group_compress(
	void *workspace, const uint8_t *src, size_t n, uint8_t *dst, size_t capacity);
/* Any bytes of any length. 0, or -1: they are not a frame of just `size` bytes, and then what of
 * `out` is right, the caller has to find out: usually that is what comes before the damage. */
int tz_zstd_group_decompress(
	void *workspace, const uint8_t *src, size_t n, uint8_t *out, size_t size);

#endif
