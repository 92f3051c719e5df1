"""The response cache on the path: who is answered from it and who never, what a hit says and costs, identical requests in
flight, and a Redis that is killed, hangs, is slow and comes back under load. The nodes are fakes; the Redis is a real
redis-server, without which its cases are skipped by name."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from fake_engine import Engine, Expected, Fault
from harness import (Connection, Scheduler, Script, Skip, Stalls, Upstream, chat, free_port, in_parallel, key_hash, main,
                     node, request, wait_until)
from test_doors import Authority, Folder

USAGE = {"stream_options": {"include_usage": True}}
TEXT = "Hello there, world!"


def ask(s, text="hi", **fields):
    """A request whose answer is determined."""
    return chat(s.port, text, **{"temperature": 0, **fields})


def way(answer):
    return answer.headers.get("x-spillway-cache")


def stream_usage(answer):
    assert answer.events[-1][1] == "[DONE]", answer.events
    last = answer.chunks()[-1]
    assert last["choices"] == [] and last["usage"], last
    return last


def together(n, call):
    """call(0..n-1), all at once; their results in order."""
    return in_parallel([lambda i=i: call(i) for i in range(n)])


# ---- hits ---------------------------------------------------------------------------------------------------------------


def whole_answers(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        first = ask(s)
        assert way(first) == "miss" and "age" not in first.headers
        paid = s.row(first.headers["x-request-id"])
        assert paid["charge_pusd"] > 0 and paid["cache"] is None and paid["saved_pusd"] == 0
        hit = ask(s)
        assert way(hit) == "hit" and int(hit.headers["age"]) < 5 and len(up.generations()) == 1
        assert hit.headers["x-spillway-node"] == "a" and hit.headers["x-spillway-charge-usd"] == "0"
        assert hit.text() == TEXT and hit.usage() == first.usage()
        assert hit.json()["id"] != first.json()["id"] and hit.json()["model"] == "m"
        row = s.row(hit.headers["x-request-id"])
        assert (row["charge_pusd"], row["saved_pusd"], row["cache"], row["outcome"]) == (0, paid["charge_pusd"], "hit", 0)
        assert (row["tokens_input"], row["tokens_output"], row["node"], row["attempts"]) == (
            paid["tokens_input"], paid["tokens_output"], None, 0), row
        # The same in another spelling, and as a stream.
        body = b'{"temperature":0.0, "messages":[{"content":"h\\u0069","role":"user"}],"user":"me","model":"m"}'
        assert way(request(s.port, "POST", "/v1/chat/completions", body)) == "hit"
        streamed = ask(s, stream=True, **USAGE)
        assert way(streamed) == "hit" and streamed.text() == TEXT and streamed.complete
        last = stream_usage(streamed)
        assert last["spillway"] == {"node": "a", "charge_usd": "0", "cache": "hit"} and last["usage"] == first.usage()
        plain = ask(s, stream=True)
        assert way(plain) == "hit" and not plain.usage() and plain.events[-1][1] == "[DONE]"
        # Anything that may change the answer makes it another request.
        for other in ({"max_tokens": 7}, {"seed": 1}, {"stop": ["x"]}, {"text": "ho"}):
            assert way(ask(s, **other)) == "miss", other
        n = len(up.generations())
        c = {"model": "m", "prompt": "p", "top_k": 1}
        assert way(request(s.port, "POST", "/v1/completions", c)) == "miss"
        again = request(s.port, "POST", "/v1/completions", c)
        assert way(again) == "hit" and again.json()["choices"][0]["text"] == TEXT and len(up.generations()) == n + 1


def streams(args):
    """A stream is kept while it passes, and answers both ways."""
    up = Upstream(default=Script(usage="finish", model="theirs"))
    with Scheduler(args.build, [node("a", up, upstream_model="theirs")]).ready() as s:
        first = ask(s, stream=True, **USAGE)
        assert way(first) == "miss" and first.text() == TEXT
        whole = ask(s)
        assert way(whole) == "hit" and whole.text() == TEXT and whole.json()["model"] == "m"
        assert whole.usage() == first.usage() and whole.json()["choices"][0]["finish_reason"] == "stop"
        again = ask(s, stream=True, **USAGE)
        assert way(again) == "hit" and stream_usage(again)["usage"] == first.usage()
        assert {c["model"] for c in again.chunks()} == {"m"} and len({c["id"] for c in again.chunks()}) == 1
        assert len(up.generations()) == 1
        # Tools and thinking come out as they went in; what cannot be replayed is not kept.
        tool = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]
        more = [{"index": 0, "function": {"arguments": "{\"a\": 1}"}}]
        up.scripts.append(Script(deltas=[
            [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm \u00e9\\"}, "finish_reason": None}],
            [{"index": 0, "delta": {"tool_calls": tool}, "finish_reason": None}],
            [{"index": 0, "delta": {"tool_calls": more}, "finish_reason": None}],
            [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]]))
        assert way(ask(s, "tool", stream=True)) == "miss"
        message = ask(s, "tool").json()["choices"][0]["message"]
        assert message["reasoning_content"] == "hm \u00e9\\"
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{\"a\": 1}"}, message
        for _ in range(2):
            up.scripts.append(Script(deltas=[
                [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}, "finish_reason": "stop"}]]))
            assert way(ask(s, "odd", stream=True, logprobs=True)) == "miss"
        assert len(up.generations()) == 4


def who_takes_part(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        for fields in ({"temperature": 0.5}, {"temperature": 1, "seed": 3}, {"n": 2}):
            for _ in range(2):
                assert way(ask(s, "free", **fields)) == "bypass", fields
        on, off = {"x-spillway-cache": "on"}, {"X-Spillway-Cache": "OFF"}
        assert way(ask(s, "warm", temperature=1, headers=on)) == "miss"
        assert way(ask(s, "warm", temperature=1, headers=on)) == "hit"
        assert way(ask(s, "warm", temperature=1)) == "bypass"
        assert way(ask(s, "x", headers=off)) == "bypass" and way(ask(s, "x")) == "miss"
        bad = ask(s, headers={"x-spillway-cache": "maybe"})
        assert bad.status == 400 and bad.json()["error"]["param"] == "x-spillway-cache", bad.body
        # no-store: nothing is kept, but what is there is used.
        never = {"Cache-Control": "no-store"}
        assert way(ask(s, "ns", headers=never)) == "miss" and way(ask(s, "ns")) == "miss"
        assert way(ask(s, "ns", headers=never)) == "hit"
        # no-cache and max-age: a fresh answer, which is then kept.
        n = len(up.generations())
        assert way(ask(s, "ns", headers={"Cache-Control": "no-cache"})) == "bypass"
        assert len(up.generations()) == n + 1
        assert way(ask(s, "ns", headers={"Cache-Control": "max-age=0"})) == "bypass"
        assert way(ask(s, "ns", headers={"Cache-Control": "private, max-age=100"})) == "hit"
        time.sleep(1.1)
        begin = time.monotonic()
        assert way(ask(s, "ns", headers={"Cache-Control": "max-age=1"})) == "miss"
        assert int(ask(s, "ns").headers["age"]) <= time.monotonic() - begin and len(up.generations()) == n + 3
    with Scheduler(args.build, [node("a", up)], cache={"mode": "off"}).ready() as s:
        assert [way(ask(s)) for _ in range(2)] == [None, None]


def bounds(args):
    """Old answers, large answers, and more of them than there is room for."""
    up = Upstream(default=Script(words=["0123456789" * 10], repeat=300))
    with Scheduler(args.build, [node("a", up)], cache={"ttl": "1s"}).ready() as s:
        ways = [way(ask(s, "one"))]
        while ways[-1] == "miss" and len(ways) < 20:  # a machine may stand still for longer than an answer holds
            ways.append(way(ask(s, "one")))
        assert ways == ["miss"] * (len(ways) - 1) + ["hit"], ways
        time.sleep(1.1)
        assert way(ask(s, "one")) == "miss" and s.metrics()["spillway_cache_expired_total"] == ways.count("miss")
    with Scheduler(args.build, [node("a", up)], cache={"max_bytes": "64KiB", "max_entry": "64KiB"}).ready() as s:
        assert way(ask(s, "one")) == "miss" and way(ask(s, "one")) == "hit"
        assert way(ask(s, "two")) == "miss" and way(ask(s, "three")) == "miss"
        assert way(ask(s, "one")) == "miss"  # made room
        up.default = Script(words=["0123456789" * 10], repeat=700)
        for stream in (False, True, False):
            assert way(ask(s, "huge", stream=stream)) == "miss"
        m = s.metrics()
        assert m["spillway_cache_bytes"] <= 65536 and m["spillway_cache_evictions_total"] >= 1
        assert m["spillway_cache_expired_total"] == 0


# ---- whose ---------------------------------------------------------------------------------------------------------------


def keys_of(*names):
    return [{"id": n, "sha256": key_hash(n), "tenant": n.split("-")[0], **({"local_only": True} if "local" in n else {})}
            for n in names]


def tenants_are_isolated(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], keys=keys_of("t1-x", "t1-y", "t2-x")).ready() as s:
        assert way(ask(s, key="t1-x")) == "miss"
        assert way(ask(s, key="t1-y")) == "hit"
        assert way(ask(s, key="t2-x")) == "miss"
        # Nor do they wait for one another's answers.
        gate = threading.Event()
        up.default = Script(gate=gate)
        n = len(up.generations())
        results = []
        t = threading.Thread(target=lambda: results.extend(
            together(4, lambda i: ask(s, "shared", key=("t1-x", "t2-x")[i % 2]))))
        t.start()
        wait_until(lambda: len(up.generations()) == n + 2, 5, "one request per tenant is under way")
        wait_until(lambda: s.metrics()["spillway_cache_followers"] == 2, 5, "and one of each waits for it")
        gate.set()
        t.join()
        assert len(up.generations()) == n + 2
        assert sorted(way(r) for r in results) == ["collapsed", "collapsed", "miss", "miss"]


def local_only_and_memory(args):
    """Nothing of a local_only request leaves when it is answered from our memory, wherever that answer was made."""
    away, up = Upstream("away"), Upstream("home")
    with Scheduler(args.build, [node("away", away, local=False)], keys=keys_of("t-any", "t-local", "u-local")).ready() as s:
        assert way(ask(s, key="t-any")) == "miss" and len(away.generations()) == 1
        assert way(ask(s, key="t-local")) == "hit"
        for key in ("t-local", "u-local"):
            refused = ask(s, "other" if key == "t-local" else "hi", key=key)
            assert refused.status == 503 and refused.json()["error"]["code"] == "no_local_capacity", refused.body
        # A follower whose leader fails must not follow it off the premises either.
        gate = threading.Event()
        away.default = Script(gate=gate, status=500)
        out = []
        threads = [threading.Thread(target=lambda k=k: out.append((k, ask(s, "fails", key=k)))) for k in ("t-any", "t-local")]
        threads[0].start()
        wait_until(lambda: away.active == 1, 5, "the leader is under way")
        threads[1].start()
        wait_until(lambda: s.metrics()["spillway_cache_followers"] == 1, 5, "it has a follower")
        gate.set()
        for t in threads:
            t.join()
        assert dict(out)["t-any"].status == 502 and dict(out)["t-local"].status == 503
        assert len(away.generations()) == 2
    up.stop()


def limits_hold_for_hits(args):
    up = Upstream()
    limits = {"key": "few", "classes": [{"name": "few", "requests_per_min": 4, "tokens_per_min": 2000}]}
    with Scheduler(args.build, [node("a", up)], keys=keys_of("t-k"), limits=limits).ready() as s:
        first = ask(s, key="t-k", max_tokens=100)
        left = [int(ask(s, key="t-k", max_tokens=100).headers["x-ratelimit-remaining-requests"]) for _ in range(3)]
        assert left == sorted(left, reverse=True) and left[-1] == 0, left
        refused = ask(s, key="t-k", max_tokens=100)
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1, refused.status
        assert len(up.generations()) == 1
        used = first.usage()["total_tokens"]
        assert way(first) == "miss" and used > 0
    limits["classes"][0]["requests_per_min"] = 1000
    with Scheduler(args.build, [node("a", up)], keys=keys_of("t-k"), limits=limits).ready() as s:
        ask(s, key="t-k", max_tokens=300)
        for _ in range(30):  # 300 each, were they not settled with nothing
            assert way(ask(s, key="t-k", max_tokens=300)) == "hit"


# ---- together ------------------------------------------------------------------------------------------------------------


class Gated:
    """A scheduler with requests of one kind under way until open() is called."""

    def __init__(self, args, script=None, nodes=None, **settings):
        self.gate = threading.Event()
        self.up = Upstream(default=script or Script())
        self.up.default.gate = self.gate
        self.s = Scheduler(args.build, nodes or [node("a", self.up)], **settings).ready()
        self.threads, self.answers = [], []

    def start(self, n, **fields):
        """n more; returns once they wait."""
        before = self.waiting()
        for _ in range(n):
            t = threading.Thread(target=lambda: self.answers.append(ask(self.s, "same", **fields)))
            t.start()
            self.threads.append(t)
        wait_until(lambda: self.waiting() == before + n, 5, f"{n} more wait")

    def waiting(self):
        return self.up.active + int(self.s.metrics()["spillway_cache_followers"])

    def open(self):
        self.gate.set()
        for t in self.threads:
            t.join()

    def ways(self):
        return sorted(str(way(a)) for a in self.answers)


def identical_requests_collapse(args):
    for stream in (False, True):
        g = Gated(args)
        with g.s as s:
            g.start(1, stream=stream)
            g.start(4)
            g.start(4, stream=True, **USAGE)
            g.open()
            assert g.ways() == ["collapsed"] * 8 + ["miss"], g.ways()
            assert all(a.text() == TEXT for a in g.answers) and len(g.up.generations()) == 1
            assert len({a.headers["x-request-id"] for a in g.answers}) == 9
            rows = [s.row(a.headers["x-request-id"]) for a in g.answers]
            paid = [r for r in rows if r["cache"] is None]
            assert len(paid) == 1 and all(r["saved_pusd"] == paid[0]["charge_pusd"] and r["charge_pusd"] == 0
                                          for r in rows if r["cache"])
            m = s.metrics()
            assert m['spillway_cache_requests_total{model="m",result="collapsed"}'] == 8
            assert m["spillway_cache_flights"] == 0 and m["spillway_cache_followers"] == 0
            assert abs(m['spillway_cache_saved_usd_total{model="m"}'] - 8 * paid[0]["charge_pusd"] / 1e12) < 1e-12
            assert m["spillway_tokens_total{model=\"m\",kind=\"output\"}"] == sum(r["tokens_output"] for r in rows)


def a_leader_that_fails(args):
    """The next one computes it, the others go on waiting."""
    g = Gated(args, routing={"retries": 0})
    with g.s:
        g.up.scripts.append(Script(gate=g.gate, status=500))
        g.start(1)
        g.start(4)
        g.open()
        assert sorted(a.status for a in g.answers) == [200] * 4 + [502]
        assert sorted(str(way(a)) for a in g.answers if a.status == 200) == ["collapsed"] * 3 + ["miss"]
        assert len(g.up.generations()) == 2
    # Its client leaves.
    g = Gated(args)
    with g.s as s:
        body = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "same"}]}
        leader = Connection(s.port, "POST", "/v1/chat/completions", body)
        wait_until(lambda: g.up.active == 1, 5, "the leader is under way")
        follower = Connection(s.port, "POST", "/v1/chat/completions", body)
        wait_until(lambda: g.waiting() == 2, 5, "and a follower")
        g.start(2)
        follower.close()
        wait_until(lambda: g.waiting() == 3, 5, "it has left")
        leader.close()
        wait_until(lambda: len(g.up.generations()) == 2, 5, "the next one leads")
        g.open()
        assert g.ways() == ["collapsed", "miss"]
    # A refusal is for each of them to hear.
    g = Gated(args, script=Script(status=422))
    with g.s:
        g.start(1)
        g.start(3)
        g.open()
        assert [a.status for a in g.answers] == [422] * 4 and len(g.up.generations()) == 4
    # An answer that cannot be replayed helps nobody else.
    choices = [{"index": 0, "message": {"role": "assistant", "content": "x", "audio": {"id": 1}}, "finish_reason": "stop"}]
    g = Gated(args, script=Script(choices=choices))
    with g.s:
        g.start(1)
        g.start(3)
        g.open()
        assert g.ways() == ["miss"] * 4 and len(g.up.generations()) == 4


def waiting_has_an_end(args):
    g = Gated(args, cache={"collapse": "200ms"})
    with g.s:
        g.start(1)
        body = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "same"}]}
        late = Connection(g.s.port, "POST", "/v1/chat/completions", body)
        wait_until(lambda: len(g.up.generations()) == 2, 2, "the second goes its own way")
        g.open()
        assert way(late.all()) == "miss" and g.ways() == ["miss"]
    g = Gated(args, cache={"collapse": "0"})
    with g.s:
        g.start(3)
        assert g.up.active == 3
        g.open()
    # Whoever has a deadline does not wait so long that it could not be met; a stream hears a comment meanwhile.
    g = Gated(args, queue={"keep_alive": "100ms"})
    with g.s:
        g.start(1)
        hasty = Connection(g.s.port, "POST", "/v1/chat/completions", body, {"x-spillway-deadline": "400ms"})
        wait_until(lambda: len(g.up.generations()) == 2, 3, "the hasty one goes its own way")
        patient = Connection(g.s.port, "POST", "/v1/chat/completions", {**body, "stream": True})
        patient.head()
        pieces = patient.pieces()
        assert next(pieces) == b": waiting\n\n" and "x-spillway-cache" not in patient.answer.headers
        g.open()
        rest = b"".join(pieces)
        assert b"data: [DONE]" in rest and b"world" in rest and patient.answer.complete
        assert g.s.metrics()['spillway_cache_requests_total{model="m",result="collapsed"}'] == 1
        hasty.all()
    # A drain ends what waits like anything else.
    g = Gated(args)
    g.start(1)
    g.start(3)
    g.s.process.send_signal(signal.SIGTERM)
    g.s.line(message="draining")
    g.open()
    assert g.ways() == ["collapsed"] * 3 + ["miss"] and g.s.process.wait(60) == 0
    g.s.close()
    g = Gated(args, drain="300ms")
    g.start(1)
    g.start(3)
    assert g.s.terminate() == 0
    g.open()  # all have been told; they have heard it when they are through
    assert sorted(a.status for a in g.answers) == [503] * 4, [a.status for a in g.answers]
    g.s.close()


def continued_answers(args):
    """An answer that went on on another engine is kept as the client saw it."""
    with tempfile.TemporaryDirectory(prefix="spillway-it-") as folder:
        secret = os.path.join(folder, "key")
        with open(secret, "w") as f:
            f.write("node-secret\n")
        engines = [Engine("e1"), Engine("e2")]
        nodes = [node(e.name, e, price=(str(k), str(k), str(k)), node_key_file=secret) for k, e in enumerate(engines)]
        with Scheduler(args.build, nodes) as s:
            s.nodes_ready(2)
            for stream in (True, False):
                engines[0].faults.append(Fault(die=5))
                wait_until(lambda: s.metrics()['spillway_node_up{node="e1"}'] == 1, 5, "e1 is ready")
                want = Expected(f"p{stream}", 7, 12)
                first = ask(s, f"p{stream}", seed=7, stream=stream)
                assert way(first) == "miss" and first.text() == want.text
                assert s.row(first.headers["x-request-id"])["continuations"] == 1
                for again in (ask(s, f"p{stream}", seed=7), ask(s, f"p{stream}", seed=7, stream=True, **USAGE)):
                    assert way(again) == "hit" and again.text() == want.text
                    assert again.usage()["completion_tokens"] == len(want.ids)
                    assert b"spillway_ids" not in again.body
        assert not engines[0].bad and not engines[1].bad


# ---- Redis ---------------------------------------------------------------------------------------------------------------


class Redis:
    def __init__(self, password="test-only", more=()):
        if not shutil.which("redis-server"):
            raise Skip("there is no redis-server")
        self.folder = tempfile.mkdtemp(prefix="spillway-it-")
        self.port = free_port()
        self.password, self.more = password, more
        self.password_file = os.path.join(self.folder, "password")
        with open(self.password_file, "w") as f:
            f.write(password + "\n")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "0.0.0.0", "--save", "", "--appendonly", "no", "--dir",
             self.folder, "--requirepass", self.password, "--databases", "2", *self.more], stdout=subprocess.DEVNULL)
        wait_until(lambda: self.say("PING") == "+PONG", 10, "redis answers")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def say(self, command, timeout=5.0):
        """The first line of the answer, or None."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout) as c:
                c.sendall(f"AUTH {self.password}\r\nSELECT 1\r\n{command}\r\n".encode())
                return [c_line for c_line in self._lines(c, 3)][2]
        except (OSError, IndexError):
            return None

    def _lines(self, c, n):
        reader = c.makefile("r")
        return [reader.readline().rstrip() for _ in range(n)]

    def entries(self):
        return int(self.say("DBSIZE")[1:])

    def settings(self, host="127.0.0.1", **more):
        return {"mode": "redis", "redis": {"address": f"{host}:{self.port}", "db": 1,
                                           "password_file": self.password_file, **more}}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def redis_up(s, wanted=1, seconds=10):
    wait_until(lambda: s.metrics()["spillway_cache_up"] == wanted, seconds, f"the cache is {'up' if wanted else 'down'}")


