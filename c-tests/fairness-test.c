/*
 * Reads of a hole are complete within io_submit(2), and owners that ask for the next one at once
 * make a storm without end. One entry from the event loop told 16,440 owners at the default bound,
 * and 135,104 at bound 64, while the host's timers waited. An entry tells a ring's worth at most,
 * over all nesting, and gives control back with completion_bh scheduled; a nested event loop has a
 * budget of its own; and so has a submission from outside of any event loop.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <unistd.h>

enum { BUDGET = 1024, FDS_MAX = 8, HANG_SECONDS = 150 };

static const unsigned bounds[] = {1, 8, 64};
static const unsigned outstanding[] = {1, 8, 64, 1024};

/* Owners that were told in the entry that runs, without those of entries nested in it. */
static unsigned told_here;

typedef struct Entry {
    unsigned outer;
} Entry;

static Entry enter(void)
{
    Entry entry = {told_here};
    told_here = 0;
    return entry;
}

static void leave(Entry entry)
{
    CHECK_LE(told_here, BUDGET);
    told_here = entry.outer;
}

/* A host whose entries into the library are counted. */

typedef struct CountedBh {
    LaioHostFunc cb;
    void *opaque;
    QEMUBH *bh;
    bool scheduled;
} CountedBh;

typedef struct CountedFd {
    AioContext *ctx;
    int fd;
    void (*io_read)(void *opaque);
    bool (*io_poll)(void *opaque);
    void (*io_poll_ready)(void *opaque);
    void *opaque;
} CountedFd;

static LaioHostOps real;
static CountedBh bhs[FDS_MAX];
static CountedFd fds[FDS_MAX];

/* After an entry that has used up its budget the bottom half must be there to go on. */
static LinuxAioState *watched_state;
static CountedBh *watched_bh;

static void check_goes_on(unsigned told)
{
    if (told == BUDGET && watched_state) {
        LaioStats stats = state_stats(watched_state);
        CHECK(stats.in_queue + stats.in_flight == 0 || watched_bh->scheduled);
    }
}

static void counted_bh(void *opaque)
{
    CountedBh *counted = opaque;
    counted->scheduled = false;
    Entry entry = enter();
    counted->cb(counted->opaque);
    check_goes_on(told_here);
    leave(entry);
}

static QEMUBH *counted_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    for (int i = 0; i < FDS_MAX; i++) {
        if (!bhs[i].bh) {
            bhs[i] = (CountedBh){cb, opaque, NULL, false};
            bhs[i].bh = real.bh_new(ctx, counted_bh, &bhs[i]);
            return (QEMUBH *)&bhs[i];
        }
    }
    return NULL;
}

static void counted_bh_schedule(QEMUBH *bh)
{
    ((CountedBh *)bh)->scheduled = true;
    real.bh_schedule(((CountedBh *)bh)->bh);
}

static void counted_bh_cancel(QEMUBH *bh)
{
    ((CountedBh *)bh)->scheduled = false;
    real.bh_cancel(((CountedBh *)bh)->bh);
}

static void counted_bh_delete(QEMUBH *bh)
{
    real.bh_delete(((CountedBh *)bh)->bh);
    ((CountedBh *)bh)->bh = NULL;
}

static void counted_read(void *opaque)
{
    CountedFd *counted = opaque;
    Entry entry = enter();
    counted->io_read(counted->opaque);
    check_goes_on(told_here);
    leave(entry);
}

static bool counted_poll(void *opaque)
{
    CountedFd *counted = opaque;
    return counted->io_poll(counted->opaque);
}

static void counted_poll_ready(void *opaque)
{
    CountedFd *counted = opaque;
    Entry entry = enter();
    counted->io_poll_ready(counted->opaque);
    check_goes_on(told_here);
    leave(entry);
}

static void counted_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                             bool (*io_poll)(void *opaque), void (*io_poll_ready)(void *opaque),
                             void *opaque)
{
    for (int i = 0; i < FDS_MAX; i++) {
        if (io_read ? !fds[i].ctx : fds[i].ctx == ctx && fds[i].fd == fd) {
            if (io_read) {
                fds[i] = (CountedFd){ctx, fd, io_read, io_poll, io_poll_ready, opaque};
                real.set_event_notifier(ctx, fd, counted_read, counted_poll, counted_poll_ready,
                                        &fds[i]);
            } else {
                real.set_event_notifier(ctx, fd, NULL, NULL, NULL, NULL);
                fds[i].ctx = NULL;
            }
            return;
        }
    }
    FAIL("more descriptors than there is place for");
}

/* Before the host starts: as the variant, but counted. */
static void count_entries(unsigned bit)
{
    host = &host_variants[__builtin_ctz(bit)];
    if (host->builtin) {
        return;
    }
    real = host_ops(host);
    LaioHostOps ops = real;
    ops.bh_new = counted_bh_new;
    ops.bh_schedule = counted_bh_schedule;
    ops.bh_cancel = counted_bh_cancel;
    ops.bh_delete = counted_bh_delete;
    ops.set_event_notifier = counted_notifier;
    CHECK_EQ(laio_set_host_ops(&ops), 0);
}

