"""Prefix affinity from outside: a conversation's next turn goes to the node that has its first, whoever else is idle; but
nobody else's does, nothing leaves the premises for it, and a node that is busy does not become a hot spot."""

import json
import threading

from harness import Scheduler, Script, Upstream, chat, key_hash, main, node, request, wait_until

KEYS = {"acme": "sk-acme", "other": "sk-other"}
PROSE = "what somebody said about something, at length, before. " * 60  # above 3 KiB


def keys(**fields):
    return [{"id": name, "sha256": key_hash(key), "tenant": name, **fields} for name, key in KEYS.items()]


def turns(n, topic):
    """The messages of a conversation's turn n, from 1."""
    out = [{"role": "system", "content": f"{topic}: {PROSE}"}]
    for i in range(n):
        out += [{"role": "user", "content": f"question {i}: {PROSE}"}, {"role": "assistant", "content": f"answer {i}"}]
    return out[:-1]


class Fleet:
    def __init__(self, args, n=4, keys_=None, each=None, **settings):
        self.ups = [Upstream(f"n{i}") for i in range(n)]
        nodes = [node(f"n{i}", up, price=("0", "0", "0"), slots=10, **(each(i) if each else {}))
                 for i, up in enumerate(self.ups)]
        self.s = Scheduler(args.build, nodes, keys=keys_ or keys(), **settings).nodes_ready(n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()
        for up in self.ups:
            up.stop()

    def ask(self, messages, tenant="acme", raw=None, **fields):
        """The index of the node that answered."""
        if raw is None:
            a = chat(self.s.port, key=KEYS[tenant], messages=messages, **fields)
        else:
            a = request(self.s.port, "POST", "/v1/chat/completions", raw, {"Authorization": f"Bearer {KEYS[tenant]}"})
        assert a.status == 200, a.body
        return int(a.headers["x-spillway-node"][1:])


def a_conversation_stays_where_it_began(args):
    with Fleet(args) as f:
        homes = {}
        for turn in range(1, 5):
            for topic in range(10):
                at = f.ask(turns(turn, topic))
                assert homes.setdefault(topic, at) == at, (topic, turn, at, homes)
        assert len(set(homes.values())) == 4, homes  # first turns are spread
        m = f.s.metrics()
        assert m["spillway_prefix_requests_total"] == 40 and m["spillway_prefix_hits_total"] == 30, m
        # A turn's beginning is the one before, but for its last block: 6.6 KB and 3.4 KB more with each turn.
        assert 30 * 1500 < m["spillway_prefix_hit_tokens_total"] < 30 * 4500, m
        assert 150 < m["spillway_prefix_blocks"] < 400 and m["spillway_prefix_evictions_total"] == 0, m
        assert 60 << 20 < m["spillway_prefix_bytes"] <= 64 << 20, m


def blanks_make_no_difference(args):
    with Fleet(args) as f:
        first = f.ask(turns(1, "x"))
        raw = json.dumps({"messages": turns(2, "x"), "model": "m"}, indent=3).encode()
        assert [f.ask(None, raw=raw) for _ in range(5)] == [first] * 5


def tools_are_part_of_the_beginning(args):
    tools = [{"type": "function", "function": {"name": "look_up", "description": PROSE, "parameters": {}}}]
    with Fleet(args) as f:
        homes = {f.ask(turns(1, "x")) for _ in range(3)}
        assert len(homes) == 1
        before = f.s.metrics()["spillway_prefix_hits_total"]
        f.ask(turns(2, "x"), tools=tools)
        assert f.s.metrics()["spillway_prefix_hits_total"] == before
        f.ask(turns(2, "x"), tools=tools)
        assert f.s.metrics()["spillway_prefix_hits_total"] == before + 1


def nobody_is_drawn_to_anothers_prompt(args):
    with Fleet(args) as f:
        f.ask(turns(2, "secret"))
        for _ in range(8):
            f.ask(turns(2, "secret"))
        assert f.s.metrics()["spillway_prefix_hits_total"] == 8
        f.ask(turns(2, "secret"), tenant="other")
        assert f.s.metrics()["spillway_prefix_hits_total"] == 8
    with Fleet(args, prefix_share="all") as f:
        home = f.ask(turns(2, "shared"))
        assert f.ask(turns(2, "shared"), tenant="other") == home
        assert f.s.metrics()["spillway_prefix_hits_total"] == 1


def nothing_leaves_the_premises_for_it(args):
    with Fleet(args, n=2, each=lambda i: {"local": i == 0}) as f:
        away = next(t for t in range(20) if f.ask(turns(1, t)) == 1)
        assert f.ask(turns(2, away)) == 1
    with Fleet(args, n=2, keys_=keys(local_only=True), each=lambda i: {"local": i == 0}) as f:
        assert {f.ask(turns(1, t)) for t in range(6)} == {0}


def a_busy_node_is_left(args):
    gate = threading.Event()
    with Fleet(args, n=2) as f:
        home = f.ask(turns(1, "x"))
        up = f.ups[home]
        with up.lock:
            up.default = Script(gate=gate, words=["x"])
        threads = [threading.Thread(target=f.ask, args=(turns(2, "x"),)) for _ in range(5)]
        for n, t in enumerate(threads):
            t.start()
            wait_until(lambda: up.active == n + 1, 5, "it is at home")
        assert f.ask(turns(2, "x")) != home  # five of ten slots are as much as the whole prompt
        gate.set()
        for t in threads:
            t.join()


def it_can_be_turned_off(args):
    with Fleet(args, routing={"prefix_affinity": "false", "prefix_memory": "64KiB"}) as f:
        assert len({f.ask(turns(1, "x")) for _ in range(4)}) == 4
        m = f.s.metrics()
        assert m["spillway_prefix_requests_total"] == 0 and m["spillway_prefix_bytes"] <= 64 << 10, m


def short_prompts_are_not_looked_at(args):
    with Fleet(args) as f:
        assert len({f.ask([{"role": "user", "content": "hi"}]) for _ in range(4)}) > 1  # they are not drawn to one
        assert f.s.metrics()["spillway_prefix_requests_total"] == 0


def a_small_cache_forgets(args):
    """Each node says (here: the configuration) that it has room for 5,000 tokens: 19 blocks."""
    with Fleet(args, n=2, each=lambda i: {"kv_tokens": 5000}) as f:
        f.ask(turns(1, "old"))
        f.ask(turns(1, "old"))
        hits = f.s.metrics()["spillway_prefix_hits_total"]
        assert hits == 1
        for t in range(20):
            f.ask(turns(1, f"new {t}"))
        f.ask(turns(1, "old"))
        assert f.s.metrics()["spillway_prefix_hits_total"] == hits


if __name__ == "__main__":
    main(__doc__, [a_conversation_stays_where_it_began, blanks_make_no_difference, tools_are_part_of_the_beginning,
                   nobody_is_drawn_to_anothers_prompt, nothing_leaves_the_premises_for_it, a_busy_node_is_left,
                   it_can_be_turned_off, short_prompts_are_not_looked_at, a_small_cache_forgets])
