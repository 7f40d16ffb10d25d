#!/usr/bin/env bash
# Tests of lib/cli.sh, as TAP. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/tap.sh
source "$here/lib/tap.sh"

cat >"$dir/frob" <<FROB
#!/usr/bin/env bash
set -euo pipefail
source "$here/lib/cli.sh"
usage() { echo 'usage: frob [--quiet] [--max-size N] FILE [-- REST]'; }
quiet=false
max_size=0
parse 'quiet max-size=' "\$@"
takes 1 'one file'
((max_size < 10)) || die "\$max_size is too large"
echo "quiet=\$quiet max_size=\$max_size arguments=(\${arguments[*]}) rest=(\${rest[*]})"
FROB

# frob STATUS OUTPUT-LINE [ARGUMENT...]
frob() {
    local wanted_status=$1 wanted=$2 status=0
    shift 2
    bash "$dir/frob" "$@" >"$dir/said" 2>&1 || status=$?
    cat "$dir/said"
    ((status == wanted_status)) && [[ $(head -n 1 "$dir/said") == "$wanted" ]]
}
usage='usage: frob [--quiet] [--max-size N] FILE [-- REST]'

ok 'an argument' frob 0 'quiet=false max_size=0 arguments=(a) rest=()' a
ok 'flags and options, before and behind' frob 0 'quiet=true max_size=3 arguments=(a) rest=()' \
    --quiet a --max-size 3
ok 'what follows -- is left alone' frob 0 'quiet=false max_size=0 arguments=(a) rest=(--quiet b)' \
    a -- --quiet b
for option in -h --help; do
    ok "$option" frob 0 "$usage" "$option" --frob
done
ok 'an unknown option is named' frob 2 'frob: there is no option --loud' --loud a
ok 'so is a short one' frob 2 'frob: there is no option -q' -q a
ok 'a flag takes no value' frob 2 'frob: there is no option --quiet=1' --quiet=1 a
ok 'a missing value' frob 2 'frob: --max-size needs a value' a --max-size
ok 'a missing argument' frob 2 'frob: give one file'
ok 'one argument too many' frob 2 'frob: give one file, and not "a b"' a b
ok 'a failure is not a misuse' frob 1 'frob: 11 is too large' --max-size 11 a

finish
