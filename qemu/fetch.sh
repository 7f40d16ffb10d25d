#!/usr/bin/env bash
# Gets a QEMU source tree from Debian's source packages. The system's own package sources and lists
# stay as they are.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"
# shellcheck source=tools/lib/source-package.sh
source "$here/../tools/lib/source-package.sh"

# Newest last: a version is looked for in the suite where it is expected, and then from the left.
all_suites=(bookworm bookworm-backports trixie trixie-backports forky sid)

usage() {
    cat <<END
usage: qemu/fetch.sh VERSION-OR-SUITE DIR

Unpacks the QEMU that a Debian suite has (bookworm, trixie, sid, ...), or a version (7.2, 10.0,
10.0.13, ...) out of the suite that has it, as DIR. DIR must not exist.
The mirror is ${mirror:-not known} (the one of apt's sources, or LAIO_DEBIAN_MIRROR in the
environment). Needs dpkg-dev.
END
}

parse '' "$@"
takes 2 'a version or suite, and a directory'
wanted=${arguments[0]}
command -v dpkg-source >/dev/null || die "dpkg-source is missing: install dpkg-dev"
fetch_into "${arguments[1]}"

# Prints the suite's full version of qemu that is `wanted`, if it has one.
matching_version() {
    local suite=$1 version
    while read -r version; do
        local upstream=${version#*:}
        upstream=${upstream%%[-+]*}
        if [[ $wanted == "$suite" || $upstream == "$wanted" || $upstream == "$wanted".* ]]; then
            echo "$version"
            return 0
        fi
    done < <(private_apt apt-cache "$suite" showsrc --only-source qemu 2>/dev/null |
        sed -n 's/^Version: //p' | sort -rV)
    return 1
}

case $wanted in
7.2*) suites=(bookworm) ;;
10.0.2) suites=(bookworm-backports) ;;
10.0*) suites=(trixie) ;;
10.* | 11.*) suites=(sid forky trixie-backports) ;;
[0-9]*) suites=() ;;
*) suites=("$wanted") ;;
esac
if [[ $wanted == [0-9]* ]]; then
    suites+=("${all_suites[@]}")
fi

version=
readable=0
for suite in "${suites[@]}"; do
    update "$suite" || continue
    readable=1
    if version=$(matching_version "$suite"); then
        break
    fi
done
[[ $readable -eq 1 ]] || die "no package list could be read; is there a network?"
[[ -n $version ]] || die "no suite of $mirror has QEMU $wanted (looked in: ${suites[*]})"

cd "$scratch"
private_apt apt-get "$suite" source --only-source --download-only "qemu=$version" >&2 ||
    die "the source package qemu $version of $suite could not be downloaded"
dpkg-source --no-copy --no-check -x ./*.dsc "$scratch/tree" >"$scratch/unpack.log" 2>&1 || {
    tail -n 3 "$scratch/unpack.log" >&2
    die "the source package qemu $version could not be unpacked"
}
mv "$scratch/tree" "$dir"
echo "fetch.sh: $dir is QEMU $version of $suite"
