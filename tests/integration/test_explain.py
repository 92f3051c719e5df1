#!/usr/bin/env python3
"""A decision explains itself: the header x-spillway-explain of a request, GET /admin/v1/explain/{id} and `spillway explain`
say of each candidate why it was not chosen, for prices, full nodes, open breakers, privacy, models, retries, continuations,
the waiting room and fallbacks; and nobody is told who may not know."""

import json
import os
import subprocess
import tempfile
import threading

from fake_engine import Engine, Fault
from harness import Scheduler, Script, Skip, Upstream, chat, key_hash, main, node, request, wait_until

ASK = {"x-spillway-explain": "1"}
KEYS = [{"id": "boss", "sha256": key_hash("boss"), "tenant": "t", "scopes": ["inference", "admin"]},
        {"id": "user", "sha256": key_hash("user"), "tenant": "t"}]


def start(args, nodes, keys=None, **settings):
    s = Scheduler(args.build, nodes, keys=keys, **{"cache": {"mode": "off"}, **settings})
    s.nodes_ready(len(nodes))
    return s


def socket_of(s):
    return os.path.join(s.folder, "state", "admin.sock")


def explain(s, request_id):
    """Its decisions, the newest last."""
    a = request(socket_of(s), "GET", f"/admin/v1/explain/{request_id}")
    assert a.status == 200, a.body
    assert a.json()["request_id"] == request_id and a.json()["earlier"] == 0
    return a.json()["decisions"]


def command(s, *words):
    return subprocess.run([s.program, "explain", *words, "--socket", socket_of(s)], capture_output=True, text=True,
                          timeout=20)


def reasons(decision):
    return {c["node"]: c["reason"] for c in decision["candidates"]}


def why(decision, name):
    return next(c["why"] for c in decision["candidates"] if c["node"] == name)


def in_header(a):
    return json.loads(a.headers["x-spillway-explain"])


# ---- three ways ----------------------------------------------------------------------------------------------------------


def a_price(args):
    """The same decision by header (whole and streamed), admin API and command line."""
    home, api = Upstream(), Upstream()
    nodes = [node("home", home, price=("0.1", "0.1", "0.4"), slots=8), node("api", api, price=("1", "1", "4"), local=False),
             node("other", api, models=("another",))]
    with start(args, nodes, keys=KEYS) as s:
        for stream in (False, True):
            a = chat(s.port, key="boss", headers=ASK, stream=stream, max_tokens=100)
            assert a.status == 200 and a.headers["x-spillway-node"] == "home"
            d, = in_header(a)["decisions"]
            assert reasons(d) == {"home": "chosen", "api": "dearer", "other": "other_model"}, d
            assert d["chosen"] == "home" and d["outcome"] == "chosen" and d["attempt"] == "first"
            full, = explain(s, a.headers["x-request-id"])
            assert reasons(full) == reasons(d) and full["sentence"] == d["sentence"]
            assert full["sentence"].startswith("home was chosen: the cheapest; api lost: dearer, $0.0"), full["sentence"]
            assert [c["node"] for c in full["candidates"]] == ["home", "api", "other"], "the winner first"
            won, lost, _ = full["candidates"]
            assert float(lost["money_usd"]) > float(won["money_usd"]) > 0
            assert why(full, "api").startswith("dearer, $0.0") and " against $0.0" in why(full, "api")
            assert (won["in_flight"], won["slots"], won["local"], lost["local"]) == (0, 8, True, False)
            assert (full["model_asked"], full["model"], full["class"], full["objective"]) == ("m", "m", "interactive", "cost")
            assert full["slo"] is None and full["charge_max_usd"] is None and full["tokens_output"] > 0
            p = command(s, a.headers["x-request-id"])
            assert p.returncode == 0 and full["sentence"] in p.stdout, p.stdout + p.stderr
            lines = p.stdout.splitlines()
            assert lines[0].startswith("decision 1 of 1, 2") and "first attempt, model m" in lines[0], lines[0]
            assert lines[1].split()[0] == "NODE" and lines[2].split()[0] == "home" and "0/8" in lines[2]
            assert "dearer" in lines[3]
            p = command(s, a.headers["x-request-id"], "--json")
            assert json.loads(p.stdout)["decisions"] == [full]


