/* test_codec.c - every codec, in every variant that runs here, with every buffer against guard
 * pages on both sides.
 *
 *	test_codec [PAGES]		pages per codec, default 600
 *
 * The environment variable TRUEZRAM_TEST_WITHOUT names codecs that may be unavailable (cross builds
 * have no libzstd).
 */
#include "cpu.h"
#include "harness.h"

struct variant {
	const struct tz_codec *codec;
	int level;
	struct guarded memory;
	uint8_t *workspace;
};

static struct guarded page_memory, dst_memory, src_memory, out_memory;

static int may_be_missing(const char *name)
{
	const char *list = getenv("TRUEZRAM_TEST_WITHOUT");

	return list && strstr(list, name);
}

static int open_variant(struct variant *v, const struct tz_codec *codec, int level)
{
	const char *why = NULL;
	size_t size = codec->workspace_size(level, &why);

	if (!size) {
		CHECK(why && *why, "%s unavailable without saying why", codec->name);
		CHECK(may_be_missing(codec->name), "%s is not available: %s", codec->name, why);
		printf("%s: left out: %s\n", codec->name, why);
		return 0;
	}
	*v = (struct variant){ .codec = codec, .level = level, .memory = guarded_new(size + 64) };
	/* Against the upper guard, but aligned: what is left over is less than 64 bytes. */
	v->workspace = guarded_at(&v->memory, (size + 63) & ~(size_t)63, 1);
	CHECK(codec->workspace_init(v->workspace, 63 < size ? 63 : size - 1, level, &why) == -1 &&
		why,
		"%s takes a workspace that is too small", codec->name);
	CHECK(!codec->workspace_init(v->workspace, size, level, &why), "%s: %s", codec->name, why);
	return 1;
}

/* Decompresses src[0 .. n) from a copy against a guard, into an output against a guard. */
static int decompress(const struct variant *v, const uint8_t *src, size_t n, int at_end,
	uint8_t **out)
{
	uint8_t *copy = guarded_at(&src_memory, n, at_end);

	memcpy(copy, src, n);
	*out = guarded_at(&out_memory, TZ_PAGE_SIZE, !at_end);
	memset(*out, 0xa5, TZ_PAGE_SIZE);
	return v->codec->decompress(v->workspace, copy, n, *out);
}

static void round_trip(const struct variant *all, size_t n_all, const struct variant *v,
	const uint8_t *page, int at_end)
{
	uint8_t *dst = guarded_at(&dst_memory, TZ_DST_SIZE, at_end), *out;
	size_t n = v->codec->compress(v->workspace, page, dst);

	CHECK(n < TZ_PAGE_SIZE, "%s: length %zu", v->codec->name, n);
	for (size_t i = 0; n && i < n_all; i++) {
		if (all[i].codec->kind != v->codec->kind)
			continue;
		for (int end = 0; end < 2; end++) {
			CHECK(!decompress(&all[i], dst, n, end, &out),
				"%s: own object of %zu bytes refused", v->codec->name, n);
			CHECK(!memcmp(out, page, TZ_PAGE_SIZE),
				"%s: %s to %s: another page", v->codec->name,
				tz_isa_name(v->codec->isa), tz_isa_name(all[i].codec->isa));
		}
	}
}

/* Whatever damage does, memory outside the buffers is untouched; the guards see to that. */
static void damage(const struct variant *v, const uint8_t *page)
{
	uint8_t object[TZ_DST_SIZE], bad[TZ_DST_SIZE], *out;
	size_t n = v->codec->compress(v->workspace, page, object);

	for (unsigned round = 0; n && round < 8; round++) {
		size_t length = random_below(4) ? n : random_below((unsigned)n + 1);
		memcpy(bad, object, n);
		for (unsigned i = 0; i < 1 + round / 2; i++)
			bad[random_below((unsigned)n)] = random_below(3)
				? (uint8_t)random64() : (uint8_t)-random_below(2);
		decompress(v, bad, length, round & 1, &out);
	}
	for (unsigned round = 0; round < 4; round++) {
		size_t length = random_below(random_below(2) ? 80 : TZ_PAGE_SIZE + 100);
		for (size_t i = 0; i < length; i++)
			bad[i] = (uint8_t)random64();
		decompress(v, bad, length, round & 1, &out);
	}
	CHECK(decompress(v, bad, 0, 1, &out) == -1,
		"%s: accepts an object of no bytes", v->codec->name);
}

