#!/usr/bin/env bash
# What is shipped was optimised as a whole, at link time. Cargo leaves that out without a word when a
# crate type does not allow it. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: lto-test.sh AR READELF LIBRARY...'; }
parse '' "$@"
((${#arguments[@]} > 2)) || misuse 'give two programs and the libraries'
ar=$1 readelf=$2
shift 2

# Prints the crates of which FILE has object code of their own: the compiler names each object by its
# crate, and its unit of code generation, in archives as well as in the symbols of source files.
crates() {
    case $1 in
    *.a) "$ar" t "$1" ;;
    *) "$readelf" -sW "$1" | awk '$4 == "FILE" { print $8 }' ;;
    esac >"$dir/objects"
    sed -n 's/^\(.*\.\)\?\([a-z_0-9]*\)\.[0-9a-f]*-cgu\.[0-9]*\(\.rcgu\.o\)\?$/\2/p' "$dir/objects" |
        sort -u
}

# All of the standard library, and what else the library is made of, is in its own object.
# compiler_builtins never takes part.
is_one_object() {
    local own
    own=$(basename "$1" | sed 's/^lib//; s/[.-].*//')
    crates "$1" | grep -vx compiler_builtins | diff <(echo "$own") -
}

for library in "$@"; do
    ok "$(basename "$library") is optimised across crates" is_one_object "$library"
done
finish
