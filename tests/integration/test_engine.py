#!/usr/bin/env python3
"""The engine's server as its clients see it: `spillway-engine serve` on a free loopback port, with the tiny model of
engine_server.py."""

import base64
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from engine_server import FOLDER, Server, engine, error_of, make_model, same  # noqa: E402
from harness import Connection, Skip, Stalls, in_parallel, main, request, run_ns, thread_names, wait_until  # noqa: E402

# ---- the surface ----


def surface(args):
    with Server(args) as s:
        same(request(s.port, "GET", "/health").json(), {"status": "ok", "model": "tiny"})
        card = request(s.port, "GET", "/v1/models").json()["data"][0]
        same((card["id"], card["object"], card["max_model_len"]), ("tiny", "model", 1024))
        same(request(s.port, "GET", "/v1/models/tiny").json(), card)
        same(request(s.port, "GET", "/v1/models/%74iny").json(), card)
        a = s.chat(temperature=0)
        j = a.json()
        assert a.headers["x-request-id"] == j["id"] and j["id"].startswith("chatcmpl-")
        same((j["object"], j["model"], j["choices"][0]["index"]), ("chat.completion", "tiny", 0))
        same(j["choices"][0]["message"]["role"], "assistant")
        same(j["choices"][0]["finish_reason"], "length")
        assert abs(j["created"] - time.time()) < 60 and j["system_fingerprint"]
        j = s.complete(temperature=0).json()
        assert j["id"].startswith("cmpl-") and j["object"] == "text_completion"
        # Content as parts is the same as a string; a developer is a system.
        parts = request(s.port, "POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "max_tokens": 16,
            "temperature": 0})
        same(parts.json()["choices"][0]["message"], s.chat(temperature=0).json()["choices"][0]["message"])


def errors(args):
    with Server(args) as s:
        error_of(request(s.port, "GET", "/v1/models/other"), 404, "model_not_found", "model")
        error_of(request(s.port, "GET", "/nothing"), 404, "not_found")
        error_of(request(s.port, "GET", "/v1/completions"), 405, "method_not_allowed")
        error_of(request(s.port, "POST", "/health", b""), 405, "method_not_allowed")
        error_of(s.chat(model="gpt-4"), 404, "model_not_found", "model")
        error_of(request(s.port, "POST", "/v1/completions", b"{"), 400, "invalid_json")
        error_of(request(s.port, "POST", "/v1/completions", b""), 400, "invalid_json")
        error_of(request(s.port, "POST", "/v1/completions", b"[1]"), 400)
        error_of(request(s.port, "POST", "/v1/completions", b'{"prompt":"a","prompt":"b"}'), 400, "invalid_json")
        error_of(s.complete(temperature=-1), 400, param="temperature")
        error_of(s.complete(n=3, best_of=4), 400, "unsupported_parameter", "best_of")
        error_of(s.complete(n=129), 400, param="n")
        error_of(s.chat(echo=True), 400, "unsupported_parameter", "echo")
        error_of(s.complete(max_tokens=0), 400, param="max_tokens")
        error_of(s.complete(max_tokens=0, echo=True, min_tokens=1), 400, param="max_tokens")
        error_of(s.complete([512]), 400, param="prompt")
        error_of(s.complete([5] * 1024), 400, "context_length_exceeded", "prompt")
        error_of(s.complete("word " * 1000), 400, "context_length_exceeded", "prompt")
        error_of(s.chat("word " * 1000), 400, "context_length_exceeded", "messages")
        error_of(s.chat(messages=[{"role": "wizard", "content": "x"}]), 400, param="messages")
        error_of(s.chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, param="messages")
        same(s.complete([5] * 1023).json()["usage"]["completion_tokens"], 1)  # the last that fits
        same(s.metric("vllm:num_requests_running"), 0)


def keys(args):
    path = os.path.join(FOLDER, "keys")
    with open(path, "w") as f:
        f.write("# the team's\nsecret-key-1\n\n  secret-key-2  \n")
    with Server(args, "--api-key-file", path) as s:
        same(request(s.port, "GET", "/health").status, 200)
        for method, target in [("GET", "/metrics"), ("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/x")]:
            for headers in [{}, {"Authorization": "Bearer secret-key-3"}, {"Authorization": "Bearer "},
                            {"Authorization": "Basic secret-key-1"}]:
                a = request(s.port, method, target, {} if method == "POST" else None, headers)
                error_of(a, 401, "invalid_api_key")
                same(a.headers["www-authenticate"], "Bearer")
        for key in ["secret-key-1", "secret-key-2"]:
            same(request(s.port, "GET", "/metrics", headers={"Authorization": f"Bearer {key}"}).status, 200)
        # A stranger's body is not waited for.
        with socket.create_connection(("127.0.0.1", s.port), 10) as c:
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n{")
            assert b" 401 " in c.recv(65536).split(b"\r\n")[0]
        assert "secret" not in s.log_text()


def refused_starts(args):
    def run(*flags, env=None):
        r = subprocess.run([engine(args), "serve", "--port", "0", *flags], capture_output=True, text=True, timeout=60,
                           env={**os.environ, **(env or {})})
        return r.returncode, r.stderr

    model = make_model(args)
    for flags, status, words in [
        ([], 2, "--model"),
        (["--model", model, "--device", "cuda:0"], 1, "CUDA"),
        (["--model", model, "--device", "tpu"], 2, "expected auto, cpu"),
        (["--model", model, "--cuda-gemm", "mkl"], 2, "cublaslt"),
        (["--model", "/nowhere.gguf"], 1, "/nowhere.gguf"),
        (["--model", model, "--chat-template", "klingon"], 1, "klingon"),
        (["--model", model, "--api-key-file", "/nowhere"], 1, "/nowhere"),
        (["--model", model, "--host", "300.1.1.1"], 1, "300.1.1.1"),
        (["--model", model, "--max-batch", "0"], 2, "max-batch"),
    ]:
        if "cuda:0" in flags and "CUDA" not in run(*flags)[1]:
            continue  # a build with CUDA serves instead
        code, text = run(*flags)
        assert code == status and words in text, f"{flags}: exit {code}:\n{text}"
    text = run("--model", model, "--max-batch", "0")[1]
    assert len(text.splitlines()) == 1, text


def the_device_is_told(args):
    with Server(args) as s:
        told = [x for x in s.log_lines() if x["message"] == "device chosen"]
        same(len(told), 1)
        assert told[0]["device"].startswith("cuda:") or (told[0]["device"] == "cpu" and "CUDA" in told[0]["reason"]), told


def a_library_that_is_not_there_is_told(args):
    with Server(args, "--device", "cpu", "--cuda-gemm", "cublaslt") as s:
        told = [x for x in s.log_lines() if x["message"] == "no cuBLASLt: our own kernels multiply"]
        same([x["reason"] for x in told], ["backend cpu has none"])
        same(request(s.port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2}).status, 200)


