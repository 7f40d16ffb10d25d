/*
 * What bad input gets: an errno, or a line that names the function and the reason; and nothing is
 * lost.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

static char buffer[BLOCK];

/* The rig still works, and the refused requests are counted nowhere. */
static void check_unharmed(Rig rig)
{
    LaioStats before = state_stats(rig.state);
    CHECK_EQ(before.submitted, before.completed);
    int fd = test_file(0);
    CHECK_EQ(write(fd, buffer, BLOCK), BLOCK);
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_READ, fd, 0, buffer, BLOCK);
        CHECK_EQ(way_do(way, rig, &io), 0);
        before.submitted++;
    }
    CHECK_EQ(state_stats(rig.state).submitted, before.submitted);
    CHECK_EQ(state_stats(rig.state).completed, before.submitted);
    close(fd);
}

/* The result of a request in each of its ways, which must be the same; none reaches the state. */
typedef struct Attempt {
    LinuxAioState *state;
    int fd;
    uint64_t offset;
    QEMUIOVector *qiov;
    int type;
    Way way;
    int answer;
} Attempt;

static void co_attempt(void *opaque)
{
    Attempt *a = opaque;
    a->answer = a->way == WAY_STATE
                    ? laio_state_co_submit(a->state, a->fd, a->offset, a->qiov, a->type, 0, 0)
                    : laio_co_submit(a->fd, a->offset, a->qiov, a->type, 0, 0);
}

static void must_not_complete(void *opaque, int ret)
{
    (void)opaque;
    FAIL("a request that was refused completes with %d", ret);
}

static int attempt(Rig rig, Way way, int fd, uint64_t offset, QEMUIOVector *qiov, int type)
{
    Attempt a = {rig.state, fd, offset, qiov, type, way, 1};
    if (way == WAY_CALLBACK) {
        a.answer = laio_state_submit(rig.state, fd, offset, qiov ? qiov->iov : NULL,
                                     qiov ? qiov->niov : 0, type, 0, 0, must_not_complete, NULL);
    } else if (host->builtin) {
        co_attempt(&a);
    } else {
        coroutine_enter(coroutine_new(co_attempt, &a));
    }
    CHECK_LE(a.answer, 0);
    return a.answer;
}

static void nonsense_is_einval(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    struct iovec good = {buffer, BLOCK}, empty = {NULL, 0};
    struct iovec half[] = {{buffer, SSIZE_MAX / 2 + 1}, {buffer, SSIZE_MAX / 2 + 1}};
    struct iovec wraps[] = {{buffer, SIZE_MAX}, {buffer, BLOCK + 1}};
    QEMUIOVector one = {.iov = &good, .niov = 1};
    one.size = BLOCK;
    QEMUIOVector no_array = {.iov = NULL, .niov = 1};
    no_array.size = BLOCK;
    QEMUIOVector no_parts = {.iov = &good, .niov = 0};
    no_parts.size = 0;
    QEMUIOVector negative = {.iov = &good, .niov = -1};
    negative.size = BLOCK;
    QEMUIOVector too_long = {.iov = half, .niov = 2};
    too_long.size = (size_t)SSIZE_MAX + 1;
    QEMUIOVector wrapped = {.iov = wraps, .niov = 2};
    wrapped.size = BLOCK;
    FOR_EACH_WAY(way) {
        CHECK_EQ(attempt(rig, way, fd, 0, NULL, QEMU_AIO_READ), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, NULL, QEMU_AIO_ZONE_APPEND), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, &no_array, QEMU_AIO_WRITE), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, &no_parts, QEMU_AIO_WRITE), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, &negative, QEMU_AIO_READ), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, &too_long, QEMU_AIO_READ), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, 0, &wrapped, QEMU_AIO_READ), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, INT64_MAX, &one, QEMU_AIO_READ), -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, (uint64_t)INT64_MAX - BLOCK + 1, &one, QEMU_AIO_READ),
                 -EINVAL);
        CHECK_EQ(attempt(rig, way, fd, UINT64_MAX, &one, QEMU_AIO_WRITE), -EINVAL);
        const int types[] = {0, 4, 0x10, QEMU_AIO_READ | QEMU_AIO_WRITE, -1, INT_MAX, INT_MIN};
        for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
            CHECK_EQ(attempt(rig, way, fd, 0, &one, types[i]), -EINVAL);
        }
        CHECK_EQ(attempt(rig, way, -1, 0, &one, QEMU_AIO_READ), -EBADF);
        CHECK_EQ(attempt(rig, way, INT_MIN, 0, &one, QEMU_AIO_WRITE), -EBADF);
        CHECK_EQ(attempt(rig, way, -1, 0, NULL, QEMU_AIO_FLUSH), -EBADF);
        if (way != WAY_CALLBACK) {
            one.size = BLOCK - 1;
            CHECK_EQ(attempt(rig, way, fd, 0, &one, QEMU_AIO_READ), -EINVAL);
            one.size = BLOCK;
        }
    }
    CHECK_EQ(state_stats(rig.state).submitted, 0);
    CHECK_EQ(laio_state_submit(rig.state, fd, 0, &good, 1, QEMU_AIO_READ, 0, 0, NULL, NULL),
             -EINVAL);
    /* A part may be empty, and so may all. */
    FOR_EACH_WAY(way) {
        Io io = io_of(QEMU_AIO_READ, fd, 0, NULL, 0);
        io.one = empty;
        CHECK_EQ(way_do(way, rig, &io), 0);
    }
    close(fd);
    check_unharmed(rig);
    rig_free(rig);
}

