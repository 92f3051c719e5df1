#!/usr/bin/env python3
"""Logits of small random models against a forward pass written here, from the papers, in plain double precision.

Proves that the engine's graphs are right without any file from outside: each architecture (llama with and without
llama3 rope factors, qwen2 tied and not, DeepSeek-V2 and V3 style with YaRN, split and whole kv_b) is synthesised in
F32 and compared at every position, max |difference| <= 1e-3. Keys and values of MLA are expanded per head here, which
is not how the engine does it.

    python3 tests/golden/forward.py --build build
"""
import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

BOUND = 1e-3
TOKENS = [17, 250, 3, 99, 100, 101, 3, 3, 270, 64, 5, 198]
DENSE = dict(n_layer=2, n_embd=64, n_head=4, n_kv_head=2, n_ff=80, n_vocab=288, n_ctx=128)
MLA = dict(arch="deepseek2", n_layer=2, n_embd=48, n_head=3, n_ff=64, n_vocab=288, n_ctx=128, kv_lora=24, d_nope=16, d_rope=8,
           d_v=12, n_dense_lead=1, n_expert=6, n_used=2, n_ff_exp=20, weights_scale=1.5, yarn_orig=8, yarn_factor=16)
SHAPES = {
    "llama": dict(DENSE, arch="llama"),
    "llama-rope3": dict(DENSE, arch="llama", llama3_rope=1, rope_base=500000),
    "qwen2": dict(DENSE, arch="qwen2", n_kv_head=1),
    "qwen2-tied": dict(DENSE, arch="qwen2", tied=1),
    "deepseek-v2": dict(MLA, n_shared=2, yarn_mscale=0.707),
    "deepseek-v2-whole-kv-b": dict(MLA, n_shared=1, yarn_mscale=0.707, legacy_kv_b=1),
    "deepseek-v2-groups": dict(MLA, n_group=3, n_group_used=2, yarn_mscale=1),
    "deepseek-v3": dict(MLA, n_shared=1, q_lora=20, sigmoid=1, weights_norm=1, n_group=3, n_group_used=2, yarn_mscale=1),
}


# ---- the file ----

