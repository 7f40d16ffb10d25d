#!/usr/bin/env bash
# Lets cargo build the preload library and laio-run and puts them where meson looks for them.
# Usage: cargo-build.sh CARGO SOURCE_DIR OUTPUT_DIR. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

if (($# != 3)); then
    echo "usage: cargo-build.sh CARGO SOURCE_DIR OUTPUT_DIR" >&2
    exit 2
fi
cargo=$1 source_dir=$2 output_dir=$3

"$cargo" build --quiet --release --locked --package laio-preload \
    --manifest-path "$source_dir/Cargo.toml" --target-dir "$source_dir/target"

# A program that runs keeps the file it has; unchanged files keep their times.
for file in liblaio_preload.so laio-run; do
    if ! cmp --silent "$source_dir/target/release/$file" "$output_dir/$file"; then
        cp "$source_dir/target/release/$file" "$output_dir/$file.new"
        mv "$output_dir/$file.new" "$output_dir/$file"
    fi
done
