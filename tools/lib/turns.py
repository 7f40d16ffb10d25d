# SPDX-License-Identifier: MIT OR Apache-2.0
"""Comparisons on a machine that does other things too: in turns, and by the median of the ratios.

What strikes the machine strikes all that take turns, and a ratio is taken within one round only.
"""

import statistics


def in_turns(runs, rounds):
    """Calls each function of the dict `runs` once a round, each round beginning with another.

    A function is given the number of the round. Yields for each round what they returned, by name.
    """
    names = list(runs)
    for number in range(rounds):
        first = number % len(names)
        results = {name: runs[name](number) for name in names[first:] + names[:first]}
        yield {name: results[name] for name in names}


class Spread:
    """The median of some values, and how far they are from it."""

    def __init__(self, values):
        values = sorted(values)
        self.median = statistics.median(values)
        self.least, self.greatest = values[0], values[-1]
        # The middle half of them lies within.
        self.low, self.high = self.median, self.median
        if len(values) > 1:
            self.low, _, self.high = statistics.quantiles(values, n=4, method='inclusive')

    def __str__(self):
        return f'{self.median:.2f} ({self.low:.2f} to {self.high:.2f})'


def ratios(rounds, name, base, value=lambda result: result):
    """The Spread of the ratios of `name` to `base`, over the rounds that in_turns() yielded."""
    return Spread([value(results[name]) / value(results[base]) for results in rounds])
