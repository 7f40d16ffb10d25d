#!/usr/bin/env bash
# An example copies files as it says. TAP.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$here/../tools/lib/tap.sh"
usage() { echo 'usage: test-example.sh PROGRAM | --missing REASON'; }
missing=
parse missing= "$@"
[[ -z $missing ]] || skip_all "$missing"
takes 1 'a program'
program=${arguments[0]}

# copies BYTES: something of that size, which is no multiple of a block.
copies() {
    head -c "$1" /dev/urandom >"$dir/from"
    timeout 120 "$program" "$dir/from" "$dir/to"
    cmp "$dir/from" "$dir/to"
}

# Reads complete within their submission.
copies_a_hole() {
    rm -f "$dir/from"
    truncate -s 64M "$dir/from"
    timeout 120 "$program" "$dir/from" "$dir/to"
    cmp "$dir/from" "$dir/to"
}

# refuses PATTERN FROM TO: says why, and fails.
refuses() {
    local status=0
    timeout 120 "$program" "$2" "$3" 2>"$dir/said" || status=$?
    cat "$dir/said"
    ((status == 1)) && grep -q "$1" "$dir/said"
}

ok 'a file' copies 10000123
ok 'a file smaller than a block' copies 17
ok 'an empty file' copies 0
ok 'a hole' copies_a_hole
head -c 3000000 /dev/urandom >"$dir/from"
# ENOSPC or EINVAL: Linux AIO does not write to every device.
ok 'a write that fails' refuses 'cannot copy: ' "$dir/from" /dev/full
ok 'no file' refuses 'No such file' "$dir/nothing" "$dir/to"
ok 'a read that fails' refuses 'cannot copy: ' "$dir" "$dir/to"
finish
