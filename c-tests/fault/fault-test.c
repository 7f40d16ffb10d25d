/*
 * Random requests on a real file, with the fault shim between the library and the kernel: the file
 * holds what was written, reads see it, and the library noticed each kind of fault.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "fault-shim.h"

#include <laio.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define SLOT_BLOCKS 5
#define SLOT (SLOT_BLOCKS * BLOCK)
#define SLOTS 64
#define DEPTH 24
#define REQUESTS 6000

/* Absent without the shim. */
#pragma weak fault_shim_counts

typedef struct Job {
    int type;
    int slot;
    uint8_t *memory;
    struct iovec parts[3];
} Job;

static LinuxAioState *state;
static int fd;
static uint8_t contents[SLOTS]; /* the byte that fills a slot, by its blocks plus their number */
static bool busy[SLOTS];
static unsigned long started, completed;

static void check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "fault-test: after %lu requests: %s\n", completed, what);
        exit(1);
    }
}

static uint8_t byte_of(uint8_t base, int block)
{
    return (uint8_t)(base + block * 3);
}

/* Cuts a slot's memory into three parts, at blocks and not in equal ones. */
static void make_parts(Job *job)
{
    size_t first = BLOCK * (1 + rand() % 2), second = BLOCK * (1 + rand() % 2);

    job->parts[0] = (struct iovec){job->memory, first};
    job->parts[1] = (struct iovec){job->memory + first, second};
    job->parts[2] = (struct iovec){job->memory + first + second, SLOT - first - second};
}

static void start(Job *job);

static void on_complete(void *opaque, int ret)
{
    Job *job = opaque;

    completed++;
    check(ret == 0, "a request failed");
    if (job->type != QEMU_AIO_FLUSH) {
        for (int i = 0; i < SLOT; i++) {
            check(job->memory[i] == byte_of(contents[job->slot], i / BLOCK),
                  "the memory does not hold what it must");
        }
        busy[job->slot] = false;
    }
    start(job);
}

static void start(Job *job)
{
    static const int types[] = {QEMU_AIO_READ, QEMU_AIO_WRITE, QEMU_AIO_WRITE, QEMU_AIO_READ};

    if (started >= REQUESTS) {
        return;
    }
    started++;
    job->type = rand() % 20 ? types[rand() % 4] : QEMU_AIO_FLUSH;
    if (job->type != QEMU_AIO_FLUSH) {
        do {
            job->slot = rand() % SLOTS;
        } while (busy[job->slot]);
        busy[job->slot] = true;
    }
    if (job->type == QEMU_AIO_WRITE) {
        contents[job->slot] = (uint8_t)rand();
        for (int block = 0; block < SLOT_BLOCKS; block++) {
            memset(job->memory + block * BLOCK, byte_of(contents[job->slot], block), BLOCK);
        }
    } else {
        memset(job->memory, 0xaa, SLOT);
    }
    make_parts(job);
    int answer = laio_state_submit(state, fd, (uint64_t)job->slot * SLOT, job->parts, 3, job->type,
                                   rand() % 4 ? 0 : BDRV_REQ_FUA, 0, on_complete, job);
    check(answer == 0, "a request was refused");
}

/* A read over the end of the file: what is behind it is zero. */
static int end_result = 1;

static void on_end(void *opaque, int ret)
{
    (void)opaque;
    end_result = ret;
}

static void check_the_end_of_the_file(AioContext *context, uint8_t *memory)
{
    struct iovec part = {memory, SLOT};

    memset(memory, 0xaa, SLOT);
    check(laio_state_submit(state, fd, SLOTS * (uint64_t)SLOT - BLOCK, &part, 1, QEMU_AIO_READ, 0,
                            0, on_end, NULL) == 0,
          "the read at the end was refused");
    while (end_result == 1) {
        check(laio_loop_poll(context, true), "the read at the end never completes");
    }
    check(end_result == 0, "the read at the end failed");
    for (int i = BLOCK; i < SLOT; i++) {
        check(memory[i] == 0, "what is behind the end of the file is not zero");
    }
}

static void check_that_faults_were_seen(void)
{
    FaultCounts counts;
    LaioStats stats = {.size = sizeof(stats)};

    check(fault_shim_counts != NULL, "the fault shim is not preloaded");
    fault_shim_counts(&counts);
    laio_state_get_stats(state, &stats);
    check(counts.calls == stats.io_submit_calls, "the shim saw other calls than the library made");
    uint64_t only_here = stats.kernel == LAIO_KERNEL_IO_URING ? counts.transient : counts.delayed;
    check(counts.eagain > 0 && counts.partial > 0 && counts.cut > 0 && only_here > 0,
          "a kind of fault never came");
    check(stats.eagain >= counts.eagain, "an EAGAIN was not counted");
    check(stats.retried >= counts.cut, "a cut transfer was not retried");
    check(stats.submitted == stats.completed && stats.failed == 0, "the counts do not add up");
    printf("%lu requests: %llu EAGAIN, %llu partial batches, %llu cut, %llu delayed or transient\n",
           completed, (unsigned long long)counts.eagain, (unsigned long long)counts.partial,
           (unsigned long long)counts.cut, (unsigned long long)only_here);
}

int main(void)
{
    const char *directory = getenv("LAIO_TEST_DIR");
    const char *seed = getenv("LAIO_FAULT_SEED");
    char path[4096];
    static Job jobs[DEPTH];

    srand(seed ? (unsigned)strtoul(seed, NULL, 0) : 1);
    snprintf(path, sizeof(path), "%s/fault-test-XXXXXX", directory ? directory : "/tmp");
    fd = mkostemp(path, O_DIRECT | O_CLOEXEC);
    if (fd < 0) {
        /* Here is no O_DIRECT: through the page cache. */
        snprintf(path, sizeof(path), "%s/fault-test-XXXXXX", directory ? directory : "/tmp");
        fd = mkostemp(path, O_CLOEXEC);
    }
    check(fd >= 0 && unlink(path) == 0, "no file to work on");
    check(ftruncate(fd, SLOTS * (off_t)SLOT) == 0, "no file of that size");

    AioContext *context = laio_loop_new();
    state = laio_init(NULL);
    check(context && state, "no state");
    laio_attach_aio_context(state, context);
    /* Holes at first: all blocks alike, so each slot is written once. */
    for (int i = 0; i < SLOTS; i++) {
        uint8_t *block = aligned_alloc(BLOCK, SLOT);
        check(block != NULL, "no memory");
        for (int j = 0; j < SLOT_BLOCKS; j++) {
            memset(block + j * BLOCK, byte_of(contents[i], j), BLOCK);
        }
        check(pwrite(fd, block, SLOT, i * (off_t)SLOT) == SLOT, "the file cannot be filled");
        free(block);
    }
    for (int i = 0; i < DEPTH; i++) {
        jobs[i].memory = aligned_alloc(BLOCK, SLOT);
        check(jobs[i].memory != NULL, "no memory");
        start(&jobs[i]);
    }
    while (completed < REQUESTS) {
        check(laio_loop_poll(context, true), "requests are outstanding, and the loop sees nothing");
    }
    /* First, because a cut in what is behind the end of the file is not retried. */
    check_that_faults_were_seen();
    check_the_end_of_the_file(context, jobs[0].memory);
    laio_detach_aio_context(state, context);
    laio_cleanup(state);
    laio_loop_free(context);
    for (int i = 0; i < DEPTH; i++) {
        free(jobs[i].memory);
    }
    close(fd);
    return 0;
}
