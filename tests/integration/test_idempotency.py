"""Idempotency-Key: a request that comes twice is computed and charged once. Repeats get the same bytes, wait for the
first while it runs (on whatever loop), and are refused with another body; failures are not kept; what a restart lost is
computed again, free of charge, at most three times; a first whose client has left goes on for those who wait, and only for
them."""

import concurrent.futures
import json
import signal
import sqlite3
import threading
import time

from harness import Connection, Scheduler, Script, Upstream, chat, key_hash, main, node, until_quick, wait_until

KEYS = [{"id": "k1", "sha256": key_hash("sk-one"), "tenant": "acme"},
        {"id": "k2", "sha256": key_hash("sk-two"), "tenant": "other"},
        {"id": "k3", "sha256": key_hash("sk-home"), "tenant": "acme", "local_only": True}]
USAGE = {"include_usage": True}


def once(s, name, text="hi", key="sk-one", **fields):
    return chat(s.port, text, key=key, headers={"Idempotency-Key": name}, **fields)


def start(s, name, text="hi", stream=False):
    """A request that is not waited for."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    return Connection(s.port, "POST", "/v1/chat/completions", body,
                      {"Authorization": "Bearer sk-one", "Idempotency-Key": name})


def served(args, up, **settings):
    settings.setdefault("cache", {"mode": "off"})
    return Scheduler(args.build, [node("a", up)], keys=KEYS, **settings)


def is_replay(a):
    return a.headers.get("x-spillway-idempotent-replay") == "true"


def charge(a):
    return float(a.headers["x-spillway-charge-usd"])


def data(a):
    return [d for _, d in a.events] if a.events else a.body


def refused(a, status, code):
    assert a.status == status, (a.status, a.body)
    assert a.json()["error"]["code"] == code, a.body


def of_key(s, name):
    return [r for r in s.rows() if r["idempotency_key"] == name]


def same_again(args):
    up = Upstream()
    with served(args, up).ready() as s:
        for name, fields in (("whole", {}), ("streamed", {"stream": True, "stream_options": USAGE})):
            first = once(s, name, **fields)
            assert first.status == 200 and first.complete and not is_replay(first), first.body
            for _ in range(3):
                again = once(s, name, **fields)
                assert again.status == 200 and again.complete and is_replay(again), (again.status, again.headers)
                assert data(again) == data(first), (data(again), data(first))
                assert again.headers["x-request-id"] == first.headers["x-request-id"]
                assert again.headers.get("x-spillway-charge-usd") == first.headers.get("x-spillway-charge-usd")
            row, = of_key(s, name)
            assert row["charge_pusd"] > 0 and row["repeat"] == 0 and len(row["request_hash"]) == 64, row
            refused(once(s, name, "something else", **fields), 422, "idempotency_key_reused")
            refused(once(s, name, key="sk-home", **fields), 422, "idempotency_key_reused")
            other = once(s, name, key="sk-two", **fields)  # another tenant's key is another key
            assert other.status == 200 and not is_replay(other)
        assert len(up.generations()) == 4
        a = chat(s.port, "hi", key="sk-one")
        assert a.status == 200 and s.row(a.headers["x-request-id"])["idempotency_key"] is None
        m = s.metrics()
        assert m["spillway_idempotent_replays_total"] == 6 and m["spillway_idempotent_keys"] == 4, m


def bad_keys(args):
    up = Upstream()
    with served(args, up).ready() as s:
        for bad in ("a b", "k" * 256, "\u00e9"):
            a = chat(s.port, key="sk-one", headers={"Idempotency-Key": bad.encode().decode("latin-1")})
            assert a.status == 400 and a.json()["error"]["param"] == "Idempotency-Key", (a.status, a.body)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        a = Connection(s.port, "POST", "/v1/chat/completions", body,
                       {"Authorization": "Bearer sk-one", "Idempotency-Key": "a", "idempotency-key": "b"}).all()
        assert a.status == 400, a.body
        assert not up.generations()
    with served(args, up, idempotency={"keep": "0"}).ready() as s:
        assert not any(is_replay(once(s, "k")) for _ in range(2))
        assert len(up.generations()) == 2


def hundred_at_once(args):
    for fields in ({}, {"stream": True, "stream_options": USAGE}):
        up = Upstream(default=Script(head_delay=0.3))
        with served(args, up, workers=3).ready() as s:
            with concurrent.futures.ThreadPoolExecutor(100) as pool:
                got = list(pool.map(lambda _: once(s, "k", **fields), range(100)))
            assert all(a.status == 200 and a.complete for a in got), [a.body for a in got if a.status != 200][:3]
            assert sum(is_replay(a) for a in got) == 99
            assert all(data(a) == data(got[0]) for a in got)
            assert len(up.generations()) == 1
            row, = s.rows()
            assert row["charge_pusd"] > 0 and row["outcome"] == 0
        up.stop()


def failures_are_not_kept(args):
    up = Upstream()
    with served(args, up, routing={"retries": 0}).ready() as s:
        gate = threading.Event()
        up.scripts.append(Script(status=500, gate=gate))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(once, s, "k") for _ in range(4)]
            wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == 3, 3, "three wait")
            gate.set()
            got = [f.result() for f in asked]
        assert {a.status for a in got} == {502} and len(up.generations()) == 1, [a.status for a in got]
        assert len({a.headers["x-request-id"] for a in got}) == 4
        wait_until(lambda: once(s, "k").status == 200, 5, "the node is asked again")
        assert is_replay(once(s, "k"))
        up.scripts.append(Script(cut_after=2))
        a = once(s, "cut", stream=True)
        assert not a.events or a.events[-1][1] != "[DONE]"
        a = wait_until(lambda: (lambda b: b if b.status == 200 else None)(once(s, "cut", stream=True)), 5, "again")
        assert not is_replay(a) and a.events[-1][1] == "[DONE]", a.events
        up.scripts.append(Script(status=400))
        assert once(s, "bad").status == 400
        assert once(s, "bad").status == 200


def first_leaves(args):
    """Somebody waits: it goes on. Nobody does: it is cancelled, and paid for until then."""
    for stream in (False, True):
        gate = threading.Event()
        up = Upstream(default=Script(gate=gate))
        with served(args, up, workers=3).ready() as s:
            first = start(s, "k", stream=stream)
            wait_until(lambda: up.active == 1, 3, "it runs")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                others = [pool.submit(once, s, "k", stream=stream) for _ in range(4)]
                wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == 4, 3, "they wait")
                first.close()
                wait_until(lambda: s.metrics()["spillway_http_connections"] <= 4, 3, "the first is gone")
                gate.set()
                got = [f.result() for f in others]
            assert all(a.status == 200 and a.complete and is_replay(a) for a in got), [a.body for a in got]
            assert all(a.text() == "Hello there, world!" for a in got), data(got[0])
            assert len(up.generations()) == 1 and up.aborted.empty()
            row, = s.rows()
            assert row["outcome"] == 0 and row["charge_pusd"] > 0, row

            tries = iter(range(5, 99))

            def cancelled():
                """How long after the last has left."""
                gate.clear()
                waits = next(tries)
                name = f"gone-{waits}"
                first = start(s, name, stream=stream)
                wait_until(lambda: up.active == 1, 3, "it runs")
                waiter = start(s, name, stream=stream)
                wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == waits, 3, "it waits")
                first.close()
                time.sleep(0.15)
                assert up.aborted.empty(), "somebody waits"
                left = time.monotonic()
                waiter.close()
                took = up.aborted.get(timeout=30) - left
                row = wait_until(lambda: of_key(s, name), 3, "its row")[0]
                assert row["outcome"] == 1, row
                gate.set()
                anew = once(s, name, stream=stream)
                assert anew.status == 200 and not is_replay(anew)
                return took

            until_quick(cancelled, 1.0 if args.sanitized else 0.3)
        up.stop()


def streams_hear_comments(args):
    """Who waits for long hears so, and gets the frames, or an error event."""
    up, gate = Upstream(), threading.Event()
    with served(args, up, queue={"keep_alive": "100ms"}, routing={"retries": 0}).ready() as s:
        for script, last in ((Script(gate=gate), "[DONE]"), (Script(gate=gate, status=500), "upstream_error")):
            gate.clear()
            up.scripts.append(script)
            first = start(s, last, stream=True)
            waits = s.metrics()["spillway_idempotent_waits_total"]
            wait_until(lambda: up.active == 1, 3, "it runs")
            waiter = start(s, last, stream=True)
            wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == waits + 1, 3, "it waits")
            assert waiter.head().status == 200 and is_replay(waiter.answer), waiter.answer.headers
            raw = ""
            for piece in waiter.pieces():
                raw += piece.decode()
                if raw.count(": waiting\n\n") >= 3:
                    gate.set()
            waiter.close()
            assert waiter.answer.complete and gate.is_set(), raw
            frames = [f[6:] for f in raw.split("\n\n") if f.startswith("data: ")]
            assert last in frames[-1], raw
            got = first.all()
            if last == "[DONE]":
                assert frames == [d for _, d in got.events]


def orphan_changes_nodes(args):
    """The client is gone, and then the node: what is sent to the next one is the request's own copy."""
    bad, good = Upstream("bad"), Upstream("good")
    with Scheduler(args.build, [node("bad", bad, price=("0", "0", "0")), node("good", good)], keys=KEYS,
                   cache={"mode": "off"}).ready() as s:
        wait_until(lambda: sum(v for k, v in s.metrics().items() if k.startswith("spillway_node_up{")) == 2, 5, "both")
        gate = threading.Event()
        bad.default = Script(gate=gate, status=500)
        first = start(s, "k", text="long " * 2000)
        wait_until(lambda: bad.active == 1, 3, "it runs")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            other = pool.submit(once, s, "k", "long " * 2000, stream=False)
            wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == 1, 3, "it waits")
            first.close()
            wait_until(lambda: s.metrics()["spillway_http_connections"] <= 1, 3, "the first is gone")
            gate.set()
            a = other.result()
        assert a.status == 200 and is_replay(a), (a.status, a.body)
        sent = json.loads(good.generations()[0][2])
        assert sent["messages"] == [{"role": "user", "content": "long " * 2000}]
    bad.stop()
    good.stop()


