"""The scheduler between applications and OpenAI-compatible nodes: its surface, its charges, and what it does when nodes
or clients misbehave. The nodes here are fakes (harness.Upstream)."""

import http.client
import json
import os
import socket
import sqlite3
import ssl
import tempfile
import threading
import time

from harness import (Closed, Connection, Scheduler, Script, Stalls, Upstream, certificate, chat, key_hash, main, node,
                     request, until_quick, wait_until)

PRICES = {"input": 500000, "cached_input": 100000, "output": 1500000}  # of harness.node(), micro-dollars per million


def exact_charge(tokens_in, cached, out, prices=None):
    p = prices or PRICES
    return (tokens_in - cached) * p["input"] + cached * p["cached_input"] + out * p["output"]


def dollars(pusd):
    text = f"{pusd // 10**12}.{pusd % 10**12:012d}".rstrip("0")
    whole, _, rest = text.partition(".")
    return f"{whole}.{rest.ljust(2, '0')}"


def message(text="x"):
    return [{"role": "user", "content": text}]


def check_error(answer, status, code, kind=None):
    assert answer.status == status, (answer.status, answer.body)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["code"] == code and isinstance(error["message"], str) and error["message"], error
    assert kind is None or error["type"] == kind, error
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1, answer.headers
    return error


