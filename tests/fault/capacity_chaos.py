#!/usr/bin/env python3
# runtest: alone
# runtest: release
"""A fleet of spot instances that come and go: the market takes them back as a recorded trace says, a fifth of the calls to
the cloud fail in one way or another, the scheduler is killed (SIGKILL) again and again, and clients ask all the time. What
has to hold: every request is answered within three tries and charged once, no instance is left at the end, the cloud's bill
is ours to the pico-dollar, and neither nodes nor dollars per hour ever exceed their limit. Real engines join, fake ones do not.

    tests/fault/capacity_chaos.py --build build          20 s, 8 instances, 1 of them a real engine, a small trace of ours
    tests/fault/capacity_chaos.py --build build --full   20 min, 40 instances, 4 real ones, recorded traces at 60x

CHAOS_SECONDS=600 makes either another length; CHAOS_LOG=1 shows the scheduler's last lines when it fails."""

import csv
import decimal
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time

from books import read_books
from harness import Connection, Scheduler, Skip, Upstream, listens, main, node, request, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from ec2_stage import KEYS, FileServer, Machine, cloud  # noqa: E402
from fake_engine import Engine  # noqa: E402
from harness import free_port  # noqa: E402
from test_two_engines import model_file  # noqa: E402

FAULTS = {"throttle": 0.05, "cut": 0.04, "lost": 0.04, "error": 0.04, "truncate": 0.02, "garbage": 0.01}  # 20% of calls
PRICE = {"input": "0.2", "cached_input": "0.1", "output": "0.7"}
# Seconds and what the market has from then on, by zone: our own, so that a machine without recorded traces tests the same.
SMALL = {("us-east-1a", "g5.xlarge"): [(0, 3), (6, 1), (11, 4), (19, 0), (26, 4)],
         ("us-east-1b", "g5.xlarge"): [(0, 2), (9, 4), (16, 2), (22, 4), (31, 1)],
         ("us-east-1a", "g6.xlarge"): [(0, 1), (14, 0), (18, 1)]}
RECORDED = {("us-east-1a", "g5.xlarge"): ("16", "us-east-2b_v100_1"), ("us-east-1b", "g5.xlarge"): ("16", "us-west-2a_v100_1"),
            ("us-east-1c", "g5.xlarge"): ("16", "us-west-2c_v100_1"), ("us-east-1a", "g6.xlarge"): ("4", "us-west-2c_v100_1"),
            ("us-east-1b", "g6.xlarge"): ("4", "us-east-1f_v100_1")}


def recorded(shared, scale):
    path = os.path.join(shared, "data", "spot", "spot_traces_rle.csv")
    if not os.path.exists(path):
        raise Skip(f"no recorded spot traces ({path})")
    with open(path) as f:
        rows = list(csv.DictReader(f))
    out = {}
    for pool, (nodes, zone) in RECORDED.items():
        out[pool] = [(int(r["start_tick"]) * int(r["gap_s"]) / scale, int(r["available"])) for r in rows
                     if (r["nodes"], r["zone_gpu"]) == (nodes, zone)]
        assert out[pool], (pool, nodes, zone)
    return out


class Shape:
    def __init__(self, args):
        full = args.full
        self.seconds, self.kill_every = (1200, 120) if full else (20, 7)
        self.seconds = int(os.environ.get("CHAOS_SECONDS", self.seconds))
        self.fakes, self.real, self.clients = (36, 4, 24) if full else (7, 1, 8)
        self.scale = 60
        self.trace = recorded(args.shared, self.scale) if full else SMALL
        self.zones = sorted({z for z, _ in self.trace})
        self.max_hour = "24" if full else "5.00"


