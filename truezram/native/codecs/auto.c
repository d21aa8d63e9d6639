/* auto.c - the algorithm `auto`: `fast` first, then `dense` if `fast` did poorly and the time
 * budget allows it.
 *
 * An object of `auto` is an object of one of the two, followed by a byte that says which (enum
 * tz_kind). The store removes the byte and keeps the object under its own kind, so a device's pages
 * are counted by their real kind and decoded directly. A user of the library keeps the byte, so a
 * blob describes itself.
 *
 * The level is the budget: the time that dense may take, in per cent of the time that passes
 * outside of it on the calling thread. Credit accrues as time passes, but only as much as one page
 * needs. So a device that is written page by page packs nearly as tightly as dense does, while a
 * burst of pages runs at 0.8 of fast's speed (level 25), however long the pause before it. (With 50
 * us of credit saved up, a burst of 64 pages ran at 0.7.)
 *
 * What counts as "poorly" follows from the budget: the size from which an object is worth a try
 * rises whenever there is no credit left and falls while there is plenty, so the time goes to the
 * pages that save most. Pages that fast cannot shrink at all are tried less and less often while
 * dense fails on them too.
 */
#include "clock.h"
#include "cpu.h"
#include "variants.h"

#include <time.h>

#define PERCENT_DEFAULT 25
#define BURST_NS 5000	/* most credit saved up; any credit is enough to begin a page */
#define POOR_LEAST 512u
#define POOR_MOST 2560u
#define POOR_STEP 32u
#define RARELY 64u	/* pages that do not shrink: at least one in so many is tried */

struct auto_workspace {
	const struct tz_codec *fast, *dense;
	void *fast_workspace, *dense_workspace;
	int64_t credit_ns;		/* time that dense may take now */
	uint64_t seen_ns;		/* until when credit has been added */
	unsigned percent;
	uint32_t poor;			/* objects of fast longer than this are worth a try */
	/* pages to skip after one that dense could not shrink either; how many were skipped */
	uint32_t hopeless, skipped;
	uint8_t other[TZ_DST_SIZE];
};

static size_t workspace_size(int level, const char **why)
{
	size_t fast = tz_codec_by_name("fast")->workspace_size(0, why);
	size_t dense = tz_codec_by_name("dense")->workspace_size(0, why);

	(void)level;
	return tz_round64(sizeof(struct auto_workspace)) + tz_round64(fast) + tz_round64(dense);
}

static int init(void *workspace, size_t size, int level, const char **why, enum tz_isa isa)
{
	struct auto_workspace *w = workspace;

	if (level < 1 || level > 100 || size < workspace_size(level, why)) {
		*why = level < 1 || level > 100
			? "auto: the level is a share of time, 1 to 100 per cent"
			: "auto: the workspace is smaller than workspace_size() says";
		return -1;
	}
	memset(w, 0, sizeof *w);
	w->fast = tz_codec_variant("fast", isa);
	w->dense = tz_codec_variant("dense", isa);
	if (!w->fast || !w->dense) {
		*why = "auto: this CPU does not run that variant of fast and dense";
		return -1;
	}
	size_t fast_size = w->fast->workspace_size(0, why);
	w->fast_workspace = (uint8_t *)workspace + tz_round64(sizeof *w);
	w->dense_workspace = (uint8_t *)w->fast_workspace + tz_round64(fast_size);
	w->percent = (unsigned)level;
	w->poor = POOR_LEAST;
	w->seen_ns = tz_now_ns();
	w->credit_ns = BURST_NS;
	if (w->fast->workspace_init(w->fast_workspace, fast_size, 0, why) < 0)
		return -1;
	return w->dense->workspace_init(w->dense_workspace, w->dense->workspace_size(0, why), 0,
		why);
}

/* Whether a page that fast left at n bytes (0: did not shrink) is worth a try. */
static int is_worth_it(struct auto_workspace *w, size_t n)
{
	if (n)
		return n > w->poor;
	if (w->skipped < w->hopeless) {
		w->skipped++;
		return 0;
	}
	w->skipped = 0;
	return 1;
}

/* Adds the credit earned since the last call, moves the threshold of what is poor, and says whether
 * there is credit to spend. */
static int may_spend(struct auto_workspace *w, uint64_t now)
{
	w->credit_ns += (int64_t)((now - w->seen_ns) * w->percent / 100);
	w->seen_ns = now;
	if (w->credit_ns >= BURST_NS) {
		w->credit_ns = BURST_NS;
		w->poor -= w->poor > POOR_LEAST ? POOR_STEP : 0;
	}
	if (w->credit_ns > 0)
		return 1;
	w->poor += w->poor < POOR_MOST ? POOR_STEP : 0;
	return 0;
}

/* Replaces fast's n bytes (0: none) in dst with dense's object, if it is shorter and there is time
 * to make it. */
static size_t try_dense(struct auto_workspace *w, const uint8_t *page, uint8_t *dst, size_t n,
	unsigned *kind)
{
	uint64_t start = tz_now_ns();

	if (!may_spend(w, start))
		return n;
	size_t m = w->dense->compress(w->dense_workspace, page, w->other);
	w->seen_ns = tz_now_ns();	/* dense's own time earns no credit */
	w->credit_ns -= (int64_t)(w->seen_ns - start);
	if (!n)
		w->hopeless = m ? 0 : w->hopeless < RARELY ? 2 * w->hopeless + 1 : RARELY;
	if (!m || (n && m >= n))
		return n;
	memcpy(dst, w->other, m);
	*kind = TZ_KIND_DENSE;
	return m;
}

static size_t compress(void *workspace, const uint8_t *page, uint8_t *dst)
{
	struct auto_workspace *w = workspace;
	unsigned kind = TZ_KIND_FAST;
	size_t n = w->fast->compress(w->fast_workspace, page, dst);

	if (is_worth_it(w, n))
		n = try_dense(w, page, dst, n, &kind);
	if (n == 0 || n + 1 >= TZ_PAGE_SIZE)
		return 0;
	dst[n] = (uint8_t)kind;
	return n + 1;
}

static int decompress(void *workspace, const uint8_t *src, size_t n, uint8_t *out)
{
	struct auto_workspace *w = workspace;

	if (n < 2)
		return -1;
	if (src[n - 1] == TZ_KIND_FAST)
		return w->fast->decompress(w->fast_workspace, src, n - 1, out);
	if (src[n - 1] == TZ_KIND_DENSE)
		return w->dense->decompress(w->dense_workspace, src, n - 1, out);
	return -1;
}

void *tz_auto_part(void *workspace, unsigned kind)
{
	struct auto_workspace *w = workspace;

	return kind == TZ_KIND_FAST	? w->fast_workspace
		: kind == TZ_KIND_DENSE ? w->dense_workspace
					: NULL;
}

#define INIT(isa, suffix) \
	static int init_##suffix(void *workspace, size_t size, int level, const char **why) \
	{ \
		return init(workspace, size, level, why, TZ_ISA_##isa); \
	}
TZ_EACH_ISA(INIT)

#define VARIANT(isa, suffix) \
	{ "auto", "fast; dense where there is time for it", TZ_KIND_AUTO, TZ_ISA_##isa, 1, 100, \
		PERCENT_DEFAULT, workspace_size, init_##suffix, compress, decompress },

const struct tz_codec tz_auto_variants[] = {
	TZ_EACH_ISA(VARIANT)
	{ 0 },
};
