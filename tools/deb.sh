#!/usr/bin/env bash
# Builds Debian's packages of what is committed, and looks at them.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh
# shellcheck source=tools/lib/packages.sh
source tools/lib/packages.sh

usage() {
    cat <<'END'
usage: tools/deb.sh [--twice] [--into DIR]

Builds the packages of HEAD in DIR/one (build/deb) with the cargo of the PATH, lets lintian look at
them, and runs debian/tests/demo on what they hold.

  --twice  builds them in DIR/another/place too: the same bytes have to come out
END
}

twice=
into=build/deb
parse 'twice into=' "$@"
takes 0 'no arguments'
wants_a_clone
name=laio-$(build-aux/library.sh version)
rm -rf "$into"
mkdir -p "$into"
into=$(cd "$into" && pwd)

# Only cargo is not a package's: -d does not ask for it, nor for the others, which are there.
build() {
    mkdir -p "$1"
    git archive --prefix="$name/" HEAD | tar -x -C "$1"
    (cd "$1/$name" && dpkg-buildpackage -us -uc -b -d -j2) >"$1/log" 2>&1 ||
        { tail -n 20 "$1/log" >&2 && die "the packages do not build; see $1/log"; }
}

unpack() {
    local package
    for package in "$into"/one/*.deb; do
        dpkg-deb -x "$package" "$into/root"
    done
}

build "$into/one"
lintian --allow-root --fail-on error,warning "$into"/one/*.changes
unpack
demo "$into/root" "$into/demo"
if [[ $twice ]]; then
    build "$into/another/place"
    for package in "$into"/one/*.deb; do
        cmp "$package" "$into/another/place/${package##*/}"
    done
    echo 'the same bytes in two places'
fi
ls "$into"/one/*.deb
