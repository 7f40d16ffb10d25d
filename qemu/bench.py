#!/usr/bin/env python3
# Compares two builds of qemu-img: with QEMU's own engines, and with liblaio; aio=native, and aio=io_uring
# where liblaio stands in for that too.
#
# Times are of pairs of runs, one right after the other on the same CPU, the first of each pair taking
# turns: many short ones, because the speed of a virtual machine's CPUs drifts, of each for itself, by
# more than the difference. What is printed is the median of the pairs' ratios and, in brackets, the
# middle half of them.
# Instructions are those of the engine's functions alone, per request, counted by callgrind as the
# difference of two runs of different length.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools', 'lib'))
from turns import in_turns, ratios  # noqa: E402 pylint: disable=wrong-import-position

# What belongs to the engine in callgrind's list of functions.
OWN_ENGINE = re.compile(r'/(linux-aio|io_uring)\.c:|/liburing\.h:|:(ioq_|laio_|luring_|qemu_laio_|io_getevents_)|'
                        r'/lib(aio|uring)\.so')
# By name as well: with debug information callgrind_annotate leaves the object out where code was
# inlined from another file. And what the library has others do for it: libc's system call, where
# QEMU's engine has libaio's, and the dynamic linker's look for the thread's depth.
LIBLAIO = re.compile(r'/liblaio\.so|/(laio|luring)-host\.c:|:(laio|luring)_|laio(_engine)?::|:(syscall|__tls_get_addr) \[')

DEPTHS = (1, 8, 64)
BLOCK = 4096


class Image:
    def __init__(self, name, path, requests):
        self.name, self.path, self.requests = name, path, requests


@dataclass(frozen=True)
class Bench:
    """What qemu-img is to do."""
    aio: str
    image: Image
    depth: int

    def command(self, qemu_img, requests):
        return [qemu_img, 'bench', '-f', 'raw', '-t', 'none', '-i', self.aio, '-d', str(self.depth),
                '-c', str(requests), '-s', str(BLOCK), self.image.path]


def timed_run(qemu_img, bench, requests, cpu):
    """(wall, user, system) seconds; None if it crashed."""
    start = time.monotonic()
    process = subprocess.Popen(bench.command(qemu_img, requests),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode < 0:
        return None
    if process.returncode:
        sys.exit(f'bench.py: {" ".join(process.args)} failed')
    return wall, usage.ru_utime, usage.ru_stime


def callgrind(qemu_img, bench, requests, engine):
    """Instructions in the engine's functions."""
    with tempfile.NamedTemporaryFile(prefix='callgrind-') as out:
        subprocess.run(['valgrind', '-q', '--tool=callgrind', f'--callgrind-out-file={out.name}',
                        *bench.command(qemu_img, requests)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        text = subprocess.run(['callgrind_annotate', '--threshold=100', '--auto=no', out.name],
                              check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL).stdout
    lines = re.findall(r'^ *([\d,]+) +\([^)]*\) +(.*)$', text, re.M)
    return sum(int(count.replace(',', '')) for count, what in lines if engine.search(what))


def instructions_per_request(qemu_img, bench, engine):
    few, many = 5000, 25000
    try:
        difference = (callgrind(qemu_img, bench, many, engine)
                      - callgrind(qemu_img, bench, few, engine))
    except subprocess.CalledProcessError:
        return None
    return difference / (many - few)


def times(options, bench):
    """Rounds of {'own': (wall, user, system) of QEMU's own, 'liblaio': the same of liblaio}."""
    requests = bench.image.requests[bench.depth] // options.shorter
    cpus = sorted(os.sched_getaffinity(0))

    def runner(binary):
        return lambda number: timed_run(binary, bench, requests, cpus[number // 2 % len(cpus)])
    rounds = []
    for results in in_turns({'own': runner(options.own), 'liblaio': runner(options.laio)},
                            options.pairs + 1):
        rounds.append(results)
        if None in results.values():
            return rounds
    return rounds[1:]  # The first warms up.


def row(options, bench):
    rounds = times(options, bench)
    crashed = [name for name, result in rounds[-1].items() if result is None]
    if crashed:
        cells = [f'{" and ".join(crashed)}: crashed', '', '']
    else:
        cells = [str(ratios(rounds, 'liblaio', 'own', lambda result, kind=kind: max(result[kind], 1e-3)))
                 for kind in range(3)]
    counts = ['', '']
    if not options.no_callgrind:
        for index, (binary, engine) in enumerate(((options.own, OWN_ENGINE),
                                                  (options.laio, LIBLAIO))):
            count = instructions_per_request(binary, bench, engine)
            counts[index] = 'crashed' if count is None else f'{count:.0f}'
    return [bench.aio, bench.image.name, str(bench.depth), *cells, *counts]


def is_on_laio(qemu_img, aio, image):
    """Whether requests go through liblaio, which then says so. aio=io_uring of 10.2 and later is left alone."""
    done = subprocess.run(Bench(aio, image, 1).command(qemu_img, 10), check=True, text=True,
                          env=dict(os.environ, LAIO_STATS='1'), stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE)
    return ': engine: ' in done.stderr


def print_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    for cells in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())


def make_images(directory):
    hole = Image('hole', os.path.join(directory, 'hole'),
                 {1: 150000, 8: 200000, 64: 200000})
    real = Image('blocks', os.path.join(directory, 'blocks'), {1: 15000, 8: 50000, 64: 70000})
    chunk = os.urandom(1 << 20)
    # A little data in front, whose completions come later: then each request is made from within
    # the completion of the one before.
    with open(hole.path, 'wb') as image:
        image.write(chunk)
        image.truncate(8 << 30)
    with open(real.path, 'wb') as image:
        for _ in range(1024):
            image.write(chunk)
        os.fsync(image.fileno())
    return hole, real


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('own', help='qemu-img with its own engine')
    parser.add_argument('laio', help='qemu-img with liblaio')
    parser.add_argument('--aio', nargs='+', choices=('native', 'io_uring'), default=('native', 'io_uring'))
    parser.add_argument('--files', default='.', help='where O_DIRECT works and 1 GiB is free')
    parser.add_argument('--pairs', type=int, default=31)
    parser.add_argument('--shorter', type=int, default=1, help='divides the number of requests')
    parser.add_argument('--no-callgrind', action='store_true')
    options = parser.parse_args()

    version = subprocess.run([options.laio, '--version'], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.splitlines()[0]
    print(f'{version}: liblaio / QEMU\'s own engine, {options.pairs} pairs of runs')
    rows = [['aio', 'image', 'depth', 'wall', 'user', 'system', 'instructions: own', 'liblaio']]
    with tempfile.TemporaryDirectory(prefix='laio-bench-', dir=options.files) as directory:
        images = make_images(directory)
        for aio in options.aio:
            if not is_on_laio(options.laio, aio, images[0]):
                print(f'aio={aio} of this version is QEMU\'s own in either')
                continue
            rows += [row(options, Bench(aio, image, depth)) for image in images for depth in DEPTHS]
    print_table(rows)


if __name__ == '__main__':
    main()
