#!/usr/bin/env python3
"""Names, fallbacks, bounds and salts: an alias is the model it stands for, fallbacks answer in their order and never where
the caller may not go, nothing costs more than x-spillway-max-charge-usd, tenants' salts are apart and reach nobody but
our engines, and what we do not know reaches a node as it was written."""

import json
import os
import re
import tempfile
import threading
import time
from decimal import Decimal

from fake_engine import OTHER_CLASS, Engine, Expected, Fault
from harness import Scheduler, Script, Upstream, chat, key_hash, main, node, request, until_quick, wait_until

ROUTING = {"token": "30s", "first_byte": "30s"}  # nobody is taken for hung,
IMPATIENT = {"token": "400ms", "first_byte": "3s"}  # except where that is looked at


def serve(args, nodes, keys=None, wait="2s", **settings):
    settings.setdefault("routing", ROUTING)
    s = Scheduler(args.build, nodes, keys=keys, queue={"interactive": {"wait": wait}}, **settings)
    try:
        s.nodes_ready(len(nodes))
    except BaseException:
        s.close()
        raise
    return s


def key(name, tenant="t", **fields):
    return {"id": name, "sha256": key_hash(name), "tenant": tenant, **fields}


def down(s, upstream, name):
    """The upstream is gone, and the scheduler knows."""
    upstream.stop()
    wait_until(lambda: s.metrics()[f'spillway_node_up{{node="{name}"}}'] == 0, 5, f"{name} is down")


def drain(s, name, on=True):
    admin = os.path.join(s.folder, "state", "admin.sock")
    a = request(admin, "POST", f"/admin/v1/nodes/{name}/{'drain' if on else 'undrain'}")
    assert a.status in (200, 202), a.body


def asked(upstream):
    return [json.loads(body)["model"] for _, _, body in upstream.generations()]


def refused(a, status, code):
    assert a.status == status, (a.status, a.body)
    error = a.json()["error"]
    assert error["code"] == code, error
    if status == 402:
        assert a.headers["x-should-retry"] == "false" and "retry-after" not in a.headers
    return error


# ---- names ------------------------------------------------------------------------------------------------------------


def aliases(args):
    up = Upstream()
    keys = [key("all"), key("m", models=["m"]), key("x", models=["x"])]
    models = [{"name": "m", "aliases": ["gpt-4", "org/m"]}]
    with serve(args, [node("a", up, models=("m", "x"))], keys=keys, models=models) as s:
        for who in ("all", "m"):
            for name in ("gpt-4", "org/m", "m"):
                a = chat(s.port, key=who, model=name)
                assert (a.status, a.json()["model"], a.headers["x-spillway-model"]) == (200, name, "m"), a.body
                row = s.row(a.headers["x-request-id"])
                assert (row["model"], row["asked_model"]) == ("m", None if name == "m" else name), row
                a = chat(s.port, key=who, model=name, stream=True)
                assert {c["model"] for c in a.chunks()} == {name} and a.headers["x-spillway-model"] == "m"
        assert set(asked(up)) == {"m"}, "nodes know nothing of aliases"
        refused(chat(s.port, key="x", model="gpt-4"), 403, "model_not_allowed")
        refused(chat(s.port, key="all", model="gpt-5"), 404, "model_not_found")
        metrics = s.metrics()
        assert metrics['spillway_requests_total{model="m",outcome="ok"}'] == 12 and not any("gpt-4" in k for k in metrics)
        get = lambda path, who: request(s.port, "GET", path, headers={"Authorization": f"Bearer {who}"})
        assert [m["id"] for m in get("/v1/models", "all").json()["data"]] == ["m", "gpt-4", "org/m", "x"]
        assert [m["id"] for m in get("/v1/models", "m").json()["data"]] == ["m", "gpt-4", "org/m"]
        one = get("/v1/models/org%2Fm", "m").json()
        assert (one["id"], one["alias_of"], one["aliases"]) == ("org/m", "m", ["gpt-4", "org/m"])
        refused(get("/v1/models/gpt-4", "x"), 404, "model_not_found")


