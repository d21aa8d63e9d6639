/* zstd.c - the zstd codec: the system's libzstd, opened at run time, working in the caller's
 * memory.
 *
 * An object is one zstd frame without magic number, checksum, content size and dictionary id: 2
 * bytes of header (the format `zstd --format=zstd1` writes, less its first four bytes). libzstd is
 * opened once, by the first call that asks for a workspace's size: when a device starts, never on
 * its I/O path. Both its contexts are "static": they live inside the workspace, and libzstd
 * allocates nothing for them (it returns an error instead, which tests/native/test_zstd_alloc.c
 * watches).
 *
 * With a dictionary (dictionary.h) the lower three bits of the window descriptor, which are 0
 * otherwise, say what the object was made with: the dictionary's content alone, or its entropy
 * tables too. The fast levels of libzstd use those tables without checking whether they fit, which
 * makes pages 2 to 3 % larger than no dictionary at all; so they get the content alone.
 *
 * TRUEZRAM_LIBZSTD names the library file to open instead of libzstd.so.1 (for systems without a
 * library path, and tests). As root, a path is refused if anyone else can change the file or a
 * folder above it, because sudo may have let the variable through.
 */
#include "cpu.h"
#include "dictionary.h"
#include "variants.h"
#include "zstd_group.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* From zstd.h: the interface of libzstd.so.1 since 1.4.0. All builds export its "experimental" part
 * too. */
struct zstd_cparams {
	unsigned window_log, chain_log, hash_log, search_log, min_match, target_length;
	int strategy;
};
enum {
	ZSTD_COMPRESSION_LEVEL = 100,
	ZSTD_CONTENT_SIZE_FLAG = 200,
	ZSTD_CHECKSUM_FLAG = 201,
	ZSTD_DICT_ID_FLAG = 202,
	ZSTD_C_FORMAT = 10,
	ZSTD_D_FORMAT = 1000,
	ZSTD_MAGICLESS = 1
};
enum { DICT_BY_REFERENCE = 1 };			/* ZSTD_dictLoadMethod_e */
enum { DICT_CONTENT = 1, DICT_WITH_TABLES = 2 };	/* ZSTD_dictContentType_e; also our marks */
enum { STRATEGY_LAZY = 4, STRATEGY_TREES = 6 };

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
	struct zstd_cparams (*adjustCParams)(struct zstd_cparams params,
		unsigned long long src_size, size_t dict_size);
	size_t (*estimateCDictSize_advanced)(size_t n, struct zstd_cparams params, int load);
	size_t (*estimateDDictSize)(size_t n, int load);
	const void *(*initStaticCDict)(void *workspace, size_t size, const void *dict, size_t n,
		int load, int type, struct zstd_cparams params);
	const void *(*initStaticDDict)(void *workspace, size_t size, const void *dict, size_t n,
		int load, int type);
	size_t (*CCtx_refCDict)(void *cctx, const void *cdict);
	size_t (*decompress_usingDDict)(void *dctx, void *dst, size_t capacity, const void *src,
		size_t n, const void *ddict);
} lib;

static const struct {
	const char *symbol;
	void *slot;
} imports[] = {
#define IMPORT(name) { "ZSTD_" #name, &lib.name }
	IMPORT(versionNumber),
	IMPORT(isError),
	IMPORT(getCParams),
	IMPORT(estimateCCtxSize_usingCParams),
	IMPORT(estimateDCtxSize),
	IMPORT(initStaticCCtx),
	IMPORT(initStaticDCtx),
	IMPORT(CCtx_setParameter),
	IMPORT(DCtx_setParameter),
	IMPORT(compress2),
	IMPORT(decompressDCtx),
	IMPORT(adjustCParams),
	IMPORT(estimateCDictSize_advanced),
	IMPORT(estimateDDictSize),
	IMPORT(initStaticCDict),
	IMPORT(initStaticDDict),
	IMPORT(CCtx_refCDict),
	IMPORT(decompress_usingDDict),
#undef IMPORT
};

static char missing[512];	/* why libzstd cannot be used; "" when it can */
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define INSTALL \
	"Debian, Ubuntu: apt install libzstd1; Fedora: dnf install libzstd; " \
	"Arch: pacman -S zstd; Alpine: apk add zstd-libs"

