/* counts.h - what a device counts, and that the checker counts the same.
 *
 * Included once per program.
 */
#ifndef TZ_COUNTS_H
#define TZ_COUNTS_H

#include "device.h"

static inline void compact(struct device *d)
{
	uint64_t ticket = tz_store_compact(d->store);

	WAIT_FOR(NOW(d->stats->compact_done) >= ticket, "compaction does not end");
}

/* What the arena holds is what the counters say, once the housekeeper is done. */
static inline void check_counts(struct device *d)
{
	compact(d);
	struct tz_check_problem first;
	struct tz_check c = { .problems = &first, .room = 1, .live = 1 };
	struct tz_stats_sum sum = sum_of(d->stats);
	char why[216];

	CHECK(tz_check_arena(d->fd, &c, why, sizeof why) == 0, "%s", why);
	CHECK(c.nr_problems == 0, "page %llu: %s", (unsigned long long)first.page, first.what);
	CHECK(c.pages == (uint64_t)sum.total.pages_now, "%llu pages, counted %lld",
		(unsigned long long)c.pages, (long long)sum.total.pages_now);
	CHECK(c.dup_pages == (uint64_t)sum.total.dup_pages_now, "%llu duplicates, counted %lld",
		(unsigned long long)c.dup_pages, (long long)sum.total.dup_pages_now);
	CHECK(c.payload_bytes == (uint64_t)sum.total.compr_bytes_now &&
			c.object_bytes == (uint64_t)sum.total.object_bytes_now,
		"%llu bytes, counted %lld; %llu taken, counted %lld",
		(unsigned long long)c.payload_bytes, (long long)sum.total.compr_bytes_now,
		(unsigned long long)c.object_bytes, (long long)sum.total.object_bytes_now);
	int64_t by_kind = 0;
	for (unsigned kind = 0; kind < TZ_KINDS_COUNTED; kind++)
		by_kind += sum.total.kind_bytes_now[kind];
	CHECK(by_kind == sum.total.object_bytes_now, "%lld bytes by kind, %lld of objects",
		(long long)by_kind, (long long)sum.total.object_bytes_now);
	CHECK(c.group_pages == (uint64_t)sum.total.kind_pages_now[TZ_KIND_GROUP],
		"%llu in groups, counted %lld", (unsigned long long)c.group_pages,
		(long long)sum.total.kind_pages_now[TZ_KIND_GROUP]);
}

#endif
