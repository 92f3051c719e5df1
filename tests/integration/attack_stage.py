"""The stage of test_attacks.py: a scheduler with a node that keeps every byte it gets, a client that sends any bytes, and
the words in which an attack is one row: framing(), refused(), harmless()."""

import collections
import json
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading

from harness import Scheduler, certificate, key_hash, node

KEY, LOCAL_KEY, OTHER_KEY = "spw_attack_0123456789abcdef", "spw_local_0123456789abcdef", "spw_other_0123456789abcdef"
AUTH = f"Authorization: Bearer {KEY}\r\n"
HOST = "Host: localhost\r\n"


def chat_body(text, model="m", **fields):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()


def post(body, headers=AUTH, path="/v1/chat/completions"):
    return (f"POST {path} HTTP/1.1\r\n{HOST}{headers}Content-Length: {len(body)}\r\n\r\n").encode() + body


SMUGGLED = post(chat_body("SMUGGLED"), AUTH + "X-Evil: SMUGGLED\r\n")

# ---- a node that keeps what it gets -----------------------------------------------------------------------------------

OWN_HEADERS = {
    "host": r"127\.0\.0\.1:\d+", "content-type": r"application/json", "accept": r"application/json|text/event-stream",
    "x-request-id": r"req_[0-9A-HJKMNP-TV-Z]{26}", "content-length": r"\d+", "authorization": r"Bearer node-secret",
    "traceparent": r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
}
GOOD = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()


