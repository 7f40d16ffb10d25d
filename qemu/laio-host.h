/*
 * What QEMU's two native engines share on liblaio: see block/laio-host.c
 *
 * Part of laio; qemu/apply.sh puts it into a QEMU source tree. To be included
 * last: from here on, laio_*() is the library's, and what QEMU calls so is
 * qemu_laio_*() where it is not the same.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef BLOCK_LAIO_HOST_H
#define BLOCK_LAIO_HOST_H

#include "block/block.h"
#include "block/raw-aio.h"

#undef laio_init
#undef laio_cleanup
#undef laio_attach_aio_context
#undef laio_detach_aio_context
#undef laio_co_submit
#undef laio_io_plug
#undef laio_io_unplug
#define LAIO_NO_QEMU_TYPES
#pragma GCC diagnostic push
/* Where the prototypes are the same, they are in both. */
#pragma GCC diagnostic ignored "-Wredundant-decls"
#include <laio.h>
#pragma GCC diagnostic pop

/*
 * As laio_init_kernel() and laio_cleanup(), in this host: the first state gives
 * the library its hooks, and all of them are in the statistics at exit.
 */
LinuxAioState *laio_host_new_state(unsigned kernel, Error **errp);
void laio_host_free_state(LinuxAioState *s);

#endif /* BLOCK_LAIO_HOST_H */