def environment_stands_in(args):
    with Server(args, model="", env={"MODEL_PATH": make_model(args), "MAX_BATCH_SIZE": "3"}) as s:
        ready = wait_until(lambda: [x for x in s.log_lines() if x["message"] == "ready"], 5, "ready")[0]
        same((ready["max_batch"], ready["model"]), (3, "tiny"))
    with Server(args, "--alias", "my model/1") as s:
        same(request(s.port, "GET", "/v1/models/my%20model%2F1").json()["id"], "my model/1")
        same(request(s.port, "POST", "/v1/completions", {"model": "my model/1", "prompt": "x"}).status, 200)


# ---- answers ----


def streaming_equals_whole(args):
    with Server(args) as s:
        for fields in [{"temperature": 0}, {"seed": 5}, {"temperature": 0, "stop": "9"}]:
            whole = s.complete(**fields, max_tokens=40)
            streamed = s.stream(**fields, max_tokens=40, stream_options={"include_usage": True}).all()
            assert streamed.complete and streamed.events[-1][1] == "[DONE]"
            same(streamed.text(), whole.text())
            same(streamed.usage(), whole.usage())
            chunks = streamed.chunks()
            same(len({c["id"] for c in chunks}), 1)
            same(len({c["created"] for c in chunks}), 1)
            same(chunks[-1]["choices"], [])
            assert all(c["usage"] is None for c in chunks[:-1])
            reasons = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
            same([r for r in reasons if r], [whole.json()["choices"][0]["finish_reason"]])
            assert all("usage" not in c for c in s.stream(**fields).all().chunks())


def chat_streams(args):
    with Server(args) as s:
        whole = s.chat(temperature=0).json()["choices"][0]["message"]
        a = s.chat(temperature=0, stream=True)
        deltas = [c["choices"][0]["delta"] for c in a.chunks()]
        same(deltas[0], {"role": "assistant", "content": ""})
        assert all("role" not in d for d in deltas[1:])
        same("".join(d.get("reasoning_content", "") for d in deltas), whole.get("reasoning_content", ""))
        same("".join(d.get("content") or "" for d in deltas), whole["content"])


def reasoning_is_split(args):
    """The template opens <think>; a bias makes </think> the first and every following token: nothing was thought, one
    token was spent on it, and the later tags are plain text."""
    with Server(args) as s:
        r = s.chat(temperature=0, logit_bias={"511": 100}, max_tokens=4).json()
        message = r["choices"][0]["message"]
        assert "reasoning_content" not in message
        same(message["content"], "</think>" * 3)
        same(r["usage"]["completion_tokens_details"]["reasoning_tokens"], 1)
        r = s.chat(temperature=0, max_tokens=8).json()
        same(r["choices"][0]["message"]["content"], "")
        assert r["choices"][0]["message"]["reasoning_content"]
        same(r["usage"]["completion_tokens_details"]["reasoning_tokens"], 8)


def usage_is_exact(args):
    with Server(args, "--ctx-size", "300") as s:
        for n in [1, 7, 64, 65, 130]:
            u = s.complete([5] * n, max_tokens=n + 3, ignore_eos=True).usage()
            same((u["prompt_tokens"], u["completion_tokens"], u["total_tokens"]), (n, n + 3, 2 * n + 3))
            same(u["prompt_tokens_details"], {"cached_tokens": 64 if n > 64 else 0})  # of the one before
        a = s.complete(logprobs=0, temperature=0, max_tokens=30)
        same(len(a.json()["choices"][0]["logprobs"]["tokens"]), a.usage()["completion_tokens"])
        # To the end of the context: the prompt and the answer fill it exactly.
        u = s.chat(max_tokens=None, ignore_eos=True).usage()
        same(u["total_tokens"], 300)
        prompt = s.metric("vllm:prompt_tokens_total")
        generated = s.metric("vllm:generation_tokens_total")
        same(generated, 4 + 10 + 67 + 68 + 133 + a.usage()["completion_tokens"] + u["completion_tokens"])
        assert prompt > 267, prompt


def known_beginnings(args):
    """What a prompt shares with an earlier one is not computed again, and the answer is the same; it can be switched off,
    it is bounded, and what was kept is given up when there is work that needs the room."""
    prompt = [3 + i * 7 % 250 for i in range(200)]
    ask = {"max_tokens": 4 if args.sanitized else 20, "temperature": 1, "seed": 7, "ignore_eos": True}
    with Server(args, "--ctx-size", "256", "--max-batch", "4") as s, \
            Server(args, "--ctx-size", "256", "--max-batch", "4", "--prefix-cache", "0") as plain:
        def cached(server, ids, **fields):
            a = server.complete(ids, **{**ask, **fields})
            return a.usage()["prompt_tokens_details"]["cached_tokens"], a.json()["choices"][0]["text"]

        first = cached(s, prompt)
        same(first[0], 0)
        same(cached(s, prompt), (192, first[1]))
        same(cached(s, prompt[:130] + [9] * 60)[0], 128)
        same(cached(s, prompt[1:])[0], 0)
        for _ in range(2):
            same(cached(plain, prompt), first)
        # A stream counts them too, and says so in its usage.
        chunks = s.complete(prompt, **ask, stream=True, stream_options={"include_usage": True}).chunks()
        usage = next(c["usage"] for c in chunks if c.get("usage"))
        same(usage["prompt_tokens_details"], {"cached_tokens": 192})
        same(s.metric("vllm:prefix_cache_hits_total"), 192 + 128 + 192)
        same(s.metric("vllm:prefix_cache_queries_total"), 3 * 200 + 190 + 199)
        same(s.metric("spillway_engine_kv_pages", state="free"), s.metric("spillway_engine_kv_pages", state="all"))
        # Half of the pool of 16 pages may be kept.
        for i in range(12):
            cached(s, [3 + i] * 200)
        same(s.metric("spillway_engine_kv_pages", state="kept"), 8)
        assert s.metric("spillway_engine_kv_pages_evicted_total") > 20
        same(plain.metric("spillway_engine_kv_pages", state="kept"), 0)


