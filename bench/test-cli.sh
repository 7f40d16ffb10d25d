#!/usr/bin/env bash
# Tests of laio-bench from the outside, as TAP. Usage: test-cli.sh LAIO_BENCH
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

# shellcheck source=tools/lib/tap.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tools/lib/tap.sh"
bench=$(realpath "$1")
cd "$dir"

run() {
    status=0
    "$bench" "$@" >out 2>err </dev/null || status=$?
}

# What is behind holds for the last run, which is shown if not.
of_last_run() {
    cat out err
    "$@"
}

# It succeeded, and its output matches a pattern.
prints() { ok "$1" of_last_run printed "$2"; }
printed() { ((status == 0)) && grep -E -- "$1" out; }

# It failed with a status and exactly one line on standard error that matches.
fails() { ok "$1" of_last_run failed "$2" "$3"; }
failed() {
    ((status == $1)) && [[ $(wc -l <err) -eq 1 ]] && grep -E -- "^laio-bench: .*$2" err
}

rejects() {
    local wanted=$1
    shift
    run "$@"
    fails "rejects: laio-bench ${*:-(nothing)}" 2 "$wanted"
    [[ ! -s out ]] || ok 'and prints nothing else' false
}

json() {
    python3 -c 'import json, sys; d = json.load(open("out")); sys.exit(not ('"$1"'))'
}

# It succeeded, or failed with a status, and its JSON satisfies a condition.
json_holds() { ok "$1" of_last_run json_held "${3-0}" "$2"; }
json_held() { ((status == $1)) && json "$2"; }

same_contents() { # FILE CHECKSUM
    [[ $(sha256sum <"$1") == "$2" ]]
}

truncate -s 1M hole
dd if=/dev/urandom of=data bs=64k count=16 status=none

# Bad usage names the option and the value.
rejects 'IMAGE is missing'
rejects 'more than one IMAGE' hole data
rejects '--frob: unknown option' --frob hole
rejects '-x: unknown option' -x hole
rejects '-d: needs a value' hole -d
rejects '--offset: needs a value' hole --offset
rejects '-d 0: must be 1 to' -d 0 hole
rejects '-d 65537: must be 1 to' -d 65537 hole
rejects '-d -1: not a number' -d -1 hole
rejects '-d 4x: not a number' -d 4x hole
rejects '-d : not a number' -d '' hole
rejects '-s 0: must be' -s 0 hole
rejects '-s 2g: must be' -s 2g hole
rejects '-s 4kk: not a number' -s 4kk hole
rejects '-s k: not a number' -s k hole
rejects '-s 18446744073709551616: not' -s 18446744073709551616 hole
rejects '-s 18014398509481985k: must' -s 18014398509481985k hole
rejects '-c 0: must be' -c 0 hole
rejects '-c 1e6: not a number' -c 1e6 hole
rejects '--max-depth 65: must be 1 to 64' --max-depth 65 hole
rejects '--max-depth 0: must be 1 to 64' --max-depth 0 hole
rejects '--offset 9223372036854775808: must' --offset 9223372036854775808 hole
rejects '--offset 1048577: beyond the end of hole, 1048576 bytes' --offset 1048577 -s 1 hole
rejects '-s 4096: hole has only 4095 bytes after --offset' --offset 1044481 hole
rejects '-s 2097152: hole has only 1048576 bytes' -s 2m hole
rejects '--verify-only: needs the --seed' --verify-only hole
rejects 'exclude each other' --verify --verify-only --seed 1 hole
rejects 'exclude each other' -w --verify-only --seed 1 hole
rejects '/dev/null: neither a regular file nor a block device' /dev/null
rejects '\.: neither a regular file nor a block device' .
: >empty
rejects 'empty has only 0 bytes' empty

run missing
fails 'an image that does not exist is an I/O error' 1 'missing: No such file'

run --help
prints '--help' '^Usage: laio-bench'
run --version
prints '--version' '^laio-bench [0-9]+\.[0-9]+\.[0-9]+$'

# Human output.
run -c 1000 -d 1 hole
prints 'reads a hole' '^read +1000 requests in [0-9.]+ s: [0-9]+ requests/s, [0-9.]+ MiB/s$'
prints 'the latency line' 'latency +p50 [0-9.]+ .s, p90 .*, p99 .*, p99.9 .*, max [0-9.]+ .s$'
prints 'the bound shows' 'nesting +deepest 8, bound 8; [1-9][0-9]* times at the bound'
ok 'quiet in a pipe' of_last_run test ! -s err

