#!/usr/bin/env python3
"""The dashboard in a headless Chromium: somebody signs in, looks at every page, opens a report and signs out, by typing and clicking; a
wrong key is refused and said so; nothing is asked of anybody else, and neither console nor policy complains. And pages of a made-up
company, its cost report among them, at 1440 and 390 pixels, light and dark: nothing is wider than the screen, and axe-core finds nothing wrong with names,
roles and contrasts (WCAG 2.2, A and AA). With --pictures DIR pictures are kept there. Without Chromium, and without --full,
skipped by name."""
# runtest: release

import datetime
import functools
import glob
import http.server
import os
import subprocess
import sys
import tempfile
import threading

from browser import Chromium
from harness import Scheduler, Skip, Upstream, chat, environment_with, key_hash, main, node

ADMIN = "sk-admin-of-the-site"
AXE = "axe-core-python==0.1.0"  # brings axe-core's own axe.min.js
WIDTHS, THEMES = (1440, 390), ("light", "dark")
EXAMPLES = ("overview", "fleet", "money", "service", "decisions", "decision", "reports", "audit", "login", "refused", "report")
KEPT = {"overview": 2400}  # pictures, and how much of their height
CHECK = """axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => r.violations.map(v =>
    v.id + ": " + v.nodes.map(n => n.target.join(" ") + " " + (n.any[0] || n.all[0] || n.none[0] || {}).message).join("; ")))"""
pictures = None  # a folder, from the command line


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def wanted(args):
    if not (args.full or pictures):
        raise Skip("only with --full")


def axe_of(args):
    python = environment_with(args.build, AXE)
    found = glob.glob(os.path.join(os.path.dirname(python), "..", "lib", "*", "site-packages", "axe_core_python", "axe.min.js"))
    with open(found[0], encoding="utf-8") as f:
        return f.read()


def pages_in_pictures(args):
    wanted(args)
    try:
        axe = axe_of(args)
    except Skip as e:
        if args.full:
            raise
        axe = print(f"without axe-core: {e}")
    with tempfile.TemporaryDirectory() as folder, Chromium() as b:
        os.mkdir(os.path.join(folder, "ui"))
        for test in ("test_ui", "test_report_html"):
            subprocess.run([os.path.join(args.build, "tests", test), "--write", os.path.join(folder, "ui")], check=True,
                           stdout=subprocess.DEVNULL)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in EXAMPLES:
            for width in WIDTHS:
                for theme in THEMES:
                    look(b, f"http://127.0.0.1:{server.server_port}/ui/{name}.html", name, width, theme, axe)
        server.shutdown()
        assert not b.said, b.said
        assert all(a.startswith("http://127.0.0.1:") for a in b.asked), b.asked


def look(b, url, name, width, theme, axe):
    b.screen(width, theme)
    b.open(url)
    assert b.run("document.documentElement.scrollWidth") <= width, (name, width)
    if axe:
        b.run(axe + ";0")
        wrong = b.run(CHECK)
        assert not wrong, (name, width, theme, wrong)
    if pictures and name in KEPT:
        b.picture(os.path.join(pictures, f"dashboard-{name}-{width}-{theme}.png"), KEPT[name])


def books(args, s):
    """A ledger of the last two days, a report of them, and the scheduler again on top of it."""
    start = datetime.datetime.now(datetime.timezone.utc).replace(minute=0, second=0, microsecond=0) - datetime.timedelta(hours=30)
    os.remove(s.ledger_path)
    for more in glob.glob(s.ledger_path + "-*"):
        os.remove(more)
    filler = os.path.join(args.build, "integration", "report_ledger")
    subprocess.run([filler, s.ledger_path, str(int(start.timestamp())), "28", "40"], check=True, timeout=120)
    subprocess.run([s.program, "report", "--config", s.config_path, "--period", f"{start:%Y-%m}", "--format", "html", "--out",
                    os.path.join(s.folder, "state", "reports")], check=True, capture_output=True)


def signs_in_and_reads(args):
    wanted(args)
    up = Upstream()
    keys = [{"id": "root", "sha256": key_hash(ADMIN), "tenant": "ops", "scope": "admin"}]
    with Scheduler(args.build, [node("gpu1", up)], keys=keys, admin={"listen": "127.0.0.1:0"}, audit="off",
                   budgets=[{"name": "all", "hard": "500", "period": "month"}]) as s, Chromium() as b:
        s.ready()
        s.terminate()
        books(args, s)
        os.truncate(s.log_path, 0)
        s._start()
        s.ready()
        port = s.line(message="serving")["admin_port"]
        request_id = chat(s.port, key=ADMIN).headers["x-request-id"]
        b.screen(1440, "light")
        b.open(f"http://127.0.0.1:{port}/")
        text = functools.partial(b.run, "document.body.innerText")
        assert b.run("location.pathname") == "/ui/login" and b.run("document.activeElement.id") == "key"
        b.type("#key", "sk-of-nobody")
        b.click(".sign button")
        assert "not known" in b.run("document.querySelector('[role=alert]').innerText")
        refused = b.said.copy()  # browsers put a 401 on their console
        assert len(refused) == 1 and "401" in refused[0], refused
        b.said.clear()
        b.type("#key", ADMIN)
        b.click(".sign button")
        assert b.run("location.pathname") == "/ui" and "Overview" in text() and "gpu1" in text()
        assert b.run("document.cookie") == ""  # scripts do not see it
        titles = b.run("[...document.querySelectorAll('nav a')].map(a => a.innerText)")
        assert len(titles) == 7, titles
        for i, title in enumerate(titles):
            b.click(f"nav li:nth-child({i + 1}) a")
            assert b.run("document.querySelector('h1').innerText") == title
            assert b.run("document.querySelector('nav [aria-current=page]').innerText") == title
            assert b.run("getComputedStyle(document.querySelector('section')).borderRadius") == "12px"  # its rules came
        b.open(f"http://127.0.0.1:{port}/ui/decisions")
        b.click("tbody th a")
        assert request_id in text()
        b.open(f"http://127.0.0.1:{port}/ui/reports")
        b.click("tbody th a")
        assert "cost report" in text() and b.run("getComputedStyle(document.querySelector('section')).borderRadius") == "12px"
        b.open(f"http://127.0.0.1:{port}/ui/money")
        b.click(".top button")
        assert b.run("location.pathname") == "/ui/login"
        b.open(f"http://127.0.0.1:{port}/ui/money")
        assert b.run("location.pathname") == "/ui/login"
        assert not b.said, b.said
        assert all(a.startswith((f"http://127.0.0.1:{port}/", "about:")) for a in b.asked), b.asked
    up.stop()


if __name__ == "__main__":
    if "--pictures" in sys.argv:
        at = sys.argv.index("--pictures")
        pictures = os.path.abspath(sys.argv[at + 1])
        del sys.argv[at:at + 2]
    main(__doc__, [pages_in_pictures, signs_in_and_reads])