def catalogue(args):
    """Context from the configuration or the engine, prices, place and fallbacks; to each caller what is his."""
    engine, api = Engine("e"), Upstream()
    with tempfile.TemporaryDirectory() as folder:
        key_file = os.path.join(folder, "node-key")
        with open(key_file, "w") as f:
            f.write("node-secret\n")
        nodes = [node("e", engine, models=("home",), price=("0.1", "0.05", "0.4"), node_key_file=key_file),
                 node("api", api, models=("away", "far"), price=("0.55", "0.14", "2.19"), local=False)]
        models = [{"name": "r1", "fallbacks": ["home", "away"], "description": '"a: b, {c}"', "owned_by": "deepseek",
                   "capabilities": ["reasoning", "tools"], "max_output": 100},
                  {"name": "away", "context": 131072}]
        keys = [key("all"), key("local", local_only=True), key("some", models=["r1", "home"])]
        with serve(args, nodes, keys=keys, models=models) as s:
            def listed(who):
                a = request(s.port, "GET", "/v1/models", headers={"Authorization": f"Bearer {who}"})
                assert a.status == 200
                return {m["id"]: m for m in a.json()["data"]}

            wait_until(lambda: listed("all")["home"]["context_length"] == 4096, 5, "the engine's card")
            every = listed("all")
            assert list(every) == ["home", "away", "far", "r1"]
            assert all(m["object"] == "model" and isinstance(m["created"], int) for m in every.values())
            home, r1 = every["home"], every["r1"]
            assert home["pricing"] == {"currency": "USD", "unit": "1M tokens", "input": "0.10", "cached_input": "0.05",
                                       "output": "0.40"}
            assert home["local"] == "all" and "continuation" in home["capabilities"] and home["fallbacks"] == []
            assert (every["away"]["context_length"], every["far"]["context_length"]) == (131072, None)
            assert every["away"]["local"] == "none" and every["away"]["capabilities"] == ["chat", "completions", "streaming"]
            assert (r1["fallbacks"], r1["local"], r1["max_output_tokens"]) == (["home", "away"], "some", 100)
            assert (r1["owned_by"], r1["description"]) == ("deepseek", "a: b, {c}")
            assert r1["capabilities"][-2:] == ["reasoning", "tools"]
            assert r1["pricing"]["output"] == "0.40" and r1["pricing"]["at_most"]["output"] == "2.19"
            here = listed("local")
            assert list(here) == ["home", "r1"] and here["r1"]["local"] == "all" and "at_most" not in here["r1"]["pricing"]
            some = listed("some")
            assert list(some) == ["home", "r1"] and some["r1"]["fallbacks"] == ["home"]


# ---- fallbacks --------------------------------------------------------------------------------------------------------


def chain(local, spot, api, of_api=None, **fields):
    """deepseek-r1 -> [local-r1, spot-r1, api-r1], of which the last is off the premises and, by price, the best."""
    nodes = [node("local", local, models=("local-r1",), price=("3", "3", "3"), slots=fields.pop("slots", 0)),
             node("spot", spot, models=("spot-r1",), price=("2", "2", "2"), upstream_model="r1-q8"),
             node("api", api, models=("api-r1",), price=("1", "1", "1"), local=False, **(of_api or {}))]
    return nodes, [{"name": "deepseek-r1", "fallbacks": ["local-r1", "spot-r1", "api-r1"], **fields}]


def in_their_order(args):
    local, spot, api = Upstream(), Upstream(), Upstream()
    nodes, models = chain(local, spot, api)
    with serve(args, nodes, models=models, wait="800ms") as s:
        def check(served):
            for stream in (False, True):
                a = chat(s.port, model="deepseek-r1", stream=stream)
                assert a.status == 200 and a.text() == "Hello there, world!", a.body
                assert (a.headers["x-spillway-model"], a.headers["x-spillway-node"]) == (served, served[:-3]), a.headers
                assert {c["model"] for c in a.chunks()} == {"deepseek-r1"} if stream else a.json()["model"] == "deepseek-r1"
                row = s.row(a.headers["x-request-id"])
                assert (row["model"], row["asked_model"], row["node"]) == (served, "deepseek-r1", served[:-3]), row

        check("local-r1")
        local.scripts.append(Script(status=500))  # a retry goes down the chain as well
        a = chat(s.port, model="deepseek-r1")
        assert a.headers["x-spillway-model"] == "spot-r1" and s.row(a.headers["x-request-id"])["attempts"] == 2
        down(s, local, "local")
        check("spot-r1")
        down(s, spot, "spot")
        check("api-r1")
        assert set(asked(local)) == {"local-r1"} and set(asked(spot)) == {"r1-q8"} and set(asked(api)) == {"api-r1"}
        a = chat(s.port, model="spot-r1")
        assert a.status == 503, "asked by its own name, it has no fallbacks"
        down(s, api, "api")
        begin = time.monotonic()
        a = chat(s.port, model="deepseek-r1")
        refused(a, 503, "no_capacity")
        assert int(a.headers["retry-after"]) >= 1 and time.monotonic() - begin > 0.6, "it waits for the three"


