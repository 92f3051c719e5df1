#!/usr/bin/env python3
"""A day of deepseek-r1 requests (arrivals and sizes of the sampled trace in the shared folder), replayed so many times as fast on
four real engines behind the real scheduler: with sleep, and again without.

    python3 tests/bench/power_day.py --build build --shared ../shared                 the day in 15 minutes (96x), twice: 33 minutes
    python3 tests/bench/power_day.py --build build --shared ../shared --minutes 2     the same day in two minutes (720x)
    python3 tests/bench/power_day.py ... --speed 96 --hours 12-20                     a part of it

The engines have one thread each and a synthetic model; they are calibrated together. The day is thinned so that its busiest ten
minutes ask for --peak of what all four can do, and prompts and answers are scaled to --prompt and --output tokens in the mean
(no longer than three times that). What the rules of idleness go by is scaled as the day is: a machine that wakes in --wake
seconds of the day and draws what an H100 does asleep, awake and busy pays for a nap after the same share of the day.

Printed: awake node-minutes (whole minutes of the replay; a node is awake while its worker process is there, seen from outside), what
`spillway simulate` says of the same requests with the same calibrations, attainment of the SLO by what clients saw, processor time of
supervisors that sleep. Ends with 1 where a floor is missed: 40% fewer awake node-minutes, attainment within --equal of each
other, nobody asleep with a worker or 0.1% of a processor, no request failed, no node awakened by probes."""

import argparse
import csv
import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Scheduler, request, wait_until  # noqa: E402
from stand_ins import StandIns  # noqa: E402
from test_sim_to_real import SHAPE, TOKENS_A_WORD, WORDS, capacity, quantile  # noqa: E402

NODES, DAY_S = ("e1", "e2", "e3", "e4"), 86400
IDLE_W, SLEEP_W, BUSY_W, WAKE_W = 100, 62, 690, 150  # an H100 as docs/POLICIES.md, Power, has it
TRACE = "data/traces/deepseek-r1_sampled_24h_tenth.csv.gz"
FLOOR, CPU_MOST = 0.40, 0.001
KWH = 0.12


