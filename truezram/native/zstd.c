/* zstd.c - the zstd codec: the system's libzstd, opened at run time, working in the caller's memory.
 *
 * An object is one zstd frame without magic number, checksum, content size and dictionary id: 2 bytes of header (the format
 * `zstd --format=zstd1` writes, less its first four bytes). libzstd is opened once, by whoever first asks for a workspace's
 * size: when a device starts, never on its I/O path. Both its contexts are "static": they live inside the workspace, and
 * libzstd allocates nothing for them (it returns an error instead, which tests/native/test_zstd_alloc.c watches).
 *
 * TRUEZRAM_LIBZSTD names another library file than libzstd.so.1 (systems without a library path; tests).
 */
#include "cpu.h"
#include "variants.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* From zstd.h; the interface of libzstd.so.1 since 1.4.0, "experimental" part included, which all of its builds export. */
struct zstd_cparams { unsigned window_log, chain_log, hash_log, search_log, min_match, target_length; int strategy; };
enum {
	ZSTD_COMPRESSION_LEVEL = 100, ZSTD_CONTENT_SIZE_FLAG = 200, ZSTD_CHECKSUM_FLAG = 201, ZSTD_DICT_ID_FLAG = 202,
	ZSTD_C_FORMAT = 10, ZSTD_D_FORMAT = 1000, ZSTD_MAGICLESS = 1
};
enum { RESET_SESSION = 1 };

#define ZSTD_MIN_VERSION 10400

static struct {
	unsigned (*versionNumber)(void);
	unsigned (*isError)(size_t code);
	struct zstd_cparams (*getCParams)(int level, unsigned long long src_size, size_t dict_size);
	size_t (*estimateCCtxSize_usingCParams)(struct zstd_cparams params);
	size_t (*estimateDCtxSize)(void);
	void *(*initStaticCCtx)(void *workspace, size_t size);
	void *(*initStaticDCtx)(void *workspace, size_t size);
	size_t (*CCtx_setParameter)(void *cctx, int param, int value);
	size_t (*DCtx_setParameter)(void *dctx, int param, int value);
	size_t (*compress2)(void *cctx, void *dst, size_t capacity, const void *src, size_t n);
	size_t (*decompressDCtx)(void *dctx, void *dst, size_t capacity, const void *src, size_t n);
} lib;

static const struct { const char *symbol; void *slot; } imports[] = {
#define IMPORT(name) { "ZSTD_" #name, &lib.name }
	IMPORT(versionNumber), IMPORT(isError), IMPORT(getCParams), IMPORT(estimateCCtxSize_usingCParams),
	IMPORT(estimateDCtxSize), IMPORT(initStaticCCtx), IMPORT(initStaticDCtx), IMPORT(CCtx_setParameter),
	IMPORT(DCtx_setParameter), IMPORT(compress2), IMPORT(decompressDCtx),
#undef IMPORT
};

static char missing[512];	/* why libzstd cannot be used; "" when it can */
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define INSTALL "Debian, Ubuntu: apt install libzstd1; Fedora: dnf install libzstd; Arch: pacman -S zstd; Alpine: apk add zstd-libs"

static void open_library(void)
{
	const char *given = secure_getenv("TRUEZRAM_LIBZSTD"), *file = given && *given ? given : "libzstd.so.1";
	void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);

	if (!handle) {
		snprintf(missing, sizeof(missing), "%.256s cannot be opened. Install it (" INSTALL ")", file);
		return;
	}
	for (size_t i = 0; i < sizeof(imports) / sizeof(*imports); i++) {
		void *address = dlsym(handle, imports[i].symbol);
		if (!address) {
			snprintf(missing, sizeof(missing), "%.256s lacks %s. Install libzstd 1.4.0 or newer (" INSTALL ")", file,
				imports[i].symbol);
			dlclose(handle);
			return;
		}
		memcpy(imports[i].slot, &address, sizeof(address));
	}
	if (lib.versionNumber() < ZSTD_MIN_VERSION) {
		snprintf(missing, sizeof(missing), "%.256s is older than 1.4.0 (its version number is %u). Install a newer libzstd"
			" (" INSTALL ")", file, lib.versionNumber());
		dlclose(handle);
	}
}

