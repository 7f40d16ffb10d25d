/*
 * A C hypervisor's disk layer, in a shared library of its own: its laio_* work synchronously, with
 * pread(2) and pwrite(2).
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef HYPERVISOR_DISK_H
#define HYPERVISOR_DISK_H

#include <laio.h>

/* How many requests its own laio_co_submit has served. */
long disk_own_requests(void);

/* Reads and writes through laio_*, as the rest of the library does: by the dynamic linker. */
LinuxAioState *disk_open(AioContext *context);
void disk_close(LinuxAioState *state, AioContext *context);
int disk_transfer(int fd, int type, uint64_t offset, void *buffer, size_t size);

#endif
