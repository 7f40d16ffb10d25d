#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares laio-bench with fio's libaio engine: the same file, the same requests, in turns.

Reads a hole with O_DIRECT, the page cache, and real blocks with O_DIRECT, sequentially and at random,
4 KiB a request, at depth 1, 32 and 128. In each repetition laio-bench and fio run one after the other,
beginning with another each time, so that what else the machine does strikes all.

fio runs twice: "plain" as it comes, which measures latency, as laio-bench does; and "tuned" with its
clock calls off (gtod_reduce) and its requests batched, which are the settings for its highest figures.
A ratio above 1 says that laio-bench made more requests/s; ratios are taken within each repetition, and
their median, least and greatest are shown.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools', 'lib'))
from turns import Spread, in_turns, ratios  # noqa: E402 pylint: disable=wrong-import-position

MIB = 1 << 20
HOLE_MIB, CACHED_MIB, BLOCKS_MIB = 1024, 256, 1024


def die(message):
    sys.exit(f'compare-fio.py: {message}')


def output_of(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


class Workload:
    """One row of the table."""

    def __init__(self, directory, file, pattern, depth, scale):
        self.file, self.pattern, self.depth = file, pattern, depth
        self.path = os.path.join(directory, file)
        # About half a second or more on a fast machine.
        count = 500_000 if file != 'blocks' else 20_000 if depth == 1 else 120_000
        self.count = max(count * scale // 100, 1000)

    def run_laio(self, bench):
        options = ['-d', str(self.depth), '-s', '4k', '-c', str(self.count), '--json']
        if self.file != 'cached':
            options.append('--direct')
        if self.pattern != 'read':
            options.append('-r')
        return json.loads(output_of(bench, *options, self.path))['passes'][0]['requests_per_second']

    def run_fio(self, tuned):
        options = ['--minimal', '--terse-version=3', '--name=compare', f'--filename={self.path}',
                   '--ioengine=libaio', f'--iodepth={self.depth}', '--bs=4k', f'--rw={self.pattern}',
                   f'--number_ios={self.count}', f'--size={os.stat(self.path).st_size}',
                   '--io_size=1t', '--norandommap', '--randrepeat=0', '--invalidate=0',
                   '--fadvise_hint=0']
        if self.file != 'cached':
            options.append('--direct=1')
        if tuned:
            batch = min(self.depth, 32)
            options += ['--gtod_reduce=1', f'--iodepth_batch_submit={batch}',
                        '--iodepth_batch_complete_min=1', f'--iodepth_batch_complete_max={batch}']
        # Field 8 of version 3 is the number of reads per second.
        return float(output_of('fio', *options).splitlines()[-1].split(';')[7])

    def measure(self, bench, repetitions):
        runs = {
            'laio': lambda number: self.run_laio(bench),
            'fio': lambda number: self.run_fio(tuned=False),
            'fio_tuned': lambda number: self.run_fio(tuned=True),
        }
        try:
            rounds = list(in_turns(runs, repetitions))
        except (subprocess.CalledProcessError, LookupError, ValueError) as error:
            die(f'{self.file} {self.pattern}, depth {self.depth}: a run gave no figure: {error}')
        row = {'file': self.file, 'pattern': self.pattern, 'depth': self.depth}
        for name in runs:
            row[name] = round(Spread([results[name] for results in rounds]).median)
        for name, base in (('ratio', 'fio'), ('ratio_tuned', 'fio_tuned')):
            spread = ratios(rounds, 'laio', base)
            row[name] = [round(value, 2) for value in (spread.median, spread.least, spread.greatest)]
        return row


def make_files(directory):
    with open(os.path.join(directory, 'hole'), 'wb') as file:
        file.truncate(HOLE_MIB * MIB)
    for name, size in (('cached', CACHED_MIB), ('blocks', BLOCKS_MIB)):
        with open(os.path.join(directory, name), 'wb') as file:
            for _ in range(size):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
            if name == 'blocks':
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.close(os.open(os.path.join(directory, 'blocks'), os.O_RDONLY | os.O_DIRECT))
    except OSError:
        die(f'{directory}: O_DIRECT does not work there; give another --dir')
    with open(os.path.join(directory, 'cached'), 'rb') as file:
        while file.read(MIB):
            pass


def show(row):
    def cell(spread):
        return '{:5.2f} ({:4.2f}..{:4.2f})'.format(*spread)
    print(f'{row["file"]:7} {row["pattern"]:9} {row["depth"]:5} {row["laio"]:9} {row["fio"]:9} '
          f'{row["fio_tuned"]:9}  {cell(row["ratio"])}  {cell(row["ratio_tuned"])}', flush=True)


def parse_arguments():
    def positive(text):
        if int(text) < 1:
            raise ValueError
        return int(text)
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--reps', metavar='N', type=positive, default=5,
                        help='repetitions; default 5')
    parser.add_argument('--scale', metavar='PERCENT', type=positive, default=100,
                        help='of the usual number of requests; default 100')
    parser.add_argument('--dir', default=os.environ.get('TMPDIR', '.'),
                        help='where to make the files (1.3 GiB); default is '
                        'TMPDIR, or the current directory')
    parser.add_argument('--json', metavar='FILE', help='writes the figures of each row there too')
    parser.add_argument('bench', metavar='LAIO_BENCH', nargs='?',
                        default=os.path.join(HERE, '..', 'build', 'bench', 'laio-bench'))
    return parser.parse_args()


def main():
    options = parse_arguments()
    if not os.access(options.bench, os.X_OK):
        die(f'{options.bench}: no such program; "make bench" builds it')
    if not shutil.which('fio'):
        die('fio: not installed; tools/install-deps.sh bench installs it')
    rows = []
    fio, kernel = output_of('fio', '--version').strip(), platform.release()
    with tempfile.TemporaryDirectory(prefix='laio-compare.', dir=options.dir) as directory:
        make_files(directory)
        print(f'{fio}; Linux {kernel}, {output_of("stat", "-f", "-c", "%T", directory).strip()}, '
              f'{os.cpu_count()} CPUs; medians of {options.reps}\n')
        print(f'{"file":7} {"pattern":9} {"depth":>5} {"laio/s":>9} {"fio/s":>9} {"tuned/s":>9}  '
              f'{"laio : fio":18}  laio : fio tuned')
        for file in ('hole', 'cached', 'blocks'):
            for pattern in ('read', 'randread'):
                for depth in (1, 32, 128):
                    workload = Workload(directory, file, pattern, depth, options.scale)
                    rows.append(workload.measure(options.bench, options.reps))
                    show(rows[-1])
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump({'fio': fio, 'kernel': kernel, 'repetitions': options.reps, 'rows': rows}, file,
                      indent=1)
            file.write('\n')


if __name__ == '__main__':
    main()
