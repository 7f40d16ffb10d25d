#!/usr/bin/env bash
# Puts liblaio into a QEMU source tree in place of block/linux-aio.c, and of block/io_uring.c where
# that has a ring of its own, or takes it out again.
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

Lets the QEMU source tree TREE (7.2 to 11.x) use liblaio in place of block/linux-aio.c and, up to
10.1, of block/io_uring.c, and says what it changed. Applying again brings the tree up to date.
--revert takes it out again, also of a tree that somebody has changed, committed or copied since.
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
all_added=(block/laio-host.c block/laio-host.h block/luring-host.c include/block/laio-tree.h)
added_mark="qemu/apply.sh"

# A few texts in three files are replaced. Replacing them back is reverting.
changed=(meson.build block/meson.build include/block/raw-aio.h)
all_edits=(library native uring header)
declare -A file_of=(
    [library]=meson.build
    [native]=block/meson.build
    [uring]=block/meson.build
    [header]=include/block/raw-aio.h
)
comment='/* linux-aio.c - Linux native implementation */'
declare -A theirs=(
    [library]="libaio = cc.find_library('aio', has_headers: ['libaio.h'],"
    [native]="block_ss.add(when: libaio, if_true: files('linux-aio.c'))"
    [uring]="block_ss.add(when: linux_io_uring, if_true: files('io_uring.c'))"
    [header]=$comment
)
# Without liblaio (--disable-linux-aio) QEMU has its own io_uring.c, and without liburing neither.
declare -A ours=(
    [library]="libaio = dependency('laio', version: '>=1.0', method: 'pkg-config',"
    [native]="block_ss.add(when: libaio, if_true: files('laio-host.c'))"
    [uring]="block_ss.add(when: linux_io_uring, \
if_true: files(libaio.found() ? 'luring-host.c' : 'io_uring.c'))"
    [header]="#include \"block/laio-tree.h\"
$comment"
)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unpatched=$scratch/unpatched
patched=$scratch/patched

# replace FROM TO [FILE TEXT OTHER]...: copies each FILE from directory FROM to TO, with OTHER for
# TEXT where that is in it once. Prints whether, a line for each.
replace() {
    python3 - "$@" <<'END'
import os
import sys
source, target, *words = sys.argv[1:]
contents = {}
for path, text, other in zip(words[::3], words[1::3], words[2::3]):
    text, other = text.encode(), other.encode()
    content = contents.get(path) or open(os.path.join(source, path), 'rb').read()
    once = content.count(text) == 1
    contents[path] = content.replace(text, other) if once else content
    print(once)
for path, content in contents.items():
    os.makedirs(os.path.dirname(os.path.join(target, path)), exist_ok=True)
    open(os.path.join(target, path), 'wb').write(content)
END
}

# Which of the tree's three files have laio in them: the array `with_laio`. Their unpatched text is
# then, and in any case, in $unpatched.
with_laio=()
take_out() {
    local edit words=() answers
    for edit in "${all_edits[@]}"; do
        words+=("${file_of[$edit]}" "${ours[$edit]}" "${theirs[$edit]}")
    done
    mapfile -t answers < <(replace "$tree" "$unpatched" "${words[@]}")
    for edit in "${all_edits[@]}"; do
        if [[ ${answers[0]} == True && " ${with_laio[*]} " != *" ${file_of[$edit]} "* ]]; then
            with_laio+=("${file_of[$edit]}")
        fi
        answers=("${answers[@]:1}")
    done
}

