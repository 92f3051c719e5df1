#!/usr/bin/env python3
# runtest: alone
"""One day with the real programs on a clock 144 times as fast (tests/fault/fastclock.c): two engines of our own, two on spot
machines of the fake EC2 that are taken back now and then, an API; three teams, of which one uses its budget up; quiet hours in
which engines sleep; then midnight, and the nightly report. Nobody who may spend fails, refusals name their budget, nothing is
overspent, hours asleep are in the books, and report, ledger, budgets and bills agree to the pico-dollar. The last three hours of
it, a minute and a half; --full: all of it, ten minutes; FASTDAY_HOURS=2: as many. Alone, since a tenth of a second in
which an engine gets no processor is a quarter of a minute here, for which it cannot account; while nobody gets one, the
clock stands still."""

import array
import atexit
import contextlib
import datetime
import json
import mmap
import os
import subprocess
import tempfile
import threading
import time
import types
from decimal import Decimal

from ec2_stage import KEYS, POOL, SETTINGS  # finds the fakes as well
import fake_cloud
from harness import Scheduler, Skip, Upstream, chat, key_hash, listens, main, node, request, wait_until
from test_books import query
from test_capacity import MODEL
from test_reports import Hook

FACTOR = 144
QUIET_H = 22  # from then until six in the morning
TEAMS = ("search", "ads", "ops")
OPS_USD = "0.0004"


class Clock:
    """The fast one, for what runs in this process, and whoever has env(): it goes on as long as a thread of ours comes to
    run."""

    MOST_NS = 30_000_000  # so long without it, and the clock waits

    def __init__(self, begin_s):
        self.begin_s, self.mono_ns = begin_s, time.monotonic_ns()
        self.file = tempfile.NamedTemporaryFile(prefix="spillway-clock-")
        self.file.truncate(mmap.PAGESIZE)
        self.page = mmap.mmap(self.file.fileno(), mmap.PAGESIZE)
        self.words = memoryview(self.page).cast("q")  # struct beat of fastclock.c
        self.n, self.at = 0, (self.mono_ns, 0)
        self.words[:4] = array.array("q", [0, self.MOST_NS, *self.at])
        threading.Thread(target=self._beat, daemon=True).start()
        atexit.register(self.file.close)  # its thread never lets go of it

    def _elapsed_ns(self, at, now):
        return at[1] + min(max(now - at[0], 0), self.MOST_NS) * FACTOR

    def _beat(self):
        while True:
            now = time.monotonic_ns()
            at = (now, self._elapsed_ns(self.at, now))
            k = 2 + 2 * ((self.n + 1) & 1)
            self.words[k], self.words[k + 1] = at
            self.n, self.at = self.n + 1, at
            self.words[0] = self.n
            time.sleep(0.002)

    def time(self):
        return self.begin_s + self._elapsed_ns(self.at, time.monotonic_ns()) / 1e9

    def env(self, args):
        return {"LD_PRELOAD": os.path.join(args.build, "tests", "fastclock.so"),
                "FASTCLOCK": f"{FACTOR}:{self.begin_s}:{self.mono_ns}:{self.file.name}"}

    def sleep_until(self, at_s):
        while (left := (at_s - self.time()) / FACTOR) > 0:
            time.sleep(left)


