#!/usr/bin/env python3
# Tests QEMU's tools on liblaio: check.py [--io-uring] [--own DIR] LABEL=DIR..., each DIR holding one
# build of the four. With --io-uring they use liblaio for aio=io_uring as well; the DIR of --own holds
# a qemu-img whose aio=io_uring is QEMU's own, and recurses.
# LAIO_TEST_DIR is where test files go; O_DIRECT must work there.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import argparse
import sys

import data
import engine
import nbd
from harness import main

ALL = [
    engine.test_uses_laio,
    engine.test_link_mode,
    engine.test_no_statistics_unless_asked,
    engine.test_million_over_a_hole,
    engine.test_resumed_by_completion_bh,
    data.test_convert,
    data.test_compare_sees_a_difference,
    data.test_patterns,
    data.test_wrong_pattern_is_seen,
    data.test_async,
    data.test_end_of_file,
    data.test_end_of_file_in_between,
    data.test_no_space,
    engine.test_no_aio_context,
    engine.test_io_uring_without_aio_context,
    engine.test_hole_on_io_uring,
    engine.on_io_uring(data.test_convert),
    engine.on_io_uring(data.test_patterns),
    engine.on_io_uring(data.test_async),
    engine.on_io_uring(data.test_end_of_file),
    engine.on_io_uring(nbd.test_nbd_iothreads),
    nbd.test_nbd_iothreads,
    nbd.test_nbd_iothreads_clients_that_stay,
    nbd.test_reopen_and_detach,
    nbd.test_server_killed,
    nbd.test_client_killed,
    nbd.test_exports_taken_away,
    nbd.test_qemu_nbd_terminated,
]

IO_URING = [
    engine.test_aio_io_uring_is_io_uring,
    engine.test_io_uring_denied,
    engine.test_both_in_one_loop,
    *map(engine.aio_io_uring, [
        engine.test_uses_laio,
        engine.test_million_over_a_hole,
        engine.test_resumed_by_completion_bh,
        data.test_convert,
        data.test_compare_sees_a_difference,
        data.test_patterns,
        data.test_buffered_patterns,
        data.test_wrong_pattern_is_seen,
        data.test_async,
        data.test_end_of_file,
        data.test_end_of_file_in_between,
        data.test_no_space,
        nbd.test_nbd_iothreads,
        nbd.test_nbd_iothreads_clients_that_stay,
        nbd.test_reopen_and_detach,
        nbd.test_server_killed,
        nbd.test_client_killed,
        nbd.test_exports_taken_away,
        nbd.test_qemu_nbd_terminated,
    ]),
]

# Of the same code, linked statically: these see whether it is the right one that was linked.
IO_URING_LINKED = [
    engine.test_aio_io_uring_is_io_uring,
    engine.test_io_uring_denied,
    engine.aio_io_uring(engine.test_uses_laio),
    engine.aio_io_uring(data.test_patterns),
    engine.aio_io_uring(nbd.test_nbd_iothreads_clients_that_stay),
]


def runs():
    parser = argparse.ArgumentParser()
    parser.add_argument('--io-uring', action='store_true')
    parser.add_argument('--own')
    parser.add_argument('directories', nargs='+')
    arguments = parser.parse_args()
    for argument in arguments.directories:
        label, directory = argument.split('=', 1)
        yield label, directory, ALL
        if not arguments.io_uring:
            yield label, directory, [engine.test_io_uring_left_alone]
        else:
            yield label, directory, IO_URING if label == 'shared' else IO_URING_LINKED
    if arguments.own:
        yield 'own', arguments.own, [engine.test_own_io_uring_overflows]


if __name__ == '__main__':
    sys.exit(main(runs()))
