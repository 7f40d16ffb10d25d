#!/usr/bin/env bash
# Builds qemu-img, qemu-io, qemu-nbd and qemu-storage-daemon with liblaio, in TREE/build, and on demand
# an emulator.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: qemu/build.sh [OPTION...] TREE [-- CONFIGURE-OPTION...]

Applies qemu/apply.sh to the QEMU source tree TREE and builds its four tools in TREE/build.

  --emulator         build qemu-system-x86_64 as well, with the devices that qemu/emulator.mak names
  --static           link liblaio.a instead of liblaio.so; may be changed from build to build
  --laio-prefix DIR  use the laio that is installed below DIR (DIR/lib*/pkgconfig/laio.pc) instead
                     of this project's own, which is built first
  --unpatched        leave the tree alone and build it with its own engine, for comparison
  --jobs N           as for ninja

What follows -- is for QEMU's configure, the first time; other features are off.
END
}

emulator=false
static=false
unpatched=false
laio_prefix=
jobs=$(nproc)
parse 'emulator static unpatched laio-prefix= jobs=' "$@"
takes 1 'one tree'
tree=${arguments[0]}
features=("${rest[@]}")
[[ $jobs =~ ^[1-9][0-9]*$ ]] || misuse "--jobs takes a number, and not \"$jobs\""
mode=shared
! $static || mode=static
! $unpatched || mode=unpatched
[[ -x $tree/configure ]] || die "$tree is not a QEMU source tree: it has no configure"

project=$(dirname "$here")
tree=$(realpath "$tree")
build=$tree/build
tools=(qemu-img qemu-io qemu-nbd storage-daemon/qemu-storage-daemon)
kind=laio
[[ $mode != unpatched ]] || kind=unpatched
system=(--disable-system)
if $emulator; then
    kind+=-emulator
    tools+=(qemu-system-x86_64)
    # The name of a file in the tree, which QEMU's configure looks up.
    system=(--target-list=x86_64-softmmu --without-default-devices --with-devices-x86_64=laio
        --enable-tcg --enable-kvm --disable-fdt)
fi

if [[ -e $build && $(cat "$build/laio-kind" 2>/dev/null) != "$kind" ]]; then
    die "$build is there already and is not a build of this kind; move it away, or take another tree"
fi
if [[ $mode == unpatched && -e $tree/block/laio-host.c ]]; then
    die "$tree is patched; run apply.sh --revert $tree first"
fi

# Writes TREE/.laio/pkgconfig/laio.pc, which says what to link.
describe_library() {
    local libs=$1 includes=$2 version
    version=$("$project/build-aux/library.sh" version)
    mkdir -p "$tree/.laio/pkgconfig"
    cat >"$tree/.laio/laio.pc.new" <<END
Name: laio
Description: laio for the build of this tree
Version: $version
Libs: $libs
Cflags: -I$includes
END
    if cmp -s "$tree/.laio/laio.pc.new" "$tree/.laio/pkgconfig/laio.pc"; then
        rm "$tree/.laio/laio.pc.new"
    else
        mv "$tree/.laio/laio.pc.new" "$tree/.laio/pkgconfig/laio.pc"
        # Meson remembers what pkg-config said.
        [[ ! -f $build/build.ninja ]] || touch "$build/laio-reconfigure"
    fi
}

# The library of this project's own build, with the names that the linker and the loader want.
use_own_library() {
    local lib=$tree/.laio/lib
    mkdir -p "$lib"
    "$project/build-aux/cargo-build.sh" --into "$lib" || die "liblaio could not be built"
    link_with "$lib" "$project/include"
}

use_installed_library() {
    local pc
    [[ -d $laio_prefix ]] || die "there is no directory $laio_prefix"
    pc=$(find "$laio_prefix" -path '*/pkgconfig/laio.pc' -print -quit 2>/dev/null || true)
    [[ -n $pc ]] || die "there is no pkgconfig/laio.pc below $laio_prefix"
    link_with "$(pkg-config --variable=libdir "$pc")" "$(pkg-config --variable=includedir "$pc")"
}

link_with() {
    local lib=$1 includes=$2
    if [[ $mode == static ]]; then
        [[ -f $lib/liblaio.a ]] || die "there is no $lib/liblaio.a"
        describe_library "$lib/liblaio.a $("$project/build-aux/library.sh" static-libs)" "$includes"
    else
        [[ -e $lib/liblaio.so ]] || die "there is no $lib/liblaio.so"
        describe_library "-L$lib -llaio -Wl,-rpath,$lib" "$includes"
    fi
}

# QEMU's configure wants a meson that its Python can import: 1.5 or later for QEMU 10.
make_python() {
    local python=python3
    [[ ! -x /usr/bin/python3 ]] || python=/usr/bin/python3
    "$python" -m venv "$build/laio-python" ||
        die "no Python environment could be made: install python3-venv"
    "$build/laio-python/bin/pip" install --quiet --disable-pip-version-check \
        'meson>=1.5,<2' setuptools pycotap || die "meson could not be installed from PyPI"
}

configure() {
    echo "$kind" >"$build/laio-kind"
    [[ -x $build/laio-python/bin/meson ]] || make_python
    ! $emulator || cp "$here/emulator.mak" "$tree/configs/devices/x86_64-softmmu/laio.mak"
    (cd "$build" &&
        PATH=$build/laio-python/bin:$PATH \
            PKG_CONFIG_PATH=$tree/.laio/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH} \
            ../configure --without-default-features --enable-tools --enable-linux-aio \
            --enable-linux-io-uring --disable-user --disable-docs --disable-install-blobs \
            "${system[@]}" "${features[@]}" >laio-configure.log 2>&1) || {
        tail -n 5 "$build/laio-configure.log" >&2
        die "QEMU's configure failed; see $build/laio-configure.log"
    }
}

# Lets meson ask pkg-config again. Sources that do not change are not compiled again.
reconfigure() {
    local meson=$build/pyvenv/bin/meson
    [[ -x $meson ]] || meson=$build/laio-python/bin/meson
    PATH=$build/laio-python/bin:$PATH "$meson" configure --clearcache "$build" >/dev/null
    PATH=$build/laio-python/bin:$PATH "$meson" setup --reconfigure "$build" "$tree" \
        >"$build/laio-configure.log" 2>&1 || {
        tail -n 5 "$build/laio-configure.log" >&2
        die "meson could not configure again; see $build/laio-configure.log"
    }
    rm -f "$build/laio-reconfigure"
}

if [[ $mode != unpatched ]]; then
    "$here/apply.sh" "$tree"
    if [[ -n $laio_prefix ]]; then use_installed_library; else use_own_library; fi
fi
if [[ ! -f $build/build.ninja ]]; then
    mkdir -p "$build"
    echo "configuring, and then compiling for minutes; the logs are $build/laio-*.log"
    configure
elif [[ -e $build/laio-reconfigure ]]; then
    reconfigure
fi
PATH=$build/laio-python/bin:$PATH ninja -C "$build" -j"$jobs" "${tools[@]}" \
    >"$build/laio-build.log" 2>&1 || {
    grep -E -A5 'FAILED|error:' "$build/laio-build.log" >"$build/laio-errors.log" ||
        tail -n 5 "$build/laio-build.log" >"$build/laio-errors.log"
    head -n 20 "$build/laio-errors.log" >&2
    die "the build failed; see $build/laio-build.log"
}
echo "built with ${mode}${laio_prefix:+ ($laio_prefix)}:"
for tool in "${tools[@]}"; do
    echo "  $build/$tool"
done
