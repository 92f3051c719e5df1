# runtest: alone
"""A node is taken away with a notice: it takes nothing new, its streams move to other nodes one by one before the end, and
no client sees more than a short pause: every byte is what it is undisturbed, no gap between two tokens is above 2 s, and
nothing runs on the node when it ends.

    tests/fault/preemption.py --build build                    a notice of 12 s, with streams of 4
    tests/fault/preemption.py --build build --full             and of 30 s, and of 2 minutes: six minutes

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
from engine_server import engine  # noqa: E402
from harness import Connection, Scheduler, Skip, main, node, request, wait_until  # noqa: E402
from test_sim_to_real import SHAPE  # noqa: E402

STREAMS, CONTEXT = 8, 8192
GAP_MAX_S = 2.0


def make_model(args, folder):
    """One that is slowed down by its weights, as real ones are, and not by its context alone."""
    path, shape = os.path.join(folder, "model.gguf"), os.path.join(folder, "shape.json")
    if not os.path.exists(path):
        with open(shape, "w") as f:
            json.dump({**SHAPE, "n_layer": 4, "n_ctx": CONTEXT}, f)
        subprocess.run([engine(args), "synth", "--shape", shape, "--type", "Q8_0", "--out", path], check=True, capture_output=True)
    return path


class Engine:
    def __init__(self, args, folder, name, notice_s, streams):
        self.key_file = os.path.join(folder, "node-key")
        if not os.path.exists(self.key_file):  # the engines before read it whenever a worker starts
            with open(self.key_file, "w") as f:
                f.write("a key between scheduler and engines\n")
        self.log_path = os.path.join(folder, name + ".log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [engine(args), "serve", "--model", make_model(args, folder), "--port", "0", "--alias", "m", "--threads",
                 "1", "--max-batch", str(2 * streams), "--ctx-size", str(CONTEXT), "--node-key-file", self.key_file,
                 "--drain-notice", str(notice_s)], stdout=log, stderr=log)
        self.port = int(wait_until(lambda: re.search(r'"message":"listening".*?"port":(\d+)', self.log()), 20, "it listens")[1])

    def node(self, name):
        return {**node(name, f"http://127.0.0.1:{self.port}", models=("m",)), "node_key_file": self.key_file,
                "slots": 2 * STREAMS}

    def running(self):
        text = request(self.port, "GET", "/metrics").body.decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()


def body(k, tokens):
    return {"model": "m", "messages": [{"role": "user", "content": f"number {k}"}], "max_tokens": tokens,
            "ignore_eos": True, "stream": True, "seed": k, "temperature": 0.8 if k % 2 else 0}


class Client(threading.Thread):
    """One stream: its text and when the pieces came, until its end or until `enough` of it is said."""

    def __init__(self, port, k, tokens, enough=lambda text: False):
        super().__init__()
        self.port, self.k, self.tokens, self.enough = port, k, tokens, enough
        self.text, self.gap, self.error, self.pieces = "", 0.0, None, 0
        self.node = None  # where it began
        self.done = self.left = False

    def run(self):
        try:
            c = Connection(self.port, "POST", "/v1/chat/completions", body(self.k, self.tokens),
                           headers={"x-spillway-cache": "off"}, timeout=60)
            c.head()
            assert c.answer.status == 200, c.all().body
            self.node = c.answer.headers["x-spillway-node"]
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
                if self.enough(self.text):
                    self.left = True
                    break
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


def start_all(clients):
    for c in clients:
        c.start()
    return clients


def join_all(clients):
    for c in clients:
        c.join()


def long_enough(s, streams, seconds):
    """So many tokens keep that many streams busy for so long, as fast as it is here and now."""
    begin, host = time.monotonic(), Host()
    host.start()
    join_all(start_all([Client(s.port, k, 60) for k in range(streams)]))
    host.stop.set()
    return int(min(CONTEXT - 100, max(120, 60 / (time.monotonic() - begin - host.stall) * seconds)))


def streams_under_way(s, streams, tokens, seconds, enough):
    """Clients that have been told something of their answers for so long, and have most of it before them; and how many
    tokens those have: `tokens` or, where that was reckoned while the machine was slower than it is now, more."""
    while True:
        clients = start_all([Client(s.port, k, tokens, enough) for k in range(streams)])
        wait_until(lambda: all(c.pieces for c in clients), 30, "all streams run")
        time.sleep(seconds)
        if tokens == CONTEXT - 100 or all(c.pieces < tokens / 2 for c in clients):
            return clients, tokens
        join_all(clients)
        tokens = min(2 * tokens, CONTEXT - 100)


def undisturbed(s, clients, tokens):
    """The same answers, computed once more, as far as they were read."""
    def as_far_as(c):
        return lambda text: c.left and len(text) >= len(c.text)

    calm = start_all([Client(s.port, c.k, tokens, as_far_as(c)) for c in clients])
    join_all(calm)
    assert all(c.done or c.left for c in clients + calm), [c.error for c in clients + calm if c.error][:2]
    different = [c.k for c, d in zip(clients, calm) if c.text != (d.text if c.done else d.text[:len(c.text)])]
    assert not different, f"streams {different} differ"
    return max(c.gap for c in calm)


def taken_away(args, notice_s, streams=STREAMS, last_s=None):
    """last_s: for how long streams would go on; for as long as the notice, unless told."""
    last_s = last_s or notice_s
    with tempfile.TemporaryDirectory(prefix="spillway-preempt-") as folder:
        engines = []
        try:
            for i in range(3):
                engines.append(Engine(args, folder, f"e{i}", notice_s, streams))
            with Scheduler(args.build, [e.node(f"e{i}") for i, e in enumerate(engines)],
                           health={"interval": "1s", "timeout": "1s"}).ready(60) as s:
                wait_until(lambda: sum(m.startswith("spillway_node_up{") and v == 1 for m, v in s.metrics().items()) == 3, 60,
                           "all engines are ready")
                before_s = last_s / 4  # so that there is something to be known elsewhere
                tokens = long_enough(s, streams, before_s + last_s * 1.1 + 1)
                end = []  # when there has been enough of it: as fast as now it may not stay, with more on fewer nodes
                clients, tokens = streams_under_way(s, streams, tokens, before_s,
                                                    lambda text: end and time.monotonic() > end[0])
                victim = max(engines, key=Engine.running)
                there, host = victim.running(), Host()
                host.start()
                begin = time.monotonic()
                end.append(begin + last_s + 5)
                victim.process.send_signal(signal.SIGTERM)
                status = victim.process.wait(notice_s + 10)
                ended_s = time.monotonic() - begin
                join_all(clients)
                host.stop.set()
                m, gap = s.metrics(), max(c.gap for c in clients)
                continued, ahead = (m[f'spillway_{k}_total{{model="m"}}'] for k in ("continuations", "moves"))
                print(f"        notice {notice_s} s, {there:.0f} of {streams} streams of {tokens} tokens there: {continued:.0f} moved, "
                      f"{ahead:.0f} of them before they were cut; the node ended after {ended_s:.1f} s, longest gap {gap:.2f} s (the "
                      f"host stood still for {host.stall:.2f} s); {sum(c.done for c in clients)} streams came to their end, "
                      f"{sum(c.left for c in clients)} still ran {last_s + 5} s after the notice", flush=True)
                for line in s.log_lines():
                    if line.get("message") == "a stream leaves its node before it goes":
                        print(f"        {line['node']} to {line['to']} with {line['ids']} tokens: {line['rounds']} rounds, the last in "
                              f"{line['last_round_ms']} ms")
                assert not [c.error for c in clients if c.error], [c.error for c in clients if c.error][:2]
                assert status == 0, victim.log()[-2000:]
                assert ended_s < notice_s, f"it ended {ended_s - notice_s:.1f} s too late"
                assert continued >= 1 and ahead >= 1 and there >= 1, (continued, ahead, there)
                calm = undisturbed(s, clients, tokens)
                print(f"        undisturbed the longest gap is {calm:.2f} s", flush=True)
                if not args.sanitized:
                    assert gap - host.stall - calm <= GAP_MAX_S, (gap, host.stall, calm)
        finally:
            for e in engines:
                e.process.kill()
                e.process.wait()


def short_notice(args):
    if args.sanitized:
        raise Skip("sanitized engines are too slow for it")
    taken_away(args, 12, 4, last_s=4)  # a machine that stands still for a second or two has time left


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
