/*
 * Programs that recurse through io_uring_submit. One does so as QEMU: it reaps completions after
 * submitting, and who is told of one submits the next. Others have reasons of their own.
 *
 * usage: uring DIRECTORY TEST [BOUND]. Prints how deep it was nested.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum {
    ENTRIES = 64,
    BLOCKS = 1024,
    BLOCK = 512,
    REQUESTS = 20000,
    STACK_SIZE = 1 << 20,
    LEVELS = 100, /* of a program that recurses as deep as it wants */
    /* Each level beyond the bound takes a thread that gets no processor for longer than at the
     * last. That many in one descent are not the machine's fault. */
    SLACK = 1 + 24,
};

struct request {
    bool busy;
    unsigned block;
    char buffer[BLOCK];
    struct iovec iov;
};

struct queue {
    struct io_uring ring;
    int fd;             /* or the index of a registered one */
    unsigned sqe_flags; /* of each request */
    unsigned at_a_time; /* requests in flight */
    unsigned drops;     /* features to forget about */
    long left;          /* to be submitted */
    long completed;
    unsigned depth;
    unsigned deepest;
    struct request requests[ENTRIES];
};

static int file;
static unsigned bound = 8;

static void fill(char *buffer, unsigned block)
{
    memset(buffer, (int)(block % 251), BLOCK);
    memcpy(buffer, &block, sizeof(block));
}

static void check(const struct request *request, int result)
{
    char expected[BLOCK];

    fill(expected, request->block);
    assert(result == BLOCK);
    assert(memcmp(expected, request->buffer, BLOCK) == 0);
}

static void prepare(struct queue *queue, struct request *request)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);

    assert(sqe != NULL && !request->busy);
    request->busy = true;
    request->block = (unsigned)(queue->left * 7919 % BLOCKS);
    request->iov = (struct iovec){.iov_base = request->buffer, .iov_len = BLOCK};
    memset(request->buffer, 0xff, BLOCK);
    io_uring_prep_readv(sqe, queue->fd, &request->iov, 1, (__u64)request->block * BLOCK);
    io_uring_sqe_set_flags(sqe, queue->sqe_flags);
    io_uring_sqe_set_data(sqe, request);
    queue->left--;
}

static unsigned reap(struct queue *queue)
{
    unsigned count = 0;
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
        struct request *request = io_uring_cqe_get_data(cqe);

        assert(request >= queue->requests && request < queue->requests + ENTRIES && request->busy);
        check(request, cqe->res);
        request->busy = false;
        io_uring_cqe_seen(&queue->ring, cqe);
        count++;
    }
    queue->completed += count;
    return count;
}

/* One frame of the recursion. */
static __attribute__((noinline)) void submit(struct queue *queue)
{
    unsigned count = 0;

    queue->depth++;
    if (queue->depth > queue->deepest) {
        queue->deepest = queue->depth;
    }
    for (unsigned i = 0; i < queue->at_a_time && queue->left > 0; i++) {
        if (!queue->requests[i].busy) {
            prepare(queue, &queue->requests[i]);
            count++;
        }
    }
    while (count > 0) {
        int taken = io_uring_submit(&queue->ring);

        assert(taken > 0);
        if (queue->ring.flags & IORING_SETUP_SQPOLL) {
            break; /* the answer counts what another thread has not taken yet */
        }
        assert((unsigned)taken <= count);
        count -= (unsigned)taken;
    }
    if (reap(queue) > 0 && queue->left > 0) {
        submit(queue);
    }
    queue->depth--;
}

static void queue_init(struct queue *queue, unsigned setup_flags)
{
    memset(queue, 0, sizeof(*queue));
    assert(io_uring_queue_init(ENTRIES, &queue->ring, setup_flags) == 0);
    queue->fd = file;
    queue->at_a_time = 1;
    queue->left = REQUESTS;
}

/* Submits all, from an event loop that only the ring wakes. */
static void run(struct queue *queue)
{
    struct pollfd wait = {.fd = queue->ring.ring_fd, .events = POLLIN};

    queue->ring.features &= ~queue->drops;
    submit(queue);
    while (queue->completed < REQUESTS) {
        int ready = poll(&wait, 1, 60000);

        assert(ready == 1 || (ready < 0 && errno == EINTR)); /* else nobody wakes it */
        if (reap(queue) > 0) {
            submit(queue);
        }
    }
    assert(queue->completed == REQUESTS && queue->left == 0);
    io_uring_queue_exit(&queue->ring);
}

/* What is in flight when the bound is reached may come back once more each. */
static void assert_bounded(const struct queue *queue)
{
    printf("%u deep\n", queue->deepest);
    assert(queue->deepest > bound);
    assert(queue->deepest <= bound + SLACK + queue->at_a_time);
}

