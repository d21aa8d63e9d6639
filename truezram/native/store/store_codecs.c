/* store_codecs.c - which codec a device's pages are written with, and what each thread needs to
 * read those of every kind.
 *
 * Changing the algorithm of a live device: workspaces for it are made and locked by the control
 * thread, published per thread, and the old ones freed after every thread has been outside
 * tz_store_begin/end once. So is zstd's dictionary, which all threads share: it is digested for one
 * level, and stays for as long as the device does, to read what it has made.
 */
#include "store_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

void *tz_store_map_locked(
	size_t size, const char *what, const char *reason, int *err, char *why, size_t why_size)
{
	void *memory = MAP_FAILED;

	*err = size ? -ENOMEM : -ENOTSUP;
	if (size)
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	else
		snprintf(why, why_size, "algorithm %s is not available: %s", what, reason);
	if (size && memory == MAP_FAILED)
		snprintf(why, why_size, "no memory for the workspace of %s (%zu KiB)%s", what,
			size >> 10, errno == EAGAIN ? ": it cannot be locked" : "");
	if (memory == MAP_FAILED)
		return NULL;
	mlock(memory, size);		/* the server reports whether its memory is locked */
	return memory;
}

/* `dictionary`: of the codec, NULL: none. */
static int make_workspace(const struct tz_codec *codec, int level,
	const struct tz_dictionary *dictionary, struct tz_workspace *w, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t size;
	int rc;

	*w = (struct tz_workspace){ 0 };
	if (!codec->workspace_size)
		return 0;
	size = dictionary ? tz_dictionary_workspace_size(dictionary, &reason)
			  : codec->workspace_size(level, &reason);
	w->memory = tz_store_map_locked(size, codec->name, reason, &rc, why, why_size);
	if (!w->memory)
		return rc;
	w->size = size;
	rc = dictionary ? tz_dictionary_workspace_init(dictionary, w->memory, size, &reason)
			: codec->workspace_init(w->memory, size, level, &reason);
	if (rc < 0) {
		snprintf(why, why_size, "cannot prepare %s: %s", codec->name, reason);
		munmap(w->memory, size);
		w->memory = NULL;
		return -EIO;
	}
	return 0;
}

static void free_dictionary(struct tz_dictionary *d)
{
	if (d)
		munmap(d, tz_dictionary_memory(d));
}

/* A dictionary digested for a level. NULL with *err and why. */
static struct tz_dictionary *make_dictionary(
	const void *bytes, size_t n, int level, int *err, char *why, size_t why_size)
{
	const char *reason = "unknown reason";
	size_t size = tz_dictionary_size(n, level, &reason);
	void *memory = tz_store_map_locked(size, "zstd", reason, err, why, why_size);

	if (!memory)
		return NULL;
	if (tz_dictionary_init(memory, size, bytes, n, level, &reason))
		return memory;
	snprintf(why, why_size, "cannot use the dictionary: %s", reason);
	munmap(memory, size);
	*err = -EINVAL;
	return NULL;
}

/* Replaces a thread's set; returns once the old one is in nobody's hands, and frees it. */
static void publish_set(struct tz_store_thread *t, struct tz_codec_set *set)
{
	struct tz_codec_set *old = atomic_exchange(&t->set, set);

	tz_store_wait_outside(&t->turns, NULL);
	free(old);
}

/* The threads that have codecs: those of the callers, and the housekeeper. */
static unsigned nr_users(const struct tz_store *s)
{
	return s->nr_threads + 1;
}

static struct tz_store_thread *user(const struct tz_store *s, unsigned i)
{
	return &s->threads[i < s->nr_threads ? i : s->nr_threads + TZ_HOUSEKEEPER];
}

/* An algorithm as it is to be used. */
struct choice {
	const struct tz_codec *codec;
	int level;
	struct tz_dictionary *dictionary;		/* digested for the level; NULL: none */
};

/* What set_algorithm needs for one thread, made before anything is changed. */
struct switching {
	struct tz_codec_set *decoding, *encoding;
	struct tz_workspace workspace;
};

static int prepare_switch(struct tz_store_thread *t, const struct choice *c, struct switching *w,
	char *why, size_t why_size)
{
	const struct tz_codec_set *now = atomic_load(&t->set);
	const struct tz_codec *codec = c->codec;
	int rc = make_workspace(codec, c->level, c->dictionary, &w->workspace, why, why_size);

	if (rc < 0)
		return rc;
	w->decoding = malloc(sizeof *w->decoding);
	w->encoding = malloc(sizeof *w->encoding);
	if (!w->decoding || !w->encoding) {
		snprintf(why, why_size, "no memory for codec state");
		return -ENOMEM;
	}
	*w->decoding = now ? *now : (struct tz_codec_set){ 0 };
	w->decoding->by_kind[codec->kind] = w->workspace;
	if (!now ||
		now->encoder ==
			codec) {	/* another level: encoder and decoder share the workspace */
		w->decoding->encoder = codec;
		w->decoding->encoder_workspace = w->workspace.memory;
	}
	*w->encoding = *w->decoding;
	w->encoding->encoder = codec;
	w->encoding->encoder_workspace = w->workspace.memory;
	return 0;
}

