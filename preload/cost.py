#!/usr/bin/env python3
"""What the preload library costs: qemu-img bench with and without it, in turn.

Usage: cost.py LAIO_RUN [ROUNDS]. Prints, for each workload, the ratio of the time under each mode to
the time of the bare program: the median over the rounds, and the middle half of them.

SPDX-License-Identifier: MIT OR Apache-2.0
"""
import os
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools', 'lib'))
from turns import in_turns, ratios  # noqa: E402 pylint: disable=wrong-import-position

BENCH = "qemu-img bench -f raw -t none -i native -s 4096".split()
# Name, requests, requests at a time, file. At depth 1 the bare program dies over a hole.
WORKLOADS = [
    ("hole, 64 at a time", 200_000, 64, "hole"),
    ("blocks, 1 at a time", 10_000, 1, "blocks"),
    ("blocks, 64 at a time", 60_000, 64, "blocks"),
]


def run(command):
    """Wall clock and processor seconds; None if the command failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        return None
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: cost.py LAIO_RUN [ROUNDS]")
    laio_run, rounds_wanted = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15
    prefixes = {"bare": [], "guard": [laio_run, "--guard", "--"],
                "engine": [laio_run, "--engine", "--"]}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        files = {name: os.path.join(directory, name) for name in ("hole", "blocks")}
        with open(files["hole"], "wb") as file:
            file.truncate(8 << 30)
        with open(files["blocks"], "wb") as file:
            for _ in range(256):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        for name, count, depth, file in WORKLOADS:
            command = [*BENCH, "-c", str(count), "-d", str(depth), files[file]]
            runs = {mode: lambda number, prefix=prefix, command=command: run(prefix + command)
                    for mode, prefix in prefixes.items()}
            rounds = []
            for results in in_turns(runs, rounds_wanted):
                failed = [mode for mode, result in results.items() if result is None]
                if failed:
                    print(f"# {name}: failed: {failed}")
                else:
                    rounds.append(results)
            if not rounds:
                continue
            for mode in ("guard", "engine"):
                for index, what in enumerate(("time", "CPU")):
                    spread = ratios(rounds, mode, "bare", lambda result: result[index])
                    print(f"{name:22} {mode + ' ' + what:14} {spread}")


main()
