/*
 * An external engine for fio:
 *
 *     fio --ioengine=external:./fio-laio.so ...
 *
 * fio makes an engine for each of its threads, on that thread, and uses it there; only to free it
 * another thread comes. So each has an event loop and a state of its own. With io_submit_mode=offload
 * that goes for each thread of the pool: the requests (io_u) are those of the job's main thread, and so
 * nothing of an engine may be kept in them from one submission to the next.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "fio.h"
#include "optgroup.h"

#include <laio.h>

/* See engine_init(). */
enum { LATE_US = 50 * 1000 };

typedef struct Engine {
    AioContext *loop;
    LinuxAioState *state;
    bool plugged;
    unsigned outstanding;
    /* Complete, and not yet reported to fio, the oldest first. */
    struct io_u *first, **last;
} Engine;

/* What a request keeps in its io_u, made when that is. */
typedef struct Request {
    struct iovec iov;
    Engine *engine; /* that it is submitted to */
    struct io_u *next;
} Request;

static void on_complete(void *opaque, int ret)
{
    struct io_u *io_u = opaque;
    Request *request = io_u->engine_data;
    Engine *engine = request->engine;
    io_u->error = -ret;
    engine->outstanding--;
    request->next = NULL;
    *engine->last = io_u;
    engine->last = &request->next;
}

static int engine_commit(struct thread_data *td)
{
    Engine *engine = td->io_ops_data;
    if (engine->plugged) {
        engine->plugged = false;
        laio_state_io_unplug(engine->state, 0);
    }
    return 0;
}

/* What libaio does at once, fio does here as well. */
static enum fio_q_status queue_sync(struct thread_data *td, struct io_u *io_u)
{
    Engine *engine = td->io_ops_data;
    if (engine->outstanding > 0 || engine->first) {
        return FIO_Q_BUSY; /* those first */
    }
    if (io_u->ddir == DDIR_TRIM) {
        do_io_u_trim(td, io_u);
        io_u_mark_submit(td, 1);
        io_u_mark_complete(td, 1);
    } else {
        do_io_u_sync(td, io_u);
    }
    return FIO_Q_COMPLETED;
}

static enum fio_q_status engine_queue(struct thread_data *td, struct io_u *io_u)
{
    Engine *engine = td->io_ops_data;
    Request *request = io_u->engine_data;
    bool reads = io_u->ddir == DDIR_READ;
    if (!reads && io_u->ddir != DDIR_WRITE) {
        return queue_sync(td, io_u);
    }
    if (!engine->plugged) {
        engine->plugged = true;
        laio_state_io_plug(engine->state);
    }
    request->engine = engine;
    request->iov = (struct iovec){io_u->xfer_buf, io_u->xfer_buflen};
    engine->outstanding++;
    int ret = laio_state_submit(engine->state, io_u->file->fd, io_u->offset, &request->iov, 1,
                                reads ? QEMU_AIO_READ : QEMU_AIO_WRITE, 0, td->o.iodepth_batch,
                                on_complete, io_u);
    if (ret < 0) {
        engine->outstanding--;
        io_u->error = -ret;
        return FIO_Q_COMPLETED;
    }
    return FIO_Q_QUEUED;
}

static unsigned completed(const Engine *engine, unsigned max)
{
    unsigned count = 0;
    for (struct io_u *io_u = engine->first; io_u && count < max; count++) {
        io_u = ((Request *)io_u->engine_data)->next;
    }
    return count;
}

static int engine_getevents(struct thread_data *td, unsigned int min, unsigned int max,
                            const struct timespec *t)
{
    Engine *engine = td->io_ops_data;
    (void)t; /* it is zero, and then so is min */
    if (min == 0) {
        laio_loop_poll(engine->loop, false);
    }
    while (completed(engine, max) < min && engine->outstanding > 0) {
        engine_commit(td);
        laio_loop_poll(engine->loop, true);
    }
    return (int)completed(engine, max);
}

static struct io_u *engine_event(struct thread_data *td, int event)
{
    Engine *engine = td->io_ops_data;
    struct io_u *io_u = engine->first;
    (void)event; /* one after the other */
    engine->first = ((Request *)io_u->engine_data)->next;
    if (!engine->first) {
        engine->last = &engine->first;
    }
    return io_u;
}

static int engine_io_u_init(struct thread_data *td, struct io_u *io_u)
{
    (void)td;
    io_u->engine_data = calloc(1, sizeof(Request));
    return io_u->engine_data ? 0 : ENOMEM;
}

static void engine_io_u_free(struct thread_data *td, struct io_u *io_u)
{
    (void)td;
    free(io_u->engine_data);
    io_u->engine_data = NULL;
}

static void engine_cleanup(struct thread_data *td)
{
    Engine *engine = td->io_ops_data;
    if (engine) {
        /* It says so if something is outstanding, and waits for it. */
        if (engine->state) {
            laio_cleanup(engine->state);
        }
        if (engine->loop) {
            laio_loop_free(engine->loop);
        }
        free(engine);
    }
    td->io_ops_data = NULL;
}

static int engine_init(struct thread_data *td)
{
    Engine *engine = calloc(1, sizeof(*engine));
    td->io_ops_data = engine;
    if (!engine) {
        return ENOMEM;
    }
    engine->last = &engine->first;
    if (td->o.io_submit_mode == IO_MODE_OFFLOAD) {
        /* fio writes a worker's flags once more after pthread_create(3). A worker that has said by then
         * that it runs is waited for for ever: so be late. All workers are so at the same time. */
        usleep(LATE_US);
        if (td->o.iodepth == 1) { /* a worker's copy of the options */
            /* It has one request at a time, and fio counts wrongly, and then waits for ever, what it
             * commits before a batch is full. */
            td->o.iodepth_batch = 1;
        }
    }
    engine->loop = laio_loop_new();
    engine->state = laio_init(NULL);
    if (!engine->loop || !engine->state) {
        engine_cleanup(td);
        return EAGAIN; /* why, the library has said on standard error */
    }
    laio_attach_aio_context(engine->state, engine->loop);
    return 0;
}

struct ioengine_ops ioengine = {
    .name = "laio",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_ASYNCIO_SYNC_TRIM,
    .init = engine_init,
    .queue = engine_queue,
    .commit = engine_commit,
    .getevents = engine_getevents,
    .event = engine_event,
    .cleanup = engine_cleanup,
    .io_u_init = engine_io_u_init,
    .io_u_free = engine_io_u_free,
    .open_file = generic_open_file,
    .close_file = generic_close_file,
    .get_file_size = generic_get_file_size,
};
