#!/usr/bin/env bash
# The header compiles without a warning, in each of the languages that its users write.
#
#   compile-test.sh CC CXX SOURCE_DIR INCLUDE_DIR
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

if [ $# -ne 4 ]; then
    echo "usage: compile-test.sh CC CXX SOURCE_DIR INCLUDE_DIR" >&2
    exit 2
fi
cc=$1 cxx=$2 source_dir=$3 include_dir=$4
warnings=(-Wall -Wextra -Wpedantic -Werror)
number=0
failed=0

compile() {
    local name=$1 answer=ok
    shift
    number=$((number + 1))
    if ! output=$("$@" 2>&1); then
        answer='not ok'
        failed=1
        sed 's/^/#   /' <<<"$output"
    fi
    echo "$answer $number - $name"
}

for program in include after-qemu; do
    file="$source_dir/$program.c"
    for standard in c99 c11 gnu11 c17; do
        compile "$program as $standard" \
            "$cc" -x c "-std=$standard" "${warnings[@]}" -fsyntax-only -I "$include_dir" "$file"
    done
    for standard in c++11 c++17 c++20; do
        compile "$program as $standard" \
            "$cxx" -x c++ "-std=$standard" "${warnings[@]}" -fsyntax-only -I "$include_dir" "$file"
    done
done
echo "1..$number"
exit "$failed"
