"""What the tests of the books share: clients that load a scheduler and remember what they were told and when, and the
comparison of that with what the ledger holds."""

import collections
import decimal
import glob
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Connection  # noqa: E402

PUSD = 10**12

# One request whose whole answer has arrived. at: CLOCK_MONOTONIC in ns, when it had.
Told = collections.namedtuple("Told", "at id input cached output charge streamed")


def told_by(a, streamed):
    """What an answer says of itself, or None: it did not arrive whole."""
    if a.status != 200 or not a.complete or (streamed and (not a.events or a.events[-1][1] != "[DONE]")):
        return None
    usage = a.usage()
    charge = a.chunks()[-1]["spillway"]["charge_usd"] if streamed else a.headers["x-spillway-charge-usd"]
    return Told(time.monotonic_ns(), a.headers["x-request-id"], usage["prompt_tokens"],
                usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"],
                int(decimal.Decimal(charge) * PUSD), streamed)


class Load:
    """Clients at a port, until stop(). Every request is another."""

    def __init__(self, port, clients=8, models=("m",), key=None):
        self.told, self.broken, self.sent = [], 0, 0
        self.stopped = False
        self.threads = [threading.Thread(target=self._run, args=(port, models, key, k), daemon=True) for k in range(clients)]
        for t in self.threads:
            t.start()

    def _run(self, port, models, key, k):
        rng = random.Random(k)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        while not self.stopped:
            self.sent += 1
            streamed = rng.random() < 0.5
            body = {"model": rng.choice(models), "max_tokens": 16,
                    "messages": [{"role": "user", "content": "x" * rng.randrange(1, 2000)}], "stream": streamed}
            if streamed:
                body["stream_options"] = {"include_usage": True}
            named = {"Idempotency-Key": f"{k}-{time.monotonic_ns()}"} if rng.random() < 0.3 else {}
            try:
                answer = Connection(port, "POST", "/v1/chat/completions", body, {**headers, **named}, timeout=20).all()
                told = told_by(answer, streamed)
            except (OSError, AssertionError, ValueError, KeyError, IndexError):
                told = None
            if told:
                self.told.append(told)
            else:
                self.broken += 1
                time.sleep(0.005)

    def stop(self):
        """Everything that was told, when all of it is in."""
        self.stopped = True
        for t in self.threads:
            t.join()
        return self.told


def read_books(path):
    """({request_id: [rows]}, {request_id: [legs]}) of a ledger's file, whose integrity is checked."""
    rows, legs = collections.defaultdict(list), collections.defaultdict(list)
    db = sqlite3.connect(path, timeout=10)
    try:
        db.row_factory = sqlite3.Row
        assert [r[0] for r in db.execute("pragma integrity_check")] == ["ok"], path
        for table, into in (("ledger", rows), ("legs", legs)):
            for r in db.execute(f"select * from {table}"):
                into[r["request_id"]].append(r)
    finally:
        db.close()
    return rows, legs


def compare(books, told):
    """Everything that was told is there, once and as it was told; nothing is there by half."""
    rows, legs = books
    for t in told:
        assert len(rows.get(t.id, ())) == 1, f"{len(rows.get(t.id, ()))} rows of {t}"
        r = rows[t.id][0]
        is_told = (r["tokens_input"], r["tokens_cached_input"], r["tokens_output"], r["charge_pusd"], r["streamed"])
        assert is_told == (t.input, t.cached, t.output, t.charge, t.streamed), (t, dict(r))
        assert (r["outcome"], r["http_status"]) == (0, 200), dict(r)
    for identifier, found in rows.items():
        assert len(found) == 1, dict(found[0])
        numbers = sorted(leg["leg"] for leg in legs.get(identifier, ()))
        assert numbers == list(range(1, found[0]["attempts"] + 1)), (dict(found[0]), numbers)
        assert sum(leg["tokens_output"] for leg in legs[identifier]) == found[0]["tokens_output"], dict(found[0])
    orphans = set(legs) - set(rows)
    assert not orphans, f"legs without a row: {sorted(orphans)[:3]}"


def audit_records(s):
    """Every record of a scheduler's chain, in order."""
    out = []
    for path in sorted(glob.glob(os.path.join(s.folder, "state", "audit", "*.audit"))):
        with open(path, "rb") as f:
            out += [json.loads(line.split(b" ", 3)[3]) for line in f.read().split(b"\n")[:-1]]
    return out


def audit_compare(s, told):
    """The chain verifies; what was told has its record, each row exactly one, and a record without a row is declared void.
    Returns how many records were recovered, and how many are void."""
    p = subprocess.run([s.program, "audit", "verify", "--config", s.config_path], capture_output=True, text=True, cwd=s.folder)
    assert p.returncode == 0, p.stdout + p.stderr
    by_id = collections.defaultdict(list)
    for r in audit_records(s):
        if r["k"] in ("request", "void"):
            by_id[r["id"]].append(r)
    rows = read_books(s.folded().ledger_path)[0]
    for t in told:
        (r,) = by_id[t.id]
        assert "recovered" not in r and "response_hmac" in r and (r["in"], r["out"]) == (t.input, t.output), (t, r)
    for identifier in rows:
        assert len([r for r in by_id[identifier] if r["k"] == "request"]) == 1, (identifier, by_id[identifier])
    for identifier, found in by_id.items():
        assert identifier in rows or any(r["k"] == "void" for r in found), f"{identifier} has a record and no row"
    return sum("recovered" in r for x in by_id.values() for r in x), sum(r["k"] == "void" for x in by_id.values() for r in x)


READY_S = 1.0  # from the start of the process until it takes requests


def check_ready(args, durations):
    """In the short form, which runs beside other tests on a machine that now and then stands still, a quarter of them
    tells whether it is the program that takes long."""
    d = sorted(durations)
    longest = d[-1] if args.full else d[len(d) // 4]
    assert args.sanitized or longest < READY_S, f"ready only after {longest:.2f} s"


def summary(name, durations):
    d = sorted(durations)
    return f"{name}: median {d[len(d) // 2] * 1000:.0f} ms, longest {d[-1] * 1000:.0f} ms"
