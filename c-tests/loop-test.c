/*
 * Event loops and threads. A loop that another thread than its maker's used and freed kept its
 * descriptor, until its maker ended or made the next one. And a loop that is new belongs to the
 * thread that uses it first: exactly one, also when two try at once.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

enum { LOOPS = 100, HANG_SECONDS = 120 };

static void in_thread(void *(*run)(void *), void *opaque)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run, opaque), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static void use(AioContext *ctx, int fd)
{
    LinuxAioState *s = state_new();
    laio_attach_aio_context(s, ctx);
    Io io = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
    io_start(s, &io);
    io_finish(ctx, &io, 1);
    CHECK_EQ(io.ret, 0);
    laio_detach_aio_context(s, ctx);
    laio_cleanup(s);
}

/* Descriptors are closed when the call returns, whoever calls. */
static void free_now(AioContext *ctx)
{
    unsigned before = test_descriptors();
    laio_loop_free(ctx);
    CHECK_EQ(test_descriptors(), before - 1);
}

static int file;

static void *free_it(void *ctx)
{
    free_now(ctx);
    return NULL;
}

static void *poll_and_free_it(void *ctx)
{
    CHECK(!laio_loop_poll(ctx, false));
    free_now(ctx);
    return NULL;
}

static void *use_and_free_it(void *ctx)
{
    use(ctx, file);
    free_now(ctx);
    return NULL;
}

static void loops_made_here_are_freed_by_others(void)
{
    void *(*const ways[])(void *) = {free_it, poll_and_free_it, use_and_free_it};
    AioContext *loops[LOOPS];
    file = test_file(0);
    unsigned before = test_descriptors();
    for (int way = 0; way < 3; way++) {
        for (int i = 0; i < LOOPS; i++) {
            loops[i] = laio_loop_new();
            CHECK(loops[i]);
        }
        CHECK_EQ(test_descriptors(), before + LOOPS);
        for (int i = 0; i < LOOPS; i++) {
            in_thread(ways[way], loops[i]);
            CHECK_EQ(test_descriptors(), before + LOOPS - 1 - (unsigned)i);
        }
    }
    close(file);
}

/* The maker is alive, and has a loop of its own. */
typedef struct Maker {
    pthread_barrier_t barrier;
    AioContext *made;
    bool uses;
} Maker;

static void *make(void *opaque)
{
    Maker *maker = opaque;
    AioContext *own = laio_loop_new();
    maker->made = laio_loop_new();
    if (maker->uses) {
        use(maker->made, file);
    }
    pthread_barrier_wait(&maker->barrier);
    /* Another thread frees it. */
    pthread_barrier_wait(&maker->barrier);
    use(own, file);
    free_now(own);
    return NULL;
}

static void a_loop_is_freed_while_its_maker_lives(void)
{
    file = test_file(0);
    unsigned before = test_descriptors();
    for (int i = 0; i < LOOPS; i++) {
        pthread_t thread;
        Maker maker = {.uses = i % 2};
        CHECK_EQ(pthread_barrier_init(&maker.barrier, NULL, 2), 0);
        CHECK_EQ(pthread_create(&thread, NULL, make, &maker), 0);
        pthread_barrier_wait(&maker.barrier);
        free_now(maker.made);
        pthread_barrier_wait(&maker.barrier);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(test_descriptors(), before);
        pthread_barrier_destroy(&maker.barrier);
    }
    close(file);
}

static void *make_and_end(void *opaque)
{
    AioContext **made = opaque;
    made[0] = laio_loop_new();
    made[1] = laio_loop_new();
    use(made[1], file);
    return NULL;
}

static void loops_outlive_their_makers(void)
{
    file = test_file(0);
    unsigned before = test_descriptors();
    for (int i = 0; i < LOOPS; i++) {
        AioContext *made[2];
        in_thread(make_and_end, made);
        CHECK_EQ(test_descriptors(), before + 2);
        if (i % 2) {
            in_thread(use_and_free_it, made[0]); /* Nobody had used it. */
            in_thread(free_it, made[1]);
        } else {
            use(made[0], file);
            free_now(made[1]);
            free_now(made[0]);
        }
        CHECK_EQ(test_descriptors(), before);
    }
    close(file);
}

/* Two threads at once. They meet without the kernel, which would set them apart. */

static atomic_uint arrived;

static void meet(unsigned *meetings)
{
    unsigned all = 2 * ++*meetings;
    atomic_fetch_add(&arrived, 1);
    for (unsigned i = 1; atomic_load(&arrived) < all; i++) {
        if (i % 1000 == 0) {
            sched_yield();
        }
    }
}