def choices(args):
    """n answers to one prompt, which is computed once; the first is what the request would get alone, each is what its own
    seed gives; whole and streamed they are the same."""
    prompt = [3 + i * 7 % 250 for i in range(150)]
    ask = {"max_tokens": 30, "temperature": 1, "ignore_eos": True}

    def texts(answer):
        listed = answer.json()["choices"]
        same([c["index"] for c in listed], list(range(len(listed))))
        same({c["finish_reason"] for c in listed}, {"length"})
        return [c["text"] for c in listed]

    with Server(args, "--ctx-size", "256", "--max-batch", "3") as s:
        alone = [texts(s.complete(prompt, **ask, seed=7 + i))[0] for i in range(5)]
        assert len(set(alone)) == 5
        before = s.metric("spillway_engine_step_tokens_total", kind="prefill")
        a = s.complete([9] + prompt, **ask, n=5, seed=7)
        assert a.status == 200, a.body
        u = a.usage()
        same((u["prompt_tokens"], u["completion_tokens"], u["total_tokens"]), (151, 150, 301))
        same(u["prompt_tokens_details"], {"cached_tokens": 0})
        same(s.metric("spillway_engine_step_tokens_total", kind="prefill") - before, 151 + 4 * (151 - 128))
        same(texts(s.complete(prompt, **ask, n=5, seed=7)), alone)
        got, finishes = [""] * 5, {}
        chunks = s.complete(prompt, **ask, n=5, seed=7, stream=True, stream_options={"include_usage": True}).chunks()
        for c in chunks[:-1]:
            (choice,) = c["choices"]
            assert choice["index"] not in finishes
            got[choice["index"]] += choice["text"]
            if choice["finish_reason"]:
                finishes[choice["index"]] = choice["finish_reason"]
        same((got, set(finishes.values()), len(finishes)), (alone, {"length"}, 5))
        same(chunks[-1]["usage"]["completion_tokens"], 150)
        roles = [c["choices"][0]["index"] for c in s.chat(n=3, stream=True).chunks()
                 if c["choices"] and "role" in c["choices"][0]["delta"]]
        same(sorted(roles), [0, 1, 2])
        # The prompt is shared as well where nothing is kept of requests that are over.
        with Server(args, "--ctx-size", "256", "--max-batch", "3", "--prefix-cache", "0") as forgets:
            read = []  # in each try: where the first choice is over before the others come, it has nothing to share any more
            while 150 + 4 * (150 - 128) not in read:
                assert len(read) < 10, read
                before = forgets.metric("spillway_engine_step_tokens_total", kind="prefill")
                same(texts(forgets.complete(prompt, **ask, n=5, seed=7)), alone)
                read.append(forgets.metric("spillway_engine_step_tokens_total", kind="prefill") - before)
            same(forgets.metric("spillway_engine_kv_pages", state="kept"), 0)
            same(forgets.metric("spillway_engine_kv_pages", state="free"), forgets.metric("spillway_engine_kv_pages", state="all"))
        # Whoever leaves frees all of them.
        c = s.stream(prompt, **{**ask, "max_tokens": 100}, n=8)
        c.head()
        c.close()
        wait_until(s.is_idle)
        same(s.metric("spillway_engine_kv_pages", state="free"), s.metric("spillway_engine_kv_pages", state="all"))


def looking_ahead(args):
    """Verifying several tokens in one step changes nothing but the number of steps: same texts, log probabilities, ends."""
    asks = [dict(prompt=[5, 6, 7, 8] * 20, temperature=0, logprobs=2), dict(prompt=[5, 6, 7, 8] * 20, seed=4, temperature=0.3),
            dict(prompt="over and over and over and over and", temperature=0, frequency_penalty=0.2),
            dict(prompt=[5, 6, 7, 8] * 20, temperature=0, logit_bias={"5": 40, "6": 40})]
    with Server(args, "--ctx-size", "256") as s, Server(args, "--ctx-size", "256", "--no-lookahead") as plain:
        for ask in asks:
            ask = {**ask, "max_tokens": 60 if args.sanitized else 120, "ignore_eos": True}
            same(s.complete(**ask).json()["choices"], plain.complete(**ask).json()["choices"])
        proposed, accepted = (s.metric(f"vllm:spec_decode_num_{what}_tokens_total") for what in ["draft", "accepted"])
        assert proposed >= accepted > 0, (proposed, accepted)
        assert s.metric("spillway_engine_steps_total") < plain.metric("spillway_engine_steps_total")
        same(plain.metric("vllm:spec_decode_num_draft_tokens_total"), 0)


