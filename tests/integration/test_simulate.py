"""`spillway simulate` as people use it: a configuration and a scenario, traces and tables of our own making, and what it says
as table, JSON and page; the same seed says the same; mistakes are named with their place."""

import gzip
import json
import os
import random
import re
import sqlite3
import subprocess
import tempfile
import xml.dom.minidom

from harness import Skip, main

SCENARIO = """
scenario: hybrid
prices: prices.csv
spot: spot.csv
power: power.csv
electricity: electricity.csv
start: 2024-01-01T06:00:00Z
models:
  - name: small
    slo: {ttft: 2s, probability: 0.99}
    autoscale: {enabled: true, tick: 10s}
types:
  - name: gpu1
    measured: {model: a/8B, gpu: H100, gpus: 1}
    curve: {base_us: 5000, prefill_us_per_token: 40}
    kv_tokens: 400000
    watts: {idle: 120, sleep: 70}
sites:
  - {name: hall, zone: X, overhead: 1.3}
offers:
  - {provider: own, zone: hall, type: gpu1, market: on_prem, site: hall, nodes: [gpu1, gpu2], purchase: 30000}
  - {provider: aws, zone: us-1a, type: gpu1, market: spot, boot: 60s, list_price: {type: g6.xlarge}, available: {zone: us-1a, nodes: 4}}
  - {provider: aws, zone: us-1, type: gpu1, market: on_demand, boot: 60s, list_price: {type: g6.xlarge}}
"""
CONFIG = """
auth: off
simulate:
  scenario: scenario.yaml
nodes:
  - {name: gpu1, provider: static, url: "http://127.0.0.1:1", models: [small]}
  - {name: gpu2, provider: static, url: "http://127.0.0.1:2", models: [small]}
  - {name: bigapi, provider: static, url: "https://127.0.0.1:3", models: [small], local: false, price: {input: 0.5, output: 1.5}}
"""
PRICES = ("cloud,instance_type,accelerator,accelerator_count,vcpus,memory_gib,region,zone,price_usd_h,spot_usd_h,flags\n"
          "aws,g6.xlarge,L4,1,4,16,us,a,3.00,1.00,\naws,g6.xlarge,L4,1,4,16,us,b,3.00,9.00,spot_gt_ondemand\n")
SPOT = ("kind,nodes,collection,zone_gpu,gap_s,start_tick,length_ticks,available\n"
        "availability,1,c,us-1a,60,0,20,1\navailability,1,c,us-1a,60,20,10,0\navailability,1,c,us-1a,60,30,90,1\n")
POWER = ("model_id,gpu_model,num_gpus,max_num_seqs,avg_batch_size,output_throughput_tokens_per_sec,avg_power_watts,median_itl_ms\n"
         "a/8B,H100,1,8,8,1000,450,8\na/8B,H100,1,64,64,5000,600,11.5\na/8B,H100,1,256,256,9000,690,26\n")


