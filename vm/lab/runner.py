# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs cases, several at a time, and says what came of them, as TAP."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Sized
from pathlib import Path

from .bench import Bench
from .case import Case, Skip
from .places import Places

LOG_LINES = 30


class Runner:
    def __init__(self, places: Places, work: Path, acceleration: str, keep: bool):
        self.places = places
        self.work = work
        self.acceleration = acceleration
        self.keep = keep
        self.failed: list[str] = []
        self._count = 0

    async def run(self, cases: Iterable[Case], jobs: int) -> None:
        """The plan comes first, unless nobody knows yet how many they will be."""
        planned = isinstance(cases, Sized)
        if planned:
            print(f'1..{len(cases)}', flush=True)
        left = iter(cases)

        async def worker() -> None:
            for case in left:
                await self._run_one(case)

        await asyncio.gather(*(worker() for _ in range(jobs)))
        if not planned:
            print(f'1..{self._count}', flush=True)

    async def _run_one(self, case: Case) -> None:
        directory = self.work / f'{case.name.replace("/", "-")}.{self.places.engine}'
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        bench = Bench(self.places, directory, self.acceleration, case.kernel, case.aio)
        start = time.monotonic()
        problem = skipped = ''
        try:
            async with asyncio.timeout(case.limit), bench.stack:
                await case.body(bench)
        except Skip as skip:
            skipped = str(skip).splitlines()[0]
        except TimeoutError:
            problem = f'it hung: not done after {case.limit:.0f} s\n' + traceback.format_exc()
        except Exception as error:
            problem = f'{error}\n' + traceback.format_exc()
        self._report(case, bench, time.monotonic() - start, problem, skipped)

    def _report(self, case: Case, bench: Bench, seconds: float, problem: str, skipped: str) -> None:
        directory = bench.directory
        self._count += 1
        verdict = 'not ok' if problem else 'ok'
        print(f'{verdict} {self._count} - {case.name}' + (f' # SKIP {skipped}' if skipped else ''))
        print(f'# {seconds:.0f} s, engine: {self.places.engine}')
        print(''.join(f'# {note}\n' for note in bench.notes), end='')
        if problem:
            self.failed.append(case.name)
            (directory / 'problem').write_text(problem)
            print(''.join(f'# {line}\n' for line in problem.splitlines()), end='')
            for log in sorted(directory.glob('guest*/*.log')):
                lines = log.read_text(errors='replace').splitlines()[-LOG_LINES:]
                print(f'# {log}:\n' + ''.join(f'#   {line}\n' for line in lines), end='')
        elif not self.keep:
            shutil.rmtree(directory, ignore_errors=True)
        # The logs tell what was; images are large.
        if problem and not self.keep:
            for image in directory.rglob('*'):
                if image.is_file() and image.stat().st_blocks * 512 > 64 << 20:
                    image.unlink()
        sys.stdout.flush()