/* A program may have been compiled against another version's statistics. */
static void statistics_have_the_size_that_the_caller_says(void)
{
    Rig rig = rig_new();
    struct {
        LaioStats stats;
        unsigned char more[16];
    } later;
    memset(&later, 0xff, sizeof(later));
    later.stats.size = sizeof(later) - 8;
    laio_state_get_stats(rig.state, &later.stats);
    CHECK_EQ(later.stats.size, sizeof(later) - 8);
    CHECK_EQ(later.stats.submitted, 0);
    for (size_t i = 0; i < sizeof(later.more); i++) {
        CHECK_EQ(later.more[i], i < 8 ? 0 : 0xff);
    }
    for (size_t size = 0; size < sizeof(LaioStats); size += sizeof(LaioStats) - 1) {
        memset(&later, 0xff, sizeof(later));
        later.stats.size = size;
        laio_state_get_stats(rig.state, &later.stats);
        EXPECT_LOG("laio_state_get_stats: the size in the statistics is too small; set it to "
                   "sizeof(LaioStats)");
        CHECK_EQ(later.stats.size, size);
        CHECK_EQ(later.stats.submitted, UINT64_MAX);
    }
    rig_free(rig);
}

static void a_null_state_is_refused(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    LaioStats stats = {.size = sizeof(stats)};
    struct iovec iov = {buffer, BLOCK};
    QEMUIOVector qiov = {.iov = &iov, .niov = 1};
    qiov.size = BLOCK;
    CHECK_EQ(laio_state_submit(NULL, fd, 0, &iov, 1, QEMU_AIO_READ, 0, 0, must_not_complete, NULL),
             -EINVAL);
    CHECK_EQ(laio_state_co_submit(NULL, fd, 0, &qiov, QEMU_AIO_READ, 0, 0), -EINVAL);
    laio_cleanup(NULL);
    EXPECT_LOG("laio_cleanup: the state is NULL");
    laio_attach_aio_context(NULL, rig.ctx);
    EXPECT_LOG("laio_attach_aio_context: the state is NULL");
    laio_detach_aio_context(NULL, rig.ctx);
    EXPECT_LOG("laio_detach_aio_context: the state is NULL");
    laio_state_io_plug(NULL);
    EXPECT_LOG("laio_state_io_plug: the state is NULL");
    laio_state_io_unplug(NULL, 0);
    EXPECT_LOG("laio_state_io_unplug: the state is NULL");
    laio_state_get_stats(NULL, &stats);
    EXPECT_LOG("laio_state_get_stats: the state is NULL");
    laio_state_get_stats(rig.state, NULL);
    EXPECT_LOG("laio_state_get_stats: the place for the statistics is NULL");
    LinuxAioState *loose = state_new();
    laio_attach_aio_context(loose, NULL);
    EXPECT_LOG("laio_attach_aio_context: the event loop is NULL");
    laio_cleanup(loose);
    CHECK(!laio_has_fdsync(-1));
    EXPECT_LOG("laio_has_fdsync: the descriptor -1 is negative");
    close(fd);
    check_unharmed(rig);
    rig_free(rig);
}

