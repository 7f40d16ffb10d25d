/*
 * QEMU's aio=io_uring on liblaio, in place of block/io_uring.c
 *
 * Part of laio; qemu/apply.sh puts it into QEMU source trees whose aio=io_uring
 * has a ring, and with it a recursion, of its own. The functions of
 * block/raw-aio.h have their own names here: the library has none of them.
 *
 * What QEMU calls a LuringState, and only hands on, is a state of the library
 * that is on io_uring, whatever LAIO_KERNEL says: aio=io_uring names it. So an
 * AioContext may have two states, one for either aio=, and which of them a
 * request is for must be said: nothing here may call what asks the host for
 * the AioContext's LinuxAioState, as laio_co_submit() does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/coroutine.h"
#include "laio-host.h"

static LinuxAioState *library_state(LuringState *s)
{
    return (LinuxAioState *)s;
}

static int coroutine_fn submit(LuringState *s, int fd, uint64_t offset,
                               QEMUIOVector *qiov, int type,
                               BdrvRequestFlags flags)
{
    /* The device's aio-max-batch is for aio=native: QEMU does not hand it on. */
    return laio_state_co_submit(library_state(s), fd, offset, qiov, type, flags,
                                0);
}

/* The generations */

#ifdef LAIO_TREE_LURING_SUBMIT_STATE
int coroutine_fn luring_co_submit(BlockDriverState *bs, LuringState *s, int fd,
                                  uint64_t offset, QEMUIOVector *qiov, int type)
{
    return submit(s, fd, offset, qiov, type, 0);
}
#else
static LuringState *current_state(void)
{
    return aio_get_linux_io_uring(qemu_get_current_aio_context());
}

#ifdef LAIO_TREE_LURING_SUBMIT_WITHOUT_FLAGS
int coroutine_fn luring_co_submit(BlockDriverState *bs, int fd, uint64_t offset,
                                  QEMUIOVector *qiov, int type)
{
    return submit(current_state(), fd, offset, qiov, type, 0);
}
#else
int coroutine_fn luring_co_submit(BlockDriverState *bs, int fd, uint64_t offset,
                                  QEMUIOVector *qiov, int type,
                                  BdrvRequestFlags flags)
{
    return submit(current_state(), fd, offset, qiov, type, flags);
}
#endif
#endif

#ifdef LAIO_TREE_LURING_PLUG_STATE
void luring_io_plug(BlockDriverState *bs, LuringState *s)
{
    laio_state_io_plug(library_state(s));
}

void luring_io_unplug(BlockDriverState *bs, LuringState *s)
{
    laio_state_io_unplug(library_state(s), 0);
}
#endif

#ifdef LAIO_TREE_LURING_HAS_FUA
/* RWF_DSYNC is older than io_uring. */
bool luring_has_fua(void)
{
    return true;
}
#endif

/* The same in all */

LuringState *luring_init(Error **errp)
{
    return (LuringState *)laio_host_new_state(LAIO_KERNEL_IO_URING, errp);
}

void luring_cleanup(LuringState *s)
{
    laio_host_free_state(library_state(s));
}

void luring_attach_aio_context(LuringState *s, AioContext *new_context)
{
    laio_attach_aio_context(library_state(s), new_context);
}

void luring_detach_aio_context(LuringState *s, AioContext *old_context)
{
    laio_detach_aio_context(library_state(s), old_context);
}
