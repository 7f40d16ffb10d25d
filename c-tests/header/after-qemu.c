/* The header after a tree's own types. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "qemu-types.h"

#define LAIO_NO_QEMU_TYPES
#include <laio.h>

int submit(QEMUIOVector *qiov);
int submit(QEMUIOVector *qiov)
{
    return laio_co_submit(0, 0, qiov, QEMU_AIO_WRITE, BDRV_REQ_FUA, 0);
}
