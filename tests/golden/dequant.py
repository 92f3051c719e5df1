#!/usr/bin/env python3
"""Dequantised values of every supported tensor type against published ones (../shared/dequant_vectors.json).

    python3 tests/golden/dequant.py --build build [--shared ../shared]     (needs the target dequant_cli)
"""
import argparse
import json
import os
import subprocess
import sys

# Types the engine must have; others in the file count as skipped.
REQUIRED = {"f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--full", action="store_true", help="accepted, and the same: this test is short")
    args = parser.parse_args()
    path = os.path.join(args.shared, "dequant_vectors.json")
    if not os.path.exists(path):
        print("skipped: dequant: no %s" % path)
        print("0 passed, 0 failed, 1 skipped")
        return 0
    with open(path, encoding="utf-8") as f:
        vectors = json.load(f)
    text = "".join("%d %d %s\n" % (v["id"], len(v["values"]), v["raw_hex"]) for v in vectors)
    cli = os.path.join(args.build, "golden", "dequant_cli")
    lines = subprocess.run([cli], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    passed = failed = skipped = 0
    for vector, line in zip(vectors, lines, strict=True):
        name = vector["type"].lower()
        if line == "unsupported" and name not in REQUIRED:
            skipped += 1
            continue
        # The file gives 9 digits, enough to tell every float32 from its neighbour.
        got = [] if line == "unsupported" else [float(x) for x in line.split()]
        same = len(got) == len(vector["values"]) and all(
            abs(a - b) <= 6e-8 * abs(b) + 1e-44 for a, b in zip(got, vector["values"]))
        if not same:
            print("FAILED: dequant %s" % name)
        passed, failed = passed + same, failed + (not same)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
