/*
 * A completion detaches its state while laio_co_submit() waits further up for another request of
 * it, on the built-in event loop. Nothing can complete then, and the wait turned into a spin, for
 * ever. The waiter sleeps until the next attach, on whichever thread and to whichever loop, and
 * returns its result.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { HANG_SECONDS = 60, DETACHED_US = 500 * 1000 };

/* Who attaches the state again. */
typedef enum Attacher {
    A_THREAD,           /* another one, to the same loop */
    A_COMPLETION,       /* of another state of the loop */
    A_THREAD_WITH_LOOP, /* to its own, which then completes the request */
} Attacher;

/* Where the request is that is waited for. */
typedef enum Where { QUEUED, IN_FLIGHT, COMPLETE_MEANWHILE } Where;

typedef struct Scene {
    Rig rig;
    LinuxAioState *other;
    int held_fd;
    int hole_fd;
    int other_fd;
    char *buffer;
    Attacher attacher;
    Where where;
    Way way;
    pthread_t waiter;
    atomic_bool detached;
    atomic_bool finished;
    /* How much the waiter ran while it was detached. */
    double elapsed;
    double ran;
    double detached_at;
    double ran_before;
} Scene;

static double cpu_time(pthread_t thread)
{
    clockid_t clock;
    struct timespec used;
    CHECK_EQ(pthread_getcpuclockid(thread, &clock), 0);
    CHECK_EQ(clock_gettime(clock, &used), 0);
    return used.tv_sec + used.tv_nsec * 1e-9;
}

static void begin_detached(Scene *scene)
{
    scene->detached_at = test_now();
    scene->ran_before = cpu_time(scene->waiter);
}

static void end_detached(Scene *scene)
{
    scene->ran = cpu_time(scene->waiter) - scene->ran_before;
    scene->elapsed = test_now() - scene->detached_at;
}

static void detaching_completed(void *opaque, int ret)
{
    Scene *scene = opaque;
    CHECK_EQ(ret, 0);
    laio_detach_aio_context(scene->rig.state, scene->rig.ctx);
    EXPECT_LOG("laio_detach_aio_context: 1 requests are outstanding until the next attach");
    begin_detached(scene);
    atomic_store(&scene->detached, true);
}

static void attaching_completed(void *opaque, int ret)
{
    Scene *scene = opaque;
    CHECK_EQ(ret, 0);
    end_detached(scene);
    laio_attach_aio_context(scene->rig.state, scene->rig.ctx);
}

/* Another thread: lets time pass, and attaches, or sees to it that a completion does. */
static void *attacher(void *opaque)
{
    Scene *scene = opaque;
    AioContext *own = NULL;
    while (!atomic_load(&scene->detached)) {
        usleep(1000);
    }
    if (scene->where == COMPLETE_MEANWHILE) {
        valve_release();
    }
    usleep(DETACHED_US);
    if (scene->attacher == A_COMPLETION) {
        valve_release(); /* Of the other state. */
        return NULL;
    }
    end_detached(scene);
    if (scene->attacher == A_THREAD_WITH_LOOP) {
        own = laio_loop_new();
        laio_attach_aio_context(scene->rig.state, own);
    } else {
        laio_attach_aio_context(scene->rig.state, scene->rig.ctx);
    }
    valve_release();
    if (own) {
        LaioStats stats;
        do {
            laio_loop_poll(own, true);
            stats = state_stats(scene->rig.state);
        } while (stats.in_queue + stats.in_flight > 0);
        while (!atomic_load(&scene->finished)) {
            usleep(1000);
        }
        laio_detach_aio_context(scene->rig.state, own);
        laio_loop_free(own);
    }
    return NULL;
}

