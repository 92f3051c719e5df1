"""Capacity from outside: pools whose nodes are real engines on this host. From zero, by an operator, up and down by load,
within limits, through reloads and restarts; nothing leaked, nothing doubled."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from harness import (Connection, Scheduler, Script, Skip, Stalls, Upstream, chat, listens, main, node, request,
                     wait_until)

for folder in ("bench", "fault"):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", folder))
from preemption import Client, join_all, make_model, start_all, undisturbed  # noqa: E402
from stand_ins import StandIns  # noqa: E402

MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/spillway-tiny.gguf")


def pool(name="burst", **fields):
    return {"name": name, "provider": "process", "settings": {"model_path": os.path.abspath(MODEL), "threads": 1},
            "models": ["tiny"], "min": 0, "max": 2, "tokens_per_s": 400, "price_hour": "0.40", "boot": "2s", "slots": 2,
            "local": True, **fields}


def capacity(*pools, **fields):
    return {"interval": "500ms", "max_nodes": 3, "down_after": "2s", "drain": "20s", "launches_per_min": 20,
            "pools": list(pools), **fields}


def only_full(args):
    if not args.full:
        raise Skip("takes longer: --full")


class Fleet:
    """A scheduler with pools; cli() is `spillway ...` against it."""

    def __init__(self, args, *pools, nodes=(), limits=None, **settings):
        self.args = args
        self.s = Scheduler(args.build, list(nodes), capacity=capacity(*pools, **(limits or {})), **settings)
        self.socket = os.path.join(self.s.folder, "state", "admin.sock")
        wait_until(lambda: listens(self.socket), 10, "the admin API listens")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        pids = self.engines()
        self.s.__exit__(kind, value, trace)
        wait_until(lambda: not [p for p in pids if os.path.exists("/proc/%d" % p)], 10, "no engine outlives us")

    def cli(self, *words, ok=True):
        r = subprocess.run([os.path.join(self.args.build, "spillway"), *words, "--socket", self.socket],
                           capture_output=True, text=True, timeout=20)
        assert (r.returncode == 0) == ok, (words, r.returncode, r.stdout, r.stderr)
        return r.stdout + r.stderr

    def nodes(self):
        return {n["name"]: n for n in json.loads(self.cli("nodes", "list", "--json"))["nodes"]}

    def lives(self):
        return {name: n.get("life") for name, n in self.nodes().items()}

    def engines(self):
        """Pids of the children that are engines."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                if int(fields[1]) == self.s.process.pid and fields[0] != "Z":
                    found.append(int(pid))
            except (OSError, IndexError):
                pass
        return found

    def wait_lives(self, want, seconds=15):
        wait_until(lambda: self.lives() == want, seconds, "lives are %s, not %s" % (want, self.lives()))

    def ask(self, **fields):
        return chat(self.s.port, "hello", model="tiny", max_tokens=8, temperature=0,
                    headers={"x-spillway-cache": "off", "x-spillway-explain": "1"}, **fields)


def test_from_zero(args):
    """The first request is held while a node is launched for it; later the fleet goes back to nothing."""
    with Fleet(args, pool(), queue={"interactive": {"wait": "15s"}}) as f:
        assert f.lives() == {}
        a = f.ask()
        assert a.status == 200 and a.headers["x-spillway-node"] == "burst-1", (a.status, a.body)
        f.wait_lives({"burst-1": "ready"})
        assert len(f.engines()) == 1
        f.wait_lives({}, 25)
        wait_until(lambda: not f.engines(), 5, "its engine is gone")
        m = f.s.metrics()
        assert m["spillway_capacity_launches_total"] == 1 and m["spillway_capacity_ended_total"] == 1, m
        assert f.ask().status == 200  # and again