# The statistics.
run -c 20000 -d 1 --json hole
json_holds 'JSON, the whole count' 'd["passes"][0]["requests"] == 20000 and d["error"] is None'
json_holds 'the statistics balance' '(lambda s: s["submitted"] == s["completed"] == 20000 and
    s["failed"] == s["retried"] == s["in_queue"] == s["in_flight"] == 0)(d["statistics"])'
json_holds 'the depth is the default bound' 'd["statistics"]["deepest_nesting"] == 8'
json_holds 'percentiles rise' '(lambda l: 0 < l["p50"] <= l["p90"] <= l["p99"] <= l["p99.9"]
    <= l["max"])(d["passes"][0]["latency_ns"])'
for bound in 1 2 64; do
    run -c 20000 -d 1 --max-depth $bound --json hole
    json_holds "--max-depth $bound" "d['statistics']['deepest_nesting'] == $bound"
done
# shellcheck disable=SC1003 # a backslash at the end, and no quote
mkdir 'a "b\'
cp --sparse=always hole 'a "b\/h	t'
for kernel in linux-aio io_uring; do
    run -c 5000 --kernel $kernel --json hole
    json_holds "--kernel $kernel" "d['kernel'] == '$kernel' and
        d['statistics']['completed'] == 5000 and 'p99' in d['passes'][0]['loop_held_ns']"
    LAIO_KERNEL=$kernel run -c 10 --json hole
    json_holds "LAIO_KERNEL=$kernel" "d['kernel'] == '$kernel'"
done

run -c 1 --json 'a "b\/h	t'
json_holds 'JSON of an odd file name' 'd["image"] == "a \"b\\/h\tt"'

# Every depth, more than the ring of 1024 holds included.
for depth in 1 2 31 1023 1024 1025 4096; do
    run -c 5000 -d $depth -s 512 -r --json data
    json_holds "depth $depth" 'd["passes"][0]["requests"] == 5000'
done
run -c 3 -d 4096 --json data
json_holds 'fewer requests than the depth' 'd["statistics"]["submitted"] == 3'

# It reads where it should: a byte of the pattern changed in the image is found.
run --verify --seed 5 -c 256 -d 16 --json data
json_holds 'verify a whole image' '[p["operation"] for p in d["passes"]] == ["write", "read"] and
    d["passes"][1]["verified"] and d["passes"][1]["requests"] == 256'
run --verify-only --seed 5 -c 256 data
prints 'verify it again later' '256 requests in .*; every byte compared'
run --verify-only --seed 6 -c 1 data
fails 'another seed is another pattern' 1 'wrong data in the 4096 bytes at offset 0: first at'
printf '\0\0' >zeros
expected=$(od -An -tx1 -j 700001 -N 1 data | tr -d ' ')
if [[ $expected == 00 ]]; then printf '\1' >zeros; fi
dd if=zeros of=data bs=1 count=1 seek=700001 conv=notrunc status=none
run --verify-only --seed 5 -c 256 -d 1 data
fails 'one wrong byte of the image is named' 1 \
    "in the 4096 bytes at offset 696320: first at offset 700001, 0x0[01] instead of 0x$expected"
run --verify-only --seed 5 -c 170 data
prints 'requests before the wrong byte pass' 'every byte compared'
run --verify-only --seed 5 --json -c 256 data
json_holds 'the wrong byte in JSON' 'd["error"]["byte"] == 700001' 1

# Wrapping, sizes, offsets.
run --verify -c 1000 -s 10007 -d 7 --offset 4097 data
prints 'odd size and offset, wrapping several times' 'every byte compared'
run --verify -r -c 1000 -s 3 -d 64 data
prints 'random, tiny requests' 'every byte compared'
run --verify -s 1m -c 3 -d 2 data
prints 'one request is the whole image' 'every byte compared'
ok 'the image is no longer' test "$(stat -c %s data)" -eq 1048576
dd if=/dev/zero of=kept bs=4096 count=4 status=none
run -w -c 10 --offset 8k kept
written_behind_offset() {
    ((status == 0)) && cmp -n 8192 kept /dev/zero && ! cmp -s -i 8192 -n 8192 kept /dev/zero
}
ok 'writes behind --offset, and nothing before it' of_last_run written_behind_offset
before=$(sha256sum <data)
run -r -c 1000 data
ok 'reading changes nothing' same_contents data "$before"

# Errors of the storage.
chmod 444 kept
if [[ $(id -u) -ne 0 ]]; then
    run -w kept
    fails 'no permission to write' 1 'kept: open: Permission denied'