static void wait_detached(Attacher who, Where where, Way way)
{
    Scene scene = {.rig = rig_new(),
                   .held_fd = test_file(O_DIRECT),
                   .hole_fd = hole_file(),
                   .other_fd = hole_file(),
                   .buffer = aligned_buffer(3 * BLOCK),
                   .attacher = who,
                   .where = where,
                   .way = way,
                   .waiter = pthread_self()};
    pthread_t thread;
    test_context("attacher %d, request %d, way %d", who, where, way);
    scene.other = state_new();
    laio_attach_aio_context(scene.other, scene.rig.ctx);
    memset(scene.buffer, 0x42, BLOCK);
    CHECK_EQ(pwrite(scene.held_fd, scene.buffer, BLOCK, 0), BLOCK);
    memset(scene.buffer, 0xa5, BLOCK);

    /* The one that attaches is held, if there is one; and the one that is waited for. */
    struct iovec iov[] = {{scene.buffer + BLOCK, BLOCK}, {scene.buffer + 2 * BLOCK, BLOCK}};
    valve_set(VALVE_HOLD, -1);
    if (who == A_COMPLETION) {
        CHECK_EQ(laio_state_submit(scene.other, scene.other_fd, 0, &iov[1], 1, QEMU_AIO_READ, 0, 0,
                                   attaching_completed, &scene),
                 0);
    }
    valve_set(where == QUEUED ? VALVE_EAGAIN : VALVE_HOLD, scene.held_fd);
    /* The one that detaches completes in the first turn of the loop in which the waiter waits:
     * it belongs to another state, and the loop finds it in the plugged queue. */
    LinuxAioState *third = state_new();
    laio_attach_aio_context(third, scene.rig.ctx);
    laio_state_io_plug(third);
    CHECK_EQ(laio_state_submit(third, scene.hole_fd, 0, &iov[0], 1, QEMU_AIO_READ, 0, 0,
                               detaching_completed, &scene),
             0);
    CHECK_EQ(pthread_create(&thread, NULL, attacher, &scene), 0);
    Io io = io_of(QEMU_AIO_READ, scene.held_fd, 0, scene.buffer, BLOCK);
    int result = way_co_submit(way, scene.rig.state, &io);
    atomic_store(&scene.finished, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(result, 0);
    CHECK(atomic_load(&scene.detached));
    for (int i = 0; i < BLOCK; i++) {
        CHECK_EQ(scene.buffer[i], 0x42);
    }
    /* Asleep, it does not run at all; one that spins has its share of a busy machine. */
    if (scene.ran > 0.05 + scene.elapsed / 20) {
        FAIL("the waiter ran for %.3f of %.3f seconds", scene.ran, scene.elapsed);
    }

    laio_state_io_unplug(third, 0);
    check_idle(third);
    laio_detach_aio_context(third, scene.rig.ctx);
    laio_cleanup(third);
    check_idle(scene.other);
    laio_detach_aio_context(scene.other, scene.rig.ctx);
    laio_cleanup(scene.other);
    if (who == A_THREAD_WITH_LOOP) {
        laio_attach_aio_context(scene.rig.state, scene.rig.ctx);
    }
    rig_free(scene.rig);
    free(scene.buffer);
    close(scene.held_fd);
    close(scene.hole_fd);
    close(scene.other_fd);
}

static void each_way(Attacher who)
{
    for (Where where = QUEUED; where <= COMPLETE_MEANWHILE; where++) {
        if (who == A_COMPLETION && where == COMPLETE_MEANWHILE) {
            continue; /* The valve would let both go. */
        }
        test_watch(HANG_SECONDS);
        wait_detached(who, where, WAY_STATE);
        wait_detached(who, where, WAY_QEMU);
    }
}

static void a_thread_attaches_while_another_waits(void)
{
    each_way(A_THREAD);
}

static void a_completion_attaches_while_the_thread_waits(void)
{
    each_way(A_COMPLETION);
}

static void another_threads_loop_completes_what_is_waited_for(void)
{
    each_way(A_THREAD_WITH_LOOP);
}

static const TestCase cases[] = {
    {"a thread attaches while another waits", a_thread_attaches_while_another_waits, HOST_BUILTIN},
    {"a completion attaches while the thread waits", a_completion_attaches_while_the_thread_waits,
     HOST_BUILTIN},
    {"another thread's loop completes what is waited for",
     another_threads_loop_completes_what_is_waited_for, HOST_BUILTIN},
};

TEST_MAIN(cases)
