# TAP for the tests that are shell scripts, which source it. A test is a command: its exit status is
# the result, and what it prints is shown when it fails. $dir is an empty directory that goes at the
# end.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash

dir=$(realpath "$(mktemp -d "${LAIO_TEST_DIR:-${TMPDIR:-/tmp}}/laio-test.XXXXXX")")
trap 'rm -rf "$dir"' EXIT
tap_count=0
tap_failed=0

# ok NAME COMMAND [ARGUMENT...]
ok() {
    # The command sees these, so they are not named like anything of its own.
    local tap_name=$1 tap_status
    shift
    tap_count=$((tap_count + 1))
    # In a subshell with errexit of its own, which `if` and `||` would switch off.
    set +e
    (
        set -e
        "$@"
    ) >"$dir/.output" 2>&1
    tap_status=$?
    set -e
    if ((tap_status == 0)); then
        echo "ok $tap_count - $tap_name"
    else
        echo "not ok $tap_count - $tap_name"
        sed 's/^/# /' "$dir/.output"
        echo "# status $tap_status"
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

# Negated for ok(), which takes a command.
not() {
    ! "$@"
}
