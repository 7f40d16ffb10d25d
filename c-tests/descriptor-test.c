/*
 * The descriptor of an event loop, for a program that waits in one of its own: readable whenever a
 * turn would make progress, until a turn has nothing left to do. Here nobody ever waits by anything
 * else, and looks only when it is readable: what it does not tell hangs. (The other tests do so too,
 * in the host builtin-fd.)
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "syscalls.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HANG_SECONDS = 60, BUDGET = 1024 };

static bool readable(int fd, int ms)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int ready;
    do {
        ready = poll(&poll_fd, 1, ms);
    } while (ready < 0 && errno == EINTR);
    CHECK(ready == 0 || poll_fd.revents == POLLIN);
    return ready == 1;
}

static int descriptor_of(AioContext *ctx)
{
    int fd = laio_loop_get_fd(ctx);
    CHECK_GE(fd, 0);
    return fd;
}

/* A turn, as the program makes it. */
static bool turn(AioContext *ctx)
{
    CHECK(readable(descriptor_of(ctx), -1));
    return laio_loop_poll(ctx, false);
}

/* Nothing is left to do. The kernel may signal what was seen in its ring before. */
static void check_silent(AioContext *ctx)
{
    for (int i = 0; i < 1000; i++) {
        while (laio_loop_poll(ctx, false)) {
        }
        if (!readable(descriptor_of(ctx), 0)) {
            return;
        }
    }
    FAIL("the descriptor stays readable with nothing to do");
}

static void finish(AioContext *ctx, Io *ios, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (ios[i].completions == 0) {
            turn(ctx);
        }
        CHECK_EQ(ios[i].completions, 1);
        CHECK_EQ(ios[i].ret, 0);
    }
}

static void a_completion_makes_it_readable(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int fd = test_file(O_DIRECT);
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
    for (unsigned i = test_scaled(2000, 50); i > 0; i--) {
        Io io = i % 4 ? io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK)
                      : io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        io_start(rig.state, &io);
        finish(rig.ctx, &io, 1);
    }
    check_silent(rig.ctx);
    free(buffer);
    close(fd);
    rig_free(rig);
}

static void it_stays_readable_until_a_turn(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int fd = descriptor_of(rig.ctx), hole = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    check_silent(rig.ctx);
    Io io = io_of(QEMU_AIO_READ, hole, 0, buffer, BLOCK);
    laio_state_io_plug(rig.state);
    io_start(rig.state, &io);
    for (int i = 0; i < 3; i++) {
        CHECK(readable(fd, 0)); /* for what is queued */
    }
    finish(rig.ctx, &io, 1);
    laio_state_io_unplug(rig.state, 0);
    check_silent(rig.ctx);
    free(buffer);
    close(hole);
    rig_free(rig);
}

/* Before anybody has asked there is nothing that could be told. */
static void what_was_scheduled_before_it_was_asked_for_makes_it_readable(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int hole = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    Io io = io_of(QEMU_AIO_READ, hole, 0, buffer, BLOCK);
    laio_state_io_plug(rig.state);
    io_start(rig.state, &io);
    CHECK(readable(descriptor_of(rig.ctx), 0));
    finish(rig.ctx, &io, 1);
    laio_state_io_unplug(rig.state, 0);
    check_silent(rig.ctx);
    free(buffer);
    close(hole);
    rig_free(rig);
}

/* One after the other, each from within the completion of the one before. */
typedef struct Chain {
    LinuxAioState *state;
    Io io;
    unsigned left;
} Chain;

static void chain_next(void *opaque, int ret)
{
    Chain *chain = opaque;
    CHECK_EQ(ret, 0);
    if (chain->left > 0) {
        chain->left--;
        CHECK_EQ(laio_state_submit(chain->state, chain->io.fd, 0, &chain->io.one, 1, QEMU_AIO_READ,
                                   0, 0, chain_next, chain),
                 0);
    }
}

/* A storm: turn after turn ends at the depth's bound, with a bottom half scheduled, and when as many
 * owners are told as one turn may. */
static void a_storm_keeps_it_readable(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int hole = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    Chain chain = {rig.state, io_of(QEMU_AIO_READ, hole, 0, buffer, BLOCK),
                   test_scaled(200000, 5000)};
    unsigned turns = 0, least = chain.left / BUDGET;
    chain_next(&chain, 0);
    for (LaioStats stats = state_stats(rig.state); stats.completed < stats.submitted; turns++) {
        uint64_t before = stats.completed;
        turn(rig.ctx);
        stats = state_stats(rig.state);
        CHECK_LE(stats.completed - before, BUDGET);
    }
    CHECK_EQ(chain.left, 0);
    CHECK_GE(turns, least);
    CHECK_EQ(state_stats(rig.state).deepest_nesting, laio_max_submit_depth());
    check_silent(rig.ctx);
    free(buffer);
    close(hole);
    rig_free(rig);
}

