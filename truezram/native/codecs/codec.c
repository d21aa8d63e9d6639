/* codec.c - the table of codecs: every codec once, in its best variant for this CPU (contract: codec.h).
 *
 * The table is filled before main() (or when the extension is loaded), so that reading it needs no lock.
 */
#include "codec.h"
#include "cpu.h"
#include "variants.h"

#define FAMILY(name) tz_##name##_variants,
static const struct tz_codec *const families[] = { TZ_CODEC_LIST(FAMILY) };
#undef FAMILY
#define NR_FAMILIES (sizeof(families) / sizeof(*families))

static const struct tz_codec *codecs[NR_FAMILIES + 1];

static const struct tz_codec *best_variant(const struct tz_codec *variant)
{
	for (; variant->name; variant++)
		if (tz_cpu_runs((enum tz_isa)variant->isa))
			return variant;
	return NULL;
}

__attribute__((constructor)) static void choose(void)
{
	size_t n = 0;

	for (size_t i = 0; i < NR_FAMILIES; i++) {
		codecs[n] = best_variant(families[i]);
		n += codecs[n] != NULL;
	}
}

const struct tz_codec *const *tz_codecs(void)
{
	return codecs;
}

const struct tz_codec *tz_codec_by_name(const char *name)
{
	for (const struct tz_codec *const *c = codecs; *c; c++)
		if (!strcmp((*c)->name, name))
			return *c;
	return NULL;
}

const struct tz_codec *tz_codec_by_kind(unsigned kind)
{
	for (const struct tz_codec *const *c = codecs; *c; c++)
		if ((*c)->kind == kind)
			return *c;
	return kind == TZ_KIND_ZSTD_DICT ? &tz_zstd_dictionary : NULL;
}

const struct tz_codec *tz_codec_variant(const char *name, enum tz_isa isa)
{
	for (size_t i = 0; i < NR_FAMILIES; i++)
		for (const struct tz_codec *v = families[i]; v->name; v++)
			if (!strcmp(v->name, name) && v->isa == isa)
				return tz_cpu_runs(isa) ? v : NULL;
	return NULL;
}
