// SPDX-License-Identifier: Apache-2.0
/*
 * Replaces adf_ctl, the program of Intel's out-of-tree QAT stack that reports which devices are
 * up. Like the original, it is a program of the host, linked with the host's libraries, and queries
 * the kernel through /dev/qat_adf_ctl. The answer is in a file of the look-alike host's sysfs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NODE "/dev/qat_adf_ctl"
#define ANSWER "/host/sys/kernel/debug/adf_ctl"

int main(int argc, char **argv)
{
	char buffer[4096];
	size_t n;
	FILE *answer;

	if (argc != 2 || strcmp(argv[1], "status") != 0) {
		fprintf(stderr, "usage: adf_ctl status\n");
		return 2;
	}
	if (open(NODE, O_WRONLY) < 0) {
		perror("Failed to open " NODE);
		return 1;
	}
	answer = fopen(ANSWER, "r");
	if (!answer) {
		perror("Failed to open " ANSWER);
		return 1;
	}
	while ((n = fread(buffer, 1, sizeof(buffer), answer)) > 0)
		fwrite(buffer, 1, n, stdout);
	return 0;
}
