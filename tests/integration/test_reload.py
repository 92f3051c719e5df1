"""A running scheduler takes its changed configuration over: by SIGHUP, the admin API or the command line, whole or not at
all, and without dropping a connection or a request. What is under way ends as it began."""

import os
import signal
import socket
import subprocess
import threading
import time

from harness import Connection, Scheduler, Script, Upstream, chat, key_hash, main, node, request, wait_until


class World:
    """A scheduler whose configuration is written again and again."""

    def __init__(self, args, nodes, keys=None, **settings):
        self.build = args.build
        self.settings = {"routing": {"retry_floor": 10000}, "queue": {"interactive": {"wait": "20s"}}, **settings}
        self.s = Scheduler(args.build, nodes, keys=keys, **self.settings)
        self.keys = keys
        self.nodes = nodes
        wait_until(lambda: any(x.get("message") == "serving" for x in self.s.log_lines()), 10, "the admin API is there")
        self.ready(*[n["name"] for n in nodes])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.s.__exit__(kind, value, trace)

    def admin(self, method, path):
        return request(os.path.join(self.s.folder, "state", "admin.sock"), method, f"/admin/v1/{path}")

    def names(self):
        return {n["name"]: n for n in self.admin("GET", "nodes").json()["nodes"]}

    def ready(self, *names):
        wait_until(lambda: all(self.names().get(n, {}).get("state") == "ready" for n in names), 10, f"{names} are ready")

    def write(self, nodes=None, keys=None, text=None, **settings):
        self.nodes = nodes if nodes is not None else self.nodes
        self.keys = keys if keys is not None else self.keys
        self.settings.update(settings)
        if text is not None:
            self.s.write_config(text)
        else:
            self.s.configure(self.nodes, self.keys, **self.settings)

    def reload(self, status=200, **what):
        self.write(**what)
        a = self.admin("POST", "reload")
        assert a.status == status, (a.status, a.body)
        return a.json()


def changes(report):
    return {(c["list"], c["name"], c["change"], c["keys"]) for c in report["changes"]}


def nodes_come_and_go(args):
    a, b = Upstream("a"), Upstream("b")
    with World(args, [node("a", a)]) as w:
        assert chat(w.s.port).headers["x-spillway-node"] == "a"
        told = w.reload(nodes=[node("a", a), node("b", b, price=("0", "0", "0"))])
        assert changes(told) == {("nodes", "b", "added", None)} and told["needs_restart"] == [], told
        w.ready("b")
        assert chat(w.s.port).headers["x-spillway-node"] == "b"
        told = w.reload(nodes=[node("b", b, price=("0", "0", "0"))])
        assert changes(told) == {("nodes", "a", "removed", None)}, told
        wait_until(lambda: set(w.names()) == {"b"}, 3, "a is gone")
        assert w.admin("GET", "nodes/a").status == 404
        b.scripts.append(Script(status=500))
        assert chat(w.s.port).status == 502  # nobody else is asked
        # Its place in the table is used again, and so is its name.
        for k in range(5):
            c = Upstream("c")
            w.reload(nodes=[node("b", b, price=("1", "1", "1")), node("a" if k % 2 else "c", c, price=("0", "0", "0"))])
            w.ready("a" if k % 2 else "c")
            assert chat(w.s.port).headers["x-spillway-node"] == ("a" if k % 2 else "c")
            assert len(c.generations()) == 1
        assert w.reload() == {"reloaded": True, "changes": [], "needs_restart": []}


def what_runs_ends_where_it_is(args):
    """A node that is removed finishes what it has; a stream does not notice."""
    hold = threading.Event()
    a, b = Upstream("a", Script(hold=hold)), Upstream("b")
    with World(args, [node("a", a)]) as w:
        c = Connection(w.s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})
        c.head()
        events = c.events()
        next(events)
        w.reload(nodes=[node("b", b)])
        w.ready("b")
        assert w.names()["a"]["draining"]
        assert chat(w.s.port).headers["x-spillway-node"] == "b"
        hold.set()
        for _ in events:
            pass
        assert c.answer.text() == "Hello there, world!" and c.answer.headers["x-spillway-node"] == "a"
        c.close()
        wait_until(lambda: "a" not in w.names(), 3, "a is gone")
        row = w.s.row(c.answer.headers["x-request-id"])
        assert row["node"] == "a" and row["outcome"] == 0, row


