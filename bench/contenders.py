# SPDX-License-Identifier: MIT OR Apache-2.0
"""What takes part in the comparison: programs that make the same requests and say how it went."""

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass


class NoFigure(Exception):
    """A run that failed, or did not say how it went."""


@dataclass
class Run:
    """How one run went."""
    requests_per_second: float
    cpu_us: float  # user and system, a request
    latency_us: dict  # of percentiles: p50, p99, p99.9; empty where the program does not say


@dataclass(frozen=True)
class Workload:
    """The requests of one row."""
    file: str  # hole, cached, missed, blocks
    write: bool
    size: int
    depth: int
    path: str
    count: int

    @property
    def direct(self):
        return self.file in ('hole', 'blocks')

    @property
    def random(self):
        # Sequential reads that miss are the read-ahead's, and the disk's.
        return self.file in ('missed', 'blocks')

    def prepare(self):
        """The same page cache for each run."""
        if self.file != 'missed':
            return
        with open(self.path, 'rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, count):
    """What `command` printed, and the microseconds of CPU for each of `count` requests."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise NoFigure(f'{" ".join(command)}: exit status {child.returncode}')
    return text, (usage.ru_utime + usage.ru_stime) * 1e6 / count


class LaioBench:
    """laio-bench, on liblaio or on one of the floors."""

    def __init__(self, program, kernel):
        self.program, self.kernel = program, kernel

    def command(self, workload, count):
        options = ['-d', str(workload.depth), '-s', str(workload.size), '-c', str(count), '--json',
                   '--kernel', self.kernel]
        options += ['--direct'] * workload.direct + ['-r'] * workload.random + ['-w'] * workload.write
        return [self.program, *options, workload.path]

    def run(self, workload):
        text, cpu = run(self.command(workload, workload.count), workload.count)
        only = json.loads(text)['passes'][0]
        latency = {name: only['latency_ns'][name] / 1000 for name in ('p50', 'p99', 'p99.9')}
        return Run(only['requests_per_second'], cpu, latency)

    def instructions(self, workload):
        """User instructions a request, by callgrind: the slope between two runs."""
        few, many = 10_000, 30_000
        return (self._collected(workload, many) - self._collected(workload, few)) / (many - few)

    def _collected(self, workload, count):
        command = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null',
                   *self.command(workload, count)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
        return int(re.search(r'Collected : (\d+)', done.stderr)[1])


class Fio:
    """fio with one of its engines, as it comes."""

    def __init__(self, engine):
        self.engine = engine

    def run(self, workload):
        pattern = ('rand' if workload.random else '') + ('write' if workload.write else 'read')
        options = ['--output-format=json', '--name=compare', f'--filename={workload.path}',
                   f'--ioengine={self.engine}', f'--iodepth={workload.depth}', f'--bs={workload.size}',
                   f'--rw={pattern}', f'--number_ios={workload.count}',
                   f'--size={os.stat(workload.path).st_size}', '--io_size=1t', '--norandommap',
                   '--randrepeat=0', '--invalidate=0', '--fadvise_hint=0',
                   f'--direct={int(workload.direct)}']
        text, _ = run(['fio', *options], workload.count)
        job = json.loads(text[text.index('{'):])['jobs'][0]
        # The job's alone: to start fio takes it a tenth of a second.
        cpu = (job['usr_cpu'] + job['sys_cpu']) / 100 * job['job_runtime'] * 1000 / workload.count
        job = job['write' if workload.write else 'read']
        # What it says of completions leaves out the time that a submission took.
        percentiles = job['clat_ns']['percentile']
        latency = {'p50': percentiles['50.000000'], 'p99': percentiles['99.000000'],
                   'p99.9': percentiles['99.900000']}
        return Run(job['iops'], cpu, {name: value / 1000 for name, value in latency.items()})


class QemuImg:
    """`qemu-img bench` of one build, with one of its engines."""

    def __init__(self, program, engine):
        self.program, self.engine = program, engine

    def run(self, workload):
        if workload.random:
            raise NoFigure('qemu-img bench makes sequential requests alone')
        command = [self.program, 'bench', '-f', 'raw', '-i', self.engine, '-d', str(workload.depth),
                   '-s', str(workload.size), '-c', str(workload.count)]
        command += ['-t', 'none' if workload.direct else 'writeback'] + ['-w'] * workload.write
        begun = time.monotonic()
        text, cpu = run([*command, workload.path], workload.count)
        seconds = re.search(r'Run completed in ([\d.]+) seconds', text)
        seconds = float(seconds[1]) if seconds else time.monotonic() - begun
        return Run(workload.count / seconds, cpu, {})