class World:
    """Four engines under a scheduler."""

    def __init__(self, args, folder, sleep):
        self.args, self.program = args, os.path.join(args.build, "spillway")
        levels = {"idle_watts": IDLE_W, "sleep_watts": SLEEP_W, "wake_watts": WAKE_W, "sleep_wake": f"{args.nap_ms}ms", "sleep_down": f"{args.nap_ms}ms"}
        self.stand_ins = dict(zip(NODES, StandIns(len(NODES), args.slots, args.step_ms / 1e3, args.step_ms / 1e4, args.nap_ms / 1e3).all)
                              ) if args.stand_ins else None
        key = os.path.join(folder, "node-key")
        with open(key, "w") as f:
            f.write("between scheduler and engines\n")
        nodes = [{"name": name, "url": f"http://127.0.0.1:{s.port}", "node_key_file": key, "models": ["synth"], "slots": args.slots,
                  "price": {"input": "0.2", "output": "0.6"}, "watts": BUSY_W, "power": levels}
                 for name, s in self.stand_ins.items()] if self.stand_ins else [
                 {"name": name, "provider": "process", "engine": os.path.join(args.build, "spillway-engine"),
                  "model_path": os.path.join(folder, "model.gguf"), "models": ["synth"], "slots": args.slots,
                  "max_batch": args.slots, "threads": 1, "ctx_size": 1024, "price": {"input": "0.2", "output": "0.6"},
                  "watts": BUSY_W, "power": levels} for name in NODES]
        self.s = Scheduler(args.build, nodes, queue={"interactive": {"wait": "60s"}}, energy={"price": KWH},
                           routing={"objective": "cost", "slo_ttft": f"{args.ttft_ms}ms"},
                           health={"interval": "2s", "timeout": "2s"}, capacity={"interval": "1s", "down_after": f"{args.quiet_s}s"},
                           power={"mode": "on" if sleep else "off", "keep_warm": 1})
        wait_until(lambda: self.s.ready_nodes() == set(NODES), 120, "all engines are ready")
        self.pids = {name: 0 if self.stand_ins else self.node(name)["pid"] for name in NODES}

    def admin(self, method, path, body=None):
        return request(os.path.join(self.s.folder, "state", "admin.sock"), method, f"/admin/v1/{path}", body)

    def node(self, name):
        return self.admin("GET", f"nodes/{name}").json()

    def calibrate(self):
        """All at once: what one takes from the others is in the figures."""
        command = [self.program, "nodes", "calibrate"]
        arguments = ["--config", self.s.config_path, "--batch", str(self.args.slots), "--prompt", str(max(64, self.args.prompt)),
                     "--output", str(self.args.output), "--repeats", "1"]
        runs = [subprocess.Popen([*command, name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for name in NODES]
        for p in runs:
            out, err = p.communicate(timeout=900)
            assert p.returncode == 0, out + err
        return [self.record(name) for name in NODES]

    def record_path(self, name):
        return os.path.join(self.s.folder, "state", "calibration", f"{name}.json")

    def record(self, name):
        with open(self.record_path(name)) as f:
            return json.load(f)

    def take_records(self, records):
        os.makedirs(os.path.dirname(self.record_path("x")), exist_ok=True)
        for name, record in zip(NODES, records):
            with open(self.record_path(name), "w") as f:
                json.dump(record, f)
        a = self.admin("POST", "reload")
        assert a.status == 200, a.body

    def workers(self, name):
        if self.stand_ins:
            return int(self.stand_ins[name].awake)
        with open(f"/proc/{self.pids[name]}/task/{self.pids[name]}/children") as f:
            return len(f.read().split())

    def cpu_s(self, name):
        if self.stand_ins:
            return 0.0
        with open(f"/proc/{self.pids[name]}/schedstat") as f:  # nanoseconds of its one thread: a tick would be too coarse
            return int(f.read().split()[0]) / 1e9


class Watch(threading.Thread):
    """Who is awake, by who has a worker; what those cost that sleep."""

    def __init__(self, world):
        super().__init__(daemon=True)
        self.world, self.over = world, threading.Event()
        self.awake = {name: 0.0 for name in NODES}
        self.asleep, self.cpu, self.wakes = 0.0, 0.0, 0
        self.line = []

    def run(self):
        last, was = time.monotonic(), {n: (self.world.workers(n) > 0, self.world.cpu_s(n)) for n in NODES}
        while not self.over.wait(0.1):
            now = time.monotonic()
            for name in NODES:
                awake, cpu = self.world.workers(name) > 0, self.world.cpu_s(name)
                if was[name][0] or awake:
                    self.awake[name] += now - last
                    self.wakes += awake and not was[name][0]
                else:  # at both ends of the tenth of a second
                    self.asleep += now - last
                    self.cpu += cpu - was[name][1]
                was[name] = awake, cpu
            self.line.append(sum(a for a, _ in was.values()))
            last = now

    def stop(self):
        self.over.set()
        self.join()


class Day:
    """The trace, thinned and scaled; then of each request what its client saw."""

    def __init__(self, args, per_second):
        rows, busiest = self.read(args)
        chance = random.Random(args.seed)
        keep = min(1.0, args.peak * per_second / (busiest / (600 / args.speed)))
        rows = [r for r in rows if chance.random() < keep]
        self.factor = [wanted / (sum(min(r[i], 3 * mean) for r in rows) / len(rows)) * 1.0
                       for i, wanted, mean in ((1, args.prompt, args.means[0]), (2, args.output, args.means[1]))]
        self.plan = []
        for at, p, o in rows:
            prompt = max(4, min(round(p * self.factor[0]), 3 * args.prompt))
            output = max(2, min(round(o * self.factor[1]), 3 * args.output))
            words = " ".join(chance.choice(WORDS) for _ in range(max(1, round(prompt / TOKENS_A_WORD))))
            self.plan.append((at / args.speed, words, output))
        self.seen, self.lock = [], threading.Lock()

    @staticmethod
    def read(args):
        path, rows, window = os.path.join(args.shared, TRACE), [], {}
        with gzip.open(path, "rt") as f:
            for r in csv.DictReader(f):
                at = float(r["arrival_s"])
                window[int(at // 600)] = window.get(int(at // 600), 0) + 1
                if args.first_s <= at < args.last_s:
                    rows.append((at - args.first_s, float(r["input_tokens"]), float(r["output_tokens"])))
        args.means = [sum(r[i] for r in rows) / len(rows) for i in (1, 2)]
        return rows, max(window.values())

    def ask(self, port, prompt, output):
        body = json.dumps({"model": "synth", "messages": [{"role": "user", "content": prompt}], "max_tokens": output, "stream": True,
                           "ignore_eos": True, "temperature": 1}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        begin, first, last, done, pieces = time.monotonic(), None, None, False, 0
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=180) as c:
                c.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                while piece := c.recv(65536):
                    n = len(re.findall(rb'"content":"[^"]', piece))
                    if n:
                        last = time.monotonic()
                        first, pieces = first or last, pieces + n
                    done = done or b"[DONE]" in piece
        except OSError:
            done = False
        with self.lock:
            self.seen.append((begin, first, last, output, done))

    def run(self, port, seconds):
        threads, start = [], time.monotonic()
        for at, prompt, output in self.plan:
            time.sleep(max(0.0, start + at - time.monotonic()))
            t = threading.Thread(target=self.ask, args=(port, prompt, output), daemon=True)
            threads.append(t)
            t.start()
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        for t in threads:
            t.join()


def sim(world, args, seconds):
    """The same requests, as the ledger has them, by the same records and rules."""
    path = os.path.join(world.s.folder, "scenario.yaml")
    watts = f"{{idle: {IDLE_W}, sleep: {SLEEP_W}, prefill: {BUSY_W}, decode: [{{batch: 1, watts: {BUSY_W}}}]}}"
    with open(path, "w") as f:
        f.write(f"scenario: as it was\nspan: {round(seconds)}s\nmodels: [{{name: synth, objective: cost, slo: {{ttft: {args.ttft_ms}ms}}, "
                f"autoscale: {{enabled: false, down_after: {args.quiet_s}s}}}}]\n"
                f"sites: [{{name: premises, usd_per_kwh: {KWH}, powered: true, keep_warm: 1}}]\ntypes:\n")
        for name in NODES:
            f.write(f"- {{name: {name}, calibration: state/calibration/{name}.json, slots: {args.slots}, sequences_max: {args.slots}, "
                    f"wake: {args.nap_ms}ms, watts: {watts}}}\n")
        f.write("offers:\n")
        for name in NODES:
            f.write(f"- {{provider: own, type: {name}, market: on_prem, site: premises, nodes: [{name}]}}\n")
    p = subprocess.run([world.program, "simulate", "--config", world.s.config_path, "--trace", world.s.ledger_path, "--baselines", "none",
                        "--format", "json", "--scenario", path], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)["scenarios"][0]


def by_probes_alone(world, seconds):
    """Nobody asks for anything: the health checks go on. How many woke."""
    watch = Watch(world)
    watch.start()
    time.sleep(seconds)
    watch.stop()
    return watch.wakes


def replay(args, folder, sleep, known):
    """One run. known: (records, plan) of an earlier one, or None."""
    world = World(args, folder, sleep)
    with world.s:
        records = known[0] if known else world.calibrate()
        world.take_records(records)
        can = sum(capacity(r, args.prompt + 20, args.output) for r in records)
        print(f"calibrated: {can:.2f} requests/s by all four; a step of {args.slots} takes "
              f"{[round(r['decode'][-1]['step_us'] / 1e3, 1) for r in records]} ms", flush=True)
        day = Day(args, args.rate / args.peak if args.rate else can)
        if known:
            day.plan = known[1]
        wait_until(lambda: all(world.workers(n) for n in NODES) or sleep, 60, "all are awake")
        seconds = (args.last_s - args.first_s) / args.speed
        watch = Watch(world)
        watch.start()
        begin = time.monotonic()
        day.run(world.s.port, seconds)
        watch.stop()
        took = time.monotonic() - begin
        out = {"sleep": sleep, "requests": len(day.plan), "seconds": round(took, 1), "plan": day.plan, "records": records,
               "awake_node_minutes": sum(watch.awake.values()) / 60, "awake": {n: round(s / took, 3) for n, s in watch.awake.items()},
               "wakes": watch.wakes, "asleep_cpu": watch.cpu / watch.asleep if watch.asleep > 1 else 0.0,
               "asleep_s": watch.asleep, "failed": sum(1 for x in day.seen if not x[4] or not x[1]), **judge(args, day)}
        out["line"] = "".join(str(watch.line[i * len(watch.line) // 144]) for i in range(144))
        if sleep:
            wait_until(lambda: sum(world.workers(n) > 0 for n in NODES) <= 1, 60, "all but one sleep")
            out["probe_wakes"] = by_probes_alone(world, 10)
            out["sim"] = sim(world, args, seconds)
        if args.keep:
            subprocess.run(["cp", "-r", world.s.folder, os.path.join(args.keep, "on" if sleep else "off")], check=False)
    return out


def judge(args, day):
    ok = [x for x in day.seen if x[4] and x[1]]
    ttft = [(x[1] - x[0]) * 1e3 for x in ok]
    met = sum(1 for t in ttft if t <= args.ttft_ms)
    tpot = [(x[2] - x[1]) / (x[3] - 1) * 1e3 for x in ok if x[3] > 1]
    return {"attainment": met / max(1, len(day.seen)), "ttft_p50_ms": quantile(ttft, .5), "ttft_p99_ms": quantile(ttft, .99),
            "tpot_p50_ms": quantile(tpot, .5)}


def said(r):
    return sum(m["node_hours"] for m in r["sim"]["machines"]) * 60


def show(r):
    print(f"sleep {'on ' if r['sleep'] else 'off'}: {r['requests']} requests in {r['seconds']:.0f} s, {r['failed']} failed; awake "
          f"{r['awake_node_minutes']:.2f} node-minutes {r['awake']}, {r['wakes']} wakes; SLO met by {r['attainment'] * 100:.2f}%, TTFT p50 "
          f"{r['ttft_p50_ms']:.0f} ms, p99 {r['ttft_p99_ms']:.0f} ms, TPOT p50 {r['tpot_p50_ms']:.0f} ms", flush=True)
    print(f"           awake by time: {r['line']}", flush=True)
    if r["sleep"]:
        print(f"           asleep {r['asleep_s']:.0f} node-seconds with {r['asleep_cpu'] * 100:.4f}% of a processor each; "
              f"{r['probe_wakes']} woken by probes; the simulator says {said(r):.2f} node-minutes", flush=True)


def verdict(args, on, off):
    fall = 1 - on["awake_node_minutes"] / off["awake_node_minutes"]
    print(f"awake node-minutes fall by {fall * 100:.1f}% (floor {FLOOR * 100:.0f}%); measured against the simulator "
          f"{(on['awake_node_minutes'] / said(on) - 1) * 100:+.1f}%; attainment {on['attainment'] * 100:.2f}% against "
          f"{off['attainment'] * 100:.2f}%")
    wrong = []
    if fall < FLOOR:
        wrong.append("awake node-minutes fall by too little")
    if on["attainment"] < off["attainment"] - args.equal:
        wrong.append("the SLO is met less often with sleep")
    if on["failed"] or off["failed"]:
        wrong.append("requests failed")
    if on["asleep_cpu"] >= CPU_MOST:
        wrong.append("who sleeps uses the processor")
    if on["probe_wakes"]:
        wrong.append("probes wake nodes")
    print("; ".join(wrong) or "all floors hold")
    return 1 if wrong else 0


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--minutes", type=float, help="how long the part of the day takes; instead of --speed")
    p.add_argument("--speed", type=float, default=96)
    p.add_argument("--hours", default="0-24", help="of the day")
    p.add_argument("--peak", type=float, default=0.8)
    p.add_argument("--rate", type=float, default=0, help="requests/s of the busiest ten minutes, whatever was calibrated")
    p.add_argument("--prompt", type=int, default=40)
    p.add_argument("--output", type=int, default=32)
    p.add_argument("--slots", type=int, default=4)
    p.add_argument("--layers", type=int, default=8, help="of the synthetic model")
    p.add_argument("--wake", type=float, default=10, help="seconds of the day that a machine takes to wake up")
    p.add_argument("--ttft-ms", type=int, default=3000)
    p.add_argument("--equal", type=float, default=0.005, help="attainments that differ by no more are equal")
    p.add_argument("--stand-ins", action="store_true", help="no engines, but servers that take time and no processor: what the scheduler "
                   "does, on a machine that is busy with other things")
    p.add_argument("--step-ms", type=float, default=25, help="of a stand-in; it reads ten tokens of a prompt in that time")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", help="a folder for configurations, logs and ledgers")
    p.add_argument("--only", choices=("on",), help="no second replay, no verdict")
    args = p.parse_args()
    args.first_s, args.last_s = (float(h) * 3600 for h in args.hours.split("-"))
    if args.minutes:
        args.speed = (args.last_s - args.first_s) / 60 / args.minutes
    args.quiet_s = max(1, round(300 / args.speed))  # capacity.down_after's five minutes
    args.nap_ms = max(50, round(args.wake / args.speed * 1000))
    args.build = os.path.abspath(args.build)
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
    return args


def main():
    args = arguments()
    if not os.path.exists(os.path.join(args.shared, TRACE)):
        sys.exit(f"{args.shared}/{TRACE} is not there: nothing was replayed")
    print(f"{args.speed:.0f}x, peak {args.peak * 100:.0f}%, {args.slots} slots each; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
          flush=True)
    with tempfile.TemporaryDirectory(prefix="spillway-day-") as folder:
        with open(os.path.join(folder, "shape.json"), "w") as f:
            json.dump({**SHAPE, "n_layer": args.layers}, f)
        subprocess.run([os.path.join(args.build, "spillway-engine"), "synth", "--shape", os.path.join(folder, "shape.json"), "--type", "Q8_0",
                        "--out", os.path.join(folder, "model.gguf")], check=True, capture_output=True)
        on = replay(args, folder, True, None)
        show(on)
        if args.only:
            return 0
        off = replay(args, folder, False, (on["records"], on["plan"]))
        show(off)
        return verdict(args, on, off)


if __name__ == "__main__":
    sys.exit(main())
