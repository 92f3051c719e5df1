"""One budget, three schedulers, one Redis: 64 clients ask all of them while schedulers and the Redis are killed (SIGKILL)
and started anew. By the upstream's own count nothing is overspent; what was granted to the dead is booked as waste and
nothing stays reserved; and while there is room for a request, it is granted.

    tests/fault/budget_hammer.py --build build          some seconds
    tests/fault/budget_hammer.py --build build --full   two minutes, more kills"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from harness import Scheduler, chat, free_port, main, node, wait_until
import test_budgets
from test_budgets import INPUT, OUTPUT, PRICE, PROMPT, usd

LEAST = 1100 * INPUT + 2 * OUTPUT  # what the scheduler reckons for the prompt and a token, and a little


class Meter(test_budgets.Meter):
    """Also by model."""

    def __init__(self, **fields):
        super().__init__(**fields)
        self.of, self.model = {"m": 0, "n": 0}, threading.local()

    def _answer(self, c, path, body, script):
        self.model.name = body["model"]
        return super()._answer(c, path, body, script)

    def _bill(self, amount):
        super()._bill(amount)
        with self.lock:
            self.of[self.model.name] += amount


class Redis:
    """A redis-server that may be killed; its log on disk is what it starts from again."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="spillway-redis-")
        self.port = free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder,
             "--appendonly", "yes", "--appendfsync", "always", "--logfile", "log"], cwd=self.folder)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *words):
        """One command over a connection of its own; lists and texts as they are."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as s:
            data = b"*%d\r\n" % len(words)
            for w in words:
                data += b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode())
            s.sendall(data)
            return self._reply(s.makefile("rb"))

    def _reply(self, f):
        line = f.readline().strip().decode()
        kind, rest = line[:1], line[1:]
        if kind == "*":
            return [self._reply(f) for _ in range(int(rest))]
        if kind == "$":
            return None if rest == "-1" else f.read(int(rest) + 2)[:-2].decode()
        if kind == "-":
            raise OSError(rest)
        return rest

    def budget(self, name):
        """The sums of all its periods; waits for a Redis that has just been started."""
        return wait_until(lambda: self._budget(name), 10, f"redis tells of {name}")

    def _budget(self, name):
        sums = {"spent": 0, "reserved": 0, "waste": 0}
        try:
            for key in self.ask("KEYS", f"spillway:{{budgets}}:1:*:b:*:{name}"):
                fields = self.ask("HGETALL", key)
                for k, v in zip(fields[::2], fields[1::2]):
                    sums[k] = sums.get(k, 0) + int(v)
        except (OSError, ValueError):
            return None
        return sums


def refused_by(a):
    """The budget that a refusal names, or ""."""
    return next((n for n in ("lab", "org") if a.status == 429 and f"the budget '{n}'" in a.json()["error"]["message"]), "")


def ask(s, results, stop, rng):
    while not stop.is_set():
        model = rng.choice(["m", "n"])
        try:
            a = chat(s().port, PROMPT, stream=rng.random() < 0.7, max_tokens=rng.choice([5, 40, 60]), model=model)
            results.append((a.status, refused_by(a)))
            if a.status != 200:
                time.sleep(0.02)
        except (OSError, ValueError, AssertionError, EOFError):
            results.append((0, ""))
            time.sleep(0.02)


def kill_at_random(schedulers, redis, seconds, rng):
    kills = [0, 0]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.3, 0.9))
        if rng.random() < 0.5:
            s = rng.choice(schedulers)
            s.kill()
            time.sleep(rng.uniform(0, 0.3))
            s.restart()
            kills[0] += 1
        else:
            redis.kill()
            time.sleep(rng.uniform(0, 0.4))
            redis.start()
            kills[1] += 1
    return kills


def start_all(args, redis, up, budgets, **more):
    store = {"kind": "redis", "address": f"127.0.0.1:{redis.port}", "ledgers": 3, **more}
    nodes = [node("a", up, price=PRICE, slots=64, models=["m", "n"])]
    schedulers = [Scheduler(args.build, nodes, budget_slice=8, budgets=budgets, budget_store=store) for _ in range(3)]
    for s in schedulers:
        s.ready()
    results, stop = [], threading.Event()
    clients = [threading.Thread(target=ask, daemon=True, args=(lambda i=i: schedulers[i % 3], results, stop, random.Random(i)))
               for i in range(64)]
    for c in clients:
        c.start()

    def end():
        stop.set()
        for c in clients:
            c.join(20)

    return schedulers, results, end


def test_hammer(args):
    """`org` has room for all that comes, so whoever is refused by it is refused wrongly; `lab` is used up meanwhile."""
    seconds, lab, org = (120, 400_000_000_000, 40_000_000_000_000) if args.full else (6, 60_000_000_000, 4_000_000_000_000)
    redis, up, schedulers = Redis(), Meter(tokens=50, delay=0.002), []
    try:
        budgets = [{"name": "org", "hard": usd(org)}, {"name": "lab", "match": ["model=n"], "hard": usd(lab)}]
        schedulers, results, end = start_all(args, redis, up, budgets, dead_after="1s")
        kills = kill_at_random(schedulers, redis, seconds, random.Random(64))
        wait_until(lambda: lab - redis.budget("lab")["spent"] < LEAST, 20, "lab is used up")
        end()
        wait_until(lambda: not redis.budget("org")["reserved"], 20, "nothing is reserved")
        b, l = redis.budget("org"), redis.budget("lab")
        served = sum(r[0] == 200 for r in results)
        print(f"        {kills[0]} times a scheduler and {kills[1]} times the Redis killed; {served} of {len(results)} answered, "
              f"{sum(r[1] == 'lab' for r in results)} refused by lab; org: billed {usd(up.billed)}, spent {usd(b['spent'])}, "
              f"{usd(b['waste'])} of it waste; lab: billed {usd(up.of['n'])}, spent {usd(l['spent'])} of {usd(lab)}", flush=True)
        assert up.billed <= b["spent"] <= org, f"overspent: billed {up.billed}, booked {b['spent']}"
        assert up.of["n"] <= l["spent"] <= lab, f"overspent: billed {up.of['n']}, booked {l['spent']}, limit {lab}"
        assert l["reserved"] == 0 and served > 50 and min(kills) > 0
        assert not any(r[1] == "org" for r in results), "refused though it fits"
        assert any(r[1] == "lab" for r in results)
    finally:
        for s in schedulers:
            s.close()
        redis.stop()
        up.stop()


def test_used_up(args):
    """Without faults, until nothing is left: not a pico-dollar more, and nobody is refused while it fits."""
    limit, redis, up, schedulers = 40_000_000_000, Redis(), Meter(tokens=50, delay=0.0005), []
    try:
        schedulers, results, end = start_all(args, redis, up, [{"name": "org", "hard": usd(limit)}])
        wait_until(lambda: limit - redis.budget("org")["spent"] < LEAST, 20, "it is used up")
        time.sleep(0.3)
        end()
        wait_until(lambda: not redis.budget("org")["reserved"], 5, "nothing is reserved")
        b = redis.budget("org")
        assert up.billed <= b["spent"] <= limit and b["waste"] == 0, (up.billed, b)
        assert {r[0] for r in results} <= {200, 429, 503}, {r[0] for r in results}
        assert (429, "org") in results
    finally:
        for s in schedulers:
            s.close()
        redis.stop()
        up.stop()


def without_redis(args):
    """There is no redis-server to share anything in."""
    print("skipped: no redis-server")


if __name__ == "__main__":
    main(__doc__, [test_used_up, test_hammer] if shutil.which("redis-server") else [without_redis])
