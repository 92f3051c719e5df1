#!/usr/bin/env python3
"""What Spillway's `cost` policy costs on real data, beside simpler policies and beside a plan made by somebody who knows the
future: docs/ECONOMICS.md. Drives `spillway simulate`; needs ../shared/data, and scipy for the plan (a virtual environment will do;
without it the plan is left out).

    python3 tests/bench/economics.py --build build --shared ../shared --out economics.json [--case r1-70b] [--quick]

What was chosen by figures was chosen on other days than the reported one (TUNING): `--tuning 1` to `6` shows them.
"""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    from scipy import optimize, sparse
except ImportError:
    np = None

SLOT_S = 300  # of the plan; the step of the spot series, too
DAY_S = 86400
BOOT_S = 240
SLO_SHARE = 0.99
# load_max: of the rate at which a node is full, by class of load. Chosen on other days than the reported one, see docs/ECONOMICS.md.
LOAD_MAX = {"r1": 0.95, "azure": 0.76}
# Seed, hours into the spot record, and for azure the day of m-large's curve, scaled to the mean of the reported one. 4 to 6 are azure's:
# these curves leap as often as the reported day's.
TUNING = {1: (2, 74, 1), 2: (4, 26, 3), 3: (3, 50, 5), 4: (5, 98, 0), 5: (6, 122, 8), 6: (7, 146, 9)}
SCALING = "over_provision: 0, down_after: 120s, return_after: 10s, drain_max: 120s, queue_drain: 300s"
START = "2024-03-05T00:00:00Z"

# gpus: of one node; purchase: $ 35,000 per H100 with its share of the server, an assumption that is varied below.
CLASSES = {
    "70b": {"gpus": 4, "params": 70.6, "layers": 80, "measured": "meta-llama/Llama-3.1-70B-Instruct", "share": 0.5,
            "sequences": 512, "api": (0.88, 0.88), "idle": 480, "sleep": 320},
    "8b": {"gpus": 1, "params": 8.03, "layers": 32, "measured": "meta-llama/Llama-3.1-8B-Instruct", "share": 0.125,
           "sequences": 512, "api": (0.18, 0.18), "idle": 120, "sleep": 80},
}
CASES = {
    "r1-70b": {"class": "70b", "trace": "r1", "copies": 10, "spot_nodes": 16},
    "r1-8b": {"class": "8b", "trace": "r1", "copies": 30, "spot_nodes": 32},
    "azure-70b": {"class": "70b", "trace": "azure", "factor": 3.0, "spot_nodes": 16},
}
OWN = {"r1-70b": 9, "r1-8b": 14, "azure-70b": 10}  # half of the nodes that the peak took; of tuning days alone
ZONES = [("us-east-2b_v100_1", "use2-az2", "us-east-2b"), ("us-west-2a_v100_1", "usw2-az1", "us-west-2a"),
         ("us-west-2c_v100_1", "usw2-az3", "us-west-2c")]


