/*
 * Many requests, many states, many threads: each request completes exactly once, with the right
 * data.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

enum { RING = 1024, SECTOR = 512 };

/* Block `i` of the file holds its own number, and the rest of it follows from that. */
static void fill_block(void *block, uint64_t number, size_t bytes)
{
    uint64_t *word = block;
    for (size_t i = 0; i < bytes / sizeof(*word); i++) {
        word[i] = number * 1000003 + i;
    }
}

static void check_block(const void *block, uint64_t number, size_t bytes)
{
    const uint64_t *word = block;
    for (size_t i = 0; i < bytes / sizeof(*word); i++) {
        if (word[i] != number * 1000003 + i) {
            FAIL("block %llu, word %zu holds %#llx", (unsigned long long)number, i,
                 (unsigned long long)word[i]);
        }
    }
}

static int numbered_file(unsigned blocks)
{
    int fd = test_file(0);
    char *content = aligned_buffer(blocks * SECTOR);
    for (unsigned i = 0; i < blocks; i++) {
        fill_block(content + i * SECTOR, i, SECTOR);
    }
    CHECK_EQ(write(fd, content, blocks * SECTOR), blocks * SECTOR);
    CHECK_EQ(fsync(fd), 0);
    free(content);
    return fd;
}

/* `count` reads at once of a file of `blocks` blocks. */
typedef struct Load {
    unsigned count;
    int fd;
    char *buffers;
    Io *ios;
} Load;

static Load load_new(int fd, unsigned blocks, unsigned count)
{
    Load load = {count, fd, aligned_buffer(count * SECTOR), calloc(count, sizeof(Io))};
    CHECK(load.ios);
    for (unsigned i = 0; i < count; i++) {
        load.ios[i] = io_of(QEMU_AIO_READ, fd, (uint64_t)(i % blocks) * SECTOR,
                            load.buffers + i * SECTOR, SECTOR);
    }
    return load;
}

static void load_check(Load *load)
{
    for (unsigned i = 0; i < load->count; i++) {
        CHECK_EQ(load->ios[i].ret, 0);
        check_block(load->buffers + i * SECTOR, load->ios[i].offset / SECTOR, SECTOR);
    }
    free(load->buffers);
    free(load->ios);
}

static void more_requests_than_the_ring_holds(void)
{
    unsigned count = test_scaled(5000, RING + 200);
    Rig rig = rig_new();
    int fd = numbered_file(RING);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    for (int plugged = 0; plugged < 2; plugged++) {
        Load load = load_new(direct, RING, count);
        if (plugged) {
            /* Only the ring is the limit now, where the host can say so. */
            host_set_max_batch(rig.ctx, count);
            laio_state_io_plug(rig.state);
        }
        for (unsigned i = 0; i < count; i++) {
            io_start(rig.state, &load.ios[i]);
            CHECK_LE(state_stats(rig.state).in_flight, RING);
        }
        if (plugged) {
            laio_state_io_unplug(rig.state, 0);
        }
        io_finish(rig.ctx, load.ios, count);
        load_check(&load);
    }
    CHECK_EQ(state_stats(rig.state).completed, 2 * count);
    if (host->builtin || host->minimal) {
        CHECK_LE(state_stats(rig.state).largest_batch, RING);
    } else {
        CHECK_EQ(state_stats(rig.state).largest_batch, RING);
    }
    close(direct);
    close(fd);
    rig_free(rig);
}

/* Flushes are slow, and another kernel thread's: they stay in the ring while more come. */
static void more_flushes_than_the_ring_holds(void)
{
    enum { COUNT = 3 * RING };
    Rig rig = rig_new();
    int fd = numbered_file(8);
    Io *ios = calloc(COUNT, sizeof(*ios));
    unsigned most_in_flight = 0;
    CHECK(ios);
    CHECK_EQ(ftruncate(fd, 1 << 20), 0);
    host_set_max_batch(rig.ctx, COUNT);
    laio_state_io_plug(rig.state);
    for (unsigned i = 0; i < COUNT; i++) {
        ios[i] = io_of(QEMU_AIO_FLUSH, fd, 0, NULL, 0);
        io_start(rig.state, &ios[i]);
        unsigned in_flight = (unsigned)state_stats(rig.state).in_flight;
        most_in_flight = in_flight > most_in_flight ? in_flight : most_in_flight;
    }
    laio_state_io_unplug(rig.state, 0);
    while (state_stats(rig.state).completed < COUNT) {
        CHECK(host_poll(rig.ctx, true));
        unsigned in_flight = (unsigned)state_stats(rig.state).in_flight;
        most_in_flight = in_flight > most_in_flight ? in_flight : most_in_flight;
    }
    io_finish(rig.ctx, ios, COUNT);
    CHECK_LE(most_in_flight, RING);
    test_note("%u in flight at most", most_in_flight);
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK_EQ(ios[i].ret, 0);
    }
    free(ios);
    close(fd);
    rig_free(rig);
}

