#!/usr/bin/env bash
# Makes what a guest boots: its kernel, and the file system that is in its memory.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: vm/initramfs.sh KERNEL OUT PROGRAM...

Puts OUT/vmlinuz and OUT/initramfs there: of the kernel packages that vm/fetch.sh unpacked as KERNEL,
with the modules of vm/guest/modules and what those need, busybox, and the PROGRAMs, static ones, as
/bin/*. A program may be given as DIRECTORY/, whose contents then lie below /.
END
}

parse '' "$@"
((${#arguments[@]} >= 3)) || misuse 'give a kernel, a directory, and programs'
kernel=${arguments[0]}
out=${arguments[1]}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root

image=$(find "$kernel" -name 'vmlinuz*' -type f -print -quit)
[[ -n $image ]] || die "$kernel has no kernel"
modules=$(find "$kernel" -path '*/modules/*' -name kernel -type d -print -quit)
modules=${modules%/kernel}
version=${modules##*/}
[[ -n $version ]] || die "$kernel has no modules"

# Names the files that make up the module $1, without the way to them.
files_of() {
    local answer
    # A module that this kernel has not got, or has built in, is for init to report when it is asked for.
    answer=$(/sbin/modprobe -d "$scratch/all" -S "$version" --show-depends --ignore-install "$1" \
        2>/dev/null) || return 0
    sed -n "s:^insmod .*/lib/modules/$version/\\([^ ]*\\).*:\\1:p" <<<"$answer"
}

# The kernel itself calls /sbin/modprobe.
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,mnt,etc} "$root/lib/modules/$version" \
    "$scratch/all/lib/modules"
ln -s bin "$root/sbin"
ln -s "$(realpath "$modules")" "$scratch/all/lib/modules/$version"
/sbin/depmod -b "$scratch/all" "$version"
while read -r module; do
    [[ -n $module && $module != '#'* ]] || continue
    for file in $(files_of "$module"); do
        install -D -m 644 "$modules/$file" "$root/lib/modules/$version/$file"
    done
done <"$here/guest/modules"
# The guest's own decompressor would cost it seconds.
find "$root/lib/modules" -name '*.ko.xz' -exec xz -d {} +
find "$root/lib/modules" -name '*.ko.zst' -exec zstd -q -d --rm {} +
cp "$modules"/modules.{order,builtin} "$modules/modules.builtin.modinfo" \
    "$root/lib/modules/$version/" 2>/dev/null || true
/sbin/depmod -b "$root" "$version"

install -m 755 "$here/guest/init" "$root/init"
for program in "${arguments[@]:2}"; do
    if [[ $program == */ ]]; then
        cp -a "$program." "$root/"
    else
        install -m 755 "$program" "$root/bin/"
    fi
done
# init's own; it makes the others, as this machine may not be able to run the guest's busybox.
ln -s busybox "$root/bin/sh"

mkdir -p "$out"
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$out/initramfs.new"
cp "$image" "$out/vmlinuz"
mv "$out/initramfs.new" "$out/initramfs"
echo "initramfs.sh: $out has Linux $version"
