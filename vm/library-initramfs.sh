#!/usr/bin/env bash
# Makes what a guest needs beside its own initramfs to test the library inside: the C tests, laio-bench,
# the programs of vm/guest, and dmsetup, with the libraries of this machine. Everything lies where it lies
# here, so that what meson says of the tests holds.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() { echo 'usage: vm/library-initramfs.sh BUILD OUT: of the meson build directory BUILD'; }
parse '' "$@"
takes 2 'a build directory and a file'
build=$(realpath "${arguments[0]}")
out=$(realpath "${arguments[1]}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root

mkdir -p "$root/bin"
for name in power-writer zones; do
    cc -O2 -Wall -Wextra -D_GNU_SOURCE -I"$here/../include" -o "$root/bin/vm-$name" "$here/guest/$name.c" \
        -L"$build" -llaio -Wl,-rpath,"$build"
done

mapfile -t programs < <(find "$build/c-tests" "$build/bench" -type f -executable \
    -not -path '*.p/*' \( -name '*-test' -o -name '*-with-faults' -o -name '*.so' -o -name laio-bench \))
programs+=("$(type -P dmsetup || echo /usr/sbin/dmsetup)")
libraries() {
    ldd "$@" 2>/dev/null | sed -nE 's/^(.* => |[[:space:]]*)(\/[^ ]+) \(0x.*$/\2/p' |
        xargs realpath -s | sort -u
}
# The links are followed: a name, and what it stands for, are one file here.
while read -r file; do
    install -D -m 755 "$file" "$root$file"
done < <(printf '%s\n' "${programs[@]}" && libraries "${programs[@]}" "$root"/bin/*)
# The debug information would be half of a guest's memory.
find "$root" -type f -exec strip --strip-debug {} + 2>/dev/null || true
ln -s "$build/bench/laio-bench" "${programs[-1]}" "$root/bin/"
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$out.new"
mv "$out.new" "$out"
