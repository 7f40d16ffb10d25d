/*
 * The variants of the host, and the table of hooks that each gives to the library.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "host.h"
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far longer than any request takes: who waits that long waits for ever. */
enum { HANG_MS = 60 * 1000 };

#define QEMU_LIKE .coroutines = true, .deferral = DEFER_AS_QEMU

/* In the order of the bits in host.h. */
const HostVariant host_variants[HOST_VARIANTS] = {
    {.name = "qemu", QEMU_LIKE},
    {.name = "strict", .coroutines = true, .deferral = DEFER_STRICTLY_ONCE},
    {.name = "plain", .coroutines = true},
    {.name = "minimal", .minimal = true},
    {.name = "twice", QEMU_LIKE, .delivery = DELIVER_TWICE},
    {.name = "adaptive", QEMU_LIKE, .polling = POLL_ADAPTIVELY},
    {.name = "polled", QEMU_LIKE, .delivery = DELIVER_NEVER, .polling = POLL_ONLY},
    {.name = "lock", QEMU_LIKE, .lock = true},
    {.name = "builtin", .builtin = true, .coroutines = true},
    {.name = "builtin-fd", .builtin = true, .by_fd = true, .coroutines = true},
    {.name = "deaf", QEMU_LIKE, .delivery = DELIVER_NEVER},
    {.name = "deaf-plain", .coroutines = true, .delivery = DELIVER_NEVER},
};

const HostVariant *host;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char *logged;
static size_t logged_bytes;
static int last_errno;
static char last_message[256];

static void log_line(const char *line)
{
    pthread_mutex_lock(&mutex);
    size_t bytes = strlen(line);
    logged = realloc(logged, logged_bytes + bytes + 2);
    if (!logged) {
        abort();
    }
    memcpy(logged + logged_bytes, line, bytes);
    memcpy(logged + logged_bytes + bytes, "\n", 2);
    logged_bytes += bytes + 1;
    pthread_mutex_unlock(&mutex);
}

char *host_take_log(void)
{
    pthread_mutex_lock(&mutex);
    char *taken = logged;
    logged = NULL;
    logged_bytes = 0;
    pthread_mutex_unlock(&mutex);
    return taken;
}

static void error_set(Error **errp, int os_errno, const char *message)
{
    pthread_mutex_lock(&mutex);
    last_errno = os_errno;
    snprintf(last_message, sizeof(last_message), "%s", message);
    pthread_mutex_unlock(&mutex);
    if (errp) {
        *errp = (Error *)last_message;
    }
}

int host_take_error(char *message, size_t size)
{
    pthread_mutex_lock(&mutex);
    int taken = last_errno;
    snprintf(message, size, "%s", last_message);
    last_errno = 0;
    last_message[0] = '\0';
    pthread_mutex_unlock(&mutex);
    return taken;
}

LaioHostOps host_ops(const HostVariant *variant)
{
    LaioHostOps ops = {
        .size = sizeof(ops),
        .bh_new = loop_bh_new,
        .bh_schedule = loop_bh_schedule,
        .bh_cancel = loop_bh_cancel,
        .bh_delete = loop_bh_delete,
        .set_event_notifier = loop_set_event_notifier,
        .current_aio_context = loop_current,
        .linux_aio_state = loop_state,
    };
    if (variant->coroutines) {
        ops.coroutine_self = coroutine_self;
        ops.coroutine_yield = coroutine_yield;
        ops.coroutine_entered = coroutine_entered;
        ops.coroutine_wake = coroutine_wake;
    }
    if (variant->deferral != DEFER_NONE) {
        ops.defer_begin = host_defer_begin;
        ops.defer_call = host_defer_call;
        ops.defer_end = host_defer_end;
    }
    if (variant->lock) {
        ops.context_acquire = host_lock;
        ops.context_release = host_unlock;
    }
    if (!variant->minimal) {
        ops.aio_max_batch = loop_max_batch;
        ops.error_set = error_set;
        ops.log = log_line;
    }
    return ops;
}

void host_start(const HostVariant *variant)
{
    host = variant;
    if (variant->builtin) {
        return;
    }
    LaioHostOps ops = host_ops(variant);
    if (laio_set_host_ops(&ops) != 0) {
        fprintf(stderr, "host: the library refuses the hooks of variant %s\n", variant->name);
        abort();
    }
    /* The library has its own copy. */
    memset(&ops, 0xff, sizeof(ops));
}

static int descriptor_of(AioContext *ctx)
{
    int fd = laio_loop_get_fd(ctx);
    if (fd < 0) {
        fprintf(stderr, "host: laio_loop_get_fd() returns %d\n", fd);
        abort();
    }
    return fd;
}

static bool readable_within(int fd, int ms)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int ready;
    do {
        ready = poll(&poll_fd, 1, ms);
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

/* As a program does that has an event loop of its own: it never looks before the descriptor is
 * readable. */
static bool poll_by_fd(AioContext *ctx, bool blocking)
{
    int fd = descriptor_of(ctx);
    while (readable_within(fd, blocking ? HANG_MS : 0)) {
        if (laio_loop_poll(ctx, false)) {
            return true;
        }
        if (!blocking) {
            return false;
        }
    }
    return false;
}

AioContext *host_context_new(void)
{
    AioContext *ctx = host->builtin ? laio_loop_new() : loop_new();
    if (ctx && host->by_fd) {
        descriptor_of(ctx);
    }
    return ctx;
}

void host_context_free(AioContext *ctx)
{
    if (host->builtin) {
        laio_loop_free(ctx);
    } else {
        loop_free(ctx);
    }
}

bool host_poll(AioContext *ctx, bool blocking)
{
    if (host->by_fd) {
        return poll_by_fd(ctx, blocking);
    }
    return host->builtin ? laio_loop_poll(ctx, blocking) : loop_poll(ctx, blocking);
}