class Fleet:
    """The cloud with its market, and the scheduler that lives off it."""

    def __init__(self, args, shape):
        self.shape = shape
        self.port, self.join_port = free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory()
        self.key = os.path.join(self.folder.name, "key")
        with open(self.key, "w") as f:
            f.write("chaos-key\n")
        self.real = self.sources(args) if shape.real else None
        self.cloud = cloud(boot_s=90.0, scale=shape.scale, start_machine=self.machine)
        c = self.cloud.cloud
        for zone, kind in shape.trace:
            c.add_pool(zone, kind, 0, {"g5.xlarge": "0.4030", "g6.xlarge": "0.3510"}[kind],
                       {"g5.xlarge": "1.006", "g6.xlarge": "0.8048"}[kind])
        c.billing_min_s = 1
        for kind, rate in FAULTS.items():
            self.cloud.fault(kind, count=-1, rate=rate, code="InternalError")
        self.cloud.fault("latency", count=-1, rate=0.1, ms=200)
        self.stopping = threading.Event()
        self.market = threading.Thread(target=self.move_market, daemon=True)
        self.begin = None  # the trace stands at its first step until market_opens()
        self.market.start()
        self.scheduler = Scheduler(args.build, [], env=KEYS, **self.settings())

    def sources(self, args):
        bundle = os.path.join(args.build, "spillway-engine.bundle")
        if not os.path.exists(bundle): # with sanitizers the engine itself
            bundle = os.path.join(args.build, "spillway-engine")
        with tempfile.TemporaryDirectory() as d:
            data = {"/engine": open(bundle, "rb").read(), "/model": open(model_file(args, d), "rb").read()}
        files = FileServer(data)
        sums = {k: hashlib.sha256(v).hexdigest() for k, v in data.items()}
        self.files = files
        return {"engine_url": files.url + "/engine", "engine_sha256": sums["/engine"], "model_url": files.url + "/model",
                "model_sha256": sums["/model"], "arguments": ["--threads", "1", "--max-batch", "4"]}

    def machine(self, fake, instance):
        if instance.tags["spillway-pool"] == "real":
            return Machine(fake, instance)
        return Engine(instance.id, key="chaos-key", tokens=6, delay=0.02, address=(instance.ip, self.port))

    def market_opens(self):
        self.begin = time.time()

    def move_market(self):
        """What the trace says, when it says it; and one price that falls now and then."""
        at = {pool: 0 for pool in self.shape.trace}
        next_price, price = 10.0, 4030
        while not self.stopping.wait(0.1):
            now = time.time() - self.begin if self.begin else 0
            for pool, steps in self.shape.trace.items():
                while at[pool] < len(steps) and steps[at[pool]][0] <= now:
                    self.cloud.control("capacity", {"zone": pool[0], "type": pool[1], "capacity": steps[at[pool]][1]})
                    at[pool] += 1
            if now >= next_price:
                price -= 7
                next_price += 60
                self.cloud.control("price", {"zone": "us-east-1a", "type": "g5.xlarge", "price": f"0.{price:04d}"})

    def settings(self, pools=True):
        s = self.shape
        common = {"provider": "aws", "models": ["m"], "slots": 4, "local": True, "billing_min": "1s", "price": PRICE,
                  "tokens_per_s": 200, "markets": ["spot", "on-demand"], "boot": "3s"}
        settings = {"image": "ami-1", "zones": s.zones, "markets": ["spot", "on-demand"], "port": self.port, "boot": "3s",
                    "boot_max": "60s", "model_path": "/model"}
        fake = {"name": "fake", **common, "join": "off", "node_key_file": self.key, "min": s.fakes * 5 // 6, "max": s.fakes,
                "settings": {**settings, "types": ["g5.xlarge"], "on_demand_prices": ["g5.xlarge=1.006"]}}
        real = {"name": "real", **common, "min": s.real, "max": s.real,
                "settings": {**settings, **(self.real or {}), "types": ["g6.xlarge"],
                             "on_demand_prices": ["g6.xlarge=0.8048"]}}
        return {"providers": [{"name": "aws", "type": "ec2", "settings": {
                    "region": "us-east-1", "endpoint": self.cloud.url, "credentials": "env", "poll": "1s",
                    "spot_prices": "2s", "cold": "15s", "quota_pause": "5s", "call_deadline": "8s", "calls_per_s": 100,
                    "calls_burst": 200}}],
                "capacity": {"interval": "500ms", "max_nodes": s.fakes + s.real, "max_hour": s.max_hour,
                             "launches_per_min": 300, "down_after": "10s", "return_after": "5s", "drain": "5s",
                             "sweep": "3s", "stray_grace": "5s", "pools": [fake, real] if pools else []},
                "join": {"listen": f"127.0.0.1:{self.join_port}", "url": f"https://127.0.0.1:{self.join_port}", "beat": "200ms"},
                "queue": {"interactive": {"wait": "20s"}}, "cache": {"mode": "off"},
                "routing": {"first_byte": "20s"}}

    def alive(self):
        return self.cloud.alive()

    def joined(self):
        """Real engines that have joined by the token of their launch, and are heard."""
        a = request(os.path.join(self.scheduler.folder, "state", "admin.sock"), "GET", "/admin/v1/joined").json()["joined"]
        return [x["name"] for x in a if x["state"] == "here"]

    def close(self):
        self.stopping.set()
        self.market.join()
        self.cloud.close()
        self.folder.cleanup()
        if self.real:
            self.files.close()


