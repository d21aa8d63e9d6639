/* users.c - swap areas on a block device and on what is on top of it (interface: users.h).
 *
 * Names prove nothing: one device has any number of nodes, and /proc/swaps has the one that swapon
 * was given. So the files that /proc/swaps names are compared by device number with the disk, its
 * partitions (folders in the disk's sysfs folder with a file "partition"), and the holders of all
 * of these (sysfs "holders"; a loop device is not one, it says what it is on in loop/backing_file).
 */
#include "users.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAX_DEVICES 256

struct devices {
	dev_t number[MAX_DEVICES];
	unsigned n;
};

static int has(const struct devices *d, dev_t number)
{
	for (unsigned i = 0; i < d->n; i++)
		if (d->number[i] == number)
			return 1;
	return 0;
}

static void add(struct devices *d, dev_t number)
{
	if (number && d->n < MAX_DEVICES && !has(d, number))
		d->number[d->n++] = number;
}

static dev_t number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned major, minor;
	int fields = f ? fscanf(f, "%u:%u", &major, &minor) : 0;

	if (f)
		fclose(f);
	return fields == 2 ? makedev(major, minor) : 0;
}

dev_t tz_disk_number(const char *name)
{
	char path[300];

	snprintf(path, sizeof path, "/sys/class/block/%.200s/dev", name);
	return number_in(path);
}

/* Adds the devices that entries of a sysfs folder name. `must_have`: only those with that file in
 * them. */
static void add_entries(struct devices *d, const char *folder, const char *must_have)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	char path[600];

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		if (must_have) {
			snprintf(path, sizeof path, "%s/%s/%s", folder, entry->d_name, must_have);
			if (access(path, F_OK) < 0)
				continue;
		}
		snprintf(path, sizeof path, "%s/%s/dev", folder, entry->d_name);
		add(d, number_in(path));
	}
	if (dir)
		closedir(dir);
}

/* Loop devices on one of the devices, or on a file of a filesystem that is directly on one. */
static void add_loops(struct devices *d)
{
	DIR *dir = opendir("/sys/class/block");
	struct dirent *entry;
	char path[600], file[PATH_MAX];
	struct stat st;

	while (dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "loop", 4))
			continue;
		snprintf(path, sizeof path, "/sys/class/block/%s/loop/backing_file", entry->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(file, sizeof file, f)) {
			file[strcspn(file, "\n")] = 0;
			if (stat(file, &st) == 0 &&
			    has(d, S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev))
				add(d, tz_disk_number(entry->d_name));
		}
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
}

/* Partitions and holders. */
static void add_children(struct devices *d, dev_t parent)
{
	unsigned major = major(parent), minor = minor(parent);
	char folder[64];

	snprintf(folder, sizeof folder, "/sys/dev/block/%u:%u", major, minor);
	add_entries(d, folder, "partition");
	snprintf(folder, sizeof folder, "/sys/dev/block/%u:%u/holders", major, minor);
	add_entries(d, folder, NULL);
}

static void find_devices(struct devices *d, dev_t disk)
{
	unsigned i = 0;

	d->n = 0;
	add(d, disk);
	do {
		for (; i < d->n; i++)	/* the list grows meanwhile: holders of holders */
			add_children(d, d->number[i]);
		add_loops(d);
	} while (i < d->n);
}

/* /proc/swaps writes blanks, backslashes and line ends as \ooo, and marks a name that is gone. Cuts
 * the line after the name; returns what follows it. */
static char *unescape(char *line)
{
	static const char gone[] = "(deleted)";
	char *from = line, *to = line;

	while (*from && *from != ' ' && *from != '\t') {
		if (from[0] == '\\' && from[1] && from[2] && from[3]) {
			*to++ =
				(char)((from[1] - '0') << 6 | (from[2] - '0') << 3 |
				(from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	if (*from)
		from++;
	*to = 0;
	size_t n = strlen(line), m = sizeof gone - 1;
	if (n > m + 1 && !strcmp(line + n - m, gone) && line[n - m - 1] == ' ')
		line[n - m - 1] = 0;
	return from;
}

static int is_on(const struct devices *d, const char *path, const char *name)
{
	struct stat st;

	if (stat(path, &st) == 0)
		return has(d, S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev);
	return !strncmp(path, "/dev/", 5) && !strcmp(path + 5, name);
}

unsigned tz_swap_areas(dev_t disk, const char *name, struct tz_swap_area *out, unsigned most)
{
	struct devices d;	/* 2 KiB */
	FILE *f = fopen("/proc/swaps", "re");
	char line[1200];
	unsigned n = 0;

	find_devices(&d, disk);
	while (f && fgets(line, sizeof line, f)) {
		unsigned long long used = 0;
		char *rest = unescape(line);
		if (line[0] != '/' || sscanf(rest, "%*s %*u %llu", &used) != 1 ||
		    !is_on(&d, line, name))
			continue;
		if (n < most) {
			out[n].used = (uint64_t)used << 10;
			snprintf(out[n].path, sizeof out[n].path, "%s", line);
		}
		n++;
	}
	if (f)
		fclose(f);
	return n;
}

/* A number in a file of the device's sysfs folder. 0, or -1: there is none. */
static int sysfs_number(dev_t device, const char *file, uint64_t *out)
{
	char path[80];
	unsigned long long n;

	snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device), minor(device), file);
	FILE *f = fopen(path, "re");
	int fields = f ? fscanf(f, "%llu", &n) : 0;
	if (f)
		fclose(f);
	*out = fields == 1 ? n : 0;
	return fields == 1 ? 0 : -1;
}

int tz_area_on_disk(dev_t disk, const char *path, uint64_t *first, uint64_t *sectors)
{
	char parent[64];
	struct stat st;

	*first = 0;
	if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
		return -1;
	if (st.st_rdev != disk) {
		snprintf(parent, sizeof parent, "/sys/dev/block/%u:%u/../dev", major(st.st_rdev),
			minor(st.st_rdev));
		if (number_in(parent) != disk || sysfs_number(st.st_rdev, "start", first) < 0)
			return -1;
	}
	return sysfs_number(st.st_rdev, "size", sectors);
}
