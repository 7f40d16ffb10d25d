#!/usr/bin/env bash
# The shared library exports the functions of the header, and nothing else, under its SONAME.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: exports-test.sh CC NM READELF HEADER LIBRARY SONAME'; }
parse '' "$@"
takes 6 '6 arguments'
cc=$1 nm=$2 readelf=$3 header=$4 library=$5 soname=$6

declared() {
    "$cc" -E -P "$header" | grep -oE '\<laio_[a-z0-9_]+[[:space:]]*\(' | tr -d ' (' | sort
}

exports_what_is_declared() {
    declared >"$dir/declared"
    "$nm" -D --defined-only "$library" | awk '{ print $NF }' | sort >"$dir/exported"
    if [[ $(wc -l <"$dir/declared") -lt 20 ]]; then
        echo "cannot find the functions in $header"
        return 1
    fi
    diff "$dir/declared" "$dir/exported"
}

has_the_soname() {
    "$readelf" -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p' | diff <(echo "$soname") -
}

# A hypervisor loads it: nothing but the C library and what the compiler needs to unwind.
needs_the_c_library_only() {
    "$readelf" -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' >"$dir/needed"
    ! grep -vE '^(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux.*)\.so\.[0-9]+$' "$dir/needed"
}

ok 'exports what the header declares' exports_what_is_declared
ok "the SONAME is $soname" has_the_soname
ok 'needs nothing but the C library' needs_the_c_library_only
finish