/* The built-in loop: a turn calls the bottom half and looks at the completions. */
static bool counted_turn(AioContext *ctx)
{
    if (!host->builtin) {
        return host_poll(ctx, true);
    }
    unsigned outer = told_here;
    told_here = 0;
    bool progress = laio_loop_poll(ctx, true);
    CHECK_LE(told_here, 2 * BUDGET);
    told_here = outer;
    return progress;
}

/* The storm. */

typedef struct Storm {
    Rig rig;
    int fd;
    struct iovec iov;
    uint64_t told;
    uint64_t started;
    uint64_t total;
    /* Called by the owner that is told as the n-th of an entry. */
    unsigned at;
    void (*then)(struct Storm *storm);
} Storm;

static void next(void *opaque, int ret);

static void start_next(Storm *storm)
{
    if (storm->started < storm->total) {
        uint64_t block = storm->started++ % 1000;
        CHECK_EQ(laio_state_submit(storm->rig.state, storm->fd, block * BLOCK, &storm->iov, 1,
                                   QEMU_AIO_READ, 0, 0, next, storm),
                 0);
    }
}

static void next(void *opaque, int ret)
{
    Storm *storm = opaque;
    CHECK_EQ(ret, 0);
    storm->told++;
    told_here++;
    if (told_here == storm->at) {
        storm->then(storm);
    }
    start_next(storm);
}

static Storm storm_new(uint64_t total)
{
    Storm storm = {
        .rig = rig_new(), .fd = hole_file(), .iov = {aligned_buffer(BLOCK), BLOCK}, .total = total};
    watched_state = storm.rig.state;
    for (int i = 0; i < FDS_MAX && !host->builtin; i++) {
        if (bhs[i].bh) {
            watched_bh = &bhs[i];
        }
    }
    return storm;
}

static void storm_free(Storm *storm)
{
    watched_state = NULL;
    free(storm->iov.iov_base);
    close(storm->fd);
    rig_free(storm->rig);
}

/* Gathers them first: the kernel has no room until all are there. */
static void storm_begin(Storm *storm, unsigned depth)
{
    valve_set(VALVE_EAGAIN, -1);
    for (unsigned i = 0; i < depth; i++) {
        start_next(storm);
    }
    valve_set(VALVE_OPEN, -1);
    CHECK_EQ(storm->told, 0);
}

/* Each of them, with something else of the host's in each turn beside. */
static void other_source(void *opaque)
{
    ++*(uint64_t *)opaque;
}

static void storm_run(unsigned bound, unsigned depth)
{
    uint64_t turns = 0, beside = 0, total = test_scaled(100000, 8000);
    test_context("bound %u, %u outstanding", bound, depth);
    CHECK_EQ(laio_set_max_submit_depth(bound), 0);
    Storm storm = storm_new(total);
    QEMUBH *other = host->builtin ? NULL : real.bh_new(storm.rig.ctx, other_source, &beside);
    storm_begin(&storm, depth);
    while (storm.told < total) {
        uint64_t before = storm.told;
        if (other) {
            real.bh_schedule(other);
        }
        CHECK(counted_turn(storm.rig.ctx));
        turns++;
        CHECK_LE(storm.told - before, 3 * BUDGET);
        if (other) {
            CHECK_EQ(beside, turns);
        }
    }
    CHECK_GE(turns, total / (3 * BUDGET));
    if (other) {
        real.bh_delete(other);
        host_poll(storm.rig.ctx, false);
    }
    CHECK_EQ(state_stats(storm.rig.state).completed, total);
    storm_free(&storm);
}

static void storms(unsigned bit)
{
    count_entries(bit);
    test_watch(HANG_SECONDS);
    for (unsigned b = 0; b < 3; b++) {
        for (unsigned o = 0; o < 4; o++) {
            storm_run(bounds[b], outstanding[o]);
        }
    }
    coroutine_thread_done();
}

/* The owner whose turn is the last of the budget waits for a request of its own, which is queued
 * behind all the others: in a nested event loop, which has its own budget. */
static unsigned nested_runs;

static void wait_nested(Storm *storm)
{
    static bool inside;
    if (inside) {
        return;
    }
    inside = true;
    nested_runs++;
    Io own = io_of(QEMU_AIO_READ, storm->fd, 0, storm->iov.iov_base, BLOCK);
    io_start(storm->rig.state, &own);
    for (unsigned turns = 0; own.completions == 0; turns++) {
        CHECK_LE(turns, 10000);
        counted_turn(storm->rig.ctx);
    }
    CHECK_EQ(own.ret, 0);
    inside = false;
}

