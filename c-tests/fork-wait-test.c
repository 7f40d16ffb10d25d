/*
 * A completion forks while laio_co_submit() waits further up, on the built-in event loop. The child's
 * wait is for ever: the request is its parent's. It waited in the epoll set that it has with its parent,
 * took the edges there, and the parent slept for ever too.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HANG_SECONDS = 60 };

static _Atomic pid_t child;

static void forking_completed(void *opaque, int ret)
{
    (void)opaque;
    CHECK_EQ(ret, 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK_GE(pid, 0);
    child = pid;
}

static void *release(void *opaque)
{
    (void)opaque;
    while (child == 0) {
        usleep(100);
    }
    valve_set(VALVE_OPEN, -1);
    valve_release();
    return NULL;
}

static void a_child_that_waits_does_not_disturb_its_parent(void)
{
    pthread_t thread;
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int fd = test_file(O_DIRECT), flushed = test_file(0);
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
    valve_set(VALVE_HOLD, fd);
    CHECK_EQ(laio_state_submit(rig.state, flushed, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0,
                               forking_completed, NULL),
             0);
    CHECK_EQ(pthread_create(&thread, NULL, release, NULL), 0);
    Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
    CHECK_EQ(way_co_submit(WAY_STATE, rig.state, &io), 0);
    /* Only the parent comes here. */
    CHECK_EQ(pthread_join(thread, NULL), 0);
    for (unsigned i = test_scaled(1000, 50); i > 0; i--) {
        io_start(rig.state, &io);
        io_finish(rig.ctx, &io, 1);
    }
    CHECK_EQ(waitpid(child, NULL, WNOHANG), 0); /* It waits. */
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(waitpid(child, NULL, 0), child);
    close(flushed);
    free(buffer);
    close(fd);
    rig_free(rig);
}

static const TestCase cases[] = {
    {"a child that waits does not disturb its parent",
     a_child_that_waits_does_not_disturb_its_parent, HOST_BUILTIN},
};

TEST_MAIN(cases)
