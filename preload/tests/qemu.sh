# Tests of QEMU's tools, for the scripts that source it: with $aio, which is native or io_uring. Most take
# the mode to run under.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

aio=${aio:?native or io_uring}
bench=(qemu-img bench -f raw -t none -i "$aio" -s 4096)

for tool in qemu-img qemu-io qemu-nbd; do
    have "$tool" || skip_all "no $tool here (Debian: qemu-utils)"
done
version=$(qemu-img --version | sed -n '1s/^qemu-img version \([^ ]*\).*/\1/p')
echo "# qemu-img $version"
modes=(guard engine)
declined=$(declines qemu-img)
if [[ -n $declined ]]; then
    modes=(guard)
    skip "engine mode" "$declined"
fi

sparse=$dir/sparse.raw
truncate -s 8G "$sparse"
# The recursion begins where a read that took its time is followed by a hole. On a busy machine one
# such place was not enough: its last read was complete when the submission returned.
for place in {0..15}; do
    dd if=/dev/urandom of="$sparse" bs=64k count=1 seek=$((place * 256)) conv=notrunc status=none
done
if ! dd if="$sparse" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null; then
    skip_all "no O_DIRECT in $dir, which qemu needs for aio=$aio"
fi

# Asked for, one line says that the bound was met, and how often it was does not matter.
logs_bound() {
    LAIO_LOG_BOUND=1 LAIO_STATS='' timeout "$limit" "$run" "--$1" -- "${bench[@]}" -c 20000 -d 1 "$sparse" \
        2>"$dir/said"
    cat "$dir/said"
    [[ $(wc -l <"$dir/said") == 1 ]]
    grep -q '^laio_preload: LAIO_LOG_BOUND: .* the first$' "$dir/said"
}
log_bound_if_vulnerable() {
    local mode
    for mode in "${modes[@]}"; do
        if (($1)); then
            ok "$mode: a line says that the bound was met" logs_bound "$mode"
        else
            skip "$mode: a line says that the bound was met" "qemu-img $version does not recurse"
        fi
    done
}

# image NAME MIB: data and holes at random, in pieces of 4 to 256 KiB.
image() {
    local file=$dir/$1 size=$(($2 * 256)) at=0 length
    rm -f "$file"
    truncate -s "$2M" "$file"
    while ((at < size)); do
        length=$((RANDOM % 64 + 1))
        if ((RANDOM % 2)); then
            dd if=/dev/urandom of="$file" bs=4k seek="$at" count="$length" conv=notrunc status=none
        fi
        at=$((at + length))
    done
    truncate -s "$2M" "$file" # the last piece may have been too long
}

# A file as qemu opens it: opened FILE [FORMAT]
opened() {
    echo "driver=${2:-raw},cache.direct=on,file.driver=file,file.filename=$1,file.aio=$aio,file.cache.direct=on"
}

copy() {
    local mode=$1 coroutines=$2 format=$3
    image mixed.raw 24
    rm -f "$dir/copy" "$dir/back"
    qemu-img create -q -f "$format" "$dir/copy" 24M
    truncate -s 24M "$dir/back"
    under "$mode" qemu-img convert -n -W -m "$coroutines" --image-opts --target-image-opts \
        "$(opened "$dir/mixed.raw")" "$(opened "$dir/copy" "$format")"
    says "$mode" '[1-9][0-9]* requests'
    under "$mode" qemu-img compare --image-opts \
        "$(opened "$dir/mixed.raw")" "$(opened "$dir/copy" "$format")"
    # And back by another path, without the library.
    qemu-img convert -n -f "$format" -O raw "$dir/copy" "$dir/back"
    cmp "$dir/mixed.raw" "$dir/back"
}

writes_and_flushes() {
    local mode=$1 depth
    truncate -s 64M "$dir/writes.raw"
    for depth in 1 2 3 8 31 64; do
        under "$mode" "${bench[@]}" -w --flush-interval "$depth" -c 2000 -d "$depth" --pattern=90 \
            "$dir/writes.raw"
        says "$mode"
    done
    # 2000 times 4096 bytes.
    qemu-io -f raw -r -c 'read -P 90 0 8192000' -c 'read -P 0 8192000 1M' "$dir/writes.raw" >"$dir/io"
    ! grep -E 'failed|error' "$dir/io"
}

io_commands() {
    local mode=$1 i commands=()
    truncate -s 64M "$dir/io.raw"
    for ((i = 0; i < 64; i++)); do
        commands+=(-c "aio_write -P $((i + 1)) $((i * 128))k 64k")
    done
    # FUA, unaligned to the vector's parts, and a flush of it all.
    commands+=(-c aio_flush -c 'writev -f -P 200 32M 4k 8k 64k' -c flush)
    under "$mode" qemu-io --image-opts "$(opened "$dir/io.raw")" "${commands[@]}" >"$dir/io"
    says "$mode" '[1-9][0-9]* requests'
    commands=()
    for ((i = 0; i < 64; i++)); do
        commands+=(-c "aio_read -P $((i + 1)) $((i * 128))k 64k")
        commands+=(-c "aio_read -P 0 $((i * 128 + 64))k 64k")
    done
    commands+=(-c aio_flush -c 'readv -P 200 32M 64k 8k 4k')
    under "$mode" qemu-io --image-opts "$(opened "$dir/io.raw")" "${commands[@]}" >>"$dir/io"
    qemu-io -f raw -r -c 'read -P 64 8064k 64k' -c 'read -P 200 32M 76k' "$dir/io.raw" >>"$dir/io"
    cat "$dir/io"
    ! grep -Ei 'fail|error|mismatch' "$dir/io"
}

