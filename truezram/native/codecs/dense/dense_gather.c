/* dense_gather.c - training statistics of the dense codec; a program, built and run by
 * make_dense_tables.py --gather.
 *
 * usage: dense_gather FILE...   (raw 4096-byte pages)
 *
 * Parses every page that is not same-filled as the encoder does, counts each class's symbols per
 * page, and sorts the pages' counts into as many clusters as the class has tables (k-means; the
 * distance is the cost of coding the page with the cluster's statistics). Prints each cluster's
 * counts. Deterministic.
 */
#define DN_GATHER
#include "dense.c"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct sample {
	/* literals: as they are, and as differences; other classes use the first only */
	uint16_t count[2][256];
};

static struct sample *samples[DN_CLASSES];
static size_t n_samples;
static const char *const names[DN_CLASSES] = { "W", "M", "L" };

/* The tables are trained for the AVX-512 body; the others' choices differ little. */
#if defined(TZ_X86)
#define PARSE avx512_parse
#define SYMBOLIZE avx512_symbolize
#define SYMBOLS struct avx512_symbols
#else
#define PARSE portable_parse
#define SYMBOLIZE portable_symbolize
#define SYMBOLS struct portable_symbols
#endif

static void count(uint16_t *counts, const uint8_t *symbols, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		counts[symbols[i]]++;
}

static void add_page(struct dn_encoder *e, const uint8_t *page)
{
	static size_t room;

	if (n_samples == room) {
		room += 4096;
		for (unsigned c = 0; c < DN_CLASSES; c++) {
			samples[c] = realloc(samples[c], room * sizeof(struct sample));
			if (!samples[c]) {
				fputs("out of memory\n", stderr);
				exit(1);
			}
		}
	}
	PARSE(e, page);
	SYMBOLS s = SYMBOLIZE(e);
	struct sample *at[DN_CLASSES];
	for (unsigned c = 0; c < DN_CLASSES; c++)
		at[c] = memset(&samples[c][n_samples], 0, sizeof(struct sample));
	count(at[DN_W]->count[0], e->sym, DN_GROUPS);
	count(at[DN_M]->count[0], e->sym + DN_GROUPS, s.masks);
	count(at[DN_L]->count[0], e->lit[0], s.literals);
	count(at[DN_L]->count[1], e->lit[1], s.literals);
	n_samples++;
}

static int same_filled(const uint8_t *page)
{
	return !memcmp(page, page + 8, TZ_PAGE_SIZE - 8);
}

static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 33);
}

static void set_prices(const double *counts, float *price)
{
	double sum = 0;

	for (unsigned i = 0; i < 256; i++)
		sum += counts[i];
	for (unsigned i = 0; i < 256; i++) {
		double p = (counts[i] + sum * 1e-6 + 0.02) / (sum * (1 + 256e-6) + 256 * 0.02),
		       bits = -log2(p);

		price[i] = (float)(bits > DN_MAX_BITS ? DN_MAX_BITS : bits < 1 ? 1 : bits);
	}
}

static float page_cost(const uint16_t *counts, const float *price)
{
	float cost = 0;

	for (unsigned i = 0; i < 256; i++)
		cost += (float)counts[i] * price[i];
	return cost;
}

/* One run of k-means from random pages. Returns the cost in bits; sums[k] is the counts of cluster
 * k. */
static double cluster(unsigned class, uint64_t seed, double (*sums)[256])
{
	unsigned k = DN_TABLES_EACH, sides = class == DN_L ? 2 : 1;
	static float price[64][256];
	double total = 0;

	for (unsigned t = 0; t < k; t++) {
		for (unsigned i = 0; i < 256; i++)
			sums[t][i] = 0.05;
		for (unsigned j = 0; j < 4; j++) {
			struct sample *s = &samples[class][next_random(&seed) % n_samples];

			for (unsigned i = 0; i < 256; i++)
				sums[t][i] += s->count[t % sides][i];
		}
		set_prices(sums[t], price[t]);
	}
	for (unsigned round = 0; round < 16; round++) {
		float worst = -1;
		size_t worst_page = 0;

		memset(sums, 0, k * sizeof(*sums));
		total = 0;
		for (size_t p = 0; p < n_samples; p++) {
			unsigned best = 0, best_side = 0;
			float best_cost = INFINITY;

			for (unsigned side = 0; side < sides; side++) {
				for (unsigned t = 0; t < k; t++) {
					float cost = page_cost(samples[class][p].count[side],
						price[t]);

					if (cost < best_cost)
						best_cost = cost, best = t, best_side = side;
				}
			}
			for (unsigned i = 0; i < 256; i++)
				sums[best][i] += samples[class][p].count[best_side][i];
			total += best_cost;
			if (best_cost > worst)
				worst = best_cost, worst_page = p;
		}
		for (unsigned t = 0; t < k; t++) {
			double sum = 0;

			for (unsigned i = 0; i < 256; i++)
				sum += sums[t][i];
			if (sum == 0 && round < 12) /* empty: start again where it helps most */
				for (unsigned i = 0; i < 256; i++)
					sums[t][i] = samples[class][worst_page].count[0][i];
			set_prices(sums[t], price[t]);
		}
	}
	return total;
}

int main(int argc, char **argv)
{
	static uint8_t page[TZ_PAGE_SIZE];
	struct dn_encoder *e = aligned_alloc(64, (sizeof(*e) + 63) & ~63ul);
	static double sums[64][256], least[64][256];

	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb");
		size_t before = n_samples;

		if (!f || !e) {
			perror(argv[i]);
			return 1;
		}
		while (fread(page, sizeof(page), 1, f) == 1)
			if (!same_filled(page))
				add_page(e, page);
		fclose(f);
		printf("pages %zu %s\n", n_samples - before, argv[i]);
	}
	if (!n_samples)
		return fputs("usage: dense_gather FILE...\n", stderr), 2;
	for (unsigned c = 0; c < DN_CLASSES; c++) {
		double least_cost = INFINITY;

		for (unsigned seed = 1; seed <= (c == DN_L ? 3 : 4); seed++) {
			double cost = cluster(c, seed, sums);

			if (cost < least_cost) {
				least_cost = cost;
				memcpy(least, sums, sizeof(sums));
			}
		}
		fprintf(stderr, "%s: %.1f bytes a page\n", names[c],
			least_cost / 8 / (double)n_samples);
		for (unsigned t = 0; t < DN_TABLES_EACH; t++) {
			printf("%s %u", names[c], t);
			for (unsigned i = 0; i < 256; i++)
				printf(" %.0f", least[t][i]);
			putchar('\n');
		}
	}
	return 0;
}