def surface(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up, models=("m", "org/big-model"))]).ready() as s:
        models = request(s.port, "GET", "/v1/models").json()
        assert [m["id"] for m in models["data"]] == ["m", "org/big-model"] and models["object"] == "list"
        assert request(s.port, "GET", "/v1/models/m").json()["id"] == "m"
        assert request(s.port, "GET", "/v1/models/org/big%2Dmodel").json()["id"] == "org/big-model"
        check_error(request(s.port, "GET", "/v1/models/nope"), 404, "model_not_found")
        check_error(request(s.port, "GET", "/v1/nope"), 404, None)
        for hidden in ("/metrics", "/admin/v1/nodes", "/admin"):
            check_error(request(s.port, "GET", hidden), 404, None)
        wrong = request(s.port, "GET", "/v1/chat/completions")
        check_error(wrong, 405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"
        check_error(request(s.port, "POST", "/v1/models", {}), 405, "method_not_allowed")
        assert request(s.port, "GET", "/healthz").status == 200
        assert request(s.port, "GET", "/readyz").status == 200
        kept = http.client.HTTPConnection("127.0.0.1", s.port, timeout=10)
        for path in ("/healthz", "/readyz", "/v1/models", "/healthz"):  # what follows on the connection is framed right
            kept.request("HEAD", path)
            a = kept.getresponse()
            assert (a.status, a.read()) == (200, b"") and int(a.headers["content-length"]) > 10, path
        kept.close()
        ids = {request(s.port, "GET", "/v1/models", headers={"X-Request-Id": "mine"}).headers["x-request-id"]
               for _ in range(3)}
        assert len(ids) == 3 and "mine" not in ids and all(i.startswith("req_") and len(i) == 30 for i in ids), ids


def request_errors(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        def post(body, path="/v1/chat/completions"):
            return request(s.port, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

        messages = [{"role": "user", "content": "x"}]
        for bad in (b"", b"{", b"[]", b"null", b'{"model":"m","model":"m","messages":[{}]}', b'{"model":"m\\u0000"}',
                    b'{"a":' * 100 + b"1" + b"}" * 100, b'\xff{"model":"m"}', b'{"model":"m"} x'):
            check_error(post(bad), 400, None, "invalid_request_error")
        for body, param in (({"messages": messages}, "model"), ({"model": 3, "messages": messages}, "model"),
                            ({"model": "", "messages": messages}, "model"),
                            ({"model": "m"}, "messages"), ({"model": "m", "messages": []}, "messages"),
                            ({"model": "m", "messages": messages, "stream": "yes"}, "stream"),
                            ({"model": "m", "messages": messages, "max_tokens": -1}, "max_tokens"),
                            ({"model": "m", "messages": messages, "max_tokens": 1.5}, "max_tokens"),
                            ({"model": "m", "messages": messages, "stream": True, "stream_options": 1}, "stream_options"),
                            ({"model": "m", "messages": messages, "stream_options": {}}, "stream_options")):
            assert check_error(post(body), 400, None)["param"] == param, body
        assert check_error(post({"model": "m"}, "/v1/completions"), 400, None)["param"] == "prompt"
        assert check_error(post({"model": "other", "messages": messages}), 404, "model_not_found")["param"] == "model"
        assert not up.generations() and not s.rows()


def whole_answer(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        a = chat(s.port, "hello there", temperature=0.5, unknown_field={"x": [1, 2.50, "é\\u00e9"]})
        assert a.status == 200 and a.text() == "Hello there, world!" and a.headers["x-spillway-node"] == "a"
        row = s.row(a.headers["x-request-id"])
        u = a.usage()
        cached = u["prompt_tokens_details"]["cached_tokens"]
        assert (row["tokens_input"], row["tokens_cached_input"], row["tokens_output"]) == (
            u["prompt_tokens"], cached, u["completion_tokens"])
        assert row["charge_pusd"] == exact_charge(u["prompt_tokens"], cached, u["completion_tokens"]) > 0
        assert a.headers["x-spillway-charge-usd"] == dollars(row["charge_pusd"])
        assert (row["model"], row["node"], row["tenant"], row["outcome"], row["http_status"], row["streamed"],
                row["attempts"], row["usage_source"]) == ("m", "a", "default", 0, 200, 0, 1, "provider")
        assert row["accepted_ns"] <= row["first_byte_ns"] <= row["finished_ns"]
        a = request(s.port, "POST", "/v1/completions", {"model": "m", "prompt": "x"})
        assert a.status == 200 and a.text() == "Hello there, world!"
        assert up.generations()[-1][0] == "/v1/completions"


def embed(s, given, headers=None, **fields):
    return request(s.port, "POST", "/v1/embeddings", {"model": "m", "input": given, **fields}, headers)


def embeddings(args):
    """Vectors: admitted, charged, kept and tried again like any answer, but nothing is said."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up, upstream_model="theirs")]).ready() as s:
        sent = b'{"dimensions": 4,"model":"m","input":[[1, 2.0e0],[3]],"encoding_format":"float","max_tokens":7}'
        a = request(s.port, "POST", "/v1/embeddings", sent, {"x-spillway-explain": "1"})
        path, _, got = up.generations()[-1]
        assert path == "/v1/embeddings" and got == sent.replace(b'"m"', b'"theirs"'), got
        j, row = a.json(), s.row(a.headers["x-request-id"])
        assert a.status == 200 and j["model"] == "m" and [len(d["embedding"]) for d in j["data"]] == [4, 4], j
        assert row["charge_pusd"] == exact_charge(j["usage"]["prompt_tokens"], 0, 0) > 0
        assert a.headers["x-spillway-charge-usd"] == dollars(row["charge_pusd"])
        assert (a.headers["x-spillway-node"], a.headers["x-spillway-model"], a.headers["x-spillway-cache"]) == (
            "a", "m", "miss") and "x-spillway-explain" in a.headers
        assert (row["tokens_input"], row["tokens_output"], row["outcome"], row["streamed"], row["usage_source"]) == (
            j["usage"]["prompt_tokens"], 0, 0, 0, "provider"), row
        # The same again is known; another encoding, and a chat of the same name, are not the same.
        again = request(s.port, "POST", "/v1/embeddings", sent)
        assert again.headers["x-spillway-cache"] == "hit" and again.json() == j and len(up.generations()) == 1
        assert s.row(again.headers["x-request-id"])["charge_pusd"] == 0
        other = sent.replace(b"float", b"base64")
        assert request(s.port, "POST", "/v1/embeddings", other).headers["x-spillway-cache"] == "miss"
        # Without usage it is counted, and a node's odd count of output is nobody's charge.
        up.scripts += [Script(usage="none"), Script(usage_fields={"prompt_tokens": 9, "completion_tokens": 5})]
        row = s.row(embed(s, "uncounted").headers["x-request-id"])
        assert row["usage_source"] == "counted" and row["tokens_input"] > 0 and row["tokens_output"] == 0
        row = s.row(embed(s, "odd").headers["x-request-id"])
        assert (row["tokens_input"], row["tokens_output"], row["charge_pusd"]) == (9, 0, exact_charge(9, 0, 0))
        n = len(up.generations())
        for given, param, fields in ((None, "input", {}), ([], "input", {}), ("x", "stream", {"stream": True})):
            assert check_error(embed(s, given, **fields), 400, None)["param"] == param
        check_error(embed(s, "dear", {"x-spillway-max-charge-usd": "0.0000001"}), 402, "max_charge_too_low")
        assert len(up.generations()) == n
        tokens = s.metrics()['spillway_tokens_total{model="m",kind="output"}']
        assert tokens == 0 and s.metrics()[
            'spillway_time_to_first_byte_seconds_count{operation="embeddings",model="m",node="a"}'] == 4
        # A node that has no such endpoint, or was started without, is the client's to know of.
        for status in (404, 405, 501):
            up.scripts.append(Script(status=status))
            a = embed(s, f"lacking {status}")
            check_error(a, 404, "endpoint_not_served", "invalid_request_error")
            row = s.row(a.headers["x-request-id"])
            assert (row["outcome"], row["charge_pusd"], row["error"]) == (2, 0, "endpoint_not_served"), row
            assert a.headers["x-should-retry"] == "false"


def embeddings_elsewhere(args):
    bad, good = Upstream("bad"), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with Scheduler(args.build, nodes, breaker={"failures": 2, "percent": 0}).ready() as s:
        wait_until(lambda: embed(s, "x", {"x-spillway-cache": "off"}).headers["x-spillway-node"] == "bad", 3)
        for i, (fault, attempts) in enumerate(((500, 2), (404, 2), (None, 1), (None, 1))):
            if fault:
                bad.scripts.append(Script(status=fault))
            a = embed(s, f"again {i}")
            assert a.status == 200 and a.headers["x-spillway-node"] == "good", (fault, a.body)
            assert s.row(a.headers["x-request-id"])["attempts"] == attempts, "that it has no such endpoint is remembered"
            assert chat(s.port).headers["x-spillway-node"] == "bad", "which says nothing about the node"
        values = s.metrics()
        assert values['spillway_leg_failures_total{node="bad",fault="endpoint"}'] == 1
        assert values['spillway_node_breaker_opened_total{node="bad"}'] == 0
        # Where both lack it they are asked all the same, and one that answers has it again.
        bad.scripts.append(Script(status=501))
        good.scripts.append(Script(status=404))
        a = embed(s, "nobody")
        check_error(a, 404, "endpoint_not_served")
        a = embed(s, "somebody")
        assert a.status == 200 and a.headers["x-spillway-node"] == "bad", a.body
        assert embed(s, "and again").headers["x-spillway-node"] == "bad"


def embeddings_in_a_budget(args):
    """The prompt's most is reserved, and of an answer not one token."""
    up = Upstream()
    body = json.dumps({"model": "m", "input": "word " * 40}).encode()
    most = (len(body) + 512) * PRICES["input"]
    budget = {"name": "b", "period": "month", "hard": dollars(most)}
    with Scheduler(args.build, [node("a", up)], budgets=[budget]).ready() as s:
        off = {"x-spillway-cache": "off"}
        a = request(s.port, "POST", "/v1/embeddings", body, off)
        assert a.status == 200, a.body
        row = s.row(a.headers["x-request-id"])
        assert row["charge_pusd"] == exact_charge(row["tokens_input"], 0, 0) and row["reserved_pusd"] == most
        refused = request(s.port, "POST", "/v1/embeddings", body, off)
        error = refused.json()["error"]
        assert refused.status == 429 and error["code"] == "insufficient_quota" and "'b'" in error["message"], error
        assert len(up.generations()) == 1


def texts_and_ids(args):
    """/tokenize and /detokenize: any node that has them in this form; free of charge, but counted as requests."""
    other, ours = Upstream("other"), Upstream("ours")  # "other" has something else at that path, as llama-server does
    other.default = Script(answer={"tokens": []})
    told, text = {"count": 2, "max_model_len": 64, "tokens": [5, 6], "token_strs": None}, {"prompt": "a b"}
    keys = [{"id": "k", "sha256": key_hash("spw_client"), "tenant": "t", "rate_class": "three"}]
    auth = {"Authorization": "Bearer spw_client"}
    limits = {"classes": [{"name": "three", "requests_per_min": 3, "tokens_per_min": 10}]}
    budgets = [{"name": "b", "period": "month", "hard": "0.0000001"}]
    nodes = [node("other", other, price=("0", "0", "0")), node("ours", ours, upstream_model="theirs")]
    with Scheduler(args.build, nodes, keys=keys, limits=limits, budgets=budgets).ready() as s:
        def ask(path, **body):
            return request(s.port, "POST", path, {"model": "m", **body}, auth)

        s.nodes_ready(2)
        assert request(s.port, "POST", "/tokenize", {"model": "m", "prompt": "x"}).status == 401
        assert ask("/tokenize").json()["error"]["param"] == "prompt"
        for i, (path, body, answer) in enumerate([("/tokenize", {"prompt": "word " * 99}, told),
                                                  ("/tokenize", {"messages": [{"role": "user", "content": "a b"}]}, told),
                                                  ("/detokenize", {"tokens": [5, 6]}, text)]):
            ours.scripts.append(Script(answer=answer))
            a = ask(path, **body)
            assert (a.status, a.json(), a.headers["x-spillway-node"]) == (200, answer, "ours"), a.body
            assert (a.headers["x-spillway-charge-usd"], a.headers["x-spillway-cache"]) == ("0.00", "bypass")
            sent_to, _, sent = ours.generations()[-1]
            assert (sent_to, json.loads(sent)) == (path, {"model": "theirs", **body})
            row = s.row(a.headers["x-request-id"])
            assert (row["tokens_input"], row["tokens_output"], row["charge_pusd"], row["reserved_pusd"], row["attempts"]) == (
                0, 0, 0, 0, 1 if i == 1 else 2), row
        check_error(ask("/tokenize", prompt="x"), 429, "rate_limit_exceeded")


def passes_through_untouched(args):
    """What is not ours to change arrives byte for byte, and a client's credentials never leave."""
    up = Upstream(api_key="node-secret")
    secret = os.path.join("/tmp", f"spillway-it-key-{os.getpid()}")
    with open(secret, "w") as f:
        f.write("node-secret\n")
    try:
        keys = [{"id": "k", "sha256": key_hash("spw_client"), "tenant": "t"}]
        with Scheduler(args.build, [node("a", up, api_key_file=secret)], keys=keys).ready() as s:
            body = b'{ "x" : 1.0e0,"messages":[{"role":"user","content":"\\u00e9 \\/"}] , "model"\n:\t"m","n":1 }'
            h = {"Authorization": "Bearer spw_client", "X-Secret": "1", "Cookie": "c"}
            assert request(s.port, "POST", "/v1/chat/completions", body, h).status == 200
            path, headers, sent = up.generations()[-1]
            assert sent == body, sent
            assert headers["authorization"] == "Bearer node-secret"
            assert "x-secret" not in headers and "cookie" not in headers
            stream = body.replace(b'"n":1', b'"stream":true')
            assert request(s.port, "POST", "/v1/chat/completions", stream, h).status == 200
            sent = up.generations()[-1][2]
            extra = b'"stream_options":{"include_usage":true},'
            assert sent == stream.replace(b"{", b"{" + extra, 1), sent
            s.never_says("spw_client", "node-secret")
    finally:
        os.unlink(secret)


def nothing_said_is_logged(args):
    """At the loudest level neither the log nor a file of the state holds a word of a prompt, of an answer, or of what a node
    says about them, whatever becomes of the request."""
    words = [b"WHATISASKED", b"WHATISSAID", b"WHATISWRONG"]
    wrong = json.dumps({"error": {"message": "WHATISWRONG: WHATISASKED", "type": "WHATISWRONG",
                                  "code": "WHATISWRONG"}}).encode()
    up = Upstream(default=Script(words=["WHATISSAID"] * 3))
    with Scheduler(args.build, [node("a", up)], log={"level": "debug"}, routing={"retries": 0}).ready() as s:
        for script in (None, Script(status=400, error_body=wrong), Script(status=500, error_body=wrong),
                       Script(bad="json"), Script(bad="body"), Script(error_event_after=1), Script(cut_after=2),
                       Script(bad="type")):
            for stream in (False, True):
                script.__dict__.update(words=["WHATISSAID"] * 3) if script else None
                up.scripts.extend([script] if script else [])
                chat(s.port, "WHATISASKED", stream=stream, temperature=0, user="WHATISASKED",
                     headers={"Idempotency-Key": f"key-{len(up.requests)}"})
        for body in (b'{"WHATISASKED":1,"WHATISASKED":2}', b'{"model":"m","messages":"WHATISASKED"}', b"WHATISASKED",
                     b'{"model":"m","messages":[{"role":"user","content":"WHATISASKED"}],"max_tokens":"WHATISASKED"}'):
            assert request(s.port, "POST", "/v1/chat/completions", body).status == 400

        def look():
            state = os.walk(os.path.join(s.folder, "state"))
            for path in [s.log_path] + [os.path.join(folder, name) for folder, _, names in state for name in names
                                        if not name.endswith(".sock")]:
                with open(path, "rb") as f:
                    data = f.read()
                assert not [w for w in words if w in data], (path, [w for w in words if w in data])

        look()  # beside it: logs of what is written, which its end folds back
        assert s.terminate() == 0
        look()  # and once all is written: lines come a moment after what they tell
        assert any(line["level"] == "debug" for line in s.log_lines())


def model_is_renamed(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up, upstream_model="real/name")]).ready() as s:
        a = chat(s.port)
        assert json.loads(up.generations()[-1][2])["model"] == "real/name" and a.json()["model"] == "m"
        a = chat(s.port, stream=True, stream_options={"include_usage": True})
        assert json.loads(up.generations()[-1][2])["model"] == "real/name"
        assert {c["model"] for c in a.chunks()} == {"m"} and a.text() == "Hello there, world!"


def stream_without_usage_asked(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        a = chat(s.port, stream=True)
        assert a.complete and a.events[-1][1] == "[DONE]" and a.text() == "Hello there, world!"
        assert a.headers["content-type"].startswith("text/event-stream") and a.headers["x-spillway-node"] == "a"
        assert a.usage() is None and all(c["choices"] for c in a.chunks())
        assert json.loads(up.generations()[-1][2])["stream_options"] == {"include_usage": True}
        row = s.row(a.headers["x-request-id"])
        assert row["tokens_output"] == 5 and row["usage_source"] == "provider" and row["streamed"] == 1
        assert row["charge_pusd"] == exact_charge(row["tokens_input"], row["tokens_cached_input"], 5)


def stream_with_usage_asked(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        for extra in ({"include_usage": True}, {"include_usage": True, "include_obfuscation": False}):
            a = chat(s.port, stream=True, stream_options=extra)
            assert json.loads(up.generations()[-1][2])["stream_options"] == extra
            last = a.chunks()[-1]
            assert last["choices"] == [] and last["usage"]["completion_tokens"] == 5
            assert sum(1 for c in a.chunks() if c.get("usage")) == 1
            row = s.row(a.headers["x-request-id"])
            assert last["spillway"] == {"node": "a", "charge_usd": dollars(row["charge_pusd"])}
            assert row["tokens_input"] == last["usage"]["prompt_tokens"]
        for extra in ({}, None, {"include_usage": False}, {"include_usage": None, "x": 1}):
            a = chat(s.port, stream=True, stream_options=extra)
            sent = json.loads(up.generations()[-1][2])["stream_options"]
            assert sent["include_usage"] is True and ("x" in sent) == bool(extra and "x" in extra), sent
            assert a.usage() is None and a.events[-1][1] == "[DONE]"


def usage_in_odd_places(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        for where in ("content", "finish"):
            up.default = Script(usage=where)
            for asked in (False, True):
                a = chat(s.port, stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
                row = s.row(a.headers["x-request-id"])
                assert row["usage_source"] == "provider" and row["tokens_output"] == 5, where
                assert a.text() == "Hello there, world!"
                if asked:
                    assert a.chunks()[-1]["choices"] == [] and a.usage()["completion_tokens"] == 5
                else:
                    assert a.usage() is None
        up.default = Script(usage="none")
        a = chat(s.port, "y" * 400, stream=True, stream_options={"include_usage": True})
        row = s.row(a.headers["x-request-id"])
        assert row["usage_source"] == "counted" and row["tokens_output"] == 5 and 100 <= row["tokens_input"] <= 140
        assert a.usage() == {"prompt_tokens": row["tokens_input"], "completion_tokens": 5,
                             "total_tokens": row["tokens_input"] + 5}
        a = chat(s.port)
        assert s.row(a.headers["x-request-id"])["usage_source"] == "counted"
        for lie in ({"prompt_tokens": -5, "completion_tokens": 2}, {"prompt_tokens": "9"}, [], {"prompt_tokens": 1e300}):
            up.default = Script(usage_fields=lie)
            a = chat(s.port, stream=True)
            row = s.row(a.headers["x-request-id"])
            assert row["usage_source"] == "counted" and row["tokens_output"] == 5, (lie, row)
        up.default = Script(usage_fields={"prompt_tokens": 10, "completion_tokens": 2,
                                          "prompt_tokens_details": {"cached_tokens": 99}})
        row = s.row(chat(s.port, stream=True).headers["x-request-id"])
        assert (row["tokens_input"], row["tokens_cached_input"]) == (10, 10)


def frames_stay_whole(args):
    """However the node cuts its bytes, the client gets whole frames with one LF each."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        for script in (Script(frame_pieces=7), Script(crlf=True), Script(crlf=True, frame_pieces=40), Script(done=False)):
            up.default = script
            a = chat(s.port, stream=True)
            assert a.text() == "Hello there, world!" and a.events[-1][1] == "[DONE]" and a.complete


def word_by_word(s, step):
    """A stream whose node sends a word once the client has the one before: how many came."""
    c = Connection(s.port, "POST", "/v1/chat/completions", {"model": "m", "messages": message(), "stream": True})
    c.head()
    words = 0
    for d in c.events():
        if '"content": "' in d and '"content": ""' not in d:
            words += 1
            step.release()
    assert c.answer.events[-1][1] == "[DONE]" and c.answer.text() == "Hello there, world!" * (words // 5)
    return words


def text_never_waits(args):
    """Each word is with the client before the node sends what follows it, the last one before the finish frame: the node
    sends nothing more until the client has it."""
    step = threading.Semaphore(1)
    up = Upstream(default=Script(step=step))
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        assert word_by_word(s, step) == 5


class AtOnce(Upstream):
    """All of an answer leaves in one write."""

    def _send(self, c, data):
        self.local.parts = getattr(self.local, "parts", b"") + data
        if b"Transfer-Encoding" not in self.local.parts or data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":
            c.sendall(self.local.parts)
            self.local.parts = b""


def one_write_for_each_read(args):
    """What one read from a node brings leaves in one write, the end in another: a stream that comes at once takes two, one
    that comes word by word one for each."""
    for kind, ahead, least, most in ((AtOnce, 200, 1, 3), (Upstream, 1, 100, 106)):
        step = threading.Semaphore(ahead)
        up = kind(default=Script(repeat=20, step=step))
        with Scheduler(args.build, [node("a", up)]).ready() as s:
            before = s.metrics()["spillway_http_writes_total"]
            assert word_by_word(s, step) == 100
            writes = s.metrics()["spillway_http_writes_total"] - before
            assert least <= writes <= most, writes


def keys(args):
    cloud, local = Upstream("cloud"), Upstream("local")
    entries = [{"id": "free", "sha256": key_hash("spw_free"), "tenant": "acme", "team": "x"},
               {"id": "bound", "sha256": key_hash("spw_bound"), "tenant": "bank", "local_only": True}]
    nodes = [node("cloud", cloud, models=("m", "cloud-only"), price=("0.1", "0.1", "0.1"), local=False),
             node("home", local)]
    with Scheduler(args.build, nodes, keys=entries).ready() as s:
        wait_until(lambda: chat(s.port, key="spw_free").headers.get("x-spillway-node") == "cloud", 3)
        for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "spw_free"},
                        {"Authorization": "Basic spw_free"}, {"Authorization": "Bearer "}):
            a = chat(s.port, headers=headers)
            check_error(a, 401, "invalid_api_key")
            assert a.headers["www-authenticate"].startswith("Bearer")
            check_error(request(s.port, "GET", "/v1/models", headers=headers), 401, "invalid_api_key")
        assert request(s.port, "GET", "/healthz").status == 200
        row = s.row(chat(s.port, key="spw_free").headers["x-request-id"])
        assert (row["tenant"], row["team"], row["key_id"], row["node"]) == ("acme", "x", "free", "cloud")

        before = len(cloud.generations())
        for _ in range(5):
            assert chat(s.port, key="spw_bound").headers["x-spillway-node"] == "home"
        check_error(chat(s.port, key="spw_bound", model="cloud-only"), 503, "no_local_capacity")
        shown = request(s.port, "GET", "/v1/models", headers={"Authorization": "Bearer spw_bound"}).json()
        assert [m["id"] for m in shown["data"]] == ["m"]
        local.default = Script(status=500)  # and not even a retry leaves
        check_error(chat(s.port, key="spw_bound"), 502, "upstream_error")
        assert len(cloud.generations()) == before
        assert chat(s.port, key="spw_free").status == 200


def cheapest_first(args):
    cheap, dear = Upstream("cheap"), Upstream("dear")
    nodes = [node("dear", dear, price=("2", "2", "2")), node("cheap", cheap, price=("1", "1", "1"), slots=1)]
    with Scheduler(args.build, nodes).ready() as s:
        wait_until(lambda: chat(s.port).headers["x-spillway-node"] == "cheap", 3)
        gate = threading.Event()
        cheap.default = dear.default = Script(gate=gate)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(chat(s.port))) for _ in range(3)]
        for t in threads:
            t.start()
        wait_until(lambda: cheap.active + dear.active == 3, what="all three are with a node")
        gate.set()
        for t in threads:
            t.join()
        assert sorted(a.headers["x-spillway-node"] for a in answers) == ["cheap", "dear", "dear"]


def retries(args):
    bad, good = Upstream("bad"), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with Scheduler(args.build, nodes).ready() as s:
        wait_until(lambda: chat(s.port).headers["x-spillway-node"] == "bad", 3)
        faults = [Script(status=500), Script(status=429, retry_after=9), Script(status=503), Script(status=401),
                  Script(status=404), Script(cut_after=0), Script(bad="type"), Script(error_event_after=0, cut_after=None)]
        for fault in faults:
            for stream in (False, True):
                if not stream and (fault.bad == "type" or fault.error_event_after is not None):
                    continue
                bad.scripts.append(fault)
                a = chat(s.port, stream=stream)
                if stream and fault.error_event_after is not None:
                    continue  # the role frame has left before: see failures_in_the_middle
                assert a.status == 200 and a.text() == "Hello there, world!", (vars(fault), a.status, a.body)
                assert a.headers["x-spillway-node"] == "good"
                row = s.row(a.headers["x-request-id"])
                assert row["attempts"] == 2 and row["outcome"] == 0
        for fault in (Script(bad="body"), Script(bad="length", cut_after=5)):
            bad.scripts.append(fault)
            assert chat(s.port).headers["x-spillway-node"] == "good"
        # A refusal of the request itself is the client's to read, and is not tried elsewhere.
        n = len(good.generations())
        for body in (None, b'{"object":"error","message":"too long","type":"BadRequest","code":400}', b"<html>"):
            bad.scripts.append(Script(status=400, error_body=body))
            a = chat(s.port)
            error = check_error(a, 400, "scripted" if body is None else None)
            assert ("too long" in error["message"]) == (body is not None and b"too" in body)
            assert s.row(a.headers["x-request-id"])["charge_pusd"] == 0
        assert len(good.generations()) == n
        # Nobody left.
        bad.default = good.default = Script(status=500)
        a = chat(s.port)
        check_error(a, 502, "upstream_error")
        row = s.row(a.headers["x-request-id"])
        assert (row["outcome"], row["http_status"], row["error"], row["charge_pusd"], row["attempts"]) == (
            2, 502, "upstream_error", 0, 2)
        bad.default = good.default = Script(status=429)
        check_error(chat(s.port), 429, "upstream_busy")


def nothing_comes(args):
    """routing.first_byte: a node that says nothing for so long has failed."""
    bad, good = Upstream("bad"), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with Scheduler(args.build, nodes, routing={"first_byte": "300ms"}).ready() as s:
        s.nodes_ready(2)

        def elsewhere():
            bad.scripts.append(Script(hang="head"))
            begin = time.monotonic()
            a = chat(s.port, stream=True)
            took = time.monotonic() - begin
            bad.scripts.clear()
            assert took > 0.25, took
            good_in_time = a.status == 200 and a.headers["x-spillway-node"] == "good"
            return took if good_in_time else 60

        until_quick(elsewhere, 1.5)
        bad.default = good.default = Script(hang="head")
        check_error(chat(s.port, stream=True), 504, "upstream_timeout")


def dead_node(args):
    """A node whose machine is gone: its requests go elsewhere, and it is not asked again until it is back."""
    dead, alive = Upstream("dead"), Upstream("alive")
    nodes = [node("dead", dead, price=("0", "0", "0")), node("alive", alive)]
    with Scheduler(args.build, nodes).ready() as s:
        wait_until(lambda: chat(s.port).headers["x-spillway-node"] == "dead", 3)
        dead.stop()
        for _ in range(20):
            a = chat(s.port)
            assert a.status == 200 and a.headers["x-spillway-node"] == "alive"
        s.line(message="state changed", node="dead", state="failing")


def failures_in_the_middle(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], routing={"idle": "300ms"}).ready() as s:
        for fault in (Script(cut_after=3), Script(error_event_after=3), Script(bad="json"), Script(bad="chunk"),
                      Script(hang="body", cut_after=3),
                      Script(finish=False, done=False, usage="none")):
            up.scripts.append(fault)
            a = chat(s.port, stream=True)
            assert a.status == 200 and a.complete
            assert a.events[-1][1] != "[DONE]"
            error = json.loads(a.events[-1][1])["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["code"].startswith("upstream_"), error
            row = s.row(a.headers["x-request-id"])
            got = 5 if not fault.finish else 4 if fault.bad else 3
            assert (row["outcome"], row["http_status"], row["tokens_output"], row["usage_source"]) == (
                2, 200, got, "counted"), (vars(fault), row)
            assert row["charge_pusd"] == exact_charge(row["tokens_input"], 0, got)


def client_leaves(args):
    up = Upstream(default=Script(word_delay=0.02, repeat=200))
    with Scheduler(args.build, [node("a", up, slots=1)]).ready() as s:
        left = 0

        def leaves(stream):
            """How long after its client has left a request is cancelled at the node."""
            nonlocal left
            sent = len(up.generations())
            c = Connection(s.port, "POST", "/v1/chat/completions",
                           {"model": "m", "messages": message(), "stream": stream})
            if stream:
                c.head()
                for i, _ in enumerate(c.events()):
                    if i == 10:
                        break
            else:
                wait_until(lambda: len(up.generations()) > sent, 3)
            begin = time.monotonic()
            c.close()
            took = up.aborted.get(timeout=30) - begin
            left += 1
            rows = wait_until(lambda: (lambda x: x if len(x) == left else None)(s.rows()), 3)
            row = rows[-1]
            assert (row["outcome"], row["http_status"], row["streamed"]) == (1, 499, stream), row
            if stream:
                assert row["charge_pusd"] > 0 and 9 <= row["tokens_output"] <= 20 + 50 * took + 50 * stalls.seconds, row
            else:
                assert row["charge_pusd"] == 0
            return took

        for stream in (True, False):
            with Stalls() as stalls:
                until_quick(lambda: leaves(stream), 0.1)
        # One that waits for the slot and leaves takes nothing.
        a = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": message(), "stream": True})
        a.head()
        b = Connection(s.port, "POST", "/v1/chat/completions", {"model": "m", "messages": message()})
        for n in (1, 0):
            wait_until(lambda: s.metrics()['spillway_requests_waiting{model="m",class="interactive"}'] == n, 3)
            b.close()
        a.close()
        wait_until(lambda: sum(r["outcome"] == 1 for r in s.rows()) == left + 1, 3)
        assert len(up.generations()) == left + 1 and len(s.rows()) == left + 1


def waiting(args):
    gate = threading.Event()
    up = Upstream(default=Script(word_delay=0.01, gate=gate))
    with Scheduler(args.build, [node("a", up, slots=2)], queue={"interactive": {"wait": "10s", "max": 6}}).ready() as s:
        order, lock = [], threading.Lock()

        def one(i):
            a = chat(s.port, str(i), stream=True)
            with lock:
                order.append((i, a.status))
            if a.status != 200:
                check_error(a, 429, "queue_full")

        def arrived():
            m = s.metrics()
            return (m["spillway_requests_running"] + m['spillway_requests_waiting{model="m",class="interactive"}'] +
                    m['spillway_refused_total{code="queue_full"}'])

        threads = [threading.Thread(target=one, args=(i,)) for i in range(10)]
        for i, t in enumerate(threads):
            t.start()
            wait_until(lambda: arrived() == i + 1, 5, f"request {i} is seen")
        wait_until(lambda: len(order) == 2, 5, "two too many are refused")
        assert sorted(order) == [(8, 429), (9, 429)], order
        gate.set()
        for t in threads:
            t.join()
        sent = [int(json.loads(body)["messages"][0]["content"]) for _, _, body in up.generations()]
        assert sorted(sent) == list(range(8)) and up.most_active == 2, (sent, up.most_active)
        begun = [r["leg_started_ns"] for r in s.rows()]
        assert len(begun) == 8 and begun == sorted(begun), begun  # two at a time, in order of arrival
    with Scheduler(args.build, [node("a", up, slots=1)], queue={"interactive": {"wait": "200ms"}}).ready() as s:
        gate = threading.Event()
        up.default = Script(gate=gate)
        t = threading.Thread(target=chat, args=(s.port,))
        t.start()
        wait_until(lambda: up.active == 1, 3)

        def refused():
            begin = time.monotonic()
            check_error(chat(s.port), 503, "no_capacity")
            return time.monotonic() - begin

        assert until_quick(refused, 0.6) > 0.15
        gate.set()
        t.join()
    with Scheduler(args.build, [node("a", up, slots=1)], queue={"interactive": {"wait": 0}}).ready() as s:
        gate.clear()
        t = threading.Thread(target=chat, args=(s.port,))
        t.start()
        wait_until(lambda: up.active == 1, 3)
        until_quick(refused, 0.1)
        gate.set()
        t.join()
        assert len(s.rows()) == 1  # who was never served is not in the books


def energy(args):
    """The node's declared watts x time / requests in flight; nothing where no watts are declared."""
    known, unknown = (Upstream(n, default=Script(head_delay=0.2)) for n in ("known", "unknown"))
    nodes = [node("known", known, watts=200), node("unknown", unknown, models=("other",))]
    with Scheduler(args.build, nodes).ready() as s:
        wait_until(lambda: s.metrics()['spillway_node_up{node="known"}'] == 1, 5)
        begin = time.monotonic()
        a = chat(s.port)
        joules = float(a.headers["x-spillway-joules-estimated"])
        assert 39 < joules <= 200 * (time.monotonic() - begin), joules
        begin = time.monotonic()
        last = chat(s.port, stream=True, stream_options={"include_usage": True}).chunks()[-1]
        assert 39 < last["spillway"]["joules_estimated"] <= 200 * (time.monotonic() - begin), last
        wait_until(lambda: chat(s.port, model="other").status == 200, 5)
        a = chat(s.port, model="other")
        assert a.status == 200 and "x-spillway-joules-estimated" not in a.headers
        last = chat(s.port, model="other", stream=True, stream_options={"include_usage": True}).chunks()[-1]
        assert set(last["spillway"]) == {"node", "charge_usd"}


def drained_node(args):
    """A node that an operator drains finishes what it has and gets nothing new."""
    ups = [Upstream("a", default=Script(word_delay=0.1)), Upstream("b")]
    nodes = [node("a", ups[0], price=("0", "0", "0")), node("b", ups[1])]
    with Scheduler(args.build, nodes).ready() as s:
        admin = os.path.join(s.folder, "state", "admin.sock")
        wait_until(lambda: s.metrics()['spillway_node_up{node="a"}'] == 1, 3)
        c = Connection(s.port, "POST", "/v1/chat/completions", {"model": "m", "messages": message(), "stream": True})
        assert c.head().headers["x-spillway-node"] == "a"
        assert request(admin, "POST", "/admin/v1/nodes/a/drain").status == 200
        for _ in range(5):
            assert chat(s.port).headers["x-spillway-node"] == "b"
        assert list(c.events())[-1] == "[DONE]" and c.answer.text() == "Hello there, world!"
        assert request(admin, "POST", "/admin/v1/nodes/b/drain").status == 200
        check_error(chat(s.port), 503, "no_capacity")
        assert request(s.port, "GET", "/readyz").json() == {"status": "not ready", "reason": "no node is ready"}
        assert request(admin, "POST", "/admin/v1/nodes/a/undrain").status == 200
        assert request(s.port, "GET", "/readyz").status == 200
        assert chat(s.port).headers["x-spillway-node"] == "a"


def waits_for_a_node(args):
    """With nobody healthy a request waits for one that comes back."""
    up = Upstream(health=503)
    with Scheduler(args.build, [node("a", up)]) as s:
        assert request(s.port, "GET", "/readyz").status == 503
        answers = []
        t = threading.Thread(target=lambda: answers.append(chat(s.port)))
        t.start()
        time.sleep(0.3)
        assert not answers and not up.generations()
        up.health = 200
        t.join()
        assert answers[0].status == 200


def no_health_endpoint(args):
    up = Upstream(health=404)
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        assert chat(s.port).status == 200


def drain(args):
    hold = threading.Event()
    up = Upstream(default=Script(hold=hold))
    s = Scheduler(args.build, [node("a", up)], drain="60s").ready()
    try:
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": message(), "stream": True})
        c.head()
        s.process.send_signal(15)
        s.line(message="draining")
        try:
            refused = chat(s.port, timeout=10).status
        except (OSError, Closed):
            refused = 503  # not even accepted
        assert refused == 503, refused
        hold.set()
        for _ in c.events():
            pass
        assert c.answer.events[-1][1] == "[DONE]" and c.answer.text() == "Hello there, world!"
        assert s.process.wait(30) == 0
        assert [r["outcome"] for r in s.rows()] == [0]
    finally:
        s.close()
    up.default = Script(word_delay=0.2, repeat=50)
    s = Scheduler(args.build, [node("a", up)], drain="500ms").ready()
    try:
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": message(), "stream": True})
        c.head()
        begin = time.monotonic()
        s.process.send_signal(15)
        for _ in c.events():
            pass
        assert json.loads(c.answer.events[-1][1])["error"]["code"] == "draining" and c.answer.complete
        assert s.process.wait(30) == 0 and 0.4 < time.monotonic() - begin < 8  # of the 10 s that the stream would take
        assert [r["outcome"] for r in s.rows()] == [2]
    finally:
        s.close()


def big_prompt(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        text = ("word \"quoted\" \\ \n" * 30000)[:400000]
        for stream in (False, True):
            a = chat(s.port, text, stream=stream)
            assert a.status == 200 and a.text() == "Hello there, world!"
            assert json.loads(up.generations()[-1][2])["messages"][0]["content"] == text

        def takes():
            begin = time.monotonic()
            assert chat(s.port, text).status == 200
            return time.monotonic() - begin

        until_quick(takes, 1 if args.sanitized else 0.3)
        a = request(s.port, "POST", "/v1/chat/completions", b" " * (33 << 20))
        assert a.status == 413, a.status


def slow_reader(args):
    """A node that writes 200 MB as fast as it can to a client that reads nothing: neither memory nor the node's output
    grows beyond what buffers hold."""
    word = "x" * 4000
    up = Upstream(default=Script(words=[word], repeat=50000))
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        before = s.rss_kib()
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": message(), "stream": True},
                       receive_buffer=65536)
        c.head()

        def stands():
            sent = up.sent_bytes
            time.sleep(0.5)
            return sent if sent == up.sent_bytes else None

        sent = wait_until(stands, 20, "the node is no longer read")
        assert sent < 64 << 20, f"the node could send {sent >> 20} MiB"  # four socket buffers of the kernel, mostly
        assert s.rss_kib() - before < (96 << 10 if args.sanitized else 16 << 10), (before, s.rss_kib())
        assert request(s.port, "GET", "/healthz").status == 200
        got = 0
        for piece in c.pieces():  # reading again lets it flow again
            got += len(piece)
            if got > 40 << 20:
                break
        assert up.sent_bytes > sent
        c.close()
        up.aborted.get(timeout=30)


def ledger_is_locked(args):
    """While the books cannot be written text still flows, but no answer ends; then everything ends, once."""
    up = Upstream(default=Script(word_delay=0.02))
    with Scheduler(args.build, [node("a", up)], ledger={"journal": "off"}).ready() as s:
        chat(s.port)
        lock = sqlite3.connect(s.ledger_path, isolation_level=None)
        lock.execute("begin immediate")
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": message(), "stream": True})
        c.head()
        whole = Connection(s.port, "POST", "/v1/chat/completions", {"model": "m", "messages": message()})
        ended = []
        reader = threading.Thread(target=lambda: (list(c.events()), ended.append(time.monotonic())))
        reader.start()
        wait_until(lambda: len(c.answer.events) == 6, 3, "all the text is there")
        time.sleep(0.5)
        assert not ended and len(c.answer.events) == 6
        assert len(s.rows()) == 1
        lock.execute("rollback")
        lock.close()
        reader.join(10)
        assert ended and c.answer.events[-1][1] == "[DONE]" and len(c.answer.events) == 8
        assert whole.all().status == 200
        rows = s.rows()
        assert len(rows) == 3 and all(r["outcome"] == 0 for r in rows)


def metrics(args):
    """/metrics on the admin socket agrees with the ledger."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        for i in range(7):
            chat(s.port, stream=i % 2 == 0)
        chat(s.port, model="nope")
        up.scripts.append(Script(status=500))
        chat(s.port)
        a = request(os.path.join(s.folder, "state", "admin.sock"), "GET", "/metrics")
        assert a.headers["content-type"].startswith("text/plain; version=0.0.4")
        declared = [line.split()[1:3] for line in a.body.decode().splitlines() if line.startswith("#")]
        assert len({tuple(d) for d in declared}) == len(declared), "a metric is declared twice"
        values = s.metrics()
        rows = s.rows()
        assert values['spillway_requests_total{model="m",outcome="ok"}'] == 7 == sum(r["outcome"] == 0 for r in rows)
        assert values['spillway_requests_total{model="m",outcome="failed"}'] == 1
        assert values['spillway_refused_total{code="model_not_found"}'] == 1
        assert values['spillway_leg_failures_total{node="a",fault="status"}'] == 1
        assert values['spillway_tokens_total{model="m",kind="output"}'] == sum(r["tokens_output"] for r in rows)
        charge = sum(r["charge_pusd"] for r in rows)
        assert abs(values['spillway_charge_usd_total{model="m",node="a"}'] - charge / 1e12) < 1e-12
        assert values['spillway_node_up{node="a"}'] == 1 and values["spillway_requests_running"] == 0
        first = 'spillway_time_to_first_byte_seconds_bucket{operation="chat",model="m",node="a",le='
        assert values[first + '"+Inf"}'] == 7 and first + '"0.5"}' in values
        genai = ('{gen_ai_operation_name="chat",gen_ai_request_model="m",server_address="a",'
                 'gen_ai_provider_name="spillway"')
        for name in ("request_duration", "time_to_first_token"):
            assert values[f"gen_ai_server_{name}_seconds_count{genai}}}"] == 7, name
        assert values[f'gen_ai_client_token_usage_sum{genai},gen_ai_token_type="output"}}'] == sum(
            r["tokens_output"] for r in rows)
        assert values["process_resident_memory_bytes"] > 1e6 and values["process_open_fds"] > 5
        assert abs(values["process_start_time_seconds"] - time.time()) < 60
        assert values["spillway_ledger_rows_total"] == 8


def tls_to_nodes(args):
    """A node's certificate is checked: chain and name."""
    with tempfile.TemporaryDirectory() as folder:
        right, wrong = certificate(folder), certificate(folder, "elsewhere")
        good, bad = Upstream("good", tls=right), Upstream("bad", tls=wrong)
        trust = os.path.join(folder, "trust.pem")
        with open(trust, "w") as f:
            f.write(open(right[0]).read() + open(wrong[0]).read())
        nodes = [node("good", good), node("bad", bad, price=("0", "0", "0"))]
        with Scheduler(args.build, nodes, env={"SSL_CERT_FILE": trust}).ready() as s:
            for stream in (False, True):
                a = chat(s.port, stream=stream)
                assert a.status == 200 and a.text() == "Hello there, world!" and a.headers["x-spillway-node"] == "good"
            assert not bad.requests
            # On a busy machine a check may be late before one gets as far as the certificate.
            wait_until(lambda: any(line.get("node") == "bad" and "certificate" in line.get("reason", "")
                                   for line in s.log_lines()), 15, "the bad certificate is the reason")
        with Scheduler(args.build, [node("good", good)], queue={"interactive": {"wait": "200ms"}}) as s:  # nobody vouches for it
            check_error(chat(s.port), 503, "no_capacity")


def tls_to_clients(args):
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder)
        up = Upstream()
        context = ssl.create_default_context(cafile=cert)
        with Scheduler(args.build, [node("a", up)], tls={"cert": cert, "key": key}) as s:
            wait_until(lambda: request(s.port, "GET", "/readyz", tls=context).status == 200, 5)
            for stream in (False, True):
                a = chat(s.port, "x" * 100000, stream=stream, tls=context)
                assert a.status == 200 and a.text() == "Hello there, world!" and a.complete
            try:
                request(s.port, "GET", "/healthz", timeout=3)
                raise AssertionError("plain HTTP was answered on a TLS port")
            except (OSError, AssertionError) as e:
                assert "plain" not in str(e), e


def many_at_once(args):
    """64 streams at a time: every answer whole, every row exact."""
    ups = [Upstream(str(i), default=Script(word_delay=0.002)) for i in range(3)]
    patient = {"interval": "5s", "timeout": "5s"}  # with so many threads here: none of the three is down for being late
    with Scheduler(args.build, [node(f"n{i}", u) for i, u in enumerate(ups)], health=patient).ready() as s:
        s.nodes_ready(3)
        answers, lock = [], threading.Lock()

        def client(k):
            for i in range(5):
                asked = {"stream": True, "stream_options": {"include_usage": True}} if i % 2 == 0 else {}
                a = chat(s.port, f"{k} {i}", **asked)
                with lock:
                    answers.append(a)

        threads = [threading.Thread(target=client, args=(k,)) for k in range(64)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rows = {r["request_id"]: r for r in s.rows()}
        assert len(rows) == len(answers) == 320
        for a in answers:
            row, u = rows[a.headers["x-request-id"]], a.usage()
            assert a.status == 200 and a.text() == "Hello there, world!" and row["outcome"] == 0
            assert (row["tokens_input"], row["tokens_output"]) == (u["prompt_tokens"], u["completion_tokens"])
            assert row["charge_pusd"] == exact_charge(row["tokens_input"], row["tokens_cached_input"], row["tokens_output"])
        assert all(len(u.generations()) > 60 for u in ups), "equals share"


def keep_alive_and_pipelining(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)]).ready() as s:
        body = json.dumps({"model": "m", "messages": message()}).encode()
        one = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
        c = socket.create_connection(("127.0.0.1", s.port))
        c.settimeout(30)
        c.sendall(one * 3)
        data = b""
        while data.count(b"HTTP/1.1 200") < 3 or not data.endswith(b"}"):
            piece = c.recv(65536)
            assert piece, data
            data += piece
        c.close()
        assert len(up.generations()) == 3 and len(s.rows()) == 3


if __name__ == "__main__":
    main(__doc__, [surface, request_errors, whole_answer, embeddings, embeddings_elsewhere, embeddings_in_a_budget,
                   texts_and_ids, passes_through_untouched, nothing_said_is_logged, model_is_renamed,
                   stream_without_usage_asked, stream_with_usage_asked, usage_in_odd_places, frames_stay_whole,
                   text_never_waits, one_write_for_each_read, keys, cheapest_first, retries, nothing_comes, dead_node,
                   failures_in_the_middle, client_leaves,
                   waiting, energy, drained_node,
                   waits_for_a_node, no_health_endpoint, drain, big_prompt, slow_reader,
                   ledger_is_locked, metrics,
                   tls_to_nodes, tls_to_clients, many_at_once,
                   keep_alive_and_pipelining])
