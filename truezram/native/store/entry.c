/* entry.c - the tables behind the check bits of entries (what they mean: entry.h). */
#include "entry.h"

#define EVEN 0x80u		/* the check bit that makes the number of ones even */

uint8_t tz_entry_code_of_columns[256], tz_entry_code_of_bytes[128], tz_entry_code_of_page[128];

static uint8_t even(unsigned code)
{
	return (uint8_t)(code | (__builtin_parity(code) ? EVEN : 0));
}

__attribute__((constructor)) static void make_tables(void)
{
	static const uint8_t byte_codes[7] = { 3, 5, 6, 7, 9, 10, 11 };

	for (unsigned n = 0; n < 256; n++) {
		unsigned code = 0;
		for (unsigned bit = 0; bit < 8; bit++)
			code ^= n >> bit & 1 ? bit : 0;
		tz_entry_code_of_columns[n] = even(code);
	}
	for (unsigned n = 0; n < 128; n++) {
		unsigned code = 0;
		for (unsigned byte = 0; byte < 7; byte++)
			code ^= n >> byte & 1 ? byte_codes[byte] << 3 : 0;
		/* The parities of the bytes are those of all bits. */
		tz_entry_code_of_bytes[n] =
			(uint8_t)(even(code) ^ (__builtin_parity(n) ? EVEN : 0));
		tz_entry_code_of_page[n] = even(n);
	}
}
