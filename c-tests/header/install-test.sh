#!/usr/bin/env bash
# What is installed is complete: a program finds it through pkg-config, and runs.
#
#   install-test.sh MESON CC PKG_CONFIG BUILD_DIR PROGRAM
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

if [ $# -ne 5 ]; then
    echo "usage: install-test.sh MESON CC PKG_CONFIG BUILD_DIR PROGRAM" >&2
    exit 2
fi
meson=$1 cc=$2 pkg_config=$3 build_dir=$4 program=$5

dir=$(mktemp -d "${TMPDIR:-/tmp}/laio-install-XXXXXX")
trap 'rm -rf "$dir"' EXIT
number=0
failed=0

check() { # NAME COMMAND...
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

destdir="$dir/root"
# It builds what is not built yet: meson test with --suite builds only what its tests name.
check 'meson install' "$meson" install -C "$build_dir" --quiet --destdir "$destdir"

pc=$(find "$destdir" -name laio.pc)
check 'laio.pc is there, once' test -f "$pc"
export PKG_CONFIG_SYSROOT_DIR=$destdir
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
libdir=$destdir$(PKG_CONFIG_SYSROOT_DIR='' "$pkg_config" --variable=libdir laio)
# pkg-config may leave out the system's own directories, which these are only below DESTDIR.
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1

check 'liblaio.so leads to liblaio.so.1' test "$(readlink "$libdir/liblaio.so")" = liblaio.so.1
check 'liblaio.so.1 leads to the library' \
    test "$(readlink -f "$libdir/liblaio.so.1")" = "$(readlink -f "$libdir")/liblaio.so.1.0.0"

read -ra cflags <<<"$("$pkg_config" --cflags laio)"
read -ra libs <<<"$("$pkg_config" --libs laio)"
read -ra static_libs <<<"$("$pkg_config" --static --libs laio)"

run_shared() {
    LD_LIBRARY_PATH=$libdir "$dir/shared"
}
needs_the_soname() {
    LC_ALL=C readelf -d "$dir/shared" | grep -F 'NEEDED' | grep -qF '[liblaio.so.1]'
}
needs_no_laio() {
    ! LC_ALL=C readelf -d "$1" | grep -F 'NEEDED' | grep -F 'liblaio'
}
# Like -llaio, but the archive.
archive_libs=("${static_libs[@]/#-llaio/-l:liblaio.a}")

check 'a program links with the shared library' \
    "$cc" -o "$dir/shared" "$program" "${cflags[@]}" "${libs[@]}"
check 'it asks for liblaio.so.1' needs_the_soname
check 'it runs' run_shared
check 'a program links with the archive' \
    "$cc" -o "$dir/archive" "$program" "${cflags[@]}" "${archive_libs[@]}"
check 'it asks for no liblaio' needs_no_laio "$dir/archive"
check 'it runs' "$dir/archive"
check 'a program links statically with everything' \
    "$cc" -static -o "$dir/static" "$program" "${cflags[@]}" "${static_libs[@]}"
check 'it runs' "$dir/static"

# page PROGRAM: its manual page is there, and has each option that the program's own help has.
page() {
    local program page options option
    program=$(find "$destdir" -path "*/bin/$1")
    page=$(find "$destdir" -path "*/man1/$1.1*")
    options=$(LD_LIBRARY_PATH=$libdir "$program" --help |
        grep -oE '(^|[ [,])--?[a-z][a-z-]*' | tr -d ' [,') || return 1
    for option in $options; do
        sed 's/\\-/-/g' "$page" | grep -qE -- "$option([^a-z-]|\$)" || {
            echo "$page does not have $option"
            return 1
        }
    done
}
for program in laio-bench laio-run; do
    check "the manual page of $program has its options" page "$program"
done
echo "1..$number"
exit "$failed"