def missed_then_hit(s):
    """Each worker has its own connection to Redis, and nobody waits for what one of them has just stored."""
    kept = s.metrics()["spillway_cache_stores_total"]
    assert way(ask(s)) == "miss"
    wait_until(lambda: s.metrics()["spillway_cache_stores_total"] > kept, 5, "it is stored")
    assert way(ask(s)) == "hit"


def redis_keeps(args):
    up = Upstream()
    with Redis() as r:
        with Scheduler(args.build, [node("a", up)], cache=r.settings(timeout="2s")).ready() as s:
            redis_up(s)
            missed_then_hit(s)
        with Scheduler(args.build, [node("a", up)], cache=r.settings(timeout="2s")).ready() as s:
            redis_up(s)
            assert way(ask(s, stream=True)) == "hit" and len(up.generations()) == 1  # another scheduler's
            # Garbage in its place is a miss, and is replaced.
            key = [k for k in subprocess.run(
                ["redis-cli", "-p", str(r.port), "-n", "1", "-a", r.password, "--no-auth-warning", "keys", "*"],
                capture_output=True, text=True, check=True).stdout.split()][0]
            assert r.say(f"SET {key} garbage") == "+OK"
            missed_then_hit(s)
            assert s.metrics()["spillway_cache_errors_total"] >= 1
    with Redis("another") as r:
        with open(r.password_file, "w") as f:
            f.write("wrong\n")
        with Scheduler(args.build, [node("a", up)], cache=r.settings()).ready() as s:
            assert way(ask(s)) == "miss" and ask(s).status == 200
            wait_until(lambda: any("AUTH" in str(line.get("why")) for line in s.log_lines()), 5, "the log says why")
            s.never_says("wrong")