/* Head of a workspace; the two contexts follow, each at a multiple of 64. */
struct workspace {
	void *cctx, *dctx;
};

#define ALIGN64(n) (((n) + 63) & ~(size_t)63)

static size_t cctx_size(int level)
{
	return ALIGN64(lib.estimateCCtxSize_usingCParams(lib.getCParams(level, TZ_PAGE_SIZE, 0)));
}

static size_t workspace_size(int level, const char **why)
{
	pthread_once(&once, open_library);
	if (missing[0]) {
		*why = missing;
		return 0;
	}
	return ALIGN64(sizeof(struct workspace)) + cctx_size(level) + ALIGN64(lib.estimateDCtxSize());
}

static int set_parameters(const struct workspace *ws, int level)
{
	static const struct { int param, value; } settings[] = {
		{ ZSTD_C_FORMAT, ZSTD_MAGICLESS }, { ZSTD_CONTENT_SIZE_FLAG, 0 }, { ZSTD_CHECKSUM_FLAG, 0 }, { ZSTD_DICT_ID_FLAG, 0 },
	};

	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++)
		if (lib.isError(lib.CCtx_setParameter(ws->cctx, settings[i].param, settings[i].value)))
			return -1;
	if (lib.isError(lib.CCtx_setParameter(ws->cctx, ZSTD_COMPRESSION_LEVEL, level)))
		return -1;
	return lib.isError(lib.DCtx_setParameter(ws->dctx, ZSTD_D_FORMAT, ZSTD_MAGICLESS)) ? -1 : 0;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	struct workspace *ws = workspace;
	uint8_t *at = (uint8_t *)workspace + ALIGN64(sizeof(*ws));
	size_t need = workspace_size(level, why);

	if (!need)
		return -1;
	if (size < need) {
		*why = "zstd: the workspace is smaller than workspace_size() says";
		return -1;
	}
	ws->cctx = lib.initStaticCCtx(at, cctx_size(level));
	at += cctx_size(level);
	ws->dctx = lib.initStaticDCtx(at, ALIGN64(lib.estimateDCtxSize()));
	if (!ws->cctx || !ws->dctx) {
		*why = "zstd: libzstd refuses the memory given to it";
		return -1;
	}
	if (set_parameters(ws, level)) {
		*why = "zstd: libzstd refuses a parameter (magicless frames need libzstd 1.4.0 or newer)";
		return -1;
	}
	return 0;
}

static size_t compress(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct workspace *ws = workspace;
	size_t n = lib.compress2(ws->cctx, dst, TZ_DST_SIZE, page, TZ_PAGE_SIZE);

	/* An error code is a number near SIZE_MAX. */
	return n < TZ_PAGE_SIZE ? n : 0;
}

/* Whether src[0 .. n) is one frame with a header such as compress() makes, and nothing after its last block.
 *
 * Checked here because libzstd before 1.5.5, given a magicless frame, looks for a magic number all the same: it reads four
 * bytes wherever one more frame might start, past the end of the input if need be. */
static int is_one_frame(const uint8_t *src, size_t n)
{
	size_t at = 2;		/* descriptor (0: neither content size, nor checksum, nor dictionary), window */

	if (n < 6 || src[0] != 0)
		return 0;
	while (n - at >= 3) {
		unsigned header = src[at] | (unsigned)src[at + 1] << 8 | (unsigned)src[at + 2] << 16;
		unsigned type = header >> 1 & 3, size = type == 1 ? 1 : header >> 3;	/* 1: one byte, repeated */
		at += 3;
		if (type == 3 || size > n - at)
			return 0;
		at += size;
		if (header & 1)		/* the last block */
			return at == n;
	}
	return 0;
}

static int decompress(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct workspace *ws = workspace;

	if (!is_one_frame(src, n))
		return -1;
	return lib.decompressDCtx(ws->dctx, out, TZ_PAGE_SIZE, src, n) == TZ_PAGE_SIZE ? 0 : -1;
}

const struct tz_codec tz_zstd_variants[] = {
	{ "zstd", TZ_KIND_ZSTD, TZ_ISA_PORTABLE, -7, 19, 1, workspace_size, workspace_init, compress, decompress },
	{ 0 },
};