def the_young_give_way(args):
    """A KV pool for two answers, and six of them: whoever is displaced goes on later, and nobody's answer changes."""
    n = 4 if args.sanitized else 6

    def ask(s, i):
        return s.complete([5 + i] * (20 + 9 * i), max_tokens=180, seed=i, ignore_eos=True).json()["choices"][0]["text"]

    with Server(args, "--ctx-size", "256", "--max-batch", "6", "--kv-tokens", "512" if args.sanitized else "640") as s, \
            Server(args, "--ctx-size", "256", "--max-batch", "6") as plain:
        want = [ask(plain, i) for i in range(n)]
        for _ in range(20):  # a quick machine may be through with some before the others have come
            same(in_parallel([lambda i=i: ask(s, i) for i in range(n)]), want)
            if s.metric("vllm:num_preemptions_total") > 0:
                break
        assert s.metric("vllm:num_preemptions_total") > 0
        same(s.metric("spillway_engine_kv_pages", state="free"), s.metric("spillway_engine_kv_pages", state="all"))
        same(plain.metric("vllm:num_preemptions_total"), 0)
        same(s.metric("spillway_engine_kv_pages_copied_total", to="host"), 0)
    # What the displaced had computed comes back from the host's memory.
    with Server(args, "--ctx-size", "256", "--max-batch", "6", "--kv-tokens", "512", "--kv-spill", "2048") as s:
        for _ in range(20):
            same(in_parallel([lambda i=i: ask(s, i) for i in range(n)]), want)
            if s.metric("spillway_engine_kv_pages_copied_total", to="pool") > 0:
                break
        assert s.metric("spillway_engine_kv_pages_copied_total", to="pool") > 0
        same(s.metric("spillway_engine_kv_pages", state="free"), s.metric("spillway_engine_kv_pages", state="all"))
        assert s.metric("spillway_engine_kv_pages", state="spilled") <= 32


def embeddings(args):
    """One vector of length 1 per input, the same whatever else was asked for, and whatever is known of the input."""
    def post(s, **body):
        return request(s.port, "POST", "/v1/embeddings", body)

    def vectors(s, **body):
        a = post(s, **body)
        assert a.status == 200, a.body
        j = a.json()
        same([(d["object"], d["index"]) for d in j["data"]], [("embedding", i) for i in range(len(j["data"]))])
        for v in (d["embedding"] for d in j["data"] if isinstance(d["embedding"], list)):
            assert abs(sum(x * x for x in v) - 1) < 1e-5
        return [d["embedding"] for d in j["data"]], j["usage"]

    long = [3 + i * 7 % 250 for i in range(600)]
    with Server(args, "--ctx-size", "700", "--max-batch", "3") as s:
        (one,), usage = vectors(s, input="hello there")
        n = request(s.port, "POST", "/tokenize", {"prompt": "hello there"}).json()
        same(usage, {"prompt_tokens": n["count"], "total_tokens": n["count"]})
        same(vectors(s, input=n["tokens"])[0], [one])
        many, usage = vectors(s, input=["hello there", "x", "something else"] * 4 + ["hello there"])
        same((many[0], many[3], many[12], len(many)), (one, one, one, 13))
        assert many[1] != one and many[2] != many[1]
        (a,), _ = vectors(s, input=long)
        s.complete(long, max_tokens=2)  # now its pages are known
        same(vectors(s, input=long)[0], [a])
        (b,), _ = vectors(s, input=long, pooling="last")
        same(vectors(s, input=long, pooling="last")[0], [b])
        assert a != b and vectors(s, input=long[:-1], pooling="last")[0] != [b]
        packed = base64.b64decode(vectors(s, input="hello there", encoding_format="base64")[0][0])
        same(list(struct.unpack(f"<{len(one)}f", packed)),
             [struct.unpack("<f", struct.pack("<f", x))[0] for x in one])
        for body in [{}, {"input": []}, {"input": 5}, {"input": [5, "x"]}, {"input": [["x"]]}, {"input": {"a": 1}},
                     {"input": [1 << 30]}]:
            error_of(post(s, **body), 400, param="input")
        error_of(post(s, input=long * 2), 400, "context_length_exceeded", "input")
        error_of(post(s, input="x", encoding_format="int8"), 400, param="encoding_format")
        error_of(post(s, input="x", dimensions=5), 400, "unsupported_parameter", "dimensions")
        error_of(post(s, input="x", model="other"), 404, "model_not_found", "model")
        error_of(post(s, input="x", spillway_salt="mine"), 400, "node_key_required", "spillway_salt")
        same(s.metric("vllm:num_requests_running"), 0)


def texts_and_ids(args):
    """/tokenize and /detokenize are each other's inverse, and agree with what a completion counts."""
    def post(s, path, **body):
        return request(s.port, "POST", path, body)

    with Server(args, "--ctx-size", "64") as s:
        for text in ["hello", "", "a\u00e4\u4e16\U0001f30d b\n\tc", "x" * 1000, "<think>no markup</think>"]:
            a = post(s, "/tokenize", prompt=text, add_special_tokens=False).json()
            same(a["count"], len(a["tokens"]))
            same((a["max_model_len"], a["token_strs"]), (64, None))
            same(post(s, "/detokenize", tokens=a["tokens"]).json(), {"prompt": text})
        a = post(s, "/tokenize", prompt="hello there", return_token_strs=True).json()
        same(len(a["token_strs"]), a["count"])
        same(s.complete("hello there", max_tokens=1).usage()["prompt_tokens"], a["count"])
        same(s.complete(a["tokens"], max_tokens=1).usage()["prompt_tokens"], a["count"])
        bare = post(s, "/tokenize", prompt="hello there", add_special_tokens=False).json()["tokens"]
        same(a["tokens"][-len(bare):], bare)
        messages = [{"role": "user", "content": "hello"}]
        a = post(s, "/tokenize", messages=messages).json()
        same(s.chat("hello", max_tokens=1).usage()["prompt_tokens"], a["count"])
        assert "hello" in post(s, "/detokenize", tokens=a["tokens"]).json()["prompt"]
        error_of(post(s, "/tokenize"), 400, param="prompt")
        error_of(post(s, "/tokenize", prompt="x", model="other"), 404, "model_not_found", "model")
        error_of(post(s, "/tokenize", prompt="x", add_special_tokens=3), 400, param="add_special_tokens")
        error_of(post(s, "/detokenize"), 400, param="tokens")
        for tokens in ["x", [1.5], [-1], [1 << 40], ["a"], {}]:
            assert post(s, "/detokenize", tokens=tokens).status == 400, tokens
        error_of(request(s.port, "POST", "/detokenize", b"[1]"), 400)
        error_of(request(s.port, "GET", "/tokenize"), 405, "method_not_allowed")


