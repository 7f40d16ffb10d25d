#!/usr/bin/env bash
# Makes the source archive of what is committed. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh
# shellcheck source=tools/lib/packages.sh
source tools/lib/packages.sh

usage() {
    cat <<'END'
usage: tools/dist.sh [--check] [--into DIR]

Makes laio-VERSION.tar.xz in DIR (build/dist): the files of HEAD, and the crates that they need in
vendor/, with which cargo builds without a network. The same commit gives the same bytes.

  --check  unpacks it elsewhere, builds there with no network and an empty CARGO_HOME, and runs a
           program on what came out
END
}

check=
into=build/dist
parse 'check into=' "$@"
takes 0 'no arguments'
wants_a_clone
version=$(build-aux/library.sh version)
name=laio-$version
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$into"
archive=$(cd "$into" && pwd)/$name.tar.xz

pack() {
    git archive --prefix="$name/" HEAD | tar -x -C "$dir"
    mkdir -p "$dir/$name/.cargo"
    # It prints the lines with which cargo looks there.
    (cd "$dir/$name" && cargo vendor --locked --versioned-dirs vendor 2>/dev/null >.cargo/config.toml)
    # Import libraries and sources for another system, which is most of the bytes. cargo wants the
    # crates to be there, and their files to be those of its list.
    find "$dir/$name/vendor" -mindepth 1 -maxdepth 1 -name 'windows*' | while read -r crate; do
        find "$crate" -type f ! -name Cargo.toml ! -name .cargo-checksum.json -delete
        mkdir -p "$crate/src" && : >"$crate/src/lib.rs"
        sed -i 's/"files":{[^}]*}/"files":{}/' "$crate/.cargo-checksum.json"
    done
    tar -C "$dir" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
        --mtime="@$(git log -1 --format=%ct)" -cf - "$name" | xz -T1 >"$archive.new"
    mv "$archive.new" "$archive"
}

# In a network namespace of its own where that may be made; cargo is told in any case.
without_network() {
    if unshare --net true 2>/dev/null; then unshare --net "$@"; else "$@"; fi
}

# The program of somebody who has only the archive.
builds_offline() {
    local tree=$dir/unpacked/$name
    mkdir -p "$dir/unpacked" "$dir/cargo"
    tar -C "$dir/unpacked" -xf "$archive"
    CARGO_HOME=$dir/cargo CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=$tree/target \
        without_network "$tree/build-aux/cargo-build.sh"
    read -ra static_libs <<<"$(build-aux/library.sh static-libs)"
    "${CC:-cc}" -I "$tree/include" -o "$dir/program" c-tests/header/installed.c \
        "$tree/target/release/liblaio.a" "${static_libs[@]}"
    "$dir/program"
}

pack
if [[ $check ]]; then
    builds_offline
    echo "$archive builds offline, and a program runs on it"
fi
echo "$archive"
