"""Budgets end to end: many clients against one daemon, with upstreams that count for themselves what they were asked
and what they have said: not a pico-dollar more than the limit; refusals that name the budget and its reset; streams
that end with finish_reason "length"; nested budgets; actions; top-ups and limits that survive restarts; a daemon that
dies."""

import concurrent.futures
import http.server
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from decimal import Decimal

from fake_engine import Engine, Fault
from harness import Connection, Scheduler, Upstream, chat, key_hash, main, node, wait_until

INPUT, OUTPUT = 2_000_000, 10_000_000  # pico-dollars per token: $2 and $10 per million
PRICE = ("2", "2", "10")
PROMPT = "x" * 40
BOUND = 640  # what the scheduler reckons that such a prompt can have at most, and a little


class Meter(Upstream):
    """Counts tokens as a provider's bill would: the prompt when it is taken, each token as it is made."""

    def __init__(self, name="meter", tokens=40, delay=0.0, price=(INPUT, OUTPUT), **fields):
        super().__init__(name, **fields)
        self.tokens, self.delay, self.price = tokens, delay, price
        self.billed = 0
        self.bounds = []  # max_tokens of each request
        self.said = 0  # chunks of streams, the first ones without text included
        self.frozen = False  # no further word is said

    def _bill(self, amount):
        with self.lock:
            self.billed += amount

    def _count(self):
        with self.lock:
            self.said += 1

    def freeze(self, connections):
        """No further word, and all that was said has come: what is billed went through the scheduler, as slow as that may
        be."""
        self.frozen = True

        def read(c):
            try:
                for _ in c.events():
                    pass
            except (OSError, AssertionError):
                pass  # its end

        for c in connections:
            c.head()
            threading.Thread(target=read, args=(c,), daemon=True).start()
        wait_until(lambda: sum(len(c.answer.events) for c in connections) == self.said, 10, "all of it has come")

    def _answer(self, c, path, body, script):
        prompt = sum(len(m["content"]) for m in body["messages"]) // 4 + 4
        bound = body.get("max_tokens", body.get("max_completion_tokens"))
        with self.lock:
            self.bounds.append(bound)
        n = self.tokens if bound is None else min(bound, self.tokens)
        finish = "length" if bound is not None and bound < self.tokens else "stop"
        self._bill(prompt * self.price[0])
        usage = {"prompt_tokens": prompt, "completion_tokens": n, "total_tokens": prompt + n}
        if not body.get("stream"):
            self._bill(n * self.price[1])
            time.sleep(self.delay * n)
            answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"], "usage": usage,
                      "choices": [{"index": 0, "message": {"role": "assistant", "content": "w " * n},
                                   "finish_reason": finish}]}
            data = json.dumps(answer).encode()
            self._inactive()
            self._send(c, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(data) + data)
            return True
        self._send(c, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        def frame(delta, why=None, u=None, choices=True):
            text = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "usage": u,
                    "choices": [{"index": 0, "delta": delta, "finish_reason": why}] if choices else []}
            data = b"data: " + json.dumps(text).encode() + b"\n\n"
            self._send(c, b"%x\r\n%s\r\n" % (len(data), data))

        frame({"role": "assistant", "content": ""})
        self._count()
        for i in range(n):
            time.sleep(self.delay)
            while self.frozen:
                time.sleep(0.002)
            frame({"content": f"w{i} "})
            self._bill(self.price[1])
            self._count()
        frame({}, finish)
        frame({}, None, usage, choices=False)
        self._inactive()
        data = b"data: [DONE]\n\n"
        self._send(c, b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True


def usd(pico):
    return f"{Decimal(pico) / 10**12:f}"


def totals(s):
    rows = s.ledger("select name, start_s, spent_pusd, waste_pusd, carried_in_pusd, topped_up_pusd from budget_totals")
    return [tuple(r.values()) for r in rows], s.ledger("select count(*) as n from budget_holds")[0]["n"]


def spent(s, name):
    return sum(r[2] for r in totals(s)[0] if r[0] == name)


def stream(port, **fields):
    """Text, finish_reason, the last chunk's `spillway`, and the status or error."""
    headers = fields.pop("headers", None)
    a = chat(port, fields.pop("text", PROMPT), headers=headers, stream=True, **fields)
    chunks = [json.loads(line[6:]) for line in a.body.decode().splitlines()
              if line.startswith("data: ") and line != "data: [DONE]"] if a.status == 200 else []
    text = "".join(x["delta"].get("content") or "" for c in chunks for x in c.get("choices", []))
    finish = [x["finish_reason"] for c in chunks for x in c.get("choices", []) if x["finish_reason"]]
    extra = [c["spillway"] for c in chunks if "spillway" in c]
    return a, text, finish, extra


def test_refusal(args):
    """Used up: 429, insufficient_quota, the budget and its reset in the message, pointless to try again."""
    up = Meter(tokens=5)
    with Scheduler(args.build, [node("a", up, price=PRICE)],
                   budgets=[{"name": "all", "period": "month", "hard": usd(2_000_000_000)}]) as s:
        s.ready()
        a = chat(s.port, PROMPT, max_tokens=5)
        assert a.status == 200, a.body
        a = chat(s.port, "y" * 4000, max_tokens=5)
        error = json.loads(a.body)["error"]
        assert a.status == 429, a.body
        assert error["type"] == error["code"] == "insufficient_quota", error
        assert a.headers["x-should-retry"] == "false" and "retry-after" not in a.headers, a.headers
        assert "'all'" in error["message"] and "begins anew at 20" in error["message"], error
        assert chat(s.port, PROMPT, max_tokens=5).status == 200  # what fits still does
        assert s.metrics()["spillway_budget_refused_total"] == 1
        wait_until(lambda: spent(s, "all") == up.billed, 3, "the books say what the node has counted")
        assert totals(s)[1] == 0, "a hold was left"
    up.stop()


def hammer(s, up, limit, clients, seconds, seed):
    """Requests of all kinds until the budget is spent; nobody gets more than there is."""
    begin, results = time.monotonic(), []

    def over():  # when it is used up, too, however slow this machine is
        passed = time.monotonic() - begin
        return passed > seconds and (set(results[-32:]) == {429} or passed > 20)

    def client(i):
        r = random.Random(seed + i)
        while not over():
            fields = {"max_tokens": r.choice([1, 5, 20, 60])} if r.random() < 0.8 else {}
            text = "z" * r.randrange(1, 200)
            if r.random() < 0.6:
                a = stream(s.port, text=text, **fields)[0]
            else:
                a = chat(s.port, text, **fields)
            results.append(a.status)
            if a.status == 429:
                time.sleep(0.005)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return results


def test_hammer(args):
    """Two budgets, many clients at once, small slices: overspend 0 by the upstream's own count, and nearly all is spent."""
    limit = 40_000_000_000
    for workers in (1, 3):
        up = Meter(tokens=50, delay=0.0005)
        with Scheduler(args.build, [node("a", up, price=PRICE, slots=32)], workers=workers, budget_slice=8,
                       budgets=[{"name": "org", "hard": usd(limit)},
                                {"name": "lab", "match": ["model=m"], "hard": usd(limit * 9 // 10), "period": "day"}]) as s:
            s.ready()
            results = hammer(s, up, limit, 32 if args.full else 16, 20 if args.full else 1.5, 1)
            assert set(results) <= {200, 429}, set(results)
            assert 200 in results and 429 in results, "the limit was not reached"
            wait_until(lambda: totals(s)[1] == 0, 5, "no hold is left")
            assert up.billed <= limit * 9 // 10, f"overspent by {up.billed - limit * 9 // 10}"
            assert up.billed <= spent(s, "lab") <= limit * 9 // 10, (up.billed, spent(s, "lab"))
            assert spent(s, "lab") == spent(s, "org"), "nested budgets differ"
            least = 201 * INPUT + OUTPUT
            assert limit * 9 // 10 - spent(s, "lab") < 1100 * INPUT + 2 * OUTPUT + least, "refused though it fitted"
            charges = sum(r["charge_pusd"] for r in s.rows())
            waste = sum(r[3] for r in totals(s)[0] if r[0] == "lab")
            assert charges + waste == spent(s, "lab"), (charges, waste, spent(s, "lab"))
        up.stop()


def test_stream_ends(args):
    """A stream that gets no next slice ends with "length" and says why; the client's own max_tokens means nothing else."""
    up = Meter(tokens=400, delay=0.002)
    need = BOUND * INPUT
    with Scheduler(args.build, [node("a", up, price=PRICE)], budget_slice=16,
                   budgets=[{"name": "small", "hard": usd(need + 60 * OUTPUT)}]) as s:
        s.ready()
        a, text, finish, extra = stream(s.port)
        assert a.status == 200 and finish == ["length"], (finish, a.body[-300:])
        assert 16 < len(text.split()) < 400, text
        assert "small" in extra[-1]["stopped"], extra
        assert a.body.endswith(b"data: [DONE]\n\n")
        wait_until(lambda: totals(s)[1] == 0, 3, "no hold is left")
        assert up.billed <= spent(s, "small") <= need + 60 * OUTPUT, (up.billed, spent(s, "small"))
        assert s.metrics()["spillway_budget_stopped_total"] == 1
        row = s.row(a.headers["x-request-id"])
        assert row["outcome"] == 0 and "small" in row["budgets"], row
    up.stop()


def test_clamped(args):
    """Who cannot be stopped is told a max_tokens that is paid for: a whole answer, or what is left is less than a slice."""
    up = Meter(tokens=400)
    with Scheduler(args.build, [node("a", up, price=PRICE)],
                   budgets=[{"name": "small", "hard": usd(BOUND * INPUT + 60 * OUTPUT)}]) as s:
        s.ready()
        a = chat(s.port, PROMPT)
        body = json.loads(a.body)
        assert a.status == 200 and body["choices"][0]["finish_reason"] == "length", a.body
        assert up.bounds[-1] is not None and up.bounds[-1] == body["usage"]["completion_tokens"], up.bounds
        assert "small" in a.headers["x-spillway-stopped"] or "budget" in a.headers["x-spillway-stopped"], a.headers
        assert up.billed <= BOUND * INPUT + 60 * OUTPUT
        a, text, finish, extra = stream(s.port)
        assert (a.status, finish) == (200, ["length"]) or a.status == 429, (a.status, finish)
        assert up.billed <= BOUND * INPUT + 60 * OUTPUT
    up.stop()


def test_waits_for_settlements(args):
    """What fits only when others give back is not refused at once."""
    up = Meter(tokens=4, delay=0.03)
    with Scheduler(args.build, [node("a", up, price=PRICE)], budget_wait_ms=30000,
                   budgets=[{"name": "one", "hard": usd(BOUND * INPUT + 20 * OUTPUT)}]) as s:
        s.ready()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: stream(s.port, max_tokens=15)[0].status, range(2)))
        assert answers == [200, 200], answers
    up.stop()


def test_actions(args):
    """prefer_local, local_only, downgrade; each scope, with labels and one budget per user."""
    far, near, small = Meter("far", tokens=3), Meter("near", tokens=3), Meter("small", tokens=3)
    keys = [{"id": k, "sha256": key_hash(k), "tenant": "acme", "team": t, "user": k} for k, t in
            (("ann", "red"), ("bob", "red"), ("cid", "blue"))]
    cost = BOUND * INPUT
    with Scheduler(args.build,
                   [node("far", far, price=PRICE, local=False), node("near", near, price=("3", "3", "20")),
                    node("small", small, models=("s",), price=("0", "0", "0"))], keys=keys,
                   budgets=[{"name": "each", "match": ["user=*"], "hard": usd(cost * 2)},
                            {"name": "red", "match": ["team=red", "env=prod"], "soft": usd(1),
                             "soft_actions": ["prefer_local"]},
                            {"name": "blue", "match": ["team=blue"], "hard": usd(1), "hard_actions": ['"downgrade: s"']},
                            {"name": "far", "match": ["provider=far"], "hard": usd(10 ** 12)}]) as s:
        s.ready()
        a = chat(s.port, PROMPT, key="ann", max_tokens=3, headers={"x-spillway-tags": "env=prod"})
        assert a.headers["x-spillway-node"] == "far", a.headers
        a = chat(s.port, PROMPT, key="ann", max_tokens=3, headers={"x-spillway-tags": "env=prod, a=b"})
        assert a.headers["x-spillway-node"] == "near", "past the soft limit the premises go first"
        a = chat(s.port, PROMPT, key="ann", max_tokens=3)
        assert a.headers["x-spillway-node"] == "far", "without the label the budget is not asked"
        while chat(s.port, PROMPT, key="ann", max_tokens=3).status == 200:
            pass
        assert chat(s.port, PROMPT, key="bob", max_tokens=3).status == 200, "bob has a budget of his own"
        a = chat(s.port, PROMPT, key="cid", max_tokens=3)
        assert a.status == 200 and a.headers["x-spillway-model"] == "s", a.headers
        a = chat(s.port, PROMPT, key="bob", headers={"x-spillway-tags": "no label"})
        assert a.status == 400, a.body
        row = s.rows()[0]
        assert (row["user"], row["tags"]) == ("ann", ",env=prod,"), row
    for up in (far, near, small):
        up.stop()


def test_local_only(args):
    """At the hard limit nothing leaves the premises; what they answer then no longer counts."""
    far, near = Meter("far", tokens=3), Meter("near", tokens=3)
    with Scheduler(args.build, [node("far", far, price=PRICE, local=False), node("near", near, price=("3", "3", "20"))],
                   budgets=[{"name": "cloud", "hard": usd(2 * BOUND * INPUT), "hard_actions": ["local_only"]}]) as s:
        s.ready()
        nodes = [chat(s.port, PROMPT, max_tokens=3).headers.get("x-spillway-node") for _ in range(40)]
        assert nodes[0] == "far" and nodes[-1] == "near" and None not in nodes, nodes
        before = spent(s, "cloud")
        chat(s.port, PROMPT, max_tokens=3)
        assert spent(s, "cloud") == before <= 2 * BOUND * INPUT
        assert far.billed <= 2 * BOUND * INPUT
    far.stop(), near.stop()


def test_queue(args):
    """At a hard limit that says queue, a request waits for room in the budget: here, for a top-up."""
    up = Meter(tokens=3)
    with Scheduler(args.build, [node("a", up, price=PRICE)], budget_wait_ms=0,
                   budgets=[{"name": "q", "hard": usd(1), "hard_actions": ["queue"]}]) as s:
        s.ready()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            waits = pool.submit(lambda: chat(s.port, PROMPT, max_tokens=3))
            leaves = Connection(s.port, "POST", "/v1/chat/completions",
                                {"model": "m", "messages": [{"role": "user", "content": PROMPT}]})
            wait_until(lambda: s.metrics()["spillway_http_connections"] == 2, what="both have come")
            time.sleep(0.4)
            assert not waits.done(), "it did not wait"
            leaves.close()
            wait_until(lambda: s.metrics()["spillway_http_connections"] == 1, what="one has left")
            assert cli(args, s, "topup", "q", "1")[0] == 0
            assert waits.result(30).status == 200
        assert len(up.generations()) == 1, "who left was served"
    up.stop()


def test_continues(args):
    """An answer that goes on on a dearer node after its own died is settled once, at the price of the one that finished."""
    prices = (("1", "1", "2"), ("2", "2", "10"))
    engines = [Engine("e0", tokens=60), Engine("e1", tokens=60)]
    key = os.path.join(tempfile.mkdtemp(prefix="spillway-key-"), "key")
    with open(key, "w") as f:
        f.write("node-secret\n")
    try:
        with Scheduler(args.build, [node(e.name, e, price=p, node_key_file=key) for e, p in zip(engines, prices)],
                       budget_slice=16,
                       budgets=[{"name": "all", "hard": "1"}, {"name": "dear", "match": ["provider=e1"], "hard": "1"}]) as s:
            s.nodes_ready(2)  # and have shown what they can do
            for streamed in (True, False):
                wait_until(lambda: s.metrics()['spillway_node_up{node="e0"}'] == 1, 3, "e0 is up")
                engines[0].faults.append(Fault(die=25))
                a = chat(s.port, PROMPT, stream=True) if streamed else chat(s.port, PROMPT)
                assert a.status == 200, a.body
                row = s.row(a.headers["x-request-id"])
                assert row["continuations"] == 1 and row["node"] == "e1", row
                assert "all" in row["budgets"] and "dear" in row["budgets"], row
            wait_until(lambda: totals(s)[1] == 0, 3, "no hold is left")
            charged = sum(r["charge_pusd"] for r in s.rows())
            assert spent(s, "all") == charged, (spent(s, "all"), charged)
            assert spent(s, "dear") == charged, (spent(s, "dear"), charged)
    finally:
        shutil.rmtree(os.path.dirname(key))
        for e in engines:
            e.stop()


def test_crash(args):
    """SIGKILL while answers run: what they had been granted is spent, as waste; the rest is there again."""
    up = Meter(tokens=2000, delay=0.01)
    limit = 100_000_000_000
    with Scheduler(args.build, [node("a", up, price=PRICE)], budget_slice=16,
                   budgets=[{"name": "b", "hard": usd(limit)}]) as s:
        s.ready()
        running = []
        for _ in range(4):
            c = Connection(s.port, "POST", "/v1/chat/completions",
                           {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": True})
            running.append(c)
        wait_until(lambda: up.billed > 4 * 40 * OUTPUT, 10, "they run")
        up.freeze(running)
        s.kill()
        up.frozen = False
        s.restart()
        s.ready()
        rows, holds = totals(s)
        waste = sum(r[3] for r in rows if r[0] == "b")
        assert holds == 0 and waste == spent(s, "b"), rows
        assert up.billed <= waste < limit // 5, (up.billed, waste)
        assert s.line(area="budget")["waste_usd"]
    up.stop()


def cli(args, s, *words):
    p = subprocess.run([os.path.join(args.build, "spillway"), "budgets", *words, "--config", s.config_path],
                       capture_output=True, text=True, timeout=20)
    return p.returncode, p.stdout, p.stderr


def test_cli(args):
    """list, show, set and topup; every change has a date and survives a restart."""
    up = Meter(tokens=3)
    with Scheduler(args.build, [node("a", up, price=PRICE)],
                   budgets=[{"name": "b", "hard": usd(10), "soft": '"50%"'},
                            {"name": "u", "match": ["model=*"], "hard": "5"}]) as s:
        s.ready()
        assert chat(s.port, PROMPT).status == 429
        rc, out, err = cli(args, s, "topup", "b", "2.5")
        assert rc == 0, err
        assert chat(s.port, PROMPT, max_tokens=3).status == 200
        rc, out, err = cli(args, s, "list")
        assert rc == 0 and "b" in out and "u[m]" in out, (out, err)
        rc, out, err = cli(args, s, "set", "u[m]", "--hard", "0.000001")
        assert rc == 0, err
        assert chat(s.port, PROMPT, max_tokens=3).status == 429
        s.terminate()
        s.restart()
        s.ready()
        a = chat(s.port, PROMPT, max_tokens=3)
        assert a.status == 429 and "u[m]" in a.body.decode(), a.body
        rc, out, err = cli(args, s, "show", "b", "--format", "json")
        shown = json.loads(out)
        assert shown["topped_up_usd"] == "2.50" and shown["changes"][0]["change"] == "top_up", out
        assert shown["changes"][0]["at"].startswith("20"), out
        rc, out, err = cli(args, s, "set", "u[m]", "--hard", "config")
        assert rc == 0, err
        assert chat(s.port, PROMPT, max_tokens=3).status == 200
        rc, out, err = cli(args, s, "topup", "nobody", "1")
        assert rc != 0 and "nobody" in err, err
        rc, out, err = cli(args, s, "topup", "b", "much")
        assert rc != 0 and err, err
    up.stop()


def test_webhook(args):
    """The webhook is told once of each limit, with its token, and a slow one holds nobody up."""
    got, goes_on = [], threading.Event()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers.get("Authorization"), json.loads(body)))
            goes_on.wait(60)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *a):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    up = Meter(tokens=3)
    folder_token = "hook-secret-token"
    path = os.path.join("/tmp", f"spillway-hook-{os.getpid()}")
    with open(path, "w") as f:
        f.write(folder_token + "\n")
    try:
        with Scheduler(args.build, [node("a", up, price=PRICE)],
                       budget_webhook={"url": f"http://127.0.0.1:{server.server_port}/hook/secret-path", "token_file": path},
                       budgets=[{"name": "b", "hard": usd(2 * BOUND * INPUT), "soft": usd(BOUND * INPUT + OUTPUT)}]) as s:
            s.ready()
            while chat(s.port, PROMPT, max_tokens=3).status == 200:
                pass  # the hook, which has not answered yet, holds no request up
            goes_on.set()
            wait_until(lambda: len(got) == 2, 5, "both limits were told")
            events = [g[1]["event"] for g in got]
            assert sorted(events) == ["budget.hard", "budget.soft"], events
            assert all(g[0] == f"Bearer {folder_token}" for g in got)
            assert all(g[1]["budget"] == "b" and g[1]["reset"].startswith("20") for g in got), got
            s.never_says(folder_token, "secret-path")
        assert len(got) == 2, got
    finally:
        os.unlink(path)
        server.shutdown()
        up.stop()


def test_config(args):
    """Mistakes are told with their place; a reload takes new budgets over and says what changed."""
    up = Meter(tokens=3)
    bad = [{"name": "b", "hard": "much", "time_zone": "Mars/Olympus", "start": "soon", "match": ["nonsense"]},
           {"name": "b", "soft": '"80%"', "hard_actions": ["explode"]}]
    nodes = [node("a", up, price=PRICE)]
    with Scheduler(args.build, nodes) as s:
        s.ready()
        assert chat(s.port, PROMPT, max_tokens=3).status == 200
        s.configure(nodes, budgets=bad)
        p = subprocess.run([os.path.join(args.build, "spillway"), "check", "--config", s.config_path],
                           capture_output=True, text=True)
        told = p.stdout + p.stderr
        for what in ("budgets[0].hard", "budgets[0].time_zone", "budgets[0].start", "budgets[0].match", "budgets[1].name",
                     "budgets[1].soft", "budgets[1].hard_actions"):
            assert what in told, (what, told)
        s.configure(nodes, budgets=[{"name": "b", "hard": "0.000001"}])
        p = subprocess.run([os.path.join(args.build, "spillway"), "reload", "--config", s.config_path],
                           capture_output=True, text=True)
        assert p.returncode == 0, p.stderr
        assert chat(s.port, PROMPT, max_tokens=3).status == 429
        wait_until(lambda: any(x.get("list") == "budgets" for x in s.log_lines()), 3, "the log says what changed")
    up.stop()


def test_dead_rules(args):
    """`spillway check` warns of budgets that never count, limits that are never reached and actions that do nothing."""
    up = Meter()
    nodes = [node("a", up, models=["small"], price=("1", "1", "2")), node("b", up, models=["big"], price=("2", "2", "8"))]
    cases = [
        ({"name": "x", "match": ["model=none"], "hard": "1"}, "budget \"x\" never counts"),
        ({"name": "x", "match": ["team=red"], "hard": "1"}, "nobody's team is known"),
        ({"name": "x", "match": ["model=small"], "hard": "1", "hard_actions": ['"downgrade: big"']}, "saves nothing"),
        ({"name": "x", "hard": "1", "hard_actions": ['"downgrade: big"']}, "saves nothing"),
        ({"name": "x", "match": ["model=big"], "hard": "1", "hard_actions": ['"downgrade: small"']}, None),
        ({"name": "x", "hard": "1", "hard_actions": ['"downgrade: small"']}, None),
        ({"name": "x", "hard": "1", "period": "day", "hard_actions": ["prefer_local"]}, "prefer_local does nothing"),
        ({"name": "x", "match": ["model=big"], "hard": "9"}, "the limit of \"x\" is never reached"),
        ({"name": "x", "match": ["model=big"], "hard": "9", "period": "day"}, None),
        ({"name": "x", "hard": "0.5"}, "the limit of \"all\" is never reached"),
    ]
    with Scheduler(args.build, nodes) as s:
        for budget, says in cases:
            s.configure(nodes, budgets=[budget, {"name": "all", "hard": "5"}])
            p = subprocess.run([os.path.join(args.build, "spillway"), "check", "--config", s.config_path],
                               capture_output=True, text=True)
            told = [line for line in (p.stdout + p.stderr).splitlines() if "budgets[" in line]
            assert p.returncode == 0, (budget, p.stdout, p.stderr)
            assert len(told) == (says is not None) and (not says or says in told[0]), (budget, told)
        shared = {"kind": "redis", "address": "127.0.0.1:1", "on_loss": "fail_open", "ledgers": 5}
        for store, says in (({"allowance_usd": 0}, "fail_open is fail_closed"), ({"allowance_usd": 1}, "come to all of"),
                            ({"allowance_usd": "0.5"}, None)):
            s.configure(nodes, budgets=[{"name": "all", "hard": "5"}], budget_store={**shared, **store})
            p = subprocess.run([os.path.join(args.build, "spillway"), "check", "--config", s.config_path],
                               capture_output=True, text=True)
            assert says is None or says in p.stdout + p.stderr, (store, p.stdout, p.stderr)
            assert says or "lease" not in p.stdout + p.stderr, (store, p.stdout)
    up.stop()


if __name__ == "__main__":
    main(__doc__, [test_refusal, test_hammer, test_stream_ends, test_clamped, test_waits_for_settlements, test_actions,
                   test_local_only, test_queue, test_continues, test_crash, test_cli, test_webhook, test_config, test_dead_rules])
