#!/usr/bin/env python3
"""What routing was told and decided is recorded, and lived again decides the same, to the last bit: a scheduler of four nodes
under random load, with failures, drains, reloads, restarts and a SIGKILL; a change to any one event is found; a recording
that has its size ends; and another configuration is told what it would have decided."""

import json
import os
import random
import subprocess
import tempfile
import threading
import time

from fake_engine import Engine, Fault
from harness import Scheduler, Upstream, chat, json_lines, main, node, request, wait_until

RECORD = "routing.jsonl"
ROUTING = {"record": RECORD, "retry_floor": 10000}
BREAKER = {"failures": 2, "open": "200ms", "open_max": "200ms", "cool_down": "200ms"}


def socket_of(s):
    return os.path.join(s.folder, "state", "admin.sock")


def admin(s, method, path):
    return request(socket_of(s), method, f"/admin/v1/{path}")


def record_of(s):
    return os.path.join(s.folder, RECORD)


def replay(s, path=None, *flags, code=0):
    p = subprocess.run([s.program, "replay", path or record_of(s), "--json", *flags], capture_output=True, text=True, timeout=60)
    assert code in (p.returncode, None), (p.returncode, p.stdout[:2000], p.stderr)
    return json.loads(p.stdout) if p.stdout else p.stderr


def events(path):
    with open(path) as f:
        return json_lines(f.read())  # without a last one that is being written, and one that a kill has left


def kinds(path):
    return {e["event"] for e in events(path)}


def same(told, decisions):
    assert told["same"] and told["decisions_differ"] == told["events_differ"] == 0, told
    assert told["decisions"] >= decisions, (told, decisions)


# ---- load ----------------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask for anything, until they are stopped."""

    def __init__(self, s, n=5, seed=1):
        self.s, self.stop, self.asked = s, threading.Event(), 0
        self.threads = [threading.Thread(target=self.run, args=(random.Random(seed * 100 + i),)) for i in range(n)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, value, trace):
        self.stop.set()
        for t in self.threads:
            t.join()

    def answered(self, n, seconds):
        """Goes on for so long, and until so many have an answer."""
        time.sleep(seconds)
        wait_until(lambda: self.asked >= n, 20, f"{n} answers")

    def run(self, r):
        while not self.stop.is_set():
            headers = {}
            if r.random() < 0.2:
                headers["x-spillway-local-only"] = "true"
            if r.random() < 0.2:
                headers["x-spillway-deadline"] = "600s"
            if r.random() < 0.2:
                headers["x-spillway-max-charge-usd"] = "0.01"
            text = r.choice(["one ", "two ", "three "]) * r.choice([1, 20, 400, 2000])
            try:
                chat(self.s.port, text=text, model=r.choice(["m", "m", "m", "other"]), headers=headers, timeout=1,
                     stream=r.random() < 0.8, max_tokens=r.choice([5, 50, 500]))
                self.asked += 1
            except (OSError, AssertionError, ValueError):
                time.sleep(0.05)


def fleet():
    engines = [Engine(f"gpu{i}", slots=4, tokens=r, delay=0.002 * (i + 1), prefill=0.004 * i) for i, r in enumerate((8, 12, 16))]
    return engines, Upstream("api")


def nodes_of(engines, api, prices=("0.1", "0.2", "0.3"), **more):
    own = [node(e.name, e, models=("m", "other") if i else ("m",), price=(p, p, p), slots=3, **more)
           for i, (e, p) in enumerate(zip(engines, prices))]
    return own + [node("api", api, models=("m", "other"), price=("1", "0.5", "3"), local=False)]


def wait_ready(s, n):
    s.line(message="serving")
    wait_until(lambda: sum(x["state"] == "ready" for x in admin(s, "GET", "nodes").json()["nodes"]) >= n, 10, "ready")


WHYS = {"dearer", "draining", "unhealthy", "tried", "full"}


def whys_of(s):
    """Why candidates were not chosen, so far."""
    return {c["reason"] for e in events(record_of(s)) if e["event"] == "chose" for c in e["candidates"] if "reason" in c}


def passed_by(s, why):
    """Goes on until somebody was not chosen for this reason."""
    def seen():
        time.sleep(0.1)
        return why in whys_of(s)

    wait_until(seen, 10, f"a node is passed by: {why}")


