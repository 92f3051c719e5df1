#!/usr/bin/env python3
# runtest: release
"""The `openai` Python package, as applications use it, against the scheduler (with nodes that misbehave on demand), against
the engine alone, and against the engine behind the scheduler. The package goes into a virtual environment beside
the build folders; where it cannot be installed, the cases are skipped."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from harness import (Scheduler, Script, Skip, Upstream, environment_with, key_hash, main, node, request,
                     wait_until)

PACKAGE = "openai==3.54.0"
KEY = "spw_openai"
os.environ["NO_PROXY"] = "127.0.0.1"
for name in [n for n in os.environ if n.startswith("OPENAI_")]:
    del os.environ[name]

try:
    import openai
except ImportError:
    openai = None


def enter_environment(build):
    """Start this script again with the package. Returns why that cannot be."""
    try:
        python = environment_with(build, PACKAGE)
    except Skip as e:
        return e
    os.execve(python, [python, *sys.argv], {**os.environ, "SPILLWAY_TEST_VENV": "1"})


def client(port, key=KEY, **options):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, **{"max_retries": 0, "timeout": 20, **options})


MESSAGES = [{"role": "user", "content": "hello"}]
TEXT = "Hello there, world!"


def ask(c, **fields):
    return c.chat.completions.create(**{"model": "m", "messages": MESSAGES, **fields})


def serve(args, *nodes, **settings):
    keys = [{"id": "k", "sha256": key_hash(KEY), "tenant": "t"}]
    s = Scheduler(args.build, list(nodes), keys=keys, **settings).ready()
    s.nodes_ready(len(nodes))
    return s


def raises(kind, call, status=None, code="any"):
    try:
        call()
    except kind as e:
        assert not status or e.status_code == status, e
        assert code == "any" or e.code == code, (e.code, e)
        return e
    raise AssertionError(f"no {kind.__name__}")


# ---- against the scheduler --------------------------------------------------------------------------------------------


def whole_answers(args):
    with serve(args, node("a", Upstream())) as s, client(s.port) as c:
        a = ask(c)
        assert a.choices[0].message.content == TEXT and a.choices[0].finish_reason == "stop"
        assert a.usage.completion_tokens == 5 and a.usage.total_tokens == a.usage.prompt_tokens + 5
        assert a.usage.prompt_tokens_details.cached_tokens == a.usage.prompt_tokens // 2
        assert a._request_id.startswith("req_")
        row = s.row(a._request_id)
        assert (row["tokens_output"], row["tenant"]) == (5, "t")
        raw = c.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.headers["x-spillway-node"] == "a" and float(raw.headers["x-spillway-charge-usd"]) > 0
        assert raw.parse().choices[0].message.content == TEXT
        b = c.completions.create(model="m", prompt="x")
        assert b.choices[0].text == TEXT and b.usage.completion_tokens == 5


def streams(args):
    with serve(args, node("a", Upstream())) as s, client(s.port) as c:
        chunks = list(ask(c, stream=True))
        assert "".join(x.choices[0].delta.content or "" for x in chunks) == TEXT
        assert all(x.choices and x.usage is None for x in chunks), "nobody asked for usage"
        assert len({x.id for x in chunks}) == 1 and chunks[-1].choices[0].finish_reason == "stop"
        chunks = list(ask(c, stream=True, stream_options={"include_usage": True}))
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5
        assert all(x.usage is None and len(x.choices) == 1 for x in chunks[:-1])
        assert float(chunks[-1].spillway["charge_usd"]) > 0  # an extra field of ours
        with c.chat.completions.stream(model="m", messages=MESSAGES) as stream:  # the package's own accumulator
            assert stream.get_final_completion().choices[0].message.content == TEXT
        parts = list(c.completions.create(model="m", prompt="x", stream=True))
        assert "".join(x.choices[0].text for x in parts) == TEXT


def models(args):
    with serve(args, node("a", Upstream(), models=("m", "org/big-model"))) as s, client(s.port) as c:
        assert [m.id for m in c.models.list()] == ["m", "org/big-model"]
        assert c.models.retrieve("m").id == "m" and c.models.retrieve("org/big-model").object == "model"
        raises(openai.NotFoundError, lambda: c.models.retrieve("gpt-0"), 404, "model_not_found")


def every_option(args):
    """What the package can say arrives as it was said."""
    up = Upstream()
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {
        "type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}}}
    options = {
        "temperature": 0.25, "top_p": 0.5, "n": 1, "max_tokens": 9, "presence_penalty": -1.5, "frequency_penalty": 1.5,
        "logit_bias": {"5": -100, "6": 100}, "logprobs": True, "top_logprobs": 5, "seed": 2**53 - 1, "stop": ["a", "\n"],
        "user": "somebody", "tools": [tool], "tool_choice": "auto", "parallel_tool_calls": False, "store": False,
        "metadata": {"a": "b"}, "reasoning_effort": "low", "service_tier": "auto", "modalities": ["text"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "prediction": {"type": "content", "content": "x"}, "verbosity": "low",
    }
    with serve(args, node("a", up)) as s, client(s.port) as c:
        for stream in (False, True):
            a = ask(c, **options, stream=stream, extra_body={"unknown": {"deep": [1, None]}},
                    extra_headers={"X-Mine": "1"}, extra_query={"q": "1"})
            assert not stream or len(list(a)) > 5
            path, headers, body = up.generations()[-1]
            sent = json.loads(body)
            assert sent.pop("stream_options", None) == ({"include_usage": True} if stream else None)
            assert sent == {"model": "m", "messages": MESSAGES, "stream": stream, "unknown": {"deep": [1, None]}, **options}
            assert path == "/v1/chat/completions" and "x-mine" not in headers and "authorization" not in headers
        ask(c, max_tokens=openai.omit if hasattr(openai, "omit") else openai.NOT_GIVEN, max_completion_tokens=7)
        assert json.loads(up.generations()[-1][2])["max_completion_tokens"] == 7
        parts = [{"role": "system", "content": "s"}, {"role": "user", "content": [
            {"type": "text", "text": "\u00e9\U0001f600\u2028"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
        assert ask(c, messages=parts).choices and json.loads(up.generations()[-1][2])["messages"] == parts


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "K\u00f6ln"}'}}
LOGPROB = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": [{"token": "Hi", "logprob": -0.25,
                                                                                    "bytes": [72, 105]}]}


def what_foreign_nodes_answer(args):
    """Several choices, tool calls, log probabilities, refusals, structured output: from a foreign node, whole and
    streamed, as the package reads them."""
    import pydantic

    class City(pydantic.BaseModel):
        city: str

    def delta(index, finish=None, **fields):
        return {"index": index, "delta": fields, "finish_reason": finish}

    def call(index, text, **head):
        return {"index": index, **head, "function": {"arguments": text, **({"name": "weather"} if head else {})}}

    up = Upstream()
    with serve(args, node("a", up)) as s, client(s.port) as c:
        up.scripts.append(Script(choices=[
            {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
            for i, (text, finish, logprobs) in enumerate([("Hi", "stop", {"content": [LOGPROB], "refusal": None}),
                                                          ("Ho", "length", None)])]))
        a = ask(c, n=2, logprobs=True, top_logprobs=1)
        assert [(x.message.content, x.finish_reason) for x in a.choices] == [("Hi", "stop"), ("Ho", "length")]
        assert a.choices[0].logprobs.content[0].top_logprobs[0].token == "Hi" and a.choices[0].logprobs.content[0].bytes
        up.scripts.append(Script(deltas=[
            [delta(0, role="assistant", content="")], [delta(1, role="assistant", content="")],
            [{**delta(0, content="Hi"), "logprobs": {"content": [LOGPROB], "refusal": None}}], [delta(1, content="H")],
            [delta(1, content="o"), delta(0, "stop")], [delta(1, "length")]]))
        texts, ends, logprobs = ["", ""], {}, []
        for x in ask(c, n=2, logprobs=True, top_logprobs=1, stream=True):
            for choice in x.choices:
                texts[choice.index] += choice.delta.content or ""
                ends.update({choice.index: choice.finish_reason} if choice.finish_reason else {})
                logprobs += choice.logprobs.content if choice.logprobs else []
        assert texts == ["Hi", "Ho"] and ends == {0: "stop", 1: "length"} and len(logprobs) == 1
        tools = [{"type": "function", "function": {"name": "weather", "parameters": City.model_json_schema()}}]
        up.scripts.append(Script(choices=[{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": None, "tool_calls": [CALL]}}]))
        a = ask(c, tools=tools, tool_choice="required").choices[0]
        assert a.finish_reason == "tool_calls" and a.message.tool_calls[0].function.arguments == CALL["function"]["arguments"]
        up.scripts.append(Script(deltas=[
            [delta(0, role="assistant", content=None, tool_calls=[call(0, "", id="call_1", type="function")])],
            [delta(0, tool_calls=[call(0, '{"city": ')])], [delta(0, tool_calls=[call(0, '"K\u00f6ln"}')])],
            [delta(0, "tool_calls")]]))
        with c.chat.completions.stream(model="m", messages=MESSAGES, tools=tools) as stream:
            message = stream.get_final_completion().choices[0].message
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "K\u00f6ln"}
        done = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
        assert ask(c, messages=MESSAGES + [{"role": "assistant", "tool_calls": [CALL]}, done]).choices
        assert json.loads(up.generations()[-1][2])["messages"][1:] == [{"role": "assistant", "tool_calls": [CALL]}, done]
        up.scripts.append(Script(words=['{"city": "Rome"}']))
        parsed = c.chat.completions.parse(model="m", messages=MESSAGES, response_format=City)
        assert parsed.choices[0].message.parsed.city == "Rome"
        assert json.loads(up.generations()[-1][2])["response_format"]["type"] == "json_schema"
        up.scripts.append(Script(choices=[{"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": None, "refusal": "no"}}]))
        assert ask(c).choices[0].message.refusal == "no"
        assert c.completions.create(model="m", prompt=["a", "b"], n=1, echo=False, suffix="z").choices
        sent = json.loads(up.generations()[-1][2])
        assert (sent["prompt"], sent["suffix"]) == (["a", "b"], "z")


def settings_of_a_client(args):
    """Headers, queries, time-outs and raw answers, by client and by request."""
    up = Upstream()
    classes = [{"name": "c", "requests_per_min": 1000, "tokens_per_min": 100000}]
    with serve(args, node("a", up), limits={"key": "c", "classes": classes}) as s:
        c = client(s.port, organization="org", project="p", default_headers={"X-Client-Request-Id": "mine-1"},
                   default_query={"v": "1"})
        raw = c.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.status_code == 200 and raw.request_id.startswith("req_")
        assert raw.headers["x-ratelimit-limit-requests"] == "1000" and int(raw.headers["x-ratelimit-remaining-tokens"]) > 0
        wait_until(lambda: "mine-1" in s.log_text(), 5, "the log has the name that the client gave its request")
        path, headers, _ = up.generations()[-1]
        assert path == "/v1/chat/completions" and not {"openai-organization", "x-client-request-id"} & set(headers)
        with c.chat.completions.with_streaming_response.create(model="m", messages=MESSAGES, stream=True) as raw:
            assert raw.headers["content-type"].startswith("text/event-stream") and raw.headers["x-spillway-node"] == "a"
            assert list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]
        up.default = Script(hang="head")
        begin = time.monotonic()
        raises(openai.APITimeoutError, lambda: ask(c.with_options(timeout=0.3)))
        raises(openai.APITimeoutError, lambda: ask(c, timeout=0.3))
        assert time.monotonic() - begin < 15  # those of the client would have ended after 20 s each
        assert openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1/", api_key=KEY).models.list().data  # a slash too many


def refusals(args):
    """Each status is the exception that the package has for it, and what cannot help is not tried again."""
    keys = [{"id": "k", "sha256": key_hash(KEY), "tenant": "t"},
            {"id": "few", "sha256": key_hash("few"), "tenant": "t", "models": ["m"]},
            {"id": "small", "sha256": key_hash("small"), "tenant": "u", "rate_class": "small"}]
    limits = {"body": "4KiB", "classes": [{"name": "small", "tokens_per_min": 10}]}

    def refused(s, code):
        return s.metrics().get(f'spillway_refused_total{{code="{code}"}}', 0)

    with Scheduler(args.build, [node("a", Upstream(), models=("m", "other"))], keys=keys, limits=limits).ready() as s:
        s.nodes_ready(1)
        c = client(s.port, max_retries=3)
        raises(openai.PermissionDeniedError, lambda: ask(client(s.port, key="few"), model="other"), 403, "model_not_allowed")
        e = raises(openai.APIStatusError, lambda: ask(c, messages=[{"role": "user", "content": "x" * 5000}]), 413)
        assert e.response.headers["x-should-retry"] == "false"
        e = raises(openai.RateLimitError, lambda: ask(client(s.port, key="small", max_retries=3), max_tokens=50), 429,
                   "rate_limit_exceeded")
        assert e.response.headers["x-should-retry"] == "false" and "retry-after" not in e.response.headers
        assert refused(s, "rate_limit_exceeded") == 1, "asked once"
        raises(openai.RateLimitError, lambda: client(s.port, key="small").embeddings.create(model="m", input="word " * 9), 429,
               "rate_limit_exceeded")
        raises(openai.NotFoundError, lambda: ask(c, model="gpt-0"), 404, "model_not_found")
        assert refused(s, "model_not_found") == 1
        e = raises(openai.NotFoundError, lambda: c.responses.create(model="m", input="hello"), 404, None)
        assert "chat/completions" in e.message, "what there is instead"
        e = raises(openai.BadRequestError, lambda: ask(c, stream_options={"include_usage": True}), 400)
        assert e.param == "stream_options"
        e = raises(openai.BadRequestError, lambda: ask(c, extra_body={"spillway_salt": "x"}), 400)
        assert e.param == "spillway_salt"


def cancelled_tasks(args):
    """An asynchronous client whose task is cancelled, whole or in the middle of a stream, ends the work on the node."""
    import asyncio

    up = Upstream(default=Script(repeat=1000, word_delay=0.01))  # takes most of a minute, undisturbed

    async def run(port, stream):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, timeout=60) as c:
            got = asyncio.Event()

            async def read():
                answer = await c.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
                async for x in answer:
                    if x.choices[0].delta.content:
                        got.set()

            task = asyncio.create_task(read())
            if stream:
                await got.wait()
            else:
                while not up.active:
                    await asyncio.sleep(0.01)
            left = time.monotonic()
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return left
            raise AssertionError("not cancelled")

    with serve(args, node("a", up)) as s:
        for stream in (True, False):
            left = asyncio.run(run(s.port, stream))
            assert up.aborted.get(timeout=30) - left < 3
            wait_until(lambda: up.active == 0, 5, "no work goes on")
        wait_until(lambda: len(s.rows()) == 2, 5, "two rows")
        rows = s.rows()
        assert [r["http_status"] for r in rows] == [499, 499] and rows[0]["tokens_output"] > 0, rows


def errors(args):
    up = Upstream()
    with serve(args, node("a", up), routing={"retries": 0}, queue={"interactive": {"wait": 0}}) as s, client(s.port) as c:
        e = raises(openai.AuthenticationError, lambda: ask(client(s.port, key="wrong")), 401, "invalid_api_key")
        assert e.request_id.startswith("req_") and e.type == "invalid_request_error" and e.response.headers["www-authenticate"].startswith("Bearer")
        raises(openai.NotFoundError, lambda: ask(c, model="gpt-0"), 404, "model_not_found")
        e = raises(openai.BadRequestError, lambda: ask(c, messages=[]), 400, None)
        assert e.param == "messages" and "messages" in e.message
        e = raises(openai.BadRequestError, lambda: ask(c, max_tokens=-1), 400)
        assert e.param == "max_tokens"
        up.scripts.append(Script(status=404))
        raises(openai.NotFoundError, lambda: c.embeddings.create(model="m", input="x"), 404, "endpoint_not_served")
        error = {"error": {"message": "too long", "type": "invalid_request_error", "param": None,
                           "code": "context_length_exceeded"}}
        up.scripts.append(Script(status=400, error_body=json.dumps(error).encode()))
        raises(openai.BadRequestError, lambda: ask(c), 400, "context_length_exceeded")
        up.scripts.append(Script(status=422))
        raises(openai.UnprocessableEntityError, lambda: ask(c), 422)
        up.scripts.append(Script(status=429, retry_after=7))
        e = raises(openai.RateLimitError, lambda: ask(c), 429, "upstream_busy")
        assert e.response.headers["retry-after"].isdigit()
        up.scripts.append(Script(status=500))
        raises(openai.InternalServerError, lambda: ask(c), 502, "upstream_error")
        up.scripts.append(Script(bad="body"))
        raises(openai.InternalServerError, lambda: ask(c), 502, "upstream_error")
        up.stop()
        wait_until(lambda: request(s.port, "GET", "/readyz").status == 503, 5, "the node is seen to be gone")
        e = raises(openai.InternalServerError, lambda: ask(c), 503, "no_capacity")
        assert e.response.headers["retry-after"].isdigit()
    with_nobody = client(s.port)  # the scheduler is gone
    raises(openai.APIConnectionError, lambda: ask(with_nobody))


def broken_streams(args):
    """A stream that breaks raises; it never looks like an answer that has ended."""
    up = Upstream()
    with serve(args, node("a", up), routing={"retries": 0}) as s, client(s.port) as c:
        for script in (Script(cut_after=3), Script(error_event_after=3), Script(bad="chunk"), Script(bad="json")):
            up.scripts.append(script)
            seen = []

            def read():
                for x in ask(c, stream=True):
                    seen.append(x.choices[0].delta.content or "")

            e = raises(openai.APIError, read)
            assert TEXT.startswith("".join(seen)) and "".join(seen) != "" and e.message, seen


def retries(args):
    """The package tries again by itself, and waits as long as it is told."""
    up = Upstream()
    with serve(args, node("a", up, slots=1), routing={"retries": 0}, queue={"interactive": {"wait": 0, "max": 0}}) as s:
        c = client(s.port, max_retries=2)
        for status in (429, 503, 500):
            asked = len(up.generations())
            up.scripts.append(Script(status=status, retry_after=1))
            told = raises((openai.RateLimitError, openai.InternalServerError), lambda: ask(client(s.port)))
            wait = int(told.response.headers["retry-after"])
            up.scripts.append(Script(status=status, retry_after=1))
            begin = time.monotonic()
            assert ask(c).choices[0].message.content == TEXT
            took = time.monotonic() - begin
            assert took >= wait * 0.95, f"{status}: told to wait {wait} s, waited {took:.2f} s"
            assert len(up.generations()) == asked + 3
        asked = len(up.generations())
        up.scripts.append(Script(status=400))
        raises(openai.BadRequestError, lambda: ask(c), 400)
        assert len(up.generations()) == asked + 1, "a refusal of the request is not tried again"
        # All slots are taken: refused with the time to come back, and served when it does.
        gate = threading.Event()
        up.scripts.append(Script(gate=gate))
        first = threading.Thread(target=lambda: ask(client(s.port)))
        first.start()
        wait_until(lambda: up.active == 1, 5, "the slot is taken")
        e = raises((openai.RateLimitError, openai.InternalServerError), lambda: ask(client(s.port)))
        assert e.status_code in (429, 503) and int(e.response.headers["retry-after"]) >= 1
        threading.Timer(0.3, gate.set).start()
        assert ask(c).choices[0].message.content == TEXT
        first.join()


def timeouts(args):
    """A client that gives up, whole or in the middle of a stream, ends the work on the node."""
    up = Upstream()
    with serve(args, node("a", up)) as s:
        up.default = Script(hang="head")
        while not up.generations():  # one that is given up on its way to the node says nothing of that
            raises(openai.APITimeoutError, lambda: ask(client(s.port, timeout=0.5)))
        up.aborted.get(timeout=30)
        up.default = Script()
        up.scripts.append(Script(repeat=1000, word_delay=0.01))
        with client(s.port) as c:
            stream = ask(c, stream=True)
            for i, _ in enumerate(stream):
                if i == 5:
                    left = time.monotonic()
                    stream.close()
                    break
            assert up.aborted.get(timeout=30) - left < 3  # of 50 s
        wait_until(lambda: up.active == 0, 5, "no work goes on")
        assert ask(client(s.port)).choices[0].message.content == TEXT


def asynchronous_and_parallel(args):
    import asyncio

    async def run(port):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0, timeout=60) as c:

            async def one(i):
                if i % 2:
                    return (await c.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content
                out = ""
                async for x in await c.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                    out += x.choices[0].delta.content or ""
                return out

            return await asyncio.gather(*(one(i) for i in range(40)))

    with serve(args, node("a", Upstream(default=Script(word_delay=0.002)))) as s:
        assert asyncio.run(run(s.port)) == [TEXT] * 40
        assert len(s.rows()) == 40


# ---- the engine, alone and behind the scheduler -----------------------------------------------------------------------


class Engine:
    def __init__(self, args):
        model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "spillway-tiny.gguf")
        if not os.path.exists(model):
            raise Skip("models/spillway-tiny.gguf is not there")
        self.log = tempfile.NamedTemporaryFile(prefix="spillway-openai-")
        self.process = subprocess.Popen(
            [os.path.join(args.build, "spillway-engine"), "serve", "--model", model, "--port", "0", "--threads", "1",
             "--alias", "m", "--ctx-size", "512"], stdout=self.log, stderr=self.log)
        try:
            self.port = wait_until(self._port, 20, "the engine listens")
            wait_until(lambda: request(self.port, "GET", "/health").status == 200, 60, "the engine is ready")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _port(self):
        with open(self.log.name) as f:
            text = f.read()
        assert self.process.poll() is None, text
        for line in text.splitlines():
            if line.startswith("{") and '"listening"' in line:
                return json.loads(line)["port"]
        return None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        with open(self.log.name) as f:
            assert kind or status == 0, f.read()[-4000:]
        self.log.close()


def engine_options(c):
    """The options of an answer, each by what it does."""
    def chat(**fields):
        return ask(c, **{"max_completion_tokens": 24, "messages": [{"role": "user", "content": "What is a spot instance?"}],
                         **fields})

    def words(a):
        m = a.choices[0].message
        return (getattr(m, "reasoning_content", None) or "") + (m.content or "")

    assert [m.id for m in c.models.list()] == ["m"]
    greedy = chat(temperature=0)
    assert words(greedy) and words(chat(temperature=0)) == words(greedy)
    assert words(chat(seed=7)) == words(chat(seed=7)), "a seed is a seed"
    assert len({words(chat(seed=i, temperature=1.5)) for i in range(5)}) > 1

    for n in (1, 5):
        a = chat(temperature=0, max_completion_tokens=n)
        assert a.usage.completion_tokens == n and a.choices[0].finish_reason == "length"
    a = ask(c, max_tokens=3, temperature=0)
    assert a.usage.completion_tokens == 3

    plain = c.completions.create(model="m", prompt="The cloud", temperature=0, max_tokens=24)
    text = plain.choices[0].text
    stop = text[len(text) // 2:len(text) // 2 + 4]
    cut = c.completions.create(model="m", prompt="The cloud", temperature=0, max_tokens=24, stop=["never comes", stop])
    assert cut.choices[0].text == text[:text.index(stop)] and cut.choices[0].finish_reason == "stop"

    biased = chat(temperature=0, logit_bias={"300": 100}, max_completion_tokens=4, logprobs=True)
    spelled = {t.token for t in biased.choices[0].logprobs.content}
    assert len(spelled) == 1, spelled
    never = chat(temperature=0, logit_bias={"300": -100}, max_completion_tokens=4, logprobs=True)
    assert not spelled & {t.token for t in never.choices[0].logprobs.content}

    a = chat(temperature=0, logprobs=True, top_logprobs=3, max_completion_tokens=6)
    content = a.choices[0].logprobs.content
    assert len(content) == 6
    for t in content:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob <= 0  # greedy takes the first
    old = c.completions.create(model="m", prompt="The cloud", temperature=0, max_tokens=4, logprobs=2)
    assert len(old.choices[0].logprobs.tokens) == 4 and len(old.choices[0].logprobs.top_logprobs[0]) >= 2

    told = c.completions.create(model="m", prompt="The cloud", temperature=0, max_tokens=4, logprobs=2, echo=True, n=2).choices
    for x in told:
        assert x.text.startswith("The cloud") and x.logprobs.token_logprobs[0] is None
        assert x.logprobs.tokens[-4:] == old.choices[0].logprobs.tokens
        assert x.logprobs.token_logprobs[-4:] == old.choices[0].logprobs.token_logprobs
    for extra in ({}, {"logprobs": 1}):
        alone = c.completions.create(model="m", prompt="The cloud", max_tokens=0, echo=True, **extra)
        assert alone.choices[0].text == "The cloud" and alone.usage.completion_tokens == 0
    parts = [x.choices[0].text for x in c.completions.create(model="m", prompt="The cloud", temperature=0, max_tokens=4, echo=True,
                                                             stream=True)]
    assert "".join(parts) == told[0].text
    held = chat(temperature=0, max_completion_tokens=40, extra_body={"min_tokens": 40, "ignore_eos": True})
    assert held.usage.completion_tokens == 40

    chunks = list(chat(temperature=0, stream=True, stream_options={"include_usage": True}))
    streamed = "".join((getattr(x.choices[0].delta, "reasoning_content", None) or "") + (x.choices[0].delta.content or "")
                       for x in chunks if x.choices)
    assert streamed == words(greedy)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == greedy.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == greedy.usage.prompt_tokens

    raises(openai.NotFoundError, lambda: ask(c, model="gpt-0"), 404, "model_not_found")
    e = raises(openai.BadRequestError, lambda: ask(c, temperature=-1), 400)
    assert "temperature" in e.message and e.param == "temperature"
    assert words(chat(top_p=0, temperature=1.5)) == words(greedy), "the likeliest token alone"
    raises(openai.BadRequestError, lambda: ask(c, messages=[{"role": "user", "content": "word " * 2000}]), 400,
           "context_length_exceeded")
    three = chat(n=3, seed=7)
    assert [x.index for x in three.choices] == [0, 1, 2]
    assert three.usage.completion_tokens <= 3 * 24 and words(three) == words(chat(seed=7))
    raises(openai.BadRequestError, lambda: ask(c, n=200), 400)


def engine_embeddings(c):
    for pooling in ("mean", "last"):
        asked = {"model": "m", "input": ["a node", "a budget", "a node"], "extra_body": {"pooling": pooling}}
        a = c.embeddings.create(**asked)  # in base64, as the package asks unless told otherwise
        assert a.data[0].embedding == a.data[2].embedding != a.data[1].embedding and a.usage.prompt_tokens > 5
        assert abs(sum(x * x for x in a.data[0].embedding) - 1) < 1e-5
        told = c.embeddings.create(encoding_format="float", **asked)
        assert all(abs(x - y) < 1e-6 for x, y in zip(told.data[1].embedding, a.data[1].embedding))
    assert c.embeddings.create(model="m", input=[5, 6, 7]).usage.prompt_tokens == 3
    for empty in ("", ["a node", ""]):
        raises(openai.BadRequestError, lambda: c.embeddings.create(model="m", input=empty), 400)


def engine_texts(c, base):
    """By requests of the package's own, as vLLM's users send them."""
    def post(path, **body):
        return c.post(base + path, body={"model": "m", **body}, cast_to=object)

    for text in ("a node", "", "a\u00e4\U0001f30d"):
        a = post("/tokenize", prompt=text, add_special_tokens=False)
        assert a["count"] == len(a["tokens"]) and post("/detokenize", tokens=a["tokens"]) == {"prompt": text}
    counted = post("/tokenize", messages=[{"role": "user", "content": "What is a spot instance?"}])["count"]
    a = c.chat.completions.create(model="m", messages=[{"role": "user", "content": "What is a spot instance?"}], max_tokens=1)
    assert a.usage.prompt_tokens == counted
    e = raises(openai.BadRequestError, lambda: post("/tokenize", prompt="x", add_special_tokens=3), 400)
    assert "add_special_tokens" in e.message


def engine_alone(args):
    with Engine(args) as e, client(e.port, timeout=60) as c:
        engine_options(c)
        engine_embeddings(c)
        engine_texts(c, f"http://127.0.0.1:{e.port}")


def engine_behind_the_scheduler(args):
    with Engine(args) as e, serve(args, node("a", f"http://127.0.0.1:{e.port}")) as s, client(s.port, timeout=60) as c:
        engine_options(c)
        engine_embeddings(c)
        rows = [r for r in s.rows() if r["http_status"] == 200]
        assert all(r["usage_source"] == "provider" for r in rows) and rows[-1]["tokens_output"] == 0
        engine_texts(c, f"http://127.0.0.1:{s.port}")
        rows = [r for r in s.rows() if r["http_status"] == 200]
        assert sum(r["tokens_input"] == 0 == r["charge_pusd"] for r in rows) == 7


if __name__ == "__main__":
    cases = [retries, whole_answers, streams, models, every_option, what_foreign_nodes_answer, settings_of_a_client, refusals,
             cancelled_tasks, errors, broken_streams, timeouts,
             asynchronous_and_parallel, engine_alone, engine_behind_the_scheduler]
    if not os.environ.get("SPILLWAY_TEST_VENV"):
        build = next((sys.argv[i + 1] for i, a in enumerate(sys.argv[:-1]) if a == "--build"), "build")
        if os.path.exists(os.path.join(build, "spillway")):
            why = enter_environment(build)
            print(f"skipped: test_openai_client: {why}")
            cases = []
    main(__doc__, cases, at_once=2)
