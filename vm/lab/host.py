# SPDX-License-Identifier: MIT OR Apache-2.0
"""What cases do on the host: commands, and file systems that go when the case ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from .case import Failure, Skip

MiB = 1 << 20


async def run(*command: object, allow: tuple[int, ...] = (0,)) -> str:
    """What the command prints, once it has ended; it must not fail with a status outside of `allow`."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors='replace')
    if process.returncode not in allow:
        raise Failure(f'{" ".join(map(str, command))} ended with {process.returncode}:\n{text}')
    return text


async def eventually(what: str, condition: Callable[[], bool], seconds: float = 1800) -> None:
    """Waits until the condition holds. The time is only there for hangs."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise Failure(f'waited for {seconds} s: {what}')
        await asyncio.sleep(0.05)


async def released(path: Path) -> None:
    """Waits until nobody has locks on the file. What a killed emulator had in flight on io_uring keeps the file,
    and with it the locks of the image, for a moment longer than the process lives."""
    number = path.stat().st_ino
    await eventually(f'{path} is locked', lambda: f':{number} ' not in Path('/proc/locks').read_text())


def make_file(path: Path, size: int) -> Path:
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def make_full(path: Path, size: int) -> Path:
    """A file without holes."""
    with open(path, 'wb') as file:
        for _ in range(size // MiB):
            file.write(os.urandom(MiB))
    return path


def digest(path: Path) -> str:
    hash_ = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(MiB):
            hash_.update(block)
    return hash_.hexdigest()


@contextlib.asynccontextmanager
async def loop_device(file: Path, sector: int = 512) -> AsyncIterator[Path]:
    """A loop device over the file."""
    if os.geteuid() != 0 or not Path('/dev/loop-control').exists():
        raise Skip('loop devices want root')
    device = Path((await run('losetup', '-f', '--show', '-b', sector, file)).strip())
    # To be let go of while it is open means that it goes with the last who has it open, even by a kill.
    opened = os.open(device, os.O_RDONLY)
    try:
        await run('losetup', '-d', device)
        yield device
    finally:
        os.close(opened)


@contextlib.asynccontextmanager
async def file_system(kind: str, where: Path, size: int) -> AsyncIterator[Path]:
    """A mounted file system of its own, in a file in `where`, or in memory for tmpfs."""
    if os.geteuid() != 0:
        raise Skip('mounting wants root')
    mount = where / f'mount-{kind}'
    mount.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        if kind == 'tmpfs':
            source, options = Path('tmpfs'), ['-o', f'size={size}']
        else:
            mkfs = shutil.which(f'mkfs.{kind}', path=os.environ['PATH'] + ':/usr/sbin:/sbin')
            if mkfs is None:
                raise Skip(f'mkfs.{kind} is missing')
            image = make_file(where / f'{kind}.image', size)
            await run(mkfs, '-q', image)
            source, options = await stack.enter_async_context(loop_device(image)), []
        try:
            await run('mount', '-t', kind, *options, source, mount)
        except Failure as failure:
            raise Skip(f'{kind} cannot be mounted here: {failure}') from failure
        try:
            yield mount
        finally:
            await run('umount', mount)
