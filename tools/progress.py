#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs tests with one line on the terminal that says where they are.

usage: tools/progress.py --run NAME --step NAME --log FILE --times FILE COMMAND [ARGUMENT...]

COMMAND is a step of a run: cargo test, or meson test. What it prints goes to the log, and is shown in the
end if it fails. The line says which program or suite, how many of how many, and how long this step and
those behind it will take, if they take as long as the last time when they passed.
"""

import argparse
import json
import os
import pathlib
import re
import selectors
import shutil
import subprocess
import sys
import time

CARGO_PROGRAM = re.compile(r'\s+Running .*\(([^()]*?)(?:-[0-9a-f]+)?\)$|\s+Doc-tests (.+)$')
CARGO_TEST = re.compile(r'test .* \.\.\. (ok|FAILED|ignored)')
MESON_TEST = re.compile(r'\s*(\d+)/(\d+) +(?:[\w-]+:)?(\S+) / (.*?) {2,}([A-Z]+) +[\d.]+s')
BUILT = re.compile(r'\[(\d+)/(\d+)\] ')
FAILURES = {'FAILED', 'FAIL', 'ERROR', 'TIMEOUT', 'INTERRUPT', 'UNEXPECTEDPASS'}


class Step:
    """Where a step is, by what it prints."""

    def __init__(self, last):
        self.where = 'building'
        self.count = 0
        self.of = last.get('parts', 0)
        self.failed = 0

    def read(self, line):
        if match := CARGO_PROGRAM.match(line):
            self.where = os.path.basename(match[1] or match[2])
            self.count += 1
        elif match := CARGO_TEST.match(line):
            self.failed += match[1] in FAILURES
        elif match := MESON_TEST.match(line):
            self.count, self.of = int(match[1]), int(match[2])
            self.where = f'{match[3]}, {match[4]}'
            self.failed += match[5] in FAILURES
        elif match := BUILT.match(line):
            self.where = f'building, {match[1]} of {match[2]}'

    def line(self, seconds, left):
        parts = [self.where, f'{self.count} of {self.of}' if self.of >= self.count > 0 else str(self.count),
                 f'{self.failed} failed' if self.failed else '',
                 f'{duration(seconds)} so far', '' if left is None else f'about {duration(left)} to go']
        return '; '.join(part for part in parts if part)


def duration(seconds):
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'


def seconds_left(times, step, seconds):
    """Of the step and those behind it, in the order in which they ran; None if it never has."""
    if step not in times:
        return None
    names = list(times)
    behind = sum(times[name]['seconds'] for name in names[names.index(step) + 1:])
    return max(times[step]['seconds'] - seconds, 0) + behind


def run(command, log, step, show):
    """The command's status. Calls show() for each line that it prints, and each second."""
    environment = os.environ | {'PYTHONUNBUFFERED': '1'}
    with open(log, 'wb') as file, selectors.DefaultSelector() as selector, \
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        selector.register(process.stdout, selectors.EVENT_READ)
        rest = b''
        while True:
            show()
            if not selector.select(1):
                continue
            read = os.read(process.stdout.fileno(), 65536)
            if not read:
                return process.wait()
            file.write(read)
            *lines, rest = re.split(rb'[\r\n]', rest + read)
            for line in lines:
                step.read(line.decode(errors='replace'))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ('run', 'step', 'log', 'times'):
        parser.add_argument('--' + option, required=True)
    parser.add_argument('command', nargs=argparse.REMAINDER)
    options = parser.parse_args()

    file = pathlib.Path(options.times)
    times = json.loads(file.read_text()) if file.exists() else {}
    of_run = times.setdefault(options.run, {})
    step = Step(of_run.get(options.step, {}))
    begin = time.monotonic()

    def show():
        seconds = time.monotonic() - begin
        line = step.line(seconds, seconds_left(of_run, options.step, seconds))
        print('\r' + line[:shutil.get_terminal_size().columns - 1] + '\033[K', end='', flush=True)

    try:
        status = run(options.command, options.log, step, show)
    except KeyboardInterrupt:
        status = 130
    print('\r\033[K', end='')
    if status == 0:
        of_run[options.step] = {'seconds': round(time.monotonic() - begin, 1), 'parts': step.count}
        file.write_text(json.dumps(times, indent=1) + '\n')
    elif status != 130:
        sys.stdout.write(pathlib.Path(options.log).read_text(errors='replace'))
    return status if 0 <= status < 256 else 1


if __name__ == '__main__':
    sys.exit(main())