def stop_strings(args):
    with Server(args) as s:
        seen = 0
        for seed in range(12):
            a = s.complete(seed=seed, max_tokens=60, logprobs=0).json()["choices"][0]
            tokens, text = a["logprobs"]["tokens"], a["text"]
            for i in range(1, len(tokens) - 1):
                pair = tokens[i] + tokens[i + 1]
                if len(tokens[i]) < 3 or len(tokens[i + 1]) < 3 or not pair.isascii() or "\\" in pair:
                    continue
                stop = tokens[i][1:] + tokens[i + 1][:2]  # begins and ends inside tokens
                assert stop in text
                cut = s.complete(seed=seed, max_tokens=60, stop=["never comes", stop]).json()
                same(cut["choices"][0]["text"], text[: text.index(stop)])
                same(cut["choices"][0]["finish_reason"], "stop")
                assert cut["usage"]["completion_tokens"] <= i + 2
                streamed = s.stream(seed=seed, max_tokens=60, stop=stop).all()
                same(streamed.text(), text[: text.index(stop)])
                seen += 1
                break
            if args.sanitized and seen == 3:
                break
        assert seen >= 3, f"only {seen} answers had two words in a row"


def seeds(args):
    with Server(args) as s:
        once = [s.complete(seed=i, max_tokens=24).text() for i in range(6)]
        same([s.complete(seed=i, max_tokens=24).text() for i in range(6)], once)
        same(len(set(once)), 6)
        assert s.complete(max_tokens=24).text() != s.complete(max_tokens=24).text()
        same(s.complete(max_tokens=24, top_k=1).text(), s.complete(max_tokens=24, temperature=0).text())
        same(s.chat(seed=-1).text(), s.chat(seed=-1).text())


def bias_penalties_and_end(args):
    with Server(args) as s:
        same(s.complete(max_tokens=3, logit_bias={"97": 100}).text(), "aaa")
        often = {"max_tokens": 30, "temperature": 0, "logit_bias": {"97": 20}}
        same(s.complete(**often).text(), "a" * 30)
        for penalty in [{"frequency_penalty": 2}, {"repetition_penalty": 10}]:
            assert s.complete(**often, **penalty).text() != "a" * 30, penalty
        greedy = s.complete(max_tokens=1, temperature=0, logprobs=1).json()["choices"][0]["logprobs"]
        same(list(greedy["top_logprobs"][0]), greedy["tokens"])
        end = s.complete(max_tokens=50, logit_bias={"507": 100})  # <end of sentence>
        same((end.text(), end.usage()["completion_tokens"]), ("", 1))
        same(end.json()["choices"][0]["finish_reason"], "stop")
        later = s.complete(max_tokens=50, logit_bias={"507": 100}, min_tokens=9)
        same(later.usage()["completion_tokens"], 10)
        held = s.complete(max_tokens=50, logit_bias={"97": 100}, stop="aaa", min_tokens=9)
        same((held.text(), held.usage()["completion_tokens"]), ("a" * 7, 10))  # min_tokens holds against a stop, too
        never = s.complete(max_tokens=50, logit_bias={"507": 100}, ignore_eos=True)
        same((never.text(), never.usage()["completion_tokens"]), ("", 50))


