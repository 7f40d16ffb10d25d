/*
 * laio_cleanup() tells the owners of what is outstanding, and they do what owners do. One found its
 * state detached and attached it again: to a loop that then served freed memory. Whatever an owner
 * asks of a state that is being freed is refused, with a report, and everything else goes on.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "rig.h"

#include <fcntl.h>
#include <unistd.h>

enum { COUNT = 20 };

typedef enum Deed {
    ATTACH,
    ATTACH_ELSEWHERE,
    DETACH,
    CLEAN_UP,
    SUBMIT,
    CO_SUBMIT,
    PLUG,
    PLUG_AND_LEAVE,
    UNPLUG,
    POLL,
    ASK,
    USE_ANOTHER, /* a state of the same loop */
    FREE_ANOTHER,
    DEEDS,
} Deed;

typedef struct Scene {
    Rig rig;
    AioContext *elsewhere;
    LinuxAioState *other;
    int fd;
    char *buffer;
    Io ios[COUNT];
    Deed deed;
    bool told_of_wait;
    unsigned deeds;
} Scene;

static Scene scene;

static void use_another(void)
{
    Io io = io_of(QEMU_AIO_READ, scene.fd, 0, scene.buffer, BLOCK);
    io_start(scene.other, &io);
    io_finish(scene.rig.ctx, &io, 1);
    CHECK_EQ(io.ret, 0);
}

static void free_another(void)
{
    if (scene.other) {
        LinuxAioState *s = scene.other;
        Io io = io_of(QEMU_AIO_READ, scene.fd, 0, scene.buffer, BLOCK);
        laio_state_io_plug(s);
        io_start(s, &io);
        scene.other = NULL;
        laio_cleanup(s);
        EXPECT_LOG("laio_cleanup: waiting for 1 requests");
        CHECK_EQ(io.completions, 1);
    }
}

static void do_deed(void)
{
    LinuxAioState *s = scene.rig.state;
    Io late = io_of(QEMU_AIO_READ, scene.fd, 0, scene.buffer, BLOCK);
    scene.deeds++;
    switch (scene.deed) {
    case ATTACH:
        laio_attach_aio_context(s, scene.rig.ctx);
        EXPECT_LOG("laio_attach_aio_context: ");
        break;
    case ATTACH_ELSEWHERE:
        laio_attach_aio_context(s, scene.elsewhere);
        EXPECT_LOG("laio_attach_aio_context: ");
        break;
    case DETACH:
        laio_detach_aio_context(s, scene.rig.ctx);
        EXPECT_LOG("laio_detach_aio_context: ");
        break;
    case CLEAN_UP:
        laio_cleanup(s);
        EXPECT_LOG("laio_cleanup: ");
        break;
    case SUBMIT:
        CHECK_EQ(laio_state_submit(s, late.fd, 0, &late.one, 1, QEMU_AIO_READ, 0, 0, io_completed,
                                   &late),
                 -ENOTCONN);
        break;
    case CO_SUBMIT:
        if (host->builtin || in_coroutine()) {
            CHECK_EQ(way_co_submit(WAY_STATE, s, &late), -ENOTCONN);
        }
        break;
    case PLUG:
        laio_state_io_plug(s);
        laio_state_io_unplug(s, 0);
        break;
    case PLUG_AND_LEAVE:
        laio_state_io_plug(s);
        break;
    case UNPLUG:
        laio_state_io_unplug(s, 1);
        free(test_take_log());
        break;
    case POLL:
        host_poll(scene.rig.ctx, false);
        break;
    case ASK:
        CHECK_EQ(state_stats(s).submitted, COUNT);
        break;
    case USE_ANOTHER:
        use_another();
        break;
    default:
        free_another();
    }
    CHECK_EQ(late.completions, 0);
}

static void told(Io *io, int ret)
{
    io_completed(io, ret);
    if (!scene.told_of_wait) {
        EXPECT_LOG("laio_cleanup: waiting for ");
        scene.told_of_wait = true;
    }
    do_deed();
}

static void doer_completed(void *opaque, int ret)
{
    told(opaque, ret);
}