def prices_hold_for_what_began(args):
    gate = threading.Event()
    a = Upstream("a", Script(gate=gate, usage_fields={"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}))
    with World(args, [node("a", a, price=("1", "1", "1"), slots=1)]) as w:
        c = Connection(w.s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": [{"role": "user", "content": "x"}]})
        wait_until(lambda: len(a.generations()) == 1, 3, "it runs")
        told = w.reload(nodes=[node("a", a, price=("5", "5", "5"), slots=2)])
        assert changes(told) == {("nodes", "a", "changed", "slots, price.input, price.cached_input, price.output")}, told
        n = w.names()["a"]
        assert n["slots"] == 2 and float(n["price_usd_per_mtok"]["input"]) == 5 and n["state"] == "ready", n
        gate.set()
        assert c.all().headers["x-spillway-charge-usd"] == "0.002"
        c = chat(w.s.port)
        assert c.headers["x-spillway-charge-usd"] == "0.01"


def models_change(args):
    a = Upstream("a")
    with World(args, [node("a", a)]) as w:
        assert chat(w.s.port, model="n").status == 404
        w.reload(nodes=[node("a", a, models=["m", "n"])])
        assert chat(w.s.port, model="n").status == 200
        told = request(w.s.port, "GET", "/v1/models").json()["data"]
        assert [m["id"] for m in told] == ["m", "n"], told
        w.reload(nodes=[node("a", a, models=["n"])])
        assert chat(w.s.port, model="m").status == 404 and chat(w.s.port, model="n").status == 200
        assert [m["id"] for m in request(w.s.port, "GET", "/v1/models").json()["data"]] == ["n"]
        assert w.s.metrics()['spillway_requests_total{model="n",outcome="ok"}'] == 2
        # A node elsewhere is another node, whatever its name.
        b = Upstream("b")
        w.reload(nodes=[node("a", b, models=["n"])])
        wait_until(lambda: w.names()["a"]["address"] == b.url, 3, "it is elsewhere")
        w.ready("a")
        assert chat(w.s.port, model="n").status == 200 and len(b.generations()) == 1


def keys_and_limits_change(args):
    up = Upstream("a")
    one = {"id": "one", "sha256": key_hash("spw_one"), "tenant": "t"}
    two = {"id": "two", "sha256": key_hash("spw_two"), "tenant": "t"}
    with World(args, [node("a", up)], keys=[one]) as w:
        assert chat(w.s.port, key="spw_one").status == 200 and chat(w.s.port, key="spw_two").status == 401
        told = w.reload(keys=[two])
        assert changes(told) == {("keys", "one", "removed", None), ("keys", "two", "added", None)}, told
        assert chat(w.s.port, key="spw_one").status == 401 and chat(w.s.port, key="spw_two").status == 200
        limits = {"key": "few", "classes": [{"name": "few", "requests_per_min": 2}]}
        told = w.reload(limits=limits)
        assert changes(told) == {(None, "limits.key", "changed", None), ("limits.classes", "few", "added", None)}, told
        got = [chat(w.s.port, key="spw_two").status for _ in range(4)]
        assert got == [200, 200, 429, 429], got
        w.reload(limits={"key": "few", "classes": [{"name": "few", "requests_per_min": 1000}]})
        assert chat(w.s.port, key="spw_two").status == 200
        w.s.never_says("spw_two", key_hash("spw_two"))


def mistakes_change_nothing(args):
    a = Upstream("a")
    with World(args, [node("a", a, slots=3)]) as w:
        bad = "listen: 127.0.0.1:0\nauth: off\nnodes:\n  - {name: a, url: nowhere, models: [m]}\n  - {nam: b}\n"
        told = w.reload(status=400, text=bad)
        assert told["error"]["code"] == "invalid_config" and "nothing was changed" in told["error"]["message"], told
        assert any("nodes[0].url" in p for p in told["problems"]), told
        assert any('did you mean "name"' in p for p in told["problems"]), told
        assert w.names()["a"]["slots"] == 3 and chat(w.s.port).status == 200
        spillway = os.path.join(args.build, "spillway")
        socket_path = os.path.join(w.s.folder, "state", "admin.sock")
        p = subprocess.run([spillway, "reload", "--socket", socket_path], capture_output=True, text=True)
        assert p.returncode == 2 and "nodes[0].url" in p.stderr and "nothing was changed" in p.stderr, p
        # What passes the check and still cannot be taken over: a key that is no key.
        path = os.path.join(w.s.folder, "empty-key")
        with open(path, "w") as f:
            f.write("\n")
        told = w.reload(status=400, nodes=[node("a", a, slots=4), node("b", a, api_key_file=path)])
        assert "empty-key" in told["error"]["message"] and "node 'b'" in told["error"]["message"], told
        assert w.names()["a"]["slots"] == 3 and set(w.names()) == {"a"}


def what_needs_a_restart_says_so(args):
    a = Upstream("a")
    with World(args, [node("a", a)]) as w:
        told = w.reload(drain="4s", ledger={"queue_max": 100})
        assert told["needs_restart"] == ["ledger.queue_max"], told
        assert changes(told) == {(None, "drain", "changed", None), (None, "ledger.queue_max", "changed", None)}, told
        shown = w.admin("GET", "config").json()
        assert shown["drain"]["value"] == "4s" and shown["ledger.queue_max"]["value"] == "65536", shown

        def said(text, name):
            return any(text in x["message"] and x.get("name") == name for x in w.s.log_lines() if x.get("area") == "config")

        wait_until(lambda: said("taken over", "drain"), 3, "the log says what changed")
        wait_until(lambda: said("needs a restart", "ledger.queue_max"), 3, "and what it could not take over")
        p = subprocess.run([os.path.join(args.build, "spillway"), "reload", "--config", w.s.config_path],
                           capture_output=True, text=True, cwd=w.s.folder)
        assert p.returncode == 0 and "ledger.queue_max (needs a restart)" in p.stdout, p


def by_signal(args):
    a = Upstream("a")
    with World(args, [node("a", a)]) as w:
        w.write(nodes=[node("a", a, slots=7)], log={"level": "debug"})
        w.s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: w.names()["a"]["slots"] == 7, 5, "it is taken over")
        assert not any(x["level"] == "debug" for x in w.s.log_lines() if x.get("area") == "request")
        chat(w.s.port, model="nobody's")
        wait_until(lambda: any(x["level"] == "debug" for x in w.s.log_lines()), 3, "the log has that level")
        for _ in range(20):
            w.s.process.send_signal(signal.SIGHUP)
        assert chat(w.s.port).status == 200


def timeouts_change(args):
    a = Upstream("a", Script(hang="head"))
    with World(args, [node("a", a)], routing={"first_byte": "30s", "retries": 0}) as w:
        w.reload(routing={"first_byte": "200ms", "retries": 0})
        begun = time.monotonic()
        assert chat(w.s.port, stream=True).status == 504 and time.monotonic() - begun < 15  # not after 30 s


def connections_stay(args):
    """Keep-alive connections, on both sides, do not notice."""
    a = Upstream("a")
    with World(args, [node("a", a)]) as w:
        c = socket.create_connection(("127.0.0.1", w.s.port))
        c.settimeout(30)
        body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        for k in range(4):
            c.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            got = b""
            while b"Hello there" not in got:
                piece = c.recv(65536)
                assert piece, got
                got += piece
            w.reload(nodes=[node("a", a, slots=10 + k)])
        c.close()
        # One of requests, one or two of health checks.
        wait_until(lambda: len(a.connections) <= 3, 5, "connections are kept, not made anew")


def under_load(args):
    """Nodes come and go, prices and keys change, while many clients ask: not one of them notices."""
    rounds = 50 if args.full else 12
    ups = [Upstream(f"n{k}", Script(word_delay=0.002)) for k in range(6)]
    keys = [{"id": "k", "sha256": key_hash("spw_k"), "tenant": "t"}]
    everyone = [node(u.name, u, price=(str(k % 3), "0", "1")) for k, u in enumerate(ups)]
    failures, done, stop = [], [0], threading.Event()
    with World(args, everyone[:3], keys=keys) as w:

        def client(k):
            while not stop.is_set():
                try:
                    a = chat(w.s.port, key="spw_k", stream=k % 2 == 0)
                    if a.status != 200 or a.text() != "Hello there, world!" or not a.complete:
                        failures.append((a.status, a.body[-300:]))
                except Exception as e:  # noqa: BLE001: any of them is a failure
                    failures.append(repr(e))
                done[0] += 1

        threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
        [t.start() for t in threads]
        try:
            for k in range(rounds):
                some = [everyone[(k + j) % 6] for j in range(3)]
                # One of those that stay may change its price and slots as well; not two new ones at once without one
                # that is ready.
                some[0] = dict(some[0], slots=20 + k)
                extra = [{"id": f"x{k}", "sha256": key_hash(f"spw_x{k}"), "tenant": "t"}]
                w.reload(nodes=some, keys=keys + extra)
                if k % 5 == 0:
                    w.s.process.send_signal(signal.SIGHUP)
                before = done[0]
                wait_until(lambda: done[0] > before + 8, 10, "requests are answered")
        finally:
            stop.set()
            [t.join() for t in threads]
        assert not failures, (len(failures), done[0], failures[:3])
        wait_until(lambda: len(w.names()) == 3, 5, "those that were removed are gone")
        assert all(n["in_flight"] == 0 for n in w.names().values())
        rows = w.s.rows()
        assert len(rows) == done[0] and all(r["outcome"] == 0 for r in rows), (len(rows), done[0])


def engines_come_and_go(args):
    """Engines of provider process: started by a reload, ended by one, after their work."""
    model = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "models",
                         "spillway-tiny.gguf")
    engine = os.path.join(args.build, "spillway-engine")
    if not os.path.exists(model) or not os.path.exists(engine):
        return
    a = Upstream("a")

    def process(name, **fields):
        return {"name": name, "provider": "process", "engine": engine, "model_path": model, "models": ["tiny"],
                "threads": 1, "ctx_size": 512, **fields}

    with World(args, [node("a", a)], drain="10s") as w:
        w.reload(nodes=[node("a", a), process("e")])
        w.ready("e")
        pid = w.names()["e"]["pid"]
        c = Connection(w.s.port, "POST", "/v1/chat/completions",
                       {"model": "tiny", "stream": True, "max_tokens": 60, "messages": [{"role": "user", "content": "Hi"}]})
        c.head()
        events = c.events()
        next(events)
        w.reload(nodes=[node("a", a)])
        for _ in events:
            pass
        assert c.answer.events[-1][1] == "[DONE]", c.answer.events[-1]
        c.close()
        wait_until(lambda: "e" not in w.names(), 10, "it is gone")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, "its process has ended")
        w.reload(nodes=[node("a", a), process("e", ctx_size=256)])
        w.ready("e")
        assert w.names()["e"]["pid"] != pid
        assert chat(w.s.port, model="tiny", max_tokens=4).status == 200


if __name__ == "__main__":
    main(__doc__, [nodes_come_and_go, what_runs_ends_where_it_is, prices_hold_for_what_began, models_change,
                   keys_and_limits_change, mistakes_change_nothing, what_needs_a_restart_says_so, by_signal,
                   timeouts_change, connections_stay, under_load, engines_come_and_go])
