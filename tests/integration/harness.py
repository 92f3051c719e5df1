"""What the integration tests share: the real programs on free loopback ports, an OpenAI upstream that misbehaves on
demand, a small client that keeps times, and the count of passed and failed. Standard library only."""

import argparse
import atexit
import base64
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import queue
import random
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback


def listens(path):
    """Somebody takes connections on this Unix socket: its name is there a moment before."""
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(path) == 0


def free_port():
    """For somebody else to listen on, soon. Below the ports that the kernel gives to whoever asks for any: neither a
    connection nor another test gets it meanwhile, nor while its owner is down."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def lasting_folder(prefix):
    """One that is there until the tests' program ends."""
    folder = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


PATIENCE = float(os.environ.get("SPILLWAY_TEST_PATIENCE", 6))  # machines differ, and some are busy
LATE_PROBES = float(os.environ.get("SPILLWAY_TEST_LATE_PROBES", 0))  # seconds: how late a fake answers a GET at most


def wait_until(condition, seconds=5.0, what="condition"):
    """`seconds` on the machine that this was written on: what must be quick is measured, not waited for. A look that took
    for ever, because nobody could run, counts for five of them."""
    seconds *= PATIENCE
    left, last = seconds, time.monotonic()
    while True:
        late = left <= 0  # asked before the condition: who was kept from running looks once more
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"waited {seconds} s for: {what}")
        time.sleep(0.005)
        now = time.monotonic()
        left, last = left - min(now - last, 5), now


class Stalls:
    """How long this machine has stood still, as far as a thread can see that wants to run each few milliseconds: where a
    bound on a time is what is tested, what nobody could have done anything in is not counted.

        with Stalls() as stalls:
            ...
        assert took - stalls.seconds < 0.5
    """

    TICK_S, NOTED_S = 0.005, 0.04  # later than that by so much: it stood still

    def __enter__(self):
        self.seconds, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        last, ended = time.monotonic(), False
        while not ended:
            ended = self.ended.wait(self.TICK_S)
            now = time.monotonic()
            late = now - last - self.TICK_S
            if late > self.NOTED_S:
                self.seconds += late
            last = now

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def until_quick(attempt, bound, tries=9):
    """attempt() does what must be quick and returns how long it took, in seconds: it is, where one of several tries is. A
    machine may keep anybody waiting now and then; what is slow by itself is slow each time."""
    took = []
    while len(took) < tries:
        took.append(attempt())
        if took[-1] < bound:
            return took[-1]
    raise AssertionError(f"each took {bound} s or more: {took}")


# ---- the upstream -----------------------------------------------------------------------------------------------------


class Script:
    """How an upstream answers. Every field has the well-behaved default."""

    def __init__(self, **fields):
        self.words = ["Hello", " there", ",", " world", "!"]
        self.head_delay = 0.0  # seconds before the head
        self.word_delay = 0.0  # seconds before each word
        self.status = 200  # anything else: an error body
        self.retry_after = None
        self.error_body = None  # bytes instead of the default error object
        self.gate = None  # a threading.Event that answers wait for
        self.hold = None  # one that each word of a stream waits for: the head and the role have come by then
        self.step = None  # a threading.Semaphore: each word of a stream, and then its end, takes one of it
        self.hang = None  # "head": never answers; "body": stops after cut_after words
        self.cut_after = None  # words after which the connection is cut
        self.error_event_after = None  # words after which an error event comes
        self.usage = "final"  # "final", "none", "content" (in the last word's chunk), "finish" (in the finish chunk)
        self.usage_fields = None  # the usage object instead of the true one
        self.answer = None  # a whole answer's body instead of all that
        self.done = True  # ends with [DONE]
        self.finish = True
        # "json": a chunk that is no JSON; "chunk": broken HTTP; "type": wrong content type; "body": no JSON; "length":
        # a body shorter than it says
        self.bad = None
        self.crlf = False
        self.frame_pieces = 1  # each frame is sent in so many writes
        self.model = None  # name in the answer; default: the one asked for
        self.repeat = 1  # the words so many times over
        self.choices = None  # the whole answer's choices instead of one with the words
        self.deltas = None  # choices of the stream's chunks, chunk by chunk, instead of the words
        self.__dict__.update(fields)


