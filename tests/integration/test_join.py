#!/usr/bin/env python3
"""Engines join their scheduler by themselves: a token works once, also across restarts and for nobody else; what they serve
is served over mutual TLS to their scheduler alone; a scheduler that starts again knows them by their certificates; a
certificate that has run out or was revoked opens nothing; who falls silent is out of service, then lost, and streams go on
elsewhere; a notice of the cloud's, a signal and the dead man's switch end a node in order; power caps are put back after a
crash."""

import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ec2_stage import KEYS, POOL, SETTINGS, FileServer, Machine, cloud  # noqa: E402
from harness import (Connection, Scheduler, Skip, free_port, json_lines, main, nvml_stub, request,  # noqa: E402
                     wait_until)
from test_two_engines import model_file  # noqa: E402

# A machine may be slow: who is not meant to be silent has time. What must be waited for is short.
BEAT = {"beat": "100ms", "silent_after": "4s", "lost_after": "20s"}
LONG = 300  # tokens of an answer that is to be interrupted
SOON = 30  # seconds; a bound for what should come at once
HEALTH = {"interval": "1s", "timeout": "1s"}


class Place:
    """A scheduler that lets engines in, and its engines."""

    def __init__(self, args, names=("gpu1",), extra_nodes=(), **join):
        self.args, self.folder = args, tempfile.mkdtemp(prefix="spillway-join-")
        self.engine = os.path.join(args.build, "spillway-engine")
        if not os.path.exists(self.engine):
            raise Skip(f"{self.engine} is not built")
        self.model = model_file(args, self.folder)
        self.port = free_port()
        self.engines = []
        self.settings = {"health": HEALTH, "cache": {"mode": "off"}, "capacity": {"interval": "200ms"}, "join": {"listen": f"127.0.0.1:{self.port}", "url": f"https://127.0.0.1:{self.port}",
                                  **BEAT, **join}}
        self.nodes = [{"name": n, "models": ["tiny"], "slots": 8} for n in names] + list(extra_nodes)
        self.configure()
        self.s = Scheduler(args.build, self.nodes, **self.settings)
        self.admin = os.path.join(self.s.folder, "state", "admin.sock")
        self.s.line(message="serving")

    def configure(self):
        """What else is in the configuration."""

    def lives(self):
        nodes = request(self.admin, "GET", "/admin/v1/nodes").json()["nodes"]
        return {n["name"]: n.get("life") for n in nodes}

    def run(self, *words):
        return subprocess.run([os.path.join(self.args.build, "spillway"), *words, "--config", self.s.config_path],
                              capture_output=True, text=True, cwd=self.s.folder)

    def cli(self, *words, status=0):
        done = self.run(*words)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout

    def token(self, name="gpu1", *more):
        path = os.path.join(self.folder, f"token-{len(os.listdir(self.folder))}")
        with open(path, "w") as f:
            f.write(self.cli("nodes", "token", name, *more))
        return path

    def reload(self, **join):
        self.settings["join"].update(join)
        self.s.configure(self.nodes, **{k: v for k, v in self.settings.items() if k != "env"})
        self.s.process.send_signal(signal.SIGHUP)

    def start(self, state="e1", token=None, *more, url=None, env=None):
        e = Engine(self, os.path.join(self.folder, state), token, more, url, env)
        self.engines.append(e)
        return e

    def node(self, name="gpu1"):
        a = request(self.admin, "GET", f"/admin/v1/nodes/{name}")
        return a.json() if a.status == 200 else None

    def state(self, name="gpu1"):
        n = self.node(name)
        return n and n["state"]

    def joined(self, name="gpu1"):
        a = request(self.admin, "GET", "/admin/v1/joined").json()["joined"]
        return next((x for x in a if x["name"] == name), None)

    def ready(self, name="gpu1"):
        try:
            wait_until(lambda: self.state(name) == "ready", 10, f"{name} is ready")
        except AssertionError:
            print(self.s.log_text()[-3000:], *(e.text()[-3000:] for e in self.engines), file=sys.stderr)
            raise

    def ask(self, **more):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8,
                "temperature": 0, "ignore_eos": True, **more}
        return request(self.s.port, "POST", "/v1/chat/completions", body, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            for e in self.engines:
                print(e.text()[-2500:], file=sys.stderr)
        for e in self.engines:
            e.end()
        try:
            self.s.__exit__(kind, value, trace)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Engine:
    def __init__(self, place, state, token, more, url, env):
        self.state, self.log_path = state, state + f".log{time.monotonic_ns()}"
        words = [place.engine, "serve", "--model", place.model, "--alias", "tiny", "--host", "127.0.0.1", "--port", "0",
                 "--threads", "1", "--max-batch", "8", "--state-dir", state, "--nvml-library", "none", "--drain-seconds", "5", "--notice-seconds", "1",
                 "--join", url or f"https://127.0.0.1:{place.port}"]
        words += ["--join-token-file", token] if token else []
        if "--nvml-library" in more:
            i = words.index("--nvml-library")
            del words[i:i + 2]
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen([*words, *more], stderr=self.log, stdout=self.log, env={**os.environ, **(env or {})})

    def text(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def lines(self):
        return json_lines(self.text())

    def line(self, **fields):
        return wait_until(lambda: next((x for x in self.lines() if fields.items() <= x.items()), None), 10,
                          f"a line {fields} of {self.text()[-1500:]}")

    def port(self):
        return self.line(message="listening")["port"]

    def says(self, text):
        wait_until(lambda: text in self.text(), 10, f"it says {text}: {self.text()[-1500:]}")

    def signal_all(self, number):
        """To the supervisor and its worker."""
        for pid in (self.process.pid, *children(self.process.pid)):
            os.kill(pid, number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(SOON)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        assert self.process.returncode in (0, -signal.SIGKILL), f"it ended with {self.process.returncode}"


def joins_and_serves(args):
    with Place(args) as p:
        assert p.state() == "starting" and "join" in p.node()["reason"], p.node()
        token = p.token()
        e = p.start("e1", token)
        p.ready()
        a = p.ask()
        assert a.status == 200 and a.headers["x-spillway-node"] == "gpu1", (a.status, a.body)
        n = p.node()
        assert n["resumes"] and n["address"].startswith("https://"), n
        j = wait_until(lambda: (lambda x: x if x and x["numerics"] else None)(p.joined()), 10, "its card has come")
        assert j["state"] == "here" and j["sleep"] == "awake" and j["numerics"] == n["numerics"], (j, n)
        for name in ("node.pem", "node.key"):
            assert os.stat(os.path.join(e.state, name)).st_mode & 0o777 == 0o600
        assert not os.path.exists(os.path.join(e.state, "pending.key"))
        strangers_are_refused(p, e)
        sleeps_over_tls(p)


def strangers_are_refused(p, e):
    """Nobody without the scheduler's own certificate: not with none, not with this node's own."""
    for pair in (None, os.path.join(e.state, "node.pem")):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname = False
        ctx.verify_mode = ssl.CERT_NONE
        if pair:
            ctx.load_cert_chain(pair, pair)
        try:
            with socket.create_connection(("127.0.0.1", e.port()), 10) as c, ctx.wrap_socket(c) as t:
                t.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                got = t.recv(100)
        except OSError:
            got = b""
        assert got == b"", got
    try:
        with socket.create_connection(("127.0.0.1", e.port()), 10) as c:
            c.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not c.recv(100).startswith(b"HTTP"), "plain HTTP is answered"
    except OSError:
        pass


def sleeps_over_tls(p):
    wait_until(lambda: p.node().get("life") == "ready", 10, "the capacity controller knows it")
    p.cli("nodes", "sleep", "gpu1")
    wait_until(lambda: p.state() == "asleep" and p.joined()["sleep"] == "asleep", 10, "it sleeps, and says so")
    a = p.ask()
    assert a.status == 200 and a.headers["x-spillway-node"] == "gpu1", (a.status, a.body)


def tokens_work_once(args):
    with Place(args, names=("gpu1", "gpu2")) as p:
        token = p.token()
        e = p.start("e1", token)
        p.ready()
        thief = p.start("e2", token)
        thief.says("used already")
        p.s.kill()
        p.s.restart()
        p.s.line(message="serving")
        p.ready()  # over its certificate: nobody typed anything
        assert p.ask().status == 200
        thief.end()
        again = p.start("e3", token)
        again.says("used already")
        again.end()
        # the same node after its own restart, without a token
        e.end()
        wait_until(lambda: p.state() != "ready", 10, "it is gone")
        e = p.start("e1", None)
        p.ready()
        # for a name that has a url, or nobody expects; a token that is none
        assert "is not a name" in subprocess.run(
            [os.path.join(args.build, "spillway"), "nodes", "token", "a b", "--config", p.s.config_path],
            capture_output=True, text=True).stderr
        nobody = p.start("e4", p.token("stranger"))
        nobody.says("nobody here expects")


def wrong_authority(args):
    with Place(args) as p, Place(args) as q:
        e = p.start("e1", q.token(), url=f"https://127.0.0.1:{p.port}")  # their token, our address
        e.says("does not let us in")
        time.sleep(0.5)
        assert p.joined() is None and "joined\"" not in e.text()


def is_renewed(args):
    with Place(args, cert_life="6s") as p:
        e = p.start("e1", p.token())
        p.ready()
        first = os.stat(os.path.join(e.state, "node.pem")).st_ino
        wait_until(lambda: os.stat(os.path.join(e.state, "node.pem")).st_ino != first, 10, "it is renewed in time")
        p.reload(cert_life="1h")  # what comes next is not about the next one
        assert p.ask().status == 200
        assert p.joined()["state"] == "here"
        m = p.s.metrics()
        assert m["spillway_join_certificates_issued_total"] == 1, m
        assert m["spillway_join_certificates_renewed_total"] >= 1 and m["spillway_join_beats_total"] > 10, m
        assert m["spillway_join_tokens_total"] == m["spillway_join_tokens_used_total"] == 1, m
        assert m['spillway_join_nodes{state="here"}'] == 1, m


def runs_out(args):
    with Place(args, cert_life="1s", silent_after="1s", lost_after="2s") as p:
        e = p.start("e1", p.token())
        e.says('"joined"')
        e.process.send_signal(signal.SIGSTOP)
        time.sleep(2.1)  # or it has run out before that
        e.process.send_signal(signal.SIGCONT)
        e.says("used already")  # its certificate has run out, and its token is used
        wait_until(lambda: p.state() != "ready", 10, "it is out of service")


def is_revoked(args):
    with Place(args) as p:
        e = p.start("e1", p.token(), "--end-command", "echo the-end-command")
        p.ready()
        p.cli("nodes", "revoke", "gpu1")
        assert e.process.wait(SOON) == 0
        e.says("the-end-command")
        again = p.start("e1", None)
        again.says("no certificate that holds")


def stopped_in_a_stream(p, engine):
    """A stream of gpu1's that has begun and cannot go on there; None: it was over before its engine stopped."""
    c = Connection(p.s.port, "POST", "/v1/chat/completions",
                   {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": LONG,
                    "temperature": 0, "ignore_eos": True, "stream": True}, timeout=60)
    c.head()
    text, events = "", c.events()
    while not text:
        text = next(events)
        text = "" if text == "[DONE]" else json.loads(text)["choices"][0]["delta"].get("content", "")
    engine.signal_all(signal.SIGSTOP)
    if p.node("gpu1")["in_flight"]:
        return c, events
    engine.signal_all(signal.SIGCONT)
    return None


def silence(args):
    with Place(args, names=("gpu1", "gpu2"), silent_after="1500ms", lost_after="2500ms") as p:
        e1 = p.start("e1", p.token("gpu1"))
        p.start("e2", p.token("gpu2"))
        p.ready("gpu1")
        p.ready("gpu2")
        p.cli("nodes", "drain", "gpu2")
        whole = p.ask(max_tokens=LONG).json()["choices"][0]["message"]["content"]
        c, events = wait_until(lambda: stopped_in_a_stream(p, e1), 10, "a stream that is interrupted")
        p.cli("nodes", "undrain", "gpu2")
        wait_until(lambda: p.state("gpu1") == "failing", 10, "it is out of service")
        wait_until(lambda: p.joined("gpu1")["state"] == "lost", 10, "it is lost")
        for _ in events:
            pass
        a = c.answer
        assert a.events[-1][1] == "[DONE]" and a.text() == whole, (a.text()[:80], whole[:80])
        m = p.s.metrics()
        assert m['spillway_continuations_total{model="tiny"}'] >= 1, m
        p.s.line(area="join", message="lost", node="gpu1")
        lost = [x["node"] for x in p.s.log_lines() if x.get("area") == "join" and x["message"] == "lost"]
        assert lost.count("gpu1") == 1 and m["spillway_join_lost_total"] == len(lost), (lost, m)
        e1.signal_all(signal.SIGCONT)
        p.ready("gpu1")
        assert p.joined("gpu1")["state"] == "here"


def a_scheduler_that_stood_still(args):
    """What engines said meanwhile it reads afterwards: nobody was silent."""
    with Place(args, names=("gpu1", "gpu2"), silent_after="3s", lost_after="4s") as p:
        for name, state in (("gpu1", "e1"), ("gpu2", "e2")):
            p.start(state, p.token(name))
            p.ready(name)
        for _ in range(2):
            p.s.process.send_signal(signal.SIGSTOP)
            time.sleep(5)
            p.s.process.send_signal(signal.SIGCONT)
            beats = p.s.metrics()["spillway_join_beats_total"]
            wait_until(lambda: p.s.metrics()["spillway_join_beats_total"] > beats + 8, 10, "their hearts beat")
        m = p.s.metrics()
        assert m["spillway_join_silent_total"] == m["spillway_join_lost_total"] == 0, p.s.log_text()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(x) for x in f.read().split()]


class Metadata(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, text=""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        self.server.tokens += 1
        self.reply(200, f"token-{self.server.tokens}")

    def do_GET(self):
        if self.headers.get("X-aws-ec2-metadata-token") != f"token-{self.server.tokens}" or self.server.expire:
            self.server.expire = False
            return self.reply(401)
        text = self.server.answers.get(self.path.split("meta-data/")[-1])
        self.reply(200 if text else 404, text or "")


def notice_of_the_cloud(args):
    imds = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    imds.daemon_threads = True
    imds.tokens, imds.expire, imds.answers = 0, False, {}
    threading.Thread(target=imds.serve_forever, daemon=True).start()
    try:
        with Place(args, names=("gpu1", "gpu2")) as p:
            url = f"http://127.0.0.1:{imds.server_address[1]}"
            e1 = p.start("e1", p.token("gpu1"), "--notices", url, "--end-command", "echo never")
            p.start("e2", p.token("gpu2"))
            p.ready("gpu1")
            p.ready("gpu2")
            imds.expire = True
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
            imds.answers["spot/instance-action"] = json.dumps({"instance-action": "terminate", "time": at})
            wait_until(lambda: p.node("gpu1")["draining"], 10, "the scheduler drains it")
            assert imds.tokens >= 2, "a session token that is refused is renewed"
            e1.line(message="notice", what="spot_interruption")
            p.s.line(message="it has notice of its end", node="gpu1", what="spot_interruption")
            assert p.ask().headers["x-spillway-node"] == "gpu2"
    finally:
        imds.shutdown()


def a_signal_is_announced(args):
    with Place(args) as p:
        e = p.start("e1", p.token())
        p.ready()
        e.process.terminate()
        assert e.process.wait(SOON) == 0
        p.s.line(message="it has notice of its end", node="gpu1", what="signal")


def dead_mans_switch(args):
    with Place(args) as p:
        for seconds in (6, 12, 24) if args.sanitized else (3, 6, 12):  # from the start: until it has joined, too
            e = p.start("e1", p.token(), "--dead-man", f"{seconds}s", "--end-command", "echo the-end-command")
            begin = time.monotonic()
            wait_until(lambda: p.state() == "ready" or e.process.poll() is not None, 10, "it is ready")
            if e.process.poll() is None:
                break
        time.sleep(max(0, begin + seconds + 0.5 - time.monotonic()))
        assert e.process.poll() is None, "it lives as long as it hears something"
        p.s.kill()
        assert e.process.wait(SOON) == 0
        e.says("the-end-command")
        p.s.restart()
        p.s.line(message="serving")


def watts_and_caps(args):
    with Place(args) as p:
        library, card = nvml_stub(p.folder), os.path.join(p.folder, "card")
        with open(card, "w") as f:
            f.write("350000\n")

        def limit():
            with open(card) as f:
                return int(f.read())

        def start(*words):
            token = None if p.engines else p.token()
            e = p.start("e1", token, "--nvml-library", library, "--rapl-dir", p.folder, *words, env={"NVML_STUB": card})
            e.port()
            return e

        e = start("--power-cap", "200")
        p.ready()
        assert limit() == 200000, limit()
        j = wait_until(lambda: (lambda x: x if x and x["watts"] else None)(p.joined()), 10, "its watts have come")
        assert j["watts_are"] == "measured" and 60 < j["watts"] < 90, j
        assert p.node()["watts_are"] == "measured"
        e.kill()  # nothing is tidied up
        assert limit() == 200000
        e = start()
        p.ready()
        assert limit() == 350000, "the next start puts back what a crash left"
        e.end()
        e = start("--power-cap", "10")
        assert limit() == 100000, "the card's own bounds hold"
        e.end()
        assert limit() == 350000, "an end in order puts it back"


class Rented(Place):
    """A place whose only node is an instance that a cloud launches: it boots by the user data of ours, fetches engine and
    model, and joins with the token that is its tag."""

    def __init__(self, args):
        self.machines = []
        self.cloud = cloud(scale=1.0, start_machine=self.machine)
        self.cloud.cloud.billing_min_s = 1
        super().__init__(args, names=())

    def configure(self):
        data = {"/engine": self.engine, "/model": self.model}
        for path, file in data.items():
            with open(file, "rb") as f:
                data[path] = f.read()
        self.files = FileServer(data)
        own = {**POOL, "port": free_port(), "boot": "2s", "boot_max": "60s", "model_path": "/model",
               **{f"{what}_url": f"{self.files.url}/{what}" for what in ("engine", "model")},
               **{f"{what}_sha256": hashlib.sha256(data["/" + what]).hexdigest() for what in ("engine", "model")},
               "arguments": ["--threads", "1", "--max-batch", "4", "--nvml-library", "none"]}
        pool = {"name": "rent", "provider": "aws", "models": ["tiny"], "min": 0, "max": 1, "tokens_per_s": 400, "slots": 4,
                "boot": "2s", "billing_min": "1s", "settings": own}
        self.settings["providers"] = [{"name": "aws", "type": "ec2", "settings": {**SETTINGS, "endpoint": self.cloud.url}}]
        self.settings["capacity"].update({"max_nodes": 1, "max_hour": "5", "down_after": "10m", "drain": "5s", "sweep": "1s",
                                          "pools": [pool]})
        self.settings["env"] = KEYS

    def machine(self, fake, instance):
        self.machines.append(Machine(fake, instance))
        return self.machines[-1]

    def __exit__(self, kind, value, trace):
        if kind and self.machines and self.machines[0].process.poll() is None:
            with open(self.machines[0].log.name, errors="replace") as f:
                print(f.read()[-3000:], file=sys.stderr)
        try:
            super().__exit__(kind, value, trace)
        finally:
            self.cloud.close()
            self.files.close()


def launched_joined_revoked(args):
    """From the launch to the end: what an instance was given opens nothing afterwards, for nobody."""
    with Rented(args) as p:
        wait_until(lambda: p.run("nodes", "launch", "rent").returncode == 0, 10, "prices have come, and it is launched")
        wait_until(lambda: any(life == "ready" for life in p.lives().values()), 30, "it has booted and joined")
        name, = p.lives()
        instance, = p.cloud.alive()
        n, j = p.node(name), p.joined(name)
        assert n["address"].startswith(f"https://{instance.ip}:") and j["state"] == "here", (n, j)
        a = p.ask()
        assert a.status == 200 and a.headers["x-spillway-node"] == name, (a.status, a.body)
        token, token_file = instance.tags["spillway-join"], os.path.join(p.folder, "copied-token")
        assert token.encode() not in instance.fields["userdata"], "all machines of a pool have the same user data"
        with open(token_file, "w") as f:
            f.write(token)
        p.start("second", token_file).says("used already")
        shutil.copytree(os.path.join(p.machines[0].root, "var"), os.path.join(p.folder, "copied"))
        p.settings["capacity"]["pools"], p.nodes = [], [{"name": "own", "models": ["tiny"]}]
        p.reload()  # by hand alone the next one would come, and have its name
        wait_until(lambda: not p.cloud.alive() and name not in p.lives(), 30, "drained and terminated")
        copy = p.start("copied", token_file)  # its certificate has not run out
        copy.says("worth nothing any more")
        assert copy.process.wait(SOON) == 0
        time.sleep(1)  # a token of the very second would be refused as an older one
        p.start("again", p.token(name)).says("nobody here expects")
        assert name not in p.lives() and p.s.metrics()["spillway_join_revoked_total"] == 1


if __name__ == "__main__":
    main(__doc__, [launched_joined_revoked, dead_mans_switch, is_renewed, silence, a_scheduler_that_stood_still, runs_out,
                   joins_and_serves, tokens_work_once, wrong_authority, is_revoked, notice_of_the_cloud, a_signal_is_announced,
                   watts_and_caps], at_once=4)