def trouble(s, engines, api, r):
    """All that can happen to nodes and configurations, once."""
    settings = {"routing": ROUTING, "breaker": BREAKER}
    for e in engines:
        for _ in range(3):
            e.faults.append(Fault(**r.choice([{"die": 3}, {"status": 503}, {"status": 429}, {"die_before_head": True}, {"error": 2}])))
    time.sleep(0.3)
    wait_until(lambda: "chose" in kinds(record_of(s)), 5, "somebody has asked")
    assert admin(s, "POST", "nodes/gpu1/drain").status == 200
    passed_by(s, "draining")
    assert admin(s, "POST", "nodes/gpu1/undrain").status == 200
    s.configure(nodes_of(engines, api, prices=("0.3", "0.1", "0.1")), **{**settings, "energy": {"price": "0.30"},
                "routing": {**ROUTING, "objective": "latency", "slo_ttft": "300ms"}})
    assert admin(s, "POST", "reload").status == 200
    time.sleep(0.3)
    s.configure(nodes_of(engines[1:], api), **settings)  # one node less
    assert admin(s, "POST", "reload").status == 200
    time.sleep(0.3)
    port = engines[2].port
    engines[2].stop()  # dead, as far as anybody knows
    passed_by(s, "unhealthy")
    engines[2] = Engine("gpu2", slots=4, tokens=9)
    assert engines[2].port != port
    s.configure(nodes_of(engines, api), **settings)  # it is back, elsewhere, and the first one too
    assert admin(s, "POST", "reload").status == 200
    time.sleep(0.4)


def random_days(args):
    r = random.Random(7)
    engines, api = fleet()
    s = Scheduler(args.build, nodes_of(engines, api), routing=ROUTING,
                  breaker=BREAKER, drain="1s")
    with s:
        wait_ready(s, 4)
        with Load(s, seed=1) as load:
            for _ in range(8):  # a slow machine may ask nothing in the moment in which a node drains
                trouble(s, engines, api, r)
                if WHYS <= whys_of(s):
                    break
            load.answered(50, 0)
        first = load.asked
        same(replay(s), 20)  # while it goes on: what is there is as good
        assert s.terminate() == 0
        s.restart()
        wait_ready(s, 4)
        with Load(s, seed=2) as load:
            load.answered(20, 0.5)
        wait_until(lambda: sum(e["event"] == "begin" for e in events(record_of(s))) == 2, 5, "the second run is recorded")
        s.kill()
        s.restart()
        wait_ready(s, 4)
        with Load(s, seed=3) as load:
            load.answered(50, 0.6)
        s.terminate()
        told = replay(s)
        same(told, first)
        assert told["runs"] == 3 and told["runs_cut_off"] == 1 and told["ended"] == "stopped", told
        told_of = kinds(record_of(s))
        assert {"begin", "end", "node", "model", "put", "drop", "state", "tariff", "sent", "spoke", "ended", "chose"} <= told_of, told_of
        assert WHYS <= whys_of(s), WHYS - whys_of(s)
        planted(args, s)
        other_rules(args, s, engines, api)


# ---- what is not the same is found ------------------------------------------------------------------------------------------


def rewritten(s, change):
    """The recording, with what change(event, run) has changed first; and its line."""
    path, at, runs = record_of(s) + ".planted", None, 0
    with open(record_of(s)) as f, open(path, "w") as out:
        for i, line in enumerate(f):
            for e in json_lines(line) if at is None else ():
                runs += e["event"] == "begin"
                if change(e, runs):
                    at, line = i + 1, json.dumps(e) + "\n"
            out.write(line)
    assert at, "there was something to change"
    return path, at


def legs_of_the_busiest(path):
    """Of the last run: the legs at the engine that had most of them. What is told of others once or twice, or of the API, need
    not come into any decision."""
    for e in events(path):
        if e["event"] == "begin":
            names, legs = {}, {}
        elif e["event"] == "node":
            names[e.get("id", 0)] = e["name"]
        elif e["event"] == "sent" and names[e.get("node", 0)] != "api":
            legs.setdefault(e.get("node", 0), set()).add(e["leg"].get("number", 0))
    return max(legs.values(), key=len)


