#!/usr/bin/env bash
# Projects find the library as those do which are built by meson, with it as a subproject, and by CMake.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$root/tools/lib/tap.sh"
usage() { echo 'usage: users-test.sh MESON BUILD_DIR PROGRAM'; }
parse '' "$@"
takes 3 '3 arguments'
meson=$1 build_dir=$2 program=$3

needs_laio() { grep 'NEEDED.*\[liblaio' <<<"$(LC_ALL=C readelf -d "$1")"; }

mkdir -p "$dir/user/subprojects"
cp "$program" "$root"/c-tests/header/users/{meson.build,CMakeLists.txt} "$dir/user/"
ln -s "$root" "$dir/user/subprojects/laio"

# subproject KIND: that of default_library. An installed library is not looked for.
subproject() {
    "$meson" setup -Ddefault_library="$1" --wrap-mode=forcefallback --force-fallback-for=laio \
        "$dir/meson-$1" "$dir/user"
    ninja -C "$dir/meson-$1" user
    "$dir/meson-$1/user"
}
ok 'a subproject' subproject shared
ok 'it is linked with the shared library' needs_laio "$dir/meson-shared/user"
ok 'a subproject, static' subproject static
ok 'it is linked with the archive' not needs_laio "$dir/meson-static/user"

"$meson" install -C "$build_dir" --quiet --destdir "$dir/root" >/dev/null
pc=$(find "$dir/root" -name laio.pc)
libdir=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_SYSROOT_DIR=$dir/root PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH

by_cmake() {
    cmake -S "$dir/user" -B "$dir/cmake"
    cmake --build "$dir/cmake"
}
ok 'CMake finds it' by_cmake
ok 'a program with the shared library runs' env LD_LIBRARY_PATH="$libdir" "$dir/cmake/shared"
ok 'it is linked with that' needs_laio "$dir/cmake/shared"
ok 'a program with the archive runs' "$dir/cmake/static"
ok 'it is linked with that' not needs_laio "$dir/cmake/static"
finish
