/* The header alone, twice. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include <laio.h>
#include <laio.h>

/* All that it promises is there. */
LaioStats stats;
LaioHostOps ops;
LaioCompletionFunc *completion;
QEMUIOVector qiov;
BdrvRequestFlags flags = BDRV_REQ_FUA;
int types[] = {QEMU_AIO_READ, QEMU_AIO_WRITE, QEMU_AIO_FLUSH, QEMU_AIO_ZONE_APPEND};
void *functions(AioContext *ctx, LinuxAioState *s, Coroutine *co, QEMUBH *bh, Error *error);
void *functions(AioContext *ctx, LinuxAioState *s, Coroutine *co, QEMUBH *bh, Error *error)
{
    (void)co;
    (void)bh;
    (void)error;
    laio_attach_aio_context(s, ctx);
    laio_state_io_plug(s);
    return s;
}
