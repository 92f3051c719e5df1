"""Three times more than the nodes can do: what gets through, how fast the rest is refused, and whether anything grows.

    cmake -S . -B build -G Ninja && ninja -C build spillway frontdoor_upstream frontdoor_load
    python3 tests/bench/overload.py --build build --markdown

The load is an open loop: requests come at a fixed rate whatever becomes of the earlier ones. The nodes have a capacity
that is known, slots / time of an answer, and it is set to a quarter of the peak of the proxy itself, which is measured
at the beginning of each round: a machine that is slower at the moment is so for all parts of the round. Load and
upstream share one core, the proxy has the other to itself. Parts:

    peak       a proxy with nodes that have no bound: 64 connections, each with one request under way
    capacity   as much as the nodes can do, and a little less; the better of both is what goodput is held against
    overload   three times as much: answers, refusals, memory and waiting rooms
    two        the same beside a tenant that asks for a tenth of the capacity
    refusals   no slot is ever free and nobody may wait: what saying no costs

Nothing here is a test: it prints, and the reader judges. Standard library only, loopback only."""

import argparse
import base64
import hashlib
import http.client
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from frontdoor import Proxy, free_port, machine_s, note, pinned, version

TENANTS = ("crowd", "guest")
FRAMES = 4
SLOTS = 64

CONFIG = """listen: 127.0.0.1:{port}
state_dir: state
auth:
  mode: keys
queue:
  interactive:
    max: {places}
    wait: {wait}
keys:
{keys}nodes:
{nodes}"""
KEY = "  - id: {name}\n    tenant: {name}\n    sha256: {hash}\n"
NODE = """  - name: node{i}
    url: http://127.0.0.1:{upstream}
    models: [m]
    slots: {slots}
    price:
      output: 1
"""


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def scrape(row):
    """The sum of each metric over its labels."""
    c, sums = Unix(os.path.join(row.folder, "state", "admin.sock")), {}
    c.request("GET", "/metrics")
    for line in c.getresponse().read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.split("{")[0].split()[0], float(line.rsplit(" ", 1)[1])
            sums[name] = sums.get(name, 0) + value
    c.close()
    return sums


class Sampler:
    """Memory and waiting rooms of a proxy while something else happens."""

    def __init__(self, row):
        self.row, self.rss, self.waiting, self.ends = row, [], [], threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()

    def sample(self):
        while not self.ends.wait(0.2):
            self.rss.append(self.row.rss_mib())
            self.waiting.append(scrape(self.row).get("spillway_requests_waiting", 0))


