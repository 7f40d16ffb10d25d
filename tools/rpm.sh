#!/usr/bin/env bash
# Builds RPM packages of what is committed, and looks at them.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh
# shellcheck source=tools/lib/packages.sh
source tools/lib/packages.sh

usage() {
    cat <<'END'
usage: tools/rpm.sh [--into DIR]

Builds the packages of rpm/laio.spec in DIR (build/rpm), from the archive of HEAD with the cargo of the
PATH and without a network, and fails unless they hold the files that meson installs, and nothing else
but licenses and documentation. Then it runs debian/tests/demo on them.
END
}

into=build/rpm
parse 'into=' "$@"
takes 0 'no arguments'
wants_a_clone
version=$(build-aux/library.sh version)
grep -qx "Version: *$version" rpm/laio.spec || die "rpm/laio.spec is not of version $version"
rm -rf "$into"
mkdir -p "$into"
into=$(cd "$into" && pwd)

# The machine is not asked for packages: what is wanted may have come in another way, such as cargo.
build() {
    tools/dist.sh --into "$into/SOURCES"
    rpmbuild -bb --nodeps --define "_topdir $into" rpm/laio.spec >"$into/log" 2>&1 ||
        { tail -n 20 "$into/log" >&2 && die "the packages do not build; see $into/log"; }
}

# What meson installs of this tree without the spec.
installed() {
    meson setup --prefix "$(rpm --eval '%{_prefix}')" --libdir "$(rpm --eval '%{_libdir}')" \
        -Dtests=false -Dwerror=false "$into/meson-build" >"$into/meson-log"
    DESTDIR=$into/meson meson install --quiet -C "$into/meson-build" >>"$into/meson-log"
}

# contents ROOT: name, type and target of each file, as a list.
contents() {
    (cd "$1" && find . ! -type d ! -path './usr/share/doc/*' ! -path './usr/share/licenses/*' \
        ! -path '*/.build-id/*' -printf '%P %y %l\n' | sed 's/\.gz f/ f/' | sort)
}

unpack() {
    local package
    mkdir -p "$into/root"
    for package in "$into"/RPMS/*/*.rpm; do
        rpm2cpio "$package" | (cd "$into/root" && cpio --quiet -idm)
    done
}

build
unpack
installed
diff <(contents "$into/meson") <(contents "$into/root") ||
    die 'the packages (>) hold something else than meson installs (<)'
demo "$into/root" "$into/demo"
ls "$into"/RPMS/*/*.rpm
