#!/usr/bin/env bash
# Puts liblaio into a QEMU source tree in place of block/linux-aio.c, or takes it out again.
#
# What the tree's generation needs is read from the tree's own declarations and not from its
# version number: distributions carry changes back. Nothing is changed before all of it is
# understood.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

usage() {
    cat <<'END'
usage: qemu/apply.sh [--revert] TREE

Lets the QEMU source tree TREE (7.2 to 11.x) use liblaio in place of block/linux-aio.c, and says
what it changed. Applying again brings the tree up to date. --revert restores what was there.
END
}

misuse() {
    echo "apply.sh: $*" >&2
    usage >&2
    exit 2
}

die() {
    echo "apply.sh: $*" >&2
    exit 1
}

revert=false
tree=
for arg in "$@"; do
    case $arg in
    --revert) revert=true ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*) misuse "there is no option $arg" ;;
    *)
        [[ -z $tree ]] || misuse "more than one tree: $tree, $arg"
        tree=$arg
        ;;
    esac
done
[[ -n $tree ]] || misuse "no tree is given"
[[ -d $tree ]] || die "$tree is not a directory"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(realpath "$tree")
saved=$tree/.laio
changed=(meson.build block/meson.build include/block/raw-aio.h)
added=(block/laio-host.c include/block/laio-tree.h)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

checksum() {
    sha256sum <"$1" | cut -d' ' -f1
}

# What apply.sh wrote as the tree's file $1 has this checksum.
applied_checksum() {
    awk -v path="$1" '$2 == path { print $1 }' "$saved/manifest"
}

# Whether the file $1 is as apply.sh left it.
is_as_applied() {
    [[ -f $tree/$1 && $(checksum "$tree/$1") == "$(applied_checksum "$1")" ]]
}

revert_tree() {
    [[ -f $saved/manifest ]] || die "$tree has nothing of laio to take out"
    local path
    # An apply.sh that was interrupted leaves some files as they were: those are fine too.
    for path in "${changed[@]}"; do
        is_as_applied "$path" || cmp -s "$tree/$path" "$saved/original/$path" ||
            die "$path was changed after apply.sh; restore it first (or compare with \
$saved/original/$path). Nothing was changed"
    done
    for path in "${added[@]}"; do
        [[ ! -e $tree/$path ]] || is_as_applied "$path" ||
            die "$path was changed after apply.sh; move it away first. Nothing was changed"
    done
    for path in "${changed[@]}"; do
        # Only the contents: the mode was never changed, and a new time makes ninja look.
        cmp -s "$tree/$path" "$saved/original/$path" ||
            cat "$saved/original/$path" >"$tree/$path"
        echo "restored $path"
    done
    for path in "${added[@]}"; do
        rm -f "$tree/$path"
        echo "removed  $path"
    done
    rm -rf "$saved"
}

if $revert; then
    revert_tree
    exit 0
fi

refuse() {
    die "$tree: $*. This tree is not understood, and nothing was changed"
}

# Where the unpatched files are: in the tree, or saved by the last apply.sh.
base=$tree
if [[ -f $saved/manifest ]]; then
    base=$saved/original
    for path in "${changed[@]}" "${added[@]}"; do
        is_as_applied "$path" || die "$path is not as apply.sh left it; \
run apply.sh --revert first. Nothing was changed"
    done
fi
for path in VERSION block/linux-aio.c; do
    [[ -f $tree/$path ]] || refuse "there is no $path"
done
for path in "${changed[@]}"; do
    [[ -f $base/$path ]] || refuse "there is no $path"
done
raw_aio=$base/include/block/raw-aio.h
aio=
for path in include/block/aio.h include/qemu/aio.h; do
    if [[ -f $tree/$path ]] && grep -q 'struct AioContext {' "$tree/$path"; then
        aio=$tree/$path
    fi
done
[[ -n $aio ]] || refuse "no header declares struct AioContext"

# Prints the parameters with which the header $1 declares the function $2; nothing if it does not.
parameters() {
    tr -s '[:space:]' ' ' <"$1" | grep -oP "(?<![a-z_])$2 ?\(\K[^()]*(?=\);)" | head -n 1 || true
}

macros=()
renamed=()

# The functions of linux-aio.c, and no others.
known=" laio_init laio_cleanup laio_attach_aio_context laio_detach_aio_context laio_co_submit \
laio_io_plug laio_io_unplug laio_has_fdsync laio_has_fua "
for name in $(grep -oP '(?<![a-z_])laio_[a-z_]+(?= ?\()' "$raw_aio" | sort -u); do
    [[ $known == *" $name "* ]] || refuse "include/block/raw-aio.h declares $name()"
done
expect() {
    local got
    got=$(parameters "$raw_aio" "$1")
    [[ $got == "$2" ]] || refuse "include/block/raw-aio.h declares $1(${got:-?}) and not $1($2)"
    renamed+=("$1")
}
expect laio_init 'Error **errp'
expect laio_cleanup 'LinuxAioState *s'
expect laio_attach_aio_context 'LinuxAioState *s, AioContext *new_context'
expect laio_detach_aio_context 'LinuxAioState *s, AioContext *old_context'

tail='uint64_t offset, QEMUIOVector *qiov, int type'
submit=$(parameters "$raw_aio" laio_co_submit)
case $submit in
"BlockDriverState *bs, LinuxAioState *s, int fd, $tail, uint64_t dev_max_batch")
    macros+=(SUBMIT_STATE)
    renamed+=(laio_co_submit)
    ;;