def after_a_restart(args):
    up = Upstream()
    with served(args, up).ready() as s:
        first = once(s, "k")
        once(s, "other")
        for number in (1, 2, 3):
            s.kill()
            s.restart()
            s.ready()
            refused(once(s, "k", "something else"), 422, "idempotency_key_reused")
            a = once(s, "k")
            assert a.status == 200 and not is_replay(a) and charge(a) == 0, a.headers
            assert a.text() == first.text()
            assert is_replay(once(s, "k"))
            row = s.row(a.headers["x-request-id"])
            assert (row["repeat"], row["charge_pusd"], row["price_output_uusd_per_mtok"]) == (number, 0, 0), row
            assert row["tokens_output"] > 0
        s.kill()
        s.restart()
        s.ready()
        a = once(s, "k")
        refused(a, 409, "idempotency_repeats_spent")
        assert a.headers["x-should-retry"] == "false"
        assert charge(once(s, "new")) > 0
        assert [r["repeat"] for r in of_key(s, "k")] == [0, 1, 2, 3]
        with sqlite3.connect(s.ledger_path) as db:  # ten minutes later
            db.execute("update ledger set finished_ns = finished_ns - 600000000000")
        db.close()
        s.kill()
        s.restart()
        s.ready()
        assert charge(once(s, "k")) > 0