class Census(threading.Thread):
    """How many real engines were there at once."""

    def __init__(self, fleet):
        super().__init__(daemon=True)
        self.fleet, self.most, self.stop = fleet, 0, threading.Event()

    def run(self):
        while not self.stop.wait(1.0):
            try:
                self.most = max(self.most, len(self.fleet.joined()))
            except (OSError, AssertionError, ValueError, KeyError):
                pass  # the scheduler was killed


class Client(threading.Thread):
    """Asks one thing after the other, each under a key of its own, each in at most three tries."""

    def __init__(self, fleet, number):
        super().__init__()
        self.fleet, self.number = fleet, number
        self.random = random.Random(number)
        self.stopped = False
        self.answered, self.tries, self.failed = 0, 0, []

    def run(self):
        n = 0
        while not self.stopped:
            n += 1
            self.ask(f"client-{self.number}-{n}")
            time.sleep(self.random.uniform(0.05, 0.5))

    def ask(self, key):
        body = {"model": "m", "max_tokens": 5, "stream": self.random.random() < 0.3,
                "messages": [{"role": "user", "content": f"request {key}"}]}
        seen = []
        for wait in (0.5, 2.0, 0):
            self.reachable()
            self.tries += 1
            what = self.once(key, body)
            if what is None:
                self.answered += 1
                return
            seen.append(what)
            time.sleep(wait)
        self.failed.append((key, seen))

    def once(self, key, body):
        """None: answered, whole. Else what came instead."""
        try:
            a = Connection(self.fleet.scheduler.port, "POST", "/v1/chat/completions", body, {"Idempotency-Key": key},
                           timeout=45).all()
        except (OSError, AssertionError, ValueError) as e:
            return repr(e)[:200]
        if a.status != 200 or not a.complete:
            return (a.status, a.body[:300] if a.body else None)
        if body["stream"] and (not a.events or a.events[-1][1] != "[DONE]"):
            return "a stream without an end"
        return None

    def reachable(self):
        """A scheduler that was killed is back within a second or so; nobody counts a refused connection as a try."""
        def up():
            try:
                return request(self.fleet.scheduler.port, "GET", "/healthz", timeout=5).status in (200, 503)
            except (OSError, AssertionError):
                return False
        wait_until(up, 30, "the scheduler")


def charged(ledger):
    """Rows that cost something, by idempotency key."""
    rows, _ = read_books(ledger)
    out = {}
    for found in rows.values():
        for r in found:
            if r["idempotency_key"] and r["charge_pusd"] > 0:
                out.setdefault(r["idempotency_key"], []).append(dict(r))
    return out


def wait_warm(fleet):
    want = fleet.shape.fakes // 3

    path = os.path.join(fleet.scheduler.folder, "state", "admin.sock")

    def ready():
        if not listens(path):
            return False
        a = request(path, "GET", "/admin/v1/nodes")
        return a.status == 200 and sum(n.get("state") == "ready" for n in a.json()["nodes"]) >= want

    wait_until(ready, 30, "the first nodes")


