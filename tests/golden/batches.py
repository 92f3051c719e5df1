#!/usr/bin/env python3
# runtest: release
"""The golden models in ../shared/fixtures through the server, 1, 3 and 8 sequences at once, other requests among them, each case
twice, so that the second time pages of its prompt are known: the ids are those of `generate`, where the weights are float32 the
peer's, and the log probabilities are the same to the last digit whatever the company.

    python3 tests/golden/batches.py --build build [--shared ../shared] [--full]     # --full: all models, else four"""

import argparse
import json
import os
import random
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from engine_server import FOLDER, Server, engine  # noqa: E402
from harness import request  # noqa: E402

SHORT = ("qwen2-f32-tied", "dsv2lite-q4_k_m", "dsv3-f16bf16", "qwen3moe-q8_0")
KEY = {"x-spillway-node-key": "golden-key"}


def device(args):
    return ("--device", args.device) if args.device else ()


def greedy_ids(args, model, case):
    out = subprocess.run([engine(args), "generate", "--model", model, "--tokens", ",".join(map(str, case["tokens"])), "-n",
                          str(len(case["greedy"])), "--temp", "0", "--print-ids", "--threads", "1", *device(args)],
                         capture_output=True, text=True, check=True).stdout
    return [int(word) for word in out.split()]


def ask(s, tokens, n, **fields):
    """The answer's ids and log probabilities, and how much of the prompt was known."""
    a = request(s.port, "POST", "/v1/completions", {
        "prompt": tokens, "max_tokens": n, "ignore_eos": True, "stream": True, "logprobs": 1, "spillway_resume": {"ids": []},
        "stream_options": {"include_usage": True}, **fields}, KEY, timeout=60)
    assert a.status == 200, a.body[:300]
    chunks = [json.loads(e) for _, e in a.events if e != "[DONE]"]
    ids = sum((c.get("spillway_ids", []) for c in chunks), [])
    probs = [p for c in chunks for x in c["choices"] if x.get("logprobs") for p in x["logprobs"]["token_logprobs"]]
    return ids, probs, chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"]


def run_batch(args, model, cases, batch, seed):
    """[(ids, log probabilities)] of every case, all asked at once and then again, and the tokens that were known."""
    r, got, cached, lock = random.Random(seed), {}, [0], threading.Lock()
    todo = []
    others = [[r.randrange(5, 300) for _ in range(r.randrange(1, 200))] for _ in range(8)]
    key = os.path.join(FOLDER, "golden-key")
    with open(key, "w") as f:
        f.write("golden-key\n")

    def client():
        while True:
            with lock:
                if not todo:
                    return
                i, again = todo.pop(0)
                other = others.pop() if batch > 1 and others else None
            if other:
                ask(s, other, 8, temperature=1, seed=len(other))
            ids, probs, known = ask(s, cases[i]["tokens"], len(cases[i]["greedy"]), temperature=0)
            with lock:
                got[i, again] = (ids, probs)
                cached[0] += known

    with Server(args, "--max-batch", str(batch), "--ctx-size", "0", "--node-key-file", key, *device(args), model=model) as s:
        for again in (0, 1):
            todo += [(i, again) for i in range(len(cases))]
            threads = [threading.Thread(target=client) for _ in range(batch)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
    return got, cached[0]


def check_model(args, folder):
    name, model = os.path.basename(folder), os.path.join(folder, "model.gguf")
    with open(os.path.join(folder, "cases.json")) as f:
        cases = json.load(f)["cases"]
    wanted = [greedy_ids(args, model, case) for case in cases]
    failed, first = [], None
    if "f32" in name:
        failed += [f"{case['name']}: generate differs from the peer" for case, ids in zip(cases, wanted) if ids != case["greedy"]]
    for batch in map(int, args.batches.split(",")):
        got, cached = run_batch(args, model, cases, batch, batch)
        first = first or got
        if cached < 64:
            failed.append(f"batch {batch}: {cached} tokens of prompts were known")
        for i, case in enumerate(cases):
            for again in (0, 1):
                ids, probs = got.get((i, again), (None, None))
                if ids != wanted[i]:
                    failed.append(f"batch {batch}, {case['name']}, time {again + 1}: ids {str(ids)[:80]}, not {str(wanted[i])[:80]}")
                elif probs != first[i, 0][1]:
                    failed.append(f"batch {batch}, {case['name']}, time {again + 1}: log probabilities differ from batch 1's")
    for line in failed:
        print(f"FAILED {name}: {line}")
    return not failed


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--full", action="store_true")
    p.add_argument("--batches", default="1,3,8")
    p.add_argument("--device", help="cpu, cuda: as the engine's flag")
    args = p.parse_args()
    args.build, args.sanitized = os.path.abspath(args.build), False
    fixtures = os.path.join(args.shared, "fixtures")
    if not os.path.isdir(fixtures):
        print(f"skipped: batches: no {fixtures}")
        return 0
    names = [n for n in sorted(os.listdir(fixtures)) if args.full or n in SHORT]
    passed = sum(check_model(args, os.path.join(fixtures, n)) for n in names)
    print(f"{passed} passed, {len(names) - passed} failed")
    return passed != len(names)


if __name__ == "__main__":
    sys.exit(main())