typedef struct Racer {
    LinuxAioState *_Atomic *state;
    AioContext *_Atomic *ctx;
    bool makes;
    unsigned rounds;
    uint64_t seed;
    /* What they got, by rounds. */
    signed char *answers;
} Racer;

/* The one whose loop it is gets no report; the other one does. */
static void *race(void *opaque)
{
    Racer *racer = opaque;
    unsigned meetings = 0;
    uint64_t seed = racer->seed;
    Io io = io_of(QEMU_AIO_READ, -1, 0, NULL, 0);
    for (unsigned round = 0; round < racer->rounds; round++) {
        if (racer->makes) {
            atomic_store(racer->ctx, laio_loop_new());
            laio_attach_aio_context(*racer->state, *racer->ctx);
        }
        meet(&meetings);
        /* Now one is ahead and now the other. */
        for (uint64_t i = test_random(&seed) % 64; i > 0; i--) {
            atomic_load(&arrived);
        }
        laio_loop_poll(*racer->ctx, false);
        meet(&meetings);
        io.completions = 0;
        racer->answers[round] = (signed char)laio_state_submit(
            *racer->state, file, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0, io_completed, &io);
        if (racer->answers[round] == 0) {
            while (io.completions == 0) {
                CHECK(laio_loop_poll(*racer->ctx, true));
            }
        }
        meet(&meetings);
        if (racer->makes) {
            laio_detach_aio_context(*racer->state, *racer->ctx);
            laio_loop_free(*racer->ctx);
        }
        meet(&meetings);
    }
    return NULL;
}

static unsigned lines_of(const char *log)
{
    unsigned lines = 0;
    for (; (log = strstr(log, "laio_loop_poll: ")); log++) {
        lines++;
    }
    return lines;
}

/* Its maker and another thread, or two others. */
static void take_at_once(bool maker_takes_part)
{
    unsigned rounds = test_scaled(4000, 20);
    LinuxAioState *_Atomic state = state_new();
    AioContext *_Atomic ctx = NULL;
    pthread_t threads[2];
    Racer racers[2];
    file = test_file(0);
    test_watch(HANG_SECONDS);
    for (unsigned i = 0; i < 2; i++) {
        racers[i] = (Racer){&state, &ctx, i == 0 && maker_takes_part, rounds, i, calloc(rounds, 1)};
        CHECK(racers[i].answers);
    }
    if (maker_takes_part) {
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
        }
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(pthread_join(threads[i], NULL), 0);
        }
    } else {
        for (unsigned round = 0; round < rounds / 10; round++) {
            ctx = laio_loop_new();
            laio_attach_aio_context(state, ctx);
            atomic_store(&arrived, 0);
            for (int i = 0; i < 2; i++) {
                racers[i].rounds = 1;
                racers[i].seed += 2;
                CHECK_EQ(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
            }
            for (int i = 0; i < 2; i++) {
                CHECK_EQ(pthread_join(threads[i], NULL), 0);
                racers[i].answers++;
            }
            laio_detach_aio_context(state, ctx);
            laio_loop_free(ctx);
        }
        rounds /= 10;
        for (int i = 0; i < 2; i++) {
            racers[i].answers -= rounds;
        }
    }
    for (unsigned round = 0; round < rounds; round++) {
        int one = racers[0].answers[round], two = racers[1].answers[round];
        if ((one != 0 || two != -EPERM) && (one != -EPERM || two != 0)) {
            FAIL("round %u: %d and %d: the loop is not one thread's", round, one, two);
        }
    }
    char *log = test_take_log();
    CHECK_EQ(lines_of(log), rounds);
    free(log);
    for (int i = 0; i < 2; i++) {
        free(racers[i].answers);
    }
    laio_cleanup(state);
    close(file);
}

static void two_threads_take_a_loop_at_once(void)
{
    take_at_once(false);
}

static void a_thread_takes_a_loop_while_its_maker_does(void)
{
    take_at_once(true);
}

static const TestCase cases[] = {
    {"loops made here are freed by others", loops_made_here_are_freed_by_others, HOST_UNASKED},
    {"a loop is freed while its maker lives", a_loop_is_freed_while_its_maker_lives, HOST_UNASKED},
    {"loops outlive their makers", loops_outlive_their_makers, HOST_UNASKED},
    {"two threads take a loop at once", two_threads_take_a_loop_at_once, HOST_UNASKED},
    {"a thread takes a loop while its maker does", a_thread_takes_a_loop_while_its_maker_does,
     HOST_UNASKED},
};

TEST_MAIN(cases)
