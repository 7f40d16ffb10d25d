#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Verify jobs of fio, on its libaio engine and on ours, with the same verdict in each. TAP.

Usage: matrix.py [--all] ENGINE.SO LATE-THREADS.SO

Without --all a sample of the matrix, which has each value of each dimension. A job may be one that
has to fail, as libaio says: somebody changed the file, or it is too short. LATE-THREADS.SO is
preloaded for jobs with io_submit_mode=offload on libaio, which fio hangs in otherwise; our engine
has to do without. With batches as well libaio hangs in any case, and only ours is looked at.
"""

import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile

ALL = "--all" in sys.argv
ENGINE, LATE = (os.path.realpath(path) for path in sys.argv[-2:])
TIMEOUT = 120
SAMPLE = 20

PATTERNS = ["write", "randwrite", "randrw"]
DIMENSIONS = {
    "rw": PATTERNS,
    "direct": ["0", "1"],
    "jobs": ["numjobs=1", "numjobs=3", "numjobs=2 thread"],
    "depth": [
        "iodepth=1",
        "iodepth=16",
        "iodepth=32 iodepth_batch=8 iodepth_batch_complete_min=1 iodepth_batch_complete_max=16",
        "iodepth=16 iodepth_batch=4 iodepth_batch_complete_min=4 iodepth_low=2",
    ],
    "mode": ["inline", "offload"],
    "file": ["whole", "odd", "changed", "short"],
}


def matrix():
    """All combinations that fio can do at all."""
    for values in itertools.product(*DIMENSIONS.values()):
        job = dict(zip(DIMENSIONS, values))
        # There fio's own accounts go wrong, and libaio hangs: a worker commits before a batch is full.
        if job["mode"] == "offload" and "iodepth_batch" in job["depth"]:
            continue
        # A size that is no multiple of a sector.
        if job["file"] == "odd" and job["direct"] == "1":
            continue
        yield job


def sample(jobs):
    """A few of them, with each value at least twice; the same ones each time."""
    jobs = list(jobs)
    random.Random(1).shuffle(jobs)
    chosen, seen = [], {}
    for job in sorted(jobs, key=lambda job: job["file"] in ("changed", "short")):
        if any(seen.get(item, 0) < 2 for item in job.items()):
            chosen.append(job)
            for item in job.items():
                seen[item] = seen.get(item, 0) + 1
    chosen += [job for job in jobs if job not in chosen][: max(0, SAMPLE - len(chosen))]
    return chosen


def options(job, directory):
    size = "511k" if job["file"] == "odd" else "512k"
    block = "--bs=3k" if job["file"] == "odd" else "--bs=4k"
    words = [f"rw={job['rw']}", f"direct={job['direct']}", f"io_submit_mode={job['mode']}"]
    words += job["jobs"].split() + job["depth"].split()
    return [f"--{word}" for word in words] + [
        block, f"--size={size}", f"--directory={directory}", "--name=job", "--verify=crc32c",
        "--verify_fatal=1", "--randseed=7", "--allrandrepeat=1", "--invalidate=0",
        # Or a job that is ended leaves a file where it ran.
        "--verify_state_save=0",
    ]  # fmt: skip


def fio(arguments, late):
    environment = dict(os.environ, LD_PRELOAD=LATE) if late else os.environ
    try:
        done = subprocess.run(["fio", *arguments], env=environment, capture_output=True,
                              text=True, timeout=TIMEOUT)  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        return "hangs", str(expired)
    return "passes" if done.returncode == 0 else "fails", done.stdout + done.stderr


def run(job, arguments, late):
    """As fio(). To be late helps against fio's race only as long as the machine is not later: where it
    can strike, a job that hangs has two more tries."""
    for _ in range(3 if job["mode"] == "offload" else 1):
        found, said = fio(arguments, late)
        if found != "hangs":
            break
    return found, said


def spoil(job, directory):
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "r+b") as file:
            if job["file"] == "changed":
                file.seek(100 * 1024)
                file.write(b"somebody else was here")
            else:
                file.truncate(300 * 1024)


def verdict(job, engine, scratch):
    """What fio says, and all that it printed."""
    directory = tempfile.mkdtemp(dir=scratch)
    late = job["mode"] == "offload" and engine == "libaio"
    arguments = options(job, directory) + [f"--ioengine={engine}"]
    first, said = run(job, arguments, late)
    if job["file"] in ("changed", "short") and first == "passes":
        spoil(job, directory)
        second, more = run(job, arguments + ["--verify_only=1"], late)
        first, said = f"{first}, then {second}", said + more
    shutil.rmtree(directory)
    return first, said


def main():
    jobs = list(matrix()) if ALL else sample(matrix())
    scratch = tempfile.mkdtemp(prefix="laio-fio.", dir=os.environ.get("LAIO_TEST_DIR"))
    failed = 0
    for number, job in enumerate(jobs, 1):
        expected, _ = verdict(job, "libaio", scratch)
        found, said = verdict(job, f"external:{ENGINE}", scratch)
        same = found == expected
        name = ", ".join(f"{key} {value}" for key, value in job.items())
        print(f"{'' if same else 'not '}ok {number} - {name}: {expected}", flush=True)
        if not same:
            failed += 1
            print(f"# laio: {found}\n" + "".join(f"# {line}\n" for line in said.splitlines()))
    batches = dict(jobs[0], mode="offload", depth="iodepth=16 iodepth_batch=4", file="whole")
    found, said = verdict(batches, f"external:{ENGINE}", scratch)
    print(f"{'' if found == 'passes' else 'not '}ok {len(jobs) + 1} - offload in batches: {found}")
    if found != "passes":
        failed += 1
        print("".join(f"# {line}\n" for line in said.splitlines()))
    shutil.rmtree(scratch)
    print(f"1..{len(jobs) + 1}")
    return failed > 0


sys.exit(main())
