#!/usr/bin/env bash
# Tests of count-tests, as TAP: the count that CI believes must itself be believable.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/tap.sh
source "$here/lib/tap.sh"
tool=$here/count-tests
cd "$dir"

counted() { # STATUS LAST-LINE ARGUMENT...
    local wanted_status=$1 wanted=$2 status=0
    shift 2
    python3 "$tool" "$@" >out || status=$?
    echo "status $status: $(tail -n 1 out), wanted $wanted_status: $wanted"
    [[ $status -eq $wanted_status && $(tail -n 1 out) == "$wanted" ]]
}

# counts NAME STATUS LAST-LINE ARGUMENT...
counts() { ok "$1" counted "${@:2}"; }

running() { printf '     Running %s (target/debug/deps/%s)\n' "$1" "$2"; }
result() {
    printf 'test result: %s. %d passed; %d failed; %d ignored; 0 measured; 0 filtered out\n' "$@"
}
died() {
    printf "  process didn't exit successfully: \`/x/target/debug/deps/%s --q\` (signal: 6)\n" "$1"
}

{ running unittests a-1 && result ok 12 0 1 && running tests/b.rs b-2 && result ok 3 0 0; } >good
counts 'programs of cargo add up' 0 '15 passed, 0 failed' --cargo good
{ cat good && echo '   Doc-tests laio' && result ok 2 0 0; } >doc
counts 'doc tests count' 0 '17 passed, 0 failed' --cargo doc
{ running tests/c.rs c-3 && result FAILED 4 2 0 && died c-3; } >bad
counts 'failed tests count, once' 1 '4 passed, 2 failed' --cargo bad
{ running tests/d.rs d-4 && died d-4 && cat good; } >crash
counts 'a program that died without a result has failed' 1 '15 passed, 1 failed' --cargo crash
{ running tests/e.rs e-5 && result ok 4 0 0 && died e-5; } >late
counts 'one that died after a good result has failed' 1 '4 passed, 1 failed' --cargo late
{ running tests/f.rs f-6 && echo fine && cat good; } >harness
counts 'a program with its own main counts as one' 0 '16 passed, 0 failed' --cargo harness
: >empty
counts 'no test at all is a failure' 1 '0 passed, 0 failed' --cargo empty
counts 'a log that is missing is a failure' 1 '15 passed, 1 failed' --cargo good --meson missing

meson() { # RESULT OUTPUT
    python3 -c 'import json, sys; print(json.dumps(dict(name="t", result=sys.argv[1],
        stdout=sys.argv[2].encode().decode("unicode_escape"))))' "$1" "$2"
}

printf '1..2\nok 1 - a\nok 2 - b # SKIP no root\n1..1\nok 1 - a\n' >plain
counts 'TAP of several programs adds up' 0 '2 passed, 0 failed' --tap plain
printf '1..3\nok 1 - a\n' >plainshort
counts 'what TAP planned and did not run has failed' 1 '1 passed, 2 failed' --tap plainshort
meson OK '1..3\nok 1 a\nok 2 - b\nok 3\n' >tap
counts 'subtests count' 0 '3 passed, 0 failed' --meson tap
counts 'cargo and meson add up' 0 '18 passed, 0 failed' --cargo good --meson tap
meson FAIL 'ok 1 a\nnot ok 2 b\nok 3 c\n1..3\n' >tapbad
counts 'a failed subtest counts' 1 '2 passed, 1 failed' --meson tapbad
meson ERROR '1..3\nok 1 a\n' >tapshort
counts 'a program that stopped early has failed' 1 '1 passed, 1 failed' --meson tapshort
meson OK '1..3\nok 1 a\nok 2 # SKIP no valgrind\nnot ok 3 # TODO later\n' >tapskip
counts 'what is skipped or to be done is neither' 0 '1 passed, 0 failed' --meson tapskip
meson TIMEOUT 'ok 1 a\n' >taptime
counts 'a timeout has failed' 1 '1 passed, 1 failed' --meson taptime
{ meson OK hello && meson FAIL oops && meson EXPECTEDFAIL x && meson UNEXPECTEDPASS y; } >mixed
counts 'a program without TAP counts as one' 1 '2 passed, 2 failed' --meson mixed
{ meson SKIP '1..0 # SKIP no QEMU\n' && cat tap; } >skip
counts 'a skipped program is neither' 0 '3 passed, 0 failed' --meson skip
meson SKIP '1..0 # SKIP no QEMU\n' >onlyskip
counts 'nothing but skipped is a failure' 1 '0 passed, 0 failed' --meson onlyskip
echo '{"name": ' >broken
counts 'a log that is cut off is a failure' 1 '0 passed, 1 failed' --meson broken

finish
