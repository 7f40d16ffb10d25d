#!/usr/bin/env bash
# Runs a command on a machine that has too much to do. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

# shellcheck source=tools/lib/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/cli.sh"

usage() {
    cat <<'END'
usage: tools/under-load.sh [--processes N] [--times N] -- COMMAND...

Runs COMMAND so many times in a row (1), and stops at the first that fails, while N processes (8) want
a processor all the time. A test that fails here and not alone depends on a machine's mood, or has
found what only happens when threads are preempted.
END
}

processes=8
times=1
parse 'processes= times=' "$@"
takes 0 'the command behind --'
((${#rest[@]} > 0)) || misuse 'give a command behind --'
[[ $processes =~ ^[0-9]+$ ]] || misuse "$processes is not a number of processes"
[[ $times =~ ^[1-9][0-9]*$ ]] || misuse "$times is not a number of times"

busy=()
trap '((${#busy[@]} == 0)) || kill "${busy[@]}"' EXIT
for ((i = 0; i < processes; i++)); do
    # Ends by itself when this script was killed.
    (while kill -0 $$ 2>/dev/null; do for ((j = 0; j < 100000; j++)); do :; done; done) &
    busy+=($!)
done
for ((run = 1; run <= times; run++)); do
    status=0
    start=$SECONDS
    "${rest[@]}" || status=$?
    echo "under-load.sh: run $run of $times: status $status after $((SECONDS - start)) s," \
        "load $(cut -d ' ' -f 1 /proc/loadavg)"
    ((status == 0)) || exit "$status"
done
