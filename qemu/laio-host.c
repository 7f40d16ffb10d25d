/*
 * QEMU as a host of liblaio, in place of block/linux-aio.c; with
 * block/luring-host.c beside it, in place of block/io_uring.c as well
 *
 * Part of laio; qemu/apply.sh puts it into a QEMU source tree and writes
 * include/block/laio-tree.h beside it, from what the tree declares. That
 * header
 *
 * - gives another name to each function that block/raw-aio.h declares with
 *   other prototypes than liblaio's, or that has to do more here than there.
 *   The aborting functions in stubs/linux-aio.c get the new names as well,
 *   so that the linker chooses between them and this file as it always did,
 *   and never between them and liblaio;
 * - says which of QEMU's generations this is, in the LAIO_TREE_* macros.
 *
 * Everything in which the generations differ is in the section of that name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "block/raw-aio.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/error-report.h"
#include "qemu/event_notifier.h"
#include "qemu/thread.h"
#ifdef LAIO_TREE_DEFER_CALL
#include "qemu/defer-call.h"
#endif
#ifdef LAIO_TREE_BLK_IO_PLUG_CALL
#include "sysemu/block-backend.h"
#endif
#include "laio-host.h"

/* The generations */

#ifdef LAIO_TREE_IS_EXTERNAL
/*
 * The guest's requests must not be completed late because it is kept from
 * making more.
 */
#define NOT_EXTERNAL false,
#else
#define NOT_EXTERNAL
#endif

#if defined(LAIO_TREE_DEFER_CALL)
#define DEFER_HOOKS                  \
    .defer_begin = defer_call_begin, \
    .defer_call = defer_call,        \
    .defer_end = defer_call_end,
#elif defined(LAIO_TREE_BLK_IO_PLUG_CALL)
#define DEFER_HOOKS                 \
    .defer_begin = blk_io_plug,     \
    .defer_call = blk_io_plug_call, \
    .defer_end = blk_io_unplug,
#else
#define DEFER_HOOKS
#endif

#ifdef LAIO_TREE_CONTEXT_LOCK
#define LOCK_HOOKS                          \
    .context_acquire = aio_context_acquire, \
    .context_release = aio_context_release,
#else
#define LOCK_HOOKS
#endif

/*
 * Without flags there is no BDRV_REQ_FUA: the block layer then flushes after
 * the write.
 */
#if defined(LAIO_TREE_SUBMIT_STATE)
int coroutine_fn qemu_laio_co_submit(BlockDriverState *bs, LinuxAioState *s,
                                     int fd, uint64_t offset,
                                     QEMUIOVector *qiov, int type,
                                     uint64_t dev_max_batch)
{
    return laio_state_co_submit(s, fd, offset, qiov, type, 0, dev_max_batch);
}
#elif defined(LAIO_TREE_SUBMIT_WITHOUT_FLAGS)
int coroutine_fn qemu_laio_co_submit(int fd, uint64_t offset,
                                     QEMUIOVector *qiov, int type,
                                     uint64_t dev_max_batch)
{
    return laio_co_submit(fd, offset, qiov, type, 0, dev_max_batch);
}
#endif

#ifdef LAIO_TREE_PLUG_STATE
void qemu_laio_io_plug(BlockDriverState *bs, LinuxAioState *s)
{
    laio_state_io_plug(s);
}

void qemu_laio_io_unplug(BlockDriverState *bs, LinuxAioState *s,
                         uint64_t dev_max_batch)
{
    laio_state_io_unplug(s, dev_max_batch);
}
#endif

/* Event notifiers */

/* A state's eventfd, as QEMU's event loops know it. */
typedef struct LaioNotifier {
    EventNotifier e; /* wraps the library's descriptor */
    void (*io_read)(void *opaque);
    bool (*io_poll)(void *opaque);
    void (*io_poll_ready)(void *opaque);
    void *opaque;
    QLIST_ENTRY(LaioNotifier) next;
} LaioNotifier;

/*
 * Protects the two lists: states are attached and detached by several threads.
 */
static QemuMutex lock;
static QLIST_HEAD(, LaioNotifier) notifiers = QLIST_HEAD_INITIALIZER(notifiers);

static void notifier_read(EventNotifier *e)
{
    LaioNotifier *n = container_of(e, LaioNotifier, e);

    n->io_read(n->opaque);
}