def redis_over_tls(args):
    """Cache and budgets in one that asks for certificates; killed and started again; not one that shows a wrong one."""
    up = Upstream()
    with Folder() as folder:
        ours, theirs, port = Authority(folder, "ours"), Authority(folder, "theirs"), free_port()
        (cert, key), (mine, mine_key) = ours.sign("localhost"), ours.sign("spillway")
        tls = {"ca": ours.cert, "cert": mine, "key": mine_key}
        with Redis(more=["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file",
                         ours.cert, "--appendonly", "yes", "--appendfsync", "always"]) as r:
            address = f"rediss://localhost:{port}"
            cache = r.settings(address=address, tls=tls, timeout="2s")
            budgets = {"kind": "redis", "address": address, "tls": tls, "password_file": r.password_file}
            with Scheduler(args.build, [node("a", up)], cache=cache, budget_store=budgets).ready() as s:
                redis_up(s)
                missed_then_hit(s)
                wait_until(lambda: "told redis what the ledger knows of budgets" in s.log_text(), 5, "budgets over TLS")
                large = "x" * 200_000  # more than buffers on the way hold
                assert way(ask(s, large)) == "miss"
                r.kill()
                redis_up(s, 0)
                r.start()
                redis_up(s, 1)
                wait_until(lambda: way(ask(s)) == "hit", 10, "it comes back")
            assert r.entries() >= 1
            alien = r.settings(address=address, tls={**tls, "ca": theirs.cert}, timeout="2s")
            with Scheduler(args.build, [node("a", up)], cache=alien).ready() as s:
                assert way(ask(s, "alien")) == "miss"
                wait_until(lambda: "certificate refused" in s.log_text(), 5, "the log says why")
                assert s.metrics()["spillway_cache_up"] == 0


