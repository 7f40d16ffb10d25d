# Debian's packages, of sources and others, for scripts to source after cli.sh, with package lists
# apart from the system's. fetch_into() comes first.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash

# The first Debian archive that this machine is set up for.
configured_mirror() {
    # shellcheck disable=SC2016 # for apt-get
    apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 -E '/debian/?$' || true
}

mirror=${LAIO_DEBIAN_MIRROR:-$(configured_mirror)}

# fetch_into DIR: sets `dir` to its full path, if it can be made, and `scratch` to a directory beside it,
# so that the last step is a rename. The latter goes when the script ends.
fetch_into() {
    [[ ! -e $1 ]] || die "$1 exists already; give a directory that does not"
    command -v apt-get >/dev/null || die "apt-get is missing: this script needs a Debian or Ubuntu"
    [[ -n $mirror ]] || die "apt's sources name no Debian archive: set LAIO_DEBIAN_MIRROR"
    mkdir -p "$(dirname "$1")"
    dir=$(realpath "$1")
    scratch=$(mktemp -d "$dir.fetch-XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    # apt drops its privileges for downloads, and then must get through.
    chmod 755 "$scratch"
}

# Of which architecture: this machine's, unless who sources this sets another.
architecture=$(dpkg --print-architecture 2>/dev/null || true)

# apt with package lists of its own: those of one suite.
private_apt() {
    local tool=$1 suite=$2
    shift 2
    "$tool" -q \
        -o Dir::Etc::sourcelist="$scratch/$suite/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State="$scratch/$suite/state" -o Dir::State::status=/dev/null \
        -o Dir::Cache="$scratch/$suite/cache" -o APT::Sandbox::User= \
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
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
