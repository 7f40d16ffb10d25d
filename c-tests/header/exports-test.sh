#!/usr/bin/env bash
# The shared library exports the functions of the header, and nothing else, under its SONAME.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: exports-test.sh CC NM READELF HEADER LIBRARY SONAME MAP'; }
parse '' "$@"
takes 7 '7 arguments'
cc=$1 nm=$2 readelf=$3 header=$4 library=$5 soname=$6 map=$7

declared() {
    "$cc" -E -P "$header" | grep -oE '\<laio_[a-z0-9_]+[[:space:]]*\(' | tr -d ' (' | sort
}

# As function@@VERSION. The versions themselves are symbols too, and absolute.
exported() { "$nm" -D --defined-only "$library" | awk '$2 != "A" { print $NF }'; }

mapped() {
    sed -nE 's/^(LAIO_[0-9.]+) \{$/\1/p; s/^ +(laio_.*);$/\1/p' "$map" |
        awk '/^LAIO/ { version = $0; next } { print $0 "@@" version }'
}

exports_what_is_declared() {
    declared >"$dir/declared"
    exported | sed 's/@.*//' | sort >"$dir/exported"
    if [[ $(wc -l <"$dir/declared") -lt 20 ]]; then
        echo "cannot find the functions in $header"
        return 1
    fi
    diff "$dir/declared" "$dir/exported"
}

under_the_versions_of_the_map() { diff <(mapped | sort) <(exported | sort); }

# What a program asks for when it is linked: a library without that version does not serve it.
a_program_asks_for_the_version() {
    echo '#include <laio.h>
int main(void) { return (int)laio_submit_depth(); }' >"$dir/program.c"
    "$cc" -I "$(dirname "$header")" -o "$dir/program" "$dir/program.c" "$library"
    "$nm" -D --undefined-only "$dir/program" | grep -F 'laio_submit_depth@LAIO_1.0'
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
ok 'under the versions of the map' under_the_versions_of_the_map
ok 'a program asks for the version' a_program_asks_for_the_version
ok "the SONAME is $soname" has_the_soname
ok 'needs nothing but the C library' needs_the_c_library_only
finish
