/*
 * The kernel has no room (EAGAIN) and nothing is in flight whose completion would tell that it has
 * again. The library asked 1.66 million times a second, and its event loop said each time that it
 * had made progress. It asks seldom, sleeps in between, and goes on once the kernel takes more;
 * everything else goes on meanwhile. In hosts with hooks it has them watch a timer for that, which
 * it takes back.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    ASKS_PER_SECOND = 2000,
    ASKS_AT_ONCE = 50, /* however short it was */
    REFUSED_US = 300 * 1000,
    HANG_SECONDS = 60,
};

static const Valve refusals[] = {VALVE_EAGAIN, VALVE_NONE};

static void *open_valve(void *opaque)
{
    (void)opaque;
    usleep(REFUSED_US);
    valve_set(VALVE_OPEN, -1);
    return NULL;
}

typedef struct Period {
    double since;
    uint64_t asks;
} Period;

static Period period_begin(void)
{
    return (Period){test_now(), valve_refusals()};
}

static void period_end(Period period)
{
    double elapsed = test_now() - period.since;
    uint64_t asks = valve_refusals() - period.asks;
    if ((double)asks > ASKS_AT_ONCE + elapsed * ASKS_PER_SECOND) {
        FAIL("the kernel was asked %llu times in %.3f seconds", (unsigned long long)asks, elapsed);
    }
}

/* A request that the kernel has no room for. */
typedef struct Refused {
    Rig rig;
    int fd;
    char *buffer;
    Io io;
} Refused;

static Refused refused_new(Valve valve)
{
    Refused refused = {
        .rig = rig_new(), .fd = test_file(O_DIRECT), .buffer = aligned_buffer(BLOCK)};
    CHECK_EQ(pwrite(refused.fd, refused.buffer, BLOCK, 0), BLOCK);
    refused.io = io_of(QEMU_AIO_READ, refused.fd, 0, refused.buffer, BLOCK);
    valve_set(valve, refused.fd);
    return refused;
}

static void refused_free(Refused *refused, bool rig)
{
    if (rig) {
        rig_free(refused->rig);
    }
    free(refused->buffer);
    close(refused->fd);
}

static void the_event_loop_sleeps_until_the_kernel_takes_more(void)
{
    test_watch(HANG_SECONDS);
    for (int v = 0; v < 2; v++) {
        pthread_t thread;
        Refused refused = refused_new(refusals[v]);
        Period period = period_begin();
        io_start(refused.rig.state, &refused.io);
        CHECK_EQ(state_stats(refused.rig.state).in_queue, 1);
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        if (host->builtin) {
            /* It has made progress when it says so, and not before. */
            CHECK(laio_loop_poll(refused.rig.ctx, true));
            CHECK_EQ(refused.io.completions, 1);
        }
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        period_end(period);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        refused_free(&refused, true);
    }
}

/* In front of the library's: a thread that has set its timer is preempted for so long. */
static useconds_t preempted_us;

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    int ret = (int)syscall(SYS_timerfd_settime, fd, flags, new, old);
    if (new->it_value.tv_sec || new->it_value.tv_nsec) {
        usleep(preempted_us);
    }
    return ret;
}

/* It took the timer for not due yet when that had fired, whose edge was then gone: it slept for ever. */
static void the_timer_fires_before_the_thread_goes_on(void)
{
    test_watch(HANG_SECONDS);
    preempted_us = 30 * 1000;
    for (int v = 0; v < 2; v++) {
        pthread_t thread;
        Refused refused = refused_new(refusals[v]);
        io_start(refused.rig.state, &refused.io);
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        refused_free(&refused, true);
    }
}

static void a_waiting_thread_sleeps_until_the_kernel_takes_more(void)
{
    test_watch(HANG_SECONDS);
    for (int v = 0; v < 2; v++) {
        pthread_t thread;
        Refused refused = refused_new(refusals[v]);
        Period period = period_begin();
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        CHECK_EQ(way_co_submit(v ? WAY_QEMU : WAY_STATE, refused.rig.state, &refused.io), 0);
        period_end(period);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        refused_free(&refused, true);
    }
}

/* A program with an event loop of its own looks in now and then. */
static void a_turn_without_progress_says_so(void)
{
    test_watch(HANG_SECONDS);
    for (int v = 0; v < 2; v++) {
        Refused refused = refused_new(refusals[v]);
        Period period = period_begin();
        io_start(refused.rig.state, &refused.io);
        while (test_now() < period.since + REFUSED_US * 1e-6) {
            CHECK(!laio_loop_poll(refused.rig.ctx, false));
        }
        period_end(period);
        CHECK_EQ(refused.io.completions, 0);
        valve_set(VALVE_OPEN, -1);
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        refused_free(&refused, true);
    }
}

