/*
 * Threads and processes end, and what runs then may use the library: a flush in an atexit handler
 * is an ordinary thing. What the library kept for a thread was gone by then, and it ended the
 * process with a message of Rust's. All functions work as ever in atexit handlers, destructors of
 * thread keys, destructors of the program, and after pthread_exit() in main().
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

/* A child of the case does it, and ends so when all was done. */
enum { DONE = 42, HANG_SECONDS = 60 };

typedef enum Before {
    NOTHING, /* the first use of the library comes at the end */
    MADE,    /* a loop and a state */
    USED,    /* that were used */
    BEFORES,
} Before;

static int fd;
static Before before;
static Rig early;

static void work(Rig rig)
{
    char *buffer = aligned_buffer(BLOCK);
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &io), 0);
        io = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        CHECK_EQ(way_do(way, rig, &io), 0);
        io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        laio_io_plug();
        laio_state_io_plug(rig.state);
        io_start(rig.state, &io);
        laio_state_io_unplug(rig.state, 0);
        laio_io_unplug(0);
        io_finish(rig.ctx, &io, 1);
        CHECK_EQ(io.ret, 0);
    }
    free(buffer);
}

static void ask(void)
{
    CHECK_EQ(laio_submit_depth(), 0);
    CHECK_EQ(laio_max_submit_depth(), 8);
    CHECK_EQ(laio_set_max_submit_depth(8), 0);
    CHECK(laio_has_fdsync(fd));
    CHECK(laio_has_fua());
}

static void begin(void)
{
    if (before != NOTHING) {
        early = rig_new();
        if (before == USED) {
            work(early);
        }
    }
}

/* All that there is, at the end. */
static void everything(void)
{
    ask();
    if (before != NOTHING) {
        work(early);
    }
    Rig late = rig_new();
    work(late);
    if (before != NOTHING) {
        rig_free(early);
        host_set_current(late.ctx);
    }
    work(late);
    rig_free(late);
    ask();
    coroutine_thread_done();
    EXPECT_NO_LOG();
}

static _Noreturn void done(void)
{
    _exit(DONE);
}

static void in_child(void (*run)(void))
{
    fd = test_file(O_DIRECT);
    for (before = NOTHING; before < BEFORES; before++) {
        test_context("before: %d", before);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            test_watch(HANG_SECONDS);
            run();
            exit(0);
        }
        WAIT_FOR(child, DONE);
    }
    close(fd);
}

/* The end of the process. */

static void everything_at_exit(void)
{
    everything();
    done();
}

static void end_by_exit(void)
{
    CHECK_EQ(atexit(everything_at_exit), 0);
    begin();
}

static void atexit_handlers_use_the_library(void)
{
    in_child(end_by_exit);
}

/* Before and after others, which use it too. */
static unsigned handlers;

static void everything_at_each_exit(void)
{
    Rig first = early;
    Before was = before;
    handlers++;
    if (handlers > 1) {
        before = NOTHING;
    }
    everything();
    before = was;
    early = first;
    if (handlers == 3) {
        done();
    }
}

static void end_with_handlers(void)
{
    CHECK_EQ(atexit(everything_at_each_exit), 0);
    begin();
    CHECK_EQ(atexit(everything_at_each_exit), 0);
    CHECK_EQ(atexit(everything_at_each_exit), 0);
}

static void several_atexit_handlers_use_the_library(void)
{
    in_child(end_with_handlers);
}

static bool at_destruction;

__attribute__((destructor)) static void destroy(void)
{
    if (at_destruction) {
        everything();
        done();
    }
}

static void end_by_destructor(void)
{
    at_destruction = true;
    begin();
}

static void destructors_use_the_library(void)
{
    in_child(end_by_destructor);
}

/* The end of a thread. */

static pthread_key_t key;
static unsigned rounds;

/* Called again as long as it sets the key: after what other libraries keep is gone. */
static void key_destructor(void *value)
{
    rounds++;
    if (rounds > 1) {
        before = NOTHING;
    }
    everything();
    if (rounds < 3) {
        CHECK_EQ(pthread_setspecific(key, value), 0);
    }
}

static void *thread_with_key(void *unused)
{
    CHECK_EQ(pthread_setspecific(key, &key), 0);
    begin();
    return unused;
}

