#!/usr/bin/env python3
"""The dashboard at /ui as a browser without scripts sees it, over plain HTTP: who may sign in and who may not, what a form must
carry, when a session ends; every page is whole, names itself and holds nothing that its policy forbids; a report opens with a
policy of its own, and no name leads out of their folder. What a real browser makes of it is in test_ui_browser.py."""

import html
import html.parser
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from books import audit_records  # noqa: E402
from harness import Scheduler, Upstream, certificate, chat, key_hash, main, node, wait_until  # noqa: E402

ADMIN, PLAIN = "sk-admin-of-the-site", "sk-of-an-application"
PAGES = ("", "/fleet", "/money", "/service", "/decisions", "/reports", "/audit")
VOID = {"meta", "link", "input", "br", "img", "hr", "rect", "line", "path", "circle", "polyline", "polygon", "ellipse", "use"}
OPTIONAL = {"li", "p", "dt", "dd", "tr", "td", "th"}  # whose end may be left out


class Browser:
    """One with a jar of one cookie, and no scripts."""

    def __init__(self, port, tls=None):
        self.port, self.cookie, self.tls = port, None, tls

    def ask(self, method, path, form=None, headers=None):
        connection = (http.client.HTTPSConnection("localhost", self.port, context=self.tls, timeout=30) if self.tls else
                      http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))
        head = {**({"Cookie": f"other=1; {self.cookie}"} if self.cookie else {}), **(headers or {})}
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            head["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, head)
        answer = connection.getresponse()
        answer.text = answer.read().decode()
        connection.close()
        if answer.headers["Set-Cookie"]:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def get(self, path):
        return self.ask("GET", path)

    def form(self, path="/ui/login"):
        return re.search(r'name=form value="([\w-]{43})"', self.get(path).text)[1]

    def sign_in(self, key=ADMIN):
        return self.ask("POST", "/ui/login", {"form": self.form(), "key": key})


def admin_port(s):
    return s.line(message="serving")["admin_port"]


def scheduler(args, up, **settings):
    keys = [{"id": "root", "sha256": key_hash(ADMIN), "tenant": "ops", "scope": "admin"},
            {"id": "app", "sha256": key_hash(PLAIN), "tenant": "acme", "team": "search"}]
    settings = {"admin": {"listen": "127.0.0.1:0"}, **settings}
    return Scheduler(args.build, [node("gpu1", up)], keys=keys, **settings).ready()


class Whole(html.parser.HTMLParser):
    """A page that is closed as it was opened, without scripts and attributes of style; what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.tags, self.ids = [], [], [], set()
        self.feed(text)
        assert not [t for t in self.open if t not in OPTIONAL], self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag != "script" and "style" not in attrs and not [a for a in attrs if a.startswith("on")], (tag, attrs)
        assert attrs.get("id") not in self.ids or not attrs.get("id"), f"twice: {attrs}"
        self.ids.add(attrs.get("id"))
        self.tags.append((tag, attrs))
        self.refers += [attrs[a] for a in ("href", "src", "action") if a in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        assert tag in VOID or (self.open and self.open.pop() == tag), f"</{tag}> without its beginning"


def check_page(answer, title):
    assert answer.status == 200, answer.status
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'"), policy
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert ADMIN not in answer.text and key_hash(ADMIN) not in answer.text
    page = Whole(answer.text)
    assert all(r.startswith(("/ui", "#")) for r in page.refers), page.refers
    assert f"<h1>{title}</h1>" in answer.text and "<title>" + title in answer.text
    names = [t for t, _ in page.tags]
    assert names.count("main") == 1 and "header" in names and "footer" in names
    for tag, attrs in page.tags:
        assert tag != "th" or "scope" in attrs, attrs
        assert tag != "svg" or {attrs.get("role"), attrs.get("class"), attrs.get("aria-hidden")} & {"img", "square", "true"}, attrs
    assert names.count("table") == names.count("caption")
    return page


def of_kind(s, kind):
    return [r for r in audit_records(s) if r["k"] == kind]


def signs_in_and_out(args):
    up = Upstream()
    with scheduler(args, up) as s:
        port = admin_port(s)
        b = Browser(port)
        for path in ("/", "/ui", "/ui/", "/ui/fleet", "/ui/reports/a.html", "/ui/decisions/req_1"):
            answer = b.get(path)
            assert answer.status == 303 and answer.headers["Location"] in ("/ui", "/ui/login"), path
        check_page(b.get("/ui/login"), "Sign in")
        before = b.cookie
        assert re.fullmatch(r"spillway=[\w-]{43}", before)
        answer = b.sign_in()
        assert answer.status == 303 and answer.headers["Location"] == "/ui", answer.text
        said = answer.headers["Set-Cookie"]
        assert "HttpOnly" in said and "SameSite=Strict" in said and "Path=/" in said and b.cookie != before
        for path in PAGES:
            page = check_page(b.get("/ui" + path), re.search("<h1>(.*)</h1>", b.get("/ui" + path).text)[1])
            assert [a for t, a in page.tags if t == "a" and a.get("aria-current") == "page"], path
        assert "gpu1" in b.get("/ui/fleet").text
        assert b.get("/ui/login").status == 303  # is signed in already
        assert b.get("/ui/style.css").headers["Content-Type"].startswith("text/css")
        assert b.get("/ui/icon.svg").headers["Content-Type"] == "image/svg+xml"
        assert b.get("/ui/nothing").status == 404 and b.ask("PUT", "/ui").status == 405
        # The old token means nothing, nor does another's.
        stranger = Browser(port)
        stranger.cookie = before
        assert stranger.get("/ui").status == 303
        signed = b.cookie
        assert b.ask("POST", "/ui/logout", {"form": b.form("/ui")}).status == 303
        stranger.cookie = signed
        assert stranger.get("/ui").status == 303 and b.get("/ui").status == 303
        s.line(message="signed out of the dashboard")
        text = s.log_text()
        assert ADMIN not in text and signed.partition("=")[2] not in text
        # Signing out does not wait for its record.
        acts = wait_until(lambda: (found := of_kind(s, "admin"))[1:] and found, 5, "both are in the audit")
        assert [(r["path"], r["by"]) for r in acts] == [("/ui/login", "root"), ("/ui/logout", "root")], acts
        assert ADMIN not in json.dumps(audit_records(s))
    up.stop()


def refuses(args):
    """Keys that open nothing, forms that are not ours; and who tries too often waits."""
    up = Upstream()
    with scheduler(args, up) as s:
        b = Browser(admin_port(s))
        form = b.form()
        for wrong in ({"key": ADMIN}, {"key": ADMIN, "form": ""}, {"key": ADMIN, "form": "A" * 43}):
            assert b.ask("POST", "/ui/login", wrong).status == 403, wrong
        other = Browser(b.port)
        assert b.ask("POST", "/ui/login", {"key": ADMIN, "form": other.form()}).status == 403  # of another browser
        assert b.ask("POST", "/ui/login", {"form": form, "key": ""}).status == 400
        assert b.get("/ui").status == 303
        answer = b.sign_in(PLAIN)
        assert answer.status == 403 and "scope admin" in html.unescape(answer.text) and "role=alert" in answer.text
        statuses = [b.sign_in("sk-nobody").status for _ in range(4)]
        assert statuses == [401] * 4, statuses

        def right_one_waits():
            """As well; tries come back with time, one in two seconds, so that a slow machine may have had one again."""
            for _ in range(20):
                if b.sign_in("sk-nobody").status == 429:
                    return Browser(b.port).sign_in().status == 429
            return False

        assert any(right_one_waits() for _ in range(10))
        wait_until(lambda: b.sign_in().status == 303, 8, "who waited is let in")
        # A form of signing out is bound to its session.
        assert b.ask("POST", "/ui/logout", {"form": other.form()}).status == 403 and b.get("/ui").status == 200
        wait_until(lambda: {"key_unknown", "scope"} <= {r["code"] for r in of_kind(s, "refused") if r["door"] == "ui"}, 5,
                   "the audit has what was refused")
        s.never_says("sk-nobody")
    up.stop()


def ends_with_the_key(args):
    """A session ends when its key is revoked."""
    up = Upstream()
    with scheduler(args, up) as s:
        program = [os.path.join(args.build, "spillway"), "keys"]
        made = subprocess.run([*program, "create", "--config", s.config_path, "--tenant", "ops", "--id", "eve", "--admin"],
                              capture_output=True, text=True, check=True).stdout
        key = re.search(r"sk-spw-[\w-]{43}", made)[0]
        b = Browser(admin_port(s))
        assert b.sign_in(key).status == 303 and b.get("/ui").status == 200
        subprocess.run([*program, "revoke", "eve", "--config", s.config_path], check=True, capture_output=True)
        assert b.get("/ui/fleet").status == 303 and b.sign_in(key).status == 401
    up.stop()


def shows_decisions(args):
    up = Upstream()
    with scheduler(args, up, models=[{"name": "m", "slo_ttft": "5s"}]) as s:
        ids = [chat(s.port, key=PLAIN, stream=True).headers["x-request-id"] for _ in range(2)]
        b = Browser(admin_port(s))
        b.sign_in()
        text = b.get("/ui").text
        assert all(i in text for i in ids) and "gpu1 was chosen" in text
        assert "100.0%" in b.get("/ui/service").text  # begun in time
        one = b.get(f"/ui/decisions/{ids[0]}")
        check_page(one, "Decision")
        assert ids[0] in one.text and ids[1] not in one.text and "gpu1" in one.text
        check_page(b.get("/ui/decisions/req_nobody"), "Decision")
    up.stop()


def opens_reports(args):
    up = Upstream()
    with scheduler(args, up) as s:
        folder = os.path.join(s.folder, "state", "reports")
        os.mkdir(folder)
        for name, text in (("spillway-2026-11-01.html", "<!doctype html><style>b{color:red}</style><b>November</b>"),
                           ("spillway-2026-11-01.csv", "a,b\n"), (".hidden.html", "no"), ("strange.exe", "no")):
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        with open(os.path.join(s.folder, "state", "secret.html"), "w") as f:
            f.write("secret")
        os.symlink("../secret.html", os.path.join(folder, "link.html"))
        os.mkdir(os.path.join(folder, "folder.html"))
        b = Browser(admin_port(s))
        b.sign_in()
        listed = re.findall(r'href="/ui/reports/([^"]+)"', b.get("/ui/reports").text)
        assert listed == ["spillway-2026-11-01.html", "spillway-2026-11-01.csv"], listed
        page = b.get("/ui/reports/spillway-2026-11-01.html")
        assert page.status == 200 and "November" in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "sandbox" in policy and "style-src 'sha256-" in policy and "default-src 'none'" in policy, policy
        table = b.get("/ui/reports/spillway-2026-11-01.csv")
        assert table.headers["Content-Type"].startswith("text/csv") and "attachment" in table.headers["Content-Disposition"]
        for name in ("..%2fsecret.html", "../secret.html", "link.html", "folder.html", ".hidden.html", "strange.exe", "no.html",
                     "%2e%2e/secret.html", "a" * 300 + ".html"):
            answer = b.get("/ui/reports/" + name)
            assert answer.status == 404 and "secret" not in answer.text.replace("secret.html", ""), name
    up.stop()


def over_tls(args):
    """The cookie is Secure and this host's alone; one by the plain name is nobody's."""
    up = Upstream()
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder)
        with scheduler(args, up, admin={"listen": "127.0.0.1:0", "tls_cert": cert, "tls_key": key}) as s:
            b = Browser(admin_port(s), ssl.create_default_context(cafile=cert))
            said = b.sign_in().headers["Set-Cookie"]
            assert said.startswith("__Host-spillway=") and said.endswith("; Secure") and "Path=/;" in said, said
            assert b.get("/ui").status == 200
            b.cookie = b.cookie.replace("__Host-", "")
            assert b.get("/ui").status == 303
    up.stop()


def can_be_off(args):
    up = Upstream()
    with scheduler(args, up, ui="off") as s:
        assert Browser(admin_port(s)).get("/ui").status == 401
    up.stop()


if __name__ == "__main__":
    main(__doc__, [signs_in_and_out, refuses, ends_with_the_key, shows_decisions, opens_reports, over_tls, can_be_off], at_once=3)
