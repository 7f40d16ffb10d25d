#!/usr/bin/env bash
# Compares a QEMU with its own engine and the same QEMU with liblaio: see bench.py.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: qemu/bench.sh VERSION CACHE [-- BENCH.PY-OPTION...]

Fetches QEMU VERSION (see fetch.sh) into CACHE, if it is not there, builds it twice and compares.
END
}

parse '' "$@"
takes 2 'a version and a directory'
version=${arguments[0]}
mkdir -p "${arguments[1]}"
cache=$(cd "${arguments[1]}" && pwd)

command -v valgrind >/dev/null || die "valgrind is missing"
tree=$cache/qemu-$version
own=$cache/qemu-$version-own
[[ -d $tree ]] || "$here/fetch.sh" "$version" "$tree" >&2
if [[ ! -d $own ]]; then
    # Of the same sources.
    rm -rf "$own.new"
    mkdir "$own.new"
    tar -C "$tree" -c --exclude=./build --exclude=./.laio . | tar -C "$own.new" -x
    if [[ -e $own.new/block/laio-host.c ]]; then
        "$here/apply.sh" --revert "$own.new" >&2
    fi
    mv "$own.new" "$own"
fi
features=()
if grep -q "^option('vmdk'" "$tree/meson_options.txt"; then
    features=(--enable-vmdk)
fi
"$here/build.sh" "$tree" -- "${features[@]}" >&2
"$here/build.sh" --unpatched "$own" -- "${features[@]}" >&2

exec "$here/bench.py" "$own/build/qemu-img" "$tree/build/qemu-img" --files "$cache" "${rest[@]}"