/* The byte-LZ object that docs/formats.md gives as an example, and what makes it invalid. */
static void byte_lz_example(const struct variant *v)
{
	enum { LITERALS = 2, DISTANCES = 194, TOKENS = 130,
		LENGTH = LITERALS + DISTANCES + TOKENS + 4 };
	static const struct { size_t at; uint8_t value; } wrong[] = {
		/* First distance: less than the 32 bytes copied. */
		{ LITERALS, 1 },
		{ LITERALS, 40 },			/* before the page's start */
		{ LITERALS + DISTANCES, 0xf2 },		/* takes a literal too many */
		{ LITERALS + DISTANCES, 0xe1 },		/* page too short */
		/* Last token: one distance and 4 bytes too many. */
		{ LENGTH - 5, 0x10 },
		{ LENGTH - 4, 131 },			/* number of tokens, and so their place */
		{ LENGTH - 2, 9 },			/* number of distances */
		{ LENGTH - 1, 0x82 },			/* LZ4 */
		{ LENGTH - 1, 0x83 },			/* no such mode */
		/* Literals of 7 bits: two bytes hold two, so this is valid, but another page. */
		{ LENGTH - 1, 0x81 },
	};
	uint8_t object[LENGTH] = { 'a', 'b' }, page[TZ_PAGE_SIZE] = { 'a' }, *out;

	page[TZ_PAGE_SIZE - 1] = 'b';
	memset(object + LITERALS + DISTANCES, 0xf0, TOKENS);
	object[LITERALS + DISTANCES] = 0xf1;
	object[LENGTH - 7] = 0xe0;
	object[LENGTH - 6] = 0x30;
	object[LENGTH - 5] = 0;
	tz_store32(object + LENGTH - 4, TOKENS | 129u << 12 | 0x80u << 24);
	CHECK(!decompress(v, object, LENGTH, 1, &out) && !memcmp(out, page, TZ_PAGE_SIZE),
		"example of byte-LZ, %s", tz_isa_name(v->codec->isa));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		uint8_t before = object[wrong[i].at];
		int refused;

		object[wrong[i].at] = wrong[i].value;
		refused = decompress(v, object, LENGTH, 1, &out) == -1;
		CHECK(refused == (wrong[i].value != 0x81),
			"byte-LZ, wrong object %zu, %s", i, tz_isa_name(v->codec->isa));
		object[wrong[i].at] = before;
	}
}

/* Lines of a log, most of each as the one before: fast keeps an LZ4 block with its mode behind it,
 * as docs/formats.md says, and takes any such block for what it is. */
static void lz4_in_fast(const struct variant *v)
{
	const struct tz_codec *lz4 = tz_codec_variant("lz4", (enum tz_isa)v->codec->isa);
	uint8_t page[TZ_PAGE_SIZE + 128] = "", object[TZ_DST_SIZE], *out, *workspace;
	const char *why;
	size_t size = lz4->workspace_size(0, &why), n;

	for (unsigned i = 0, at = 0; at < TZ_PAGE_SIZE; i++)
		at += (unsigned)sprintf((char *)page + at,
			"Nov 24 04:17:%02u host truezramd[1234]: ublkb0: request of 4096 bytes at"
			" %u done%.*s\n", i / 3, i * i * 7919, (int)(i * i % 11), "..........");
	n = v->codec->compress(v->workspace, page, object);
	CHECK(n > 400 && object[n - 1] == 0x82,
		"lines of a log: %zu bytes, the last %02x", n, object[n ? n - 1 : 0]);
	CHECK(decompress(v, object, n, 1, &out) == 0 && !memcmp(out, page, TZ_PAGE_SIZE),
		"its own LZ4 object");
	CHECK(decompress(v, object, 1, 1, &out) == -1 &&
		decompress(v, object + n - 1, 1, 1, &out) == -1, "no LZ4 block");
	object[n - 2] ^= 1;		/* a literal */
	CHECK(decompress(v, object, n, 1, &out) == 0 && memcmp(out, page, TZ_PAGE_SIZE),
		"another literal, another page");
	CHECK(decompress(v, object + 1, n - 1, 1, &out) == -1, "LZ4 block without its first token");
	workspace = aligned_alloc(64, (size + 63) & ~(size_t)63);
	CHECK(workspace && !lz4->workspace_init(workspace, size, 0, &why), "lz4: %s", why);
	make_page(page, 1);
	memset(page + TZ_PAGE_SIZE / 2, 7, TZ_PAGE_SIZE / 2);
	n = lz4->compress(workspace, page, object);
	CHECK(n, "lz4 does not make half a page of 7s smaller");
	object[n] = 0x82;
	CHECK(!decompress(v, object, n + 1, 1, &out) && !memcmp(out, page, TZ_PAGE_SIZE),
		"a block of lz4's, %s", tz_isa_name(v->codec->isa));
	free(workspace);
}

