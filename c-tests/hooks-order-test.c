/*
 * Hooks may run code that calls the library, at whatever moment the library calls them. One that
 * did so found a state that was half changed: a bottom half deleted twice, a detach within a
 * detach, a coroutine woken that had ended in between. Here each hook does each deed once, before
 * or after what it is there for, at its first, second, ... call, while a state is attached, used,
 * detached and freed; all requests that were accepted complete once, and nothing is left in the
 * event loop.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 6, CALLS_MAX = 6, HANG_SECONDS = 150 };

typedef enum Hook {
    BH_NEW,
    BH_SCHEDULE,
    BH_CANCEL,
    BH_DELETE,
    NOTIFIER_SET,
    NOTIFIER_ENDED,
    DEFER_BEGIN,
    DEFER_CALL,
    DEFER_END,
    ACQUIRE,
    RELEASE,
    WAKE,
    HOOKS,
} Hook;

typedef enum Deed {
    SUBMIT,
    CO_SUBMIT,
    PLUG,
    POLL,
    WAKE_ALL, /* that wait; some have their result, and end */
    DETACH,
    ATTACH,
    REATTACH,
    CLEAN_UP,
    DEEDS,
} Deed;

static const char *const hook_names[HOOKS] = {
    "bh_new",          "bh_schedule",        "bh_cancel",
    "bh_delete",       "set_event_notifier", "set_event_notifier(NULL)",
    "defer_begin",     "defer_call",         "defer_end",
    "context_acquire", "context_release",    "coroutine_wake",
};
static const char *const deed_names[DEEDS] = {
    "submit", "co_submit", "plug", "poll", "wake all", "detach", "attach", "reattach", "clean up",
};

typedef struct Sleeper {
    Coroutine *co;
    Io io;
    bool waits;
    bool wake_pending;
} Sleeper;

/* One request more for the deed. */
typedef struct Scene {
    Rig rig;
    int fd;
    char *buffer;
    Io ios[COUNT + 1];
    unsigned started;
    Sleeper sleepers[COUNT + 1];
    unsigned slept;
    bool freed;
} Scene;

static Scene scene;
static LaioHostOps real;

/* What is to be done, once. */
static bool armed;
static Hook at_hook;
static Deed deed;
static bool afterwards;
static unsigned calls_before;

/* Requests. */

static void start_one(void)
{
    Io *io = &scene.ios[scene.started];
    unsigned hole = scene.started % 2 ? COUNT : 0;
    if (scene.freed || scene.started > COUNT) {
        return;
    }
    *io = io_of(QEMU_AIO_READ, scene.fd, hole * BLOCK, scene.buffer, BLOCK);
    scene.started++;
    int result = laio_state_submit(scene.rig.state, io->fd, io->offset, &io->one, 1, io->type, 0, 0,
                                   io_completed, io);
    if (result != 0) {
        CHECK_EQ(result, -ENOTCONN);
        CHECK_EQ(io->completions, 0);
        io->completions = 1;
    }
}

static void co_sleep(void *opaque)
{
    Sleeper *sleeper = opaque;
    sleeper->waits = true;
    int result = way_co_submit(WAY_STATE, scene.rig.state, &sleeper->io);
    sleeper->waits = false;
    sleeper->wake_pending = false;
    if (result != 0) {
        CHECK_EQ(result, -ENOTCONN);
    }
    io_completed(&sleeper->io, result);
}

static void start_coroutine(void)
{
    Sleeper *sleeper = &scene.sleepers[scene.slept];
    unsigned hole = scene.slept % 2 ? COUNT : 0;
    if (scene.freed || scene.slept > COUNT) {
        return;
    }
    scene.slept++;
    *sleeper = (Sleeper){.io = io_of(QEMU_AIO_READ, scene.fd, hole * BLOCK, scene.buffer, BLOCK)};
    sleeper->co = coroutine_new(co_sleep, sleeper);
    coroutine_enter(sleeper->co);
}

