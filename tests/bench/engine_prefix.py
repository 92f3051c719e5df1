"""How much sooner the first token comes when the engine has most of the prompt already.

    build/spillway-engine synth --shape qwen2-1.5b --type Q4_K_M --out q.gguf
    python3 tests/bench/engine_prefix.py --build build --model q.gguf

Each round: a prompt of random ids that is new, then one that shares all but its last tokens with it; the time to the
first chunk of each stream, over loopback, one at a time. The figure is the median of the rounds' ratios."""

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time


def first_chunk_s(port, ids):
    body = json.dumps({"prompt": ids, "max_tokens": 2, "stream": True, "ignore_eos": True}).encode()
    s = socket.create_connection(("127.0.0.1", port))
    begin = time.monotonic()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
              + body)
    got = b""
    while b"\r\n\r\n" not in got or b"data:" not in got:
        piece = s.recv(65536)
        if not piece:
            sys.exit(f"the engine answered {got!r}")
        got += piece
    took = time.monotonic() - begin
    while s.recv(65536):
        pass
    s.close()
    if b" 200 " not in got.split(b"\r\n")[0]:
        sys.exit(f"the engine answered {got!r}")
    return took


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--model", required=True)
    p.add_argument("--prompt", type=int, default=2050)
    p.add_argument("--shared", type=int, default=2000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    log = tempfile.TemporaryFile()
    engine = subprocess.Popen([os.path.join(a.build, "spillway-engine"), "serve", "--model", a.model, "--port", "0",
                               "--ctx-size", str(a.prompt + 64), "--max-batch", "4", "--threads", str(a.threads)],
                              stderr=log)
    try:
        port = None
        while True:
            log.seek(0)
            text = log.read().decode()
            found = re.search(r'"listening".*?"port":(\d+)', text)
            port = int(found[1]) if found else None
            if '"message":"ready"' in text:
                break
            if engine.poll() is not None:
                sys.exit(text)
            time.sleep(0.05)
        rng = random.Random(1)
        new = lambda n: [rng.randrange(300, 1000) for _ in range(n)]
        ratios = []
        for i in range(a.rounds):
            prompt = new(a.prompt)
            first = first_chunk_s(port, prompt)
            again = first_chunk_s(port, prompt[:a.shared] + new(a.prompt - a.shared))
            ratios.append(again / first)
            print(f"round {i + 1}: {first * 1e3:.1f} ms new, {again * 1e3:.1f} ms with {a.shared} of {a.prompt} tokens "
                  f"known: {ratios[-1]:.1%}")
        print(f"median ratio of the time to first token: {statistics.median(ratios):.1%}")
    finally:
        engine.terminate()
        engine.wait(30)


if __name__ == "__main__":
    main()
