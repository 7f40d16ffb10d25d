#!/usr/bin/env bash
# Shows the library at work on an image whose every read completes at once (make demo).
# Usage: demo.sh LAIO_BENCH. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

bench=$1
count=1000000
dir=$(mktemp -d "${TMPDIR:-/tmp}/laio-demo.XXXXXX")
trap 'rm -rf "$dir"' EXIT
truncate -s 8G "$dir/sparse.raw"

options=(-c "$count" -d 1 -s 4k)
if dd if="$dir/sparse.raw" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null; then
    options+=(--direct)
fi

cat <<'END'

A million reads of a sparse image, one after the other, each asked for by the completion of the
one before. A hole needs no disk, so the kernel completes each read inside io_submit(2): an engine
that submits from within its completions gets one stack frame deeper each time, a million here.

END
cd "$dir"

# Runs the storm over one interface of the kernel, and leaves what laio-bench says in the file "out".
storm() {
    local command=(--kernel "$1" "${options[@]}" sparse.raw)
    printf '$ laio-bench %s\n' "${command[*]}"
    "$bench" "${command[@]}" >out 2>&1
}

# Whether all of it completed, within the bound; else the demo ends.
check() {
    local submitted nesting
    submitted=$(sed -n 's/^library *\([0-9]*\) submitted, \([0-9]*\) completed, 0 failed.*/\1 \2/p' out)
    nesting=$(sed -n 's/^nesting *deepest \([0-9]*\), bound \([0-9]*\);.*/\1 \2/p' out)
    read -r deepest bound <<<"$nesting"
    if [[ $submitted != "$count $count" ]] || ((deepest > bound)); then
        echo "demo: not what was to be seen: '$submitted' of $count requests, nesting '$nesting'" >&2
        exit 1
    fi
}

storm linux-aio
cat out
check
cat <<END

Every one completed, and submission never nested deeper than $deepest: see the line "nesting". Each
time it reached the bound it left the rest to the event loop (completion_bh), and nothing was lost.

The same over io_uring, whose io_uring_enter(2) completes such reads before it returns, too:

END
if storm io_uring; then
    check
    sed -n '/^read /p; /^io_uring /p; /^nesting /p' out
elif grep -qE 'io_uring is denied|has no io_uring|is too old|RLIMIT_MEMLOCK' out; then
    # As in most containers. The library has said so, and why.
    cat out
else
    cat out >&2
    exit 1
fi
