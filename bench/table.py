#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares liblaio, over both kernel interfaces, with what else makes such requests.

The same file and the same requests, in turns: in each round all run one after the other, beginning with
another each time, so that what else the machine does strikes all. Compared are the floors (laio-bench's
own requests by a bare loop over io_submit(2) or io_uring, without an engine), fio's libaio and io_uring
as they come, and, where they are given, qemu-img with QEMU's engines and with liblaio.

A ratio is taken within a round; shown is the median of the rounds and, in brackets, the middle half of
them. CPU is user and system time of the whole process.
"""

import argparse
import csv
import json
import os
import platform
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools', 'lib'))
sys.path.insert(0, HERE)
from contenders import Fio, LaioBench, NoFigure, QemuImg, Workload  # noqa: E402 pylint: disable=wrong-import-position
from turns import Spread, in_turns, ratios  # noqa: E402 pylint: disable=wrong-import-position

MIB = 1 << 20
SIZES = {'hole': 1024, 'cached': 256, 'missed': 1024, 'blocks': 1024}
DEPTHS = (1, 8, 32, 128)
FLOORS = ('-floor-aio', '-floor-aio-eventfd', '-floor-uring')
# Who is compared with what.
BASES = {'laio, linux-aio': ('floor, linux-aio', 'floor and eventfd, linux-aio', 'fio, libaio', 'qemu, native'),
         'laio, io_uring': ('floor, io_uring', 'fio, io_uring', 'qemu, io_uring'),
         'qemu on laio, native': ('qemu, native',), 'qemu on laio, io_uring': ('qemu, io_uring',)}


def die(message):
    sys.exit(f'table.py: {message}')


def count_of(file, size, depth, scale):
    """About a third of a second or more on a fast machine."""
    slow = file in ('missed', 'blocks')
    count = 6_000 if slow and depth == 1 else 30_000 if slow else 200_000
    return max(count * 4096 * scale // (100 * min(size, 16384)), 500)


def workloads(directory, scale):
    """The rows. A hole that is written to is none any more."""
    for file in SIZES:
        for write in (False, True):
            if write and file in ('hole', 'missed'):
                continue
            for size in (4096, 65536):
                for depth in DEPTHS:
                    yield Workload(file, write, size, depth, os.path.join(directory, file),
                                   count_of(file, size, depth, scale))


def name_of(row):
    return f'{row.file} {"write" if row.write else "read"} {row.size // 1024}k {row.depth}'


def make_files(directory):
    for name, size in SIZES.items():
        with open(os.path.join(directory, name), 'wb') as file:
            if name == 'hole':
                file.truncate(size * MIB)
                continue
            for _ in range(size):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
            if name != 'cached':
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.close(os.open(os.path.join(directory, 'blocks'), os.O_RDONLY | os.O_DIRECT))
    except OSError:
        die(f'{directory}: O_DIRECT does not work there; give another --dir')


def contenders(options):
    found = {
        'laio, linux-aio': LaioBench(options.bench, 'linux-aio'),
        'laio, io_uring': LaioBench(options.bench, 'io_uring'),
        'floor, linux-aio': LaioBench(options.bench + '-floor-aio', 'auto'),
        'floor and eventfd, linux-aio': LaioBench(options.bench + '-floor-aio-eventfd', 'auto'),
        'floor, io_uring': LaioBench(options.bench + '-floor-uring', 'auto'),
        'fio, libaio': Fio('libaio'),
        'fio, io_uring': Fio('io_uring'),
    }
    for title, program in (('qemu', options.qemu), ('qemu on laio', options.qemu_on_laio)):
        if program:
            found[f'{title}, native'] = QemuImg(program, 'native')
            found[f'{title}, io_uring'] = QemuImg(program, 'io_uring')
    return found


def measure(row, found, repetitions):
    """The rounds of a row: what each contender did in each."""
    def turn(contender):
        def one(_):
            row.prepare()
            return contender.run(row)
        return one
    able = {}
    for name, contender in found.items():
        try:
            row.prepare()
            contender.run(row)  # Warm, and able.
            able[name] = turn(contender)
        except NoFigure as why:
            if not name.startswith('qemu'):
                die(f'{name_of(row)}: {why}')
    return list(in_turns(able, repetitions))


def figures(row, rounds):
    """A line for each contender."""
    for name in rounds[0]:
        runs = [results[name] for results in rounds]
        line = {'file': row.file, 'write': row.write, 'bytes': row.size, 'depth': row.depth,
                'contender': name,
                'requests_per_second': round(Spread([run.requests_per_second for run in runs]).median),
                'cpu_us': round(Spread([run.cpu_us for run in runs]).median, 3)}
        for percentile in ('p50', 'p99', 'p99.9'):
            values = [run.latency_us[percentile] for run in runs if run.latency_us]
            line[f'{percentile}_us'] = round(Spread(values).median, 1) if values else None
        for base in BASES.get(name, ()):
            if base in rounds[0]:
                speed = ratios(rounds, name, base, lambda run: run.requests_per_second)
                cpu = ratios(rounds, name, base, lambda run: run.cpu_us)
                line[f'speed to {base}'] = [round(x, 3) for x in (speed.median, speed.low, speed.high)]
                line[f'cpu to {base}'] = [round(x, 3) for x in (cpu.median, cpu.low, cpu.high)]
        yield line


def show(row, lines):
    print(name_of(row), flush=True)
    for line in lines:
        compared = [f'{key} {value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})'
                    for key, value in line.items() if ' to ' in key]
        tail = '' if line['p99_us'] is None else f', p99 {line["p99_us"]:.0f} us'
        print(f'  {line["contender"]:28} {line["requests_per_second"]:9}/s {line["cpu_us"]:8.2f} us CPU'
              f'{tail}  {"; ".join(compared)}', flush=True)


def instructions(found, directory):
    """User instructions a request over a hole, for those that callgrind can compare."""
    for name, contender in found.items():
        if isinstance(contender, LaioBench):
            for depth in DEPTHS:
                row = Workload('hole', False, 4096, depth, os.path.join(directory, 'hole'), 0)
                yield {'contender': name, 'depth': depth,
                       'instructions': round(contender.instructions(row))}


def markdown(lines, counted):
    """The table for people: a line for each row and kernel interface."""
    def ratio(line, key):
        return '{:.2f} ({:.2f} to {:.2f})'.format(*line[key]) if key in line else ''
    text = ['| requests | laio over | requests/s | CPU us | p50, p99, p99.9 us | CPU to the floor | to the floor '
            'with an eventfd | speed to fio | CPU to fio |',
            '| --- | --- | --- | --- | --- | --- | --- | --- | --- |']
    for line in lines:
        title, _, kernel = line['contender'].partition(', ')
        if title != 'laio':
            continue
        fio = 'fio, io_uring' if kernel == 'io_uring' else 'fio, libaio'
        kind = 'write' if line['write'] else 'read'
        percentiles = ', '.join(f'{line[name + "_us"]:.0f}' for name in ('p50', 'p99', 'p99.9'))
        text.append(f'| {line["file"]}, {kind}, {line["bytes"] // 1024} KiB, depth {line["depth"]} | {kernel} | '
                    f'{line["requests_per_second"]:,} | {line["cpu_us"]:.2f} | {percentiles} | '
                    f'{ratio(line, "cpu to floor, " + kernel)} | '
                    f'{ratio(line, "cpu to floor and eventfd, " + kernel)} | '
                    f'{ratio(line, "speed to " + fio)} | {ratio(line, "cpu to " + fio)} |')
    if counted:
        names = list(dict.fromkeys(line['contender'] for line in counted))
        text += ['', '| user instructions a request, 4 KiB of a hole | ' + ' | '.join(names) + ' |',
                 '| --- |' + ' --- |' * len(names)]
        for depth in DEPTHS:
            of_depth = {line['contender']: line['instructions'] for line in counted if line['depth'] == depth}
            text.append(f'| depth {depth} | ' + ' | '.join(str(of_depth[name]) for name in names) + ' |')
    return '\n'.join(text) + '\n'


def store(options, lines, counted):
    if not options.into:
        return
    about = {'kernel': platform.release(), 'cpus': os.cpu_count(), 'repetitions': options.reps}
    with open(options.into + '.json', 'w', encoding='utf-8') as file:
        json.dump({**about, 'rows': lines, 'instructions': counted}, file, indent=1)
        file.write('\n')
    plain = ['file', 'write', 'bytes', 'depth', 'contender', 'requests_per_second', 'cpu_us', 'p50_us',
             'p99_us', 'p99.9_us']
    with open(options.into + '.csv', 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, plain, extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows(lines)
    with open(options.into + '.md', 'w', encoding='utf-8') as file:
        file.write(markdown(lines, counted))
    import chart  # pylint: disable=import-outside-toplevel
    chart.draw(lines, options.into + '.svg')


def parse_arguments():
    def positive(text):
        if int(text) < 1:
            raise ValueError
        return int(text)
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--reps', metavar='N', type=positive, default=7, help='rounds; default 7')
    parser.add_argument('--scale', metavar='PERCENT', type=positive, default=100,
                        help='of the usual number of requests; default 100')
    parser.add_argument('--rows', metavar='REGEX', default='',
                        help='only rows whose name, such as "hole read 4k 32", has this in it')
    parser.add_argument('--dir', default=os.environ.get('TMPDIR', '.'),
                        help='where to make the files (2.3 GiB); default is TMPDIR, or the current '
                        'directory')
    parser.add_argument('--into', metavar='NAME', help='writes NAME.json, NAME.csv, NAME.md and NAME.svg too')
    parser.add_argument('--qemu', metavar='QEMU-IMG', help='a qemu-img with its own engines')
    parser.add_argument('--qemu-on-laio', metavar='QEMU-IMG', help='the same one on liblaio')
    parser.add_argument('bench', metavar='LAIO_BENCH',
                        help='laio-bench; beside it lie laio-bench' + ' and laio-bench'.join(FLOORS))
    return parser.parse_args()


def main():
    options = parse_arguments()
    for program in ('fio', 'valgrind'):
        if not shutil.which(program):
            die(f'{program}: not installed; tools/install-deps.sh bench installs it')
    for program in (options.bench + suffix for suffix in ('', *FLOORS)):
        if not os.access(program, os.X_OK):
            die(f'{program}: no such program; "make bench" builds it')
    lines, found = [], contenders(options)
    with tempfile.TemporaryDirectory(prefix='laio-compare.', dir=options.dir) as directory:
        make_files(directory)
        for row in workloads(directory, options.scale):
            if re.search(options.rows, name_of(row)):
                of_row = list(figures(row, measure(row, found, options.reps)))
                show(row, of_row)
                lines += of_row
        counted = list(instructions(found, directory)) if not options.rows else []
    if not lines:
        die(f'no row is called {options.rows}')
    for line in counted:
        print(f'{line["contender"]:22} depth {line["depth"]:3}: {line["instructions"]} instructions')
    store(options, lines, counted)


if __name__ == '__main__':
    main()