def busy_is_not_down(args):
    """fallback_when: down waits for the one that is busy; full does not, or only so long."""
    for when, after, fell, least, most in (("down", None, False, 0, 60), ("full", None, True, 0, 0.4),
                                           ("full", "300ms", True, 0.28, 0.9)):
        local, spot, api, gate = Upstream(), Upstream(), Upstream(), threading.Event()
        rule = {"fallback_when": when, **({"fallback_after": after} if after else {})}
        nodes, models = chain(local, spot, api, slots=1, **rule)
        with serve(args, nodes, models=models, wait="20s") as s:
            local.scripts.append(Script(gate=gate))
            first = threading.Thread(target=lambda: chat(s.port, model="deepseek-r1"))
            first.start()
            wait_until(lambda: local.active == 1, 5, "the slot is taken")

            def comes_free():
                waiting = "spillway_requests_waiting{"
                wait_until(lambda: sum(v for k, v in s.metrics().items() if k.startswith(waiting)) == 1, 5, "it waits")
                time.sleep(0.3)
                gate.set()

            def answered():
                begin = time.monotonic()
                a = chat(s.port, model="deepseek-r1")
                took = time.monotonic() - begin
                by = "spot-r1" if fell else "local-r1"
                assert a.status == 200 and a.headers["x-spillway-model"] == by, (when, a.headers)
                return took

            free = threading.Thread(target=comes_free)
            if not fell:
                free.start()
            assert until_quick(answered, most + (1 if args.sanitized else 0)) >= least
            if not fell:
                free.join()
            gate.set()
            first.join()


def never_where_one_may_not(args):
    """Neither beyond a key's models nor off the premises: by first choice, retry, wait or continuation."""
    local, spot, api = Upstream(), Upstream(), Upstream()
    nodes, models = chain(local, spot, api, of_api={"continue": "prefix"})
    models.append({"name": "secret", "fallbacks": ["deepseek-r1"], "local_only": True})
    keys = [key("home", local_only=True), key("few", models=["deepseek-r1", "local-r1"]),
            key("none", models=["deepseek-r1"]), key("all")]
    faults = [Script(status=500), Script(cut_after=0), Script(cut_after=2), Script(hang="body", cut_after=2),
              Script(error_event_after=1), Script(bad="body")]
    with serve(args, nodes, keys=keys, models=models, wait="200ms", routing=IMPATIENT) as s:
        def ask(who, model="deepseek-r1"):
            return [chat(s.port, key=who, model=model, stream=stream) for stream in (False, True)]

        for who, model in (("home", "deepseek-r1"), ("all", "secret")):
            for fault in faults:
                local.scripts += [fault, fault]
                spot.scripts += [fault, fault]
                ask(who, model)
                local.scripts.clear()
                spot.scripts.clear()
        assert api.generations() == [], "local_only went off the premises"
        n = len(spot.generations())
        for fault in faults:
            local.scripts += [fault, fault]
            ask("few")
            local.scripts.clear()
        assert len(spot.generations()) == n and not api.generations(), "a model that the key may not use"
        for a in ask("none"):
            refused(a, 403, "model_not_allowed")
        down(s, local, "local")
        for a in ask("few"):
            refused(a, 503, "no_capacity")
        assert all(a.headers["x-spillway-model"] == "spot-r1" for a in ask("home"))
        down(s, spot, "spot")
        for a in ask("home") + ask("all", "secret"):
            refused(a, 503, "no_capacity")
        assert not api.generations()
        assert all(a.headers["x-spillway-model"] == "api-r1" for a in ask("all"))


def drained_meanwhile(s, engine, cut, ask):
    """The answer to ask(), which this engine begins, and cuts at that frame; it is drained before: it is not asked
    again."""
    gate, legs = threading.Event(), len(engine.legs)
    engine.faults.append(Fault(cut=cut, gate=gate))

    def then():
        wait_until(lambda: len(engine.legs) > legs, 5, "it has begun")
        drain(s, engine.name)
        gate.set()

    draining = threading.Thread(target=then)
    draining.start()
    try:
        return ask()
    finally:
        draining.join()


