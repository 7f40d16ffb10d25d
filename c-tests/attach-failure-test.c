/*
 * A host that cannot serve a state: epoll_ctl(2) has no room for another watch (ENOSPC is
 * fs.epoll.max_user_watches), or there is no bottom half. The library once said so, took requests
 * all the same, and slept for ever. An attach that fails is one that did not happen.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { COUNT = 5 };

/* The built-in loop's epoll_ctl(2) comes here. With an errno in `watch_error`, it adds nothing. */
static int watch_error;
static unsigned watch_attempts;

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    static int (*real)(int, int, int, struct epoll_event *);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "epoll_ctl");
    }
    if (watch_error && op == EPOLL_CTL_ADD) {
        watch_attempts++;
        errno = watch_error;
        return -1;
    }
    return real(epfd, op, fd, event);
}

/* The hosts' bottom halves come from here. */
static bool no_bottom_half;
static QEMUBH *(*real_bh_new)(AioContext *ctx, LaioHostFunc cb, void *opaque);
static unsigned watched;
static void (*real_set_event_notifier)(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                                       bool (*io_poll)(void *opaque),
                                       void (*io_poll_ready)(void *opaque), void *opaque);

static QEMUBH *failing_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    return no_bottom_half ? NULL : real_bh_new(ctx, cb, opaque);
}

static void counting_set_event_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                                        bool (*io_poll)(void *opaque),
                                        void (*io_poll_ready)(void *opaque), void *opaque)
{
    watched++;
    real_set_event_notifier(ctx, fd, io_read, io_poll, io_poll_ready, opaque);
}

static void start_host_that_may_fail(const HostVariant *variant)
{
    LaioHostOps ops = host_ops(variant);
    real_bh_new = ops.bh_new;
    real_set_event_notifier = ops.set_event_notifier;
    ops.bh_new = failing_bh_new;
    ops.set_event_notifier = counting_set_event_notifier;
    host = variant;
    CHECK_EQ(laio_set_host_ops(&ops), 0);
}

/* Makes each attach fail; with 0 none. */
static void fail_with(int error)
{
    if (host->builtin) {
        watch_error = error;
    } else {
        no_bottom_half = error != 0;
    }
}

static void attach_in_vain(LinuxAioState *s, AioContext *ctx)
{
    unsigned attempts = watch_attempts, notifiers = watched;
    laio_attach_aio_context(s, ctx);
    EXPECT_LOG("laio_attach_aio_context: ");
    if (host->builtin) {
        CHECK(watch_attempts > attempts);
    }
    CHECK_EQ(watched, notifiers);
}

static void co_refused(void *opaque)
{
    Io io = io_of(QEMU_AIO_FLUSH, 0, 0, NULL, 0);
    CHECK_EQ(way_co_submit(WAY_STATE, opaque, &io), -ENOTCONN);
}

static void check_not_attached(LinuxAioState *s, AioContext *ctx)
{
    char byte;
    LaioStats before = state_stats(s);
    Io io = io_of(QEMU_AIO_READ, 0, 0, &byte, 1);
    CHECK_EQ(laio_state_submit(s, io.fd, 0, &io.one, 1, QEMU_AIO_READ, 0, 0, io_completed, &io),
             -ENOTCONN);
    CHECK_EQ(laio_state_submit(s, io.fd, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0, io_completed, &io),
             -ENOTCONN);
    if (host->builtin) {
        co_refused(s);
    } else {
        coroutine_enter(coroutine_new(co_refused, s));
    }
    CHECK_EQ(io.completions, 0);
    CHECK_EQ(state_stats(s).submitted, before.submitted);
    CHECK(!host_poll(ctx, false));
    laio_detach_aio_context(s, ctx);
    EXPECT_LOG("laio_detach_aio_context: the state is not attached to this event loop");
}

static void check_works(Rig rig, int fd)
{
    char *buffer = aligned_buffer(BLOCK);
    host_set_state(rig.ctx, rig.state);
    host_set_current(rig.ctx);
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &io), 0);
        /* One that is not complete at once wants the watch. */
        io = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        CHECK_EQ(way_do(way, rig, &io), 0);
    }
    free(buffer);
}

