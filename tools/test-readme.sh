#!/usr/bin/env bash
# Runs the README's C program over a file, as TAP. Usage: test-readme.sh PROGRAM FILE
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

# shellcheck source=tools/lib/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/tap.sh"
program=$1
file=$2

prints_the_file() {
    "$program" "$file" >"$dir/out"
    head -c 4096 "$file" | cmp - "$dir/out"
}

# Refused by the kernel within the submission, which calls the callback from there.
fails_on_a_directory() {
    "$program" / >"$dir/out" 2>&1 || true
    cat "$dir/out"
    [[ $(<"$dir/out") == 'cannot read: '* ]]
}

ok 'it prints the first 4 KiB of the file' prints_the_file
ok 'it fails when there is no such file' not "$program" /nonexistent
ok 'it says so when the kernel refuses at once' fails_on_a_directory
finish
