"""A node is taken away with a notice: it takes nothing new, its streams move to other nodes one by one before the end, and
no client sees more than a short pause: every byte is what it is undisturbed, no gap between two tokens is above 2 s, and
nothing runs on the node when it ends.

    tests/fault/preemption.py --build build            a notice of 4 s
    tests/fault/preemption.py --build build --full     and of 30 s, and of 2 minutes; the gap is judged: for a quiet machine

The notice is SIGTERM with `--drain-notice` set to its length: what a machine's own watcher of its cloud's metadata service
(engine/node/supervisor.h, SUPERVISOR_TAKEN_AWAY) says to the supervisor."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Connection, Scheduler, Skip, main, node, request, wait_until  # noqa: E402
from test_engine import engine, make_model  # noqa: E402

STREAMS = 8
GAP_MAX_S = 2.0


class Engine:
    def __init__(self, args, folder, name, notice_s):
        self.key_file = os.path.join(folder, "node-key")
        if not os.path.exists(self.key_file):  # the engines before read it whenever a worker starts
            with open(self.key_file, "w") as f:
                f.write("a key between scheduler and engines\n")
        self.log_path = os.path.join(folder, name + ".log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [engine(args), "serve", "--model", make_model(args), "--port", "0", "--alias", "tiny", "--threads",
                 "1", "--max-batch", str(2 * STREAMS), "--ctx-size", "16384", "--node-key-file", self.key_file,
                 "--drain-notice", str(notice_s)], stdout=log, stderr=log)
        self.port = int(wait_until(lambda: re.search(r'"message":"listening".*?"port":(\d+)', self.log()), 20, "it listens")[1])

    def node(self, name):
        return {**node(name, f"http://127.0.0.1:{self.port}", models=("tiny",)), "node_key_file": self.key_file,
                "slots": 2 * STREAMS}

    def running(self):
        text = request(self.port, "GET", "/metrics").body.decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()


def body(k, tokens):
    return {"model": "tiny", "messages": [{"role": "user", "content": f"number {k}"}], "max_tokens": tokens,
            "ignore_eos": True, "stream": True, "seed": k, "temperature": 0.8 if k % 2 else 0}


class Client(threading.Thread):
    """One stream: its text, when the pieces came, until it is told that it is enough."""

    def __init__(self, port, k, tokens):
        super().__init__()
        self.port, self.k, self.tokens = port, k, tokens
        self.text, self.gap, self.error, self.pieces = "", 0.0, None, 0
        self.done = False

    def run(self):
        try:
            c = Connection(self.port, "POST", "/v1/chat/completions", body(self.k, self.tokens), timeout=60)
            c.head()
            assert c.answer.status == 200, c.all().body
            last = None
            for event in c.events():
                now = time.monotonic()
                if event == "[DONE]":
                    self.done = True
                    break
                for choice in json.loads(event).get("choices", []):
                    said = (choice["delta"].get("reasoning_content") or "") + (choice["delta"].get("content") or "")
                    if said:
                        self.gap = max(self.gap, now - last) if last else self.gap
                        last, self.text, self.pieces = now, self.text + said, self.pieces + 1
            c.close()
        except (OSError, AssertionError, KeyError, ValueError) as e:
            self.error = e


class Host(threading.Thread):
    """How long the machine stood still at most: what it took from us is nobody's gap."""

    def __init__(self):
        super().__init__(daemon=True)
        self.stall, self.stop = 0.0, threading.Event()

    def run(self):
        last = time.monotonic()
        while not self.stop.wait(0.05):
            now = time.monotonic()
            self.stall, last = max(self.stall, now - last - 0.05), now


def taken_away(args, notice_s):
    if args.sanitized and not args.full:
        raise Skip("sanitized engines are too slow for it; --full")
    with tempfile.TemporaryDirectory(prefix="spillway-preempt-") as folder:
        engines = []
        try:
            for i in range(3):
                engines.append(Engine(args, folder, f"e{i}", notice_s))
            with Scheduler(args.build, [e.node(f"e{i}") for i, e in enumerate(engines)],
                           health={"interval": "1s", "timeout": "1s"}).ready(60) as s:
                wait_until(lambda: sum(m.startswith("spillway_node_up{") and v == 1 for m, v in s.metrics().items()) == 3, 60,
                           "all engines are ready")
                # How fast is it here? The streams shall outlast the notice.
                begin = time.monotonic()
                probe = [Client(s.port, k, 200) for k in range(STREAMS)]
                for c in probe:
                    c.start()
                for c in probe:
                    c.join()
                tokens = int(min(12000, max(400, 200 / (time.monotonic() - begin) * (notice_s * 1.2 + 1))))
                clients = [Client(s.port, k, tokens) for k in range(STREAMS)]
                for c in clients:
                    c.start()
                victim = wait_until(lambda: max(engines, key=Engine.running) if all(c.pieces for c in clients) else None, 30,
                                    "all streams run")
                there = victim.running()
                host = Host()
                host.start()
                begin = time.monotonic()
                victim.process.send_signal(signal.SIGTERM)
                same_status = victim.process.wait(notice_s + 10)
                ended_s = time.monotonic() - begin
                for c in clients:
                    c.join()
                host.stop.set()
                calm = []
                for k in range(STREAMS):
                    calm.append(Client(s.port, k, tokens))
                for c in calm:
                    c.start()
                for c in calm:
                    c.join()
                assert not [c.error for c in clients if c.error], [c.error for c in clients if c.error][:2]
                assert all(c.done for c in clients + calm)
                different = [c.k for c, d in zip(clients, calm) if c.text != d.text]
                assert not different, f"streams {different} differ"
                continued = s.metrics()['spillway_continuations_total{model="tiny"}']
                gap = max(c.gap for c in clients)
                print(f"        notice {notice_s} s, {there:.0f} of {STREAMS} streams of {tokens} tokens there: {continued:.0f} moved, "
                      f"the node ended after {ended_s:.1f} s, longest gap {gap:.2f} s (undisturbed "
                      f"{max(c.gap for c in calm):.2f} s, the host stood still for {host.stall:.2f} s)", flush=True)
                assert same_status == 0, victim.log()[-2000:]
                assert ended_s < notice_s, f"it ended {ended_s - notice_s:.1f} s too late"
                assert continued >= 1 and there >= 1
                if args.full:  # wants a machine that has nothing else to do
                    assert gap - host.stall <= GAP_MAX_S, (gap, host.stall)
        finally:
            for e in engines:
                e.process.kill()
                e.process.wait()


def short_notice(args):
    if not args.full:
        raise Skip("a minute: --full; test_engine_sleep and test_continuation have its parts")
    taken_away(args, 4)


def half_a_minute(args):
    if not args.full:
        raise Skip("half a minute's notice: --full")
    taken_away(args, 30)


def two_minutes(args):
    if not args.full:
        raise Skip("two minutes' notice: --full")
    taken_away(args, 120)


if __name__ == "__main__":
    main(__doc__, [short_notice, half_a_minute, two_minutes])
