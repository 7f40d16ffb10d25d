#!/usr/bin/env bash
# The QEMU tools of this machine, as they are, under the library.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
aio=native
# shellcheck source=preload/tests/qemu.sh
source "$(dirname "${BASH_SOURCE[0]}")/qemu.sh"

# Whether this QEMU recurses without bound: it dies of it.
is_vulnerable() {
    local status=0
    timeout "$limit" "${bench[@]}" -c 20000 -d 1 "$sparse" >/dev/null 2>&1 || status=$?
    # 128 + SIGSEGV
    ((status == 139))
}

if is_vulnerable 2>/dev/null; then
    vulnerable=1
    ok "the stock command dies" true
else
    vulnerable=0
    skip "the stock command dies" "qemu-img $version does not"
fi

hole() {
    local mode=$1 depth=$2
    under "$mode" "${bench[@]}" -c 100000 -d "$depth" "$sparse"
    says "$mode" '10000[01] requests' # and the probe of laio_has_fdsync
    local deepest
    deepest=$(sed -n 's/.*deepest nesting \([0-9]*\),.*/\1/p' "$dir/stats")
    ((deepest <= 8))
    # At depth 1 each completion would nest, if this QEMU lets it.
    if ((depth == 1 && vulnerable)); then
        [[ $deepest == 8 ]]
        not grep -q ' 0 times at the bound' "$dir/stats"
    fi
}
for mode in "${modes[@]}"; do
    for depth in 1 2 3 8 31 64; do
        ok "$mode: 100000 reads of a hole, $depth at a time" hole "$mode" "$depth"
    done
done

# The line that qemu/laio-host.c prints, with N for each number.
host_file_words() {
    sed -n '/"laio\[%d\]: engine: /,/\\n"/p' "$(dirname "${BASH_SOURCE[0]}")/../../qemu/laio-host.c" |
        tr -d '\n' | sed 's/%" PRIu64 *"/N/g; s/%[du]/N/g; s/" *"//g; s/.*: engine: \(.*\)\\n".*/\1\n/'
}
one_format() {
    under engine "${bench[@]}" -c 1000 -d 8 "$sparse"
    says engine '1 states \(1 linux-aio, 0 io_uring\), 1000 completed, 0 failed, 0 retried, 0 in queue, 0 in flight, '
    sed 's/.*: engine: //; s/[0-9][0-9]*/N/g' "$dir/stats" | diff <(host_file_words) -
}
[[ -n $declined ]] || ok "engine: its line reads like that of a QEMU built on the library" one_format

bound() {
    export LAIO_MAX_SUBMIT_DEPTH=$2
    under "$1" "${bench[@]}" -c 50000 -d 1 "$sparse"
    says "$1" "deepest nesting $2, [1-9]"
}
for mode in "${modes[@]}"; do
    for depth in 1 2 17 64; do
        if ((vulnerable)); then
            ok "$mode: a bound of $depth is reached and kept" bound "$mode" "$depth"
        else
            skip "$mode: a bound of $depth is reached and kept" "qemu-img $version has one of its own"
        fi
    done
done

for mode in "${modes[@]}"; do
    for format in raw qcow2; do
        for coroutines in 1 2 3 8 16; do
            ok "$mode: a copy to $format by $coroutines coroutines" copy "$mode" "$coroutines" "$format"
        done
    done
done

for mode in "${modes[@]}"; do
    ok "$mode: writes and flushes" writes_and_flushes "$mode"
done

for mode in "${modes[@]}"; do
    ok "$mode: asynchronous reads and writes of qemu-io" io_commands "$mode"
done

for mode in "${modes[@]}"; do
    ok "$mode: an image that ends within a page" end_of_file "$mode"
done

for mode in "${modes[@]}"; do
    ok "$mode: an error reaches who asked, and the next request is fine" an_error "$mode"
done

for mode in "${modes[@]}"; do
    ok "$mode: qemu-nbd with six clients" nbd "$mode"
done

for mode in "${modes[@]}"; do
    daemon_if_there "$mode"
done

log_bound_if_vulnerable "$vulnerable"

finish