def killed_while_it_runs(args):
    """Nothing was answered, so nothing was charged: the repeat is the first."""
    up = Upstream(default=Script(hang="head"))
    with served(args, up).ready() as s:
        c = start(s, "k")
        wait_until(lambda: up.active == 1, 3, "it runs")
        s.kill()
        c.close()
        up.default = Script()
        s.restart()
        s.ready()
        assert charge(once(s, "k")) > 0
        row, = of_key(s, "k")
        assert row["repeat"] == 0


def answers_make_room(args):
    """Beyond the bound the oldest answers are lost, not their keys."""
    words = ["x" * 1000] * 20
    up = Upstream(default=Script(words=words))
    with served(args, up, idempotency={"max_bytes": "64KiB", "keys": 4}).ready() as s:
        for k in range(4):
            assert once(s, f"k{k}").status == 200
        m = s.metrics()
        assert m["spillway_idempotent_bytes"] <= 65536 and m["spillway_idempotent_forgotten_total"] == 1, m
        assert is_replay(once(s, "k3")) and is_replay(once(s, "k1"))
        a = once(s, "k0")
        assert not is_replay(a) and charge(a) == 0, a.headers
        assert once(s, "k4").status == 200  # the fifth key: the oldest is forgotten
        assert charge(once(s, "k1")) > 0
        up.default = Script(words=["y" * 1000] * 100)
        big = once(s, "big", stream=True)
        assert big.events[-1][1] == "[DONE]"
        for _ in range(3):
            again = once(s, "big", stream=True, timeout=10)
            assert again.text() == big.text() and not is_replay(again)
        refused(once(s, "big", stream=True), 409, "idempotency_repeats_spent")


def with_the_cache(args):
    """An answer from the cache is an answer, too."""
    up = Upstream()
    with served(args, up, cache={"mode": "lru"}).ready() as s:
        assert chat(s.port, key="sk-one", temperature=0).status == 200
        for stream in (False, True):
            first = once(s, f"k{stream}", temperature=0, stream=stream)
            assert first.headers["x-spillway-cache"] == "hit" and not is_replay(first), first.headers
            again = once(s, f"k{stream}", temperature=0, stream=stream)
            assert is_replay(again) and data(again) == data(first)
        assert len(up.generations()) == 1


def drained(args):
    """Who waits gets the answer before the end."""
    gate = threading.Event()
    up = Upstream(default=Script(gate=gate))
    with served(args, up, workers=2).ready() as s:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            got = [pool.submit(once, s, "k") for _ in range(6)]
            wait_until(lambda: s.metrics()["spillway_idempotent_waits_total"] == 5, 3, "they wait")
            s.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in s.log_text(), 3, "it drains")
            gate.set()
            assert s.process.wait(30) == 0
            assert all(f.result().status == 200 for f in got)


if __name__ == "__main__":
    main(__doc__, [same_again, bad_keys, hundred_at_once, failures_are_not_kept, first_leaves, streams_hear_comments,
                   orphan_changes_nodes,
                   after_a_restart, killed_while_it_runs, answers_make_room, with_the_cache, drained])
