# Debian's packages, of sources and others, for scripts to source after cli.sh, with package lists
# apart from the system's. Who sources it sets `scratch` to a directory before it calls private_apt() or update().
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
# shellcheck disable=SC2154 # scratch

# The first Debian archive that this machine is set up for.
configured_mirror() {
    # shellcheck disable=SC2016 # for apt-get
    apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 -E '/debian/?$' || true
}

mirror=${LAIO_DEBIAN_MIRROR:-$(configured_mirror)}

# apt with package lists of its own: those of one suite.
private_apt() {
    local tool=$1 suite=$2
    shift 2
    "$tool" -q \
        -o Dir::Etc::sourcelist="$scratch/$suite/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State="$scratch/$suite/state" -o Dir::State::status=/dev/null \
        -o Dir::Cache="$scratch/$suite/cache" -o APT::Sandbox::User= \
        -o Acquire::Retries=3 -o Acquire::Languages=none "$@"
}

# update SUITE [TYPE]: whether the suite's lists are here now, of TYPE deb-src unless it says deb.
update() {
    local suite=$1 type=${2:-deb-src}
    [[ ! -e $scratch/$suite/ready ]] || return 0
    mkdir -p "$scratch/$suite/state/lists/partial" "$scratch/$suite/cache/archives/partial"
    echo "$type $mirror $suite main" >"$scratch/$suite/sources.list"
    if private_apt apt-get "$suite" -o APT::Update::Error-Mode=any update \
        >"$scratch/$suite/log" 2>&1; then
        touch "$scratch/$suite/ready"
        return 0
    fi
    grep -E '^(E|W|Err)' "$scratch/$suite/log" | head -n 3 >&2 || true
    echo "${0##*/}: the suite $suite of $mirror cannot be read" >&2
    return 1
}
