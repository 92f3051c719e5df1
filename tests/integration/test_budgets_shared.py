"""Budgets that several daemons share through a real Redis: the user of docs/OPERATIONS.md is allowed enough and nothing
else; a Redis that would forget is refused at the start; one that is lost, slow, read-only, emptied, or restored grants
nothing wrong and comes back; leases; dead schedulers; limits and top-ups of one are those of all; metrics and status."""

import os
import re
import shutil
import signal
import subprocess
import time
from decimal import Decimal

import harness
from harness import Scheduler, chat, main, node, until_quick, wait_until
from redis_server import Redis
from test_budgets import BOUND, INPUT, PRICE, PROMPT, Meter, cli, usd

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COST = (len(PROMPT) // 4 + 4) * INPUT + 3 * 10_000_000  # what the upstream bills for one request of these


class Stage:
    """A Redis, an upstream, and schedulers that share a budget."""

    def __init__(self, args, n=2, hard="1", redis=(), tokens=3, slots=8, **store):
        self.redis, self.up, self.schedulers = Redis(*redis), Meter(tokens=tokens), []
        self.budgets = [{"name": "b", "hard": hard}]
        self.store = {"kind": "redis", "address": f"127.0.0.1:{self.redis.port}", "ledgers": n, "dead_after": "30s",
                      **store}
        self.nodes = [node("a", self.up, price=PRICE, slots=slots)]
        try:
            wait_until(self.is_there, 10, "redis answers")
            for _ in range(n):
                self.schedulers.append(Scheduler(args.build, self.nodes, budgets=self.budgets, budget_store=self.store))
            for s in self.schedulers:
                s.ready()
        except BaseException:
            self.close()
            raise

    def is_there(self):
        try:
            return self.redis.ask("PING") == "PONG"
        except OSError:
            return False

    def open(self, seconds=10):
        for s in self.schedulers:
            wait_until(lambda s=s: s.metrics()["spillway_budget_store_open"] == 1, seconds, "its budgets can be asked")

    def settled(self):
        wait_until(lambda: self.redis.budget("b")["reserved"] == 0, 10, "nothing is reserved")
        return self.redis.budget("b")

    def close(self):
        for s in self.schedulers:
            s.close()
        self.redis.stop()
        self.up.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(s, **more):
    return chat(s.port, PROMPT, max_tokens=3, **more)


def test_least_privilege(args):
    """The line of the manual: everything works, nothing else is asked for, and nothing else is allowed."""
    with open(os.path.join(ROOT, "docs", "OPERATIONS.md"), encoding="utf-8") as f:
        line = re.search(r"^ +(ACL SETUSER spillway .*)$", f.read(), re.M).group(1).replace("PASSWORD", "s3cret")
    with Stage(args, n=0) as stage:
        stage.redis.ask(*line.split())
        password = os.path.join(stage.redis.folder, "password")
        with open(password, "w") as f:
            f.write("s3cret\n")
        stage.store.update(ledgers=2, username="spillway", password_file=password)
        for _ in range(2):
            stage.schedulers.append(Scheduler(args.build, stage.nodes, budgets=stage.budgets, budget_store=stage.store))
        for s in stage.schedulers:
            s.ready()
        stage.open()
        a, b = stage.schedulers
        assert ask(a).status == ask(b, stream=True).status == 200
        assert cli(args, a, "topup", "b", "0.5")[0] == cli(args, b, "set", "b", "--hard", "2")[0] == 0
        assert cli(args, b, "list")[0] == 0
        b.kill()
        stage.redis.ask("FLUSHALL")
        b.restart()
        wait_until(lambda: ask(a).status == ask(b).status == 200, 10, "it is rebuilt")
        stage.settled()
        assert stage.redis.ask("ACL", "LOG") == [], "it was refused something"
        with stage.redis.connect() as c:
            assert c.ask("AUTH", "spillway", "s3cret") == "OK"
            for words in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "appendonly", "no"), ("GET", "other")):
                try:
                    c.ask(*words)
                    raise AssertionError(f"{words} is allowed")
                except OSError as e:
                    assert "NOPERM" in str(e), e


