/*
 * The functions of laio.h that laio-bench calls and that cost nothing in a bare loop: one event loop
 * and one state, which it serves.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "floor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct AioContext {
    LinuxAioState *state;
};

static AioContext the_loop;

void floor_give_up(const char *what)
{
    fprintf(stderr, "laio-bench: floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

AioContext *laio_loop_new(void)
{
    return &the_loop;
}

void laio_loop_free(AioContext *ctx)
{
    (void)ctx;
}

bool laio_loop_poll(AioContext *ctx, bool blocking)
{
    return floor_turn(ctx->state, blocking);
}

void laio_attach_aio_context(LinuxAioState *s, AioContext *new_context)
{
    new_context->state = s;
}

void laio_detach_aio_context(LinuxAioState *s, AioContext *old_context)
{
    (void)s;
    old_context->state = NULL;
}

void laio_state_io_plug(LinuxAioState *s)
{
    (void)s;
}

void laio_state_io_unplug(LinuxAioState *s, uint64_t dev_max_batch)
{
    (void)s;
    (void)dev_max_batch;
}

bool laio_has_fdsync(int fd)
{
    (void)fd;
    return true;
}

void laio_state_get_stats(const LinuxAioState *s, LaioStats *stats)
{
    memset(stats, 0, sizeof(*stats));
    stats->kernel = laio_state_kernel(s);
}

int laio_set_max_submit_depth(unsigned depth)
{
    (void)depth;
    return 0;
}

unsigned laio_max_submit_depth(void)
{
    return 0;
}
