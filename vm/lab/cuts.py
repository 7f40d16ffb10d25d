# SPDX-License-Identifier: MIT OR Apache-2.0
"""Power cuts: what a disk may hold after one, from the log of Linux's dm-log-writes, and whether that is
what vm-power-writer was told."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .case import Failure, check

# Of dm-log-writes: the superblock, an entry, and an entry's flags.
SUPER = struct.Struct('<QQQL')
MAGIC, VERSION = 0x6A736677736872, 1
ENTRY = struct.Struct('<QQQQ')
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

RECORD, SLOTS = 4096, 64
HEAD = struct.Struct(f'<8sQQ{SLOTS}Q')
RECORD_MAGIC = b'laio-pwr'
# The states of what was not on stable storage that are tried at each cut: none, all, and so many others.
RANDOM_STATES = 2


@dataclass(frozen=True)
class Entry:
    """What the device below was asked to do, in the order in which it had to be done."""

    slot: int
    flags: int
    record: Record | None


@dataclass(frozen=True)
class Record:
    number: int
    slot: int
    stable: tuple[int, ...]


def parse_record(data: bytes) -> Record:
    magic, number, slot, *stable = HEAD.unpack_from(data)
    check(magic == RECORD_MAGIC and slot < SLOTS, 'what is written is a record')
    return Record(number, slot, tuple(stable))


def entries(log: Path) -> Iterator[Entry]:
    with open(log, 'rb') as file:
        magic, version, count, sector = SUPER.unpack(file.read(SUPER.size))
        check((magic, version) == (MAGIC, VERSION), 'it is a log of dm-log-writes')
        position = sector
        for _ in range(count):
            file.seek(position)
            place, length, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
            position += sector
            if flags & (DISCARD | MARK) or length == 0:
                yield Entry(-1, flags, None)
                continue
            file.seek(position)
            data = file.read(length * sector)
            position += length * sector
            # Requests may have been merged.
            for part in range(0, len(data), RECORD):
                record = parse_record(data[part : part + RECORD])
                check(record.slot == (place * sector + part) // RECORD, 'it is where it belongs')
                yield Entry(record.slot, flags if part == 0 else flags & ~FLUSH, record)


Disk = dict[int, Record]


def contradiction(disk: Disk) -> str:
    """What a record says is there and is not; empty if there is no such thing."""
    for record in disk.values():
        for slot, number in enumerate(record.stable):
            found = disk[slot].number if slot in disk else 0
            if found < number:
                return f'record {record.number} says that slot {slot} has {number}, and it has {found}'
    return ''


def put(disk: Disk, entry: Entry) -> None:
    """Writes to a slot are one after the other, and their numbers tell which was the last. The log has
    what was not flushed where it was flushed, even behind later writes with FUA; but no disk goes back."""
    record = entry.record
    if record and (entry.slot not in disk or disk[entry.slot].number < record.number):
        disk[entry.slot] = record


def states(stable: Disk, volatile: list[Entry], rng: random.Random) -> Iterator[Disk]:
    """What may be on the disk: of what was not flushed, any part."""
    yield stable
    if not volatile:
        return
    for chance in [1.0] + [0.5] * RANDOM_STATES:
        disk = dict(stable)
        for entry in volatile:
            if rng.random() < chance:
                put(disk, entry)
        yield disk


def check_cuts(log: Path, seed: int) -> int:
    """Cuts the power after every entry of the log, and looks at what may be there then. Says at how many
    points."""
    rng = random.Random(seed)
    stable: Disk = {}
    volatile: list[Entry] = []
    cuts = 0
    for cuts, entry in enumerate(entries(log), 1):
        if entry.flags & FLUSH:
            for old in volatile:
                put(stable, old)
            volatile = []
        if entry.flags & FUA:
            put(stable, entry)
        elif entry.record:
            volatile.append(entry)
        for disk in states(stable, volatile, rng):
            if problem := contradiction(disk):
                raise Failure(f'power cut after entry {cuts}: {problem}')
    return cuts