fi
(
    # Half of the image is beyond the file size limit, where writes get EFBIG.
    ulimit -f 512
    trap '' XFSZ
    status=0
    "$bench" -w -d 1 -c 256 hole >out 2>err || status=$?
    echo $status >status
)
status=$(cat status)
fails 'a write error names offset and errno' 1 \
    'hole: write of 4096 bytes at offset 524288: (File too large|No space left on device)$'

# O_DIRECT, where the file system has it.
if dd if=hole of=/dev/null iflag=direct bs=4k count=1 status=none 2>/dev/null; then
    run --direct --verify -c 1000 -d 32 data
    prints '--direct' '1 MiB, O_DIRECT; '
    run --direct -s 1000 data
    fails '--direct, misaligned' 1 \
        'read of 1000 bytes at offset 0: Invalid argument \(--direct wants'
else
    echo "# no O_DIRECT in $dir: its two tests left out"
fi

# A block device is not written to by accident.
if loop=$(losetup -f --show data 2>/dev/null); then
    trap 'losetup -d "$loop"; rm -rf "$dir"' EXIT
    before=$(sha256sum <data)
    for option in -w --verify; do
        rejects "$loop: a block device, whose contents $option would destroy; --yes" $option "$loop"
    done
    ok 'and it is as before' same_contents data "$before"
    run --verify --yes -c 256 "$loop"
    prints 'a block device, with --yes' '^.*: 1 MiB, .*'
    run --verify-only --seed 1 -c 1 "$loop"
    fails 'reading one wants no --yes' 1 'wrong data'
else
    echo "# no loop devices here: the tests of block devices left out"
fi

# Progress, but only on a terminal.
progress='import os, pty, subprocess, sys
outer, inner = pty.openpty()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=inner)
os.close(inner)
seen = b""
while b"requests/s" not in seen:
    try:
        seen += os.read(outer, 4096)
    except OSError:
        break
child.kill()
child.wait()
sys.stdout.buffer.write(seen)'
status=0
python3 -c "$progress" "$bench" -c 100000000000 hole >out 2>err || status=$?
prints 'progress on a terminal' 'reading +[0-9.]+ %, [0-9]+ requests/s'

# A signal ends it with the summary. Python starts it, and lets no signal stay ignored: who started
# this script may have ignored some (nohup does), and laio-bench leaves it at that. Its parent also knows
# for certain when it has ended.
signalled='import re, signal, subprocess, sys, time
def listen():
    for number in signal.SIGHUP, signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
child = subprocess.Popen(sys.argv[2:], preexec_fn=listen)
def is_ready():
    """Whether it catches SIGHUP, the last of those that it catches."""
    with open(f"/proc/{child.pid}/status") as file:
        caught = int(re.search(r"^SigCgt:\s*(\w+)", file.read(), re.M)[1], 16)
    return caught >> signal.SIGHUP - 1 & 1
while child.poll() is None and not is_ready():
    time.sleep(0.02)
child.send_signal(signal.Signals["SIG" + sys.argv[1]])
status = child.wait()
sys.exit(128 - status if status < 0 else status)'
for signal in INT TERM; do
    status=0
    python3 -c "$signalled" $signal "$bench" -c 100000000000 --json hole >out 2>err || status=$?
    json_holds "SIG$signal ends it with the summary" 'd["signal"] > 0 and d["error"] is None and
        d["passes"][0]["requests"] == d["statistics"]["completed"] < 100000000000' \
        $((128 + $(kill -l $signal)))
done

# The output that goes nowhere is an error.
status=0
"$bench" -c 10 hole >/dev/full 2>err || status=$?
: >out
fails 'a full disk behind standard output' 1 'standard output: No space left'

# The library's own line, once and only if it is asked for.
bound_is_said() {
    LAIO_LOG_BOUND=$1 "$bench" -d 1 -c "$2" hole >out 2>err
    cat out err
    [[ $(<err) == "$3" ]]
}
ok 'LAIO_LOG_BOUND=1 says once that the bound was hit' bound_is_said 1 1000 \
    'laio: LAIO_LOG_BOUND: a submission was left to the event loop at the depth bound, the first'
ok 'and nothing where it was not' bound_is_said 1 3 ''
ok 'nor without being asked' bound_is_said '' 1000 ''
ok 'another value is said' bound_is_said 2 1000 'laio: LAIO_LOG_BOUND: "2" is not 0 or 1; using 0'

finish
