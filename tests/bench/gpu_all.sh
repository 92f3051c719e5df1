#!/usr/bin/env bash
# What the engine does on a GPU, in parts of at most eight minutes each:
#
#   tests/bench/gpu_all.sh check      the kernels' tests on the device, the golden models through the engine
#   tests/bench/gpu_all.sh decode     tokens/s, watts, joules per token; share of the copy bandwidth
#   tests/bench/gpu_all.sh prefill    tokens/s; share of the BF16 matrix rate; our own products, and cuBLASLt's
#   tests/bench/gpu_all.sh serve      256 requests at once through HTTP, and streams beside a prompt of 32k
#   tests/bench/gpu_all.sh sanitize   compute-sanitizer over the kernels' tests
#   tests/bench/gpu_all.sh peer       llama.cpp beside it, where GPU_PEER holds llama-bench
#   tests/bench/gpu_all.sh kernels    each kernel by itself
#
# Needs nvcc, CMake and python3, none of our libraries: kernels, their tests and bench_cuda are built here, once. The engine
# comes along as one file with its libraries in it, from a machine that has them; so do the golden models:
#
#   cmake --preset release -DSPILLWAY_CUDA=ON && cmake --build build --target engine_bundle
#   mkdir -p .gpu && cp build/spillway-engine.bundle .gpu/spillway-engine && cp -rL ../shared/fixtures .gpu/
#
# GPU_BUILD, GPU_DIR, GPU_TMP, GPU_PEER say otherwise where build-gpu, .gpu, a temporary folder and nothing will not do.
# Without a device, nvcc or an engine the part says "skipped" and ends well. Clocks and limits of the card stay as they are.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${GPU_BUILD:-$root/build-gpu} with=${GPU_DIR:-$root/.gpu} limit=480
part=${1:-}
case $part in check | decode | prefill | serve | sanitize | peer | kernels) ;; *)
    sed -n '2,10p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
skip() {
    echo "skipped: $part: $1"
    exit 0
}
PATH=$PATH:/usr/local/cuda/bin
nvidia-smi -L 2>/dev/null | grep -q GPU || skip "no NVIDIA device answers"
for program in nvcc cmake python3; do
    command -v $program >/dev/null || skip "no $program"
done
began=$(date +%s)
tmp=$(mktemp -d "${GPU_TMP:-/tmp}/gpu.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

say() {
    echo "== $* ($(($(date +%s) - began)) s)"
}
# The rest of this part's time, for timeout(1), to which 0 would be for ever.
left() {
    local seconds=$((limit - ($(date +%s) - began)))
    echo $((seconds > 0 ? seconds : 1))
}
# Everything that takes time goes through this: what is not done when the part's time is over ends with 124, and so does the part.
bounded() {
    timeout --kill-after=10 "$(left)" "$@"
}
build_kernels() {
    say building the kernels
    { bounded cmake -S "$root/tests/bench/gpu" -B "$build" && bounded cmake --build "$build" -j "$(nproc)"; } \
        >"$tmp/build.log" 2>&1 || {
        tail -30 "$tmp/build.log"
        exit 1
    }
}
need_engine() {
    engine=$with/spillway-engine
    [ -x "$engine" ] || skip "no $engine: see the head of this script"
}
engine_part() {
    need_engine
    bounded python3 "$root/tests/bench/gpu/engine_cuda.py" "$part" --engine "$engine" \
        --ceilings "$tmp/ceilings" --tmp "$tmp" ${GPU_PEER:+--peer-dir "$GPU_PEER"}
}
tests="test_cuda_attention test_cuda_matmul test_cuda_sample test_cuda_ops"

bounded nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
build_kernels
say ceilings
bounded "$build/bench_cuda" ceilings | tee "$tmp/ceilings"
case $part in
check)
    for t in $tests; do
        say "$t"
        bounded "$build/$t"
    done
    need_engine
    [ -d "$with/fixtures" ] || skip "golden models: no $with/fixtures"
    say golden models
    bounded python3 "$root/tests/golden/models.py" --engine "$engine" --shared "$with" --device cuda --verbose
    say "golden models: 1, 7 and 64 at once, prefixes known"
    bounded python3 "$root/tests/golden/batches.py" --build "$with" --shared "$with" --device cuda \
        --batches 1,7,64
    ;;
sanitize)
    command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer: the tests' guard bytes have to do"
    for t in $tests; do
        for tool in memcheck racecheck; do
            say "$tool $t"
            bounded compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/$t" >"$tmp/log" 2>&1 || {
                if grep -q "not supported" "$tmp/log"; then
                    echo "skipped: $tool: compute-sanitizer does not support this device; the tests' guard bytes have to do"
                    continue
                fi
                tail -40 "$tmp/log"
                exit 1
            }
            tail -2 "$tmp/log"
        done
    done
    ;;
kernels)
    bounded "$build/bench_cuda" products
    bounded "$build/bench_cuda" attention
    ;;
*) engine_part ;;
esac
say "$part is done"
