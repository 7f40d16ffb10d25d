/*
 * The child of a fork shares its parent's rings, eventfds and epoll sets: what it takes out of them
 * is the parent's. It once reaped the parent's completions when it freed what it had inherited, and
 * the parent slept for ever. So: whatever the child does with what it has inherited, no callback is
 * called there, and the parent gets each completion once, and is woken for it. A PID does not tell
 * the two apart: in PID namespaces both are number 1.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"
#include "valve.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

enum { COUNT = 16, HANG_SECONDS = 30 };

/* Where the parent's requests are when it forks. */
typedef enum Where {
    NOWHERE,   /* there are none */
    IN_FLIGHT, /* the kernel has them */
    COMPLETE,  /* the ring has their completions */
    LATER,     /* in flight; complete when the child begins */
    QUEUED,    /* the kernel had no room */
    PLUGGED,
    WHERES,
} Where;

/* What the child does with what it has inherited. */
typedef enum Script {
    FREES,
    CLEANS_UP, /* without a detach */
    USES,      /* polls, plugs, submits, attaches; and frees it */
    LEAVES,    /* uses it, and ends */
    HAS_CHILD, /* a grandchild uses and frees it first */
    HAS_OWN,   /* has states and event loops of its own meanwhile */
    SCRIPTS,
} Script;

/* How the child comes to be. */
typedef enum Birth {
    BY_FORK,
    BY_CLONE,
    AS_FIRST, /* of a PID namespace */
} Birth;

typedef struct Parent {
    Rig rig;
    int fd;
    char *file;
    char *memory;
    Io ios[COUNT];
    unsigned count;
    uint64_t completed; /* before these */
} Parent;

static pid_t give_birth(Birth birth)
{
    fflush(NULL);
    if (birth == BY_FORK) {
        return fork();
    }
    return (pid_t)syscall(SYS_clone, SIGCHLD | (birth == AS_FIRST ? CLONE_NEWPID : 0), 0L, 0L, 0L,
                          0L);
}

static Parent parent_new(void)
{
    Parent parent = {.rig = rig_new(), .fd = test_file(O_DIRECT)};
    parent.file = aligned_buffer(COUNT * BLOCK);
    parent.memory = aligned_buffer(COUNT * BLOCK);
    for (int i = 0; i < COUNT; i++) {
        memset(parent.file + i * BLOCK, i + 1, BLOCK);
    }
    CHECK_EQ(pwrite(parent.fd, parent.file, COUNT * BLOCK, 0), COUNT * BLOCK);
    /* Behind it a hole, whose reads complete within io_submit(2). */
    CHECK_EQ(ftruncate(parent.fd, 2 * COUNT * BLOCK), 0);
    return parent;
}

static void parent_free(Parent *parent)
{
    rig_free(parent->rig);
    free(parent->file);
    free(parent->memory);
    close(parent->fd);
}

static void parent_start(Parent *parent, Where where)
{
    bool hole = where == COMPLETE || where == LATER;
    parent->count = where == NOWHERE ? 0 : COUNT;
    LaioStats before = state_stats(parent->rig.state);
    parent->completed = before.completed;
    memset(parent->memory, 0xa5, COUNT * BLOCK);
    valve_set(where == QUEUED ? VALVE_EAGAIN : where == PLUGGED ? VALVE_OPEN : VALVE_HOLD, -1);
    if (where == PLUGGED) {
        laio_state_io_plug(parent->rig.state);
    }
    for (unsigned i = 0; i < parent->count; i++) {
        parent->ios[i] = io_of(QEMU_AIO_READ, parent->fd, (hole * COUNT + i) * BLOCK,
                               parent->memory + i * BLOCK, BLOCK);
        io_start(parent->rig.state, &parent->ios[i]);
    }
    LaioStats stats = state_stats(parent->rig.state);
    CHECK_EQ(stats.in_queue, where == QUEUED || where == PLUGGED ? COUNT : 0);
    CHECK_EQ(stats.in_flight, before.in_flight + parent->count - stats.in_queue);
    if (where == COMPLETE) {
        valve_release();
    }
}

static void *release(void *opaque)
{
    (void)opaque;
    usleep(2000);
    valve_release();
    return NULL;
}

