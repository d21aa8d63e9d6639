/* dense.h - the variants of the page codec `dense`, for the table in codec.c. */
#ifndef TZ_DENSE_H
#define TZ_DENSE_H

#include "codec.h"

extern const struct tz_codec tz_dense_portable;
#if defined(__x86_64__)
extern const struct tz_codec tz_dense_avx2, tz_dense_avx512;
#elif defined(__aarch64__)
extern const struct tz_codec tz_dense_neon;
#endif

#endif
