/*
 * Memory. After a million requests had been queued the library kept what it had needed for them,
 * 148 MiB, for as long as the state lived. It gives back what is far above what is used; and, as
 * ever, allocates nothing for a request in steady state.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <unistd.h>

enum { KEPT_BYTES = 8 << 20, PEAK_COUNT = 1000000, QUIET_COUNT = 20000, HANG_SECONDS = 170 };

/* The library's allocations come here. */
static atomic_ulong allocations;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **place, size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    *place = __libc_memalign(alignment, size);
    return *place ? 0 : ENOMEM;
}

static size_t allocated_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Resident, once what is free has been given to the system. */
static size_t resident_bytes(void)
{
    unsigned long pages = 0;
    malloc_trim(0);
    FILE *statm = fopen("/proc/self/statm", "re");
    CHECK(statm);
    CHECK_EQ(fscanf(statm, "%*u %lu", &pages), 1);
    fclose(statm);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Chains of requests, each started by the one before. */
typedef struct Chains {
    Rig rig;
    int fd;
    struct iovec iov;
    uint64_t told;
    uint64_t started;
    uint64_t total;
} Chains;

static void next(void *opaque, int ret);

static void start(Chains *chains)
{
    uint64_t block = chains->started++ % 1000;
    CHECK_EQ(laio_state_submit(chains->rig.state, chains->fd, block * BLOCK, &chains->iov, 1,
                               QEMU_AIO_READ, 0, 0, next, chains),
             0);
}

static void next(void *opaque, int ret)
{
    Chains *chains = opaque;
    CHECK_EQ(ret, 0);
    chains->told++;
    if (chains->started < chains->total) {
        start(chains);
    }
}

/* `count` requests, of which so many are outstanding at once. */
static void run_chains(Chains *chains, uint64_t count, unsigned outstanding)
{
    chains->total = chains->started + count;
    valve_set(VALVE_EAGAIN, -1);
    for (unsigned i = 0; i < outstanding; i++) {
        start(chains);
    }
    valve_set(VALVE_OPEN, -1);
    while (chains->told < chains->total) {
        CHECK(host_poll(chains->rig.ctx, true));
    }
}

static Chains chains_new(int fd)
{
    return (Chains){.rig = rig_new(), .fd = fd, .iov = {aligned_buffer(BLOCK), BLOCK}};
}

static void chains_free(Chains *chains)
{
    free(chains->iov.iov_base);
    close(chains->fd);
    rig_free(chains->rig);
}

/* A million in the queue, which the kernel has no room for, or a plug holds back; then ordinary
 * business, and what is used is what was used before. */
static void a_million_queued_leave_no_memory_behind(void)
{
    test_watch(HANG_SECONDS);
    Chains chains = chains_new(hole_file());
    run_chains(&chains, QUIET_COUNT, 200);
    size_t allocated = allocated_bytes(), resident = resident_bytes();
    for (int round = 0; round < 2; round++) {
        unsigned peak = test_scaled(PEAK_COUNT, 200000);
        test_context("round %d", round);
        chains.total = chains.started + peak;
        laio_state_io_plug(chains.rig.state);
        host_set_max_batch(chains.rig.ctx, 2 * PEAK_COUNT);
        valve_set(VALVE_EAGAIN, -1);
        while (chains.started < chains.total) {
            start(&chains);
        }
        CHECK_EQ(state_stats(chains.rig.state).in_queue, peak);
        valve_set(VALVE_OPEN, -1);
        laio_state_io_unplug(chains.rig.state, 0);
        while (chains.told < chains.total) {
            CHECK(host_poll(chains.rig.ctx, true));
        }
        host_set_max_batch(chains.rig.ctx, 0);
        run_chains(&chains, QUIET_COUNT, 200);
        CHECK_LE(allocated_bytes(), allocated + KEPT_BYTES);
        CHECK_LE(resident_bytes(), resident + KEPT_BYTES);
    }
    chains_free(&chains);
}

static void check_steady(Chains *chains, uint64_t count)
{
    const unsigned outstanding[] = {1, 200, 1024};
    for (int i = 0; i < 3; i++) {
        test_context("%u outstanding", outstanding[i]);
        run_chains(chains, count, outstanding[i]);
        unsigned long before = atomic_load(&allocations);
        run_chains(chains, count, outstanding[i]);
        /* GLib may want something once in a while. */
        CHECK_LE(atomic_load(&allocations) - before, count / 1000);
    }
}

static void no_allocation_for_a_request(void)
{
    test_watch(HANG_SECONDS);
    Chains chains = chains_new(hole_file());
    check_steady(&chains, test_scaled(30000, 10000));
    /* Just after a peak as well, though it gives back memory. */
    run_chains(&chains, test_scaled(200000, 20000), test_scaled(30000, 10000));
    run_chains(&chains, test_scaled(30000, 20000), 200);
    check_steady(&chains, test_scaled(30000, 10000));
    chains_free(&chains);
}

static void no_allocation_for_a_request_to_a_device(void)
{
    test_watch(HANG_SECONDS);
    Chains chains = chains_new(test_file(O_DIRECT));
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(pwrite(chains.fd, chains.iov.iov_base, BLOCK, i * BLOCK), BLOCK);
    }
    check_steady(&chains, test_scaled(10000, 2000));
    chains_free(&chains);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_BUILTIN)

static const TestCase cases[] = {
    {"a million queued leave no memory behind", a_million_queued_leave_no_memory_behind, HOSTS},
    {"no allocation for a request", no_allocation_for_a_request, HOSTS},
    {"no allocation for a request to a device", no_allocation_for_a_request_to_a_device, HOSTS},
};

TEST_MAIN(cases)