/* Whether only root can change the file at that path, which contains no links. Others may write to
 * a folder with the sticky bit: they can only change their own files in it. */
static int only_root_changes(const char *file)
{
	char path[PATH_MAX];
	struct stat st;

	for (size_t n = strlen(file) + 1; n-- > 0;) {
		if (file[n] && file[n] != '/')
			continue;
		snprintf(path, sizeof(path), "%.*s", n ? (int)n : 1, file);
		if (lstat(path, &st) < 0 || st.st_uid != 0)
			return 0;
		int others = (st.st_mode & 002) || ((st.st_mode & 020) && st.st_gid != 0);
		if (others && !(S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX)))
			return 0;
	}
	return 1;
}

static void open_library(void)
{
	static char real[PATH_MAX];
	const char *given = secure_getenv("TRUEZRAM_LIBZSTD");
	const char *file = given && *given ? given : "libzstd.so.1";

	if (geteuid() == 0 && strchr(file, '/') && realpath(file, real)) {
		if (!only_root_changes(real)) {
			snprintf(missing, sizeof(missing),
				"%.256s (TRUEZRAM_LIBZSTD) can be changed by others than root, "
				"and is not loaded as root. Unset the variable, or give the file "
				"to root",
				file);
			return;
		}
		file = real;
	}
	void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);

	if (!handle) {
		snprintf(missing, sizeof(missing),
			"%.256s cannot be opened. Install it (" INSTALL ")", file);
		return;
	}
	for (size_t i = 0; i < sizeof(imports) / sizeof(*imports); i++) {
		void *address = dlsym(handle, imports[i].symbol);
		if (!address) {
			snprintf(missing, sizeof(missing),
				"%.256s lacks %s. Install libzstd 1.4.0 or newer (" INSTALL ")",
				file, imports[i].symbol);
			dlclose(handle);
			return;
		}
		memcpy(imports[i].slot, &address, sizeof(address));
	}
	if (lib.versionNumber() < ZSTD_MIN_VERSION) {
		snprintf(missing, sizeof(missing),
			"%.256s is older than 1.4.0 (its version number is %u). "
			"Install a newer libzstd (" INSTALL ")",
			file, lib.versionNumber());
		dlclose(handle);
	}
}

/* Head of a workspace; the two contexts follow, each at a multiple of 64. */
struct workspace {
	void *cctx, *dctx;
	const struct tz_dictionary *dictionary;		/* NULL: none */
};

#define ALIGN64(n) (((n) + 63) & ~(size_t)63)

static size_t cctx_size(int level)
{
	return ALIGN64(lib.estimateCCtxSize_usingCParams(lib.getCParams(level, TZ_PAGE_SIZE, 0)));
}

static int is_available(const char **why)
{
	pthread_once(&once, open_library);
	if (missing[0])
		*why = missing;
	return !missing[0];
}

unsigned tz_zstd_version(void)
{
	const char *why;

	return is_available(&why) ? lib.versionNumber() : 0;
}

static size_t size_with(size_t cctx)
{
	return ALIGN64(sizeof(struct workspace)) + cctx + ALIGN64(lib.estimateDCtxSize());
}

static size_t workspace_size(int level, const char **why)
{
	return is_available(why) ? size_with(cctx_size(level)) : 0;
}

static int set_parameters(const struct workspace *ws, int level)
{
	static const struct {
		int param, value;
	} settings[] = {
		{ ZSTD_C_FORMAT, ZSTD_MAGICLESS },
		{ ZSTD_CONTENT_SIZE_FLAG, 0 },
		{ ZSTD_CHECKSUM_FLAG, 0 },
		{ ZSTD_DICT_ID_FLAG, 0 },
	};

	for (size_t i = 0; ws->cctx && i < sizeof(settings) / sizeof(*settings); i++)
		if (lib.isError(lib.CCtx_setParameter(ws->cctx, settings[i].param,
			    settings[i].value)))
			return -1;
	if (ws->cctx &&
		lib.isError(lib.CCtx_setParameter(ws->cctx, ZSTD_COMPRESSION_LEVEL, level)))
		return -1;
	return lib.isError(lib.DCtx_setParameter(ws->dctx, ZSTD_D_FORMAT, ZSTD_MAGICLESS)) ? -1 : 0;
}

