#!/usr/bin/env python3
"""Tokenizers: the ids of `spillway-engine tokenize` against those of another engine, and round trips back to bytes.

Three sources under ../shared: real vocabularies (NAME.gguf with .inp texts and .out ids), small made-up vocabularies
(synth-NAME.gguf with .json cases), and the tokenizer cases of the model fixtures. Python standard library only.
"""
import argparse
import glob
import json
import os
import subprocess
import sys

SEPARATOR = "\n__ggml_vocab_test__\n"


def filter_json(engine, verb, model, flags, data):
    command = [engine, verb, "--model", model, *flags]
    done = subprocess.run(command, input=json.dumps(data).encode(), capture_output=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return json.loads(done.stdout)


class Count:
    def __init__(self):
        self.passed = self.failed = 0

    def same(self, got, expected, what):
        if got == expected:
            self.passed += 1
        else:
            self.failed += 1
            print(f"{what}\n  got      {got!r}\n  expected {expected!r}")


def check(count, engine, model, flags, cases):
    """cases: [(text, ids)]. The ids must be equal, and turn back into the text."""
    name = os.path.relpath(model, os.path.dirname(os.path.dirname(model)))
    got = filter_json(engine, "tokenize", model, flags, [text for text, _ in cases])
    for (text, ids), g in zip(cases, got):
        count.same(g, ids, f"{name}: tokenize {text!r}")
    back = filter_json(engine, "detokenize", model, [], [ids for _, ids in cases])
    for (text, _), b in zip(cases, back):
        count.same(b, text, f"{name}: detokenize to {text!r}")


def real_cases(path):
    with open(path + ".inp", encoding="utf-8", newline="") as f:
        texts = f.read().split(SEPARATOR)
    with open(path + ".out", encoding="utf-8") as f:
        lines = f.read().split("\n")
    ids = [[int(x) for x in line.split()] for line in lines]
    return list(zip(texts[:-1] if texts[-1] == "" else texts, ids))


def flags_of(case):
    return ([] if case["add_special"] else ["--no-bos"]) + (["--parse-special"] if case["parse_special"] else [])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--build", help="build folder that holds spillway-engine")
    where.add_argument("--engine", help="the program itself")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--full", action="store_true", help="same as without: all cases always run")
    args = parser.parse_args()
    engine = args.engine or os.path.join(args.build, "spillway-engine")
    folder = os.path.join(args.shared, "tokenizers")
    if not os.path.isdir(folder):
        print("skipped: tokenizers: no ../shared")
        return 0
    count = Count()
    for inp in sorted(glob.glob(os.path.join(folder, "*.gguf.inp"))):
        check(count, engine, inp[:-4], ["--no-bos"], real_cases(inp[:-4]))
    for path in sorted(glob.glob(os.path.join(folder, "synth-*.json"))):
        with open(path, encoding="utf-8") as f:
            cases = [(c["text"], c["ids"]) for c in json.load(f)["cases"]]
        check(count, engine, path[:-5] + ".gguf", ["--no-bos"], cases)
    for path in sorted(glob.glob(os.path.join(args.shared, "fixtures", "*", "cases.json"))):
        with open(path, encoding="utf-8") as f:
            cases = json.load(f).get("tokenizer_cases", [])
        for flags in ([], ["--no-bos"], ["--parse-special"], ["--no-bos", "--parse-special"]):
            chosen = [(c["text"], c["ids"]) for c in cases if flags_of(c) == flags]
            if chosen:
                check(count, engine, os.path.join(os.path.dirname(path), "model.gguf"), flags, chosen)
    print(f"{count.passed} passed, {count.failed} failed")
    return count.failed != 0


if __name__ == "__main__":
    sys.exit(main())