def put_looked_at(path):
    """The first put after a run's first choice (what the start tells is told again, before anybody chooses) whose node was a
    candidate before it was put anew."""
    for e in events(path):
        if e["event"] == "begin":
            put, chosen = {}, False
        elif e["event"] == "put" and chosen and e["facts"].get("price_output"):
            put[e.get("node", 0)] = e
        elif e["event"] == "chose":
            chosen = True
            for c in e["candidates"]:
                if c.get("node", 0) in put:
                    return put[c.get("node", 0)]


def planted(args, s):
    busy, put = legs_of_the_busiest(record_of(s)), put_looked_at(record_of(s))

    def longer(e, run):  # a first token came late
        if e["event"] == "spoke" and e.get("us", 0) > 0 and run == 3 and e.get("leg", 0) in busy:  # where nobody forgets it
            e["us"] *= 1000
            return True

    def cheaper(e, run):
        if e == put:
            e["facts"]["price_output"] -= 1
            return True

    def another_choice(e, run):
        if e["event"] == "chose" and sum("reason" not in c for c in e["candidates"]) == 1 and len(e["candidates"]) > 2:
            e["chosen"] = (e.get("chosen", 0) + 1) % len(e["candidates"])
            return True

    def last_bit(e, run):
        for c in e["candidates"] if e["event"] == "chose" else []:
            if c.get("value"):
                c["value"] = c["value"] * (1 + 2 ** -52)
                return True

    def gone(e, run):
        for c in e["candidates"] if e["event"] == "chose" else []:
            if c.get("reason") in (None, "dearer", "unhealthy"):  # others may not be asked whether they are well
                c["healthy"] = not c.get("healthy", False)
                return True

    for change in (longer, cheaper, another_choice, last_bit, gone):
        path, at = rewritten(s, change)
        told = replay(s, path, code=None)
        assert not told["same"], change.__name__
        first = told["first"]
        assert first["line"] >= at, (change.__name__, at, first["line"])
        assert " is " in first["difference"] and " was " in first["difference"], first
        if change in (another_choice, last_bit, gone):
            assert first["line"] == at and first["event"] == "chose" and told["decisions_differ"] == 1, (change.__name__, told)
            for side in ("recorded", "replayed"):
                assert first[side]["decisions"][0]["sentence"], first
        p = subprocess.run([s.program, "replay", path], capture_output=True, text=True, timeout=60)
        assert p.returncode == 1 and f"{path}:{first['line']}: the first difference" in p.stdout, p.stdout[:500]
    os.remove(path)