class Bench:
    def __init__(self, args):
        self.args = args
        self.spillway = os.path.join(args.build, "spillway")
        self.data = os.path.abspath(os.path.join(args.shared, "data"))
        self.temporary = tempfile.TemporaryDirectory()
        self.runs = 0

    def scenario(self, case, **o):
        """The scenario file's text. o: load_max, own, api, api_ttft_ms, on_demand, spot, price_factor, spot_factor, fixed, seed,
        idle."""
        c, k = CASES[case], CLASSES[CASES[case]["class"]]
        d = self.data
        tuning = TUNING.get(self.args.tuning)
        load_max = o.get("load_max", LOAD_MAX[c["trace"]])
        curve, column = f"{d}/traces/aggregate_rates_10min.csv", "deepseek-r1"
        if tuning and c["trace"] == "azure":
            curve, column = self.other_curve(tuning[2]), "m-large"
        lines = [f"scenario: {case}", f"start: {START}", "span: 24h", f"prices: {d}/prices/gpu_prices.csv",
                 f"spot: {d}/spot/spot_traces_rle.csv", f"power: {d}/power/ml_energy_v3_llm.csv",
                 f"electricity: {d}/electricity/price_carbon_2024_hourly.csv.gz",
                 f"seed: {tuning[0] if tuning else o.get('seed', 1)}", "traces:"]
        if c["trace"] == "r1":
            lines += [f"  - {{file: {d}/traces/deepseek-r1_sampled_24h_tenth.csv.gz, copies: {c['copies']}, shift: 10m}}"]
        else:
            lines += [f"  - {{file: {d}/traces/AzureLLMInferenceTrace_conv.csv, tile: true, curve_factor: {c['factor']}, "
                      f"curve: {curve}, curve_column: {column}}}"]
        bridge = "true" if o.get("api", True) else "false"
        scaled = "false" if o.get("fixed") else "true"
        lines += ["models:", "  - name: llm", "    objective: cost",
                  "    slo: {ttft: 500ms, ttft_per_1k: 100ms, free_tokens: 4000, probability: 0.99}",
                  "    interactive: {max: 100000, wait: 10m}",
                  f"    autoscale: {{enabled: {scaled}, tick: 10s, api: {bridge}, {SCALING}}}"]
        lines += ["types:", "  - name: node", f"    measured: {{model: {k['measured']}, gpu: H100, gpus: {k['gpus']}, "
                  "task: lm-arena-chat}",
                  f"    shape: {{params_b: {k['params']}, layers: {k['layers']}, kv_heads: 8, head_dim: 128}}",
                  f"    gpu: {{gpus: {k['gpus']}, memory_gb: 80, bandwidth_gb_s: 3350, tflops: 989, flops_share: 0.4}}",
                  f"    sequences_max: {k['sequences']}", f"    load_max: {load_max}",
                  f"    watts: {{idle: {k['idle']}, sleep: {k['sleep']}}}", "    wake: 20s"]
        lines += ["sites:", "  - {name: hall, zone: US-CAL-CISO, overhead: 1.3}", "offers:"]
        if o.get("own"):
            lines += [f"  - {{provider: own, zone: hall, type: node, market: on_prem, site: hall, running: {o['own']}, "
                      f"purchase: {35000 * k['gpus']}, life_years: 4}}"]
        factor = o.get("price_factor", 1)
        if o.get("spot", True):
            for series, az, name in ZONES:
                lines += [f"  - {{provider: aws, zone: {name}, type: node, market: spot, boot: {BOOT_S}s, list_price: "
                          f"{{type: p5.48xlarge, zone: {az}, share: {k['share']}, factor: {factor * o.get('spot_factor', 1)}}}, "
                          f"available: {{collection: aws-08-27-2023, zone: {series}, nodes: {c['spot_nodes']}, "
                          f"offset: {tuning[1] if tuning else 0}h}}}}"]
        if o.get("on_demand", True):
            fixed = f"running: {o['fixed']}, " if o.get("fixed") else ""
            lines += [f"  - {{provider: aws, zone: us-east-1, type: node, market: on_demand, boot: {BOOT_S}s, nodes_max: 300, {fixed}"
                      f"list_price: {{type: p5.48xlarge, share: {k['share']}, factor: {factor}}}}}"]
        if o.get("api", True):
            lines += ["apis:", f"  - {{provider: api, input: {k['api'][0]}, output: {k['api'][1]}, ttft: "
                      f"{o.get('api_ttft_ms', 400)}ms, tpot: 15ms, spread: 0.05}}"]
        return "\n".join(lines) + "\n"

    def other_curve(self, day):
        """Rates of another model on another day, as many requests as on the reported one."""
        path = os.path.join(self.temporary.name, f"rates{day}.csv")
        with open(f"{self.data}/traces/aggregate_rates_10min.csv") as f:
            rows = list(csv.DictReader(f))
        wanted = sum(float(r["deepseek-r1"]) for r in rows[:144])
        rates = [float(r["m-large"]) for r in rows[144 * day:144 * (day + 1)]]
        with open(path, "w") as f:
            f.write("timestamp_s,m-large\n")
            f.writelines(f"{600 * i},{rate * wanted / sum(rates):.4f}\n" for i, rate in enumerate(rates))
        return path

    def run(self, case, baselines="none", **o):
        path = os.path.join(self.temporary.name, "scenario.yaml")
        with open(path, "w") as f:
            f.write(self.scenario(case, **o))
        begin = time.monotonic()
        p = subprocess.run([self.spillway, "simulate", "--config", path, "--format", "json", "--baselines", baselines],
                           capture_output=True, text=True, check=False)
        if p.returncode:
            sys.exit(f"{p.stderr}\n{self.scenario(case, **o)}")
        r = json.loads(p.stdout)
        self.runs += 1
        for s in r["scenarios"]:
            s.pop("samples", None)
            s.pop("teams", None)
            if s["simulated"]:
                print(f"  {case} {o if s is r['scenarios'][0] else ''} {s['scenario']}: $ {float(s['usd']):.2f}, in SLO "
                      f"{100 * s['slo_attainment']:.2f}%  ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
        return r["scenarios"][0] if baselines == "none" else r["scenarios"]


def meets(s):
    return s["simulated"] and s["slo_attainment"] >= SLO_SHARE and s["done"] >= SLO_SHARE * s["requests"]


def smallest_fixed(bench, case, begin=8):
    """The fewest on-demand nodes, all day, that keep the SLO: upwards from a guess, then bisection."""
    def good(n):
        s = bench.run(case, own=0, spot=False, api=False, fixed=n)
        return s if meets(s) else None

    lo, hi, best = begin // 2, begin, None
    while not (best := good(hi)):
        lo, hi = hi, hi + max(2, hi // 8)
    if begin > 8 and hi == begin:
        lo = begin - 2
    while hi - lo > 1:
        mid = (lo + hi) // 2
        s = good(mid)
        lo, hi, best = (lo, mid, s) if s else (mid, hi, best)
    return hi, best


# --- the clairvoyant plan ------------------------------------------------------------------------------------------------

def requests_of(bench, case):
    """Arrival, prompt and output of every request as the simulator got them, without the chance of the shifts: the
    file's rows, weighted. Shifts of up to ten minutes are spread evenly."""
    c = CASES[case]
    if c["trace"] == "r1":
        with gzip.open(f"{bench.data}/traces/deepseek-r1_sampled_24h_tenth.csv.gz", "rt") as f:
            rows = np.array([(float(r["arrival_s"]), int(r["input_tokens"]), int(r["output_tokens"])) for r in csv.DictReader(f)])
        at = np.concatenate([rows[:, 0] + 600 * (i + 0.5) / 10 for i in range(10)])
        keep = at < DAY_S
        return at[keep], np.tile(rows[:, 1], 10)[keep], np.tile(rows[:, 2], 10)[keep], c["copies"] / 10
    with open(f"{bench.data}/traces/AzureLLMInferenceTrace_conv.csv") as f:
        rows = np.array([(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(f)])
    with open(f"{bench.data}/traces/aggregate_rates_10min.csv") as f:
        rates = [float(r["deepseek-r1"]) for r in csv.DictReader(f) if r["deepseek-r1"]][:144]
    at, which = [], []
    for i, rate in enumerate(rates):
        n = int(rate * c["factor"] * 600)
        at.append(600 * (i + (np.arange(n) + 0.5) / n))
        which.append((np.arange(n) * 7919 + i) % len(rows))
    which = np.concatenate(which)
    return np.concatenate(at), rows[which, 0], rows[which, 1], 1.0


def curve_of(bench, case):
    """The four numbers of a node, fitted as the simulator does."""
    k = CLASSES[CASES[case]["class"]]
    with open(f"{bench.data}/power/ml_energy_v3_llm.csv") as f:
        rows = [(float(r["avg_batch_size"]), float(r["median_itl_ms"]) * 1e3, float(r["avg_power_watts"]))
                for r in csv.DictReader(f) if r["model_id"] == k["measured"] and r["gpu_model"] == "H100"
                and int(r["num_gpus"]) == k["gpus"] and r["task"] == "lm-arena-chat"]
    b, y, watts = map(np.array, zip(*rows))
    slope, base = np.polyfit(b, y, 1, w=np.sqrt(1 / y))
    kv = (k["gpus"] * 80e9 * 0.9 - k["params"] * 2e9) / (2 * 8 * 128 * k["layers"] * 2)
    return base, slope, 2 * k["params"] * 1e9 / (989e12 * 0.4 * k["gpus"]) * 1e6, kv, watts.max()


def spot_steps(bench, case, offset_s=0):
    """Nodes available by zone and slot, from so far into the record on."""
    c = CASES[case]
    out = []
    for series, _, _ in ZONES:
        with open(f"{bench.data}/spot/spot_traces_rle.csv") as f:
            runs = [(int(r["start_tick"]), int(r["length_ticks"]), int(r["available"]), int(r["nodes"]), int(r["gap_s"]))
                    for r in csv.DictReader(f) if r["collection"] == "aws-08-27-2023" and r["zone_gpu"] == series]
        ticks = np.concatenate([np.full(n, a * c["spot_nodes"] // nodes) for _, n, a, nodes, _ in runs])
        assert runs[0][4] == SLOT_S
        out.append(ticks[offset_s // SLOT_S:][:DAY_S // SLOT_S])
    return out


def list_price(bench, market, zone=None):
    with open(f"{bench.data}/prices/gpu_prices.csv") as f:
        prices = [float(r[market]) for r in csv.DictReader(f) if r["instance_type"] == "p5.48xlarge" and r[market]
                  and not r["flags"] and (zone is None or r["zone"] == zone)]
    return min(prices)


def work_of(bench, case):
    """What each request takes of a full node, in seconds: its prefill, its part in the steps, and in the steps' constant part the share of
    the batch (of KV memory, mostly) that it holds; and how long it holds it. The sum over requests per second is how many nodes would
    be full (policies/capacity.h, capacity_saturated())."""
    k = CLASSES[CASES[case]["class"]]
    base, slope, prefill, kv, _ = curve_of(bench, case)
    at, prompt, output, weight = requests_of(bench, case)
    sequences = min(k["sequences"], kv / ((output * (prompt + output)).sum() / output.sum()))
    part = np.maximum((prompt + output) / kv, 1 / k["sequences"])
    return at, prompt, output, weight, (prompt * prefill + output * (slope + base * part)) / 1e6, output * (base + slope * sequences) / 1e6


def by_slot(at, lasts, amount, which, n_which):
    """amount (per request) spread evenly over [at, at + lasts): sums by slot and kind."""
    fine, slots = 30, DAY_S // SLOT_S
    first = (at / fine).astype(int)
    last = np.minimum(((at + lasts) / fine).astype(int) + 1, DAY_S // fine)
    last = np.maximum(last, first + 1)
    steps = np.zeros((DAY_S // fine + 2, n_which))
    np.add.at(steps, (first, which), amount / (last - first))
    np.add.at(steps, (last, which), -amount / (last - first))
    return np.cumsum(steps, 0)[:DAY_S // fine].reshape(slots, SLOT_S // fine, n_which).sum(1)


def clairvoyant(bench, case, own, load, api_ttft_ms=400, with_spot=True, price_factor=1.0, spot_factor=1.0, seconds=60, offset_s=0):
    """The cheapest plan of whole nodes by slots of five minutes: arrivals, prices and availability known; each start pays its boot, and is
    launched in the slot before, where it must have been available; API requests (api_ttft_ms None: there is none) are chosen as suits it best,
    of those that miss the SLO there no more than may. A mixed-integer linear programme (HiGHS). Returns cost and proven lower bound."""
    k = CLASSES[CASES[case]["class"]]
    watts = curve_of(bench, case)[4]
    at, prompt, output, weight, work, lasts = work_of(bench, case)
    slots, buckets = DAY_S // SLOT_S, 6
    api_cost = (prompt * k["api"][0] + output * k["api"][1]) / 1e6
    late = 500 + np.maximum(prompt - 4000, 0) * 0.1 < (api_ttft_ms or 0) * 1.1
    order = np.argsort(api_cost / work)
    bucket = np.empty(len(work), int)
    bucket[order] = np.arange(len(work)) * buckets // len(work)
    bucket = bucket * 2 + late
    buckets *= 2
    w = by_slot(at, lasts, work * weight, bucket, buckets) / SLOT_S
    a = by_slot(at, lasts, api_cost * weight, bucket, buckets)
    misses = by_slot(at, lasts, late * weight, bucket, buckets)

    hours = SLOT_S / 3600
    with gzip.open(f"{bench.data}/electricity/price_carbon_2024_hourly.csv.gz", "rt") as f:
        kwh = {r["hour_utc"]: float(r["price_usd_mwh_US-CAL-CISO"]) / 1000 for r in csv.DictReader(f)}
    energy = np.array([kwh[f"2024-03-05 {i * SLOT_S // 3600:02d}"] for i in range(slots)]) * 1.3 / 1000
    kinds = [("own", 0.0, np.full(slots, own), 0.0)]
    if with_spot:
        for steps, (_, az, name) in zip(spot_steps(bench, case, offset_s), ZONES):
            kinds.append((name, list_price(bench, "spot_usd_h", az) * k["share"] * price_factor * spot_factor, steps, BOOT_S / 3600))
    kinds.append(("on demand", list_price(bench, "price_usd_h") * k["share"] * price_factor, np.full(slots, 300), BOOT_S / 3600))
    n_kinds = len(kinds)
    n = slots * (2 * n_kinds + buckets)  # nodes, starts, API shares

    def node(i, t):
        return i * slots + t

    def start(i, t):
        return (n_kinds + i) * slots + t

    def share(b, t):
        return (2 * n_kinds + b) * slots + t

    cost, upper, whole = np.zeros(n), np.ones(n), np.zeros(n)
    for i, (_, price, limit, boot) in enumerate(kinds):
        for t in range(slots):
            cost[node(i, t)] = price * hours + (energy[t] * (watts - k["sleep"]) * hours if i == 0 else 0)
            cost[start(i, t)] = price * boot
            upper[node(i, t)], upper[start(i, t)], whole[node(i, t)] = limit[t], 400, 1
    for b in range(buckets):
        for t in range(slots):
            cost[share(b, t)] = a[t, b]
            upper[share(b, t)] = 1 if api_ttft_ms else 0
    rows, columns, values, lower = [], [], [], []

    def row(entries, least):
        for column, value in entries:
            rows.append(len(lower))
            columns.append(column)
            values.append(value)
        lower.append(least)

    for t in range(slots):
        row([(node(i, t), load) for i in range(n_kinds)] + [(share(b, t), w[t, b]) for b in range(buckets)], w[t].sum())
        for i in range(n_kinds):
            row([(start(i, t), 1), (node(i, t), -1)] + ([(node(i, t - 1), 1)] if t else []), 0)
            if t and 0 < i < n_kinds - 1:
                row([(start(i, t), -1), (node(i, t - 1), -1)], -int(kinds[i][2][t - 1]))
    row([(share(b, t), -misses[t, b]) for b in range(buckets) for t in range(slots)], -(1 - SLO_SHARE) * len(at) * weight)
    matrix = sparse.csr_array((values, (rows, columns)), shape=(len(lower), n))
    fixed = own * (35000 * k["gpus"] / (4 * 365.25 * 24) * 24 + (energy * k["sleep"] * hours).sum())
    r = optimize.milp(cost, integrality=whole, bounds=optimize.Bounds(0, upper),
                      constraints=optimize.LinearConstraint(matrix, lower, np.inf),
                      options={"time_limit": seconds, "mip_rel_gap": 0.002})
    if r.x is None:
        return {"failed": r.message}
    hours_of = {name: float(r.x[node(i, 0):node(i, slots - 1) + 1].sum() * hours) for i, (name, *_) in enumerate(kinds)}
    return {"usd": float(r.fun + fixed), "bound_usd": float(r.mip_dual_bound + fixed), "node_hours": hours_of,
            "api_usd": float((cost * r.x)[share(0, 0):].sum()), "load": load, "own_usd": float(fixed),
            "work_nodes_mean": float(w.sum(1).mean()), "work_nodes_peak": float(w.sum(1).max())}


# --- a case ----------------------------------------------------------------------------------------------------------------

def short(s):
    keep = ("usd", "slo_attainment", "kwh", "on_prem_usd", "spot_usd", "on_demand_usd", "api_usd", "energy_usd", "purchase_usd",
            "preemptions", "continued", "refused", "expired", "nodes_peak", "node_hours", "requests", "done")
    out = {k: s[k] for k in keep if k in s}
    out["scenario"], out["meets"] = s["scenario"], meets(s)
    for key in ("ttft_us", "tpot_us", "e2e_us"):
        out[key] = {q: s[key][q] for q in ("p50", "p99")} if key in s else None
    return out


def one_case(bench, case, quick, peak):
    out = {"case": case, "settings": CASES[case]}
    n, fixed = smallest_fixed(bench, case, peak or 8)
    own = n // 2
    out["nodes_at_peak"], out["own"] = n, own
    rows = bench.run(case, own=own, baselines="all-api" if quick else "all-api,on-prem-only,spot-no-fallback,round-robin")
    out["cost"] = short(rows[0])
    route = rows[0]["routes"][0]["interactive"]
    out["api_tokens"] = [route["prompt_tokens"], route["output_tokens"]]
    out["baselines"] = [short(s) for s in rows[1:] if s["simulated"]]
    out["baselines"].append({**short(fixed), "scenario": f"all-on-demand-fixed ({n})"})
    out["baselines"].append({**short(bench.run(case, own=0, spot=False, api=False)), "scenario": "all-on-demand"})
    out["api_1s"] = short(bench.run(case, own=own, api_ttft_ms=1000))
    out["no_api"] = short(bench.run(case, own=own, api=False))
    if np is not None:
        for key, api_ttft_ms in (("plan", 400), ("plan_api_1s", 1000), ("plan_no_api", None)):
            out[key] = clairvoyant(bench, case, own, 0.95, api_ttft_ms=api_ttft_ms)
            print(f"  {case} {key}: bound $ {out[key]['bound_usd']:.2f}", file=sys.stderr, flush=True)
    if not quick:
        out["sensitivity"] = sensitivity(bench, case, n, own)
    return out


def tuning_day(bench, case, own):
    out = {"case": case, "tuning": bench.args.tuning}
    for name, api_ttft_ms in (("400", 400), ("1000", 1000), ("none", None)):
        out[name] = short(bench.run(case, own=own, api=api_ttft_ms is not None, api_ttft_ms=api_ttft_ms))
        if np is not None and CASES[case]["trace"] == "r1":
            plan = clairvoyant(bench, case, own, 0.95, api_ttft_ms=api_ttft_ms, offset_s=TUNING[bench.args.tuning][1] * 3600)
            out[name]["bound_usd"] = plan["bound_usd"]
            print(f"  bound $ {plan['bound_usd']:.2f}", file=sys.stderr, flush=True)
    return out


def sensitivity(bench, case, n, own):
    rows = []
    for name, o in ([(f"cloud prices x{f}", {"price_factor": f}) for f in (0.5, 2)] +
                    [(f"spot prices x{f}", {"spot_factor": f}) for f in (0.5, 2)] + [("no spot", {"spot": False})] +
                    [(f"own machines {p}% of peak", {"own": n * p // 100}) for p in (0, 25, 75, 100)]):
        s = short(bench.run(case, **{"own": own, **o}))
        rows.append({"what": name, **s})
    return rows


def claims(bench, out):
    """All-cloud and API at every price there is, beside what the `cost` policy came to."""
    case, cost = out["case"], float(out["cost"]["usd"])
    k = CLASSES[CASES[case]["class"]]
    cloud = next((b for b in out["baselines"] if b["scenario"] == "all-on-demand"), None)
    prices = []
    with open(f"{bench.data}/prices/gpu_prices.csv") as f:
        for r in csv.DictReader(f):
            if r["accelerator"] in ("H100", "H100-MEGA") and r["price_usd_h"] and "suspect" not in r["flags"]:
                per_gpu = float(r["price_usd_h"]) / int(r["accelerator_count"])
                prices.append({"cloud": r["cloud"], "type": r["instance_type"] or r["accelerator"], "region": r["region"],
                               "usd_gpu_h": per_gpu, "usd": cloud["node_hours"] * per_gpu * k["gpus"]})
    apis = []
    at = out["api_tokens"]
    with open(f"{bench.data}/api_prices/genai_prices_subset.json") as f:
        for m in json.load(f)["models"]:
            p, name = m["prices"], m["model"].lower()
            whole_r1 = "r1" in name and "distill" not in name and "qwen" not in name  # the model that was really asked: larger
            if not isinstance(p, dict) or not (CASES[case]["class"] in name or whole_r1):
                continue
            i, o = p.get("input_mtok"), p.get("output_mtok")
            i, o = (x["base"] if isinstance(x, dict) else x for x in (i, o))
            if i is not None and o is not None:
                apis.append({"provider": m["provider"], "model": m["model"], "input": i, "output": o,
                             "usd": (at[0] * i + at[1] * o) / 1e6})
    for rows in (prices, apis):
        for r in rows:
            r["saving"] = 1 - cost / r["usd"]
        rows.sort(key=lambda r: r["usd"])
    return {"cloud": prices, "api": apis}


# --- as tables -------------------------------------------------------------------------------------------------------------

def percent(s):
    return f"{100 * s['slo_attainment']:.2f}%" + ("" if s["meets"] else " (missed)")


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        print("| " + " | ".join(str(c) for c in r) + " |")
    print()


def money(s, key):
    return f"{float(s.get(key, 0)):.0f}"


def as_markdown(paths):
    cases = []
    for path in paths:
        with open(path) as f:
            cases += json.load(f)
    rows = []
    for c in cases:
        for key, plan, name in (("cost", "plan", "0.4 s"), ("api_1s", "plan_api_1s", "1.0 s"), ("no_api", "plan_no_api", "none")):
            s, bound = c[key], c.get(plan, {}).get("bound_usd")
            above = f"{100 * (float(s['usd']) / bound - 1):.0f}%" if bound else ""
            rows.append((f"{c['case']} ({c['own']} own)", name, money(s, "usd"), percent(s), money(s, "spot_usd"),
                         money(s, "on_demand_usd"), money(s, "api_usd"), f"{bound:.0f}" if bound else "", above))
    table(("case", "API", "dollars", "in SLO", "spot", "on demand", "API", "plan's bound", "above it"), rows)
    for c in cases:
        print(f"**{c['case']}**, {c['nodes_at_peak']} nodes on demand at peak\n")
        rows = [(b["scenario"].replace(c["case"], "cost"), b) for b in c["baselines"]]
        rows += [(f"cost, {b['what']}", b) for b in c.get("sensitivity", [])]
        table(("scenario", "dollars", "in SLO", "own", "spot", "on demand", "API"),
              [(n, money(b, "usd"), percent(b), money(b, "on_prem_usd"), money(b, "spot_usd"), money(b, "on_demand_usd"),
                money(b, "api_usd")) for n, b in rows])
        for kind, name in (("cloud", "on demand"), ("api", "API alone")):
            savings = {}
            for r in c["claims"][kind]:
                price = f"{r['usd_gpu_h']:.2f}" if kind == "cloud" else f"{r['input']:g} / {r['output']:g}"
                what = f"{r['cloud']} {r['type']}" if kind == "cloud" else r["provider"]
                same = savings.setdefault((what, price, round(r["usd"]), round(100 * r["saving"])), [])
                same.append(r["region" if kind == "cloud" else "model"])
            table((f"{name}: {c['case']}", "$/GPU h" if kind == "cloud" else "$/Mtok in / out", "where" if kind == "cloud" else "models",
                   "dollars", "saving"), [(k[0], k[1], ", ".join(sorted(set(v))), k[2], f"{k[3]}%") for k, v in savings.items()])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--out", default="economics.json")
    p.add_argument("--case", choices=CASES, help="one of them; default: all")
    p.add_argument("--tuning", type=int, choices=TUNING, help="one of the days on which constants were chosen: the three rows of `cost`")
    p.add_argument("--own", type=int, help="own machines; with --tuning")
    p.add_argument("--quick", action="store_true", help="without sensitivity, and fewer baselines")
    p.add_argument("--peak", type=int, help="on-demand nodes for the peak: where the search for the fewest begins")
    p.add_argument("--markdown", nargs="+", metavar="JSON", help="nothing is run: earlier results as the tables of docs/ECONOMICS.md")
    args = p.parse_args()
    if args.markdown:
        as_markdown(args.markdown)
        return
    bench = Bench(args)
    if not os.path.exists(bench.data):
        sys.exit("skipped: no ../shared/data")
    if np is None:
        print("scipy is not there: without the clairvoyant plan", file=sys.stderr)
    out = []
    for case in [args.case] if args.case else CASES:
        begin = time.monotonic()
        if args.tuning:
            r = tuning_day(bench, case, args.own or OWN[case])
        else:
            r = one_case(bench, case, args.quick, args.peak)
            r["claims"] = claims(bench, r)
        r["seconds"] = round(time.monotonic() - begin)
        out.append(r)
        with open(args.out, "w") as f:
            json.dump(out, f, indent=1)
    print(f"{bench.runs} simulations; {args.out}")


if __name__ == "__main__":
    main()
