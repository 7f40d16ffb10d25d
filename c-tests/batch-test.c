/*
 * How many requests go to the kernel at once, and when.
 *
 * Reads of a hole complete within io_submit(2), so the numbers are exact.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <unistd.h>

enum { DEFAULT_MAX_BATCH = 32, MAX = 128 };

typedef struct Batch {
    Rig rig;
    int fd;
    char *buffer;
    Io ios[MAX];
} Batch;

static void batch_start(Batch *b)
{
    b->rig = rig_new();
    b->fd = hole_file();
    b->buffer = aligned_buffer(BLOCK);
}

static void batch_end(Batch *b)
{
    free(b->buffer);
    close(b->fd);
    rig_free(b->rig);
}

static Io *batch_io(Batch *b, unsigned i)
{
    b->ios[i] = io_of(QEMU_AIO_READ, b->fd, i * BLOCK, b->buffer, BLOCK);
    return &b->ios[i];
}

static void submit_range(Batch *b, unsigned from, unsigned to, uint64_t dev_max_batch)
{
    for (unsigned i = from; i < to; i++) {
        Io *io = batch_io(b, i);
        io->dev_max_batch = dev_max_batch;
        io_start(b->rig.state, io);
    }
}

#define CHECK_COUNTS(b, calls, largest, queued)                                                    \
    do {                                                                                           \
        LaioStats stats = state_stats((b)->rig.state);                                             \
        CHECK_EQ(stats.io_submit_calls, calls);                                                    \
        CHECK_EQ(stats.largest_batch, largest);                                                    \
        CHECK_EQ(stats.in_queue, queued);                                                          \
    } while (0)

static void without_plug_each_goes_at_once(void)
{
    Batch b;
    batch_start(&b);
    submit_range(&b, 0, 10, 0);
    CHECK_COUNTS(&b, 10, 1, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    batch_end(&b);
}

static void a_plug_gathers(void)
{
    Batch b;
    batch_start(&b);
    laio_io_plug();
    submit_range(&b, 0, 5, 0);
    laio_state_io_plug(b.rig.state);
    submit_range(&b, 5, 10, 0);
    laio_io_unplug(0);
    CHECK_COUNTS(&b, 0, 0, 10);
    laio_state_io_unplug(b.rig.state, 0);
    CHECK_COUNTS(&b, 1, 10, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    batch_end(&b);
}

static void an_inner_unplug_submits_a_full_batch(void)
{
    Batch b;
    batch_start(&b);
    laio_io_plug();
    laio_io_plug();
    submit_range(&b, 0, 10, 0);
    laio_io_unplug(11);
    CHECK_COUNTS(&b, 0, 0, 10);
    laio_io_plug();
    laio_io_unplug(10);
    CHECK_COUNTS(&b, 1, 10, 0);
    laio_io_unplug(0);
    CHECK_COUNTS(&b, 1, 10, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    batch_end(&b);
}

/* The event loop may be what the owner of the plug waits for. */
static void a_plug_ends_where_the_event_loop_begins(void)
{
    Batch b;
    batch_start(&b);
    laio_io_plug();
    submit_range(&b, 0, 10, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    CHECK_COUNTS(&b, 1, 10, 0);
    submit_range(&b, 10, 12, 0);
    CHECK_COUNTS(&b, 1, 10, 2);
    laio_io_unplug(0);
    CHECK_COUNTS(&b, 2, 10, 0);
    io_finish(b.rig.ctx, b.ios, 12);
    batch_end(&b);
}

static void a_deferred_section_gathers(void)
{
    Batch b;
    batch_start(&b);
    host_defer_begin();
    submit_range(&b, 0, 5, 0);
    host_defer_begin();
    submit_range(&b, 5, 10, 0);
    host_defer_end();
    CHECK_COUNTS(&b, 0, 0, 10);
    host_defer_end();
    CHECK_COUNTS(&b, 1, 10, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    batch_end(&b);
}

/* As when the loop is nested in a section of the host: what waits there must go on. */
static void a_deferred_section_ends_where_the_event_loop_begins(void)
{
    Batch b;
    batch_start(&b);
    host_defer_begin();
    submit_range(&b, 0, 10, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    host_defer_end();
    CHECK_COUNTS(&b, 1, 10, 0);
    batch_end(&b);
}

static void dev_max_batch_ends_the_gathering(void)
{
    Batch b;
    batch_start(&b);
    laio_io_plug();
    submit_range(&b, 0, 3, 4);
    CHECK_COUNTS(&b, 0, 0, 3);
    submit_range(&b, 3, 4, 4);
    CHECK_COUNTS(&b, 1, 4, 0);
    submit_range(&b, 4, 10, 4);
    CHECK_COUNTS(&b, 2, 4, 2);
    laio_io_unplug(4);
    CHECK_COUNTS(&b, 3, 4, 0);
    io_finish(b.rig.ctx, b.ios, 10);
    batch_end(&b);
}

static void the_default_batch_is_32(void)
{
    Batch b;
    batch_start(&b);
    laio_io_plug();
    submit_range(&b, 0, 31, 0);
    CHECK_COUNTS(&b, 0, 0, 31);
    submit_range(&b, 31, 33, 1000);
    CHECK_COUNTS(&b, 1, 32, 1);
    laio_io_unplug(0);
    io_finish(b.rig.ctx, b.ios, 33);
    batch_end(&b);
}

static void aio_max_batch_ends_the_gathering(void)
{
    Batch b;
    batch_start(&b);
    host_set_max_batch(b.rig.ctx, 3);
    laio_io_plug();
    submit_range(&b, 0, 7, 0);
    CHECK_COUNTS(&b, 2, 3, 1);
    submit_range(&b, 7, 9, 50);
    CHECK_COUNTS(&b, 3, 3, 0);
    submit_range(&b, 9, 11, 2);
    CHECK_COUNTS(&b, 4, 3, 0);
    host_set_max_batch(b.rig.ctx, 100);
    submit_range(&b, 11, 110, 0);
    CHECK_COUNTS(&b, 4, 3, 99);
    submit_range(&b, 110, 111, 0);
    CHECK_COUNTS(&b, 5, 100, 0);
    laio_io_unplug(0);
    io_finish(b.rig.ctx, b.ios, 111);
    batch_end(&b);
}

/* Each of the first eight, when it completes, makes another. */
typedef struct Follower {
    Batch *batch;
    Io *first;
    unsigned next;
} Follower;

static void first_completed(void *opaque, int ret)
{
    Follower *follower = opaque;
    io_completed(follower->first, ret);
    submit_range(follower->batch, follower->next, follower->next + 1, 0);
}

static void what_completions_ask_for_gathers(void)
{
    Batch b;
    Follower followers[8];
    batch_start(&b);
    laio_io_plug();
    for (unsigned i = 0; i < 8; i++) {
        Io *io = batch_io(&b, i);
        followers[i] = (Follower){&b, io, 8 + i};
        CHECK_EQ(laio_state_submit(b.rig.state, io->fd, io->offset, &io->one, 1, io->type, 0, 0,
                                   first_completed, &followers[i]),
                 0);
    }
    laio_io_unplug(0);
    CHECK_COUNTS(&b, 2, 8, 0);
    io_finish(b.rig.ctx, b.ios, 16);
    batch_end(&b);
}

typedef struct CoRead {
    Batch *batch;
    Io *io;
    Way way;
} CoRead;

static void co_read_twice(void *opaque)
{
    CoRead *read = opaque;
    CHECK_EQ(way_co_submit(read->way, read->batch->rig.state, read->io), 0);
    io_completed(read->io, way_co_submit(read->way, read->batch->rig.state, read->io));
}

static void coroutines_gather(void)
{
    enum { COUNT = 10 };
    for (Way way = WAY_STATE; way < WAYS; way++) {
        Batch b;
        CoRead reads[COUNT];
        batch_start(&b);
        laio_io_plug();
        for (unsigned i = 0; i < COUNT; i++) {
            reads[i] = (CoRead){&b, batch_io(&b, i), way};
            coroutine_enter(coroutine_new(co_read_twice, &reads[i]));
        }
        CHECK_COUNTS(&b, 0, 0, COUNT);
        laio_io_unplug(0);
        /* The second round is a batch too: it was asked for in a section of completions. */
        CHECK_COUNTS(&b, 2, COUNT, 0);
        io_finish(b.rig.ctx, b.ios, COUNT);
        batch_end(&b);
    }
}

#define DEFERRING (HOST_QEMU | HOST_STRICT | HOST_TWICE | HOST_ADAPTIVE | HOST_POLLED | HOST_LOCK)

static const TestCase cases[] = {
    {"without plug each goes at once", without_plug_each_goes_at_once, HOST_ANY},
    {"a plug gathers", a_plug_gathers, HOST_ANY},
    {"an inner unplug submits a full batch", an_inner_unplug_submits_a_full_batch, HOST_ANY},
    {"a plug ends where the event loop begins", a_plug_ends_where_the_event_loop_begins, HOST_ANY},
    {"a deferred section gathers", a_deferred_section_gathers, DEFERRING | HOST_DEAF},
    {"a deferred section ends where the event loop begins",
     a_deferred_section_ends_where_the_event_loop_begins, DEFERRING | HOST_DEAF},
    {"dev_max_batch ends the gathering", dev_max_batch_ends_the_gathering, HOST_ANY},
    {"the default batch is 32", the_default_batch_is_32, HOST_ANY},
    {"aio_max_batch ends the gathering", aio_max_batch_ends_the_gathering,
     HOST_ANY & ~(HOST_BUILTIN | HOST_MINIMAL)},
    {"what completions ask for gathers", what_completions_ask_for_gathers, HOST_ANY},
    {"coroutines gather", coroutines_gather, HOST_ANY & ~(HOST_BUILTIN | HOST_MINIMAL)},
};

TEST_MAIN(cases)