typedef struct CoRead {
    Rig rig;
    Io *io;
} CoRead;

static void co_read(void *opaque)
{
    CoRead *read = opaque;
    io_completed(read->io, way_co_submit(WAY_QEMU, read->rig.state, read->io));
}

static void more_coroutines_than_the_ring_holds(void)
{
    unsigned count = test_scaled(5000, RING + 200);
    Rig rig = rig_new();
    int fd = numbered_file(RING);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    Load load = load_new(direct, RING, count);
    CoRead *reads = calloc(count, sizeof(*reads));
    CHECK(reads);
    for (unsigned i = 0; i < count; i++) {
        reads[i] = (CoRead){rig, &load.ios[i]};
        coroutine_enter(coroutine_new(co_read, &reads[i]));
    }
    io_finish(rig.ctx, load.ios, count);
    load_check(&load);
    free(reads);
    close(direct);
    close(fd);
    rig_free(rig);
}

static void several_states_of_one_event_loop(void)
{
    enum { STATES = 3, COUNT = 600 };
    Rig rig = rig_new();
    LinuxAioState *states[STATES] = {rig.state, state_new(), state_new()};
    laio_attach_aio_context(states[1], rig.ctx);
    laio_attach_aio_context(states[2], rig.ctx);
    int fd = numbered_file(RING);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    Load load = load_new(direct, RING, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        io_start(states[i % STATES], &load.ios[i]);
    }
    io_finish(rig.ctx, load.ios, COUNT);
    load_check(&load);
    for (int i = 0; i < STATES; i++) {
        check_idle(states[i]);
        CHECK_EQ(state_stats(states[i]).completed, COUNT / STATES);
    }
    for (int i = 1; i < STATES; i++) {
        laio_detach_aio_context(states[i], rig.ctx);
        laio_cleanup(states[i]);
    }
    close(direct);
    close(fd);
    rig_free(rig);
}

static void several_event_loops_of_one_thread(void)
{
    enum { LOOPS = 3, COUNT = 300 };
    int fd = numbered_file(RING);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    Rig rigs[LOOPS];
    Load loads[LOOPS];
    for (int i = 0; i < LOOPS; i++) {
        rigs[i] = rig_new();
        loads[i] = load_new(direct, RING, COUNT);
    }
    for (unsigned n = 0; n < COUNT; n++) {
        for (int i = 0; i < LOOPS; i++) {
            host_set_current(rigs[i].ctx);
            io_start(rigs[i].state, &loads[i].ios[n]);
        }
    }
    for (int i = 0; i < LOOPS; i++) {
        io_finish(rigs[i].ctx, loads[i].ios, COUNT);
        load_check(&loads[i]);
    }
    for (int i = LOOPS - 1; i >= 0; i--) {
        host_set_current(rigs[i].ctx);
        rig_free(rigs[i]);
    }
    close(direct);
    close(fd);
}

/* The chain of a thread: as many in flight as it has, each starting the next. */
typedef struct Chain {
    Rig rig;
    int fd;
    unsigned left;
    unsigned in_flight;
    unsigned completions;
    uint64_t random;
} Chain;

typedef struct Link {
    Chain *chain;
    char *buffer;
    struct iovec iov;
    unsigned block;
} Link;

static void link_start(Link *link);

static void link_completed(void *opaque, int ret)
{
    Link *link = opaque;
    CHECK_EQ(ret, 0);
    check_block(link->buffer, link->block, SECTOR);
    link->chain->completions++;
    link->chain->in_flight--;
    link_start(link);
}

static void link_start(Link *link)
{
    Chain *chain = link->chain;
    if (chain->left == 0) {
        return;
    }
    chain->left--;
    chain->in_flight++;
    link->block = test_random(&chain->random) % RING;
    link->iov = (struct iovec){link->buffer, SECTOR};
    memset(link->buffer, 0, SECTOR);
    CHECK_EQ(laio_state_submit(chain->rig.state, chain->fd, link->block * SECTOR, &link->iov, 1,
                               QEMU_AIO_READ, 0, 0, link_completed, link),
             0);
}

typedef struct Worker {
    pthread_t thread;
    int fd;
    unsigned count;
    uint64_t seed;
} Worker;

