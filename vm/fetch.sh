#!/usr/bin/env bash
# Gets packages of Debian for guests, without installing them.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"
# shellcheck source=tools/lib/source-package.sh
source "$here/../tools/lib/source-package.sh"

usage() {
    cat <<END
usage: vm/fetch.sh [--arch ARCHITECTURE] SUITE DIR PACKAGE...

Unpacks these packages of a Debian suite (bookworm, trixie, sid, ...) below DIR, which must not exist.
What a package depends on is not fetched, but for "linux-image-amd64" and the like, which is the kernel
it names. They are for this machine's architecture, unless another is named as Debian does ("arm64").
The mirror is ${mirror:-not known} (the one of apt's sources, or LAIO_DEBIAN_MIRROR in the
environment).
END
}

arch=
parse arch= "$@"
[[ -z $arch ]] || architecture=$arch
((${#arguments[@]} >= 3)) || misuse 'give a suite, a directory, and packages'
suite=${arguments[0]}
fetch_into "${arguments[1]}"

update "$suite" deb || die "no package list could be read; is there a network?"
# A kernel, which newer suites split into several packages, has all its parts.
kernel_packages() {
    local depends parts
    # Not through one pipe: grep finding nothing is the end of the search, and apt's failure is one.
    depends=$(private_apt apt-cache "$suite" depends --important "$1")
    parts=$(sed -nE 's/^ *Depends: (linux-(image|binary|modules)-[^ ]*)$/\1/p' <<<"$depends")
    [[ $1 == "$kernel" ]] || echo "$1"
    for package in $parts; do
        kernel_packages "$package"
    done
}

packages=()
for package in "${arguments[@]:2}"; do
    if [[ $package == linux-image-[!0-9]* ]]; then
        kernel=$package
        mapfile -t -O "${#packages[@]}" packages < <(kernel_packages "$package")
    else
        packages+=("$package")
    fi
done
((${#packages[@]} > 0)) || die "$suite has no kernel"
(cd "$scratch/$suite" && private_apt apt-get "$suite" download "${packages[@]}" >&2) ||
    die "$suite does not have all of: ${packages[*]}"
mkdir "$scratch/root"
for file in "$scratch/$suite"/*.deb; do
    dpkg-deb -x "$file" "$scratch/root"
done
mv "$scratch/root" "$dir"
echo "fetch.sh: $dir has ${packages[*]} of $suite"
