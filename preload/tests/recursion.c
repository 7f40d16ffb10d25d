/*
 * A program that recurses through io_submit, as QEMU does: it reaps completions after submitting, and
 * who is told of one submits the next. Under guard mode it must stop at the bound, on every kind of
 * stack, and only where it can come back.
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
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "ring.h"

enum {
    STACK_SIZE = 1 << 20,
    COROUTINES = 40,
};

struct queue {
    io_context_t context;
    int eventfd;
    bool with_eventfd; /* requests signal it */
    bool drained;      /* somebody reads it before every call */
    long left;         /* requests still to be made */
    bool blocked;      /* io_submit said EAGAIN, with a request in hand */
    unsigned depth;
    unsigned deepest; /* that submitted */
    unsigned refused;
    unsigned refused_at;    /* the depth of the last refusal */
    unsigned event_loop_at; /* depth at which an event loop runs, once; 0 for never */
    bool unnamed_event_loop;
    unsigned deepest_below_event_loop;
    void (*between)(void); /* runs at every level */
    bool varying;          /* frames of a size that changes */
    struct iocb iocb;
    char buffer[512];
};

static int file;
static unsigned bound = 8;

void aio_poll(struct queue *queue);
static void event_loop(struct queue *queue);
static void submit(struct queue *queue);

/* A frame whose size only the frame pointer tells. */
static __attribute__((noinline)) void submit_below(struct queue *queue, size_t size)
{
    char room[size];

    __asm__ volatile("" ::"r"(room) : "memory");
    submit(queue);
    __asm__ volatile("" ::"r"(room) : "memory");
}

static void complete(struct queue *queue)
{
    if (queue->between != NULL) {
        queue->between();
    }
    if (queue->event_loop_at == queue->depth) {
        queue->event_loop_at = 0;
        if (queue->unnamed_event_loop) {
            event_loop(queue);
        } else {
            aio_poll(queue);
        }
    }
    if (queue->left == 0 || queue->blocked) {
        return;
    }
    if (queue->varying) {
        submit_below(queue, (size_t)(queue->left * 7919 % 3000 + 1));
    } else {
        submit(queue);
    }
}

/* One frame of the recursion, about as large as QEMU's. */
static __attribute__((noinline)) void submit(struct queue *queue)
{
    char padding[8192];
    struct iocb *iocb = &queue->iocb;
    struct io_event event;
    uint64_t count;
    int taken;

    memset(padding, 1, sizeof(padding));
    __asm__ volatile("" ::"r"(padding) : "memory");
    queue->depth++;
    io_prep_pread(iocb, file, queue->buffer, sizeof(queue->buffer), 0);
    if (queue->with_eventfd) {
        io_set_eventfd(iocb, queue->eventfd);
    }
    if (queue->drained && read(queue->eventfd, &count, sizeof(count)) < 0) {
        assert(errno == EAGAIN);
    }
    taken = io_submit(queue->context, 1, &iocb);
    if (taken == -EAGAIN) {
        queue->blocked = true;
        queue->refused++;
        queue->refused_at = queue->depth;
    } else {
        assert(taken == 1);
        queue->blocked = false;
        queue->left--;
        if (queue->depth > queue->deepest) {
            queue->deepest = queue->depth;
        }
        /* A file in the page cache: the kernel is done before io_submit returns. */
        ring_wait(queue->context, &event);
        assert(event.res == sizeof(queue->buffer));
        complete(queue);
    }
    queue->depth--;
    __asm__ volatile("" ::"r"(padding) : "memory");
}

/* What an event loop does when the eventfd is readable. */
static void handle_event(struct queue *queue)
{
    struct pollfd wait = {.fd = queue->eventfd, .events = POLLIN};
    uint64_t count;

    assert(poll(&wait, 1, 10000) == 1); /* else it was refused with nobody to wake it */
    assert(read(queue->eventfd, &count, sizeof(count)) == sizeof(count));
    submit(queue);
}

/* An event loop within a completion, until half of the requests are done. */
static void event_loop(struct queue *queue)
{
    unsigned depth = queue->depth;
    unsigned deepest = queue->deepest;
    long until = queue->left / 2;

    queue->depth = 0;
    queue->deepest = 0;
    while (queue->left > until) {
        handle_event(queue);
    }
    queue->deepest_below_event_loop = queue->deepest;
    queue->deepest = deepest;
    queue->depth = depth;
}

/* The same under the name of QEMU's, which guard mode takes for the ground. */
__attribute__((noinline)) void aio_poll(struct queue *queue)
{
    event_loop(queue);
    __asm__ volatile("" ::: "memory"); /* no tail call */
}

static void queue_init(struct queue *queue, long requests)
{
    memset(queue, 0, sizeof(*queue));
    assert(io_setup(8, &queue->context) == 0);
    queue->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(queue->eventfd >= 0);
    queue->with_eventfd = true;
    queue->left = requests;
}

static void queue_free(struct queue *queue)
{
    assert(io_destroy(queue->context) == 0);
    close(queue->eventfd);
}

/* Submits all, from an event loop that only the eventfd wakes. */
static void run(struct queue *queue)
{
    submit(queue);
    while (queue->left > 0) {
        handle_event(queue);
    }
}