/* `cctx`: bytes of the compression context; 0: there is none. */
static int init_with(struct workspace *ws, size_t size, size_t cctx, int level, const char **why)
{
	uint8_t *at = (uint8_t *)ws + ALIGN64(sizeof(*ws));

	if (size < size_with(cctx)) {
		*why = "zstd: the workspace is smaller than workspace_size() says";
		return -1;
	}
	ws->cctx = cctx ? lib.initStaticCCtx(at, cctx) : NULL;
	ws->dctx = lib.initStaticDCtx(at + cctx, ALIGN64(lib.estimateDCtxSize()));
	ws->dictionary = NULL;
	if ((cctx && !ws->cctx) || !ws->dctx) {
		*why = "zstd: libzstd refuses the memory given to it";
		return -1;
	}
	if (set_parameters(ws, level)) {
		*why = "zstd: libzstd refuses a parameter (magicless frames need libzstd 1.4.0 or "
			"newer)";
		return -1;
	}
	return 0;
}

static int workspace_init(void *workspace, size_t size, int level, const char **why)
{
	return is_available(why) ? init_with(workspace, size, cctx_size(level), level, why) : -1;
}

static size_t compress(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct workspace *ws = workspace;
	size_t n = lib.compress2(ws->cctx, dst, TZ_DST_SIZE, page, TZ_PAGE_SIZE);

	/* An error code is a number near SIZE_MAX. */
	return n < TZ_PAGE_SIZE ? n : 0;
}

/* Whether src[0 .. n) is one frame with a header as compress() writes it, and nothing after its
 * last block.
 *
 * Checked here because libzstd before 1.5.5, given a magicless frame, still looks for a magic
 * number: it reads four bytes wherever another frame might start, even past the end of the
 * input. */
static int is_one_frame(const uint8_t *src, size_t n)
{
	/* descriptor (0: neither content size, nor checksum, nor dictionary), window */
	size_t at = 2;

	if (n < 6 || src[0] != 0)
		return 0;
	while (n - at >= 3) {
		unsigned header = src[at] | (unsigned)src[at + 1] << 8 |
			(unsigned)src[at + 2] << 16;
		/* 1: one byte, repeated */
		unsigned type = header >> 1 & 3, size = type == 1 ? 1 : header >> 3;
		at += 3;
		if (type == 3 || size > n - at)
			return 0;
		at += size;
		if (header & 1)		/* the last block */
			return at == n;
	}
	return 0;
}

/* What an object was made with: 0 = no dictionary, DICT_CONTENT, DICT_WITH_TABLES. It is in the
 * mantissa of the window size, which may be larger than needed. */
static unsigned mark_of(const uint8_t *src)
{
	return src[1] & 7;
}

static int decompress(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct workspace *ws = workspace;

	if (!is_one_frame(src, n) || mark_of(src))
		return -1;
	return lib.decompressDCtx(ws->dctx, out, TZ_PAGE_SIZE, src, n) == TZ_PAGE_SIZE ? 0 : -1;
}

const struct tz_codec tz_zstd_variants[] = {
	{ "zstd", "small, slower", TZ_KIND_ZSTD, TZ_ISA_PORTABLE, -7, 19, 1, workspace_size,
		workspace_init, compress, decompress },
	{ 0 },
};

/* ---- several pages ---- */

/* libzstd chooses its parameters by the number of bytes: what any of them needs. */
static size_t group_cctx_size(int level)
{
	size_t most = 0;

	for (size_t n = TZ_PAGE_SIZE; level && n <= TZ_GROUP_BYTES; n += TZ_PAGE_SIZE) {
		size_t size = lib.estimateCCtxSize_usingCParams(lib.getCParams(level, n, 0));
		most = size > most ? size : most;
	}
	return ALIGN64(most);
}

size_t tz_zstd_group_size(int level, const char **why)
{
	return is_available(why) ? size_with(group_cctx_size(level)) : 0;
}

int tz_zstd_group_init(void *workspace, size_t size, int level, const char **why)
{
	return is_available(why)
		? init_with(workspace, size, group_cctx_size(level), level, why)
		: -1;
}

