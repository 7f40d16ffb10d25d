#!/usr/bin/env bash
# Lets cargo build the library and puts it where meson looks for it.
#
#   cargo-build.sh CARGO SOURCE_DIR OUTPUT_DIR SHARED_LIBRARY SONAME
#
# Cargo decides whether there is anything to build. Files that did not change keep their times, so
# that meson links nothing again.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

if [ $# -ne 5 ]; then
    echo "usage: cargo-build.sh CARGO SOURCE_DIR OUTPUT_DIR SHARED_LIBRARY SONAME" >&2
    exit 2
fi
cargo=$1 source_dir=$2 output_dir=$3 shared_library=$4 soname=$5
# A build with a sanitizer brings its own.
target_dir=${CARGO_TARGET_DIR:-$source_dir/target}

"$cargo" build --quiet --release --locked --package laio \
    --manifest-path "$source_dir/Cargo.toml" --target-dir "$target_dir"

# A program that runs has the library mapped: a new file takes its place, and the old one stays
# whole for whoever has it.
copy_if_changed() {
    if ! cmp --silent "$1" "$2"; then
        cp "$1" "$2.new"
        mv "$2.new" "$2"
    fi
}

link_if_missing() {
    if [ "$(readlink "$2" || true)" != "$1" ]; then
        ln -sfn "$1" "$2"
    fi
}

copy_if_changed "$target_dir/release/liblaio.so" "$output_dir/$shared_library"
copy_if_changed "$target_dir/release/liblaio.a" "$output_dir/liblaio.a"
link_if_missing "$shared_library" "$output_dir/$soname"
link_if_missing "$soname" "$output_dir/liblaio.so"
