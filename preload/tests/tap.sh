# TAP for the scripts beside this file. A test is a function: its exit status is its result, and what
# it prints is shown when it fails.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

run=${LAIO_RUN:?the program laio-run}
preload=${LAIO_PRELOAD_SO:?the library liblaio_preload.so}
# Each command gets this long before it counts as hanging.
limit=300

dir=$(mktemp -d "${LAIO_TEST_DIR:-${TMPDIR:-/tmp}}/laio-preload.XXXXXX")
trap 'rm -rf "$dir"' EXIT
tap_count=0
tap_failed=0

# ok NAME FUNCTION [ARGUMENT...]
ok() {
    local name=$1 status=0
    shift
    tap_count=$((tap_count + 1))
    # In a subshell with errexit of its own, which `if` and `||` would switch off.
    set +e
    (
        set -e
        "$@"
    ) >"$dir/output" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        echo "ok $tap_count - $name"
    else
        echo "not ok $tap_count - $name"
        sed 's/^/# /' "$dir/output"
        echo "# status $status"
        tap_failed=1
    fi
}

# skip NAME REASON
skip() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1 # SKIP $2"
}

skip_all() {
    echo "1..0 # SKIP $1"
    exit 0
}

finish() {
    echo "1..$tap_count"
    exit "$tap_failed"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

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

# says MODE [PATTERN]: the statistics are one line, of this mode, and match.
says() {
    if [[ $(wc -l <"$dir/stats") != 1 ]] ||
        ! grep -Eq "^laio_preload\[[0-9]+\]: $1: (.* )?${2-}" "$dir/stats"; then
        echo "not the one line '$1: ... ${2-}':"
        cat "$dir/stats"
        return 1
    fi
}
