#!/usr/bin/env python3
"""The drill of docs/OPERATIONS.md: a backup taken while requests are booked is whole and consistent; a scheduler restored from it
lets the same keys in, knows every charge that had been booked before the backup began, and goes on."""

import json
import os
import shutil
import sqlite3
import subprocess
import threading

from harness import Scheduler, Skip, Upstream, chat, main, node, wait_until

BACKUP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "spillway-backup")


def backup(state, target, expect=0):
    p = subprocess.run([BACKUP, state, target], capture_output=True, text=True, timeout=60)
    assert p.returncode == expect, (p.returncode, p.stdout, p.stderr)
    return p.stdout + p.stderr


def rows_of(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
        return {r[0]: r[1] for r in db.execute("select request_id, charge_pusd from ledger")}


def restored_it_goes_on(args):
    if not shutil.which("sqlite3"):
        raise Skip("sqlite3 is not installed")
    upstream = Upstream()
    try:
        # Every row goes through the journal, so that a part of them is in it alone whenever one looks.
        with Scheduler(args.build, [node("a", upstream)], auth={"mode": "keys"}, ledger={"journal": "always"}) as s:
            s.ready()
            made = subprocess.run([s.program, "keys", "create", "--tenant", "acme", "--json", "--config", s.config_path],
                                  capture_output=True, text=True, check=True, cwd=s.folder)
            key = json.loads(made.stdout)["key"]
            answered, ended = [], threading.Event()

            def load():
                while not ended.is_set():
                    answered.append(chat(s.port, key=key).headers["x-request-id"])
            threads = [threading.Thread(target=load) for _ in range(4)]
            for t in threads:
                t.start()
            target = os.path.join(s.folder, "backup")
            wait_until(lambda: len(answered) >= 50, 10, "50 answers")
            before = set(answered)
            out = backup(os.path.join(s.folder, "state"), target)
            ended.set()
            for t in threads:
                t.join()
            assert "files" in out and not os.path.exists(target + ".part")
            assert "is there already" in backup(os.path.join(s.folder, "state"), target, expect=2)
            assert os.stat(os.path.join(target, "keys.secret")).st_mode & 0o077 == 0
            wait_until(lambda: set(answered) <= set(rows_of(s.ledger_path)), 10, "all is folded")
            saved = rows_of(os.path.join(target, "ledger.db"))
            assert set(saved) <= set(rows_of(s.ledger_path))
            # The disk is lost.
            assert s.terminate() == 0
            shutil.rmtree(os.path.join(s.folder, "state"))
            shutil.copytree(target, os.path.join(s.folder, "state"))
            os.truncate(s.log_path, 0)
            s._start()
            s.ready()
            answer = chat(s.port, key=key)
            assert answer.status == 200
            assert set(saved) | before <= {r["request_id"] for r in s.rows()}
            assert sum(saved.values()) == sum(v for k, v in rows_of(s.ledger_path).items() if k in saved)
            assert chat(s.port, key=key[:-1] + ("a" if key[-1] != "a" else "b")).status == 401
    finally:
        upstream.stop()


if __name__ == "__main__":
    main(__doc__, [restored_it_goes_on])