static void nested_storm(unsigned bound, unsigned depth, unsigned at)
{
    uint64_t total = test_scaled(40000, 8000);
    test_context("bound %u, %u outstanding, nested at %u", bound, depth, at);
    CHECK_EQ(laio_set_max_submit_depth(bound), 0);
    Storm storm = storm_new(total);
    storm.at = at;
    storm.then = wait_nested;
    nested_runs = 0;
    storm_begin(&storm, depth);
    while (storm.told < total) {
        CHECK(counted_turn(storm.rig.ctx));
    }
    LaioStats stats = state_stats(storm.rig.state);
    CHECK_EQ(stats.completed, total + nested_runs);
    storm_free(&storm);
}

static void nested_storms(unsigned bit)
{
    count_entries(bit);
    test_watch(HANG_SECONDS);
    for (unsigned b = 0; b < 3; b++) {
        nested_storm(bounds[b], 1024, 1);
        nested_storm(bounds[b], 1024, BUDGET / 2);
        nested_storm(bounds[b], 1024, BUDGET);
        nested_storm(bounds[b], 8, 1);
        CHECK(nested_runs > 0);
    }
    coroutine_thread_done();
}

/* Over two states of one loop the budget is still that of the entry. */
static void two_states(unsigned bit)
{
    count_entries(bit);
    test_watch(HANG_SECONDS);
    for (unsigned b = 0; b < 3; b++) {
        uint64_t total = test_scaled(40000, 8000);
        test_context("bound %u, two states", bounds[b]);
        CHECK_EQ(laio_set_max_submit_depth(bounds[b]), 0);
        Storm storm = storm_new(total), other = storm;
        watched_state = NULL;
        other.rig.state = state_new();
        laio_attach_aio_context(other.rig.state, storm.rig.ctx);
        storm_begin(&storm, 1024);
        storm_begin(&other, 1024);
        while (storm.told < total || other.told < total) {
            uint64_t before = storm.told + other.told;
            CHECK(host_poll(storm.rig.ctx, true));
            CHECK_LE(storm.told + other.told - before, 6 * BUDGET);
        }
        check_idle(other.rig.state);
        laio_detach_aio_context(other.rig.state, storm.rig.ctx);
        laio_cleanup(other.rig.state);
        storm_free(&storm);
    }
    coroutine_thread_done();
}

/* Told from within calls from outside, each. */
static void begin_call(void)
{
    told_here = 0;
}

static void end_call(void)
{
    CHECK_LE(told_here, BUDGET);
    told_here = 0;
}

/* A submission, and an unplug, from outside of any event loop. */
static void from_outside(unsigned bit)
{
    count_entries(bit);
    test_watch(HANG_SECONDS);
    for (unsigned b = 0; b < 3; b++) {
        uint64_t total = test_scaled(100000, 8000);
        test_context("bound %u, from outside", bounds[b]);
        CHECK_EQ(laio_set_max_submit_depth(bounds[b]), 0);
        Storm storm = storm_new(total);
        watched_state = NULL;
        laio_state_io_plug(storm.rig.state);
        while (storm.started < total && storm.started < 16 * BUDGET) {
            begin_call();
            start_next(&storm);
            end_call();
        }
        begin_call();
        laio_state_io_unplug(storm.rig.state, 0);
        end_call();
        while (storm.told < total) {
            begin_call();
            start_next(&storm);
            end_call();
            counted_turn(storm.rig.ctx);
        }
        storm_free(&storm);
    }
    coroutine_thread_done();
}

#define IN_HOSTS(name, run)                                                                        \
    static void name##_qemu(void)                                                                  \
    {                                                                                              \
        run(HOST_QEMU);                                                                            \
    }                                                                                              \
    static void name##_strict(void)                                                                \
    {                                                                                              \
        run(HOST_STRICT);                                                                          \
    }                                                                                              \
    static void name##_plain(void)                                                                 \
    {                                                                                              \
        run(HOST_PLAIN);                                                                           \
    }                                                                                              \
    static void name##_adaptive(void)                                                              \
    {                                                                                              \
        run(HOST_ADAPTIVE);                                                                        \
    }                                                                                              \
    static void name##_builtin(void)                                                               \
    {                                                                                              \
        run(HOST_BUILTIN);                                                                         \
    }
#define CASES(text, name)                                                                          \
    {text ", counted in qemu", name##_qemu, 0}, {text ", counted in strict", name##_strict, 0},    \
        {text ", counted in plain", name##_plain, 0},                                              \
        {text ", counted in adaptive", name##_adaptive, 0},                                        \
    {                                                                                              \
        text ", counted in builtin", name##_builtin, 0                                             \
    }

IN_HOSTS(storms, storms)
IN_HOSTS(nested, nested_storms)
IN_HOSTS(two, two_states)
IN_HOSTS(outside, from_outside)

static const TestCase cases[] = {
    CASES("a storm gives control back", storms),
    CASES("a nested event loop has a budget of its own", nested),
    CASES("two states share the budget", two),
    CASES("a call from outside has a budget", outside),
};

TEST_MAIN(cases)