def test_forgetful(args):
    """At the start: what to set is said, and the scheduler ends. Later: nothing is granted until it is right again."""
    with Stage(args, n=1) as stage:
        stage.open()
        s = stage.schedulers[0]
        assert ask(s).status == 200
        stage.redis.ask("CONFIG", "SET", "appendfsync", "everysec")
        s.terminate()
        p = subprocess.run([os.path.join(args.build, "spillway"), "serve", "--config", s.config_path], cwd=s.folder,
                           capture_output=True, text=True, timeout=20)
        assert p.returncode != 0 and "appendfsync always" in p.stderr + p.stdout, (p.returncode, p.stderr)
        stage.redis.ask("CONFIG", "SET", "appendfsync", "always")
        s.restart()
        s.ready()
        stage.open()
        stage.redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        stage.redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until(lambda: s.metrics()["spillway_budget_store_open"] == 0, 10, "it is seen")

        def says_why():  # once it has a connection again, which it looks over
            a = ask(s)
            assert a.status == 503, a.body
            return "noeviction" in a.body.decode()

        wait_until(says_why, 10, "what to set is said")
        stage.redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        stage.open(15)
        assert ask(s).status == 200


def test_lost(args):
    """fail_closed: 503 while it is away, in time; then everything goes on, and what was spent is all there."""
    with Stage(args, n=2, timeout="1s") as stage:
        stage.open()
        a, b = stage.schedulers
        answers = [ask(a), ask(b)]
        stage.redis.kill()

        def refused():
            begin = time.monotonic()
            lost = ask(a)
            assert lost.status == 503 and lost.json()["error"]["code"] == "budgets_unavailable", lost.body
            return time.monotonic() - begin

        until_quick(refused, 10 if args.sanitized else 2)
        wait_until(lambda: a.metrics()["spillway_budget_store_open"] == 0, 5, "it is counted")
        p = subprocess.run([os.path.join(args.build, "spillway"), "status", "--config", a.config_path], capture_output=True,
                           text=True, timeout=20)
        assert "redis open to 0 of 1 workers: the Redis" in p.stdout, p.stdout + p.stderr
        assert a.metrics()["spillway_budget_store_refused_total"] >= 1
        stage.redis.start()
        stage.open()
        answers += [ask(a), ask(b)]
        assert [x.status for x in answers] == [200] * 4, [x.status for x in answers]
        assert stage.settled()["spent"] == stage.up.billed == 4 * COST


def test_slow_and_read_only(args):
    """One that answers too late, or has become a replica: nothing is granted, nothing stays reserved."""
    with Stage(args, n=1, timeout="150ms") as stage:
        stage.open()
        s = stage.schedulers[0]
        stage.redis.process.send_signal(signal.SIGSTOP)
        assert ask(s).status == 503
        assert s.metrics()["spillway_budget_store_timeouts_total"] >= 1
        stage.redis.process.send_signal(signal.SIGCONT)
        wait_until(lambda: ask(s).status == 200, 10, "it is fast again")
        assert stage.settled()["spent"] == stage.up.billed
        stage.redis.ask("REPLICAOF", "127.0.0.1", "1")
        wait_until(lambda: ask(s).status == 503 and "READONLY" in s.log_text(), 5, "the log says why")
        stage.redis.ask("REPLICAOF", "NO", "ONE")
        wait_until(lambda: ask(s).status == 200, 10, "it can be written")
        assert stage.settled()["spent"] == stage.up.billed


def test_leases(args):
    """fail_open: while the Redis is away requests go on, up to what was reserved beforehand and not a request further; what
    they spent is booked afterwards, and the other one could not spend it meanwhile."""
    allowance = 3 * BOUND * INPUT
    with Stage(args, n=2, hard=usd(20 * BOUND * INPUT), on_loss="fail_open", allowance_usd=usd(allowance),
               timeout="1s") as stage:
        stage.open()
        a, b = stage.schedulers
        assert ask(a).status == ask(b).status == 200
        wait_until(lambda: stage.redis.budget("b")["reserved"] == 2 * allowance, 5, "both have leased")
        stage.redis.kill()
        wait_until(lambda: a.metrics()["spillway_budget_store_open"] == 0, 5, "it is seen")
        before, granted = stage.up.billed, 0
        while ask(a).status == 200:
            granted += 1
            assert stage.up.billed - before <= allowance, "more than was leased"
        assert granted >= 2 and a.metrics()["spillway_budget_store_leased_total"] == granted
        used = stage.up.billed - before  # the last answer may have been cut to what was left
        assert (granted - 1) * COST < used <= allowance, (used, granted, allowance)
        stage.redis.start()
        stage.open()
        wait_until(lambda: stage.redis.budget("b")["spent"] == stage.up.billed, 10, "it is booked")
        assert ask(b).status == ask(a).status == 200


