/* The requests that laio-bench makes. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "workload.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"

#define NS_PER_SECOND UINT64_C(1000000000)
#define PROGRESS_INTERVAL_NS (NS_PER_SECOND / 4)
#define NEVER UINT64_MAX

struct Workload;

/* One of the `depth` requests that are outstanding at once, used over and over. */
typedef struct Slot {
    struct Workload *workload;
    struct iovec iov;
    uint64_t offset;
    uint64_t submitted_ns;
} Slot;

typedef struct Workload {
    const Options *options;
    const Image *image;
    AioContext *loop;
    LinuxAioState *state;
    Slot *slots;
    uint8_t *buffers;
    size_t buffers_size;

    uint64_t block_count; /* whole requests that fit in between offset and end */
    uint64_t next_block;
    uint64_t random_state;

    Pass *pass;
    uint64_t issued;
    unsigned outstanding;
    uint64_t started_ns;
    uint64_t last_ns;
    uint64_t turn_ns; /* the first completion of this turn of the loop; 0 before it */
    uint64_t next_progress_ns;
    Failure failure;
} Workload;

static volatile sig_atomic_t stopped_by;

static void on_signal(int signal)
{
    stopped_by = signal;
}

/* The default comes back with the first one, so that a second Ctrl-C ends a run that is stuck. */
static void catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    struct sigaction before;

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        sigaction(signals[i], NULL, &before);
        if (before.sa_handler != SIG_IGN) { /* as under nohup(1) */
            sigaction(signals[i], &action, NULL);
        }
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

__extension__ typedef unsigned __int128 Uint128;

static uint64_t next_offset(Workload *w)
{
    uint64_t block;

    if (w->options->random) {
        w->random_state += 0x9e3779b97f4a7c15u;
        /* The high half of the product is evenly spread over the blocks, without a division. */
        block = (uint64_t)(((Uint128)scramble(w->random_state) * w->block_count) >> 64);
    } else {
        block = w->next_block;
        w->next_block = block + 1 < w->block_count ? block + 1 : 0;
    }
    return w->options->offset + block * w->options->size;
}

static bool is_healthy(const Workload *w)
{
    return !stopped_by && w->failure.kind == FAILED_NOT;
}

static bool may_go_on(const Workload *w)
{
    return w->issued < w->options->count && is_healthy(w);
}

static void fail_request(Workload *w, const Slot *slot, int os_errno)
{
    if (w->failure.kind == FAILED_NOT) {
        w->failure = (Failure){.kind = FAILED_REQUEST,
                               .operation = w->pass->operation,
                               .offset = slot->offset,
                               .os_errno = os_errno};
    }
}

static void prepare_buffer(const Workload *w, const Slot *slot)
{
    if (w->pass->operation == OP_WRITE) {
        if (w->options->verify) {
            pattern_fill(slot->iov.iov_base, slot->iov.iov_len, slot->offset, w->options->seed);
        }
    } else if (w->pass->verified) {
        /* Or a read that brings nothing would find what this buffer wrote there before. */
        memset(slot->iov.iov_base, 0xa5, slot->iov.iov_len);
    }
}

static void check_buffer(Workload *w, const Slot *slot)
{
    const uint8_t *data = slot->iov.iov_base;
    size_t at = pattern_mismatch(data, slot->iov.iov_len, slot->offset, w->options->seed);

    if (at < slot->iov.iov_len && w->failure.kind == FAILED_NOT) {
        w->failure = (Failure){.kind = FAILED_BYTE,
                               .operation = OP_READ,
                               .offset = slot->offset,
                               .byte = slot->offset + at,
                               .expected = pattern_byte(slot->offset + at, w->options->seed),
                               .found = data[at]};
    }
}

static void show_progress(Workload *w, uint64_t now)
{
    double seconds = (double)(now - w->started_ns) / (double)NS_PER_SECOND;
    double done = (double)w->pass->completed;

    fprintf(stderr, "\r\033[K%s %5.1f %%, %.0f requests/s",
            w->pass->operation == OP_WRITE ? "writing" : "reading",
            100 * done / (double)w->options->count, done / seconds);
    w->next_progress_ns = now + PROGRESS_INTERVAL_NS;
}

static void on_complete(void *opaque, int ret);

static void issue(Slot *slot, uint64_t now)
{
    Workload *w = slot->workload;
    int type = w->pass->operation == OP_WRITE ? QEMU_AIO_WRITE : QEMU_AIO_READ;
    int ret;

    slot->offset = next_offset(w);
    slot->submitted_ns = now;
    if (w->options->verify || w->options->verify_only) {
        prepare_buffer(w, slot);
    }
    w->issued++;
    w->outstanding++;
    ret = laio_state_submit(w->state, w->image->fd, slot->offset, &slot->iov, 1, type, 0, 0,
                            on_complete, slot);
    if (ret < 0) {
        w->outstanding--;
        fail_request(w, slot, -ret);
    }
    /* Otherwise it may be complete, and the slot in use for another request, by now. */
}

static void on_complete(void *opaque, int ret)
{
    Slot *slot = opaque;
    Workload *w = slot->workload;
    uint64_t now = now_ns();

    w->outstanding--;
    w->last_ns = now;
    if (!w->turn_ns) {
        w->turn_ns = now;
    }
    if (ret < 0) {
        fail_request(w, slot, -ret);
        return;
    }
    w->pass->completed++;
    histogram_add(&w->pass->latency_ns, now - slot->submitted_ns);
    if (w->pass->verified) {
        check_buffer(w, slot);
    }
    if (now >= w->next_progress_ns) {
        show_progress(w, now);
    }
    if (may_go_on(w)) {
        issue(slot, now);
    }
}