static void abandon_switch(struct switching *w)
{
	if (w->workspace.memory)
		munmap(w->workspace.memory, w->workspace.size);
	free(w->decoding);
	free(w->encoding);
}

/* What `algorithm` means for a device with this dictionary of n bytes (NULL: none): zstd is zstd
 * with it. 0 or negative errno. */
static int choose(const char *algorithm, const void *dictionary, size_t n, struct choice *c,
	char *why, size_t why_size)
{
	int err;

	*c = (struct choice){ 0 };
	c->codec = tz_parse_algorithm(algorithm, &c->level, why, why_size);
	if (!c->codec)
		return -EINVAL;
	if (c->codec->kind != TZ_KIND_ZSTD || !dictionary)
		return 0;
	c->codec = tz_codec_by_kind(TZ_KIND_ZSTD_DICT);
	c->dictionary = make_dictionary(dictionary, n, c->level, &err, why, why_size);
	return c->dictionary ? 0 : err;
}

/* In two steps, so that no thread meets an object it cannot decode yet: first every thread can
 * decode it, then they begin to make it. */
static void switch_threads(struct tz_store *s, const struct tz_codec *codec, struct switching *w)
{
	for (unsigned i = 0; i < nr_users(s); i++) {
		const struct tz_codec_set *now = atomic_load(&user(s, i)->set);
		struct tz_workspace gone = now ? now->by_kind[codec->kind]
					       : (struct tz_workspace){ 0 };
		publish_set(user(s, i), w[i].decoding);
		if (gone.memory)
			munmap(gone.memory, gone.size);
	}
	for (unsigned i = 0; i < nr_users(s); i++)
		publish_set(user(s, i), w[i].encoding);
}

/* ---- what others than the algorithm in force need ---- */

int tz_store_add_decoder(
	struct tz_store *s, const struct tz_codec *codec, char *why, size_t why_size)
{
	int rc = 0;

	for (unsigned i = 0; i < nr_users(s) && rc == 0 && codec->workspace_size; i++) {
		const struct tz_codec_set *now = atomic_load(&user(s, i)->set);
		struct tz_codec_set *more;
		if (tz_codec_set_workspace(now, codec->kind))
			continue;
		more = malloc(sizeof *more);
		if (!more) {
			snprintf(why, why_size, "no memory for codec state");
			return -ENOMEM;
		}
		*more = *now;
		rc = make_workspace(codec, codec->level_min, NULL, &more->by_kind[codec->kind], why,
			why_size);
		if (rc == 0)
			publish_set(user(s, i), more);
		else
			free(more);
	}
	return rc;
}

struct tz_codec_set *tz_store_make_set(struct tz_store *s, const struct tz_codec *codec, int level,
	int *err, char *why, size_t why_size)
{
	const struct tz_codec_set *now = atomic_load(&s->threads[0].set);
	struct tz_codec_set *set = calloc(1, sizeof *set);

	*err = set ? 0 : -ENOMEM;
	if (!set)
		snprintf(why, why_size, "no memory for codec state");
	for (unsigned kind = TZ_KIND_RAW + 1; kind < TZ_KINDS_STORED && *err == 0; kind++) {
		const struct tz_codec *reads = tz_codec_by_kind(kind);
		int is_encoder = kind == codec->kind;
		if (!tz_kind_is_stored(kind) || kind == TZ_KIND_ZSTD_DICT || !reads ||
			(!is_encoder && !tz_codec_set_workspace(now, kind)))
			continue;
		*err = make_workspace(reads, is_encoder ? level : reads->level_min, NULL,
			&set->by_kind[kind], why, why_size);
	}
	if (*err < 0) {
		tz_store_free_set(set);
		return NULL;
	}
	set->encoder = codec;
	set->encoder_workspace = set->by_kind[codec->kind].memory;
	return set;
}

void tz_store_free_set(struct tz_codec_set *set)
{
	for (unsigned k = 0; set && k < TZ_KINDS; k++)
		if (set->by_kind[k].memory)
			munmap(set->by_kind[k].memory, set->by_kind[k].size);
	free(set);
}

