"""Nodes that fail, refuse and recover: a breaker takes one that fails too often out of service and lets one request try it
later; one that says "not now" cools down and costs nobody a failure; retries stay within their budget; work is taken once
all of them were asked how they are. And clients are told when to come back."""

import os
import threading
import time

from harness import Connection, Scheduler, Script, Upstream, chat, main, node, request, wait_until

CALM = {"retry_floor": 10000}  # no test but its own is about the budget


def admin(s, path):
    a = request(os.path.join(s.folder, "state", "admin.sock"), "GET", f"/admin/v1/{path}")
    assert a.status == 200, (a.status, a.body)
    return a.json()


def state(s, name):
    n = admin(s, f"nodes/{name}")
    return n["state"], n["breaker"], n["reason"]


def wait(time_):
    return {"interactive": {"wait": time_}}


def start(args, nodes, **settings):
    settings["routing"] = {**CALM, **settings.get("routing", {})}
    settings.setdefault("queue", wait("5s"))
    settings["breaker"] = {"failures": "5", **settings.get("breaker", {})}  # the others as they are by default
    s = Scheduler(args.build, nodes, **settings)
    s.nodes_ready(len(nodes))
    return s


def count(s, text, node_name):
    return sum(x.get("message") == text and x.get("node") == node_name for x in s.log_lines())


def opens_and_closes(args):
    """Five failures in a row; then one request at a time finds out whether it is well again."""
    bad, good = Upstream("bad", Script(status=500)), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with start(args, nodes, breaker={"open": "30s"}) as s:
        for _ in range(12):
            assert chat(s.port).headers["x-spillway-node"] == "good"
        assert len(bad.generations()) == 5, len(bad.generations())
        assert state(s, "bad")[:2] == ("ready", "open"), state(s, "bad")
        assert "5 failures in a row" in state(s, "bad")[2], state(s, "bad")
        assert s.metrics()['spillway_node_breaker_open{node="bad"}'] == 1
        assert s.metrics()['spillway_node_breaker_open{node="good"}'] == 0
        assert s.metrics()['spillway_node_breaker_opened_total{node="bad"}'] == 1
    with start(args, nodes, breaker={"failures": "1", "open": "300ms", "open_max": "300ms"}) as s:
        tried = len(bad.generations())
        assert chat(s.port).headers["x-spillway-node"] == "good"
        assert len(bad.generations()) == tried + 1
        s.line(message="breaker open", node="bad")
        time.sleep(0.4)
        gate = threading.Event()
        bad.default = Script(gate=gate)
        trial = []
        one = threading.Thread(target=lambda: trial.append(chat(s.port)))
        one.start()
        wait_until(lambda: len(bad.generations()) == tried + 2, 5, "one tries it")
        for _ in range(5):
            assert chat(s.port).headers["x-spillway-node"] == "good"  # and nobody else
        assert state(s, "bad")[1] == "half_open"
        gate.set()
        one.join()
        assert trial[0].headers["x-spillway-node"] == "bad"
        wait_until(lambda: state(s, "bad")[1] == "closed", 3, "it is well again")
        assert chat(s.port).headers["x-spillway-node"] == "bad"
        wait_until(lambda: count(s, "breaker closed", "bad"), 3, "the log says so")
        assert count(s, "breaker open", "bad") == 1 and count(s, "breaker closed", "bad") == 1


def fails_again(args):
    """A trial that fails opens it again; a share of failures opens it as well as a row."""
    bad, good = Upstream("bad", Script(status=500)), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with start(args, nodes, breaker={"failures": "0", "volume": "10", "open": "30s"}) as s:
        for k in range(12):
            bad.scripts.append(Script(status=500) if k % 2 else Script())
        for _ in range(14):
            assert chat(s.port).status == 200
        assert len(bad.generations()) == 10, len(bad.generations())
    bad.scripts.clear()
    with start(args, nodes, breaker={"failures": "1", "open": "200ms", "open_max": "30s"}) as s:
        opened, lasted = [], []  # just before it was opened, and for how long it was then left alone
        for k in range(3):
            before = len(bad.generations())
            while len(bad.generations()) == before:  # it tries the bad one first, as soon as it may
                asked = time.monotonic()
                assert chat(s.port).headers["x-spillway-node"] == "good"
            lasted += [time.monotonic() - opened[-1]] if opened else []
            opened.append(asked)
        assert s.metrics()['spillway_node_breaker_opened_total{node="bad"}'] == 3
        # 200 ms and 400 ms, a fifth more or less.
        assert lasted[0] > 0.159 and lasted[1] > 0.319, lasted