static void a_loop_without_a_state_is_refused(void)
{
    AioContext *ctx = host_context_new();
    struct iovec iov = {buffer, BLOCK};
    QEMUIOVector qiov = {.iov = &iov, .niov = 1};
    qiov.size = BLOCK;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(laio_co_submit(0, 0, &qiov, QEMU_AIO_READ, 0, 0), -EINVAL);
        laio_io_plug();
        EXPECT_LOG("laio_io_plug: no state serves the calling thread's event loop");
        laio_io_unplug(0);
        EXPECT_LOG("laio_io_unplug: no state serves the calling thread's event loop");
        if (i == 0) {
            host_context_free(ctx); /* And now there is no event loop either. */
        }
    }
}

static void unplug_without_plug_is_refused(void)
{
    Rig rig = rig_new();
    laio_io_unplug(0);
    EXPECT_LOG("laio_io_unplug: there is no plug to end");
    laio_state_io_unplug(rig.state, 0);
    EXPECT_LOG("laio_state_io_unplug: there is no plug to end");
    laio_io_plug();
    laio_io_unplug(0);
    laio_io_unplug(0);
    EXPECT_LOG("laio_io_unplug: there is no plug to end");
    check_unharmed(rig);
    rig_free(rig);
}

static void a_detached_state_is_enotconn(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    struct iovec iov = {buffer, BLOCK};
    QEMUIOVector qiov = {.iov = &iov, .niov = 1};
    qiov.size = BLOCK;
    laio_detach_aio_context(rig.state, rig.ctx);
    CHECK_EQ(attempt(rig, WAY_CALLBACK, fd, 0, &qiov, QEMU_AIO_READ), -ENOTCONN);
    if (way_exists(WAY_STATE)) {
        CHECK_EQ(attempt(rig, WAY_STATE, fd, 0, &qiov, QEMU_AIO_READ), -ENOTCONN);
        /* The built-in host knows no other way from a loop to its state than the attachment. */
        CHECK_EQ(attempt(rig, WAY_QEMU, fd, 0, &qiov, QEMU_AIO_READ),
                 host->builtin ? -EINVAL : -ENOTCONN);
    }
    CHECK_EQ(state_stats(rig.state).submitted, 0);
    laio_attach_aio_context(rig.state, rig.ctx);
    close(fd);
    check_unharmed(rig);
    rig_free(rig);
}

typedef struct Stranger {
    Rig rig;
    int fd;
    bool has_loop;
} Stranger;

static void *stranger_thread(void *opaque)
{
    Stranger *stranger = opaque;
    struct iovec iov = {buffer, BLOCK};
    QEMUIOVector qiov = {.iov = &iov, .niov = 1};
    qiov.size = BLOCK;
    AioContext *own = stranger->has_loop ? host_context_new() : NULL;
    CHECK_EQ(attempt(stranger->rig, WAY_CALLBACK, stranger->fd, 0, &qiov, QEMU_AIO_READ), -EPERM);
    if (way_exists(WAY_STATE)) {
        CHECK_EQ(attempt(stranger->rig, WAY_STATE, stranger->fd, 0, &qiov, QEMU_AIO_READ), -EPERM);
        CHECK_EQ(attempt(stranger->rig, WAY_QEMU, stranger->fd, 0, &qiov, QEMU_AIO_READ), -EINVAL);
    }
    if (own) {
        host_context_free(own);
    }
    coroutine_thread_done();
    return NULL;
}

static void another_thread_is_eperm(void)
{
    Rig rig = rig_new();
    check_unharmed(rig);
    int fd = test_file(0);
    for (int i = 0; i < 2; i++) {
        Stranger stranger = {rig, fd, i};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, stranger_thread, &stranger), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    close(fd);
    check_unharmed(rig);
    rig_free(rig);
}

static void without_coroutines_co_submit_is_enotsup(void)
{
    Rig rig = rig_new();
    int fd = test_file(0);
    struct iovec iov = {buffer, BLOCK};
    QEMUIOVector qiov = {.iov = &iov, .niov = 1};
    qiov.size = BLOCK;
    CHECK_EQ(laio_co_submit(fd, 0, &qiov, QEMU_AIO_READ, 0, 0), -ENOTSUP);
    CHECK_EQ(laio_state_co_submit(rig.state, fd, 0, &qiov, QEMU_AIO_READ, 0, 0), -ENOTSUP);
    CHECK_EQ(state_stats(rig.state).submitted, 0);
    close(fd);
    check_unharmed(rig);
    rig_free(rig);
}

