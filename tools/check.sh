#!/usr/bin/env bash
# Runs the tests (make check, make quick): cargo's, then meson's. The last line counts them.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh
# shellcheck source=tools/lib/steps.sh
source tools/lib/steps.sh

usage() {
    cat <<'END'
usage: tools/check.sh [--quick] [-- MESON-TEST-ARGUMENT...]

Runs every test. With --quick, those that tell soonest: cargo's without the mutations, with 20,000
simulated scenarios instead of a million and 5 kills, and meson's suites c (with a twentieth of the
requests), examples, header, bench and tools.
END
}

quick=false
parse quick "$@"
takes 0 'no arguments'
tools/install-deps.sh check

build=${BUILD_DIR:-build}
logs=$build/check-logs
cargo_arguments=(--workspace)
meson_arguments=("${rest[@]}")
if $quick; then
    export LAIO_SIM_COUNT=${LAIO_SIM_COUNT:-20000} LAIO_KILL_ROUNDS=${LAIO_KILL_ROUNDS:-5}
    export LAIO_TEST_SCALE=${LAIO_TEST_SCALE:-20}
    cargo_arguments+=(--lib --bins)
    shopt -s nullglob
    for file in {,engine/}tests/{*.rs,*/main.rs}; do
        name=${file%/main.rs}
        name=$(basename "$name" .rs)
        [[ $name == mutations ]] || cargo_arguments+=(--test "$name")
    done
    meson_arguments+=(--suite c --suite examples --suite header --suite bench --suite tools)
fi

meson_setup() {
    [[ -f $build/build.ninja ]] || meson setup "$build"
}

# tests NAME COMMAND [ARGUMENT...]: a terminal sees where they are, a pipe what fails.
tests() {
    local log=$logs/${1// /-}.log
    if [[ -t 1 ]]; then
        tools/progress.py --run "$what" --step "$1" --log "$log" --times "$logs/times.json" "${@:2}"
    else
        logged "$log" "${@:2}"
    fi
}

suites() {
    meson test -C "$build" --list "${meson_arguments[@]}" 2>/dev/null |
        sed -n 's/^laio:\([^ ]*\) .*/\1/p' | sort -u | paste -sd ' '
}

mkdir -p "$logs"
rm -f "$build"/meson-logs/testlog*.json
$quick && what='quick' || what='all, for minutes'
step "cargo test ($what)" \
    tests 'cargo test' cargo test --no-fail-fast "${cargo_arguments[@]}"
step 'meson setup' logged "$logs/meson-setup.log" meson_setup
step "meson test (suites: $(suites))" \
    tests 'meson test' meson test -C "$build" --print-errorlogs "${meson_arguments[@]}"

count=(--cargo "$logs/cargo-test.log")
for log in "$build"/meson-logs/testlog*.json; do
    count+=(--meson "$log")
done
((${#count[@]} > 2)) || count+=(--meson "$build/meson-logs/testlog.json") # it is missing: a failure
status=0
counted=$(tools/count-tests "${count[@]}") || status=1
all_passed || status=1
printf '\n%s\n' "$counted"
exit "$status"
