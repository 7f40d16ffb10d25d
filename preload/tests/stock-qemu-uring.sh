#!/usr/bin/env bash
# The QEMU tools of this machine with aio=io_uring, as they are, under the library.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
aio=io_uring
# shellcheck source=preload/tests/qemu.sh
source "$(dirname "${BASH_SOURCE[0]}")/qemu.sh"

if ! "${bench[@]}" -c 1 -d 1 "$sparse" >/dev/null 2>&1; then
    skip_all "this qemu-img has no io_uring, or it is denied here"
fi

# 300,000 levels of 250 bytes each are more than 8 MiB.
dies() {
    local status=0
    timeout "$limit" "${bench[@]}" -c 300000 -d "$1" "$sparse" >/dev/null 2>&1 || status=$?
    # 128 + SIGSEGV
    ((status == 139))
}
vulnerable=0
if dies 1 2>/dev/null; then
    vulnerable=1
fi
for depth in 1 2; do
    if ((vulnerable)); then
        ok "the stock command dies, $depth at a time" dies "$depth" 2>/dev/null
    else
        skip "the stock command dies, $depth at a time" "qemu-img $version does not"
    fi
done

# bounded MODE BOUND AT_A_TIME: as deep as the line says.
bounded() {
    local deepest most=$2
    # One more, what was in flight, and what a busy machine adds.
    [[ $1 == engine ]] || most=$((most + 1 + $3 + 24))
    deepest=$(sed -n 's/.*deepest nesting \([0-9]*\),.*/\1/p' "$dir/stats")
    echo "$deepest deep"
    ((deepest >= $2 && deepest <= most))
}

# hole MODE AT_A_TIME BOUND
hole() {
    export LAIO_MAX_SUBMIT_DEPTH=$3
    under "$1" "${bench[@]}" -c 100000 -d "$2" "$sparse"
    cat "$dir/stats"
    says "$1" '100000 requests'
    # So few would all nest, if this QEMU lets them.
    if ((vulnerable && $2 <= 8)); then
        bounded "$1" "$3" "$2"
        grep -Eq ', [1-9][0-9]* times at the bound' "$dir/stats"
    fi
}
for mode in "${modes[@]}"; do
    for depth in 1 2 8 64 128; do
        ok "$mode: 100000 reads of a hole, $depth at a time" hole "$mode" "$depth" 8
    done
    for bound in 1 64; do
        ok "$mode: 100000 reads of a hole, with a bound of $bound" hole "$mode" 1 "$bound"
    done
done

# Where a worker of the kernel's and the program have one processor, the worker is the faster.
one_processor() {
    taskset -pc "$(taskset -pc "$BASHPID" | sed 's/.*: *//; s/[,-].*//')" "$BASHPID"
    hole guard 1 8
}
ok "guard: on one processor" one_processor

taken_over() {
    under engine "${bench[@]}" -c 10 -d 1 "$sparse"
    says engine '1 states \(0 linux-aio, 1 io_uring\), 10 completed, '
}
if ((vulnerable)); then
    ok "engine: the executable's io_uring is taken over" taken_over
else
    skip "engine: the executable's io_uring is taken over" "qemu-img $version has no states to take over"
fi

# Without io_uring QEMU takes its threads, and says so.
denied() {
    under "$1" "$HELPERS/no-io-uring" "${bench[@]}" -c 1000 -d 8 "$sparse"
    cat "$dir/stats"
    grep -q 'falling back to thread pool: .*Operation not permitted' "$dir/stats"
    [[ $(wc -l <"$dir/stats") == 2 ]]
    grep -q ": $1: 0 requests in 0 submissions" "$dir/stats"
}
denied_status=0
"${HELPERS:?the directory of the C programs}/no-io-uring" true || denied_status=$?
for mode in "${modes[@]}"; do
    if ((denied_status != 0)); then
        skip "$mode: io_uring is denied" "this kernel has no seccomp filters"
    elif ! "$HELPERS/no-io-uring" "${bench[@]}" -c 1 -d 1 "$sparse" >/dev/null 2>&1; then
        skip "$mode: io_uring is denied" "qemu-img $version does not go on without it"
    else
        ok "$mode: io_uring is denied" denied "$mode"
    fi
done

# Two engines in one process, whose submissions nest in each other's.
both() {
    image mixed.raw 24
    truncate -s 0 "$dir/copy"
    truncate -s 24M "$dir/copy"
    local from
    from=$(opened "$dir/mixed.raw")
    under "$1" qemu-img convert -n -W -m 16 --image-opts --target-image-opts \
        "${from//io_uring/native}" "$(opened "$dir/copy")"
    cat "$dir/stats"
    cmp "$dir/mixed.raw" "$dir/copy"
    case $1 in
    engine) says engine '2 states \(1 linux-aio, 1 io_uring\)' ;;
    guard) says guard '[1-9][0-9]* requests in .*; io_uring: [1-9]' ;;
    esac
}
for mode in "${modes[@]}"; do
    for format in raw qcow2; do
        for coroutines in 1 16; do
            ok "$mode: a copy to $format by $coroutines coroutines" copy "$mode" "$coroutines" "$format"
        done
    done
    ok "$mode: a copy from aio=native" both "$mode"
    ok "$mode: writes and flushes" writes_and_flushes "$mode"
    ok "$mode: asynchronous reads and writes of qemu-io" io_commands "$mode"
    ok "$mode: an image that ends within a page" end_of_file "$mode"
    ok "$mode: an error reaches who asked, and the next request is fine" an_error "$mode"
    ok "$mode: qemu-nbd with six clients" nbd "$mode"
    daemon_if_there "$mode"
done

log_bound_if_vulnerable "$vulnerable"

finish
