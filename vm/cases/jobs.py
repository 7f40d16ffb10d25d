# SPDX-License-Identifier: MIT OR Apache-2.0
"""Block jobs while the guest writes: what they copy is right, and the guest reads what it wrote."""

from __future__ import annotations

import contextlib
from pathlib import Path

from qemu.qmp import ExecuteError

from lab.bench import Bench, Disk
from lab.case import case, check
from lab.guest import Guest
from lab.host import MiB, digest, run
from lab.load import Load, verified

SIZE = 64 * MiB
IOTHREAD = ('-object', 'iothread,id=io0')
# The name by which the commands of block jobs mean the whole disk, whatever node is its top.
DEVICE = 'virtio-blk-pci,drive=disk,iothread=io0,id=dev'


async def loaded(bench: Bench, format_: str = 'raw') -> tuple[Guest, Load]:
    disk = await bench.disk(SIZE, format_)
    guest = await bench.guest([disk], (DEVICE,), arguments=IOTHREAD)
    load = Load(guest)
    await load.start()
    return guest, load


async def add_node(
    bench: Bench,
    guest: Guest,
    node: str,
    format_: str = 'raw',
    backing: object = 0,
    size: int = SIZE,
    inject: dict[str, object] | None = None,
) -> Path:
    """Another empty image, as a node of the guest's. `backing`: None for a qcow2 whose chain is to be
    made by a snapshot. `inject`: an error that blkdebug makes of its requests."""
    disk = await bench.disk(size, format_, node=node)
    file: dict[str, object] = {
        'driver': 'file',
        'filename': str(disk.path),
        'aio': bench.aio,
        'cache': {'direct': True},
    }
    if inject:
        file = {'driver': 'blkdebug', 'image': file, 'inject-error': [inject]}
    more = {'backing': None} if backing is None else {}
    await guest.execute(
        'blockdev-add',
        {'driver': format_, 'node-name': node, 'file': file, 'cache': {'direct': True}, **more},
    )
    return disk.path


async def same(bench: Bench, one: Path, other: Path, one_format: str = 'raw', other_format: str = 'raw') -> None:
    """Compares what guests see of them, though the emulator has them open."""
    await run(bench.places.image_tool, 'compare', '-U', '-f', one_format, '-F', other_format, one, other)


@case('jobs/mirror-and-pivot', short=True, both_aios=True)
async def mirror_and_pivot(bench: Bench) -> None:
    guest, load = await loaded(bench)
    source = 'disk'
    for round_ in range(3):
        target = f'target{round_}'
        await add_node(bench, guest, target, 'qcow2' if round_ == 1 else 'raw')
        job = await guest.job('blockdev-mirror', {'device': source, 'target': target, 'sync': 'full'}, until='ready')
        await load.more_passes()
        await guest.execute('job-complete', {'id': job})
        await guest.job_state(job)
        await guest.execute('blockdev-del', {'node-name': source})
        await load.more_passes()
        source = target
    await load.stop()
    await guest.quit()


@case('jobs/mirror-and-cancel', short=True, both_aios=True)
async def mirror_and_cancel(bench: Bench) -> None:
    guest, load = await loaded(bench)
    for round_, sync in enumerate(('background', 'write-blocking')):
        target = await add_node(bench, guest, f'target{round_}')
        job = await guest.job(
            'blockdev-mirror',
            {'device': 'disk', 'target': f'target{round_}', 'sync': 'full', 'copy-mode': sync},
            until='ready',
        )
        await load.more_passes()
        await guest.execute('stop')
        # Once ready, this leaves a copy of the very moment.
        await guest.execute('block-job-cancel', {'device': job})
        await guest.job_state(job)
        await same(bench, bench.directory / 'disk.raw', target)
        await guest.execute('cont')
        await guest.execute('blockdev-del', {'node-name': f'target{round_}'})
        await load.more_passes()
    # And one that is cancelled while it copies.
    await add_node(bench, guest, 'unfinished')
    await guest.execute(
        'blockdev-mirror',
        {'device': 'disk', 'target': 'unfinished', 'sync': 'full', 'job-id': 'slow', 'speed': 1 << 16},
    )
    await guest.execute('block-job-cancel', {'device': 'slow', 'force': True})
    await guest.event('BLOCK_JOB_CANCELLED', device='slow')
    await load.more_passes()
    await load.stop()
    await guest.quit()