static void hooks_after_the_first_state_are_ebusy(void)
{
    Rig rig = rig_new();
    LaioHostOps ops = host_ops(&host_variants[0]);
    CHECK_EQ(laio_set_host_ops(&ops), -EBUSY);
    EXPECT_LOG("laio_set_host_ops: too late");
    check_unharmed(rig);
    rig_free(rig);
    CHECK_EQ(laio_set_host_ops(&ops), -EBUSY);
    EXPECT_LOG("laio_set_host_ops: too late");
}

static void hooks_of_a_host_forbid_the_built_in_loop(void)
{
    Rig rig = rig_new();
    CHECK(!laio_loop_new());
    EXPECT_LOG("laio_loop_new: the program has given hooks for its own event loop");
    CHECK(!laio_loop_poll(rig.ctx, true));
    EXPECT_LOG("laio_loop_poll: the program has given hooks for its own event loop");
    laio_loop_free(NULL);
    EXPECT_LOG("laio_loop_free: ");
    laio_loop_free(rig.ctx);
    EXPECT_LOG("laio_loop_free: ");
    check_unharmed(rig);
    rig_free(rig);
}

static void a_null_loop_is_refused(void)
{
    CHECK(!laio_loop_poll(NULL, true));
    EXPECT_LOG("laio_loop_poll: the event loop is NULL");
    laio_loop_free(NULL);
    EXPECT_LOG("laio_loop_free: the event loop is NULL");
}

/* Tables of hooks. None of these cases runs in a host; each starts with all hooks. */

static const HostVariant *complete = &host_variants[7]; /* With the lock. */

static void refuse(const LaioHostOps *ops, const char *reason)
{
    char text[256];
    snprintf(text, sizeof(text), "laio_set_host_ops: %s", reason);
    CHECK_EQ(laio_set_host_ops(ops), -EINVAL);
    EXPECT_LOG(text);
}

/* A refused table decides nothing: a good one is taken afterwards. */
static void accept_after_all(void)
{
    host_start(complete);
    Rig rig = rig_new();
    check_unharmed(rig);
    rig_free(rig);
}

static void a_null_table_is_refused(void)
{
    refuse(NULL, "the table is NULL");
    accept_after_all();
}

static void a_short_table_is_refused(void)
{
    const size_t sizes[] = {0, 1, sizeof(size_t), sizeof(LaioHostOps) - 1};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        /* Of exactly that size, so that valgrind sees a look behind its end. */
        size_t bytes = sizes[i] > sizeof(size_t) ? sizes[i] : sizeof(size_t);
        LaioHostOps full = host_ops(complete);
        full.size = sizes[i];
        void *exact = malloc(bytes);
        CHECK(exact);
        memcpy(exact, &full, bytes);
        refuse(exact, "the table's size is ");
        free(exact);
    }
    accept_after_all();
}

/* A program that was compiled with a later version of the header. */
static void a_longer_table_is_taken_if_the_rest_is_empty(void)
{
    struct {
        LaioHostOps known;
        void (*later)(void);
    } table = {.known = host_ops(complete), .later = coroutine_yield};
    table.known.size = sizeof(table);
    refuse(&table.known, "the table has hooks that this version does not know");
    table.later = NULL;
    host = complete;
    CHECK_EQ(laio_set_host_ops(&table.known), 0);
    Rig rig = rig_new();
    check_unharmed(rig);
    rig_free(rig);
}

typedef struct Hook {
    const char *name;
    size_t offset;
} Hook;
/* clang-format off: lists of names */
#define HOOK(name)                                                                                 \
    {                                                                                              \
#name, offsetof(LaioHostOps, name)                                                         \
    }

static void remove_hook(LaioHostOps *ops, const Hook *hook)
{
    void (*none)(void) = NULL;
    memcpy((char *)ops + hook->offset, &none, sizeof(none));
}

static void a_missing_required_hook_is_named(void)
{
    static const Hook required[] = {
        HOOK(bh_new),          HOOK(bh_schedule),        HOOK(bh_cancel),
        HOOK(bh_delete),       HOOK(set_event_notifier), HOOK(current_aio_context),
        HOOK(linux_aio_state),
    };
    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        char reason[128];
        LaioHostOps ops = host_ops(complete);
        ops.log = NULL; /* The table is not ours yet, so the line goes to standard error. */
        remove_hook(&ops, &required[i]);
        snprintf(reason, sizeof(reason), "the required hook %s is NULL", required[i].name);
        refuse(&ops, reason);
    }
    accept_after_all();
}

