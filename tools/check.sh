#!/usr/bin/env bash
# Runs every test (make check): cargo's, then meson's. The last line counts them.
# Extra arguments go to `meson test`. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/install-deps.sh check

build=${BUILD_DIR:-build}
logs=$build/check-logs
failed=()

# A failure is remembered, so that one command shows everything that is broken.
step() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

cargo_tests() {
    cargo test --workspace --no-fail-fast 2>&1 | tee "$logs/cargo-test.log"
}

meson_setup() {
    [[ -f $build/build.ninja ]] || meson setup "$build"
}

mkdir -p "$logs"
rm -f "$build"/meson-logs/testlog*.json
step 'cargo test' cargo_tests
step 'meson setup' meson_setup
step 'meson test' meson test -C "$build" --print-errorlogs "$@"

count=(--cargo "$logs/cargo-test.log")
for log in "$build"/meson-logs/testlog*.json; do
    count+=(--meson "$log") # without a log the pattern itself, which counts as a failure
done
status=0
counted=$(tools/count-tests "${count[@]}") || status=$?
if ((${#failed[@]} > 0)); then
    status=1
    printf 'failed: %s\n' "${failed[@]}"
fi
printf '%s\n' "$counted"
exit "$status"
