#!/usr/bin/env bash
# Builds the engine for the fio that is installed, and compares it with libaio. TAP.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/lib/cli.sh
source "$here/../../tools/lib/cli.sh"
# shellcheck source=tools/lib/tap.sh
source "$here/../../tools/lib/tap.sh"
usage() {
    cat <<'END'
usage: programs/fio/test-engine.sh [--all] BUILD_DIR

BUILD_DIR has the library. What is fetched and built goes to BUILD_DIR/fio. --all runs the whole
matrix, of some hundred jobs; without it a sample.
END
}
all=false
parse all "$@"
takes 1 'a build directory'
mkdir -p "${arguments[0]}/fio"
build=$(realpath "${arguments[0]}")

for program in fio cc python3 dpkg-query dpkg-source; do
    have "$program" || skip_all "$program is missing"
done
version=$(fio --version)
tree=$build/fio/$version
exec {lock}>"$build/fio/lock"
flock "$lock"
if [[ ! -d $tree ]]; then
    "$here/fetch.sh" "$tree" >"$build/fio/fetch.log" 2>&1 || {
        sed 's/^/# /' "$build/fio/fetch.log"
        skip_all "the source of $version could not be fetched: $(tail -n 1 "$build/fio/fetch.log")"
    }
fi
flags=(-std=gnu11 -O2 -g -fPIC -shared -D_GNU_SOURCE)
cc "${flags[@]}" -include "$tree/config-host.h" -isystem "$tree" -I"$here/../../include" -Wall -Werror \
    -o "$build/fio/fio-laio.so" "$here/engine.c" -L"$build" -llaio -Wl,-rpath,"$build"
cc "${flags[@]}" -Wall -Werror -o "$build/fio/late-threads.so" "$here/late-threads.c" -ldl
flock -u "$lock"
options=()
if $all; then
    options=(--all)
fi
"$here/matrix.py" "${options[@]}" "$build/fio/fio-laio.so" "$build/fio/late-threads.so"
