/*
 * Completions that run the event loop and wait for other requests, at any depth.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <unistd.h>

enum { BOUND = 4 };
/* Turns of an event loop in which something happens, but never what is waited for. */
enum { TURNS_MAX = 1000000 };

/* Runs the event loop until `io` is complete. */
static void wait_for(AioContext *ctx, const Io *io)
{
    for (unsigned turns = 0; io->completions == 0; turns++) {
        if (turns == TURNS_MAX || !host_poll(ctx, true)) {
            FAIL("a nested event loop waits in vain");
        }
    }
    CHECK_EQ(io->completions, 1);
    CHECK_EQ(io->ret, 0);
}

/*
 * A chain that goes down to the bound. There, its completion makes another request and waits for
 * it in a nested event loop, before it starts the next of the chain.
 */
typedef struct Nest {
    Rig rig;
    /* Where the request that is waited for goes. */
    LinuxAioState *target;
    int chain_fd;
    int target_fd;
    struct iovec iov;
    unsigned started;
    unsigned completed;
    unsigned total;
    unsigned nested_waits;
    /* Nested event loops within nested event loops, and how many there may be. */
    unsigned nesting;
    unsigned nesting_max;
    unsigned deepest_nesting;
} Nest;

static void nest_next(Nest *nest);

static void wait_nested(Nest *nest)
{
    unsigned depth = laio_submit_depth();
    if (++nest->nesting > nest->deepest_nesting) {
        nest->deepest_nesting = nest->nesting;
    }
    Io io = io_of(QEMU_AIO_READ, nest->target_fd, 0, nest->iov.iov_base, BLOCK);
    io_start(nest->target, &io);
    if (nest->nesting < nest->nesting_max && nest->started < nest->total) {
        nest_next(nest);
    }
    wait_for(nest->rig.ctx, &io);
    nest->nested_waits++;
    nest->nesting--;
    CHECK_EQ(laio_submit_depth(), depth);
}

static void nest_completed(void *opaque, int ret)
{
    Nest *nest = opaque;
    CHECK_EQ(ret, 0);
    nest->completed++;
    CHECK_LE(laio_submit_depth(), BOUND);
    /* In a nested event loop the sections outside hold each next request back until the next
     * turn, so that the depth there is 1. */
    bool as_deep_as_it_goes = laio_submit_depth() == BOUND || nest->nesting > 0;
    if (as_deep_as_it_goes && nest->nesting < nest->nesting_max) {
        wait_nested(nest);
    }
    if (nest->started < nest->total && nest->started == nest->completed) {
        nest_next(nest);
    }
}

static void nest_next(Nest *nest)
{
    nest->started++;
    CHECK_EQ(laio_state_submit(nest->rig.state, nest->chain_fd, 0, &nest->iov, 1, QEMU_AIO_READ, 0,
                               0, nest_completed, nest),
             0);
}

static Nest nest_new(void)
{
    CHECK_EQ(laio_set_max_submit_depth(BOUND), 0);
    Rig rig = rig_new();
    int fd = hole_file();
    return (Nest){
        .rig = rig,
        .target = rig.state,
        .chain_fd = fd,
        .target_fd = fd,
        .iov = {aligned_buffer(BLOCK), BLOCK},
        .total = 200,
        .nesting_max = 1,
    };
}

static void nest_run(Nest *nest)
{
    nest_next(nest);
    while (nest->completed < nest->total) {
        CHECK(host_poll(nest->rig.ctx, true));
        CHECK_EQ(laio_submit_depth(), 0);
    }
    CHECK_EQ(nest->started, nest->total);
    CHECK_GE(nest->nested_waits, 10);
    CHECK_EQ(nest->deepest_nesting, nest->nesting_max);
    LaioStats stats = state_stats(nest->rig.state);
    CHECK_EQ(stats.deepest_nesting, BOUND);
    CHECK(stats.bh_resumptions > 0);
}

static void nest_free(Nest *nest)
{
    free(nest->iov.iov_base);
    close(nest->chain_fd);
    rig_free(nest->rig);
}

static void a_completion_at_the_bound_waits_for_a_request(void)
{
    Nest nest = nest_new();
    nest_run(&nest);
    nest_free(&nest);
}

static void nested_event_loops_nest(void)
{
    Nest nest = nest_new();
    nest.nesting_max = 10;
    nest.total = 500;
    nest_run(&nest);
    nest_free(&nest);
}

static void a_completion_at_the_bound_waits_for_another_state(void)
{
    Nest nest = nest_new();
    nest.target = state_new();
    laio_attach_aio_context(nest.target, nest.rig.ctx);
    nest_run(&nest);
    check_idle(nest.target);
    laio_detach_aio_context(nest.target, nest.rig.ctx);
    laio_cleanup(nest.target);
    nest_free(&nest);
}

static int data_file(void)
{
    int fd = test_file(O_DIRECT);
    char *content = aligned_buffer(16 * BLOCK);
    CHECK_EQ(pwrite(fd, content, 16 * BLOCK, 0), 16 * BLOCK);
    free(content);
    return fd;
}

/* Not complete within io_submit(2): the nested event loop needs the eventfd. */
static void a_completion_at_the_bound_waits_for_a_device(void)
{
    Nest nest = nest_new();
    nest.target_fd = data_file();
    nest_run(&nest);
    close(nest.target_fd);
    nest_free(&nest);
}

/* The completion of `first` waits for one that was queued before it ran, by somebody else. */
typedef struct Queued {
    Rig rig;
    LinuxAioState *other;
    Io first;
    Io queued;
} Queued;

