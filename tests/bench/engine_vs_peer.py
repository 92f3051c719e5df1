#!/usr/bin/env python3
"""The engine beside llama.cpp's, on the same file, in turns: pairwise ratios, ours by the peer's.

    build/spillway-engine synth --shape qwen2-1.5b --type Q4_K_M --out q.gguf
    python3 tests/bench/engine_vs_peer.py --peer-dir DIR --model q.gguf [--only raw,load,http,stall,lookahead] [--rounds 5] [--markdown]

DIR holds llama-bench, llama-batched-bench and llama-server, built by whoever runs this; none of it is ours. What is measured:

- raw: prefill of 512 tokens, decoding by 1, 4 and 16 sequences, by both sides' own benchmark programs, in tokens/s.
- load: from the start of the server to the first token of an answer, the file in the page cache.
- http: 8 clients at once, 128 tokens in, 32 out, new prompts each time: time to first token, tokens/s of all.
- stall: 7 streams, and then one prompt of 8,192 tokens beside them: the streams' p99 between two tokens with it by the same
  without it, and what the prompt takes by what it takes alone. For each server by itself; these are no ratios of the two.
- lookahead: ours with speculation by ours without, tokens/s of 1 and 4 streams: at random, where nothing ever comes true, and
  greedy on a prompt that repeats itself. The first says what it costs where it does not pay.

Memory of shared hosts changes its speed within minutes, so each pair stands together in time, and a plain read of memory before it
says in which state the pair was measured. A ratio is the median of the rounds' ratios, with the least and the most."""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

OURS, PEER = "ours", "peer"


