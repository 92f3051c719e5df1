"""Answers that survive their node: it dies, hangs or drains at any frame of a stream, and the client sees one stream, one
id, the right usage, nothing twice and nothing missing. The engines here are fakes (fake_engine.Engine) whose text is
known; tests/fault/continuation.py does the same to real ones."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time

from fake_engine import CLASS, OTHER_CLASS, Engine, Expected, Fault, piece
from harness import (Connection, Scheduler, Script, Upstream, chat, key_hash, main, node, request, until_quick,
                     wait_until)

USAGE = {"stream_options": {"include_usage": True}}


class Fleet:
    """Engines behind a scheduler. The first is the cheapest, so that it gets the first leg. Nobody is taken for hung, and
    nobody waits in vain, unless that is what a case is about."""

    def __init__(self, args, engines, extra=(), keys=None, fields=None, **settings):
        self.engines = engines
        self.folder = tempfile.mkdtemp(prefix="spillway-it-")
        self.key_file = os.path.join(self.folder, "node-key")
        with open(self.key_file, "w") as f:
            f.write("node-secret\n")
        nodes = [node(e.name, e, price=(str(k), str(k), str(k)), node_key_file=self.key_file, **(fields or {}).get(e.name, {}))
                 for k, e in enumerate(engines)]
        routing = {"token": "30s", "first_byte": "30s", **settings.pop("routing", {})}
        settings.setdefault("queue", {"interactive": {"wait": "20s"}})
        self.s = Scheduler(args.build, nodes + list(extra), keys=keys, routing=routing, **settings)
        count = len(nodes) + len(extra)
        self.s.nodes_ready(count)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print([e.bad for e in self.engines])
        self.s.__exit__(kind, value, trace)
        shutil.rmtree(self.folder, ignore_errors=True)
        for e in self.engines:
            assert not e.bad, (e.name, e.bad)

    def legs(self, request_id):
        self.s.row(request_id)
        return self.s.ledger("select * from legs where request_id = ? order by leg", request_id)

    def check(self, a, want, n_legs, chat=True):
        """A stream or a whole answer says what it should, and so do its row and its legs."""
        assert a.status == 200, (a.status, a.body)
        usage = a.usage()
        assert usage["completion_tokens"] == len(want.ids), (usage, len(want.ids))
        if a.events:
            check_stream(a, want, chat)
        else:
            choice = a.json()["choices"][0]
            assert set(a.json()) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
            assert a.text() == want.text and choice["finish_reason"] == want.finish
            assert not chat or choice["message"].get("reasoning_content", "") == want.reasoning
        row, legs = self.s.row(a.headers["x-request-id"]), self.legs(a.headers["x-request-id"])
        assert (row["outcome"], row["tokens_output"], row["usage_source"]) == (0, len(want.ids), "provider"), row
        assert [leg["leg"] for leg in legs] == list(range(1, n_legs + 1)), legs
        assert sum(leg["tokens_output"] for leg in legs) == len(want.ids), legs
        assert legs[-1]["outcome"] == "ok" and row["node"] == legs[-1]["node"] and row["attempts"] == n_legs
        assert all(leg["started_ns"] <= leg["ended_ns"] for leg in legs)
        return row, legs


def check_stream(a, want, is_chat=True):
    chunks = a.chunks()
    assert a.complete and a.events[-1][1] == "[DONE]"
    assert a.text() == want.text, (a.text(), want.text)
    assert len({c["id"] for c in chunks}) == 1 and len({c["created"] for c in chunks}) == 1, chunks
    assert not any("spillway_ids" in c for c in chunks)
    choices = [c for chunk in chunks for c in chunk["choices"]]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [want.finish]
    if is_chat:
        assert sum("role" in c["delta"] for c in choices) == 1 and "role" in choices[0]["delta"]
        assert "".join(c["delta"].get("reasoning_content", "") for c in choices) == want.reasoning
        assert all(c["delta"] or c["finish_reason"] for c in choices)


def ask(fleet, prompt="hi", **fields):
    return chat(fleet.s.port, prompt, **fields)


def at_every_frame(args):
    """The node dies, or cuts, before each frame in turn: streamed and whole, with and without thinking."""
    for reasoning in (0, 5):
        a, b = Engine("a", reasoning=reasoning), Engine("b", reasoning=reasoning)
        with Fleet(args, [a, b]) as fleet:
            want = Expected("hi", 7, 12, reasoning=reasoning)
            frames = len(want.ids) + 3
            for k in range(frames):
                for fault in (Fault(die=k), Fault(cut=k)):
                    for stream in (True, False):
                        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
                        a.faults.append(fault)
                        answer = ask(fleet, seed=7, **(dict(USAGE, stream=True) if stream else {}))
                        # Before [DONE] nothing is missing: it ends here, unless the reset took more along.
                        n = 2 if k < frames - 1 else fleet.s.row(answer.headers["x-request-id"])["attempts"]
                        row, legs = fleet.check(answer, want, n)
                        assert [leg["node"] for leg in legs] == ["a", "b"][:n] and not row["cross_class"], (k, legs)
                        if n == 1:
                            continue
                        assert row["continuations"] == (1 if k > 1 or (stream and k > 0) else 0), (k, stream, row)
                        resumed = (b.legs[-1].get("spillway_resume") or {}).get("ids", [])
                        assert resumed == want.ids[: len(resumed)] and len(resumed) == legs[0]["tokens_output"]
            assert fleet.s.metrics()['spillway_continuations_total{model="m"}'] > 40


def unknown_seed(args):
    """Without a seed of the client all legs get the same one, and every request another."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b]) as fleet:
        seeds = set()
        for _ in range(5):
            wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
            a.faults.append(Fault(die=6))
            answer = ask(fleet, stream=True, **USAGE)
            seed = a.legs[-1]["spillway_seed"]
            assert seed == b.legs[-1]["spillway_seed"]
            fleet.check(answer, Expected("hi", seed, 12), 2)
            seeds.add(seed)
        assert len(seeds) == 5


