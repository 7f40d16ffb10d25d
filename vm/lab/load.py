# SPDX-License-Identifier: MIT OR Apache-2.0
"""Load inside a guest: fio, which verifies what it has written."""

from __future__ import annotations

from .case import check
from .guest import Guest


def fio(device: str, *, size: str = '8m', rw: str = 'randrw', seed: int = 1, more: str = '') -> str:
    """A command that writes random blocks and then reads them back."""
    return (
        f'fio --name=load --filename={device} --ioengine=libaio --direct=1 --iodepth=16 '
        f'--bssplit=4k/50:16k/30:64k/20 --rw={rw} --size={size} --randseed={seed} '
        f'--verify=crc32c --verify_fatal=1 --thread {more}'
    )


async def verified(guest: Guest, device: str = '/dev/vda', **options: object) -> None:
    """One pass, to its end."""
    await guest.shell(fio(device, **options))  # type: ignore[arg-type]


class Load:
    """Passes in the background, until they are stopped. A pass writes, then verifies what it wrote; each
    has another seed. It has its files in /run, so a guest may have several, by name."""

    def __init__(self, guest: Guest, device: str = '/dev/vda', name: str = 'load', more: str = ''):
        self.guest = guest
        self.name = name
        self.command = fio(device, size='4m', more=more).replace('--randseed=1', '--randseed=$pass')

    async def start(self) -> None:
        loop = (
            f'pass=1; while [ ! -e /run/{self.name}.stop ]; do '
            f'{self.command} >/run/{self.name}.log 2>&1 || {{ echo $? >/run/{self.name}.bad; break; }}; '
            f'echo $pass >/run/{self.name}.passes; pass=$((pass + 1)); done; echo >/run/{self.name}.ended'
        )
        await self.guest.shell(f'rm -f /run/{self.name}.*; ({loop}) >/dev/null 2>&1 &')

    async def passes(self) -> int:
        """How many passes were good; one that was not is a failure."""
        return int(
            await self.guest.shell(
                f'if [ -e /run/{self.name}.bad ]; then cat /run/{self.name}.log; exit 1; fi; '
                f'cat /run/{self.name}.passes 2>/dev/null || echo 0'
            )
        )

    async def more_passes(self, count: int = 1) -> None:
        """Waits until that many passes more have ended well."""
        target = await self.passes() + count
        while await self.passes() < target:
            await self.guest.shell('sleep 0.2')

    async def stop(self) -> None:
        """Lets the pass that runs end, which has to be good as well."""
        await self.guest.shell(
            f'touch /run/{self.name}.stop; until [ -e /run/{self.name}.ended ]; do sleep 0.1; done; '
            f'[ ! -e /run/{self.name}.bad ] || {{ cat /run/{self.name}.log; exit 1; }}'
        )
        check(await self.passes() > 0, 'a pass of the load has ended')
