#!/usr/bin/env python3
"""The engine on a GPU: decoding, prefill, serving and waking up, beside the ceilings that bench_cuda measured. gpu_all.sh runs
it.

    engine_cuda.py decode|prefill|serve|wake|peer --engine FILE --ceilings FILE [--tmp DIR] [--peer-dir DIR] [--device cuda]

Models are random weights in a true shape, written by `spillway-engine synth` one at a time and deleted after. A share of
decoding is active bytes times tokens/s by the copy bandwidth; one of prefill is 2 x parameters x tokens/s by the BF16 rate.
Watts are the card's own count of joules (NVML) while a figure is taken; nothing of the card is set."""

import argparse
import concurrent.futures
import contextlib
import ctypes
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

MODELS = {  # shape, type: floor and aim of the share at batch 1
    "llama-8b BF16": ("llama-8b", "BF16", 0.65, 0.85),
    "llama-8b Q8_0": ("llama-8b", "Q8_0", 0.55, 0.80),
    "llama-8b Q4_K_M": ("llama-8b", "Q4_K_M", 0.45, 0.70),
    "deepseek-v2-lite BF16": ("deepseek-v2-lite", "BF16", None, None),
}
LITE_FLOOR, LITE_AIM = 250, 400  # tokens/s
PARAMETERS = {"llama-8b": 7.5e9}  # those that every token is multiplied with: without the embedding


GEMMS = ("own", "cublaslt")  # --cuda-gemm


class Missing(Exception):
    """What a figure needs is not on this machine."""


class Failed(Exception):
    """A figure that was not to be had: the others are."""


def run(command, **kw):
    done = subprocess.run(command, capture_output=True, text=True, **kw)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    if missing := re.search(r"^--cuda-gemm cublaslt: .*", done.stderr, re.M):
        raise Missing(missing[0])
    return done.stdout