size_t tz_zstd_group_compress(
	void *workspace, const uint8_t *src, size_t n, uint8_t *dst, size_t capacity)
{
	const struct workspace *ws = workspace;
	size_t length = lib.compress2(ws->cctx, dst, capacity, src, n);

	return lib.isError(length) ? 0 : length;
}

int tz_zstd_group_decompress(
	void *workspace, const uint8_t *src, size_t n, uint8_t *out, size_t size)
{
	const struct workspace *ws = workspace;

	if (!is_one_frame(src, n) || mark_of(src))
		return -1;
	return lib.decompressDCtx(ws->dctx, out, size, src, n) == size ? 0 : -1;
}

/* ---- with a dictionary ---- */

/* Head of the memory. It is followed by a copy of the bytes, libzstd's digested dictionary for
 * compression and two for decompression. */
struct tz_dictionary {
	size_t memory, n;
	int level;
	unsigned mark;			/* of the objects that are made with it */
	struct zstd_cparams params;
	const uint8_t *bytes;
	const void *cdict, *ddicts[DICT_WITH_TABLES + 1];	/* ddicts by mark */
};

const char *tz_dictionary_fault(const void *bytes, size_t n)
{
	static const uint8_t magic[4] = { 0x37, 0xa4, 0x30, 0xec };

	if (n == 0)
		return "it is empty";
	if (n < TZ_DICTIONARY_MIN)
		return "it has fewer than 256 bytes";
	if (n > TZ_DICTIONARY_MAX)
		return "it has more than 128 KiB (131072 bytes)";
	return memcmp(bytes, magic, 4)
		? "it is not a trained zstd dictionary: it does not begin with 37 a4 30 ec"
		: NULL;
}

/* libzstd's own parameters for a page with n bytes before it, except for the table sizes: no more
 * entries than the dictionary has positions, but no fewer than a page has. */
static struct zstd_cparams dictionary_params(size_t n, int level)
{
	struct zstd_cparams params = lib.getCParams(level, TZ_PAGE_SIZE, n);
	unsigned most = 13;

	while ((size_t)1 << most < n)
		most++;
	params.hash_log = params.hash_log < most ? params.hash_log : most;
	most += params.strategy >= STRATEGY_TREES;	/* two entries a position */
	params.chain_log = params.chain_log < most ? params.chain_log : most;
	return params;
}

static size_t encoding_size(size_t n, struct zstd_cparams params)
{
	return ALIGN64(lib.estimateCDictSize_advanced(n, params, DICT_BY_REFERENCE));
}

static size_t decoding_size(size_t n)
{
	return ALIGN64(lib.estimateDDictSize(n, DICT_BY_REFERENCE));
}

size_t tz_dictionary_size(size_t n, int level, const char **why)
{
	if (!is_available(why))
		return 0;
	return ALIGN64(sizeof(struct tz_dictionary)) + ALIGN64(n) +
		encoding_size(n, dictionary_params(n, level)) + 2 * decoding_size(n);
}

/* 0, or -1: libzstd refuses the bytes. */
static int digest(struct tz_dictionary *d, uint8_t *at)
{
	const size_t encoding = encoding_size(d->n, d->params), decoding = decoding_size(d->n);

	d->cdict = lib.initStaticCDict(at, encoding, d->bytes, d->n, DICT_BY_REFERENCE,
		(int)d->mark, d->params);
	at += encoding;
	for (int type = DICT_CONTENT; type <= DICT_WITH_TABLES; type++, at += decoding) {
		d->ddicts[type] = lib.initStaticDDict(at, decoding, d->bytes, d->n,
			DICT_BY_REFERENCE, type);
		if (!d->ddicts[type])
			return -1;
	}
	return d->cdict ? 0 : -1;
}

struct tz_dictionary *tz_dictionary_init(void *memory, size_t size, const void *bytes, size_t n,
	int level, const char **why)
{
	struct tz_dictionary *d = memory;
	const char *fault = tz_dictionary_fault(bytes, n);
	size_t need = fault ? 0 : tz_dictionary_size(n, level, why);

	if (fault)
		*why = fault;
	if (!need)
		return NULL;
	if (size < need) {
		*why = "zstd: the memory is smaller than tz_dictionary_size() says";
		return NULL;
	}
	*d = (struct tz_dictionary){
		.memory = need, .n = n, .level = level, .params = dictionary_params(n, level)
	};
	d->mark = d->params.strategy < STRATEGY_LAZY ? DICT_CONTENT : DICT_WITH_TABLES;
	d->bytes = (uint8_t *)memory + ALIGN64(sizeof *d);
	memcpy((uint8_t *)memory + ALIGN64(sizeof *d), bytes, n);
	if (digest(d, (uint8_t *)memory + ALIGN64(sizeof *d) + ALIGN64(n))) {
		*why = "libzstd refuses it: its tables are damaged";
		return NULL;
	}
	return d;
}

