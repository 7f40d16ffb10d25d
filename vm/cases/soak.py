# SPDX-License-Identifier: MIT OR Apache-2.0
"""Soak: machines whose kind, engine, faults and sequence of operations come from a seed, for as long as one
likes. Not registered as cases: tools/check-vm.sh --soak makes them."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lab.bench import Bench, Disk
from lab.case import Case, check
from lab.guest import Guest
from lab.host import MiB, released, run
from lab.load import Load, verified

from .devices import KINDS, Kind
from .jobs import SIZE, add_node, same

OPERATIONS_A_ROUND = 8
# The error numbers of a disk that is broken, and of one that is full.
ERRORS = (5, 28)


@dataclass
class Machine:
    """A guest under load. Its disk is one node, `top`, between operations."""

    bench: Bench
    kind: Kind
    format: str
    environment: dict[str, str]
    top: str = 'disk'
    path: Path = field(default_factory=Path)
    size: int = SIZE
    nodes: int = 0

    guest: Guest = field(init=False)
    load: Load = field(init=False)

    @property
    def file(self) -> str:
        return f'/dev/{self.kind.file}'

    async def boot(self) -> None:
        self.guest = await self.bench.guest(
            [Disk(self.path, self.format)],
            self.kind.devices,
            modules=f'virtio_pci,virtio_blk,{self.kind.modules}',
            machine=self.kind.machine,
            arguments=self.kind.objects,
            environment=self.environment,
        )
        await self.guest.shell(f'until [ -b {self.file} ]; do sleep 0.1; done')
        await self.begin_load()

    async def begin_load(self) -> None:
        self.load = Load(self.guest, self.file)
        await self.load.start()

    async def add(self, format_: str, **more: object) -> tuple[str, Path]:
        """A new node of the disk's size."""
        self.nodes += 1
        node = f'node{self.nodes}'
        return node, await add_node(self.bench, self.guest, node, format_, size=self.size, **more)

    async def remove(self, node: str) -> None:
        await self.guest.execute('blockdev-del', {'node-name': node})

    async def become(self, node: str, path: Path, format_: str) -> None:
        """Another node is the disk now."""
        await self.remove(self.top)
        self.top, self.path, self.format = node, path, format_


Operation = Callable[[Machine, random.Random], Awaitable[None]]


def any_format(rng: random.Random) -> str:
    return rng.choice(('raw', 'qcow2'))


async def mirror(machine: Machine, rng: random.Random) -> None:
    format_ = any_format(rng)
    node, path = await machine.add(format_)
    how = {'sync': 'full', 'copy-mode': rng.choice(('background', 'write-blocking'))}
    job = await machine.guest.job('blockdev-mirror', {'device': machine.top, 'target': node, **how}, until='ready')
    await machine.load.more_passes()
    await machine.guest.execute('job-complete', {'id': job})
    await machine.guest.job_state(job)
    await machine.become(node, path, format_)


async def cancelled_mirror(machine: Machine, rng: random.Random) -> None:
    node, _ = await machine.add(any_format(rng))
    how = {'sync': 'full', 'job-id': 'slow', 'speed': 1 << rng.randrange(14, 20)}
    await machine.guest.execute('blockdev-mirror', {'device': machine.top, 'target': node, **how})
    await machine.guest.execute('block-job-cancel', {'device': 'slow', 'force': True})
    await machine.guest.job_state('slow', 'gone')
    await machine.remove(node)


async def failing_mirror(machine: Machine, rng: random.Random) -> None:
    """The target fails, and so does the job; the guest notices nothing."""
    error = {'event': 'none', 'iotype': 'write', 'errno': rng.choice(ERRORS)}
    node, _ = await machine.add('raw', inject=error)
    await machine.guest.execute(
        'blockdev-mirror',
        {'device': machine.top, 'target': node, 'sync': 'full', 'job-id': 'broken', 'auto-dismiss': False},
    )
    await machine.guest.job_state('broken', fails=True)
    await machine.remove(node)


async def backup(machine: Machine, rng: random.Random) -> None:
    """What it copies while the guest writes is what the disk was when it began."""
    await machine.load.stop()
    # What the emulator has not written of the image's own tables goes with a flush, which this makes.
    await machine.guest.shell(f'dd if=/dev/urandom of={machine.file} bs=4k seek=4096 count=1 oflag=direct conv=fsync')
    then = machine.path.with_suffix('.then')
    await run(machine.bench.places.image_tool, 'convert', '-U', '-f', machine.format, '-O', 'raw', machine.path, then)
    format_ = any_format(rng)
    node, path = await machine.add(format_)
    how = {'sync': 'full', 'speed': MiB << rng.randrange(3), 'auto-dismiss': False}
    await machine.guest.execute(
        'blockdev-backup', {'device': machine.top, 'target': node, 'job-id': f'of-{node}', **how}
    )
    await machine.begin_load()
    await machine.load.more_passes()
    await machine.guest.job_state(f'of-{node}')
    await machine.remove(node)
    await same(machine.bench, then, path, 'raw', format_)
    then.unlink()


