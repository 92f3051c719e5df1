#!/usr/bin/env python3
# runtest: alone
"""`spillway nodes calibrate`: of a server whose curve is known it finds that curve; of a real engine it writes a record
that its own points bear out; and what it cannot measure it says, and writes nothing."""

import http.server
import json
import os
import subprocess
import tempfile
import threading
import time
from unittest import mock

from harness import Scheduler, main

KEY = "calibration-secret"
BASE, PER_TOKEN, STEP, PER_SEQUENCE, CONTEXT = 0.030, 40e-6, 0.010, 0.003, 3000


class Curve(http.server.BaseHTTPRequestHandler):
    """Answers as a node of exactly this curve would: a token per word, all sequences in step."""

    protocol_version = "HTTP/1.1"
    active, lock, usage, refuse = 0, threading.Lock(), True, None
    prefill, still = staticmethod(lambda words: BASE + PER_TOKEN * words), 0  # seconds; answers for which all stands still

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = len(body["messages"][0]["content"].split())
        if self.headers.get("authorization") != f"Bearer {KEY}":
            return self.answer(401, {"error": {"message": "wrong key"}})
        if words > CONTEXT:
            return self.answer(400, {"error": {"message": f"{words} tokens are more than {CONTEXT}"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.stream(words, body["max_tokens"])
        self.close_connection = True

    def put(self, **chunk):
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **chunk}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def stream(self, words, n):
        due = time.monotonic() + self.prefill(words)
        if Curve.still > 0:
            Curve.still -= 1
            due += 0.5
        time.sleep(due - time.monotonic())
        with self.lock:
            Curve.active += 1
        for i in range(n):
            self.put(choices=[{"index": 0, "delta": {"content": f" {i}"}, "finish_reason": None}])
            due += STEP + PER_SEQUENCE * Curve.active
            time.sleep(max(0.0, due - time.monotonic()))
        with self.lock:
            Curve.active -= 1
        self.put(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}])
        if self.usage:
            self.put(choices=[], usage={"prompt_tokens": words, "completion_tokens": n, "total_tokens": words + n})
        self.wfile.write(b"data: [DONE]\n\n")


