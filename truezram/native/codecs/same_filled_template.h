/* same_filled_template.h - the bodies of same_filled.c for one instruction set; VEC* come from
 * there. */

static TZ_TARGET int TZ_FN(scan)(const uint8_t *page, uint64_t word)
{
	const VEC want = VEC_SET1(word);

	for (const uint8_t *end = page + TZ_PAGE_SIZE; page < end; page += SCAN_STEP) {
		VEC a = VEC_SET1(0), b = a, c = a, d = a;
		for (unsigned i = 0; i < SCAN_STEP; i += 4 * sizeof(VEC)) {
			a = VEC_OR_XOR(a, VEC_LOAD(page + i), want);
			b = VEC_OR_XOR(b, VEC_LOAD(page + i + sizeof(VEC)), want);
			c = VEC_OR_XOR(c, VEC_LOAD(page + i + 2 * sizeof(VEC)), want);
			d = VEC_OR_XOR(d, VEC_LOAD(page + i + 3 * sizeof(VEC)), want);
		}
		a |= b | c | d;
		if (VEC_ANY(a))
			return 0;
	}
	return 1;
}

static TZ_TARGET void TZ_FN(fill)(uint8_t *page, uint64_t word)
{
	const VEC v = VEC_SET1(word);

	for (unsigned i = 0; i < TZ_PAGE_SIZE; i += sizeof(VEC))
		VEC_STORE(page + i, v);
}

#undef TZ_SUFFIX
#undef TZ_TARGET
#undef VEC
#undef VEC_SET1
#undef VEC_LOAD
#undef VEC_STORE
#undef VEC_OR_XOR
#undef VEC_ANY
