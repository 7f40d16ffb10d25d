#!/usr/bin/env bash
# Runs the fuzz targets under AddressSanitizer. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh

usage() {
    cat <<'END'
usage: tools/fuzz.sh corpus|SECONDS [-- LIBFUZZER-ARGUMENT...]

"corpus" runs only the inputs that are kept; a number looks for new ones that long for each target.
END
}

parse '' "$@"
takes 1 'a number of seconds, or "corpus"'
what=${arguments[0]}
[[ $what =~ ^([1-9][0-9]*|corpus)$ ]] || misuse "$what is neither a number of seconds nor \"corpus\""

# What cargo-fuzz does, with the stable compiler.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS='-Zsanitizer=address --cfg fuzzing -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares'
RUSTFLAGS=$(tr -s ' \n' ' ' <<<"$RUSTFLAGS")
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir target/fuzz

for target in engine c_api; do
    program=target/fuzz/$host/release/$target
    found=target/fuzz/found/$target
    mkdir -p "$found"
    # The library tells each refusal on standard error.
    common=(-close_fd_mask=2 -timeout=30 -rss_limit_mb=4096 -artifact_prefix="$found/crash-")
    if [[ $what == corpus ]]; then
        inputs=(fuzz/corpus/"$target"/*)
        "$program" "${common[@]}" "${rest[@]}" "${inputs[@]}" 2>"$found/log" || {
            tail -n 40 "$found/log" >&2
            exit 1
        }
        echo "fuzz $target: ${#inputs[@]} inputs of the corpus"
    else
        "$program" "${common[@]}" -max_len=2048 -max_total_time="$what" -print_final_stats=1 "${rest[@]}" \
            "$found" "fuzz/corpus/$target"
    fi
done
