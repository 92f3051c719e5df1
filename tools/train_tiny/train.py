#!/usr/bin/env python3
"""Train spillway-tiny on the generated corpus.

    python train.py --minutes 60 --out run/            # from nothing; writes run/tokenizer.json and run/last.pt
    python train.py --minutes 60 --out run/ --resume   # go on after an interruption, same schedule
    python train.py --minutes 15 --out run2/ --init run/last.pt --lr 1e-3     # a second, shorter schedule

Two processes of one thread each compute half of every batch and add up their gradients.  On a machine with other work
that is much faster than two threads in one process, which would wait for each other at every matrix product.

The learning rate follows the share of the time that is used up, not a number of steps: the run ends well on a busy
machine as on an idle one, it has only seen less text.
"""
import argparse
import math
import os
import random
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import bpe
from corpus import Corpus
from data import Packer
from model import Config, Model

TOKENIZER_TEXTS = 20_000


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--out", required=True)
    ap.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    ap.add_argument("--init", help="start a new schedule from this checkpoint's weights")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--tokens", type=int, default=3072, help="tokens per step, all processes together")
    ap.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    ap.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    ap.add_argument("--seed", type=int, default=1)
    return ap.parse_args()


def tokenizer_for(out, init, corpus):
    """Puts the run's tokenizer in place: its own if there is one, else that of the run it starts from, else a new one."""
    path = os.path.join(out, "tokenizer.json")
    for source in [path] + ([os.path.join(os.path.dirname(init), "tokenizer.json")] if init else []):
        if os.path.exists(source):
            tok = bpe.Tokenizer.load(source)
            break
    else:
        rng = random.Random(7)
        texts = [text for _ in range(TOKENIZER_TEXTS) for _, text in corpus.conversation(rng)]
        tok = bpe.train(texts, Config.n_vocab)
    tok.save(path)


def optimizer_for(model, lr):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def lr_at(share, step, peak):
    """Cosine from the peak to 5 % over the time, after a warm-up of 60 steps."""
    return peak * min(1.0, (step + 1) / 60) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def loss_of(model, batch):
    """Weighted mean loss; only positions that count go through the output head."""
    ids, target, weight, pos, doc = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(ids, pos, doc)
        keep = weight > 0
        logits = model.head(hidden[keep])
    each = F.cross_entropy(logits.float(), target[keep], reduction="none")
    w = weight[keep]
    answers = each[w == 1.0].mean().item()
    return (each * w).sum() / w.sum(), answers


def dead_experts(model):
    """Experts whose share of the tokens since the last balance is below a tenth of the mean."""
    return sum(int((m.load < 0.1 * m.load.mean()).sum()) for m in model.moe_layers())


class Run:
    """Everything that a checkpoint has to bring back."""

    def __init__(self, args, model):
        self.args, self.model = args, model
        self.optimizer = optimizer_for(model, args.lr)
        self.step, self.tokens, self.elapsed = 0, 0, 0.0
        self.path = os.path.join(args.out, "last.pt")

    def save(self):
        state = {"config": self.model.cfg.as_dict(), "model": self.model.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "step": self.step, "tokens": self.tokens,
                 "elapsed": self.elapsed}
        torch.save(state, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def load(self):
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.elapsed = state["step"], state["tokens"], state["elapsed"]

    def exchange(self, tokens, elapsed):
        """Mean gradients, summed expert loads and token count, and the first process' clock, in one round: from here
        on all processes hold the same numbers and do the same step."""
        grads = [p.grad for p in self.model.parameters()]
        loads = [m.load for m in self.model.moe_layers()]
        first = dist.get_rank() == 0
        flat = torch.cat([g.flatten() for g in grads + loads] + [torch.tensor([tokens, elapsed if first else 0.0])])
        dist.all_reduce(flat)
        at, n = 0, dist.get_world_size()
        for t in grads + loads:
            t.copy_(flat[at:at + t.numel()].view_as(t))
            at += t.numel()
        for g in grads:
            g /= n
        return int(flat[-2]), float(flat[-1])

    def train_step(self, batch, elapsed):
        """One step; returns the mean loss on answer tokens (of this process) and the number of idle experts."""
        self.model.train()
        loss, answers = loss_of(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        tokens, self.elapsed = self.exchange(int((batch[4] >= 0).sum()), elapsed)
        share = self.elapsed / (self.args.minutes * 60)
        for g in self.optimizer.param_groups:
            g["lr"] = lr_at(share, self.step, self.args.lr)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        dead = dead_experts(self.model)
        for m in self.model.moe_layers():
            m.balance(0.001 if share < 0.8 else 0.0)
        self.step += 1
        self.tokens += tokens
        return answers, dead


def worker(rank, args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method="file://" + os.path.abspath(os.path.join(args.out, "rendezvous")),
                            rank=rank, world_size=args.workers)
    corpus = Corpus()
    tok = bpe.Tokenizer.load(os.path.join(args.out, "tokenizer.json"))
    run = Run(args, Model(Config()))
    if args.init:
        run.model.load_state_dict(torch.load(args.init, weights_only=True)["model"])
    if args.resume:
        run.load()
    packer = Packer(corpus, tok, args.tokens // args.workers,
                    random.Random("%d/%d/%d" % (args.seed, run.step, rank)))
    train(run, packer, args, rank)
    dist.destroy_process_group()


def train(run, packer, args, rank):
    before, start = run.elapsed, time.monotonic()
    saved = start
    while run.elapsed < args.minutes * 60:
        now = time.monotonic()
        answers, dead = run.train_step(packer.batch(), before + now - start)
        if rank == 0 and run.step % 50 == 0:
            print("step %d  %.1f min  %.2fM tokens  answer loss %.4f  idle experts %d"
                  % (run.step, run.elapsed / 60, run.tokens / 1e6, answers, dead), flush=True)
        if rank == 0 and now - saved > args.save_every:
            run.save()
            saved = now
    if rank == 0:
        run.save()
        print("done: %d steps, %.2fM tokens" % (run.step, run.tokens / 1e6), flush=True)


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    rendezvous = os.path.join(args.out, "rendezvous")
    if os.path.exists(rendezvous):
        os.remove(rendezvous)
    corpus = Corpus()
    tokenizer_for(args.out, args.init, corpus)
    n = sum(p.numel() for p in Model(Config()).parameters())
    print("%.2fM parameters, %d intents" % (n / 1e6, len(corpus.intent_ids())), flush=True)
    mp.spawn(worker, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
