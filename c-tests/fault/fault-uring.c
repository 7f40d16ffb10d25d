/*
 * What io_uring does rarely: EAGAIN, EBUSY, EINTR; part of a batch taken; a transfer cut short; and
 * results that say nothing of the request. The shim looks at the queues through mappings of its own.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "fault-uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <sys/mman.h>

enum { MAX_FD = 1024 };

typedef struct MappedRing {
    struct io_uring_params params;
    uint8_t *queues;
    size_t queues_size;
    struct io_uring_sqe *sqes;
} MappedRing;

static MappedRing rings[MAX_FD];

static void *map(int fd, size_t size, uint64_t offset)
{
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    return mapped == MAP_FAILED ? NULL : mapped;
}

void uring_is_set_up(int fd, const void *params)
{
    if (fd >= MAX_FD) {
        return;
    }
    MappedRing *ring = &rings[fd];
    const struct io_uring_params *p = params;
    if (ring->queues) { /* of a ring that had this descriptor and was closed */
        munmap(ring->queues, ring->queues_size);
        munmap(ring->sqes, ring->params.sq_entries * sizeof(*ring->sqes));
    }
    ring->params = *p;
    ring->queues_size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->queues = map(fd, ring->queues_size, IORING_OFF_SQ_RING);
    ring->sqes = map(fd, p->sq_entries * sizeof(*ring->sqes), IORING_OFF_SQES);
    if (!ring->sqes) {
        ring->queues = NULL;
    }
}

static MappedRing *ring_of(int fd)
{
    return fd < MAX_FD && rings[fd].queues ? &rings[fd] : NULL;
}

static uint32_t *word(const MappedRing *ring, uint32_t offset)
{
    return (uint32_t *)(void *)(ring->queues + offset);
}

/* Makes one of the `most` entries that are about to be taken, of `number`, ask for less. */
static void cut_one(const MappedRing *ring, long number, long most, struct iovec *parts)
{
    uint32_t first = *word(ring, ring->params.sq_off.tail) - (uint32_t)number;
    uint32_t chosen = first + (uint32_t)random_below((uint64_t)most);
    struct io_uring_sqe *sqe = &ring->sqes[chosen & (ring->params.sq_entries - 1)];
    uint64_t count = sqe->len;

    if ((sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV) &&
        cut_vector((const struct iovec *)(uintptr_t)sqe->addr, &count, parts)) {
        sqe->addr = (uintptr_t)parts;
        sqe->len = (uint32_t)count;
    }
}

long uring_before_enter(int fd, long number, struct iovec *parts)
{
    static const int refusals[] = {EAGAIN, EBUSY};
    MappedRing *ring = ring_of(fd);
    long most = number;

    if (comes("eintr", 32)) {
        return -EINTR; /* the library asks again within the same call of its own */
    }
    fault_counts.calls++;
    if (comes("eagain", 16)) {
        fault_counts.eagain++;
        return -refusals[random_below(2)];
    }
    if (number > 1 && comes("partial", 4)) {
        fault_counts.partial++;
        most = 1 + (long)random_below((uint64_t)number - 1);
    }
    if (ring && comes("cut", 8)) {
        cut_one(ring, number, most, parts);
    }
    return most;
}

void uring_after_enter(int fd)
{
    MappedRing *ring = ring_of(fd);

    if (!ring) {
        return;
    }
    uint32_t head = *word(ring, ring->params.cq_off.head);
    uint32_t tail = __atomic_load_n(word(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE);
    struct io_uring_cqe *cqes = (void *)(ring->queues + ring->params.cq_off.cqes);
    for (; head != tail; head++) {
        struct io_uring_cqe *cqe = &cqes[head & (ring->params.cq_entries - 1)];
        if (cqe->res >= 0 && comes("transient", 16)) {
            cqe->res = random_below(2) ? -EAGAIN : -EINTR;
            fault_counts.transient++;
        }
    }
}