static void first_completed(void *opaque, int ret)
{
    Queued *queued = opaque;
    wait_for(queued->rig.ctx, &queued->queued);
    io_completed(&queued->first, ret);
}

static void wait_for_queued(bool other_state)
{
    Queued q = {.rig = rig_new()};
    int fd = hole_file();
    void *buffer = aligned_buffer(BLOCK);
    q.other = other_state ? state_new() : q.rig.state;
    if (other_state) {
        laio_attach_aio_context(q.other, q.rig.ctx);
    }
    q.first = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
    q.queued = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
    /* Held back by a plug that ends only after the wait. */
    laio_state_io_plug(q.other);
    io_start(q.other, &q.queued);
    q.first.dev_max_batch = 1;
    CHECK_EQ(laio_state_submit(q.rig.state, fd, 0, &q.first.one, 1, QEMU_AIO_READ, 0, 1,
                               first_completed, &q),
             0);
    io_finish(q.rig.ctx, &q.first, 1);
    CHECK_EQ(q.queued.completions, 1);
    laio_state_io_unplug(q.other, 0);
    if (other_state) {
        check_idle(q.other);
        laio_detach_aio_context(q.other, q.rig.ctx);
        laio_cleanup(q.other);
    }
    free(buffer);
    close(fd);
    rig_free(q.rig);
}

static void a_completion_waits_for_a_plugged_request(void)
{
    wait_for_queued(false);
}

static void a_completion_waits_for_a_plugged_request_of_another_state(void)
{
    wait_for_queued(true);
}

/* All completions of a batch have been signalled, and the first waits for the last. */
typedef struct Sibling {
    Rig rig;
    Io ios[8];
    bool waits;
} Sibling;

static void sibling_completed(void *opaque, int ret)
{
    Sibling *s = opaque;
    io_completed(&s->ios[0], ret);
    for (int i = 1; i < 8; i++) {
        wait_for(s->rig.ctx, &s->ios[i]);
    }
}

static void the_first_of_a_batch_waits_for_the_others(void)
{
    const int fds[] = {hole_file(), data_file()};
    for (int n = 0; n < 2; n++) {
        Sibling s = {.rig = rig_new()};
        void *buffer = aligned_buffer(BLOCK);
        laio_state_io_plug(s.rig.state);
        for (int i = 0; i < 8; i++) {
            s.ios[i] = io_of(QEMU_AIO_READ, fds[n], 0, buffer, BLOCK);
            if (i > 0) {
                io_start(s.rig.state, &s.ios[i]);
                continue;
            }
            CHECK_EQ(laio_state_submit(s.rig.state, fds[n], 0, &s.ios[0].one, 1, QEMU_AIO_READ, 0,
                                       0, sibling_completed, &s),
                     0);
        }
        laio_state_io_unplug(s.rig.state, 0);
        io_finish(s.rig.ctx, s.ios, 8);
        free(buffer);
        close(fds[n]);
        rig_free(s.rig);
    }
}

/* With the built-in host, laio_co_submit() in a completion is a nested event loop. */
typedef struct Synchronous {
    Rig rig;
    int fd;
    void *buffer;
    unsigned left;
    unsigned completed;
    struct iovec iov;
} Synchronous;

static void synchronous_completed(void *opaque, int ret)
{
    Synchronous *s = opaque;
    CHECK_EQ(ret, 0);
    Io io = io_of(QEMU_AIO_READ, s->fd, 0, s->buffer, BLOCK);
    CHECK_EQ(way_co_submit(WAY_QEMU, s->rig.state, &io), 0);
    s->completed++;
    if (s->left > 0) {
        s->left--;
        CHECK_EQ(laio_state_submit(s->rig.state, s->fd, 0, &s->iov, 1, QEMU_AIO_READ, 0, 0,
                                   synchronous_completed, s),
                 0);
    }
}

static void a_completion_submits_synchronously(void)
{
    Synchronous s = {
        .rig = rig_new(), .fd = hole_file(), .buffer = aligned_buffer(BLOCK), .left = 500};
    s.iov = (struct iovec){s.buffer, BLOCK};
    CHECK_EQ(laio_state_submit(s.rig.state, s.fd, 0, &s.iov, 1, QEMU_AIO_READ, 0, 0,
                               synchronous_completed, &s),
             0);
    while (s.completed < 501) {
        CHECK(host_poll(s.rig.ctx, true));
    }
    free(s.buffer);
    close(s.fd);
    rig_free(s.rig);
}

static const TestCase cases[] = {
    {"a completion at the bound waits for a request", a_completion_at_the_bound_waits_for_a_request,
     HOST_ANY},
    {"nested event loops nest", nested_event_loops_nest, HOST_ANY},
    {"a completion at the bound waits for another state",
     a_completion_at_the_bound_waits_for_another_state, HOST_ANY},
    {"a completion at the bound waits for a device", a_completion_at_the_bound_waits_for_a_device,
     HOST_HEARING},
    {"a completion waits for a plugged request", a_completion_waits_for_a_plugged_request,
     HOST_ANY},
    {"a completion waits for a plugged request of another state",
     a_completion_waits_for_a_plugged_request_of_another_state, HOST_ANY},
    {"the first of a batch waits for the others", the_first_of_a_batch_waits_for_the_others,
     HOST_HEARING},
    {"a completion submits synchronously", a_completion_submits_synchronously, HOST_BUILTIN},
};

TEST_MAIN(cases)