class Overload:
    def __init__(self, args):
        self.args = args
        self.folder = tempfile.mkdtemp(prefix="overload-", dir=args.folder)
        self.secrets = {t: "spw_" + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=") for t in TENANTS}
        upstream = free_port()
        program = os.path.join(args.build, "bench", "frontdoor_upstream")
        self.upstream = Proxy("upstream", [program, str(upstream)], upstream, "/health", self.sub("upstream"))
        self.upstream_port, self.started = upstream, [self.upstream]
        self.upstream.start(args.load_core)

    def sub(self, name):
        path = os.path.join(self.folder, name)
        os.mkdir(path)
        return path

    def close(self):
        for p in self.started:
            p.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def spillway(self, name, n_nodes, slots, wait, places=100000):
        """slots: of all nodes together; 0: no bound."""
        port, folder = free_port(), self.sub(name)
        nodes = "".join(NODE.format(i=i, upstream=self.upstream_port, slots=slots // n_nodes) for i in range(n_nodes))
        keys = "".join(KEY.format(name=t, hash=hashlib.sha256(k.encode()).hexdigest()) for t, k in self.secrets.items())
        with open(os.path.join(folder, "spillway.yaml"), "w") as f:
            f.write(CONFIG.format(port=port, keys=keys, nodes=nodes, wait=wait, places=places))
        program = os.path.join(self.args.build, "spillway")
        row = Proxy(name, [program, "serve", "--config", "spillway.yaml"], port, "/readyz", folder)
        self.started.append(row)
        return row.start(self.args.proxy_core)

    def begin(self, row, tenant, mode, **options):
        command = [os.path.join(self.args.build, "bench", "frontdoor_load"), mode, "--port", str(row.port), "--key",
                   self.secrets[tenant], "--stream", "--refusals", "--frames", str(FRAMES)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return subprocess.Popen(pinned(self.args.load_core, command), stdout=subprocess.PIPE, text=True)

    def end(self, process):
        out, _ = process.communicate()
        if process.returncode:
            sys.exit("the load has failed")
        return json.loads(out)

    def load(self, row, tenant, mode, **options):
        before = row.cpu_s()
        answer = self.end(self.begin(row, tenant, mode, seconds=self.args.seconds, **options))
        answer["cpu_us"] = (row.cpu_s() - before) * 1e6 / max(1, answer["requests"])
        answer["goodput"] = answer["good"] / self.args.seconds
        return answer

    # ---- the parts

    def two_tenants(self, row, capacity, interval_us):
        crowd = self.begin(row, "crowd", "open", rate=3 * capacity, connections=15000, interval_us=interval_us,
                           seconds=self.args.seconds)
        guest = self.begin(row, "guest", "open", rate=capacity / 10, connections=5000, interval_us=interval_us,
                           seconds=self.args.seconds)
        return self.end(crowd), self.end(guest)

    def refusals(self):
        row = self.spillway("refusals", 1, 1, "0s")
        holder = self.begin(row, "guest", "open", rate=1, seconds=1, warm=0, interval_us=1000000, connections=1)
        while scrape(row)["spillway_requests_running"] < 1:
            time.sleep(0.01)
        rounds = []
        for _ in range(self.args.rounds):
            before = row.cpu_s()
            a = self.end(self.begin(row, "crowd", "closed", connections=64, seconds=0.8, warm=0.1))
            rounds.append((a["rate"], (row.cpu_s() - before) * 1e6 / max(1, a["requests"]), a["refused_us"]["p99"]))
            if a["good"]:
                note("a slot was free: the refusals' round is not pure")
            if scrape(row)["spillway_requests_running"] < 1:
                self.end(holder)
                holder = self.begin(row, "guest", "open", rate=1, seconds=1, warm=0, interval_us=1000000,
                                    connections=1)
                time.sleep(0.2)
        holder.terminate()
        holder.communicate()
        row.stop()
        return [statistics.median(v) for v in zip(*rounds)]

    def round(self, free, row):
        peak = self.load(free, "crowd", "closed", connections=64)["rate"]
        interval_us = round(SLOTS * 4 / peak * 1e6 / FRAMES)  # so that an answer takes as long as makes it a quarter
        capacity = SLOTS / (interval_us * FRAMES / 1e6)
        same = dict(connections=15000, interval_us=interval_us)
        at = [self.load(row, "crowd", "open", rate=times * capacity, **same) for times in (0.95, 1.0)]
        over = self.load(row, "crowd", "open", rate=3 * capacity, **same)
        over["peak"], over["capacity"], over["best"] = peak, capacity, max(a["goodput"] for a in at)
        over["share"] = over["goodput"] / over["best"]
        over["errors"] += sum(a["errors"] for a in at)
        over["guest"] = self.two_tenants(row, capacity, interval_us)[1]
        return over

    def run(self):
        a, r = self.args, {"over": []}
        free = self.spillway("free", 4, 0, "10s")
        row = self.spillway("bounded", 4, SLOTS, f"{a.wait_ms}ms")
        r["rss_before"] = row.rss_mib()
        busy, begin = machine_s()[0], time.monotonic()
        with Sampler(row) as sampler:
            for i in range(a.rounds):
                over = self.round(free, row)
                r["over"].append(over)
                note(f"round {i + 1} of {a.rounds}: peak {over['peak']:.0f}/s, goodput {over['goodput']:.0f}/s of "
                     f"{over['capacity']:.0f}/s, refused in {over['refused_us']['p99'] / 1e3:.1f} ms (p99)")
        ours = sum(p.cpu_s() for p in self.started) + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        r["others"] = (machine_s()[0] - busy - ours) / (time.monotonic() - begin) / os.cpu_count()
        time.sleep(1)
        r["rss"], r["waiting"], r["rss_after"] = sampler.rss, sampler.waiting, row.rss_mib()
        r["left"] = scrape(row).get("spillway_requests_waiting", 0)
        row.stop()
        r["refusals"] = self.refusals()
        return r


def middle(values, of):
    return statistics.median(of(v) for v in values)


def report(r, args):
    over = r["over"]
    guests = [a["guest"] for a in over]
    tenth = max(1, len(r["rss"]) // 10)
    rows = [
        ("the proxy's own peak, answers/s", f"{middle(over, lambda a: a['peak']):,.0f}", ""),
        ("the nodes' capacity (slots / time of an answer), answers/s",
         f"{middle(over, lambda a: a['capacity']):,.0f}", "a quarter of it"),
        ("peak goodput at that rate, answers/s", f"{middle(over, lambda a: a['best']):,.0f}", ""),
        ("goodput at three times the capacity, answers/s", f"{middle(over, lambda a: a['goodput']):,.0f}", ""),
        ("the same of the peak of its own round, median and least", f"{middle(over, lambda a: a['share']):.1%}, "
            f"{min(a['share'] for a in over):.1%}", "90%"),
        ("answers of that, p50 / p99 from request to end, ms", " / ".join(
            f"{middle(over, lambda a, q=q: a['end_us'][q]) / 1e3:,.0f}" for q in ("p50", "p99")), ""),
        ("refusals/s", f"{middle(over, lambda a: a['refused_us']['n'] / args.seconds):,.0f}", ""),
        ("time to a refusal, p50 / p99 / most, ms", " / ".join(
            f"{f(a['refused_us'][q] for a in over) / 1e3:,.1f}" for q, f in
            (("p50", statistics.median), ("p99", statistics.median), ("max", max))), "20"),
        ("refusals without Retry-After", f"{sum(a['without_retry_after'] for a in over)}", "0"),
        ("requests without any answer", f"{sum(a['errors'] for a in over)}", "0"),
        ("CPU for each request that came, us", f"{middle(over, lambda a: a['cpu_us']):.0f}", ""),
        ("most that waited at once", f"{max(r['waiting']):,.0f}", ""),
        ("waiting a second after the last round", f"{r['left']:.0f}", "0"),
        ("RSS before / first tenth / last tenth / most / after, MiB", " / ".join(f"{v:.1f}" for v in (
            r["rss_before"], statistics.mean(r["rss"][:tenth]), statistics.mean(r["rss"][-tenth:]), max(r["rss"]),
            r["rss_after"])), "does not grow"),
        ("a small tenant beside it: answered", f"{sum(g['end_us']['n'] for g in guests):,} of "
            f"{sum(g['end_us']['n'] + g['refused_us']['n'] for g in guests):,}", ""),
        ("its p50 / p99 to the end, ms", " / ".join(
            f"{middle(guests, lambda g, q=q: g['end_us'][q]) / 1e3:,.0f}" for q in ("p50", "p99")), ""),
        ("refusals alone: at most per second, CPU each us, p99 us",
         "{:,.0f}, {:.1f}, {:,.0f}".format(*r["refusals"]), ""),
    ]
    rows.insert(0, ("measure", "value", "floor"))
    width = max(len(row[0]) for row in rows)
    for i, row in enumerate(rows):
        print("| " + " | ".join(row) + " |" if args.markdown else f"{row[0]:{width}}  {row[1]}  {row[2]}".rstrip())
        if i == 0 and args.markdown:
            print("|---|---|---|")
    ours = version([os.path.join(args.build, "spillway"), "version"])
    print(f"\n{ours}, {os.cpu_count()} cores, {args.rounds} rounds of {args.seconds} s; a request waits at most "
          f"{args.wait_ms} ms; other programs took {r['others']:.0%} of the cores meanwhile.")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--build", default="build")
    p.add_argument("--folder", help="where ledgers are written")
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--wait-ms", type=int, default=2000)
    p.add_argument("--load-core", type=int, default=0)
    p.add_argument("--proxy-core", type=int, default=1)
    p.add_argument("--markdown", action="store_true")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    o = Overload(args)
    try:
        result = o.run()
    finally:
        o.close()
    report(result, args)


if __name__ == "__main__":
    main()