class Reader:
    """Keys and F32 tensors of a GGUF v3 file."""
    FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.pos, self.keys, self.tensors = 8, {}, {}
        n_tensors, n_keys = self.take("Q"), self.take("Q")
        for _ in range(n_keys):
            key = self.text()
            self.keys[key] = self.value(self.take("I"))
        table = []
        for _ in range(n_tensors):
            name = self.text()
            shape = [self.take("Q") for _ in range(self.take("I"))]
            assert self.take("I") == 0, "forward.py reads F32 only"
            table.append((name, shape, self.take("Q")))
        base = (self.pos + 31) // 32 * 32
        for name, shape, offset in table:
            flat = struct.unpack_from("<%df" % math.prod(shape), self.data, base + offset)
            self.tensors[name] = nest(flat, shape)

    def take(self, fmt):
        v = struct.unpack_from("<" + fmt, self.data, self.pos)[0]
        self.pos += struct.calcsize("<" + fmt)
        return v

    def text(self):
        n = self.take("Q")
        self.pos += n
        return self.data[self.pos - n:self.pos].decode(errors="replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            item, n = self.take("I"), self.take("Q")
            return [self.value(item) for _ in range(n)]
        return self.take(self.FORMATS[kind])


def nest(flat, shape):
    """Innermost dimension first -> nested lists, outermost first."""
    for n in shape[:-1]:
        flat = [list(flat[i:i + n]) for i in range(0, len(flat), n)]
    return list(flat)


# ---- arithmetic on lists ----

def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def matvec(w, x):
    return [dot(row, x) for row in w]


def plus(a, b):
    return [x + y for x, y in zip(a, b)]


def rms_norm(x, w, eps):
    r = 1 / math.sqrt(dot(x, x) / len(x) + eps)
    return [v * r * g for v, g in zip(x, w)]


def softmax(x):
    top = max(x)
    e = [math.exp(v - top) for v in x]
    s = math.fsum(e)
    return [v / s for v in e]


def attend(q, keys, values, scale):
    p = softmax([scale * dot(q, k) for k in keys])
    return [math.fsum(w * v[i] for w, v in zip(p, values)) for i in range(len(values[0]))]


# ---- the model ----

class Model:
    def __init__(self, path):
        self.r = Reader(path)
        self.arch = self.r.keys["general.architecture"]
        self.eps = self.key("attention.layer_norm_rms_epsilon")
        self.n_head = self.key("attention.head_count")
        self.mla = self.arch == "deepseek2"
        self.softmax_factor = 1.0
        self.d_rope = self.key("rope.dimension_count", self.key("embedding_length") // self.n_head)
        self.freq = self.frequencies()

    def key(self, name, default=None):
        return self.r.keys.get(self.arch + "." + name, default)

    def t(self, name, layer=None):
        return self.r.tensors.get(name if layer is None else "blk.%d.%s" % (layer, name))

    def frequencies(self):
        base, d = self.key("rope.freq_base"), self.d_rope
        freq = [base ** (-2 * i / d) for i in range(d // 2)]
        if self.key("rope.scaling.type") == "yarn":
            # arXiv 2309.00071: pairs with more than 32 turns in the original context stay, with less than 1 are slowed
            factor, orig = self.key("rope.scaling.factor"), self.key("rope.scaling.original_context_length")

            def pair(turns):
                return d * math.log(orig / (turns * 2 * math.pi)) / (2 * math.log(base))
            lo, hi = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), d - 1)
            slow = [min(max((i - lo) / max(hi - lo, 0.001), 0), 1) for i in range(d // 2)]
            freq = [f / factor * s + f * (1 - s) for f, s in zip(freq, slow)]
            self.softmax_factor = (1 + self.key("rope.scaling.yarn_log_multiplier") * math.log(factor)) ** 2
        factors = self.t("rope_freqs.weight")
        return [f / g for f, g in zip(freq, factors)] if factors else freq

    def rotate(self, x, pos):
        half, y = len(x) // 2, list(x)
        for i, f in enumerate(self.freq):
            a, b = (i, i + half) if self.arch == "qwen2" else (2 * i, 2 * i + 1)
            c, s = math.cos(pos * f), math.sin(pos * f)
            y[a], y[b] = x[a] * c - x[b] * s, x[a] * s + x[b] * c
        return y

    def project(self, il, name, x):
        y = matvec(self.t(name + ".weight", il), x)
        bias = self.t(name + ".bias", il)
        return plus(y, bias) if bias else y

    def gqa(self, il, xs):
        heads, kv_heads = self.n_head, self.key("attention.head_count_kv")
        cut = lambda x, n: [x[i * len(x) // n:(i + 1) * len(x) // n] for i in range(n)]
        keys, values, out = [], [], []
        for pos, x in enumerate(xs):
            keys.append([self.rotate(k, pos) for k in cut(self.project(il, "attn_k", x), kv_heads)])
            values.append(cut(self.project(il, "attn_v", x), kv_heads))
            att = []
            for h, q in enumerate(cut(self.project(il, "attn_q", x), heads)):
                g = h * kv_heads // heads
                att += attend(self.rotate(q, pos), [k[g] for k in keys], [v[g] for v in values], len(q) ** -0.5)
            out.append(self.project(il, "attn_output", att))
        return out

    def expanded(self, il, c, h, nope):
        """Head h's key (without rope) and value from the latent c."""
        whole = self.t("attn_kv_b.weight", il)
        if whole:
            per = len(whole) // self.n_head
            kv = matvec(whole[h * per:(h + 1) * per], c)
            return kv[:nope], kv[nope:]
        kb = self.t("attn_k_b.weight", il)[h]  # [kv_lora][nope]
        return [math.fsum(kb[j][i] * c[j] for j in range(len(c))) for i in range(nope)], \
            matvec(self.t("attn_v_b.weight", il)[h], c)

    def mla_attention(self, il, xs):
        rank, out = self.key("attention.kv_lora_rank"), []
        d_k = self.key("attention.key_length_mla", self.key("attention.key_length"))
        nope, scale = d_k - self.d_rope, self.softmax_factor * d_k ** -0.5
        keys, values = [[] for _ in range(self.n_head)], [[] for _ in range(self.n_head)]
        for pos, x in enumerate(xs):
            latent = self.project(il, "attn_kv_a_mqa", x)
            c = rms_norm(latent[:rank], self.t("attn_kv_a_norm.weight", il), self.eps)
            shared = self.rotate(latent[rank:], pos)
            if self.t("attn_q_a.weight", il):
                q_a = rms_norm(self.project(il, "attn_q_a", x), self.t("attn_q_a_norm.weight", il), self.eps)
                q = self.project(il, "attn_q_b", q_a)
            else:
                q = self.project(il, "attn_q", x)
            att = []
            for h in range(self.n_head):
                k, v = self.expanded(il, c, h, nope)
                keys[h].append(k + shared)
                values[h].append(v)
                qh = q[h * d_k:(h + 1) * d_k]
                att += attend(qh[:nope] + self.rotate(qh[nope:], pos), keys[h], values[h], scale)
            out.append(self.project(il, "attn_output", att))
        return out

    @staticmethod
    def swiglu(gate, up, down, x):
        return matvec(down, [g / (1 + math.exp(-g)) * u for g, u in zip(matvec(gate, x), matvec(up, x))])

    def chosen(self, il, x):
        """[(expert, weight)]: arXiv 2405.04434 section 2.1.2, 2412.19437 section 2.1.2."""
        logits = matvec(self.t("ffn_gate_inp.weight", il), x)
        sigmoid = self.key("expert_gating_func") == 2
        score = [1 / (1 + math.exp(-v)) for v in logits] if sigmoid else softmax(logits)
        bias = self.t("exp_probs_b.bias", il)
        select = plus(score, bias) if bias else score
        groups = self.key("expert_group_count", 1)
        size = len(score) // groups
        best = [sorted(select[g * size:(g + 1) * size], reverse=True) for g in range(groups)]
        rank = [sum(b[:2]) if sigmoid else b[0] for b in best]
        kept = sorted(range(groups), key=lambda g: (-rank[g], g))[:self.key("expert_group_used_count", 1)]
        allowed = [e for e in range(len(score)) if e // size in kept]
        top = sorted(allowed, key=lambda e: (-select[e], e))[:self.key("expert_used_count")]
        total = sum(score[e] for e in top) if self.key("expert_weights_norm") else 1.0
        return [(e, score[e] / total * self.key("expert_weights_scale")) for e in top]

    def feed_forward(self, il, x):
        part = lambda suffix: [self.t("ffn_%s%s.weight" % (n, suffix), il) for n in ("gate", "up", "down")]
        if not self.t("ffn_gate_inp.weight", il):
            return self.swiglu(*part(""), x)
        gate, up, down = part("_exps")
        y = self.swiglu(*part("_shexp"), x) if part("_shexp")[0] else [0.0] * len(x)
        for e, w in self.chosen(il, x):
            y = plus(y, [w * v for v in self.swiglu(gate[e], up[e], down[e], x)])
        return y

    def forward(self, tokens):
        xs = [self.t("token_embd.weight")[i] for i in tokens]
        for il in range(self.key("block_count")):
            hs = [rms_norm(x, self.t("attn_norm.weight", il), self.eps) for x in xs]
            att = self.mla_attention(il, hs) if self.mla else self.gqa(il, hs)
            xs = [plus(x, y) for x, y in zip(xs, att)]
            hs = [rms_norm(x, self.t("ffn_norm.weight", il), self.eps) for x in xs]
            xs = [plus(x, self.feed_forward(il, h)) for x, h in zip(xs, hs)]
        output = self.t("output.weight") or self.t("token_embd.weight")
        return [matvec(output, rms_norm(x, self.t("output_norm.weight"), self.eps)) for x in xs]


def check(engine, folder, name, shape):
    """Largest difference over all positions and logits."""
    paths = {k: os.path.join(folder, name + "." + k) for k in ("json", "gguf", "logits")}
    with open(paths["json"], "w") as f:
        json.dump(shape, f)
    subprocess.run([engine, "synth", "--shape", paths["json"], "--type", "F32", "--out", paths["gguf"]], check=True)
    subprocess.run([engine, "eval", "--model", paths["gguf"], "--tokens", ",".join(map(str, TOKENS)), "--all-logits",
                    "--precise", "--chunk", "5", "--logits-out", paths["logits"]], check=True)
    with open(paths["logits"], "rb") as f:
        data = f.read()
    got = struct.unpack("<%df" % (len(data) // 4), data)
    want = [v for row in Model(paths["gguf"]).forward(TOKENS) for v in row]
    assert len(got) == len(want), (len(got), len(want))
    return max(abs(a - b) for a, b in zip(got, want))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--engine")
    ap.add_argument("--shared")
    ap.add_argument("--full", action="store_true")
    ap.add_argument("--verbose", action="store_true")
    a = ap.parse_args()
    engine = a.engine or os.path.join(a.build, "spillway-engine")
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            diff = check(engine, folder, name, shape)
            passed += diff <= BOUND
            failed += not diff <= BOUND
            if a.verbose or not diff <= BOUND:
                print("%s: max |difference| %.3g" % (name, diff))
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
