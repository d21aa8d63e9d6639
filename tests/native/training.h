/* training.h - a dictionary for the tests, trained by libzstd on the pages of harness.h. Included
 * once per program. */
#ifndef TZ_TRAINING_H
#define TZ_TRAINING_H

#include "harness.h"
#include "zdict.h"

#define TRAINING_PAGES 300

/* Bytes of the dictionary, 0: this machine has no libzstd. `first`: number of the first page to
 * train on. */
static inline size_t train(uint8_t *out, size_t capacity, unsigned first)
{
	static uint8_t pages[TRAINING_PAGES * TZ_PAGE_SIZE];

	for (unsigned i = 0; i < TRAINING_PAGES; i++)
		make_page(pages + (size_t)i * TZ_PAGE_SIZE, first + i);
	return train_on(out, capacity, pages, TRAINING_PAGES);
}

/* A dictionary digested for a level, in memory of its own. */
static inline struct tz_dictionary *digested(const uint8_t *bytes, size_t n, int level)
{
	const char *why = "";
	size_t size = tz_dictionary_size(n, level, &why);
	void *memory = size ? aligned_alloc(64, size) : NULL;
	struct tz_dictionary *d = memory
		? tz_dictionary_init(memory, size, bytes, n, level, &why) : NULL;

	CHECK(d, "dictionary of %zu bytes at level %d: %s", n, level, why);
	return d;
}

/* A workspace that uses it. */
static inline uint8_t *workspace_with(const struct tz_dictionary *d)
{
	const char *why = "";
	size_t size = tz_dictionary_workspace_size(d, &why);
	uint8_t *workspace = size ? aligned_alloc(64, (size + 63) & ~(size_t)63) : NULL;

	CHECK(workspace && !tz_dictionary_workspace_init(d, workspace, size, &why), "%s", why);
	return workspace;
}

#endif
