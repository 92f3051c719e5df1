#!/usr/bin/env python3
"""The audit of the real scheduler: requests, admin actions, refused logins, starts and reloads are in the chain; the HMACs in it
are those of the bytes that client and server exchanged; `spillway audit verify` is satisfied, and is not once a byte is changed
or the end is cut off; `spillway audit prove` writes a script that checks itself with sha256sum and openssl; after SIGKILL under
load each answered request has its record, each row of the ledger exactly one, and the chain verifies; a full disk refuses work
or counts what is lost, as configured. --full: 50 kills, a disk that is full 50 times."""

import glob
import hashlib
import hmac
import http.client
import http.server
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
from books import Load, audit_compare, audit_records, check_ready, compare, read_books, summary  # noqa: E402
from harness import Scheduler, Script, Skip, Upstream, chat, key_hash, main, node, request, wait_until  # noqa: E402

KEY = "sk-audit"


def cli(s, *args, expect=0):
    p = subprocess.run([s.program, "audit", *args, "--config", s.config_path], capture_output=True, text=True, cwd=s.folder,
                       timeout=60, env=s.env)
    assert p.returncode == expect, (args, p.returncode, p.stdout[-2000:], p.stderr[-2000:])
    return p.stdout


def segments(s):
    return sorted(glob.glob(os.path.join(s.folder, "state", "audit", "*.audit")))


def of_kind(s, kind):
    return [r for r in audit_records(s) if r["k"] == kind]


