#!/usr/bin/env bash
# The floors do make the requests that liblaio is compared by, as TAP. Usage: test-floors.sh FLOOR...
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

# shellcheck source=tools/lib/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib/tap.sh"

truncate -s 4M "$dir/image"

# Every byte is written, read back and compared.
verifies() {
    "$1" --verify -r --seed 1 -c 2000 -d "$2" "$dir/image"
}

for floor; do
    floor=$(realpath "$floor")
    for depth in 1 32 1000; do
        ok "$(basename "$floor") at depth $depth" verifies "$floor" "$depth"
    done
done
finish
