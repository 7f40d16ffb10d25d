/*
 * Event loops of many states, which do not look at each of them in each turn: the built-in loop asks
 * epoll. What it has been told of, and what is scheduled, must be found by whatever turn comes next,
 * nested ones among them, while states come and go.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <unistd.h>

/* The built-in loop takes more than 32 states for many. */
enum { MANY = 48, HANG_SECONDS = 60 };

/* Over io_uring, whatever the state of the rig is over: there are not so many AIO contexts. */
typedef struct Crowd {
    Rig rig;
    LinuxAioState *states[MANY];
    Io ios[MANY];
    int fd; /* of a file with data, whose reads take a while */
    int hole;
    char *buffer;
    uint64_t random;
} Crowd;

static void join(Crowd *crowd, int i)
{
    crowd->states[i] = laio_init_kernel(LAIO_KERNEL_IO_URING, NULL);
    CHECK(crowd->states[i]);
    laio_attach_aio_context(crowd->states[i], crowd->rig.ctx);
}

static void leave(Crowd *crowd, int i)
{
    laio_detach_aio_context(crowd->states[i], crowd->rig.ctx);
    laio_cleanup(crowd->states[i]);
    crowd->states[i] = NULL;
}

static Crowd crowd_new(int count)
{
    test_watch(HANG_SECONDS);
    Crowd crowd = {.rig = rig_new(), .fd = test_file(O_DIRECT), .hole = hole_file(), .random = 1};
    crowd.buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(crowd.fd, crowd.buffer, BLOCK, 0), BLOCK);
    for (int i = 0; i < count; i++) {
        join(&crowd, i);
    }
    return crowd;
}

static void crowd_free(Crowd crowd)
{
    for (int i = 0; i < MANY; i++) {
        if (crowd.states[i]) {
            check_idle(crowd.states[i]);
            leave(&crowd, i);
        }
    }
    rig_free(crowd.rig);
    free(crowd.buffer);
    close(crowd.fd);
    close(crowd.hole);
}

static Io read_of(const Crowd *crowd, int fd)
{
    return io_of(QEMU_AIO_READ, fd, 0, crowd->buffer, BLOCK);
}

static void start(Crowd *crowd, int i, int fd)
{
    crowd->ios[i] = read_of(crowd, fd);
    io_start(crowd->states[i], &crowd->ios[i]);
}

/* What the completion of a request of the rig's state does while those of the crowd are on their way:
 * that is started first, and made again for as long as it is too early. */
static struct {
    void (*act)(Crowd *crowd);
    int fd;
    bool armed;
    bool done;
} trigger;

static void pull(void *opaque, int ret);

static void start_trigger(Crowd *crowd)
{
    static struct iovec iov;
    iov = (struct iovec){.iov_base = crowd->buffer, .iov_len = BLOCK};
    CHECK_EQ(laio_state_submit(crowd->rig.state, trigger.fd, 0, &iov, 1, QEMU_AIO_READ, 0, 0, pull,
                               crowd),
             0);
}

static void pull(void *opaque, int ret)
{
    CHECK_EQ(ret, 0);
    if (!trigger.armed) {
        start_trigger(opaque);
        return;
    }
    trigger.act(opaque);
    trigger.done = true;
}

static void load_trigger(Crowd *crowd, int fd, void (*act)(Crowd *crowd))
{
    trigger.act = act;
    trigger.fd = fd;
    trigger.armed = trigger.done = false;
    start_trigger(crowd);
}

/* When what was started is complete, most of it, and nobody has looked. */
static void wait_for_trigger(Crowd *crowd)
{
    trigger.armed = true;
    usleep(1000);
    while (!trigger.done) {
        CHECK(host_poll(crowd->rig.ctx, true));
    }
}

static void any_of_many_is_served(void)
{
    Crowd crowd = crowd_new(MANY);
    for (unsigned round = test_scaled(300, 20); round > 0; round--) {
        unsigned started = 0;
        int fd = round % 2 ? crowd.fd : crowd.hole;
        for (int i = 0; i < MANY; i++) {
            if (round % 10 == 0 || test_random(&crowd.random) % MANY == 0) {
                start(&crowd, i, fd);
                started++;
            } else {
                crowd.ios[i].completions = 1; /* as if it had been */
            }
        }
        test_context("%u requests", started);
        io_finish(crowd.rig.ctx, crowd.ios, MANY);
        /* The one over the kernel of this test; by turns that do not block, too. */
        Io io = read_of(&crowd, fd);
        io_start(crowd.rig.state, &io);
        while (round % 3 == 0 && io.completions == 0) {
            host_poll(crowd.rig.ctx, false);
        }
        io_finish(crowd.rig.ctx, &io, 1);
    }
    crowd_free(crowd);
}

static void wait_for_all(Crowd *crowd)
{
    io_finish(crowd->rig.ctx, crowd->ios, MANY);
}

static void a_nested_loop_finds_what_the_outer_one_knows(void)
{
    Crowd crowd = crowd_new(MANY);
    for (unsigned round = test_scaled(50, 5); round > 0; round--) {
        load_trigger(&crowd, crowd.fd, wait_for_all);
        for (int i = 0; i < MANY; i++) {
            start(&crowd, i, crowd.fd);
        }
        wait_for_trigger(&crowd);
    }
    crowd_free(crowd);
}

/* Few and many are told apart by a number that this passes, in both directions, again and again. */
enum { FEW = 20 };

static int joined;

static void let_one_join(Crowd *crowd)
{
    join(crowd, joined++);
}

