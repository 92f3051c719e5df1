"""A provider at the end of a pipe (provider_cli.c), and what tests of EC2 share."""

import http.server
import json
import os
import queue
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fakes"))
from fake_cloud import FakeCloud, Machine  # noqa: E402, F401
from harness import wait_until  # noqa: E402

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret+test/key"}
SETTINGS = {"region": "us-east-1", "poll": "200ms", "call_deadline": "10s", "calls_per_s": "200", "calls_burst": "200"}
POOL = {"image": "ami-12c6146b", "types": "g5.xlarge,g6.xlarge", "zones": "us-east-1a,us-east-1b",
        "markets": "spot,on-demand", "on_demand_prices": "g5.xlarge=1.006,g6.xlarge=0.8048"}
A5, B5, A6, B6 = (f"us-east-1{z}/{t}/spot" for t in ("g5.xlarge", "g6.xlarge") for z in "ab")
OD = "us-east-1a/g5.xlarge/on-demand"


class Provider:
    def __init__(self, build, endpoint, settings=None, pool=None, owner="owner1", keys=KEYS, **environment):
        own = {**SETTINGS, "endpoint": endpoint, **(settings or {})}
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        command = [os.path.join(build, "integration", "provider_cli"), "ec2", owner, *(f"{k}={v}" for k, v in own.items()),
                   "--", *(f"{k}={v}" for k, v in {**POOL, **(pool or {})}.items() if v is not None)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, env={**env, "HOME": "/nonexistent", **keys, **environment})
        self.events, self.log = queue.Queue(), []
        self.readers = [threading.Thread(target=self._events), threading.Thread(target=self._log)]
        for t in self.readers:
            t.start()
        self.seen = []

    def _events(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))

    def _log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill() if self.process.poll() is None and sys.exc_info()[0] else self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
        status = self.process.wait(60)
        for t in self.readers:
            t.join()
        self.process.stdout.close()
        self.process.stderr.close()
        assert status == 0, (status, self.log[-20:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def say(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def until(self, seconds=60, **fields):
        """The first event not looked at yet that has all of these fields."""
        end = time.monotonic() + seconds
        while True:
            try:
                e = self.events.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited {seconds} s for {fields}; seen {self.seen[-6:]}, log {self.log[-6:]}") from None
            self.seen.append(e)
            if all(e.get(k) == v for k, v in fields.items()):
                return e

    def launch(self, name, *offers, token=None, state="running", **fields):
        self.say("launch", name, token or f"token-{name}", *offers)
        return self.until(event="change", name=name, state=state, **fields)

    def terminate(self, name):
        self.say("terminate", name)
        return self.until(event="done", of=name)

    def collect(self, command, event):
        self.say(command)
        first = len(self.seen)
        done = self.until(event="done", of=command)
        return [e for e in self.seen[first:] if e["event"] == event], done

    def list(self):
        rows, done = self.collect("list", "listed")
        assert done["failure"] == "fine", done
        return rows

    def offers(self):
        rows, _ = self.collect("offers", "offer")
        return {r["id"]: r for r in rows}


class FileServer:
    """Where engines and models are fetched from: goes on in the middle, and breaks off when told to ({path: (how often,
    after how many bytes)})."""

    def __init__(self, data, cut=None):
        self.asked, cut = [], dict(cut or {})

        class Files(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(inner):
                whole = data[inner.path]
                first = int(inner.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                self.asked.append((inner.path, first))
                times, length = cut.get(inner.path, (0, None))
                short = sum(path == inner.path for path, _ in self.asked) <= times
                inner.send_response(206 if first else 200)
                inner.send_header("Content-Length", str(len(whole) - first))
                if first:
                    inner.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
                inner.end_headers()
                inner.wfile.write(whole[first : first + length if short else None])
                inner.close_connection = short

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def boots(machine, condition, seconds, what):
    """wait_until(); where that is in vain, what the machine has said is shown."""
    try:
        wait_until(condition, seconds, what)
    except AssertionError:
        with open(machine.log.name, errors="replace") as f:
            print(f.read()[-3000:], file=sys.stderr)
        raise


def cloud(boot_s=0.1, **more):
    c = FakeCloud(boot_s=boot_s, **more)
    for zone in ("us-east-1a", "us-east-1b"):
        c.cloud.add_pool(zone, "g5.xlarge", price="0.4030", on_demand="1.006")
        c.cloud.add_pool(zone, "g6.xlarge", price="0.3510", on_demand="0.8048")
    c.cloud.pools["us-east-1b", "g6.xlarge"].series = [(0, "0.3011")]
    return c
