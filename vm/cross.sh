#!/usr/bin/env bash
# Builds the library and its tests for aarch64.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: vm/cross.sh PACKAGES BUILD

Makes BUILD a meson build directory for aarch64, and builds there. What the tests want beside the C
library (GLib, libaio, liburing) is below PACKAGES, where vm/fetch.sh unpacked Debian's packages of arm64.
Wants Rust's target aarch64-unknown-linux-gnu and Debian's gcc-aarch64-linux-gnu.
END
}

parse '' "$@"
takes 2 'a directory of packages and a build directory'
packages=$(realpath "${arguments[0]}")
build=$(realpath -m "${arguments[1]}")
compiler=aarch64-linux-gnu-gcc
target=aarch64-unknown-linux-gnu

# For cargo, and for link-shared.sh.
export CARGO_BUILD_TARGET=$target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$compiler
export CC=$compiler

libraries=$packages/usr/lib/aarch64-linux-gnu
if [[ ! -f $build/build.ninja ]]; then
    mkdir -p "$build"
    cat >"$build/cross.ini" <<END
[binaries]
c = '$compiler'
strip = 'aarch64-linux-gnu-strip'
pkgconfig = 'pkg-config'

[properties]
sys_root = '$packages'
pkg_config_libdir = ['$libraries/pkgconfig', '$packages/usr/share/pkgconfig']

[built-in options]
c_args = ['-I$packages/usr/include']
c_link_args = ['-L$libraries', '-Wl,-rpath-link,$libraries:$packages/lib/aarch64-linux-gnu']

[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'cortex-a72'
endian = 'little'
END
    meson setup --cross-file "$build/cross.ini" "$build" "$here/.."
fi
meson compile -C "$build"