end_of_file() {
    local mode=$1
    # The last sector is not a whole page.
    head -c 1049088 /dev/urandom >"$dir/odd.raw"
    truncate -s 2M "$dir/odd.copy"
    under "$mode" qemu-img convert -n --image-opts --target-image-opts \
        "$(opened "$dir/odd.raw")" "$(opened "$dir/odd.copy")"
    cmp -n 1049088 "$dir/odd.raw" "$dir/odd.copy"
    cmp -i 1049088:0 -n 1048064 "$dir/odd.copy" /dev/zero
}

an_error() {
    local mode=$1 status=0
    truncate -s 2M "$dir/limited.raw"
    (
        # In KiB. The kernel refuses what lies behind, with EFBIG.
        ulimit -f 1024
        trap '' XFSZ
        under "$mode" qemu-io --image-opts "$(opened "$dir/limited.raw")" \
            -c 'write 512k 64k' -c 'write 1536k 64k' -c 'write 576k 64k' >"$dir/io"
    ) >"$dir/lines" || status=$?
    cat "$dir/io" "$dir/lines"
    ((status == 1))
    [[ $(grep -c '^wrote 65536/65536' "$dir/io") == 2 ]]
    grep -q '^write failed: File too large' "$dir/io"
}

# await FILE PID: until the server PID has made FILE.
await() {
    local file=$1 pid=$2 i
    for ((i = 0; i < 600; i++)); do
        [[ ! -e $file ]] || return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$dir/stats"
    return 1
}

clients() {
    local i pids=() url=$1
    for i in 1 2 3 4; do
        timeout "$limit" qemu-img convert -m 16 -W -f raw -O raw "$url" "$dir/client.$i" &
        pids+=($!)
    done
    for i in 5 6; do
        timeout "$limit" qemu-img bench -f raw -t none -c 3000 -d 64 -s 4096 "$url" >/dev/null &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i"
    done
    for i in 1 2 3 4; do
        cmp "$dir/served.raw" "$dir/client.$i"
    done
}

nbd() {
    local mode=$1 server
    image served.raw 24
    LAIO_STATS=1 "$run" "--$mode" -- qemu-nbd -t -e 16 -r -f raw -n --aio="$aio" -k "$dir/nbd.sock" \
        "$dir/served.raw" 2>"$dir/stats" &
    server=$!
    await "$dir/nbd.sock" "$server"
    clients "nbd+unix:///?socket=$dir/nbd.sock"
    kill "$server"
    wait "$server"
    rm -f "$dir/nbd.sock"
    says "$mode" '[1-9][0-9]* requests'
}

daemon() {
    local mode=$1 server i options=()
    image served.raw 24
    for i in 0 1 2; do
        qemu-img create -q -f raw "$dir/disk.$i" 24M
        options+=(--object "iothread,id=io$i"
            --blockdev "driver=file,node-name=disk$i,filename=$dir/disk.$i,aio=$aio,cache.direct=on"
            --export "type=nbd,id=export$i,node-name=disk$i,name=disk$i,writable=on,iothread=io$i")
    done
    LAIO_STATS=1 "$run" "--$mode" -- qemu-storage-daemon \
        --nbd-server "addr.type=unix,addr.path=$dir/daemon.sock,max-connections=16" \
        "${options[@]}" --pidfile "$dir/pid" 2>"$dir/stats" &
    server=$!
    await "$dir/pid" "$server"
    local pids=()
    for i in 0 1 2; do
        (
            url="nbd+unix:///disk$i?socket=$dir/daemon.sock"
            timeout "$limit" qemu-img convert -n -W -m 16 -f raw -O raw "$dir/served.raw" "$url"
            timeout "$limit" qemu-img bench -f raw -c 3000 -d 64 -s 4096 "$url" >/dev/null &
            timeout "$limit" qemu-img compare -f raw -F raw "$dir/served.raw" "$url"
            wait $!
        ) &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i"
    done
    kill "$server"
    wait "$server"
    rm -f "$dir/pid" "$dir/daemon.sock"
    says "$mode" '[1-9][0-9]* requests'
    for i in 0 1 2; do
        cmp "$dir/served.raw" "$dir/disk.$i"
    done
}

# daemon_if_there MODE: as a test.
daemon_if_there() {
    local name="$1: qemu-storage-daemon with three iothreads"
    if have qemu-storage-daemon; then
        ok "$name" daemon "$1"
    else
        skip "$name" "no qemu-storage-daemon here"
    fi
}
