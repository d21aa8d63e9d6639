/* bref_tables.h - byte shuffles for 8 bytes by an 8-bit mask, for instruction sets without expand
 * and compress. */
#ifndef TZ_BREF_TABLES_H
#define TZ_BREF_TABLES_H

#define BIT(m, i) (((m) >> (i)) & 1)
/* Set bits of m below bit i. */
#define BELOW(m, i) \
	(((i) > 0 ? BIT(m, 0) : 0) + ((i) > 1 ? BIT(m, 1) : 0) + ((i) > 2 ? BIT(m, 2) : 0) + \
		((i) > 3 ? BIT(m, 3) : 0) + ((i) > 4 ? BIT(m, 4) : 0) + \
		((i) > 5 ? BIT(m, 5) : 0) + ((i) > 6 ? BIT(m, 6) : 0))
/* Source byte for byte i of the result; none if bit i is not set. */
#define EXPAND_BYTE(m, i) ((uint64_t)(BIT(m, i) ? BELOW(m, i) : 0x80) << 8 * (i))
#define EXPAND(m) \
	EXPAND_BYTE(m, 0) | EXPAND_BYTE(m, 1) | EXPAND_BYTE(m, 2) | EXPAND_BYTE(m, 3) | \
		EXPAND_BYTE(m, 4) | EXPAND_BYTE(m, 5) | EXPAND_BYTE(m, 6) | EXPAND_BYTE(m, 7)
/* The reverse: byte i goes to the place given by the number of set bits below it. */
#define PACK_BYTE(m, i) (BIT(m, i) ? (uint64_t)(i) << 8 * BELOW(m, i) : 0)
#define PACK(m) \
	PACK_BYTE(m, 0) | PACK_BYTE(m, 1) | PACK_BYTE(m, 2) | PACK_BYTE(m, 3) | PACK_BYTE(m, 4) | \
		PACK_BYTE(m, 5) | PACK_BYTE(m, 6) | PACK_BYTE(m, 7)

#define FOUR(f, m) f(m), f(m + 1), f(m + 2), f(m + 3)
#define SIXTEEN(f, m) FOUR(f, (m)), FOUR(f, (m + 4)), FOUR(f, (m + 8)), FOUR(f, (m + 12))
#define SIXTY_FOUR(f, m) \
	SIXTEEN(f, (m)), SIXTEEN(f, (m + 16)), SIXTEEN(f, (m + 32)), SIXTEEN(f, (m + 48))
#define ALL(f) { SIXTY_FOUR(f, 0), SIXTY_FOUR(f, 64), SIXTY_FOUR(f, 128), SIXTY_FOUR(f, 192) }

static const uint64_t expand_shuffle[256] __attribute__((aligned(64))) = ALL(EXPAND);
#if defined(TZ_ARM64)
static const uint64_t pack_shuffle[256] __attribute__((aligned(64))) = ALL(PACK);
#endif

#endif
