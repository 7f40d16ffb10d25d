/*
 * See hypervisor-disk.h.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "hypervisor-disk.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static long own_requests;

long disk_own_requests(void)
{
    return own_requests;
}

LinuxAioState *laio_init(Error **errp)
{
    (void)errp;
    return malloc(1);
}

void laio_cleanup(LinuxAioState *s)
{
    free(s);
}

void laio_attach_aio_context(LinuxAioState *s, AioContext *new_context)
{
    (void)s;
    (void)new_context;
}

void laio_detach_aio_context(LinuxAioState *s, AioContext *old_context)
{
    (void)s;
    (void)old_context;
}

int laio_co_submit(int fd, uint64_t offset, QEMUIOVector *qiov, int type, BdrvRequestFlags flags,
                   uint64_t dev_max_batch)
{
    ssize_t done;

    (void)flags;
    (void)dev_max_batch;
    own_requests++;
    if (type == QEMU_AIO_READ) {
        done = preadv(fd, qiov->iov, qiov->niov, (off_t)offset);
    } else {
        done = pwritev(fd, qiov->iov, qiov->niov, (off_t)offset);
    }
    return done < 0 ? -errno : 0;
}

LinuxAioState *disk_open(AioContext *context)
{
    LinuxAioState *state = laio_init(NULL);

    laio_attach_aio_context(state, context);
    return state;
}

void disk_close(LinuxAioState *state, AioContext *context)
{
    laio_detach_aio_context(state, context);
    laio_cleanup(state);
}

int disk_transfer(int fd, int type, uint64_t offset, void *buffer, size_t size)
{
    struct iovec part = {.iov_base = buffer, .iov_len = size};
    QEMUIOVector qiov = {.iov = &part, .niov = 1};

    qiov.size = size;
    return laio_co_submit(fd, offset, &qiov, type, 0, 0);
}
