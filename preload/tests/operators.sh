#!/usr/bin/env bash
# What docs/operators.md has for libvirt and Proxmox to be copied, with a program in the place of the emulator.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

page=$(dirname "${BASH_SOURCE[0]}")/../../docs/operators.md

# block KIND: the page's block of that kind.
block() {
    awk -v fence="\`\`\`$1" '
        $0 == "```" { inside = 0 }
        inside { print }
        $0 == fence { inside = 1 }' "$page"
}

block xml >"$dir/domain.xml"
domain_is_valid() {
    [[ -s $dir/domain.xml ]]
    virt-xml-validate "$dir/domain.xml" domain
    # And it is looked at.
    sed 's/qemu:env name/qemu:env nonsense/' "$dir/domain.xml" >"$dir/wrong.xml"
    ! virt-xml-validate "$dir/wrong.xml" domain
}
if have virt-xml-validate && have xmllint; then
    ok "the domain is one of libvirt's" domain_is_valid
else
    skip "the domain is one of libvirt's" "no virt-xml-validate or no xmllint here (Debian: libvirt-clients, libxml2-utils)"
fi

# What the domain sets, in front of a program.
domain_guards() {
    local settings=()
    mapfile -t settings < <(sed -n "s/.*qemu:env name='\(.*\)' value='\(.*\)'.*/\1=\2/p" "$dir/domain.xml")
    ((${#settings[@]} == 3))
    env "${settings[@]/#LD_PRELOAD=*/LD_PRELOAD=$preload}" true 2>"$dir/stats"
    says guard
}
ok "what it sets makes a guard" domain_guards

# The wrappers, with this build's library, in front of a shell that shows what it got. It is one whose exit
# runs what a library has for that.
# shellcheck disable=SC2016 # for that shell
emulator='#!/usr/bin/env bash
echo "$0 $* ${LAIO_PRELOAD-unset}"'
mkdir "$dir/bin"
echo "$emulator" >"$dir/bin/qemu-system-x86_64"
for wrapper in qemu-guarded kvm-wrapper; do
    block "sh $wrapper" | sed "s#/usr/lib/x86_64-linux-gnu/liblaio_preload.so#$preload#; s#/usr/bin/qemu-system#$dir/bin/qemu-system#
        s#/etc/laio-guarded#$dir/guarded#" >"$dir/bin/$wrapper"
done
chmod 755 "$dir"/bin/*

libvirts_wrapper() {
    local out
    out=$("$dir/bin/qemu-guarded" -name 'a guest' 2>"$dir/stats")
    [[ $out == "$dir/bin/qemu-system-x86_64 -name a guest guard" ]]
    says guard
}
ok "the wrapper for libvirt guards what it starts" libvirts_wrapper

# started ID: by Proxmox's wrapper.
started() {
    LAIO_STATS=1 "$dir/bin/kvm-wrapper" -id "$1" -name guest 2>"$dir/stats"
}
proxmoxs_wrapper() {
    local unguarded="$dir/bin/qemu-system-x86_64 -id 100 -name guest unset"
    rm -f "$dir/guarded"
    [[ $(started 100) == "$unguarded" ]]
    printf '%s\n' 1000 10 >"$dir/guarded"
    [[ $(started 100) == "$unguarded" && ! -s $dir/stats ]]
    echo 100 >>"$dir/guarded"
    [[ $(started 100) == "$dir/bin/qemu-system-x86_64 -id 100 -name guest guard" ]]
    says guard
    echo all >"$dir/guarded"
    [[ $(started 7) == "$dir/bin/qemu-system-x86_64 -id 7 -name guest guard" ]]
    # It is asked for its version, too.
    [[ $("$dir/bin/kvm-wrapper" -help) == "$dir/bin/qemu-system-x86_64 -help unset" ]]
}
ok "that for Proxmox guards whom the file names" proxmoxs_wrapper

diversion() {
    local root=$dir/root dpkg=(dpkg-divert --root "$dir/root") lines
    mkdir -p "$root/usr/bin" "$root/var/lib/dpkg"
    touch "$root/var/lib/dpkg/status"
    ln -s qemu-system-x86_64 "$root/usr/bin/kvm"
    mapfile -t lines < <(sed -n 's/^\(rm .* && \)\?dpkg-divert //p' "$page")
    ((${#lines[@]} == 2))
    # shellcheck disable=SC2086 # a line of arguments
    "${dpkg[@]}" ${lines[0]}
    [[ ! -e $root/usr/bin/kvm && $(readlink "$root/usr/bin/kvm.distrib") == qemu-system-x86_64 ]]
    # shellcheck disable=SC2086 # the same
    "${dpkg[@]}" ${lines[1]}
    [[ $(readlink "$root/usr/bin/kvm") == qemu-system-x86_64 ]]
}
if have dpkg-divert; then
    ok "the diversion is made, and goes again" diversion
else
    skip "the diversion is made, and goes again" "no dpkg-divert here"
fi

missing() {
    LD_PRELOAD=/nonexistent/liblaio_preload.so "$helpers/plain" >"$dir/out" 2>&1
    cat "$dir/out"
    grep -q "object '/nonexistent/liblaio_preload.so' from LD_PRELOAD cannot be preloaded .*: ignored" "$dir/out"
    grep -q '^plain 0$' "$dir/out"
}
helpers=${HELPERS:?the directory of the C programs}
ok "without the library a program starts as it is, and says so" missing

finish
