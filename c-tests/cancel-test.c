/*
 * A thread that is cancelled (deferred, as threads are) while it waits in the library: epoll_wait(2)
 * and others are cancellation points, and the request stayed behind on a stack that was gone, or
 * the loop could never be freed again. No function of the library is a cancellation point: the call
 * completes, and the thread ends at its own next one.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { HANG_SECONDS = 60 };

/* Where the thread waits. */
typedef enum Wait {
    IN_STATE_CO_SUBMIT,
    IN_CO_SUBMIT,
    IN_POLL,
    IN_CLEANUP,              /* for a request in flight */
    IN_CLEANUP_WITHOUT_ROOM, /* for the kernel to take it */
    WAITS,
} Wait;

typedef struct Waiter {
    Wait wait;
    Rig rig;
    int fd;
    char *buffer;
    Io io;
    atomic_bool waits;
    atomic_bool returned;
} Waiter;

static void in_the_wait(Waiter *waiter)
{
    Rig rig = waiter->rig;
    Io *io = &waiter->io;
    switch (waiter->wait) {
    case IN_STATE_CO_SUBMIT:
    case IN_CO_SUBMIT:
        atomic_store(&waiter->waits, true);
        io_completed(
            io, way_co_submit(waiter->wait == IN_CO_SUBMIT ? WAY_QEMU : WAY_STATE, rig.state, io));
        break;
    case IN_POLL:
        io_start(rig.state, io);
        atomic_store(&waiter->waits, true);
        CHECK(host_poll(rig.ctx, true));
        break;
    default:
        io_start(rig.state, io);
        host_set_state(rig.ctx, NULL);
        laio_detach_aio_context(rig.state, rig.ctx);
        atomic_store(&waiter->waits, true);
        laio_cleanup(rig.state);
    }
}

/* Waits, is cancelled meanwhile, and gets to the end of the call all the same. */
static void *wait_and_end(void *opaque)
{
    Waiter *waiter = opaque;
    waiter->rig = rig_new();
    in_the_wait(waiter);
    atomic_store(&waiter->returned, true);
    pthread_testcancel();
    FAIL("the thread was not cancelled at all");
    return NULL;
}

/* The next one to use the stack that the thread leaves. */
static void *use_stack(void *unused)
{
    volatile char stack[16 * 1024];
    for (size_t i = 0; i < sizeof(stack); i++) {
        stack[i] = 0x55;
    }
    usleep(1000);
    for (size_t i = 0; i < sizeof(stack); i++) {
        CHECK_EQ(stack[i], 0x55);
    }
    return unused;
}

