#!/usr/bin/env bash
# Guests on the library, and the library in guests (make check-vm): fetches kernels and QEMU, builds the
# emulator, and runs the cases of vm/. The last line counts the tests.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh

usage() {
    cat <<'END'
usage: tools/check-vm.sh [OPTION...] [CASE...]

Runs the short set of cases, or those named (patterns like 'jobs/*' are names, too).

  --full         every case
  --own-engine   the emulator with QEMU's own block/linux-aio.c instead, to compare with
  --both         with laio, then with QEMU's own
  --list         show the cases, and run none
  --keep         keep what a case made even if it passed, in BUILD_DIR/vm/cases
  --jobs N       so many at a time; the processors, unless said
  --accel A      tcg or kvm; unless said, kvm where a guest boots with it
  --soak S       instead of cases: for S seconds, guests with random block jobs and random faults
  --seed N       the first one's seed, which says all that it does; unless said, another each time
END
}

full=false
own_engine=false
both=false
list=false
keep=false
jobs=
accel=
soak=
seed=
parse 'full own-engine both list keep jobs= accel= soak= seed=' "$@"
[[ $soak =~ ^[0-9]*$ ]] || misuse "--soak takes a number of seconds, and not \"$soak\""
[[ -z $soak ]] || : "${seed:=$((RANDOM << 15 | RANDOM))}"

mkdir -p "${BUILD_DIR:-build}/vm"
build=$(realpath "${BUILD_DIR:-build}")
root=$build/vm
# The usual kernel last: it is the one that everything uses.
suites=(bookworm trixie)
! $full || suites=(bullseye bookworm sid trixie)
# One named case may want any of them.
((${#arguments[@]} == 0)) || suites=(bullseye bookworm sid trixie)

have() { # FILE COMMAND [ARGUMENT...]
    local what=$1
    shift
    [[ -e $what ]] || "$@"
}

firmware() {
    vm/fetch.sh trixie "$root/packages" busybox-static seabios qemu-system-data
}

# emulator TREE [OPTION...]: built again only where something changed. A compiler that optimizes less and
# writes nothing for debuggers takes half of the time, and guests hardly notice: TCG makes their code itself.
emulator() {
    local tree=$1
    shift
    have "$tree" qemu/fetch.sh 10.0 "$tree"
    qemu/build.sh --emulator "$@" "$tree" -- -Doptimization=1 --disable-debug-info
}

python_environment() {
    local python=python3
    [[ ! -x /usr/bin/python3 ]] || python=/usr/bin/python3
    [[ -x $root/python/bin/python ]] || "$python" -m venv "$root/python"
    "$root/python/bin/pip" install --quiet --disable-pip-version-check -r vm/requirements.txt
}

# What the library's own tests need inside, beside what every guest has.
programs() {
    [[ -f $build/build.ninja ]] || meson setup "$build" >"$root/meson.log"
    meson compile -C "$build" >>"$root/meson.log" 2>&1 || {
        tail -n 20 "$root/meson.log"
        die 'the C tests could not be built'
    }
    cc -O2 -Wall -Wextra -D_GNU_SOURCE -static -o "$root/vm-records" vm/guest/records.c
    vm/library-initramfs.sh "$build" "$root/library.cpio"
}

guests() {
    local suite
    for suite in "${suites[@]}"; do
        have "$root/kernel-$suite" vm/fetch.sh "$suite" "$root/kernel-$suite" linux-image-amd64 ||
            { echo "# the kernel of $suite is not to be had: cases that want it are skipped"; continue; }
        vm/initramfs.sh "$root/kernel-$suite" "$root/guest-$suite" \
            "$root/packages/usr/bin/busybox" "$root/fio" "$root/vm-records"
    done
}

# What the emulator of aarch64 is linked to that a machine may not have. It is not installed, since its
# packages may be at odds with the machine's qemu-utils.
emulator_libraries=(libaio1 libbpf1 libcapstone4 libdaxctl1 libfdt1 libfuse3-3 libibverbs1 libjpeg62-turbo
    libndctl6 libnl-3-200 libnl-route-3-200 libnuma1 libpixman-1-0 libpmem1 libpng16-16 librdmacm1 libsasl2-2
    libseccomp2 libslirp0 liburing2 libvdeplug2)

other_processor() {
    local packages=$root/packages-aarch64
    tools/install-deps.sh aarch64
    if ! { rustup target add aarch64-unknown-linux-gnu >/dev/null 2>&1 &&
        have "$packages" vm/fetch.sh --arch arm64 bookworm "$packages" busybox-static bash-static \
            libaio1 libaio-dev liburing2 liburing-dev libglib2.0-0 libglib2.0-dev libpcre2-8-0 libpcre2-dev &&
        have "$root/emulator-aarch64" vm/fetch.sh bookworm "$root/emulator-aarch64" \
            qemu-system-arm qemu-system-common qemu-system-data "${emulator_libraries[@]}" &&
        have "$root/kernel-aarch64" vm/fetch.sh --arch arm64 trixie "$root/kernel-aarch64" \
            linux-image-cloud-arm64; }; then
        echo '# what aarch64 wants is not to be had: its cases are skipped'
        return
    fi
    vm/cross.sh "$packages" "$root/aarch64" >"$root/cross.log" 2>&1 || {
        tail -n 20 "$root/cross.log"
        die 'the library and its tests could not be built for aarch64'
    }
    vm/library-initramfs.sh --aarch64 "$packages" "$root/aarch64" "$root/library-aarch64.cpio"
    vm/initramfs.sh "$root/kernel-aarch64" "$root/guest-aarch64" "$packages/bin/busybox"
}

# Guests and mounts end with the laboratory, even if it is killed, where it can have namespaces of its own.
apart=(unshare --mount --pid --fork --kill-child --mount-proc)
"${apart[@]}" true 2>/dev/null || apart=()

# engine [OPTION...]: runs the cases with one engine.
engine() {
    local options=()
    ! $full || options+=(--full)
    ! $list || options+=(--list)
    ! $keep || options+=(--keep)
    [[ -z $jobs ]] || options+=(--jobs "$jobs")
    [[ -z $accel ]] || options+=(--accel "$accel")
    [[ -z $soak ]] || options+=(--soak "$soak" --seed "$seed")
    # From where the sockets have short names.
    (cd vm && PYTHONDONTWRITEBYTECODE=1 "${apart[@]}" "$root/python/bin/python" -m lab --root "$root" \
        "${options[@]}" "$@" "${arguments[@]}")
}

exec {lock}>"$root/lock"
flock "$lock"
tools/install-deps.sh check qemu vm
python_environment
if $list; then
    engine
    exit 0
fi
have "$root/packages" firmware
mkdir -p "$root/firmware"
for file in bios-256k.bin linuxboot_dma.bin kvmvapic.bin; do
    cp "$(find "$root/packages" -name "$file" -print -quit)" "$root/firmware/"
done
have "$root/fio" vm/build-fio.sh bookworm "$root/fio"
programs
guests
[[ $(list=true engine) != *-on-aarch64* ]] || other_processor
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! $own_engine; then
    emulator "$root/qemu"
    engine | tee -a "$log" || status=1
fi
if $own_engine || $both; then
    emulator "$root/qemu-own" --unpatched
    engine --own-engine | tee -a "$log" || status=1
fi
tools/count-tests --tap "$log" || status=1
exit "$status"