/*
 * QEMU's event loops hand the EventNotifier to all three handlers, untyped to
 * this one.
 */
static bool notifier_poll(void *opaque)
{
    LaioNotifier *n = container_of((EventNotifier *)opaque, LaioNotifier, e);

    return n->io_poll(n->opaque);
}

static void notifier_poll_ready(EventNotifier *e)
{
    LaioNotifier *n = container_of(e, LaioNotifier, e);

    n->io_poll_ready(n->opaque);
}

static void notifier_add(LaioNotifier *n)
{
    qemu_mutex_lock(&lock);
    QLIST_INSERT_HEAD(&notifiers, n, next);
    qemu_mutex_unlock(&lock);
}

static LaioNotifier *notifier_take(int fd)
{
    LaioNotifier *n;

    qemu_mutex_lock(&lock);
    QLIST_FOREACH(n, &notifiers, next) {
        if (event_notifier_get_fd(&n->e) == fd) {
            QLIST_REMOVE(n, next);
            break;
        }
    }
    qemu_mutex_unlock(&lock);
    return n;
}

static void host_set_event_notifier(AioContext *ctx, int fd,
                                    void (*io_read)(void *opaque),
                                    bool (*io_poll)(void *opaque),
                                    void (*io_poll_ready)(void *opaque),
                                    void *opaque)
{
    LaioNotifier *n;

    if (io_read) {
        n = g_new0(LaioNotifier, 1);
        event_notifier_init_fd(&n->e, fd);
        n->io_read = io_read;
        n->io_poll = io_poll;
        n->io_poll_ready = io_poll_ready;
        n->opaque = opaque;
        notifier_add(n);
        aio_set_event_notifier(ctx, &n->e, NOT_EXTERNAL notifier_read,
                               notifier_poll, notifier_poll_ready);
        return;
    }
    n = notifier_take(fd);
    if (n) {
        aio_set_event_notifier(ctx, &n->e, NOT_EXTERNAL NULL, NULL, NULL);
        /*
         * Not event_notifier_cleanup(): the descriptor is the library's. QEMU's
         * handler may stay in its list for a while, but is not called, and its
         * opaque not looked at, after it was removed.
         */
        g_free(n);
    }
}

/* The other hooks */

static QEMUBH *host_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    return aio_bh_new(ctx, cb, opaque);
}

static uint64_t host_aio_max_batch(AioContext *ctx)
{
    return ctx->aio_max_batch;
}

static void host_error_set(Error **errp, int os_errno, const char *message)
{
    error_setg_errno(errp, os_errno, "%s", message);
}

static void host_log(const char *line)
{
    error_report("%s", line);
}

static const LaioHostOps host_ops = {
    .size = sizeof(LaioHostOps),
    .bh_new = host_bh_new,
    .bh_schedule = qemu_bh_schedule,
    .bh_cancel = qemu_bh_cancel,
    .bh_delete = qemu_bh_delete,
    .set_event_notifier = host_set_event_notifier,
    .coroutine_self = qemu_coroutine_self,
    .coroutine_yield = qemu_coroutine_yield,
    .coroutine_entered = qemu_coroutine_entered,
    .coroutine_wake = aio_co_wake,
    DEFER_HOOKS
    .current_aio_context = qemu_get_current_aio_context,
    .linux_aio_state = aio_get_linux_aio,
    .aio_max_batch = host_aio_max_batch,
    LOCK_HOOKS
    .error_set = host_error_set,
    .log = host_log,
};

/*
 * Statistics at exit, for tests and the curious: only with LAIO_STATS=1 in the
 * environment. The line is that of the preload library's engine mode, but for
 * the name in front.
 */

typedef struct LaioKnownState {
    LinuxAioState *s;
    QLIST_ENTRY(LaioKnownState) next;
} LaioKnownState;

static bool stats_wanted;
static QLIST_HEAD(, LaioKnownState) states = QLIST_HEAD_INITIALIZER(states);
static LaioStats total;
static unsigned number_of_states, on_io_uring;

