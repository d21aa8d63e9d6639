/* test_primitives.c - tz_same_filled, tz_fill and tz_crc32c against plain code, with guard pages on
 * both sides. */
#include "harness.h"

static uint32_t plain_crc32c(uint32_t crc, const uint8_t *p, size_t n)
{
	for (crc = ~crc; n; n--, p++) {
		crc ^= *p;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static void check_crc32c(struct guarded *g)
{
	for (size_t n = 0; n <= 2 * TZ_PAGE_SIZE; n += n < 700 ? 1 : 1 + random_below(97)) {
		for (int end = 0; end < 2; end++) {
			uint8_t *p = guarded_at(g, n, end);
			uint32_t seed = (uint32_t)random64(), got = tz_crc32c(seed, p, n);
			CHECK(got == plain_crc32c(seed, p, n),
				"%zu bytes, seed %08x: %08x", n, seed, got);
		}
	}
	CHECK(tz_crc32c(0, "123456789", 9) == 0xe3069283, "check value");
}

static void check_same_filled(struct guarded *g)
{
	uint8_t *page = guarded_at(g, TZ_PAGE_SIZE, 0);
	uint64_t word, got;

	for (unsigned i = 0; i < 64; i++) {
		word = i < 2 ? -(uint64_t)i : random64();
		tz_fill(page, word);
		for (unsigned at = 0; at < TZ_PAGE_SIZE; at += 8)
			CHECK(!memcmp(page + at, &word, 8), "fill: byte %u", at);
		got = ~word;
		CHECK(tz_same_filled(page, &got) == 1 && got == word,
			"%llx", (unsigned long long)word);
		for (unsigned at = 0; at < TZ_PAGE_SIZE; at++) {
			page[at] ^= (uint8_t)(1 << at % 8);
			CHECK(!tz_same_filled(page, &got), "byte %u differs", at);
			page[at] ^= (uint8_t)(1 << at % 8);
		}
	}
}

int main(void)
{
	struct guarded page = guarded_new(TZ_PAGE_SIZE), data = guarded_new(2 * TZ_PAGE_SIZE);

	for (size_t i = 0; i < data.inner; i++)
		data.map[i] = (uint8_t)random64();
	check_same_filled(&page);
	check_crc32c(&data);
	printf("instruction set: %s\n", tz_isa_name(tz_cpu_isa()));
	guarded_free(&page);
	guarded_free(&data);
	return 0;
}
