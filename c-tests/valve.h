/*
 * A valve between the library and the kernel, in the test program itself: the library makes its
 * system calls through libc's syscall(), which valve.c takes over. The test says what io_submit(2)
 * does, so that it and not the machine decides how long a request is in flight.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef VALVE_H
#define VALVE_H

#include <stdint.h>

typedef enum Valve {
    VALVE_OPEN,   /* to the kernel */
    VALVE_EAGAIN, /* the kernel has no room */
    VALVE_NONE,   /* the same, said in another way: none taken and no error */
    VALVE_HOLD,   /* taken, for valve_release() to give to the kernel */
} Valve;

/* For the requests of the descriptor `fd`; if that is negative, for all. */
void valve_set(Valve valve, int fd);

/* Gives the kernel what is held, on any thread. */
void valve_release(void);

unsigned valve_held(void);

/* Calls of io_submit(2) that the valve let not through. */
uint64_t valve_refusals(void);

/* Contexts that were made and destroyed so far: calls of io_setup(2) and io_destroy(2). */
uint64_t valve_setups(void);
uint64_t valve_destroyed(void);

/* Calls `fn(opaque)` after each io_submit(2) that the kernel has answered, before the library
 * hears of it. */
void valve_after_submit(void (*fn)(void *opaque), void *opaque);

#endif