def test_emptied(args):
    """Its data is gone while requests run: closed until both ledgers have told their part; then nothing is forgotten, nor
    what was changed by hand."""
    with Stage(args, n=2, hard="1") as stage:
        stage.open()
        a, b = stage.schedulers
        assert [ask(s).status for s in (a, b, a)] == [200] * 3
        assert cli(args, b, "topup", "b", "0.25")[0] == cli(args, a, "set", "b", "--hard", "0.75")[0] == 0
        spent = stage.settled()["spent"]
        b.terminate()
        stage.redis.ask("FLUSHALL")
        wait_until(lambda: ask(a).status == 503, 10, "it is closed")
        assert a.metrics()["spillway_budget_store_open"] == 0
        b.restart()
        stage.open(15)
        after = stage.settled()
        assert after["spent"] == spent == stage.up.billed and after["topped_up"] == 250_000_000_000, after
        # What the manual says of a backup that was restored: without its epoch the data counts for nothing.
        stage.redis.ask("DEL", "spillway:{budgets}:1:epoch")
        wait_until(lambda: ask(a).status == ask(b).status == 200, 15, "it is rebuilt")
        assert stage.settled() and a.metrics()["spillway_budget_store_rebuilds_total"] == 3
        rc, out, err = cli(args, a, "show", "b", "--format", "json")
        shown = re.search(r'"spent_usd":"([0-9.]+)"', re.sub(r"\s", "", out)).group(1)
        assert Decimal(shown) * 10**12 == stage.up.billed, (shown, stage.up.billed)
        assert rc == 0 and '"hard_usd":"0.75"' in re.sub(r"\s", "", out), out + err


def test_one_limit_for_all(args):
    """What is set or topped up through one scheduler holds for the other; one limit that is set leaves the other alone."""
    with Stage(args, n=2, hard=usd(BOUND * INPUT // 2)) as stage:
        stage.open()
        a, b = stage.schedulers
        assert ask(a).status == ask(b).status == 429
        assert cli(args, a, "topup", "b", usd(BOUND * INPUT))[0] == 0
        wait_until(lambda: ask(b).status == 200, 5, "it is heard of")
        for limit in ("--soft", "--hard"):
            rc, out, err = cli(args, b, "set", "b", limit, "7")
            assert rc == 0, err
        rc, out, err = cli(args, a, "show", "b", "--format", "json")
        shown = re.sub(r"\s", "", out)
        assert '"hard_usd":"7.00"' in shown and '"soft_usd":"7.00"' in shown, out
        assert cli(args, a, "set", "b", "--soft", "config")[0] == 0
        out = re.sub(r"\s", "", cli(args, b, "show", "b", "--format", "json")[1])
        assert '"soft_usd":null' in out and '"hard_usd":"7.00"' in out, out


def test_dead(args):
    """A scheduler dies with streams under way: what they had been granted is spent, as waste, by the others' doing."""
    with Stage(args, n=2, tokens=3000, dead_after="1s") as stage:
        stage.up.delay = 0.005
        stage.open()
        a, b = stage.schedulers
        running = [harness.Connection(a.port, "POST", "/v1/chat/completions",
                                      {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": True})
                   for _ in range(3)]
        wait_until(lambda: stage.up.billed > 3 * 40 * 10_000_000, 10, "they run")
        stage.up.freeze(running)
        granted = stage.redis.budget("b")["reserved"]
        a.kill()
        stage.up.frozen = False
        for c in running:
            c.close()
        books = wait_until(lambda: (lambda x: x if not x["reserved"] else None)(stage.redis.budget("b")), 20, "they are buried")
        assert books["waste"] == books["spent"] >= max(granted, stage.up.billed), (books, granted, stage.up.billed)
        wait_until(lambda: b.metrics()["spillway_budget_store_buried_total"] == 3, 5, "it has heard what it did")


def without_redis(_):
    """There is no redis-server to share anything in."""
    raise harness.Skip("no redis-server")


if __name__ == "__main__":
    cases = [test_least_privilege, test_forgetful, test_lost, test_slow_and_read_only, test_leases, test_emptied,
             test_one_limit_for_all, test_dead]
    main(__doc__, cases if shutil.which("redis-server") else [without_redis])