static void *bounded(void *unused)
{
    struct queue queue;

    queue_init(&queue, 100000);
    run(&queue);
    assert(queue.left == 0);
    assert(queue.deepest == bound);
    assert(queue.refused > 0 && queue.refused_at == bound + 1);
    queue_free(&queue);
    return unused;
}

static void on_this_stack(void)
{
    bounded(NULL);
}

static void on_threads(void)
{
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        assert(pthread_create(&threads[i], NULL, bounded, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        assert(pthread_join(threads[i], NULL) == 0);
    }
}

/* Coroutines with stacks side by side. The middle one recurses. */
static char *stacks;
static ucontext_t main_context;
static ucontext_t coroutines[COROUTINES];

static void bounded_coroutine(void)
{
    bounded(NULL);
}

static void coroutine_start(int index, void (*function)(void), ucontext_t *back)
{
    ucontext_t *coroutine = &coroutines[index];

    assert(getcontext(coroutine) == 0);
    coroutine->uc_stack.ss_sp = stacks + (size_t)index * STACK_SIZE;
    coroutine->uc_stack.ss_size = STACK_SIZE;
    coroutine->uc_link = back;
    makecontext(coroutine, function, 0);
    assert(swapcontext(back, coroutine) == 0);
}

static void on_a_coroutine(void)
{
    coroutine_start(COROUTINES / 2, bounded_coroutine, &main_context);
}

/* One request on the stack of some coroutine, in between the levels of another. */
static struct queue bystander;

static void single(void)
{
    bystander.left = 1;
    run(&bystander);
    assert(bystander.refused == 0);
}

static ucontext_t between_context;
static int between_index;

static void on_other_stacks(void)
{
    between_index = (between_index + 7) % COROUTINES;
    if (between_index != COROUTINES / 2) {
        coroutine_start(between_index, single, &between_context);
    }
}

static void interrupted(void)
{
    struct queue queue;

    queue_init(&queue, 2000);
    queue.between = on_other_stacks;
    run(&queue);
    assert(queue.left == 0);
    assert(queue.deepest == bound);
    queue_free(&queue);
}

static void interrupted_coroutine(void)
{
    coroutine_start(COROUTINES / 2, interrupted, &main_context);
}

static void with_varying_frames(void)
{
    struct queue queue;

    queue_init(&queue, 10000);
    queue.varying = true;
    run(&queue);
    assert(queue.left == 0);
    assert(queue.deepest == bound);
    queue_free(&queue);
}

/* Without its eventfd to bring it back, a program is left alone: as deep as the requests last. */
static void unrefused(bool with_eventfd, bool drained)
{
    struct queue queue;

    queue_init(&queue, 200);
    queue.with_eventfd = with_eventfd;
    queue.drained = drained;
    submit(&queue);
    assert(queue.refused == 0 && queue.left == 0 && queue.deepest == 200);
    queue_free(&queue);
}

static void without_eventfd(void)
{
    unrefused(false, false);
}

static void with_drained_eventfd(void)
{
    unrefused(true, true);
}

/* An event loop at the bound has to make progress, and is bounded itself. */
static void event_loop_at_bound(void)
{
    struct queue queue;

    queue_init(&queue, 1000);
    queue.event_loop_at = bound;
    run(&queue);
    assert(queue.left == 0);
    assert(queue.deepest_below_event_loop == bound);
    assert(queue.deepest == bound);
    queue_free(&queue);
}

/* One that guard mode does not know: it makes progress, a request at a time. */
static void unnamed_event_loop_at_bound(void)
{
    struct queue queue;

    queue_init(&queue, 1000);
    queue.unnamed_event_loop = true;
    queue.event_loop_at = bound;
    run(&queue);
    assert(queue.left == 0);
    assert(queue.deepest_below_event_loop == 1);
    assert(queue.deepest == bound);
    queue_free(&queue);
}

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"on the main thread's stack", on_this_stack},
    {"on the stacks of four threads", on_threads},
    {"on a coroutine's stack", on_a_coroutine},
    {"with calls on other stacks in between", interrupted},
    {"on a coroutine's stack, with calls on others in between", interrupted_coroutine},
    {"with frames of varying size", with_varying_frames},
    {"an event loop at the bound goes on", event_loop_at_bound},
    {"and so does one of another name", unnamed_event_loop_at_bound},
    {"without an eventfd nothing is refused", without_eventfd},
    {"with an eventfd that was read nothing is refused", with_drained_eventfd},
};

int main(int argc, char **argv)
{
    char zeros[512] = {0};
    char name[4096];
    int count = sizeof(tests) / sizeof(tests[0]);

    if (argc != 3) {
        fprintf(stderr, "usage: recursion DIRECTORY BOUND\n");
        return 2;
    }
    bound = (unsigned)atoi(argv[2]);
    snprintf(name, sizeof(name), "%s/recursion.XXXXXX", argv[1]);
    file = mkstemp(name);
    assert(file >= 0 && unlink(name) == 0);
    assert(write(file, zeros, sizeof(zeros)) == sizeof(zeros));
    stacks = mmap(NULL, (size_t)COROUTINES * STACK_SIZE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(stacks != MAP_FAILED);
    queue_init(&bystander, 0);
    for (int i = 0; i < count; i++) {
        tests[i].function();
        printf("%s\n", tests[i].name);
        fflush(stdout);
    }
    return 0;
}
