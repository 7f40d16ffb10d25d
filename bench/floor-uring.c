/*
 * What io_uring costs without an engine: as floor-aio.c, by liburing.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "floor.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

typedef struct Request {
    LaioCompletionFunc *cb;
    void *opaque;
} Request;

struct LinuxAioState {
    struct io_uring ring;
    Request requests[FLOOR_REQUESTS];
    Request *unused[FLOOR_REQUESTS];
    unsigned unused_count;
};

LinuxAioState *laio_init_kernel(unsigned kernel, Error **errp)
{
    LinuxAioState *s = calloc(1, sizeof(*s));
    int ret;

    (void)errp;
    if (kernel == LAIO_KERNEL_LINUX_AIO) {
        floor_give_up("this is the floor of io_uring");
    }
    ret = s ? io_uring_queue_init(FLOOR_REQUESTS, &s->ring, 0) : -ENOMEM;
    if (ret < 0) {
        errno = -ret;
        floor_give_up("io_uring_queue_init");
    }
    for (; s->unused_count < FLOOR_REQUESTS; s->unused_count++) {
        s->unused[s->unused_count] = &s->requests[s->unused_count];
    }
    return s;
}

void laio_cleanup(LinuxAioState *s)
{
    io_uring_queue_exit(&s->ring);
    free(s);
}

unsigned laio_state_kernel(const LinuxAioState *s)
{
    (void)s;
    return LAIO_KERNEL_IO_URING;
}

int laio_state_submit(LinuxAioState *s, int fd, uint64_t offset, const struct iovec *iov,
                      int iovcnt, int type, BdrvRequestFlags flags, uint64_t dev_max_batch,
                      LaioCompletionFunc *cb, void *opaque)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
    Request *request;

    (void)flags;
    (void)dev_max_batch;
    if (!sqe || s->unused_count == 0) {
        floor_give_up("more requests than there is room for");
    }
    request = s->unused[--s->unused_count];
    *request = (Request){cb, opaque};
    if (type == QEMU_AIO_READ) {
        io_uring_prep_readv(sqe, fd, iov, (unsigned)iovcnt, offset);
    } else if (type == QEMU_AIO_WRITE) {
        io_uring_prep_writev(sqe, fd, iov, (unsigned)iovcnt, offset);
    } else {
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    }
    io_uring_sqe_set_data(sqe, request);
    return 0;
}

static void complete(LinuxAioState *s, const struct io_uring_cqe *cqe)
{
    Request *request = io_uring_cqe_get_data(cqe);
    int res = cqe->res;
    Request done = *request;

    s->unused[s->unused_count++] = request;
    done.cb(done.opaque, res < 0 ? res : 0);
}

bool floor_turn(LinuxAioState *s, bool blocking)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    bool wait = blocking && s->unused_count < FLOOR_REQUESTS && io_uring_cq_ready(&s->ring) == 0;

    if (io_uring_sq_ready(&s->ring) > 0 || wait) {
        int ret = io_uring_submit_and_wait(&s->ring, wait);
        if (ret < 0 && ret != -EINTR) {
            errno = -ret;
            floor_give_up("io_uring_submit_and_wait");
        }
    }
    /* As far as it is filled now. */
    unsigned ready = io_uring_cq_ready(&s->ring);
    io_uring_for_each_cqe(&s->ring, head, cqe)
    {
        if (count++ == ready) {
            break;
        }
        struct io_uring_cqe copy = {.user_data = cqe->user_data, .res = cqe->res};
        io_uring_cq_advance(&s->ring, 1);
        complete(s, &copy);
    }
    return count > 0 || wait;
}