static void show_algorithm(struct tz_store *s, const char *algorithm, const struct tz_codec *codec)
{
	struct tz_stats *head = s->stats;
	size_t n = 0;

	tz_stats_head_begin(head);
	tz_stats_set_text(head->algorithm, sizeof head->algorithm, algorithm);
	TZ_STATS_SET(head->isa, codec->isa);
	if (s->dictionary) {
		tz_dictionary_bytes(s->dictionary, &n);
		TZ_STATS_SET(head->dictionary_id, tz_dictionary_id(s->dictionary));
		TZ_STATS_SET(
			head->dictionary_memory, (uint32_t)tz_dictionary_memory(s->dictionary));
	}
	TZ_STATS_SET(head->dictionary_size, (uint32_t)n);
	tz_stats_head_end(head);
}

int tz_store_switch_algorithm(struct tz_store *s, const char *algorithm, const void *dictionary,
	size_t n, char *why, size_t why_size)
{
	struct switching w[TZ_MAX_QUEUES + 1] = { 0 };
	struct choice c;
	int rc = choose(algorithm, dictionary, n, &c, why, why_size);

	for (unsigned i = 0; i < nr_users(s) && rc == 0; i++)
		rc = prepare_switch(user(s, i), &c, &w[i], why, why_size);
	if (rc < 0) {
		for (unsigned i = 0; i < nr_users(s); i++)
			abandon_switch(&w[i]);
		free_dictionary(c.dictionary);
		return rc;
	}
	switch_threads(s, c.codec, w);
	if (c.dictionary) {		/* the workspaces that used the last one are gone */
		free_dictionary(s->dictionary);
		s->dictionary = c.dictionary;
	}
	show_algorithm(s, algorithm, c.codec);
	return 0;
}

/* Whether the codec of this kind needs a workspace that the algorithm in force does not bring. */
static int lacks_decoder(unsigned kind, const struct tz_codec *in_force)
{
	const struct tz_codec *codec = tz_codec_by_kind(kind);

	if (!codec || !codec->workspace_size || kind == in_force->kind)
		return 0;
	return in_force->kind != TZ_KIND_AUTO || (kind != TZ_KIND_FAST && kind != TZ_KIND_DENSE);
}

int tz_store_attach_codecs(struct tz_store *s, const int64_t kinds[TZ_KINDS],
	const void *dictionary, size_t n, char *why, size_t why_size)
{
	const char *algorithm = s->arena.head.algorithm;
	int level, rc = 0;
	const struct tz_codec *in_force = tz_parse_algorithm(algorithm, &level, why, why_size);

	if (!in_force)
		return -EINVAL;
	/* (With a dictionary it is digested even if nothing has been compressed with it: the device
	 * has it for when zstd is chosen.) */
	if (dictionary)
		rc = tz_store_switch_algorithm(s, "zstd", dictionary, n, why, why_size);
	for (unsigned kind = 0; kind < TZ_KINDS_STORED && rc == 0; kind++)
		if (kinds[kind] && kind != TZ_KIND_ZSTD_DICT && lacks_decoder(kind, in_force))
			rc = tz_store_switch_algorithm(
				s, tz_codec_by_kind(kind)->name, NULL, 0, why, why_size);
	if (rc == 0)
		rc = tz_store_switch_algorithm(s, algorithm, dictionary, n, why, why_size);
	return rc;
}

int tz_store_set_algorithm(struct tz_store *s, const char *algorithm, char *why, size_t why_size)
{
	size_t n = 0;
	const void *dictionary = s->dictionary ? tz_dictionary_bytes(s->dictionary, &n) : NULL;
	int rc = tz_store_switch_algorithm(s, algorithm, dictionary, n, why, why_size);

	if (rc < 0)
		return rc;
	snprintf(s->arena.head.algorithm, sizeof s->arena.head.algorithm, "%s", algorithm);
	tz_arena_write_head(&s->arena);
	return 0;
}

/* That there is such an algorithm, and that it has a use for the dictionary, if there is one. 0 or
 * -EINVAL. */
int tz_store_check_algorithm(const struct tz_store_config *c, char *why, size_t why_size)
{
	int level;
	const struct tz_codec *codec = tz_parse_algorithm(c->algorithm, &level, why, why_size);

	if (!codec)
		return -EINVAL;
	if (!c->dictionary || codec->kind == TZ_KIND_ZSTD)
		return 0;
	snprintf(why, why_size,
		"algorithm \"%s\" has no use for a dictionary. Use zstd, or no dictionary",
		codec->name);
	return -EINVAL;
}

void tz_store_free_codecs(struct tz_store *s)
{
	for (unsigned i = 0; s->threads && i < nr_users(s); i++)
		tz_store_free_set(atomic_load(&user(s, i)->set));
	free_dictionary(s->dictionary);
}