def continuing_over_models(args):
    """After the first byte another model goes on only by its text where that is configured, or by its ids where it is the
    same numerics class: then it is the same model under another name."""
    local, spot, api = Upstream(), Upstream(), Upstream()
    for prefix in (True, False):
        nodes, models = chain(local, spot, api, of_api={"continue": "prefix"} if prefix else {})
        with serve(args, nodes, models=models) as s:
            local.scripts.append(Script(cut_after=2))
            api.scripts.append(Script(words=[",", " moon"]))
            a = chat(s.port, model="deepseek-r1", stream=True)
            assert ("error" in a.events[-1][1]) != prefix, a.events
            assert a.text() == ("Hello there, moon" if prefix else "Hello there"), a.text()
            row = s.row(a.headers["x-request-id"])
            assert row["continuations"] == prefix and (row["model"] == "api-r1") == prefix, row
            assert {c["model"] for c in a.chunks() if "error" not in c} == {"deepseek-r1"}
            api.scripts.clear()
        local, spot, api = Upstream(), Upstream(), Upstream()
    for numerics, goes_on in ((None, True), (OTHER_CLASS, False)):
        a, b = Engine("a"), Engine("b", **({"numerics": numerics} if numerics else {}))
        with tempfile.TemporaryDirectory() as folder:
            key_file = os.path.join(folder, "node-key")
            with open(key_file, "w") as f:
                f.write("node-secret\n")
            nodes = [node(e.name, e, models=(f"m-{e.name}",), node_key_file=key_file, upstream_model="m") for e in (a, b)]
            with serve(args, nodes, models=[{"name": "m-a", "fallbacks": ["m-b"]}]) as s:
                for stream in (True, False):
                    drain(s, "a", False)
                    answer = drained_meanwhile(s, a, 7, lambda: chat(s.port, model="m-a", seed=7, stream=stream))
                    want = Expected("hi", 7, 12)
                    if goes_on:
                        assert answer.text() == want.text and answer.headers["x-spillway-model"] == "m-a" if stream else True
                        assert (b.legs[-1].get("spillway_resume") or {}).get("ids"), "resumed by ids"
                    elif stream:
                        assert "error" in answer.events[-1][1] and not b.legs
                    else:  # nobody has seen anything yet: the other model answers from the beginning
                        assert answer.status == 200 and answer.text() == Expected("hi", 7, 12, OTHER_CLASS).text
                        assert "spillway_resume" not in b.legs[-1] or not b.legs[-1]["spillway_resume"]["ids"]
        assert not a.bad and not b.bad, (a.bad, b.bad)


# ---- what it may cost -------------------------------------------------------------------------------------------------


def at_most(usd):
    return {"x-spillway-max-charge-usd": usd}


def bound_tokens(body, usd, price_in, price_out):
    """What the scheduler allows at these dollars per million tokens."""
    prompt = len(body) + 512
    return int((Decimal(usd) * 10**6 - prompt * Decimal(price_in)) / Decimal(price_out))


def charged(s, a):
    row = s.row(a.headers["x-request-id"])
    return Decimal(row["charge_pusd"]) / 10**12, row