def logprobs(args):
    with Server(args) as s:
        a = s.chat(temperature=0, logprobs=True, top_logprobs=3, max_tokens=12).json()["choices"][0]
        content = a["logprobs"]["content"]
        same(len(content), 12)
        for t in content:
            same(len(t["top_logprobs"]), 3)
            same((t["top_logprobs"][0]["logprob"], t["top_logprobs"][0]["bytes"]), (t["logprob"], t["bytes"]))
            assert 0 >= t["top_logprobs"][0]["logprob"] >= t["top_logprobs"][2]["logprob"] > -50
        spelled = b"".join(bytes(t["bytes"]) for t in content).decode(errors="replace")
        same(a["message"]["reasoning_content"].strip("\n"), spelled.strip("\n"))
        streamed = s.chat(temperature=0, logprobs=True, top_logprobs=3, max_tokens=12, stream=True)
        found = [t for c in streamed.chunks() for t in (c["choices"][0]["logprobs"] or {}).get("content", [])]
        same(found, content)
        legacy = s.complete(temperature=0, logprobs=2, max_tokens=12).json()["choices"][0]["logprobs"]
        same({len(legacy[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}, {12})
        same(s.complete(temperature=0).json()["choices"][0]["logprobs"], None)


def echoes(args):
    """The prompt before the answer: its text as it was sent, and of its tokens what the model says of them, though their
    keys and values are known already."""
    with Server(args, "--prefix-cache", "4096") as s:
        prompt = "One, two, three. " * (8 if args.sanitized else 30)
        ids = request(s.port, "POST", "/tokenize", {"prompt": prompt}).json()["tokens"]
        assert len(ids) > 65, len(ids)
        plain = s.complete(prompt, temperature=0, logprobs=2, max_tokens=12).json()["choices"][0]
        whole = s.complete(prompt, temperature=0, echo=True, max_tokens=12)
        same(whole.text(), prompt + plain["text"])
        same(whole.json()["choices"][0]["logprobs"], None)
        same(whole.usage()["completion_tokens"], 12)
        same(whole.usage()["prompt_tokens_details"]["cached_tokens"], (len(ids) - 1) // 64 * 64)
        told = s.complete(prompt, temperature=0, echo=True, logprobs=2, max_tokens=12)
        same(told.usage()["prompt_tokens_details"]["cached_tokens"], 0)
        lp = told.json()["choices"][0]["logprobs"]
        same({len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}, {len(ids) + 12})
        same((lp["token_logprobs"][0], lp["top_logprobs"][0]), (None, None))
        for k in ("tokens", "token_logprobs", "top_logprobs"):
            same(lp[k][len(ids):], plain["logprobs"][k])
        same([x - len(prompt) for x in lp["text_offset"][len(ids):]], plain["logprobs"]["text_offset"])
        # What was the answer is a prompt now: the same ids have the same log probabilities, however they were computed.
        answer = request(s.port, "POST", "/tokenize", {"prompt": plain["text"], "add_special_tokens": False}).json()["tokens"]
        again = s.complete([*ids, *answer], echo=True, logprobs=2, max_tokens=0)
        found = again.json()["choices"][0]
        same((found["finish_reason"], again.usage()["completion_tokens"]), ("length", 0))
        same(found["text"], prompt + plain["text"])
        if len(answer) == 12:
            same(found["logprobs"]["token_logprobs"], lp["token_logprobs"])
        same(found["logprobs"]["token_logprobs"][:len(ids)], lp["token_logprobs"][:len(ids)])
        # Alone, streamed, several, and with what ends an answer in the prompt.
        alone = s.complete(prompt, echo=True, max_tokens=0, n=2)
        same([c["text"] for c in alone.json()["choices"]], [prompt] * 2)
        same(alone.usage(), {**alone.usage(), "prompt_tokens": len(ids), "completion_tokens": 0})
        ways = [{"max_tokens": 9, "logprobs": 2}, {"max_tokens": 0}, {"max_tokens": 9}, {"max_tokens": 0, "logprobs": 2}]
        for fields in ways[:2] if args.sanitized else ways:
            fields = {"echo": True, "n": 2, "seed": 3, "stop": ["two"], **fields}
            body = s.complete(prompt, **fields).json()
            a = s.complete(prompt, stream=True, **fields)
            assert a.complete
            for index in (0, 1):
                parts = [c["choices"][0] for c in a.chunks() if c["choices"] and c["choices"][0]["index"] == index]
                want = body["choices"][index]
                same("".join(p["text"] for p in parts), want["text"])
                assert want["text"].startswith(prompt)
                same(parts[-1]["finish_reason"], want["finish_reason"])
                if "logprobs" in fields:
                    for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                        same([x for p in parts for x in (p["logprobs"] or {}).get(k, [])], want["logprobs"][k])
        same(s.metric("spillway_engine_kv_pages", state="free"), s.metric("spillway_engine_kv_pages", state="all"))


def eight_bit_keys(args):
    """--kv-type q8_0: half the memory, a class of its own, and the same whatever the company and what is known already."""
    with Server(args, "--max-batch", "4") as f16, Server(args, "--max-batch", "4", "--kv-type", "q8_0") as q8:
        full, half = (s.metric("spillway_engine_kv_bytes") for s in (f16, q8))
        same(half / full, 68 / 80)  # rows of 40 elements: two blocks, where DeepSeek's 576 are eighteen, 17/32 of the bytes
        same(*(s.metric("spillway_engine_kv_pages", state="all") for s in (f16, q8)))
        info = [dict(labels) for (n, labels) in q8.metrics() if n == "spillway_engine_info"]
        assert "kv=q8_0" in info[0]["numerics"], info
        prompt = "One, two, three. " * (8 if args.sanitized else 30)
        first = q8.complete(prompt, temperature=0, logprobs=1).json()["choices"][0]
        again = q8.complete(prompt, temperature=0, logprobs=1)
        assert again.usage()["prompt_tokens_details"]["cached_tokens"] >= 64
        same(again.json()["choices"][0], first)
        for a in in_parallel([lambda k=k: q8.complete(prompt if k == 2 else "x" * (k + 1), temperature=0, logprobs=1)
                              for k in range(4)])[2:3]:
            same(a.json()["choices"][0], first)


def company_changes_nothing(args):
    """Eight clients at once get, bit for bit in text and logprobs, what each gets alone."""
    requests = []
    for i in range(12 if args.sanitized else 24):
        prompt = [(i * 31 + k * 7) % 256 for k in range(1 + i * 53 % 300)]
        fields = {"prompt": prompt, "max_tokens": 10 + i % 24, "logprobs": 2, "ignore_eos": True}
        fields.update({"temperature": 0} if i % 2 else {"seed": i, "top_p": 0.95})
        requests.append(fields)

    def ask(s, fields):
        a = request(s.port, "POST", "/v1/completions", fields)
        same(a.status, 200)
        return a.json()["choices"]

    with Server(args, "--max-batch", "1") as s:
        alone = [ask(s, f) for f in requests]
    with Server(args, "--max-batch", "8") as s:
        for _ in range(1 if args.sanitized else 2):
            got = [None] * len(requests)
            todo = list(range(len(requests)))

            def client():
                while True:
                    try:
                        i = todo.pop()
                    except IndexError:
                        return
                    got[i] = ask(s, requests[i])

            in_parallel([client] * 8)
            for i, (a, b) in enumerate(zip(alone, got)):
                assert a == b, f"request {i} differs in company"
        mixed = s.metric("spillway_engine_step_tokens_sum") / s.metric("spillway_engine_steps_total")
        assert mixed > 2, f"nothing was batched: {mixed} tokens per step"


# ---- life ----


def leaving_frees_the_slot(args):
    with Server(args, "--max-batch", "1", "--ctx-size", "60000") as s:
        freed = []
        for _ in range(3):
            c = s.stream(max_tokens=50000, ignore_eos=True)
            c.head()
            events = c.events()
            for _ in range(20):
                next(events)
            same(s.metric("vllm:num_requests_running"), 1)
            begin = time.monotonic()
            c.close()
            wait_until(lambda: s.metric("vllm:num_requests_running") == 0, 5, "the slot is free")
            freed.append(time.monotonic() - begin)
            generated = s.metric("vllm:generation_tokens_total")
            same(s.complete(max_tokens=5, ignore_eos=True).usage()["completion_tokens"], 5)
            same(s.metric("vllm:generation_tokens_total"), generated + 5)
        assert min(freed) < (5 if args.sanitized else 0.5), f"the slot was free after {freed} s"
        # Not streamed, and gone while it still waits.
        body = json.dumps({"prompt": "x", "max_tokens": 50000, "ignore_eos": True}).encode()
        connections = [Connection(s.port, "POST", "/v1/completions", body) for _ in range(3)]
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 2, 10, "two wait")
        for c in reversed(connections):
            c.close()
        wait_until(s.is_idle, 5, "idle")
        same(s.metric("spillway_engine_requests_aborted_total"), 6)
        same(s.metric("vllm:request_success_total", finished_reason="abort"), 6)
        same(s.metric("vllm:kv_cache_usage_perc"), 0)


def full_house(args):
    """One slot and 32 places: of 40 endless requests the rest are refused at once, in words, with Retry-After."""
    with Server(args, "--max-batch", "1", "--ctx-size", "60000") as s:
        connections = [s.stream(max_tokens=50000, ignore_eos=True)]
        connections[0].head()
        connections += [s.stream(max_tokens=50000, ignore_eos=True) for _ in range(40)]
        wait_until(lambda: s.metric("spillway_engine_requests_refused_total") == 8, 10, "8 refusals")
        same(s.metric("vllm:num_requests_waiting"), 32)
        by_socket = {c.socket: c for c in connections[1:]}
        answered = lambda: select.select(list(by_socket), [], [], 0)[0]  # noqa: E731
        wait_until(lambda: len(answered()) >= 8, 10, "eight have an answer")
        refused = answered()
        same(len(refused), 8)  # the others wait, and hear nothing
        for c in refused:
            a = by_socket.pop(c).all()
            error_of(a, 503, "queue_full")
            same(a.headers["retry-after"], "1")
        for c in [*by_socket.values(), connections[0]]:
            c.close()
        wait_until(s.is_idle, 10, "idle")


def waiting_has_an_end(args):
    """A request that no slot took in time gets 503 with Retry-After; one that runs by then is not touched."""
    with Server(args, "--max-batch", "1", "--ctx-size", "60000", "--queue-seconds", "1") as s:
        c = s.stream(max_tokens=50000, ignore_eos=True)
        c.head()
        begin = time.monotonic()
        waiting = [s.stream(max_tokens=5), Connection(s.port, "POST", "/v1/completions", {"prompt": "x"})]
        gone = s.stream(max_tokens=5)
        expired = lambda: s.metric("spillway_engine_requests_expired_total")  # noqa: E731
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 3 or expired(), 10, "three wait")
        gone.close()
        for w in waiting:
            a = w.all()
            error_of(a, 503, "queue_timeout")
            same(a.headers["retry-after"], "1")
        assert 0.9 < time.monotonic() - begin < 20  # and the one that runs takes its time
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 0, 5, "nobody waits")
        # Who had left before the end of his time has not expired.
        same(expired() + s.metric("spillway_engine_requests_aborted_total"), 3)
        assert expired() >= 2
        error_of(request(s.port, "POST", "/v1/embeddings", {"input": ["x"] * 6}), 503, "queue_timeout")
        wait_until(lambda: s.metric("vllm:num_requests_waiting") == 0, 5, "none of its inputs waits")
        same(s.metric("vllm:num_requests_running"), 1)

        def in_time():
            """One waits, and gets the slot while there is time; on a machine that stood still meanwhile, another."""
            nonlocal c
            late = s.stream(max_tokens=5, ignore_eos=True, stream_options={"include_usage": True})
            before = expired()
            wait_until(lambda: s.metric("vllm:num_requests_waiting") == 1 or expired() > before, 10, "one waits")
            c.close()
            a = late.all()
            if a.status == 200:
                return a
            error_of(a, 503, "queue_timeout")
            c = s.stream(max_tokens=50000, ignore_eos=True)
            c.head()
            return None

        same(wait_until(in_time, 5, "it gets the slot").usage()["completion_tokens"], 5)


