/* block.h - what sysfs says of a disk, and is told. */
#ifndef TZ_BLOCK_H
#define TZ_BLOCK_H

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Opens a file of /sys/block/KINDindex. Its descriptor, or -1 with errno. */
static inline int tz_block_open(const char *kind, unsigned index, const char *file, int flags)
{
	char path[80];

	snprintf(path, sizeof path, "/sys/block/%s%u/%s", kind, index, file);
	return open(path, flags | O_CLOEXEC);
}

/* Sets what this kernel can set. */
static inline void tz_block_set(const char *kind, unsigned index, const char *file, unsigned value)
{
	char text[16];
	int fd = tz_block_open(kind, index, file, O_WRONLY),
		length = snprintf(text, sizeof text, "%u", value);

	if (fd >= 0) {
		(void)!write(fd, text, (size_t)length);
		close(fd);
	}
}

#endif
