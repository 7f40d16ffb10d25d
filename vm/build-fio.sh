#!/usr/bin/env bash
# Builds a static fio for guests, from Debian's source package: the packaged one wants 64 libraries.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"
# shellcheck source=tools/lib/source-package.sh
source "$here/../tools/lib/source-package.sh"

usage() { echo 'usage: vm/build-fio.sh SUITE FILE: builds the fio of a Debian suite as FILE'; }
parse '' "$@"
takes 2 'a suite and a file'
suite=${arguments[0]}
file=$(realpath "${arguments[1]}")
[[ -n $mirror ]] || die "apt's sources name no Debian archive: set LAIO_DEBIAN_MIRROR"

scratch=$(mktemp -d "$file.build-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
update "$suite" || die "no package list could be read; is there a network?"
cd "$scratch"
private_apt apt-get "$suite" source --only-source --download-only fio >&2
dpkg-source --no-copy --no-check -x fio_*.dsc tree >/dev/null
cd tree
without=()
for feature in native numa rdma rados rbd http gfapi libnfs pmem xnvme libzbc tcmalloc dfs lex; do
    without+=("--disable-$feature")
done
{ ./configure --build-static "${without[@]}" && make -j"$(nproc)" fio; } >"$scratch/log" 2>&1 || {
    tail -n 5 "$scratch/log" >&2
    die 'fio could not be built'
}
strip fio
mv fio "$file"