def slow_reader(args):
    """A client that stops reading stops its sequence, not the others, and not the memory."""
    with Server(args, "--max-batch", "2", "--ctx-size", "60000") as s:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 50000, "ignore_eos": True, "stream": True,
                "logprobs": True, "top_logprobs": 20}  # large frames fill the socket's buffers sooner
        c = Connection(s.port, "POST", "/v1/chat/completions", body)
        c.head()

        def stalled():
            before = s.metric("vllm:generation_tokens_total")
            time.sleep(0.3)
            return before > 0 and s.metric("vllm:generation_tokens_total") == before

        wait_until(stalled, 60, "its sequence pauses")
        same(s.metric("vllm:num_requests_running"), 1)
        same(s.complete(max_tokens=20, ignore_eos=True).usage()["completion_tokens"], 20)
        endless = s.stream(max_tokens=50000, ignore_eos=True)  # now both slots are taken
        endless.head()
        same(s.complete(max_tokens=20, ignore_eos=True).usage()["completion_tokens"], 20)
        same(s.metric("vllm:num_preemptions_total"), 1)
        endless.close()
        wait_until(lambda: s.metric("vllm:num_requests_running") == 0, 10, "nobody runs: he still does not read")
        before = s.metric("vllm:generation_tokens_total")
        received = 0
        while received < 4 << 20 and s.metric("vllm:generation_tokens_total") == before:
            received += len(c.socket.recv(1 << 20))
        wait_until(lambda: s.metric("vllm:generation_tokens_total") > before, 20, "it goes on")
        c.close()


