#!/usr/bin/env python3
"""Logits and greedy continuations of the golden models in ../shared/fixtures, and the trained story model.

Proves, for every case of every model:
  precise   eval --precise: max |difference| <= 1e-3 from the peer's float32 logits
  greedy    generate --temp 0 --precise: the next 32 ids are the peer's
  fast      the default path: relative RMS error <= 0.06; for mixtures of experts, whose router can tip over by a
            rounding, <= max(0.06, 1.5 x the peer's own error) in all but one case in five
  q8_0      the same with keys and values in Q8_0

    python3 tests/golden/models.py --build build [--shared ../shared] [--only NAME]
"""
import argparse
import concurrent.futures
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

MAX_DIFF = 1e-3
REL_RMS = 0.06
FAST = {"fast": (), "q8_0": ("--kv-type", "q8_0")}


class Run:
    def __init__(self, engine, tmp, flags=()):
        self.engine, self.tmp, self.flags = engine, tmp, flags
        self.passed = self.failed = 0

    def check(self, ok, what):
        self.passed += ok
        self.failed += not ok
        if not ok:
            print("FAILED", what)

    def call(self, *args):
        """stdout, or None after printing why. One thread: the bits are the same, and two of them would mostly wait for each
        other over models this small."""
        p = subprocess.run([self.engine, *args, "--threads", "1", *self.flags], capture_output=True, text=True, timeout=600)
        if p.returncode:
            print("exit %d: %s: %s" % (p.returncode, " ".join(args)[:200], p.stderr.strip()))
            return None
        return p.stdout

    def logits(self, model, tokens, n_vocab, *flags):
        out = os.path.join(self.tmp, "logits")
        if self.call("eval", "--model", model, "--tokens", csv(tokens), "--logits-out", out, *flags) is None:
            return None
        with open(out, "rb") as f:
            data = f.read()
        return struct.unpack("<%df" % n_vocab, data) if len(data) == 4 * n_vocab else None

    def greedy(self, model, tokens, n, *flags):
        out = self.call("generate", "--model", model, "--tokens", csv(tokens), "-n", str(n), "--temp", "0", "--print-ids",
                        *flags)
        return None if out is None else [int(w) for w in out.split()]


def csv(ids):
    return ",".join(map(str, ids))


def max_diff(a, b):
    return max(abs(x - y) for x, y in zip(a, b)) if a else math.inf


def rel_rms(a, b):
    if not a:
        return math.inf
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b))


def check_model(r, folder, name, worst):
    model = os.path.join(folder, "model.gguf")
    with open(os.path.join(folder, "cases.json")) as f:
        doc = json.load(f)
    moe = bool(doc["config"].get("experts"))
    over = dict.fromkeys(FAST, 0)
    for case in doc["cases"]:
        what = "%s %s" % (name, case["name"])
        precise = max_diff(r.logits(model, case["tokens"], doc["n_vocab"], "--precise"), case["logits"])
        r.check(precise <= MAX_DIFF, "%s: precise logits differ by %.3g" % (what, precise))
        ids = r.greedy(model, case["tokens"], len(case["greedy"]), "--precise")
        r.check(ids == case["greedy"], "%s: greedy ids\n  %s, not\n  %s" % (what, ids, case["greedy"]))
        bound = max(REL_RMS, 1.5 * case.get("native_rel_rms", 0)) if moe else REL_RMS
        errors = [precise]
        for way, flags in FAST.items():
            errors.append(rel_rms(r.logits(model, case["tokens"], doc["n_vocab"], *flags), case["logits"]))
            over[way] += errors[-1] > bound
            if not moe:
                r.check(errors[-1] <= bound, "%s: %s logits have a relative RMS error of %.4f" % (what, way, errors[-1]))
        worst[name] = [max(pair) for pair in zip(worst.get(name, [0] * len(errors)), errors)]
    for way in FAST if moe else ():
        r.check(over[way] <= len(doc["cases"]) // 5, "%s: %s logits past the bound in %d of %d cases" %
                (name, way, over[way], len(doc["cases"])))


def check_stories(r, folder):
    with open(os.path.join(folder, "golden.json")) as f:
        cases = json.load(f)["cases"]
    for name in ("stories260K.gguf", "stories260K-tied.gguf"):
        for case in cases:
            for flags in (("--precise",), ()):
                ids = r.greedy(os.path.join(folder, name), case["prompt_ids"], len(case["greedy_ids"]), *flags)
                r.check(ids == case["greedy_ids"], "%s %r %s: greedy ids differ" % (name, case["prompt"], flags))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--engine")
    ap.add_argument("--shared", default="../shared")
    ap.add_argument("--device", help="cpu, cuda: as the engine's flag")
    ap.add_argument("--only", help="models whose name contains this")
    ap.add_argument("--full", action="store_true")
    ap.add_argument("--jobs", type=int, default=1, help="models at once: where a process begins slowly, as on a GPU")
    ap.add_argument("--verbose", action="store_true", help="the largest differences of each model")
    a = ap.parse_args()
    fixtures = os.path.join(a.shared, "fixtures")
    if not os.path.isdir(fixtures):
        print("skipped: models: no %s" % fixtures)
        return 0
    names = [n for n in sorted(os.listdir(fixtures))
             if os.path.exists(os.path.join(fixtures, n, "cases.json")) and (a.only or "") in n]
    stories = os.path.join(a.shared, "stories260K")
    worst = {}
    with tempfile.TemporaryDirectory() as tmp, concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        def run(check, folder, *more):
            r = Run(a.engine or os.path.join(a.build, "spillway-engine"), tempfile.mkdtemp(dir=tmp),
                    ("--device", a.device) if a.device else ())
            check(r, folder, *more)
            return r

        runs = [pool.submit(run, check_model, os.path.join(fixtures, n), n, worst) for n in names]
        if os.path.isdir(stories) and not a.only:
            runs.append(pool.submit(run, check_stories, stories))
        runs = [r.result() for r in runs]
    passed, failed = sum(r.passed for r in runs), sum(r.failed for r in runs)
    if a.verbose:
        for name, errors in sorted(worst.items()):
            print("%-24s precise max |diff| %.2e   relative RMS" % (name, errors[0]),
                  ", ".join("%s %.4f" % pair for pair in zip(FAST, errors[1:])))
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