static void run(void)
{
    const int errors[] = {ENOSPC, ENOMEM};
    int fd = test_file(0);
    rig_free(rig_new());
    unsigned descriptors = test_descriptors();
    for (int i = 0; i < 2; i++) {
        /* Freed without ever being attached. */
        Rig rig = {host_context_new(), state_new()};
        fail_with(errors[i]);
        attach_in_vain(rig.state, rig.ctx);
        check_not_attached(rig.state, rig.ctx);
        laio_cleanup(rig.state);
        host_context_free(rig.ctx);
        CHECK_EQ(test_descriptors(), descriptors);

        /* Freed before its loop, which serves nobody; then another loop takes it. */
        rig = (Rig){host_context_new(), state_new()};
        attach_in_vain(rig.state, rig.ctx);
        host_context_free(rig.ctx);
        rig.ctx = host_context_new();
        attach_in_vain(rig.state, rig.ctx);
        attach_in_vain(rig.state, rig.ctx);
        check_not_attached(rig.state, rig.ctx);
        fail_with(0);
        laio_attach_aio_context(rig.state, rig.ctx);
        check_works(rig, fd);
        rig_free(rig);
        CHECK_EQ(test_descriptors(), descriptors);

        /* Beside another state of the loop, which goes on. */
        rig = rig_new();
        LinuxAioState *other = state_new();
        fail_with(errors[i]);
        attach_in_vain(other, rig.ctx);
        check_not_attached(other, rig.ctx);
        check_works(rig, fd);
        laio_cleanup(other);
        check_works(rig, fd);
        fail_with(0);
        rig_free(rig);
        CHECK_EQ(test_descriptors(), descriptors);
    }
    close(fd);
}

/* Requests that an earlier detach left outstanding are still there after the attach that works. */
static void run_with_requests(void)
{
    for (int clean_up = 0; clean_up < 2; clean_up++) {
        int fd = hole_file();
        char *buffer = aligned_buffer(BLOCK);
        Io ios[COUNT];
        Rig rig = rig_new();
        laio_state_io_plug(rig.state);
        for (int i = 0; i < COUNT; i++) {
            ios[i] = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
            io_start(rig.state, &ios[i]);
        }
        laio_detach_aio_context(rig.state, rig.ctx);
        EXPECT_LOG("laio_detach_aio_context: 5 requests are outstanding until the next attach");
        fail_with(ENOSPC);
        attach_in_vain(rig.state, rig.ctx);
        check_not_attached(rig.state, rig.ctx);
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(ios[i].completions, 0);
        }
        CHECK_EQ(state_stats(rig.state).in_queue, COUNT);
        if (clean_up) {
            host_set_state(rig.ctx, NULL);
            laio_cleanup(rig.state);
            EXPECT_LOG("laio_cleanup: waiting for 5 requests");
            for (int i = 0; i < COUNT; i++) {
                CHECK_EQ(ios[i].completions, 1);
            }
            host_context_free(rig.ctx);
        } else {
            fail_with(0);
            laio_attach_aio_context(rig.state, rig.ctx);
            io_finish(rig.ctx, ios, COUNT);
            laio_state_io_unplug(rig.state, 0);
            rig_free(rig);
        }
        fail_with(0);
        free(buffer);
        close(fd);
    }
}

static const HostVariant *variant_of(unsigned bit)
{
    return &host_variants[__builtin_ctz(bit)];
}

static void an_attach_without_a_watch_did_not_happen(void)
{
    run();
}

static void requests_outlive_an_attach_without_a_watch(void)
{
    run_with_requests();
}

static void an_attach_without_a_bottom_half_did_not_happen(void)
{
    start_host_that_may_fail(variant_of(HOST_QEMU));
    run();
}

static void the_same_without_deferral(void)
{
    start_host_that_may_fail(variant_of(HOST_PLAIN));
    run();
}

static void requests_outlive_an_attach_without_a_bottom_half(void)
{
    start_host_that_may_fail(variant_of(HOST_QEMU));
    run_with_requests();
}

static void the_same_for_requests_without_deferral(void)
{
    start_host_that_may_fail(variant_of(HOST_PLAIN));
    run_with_requests();
}

static const TestCase cases[] = {
    {"an attach without a watch did not happen", an_attach_without_a_watch_did_not_happen,
     HOST_UNASKED},
    {"requests outlive an attach without a watch", requests_outlive_an_attach_without_a_watch,
     HOST_UNASKED},
    {"an attach without a bottom half did not happen",
     an_attach_without_a_bottom_half_did_not_happen, 0},
    {"the same without deferral", the_same_without_deferral, 0},
    {"requests outlive an attach without a bottom half",
     requests_outlive_an_attach_without_a_bottom_half, 0},
    {"the same for requests without deferral", the_same_for_requests_without_deferral, 0},
};

TEST_MAIN(cases)