def test_operator(args):
    """launch, drain, terminate by hand; limits hold; what makes no sense is refused with a reason."""
    with Fleet(args, pool(min=0, max=3), limits={"max_nodes": 2, "down_after": "10m"}) as f:
        f.cli("nodes", "launch", "burst")
        f.wait_lives({"burst-1": "ready"})
        f.cli("nodes", "launch", "burst")
        f.wait_lives({"burst-1": "ready", "burst-2": "ready"})
        text = f.cli("nodes", "launch", "burst", ok=False)
        assert "capacity.max_nodes" in text and "2 nodes" in text, text
        assert len(f.engines()) == 2
        n = f.nodes()["burst-2"]
        assert n["pool"] == "burst" and n["price_hour_usd"] == "0.40" and n["source"] == "process", n
        f.cli("nodes", "drain", "burst-1")
        wait_until(lambda: "burst-1" not in f.lives(), 10, "drained and ended")
        wait_until(lambda: len(f.engines()) == 1, 5, "its engine is gone")
        f.cli("nodes", "terminate", "burst-2")
        wait_until(lambda: f.lives() == {}, 10, "ended")
        wait_until(lambda: not f.engines(), 5, "its engine is gone")
        assert "no pool" in f.cli("nodes", "launch", "nobody", ok=False)
        assert "no node" in f.cli("nodes", "terminate", "burst-9", ok=False)
        assert "which pool" in f.cli("nodes", "launch", ok=False)
        assert "process" in f.cli("providers") and "nothing to check" in f.cli("providers", "check", "process")
        bill = request(f.socket, "GET", "/admin/v1/capacity").json()["bill"]
        assert bill["instances"] == 2 and 0 <= float(bill["paid_usd"]) < 0.02, bill


def test_dollars(args):
    """capacity.max_hour is the gate: what would cost more per hour is not launched, whoever asks."""
    only_full(args)
    with Fleet(args, pool(max=3), limits={"max_hour": "0.5", "down_after": "10m"}) as f:
        f.cli("nodes", "launch", "burst")
        assert "capacity.max_hour" in f.cli("nodes", "launch", "burst", ok=False)
        f.wait_lives({"burst-1": "ready"})


def test_minimum_and_reload(args):
    """`min` nodes are there by themselves; a pool that the configuration loses is drained while its answers go on."""
    with Fleet(args, pool(min=1)) as f:
        f.wait_lives({"burst-1": "ready"})
        c = Connection(f.s.port, "POST", "/v1/chat/completions", json.dumps(
            {"model": "tiny", "messages": [{"role": "user", "content": "tell me a long story"}], "stream": True,
             "max_tokens": 300, "ignore_eos": True}).encode())
        c.head()
        events = c.events()
        next(events)  # it runs
        f.s.configure([], capacity=capacity(pool("other", min=1)))
        f.s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "other-1" in f.lives(), 10, "the new pool's node")
        assert [c.answer.events[0][1], *events][-1] == "[DONE]", c.answer.events[-3:]
        f.wait_lives({"other-1": "ready"}, 15)


def test_killed_scheduler(args):
    """SIGKILL at any moment: engines go with their scheduler, the next one finds nothing doubled and serves."""
    with Fleet(args, pool(min=1), queue={"interactive": {"wait": "15s"}}) as f:
        f.wait_lives({"burst-1": "ready"})
        for wait in (0.0, 0.15, 0.4) if args.full else (0.15,):
            pids = f.engines()
            f.s.kill()
            wait_until(lambda: not [p for p in pids if os.path.exists("/proc/%d" % p)], 5, "its engines are gone")
            f.s.restart()
            time.sleep(wait)
        f.s.ready()
        f.wait_lives({"burst-1": "ready"})
        assert len(f.engines()) == 1
        assert f.ask().status == 200


def test_dead_engine(args):
    """An engine that dies is started again, its node leaves the table meanwhile, and streams go on elsewhere."""
    only_full(args)
    with Fleet(args, pool(min=2), limits={"down_after": "10m"}) as f:
        f.wait_lives({"burst-1": "ready", "burst-2": "ready"})
        pids = f.engines()
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: sorted(f.lives().values()) != ["ready", "ready"], 5, "it is noticed")
        assert f.ask().status == 200
        f.wait_lives({"burst-1": "ready", "burst-2": "ready"})