async def snapshot(machine: Machine, rng: random.Random) -> None:
    """An overlay takes the writes, and then goes down into what is below, or takes that up."""
    node, path = await machine.add('qcow2', backing=None)
    await machine.guest.execute('blockdev-snapshot', {'node': machine.top, 'overlay': node})
    await machine.load.more_passes()
    if rng.random() < 0.5:
        job = await machine.guest.job('block-commit', {'device': node, 'base-node': machine.top}, until='ready')
        await machine.load.more_passes()
        await machine.guest.execute('job-complete', {'id': job})
        await machine.guest.job_state(job)
        await machine.remove(node)
    else:
        await machine.guest.job('block-stream', {'device': node})
        await machine.become(node, path, 'qcow2')


async def resize(machine: Machine, rng: random.Random) -> None:
    machine.size += MiB * rng.randrange(1, 16)
    await machine.guest.execute('block_resize', {'node-name': machine.top, 'size': machine.size})


async def hot_plug(machine: Machine, rng: random.Random) -> None:
    node, _ = await machine.add(any_format(rng))
    await machine.guest.execute('device_add', {'driver': 'virtio-blk-pci', 'drive': node, 'id': 'plugged'})
    other = '/dev/vdb' if machine.kind.file == 'vda' else '/dev/vda'
    await machine.guest.shell(f'until [ -b {other} ]; do sleep 0.1; done')
    await verified(machine.guest, other, size='2m', seed=rng.randrange(1 << 30))
    await machine.guest.execute('device_del', {'id': 'plugged'})
    await machine.guest.event('DEVICE_DELETED', device='plugged')
    await machine.guest.shell(f'while [ -b {other} ]; do sleep 0.1; done')
    await machine.remove(node)


async def reset(machine: Machine, rng: random.Random) -> None:
    await machine.guest.execute('system_reset')
    await machine.guest.rebooted()
    await machine.guest.shell(f'until [ -b {machine.file} ]; do sleep 0.1; done')
    await machine.begin_load()


async def kill(machine: Machine, rng: random.Random) -> None:
    """The emulator dies. The image may have lost what it was about to use, and nothing else."""
    machine.guest.kill()
    await machine.guest.end()
    await released(machine.path)
    if machine.format == 'qcow2':
        await run(machine.bench.places.image_tool, 'check', '-q', '-r', 'leaks', machine.path)
    machine.top = 'disk'
    await machine.boot()


OPERATIONS: tuple[Operation, ...] = (
    mirror,
    cancelled_mirror,
    failing_mirror,
    backup,
    snapshot,
    resize,
    hot_plug,
    reset,
    kill,
)


def round_of(seed: int) -> Case:
    """All that the seed decides is decided here, so that it is the same with every engine and at every run."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    format_ = any_format(rng)
    kernel = rng.choice(('linux-aio', 'io_uring'))
    aio = rng.choice(('native', 'native', 'io_uring'))
    faults = rng.random() < 0.5
    # A board with PCI Express has no free slot to plug into.
    known = [each for each in OPERATIONS if each is not hot_plug or kind.machine == 'pc']
    operations = [(rng.choice(known), rng.randrange(1 << 30)) for _ in range(OPERATIONS_A_ROUND)]

    async def body(bench: Bench) -> None:
        environment = {}
        shimmed = faults and bench.places.engine == 'laio'
        if shimmed:
            shim = bench.places.programs() / 'c-tests/fault/libfault-shim.so'
            environment = {'LD_PRELOAD': str(shim), 'LAIO_FAULT_SEED': str(seed)}
        disk = await bench.disk(SIZE, format_)
        names = ' '.join(each.__name__ for each, _ in operations)
        bench.notes.append(
            f'{kind.name}, {format_}, aio={aio}, LAIO_KERNEL={kernel}{", with faults" if shimmed else ""}: {names}'
        )
        machine = Machine(bench, kind, format_, environment, path=disk.path)
        await machine.boot()
        for done, (operation, its_seed) in enumerate(operations):
            await machine.load.more_passes()
            (bench.directory / 'at').write_text(f'{done}: {operation.__name__}\n')
            await operation(machine, random.Random(its_seed))
        await machine.load.more_passes()
        await machine.load.stop()
        await machine.guest.quit()
        if machine.format == 'qcow2':
            await run(bench.places.image_tool, 'check', '-q', machine.path)
        if shimmed:
            check(' 0 retried' not in machine.guest.said(), f'there were faults: {machine.guest.said()}')

    return Case(f'soak/{seed}', body, 3600, False, False, kernel, aio)


def rounds(seed: int, seconds: float) -> Iterator[Case]:
    """At least one; new ones until the time is over."""
    end = time.monotonic() + seconds
    while True:
        yield round_of(seed)
        seed += 1
        if time.monotonic() >= end:
            return
