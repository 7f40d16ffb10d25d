/*
 * How what a request costs grows with what is around it: requests in flight, states, threads, and
 * states that are attached to the same event loop and have nothing to do. Reads of a hole, in which the
 * disk has no say. bench/scale.py runs this.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <laio.h>

enum { BLOCK = 4096, IMAGE_BLOCKS = 1 << 18, EXIT_NO_STATE = 3 };

typedef struct Options {
    unsigned threads;    /* each with an event loop of its own */
    unsigned states;     /* attached to each event loop */
    unsigned busy;       /* how many of them make requests */
    unsigned depth;      /* requests of each that are outstanding at once */
    unsigned long count; /* of requests of each thread */
    unsigned kernel;
    int fd;
} Options;

typedef struct Thread {
    const Options *options;
    AioContext *loop;
    LinuxAioState **states;
    void *buffer; /* of all: nobody looks at what was read */
    unsigned long issued, completed;
    size_t heap_before, heap_after; /* making the states, and having used them */
} Thread;

/* A request that is made again and again. */
typedef struct Slot {
    Thread *thread;
    LinuxAioState *state;
    struct iovec iov;
} Slot;

static void die(int status, const char *what)
{
    fprintf(stderr, "scale: %s\n", what);
    exit(status);
}

static void on_complete(void *opaque, int ret);

static void issue(Slot *slot)
{
    Thread *t = slot->thread;
    uint64_t offset = t->issued++ % IMAGE_BLOCKS * BLOCK;

    if (laio_state_submit(slot->state, t->options->fd, offset, &slot->iov, 1, QEMU_AIO_READ, 0, 0,
                          on_complete, slot) < 0) {
        die(1, "a request is refused");
    }
}

static void on_complete(void *opaque, int ret)
{
    Slot *slot = opaque;

    if (ret < 0) {
        die(1, "a request failed");
    }
    slot->thread->completed++;
    if (slot->thread->issued < slot->thread->options->count) {
        issue(slot);
    }
}

static void run_requests(Thread *t, Slot *slots)
{
    const Options *options = t->options;

    for (unsigned i = 0; i < options->busy * options->depth && t->issued < options->count; i++) {
        /* The states in turns; the busy ones are the last that were attached. */
        unsigned state = options->states - 1 - i % options->busy;
        slots[i] = (Slot){t, t->states[state], {t->buffer, BLOCK}};
        issue(&slots[i]);
    }
    while (t->completed < options->count) {
        if (!laio_loop_poll(t->loop, true)) {
            die(1, "the event loop has nothing to do, and requests are outstanding");
        }
    }
}

static void *run_thread(void *opaque)
{
    Thread *t = opaque;
    const Options *options = t->options;

    t->buffer = aligned_alloc(BLOCK, BLOCK);
    t->states = calloc(options->states, sizeof(LinuxAioState *));
    t->loop = laio_loop_new();
    Slot *slots = calloc((size_t)options->busy * options->depth, sizeof(*slots));
    if (!t->buffer || !t->states || !t->loop || !slots) {
        die(1, "no memory");
    }
    t->heap_before = mallinfo2().uordblks;
    for (unsigned i = 0; i < options->states; i++) {
        t->states[i] = laio_init_kernel(options->kernel, NULL);
        if (!t->states[i]) {
            exit(EXIT_NO_STATE); /* the library has said why */
        }
        laio_attach_aio_context(t->states[i], t->loop);
    }
    run_requests(t, slots);
    t->heap_after = mallinfo2().uordblks;
    free(slots);
    return NULL;
}

/* The rings of the kernel's that are mapped here. */
static size_t mapped_rings(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    size_t sum = 0;

    while (maps && fgets(line, sizeof(line), maps)) {
        unsigned long from, to;
        if ((strstr(line, "[aio]") || strstr(line, "[io_uring]")) &&
            sscanf(line, "%lx-%lx", &from, &to) == 2) {
            sum += to - from;
        }
    }
    if (maps) {
        fclose(maps);
    }
    return sum;
}

static double cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static unsigned long number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end || value == 0) {
        die(2, "usage: scale IMAGE linux-aio|io_uring THREADS STATES BUSY DEPTH COUNT");
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        number("");
    }
    Options options = {
        .fd = open(argv[1], O_RDONLY | O_DIRECT),
        .kernel = strcmp(argv[2], "io_uring") ? LAIO_KERNEL_LINUX_AIO : LAIO_KERNEL_IO_URING,
        .threads = (unsigned)number(argv[3]),
        .states = (unsigned)number(argv[4]),
        .busy = (unsigned)number(argv[5]),
        .depth = (unsigned)number(argv[6]),
        .count = number(argv[7]),
    };
    Thread *threads = calloc(options.threads, sizeof(*threads));
    pthread_t *ids = calloc(options.threads, sizeof(*ids));
    double before = cpu_us();

    if (options.fd < 0 || options.busy > options.states || !threads || !ids) {
        die(2, "no such image, or more busy states than states, or no memory");
    }
    for (unsigned i = 0; i < options.threads; i++) {
        threads[i].options = &options;
        if (pthread_create(&ids[i], NULL, run_thread, &threads[i]) != 0) {
            die(1, "no thread");
        }
    }
    for (unsigned i = 0; i < options.threads; i++) {
        pthread_join(ids[i], NULL);
    }
    double cpu = cpu_us() - before;
    /* Of one thread: others allocate at the same time. */
    double heap = (double)(threads[0].heap_after - threads[0].heap_before) / options.states;
    double rings = (double)mapped_rings() / (options.threads * options.states);
    /* The states stay: io_destroy(2) would be measured. */
    printf("{\"cpu_us\": %.3f, \"heap_bytes\": %.0f, \"ring_bytes\": %.0f}\n",
           cpu / (double)(options.count * options.threads), heap, rings);
    return 0;
}