static void end_turn(Workload *w)
{
    if (w->turn_ns) {
        histogram_add(&w->pass->held_ns, now_ns() - w->turn_ns);
    }
}

static void wait_for_all(Workload *w)
{
    while (w->outstanding > 0) {
        w->turn_ns = 0;
        if (!laio_loop_poll(w->loop, true)) {
            die(EXIT_IO, "a bug: the event loop has nothing to do with %u requests outstanding",
                w->outstanding);
        }
        end_turn(w);
    }
}

static void run_pass(Workload *w, Pass *pass, Operation operation, bool verified)
{
    bool show = isatty(STDERR_FILENO);

    pass->operation = operation;
    pass->verified = verified;
    w->pass = pass;
    w->issued = 0;
    w->next_block = 0;
    w->random_state = w->options->seed;
    w->started_ns = now_ns();
    w->last_ns = w->started_ns;
    w->next_progress_ns = show ? w->started_ns + PROGRESS_INTERVAL_NS : NEVER;

    w->turn_ns = w->started_ns; /* as if the loop had called this */
    laio_state_io_plug(w->state);
    for (unsigned i = 0; i < w->options->depth && may_go_on(w); i++) {
        issue(&w->slots[i], now_ns());
    }
    laio_state_io_unplug(w->state, 0);
    end_turn(w);
    wait_for_all(w);

    pass->elapsed_ns = w->last_ns - w->started_ns;
    if (show) {
        fputs("\r\033[K", stderr);
    }
}

static void on_flushed(void *opaque, int ret)
{
    Workload *w = opaque;

    w->outstanding--;
    if (ret < 0) {
        die(EXIT_IO, "%s: flush: %s", w->options->image, strerror(-ret));
    }
}

/* An error of writing back the page cache shows here, or nowhere. */
static void flush(Workload *w)
{
    int fd = w->image->fd;
    int ret;

    if (laio_has_fdsync(fd)) {
        w->outstanding++;
        ret = laio_state_submit(w->state, fd, 0, NULL, 0, QEMU_AIO_FLUSH, 0, 0, on_flushed, w);
        if (ret < 0) {
            die(EXIT_IO, "%s: flush: %s", w->options->image, strerror(-ret));
        }
        wait_for_all(w);
    } else if (fdatasync(fd) != 0) {
        die(EXIT_IO, "%s: fdatasync(2): %s", w->options->image, strerror(errno));
    }
}

static void make_slots(Workload *w)
{
    const Options *options = w->options;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    /* A page of its own for each, which is what O_DIRECT wants at most. Cannot overflow: see
     * MAX_SIZE and MAX_DEPTH. */
    size_t stride = (options->size + page - 1) / page * page;

    w->slots = calloc(options->depth, sizeof(*w->slots));
    w->buffers_size = stride * options->depth;
    w->buffers = mmap(NULL, w->buffers_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    if (!w->slots || w->buffers == MAP_FAILED) {
        die(EXIT_IO, "no memory for -d %u buffers of -s %zu bytes", options->depth, options->size);
    }
    for (unsigned i = 0; i < options->depth; i++) {
        Slot *slot = &w->slots[i];

        slot->workload = w;
        slot->iov = (struct iovec){.iov_base = w->buffers + i * stride, .iov_len = options->size};
        /* Not zeros, which storage may treat otherwise; and no page fault while measuring. */
        pattern_fill(slot->iov.iov_base, options->size, i * stride, options->seed);
    }
}

static void set_up(Workload *w)
{
    if (w->options->max_submit_depth && laio_set_max_submit_depth(w->options->max_submit_depth)) {
        die(EXIT_USAGE, "--max-depth %u: not accepted by the library",
            w->options->max_submit_depth);
    }
    w->block_count = (w->image->size - w->options->offset) / w->options->size;
    make_slots(w);
    w->loop = laio_loop_new();
    w->state = w->loop ? laio_init_kernel(w->options->kernel, NULL) : NULL;
    if (!w->state) {
        exit(EXIT_IO); /* the library has said why */
    }
    laio_attach_aio_context(w->state, w->loop);
}

static void tear_down(Workload *w)
{
    laio_detach_aio_context(w->state, w->loop);
    laio_cleanup(w->state);
    laio_loop_free(w->loop);
    munmap(w->buffers, w->buffers_size);
    free(w->slots);
}

void workload_run(const Options *options, const Image *image, Result *result)
{
    Workload w = {.options = options, .image = image};

    *result = (Result){.passes = calloc(2, sizeof(Pass))};
    if (!result->passes) {
        die(EXIT_IO, "no memory");
    }
    catch_signals();
    set_up(&w);
    if (options->write) {
        run_pass(&w, &result->passes[result->pass_count++], OP_WRITE, false);
    }
    if (options->verify && is_healthy(&w)) {
        flush(&w);
    }
    if (!options->write || (options->verify && is_healthy(&w))) {
        run_pass(&w, &result->passes[result->pass_count++], OP_READ,
                 options->verify || options->verify_only);
    }
    result->stats.size = sizeof(result->stats);
    laio_state_get_stats(w.state, &result->stats);
    result->failure = w.failure;
    result->signal = stopped_by;
    tear_down(&w);
}
