/* Writes who runs this guest into its disk, so that two copies running at once leave evidence.

   stamper FILE INCARNATION HOST BOOT PERIOD_MS

   FILE is a row of 512-byte records, filled with dots when the disk was made and therefore already allocated: a stamp
   overwrites one record in place and changes nothing else, neither in the file system nor in the qcow2 file. Reads and
   writes go past the page cache. Each stamp goes into the first record that is still free on the disk at that moment;
   so a second copy of the guest does not cover the first one's stamps but lands between them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RECORD_BYTES 512
#define FREE '.'

static char *record;
static int file;

static int is_free(off_t index)
{
	if (pread(file, record, RECORD_BYTES, index * RECORD_BYTES) != RECORD_BYTES) {
		perror("stamper: read");
		exit(1);
	}
	return record[0] == FREE;
}

/* Records are taken from the front, so the first free one is found by halving. */
static off_t first_free(off_t count)
{
	off_t low = 0, high = count;
	while (low < high) {
		off_t middle = low + (high - low) / 2;
		if (is_free(middle))
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

int main(int argc, char **argv)
{
	struct stat status;
	if (argc != 6) {
		fprintf(stderr, "stamper FILE INCARNATION HOST BOOT PERIOD_MS\n");
		return 2;
	}
	file = open(argv[1], O_RDWR | O_DIRECT | O_DSYNC);
	if (file < 0 || fstat(file, &status) != 0 || posix_memalign((void **)&record, 4096, RECORD_BYTES) != 0) {
		perror("stamper");
		return 1;
	}
	off_t count = status.st_size / RECORD_BYTES;
	off_t index = first_free(count);
	long period_ms = atol(argv[5]);
	struct timespec period = {period_ms / 1000, period_ms % 1000 * 1000000};
	for (unsigned long counter = 1;; counter++) {
		while (index < count && !is_free(index))
			index++;
		if (index == count) {
			fprintf(stderr, "stamper: the file is full\n");
			return 1;
		}
		memset(record, ' ', RECORD_BYTES);
		int length = snprintf(record, RECORD_BYTES, "%s %s %s %lu", argv[2], argv[3], argv[4], counter);
		record[length < RECORD_BYTES ? length : RECORD_BYTES - 1] = ' ';
		record[RECORD_BYTES - 1] = '\n';
		if (pwrite(file, record, RECORD_BYTES, index * RECORD_BYTES) != RECORD_BYTES) {
			perror("stamper: write");
			return 1;
		}
		nanosleep(&period, NULL);
	}
}