/* A completion runs the program's event loop until another request is complete. */
typedef struct Nest {
    Rig rig;
    Io io;
    unsigned deeper;
} Nest;

static void nest_completed(void *opaque, int ret)
{
    Nest *nest = opaque;
    CHECK_EQ(ret, 0);
    nest->io.completions++;
    if (nest->deeper > 0) {
        Nest inner = {nest->rig, nest->io, nest->deeper - 1};
        inner.io.completions = 0;
        CHECK_EQ(laio_state_submit(inner.rig.state, inner.io.fd, 0, &inner.io.one, 1, inner.io.type,
                                   0, 0, nest_completed, &inner),
                 0);
        while (inner.io.completions == 0) {
            turn(inner.rig.ctx);
        }
    }
}

static void a_completion_waits_by_it(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int files[] = {test_file(O_DIRECT), hole_file()};
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(files[0], buffer, BLOCK, 0), BLOCK);
    for (unsigned round = 0; round < 100; round++) {
        Nest nest = {rig, io_of(QEMU_AIO_READ, files[round % 2], 0, buffer, BLOCK), round % 10};
        nest_completed(&nest, 0);
        CHECK_EQ(nest.io.completions, 1);
    }
    check_silent(rig.ctx);
    free(buffer);
    close(files[0]);
    close(files[1]);
    rig_free(rig);
}

static void *ask(void *ctx)
{
    return (void *)(intptr_t)laio_loop_get_fd(ctx);
}

static void threads_ask_at_once(void)
{
    enum { THREADS = 4 };
    unsigned before = test_descriptors();
    for (int round = 0; round < 200; round++) {
        pthread_t threads[THREADS];
        AioContext *ctx = laio_loop_new();
        for (int i = 0; i < THREADS; i++) {
            CHECK_EQ(pthread_create(&threads[i], NULL, ask, ctx), 0);
        }
        int fd = descriptor_of(ctx);
        for (int i = 0; i < THREADS; i++) {
            void *answer;
            CHECK_EQ(pthread_join(threads[i], &answer), 0);
            CHECK_EQ((intptr_t)answer, fd);
        }
        CHECK_EQ(test_descriptors(), before + 2);
        check_silent(ctx); /* and to have asked does not keep it for a thread */
        laio_loop_free(ctx);
        CHECK_EQ(test_descriptors(), before);
    }
}

static atomic_bool asleep;

static void *attach(void *opaque)
{
    Rig *rig = opaque;
    while (!atomic_load(&asleep)) {
        usleep(100);
    }
    usleep(1000);
    laio_attach_aio_context(rig->state, rig->ctx);
    return NULL;
}

static void a_thread_that_attaches_wakes_it(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int fd = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    for (int round = 0; round < 50; round++) {
        pthread_t thread;
        Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        laio_state_io_plug(rig.state);
        io_start(rig.state, &io);
        laio_detach_aio_context(rig.state, rig.ctx);
        free(test_take_log()); /* It says that a request is outstanding. */
        check_silent(rig.ctx);
        CHECK_EQ(io.completions, 0);
        atomic_store(&asleep, false);
        CHECK_EQ(pthread_create(&thread, NULL, attach, &rig), 0);
        atomic_store(&asleep, true);
        CHECK(readable(descriptor_of(rig.ctx), -1));
        CHECK_EQ(pthread_join(thread, NULL), 0);
        finish(rig.ctx, &io, 1);
        laio_state_io_unplug(rig.state, 0);
    }
    free(buffer);
    close(fd);
    rig_free(rig);
}

/* The child has the same epoll set. */
static void be_child(Rig rig, Io *io, int go)
{
    char byte;
    test_watch(HANG_SECONDS);
    CHECK_EQ(laio_loop_get_fd(rig.ctx), -ENOTCONN);
    while (read(go, &byte, 1) < 0 && errno == EAGAIN) {
        CHECK(!laio_loop_poll(rig.ctx, false));
    }
    laio_detach_aio_context(rig.state, rig.ctx);
    laio_cleanup(rig.state);
    laio_loop_free(rig.ctx);
    CHECK_EQ(io->completions, 0);
    free(test_take_log());
    _exit(0);
}

