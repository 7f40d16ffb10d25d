#!/usr/bin/env bash
# Tests apply.sh on copies of the files that it is about: refusal without a change, and reverting.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../../tools/lib/cli.sh"
usage() { echo 'usage: apply-test.sh TREE'; }
parse '' "$@"
takes 1 'one tree'
tree=${arguments[0]}
apply=$(dirname "$here")/apply.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The part of the tree that apply.sh reads, as it was before any apply.sh.
pristine=$scratch/pristine
mkdir -p "$pristine"
for path in VERSION meson.build block/meson.build block/linux-aio.c include/block/raw-aio.h \
    include/block/aio.h include/qemu/aio.h include/qemu/defer-call.h \
    include/sysemu/block-backend-io.h; do
    if [[ -f $tree/$path ]]; then
        mkdir -p "$pristine/$(dirname "$path")"
        cp "$tree/$path" "$pristine/$path"
    fi
done
if grep -q laio-host.c "$pristine/block/meson.build"; then
    "$apply" --revert "$pristine" >/dev/null
fi

state() {
    (cd "$1" && find . -type f -printf '%m %p\n' | sort && find . -type f -exec sha256sum {} + | sort)
}

copy=$scratch/copy
fresh() {
    rm -rf "$copy"
    cp -a "$pristine" "$copy"
}

# refused WHAT: apply.sh refuses the copy, says why on one line, and changes nothing.
refused() {
    local before after
    before=$(state "$copy")
    if "$apply" "$copy" >"$scratch/out" 2>&1; then
        die "$1 was not refused"
    fi
    after=$(state "$copy")
    [[ $before == "$after" ]] || die "$1 was refused, and the tree changed"
    grep -q '^apply.sh: .*othing was changed' "$scratch/out" || die "$1: $(cat "$scratch/out")"
}

expect_line() {
    grep -qF -- "$2" "$copy/$1" || die "$1 does not have \"$2\""
}

# Whether aio=io_uring has a ring of its own here, which is replaced.
own_ring=false
! grep -q 'luring_init(' "$pristine/include/block/raw-aio.h" || own_ring=true

fresh
"$apply" "$copy" >"$scratch/out"
if $own_ring; then
    expect_line block/meson.build "'luring-host.c'"
    expect_line block/luring-host.c luring_co_submit
    ! grep -q 'left alone' "$scratch/out" || die "$(cat "$scratch/out")"
else
    [[ ! -e $copy/block/luring-host.c ]] || die "there is a luring-host.c that nobody compiles"
    expect_line block/meson.build "if_true: files('io_uring.c')"
    grep -q '^left alone block/io_uring.c: .* ring' "$scratch/out" || die "why is io_uring.c left alone?"
fi
expect_line block/meson.build laio-host.c
expect_line meson.build "dependency('laio'"
expect_line include/block/raw-aio.h '#include "block/laio-tree.h"'
applied=$(state "$copy")
"$apply" "$copy" >/dev/null
[[ $(state "$copy") == "$applied" ]] || die "applying twice is not applying once"
"$apply" --revert "$copy" >/dev/null
[[ $(state "$copy") == "$(state "$pristine")" ]] || die "--revert does not restore the tree"
if "$apply" --revert "$copy" >/dev/null 2>&1; then
    die "--revert of a tree without laio succeeds"
fi

# An apply.sh that was interrupted can be taken back.
"$apply" "$copy" >/dev/null
cp "$pristine/meson.build" "$copy/meson.build"
rm "$copy/block/laio-host.c"
"$apply" --revert "$copy" >/dev/null
[[ $(state "$copy") == "$(state "$pristine")" ]] || die "--revert of a part does not restore"

# A tree that was committed and cloned, or stashed, comes without what git ignores.
"$apply" "$copy" >/dev/null
rm -r "$copy/.laio"
"$apply" "$copy" >/dev/null
[[ $(state "$copy") == "$applied" ]] || die "applying to a clone is not applying"
rm -r "$copy/.laio"
"$apply" --revert "$copy" >/dev/null
[[ $(state "$copy") == "$(state "$pristine")" ]] || die "--revert does not restore a clone"

