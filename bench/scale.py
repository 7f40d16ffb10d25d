#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""How what a request costs grows with what is around it.

Reads of a hole by scale.c: with 1 to 1,024 requests outstanding, 1 to 256 states that are all busy, 1 to 8
threads, and 1 to 256 states of which one is busy, on one event loop. Printed are user instructions a request
(by callgrind: the slope between two runs), microseconds of CPU (user and system, the median of the runs,
which all points make in turns), and what a state takes of memory.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools', 'lib'))
from turns import Spread, in_turns  # noqa: E402 pylint: disable=wrong-import-position

KERNELS = ('linux-aio', 'io_uring')
NO_STATE = 3  # scale.c's exit status
# What grows, and (threads, states, busy states, depth) for each of its values.
GROWING = {
    'in flight': {n: (1, 1, 1, n) for n in (1, 8, 64, 256, 1024)},
    'busy states': {n: (1, n, n, 1) for n in (1, 8, 32, 64, 256)},
    'threads': {n: (n, 1, 1, 1) for n in (1, 2, 4, 8)},
    'states, one busy': {n: (1, n, 1, 1) for n in (1, 8, 32, 64, 256)},
}
# A look at each of 32 states costs less than to ask which of them are ready, but not nothing.
CHECKED, AT_MOST = {'in flight': 1024, 'busy states': 256, 'threads': 4, 'states, one busy': 256}, 1.1


class Scale:
    """scale.c, on a sparse file."""

    def __init__(self, program, image):
        self.program, self.image = program, image

    def command(self, kernel, point, count):
        return [self.program, self.image, kernel, *map(str, point), str(count)]

    def figures(self, kernel, point, count):
        """What it says; None if there are not so many states to be had."""
        done = subprocess.run(self.command(kernel, point, count), check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == NO_STATE:
            return None
        done.check_returncode()
        return json.loads(done.stdout)

    def _collected(self, kernel, point, count):
        command = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null',
                   *self.command(kernel, point, count)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
        return int(re.search(r'Collected : (\d+)', done.stderr)[1])

    def instructions(self, kernel, point):
        """User instructions a request."""
        few, many = 4_000, 12_000
        return (self._collected(kernel, point, many) - self._collected(kernel, point, few)) \
            / ((many - few) * point[0])


def table(scale, reps):
    points = {(what, value, kernel): point for what, values in GROWING.items()
              for value, point in values.items() for kernel in KERNELS}
    able = {key: point for key, point in points.items()
            if scale.figures(key[2], point, 4_000) is not None}
    runs = {key: lambda _, key=key, point=point: scale.figures(key[2], point, 100_000 // point[0])
            for key, point in able.items()}
    rounds = list(in_turns(runs, reps))
    print('| | | ' + ' | '.join(f'{kernel}: instructions | CPU us' for kernel in KERNELS) + ' |')
    print('| --- | --- |' + ' --- | --- |' * len(KERNELS))
    for what, values in GROWING.items():
        for value, point in values.items():
            cells = []
            for kernel in KERNELS:
                key = what, value, kernel
                if key in able:
                    cpu = Spread([results[key]['cpu_us'] for results in rounds])
                    cells += [f'{scale.instructions(kernel, point):.0f}', str(cpu)]
                else:
                    cells += ['no context left', '']
            print(f'| {what} | {value:,} | ' + ' | '.join(cells) + ' |', flush=True)
    for kernel in KERNELS:
        for depth in (1, 1024):
            figures = scale.figures(kernel, (1, 16, 16, depth), 100_000)
            if figures:
                print(f'{kernel}: a state that has had {depth:,} requests in flight takes {figures["heap_bytes"]:,} '
                      f'bytes of the heap and {figures["ring_bytes"]:,} of mapped rings')


def check(scale):
    """As TAP: what a request costs does not grow. Over io_uring, of which there are enough for 256 states."""
    base = scale.instructions('io_uring', (1, 1, 1, 1))
    failed = 0
    for number, (what, value) in enumerate(CHECKED.items(), 1):
        grown = scale.instructions('io_uring', GROWING[what][value])
        flat = grown <= base * AT_MOST
        failed += not flat
        print(f'# {base:.0f} instructions a request with 1, {grown:.0f} with {value}')
        print(f'{"ok" if flat else "not ok"} {number} - {value} {what}', flush=True)
    print(f'1..{len(CHECKED)}')
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='fail if a request costs more with more around it')
    parser.add_argument('--reps', type=int, default=7, help='rounds; default 7')
    parser.add_argument('--dir', default=os.environ.get('TMPDIR', '.'), help='where O_DIRECT works')
    parser.add_argument('program', help='scale.c, linked with liblaio')
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(prefix='laio-scale.', dir=options.dir) as image:
        image.truncate(1 << 30)
        scale = Scale(options.program, image.name)
        if options.check:
            sys.exit(bool(check(scale)))
        table(scale, options.reps)


if __name__ == '__main__':
    main()
