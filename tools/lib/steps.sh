# Steps that all run, whatever the others do, for scripts to source: what is broken shows at once.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash

failed_steps=()

# step NAME COMMAND [ARGUMENT...]
step() {
    local step_name=$1
    shift
    printf '\n=== %s\n' "$step_name"
    "$@" || {
        failed_steps+=("$step_name")
        printf '=== %s FAILED\n' "$step_name"
    }
}

# logged FILE COMMAND [ARGUMENT...]: what it prints goes to FILE. A terminal sees it at once, a pipe
# only if it fails.
logged() {
    local log=$1
    shift
    if [[ -t 1 ]]; then
        "$@" 2>&1 | tee "$log"
    else
        "$@" >"$log" 2>&1 || {
            cat "$log"
            return 1
        }
    fi
}

# Names the steps that failed, and fails if there are any.
all_passed() {
    ((${#failed_steps[@]} == 0)) || {
        printf 'FAILED: %s\n' "${failed_steps[*]}"
        return 1
    }
}