def local_only_and_redis(args):
    """A Redis that is not said to be on the premises is never touched for local_only requests."""
    up = Upstream()
    keys = keys_of("t-any", "t-local")
    with Redis() as r:
        far = r.settings(host="0.0.0.0", timeout="2s")  # loopback all the same, which the configuration cannot know
        with Scheduler(args.build, [node("a", up)], keys=keys, cache=far).ready() as s:
            redis_up(s)
            for stream in (False, True, False):
                assert way(ask(s, key="t-local", stream=stream)) == "miss"
            assert r.entries() == 0 and len(up.generations()) == 3
            assert way(ask(s, key="t-any")) == "miss"
            wait_until(lambda: r.entries() == 1, 5, "it is kept")
            assert way(ask(s, key="t-local")) == "miss" and way(ask(s, key="t-any")) == "hit"
            before = r.say("DBSIZE")
            bound = {"x-spillway-local-only": "true"}  # one request of a key that is not bound
            assert way(ask(s, key="t-any", headers=bound)) == "miss"
            assert way(ask(s, "another", key="t-any", headers=bound)) == "miss"
            together(4, lambda i: ask(s, f"x{i % 2}", key="t-local"))
            assert r.say("DBSIZE") == before
        with Scheduler(args.build, [node("a", up)], keys=keys, cache=far, models=[{"name": "m", "local_only": True}]).ready() as s:
            redis_up(s)
            for _ in range(2):  # a model that is bound binds whoever asks for it
                assert way(ask(s, "of a bound model", key="t-any")) == "miss"
            assert r.say("DBSIZE") == before
        with Scheduler(args.build, [node("a", up)], keys=keys, cache=r.settings("0.0.0.0", timeout="2s", local=True)).ready() as s:
            redis_up(s)
            assert way(ask(s, key="t-local")) == "hit"
        with Scheduler(args.build, [node("a", up)], keys=keys, cache=r.settings(timeout="2s")).ready() as s:
            redis_up(s)
            assert way(ask(s, key="t-local")) == "hit"  # on loopback nothing need be said


