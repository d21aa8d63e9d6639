/* test_dense.c - the dense codec against a decoder that is nothing but docs/format-dense.md, bit by
 * bit.
 *
 *	test_dense [PAGES]		default 400
 *
 * Objects of every variant must mean the same to it, and so must damaged objects: refused by all,
 * or one page for all. (Guard pages and damage in general: test_codec.c.)
 */
#include "harness.h"

/* The tables as they are in the repository, independently of what dense.c makes of them. */
#define DN_TABLES 96
#include "dense/dense_tables.h"

struct bits {
	const uint8_t *at;
	size_t next, size; /* in bits */
};

/* Beyond the end there are zeros; the callers see from `next` that they went there. */
static unsigned take(struct bits *b, unsigned n)
{
	unsigned value = 0;

	for (unsigned i = 0; i < n; i++, b->next++)
		if (b->next < b->size)
			value |= (unsigned)(b->at[b->next / 8] >> b->next % 8 & 1) << i;
	return value;
}

static int used_up(const struct bits *b)
{
	return (b->next + 7) / 8 == b->size / 8;
}

/* A table's symbols in the order of their codes (by length, then by value), and how many codes have
 * each length. */
static struct order {
	uint8_t symbols[256];
	unsigned codes[11];
} orders[DN_TABLES];

static void order_symbols(void)
{
	for (unsigned table = 0; table < DN_TABLES; table++) {
		struct order *o = &orders[table];
		unsigned n = 0;

		for (unsigned length = 1; length <= 10; length++)
			for (unsigned symbol = 0; symbol < 256; symbol++)
				if (dn_lengths[table][symbol] == (char)('a' + length - 1)) {
					o->codes[length]++;
					o->symbols[n++] = (uint8_t)symbol;
				}
		CHECK(n == 256, "table %u: %u symbols have a code of 1 to 10 bits", table, n);
	}
}

/* Canonical code: bit by bit, until the bits are one of the codes of their length. */
static unsigned take_symbol(struct bits *b, unsigned table)
{
	const struct order *o = &orders[table];
	const uint8_t *symbols = o->symbols;
	unsigned code = 0, first = 0;

	for (unsigned length = 1; length <= 10; length++) {
		code = code << 1 | take(b, 1);
		first <<= 1;
		if (code - first < o->codes[length])
			return symbols[code - first];
		symbols += o->codes[length];
		first += o->codes[length];
	}
	CHECK(0, "table %u is not complete", table);
	return 0;
}

static int reference_decode(const uint8_t *src, size_t n, uint8_t *page)
{
	static const uint8_t wide[4] = { 5, 9, 8, 12 }, times[4] = { 8, 8, 1, 1 };
	uint8_t symbols[64 + 512 + 4096];
	unsigned distance[256],
		recent[11 + 256] = { 256, 192, 160, 128, 112, 96, 80, 48, 64, 32, 16 }, newest = 10;
	struct bits head = { src, 0, 64 }, streams[8], rest;

	if (n < 8 || n > 4095)
		return -1;
	unsigned delta = take(&head, 1), table[3];
	for (unsigned c = 3; c--;)
		table[c] = 32 * c + take(&head, 5);
	unsigned literals = take(&head, 13), masks = take(&head, 10), changes = take(&head, 9);
	unsigned least = take(&head, 10), width = take(&head, 6);
	size_t fixed = 8 + width + 32 + (changes + 1) / 2, at = fixed;
	if (literals > 4096 || masks > 512 || changes > 256 || width > 10 || fixed > n)
		return -1;
	head.size = 8 * n;
	for (unsigned s = 0; s < 8; s++) {
		streams[s] = (struct bits){ src + at, 0, 8ul * (least + take(&head, width)) };
		at += streams[s].size / 8;
	}
	if (at > n)
		return -1;
	rest = (struct bits){ src + at, 0, 8 * (n - at) };

	const uint8_t *r = src + 8 + width, *kinds = r + 32;
	unsigned change = 0, now = 0; /* 0 = zeros */
	for (unsigned b = 0; b < 256; b++) {
		if (r[b / 8] >> b % 8 & 1) {
			if (change == changes)
				return -1;
			unsigned kind = kinds[change / 2] >> change % 2 * 4 & 15;
			change++;
			if (kind < 4) {
				now = take(&rest, wide[kind]) * times[kind];
				if (now < 16)
					return -1;
				recent[++newest] = now;
			} else {
				now = kind == 15 ? 0 : recent[newest - (kind - 4)];
			}
		}
		distance[b] = now;
	}
	if (change != changes || !used_up(&rest))
		return -1;

	unsigned flagged = 0, bytes = 0;
	for (unsigned i = 0; i < 64 + masks + literals; i++)
		symbols[i] = (uint8_t)take_symbol(&streams[i % 8],
			table[(i >= 64) + (i >= 64 + masks)]);
	for (unsigned s = 0; s < 8; s++)
		if (!used_up(&streams[s]))
			return -1;
	for (unsigned i = 0; i < 64; i++)
		flagged += (unsigned)__builtin_popcount(symbols[i]);
	for (unsigned i = 64; i < 64 + masks; i++)
		bytes += (unsigned)__builtin_popcount(symbols[i]);
	if (flagged != masks || bytes != literals)
		return -1;

	const uint8_t *mask = symbols + 64, *literal = mask + masks;
	for (unsigned i = 0; i < 4096; i++) {
		unsigned word = i / 8, d = distance[i / 16],
			differs = symbols[word / 8] >> word % 8 & 1;
		uint8_t reference = d && d <= i / 16 * 16 ? page[i - d] : 0;

		page[i] = reference;
		if (differs && *mask >> i % 8 & 1)
			page[i] = (uint8_t)(*literal++ + (delta ? reference : 0));
		mask += differs && i % 8 == 7;
	}
	return 0;
}

