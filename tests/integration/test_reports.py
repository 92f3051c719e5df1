#!/usr/bin/env python3
# runtest: release
"""The nightly report in a real scheduler: nights that were missed are made up at the start; mail arrives whole at a real SMTP
server (aiosmtpd) and its attachments are the files, byte for byte, whose sums are the ledger's; each team's people get its
share alone; the webhook's signature is right. A mail server that is dead, or takes connections and says nothing, delays no
request; its mail is delivered once it is back. SIGKILL while a message is under way: it comes again under the same Message-ID,
and only that one. Over TLS the server's certificate is checked, and a password goes to nobody else."""

import atexit
import contextlib
import csv
import datetime
import email
import email.policy
import hashlib
import hmac
import http.server
import io
import json
import os
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from decimal import Decimal

from harness import (Scheduler, Skip, Upstream, certificate, chat, environment_with, free_port, lasting_folder, main, node,
                     request, wait_until)
from test_books import query, spillway

PACKAGE = "aiosmtpd==1.4.6"
HOURS, ROWS = 26, 6
LOCK = threading.Lock()  # the package is installed once
USAGE = ("usage", "bound", "waste", "idle", "boot", "variance")


class Mailbox:
    """The server, and what it got."""

    def __init__(self, args, *tls, port=None):
        self.folder = lasting_folder("spillway-mail-")
        with LOCK:
            self.python = environment_with(args.build, PACKAGE)
        self.tls, self.port, self.process = tls, port or free_port(), None
        atexit.register(self.stop)  # whatever became of the test

    def start(self):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smtp_server.py")
        self.process = subprocess.Popen([self.python, program, self.folder, str(self.port), *self.tls], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline() == "listening\n"
        return self

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def hold(self, on):
        path = os.path.join(self.folder, "hold")
        if on:
            with open(path, "w"):
                pass
        else:
            os.unlink(path)

    def messages(self):
        """[(recipients, the message as Python's parser has it, how it came)]"""
        found = []
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(".json"):
                with open(os.path.join(self.folder, name)) as f:
                    m = json.load(f)
                found.append((m["to"], email.message_from_bytes(m["data"].encode("latin-1"), policy=email.policy.default), m))
        return found


class Hook:
    def __init__(self):
        calls = self.calls = []
        self.status = 200
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                calls.append((dict(self.headers), body))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def site(args, reports, **settings):
    """A scheduler whose ledger has a day and two hours of seven teams, which began at midnight two days ago."""
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    folder = tempfile.mkdtemp(prefix="spillway-reports-")
    db = os.path.join(folder, "ledger.db")
    filler = os.path.join(args.build, "integration", "report_ledger")
    start = int(today.timestamp()) - 2 * 86400
    subprocess.run([filler, db, str(start), str(HOURS), str(ROWS)], check=True, timeout=120)
    up = Upstream()
    try:
        with Scheduler(args.build, [node("gpu1", up)], ledger={"path": db}, reports=reports, **settings) as s:
            s.db, s.day, s.start = db, (today - datetime.timedelta(days=2)).strftime("%Y-%m-%d"), start
            s.socket = os.path.join(s.folder, "state", "admin.sock")
            s.outbox = os.path.join(s.folder, "state", "reports.db")
            yield s
    finally:
        up.stop()
        subprocess.run(["rm", "-rf", folder], check=True)


def secret(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.write(text + "\n")
    return path


def listed(s):
    a = request(s.socket, "GET", "/admin/v1/reports")
    assert a.status == 200, a.body
    return a.json()["reports"]


def deliveries(s):
    return [d for r in listed(s) for d in r["deliveries"]]


def send(s, period, **fields):
    return request(s.socket, "POST", "/admin/v1/reports", {"period": period, **fields})


def files_of(message):
    return {p.get_filename(): p.get_content() if p.get_content_maintype() != "text" else p.get_payload(decode=True)
            for p in message.iter_attachments()}


def is_in_folder(s, message):
    for name, data in files_of(message).items():
        with open(os.path.join(s.folder, "state", "reports", name), "rb") as f:
            if f.read() != data:
                return False
    return True


def check_mail(s, message, team=None):
    """It is built as mail is, and its files are those of the folder."""
    assert message.get_content_type() == "multipart/mixed", message.get_content_type()
    assert not [p for p in message.walk() if p.defects], [p.defects for p in message.walk()]
    both = message.get_payload()[0]
    assert both.get_content_type() == "multipart/alternative"
    assert [p.get_content_type() for p in both.get_payload()] == ["text/plain", "text/html"]
    text, page = message.get_body(("plain",)).get_content(), message.get_body(("html",)).get_content()
    assert "<table" in page and "<svg" not in page and "<style" not in page and "$" in text, text
    assert all(len(line) <= 998 for line in message.as_bytes().splitlines())
    for key in ("From", "To", "Subject", "Date", "Message-ID"):
        assert message[key], key
    attached = files_of(message)
    assert sorted(n.rsplit(".", 1)[1] for n in attached) == ["csv", "html"], list(attached)
    for name, data in attached.items():
        with open(os.path.join(s.folder, "state", "reports", name), "rb") as f:
            assert f.read() == data, name
        a = request(s.socket, "GET", f"/admin/v1/reports/{name}")
        assert a.status == 200 and a.body == data and a.headers["content-type"].startswith("text/"), name
    table = next(v for k, v in attached.items() if k.endswith(".csv"))
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    begin = s.start
    where = f"finished_ns >= {begin} * 1000000000 AND finished_ns < {begin + 86400} * 1000000000"
    where += f" AND team = '{team}'" if team else ""
    charge = query(s.db, f"SELECT sum(charge_pusd) FROM ledger WHERE {where}")[0][0]
    got = sum(Decimal(r["BilledCost"]) for r in rows if r["x_CostKind"] in USAGE)
    assert charge > 0 and got == Decimal(charge) / 10**12, (got, charge)
    assert not team or {r["SubAccountId"] for r in rows} == {team}


def looked(s):
    try:
        return query(s.outbox, "SELECT count(*) FROM meta")[0][0]
    except sqlite3.OperationalError:  # not yet, or not whole yet
        return 0


def nights(args):
    """Two nights were missed while the scheduler was down."""
    box, hook = Mailbox(args).start(), Hook()
    keys = lasting_folder("spillway-keys-")
    reports = {"at": '"00:00"', "periods": ["day"],
               "mail": {"server": f"smtp://127.0.0.1:{box.port}", "starttls": "optional", "from": "spillway@example.com",
                        "to": ["ann@example.com", "bob@example.com", "nobody@example.com"]},
               "webhook": {"url": hook.url, "secret_file": secret(keys, "secret", "open sesame")},
               "teams": [{"team": "search", "to": ["lead@example.com"]}]}
    with contextlib.ExitStack() as stack, site(args, reports) as s:
        stack.callback(box.stop)
        stack.callback(hook.stop)
        wait_until(lambda: looked(s), 5, "a first look")
        assert listed(s) == []  # from the next night on
        s.terminate()
        query(s.outbox, f"UPDATE meta SET value = {s.start + 3600}")
        s.restart()
        wait_until(lambda: len(box.messages()) == 6 and len(hook.calls) == 2, 20, "two nights' mails")
        by = {}
        for to, message, _ in box.messages():
            by.setdefault(to[0], []).append(message)
        assert {k: len(v) for k, v in by.items()} == {"ann@example.com": 2, "bob@example.com": 2, "lead@example.com": 2}, by
        whole = next(m for m in by["ann@example.com"] if s.day in m["Subject"])
        same = next(m for m in by["bob@example.com"] if s.day in m["Subject"])
        theirs = next(m for m in by["lead@example.com"] if s.day in m["Subject"])
        check_mail(s, whole)
        check_mail(s, theirs, "search")
        assert whole["Message-ID"] == same["Message-ID"] != theirs["Message-ID"] and "search" in theirs["Subject"]
        assert "ads" in whole.get_body(("plain",)).get_content() and "ads" not in theirs.get_body(("plain",)).get_content()
        for headers, body in hook.calls:
            good = "sha256=" + hmac.new(b"open sesame", body, hashlib.sha256).hexdigest()
            assert {k.lower(): v for k, v in headers.items()}["x-spillway-signature"] == good
        notice = json.loads(hook.calls[0][1])
        assert notice["period"] == s.day and notice["text"] and Decimal(notice["charge_usd"]) > 0, notice
        assert notice["files"] == [f"spillway-{s.day}.html", f"spillway-{s.day}.csv"], notice
        refused = [d for d in deliveries(s) if d["to"] == "nobody@example.com"]
        assert len(refused) == 2 and all("550" in d["error"] or d["tries"] == 0 for d in refused), refused
        wait_until(lambda: s.metrics()["spillway_reports_made_total"] == 4, 5, "what was made is counted")
        assert s.metrics()["spillway_reports_late_seconds"] == 0
        wait_until(lambda: s.metrics()['spillway_report_deliveries_total{by="mail",result="sent"}'] == 6, 5, "all are counted")
        wait_until(lambda: s.metrics()['spillway_report_deliveries_failing{by="mail"}'] >= 1, 5, "what was refused is counted")
        s.terminate()
        assert "secret-path" not in s.log_text() and "open sesame" not in s.log_text()
        s.restart()  # nothing is made or sent twice
        time.sleep(2.5)
        assert len(box.messages()) == 6 and len(hook.calls) == 2
        assert len(listed(s)) == 4


def tarpit():
    """Takes connections and says nothing."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


def dead(args):
    """Nobody there, then somebody who says nothing; requests go on; it is delivered once the server is back."""
    silent = tarpit()
    port = free_port()
    mail = {"server": f"smtp://127.0.0.1:{port}", "starttls": "optional", "from": "spillway@example.com",
            "to": ["ann@example.com"]}
    box = Mailbox(args, port=port)
    with contextlib.ExitStack() as stack, site(args, {"mail": mail}) as s:
        stack.callback(box.stop)
        stack.callback(silent.close)
        s.ready()
        a = send(s, s.day)
        assert a.status == 200 and a.json() == {"period": s.day}, a.body
        wait_until(lambda: deliveries(s) and deliveries(s)[0]["tries"] >= 1, 8, "a try")
        first = deliveries(s)[0]
        assert first["state"] == "waiting" and "connect" in first["error"].lower(), first
        wait_until(lambda: s.metrics()['spillway_report_deliveries_failing{by="mail"}'] == 1, 5, "it is counted")
        s.line(area="report", what="mail")
        # The one that is silent holds its thread, and nothing else.
        text = open(s.config_path).read()
        s.write_config(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{silent.getsockname()[1]}"))
        assert request(s.socket, "POST", "/admin/v1/reload").status == 200
        silent.settimeout(30)
        taken, _ = silent.accept()
        stack.callback(taken.close)
        slowest = 0
        for k in range(40):
            begin = time.monotonic()
            assert chat(s.port, f"number {k}").status == 200
            slowest = max(slowest, time.monotonic() - begin)
        assert slowest < 5, slowest  # whoever waited for that server would take ten seconds, or more
        assert send(s, s.day).status == 200  # also another report is made meanwhile
        silent.close()
        taken.close()
        box.start()
        s.write_config(text)
        assert request(s.socket, "POST", "/admin/v1/reload").status == 200
        wait_until(lambda: len(box.messages()) == 2, 30, "both mails")
        wait_until(lambda: {d["state"] for d in deliveries(s)} == {"sent"}, 10, "both are noted")
        one, other = (m[1] for m in box.messages())
        assert one["Message-ID"] != other["Message-ID"]
        # Both are of the same day, whose files in the folder are those that were made last. Either may have come first.
        check_mail(s, one if is_in_folder(s, one) else other)


def killed(args):
    """SIGKILL while the server has the message and has not said so: it comes again, as the same one, and no more."""
    box = Mailbox(args).start()
    mail = {"server": f"smtp://127.0.0.1:{box.port}", "starttls": "optional", "from": "spillway@example.com",
            "to": ["ann@example.com", "bob@example.com"]}
    with contextlib.ExitStack() as stack, site(args, {"mail": mail}) as s:
        stack.callback(box.stop)
        box.hold(True)
        assert send(s, s.day).status == 200
        wait_until(lambda: len(box.messages()) == 1, 10, "the first is under way")
        s.kill()
        s.restart()
        wait_until(lambda: len(box.messages()) == 2, 10, "it comes again")
        box.hold(False)
        wait_until(lambda: [d["state"] for d in deliveries(s)] == ["sent", "sent"], 10, "both are sent")
        found = box.messages()
        assert [m[0] for m in found] == [["ann@example.com"]] * 2 + [["bob@example.com"]], found
        assert len({m[1]["Message-ID"] for m in found}) == 1
        assert files_of(found[0][1]) == files_of(found[1][1])


def over_tls(args):
    """smtps:// and STARTTLS with a log-in; a certificate of another authority gets nothing, and no password."""
    keys = lasting_folder("spillway-keys-")
    cert, key = certificate(keys)
    os.mkdir(os.path.join(keys, "other"))
    other, _ = certificate(os.path.join(keys, "other"))
    password = secret(keys, "password", "swordfish")
    box = Mailbox(args, cert, key, "smtps", "us", "swordfish").start()
    more = Mailbox(args, cert, key, "starttls", "us", "swordfish").start()
    mail = {"server": f"smtps://localhost:{box.port}", "ca": other, "user": "us", "password_file": password,
            "from": "spillway@example.com", "to": ["ann@example.com"]}
    with contextlib.ExitStack() as stack, site(args, {"mail": mail}) as s:
        stack.callback(box.stop)
        stack.callback(more.stop)
        assert send(s, s.day).status == 200
        wait_until(lambda: deliveries(s) and deliveries(s)[0]["tries"] >= 1, 8, "a try")
        assert "certificate" in deliveries(s)[0]["error"], deliveries(s)
        text = open(s.config_path).read()
        s.write_config(text.replace(other, cert))
        assert request(s.socket, "POST", "/admin/v1/reload").status == 200
        wait_until(lambda: len(box.messages()) == 1, 15, "the mail")
        assert box.messages()[0][2]["tls"] and box.messages()[0][2]["user"]
        s.write_config(text.replace(other, cert).replace(f"smtps://localhost:{box.port}", f"smtp://localhost:{more.port}"))
        assert request(s.socket, "POST", "/admin/v1/reload").status == 200
        done = spillway(args, "report", "--period", s.day, "--send", "--config", s.config_path, "--socket", s.socket)
        assert s.day in done, done
        wait_until(lambda: len(more.messages()) == 1, 15, "the other mail")
        assert more.messages()[0][2]["tls"] and more.messages()[0][2]["user"]
        wait_until(lambda: {d["state"] for d in deliveries(s)} == {"sent"}, 10, "both are noted")
        table = spillway(args, "report", "--sent", "--config", s.config_path, "--socket", s.socket)
        assert table.count("ann@example.com") == 2 and table.count("sent") == 2, table
        s.never_says("swordfish")


def a_night_comes(args):
    """On a clock 144 times as fast, from eight minutes before midnight: requests are answered, the hour closes ten minutes after
    its end, and the report of the day, which was due at one past midnight, has waited for it and is all of it."""
    preload = os.path.join(args.build, "tests", "fastclock.so")
    if args.sanitized or not os.path.exists(preload):
        raise Skip("tests/fastclock.so is not there, or the sanitizers' own come first")
    # A machine that is too slow for the last answer to come before midnight begins earlier, still in the day's last hour.
    assert any(night(args, preload, minutes) for minutes in (8, 16, 32, 55)), "it was midnight before the last answer"


def night(args, preload, minutes):
    """So long before midnight it begins. False: too late."""
    midnight = int(time.time()) // 86400 * 86400 + 86400
    day = datetime.datetime.fromtimestamp(midnight - 1, datetime.timezone.utc).strftime("%Y-%m-%d")
    hook, up = Hook(), Upstream()
    clock = {"LD_PRELOAD": preload, "FASTCLOCK": f"144:{midnight - 60 * minutes}:{time.monotonic_ns()}"}
    patient = {"health": {"interval": "60s", "timeout": "60s"}, "routing": {"first_byte": "20m"},  # in real time a 144th
               "queue": {"interactive": {"wait": "20m"}}}
    with contextlib.ExitStack() as stack, Scheduler(
            args.build, [node("gpu1", up)], env=clock, workers="1", **patient,
            reports={"at": '"00:01"', "formats": ["json"], "webhook": {"url": hook.url}}) as s:
        stack.callback(hook.stop)
        stack.callback(up.stop)
        for k in range(5):
            assert chat(s.port, f"number {k}").status == 200
        wait_until(lambda: len(s.rows()) == 5, 5, "rows")
        rows = s.rows()
        if max(r["finished_ns"] for r in rows) >= midnight * 10**9:
            return False
        wait_until(lambda: hook.calls, 20, "the report")
        notice = json.loads(hook.calls[0][1])  # the day's; at the end of a month, that of the month comes after it
        assert notice["period"] == day and notice["open_hours"] == 0 and notice["requests"] == 5, notice
        assert Decimal(notice["charge_usd"]) == Decimal(sum(r["charge_pusd"] for r in rows)) / 10**12, notice
        assert notice["made"] >= notice["until"][:11] + "00:10:00Z", notice  # not before the hour was closed
        wait_until(lambda: s.metrics()["spillway_reports_late_seconds"] == 0, 5, "nothing is left to make")
        with open(os.path.join(s.folder, "state", "reports", f"spillway-{day}.json")) as f:
            assert json.load(f)["now"]["use"]["requests"] == 5
        time.sleep(2)
        ended = [day] + ([day[:7]] if datetime.datetime.fromtimestamp(midnight, datetime.timezone.utc).day == 1 else [])
        # Who has not answered after half a minute, which is short here, is told once more.
        assert list(dict.fromkeys(json.loads(body)["period"] for _, body in hook.calls)) == ended, hook.calls
        assert s.metrics()["spillway_reports_made_total"] == len(ended)
    return True


def words(args):
    """What makes no sense is refused, in words."""
    with site(args, {"formats": ["csv"]}) as s:
        for body, status, wanted in (({"period": "never"}, 400, "none of yesterday"), ({}, 400, "period: is missing"),
                                     ({"period": "yesterday", "team": "x"}, 404, 'no team \\"x\\"'),
                                     ({"period": "yesterday", "to": "me"}, 400, "to")):
            a = request(s.socket, "POST", "/admin/v1/reports", body)
            assert a.status == status and wanted in a.body.decode(), a.body
        for name in ("..%2fledger.db", ".hidden", "spillway-1999-01-01.csv"):
            assert request(s.socket, "GET", f"/admin/v1/reports/{name}").status == 404, name
        assert request(s.socket, "GET", "/admin/v1/reports?last=0").status == 400
        assert send(s, s.day).status == 200  # to nobody: into the folder
        assert [r["deliveries"] for r in listed(s)] == [[]]
        name = f"spillway-{s.day}.csv"
        assert listed(s)[0]["files"] == [name] and os.listdir(os.path.join(s.folder, "state", "reports")) == [name]
        spillway(args, "report", "--sent", "--period", "today", "--socket", s.socket, expect=2)


if __name__ == "__main__":
    main(__doc__, [a_night_comes, nights, dead, killed, over_tls, words], at_once=3)
