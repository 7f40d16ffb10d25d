/*
 * The synchronous storm: each read of a hole is complete within io_submit(2), and its completion
 * starts the next one. Without a bound this overflows any stack.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <limits.h>
#include <pthread.h>
#include <unistd.h>

enum { STORM_STACK_BYTES = 128 * 1024 };

/* One chain of requests, each started by the completion of the one before. */
typedef struct Storm {
    Rig rig;
    int fd;
    Way way;
    struct iovec iov;
    unsigned total;
    unsigned started;
    unsigned completed;
    unsigned deepest;
} Storm;

static void storm_next(Storm *storm);

static void storm_completed(void *opaque, int ret)
{
    Storm *storm = opaque;
    CHECK_EQ(ret, 0);
    storm->completed++;
    CHECK_EQ(storm->completed, storm->started);
    if (laio_submit_depth() > storm->deepest) {
        storm->deepest = laio_submit_depth();
    }
    if (storm->started < storm->total) {
        storm_next(storm);
    }
}

static void storm_next(Storm *storm)
{
    uint64_t block = storm->started++ % 1000;
    CHECK_EQ(laio_state_submit(storm->rig.state, storm->fd, block * BLOCK, &storm->iov, 1,
                               QEMU_AIO_READ, 0, 0, storm_completed, storm),
             0);
}

static void co_storm(void *opaque)
{
    Storm *storm = opaque;
    while (storm->started < storm->total) {
        storm->started++;
        Io io = io_of(QEMU_AIO_READ, storm->fd, 0, storm->iov.iov_base, BLOCK);
        CHECK_EQ(way_co_submit(storm->way, storm->rig.state, &io), 0);
        storm->completed++;
        if (laio_submit_depth() > storm->deepest) {
            storm->deepest = laio_submit_depth();
        }
    }
}

static void storm_start(Storm *storm)
{
    if (storm->way == WAY_CALLBACK) {
        storm_next(storm);
        return;
    }
    /* Plugged, or the first request would complete before the coroutine has to yield. */
    laio_io_plug();
    coroutine_enter(coroutine_new(co_storm, storm));
    laio_io_unplug(0);
}

static void storm_run(Storm *storm, unsigned bound)
{
    CHECK_EQ(laio_set_max_submit_depth(bound), 0);
    CHECK_EQ(laio_max_submit_depth(), bound);
    storm->rig = rig_new();
    storm->fd = hole_file();
    storm->iov = (struct iovec){aligned_buffer(BLOCK), BLOCK};
    storm_start(storm);
    while (storm->completed < storm->total) {
        CHECK(host_poll(storm->rig.ctx, true));
        CHECK_EQ(laio_submit_depth(), 0);
    }
    LaioStats stats = state_stats(storm->rig.state);
    CHECK_EQ(stats.completed, storm->total);
    CHECK_EQ(stats.failed, 0);
    CHECK_EQ(stats.deepest_nesting, bound);
    CHECK_EQ(storm->deepest, bound);
    /* The storm is a storm only if the bound was reached again and again, and at each time the
     * bottom half was there to resume. */
    CHECK_GE(stats.at_bound, storm->total / (bound + 1) / 2);
    if (host->delivery == DELIVER_NEVER && host->polling == POLL_NEVER) {
        /* One run of the bottom half comes to the bound twice at most. */
        CHECK_GE(2 * stats.bh_resumptions, stats.at_bound);
        CHECK_EQ(host_counts(storm->rig.ctx).eventfd_calls, 0);
    }
    CHECK(stats.bh_resumptions > 0);
    host_poll(storm->rig.ctx, false);
    CHECK_EQ(storm->completed, storm->total);
    free(storm->iov.iov_base);
    close(storm->fd);
    rig_free(storm->rig);
}

static void *storm_thread(void *opaque)
{
    (void)opaque;
    const unsigned bounds[] = {1, 8, 64};
    for (int i = 0; i < 3; i++) {
        Storm storm = {.way = WAY_CALLBACK, .total = test_scaled(1000000, 2000)};
        storm_run(&storm, bounds[i]);
    }
    return NULL;
}

