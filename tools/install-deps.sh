#!/usr/bin/env bash
# Installs what is missing of Debian's packages for one or more purposes.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

# shellcheck source=tools/lib/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/cli.sh"

usage() {
    cat <<'END'
Usage: tools/install-deps.sh PURPOSE...

  build      a C compiler and linker, for the library and laio-bench
  install    all that, meson, ninja, pkg-config and python3
  check      all that, what the tests and examples are built with (a C++ compiler, CMake, the headers of GLib,
             libuv, libaio, liburing and nbdkit), and what they are run with (valgrind, nbdkit and clients of
             it: nbdcopy, QEMU's tools, fio), libvirt's check of domains, bpftrace, perf and gdb for the
             tracepoints, dpkg-dev to fetch fio's headers, and a parser of Markdown
  qemu       what QEMU's tools are built with, dpkg-dev to fetch their source, and valgrind
  bench      fio, valgrind, the headers of liburing, and matplotlib
  pictures   graphviz, to draw those of the documentation again
  vm         what guests are made with (cpio, kmod, xz, device mapper), and file systems for their disks
  aarch64    a C compiler for the guests of that processor
  deb        what Debian's packages are built and looked at with
  rpm        what RPM packages are built and looked at with
  ci         clang-format, shellcheck and abidiff, which CI runs over the sources and the header
  bindings   libclang, to regenerate the kernel bindings (nobody else needs it)

Installs with apt-get as root or by passwordless sudo. Where it may not, it prints the line to
type, and fails. What is there already is left alone, wherever it came from.
END
}

has() { command -v "$1" >/dev/null 2>&1; }

# There is a library that pkg-config knows by this name.
has_library() {
    if has pkg-config; then pkg-config --exists "$1"; else return 1; fi
}

# What is for root alone may be where a user's PATH does not lead.
has_admin() { has "$1" || [[ -x /usr/sbin/$1 || -x /sbin/$1 ]]; }

# Not through a pipe: a compiler that answers before it has read everything would count as a failure.
has_header() { cc -E - <<<"#include <$1>" >/dev/null 2>&1; }

has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }
# For the distribution's own Python, whatever other is there.
has_matplotlib() { /usr/bin/python3 -c 'import matplotlib' 2>/dev/null; }

has_markdown_it() { /usr/bin/python3 -c 'import markdown_it' 2>/dev/null; }

has_libclang() {
    # The one of the -dev package, which brings the compiler's own headers along.
    [[ -n ${LIBCLANG_PATH:-} ]] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null
}

packages=()

# Adds the packages unless the command before them succeeds: need CHECK ARGUMENT -- PACKAGE...
need() {
    local check=() package
    while [[ $1 != -- ]]; do
        check+=("$1")
        shift
    done
    shift
    "${check[@]}" && return
    for package in "$@"; do
        [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
    done
}

collect() {
    case $1 in
    build)
        need has cc -- gcc libc6-dev
        ;;
    install)
        collect build
        need has python3 -- python3
        need has meson -- meson
        need has ninja -- ninja-build
        need has pkg-config -- pkg-config
        ;;
    check)
        collect install
        need has c++ -- g++
        need has cmake -- cmake
        need has man -- man-db
        need has_library glib-2.0 -- libglib2.0-dev
        need has_library libuv -- libuv1-dev
        need has valgrind -- valgrind
        need has_header libaio.h -- libaio-dev
        need has_header liburing.h -- liburing-dev
        need has_library nbdkit -- nbdkit-plugin-dev
        need has nbdkit -- nbdkit
        need has nbdcopy -- libnbd-bin
        need has qemu-img -- qemu-utils
        need has fio -- fio
        need has virt-xml-validate -- libvirt-clients
        need has xmllint -- libxml2-utils
        need has bpftrace -- bpftrace
        need has perf -- linux-perf
        need has gdb -- gdb
        need has dpkg-source -- dpkg-dev
        need has_markdown_it -- python3-markdown-it
        ;;
    qemu)
        collect build
        need has dpkg-source -- dpkg-dev
        need has flex -- flex
        need has bison -- bison
        need has ninja -- ninja-build
        need has pkg-config -- pkg-config
        need has python3 -- python3
        need has_venv -- python3-venv
        need has_library glib-2.0 -- libglib2.0-dev
        need has_header zlib.h -- zlib1g-dev
        need has_header liburing.h -- liburing-dev
        need has_header libaio.h -- libaio-dev
        need has valgrind -- valgrind
        ;;
    vm)
        need has dpkg-source -- dpkg-dev
        need has cpio -- cpio
        need has_admin depmod -- kmod
        need has xz -- xz-utils
        need has zstd -- zstd
        need has_admin mkfs.ext4 -- e2fsprogs
        need has_admin mkfs.xfs -- xfsprogs
        need has_admin mkfs.btrfs -- btrfs-progs
        need has_admin mkfs.f2fs -- f2fs-tools
        need has_admin mkfs.vfat -- dosfstools
        need has_admin dmsetup -- dmsetup
        need has_venv -- python3-venv
        ;;
    aarch64)
        need has aarch64-linux-gnu-gcc -- gcc-aarch64-linux-gnu libc6-dev-arm64-cross
        ;;
    bench)
        collect build
        need has fio -- fio
        need has valgrind -- valgrind
        need has_header liburing.h -- liburing-dev
        need has_matplotlib -- python3-matplotlib
        ;;
    pictures)
        need has dot -- graphviz
        ;;
    deb)
        need has dpkg-buildpackage -- dpkg-dev
        need has dh -- debhelper
        need has fakeroot -- fakeroot
        need has lintian -- lintian
        ;;
    rpm)
        need has rpmbuild -- rpm
        need has rpm2cpio -- rpm2cpio
        need has cpio -- cpio
        need has xz -- xz-utils
        ;;
    ci)
        need has clang-format -- clang-format
        need has shellcheck -- shellcheck
        need has abidw -- abigail-tools
        ;;
    bindings)
        need has_libclang -- libclang-14-dev
        ;;
    *)
        misuse "$1: unknown purpose"
        ;;
    esac
}

install() {
    local command=("$@") apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
    # The lists of a fresh machine or container are empty or old, so once more after an update.
    "${command[@]}" "${apt[@]}" install -y --no-install-recommends "${packages[@]}" </dev/null ||
        { "${command[@]}" "${apt[@]}" update </dev/null &&
            "${command[@]}" "${apt[@]}" install -y --no-install-recommends "${packages[@]}" \
                </dev/null; }
}

check_rust() {
    has cargo || die "cargo is missing; install Rust 1.85 or later"
}

parse '' "$@"
((${#arguments[@]} > 0)) || misuse "give a purpose"
for purpose in "${arguments[@]}"; do
    collect "$purpose"
done
check_rust
((${#packages[@]} > 0)) || exit 0

line="apt-get install -y --no-install-recommends ${packages[*]}"
if ! has apt-get; then
    die "missing, and no apt-get here; install what these packages of Debian hold: ${packages[*]}"
fi
if [[ $(id -u) -eq 0 ]]; then
    echo "installing: ${packages[*]}"
    install || die "could not install them; try: apt-get update && $line"
elif has sudo && sudo -n true 2>/dev/null; then
    echo "installing: ${packages[*]}"
    install sudo -n || die "could not install them; try: sudo apt-get update && sudo $line"
else
    die "missing; type: sudo $line"
fi
