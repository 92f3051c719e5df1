"""An engine that speaks docs/NODE_API.md without computing anything: its tokens are a function of prompt, seed and
position, so that what a stream should have said is known, and it dies, hangs or drains at any frame on demand."""

import collections
import hashlib
import json
import socket
import struct
import time

from harness import Upstream

CLASS = "0123456789abcdef0123456789abcdef"
OTHER_CLASS = "f" * 32
END = 0  # the id that ends an answer


class Fault:
    """What befalls one request. Frames are counted from the first one that this leg sends."""

    def __init__(self, die=None, hang=None, cut=None, status=None, die_before_head=False, error=None,
                 code=None, gate=None, away=False):
        self.die = die  # the connection is reset instead of this frame
        self.hang = hang  # nothing comes any more
        self.cut = cut  # the answer ends as HTTP wants it, without [DONE]
        self.error = error  # an error event instead of this frame
        self.status = status
        self.code = code  # of the error that comes with the status
        self.die_before_head = die_before_head
        self.gate = gate  # a threading.Event that the frame waits for at which something befalls it
        self.away = away  # its health is 503 from then on, and not before

    def befalls(self, frame):
        return frame in (self.die, self.hang, self.cut, self.error)


def token(prompt, seed, position, numerics=CLASS):
    data = f"{prompt}|{seed}|{position}|{numerics}".encode()
    return 1 + int.from_bytes(hashlib.sha256(data).digest()[:4], "big") % 9999


def piece(identifier):
    """Text of an id. Some hold it back: they are half a character, which the next id ends."""
    return f" w{identifier}" if identifier % 5 else f' "é\U0001f600\\{identifier}'


def is_held(identifier):
    return identifier % 7 == 3


class Expected:
    def __init__(self, prompt, seed, n, numerics=CLASS, reasoning=0, ends=True):
        self.ids = [token(prompt, seed, i, numerics) for i in range(n - 1 if ends else n)] + ([END] if ends else [])
        self.reasoning = "".join(piece(i) for i in self.ids[:reasoning])
        self.text = "".join(piece(i) for i in self.ids[reasoning:] if i != END)
        self.finish = "stop" if ends else "length"


