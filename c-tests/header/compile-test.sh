#!/usr/bin/env bash
# The header compiles without a warning, in each of the languages that its users write.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: compile-test.sh CC CXX SOURCE_DIR INCLUDE_DIR'; }
parse '' "$@"
takes 4 '4 arguments'
cc=$1 cxx=$2 source_dir=$3 include_dir=$4
warnings=(-Wall -Wextra -Wpedantic -Werror)

for program in include after-qemu; do
    file="$source_dir/$program.c"
    for standard in c99 c11 gnu11 c17; do
        ok "$program as $standard" \
            "$cc" -x c "-std=$standard" "${warnings[@]}" -fsyntax-only -I "$include_dir" "$file"
    done
    for standard in c++11 c++17 c++20; do
        ok "$program as $standard" \
            "$cxx" -x c++ "-std=$standard" "${warnings[@]}" -fsyntax-only -I "$include_dir" "$file"
    done
done
finish
