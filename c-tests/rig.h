/*
 * An event loop with a state, and requests that know how often they completed.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef RIG_H
#define RIG_H

#include "test.h"

/* An event loop, and a state that it serves. */
typedef struct Rig {
    AioContext *ctx;
    LinuxAioState *state;
} Rig;

Rig rig_new(void);
/* Checks that the state is idle and that what it counted adds up, and frees both. */
void rig_free(Rig rig);

LinuxAioState *state_new(void);
LaioStats state_stats(LinuxAioState *s);
void check_idle(LinuxAioState *s);

/* A request, and what is known of its completion. */
typedef struct Io {
    int fd;
    int type;
    uint64_t offset;
    struct iovec *iov;
    int iovcnt;
    struct iovec one; /* where a request of one part has it */
    BdrvRequestFlags flags;
    uint64_t dev_max_batch;
    unsigned completions;
    int ret;
} Io;

Io io_of(int type, int fd, uint64_t offset, void *buffer, size_t bytes);

/* A completion function; `opaque` is the Io. */
void io_completed(void *opaque, int ret);

/* Submits by laio_state_submit(), which must accept. */
void io_start(LinuxAioState *s, Io *io);

/* Runs the event loop until all have completed, checks that each did so once, and a while longer
 * that none does again. */
void io_finish(AioContext *ctx, Io *ios, size_t count);

/* The ways to make a request. */
typedef enum Way {
    WAY_CALLBACK,
    WAY_STATE, /* laio_state_co_submit() */
    WAY_QEMU,  /* laio_co_submit() */
    WAYS,
} Way;
bool way_exists(Way way);
/* The coroutine submission alone; in a coroutine, or with the built-in host. */
int way_co_submit(Way way, LinuxAioState *s, Io *io);
/* Makes a request in that way and returns its result. */
int way_do(Way way, Rig rig, Io *io);

#define FOR_EACH_WAY(way)                                                                          \
    for (Way way = WAY_CALLBACK; way < WAYS; way++)                                                \
        if (way_exists(way))

/* Memory for O_DIRECT; to be freed. */
void *aligned_buffer(size_t bytes);

/* A sparse O_DIRECT file of 1 GiB, all hole, whose reads complete within io_submit(2). */
int hole_file(void);

#define BLOCK 4096

#endif
