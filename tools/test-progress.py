#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests of progress.py, as TAP."""

import json
import os
import pathlib
import pty
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / 'lib')]
from tap import run_tests  # noqa: E402 pylint: disable=wrong-import-position
from progress import Step, seconds_left  # noqa: E402 pylint: disable=wrong-import-position


def after(lines, last=None):
    step = Step(last or {})
    for line in lines:
        step.read(line)
    return step


def test_cargo():
    lines = ['   Compiling laio v1.0.0', '     Running unittests src/lib.rs (target/debug/deps/laio-0123456789abcdef)',
             'test a::b ... ok', 'test c ... FAILED', 'test d ... ignored, takes long']
    assert after(lines[:1]).line(3, None) == 'building; 0; 3 s so far'
    assert after(lines).line(3, None) == 'laio; 1; 1 failed; 3 s so far'
    assert after(lines, {'parts': 17}).line(3, 200) == 'laio; 1 of 17; 1 failed; 3 s so far; about 3 min to go'
    assert after([*lines, '   Doc-tests laio']).line(3, None) == 'laio; 2; 1 failed; 3 s so far'


def test_meson():
    lines = ['[12/168] Linking target laio-bench',
             ' 37/214 laio:c / io on io_uring, built-in      OK             10.08s   13 subtests passed',
             ' 38/214 laio:c / nested               FAIL            1.18s   exit status 1',
             ' 39/214 laio:header / install         SKIP            0.10s']
    assert after(lines[:1]).line(3, None) == 'building, 12 of 168; 0; 3 s so far'
    assert after(lines[:2]).line(3, None) == 'c, io on io_uring, built-in; 37 of 214; 3 s so far'
    assert after(lines).line(3, 7) == 'header, install; 39 of 214; 1 failed; 3 s so far; about 7 s to go'


def test_what_is_left():
    times = {'cargo': {'seconds': 100}, 'meson': {'seconds': 300}}
    assert seconds_left({}, 'cargo', 1) is None
    assert seconds_left(times, 'cargo', 30) == 370
    assert seconds_left(times, 'cargo', 130) == 300
    assert seconds_left(times, 'meson', 30) == 270


def on_a_terminal(directory, command):
    """What a terminal sees, and the status."""
    terminal, end = pty.openpty()
    arguments = [HERE / 'progress.py', '--run', 'quick', '--step', 'meson test', '--log', directory / 'log',
                 '--times', directory / 'times.json', 'bash', '-c', command]
    status = subprocess.run(arguments, stdout=end, stderr=end, check=False).returncode
    os.close(end)
    seen = b''
    try:
        while read := os.read(terminal, 4096):
            seen += read
    except OSError:  # its other end is closed
        pass
    os.close(terminal)
    return seen.decode(), status


def test_on_a_terminal():
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        passes = "echo '1/2 laio:c / one   OK   0.10s'; echo '2/2 laio:c / two   OK   0.10s'"
        seen, status = on_a_terminal(directory, passes)
        assert status == 0 and re.search(r'\rc, two; 2 of 2; \d+ s so far\033\[K', seen), seen
        assert 'to go' not in seen and 'laio:c' not in seen, seen
        assert 'laio:c / two' in (directory / 'log').read_text()
        times = (directory / 'times.json').read_text()
        assert json.loads(times)['quick']['meson test']['parts'] == 2, times
        # What fails is shown, and its time is none to go by.
        seen, status = on_a_terminal(directory, "echo '1/2 laio:c / one   FAIL   0.10s'; exit 3")
        assert status == 3 and seen.rstrip().endswith('\033[K1/2 laio:c / one   FAIL   0.10s'), seen
        assert re.search(r'so far; about \d+ s to go', seen), seen
        assert (directory / 'times.json').read_text() == times


if __name__ == '__main__':
    sys.exit(run_tests(globals()))
