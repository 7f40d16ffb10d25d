#!/usr/bin/env bash
# Compares laio-bench with fio's libaio engine: the same file, the same requests, in turns.
# SPDX-License-Identifier: MIT OR Apache-2.0
set -euo pipefail

usage() {
    cat <<'END'
Usage: compare-fio.sh [--reps N] [--scale PERCENT] [--dir DIR] [--json FILE] [LAIO_BENCH]

Reads a hole with O_DIRECT, the page cache, and real blocks with O_DIRECT, sequentially and at
random, 4 KiB a request, at depth 1, 32 and 128. In each of N repetitions (default 5) laio-bench
and fio run one after the other, every second time the other way round, so that what else the
machine does strikes both.

fio runs twice: "plain" as it comes, which measures latency, as laio-bench does; and "tuned" with
its clock calls off (gtod_reduce) and its requests batched, which are the settings for its highest
figures. A ratio above 1 says that laio-bench made more requests/s; ratios are taken within each
repetition, and their median, least and greatest are shown.

  --scale PERCENT  of the usual number of requests; default 100
  --dir DIR        where to make the files (1.5 GiB); default is a temporary directory in TMPDIR,
                   or in the current directory
  --json FILE      writes the figures of each row there too
END
}

die() {
    printf 'compare-fio.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

reps=5
scale=100
dir=
json=
bench=
while (($# > 0)); do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --reps | --scale | --dir | --json)
        (($# > 1)) || die "$1: needs a value" 2
        declare "${1#--}=$2"
        shift
        ;;
    -*) die "$1: unknown option (see --help)" 2 ;;
    *) bench=$1 ;;
    esac
    shift
done
[[ $reps =~ ^[1-9][0-9]*$ ]] || die "--reps $reps: not a number of repetitions" 2
[[ $scale =~ ^[1-9][0-9]*$ ]] || die "--scale $scale: not a percentage" 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bench=${bench:-$here/../build/bench/laio-bench}
[[ -x $bench ]] || die "$bench: no such program; 'make bench' builds it"
command -v fio >/dev/null || die "fio: not installed; tools/install-deps.sh bench installs it"

work=$(mktemp -d "${dir:-${TMPDIR:-$PWD}}/laio-compare.XXXXXX")
trap 'rm -rf "$work"' EXIT

readonly hole_bytes=$((1 << 30)) cached_mib=256 blocks_mib=1024

make_files() {
    truncate -s "$hole_bytes" "$work/hole"
    dd if=/dev/urandom of="$work/cached" bs=1M count=$cached_mib status=none
    dd if=/dev/urandom of="$work/blocks" bs=1M count=$blocks_mib oflag=direct status=none ||
        die "$work: O_DIRECT does not work there; give another --dir"
    sync "$work/cached" "$work/blocks"
    cat "$work/cached" >/dev/null
}

# The requests of a run: about half a second or more on a fast machine.
requests() {
    local what=$1 depth=$2 count=500000
    if [[ $what == blocks ]]; then
        count=$((depth == 1 ? 20000 : 120000))
    fi
    echo $((count * scale / 100 > 1000 ? count * scale / 100 : 1000))
}

run_laio() {
    local what=$1 pattern=$2 depth=$3 count=$4
    local options=(-d "$depth" -s 4k -c "$count" --json)
    [[ $what == cached ]] || options+=(--direct)
    [[ $pattern == read ]] || options+=(-r)
    "$bench" "${options[@]}" "$work/$what" 2>/dev/null |
        sed -n 's/.*"requests_per_second": \([0-9.]*\).*/\1/p'
}

run_fio() {
    local what=$1 pattern=$2 depth=$3 count=$4 mode=$5
    local options=(--minimal --terse-version=3 --name=compare --filename="$work/$what"
        --ioengine=libaio --iodepth="$depth" --bs=4k --rw="$pattern" --number_ios="$count"
        --size="$(stat -c %s "$work/$what")" --io_size=1t --norandommap --randrepeat=0
        --invalidate=0 --fadvise_hint=0)
    [[ $what == cached ]] || options+=(--direct=1)
    if [[ $mode == tuned ]]; then
        local batch=$((depth < 32 ? depth : 32))
        options+=(--gtod_reduce=1 --iodepth_batch_submit="$batch"
            --iodepth_batch_complete_min=1 --iodepth_batch_complete_max="$batch")
    fi
    # Field 8 of version 3 is the number of reads per second.
    fio "${options[@]}" | awk -F';' 'NF > 8 { print $8 }'
}

# Lines "laio plain tuned", one a repetition. Every second one runs them the other way round.
measure() {
    local what=$1 pattern=$2 depth=$3 count i laio plain tuned
    count=$(requests "$what" "$depth")
    for ((i = 0; i < reps; i++)); do
        ((i % 2)) && laio=$(run_laio "$@" "$count")
        plain=$(run_fio "$@" "$count" plain)
        tuned=$(run_fio "$@" "$count" tuned)
        ((i % 2)) || laio=$(run_laio "$@" "$count")
        echo "$laio $plain $tuned"
    done
}

# Medians of the three columns, then median, least and greatest of laio/plain and laio/tuned.
summarise() {
    awk '
        function sort(a, n,   i, j, t) {
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && a[j] < a[j - 1]; j--) {
                    t = a[j]; a[j] = a[j - 1]; a[j - 1] = t
                }
        }
        function median(a, n) {
            sort(a, n)
            return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
        }
        NF != 3 || $2 <= 0 || $3 <= 0 { exit bad = 1 }
        {
            n++
            laio[n] = $1; plain[n] = $2; tuned[n] = $3
            to_plain[n] = $1 / $2; to_tuned[n] = $1 / $3
        }
        END {
            if (bad || !n) exit 1
            printf "%.0f %.0f %.0f", median(laio, n), median(plain, n), median(tuned, n)
            printf " %.2f %.2f %.2f", median(to_plain, n), to_plain[1], to_plain[n]
            printf " %.2f %.2f %.2f\n", median(to_tuned, n), to_tuned[1], to_tuned[n]
        }'
}

# shellcheck disable=SC2034  # read by name
row() {
    local what=$1 pattern=$2 depth=$3 summary
    summary=$(measure "$what" "$pattern" "$depth" | summarise) ||
        die "$what $pattern, depth $depth: a run gave no figure"
    read -r laio plain tuned p_mid p_min p_max t_mid t_min t_max <<<"$summary"
    printf '%-7s %-9s %5d %9d %9d %9d  %5.2f (%4.2f..%4.2f)  %5.2f (%4.2f..%4.2f)\n' \
        "$what" "$pattern" "$depth" "$laio" "$plain" "$tuned" \
        "$p_mid" "$p_min" "$p_max" "$t_mid" "$t_min" "$t_max"
    local fields='"file": "%s", "pattern": "%s", "depth": %d, "laio": %d, "fio": %d, '
    fields+='"fio_tuned": %d, "ratio": [%s, %s, %s], "ratio_tuned": [%s, %s, %s]'
    # shellcheck disable=SC2059  # the format is two lines above
    rows+=("$(printf "{ $fields }" \
        "$what" "$pattern" "$depth" "$laio" "$plain" "$tuned" \
        "$p_mid" "$p_min" "$p_max" "$t_mid" "$t_min" "$t_max")")
}

make_files
rows=()
printf '%s; %s, %s, %d CPUs; medians of %d\n\n' "$(fio --version)" "$(uname -sr)" \
    "$(stat -f -c %T "$work")" "$(nproc)" "$reps"
printf '%-7s %-9s %5s %9s %9s %9s  %-18s  %s\n' file pattern depth laio/s fio/s tuned/s \
    'laio : fio' 'laio : fio tuned'
for what in hole cached blocks; do
    for pattern in read randread; do
        for depth in 1 32 128; do
            row "$what" "$pattern" "$depth"
        done
    done
done
if [[ -n $json ]]; then
    {
        printf '{ "fio": "%s", "kernel": "%s", "repetitions": %d, "rows": [\n' \
            "$(fio --version)" "$(uname -r)" "$reps"
        for i in "${!rows[@]}"; do
            printf '  %s%s\n' "${rows[i]}" "$( ((i + 1 < ${#rows[@]})) && echo ,)"
        done
        printf '] }\n'
    } >"$json"
fi
