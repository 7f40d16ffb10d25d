#!/usr/bin/env bash
# Builds what is shipped: the one command that does. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: build-aux/cargo-build.sh [--into DIR]

Lets cargo build liblaio.a, liblaio_preload.so and laio-run for release, in CARGO_TARGET_DIR or
target/, and makes liblaio.so out of liblaio.a. Cargo decides whether there is anything to build, and
CARGO_BUILD_TARGET for which machine.

  --into DIR  puts them there as well, with the names that the linker and the loader want
END
}

into=
parse into= "$@"
takes 0 'no arguments'
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
release=$target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release

# Without cargo, what is there will do.
if command -v cargo >/dev/null; then
    # There: cargo looks for its configuration, which says where vendored crates are, from where it is.
    (cd "$root" && cargo build --quiet --release --locked --target-dir "$target")
elif [[ ! -e $release/liblaio.a ]]; then
    die "there is no cargo, and no $release/liblaio.a"
fi
"$root/build-aux/link-shared.sh" "$release/liblaio.a" "$release/liblaio.so"
[[ -n $into ]] || exit 0

# A program that runs has the library mapped: a new file takes its place, and the old one stays
# whole for whoever has it. Files that did not change keep their times, so that nothing is linked
# again.
copy_if_changed() {
    if ! cmp --silent "$1" "$2"; then
        cp "$1" "$2.new"
        mv "$2.new" "$2"
    fi
}

link_if_missing() {
    if [[ $(readlink "$2" || true) != "$1" ]]; then
        ln -sfn "$1" "$2"
    fi
}

file=$("$root/build-aux/library.sh" file)
soname=$("$root/build-aux/library.sh" soname)
copy_if_changed "$release/liblaio.so" "$into/$file"
for other in liblaio.a liblaio_preload.so laio-run; do
    copy_if_changed "$release/$other" "$into/$other"
done
link_if_missing "$file" "$into/$soname"
link_if_missing "$soname" "$into/liblaio.so"