static void let_one_leave(Crowd *crowd)
{
    leave(crowd, --joined);
}

static void few_become_many_and_few_again(void)
{
    Crowd crowd = crowd_new(FEW);
    joined = FEW;
    for (unsigned round = test_scaled(4, 1); round > 0; round--) {
        for (int i = 0; i < 2 * (MANY - FEW); i++) {
            load_trigger(&crowd, crowd.fd, i < MANY - FEW ? let_one_join : let_one_leave);
            for (int j = 0; j < FEW; j++) {
                start(&crowd, j, crowd.fd);
            }
            wait_for_trigger(&crowd);
            io_finish(crowd.rig.ctx, crowd.ios, FEW);
        }
    }
    crowd_free(crowd);
}

static void start_the_few(Crowd *crowd)
{
    for (int i = 0; i < FEW; i++) {
        start(crowd, i, crowd->fd);
    }
    usleep(1000);
}

/* They are complete at the end of a turn that has looked at them already; whoever waits by the
 * descriptor is told so. Then there are many. */
static void what_a_turn_of_few_left_many_find(void)
{
    Crowd crowd = crowd_new(FEW);
    /* The last to be looked at. */
    laio_detach_aio_context(crowd.rig.state, crowd.rig.ctx);
    laio_attach_aio_context(crowd.rig.state, crowd.rig.ctx);
    for (unsigned round = test_scaled(20, 3); round > 0; round--) {
        load_trigger(&crowd, crowd.fd, start_the_few);
        wait_for_trigger(&crowd);
        for (int i = FEW; i < MANY; i++) {
            join(&crowd, i);
        }
        io_finish(crowd.rig.ctx, crowd.ios, FEW);
        for (int i = FEW; i < MANY; i++) {
            leave(&crowd, i);
        }
    }
    crowd_free(crowd);
}

/* All others, of whose completions epoll has told, or whose bottom halves are scheduled. */
static void move_all(Crowd *crowd)
{
    AioContext *other = host_context_new();
    for (int i = 0; i < MANY; i++) {
        laio_detach_aio_context(crowd->states[i], crowd->rig.ctx);
        if (crowd->ios[i].completions == 0) {
            EXPECT_LOG("1 requests are outstanding until the next attach");
        }
        laio_attach_aio_context(crowd->states[i], other);
    }
    io_finish(other, crowd->ios, MANY);
    for (int i = 0; i < MANY; i++) {
        laio_detach_aio_context(crowd->states[i], other);
        laio_attach_aio_context(crowd->states[i], crowd->rig.ctx);
    }
    host_context_free(other);
}

static void a_completion_takes_all_others_elsewhere(void)
{
    Crowd crowd = crowd_new(MANY);
    for (unsigned round = test_scaled(30, 4); round > 0; round--) {
        load_trigger(&crowd, crowd.fd, move_all);
        for (int i = 0; i < MANY; i++) {
            start(&crowd, i, crowd.fd);
        }
        wait_for_trigger(&crowd);
    }
    crowd_free(crowd);
}

static void a_bottom_half_takes_all_others_elsewhere(void)
{
    Crowd crowd = crowd_new(MANY);
    for (unsigned round = test_scaled(30, 4); round > 0; round--) {
        laio_state_io_plug(crowd.rig.state);
        load_trigger(&crowd, crowd.hole, move_all);
        for (int i = 0; i < MANY; i++) {
            laio_state_io_plug(crowd.states[i]);
            start(&crowd, i, crowd.fd);
        }
        wait_for_trigger(&crowd);
        laio_state_io_unplug(crowd.rig.state, 0);
        for (int i = 0; i < MANY; i++) {
            laio_state_io_unplug(crowd.states[i], 0);
        }
    }
    crowd_free(crowd);
}

/* Each has its bottom half scheduled, until the unplug of every other one takes that back. */
static void what_was_cancelled_is_scheduled_again(void)
{
    Crowd crowd = crowd_new(MANY);
    for (unsigned round = test_scaled(200, 20); round > 0; round--) {
        for (int i = 0; i < MANY; i++) {
            laio_state_io_plug(crowd.states[i]);
            start(&crowd, i, crowd.hole);
        }
        for (int i = round % 2; i < MANY; i += 2) {
            laio_state_io_unplug(crowd.states[i], 0);
            CHECK_EQ(crowd.ios[i].completions, 1);
        }
        for (int i = round % 2; i < MANY; i += 2) {
            laio_state_io_plug(crowd.states[i]);
            start(&crowd, i, crowd.hole);
        }
        io_finish(crowd.rig.ctx, crowd.ios, MANY);
        for (int i = 0; i < MANY; i++) {
            laio_state_io_unplug(crowd.states[i], 0);
        }
    }
    crowd_free(crowd);
}

static const TestCase cases[] = {
    {"any of many is served", any_of_many_is_served, HOST_BUILTIN},
    {"a nested loop finds what the outer one knows", a_nested_loop_finds_what_the_outer_one_knows,
     HOST_BUILTIN},
    {"few become many and few again", few_become_many_and_few_again, HOST_BUILTIN},
    {"what a turn of few left many find", what_a_turn_of_few_left_many_find, HOST_BUILTIN},
    {"a completion takes all others elsewhere", a_completion_takes_all_others_elsewhere,
     HOST_BUILTIN},
    {"a bottom half takes all others elsewhere", a_bottom_half_takes_all_others_elsewhere,
     HOST_BUILTIN},
    {"what was cancelled is scheduled again", what_was_cancelled_is_scheduled_again, HOST_BUILTIN},
};

TEST_MAIN(cases)
