#!/usr/bin/env bash
# Programs of all kinds under the library. HELPERS is the directory of those built beside this file.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail
# shellcheck source=preload/tests/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/tap.sh"

helpers=${HELPERS:?the directory of the C programs}
[[ -x $helpers/recursion ]] || skip_all "no libaio here to build the programs with (Debian: libaio-dev)"

dies() {
    local status=0
    timeout "$limit" "$helpers/recursion" "$dir" 8 || status=$?
    ((status == 139))
}
ok "a program that recurses dies without the library" dies 2>/dev/null

recursion() {
    export LAIO_MAX_SUBMIT_DEPTH=$1
    under guard "$helpers/recursion" "$dir" "$1"
    says guard "deepest nesting $1, [1-9]"
}
for bound in 1 2 8 17 64; do
    ok "a program that recurses, with a bound of $bound" recursion "$bound"
done

# The same program with room to spare has nothing to say.
first_bound() {
    local said
    said=$(LAIO_LOG_BOUND=1 LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/recursion" "$dir" 8 2>&1 >/dev/null)
    echo "$said"
    [[ $said == 'laio_preload: LAIO_LOG_BOUND: guard has kept a submission from nesting at the depth bound, the first' ]]
    said=$(LAIO_LOG_BOUND=1 LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/steady" "$dir" 2>&1 >/dev/null)
    [[ -z $said ]]
    said=$(LAIO_LOG_BOUND=yes LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/recursion" "$dir" 8 2>&1 >/dev/null)
    [[ $said == 'laio_preload: LAIO_LOG_BOUND="yes" is not 0 or 1; using 0' ]]
}
ok "asked for, a line says that the bound was met" first_bound

steady() {
    export LAIO_MAX_SUBMIT_DEPTH=$1
    under guard "$helpers/steady" "$dir"
    says guard "deepest nesting 1, 0 times at the bound"
    # And as it runs without anybody looking.
    LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/steady" "$dir" 2>&1 | tee "$dir/said"
    [[ ! -s $dir/said ]]
}
ok "a program that does not recurse sees no difference" steady 8
ok "nor with a bound of 1" steady 1

database() {
    under guard fio --name=mix --directory="$dir" --ioengine=libaio --direct=1 --rw=randrw --bs=4k \
        --size=8m --numjobs=4 --thread --iodepth=32 --iodepth_batch=8 --verify=crc32c \
        --verify_state_save=0 --minimal \
        --output="$dir/fio"
    says guard "deepest nesting 1, 0 times at the bound"
    grep -q '[1-9][0-9]* requests' "$dir/stats"
}
if have fio; then
    ok "nor does fio with four threads" database
else
    skip "nor does fio with four threads" "no fio here"
fi

head -c 32768 /dev/zero >"$dir/zeros"
export LAIO_MAX_SUBMIT_DEPTH=8

# Guard mode reads less of the stack without statistics.
stacks() {
    LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/stacks" "$dir/zeros" "$1"
    under guard "$helpers/stacks" "$dir/zeros" "$1" >"$dir/said"
    says guard "deepest nesting 8, [$2-9]"
}
stacks_are() {
    local status=0
    "$helpers/stacks" "$dir/zeros" "$1" >/dev/null || status=$?
    if ((status == 77)); then
        skip "$3" "not on this architecture"
    else
        ok "$3" stacks "$1" "$2"
    fi
}
stacks_are small 1 "small stacks side by side, and frames of varying size"
stacks_are unmapped 1 "stacks near those that were unmapped"
stacks_are bare 1 "stacks whose first function has no return address"
stacks_are bare-side-by-side 1 "and the same close below another stack"
stacks_are signal 1 "signals on their own stacks, in the middle of a nesting"
stacks_are threads 1 "threads with the smallest stacks"
stacks_are arguments 0 "arguments that are no pointers are answered EFAULT"
stacks_are cancelled 1 "a cancelled thread is not cancelled in io_submit"

# Of a stack, in the worst case. Nobody knows how much a program has left.
room() {
    local with without
    with=$(LAIO_STATS='' LD_BIND_NOW=1 "$run" -- "$helpers/stacks" "$dir/zeros" room | sed -n 1p)
    without=$(LAIO_STATS='' LD_BIND_NOW=1 "$run" --off -- "$helpers/stacks" "$dir/zeros" room | sed -n 1p)
    echo "$with with, $without without"
    ((with - without <= 4096))
}
ok "guard mode takes at most 4 KiB of a stack" room

# retries TEST REFUSED: REFUSED is a pattern.
retries() {
    LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/retries" "$dir/zeros" "$1" >"$dir/said"
    cat "$dir/said"
    grep -Eq " done, ($2) refused" "$dir/said"
}
ok "who tries again on the spot is refused now and then at most" retries again '[1-9]|1[0-7]'
ok "so is who sleeps before" retries sleeps '[1-9]|1[0-7]'
ok "and who does so a level above" retries level-above '[1-9]|1[0-7]'
ok "who waits for what is in flight is, too" retries waits '[1-9]|1[0-7]'
ok "who begins anew is refused once" retries from-the-top 1
ok "also from an event loop" retries from-an-event-loop 1
ok "also with a context of its own each time" retries other-contexts 1
ok "with requests that are all the same, not for ever" retries from-the-top-with-the-same '1?[0-9]'
ok "nor with a thread of its own each time" retries other-threads '[0-9]+'
ok "who submits something else first is refused once" retries something-else 1
ok "and who goes on without it" retries dropped 1
ok "somebody else may read the eventfd" retries another-reads '[0-9]+'
retries_with_libaio() {
    local name
    for name in again sleeps level-above waits from-the-top from-an-event-loop other-contexts \
        from-the-top-with-the-same other-threads something-else dropped another-reads lost; do
        echo "$name:"
        LAIO_STATS='' timeout "$limit" "$run" -- "$helpers/retries-libaio" "$dir/zeros" "$name" \
            >"$dir/said"
        cat "$dir/said"
        grep -q ' done, 0 refused' "$dir/said"
    done
}
ok "who asks libaio for completions is never refused" retries_with_libaio
unset LAIO_MAX_SUBMIT_DEPTH

forks() {
    head -c 512 /dev/zero >"$dir/zeros"
    LAIO_STATS=1 timeout "$limit" "$run" -- "$helpers/forks" "$1" "$dir/zeros" 2>"$dir/stats"
    cat "$dir/stats"
    [[ $(wc -l <"$dir/stats") == 2 ]]
    # The child ends first.
    sed -n 1p "$dir/stats" | grep -q ': guard: 2 requests in 2 submissions, deepest nesting 1, 0 times'
    sed -n 2p "$dir/stats" | grep -q ': guard: 1 requests in 1 submissions, deepest nesting 1, 0 times'
}
ok "parent and child of a fork count for themselves" forks fork
ok "and so does what the child executes" forks exec

late() {
    local scope
    for scope in global local; do
        under guard "$helpers/late" "$scope"
        says guard
    done
}
ok "libaio loaded by the program itself" late

plain() {
    local mode
    for mode in guard engine; do
        under "$mode" "$helpers/plain" >"$dir/out"
        [[ $(<"$dir/out") == "plain 0" ]]
        # There is nothing to take over, and that is no mishap.
        says guard "0 requests in 0 submissions"
    done
    ! ldd "$preload" | grep libaio
}
ok "a program without libaio" plain

static() {
    timeout "$limit" "$run" --engine --stats -- "$helpers/plain-static" >"$dir/out" 2>&1
    [[ $(<"$dir/out") == "plain 0" ]]
}
if [[ -x $helpers/plain-static ]]; then
    ok "a statically linked program does not notice" static
else
    skip "a statically linked program does not notice" "no static libc here"
fi

# The user who runs it must not be the program's owner.
setuid() {
    local there
    there=$(mktemp -d /tmp/laio-preload.XXXXXX)
    chmod 755 "$there"
    cp "$helpers/plain" "$run" "$preload" "$there/"
    chmod 4755 "$there/plain"
    setpriv --reuid=65534 --regid=65534 --clear-groups \
        "$there/laio-run" --stats -- "$there/plain" >"$dir/out" 2>&1 || true
    rm -rf "$there"
    cat "$dir/out"
    [[ $(<"$dir/out") == "plain 1" ]]
}
if ((EUID == 0)) && have setpriv && ! findmnt -nT /tmp -o OPTIONS | grep -q nosuid; then
    ok "a set-user-ID program ignores it" setuid
else
    skip "a set-user-ID program ignores it" "needs root, setpriv, and a /tmp that is not nosuid"
fi

twice() {
    cp "$preload" "$dir/second.so"
    LAIO_STATS=1 LD_PRELOAD="$preload $dir/second.so" timeout "$limit" \
        "$helpers/recursion" "$dir" 8 2>"$dir/stats"
    says guard "deepest nesting 8, [1-9]"
    LD_PRELOAD=$dir/second.so timeout "$limit" "$run" --stats -- "$helpers/steady" "$dir" 2>"$dir/stats"
    says guard "deepest nesting 1, 0 times"
    if have qemu-img && [[ -z $(declines qemu-img) ]]; then
        truncate -s 64M "$dir/image.raw"
        LD_PRELOAD=$dir/second.so timeout "$limit" "$run" --engine --stats -- \
            qemu-img bench -f raw -t none -i native -s 4096 -c 1000 "$dir/image.raw" 2>"$dir/stats"
        says engine "1000 requests"
    fi
}
ok "two of it at once act as one" twice

settings() {
    local out
    out=$(LAIO_PRELOAD=frobnicate LD_PRELOAD=$preload "$helpers/plain" 2>&1)
    echo "$out"
    [[ $out == *'laio_preload: LAIO_PRELOAD="frobnicate" is not guard, engine or off; using guard'* ]]
    [[ $(wc -l <<<"$out") == 2 ]]
    for depth in 0 65 -1 eight 99999999999; do
        out=$(LAIO_MAX_SUBMIT_DEPTH=$depth LD_PRELOAD=$preload "$helpers/plain" 2>&1)
        echo "$out"
        [[ $out == *"LAIO_MAX_SUBMIT_DEPTH=\"$depth\" is not a number from 1 to 64; using 8"* ]]
    done
    out=$(LAIO_STATS=yes LD_PRELOAD=$preload "$helpers/plain" 2>&1)
    [[ $out == *'LAIO_STATS="yes" is not 0 or 1; using 0'* ]]
    out=$(LAIO_PRELOAD=off LAIO_STATS=1 LD_PRELOAD=$preload "$helpers/plain" 2>&1)
    [[ $out == *']: off'* ]]
    out=$(LAIO_PRELOAD='' LAIO_MAX_SUBMIT_DEPTH='' LAIO_STATS=0 LD_PRELOAD=$preload "$helpers/plain" 2>&1)
    [[ $out == "plain 0" ]]
}
ok "settings that make no sense are named, and the default is used" settings

off() {
    local status=0
    LAIO_PRELOAD=off LD_PRELOAD=$preload timeout "$limit" "$helpers/recursion" "$dir" 8 || status=$?
    ((status == 139))
}
ok "off is off" off 2>/dev/null

laio_run() {
    local status=0
    "$run" --help | grep -q '^usage: laio-run'
    "$run" --depth 0 -- true 2>"$dir/said" || status=$?
    ((status == 125)) && grep -q 'from 1 to 64' "$dir/said"
    status=0
    "$run" --fast true 2>"$dir/said" || status=$?
    ((status == 125)) && grep -q 'there is no option --fast' "$dir/said"
    status=0
    "$run" -- "$dir/nothing" 2>"$dir/said" || status=$?
    ((status == 127)) && grep -q 'nothing: ' "$dir/said"
    status=0
    "$run" sh -c 'exit 3' || status=$?
    ((status == 3))
    # From an installed prefix, and with another library preloaded.
    mkdir -p "$dir/prefix/bin" "$dir/prefix/lib"
    cp "$run" "$dir/prefix/bin/"
    status=0
    "$dir/prefix/bin/laio-run" -- true 2>"$dir/said" || status=$?
    ((status == 125)) && grep -q 'no liblaio_preload.so in' "$dir/said"
    cp "$preload" "$dir/prefix/lib/"
    # shellcheck disable=SC2016 # for the inner shell
    LD_PRELOAD=libc.so.6 "$dir/prefix/bin/laio-run" --engine --depth 3 -- \
        sh -c 'echo "$LAIO_PRELOAD $LAIO_MAX_SUBMIT_DEPTH $LD_PRELOAD"' >"$dir/out"
    [[ $(<"$dir/out") == "engine 3 $(realpath "$dir")/prefix/lib/liblaio_preload.so:libc.so.6" ]]
}
ok "laio-run finds the library, and says what is wrong" laio_run

mdwe() {
    local status=0
    LAIO_STATS=1 "$helpers/mdwe" "$run" --engine -- qemu-img bench -f raw -t none -i native -s 4096 \
        -c 1000 "$dir/image.raw" 2>"$dir/stats" || status=$?
    cat "$dir/stats"
    ((status == 0))
    [[ $(wc -l <"$dir/stats") == 2 ]]
    grep -q "laio_preload: no engine mode: cannot change the program's code: .*; using guard" "$dir/stats"
    grep -q ': guard: 100[01] requests' "$dir/stats"
}
mdwe_status=0
"$helpers/mdwe" true || mdwe_status=$?
if ((mdwe_status != 0)); then
    skip "engine mode refuses where code must not change" "this kernel has no PR_SET_MDWE"
elif ! have qemu-img; then
    skip "engine mode refuses where code must not change" "no qemu-img here (Debian: qemu-utils)"
elif [[ -n $(declines qemu-img) ]]; then
    skip "engine mode refuses where code must not change" "$(declines qemu-img)"
else
    truncate -s 64M "$dir/image.raw"
    ok "engine mode refuses where code must not change" mdwe
fi

hypervisor() {
    timeout "$limit" "$helpers/hypervisor" "$dir" >"$dir/out"
    [[ $(<"$dir/out") == "served by itself" ]]
    # The engine is in the preload library as well, and must not get in by its names.
    for mode in guard engine; do
        timeout "$limit" "$run" "--$mode" -- "$helpers/hypervisor" "$dir" >"$dir/out"
        [[ $(<"$dir/out") == "served by itself" ]]
    done
    LD_PRELOAD=$LAIO_SO timeout "$limit" "$helpers/hypervisor" "$dir" >"$dir/out"
    [[ $(<"$dir/out") == "served by another" ]]
    LD_PRELOAD=$LAIO_SO timeout "$limit" "$run" -- "$helpers/hypervisor" "$dir" >"$dir/out"
    [[ $(<"$dir/out") == "served by another" ]]
}
if [[ -e ${LAIO_SO-} ]]; then
    ok "a hypervisor with laio_* in a library of its own is taken over by liblaio.so" hypervisor
else
    skip "a hypervisor with laio_* in a library of its own is taken over by liblaio.so" "no liblaio.so"
fi

exports() {
    nm -D --defined-only "$preload" | awk '{ print $3 }' | sort >"$dir/exports"
    printf '%s\n' __io_uring_get_cqe io_submit io_uring_submit laio_preload_marker | diff - "$dir/exports"
}
if have nm; then
    ok "nothing is exported but what stands in front of libaio and liburing, and the marker" exports
else
    skip "nothing is exported but what stands in front of libaio and liburing, and the marker" "no nm here (Debian: binutils)"
fi

finish