def hangs(args):
    """No token in time: elsewhere, long before the answer would be called stalled. Slow prefill is no hang."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b], routing={"token": "400ms", "first_byte": "3s"}) as fleet:
        for k, stream in ((3, True), (3, False), (9, True)):
            def elsewhere():
                a.faults.append(Fault(hang=k))
                begin = time.monotonic()
                answer = ask(fleet, seed=1, **(dict(USAGE, stream=True) if stream else {}))
                took = time.monotonic() - begin
                assert took > 0.35
                # On a machine that stands still for so long, the next leg is taken for hung as well.
                fleet.check(answer, Expected("hi", 1, 12), fleet.s.row(answer.headers["x-request-id"])["attempts"])
                return took if len(fleet.legs(answer.headers["x-request-id"])) == 2 else 60

            until_quick(elsewhere, 2.5)
        assert fleet.s.metrics()['spillway_hangs_total{node="a"}'] >= 3
        a.prefill = 0.7

        def legs():
            answer = ask(fleet, seed=1, stream=True, **USAGE)
            n = fleet.s.row(answer.headers["x-request-id"])["attempts"]
            fleet.check(answer, Expected("hi", 1, 12), n)
            return n

        wait_until(lambda: legs() == 1, 5, "a slow prefill is no hang")


def length_is_exact(args):
    a, b = Engine("a", tokens=100), Engine("b", tokens=100)
    with Fleet(args, [a, b]) as fleet:
        for n in (1, 2, 11):
            for stream in (True, False):
                wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
                a.faults.append(Fault(die=n))
                answer = ask(fleet, seed=3, max_tokens=n, **(dict(USAGE, stream=True) if stream else {}))
                fleet.check(answer, Expected("hi", 3, n, ends=False), 2)


def again_and_again(args):
    """Each leg brings a token or two and dies: the answer gets there, whatever the retry budget."""
    engines = [Engine(n, tokens=30) for n in "abc"]
    with Fleet(args, engines, routing={"retries": "0"}) as fleet:
        for stream in (True, False):
            for e in engines:
                e.faults.clear()
                e.faults.extend([Fault(die=3)] + [Fault(die=2)] * 4)
            answer = ask(fleet, seed=5, **(dict(USAGE, stream=True) if stream else {}))
            row = fleet.s.row(answer.headers["x-request-id"])
            fleet.check(answer, Expected("hi", 5, 30), row["attempts"])
            assert row["attempts"] > 10


def one_engine_comes_back(args):
    """Nobody else is there: the answer waits for the engine to come back and goes on."""
    a = Engine("a", delay=0.02)
    with Fleet(args, [a], queue={"interactive": {"wait": 0}}) as fleet:
        a.faults.append(Fault(die=5))
        fleet.check(ask(fleet, seed=2, stream=True, **USAGE), Expected("hi", 2, 12), 2)


def drains(args):
    """Draining: what runs goes on; what is cut at its end continues; a refusal at the door goes elsewhere."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b]) as fleet:
        cut = threading.Event()
        a.faults.append(Fault(cut=8, gate=cut))
        c = Connection(fleet.s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 4, "stream": True, **USAGE})
        c.head()
        a.health = 503
        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 0, 5)
        cut.set()
        for _ in c.events():
            pass
        fleet.check(c.answer, Expected("hi", 4, 12), 2)
        assert ask(fleet, seed=4).headers["x-spillway-node"] == "b"
        a.health = 200
        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
        a.faults.append(Fault(die=6))
        b.faults.append(Fault(status=503))
        row = fleet.s.row(ask(fleet, seed=4, stream=True).headers["x-request-id"])
        assert row["outcome"] == 0 and row["attempts"] >= 3


