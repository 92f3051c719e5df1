#!/usr/bin/env python3
"""The node API (docs/NODE_API.md) on real engines: an answer that is cut after any of its chunks and resumed on a second
process has the text, the ids, the log probabilities and the usage of the undisturbed one; what only a scheduler may ask
is refused to everybody else; a drained node finishes its work and takes no more."""

import json
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from engine_server import FOLDER, SHAPE, Server, engine, error_of, make_model, same  # noqa: E402
from harness import Connection, Skip, in_parallel, main, request, wait_until  # noqa: E402

KEY = "a-node-key-for-tests"
NODE = {"x-spillway-node-key": KEY}


def key_file(text=KEY + "\n", name="node-key"):
    path = os.path.join(FOLDER, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def node(args, *flags, **fields):
    return Server(args, "--node-key-file", key_file(), *flags, **fields)


def trained(args):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "spillway-tiny.gguf")
    if not os.path.exists(path):
        raise Skip("models/spillway-tiny.gguf is not there")
    return path


def card(s, headers=NODE):
    return request(s.port, "GET", "/v1/models", headers=headers).json()["data"][0]


# ---- streams, as a scheduler reads them ----


def uncached(usage):
    """What does not depend on what the engine had computed before for others."""
    return {k: v for k, v in usage.items() if k != "prompt_tokens_details"}


class Stream:
    """What came out of one or more legs: the text by kind, the ids, the log probabilities, how it ended."""

    def __init__(self):
        self.text = {"content": "", "reasoning_content": "", "text": ""}
        self.ids, self.logprobs, self.offsets = [], [], []
        self.finish = self.usage = None
        self.done = False
        self.roles = 0

    def take(self, data):
        if data == "[DONE]":
            self.done = True
            return
        c = json.loads(data)
        assert "error" not in c, c
        if c.get("usage"):
            self.usage = uncached(c["usage"])
        ids = c.get("spillway_ids", [])
        assert ids or "spillway_ids" not in c, "an empty list of ids"
        self.ids += ids
        for choice in c["choices"]:
            delta = choice.get("delta", choice)
            self.roles += "role" in delta
            for kind in self.text:
                assert not delta.get(kind) or ids, f"text without ids: {c}"
                self.text[kind] += delta.get(kind) or ""
            lp = choice["logprobs"] or {}
            found = lp.get("content") or list(zip(lp.get("tokens", []), lp.get("token_logprobs", []),
                                                  lp.get("top_logprobs", []), lp.get("text_offset", [])))
            echoed = len(found) - len(ids) if found and lp.get("token_logprobs", [0])[0] is None else 0
            assert not lp or len(found) - echoed == len(ids), c
            self.logprobs += found
            self.finish = choice["finish_reason"] or self.finish

    def state(self):
        return {k: v for k, v in vars(self).items() if k != "roles"}


def ask(s, path, body, until=None, ids=None, into=None):
    """Stream an answer, or its first chunks with at least `until` ids. ids: resume after them. into: the Stream that
    goes on. Returns it and the events."""
    out = into or Stream()
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    if ids is not None:
        body["spillway_resume"] = {"ids": ids}
    c = Connection(s.port, "POST", path, body, NODE)
    head = c.head()
    if head.status != 200:
        raise AssertionError(f"{head.status}: {b''.join(c.pieces())!r} to {body}")
    events = []
    for data in c.events():
        events.append(data)
        out.take(data)
        if until is not None and len(out.ids) >= until:
            break
    c.close()
    return out, events


CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def user(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def cut_everywhere(one, two, path, body, sanitized=False):
    """The law: for every k, the first k chunks from one engine and the rest from the other are the whole."""
    whole, events = ask(one, path, body)
    assert whole.done and whole.usage and whole.finish, whole.state()
    same(len(whole.ids), whole.usage["completion_tokens"])
    whole_body = request(one.port, "POST", path, body, NODE).json()
    if "seed" in body or "spillway_seed" in body or body.get("temperature") == 0:
        choice = whole_body["choices"][0]
        message = choice.get("message", choice)
        same({k: message.get(k) or "" for k in whole.text}, whole.text)
        same((choice["finish_reason"], uncached(whole_body["usage"])), (whole.finish, whole.usage))
    assert "spillway_" not in json.dumps(whole_body)
    for k in range(0, len(events), 29 if sanitized else 1):
        first = Stream()
        for data in events[:k]:
            first.take(data)
        ids = list(first.ids)
        both, _ = ask(two, path, body, ids=ids, into=first)
        same(both.roles, 0 if k == 0 or path == COMPLETION else 1)
        same(both.state(), whole.state())
    return whole


def answers_continue(args):
    model = trained(args)
    logprobs = {"logprobs": True, "top_logprobs": 3}
    with node(args, "--ctx-size", "0", model=model) as one, node(args, "--ctx-size", "0", model=model) as two:
        for path, body in [
            (CHAT, user("What is a spot instance?", temperature=0, max_tokens=60 if args.sanitized else 200)),
            (CHAT, user("Tell me a story.", spillway_seed=7, max_tokens=40)),
            (CHAT, user("Hello!", seed=3, temperature=1.5, top_p=0.9, top_k=40, max_tokens=30)),
            (CHAT, user("What is a budget?", temperature=0, frequency_penalty=1, presence_penalty=0.5,
                        repetition_penalty=1.3, max_tokens=40)),
            (CHAT, user("Hello!", temperature=0.7, spillway_seed=2**53 - 1, max_tokens=25, **logprobs)),
            (CHAT, user("Hello!", temperature=0, min_tokens=40, max_tokens=45)),
            (CHAT, user("Hello!", temperature=0, ignore_eos=True, max_tokens=50)),
            (COMPLETION, {"prompt": "A spot instance", "temperature": 0, "max_tokens": 40}),
            (COMPLETION, {"prompt": [5, 6, 7], "seed": 1, "logprobs": 2, "max_tokens": 30}),
            (COMPLETION, {"prompt": "A spot instance", "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 12}),
            (COMPLETION, {"prompt": "The", "temperature": 0, "logit_bias": {"300": -100, "400": 3}}),
        ]:
            cut_everywhere(one, two, path, body, args.sanitized)


def stops_continue(args):
    """Stop strings that begin and end inside tokens, and beginnings of stop strings that come to nothing."""
    model = trained(args)
    with node(args, "--ctx-size", "0", model=model) as one, node(args, "--ctx-size", "0", model=model) as two:
        body = user("What is a spot instance?", temperature=0, max_tokens=80)
        text = ask(one, CHAT, body)[0].text["content"]
        assert len(text) > 60, text
        for stop in [text[30:41], [text[20:25] + "#", text[50:57]], [text[i : i + 6] + "~" for i in range(5, 50, 3)],
                     [text[-4:]]]:
            whole = cut_everywhere(one, two, CHAT, {**body, "stop": stop}, args.sanitized)
            same(whole.finish, "stop")
        # The limit falls where something is held back.
        for n in range(8, 14):
            held = {**body, "max_tokens": n, "stop": [text[i : i + 9] + "~" for i in range(0, 16)]}
            same(cut_everywhere(one, two, CHAT, held, args.sanitized).finish, "length")


def odd_bytes_and_thoughts_continue(args):
    """Random weights: broken UTF-8 at every turn, a template that opens the reasoning, tags by bias."""
    model = make_model(args)
    with node(args, model=model) as one, node(args, model=model) as two:
        for path, body in [
            (CHAT, user("x", temperature=2, spillway_seed=5, max_tokens=60)),
            (CHAT, user("x", temperature=2, seed=6, max_tokens=60, stop=["\ufffd\ufffd\ufffd", "zq"])),
            (CHAT, user("x", temperature=2, seed=8, max_tokens=40, logit_bias={"511": 5.5})),  # </think> now and then
            (CHAT, user("x", seed=9, max_tokens=60, logit_bias={"511": 5.5, "10": 5, "507": 4}, min_tokens=3)),
            (COMPLETION, {"prompt": "x", "temperature": 1.5, "seed": 1, "max_tokens": 50, "logprobs": 1}),
        ]:
            cut_everywhere(one, two, path, body, args.sanitized)


def three_legs(args):
    """A third engine goes on where the second stopped; the second ran in company."""
    model = make_model(args)
    n = 120 if args.sanitized else 300
    body = user("x", temperature=1, spillway_seed=11, max_tokens=n, ignore_eos=True)
    with node(args, model=model) as one, node(args, "--max-batch", "4", model=model) as two:
        whole, _ = ask(one, CHAT, body)
        crowd = [Connection(two.port, "POST", COMPLETION, {"prompt": "y", "max_tokens": 400, "ignore_eos": True,
                                                          "stream": True}) for _ in range(3)]
        out, _ = ask(one, CHAT, body, until=20)
        out, _ = ask(two, CHAT, body, until=60, ids=list(out.ids), into=out)
        assert 60 <= len(out.ids) < n, len(out.ids)
        out, _ = ask(one, CHAT, body, ids=list(out.ids), into=out)
        same(out.state(), whole.state())
        for c in crowd:
            c.close()


def legs_in_company(args):
    """Sixteen answers at once that change the engine at random places, again and again: each is what it is alone."""
    dice = random.Random(7)
    model = make_model(args)
    requests = []
    for i in range(8 if args.sanitized else 32):
        prompt = [dice.randrange(256) for _ in range(1 + i * 53 % 300)]
        body = {"prompt": prompt, "max_tokens": 40 + i * 7 % 90, "logprobs": 1, "stop": ["qz", "\ufffd\ufffd\ufffd"]}
        body.update({"temperature": 0} if i % 3 == 0 else {"spillway_seed": i, "frequency_penalty": 0.3})
        requests.append((body, [dice.randrange(1, 20) for _ in range(200)]))
    with node(args, "--max-batch", "8", model=model) as one, node(args, "--max-batch", "5", model=model) as two:
        alone = [ask(one, COMPLETION, body)[0] for body, _ in requests]

        legs = []
        todo = list(range(len(requests)))

        def client():
            while True:
                try:
                    i = todo.pop()
                except IndexError:
                    return
                body, steps = requests[i]
                out, leg = Stream(), 0
                while not out.done:
                    ask((one, two)[(i + leg) % 2], COMPLETION, body, until=len(out.ids) + steps[leg],
                        ids=list(out.ids) if leg else None, into=out)
                    leg += 1
                legs.append(leg)
                assert out.state() == alone[i].state(), f"request {i} differs after {leg} legs"

        in_parallel([client] * 16)
        assert len(legs) == len(requests) and sum(legs) > 2 * len(requests), legs


# ---- what a resume may be ----


def ends_and_refusals(args):
    model = make_model(args)
    with node(args, "--ctx-size", "256", model=model) as s:
        body = {"prompt": "x", "temperature": 0, "max_tokens": 12, "ignore_eos": True}
        whole, _ = ask(s, COMPLETION, body)
        ids = whole.ids
        same(len(ids), 12)
        end, events = ask(s, COMPLETION, body, ids=ids)  # all of it: only the end is missing
        same((end.finish, end.usage, end.ids, end.done, len(events)), ("length", whole.usage, [], True, 3))
        end, _ = ask(s, COMPLETION, {**body, "ignore_eos": False}, ids=ids[:4] + [507])
        same((end.finish, end.usage["completion_tokens"], end.ids), ("stop", 5, []))
        empty, _ = ask(s, COMPLETION, body, ids=[])
        same(empty.state(), whole.state())
        filled, _ = ask(s, COMPLETION, {**body, "prompt": [5] * 250, "max_tokens": 100}, ids=[7] * 6)
        same((filled.finish, filled.usage["total_tokens"]), ("length", 256))

        def refused(code=None, param="spillway_resume", **fields):
            a = request(s.port, "POST", COMPLETION, {**body, "stream": True, **fields}, NODE)
            return error_of(a, 400, code, param)

        refused(spillway_resume={"ids": ids + [5]})  # more than max_tokens
        refused(spillway_resume={"ids": [507, 5]}, ignore_eos=False)  # past the end
        refused("context_length_exceeded", spillway_resume={"ids": [7] * 7}, prompt=[5] * 250, max_tokens=100)
        refused(spillway_resume={"ids": [5]}, stream=False)
        for ids in [None, 5, "5", {}, [512], [-1], [1.5], ["5"], [None], [[5]]]:
            refused(spillway_resume={"ids": ids})
        refused(spillway_resume=[5])
        refused(spillway_resume={"ids": [5] * 131073})
        for seed in [-1, 1.5, "1", 2**53, None, True]:
            refused(param="spillway_seed", spillway_seed=seed)
        for salt in [5, "s" * 65, None]:
            refused(param="spillway_salt", spillway_salt=salt)
        refused("unsupported_parameter", "spillway_future", spillway_future=1)
        same(request(s.port, "POST", COMPLETION, {**body, "spillway_salt": "s" * 64}, NODE).status, 200)


def seeds_of_the_scheduler(args):
    with node(args) as s:

        def text(**fields):
            return request(s.port, "POST", COMPLETION, {"prompt": "x", **fields}, NODE).text()

        same(text(spillway_seed=5), text(seed=5))
        same(text(spillway_seed=5, seed=6), text(seed=6))
        same(text(spillway_seed=0), text(seed=0))
        assert text(spillway_seed=1) != text(spillway_seed=2)


def salts_keep_apart(args):
    """Whoever sends another salt, or none, cannot find out what this one has asked."""
    prompt = [3 + i * 7 % 250 for i in range(150)]
    with node(args) as s:

        def cached(**fields):
            a = request(s.port, "POST", COMPLETION, {"prompt": prompt, "max_tokens": 1, **fields}, NODE)
            return a.usage()["prompt_tokens_details"]["cached_tokens"]

        same([cached(spillway_salt="a"), cached(spillway_salt="b"), cached(), cached(spillway_salt="")], [0, 0, 0, 0])
        same([cached(spillway_salt="a"), cached(spillway_salt="b"), cached(), cached(spillway_salt="")], [128] * 4)
        same(cached(spillway_salt="aa"), 0)


# ---- who may ----


def node_key(args):
    api_keys = key_file("an-api-key\n", "api-keys")
    with node(args, "--api-key-file", api_keys) as s:
        bearer = {"Authorization": "Bearer an-api-key"}
        for path in ["/health", "/v1/models", "/metrics", "/nothing"]:
            error_of(request(s.port, "GET", path, headers={"x-spillway-node-key": "wrong-key"}), 401, "invalid_node_key")
            error_of(request(s.port, "GET", path, headers={**bearer, "x-spillway-node-key": ""}), 401, "invalid_node_key")
        error_of(request(s.port, "GET", "/v1/models"), 401, "invalid_api_key")
        same(request(s.port, "GET", "/v1/models", headers=NODE).status, 200)  # it stands in for an API key
        plain = card(s, bearer)
        assert not [k for k in plain if "spillway_" in k], plain
        full = card(s)
        same({k: v for k, v in full.items() if not k.startswith("spillway_")}, plain)
        same(request(s.port, "GET", "/v1/models/tiny", headers=NODE).json(), full)
        same((full["spillway_resume"], full["spillway_context"], full["spillway_slots"]), (True, 1024, 8))
        assert len(full["spillway_numerics"]) == 32 and int(full["spillway_numerics"], 16)
        # Without the key: no field, no query, no answer with one.
        for field in [{"spillway_resume": {"ids": [1]}}, {"spillway_seed": 1}, {"spillway_salt": "x"},
                      {"spillway_anything": None}]:
            a = request(s.port, "POST", COMPLETION, {"prompt": "x", "stream": True, **field}, bearer)
            error_of(a, 400, "node_key_required", list(field)[0])
        for query in ["spillway_x=1", "a=1&spillway_y", "%73pillway_z=1", "a&&spillway%5f=2"]:
            error_of(request(s.port, "GET", "/v1/models?" + query, headers=bearer), 400, "node_key_required")
            same(request(s.port, "GET", "/v1/models?" + query, headers=NODE).status, 200)
        same(request(s.port, "GET", "/v1/models?spillwayx=1&x=spillway_", headers=bearer).status, 200)
        a = request(s.port, "POST", COMPLETION, {"prompt": "x", "stream": True}, bearer)
        same(a.status, 200)
        assert b"spillway_" not in a.body
        a = request(s.port, "POST", "/drain", b"", bearer)
        error_of(a, 401, "node_key_required")
        same(request(s.port, "GET", "/health").status, 200)
        assert KEY not in s.log_text()
    with Server(args) as s:  # an engine without one
        error_of(request(s.port, "GET", "/health", headers=NODE), 401, "invalid_node_key")
        error_of(request(s.port, "POST", "/drain", b""), 401, "node_key_required")
        error_of(s.complete(spillway_seed=1), 400, "node_key_required", "spillway_seed")
    for text, words in [("", "no key"), ("short\n", "at least"), ("one-key-here\nanother-key\n", "more than 1 key")]:
        p = subprocess.run([engine(args), "serve", "--port", "0", "--model", make_model(args), "--node-key-file",
                            key_file(text, "bad-key")], capture_output=True, text=True, timeout=30)
        assert p.returncode == 2 and words in p.stderr, p


def what_it_took(args):
    """Streams, whole answers, several choices and embeddings, some at once: what all are told adds up to what the engine was
    busy with, to the microsecond, and to the millijoule of its declared draw."""
    kinds = [(COMPLETION, {"prompt": "x" * 50, "max_tokens": 20}), (COMPLETION, {"prompt": "x" * 40, "n": 3, "max_tokens": 9}),
             ("/v1/embeddings", {"input": ["a node", "a budget", "a spot"]}), (CHAT, {**user("x"), "max_tokens": 5}),
             (COMPLETION, {"prompt": "y", "n": 2, "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}})]

    def told(s, path, body):
        a = request(s.port, "POST", path, body, NODE)
        same(a.status, 200)
        assert b"spillway_use" not in a.body or a.events
        uses = json.loads(a.events[-2][1])["spillway_use"] if a.events else json.loads(a.headers["x-spillway-use"])
        assert uses and all(hour % 3600 == 0 and us > 0 for hour, us, _ in uses), uses
        return [sum(u[1] for u in uses), sum(u[2] for u in uses)]

    with node(args, "--watts", "50:100", "--max-batch", "3") as s:
        parts = in_parallel([lambda k=k: told(s, *kinds[k % len(kinds)]) for k in range(10)])
        busy_us, millijoules = map(sum, zip(*parts))
        same(request(s.port, "GET", "/health", headers=NODE).json()["spillway_time"]["busy_us"], busy_us)
        same(millijoules, busy_us // 10)  # 100 W: 100,000 mW * us / 10^6
        for path, body in kinds:
            a = request(s.port, "POST", path, body)
            assert a.status == 200 and "x-spillway-use" not in a.headers and b"spillway" not in a.body, a.headers


def numerics_class(args):
    """The same everywhere for the same model, whatever else is set; another for other weights, even one value of them."""
    model = make_model(args)
    with node(args, model=model) as s:
        mine = card(s)["spillway_numerics"]
    copy = os.path.join(FOLDER, "renamed.gguf")
    with open(model, "rb") as f:
        data = bytearray(f.read())
    with open(copy, "wb") as f:
        f.write(data)
    with node(args, "--threads", "2", "--max-batch", "3", "--ctx-size", "512", "--lazy-load", model=copy) as s:
        same(card(s)["spillway_numerics"], mine)
    data[-40] ^= 1  # in the last tensor: no length, no key, no name changes
    with open(copy, "wb") as f:
        f.write(data)
    with node(args, model=copy) as s:
        assert card(s)["spillway_numerics"] != mine
    with node(args, "--chat-template", "chatml", model=model) as s:
        assert card(s)["spillway_numerics"] != mine
    shape = os.path.join(FOLDER, "other.json")
    with open(shape, "w") as f:
        json.dump(SHAPE, f)
    subprocess.run([engine(args), "synth", "--shape", shape, "--type", "Q4_K_M", "--out", copy], check=True)
    with node(args, model=copy) as s:
        assert card(s)["spillway_numerics"] != mine


# ---- draining ----


def two_that_run(s, n):
    """A stream of which the first event has come, an answer, and how many tokens each will have: n or, where those were said
    before both were seen to run, more."""
    while True:
        c = s.stream(max_tokens=n, ignore_eos=True)
        c.head()
        events = c.events()
        next(events)
        other = Connection(s.port, "POST", COMPLETION, {"prompt": "y", "max_tokens": n, "ignore_eos": True})
        wait_until(lambda: s.metric("vllm:num_requests_running") in (0, 2), 10, "both run, or none any longer")
        if s.metric("vllm:num_requests_running") == 2:
            return c, events, other, n
        c.close()
        other.close()
        n *= 4
        assert n < 60000, "two answers are never seen to run at a time"


def drain(args):
    with node(args, "--ctx-size", "60000", "--drain-seconds", "200") as s:
        c, events, other, n = two_that_run(s, 200 if args.sanitized else 1500)
        for _ in range(2):  # a second call is the same
            a = request(s.port, "POST", "/drain", b"", NODE)
            same((a.status, a.json()["status"]), (200, "draining"))
        a = request(s.port, "GET", "/health")
        same((a.status, a.json()["status"], a.headers["retry-after"]), (503, "draining", "1"))
        error_of(s.complete(), 503, "draining")
        for _ in events:
            pass
        assert c.answer.complete and c.answer.events[-1][1] == "[DONE]"
        same(other.all().usage()["completion_tokens"], n)
        time.sleep(0.1)
        same(s.process.poll(), None)  # it does not end
        same(request(s.port, "GET", "/health").json()["status"], "draining")
        same(s.end(), 0)


def drain_cuts(args):
    """What still runs at the deadline is cut: a stream without [DONE], an answer that has not begun with 503. SIGTERM
    after that ends the process at once."""
    took = [cut_and_ended(args)]
    while took[-1] > (10 if args.sanitized else 0.9) and len(took) < 4:  # the machine may have stood still
        took.append(cut_and_ended(args))
    assert took[-1] < (10 if args.sanitized else 0.9), took


def cut_and_ended(args):
    """Seconds from SIGTERM to the end."""
    with node(args, "--ctx-size", "60000", "--drain-seconds", "1", "--max-batch", "2") as s:
        c = s.stream(max_tokens=55000, ignore_eos=True)
        c.head()
        next(c.events())
        whole = [Connection(s.port, "POST", COMPLETION, {"prompt": "y", "max_tokens": 55000, "ignore_eos": True})
                 for _ in range(3)]  # one of them runs, two wait
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 2, 10, "two wait")
        whole.append(Connection(s.port, "POST", "/v1/embeddings", {"input": ["y"] * 6}))
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 6, 10, "four of its inputs, too")
        same(request(s.port, "POST", "/drain", b"", NODE).status, 200)
        for _ in c.events():
            pass
        assert not c.answer.complete
        assert "[DONE]" not in [d for _, d in c.answer.events]
        for w in whole:
            error_of(w.all(), 503, "draining")
        wait_until(s.is_idle, 5, "idle")
        begin = time.monotonic()
        same(s.end(signal.SIGTERM), 0)
        return time.monotonic() - begin


def drain_then_end(args):
    """SIGTERM on a drained node: what runs still finishes, then the process ends; a second one ends it at once."""
    for impatient in [False, True]:
        with node(args, "--ctx-size", "60000", "--drain-seconds", "60") as s:
            n = 50000 if impatient else 100 if args.sanitized else 1000
            c = s.stream(max_tokens=n, ignore_eos=True)
            c.head()
            events = c.events()
            next(events)
            same(request(s.port, "POST", "/drain", b"", NODE).status, 200)
            s.process.send_signal(signal.SIGTERM)
            if impatient:
                wait_until(lambda: "signal received" in s.log_text(), 5, "the first signal")
                s.process.send_signal(signal.SIGTERM)
            for _ in events:
                pass
            same(c.answer.complete, not impatient)
            same(s.process.wait(30), 0)


def drain_while_loading(args):
    passes = "100" if args.sanitized else "1000"
    with node(args, "--warmup", passes, wait=False) as s:
        same(request(s.port, "POST", "/drain", b"", NODE).status, 200)
        same(request(s.port, "GET", "/health").json()["status"], "draining")
        error_of(s.chat(), 503, "draining")


if __name__ == "__main__":
    main(__doc__, [answers_continue, stops_continue, odd_bytes_and_thoughts_continue, three_legs, legs_in_company,
                   ends_and_refusals, seeds_of_the_scheduler, salts_keep_apart, node_key, what_it_took, numerics_class, drain,
                   drain_cuts, drain_then_end, drain_while_loading])