static struct {
	const struct tz_codec *codec;
	void *workspace;
} variants[4];
static unsigned n_variants, accepted, refused;

/* All variants and the reference decoder agree about this object. Returns what they say. */
static int agree(const uint8_t *object, size_t n, uint8_t *page)
{
	uint8_t out[TZ_PAGE_SIZE];
	int expected = reference_decode(object, n, page);

	for (unsigned i = 0; i < n_variants; i++) {
		int result = variants[i].codec->decompress(variants[i].workspace, object, n, out);

		CHECK(result == expected,
			"%s says %d, the format %d", tz_isa_name(variants[i].codec->isa), result,
			expected);
		CHECK(result || !memcmp(out, page, TZ_PAGE_SIZE), "%s: not the format's page",
		      tz_isa_name(variants[i].codec->isa));
	}
	return expected;
}

/* Damage that leaves much of an object in order: fields set to extremes, bytes and bits changed,
 * ends moved. */
static void damage(const uint8_t *object, size_t n)
{
	uint8_t bad[TZ_PAGE_SIZE], page[TZ_PAGE_SIZE];

	for (unsigned round = 0; round < 24; round++) {
		size_t length = n, at = random_below(random_below(2) ? 48 : (unsigned)n);

		memcpy(bad, object, n);
		switch (round % 6) {
		case 0: bad[at < n ? at : 0] ^= (uint8_t)(1 << random_below(8)); break;
		case 1: bad[at < n ? at : 0] = (uint8_t)random64(); break;
		case 2: bad[0] ^= 1; break;		     /* delta: another page, but a page */
		/* Other tables. */
		case 3: bad[random_below(2)] ^= (uint8_t)(2 << random_below(7)); break;
		case 4: length = random_below((unsigned)n); break;
		default:
			bad[n - 1 - random_below(n < 40 ? (unsigned)n : 40)] ^= (uint8_t)random64();
			break;
		}
		if (agree(bad, length, page))
			refused++;
		else
			accepted++;
	}
}

int main(int argc, char **argv)
{
	unsigned pages = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 400, objects = 0;
	uint8_t page[TZ_PAGE_SIZE], out[TZ_PAGE_SIZE], dst[TZ_DST_SIZE];

	for (int isa = TZ_ISA_PORTABLE; isa <= TZ_ISA_NEON; isa++) {
		const struct tz_codec *codec = tz_codec_variant("dense", (enum tz_isa)isa);
		const char *why = NULL;
		size_t size = codec ? codec->workspace_size(0, &why) : 0;

		if (!codec)
			continue;
		variants[n_variants].codec = codec;
		variants[n_variants].workspace = aligned_alloc(64, size);
		CHECK(variants[n_variants].workspace, "no memory");
		CHECK(!codec->workspace_init(variants[n_variants].workspace, size, 0, &why),
			"%s", why);
		n_variants++;
	}
	CHECK(n_variants, "no variant of dense");
	order_symbols();
	for (unsigned i = 0; i < pages; i++) {
		make_page(page, i);
		for (unsigned v = 0; v < n_variants; v++) {
			size_t n = variants[v].codec->compress(variants[v].workspace, page, dst);

			if (!n)
				continue;
			objects++;
			CHECK(!agree(dst, n, out), "page %u: refused", i);
			CHECK(!memcmp(out, page, TZ_PAGE_SIZE), "page %u: another page", i);
			damage(dst, n);
		}
	}
	CHECK(objects > pages / 2, "only %u objects of %u pages", objects, pages);
	CHECK(accepted > objects && refused > objects,
		"damage: %u accepted, %u refused", accepted, refused);
	printf("%u variants, %u objects, damaged: %u accepted alike, %u refused\n", n_variants,
		objects, accepted, refused);
	for (unsigned i = 0; i < n_variants; i++)
		free(variants[i].workspace);
	return 0;
}