def raw_chat(port, body, key=KEY):
    """(request id, status, the body's bytes as they came, the request's bytes as they went)."""
    sent = json.dumps(body).encode()
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    c.request("POST", "/v1/chat/completions", sent, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    a = c.getresponse()
    got = a.read()
    c.close()
    return a.headers["x-request-id"], a.status, got, sent


def scheduler(args, up, **settings):
    return Scheduler(args.build, [node("a", up)], keys=[{"id": "client", "sha256": key_hash(KEY), "tenant": "acme"}], **settings)


def recorded_and_proved(args):
    up = Upstream(default=Script(words=["a", "b", "c"]))
    with scheduler(args, up) as s:
        s.ready()
        message = [{"role": "user", "content": "secret prompt"}]
        exchanges = [raw_chat(s.port, {"model": "m", "messages": message, "stream": stream}) for stream in (False, True, True)]
        up.scripts.append(Script(status=400))
        exchanges.append(raw_chat(s.port, {"model": "m", "messages": message}))
        assert [e[1] for e in exchanges] == [200, 200, 200, 400], exchanges
        assert raw_chat(s.port, {"model": "m", "messages": message}, key="sk-wrong")[1] == 401
        sock = os.path.join(s.folder, "state", "admin.sock")
        assert request(sock, "POST", "/admin/v1/keys", {"tenant": "acme", "id": "k2"}).status == 201
        with open(s.config_path) as f:
            text = f.read()
        s.write_config(text.replace("drain: 5s", "drain: 6s"))
        assert request(sock, "POST", "/admin/v1/reload", {}).status == 200

        key = bytes.fromhex(cli(s, "key", "--tenant", "acme").strip())
        by_id = {r["id"]: r for r in of_kind(s, "request")}
        for identifier, status, got, sent in exchanges:
            r = by_id[identifier]
            assert r["request_hmac"] == hmac.new(key, sent, hashlib.sha256).hexdigest(), r
            assert r["response_hmac"] == hmac.new(key, got, hashlib.sha256).hexdigest(), (r, got)
            assert (r["status"], r["tenant"], r["key"], r["peer"]) == (status, "acme", "client", "127.0.0.1"), r
            assert r["response_bytes"] == len(got) and len(r["policy"]) == 16 and r["legs"][0]["node"] == "a", r
        assert "secret prompt" not in "".join(open(p).read() for p in segments(s))
        refused = wait_until(lambda: of_kind(s, "refused"), 5, "the refused login is recorded")
        assert refused[0]["door"] == "api" and refused[0]["code"] == "key_unknown", refused
        assert [a["path"] for a in of_kind(s, "admin")] == ["/admin/v1/keys", "/admin/v1/reload"], of_kind(s, "admin")
        assert '"k2"' in of_kind(s, "admin")[0]["body"]
        changed = wait_until(lambda: of_kind(s, "config"), 5, "the reload is recorded")[0]
        assert [c["name"] for c in changed["changes"]] == ["drain"] and changed["before"] != changed["after"], changed
        assert changed["before"] == of_kind(s, "start")[0]["policy"] == by_id[exchanges[0][0]]["policy"]

        view = request(sock, "GET", "/admin/v1/audit").json()
        assert view["failing"] is False and view["head"]["seq"] > 5, view
        assert view["fingerprint"] == cli(s, "key", "--fingerprint").strip()
        s.kill()
        s.restart()
        s.ready()
        proof = cli(s, "prove", exchanges[1][0])
        run = lambda text: subprocess.run(["sh"], input=text, capture_output=True, text=True, timeout=60)  # noqa: E731
        assert run(proof).stdout.startswith("TRUE"), (run(proof), proof)
        for a, b in (('"status":200', '"status":201'), (" head v1\n", " head v2\n"), (r"\necho .....", "\necho AAAAA")):
            bad = run(re.sub(a, b, proof, count=1))
            assert bad.returncode != 0 and "TRUE" not in bad.stdout, (a, bad)
        assert "no record" in subprocess.run([s.program, "audit", "prove", "req_0", "--config", s.config_path], cwd=s.folder,
                                             capture_output=True, text=True).stderr
        heads = os.path.join(s.folder, "heads")
        with open(heads, "w") as f:
            f.write(cli(s, "heads"))
        assert "agrees with the exported heads" in cli(s, "verify", "--head", heads)
        assert s.terminate() == 0
        assert "agrees with the ledger" in cli(s, "verify", "--ledger", s.ledger_path)
        db = sqlite3.connect(s.ledger_path)
        db.execute("delete from ledger where request_id = ?", (exchanges[0][0],))
        db.commit()
        db.close()
        out = cli(s, "verify", "--ledger", s.ledger_path, expect=1)
        assert f"{exchanges[0][0]} has a record in the audit and no row" in out and "1 without the other" in out, out
        tampered(s, heads)
    up.stop()


def tampered(s, heads):
    """The scheduler has ended."""
    path = segments(s)[-1]
    with open(path, "rb") as f:
        good = f.read()
    assert cli(s, "verify", "--head", heads).startswith("sound")
    lines = good.split(b"\n")[:-1]
    at = next(i for i, x in enumerate(lines) if b'"k":"request"' in x)

    def with_lines(changed):
        with open(path, "wb") as f:
            f.write(b"".join(x + b"\n" for x in changed))
        return json.loads(cli(s, "verify", "--json", "--head", heads, expect=1))["findings"][0]

    f = with_lines(lines[:at] + [lines[at].replace(b'"acme"', b'"evil"')] + lines[at + 1:])
    assert (f["what"], f["first"]) == ("changed", at + 1), f
    f = with_lines(lines[:at] + lines[at + 1:])
    assert (f["what"], f["first"], f["last"]) == ("removed", at + 1, at + 1), f
    seal = max(i for i in range(at) if b'"k":"seal"' in lines[i])
    f = with_lines(lines[: seal + 1])
    assert (f["what"], f["first"]) == ("cut off", seal + 2), f
    with open(path, "wb") as f:
        f.write(good)


class Hook:
    """Takes heads, as a webhook."""

    def __init__(self):
        heads = self.heads = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                heads.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def heads_are_exported(args):
    up, hook = Upstream(), Hook()
    with scheduler(args, up, audit={"heads": {"file": "heads.jsonl", "every": "1s",
                                              "webhook": f"http://127.0.0.1:{hook.server.server_port}/h"}}) as s:
        path = os.path.join(s.folder, "heads.jsonl")
        s.ready()
        for _ in range(3):
            assert chat(s.port, key=KEY).status == 200
        wait_until(lambda: hook.heads and os.path.exists(path), 10, "a head is exported")
        assert chat(s.port, key=KEY).status == 200
        assert s.terminate() == 0
        with open(path) as f:
            heads = [json.loads(line) for line in f]
        assert len(heads) >= 2 and heads == sorted(heads, key=lambda h: h["seq"]), heads
        assert hook.heads[0] in heads, (hook.heads, heads)
        assert audit_records(s)[heads[-1]["seq"]]["k"] == "seal", "the last head is that of the end"
        assert "agrees with the exported heads" in cli(s, "verify", "--head", path)
    hook.server.shutdown()
    up.stop()


def killed_under_load(args):
    rng = random.Random(6)
    kills = 50 if args.full else 4
    up = Upstream(default=Script(word_delay=0.001))
    told, took = [], []
    with scheduler(args, up, workers=2) as s:
        s.ready()
        for k in range(kills):
            load = Load(s.port, key=KEY)
            time.sleep(rng.uniform(0.15, 0.6))
            s.kill()
            told += load.stop()
            begin = time.monotonic()
            s.restart()
            s.ready()
            took.append(time.monotonic() - begin)
        assert chat(s.port, key=KEY).status == 200
        compare(read_books(s.folded().ledger_path), told)
        recovered, voided = audit_compare(s, told)
        print(f"        {kills} kills, {len(told)} answered; {recovered} records recovered, {voided} void; "
              f"{summary('ready again', took)}", flush=True)
        check_ready(args, took)
        assert s.terminate() == 0
        cli(s, "verify")
    up.stop()


def full_disk(args):
    up = Upstream()
    small = os.path.join("/tmp", f"spillway-audit-small-{os.getpid()}")
    os.mkdir(small)
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "none", small], capture_output=True).returncode != 0:
            raise Skip("no tmpfs can be mounted here")
        filler = os.path.join(small, "filler")
        for how in ("refuse", "continue") * (25 if args.full else 1):
            with scheduler(args, up, audit={"dir": os.path.join(small, how), "on_failure": how}) as s:
                s.ready()
                assert chat(s.port, key=KEY).status == 200
                with open(filler, "wb", buffering=0) as f:
                    try:
                        while True:
                            f.write(bytes(4096))
                    except OSError:
                        pass
                if how == "continue":
                    wait_until(lambda: chat(s.port, key=KEY).status == 200 and lost(s) > 2, 10, "records are lost, and counted")
                    os.unlink(filler)
                    n = lost(s)
                    wait_until(lambda: chat(s.port, key=KEY).status == 200 and lost_records(small, how) >= n, 10,
                               "the chain says how many")
                else:
                    blocked = Load(s.port, clients=2, key=KEY)
                    wait_until(lambda: request(s.port, "GET", "/readyz").status == 503, 10, "not ready")
                    wait_until(lambda: chat(s.port, key=KEY).status == 503, 10, "new work is refused")
                    os.unlink(filler)
                    wait_until(lambda: chat(s.port, key=KEY).status == 200, 10, "it works again")
                    blocked.stop()
                    assert lost(s) == 0
                assert s.terminate() == 0
                cli(s, "verify")
                shutil.rmtree(os.path.join(small, how))
    finally:
        subprocess.run(["umount", small], capture_output=True)
        os.rmdir(small)
        up.stop()


def lost(s):
    return request(os.path.join(s.folder, "state", "admin.sock"), "GET", "/admin/v1/audit").json()["lost"]


def lost_records(small, how):
    text = "".join(open(p).read() for p in glob.glob(os.path.join(small, how, "*.audit")))
    return sum(json.loads(x.split(" ", 3)[3]).get("n", 0) for x in text.splitlines() if '"k":"lost"' in x)


if __name__ == "__main__":
    main(__doc__, [recorded_and_proved, heads_are_exported, killed_under_load, full_disk])
