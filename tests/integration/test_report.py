"""`spillway report` on books that were closed as the daemon closes them: the FOCUS tables of both versions pass a checker that
was written from the specification, whose mistakes are planted and found; they add up to the ledger exactly, by column, team and
day; JSON says the same; words that make no sense are refused; a running scheduler's report shows its budgets and its audit's
head. `--full`: the official validator, and a spreadsheet program opens them."""
# runtest: release

import contextlib
import csv
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import focus
from focus import D
from harness import Scheduler, Skip, Upstream, environment_with, main, node, request, wait_until
from test_books import ASSET, date_back, query, spillway

HOURS, ROWS = 30, 60
USAGE = ("usage", "bound", "waste", "idle", "boot", "variance")
PICO = D(10) ** 12


class Books:
    """A ledger of 30 hours that began three days ago, and its reports."""

    def __init__(self, args):
        self.args, self.folder = args, tempfile.mkdtemp(prefix="spillway-report-")
        self.db = os.path.join(self.folder, "ledger.db")
        today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        self.start = today - datetime.timedelta(days=3)
        filler = os.path.join(args.build, "integration", "report_ledger")
        subprocess.run([filler, self.db, str(int(self.start.timestamp())), str(HOURS), str(ROWS)], check=True, timeout=120)

    def close(self):
        shutil.rmtree(self.folder)

    def day(self, n):
        return (self.start + datetime.timedelta(days=n)).strftime("%Y-%m-%d")

    def report(self, period, *words):
        out = spillway(self.args, "report", "--period", period, "--db", self.db, "--out", self.folder, *words)
        return [line for line in out.splitlines() if line.startswith(self.folder)]

    def whole(self):
        return f"{self.day(0)}..{self.day(2)}"


@contextlib.contextmanager
def books(args):
    b = Books(args)
    try:
        yield b
    finally:
        b.close()


def dollars(pico):
    return D(pico or 0) / PICO


def check_sums(b, rows, where="1"):
    """The table against the ledger's rows and the machines' hours, in decimals."""
    ledger = query(b.db, f"SELECT sum(charge_pusd), count(*), sum(saved_pusd), sum(tokens_input - tokens_cached_input),"
                         f" sum(tokens_cached_input), sum(tokens_output - tokens_reasoning), sum(tokens_reasoning),"
                         f" sum(outcome = 2), sum(outcome = 1) FROM ledger WHERE {where}")[0]
    assert focus.total(rows, "BilledCost", USAGE) == dollars(ledger[0]), (focus.total(rows, "BilledCost", USAGE), ledger)
    assert focus.total(rows, "x_RequestCount", ("usage", "bound", "waste", "discount")) == ledger[1]
    assert focus.total(rows, "x_CacheSavings") == dollars(ledger[2])
    meters = ("Input Tokens", "Cached Input Tokens", "Output Tokens", "Reasoning Tokens")
    counted = [focus.total(rows, "ConsumedQuantity", SkuMeter=m) for m in meters]
    assert counted == list(ledger[3:7]), (counted, ledger)
    assert (focus.total(rows, "x_FailedRequests"), focus.total(rows, "x_CancelledRequests")) == ledger[7:9]


def check_bills(b, rows):
    parts = query(b.db, "SELECT sum(bill_pusd), sum(idle_pusd), sum(boot_pusd), sum(waste_pusd), sum(variance_pusd) FROM"
                        " node_hours")[0]
    assert focus.total(rows, "EffectiveCost") == dollars(parts[0])
    for kind, amount in zip(("idle", "boot", "waste", "variance"), parts[1:]):
        assert focus.total(rows, "EffectiveCost", (kind,)) == dollars(amount), kind


def tables(args):
    with books(args) as b:
        for version in ("1.4", "1.2"):
            path, = b.report(b.whole(), "--format", "csv", "--focus", version)
            problems = focus.check(path, version)
            assert not problems, problems[:10]
            rows = focus.read(path)[1]
            assert {r["x_CostKind"] for r in rows} == {*USAGE, "correction", "discount"}, {r["x_CostKind"] for r in rows}
            check_sums(b, rows)
            check_bills(b, rows)
            assert focus.total(rows, "BilledCost", ("correction",)) == dollars(-250000000001 + 1000000000007)
            assert focus.total(rows, "BilledCost", ("discount",)) < 0
            for team, charge in query(b.db, "SELECT coalesce(team, ''), sum(charge_pusd) FROM ledger GROUP BY 1"):
                assert focus.total(rows, "BilledCost", ("usage", "bound"), SubAccountId=team) == dollars(charge), team
            assert {r["x_CostCenter"] for r in rows if r["SubAccountId"] == "search"} == {"4711"}
            planted(path, version)
        # Days add up to the whole, and each to its rows.
        for n in range(2):
            path, = b.report(b.day(n), "--format", "csv")
            rows = focus.read(path)[1]
            begin = int(b.start.timestamp()) + n * 86400
            check_sums(b, rows, f"finished_ns >= {begin} * 1000000000 AND finished_ns < {begin + 86400} * 1000000000")
            assert {r["ChargePeriodStart"][:10] for r in rows} == {b.day(n)}
        path, = b.report(b.whole(), "--format", "csv", "--team", "search")
        check_sums(b, focus.read(path)[1], "team = 'search'")
        done = subprocess.run([os.path.join(args.build, "spillway"), "report", "--period", b.whole(), "--db", b.db, "--team", "serch"],
                              capture_output=True, text=True, timeout=60, check=True)
        assert "no request of a team serch is in the books" in done.stderr, done.stderr
        check_json(b)


