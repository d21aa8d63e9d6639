/* fuzz.h - a fuzzer's main without libFuzzer (FUZZ_STANDALONE): runs the files in the directories
 * named to it once, which are the saved seeds. Included once per program, after CHECK. */
#ifndef TZ_FUZZ_H
#define TZ_FUZZ_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#if defined(FUZZ_STANDALONE)
static unsigned run_file(const char *path)
{
	static uint8_t data[1 << 16];
	FILE *f = fopen(path, "rb");
	size_t n;

	CHECK(f, "cannot open %s", path);
	n = fread(data, 1, sizeof(data), f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, n);
	return 1;
}

int main(int argc, char **argv)
{
	unsigned files = 0;

	for (int i = 1; i < argc; i++) {
		DIR *dir = opendir(argv[i]);
		char path[4096];
		CHECK(dir, "%s is not a directory", argv[i]);
		for (struct dirent *entry; (entry = readdir(dir));) {
			if (entry->d_name[0] == '.')
				continue;
			snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
			files += run_file(path);
		}
		closedir(dir);
	}
	CHECK(files, "no seeds: name a directory that holds some");
	printf("%u seeds\n", files);
	return 0;
}
#endif

#endif
