/* fuzz_codec.c - coverage-guided fuzzing (libFuzzer) of every decoder and encoder, in every variant
 * that runs here.
 *
 * Input: byte 0 is the kind of codec (enum tz_kind), bit 7 set for "compress"; byte 1 the
 * instruction set; the rest is the object to decompress, or the page (repeated to 4096 bytes) to
 * send around. Kinds that are not compiled in are ignored; zstd with a dictionary has one that is
 * trained at the start. An object that is accepted must be decoded alike by all variants.
 *
 * Without libFuzzer (FUZZ_STANDALONE) the program runs the files and directories named to it once:
 * the saved seeds.
 */
#include "training.h"
#include "fuzz.h"

/* One dictionary for all: which one does not matter, as objects may be anything. NULL: no
 * libzstd. */
static uint8_t *workspace_with_dictionary(void)
{
	static uint8_t bytes[8192], *workspace;
	static size_t n = 1;

	if (!workspace && n) {
		n = train(bytes, sizeof bytes, 0);
		workspace = n ? workspace_with(digested(bytes, n, 7)) : NULL;
	}
	return workspace;
}

/* NULL: there is none for this instruction set. */
static const struct tz_codec *variant_of(const struct tz_codec *codec, unsigned isa)
{
	if (codec->kind == TZ_KIND_ZSTD_DICT)
		return isa == TZ_ISA_PORTABLE ? codec : NULL;
	return tz_codec_variant(codec->name, (enum tz_isa)isa);
}

static uint8_t *workspace_of(const struct tz_codec *codec)
{
	static uint8_t *made[TZ_KINDS][4];
	const char *why = NULL;
	uint8_t **slot = &made[codec->kind][codec->isa];
	size_t size;

	if (codec->kind == TZ_KIND_ZSTD_DICT)
		return workspace_with_dictionary();
	if (!*slot) {
		size = codec->workspace_size(codec->level_default, &why);
		if (!size)
			return NULL;
		*slot = aligned_alloc(64, (size + 63) & ~(size_t)63);
		CHECK(*slot && !codec->workspace_init(*slot, size, codec->level_default, &why),
			"%s: %s", codec->name, why);
	}
	return *slot;
}

/* Exactly sized heap copies, so that AddressSanitizer sees the first byte beyond. */
static void fuzz_decode(const struct tz_codec *of, const uint8_t *data, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1), *first = NULL;
	int first_result = 0;

	memcpy(copy, data, n);
	for (int isa = 0; isa < 4; isa++) {
		const struct tz_codec *codec = variant_of(of, (unsigned)isa);
		uint8_t *workspace = codec ? workspace_of(codec) : NULL, *out;
		int result;
		if (!workspace)
			continue;
		out = malloc(TZ_PAGE_SIZE);
		result = codec->decompress(workspace, copy, n, out);
		CHECK(result == 0 || result == -1, "%s: result %d", of->name, result);
		if (!first) {
			first = out;
			first_result = result;
			continue;
		}
		CHECK(result == first_result, "%s: variants disagree about an object", of->name);
		CHECK(result || !memcmp(out, first, TZ_PAGE_SIZE),
			"%s: variants make different pages of an object", of->name);
		free(out);
	}
	free(first);
	free(copy);
}

static void fuzz_round_trip(const struct tz_codec *of, unsigned isa, const uint8_t *data, size_t n)
{
	const struct tz_codec *codec = variant_of(of, isa);
	uint8_t *workspace = codec ? workspace_of(codec) : NULL, *page, *dst, *out;
	size_t length;

	if (!workspace || !n)
		return;
	page = malloc(TZ_PAGE_SIZE);
	dst = malloc(TZ_DST_SIZE);
	out = malloc(TZ_PAGE_SIZE);
	for (size_t i = 0; i < TZ_PAGE_SIZE; i++)
		page[i] = data[i % n];
	length = codec->compress(workspace, page, dst);
	CHECK(length < TZ_PAGE_SIZE, "%s: length %zu", of->name, length);
	if (length) {
		uint8_t *object = realloc(dst, length);
		CHECK(!codec->decompress(workspace, object, length, out),
			"%s: refuses its own object", of->name);
		CHECK(!memcmp(page, out, TZ_PAGE_SIZE), "%s: another page comes back", of->name);
		dst = object;
	}
	free(page);
	free(dst);
	free(out);
}

__attribute__((visibility("default"))) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct tz_codec *codec = size >= 2 ? tz_codec_by_kind(data[0] & 127) : NULL;

	if (!codec)
		return 0;
	if (data[0] & 128)
		fuzz_round_trip(codec, data[1] % 4, data + 2, size - 2);
	else
		fuzz_decode(codec, data + 2, size - 2);
	return 0;
}
