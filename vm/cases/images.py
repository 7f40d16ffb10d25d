# SPDX-License-Identifier: MIT OR Apache-2.0
"""Formats, and what the image lies on: file systems, devices of 4 KiB sectors, sparse and full."""

from __future__ import annotations

from lab.bench import Bench, Disk
from lab.case import Case, add, case, with_io_uring
from lab.host import MiB, file_system, loop_device, make_file, make_full, run
from lab.load import verified

DEVICE = ('virtio-blk-pci,drive=disk,iothread=io0',)
IOTHREAD = ('-object', 'iothread,id=io0')


async def use(bench: Bench, disk: Disk) -> None:
    """Writes and verifies twice: over holes, and over what is there; then in another emulator."""
    guest = await bench.guest([disk], DEVICE, arguments=IOTHREAD)
    await verified(guest, seed=1)
    await verified(guest, seed=2, rw='randwrite')
    await guest.quit()
    again = await bench.guest([disk], DEVICE, arguments=IOTHREAD)
    await verified(again, seed=2, rw='randwrite', more='--verify_only=1')
    await again.quit()
    if disk.format == 'qcow2':
        await run(bench.places.image_tool, 'check', '-q', disk.path)


@case('images/qcow2', both_aios=True)
async def qcow2(bench: Bench) -> None:
    await use(bench, await bench.disk(format_='qcow2'))


@case('images/qcow2-on-io_uring', kernel='io_uring')
async def qcow2_on_io_uring(bench: Bench) -> None:
    await use(bench, await bench.disk(format_='qcow2'))


@case('images/full', both_aios=True)
async def full(bench: Bench) -> None:
    await use(bench, Disk(make_full(bench.directory / 'full.raw', 64 * MiB)))


@case('images/sectors-of-4096', short=True, both_aios=True)
async def big_sectors(bench: Bench) -> None:
    file = make_file(bench.directory / 'backing', 64 * MiB)
    device = await bench.stack.enter_async_context(loop_device(file, 4096))
    await use(bench, Disk(device))


def register(kind: str, format_: str, short: bool) -> None:
    async def body(bench: Bench) -> None:
        where = await bench.stack.enter_async_context(file_system(kind, bench.directory, 384 * MiB))
        await use(bench, await bench.disk(format_=format_, where=where))

    new = Case(f'images/{format_}-on-{kind}', body, 1800, short, False, 'linux-aio')
    add(new)
    add(with_io_uring(new))


for a_kind in ('ext4', 'xfs', 'btrfs', 'tmpfs'):
    for a_format in ('raw', 'qcow2'):
        register(a_kind, a_format, (a_kind, a_format) in (('tmpfs', 'raw'), ('xfs', 'qcow2')))