static void *co_storm_thread(void *opaque)
{
    (void)opaque;
    const unsigned bounds[] = {1, 8, 64};
    for (int i = 0; i < 3; i++) {
        Storm storm = {.way = i ? WAY_QEMU : WAY_STATE, .total = test_scaled(50000, 2000)};
        storm_run(&storm, bounds[i]);
    }
    coroutine_thread_done();
    return NULL;
}

static void on_a_small_stack(void *(*run)(void *))
{
    pthread_attr_t attributes;
    pthread_t thread;
    CHECK_EQ(pthread_attr_init(&attributes), 0);
    CHECK_EQ(pthread_attr_setstacksize(&attributes, STORM_STACK_BYTES), 0);
    CHECK_EQ(pthread_create(&thread, &attributes, run, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
}

static void a_million_chained_requests_on_a_small_stack(void)
{
    on_a_small_stack(storm_thread);
}

static void chained_requests_of_a_coroutine_on_a_small_stack(void)
{
    on_a_small_stack(co_storm_thread);
}

/* Many chains at once, over two states of one thread: the bound is the thread's. */
static void chains_over_two_states_share_the_bound(void)
{
    enum { CHAINS = 16, BOUND = 4 };
    CHECK_EQ(laio_set_max_submit_depth(BOUND), 0);
    Rig rig = rig_new();
    LinuxAioState *other = state_new();
    laio_attach_aio_context(other, rig.ctx);
    int fd = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    unsigned each = test_scaled(20000, 100);
    Storm storms[CHAINS];
    unsigned completed = 0, deepest = 0;
    for (int i = 0; i < CHAINS; i++) {
        storms[i] = (Storm){.rig = {rig.ctx, i % 2 ? other : rig.state},
                            .fd = fd,
                            .iov = {buffer, BLOCK},
                            .total = each};
        storm_next(&storms[i]);
    }
    while (completed < CHAINS * each) {
        host_poll(rig.ctx, true);
        completed = 0;
        for (int i = 0; i < CHAINS; i++) {
            completed += storms[i].completed;
            deepest = storms[i].deepest > deepest ? storms[i].deepest : deepest;
        }
    }
    CHECK_EQ(deepest, BOUND);
    CHECK_EQ(state_stats(rig.state).completed + state_stats(other).completed, CHAINS * each);
    check_idle(other);
    laio_detach_aio_context(other, rig.ctx);
    laio_cleanup(other);
    free(buffer);
    close(fd);
    rig_free(rig);
}

/* The chain jumps from one state to the other: neither may count on its own. */
typedef struct PingPong {
    Rig rig;
    LinuxAioState *other;
    int fd;
    struct iovec iov;
    unsigned started;
    unsigned completed;
    unsigned total;
    unsigned deepest;
} PingPong;

static void ping_pong_next(PingPong *game);

static void ping_pong_completed(void *opaque, int ret)
{
    PingPong *game = opaque;
    CHECK_EQ(ret, 0);
    game->completed++;
    game->deepest = laio_submit_depth() > game->deepest ? laio_submit_depth() : game->deepest;
    if (game->started < game->total) {
        ping_pong_next(game);
    }
}

static void ping_pong_next(PingPong *game)
{
    LinuxAioState *s = game->started++ % 2 ? game->other : game->rig.state;
    CHECK_EQ(laio_state_submit(s, game->fd, 0, &game->iov, 1, QEMU_AIO_READ, 0, 0,
                               ping_pong_completed, game),
             0);
}

static void *ping_pong_thread(void *opaque)
{
    (void)opaque;
    const unsigned bounds[] = {1, 8, 64};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(laio_set_max_submit_depth(bounds[i]), 0);
        PingPong game = {.rig = rig_new(),
                         .other = state_new(),
                         .fd = hole_file(),
                         .iov = {aligned_buffer(BLOCK), BLOCK},
                         .total = test_scaled(50000, 1000)};
        laio_attach_aio_context(game.other, game.rig.ctx);
        ping_pong_next(&game);
        while (game.completed < game.total) {
            CHECK(host_poll(game.rig.ctx, true));
        }
        CHECK_EQ(game.deepest, bounds[i]);
        check_idle(game.other);
        laio_detach_aio_context(game.other, game.rig.ctx);
        laio_cleanup(game.other);
        free(game.iov.iov_base);
        close(game.fd);
        rig_free(game.rig);
    }
    return NULL;
}

static void a_chain_from_state_to_state_shares_the_bound(void)
{
    on_a_small_stack(ping_pong_thread);
}

/* Requests that fail at once are a storm too. */
typedef struct Failing {
    LinuxAioState *state;
    struct iovec iov;
    int closed;
    unsigned started;
    unsigned completed;
    unsigned total;
    unsigned deepest;
} Failing;

static void failing_completed(void *opaque, int ret)
{
    Failing *failing = opaque;
    CHECK_EQ(ret, -EBADF);
    failing->completed++;
    unsigned depth = laio_submit_depth();
    failing->deepest = depth > failing->deepest ? depth : failing->deepest;
    if (failing->started < failing->total) {
        failing->started++;
        CHECK_EQ(laio_state_submit(failing->state, failing->closed, 0, &failing->iov, 1,
                                   QEMU_AIO_READ, 0, 0, failing_completed, failing),
                 0);
    }
}

static void *failing_thread(void *opaque)
{
    (void)opaque;
    char buffer[BLOCK];
    Rig rig = rig_new();
    int closed = test_closed_descriptor();
    Failing failing = {.state = rig.state,
                       .iov = {buffer, BLOCK},
                       .closed = closed,
                       .started = 1,
                       .total = test_scaled(50000, 1000)};
    CHECK_EQ(laio_state_submit(rig.state, closed, 0, &failing.iov, 1, QEMU_AIO_READ, 0, 0,
                               failing_completed, &failing),
             0);
    while (failing.completed < failing.total) {
        CHECK(host_poll(rig.ctx, true));
    }
    CHECK_EQ(failing.deepest, laio_max_submit_depth());
    CHECK_EQ(state_stats(rig.state).failed, failing.total);
    rig_free(rig);
    return NULL;
}

static void a_chain_of_failures_is_bounded(void)
{
    on_a_small_stack(failing_thread);
}

static void depth_bound_is_1_to_64(void)
{
    CHECK_EQ(laio_max_submit_depth(), 8);
    CHECK_EQ(laio_set_max_submit_depth(0), -EINVAL);
    CHECK_EQ(laio_set_max_submit_depth(65), -EINVAL);
    CHECK_EQ(laio_set_max_submit_depth(UINT_MAX), -EINVAL);
    CHECK_EQ(laio_max_submit_depth(), 8);
    CHECK_EQ(laio_set_max_submit_depth(64), 0);
    CHECK_EQ(laio_max_submit_depth(), 64);
    CHECK_EQ(laio_set_max_submit_depth(1), 0);
    CHECK_EQ(laio_max_submit_depth(), 1);
    CHECK_EQ(laio_submit_depth(), 0);
}

#define STORMY                                                                                     \
    (HOST_QEMU | HOST_STRICT | HOST_PLAIN | HOST_MINIMAL | HOST_POLLED | HOST_BUILTIN |            \
     HOST_DEAF | HOST_DEAF_PLAIN)

static const TestCase cases[] = {
    {"the depth bound is 1 to 64", depth_bound_is_1_to_64, 0},
    {"a million chained requests on a small stack", a_million_chained_requests_on_a_small_stack,
     HOST_QEMU | HOST_PLAIN | HOST_BUILTIN | HOST_DEAF},
    {"chained requests of a coroutine on a small stack",
     chained_requests_of_a_coroutine_on_a_small_stack, STORMY & ~(HOST_BUILTIN | HOST_MINIMAL)},
    {"chains over two states share the bound", chains_over_two_states_share_the_bound, STORMY},
    {"a chain from state to state shares the bound", a_chain_from_state_to_state_shares_the_bound,
     STORMY},
    {"a chain of failures is bounded", a_chain_of_failures_is_bounded, STORMY},
};

TEST_MAIN(cases)
