#!/usr/bin/env python3
"""Counts from the data alone, no simulation: two tables of docs/ECONOMICS.md. Needs ../shared/data and numpy.

    python3 tests/bench/economics_counts.py --shared ../shared

1. What a step in the load costs a policy that learns of it when it comes: azure-70b's curve, own machines for half of the peak, before a
   step what was needed then and a head-room on top, machines 250 s later. How much is above capacity meanwhile, and how many are late
   if first come is first served.
2. How well r1-70b's load can be foreseen five minutes ahead, by forecasts that know what came until now.
"""

import argparse
import sys
import types

import numpy as np

import economics

STEP_S = 10
BOOT_S = 250  # from the decision to service: a tick, and the boot
WAIT_S = 0.4  # of 0.5 s, what a mean prompt leaves for waiting
AHEAD = 300 // STEP_S


def head_room(bench, share):
    """Fluid, in seconds: shares of all requests that are (above capacity, late in the order of arrival)."""
    at, *_, weight, work, _ = economics.work_of(bench, "azure-70b")
    rate = np.bincount((at / 600).astype(int), work * weight, 144) / 600  # nodes that would be full, by ten minutes
    rate = np.repeat(rate, 600)
    own = rate.max() / 2
    before = np.concatenate([np.full(BOOT_S, rate[0]), rate[:-BOOT_S]])
    # What is there was needed 250 s ago; less is followed at once.
    capacity = np.maximum(own, (1 + share) * np.minimum(rate, before))
    backlog = late = over = 0.0
    for r, c in zip(rate, capacity):
        over += max(r - c, 0)
        backlog = max(backlog + r - c, 0)
        late += r * (backlog > WAIT_S * c)
    return over / rate.sum(), late / rate.sum()


def load(bench, copies=10, seed=7):
    """Tokens per second, in steps of ten seconds."""
    at, prompt, *_ = economics.requests_of(bench, "r1-70b")
    at, prompt = at[:len(at) // 10], prompt[:len(at) // 10]
    random = np.random.default_rng(seed)
    n = economics.DAY_S // STEP_S
    came = np.concatenate([at + random.uniform(0, 600) for _ in range(copies)])
    y = np.zeros(n + 200)
    np.add.at(y, np.minimum((came / STEP_S).astype(int), n + 199), np.tile(prompt, copies) + 1500)
    return y[:n] / STEP_S


def level(y, tau):
    a, out, s = 1 - np.exp(-STEP_S / tau), np.zeros_like(y), y[:30].mean()
    for i, v in enumerate(y):
        s += a * (v - s)
        out[i] = s
    return out


def regression(y, lags=12, forget=0.9995):
    """The last minutes and the level of half an hour, weighed by recursive least squares."""
    minute = np.convolve(y, np.ones(6) / 6)[:len(y)]
    x = np.array([np.concatenate([np.zeros(6 * k), minute[:len(y) - 6 * k]]) for k in range(lags)] + [level(y, 1800)]).T
    p, w, out = np.eye(lags + 1) * 10, np.zeros(lags + 1), np.zeros(len(y))
    w[0], w[-1] = 0.6, 0.4
    for i in range(len(y)):
        out[i] = w @ x[i]
        then = i - AHEAD
        if then >= 0:
            scale = max(x[then][-1], 1)
            v = x[then] / scale
            g = p @ v / (forget + v @ p @ v)
            w += g * (minute[i] / scale - w @ v)
            p = (p - np.outer(g, v @ p)) / forget
    return out


def error(y, said):
    """Spread of the error, of the mean; the first two hours are for learning."""
    minute = np.convolve(y, np.ones(6) / 6)[:len(y)]
    e = (minute[AHEAD:] - said[:-AHEAD])[720:]
    return e.std() / minute[720:].mean()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shared", default="../shared")
    args = p.parse_args()
    bench = economics.Bench(types.SimpleNamespace(build="build", shared=args.shared, tuning=None))
    if not economics.os.path.exists(bench.data):
        sys.exit("skipped: no ../shared/data")
    rows = [(f"{100 * h:.0f}%", *(f"{100 * v:.2f}%" for v in head_room(bench, h))) for h in (0.1, 0.25, 0.4, 0.6)]
    economics.table(("head-room", "above capacity until machines are up", "late, if first come is first served"), rows)
    y = load(bench)
    rows = [(f"level over {tau} s", error(y, level(y, tau))) for tau in (30, 60, 120, 240)]
    rows.append(("level over 60 s, 40% of the mean of half an hour", error(y, 0.6 * level(y, 60) + 0.4 * level(y, 1800))))
    rows.append(("regression on the last 12 minutes", error(y, regression(y))))
    economics.table(("forecast of r1-70b, five minutes ahead", "spread of its error"), [(n, f"{100 * v:.1f}%") for n, v in rows])


if __name__ == "__main__":
    main()