class Load:
    """Requests from several threads until stopped: some alike, some not, half of them streams."""

    def __init__(self, s, threads=6):
        self.s, self.stopping, self.lock = s, threading.Event(), threading.Lock()
        self.done = self.bad = 0
        self.ways, self.slowest = {}, 0.0
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        for t in self.threads:
            t.start()

    def _run(self, k):
        i = 0
        while not self.stopping.is_set():
            i += 1
            begun = time.monotonic()
            try:
                a = ask(self.s, f"load {i % 7 if i % 3 else f'{k}.{i}'}", stream=bool(i % 2))
                good = a.status == 200 and a.text() == TEXT and a.complete
            except (OSError, AssertionError):
                a, good = None, False
            with self.lock:
                self.done += 1
                self.bad += not good
                self.slowest = max(self.slowest, time.monotonic() - begun)
                if a:
                    self.ways[way(a)] = self.ways.get(way(a), 0) + 1

    def run(self, seconds):
        before = self.done
        time.sleep(seconds)
        wait_until(lambda: self.done > before, 5, "requests are answered")

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join()


def redis_under_load(args):
    """Killed, restarted, hung, slow, restarted: no request fails, none waits for it longer than its timeout a few times
    over, and hits come back by themselves."""
    up = Upstream()
    phase = 6.0 if args.full else 0.7
    with Redis() as r, Scheduler(args.build, [node("a", up)], cache=r.settings(timeout="50ms")).ready() as s, \
            Stalls() as stalls:
        redis_up(s)
        load = Load(s)
        try:
            load.run(phase)
            for _ in range(5 if args.full else 1):
                r.kill()
                load.run(phase)
                redis_up(s, 0)
                r.start()
                redis_up(s)
                load.run(phase)
                r.hang()
                load.run(phase)
                redis_up(s, 0)
                r.resume()
                redis_up(s)
                load.run(phase)
                r.say("DEBUG SLEEP 0.4")  # slow: commands pile up and are answered late
                load.run(phase)
                redis_up(s)
                r.kill()
                r.start()
                redis_up(s)
            before = s.metrics()["spillway_cache_lookup_hits_total"]
            wait_until(lambda: s.metrics()["spillway_cache_lookup_hits_total"] > before, 5, "hits come back")
        finally:
            load.stop()
        assert load.bad == 0, f"{load.bad} of {load.done} failed"
        limit = (5.0 if args.sanitized else 3.0) + stalls.seconds
        assert load.slowest < limit, f"the slowest took {load.slowest:.2f} s"
        print(f"        {load.done} requests, 0 failed, {load.ways}, slowest {load.slowest * 1000:.0f} ms")
        rows = wait_until(lambda: (lambda x: x if len(x) == load.done else None)(s.rows()), 5, "a row each")
        assert sum(x["cache"] == "hit" for x in rows) == load.ways.get("hit", 0)
        assert all(x["charge_pusd"] == 0 for x in rows if x["cache"])


def a_redis_that_is_not_there(args):
    up = Upstream()
    cache = {"mode": "redis", "redis": {"address": f"127.0.0.1:{free_port()}"}}
    with Scheduler(args.build, [node("a", up)], cache=cache).ready() as s:
        for _ in range(5):
            assert way(ask(s)) == "miss"
        g = together(4, lambda i: ask(s, "alike"))
        assert all(a.status == 200 for a in g)
        assert s.metrics()["spillway_cache_up"] == 0


if __name__ == "__main__":
    main(__doc__, [whole_answers, streams, who_takes_part, bounds, tenants_are_isolated, local_only_and_memory,
                   limits_hold_for_hits, identical_requests_collapse, a_leader_that_fails, waiting_has_an_end,
                   continued_answers, redis_keeps, redis_over_tls, local_only_and_redis, redis_under_load, a_redis_that_is_not_there])
