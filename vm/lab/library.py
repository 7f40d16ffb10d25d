# SPDX-License-Identifier: MIT OR Apache-2.0
"""The library inside of a guest: boots one that has its tests, and runs them there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .bench import Bench, Disk
from .case import Failure
from .guest import Guest
from .host import MiB, run

# Where tests make their files.
WORK = '/mnt'
MODULES = 'virtio_pci,virtio_blk,loop,ext4'


def combined(bench: Bench, kernel: str | None) -> Any:
    """The kernel's initramfs with the library's behind it: Linux unpacks one after the other."""
    path = bench.directory / 'initramfs'
    with open(path, 'wb') as out:
        for part in (bench.places.guest(kernel) / 'initramfs', bench.places.library(kernel)):
            with open(part, 'rb') as source:
                shutil.copyfileobj(source, out)
    return path


async def library_guest(
    bench: Bench,
    kernel: str | None = None,
    *,
    modules: str = '',
    file_system: str = 'ext4',
    memory: int = 768,
    more_disks: Sequence[Disk] = (),
    **more: Any,
) -> Guest:
    """A guest with the library's tests, and 512 MiB of a file system at WORK. The emulator beneath is the
    one that is under test elsewhere, and not here."""
    disk = await bench.disk(512 * MiB)
    if file_system:
        await run(f'/sbin/mkfs.{file_system}', disk.path)
    guest = await bench.guest(
        [disk, *more_disks],
        [f'virtio-blk-pci,drive={each.node}' for each in (disk, *more_disks)],
        modules=MODULES + (f',{modules}' if modules else '') + (f',{file_system}' if file_system else ''),
        kernel=kernel,
        initramfs=combined(bench, kernel),
        memory=memory,
        **more,
    )
    if file_system:
        await guest.shell(f'mount -t {file_system} /dev/vda {WORK}')
    await guest.shell('mkdir -p /etc; ulimit -l unlimited; true')
    return guest


@dataclass
class Outcome:
    """What the tests said, over all programs."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


async def meson_tests(bench: Bench, suites: tuple[str, ...], kernel: str | None = None) -> list[dict[str, Any]]:
    tests = json.loads(await run('meson', 'introspect', '--tests', bench.places.programs(kernel)))
    return [test for test in tests if any(suite.split(':')[-1] in suites for suite in test['suite'])]


async def run_test(guest: Guest, test: dict[str, Any], outcome: Outcome, scale: int) -> None:
    """Runs one of meson's tests inside, and adds what it says."""
    environment = {'LAIO_TEST_SCALE': str(scale), **test['env'], 'LAIO_TEST_DIR': WORK}
    # The library is found by its program, and the shell's own commands want none of it.
    environment.pop('LD_LIBRARY_PATH', None)
    words = [f'{key}={shlex.quote(value)}' for key, value in environment.items()]
    output = await guest.shell(f'env {" ".join(words)} {test["cmd"][0]}; echo "status $?"', status=None)
    status = re.search(r'^status (\d+)$', output, re.M)
    bad = re.findall(r'^not ok \d+ ?-? ?(.*)$', output, re.M)
    good = re.findall(r'^ok \d+ ?-? ?([^#\n]*)(?:# SKIP (.*))?$', output, re.M | re.I)
    outcome.passed += sum(not reason for _, reason in good)
    outcome.skipped += [f'{test["name"]}: {name.strip()}: {reason}' for name, reason in good if reason]
    if test['protocol'] == 'exitcode' and status and status[1] == '0':
        outcome.passed += 1
    elif bad or not status or status[1] != '0' or not good:
        outcome.failed.append(f'{test["name"]}: {", ".join(bad) or "no result"}\n{output}')


async def run_suites(
    bench: Bench, guest: Guest, suites: tuple[str, ...], scale: int, kernel: str | None = None
) -> None:
    await run_tests(bench, guest, await meson_tests(bench, suites, kernel), scale)


async def run_tests(bench: Bench, guest: Guest, tests: Sequence[dict[str, Any]], scale: int) -> None:
    outcome = Outcome()
    for test in tests:
        await run_test(guest, test, outcome, scale)
    report = '\n'.join([f'{outcome.passed} passed', *(f'skipped: {line}' for line in outcome.skipped)])
    (bench.directory / 'report').write_text(report + '\n')
    bench.notes.append(f'{outcome.passed} passed inside, {len(outcome.skipped)} skipped')
    bench.notes += [f'skipped inside: {line}' for line in outcome.skipped]
    if outcome.failed:
        raise Failure(f'{len(outcome.failed)} failed inside\n' + '\n'.join(outcome.failed))