static void *bounded(void *unused)
{
    struct queue *queue = malloc(sizeof(*queue));

    queue_init(queue, 0);
    run(queue);
    assert_bounded(queue);
    free(queue);
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

static void on_a_coroutine(void)
{
    static ucontext_t here, coroutine;
    char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0);

    assert(stack != MAP_FAILED && getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = STACK_SIZE;
    coroutine.uc_link = &here;
    makecontext(&coroutine, on_this_stack, 0);
    assert(swapcontext(&here, &coroutine) == 0);
    assert(munmap(stack, STACK_SIZE) == 0);
}

static void several_at_a_time(void)
{
    struct queue queue;

    queue_init(&queue, 0);
    queue.at_a_time = 5;
    run(&queue);
    assert_bounded(&queue);
}

/* More than there is room for delays. They still complete, by the workers. */
static void a_full_queue(void)
{
    struct queue queue;

    queue_init(&queue, 0);
    queue.at_a_time = ENTRIES;
    run(&queue);
}

static void on_an_old_kernel(void)
{
    struct queue queue;

    queue_init(&queue, 0);
    queue.drops = IORING_FEAT_CQE_SKIP;
    run(&queue);
    printf("with workers alone: %u deep\n", queue.deepest);
}

static void with_registered_files(void)
{
    struct queue queue;

    queue_init(&queue, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN);
    assert(io_uring_register_files(&queue.ring, &file, 1) == 0);
    queue.fd = 0;
    queue.sqe_flags = IOSQE_FIXED_FILE;
    run(&queue);
    assert_bounded(&queue);
}

/* Rings that are none of guard's business: the program's own depth is its own. */
static void of_another_kind(unsigned setup_flags)
{
    struct queue queue;

    queue_init(&queue, setup_flags);
    run(&queue);
}

static void polled_by_the_kernel(void)
{
    of_another_kind(IORING_SETUP_SQPOLL);
}

static void with_deferred_completions(void)
{
    of_another_kind(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

/* A chain in each level, whose order is what it is about, and a drained request behind it. */
static void chains(struct io_uring *ring, unsigned level)
{
    /* Not on the stack: a level may get another's completions, and return before its own. */
    static char written[LEVELS][BLOCK];
    static char found[LEVELS][BLOCK];
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    __u64 place = (__u64)(BLOCKS + level) * BLOCK;

    fill(written[level], level);
    io_uring_prep_write(sqe, file, written[level], BLOCK, place);
    io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
    sqe = io_uring_get_sqe(ring);
    io_uring_prep_read(sqe, file, found[level], BLOCK, place);
    io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
    sqe = io_uring_get_sqe(ring);
    io_uring_prep_fsync(sqe, file, 0);
    sqe = io_uring_get_sqe(ring);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_flags(sqe, IOSQE_IO_DRAIN);
    assert(io_uring_submit(ring) == 4);
    if (level + 1 < LEVELS) {
        chains(ring, level + 1);
    }
    for (int i = 0; i < 4; i++) {
        assert(io_uring_wait_cqe(ring, &cqe) == 0);
        assert(cqe->res >= 0);
        io_uring_cqe_seen(ring, cqe);
    }
    if (level == 0) {
        assert(memcmp(written, found, sizeof(written)) == 0);
    }
}

static void with_chains(void)
{
    struct io_uring ring;

    assert(io_uring_queue_init(ENTRIES, &ring, 0) == 0);
    chains(&ring, 0);
    io_uring_queue_exit(&ring);
}

/* A request that the kernel does not like, or that is cancelled, with nothing complete before it. */
enum ending { FAULT, CANCEL };

static void one_completion(struct io_uring *ring, struct io_uring_sqe *sqe, enum ending ending)
{
    static char buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};
    struct io_uring_cqe *cqe;
    int seen[2] = {0};
    int own = ending == CANCEL ? 2 : 1;

    io_uring_prep_readv(sqe, file, ending == FAULT ? (struct iovec *)8 : &iov, 1, 0);
    sqe->user_data = 0;
    assert(io_uring_submit(ring) == 1);
    if (ending == CANCEL) {
        sqe = io_uring_get_sqe(ring);
        io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY);
        sqe->user_data = 1;
        assert(io_uring_submit(ring) == 1);
    }
    for (int i = 0; i < own; i++) {
        while (io_uring_peek_cqe(ring, &cqe) != 0) {
            usleep(100); /* not a wait that guard would take for one */
        }
        assert(cqe->user_data <= 1);
        if (cqe->user_data == 0) {
            printf("%d\n", cqe->res);
        }
        assert(cqe->user_data == 1 || ending == CANCEL || cqe->res < 0);
        seen[cqe->user_data]++;
        io_uring_cqe_seen(ring, cqe);
    }
    usleep(20000); /* longer than any delay: nothing else is to come */
    assert(io_uring_peek_cqe(ring, &cqe) != 0);
    assert(seen[0] == 1 && seen[1] == own - 1);
}

static __attribute__((noinline)) void descend(struct io_uring *ring, unsigned levels,
                                              enum ending ending)
{
    static char buffer[BLOCK];
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    if (levels == 0) {
        one_completion(ring, sqe, ending);
        return;
    }
    io_uring_prep_read(sqe, file, buffer, BLOCK, 0);
    assert(io_uring_submit(ring) == 1);
    while (io_uring_peek_cqe(ring, &cqe) != 0) {
        usleep(100);
    }
    assert(cqe->res == BLOCK);
    io_uring_cqe_seen(ring, cqe);
    descend(ring, levels - 1, ending);
    __asm__ volatile("" ::: "memory"); /* no tail call */
}

static void ends(enum ending ending)
{
    struct io_uring ring;

    assert(io_uring_queue_init(ENTRIES, &ring, 0) == 0);
    for (unsigned levels = 0; levels < 20; levels++) {
        descend(&ring, levels, ending);
    }
    io_uring_queue_exit(&ring);
}

static void with_bad_requests(void)
{
    ends(FAULT);
}

static void with_cancelled_requests(void)
{
    ends(CANCEL);
}

/* A tree is walked in depth, and each node read before its children. */
static void walk(struct io_uring *ring, unsigned level, unsigned *nodes)
{
    struct request request;
    struct io_uring_cqe *cqe;

    request.block = *nodes % BLOCKS;
    io_uring_prep_read(io_uring_get_sqe(ring), file, request.buffer, BLOCK,
                       (__u64)request.block * BLOCK);
    assert(io_uring_submit(ring) == 1);
    assert(io_uring_wait_cqe(ring, &cqe) == 0);
    check(&request, cqe->res);
    io_uring_cqe_seen(ring, cqe);
    ++*nodes;
    for (int child = 0; child < 2 && level < 13; child++) {
        walk(ring, level + 1, nodes);
    }
}

static void a_tree(void)
{
    struct io_uring ring;
    unsigned nodes = 0;

    assert(io_uring_queue_init(4, &ring, 0) == 0);
    walk(&ring, 0, &nodes);
    assert(nodes == (1u << 14) - 1);
    io_uring_queue_exit(&ring);
}

static void in_a_loop(void)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    struct request request;

    assert(io_uring_queue_init(4, &ring, 0) == 0);
    for (unsigned i = 0; i < REQUESTS; i++) {
        request.block = i % BLOCKS;
        io_uring_prep_read(io_uring_get_sqe(&ring), file, request.buffer, BLOCK,
                           (__u64)request.block * BLOCK);
        assert(io_uring_submit(&ring) == 1);
        assert(io_uring_wait_cqe(&ring, &cqe) == 0);
        check(&request, cqe->res);
        io_uring_cqe_seen(&ring, cqe);
    }
    io_uring_queue_exit(&ring);
}