/* New requests, plugs and nested loops do not make it ask more. */
static void whoever_comes_meanwhile_does_not_make_it_ask(void)
{
    enum { MORE = 1000 };
    static Io more[MORE];
    pthread_t thread;
    test_watch(HANG_SECONDS);
    Refused refused = refused_new(VALVE_EAGAIN);
    Period period = period_begin();
    io_start(refused.rig.state, &refused.io);
    for (int i = 0; i < MORE; i++) {
        more[i] = refused.io;
        laio_state_io_plug(refused.rig.state);
        io_start(refused.rig.state, &more[i]);
        laio_state_io_unplug(refused.rig.state, 1);
        host_poll(refused.rig.ctx, false);
    }
    CHECK_EQ(state_stats(refused.rig.state).in_queue, MORE + 1);
    period_end(period);
    CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
    io_finish(refused.rig.ctx, &refused.io, 1);
    io_finish(refused.rig.ctx, more, MORE);
    period_end(period);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    refused_free(&refused, true);
}

/* Another state of the loop has work that completes, and is not held up. */
static void other_states_go_on_meanwhile(void)
{
    test_watch(HANG_SECONDS);
    for (int v = 0; v < 2; v++) {
        Refused refused = refused_new(refusals[v]);
        int fd = test_file(O_DIRECT), hole = hole_file();
        char *buffer = aligned_buffer(BLOCK);
        LinuxAioState *other = state_new();
        laio_attach_aio_context(other, refused.rig.ctx);
        CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
        Period period = period_begin();
        io_start(refused.rig.state, &refused.io);
        unsigned rounds = test_scaled(2000, 200);
        for (unsigned i = 0; i < rounds; i++) {
            Io io = io_of(QEMU_AIO_READ, i % 2 ? fd : hole, 0, buffer, BLOCK);
            io_start(other, &io);
            io_finish(refused.rig.ctx, &io, 1);
            CHECK_EQ(io.ret, 0);
        }
        period_end(period);
        CHECK_EQ(refused.io.completions, 0);
        valve_set(VALVE_OPEN, -1);
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        check_idle(other);
        laio_detach_aio_context(other, refused.rig.ctx);
        laio_cleanup(other);
        free(buffer);
        close(fd);
        close(hole);
        refused_free(&refused, true);
    }
}

/* Something of its own is in flight: its completion tells. */
static void a_completion_ends_the_wait(void)
{
    test_watch(HANG_SECONDS);
    Refused refused = refused_new(VALVE_HOLD);
    Io ios[] = {refused.io, refused.io};
    Period period = period_begin();
    io_start(refused.rig.state, &ios[0]);
    valve_set(VALVE_EAGAIN, refused.fd);
    io_start(refused.rig.state, &ios[1]);
    for (int i = 0; i < 100; i++) {
        host_poll(refused.rig.ctx, false);
    }
    LaioStats stats = state_stats(refused.rig.state);
    CHECK_EQ(stats.in_flight, 1);
    CHECK_EQ(stats.in_queue, 1);
    period_end(period);
    valve_release();
    io_finish(refused.rig.ctx, ios, 2);
    CHECK_EQ(ios[0].ret, 0);
    CHECK_EQ(ios[1].ret, 0);
    refused_free(&refused, true);
}

/* Where the state goes meanwhile. */
static void a_state_leaves_its_loop_meanwhile(void)
{
    test_watch(HANG_SECONDS);
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        pthread_t thread;
        Refused refused = refused_new(VALVE_EAGAIN);
        AioContext *first = refused.rig.ctx, *other = host_context_new();
        host_set_current(first);
        unsigned descriptors = test_descriptors();
        Period period = period_begin();
        io_start(refused.rig.state, &refused.io);
        host_poll(first, false);
        laio_detach_aio_context(refused.rig.state, first);
        host_set_state(first, NULL);
        EXPECT_LOG("laio_detach_aio_context: 1 requests are outstanding");
        if (!host->builtin) {
            CHECK_EQ(host_watched(first), 0);
        }
        for (int i = 0; i < 10; i++) {
            CHECK(!host_poll(first, false));
        }
        refused.rig.ctx = elsewhere ? other : first;
        host_set_current(refused.rig.ctx);
        host_set_state(refused.rig.ctx, refused.rig.state);
        laio_attach_aio_context(refused.rig.state, refused.rig.ctx);
        host_poll(refused.rig.ctx, false);
        CHECK_EQ(refused.io.completions, 0);
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        period_end(period);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_LE(test_descriptors(), descriptors + 1);
        host_context_free(elsewhere ? first : other);
        refused_free(&refused, true);
    }
}