def test_saturation(args):
    """The local fleet is full: the next request goes to the API at once, and a node is launched within a second."""
    up = Upstream("api", default=Script(words=["from", "the", "api"]))
    gate = threading.Event()
    own = Upstream("own", default=Script(gate=gate, words=["x"]))
    api = node("api", up, models=["tiny"], price=("5", "5", "15"), local=False)
    here = node("own", own, models=["tiny"], price=("0", "0", "0"), slots=1)
    with Fleet(args, pool(), nodes=[here, api]) as f:
        wait_until(lambda: f.s.ready_nodes() >= {"own", "api"}, 5, "both are ready")
        first = []
        t = threading.Thread(target=lambda: first.append(f.ask()))
        t.start()
        wait_until(lambda: own.active == 1 or first, 15, "the own node is full")
        assert not first, first[0].headers
        began = time.monotonic()
        a = f.ask()
        took = time.monotonic() - began
        assert a.status == 200 and a.headers["x-spillway-node"] == "api", a.headers
        assert took < (0.5 if args.full else 3), took
        wait_until(lambda: "burst-1" in f.lives(), 2, "a node is launched")
        asked = time.monotonic() - began
        assert asked < (2 if args.full else 10), asked
        wait_until(lambda: f.lives().get("burst-1") == "ready", 10, "it is ready")
        a = f.ask()
        assert a.headers["x-spillway-node"] == "burst-1", a.headers
        gate.set()
        t.join()
    up.stop()
    own.stop()


def test_batch(args):
    """Batch work fills what is idle. Where nothing is, it does not cost an API's money before its deadline asks for that; then it
    goes in time. Interactive requests go at once."""
    up = Upstream("api", default=Script(words=["from", "the", "api"]))
    gate = threading.Event()
    own = Upstream("own", default=Script(gate=gate, words=["x"]))
    api = node("api", up, models=["tiny"], price=("5", "5", "15"), local=False)
    here = node("own", own, models=["tiny"], price=("0", "0", "0"), slots=1)
    with Fleet(args, nodes=[here, api], limits={"interval": "20s"}) as f:
        wait_until(lambda: f.s.ready_nodes() >= {"own", "api"}, 5, "both are ready")

        def flex(**headers):
            return chat(f.s.port, "hello", model="tiny", max_tokens=8, service_tier="flex", headers=headers)

        t = threading.Thread(target=flex)
        t.start()
        wait_until(lambda: own.active == 1, 5, "the valley is filled at once")
        assert f.ask().headers["x-spillway-node"] == "api"
        began, went = time.monotonic(), []

        def late():
            a = flex(**{"x-spillway-deadline": "6s"})
            went.append((a.status, a.headers.get("x-spillway-node"), time.monotonic() - began))

        u = threading.Thread(target=late)
        with Stalls() as stalls:
            u.start()
            time.sleep(1)
            assert not went and len(up.requests) == 1, went
            u.join(60)
        assert went and went[0][:2] == (200, "api") and 1 < went[0][2] < 6 + stalls.seconds, went
        gate.set()
        t.join()
        assert flex(**{"x-spillway-deadline": "8s"}).headers["x-spillway-node"] == "own"
    up.stop()
    own.stop()


def test_hold(args):
    """from_zero: hold: an API is there, and the first request waits for a node all the same; spill: it does not."""
    only_full(args)
    up = Upstream("api", default=Script(words=["from", "the", "api"]))
    api = node("api", up, models=["tiny"], price=("5", "5", "15"), local=False)
    for how, who in (("hold", "burst-1"), ("spill", "api")):
        with Fleet(args, pool(), nodes=[api], limits={"from_zero": how}, queue={"interactive": {"wait": "15s"}}) as f:
            f.s.ready()
            time.sleep(0.5)
            a = f.ask()
            assert a.status == 200 and a.headers["x-spillway-node"] == who, (how, a.status, a.headers)
    up.stop()


def test_late_api(args):
    """A cheap API takes what is left over as long as it keeps the SLO; one that was seen to break it does not keep us from
    launching."""
    only_full(args)
    for delay, comes in ((0.0, False), (0.15, True)):
        up = Upstream("api", default=Script(words=["from", "the", "api"], word_delay=delay))
        api = node("api", up, models=["tiny"], price=("0.01", "0.01", "0.01"), local=False)
        with Fleet(args, pool(price_hour="2"), nodes=[api], limits={"from_zero": "spill"},
                   routing={"slo_tpot": "50ms"}) as f:
            f.s.ready()
            for _ in range(20):
                f.ask(stream=True)
                if "burst-1" in f.lives():
                    break
                time.sleep(0.2)
            assert ("burst-1" in f.lives()) == comes, (delay, f.lives())
        up.stop()


