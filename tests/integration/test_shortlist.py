"""Many nodes: of more than sixteen only a list is looked at for each request, kept as nodes change. Who gets what is as
if all had been looked at: the cheapest that can, whatever happens to the others."""

import os
import threading
import time

from harness import PATIENT_HEALTH, Scheduler, Script, Upstream, chat, key_hash, main, node, request, wait_until

NODES = 48
PROSE = "what somebody said about something, at length, before. " * 60


class Crowd:
    """One server behind all nodes; node i, counted from the cheapest, is called n<i> and has one slot."""

    def __init__(self, args, each=None, equal=False, **settings):
        self.gate = threading.Event()
        self.up = Upstream(default=Script(words=["x"]))
        order = [(i * 29) % NODES for i in range(NODES)]  # so that the cheap ones stand anywhere
        nodes = [node(f"n{i}", self.up, price=("1" if equal else str(1 + i),) * 3, slots=1, **(each(i) if each else {}))
                 for i in order]
        self.s = Scheduler(args.build, nodes, health=PATIENT_HEALTH, **settings).nodes_ready(NODES)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.s.close()
        self.up.stop()

    def ask(self, **fields):
        a = chat(self.s.port, **fields)
        assert a.status == 200, a.body
        return int(a.headers["x-spillway-node"][1:])

    def hold(self, n):
        """n requests that stay; returns what ends them and says where they were."""
        threads, at = [], []
        self.up.default = Script(words=["x"], gate=self.gate)
        for i in range(n):
            threads.append(threading.Thread(target=lambda: at.append(self.ask())))
            threads[-1].start()
            wait_until(lambda: self.up.active == i + 1, 5, "it is there")

        def end():
            self.gate.set()
            for t in threads:
                t.join()
            self.up.default = Script(words=["x"])
            self.gate.clear()
            return sorted(at)

        return end

    def admin(self, what):
        a = request(os.path.join(self.s.folder, "state", "admin.sock"), "POST", f"/admin/v1/{what}")
        assert a.status == 200, (a.status, a.body)

    def drain(self, i, on=True):
        self.admin(f"nodes/n{i}/{'drain' if on else 'undrain'}")


def the_cheapest_free_one_is_always_found(args):
    with Crowd(args) as c:
        assert c.ask() == 0
        end = c.hold(30)
        assert end() == list(range(30))
        assert c.ask() == 0
        end = c.hold(NODES)  # the list's sixteen are long full when the last one comes
        assert end() == list(range(NODES))
        assert [c.ask() for _ in range(5)] == [0] * 5


def who_waits_gets_the_first_that_is_free(args):
    with Crowd(args, queue={"interactive": {"wait": "20s"}}) as c:
        end = c.hold(NODES)
        answers = []
        t = threading.Thread(target=lambda: answers.append(c.ask()))
        t.start()
        waiting = 'spillway_requests_waiting{model="m",class="interactive"}'
        wait_until(lambda: c.s.metrics()[waiting] == 1, 5, "it waits")
        end()
        t.join()
        assert len(answers) == 1


def drained_and_failing_ones_are_passed_by(args):
    with Crowd(args) as c:
        for i in range(20):
            c.drain(i)
        assert c.ask() == 20
        c.drain(7, on=False)
        assert c.ask() == 7
        c.up.scripts.append(Script(status=500))
        assert c.ask() == 20  # n7 has failed for this one, and is asked again by the next
        assert c.ask() == 7


def an_open_breaker_is_noticed_and_its_end_too(args):
    with Crowd(args, breaker={"failures": "1", "open": "500ms"}) as c:
        c.up.scripts.append(Script(status=500))
        begun = time.monotonic()
        assert c.ask() == 1
        while (at := c.ask()) != 0:
            assert at == 1
        assert time.monotonic() - begun > 0.39, "its breaker was open"  # a fifth less than 500 ms
        assert [c.ask() for _ in range(3)] == [0] * 3


def prices_change_by_a_reload(args):
    with Crowd(args) as c:
        assert c.ask() == 0
        nodes = [node(f"n{i}", c.up, price=(str(100 - i),) * 3, slots=1) for i in range(NODES)]
        c.s.configure(nodes)
        c.admin("reload")
        assert c.ask() == NODES - 1


def privacy_holds_among_many(args):
    keys = [{"id": "k", "sha256": key_hash("sk-k"), "tenant": "t", "local_only": True}]
    with Crowd(args, each=lambda i: {"local": i >= 24}, keys=keys) as c:
        assert c.ask(key="sk-k") == 24
        for i in range(24, NODES):
            c.drain(i)
        a = chat(c.s.port, key="sk-k")
        assert a.status == 503 and a.json()["error"]["code"] == "no_local_capacity", (a.status, a.body)


def a_conversation_finds_its_node_among_many(args):
    messages = [{"role": "user", "content": PROSE}]
    with Crowd(args, equal=True) as c:
        homes = []
        for topic in range(4):  # each begins while others are busy: beyond the first sixteen
            end = c.hold(10 * topic)
            c.up.scripts.append(Script(words=["x"]))
            homes.append(c.ask(messages=[{"role": "user", "content": f"{topic} {PROSE}"}]))
            end()
        assert len(set(homes)) > 1, homes
        for topic in range(4):
            more = [{"role": "user", "content": f"{topic} {PROSE}"}, {"role": "assistant", "content": "so"}, *messages]
            assert c.ask(messages=more) == homes[topic]


if __name__ == "__main__":
    main(__doc__, [the_cheapest_free_one_is_always_found, who_waits_gets_the_first_that_is_free,
                   drained_and_failing_ones_are_passed_by, an_open_breaker_is_noticed_and_its_end_too,
                   prices_change_by_a_reload, privacy_holds_among_many,
                   a_conversation_finds_its_node_among_many])