static void a_state_is_freed_meanwhile(void)
{
    test_watch(HANG_SECONDS);
    unsigned before = test_descriptors();
    for (int detached = 0; detached < 2; detached++) {
        pthread_t thread;
        Refused refused = refused_new(VALVE_EAGAIN);
        Period period = period_begin();
        io_start(refused.rig.state, &refused.io);
        host_poll(refused.rig.ctx, false);
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        host_set_state(refused.rig.ctx, NULL);
        if (detached) {
            laio_detach_aio_context(refused.rig.state, refused.rig.ctx);
            EXPECT_LOG("laio_detach_aio_context: 1 requests are outstanding");
        }
        laio_cleanup(refused.rig.state);
        EXPECT_LOG("laio_cleanup: waiting for 1 requests");
        CHECK_EQ(refused.io.completions, 1);
        CHECK_EQ(refused.io.ret, 0);
        period_end(period);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        host_poll(refused.rig.ctx, false);
        host_context_free(refused.rig.ctx);
        refused_free(&refused, false);
        CHECK_EQ(test_descriptors(), before);
    }
}

/* The timer is watched through the hooks, as long as it is needed, and no bottom half is scheduled
 * that would keep the host busy. */
static void the_host_watches_a_timer_meanwhile(void)
{
    pthread_t thread;
    test_watch(HANG_SECONDS);
    for (int round = 0; round < 3; round++) {
        Refused refused = refused_new(VALVE_EAGAIN);
        CHECK_EQ(host_watched(refused.rig.ctx), 1);
        io_start(refused.rig.state, &refused.io);
        for (int i = 0; i < 10; i++) {
            host_poll(refused.rig.ctx, false);
        }
        CHECK_EQ(host_watched(refused.rig.ctx), 2);
        HostCounts before = host_counts(refused.rig.ctx);
        Period period = period_begin();
        CHECK_EQ(pthread_create(&thread, NULL, open_valve, NULL), 0);
        io_finish(refused.rig.ctx, &refused.io, 1);
        CHECK_EQ(refused.io.ret, 0);
        HostCounts after = host_counts(refused.rig.ctx);
        double elapsed = test_now() - period.since;
        uint64_t calls = after.bh_calls + after.eventfd_calls - before.bh_calls -
                         before.eventfd_calls;
        if ((double)calls > ASKS_AT_ONCE + elapsed * 2 * ASKS_PER_SECOND) {
            FAIL("the host was kept busy: %llu calls in %.3f seconds", (unsigned long long)calls,
                 elapsed);
        }
        CHECK_EQ(host_watched(refused.rig.ctx), 1);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        refused_free(&refused, true);
    }
}

/* What the kernel has no room to be asked is not known, and so is not promised. (A question that it
 * does not take was waited for, and "no room" taken for "can be flushed".) */
static void what_cannot_be_asked_is_not_promised(void)
{
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    int file = test_file(0);
    for (unsigned i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
        test_watch(HANG_SECONDS);
        valve_set(refusals[i], -1);
        CHECK(!laio_has_fdsync(ends[1]));
        /* Known since the kernel had room. */
        CHECK_EQ(laio_has_fdsync(file), i > 0);
        CHECK_EQ(laio_has_fua(), i > 0);
        valve_set(VALVE_OPEN, -1);
        CHECK(!laio_has_fdsync(ends[1]));
        CHECK(laio_has_fdsync(file));
        CHECK(laio_has_fua());
    }
    close(file);
    close(ends[0]);
    close(ends[1]);
}

#define HOSTS                                                                                      \
    (HOST_QEMU | HOST_STRICT | HOST_PLAIN | HOST_MINIMAL | HOST_TWICE | HOST_ADAPTIVE |            \
     HOST_POLLED | HOST_LOCK | HOST_BUILTIN)
#define HEARING (HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_LOCK)

static const TestCase cases[] = {
    {"the event loop sleeps until the kernel takes more",
     the_event_loop_sleeps_until_the_kernel_takes_more, HOSTS},
    {"a waiting thread sleeps until the kernel takes more",
     a_waiting_thread_sleeps_until_the_kernel_takes_more, HOST_BUILTIN},
    {"the timer fires before the thread goes on", the_timer_fires_before_the_thread_goes_on, HOSTS},
    {"a turn without progress says so", a_turn_without_progress_says_so, HOST_BUILTIN},
    {"whoever comes meanwhile does not make it ask", whoever_comes_meanwhile_does_not_make_it_ask,
     HOSTS},
    {"other states go on meanwhile", other_states_go_on_meanwhile, HOSTS},
    {"a completion ends the wait", a_completion_ends_the_wait, HOSTS},
    {"a state leaves its loop meanwhile", a_state_leaves_its_loop_meanwhile, HOSTS},
    {"a state is freed meanwhile", a_state_is_freed_meanwhile, HOSTS},
    {"what cannot be asked is not promised", what_cannot_be_asked_is_not_promised, HOST_BUILTIN},
    {"the host watches a timer meanwhile", the_host_watches_a_timer_meanwhile, HEARING},
};

TEST_MAIN(cases)
