# SPDX-License-Identifier: MIT OR Apache-2.0
"""Full file systems, failing requests, and faults between the library and the kernel."""

from __future__ import annotations

from pathlib import Path

from lab.bench import Bench, Disk
from lab.case import Case, Failure, Skip, add, case, check, with_io_uring
from lab.guest import Guest
from lab.host import MiB, file_system, make_full
from lab.load import Load, fio, verified

IOTHREAD = ('-object', 'iothread,id=io0')
DEVICE = 'virtio-blk-pci,drive=disk,iothread=io0,id=dev'


async def on_full(bench: Bench, policy: str) -> tuple[Guest, Disk, Path]:
    """A guest whose disk is sparse on a file system that has 2 MiB left, and the file to remove."""
    where = await bench.stack.enter_async_context(file_system('tmpfs', bench.directory, 32 * MiB))
    disk = await bench.disk(where=where)
    filler = make_full(where / 'filler', 30 * MiB)
    guest = await bench.guest([disk], (f'{DEVICE},werror={policy}',), arguments=IOTHREAD)
    return guest, disk, filler


@case('errors/no-space-stop', short=True, both_aios=True)
async def no_space_stop(bench: Bench) -> None:
    guest, _, filler = await on_full(bench, 'stop')
    load = Load(guest)
    await load.start()
    event = await guest.event('BLOCK_IO_ERROR')
    check(event['nospace'] and event['action'] == 'stop', f'it stops for want of space: {event}')
    await guest.event('STOP')
    # Once more without room: it stops again, and nothing is lost.
    await guest.execute('cont')
    await guest.event('STOP')
    filler.unlink()
    await guest.execute('cont')
    await load.more_passes()
    await load.stop()
    await guest.quit()


@case('errors/no-space-report', short=True, both_aios=True)
async def no_space_report(bench: Bench) -> None:
    guest, _, filler = await on_full(bench, 'report')
    output = await guest.shell(fio('/dev/vda'), status=None)
    check('err=' in output and 'err= 0' not in output, f'fio is told: {output}')
    filler.unlink()
    await verified(guest, seed=2)
    await guest.quit()


@case('errors/no-space-ignore', both_aios=True)
async def no_space_ignore(bench: Bench) -> None:
    guest, _, filler = await on_full(bench, 'ignore')
    await guest.shell('dd if=/dev/zero of=/dev/vda bs=64k count=128 oflag=direct')
    filler.unlink()
    await verified(guest, seed=2)
    await guest.quit()


def register_injection(kind: str) -> None:
    async def body(bench: Bench) -> None:
        """One request in the middle fails; the guest stops, goes on, and the same request then works."""
        disk = await bench.disk()
        # The emulator itself and the guest's kernel look at the first sectors.
        where = ',inject-error.0.sector=2048' if kind == 'read' else ''
        blkdebug = (
            f'driver=blkdebug,node-name=bad,image=disk,inject-error.0.event=none,inject-error.0.iotype={kind},'
            f'inject-error.0.errno=5,inject-error.0.once=on{where}'
        )
        guest = await bench.guest(
            [disk],
            (),
            arguments=(
                *IOTHREAD,
                *('-blockdev', blkdebug, '-device', 'virtio-blk-pci,drive=bad,iothread=io0,werror=stop,rerror=stop'),
            ),
            start=False,
        )
        await guest.start()
        load = Load(guest, more='--fsync=16')
        await load.start()
        event = await guest.event('BLOCK_IO_ERROR')
        check(event['operation'] == ('read' if kind == 'read' else 'write'), f'a {kind} fails: {event}')
        await guest.event('STOP')
        await guest.execute('cont')
        await load.more_passes()
        await load.stop()
        await guest.quit()

    new = Case(f'errors/injected-{kind}', body, 1800, kind == 'write', False, 'linux-aio')
    add(new)
    add(with_io_uring(new))


for a_kind in ('read', 'write', 'flush'):
    register_injection(a_kind)


@case('errors/discard-and-zero', short=True, both_aios=True)
async def discard_and_zero(bench: Bench) -> None:
    disk = Disk(
        make_full(bench.directory / 'disk.raw', 64 * MiB),
        options=',discard=unmap,detect-zeroes=unmap',
        protocol=',discard=unmap',
    )
    guest = await bench.guest([disk], (DEVICE,), arguments=IOTHREAD)
    load = Load(guest)
    await load.start()
    zeros = 'dd if=/dev/vda bs=1M skip={} count=8 iflag=direct 2>/dev/null | tr -d "\\0" | wc -c'
    for round_ in range(4):
        start = 8 + 8 * round_
        if round_ % 2:
            await guest.shell(f'blkdiscard -o {start}M -l 8M /dev/vda')
        else:
            # Which the emulator makes a request to zero, and the library sees the others alone.
            await guest.shell(f'dd if=/dev/zero of=/dev/vda bs=1M seek={start} count=8 oflag=direct')
        left = await guest.shell(zeros.format(start))
        check(left == '0', f'round {round_} reads as zeros: {left} bytes do not')
        others = await guest.shell(zeros.format(start + 8))
        check(others != '0', 'what lies behind it does not')
    check(disk.path.stat().st_blocks * 512 < 52 * MiB, 'the file has holes')
    await load.stop()
    await guest.quit()


def register_faults(device: str, kernel: str, short: bool) -> None:
    async def body(bench: Bench) -> None:
        if bench.places.engine == 'own':
            raise Skip("the shim is in front of the library's system calls")
        shim = bench.places.programs() / 'c-tests/fault/libfault-shim.so'
        if not shim.exists():
            raise Failure(f'{shim} is missing')
        disk = await bench.disk()
        guest = await bench.guest(
            [disk],
            (device,),
            arguments=IOTHREAD,
            environment={'LD_PRELOAD': str(shim), 'LAIO_FAULT_SEED': '1'},
        )
        for seed in range(1, 4):
            await verified(guest, seed=seed, rw='randrw')
        await guest.quit()
        check(' 0 retried' not in guest.said(), f'there were faults: {guest.said()}')

    place = 'iothread' if 'iothread' in device else 'main-loop'
    suffix = '' if kernel == 'linux-aio' else '-on-io_uring'
    add(Case(f'errors/faults-in-{place}{suffix}', body, 1800, short, False, kernel))


for a_kernel in ('linux-aio', 'io_uring'):
    register_faults(DEVICE, a_kernel, True)
    register_faults('virtio-blk-pci,drive=disk', a_kernel, False)