"int fd, $tail, uint64_t dev_max_batch")
    macros+=(SUBMIT_WITHOUT_FLAGS)
    renamed+=(laio_co_submit)
    ;;
"int fd, $tail, BdrvRequestFlags flags, uint64_t dev_max_batch") ;;
*) refuse "include/block/raw-aio.h declares laio_co_submit(${submit:-?})" ;;
esac

plug="$(parameters "$raw_aio" laio_io_plug); $(parameters "$raw_aio" laio_io_unplug)"
case $plug in
'; ' | 'void; uint64_t dev_max_batch') ;;
'BlockDriverState *bs, LinuxAioState *s; BlockDriverState *bs, LinuxAioState *s, uint64_t dev_max_batch')
    macros+=(PLUG_STATE)
    renamed+=(laio_io_plug laio_io_unplug)
    ;;
*) refuse "include/block/raw-aio.h declares laio_io_plug() and laio_io_unplug() as ($plug)" ;;
esac

blk_header=$tree/include/sysemu/block-backend-io.h
deferring='(void (*fn)(void *), void *opaque);'
if grep -qsF "void defer_call$deferring" "$tree/include/qemu/defer-call.h"; then
    macros+=(DEFER_CALL)
elif grep -qsF "void blk_io_plug_call$deferring" "$blk_header"; then
    macros+=(BLK_IO_PLUG_CALL)
elif [[ $plug == '; ' ]]; then
    refuse "there is neither laio_io_plug() nor defer_call() nor blk_io_plug_call()"
fi

if grep -q 'aio_context_acquire(' "$tree/block/linux-aio.c"; then
    macros+=(CONTEXT_LOCK)
fi

notifier=$(parameters "$aio" aio_set_event_notifier)
handlers='EventNotifierHandler *io_read, AioPollFn *io_poll, EventNotifierHandler *io_poll_ready'
case $notifier in
"AioContext *ctx, EventNotifier *notifier, $handlers") ;;
"AioContext *ctx, EventNotifier *notifier, bool is_external, $handlers") macros+=(IS_EXTERNAL) ;;
*) refuse "aio_set_event_notifier() is declared with (${notifier:-?})" ;;
esac
for needed in 'int64_t aio_max_batch;' '#define aio_bh_new(ctx, cb, opaque)' \
    'aio_get_linux_aio(AioContext *ctx);' 'void aio_co_wake(' \
    'qemu_get_current_aio_context(void);'; do
    grep -qF "$needed" "$aio" || refuse "$(basename "$aio") has no \"$needed\""
done

# edit FILE LINE REPLACEMENT: LINE must be there once.
edit() {
    local count
    count=$(grep -cF -- "$2" "$base/$1") || true
    [[ $count -eq 1 ]] || refuse "$1 has the text \"$2\" $count times and not once"
    mkdir -p "$(dirname "$scratch/$1")"
    OLD=$2 NEW=$3 awk '{
        at = index($0, ENVIRON["OLD"])
        if (at > 0) {
            $0 = substr($0, 1, at - 1) ENVIRON["NEW"] substr($0, at + length(ENVIRON["OLD"]))
        }
        print
    }' "$base/$1" >"$scratch/$1"
}
comment='/* linux-aio.c - Linux native implementation */'
edit meson.build "libaio = cc.find_library('aio', has_headers: ['libaio.h']," \
    "libaio = dependency('laio', version: '>=1.0', method: 'pkg-config',"
edit block/meson.build "block_ss.add(when: libaio, if_true: files('linux-aio.c'))" \
    "block_ss.add(when: libaio, if_true: files('laio-host.c'))"
edit include/block/raw-aio.h "$comment" "#include \"block/laio-tree.h\"
$comment"

mkdir -p "$scratch/block" "$scratch/include/block"
cp "$here/laio-host.c" "$scratch/block/laio-host.c"
{
    cat <<'END'
/*
 * What liblaio's host file, block/laio-host.c, needs to know of this tree
 *
 * Written by laio's qemu/apply.sh from what the tree declares; apply.sh --revert removes it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef BLOCK_LAIO_TREE_H
#define BLOCK_LAIO_TREE_H

END
    for name in "${renamed[@]}"; do
        echo "#define $name qemu_$name"
    done
    echo
    for name in "${macros[@]}"; do
        echo "#define LAIO_TREE_$name"
    done
    echo
    echo "#endif /* BLOCK_LAIO_TREE_H */"
} >"$scratch/include/block/laio-tree.h"

# The originals first, then what reverting needs to know, and only then the tree itself.
if [[ $base == "$tree" ]]; then
    for path in "${added[@]}"; do
        [[ ! -e $tree/$path ]] || refuse "there is a $path already"
    done
    for path in "${changed[@]}"; do
        mkdir -p "$(dirname "$saved/original/$path")"
        cp "$tree/$path" "$saved/original/$path"
    done
    echo '*' >"$saved/.gitignore"
fi
for path in "${changed[@]}" "${added[@]}"; do
    echo "$(checksum "$scratch/$path")  $path"
done >"$scratch/manifest"
cp "$scratch/manifest" "$saved/manifest"

echo "QEMU $(head -n 1 "$tree/VERSION")${macros[*]:+ (${macros[*]})}: $tree"
for path in "${changed[@]}" "${added[@]}"; do
    if cmp -s "$scratch/$path" "$tree/$path"; then
        echo "as it was $path"
        continue
    fi
    verb=changed
    [[ -e $tree/$path ]] || verb=added
    # Into the file that is there, which keeps its mode.
    cat "$scratch/$path" >"$tree/$path"
    echo "$verb $path"
done