def test_watts(args):
    """Two nodes of 300 W under load and 100 W idle, 450 W for the site: one of them may work. What does not fit is served by an
    API, waits where it is batch work, and waits or is shed where it must not leave."""
    gate = threading.Event()
    ups = {n: Upstream(n, default=Script(gate=gate, words=[n])) for n in ("a", "b")}
    ups["api"] = Upstream("api", default=Script(words=["api"]))
    here = [node(n, ups[n], models=["m"], price=("0", "0", "0"), slots=2, watts=300, power={"idle_watts": 100})
            for n in ("a", "b")]
    api = node("api", ups["api"], models=["m"], price=("5", "5", "15"), local=False)
    try:
        with Fleet(args, nodes=here + [api], power={"cap_watts": 450}) as f:
            f.s.ready()
            got = []

            def ask(**fields):
                got.append(chat(f.s.port, "hello", model="m", **fields).headers["x-spillway-node"])

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for t in threads:
                t.start()
            wait_until(lambda: max(ups[n].active for n in "ab") == 2, 10, "one node has both")
            assert min(ups[n].active for n in "ab") == 0
            ask()
            assert got == ["api"], got
            batch = threading.Thread(target=lambda: ask(service_tier="flex"))
            batch.start()
            wait_until(lambda: f.s.metrics().get('spillway_requests_waiting{model="m",class="batch"}') == 1, 10, "batch waits")
            gate.set()
            for t in (*threads, batch):
                t.join()
            assert len(got) == 4 and got.count("api") == 1, got
    finally:
        gate.set()
        for u in ups.values():
            u.stop()


def sleeper(name, **fields):
    return {"name": name, "provider": "process", "model_path": os.path.abspath(MODEL), "models": ["tiny"], "threads": 1,
            "slots": 2, "watts": 60, "power": {"idle_watts": 40, "sleep_watts": 1, "sleep_wake": "300ms"}, **fields}


def workers(f):
    """Of each engine's supervisor, how many processes it has."""
    count = {}
    for pid in f.engines():
        with open("/proc/%d/task/%d/children" % (pid, pid)) as c:
            count[pid] = len(c.read().split())
    return count


def test_ladder(args):
    """Engines that are not needed sleep: no worker, no request lost when they are wanted again; an operator's word holds."""
    only_full(args)
    with Fleet(args, nodes=[sleeper("a"), sleeper("b"), sleeper("c")], power={"keep_warm": 1},
               queue={"interactive": {"wait": "15s"}}) as f:
        f.s.ready()
        wait_until(lambda: sorted(f.lives().values()) == ["ready", "sleeping", "sleeping"], 30, "two of three sleep")
        wait_until(lambda: sorted(workers(f).values()) == [0, 0, 1], 10, "the sleepers have no workers")
        asleep = [n for n, life in f.lives().items() if life == "sleeping"]
        awake = [n for n in "abc" if n not in asleep][0]
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(f.ask())) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert [a.status for a in answers] == [200] * 8, [(a.status, a.body) for a in answers if a.status != 200]
        # The one that is awake is put to sleep by hand; the next request wakes somebody.
        f.cli("nodes", "sleep", awake)
        wait_until(lambda: f.lives()[awake] == "sleeping", 15, "it sleeps, although it was kept warm")
        assert f.nodes()[awake]["pinned"]
        assert f.ask().status == 200
        f.cli("nodes", "wake", awake)
        wait_until(lambda: f.lives()[awake] == "ready", 15, "it is awake")
        assert f.s.metrics()["spillway_capacity_sleeps_total"] >= 3


