#!/usr/bin/env bash
# The shared library exports the functions of the header, and nothing else, under its SONAME.
#
#   exports-test.sh CC NM READELF HEADER LIBRARY SONAME
#
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

if [ $# -ne 6 ]; then
    echo "usage: exports-test.sh CC NM READELF HEADER LIBRARY SONAME" >&2
    exit 2
fi
cc=$1 nm=$2 readelf=$3 header=$4 library=$5 soname=$6
failed=0

report() { # NUMBER NAME DIFFERENCE
    if [ -z "$3" ]; then
        echo "ok $1 - $2"
    else
        sed 's/^/#   /' <<<"$3"
        echo "not ok $1 - $2"
        failed=1
    fi
}

declared=$("$cc" -E -P "$header" | grep -oE '\<laio_[a-z0-9_]+[[:space:]]*\(' | tr -d ' (' | sort)
exported=$("$nm" -D --defined-only "$library" | awk '{ print $NF }' | sort)
if [ "$(wc -l <<<"$declared")" -lt 20 ]; then
    declared="cannot find the functions in $header"
fi
report 1 'exports what the header declares' \
    "$(diff <(echo "$declared") <(echo "$exported") || true)"
report 2 "the SONAME is $soname" \
    "$(diff <(echo "$soname") \
        <("$readelf" -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p') || true)"
# A hypervisor loads it: nothing but the C library and what the compiler needs to unwind.
needed=$("$readelf" -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
report 3 'needs nothing but the C library' \
    "$(grep -vE '^(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux.*)\.so\.[0-9]+$' \
        <<<"$needed" || true)"
echo '1..3'
exit "$failed"
