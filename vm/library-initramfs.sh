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

usage() {
    cat <<'END'
usage: vm/library-initramfs.sh [--aarch64 PACKAGES] BUILD OUT

Of the meson build directory BUILD. With --aarch64 of one that vm/cross.sh made with these PACKAGES: with
the tests of liblaio_preload.so in place of dmsetup, and the libraries of the PACKAGES and the compiler.
END
}

aarch64=
parse aarch64= "$@"
takes 2 'a build directory and a file'
build=$(realpath "${arguments[0]}")
out=$(realpath "${arguments[1]}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
prefix=${aarch64:+aarch64-linux-gnu-}

mkdir -p "$root/bin"
for name in power-writer zones; do
    "${prefix}gcc" -O2 -Wall -Wextra -D_GNU_SOURCE -I"$here/../include" -o "$root/bin/vm-$name" \
        "$here/guest/$name.c" -L"$build" -llaio -Wl,-rpath,"$build"
done

# The links are followed: a name, and what it stands for, are one file here.
put() {
    install -D -m 755 "$1" "$root$1"
}

mapfile -t programs < <(find "$build/c-tests" "$build/bench" -type f -executable \
    -not -path '*.p/*' \( -name '*-test' -o -name '*-with-faults' -o -name '*.so' -o -name laio-bench \))
libraries() {
    ldd "$@" 2>/dev/null | sed -nE 's/^(.* => |[[:space:]]*)(\/[^ ]+) \(0x.*$/\2/p' |
        xargs realpath -s | sort -u
}

# needed FILE...: what these load, to /lib, with what that loads. (ldd would have to run them.)
needed() {
    local name more=()
    for name in $(readelf -d "$@" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' | sort -u); do
        [[ ! -e $root/lib/$name && ! -e $root$build/$name && ! -e $root$build/preload/tests/$name ]] || continue
        install -D -m 755 "$("${prefix}gcc" -print-file-name="$name" \
            -B"$aarch64/usr/lib/aarch64-linux-gnu/" -B"$aarch64/lib/aarch64-linux-gnu/")" "$root/lib/$name"
        more+=("$root/lib/$name")
    done
    ((${#more[@]} == 0)) || needed "${more[@]}"
}

if [[ -z $aarch64 ]]; then
    programs+=("$(type -P dmsetup || echo /usr/sbin/dmsetup)")
    mapfile -t -O "${#programs[@]}" programs < <(libraries "${programs[@]}" "$root"/bin/*)
    ln -s "$(type -P dmsetup || echo /usr/sbin/dmsetup)" "$root/bin/"
else
    mapfile -t -O "${#programs[@]}" programs < <(find "$build/preload/tests" -type f -executable -not -path '*.p/*')
    programs+=("$build"/{laio-run,liblaio_preload.so,liblaio.so.1} "$(realpath "$build/liblaio.so.1")")
    project=$(realpath "$here/..")
    programs+=("$project"/preload/tests/*.sh "$project/tools/lib/tap.sh")
fi
for file in "${programs[@]}"; do
    put "$file"
done
if [[ -n $aarch64 ]]; then
    needed "${programs[@]}"
    # Those tests are bash's.
    install -m 755 "$aarch64/bin/bash-static" "$root/bin/bash"
    mkdir -p "$root/usr"
    ln -s ../bin "$root/usr/bin"
fi
# The debug information would be half of a guest's memory.
find "$root" -type f -exec "${prefix}strip" --strip-debug {} + 2>/dev/null || true
ln -s "$build/bench/laio-bench" "$root/bin/"
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$out.new"
mv "$out.new" "$out"
