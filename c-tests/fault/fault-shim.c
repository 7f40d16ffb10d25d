/*
 * Preloaded between liblaio and the kernel: a real io_submit(2) that also does what real disks do
 * rarely. The library makes its system calls through libc's syscall(), which this takes over.
 *
 * - EAGAIN, whether or not anything is in flight
 * - part of a batch is taken
 * - a transfer is cut short, by cutting its vector: the kernel really moves only that much
 * - a request is taken now and given to the kernel later, by another thread
 *
 * Between liblaio and io_uring it does what fault-uring.c says.
 *
 * LAIO_FAULT_SEED chooses which; LAIO_FAULT_KINDS, if set, names those that come at all (of "eagain
 * partial cut delay eintr transient"). The numbers of faults are told by fault_shim_counts().
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "fault-shim.h"
#include "fault-uring.h"
#include "../syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Cuts leave multiples of this, so that O_DIRECT takes the rest. */
#define ALIGNMENT 4096
#define LATEST_US 2000

typedef struct Delayed {
    struct Delayed *next;
    aio_context_t context;
    struct iocb iocb;
} Delayed;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* All below are guarded by `lock`. */
static uint64_t random_state;
static Delayed *delayed;
static aio_context_t submitting; /* what the other thread is giving to the kernel now */
static bool thread_runs;
static const char *kinds;
FaultCounts fault_counts;

__attribute__((constructor)) static void choose_faults(void)
{
    const char *seed = getenv("LAIO_FAULT_SEED");

    kinds = getenv("LAIO_FAULT_KINDS");
    random_state = (seed ? strtoull(seed, NULL, 0) : 1) * 0x9e3779b97f4a7c15 + 1;
}

void fault_shim_counts(FaultCounts *now)
{
    pthread_mutex_lock(&lock);
    *now = fault_counts;
    pthread_mutex_unlock(&lock);
}

/* xorshift64*; below `n`. */
uint64_t random_below(uint64_t n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 0x2545f4914f6cdd1d >> 33) % n;
}

/* Whether a fault of this kind comes now: once in `n` times. */
bool comes(const char *kind, uint64_t n)
{
    return random_below(n) == 0 && (!kinds || strstr(kinds, kind));
}

static long submit_one(aio_context_t context, struct iocb *iocb)
{
    return real_syscall(SYS_io_submit, context, 1L, &iocb);
}

static void *submit_delayed(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!delayed) {
            pthread_cond_wait(&changed, &lock);
        }
        /* Any of them: they overtake each other. */
        Delayed **place = &delayed;
        while ((*place)->next && random_below(2)) {
            place = &(*place)->next;
        }
        Delayed *next = *place;
        useconds_t wait = random_below(LATEST_US);
        *place = next->next;
        submitting = next->context;
        pthread_mutex_unlock(&lock);

        usleep(wait);
        while (submit_one(next->context, &next->iocb) != 1) {
            if (errno != EAGAIN) {
                fprintf(stderr, "fault-shim: late io_submit: %s\n", strerror(errno));
                abort();
            }
            usleep(100);
        }
        free(next);

        pthread_mutex_lock(&lock);
        submitting = 0;
        pthread_cond_broadcast(&changed);
    }
    return unused;
}

/* Whether the kernel will take `iocb` for sure: later there is nobody to tell of an error. */
static bool is_plain(const struct iocb *iocb)
{
    const struct iovec *parts = (const struct iovec *)(uintptr_t)iocb->aio_buf;
    int flags = fcntl((int)iocb->aio_fildes, F_GETFL);
    struct stat status;

    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || fstat((int)iocb->aio_fildes, &status) < 0 ||
        !S_ISREG(status.st_mode)) {
        return false;
    }
    if (iocb->aio_lio_opcode == IOCB_CMD_FDSYNC) {
        return true;
    }
    uint64_t bits = (uint64_t)iocb->aio_offset;
    for (size_t i = 0; i < iocb->aio_nbytes; i++) {
        bits |= (uintptr_t)parts[i].iov_base | parts[i].iov_len;
    }
    return bits % ALIGNMENT == 0;
}