# Somebody's own changes are not lost, and neither in the way.
"$apply" "$copy" >/dev/null
echo '# mine' >>"$copy/meson.build"
"$apply" "$copy" >/dev/null
[[ $(tail -n 1 "$copy/meson.build") == '# mine' ]] || die "somebody's change is lost"
"$apply" --revert "$copy" >/dev/null
(cat "$pristine/meson.build" && echo '# mine') | cmp -s - "$copy/meson.build" ||
    die "--revert restores more than apply.sh changed, or less"
cp "$pristine/meson.build" "$copy/meson.build"
[[ $(state "$copy") == "$(state "$pristine")" ]] || die "--revert does not restore the rest"

# Nor are those in the files that were added.
"$apply" "$copy" >/dev/null
echo '/* mine */' >>"$copy/block/laio-host.c"
before=$(state "$copy")
for option in '' --revert; do
    if "$apply" $option "$copy" >"$scratch/out" 2>&1; then
        die "a file with somebody's changes was overwritten ($option)"
    fi
    [[ $(state "$copy") == "$before" ]] || die "a refused apply.sh $option changed the tree"
    grep -q 'laio-host.c is there, and not as' "$scratch/out" || die "$(cat "$scratch/out")"
done

# What an apply.sh has left that knew nothing of io_uring, and what a tree keeps whose next release
# has no ring of its own there any more.
if $own_ring; then
    rm "$copy/block/luring-host.c" "$copy/block/laio-host.h"
    cp "$pristine/block/meson.build" "$copy/block/meson.build"
    sed -i "s/files('linux-aio.c')/files('laio-host.c')/" "$copy/block/meson.build"
    cp "$here/../laio-host.c" "$copy/block/"
    "$apply" "$copy" >/dev/null
    [[ $(state "$copy") == "$applied" ]] || die "the tree of an older apply.sh is not brought up to date"
    sed -i '/luring_init(/d' "$copy/include/block/raw-aio.h"
    "$apply" "$copy" >/dev/null
    [[ ! -e $copy/block/luring-host.c ]] || die "luring-host.c stays when its ring has gone"
    expect_line block/meson.build "if_true: files('io_uring.c')"
fi

# From another directory, by another name.
fresh
ln -s "$apply" "$scratch/a link"
(cd "$scratch" && "./a link" copy >/dev/null)
[[ $(state "$copy") == "$applied" ]] || die "another name of apply.sh does something else"

# Trees that are not understood.
change() {
    fresh
    sed -i "$2" "$copy/$1"
    ! cmp -s "$copy/$1" "$pristine/$1" || die "the test's change of $1 changes nothing: $2"
}
change include/block/raw-aio.h 's/uint64_t dev_max_batch/uint32_t dev_max_batch/'
refused "another prototype of laio_co_submit"
change include/block/raw-aio.h 's/^void laio_cleanup(.*/&\nvoid laio_new_function(int fd);/'
refused "a function that is not known"
change include/block/raw-aio.h 's/laio_init(Error \*\*errp)/laio_init(void)/'
refused "another prototype of laio_init"
change block/meson.build 's/linux-aio\.c/native-aio.c/'
refused "another name in block/meson.build"
change meson.build "s/find_library('aio'/find_library('aio2'/"
refused "another way of finding libaio"
change block/meson.build 's/linux_io_uring, if_true/io_uring, if_true/'
if $own_ring; then
    refused "another line for io_uring.c in block/meson.build"
    change include/block/raw-aio.h '/luring_co_submit(/s/int fd/int file/'
    refused "another prototype of luring_co_submit"
    change include/block/raw-aio.h 's/luring_cleanup(LuringState \*s)/luring_cleanup(void *s)/'
    refused "another prototype of luring_cleanup"
    change include/block/raw-aio.h 's/^void luring_cleanup(.*/&\nvoid luring_new_function(int fd);/'
    refused "a function of io_uring.c that is not known"
else
    "$apply" "$copy" >/dev/null || die "a line that is left alone was looked at"
fi
fresh
sed -i 's/aio_max_batch/aio_batch/' "$copy"/include/*/aio.h
refused "an AioContext without aio_max_batch"
fresh
rm "$copy/block/linux-aio.c"
refused "a tree without linux-aio.c"
fresh
echo '/* theirs */' >"$copy/block/laio-host.c"
refused "a tree that has a laio-host.c"
if [[ $(id -u) -ne 0 ]]; then # who may write everywhere
    fresh
    chmod a-w "$copy/include/block/raw-aio.h"
    refused "a tree with a file that cannot be written"
fi
echo "apply.sh: applied, reverted and refused as it should"
