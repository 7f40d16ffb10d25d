#!/usr/bin/env bash
# The end of `make demo`: this machine's own QEMU dying of one command, and living.
# Needs what build-aux/cargo-build.sh builds. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run=${CARGO_TARGET_DIR:-$root/target}/release/laio-run

if ! command -v qemu-img >/dev/null; then
    echo "(With an unfixed qemu-img here, such as Debian's qemu-utils 10.0.2, this would go on with it.)"
    exit 0
fi
if [[ ! -x $run ]]; then
    echo "demo: no $run; build it with build-aux/cargo-build.sh" >&2
    exit 1
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/laio-demo.XXXXXX")
trap 'rm -rf "$dir"' EXIT
cd "$dir"
truncate -s 8G sparse.raw
# The recursion begins with reads that do take time.
dd if=/dev/urandom of=sparse.raw bs=64k count=16 conv=notrunc status=none
version=$(qemu-img --version | sed -n '1s/^qemu-img version \([^ ]*\).*/\1/p')
bench=(qemu-img bench -f raw -t none -i native -c 100000 -d 1 -s 4096 sparse.raw)

status=0
{ "${bench[@]}" >out 2>&1; } 2>/dev/null || status=$? # the shell would report the signal as well
if ((status == 0)); then
    echo "(The qemu-img $version of this machine does not crash: nothing to show with it.)"
    exit 0
elif ((status != 139)); then
    echo "(The qemu-img $version of this machine cannot read the image with O_DIRECT: $(tail -n 1 out))"
    exit 0
fi

printf "The qemu-img %s of this machine, as it was installed:\n\n" "$version"
printf '$ %s\nSegmentation fault\n\n' "${bench[*]}"
echo "The same program with liblaio_preload.so in front of it, first bounding it, then on this engine:"
for mode in guard engine; do
    printf '\n$ laio-run --%s --stats -- %s\n' "$mode" "${bench[*]}"
    "$run" "--$mode" --stats -- "${bench[@]}" 2>&1
done
