/* test_dictionary.c - zstd with a dictionary: every level, shared by workspaces, wrong and damaged
 * dictionaries and objects.
 *
 * Skipped where TRUEZRAM_TEST_WITHOUT names zstd and libzstd is missing.
 */
#include "training.h"

#define CAPACITY 16384
#define PAGES 200

static struct guarded src_memory, dst_memory, out_memory;
static const struct tz_codec *codec, *plain;

/* Decompresses from a copy against a guard, into an output against a guard. */
static int decompress(const struct tz_codec *c, void *workspace, const uint8_t *src, size_t n,
	uint8_t **out)
{
	uint8_t *copy = guarded_at(&src_memory, n, 1);

	memcpy(copy, src, n);
	*out = guarded_at(&out_memory, TZ_PAGE_SIZE, 1);
	return c->decompress(workspace, copy, n, *out);
}

/* Both workspaces use dictionaries of the same bytes: each reads what the other has made. Returns
 * the objects' bytes. */
static size_t round_trips(uint8_t *const w[2], unsigned seen[3])
{
	uint8_t page[TZ_PAGE_SIZE], *dst = guarded_at(&dst_memory, TZ_DST_SIZE, 1), *out;
	size_t sum = 0;

	random_state = 0x9e3779b97f4a7c15ull;	/* the same pages every time */
	for (unsigned i = 0; i < PAGES; i++) {
		make_page(page, i);
		size_t n = codec->compress(w[0], page, dst);
		CHECK(n < TZ_PAGE_SIZE, "length %zu", n);
		sum += n ? n : TZ_PAGE_SIZE;
		if (!n)
			continue;
		CHECK(dst[0] == 0 && (dst[1] & 7) < 3, "header %02x %02x", dst[0], dst[1]);
		seen[dst[1] & 7]++;
		for (unsigned k = 0; k < 2; k++)
			CHECK(!decompress(codec, w[k], dst, n, &out) &&
				!memcmp(out, page, TZ_PAGE_SIZE), "page %u", i);
	}
	return sum;
}

/* Objects of one kind are not objects of the other. */
static void kinds_apart(uint8_t *with, uint8_t *without)
{
	uint8_t page[TZ_PAGE_SIZE], dst[TZ_DST_SIZE], *out;

	for (unsigned i = 0; i < PAGES; i++) {
		make_page(page, i);
		size_t n = codec->compress(with, page, dst);
		CHECK(!n || decompress(plain, without, dst, n, &out) == -1,
			"page %u is read without the dictionary", i);
		n = plain->compress(without, page, dst);
		CHECK(!n || decompress(codec, with, dst, n, &out) == -1,
			"page %u was made without a dictionary", i);
	}
}

/* Anything but a crash: the guards see to that. */
static void damage(uint8_t *maker, uint8_t *reader)
{
	uint8_t page[TZ_PAGE_SIZE], object[TZ_DST_SIZE], bad[TZ_DST_SIZE], *out;

	for (unsigned i = 0; i < 3 * PAGES; i++) {
		make_page(page, i);
		size_t n = codec->compress(maker, page, object), length;
		if (!n)
			continue;
		memcpy(bad, object, n);
		decompress(codec, reader, bad, n, &out);
		for (unsigned k = 0; k < 4; k++)
			bad[random_below((unsigned)n)] = (uint8_t)random64();
		decompress(codec, reader, bad, n, &out);
		length = random_below((unsigned)n + 1);
		CHECK(length == n || decompress(codec, reader, object, length, &out) == -1,
			"accepts an object that was cut");
		for (size_t at = 2; at < n; at++)
			bad[at] = (uint8_t)random64();
		bad[0] = 0;
		bad[1] = (uint8_t)(0x10 + random_below(4));
		decompress(codec, reader, bad, n, &out);
	}
	CHECK(decompress(codec, reader, object, 0, &out) == -1, "accepts no bytes");
}

static void refused(const uint8_t *bytes, size_t n, const char *expected)
{
	static uint8_t memory[1 << 20] __attribute__((aligned(64)));
	const char *why = NULL;

	CHECK(!tz_dictionary_init(memory, sizeof memory, bytes, n, 3, &why),
		"a dictionary that is none, of %zu bytes", n);
	CHECK(why && strstr(why, expected), "%s, not %s", why ? why : "no reason", expected);
}

