"""The books of a real scheduler: it measures its nodes, closes hours that are over (also those it missed), divides an asset's
cost to the last pico-dollar among who used it; `ledger verify` and `report --reconcile` say so, and find what was changed; an
invoice is compared; what finance edits is dated, versioned and checked, and a locked month stays as it is."""

import contextlib
import csv
import os
import sqlite3
import subprocess
import tempfile

from harness import Scheduler, Upstream, main, node, request, wait_until

HOURS = 3  # that rows are dated back by
ASSET = '{"purchase":"87660","residual":"0","bought":"2020-01-01","years":50}'


def spillway(args, *words, expect=0):
    done = subprocess.run([os.path.join(args.build, "spillway"), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def query(path, sql, *values):
    with sqlite3.connect(path) as db:
        rows = db.execute(sql, values).fetchall()
        db.commit()
    db.close()
    return rows


def date_back(path):
    """What was just written is as if it had been some hours ago."""
    ns = HOURS * 3600 * 10**9
    query(path, f"UPDATE ledger SET accepted_ns = accepted_ns - {ns}, first_byte_ns = first_byte_ns - {ns}, finished_ns ="
                f" finished_ns - {ns}, leg_started_ns = leg_started_ns - {ns}, leg_ended_ns = leg_ended_ns - {ns}")
    query(path, f"UPDATE node_meters SET quarter_s = quarter_s - {HOURS * 3600}")


def closes(args):
    up = Upstream()
    with contextlib.ExitStack() as stack, Scheduler(args.build, [node("gpu1", up)]) as s:
        stack.callback(up.stop)
        for k in range(8):
            assert request(s.port, "POST", "/v1/chat/completions", {
                "model": "m", "messages": [{"role": "user", "content": f"number {k}"}], "stream": k % 2 == 0}).status == 200
        wait_until(lambda: len(s.rows()) == 8, 5, "rows")
        db = s.ledger_path
        spillway(args, "finance", "set", "asset", "gpu1", "--value", ASSET, "--from", "2020-01-01", "--db", db)
        s.terminate()
        assert query(db, "SELECT count(*) FROM node_meters WHERE node = 'gpu1' AND up_us > 0")[0][0] >= 1
        date_back(db)
        s.restart()
        wait_until(lambda: query(db, "SELECT count(*) FROM hours")[0][0] >= 1, 20, "the hour that was missed is closed")
        hours = query(db, "SELECT bill_pusd, allocated_pusd + idle_pusd + boot_pusd + waste_pusd + variance_pusd,"
                          " allocated_pusd, requests, problems FROM hours")
        assert all(h[0] == h[1] and h[4] is None for h in hours), hours
        assert sum(h[2] for h in hours) > 0 and sum(h[3] for h in hours) == 8, hours
        check_commands(args, s, db)


def check_commands(args, s, db):
    hour, bill = query(db, "SELECT hour_s, bill_pusd FROM node_hours WHERE bill_pusd > 0")[0]
    assert abs(bill - 87660 * 10**12 * 3600 // (50 * 31556952)) <= 1, bill
    assert "the books close" in spillway(args, "ledger", "verify", "--db", db)
    assert "the books close" in spillway(args, "report", "--reconcile", "--db", db)
    with tempfile.TemporaryDirectory() as folder:
        for cost, expect in ((bill, 0), (bill * 2, 1)):
            path = os.path.join(folder, "invoice.csv")
            with open(path, "w", newline="") as f:
                w = csv.writer(f)
                w.writerow(["BilledCost", "BillingCurrency", "ChargePeriodStart", "ChargePeriodEnd", "ProviderName",
                            "ResourceId"])
                total = query(db, "SELECT sum(bill_pusd) FROM node_hours")[0][0]
                w.writerow([f"{(total * cost // bill) // 10**12}.{(total * cost // bill) % 10**12:012d}", "USD",
                            "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", "static", "gpu1"])
            out = spillway(args, "report", "--reconcile", "--invoice", path, "--db", db, expect=expect)
            assert ("do NOT close" in out) == bool(expect), out
    first = s.rows()[0]["request_id"]
    spillway(args, "finance", "correct", first, "--amount", "-0.25", "--reason", "an outage", "--db", db)
    assert query(db, "SELECT request_id, charge_pusd FROM corrections") == [(first, -25 * 10**10)]
    spillway(args, "finance", "lock", "2026-01", "--db", db)
    assert "locked" in spillway(args, "finance", "set", "rent", "x", "--value", '{"hour":"1"}', "--from", "2026-01-15",
                                "--db", db, expect=1)
    assert "output: is missing" in spillway(args, "finance", "set", "price", "x", "--value", '{"input":"1"}', "--db", db,
                                            expect=2)
    query(db, "UPDATE ledger SET charge_pusd = charge_pusd + 1 WHERE request_id = ?", first)
    out = spillway(args, "ledger", "verify", "--db", db, expect=1)
    assert first in out and "the roll-up is not the sum of its rows" in out, out


if __name__ == "__main__":
    main(__doc__, [closes])
