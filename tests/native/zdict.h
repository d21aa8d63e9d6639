/* zdict.h - trains a dictionary with the system's libzstd. The program that includes it has CHECK
 * (harness.h or its own). */
#ifndef TZ_ZDICT_H
#define TZ_ZDICT_H

#include "dictionary.h"

#include <dlfcn.h>

/* Trains on n pages, `pages` being their bytes. Bytes of the dictionary, 0: this machine has no
 * libzstd. */
static inline size_t train_on(uint8_t *out, size_t capacity, const uint8_t *pages, unsigned n)
{
	size_t sizes[n], got;
	void *library = dlopen("libzstd.so.1", RTLD_NOW);
	size_t (*from_buffer)(void *dict, size_t capacity, const void *samples, const size_t *sizes,
		unsigned nr);
	unsigned (*is_error)(size_t code);

	if (!library)
		return 0;
	*(void **)&from_buffer = dlsym(library, "ZDICT_trainFromBuffer");
	*(void **)&is_error = dlsym(library, "ZDICT_isError");
	CHECK(from_buffer && is_error, "%s", dlerror());
	for (unsigned i = 0; i < n; i++)
		sizes[i] = TZ_PAGE_SIZE;
	got = from_buffer(out, capacity, pages, sizes, n);
	CHECK(!is_error(got) && got >= TZ_DICTIONARY_MIN && got <= capacity,
		"training gave %zu", got);
	return got;
}

#endif