static bool all_done(void)
{
    for (unsigned i = 0; i < scene.started; i++) {
        if (scene.ios[i].completions == 0) {
            return false;
        }
    }
    for (unsigned i = 0; i < scene.slept; i++) {
        if (scene.sleepers[i].io.completions == 0) {
            return false;
        }
    }
    return true;
}

/* Deeds. */

static void wake_all(void)
{
    for (unsigned i = 0; i < scene.slept; i++) {
        Sleeper *sleeper = &scene.sleepers[i];
        if (sleeper->waits && !sleeper->wake_pending && !coroutine_entered(sleeper->co) &&
            sleeper->co != coroutine_self()) {
            coroutine_enter(sleeper->co);
        }
    }
}

/* Whether the library has refused to free the state. */
static bool clean_up(void)
{
    free(test_take_log());
    valve_release();
    laio_cleanup(scene.rig.state);
    char *log = test_take_log();
    bool refused = false;
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n")) {
        refused |= strstr(line, "laio_cleanup: ") && !strstr(line, "waiting for");
    }
    free(log);
    return refused;
}

/* Where the state was, others are now. */
static void reuse_memory(void)
{
    char *memory[64];
    for (unsigned i = 0; i < 64; i++) {
        memory[i] = malloc(16 * (i + 1));
        CHECK(memory[i]);
        memset(memory[i], 0x41, 16 * (i + 1));
    }
    for (unsigned i = 0; i < 64; i++) {
        free(memory[i]);
    }
}

static void do_deed(void)
{
    LinuxAioState *s = scene.rig.state;
    AioContext *ctx = scene.rig.ctx;
    switch (deed) {
    case SUBMIT:
        start_one();
        break;
    case CO_SUBMIT:
        start_coroutine();
        break;
    case PLUG:
        laio_state_io_plug(s);
        start_one();
        laio_state_io_unplug(s, 0);
        break;
    case POLL:
        host_poll(ctx, false);
        break;
    case WAKE_ALL:
        wake_all();
        break;
    case DETACH:
        laio_detach_aio_context(s, ctx);
        break;
    case ATTACH:
        laio_attach_aio_context(s, ctx);
        break;
    case REATTACH:
        laio_detach_aio_context(s, ctx);
        laio_attach_aio_context(s, ctx);
        break;
    default:
        if (!clean_up()) {
            scene.freed = true;
            CHECK(all_done());
            reuse_memory();
        }
    }
}

static void meddle(Hook hook, bool after)
{
    if (!armed || hook != at_hook || after != afterwards) {
        return;
    }
    if (calls_before > 0) {
        calls_before--;
        return;
    }
    armed = false;
    do_deed();
}

/* Hooks. */

static QEMUBH *meddling_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque)
{
    meddle(BH_NEW, false);
    QEMUBH *bh = real.bh_new(ctx, cb, opaque);
    meddle(BH_NEW, true);
    return bh;
}

/* What the deed has deleted, the hook leaves alone. */
typedef struct BhCall {
    QEMUBH *bh;
    struct BhCall *outer;
} BhCall;

static BhCall *bh_calls;

static QEMUBH *meddle_before(Hook hook, QEMUBH *bh)
{
    BhCall call = {bh, bh_calls};
    bh_calls = &call;
    meddle(hook, false);
    bh_calls = call.outer;
    return call.bh;
}

static void meddling_bh_schedule(QEMUBH *bh)
{
    bh = meddle_before(BH_SCHEDULE, bh);
    if (bh) {
        real.bh_schedule(bh);
    }
    meddle(BH_SCHEDULE, true);
}

static void meddling_bh_cancel(QEMUBH *bh)
{
    bh = meddle_before(BH_CANCEL, bh);
    if (bh) {
        real.bh_cancel(bh);
    }
    meddle(BH_CANCEL, true);
}

static void meddling_bh_delete(QEMUBH *bh)
{
    meddle(BH_DELETE, false);
    real.bh_delete(bh);
    for (BhCall *call = bh_calls; call; call = call->outer) {
        call->bh = call->bh == bh ? NULL : call->bh;
    }
    meddle(BH_DELETE, true);
}