def none_is_there(args):
    """Every engine says that it drains or loads: nobody has had the request, so it waits until one is back."""
    engines = [Engine(name) for name in "abcd"]
    with Fleet(args, engines) as fleet:
        def all_up():
            wait_until(lambda: all(fleet.s.metrics()[f'spillway_node_up{{node="{e.name}"}}'] == 1 for e in engines), 5)

        def back():
            wait_until(lambda: all(e.health == 503 for e in engines), 5, "all have refused it")
            time.sleep(0.7)
            engines[2].health = 200

        for stream in (True, False):
            all_up()
            for e, code in zip(engines, ("draining", "loading", "failed", "load_failed")):
                e.faults.append(Fault(status=503, code=code, away=True))
            coming = threading.Thread(target=back)
            coming.start()
            answer = ask(fleet, seed=5, stream=stream, **(USAGE if stream else {}))
            coming.join()
            fleet.check(answer, Expected("hi", 5, 12), 5)
            assert answer.headers["x-spillway-node"] == "c"
            for e in engines:
                e.health = 200
        counts = fleet.s.metrics()
        assert sum(counts[f'spillway_leg_failures_total{{node="{e.name}",fault="away"}}'] for e in engines) == 8
        # "waking" is a no to this request, from a node that takes others.
        all_up()
        for e in engines:
            e.faults.append(Fault(status=503, code="waking"))
        refused = ask(fleet, seed=6)
        assert (refused.status, refused.json()["error"]["code"]) == (429, "upstream_busy"), refused.body


