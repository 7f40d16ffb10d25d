#!/usr/bin/env bash
# Tests of check-docs.py, as TAP, on a tree with one page: it runs what is there, and finds what is broken.
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck disable=SC2016 # what is in single quotes is for another shell, or no shell's
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/tap.sh
source "$here/lib/tap.sh"
tree=$dir/tree

mkdir -p "$tree/tools" "$tree/include" "$tree/docs"
cp "$here/check-docs.py" "$tree/tools/"
: >"$tree/include/laio.h"
: >"$tree/README.md"
echo /build/ >"$tree/.gitignore"
printf 'check:\n\ttrue\n' >"$tree/Makefile"
git -C "$tree" init --quiet
git -C "$tree" add -A
# `make` hands it on.
unset BUILD_DIR
git -C "$tree" -c user.name=nobody -c user.email=nobody@example.org commit --quiet -m tree

# page TEXT: what it says of a page with that.
page() {
    printf '%s\n' "$1" >"$tree/docs/page.md"
    "$tree/tools/check-docs.py" "${@:2}" "$tree/docs/page.md" >"$dir/said" 2>&1
}

code() { printf '```%s\n%s\n```' "$1" "$2"; }

accepts() {
    local status=0
    page "$@" || status=$?
    cat "$dir/said"
    ((status == 0))
}

# finds PATTERN TEXT: fails with one test that fails, and says that.
finds() {
    local status=0
    page "$2" || status=$?
    cat "$dir/said"
    ((status == 1)) && [[ $(grep -c '^not ok' "$dir/said") == 1 ]] && grep -qE -- "$1" "$dir/said" &&
        grep -q '^1\.\.' "$dir/said"
}

goes_on_after() {
    not page "$(code sh $'echo here >file\nfalse\ncat file')"
    cat "$dir/said"
    grep -q '^ok .*cat file$' "$dir/said"
}

leaves_the_tree_alone() {
    page "$(code sh 'echo here >new-file; pwd')"
    [[ ! -e $tree/new-file && -e $tree/build/check-docs/clone/new-file ]]
}

says_what_no_page_has() {
    rm "$tree/docs/page.md"
    not "$tree/tools/check-docs.py" >"$dir/said" 2>&1
    cat "$dir/said"
    grep -q '^# no page has: make check$' "$dir/said"
}

ok 'a command' accepts "$(code sh true)"
ok 'variables and directories stay' accepts "$(code sh $'export A=b   # what it is\nmkdir x && cd x')

$(code sh 'test $A = b && test $(basename $PWD) = x')"
ok 'a line that goes on' accepts "$(code sh $'test a = \\\n    a')"
ok 'a command, and what it prints' accepts "$(code console $'$ echo hello\nhello')"
ok 'what is only shown' accepts "$(code text 'false: no command')"
ok 'a program, for a command' accepts "$(code 'c a.c' 'int main(void) { return 0; }')

$(code sh 'cc a.c && ./a.out')"
ok 'an empty home' accepts "$(code sh 'test -z "$(ls -A ~)"')"
ok 'what takes long is left out for --quick' accepts "$(code sh 'qemu/build.sh $HOME/qemu')" --quick

ok 'a command that fails' finds '^# status 3 ' "$(code sh '(exit 3)')"
ok 'the first of a line that fails' finds '^# status 1 ' "$(code sh 'false; true')"
ok 'one in a pipe that fails' finds '^# status 1 ' "$(code sh 'false | cat')"
ok 'a command that is not there' finds 'no-such-program: command not found' "$(code sh 'no-such-program')"
ok 'a crash' finds '^# status 139 ' "$(code sh 'bash -c "kill -SEGV \$\$"')"
ok 'one behind $ as well' finds '^# status 1 ' "$(code console $'$ false\nfalse')"
ok 'the next ones run' goes_on_after
ok 'C that does not compile' finds 'error: ' "$(code c 'int f(void) { return none; }')"
ok 'an indented block' finds 'docs/page.md:1: say what this block is' '    make check'
ok 'a block without a word' finds 'docs/page.md:1: say what this block is' "$(code '' 'make check')"
ok 'a link to nothing' finds 'a link to nothing.md, which is not there' '[x](nothing.md)'
ok 'a link to no heading' finds 'no such heading' $'# One\n[x](#two)'
ok 'a target that is none' finds 'no target chekc' 'Type `make chekc`.'
ok 'a file that is none' finds 'there is no tools/nothing.sh' 'Run `tools/nothing.sh --all`.'
ok 'those that are' accepts '`make check`, `A=b make check`, `tools/check-docs.py`, `make -n`, [a](#a)

# A'
ok 'nothing is left in the tree' leaves_the_tree_alone
ok 'a list that has what no page has' says_what_no_page_has

finish
