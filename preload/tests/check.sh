#!/usr/bin/env bash
# laio-run --check. HELPERS is the directory of the programs built from like-qemu.c.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

helpers=${HELPERS:?the directory of the C programs}
[[ -x $helpers/qemu-system-bare ]] ||
    skip_all "no libaio or liburing here to build the programs with (Debian: libaio-dev, liburing-dev)"

# Where a file that is read at once can be made, and no qemu-img is found by accident.
export TMPDIR=$dir
export PATH=$dir/path:$PATH
mkdir "$dir/path"
cp "$helpers/qemu-img-of-tests" "$dir/path/qemu-img"

# exits STATUS BINARY...: what is said is in $dir/said.
exits() {
    local wanted=$1 status=0
    shift
    timeout "$limit" "$run" --check "$@" >"$dir/said" 2>&1 || status=$?
    cat "$dir/said"
    ((status == wanted))
}

# line NAME PATTERN: a line that begins so goes on so.
line() {
    grep -Eq "^ *$1 +$2" "$dir/said"
}

judged() {
    exits 0 "$helpers/qemu-system-before"
    line aio=native 'likely not vulnerable: it has no defer_call'
    line aio=io_uring 'likely not vulnerable: it has no defer_call'

    exits 1 "$helpers/qemu-system-bounded"
    line aio=native 'likely not vulnerable: by its version: 10\.0\.13'
    line aio=io_uring 'likely vulnerable: it has luring_init and defer_call'

    exits 0 "$helpers/qemu-system-after"
    line aio=native 'likely not vulnerable: by its version'
    line aio=io_uring 'likely not vulnerable: it has no luring_init'

    exits 1 "$helpers/qemu-system-bare"
    line aio=native 'likely vulnerable: by its version: .*changelog'
    line aio=io_uring 'likely vulnerable: by its version: .*changelog'

    exits 1 "$helpers/qemu-system-mum"
    line aio=native 'unknown: it does not say its version: exit status: 3'
    line aio=io_uring 'likely not vulnerable: it has no luring_init'

    exits 0 "$helpers/qemu-system-laio"
    line aio=native 'likely not vulnerable: it is built on laio'
    line aio=io_uring 'likely not vulnerable: it is built on laio'
}
ok "an emulator is judged by its functions and its version, and no more than likely" judged

not_linked() {
    cp "$helpers/plain" "$dir/qemu-system-plain"
    exits 0 "$dir/qemu-system-plain"
    line aio=native 'likely not vulnerable: it is not linked to io_submit'
    line aio=io_uring 'likely not vulnerable: it is not linked to io_uring_submit'
    line 'guard mode' 'by what it is linked to: nothing to do about io_submit; nothing'
    line 'engine mode' 'finds nothing to take over'
}
ok "nor is one without Linux AIO and io_uring vulnerable" not_linked

# companion BENCH STATUS PATTERN: the emulator is judged by how its qemu-img ends.
companion() {
    export BENCH=$1
    exits "$2" "$helpers/qemu-system-recursing"
    line aio=native "$3"
}
ok "an emulator is judged by a qemu-img of its version that dies" \
    companion dies 1 "likely vulnerable: tried with $dir/path/qemu-img, of the same version: SIGSEGV"
ok "and by one that lives" \
    companion lives 0 "likely not vulnerable: tried with $dir/path/qemu-img, of the same version: read a hole in $dir"
ok "and not by one that fails" \
    companion fails 1 'likely vulnerable: by its version: .*not tried: exit status: 1: cannot open it'
ok "nor by one that is broken otherwise" \
    companion aborts 1 'likely vulnerable: by its version: .*not tried: signal: 6'

other_version() {
    export BENCH=lives
    exits 1 "$helpers/qemu-system-bare"
    line aio=native 'likely vulnerable: by its version'
}
ok "nor by one of another version" other_version

# qemu_img BENCH STATUS PATTERN: a qemu-img is tried itself.
qemu_img() {
    export BENCH=$1
    exits "$2" qemu-img
    grep -q "^$dir/path/qemu-img: qemu-img version 10.0.2 (Distribution 1)$" "$dir/said"
    line aio=native "$3"
    line aio=io_uring "$3"
}
ok "a qemu-img that dies is vulnerable" qemu_img dies 1 'vulnerable: tried: SIGSEGV'
ok "one that lives is not" qemu_img lives 0 'not vulnerable: tried: read a hole'

