/*
 * Completions that do anything that they may, chosen by a seed: submit more to any of several
 * states, plug, open sections, run the event loop, fail. Whatever they do, each request completes
 * exactly once.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <unistd.h>

enum { STATES = 3, FILES = 4, FIRST = 50, NESTING_MAX = 5 };

typedef struct Chaos {
    Rig rig;
    LinuxAioState *states[STATES];
    int fds[FILES];
    char *buffer;
    uint64_t random;
    unsigned budget;
    unsigned accepted;
    unsigned completed;
    unsigned nesting;
} Chaos;

typedef struct Shot {
    Chaos *chaos;
    struct iovec iov;
    int expected;
    unsigned completions;
} Shot;

static unsigned choose(Chaos *chaos, unsigned below)
{
    return (unsigned)(test_random(&chaos->random) % below);
}

static void shoot(Chaos *chaos);

static void do_anything(Chaos *chaos)
{
    LinuxAioState *s = chaos->states[choose(chaos, STATES)];
    unsigned shots = choose(chaos, 3);
    switch (choose(chaos, 8)) {
    case 0:
        laio_state_io_plug(s);
        for (unsigned i = 0; i < 3 * shots; i++) {
            shoot(chaos);
        }
        laio_state_io_unplug(s, choose(chaos, 4));
        break;
    case 1:
        if (host->deferral != DEFER_NONE) {
            host_defer_begin();
            shoot(chaos);
            host_defer_end();
        }
        break;
    case 2:
        if (chaos->nesting < NESTING_MAX) {
            chaos->nesting++;
            host_poll(chaos->rig.ctx, false);
            chaos->nesting--;
        }
        break;
    default:
        for (unsigned i = 0; i < shots; i++) {
            shoot(chaos);
        }
    }
}

static void shot_completed(void *opaque, int ret)
{
    Shot *shot = opaque;
    Chaos *chaos = shot->chaos;
    CHECK_EQ(ret, shot->expected);
    CHECK_EQ(++shot->completions, 1);
    CHECK_LE(laio_submit_depth(), laio_max_submit_depth());
    chaos->completed++;
    free(shot);
    do_anything(chaos);
}

static void co_shoot(void *opaque)
{
    Shot *shot = opaque;
    Chaos *chaos = shot->chaos;
    unsigned file = shot->expected == 0 ? choose(chaos, FILES - 1) : FILES - 1;
    Io io = io_of(QEMU_AIO_READ, chaos->fds[file], choose(chaos, 64) * BLOCK, chaos->buffer, BLOCK);
    int ret = way_co_submit(WAY_STATE, chaos->states[choose(chaos, STATES)], &io);
    shot_completed(shot, ret);
}

static void shoot(Chaos *chaos)
{
    if (chaos->budget == 0) {
        return;
    }
    chaos->budget--;
    chaos->accepted++;
    unsigned file = choose(chaos, FILES);
    Shot *shot = calloc(1, sizeof(*shot));
    CHECK(shot);
    *shot = (Shot){
        .chaos = chaos, .iov = {chaos->buffer, BLOCK}, .expected = file == FILES - 1 ? -EBADF : 0};
    bool by_coroutine = host->coroutines && !host->builtin && choose(chaos, 3) == 0;
    if (by_coroutine && !in_coroutine()) {
        coroutine_enter(coroutine_new(co_shoot, shot));
        return;
    }
    bool flush = choose(chaos, 20) == 0;
    CHECK_EQ(laio_state_submit(chaos->states[choose(chaos, STATES)], chaos->fds[file],
                               choose(chaos, 64) * BLOCK, flush ? NULL : &shot->iov, !flush,
                               flush ? QEMU_AIO_FLUSH : QEMU_AIO_READ, 0, choose(chaos, 8),
                               shot_completed, shot),
             0);
}

/* Holes, blocks of a device, the page cache, and a descriptor that is closed. */
static void open_files(Chaos *chaos)
{
    chaos->fds[0] = hole_file();
    chaos->fds[1] = test_file(O_DIRECT);
    chaos->buffer = aligned_buffer(64 * BLOCK);
    CHECK_EQ(pwrite(chaos->fds[1], chaos->buffer, 64 * BLOCK, 0), 64 * BLOCK);
    CHECK_EQ(fsync(chaos->fds[1]), 0);
    chaos->fds[2] = test_reopen(chaos->fds[1], O_RDWR);
    chaos->fds[3] = test_closed_descriptor();
}

static void run_chaos(uint64_t seed)
{
    /* A nested event loop counts from zero again, so that there may be NESTING_MAX + 1 times as
     * many levels on a coroutine's stack. */
    const unsigned bounds[] = {1, 2, 8, 16};
    Chaos chaos = {.rig = rig_new(), .random = seed, .budget = test_scaled(20000, 400)};
    CHECK_EQ(laio_set_max_submit_depth(bounds[seed % 4]), 0);
    chaos.states[0] = chaos.rig.state;
    for (int i = 1; i < STATES; i++) {
        chaos.states[i] = state_new();
        laio_attach_aio_context(chaos.states[i], chaos.rig.ctx);
    }
    open_files(&chaos);
    while (chaos.budget > 0 || chaos.completed < chaos.accepted) {
        /* Those before may have died out. */
        for (int i = 0; i < FIRST && chaos.completed == chaos.accepted; i++) {
            shoot(&chaos);
        }
        if (chaos.completed < chaos.accepted && !host_poll(chaos.rig.ctx, true)) {
            FAIL("seed %llu: %u of %u are complete, and nothing happens any more",
                 (unsigned long long)seed, chaos.completed, chaos.accepted);
        }
        CHECK_EQ(laio_submit_depth(), 0);
    }
    host_poll(chaos.rig.ctx, false);
    CHECK_EQ(chaos.completed, chaos.accepted);
    uint64_t counted = 0;
    for (int i = 0; i < STATES; i++) {
        check_idle(chaos.states[i]);
        counted += state_stats(chaos.states[i]).completed;
    }
    CHECK_EQ(counted, chaos.accepted);
    for (int i = 1; i < STATES; i++) {
        laio_detach_aio_context(chaos.states[i], chaos.rig.ctx);
        laio_cleanup(chaos.states[i]);
    }
    for (int i = 0; i < FILES - 1; i++) {
        close(chaos.fds[i]);
    }
    free(chaos.buffer);
    rig_free(chaos.rig);
}

static void whatever_completions_do_each_request_completes_once(void)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        run_chaos(seed);
    }
}

static const TestCase cases[] = {
    {"whatever completions do, each request completes once",
     whatever_completions_do_each_request_completes_once, HOST_HEARING},
};

TEST_MAIN(cases)
