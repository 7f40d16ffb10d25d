# SPDX-License-Identifier: MIT OR Apache-2.0
"""What happens to a whole machine under load: stopped, saved, migrated, reset, with disks that come,
grow and go, and its emulator killed."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

from lab.bench import Bench, Disk
from lab.case import case, check
from lab.host import MiB, released
from lab.load import Load, verified

IOTHREAD = ('-object', 'iothread,id=io0')
DEVICE = 'virtio-blk-pci,drive=disk,iothread=io0,id=dev'


@case('machine/stop-and-cont', both_aios=True)
async def stop_and_cont(bench: Bench) -> None:
    guest = await bench.guest([await bench.disk()], (DEVICE,), arguments=IOTHREAD)
    load = Load(guest)
    await load.start()
    for _ in range(60):
        await guest.execute('stop')
        await guest.execute('cont')
        await asyncio.sleep(0.03)
    await load.more_passes(2)
    await load.stop()
    await guest.quit()


@case('machine/throttle-and-resize', short=True, both_aios=True)
async def throttle_and_resize(bench: Bench) -> None:
    disk = await bench.disk()
    limits = '-object', 'throttle-group,id=group,x-iops-total=500'
    throttle = '-blockdev', 'driver=throttle,node-name=slow,throttle-group=group,file=disk'
    device = DEVICE.replace('drive=disk', 'drive=slow')
    guest = await bench.guest([disk], (), arguments=(*IOTHREAD, *limits, *throttle, '-device', device))
    load = Load(guest)
    await load.start()
    for round_ in range(8):
        rate = (100000, 200, 0, 2000)[round_ % 4]
        await guest.execute('qom-set', {'path': '/objects/group', 'property': 'limits', 'value': {'iops-total': rate}})
        await guest.execute('block_resize', {'node-name': 'slow', 'size': (64 + 8 * (round_ % 3)) * MiB})
        await asyncio.sleep(0.3)
    await guest.execute('qom-set', {'path': '/objects/group', 'property': 'limits', 'value': {'iops-total': 0}})
    await guest.execute('block_resize', {'node-name': 'slow', 'size': 96 * MiB})
    await load.more_passes(2)
    await load.stop()
    # What was added is there to use.
    await verified(guest, more='--offset=80m', seed=3)
    await guest.quit()


@case('machine/savevm-and-loadvm', short=True, both_aios=True)
async def savevm_and_loadvm(bench: Bench) -> None:
    guest = await bench.guest([await bench.disk(format_='qcow2')], ('virtio-blk-pci,drive=disk,id=dev',))
    load = Load(guest)
    await load.start()
    where = {'vmstate': 'disk', 'devices': ['disk'], 'tag': 'then'}
    await load.more_passes()
    await guest.job('snapshot-save', where)
    at = await load.passes()
    await load.more_passes(2)
    for _ in range(2):
        # The guest goes back to then, with its requests in flight, its fio, and its disk.
        await guest.job('snapshot-load', where)
        await guest.execute('cont')
        check(await load.passes() <= at + 1, 'it is as it was')
        await load.more_passes()
    await guest.job('snapshot-delete', {'devices': ['disk'], 'tag': 'then'})
    await load.stop()
    await guest.quit()


@case('machine/migration-to-a-file', both_aios=True)
async def migration(bench: Bench) -> None:
    guest = await bench.guest([await bench.disk()], (DEVICE,), arguments=IOTHREAD)
    load = Load(guest)
    await load.start()
    await guest.execute('migrate-set-capabilities', {'capabilities': [{'capability': 'events', 'state': True}]})
    for round_ in range(2):
        await load.more_passes()
        state = bench.directory / f'state{round_}'
        await guest.execute('migrate', {'uri': f'file:{state}'})
        await guest.event('MIGRATION', status='completed')
        # Its disk is the other's now.
        await guest.quit()
        guest = await bench.successor(guest, 'defer')
        await guest.execute('migrate-set-capabilities', {'capabilities': [{'capability': 'events', 'state': True}]})
        await guest.execute('migrate-incoming', {'uri': f'file:{state}'})
        await guest.event('MIGRATION', status='completed')
        await guest.execute('cont')
        load.guest = guest
    await load.more_passes(2)
    await load.stop()
    await guest.quit()


@case('machine/hot-plug', short=True, both_aios=True)
async def hot_plug(bench: Bench) -> None:
    disk, other = await bench.disk(), await bench.disk(node='other')
    guest = await bench.guest([disk, other], (DEVICE,), arguments=IOTHREAD)
    load = Load(guest)
    await load.start()
    for round_ in range(4):
        plugged = {'driver': 'virtio-blk-pci', 'drive': 'other', 'id': 'plugged'}
        await guest.execute('device_add', plugged | ({'iothread': 'io0'} if round_ % 2 else {}))
        await guest.shell('until [ -b /dev/vdb ]; do sleep 0.1; done')
        if round_ < 2:
            await verified(guest, '/dev/vdb', seed=round_ + 1, size='4m')
        else:
            # Gone from under its load, which must then fail, and nothing else.
            await guest.shell(
                '(while dd if=/dev/zero of=/dev/vdb bs=64k count=64 oflag=direct; do :; done) >/dev/null 2>&1 &'
            )
        await guest.execute('device_del', {'id': 'plugged'})
        await guest.event('DEVICE_DELETED', device='plugged')
        await guest.shell('while [ -b /dev/vdb ]; do sleep 0.1; done')
    await guest.execute('blockdev-del', {'node-name': 'other'})
    await load.more_passes()
    await load.stop()
    await guest.quit()


@case('machine/reset', short=True, both_aios=True)
async def reset(bench: Bench) -> None:
    guest = await bench.guest([await bench.disk()], (DEVICE,), arguments=IOTHREAD)
    for seed in range(3):
        await Load(guest).start()
        await asyncio.sleep(1)
        await guest.execute('system_reset')
        await guest.rebooted()
        await verified(guest, seed=seed + 1, size='4m')
    await guest.quit()


@case('machine/quit-under-load', short=True, both_aios=True)
async def quit_under_load(bench: Bench) -> None:
    disk = await bench.disk()
    for device in (DEVICE, 'virtio-blk-pci,drive=disk,ioeventfd=off'):
        guest = await bench.guest([disk], (device,), arguments=IOTHREAD)
        load = Load(guest)
        await load.start()
        await load.more_passes()
        await guest.quit()


RECORD = 4096
SLOTS = 1024
MAGIC = b'laio-rec'


def records(disk: Disk) -> dict[int, int]:
    """The number that each slot has, of those that have one; a torn record is a failure."""
    found = {}
    with open(disk.path, 'rb') as file:
        for slot in range(SLOTS):
            block = file.read(RECORD)
            if block[:8] == MAGIC:
                (number,) = struct.unpack_from('<Q', block, 8)
                check(block == struct.pack('<8sQ', MAGIC, number) * (RECORD // 16), f'record {number} is whole')
                found[slot] = number
    return found


def flushed(console: Path) -> list[int]:
    """The numbers up to which the guest has said that all is flushed."""
    return [int(n) for n in re.findall(r'^flushed (\d+)\r?$', console.read_text(errors='replace'), re.M)]


@case('machine/killed-emulator', short=True, both_aios=True)
async def killed_emulator(bench: Bench) -> None:
    """What the guest had flushed when its emulator was killed is in the file."""
    disk = await bench.disk()
    for round_ in range(3):
        guest = await bench.guest([disk], (DEVICE,), arguments=IOTHREAD)
        await guest.shell(f'(vm-records /dev/vda {SLOTS} {round_ * 1_000_000 + 1} >/dev/ttyS0) &')
        console = guest.directory / 'console.log'
        while len(flushed(console)) < 40:
            await asyncio.sleep(0.05)
            check(guest.alive(), 'the emulator runs')
        guest.kill()
        await guest.end()
        await released(disk.path)
        safe = max(flushed(console))
        found = records(disk)
        for number in range(max(round_ * 1_000_000 + 1, safe - SLOTS + 1), safe + 1):
            slot = number % SLOTS
            check(found.get(slot, 0) >= number, f'record {number}, which was flushed (up to {safe}), is there')