@case('jobs/backup', short=True, both_aios=True)
async def backup(bench: Bench) -> None:
    guest, load = await loaded(bench)
    for round_ in range(3):
        await load.more_passes()
        target = await add_node(bench, guest, f'backup{round_}')
        await guest.execute('stop')
        # Nothing is in flight now, so the file is what the guest's disk is at this point in time.
        before = digest(bench.directory / 'disk.raw')
        name = f'backup-job{round_}'
        await guest.execute(
            'blockdev-backup',
            {
                'job-id': name,
                'device': 'disk',
                'target': f'backup{round_}',
                'sync': 'full',
                'speed': MiB // 4,
                'auto-dismiss': False,
            },
        )
        await guest.execute('cont')
        await load.more_passes()
        with contextlib.suppress(ExecuteError):  # on a slow machine it may be done by now
            await guest.execute('block-job-set-speed', {'device': name, 'speed': 0})
        await guest.job_state(name)
        await guest.execute('blockdev-del', {'node-name': f'backup{round_}'})
        check(digest(target) == before, f'backup {round_} is what the disk was when it began')
    await load.stop()
    await guest.quit()


@case('jobs/snapshot-commit-stream', short=True, both_aios=True)
async def snapshot_commit_stream(bench: Bench) -> None:
    guest, load = await loaded(bench, 'qcow2')
    top = 'disk'
    for name in ('overlay1', 'overlay2', 'overlay3'):
        await add_node(bench, guest, name, 'qcow2', backing=None)
        await guest.execute('blockdev-snapshot', {'node': top, 'overlay': name})
        top = name
        await load.more_passes()
    # The middle goes down into the first, then the top takes everything up.
    await guest.job('block-commit', {'device': top, 'top-node': 'overlay2', 'base-node': 'overlay1'}, until='concluded')
    await load.more_passes()
    await guest.job('block-stream', {'device': top})
    await load.more_passes()
    # And a new top goes down at once, with the guest's writes coming: an active commit, and a pivot.
    await add_node(bench, guest, 'overlay4', 'qcow2', backing=None)
    await guest.execute('blockdev-snapshot', {'node': top, 'overlay': 'overlay4'})
    await load.more_passes()
    job = await guest.job('block-commit', {'device': 'overlay4', 'base-node': top}, until='ready')
    await load.more_passes()
    await guest.execute('job-complete', {'id': job})
    await guest.job_state(job)
    await load.more_passes()
    await load.stop()
    await guest.quit()
    await run(bench.places.image_tool, 'check', '-q', bench.directory / f'{top}.qcow2')


@case('jobs/mirror-without-iothread-on-io_uring', kernel='io_uring', short=True)
async def mirror_on_io_uring(bench: Bench) -> None:
    guest = await bench.guest([await bench.disk(SIZE)])
    load = Load(guest)
    await load.start()
    target = await add_node(bench, guest, 'target')
    job = await guest.job('blockdev-mirror', {'device': 'disk', 'target': 'target', 'sync': 'full'}, until='ready')
    await load.more_passes()
    await guest.execute('job-complete', {'id': job})
    await guest.job_state(job)
    await load.more_passes()
    await load.stop()
    await verified(guest)
    await guest.quit()
    check(target.stat().st_blocks > 0, 'the target has something')


@case('jobs/backup-of-a-scsi-disk')
async def backup_scsi(bench: Bench) -> None:
    disk: Disk = await bench.disk(SIZE)
    guest = await bench.guest(
        [disk],
        ('virtio-scsi-pci,iothread=io0', 'scsi-hd,drive=disk'),
        modules='virtio_pci,virtio_scsi,sd_mod',
        arguments=IOTHREAD,
    )
    load = Load(guest, '/dev/sda')
    await load.start()
    await load.more_passes()
    target = await add_node(bench, guest, 'backup')
    await guest.execute('stop')
    before = digest(disk.path)
    await guest.execute(
        'blockdev-backup',
        {'job-id': 'b', 'device': 'disk', 'target': 'backup', 'sync': 'full', 'auto-dismiss': False},
    )
    await guest.execute('cont')
    await guest.job_state('b')
    check(digest(target) == before, 'the backup is what the disk was when it began')
    await load.stop()
    await guest.quit()
