#!/usr/bin/env bash
# Each function has a manual page and each page a function, and man renders all of them without a
# warning. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: man-test.sh CC HEADER DIRECTORY'; }
parse '' "$@"
takes 3 '3 arguments'
cc=$1 header=$2 pages=$3

declared() {
    "$cc" -E -P "$header" | grep -oE '\<laio_[a-z0-9_]+[[:space:]]*\(' | tr -d ' (' | sort
}

a_page_for_each_function() {
    declared >"$dir/declared"
    grep -qx laio_init "$dir/declared" || return 1
    find "$pages" -name '*.3' -printf '%f\n' | sed 's/\.3$//' | sort | diff "$dir/declared" -
}

renders() {
    LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$1" \
        2>"$dir/warnings" >"$dir/page"
    cat "$dir/warnings"
    [[ ! -s $dir/warnings && -s $dir/page ]]
}

ok 'a page for each function' a_page_for_each_function
for page in "$pages"/*.[137]; do
    ok "$(basename "$page") renders without a warning" renders "$page"
done
finish