static void stats_add(const LinuxAioState *s)
{
    LaioStats one = { .size = sizeof(one) };

    laio_state_get_stats(s, &one);
    total.submitted += one.submitted;
    total.completed += one.completed;
    total.failed += one.failed;
    total.retried += one.retried;
    total.io_submit_calls += one.io_submit_calls;
    total.largest_batch = MAX(total.largest_batch, one.largest_batch);
    total.eagain += one.eagain;
    total.at_bound += one.at_bound;
    total.bh_resumptions += one.bh_resumptions;
    total.deepest_nesting = MAX(total.deepest_nesting, one.deepest_nesting);
    total.in_queue += one.in_queue;
    total.in_flight += one.in_flight;
    on_io_uring += one.kernel == LAIO_KERNEL_IO_URING;
}

static void stats_note_state(LinuxAioState *s)
{
    LaioKnownState *known = g_new0(LaioKnownState, 1);

    known->s = s;
    qemu_mutex_lock(&lock);
    QLIST_INSERT_HEAD(&states, known, next);
    number_of_states++;
    qemu_mutex_unlock(&lock);
}

static void stats_forget_state(LinuxAioState *s)
{
    LaioKnownState *known, *following;

    qemu_mutex_lock(&lock);
    QLIST_FOREACH_SAFE(known, &states, next, following) {
        if (known->s == s) {
            stats_add(s);
            QLIST_REMOVE(known, next);
            g_free(known);
        }
    }
    qemu_mutex_unlock(&lock);
}

/*
 * QEMU's tools leave their main loop's state, and sometimes an iothread's, to
 * the end of the process. An iothread that is still at work then may be a few
 * requests ahead of what is printed.
 */
static void stats_print(void)
{
    LaioKnownState *known;

    qemu_mutex_lock(&lock);
    QLIST_FOREACH(known, &states, next) {
        stats_add(known->s);
    }
    fprintf(stderr,
            "laio[%d]: engine: %" PRIu64 " requests in %" PRIu64 " submissions,"
            " deepest nesting %" PRIu64 ", %" PRIu64 " times at the bound; "
            "%u states (%u linux-aio, %u io_uring), %" PRIu64
            " completed, %" PRIu64 " failed, %" PRIu64
            " retried, %" PRIu64 " in queue, %" PRIu64 " in flight, largest"
            " batch %" PRIu64 ", %" PRIu64 " times EAGAIN, %" PRIu64
            " times resumed by completion_bh\n",
            (int)getpid(), total.submitted, total.io_submit_calls,
            total.deepest_nesting, total.at_bound, number_of_states,
            number_of_states - on_io_uring, on_io_uring, total.completed,
            total.failed, total.retried, total.in_queue, total.in_flight,
            total.largest_batch, total.eagain, total.bh_resumptions);
    qemu_mutex_unlock(&lock);
}

/* What block/laio-host.h declares */

/*
 * The first state gives the library its hooks. A constructor would do it
 * earlier, but this file may come out of a static library, and then is linked
 * because someone calls a function of it.
 */
static int set_host_ops_once(void)
{
    static gsize done;
    static int result;

    if (g_once_init_enter(&done)) {
        const char *stats = g_getenv("LAIO_STATS");

        qemu_mutex_init(&lock);
        result = laio_set_host_ops(&host_ops);
        stats_wanted = stats && g_str_equal(stats, "1");
        if (stats_wanted) {
            atexit(stats_print);
        }
        g_once_init_leave(&done, 1);
    }
    return result;
}

LinuxAioState *laio_host_new_state(unsigned kernel, Error **errp)
{
    LinuxAioState *s;
    int ret = set_host_ops_once();

    if (ret < 0) {
        error_setg_errno(errp, -ret, "liblaio does not take QEMU's hooks");
        return NULL;
    }
    s = laio_init_kernel(kernel, errp);
    if (s && stats_wanted) {
        stats_note_state(s);
    }
    return s;
}

void laio_host_free_state(LinuxAioState *s)
{
    if (stats_wanted) {
        stats_forget_state(s);
    }
    laio_cleanup(s);
}

/* What block/raw-aio.h declares, under its new names */

LinuxAioState *qemu_laio_init(Error **errp)
{
    return laio_host_new_state(LAIO_KERNEL_AUTO, errp);
}

void qemu_laio_cleanup(LinuxAioState *s)
{
    laio_host_free_state(s);
}

void qemu_laio_attach_aio_context(LinuxAioState *s, AioContext *new_context)
{
    laio_attach_aio_context(s, new_context);
}

void qemu_laio_detach_aio_context(LinuxAioState *s, AioContext *old_context)
{
    laio_detach_aio_context(s, old_context);
}