def test_moves(args):
    """The last answer of a node that is not needed goes on elsewhere, the same byte for byte, and the node sleeps while it still
    runs; with power.move 0s the node waits for it."""
    only_full(args)
    with tempfile.TemporaryDirectory() as folder:
        model, slots = make_model(args, folder), 8
        nodes = [sleeper(n, model_path=model, models=["m"], slots=slots, ctx_size=8192) for n in "ab"]
        for x in nodes:
            x["power"]["sleep_down"] = "200ms"
        for move in ("1s", "0s"):
            with Fleet(args, nodes=nodes, power={"keep_warm": 1, "move": move}, queue={"interactive": {"wait": "15s"}}) as f:
                f.wait_lives({"a": "ready", "b": "ready"})
                leave, end = threading.Event(), threading.Event()
                gone = []  # clients that leave first
                clients = [Client(f.s.port, k, 8000, lambda _, k=k: end.is_set() or (leave.is_set() and k in gone))
                           for k in range(slots + 2)]
                start_all(clients)
                wait_until(lambda: all(c.pieces > 20 or c.error for c in clients), 60, "all stream")
                assert not [c.error for c in clients if c.error], [c.error for c in clients if c.error][:2]
                here = {n: [c for c in clients if c.node == n] for n in "ab"}
                few, many = sorted("ab", key=lambda n: len(here[n]))
                assert len(here[few]) >= 2, here
                gone += [c.k for c in here[many][1:] + here[few][2:]]
                leave.set()
                stays = [c for c in clients if c.k not in gone]
                began = time.monotonic()
                if move == "1s":
                    wait_until(lambda: f.lives()[many] == "sleeping", 30, "the node sleeps")
                    print("        asleep %.1f s after it was needed no more" % (time.monotonic() - began))
                    assert not any(c.done or c.left or c.error for c in stays), "an answer ended: nothing had to move"
                else:
                    time.sleep(8)
                    assert f.lives() == {"a": "ready", "b": "ready"}, f.lives()
                moves = f.s.metrics().get('spillway_moves_total{model="m"}', 0)
                time.sleep(1)  # and are read on
                end.set()
                join_all(clients)
                assert not [c.error for c in clients if c.error], [c.error for c in clients if c.error][:2]
                assert moves == (1 if move == "1s" else 0), moves
                if moves:
                    print("        the longest gap was %.2f s" % max(c.gap for c in stays))
                    undisturbed(f.s, stays, 8000)


def test_sleep_by_hand(args):
    """An operator puts engines to sleep; a request wakes one, but not while another that is awake has room; power.mode off
    keeps the plan out of it."""
    with Fleet(args, nodes=[sleeper("a"), sleeper("b")], power={"mode": "off"}, routing={"explain_header": "all"},
               queue={"interactive": {"wait": "15s"}}) as f:
        f.wait_lives({"a": "ready", "b": "ready"})
        f.cli("nodes", "sleep", "a")
        f.wait_lives({"a": "sleeping", "b": "ready"})
        answer = f.ask()
        assert answer.status == 200, answer.body
        told = json.loads(answer.headers["x-spillway-explain"])["decisions"][-1]["candidates"]
        assert {c["node"]: c["reason"] for c in told} == {"a": "spared", "b": "chosen"}, told
        f.wait_lives({"a": "sleeping", "b": "ready"})
        f.cli("nodes", "sleep", "b")
        f.wait_lives({"a": "sleeping", "b": "sleeping"})
        wait_until(lambda: set(workers(f).values()) == {0}, 5, "they have no worker")
        began = time.monotonic()
        assert f.ask().status == 200
        print("        first answer from sleep after %.2f s" % (time.monotonic() - began))
        wait_until(lambda: sorted(f.lives().values()) == ["ready", "sleeping"], 10, "one is awake")


def test_patience(args):
    """Where the one that is awake is full, a request waits for a quarter of its time to the first token before it wakes another:
    a place that comes free sooner is taken."""
    with tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "key")
        with open(key, "w") as out:
            out.write("between scheduler and engines\n")
        engines = StandIns(2, 1, 0.02, 0, 0.05).all
        nodes = [{"name": n, "url": f"http://127.0.0.1:{e.port}", "node_key_file": key, "models": ["synth"], "slots": 1, "watts": 60,
                  "power": {"idle_watts": 40, "sleep_watts": 1, "sleep_wake": "50ms"}} for n, e in zip("ab", engines)]
        with Fleet(args, nodes=nodes, power={"mode": "off"}, routing={"slo_ttft": "2400ms"}, queue={"interactive": {"wait": "15s"}}) as f:
            f.wait_lives({"a": "ready", "b": "ready"})
            f.cli("nodes", "sleep", "b")
            f.wait_lives({"a": "ready", "b": "sleeping"})

            def behind(tokens):
                """The node that answers beside an answer of so many tokens, and when."""
                first = threading.Thread(target=lambda: chat(f.s.port, "x", model="synth", max_tokens=tokens, stream=True))
                first.start()
                wait_until(lambda: engines[0].running == 1, 5, "a is busy")
                began = time.monotonic()
                node = chat(f.s.port, "x", model="synth", max_tokens=1, stream=True).headers["x-spillway-node"]
                took = time.monotonic() - began
                first.join()
                return node, took

            def taken():
                """On a machine that stood still for so long, b is woken first, rightly."""
                if behind(12)[0] == "a" and f.lives()["b"] == "sleeping":
                    return True
                f.cli("nodes", "sleep", "b")
                f.wait_lives({"a": "ready", "b": "sleeping"})
                return False

            wait_until(taken, 3, "the place that comes free")
            node, took = behind(120)
            assert node == "b" and took > 0.5, (node, took)


