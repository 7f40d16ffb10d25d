#!/usr/bin/env bash
# Programs that use liburing, or io_uring without it, in guard mode. HELPERS is the directory of those
# built beside this file.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

program=${HELPERS:?the directory of the C programs}/uring
[[ -x $program ]] || skip_all "no liburing here to build the program with (Debian: liburing-dev)"
"$program" "$dir" loop >/dev/null 2>&1 || skip_all "io_uring is denied here"

# numbers DEEPEST AT_BOUND: patterns for what guard has seen of liburing.
numbers() {
    cat "$dir/stats"
    grep -Eq "; io_uring: [0-9]+ requests in [0-9]+ submissions, deepest nesting $1, $2 times at the bound" \
        "$dir/stats"
}

unbounded() {
    local status=0
    "$program" "$dir" stack || status=$?
    ((status == 134)) # by its assertion: it has much stack
}
ok "a program that recurses exceeds the bound without the library" unbounded 2>/dev/null

# bounded TEST BOUND
bounded() {
    export LAIO_MAX_SUBMIT_DEPTH=$2
    under guard "$program" "$dir" "$1" "$2"
    numbers '[0-9]+' '[1-9][0-9]*'
    says guard
    # Guard mode reads less of the stack without statistics.
    LAIO_STATS='' timeout "$limit" "$run" -- "$program" "$dir" "$1" "$2"
}
for bound in 1 2 8 17 64; do
    ok "a program that recurses, with a bound of $bound" bounded stack "$bound"
done
ok "on four threads" bounded threads 8
ok "on a coroutine's stack" bounded coroutine 8
ok "five requests at a time" bounded several 8
ok "by one issuer, with registered files" bounded registered 8
ok "more requests than there is room for delays" bounded full 8
ok "on a kernel that has no silent delays" bounded old-kernel 8

# Each completes once, deep down or not.
once() {
    local test
    for test in bad cancelled; do
        timeout "$limit" "$program" "$dir" "$test"
        under guard "$program" "$dir" "$test"
        numbers 20 '[1-9][0-9]*'
        says guard
    done
}
ok "requests that are bad or cancelled complete once" once

# unchanged TEST: guard only looks.
unchanged() {
    under guard "$program" "$dir" "$1"
    numbers '[0-9]+' 0
    says guard
}
ok "a queue that the kernel polls is left alone" unchanged sqpoll
ok "so are completions that are deferred" unchanged deferred
ok "and chains and drained requests, which stay in order" unchanged chains

loop() {
    for LAIO_MAX_SUBMIT_DEPTH in 1 8; do
        export LAIO_MAX_SUBMIT_DEPTH
        under guard "$program" "$dir" loop
        numbers 1 0
        says guard
    done
}
ok "a program that does not recurse sees no difference, whatever the bound" loop

tree() {
    under guard "$program" "$dir" tree
    # Of 16,383 requests; once, unless the thread is kept from waiting until the delay is over.
    numbers '(9|1[0-4])' '[1-9][0-9]?'
    grep -q 'guard: this program waits for its completions; io_uring is left alone' "$dir/stats"
    # And as it runs without anybody looking.
    LAIO_STATS='' timeout "$limit" "$run" -- "$program" "$dir" tree 2>&1 | tee "$dir/said"
    [[ $(<"$dir/said") == tree ]]
}
ok "one that recurses and waits in each level is put off until it is seen to wait" tree

late() {
    under guard "$HELPERS/uring-late"
    says guard
    LAIO_STATS='' timeout "$limit" "$HELPERS/uring-late"
}
ok "liburing loaded for a plug-in alone" late

database() {
    under guard fio --name=mix --directory="$dir" --ioengine=io_uring --direct=1 --rw=randrw --bs=4k \
        --size=8m --numjobs=4 --thread --iodepth=32 --iodepth_batch=8 --verify=crc32c \
        --verify_state_save=0 --minimal --output="$dir/fio"
    says guard '0 requests in 0 submissions' # It goes to the kernel by itself.
}
if have fio; then
    ok "fio with four threads sees no difference" database
else
    skip "fio with four threads sees no difference" "no fio here"
fi

# liburing's own examples, as Debian ships them.
examples=/usr/share/doc/liburing-dev/examples
examples() {
    local example
    head -c 3000001 /dev/urandom >"$dir/from"
    # Not ucontext-cp, which frees the stack that it is on.
    for example in io_uring-cp link-cp; do
        cc -O2 -D_GNU_SOURCE -w -o "$dir/$example" "$examples/$example.c" -luring
        rm -f "$dir/to"
        under guard "$dir/$example" "$dir/from" "$dir/to" >"$dir/out"
        cmp "$dir/from" "$dir/to"
        numbers '[0-9]+' 0
        says guard
    done
    cc -O2 -D_GNU_SOURCE -w -o "$dir/io_uring-test" "$examples/io_uring-test.c" -luring
    diff <("$dir/io_uring-test" "$dir/from") <(under guard "$dir/io_uring-test" "$dir/from")
}
if [[ -d $examples ]] && have cc; then
    ok "liburing's examples see no difference" examples
else
    skip "liburing's examples see no difference" "they are not here, or no compiler"
fi

finish