def whole(body, head=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + (
        b"Content-Length: %d\r\n\r\n" % len(body)) + body


class Recorder:
    """Reads strictly, and notes whatever is not exactly a request of ours."""

    def __init__(self):
        self.posts, self.odd, self.raw = [], [], b""
        self.scripts = collections.deque()  # bytes to answer with (then it closes), or a function of the socket
        self.lock = threading.Lock()
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            c, _ = self.socket.accept()
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    piece = c.recv(65536)
                    if not piece:
                        if data:
                            self._odd("bytes that are no request", data)
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                length = self._check(head)
                while len(data) < length:
                    piece = c.recv(65536)
                    if not piece:
                        return
                    data += piece
                body, data = data[:length], data[length:]
                if not self._answer(c, head, body):
                    return
        except OSError:
            pass
        finally:
            c.close()

    def _odd(self, what, data):
        with self.lock:
            self.odd.append((what, data[:2000]))

    def _check(self, head):
        """Every header is one of ours, once, with a value of ours. Returns the body's length."""
        line, *headers = head.decode("latin-1").split("\r\n")
        if line not in ("GET /health HTTP/1.1", "POST /v1/chat/completions HTTP/1.1", "POST /v1/completions HTTP/1.1"):
            self._odd("request line", head)
        seen = {}
        for h in headers:
            name, _, value = h.partition(": ")
            name = name.lower()
            if name in seen or name not in OWN_HEADERS or not re.fullmatch(OWN_HEADERS[name], value):
                self._odd(f"header {h!r}", head)
            seen[name] = value
        return int(seen.get("content-length", 0))

    def _answer(self, c, head, body):
        if head.startswith(b"GET"):
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return True
        with self.lock:
            self.posts.append(body)
            script = self.scripts.popleft() if self.scripts else None
        if callable(script):
            script(c)
            return False
        c.sendall(script or whole(GOOD))
        return script is None


# ---- clients ----------------------------------------------------------------------------------------------------------


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class Client:
    """A raw connection; what arrives is read as strictly as the scheduler should write it."""

    def __init__(self, port, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.data = b""

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass  # refused and closed before all was written

    def _more(self):
        try:
            piece = self.socket.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            piece = b""
        self.data += piece
        return bool(piece)

    def _until(self, mark):
        while mark not in self.data:
            if not self._more():
                raise AssertionError(f"closed too early: {self.data[:300]!r}")
        head, _, self.data = self.data.partition(mark)
        return head

    def _take(self, n):
        while len(self.data) < n:
            if not self._more():
                raise AssertionError(f"closed inside a body: {self.data[:300]!r}")
        out, self.data = self.data[:n], self.data[n:]
        return out

    def reply(self):
        line, *lines = self._until(b"\r\n\r\n").decode("ascii").split("\r\n")
        m = re.fullmatch(r"HTTP/1\.1 ([2-5]\d\d) [A-Za-z -]+", line)
        assert m, line
        headers = {}
        for h in lines:
            name, _, value = h.partition(": ")
            assert name.lower() not in headers and re.fullmatch(r"[A-Za-z-]+", name), h
            headers[name.lower()] = value
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers, headers
            while n := int(self._until(b"\r\n"), 16):
                body += self._take(n)
                assert self._take(2) == b"\r\n"
            assert self._take(2) == b"\r\n"
        else:
            body = self._take(int(headers["content-length"]))
        return Reply(int(m.group(1)), headers, body)

    def closed(self):
        """Nothing more comes, and the other side has closed."""
        while self._more():
            pass
        assert not self.data, f"more after the refusal: {self.data[:300]!r}"

    def close(self):
        self.socket.close()


class Stage:
    """One scheduler for all attacks: what one of them breaks, the next ones see. https: over TLS, with several workers."""

    def __init__(self, https=False):
        self.scheduler, self.https, self.tls = None, https, None

    def set_up(self, args):
        if self.scheduler:
            return
        self.good, self.remote, self.hostile = Recorder(), Recorder(), Recorder()
        self.folder = tempfile.mkdtemp(prefix="spillway-attack-")
        secret = os.path.join(self.folder, "node-key")
        with open(secret, "w") as f:
            f.write("node-secret\n")
        keys = [{"id": "k", "sha256": key_hash(KEY), "tenant": "t"},
                {"id": "l", "sha256": key_hash(LOCAL_KEY), "tenant": "here", "local_only": True},
                {"id": "o", "sha256": key_hash(OTHER_KEY), "tenant": "elsewhere"}]
        nodes = [node("good", self.good, api_key_file=secret),
                 node("remote", self.remote, models=("far",), local=False, api_key_file=secret),
                 node("hostile", self.hostile, models=("h",), api_key_file=secret)]
        more = {}
        if self.https:
            cert, key = certificate(self.folder)
            self.tls = ssl.create_default_context(cafile=cert)
            more = {"tls": {"cert": cert, "key": key}, "workers": 3}
        self.scheduler = Scheduler(args.build, nodes, keys=keys, routing={"retries": 0},
                                   queue={"interactive": {"wait": "5s"}}, limits={"body": "1MiB"}, **more)
        self.scheduler.nodes_ready(3)
        self.witness = self.connect()
        self.served = 0

    def connect(self):
        return Client(self.scheduler.port, self.tls)

    def unharmed(self, reached=()):
        """The node got these bodies of the attack (none, as a rule), no header of anybody's, and serves others."""
        before, after = self.served, len(reached)
        text = b"%d bystanders" % before
        self.witness.send(post(chat_body(text.decode())))
        r = self.witness.reply()
        assert r.status == 200 and r.body == GOOD, (r.status, r.body)
        with self.good.lock:
            posts = self.good.posts[before:]
        self.served = before + after + 1
        assert [json.loads(p) for p in posts[:after]] == [json.loads(b) for b in reached], posts
        assert len(posts) == after + 1 and text in posts[after], posts
        for n in (self.good, self.remote, self.hostile):
            assert not n.odd, n.odd
        for n in (self.good, self.remote):
            assert not any(b"SMUGGLED" in p for p in n.posts), n.posts

    def recover(self):
        """After a failure: let the next cases judge for themselves."""
        if not self.scheduler:
            return
        self.witness.close()
        self.witness = self.connect()
        self.hostile.scripts.clear()
        self.witness.send(b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
        self.witness.reply()  # what was sent before has been taken up
        self.served = len(self.good.posts)
        for n in (self.good, self.remote, self.hostile):
            n.odd.clear()
            n.posts[:] = [b"" if b"SMUGGLED" in p else p for p in n.posts]

    def tear_down(self):
        if not self.scheduler:
            return
        self.witness.close()
        with self.scheduler:
            pass
        self.scheduler = None
        shutil.rmtree(self.folder, ignore_errors=True)


stage, https_stage = Stage(), Stage(https=True)
cases, https_cases = [], []


def stand(name, stage, run, where):
    assert name not in {c.__name__ for c in where}, name

    def f(args):
        stage.set_up(args)
        try:
            run(args)
        except Exception:
            stage.recover()
            raise

    f.__name__ = name
    where.append(f)


def case(name, run):
    stand(name, stage, run, cases)


def everywhere(name, run):
    """run(stage): once in plain text with one worker, once over TLS with several."""
    stand(name, stage, lambda _: run(stage), cases)
    stand("https_" + name, https_stage, lambda _: run(https_stage), https_cases)


def is_error(r):
    assert set(json.loads(r.body)) == {"error"}, r.body
    assert set(json.loads(r.body)["error"]) == {"message", "type", "param", "code"}, r.body
    assert b"SMUGGLED" not in r.body and "x-evil" not in r.headers


def framing(name, raw, *statuses, end="closed"):
    """Refused once; a good request right behind it is never looked at, because nothing behind a bad byte is believed."""

    def run(stage):
        c = stage.connect()
        c.send((raw.encode("latin-1") if isinstance(raw, str) else raw) + SMUGGLED)
        r = c.reply()
        assert r.status in (statuses or (400,)), (r.status, r.body)
        is_error(r)
        if end == "closed":
            assert r.headers["connection"] == "close", r.headers
            c.closed()
        c.close()
        stage.unharmed()

    everywhere(name, run)


def refused(name, raw, *statuses, where=None, check=None):
    """Understood and refused, so that the connection may live; what looks like a request in the body stays a body."""

    def run(stage):
        c = stage.connect()
        c.send(raw.encode("latin-1") if isinstance(raw, str) else raw)
        r = c.reply()
        assert r.status in statuses, (r.status, r.body)
        is_error(r)
        if where:
            assert json.loads(r.body)["error"]["param"] == where, r.body
        if r.status == 401:
            assert r.headers["www-authenticate"].startswith("Bearer"), r.headers
        if check:
            check(r)
        if "connection" not in r.headers:
            c.send(b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
            assert c.reply().status == 200
        c.close()
        stage.unharmed()

    everywhere(name, run)


def harmless(name, raw, *reached):
    """Allowed by the standard; the node gets exactly these bodies, each as one request with our own headers."""

    def run(stage):
        c = stage.connect()
        c.send(raw.encode("latin-1") if isinstance(raw, str) else raw)
        for _ in reached:
            r = c.reply()
            assert r.status == 200 and r.body == GOOD, (r.status, r.body)
            assert "SMUGGLED" not in str(r.headers)
        c.close()
        stage.unharmed(reached)

    everywhere(name, run)


def head(*lines, method="POST", path="/v1/chat/completions", version="HTTP/1.1", host=HOST, auth=AUTH):
    return f"{method} {path} {version}\r\n{host}{auth}" + "".join(f"{line}\r\n" for line in lines) + "\r\n"


BODY = chat_body("body of an attack").decode()
LENGTH = f"Content-Length: {len(BODY)}"
TE = "Transfer-Encoding: chunked"
CHUNKS = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"


def chunked(text):
    return head(TE) + text
