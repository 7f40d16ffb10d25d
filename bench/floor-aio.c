/*
 * What Linux AIO costs without an engine: the part of laio.h that laio-bench uses, as a bare loop
 * over io_submit(2) that looks into the mapped ring. laio-bench linked with this instead of liblaio
 * makes the same requests and measures in the same way; what liblaio takes more is liblaio's.
 *
 * With FLOOR_EVENTFD each completion signals an eventfd, without which no event loop could sleep beside
 * other event sources; nobody looks at it here.
 *
 * Nothing here is fit for use: no plug, no short transfer, no second thread, no error but to give up.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "floor.h"

#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct Ring {
    unsigned id, nr, head, tail, magic, compat, incompat, header_length;
    struct io_event events[];
} Ring;

typedef struct Request {
    struct iocb iocb;
    LaioCompletionFunc *cb;
    void *opaque;
} Request;

struct LinuxAioState {
    aio_context_t context;
    Request requests[FLOOR_REQUESTS];
    Request *unused[FLOOR_REQUESTS];
    struct iocb *queue[FLOOR_REQUESTS];
    unsigned unused_count, queued;
    int eventfd;
};

LinuxAioState *laio_init_kernel(unsigned kernel, Error **errp)
{
    LinuxAioState *s = calloc(1, sizeof(*s));

    (void)errp;
    if (kernel == LAIO_KERNEL_IO_URING) {
        floor_give_up("this is the floor of linux-aio");
    }
    if (!s || syscall(SYS_io_setup, FLOOR_REQUESTS, &s->context) != 0) {
        floor_give_up("io_setup");
    }
    s->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (; s->unused_count < FLOOR_REQUESTS; s->unused_count++) {
        s->unused[s->unused_count] = &s->requests[s->unused_count];
    }
    return s;
}

void laio_cleanup(LinuxAioState *s)
{
    syscall(SYS_io_destroy, s->context);
    close(s->eventfd);
    free(s);
}

unsigned laio_state_kernel(const LinuxAioState *s)
{
    (void)s;
    return LAIO_KERNEL_LINUX_AIO;
}

int laio_state_submit(LinuxAioState *s, int fd, uint64_t offset, const struct iovec *iov,
                      int iovcnt, int type, BdrvRequestFlags flags, uint64_t dev_max_batch,
                      LaioCompletionFunc *cb, void *opaque)
{
    Request *request;

    (void)flags;
    (void)dev_max_batch;
    if (s->unused_count == 0) {
        floor_give_up("more requests than there is room for");
    }
    request = s->unused[--s->unused_count];
    request->cb = cb;
    request->opaque = opaque;
    request->iocb = (struct iocb){
        .aio_data = (uintptr_t)request,
        .aio_lio_opcode = type == QEMU_AIO_READ    ? IOCB_CMD_PREADV
                          : type == QEMU_AIO_WRITE ? IOCB_CMD_PWRITEV
                                                   : IOCB_CMD_FDSYNC,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)iov,
        .aio_nbytes = (uint64_t)iovcnt,
        .aio_offset = (int64_t)offset,
#ifdef FLOOR_EVENTFD
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)s->eventfd,
#endif
    };
    s->queue[s->queued++] = &request->iocb;
    return 0;
}

static void complete(LinuxAioState *s, struct io_event event)
{
    Request *request = (Request *)(uintptr_t)event.data;
    LaioCompletionFunc *cb = request->cb;
    void *opaque = request->opaque;

    s->unused[s->unused_count++] = request;
    cb(opaque, event.res < 0 ? (int)event.res : 0);
}

static unsigned reap(LinuxAioState *s)
{
    Ring *ring = (Ring *)s->context;
    unsigned count = 0;

    /* As far as it is filled now: what the callbacks ask for is submitted before that is looked at. */
    unsigned tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    for (unsigned head = ring->head; head != tail; count++) {
        struct io_event event = ring->events[head];
        head = head + 1 == ring->nr ? 0 : head + 1;
        __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
        complete(s, event);
    }
    return count;
}

static void submit(LinuxAioState *s)
{
    struct iocb **first = s->queue;
    unsigned left = s->queued;

    s->queued = 0;
    while (left > 0) {
        long taken = syscall(SYS_io_submit, s->context, (long)left, first);
        if (taken <= 0) {
            floor_give_up("io_submit");
        }
        first += taken;
        left -= (unsigned)taken;
    }
}

bool floor_turn(LinuxAioState *s, bool blocking)
{
    struct io_event event;

    if (s->queued > 0) {
        submit(s);
    }
    if (reap(s) > 0) {
        return true;
    }
    if (!blocking || s->unused_count == FLOOR_REQUESTS) {
        return false;
    }
    if (syscall(SYS_io_getevents, s->context, 1L, 1L, &event, NULL) == 1) {
        complete(s, event);
    }
    return true;
}
