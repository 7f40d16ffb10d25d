/*
 * Destroying a context of Linux AIO takes the kernel some thirty milliseconds, and each question
 * what a file can do made and destroyed one. A context is kept for the next who needs one: as many
 * as two, never one that has or will have something in its ring, and never by another process.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { KEPT = 2, ROUNDS = 50, COUNT = 24 };

/* As a host does that opens an image and closes it. */
static void open_and_close(int fd)
{
    Rig rig = rig_new();
    CHECK(laio_has_fdsync(fd));
    CHECK(laio_has_fua());
    rig_free(rig);
}

static void the_second_time_makes_and_destroys_nothing(void)
{
    int fd = test_file(0);
    open_and_close(fd);
    uint64_t setups = valve_setups(), destroyed = valve_destroyed();
    for (int i = 0; i < ROUNDS; i++) {
        open_and_close(fd);
    }
    CHECK_EQ(valve_setups(), setups);
    CHECK_EQ(valve_destroyed(), destroyed);
    close(fd);
}

static void no_more_than_two_are_kept(void)
{
    enum { MANY = 7 };
    LinuxAioState *states[MANY];
    uint64_t setups = valve_setups(), destroyed = valve_destroyed();
    for (int i = 0; i < MANY; i++) {
        states[i] = state_new();
    }
    for (int i = 0; i < MANY; i++) {
        laio_cleanup(states[i]);
    }
    CHECK_EQ(valve_setups() - setups, MANY);
    CHECK_EQ(valve_destroyed() - destroyed, MANY - KEPT);
    for (int i = 0; i < KEPT; i++) {
        states[i] = state_new();
    }
    CHECK_EQ(valve_setups() - setups, MANY);
    for (int i = 0; i < KEPT; i++) {
        laio_cleanup(states[i]);
    }
    CHECK_EQ(valve_destroyed() - destroyed, MANY - KEPT);
}

/* Reads of blocks and holes, some of which are in flight when the state is freed. */
static void what_was_in_flight_is_no_business_of_the_next(void)
{
    Io ios[COUNT];
    int fd = test_file(O_DIRECT);
    char *buffer = aligned_buffer(COUNT * BLOCK);
    CHECK_EQ(pwrite(fd, buffer, COUNT / 2 * BLOCK, 0), COUNT / 2 * BLOCK);
    CHECK_EQ(ftruncate(fd, COUNT * BLOCK), 0);
    open_and_close(fd);
    uint64_t setups = valve_setups();
    for (int round = 0; round < ROUNDS; round++) {
        Rig rig = rig_new();
        for (int i = 0; i < COUNT; i++) {
            ios[i] = io_of(QEMU_AIO_READ, fd, (uint64_t)i * BLOCK, buffer + i * BLOCK, BLOCK);
            io_start(rig.state, &ios[i]);
        }
        host_set_state(rig.ctx, NULL);
        laio_detach_aio_context(rig.state, rig.ctx);
        laio_cleanup(rig.state); /* which waits for them, and says so */
        free(test_take_log());
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(ios[i].completions, 1);
            CHECK_EQ(ios[i].ret, 0);
        }
        host_context_free(rig.ctx);
    }
    CHECK_EQ(valve_setups(), setups);
    free(buffer);
    close(fd);
}

static void read_one(int fd)
{
    Rig rig = rig_new();
    char *buffer = aligned_buffer(BLOCK);
    Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
    io_start(rig.state, &io);
    io_finish(rig.ctx, &io, 1);
    CHECK_EQ(io.ret, 0);
    free(buffer);
    rig_free(rig);
}

/* What the parent keeps has the same number in its child, which must not take it. */
static void the_child_of_a_fork_has_none(void)
{
    int fd = test_file(O_DIRECT);
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
    open_and_close(fd);
    uint64_t setups = valve_setups();
    pid_t child = fork();
    if (child == 0) {
        test_watch(60);
        read_one(fd);
        CHECK_EQ(valve_setups() - setups, 1);
        read_one(fd);
        CHECK_EQ(valve_setups() - setups, 1);
        _exit(0);
    }
    WAIT_FOR(child, 0);
    read_one(fd);
    CHECK_EQ(valve_setups(), setups);
    free(buffer);
    close(fd);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_BUILTIN)

static const TestCase cases[] = {
    {"the second time makes and destroys nothing", the_second_time_makes_and_destroys_nothing,
     HOSTS},
    {"no more than two are kept", no_more_than_two_are_kept, HOST_BUILTIN},
    {"what was in flight is no business of the next", what_was_in_flight_is_no_business_of_the_next,
     HOSTS},
    {"the child of a fork has none", the_child_of_a_fork_has_none, HOSTS},
};

TEST_MAIN(cases)