class Engine(Upstream):
    def __init__(self, name, key="node-secret", numerics=CLASS, slots=8, tokens=12, reasoning=0, delay=0.0, prefill=0.0,
                 resume=True, address=("127.0.0.1", 0)):
        self.key = key
        self.numerics = numerics
        self.slots = slots
        self.tokens = tokens  # of an answer, the end included
        self.reasoning = reasoning  # that many of them are thinking
        self.delay = delay
        self.prefill = prefill  # seconds between the role chunk and the first token
        self.resume = resume
        self.faults = collections.deque()  # one per request, None: none
        self.fault = None  # of all further requests
        self.legs = []  # bodies
        self.bad = []  # what no scheduler should have sent
        self.card_gate = None  # a threading.Event that its card waits for
        self.cards_waiting = 0  # times that it has begun to
        super().__init__(name, address=address)

    def _get(self, c, path, headers):
        if path != "/v1/models":
            return super()._get(c, path, headers)
        key = headers.get("x-spillway-node-key")
        gate = self.card_gate
        if gate:
            self.cards_waiting += 1
            while not gate.is_set():
                self._sleep(c, 0.002)
        model = {"id": "m", "object": "model", "created": 1, "owned_by": "spillway"}
        status = 200
        if key == self.key:
            model.update({"spillway_numerics": self.numerics, "spillway_resume": self.resume, "spillway_context": 4096,
                          "spillway_slots": self.slots})
        elif key:
            status = 401
        body = json.dumps({"object": "list", "data": [model]}).encode()
        self._send(c, f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return True

    def _reset(self, c):
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        raise OSError("died")

    def _answer(self, c, path, body, script):
        headers = self.requests[-1][1]
        if headers.get("x-spillway-node-key") != self.key:
            self.bad.append(f"key {headers.get('x-spillway-node-key')}")
        with self.lock:
            self.legs.append(body)
            fault = self.faults.popleft() if self.faults else self.fault
        fault = fault or Fault()
        if fault.away and (fault.die_before_head or fault.status):
            self.health = 503
        if fault.die_before_head:
            time.sleep(0.1)  # longer than a pooled connection that was closed before
            self._reset(c)
        if fault.status:
            error = json.dumps({"error": {"code": fault.code}} if fault.code else {}).encode()
            again = "Retry-After: 1\r\n" if fault.code else ""
            self._send(c, f"HTTP/1.1 {fault.status} X\r\n{again}Content-Length: {len(error)}\r\n\r\n".encode() + error)
            return True
        return self._generate(c, path.endswith("/chat/completions"), body, fault)

    def _generate(self, c, chat, body, fault):
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if body.get("stream") is not True or (body.get("stream_options") or {}).get("include_usage") is not True:
            self.bad.append("no stream, or without usage")
        seed = body["seed"] if body.get("seed") is not None else body.get("spillway_seed")
        if not isinstance(body.get("spillway_seed"), int) or not 0 <= body["spillway_seed"] < 2**53:
            self.bad.append(f"spillway_seed {body.get('spillway_seed')}")
        n = min(self.tokens, body.get("max_tokens") or self.tokens)
        want = Expected(prompt, seed, n, self.numerics, self.reasoning, n == self.tokens)
        done = (body.get("spillway_resume") or {}).get("ids", [])
        if done and self.numerics == CLASS and done != want.ids[: len(done)]:
            self.bad.append(f"resumed with {done}, not {want.ids[:len(done)]}")
        self._send(c, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        frames = self._frames(chat, body, want, done)
        for k, frame in enumerate(frames):
            if self.delay:
                self._sleep(c, self.delay)
            if k == 1:
                self._sleep(c, self.prefill)
            if fault.befalls(k):
                while fault.gate and not fault.gate.is_set():
                    self._sleep(c, 0.002)
                self.health = 503 if fault.away else self.health
            if k == fault.die:
                self._reset(c)
            if k == fault.hang:
                self._sleep(c, 3600)
            if k == fault.cut:
                break
            if k == fault.error:
                frame = json.dumps({"error": {"message": "scripted", "type": "server_error", "code": None}})
            if k == len(frames) - 1:
                self._inactive()
            data = f"data: {frame}\n\n".encode()
            self._send(c, f"{len(data):x}\r\n".encode() + data + b"\r\n")
            if k == fault.error:
                return False
        self._send(c, b"0\r\n\r\n")
        return True

    def _frames(self, chat, body, want, done):
        """Of one leg: the role (on the first), the tokens that are left, finish, usage, [DONE]."""
        base = {"id": f"cmpl-{self.name}-{len(self.legs)}", "created": 1000 + len(self.legs),
                "object": "chat.completion.chunk" if chat else "text_completion", "model": "m",
                "system_fingerprint": None}
        out = []

        def chunk(delta, ids=None, finish=None, logprobs=None):
            choice = {"index": 0, "delta": delta} if chat else {"index": 0, "text": delta.get("content", "")}
            choice.update({"logprobs": logprobs, "finish_reason": finish})
            v = dict(base, choices=[choice], usage=None)
            if ids is not None:
                v["spillway_ids"] = ids
            out.append(json.dumps(v))

        if chat and not done:
            chunk({"role": "assistant", "content": ""})
        waiting, waiting_key, finish_ids = "", "content", []
        for k, i in enumerate(want.ids):
            key = "reasoning_content" if k < self.reasoning else "content"
            if key != waiting_key and waiting:
                raise AssertionError("the fake does not hold back over the end of thinking")
            text = waiting + (piece(i) if i != END else "")
            last = k == len(want.ids) - 1
            held = is_held(i) and k + 1 < len(want.ids) and k + 1 != self.reasoning and want.ids[k + 1] != END
            waiting, waiting_key = (text if held else ""), key
            if k < len(done):
                continue
            if i == END and last and not text:
                finish_ids = [i]
                continue
            logprobs = None
            if body.get("logprobs") and chat:
                logprobs = {"content": [{"token": piece(i), "logprob": -i / 100, "bytes": None, "top_logprobs": []}],
                            "refusal": None}
            elif body.get("logprobs"):
                logprobs = {"tokens": [piece(i)], "token_logprobs": [-i / 100], "top_logprobs": None, "text_offset": [k]}
            chunk({} if held else {key: text}, [i], logprobs=logprobs)
        chunk({}, finish_ids or None, want.finish)
        prompt = len(json.dumps(body.get("messages", body.get("prompt"))))
        out.append(json.dumps(dict(base, choices=[], usage={
            "prompt_tokens": prompt, "completion_tokens": len(want.ids), "total_tokens": prompt + len(want.ids),
            "prompt_tokens_details": {"cached_tokens": 0}})))
        return out + ["[DONE]"]