no_hole() {
    export BENCH=lives TMPDIR=/proc
    exits 1 qemu-img
    line aio=native 'likely vulnerable: .*not tried: no hole to be had in /proc: '
}
ok "without a file to try it with, it is judged" no_hole

modes() {
    exits 1 "$helpers/qemu-system-recursing"
    line 'guard mode' 'by what it is linked to: bounds the nesting of io_submit; bounds the nesting of io_uring_submit'
    line 'engine mode' 'is a guard: the program exports no laio_\* functions'
    exits 1 "$helpers/waits-in-libaio"
    grep -q '^.*waits-in-libaio: unknown: ' "$dir/said"
    line 'guard mode' 'by what it is linked to: leaves io_submit alone.*; bounds the nesting of io_uring_submit'
    exits 0 "$(type -P cat)"
    grep -q 'cat: likely not vulnerable: it is linked to neither' "$dir/said"
}
ok "what the modes would do is said, also of a program that is not QEMU's" modes

static() {
    exits 1 "$helpers/plain-static"
    grep -q 'plain-static: unknown: .*linked statically' "$dir/said"
    line 'guard mode' 'no use: '
}
if [[ -x $helpers/plain-static ]]; then
    ok "of one that is linked statically nothing is promised" static
else
    skip "of one that is linked statically nothing is promised" "no static libc here"
fi

no_library() {
    mkdir -p "$dir/alone"
    cp "$run" "$dir/alone/"
    run=$dir/alone/laio-run exits 1 "$helpers/qemu-system-recursing"
    line 'guard mode' 'no liblaio_preload.so in'
}
ok "a verdict does not need the library" no_library

several() {
    exits 0 "$helpers/qemu-system-before" "$helpers/qemu-system-after"
    exits 1 "$helpers/qemu-system-before" "$helpers/qemu-system-bare" "$helpers/qemu-system-after"
    [[ $(grep -c '^ *aio=native' "$dir/said") == 3 ]]
    exits 2 "$helpers/nothing" "$helpers/qemu-system-bare"
    line aio=native 'likely vulnerable'
}
ok "one that may be vulnerable among several is enough, and one that is not there is said" several

misuse() {
    exits 2
    grep -q 'which binary?' "$dir/said"
    exits 2 --guard
    exits 2 "$dir/nothing"
    exits 2 "$dir"
    echo '#!/bin/sh' >"$dir/script"
    exits 2 "$dir/script"
    grep -q 'script: a script; name the program' "$dir/said"
    local status=0
    "$run" --stats --check true || status=$?
    ((status == 2))
}
ok "wrong use is 2" misuse

# The programs of this machine.
rm "$dir/path/qemu-img"
if ! have qemu-img; then
    skip "the qemu-img of this machine, as it is" "no qemu-img here (Debian: qemu-utils)"
    finish
fi

# By another way: as preload/demo.sh has it die, on as small a stack.
dies() {
    local status=0
    truncate -s 8G "$dir/sparse.raw"
    for place in {0..15}; do
        dd if=/dev/urandom of="$dir/sparse.raw" bs=64k count=1 seek=$((place * 256)) conv=notrunc status=none
    done
    (ulimit -s 1024 -c 0 && timeout "$limit" qemu-img bench -f raw -t none -i "$1" -c 100000 -d 1 -s 4096 "$dir/sparse.raw") \
        >"$dir/bench" 2>&1 || status=$?
    ((status == 0 || status == 139)) || { cat "$dir/bench"; return 2; }
    ((status == 139))
}
stock() {
    local aio word status=0 wanted=0
    "$run" --check qemu-img >"$dir/said" || status=$?
    cat "$dir/said"
    for aio in native io_uring; do
        word='not vulnerable'
        if dies "$aio"; then
            word=vulnerable wanted=1
            # And both modes are a remedy, which a process that dies could not say.
            [[ $(grep -c "tried: aio=$aio completes, deepest nesting [0-9]*, [1-9][0-9]* times at the bound" "$dir/said") == 2 ]]
        fi
        line "aio=$aio" "$word: tried: "
    done
    ((status == wanted))
    # The same where the library is in front of everything.
    LD_PRELOAD=$preload "$run" --check qemu-img >"$dir/again" || true
    diff <(grep 'aio=[a-z_]* .*vulnerable' "$dir/said") <(grep 'aio=[a-z_]* .*vulnerable' "$dir/again")
}
ok "the qemu-img of this machine, as it is" stock 2>/dev/null

finish
