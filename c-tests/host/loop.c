/*
 * Event loops on GLib's main loop: a GSource on a GMainContext of its own for each AioContext, with
 * bottom halves, event notifiers, polling and, where asked for, a lock.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "loop.h"

#include <glib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* Far longer than any request takes: who waits that long waits for ever. */
enum { HANG_MS = 60 * 1000 };
/* Turns of adaptive polling before the loop waits. */
enum { POLL_TURNS_MIN = 4, POLL_TURNS_MAX = 4096 };
enum { NOTIFIERS_MAX = 16 };

struct QEMUBH {
    AioContext *ctx;
    LaioHostFunc cb;
    void *opaque;
    bool scheduled;
    bool deleted;
    QEMUBH *next;
};

typedef struct Notifier {
    GPollFD poll_fd;
    void (*io_read)(void *opaque);
    bool (*io_poll)(void *opaque);
    void (*io_poll_ready)(void *opaque);
    void *opaque;
    bool used;
} Notifier;

typedef struct LoopSource {
    GSource source;
    AioContext *ctx;
} LoopSource;

struct AioContext {
    GMainContext *main_context;
    GSource *source;
    QEMUBH *bhs;
    Notifier notifiers[NOTIFIERS_MAX];
    LinuxAioState *state;
    uint64_t max_batch;
    unsigned poll_turns;
    /* Calls of bottom halves on the stack: until they return, none is freed. */
    unsigned running;
    bool progress;
    HostCounts counts;
    pthread_mutex_t mutex;
    /* Of the thread that holds the lock. */
    unsigned lock_depth;
    pthread_t lock_owner;
    AioContext *outer_current;
};

static __thread AioContext *current_context;

static void die(const char *why)
{
    fprintf(stderr, "event loop: %s\n", why);
    abort();
}

/* Bottom halves. */

QEMUBH *loop_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    QEMUBH *bh = calloc(1, sizeof(*bh));
    if (bh) {
        *bh = (QEMUBH){.ctx = ctx, .cb = cb, .opaque = opaque, .next = ctx->bhs};
        ctx->bhs = bh;
    }
    return bh;
}

void loop_bh_schedule(QEMUBH *bh)
{
    if (bh->deleted) {
        die("a deleted bottom half was scheduled");
    }
    bh->scheduled = true;
}

void loop_bh_cancel(QEMUBH *bh)
{
    if (bh->deleted) {
        die("a deleted bottom half was cancelled");
    }
    bh->scheduled = false;
}

static void free_deleted_bhs(AioContext *ctx)
{
    QEMUBH **place = &ctx->bhs;
    while (*place) {
        QEMUBH *bh = *place;
        if (bh->deleted) {
            *place = bh->next;
            free(bh);
        } else {
            place = &bh->next;
        }
    }
}

void loop_bh_delete(QEMUBH *bh)
{
    AioContext *ctx = bh->ctx;
    loop_bh_cancel(bh);
    bh->deleted = true;
    if (ctx->running == 0) {
        free_deleted_bhs(ctx);
    }
}

static bool bh_pending(AioContext *ctx)
{
    for (QEMUBH *bh = ctx->bhs; bh; bh = bh->next) {
        if (bh->scheduled) {
            return true;
        }
    }
    return false;
}

static void run_bhs(AioContext *ctx)
{
    ctx->running++;
    for (QEMUBH *bh = ctx->bhs; bh; bh = bh->next) {
        if (bh->scheduled) {
            bh->scheduled = false;
            ctx->progress = true;
            ctx->counts.bh_calls++;
            bh->cb(bh->opaque);
        }
    }
    if (--ctx->running == 0) {
        free_deleted_bhs(ctx);
    }
}

/* Event notifiers. */

static Notifier *notifier_of(AioContext *ctx, int fd)
{
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        if (ctx->notifiers[i].used && ctx->notifiers[i].poll_fd.fd == fd) {
            return &ctx->notifiers[i];
        }
    }
    return NULL;
}

static Notifier *free_notifier(AioContext *ctx)
{
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        if (!ctx->notifiers[i].used) {
            return &ctx->notifiers[i];
        }
    }
    die("too many notifiers");
    return NULL;
}

void loop_set_event_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                             bool (*io_poll)(void *opaque), void (*io_poll_ready)(void *opaque),
                             void *opaque)
{
    bool waits = host->delivery != DELIVER_NEVER;
    Notifier *notifier = notifier_of(ctx, fd);
    if (!io_read) {
        if (!notifier || io_poll || io_poll_ready) {
            die("the end of an event notifier that was not set");
        }
        if (waits) {
            g_source_remove_poll(ctx->source, &notifier->poll_fd);
        }
        *notifier = (Notifier){0};
        return;
    }
    if (notifier || !io_poll || !io_poll_ready) {
        die("an event notifier that is set already, or incomplete");
    }
    notifier = free_notifier(ctx);
    *notifier = (Notifier){
        .poll_fd = {.fd = fd, .events = G_IO_IN},
        .io_read = io_read,
        .io_poll = io_poll,
        .io_poll_ready = io_poll_ready,
        .opaque = opaque,
        .used = true,
    };
    if (waits) {
        g_source_add_poll(ctx->source, &notifier->poll_fd);
    }
}

unsigned host_watched(AioContext *ctx)
{
    unsigned count = 0;
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        count += ctx->notifiers[i].used;
    }
    return count;
}

static bool fd_ready(AioContext *ctx)
{
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        if (ctx->notifiers[i].poll_fd.revents) {
            return true;
        }
    }
    return false;
}

