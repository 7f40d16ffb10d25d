# SPDX-License-Identifier: MIT OR Apache-2.0
"""The picture of the comparison."""

import matplotlib

matplotlib.use('svg')
matplotlib.rcParams['svg.hashsalt'] = 'laio'  # The same picture for the same figures.
matplotlib.rcParams['svg.fonttype'] = 'none'
from matplotlib import pyplot  # noqa: E402 pylint: disable=wrong-import-position

TITLES = {'hole': 'a hole, O_DIRECT', 'cached': 'the page cache', 'missed': 'misses of the page cache',
          'blocks': 'blocks, O_DIRECT (the disk)'}
COLOURS = {'laio, linux-aio': '#1b6ca8', 'laio, io_uring': '#3fa7d6', 'floor, linux-aio': '#9a9a9a',
           'floor and eventfd, linux-aio': '#777777',
           'floor, io_uring': '#c8c8c8', 'fio, libaio': '#d1495b', 'fio, io_uring': '#edae49',
           'qemu, native': '#5b3a8c', 'qemu, io_uring': '#8e6fc1', 'qemu on laio, native': '#2e7d4f',
           'qemu on laio, io_uring': '#5fae7f'}


def draw(lines, path):
    """CPU a request of the 4 KiB reads, a panel for each file, a group of bars for each depth."""
    reads = [line for line in lines if not line['write'] and line['bytes'] == 4096]
    files = [file for file in TITLES if any(line['file'] == file for line in reads)]
    if not files:
        return
    figure, panels = pyplot.subplots(len(files), 1, figsize=(9, 2.7 * len(files)), squeeze=False)
    for panel, file in zip(panels[:, 0], files):
        of_file = [line for line in reads if line['file'] == file]
        depths = sorted({line['depth'] for line in of_file})
        names = [name for name in COLOURS if any(line['contender'] == name for line in of_file)]
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            figures = {line['depth']: line['cpu_us'] for line in of_file if line['contender'] == name}
            places = [at + (number - (len(names) - 1) / 2) * width for at, _ in enumerate(depths)]
            panel.bar(places, [figures.get(depth, 0) for depth in depths], width,
                      color=COLOURS[name], label=name)
        panel.set_title(f'4 KiB reads of {TITLES[file]}', fontsize=10, loc='left')
        panel.set_xticks(range(len(depths)), [f'depth {depth}' for depth in depths])
        panel.set_ylabel('us CPU a request')
        panel.spines[['top', 'right']].set_visible(False)
    panels[0, 0].legend(fontsize=8, ncols=3, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={'Date': None})