def who_may_know(args):
    up = Upstream()

    def header(s, key, value="1", **fields):
        a = chat(s.port, key=key, headers={"x-spillway-explain": value}, **fields)
        assert a.status == 200, a.body
        return json.loads(a.headers.get("x-spillway-explain", "null"))

    with start(args, [node("up", up)], keys=KEYS) as s:
        assert header(s, "boss")["decisions"] and header(s, "boss", "true", stream=True)["decisions"]
        assert "x-spillway-explain" not in chat(s.port, key="boss").headers
        for off in ("0", "false"):
            assert header(s, "boss", off) is None
        for stream in (False, True):
            told = header(s, "user", stream=stream)
            assert list(told) == ["error"] and "scope admin" in told["error"], told
        a = chat(s.port, key="boss", headers={"x-spillway-explain": "please"})
        assert a.status == 400 and "neither 1 nor 0" in a.json()["error"]["message"], a.body
        # what is kept for repeats has it not: they may be another's
        once = {"Idempotency-Key": "k"}
        assert "decisions" in chat(s.port, key="boss", headers={**ASK, **once}).headers["x-spillway-explain"]
        again = chat(s.port, key="user", headers=once)
        assert again.status == 200 and "x-spillway-explain" not in again.headers
        assert len(up.generations()) == 8, "the repeat was none"
    with start(args, [node("up", up)], keys=KEYS, routing={"explain_header": "all"}, cache={"mode": "lru"}) as s:
        assert header(s, "user", temperature=0)["decisions"]
        wait_until(lambda: "no node was looked for" in header(s, "user", temperature=0).get("error", ""), 5, "a hit")
    with start(args, [node("up", up)], keys=KEYS, routing={"explain_header": "off"}) as s:
        assert "turned off" in header(s, "boss")["error"]
    with start(args, [node("up", up)], keys=KEYS, routing={"explain_keep": "0"}) as s:
        assert "no decisions are kept" in header(s, "boss")["error"]
        a = request(socket_of(s), "GET", "/admin/v1/explain/req_1")
        assert a.status == 404 and "routing.explain_keep is 0" in a.json()["error"]["message"]


def what_is_not_known(args):
    up = Upstream()
    with start(args, [node("up", up)], routing={"explain_keep": "3"}) as s:
        ids = [chat(s.port).headers["x-request-id"] for _ in range(5)]
        for i in ids[:2]:
            a = request(socket_of(s), "GET", f"/admin/v1/explain/{i}")
            assert a.status == 404 and a.json()["error"]["code"] == "not_found"
            assert "the newest 3 are kept (routing.explain_keep)" in a.json()["error"]["message"], a.body
        for i in ids[2:]:
            assert len(explain(s, i)) == 1
        p = command(s, ids[0])
        assert p.returncode == 1 and "the newest 3 are kept" in p.stderr and not p.stdout, p.stderr
        p = command(s, "no such/id")
        assert p.returncode == 2 and "is no request id; they look like req_" in p.stderr
        p = command(s)
        assert p.returncode == 2 and "REQUEST_ID" in p.stderr


# ---- why not -------------------------------------------------------------------------------------------------------------


def full_and_waiting(args):
    up, other, gate = Upstream(), Upstream(), threading.Event()
    nodes = [node("one", up, slots=1), node("away", other, local=False, price=("5", "5", "5"))]
    keys = [{"id": "in", "sha256": key_hash("in"), "tenant": "t", "local_only": True}]
    with start(args, nodes, keys=keys, routing={"explain_header": "all"}, queue={"interactive": {"wait": "20s"}}) as s:
        up.scripts.append(Script(gate=gate))
        answers = [None, None]

        def ask(i):
            answers[i] = chat(s.port, key="in", headers=ASK)

        first = threading.Thread(target=ask, args=(0,))
        first.start()
        wait_until(lambda: up.active == 1, 5, "the slot is taken")
        second = threading.Thread(target=ask, args=(1,))
        second.start()
        waiting = 'spillway_requests_waiting{model="m",class="interactive"}'
        wait_until(lambda: s.metrics()[waiting] == 1, 5, "the second waits")
        gate.set()
        first.join()
        second.join()
        d = explain(s, answers[0].headers["x-request-id"])
        assert len(d) == 1 and d[0]["sentence"].startswith("one was chosen: the only one that could take it; away lost: is "
                                                           "not on the premises"), d[0]["sentence"]
        waited, got = explain(s, answers[1].headers["x-request-id"])
        assert reasons(waited) == {"one": "full", "away": "not_local"} and waited["outcome"] == "waits", waited
        assert waited["local_only"] and waited["waits_behind"] == 0 and 15000 < waited["waits_ms_max"] <= 20000
        assert "one is full: 1 of 1 slots" in waited["sentence"] and "it waits, behind 0, for at most" in waited["sentence"]
        assert got["granted"] and got["waited_ms"] >= 0 and got["chosen"] == "one" and got["attempt"] == "first"
        assert [d["outcome"] for d in in_header(answers[1])["decisions"]] == ["waits", "chosen"]
        assert "decision 2 of 2" in command(s, answers[1].headers["x-request-id"]).stdout