def an_older_probe(args):
    """A probe that was asked before the engine said that it is away, and answered well after, does not bring it back."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b], health={"interval": "3s", "timeout": "3s"}) as fleet:
        a.card_gate = gate = threading.Event()
        wait_until(lambda: a.cards_waiting, 10, "its health was good and its card is asked for")
        a.faults.append(Fault(status=503, code="draining", away=True))
        assert ask(fleet, seed=4).headers["x-spillway-node"] == "b"
        a.card_gate = None
        gate.set()
        fleet.s.line(message="reason changed", node="a", reason="it is not ready (503)")
        states = [x["state"] for x in fleet.s.log_lines() if x.get("message") == "state changed" and x.get("node") == "a"]
        assert states == ["ready", "failing"], states


def error_events(args):
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b]) as fleet:
        for k in (2, 7):
            a.faults.append(Fault(error=k))
            fleet.check(ask(fleet, seed=4, stream=True, **USAGE), Expected("hi", 4, 12), 2)
        a.faults.append(Fault(die=6))
        b.faults.append(Fault(status=400))  # of a resumption it is not the client's to read
        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
        answer = ask(fleet, seed=4, stream=True, **USAGE)
        fleet.check(answer, Expected("hi", 4, 12), 3)


def classes(args):
    """The same numerics class first, at any price; another one rather than nobody, and the row says so."""
    a, other, same = Engine("a"), Engine("other", numerics=OTHER_CLASS), Engine("same")
    with Fleet(args, [a, other, same]) as fleet:
        a.faults.append(Fault(die=6))
        row, legs = fleet.check(ask(fleet, seed=8, stream=True, **USAGE), Expected("hi", 8, 12), 2)
        assert [leg["node"] for leg in legs] == ["a", "same"] and row["cross_class"] == 0
        assert {leg["numerics"] for leg in legs} == {CLASS}
        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
        a.faults.append(Fault(die=6))
        same.health = 503
        wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="same"}'] == 0, 5)
        answer = ask(fleet, seed=8, stream=True, **USAGE)
        row, legs = fleet.s.row(answer.headers["x-request-id"]), fleet.legs(answer.headers["x-request-id"])
        assert [leg["numerics"] for leg in legs] == [CLASS, OTHER_CLASS] and row["cross_class"] == 1
        ids = Expected("hi", 8, 12).ids[:5] + Expected("hi", 8, 12, OTHER_CLASS).ids[5:]
        assert answer.text() == "".join(piece(i) for i in ids[:-1]) and answer.usage()["completion_tokens"] == 12


def whole_answers(args):
    """Gathered from streams, and told apart from what the engine would have sent whole by nothing."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b]) as fleet:
        def disturbed():
            wait_until(lambda: fleet.s.metrics()['spillway_node_up{node="a"}'] == 1, 5)
            a.faults.append(Fault(die=7))

        want = Expected("hi", 9, 12)
        for fault in (False, True):
            if fault:
                disturbed()
            answer = ask(fleet, seed=9, logprobs=True)
            fleet.check(answer, want, 1 + fault)
            logprobs = answer.json()["choices"][0]["logprobs"]
            tokens = len(want.ids) - 1
            assert [t["logprob"] for t in logprobs["content"]] == [-i / 100 for i in want.ids[:tokens]], logprobs
            assert logprobs["refusal"] is None
            if fault:
                disturbed()
            body = {"model": "m", "prompt": "hi", "seed": 9, "logprobs": 1}
            answer = request(fleet.s.port, "POST", "/v1/completions", body)
            fleet.check(answer, want, 1 + fault, chat=False)
            logprobs = answer.json()["choices"][0]["logprobs"]
            assert set(logprobs) == {"tokens", "token_logprobs", "text_offset"} and len(logprobs["tokens"]) == tokens
            assert logprobs["text_offset"] == list(range(tokens))
            if fault:
                disturbed()
            answer = request(fleet.s.port, "POST", "/v1/completions", {**body, "logprobs": None, "stream": True, **USAGE})
            fleet.check(answer, want, 1 + fault, chat=False)


