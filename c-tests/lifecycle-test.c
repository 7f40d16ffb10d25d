/*
 * Attach, detach and clean-up, idle and not.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

enum { COUNT = 100 };

/* Requests of a device, or of a hole. */
typedef struct Bunch {
    int fd;
    char *buffer;
    Io ios[COUNT];
} Bunch;

static Bunch bunch_new(bool hole)
{
    Bunch bunch = {.fd = hole ? hole_file() : test_file(O_DIRECT),
                   .buffer = aligned_buffer(COUNT * BLOCK)};
    if (!hole) {
        CHECK_EQ(pwrite(bunch.fd, bunch.buffer, COUNT * BLOCK, 0), COUNT * BLOCK);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        bunch.ios[i] = io_of(QEMU_AIO_READ, bunch.fd, i * BLOCK, bunch.buffer + i * BLOCK, BLOCK);
    }
    return bunch;
}

static void bunch_start(Bunch *bunch, LinuxAioState *s)
{
    for (unsigned i = 0; i < COUNT; i++) {
        io_start(s, &bunch->ios[i]);
    }
}

static void bunch_finish(Bunch *bunch, AioContext *ctx)
{
    io_finish(ctx, bunch->ios, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK_EQ(bunch->ios[i].ret, 0);
    }
}

static void bunch_free(Bunch *bunch)
{
    free(bunch->buffer);
    close(bunch->fd);
}

static void move_to(Rig *rig, AioContext *to)
{
    laio_detach_aio_context(rig->state, rig->ctx);
    host_set_state(rig->ctx, NULL);
    laio_attach_aio_context(rig->state, to);
    host_set_state(to, rig->state);
    host_set_current(to);
    rig->ctx = to;
}

static void an_idle_state_moves_between_event_loops(void)
{
    Rig rig = rig_new();
    AioContext *loops[] = {rig.ctx, host_context_new()};
    host_set_current(rig.ctx);
    Bunch bunch = bunch_new(false);
    for (int i = 0; i < 6; i++) {
        bunch_start(&bunch, rig.state);
        bunch_finish(&bunch, rig.ctx);
        AioContext *left = rig.ctx;
        move_to(&rig, loops[(i + 1) % 2]);
        /* Nobody is there any more who could be called. */
        CHECK(!host_poll(left, false));
    }
    CHECK_EQ(state_stats(rig.state).completed, 6 * COUNT);
    bunch_free(&bunch);
    host_context_free(loops[rig.ctx == loops[0]]);
    rig_free(rig);
}

/* The requests that a plug holds back, and those that are in flight. */
static void detach_with_requests_outstanding(bool other_loop)
{
    Rig rig = rig_new();
    AioContext *other = host_context_new();
    AioContext *first = rig.ctx;
    host_set_current(first);
    Bunch bunch = bunch_new(false);
    laio_state_io_plug(rig.state);
    bunch_start(&bunch, rig.state);
    LaioStats stats = state_stats(rig.state);
    CHECK(stats.in_queue > 0);
    laio_detach_aio_context(rig.state, first);
    EXPECT_LOG("laio_detach_aio_context: ");
    for (int i = 0; i < 3; i++) {
        host_poll(first, false);
    }
    CHECK_EQ(state_stats(rig.state).completed, stats.completed);
    Io refused = bunch.ios[0];
    CHECK_EQ(laio_state_submit(rig.state, refused.fd, 0, &refused.one, 1, QEMU_AIO_READ, 0, 0,
                               io_completed, &refused),
             -ENOTCONN);
    rig.ctx = other_loop ? other : first;
    host_set_current(rig.ctx);
    laio_attach_aio_context(rig.state, rig.ctx);
    bunch_finish(&bunch, rig.ctx);
    laio_state_io_unplug(rig.state, 0);
    CHECK_EQ(state_stats(rig.state).completed, COUNT);
    bunch_free(&bunch);
    host_context_free(other_loop ? first : other);
    rig_free(rig);
}

static void detach_with_requests_outstanding_then_attach(void)
{
    detach_with_requests_outstanding(false);
}

static void detach_with_requests_outstanding_then_attach_elsewhere(void)
{
    detach_with_requests_outstanding(true);
}