def never_dearer(args):
    up, dear = Upstream(), Upstream()
    nodes = [node("cheap", up, price=("1", "1", "2")), node("dear", dear, price=("10", "10", "20"))]
    with serve(args, nodes, wait="200ms") as s:
        def ask(usd, to=None, **fields):
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
            return body, request(s.port, "POST", "/v1/chat/completions", body, at_most(usd))

        def sent(upstream=up):
            return json.loads(upstream.generations()[-1][2])

        for usd in ("0.001", "0.01", "0.1", "$0.000700"):
            for fields in ({}, {"max_tokens": 5}, {"max_completion_tokens": 10**6}, {"max_tokens": 10**6}, {"stream": True}):
                body, a = ask(usd, **fields)
                allowed = bound_tokens(body, usd.lstrip("$"), 1, 2)
                got = [sent()[k] for k in ("max_tokens", "max_completion_tokens") if k in sent()]
                asked_for = max(fields.get("max_tokens", 0), fields.get("max_completion_tokens", 0))
                assert a.status == 200 and got == [min(asked_for, allowed) if asked_for else allowed], (usd, fields, got)
                charge, _ = charged(s, a)
                assert 0 < charge <= Decimal(usd.lstrip("$"))
        body, a = ask("0.001", n=3)
        assert sent()["max_tokens"] == bound_tokens(body, "0.001", 1, 2) // 3, "each of three choices has a third"
        assert dear.generations() == []
        _, a = ask("0.0001")
        error = refused(a, 402, "max_charge_too_low")
        assert error["param"] == "x-spillway-max-charge-usd" and "0.0001" in error["message"], error
        refused(ask("0", stream=True)[1], 402, "max_charge_too_low")
        for wrong in ("", "-1", "1e3", "abc", "0,5", "99999999999", "0.0000000000001", "1 2"):
            error = refused(ask(wrong)[1], 400, None)
            assert error["param"] == "x-spillway-max-charge-usd", error
        # A node that tells more than could be is not believed: the bound holds in the books, and it is counted.
        up.scripts.append(Script(usage_fields={"prompt_tokens": 10**6, "completion_tokens": 10**6, "total_tokens": 2 * 10**6}))
        _, a = ask("0.01")
        charge, row = charged(s, a)
        assert charge == Decimal("0.01") and a.headers["x-spillway-charge-usd"] == "0.01", (charge, row)
        assert s.metrics()["spillway_charges_capped_total"] == 1
        # The dear one is no candidate: who can only pay the cheap one waits for it.
        down(s, up, "cheap")
        refused(ask("0.001")[1], 503, "no_capacity")
        assert dear.generations() == []
        body, a = ask("0.1")
        assert a.status == 200 and sent(dear)["max_tokens"] == bound_tokens(body, "0.1", 10, 20)


def never_dearer_later(args):
    """A stream that goes on on a dearer node is charged by that node's prices, and still not more than the bound."""
    cheap, dear = Engine("cheap", tokens=400), Engine("dear", tokens=400)
    with tempfile.TemporaryDirectory() as folder:
        key_file = os.path.join(folder, "node-key")
        with open(key_file, "w") as f:
            f.write("node-secret\n")
        nodes = [node("cheap", cheap, price=("1", "1", "2"), node_key_file=key_file),
                 node("dear", dear, price=("4", "4", "8"), node_key_file=key_file)]
        with serve(args, nodes, wait="200ms") as s:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 7, "stream": True,
                               "stream_options": {"include_usage": True}}).encode()
            for usd, cut in (("0.0035", 5), ("0.0035", 60), ("0.0035", 300), ("0.0025", 5), ("0.0008", 5), ("0.1", 100)):
                cheap.faults.append(Fault(cut=cut))
                n = len(dear.legs)
                a = request(s.port, "POST", "/v1/chat/completions", body, at_most(usd))
                assert a.status == 200, a.body
                charge, row = charged(s, a)
                assert charge <= Decimal(usd), (usd, cut, charge)
                elsewhere = bound_tokens(body, usd, 4, 8) > cut  # a word more than has been said
                allowed = bound_tokens(body, usd, *((4, 8) if elsewhere else (1, 2)))
                leg = (dear if elsewhere else cheap).legs[-1]
                assert leg["max_tokens"] == allowed and len(leg["spillway_resume"]["ids"]) == cut - 1, (usd, cut, leg)
                assert len(dear.legs) == n + elsewhere, "what the money does not pay for is not begun"
                assert row["node"] == ("dear" if elsewhere else "cheap") and row["tokens_output"] == min(400, allowed), row
                assert a.events[-1][1] == "[DONE]"
                assert a.text() == Expected("hi", 7, min(400, allowed), ends=allowed >= 400).text
            # And if only the dear one were left, it ends with the reason.
            wait_until(lambda: s.metrics()['spillway_node_up{node="dear"}'] == 1, 5)
            a = drained_meanwhile(s, cheap, 60,
                                  lambda: request(s.port, "POST", "/v1/chat/completions", body, at_most("0.0025")))
            assert json.loads(a.events[-1][1])["error"]["code"] == "max_charge_too_low", a.events[-1]
            charge, row = charged(s, a)
            assert 0 < charge <= Decimal("0.0025") and row["error"] == "max_charge_too_low" and row["tokens_output"] == 59
    assert not cheap.bad and not dear.bad