def poison(args):
    """What kills two nodes in a row goes on alone, and after two more not at all; who runs beside it is not harmed."""
    engines = [Engine(n, delay=0.01, tokens=40) for n in "abcd"]
    with Fleet(args, engines, fields={n: {"slots": 4} for n in "abcd"}) as fleet:
        for before_head in (False, True):
            beside, stop, failed = [], threading.Event(), []

            def load():
                while not stop.is_set():
                    a = ask(fleet, "good", seed=1, stream=True, **USAGE)
                    beside.append(a)
                    if a.events[-1][1] != "[DONE]":
                        failed.append(a)

            alone = []

            def answer(engine, original):
                def run(c, path, body, script):
                    if body["messages"][-1]["content"] != "poison":
                        return original(c, path, body, script)
                    alone.append(engine.active)
                    if before_head:
                        time.sleep(0.1)
                        engine._reset(c)
                    return original(c, path, body, script)
                return run

            originals = [e._answer for e in engines]
            for e, original in zip(engines, originals):
                e._answer = answer(e, original)
            if not before_head:  # the same id again and again, and then death
                for e in engines:
                    e.generate = e._generate
                    e._generate = (lambda e: lambda c, is_chat, body, fault: e.generate(
                        c, is_chat, body, Fault(die=1) if body["messages"][-1]["content"] == "poison" else fault))(e)
            threads = [threading.Thread(target=load) for _ in range(6)]
            for t in threads:
                t.start()
            wait_until(lambda: sum(e.active for e in engines) == len(threads), 5, "all run beside it")
            a = ask(fleet, "poison", seed=1, stream=True)
            stop.set()
            for t in threads:
                t.join()
            for e, original in zip(engines, originals):
                e._answer = original
                if not before_head:
                    e._generate = e.generate
            if before_head:
                assert a.status == 500 and a.json()["error"]["code"] == "poison_request", (a.status, a.body)
                assert "retry-after" not in a.headers
            else:
                assert json.loads(a.events[-1][1])["error"]["code"] == "poison_request", a.events[-1]
            row = fleet.s.row(a.headers["x-request-id"])
            assert (row["outcome"], row["error"], row["attempts"]) == (2, "poison_request", 4), row
            assert len(alone) == 4 and alone[2:] == [1, 1], alone
            assert beside and not failed
        assert fleet.s.metrics()['spillway_poison_total{model="m"}'] == 2


def stays_home(args):
    """local_only holds for every leg."""
    home, cloud = Engine("home"), Engine("cloud")
    keys = [{"id": "k", "sha256": key_hash("spw_home"), "tenant": "bank", "local_only": True}]
    with Fleet(args, [home, cloud], keys=keys, fields={"cloud": {"local": False}}) as fleet:
        home.faults.append(Fault(die=5))
        answer = ask(fleet, seed=6, stream=True, key="spw_home", **USAGE)
        fleet.check(answer, Expected("hi", 6, 12), 2)
        assert not cloud.legs


def secrets_stay(args):
    """Clients can neither send nor see what is between scheduler and engine; the key is in no log."""
    a = Engine("a")
    with Fleet(args, [a]) as fleet:
        for field in ("spillway_resume", "spillway_seed", "spillway_salt", "spillway_x"):
            refused = ask(fleet, **{field: {"ids": [1]}})
            assert refused.status == 400 and "reserved" in refused.json()["error"]["message"], refused.body
        assert not a.legs
        for stream in (True, False):
            answer = ask(fleet, seed=1, stream=stream)
            assert b"spillway_ids" not in answer.body
        models = request(fleet.s.port, "GET", "/v1/models")
        assert b"spillway_numerics" not in models.body
        fleet.s.never_says("node-secret")
    wrong = Engine("b", key="another")
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("node-secret\n")
        f.flush()
        with Scheduler(args.build, [node("b", wrong, node_key_file=f.name)]) as s:
            wait_until(lambda: any("node_key_file" in line.get("reason", "") for line in s.log_lines()), 5)


def client_leaves(args):
    """While its answer is between two nodes: the row is written, charged for what was said."""
    a = Engine("a")
    with Fleet(args, [a]) as fleet:
        a.faults.append(Fault(die=6, away=True))
        c = Connection(fleet.s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 4, "stream": True})
        c.head()
        wait_until(lambda: fleet.s.metrics()['spillway_requests_waiting{model="m",class="interactive"}'] == 1, 5)
        c.close()
        row = wait_until(lambda: next(iter(fleet.s.rows()), None), 3)
        assert (row["outcome"], row["tokens_output"], row["http_status"]) == (1, 5, 499), row
        legs = fleet.legs(row["request_id"])
        assert [leg["outcome"] for leg in legs] == ["cut"] and legs[0]["tokens_output"] == 5


