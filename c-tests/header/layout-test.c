/*
 * The layouts that QEMU and the library must agree on.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <laio.h>

#include <stdio.h>
#include <string.h>

static int failed;
static int number;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        int ok = (condition);                                                                      \
        failed |= !ok;                                                                             \
        printf("%s %d - %s\n", ok ? "ok" : "not ok", ++number, #condition);                        \
    } while (0)

int main(void)
{
    CHECK(offsetof(QEMUIOVector, iov) == 0);
    CHECK(offsetof(QEMUIOVector, niov) == sizeof(void *));
    CHECK(offsetof(QEMUIOVector, size) == offsetof(QEMUIOVector, local_iov.iov_len));
    CHECK(offsetof(QEMUIOVector, local_iov) == offsetof(QEMUIOVector, nalloc) + sizeof(void *));
    CHECK(sizeof(((QEMUIOVector *)0)->size) == sizeof(size_t));
    CHECK(offsetof(LaioHostOps, size) == 0);
    CHECK(offsetof(LaioHostOps, bh_new) == sizeof(size_t));
    CHECK(sizeof(LaioHostOps) == offsetof(LaioHostOps, log) + sizeof(void *));
    CHECK(offsetof(LaioStats, size) == 0);
    CHECK(sizeof(LaioStats) == 16 * sizeof(uint64_t));
    CHECK(LAIO_VERSION == laio_version());
    char version[32];
    snprintf(version, sizeof(version), "%u.%u.%u", laio_version() / 10000,
             laio_version() / 100 % 100, laio_version() % 100);
    CHECK(strcmp(version, LAIO_VERSION_STRING) == 0);
    CHECK(QEMU_AIO_READ == 0x1 && QEMU_AIO_WRITE == 0x2);
    CHECK(QEMU_AIO_FLUSH == 0x8 && QEMU_AIO_ZONE_APPEND == 0x400);
    CHECK(BDRV_REQ_FUA == 0x10);
    /* A vector of one part is its own array, and its size the part's. */
    char buffer[100];
    QEMUIOVector one = {.niov = 1};
    one.iov = &one.local_iov;
    one.nalloc = -1;
    one.local_iov = (struct iovec){buffer, sizeof(buffer)};
    CHECK(one.size == sizeof(buffer));
    CHECK(one.iov[0].iov_len == one.size);
    printf("1..%d\n", number);
    return failed;
}
