#!/usr/bin/env bash
# What is installed is complete: a program finds it through pkg-config, and runs.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/../..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: install-test.sh MESON CC PKG_CONFIG BUILD_DIR PROGRAM SONAME FILE'; }
parse '' "$@"
takes 7 '7 arguments'
meson=$1 cc=$2 pkg_config=$3 build_dir=$4 program=$5 soname=$6 file=$7

destdir="$dir/root"
# It builds what is not built yet: meson test with --suite builds only what its tests name.
ok 'meson install' "$meson" install -C "$build_dir" --quiet --destdir "$destdir"

pc=$(find "$destdir" -name laio.pc)
ok 'laio.pc is there, once' test -f "$pc"
export PKG_CONFIG_SYSROOT_DIR=$destdir
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
libdir=$destdir$(PKG_CONFIG_SYSROOT_DIR='' "$pkg_config" --variable=libdir laio)
# pkg-config may leave out the system's own directories, which these are only below DESTDIR.
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1

ok "liblaio.so leads to $soname" test "$(readlink "$libdir/liblaio.so")" = "$soname"
ok "$soname leads to the library" \
    test "$(readlink -f "$libdir/$soname")" = "$(readlink -f "$libdir")/$file"

read -ra cflags <<<"$("$pkg_config" --cflags laio)"
read -ra libs <<<"$("$pkg_config" --libs laio)"
read -ra static_libs <<<"$("$pkg_config" --static --libs laio)"

run_shared() {
    LD_LIBRARY_PATH=$libdir "$dir/shared"
}
needs_the_soname() {
    grep "NEEDED.*\[$soname\]" <<<"$(LC_ALL=C readelf -d "$dir/shared")"
}
needs_no_laio() {
    not grep 'NEEDED.*liblaio' <<<"$(LC_ALL=C readelf -d "$1")"
}
# Like -llaio, but the archive.
archive_libs=("${static_libs[@]/#-llaio/-l:liblaio.a}")

ok 'a program links with the shared library' \
    "$cc" -o "$dir/shared" "$program" "${cflags[@]}" "${libs[@]}"
ok "it asks for $soname" needs_the_soname
ok 'it runs' run_shared
ok 'a program links with the archive' \
    "$cc" -o "$dir/archive" "$program" "${cflags[@]}" "${archive_libs[@]}"
ok 'it asks for no liblaio' needs_no_laio "$dir/archive"
ok 'it runs' "$dir/archive"
ok 'a program links statically with everything' \
    "$cc" -static -o "$dir/static" "$program" "${cflags[@]}" "${static_libs[@]}"
ok 'it runs' "$dir/static"

# page PROGRAM: its manual page is there, and has each option that the program's own help has.
page() {
    local program page options option
    program=$(find "$destdir" -path "*/bin/$1")
    page=$(find "$destdir" -path "*/man1/$1.1*")
    options=$(LD_LIBRARY_PATH=$libdir "$program" --help |
        grep -oE '(^|[ [,])--?[a-z][a-z-]*' | tr -d ' [,')
    sed 's/\\-/-/g' "$page" >"$dir/page"
    for option in $options; do
        if ! grep -qE -- "$option([^a-z-]|\$)" "$dir/page"; then
            echo "$page does not have $option"
            return 1
        fi
    done
}
for program in laio-bench laio-run; do
    ok "the manual page of $program has its options" page "$program"
done

# A file of somebody else's stays, with the directory that it is in.
leaves_nothing() {
    touch "$libdir/not-ours"
    ninja -C "$build_dir" uninstall >/dev/null
    find "$destdir" ! -type d >"$dir/left"
    diff <(echo "$libdir/not-ours") "$dir/left"
}
ok 'ninja uninstall leaves nothing' leaves_nothing
finish
