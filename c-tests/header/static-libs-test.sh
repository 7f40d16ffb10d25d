#!/usr/bin/env bash
# laio.pc names for a static link what rustc says that its standard library needs: less libgcc_s and
# libc, which a compiler adds by itself. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"

are_what_rustc_says() {
    rustc --crate-type staticlib --print native-static-libs="$dir/libs" -o "$dir/empty.a" - </dev/null
    diff <("$root/build-aux/library.sh" static-libs | tr ' ' '\n' | sort) \
        <(tr ' ' '\n' <"$dir/libs" | grep -vxE -e '-l(gcc_s|c)|' | sort)
}

ok 'the libraries of a static link are what rustc says' are_what_rustc_says
finish
