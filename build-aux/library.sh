#!/usr/bin/env bash
# What those who build, install or link the library have to know of it. Nobody else says it.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(dirname "${BASH_SOURCE[0]}")/..
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: build-aux/library.sh WHAT

Prints one of
  version      1.2.3, which is in Cargo.toml
  soname       liblaio.so.1, as link-shared.sh gives it to the library
  file         liblaio.so.1.2.3
  pages        the files of its manual pages
  static-libs  what is linked besides liblaio.a
END
}

parse '' "$@"
takes 1 'one of version, soname, file, pages, static-libs'
version=$(sed -n '/^\[workspace\.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")

case ${arguments[0]} in
version) echo "$version" ;;
soname) echo "liblaio.so.${version%%.*}" ;;
file) echo "liblaio.so.$version" ;;
pages) (cd "$root" && printf '%s\n' docs/man/*.[137]) ;;
# Those of Rust's standard library, which a test compares with what rustc says. Without libgcc_s: a
# compiler adds that by itself, and there is no archive of it for a program that is all static.
static-libs) echo "-lutil -lrt -lpthread -lm -ldl" ;;
*) misuse "${arguments[0]} is none of it" ;;
esac