def nobody_and_why(args):
    """An error says why, too."""
    up, gone = Upstream(), Upstream()
    nodes = [node("away", up, local=False), node("dear", gone, price=("900", "900", "900"))]
    with start(args, nodes, keys=KEYS, routing={"explain_header": "all"}, queue={"interactive": {"wait": "0s"}}) as s:
        headers = {**ASK, "x-spillway-local-only": "true", "x-spillway-max-charge-usd": "0.0001"}
        a = chat(s.port, key="user", headers=headers)
        assert a.status in (402, 503), a.body
        d, = in_header(a)["decisions"]
        assert d["outcome"] == "nobody" and "chosen" not in d and d["charge_max_usd"] == "0.0001"
        assert reasons(d) == {"away": "not_local", "dear": "too_dear"}, d
        assert "nobody can take it" in d["sentence"] and "the client's bound of $0.0001" in d["sentence"], d["sentence"]
        request(socket_of(s), "POST", "/admin/v1/nodes/away/drain")
        gone.stop()
        wait_until(lambda: s.metrics()['spillway_node_up{node="dear"}'] == 0, 5, "it is down")
        a = chat(s.port, key="user", headers=ASK)
        d, = in_header(a)["decisions"]
        assert a.status == 503 and reasons(d) == {"away": "draining", "dear": "unhealthy"}, (a.body, d)
        assert d["outcome"] == "not_let_in" and "nobody may wait" in d["sentence"], d["sentence"]


def an_open_breaker(args):
    bad, good = Upstream(default=Script(status=500)), Upstream()
    nodes = [node("bad", bad, price=("0.1", "0.1", "0.1")), node("good", good, price=("2", "2", "2"))]
    with start(args, nodes, breaker={"failures": "2", "percent": 0, "open": "60s", "open_max": "60s"}) as s:
        ids = [chat(s.port).headers["x-request-id"] for _ in range(3)]
        first, retry = explain(s, ids[0])
        assert reasons(first) == {"bad": "chosen", "good": "dearer"} and first["attempt"] == "first"
        assert reasons(retry) == {"bad": "tried", "good": "chosen"} and retry["attempt"] == "retry", retry
        assert retry["legs_before"] == 1 and "bad lost: has failed for this request already" in retry["sentence"]
        held, = explain(s, ids[2])
        assert reasons(held) == {"bad": "breaker_open", "good": "chosen"}, held
        assert "left alone for a while: " in why(held, "bad") and why(held, "bad").endswith(" s more"), why(held, "bad")


def a_continuation(args):
    """The header has what was known as the stream began; afterwards all of it can be read."""
    a, b = Engine("a"), Engine("b")
    a.faults.append(Fault(die=4))
    with tempfile.TemporaryDirectory(prefix="spillway-it-") as folder:
        key_file = os.path.join(folder, "node-key")
        with open(key_file, "w", encoding="utf-8") as f:
            f.write("node-secret\n")
        nodes = [node(e.name, e, price=(price,) * 3, node_key_file=key_file) for e, price in ((a, "0.1"), (b, "1"))]
        with start(args, nodes, keys=KEYS) as s:
            x = chat(s.port, key="boss", headers=ASK, stream=True)
            assert x.text() and len(in_header(x)["decisions"]) == 1
            first, second = explain(s, x.headers["x-request-id"])
            assert first["chosen"] == "a" and first["attempt"] == "first"
            assert second["chosen"] == "b" and second["attempt"] == "continuation" and second["legs_before"] == 1, second
            assert reasons(second)["a"] in ("tried", "unhealthy"), second
            a.faults.append(Fault(die=4))
            wait_until(lambda: s.metrics()['spillway_node_up{node="a"}'] == 1, 5, "it is back")
            x = chat(s.port, key="boss", headers=ASK)
            assert [d["attempt"] for d in in_header(x)["decisions"]] == ["first", "continuation"], in_header(x)


