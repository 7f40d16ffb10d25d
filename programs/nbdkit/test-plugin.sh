#!/usr/bin/env bash
# The nbdkit plugin serves what is in the file, to several clients and below nbdkit's filters. TAP.
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck disable=SC2016 # $uri is for the shell that nbdkit starts
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tools/lib/cli.sh
source "$here/../../tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$here/../../tools/lib/tap.sh"
usage() { echo 'usage: test-plugin.sh PLUGIN | --missing REASON'; }
missing=
parse missing= "$@"
[[ -z $missing ]] || skip_all "$missing"
takes 1 'a plugin'
plugin=$(realpath "${arguments[0]}")
for program in nbdkit nbdcopy nbdinfo qemu-img qemu-io fio; do
    have "$program" || skip_all "$program is missing; tools/install-deps.sh check installs it"
done

# A file system of a container may have no O_DIRECT.
direct=(false)
dd if=/dev/zero of="$dir/probe" bs=4096 count=1 oflag=direct 2>/dev/null && direct+=(true)

# Data, holes and zeros; a size that is a multiple of a sector only when it must be.
make_image() {
    local tail=${2:-0}
    rm -f "$1"
    truncate -s $((32 * 1024 * 1024 + tail)) "$1"
    dd if=/dev/urandom of="$1" bs=64k count=40 seek=3 conv=notrunc status=none
    dd if=/dev/urandom of="$1" bs=64k count=40 seek=300 conv=notrunc status=none
    dd if=/dev/zero of="$1" bs=64k count=10 seek=400 conv=notrunc status=none
}

# serve FILTER... -- PARAMETER... :: COMMAND: serves as long as the command runs, which has $uri.
serve() {
    local options=() parameters=()
    while [[ $1 != -- ]]; do
        options+=("--filter=$1")
        shift
    done
    shift
    while [[ $1 != :: ]]; do
        parameters+=("$1")
        shift
    done
    timeout 300 nbdkit -U - "${options[@]}" "$plugin" "${parameters[@]}" --run "$2"
}

reads() {
    make_image "$dir/image"
    serve -- "file=$dir/image" "direct=$1" :: "qemu-img compare -f raw -F raw \"\$uri\" '$dir/image'"
}

compares_unequal() {
    make_image "$dir/image"
    make_image "$dir/other"
    not serve -- "file=$dir/image" :: "qemu-img compare -f raw -F raw \"\$uri\" '$dir/other'"
}

copies_out() {
    make_image "$dir/image" 512
    serve -- "file=$dir/image" :: "nbdcopy --connections=4 --requests=64 \"\$uri\" '$dir/copy'"
    cmp "$dir/image" "$dir/copy"
}

copies_in() {
    local size
    make_image "$dir/image"
    size=$(stat -c %s "$dir/image")
    # So that what is not written shows.
    head -c "$size" /dev/urandom >"$dir/copy"
    serve -- "file=$dir/copy" "direct=$1" :: \
        "nbdcopy --connections=4 --flush '$dir/image' \"\$uri\""
    cmp "$dir/image" "$dir/copy"
}