# Puts the edits in the arguments into $unpatched, as $patched.
put_in() {
    local edit words=() answers
    for edit in "$@"; do
        words+=("${file_of[$edit]}" "${theirs[$edit]}" "${ours[$edit]}")
    done
    mapfile -t answers < <(replace "$unpatched" "$patched" "${words[@]}")
    for edit in "$@"; do
        [[ ${answers[0]} == True ]] ||
            refuse "${file_of[$edit]} has not once the text \"${theirs[$edit]}\""
        answers=("${answers[@]:1}")
    done
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

# Whether the files in the arguments may be written, or removed.
check_added() {
    local path
    for path in "$@"; do
        [[ ! -e $tree/$path ]] || is_ours "$path" ||
            die "$tree: $path is there, and not as apply.sh writes it; move it away first. \
Nothing was changed"
    done
}

revert_tree() {
    local path found
    for path in "${changed[@]}"; do
        [[ -f $tree/$path ]] || die "$tree: there is no $path. Nothing was changed"
    done
    take_out
    found=("${with_laio[@]}")
    for path in "${all_added[@]}"; do
        [[ ! -e $tree/$path ]] || ! is_ours "$path" || found+=("$path")
    done
    [[ ${#found[@]} -gt 0 ]] || die "$tree has nothing of laio to take out"
    check_added "${all_added[@]}"
    check_writable
    for path in "${found[@]}"; do
        if [[ -f $unpatched/$path ]]; then
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
take_out
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

# knows PREFIX NAME...: the header declares no other functions that begin so.
knows() {
    local name known=" ${*:2} "
    while read -r name; do
        [[ $known == *" $name "* ]] || refuse "include/block/raw-aio.h declares $name()"
    done < <(grep -oP "(?<![a-z_])$1[a-z_]+(?= ?\()" "$raw_aio" | sort -u)
}
expect() {
    local got
    got=$(parameters "$raw_aio" "$1")
    [[ $got == "$2" ]] || refuse "include/block/raw-aio.h declares $1(${got:-?}) and not $1($2)"
}
knows laio_ laio_{init,cleanup,attach_aio_context,detach_aio_context,co_submit} \
    laio_{io_plug,io_unplug,has_fdsync,has_fua}
expect laio_init 'Error **errp'
expect laio_cleanup 'LinuxAioState *s'
expect laio_attach_aio_context 'LinuxAioState *s, AioContext *new_context'
expect laio_detach_aio_context 'LinuxAioState *s, AioContext *old_context'
renamed+=(laio_init laio_cleanup laio_attach_aio_context laio_detach_aio_context)

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

# QEMU's aio=io_uring. What the library has none of needs no other name.
edits=(library native header)
added=(block/laio-host.c block/laio-host.h include/block/laio-tree.h)
alone=
if [[ -z $(parameters "$raw_aio" luring_init) ]]; then
    alone="its requests go through the event loop's own ring, where nothing recurses"
else
    edits+=(uring)
    added+=(block/luring-host.c)
    knows luring_ luring_{init,cleanup,attach_aio_context,detach_aio_context,co_submit} \
        luring_{io_plug,io_unplug,has_fua}
    expect luring_init 'Error **errp'
    expect luring_cleanup 'LuringState *s'
    expect luring_attach_aio_context 'LuringState *s, AioContext *new_context'
    expect luring_detach_aio_context 'LuringState *s, AioContext *old_context'
    submit=$(parameters "$raw_aio" luring_co_submit)
    case $submit in
    "BlockDriverState *bs, LuringState *s, int fd, $tail") macros+=(LURING_SUBMIT_STATE) ;;
    "BlockDriverState *bs, int fd, $tail") macros+=(LURING_SUBMIT_WITHOUT_FLAGS) ;;
    "BlockDriverState *bs, int fd, $tail, BdrvRequestFlags flags") ;;
    *) refuse "include/block/raw-aio.h declares luring_co_submit(${submit:-?})" ;;
    esac
    luring_plug="$(parameters "$raw_aio" luring_io_plug); $(parameters "$raw_aio" luring_io_unplug)"
    case $luring_plug in
    '; ') ;;
    'BlockDriverState *bs, LuringState *s; BlockDriverState *bs, LuringState *s')
        macros+=(LURING_PLUG_STATE)
        ;;
    *) refuse "include/block/raw-aio.h declares luring_io_plug() and luring_io_unplug() as ($luring_plug)" ;;
    esac
    has_fua=$(parameters "$raw_aio" luring_has_fua)
    case $has_fua in
    '') ;;
    void) macros+=(LURING_HAS_FUA) ;;
    *) refuse "include/block/raw-aio.h declares luring_has_fua($has_fua)" ;;
    esac
fi

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
needed_of_aio=()
[[ -n $alone ]] || needed_of_aio+=('aio_get_linux_io_uring(AioContext *ctx);')
for needed in "${needed_of_aio[@]}" 'int64_t aio_max_batch;' '#define aio_bh_new(ctx, cb, opaque)' \
    'aio_get_linux_aio(AioContext *ctx);' 'void aio_co_wake(' \
    'qemu_get_current_aio_context(void);'; do
    grep -qF "$needed" "$aio" || refuse "$(basename "$aio") has no \"$needed\""
done

put_in "${edits[@]}"
for path in "${added[@]}"; do
    [[ $path != block/* ]] || cp "$here/${path#block/}" "$patched/$path"
done
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

check_added "${added[@]}"
check_writable
# What another generation of this tree needed.
for path in "${all_added[@]}"; do
    if [[ ! -e $patched/$path && -e $tree/$path ]] && is_ours "$path"; then
        rm "$tree/$path"
        echo "removed $path"
    fi
done
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
[[ -z $alone ]] || echo "left alone block/io_uring.c: $alone"
