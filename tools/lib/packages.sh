# What the scripts that build packages do alike, for them to source after cli.sh.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash

# What is packed is what is committed.
wants_a_clone() {
    [[ -e .git ]] || die "this packs the HEAD of a clone, and here is none; what was unpacked is built by \
dpkg-buildpackage, rpmbuild or meson itself"
}

# demo ROOT DIR: debian/tests/demo with what was unpacked in ROOT. DIR is made for it.
demo() {
    local root=$1 libdir
    mkdir "$2"
    libdir=$(dirname "$(find "$root" -name liblaio.a)")
    AUTOPKGTEST_TMP=$2 PATH=$root/usr/bin:$PATH LD_LIBRARY_PATH=$libdir \
        PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_PATH=$libdir/pkgconfig \
        PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 debian/tests/demo
}
