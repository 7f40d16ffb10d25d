#!/usr/bin/env bash
# Gets the source of the fio that is installed, and configures it: for the headers of an external
# engine, whose structures change with the version.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../../tools/lib/cli.sh"
# shellcheck source=tools/lib/source-package.sh
source "$here/../../tools/lib/source-package.sh"

usage() {
    cat <<END
usage: programs/fio/fetch.sh DIR

Unpacks the source package of the installed fio as DIR, which must not exist, and configures it. The
mirror is ${mirror:-not known} (the one of apt's sources, or LAIO_DEBIAN_MIRROR in the environment).
Needs dpkg-dev.
END
}

parse '' "$@"
takes 1 'a directory'
command -v dpkg-source >/dev/null || die 'dpkg-source is missing: install dpkg-dev'
# shellcheck disable=SC2016 # for dpkg-query
version=$(dpkg-query --show --showformat='${source:Version}' fio) || die 'fio is not installed'
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
fetch_into "${arguments[0]}"
update "$suite" || die 'no package list could be read; is there a network?'
cd "$scratch"
private_apt apt-get "$suite" source --only-source --download-only "fio=$version" >&2 ||
    die "the source package fio $version could not be downloaded"
{
    dpkg-source --no-copy --no-check -x ./*.dsc tree
    # Of what it finds here, only libaio changes a structure that an engine looks at.
    cd tree && ./configure --disable-native
} >"$scratch/log" 2>&1 || {
    tail -n 3 "$scratch/log" >&2
    die "the source package fio $version could not be unpacked and configured"
}
mv "$scratch/tree" "$dir"
echo "fetch.sh: $dir is fio $version"