static size_t open_all(struct variant *all)
{
	size_t n = 0;

	for (const struct tz_codec *const *c = tz_codecs(); *c; c++) {
		for (int isa = TZ_ISA_PORTABLE; isa <= TZ_ISA_NEON; isa++) {
			const struct tz_codec *variant =
				tz_codec_variant((*c)->name, (enum tz_isa)isa);
			if (!variant)
				continue;
			CHECK(variant->kind == (*c)->kind &&
				variant->level_default == (*c)->level_default, "%s", (*c)->name);
			n += (size_t)open_variant(all + n, variant, variant->level_default);
			if (variant->level_min != variant->level_max) {
				n += (size_t)open_variant(all + n, variant, variant->level_min);
				n += (size_t)open_variant(all + n, variant, variant->level_max);
			}
		}
	}
	return n;
}

static void check_table(void)
{
	unsigned kinds = 0, names = 0;

	for (const struct tz_codec *const *c = tz_codecs(); *c; c++, names++) {
		CHECK(tz_codec_by_name((*c)->name) == *c, "%s by name", (*c)->name);
		CHECK(tz_codec_by_kind((*c)->kind) == *c, "%s by kind", (*c)->name);
		CHECK(tz_codec_variant((*c)->name, (enum tz_isa)(*c)->isa) == *c,
			"%s by variant", (*c)->name);
		CHECK(!(kinds >> (*c)->kind & 1), "two codecs of kind %d", (*c)->kind);
		kinds |= 1u << (*c)->kind;
	}
	CHECK(names >= 2 && !tz_codec_by_name("none") && !tz_codec_by_kind(TZ_KIND_RAW), "table");
}

/* What counts by kind has TZ_KINDS_STORED places: no kind may lie beyond, and each has a name. */
static void check_kinds(void)
{
	for (unsigned kind = 0; kind < TZ_KINDS; kind++) {
		const struct tz_codec *codec = tz_codec_by_kind(kind);
		const char *name = tz_kind_name(kind);

		CHECK(!name == (kind >= TZ_KINDS_STORED),
			"kind %u is called %s", kind, name ? name : "nothing");
		CHECK(!codec || (name && *codec->summary), "codec of kind %u", kind);
		CHECK(!codec || kind == TZ_KIND_ZSTD_DICT || name == codec->name,
			"kind %u is called %s", kind, name);
	}
}

int main(int argc, char **argv)
{
	unsigned pages = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 600;
	static struct variant all[64];
	size_t n;

	page_memory = guarded_new(TZ_PAGE_SIZE);
	out_memory = guarded_new(TZ_PAGE_SIZE);
	dst_memory = guarded_new(TZ_DST_SIZE);
	src_memory = guarded_new(2 * TZ_PAGE_SIZE);
	check_table();
	check_kinds();
	n = open_all(all);
	for (size_t k = 0; k < n; k++)
		if (all[k].codec->kind == TZ_KIND_FAST) {
			byte_lz_example(&all[k]);
			lz4_in_fast(&all[k]);
		}
	for (unsigned i = 0; i < pages; i++) {
		uint8_t *page = page_memory.map;
		make_page(page, i);
		for (size_t k = 0; k < n; k++) {
			round_trip(all, n, &all[k], page, (int)(i & 1));
			damage(&all[k], page);
		}
	}
	for (size_t k = 0; k < n; k++)
		printf("%s:%d %s: %u pages\n", all[k].codec->name, all[k].level,
			tz_isa_name(all[k].codec->isa), pages);
	for (size_t k = 0; k < n; k++)
		guarded_free(&all[k].memory);
	return 0;
}
