/*
 * A C program of each kind of call: callbacks, a plug, a thread that waits, statistics, and what is
 * refused. Prints what is wrong; `cargo test` compiles, links and runs it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <laio.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

enum { WRITES = 8, BLOCK = 512 };

typedef struct Program {
    AioContext *loop;
    LinuxAioState *state;
    int fd;
    char written[WRITES][BLOCK];
    int completed;
    int failed;
} Program;

static void count(void *opaque, int ret)
{
    Program *program = opaque;

    program->completed++;
    program->failed += ret < 0;
}

static void keep(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* Gathered by a plug, and submitted together by its end. */
static int write_plugged(Program *program)
{
    struct iovec iov[WRITES];
    LaioStats stats = {.size = sizeof(stats)};

    laio_state_io_plug(program->state);
    for (int i = 0; i < WRITES; i++) {
        memset(program->written[i], 'a' + i, BLOCK);
        iov[i].iov_base = program->written[i];
        iov[i].iov_len = BLOCK;
        CHECK(laio_state_submit(program->state, program->fd, (uint64_t)i * BLOCK, &iov[i], 1,
                                QEMU_AIO_WRITE, 0, 0, count, program) == 0);
    }
    laio_state_get_stats(program->state, &stats);
    CHECK(stats.submitted == WRITES && stats.in_queue == WRITES);
    CHECK(stats.io_submit_calls == 0 && program->completed == 0);

    laio_state_io_unplug(program->state, 0);
    while (program->completed < WRITES) {
        CHECK(laio_loop_poll(program->loop, true));
    }
    laio_state_get_stats(program->state, &stats);
    CHECK(stats.completed == WRITES && stats.in_queue == 0 && stats.in_flight == 0);
    CHECK(stats.largest_batch == WRITES && stats.io_submit_calls == 1);
    CHECK(program->failed == 0);
    return 0;
}

/* On a plain thread laio_co_submit() runs the loop until its request is done. */
static int read_waiting(Program *program)
{
    char read[WRITES * BLOCK + 1];
    struct iovec iov[2] = {{read, BLOCK / 2}, {read + BLOCK / 2, sizeof(read) - BLOCK / 2}};
    QEMUIOVector qiov;

    memset(&qiov, 0, sizeof(qiov));
    qiov.iov = iov;
    qiov.niov = 2;
    qiov.size = sizeof(read);
    memset(read, 'x', sizeof(read));
    CHECK(laio_co_submit(program->fd, 0, &qiov, QEMU_AIO_READ, 0, 0) == 0);
    CHECK(memcmp(read, program->written, sizeof(program->written)) == 0);
    CHECK(read[sizeof(read) - 1] == 0); /* what is beyond the end of the file reads as zeros */
    if (laio_has_fdsync(program->fd)) {
        CHECK(laio_co_submit(program->fd, 0, NULL, QEMU_AIO_FLUSH, 0, 0) == 0);
    }
    return 0;
}

/* What makes no sense is answered at once, and what the kernel refuses is told to the callback. */
static int refused(Program *program)
{
    struct iovec iov = {program->written[0], BLOCK};
    LinuxAioState *state = program->state;
    int closed, ret = 1;
    LaioStats stats = {.size = sizeof(stats)};

    CHECK(laio_state_submit(NULL, program->fd, 0, &iov, 1, QEMU_AIO_READ, 0, 0, keep, &ret) ==
          -EINVAL);
    CHECK(laio_state_submit(state, program->fd, 0, &iov, 1, QEMU_AIO_READ, 0, 0, NULL, &ret) ==
          -EINVAL);
    CHECK(laio_state_submit(state, -1, 0, &iov, 1, QEMU_AIO_READ, 0, 0, keep, &ret) == -EBADF);
    CHECK(laio_state_submit(state, program->fd, 0, &iov, 1, 99, 0, 0, keep, &ret) == -EINVAL);
    CHECK(laio_version() == LAIO_VERSION);
    CHECK(laio_set_max_submit_depth(0) == -EINVAL && laio_max_submit_depth() == 8);
    CHECK(ret == 1);

    closed = dup(program->fd);
    close(closed);
    CHECK(laio_state_submit(state, closed, 0, &iov, 1, QEMU_AIO_READ, 0, 0, keep, &ret) == 0);
    while (ret > 0) {
        CHECK(laio_loop_poll(program->loop, true));
    }
    CHECK(ret == -EBADF);
    laio_state_get_stats(state, &stats);
    CHECK(stats.failed == 1 && stats.submitted == stats.completed);

    laio_detach_aio_context(state, program->loop);
    CHECK(laio_state_submit(state, program->fd, 0, &iov, 1, QEMU_AIO_READ, 0, 0, keep, &ret) ==
          -ENOTCONN);
    return 0;
}

int main(void)
{
    static Program program;
    FILE *file = tmpfile();

    CHECK(file);
    program.fd = fileno(file);
    program.loop = laio_loop_new();
    program.state = laio_init(NULL);
    CHECK(program.loop && program.state);
    CHECK(laio_loop_get_fd(program.loop) >= 0 && laio_loop_get_fd(NULL) == -EINVAL);
    laio_attach_aio_context(program.state, program.loop);
    if (write_plugged(&program) || read_waiting(&program) || refused(&program)) {
        return 1;
    }
    laio_cleanup(program.state);
    laio_loop_free(program.loop);
    fclose(file);
    return 0;
}