# The holes are seen as such, and nothing else is.
extents() {
    local expected
    make_image "$dir/image"
    serve -- "file=$dir/image" :: "nbdinfo --map --json \"\$uri\"" >"$dir/map"
    expected=$(qemu-img map --output=json -f raw "$dir/image" | python3 -c '
import json, sys
print([(e["start"], e["length"], not e["data"]) for e in json.load(sys.stdin)])')
    [[ $(python3 -c '
import json, sys
merged = []
for e in json.load(sys.stdin):
    hole = e["type"] & 1 == 1
    if merged and merged[-1][2] == hole:
        e["length"] += merged[-1][1]
        e["offset"] = merged.pop()[0]
    merged.append((e["offset"], e["length"], hole))
print(merged)' <"$dir/map") == "$expected" ]]
}

offers() {
    make_image "$dir/image"
    serve -- "file=$dir/image" :: "nbdinfo \"\$uri\"" >"$dir/info"
    cat "$dir/info"
    for what in can_flush can_fua can_multi_conn can_trim can_zero; do
        grep -q "$what: true" "$dir/info"
    done
}

# Zeros, trims, writes with FUA and flushes; and what lies beside them stays.
changes() {
    make_image "$dir/image"
    cp --sparse=always "$dir/image" "$dir/expected"
    local changes=(-c 'write -P 0x5a -f 256k 64k' -c 'write -z 512k 128k' -c 'write -z -u 768k 64k'
        -c 'discard 1M 64k' -c flush -c 'write -z -u -f 1200k 12k')
    qemu-io -f raw "${changes[@]}" "$dir/expected"
    serve -- "file=$dir/image" "direct=$1" :: \
        "qemu-io -f raw ${changes[*]@Q} \"\$uri\"" | tee "$dir/said"
    not grep -i failed "$dir/said"
    # What was trimmed may be anything.
    cmp -n $((1024 * 1024)) "$dir/image" "$dir/expected"
    cmp -i $((1088 * 1024)) "$dir/image" "$dir/expected"
}

punches() {
    make_image "$dir/image"
    local before after
    before=$(stat -c %b "$dir/image")
    serve -- "file=$dir/image" :: 'qemu-io -f raw -d unmap -c "discard 256k 1M" "$uri"'
    after=$(stat -c %b "$dir/image")
    echo "$before $after"
    ((before - after > 1900)) # of 2048; the file system may need a block for its map
}

# fio's engine keeps many requests under way on several connections, and verifies what it wrote.
fio_verifies() {
    rm -f "$dir/image"
    truncate -s 32M "$dir/image"
    serve -- "file=$dir/image" "direct=$1" :: "fio --name=nbd --ioengine=nbd --uri=\"\$uri\" \
        --rw=randrw --bs=4k --size=16M --io_size=24M --iodepth=32 --verify=crc32c --verify_fatal=1 \
        --fsync=64 --offset_increment=16M --numjobs=2 --output='$dir/fio'" || {
        cat "$dir/fio"
        return 1
    }
}

# With an error filter above, errors are the client's and the file is whole.
below_errors() {
    make_image "$dir/image"
    not serve error -- "file=$dir/image" error-pread=EIO error-pread-rate=100% :: \
        "nbdcopy \"\$uri\" '$dir/copy'"
    # Some fail; nobody hangs.
    serve error -- "file=$dir/image" error=EIO error-rate=20% :: \
        'for i in $(seq 30); do qemu-io -f raw -c "read 0 64k" "$uri"; done | grep -c "read 65536"'
}

below_delays() {
    make_image "$dir/image"
    serve delay -- "file=$dir/image" rdelay=3ms wdelay=3ms :: \
        "nbdcopy --connections=4 --requests=32 \"\$uri\" '$dir/copy'"
    cmp "$dir/image" "$dir/copy"
}

# The kernel's own errors reach the client: a write beyond the largest size that a file may have.
tells_errors() {
    make_image "$dir/image"
    (
        trap '' XFSZ
        ulimit -f 1024
        serve -- "file=$dir/image" :: \
            'qemu-io -f raw -c "write 0 4k" -c "write 2M 4k" -c "read 2M 4k" "$uri" || true'
    ) | tee "$dir/said"
    grep -q 'wrote 4096/4096 bytes at offset 0' "$dir/said"
    grep -q 'write failed: ' "$dir/said"
    grep -q 'read 4096/4096 bytes at offset 2097152' "$dir/said"
}

in_the_background() {
    make_image "$dir/image"
    timeout 60 nbdkit -U "$dir/socket" -P "$dir/pid" "$plugin" "file=$dir/image"
    timeout 60 nbdcopy "nbd+unix:///?socket=$dir/socket" "$dir/copy"
    kill "$(cat "$dir/pid")"
    cmp "$dir/image" "$dir/copy"
    for _ in $(seq 600); do
        [[ -e /proc/$(cat "$dir/pid" 2>/dev/null || echo none) ]] || return 0
        sleep 0.1
    done
    return 1
}

refuses() {
    not nbdkit -U - "$plugin" "$@" --run true
}

for how in "${direct[@]}"; do
    ok "qemu-img reads, direct=$how" reads "$how"
    ok "nbdcopy copies in, direct=$how" copies_in "$how"
    ok "qemu-io zeroes, trims and flushes, direct=$how" changes "$how"
    ok "fio verifies, direct=$how" fio_verifies "$how"
done
ok 'qemu-img sees a difference' compares_unequal
ok 'nbdcopy copies out' copies_out
ok 'nbdinfo sees the extents' extents
ok 'nbdinfo sees what it can do' offers
ok 'a trim gives space back' punches
ok 'below the filter error' below_errors
ok 'below the filter delay' below_delays
ok "the kernel's errors are told" tells_errors
ok 'it goes into the background and ends' in_the_background
ok 'no file is refused' refuses
ok 'an unknown parameter is refused' refuses "file=$dir/image" nothing=1
finish