static const struct {
    const char *name;
    void (*function)(void);
} tests[] = {
    {"stack", on_this_stack},
    {"threads", on_threads},
    {"coroutine", on_a_coroutine},
    {"several", several_at_a_time},
    {"full", a_full_queue},
    {"old-kernel", on_an_old_kernel},
    {"registered", with_registered_files},
    {"sqpoll", polled_by_the_kernel},
    {"deferred", with_deferred_completions},
    {"chains", with_chains},
    {"bad", with_bad_requests},
    {"cancelled", with_cancelled_requests},
    {"tree", a_tree},
    {"loop", in_a_loop},
};

int main(int argc, char **argv)
{
    char name[4096];
    char block[BLOCK];

    if (argc < 3) {
        fprintf(stderr, "usage: uring DIRECTORY TEST [BOUND]\n");
        return 2;
    }
    if (argc > 3) {
        bound = (unsigned)atoi(argv[3]);
    }
    snprintf(name, sizeof(name), "%s/uring.XXXXXX", argv[1]);
    file = mkstemp(name);
    assert(file >= 0 && unlink(name) == 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        fill(block, i);
        assert(write(file, block, BLOCK) == BLOCK);
    }
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (strcmp(tests[i].name, argv[2]) == 0) {
            tests[i].function();
            printf("%s\n", tests[i].name);
            return 0;
        }
    }
    return 2;
}