def planted(path, version):
    """The checker finds what is wrong."""
    columns, rows, _ = focus.read(path)
    first = next(r for r in rows if r["x_CostKind"] == "usage")
    other = "HostProviderName" if version == "1.4" else "ProviderName"
    mistakes = [("BilledCost", "1,5"), ("BilledCost", ""), ("ChargePeriodEnd", first["ChargePeriodStart"]),
                ("ChargePeriodStart", "2026-11-01"), ("ListCost", first["ListCost"] + "1"), ("PricingUnit", "tokens"),
                ("ChargeClass", "N/A"), ("Tags", '{"a": {"b": 1}}'), ("SkuPriceId", ""), ("ChargeCategory", "Misc"), (other, "")]
    bad = path + ".bad"

    def found(columns, row):
        with open(bad, "w", newline="") as f:
            w = csv.writer(f)
            w.writerow(columns)
            w.writerow([row.get(c, "") for c in columns])
        return focus.check(bad, version)

    assert not found(columns, first)
    for column, value in mistakes:
        assert found(columns, {**first, column: value}), (column, value)
    for wrong in (columns[::-1], [c for c in columns if c != other], columns + ["AvailabilityZones"]):
        assert found(wrong, first), wrong


def check_json(b):
    md, = b.report(b.whole(), "--format", "md")
    with open(md) as f:
        assert "## Where the bill went" in f.read()
    html, = b.report(b.whole(), "--format", "html")
    with open(html, encoding="utf-8") as f:
        page = f.read()
    assert page.startswith("<!doctype html>") and "<script" not in page and "http:" not in page
    assert "search" in page and 'id=fleet' in page
    path = next(p for p in b.report(b.whole(), "--format", "csv,json") if p.endswith(".json"))
    with open(path) as f:
        r = json.load(f)
    charge, requests = query(b.db, "SELECT sum(charge_pusd), count(*) FROM ledger")[0]
    bill = query(b.db, "SELECT sum(bill_pusd) FROM node_hours")[0][0]
    assert D(r["now"]["use"]["charge_usd"]) == dollars(charge) and r["now"]["use"]["requests"] == requests
    assert D(r["now"]["cost"]["bill_usd"]) == dollars(bill)
    for name, members in r["by"].items():
        assert sum(D(m["now"]["use"]["charge_usd"]) for m in members) == dollars(charge), name
    assert r["hours"] == {"closed": HOURS, "open": 0, "wrong": 0, "first_open": None, "first_wrong": None,
                          "first_problem": None}
    api = r["savings"]["all_api"]
    assert D(api["would_cost_usd"]) - D(api["costs_usd"]) == D(api["saved_usd"]) and api["assumption"]


def words(args):
    with tempfile.TemporaryDirectory() as folder:
        none = os.path.join(folder, "none.db")
        for wrong, what in ((("--period", "2026-13"), "is none of yesterday"), (("--period", "2099-01"), "no hour is over"),
                            (("--period", "yesterday", "--format", "pdf"), "is none of html"),
                            (("--period", "yesterday", "--focus", "1.3"), "1.4"),
                            (("--period", "yesterday", "--format", "csv,md"), "want --out"), ((), "say --period"),
                            (("--period", "yesterday", "--time-zone", "Mars/Olympus"), "Mars/Olympus")):
            assert what in spillway(args, "report", *wrong, "--db", none, expect=2), wrong
        assert "no ledger at" in spillway(args, "report", "--period", "yesterday", "--db", none, expect=1)


