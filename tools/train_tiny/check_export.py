#!/usr/bin/env python3
"""Compare an exported file with the checkpoint it came from, without the engine.

    python check_export.py run/last.pt ../../models/spillway-tiny.gguf

The file is computed by a second, plain numpy implementation that reads nothing but the file (names, shapes, keys), with
attention absorbed into the latent space as an engine does it.  Its logits must agree with those of the torch model
loaded with the file's own (dequantised) numbers up to rounding, and with the unquantised checkpoint up to Q8_0's error.
"""
import sys

import numpy as np
import torch

import gguf
from data import prompt_ids
from export_gguf import load_checkpoint

TEXTS = ["What is a KV cache?", "Tell me a story about a fox and a golden key.", "hello"]
ROUNDING = 2e-3


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class NumpyModel:
    def __init__(self, path):
        r = gguf.Reader(path)
        self.t = {k: v.astype(np.float64) for k, v in r.tensors.items()}
        self.meta = r.meta

    def key(self, name):
        return self.meta["deepseek2." + name]

    def rope(self, x):
        """Rotate pairs of the last axis; x is [position, ..., d_rope]."""
        n, d = x.shape[0], x.shape[-1]
        angle = np.outer(np.arange(n), self.key("rope.freq_base") ** (-np.arange(0, d, 2) / d))
        turn = np.exp(1j * angle).reshape((n,) + (1,) * (x.ndim - 2) + (d // 2,))
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    def attention(self, p, x):
        eps, n = self.key("attention.layer_norm_rms_epsilon"), len(x)
        heads, d_rope = self.key("attention.head_count"), self.key("rope.dimension_count")
        d_key, latent = self.key("attention.key_length_mla"), self.key("attention.kv_lora_rank")
        w = lambda name: self.t[p + name + ".weight"]
        q = rms(x @ w("attn_q_a").T, w("attn_q_a_norm"), eps) @ w("attn_q_b").T
        q_nope, q_pe = np.split(q.reshape(n, heads, d_key), [d_key - d_rope], -1)
        kv = x @ w("attn_kv_a_mqa").T
        c, k_pe = rms(kv[:, :latent], w("attn_kv_a_norm"), eps), self.rope(kv[:, latent:])
        q_latent = np.einsum("thn,hln->thl", q_nope, w("attn_k_b"))
        score = np.einsum("thl,sl->hts", q_latent, c) + np.einsum("thr,sr->hts", self.rope(q_pe), k_pe)
        score = np.where(np.tri(n, dtype=bool), score / np.sqrt(d_key), -np.inf)
        mixed = np.einsum("hts,sl->thl", softmax(score), c)
        return np.einsum("thl,hvl->thv", mixed, w("attn_v_b")).reshape(n, -1) @ w("attn_output").T

    def gate(self, p, x):
        """[(expert, weight), ...] for one token."""
        s = 1 / (1 + np.exp(-(self.t[p + "ffn_gate_inp.weight"] @ x)))
        groups = (s + self.t[p + "exp_probs_b.bias"]).reshape(self.key("expert_group_count"), -1)
        worth = np.sort(groups, 1)[:, -2:].sum(1)
        best = np.argsort(-worth)[:self.key("expert_group_used_count")]
        masked = np.full(groups.shape, -np.inf)
        masked[best] = groups[best]
        chosen = np.argsort(-masked.ravel())[:self.key("expert_used_count")]
        return [(e, self.key("expert_weights_scale") * s[e] / s[chosen].sum()) for e in chosen]

    def ffn(self, p, x):
        t = self.t
        if p + "ffn_gate_inp.weight" not in t:
            return silu(x @ t[p + "ffn_gate.weight"].T) * (x @ t[p + "ffn_up.weight"].T) @ t[p + "ffn_down.weight"].T
        y = silu(x @ t[p + "ffn_gate_shexp.weight"].T) * (x @ t[p + "ffn_up_shexp.weight"].T)
        y = y @ t[p + "ffn_down_shexp.weight"].T
        gate, up, down = (t[p + "ffn_%s_exps.weight" % n] for n in ("gate", "up", "down"))
        for i, row in enumerate(x):
            for e, weight in self.gate(p, row):
                y[i] += weight * (down[e] @ (silu(gate[e] @ row) * (up[e] @ row)))
        return y

    def logits(self, ids):
        t, eps = self.t, self.key("attention.layer_norm_rms_epsilon")
        x = t["token_embd.weight"][ids]
        for i in range(self.key("block_count")):
            p = "blk.%d." % i
            x = x + self.attention(p, rms(x, t[p + "attn_norm.weight"], eps))
            x = x + self.ffn(p, rms(x, t[p + "ffn_norm.weight"], eps))
        return rms(x, t["output_norm.weight"], eps) @ t["output.weight"].T


@torch.no_grad()
def through_q8_0(model):
    """Round every matrix of the torch model to what the file holds."""
    for name, p in model.named_parameters():
        if p.dim() < 2 or "router" in name:
            continue
        if name.endswith("kv_b.weight"):        # its key half is quantised along the other axis
            c = model.cfg
            k, v = p.view(c.n_head, c.d_nope + c.d_v, c.kv_lora).split([c.d_nope, c.d_v], 1)
            k.copy_(rounded(k.transpose(1, 2)).transpose(1, 2))
            v.copy_(rounded(v))
        else:
            p.copy_(rounded(p))


def rounded(p):
    a = p.detach().numpy()
    return torch.from_numpy(gguf.dequantise_q8_0(gguf.quantise_q8_0(a)).reshape(a.shape))


@torch.no_grad()
def main(checkpoint, path):
    model, tok = load_checkpoint(checkpoint)
    prompts = [prompt_ids(tok, t) for t in TEXTS]
    exact = [model.head(model(torch.tensor([ids])))[0].numpy() for ids in prompts]
    through_q8_0(model)
    same = [model.head(model(torch.tensor([ids])))[0].numpy() for ids in prompts]
    numpy_model, worst = NumpyModel(path), 0.0
    for text, ids, a, b in zip(TEXTS, prompts, exact, same):
        got = numpy_model.logits(ids)
        worst = max(worst, np.abs(got - b).max())
        print("%-48s largest difference: to the rounded model %.1e, to the checkpoint %.2f; same next token: %s"
              % (text, np.abs(got - b).max(), np.abs(got - a).max(), got[-1].argmax() == a[-1].argmax()))
    if worst > ROUNDING:
        sys.exit("the file does not compute what the model does")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
