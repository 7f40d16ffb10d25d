# SPDX-License-Identifier: MIT OR Apache-2.0
"""python3 -m lab: runs cases, or shows them. tools/check-vm.sh calls it with everything in place."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cases import soak  # and with it, all cases are registered

from .bench import EMULATED, Bench
from .case import CASES, Case
from .places import Places
from .runner import Runner

KVM_SECONDS = 60


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='lab', description='Guests on laio, and laio in guests.')
    parser.add_argument('cases', nargs='*', help='names or patterns like "jobs/*"; default: the short set')
    parser.add_argument('--root', type=Path, required=True, help='what tools/check-vm.sh has built')
    parser.add_argument('--full', action='store_true', help='every case')
    parser.add_argument('--own-engine', action='store_true', help="the emulator with QEMU's own engine")
    parser.add_argument('--list', action='store_true', help='show the cases and run none')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='so many at a time')
    parser.add_argument('--keep', action='store_true', help='keep all files of the cases, not only of failures')
    parser.add_argument('--soak', type=float, metavar='SECONDS', help='instead: random machines, for that long')
    parser.add_argument('--seed', type=int, default=0, help='the first of their seeds')
    parser.add_argument('--accel', default='', help='tcg or kvm; default: kvm where a guest boots with it')
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Case]:
    if options.cases:
        for pattern in options.cases:
            if not fnmatch.filter(CASES, pattern):
                sys.exit(f'lab: there is no case {pattern}')
        picked = [c for c in CASES.values() if any(fnmatch.fnmatch(c.name, p) for p in options.cases)]
    else:
        picked = [c for c in CASES.values() if options.full or c.short]
    return [c for c in picked if not (options.own_engine and (c.inside or c.kernel != 'linux-aio'))]


async def acceleration(places: Places, wanted: str) -> str:
    """KVM, if a guest comes up with it: that the device is there says too little, in a guest."""
    flags = Path('/proc/cpuinfo').read_text()
    if wanted == 'kvm' or (not wanted and (' vmx ' in flags or ' svm ' in flags) and os.access('/dev/kvm', os.W_OK)):
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(places, Path(directory), 'kvm')
            try:
                async with asyncio.timeout(KVM_SECONDS), bench.stack:
                    await bench.guest(devices=())
                return 'kvm'
            except Exception as error:
                print(f'# no KVM: {error or "a guest does not come up with it"}')
    return EMULATED


async def main() -> int:
    # To be ended from outside is no reason to leave anything behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    options = arguments()
    picked = chosen(options)
    if options.list:
        for case in picked:
            print(case.name)
        return 0
    places = Places(options.root.resolve(), 'own' if options.own_engine else 'laio')
    accelerated = await acceleration(places, options.accel)
    print(f'# accelerator: {accelerated}; engine: {places.engine}; {options.jobs} at a time')
    runner = Runner(places, places.root / 'cases', accelerated, options.keep)
    rounds: Iterable[Case] = picked
    if options.soak is not None:
        print(f'# seed: {options.seed}')
        rounds = soak.rounds(options.seed, options.soak)
    await runner.run(rounds, options.jobs)
    if runner.failed:
        print(f'# failed: {" ".join(runner.failed)}; their logs are in {runner.work}')
    return int(bool(runner.failed))


sys.exit(asyncio.run(main()))
