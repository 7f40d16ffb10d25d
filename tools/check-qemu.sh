#!/usr/bin/env bash
# Tests real QEMU tools on liblaio (make check-qemu): fetches, builds and tests QEMU 7.2,
# 10.0 and 10.2.
# The last line counts the tests. Extra arguments go to `meson test`.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh check qemu

build=${BUILD_DIR:-build}
log=$build/meson-logs/testlog-qemu.json
[[ -f $build/build.ninja ]] || meson setup "$build"
rm -f "$log"
status=0
meson test -C "$build" --suite qemu --logbase testlog-qemu --print-errorlogs "$@" || status=$?
tools/count-tests --meson "$log" || status=1
exit "$status"