def only_one_and_open(args):
    """With nobody else to ask: those who can wait until it is tried do, the others are told when."""
    bad = Upstream("bad", Script(status=500))
    routing = {"retries": "0"}
    with start(args, [node("bad", bad)], routing=routing, breaker={"failures": "3", "open": "500ms"}) as s:
        for _ in range(3):
            begun = time.monotonic()
            assert chat(s.port).status == 502
        bad.default = Script()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(chat(s.port))) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert [a.status for a in answers] == [200] * 8, [a.status for a in answers]
        assert time.monotonic() - begun > 0.39  # a fifth less than 500 ms
        assert bad.most_active <= 8
    bad.default = Script(status=500)
    with start(args, [node("bad", bad)], routing={"retries": "0"}, queue=wait("20s"),
               breaker={"failures": "3", "open": "30s"}) as s:
        for _ in range(3):
            assert chat(s.port).status == 502
        n = len(bad.generations())
        begun = time.monotonic()
        a = chat(s.port)
        assert a.status == 503 and a.json()["error"]["code"] == "no_capacity", (a.status, a.body)
        assert 20 <= int(a.headers["retry-after"]) <= 37, a.headers
        assert time.monotonic() - begun < 10 and len(bad.generations()) == n  # at once: it is known that waiting is vain


def one_cools_down(args):
    """Not now: another node is asked, no failure is counted, and after that time it is asked again."""
    for status in (429, 503):
        busy, soon, good = Upstream("busy"), Upstream("soon"), Upstream("good")
        busy.scripts.append(Script(status=status, retry_after="60"))
        soon.scripts.append(Script(status=status, retry_after="1"))
        nodes = [node("busy", busy, price=("0", "0", "0")), node("soon", soon, price=("0.1", "0", "0")), node("good", good)]
        with start(args, nodes) as s:
            begun = time.monotonic()
            assert chat(s.port).headers["x-spillway-node"] == "good"
            for _ in range(7):
                assert chat(s.port).headers["x-spillway-node"] != "busy"
            assert len(busy.generations()) == 1
            assert state(s, "busy")[:2] == ("ready", "closed") and "cooling down" in state(s, "busy")[2], state(s, "busy")
            assert s.metrics()['spillway_node_cooling_down{node="busy"}'] == 1
            s.line(message="cooling down", node="busy")
            assert count(s, "cooling down", "busy") == 1
            wait_until(lambda: chat(s.port).headers["x-spillway-node"] == "soon", 5, "it is asked again")
            assert time.monotonic() - begun > 0.99 and soon.generations()
            assert state(s, "soon")[2] == "" and s.metrics()['spillway_node_cooling_down{node="soon"}'] == 0


def all_cool_down(args):
    """429 reaches the client only when nobody else can serve, with the time that the node asked for."""
    busy = Upstream("busy")
    with start(args, [node("busy", busy)], queue=wait("20s")) as s:
        busy.scripts.append(Script(status=429, retry_after="1"))
        begun = time.monotonic()
        a = chat(s.port)  # it can wait for so long, on its open connection
        assert a.status == 200 and time.monotonic() - begun > 0.99, (a.status, time.monotonic() - begun)
        assert len(busy.generations()) == 2
        busy.scripts.append(Script(status=429, retry_after="60"))
        told = time.monotonic()
        for _ in range(3):
            begun = time.monotonic()
            a = chat(s.port)
            assert a.status == 429 and a.json()["error"]["code"] == "upstream_busy", (a.status, a.body)
            assert 60 - (time.monotonic() - told) - 1 <= int(a.headers["retry-after"]) <= 60, a.headers
            assert time.monotonic() - begun < 10  # nobody waited for as long as one may
        assert len(busy.generations()) == 3  # and nobody has asked it meanwhile
    busy.scripts.append(Script(status=429, retry_after="86400"))
    with start(args, [node("busy", busy)], breaker={"cool_down_max": "20s"}) as s:
        begun = time.monotonic()
        after = int(chat(s.port).headers["retry-after"])
        assert 20 - (time.monotonic() - begun) - 1 <= after <= 20, after  # it is not believed without end