static void an_incomplete_group_of_hooks_is_named(void)
{
    static const Hook grouped[] = {
        HOOK(coroutine_self), HOOK(coroutine_yield), HOOK(coroutine_entered),
        HOOK(coroutine_wake), HOOK(defer_begin),     HOOK(defer_call),
        HOOK(defer_end),      HOOK(context_acquire), HOOK(context_release),
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof(grouped) / sizeof(grouped[0]); i++) {
        LaioHostOps ops = host_ops(complete);
        remove_hook(&ops, &grouped[i]);
        CHECK_EQ(laio_set_host_ops(&ops), -EINVAL);
        EXPECT_LOG(grouped[i].name);
        CHECK_EQ(laio_set_host_ops(&ops), -EINVAL);
        EXPECT_LOG(", or none");
    }
    accept_after_all();
}

static void optional_hooks_are_optional(void)
{
    LaioHostOps ops = host_ops(complete);
    ops.aio_max_batch = NULL;
    ops.error_set = NULL;
    ops.log = NULL;
    host = complete;
    CHECK_EQ(laio_set_host_ops(&ops), 0);
    Rig rig = rig_new();
    check_unharmed(rig);
    laio_cleanup(NULL);
    EXPECT_LOG("laio: laio_cleanup: the state is NULL");
    rig_free(rig);
}

static void hooks_set_twice_are_ebusy(void)
{
    host_start(complete);
    LaioHostOps ops = host_ops(complete);
    CHECK_EQ(laio_set_host_ops(&ops), -EBUSY);
    EXPECT_LOG("laio_set_host_ops: too late");
    Rig rig = rig_new();
    check_unharmed(rig);
    rig_free(rig);
}

static void hooks_after_the_first_loop_are_ebusy(void)
{
    AioContext *ctx = laio_loop_new();
    CHECK(ctx);
    laio_loop_free(ctx);
    LaioHostOps ops = host_ops(complete);
    CHECK_EQ(laio_set_host_ops(&ops), -EBUSY);
    EXPECT_LOG("laio_set_host_ops: too late");
}

/* What only asks decides nothing. */
static void hooks_after_questions_are_taken(void)
{
    CHECK(laio_has_fua());
    CHECK_EQ(laio_submit_depth(), 0);
    CHECK_EQ(laio_set_max_submit_depth(9), 0);
    laio_cleanup(NULL);
    EXPECT_LOG("laio_cleanup: the state is NULL");
    CHECK_EQ(laio_co_submit(0, 0, NULL, QEMU_AIO_READ, 0, 0), -EINVAL);
    accept_after_all();
}

static const TestCase cases[] = {
    {"nonsense is EINVAL", nonsense_is_einval, HOST_HEARING},
    {"statistics have the size that the caller says", statistics_have_the_size_that_the_caller_says,
     HOST_HEARING},
    {"a NULL state is refused", a_null_state_is_refused, HOST_HEARING},
    {"a loop without a state is refused", a_loop_without_a_state_is_refused, HOST_ANY},
    {"unplug without plug is refused", unplug_without_plug_is_refused, HOST_HEARING},
    {"a detached state is ENOTCONN", a_detached_state_is_enotconn, HOST_HEARING},
    {"another thread is EPERM", another_thread_is_eperm, HOST_HEARING & ~HOST_LOCK},
    {"without coroutines co_submit is ENOTSUP", without_coroutines_co_submit_is_enotsup,
     HOST_MINIMAL},
    {"hooks after the first state are EBUSY", hooks_after_the_first_state_are_ebusy,
     HOST_QEMU | HOST_MINIMAL | HOST_BUILTIN},
    {"hooks of a host forbid the built-in loop", hooks_of_a_host_forbid_the_built_in_loop,
     HOST_QEMU},
    {"a NULL loop is refused", a_null_loop_is_refused, HOST_BUILTIN},
    {"a NULL table is refused", a_null_table_is_refused, 0},
    {"a short table is refused", a_short_table_is_refused, 0},
    {"a longer table is taken if the rest is empty", a_longer_table_is_taken_if_the_rest_is_empty,
     0},
    {"a missing required hook is named", a_missing_required_hook_is_named, 0},
    {"an incomplete group of hooks is named", an_incomplete_group_of_hooks_is_named, 0},
    {"optional hooks are optional", optional_hooks_are_optional, 0},
    {"hooks set twice are EBUSY", hooks_set_twice_are_ebusy, 0},
    {"hooks after the first loop are EBUSY", hooks_after_the_first_loop_are_ebusy, 0},
    {"hooks after questions are taken", hooks_after_questions_are_taken, 0},
};

TEST_MAIN(cases)
