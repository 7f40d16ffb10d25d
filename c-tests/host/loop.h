/*
 * The event loop behind the host hooks.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef LOOP_H
#define LOOP_H

#include "host.h"

AioContext *loop_new(void);
void loop_free(AioContext *ctx);
bool loop_poll(AioContext *ctx, bool blocking);
AioContext *loop_current(void);
LinuxAioState *loop_state(AioContext *ctx);
uint64_t loop_max_batch(AioContext *ctx);

QEMUBH *loop_bh_new(AioContext *ctx, LaioHostFunc cb, void *opaque);
void loop_bh_schedule(QEMUBH *bh);
void loop_bh_cancel(QEMUBH *bh);
void loop_bh_delete(QEMUBH *bh);
void loop_set_event_notifier(AioContext *ctx, int fd, void (*io_read)(void *opaque),
                             bool (*io_poll)(void *opaque), void (*io_poll_ready)(void *opaque),
                             void *opaque);

#endif