/* None is in flight, so that no eventfd tells the new event loop of them. */
static void requests_that_were_only_queued_go_on_after_the_attach(void)
{
    Rig rig = rig_new();
    int fd = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    Io ios[5];
    laio_state_io_plug(rig.state);
    for (int i = 0; i < 5; i++) {
        ios[i] = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        io_start(rig.state, &ios[i]);
    }
    CHECK_EQ(state_stats(rig.state).in_flight, 0);
    laio_detach_aio_context(rig.state, rig.ctx);
    EXPECT_LOG("laio_detach_aio_context: 5 requests are outstanding until the next attach");
    laio_attach_aio_context(rig.state, rig.ctx);
    io_finish(rig.ctx, ios, 5);
    laio_state_io_unplug(rig.state, 0);
    free(buffer);
    close(fd);
    rig_free(rig);
}

/* Those in flight complete while nobody listens; their signals may be read by then. */
static void requests_that_completed_while_detached_are_found(void)
{
    Rig rig = rig_new();
    int fd = test_file(O_DIRECT);
    char *buffer = aligned_buffer(BLOCK);
    Io flush = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
    LaioStats stats;
    /* A flush is another kernel thread's; until one is not complete at once. */
    do {
        CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
        io_start(rig.state, &flush);
        stats = state_stats(rig.state);
        if (stats.in_flight == 0) {
            io_finish(rig.ctx, &flush, 1);
        }
    } while (stats.in_flight == 0);
    laio_detach_aio_context(rig.state, rig.ctx);
    EXPECT_LOG("laio_detach_aio_context: 1 requests are outstanding until the next attach");
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(flush.completions, 0);
    laio_attach_aio_context(rig.state, rig.ctx);
    io_finish(rig.ctx, &flush, 1);
    CHECK_EQ(flush.ret, 0);
    free(buffer);
    close(fd);
    rig_free(rig);
}

/* The first of many completions detaches the state, whichever it is: Linux 6.1 hands a batch to a
 * disk in reverse. */
typedef struct Detacher {
    Rig rig;
    Bunch bunch;
    bool detached;
} Detacher;

static Detacher detacher;

static void detaching_completed(void *opaque, int ret)
{
    io_completed(opaque, ret);
    if (!detacher.detached) {
        laio_detach_aio_context(detacher.rig.state, detacher.rig.ctx);
        detacher.detached = true;
        EXPECT_LOG("laio_detach_aio_context: ");
    }
}

static void a_completion_detaches_its_state(void)
{
    for (int hole = 0; hole < 2; hole++) {
        detacher = (Detacher){.rig = rig_new(), .bunch = bunch_new(hole)};
        Rig rig = detacher.rig;
        laio_state_io_plug(rig.state);
        unsigned started = 0;
        while (started < COUNT && !detacher.detached) {
            Io *io = &detacher.bunch.ios[started];
            CHECK_EQ(laio_state_submit(rig.state, io->fd, started++ * BLOCK, &io->one, 1,
                                       QEMU_AIO_READ, 0, 0, detaching_completed, io),
                     0);
        }
        while (!detacher.detached) {
            CHECK(host_poll(rig.ctx, true));
        }
        laio_attach_aio_context(rig.state, rig.ctx);
        while (started < COUNT) {
            io_start(rig.state, &detacher.bunch.ios[started++]);
        }
        laio_state_io_unplug(rig.state, 0);
        bunch_finish(&detacher.bunch, rig.ctx);
        CHECK_EQ(state_stats(rig.state).completed, COUNT);
        bunch_free(&detacher.bunch);
        rig_free(rig);
    }
}

static void states_come_and_go_without_a_trace(void)
{
    rig_free(rig_new());
    unsigned before = test_descriptors();
    for (unsigned i = 0; i < 100; i++) {
        rig_free(rig_new());
        laio_cleanup(state_new());
    }
    CHECK_EQ(test_descriptors(), before);
}

static void cleanup_detaches(void)
{
    AioContext *ctx = host_context_new();
    LinuxAioState *s = state_new();
    laio_attach_aio_context(s, ctx);
    laio_cleanup(s);
    CHECK(!host_poll(ctx, false));
    host_context_free(ctx);
}

/* Told of its result from within laio_cleanup(), it tries to go on. */
typedef struct LateComer {
    LinuxAioState *state;
    Io *io;
    int answer;
} LateComer;