def fallbacks(args):
    """Each model of the chain is a decision of its own."""
    local, api = Upstream(), Upstream()
    nodes = [node("local", local, models=("local-r1",)), node("api", api, models=("api-r1",), price=("1", "1", "1"))]
    models = [{"name": "r1", "fallbacks": ["local-r1", "api-r1"]}]
    with start(args, nodes, models=models) as s:
        request(socket_of(s), "POST", "/admin/v1/nodes/local/drain")
        a = chat(s.port, model="r1")
        assert a.headers["x-spillway-node"] == "api"
        first, second = explain(s, a.headers["x-request-id"])
        assert (first["model_asked"], first["model"], first["outcome"]) == ("r1", "local-r1", "next_model"), first
        assert reasons(first) == {"local": "draining", "api": "other_model"} and "its fallback is looked at" in first["sentence"]
        assert (second["model_asked"], second["model"], second["chosen"]) == ("r1", "api-r1", "api")
        assert "model api-r1 (asked for: r1)" in command(s, a.headers["x-request-id"]).stdout


def an_slo(args):
    """What was foreseen of each, and by how much a cheap one that is slow is too likely to be late."""
    if "routing.slo_ttft" not in subprocess.run([os.path.join(args.build, "spillway"), "help", "config"],
                                                capture_output=True, text=True, timeout=20).stdout:
        raise Skip("routing has no SLO")
    slow, fast = Upstream(default=Script(head_delay=0.6)), Upstream()
    nodes = [node("slow", slow, price=("0.1", "0.1", "0.1")), node("fast", fast, price=("2", "2", "2"))]
    with start(args, nodes, routing={"slo_ttft": "300ms", "slo_probability": "0.9"}) as s:
        for _ in range(60):
            d, = explain(s, chat(s.port, stream=True).headers["x-request-id"])
            assert d["objective"] == "cost" and d["slo"]["ttft_ms"] == 300 and 0 < d["slo"]["probability"] <= 0.9, d
            if reasons(d) == {"fast": "chosen", "slow": "misses_slo"} and d["candidates"][0]["ttft_ms_p50"] is not None:
                break  # before, it was the unknown one, which somebody has to try, or seemed slow for a pause of all
        assert reasons(d) == {"fast": "chosen", "slow": "misses_slo"}, d
        won, lost = d["candidates"]
        assert won["ttft_ms_p50"] < lost["ttft_ms_p50"] < lost["ttft_ms_p99"] and lost["p_slo"] < won["p_slo"] <= 1, d
        assert "slow lost: misses the SLO, " in d["sentence"] or "slow lost: likelier to miss the SLO" in d["sentence"], d


def many_nodes(args):
    """Those that were not worth a look are counted."""
    up = Upstream()
    nodes = [node(f"n{i:02}", up, price=(f"{1 + i}", "1", "1")) for i in range(20)]
    patient = {"interval": "5s", "timeout": "5s"}  # one server says for all of them that they are well
    with start(args, nodes, routing={"explain_header": "all"}, health=patient) as s:
        a = chat(s.port, headers=ASK)
        d, = explain(s, a.headers["x-request-id"])
        assert d["chosen"] == "n00" and len(d["candidates"]) == 16 and d["others"] == {"not_listed": 4}, d
        assert "and 4 more: not_listed" in command(s, a.headers["x-request-id"]).stdout
        text = a.headers["x-spillway-explain"]
        assert len(text) <= 3072 and in_header(a)["decisions"][0]["chosen"] == "n00"


if __name__ == "__main__":
    main(__doc__, [a_price, who_may_know, what_is_not_known, full_and_waiting, nobody_and_why, an_open_breaker,
                   a_continuation, fallbacks, an_slo, many_nodes])
