#!/usr/bin/env bash
# Looks longer than `make check` does. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh

usage() {
    cat <<'END'
usage: tools/soak.sh SECONDS

For about that long at each of the simulator, the simulator under AddressSanitizer, the kill tests, and
(at most 300 s) each fuzz target.
END
}

parse '' "$@"
takes 1 'a number of seconds'
seconds=${arguments[0]}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || misuse "$seconds is not a number of seconds"

# Not the seeds of `make check`.
first=${LAIO_SIM_FIRST:-$(date +%s)000000}
export LAIO_SIM_FIRST=$first LAIO_SIM_SECONDS=$seconds

echo "== the simulator, from seed $first on"
cargo test -p laio-engine --test sim

echo '== the same, and C tests, under AddressSanitizer'
tools/asan.sh

echo '== kills'
end=$((SECONDS + seconds))
while ((SECONDS < end)); do
    LAIO_KILL_ROUNDS=100 cargo test --quiet -p laio --lib kill
done

echo '== the fuzzers'
tools/fuzz.sh "$((seconds < 300 ? seconds : 300))"
