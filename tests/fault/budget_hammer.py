"""One budget, three schedulers, one Redis: 64 clients ask all of them while schedulers and the Redis are killed (SIGKILL)
and started anew. By the upstream's own count nothing is overspent; what was granted to the dead is booked as waste and
nothing stays reserved; and nobody is refused what fits, by what the books said at that moment (budget_watch.py).

    tests/fault/budget_hammer.py --build build          some seconds
    tests/fault/budget_hammer.py --build build --full   two minutes with more kills; then mistakes are planted in the
                                                        script and in the scheduler, each of which it must find"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import budget_mutants
import test_budgets
import test_budgets_shared
from budget_watch import Judge, Told, Watch, told
from harness import Scheduler, chat, main, node, wait_until
from redis_server import Redis
from test_budgets import PROMPT, cli, totals, usd

# Output is what costs, so that an overspent one would show: an answer of 50 tokens is 40 times its prompt's bound.
PRICE, INPUT, OUTPUT = ("0.2", "0.2", "100"), 200_000, 100_000_000
LEAST = 1100 * INPUT + 2 * OUTPUT  # more than a request of these needs to be granted
NEED = 800 * INPUT + OUTPUT  # the price of the prompt's bound (a token a byte, and the template) and of one token: at most
WAIT_S = 0.2  # budget_wait_ms
WORD_S = 0.004  # no faster than what is paid for before a node's pace is known: so there is a second to stop it in


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


def ask(s, results, stop, rng):
    while not stop.is_set():
        model, sent = rng.choice(["m", "n"]), time.monotonic()
        try:
            a = chat(s().port, PROMPT, stream=rng.random() < 0.7, max_tokens=rng.choice([5, 40, 60, 60, 60, 400]), model=model)
            results.append(told(sent, a))
            if a.status != 200:
                time.sleep(0.02)
        except (OSError, ValueError, AssertionError, EOFError):
            results.append(Told(sent, time.monotonic(), 0, "", False, 0, 0))
            time.sleep(0.02)


def kill_at_random(schedulers, redis, seconds, rng):
    """For so long, and until both were: how often each."""
    kills = [0, 0]
    end = time.monotonic() + seconds
    while time.monotonic() < end or (min(kills) == 0 and time.monotonic() < end + 60):
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


class TopUps:
    """Gives a budget a little more now and then, through whichever scheduler: what is fought for is the last of it."""

    def __init__(self, args, schedulers, name, amount, every_s, rng):
        self.stopped, self.tried = threading.Event(), 0
        self.thread = threading.Thread(target=self._run, daemon=True, args=(args, schedulers, name, amount, every_s, rng))
        self.thread.start()

    def _run(self, args, schedulers, name, amount, every_s, rng):
        while not self.stopped.wait(every_s):
            self.tried += 1
            try:
                cli(args, rng.choice(schedulers), "topup", name, usd(amount))  # one that is dead says so
            except subprocess.TimeoutExpired:
                pass  # the machine stood still

    def stop(self):
        self.stopped.set()
        self.thread.join()


class Stage:
    """A Redis, an upstream, three schedulers and 64 clients."""

    def __init__(self, args, budgets, delay, watched, **store):
        self.redis, self.up, self.schedulers, self.clients = Redis(), Meter(tokens=300, delay=delay, price=(INPUT, OUTPUT)), [], []
        self.results, self.stopped, self.watch = [], threading.Event(), None
        try:
            nodes = [node("a", self.up, price=PRICE, slots=64, models=["m", "n"])]
            store = {"kind": "redis", "address": f"127.0.0.1:{self.redis.port}", "ledgers": 3, **store}
            for _ in range(3):
                self.schedulers.append(Scheduler(args.build, nodes, budget_slice=8, budgets=budgets, budget_store=store,
                                                 cache="off"))  # so that what is used up is refused at the door
            for s in self.schedulers:
                s.ready()
            self.watch = Watch(self.redis, watched)
            for i in range(64):
                of = (lambda i=i: self.schedulers[i % 3], self.results, self.stopped, random.Random(i))
                self.clients.append(threading.Thread(target=ask, daemon=True, args=of))
                self.clients[-1].start()
        except BaseException:
            self.close()
            raise

    def end(self):
        """No more requests; nothing may stay reserved."""
        self.stopped.set()
        for c in self.clients:
            c.join(20)
        end = time.monotonic() + 20
        while any(self.redis.budget(n)["reserved"] for n in self.watch.hard) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.05)
        self.watch.stop()
        over = self.watch.overspent()
        assert not over, f"overspent: more is spent and reserved than there is: {over}"
        left = {n: self.redis.budget(n)["reserved"] for n in self.watch.hard}
        assert not any(left.values()), f"nobody asks any longer, and there is reserved: {left}"

    def judge(self):
        """Nobody was refused what fits."""
        j = Judge(self.watch, WAIT_S, NEED)
        wrong = j.all(self.results)
        print("        refusals judged:", ", ".join(f"{n} {kind}" for kind, n in sorted(j.judged.items())) or "none", flush=True)
        assert not wrong, f"refused though it fits, {len(wrong)} times: {wrong[:3]}"
        return j.judged

    def charged(self):
        return sum(r["charge_pusd"] for s in self.schedulers for r in s.rows())

    def ledgers(self, name):
        """What all ledgers know of this budget: spent, and how much of it is waste."""
        rows = [r for s in self.schedulers for r in totals(s)[0] if r[0] == name]
        return sum(r[2] for r in rows), sum(r[3] for r in rows)

    def close(self):
        self.stopped.set()
        if self.watch:
            self.watch.stop()
        for s in self.schedulers:
            s.close()
        self.redis.stop()
        self.up.stop()


def check_books(stage, name, billed, hard):
    b = stage.redis.budget(name)
    limit = hard + b["topped_up"]
    assert billed <= b["spent"] <= limit, f"overspent {name}: billed {billed}, booked {b['spent']}, limit {limit}"
    return b, limit


def test_hammer(args, seconds=None):
    """`org` has room for all that comes, so whoever is refused by it is refused wrongly; `lab` is used up meanwhile, and gets
    a little more now and then."""
    seconds = seconds or (120 if args.full else 6)
    lab, org = (2_000_000_000_000, 10**15) if seconds > 60 else (500_000_000_000, 10**14)
    budgets = [{"name": "org", "hard": usd(org)}, {"name": "lab", "match": ["model=n"], "hard": usd(lab)}]
    stage = Stage(args, budgets, WORD_S, {"org": org, "lab": lab}, dead_after="1s")
    try:
        more = TopUps(args, stage.schedulers, "lab", 8 * LEAST, 1.5, random.Random(5))
        kills = kill_at_random(stage.schedulers, stage.redis, seconds, random.Random(64))
        more.stop()
        wait_until(lambda: lab + stage.redis.budget("lab")["topped_up"] - stage.redis.budget("lab")["spent"] < LEAST,
                   120 if args.full else 20, "lab is used up: refused though it fits, or there is reserved what nobody has")
        wait_until(lambda: any(t.budget == "lab" for t in stage.results), 20, "somebody is refused by it")
        stage.end()
        b, _ = check_books(stage, "org", stage.up.billed, org)
        l, limit = check_books(stage, "lab", stage.up.of["n"], lab)
        served = sum(t.status == 200 for t in stage.results)
        print(f"        {kills[0]} times a scheduler and {kills[1]} times the Redis killed; {served} of {len(stage.results)} "
              f"answered, {sum(t.budget == 'lab' and not t.early for t in stage.results)} refused by lab; org: billed "
              f"{usd(stage.up.billed)}, spent {usd(b['spent'])}, {usd(b['waste'])} of it waste; lab: billed "
              f"{usd(stage.up.of['n'])}, spent {usd(l['spent'])} of {usd(limit)}", flush=True)
        assert stage.charged() <= b["spent"], "the ledgers charge more than the books say"
        assert not any(t.budget == "org" for t in stage.results), "refused though it fits"
        stage.judge()
        assert served > 50 and min(kills) > 0 and any(t.budget == "lab" for t in stage.results)
    finally:
        stage.close()


def test_used_up(args):
    """Without faults, until nothing is left: not a pico-dollar more, and nobody is refused while it fits."""
    limit = 600_000_000_000
    stage = Stage(args, [{"name": "org", "hard": usd(limit)}], WORD_S, {"org": limit})
    try:
        wait_until(lambda: limit - stage.redis.budget("org")["spent"] < LEAST, 20, "refused though it fits: it is used up")
        time.sleep(0.3)
        wait_until(lambda: any(t.budget and not t.early for t in stage.results), 20, "somebody is refused")
        stage.end()
        b, _ = check_books(stage, "org", stage.up.billed, limit)
        assert b["waste"] == 0, b
        spent, waste = stage.ledgers("org")
        assert spent == b["spent"] == stage.charged() + waste, (spent, waste, stage.charged(), b)
        assert {t.status for t in stage.results} <= {200, 429, 503}, {t.status for t in stage.results}
        judged = stage.judge()
        assert judged["at once"] + judged["after a wait"] > 0
    finally:
        stage.close()


def test_mutants(args):
    """The hammer can fail: with each of the planted mistakes it does, and says what is wrong."""
    survivors = []
    for m in budget_mutants.MUTANTS:
        with tempfile.TemporaryDirectory(prefix="spillway-mutant-") as folder:
            budget_mutants.build(m, args.build, folder)
            script = test_budgets_shared.__file__ if m.case == "test_dead" else os.path.abspath(__file__)
            p = subprocess.run([sys.executable, script, "--build", folder, "--only", m.case],
                               capture_output=True, text=True, timeout=200)
        found = [line for line in p.stdout.splitlines() if m.says in line and "Error" in line]
        print(f"        {m.what}: {found[0][:110] if found else 'SURVIVES'}", flush=True)
        if not found:
            survivors.append(m.what)
            print(p.stdout[-2000:])
    assert not survivors, f"the hammer does not find: {'; '.join(survivors)}"


def without_redis(args):
    """There is no redis-server to share anything in."""
    print("skipped: no redis-server")


if __name__ == "__main__":
    with_redis = [test_used_up, test_hammer] + ([test_mutants] if "--full" in sys.argv else [])
    main(__doc__, with_redis if shutil.which("redis-server") else [without_redis])
