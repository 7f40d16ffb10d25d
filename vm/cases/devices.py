# SPDX-License-Identifier: MIT OR Apache-2.0
"""Every kind of disk that submits in a way of its own, with fio's verification inside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.bench import Bench
from lab.case import Case, add, check, with_io_uring
from lab.load import verified


@dataclass(frozen=True)
class Kind:
    """`file` is the disk's name in the guest."""

    name: str
    devices: tuple[str, ...]
    modules: str
    file: str
    objects: tuple[str, ...] = ()
    machine: str = 'pc'
    short: bool = True


BLK = 'virtio_pci,virtio_blk'
IOTHREAD = ('-object', 'iothread,id=io0')
# Four queues over four threads, which share one image.
FOUR = tuple(word for i in range(4) for word in ('-object', f'iothread,id=io{i}'))
MAPPED = (
    '{"driver":"virtio-blk-pci","drive":"disk","num-queues":4,'
    '"iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io1"},{"iothread":"io2"},{"iothread":"io3"}]}'
)
KINDS = (
    Kind('virtio-blk', ('virtio-blk-pci,drive=disk',), BLK, 'vda'),
    Kind('virtio-blk-iothread', ('virtio-blk-pci,drive=disk,iothread=io0',), BLK, 'vda', IOTHREAD),
    # The vCPU's threads submit themselves.
    Kind('virtio-blk-vcpu', ('virtio-blk-pci,drive=disk,ioeventfd=off',), BLK, 'vda'),
    Kind('virtio-blk-four-iothreads', (MAPPED,), BLK, 'vda', FOUR),
    Kind(
        'virtio-scsi-iothread',
        ('virtio-scsi-pci,iothread=io0', 'scsi-hd,drive=disk'),
        'virtio_pci,virtio_scsi,sd_mod',
        'sda',
        IOTHREAD,
    ),
    Kind('virtio-scsi', ('virtio-scsi-pci', 'scsi-hd,drive=disk'), 'virtio_pci,virtio_scsi,sd_mod', 'sda', short=False),
    Kind('nvme', ('nvme,drive=disk,serial=laio',), 'nvme', 'nvme0n1'),
    Kind('nvme-ioeventfd', ('nvme,drive=disk,serial=laio,ioeventfd=on',), 'nvme', 'nvme0n1', short=False),
    Kind('ide', ('ide-hd,drive=disk',), 'ata_piix,sd_mod', 'sda'),
    Kind('ahci', ('ide-hd,drive=disk,bus=ide.0',), 'ahci,sd_mod', 'sda', machine='q35'),
)


def register(kind: Kind, kernel: str) -> None:
    async def body(bench: Bench) -> None:
        disk = await bench.disk()
        guest = await bench.guest(
            [disk],
            kind.devices,
            modules=kind.modules,
            machine=kind.machine,
            arguments=kind.objects,
        )
        await guest.shell(f'until [ -b /dev/{kind.file} ]; do sleep 0.1; done')
        for seed, rw in enumerate(('randrw', 'randwrite', 'write'), 1):
            await verified(guest, f'/dev/{kind.file}', seed=seed, rw=rw, size='6m')
        await guest.shell('sync')
        native = kernel == 'linux-aio' and bench.aio == 'native'
        check(guest.uses_linux_aio() == native, f'it is on {"Linux AIO" if native else "io_uring"}')
        await guest.quit()
        if bench.places.engine == 'laio':
            done = re.search(r'laio\[\d+\]: engine: [1-9]', guest.said()) and ' 0 failed' in guest.said()
            check(done, f'the library did it: {guest.said()}')

    suffix = '' if kernel == 'linux-aio' else '-on-io_uring'
    short = kind.short and (not suffix or kind.name == 'virtio-blk-iothread')
    new = Case(f'devices/{kind.name}{suffix}', body, 1800, short, False, kernel)
    add(new)
    if not suffix:
        add(with_io_uring(new, kind.name == 'virtio-blk-iothread'))


for a_kind in KINDS:
    for a_kernel in ('linux-aio', 'io_uring'):
        register(a_kind, a_kernel)