static void *worker(void *opaque)
{
    enum { LINKS = 32 };
    Worker *self = opaque;
    Chain chain = {.rig = rig_new(), .fd = self->fd, .left = self->count, .random = self->seed};
    Link links[LINKS];
    for (int i = 0; i < LINKS; i++) {
        links[i] = (Link){.chain = &chain, .buffer = aligned_buffer(SECTOR)};
        link_start(&links[i]);
    }
    while (chain.in_flight > 0) {
        CHECK(host_poll(chain.rig.ctx, true));
    }
    CHECK_EQ(chain.completions, self->count);
    CHECK_EQ(state_stats(chain.rig.state).completed, self->count);
    for (int i = 0; i < LINKS; i++) {
        free(links[i].buffer);
    }
    rig_free(chain.rig);
    coroutine_thread_done();
    return NULL;
}

static void one_state_a_thread(void)
{
    enum { THREADS = 4 };
    int fd = numbered_file(RING);
    int direct = test_reopen(fd, O_RDONLY | O_DIRECT);
    Worker workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (Worker){
            .fd = i % 2 ? fd : direct, .count = test_scaled(10000, 100), .seed = i + 1};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, worker, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
    }
    close(direct);
    close(fd);
}

/* Random reads and writes of a file of data and holes, checked against a copy in memory. */
enum { SHADOW_BLOCKS = 1024, SHADOW_LINKS = 48, SHADOW_MAX = 8, SHADOW_PARTS = 4 };

typedef struct Shadow {
    Rig rig;
    int fd;
    char *content;
    bool busy[SHADOW_BLOCKS];
    unsigned left;
    unsigned in_flight;
    uint64_t random;
} Shadow;

typedef struct Transfer {
    Shadow *shadow;
    Way way;
    Io io;
    unsigned block;
    unsigned blocks;
    char *buffer;
    struct iovec parts[SHADOW_PARTS];
} Transfer;

static bool claim(Shadow *shadow, unsigned block, unsigned blocks)
{
    for (unsigned i = 0; i < blocks; i++) {
        if (shadow->busy[block + i]) {
            return false;
        }
    }
    memset(&shadow->busy[block], true, blocks);
    return true;
}

/* Splits the buffer at block boundaries and hands its parts over in an order of their own. */
static void choose_parts(Transfer *transfer)
{
    unsigned count = 0, at = 0;
    while (at < transfer->blocks) {
        unsigned blocks = 1 + test_random(&transfer->shadow->random) % (transfer->blocks - at);
        if (count == SHADOW_PARTS - 1) {
            blocks = transfer->blocks - at;
        }
        transfer->parts[count++] = (struct iovec){transfer->buffer + at * BLOCK, blocks * BLOCK};
        at += blocks;
    }
    transfer->io.iov = transfer->parts;
    transfer->io.iovcnt = (int)count;
}

static void transfer_choose(Transfer *transfer)
{
    Shadow *shadow = transfer->shadow;
    do {
        transfer->blocks = 1 + test_random(&shadow->random) % SHADOW_MAX;
        transfer->block = test_random(&shadow->random) % (SHADOW_BLOCKS - transfer->blocks);
    } while (!claim(shadow, transfer->block, transfer->blocks));
    bool write = test_random(&shadow->random) % 2;
    transfer->io = io_of(write ? QEMU_AIO_WRITE : QEMU_AIO_READ, shadow->fd,
                         (uint64_t)transfer->block * BLOCK, NULL, 0);
    transfer->io.flags = write && test_random(&shadow->random) % 16 == 0 ? BDRV_REQ_FUA : 0;
    choose_parts(transfer);
    uint64_t *word = (uint64_t *)transfer->buffer;
    for (size_t i = 0; i < transfer->blocks * BLOCK / sizeof(*word); i++) {
        word[i] = write ? test_random(&shadow->random) : ~0ull;
    }
}

static void transfer_check(Transfer *transfer, int ret)
{
    Shadow *shadow = transfer->shadow;
    char *content = shadow->content + (size_t)transfer->block * BLOCK;
    size_t bytes = (size_t)transfer->blocks * BLOCK;
    CHECK_EQ(ret, 0);
    if (transfer->io.type == QEMU_AIO_WRITE) {
        memcpy(content, transfer->buffer, bytes);
    } else if (memcmp(content, transfer->buffer, bytes) != 0) {
        FAIL("a read of %u blocks at %u gives other data", transfer->blocks, transfer->block);
    }
    memset(&shadow->busy[transfer->block], false, transfer->blocks);
}

static bool transfer_next(Transfer *transfer)
{
    Shadow *shadow = transfer->shadow;
    if (shadow->left == 0) {
        return false;
    }
    shadow->left--;
    shadow->in_flight++;
    transfer_choose(transfer);
    return true;
}