static void end_thread(void)
{
    pthread_t thread;
    CHECK_EQ(pthread_key_create(&key, key_destructor), 0);
    CHECK_EQ(pthread_create(&thread, NULL, thread_with_key, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(rounds, 3);
    /* The others go on. */
    before = NOTHING;
    everything();
    done();
}

static void key_destructors_use_the_library(void)
{
    in_child(end_thread);
}

/* A key that is older than the library's own. */
static void end_main_thread(void)
{
    CHECK_EQ(pthread_key_create(&key, key_destructor), 0);
    CHECK_EQ(pthread_setspecific(key, &key), 0);
    begin();
}

static void skip_where_threads_look_lost(void)
{
    if (RUNNING_ON_VALGRIND) {
        test_skip("valgrind takes the memory of a thread that runs for lost");
    }
}

/* main() ends its thread, and another thread the process. */
static pthread_t main_thread;

static void *outlives_main(void *unused)
{
    CHECK_EQ(pthread_join(main_thread, NULL), 0);
    CHECK_EQ(rounds, 3);
    before = NOTHING;
    everything();
    CHECK_EQ(atexit(everything_at_exit), 0);
    exit(0);
    return unused;
}

static void end_main(void)
{
    pthread_t thread;
    main_thread = pthread_self();
    end_main_thread();
    CHECK_EQ(pthread_create(&thread, NULL, outlives_main, NULL), 0);
    pthread_exit(NULL);
}

static void main_ends_before_the_process(void)
{
    skip_where_threads_look_lost();
    in_child(end_main);
}

/* A handler that runs while another thread is at work. */
static void *works_on(void *unused)
{
    Rig rig = rig_new();
    for (;;) {
        work(rig);
    }
    return unused;
}

static void end_beside_a_thread(void)
{
    pthread_t thread;
    CHECK_EQ(atexit(everything_at_exit), 0);
    begin();
    CHECK_EQ(pthread_create(&thread, NULL, works_on, NULL), 0);
}

static void the_process_ends_beside_a_thread_at_work(void)
{
    skip_where_threads_look_lost();
    in_child(end_beside_a_thread);
}

/* A thread that ends leaves its loop, and a state with a request, to another. */
static void *leaves_its_loop(void *opaque)
{
    early = rig_new();
    work(early);
    laio_state_io_plug(early.state);
    io_start(early.state, opaque);
    laio_detach_aio_context(early.state, early.ctx);
    EXPECT_LOG("laio_detach_aio_context: 1 requests are outstanding");
    coroutine_thread_done();
    return NULL;
}

static void a_thread_leaves_its_loop_to_another(void)
{
    char *buffer = aligned_buffer(BLOCK);
    fd = test_file(O_DIRECT);
    Rig here = rig_new();
    work(here);
    unsigned descriptors = test_descriptors();
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        Io io = io_of(QEMU_AIO_WRITE, fd, 0, buffer, BLOCK);
        CHECK_EQ(pthread_create(&thread, NULL, leaves_its_loop, &io), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(io.completions, 0);
        if (i % 2) {
            host_set_current(here.ctx);
            laio_attach_aio_context(early.state, here.ctx);
            io_finish(here.ctx, &io, 1);
            laio_state_io_unplug(early.state, 0);
            laio_cleanup(early.state);
        } else {
            laio_cleanup(early.state);
            EXPECT_LOG("laio_cleanup: waiting for 1 requests");
        }
        CHECK_EQ(io.completions, 1);
        CHECK_EQ(io.ret, 0);
        host_context_free(early.ctx);
        host_set_current(here.ctx);
        CHECK_EQ(test_descriptors(), descriptors);
    }
    rig_free(here);
    free(buffer);
    close(fd);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_BUILTIN)

static const TestCase cases[] = {
    {"atexit handlers use the library", atexit_handlers_use_the_library, HOSTS},
    {"several atexit handlers use the library", several_atexit_handlers_use_the_library, HOSTS},
    {"destructors use the library", destructors_use_the_library, HOSTS},
    {"key destructors use the library", key_destructors_use_the_library, HOSTS},
    {"main ends before the process", main_ends_before_the_process, HOSTS},
    {"the process ends beside a thread at work", the_process_ends_beside_a_thread_at_work, HOSTS},
    {"a thread leaves its loop to another", a_thread_leaves_its_loop_to_another, HOSTS},
};

TEST_MAIN(cases)
