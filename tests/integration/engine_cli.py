#!/usr/bin/env python3
"""The command line of spillway-engine, verb by verb, on small models made on the spot: exit codes (0 done, 1 failed,
2 wrong usage), help, messages that say what would be right, and that results are the same whenever they must be.

    python3 tests/integration/engine_cli.py --build build
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

SHAPE = dict(arch="qwen2", name="tiny", n_layer=2, n_embd=64, n_head=4, n_kv_head=2, n_ff=96, n_vocab=300, n_ctx=128)
MOE = dict(
    arch="deepseek2", name="moe", n_layer=3, n_embd=64, n_head=2, n_ff=64, n_vocab=300, n_ctx=128, kv_lora=32, d_nope=32, d_rope=16,
    d_v=32, n_dense_lead=1, n_expert=4, n_used=2, n_shared=1, n_ff_exp=32,
)
VERBS = ("bench", "eval", "generate", "info", "synth")


class Test:
    def __init__(self, engine, folder):
        self.engine, self.folder = engine, folder
        self.passed = self.failed = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def check(self, ok, what):
        self.passed += bool(ok)
        self.failed += not ok
        if not ok:
            print("FAILED", what)

    def run(self, *args):
        p = subprocess.run([self.engine, *args], capture_output=True, text=True, timeout=120)
        return p.returncode, p.stdout, p.stderr

    def expect(self, code, part, *args):
        """Exit code, and a text on stderr (code 1 and 2) or stdout. Returns stdout."""
        got, out, err = self.run(*args)
        where = out if code == 0 else err
        self.check(got == code and part in where, "%s: exit %d, %r" % (" ".join(args), got, (out + err)[-400:]))
        return out


def help_and_usage(t):
    t.expect(0, "Exit codes", "--help")
    t.expect(2, "usage:")
    t.expect(2, 'did you mean "generate"', "genrate")
    t.expect(0, "spillway-engine", "--version")
    for verb in VERBS:
        t.expect(0, "example:", verb, "--help")
        t.expect(2, "unknown", verb, "--no-such-flag")
    t.expect(2, "--model", "generate", "--mdoel", "x")
    t.expect(2, "exactly one of", "generate", "--model", t.path("m.gguf"))
    t.expect(2, "--temp", "generate", "--model", t.path("m.gguf"), "--prompt", "a", "--temp", "hot")
    t.expect(2, "--tokens", "eval", "--model", t.path("m.gguf"), "--tokens", "1,,2", "--logits-out", t.path("l"))
    t.expect(2, "--batch", "bench", "--model", t.path("m.gguf"), "--batch", "0")
    t.expect(2, "serve: takes no operand", "serve", "--model", t.path("m.gguf"), "8081")
    for flags, says in ((("--watts", "much"), "as in 30:90"), (("--join", "http://x"), "write https://"), (("--device", "tpu"), "expected"),
                        (("--notices", "gcp"), "write http://"), (("--tls-cert", "c.pem"), "go together")):
        t.expect(2, says, "serve", "--model", t.path("m.gguf"), "--port", "0", *flags)
    for flag in ("--api-key-file", "--node-key-file"):
        t.expect(1, flag + ": /nowhere: No such file", "serve", "--model", t.path("m.gguf"), "--port", "0", flag, "/nowhere")


def rows(table):
    """{(what, where): bytes} of the table of info --place."""
    cells = [(line[:24].rstrip(), line[25:32].rstrip(), line[33:]) for line in table.splitlines() if line[33:].strip().isdigit()]
    return {(what, where): int(n) for what, where, n in cells}


def where_it_goes(t):
    """info --place without a device: sums are right, experts go to the host one layer at a time, what never fits is told."""
    with open(t.path("moe.json"), "w") as f:
        json.dump(MOE, f)
    t.expect(0, "", "synth", "--shape", t.path("moe.json"), "--type", "F16", "--out", t.path("moe.gguf"))
    place = ["info", t.path("moe.gguf"), "--place", "--device-memory"]
    all_of_it = rows(t.expect(0, "experts of 0 layers", *place, "8000000000"))
    parts = sum(n for (what, where), n in all_of_it.items() if what not in ("weights", "memory", "left"))
    t.check(parts + all_of_it["left", "device"] == 8000000000, all_of_it)
    experts = all_of_it["layer 2 experts", "device"]
    t.check(experts == 3 * 4 * 64 * 32 * 2 and ("layer 0 experts", "device") not in all_of_it, all_of_it)
    less = rows(t.expect(0, "experts of 1 layers", *place, str(parts - 1)))
    t.check(less["layer 2 experts", "host"] == less["weights", "host"] == experts, less)
    t.check(less["layer 1 experts", "device"] == experts and less["left", "device"] == experts - 1, less)
    t.expect(0, "experts of 2 layers", *place, "8000000000", "--host-experts", "2")
    t.expect(1, "raise host-experts", *place, str(parts - 1), "--host-experts", "-1")
    t.expect(1, "no context would fit", *place, "1000000")
    t.expect(1, "say --device-memory", "info", t.path("moe.gguf"), "--place", "--device", "cpu")


def models(t):
    with open(t.path("s.json"), "w") as f:
        json.dump(SHAPE, f)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M"):
        t.expect(0, "", "synth", "--shape", t.path("s.json"), "--type", kind, "--out", t.path(kind + ".gguf"))
        t.expect(0, "qwen2", "info", t.path(kind + ".gguf"))
    os.rename(t.path("Q8_0.gguf"), t.path("m.gguf"))
    info = json.loads(t.expect(0, "", "info", t.path("m.gguf"), "--json"))
    t.check(info["layers"] == 2 and info["vocab"] == 300 and info["quant"] == "Q8_0" and len(info["sha256"]) == 64, info)
    where_it_goes(t)
    t.expect(0, "", "synth", "--shape", t.path("s.json"), "--type", "Q8_0", "--out", t.path("again.gguf"))
    same = open(t.path("m.gguf"), "rb").read() == open(t.path("again.gguf"), "rb").read()
    t.check(same, "synth: the same seed gives the same file")
    t.expect(1, "cannot be opened", "info", t.path("none.gguf"))
    t.expect(1, "not a GGUF file", "info", t.path("s.json"))
    t.expect(2, 'did you mean qwen2-7b', "synth", "--shape", "qwen-7b", "--out", t.path("x.gguf"))
    with open(t.path("bad.json"), "w") as f:
        json.dump(dict(SHAPE, n_layers=3), f)
    t.expect(1, 'did you mean "n_layer"', "synth", "--shape", t.path("bad.json"), "--out", t.path("x.gguf"))
    with open(t.path("bad.json"), "w") as f:
        json.dump(dict(SHAPE, n_head=0), f)
    t.expect(1, "n_head", "synth", "--shape", t.path("bad.json"), "--out", t.path("x.gguf"))
    t.check(not os.path.exists(t.path("x.gguf")) and not os.path.exists(t.path("x.gguf.part")), "synth: leaves nothing")
    t.expect(1, "No such file", "synth", "--shape", t.path("s.json"), "--out", t.path("no/where.gguf"))


def logits(t):
    def row(*flags):
        t.expect(0, "", "eval", "--model", t.path("m.gguf"), "--tokens", "5,6,7,8", "--logits-out", t.path("l"), *flags)
        return open(t.path("l"), "rb").read()
    last, every = row(), row("--all-logits")
    t.check(len(last) == 4 * 300 and len(every) == 4 * 4 * 300, "eval: rows")
    t.check(every[-len(last):] == last, "eval: the last row is the last position")
    t.check(row("--chunk", "1", "--threads", "1") == last, "eval: chunks and threads do not change a bit")
    t.check(row("--lazy-load") == last, "eval: --lazy-load does not change a bit")
    t.check(all(x - x == 0 for x in struct.unpack("<%df" % (len(every) // 4), every)), "eval: finite")
    t.expect(1, "not in the vocabulary of 300", "eval", "--model", t.path("m.gguf"), "--tokens", "300", "--logits-out",
             t.path("l"))
    t.expect(1, "longest sequence", "eval", "--model", t.path("m.gguf"), "--tokens", ",".join(["1"] * 129), "--logits-out",
             t.path("l"))


def generation(t):
    model = ("--model", t.path("m.gguf"))

    def ids(*flags):
        return t.expect(0, "", "generate", *model, "--print-ids", *flags)
    raw = ids("--tokens", "5,6,7", "-n", "9", "--temp", "0")
    t.check(len(raw.split()) == 9 and raw.count("\n") == 1, "generate: nine ids on one line: %r" % raw)
    t.check(ids("--tokens", "5,6,7", "-n", "9", "--temp", "0", "--threads", "1") == raw, "generate: threads")
    first = raw.split()[0]
    rest = ids("--tokens", "5,6,7," + first, "-n", "8", "--temp", "0")
    t.check(rest.split() == raw.split()[1:], "generate: continuing from the ids so far gives the same ids")
    seeded = [ids("--prompt", "hello", "-n", "12", "--temp", "1.5", "--seed", s, "--ignore-eos") for s in "112"]
    t.check(seeded[0] == seeded[1] != seeded[2], "generate: the seed decides")
    t.check(len(ids("--tokens", "1", "-n", "500", "--temp", "0").split()) == 127, "generate: ends at the trained context")
    text = t.expect(0, " w", "generate", *model, "--chat", "hello", "-n", "20", "--temp", "0", "--ignore-eos")
    t.check(text.endswith("\n"), "generate: text ends with a newline")
    t.expect(1, "chat-template", "generate", *model, "--chat", "hello", "--chat-template", "none-such")
    t.expect(1, "trained for 128", "generate", *model, "--tokens", ",".join(["1"] * 128))


def speed(t):
    out = json.loads(t.expect(0, "", "bench", "--model", t.path("m.gguf"), "-p", "20", "-n", "4", "-b", "1,3", "-r", "2",
                              "--json"))
    t.check(out["prefill"]["tok_s"] > 0 and [d["batch"] for d in out["decode"]] == [1, 3], out)
    t.expect(0, "decode", "bench", "--model", t.path("m.gguf"), "-p", "0", "-n", "2", "-b", "2", "-r", "1", "-d", "70")
    t.expect(1, "n_ctx", "bench", "--model", t.path("m.gguf"), "-p", "4096")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--shared")
    ap.add_argument("--full", action="store_true")
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        t = Test(os.path.join(a.build, "spillway-engine"), folder)
        for part in (models, help_and_usage, logits, generation, speed):
            part(t)
    print("%d passed, %d failed" % (t.passed, t.failed))
    return t.failed != 0


if __name__ == "__main__":
    sys.exit(main())