static void a_child_leaves_it_to_its_parent(void)
{
    test_watch(HANG_SECONDS);
    Rig rig = rig_new();
    int fd = test_file(O_DIRECT), go[2];
    char *buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(fd, buffer, BLOCK, 0), BLOCK);
    descriptor_of(rig.ctx);
    CHECK_EQ(pipe2(go, O_NONBLOCK | O_CLOEXEC), 0);
    Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
    laio_state_io_plug(rig.state);
    io_start(rig.state, &io);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        be_child(rig, &io, go[0]);
    }
    for (unsigned round = test_scaled(300, 20); round > 0; round--) {
        finish(rig.ctx, &io, 1);
        io_start(rig.state, &io);
    }
    CHECK_EQ(write(go[1], "", 1), 1);
    WAIT_FOR(child, 0);
    finish(rig.ctx, &io, 1);
    laio_state_io_unplug(rig.state, 0);
    check_silent(rig.ctx);
    close(go[0]);
    close(go[1]);
    free(buffer);
    close(fd);
    rig_free(rig);
}

static void freeing_the_loop_closes_it(void)
{
    unsigned before = test_descriptors();
    AioContext *ctx = laio_loop_new();
    CHECK_EQ(test_descriptors(), before + 1);
    int fd = descriptor_of(ctx);
    CHECK_EQ(test_descriptors(), before + 2);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    laio_loop_free(ctx);
    CHECK_EQ(test_descriptors(), before);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    CHECK_EQ(errno, EBADF);
}

static void errors(void)
{
    struct rlimit limit, none;
    CHECK_EQ(laio_loop_get_fd(NULL), -EINVAL);
    AioContext *ctx = laio_loop_new();
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(laio_loop_get_fd(ctx), -EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    descriptor_of(ctx);
    laio_loop_free(ctx);
    EXPECT_NO_LOG();
}

static void a_host_with_hooks_has_none(void)
{
    Rig rig = rig_new();
    CHECK_EQ(laio_loop_get_fd(rig.ctx), -ENOTSUP);
    CHECK_EQ(laio_loop_get_fd(NULL), -ENOTSUP);
    EXPECT_NO_LOG();
    rig_free(rig);
}

/* In front of libc's, by which the library makes its system calls. */
static unsigned writes, waits;

long syscall(long number, ...)
{
    long arguments[6];
    va_list list;

    va_start(list, number);
    syscall_arguments(arguments, list);
    va_end(list);
    writes += number == SYS_write;
    waits += number == SYS_epoll_pwait;
    return call_through(number, arguments);
}

/* Plugged requests, each of which schedules a bottom half and is done by it. */
static void do_requests(AioContext *ctx, unsigned count)
{
    LinuxAioState *s = state_new();
    int fd = hole_file();
    char *buffer = aligned_buffer(BLOCK);
    laio_attach_aio_context(s, ctx);
    laio_state_io_plug(s);
    for (unsigned i = 0; i < count; i++) {
        Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        io_start(s, &io);
        while (io.completions == 0) {
            laio_loop_poll(ctx, false);
        }
    }
    laio_state_io_unplug(s, 0);
    laio_detach_aio_context(s, ctx);
    laio_cleanup(s);
    free(buffer);
    close(fd);
}

static void who_does_not_ask_pays_nothing(void)
{
    enum { COUNT = 100 };
    AioContext *ctx = laio_loop_new();
    writes = waits = 0;
    do_requests(ctx, COUNT);
    CHECK_EQ(writes, 0);
    CHECK_EQ(waits, 0);
    descriptor_of(ctx);
    writes = waits = 0;
    do_requests(ctx, COUNT);
    CHECK_GE(writes, COUNT / 2);
    CHECK_LE(writes, 2 * COUNT);
    CHECK_GE(waits, COUNT / 2);
    laio_loop_free(ctx);
}

#define WITH_HOOKS (HOST_QEMU | HOST_MINIMAL | HOST_POLLED | HOST_LOCK)

static const TestCase cases[] = {
    {"a completion makes it readable", a_completion_makes_it_readable, HOST_BUILTIN},
    {"it stays readable until a turn", it_stays_readable_until_a_turn, HOST_BUILTIN},
    {"what was scheduled before it was asked for makes it readable",
     what_was_scheduled_before_it_was_asked_for_makes_it_readable, HOST_UNASKED},
    {"a storm keeps it readable", a_storm_keeps_it_readable, HOST_BUILTIN},
    {"a completion waits by it", a_completion_waits_by_it, HOST_BUILTIN},
    {"threads ask at once", threads_ask_at_once, HOST_UNASKED},
    {"a thread that attaches wakes it", a_thread_that_attaches_wakes_it, HOST_BUILTIN},
    {"a child leaves it to its parent", a_child_leaves_it_to_its_parent, HOST_BUILTIN},
    {"freeing the loop closes it", freeing_the_loop_closes_it, HOST_UNASKED},
    {"errors", errors, HOST_UNASKED},
    {"a host with hooks has none", a_host_with_hooks_has_none, WITH_HOOKS},
    {"who does not ask pays nothing", who_does_not_ask_pays_nothing, HOST_UNASKED},
};

TEST_MAIN(cases)