static void cancel_in(Wait wait, unsigned patience_us)
{
    Waiter waiter = {.wait = wait, .fd = test_file(O_DIRECT), .buffer = aligned_buffer(BLOCK)};
    bool clean_up = wait == IN_CLEANUP || wait == IN_CLEANUP_WITHOUT_ROOM;
    pthread_t thread;
    void *result;
    test_context("wait %d, cancelled after %u us", wait, patience_us);
    memset(waiter.buffer, 0x77, BLOCK);
    CHECK_EQ(pwrite(waiter.fd, waiter.buffer, BLOCK, 0), BLOCK);
    memset(waiter.buffer, 0xa5, BLOCK);
    waiter.io = io_of(QEMU_AIO_READ, waiter.fd, 0, waiter.buffer, BLOCK);
    valve_set(wait == IN_CLEANUP_WITHOUT_ROOM ? VALVE_EAGAIN : VALVE_HOLD, -1);
    CHECK_EQ(pthread_create(&thread, NULL, wait_and_end, &waiter), 0);
    while (!atomic_load(&waiter.waits)) {
        usleep(100);
    }
    /* It waits now, or will soon. */
    usleep(patience_us);
    CHECK(!atomic_load(&waiter.returned));
    CHECK_EQ(pthread_cancel(thread), 0);
    usleep(patience_us);
    if (wait != IN_CLEANUP_WITHOUT_ROOM) {
        while (valve_held() == 0) {
            usleep(100);
        }
    }
    valve_release();
    CHECK_EQ(pthread_join(thread, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK(atomic_load(&waiter.returned));
    CHECK_EQ(waiter.io.completions, 1);
    CHECK_EQ(waiter.io.ret, 0);
    CHECK_EQ(waiter.buffer[0], 0x77);
    CHECK_EQ(waiter.buffer[BLOCK - 1], 0x77);
    CHECK_EQ(pthread_create(&thread, NULL, use_stack, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    free(test_take_log());
    if (!clean_up) {
        host_set_state(waiter.rig.ctx, NULL);
        laio_detach_aio_context(waiter.rig.state, waiter.rig.ctx);
        laio_cleanup(waiter.rig.state);
    }
    host_context_free(waiter.rig.ctx);
    EXPECT_NO_LOG();
    free(waiter.buffer);
    close(waiter.fd);
}

static void cancel_in_each(Wait wait)
{
    test_watch(HANG_SECONDS);
    for (unsigned round = 0; round < 4; round++) {
        cancel_in(wait, round * 10000);
    }
}

static void a_thread_is_cancelled_in_state_co_submit(void)
{
    cancel_in_each(IN_STATE_CO_SUBMIT);
}

static void a_thread_is_cancelled_in_co_submit(void)
{
    cancel_in_each(IN_CO_SUBMIT);
}

static void a_thread_is_cancelled_in_its_event_loop(void)
{
    cancel_in_each(IN_POLL);
}

static void a_thread_is_cancelled_in_cleanup(void)
{
    cancel_in_each(IN_CLEANUP);
}

static void a_thread_is_cancelled_in_cleanup_without_room(void)
{
    cancel_in_each(IN_CLEANUP_WITHOUT_ROOM);
}

/* Cancelled already, the thread calls one function after the other: close(2) and write(2) are
 * cancellation points too, and each of these ends the thread if it lets it. */
static atomic_uint calls;

static void *call_all(void *opaque)
{
    Waiter *waiter = opaque;
    CHECK_EQ(pthread_cancel(pthread_self()), 0);
#define CALLED atomic_fetch_add(&calls, 1)
    AioContext *ctx = laio_loop_new();
    CALLED;
    CHECK_GE(laio_loop_get_fd(ctx), 0);
    CALLED;
    LinuxAioState *s = laio_init(NULL);
    CALLED;
    laio_attach_aio_context(s, ctx);
    CALLED;
    waiter->io.ret = laio_state_submit(s, waiter->fd, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0,
                                       io_completed, &waiter->io);
    CALLED;
    while (waiter->io.completions == 0) {
        laio_loop_poll(ctx, true);
    }
    CALLED;
    QEMUIOVector qiov = {.iov = &waiter->io.one, .niov = 1};
    qiov.size = BLOCK;
    int result = laio_co_submit(waiter->fd, 0, &qiov, QEMU_AIO_WRITE, 0, 0);
    CALLED;
    result |= laio_state_co_submit(s, waiter->fd, 0, NULL, QEMU_AIO_FLUSH, 0, 0);
    CALLED;
    bool can = laio_has_fdsync(waiter->fd) && laio_has_fua();
    CALLED;
    laio_state_io_plug(s);
    laio_state_submit(s, waiter->fd, 0, &waiter->io.one, 1, QEMU_AIO_READ, 0, 0, io_completed,
                      &waiter->io);
    laio_attach_aio_context(s, ctx); /* Refused, with a report. */
    CALLED;
    laio_detach_aio_context(s, ctx); /* With a report. */
    CALLED;
    laio_cleanup(s); /* With a report. */
    CALLED;
    laio_loop_free(ctx);
    CALLED;
#undef CALLED
    waiter->io.ret = result == 0 && can ? 0 : -EIO;
    return NULL;
}

static void a_cancelled_thread_calls_every_function(void)
{
    pthread_t thread;
    Waiter waiter = {.fd = test_file(O_DIRECT), .buffer = aligned_buffer(BLOCK)};
    waiter.io = io_of(QEMU_AIO_WRITE, waiter.fd, 0, waiter.buffer, BLOCK);
    unsigned descriptors = test_descriptors();
    test_watch(HANG_SECONDS);
    CHECK_EQ(pthread_create(&thread, NULL, call_all, &waiter), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(atomic_load(&calls), 13);
    CHECK_EQ(waiter.io.completions, 2);
    CHECK_EQ(waiter.io.ret, 0);
    CHECK_EQ(test_descriptors(), descriptors);
    free(test_take_log());
    free(waiter.buffer);
    close(waiter.fd);
}

static const TestCase cases[] = {
    {"a thread is cancelled in state_co_submit", a_thread_is_cancelled_in_state_co_submit,
     HOST_BUILTIN},
    {"a thread is cancelled in co_submit", a_thread_is_cancelled_in_co_submit, HOST_BUILTIN},
    {"a thread is cancelled in its event loop", a_thread_is_cancelled_in_its_event_loop,
     HOST_UNASKED},
    {"a thread is cancelled in cleanup", a_thread_is_cancelled_in_cleanup,
     HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN},
    {"a thread is cancelled in cleanup without room", a_thread_is_cancelled_in_cleanup_without_room,
     HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN},
    {"a cancelled thread calls every function", a_cancelled_thread_calls_every_function,
     HOST_BUILTIN},
};

TEST_MAIN(cases)
