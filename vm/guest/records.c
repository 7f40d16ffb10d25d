/*
 * vm-records DEVICE SLOTS FIRST: writes records of 4 KiB for ever, numbered from FIRST, number n to
 * slot n % SLOTS, sixteen at a time by Linux AIO with O_DIRECT, and flushes after each sixteen. It says
 * "flushed N" once all up to N are flushed: whatever happens then, they must be there.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RECORD = 4096, BATCH = 16 };

static char buffers[BATCH][RECORD] __attribute__((aligned(RECORD)));

static void fill(char *buffer, uint64_t number)
{
    for (size_t at = 0; at < RECORD; at += 16) {
        memcpy(buffer + at, "laio-rec", 8);
        memcpy(buffer + at + 8, &number, 8);
    }
}

static void write_batch(aio_context_t context, int fd, uint64_t first, uint64_t slots)
{
    struct iocb iocbs[BATCH];
    struct iocb *list[BATCH];
    struct io_event events[BATCH];

    memset(iocbs, 0, sizeof(iocbs));
    for (unsigned i = 0; i < BATCH; i++) {
        fill(buffers[i], first + i);
        iocbs[i].aio_lio_opcode = IOCB_CMD_PWRITE;
        iocbs[i].aio_fildes = fd;
        iocbs[i].aio_buf = (uintptr_t)buffers[i];
        iocbs[i].aio_nbytes = RECORD;
        iocbs[i].aio_offset = (first + i) % slots * RECORD;
        list[i] = &iocbs[i];
    }
    if (syscall(SYS_io_submit, context, BATCH, list) != BATCH ||
        syscall(SYS_io_getevents, context, BATCH, BATCH, events, NULL) != BATCH) {
        perror("vm-records: aio");
        exit(1);
    }
    for (unsigned i = 0; i < BATCH; i++) {
        if (events[i].res != RECORD) {
            fprintf(stderr, "vm-records: a write ended with %lld\n", (long long)events[i].res);
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    aio_context_t context = 0;

    if (argc != 4) {
        fprintf(stderr, "usage: vm-records DEVICE SLOTS FIRST\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    uint64_t slots = strtoull(argv[2], NULL, 10);
    uint64_t number = strtoull(argv[3], NULL, 10);
    if (fd < 0 || slots < BATCH || syscall(SYS_io_setup, BATCH, &context) < 0) {
        perror("vm-records");
        return 1;
    }
    for (;; number += BATCH) {
        write_batch(context, fd, number, slots);
        if (fdatasync(fd) < 0) {
            perror("vm-records: fdatasync");
            return 1;
        }
        printf("flushed %llu\n", (unsigned long long)(number + BATCH - 1));
        fflush(stdout);
    }
}
