/*
 * Programs that nest io_submit deeper than the bound and do not take EAGAIN as QEMU does. Each of
 * them ends without guard mode, and has to end with it.
 *
 * The first was one that did not: a walk that submits at each level and, on EAGAIN, takes what
 * completions there are and tries again, from the same frames, without ever reading its eventfd. That
 * stays readable, so the event loop that guard mode counted on was always about to run.
 *
 * Completions are taken out of the ring, unless this is built with WITH_LIBAIO: then libaio is asked
 * for them, and nothing is ever refused.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum {
    LEVELS = 20, /* beyond the bound of 8 */
    WALKS = 200,
};

/* What a level does about EAGAIN. */
enum answer {
    AGAIN,   /* here, after taking the completions */
    SLEEP,   /* here, a little later */
    WAIT,    /* here, after waiting for a completion, which the ring must have one of */
    RETURN,  /* leaves it to the level above, which tries again */
    GIVE_UP, /* leaves it to the top, which begins anew */
    OTHER,   /* here, but with something else first */
    DROP,    /* goes on without it */
    FAIL,    /* is lost: nothing is in flight, so it cannot be */
};

static int file;
static int event;
static io_context_t context;
static io_context_t other_context;
static enum answer answer;
static bool same_request;
static int refused;
static int done;

static int take(void)
{
    struct io_event completion;
    int count = 0;

#ifdef WITH_LIBAIO
    struct timespec now = {0, 0};

    while (io_getevents(context, 0, 1, &completion, &now) == 1) {
        count++;
    }
#else
    while (ring_take(context, &completion)) {
        count++;
    }
#endif
    done += count;
    return count;
}

static void wait_for_one(void)
{
    struct io_event completion;

#ifdef WITH_LIBAIO
    assert(io_getevents(context, 1, 1, &completion, NULL) == 1);
#else
    ring_wait(context, &completion);
#endif
    done++;
}

static void prepare(struct iocb *iocb, int level)
{
    static char buffer[512];

    io_prep_pread(iocb, file, buffer, sizeof(buffer), same_request ? 0 : level * 512);
    io_set_eventfd(iocb, event);
}

/* False if the walk has to begin anew. */
static __attribute__((noinline)) bool walk(int level)
{
    static struct iocb same;
    struct iocb own;
    struct iocb *iocb = same_request ? &same : &own;
    struct iocb something;
    struct iocb *other = &something;
    int taken;

    prepare(iocb, level);
    while ((taken = io_submit(context, 1, &iocb)) == -EAGAIN) {
        struct timespec little = {0, 1000000};

        refused++;
        switch (answer) {
        case AGAIN:
            take();
            break;
        case SLEEP:
            nanosleep(&little, NULL);
            break;
        case WAIT:
            wait_for_one();
            break;
        case RETURN:
        case GIVE_UP:
            return false;
        case OTHER:
            prepare(other, level + 1);
            if (io_submit(context, 1, &other) == -EAGAIN) {
                refused++;
            }
            if (other_context != NULL && io_submit(other_context, 1, &other) == -EAGAIN) {
                refused++;
            }
            take();
            break;
        case DROP:
            goto next;
        case FAIL:
            fprintf(stderr, "EAGAIN with nothing in flight\n");
            exit(1);
        }
    }
    assert(taken == 1);
    /* Its own completion, or all but the last are left until the end. */
    if (answer != WAIT) {
        wait_for_one();
    }
next:
    while (level < LEVELS && !walk(level + 1)) {
        if (answer == GIVE_UP) {
            return false;
        }
    }
    return true;
}

static void walks(void)
{
    for (int i = 0; i < WALKS; i++) {
        while (!walk(1)) {
            take();
        }
        take();
    }
}

static void again(void)
{
    answer = AGAIN;
    walks();
    assert(refused <= 17);
}

static void sleeps(void)
{
    answer = SLEEP;
    walks();
    assert(refused <= 17);
}

static void waits(void)
{
    answer = WAIT;
    walks();
    assert(refused <= 17);
}

static void level_above(void)
{
    answer = RETURN;
    walks();
    assert(refused <= 17);
}

static void from_the_top(void)
{
    answer = GIVE_UP;
    walks();
    assert(refused <= 1);
}

/* With requests that cannot be told apart. */
static void from_the_top_with_the_same(void)
{
    answer = GIVE_UP;
    same_request = true;
    walks();
    assert(refused <= 18);
}

/* As a program with an event loop may. */
static void from_an_event_loop(void)
{
    answer = GIVE_UP;
    for (int i = 0; i < WALKS; i++) {
        while (!walk(1)) {
            uint64_t count;

            assert(read(event, &count, sizeof(count)) == sizeof(count));
            take();
        }
        take();
    }
    assert(refused <= 1);
}

static void something_else(void)
{
    answer = OTHER;
    assert(io_setup(1024, &other_context) == 0);
    walks();
    assert(refused <= 1);
}

static void dropped(void)
{
    answer = DROP;
    walks();
    assert(refused <= 1);
}

static void lost(void)
{
    answer = FAIL;
    walks();
}

static void *one_walk(void *finished)
{
    *(bool *)finished = walk(1);
    return NULL;
}

/* Each attempt is another thread's. */
static void other_threads(void)
{
    bool finished = false;

    answer = GIVE_UP;
    while (!finished) {
        pthread_t thread;

        assert(pthread_create(&thread, NULL, one_walk, &finished) == 0);
        assert(pthread_join(thread, NULL) == 0);
        take();
    }
    assert(refused <= 1024);
}

/* Each attempt has a context of its own, at the same address or not. */
static void other_contexts(void)
{
    answer = GIVE_UP;
    for (int i = 0; i < 20; i++) {
        while (!walk(1)) {
            assert(io_destroy(context) == 0);
            context = NULL;
            assert(io_setup(1024, &context) == 0);
        }
        take();
    }
    assert(refused <= 1);
}

static volatile bool stop;

static void *reads_the_eventfd(void *unused)
{
    while (!stop) {
        struct pollfd wait = {.fd = event, .events = POLLIN};
        uint64_t count;

        if (poll(&wait, 1, 1) == 1 && read(event, &count, sizeof(count)) < 0) {
            assert(errno == EAGAIN);
        }
    }
    return unused;
}

/* The eventfd is another thread's to read, at any moment. */
static void another_reads(void)
{
    static const enum answer answers[] = {AGAIN, RETURN, OTHER, GIVE_UP};
    pthread_t thread;

    assert(pthread_create(&thread, NULL, reads_the_eventfd, NULL) == 0);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        answer = answers[i];
        walks();
    }
    stop = true;
    assert(pthread_join(thread, NULL) == 0);
}

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"again", again},
    {"sleeps", sleeps},
    {"level-above", level_above},
    {"from-the-top", from_the_top},
    {"from-the-top-with-the-same", from_the_top_with_the_same},
    {"from-an-event-loop", from_an_event_loop},
    {"something-else", something_else},
    {"dropped", dropped},
    {"other-threads", other_threads},
    {"other-contexts", other_contexts},
    {"another-reads", another_reads},
    {"waits", waits},
    {"lost", lost},
};

/* retries FILE TEST: a file of 32 KiB. */
int main(int argc, char **argv)
{
    assert(argc == 3);
    file = open(argv[1], O_RDONLY | O_CLOEXEC);
    event = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(file >= 0 && event >= 0);
    assert(io_setup(1024, &context) == 0);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (strcmp(argv[2], tests[i].name) == 0) {
            tests[i].function();
            printf("%d done, %d refused\n", done, refused);
            return 0;
        }
    }
    return 2;
}
