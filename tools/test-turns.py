#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests of lib/turns.py, as TAP."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))
from tap import run_tests  # noqa: E402 pylint: disable=wrong-import-position
from turns import Spread, in_turns, ratios  # noqa: E402 pylint: disable=wrong-import-position


def order_of_calls(names, rounds):
    calls = []
    runs = {name: lambda number, name=name: calls.append((number, name)) for name in names}
    for _ in in_turns(runs, rounds):
        pass
    return calls


def test_each_begins_in_turn():
    assert order_of_calls('ab', 3) == [(0, 'a'), (0, 'b'), (1, 'b'), (1, 'a'), (2, 'a'), (2, 'b')]
    assert [call for call in order_of_calls('abc', 3)[::3]] == [(0, 'a'), (1, 'b'), (2, 'c')]


def test_results_are_by_name():
    assert list(in_turns({'a': lambda n: n, 'b': lambda n: -n}, 2)) == [
        {'a': 0, 'b': 0}, {'a': 1, 'b': -1}]


def test_ratios_are_within_a_round():
    # The machine is ten times slower in the second round.
    rounds = [{'a': 2, 'b': 1}, {'a': 20, 'b': 10}, {'a': 2, 'b': 1}]
    assert str(ratios(rounds, 'a', 'b')) == '2.00 (2.00 to 2.00)'
    assert str(ratios(rounds, 'b', 'a')) == '0.50 (0.50 to 0.50)'


def test_ratios_of_a_part_of_the_results():
    assert ratios([{'a': (1, 6), 'b': (1, 3)}], 'a', 'b', lambda result: result[1]).median == 2


def test_spread():
    spread = Spread([5, 1, 2, 4, 3])
    assert (spread.least, spread.low, spread.median, spread.high, spread.greatest) == (1, 2, 3, 4, 5)
    assert str(Spread([1.5])) == '1.50 (1.50 to 1.50)'


if __name__ == '__main__':
    sys.exit(run_tests(globals()))