class World:
    def __init__(self, args):
        self.build = args.build
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Curve)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.folder = tempfile.TemporaryDirectory(prefix="calibrate-")
        self.key = os.path.join(self.folder.name, "key")
        with open(self.key, "w") as f:
            f.write(KEY + "\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    def calibrate(self, *arguments):
        command = [os.path.join(self.build, "spillway"), "nodes", "calibrate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder.name)

    def of_url(self, *arguments, key=None, url=None, repeats=2, batch=4):
        return self.calibrate("--url", url or self.url, "--model", "m", "--type", "known", "--repeats", str(repeats),
                              "--batch", str(batch), "--output", "24", "--api-key-file", key or self.key, *arguments)


def undisturbed(measure, is_good):
    """The record of one measurement that is_good(), of several: what it measures is a machine that now and then stands
    still, and one that is wrong by itself is so each time."""
    seen = []
    while len(seen) < 5:
        p, path = measure()
        # All tokens of an answer came at once, after such a time; or it was there each time that a short prompt was measured.
        if p.returncode == 1 and ("too short to tell" in p.stderr or "longer prompts take no longer" in p.stderr):
            seen.append(p.stderr)
            continue
        assert p.returncode == 0, p.stderr
        with open(path) as f:
            r = json.load(f)
        if is_good(r):
            return r, p
        seen.append((r["curve"], r["prefill"], r["decode"]))
    raise AssertionError(seen)


def a_known_curve_is_found(args):
    true = {"base_us": BASE, "prefill_us_per_tok": PER_TOKEN, "decode_us_base": STEP, "decode_us_per_seq": PER_SEQUENCE}
    with World(args) as w:
        path = os.path.join(w.folder.name, "calibration", "known.json")
        found = set()  # each number was right once, of a record or of another

        def is_found(r):
            found.update(k for k, v in true.items() if abs(r["curve"][k] / (v * 1e6) - 1) < 0.35)
            return len(found) == len(true)

        r, p = undisturbed(lambda: (w.of_url("--prompt", "4000"), path), is_found)
        assert [d["batch"] for d in r["decode"]] == [1, 2, 4]
        assert len(r["prefill"]) >= 3 and r["prefill"][-1]["tokens"] <= CONTEXT  # longer ones are refused, and end the row
        assert r["node_type"] == "known" and r["model"] == "m" and r["measured_at"].endswith("Z")
        assert KEY not in json.dumps(r) + p.stdout + p.stderr


def a_node_of_the_configuration(args):
    """An engine that Spillway has started: its address is the daemon's to tell."""
    model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "spillway-tiny.gguf")
    engine = {"name": "cpu1", "provider": "process", "models": ["tiny"], "threads": 1,
              "engine": os.path.abspath(os.path.join(args.build, "spillway-engine")), "model_path": os.path.abspath(model)}
    with World(args) as w, Scheduler(args.build, [engine]) as s:
        s.ready(60)
        config = os.path.join(s.folder, "spillway.yaml")
        few = ["--prompt", "256", "--output", "64", "--batch", "2", "--repeats", "1"]
        path = os.path.join(s.folder, "state", "calibration", "cpu1.json")
        r, _ = undisturbed(lambda: (w.calibrate("cpu1", "--config", config, *few), path),
                           lambda r: len(r["decode"]) == 2)
        assert r["node"] == "cpu1" and len(r["prefill"]) >= 2, r
        for points, x, y, a, b, error in [("prefill", "tokens", "ttft_us", "base_us", "prefill_us_per_tok", "prefill"),
                                          ("decode", "batch", "step_us", "decode_us_base", "decode_us_per_seq", "decode")]:
            for point in r[points]:
                line = r["curve"][a] + r["curve"][b] * point[x]
                assert abs(line - point[y]) / point[y] <= r["curve_error"][error] * 1.001 + 1e-4, (points, point, line)


def a_line_that_falls_is_drawn_again(args):
    """It stood still while it was asked short prompts; of one that computes long prompts no later nothing is written."""
    with World(args) as w:
        path = os.path.join(w.folder.name, "calibration", "known.json")

        def measure():
            Curve.still = 2  # one to warm up, and the first of two points
            return w.of_url("--prompt", "64", repeats=1, batch=1), path

        with mock.patch.object(Curve, "prefill", staticmethod(lambda words: BASE + 1e-3 * words)):
            r, p = undisturbed(measure, lambda r: len(r["prefill"]) == 2 and r["curve"]["base_us"] < 0.4e6)
        assert r["curve"]["prefill_us_per_tok"] > 0 and p.stdout.count("to the first token") >= 4, p.stdout
        os.remove(path)
        with mock.patch.object(Curve, "prefill", staticmethod(lambda words: 1 / (10 + words))):
            p = w.of_url("--prompt", "300", repeats=1)
        assert p.returncode == 1 and "longer prompts take no longer" in p.stderr and not os.path.exists(path), p.stderr


def what_cannot_be_measured_is_said(args):
    with World(args) as w:
        wrong = os.path.join(w.folder.name, "wrong")
        with open(wrong, "w") as f:
            f.write("another-secret\n")
        p = w.of_url(key=wrong)
        assert p.returncode == 1 and "401" in p.stderr and "wrong key" in p.stderr and "secret" not in p.stderr, p.stderr
        p = w.of_url(url="http://127.0.0.1:1")
        assert p.returncode == 1 and "127.0.0.1:1" in p.stderr, p.stderr
        Curve.usage = False
        try:
            p = w.of_url()
            assert p.returncode == 1 and "usage" in p.stderr, p.stderr
        finally:
            Curve.usage = True
        for arguments, word in [((), "which node"), (("--url", w.url), "--type"), (("--url", w.url, "--type", "a/b"), "--type"),
                                (("--url", w.url, "--type", "t"), "--model"), (("--url", w.url, "--batch", "0"), "--batch")]:
            p = w.calibrate(*arguments)
            assert p.returncode == 2 and word in p.stderr, (arguments, p.returncode, p.stderr)
        assert not os.path.exists(os.path.join(w.folder.name, "calibration"))


CASES = [a_known_curve_is_found, a_line_that_falls_is_drawn_again, a_node_of_the_configuration, what_cannot_be_measured_is_said]

if __name__ == "__main__":
    main(__doc__, CASES)
