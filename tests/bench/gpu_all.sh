#!/usr/bin/env bash
# What the engine does on a GPU, in parts of at most eight minutes each:
#
#   tests/bench/gpu_all.sh smoke      the first test of each family of kernels, one token by the engine: half a minute
#   tests/bench/gpu_all.sh check      the kernels' tests on the device, the golden models through the engine
#   tests/bench/gpu_all.sh decode     tokens/s, watts, joules per token; share of the copy bandwidth
#   tests/bench/gpu_all.sh prefill    tokens/s; share of the BF16 matrix rate; our own products, and cuBLASLt's
#   tests/bench/gpu_all.sh serve      256 requests at once through HTTP, and streams beside a prompt of 32k
#   tests/bench/gpu_all.sh wake       from asleep to the first token, beside starting on the device and copying the weights
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
# Each test is a process of its own, since a kernel that faults takes its process's device with it: one that fails, crashes or
# hangs is told with what it said (and, where compute-sanitizer is, with the line), the others go on, and the part ends with 1.
#
# Where there is nothing but the driver and python3, a build-gpu from a machine that has them will do: programs that are there
# already are used as they are where nvcc or CMake is not.
#
# GPU_BUILD, GPU_DIR, GPU_TMP, GPU_PEER say otherwise where build-gpu, .gpu, a temporary folder and nothing will not do.
# Without a device, nvcc or an engine the part says "skipped" and ends well. Clocks and limits of the card stay as they are.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${GPU_BUILD:-$root/build-gpu} with=${GPU_DIR:-$root/.gpu} limit=480
part=${1:-}
case $part in smoke | check | decode | prefill | serve | wake | sanitize | peer | kernels) ;; *)
    sed -n '2,12p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
