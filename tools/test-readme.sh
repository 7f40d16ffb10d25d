#!/usr/bin/env bash
# Runs the README's C program over a file, as TAP. Usage: test-readme.sh PROGRAM FILE
# SPDX-License-Identifier: MIT OR Apache-2.0
set -uo pipefail

program=$1
file=$2
failed=0

ok() {
    local number=$1 name=$2
    shift 2
    if "$@"; then echo "ok $number - $name"; else failed=1 && echo "not ok $number - $name"; fi
}

prints_the_file() { cmp <("$program" "$file") <(head -c 4096 "$file"); }
fails_on_nothing() { ! "$program" /nonexistent 2>/dev/null; }

# Refused by the kernel within the submission, which calls the callback from there.
fails_on_a_directory() { [[ $("$program" / 2>&1) == 'cannot read: '* ]]; }

echo 1..3
ok 1 'it prints the first 4 KiB of the file' prints_the_file
ok 2 'it fails when there is no such file' fails_on_nothing
ok 3 'it says so when the kernel refuses at once' fails_on_a_directory
exit $failed