def kill_again_and_again(fleet):
    s, shape = fleet.scheduler, fleet.shape
    end, kills = time.monotonic() + shape.seconds, max(1, (shape.seconds - 1) // shape.kill_every)
    for _ in range(kills):
        time.sleep(shape.kill_every)
        s.kill()
        s.restart()
    time.sleep(max(0, end - time.monotonic()))
    return kills


def bills(fleet):
    """(ours, the cloud's), in pico-dollars, once both have ended everything."""
    a = request(os.path.join(fleet.scheduler.folder, "state", "admin.sock"), "GET", "/admin/v1/capacity").json()["bill"]
    return int(decimal.Decimal(a["paid_usd"]) * 10**12), fleet.cloud.state()["bill"], a


def settled_bills(fleet):
    """bills(), once they agree, and some time later still: that the last ones have ended is told when a call gets
    through. Or as they are when there was time enough for that."""

    def agree():
        ours, theirs, _ = bills(fleet)
        return ours == theirs

    try:
        wait_until(agree, 10, "the bills to agree")
    except AssertionError:
        pass
    time.sleep(3)
    return bills(fleet)


def explain_bills(fleet):
    """Instance by instance, where the two differ."""
    import sqlite3
    path = next(os.path.join(d, f) for d, _, fs in os.walk(os.path.join(fleet.scheduler.folder, "state")) for f in fs
                if f.startswith("capacity") and f.endswith(".db"))
    db = sqlite3.connect(path)
    ours = {r[0]: r[1:] for r in db.execute("select id, launched_s, ended_s, token, end_reason from instances where id != ''")}
    c, out = fleet.cloud.cloud, []
    for i in c.instances.values():
        mine = ours.get(i.id)
        steps = [(at, price) for at, price in i.pool.series if i.market == "spot" and i.launched < at < i.ended]
        paid = list(db.execute("select at_s, price_hour from prices where token = ?", (mine[2],))) if mine else []
        if not mine or mine[:2] != (i.launched, i.ended) or len(paid) != len(steps) + 1:
            out.append((i.id, i.market, i.launched, i.ended, i.reason, steps, mine, paid))
    return out[:10]


def chaos(args):
    shape = Shape(args)
    fleet, own = Fleet(args, shape), Upstream()
    s = fleet.scheduler
    try:
        wait_warm(fleet)
        fleet.market_opens()
        clients, census = [Client(fleet, n) for n in range(shape.clients)], Census(fleet)
        for t in (*clients, census):
            t.start()
        kills = kill_again_and_again(fleet)
        census.stop.set()
        for c in clients:
            c.stopped = True
        for c in clients:
            c.join()
        failed = [f for c in clients for f in c.failed]
        answered, tries = sum(c.answered for c in clients), sum(c.tries for c in clients)

        wait_until(lambda: fleet.joined() or not shape.real, 30, "a real engine is there, by its certificate")

        # Nothing is wanted any more: the faults go on, the fleet goes to nothing.
        s.configure([node("own", own)], **fleet.settings(pools=False))
        s.process.send_signal(signal.SIGHUP)
        try:
            wait_until(lambda: not fleet.alive(), 60, "the last instance to end")
        except AssertionError:
            pass
        leaked = [(i.id, i.tags.get("spillway-name")) for i in fleet.alive()]
        ours, theirs, bill = settled_bills(fleet)
        differ = explain_bills(fleet) if ours != theirs else []
        c = fleet.cloud.cloud
        ends = [i.reason for i in c.instances.values()]
        print(f"        {shape.seconds} s, {kills} kills, {answered} requests answered in {tries} tries, {len(failed)} failed; "
              f"{c.launches} instances, {ends.count('Server.SpotInstanceTermination')} taken back, most at once "
              f"{c.most_running} and {c.most_hour / 10**12:.2f} dollars per hour, {census.most} real engines; {sum(fleet.cloud.calls.values())} calls; "
              f"bill {ours / 10**12:.6f}, theirs {theirs / 10**12:.6f}; {len(leaked)} leaked", flush=True)
        assert s.terminate() == 0
        twice = {k: v for k, v in charged(s.ledger_path).items() if len(v) > 1}
        assert not failed, failed[:5]
        assert not twice, list(twice.items())[:2]
        assert not leaked, leaked
        assert c.most_running <= shape.fakes + shape.real and c.most_hour <= decimal.Decimal(shape.max_hour) * 10**12
        assert ours == theirs, (ours, theirs, bill, differ)
        assert ends.count("Server.SpotInstanceTermination") > (3 if args.full else 0) and fleet.cloud.bad_signatures == 0
        if args.full:
            assert c.most_running >= 30 and census.most == shape.real, (c.most_running, census.most)
    except BaseException:
        print("\n".join(str(x) for x in s.log_lines()[-60:]) if os.environ.get("CHAOS_LOG") else "")
        raise
    finally:
        s.close()
        fleet.close()
        own.stop()


if __name__ == "__main__":
    main(__doc__, [chaos])
