#!/usr/bin/env bash
# Tests of install-deps.sh, as TAP, with a PATH on which apt-get, sudo and id are ours: nothing is
# installed. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/tap.sh
source "$here/lib/tap.sh"
tool=$here/install-deps.sh

# A directory with the given programs, and the few that the script itself uses.
path() {
    local program
    rm -rf "${dir:?}/bin" && mkdir "$dir/bin"
    : >"$dir/calls"
    for program in bash cat dirname env; do
        ln -s "$(type -P "$program")" "$dir/bin/"
    done
    for program in "$@"; do
        printf '#!%s\nexit 0\n' "$(type -P bash)" >"$dir/bin/$program"
        chmod +x "$dir/bin/$program"
    done
}

program() { # NAME BODY
    printf '#!%s\n%s\n' "$(type -P bash)" "$2" >"$dir/bin/$1"
    chmod +x "$dir/bin/$1"
}

apt_get() { program apt-get "echo \"apt-get \$*\" >>'$dir/calls'; $1"; }
user() { program id "echo $1"; }

run() {
    status=0
    PATH="$dir/bin" "$(type -P bash)" "$tool" "$@" >"$dir/out" 2>"$dir/err" </dev/null || status=$?
}

said() { # STATUS FILE PATTERN
    cat "$dir/out" "$dir/err" "$dir/calls"
    [[ $status -eq $1 ]] && grep -qE -- "$3" "$dir/$2"
}

# is NAME STATUS FILE PATTERN
is() { ok "$1" said "${@:2}"; }

tools=(cargo cc c++ cmake man python3 meson ninja pkg-config valgrind nbdkit nbdcopy qemu-img fio virt-xml-validate xmllint bpftrace
    perf gdb dpkg-source)
line='missing; type: sudo apt-get install -y --no-install-recommends'

path "${tools[@]}"
user 1000
apt_get 'exit 1'
run check
echo "$(wc -c <"$dir/calls") bytes" >"$dir/count"
is 'nothing missing: nothing done' 0 count '^0 bytes$'

path cargo
user 1000
apt_get 'exit 0'
run check
is 'without root or sudo: the line to type' 1 err \
    "$line gcc libc6-dev python3 meson ninja-build pkg-config g\\+\\+ cmake man-db libglib2.0-dev libuv1-dev valgrind libaio-dev \
liburing-dev nbdkit-plugin-dev nbdkit libnbd-bin qemu-utils fio libvirt-clients libxml2-utils bpftrace linux-perf gdb dpkg-dev( python3-markdown-it)?\$"
is 'and one line only' 1 err '^install-deps.sh'
[[ $(wc -l <"$dir/err") -eq 1 ]] || status=2
[[ -s $dir/calls ]] && status=3
is 'and apt-get is not called' 1 err '^install-deps.sh'

path cargo sudo
user 1000
apt_get 'exit 0'
program sudo 'exit 1'
run build
is 'sudo that wants a password: the line to type' 1 err "$line gcc libc6-dev\$"

path cargo
user 1000
apt_get 'exit 0'
program sudo 'shift; exec "$@"'
program true 'exit 0'
run build
is 'passwordless sudo installs' 0 calls '^apt-get install -y --no-install-recommends gcc libc6-dev$'

path cargo
user 0
apt_get 'exit 0'
run build bench
is 'root installs, for several purposes at once, each package once' 0 calls \
    '^apt-get install -y --no-install-recommends gcc libc6-dev fio valgrind liburing-dev( python3-matplotlib)?$'

path "${tools[@]}"
rm "$dir/bin/fio"
user 0
apt_get "[[ \$1 == update ]] && : >'$dir/updated'; [[ -e '$dir/updated' ]]"
rm -f "$dir/updated"
run bench
is 'package lists that are old are updated' 0 calls '^apt-get update$'

path cargo
user 0
apt_get 'exit 100'
run build
is 'an installation that fails says so' 1 err '^install-deps.sh: could not install them; try: apt-get update'

path cargo
user 0
run build
is 'without apt-get: the names of the packages' 1 err 'no apt-get here; .*: gcc libc6-dev$'

path cc
user 0
run build
is 'without Rust: how to get it' 1 err '^install-deps.sh: cargo is missing.*install Rust 1.85'

path "${tools[@]}"
user 0
apt_get 'exit 0'
run check bench install build
grep -c clang "$dir/calls" >"$dir/count" || true
is 'libclang is never asked for, but for the bindings' 0 count '^0$'

path cargo
run nonsense
is 'an unknown purpose is named' 2 err 'nonsense: unknown purpose'

finish