def running(args):
    """Beside a scheduler that runs: its configuration's budgets and prices, its audit's head."""
    up = Upstream()
    budgets = [{"name": "all", "period": "month", "hard": "100"}]
    with contextlib.ExitStack() as stack, Scheduler(args.build, [node("gpu1", up)], budgets=budgets) as s:
        stack.callback(up.stop)
        for k in range(5):
            assert request(s.port, "POST", "/v1/chat/completions", {
                "model": "m", "messages": [{"role": "user", "content": f"number {k}"}]}).status == 200
        wait_until(lambda: len(s.rows()) == 5, 5, "rows")
        spillway(args, "finance", "set", "asset", "gpu1", "--value", ASSET, "--from", "2020-01-01", "--db", s.ledger_path)
        s.terminate()
        date_back(s.ledger_path)
        s.restart()
        hour = wait_until(lambda: query(s.ledger_path, "SELECT hour_s FROM hours WHERE requests > 0"), 20, "the hour is closed")[0][0]
        day = datetime.datetime.fromtimestamp(hour, datetime.timezone.utc).strftime("%Y-%m-%d")
        done = subprocess.run([s.program, "report", "--period", day, "--format", "json", "-c", s.config_path],
                              capture_output=True, text=True, timeout=60, cwd=s.folder)
        assert done.returncode == 0, done.stderr
        r = json.loads(done.stdout)
        charge = query(s.ledger_path, "SELECT sum(charge_pusd) FROM ledger WHERE finished_ns < ?", (hour + 3600) * 10**9)[0][0]
        assert charge > 0 and D(r["now"]["use"]["charge_usd"]) == dollars(charge), r["now"]
        assert [x["name"] for x in r["budgets"]] == ["all"] and D(r["budgets"][0]["hard_usd"]) == 100
        heads = subprocess.run([s.program, "audit", "heads", "-c", s.config_path], capture_output=True, text=True,
                               timeout=60, cwd=s.folder).stdout
        assert r["audit_head"] and r["audit_head"]["chain"] == json.loads(heads)["chain"], r["audit_head"]


# ---- --full -----------------------------------------------------------------------------------------------------------


def newer_python():
    """One that the validator accepts: 3.12 or later."""
    for name in (sys.executable, "python3.13", "python3.12"):
        path = shutil.which(name)
        check = "import sys, venv; sys.exit(sys.version_info < (3, 12))"
        if path and subprocess.run([path, "-c", check], capture_output=True, timeout=20).returncode == 0:
            return path
    raise Skip("focus-validator needs Python 3.12 or later")


def official_validator(args):
    """finopsfoundation/focus_validator, with the model that it bundles."""
    if not args.full:
        raise Skip("--full")
    python = environment_with(args.build, "focus-validator==2.2.1", newer_python(), "pyarrow<20")
    # From there it finds its own tables.
    packages = glob.glob(os.path.join(os.path.dirname(python), "..", "lib", "python3*", "site-packages"))[0]
    with books(args) as b:
        path, = b.report(b.whole(), "--format", "csv", "--focus", "1.2")
        done = subprocess.run([os.path.join(os.path.dirname(python), "focus-validator"), "--data-file", path, "--block-download",
                               "--validate-version", "1.2"], capture_output=True, text=True, timeout=600, cwd=packages)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "CostAndUsage-D-" in done.stdout  # it did look at rules
        # It ends with 0 whatever it finds. InvoiceId-C-004-C (null where there is no invoice) and -005-C (not null where there
        # is one) have no condition in its model, so that one of the two fails for every file.
        failed = set(re.findall(r"([A-Za-z]+-[CD]-\d{3}-[A-Z]): FAIL", done.stdout))
        assert failed <= {"InvoiceId-C-005-C"}, sorted(failed)


def spreadsheet(args):
    """LibreOffice opens both, with as many rows, and sums as we do."""
    if not args.full:
        raise Skip("--full")
    office = shutil.which("soffice") or shutil.which("libreoffice")
    if not office:
        raise Skip("LibreOffice is not installed")
    with books(args) as b:
        for version in ("1.4", "1.2"):
            path, = b.report(b.whole(), "--format", "csv", "--focus", version)
            # In as a sheet, out as text again: what it took for numbers comes back as numbers, to 15 digits.
            for to, source, folder in (("ods", path, "in"), ("csv", os.path.join(b.folder, "in", os.path.basename(path)[:-4] + ".ods"), "out")):
                subprocess.run([office, "--headless", f"-env:UserInstallation=file://{b.folder}/office", "--convert-to", to,
                                "--outdir", os.path.join(b.folder, folder), source], check=True, capture_output=True, timeout=300)
            names, rows, _ = focus.read(path)
            with open(os.path.join(b.folder, "out", os.path.basename(path)), encoding="utf-8", newline="") as f:
                sheet = list(csv.DictReader(f))
            assert list(sheet[0]) == names and len(sheet) == len(rows), (version, len(sheet), len(rows))
            for column in ("BilledCost", "EffectiveCost", "ListCost", "PricingQuantity"):
                ours, theirs = (sum(D(r[column] or 0) for r in all_of) for all_of in (rows, sheet))
                assert ours > 0 and abs(ours - theirs) <= ours / 10**6, (version, column, ours, theirs)


if __name__ == "__main__":
    main(__doc__, [tables, words, running, official_validator, spreadsheet])
