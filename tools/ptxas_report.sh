#!/usr/bin/env bash
# What nvcc's assembler says of each CUDA kernel: registers, stack, bytes of registers spilled to memory and read back, static
# shared memory, and how many threads a multiprocessor can hold for its registers' sake. tools/ptxas_report.sh [ARCHITECTURE...],
# without any 80 and 90; with 90 goes what is for 90a alone. Ends with 1 if a kernel spills more than the little that is known
# of (below), or has to wait for a warpgroup's products where it did not ask to. Takes a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null || { echo "skipped: ptxas_report: no nvcc" && exit 0; }
[ $# -gt 0 ] || set -- 80 90
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report() { # architecture, file
    local architecture=$1
    case $2 in */hopper/*)
        [ "$1" = 90 ] || return 0
        architecture=90a
        ;;
    esac
    nvcc -std=c++17 -I. -D_GNU_SOURCE -fmad=false -gencode="arch=compute_$architecture,code=sm_$architecture" -Xptxas -v \
        -c "$2" -o "$work/$1.$(basename "$2").o" 2>&1 | c++filt >"$work/$1.$(basename "$2").txt"
}
for file in kernels/cuda/*.cu kernels/cuda/hopper/*.cu; do
    for architecture in "$@"; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
        report "$architecture" "$file" &
    done
done
wait
for text in "$work"/*.txt; do
    [ -f "${text%.txt}.o" ] || { cat "$text" && exit 1; }
done
printf '%-6s %-42s %9s %6s %6s %6s %7s %8s\n' sm kernel registers stack stores loads shared threads
# Prefill's tile and that of MLA's many heads keep 128 sums to a thread; what does not fit is a few words outside of
# their inner loops.
awk '
    /Compiling entry function/ { match($0, /'"'"'[^'"'"']*'"'"'/); name = substr($0, RSTART + 1, RLENGTH - 2)
        sub(/^void /, "", name); sub(/\(.*/, "", name); match($0, /sm_[0-9]+/); sm = substr($0, RSTART + 3, RLENGTH - 3) }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
        shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
        threads = 32 * int(65536 / (int((registers + 7) / 8) * 256))
        printf "%-6s %-42s %9d %6d %6d %6d %7d %8d\n", sm, name, registers, stack, stores, loads, shared, (threads > 2048 ? 2048 : threads)
        known = name == "attention_tile_kernel<4, 2, 2, 8>" ? 96 : name == "attention_tile_kernel<2, 1, 8, 8>" ? 12 : 0
        if (loads > known || stores > known) { bad++; print "        it spills" } }
    /\(C75[0-9]*\)/ { bad++; print }
    END { if (bad) exit 1 }' "$work"/*.txt
