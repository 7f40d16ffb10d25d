#!/usr/bin/env bash
# Fetches a QEMU, builds its tools with the shared and the static liblaio, and tests them. TAP.
#
# What was fetched and built stays in CACHE for the next run.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../../tools/lib/cli.sh"
usage() { echo 'usage: qemu/tests/run.sh VERSION CACHE'; }
parse '' "$@"
takes 2 'a version and a directory'
version=${arguments[0]}
qemu=$(dirname "$here")
mkdir -p "${arguments[1]}"
cache=$(cd "${arguments[1]}" && pwd)
tree=$cache/qemu-$version

skip_all() {
    echo "1..0 # SKIP $*"
    exit 0
}

for needed in ninja flex bison pkg-config gcc cargo python3 dpkg-source; do
    command -v "$needed" >/dev/null || skip_all "$needed is missing; see docs/qemu.md"
done

exec {lock}>"$cache/qemu-$version.lock"
flock "$lock"

if [[ ! -d $tree ]]; then
    "$qemu/fetch.sh" "$version" "$tree" >"$cache/fetch.log" 2>&1 || {
        sed 's/^/# /' "$cache/fetch.log"
        skip_all "QEMU $version could not be fetched: $(tail -n 1 "$cache/fetch.log")"
    }
fi

# Refusal and reverting, on the few files that they are about.
"$here/apply-test.sh" "$tree" | sed 's/^/# /'

features=()
if grep -q "^option('vmdk'" "$tree/meson_options.txt"; then
    features=(--enable-vmdk)
fi
# Which QEMUs have a ring of their own for aio=io_uring, as is known of them, and not as apply.sh finds.
case $version in
7.* | 8.* | 9.* | 10.0* | 10.1*) options=(--io-uring) ;;
*) options=() ;;
esac

# build/own/qemu-img, in which only aio=io_uring is QEMU's own.
build_own() {
    local own=$tree/build/own
    [[ ! -x $own/qemu-img ]] || return 0
    sed -i "s/files(libaio.found() ? 'luring-host.c' : 'io_uring.c')/files('io_uring.c')/" \
        "$tree/block/meson.build"
    PATH=$tree/build/laio-python/bin:$PATH ninja -C "$tree/build" qemu-img \
        >"$tree/build/laio-own.log" 2>&1 || die "no qemu-img with an aio=io_uring of QEMU's own"
    mkdir -p "$own"
    cp "$tree/build/qemu-img" "$own/"
}

directories=()
for mode in static shared; do
    option=()
    [[ $mode == shared ]] || option=(--static)
    "$qemu/build.sh" "${option[@]}" "$tree" -- "${features[@]}" | sed 's/^/# /'
    # Trees out of git are built with -Werror.
    if grep -E '(laio|luring)[-.a-z]*:[0-9:]+ warning' "$tree/build/laio-build.log"; then
        die "the compiler warns of our files"
    fi
    mkdir -p "$tree/build/$mode"
    for tool in qemu-img qemu-io qemu-nbd storage-daemon/qemu-storage-daemon; do
        cp "$tree/build/$tool" "$tree/build/$mode/"
    done
    directories+=("$mode=$tree/build/$mode")
    # Here, because the next build configures again anyway, and applies what this takes out.
    if [[ $mode == static && $version =~ ^(8\.2|9\.|10\.[01]) ]]; then
        build_own
        options+=(--own "$tree/build/own")
    fi
done

export LAIO_TEST_DIR=$cache/files-$version
mkdir -p "$LAIO_TEST_DIR"
exec "$here/check.py" "${options[@]}" "${directories[@]}"
