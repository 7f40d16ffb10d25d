/*
 * Takes completions out of an io_context's ring, as QEMU does: guard mode leaves programs alone that
 * ask libaio for them.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef RING_H
#define RING_H

#include <assert.h>
#include <libaio.h>
#include <sched.h>
#include <stdbool.h>

/* What an io_context_t points to, by the kernel's fs/aio.c. */
struct ring {
    unsigned id;
    unsigned slots;
    unsigned head;
    unsigned tail;
    unsigned magic;
    unsigned compat_features;
    unsigned incompat_features;
    unsigned header_length;
    struct io_event events[];
};

static inline bool ring_is_empty(io_context_t context)
{
    struct ring *ring = (struct ring *)context;

    assert(ring->magic == 0xa10a10a1 && ring->incompat_features == 0);
    return ring->head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

/* False if there is none. */
static inline bool ring_take(io_context_t context, struct io_event *event)
{
    struct ring *ring = (struct ring *)context;

    if (ring_is_empty(context)) {
        return false;
    }
    *event = ring->events[ring->head];
    __atomic_store_n(&ring->head, (ring->head + 1) % ring->slots, __ATOMIC_RELEASE);
    return true;
}

/* One that must come. */
static inline void ring_wait(io_context_t context, struct io_event *event)
{
    while (!ring_take(context, event)) {
        sched_yield();
    }
}

#endif
