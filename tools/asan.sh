#!/usr/bin/env bash
# Runs the simulator, and the C tests with their library, under AddressSanitizer. Of the C tests
# those hosts that have no coroutines: it does not know swapcontext(3). `LAIO_SIM_COUNT` and
# `LAIO_SIM_SECONDS` are the simulator's. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
host=$(rustc -vV | sed -n 's/^host: //p')

# The stable compiler has it, but does not promise it.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
LAIO_SIM_COUNT=${LAIO_SIM_COUNT:-20000} \
    cargo test -p laio-engine --test sim --target "$host" --target-dir target/asan

# As the tests of the engine have them; what is shipped has not.
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
export CARGO_TARGET_DIR=$PWD/target/asan-c
# Event loops as they are with many states: with few all other runs of these tests have them.
RUSTFLAGS+=' --cfg laio_all_are_many'
build=${ASAN_BUILD_DIR:-build-asan}
[[ -f $build/build.ninja ]] || meson setup "$build" -Db_sanitize=address -Db_lundef=false
# The sanitizer's functions are the program's, which brings its runtime.
export LDFLAGS=-Wl,-z,undefs
# Not those that start coroutines of their own (attach-failure, input), measure the stack (stack), bring
# an allocator (memory), or stand in front of syscall(2) by valve.c, which reads more arguments than its
# callers give.
tests=(batch chaos ending io lifecycle limits load loop many nested reattach storm)
# Not all programs: a static one takes no sanitizer.
meson compile -C "$build" "${tests[@]/%/-test}"
export LAIO_TEST_HOSTS=minimal,builtin LAIO_TEST_SCALE=${LAIO_TEST_SCALE:-20}
export ASAN_OPTIONS=detect_stack_use_after_return=0:${ASAN_OPTIONS:-}
# By name, over both kernels. Meson is content when no test has such a name.
names=()
for kernel in linux-aio io_uring; do
    names+=("${tests[@]/%/ on $kernel}")
done
log=$(mktemp)
trap 'rm -f "$log"' EXIT
meson test -C "$build" --no-rebuild --print-errorlogs "${names[@]}" | tee "$log"
grep -qE "^Ok: +${#names[@]}[^0-9]*$" "$log" || {
    echo "asan.sh: not all of ${#names[@]} tests ran" >&2
    exit 1
}