static void run_notifiers(AioContext *ctx)
{
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        Notifier *notifier = &ctx->notifiers[i];
        if (!notifier->used || !notifier->poll_fd.revents) {
            continue;
        }
        notifier->poll_fd.revents = 0;
        ctx->progress = true;
        ctx->counts.eventfd_calls++;
        notifier->io_read(notifier->opaque);
        if (host->delivery == DELIVER_TWICE && notifier->used) {
            notifier->io_read(notifier->opaque);
        }
    }
}

static bool poll_notifiers(AioContext *ctx)
{
    bool ready = false;
    for (int i = 0; i < NOTIFIERS_MAX; i++) {
        Notifier *notifier = &ctx->notifiers[i];
        if (notifier->used && notifier->io_poll(notifier->opaque)) {
            ready = true;
            ctx->progress = true;
            ctx->counts.poll_ready_calls++;
            notifier->io_poll_ready(notifier->opaque);
        }
    }
    return ready;
}

/* The source. */

static gboolean source_prepare(GSource *source, gint *timeout_ms)
{
    AioContext *ctx = ((LoopSource *)source)->ctx;
    bool pending = bh_pending(ctx);
    *timeout_ms = pending ? 0 : HANG_MS;
    return pending;
}

static gboolean source_check(GSource *source)
{
    AioContext *ctx = ((LoopSource *)source)->ctx;
    return bh_pending(ctx) || fd_ready(ctx);
}

static gboolean source_dispatch(GSource *source, GSourceFunc callback, gpointer user_data)
{
    (void)callback;
    (void)user_data;
    AioContext *ctx = ((LoopSource *)source)->ctx;
    run_bhs(ctx);
    run_notifiers(ctx);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

/* Polls as long as the variant wants; whether that found something. */
static bool poll_before_waiting(AioContext *ctx)
{
    if (host->polling == POLL_NEVER) {
        return false;
    }
    gint64 give_up = g_get_monotonic_time() + HANG_MS * (gint64)1000;
    unsigned turns = ctx->poll_turns;
    while (host->polling == POLL_ONLY ? g_get_monotonic_time() < give_up : turns-- > 0) {
        if (poll_notifiers(ctx)) {
            ctx->poll_turns = MIN(ctx->poll_turns * 2, POLL_TURNS_MAX);
            return true;
        }
        if (bh_pending(ctx)) {
            return false;
        }
    }
    ctx->poll_turns = MAX(ctx->poll_turns / 2, POLL_TURNS_MIN);
    return false;
}

bool loop_poll(AioContext *ctx, bool blocking)
{
    AioContext *outer = current_context;
    unsigned lock_depth = ctx->lock_depth;
    gint64 give_up = g_get_monotonic_time() + HANG_MS * (gint64)1000;
    current_context = ctx;
    ctx->progress = false;
    do {
        if (bh_pending(ctx) || !blocking || !poll_before_waiting(ctx)) {
            g_main_context_iteration(ctx->main_context, blocking);
        }
        if (!blocking && host->polling != POLL_NEVER) {
            poll_notifiers(ctx);
        }
    } while (blocking && !ctx->progress && g_get_monotonic_time() < give_up);
    bool progress = ctx->progress;
    ctx->progress = true; /* For the turn around this one, if there is one. */
    current_context = outer;
    if (lock_depth != ctx->lock_depth) {
        die("the lock was not released as often as acquired");
    }
    return progress;
}

/* The lock. */

void host_lock(AioContext *ctx)
{
    pthread_mutex_lock(&ctx->mutex);
    ctx->lock_depth++;
    ctx->lock_owner = pthread_self();
    ctx->counts.lock_acquisitions++;
}

void host_unlock(AioContext *ctx)
{
    if (ctx->lock_depth == 0 || !pthread_equal(ctx->lock_owner, pthread_self())) {
        die("a lock was released by who does not hold it");
    }
    ctx->lock_depth--;
    pthread_mutex_unlock(&ctx->mutex);
}

/* Contexts. */

AioContext *loop_new(void)
{
    AioContext *ctx = calloc(1, sizeof(*ctx));
    if (!ctx) {
        die("no memory");
    }
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&ctx->mutex, &recursive);
    pthread_mutexattr_destroy(&recursive);
    ctx->poll_turns = POLL_TURNS_MIN;
    ctx->main_context = g_main_context_new();
    ctx->source = g_source_new(&source_funcs, sizeof(LoopSource));
    ((LoopSource *)ctx->source)->ctx = ctx;
    g_source_set_can_recurse(ctx->source, TRUE);
    g_source_attach(ctx->source, ctx->main_context);
    ctx->outer_current = current_context;
    current_context = ctx;
    return ctx;
}

void loop_free(AioContext *ctx)
{
    if (ctx->bhs || ctx->running || ctx->lock_depth || host_watched(ctx)) {
        die("freed while it is in use");
    }
    if (current_context == ctx) {
        current_context = ctx->outer_current;
    }
    g_source_destroy(ctx->source);
    g_source_unref(ctx->source);
    g_main_context_unref(ctx->main_context);
    pthread_mutex_destroy(&ctx->mutex);
    free(ctx);
}

AioContext *loop_current(void)
{
    return current_context;
}

void host_set_current(AioContext *ctx)
{
    current_context = ctx;
}

LinuxAioState *loop_state(AioContext *ctx)
{
    return ctx->state;
}

void host_set_state(AioContext *ctx, LinuxAioState *s)
{
    if (!host->builtin) {
        ctx->state = s;
    }
}

uint64_t loop_max_batch(AioContext *ctx)
{
    return ctx->max_batch;
}

void host_set_max_batch(AioContext *ctx, uint64_t max_batch)
{
    if (!host->builtin) {
        ctx->max_batch = max_batch;
    }
}

HostCounts host_counts(AioContext *ctx)
{
    return ctx->counts;
}
