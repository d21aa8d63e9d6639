/* codec.c - the table of codecs, each in its best variant for this CPU (contract: codec.h), and the
 * text "NAME[:LEVEL]" that names an algorithm on the command line, in messages and in statistics.
 *
 * The table is filled before main() (or when the extension is loaded), so that reading it needs no
 * lock.
 */
#include "codec.h"
#include "cpu.h"
#include "variants.h"

#include <stdio.h>

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

const char *tz_kind_name(unsigned kind)
{
	const struct tz_codec *codec = tz_codec_by_kind(kind);

	switch (kind) {
	case TZ_KIND_EMPTY: return "empty";
	case TZ_KIND_SAME_WORD:
	case TZ_KIND_SAME_U32:
	case TZ_KIND_SAME_U64: return "same";
	case TZ_KIND_RAW: return "huge";
	case TZ_KIND_ZSTD_DICT: return "zstd_dict";
	case TZ_KIND_GROUP: return "cold";
	case TZ_KIND_BACKED: return "backing";
	}
	return codec ? codec->name : NULL;
}

const struct tz_codec *tz_codec_variant(const char *name, enum tz_isa isa)
{
	for (size_t i = 0; i < NR_FAMILIES; i++)
		for (const struct tz_codec *v = families[i]; v->name; v++)
			if (!strcmp(v->name, name) && v->isa == isa)
				return tz_cpu_runs(isa) ? v : NULL;
	return NULL;
}

/* The names of all codecs, separated by ", ". */
static void list_names(char *out, size_t size)
{
	size_t at = 0;

	out[0] = 0;
	for (const struct tz_codec *const *c = tz_codecs(); *c && at < size; c++)
		at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", (*c)->name);
}

/* Decimal digits with an optional sign, nothing else, within int. */
static int parse_level(const char *text, int *level)
{
	const char *p = text;
	int negative = 0, value = 0;

	if (*p == '-' || *p == '+')
		negative = *p++ == '-';
	if (!*p)
		return -1;
	for (; *p; p++) {
		if (*p < '0' || *p > '9' || value > 9999)
			return -1;
		value = value * 10 + (*p - '0');
	}
	*level = negative ? -value : value;
	return 0;
}

const struct tz_codec *tz_parse_algorithm(const char *text, int *level, char *why, size_t why_size)
{
	const char *colon = strchr(text, ':'), *reason = NULL;
	size_t name_len = colon ? (size_t)(colon - text) : strlen(text);
	const struct tz_codec *codec;
	char name[32], names[256];

	snprintf(name, sizeof(name), "%.*s",
		(int)(name_len < sizeof(name) ? name_len : sizeof(name) - 1), text);
	codec = name_len < sizeof(name) ? tz_codec_by_name(name) : NULL;
	if (!codec) {
		list_names(names, sizeof(names));
		snprintf(why, why_size, "unknown algorithm \"%.*s\". Use one of: %s",
			(int)(name_len < 64 ? name_len : 64), text, names);
		return NULL;
	}
	*level = codec->level_default;
	if (colon && !codec->level_min && !codec->level_max) {
		snprintf(why, why_size, "algorithm \"%s\" has no levels. Use \"%s\" alone",
			codec->name, codec->name);
		return NULL;
	}
	if (colon &&
		(parse_level(colon + 1, level) || *level < codec->level_min ||
			*level > codec->level_max)) {
		snprintf(why, why_size,
			"algorithm \"%s\": level \"%.16s\" is not a whole number from %d to %d",
			codec->name, colon + 1, codec->level_min, codec->level_max);
		return NULL;
	}
	if (!codec->workspace_size(*level, &reason)) {
		snprintf(why, why_size, "algorithm \"%s\" is not available: %s", codec->name,
			reason ? reason : "no reason given");
		return NULL;
	}
	return codec;
}