static void co_doer(void *opaque)
{
    Io *io = opaque;
    told(io, way_co_submit(WAY_STATE, scene.rig.state, io));
}

/* Where the requests are when the clean-up begins. */
typedef enum Where { PLUGGED, DETACHED } Where;

static void start_all(bool coroutines)
{
    for (int i = 0; i < COUNT; i++) {
        Io *io = &scene.ios[i];
        *io = io_of(QEMU_AIO_READ, scene.fd, (i % 8) * BLOCK, scene.buffer, BLOCK);
        io->ret = 1;
        if (coroutines) {
            coroutine_enter(coroutine_new(co_doer, io));
        } else {
            CHECK_EQ(laio_state_submit(scene.rig.state, io->fd, io->offset, &io->one, 1, io->type,
                                       0, 0, doer_completed, io),
                     0);
        }
    }
}

static void scene_run(Deed deed, Where where, bool coroutines)
{
    test_context("deed %d, requests %d, coroutines %d", deed, where, coroutines);
    scene = (Scene){.elsewhere = host_context_new(),
                    .fd = test_file(O_DIRECT),
                    .buffer = aligned_buffer(8 * BLOCK),
                    .deed = deed};
    scene.rig = rig_new();
    scene.other = state_new();
    laio_attach_aio_context(scene.other, scene.rig.ctx);
    CHECK_EQ(pwrite(scene.fd, scene.buffer, 8 * BLOCK, 0), 8 * BLOCK);
    laio_state_io_plug(scene.rig.state);
    start_all(coroutines);
    CHECK_EQ(scene.deeds, 0);
    if (where == DETACHED) {
        laio_detach_aio_context(scene.rig.state, scene.rig.ctx);
        EXPECT_LOG("laio_detach_aio_context: ");
    }
    host_set_state(scene.rig.ctx, NULL);
    laio_cleanup(scene.rig.state);
    CHECK_EQ(scene.deeds, COUNT);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(scene.ios[i].completions, 1);
        CHECK_EQ(scene.ios[i].ret, 0);
    }
    EXPECT_NO_LOG();
    /* Where the state was, others are now: nobody may look there any more. */
    char *memory[64];
    for (int i = 0; i < 64; i++) {
        memory[i] = malloc(8 * (unsigned)(i + 1));
        memset(memory[i], 0x41, 8 * (unsigned)(i + 1));
    }
    for (int i = 0; i < 3; i++) {
        host_poll(scene.rig.ctx, false);
        host_poll(scene.elsewhere, false);
    }
    host_set_current(scene.rig.ctx);
    if (scene.other) {
        use_another();
        laio_cleanup(scene.other);
    }
    for (int i = 0; i < 64; i++) {
        free(memory[i]);
    }
    free(scene.buffer);
    close(scene.fd);
    host_context_free(scene.rig.ctx);
    host_context_free(scene.elsewhere);
    EXPECT_NO_LOG();
}

static void run(Where where, bool coroutines)
{
    for (Deed deed = ATTACH; deed < DEEDS; deed++) {
        scene_run(deed, where, coroutines);
    }
}

static void owners_do_as_they_like_during_a_cleanup(void)
{
    run(PLUGGED, false);
}

static void owners_do_as_they_like_during_a_cleanup_of_a_detached_state(void)
{
    run(DETACHED, false);
}

static void coroutines_do_as_they_like_during_a_cleanup(void)
{
    run(PLUGGED, true);
    run(DETACHED, true);
}

#define COROUTINES (HOST_QEMU | HOST_STRICT | HOST_PLAIN | HOST_ADAPTIVE | HOST_LOCK)

static const TestCase cases[] = {
    {"owners do as they like during a cleanup", owners_do_as_they_like_during_a_cleanup,
     HOST_HEARING},
    {"owners do as they like during a cleanup of a detached state",
     owners_do_as_they_like_during_a_cleanup_of_a_detached_state, HOST_HEARING},
    {"coroutines do as they like during a cleanup", coroutines_do_as_they_like_during_a_cleanup,
     COROUTINES},
};

TEST_MAIN(cases)
