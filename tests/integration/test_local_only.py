"""What is bound to the premises never leaves them: a server elsewhere, cheaper, idle and fit in every respect, watches
every way a request can take to a node, and must see none. Beside each case stands its counterpart, where a request that
is not bound does go there: so that the server is not merely unreachable."""

import json
import os
import threading
import time

from fake_engine import OTHER_CLASS, Engine, Fault
from harness import Scheduler, Script, Upstream, chat, key_hash, main, node, request, wait_until

FREE = ("0", "0", "0")
KEYS = [{"id": "home", "sha256": key_hash("spw_home"), "tenant": "bank", "local_only": True},
        {"id": "free", "sha256": key_hash("spw_free"), "tenant": "shop"},
        {"id": "mine", "sha256": key_hash("spw_mine"), "tenant": "clinic"}]
BOUND = {"key": ("spw_home", {}), "tenant": ("spw_mine", {}), "request": ("spw_free", {"x-spillway-local-only": "true"})}


class World:
    """Servers at home, and one elsewhere that no bound request may reach."""

    def __init__(self, args, home, away, node_fields=None, wait="500ms", **settings):
        self.away = away
        self.home = home
        nodes = []
        for up in [*home, away]:
            fields = dict((node_fields or {}).get(up.name, {}))
            nodes.append(node(up.name, up, price=FREE if up is away else ("1", "1", "1"), local=up is not away, **fields))
        settings["queue"] = {"interactive": {"wait": wait}}
        settings["auth"] = {"mode": "keys", "local_only_tenants": ["clinic"]}
        self.s = Scheduler(args.build, nodes, keys=KEYS, **settings)
        self.s.nodes_ready(len(nodes))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.s.__exit__(kind, value, trace)

    def ask(self, how, **fields):
        key, headers = BOUND[how] if how else ("spw_free", {})
        return chat(self.s.port, key=key, headers=headers, **fields)

    def seen(self):
        return len(self.away.generations())

    def waiting(self):
        return sum(v for k, v in self.s.metrics().items() if k.startswith("spillway_requests_waiting{"))

    def never(self):
        assert self.seen() == 0, self.away.generations()


def failed(a):
    return a.status != 200 or (a.events and a.events[-1][1] != "[DONE]")


def everyone(case):
    """The case for each way of being bound."""

    def run(args):
        for how in BOUND:
            case(args, how)

    run.__name__ = case.__name__
    return run


@everyone
def chosen(args, how):
    with World(args, [Upstream("home")], Upstream("away")) as w:
        for stream in (False, True):
            assert w.ask(how, stream=stream).headers["x-spillway-node"] == "home"
        w.never()
        assert w.ask(None).headers["x-spillway-node"] == "away"


@everyone
def nobody_at_home(args, how):
    home = Upstream("home")
    with World(args, [home], Upstream("away"), wait="100ms") as w:
        home.stop()
        a = w.ask(how)
        assert a.status in (502, 503), (a.status, a.body)
        w.never()
        assert w.ask(None).status == 200


@everyone
def retried(args, how):
    scripts = (Script(status=500), Script(status=429), Script(status=503, retry_after="1"), Script(bad="type"),
               Script(cut_after=0))
    for script in scripts if args.full else scripts[list(BOUND).index(how)::len(BOUND)]:
        home = Upstream("home", script)
        with World(args, [home], Upstream("away")) as w:
            for stream in (True, False):
                a = w.ask(how, stream=stream)
                assert failed(a) or a.headers["x-spillway-node"] == "home", (a.status, a.headers)
            w.never()


@everyone
def breaker_is_open(args, how):
    """Open, half-open with a trial under way, and cooling down: they wait or are refused, at home."""
    home = Upstream("home", Script(status=500))
    with World(args, [home], Upstream("away"), wait="20s", routing={"retries": "0"},
               breaker={"failures": "2", "open": "300ms"}) as w:
        for _ in range(2):
            assert w.ask(how).status == 502
        gate = threading.Event()
        home.default = Script(gate=gate)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(w.ask(how))) for _ in range(4)]
        [t.start() for t in threads]
        wait_until(lambda: len(home.generations()) == 3, 3, "one tries it")
        time.sleep(0.1)
        gate.set()
        [t.join() for t in threads]
        assert [a.status for a in answers] == [200] * 4, [a.status for a in answers]
        home.scripts.append(Script(status=429, retry_after="60"))
        assert w.ask(how).status == 429 and w.ask(how).status == 429
        w.never()
        assert w.ask(None).headers["x-spillway-node"] == "away"


@everyone
def waits(args, how):
    """The only place at home is taken; one elsewhere is free."""
    gate = threading.Event()
    home = Upstream("home", Script(gate=gate))
    with World(args, [home], Upstream("away"), {"home": {"slots": 1}}, wait="20s") as w:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(w.ask(how))) for _ in range(3)]
        [t.start() for t in threads]
        wait_until(lambda: len(home.generations()) == 1, 3, "one is at home")
        time.sleep(0.1)
        w.never()
        assert w.ask(None).headers["x-spillway-node"] == "away"
        n = w.seen()
        gate.set()
        [t.join() for t in threads]
        assert [a.headers["x-spillway-node"] for a in answers] == ["home"] * 3 and w.seen() == n