static void meddling_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                              bool (*io_poll)(void *opaque), void (*io_poll_ready)(void *opaque),
                              void *opaque)
{
    Hook hook = io_read ? NOTIFIER_SET : NOTIFIER_ENDED;
    meddle(hook, false);
    real.set_event_notifier(ctx, fd, io_read, io_poll, io_poll_ready, opaque);
    meddle(hook, true);
}

static void meddling_begin(void)
{
    meddle(DEFER_BEGIN, false);
    real.defer_begin();
    meddle(DEFER_BEGIN, true);
}

static void meddling_call(LaioHostFunc cb, void *opaque)
{
    meddle(DEFER_CALL, false);
    real.defer_call(cb, opaque);
    meddle(DEFER_CALL, true);
}

static void meddling_end(void)
{
    meddle(DEFER_END, false);
    real.defer_end();
    meddle(DEFER_END, true);
}

static void meddling_acquire(AioContext *ctx)
{
    meddle(ACQUIRE, false);
    real.context_acquire(ctx);
    meddle(ACQUIRE, true);
}

static void meddling_release(AioContext *ctx)
{
    meddle(RELEASE, false);
    real.context_release(ctx);
    meddle(RELEASE, true);
}

static Sleeper *sleeper_of(Coroutine *co)
{
    for (unsigned i = scene.slept; i > 0; i--) {
        if (scene.sleepers[i - 1].co == co) {
            return &scene.sleepers[i - 1];
        }
    }
    FAIL("a coroutine is woken that there is not");
}

static void meddling_wake(Coroutine *co)
{
    Sleeper *sleeper = sleeper_of(co);
    if (!sleeper->waits) {
        FAIL("a coroutine is woken that has ended");
    }
    sleeper->wake_pending = true;
    meddle(WAKE, false);
    real.coroutine_wake(co);
    meddle(WAKE, true);
}

/* What is done to a state in its life. */

static void use(void)
{
    /* Some complete when the event loop runs and nothing else is going on. */
    valve_set(VALVE_HOLD, -1);
    start_coroutine();
    start_one();
    valve_release();
    for (int i = 0; i < 2 && !scene.freed; i++) {
        host_poll(scene.rig.ctx, false);
    }
    if (scene.freed) {
        return;
    }
    laio_state_io_plug(scene.rig.state);
    start_one();
    start_coroutine();
    if (scene.freed) {
        return;
    }
    laio_state_io_unplug(scene.rig.state, 0);
    host_poll(scene.rig.ctx, false);
}

static void live(void)
{
    laio_attach_aio_context(scene.rig.state, scene.rig.ctx);
    if (scene.freed) {
        return;
    }
    use();
    if (scene.freed) {
        return;
    }
    laio_detach_aio_context(scene.rig.state, scene.rig.ctx);
    if (scene.freed) {
        return;
    }
    laio_attach_aio_context(scene.rig.state, scene.rig.ctx);
    if (scene.freed) {
        return;
    }
    use();
}

static void finish(void)
{
    for (unsigned turns = 0; !all_done(); turns++) {
        if (turns == 100) {
            FAIL("requests are left behind");
        }
        if (!host_poll(scene.rig.ctx, turns > 10 && host_watched(scene.rig.ctx))) {
            /* Perhaps it is detached; if it is not, this is refused. */
            laio_attach_aio_context(scene.rig.state, scene.rig.ctx);
        }
    }
    for (int i = 0; i < 3 && !scene.freed; i++) {
        host_poll(scene.rig.ctx, false);
    }
}

