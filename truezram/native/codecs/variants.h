/* variants.h - the list of compiled-in codecs: one line per codec, in the order in which they are
 * listed.
 *
 * NAME.c defines tz_NAME_variants[]: one entry per instruction set that it was compiled for, best
 * first, all with the same name, kind and levels, ended by an entry without a name. codec.c picks
 * from them.
 */
#ifndef TZ_VARIANTS_H
#define TZ_VARIANTS_H

#include "codec.h"

#define TZ_CODEC_LIST(CODEC) \
	CODEC(fast) \
	CODEC(turbo) \
	CODEC(dense) \
	CODEC(lz4) \
	CODEC(zstd) \
	CODEC(auto)

/* The part of an `auto` workspace that decodes objects of this kind; NULL if there is none. */
void *tz_auto_part(void *workspace, unsigned kind);

/* zstd with a dictionary (dictionary.h), which has no name of its own. */
extern const struct tz_codec tz_zstd_dictionary;

#define TZ_DECLARE_VARIANTS(name) extern const struct tz_codec tz_##name##_variants[];
TZ_CODEC_LIST(TZ_DECLARE_VARIANTS)
#undef TZ_DECLARE_VARIANTS

#endif
