#!/usr/bin/env bash
# Tests of arrows.py, as TAP: it notices an arrow that is turned, however it is written.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/tap.sh
source "$here/lib/tap.sh"

fresh_tree() {
    rm -rf "$dir/tree"
    for part in engine src preload; do
        (cd "$here/.." && find "$part" -name '*.rs' -exec cp --parents -t "$dir" {} +)
    done
    mkdir "$dir/tree"
    mv "$dir/engine" "$dir/src" "$dir/preload" "$dir/tree"
}

# with FILE CODE: a tree in which that stands at the start of the file, which may be new.
with() {
    fresh_tree
    touch "$dir/tree/$1"
    printf '%s\n' "$2" | cat - "$dir/tree/$1" >"$dir/changed"
    mv "$dir/changed" "$dir/tree/$1"
}

# refused FILE CODE WHY: it fails, for that alone.
refused() {
    local status=0
    with "$1" "$2"
    "$here/arrows.py" "$dir/tree" 2>"$dir/said" || status=$?
    cat "$dir/said"
    ((status == 1)) && [[ $(wc -l <"$dir/said") == 1 && $(<"$dir/said") == "arrows.py: $3"* ]]
}

accepted() {
    with "$1" "$2"
    "$here/arrows.py" "$dir/tree"
}

ok 'the tree as it is' "$here/arrows.py" "$here/.."
ok 'an arrow that is there already' accepted src/host/table.rs 'use crate::event_loop;'
ok 'from the event loop to the host' \
    refused src/event_loop/turn.rs 'use crate::host::report;' 'laio::event_loop::turn names host'
ok 'from the host to the C functions, by a path in the code' \
    refused src/host/table.rs 'fn f() { crate::ffi::laio_io_plug() }' 'laio::host::table names ffi'
ok 'from the queue to one kernel, which is handed on beside the trait' \
    refused engine/src/queue.rs 'use crate::kernel::LinuxAio;' 'engine::queue names kernel::aio'
ok 'from the state to its C front, among others in braces' \
    refused engine/src/state/drain.rs 'use crate::{errno::{self, Errno}, c_entry::CRequest};' \
    'engine::state::drain names c_entry'
ok 'from a kernel to the state, relatively' \
    refused engine/src/kernel/timer.rs 'use super::super::state::State;' \
    'engine::kernel::timer names state'
ok 'from a kernel to the state, by its name at the front page' \
    refused engine/src/kernel/aio/ring.rs 'use crate::State;' 'engine::kernel::aio::ring names state'
ok 'from guard to the engine of engine mode, which is of another crate' \
    refused preload/src/guard/offer.rs 'use laio_engine::State;' \
    'preload::guard::offer names engine::state'
ok 'a module that has no place' \
    refused engine/src/fresh.rs 'use crate::errno::Errno;' 'engine::fresh is in no part'
ok 'what a comment or a test names' accepted engine/src/fresh.rs \
    $'// crate::state::State\n#[cfg(test)]\nmod tests {\n    use crate::state::State;\n}'

# with_a_list_that SED-SCRIPT WHY: the list is at fault, and not the tree.
with_a_list_that() {
    sed "$1" "$here/arrows.py" >"$dir/arrows.py"
    not python3 "$dir/arrows.py" "$here/.." 2>"$dir/said"
    cat "$dir/said"
    grep -q "$2" "$dir/said"
}
ok 'a circle among what is allowed' with_a_list_that "s/'errno': ''/'errno': 'state'/" \
    'a circle is allowed: .*engine::errno -> '
ok 'what is allowed for nothing' with_a_list_that "s/'errno': ''/'errno': 'wait'/" \
    'engine::errno may name wait, and does not'
finish
