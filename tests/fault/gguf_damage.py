#!/usr/bin/env python3
# runtest: first
"""Damaged model files: a small model cut at 100 places, and with 250 single bytes of its header changed.

Proves that each either is refused with exit code 1 and one line naming the file, or runs (a change may hit a name or a
number that nothing depends on): never a crash, a sanitizer's report, or more than ten seconds.

    python3 tests/fault/gguf_damage.py --build build
"""
import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor

SHAPES = {
    "dense": dict(arch="qwen2", n_layer=2, n_embd=64, n_head=4, n_kv_head=2, n_ff=96, n_vocab=280, n_ctx=128),
    "deepseek": dict(arch="deepseek2", n_layer=2, n_embd=64, n_head=2, n_ff=96, n_vocab=280, n_ctx=128, kv_lora=32, q_lora=32,
                     d_nope=32, d_rope=16, d_v=32, n_dense_lead=1, n_expert=4, n_used=2, n_shared=1, n_ff_exp=32, sigmoid=1,
                     weights_norm=1, weights_scale=2.5, n_group=2, n_group_used=2, yarn_orig=64, yarn_factor=4, yarn_mscale=1),
}
CUTS, FLIPS, SECONDS = 100, 250, 10


def header_bytes(data):
    """Where the tensor table ends: found as the engine does not, by skipping through the format."""
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    pos = 24
    width = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def skip_str(p):
        return p + 8 + struct.unpack_from("<Q", data, p)[0]
    for _ in range(n_keys):
        pos = skip_str(pos)
        kind = struct.unpack_from("<I", data, pos)[0]
        pos += 4
        if kind == 8:
            pos = skip_str(pos)
        elif kind == 9:
            item, n = struct.unpack_from("<IQ", data, pos)
            pos += 12
            if item == 8:
                for _ in range(n):
                    pos = skip_str(pos)
            else:
                pos += n * width[item]
        else:
            pos += width[kind]
    for _ in range(n_tensors):
        pos = skip_str(pos)
        pos += 4 + 8 * struct.unpack_from("<I", data, pos)[0] + 12
    return pos


def vocabulary_span(data):
    """The token texts fill most of a header; damage there is another test's business, so few bytes are drawn from it."""
    start = data.find(b"tokenizer.ggml.tokens")
    return start + 40, data.find(b"tokenizer.ggml.token_type")


def try_file(engine, data, folder, i):
    """None, or what went wrong."""
    path = os.path.join(folder, "damaged-%d.gguf" % i)
    with open(path, "wb") as f:
        f.write(data)
    command = ["sh", "-c", "ulimit -t %d; exec \"$@\"" % SECONDS, "sh"]  # of processor time: the machine may be busy
    command += [engine, "generate", "--model", path, "--prompt", "ab", "-n", "2", "--temp", "0", "--threads", "1"]
    try:
        p = subprocess.run(command, capture_output=True, timeout=12 * SECONDS)
    except subprocess.TimeoutExpired:
        return "more than %d s, in which it waited" % (12 * SECONDS)
    finally:
        os.unlink(path)
    text = p.stderr.decode(errors="replace")
    if p.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "more than %d s" % SECONDS
    if p.returncode == 0:
        return None
    if p.returncode != 1:
        return "exit status %d: %s" % (p.returncode, text[:2000])
    lines = text.strip().split("\n")
    if len(lines) != 1 or len(lines[0]) < 30:
        return "the message is not one clear line: %r" % text[:500]
    return None


def damaged(data, seed):
    """(what, bytes) of each damaged file."""
    rng = random.Random(seed)
    end = header_bytes(data)
    low, high = vocabulary_span(data)
    places = [p for p in range(end) if not low <= p < high] + rng.sample(range(low, high), 64)
    for i in range(CUTS):
        at = rng.randrange(end) if i % 2 else rng.randrange(len(data))
        yield "cut at %d of %d" % (at, len(data)), data[:at]
    for i in range(FLIPS):
        at = rng.choice(places)
        value = rng.choice([data[at] ^ (1 << rng.randrange(8)), 0, 255, 127, 128])
        yield "byte %d of %d is %d, not %d" % (at, end, value, data[at]), data[:at] + bytes([value]) + data[at + 1:]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--engine")
    ap.add_argument("--shared")
    ap.add_argument("--full", action="store_true", help="twenty times as many")
    ap.add_argument("--seed", type=int, help="default: one that differs from build to build")
    a = ap.parse_args()
    if a.seed is None:
        a.seed = zlib.crc32(os.path.basename(os.path.abspath(a.build)).encode())
    engine = a.engine or os.path.join(a.build, "spillway-engine")
    passed = failed = 0
    jobs = int(os.environ.get("SPILLWAY_TEST_JOBS", "2"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for name, shape in SHAPES.items():
            path, model = os.path.join(folder, name + ".json"), os.path.join(folder, name + ".gguf")
            with open(path, "w") as f:
                json.dump(shape, f)
            subprocess.run([engine, "synth", "--shape", path, "--type", "Q8_0", "--out", model], check=True)
            with open(model, "rb") as f:
                data = f.read()
            problem = try_file(engine, data, folder, -1)
            if problem:
                print("FAILED %s undamaged: %s" % (name, problem))
                failed += 1
            cases = [c for seed in range(20 if a.full else 1) for c in damaged(data, a.seed + seed)]
            results = pool.map(lambda ic: try_file(engine, ic[1][1], folder, ic[0]), enumerate(cases))
            for (what, _), problem in zip(cases, results):
                passed += problem is None
                failed += problem is not None
                if problem:
                    print("FAILED %s, %s: %s" % (name, what, problem))
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