class Engine:
    """What runs on an instance."""

    def __init__(self, args, key_file, instance, env):
        self.process = subprocess.Popen(
            [os.path.join(args.build, "spillway-engine"), "serve", "--model", os.path.abspath(MODEL), "--host", instance.ip,
             "--port", "8080", "--alias", "tiny", "--threads", "1", "--node-key-file", key_file, "--no-supervisor"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **env})

    def stop(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def cloud(args, clock, key_file):
    fake_cloud.time = types.SimpleNamespace(time=clock.time, sleep=time.sleep, monotonic=time.monotonic)
    fake = fake_cloud.FakeCloud(1.0, 60.0, start_machine=lambda _, i: Engine(args, key_file, i, clock.env(args)))
    fake.keys[KEYS["AWS_ACCESS_KEY_ID"]] = (KEYS["AWS_SECRET_ACCESS_KEY"], None)
    for kind in ("g5.xlarge", "g6.xlarge"):
        for zone in "ab":  # whole micro-dollars per second, so that hours add up without a remainder
            fake.cloud.add_pool("us-east-1" + zone, kind, price="0.36", on_demand="1.08")
    try:
        yield fake
    finally:
        fake.close()
        fake_cloud.time = time


def settings(fake, hook, key_file):
    own = {**POOL, "on_demand_prices": "g5.xlarge=1.08,g6.xlarge=1.08", "markets": "spot",
           "model_url": "https://models.example/tiny.gguf", "model_sha256": "0" * 64,
           "engine_url": "https://models.example/engine", "engine_sha256": "0" * 64}
    pool = {"name": "gpu", "provider": "aws", "models": ["tiny"], "min": 2, "max": 2, "tokens_per_s": 400, "slots": 4,
            "boot": "10m", "billing_min": "1m", "price": {"input": "0.2", "cached_input": "0.2", "output": "0.6"},
            "node_key_file": key_file, "settings": own}
    return {
        "providers": [{"name": "aws", "type": "ec2", "settings": {**SETTINGS, "poll": "5s", "call_deadline": "300s",
                                                                   "endpoint": fake.url}}],
        "capacity": {"interval": "30s", "max_nodes": 4, "max_hour": "9", "launches_per_min": 100, "down_after": "30m",
                     "drain": "5m", "sweep": "60s", "stray_grace": "10m", "pools": [pool]},
        "health": {"interval": "4s", "timeout": "4s"}, "queue": {"interactive": {"wait": "30m", "max": 1000}},
        "timeouts": None, "power": {"keep_warm": 1}, "energy": {"price": '"0.30"'},
        "budgets": [{"name": f"team-{t}", "match": [f"team={t}"], "period": "month",
                     "hard": f'"{OPS_USD if t == "ops" else 100}"'} for t in TEAMS],
        "reports": {"at": '"00:15"', "formats": ["json", "csv"], "webhook": {"url": hook.url}},
    }


def own_engine(name):
    return {"name": name, "provider": "process", "model_path": os.path.abspath(MODEL), "models": ["tiny"], "threads": 1,
            "slots": 2, "watts": 60, "price": {"input": "0.1", "cached_input": "0.1", "output": "0.3"},
            "power": {"idle_watts": 40, "sleep_watts": 1, "sleep_wake": "5m"}}


class Team(threading.Thread):
    """Asks, all day; in the quiet hours now and then."""

    def __init__(self, clock, port, name, end_s):
        super().__init__(daemon=True)
        self.clock, self.port, self.team, self.end_s, self.answers = clock, port, name, end_s, []

    def run(self):
        n = 0
        while self.clock.time() < self.end_s:
            n += 1
            try:
                a = chat(self.port, f"{self.team} asks for the {n}th time", key=f"key-{self.team}", model="tiny", max_tokens=12,
                         stream=n % 2 == 0, headers={"x-spillway-cache": "off"}, timeout=60)
                self.answers.append((a.status, a.body[:300], a.complete))
            except (OSError, AssertionError) as e:
                self.answers.append((0, repr(e), False))
            now = self.clock.time()
            hour = int(now) // 3600 % 24
            self.clock.sleep_until(now + (1800 if hour >= QUIET_H or hour < 6 else 90))


def preemptions(clock, fake, end_s):
    taken = 0
    while clock.time() < end_s:
        clock.sleep_until(clock.time() + 2400)
        alive = fake.alive()
        if len(alive) == 2 and clock.time() < end_s:
            fake.control("preempt", {"id": alive[taken % 2].id, "notice_s": 120})
            taken += 1
    return taken


def sums(s, report, begin_s, midnight):
    """Report, ledger, budgets: the same pico-dollars."""
    rows = s.rows()
    assert all(begin_s * 10**9 <= r["finished_ns"] < midnight * 10**9 for r in rows)
    charged = sum(r["charge_pusd"] for r in rows)
    assert Decimal(report["now"]["use"]["charge_usd"]) == Decimal(charged) / 10**12, (report["now"]["use"], charged)
    assert report["now"]["use"]["requests"] == len(rows)
    budgets = request(os.path.join(s.folder, "state", "admin.sock"), "GET", "/admin/v1/budgets").json()["budgets"]
    for b in budgets:
        team = b["name"].removeprefix("team-")
        spent = Decimal(sum(r["charge_pusd"] for r in rows if r["team"] == team)) / 10**12
        assert Decimal(b["spent_usd"]) == spent and spent <= Decimal(b["hard_usd"]), (b, spent)
    return charged


def unnoticed_pusd(s, fake):
    """What instances would have cost from their ends until that was known: a node that is gone counts as watched for so long,
    and for so long, at most all of it, nobody accounts for its successor's boot."""
    seen = {x["id"]: datetime.datetime.fromisoformat(x["time"].replace("Z", "+00:00")).timestamp() for x in s.log_lines()
            if x.get("message") == "instance is gone"}
    late_s = sum(min(max(0, seen[i.id] - i.ended), fake.cloud.boot_s) for i in fake.cloud.instances.values()
                 if i.ended and i.id in seen)
    return int(late_s * 0.36e12 / 3600)


def closes(args, db, unnoticed):
    """Each hour's parts are its bill. A process that starts takes milliseconds, here a second or two each, of which no engine can
    tell; so the variance is held to its bound over the day, and an hour with several starts may pass it. How late an end is
    noticed is the machine's doing: half a second is more than a minute here, and the short form is run on any machine."""
    parts = "allocated_pusd + idle_pusd + boot_pusd + waste_pusd + variance_pusd"
    assert query(db, f"SELECT count(*) FROM node_hours WHERE bill_pusd <> {parts}")[0][0] == 0
    bill, variance = query(db, "SELECT sum(bill_pusd), sum(abs(variance_pusd)) FROM node_hours")[0]
    done = subprocess.run([os.path.join(args.build, "spillway"), "report", "--reconcile", "--db", db, "--from", "2026-12-09",
                           "--to", "2026-12-11"], capture_output=True, text=True, timeout=60)
    known = ("  ", "the books", "more than 0.5 %")
    odd = [x for x in done.stdout.splitlines() if not x.startswith(known) and " hours closed, " not in x]
    assert not odd and done.stdout, done.stdout + done.stderr
    above = done.stdout.count("more than 0.5 %")
    print("        variance %.3f %% of the bills, %d hours of nodes above the bound; while ends were not noticed: %.3f %%" % (
        100 * variance / bill, above, 100 * unnoticed / bill))
    assert (variance - (0 if args.full else unnoticed)) * 200 <= bill, (variance, unnoticed, bill)


def day(args):
    hours = int(os.environ.get("FASTDAY_HOURS", "24" if args.full else "3"))
    if args.sanitized:
        raise Skip("in the release build alone: the clock is too fast for sanitizers")
    if not os.path.exists(os.path.join(args.build, "tests", "fastclock.so")):
        raise Skip("tests/fastclock.so is not built")
    midnight = int(datetime.datetime(2026, 12, 11, tzinfo=datetime.timezone.utc).timestamp())
    clock, hook, api = Clock(midnight - hours * 3600), Hook(), Upstream("api")
    key_file = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"spillway-day-{os.getpid()}")
    with open(key_file, "w") as f:
        f.write("k" * 64 + "\n")
    os.chmod(key_file, 0o600)
    keys = [{"id": f"{t}-1", "sha256": key_hash(f"key-{t}"), "tenant": "acme", "team": t} for t in TEAMS]
    with contextlib.ExitStack() as stack:
        for end in (hook.stop, api.stop, lambda: os.unlink(key_file)):
            stack.callback(end)
        fake = stack.enter_context(cloud(args, clock, key_file))
        config = settings(fake, hook, key_file)
        config.pop("timeouts")
        nodes = [own_engine("own1"), own_engine("own2"),
                 node("api", api, models=["tiny"], price=("2", "2", "8"), local="false")]
        s = stack.enter_context(Scheduler(args.build, nodes, keys=keys, env={**KEYS, **clock.env(args)}, **config))
        socket = os.path.join(s.folder, "state", "admin.sock")
        wait_until(lambda: listens(socket), 10, "the admin API listens")
        s.ready(20)
        last_s = midnight - 900
        teams = [Team(clock, s.port, t, last_s) for t in TEAMS]
        for t in teams:
            t.start()
        taken = preemptions(clock, fake, last_s - 1800)
        for t in teams:
            t.join(120)
        print("        %d preemptions; answers: %s" % (taken, {t.team: len(t.answers) for t in teams}))
        clock.sleep_until(midnight + 1200)
        # A day that begins at midnight has the night before it as well.
        notice = wait_until(lambda: next((n for _, body in hook.calls for n in [json.loads(body)]
                                          if n["period"] == "2026-12-10"), None), 60, "the nightly report")
        assert notice["open_hours"] == 0, notice
        with open(os.path.join(s.folder, "state", "reports", "spillway-2026-12-10.json")) as f:
            report = json.load(f)
        failed = {t.team: [a for a in t.answers if a[0] != 200 or not a[2]] for t in teams}
        assert not failed["search"] and not failed["ads"], {k: v[:3] for k, v in failed.items()}
        odd = [a for a in failed["ops"] if a[0] != 429 or b"team-ops" not in a[1]]
        assert failed["ops"] and not odd, (len(failed["ops"]), odd[:3])
        assert taken >= 1
        charged = sums(s, report, clock.begin_s, midnight)
        bill = fake.cloud.bill(midnight)
        parts = query(s.ledger_path, "SELECT sum(bill_pusd), sum(asleep_us), sum(CASE WHEN node LIKE 'gpu-%' THEN bill_pusd END)"
                                     " FROM node_hours WHERE hour_s < ?", midnight)[0]
        assert Decimal(report["now"]["cost"]["bill_usd"]) == Decimal(parts[0]) / 10**12, (report["now"]["cost"], parts)
        assert parts[2] == bill, ("EC2 says", bill, "the books", parts[2])
        assert parts[1] > 3600 * 10**6, ("asleep", parts[1])
        closes(args, s.ledger_path, unnoticed_pusd(s, fake))
        print("        charged $ %s, bills $ %s of which EC2 $ %s, asleep %.1f h" % (
            Decimal(charged) / 10**12, Decimal(parts[0]) / 10**12, Decimal(bill) / 10**12, parts[1] / 3.6e9))


if __name__ == "__main__":
    main(__doc__, [day])
