/* test_zstd_alloc.c - no codec allocates while it compresses or decompresses, libzstd included.
 *
 * The program defines malloc and its family itself, so that libzstd's calls arrive here too, and
 * counts them. To know that they do arrive, it first lets libzstd make a context on the heap. (Not
 * built under a sanitizer, which does the same.)
 */
#include "training.h"

#include <errno.h>

#if defined(__GLIBC__)
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

static unsigned long calls;

#define EXPORT __attribute__((visibility("default")))

EXPORT void *malloc(size_t size)
{
	calls++;
	return __libc_malloc(size);
}

EXPORT void *calloc(size_t n, size_t size)
{
	calls++;
	return __libc_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t size)
{
	calls++;
	return __libc_realloc(p, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	calls++;
	return __libc_memalign(alignment, size);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t size)
{
	calls++;
	*out = __libc_memalign(alignment, size);
	return *out ? 0 : ENOMEM;
}

EXPORT void free(void *p)
{
	if (p)
		calls++;
	__libc_free(p);
}

static void check_that_calls_arrive(void)
{
	void *library = dlopen("libzstd.so.1", RTLD_NOW), *context;
	void *(*create)(void);
	size_t (*destroy)(void *);
	unsigned long before;

	CHECK(library, "%s", dlerror());
	*(void **)&create = dlsym(library, "ZSTD_createCCtx");
	*(void **)&destroy = dlsym(library, "ZSTD_freeCCtx");
	before = calls;
	context = create();
	CHECK(calls > before, "libzstd's malloc is not ours: this test cannot see anything");
	destroy(context);
}

static void check_workspace(const struct tz_codec *codec, int level, uint8_t *workspace,
	const char *with)
{
	uint8_t page[TZ_PAGE_SIZE], dst[TZ_DST_SIZE], out[TZ_PAGE_SIZE];
	unsigned long before = calls;
	size_t n, shrunk = 0;

	for (unsigned i = 0; i < 300; i++) {
		make_page(page, i);
		n = codec->compress(workspace, page, dst);
		shrunk += n > 0;
		if (n)
			CHECK(!codec->decompress(workspace, dst, n, out) &&
				!memcmp(page, out, TZ_PAGE_SIZE), "page %u", i);
		dst[n / 2] ^= 0x55;
		codec->decompress(workspace, dst, n, out);
	}
	CHECK(calls == before, "%s:%d%s: %lu calls of the allocator", codec->name, level, with,
		calls - before);
	CHECK(shrunk > 100, "%s:%d%s: shrank %zu pages of 300", codec->name, level, with, shrunk);
	printf("%s:%d%s: none\n", codec->name, level, with);
}

static void check_codec(const struct tz_codec *codec, int level)
{
	const char *why = NULL;
	size_t size = codec->workspace_size(level, &why);
	uint8_t *workspace;

	CHECK(size, "%s is not available: %s", codec->name, why);
	workspace = aligned_alloc(64, (size + 63) & ~(size_t)63);
	CHECK(workspace && !codec->workspace_init(workspace, size, level, &why),
		"%s: %s", codec->name, why);
	check_workspace(codec, level, workspace, "");
	free(workspace);
}

static void check_dictionary(const uint8_t *bytes, size_t n, int level)
{
	static uint8_t memory[2 << 20] __attribute__((aligned(64)));
	const char *why = NULL;
	unsigned long before = calls;
	struct tz_dictionary *d = tz_dictionary_init(memory, sizeof memory, bytes, n, level, &why);

	CHECK(d, "%s", why);
	CHECK(calls == before, "digesting at level %d: %lu calls of the allocator", level,
		calls - before);
	uint8_t *workspace = workspace_with(d);
	check_workspace(tz_codec_by_kind(TZ_KIND_ZSTD_DICT), level, workspace,
		" with a dictionary");
	free(workspace);
}

int main(void)
{
	static uint8_t bytes[32768];
	const struct tz_codec *zstd = tz_codec_by_name("zstd");
	size_t n = train(bytes, sizeof bytes, 0);

	check_that_calls_arrive();
	for (int level = zstd->level_min; level <= zstd->level_max; level++)
		check_dictionary(bytes, n, level);
	for (const struct tz_codec *const *c = tz_codecs(); *c; c++)
		for (int level = (*c)->level_min; level <= (*c)->level_max; level++)
			check_codec(*c, level);
	return 0;
}
#else
int main(void)
{
	puts("skipped: this C library's malloc cannot be wrapped by name");
	return SKIP;
}
#endif
