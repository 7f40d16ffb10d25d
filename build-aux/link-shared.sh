#!/usr/bin/env bash
# Makes the shared library out of the archive. SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/lib/cli.sh
source "$root/tools/lib/cli.sh"

usage() {
    cat <<'END'
usage: build-aux/link-shared.sh ARCHIVE LIBRARY

Links all of ARCHIVE (liblaio.a) as the shared library LIBRARY, which exports what src/laio.map says
under the symbol versions that stand there. Does nothing where LIBRARY is newer than both. The linker
is that of ${CC:-cc}, with the ${LDFLAGS:-} of the environment.
END
}

parse '' "$@"
takes 2 'an archive and a library'
archive=${arguments[0]} library=${arguments[1]}
map=$root/src/laio.map

if [[ $library -nt $archive && $library -nt $map && $library -nt ${BASH_SOURCE[0]} ]]; then
    exit 0
fi

soname=$("$root/build-aux/library.sh" soname)
read -ra static_libs <<<"$("$root/build-aux/library.sh" static-libs)"
read -ra cc <<<"${CC:-cc}"
read -ra ldflags <<<"${LDFLAGS:-}"

# rustc knows no version script for a library that it links itself, so this is what it does and the
# script: only what is needed stays, without debug information, all bound when it is loaded. A thread of
# the library's may still end when it is closed: never unloaded.
"${cc[@]}" -shared -o "$library.$$" \
    -Wl,--whole-archive "$archive" -Wl,--no-whole-archive \
    -Wl,--version-script="$map" -Wl,--no-undefined-version -Wl,-soname,"$soname" \
    -Wl,--gc-sections -Wl,--as-needed -Wl,--strip-debug -Wl,--no-undefined \
    -Wl,-z,relro,-z,now,-z,nodelete,-z,noexecstack "${ldflags[@]}" \
    "${static_libs[@]}"
mv "$library.$$" "$library"