class Watts:
    """What the first card draws, by its own count of joules, while this is open. Its watts are means over a second there
    (NVML API reference, nvmlDeviceGetPowerUsage), longer than many a figure takes."""

    def __init__(self):
        self.seen, self.stop, self.device = [], threading.Event(), ctypes.c_void_p()
        self.thread = threading.Thread(target=self.read)
        try:
            self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
            if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)):
                self.nvml = None
        except (OSError, AttributeError):
            self.nvml = None

    def __enter__(self):
        self.thread.start()
        return self

    def read(self):
        last, last_at, mj = None, 0, ctypes.c_ulonglong()
        while self.nvml and not self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.device, ctypes.byref(mj)):
            at = time.monotonic()
            if last is None or (mj.value != last and at > last_at + 0.1):  # it moves some ten times a second
                if last is not None:
                    self.seen.append((mj.value - last) / 1e3 / (at - last_at))
                last, last_at = mj.value, at
            if self.stop.wait(0.01):
                break

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def most(self):
        """The median of the upper half: a figure's own time, not the loading before it."""
        upper = sorted(self.seen)[len(self.seen) // 2:]
        return statistics.median(upper) if upper else float("nan")


class Bench:
    def __init__(self, args):
        self.args, self.failed = args, 0
        with open(args.ceilings) as f:
            text = f.read()
        found = re.search(r"^copy, read and written\s+([0-9.]+)", text, re.M)
        self.copy = float(found[1]) * 1e9 if found else float("nan")
        found = re.search(r"^BF16 product.*?cuBLAS\s+([0-9.]+)", text, re.M)
        self.rate = float(found[1]) * 1e12 if found else float("nan")
        found = re.search(r"^copy from pinned memory\s+([0-9.]+)", text, re.M)
        self.pinned = float(found[1]) * 1e9 if found else float("nan")
        found = re.search(r"^starting on the device\s+([0-9.]+)", text, re.M)
        self.starting = float(found[1]) * 1e-3 if found else float("nan")

    def model(self, name):
        shape, kind = MODELS[name][:2]
        path = os.path.join(self.args.tmp, "model.gguf")
        run([self.args.engine, "synth", "--shape", shape, "--type", kind, "--layers", str(self.args.layers), "--out", path])
        return path

    def bench(self, path, *flags):
        with Watts() as watts:
            out = json.loads(run([self.args.engine, "bench", "-m", path, "--device", self.args.device, "--json", *flags]))
        return out, watts.most()

    @contextlib.contextmanager
    def attempt(self, what):
        """What fails in here is told, and the figures after it are taken all the same."""
        try:
            yield
        except (Failed, OSError) as e:
            print(f"FAILED: {what}: {e}", flush=True)
            self.failed += 1

    def decode(self):
        for name in MODELS:
            with self.attempt(f"decode {name}"):
                path = self.model(name)
                for batch in ("1", "8", "64", "256"):
                    with self.attempt(f"decode {name} batch {batch}"):
                        self.decode_batch(name, path, batch)
                os.unlink(path)

    def decode_batch(self, name, path, batch):
        floor, aim = MODELS[name][2:]
        out, watts = self.bench(path, "-p", "0", "-n", "512", "-b", batch, "-d", "128")
        speed = out["decode"][0]["tok_s"]
        share = out["active_bytes"] * speed / self.copy if batch == "1" else float("nan")
        goal = f"floor {floor:.0%}, aim {aim:.0%}" if floor else f"floor {LITE_FLOOR}, aim {LITE_AIM} tok/s"
        print(f"decode {name:24} batch {batch:>3}: {speed:9.1f} tok/s, {watts:5.0f} W, {watts / speed:7.3f} J/token"
              + (f", share of copy {share:.1%} ({goal})" if batch == "1" else ""), flush=True)

    def prefill(self):
        path = self.model("llama-8b BF16")
        for gemm in GEMMS:
            with self.attempt(f"prefill by {gemm}"):
                self.prefill_by(gemm, path)
        os.unlink(path)

    def prefill_by(self, gemm, path):
        for tokens in (2048, 512, 8192):
            try:
                speed, watts = self.prefill_speed(path, tokens, gemm)
            except Missing as e:
                print(f"skipped: prefill by cuBLASLt: {e}", flush=True)
                break
            print(f"prefill llama-8b BF16 {gemm:8} {tokens:5} tokens: {speed:9.0f} tok/s, {watts:5.0f} W, share of the BF16 "
                  f"rate {2 * PARAMETERS['llama-8b'] * speed / self.rate:.1%}"
                  + (" (floor 40%, aim 65%)" if tokens == 2048 else ""), flush=True)

    def prefill_speed(self, path, tokens, gemm):
        out, watts = self.bench(path, "-p", str(tokens), "-n", "0", "--chunk", "2048", "--cuda-gemm", gemm)
        return out["prefill"]["tok_s"], watts

    def peer(self):
        """llama.cpp with CUDA on the same files, where --peer-dir holds its programs."""
        program = os.path.join(self.args.peer_dir or "", "llama-bench")
        if not self.args.peer_dir or not os.path.exists(program):
            print("skipped: peer: no llama-bench in --peer-dir (build llama.cpp with -DGGML_CUDA=ON)")
            return
        for name in MODELS:
            path = self.model(name)
            ours = [self.bench(path, "-p", "0", "-n", "128", "-b", "1", "-d", "128")[0]["decode"][0]["tok_s"] for _ in range(3)]
            theirs = [json.loads(run([program, "-m", path, "-ngl", "99", "-p", "0", "-n", "128", "-r", "1", "-o", "json"]))[0]
                      ["avg_ts"] for _ in range(3)]
            ratio = statistics.median(ours) / statistics.median(theirs)
            print(f"peer {name:24}: ours {statistics.median(ours):.1f}, llama.cpp {statistics.median(theirs):.1f} tok/s, "
                  f"ratio {ratio:.2f} (floor 1.1, aim 1.5)", flush=True)
            if name == "llama-8b BF16":
                self.peer_prefill(program, path)
            os.unlink(path)

    def peer_prefill(self, program, path):
        theirs = statistics.median(
            json.loads(run([program, "-m", path, "-ngl", "99", "-p", "2048", "-n", "0", "-ub", "2048", "-r", "1", "-o", "json"]))[0]
            ["avg_ts"] for _ in range(3))
        for gemm in GEMMS:
            try:
                ours = statistics.median(self.prefill_speed(path, 2048, gemm)[0] for _ in range(3))
            except Missing as e:
                print(f"skipped: prefill by cuBLASLt: {e}", flush=True)
                continue
            print(f"peer llama-8b BF16, 2,048 tokens of a prompt, {gemm:8}: ours {ours:.0f}, llama.cpp {theirs:.0f} tok/s, "
                  f"ratio {ours / theirs:.2f}", flush=True)

    def wake(self):
        """Asleep there is no worker: waking up is a process that starts on the device and brings it the weights again."""
        path = self.model("llama-8b BF16")
        here = os.path.dirname(os.path.abspath(__file__))
        out = json.loads(run([sys.executable, os.path.join(here, "..", "wake.py"), "--build", os.path.dirname(self.args.engine),
                              "--model", path, "--rounds", "5", "--limit", "inf", "--", "--device", self.args.device]))
        took, copying = out["wake_to_first_token_s"]["median"], os.path.getsize(path) / self.pinned
        print(f"wake llama-8b BF16, {out['model_gb']:.1f} GB: {took:.2f} s to the first token, "
              f"{out['of_it_until_ready_ms'] / 1e3:.2f} s of them until it is ready, {out['of_it_load_ms'] / 1e3:.2f} s of these "
              f"loading; awake it comes after {out['first_token_awake_s']:.2f} s. Starting on the device {self.starting:.2f} s and "
              f"copying at {self.pinned * 1e-9:.1f} GB/s {copying:.2f} s: ratio {took / (self.starting + copying):.2f} (bar 1.2)",
              flush=True)
        os.unlink(path)

    # serving --------------------------------------------------------------------------------------------------------------
    def serve(self):
        path = self.model("llama-8b BF16")
        with self.attempt("serve, 256 at once"):
            self.full_house(path)
        with self.attempt("serve, 32k prompt beside 16 streams"):
            with Server(self.args, path, slots=17, context=33792, kv_tokens=2 * 33792 + 16 * 4096) as s:
                self.stall(s)
        os.unlink(path)

    def full_house(self, path):
        with Server(self.args, path, slots=256, context=2112, kv_tokens=256 * 2112 + 40960) as s, Watts() as watts:
            s.answer(128, 8)
            begin = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(256) as pool:
                answers = [pool.submit(s.answer, 1024, 1024) for _ in range(256)]
                for a in concurrent.futures.as_completed(answers):
                    a.result()
            speed = 256 * 1024 / (time.monotonic() - begin)
            print(f"serve llama-8b BF16, 256 at once, 1,024 in and out: {speed:.0f} output tok/s (floor 3000, aim 8000), "
                  f"{watts.most():.0f} W", flush=True)

    def stall(self, s):
        """Sixteen streams, and a prompt of 32k tokens beside them."""
        gaps, stop = [], threading.Event()
        threads = [threading.Thread(target=s.stream, args=(64, 4000, gaps, stop)) for _ in range(16)]
        for t in threads:
            t.start()
        until = time.monotonic() + 60
        while len(gaps) < 16 * 20:
            if time.monotonic() > until:
                raise Failed(f"16 streams brought {len(gaps)} chunks in a minute")
            time.sleep(0.01)
        calm_from = time.monotonic()
        time.sleep(5)
        begin = time.monotonic()
        s.answer(32768, 1)
        end = time.monotonic()
        stop.set()
        for t in threads:
            t.join()
        p99 = lambda v: sorted(v)[int(len(v) * 0.99)] if v else float("nan")
        calm = p99([gap for at, gap in gaps if calm_from < at < begin])
        beside = p99([gap for at, gap in gaps if begin < at < end])
        print(f"serve, 32k prompt beside 16 streams: p99 between tokens {1e3 * calm:.1f} ms without, {1e3 * beside:.1f} ms with, "
              f"ratio {beside / calm:.2f} (floor 2); the prompt took {end - begin:.1f} s", flush=True)


class Server:
    def __init__(self, args, model, slots, context, kv_tokens):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        self.random = random.Random(1)
        self.process = subprocess.Popen(
            [args.engine, "serve", "--model", model, "--port", str(self.port), "--device", args.device, "--max-batch", str(slots),
             "--ctx-size", str(context), "--kv-tokens", str(kv_tokens), "--queue-seconds", "0"],
            stdout=self.log, stderr=self.log)

    def __enter__(self):
        until = time.monotonic() + 180
        while True:
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                self.log.seek(0)
                raise Failed(f"the server does not start:\n{self.log.read()[-2000:].decode(errors='replace')}")
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as s:
                    s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if b" 200 " in s.recv(4096).split(b"\r\n")[0]:
                        return self
            except OSError:
                pass
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def ask(self, n_in, n_out, stream):
        body = json.dumps({"prompt": [self.random.randrange(10, 30000) for _ in range(n_in)], "max_tokens": n_out, "stream": stream,
                           "ignore_eos": True, "temperature": 0.8, "top_p": 0.95, "cache_prompt": False}).encode()
        s = socket.create_connection(("127.0.0.1", self.port))
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def answer(self, n_in, n_out):
        """One whole answer, whose usage must say n_out tokens."""
        with self.ask(n_in, n_out, False) as s:
            parts = []
            while piece := s.recv(65536):
                parts.append(piece)
        found = re.search(rb'"completion_tokens"\s*:\s*(\d+)', b"".join(parts))
        if not found or int(found[1]) != n_out:
            raise Failed(f"an answer is not {n_out} tokens: {b''.join(parts)[:300]!r}")

    def stream(self, n_in, n_out, gaps, stop):
        """(when, seconds since the chunk before) of each chunk, into `gaps`."""
        last, rest = None, b""
        with self.ask(n_in, n_out, True) as s:
            while not stop.is_set() and (piece := s.recv(65536)):
                now = time.monotonic()
                lines = (rest + piece).split(b"\n")
                rest = lines.pop()
                for _ in range(sum(line.startswith(b"data: {") for line in lines)):
                    if last is not None:
                        gaps.append((now, now - last))
                    last = now


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("decode", "prefill", "serve", "wake", "peer"))
    p.add_argument("--engine", required=True)
    p.add_argument("--ceilings", required=True, help="what `bench_cuda ceilings` printed")
    p.add_argument("--tmp", default="/tmp", help="where a model of up to 32 GB fits")
    p.add_argument("--peer-dir")
    p.add_argument("--device", default="cuda")
    p.add_argument("--layers", type=int, default=0, help="only so many, to try this script; 0: all")
    args = p.parse_args()
    bench = Bench(args)
    with bench.attempt(args.what):
        getattr(bench, args.what)()
    sys.exit(bench.failed > 0)


if __name__ == "__main__":
    main()