/* Takes a request to give it to the kernel later; false if it cannot. Under the lock. */
static bool delay(aio_context_t context, const struct iocb *iocb)
{
    if (!is_plain(iocb)) {
        return false;
    }
    if (!thread_runs) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, submit_delayed, NULL)) {
            return false;
        }
        pthread_detach(thread);
        thread_runs = true;
    }
    Delayed *entry = malloc(sizeof(*entry));
    if (!entry) {
        return false;
    }
    *entry = (Delayed){.next = delayed, .context = context, .iocb = *iocb};
    delayed = entry;
    fault_counts.delayed++;
    pthread_cond_broadcast(&changed);
    return true;
}

bool cut_vector(const struct iovec *whole, uint64_t *count, struct iovec *parts)
{
    size_t total = 0, left;

    if (*count > MAX_PARTS) {
        return false;
    }
    for (size_t i = 0; i < *count; i++) {
        total += whole[i].iov_len;
    }
    if (total <= ALIGNMENT) {
        return false;
    }
    left = ALIGNMENT * (1 + random_below((total - 1) / ALIGNMENT));
    for (size_t i = 0; i < *count; i++) {
        parts[i] = whole[i];
        if (parts[i].iov_len >= left) {
            parts[i].iov_len = left;
            *count = i + 1;
            break;
        }
        left -= parts[i].iov_len;
    }
    fault_counts.cut++;
    return true;
}

/* Makes `iocb` ask for less than it does, if that can be. Under the lock. */
static void cut(struct iocb *iocb, struct iovec *parts)
{
    uint64_t count = iocb->aio_nbytes;

    if ((iocb->aio_lio_opcode == IOCB_CMD_PREADV || iocb->aio_lio_opcode == IOCB_CMD_PWRITEV) &&
        cut_vector((const struct iovec *)(uintptr_t)iocb->aio_buf, &count, parts)) {
        iocb->aio_buf = (uintptr_t)parts;
        iocb->aio_nbytes = count;
    }
}

static long submit_with_faults(aio_context_t context, long number, struct iocb **iocbs)
{
    struct iovec parts[MAX_PARTS];
    long taken = 0, most = number;

    pthread_mutex_lock(&lock);
    fault_counts.calls++;
    if (comes("eagain", 16)) {
        fault_counts.eagain++;
        pthread_mutex_unlock(&lock);
        errno = EAGAIN;
        return -1;
    }
    if (number > 1 && comes("partial", 4)) {
        most = 1 + random_below(number - 1);
        fault_counts.partial++;
    }
    for (; taken < most; taken++) {
        struct iocb iocb = *iocbs[taken];
        if (comes("delay", 8) && delay(context, &iocb)) {
            continue;
        }
        if (comes("cut", 8)) {
            cut(&iocb, parts);
        }
        if (submit_one(context, &iocb) != 1) {
            break;
        }
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return taken > 0 ? taken : -1;
}

/* Waits until the kernel has all that was delayed for `context`. */
static void flush(aio_context_t context)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        bool found = submitting == context;
        for (const Delayed *entry = delayed; entry; entry = entry->next) {
            found |= entry->context == context;
        }
        if (!found) {
            break;
        }
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static long enter_with_faults(const long *arguments)
{
    struct iovec parts[MAX_PARTS];

    pthread_mutex_lock(&lock);
    long number = uring_before_enter((int)arguments[0], arguments[1], parts);
    pthread_mutex_unlock(&lock);
    if (number < 0) {
        errno = (int)-number;
        return -1;
    }
    long answer = real_syscall(SYS_io_uring_enter, arguments[0], number, arguments[2], arguments[3],
                               arguments[4], arguments[5]);
    int error = errno;
    pthread_mutex_lock(&lock);
    uring_after_enter((int)arguments[0]);
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}

static long set_up(const long *arguments)
{
    long fd = real_syscall(SYS_io_uring_setup, arguments[0], arguments[1]);
    int error = errno;

    if (fd >= 0) {
        pthread_mutex_lock(&lock);
        uring_is_set_up((int)fd, (const void *)arguments[1]);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return fd;
}

long syscall(long number, ...)
{
    long arguments[6];
    va_list list;

    va_start(list, number);
    syscall_arguments(arguments, list);
    va_end(list);
    if (number == SYS_io_submit && arguments[1] > 0) {
        return submit_with_faults(arguments[0], arguments[1], (struct iocb **)arguments[2]);
    }
    if (number == SYS_io_uring_enter && arguments[1] > 0) {
        return enter_with_faults(arguments);
    }
    if (number == SYS_io_uring_setup) {
        return set_up(arguments);
    }
    if (number == SYS_io_destroy) {
        flush(arguments[0]);
    }
    return call_through(number, arguments);
}
