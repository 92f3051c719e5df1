"""The DeepSeek-V3 architecture in miniature: MLA with a low-rank query, sigmoid gate with selection bias, grouped
top-k, a shared expert, a leading dense layer.  Written for training on a CPU: one thread, bfloat16 products, the rest
in float32.
"""
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    n_vocab: int = 1536
    n_ctx: int = 512
    n_layer: int = 5
    n_dense: int = 1
    d_model: int = 256
    n_head: int = 4
    d_nope: int = 32
    d_rope: int = 16
    d_v: int = 32
    q_lora: int = 128
    kv_lora: int = 64
    d_ff: int = 512
    n_expert: int = 16
    n_group: int = 4
    n_group_used: int = 2
    n_expert_used: int = 4
    d_expert: int = 96
    n_shared: int = 1
    route_scale: float = 2.5
    rope_base: float = 10000.0
    eps: float = 1e-6

    def as_dict(self):
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(pos, cfg):
    """cos and sin of shape [..., d_rope / 2] for integer positions."""
    i = torch.arange(cfg.d_rope // 2, dtype=torch.float32)
    angle = pos.float().unsqueeze(-1) * cfg.rope_base ** (-2.0 * i / cfg.d_rope)
    return angle.cos(), angle.sin()


def rope(x, cos, sin):
    """Rotate neighbouring pairs (2i, 2i+1): the interleaved order in which the GGUF file stores MLA's rope rows."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def linear(n_in, n_out, gain=1.0):
    m = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(m.weight, std=gain * 0.5 * n_in ** -0.5)
    return m


class MLA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_a, self.q_a_norm = linear(c.d_model, c.q_lora), RMSNorm(c.q_lora, c.eps)
        self.q_b = linear(c.q_lora, c.n_head * (c.d_nope + c.d_rope))
        self.kv_a, self.kv_a_norm = linear(c.d_model, c.kv_lora + c.d_rope), RMSNorm(c.kv_lora, c.eps)
        self.kv_b = linear(c.kv_lora, c.n_head * (c.d_nope + c.d_v))
        self.out = linear(c.n_head * c.d_v, c.d_model, (2 * c.n_layer) ** -0.5)

    def forward(self, x, cos, sin, mask):
        c, (n, t, _) = self.c, x.shape
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        q = self.q_b(self.q_a_norm(self.q_a(x))).view(n, t, c.n_head, -1)
        q = torch.cat([q[..., :c.d_nope], rope(q[..., c.d_nope:], cos, sin).to(q.dtype)], -1)
        latent, k_pe = self.kv_a(x).split([c.kv_lora, c.d_rope], -1)
        k_pe = rope(k_pe.unsqueeze(2), cos, sin).expand(-1, -1, c.n_head, -1)
        k_nope, v = self.kv_b(self.kv_a_norm(latent)).view(n, t, c.n_head, -1).split([c.d_nope, c.d_v], -1)
        k = torch.cat([k_nope, k_pe.to(k_nope.dtype)], -1)
        score = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1))
        p = (score.float() * (c.d_nope + c.d_rope) ** -0.5 + mask.unsqueeze(1)).softmax(-1)
        y = torch.matmul(p.to(v.dtype), v.transpose(1, 2))
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


class FFN(nn.Module):
    def __init__(self, c, d_ff):
        super().__init__()
        self.gate, self.up = linear(c.d_model, d_ff), linear(c.d_model, d_ff)
        self.down = linear(d_ff, c.d_model, (2 * c.n_layer) ** -0.5)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MoE(nn.Module):
    """Row e * d_expert + i of gate and up, and that column of down, is hidden unit i of expert e."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.router = linear(c.d_model, c.n_expert)
        self.register_buffer("bias", torch.zeros(c.n_expert))
        self.register_buffer("load", torch.zeros(c.n_expert))
        self.experts = FFN(c, c.n_expert * c.d_expert)
        nn.init.normal_(self.experts.down.weight, std=0.5 * (c.d_expert * 2 * c.n_layer) ** -0.5)
        self.shared = FFN(c, c.n_shared * c.d_expert)

    def route(self, x):
        """Weight of every expert for every token, zero for those not selected.  The bias chooses, it never weighs."""
        c = self.c
        with torch.autocast("cpu", enabled=False):
            s = torch.sigmoid(self.router(x.float()))
        with torch.no_grad():
            biased = (s + self.bias).view(-1, c.n_group, c.n_expert // c.n_group)
            best = biased.topk(2, -1).values.sum(-1).topk(c.n_group_used, -1).indices
            dropped = torch.ones(biased.shape[:2], dtype=torch.bool).scatter_(1, best, False)
            biased = biased.masked_fill(dropped.unsqueeze(-1), -1e9).flatten(1)
            chosen = torch.zeros_like(biased).scatter_(1, biased.topk(c.n_expert_used, -1).indices, 1.0)
            if self.training:
                self.load += chosen.sum(0)
        w = s * chosen
        return w / (w.sum(-1, keepdim=True) + 1e-20) * c.route_scale

    def forward(self, x):
        """Gathers the rows of each expert, runs the experts one after the other, and adds the weighted results."""
        c, flat = self.c, x.flatten(0, -2)
        w = self.route(flat)
        expert, token = (w > 0).t().nonzero(as_tuple=True)
        counts = torch.bincount(expert, minlength=c.n_expert).tolist()
        low = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        gate_up, down = self._expert_weights(low)
        rows, out = flat.to(low).index_select(0, token).split(counts), []
        for r, gu, d in zip(rows, gate_up, down):
            gate, up = F.linear(r, gu).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * up, d))
        y = torch.cat(out).float() * w[token, expert].unsqueeze(-1)
        y = torch.zeros_like(flat, dtype=torch.float32).index_add(0, token, y)
        return (y + self.shared(flat)).view(x.shape)

    def _expert_weights(self, dtype):
        """Per expert: gate and up as one matrix, and down.  Converted at once, which is cheaper than one by one."""
        c, e = self.c, self.experts
        shape = (c.n_expert, c.d_expert, -1)
        gate_up = torch.cat([e.gate.weight.view(shape), e.up.weight.view(shape)], 1).to(dtype)
        return gate_up.unbind(0), e.down.weight.to(dtype).view(-1, c.n_expert, c.d_expert).unbind(1)

    @torch.no_grad()
    def balance(self, rate):
        """Nudge the selection bias towards experts that got less than the mean load, then forget the counts."""
        if rate > 0:
            self.bias += rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Block(nn.Module):
    def __init__(self, c, dense):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(c.d_model, c.eps), MLA(c)
        self.ffn_norm, self.ffn = RMSNorm(c.d_model, c.eps), FFN(c, c.d_ff) if dense else MoE(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.attn(self.attn_norm(x), cos, sin, mask)
        return x + self.ffn(self.ffn_norm(x))


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.n_vocab, cfg.d_model)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(cfg, i < cfg.n_dense) for i in range(cfg.n_layer))
        self.norm, self.head = RMSNorm(cfg.d_model, cfg.eps), linear(cfg.d_model, cfg.n_vocab)

    def forward(self, ids, pos=None, doc=None):
        """ids [n, t] -> hidden states [n, t, d_model].  pos: position within the document; doc: its number in the row,
        where documents are packed; both may be left out for plain rows."""
        n, t = ids.shape
        pos = torch.arange(t).expand(n, t) if pos is None else pos
        seen = torch.ones(t, t, dtype=torch.bool).tril().unsqueeze(0)
        if doc is not None:
            seen = seen & (doc.unsqueeze(2) == doc.unsqueeze(1))
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -1e9)
        cos, sin = rope_table(pos, self.cfg)
        x = self.embed(ids).float()
        for b in self.blocks:
            x = b(x, cos, sin, mask)
        return self.norm(x)

    def moe_layers(self):
        return [b.ffn for b in self.blocks if isinstance(b.ffn, MoE)]


@torch.no_grad()
def generate(model, prompts, n_max, eos, batch=32):
    """Greedy continuations of several prompts (lists of ids).  No KV cache: at this size simplicity costs seconds."""
    model.eval()
    out = []
    for at in range(0, len(prompts), batch):
        out += _generate_batch(model, prompts[at:at + batch], n_max, eos)
    return out


def _generate_batch(model, prompts, n_max, eos):
    rows, done = [list(p) for p in prompts], [False] * len(prompts)
    for _ in range(n_max):
        live = [i for i, d in enumerate(done) if not d]
        if not live:
            break
        width = max(len(rows[i]) for i in live)
        ids = torch.tensor([rows[i] + [eos] * (width - len(rows[i])) for i in live])
        last = torch.tensor([len(rows[i]) - 1 for i in live])
        hidden = model(ids)[torch.arange(len(live)), last]
        for i, token in zip(live, model.head(hidden).argmax(-1).tolist()):
            done[i] = token == eos or len(rows[i]) >= model.cfg.n_ctx
            if not done[i]:
                rows[i].append(token)
    return [r[len(p):] for r, p in zip(rows, prompts)]