def loading(args):
    passes = "600" if args.sanitized else "10000"
    with Stalls() as stalls, Server(args, "--warmup", passes, wait=False) as s:
        a = request(s.port, "GET", "/health")
        same((a.status, a.json()["status"]), (503, "loading"))
        same(a.headers["retry-after"], "1")
        error_of(s.chat(), 503, "loading")
        error_of(request(s.port, "GET", "/v1/models"), 503, "loading")
        same(s.metric("spillway_engine_ready"), 0)
        wait_until(lambda: request(s.port, "GET", "/health").status == 200, 60, "ready")
        same(s.metric("spillway_engine_ready"), 1)
        same(s.chat().status, 200)
        # A second or more of it is told by the second, as far as the machine goes on.
        told = [line for line in s.log_lines() if line["message"] == "loading"]
        took = next(line["load_ms"] for line in s.log_lines() if line["message"] == "ready")
        least = max(0, int(took / 1000 - stalls.seconds) - 1)
        assert least <= len(told) <= took / 900 + 1, (took, told, stalls.seconds)
        print(f"        loaded in {took} ms, told {len(told)} times")
        assert all(line["resident_mb"] > 0 and line["took_ms"] >= 900 for line in told), told
    s = Server(args, "--warmup", passes, wait=False)
    same(s.end(), 0)  # told to go while it loads


def drain(args):
    n = 300 if args.sanitized else 1500
    with Server(args, "--ctx-size", "60000", "--drain-seconds", "200") as s:
        c = s.stream(max_tokens=n, ignore_eos=True, stream_options={"include_usage": True})
        c.head()
        events = c.events()
        next(events)
        begun = [Connection(s.port, "POST", "/v1/completions",
                            {"prompt": "y", "max_tokens": n - 100, "ignore_eos": True}) for _ in range(3)]
        wait_until(lambda: s.metric("spillway_engine_requests_total") == 4, 10, "all have begun")
        s.process.send_signal(signal.SIGTERM)
        for _ in events:
            pass
        assert c.answer.complete and c.answer.events[-1][1] == "[DONE]"
        same(c.answer.usage()["completion_tokens"], n)
        for b in begun:
            same(b.all().usage()["completion_tokens"], n - 100)
        same(s.end(), 0)
        try:
            socket.create_connection(("127.0.0.1", s.port), 1).close()
            raise AssertionError("still listening")
        except ConnectionRefusedError:
            pass


def drain_deadline(args):
    for second_signal in [False, True]:
        with Server(args, "--ctx-size", "60000", "--drain-seconds", "60" if second_signal else "1") as s:
            c = s.stream(max_tokens=55000, ignore_eos=True)
            c.head()
            next(c.events())
            begin = time.monotonic()
            s.process.send_signal(signal.SIGTERM)
            if second_signal:
                wait_until(lambda: "draining" in s.log_text(), 5, "draining")
                s.process.send_signal(signal.SIGTERM)
            same(s.process.wait(30), 0)
            took = time.monotonic() - begin
            assert took < 20, took
            c.close()


def metrics(args):
    with Server(args, "--watts", "50:100") as s:
        s.complete(max_tokens=10, ignore_eos=True)
        s.chat(temperature=3, ignore_eos=True)
        s.complete(temperature=-3)
        m = s.metrics()
        names = {n for n, _ in m}
        for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                     "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
                     "vllm:cache_config_info", "spillway_engine_info"]:
            assert name in names, name
        for name in ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
                     "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds"]:
            buckets = [v for (n, _), v in m.items() if n == f"{name}_bucket"]
            same(buckets, sorted(buckets))
            same(buckets[-1], s.metric(f"{name}_count"))
            assert buckets[-1] >= 2 and s.metric(f"{name}_sum") > 0
        same(s.metric("vllm:time_to_first_token_seconds_bucket", le="0.5") >= 0, True)
        steps = s.metric("spillway_engine_steps_total")
        for name in ["spillway_engine_step_tokens", "spillway_engine_step_prefill_tokens", "spillway_engine_step_kv_pages"]:
            assert s.metric(f"{name}_count") == steps > 0 < s.metric(f"{name}_sum"), name
        same(s.metric("spillway_engine_step_prefill_tokens_sum"), s.metric("spillway_engine_step_tokens_total", kind="prefill"))
        same(s.metric("spillway_engine_prefix_hit_tokens_count"), 2)
        same(s.metric("spillway_engine_joules_per_token_count"), 2)
        same(s.metric("spillway_engine_responses_total", **{"class": "4xx"}), 1)
        same(s.metric("vllm:inter_token_latency_seconds_count"), 9 + 15)


def idle(args):
    """Awake and without work it uses no processor."""
    with Server(args, "--threads", "2") as s:
        s.complete(max_tokens=50)
        pids = [s.process.pid, s.worker()]
        assert thread_names(pids[0]) == ["spillway-engine"[:15]]
        names = thread_names(pids[1])
        assert names[0] == "spillway-engine"[:15], names
        assert {"batcher", "prepare", "kernel-1"} <= set(names) and names[0] not in names[1:], names

        time.sleep(0.2)
        before = sum(map(run_ns, pids))
        time.sleep(2)
        used = (sum(map(run_ns, pids)) - before) / 2e9
        assert used <= 0.01, f"{used:.1%} of a core"


def trained_model(args):
    """The model that the project ships answers, and stops by itself."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "spillway-tiny.gguf")
    if not os.path.exists(path):
        raise Skip("models/spillway-tiny.gguf is not there")
    with Server(args, "--ctx-size", "0", model=path) as s:
        j = request(s.port, "POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": "What is a spot instance?"}], "temperature": 0,
            "max_tokens": 300}).json()
        choice = j["choices"][0]
        same(choice["finish_reason"], "stop")
        assert len(choice["message"]["content"]) > 10, choice


if __name__ == "__main__":
    main(__doc__, [surface, errors, keys, refused_starts, the_device_is_told, a_library_that_is_not_there_is_told,
                   environment_stands_in, streaming_equals_whole, chat_streams, reasoning_is_split, usage_is_exact,
                   known_beginnings, choices, looking_ahead, the_young_give_way, embeddings, texts_and_ids, stop_strings,
                   seeds, bias_penalties_and_end, logprobs, echoes, eight_bit_keys, company_changes_nothing,
                   leaving_frees_the_slot, full_house, waiting_has_an_end, slow_reader, loading, drain, drain_deadline,
                   metrics, idle, trained_model])
