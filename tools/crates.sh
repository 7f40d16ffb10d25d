#!/usr/bin/env bash
# Checks the crates that the project is made of, by deny.toml: their licenses, where they come from, and
# whether a vulnerability of theirs is known. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Takes two minutes, once.
command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny@0.20.2

cargo deny --workspace check bans licenses sources
# The known vulnerabilities are in a repository, not in the registry.
if cargo deny --workspace fetch db >/dev/null 2>&1; then
    cargo deny --workspace check --disable-fetch advisories
else
    echo "crates.sh: the advisories cannot be had here, and were not looked at"
fi