/* All that the parent waits for comes, once, and it is woken for what comes later. */
static void parent_finish(Parent *parent, Where where)
{
    bool hole = where == COMPLETE || where == LATER;
    LaioStats stats = state_stats(parent->rig.state);
    CHECK_EQ(stats.in_queue + stats.in_flight, parent->count);
    if (where == PLUGGED) {
        laio_state_io_unplug(parent->rig.state, 0);
    }
    valve_release();
    io_finish(parent->rig.ctx, parent->ios, parent->count);
    for (unsigned i = 0; i < parent->count; i++) {
        CHECK_EQ(parent->ios[i].ret, 0);
        for (int j = 0; j < BLOCK; j++) {
            CHECK_EQ(parent->memory[i * BLOCK + j], hole ? 0 : (int)i + 1);
        }
    }
    CHECK_EQ(state_stats(parent->rig.state).completed, parent->completed + parent->count);

    pthread_t thread;
    Io late = io_of(QEMU_AIO_READ, parent->fd, 0, parent->memory, BLOCK);
    valve_set(VALVE_HOLD, -1);
    io_start(parent->rig.state, &late);
    CHECK_EQ(pthread_create(&thread, NULL, release, NULL), 0);
    io_finish(parent->rig.ctx, &late, 1);
    CHECK_EQ(late.ret, 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* In the child. */

static void check_nothing_told(const Parent *parent)
{
    for (unsigned i = 0; i < parent->count; i++) {
        CHECK_EQ(parent->ios[i].completions, 0);
    }
}

static void check_no_wait_reported(void)
{
    char *log = test_take_log();
    if (strstr(log, "waiting for")) {
        FAIL("the child waits for its parent's requests: \"%s\"", log);
    }
    free(log);
}

static void co_refused(void *opaque)
{
    Parent *parent = opaque;
    Io io = io_of(QEMU_AIO_READ, parent->fd, 0, parent->memory, BLOCK);
    CHECK_EQ(way_co_submit(WAY_STATE, parent->rig.state, &io), -ENOTCONN);
}

static void check_refused(Parent *parent)
{
    Io io = io_of(QEMU_AIO_READ, parent->fd, 0, parent->memory, BLOCK);
    CHECK_EQ(laio_state_submit(parent->rig.state, io.fd, 0, &io.one, 1, QEMU_AIO_READ, 0, 0,
                               io_completed, &io),
             -ENOTCONN);
    if (host->builtin) {
        co_refused(parent);
    } else if (host->coroutines) {
        coroutine_enter(coroutine_new(co_refused, parent));
    }
    CHECK_EQ(io.completions, 0);
}

static void poll_inherited(Parent *parent)
{
    for (int i = 0; i < 3; i++) {
        if (host->builtin) {
            CHECK(!laio_loop_poll(parent->rig.ctx, i == 1));
        } else {
            host_poll(parent->rig.ctx, false); /* Its bottom halves are its own copy. */
        }
        check_nothing_told(parent);
    }
}

static void use_inherited(Parent *parent)
{
    LaioStats before = state_stats(parent->rig.state);
    host_set_current(parent->rig.ctx);
    poll_inherited(parent);
    check_refused(parent);
    laio_state_io_plug(parent->rig.state);
    check_refused(parent);
    laio_state_io_unplug(parent->rig.state, 0);
    poll_inherited(parent);
    CHECK_EQ(state_stats(parent->rig.state).submitted, before.submitted);
    CHECK_EQ(state_stats(parent->rig.state).completed, before.completed);
    laio_detach_aio_context(parent->rig.state, parent->rig.ctx);
    host_set_state(parent->rig.ctx, NULL);
    check_refused(parent);
    poll_inherited(parent);
    laio_attach_aio_context(parent->rig.state, parent->rig.ctx);
    check_refused(parent);
    poll_inherited(parent);
}

static void free_inherited(Parent *parent, bool detach)
{
    host_set_state(parent->rig.ctx, NULL);
    if (detach) {
        laio_detach_aio_context(parent->rig.state, parent->rig.ctx);
    }
    laio_cleanup(parent->rig.state);
    if (!host->builtin) {
        /* By the hooks, as ever. */
        CHECK_EQ(host_watched(parent->rig.ctx), 0);
    }
    host_context_free(parent->rig.ctx);
}

static void work(Rig rig, Parent *parent)
{
    char *buffer = aligned_buffer(BLOCK);
    FOR_EACH_WAY(way) {
        for (int i = 0; i < COUNT; i++) {
            Io io = io_of(QEMU_AIO_READ, parent->fd, i * BLOCK, buffer, BLOCK);
            CHECK_EQ(way_do(way, rig, &io), 0);
            CHECK_EQ(buffer[0], i + 1);
            CHECK_EQ(buffer[BLOCK - 1], i + 1);
        }
    }
    free(buffer);
}

static void with_own(Parent *parent)
{
    valve_set(VALVE_OPEN, -1);
    Rig own = rig_new();
    work(own, parent);
    use_inherited(parent);
    host_set_current(own.ctx);
    work(own, parent);
    free_inherited(parent, true);
    host_set_current(own.ctx);
    work(own, parent);
    rig_free(own);
    own = rig_new();
    work(own, parent);
    rig_free(own);
}

static _Noreturn void be_child(Parent *parent, Script script)
{
    test_watch(HANG_SECONDS);
    if (script == HAS_CHILD) {
        pid_t grandchild = give_birth(BY_FORK);
        if (grandchild == 0) {
            test_watch(HANG_SECONDS);
            use_inherited(parent);
            free_inherited(parent, true);
            check_nothing_told(parent);
            _exit(0);
        }
        WAIT_FOR(grandchild, 0);
    }
    if (script == USES || script == LEAVES || script == HAS_CHILD) {
        use_inherited(parent);
    }
    if (script == HAS_OWN) {
        with_own(parent);
    } else if (script != LEAVES) {
        free_inherited(parent, script != CLEANS_UP);
    }
    check_nothing_told(parent);
    check_no_wait_reported();
    coroutine_thread_done();
    _exit(0);
}

/* The parent. */

static void fork_with(Parent *parent, Where where, Script script, Birth birth)
{
    int begin[2];
    char byte = 0;
    CHECK_EQ(pipe2(begin, O_CLOEXEC), 0);
    parent_start(parent, where);
    pid_t child = give_birth(birth);
    CHECK(child >= 0);
    if (child == 0) {
        test_watch(HANG_SECONDS);
        CHECK_EQ(read(begin[0], &byte, 1), 1);
        be_child(parent, script);
    }
    if (where == LATER) {
        valve_release();
    }
    CHECK_EQ(write(begin[1], &byte, 1), 1);
    WAIT_FOR(child, 0);
    close(begin[0]);
    close(begin[1]);
    /* The child writes to the same standard error. */
    check_no_wait_reported();
    parent_finish(parent, where);
}

static void all_scripts(Birth birth)
{
    for (Script script = FREES; script < SCRIPTS; script++) {
        for (Where where = NOWHERE; where < WHERES; where++) {
            Parent parent = parent_new();
            test_context("script %d, requests %d", script, where);
            fork_with(&parent, where, script, birth);
            /* The state has had a child before. */
            fork_with(&parent, where, script, birth);
            parent_free(&parent);
        }
    }
}

static void the_parent_does_not_notice_its_child(void)
{
    all_scripts(BY_FORK);
}

static void the_parent_does_not_notice_a_child_by_clone(void)
{
    if (RUNNING_ON_VALGRIND) {
        test_skip("valgrind does not know such a clone(2)");
    }
    all_scripts(BY_CLONE);
}

/* Both are number 1, each in its namespace. */
static void the_parent_does_not_notice_a_child_with_its_pid(void)
{
    if (RUNNING_ON_VALGRIND) {
        test_skip("valgrind does not know such a clone(2)");
    }
    pid_t first = give_birth(AS_FIRST);
    if (first < 0) {
        test_skip("clone(2) into a PID namespace: %s", strerror(errno));
    }
    if (first == 0) {
        test_watch(3 * HANG_SECONDS);
        CHECK_EQ(getpid(), 1);
        all_scripts(AS_FIRST);
        coroutine_thread_done();
        _exit(0);
    }
    WAIT_FOR(first, 0);
    free(test_take_log()); /* Standard error is the children's too. */
}

/* A real device decides when they complete; the child frees them right away. */
static void the_parent_does_not_notice_a_child_beside_real_requests(void)
{
    enum { BYTES = 1 << 20 };
    int fd = test_file(O_DIRECT);
    char *memory = aligned_buffer(COUNT * BYTES);
    test_watch(3 * HANG_SECONDS);
    for (int i = 0; i < COUNT; i++) {
        memset(memory + i * BYTES, i + 1, BYTES);
    }
    CHECK_EQ(pwrite(fd, memory, COUNT * BYTES, 0), COUNT * BYTES);
    for (unsigned round = 0; round < test_scaled(40, 2); round++) {
        Rig rig = rig_new();
        Parent parent = {.rig = rig, .fd = fd, .memory = memory, .count = COUNT};
        memset(memory, 0xa5, COUNT * BYTES);
        laio_state_io_plug(rig.state);
        for (int i = 0; i < COUNT; i++) {
            parent.ios[i] = io_of(QEMU_AIO_READ, fd, i * BYTES, memory + i * BYTES, BYTES);
            io_start(rig.state, &parent.ios[i]);
        }
        laio_state_io_unplug(rig.state, 0);
        unsigned told[COUNT];
        for (int i = 0; i < COUNT; i++) {
            told[i] = parent.ios[i].completions;
        }
        pid_t child = give_birth(BY_FORK);
        CHECK(child >= 0);
        if (child == 0) {
            test_watch(HANG_SECONDS);
            usleep(round * 500);
            free_inherited(&parent, round % 2);
            for (int i = 0; i < COUNT; i++) {
                CHECK_EQ(parent.ios[i].completions, told[i]);
            }
            check_no_wait_reported();
            _exit(0);
        }
        io_finish(rig.ctx, parent.ios, COUNT);
        WAIT_FOR(child, 0);
        check_no_wait_reported();
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(parent.ios[i].ret, 0);
            CHECK_EQ(memory[i * BYTES], i + 1);
            CHECK_EQ(memory[(i + 1) * BYTES - 1], i + 1);
        }
        CHECK_EQ(state_stats(rig.state).completed, COUNT);
        rig_free(rig);
    }
    free(memory);
    close(fd);
}

/* A completion forks: the child has the library's frames on its stack. */
typedef struct Forker {
    Parent *parent;
    bool returns; /* the child does, from the callback */
    pid_t child;
    unsigned completions;
} Forker;

static void forking_completed(void *opaque, int ret)
{
    Forker *forker = opaque;
    Parent *parent = forker->parent;
    CHECK_EQ(ret, 0);
    forker->completions++;
    pid_t child = forker->child = give_birth(BY_FORK);
    CHECK(child >= 0);
    if (child == 0) {
        test_watch(HANG_SECONDS);
        if (forker->returns) {
            return;
        }
        poll_inherited(parent);
        check_refused(parent);
        check_no_wait_reported();
        _exit(0);
    }
    WAIT_FOR(child, 0);
}

static void completion_forks(bool returns)
{
    Parent parent = parent_new();
    Forker forker = {.parent = &parent, .returns = returns};
    test_watch(HANG_SECONDS);
    struct iovec iov = {parent.memory, BLOCK};
    valve_set(VALVE_HOLD, -1);
    CHECK_EQ(laio_state_submit(parent.rig.state, parent.fd, COUNT * BLOCK, &iov, 1, QEMU_AIO_READ,
                               0, 0, forking_completed, &forker),
             0);
    /* Theirs are in the ring while it is told. */
    parent_start(&parent, COMPLETE);
    while (forker.completions == 0) {
        CHECK(host_poll(parent.rig.ctx, true));
    }
    if (forker.child == 0) {
        for (unsigned i = 0; i < COUNT; i++) {
            CHECK_EQ(parent.ios[i].completions, 0);
        }
        _exit(0);
    }
    io_finish(parent.rig.ctx, parent.ios, COUNT);
    CHECK_EQ(forker.completions, 1);
    free(test_take_log());
    parent_free(&parent);
}

static void a_completion_forks(void)
{
    completion_forks(false);
}

/* The child goes on where its parent is in the ring, which they share. */
static void a_completion_forks_and_the_child_returns(void)
{
    completion_forks(true);
}

#define HOSTS (HOST_QEMU | HOST_PLAIN | HOST_MINIMAL | HOST_ADAPTIVE | HOST_LOCK | HOST_BUILTIN)

static const TestCase cases[] = {
    {"the parent does not notice its child", the_parent_does_not_notice_its_child, HOSTS},
    {"the parent does not notice a child by clone", the_parent_does_not_notice_a_child_by_clone,
     HOST_QEMU | HOST_PLAIN | HOST_BUILTIN},
    {"the parent does not notice a child with its PID",
     the_parent_does_not_notice_a_child_with_its_pid, HOST_QEMU | HOST_PLAIN | HOST_BUILTIN},
    {"the parent does not notice a child beside real requests",
     the_parent_does_not_notice_a_child_beside_real_requests, HOSTS},
    {"a completion forks", a_completion_forks, HOST_QEMU | HOST_PLAIN | HOST_BUILTIN},
    {"a completion forks, and the child returns", a_completion_forks_and_the_child_returns,
     HOST_QEMU | HOST_PLAIN | HOST_BUILTIN},
};

TEST_MAIN(cases)
