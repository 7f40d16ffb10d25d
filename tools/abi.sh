#!/usr/bin/env bash
# Compares what the header promises to compiled programs with what was promised before.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh

usage() {
    cat <<'END'
usage: tools/abi.sh [--write]

Describes the ABI of include/laio.h and src/laio.map (libabigail) and compares it with src/laio.abi:
types, layouts, functions and their versions. Any difference is an error. New functions, and what comes in at the
end of a struct with a size or out of what it has reserved, break no program: written down with --write.
All else needs a new first number of the version first.
END
}

write=
parse write "$@"
takes 0 'no arguments'
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# The shared library has no types: they are Rust's, and stripped. So they are those of a library that a
# C compiler makes of the header, with bodies for its functions. That the real one exports the same
# functions, under the same versions, another test says.
describe() {
    {
        echo '#include <laio.h>'
        sed -n '/^extern "C" {$/,/^}  \/\/ extern "C"$/p' include/laio.h | grep -v '^[#}]\|extern "C"' |
            sed 's/);$/) { __builtin_trap(); }/'
    } >"$dir/laio.c"
    (cd "$dir" && "${CC:-cc}" -std=gnu11 -g -fPIC -shared -I "$OLDPWD/include" -o liblaio.so laio.c \
        -Wl,--version-script="$OLDPWD/src/laio.map" -Wl,--no-undefined-version \
        -Wl,-soname,"$("$OLDPWD/build-aux/library.sh" soname)")
    # Of the tree's types alone, and without where they stand: that changes with every comment.
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs --type-id-style hash \
        --headers-dir include "$dir/liblaio.so"
}

describe >"$dir/laio.abi"
if [[ $write ]]; then
    cp "$dir/laio.abi" src/laio.abi
    exit 0
fi
status=0
abidiff --no-show-locs src/laio.abi "$dir/laio.abi" || status=$?
# abidiff's bits: 1 and 2 are failures, 4 a change, 8 one that breaks programs for sure.
case $status in
0) ;;
4) die 'the ABI has changed; would a program that is compiled already break? See --help' ;;
*) die "programs that are compiled already break, or abidiff has failed ($status)" ;;
esac