static void late_comer_completed(void *opaque, int ret)
{
    LateComer *late = opaque;
    io_completed(late->io, ret);
    late->answer = laio_state_submit(late->state, late->io->fd, 0, &late->io->one, 1, QEMU_AIO_READ,
                                     0, 0, io_completed, late->io);
}

static void cleanup_completes_what_is_outstanding(void)
{
    for (int hole = 0; hole < 2; hole++) {
        Rig rig = rig_new();
        Bunch bunch = bunch_new(hole);
        LateComer late = {rig.state, &bunch.ios[COUNT - 1], 0};
        laio_state_io_plug(rig.state);
        for (unsigned i = 0; i < COUNT - 1; i++) {
            io_start(rig.state, &bunch.ios[i]);
        }
        CHECK_EQ(laio_state_submit(rig.state, bunch.fd, 0, &late.io->one, 1, QEMU_AIO_READ, 0, 0,
                                   late_comer_completed, &late),
                 0);
        CHECK(state_stats(rig.state).in_queue > 0);
        host_set_state(rig.ctx, NULL);
        if (hole) {
            laio_detach_aio_context(rig.state, rig.ctx);
            EXPECT_LOG("laio_detach_aio_context: ");
        }
        laio_cleanup(rig.state);
        EXPECT_LOG("laio_cleanup: waiting for ");
        for (unsigned i = 0; i < COUNT; i++) {
            CHECK_EQ(bunch.ios[i].completions, 1);
            CHECK_EQ(bunch.ios[i].ret, 0);
        }
        CHECK_EQ(late.answer, -ENOTCONN);
        bunch_free(&bunch);
        host_context_free(rig.ctx);
    }
}

/* Coroutines that wait are woken from within laio_cleanup(), and end. */
typedef struct Sleeper {
    Rig rig;
    Io *io;
} Sleeper;

static void co_sleeper(void *opaque)
{
    Sleeper *sleeper = opaque;
    io_completed(sleeper->io, way_co_submit(WAY_STATE, sleeper->rig.state, sleeper->io));
}

static void cleanup_wakes_the_coroutines_that_wait(void)
{
    Rig rig = rig_new();
    Bunch bunch = bunch_new(false);
    Sleeper sleepers[COUNT];
    laio_state_io_plug(rig.state);
    for (unsigned i = 0; i < COUNT; i++) {
        sleepers[i] = (Sleeper){rig, &bunch.ios[i]};
        coroutine_enter(coroutine_new(co_sleeper, &sleepers[i]));
    }
    host_set_state(rig.ctx, NULL);
    laio_cleanup(rig.state);
    EXPECT_LOG("laio_cleanup: waiting for ");
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK_EQ(bunch.ios[i].completions, 1);
        CHECK_EQ(bunch.ios[i].ret, 0);
    }
    bunch_free(&bunch);
    host_context_free(rig.ctx);
}

typedef struct Suicide {
    LinuxAioState *state;
    Io *io;
} Suicide;

static void suicide_completed(void *opaque, int ret)
{
    Suicide *suicide = opaque;
    laio_cleanup(suicide->state);
    EXPECT_LOG("laio_cleanup: called from within a completion of the same state");
    io_completed(suicide->io, ret);
}

static void cleanup_from_within_a_completion_is_refused(void)
{
    for (int hole = 0; hole < 2; hole++) {
        Rig rig = rig_new();
        Bunch bunch = bunch_new(hole);
        Suicide suicides[COUNT];
        laio_state_io_plug(rig.state);
        for (unsigned i = 0; i < COUNT; i++) {
            Io *io = &bunch.ios[i];
            suicides[i] = (Suicide){rig.state, io};
            CHECK_EQ(laio_state_submit(rig.state, io->fd, io->offset, &io->one, 1, QEMU_AIO_READ, 0,
                                       0, suicide_completed, &suicides[i]),
                     0);
        }
        laio_state_io_unplug(rig.state, 0);
        bunch_finish(&bunch, rig.ctx);
        bunch_free(&bunch);
        rig_free(rig);
    }
}

static void cleanup_in_a_deferred_section_is_refused(void)
{
    Rig rig = rig_new();
    Bunch bunch = bunch_new(false);
    host_defer_begin();
    bunch_start(&bunch, rig.state);
    laio_cleanup(rig.state);
    EXPECT_LOG("laio_cleanup: a deferred call to the state is pending");
    host_defer_end();
    bunch_finish(&bunch, rig.ctx);
    bunch_free(&bunch);
    rig_free(rig);
}