static void transfer_completed(void *opaque, int ret)
{
    Transfer *transfer = opaque;
    transfer_check(transfer, ret);
    transfer->shadow->in_flight--;
    if (transfer_next(transfer)) {
        Io *io = &transfer->io;
        CHECK_EQ(laio_state_submit(transfer->shadow->rig.state, io->fd, io->offset, io->iov,
                                   io->iovcnt, io->type, io->flags, 0, transfer_completed,
                                   transfer),
                 0);
    }
}

static void co_transfer(void *opaque)
{
    Transfer *transfer = opaque;
    while (transfer_next(transfer)) {
        transfer_check(transfer,
                       way_co_submit(transfer->way, transfer->shadow->rig.state, &transfer->io));
        transfer->shadow->in_flight--;
    }
}

static void transfer_run(Transfer *transfer)
{
    if (transfer->way == WAY_CALLBACK) {
        transfer->blocks = 0;
        transfer->shadow->in_flight++;
        transfer->io.type = QEMU_AIO_READ;
        transfer_completed(transfer, 0);
    } else if (host->builtin) {
        co_transfer(transfer);
    } else {
        coroutine_enter(coroutine_new(co_transfer, transfer));
    }
}

/* Every other run of blocks is a hole. */
static void shadow_fill(Shadow *shadow, int fd)
{
    uint64_t *word = (uint64_t *)shadow->content;
    const size_t words = BLOCK / sizeof(*word);
    CHECK_EQ(ftruncate(fd, SHADOW_BLOCKS * BLOCK), 0);
    for (size_t block = 0; block < SHADOW_BLOCKS; block++) {
        if (block / 5 % 2) {
            memset(&word[block * words], 0, BLOCK);
            continue;
        }
        for (size_t i = 0; i < words; i++) {
            word[block * words + i] = test_random(&shadow->random);
        }
        CHECK_EQ(pwrite(fd, &word[block * words], BLOCK, (off_t)(block * BLOCK)), BLOCK);
    }
    CHECK_EQ(fsync(fd), 0);
}

static void mixed_transfers(Way way, int flags)
{
    int fd = test_file(flags);
    Shadow shadow = {.rig = rig_new(),
                     .fd = fd,
                     .content = aligned_buffer(SHADOW_BLOCKS * BLOCK),
                     .left = test_scaled(3000, 200),
                     .random = (uint64_t)way * 100 + (uint64_t)flags};
    shadow_fill(&shadow, fd);
    Transfer transfers[SHADOW_LINKS];
    for (int i = 0; i < SHADOW_LINKS; i++) {
        transfers[i] = (Transfer){
            .shadow = &shadow, .way = way, .buffer = aligned_buffer(SHADOW_MAX * BLOCK)};
        transfer_run(&transfers[i]);
    }
    while (shadow.in_flight > 0) {
        CHECK(host_poll(shadow.rig.ctx, true));
    }
    CHECK_EQ(shadow.left, 0);
    char *found = aligned_buffer(SHADOW_BLOCKS * BLOCK);
    CHECK_EQ(pread(fd, found, SHADOW_BLOCKS * BLOCK, 0), SHADOW_BLOCKS * BLOCK);
    CHECK(memcmp(found, shadow.content, SHADOW_BLOCKS * BLOCK) == 0);
    for (int i = 0; i < SHADOW_LINKS; i++) {
        free(transfers[i].buffer);
    }
    free(found);
    free(shadow.content);
    close(fd);
    rig_free(shadow.rig);
}

static void data_is_right_with_o_direct(void)
{
    FOR_EACH_WAY(way) {
        mixed_transfers(way, O_DIRECT);
    }
}

static void data_is_right_with_the_page_cache(void)
{
    FOR_EACH_WAY(way) {
        mixed_transfers(way, 0);
    }
}

static const TestCase cases[] = {
    {"more requests than the ring holds", more_requests_than_the_ring_holds, HOST_HEARING},
    {"more flushes than the ring holds", more_flushes_than_the_ring_holds, HOST_HEARING},
    {"more coroutines than the ring holds", more_coroutines_than_the_ring_holds,
     HOST_HEARING & ~(HOST_MINIMAL | HOST_BUILTIN)},
    {"several states of one event loop", several_states_of_one_event_loop, HOST_HEARING},
    {"several event loops of one thread", several_event_loops_of_one_thread, HOST_HEARING},
    {"one state a thread", one_state_a_thread, HOST_HEARING},
    {"data is right with O_DIRECT", data_is_right_with_o_direct, HOST_HEARING},
    {"data is right with the page cache", data_is_right_with_the_page_cache, HOST_HEARING},
};

TEST_MAIN(cases)
