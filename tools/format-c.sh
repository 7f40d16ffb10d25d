#!/usr/bin/env bash
# Formats the C files by .clang-format. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/lib/cli.sh
source tools/lib/cli.sh

usage() {
    cat <<'END'
usage: tools/format-c.sh [--check] [FILE...]

Formats the given C files, or all that git knows of. --check only says what it would change, and fails
if that is anything. Needs clang-format (tools/install-deps.sh ci).
END
}

check=false
parse check "$@"
files=("${arguments[@]}")
if ((${#files[@]} == 0)); then
    # The header comes out of cbindgen.
    mapfile -t files < <(git ls-files '*.c' '*.cpp' '*.h' ':!include')
fi
# Versions differ in what they make of the same options: the one of .clang-format, if it is there.
clang_format=clang-format-14
command -v "$clang_format" >/dev/null || clang_format=clang-format
command -v "$clang_format" >/dev/null ||
    die "clang-format is missing; tools/install-deps.sh ci installs it"

if ! $check; then
    "$clang_format" -i "${files[@]}"
    exit 0
fi
status=0
for file in "${files[@]}"; do
    "$clang_format" "$file" | diff -u --label "$file" --label "$file, formatted" "$file" - || status=1
done
((status == 0)) || echo "format-c.sh: tools/format-c.sh would change that" >&2
exit "$status"