static void attach_twice_is_refused(void)
{
    Rig rig = rig_new();
    AioContext *other = host_context_new();
    Bunch bunch = bunch_new(false);
    laio_attach_aio_context(rig.state, other);
    EXPECT_LOG("laio_attach_aio_context: the state is attached to an event loop already");
    laio_attach_aio_context(rig.state, rig.ctx);
    EXPECT_LOG("laio_attach_aio_context: the state is attached to an event loop already");
    host_set_current(rig.ctx);
    bunch_start(&bunch, rig.state);
    bunch_finish(&bunch, rig.ctx);
    bunch_free(&bunch);
    host_context_free(other);
    rig_free(rig);
}

static void detach_from_another_event_loop_is_refused(void)
{
    Rig rig = rig_new();
    AioContext *other = host_context_new();
    laio_detach_aio_context(rig.state, other);
    EXPECT_LOG("laio_detach_aio_context: the state is not attached to this event loop");
    laio_detach_aio_context(rig.state, NULL);
    EXPECT_LOG("laio_detach_aio_context: ");
    LinuxAioState *loose = state_new();
    laio_detach_aio_context(loose, other);
    EXPECT_LOG("laio_detach_aio_context: the state is not attached to this event loop");
    laio_cleanup(loose);
    host_context_free(other);
    rig_free(rig);
}

/* As with QEMU's IOThreads: the main thread sets up what another thread will use. */
static void *iothread(void *opaque)
{
    Rig *rig = opaque;
    host_set_current(rig->ctx);
    Bunch bunch = bunch_new(false);
    bunch_start(&bunch, rig->state);
    bunch_finish(&bunch, rig->ctx);
    bunch_free(&bunch);
    coroutine_thread_done();
    return NULL;
}

static void one_thread_sets_up_what_another_uses(void)
{
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        Rig rig = rig_new();
        CHECK_EQ(pthread_create(&thread, NULL, iothread, &rig), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        host_set_current(rig.ctx);
        rig_free(rig);
    }
}

/* Who holds the lock may submit; the completion comes to the event loop's thread, or to whoever
 * submits. */
static void *lock_holder(void *opaque)
{
    Sleeper *sleeper = opaque;
    host_lock(sleeper->rig.ctx);
    io_start(sleeper->rig.state, sleeper->io);
    host_unlock(sleeper->rig.ctx);
    return NULL;
}

