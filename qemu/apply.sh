#!/usr/bin/env bash
# Puts liblaio into a QEMU source tree in place of block/linux-aio.c, or takes it out again.
#
# What the tree's generation needs is read from the tree's own declarations and not from its
# version number: distributions carry changes back. Nothing is changed before all of it is
# understood.
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
# shellcheck source=tools/lib/cli.sh
source "$here/../tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: qemu/apply.sh [--revert] TREE

Lets the QEMU source tree TREE (7.2 to 11.x) use liblaio in place of block/linux-aio.c, and says
what it changed. Applying again brings the tree up to date. --revert takes it out again, also of a
tree that somebody has changed, committed or copied since.
END
}

revert=false
parse revert "$@"
arguments+=("${rest[@]}")
takes 1 'one tree'
tree=${arguments[0]}
[[ -d $tree ]] || die "$tree is not a directory"

tree=$(realpath "$tree")
# What build.sh needs, and the checksums of the files that were added.
private=$tree/.laio
added=(block/laio-host.c include/block/laio-tree.h)
added_mark="qemu/apply.sh"

# One text in each of three files is replaced. Replacing it back is reverting.
changed=(meson.build block/meson.build include/block/raw-aio.h)
comment='/* linux-aio.c - Linux native implementation */'
declare -A theirs=(
    [meson.build]="libaio = cc.find_library('aio', has_headers: ['libaio.h'],"
    [block/meson.build]="block_ss.add(when: libaio, if_true: files('linux-aio.c'))"
    [include/block/raw-aio.h]=$comment
)
declare -A ours=(
    [meson.build]="libaio = dependency('laio', version: '>=1.0', method: 'pkg-config',"
    [block/meson.build]="block_ss.add(when: libaio, if_true: files('laio-host.c'))"
    [include/block/raw-aio.h]="#include \"block/laio-tree.h\"
$comment"
)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unpatched=$scratch/unpatched
patched=$scratch/patched

# replace FILE TEXT OTHER: prints FILE with OTHER for TEXT, which is in it once; fails if not.
replace() {
    python3 - "$@" <<'END'
import sys
path, *texts = sys.argv[1:]
text, other = (text.encode() for text in texts)
content = open(path, 'rb').read()
if content.count(text) != 1:
    sys.exit(1)
sys.stdout.buffer.write(content.replace(text, other))
END
}

# Whether the tree's file $1 has laio in it; its unpatched text is then in $unpatched.
take_out() {
    mkdir -p "$(dirname "$unpatched/$1")"
    replace "$tree/$1" "${ours[$1]}" "${theirs[$1]}" >"$unpatched/$1" 2>/dev/null
}

# Prints a line about the file $2, which is or will be the tree's $1, for the manifest.
entry() {
    echo "$(sha256sum <"$2" | cut -d' ' -f1)  $1"
}

# Whether the added file $1 is one of apply.sh's, which nobody has changed as far as is known.
is_ours() {
    grep -qF "$added_mark" "$tree/$1" &&
        { [[ ! -f $private/manifest ]] || grep -qxF "$(entry "$1" "$tree/$1")" "$private/manifest"; }
}

# Everything is written into files that are there, or beside them.
check_writable() {
    local path
    for path in "${changed[@]}"; do
        [[ -w $tree/$path ]] || die "$tree/$path is not writable. Nothing was changed"
    done
    for path in "$tree" "$tree/block" "$tree/include/block"; do
        [[ -w $path ]] || die "$path is not writable. Nothing was changed"
    done
}

check_added() {
    local path
    for path in "${added[@]}"; do
        [[ ! -e $tree/$path ]] || is_ours "$path" ||
            die "$tree: $path is there, and not as apply.sh writes it; move it away first. \
Nothing was changed"
    done
}

revert_tree() {
    local path found=()
    for path in "${changed[@]}"; do
        [[ -f $tree/$path ]] || die "$tree: there is no $path. Nothing was changed"
        ! take_out "$path" || found+=("$path")
    done
    for path in "${added[@]}"; do
        [[ ! -e $tree/$path ]] || ! is_ours "$path" || found+=("$path")
    done
    [[ ${#found[@]} -gt 0 ]] || die "$tree has nothing of laio to take out"
    check_added
    check_writable
    for path in "${found[@]}"; do
        if [[ -n ${ours[$path]:-} ]]; then
            # Only the contents: the mode was never changed, and a new time makes ninja look.
            cat "$unpatched/$path" >"$tree/$path"
            echo "restored $path"
        else
            rm -f "$tree/$path"
            echo "removed  $path"
        fi
    done
    rm -rf "$private"
}

if $revert; then
    revert_tree
    exit 0
fi

refuse() {
    die "$tree: $*. This tree is not understood, and nothing was changed"
}

for path in VERSION block/linux-aio.c "${changed[@]}"; do
    [[ -f $tree/$path ]] || refuse "there is no $path"
done
for path in "${changed[@]}"; do
    take_out "$path" || cp "$tree/$path" "$unpatched/$path"
done
raw_aio=$unpatched/include/block/raw-aio.h
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
while read -r name; do
    [[ $known == *" $name "* ]] || refuse "include/block/raw-aio.h declares $name()"
done < <(grep -oP '(?<![a-z_])laio_[a-z_]+(?= ?\()' "$raw_aio" | sort -u)
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

for path in "${changed[@]}"; do
    mkdir -p "$(dirname "$patched/$path")"
    replace "$unpatched/$path" "${theirs[$path]}" "${ours[$path]}" >"$patched/$path" ||
        refuse "$path has not once the text \"${theirs[$path]}\""
done
cp "$here/laio-host.c" "$patched/block/laio-host.c"
{
    cat <<'END'
/*
 * What liblaio's host file, block/laio-host.c, needs to know of this tree
 *
 * Written by laio's qemu/apply.sh from what the tree declares; apply.sh --revert removes it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
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
} >"$patched/include/block/laio-tree.h"

check_added
check_writable
mkdir -p "$private"
echo '*' >"$private/.gitignore"
for path in "${added[@]}"; do
    entry "$path" "$patched/$path"
done >"$scratch/manifest"
# What is there until now is known as long as this may be interrupted.
cat "$scratch/manifest" >>"$private/manifest"

echo "QEMU $(head -n 1 "$tree/VERSION")${macros[*]:+ (${macros[*]})}: $tree"
for path in "${changed[@]}" "${added[@]}"; do
    if cmp -s "$patched/$path" "$tree/$path"; then
        echo "as it was $path"
        continue
    fi
    verb=changed
    [[ -e $tree/$path ]] || verb=added
    # Into the file that is there, which keeps its mode.
    cat "$patched/$path" >"$tree/$path"
    echo "$verb $path"
done
cp "$scratch/manifest" "$private/manifest"