class World:
    def __init__(self, build):
        self.spillway = os.path.join(build, "spillway")
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = self.temporary.name
        hours = "".join(f"2024-01-01 {h:02d},{20 + h}\n" for h in range(24))
        for name, text in {"scenario.yaml": SCENARIO, "spillway.yaml": CONFIG, "prices.csv": PRICES, "spot.csv": SPOT,
                           "power.csv": POWER, "electricity.csv": "hour_utc,price_usd_mwh_X\n" + hours}.items():
            self.write(name, text)
        chance = random.Random(1)
        rows, at = [], 0.0
        for i in range(6000):
            at += chance.expovariate(12 if 2000 < i < 4000 else 3)
            rows.append(f"{at:.3f},{chance.randint(20, 1500)},{chance.randint(5, 400)},{'search' if i % 3 else 'chat'}\n")
        with gzip.open(self.path("trace.csv.gz"), "wt") as f:
            f.write("at_s,prompt_tokens,output_tokens,team\n" + "".join(rows))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.temporary.cleanup()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)

    def run(self, *flags, rc=0):
        p = subprocess.run([self.spillway, "simulate", *flags], cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert p.returncode == rc, (p.returncode, p.stdout[-2000:], p.stderr[-2000:])
        return p.stdout if rc == 0 else p.stderr

    def json(self, *flags):
        return json.loads(self.run("--format", "json", *flags))


def says_what_a_load_would_have_cost(args):
    with World(args.build) as w:
        r = w.json("--trace", "trace.csv.gz")
        by = {s["scenario"]: s for s in r["scenarios"]}
        assert list(by) == ["hybrid", "all-on-demand-fixed", "all-on-demand", "all-api", "on-prem-only", "spot-no-fallback",
                            "round-robin"], list(by)
        assert r["trace"]["requests"] == 6000
        for name, s in by.items():
            assert s["simulated"], (name, s)
            cents = sum(float(m["usd"]) for m in s["machines"])
            teams = sum(float(t["usd"]) for t in s["teams"])
            assert abs(cents - float(s["usd"])) < 1e-6 and abs(teams - float(s["usd"])) < 1e-6, (name, cents, teams, s["usd"])
            assert s["done"] + s["refused"] + s["expired"] == 6000, (name, s["done"], s["refused"], s["expired"])
        api = by["all-api"]
        tokens = r["trace"]["prompt_tokens"] * 0.5 + r["trace"]["output_tokens"] * 1.5
        own = next((float(m["usd"]) for m in api["machines"] if m["market"] == "on_prem"), 0.0)
        assert abs(float(api["usd"]) - own - tokens / 1e6) < 0.01, (api["usd"], own, tokens / 1e6)
        assert {t["team"] for t in by["hybrid"]["teams"]} >= {"search", "chat"}
        assert by["hybrid"]["kwh"] > 0 and by["hybrid"]["routes"][0]["interactive"]["ttft_us"]["p99"] > 0
        assert by["hybrid"]["samples"], "the fleet over time"


def a_pool_keeps_its_minimum(args):
    with World(args.build) as w:
        w.write("scenario.yaml", SCENARIO.replace("market: on_demand,", "market: on_demand, pool: spare,")
                + "pools:\n  - {name: spare, min: 2}\n")
        r = w.json("--trace", "trace.csv.gz", "--baselines", "none")["scenarios"][0]
        rows = [m for m in r["machines"] if m["market"] == "on_demand"]
        assert r["simulated"] and rows and rows[0]["node_hours"] > 0, r["machines"]
        assert rows[0]["launches"] >= 2, rows


def the_same_seed_says_the_same(args):
    with World(args.build) as w:
        flags = ["--trace", "trace.csv.gz", "--copies", "3", "--shift", "5m", "--baselines", "none", "--format", "json"]
        a, b, c = (w.run(*flags, "--seed", s) for s in ("7", "7", "8"))
        assert a == b and a != c
        assert json.loads(a)["trace"]["requests"] == 18000


def compares_scenarios_side_by_side(args):
    with World(args.build) as w:
        w.write("cloud.yaml", re.sub(r"  - \{provider: own.*\n", "", SCENARIO).replace("scenario: hybrid", "scenario: cloud"))
        text = w.run("--trace", "trace.csv.gz", "--compare", "cloud.yaml", "--baselines", "all-api,round-robin")
        for word in ("SCENARIO", "hybrid", "cloud", "all-api", "round-robin", "PROVIDER", "own", "TEAM", "search"):
            assert word in text, (word, text)
        assert "spot_gt_ondemand 1" in text, text
        assert "all-on-demand" not in text


def demand_may_be_counted_in_requests(args):
    with World(args.build) as w:
        w.write("qps.yaml", SCENARIO.replace("tick: 10s", "tick: 10s, signal: qps, down_band: 0.1").replace("hybrid", "qps"))
        r = w.json("--trace", "trace.csv.gz", "--compare", "qps.yaml", "--baselines", "none")
        a, b = (float(s["usd"]) for s in r["scenarios"])
        assert [s["scenario"] for s in r["scenarios"]] == ["hybrid", "qps"] and 0.5 < b / a < 2, (a, b)
        w.write("qps.yaml", SCENARIO.replace("tick: 10s", "signal: requests"))
        assert "signal" in w.run("--trace", "trace.csv.gz", "--compare", "qps.yaml", rc=2)


def the_page_needs_nothing_else(args):
    with World(args.build) as w:
        w.run("--trace", "trace.csv.gz", "--format", "html", "--out", "out.html", "--baselines", "all-api,on-prem-only")
        with open(w.path("out.html")) as f:
            page = f.read()
        assert page.startswith("<!doctype html>") and "prefers-color-scheme:dark" in page
        assert not re.search(r"(src|href)=|@import|url\(|<script|https?:", page)
        charts = re.findall(r'<svg class="(?:chart|bars)".*?</svg>\n', page, re.S)  # there are others inside
        assert len(charts) >= 6, len(charts)
        for svg in charts:  # attributes without quotes are HTML, not XML
            xml.dom.minidom.parseString(re.sub(r"=([^\s\"'<>/]+)(?=[\s/>])", r'="\1"', svg))
        assert "nan" not in page and "inf" not in page.replace("information", "")


def own_ledger_is_a_trace(args):
    with World(args.build) as w:
        db = sqlite3.connect(w.path("ledger.db"))
        db.execute("CREATE TABLE ledger (request_id TEXT, tenant TEXT, team TEXT, model TEXT, tokens_input INTEGER,"
                   " tokens_cached_input INTEGER, tokens_output INTEGER, accepted_ns INTEGER)")
        db.executemany("INSERT INTO ledger VALUES (?,?,?,?,?,?,?,?)",
                       [(f"r{i}", "acme", None, "small", 200 + i % 50, 100, 20, (1704067200 + i) * 10**9) for i in range(500)])
        db.commit()
        db.close()
        r = w.json("--trace", "ledger.db", "--baselines", "none")
        assert r["trace"]["requests"] == 500 and r["scenarios"][0]["done"] == 500
        assert [t["team"] for t in r["scenarios"][0]["teams"] if t["requests"]] == ["acme"]


def mistakes_are_named_with_their_place(args):
    with World(args.build) as w:
        for name, text, says in (
                ("a.yaml", SCENARIO.replace("type: gpu1, market: spot", "type: gpu9, market: spot"), "a.yaml:22: type gpu9 is none"),
                ("b.yaml", SCENARIO.replace("prefill_us_per_token", "prefil_us_per_token"), "did you mean prefill_us_per_token"),
                ("c.yaml", SCENARIO.replace("ttft: 2s", "ttft: soon"), "c.yaml:10: ttft: write a duration"),
                ("d.yaml", SCENARIO.replace("zone: X", "zone: Y"), "there is no column price_usd_mwh_Y"),
                ("e.yaml", SCENARIO.replace("type: g6.xlarge}}\n", "type: g7.xlarge}}\n"), "no row that fits has a price on demand"),
                ("f.yaml", SCENARIO.replace("nodes: [gpu1, gpu2], ", ""), "how many own machines there are is not said"),
                ("i.yaml", SCENARIO.replace("curve: {base_us: 5000, prefill_us_per_token: 40}", "curve: {base_us: 5000}"),
                 "how fast it reads prompts is not said"),
                ("j.yaml", SCENARIO.replace("measured: {model: a/8B, gpu: H100, gpus: 1}", "sequences_max: 8").replace(
                    "prefill_us_per_token: 40}", "prefill_us_per_token: 40, decode_us_per_sequence: 60}"),
                 "how fast it writes is not said"),
                ("h.yaml", SCENARIO.replace("market: on_demand,", "market: on_demand, pool: spare,"), "h.yaml:23: pool spare is none"),
                ("g.yaml", SCENARIO.replace("zone: us-1a, nodes: 4", "zone: us-9z, nodes: 4"), "there is no series us-9z")):
            w.write(name, text)
            e = w.run("--config", name, "--trace", "trace.csv.gz", rc=2)
            assert says in e, (name, says, e)
        w.write("bad.csv", "at_s,prompt_tokens,output_tokens\n1,10,5\n2,ten,5\n")
        assert "bad.csv:3: prompt_tokens: \"ten\" is not a whole number" in w.run("--trace", "bad.csv", rc=2)
        assert "left out: bad.csv:3" in subprocess.run(
            [w.spillway, "simulate", "--trace", "bad.csv", "--bad-rows", "1", "--baselines", "none"], cwd=w.folder,
            capture_output=True, text=True, timeout=60, check=True).stderr
        w.write("other.csv", "at_s,prompt_tokens,output_tokens,model\n1,10,5,large\n")
        assert "asks for model large, which is none of the scenario's" in w.run("--trace", "other.csv", rc=2)
        w.write("spillway.yaml", CONFIG.replace("  scenario: scenario.yaml", "").replace("simulate:\n", ""))
        assert "does not say how fast machines are" in w.run("--trace", "trace.csv.gz", rc=2)
        assert "\"all-gpu\" is none" in w.run("--trace", "trace.csv.gz", "--baselines", "all-gpu", rc=2)


RECORD = {"spillway_calibration": 1, "measured_at": "2999-01-01T00:00:00Z", "model": "small",
          "curve": {"base_us": 5000, "prefill_us_per_tok": 40, "decode_us_base": 8000, "decode_us_per_seq": 60},
          "decode": [{"batch": 1, "step_us": 9000}, {"batch": 8, "step_us": 9400}],
          "context": [{"batch": 1, "tokens": 100, "step_us": 9000}, {"batch": 8, "tokens": 800, "step_us": 9400}],
          "detail": {"decode_us_per_ctx_tok": 0.05, "mixed_us_per_tok": 42, "mixed_chunk": 512},
          "watts": {"source": "measured", "idle": 90, "by_batch": [{"batch": 1, "watts": 300}, {"batch": 8, "watts": 450}]}}


def calibrated_nodes_need_no_scenario(args):
    """A configuration with records is enough; a node without one takes no part, and that is said."""
    with World(args.build) as w:
        w.write("spillway.yaml", CONFIG.replace("  scenario: scenario.yaml", "").replace("simulate:", "energy: {price: 0.20}"))
        os.makedirs(w.path("state/calibration"))
        w.write("state/calibration/gpu1.json", json.dumps(RECORD))
        flags = ("--trace", "trace.csv.gz", "--baselines", "none")
        one = w.json(*flags)
        s = one["scenarios"][0]
        assert s["scenario"] == "as-configured" and s["done"] == s["requests"] == 6000, s
        assert "type gpu1: as gpu1 was measured 2999-01-01T00:00:00Z" in one["notes"], one["notes"]
        assert "node gpu2 takes no part: it is not calibrated" in one["notes"], one["notes"]
        machines = {m["what"]: m for m in s["machines"]}
        assert set(machines) == {"gpu1", "small"}, machines  # and the paid API
        assert abs(float(machines["gpu1"]["energy_usd"]) - machines["gpu1"]["kwh"] * 0.20) < 1e-6
        # Nothing was measured beyond a batch of 8: so many are computed at once.
        assert machines["gpu1"]["kwh"] * 3.6e6 / 450 < 3600 * machines["gpu1"]["node_hours"]
        w.write("state/calibration/gpu2.json", json.dumps({**RECORD, "model": "other"}))
        assert "gpu2 takes no part" in w.json(*flags)["notes"]
        w.write("state/calibration/gpu2.json", json.dumps(RECORD))
        assert {m["what"] for m in w.json(*flags)["scenarios"][0]["machines"]} == {"gpu1", "gpu2", "small"}


def a_type_may_name_its_record(args):
    with World(args.build) as w:
        w.write("fast.json", json.dumps(RECORD))
        w.write("slow.json", json.dumps({**RECORD, "decode": [], "measured_at": "2020-01-01T00:00:00Z", "curve": {
            **RECORD["curve"], "decode_us_base": 40000}}))
        text = SCENARIO.replace("    measured: {model: a/8B, gpu: H100, gpus: 1}\n    curve: {base_us: 5000, prefill_us_per_token: 40}\n",
                                "    calibration: fast.json\n")
        w.write("scenario.yaml", text)
        w.write("slow.yaml", text.replace("fast.json", "slow.json"))
        tpot = []
        for name in ("scenario.yaml", "slow.yaml"):
            r = w.json("--config", "spillway.yaml", "--scenario", name, "--trace", "trace.csv.gz", "--baselines", "none", "--span", "3m")
            tpot.append(r["scenarios"][0]["routes"][0]["interactive"]["tpot_us"]["p50"])
        assert "measured 2020-01-01T00:00:00Z, which is long ago" in r["notes"], r["notes"]
        assert tpot[1] > 2 * tpot[0], tpot
        # A data sheet says nothing of what was measured, and a line of the file's own would fit none of it.
        sheet = ("    calibration: fast.json\n    shape: {params_b: 8}\n"
                 "    gpu: {gpus: 1, memory_gb: 80, bandwidth_gb_s: 3000, tflops: 1}\n")
        w.write("sheet.yaml", text.replace("    calibration: fast.json\n", sheet))
        ttft = [w.json("--scenario", name, "--trace", "trace.csv.gz", "--baselines", "none", "--span", "3m")
                ["scenarios"][0]["routes"][0]["interactive"]["ttft_us"] for name in ("scenario.yaml", "sheet.yaml")]
        assert ttft[0] == ttft[1], ttft
        w.write("both.yaml", text.replace("    calibration: fast.json\n", "    calibration: fast.json\n    curve: {base_us: 1}\n"))
        e = w.run("--scenario", "both.yaml", "--trace", "trace.csv.gz", rc=2)
        assert "both.yaml:15: type gpu1: curve stands beside the record" in e, e
        # Lines that begin at nought are as good as any.
        w.write("slow.json", json.dumps({**RECORD, "decode": [], "context": [], "curve": {
            "base_us": 0, "prefill_us_per_tok": 90, "decode_us_base": 0, "decode_us_per_seq": 4000}}))
        assert w.json("--scenario", "slow.yaml", "--trace", "trace.csv.gz", "--baselines", "none", "--span", "3m")["scenarios"][0]["done"]
        w.write("bad.json", json.dumps({**RECORD, "curve": {"base_us": 1}}))
        for name, says in (("none.json", "none.json: No such file"), ("bad.json", "bad.json: curve.prefill_us_per_tok: missing")):
            w.write("scenario.yaml", text.replace("fast.json", name))
            e = w.run("--trace", "trace.csv.gz", rc=2)
            assert "scenario.yaml:13: calibration: " in e and says in e, e


def published_traces_run(args):
    folder = os.path.join(args.shared, "data", "traces")
    if not os.path.exists(folder):
        raise Skip("no ../shared/data/traces")
    with World(args.build) as w:
        for name in ("AzureLLMInferenceTrace_conv.csv", "mooncake_conversation.jsonl"):
            r = w.json("--trace", os.path.abspath(os.path.join(folder, name)), "--span", "10m", "--baselines", "none")
            assert r["trace"]["requests"] > 500 and r["scenarios"][0]["done"] > 0, r["trace"]


BUDGETS = """
scenario: budgets
start: 2024-01-01T00:00:00Z
models:
  - {name: big, batch: {max: 100000, wait: 2h}}
  - {name: tiny}
apis:
  - {provider: dear, model: big, input: 1, output: 4}
  - {provider: cheap, model: tiny, input: 0.1, output: 0.2}
budgets:
  - {name: all, period: day, hard: 100, soft: 10%}
  - {name: chat, match: [team=chat, model=big], period: hour, hard: 0.4, hard_actions: [ACTION]}
"""


def budgets_are_kept(args):
    """The same requests under each action of a hard limit: nothing beyond it is spent, and each does what it says."""
    with World(args.build) as w:
        rows = [f"{i * 1.8:.1f},500,200,{'chat' if i % 2 else 'search'}\n" for i in range(4000)]  # two hours
        w.write("two.csv", "at_s,prompt_tokens,output_tokens,team\n" + "".join(rows))
        flags, got = ("--config", "b.yaml", "--trace", "two.csv", "--baselines", "none"), {}
        for action in ("deny", "queue", '"downgrade: tiny"'):
            w.write("b.yaml", BUDGETS.replace("ACTION", action))
            r = w.json(*flags)["scenarios"][0]
            assert r["done"] + r["refused"] + r["expired"] == 4000, r
            every, chat = r["budgets"]
            assert float(chat["spent_usd"]) <= 0.4 * chat["periods"] and chat["hard_reached"] >= 1, chat
            assert every["refused"] == every["hard_reached"] == every["soft_reached"] == 0, every
            got[action] = r
        # 500 + 200 tokens come to $0.0013: 307 of 1000 an hour fit, and the beginning of one more
        deny, queue, down = (got[a] for a in ("deny", "queue", '"downgrade: tiny"'))
        assert deny["budgets"][1]["refused"] == deny["refused"] == 2 * (1000 - 308), deny["budgets"][1]
        assert queue["budgets"][1]["queued"] > 300 and queue["done"] > deny["done"], queue["budgets"][1]
        assert queue["budgets"][1]["periods"] >= 3 and queue["budgets"][1]["refused"] == queue["refused"]
        assert down["budgets"][1]["downgraded"] >= 1000 and down["refused"] < deny["refused"], down["budgets"][1]
        assert {b["what"]: b["requests"] for b in down["machines"]}["tiny"] >= 1000, down["machines"]
        table = w.run(*flags)
        assert re.search(r"^BUDGET +HARD +SPENT", table, re.M) and re.search(r"^chat +0\.40", table, re.M), table
        assert "<h2>Budgets</h2>" in w.run(*flags, "--format", "html")
        for wrong, told in (("hard: 1, match: [user=ann]", "team=NAME"), ("hard: much", "hard: "),
                            ('hard: 1, hard_actions: ["downgrade: none"]', "model none"), ("soft: 80%", "share"), ("hard: 1, soft: nan%", "share"),
                            ("match: [team=a]", "give hard")):
            w.write("b.yaml", BUDGETS.split("budgets:\n")[0] + "budgets:\n  - {name: x, " + wrong + "}\n")
            err = w.run(*flags, rc=2)
            assert "b.yaml:11: " in err and told in err, err


if __name__ == "__main__":
    main(__doc__, [calibrated_nodes_need_no_scenario, a_type_may_name_its_record, says_what_a_load_would_have_cost,
                   a_pool_keeps_its_minimum, the_same_seed_says_the_same, compares_scenarios_side_by_side,
                   demand_may_be_counted_in_requests, budgets_are_kept, the_page_needs_nothing_else, own_ledger_is_a_trace,
                   mistakes_are_named_with_their_place, published_traces_run])
