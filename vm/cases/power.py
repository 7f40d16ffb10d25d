# SPDX-License-Identifier: MIT OR Apache-2.0
"""Power cuts inside a guest, at every point of what the library wrote: every FUA write, and every write
before a completed flush, is there."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench
from lab.case import Case, Failure, add, case, check
from lab.cuts import check_cuts
from lab.host import MiB
from lab.library import library_guest

POINTS = 1000
SECTORS = 64 * MiB // 512


async def written_log(bench: Bench, seed: int, count: int, kernel: str, base: str, lie: str = '') -> Path:
    """The log of what a writer in a guest did to a disk, which is `base`: a disk of the emulator's, which
    knows flushes, or one of scsi_debug, which knows FUA as well."""
    log = await bench.disk(128 * MiB, node='log')
    guest = await library_guest(
        bench,
        file_system='',
        modules='dm_mod,dm_log_writes,sd_mod',
        more_disks=[log],
    )
    device = '/dev/vda'
    if base == 'scsi':
        await guest.shell('modprobe scsi_debug dev_size_mb=64 delay=0')
        device = '/dev/sda'
    await guest.shell(f'until [ -b {device} ] && [ -b /dev/vdb ]; do sleep 0.1; done')
    await guest.shell(f'echo "0 {SECTORS} log-writes {device} /dev/vdb" | dmsetup create --noudevsync logged')
    await guest.shell(f'LAIO_KERNEL={kernel} vm-power-writer /dev/dm-0 {count} {seed} {lie}')
    await guest.shell('dmsetup remove --noudevsync logged')
    await guest.quit()
    return log.path


def register(kernel: str, base: str, count: int, suffix: str, short: bool) -> None:
    async def body(bench: Bench) -> None:
        log = await written_log(bench, 1, count, kernel, base)
        cuts = check_cuts(log, 1)
        bench.notes.append(f'{cuts} cuts')
        check(cuts >= POINTS, f'there were enough points to cut at, and not {cuts}')

    add(Case(f'power/cuts-{base}-on-{kernel}{suffix}', body, 1800, short, True, 'linux-aio'))


for a_kernel in ('linux-aio', 'io_uring'):
    for a_base in ('scsi', 'virtio'):
        register(a_kernel, a_base, 2 * POINTS, '', a_base == 'scsi')
        register(a_kernel, a_base, 20 * POINTS, '-long', False)


@case('power/liar', short=True, inside=True)
async def liar(bench: Bench) -> None:
    """A writer that takes plain writes for stable is found out: the check can fail."""
    log = await written_log(bench, 1, POINTS, 'linux-aio', 'scsi', 'lie')
    try:
        cuts = check_cuts(log, 1)
    except Failure as failure:
        bench.notes.append(str(failure))
        return
    raise Failure(f'nothing was found at {cuts} points')
