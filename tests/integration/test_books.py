"""The books of a real scheduler: it measures its nodes, closes hours that are over (also those it missed), divides an asset's
cost to the last pico-dollar among who used it; `ledger verify` and `report --reconcile` say so, and find what was changed; an
invoice is compared; what finance edits is dated, versioned and checked, and a locked month stays as it is. Its prices are what
requests are charged by, whether they are set at the admin API, by the command line or with no scheduler running, and the audit has
each change; rows are exported, backed up, moved to archives; standard rates earn the bill. A full disk refuses work, or fills a
spool that is replayed: nothing is lost. --full: the disk is full 50 times."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from books import Load, compare, read_books  # noqa: E402
from harness import Scheduler, Skip, Upstream, chat, main, node, request, wait_until  # noqa: E402

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
        closed = lambda: query(db, "SELECT sum(requests) FROM hours")[0][0] == 8  # noqa: E731: they may be of two
        wait_until(closed, 20, "the hour that was missed is closed")
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


def admin(s, method, path, body=None):
    return request(os.path.join(s.folder, "state", "admin.sock"), method, path, body)


def on(s, *words, expect=0):
    """The command beside the scheduler: in its folder, by its configuration."""
    done = subprocess.run([s.program, *words, "--config", s.config_path], capture_output=True, text=True, cwd=s.folder, timeout=60)
    assert done.returncode == expect, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


def records(s, text):
    """Of the audit, that say so."""
    folder = os.path.join(s.folder, "state", "audit")
    return sum(text in open(os.path.join(folder, f), errors="replace").read() for f in os.listdir(folder) if f.endswith(".audit"))


def charged(s):
    answer = chat(s.port)
    assert answer.status == 200
    row = s.row(answer.headers["x-request-id"])
    return row["price_version"], row["price_output_uusd_per_mtok"] / 1e6


def finance_prices_are_charged(args):
    up = Upstream()
    with contextlib.ExitStack() as stack, Scheduler(args.build, [node("gpu1", up)]) as s:
        stack.callback(up.stop)
        s.ready()
        assert charged(s) == (0, 1.5)
        made = admin(s, "POST", "/admin/v1/finance", {"kind": "price", "subject": "m", "who": "alice",
                                                       "value": {"input": "1", "output": "2.25"}, "reason": "a new list"})
        assert made.status == 201, made.body.decode()
        first = made.json()["version"]
        wait_until(lambda: charged(s) == (first, 2.25), 5, "the model's price")
        out = on(s, "finance", "set", "rate", "gpu1", "--value", '{"input":"3","cached_input":"0.5","output":"4"}')
        assert out == f"version {first + 1}\n", out
        wait_until(lambda: charged(s) == (first + 1, 4), 5, "the node's rate")
        later = admin(s, "POST", "/admin/v1/finance", {"kind": "rate", "subject": "gpu1", "from": "2099-01-01",
                                                        "value": {"input": "9", "output": "9"}})
        assert later.status == 201 and charged(s) == (first + 1, 4)
        check_refusals(s)
        listed = admin(s, "GET", "/admin/v1/finance?kind=price").json()["changes"]
        assert [c["who"] for c in listed] == ["alice"] and listed[0]["value"]["output"] == "2.25", listed
        held = admin(s, "GET", "/admin/v1/finance?at=now&kind=rate").json()["changes"]
        assert [c["version"] for c in held] == [first + 1], held
        admin(s, "POST", "/admin/v1/reload")
        assert charged(s) == (first + 1, 4), "a reload forgets nothing"
        # One that runs and cannot be reached has the audit in hand: nothing is done beside it.
        socket = os.path.join(s.folder, "state", "admin.sock")
        os.rename(socket, socket + ".away")
        on(s, "finance", "set", "rate", "gpu1", "--value", '{"input":"7","output":"7"}', "--who", "mallory", expect=1)
        os.rename(socket + ".away", socket)
        assert not records(s, "mallory") and len(admin(s, "GET", "/admin/v1/finance?kind=rate").json()["changes"]) == 2
        s.terminate()
        on(s, "finance", "set", "rate", "gpu1", "--value", '{"input":"5","output":"6"}', "--who", "bob")
        for text in ("a new list", "spillway finance", "bob"):
            assert records(s, text), text
        s.restart()
        assert charged(s) == (first + 3, 6)
        on(s, "audit", "verify")
        assert "the books close" in on(s, "ledger", "verify")


def check_refusals(s):
    for body, status, says in (
            ({"kind": "price", "subject": "m", "value": {"input": "1"}}, 400, "output: is missing"),
            ({"kind": "prize", "subject": "m"}, 400, "is none of"),
            ({"kind": "lock", "subject": "2026-13"}, 400, "is no month"),
            ({"kind": "lock", "subject": time.strftime("%Y-%m", time.gmtime())}, 400, "is not over yet"),
            ({"kind": "price", "subject": "m", "value": "1"}, 400, "JSON object"),
            ({"kind": "unlock", "subject": "2026-01"}, 409, "is not locked"),
            ({"kind": "price", "subject": "m", "sum": 1}, 400, "is not known here")):
        answer = admin(s, "POST", "/admin/v1/finance", body)
        assert answer.status == status and says in answer.body.decode(), (body, answer.status, answer.body.decode())
    answer = admin(s, "POST", "/admin/v1/finance/correct", {"request_id": "req_none", "amount_usd": "-1", "reason": "x"})
    assert answer.status == 404, answer.body.decode()


def exported_backed_up_archived(args):
    up = Upstream()
    with contextlib.ExitStack() as stack, Scheduler(args.build, [node("gpu1", up)]) as s:
        stack.callback(up.stop)
        load = Load(s.port, clients=2)
        wait_until(lambda: len(load.told) > 20, 10, "rows")
        copy = os.path.join(s.folder, "copy.db")
        on(s, "ledger", "backup", copy)
        told = load.stop()
        assert query(copy, "PRAGMA integrity_check")[0][0] == "ok" and query(copy, "SELECT count(*) FROM ledger")[0][0] >= 20
        # Where they came thick and fast some are in the journal still, which is not looked at here.
        wait_until(lambda: query(s.ledger_path, "SELECT count(*) FROM ledger")[0][0] >= len(told), 5, "all rows are folded")
        total = query(s.ledger_path, "SELECT count(*), sum(charge_pusd) FROM ledger")[0]
        rows = list(csv.DictReader(io.StringIO(on(s, "ledger", "export"))))
        lines = [json.loads(x) for x in on(s, "ledger", "export", "--format", "json").splitlines()]
        for table in (rows, lines):
            assert (len(table), sum(exactly(r["charge_usd"]) for r in table)) == total, (len(table), total)
        assert on(s, "ledger", "export", "--to", "2020-01-01").count("\n") == 1
        s.terminate()
        # The last rows are of half a year ago; the daemon closes their hours, and moves their month.
        ns = 180 * 86400 * 10**9
        query(s.ledger_path, f"UPDATE ledger SET accepted_ns = accepted_ns - {ns}, first_byte_ns = first_byte_ns - {ns},"
                             f" finished_ns = finished_ns - {ns}, leg_started_ns = leg_started_ns - {ns}, leg_ended_ns = leg_ended_ns - {ns}")
        query(s.ledger_path, "DELETE FROM node_meters")
        s.configure([node("gpu1", up)], ledger={"keep_months": 3})
        s.restart()
        wait_until(lambda: query(s.ledger_path, "SELECT count(*) FROM ledger")[0][0] == 0, 20, "an old month is moved")
        assert len(os.listdir(os.path.join(s.folder, "state", "ledger-archive"))) == 1
        rows = list(csv.DictReader(io.StringIO(on(s, "ledger", "export"))))
        assert (len(rows), sum(exactly(r["charge_usd"]) for r in rows)) == total
        assert f"{total[0]} requests" in on(s, "ledger", "verify")


def exactly(dollars):
    whole, _, part = dollars.partition(".")
    return int(whole) * 10**12 + int(part.ljust(12, "0"))


def rates_earn_the_bill(args):
    up = Upstream()
    record = {"spillway_calibration": 1, "measured_at": "2026-11-29T02:10:00Z", "node": "gpu1", "model": "m",
              "curve": {"base_us": 1000, "prefill_us_per_tok": 40, "decode_us_base": 9600, "decode_us_per_seq": 50}}
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(up.stop)
        path = os.path.join(folder, "gpu1.json")
        with open(path, "w") as f:
            json.dump(record, f)
        s = stack.enter_context(Scheduler(args.build, [node("gpu1", up, slots=8, calibration=path)]))
        s.ready()
        hour = int(query(s.ledger_path, "SELECT unixepoch()")[0][0]) // 3600 * 3600 - 7200
        query(s.ledger_path, "INSERT INTO node_hours SELECT ?, 'gpu1', NULL, 'static', 'on-prem', NULL, 3600000000000, 3600000000000, 0, 0,"
                             " 0, 0, 0, 0, 3600000000000, NULL, 3600000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0", hour)
        query(s.ledger_path, "INSERT INTO hours SELECT ?, 1, 0, 0, 0, 0, 0, 0, 3600000000000, 0, 0, 0, 0, 3600000000000, NULL", hour)
        on(s, "finance", "set", "utilisation", "gpu1", "--value", '{"percent":"50"}')
        out = on(s, "nodes", "rates", "gpu1", "--apply")
        # $3.60/h is $0.001 a second, at 50 % $0.002: 40 us for an input token, (9600 + 8 * 50) / 8 us for an output token.
        assert "applied" in out and " 0.08 " in out and " 2.50 " in out, out
        wait_until(lambda: charged(s)[1] == 2.5, 5, "it is charged")


def full_disk(args):
    up = Upstream()
    small = tempfile.mkdtemp(prefix="spillway-books-small-")
    spools = tempfile.mkdtemp(prefix="spillway-books-spool-")
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=64", "none", small], capture_output=True).returncode != 0:
            raise Skip("no tmpfs can be mounted here")
        for how in ("refuse", "spool") * (25 if args.full else 1):
            ledger = {"path": os.path.join(small, "ledger.db"), "on_failure": how, "journal": "auto",
                      "spool": {"path": os.path.join(spools, "spool"), "max": "1MiB"}}
            with Scheduler(args.build, [node("gpu1", up)], ledger=ledger, audit="off") as s:
                s.ledger_path = ledger["path"]
                fill_up_and_free(s, how, os.path.join(small, "filler"))
            for f in os.listdir(small):
                os.unlink(os.path.join(small, f))
    finally:
        subprocess.run(["umount", small], capture_output=True)
        os.rmdir(small)
        shutil.rmtree(spools)
        up.stop()


def fill_up_and_free(s, how, filler):
    s.ready()
    load = Load(s.port, clients=3)
    wait_until(lambda: len(load.told) > 5, 10, "rows")
    with open(filler, "wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            while True:
                f.write(bytes(4096))
    state = lambda: admin(s, "GET", "/admin/v1/status").json()["ledger"]  # noqa: E731
    if how == "spool":
        wait_until(lambda: state()["spool_bytes"] > 0, 10, "rows go into the spool")
        n = len(load.told)
        wait_until(lambda: len(load.told) > n + 10, 10, "answers go on")
        assert not state()["failing"] and request(s.port, "GET", "/readyz").status == 200
        assert re.search(r"its file cannot be written: \S.*; in the spool are \d+ bytes\n", on(s, "status"))
    else:
        wait_until(lambda: state()["failing"], 10, "rows cannot be written")
        assert re.search(r"^ledger .*\n +cannot be written: \S.*full", on(s, "status"), re.M), on(s, "status")
        assert "disk is full" in s.line(message="rows cannot be written: answers wait, new requests are refused")["reason"]
        wait_until(lambda: request(s.port, "GET", "/readyz").status == 503, 10, "not ready")
    os.unlink(filler)
    wait_until(lambda: not state()["failing"] and state()["spool_bytes"] == 0, 10, "it is written again")
    n = len(load.told)
    wait_until(lambda: len(load.told) > n, 10, "it works again")
    told = load.stop()
    assert s.terminate() == 0
    compare(read_books(s.ledger_path), told)


if __name__ == "__main__":
    main(__doc__, [closes, finance_prices_are_charged, exported_backed_up_archived, rates_earn_the_bill, full_disk])
