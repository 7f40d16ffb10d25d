/*
 * A program that has coroutines and an event loop of its own, and tells the library by hooks: then
 * laio_co_submit() is a plain call that returns the result, and other coroutines run meanwhile. Eight
 * of them copy a file.
 *
 *     cc coroutines.c $(pkg-config --cflags --libs laio)
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include <laio.h>

enum { COROUTINES = 8, STACK = 64 * 1024, BLOCK = 64 * 1024, WATCHED_MAX = 4, BHS_MAX = 4 };

/* Coroutines, each on a stack of its own. */

struct Coroutine {
    ucontext_t context, caller;
    Coroutine *outer; /* who entered it */
    void (*fn)(void);
    bool over;
    char stack[STACK];
};

static Coroutine *running;

static void enter(Coroutine *co)
{
    co->outer = running;
    running = co;
    swapcontext(&co->caller, &co->context);
    running = co->outer;
    co->outer = NULL;
}

static void start(void)
{
    running->fn();
    running->over = true;
}

static void coroutine_init(Coroutine *co, void (*fn)(void))
{
    co->fn = fn;
    getcontext(&co->context);
    co->context.uc_stack.ss_sp = co->stack;
    co->context.uc_stack.ss_size = sizeof(co->stack);
    co->context.uc_link = &co->caller;
    makecontext(&co->context, start, 0);
}

static Coroutine *coroutine_self(void)
{
    return running;
}

static void coroutine_yield(void)
{
    Coroutine *co = running;
    swapcontext(&co->context, &co->caller);
}

/* Running, or waiting for one that it entered. */
static bool coroutine_entered(Coroutine *co)
{
    for (Coroutine *entered = running; entered; entered = entered->outer) {
        if (entered == co) {
            return true;
        }
    }
    return false;
}

/* The event loop: bottom halves, and descriptors that are watched. */

struct QEMUBH {
    LaioHostFunc cb;
    void *opaque;
    bool scheduled;
};

struct AioContext {
    QEMUBH *bhs[BHS_MAX];
    struct pollfd fds[WATCHED_MAX];
    struct {
        void (*io_read)(void *opaque);
        void *opaque;
    } watched[WATCHED_MAX];
    LinuxAioState *state;
};

static AioContext event_loop;

static QEMUBH *bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    for (int i = 0; i < BHS_MAX; i++) {
        if (!ctx->bhs[i] && (ctx->bhs[i] = calloc(1, sizeof(QEMUBH)))) {
            *ctx->bhs[i] = (QEMUBH){cb, opaque, false};
            return ctx->bhs[i];
        }
    }
    return NULL; /* the attach fails, with a report */
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
    for (int i = 0; i < BHS_MAX; i++) {
        if (event_loop.bhs[i] == bh) {
            event_loop.bhs[i] = NULL;
        }
    }
    free(bh);
}

/* This event loop does not poll instead of waiting, so only io_read is of use. */
static void set_event_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                               bool (*io_poll)(void *opaque), void (*io_poll_ready)(void *opaque),
                               void *opaque)
{
    (void)io_poll;
    (void)io_poll_ready;
    for (int i = 0; i < WATCHED_MAX; i++) {
        if (ctx->fds[i].fd == (io_read ? -1 : fd)) {
            ctx->fds[i] = (struct pollfd){io_read ? fd : -1, POLLIN, 0};
            ctx->watched[i].io_read = io_read;
            ctx->watched[i].opaque = opaque;
            return;
        }
    }
    abort(); /* a state has two: its eventfd, and at times a timer */
}

static bool run_bottom_halves(AioContext *ctx)
{
    bool ran = false;
    for (int i = 0; i < BHS_MAX; i++) {
        if (ctx->bhs[i] && ctx->bhs[i]->scheduled) {
            ctx->bhs[i]->scheduled = false;
            ctx->bhs[i]->cb(ctx->bhs[i]->opaque);
            ran = true;
        }
    }
    return ran;
}

static void run_event_loop_once(AioContext *ctx)
{
    int timeout = run_bottom_halves(ctx) ? 0 : -1;
    if (poll(ctx->fds, WATCHED_MAX, timeout) <= 0) {
        return;
    }
    for (int i = 0; i < WATCHED_MAX; i++) {
        if (ctx->fds[i].revents && ctx->watched[i].io_read) {
            ctx->watched[i].io_read(ctx->watched[i].opaque);
        }
    }
}

static AioContext *current_aio_context(void)
{
    return &event_loop;
}

static LinuxAioState *linux_aio_state(AioContext *ctx)
{
    return ctx->state;
}

/* The copy: straight on, in each coroutine. */

static int from, to, error;
static uint64_t size, next;

static void copy_blocks(void)
{
    char *memory = malloc(BLOCK);
    while (memory && next < size && error == 0) {
        uint64_t offset = next;
        struct iovec iov = {memory, size - offset < BLOCK ? size - offset : BLOCK};
        QEMUIOVector qiov = {.iov = &iov, .niov = 1};
        qiov.size = iov.iov_len;
        next += iov.iov_len;
        int ret = laio_co_submit(from, offset, &qiov, QEMU_AIO_READ, 0, 0);
        if (ret == 0) {
            ret = laio_co_submit(to, offset, &qiov, QEMU_AIO_WRITE, 0, 0);
        }
        if (ret < 0) {
            error = ret;
        }
    }
    free(memory);
}

static void copy(void)
{
    static Coroutine coroutines[COROUTINES];
    for (int i = 0; i < COROUTINES; i++) {
        coroutine_init(&coroutines[i], copy_blocks);
        enter(&coroutines[i]);
    }
    for (int i = 0; i < COROUTINES; i++) {
        while (!coroutines[i].over) {
            run_event_loop_once(&event_loop);
        }
    }
}

int main(int argc, char **argv)
{
    const LaioHostOps ops = {
        .size = sizeof(ops),
        .bh_new = bh_new,
        .bh_schedule = bh_schedule,
        .bh_cancel = bh_cancel,
        .bh_delete = bh_delete,
        .set_event_notifier = set_event_notifier,
        .coroutine_self = coroutine_self,
        .coroutine_yield = coroutine_yield,
        .coroutine_entered = coroutine_entered,
        .coroutine_wake = enter,
        .current_aio_context = current_aio_context,
        .linux_aio_state = linux_aio_state,
    };
    struct stat stat;
    if (argc != 3) {
        fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
        return 1;
    }
    from = open(argv[1], O_RDONLY | O_CLOEXEC);
    to = from < 0 || fstat(from, &stat) < 0
             ? -1
             : open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (to < 0) {
        perror(from < 0 ? argv[1] : argv[2]);
        return 1;
    }
    size = (uint64_t)stat.st_size;

    for (int i = 0; i < WATCHED_MAX; i++) {
        event_loop.fds[i].fd = -1; /* poll(2) passes over it */
    }
    if (laio_set_host_ops(&ops) < 0 || !(event_loop.state = laio_init(NULL))) {
        return 1; /* why has been said on standard error */
    }
    laio_attach_aio_context(event_loop.state, &event_loop);
    copy();
    laio_detach_aio_context(event_loop.state, &event_loop);
    laio_cleanup(event_loop.state);

    if (error < 0) {
        fprintf(stderr, "cannot copy: %s\n", strerror(-error));
    }
    close(from);
    return close(to) < 0 || error < 0;
}