def longest_answers(args):
    """max_output bounds each answer; with a bound in money the lower of the two holds."""
    up = Upstream()
    with serve(args, [node("a", up, price=("1", "1", "2"))], models=[{"name": "m", "max_output": 50}]) as s:
        def sent(headers=None, **fields):
            assert chat(s.port, headers=headers, **fields).status == 200
            return {k: v for k, v in json.loads(up.generations()[-1][2]).items() if k.startswith("max_")}

        assert sent() == {"max_tokens": 50} and sent(stream=True) == {"max_tokens": 50}
        assert sent(max_tokens=60) == {"max_tokens": 50} and sent(max_tokens=40) == {"max_tokens": 40}
        assert sent(max_completion_tokens=51) == {"max_completion_tokens": 50}
        assert sent(at_most("1")) == {"max_tokens": 50} and sent(at_most("0.00065"))["max_tokens"] < 50


# ---- salts, and what is not ours --------------------------------------------------------------------------------------


def salts(args):
    """A tenant's requests carry its salt to our engines; another tenant's another; nobody else is told."""
    engine, foreign = Engine("e"), Upstream()
    with tempfile.TemporaryDirectory() as folder:
        key_file = os.path.join(folder, "node-key")
        with open(key_file, "w") as f:
            f.write("node-secret\n")
        nodes = [node("e", engine, node_key_file=key_file), node("f", foreign, models=("x",))]
        keys = [key("a1", "a"), key("a2", "a", team="z"), key("b", "b")]
        for share in (None, "tenant", "all"):
            with serve(args, nodes, keys=keys, **({"prefix_share": share} if share else {})) as s:
                del engine.legs[:]
                for who in ("a1", "a2", "b"):
                    assert chat(s.port, key=who).status == 200
                    assert chat(s.port, key=who, model="x").status == 200
                got = [leg.get("spillway_salt") for leg in engine.legs]
                if share == "all":
                    assert got == [None] * 3
                else:
                    assert all(re.fullmatch("[0-9a-f]{32}", salt) for salt in got) and got[0] == got[1] != got[2], got
                    assert not any(salt in s.log_text() for salt in got)
        engine.faults.append(Fault(cut=4))  # the next leg has it, too
        del engine.legs[:]
        with serve(args, nodes, keys=keys) as s:
            assert chat(s.port, key="b").status == 200
        assert len(engine.legs) == 2 and engine.legs[0]["spillway_salt"] == engine.legs[1]["spillway_salt"] != got[0]
        assert not any(b"spillway_" in body for _, _, body in foreign.generations())
    assert not engine.bad


def untouched(args):
    """Fields that we do not know, byte for byte: numbers that no double holds, escapes, order, blanks, depth."""
    up, engine = Upstream(), Engine("e")
    odd = ('"zz":[1.0e0,-0,-0.0,1E+2,123456789012345678901234567890,0.1000000000000000055511151231257827,1e-400],\n\t'
           '"b" :  {"max_tokens":9,"model":"x","stream":false,"spillway_salt":"s","":{"":[[],[[]],{}]}},\r\n'
           '"c\\u00e9":"\\u0041\\/\\ud83d\\ude00\u00e9","logit_bias": {"5":-100.00}, "chat_template_kwargs":{"thinking":true}')
    with tempfile.TemporaryDirectory() as folder:
        key_file = os.path.join(folder, "node-key")
        with open(key_file, "w") as f:
            f.write("node-secret\n")
        nodes = [node("a", up), node("e", engine, models=("own",), node_key_file=key_file, upstream_model="m")]
        with serve(args, nodes) as s:
            for model, to in (("m", up), ("own", engine)):
                for end in ("", ',"stream":true', ',"stream":true,"stream_options":{"include_usage":true}'):
                    body = f'{{ "model":"{model}","messages":[{{"role":"user","content":"hi"}}],{odd}{end} }}'.encode()
                    a = request(s.port, "POST", "/v1/chat/completions", body)
                    assert a.status == 200, a.body
                    got = to.generations()[-1][2]
                    assert odd.encode() in got, got
                    if to is up:
                        assert got.replace(b'"stream_options":{"include_usage":true},', b"") == body or got == body, got


if __name__ == "__main__":
    main(__doc__, [aliases, catalogue, in_their_order, busy_is_not_down, never_where_one_may_not, continuing_over_models,
                   never_dearer, never_dearer_later, longest_answers, salts, untouched])
