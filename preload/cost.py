#!/usr/bin/env python3
"""What the preload library costs: qemu-img bench with and without it, in turn.

Usage: cost.py LAIO_RUN [ROUNDS]. Prints, for each workload, the ratio of the time under each mode to
the time of the bare program: the median over the rounds, and the middle half of them.

SPDX-License-Identifier: MIT OR Apache-2.0
"""
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

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


def ratios(modes, rounds, mode, index):
    """Of a mode to the bare program, round by round."""
    return [modes[mode][i][index] / modes["bare"][i][index] for i in range(rounds)]


def show(name, mode, values):
    low, _, high = statistics.quantiles(values, n=4)
    print(f"{name:22} {mode:14} {statistics.median(values):.3f}  ({low:.3f} to {high:.3f})")


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: cost.py LAIO_RUN [ROUNDS]")
    laio_run, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15
    prefixes = {"bare": [], "guard": [laio_run, "--guard", "--"],
                "engine": [laio_run, "--engine", "--"]}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        files = {name: os.path.join(directory, name) for name in ("hole", "blocks")}
        with open(files["hole"], "wb") as file:
            file.truncate(8 << 30)
        with open(files["blocks"], "wb") as file:
            for _ in range(256):
                file.write(random.randbytes(1 << 20))
            os.fsync(file.fileno())
        for name, count, depth, file in WORKLOADS:
            command = [*BENCH, "-c", str(count), "-d", str(depth), files[file]]
            modes = {mode: [] for mode in prefixes}
            done = 0
            for _ in range(rounds):
                order = random.sample(list(prefixes), len(prefixes))
                results = {mode: run(prefixes[mode] + command) for mode in order}
                if None in results.values():
                    print(f"# {name}: failed: {[m for m in results if results[m] is None]}")
                    continue
                done += 1
                for mode, result in results.items():
                    modes[mode].append(result)
            if done < 2:
                continue
            for mode in ("guard", "engine"):
                show(name, f"{mode} time", ratios(modes, done, mode, 0))
                show(name, f"{mode} CPU", ratios(modes, done, mode, 1))


main()