static void bad_dictionaries(const uint8_t *good, size_t n)
{
	static uint8_t bytes[TZ_DICTIONARY_MAX + 1];
	const char *why;

	memcpy(bytes, good, n);
	refused(bytes, 0, "empty");
	refused(bytes, TZ_DICTIONARY_MIN - 1, "fewer than 256");
	refused(bytes, sizeof bytes, "more than 128 KiB");
	memset(bytes + 8, 0xff, 100);
	refused(bytes, n, "damaged");
	bytes[0]++;
	refused(bytes, n, "37 a4 30 ec");
	CHECK(!tz_dictionary_init(bytes, 64, good, n, 3, &why) && strstr(why, "smaller than"),
		"too little memory");
	/* Whatever its tables hold, it is refused, or used without harm. */
	for (unsigned i = 0; i < 300; i++) {
		static uint8_t memory[1 << 20] __attribute__((aligned(64)));
		memcpy(bytes, good, n);
		for (unsigned k = 0; k <= i % 4; k++)
			bytes[8 + random_below(140)] = (uint8_t)random64();
		struct tz_dictionary *d =
			tz_dictionary_init(memory, sizeof memory, bytes, n, i % 2 ? 1 : 7, &why);
		if (!d)
			continue;
		uint8_t *w = workspace_with(d), *const both[2] = { w, w };
		unsigned seen[3] = { 0 };
		if (i < 20)
			round_trips(both, seen);
		free(w);
	}
}

static void check_level(const uint8_t *bytes, size_t n, const uint8_t *other, size_t other_n,
	int level)
{
	struct tz_dictionary *d = digested(bytes, n, level),
		*again = digested(bytes, n, level > 5 ? 1 : 9);
	struct tz_dictionary *wrong = digested(other, other_n, level);
	uint8_t *first = workspace_with(d), *second = workspace_with(d),
		*third = workspace_with(again);
	uint8_t *stranger = workspace_with(wrong);
	unsigned seen[3] = { 0 };
	const char *why;
	size_t size;

	tz_dictionary_bytes(d, &size);
	CHECK(size == n && !memcmp(tz_dictionary_bytes(d, &size), bytes, n), "its bytes");
	CHECK(tz_dictionary_id(d) && tz_dictionary_id(d) == tz_dictionary_id(again), "its number");
	CHECK(tz_dictionary_workspace_init(d, first, 64, &why) == -1,
		"takes a workspace that is too small");
	CHECK(!tz_dictionary_workspace_init(d, first, tz_dictionary_workspace_size(d, &why), &why),
		"%s", why);
	size_t sum = round_trips((uint8_t *const[]){ first, second }, seen);
	CHECK(sum == round_trips((uint8_t *const[]){ second, third }, seen),
		"level %d: another size", level);
	CHECK(!seen[0] && !seen[1] != !seen[2],
		"level %d: marks %u %u %u", level, seen[0], seen[1], seen[2]);
	damage(first, second);
	damage(first, stranger);
	printf("zstd:%d with a dictionary: %zu bytes, made with its %s\n", level, sum,
		seen[1] ? "content" : "tables too");
	free(first);
	free(second);
	free(third);
	free(stranger);
	free(d);
	free(again);
	free(wrong);
}

int main(void)
{
	static uint8_t bytes[CAPACITY], other[CAPACITY];
	const char *without = getenv("TRUEZRAM_TEST_WITHOUT"), *why = NULL;
	size_t n = train(bytes, CAPACITY, 0), m;

	if (!n) {
		CHECK(without && strstr(without, "zstd"), "libzstd is missing");
		CHECK(!tz_dictionary_size(CAPACITY, 3, &why) && why,
			"a dictionary without libzstd");
		puts("skipped: no libzstd");
		return SKIP;
	}
	m = train(other, CAPACITY, 1000);
	codec = tz_codec_by_kind(TZ_KIND_ZSTD_DICT);
	plain = tz_codec_by_name("zstd");
	CHECK(codec && plain && codec != plain && !codec->workspace_size(3, &why) && why,
		"the codec by itself");
	src_memory = guarded_new(2 * TZ_PAGE_SIZE);
	dst_memory = guarded_new(TZ_DST_SIZE);
	out_memory = guarded_new(TZ_PAGE_SIZE);
	bad_dictionaries(bytes, n);
	for (int level = plain->level_min; level <= plain->level_max; level++)
		check_level(bytes, n, other, m, level);
	struct tz_dictionary *d = digested(bytes, n, 3);
	uint8_t *with = workspace_with(d),
		*alone = aligned_alloc(64, (plain->workspace_size(3, &why) + 63) & ~(size_t)63);
	CHECK(!plain->workspace_init(alone, plain->workspace_size(3, &why), 3, &why), "%s", why);
	kinds_apart(with, alone);
	free(with);
	free(alone);
	free(d);
	return 0;
}