def engine_fields(folder, *names):
    path = os.path.join(folder, "node-key")
    with open(path, "w") as f:
        f.write("node-secret\n")
    return {name: {"node_key_file": path} for name in names}


def continued_by_ids(args):
    """An engine at home dies in the middle of an answer; one elsewhere could go on with it, to the bit."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        faults = (Fault(die=4), Fault(hang=4), Fault(die_before_head=True), Fault(error=4), Fault(die=0))
        for k, how in enumerate(BOUND):  # each way meets each fault in the long form
            for fault in faults if args.full else faults[k::len(BOUND)]:
                home, away = Engine("home"), Engine("away")
                with World(args, [home], away, engine_fields(folder, "home", "away"),
                           wait="200ms", routing={"token": "300ms", "first_byte": "500ms"}) as w:
                    home.fault = fault
                    for stream in (True, False):
                        a = w.ask(how, seed=1, stream=stream)  # frame by frame it may even be done, at home
                        assert failed(a) or a.headers["x-spillway-node"] == "home", (a.status, a.headers)
                    assert not away.legs, away.legs
        home, away = Engine("home"), Engine("away")
        with World(args, [home, Engine("other", numerics=OTHER_CLASS)], away,
                   engine_fields(folder, "home", "other", "away"), wait="20s") as w:
            home.fault = Fault(die=4)
            for how in BOUND:  # an engine of another class at home goes before one of the same elsewhere
                assert w.ask(how, seed=1, stream=True).events[-1][1] == "[DONE]"
            assert not away.legs
            home.fault = None


def alone(args):
    """Nodes die under it again and again: it looks for a node of its own, at home."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for how in BOUND:
            home, away = [Engine("h1"), Engine("h2")], Engine("away")
            with World(args, home, away, engine_fields(folder, "h1", "h2", "away"), wait="1s") as w:
                for e in home:
                    e.fault = Fault(die=1)
                a = w.ask(how, seed=1, stream=True)
                assert failed(a), (a.status, a.events)
                assert not away.legs, away.legs


@everyone
def continued_by_text(args, how):
    home, away = Upstream("home"), Upstream("away")
    fields = {"home": {"continue": "prefix"}, "away": {"continue": "prefix"}}
    with World(args, [home], away, fields) as w:
        home.default = Script(cut_after=2)
        a = w.ask(how, stream=True)
        assert "error" in json.loads(a.events[-1][1]), a.events
        w.never()


def reloaded(args):
    """A node leaves the premises by a reload while requests wait for it: they are not sent there any more."""
    for how in BOUND:
        gate = threading.Event()
        home, away = Upstream("home", Script(gate=gate)), Upstream("away")
        with World(args, [home], away, {"home": {"slots": 1}}, wait="1s") as w:
            answers, threads = [], []

            def two_wait():
                while len(threads) < 3 + len(answers):  # who waited in vain meanwhile has a successor
                    threads.append(threading.Thread(target=lambda: answers.append(w.ask(how))))
                    threads[-1].start()
                return len(home.generations()) == 1 and w.waiting() == 2

            wait_until(two_wait, 3, "one is at home, two wait")
            with open(w.s.config_path) as f:
                text = f.read()
            w.s.write_config(text.replace("local: true", "local: false"))
            socket = os.path.join(w.s.folder, "state", "admin.sock")
            a = request(socket, "POST", "/admin/v1/reload")
            assert a.status == 200 and a.json()["changes"][0]["keys"] == "local", a.body
            gate.set()
            [t.join() for t in threads]
            assert sorted(a.status for a in answers) == [200] + [503] * (len(threads) - 1), [a.status for a in answers]
            assert len(home.generations()) == 1
            w.never()
            assert w.ask(None).status == 200 and w.ask(how).status == 503


def said_wrongly(args):
    """A label that is not understood is refused, not ignored; and none can loosen what a key says."""
    with World(args, [Upstream("home")], Upstream("away")) as w:
        for value in ("yes", "1", "True ", "", "true, false"):
            a = chat(w.s.port, key="spw_free", headers={"x-spillway-local-only": value})
            assert a.status == (200 if value == "True " else 400), (value, a.status, a.body)
            if a.status == 400:
                assert a.json()["error"]["param"] == "x-spillway-local-only"
        n = w.seen()
        for key in ("spw_home", "spw_mine"):
            a = chat(w.s.port, key=key, headers={"x-spillway-local-only": "false"})
            assert a.headers["x-spillway-node"] == "home"
        assert w.seen() == n
        assert chat(w.s.port, key="spw_free", headers={"x-spillway-local-only": "false"}).headers["x-spillway-node"] == "away"


if __name__ == "__main__":
    main(__doc__, [chosen, nobody_at_home, retried, breaker_is_open, waits, continued_by_ids, alone, continued_by_text,
                   reloaded, said_wrongly])
