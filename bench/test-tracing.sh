#!/usr/bin/env bash
# The tracepoints: that they are there, and what docs/tracing.md has of bpftrace, perf and gdb, with laio-bench to look
# at. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: test-tracing.sh LAIO-BENCH LIBLAIO.SO LIBLAIO_PRELOAD.SO STATIC-LAIO-BENCH'; }
parse '' "$@"
takes 4 'two programs and two libraries'
bench=${arguments[0]} shared=$(realpath "${arguments[1]}") preload=${arguments[2]}
# bpftrace attaches to a program that it starts before that has loaded any library.
lib=$(realpath "${arguments[3]}")
page=$root/docs/tracing.md
limit=300
requests=3000

# What the page promises.
# shellcheck disable=SC2016 # for sed
mapfile -t names < <(sed -n 's/^| `\([a-z_]*\)` |.*/\1/p' "$page" | sort)

in_file() {
    readelf -n "$1" 2>/dev/null | awk '/Provider: laio$/ { laio = 1 } /Name:/ && laio { print $2; laio = 0 }' |
        sort -u >"$dir/found"
    ((${#names[@]} == 7))
    printf '%s\n' "${names[@]}" | diff - "$dir/found"
}
if have readelf; then
    ok "liblaio.so has each tracepoint of the page, and no other" in_file "$shared"
    ok "so has liblaio_preload.so" in_file "$preload"
else
    skip "liblaio.so has each tracepoint of the page, and no other" "no readelf here (Debian: binutils)"
    skip "so has liblaio_preload.so" "no readelf here (Debian: binutils)"
fi

truncate -s 64M "$dir/hole.raw"
work=("$lib" -d 1 -c "$requests" "$dir/hole.raw")

# counted NAME: what laio-bench says of it.
counted() {
    sed -n "s/.*[^0-9]\([0-9][0-9]*\) times $1.*/\1/p" "$dir/out" | head -n 1
}

# one_liner WORD PROGRAM [FURTHER]: the page's line with that word runs; its output is in $dir/out.
one_liner() {
    local line status=0
    line=$(grep -m 1 "^bpftrace .*$1" "$page")
    # As a shell would read it.
    # shellcheck disable=SC2294
    eval "timeout $limit ${line# } -c '${work[*]}'" >"$dir/out" 2>&1 || status=$?
    cat "$dir/out"
    ((status == 0))
}

completions() {
    one_liner 'completed\['
    # In as many intervals as it took.
    [[ $(sed -n 's/^@completed\[.*\]: //p' "$dir/out" | awk '{ all += $1 } END { print all + 0 }') == "$requests" ]]
}
latencies() {
    one_liner 'us = hist'
    [[ $(sed -n 's/^[[({].*[])] *\([0-9]*\) |.*/\1/p' "$dir/out" | awk '{ all += $1 } END { print all + 0 }') == "$requests" ]]
    # All were found again.
    not grep -q '^@start' "$dir/out"
}
batches() {
    one_liner 'taken\['
    [[ $(sed -n 's/^@taken\[\([0-9]*\)\]: \([0-9]*\)$/\1 \2/p' "$dir/out" |
        awk '{ all += $1 * $2 } END { print all + 0 }') == "$requests" ]]
}
at_bound() {
    local seen
    one_liner 'bound\[arg1\]'
    seen=$(sed -n 's/^@bound\[1\]: //p' "$dir/out")
    ((seen > 0)) && [[ $seen == "$(counted 'at the bound')" ]]
    seen=$(sed -n 's/^@resume\[1\]: //p' "$dir/out")
    ((seen > 0)) && [[ $seen == "$(counted 'resumed by completion_bh')" ]]
}
threads() {
    one_liner 'bound\[comm'
    [[ $(sed -n 's/^@bound\[laio-bench.*, [0-9]*\]: //p' "$dir/out") == "$(counted 'at the bound')" ]]
}
failures() {
    one_liner 'failed\['
    not grep -q '^@failed' "$dir/out"
    # Writes beyond the largest size that a file may have are EFBIG.
    trap '' XFSZ
    ulimit -f 1024
    work=("$lib" -w -s 1048576 -c 2 "$dir/hole.raw")
    one_liner 'failed\['
    grep -Eq '^@failed\[-27, [0-9]+\]: 1$' "$dir/out"
}

# The page's lines are for any process. A library of our own: what traces a file puts breakpoints into whoever
# has mapped it, and a test that runs under valgrind meanwhile dies of one.
in_library() {
    local tracer runs own=$dir/own/liblaio.so.1
    mkdir "$dir/own"
    cp "$shared" "$own"
    timeout "$limit" bpftrace -e "usdt:$own:laio:complete /comm == \"laio-bench\"/ { printf(\"seen\\n\"); exit(); }" >"$dir/out" 2>&1 &
    tracer=$!
    # It says when it begins to attach, and not when it has.
    for ((runs = 0; runs < 1000; runs++)); do
        kill -0 "$tracer" 2>/dev/null || break
        LD_LIBRARY_PATH=$dir/own "$bench" -d 1 -c "$requests" "$dir/hole.raw" >/dev/null
    done
    wait "$tracer"
    grep -q '^seen$' "$dir/out"
}

why=
have bpftrace || why="no bpftrace here (Debian: bpftrace)"
[[ -n $why ]] || ((EUID == 0)) || why="bpftrace wants root"
[[ -n $why ]] || bpftrace -e 'BEGIN { exit(); }' >"$dir/can" 2>&1 || why="no bpftrace on this kernel: $(tail -n 1 "$dir/can")"
traced() {
    if [[ -n $why ]]; then skip "$1" "$why"; else ok "$@"; fi
}
traced "completions a second" completions
traced "how long requests take" latencies
traced "how many a submission takes" batches
traced "how often the bound is hit, and what is resumed, as the library counts it" at_bound
traced "which threads hit it" threads
traced "which requests fail" failures
traced "bpftrace sees any process with the library" in_library

# perf's lines, in their order, with what it remembers in $dir and laio-bench to count in.
perf_counts() {
    local line
    export HOME=$dir
    grep '^perf ' "$page" >"$dir/lines"
    [[ $(wc -l <"$dir/lines") == 4 ]]
    while read -r line; do
        line=${line/#perf stat/perf stat -x, -o $dir/count}
        eval "timeout $limit ${line/-a sleep 1/-- ${work[*]}}" >>"$dir/out" 2>&1 </dev/null
    done <"$dir/lines"
    cat "$dir/count" "$dir/out"
    [[ $(sed -n 's/^\([0-9]*\),.*sdt_laio:bound,.*/\1/p' "$dir/count") == "$(counted 'at the bound')" ]]
}
why=
have perf || why="no perf here (Debian: linux-perf)"
[[ -n $why ]] || [[ -w /sys/kernel/tracing/uprobe_events ]] || why="no tracefs that can be written to at /sys/kernel/tracing"
traced "perf counts as the library does" perf_counts

# shellcheck disable=SC2016 # gdb's dollars
gdb_stops() {
    local descriptor
    gdb -batch -nx -ex 'set debuginfod enabled off' -ex 'info probes stap laio' -ex 'break -probe-stap laio:submit' \
        -ex run -ex 'print *(int *)($_probe_arg1 + 20)' \
        -ex 'python gdb.execute("shell ls -l /proc/%d/fd" % gdb.selected_inferior().pid)' -ex kill --args "${work[@]}" >"$dir/out" 2>&1
    cat "$dir/out"
    for name in "${names[@]}"; do
        grep -Eq "^stap +laio +$name " "$dir/out"
    done
    descriptor=$(sed -n 's/^\$1 = \([0-9]*\)$/\1/p' "$dir/out")
    grep -q " $descriptor -> .*/hole.raw" "$dir/out"
}
why=
have gdb || why="no gdb here (Debian: gdb)"
traced "gdb stops at one, and finds the descriptor" gdb_stops

finish
