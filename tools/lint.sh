#!/usr/bin/env bash
# What can be said of the sources without running them. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/steps.sh
source tools/lib/steps.sh

# As docs.rs would make it, and of what is private as well: its readers work on it, and follow its
# links.
documentation() {
    local private
    for private in '' --document-private-items; do
        RUSTDOCFLAGS=-Dwarnings \
            cargo doc --quiet --locked --no-deps --workspace ${private:+"$private"}
    done
}

shell_scripts() { git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck; }

# For the Rust that Cargo.toml declares, if it is here; clippy looks in any case.
minimum_rust() {
    local version toolchain
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    toolchain=$(rustup toolchain list 2>/dev/null | grep -o "^${version}[^ ]*" | tail -n 1) || true
    if [[ -n $toolchain ]]; then
        cargo "+$toolchain" check --quiet --locked --workspace --all-targets \
            --target-dir target/minimum-rust
    else
        echo "Rust $version is not here, and only clippy has looked"
    fi
}

other_architecture() {
    local target=aarch64-unknown-linux-gnu
    rustup target add "$target" >/dev/null 2>&1 || true
    if [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]]; then
        cargo check --quiet --locked --target "$target"
    else
        echo "the standard library of $target is not to be had here: left out"
    fi
}

step 'cargo fmt' cargo fmt --all --check
step clippy cargo clippy --workspace --all-targets --locked -- -D warnings
step 'cargo doc' documentation
step arrows tools/arrows.py
step 'minimum Rust' minimum_rust
step 'another architecture' other_architecture
step 'C format' tools/format-c.sh --check
step shellcheck shell_scripts
step ABI tools/abi.sh
step crates tools/crates.sh
all_passed