def other_rules(args, s, engines, api):
    under = os.path.join(s.folder, "under.yaml")

    def told(nodes, **routing):
        s.config_path, keep = under, s.config_path
        s.configure(nodes, routing=routing)
        s.config_path = keep
        return replay(s, None, "--under", under)["under"]

    base = told(nodes_of(engines, api))
    assert base["sent"] > 50 and base["nodes"]["api"]["was"] >= 0, base
    dear = told(nodes_of(engines, api, prices=("9", "9", "9")))
    assert dear["elsewhere"] > base["elsewhere"] and dear["nodes"]["api"]["would"] > base["nodes"]["api"]["would"], (base, dear)
    fewer = told(nodes_of(engines[:1], api))
    assert fewer["nodes"]["gpu1"]["would"] == 0 and fewer["elsewhere"] + fewer["nobody"] > 0, fewer
    none = told([node("api", api, models=("m", "other"), price=("1", "0.5", "3"), local=False)])
    assert none["nobody"] > 0 and none["nodes"]["api"]["would"] == none["sent"] - none["nobody"], none
    more = told(nodes_of(engines, api) + [node("new", api, models=("m",), price=("0", "0", "0"), local=True)])
    assert more["nodes"]["new"]["would"] > 0 and more["nodes"]["new"]["was"] == 0, more
    assert more["money_usd_would"] < base["money_usd_would"], (base, more)
    p = subprocess.run([s.program, "replay", record_of(s), "--under", under], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and "predicted cost, marginal" in p.stdout and "all the same, to the last bit" in p.stdout, p.stdout


# ---- more nodes than are looked at ---------------------------------------------------------------------------------------------


def many_nodes(args):
    ups = [Upstream(f"u{i}") for i in range(3)]
    nodes = [node(f"n{i:02}", ups[i % 3], models=("m", "other"), price=(f"0.{i + 10}", "0.1", "0.3"), slots=2 + i % 3)
             for i in range(40)]
    with Scheduler(args.build, nodes, routing=ROUTING) as s:
        wait_ready(s, 40)
        with Load(s, n=6, seed=4) as load:
            load.answered(50, 0.8)
        s.terminate()
        told = replay(s)
        same(told, load.asked)
        assert "listed" in kinds(record_of(s)), kinds(record_of(s))

        def elsewhere(e, run):
            if e["event"] == "listed" and len(e["candidates"]) > 2:
                e["candidates"][0], e["candidates"][1] = e["candidates"][1], e["candidates"][0]
                return True

        path, at = rewritten(s, elsewhere)
        told = replay(s, path, code=1)
        assert told["first"]["line"] == at and "node 1 of the list is" in told["first"]["difference"], told["first"]


# ---- one configuration, both sides -----------------------------------------------------------------------------------------------


# What only one of them can know: the simulator of its modelled machines, how many sequences are computed at once and how much
# memory they have (a request waits for those inside a node that is not told so).
ONE_SIDED = {"sequences", "kv_tokens", "prefill_mw"}


def facts_of(path):
    """{node: {what routing was told first}}, with models by name."""
    nodes, models, facts = {}, {}, {}
    for e in events(path):
        if e["event"] in ("node", "model"):
            (nodes if e["event"] == "node" else models)[e.get("id", 0)] = e["name"]
        elif e["event"] == "put":
            told = {k: v for k, v in e["facts"].items() if k not in ONE_SIDED}
            facts.setdefault(nodes[e.get("node", 0)], {**told, "curve": e.get("curve"), "models": [models[m] for m in e["models"]]})
    return facts


def asked_of(path):
    """What each decision was asked to go by."""
    return {(e["q"].get("objective", "cost"), e["q"].get("slo_tpot_us"), e["q"].get("slo_ttft_us")) for e in events(path) if e["event"] == "chose"}


def one_configuration(args):
    ups = [Upstream(f"u{i}") for i in range(3)]
    with tempfile.TemporaryDirectory(prefix="spillway-replay-") as folder:
        nodes = []
        for i, up in enumerate(ups):
            path = os.path.join(folder, f"n{i}.json")
            with open(path, "w") as f:
                json.dump({"spillway_calibration": 1, "measured_at": "2026-11-20T00:00:00Z", "node": f"n{i}", "model": "m",
                           "curve": {"base_us": 9000.5 + i, "prefill_us_per_tok": 41.25, "decode_us_base": 9900, "decode_us_per_seq": 55.125 * i},
                           "prefill": [{"tokens": 64, "ttft_us": 12000}], "decode": [{"batch": 1, "step_us": 9950}, {"batch": 8, "step_us": 11000}],
                           "detail": {"decode_us_per_ctx_tok": 0.02, "mixed_us_per_tok": 43, "mixed_chunk": 512 + i}}, f)
            nodes.append(node(f"n{i}", up, slots=4 + i, calibration=path, watts=700 + i, power={"idle_watts": 100 + i}))
        with Scheduler(args.build, nodes, energy={"price": "0.25"},
                       routing={**ROUTING, "objective": "balanced", "slo_ttft": "700ms", "slo_tpot": "40ms"}) as s:
            wait_ready(s, 3)
            for i in range(30):
                chat(s.port, stream=True, max_tokens=20 + i)
            s.terminate()
            simulated = os.path.join(s.folder, "simulated.jsonl")
            p = subprocess.run([s.program, "simulate", "--config", s.config_path, "--trace", s.ledger_path, "--baselines", "none",
                                "--record", simulated], capture_output=True, text=True, timeout=60)
            assert p.returncode == 0, p.stderr
            same(replay(s), 30)
            same(replay(s, simulated), 30)
            daemon, simulator = facts_of(record_of(s)), facts_of(simulated)
            assert len(daemon) == 3 and daemon == simulator, (daemon, simulator)
            assert asked_of(record_of(s)) == asked_of(simulated) == {("balanced", 40000, 700000)}, asked_of(simulated)


# ---- bounds ----------------------------------------------------------------------------------------------------------------------


def its_size(args):
    up = Upstream("up")
    nodes = [node(f"n{i}", up) for i in range(3)]
    with Scheduler(args.build, nodes, routing={**ROUTING, "record_max_bytes": "64KiB"}) as s:
        wait_ready(s, 3)
        for _ in range(20):  # what a request takes of the file depends on what there is to say
            for _ in range(50):
                chat(s.port)
            m = s.metrics()
            if m["spillway_recording"] == 0:
                break
        assert m["spillway_recording"] == 0, m["spillway_recording_bytes"]
        chat(s.port)
        assert s.metrics()["spillway_recording_missed_total"] > m["spillway_recording_missed_total"]
        assert m["spillway_recording_bytes"] <= 64 << 10 and os.path.getsize(record_of(s)) <= 64 << 10
        assert s.line(message="the recording of routing has ended")["reason"].startswith("it has its size")
        told = replay(s)  # its last line stands before that of the log
        same(told, 20)
        assert told["ended"].startswith("it has its size") and told["runs_cut_off"] == 0, told
        s.terminate()
        s.restart()  # a full file stays as it is, and nobody is the worse for it
        assert chat(s.port).status == 200 and s.metrics()["spillway_recording"] == 0
        assert s.line(message="nothing is recorded: the file has its size already (routing.record_max_bytes)")
        s.terminate()
        os.remove(record_of(s))
        s.restart()
        assert chat(s.port).status == 200 and s.metrics()["spillway_recording"] == 1
    with Scheduler(args.build, nodes, routing={}) as s:
        assert chat(s.port).status == 200 and s.metrics()["spillway_recording"] == 0 and not os.path.exists(record_of(s))


def what_is_no_recording(args):
    up = Upstream("up")
    with Scheduler(args.build, [node("up", up)], routing=ROUTING) as s:
        wait_ready(s, 1)
        for _ in range(3):
            chat(s.port, stream=True)
        s.terminate()
        good = open(record_of(s)).read().splitlines()
        bad = record_of(s) + ".bad"

        def refused(lines, what):
            with open(bad, "w") as f:
                f.write("\n".join(lines) + "\n")
            text = replay(s, bad, code=2)
            assert what in text, (what, text)

        def changed(kind, **members):
            i = next(i for i, x in enumerate(good) if json.loads(x)["event"] == kind)
            e = json.loads(good[i])
            for k, v in members.items():
                e[k] = {**e[k], **v} if isinstance(v, dict) and k in e else v
            return good[:i] + [json.dumps(e)] + good[i + 1:]

        refused([], "no recording")
        refused(good[1:], ':1: "model" comes before "begin"' if '"model"' in good[1] else ':1: "')
        refused(["{}"], ':1: "event"')
        refused(["hello}"], ":1: ")
        refused(changed("begin", format=9), '"format": 9; this program reads 1')
        refused(changed("begin", nodes=0), '"nodes"')
        refused(changed("begin", pairs=-1), '"pairs"')
        refused(changed("put", node=64), "node 64: 0 to 63 are there")
        refused(changed("put", models=[256]), '"models": a list')
        refused(changed("put", facts={"site": 64}), '"site": a whole number of 0 to 63')
        refused(changed("put", facts={"money": "gold"}), '"money": one of its words')
        refused(changed("put", colour=1), '"colour" is no member that is known here')
        refused(changed("sent", node=7), "node 7 is not there")
        refused(changed("sent", leg={"number": 9}), "leg 9 comes after leg 0")
        refused(changed("spoke", leg=99), "leg 99: 1 have been sent so far")
        refused(changed("spoke", us="nan"), '"us": a time is wanted')
        refused(changed("chose", chosen=5), '"chosen": 5 of 1 candidates')
        refused(changed("chose", model="m"), '"model": a whole number')
        refused(changed("chose", q={"objective": "fun"}), '"objective": one of its words')
        refused(changed("chose", skip=[64]), "node 64: 0 to 63 are there")
        refused(good[:3] + [good[3][:-5]] + good[4:], "is cut off, and its run goes on all the same")
        with open(bad, "w") as f:  # a run that was cut off is as good as far as it goes
            f.write("\n".join(good)[:-30])
        assert replay(s, bad)["runs_cut_off"] == 1
        assert "No such file" in replay(s, bad + "x", code=1)


if __name__ == "__main__":
    main(__doc__, [random_days, many_nodes, one_configuration, its_size, what_is_no_recording])