def by_text(args):
    """Other servers: as the beginning of the assistant's message where the configuration says so, else an error."""
    a, b = Upstream("a", default=Script(word_delay=0.01)), Upstream("b", default=Script(words=[" Bye", "."]))
    nodes = [node("a", a, price=("0", "0", "0")), node("b", b, **{"continue": "prefix"})]
    with Scheduler(args.build, nodes).ready() as s:
        s.nodes_ready(2)
        a.scripts.append(Script(cut_after=3))
        got = chat(s.port, stream=True, max_tokens=50, **USAGE)
        assert got.events[-1][1] == "[DONE]" and got.text() == "Hello there, Bye."
        sent = json.loads(b.generations()[-1][2])
        assert sent["messages"][-1] == {"role": "assistant", "content": "Hello there,"} and sent["max_tokens"] == 47
        assert sent["continue_final_message"] is True and sent["add_generation_prompt"] is False
        assert "spillway_seed" not in sent
        row = s.row(got.headers["x-request-id"])
        assert (row["tokens_output"], row["usage_source"], row["cross_class"], row["continuations"]) == (5, "counted", 1, 1)
        assert got.usage()["completion_tokens"] == 5 and len({c["id"] for c in got.chunks()}) == 1
        assert sum("role" in c["delta"] for k in got.chunks() for c in k["choices"]) == 1
        a.scripts.append(Script(cut_after=2))
        got = request(s.port, "POST", "/v1/completions", {"model": "m", "prompt": "say:", "stream": True})
        assert got.text() == "Hello there Bye." and json.loads(b.generations()[-1][2])["prompt"] == "say:Hello there"
        for fields in ({"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}},
                       {"logprobs": True}, {"n": 2}):
            a.scripts.append(Script(cut_after=3))
            before = len(b.generations())
            got = chat(s.port, stream=True, **fields)
            assert json.loads(got.events[-1][1])["error"]["code"] == "upstream_error", fields
            assert len(b.generations()) == before
        a.scripts.append(Script(cut_after=3))
        got = request(s.port, "POST", "/v1/chat/completions",
                      {"model": "m", "stream": True, "messages": [{"role": "assistant", "content": "x"}]})
        assert json.loads(got.events[-1][1])["error"]["code"] == "upstream_error"


def legs_are_shown(args):
    """`spillway ledger --legs`, the admin API and the file agree."""
    a, b = Engine("a"), Engine("b")
    with Fleet(args, [a, b]) as fleet:
        a.faults.append(Fault(die=5))
        request_id = ask(fleet, seed=1, stream=True).headers["x-request-id"]
        fleet.s.row(request_id)
        admin = os.path.join(fleet.s.folder, "state", "admin.sock")
        told = request(admin, "GET", f"/admin/v1/ledger/{request_id}/legs").json()["legs"]
        assert [(leg["node"], leg["outcome"]) for leg in told] == [("a", "cut"), ("b", "ok")], told
        first, second = (leg["tokens_output"] for leg in told)  # what a dying node has sent need not all arrive
        assert first <= 4 and first + second == 12, told
        for where in (["--socket", admin], ["--db", fleet.s.ledger_path]):
            out = subprocess.run([os.path.join(args.build, "spillway"), "ledger", "--legs", request_id, "--json", *where],
                                 capture_output=True, text=True, check=True).stdout
            assert json.loads(out)["legs"] == told
        rows = request(admin, "GET", "/admin/v1/ledger").json()["rows"]
        assert rows[0]["continuations"] == 1 and rows[0]["cross_class"] is False
        assert request(admin, "GET", "/admin/v1/ledger/req_none/legs").json()["legs"] == []


if __name__ == "__main__":
    main(__doc__, [at_every_frame, unknown_seed, hangs, length_is_exact, again_and_again, one_engine_comes_back, drains,
                   none_is_there, an_older_probe, error_events, classes, whole_answers, poison, stays_home, secrets_stay,
                   client_leaves, by_text, legs_are_shown])
