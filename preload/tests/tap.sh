# What the scripts beside this file, which source it, do alike.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# shellcheck source=tools/lib/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib/tap.sh"

run=${LAIO_RUN:?the program laio-run}
# shellcheck disable=SC2034 # for those scripts
preload=${LAIO_PRELOAD_SO:?the library liblaio_preload.so}
# Each command gets this long before it counts as hanging.
limit=300

# under MODE COMMAND...: runs it under the library, with statistics in $dir/stats.
under() {
    local mode=$1
    shift
    LAIO_STATS=1 timeout "$limit" "$run" "--$mode" -- "$@" 2>"$dir/stats" || {
        local status=$?
        cat "$dir/stats"
        return "$status"
    }
}

# declines PROGRAM: why engine mode leaves this QEMU's program alone; nothing where it takes it over.
declines() {
    "$run" --engine -- "$1" --version 2>&1 >/dev/null | sed -n 's/.*: no engine mode: \(.*\); using guard$/\1/p'
}

# says MODE [PATTERN]: the statistics are one line, of this mode, and match.
says() {
    if [[ $(wc -l <"$dir/stats") != 1 ]] ||
        ! grep -Eq "^laio_preload\[[0-9]+\]: $1: (.* )?${2-}" "$dir/stats"; then
        echo "not the one line '$1: ... ${2-}':"
        cat "$dir/stats"
        return 1
    fi
}