/* Whether the deed was done. */
static bool scene_run(void)
{
    int fd = scene.fd;
    char *buffer = scene.buffer;
    scene = (Scene){.rig = {host_context_new(), state_new()}, .fd = fd, .buffer = buffer};
    valve_set(VALVE_OPEN, -1);
    armed = true;
    live();
    if (!scene.freed) {
        finish();
    }
    if (!scene.freed) {
        /* The state has its own deed pending for this one. */
        laio_detach_aio_context(scene.rig.state, scene.rig.ctx);
    }
    if (!scene.freed) {
        laio_attach_aio_context(scene.rig.state, scene.rig.ctx);
    }
    if (!scene.freed) {
        laio_cleanup(scene.rig.state);
        scene.freed = true;
    }
    bool done = !armed;
    armed = false;
    reuse_memory();
    host_poll(scene.rig.ctx, false);
    for (unsigned i = 0; i < scene.started; i++) {
        CHECK_EQ(scene.ios[i].completions, 1);
        CHECK_EQ(scene.ios[i].ret, 0);
    }
    for (unsigned i = 0; i < scene.slept; i++) {
        CHECK_EQ(scene.sleepers[i].io.completions, 1);
    }
    CHECK_EQ(host_watched(scene.rig.ctx), 0);
    host_context_free(scene.rig.ctx);
    free(test_take_log());
    return done;
}

/* In a process of its own. */
static void meddle_with(Hook hook, Deed what)
{
    const struct rlimit none = {0};
    CHECK_EQ(setrlimit(RLIMIT_CORE, &none), 0);
    test_watch(HANG_SECONDS);
    at_hook = hook;
    deed = what;
    for (int after = 0; after < 2; after++) {
        bool done = true;
        for (unsigned call = 0; done && call < test_scaled(CALLS_MAX, 2); call++) {
            test_context("%s, %s, call %u of the hook, %s", hook_names[hook], deed_names[what],
                         call, after ? "after" : "before");
            afterwards = after;
            calls_before = call;
            done = scene_run();
        }
    }
    coroutine_thread_done();
}

static void meddling_start(unsigned bit)
{
    host = &host_variants[__builtin_ctz(bit)];
    real = host_ops(host);
    LaioHostOps ops = real;
    ops.bh_new = meddling_bh_new;
    ops.bh_schedule = meddling_bh_schedule;
    ops.bh_cancel = meddling_bh_cancel;
    ops.bh_delete = meddling_bh_delete;
    ops.set_event_notifier = meddling_notifier;
    ops.coroutine_wake = meddling_wake;
    if (real.defer_begin) {
        ops.defer_begin = meddling_begin;
        ops.defer_call = meddling_call;
        ops.defer_end = meddling_end;
    }
    if (real.context_acquire) {
        ops.context_acquire = meddling_acquire;
        ops.context_release = meddling_release;
    }
    CHECK_EQ(laio_set_host_ops(&ops), 0);
}

static void each_deed(unsigned bit)
{
    unsigned failed = 0;
    meddling_start(bit);
    scene.fd = test_file(0);
    scene.buffer = aligned_buffer(BLOCK);
    CHECK_EQ(pwrite(scene.fd, scene.buffer, BLOCK, 0), BLOCK);
    CHECK_EQ(ftruncate(scene.fd, 2 * COUNT * BLOCK), 0);
    for (Hook hook = BH_NEW; hook < HOOKS; hook++) {
        for (Deed what = SUBMIT; what < DEEDS; what++) {
            fflush(NULL);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                meddle_with(hook, what);
                free(scene.buffer);
                _exit(0);
            }
            int status;
            CHECK_EQ(waitpid(child, &status, 0), child);
            if (status != 0) {
                failed++;
            }
        }
    }
    free(scene.buffer);
    close(scene.fd);
    free(test_take_log());
    CHECK_EQ(failed, 0);
}

static void hooks_meddle_in_qemu(void)
{
    each_deed(HOST_QEMU);
}

static void hooks_meddle_in_plain(void)
{
    each_deed(HOST_PLAIN);
}

static void hooks_meddle_in_lock(void)
{
    each_deed(HOST_LOCK);
}

static const TestCase cases[] = {
    {"hooks call the library at any moment, in qemu", hooks_meddle_in_qemu, 0},
    {"hooks call the library at any moment, in plain", hooks_meddle_in_plain, 0},
    {"hooks call the library at any moment, in lock", hooks_meddle_in_lock, 0},
};

TEST_MAIN(cases)
