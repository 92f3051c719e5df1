"""Capacity from a cloud that takes instances back, loses answers and bills: the fake EC2 of tests/fakes, whose instances run real
engines. Whatever happens to the scheduler, no instance is launched twice, and none is left behind."""

import contextlib
import json
import os
import subprocess
import threading
import time

from ec2_stage import KEYS, POOL, SETTINGS, FakeCloud
from harness import Scheduler, Script, Upstream, chat, main, node, request, until_quick, wait_until
from test_capacity import MODEL, only_full

SECRET = "k" * 64


class Engine:
    """What runs on an instance."""

    def __init__(self, build, key_file, instance):
        self.process = subprocess.Popen(
            [os.path.join(build, "spillway-engine"), "serve", "--model", os.path.abspath(MODEL), "--host", instance.ip,
             "--port", "8080", "--alias", "tiny", "--threads", "1", "--node-key-file", key_file, "--no-supervisor"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.kill()
        self.process.wait()


class World:
    def __init__(self, args, pool=None, engines=True, nodes=(), provider=None, routing=None, **limits):
        self.args = args
        self.nodes = list(nodes)
        self.key_file = None
        start = (lambda cloud, i: Engine(args.build, self.key_file, i)) if engines else None
        self.fake = FakeCloud(1.0, 0.2, start_machine=start)
        self.fake.cloud.billing_min_s = 1  # as the pool's billing_min: EC2's minute would be longer than a case
        self.fake.keys[KEYS["AWS_ACCESS_KEY_ID"]] = (KEYS["AWS_SECRET_ACCESS_KEY"], None)
        for kind in ("g5.xlarge", "g6.xlarge"):
            for zone in "ab":
                self.fake.cloud.add_pool("us-east-1" + zone, kind)
        settings = {**SETTINGS, "endpoint": self.fake.url, **(provider or {})}
        pool = {"name": "gpu", "provider": "aws", "models": ["tiny"], "min": 2, "max": 3, "tokens_per_s": 400, "slots": 4,
                "boot": "2s", "billing_min": "1s", **(pool or {})}
        own = {**POOL, "model_url": "https://models.example/tiny.gguf", "model_sha256": "0" * 64,
               "engine_url": "https://models.example/engine", "engine_sha256": "0" * 64}
        self.config = {"providers": [{"name": "aws", "type": "ec2", "settings": settings}],
                       "capacity": {"interval": "500ms", "max_nodes": 4, "max_hour": "5", "launches_per_min": 100,
                                    "down_after": "10m", "drain": "5s", "sweep": "1s", "stray_grace": "1s", **limits,
                                    "pools": [{**pool, "settings": own}]}}
        if routing:
            self.config["routing"] = routing
        self.s = None
        folder = os.path.join(os.environ.get("TMPDIR", "/tmp"))
        self.key_file = os.path.join(folder, "spillway-test-key-%d" % os.getpid())
        with open(self.key_file, "w") as f:
            f.write(SECRET + "\n")
        os.chmod(self.key_file, 0o600)
        self.config["capacity"]["pools"][0]["node_key_file"] = self.key_file

    def __enter__(self):
        try:
            self.s = Scheduler(self.args.build, self.nodes, env=KEYS, **self.config)
        except BaseException:
            self.close()
            raise
        self.socket = os.path.join(self.s.folder, "state", "admin.sock")
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.s.__exit__(kind, value, trace)
        finally:
            self.close()

    def close(self):
        """What stands beside the scheduler: the cloud with the engines on it."""
        self.fake.close()
        os.unlink(self.key_file)

    def cli(self, *words):
        r = subprocess.run([os.path.join(self.args.build, "spillway"), *words, "--socket", self.socket], capture_output=True,
                           text=True, timeout=20)
        assert r.returncode == 0, (words, r.stdout, r.stderr)
        return r.stdout

    def lives(self):
        nodes = json.loads(self.cli("nodes", "list", "--json"))["nodes"]
        return {n["name"]: (n["life"], n.get("instance")) for n in nodes}

    def ready(self, n, seconds=25):
        def look():
            try:
                lives = self.lives()
            except AssertionError:
                return None  # it is starting
            return lives if [life for life, _ in lives.values()] == ["ready"] * n else None
        return wait_until(look, seconds, "%d nodes are ready" % n)

    def alive(self):
        return sorted(i.id for i in self.fake.alive())

    def ask(self):
        return chat(self.s.port, "hello", model="tiny", max_tokens=8, temperature=0, headers={"x-spillway-cache": "off"})

    def end_all(self):
        """The pool leaves the configuration: everything is ended."""
        self.s.configure([{"name": "x", "url": "http://127.0.0.1:1", "models": ["tiny"]}], providers=self.config["providers"])
        self.cli("reload")
        wait_until(lambda: not self.alive() and not self.lives_of_pools(), 20, "nothing is left")

    def lives_of_pools(self):
        return {n["name"]: n["life"] for n in json.loads(self.cli("nodes", "list", "--json"))["nodes"] if n.get("pool")}

    def sweeps(self):
        return self.s.metrics()["spillway_capacity_sweeps_total"]

    def bill(self):
        return request(self.socket, "GET", "/admin/v1/capacity").json()["bill"]


def test_restart_finds_all(args):
    """SIGKILL: instances live on, the next scheduler knows them by id, launches none, and serves; the bills agree."""
    with World(args) as w:
        before = w.ready(2)
        ids = w.alive()
        assert sorted(i for _, i in before.values()) == ids and len(ids) == 2, (before, ids)
        assert w.ask().status == 200
        launches = w.fake.state()["launches"]
        w.s.kill()
        w.s.restart()
        after = w.ready(2)
        assert after == before and w.alive() == ids and w.fake.state()["launches"] == launches, (before, after)
        assert w.ask().status == 200
        time.sleep(1.1)  # bills count whole seconds
        w.end_all()
        bill, theirs = w.bill(), w.fake.state()["bill"] / 1e12
        print("        bill: ours %s, theirs %s" % (bill["paid_usd"], theirs))
        assert bill["instances"] == w.fake.state()["launches"], bill  # a slow machine may have asked for a third
        assert abs(float(bill["paid_usd"]) - theirs) <= 1e-9, (bill, theirs)  # from launchTime to the end that EC2 tells


def test_killed_while_launching(args):
    """Killed again and again while it launches, while answers are lost: in the end as many as wanted, each known, none twice."""
    with World(args) as w:
        w.fake.fault("lost", "CreateFleet", count=-1, rate=0.3)
        w.fake.fault("throttle", "*", count=-1, rate=0.1)
        for wait in (0.3, 0.5, 0.7, 0.9, 1.1, 0.4) if args.full else (0.4, 0.7, 1.0):
            time.sleep(wait)
            w.s.kill()
            w.s.restart()
        w.ready(2, 60)
        w.fake.control("clear", {})
        wait_until(lambda: len(w.alive()) == 2, 90, "two instances")
        assert w.fake.state()["most_running"] <= 4, w.fake.state()["most_running"]
        known = sorted(i for _, i in w.lives().values())
        assert known == w.alive(), (known, w.alive())


def launched(w):
    """One instance, by hand."""
    def launch():
        try:
            return w.cli("nodes", "launch", "gpu")
        except AssertionError:
            return None  # prices have not come yet
    wait_until(launch, 20, "it is launched")
    wait_until(w.alive, 10, "it is there")


def test_ended_at_once(args):
    """Ended between its launch and the first look at it: it lived, so it is paid, and stands in our bill, too."""
    with World(args, {"min": 0}, engines=False, nodes=[{"name": "x", "url": "http://127.0.0.1:1", "models": ["tiny"]}],
               provider={"poll": "2s"}, down_after="1s") as w:
        launched(w)
        w.fake.fault("latency", "DescribeInstances", count=1, ms=3000)  # it is looked at 200 ms after the answer
        w.cli("nodes", "terminate", "gpu-1")
        wait_until(lambda: not w.alive() and not w.lives_of_pools(), 20, "it is gone")
        wait_until(lambda: w.bill()["instances"] == 1, 5, "it is in the bill")
        bill, theirs = w.bill(), w.fake.state()["bill"] / 1e12
        assert abs(float(bill["paid_usd"]) - theirs) <= 1e-9, (bill, theirs)


@contextlib.contextmanager
def one_instance(args, **provider):
    with World(args, {"min": 0}, engines=False, provider=provider,
               nodes=[{"name": "x", "url": "http://127.0.0.1:1", "models": ["tiny"]}]) as w:
        launched(w)
        wait_until(lambda: w.bill()["instances"], 10, "it is known")
        yield w


def gone(w):
    wait_until(lambda: not w.alive() and not w.lives_of_pools(), 20, "it is gone")


def reprice(w, *prices):
    """What the one instance costs, each price for a second at least, since bills count whole ones."""
    i = w.fake.alive()[0]
    for price in prices:
        time.sleep(1.1)
        w.fake.control("price", {"zone": i.pool.zone, "type": i.pool.kind, "price": price})
    time.sleep(1.1)


def bills_agree(w):
    wait_until(lambda: abs(float(w.bill()["paid_usd"]) - w.fake.state()["bill"] / 1e12) <= 1e-9, 5, "the bills agree")


@contextlib.contextmanager
def refuses_to_end(args, **provider):
    """A world of one instance whose end is wanted, and refused."""
    with one_instance(args, **provider) as w:
        w.fake.fault("error", "TerminateInstances", count=-1, code="InternalError")
        w.cli("nodes", "terminate", "gpu-1")
        wait_until(lambda: w.fake.calls.get("TerminateInstances"), 10, "it is to end")
        yield w
        gone(w)
        bills_agree(w)


def test_price_while_it_ends(args):
    """A price that changes while an instance waits for its end: what is left of it is paid at that price."""
    with refuses_to_end(args, spot_prices="300ms", call_deadline="60s") as w:
        reprice(w, "0.90")
        seen = w.fake.calls["DescribeSpotPriceHistory"]
        wait_until(lambda: w.fake.calls["DescribeSpotPriceHistory"] >= seen + 4, 10, "the price is known")
        w.fake.control("clear", {})


def test_prices_told_late(args):
    """What an instance cost is only heard of when it is gone: each of its seconds is paid at the price that held."""
    with one_instance(args, spot_prices="300ms", call_deadline="1s") as w:
        w.fake.fault("error", "DescribeSpotPriceHistory", count=-1, code="InternalError")
        reprice(w, "0.90", "0.05", "0.70")
        w.cli("nodes", "terminate", "gpu-1")
        gone(w)
        w.fake.control("clear", {})
        bills_agree(w)


def test_prices_while_nobody_looks(args):
    """Prices that change while no scheduler is there."""
    with one_instance(args, spot_prices="300ms") as w:
        w.s.kill()
        reprice(w, "0.90", "0.05", "0.70")
        w.s.restart()
        w.cli("nodes", "terminate", "gpu-1")
        gone(w)
        bills_agree(w)


def test_end_is_refused(args):
    """An end that the cloud refuses for longer than it is asked for: what is in its list is not gone."""
    with refuses_to_end(args, call_deadline="1s") as w:
        w.s.line(message="could not be ended; it is tried again")
        seen = w.sweeps()
        wait_until(lambda: w.sweeps() >= seen + 2, 20, "it is looked for")
        assert w.lives_of_pools() == {"gpu-1": "ending"} and len(w.alive()) == 1, w.lives_of_pools()
        i = w.fake.alive()[0]
        with w.fake.cloud.lock:
            w.fake.cloud.end(i, time.time(), "Client.UserInitiatedShutdown")


def test_stray_is_ended(args):
    """An instance with our tag that nobody knows is ended after the grace; one of somebody else is not touched."""
    with World(args, {"min": 1}) as w:
        w.ready(1)
        mine = w.fake.alive()[0]
        with w.fake.cloud.lock:
            now = time.time()
            fields = dict(mine.fields)
            stray = w.fake.cloud.launch(mine.pool, "spot", now, {**fields, "token": "stray",
                                        "tags": {k: ("stray" if "token" in k or "name" in k.lower() else v)
                                                 for k, v in mine.tags.items()}})
            other = w.fake.cloud.launch(mine.pool, "spot", now, {**fields, "token": "other", "tags": {"Name": "other"}})
        wait_until(lambda: not stray.alive, 15, "the stray is ended")
        assert other.alive and mine.alive
        wait_until(lambda: w.s.metrics()["spillway_capacity_strays_ended_total"] == 1, 5, "it is counted")


def test_taken_back(args):
    """A pre-empted node is replaced, and requests go on. What was lost is learned, and remembered."""
    with World(args, routing={"slo_ttft": "2s"}) as w:
        w.ready(2)
        victim = w.fake.alive()[0]
        w.fake.control("preempt", {"id": victim.id, "notice_s": 1})
        wait_until(lambda: not victim.alive, 10, "it is taken back")
        for _ in range(5):
            assert w.ask().status == 200
        w.ready(2, 30)
        wait_until(lambda: victim.id not in w.alive() and len(w.alive()) == 2, 30, "another one is there")
        counted = 'spillway_capacity_failures_total{failure="taken_back"}'
        wait_until(lambda: w.s.metrics()[counted] == 1, 5, "it is counted")  # the other one may have been wanted anyhow
        m = w.s.metrics()
        plan = request(w.socket, "GET", "/admin/v1/capacity").json()["plans"][0]
        assert plan["miss_usd_per_mtok"] > 0, plan  # the promise of the SLO has its price
        losses = 'spillway_capacity_losses_per_hour{pool="gpu"}'
        assert 0.095 < m[losses] < 0.1, m[losses]  # the prior's one in 20 hours, and this one
        w.s.kill()
        w.s.restart()
        wait_until(lambda: 0.095 < w.s.metrics().get(losses, 0) < 0.1, 5, "it is remembered")


def test_saturated(args):
    """The local fleet is full: the next request is served elsewhere at once, and spot is asked for within a second."""
    gate = threading.Event()
    own, up = Upstream("own", default=Script(gate=gate, words=["x"])), Upstream("api", default=Script(words=["y"]))
    try:
        here = node("own", own, models=["tiny"], price=("0", "0", "0"), slots=1)
        api = node("api", up, models=["tiny"], price=("5", "5", "15"), local=False)
        with World(args, {"min": 0}, engines=False, nodes=[here, api], interval="5s") as w:
            w.s.ready()
            wait_until(lambda: w.fake.state()["calls"].get("DescribeSpotPriceHistory"), 10, "what can be had is known")
            time.sleep(1)  # plans of the beginning
            full = threading.Thread(target=w.ask)
            began = time.time()
            full.start()
            wait_until(lambda: own.active == 1, 10, "it is full")

            def elsewhere():
                at = time.monotonic()
                a = w.ask()
                assert a.status == 200 and a.headers["x-spillway-node"] == "api", a.headers
                return time.monotonic() - at

            took = until_quick(elsewhere, 0.1, tries=20)
            first = wait_until(lambda: w.fake.alive(), 10, "spot is launched")[0]
            asked = first.launched_exactly - began
            print("        served elsewhere after %.0f ms; %s asked for after %.2f s" % (1000 * took, first.market, asked))
            assert first.market == "spot"
            assert asked < (1 if args.full else 4), asked
            gate.set()
            full.join()
    finally:
        gate.set()
        own.stop()
        up.stop()


def markets(w):
    return [i.market for i in w.fake.alive()]


def stock(w, n):
    for zone in "ab":
        for kind in ("g5.xlarge", "g6.xlarge"):
            w.fake.control("capacity", {"zone": "us-east-1" + zone, "type": kind, "capacity": n, "notice_s": 0.5})


# Two nodes do whatever is asked here: with the three that may run on demand, there would be no room for the way back.
ENOUGH = {"tokens_per_s": 4000}


def back_to_spot(w, dry_s, most_s):
    """Spot runs dry, and comes back; meanwhile it is tried, by one launch at a time."""
    w.ready(2, 120)
    assert markets(w) == ["spot"] * 2, markets(w)
    stock(w, 0)
    wait_until(lambda: markets(w) == ["on-demand"] * 2, 120, "on-demand stands in")
    w.ready(2, 120)
    asked, dry_since = w.fake.state()["calls"]["CreateFleet"], time.monotonic()
    time.sleep(dry_s)
    asked = w.fake.state()["calls"]["CreateFleet"] - asked
    dry_for = time.monotonic() - dry_since  # on a machine that stood still, longer
    assert markets(w) == ["on-demand"] * 2
    stock(w, 1000)
    began = time.monotonic()
    answers = []
    while markets(w) != ["spot"] * 2 or len(w.lives()) != 2:
        assert time.monotonic() - began < most_s, (markets(w), w.lives())
        answers.append(w.ask().status)
        time.sleep(0.1)
    took = time.monotonic() - began
    w.ready(2)
    print("        dry for %g s: tried %d times; back on spot %.1f s after it was there, %d requests meanwhile" % (
        dry_s, asked, took, len(answers)))
    assert set(answers) <= {200}, answers
    assert w.fake.state()["most_running"] <= 4
    return asked, dry_for


def test_back_to_spot(args):
    """Scaled down: what waits seconds here waits tens of seconds in the field (the next case)."""
    with World(args, ENOUGH, provider={"cold": "1s"}, return_after="1s") as w:
        asked, dry_for = back_to_spot(w, 2, 60)
        assert asked <= dry_for + 1


def test_back_to_spot_at_length(args):
    """With every interval as it is by default, and instances that boot for half a minute: within two minutes."""
    only_full(args)
    with World(args, {**ENOUGH, "boot": "30s"}, interval="5s", down_after="5m", return_after="20s", sweep="30s",
               provider={"poll": "10s"}) as w:
        w.fake.cloud.boot_s = 30
        assert back_to_spot(w, 130, 120)[0] <= 4


if __name__ == "__main__":
    main(__doc__, [test_restart_finds_all, test_killed_while_launching, test_ended_at_once, test_price_while_it_ends,
                   test_prices_told_late, test_prices_while_nobody_looks, test_end_is_refused, test_stray_is_ended,
                   test_taken_back, test_saturated, test_back_to_spot, test_back_to_spot_at_length])
