/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "valve.h"
#include "syscalls.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HELD_MAX = 2048 };

typedef struct Held {
    aio_context_t context;
    struct iocb *iocb;
} Held;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* All below are guarded by `lock`. */
static Valve valve;
static int valve_fd = -1;
static uint64_t refusals;
static uint64_t setups;
static uint64_t destroyed;
static Held held[HELD_MAX];
static unsigned held_count;
static void (*after_submit)(void *opaque);
static void *after_opaque;

void valve_set(Valve new_valve, int fd)
{
    pthread_mutex_lock(&lock);
    valve = new_valve;
    valve_fd = fd;
    pthread_mutex_unlock(&lock);
}

void valve_release(void)
{
    pthread_mutex_lock(&lock);
    valve = VALVE_OPEN;
    for (unsigned i = 0; i < held_count; i++) {
        while (real_syscall(SYS_io_submit, held[i].context, 1L, &held[i].iocb) != 1) {
            if (errno != EAGAIN) {
                fprintf(stderr, "valve: io_submit(2) of a request that was held: %d\n", errno);
                abort();
            }
            usleep(100);
        }
    }
    held_count = 0;
    pthread_mutex_unlock(&lock);
}

unsigned valve_held(void)
{
    pthread_mutex_lock(&lock);
    unsigned count = held_count;
    pthread_mutex_unlock(&lock);
    return count;
}

static uint64_t counted(const uint64_t *counter)
{
    pthread_mutex_lock(&lock);
    uint64_t count = *counter;
    pthread_mutex_unlock(&lock);
    return count;
}

static void count(uint64_t *counter)
{
    pthread_mutex_lock(&lock);
    ++*counter;
    pthread_mutex_unlock(&lock);
}

uint64_t valve_refusals(void)
{
    return counted(&refusals);
}

uint64_t valve_setups(void)
{
    return counted(&setups);
}

uint64_t valve_destroyed(void)
{
    return counted(&destroyed);
}

void valve_after_submit(void (*fn)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&lock);
    after_submit = fn;
    after_opaque = opaque;
    pthread_mutex_unlock(&lock);
}

/* What the valve says to a call; `*through` if the kernel is to answer. Under the lock. */
static long answer(aio_context_t context, long number, struct iocb **iocbs, bool *through)
{
    *through = valve == VALVE_OPEN || (valve_fd >= 0 && (int)iocbs[0]->aio_fildes != valve_fd);
    if (*through) {
        return 0;
    }
    if (valve != VALVE_HOLD) {
        refusals++;
        errno = EAGAIN;
        return valve == VALVE_NONE ? 0 : -1;
    }
    if (held_count + number > HELD_MAX) {
        fprintf(stderr, "valve: too many requests to hold\n");
        abort();
    }
    for (long i = 0; i < number; i++) {
        held[held_count++] = (Held){context, iocbs[i]};
    }
    return number;
}

static long submit(aio_context_t context, long number, struct iocb **iocbs)
{
    bool through;
    pthread_mutex_lock(&lock);
    long result = answer(context, number, iocbs, &through);
    void (*after)(void *) = through ? after_submit : NULL;
    void *opaque = after_opaque;
    int error = errno;
    pthread_mutex_unlock(&lock);
    if (through) {
        result = real_syscall(SYS_io_submit, context, number, iocbs);
        error = errno;
        if (after) {
            after(opaque);
        }
    }
    errno = error;
    return result;
}

long syscall(long number, ...)
{
    long arguments[6];
    va_list list;

    va_start(list, number);
    syscall_arguments(arguments, list);
    va_end(list);
    if (number == SYS_io_submit && arguments[1] > 0) {
        return submit(arguments[0], arguments[1], (struct iocb **)arguments[2]);
    }
    if (number == SYS_io_setup || number == SYS_io_destroy) {
        count(number == SYS_io_setup ? &setups : &destroyed);
    }
    return call_through(number, arguments);
}
