/*
 * The hypervisor of hypervisor-disk.h: an event loop, coroutines, and a guest that reads and writes.
 * It offers its hooks to a laio_set_host_ops() if there is one, and says at the end whose laio_* have
 * served it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "hypervisor-disk.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    GUESTS = 16,
    BLOCKS = 200,
    BLOCK = 4096,
    STACK_SIZE = 256 << 10,
};

/* Only whoever preloads the library has it. */
#pragma weak laio_set_host_ops

struct QEMUBH {
    LaioHostFunc callback;
    void *opaque;
    bool scheduled;
};

struct Coroutine {
    ucontext_t context;
    struct Coroutine *caller;
    bool finished;
    int number;
    char stack[STACK_SIZE];
};

struct AioContext {
    LinuxAioState *state;
    struct QEMUBH *bh;
    int fd;
    void (*io_read)(void *opaque);
    void *opaque;
};

static struct AioContext event_loop = {.fd = -1};
static struct Coroutine leader;
static struct Coroutine *running = &leader;
static struct Coroutine guests[GUESTS];
static int disk;

static QEMUBH *bh_new(AioContext *context, LaioHostFunc callback, void *opaque)
{
    struct QEMUBH *bh = calloc(1, sizeof(*bh));

    assert(bh != NULL && context->bh == NULL);
    bh->callback = callback;
    bh->opaque = opaque;
    context->bh = bh;
    return bh;
}

static void bh_schedule(QEMUBH *bh)
{
    bh->scheduled = true;
}

static void bh_cancel(QEMUBH *bh)
{
    bh->scheduled = false;
}

static void bh_delete(QEMUBH *bh)
{
    event_loop.bh = NULL;
    free(bh);
}

static void set_event_notifier(AioContext *context, int fd, void (*io_read)(void *),
                               bool (*io_poll)(void *), void (*io_poll_ready)(void *), void *opaque)
{
    (void)io_poll;
    (void)io_poll_ready;
    context->fd = io_read != NULL ? fd : -1;
    context->io_read = io_read;
    context->opaque = opaque;
}

static void enter(struct Coroutine *coroutine)
{
    struct Coroutine *caller = running;

    assert(coroutine->caller == NULL && !coroutine->finished);
    coroutine->caller = caller;
    running = coroutine;
    assert(swapcontext(&caller->context, &coroutine->context) == 0);
}

static void leave(void)
{
    struct Coroutine *self = running;

    running = self->caller;
    self->caller = NULL;
    assert(swapcontext(&self->context, &running->context) == 0);
}

static Coroutine *coroutine_self(void)
{
    return running;
}

static bool coroutine_entered(Coroutine *coroutine)
{
    return coroutine->caller != NULL;
}

static AioContext *current_aio_context(void)
{
    return &event_loop;
}

static LinuxAioState *linux_aio_state(AioContext *context)
{
    return context->state;
}

static void guest(void)
{
    struct Coroutine *self = running;
    unsigned char written[BLOCK];
    unsigned char read[BLOCK];

    for (int i = 0; i < BLOCKS; i++) {
        uint64_t offset = ((uint64_t)self->number * BLOCKS + i) * BLOCK;

        memset(written, self->number * BLOCKS + i, BLOCK);
        assert(disk_transfer(disk, QEMU_AIO_WRITE, offset, written, BLOCK) == 0);
        assert(disk_transfer(disk, QEMU_AIO_READ, offset, read, BLOCK) == 0);
        assert(memcmp(written, read, BLOCK) == 0);
    }
    self->finished = true;
    leave();
}

static void turn(void)
{
    struct pollfd wait = {.fd = event_loop.fd, .events = POLLIN};
    struct QEMUBH *bh = event_loop.bh;

    if (bh != NULL && bh->scheduled) {
        bh->scheduled = false;
        bh->callback(bh->opaque);
        return;
    }
    assert(poll(&wait, 1, 10000) == 1); /* else nothing is left to wait for */
    event_loop.io_read(event_loop.opaque);
}

static bool all_finished(void)
{
    for (int i = 0; i < GUESTS; i++) {
        if (!guests[i].finished) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static const LaioHostOps ops = {
        .size = sizeof(ops),
        .bh_new = bh_new,
        .bh_schedule = bh_schedule,
        .bh_cancel = bh_cancel,
        .bh_delete = bh_delete,
        .set_event_notifier = set_event_notifier,
        .coroutine_self = coroutine_self,
        .coroutine_yield = leave,
        .coroutine_entered = coroutine_entered,
        .coroutine_wake = enter,
        .current_aio_context = current_aio_context,
        .linux_aio_state = linux_aio_state,
    };
    char name[4096];
    long own;

    assert(argc == 2);
    snprintf(name, sizeof(name), "%s/hypervisor.XXXXXX", argv[1]);
    disk = mkstemp(name);
    assert(disk >= 0 && unlink(name) == 0);
    if (laio_set_host_ops != NULL) {
        assert(laio_set_host_ops(&ops) == 0);
    }
    event_loop.state = disk_open(&event_loop);
    assert(event_loop.state != NULL);
    for (int i = 0; i < GUESTS; i++) {
        guests[i].number = i;
        assert(getcontext(&guests[i].context) == 0);
        guests[i].context.uc_stack.ss_sp = guests[i].stack;
        guests[i].context.uc_stack.ss_size = STACK_SIZE;
        makecontext(&guests[i].context, guest, 0);
        enter(&guests[i]);
    }
    while (!all_finished()) {
        turn();
    }
    disk_close(event_loop.state, &event_loop);
    own = disk_own_requests();
    assert(own == 0 || own == 2L * GUESTS * BLOCKS);
    printf("served by %s\n", own == 0 ? "another" : "itself");
    return 0;
}