def embeddings_of(body):
    """The `data` of an answer: a vector for each input, the same for the same one."""
    given = body["input"]
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    data = []
    for i, one in enumerate(inputs):
        vector = [b / 256 - 0.5 for b in hashlib.sha256(json.dumps(one).encode()).digest()[:body.get("dimensions", 8)]]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    return data


class Upstream:
    """An OpenAI-compatible server with scripted faults. `scripts` is used up one per request, then `default` holds."""

    def __init__(self, name="up", default=None, health=200, api_key=None, tls=None, address=("127.0.0.1", 0)):
        self.name = name
        self.default = default or Script()
        self.scripts = collections.deque()
        self.health = health
        self.api_key = api_key
        self.requests = []  # (path, headers, body as sent)
        self.aborted = queue.Queue()  # monotonic time at which a client was seen to leave
        self.active = 0
        self.most_active = 0
        self.sent_bytes = 0  # of streams
        self.lock = threading.Lock()
        self.local = threading.local()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(address)
        self.socket.listen(256)
        self.host, self.port = self.socket.getsockname()
        self.tls = tls  # (certificate file, key file)
        self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        self.stopped = False
        self.connections = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.stopped = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # at once, whoever waits for it
        except OSError:
            pass  # stopped before
        self.socket.close()
        self.kept = socket.socket()  # nobody else gets the port, who would answer in its place
        self.kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.kept.bind((self.host, self.port))
        except OSError:
            pass  # its successor is there
        with self.lock:
            connections = list(self.connections)
        for c in connections:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def generations(self):
        return [r for r in self.requests if r[0] != "/v1/models" and r[0].startswith(("/v1/", "/tokenize", "/detokenize"))]

    def _accept(self):
        # Polling, because closing a socket does not wake a thread that waits in accept.
        self.socket.settimeout(0.2)
        while not self.stopped:
            try:
                c, _ = self.socket.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            c.settimeout(None)
            with self.lock:
                self.connections.add(c)
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            try:
                c = context.wrap_socket(c, server_side=True)
            except OSError:
                c.close()
                return
        reader = c.makefile("rb")
        try:
            while self._one(c, reader):
                pass
        except (OSError, ValueError):
            pass
        finally:
            with self.lock:
                self.connections.discard(c)
            c.close()

    def _one(self, c, reader):
        line = reader.readline()
        if not line:
            return False
        method, path, _ = line.decode().split()
        headers = {}
        while True:
            h = reader.readline().decode().rstrip("\r\n")
            if not h:
                break
            key, _, value = h.partition(":")
            headers[key.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        if method == "GET":
            time.sleep(random.uniform(0, LATE_PROBES))
            return self._get(c, path, headers)
        with self.lock:
            self.requests.append((path, headers, body))
            script = self.scripts.popleft() if self.scripts else self.default
            self.active += 1
            self.local.active = 1
            self.most_active = max(self.most_active, self.active)
        try:
            return self._answer(c, path, json.loads(body), script)
        except (BrokenPipeError, ConnectionResetError):
            self.aborted.put(time.monotonic())
            raise
        finally:
            self._inactive()

    def _inactive(self):
        """Before the last bytes: who sees them may send the next request at once."""
        with self.lock:
            self.active -= self.local.active
            self.local.active = 0

    def _get(self, c, path, headers):
        status, body = 200, b'{"object":"list","data":[]}'
        if path == "/health":
            status, body = self.health, b"{}"
        if self.api_key and headers.get("authorization") != f"Bearer {self.api_key}":
            status, body = 401, b'{"error":{"message":"bad key"}}'
        self._send(c, f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return True

    def _send(self, c, data):
        c.sendall(data)

    def _gone(self, c):
        """Has the client closed? (It never pipelines, so readable means closed.)"""
        if self.tls:
            return False
        c.setblocking(False)
        try:
            return c.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            c.setblocking(True)

    def _sleep(self, c, seconds):
        end = time.monotonic() + seconds
        while True:
            if self._gone(c):
                self.aborted.put(time.monotonic())
                raise OSError("client left")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.005))

    def _step(self, c, script):
        while script.step and not script.step.acquire(blocking=False):
            self._sleep(c, 0.002)

    def _usage(self, body, script, words):
        if script.usage_fields is not None:
            return script.usage_fields
        prompt = len(json.dumps(body.get("messages", body.get("prompt", body.get("input", ""))))) // 4
        if "input" in body:
            return {"prompt_tokens": prompt, "total_tokens": prompt}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": words,
            "total_tokens": prompt + words,
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        }

    def _answer(self, c, path, body, script):
        self._sleep(c, script.head_delay)
        while script.gate and not script.gate.is_set():
            self._sleep(c, 0.005)
        if script.hang == "head":
            self._sleep(c, 3600)
        if script.status != 200:
            error = script.error_body or json.dumps(
                {"error": {"message": "scripted", "type": "scripted_error", "param": None, "code": "scripted"}}).encode()
            extra = f"Retry-After: {script.retry_after}\r\n" if script.retry_after else ""
            self._send(c, f"HTTP/1.1 {script.status} X\r\n{extra}Content-Length: {len(error)}\r\n\r\n".encode() + error)
            return True
        chat = path.endswith("/chat/completions")
        words = script.words * script.repeat
        if body.get("stream"):
            return self._stream(c, chat, body, script, words)
        model = script.model or body["model"]
        text = "".join(words)
        choice = {"index": 0, "finish_reason": "stop"}
        choice.update({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        answer = {"id": "cmpl-1", "object": "chat.completion", "created": 1, "model": model,
                  "choices": script.choices or [choice]}
        if path.endswith("/embeddings"):
            answer = {"object": "list", "model": model, "data": embeddings_of(body)}
        if script.answer:
            answer = script.answer
        elif script.usage != "none":
            answer["usage"] = self._usage(body, script, len(words))
        data = b"<html>nope</html>" if script.bad == "body" else json.dumps(answer).encode()
        length = len(data) + (10 if script.bad == "length" else 0)
        for _ in words:
            self._sleep(c, script.word_delay)
        if script.cut_after is not None:
            data = data[: script.cut_after]
        self._inactive()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        self._send(c, head.encode() + data)
        return script.bad != "length" and script.cut_after is None

    def _frame(self, c, text, script):
        end = "\r\n" if script.crlf else "\n"
        data = f"data: {text}{end}{end}".encode()
        step = max(1, -(-len(data) // script.frame_pieces))
        for i in range(0, len(data), step):
            piece = data[i : i + step]
            self._send(c, f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.sent_bytes += len(piece)
            if script.frame_pieces > 1:
                time.sleep(0.002)

    def _stream(self, c, chat, body, script, words):
        model = script.model or body["model"]
        kind = "application/json" if script.bad == "type" else "text/event-stream"
        self._send(c, f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        include = bool((body.get("stream_options") or {}).get("include_usage"))

        def chunk(delta, finish=None, usage=None):
            choice = {"index": 0, "finish_reason": finish}
            choice.update({"delta": delta} if chat else {"text": delta.get("content", "")})
            v = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
            if include and script.usage != "none":
                v["usage"] = usage
            return json.dumps(v)

        usage = self._usage(body, script, len(words))
        if script.deltas:
            for choices in script.deltas:
                self._frame(c, json.dumps({"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
                                           "choices": choices}), script)
            self._frame(c, json.dumps({"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
                                       "choices": [], "usage": usage}), script)
            self._inactive()
            self._frame(c, "[DONE]", script)
            self._send(c, b"0\r\n\r\n")
            return True
        if chat and script.cut_after != 0:
            self._frame(c, chunk({"role": "assistant", "content": ""}), script)
        for i, word in enumerate(words):
            self._sleep(c, script.word_delay)
            while script.hold and not script.hold.is_set():
                self._sleep(c, 0.005)
            self._step(c, script)
            if script.cut_after is not None and i >= script.cut_after:
                if script.hang == "body":
                    self._sleep(c, 3600)
                c.shutdown(socket.SHUT_RDWR)
                return False
            if script.error_event_after is not None and i >= script.error_event_after:
                self._frame(c, json.dumps({"error": {"message": "scripted", "type": "server_error", "code": 500}}), script)
                return False
            if script.bad == "chunk" and i == len(words) - 1:
                self._send(c, b"zz\r\n")
                return False
            if script.bad == "json" and i == len(words) - 1:
                self._frame(c, '{"id": "x", "choices": [}', script)
                return False
            last = i == len(words) - 1
            self._frame(c, chunk({"content": word}, usage=usage if script.usage == "content" and last else None), script)
        self._step(c, script)
        if script.finish:
            self._frame(c, chunk({}, "stop", usage if script.usage == "finish" else None), script)
        if include and script.usage == "final":
            v = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [],
                 "usage": usage}
            self._frame(c, json.dumps(v), script)
        self._inactive()
        if script.done:
            self._frame(c, "[DONE]", script)
        self._send(c, b"0\r\n\r\n")
        return True


def certificate(folder, name="localhost"):
    """A self-signed certificate for `name`: (certificate file, key file)."""
    cert, key = os.path.join(folder, f"{name}.crt"), os.path.join(folder, f"{name}.key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


# ---- the scheduler ----------------------------------------------------------------------------------------------------


def key_hash(key):
    return hashlib.sha256(key.encode()).hexdigest()


def thread_names(pid):
    """Of all threads of a process, the first one's first."""
    folder = f"/proc/{pid}/task"
    names = []
    for task in sorted(os.listdir(folder), key=int):
        with open(f"{folder}/{task}/comm") as f:
            names.append(f.read().rstrip("\n"))
    return names


def run_ns(pid):
    """The processor's time that all threads of a process have had: /proc/PID/schedstat is of the first alone."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total


def json_lines(text):
    """The lines of a log that are JSON."""
    out = []
    for line in text.splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:
            pass
    return out


def in_parallel(jobs):
    """Calls them all at once; their results, in order. The first that failed is raised, when all are through."""
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        started = [pool.submit(job) for job in jobs]
    return [job.result() for job in started]


# Of nodes that are to be there, whatever keeps them from answering for a moment: where it is exact who gets what, or where so
# much goes on here that they are late.
PATIENT_HEALTH = {"interval": "5s", "timeout": "5s"}


class Scheduler:
    """`spillway serve` with a configuration that is written here. node(): one entry of `nodes`."""

    def __init__(self, build, nodes, keys=None, env=None, **settings):
        self.folder = tempfile.mkdtemp(prefix="spillway-it-")
        self.log_path = os.path.join(self.folder, "log")
        self.ledger_path = os.path.join(self.folder, "state", "ledger.db")
        self.config_path = os.path.join(self.folder, "spillway.yaml")
        self.configure(nodes, keys, **settings)
        self.program, self.env = os.path.join(build, "spillway"), {**os.environ, **(env or {})}
        self.log = open(self.log_path, "ab")
        self.unsaid = []
        atexit.register(lambda: self.close() if hasattr(self, "process") else None)  # whatever became of the test
        self._start()

    def configure(self, nodes, keys=None, **settings):
        """Write the configuration, whole or not at all."""
        lines = ["state_dir: state"]
        if "auth" not in settings:
            lines.append(f"auth: {'keys' if keys else 'off'}")
        # One worker wherever a suite runs; SPILLWAY_TEST_WORKERS=3 runs it over several.
        defaults = {"listen": "127.0.0.1:0", "workers": os.environ.get("SPILLWAY_TEST_WORKERS", "1"),
                    # Who is gone refuses, and is seen to be within a second; who is late is a fake on a busy machine.
                    "health": {"interval": "1s", "timeout": "1s"}, "drain": "5s",
                    # Nodes that fail on purpose are asked again at once; test_nodes.py is about what happens otherwise.
                    "breaker": {"failures": 0, "percent": 0, "cool_down_max": 0}}
        if "SPILLWAY_TEST_JOURNAL" in os.environ:  # "always": the journal's way for rows, as under much load
            settings["ledger"] = {"journal": os.environ["SPILLWAY_TEST_JOURNAL"], **settings.get("ledger", {})}
        for key, value in {**defaults, **settings}.items():
            lines += to_yaml(key, value)
        if keys:
            lines += to_yaml("keys", keys)
        lines += to_yaml("nodes", nodes)
        self.write_config("\n".join(lines) + "\n")

    def write_config(self, text):
        with open(self.config_path + ".new", "w") as f:
            f.write(text)
        os.rename(self.config_path + ".new", self.config_path)

    def _start(self):
        self.process = subprocess.Popen([self.program, "serve", "--config", self.config_path],
                                        stderr=self.log, stdout=self.log, cwd=self.folder, env=self.env)
        try:
            self.port = wait_until(self._port, 10, "the scheduler listens")
        except AssertionError:
            print(self.log_text(), file=sys.stderr)
            self.close()
            raise

    def _port(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the scheduler ended with {self.process.returncode}:\n{self.log_text()}")
        lines = self.log_lines()
        if not any(line.get("message") == "serving" for line in lines):
            return None  # the admin API comes after the front
        for line in lines:
            if line.get("message") == "listening" and line.get("area") == "front":
                return line["port"] or line["address"].removeprefix("unix:")
        return None

    def log_text(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def never_says(self, *words):
        """None of them is in the log, nor when it has ended: lines come a moment after what they tell."""
        self.unsaid += words
        self._check_unsaid()

    def _check_unsaid(self):
        text = self.log_text()
        assert not [w for w in self.unsaid if w in text], [w for w in self.unsaid if w in text]

    def ready_nodes(self):
        """Names of the nodes that have become ready; engines that it has started write into the same log."""
        return {x["node"] for x in self.log_lines()
                if x.get("program") == "spillway" and x.get("area") == "node" and x.get("state") == "ready"}

    def nodes_ready(self, count, seconds=10.0):
        """Wait until so many of its nodes have become ready. Other areas tell the same of a node, in lines of their own."""
        wait_until(lambda: len(self.ready_nodes()) >= count, seconds, f"{count} nodes are ready")
        return self

    def log_lines(self):
        return json_lines(self.log_text())

    def line(self, **fields):
        """The first line of the log with these fields; lines come a moment after what they tell."""
        return wait_until(lambda: next((x for x in self.log_lines() if fields.items() <= x.items()), None), 5, f"a line {fields}")

    def takes_requests(self, seconds=5.0):
        """One of its nodes may have them."""
        wait_until(lambda: request(self.port, "GET", "/readyz").status == 200, seconds, "the scheduler is ready")

    def ready(self, seconds=5.0):
        """It takes requests, and all its nodes may have them: where one is ready, the others have been asked as well. Those
        that are still starting after a second, in which this machine went on, are to be so."""
        self.takes_requests(seconds)
        left, last = 1 + LATE_PROBES, time.monotonic()
        while left > 0 and any(n["state"] == "starting" for n in self.nodes()):
            time.sleep(0.002)
            now = time.monotonic()
            left, last = left - min(now - last, 0.02), now
        return self

    def nodes(self):
        """As the admin API tells of them."""
        a = request(os.path.join(self.folder, "state", "admin.sock"), "GET", "/admin/v1/nodes")
        assert a.status == 200, (a.status, a.body)
        return a.json()["nodes"]

    def folded(self):
        """Rows that are durable in the ledger's journal alone come into its file a moment later: where nothing else comes,
        they are there now."""
        end = time.monotonic() + 3
        while self.process.poll() is None and time.monotonic() < end and self.metrics().get("spillway_ledger_journal_bytes"):
            time.sleep(0.01)
        return self

    def ledger(self, sql, *values):
        """What a query says of the ledger's file, as dicts."""
        self.folded()
        with contextlib.closing(sqlite3.connect(f"file:{self.ledger_path}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(r) for r in db.execute(sql, values)]

    def rows(self):
        return self.ledger("select * from ledger order by accepted_ns")

    def row(self, request_id, seconds=3.0):
        return wait_until(lambda: next((r for r in self.rows() if r["request_id"] == request_id), None), seconds,
                          f"a ledger row of {request_id}")

    def metrics(self):
        """/metrics as {name{labels}: value}, from the admin socket."""
        a = request(os.path.join(self.folder, "state", "admin.sock"), "GET", "/metrics")
        assert a.status == 200, a.status
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
                for line in a.body.decode().splitlines() if not line.startswith("#")}

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0

    def terminate(self, seconds=60.0):
        """SIGTERM and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self):
        """SIGKILL: nothing is tidied up."""
        self.process.kill()
        self.process.wait()

    def restart(self):
        """Once it has ended: anew, with the same configuration and state. The log begins anew, too."""
        assert self.process.poll() is not None
        os.truncate(self.log_path, 0)
        self._start()

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None and self.process.poll() is None:
            # Every test ends with a clean drain, which under sanitizers includes the leak check.
            status = self.terminate()
            text = self.log_text()
            try:
                self._check_unsaid()
            finally:
                self.close()
            assert status == 0, f"the scheduler ended with status {status}:\n{text[-4000:]}"
            return
        if kind is not None:
            print(self.log_text()[-4000:], file=sys.stderr)
        self.close()


def to_yaml(key, value, indent=0):
    pad = "  " * indent
    if isinstance(value, dict):
        out = [f"{pad}{key}:"]
        for k, v in value.items():
            out += to_yaml(k, v, indent + 1)
        return out
    if isinstance(value, list) and value and isinstance(value[0], dict):
        out = [f"{pad}{key}:"]
        for item in value:
            first = True
            for k, v in item.items():
                lines = to_yaml(k, v, indent + 2)
                if first:
                    lines[0] = "  " * (indent + 1) + "- " + lines[0].lstrip()
                out += lines
                first = False
        return out
    if isinstance(value, list):
        return [f"{pad}{key}: [{', '.join(value)}]"]
    if isinstance(value, bool):
        return [f"{pad}{key}: {'true' if value else 'false'}"]
    return [f"{pad}{key}: {value}"]


def node(name, upstream, models=("m",), price=("0.5", "0.1", "1.5"), **fields):
    return {"name": name, "url": upstream if isinstance(upstream, str) else upstream.url, "models": list(models),
            "price": {"input": price[0], "cached_input": price[1], "output": price[2]}, **fields}


# ---- the client -------------------------------------------------------------------------------------------------------


class Answer:
    def __init__(self):
        self.status = 0
        self.headers = {}
        self.body = b""
        self.events = []  # (monotonic time, data) of a stream
        self.comments = []  # (monotonic time, line), likewise
        self.complete = False  # the message ended as HTTP says it must

    def json(self):
        return json.loads(self.body)

    def chunks(self):
        return [json.loads(d) for _, d in self.events if d != "[DONE]"]

    def text(self):
        if not self.events:
            c = self.json()["choices"][0]
            return c["message"]["content"] if "message" in c else c["text"]
        out = ""
        for chunk in self.chunks():
            for choice in chunk.get("choices", []):
                out += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        return out

    def usage(self):
        if not self.events:
            return self.json().get("usage")
        found = [c["usage"] for c in self.chunks() if c.get("usage")]
        return found[-1] if found else None


class Closed(AssertionError):
    """The connection ended where an answer was due."""


class Connection:
    """One request on its own connection, read piece by piece so that the test says when to stop."""

    def __init__(self, port, method, path, body=None, headers=None, timeout=30.0, receive_buffer=None, tls=None):
        """port: a TCP port of loopback, or the path of a unix socket. tls: an ssl.SSLContext."""
        unix = isinstance(port, str)
        self.socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(port if unix else ("127.0.0.1", port))
        if not unix:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        if data is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
        try:
            self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (data or b""))
        except (BrokenPipeError, ConnectionResetError):
            pass  # who has answered need not read the rest for ever: the answer is there, or head() says that none is
        self.answer = Answer()
        self.raw = b""
        self.pending = ""

    def close(self):
        self.socket.close()

    def _more(self):
        piece = self.socket.recv(65536)
        self.raw += piece
        return bool(piece)

    def head(self):
        while b"\r\n\r\n" not in self.raw:
            if not self._more():
                raise Closed("closed before a head")
        head, self.raw = self.raw.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        self.answer.status = int(lines[0].split()[1])
        for line in lines[1:]:
            k, _, v = line.partition(":")
            self.answer.headers[k.lower()] = v.strip()
        return self.answer

    def pieces(self):
        """The decoded body as it arrives."""
        a = self.answer
        if a.headers.get("transfer-encoding") == "chunked":
            while True:
                while b"\r\n" not in self.raw:
                    if not self._more():
                        return
                size, self.raw = self.raw.split(b"\r\n", 1)
                n = int(size, 16)
                while len(self.raw) < n + 2:
                    if not self._more():
                        return
                piece, self.raw = self.raw[:n], self.raw[n + 2 :]
                if n == 0:
                    a.complete = True
                    return
                yield piece
        left = int(a.headers.get("content-length", 0))
        while left:
            if not self.raw and not self._more():
                return
            piece, self.raw = self.raw[:left], self.raw[left:]
            left -= len(piece)
            yield piece
        a.complete = True

    def events(self):
        """Data of each event as it arrives; they are kept in answer.events as well."""
        pending = ""
        for piece in self.pieces():
            self.answer.body += piece
            pending += piece.decode()
            while "\n\n" in pending:
                frame, pending = pending.split("\n\n", 1)
                if frame.startswith(":"):
                    self.answer.comments.append((time.monotonic(), frame))
                    continue
                assert frame.startswith("data: "), frame
                self.answer.events.append((time.monotonic(), frame[6:]))
                yield frame[6:]
        assert not pending, f"half a frame: {pending!r}"

    def all(self):
        self.head()
        if self.answer.headers.get("content-type", "").startswith("text/event-stream"):
            for _ in self.events():
                pass
        else:
            self.answer.body = b"".join(self.pieces())
        self.close()
        return self.answer


def request(port, method, path, body=None, headers=None, timeout=30.0, tls=None):
    return Connection(port, method, path, body, headers, timeout, tls=tls).all()


def chat(port, text="hi", key=None, model="m", headers=None, timeout=30.0, tls=None, **fields):
    h = dict(headers or {})
    if key:
        h["Authorization"] = f"Bearer {key}"
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return request(port, "POST", "/v1/chat/completions", body, h, timeout, tls)


# ---- the runner -------------------------------------------------------------------------------------------------------


class Skip(Exception):
    pass


def nvml_stub(folder):
    """The stand-in for NVIDIA's management library, compiled into the folder."""
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not cc:
        raise Skip("no C compiler for the stub of NVML")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fakes", "nvml_stub.c")
    out = os.path.join(folder, "libnvidia-ml-stub.so")
    subprocess.run([cc, "-shared", "-fPIC", "-o", out, source], check=True)
    return out


def environment_with(build, package, interpreter=sys.executable, *others):
    """A Python that has this package ("name==version"), made once for all builds, beside them. Skip, where that cannot be."""
    home = os.path.join(os.path.dirname(os.path.abspath(build)), "build-venv", package.partition("==")[0])
    python, mark = os.path.join(home, "bin", "python"), os.path.join(home, package)
    if os.path.exists(mark):
        return python
    shutil.rmtree(home, ignore_errors=True)
    # Made with the interpreter's own pip where it has one: to give each environment one takes seconds, and so does to compile
    # modules that nobody imports.
    lent = subprocess.run([interpreter, "-c", "import pip; assert int(pip.__version__.split('.')[0]) >= 23"],
                          capture_output=True).returncode == 0
    pip = [interpreter, "-m", "pip", "--python", python] if lent else [python, "-m", "pip"]
    pip += ["install", "--quiet", "--no-compile", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    for command in ([interpreter, "-m", "venv", *["--without-pip"] * lent, home], pip + [package, *others]):
        try:
            p = subprocess.run(command, capture_output=True, text=True, timeout=240)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise Skip(f"{package} cannot be installed: {e}")
        if p.returncode:
            why = (p.stderr or p.stdout).strip().splitlines() or [f"{command[0]} ended with {p.returncode}"]
            raise Skip(f"{package} cannot be installed: {why[-1]}")
    with open(mark, "w") as f:
        f.write("complete\n")
    return python


def judge(case, args):
    """Run one case: True when it passed, None when it was skipped."""
    begin = time.monotonic()
    try:
        case(args)
        print(f"ok      {case.__name__} ({time.monotonic() - begin:.2f} s)", flush=True)
        return True
    except Skip as e:
        print(f"skipped: {case.__name__}: {e}", flush=True)
        return None
    except Exception:
        print(f"FAILED  {case.__name__}\n{traceback.format_exc()}", flush=True)
        return False


def main(doc, cases, at_once=1):
    """Run the cases (functions of the arguments) and print 'N passed, N failed'. at_once: so many at the same time, for
    those that mostly wait and share nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--build", default="build")
    p.add_argument("--shared", default="../shared")
    p.add_argument("--full", action="store_true")
    p.add_argument("--only", help="cases whose name holds this")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    args.sanitized = "asan" in os.path.basename(args.build) or "tsan" in os.path.basename(args.build)
    if not os.path.exists(os.path.join(args.build, "spillway")):
        sys.exit(f"{args.build}/spillway is not built; nothing was tested")
    cases = [c for c in cases if not args.only or args.only in c.__name__]
    if at_once == 1:
        verdicts = [judge(case, args) for case in cases]
    else:
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            verdicts = list(pool.map(lambda case: judge(case, args), cases))
    passed, failed = verdicts.count(True), verdicts.count(False)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