def not_the_nodes_fault(args):
    """What a client does opens nothing: nonsense that a node refuses, connections that are given up."""
    up = Upstream("up")
    with start(args, [node("up", up)], breaker={"failures": "2"}) as s:
        for _ in range(6):
            up.scripts.append(Script(status=400))
            assert chat(s.port).status == 400
        for _ in range(6):
            up.scripts.append(Script(hang="body", cut_after=1))
            c = Connection(s.port, "POST", "/v1/chat/completions",
                           {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})
            c.head()
            next(c.events())
            c.close()
            up.aborted.get(timeout=30)
        assert state(s, "up")[1] == "closed" and chat(s.port).status == 200


def slow_is_failed(args):
    slow, good = Upstream("slow", Script(head_delay=0.3)), Upstream("good")
    nodes = [node("slow", slow, price=("0", "0", "0")), node("good", good)]
    with start(args, nodes, breaker={"failures": "2", "slow": "100ms", "open": "30s"}) as s:
        for _ in range(2):
            assert chat(s.port, stream=True).headers["x-spillway-node"] == "slow"
        assert chat(s.port, stream=True).headers["x-spillway-node"] == "good"
        assert state(s, "slow")[1] == "open"


def retries_have_a_budget(args):
    bad, good = Upstream("bad", Script(status=500)), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    off = {"failures": "0", "percent": "0"}
    with start(args, nodes, routing={"retry_percent": "0", "retry_floor": "0"}, breaker=off) as s:
        a = chat(s.port)
        assert a.status == 502 and a.headers["x-spillway-node"] == "bad", (a.status, a.headers)
        assert s.metrics()["spillway_retries_refused_total"] == 1
    with start(args, nodes, routing={"retry_percent": "20", "retry_floor": "1"}, breaker=off) as s:
        begun = time.monotonic()
        answers = [chat(s.port) for _ in range(40)]
        served = sum(a.status == 200 for a in answers)
        floor = 10 * (1 + (time.monotonic() - begun) // 9)  # anew after ten seconds, less the last tenth of them
        assert 10 <= served <= floor + 8, (served, floor)  # and a fifth of all
        assert all(a.status in (200, 502) for a in answers)
        assert s.metrics()["spillway_retries_refused_total"] == 40 - served


def ready_when_all_were_asked(args):
    """The first request is not the dear node's because that one's probe was answered first; but nobody waits for ever."""
    class Late(Upstream):
        def _get(self, *request):
            time.sleep(0.05)
            return super()._get(*request)

    class Silent(Upstream):
        def _get(self, *_):
            time.sleep(3)
            return False

    def first(*nodes):
        with Scheduler(args.build, list(nodes)) as s:
            wait_until(lambda: request(s.port, "GET", "/readyz").status == 200, 5)
            return {n["name"]: n["state"] for n in s.nodes()}, chat(s.port).headers["x-spillway-node"]

    dear, cheap, silent = Upstream(), Late(), Silent()
    prices = {"dear": ("9", "9", "9"), "cheap": ("1", "1", "1")}
    both = [node("dear", dear, price=prices["dear"]), node("cheap", cheap, price=prices["cheap"])]
    assert first(*both) == ({"dear": "ready", "cheap": "ready"}, "cheap")
    states, by = first(both[0], node("silent", silent, price=prices["cheap"]))
    assert states["dear"] == "ready" and by == "dear", (states, by)


if __name__ == "__main__":
    main(__doc__, [ready_when_all_were_asked, opens_and_closes, fails_again, only_one_and_open, one_cools_down,
                   all_cool_down, not_the_nodes_fault, slow_is_failed, retries_have_a_budget])
