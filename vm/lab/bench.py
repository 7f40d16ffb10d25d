# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a case works at: it makes guests and disks, and clears away when the case ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .guest import Guest
from .host import MiB, make_file, run
from .places import AARCH64, Places

# An accelerator that is everywhere.
EMULATED = 'tcg,thread=multi'


@dataclass
class Disk:
    """An image, and how the emulator opens it. `node` is its name in the monitor."""

    path: Path
    format: str = 'raw'
    node: str = 'disk'
    options: str = ''
    protocol: str = ''

    def arguments(self, bench: Bench) -> list[str]:
        driver = 'host_device' if self.path.is_block_device() else 'file'
        file = (
            f'driver={driver},filename={self.path},node-name={self.node}-file,'
            f'cache.direct=on,aio={bench.aio}{self.protocol}'
        )
        wrapped = f'driver={self.format},file={self.node}-file,node-name={self.node},cache.direct=on'
        return ['-blockdev', file, '-blockdev', wrapped + self.options]


@dataclass
class Bench:
    """One for each run of a case. `directory` is empty at its beginning."""

    places: Places
    directory: Path
    acceleration: str
    kernel: str = 'linux-aio'
    aio: str = 'native'
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    notes: list[str] = field(default_factory=list)  # for whoever reads the results
    _guests: int = 0

    async def disk(self, size: int = 64 * MiB, format_: str = 'raw', **more: Any) -> Disk:
        node = more.pop('node', 'disk')
        where = more.pop('where', self.directory)
        path = where / f'{node}.{format_}'
        if format_ == 'raw':
            make_file(path, size)
        else:
            await run(self.places.image_tool, 'create', '-q', '-f', format_, path, size)
        return Disk(path, format_, node, **more)

    async def guest(
        self,
        disks: Sequence[Disk] = (),
        devices: Sequence[str] = ('virtio-blk-pci,drive=disk',),
        *,
        modules: str = 'virtio_pci,virtio_blk',
        machine: str = 'pc',
        arguments: Sequence[str] = (),
        kernel: str | None = None,
        initramfs: Path | None = None,
        memory: int = 320,
        environment: dict[str, str] | None = None,
        start: bool = True,
        append: str = '',
    ) -> Guest:
        """A guest with these disks; it is ended when the case ends. `memory` is in MiB."""
        boot = self.places.guest(kernel)
        if kernel == AARCH64:
            # This machine has one serial port, and the console is there.
            processor = [self.places.emulator_aarch64, '-machine', 'virt', '-cpu', 'cortex-a72', '-accel', EMULATED]
            port, append = 'pci-serial', f'console=ttyAMA0 lab.port=ttyS0 {append}'
            environment = {'LD_LIBRARY_PATH': self.places.libraries_aarch64, **(environment or {})}
        else:
            processor = [self.places.emulator, '-L', self.places.firmware]
            processor += ['-machine', f'{machine},usb=off', '-accel', self.acceleration]
            port, append = '', f'console=ttyS0 {append}'
        command = [
            *processor,
            *('-nodefaults', '-display', 'none', '-m', memory, '-smp', 2, '-no-user-config'),
            *('-kernel', boot / 'vmlinuz', '-initrd', initramfs or boot / 'initramfs'),
            *('-append', f'{append} quiet panic=-1 random.trust_cpu=on lab.modules={modules}'),
            *(word for disk in disks for word in disk.arguments(self)),
            *arguments,
            *(word for device in devices for word in ('-device', device)),
        ]
        self._guests += 1
        guest = Guest(
            self.directory / f'guest{self._guests}',
            command,
            {**os.environ, 'LAIO_KERNEL': self.kernel, 'LAIO_STATS': '1', **(environment or {})},
            port,
        )
        self.stack.push_async_callback(guest.end)
        if start:
            await guest.start()
        return guest

    async def successor(self, guest: Guest, incoming: str) -> Guest:
        """An emulator that takes over what the guest was, from a migration."""
        self._guests += 1
        new = Guest(self.directory / f'guest{self._guests}', guest.command, guest.environment, guest.port)
        self.stack.push_async_callback(new.end)
        await new.start(ready=False, incoming=incoming)
        return new