def run(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


class Bench:
    def __init__(self, args):
        self.args, self.rows = args, []
        self.env = {OURS: None, PEER: {**os.environ, "LD_LIBRARY_PATH": args.peer_dir or ""}}
        self.rng = random.Random(args.seed)

    def ours(self, name):
        return os.path.join(self.args.build, name)

    def peer(self, name):
        return os.path.join(self.args.peer_dir, name)

    def bandwidth(self):
        """GB/s of a plain read by as many threads: the state the machine is in."""
        return float(run([self.ours("bench/bench_kernels"), str(self.args.threads), "read"]).split()[-2])

    def pairs(self, measures):
        """measures: side -> a function that gives {figure: value}. Rounds begin with each side in turn."""
        rounds = []
        for i in range(self.args.rounds):
            one = {"read": self.bandwidth()}
            for side in (OURS, PEER) if i % 2 == 0 else (PEER, OURS):
                one[side] = measures[side]()
            rounds.append(one)
            print(f"# round {i + 1}: {json.dumps(one)}", file=sys.stderr, flush=True)
        return rounds

    def compare(self, title, rounds, figure, unit):
        if all(figure in r[side] for r in rounds for side in (OURS, PEER)):
            values = {side: [r[side][figure] for r in rounds] for side in (OURS, PEER)}
            ratios = [r[OURS][figure] / r[PEER][figure] for r in rounds]
            self.rows.append((title, unit, statistics.median(values[OURS]), statistics.median(values[PEER]),
                              statistics.median(ratios), min(ratios), max(ratios),
                              statistics.median(r["read"] for r in rounds)))

    def show(self):
        print("| measure | unit | ours | llama.cpp | ours / llama.cpp | least - most | read, GB/s |\n|---|---|---|---|---|---|---|"
              if self.args.markdown else f"{'measure':34} {'unit':>8} {'ours':>9} {'peer':>9} {'ratio':>7}  least-most    read GB/s")
        for title, unit, a, b, ratio, low, high, read in self.rows:
            print(f"| {title} | {unit} | {a:.4g} | {b:.4g} | **{ratio:.2f}** | {low:.2f} - {high:.2f} | {read:.0f} |"
                  if self.args.markdown else
                  f"{title:34} {unit:>8} {a:9.4g} {b:9.4g} {ratio:7.2f}  {low:.2f}-{high:.2f}  {read:10.0f}")

    # raw ------------------------------------------------------------------------------------------------------------------
    def raw_ours(self):
        a = self.args
        out = json.loads(run([self.ours("spillway-engine"), "bench", "-m", a.model, "-p", "512", "-n", str(a.steps), "-b",
                              "1,4,16", "-d", "16", "-r", "1", "-t", str(a.threads), "--json"]))
        return {"prefill": out["prefill"]["tok_s"], **{f"decode {d['batch']}": d["tok_s"] for d in out["decode"]}}

    def raw_peer(self):
        a, t = self.args, str(self.args.threads)
        out = json.loads(run([self.peer("llama-bench"), "-m", a.model, "-t", t, "-p", "512", "-n", "0", "-r", "1", "-o", "json"],
                             self.env[PEER]))
        found = {"prefill": out[0]["avg_ts"]}
        lines = run([self.peer("llama-batched-bench"), "-m", a.model, "-t", t, "-tb", t, "-npp", "16", "-ntg", str(a.steps),
                     "-npl", "1,4,16", "-c", "4096", "--output-format", "jsonl"], self.env[PEER])
        for line in lines.splitlines():
            if line.startswith("{"):
                one = json.loads(line)
                found[f"decode {one['pl']}"] = one["speed_tg"]
        return found

    def raw(self):
        with open(self.args.model, "rb") as f:  # into the page cache: who comes first must not wait for the disk alone
            while f.read(1 << 24):
                pass
        rounds = self.pairs({OURS: self.raw_ours, PEER: self.raw_peer})
        self.compare("prefill of 512", rounds, "prefill", "tok/s")
        for batch in (1, 4, 16):
            self.compare(f"decode, batch {batch}", rounds, f"decode {batch}", "tok/s")

    # servers --------------------------------------------------------------------------------------------------------------
    def prompt(self, n):
        return [self.rng.randrange(10, 400) for _ in range(n)]

    def load_one(self, side, read):
        begin = time.monotonic()
        with Server(self, side, slots=1, context=256, read=read) as s:
            s.wait()
            s.stream(self.prompt(1), 1)
            return time.monotonic() - begin

    def load(self):
        measure = lambda side: lambda: {"mapped": self.load_one(side, False), "read": self.load_one(side, True)}
        rounds = self.pairs({OURS: measure(OURS), PEER: measure(PEER)})
        self.compare("start to first token, mapped", rounds, "mapped", "s")
        self.compare("start to first token, plain reads", rounds, "read", "s")
        saved = [1 - r[OURS]["mapped"] / r[OURS]["read"] for r in rounds]
        print(f"# ours, mapped against plain reads: {statistics.median(saved):.0%} less (floor 40%)")

    def http_one(self, side):
        with Server(self, side, slots=8, context=512) as s:
            s.wait()
            s.stream(self.prompt(8), 2)
            firsts, threads = [], []
            prompts = [[self.prompt(128) for _ in range(self.args.turns)] for _ in range(8)]

            def client(mine):
                for p in mine:
                    firsts.append(s.stream(p, 32)[0])

            begin = time.monotonic()
            for mine in prompts:
                threads.append(threading.Thread(target=client, args=(mine,)))
                threads[-1].start()
            for t in threads:
                t.join()
            took = time.monotonic() - begin
            return {"ttft": statistics.median(firsts), "speed": 32 * len(firsts) / took}

    def http(self):
        rounds = self.pairs({OURS: lambda: self.http_one(OURS), PEER: lambda: self.http_one(PEER)})
        self.compare("8 clients: TTFT p50", rounds, "ttft", "s")
        self.compare("8 clients: tokens/s", rounds, "speed", "tok/s")

    def stall_one(self, side):
        a = self.args
        with Server(self, side, slots=8, context=a.long + 64) as s:
            s.wait()
            s.stream(self.prompt(8), 2)
            alone = a.alone or self.long_one(s)
            gaps, stop = [], threading.Event()
            threads = [threading.Thread(target=lambda: s.stream(self.prompt(32), a.long, stop, gaps)) for _ in range(7)]
            for t in threads:
                t.start()
            while len(gaps) < 7 * 5:  # their own prompts are no company of theirs
                time.sleep(0.01)
            calm_from = time.monotonic()
            time.sleep(a.calm)
            begin = time.monotonic()
            beside_s = self.long_one(s)
            end = time.monotonic()
            stop.set()
            for t in threads:
                t.join()
            calm = [gap for at, gap in gaps if calm_from < at < begin]
            beside = [gap for at, gap in gaps if begin < at < end]
            p99 = lambda v: sorted(v)[int(len(v) * 0.99)] if v else float("nan")
            return {"p99 without, ms": 1e3 * p99(calm), "p99 with, ms": 1e3 * p99(beside), "with / without": p99(beside) / p99(calm),
                    "p50 of both": statistics.median(beside) / statistics.median(calm), "tokens without": len(calm),
                    "tokens with": len(beside), "prompt alone, s": alone, "prompt beside / alone": beside_s / alone}

    def speed(self, s, streams, **how):
        """Tokens/s of so many streams together, from when all of them have begun."""
        gaps, stop, prompt = [], threading.Event(), self.prompt(24) * 4
        threads = [threading.Thread(target=lambda: s.stream(prompt, 4000, stop, gaps, **how)) for _ in range(streams)]
        for t in threads:
            t.start()
        while len(gaps) < 5 * streams:
            time.sleep(0.01)
        before, begin = s.generated(), time.monotonic()
        time.sleep(self.args.calm / 4)
        tokens, took = s.generated() - before, time.monotonic() - begin
        stop.set()
        for t in threads:
            t.join()
        return tokens / took

    def lookahead(self):
        ways = {"at random": {"temperature": 1.5, "seed": 1}, "repeating": {"temperature": 0}}
        with Server(self, OURS, 4, 8192) as ahead, Server(self, OURS, 4, 8192, flags=["--no-lookahead"]) as plain:
            ahead.wait()
            plain.wait()
            for title, how in ways.items():
                for streams in (1, 4):
                    ratios = []
                    for i in range(self.args.rounds):
                        got = {s: self.speed(s, streams, **how) for s in ((ahead, plain) if i % 2 == 0 else (plain, ahead))}
                        ratios.append(got[ahead] / got[plain])
                    print(f"# lookahead, {title}, {streams} streams: {statistics.median(ratios):.3f} x the tokens/s without "
                          f"({min(ratios):.3f} - {max(ratios):.3f})", flush=True)

    def long_one(self, s):
        begin = time.monotonic()
        s.stream(self.prompt(self.args.long), 1)
        return time.monotonic() - begin

    def stall(self):
        for side in (OURS, PEER) if self.args.peer_dir else (OURS,):
            found = self.stall_one(side)
            print(f"# stall, {side}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items())
                  + (" (floors: 2.5 and 3)" if side == OURS else ""), flush=True)


class Server:
    """One side's server on a port that the kernel chose. Both speak the OpenAI API; prompts are token ids."""

    def __init__(self, bench, side, slots, context, read=False, flags=()):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        a = bench.args
        if side == OURS:
            command = [bench.ours("spillway-engine"), "serve", "--model", a.model, "--port", str(self.port), "--max-batch", str(slots),
                       "--ctx-size", str(context), "--threads", str(a.threads)] + (["--no-mmap"] if read else []) + list(flags)
        else:
            command = [bench.peer("llama-server"), "-m", a.model, "--host", "127.0.0.1", "--port", str(self.port), "-np", str(slots),
                       "-c", str(slots * context), "-t", str(a.threads), "-tb", str(a.threads), "--log-disable", "--no-webui",
                       "-lm", "none" if read else "mmap"]
        self.side, self.log = side, tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=bench.env[side])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def wait(self):
        while True:
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"{self.side}'s server ended:\n{self.log.read()[-2000:].decode(errors='replace')}")
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as s:
                    s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if b" 200 " in s.recv(4096).split(b"\r\n")[0]:
                        return
            except OSError:
                pass
            time.sleep(0.005)

    def generated(self):
        """Tokens that ours has made since its start."""
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        return float(next(line for line in text.split("\n") if line.startswith("vllm:generation_tokens_total")).split()[-1])

    def stream(self, ids, tokens, stop=None, gaps=None, **how):
        """Seconds to the first chunk, and (when, seconds since the chunk before) of the others, into `gaps` as they come. All
        tokens must have come, unless it was told to stop."""
        body = json.dumps({"prompt": ids, "max_tokens": tokens, "stream": True, "ignore_eos": True, "temperature": 0,
                           "cache_prompt": False, **how}).encode()
        first, last, rest, whole = None, None, b"", False
        gaps = [] if gaps is None else gaps
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            begin = time.monotonic()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
            while piece := s.recv(65536):
                now = time.monotonic()
                lines = (rest + piece).split(b"\n")
                rest = lines.pop()
                chunks = sum(line.startswith(b"data: {") and b'"text"' in line for line in lines)
                for _ in range(chunks):
                    if first is None:
                        first = now - begin
                    else:
                        gaps.append((now, now - last))
                    last = now
                whole = whole or any(b'"finish_reason":"length"' in line.replace(b" ", b"") for line in lines)
                if stop and stop.is_set():
                    break
        if not whole and not (stop and stop.is_set()):
            sys.exit(f"{self.side}: an answer ended before its {tokens} tokens")
        return first, gaps


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--peer-dir", help="needed for all but stall and lookahead, which then are ours alone")
    p.add_argument("--model", required=True)
    p.add_argument("--only", default="raw,load,http,stall")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=32, help="decoding steps of a raw round")
    p.add_argument("--turns", type=int, default=3, help="requests of each of the 8 clients")
    p.add_argument("--long", type=int, default=8192, help="tokens of the prompt that may stall others")
    p.add_argument("--calm", type=float, default=20, help="seconds of streams before it")
    p.add_argument("--alone", type=float, help="seconds that it takes alone, where that is known already")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--markdown", action="store_true")
    args = p.parse_args()
    parts = args.only.split(",")
    if wrong := set(parts) - {"raw", "load", "http", "stall", "lookahead"}:
        sys.exit(f"--only: {', '.join(sorted(wrong))}: expected raw, load, http, stall, lookahead")
    if not args.peer_dir and not set(parts) <= {"stall", "lookahead"}:
        sys.exit("--peer-dir is missing: where llama-bench, llama-batched-bench and llama-server are")
    b = Bench(args)
    for part in parts:
        getattr(b, part)()
    b.show()


if __name__ == "__main__":
    main()
