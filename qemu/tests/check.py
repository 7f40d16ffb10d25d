#!/usr/bin/env python3
# Tests QEMU's tools on liblaio: check.py LABEL=DIR..., each DIR holding one build of the four.
# LAIO_TEST_DIR is where test files go; O_DIRECT must work there.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import sys

import data
import engine
import nbd
from harness import main

if __name__ == '__main__':
    sys.exit(main([
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
    ]))
