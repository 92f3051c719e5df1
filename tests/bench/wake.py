#!/usr/bin/env python3
"""How long a sleeping node takes to its first token.

    python3 tests/bench/wake.py --build build [--model FILE] [--cold] [--rounds 10] [--threads 0] [--limit 0.6]

Without --model it makes the one of the measure itself: `spillway-engine synth --shape qwen2-1.5b --type Q8_0`, 1.9 GB. Each
round: POST /sleep, wait for `asleep`, then one streamed request with a prompt of one token; the clock runs from connect()
to the first chunk with a token. Warm: the file is in the page cache, as a sleep leaves it. --cold: it is thrown out of it
before each wake-up (posix_fadvise), which is what a node pays whose cache others needed meanwhile. Says where the time
went, out of the log, and how much processor time the worker took, which is less a matter of who else runs; ends with 1 when the median of warm rounds is not below --limit."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Connection, request, wait_until  # noqa: E402

KEY = {"x-spillway-node-key": "a-key-for-benches"}


def drop_from_cache(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_whole(path):
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 24):
            pass


class Node:
    def __init__(self, args, folder):
        key = os.path.join(folder, "key")
        with open(key, "w") as f:
            f.write(KEY["x-spillway-node-key"] + "\n")
        self.log_path = os.path.join(folder, "log")
        command = [os.path.join(args.build, "spillway-engine"), "serve", "--model", args.model, "--port", "0",
                   "--node-key-file", key, "--threads", str(args.threads), *args.flags]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.port = wait_until(lambda: self.line("listening").get("port"), 60, "it listens")
        wait_until(lambda: self.health() == "ok", 600, "it is ready")

    def lines(self):
        with open(self.log_path) as f:
            return [json.loads(line) for line in f if line.startswith("{")]

    def line(self, message):
        return next((x for x in reversed(self.lines()) if x["message"] == message), {})

    def health(self):
        return request(self.port, "GET", "/health").json()["status"]

    def worker_cpu_s(self):
        """Of all threads of the worker, since it began."""
        task = f"/proc/{self.process.pid}/task/"
        total = 0
        for t in os.listdir(task):
            with open(f"{task}{t}/children") as f:
                workers = f.read().split()
            for w in workers:
                for thread in os.listdir(f"/proc/{w}/task"):
                    with open(f"/proc/{w}/task/{thread}/schedstat") as f:
                        total += int(f.read().split()[0])
        return total / 1e9

    def first_token(self):
        begin = time.monotonic()
        c = Connection(self.port, "POST", "/v1/completions",
                       {"prompt": [1000], "max_tokens": 2, "ignore_eos": True, "stream": True}, KEY, timeout=600)
        c.head()
        assert c.answer.status == 200, c.all().body
        for event in c.events():
            if "spillway_ids" in event:
                break
        took = time.monotonic() - begin
        for _ in c.events():
            pass
        return took


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--model")
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--cold", action="store_true")
    p.add_argument("--limit", type=float, default=0.6)
    p.add_argument("flags", nargs="*", help="more flags of serve, after --")
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="spillway-wake-") as folder:
        if not args.model:
            args.model = os.path.join(folder, "qwen2-1.5b.gguf")
            subprocess.run([os.path.join(args.build, "spillway-engine"), "synth", "--shape", "qwen2-1.5b", "--type", "Q8_0",
                            "--out", args.model], check=True)
        read_whole(args.model)
        n = Node(args, folder)
        try:
            awake = [n.first_token() for _ in range(3)]
            took, parts, cpu = [], [], []
            for _ in range(args.rounds):
                assert request(n.port, "POST", "/sleep", b"", KEY).status == 202
                wait_until(lambda: n.health() == "asleep", 60, "asleep")
                if args.cold:
                    drop_from_cache(args.model)
                took.append(n.first_token())
                cpu.append(n.worker_cpu_s())
                parts.append((n.line("woken up").get("took_ms", 0), n.line("ready").get("load_ms", 0)))
        finally:
            n.process.terminate()
            n.process.wait(60)
        size = os.path.getsize(args.model) / 1e9
    took_s = sorted(took)
    print(json.dumps({
        "model_gb": round(size, 2), "cold": args.cold, "rounds": args.rounds,
        "first_token_awake_s": round(statistics.median(awake), 3),
        "wake_to_first_token_s": {"min": round(took_s[0], 3), "median": round(statistics.median(took), 3),
                                  "max": round(took_s[-1], 3)},
        "of_it_until_ready_ms": statistics.median(a for a, _ in parts),
        "of_it_load_ms": statistics.median(b for _, b in parts),
        "worker_cpu_until_second_token_s": round(statistics.median(cpu), 3)}))
    sys.exit(not args.cold and statistics.median(took) >= args.limit)


if __name__ == "__main__":
    main()
