/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "rig.h"

#include <fcntl.h>
#include <unistd.h>

#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>

/*
 * Valgrind knows that io_setup(2) maps a ring, and believes that it has as many slots as were asked
 * for. The kernel rounds up, to twice as many; valgrind takes the later ones for unmapped memory.
 * So it is told what is mapped, which hides less than a suppression of whatever reads the ring.
 */
static void show_rings_to_valgrind(void)
{
    char line[512];
    if (!RUNNING_ON_VALGRIND) {
        return;
    }
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps);
    while (fgets(line, sizeof(line), maps)) {
        unsigned long start, end;
        if (strstr(line, "/[aio]") && sscanf(line, "%lx-%lx", &start, &end) == 2) {
            VALGRIND_MAKE_MEM_DEFINED(start, end - start);
        }
    }
    fclose(maps);
}
#else
static void show_rings_to_valgrind(void)
{
}
#endif

LinuxAioState *state_new(void)
{
    LinuxAioState *s = laio_init(NULL);
    CHECK(s);
    show_rings_to_valgrind();
    return s;
}

Rig rig_new(void)
{
    Rig rig = {.ctx = host_context_new(), .state = state_new()};
    CHECK(rig.ctx);
    laio_attach_aio_context(rig.state, rig.ctx);
    host_set_state(rig.ctx, rig.state);
    return rig;
}

LaioStats state_stats(LinuxAioState *s)
{
    LaioStats stats;
    memset(&stats, 0xff, sizeof(stats));
    stats.size = sizeof(stats);
    laio_state_get_stats(s, &stats);
    return stats;
}

void check_idle(LinuxAioState *s)
{
    LaioStats stats = state_stats(s);
    CHECK_EQ(stats.in_queue, 0);
    CHECK_EQ(stats.in_flight, 0);
    CHECK_EQ(stats.submitted, stats.completed);
    CHECK_LE(stats.failed, stats.completed);
    CHECK_LE(stats.deepest_nesting, laio_max_submit_depth());
    for (size_t i = 0; i < sizeof(stats.reserved) / sizeof(stats.reserved[0]); i++) {
        CHECK_EQ(stats.reserved[i], 0);
    }
    CHECK_EQ(laio_submit_depth(), 0);
}

void rig_free(Rig rig)
{
    check_idle(rig.state);
    host_set_state(rig.ctx, NULL);
    laio_detach_aio_context(rig.state, rig.ctx);
    laio_cleanup(rig.state);
    host_context_free(rig.ctx);
}

Io io_of(int type, int fd, uint64_t offset, void *buffer, size_t bytes)
{
    return (Io){
        .fd = fd,
        .type = type,
        .offset = offset,
        .one = {.iov_base = buffer, .iov_len = bytes},
    };
}

/* The one part moves with the Io, so this is asked for each time. */
static struct iovec *io_iov(Io *io)
{
    return io->iov ? io->iov : &io->one;
}

static int io_iovcnt(const Io *io)
{
    return io->iov ? io->iovcnt : 1;
}

void io_completed(void *opaque, int ret)
{
    Io *io = opaque;
    io->completions++;
    io->ret = ret;
}

void io_start(LinuxAioState *s, Io *io)
{
    io->completions = 0;
    io->ret = 1;
    CHECK_EQ(laio_state_submit(s, io->fd, io->offset, io_iov(io), io_iovcnt(io), io->type,
                               io->flags, io->dev_max_batch, io_completed, io),
             0);
}

static bool all_completed(const Io *ios, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ios[i].completions == 0) {
            return false;
        }
    }
    return true;
}

void io_finish(AioContext *ctx, Io *ios, size_t count)
{
    while (!all_completed(ios, count)) {
        if (!host_poll(ctx, true)) {
            FAIL("the event loop has nothing to do, and a request is not complete");
        }
    }
    for (int i = 0; i < 3; i++) {
        host_poll(ctx, false);
    }
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(ios[i].completions, 1);
        CHECK_LE(ios[i].ret, 0);
    }
}

bool way_exists(Way way)
{
    return way == WAY_CALLBACK || host->coroutines;
}

int way_co_submit(Way way, LinuxAioState *s, Io *io)
{
    QEMUIOVector qiov = {.iov = io_iov(io), .niov = io_iovcnt(io)};
    size_t bytes = 0;
    for (int i = 0; i < qiov.niov; i++) {
        bytes += qiov.iov[i].iov_len;
    }
    qiov.size = bytes;
    return way == WAY_STATE
               ? laio_state_co_submit(s, io->fd, io->offset, &qiov, io->type, io->flags,
                                      io->dev_max_batch)
               : laio_co_submit(io->fd, io->offset, &qiov, io->type, io->flags, io->dev_max_batch);
}

typedef struct CoRequest {
    Way way;
    LinuxAioState *state;
    Io *io;
} CoRequest;

static void co_request(void *opaque)
{
    CoRequest *request = opaque;
    io_completed(request->io, way_co_submit(request->way, request->state, request->io));
}

int way_do(Way way, Rig rig, Io *io)
{
    CoRequest request = {way, rig.state, io};
    io->completions = 0;
    if (way == WAY_CALLBACK) {
        io_start(rig.state, io);
    } else if (host->builtin) {
        co_request(&request);
    } else {
        coroutine_enter(coroutine_new(co_request, &request));
    }
    io_finish(rig.ctx, io, 1);
    return io->ret;
}

void *aligned_buffer(size_t bytes)
{
    void *buffer = aligned_alloc(BLOCK, (bytes + BLOCK - 1) / BLOCK * BLOCK);
    CHECK(buffer);
    memset(buffer, 0xa5, bytes);
    return buffer;
}

int hole_file(void)
{
    int fd = test_file(O_DIRECT);
    CHECK_EQ(ftruncate(fd, 1 << 30), 0);
    return fd;
}
