#!/usr/bin/env python3
# runtest: release
"""tests/bench/gpu_all.sh without a GPU: no device is a reason to skip, and says so; on a machine with nothing but the driver it
takes programs that were built elsewhere, and a test that fails, hangs or crashes is told and leaves the others alone. With
--full: the kernels' tests and figures on the emulated device, and decoding, prefill and waking up by the engine, which is told
to use the CPU and given a small model: what the script asks of the programs is what they understand."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "gpu_all.sh")
SHAPE = {"arch": "llama", "n_layer": 1, "n_embd": 64, "n_head": 2, "n_kv_head": 1, "n_ff": 64, "n_vocab": 2048, "n_ctx": 131072}
PROGRAMS = ("test_cuda_ops", "test_cuda_fused", "test_cuda_matmul", "test_cuda_attention", "test_cuda_sample")
NVIDIA_SMI = """case "$*" in
-L) echo "GPU 0: Stand-in (UUID: GPU-0)" ;;
*compute_cap,*) echo "Stand-in, 1.0, 9.0, 1 MiB, 1 MHz" ;;
*compute_cap*) echo 9.0 ;;
esac
"""
CEILINGS = """echo "starting on the device 10.0 ms"
echo "copy, read and written 1.0 GB/s"
echo "copy from pinned memory 1.0 GB/s"
echo "BF16 product of 8192 x 8192, cuBLAS 1.0 TFLOP/s"
"""


class Machine:
    """A folder that stands for one: what is on its PATH (neither nvcc nor CMake), programs, and the script's own folder."""

    def __init__(self, folder):
        self.folder = folder
        self.path, self.programs, self.gpu = (os.path.join(folder, name) for name in ("bin", "programs", "gpu"))
        for f in (self.path, self.programs, self.gpu):
            os.mkdir(f)
        for source in ("/usr/bin", "/bin", os.path.dirname(sys.executable)):
            for name in os.listdir(source):
                if name not in ("nvcc", "cmake", "nvidia-smi") and not os.path.lexists(os.path.join(self.path, name)):
                    os.symlink(os.path.join(source, name), os.path.join(self.path, name))

    def script(self, folder, name, text):
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + text)
        os.chmod(path, 0o755)

    def run(self, part, **env):
        done = subprocess.run(["bash", SCRIPT, part], capture_output=True, text=True, timeout=900, env={
            **os.environ, "PATH": self.path, "GPU_BUILD": self.programs, "GPU_DIR": self.gpu, "GPU_TMP": self.folder, **env})
        return done.returncode, done.stdout + done.stderr


def expect(m, part, status, *texts):
    got, out = m.run(part)
    assert got == status, f"{part}: exit {got}, not {status}\n{out}"
    for text in texts:
        assert text in out, f"{part}: no {text!r} in\n{out}"
    return out


def test_quick(m):
    assert m.run("nonsense")[0] == 2
    m.script(m.path, "nvidia-smi", "exit 9\n")  # as it does without a driver
    expect(m, "check", 0, "skipped: check: no NVIDIA device answers")
    m.script(m.path, "nvidia-smi", NVIDIA_SMI)
    expect(m, "smoke", 0, "skipped: smoke: no nvcc or no cmake, and no", "/test_cuda_ops from elsewhere")
    for name in PROGRAMS:  # in every order of threads, some run more than once
        m.script(m.programs, name, 'echo "3 passed, 0 failed"\n')
    m.script(m.programs, "bench_cuda", CEILINGS)
    out = expect(m, "smoke", 0, "ok      test_cuda_ops get_rows_is_dequantise", "skipped: smoke: no ", "see the head of")
    assert out.count("\nok ") == len(PROGRAMS), out
    m.script(m.programs, "test_cuda_ops", 'echo "a.c:1: get_rows: failed: x"; echo "0 passed, 1 failed"; exit 1\n')
    m.script(m.programs, "test_cuda_fused", "kill -SEGV $$\n")
    out = expect(m, "smoke", 1, "FAILED test_cuda_ops get_rows_is_dequantise", "CRASHED (139) test_cuda_fused", "failed: x")
    assert out.count("\nok ") == len(PROGRAMS) - 2, out
    m.script(m.gpu, "spillway-engine", "exit 3\n")
    expect(m, "wake", 1, "FAILED: wake: ", "exit 3")
    expect(m, "kernels", 0, "== kernels is done, 0 failed")


def test_full(m, args):
    """The real programs behind what the script calls."""
    tests, engine = os.path.join(args.build, "tests"), os.path.abspath(os.path.join(args.build, "spillway-engine"))
    for name in PROGRAMS:
        m.script(m.programs, name, f'exec {os.path.abspath(os.path.join(tests, name))} "$@"\n')
    emulated = os.path.abspath(os.path.join(tests, "bench_cuda_emulated"))
    m.script(m.programs, "bench_cuda", f'exec {emulated} "$@" small\n')
    os.unlink(os.path.join(m.gpu, "spillway-engine"))
    out = expect(m, "smoke", 0, "ok      test_cuda_attention tiles_are_near_and_obey_the_law")
    assert out.count("\nok ") == len(PROGRAMS), out
    expect(m, "kernels", 0, "iq4_xs 512 x 40, 70 token(s)", "deepseek-v3 prefill", "sampling, top-k 40, 16 row(s)")
    shape = os.path.join(m.folder, "shape.json")
    with open(shape, "w") as f:
        json.dump(SHAPE, f)
    m.script(m.programs, "bench_cuda", CEILINGS)
    m.script(m.gpu, "spillway-engine", f"""n=$#
while [ $n -gt 0 ]; do
    case $1 in llama-8b | deepseek-v2-lite) word={shape} ;; cuda) word=cpu ;; 512) word=8 ;; *) word=$1 ;; esac
    shift
    set -- "$@" "$word"
    n=$((n - 1))
done
exec {engine} "$@"
""")
    expect(m, "decode", 0, "decode llama-8b Q4_K_M          batch 256: ", "decode deepseek-v2-lite BF16    batch   1: ")
    expect(m, "prefill", 0, "prefill llama-8b BF16 own       8192 tokens: ", "skipped: prefill by cuBLASLt: ")
    expect(m, "wake", 0, "wake llama-8b BF16, ", "(bar 1.2)")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build")
    p.add_argument("--shared")
    p.add_argument("--full", action="store_true")
    args = p.parse_args()
    folder = tempfile.mkdtemp(prefix="spillway-gpu-all-")
    try:
        m = Machine(folder)
        test_quick(m)
        if args.full and os.path.exists(os.path.join(args.build, "tests", "bench_cuda_emulated")):
            test_full(m, args)
        elif args.full:
            print("skipped: gpu_all.sh on the emulated device: this build has none")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
