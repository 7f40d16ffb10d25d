#!/usr/bin/env bash
# The QEMU tools of this machine with aio=io_uring, as they are, under the library.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

for tool in qemu-img qemu-io; do
    have "$tool" || skip_all "no $tool here (Debian: qemu-utils)"
done
version=$(qemu-img --version | sed -n '1s/^qemu-img version \([^ ]*\).*/\1/p')
echo "# qemu-img $version"

sparse=$dir/sparse.raw
truncate -s 8G "$sparse"
# The recursion begins where a read that took its time is followed by a hole.
for place in {0..15}; do
    dd if=/dev/urandom of="$sparse" bs=64k count=1 seek=$((place * 256)) conv=notrunc status=none
done
bench=(qemu-img bench -f raw -t none -i io_uring -s 4096)
if ! "${bench[@]}" -c 1 -d 1 "$sparse" >/dev/null 2>&1; then
    skip_all "no O_DIRECT in $dir, or no io_uring, for this qemu-img"
fi

# Enough for 8 MiB of stack at 250 bytes a level.
dies() {
    local status=0
    timeout "$limit" "${bench[@]}" -c 300000 -d "$1" "$sparse" >/dev/null || status=$?
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

# deepest BOUND: what the line says, within what a machine may be busy.
deepest() {
    local deepest
    deepest=$(sed -n 's/.*; io_uring: .*deepest nesting \([0-9]*\),.*/\1/p' "$dir/stats")
    cat "$dir/stats"
    ((deepest > $1 && deepest <= $1 + 25 + $2))
}
hole() {
    local depth=$1
    export LAIO_MAX_SUBMIT_DEPTH=$2
    under guard "${bench[@]}" -c 100000 -d "$depth" "$sparse"
    says guard '.*; io_uring: 100000 requests in [0-9]+ submissions'
    # At these depths each completion would nest, if this QEMU lets it.
    if ((vulnerable && depth <= 8)); then
        deepest "$2" "$depth"
        not grep -q '; io_uring: .* 0 times at the bound' "$dir/stats"
    fi
}
for depth in 1 2 8 64 128; do
    ok "guard: 100000 reads of a hole, $depth at a time" hole "$depth" 8
done
for bound in 1 64; do
    ok "guard: a bound of $bound" hole 1 "$bound"
done

# Worker and program on one processor, and other programs too: delays are not about who is fast.
one_processor() {
    under guard taskset -c "$(taskset -pc $$ | sed 's/.*: *//; s/[,-].*//')" \
        "${bench[@]}" -c 100000 -d 1 "$sparse"

    says guard
    ((! vulnerable)) || deepest 8 1
}
ok "guard: on one processor" one_processor

# A file as qemu opens it: uring FILE [FORMAT]
uring() {
    echo "driver=${2:-raw},cache.direct=on,file.driver=file,file.filename=$1,file.aio=io_uring,file.cache.direct=on"
}

copy() {
    local mode=$1 coroutines=$2 format=$3
    image mixed.raw 24
    rm -f "$dir/copy" "$dir/back"
    qemu-img create -q -f "$format" "$dir/copy" 24M
    truncate -s 24M "$dir/back"
    under "$mode" qemu-img convert -n -W -m "$coroutines" --image-opts --target-image-opts \
        "$(uring "$dir/mixed.raw")" "$(uring "$dir/copy" "$format")"
    says "$mode" '.*[1-9][0-9]* requests'
    under "$mode" qemu-img compare --image-opts \
        "$(uring "$dir/mixed.raw")" "$(uring "$dir/copy" "$format")"
    # And back by another path, without the library.
    qemu-img convert -n -f "$format" -O raw "$dir/copy" "$dir/back"
    cmp "$dir/mixed.raw" "$dir/back"
}
for format in raw qcow2; do
    for coroutines in 1 16; do
        ok "guard: a copy to $format by $coroutines coroutines" copy guard "$coroutines" "$format"
    done
done

io_commands() {
    local mode=$1 i commands=()
    truncate -s 64M "$dir/io.raw"
    for ((i = 0; i < 64; i++)); do
        commands+=(-c "aio_write -P $((i + 1)) $((i * 128))k 64k")
    done
    # FUA, unaligned to the vector's parts, and a flush of it all.
    commands+=(-c aio_flush -c 'writev -f -P 200 32M 4k 8k 64k' -c flush)
    under "$mode" qemu-io --image-opts "$(uring "$dir/io.raw")" "${commands[@]}" >"$dir/io"
    says "$mode" '.*[1-9][0-9]* requests'
    commands=()
    for ((i = 0; i < 64; i++)); do
        commands+=(-c "aio_read -P $((i + 1)) $((i * 128))k 64k")
        commands+=(-c "aio_read -P 0 $((i * 128 + 64))k 64k")
    done
    commands+=(-c aio_flush -c 'readv -P 200 32M 64k 8k 4k')
    under "$mode" qemu-io --image-opts "$(uring "$dir/io.raw")" "${commands[@]}" >>"$dir/io"
    qemu-io -f raw -r -c 'read -P 64 8064k 64k' -c 'read -P 200 32M 76k' "$dir/io.raw" >>"$dir/io"
    cat "$dir/io"
    ! grep -Ei 'fail|error|mismatch' "$dir/io"
}
ok "guard: asynchronous reads and writes of qemu-io" io_commands guard

writes_and_flushes() {
    local mode=$1 depth
    truncate -s 64M "$dir/writes.raw"
    for depth in 1 8 64; do
        under "$mode" "${bench[@]}" -w --flush-interval "$depth" -c 2000 -d "$depth" --pattern=90 \
            "$dir/writes.raw"
        says "$mode"
    done
    # 2000 times 4096 bytes.
    qemu-io -f raw -r -c 'read -P 90 0 8192000' -c 'read -P 0 8192000 1M' "$dir/writes.raw" >"$dir/io"
    ! grep -E 'failed|error' "$dir/io"
}
ok "guard: writes and flushes" writes_and_flushes guard

finish