def test_all_asleep(args):
    """keep_warm 0: everything sleeps, probes wake nobody, and the first request is answered by one that it wakes."""
    only_full(args)
    with Fleet(args, nodes=[sleeper("a"), sleeper("b")], power={"keep_warm": 0},
               queue={"interactive": {"wait": "15s"}}) as f:
        wait_until(lambda: sorted(f.lives().values()) == ["sleeping", "sleeping"], 30, "all sleep")
        time.sleep(1.5)
        assert sorted(f.lives().values()) == ["sleeping", "sleeping"] and set(workers(f).values()) == {0}
        assert request(f.s.port, "GET", "/readyz").status == 200
        began = time.monotonic()
        a = f.ask()
        assert a.status == 200, (a.status, a.body)
        print("        first answer from sleep after %.2f s" % (time.monotonic() - began))
        wait_until(lambda: sorted(f.lives().values()) == ["sleeping", "sleeping"], 60, "all sleep again")


def test_cheap_hours(args):
    """Everything sleeps, and a kWh costs less in two hours: a flex request that has the time waits for that, and says why in the
    log. With the prices the other way round its machine is woken at once."""
    hour = time.gmtime().tm_hour
    soon = '"%02d:00-%02d:00 %%s"' % (hour, (hour + 2) % 24)

    def energy(now, later):
        return {"energy": {"price": '"%s"' % later, "hours": [soon % now]}, "power": {"keep_warm": 0},
                "queue": {"batch": {"wait": "6h"}}}

    answers, node_a = [], sleeper("a")
    node_a["power"]["sleep_down"] = "200ms"
    with Fleet(args, nodes=[node_a], **energy("0.30", "0.10")) as f:
        f.wait_lives({"a": "sleeping"}, 30)
        t = threading.Thread(target=lambda: answers.append(f.ask(service_tier="flex")))
        t.start()
        wait_until(lambda: "cheaper hours before the deadline suffice" in f.s.log_text(), 10, "it waits for cheaper hours")
        time.sleep(1.5)
        assert not answers and f.lives() == {"a": "sleeping"}, (answers, f.lives())
        f.s.configure([node_a], capacity=capacity(), **energy("0.10", "0.30"))
        f.cli("reload")
        t.join(20)
        assert [a.status for a in answers] == [200], answers
        f.s.line(area="capacity", reason="one of the cheapest hours before the deadline")


def test_mistakes(args):
    """The configuration's mistakes are named with their place."""
    with Fleet(args, pool()) as f:
        path = os.path.join(f.s.folder, "wrong.yaml")
        with open(path, "w") as out:
            out.write("providers: [{name: a, type: nothing}]\n"
                      "capacity:\n  max_hour: lots\n  pools:\n"
                      "  - {name: p, provider: process, models: [m], settings: {modelpath: x}}\n"
                      "  - {name: q, provider: process, models: [m], settings: {model_path: x}, min: 3}\n"
                      "  - {name: r, provider: nobody, models: [m]}\n")
        r = subprocess.run([os.path.join(args.build, "spillway"), "check", "--config", path], capture_output=True, text=True)
        text = r.stdout + r.stderr
        assert r.returncode == 2, text
        for want in ('providers[0].type: "nothing" is unknown', "capacity.max_hour:", "did you mean 'model_path'?",
                     "capacity.pools[1].max: less than min", 'capacity.pools[2].provider: "nobody" is no entry of providers'):
            assert want in text, (want, text)


if __name__ == "__main__":
    main(__doc__, [test_from_zero, test_operator, test_dollars, test_minimum_and_reload, test_killed_scheduler,
                   test_dead_engine, test_saturation, test_batch, test_hold, test_late_api, test_watts, test_sleep_by_hand, test_patience,
                   test_ladder, test_moves,
                   test_all_asleep, test_cheap_hours, test_mistakes])