failed=()
finish() {
    [ ${#failed[@]} -eq 0 ] && exit 0
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
}
skip() {
    echo "skipped: $part: $1"
    finish
}
PATH=$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin
[[ $(nvidia-smi -L 2>/dev/null) == *GPU* ]] || skip "no NVIDIA device answers"
command -v python3 >/dev/null || skip "no python3"
began=$(date +%s)
# Models of up to 32 GB: memory is faster than a disk, where there is enough.
roomy() { [ "$(df --output=avail -k "$1" 2>/dev/null | tail -1)" -gt $((48 << 20)) ]; }
tmp=$(mktemp -d "${GPU_TMP:-$(roomy /dev/shm && echo /dev/shm || echo /tmp)}/gpu.XXXXXX")
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
# What goes on whatever becomes of it: a name, then the command; or a function of ours, which bounds what it runs itself.
step() {
    local name=$1 by=bounded
    shift
    say "$name"
    [ "$(type -t "$1")" = function ] && by=
    $by "$@" || failed+=("$name")
}
# Where NVIDIA's libraries are that nobody has told the loader of: the driver's in a container, those beside the compiler, or
# packages of Python's.
find_libraries() {
    local folder
    while read -r folder; do
        export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
    done < <(python3 - <<'PY'
import glob, os, sys
places = ["/usr/local/cuda/lib64"] + [f for p in sys.path for f in glob.glob(os.path.join(p, "nvidia", "*", "lib"))]
for place in dict.fromkeys(places):
    if glob.glob(os.path.join(place, "libcublas*.so.1?")):
        print(place)
if os.path.exists("/usr/local/nvidia/lib64/libcuda.so.1"):
    print("/usr/local/nvidia/lib64")
PY
    )
}
build_kernels() {
    local target=$1 capability generator=() program
    shift
    if ! command -v nvcc >/dev/null || ! command -v cmake >/dev/null; then
        for program in "$@"; do
            [ -x "$build/$program" ] || skip "no nvcc or no cmake, and no $build/$program from elsewhere"
        done
        say "no nvcc or no cmake: the programs in $build as they are"
        return
    fi
    command -v ninja >/dev/null || command -v make >/dev/null || skip "neither ninja nor make"
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -cd 0-9)
    command -v ninja >/dev/null && generator=(-G Ninja)
    say "building the kernels for compute capability ${capability:-that of the device}"
    [ -f "$build/CMakeCache.txt" ] && generator=()
    { bounded cmake "${generator[@]}" -S "$root/tests/bench/gpu" -B "$build" \
        ${capability:+-DSPILLWAY_CUDA_ARCHITECTURES=$capability} &&
        bounded cmake --build "$build" --target "$target" -j "$(nproc)"; } >"$tmp/build.log" 2>&1 || {
        grep -E 'error|Error' -A5 "$tmp/build.log" | head -40
        tail -20 "$tmp/build.log"
        exit 1
    }
}
need_engine() {
    engine=$with/spillway-engine
    [ -x "$engine" ] || skip "no $engine: see the head of this script"
}
engine_part() {
    need_engine
    step "$part" python3 "$root/tests/bench/gpu/engine_cuda.py" "$part" --engine "$engine" \
        --ceilings "$tmp/ceilings" --tmp "$tmp" ${GPU_PEER:+--peer-dir "$GPU_PEER"}
}

programs="test_cuda_ops test_cuda_fused test_cuda_matmul test_cuda_attention test_cuda_sample"
# The names in a program's source, in order.
tests_of() {
    sed -n 's/^ *TEST(\([a-z0-9_]*\));$/\1/p' "$root"/tests/unit/"$1".c*
}
# One test of a program by itself; "ok" and its seconds, or what it said.
one_test() {
    local program=$1 name=$2 from status=0 what
    from=$(date +%s)
    TEST_ONLY=$name timeout --kill-after=5 "$(($(left) < 90 ? $(left) : 90))" "$build/$program" >"$tmp/log" 2>&1 || status=$?
    if [ $status = 0 ] && ! grep -q '^[1-9][0-9]* passed, 0 failed' "$tmp/log"; then
        echo "skipped $program $name: $(grep -m1 '^skipped' "$tmp/log" || echo "it did not run")"
        return
    elif [ $status = 0 ]; then
        echo "ok      $program $name ($(($(date +%s) - from)) s)"
        return
    fi
    case $status in 1) what=FAILED ;; 124 | 137) what=HANGS ;; *) what="CRASHED ($status)" ;; esac
    echo "$what $program $name ($(($(date +%s) - from)) s)"
    awk '!seen[$0]++' "$tmp/log" | head -12 | sed 's/^/        /'
    failed+=("$program $name")
    command -v compute-sanitizer >/dev/null || return 0
    TEST_ONLY=$name timeout --kill-after=5 60 compute-sanitizer --tool memcheck --print-limit 3 "$build/$program" >"$tmp/log" 2>&1 || true
    grep '^=========' "$tmp/log" | head -24 | sed 's/^/        /'
}
run_tests() {
    local program name
    for program in $programs; do
        say "$program"
        for name in $(tests_of "$program" | { [ $part = smoke ] && head -1 || cat; }); do
            one_test "$program" "$name"
        done
    done
}
engine_smoke() {
    bounded "$engine" synth --shape llama-8b --type BF16 --layers 2 --out "$tmp/model.gguf" &&
        bounded "$engine" bench -m "$tmp/model.gguf" --device cuda -p 512 -n 16 -b 1
}

bounded nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm --format=csv,noheader
find_libraries
case $part in
smoke | check | sanitize) build_kernels tests $programs ;;
*)
    build_kernels bench_cuda bench_cuda
    say ceilings
    bounded "$build/bench_cuda" ceilings | tee "$tmp/ceilings"
    ;;
esac
case $part in
smoke)
    run_tests
    need_engine
    step "the engine, two layers" engine_smoke
    ;;
check)
    run_tests
    need_engine
    [ -d "$with/fixtures" ] || skip "golden models: no $with/fixtures"
    step "golden models" python3 "$root/tests/golden/models.py" --engine "$engine" --shared "$with" --device cuda --verbose \
        --jobs 8
    step "golden models: 1, 7 and 64 at once, prefixes known" python3 "$root/tests/golden/batches.py" --build "$with" \
        --shared "$with" --device cuda --batches 1,7,64
    ;;
sanitize)
    command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer: the tests' guard bytes have to do"
    for program in $programs; do
        for tool in memcheck racecheck; do
            say "$tool $program"
            bounded compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/$program" >"$tmp/log" 2>&1 && {
                tail -2 "$tmp/log"
                continue
            }
            if grep -q "not supported" "$tmp/log"; then
                echo "skipped: $tool: compute-sanitizer does not support this device; the tests' guard bytes have to do"
                continue
            fi
            head -40 "$tmp/log"
            tail -2 "$tmp/log"
            failed+=("$tool $program")
        done
    done
    ;;
kernels)
    step products "$build/bench_cuda" products
    step attention "$build/bench_cuda" attention
    ;;
*) engine_part ;;
esac
say "$part is done, ${#failed[@]} failed"
finish
