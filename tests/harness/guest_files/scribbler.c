/* Writes to the guest's memory over and over, so that a copy of it is never up to date.

   scribbler MIB PERIOD_MS

   Each round writes a word into every page of MIB mebibytes, other than the round before and never zero (a page of zeros
   costs a migration nothing), then waits. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 4096

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "scribbler MIB PERIOD_MS\n");
		return 2;
	}
	size_t bytes = strtoul(argv[1], NULL, 10) << 20;
	long period_ms = atol(argv[2]);
	struct timespec period = {period_ms / 1000, period_ms % 1000 * 1000000};
	volatile char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("scribbler");
		return 1;
	}
	for (unsigned long round = 1;; round++) {
		for (size_t at = 0; at < bytes; at += PAGE_BYTES)
			*(volatile unsigned long *)(memory + at) = round;
		nanosleep(&period, NULL);
	}
}