const void *tz_dictionary_bytes(const struct tz_dictionary *d, size_t *n)
{
	*n = d->n;
	return d->bytes;
}

uint32_t tz_dictionary_id(const struct tz_dictionary *d)
{
	return d->bytes[4] | (uint32_t)d->bytes[5] << 8 | (uint32_t)d->bytes[6] << 16 |
		(uint32_t)d->bytes[7] << 24;
}

size_t tz_dictionary_memory(const struct tz_dictionary *d)
{
	return d->memory;
}

/* A context that uses a digested dictionary has the dictionary's parameters, reduced to what one
 * page needs. */
static size_t dictionary_cctx_size(const struct tz_dictionary *d)
{
	size_t own = cctx_size(d->level);
	size_t its = ALIGN64(lib.estimateCCtxSize_usingCParams(lib.adjustCParams(d->params,
		TZ_PAGE_SIZE, 0)));

	return own > its ? own : its;
}

size_t tz_dictionary_workspace_size(const struct tz_dictionary *d, const char **why)
{
	return is_available(why) ? size_with(dictionary_cctx_size(d)) : 0;
}

static size_t compress_with(void *workspace, const uint8_t *page, uint8_t *dst)
{
	const struct workspace *ws = workspace;
	size_t n = compress(workspace, page, dst);

	if (n)
		dst[1] = (uint8_t)((dst[1] & ~7u) | ws->dictionary->mark);
	return n;
}

static int decompress_with(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct workspace *ws = workspace;
	unsigned mark;

	if (!is_one_frame(src, n))
		return -1;
	mark = mark_of(src);
	if (mark != DICT_CONTENT && mark != DICT_WITH_TABLES)
		return -1;
	return lib.decompress_usingDDict(ws->dctx, out, TZ_PAGE_SIZE, src, n,
		       ws->dictionary->ddicts[mark]) == TZ_PAGE_SIZE
		? 0
		: -1;
}

/* Another libzstd may need more memory than it says: find out now and not on every page. */
static int is_working(struct workspace *ws)
{
	uint8_t page[TZ_PAGE_SIZE], object[TZ_DST_SIZE], out[TZ_PAGE_SIZE];
	size_t n;

	for (unsigned i = 0; i < TZ_PAGE_SIZE; i++)
		page[i] = (uint8_t)(i % 61 * (i / 256));
	n = compress_with(ws, page, object);
	return n && !decompress_with(ws, object, n, out) && !memcmp(page, out, TZ_PAGE_SIZE);
}

int tz_dictionary_workspace_init(const struct tz_dictionary *d, void *workspace, size_t size,
	const char **why)
{
	struct workspace *ws = workspace;

	if (!is_available(why) || init_with(ws, size, dictionary_cctx_size(d), d->level, why))
		return -1;
	ws->dictionary = d;
	if (lib.isError(lib.CCtx_refCDict(ws->cctx, d->cdict)) || !is_working(ws)) {
		*why = "zstd: this libzstd cannot use a dictionary without allocating memory. "
			"Install another version of it";
		return -1;
	}
	return 0;
}

/* The functions of codec.h, which take no dictionary. */
static size_t no_size(int level, const char **why)
{
	(void)level;
	*why = "zstd: its dictionary is missing";
	return 0;
}

static int no_init(void *workspace, size_t size, int level, const char **why)
{
	(void)workspace;
	(void)size;
	return (int)no_size(level, why) - 1;
}

const struct tz_codec tz_zstd_dictionary = {
	"zstd", "small, slower", TZ_KIND_ZSTD_DICT, TZ_ISA_PORTABLE, -7, 19, 1, no_size, no_init,
	compress_with, decompress_with
};