static void with_a_lock_another_thread_submits(void)
{
    Rig rig = rig_new();
    Bunch bunch = bunch_new(false);
    for (int i = 0; i < COUNT; i++) {
        pthread_t thread;
        Sleeper sleeper = {rig, &bunch.ios[i]};
        CHECK_EQ(pthread_create(&thread, NULL, lock_holder, &sleeper), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    bunch_finish(&bunch, rig.ctx);
    CHECK(host_counts(rig.ctx).lock_acquisitions > COUNT);
    bunch_free(&bunch);
    rig_free(rig);
}

static void init_without_descriptors_says_why(void)
{
    struct rlimit old, none = {0};
    char message[256];
    Error *error = NULL;
    laio_cleanup(state_new());
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    none.rlim_max = old.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    LinuxAioState *with_place = laio_init(&error);
    LinuxAioState *without_place = laio_init(NULL);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK(!with_place && !without_place);
    CHECK_EQ(host_take_error(message, sizeof(message)), EMFILE);
    CHECK(strstr(message, "cannot make an eventfd"));
    CHECK(error != NULL);
}

static void init_without_descriptors_says_why_on_standard_error(void)
{
    struct rlimit old, none = {0};
    Error *error = NULL;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    none.rlim_max = old.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    LinuxAioState *s = laio_init(&error);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK(!s);
    CHECK(!error);
    EXPECT_LOG("laio_init: cannot make an eventfd: Too many open files");
}

static void a_loop_that_serves_a_state_is_not_freed(void)
{
    Rig rig = rig_new();
    Bunch bunch = bunch_new(false);
    bunch_start(&bunch, rig.state);
    laio_loop_free(rig.ctx);
    EXPECT_LOG("laio_loop_free: a state is still attached to the event loop");
    bunch_finish(&bunch, rig.ctx);
    bunch_free(&bunch);
    rig_free(rig);
}

static void loop_freed_within_a_turn_completed(void *opaque, int ret)
{
    Detacher *d = opaque;
    io_completed(&d->bunch.ios[0], ret);
    laio_loop_free(d->rig.ctx);
    EXPECT_LOG("laio_loop_free: called from within laio_loop_poll()");
}

static void a_loop_that_runs_is_not_freed(void)
{
    Detacher d = {.rig = rig_new(), .bunch = bunch_new(false)};
    Io *io = &d.bunch.ios[0];
    /* Plugged, so that it completes in a turn of the loop and not in the call. */
    laio_state_io_plug(d.rig.state);
    CHECK_EQ(laio_state_submit(d.rig.state, io->fd, 0, &io->one, 1, QEMU_AIO_READ, 0, 0,
                               loop_freed_within_a_turn_completed, &d),
             0);
    io_finish(d.rig.ctx, io, 1);
    laio_state_io_unplug(d.rig.state, 0);
    bunch_free(&d.bunch);
    rig_free(d.rig);
}

static void *poll_of_another_thread(void *opaque)
{
    CHECK(!laio_loop_poll(opaque, true));
    EXPECT_LOG("laio_loop_poll: the event loop belongs to another thread");
    return NULL;
}

static void a_loop_serves_one_thread(void)
{
    pthread_t thread;
    AioContext *ctx = laio_loop_new();
    CHECK(!laio_loop_poll(ctx, true));
    CHECK_EQ(pthread_create(&thread, NULL, poll_of_another_thread, ctx), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    laio_loop_free(ctx);
}

#define DEFERRING (HOST_QEMU | HOST_STRICT | HOST_TWICE | HOST_ADAPTIVE | HOST_POLLED | HOST_LOCK)

static const TestCase cases[] = {
    {"an idle state moves between event loops", an_idle_state_moves_between_event_loops,
     HOST_HEARING},
    {"detach with requests outstanding, then attach", detach_with_requests_outstanding_then_attach,
     HOST_HEARING},
    {"detach with requests outstanding, then attach elsewhere",
     detach_with_requests_outstanding_then_attach_elsewhere, HOST_HEARING},
    {"requests that were only queued go on after the attach",
     requests_that_were_only_queued_go_on_after_the_attach, HOST_ANY},
    {"requests that completed while detached are found",
     requests_that_completed_while_detached_are_found, HOST_HEARING},
    {"a completion detaches its state", a_completion_detaches_its_state, HOST_HEARING},
    {"states come and go without a trace", states_come_and_go_without_a_trace,
     HOST_QEMU | HOST_BUILTIN},
    {"cleanup detaches", cleanup_detaches, HOST_ANY},
    {"cleanup completes what is outstanding", cleanup_completes_what_is_outstanding, HOST_ANY},
    {"cleanup wakes the coroutines that wait", cleanup_wakes_the_coroutines_that_wait,
     HOST_ANY & ~(HOST_MINIMAL | HOST_BUILTIN)},
    {"cleanup from within a completion is refused", cleanup_from_within_a_completion_is_refused,
     HOST_HEARING},
    {"cleanup in a deferred section is refused", cleanup_in_a_deferred_section_is_refused,
     DEFERRING},
    {"attach twice is refused", attach_twice_is_refused, HOST_HEARING},
    {"detach from another event loop is refused", detach_from_another_event_loop_is_refused,
     HOST_ANY},
    {"one thread sets up what another uses", one_thread_sets_up_what_another_uses, HOST_HEARING},
    {"with a lock another thread submits", with_a_lock_another_thread_submits, HOST_LOCK},
    {"init without descriptors says why", init_without_descriptors_says_why, HOST_QEMU},
    {"init without descriptors says why on standard error",
     init_without_descriptors_says_why_on_standard_error, HOST_MINIMAL | HOST_BUILTIN},
    {"a loop that serves a state is not freed", a_loop_that_serves_a_state_is_not_freed,
     HOST_BUILTIN},
    {"a loop that runs is not freed", a_loop_that_runs_is_not_freed, HOST_BUILTIN},
    {"a loop serves one thread", a_loop_serves_one_thread, HOST_BUILTIN},
};

TEST_MAIN(cases)
