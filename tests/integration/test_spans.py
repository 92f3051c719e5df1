"""Traces: what a client's traceparent says reaches the node, recorded requests become spans that hang together, and a
collector that refuses, hangs or is not there costs spans and nothing else. Collector and nodes are fakes."""

import http.server
import json
import os
import signal
import tempfile
import threading
import time

from fake_engine import Engine, Expected, Fault
from harness import (PATIENT_HEALTH, Scheduler, Script, Upstream, chat, free_port, key_hash, main, node, request,
                     wait_until)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT, ERROR = 2, 3, 2


class Collector:
    """Takes POST /v1/traces. status: what it answers; hang: it does not."""

    def __init__(self, port=0):
        self.spans, self.headers, self.bodies, self.posts = [], [], [], 0
        self.status, self.hang = 200, threading.Event()
        self.free = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = outer.status  # once: a test may change it as soon as it sees that it was asked
                outer.posts += 1
                if outer.hang.is_set():
                    outer.free.wait(30)
                if status == 200 and self.path == "/v1/traces":
                    outer.headers.append(dict(self.headers))
                    outer.bodies.append(body)
                    for resource in json.loads(body)["resourceSpans"]:
                        for scope in resource["scopeSpans"]:
                            outer.spans += scope["spans"]
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def wait(self, n, seconds=8):
        wait_until(lambda: len(self.spans) >= n, seconds, f"{n} spans, not {len(self.spans)}")
        time.sleep(0.05)
        assert len(self.spans) == n, [s["name"] for s in self.spans]
        found, self.spans = self.spans, []
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.free.set()
        self.server.shutdown()
        self.server.server_close()


def tracing(collector, **fields):
    return {"endpoint": collector if isinstance(collector, str) else collector.url, "sample": 1, **fields}


def attributes(span):
    out = {}
    for a in span["attributes"]:
        (kind, v), = a["value"].items()
        out[a["key"]] = int(v) if kind == "intValue" else v
    return out


def sort_out(spans):
    """(root, legs in order of their attempts); they are of one trace and hang together."""
    roots = [s for s in spans if s["kind"] == SERVER]
    legs = sorted((s for s in spans if s["kind"] == CLIENT), key=lambda s: attributes(s)["spillway.attempt"])
    assert len(roots) == 1 and len(legs) == len(spans) - 1, [s["name"] for s in spans]
    root = roots[0]
    assert len({s["traceId"] for s in spans}) == 1 and len({s["spanId"] for s in spans}) == len(spans)
    for leg in legs:
        assert leg["parentSpanId"] == root["spanId"]
        assert int(root["startTimeUnixNano"]) <= int(leg["startTimeUnixNano"]) <= int(leg["endTimeUnixNano"])
        assert int(leg["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
    return root, legs


def end(s, c, n):
    """The scheduler ends, which sends what waits: n spans, by their traces in order."""
    assert s.terminate() == 0
    traces = {}
    for span in sorted(c.wait(n), key=lambda span: int(span["startTimeUnixNano"])):
        traces.setdefault(span["traceId"], []).append(span)
    return [sort_out(t) for t in traces.values()]


def parent_of(headers):
    version, trace, span, flags = headers["traceparent"].split("-")
    assert version == "00"
    return trace, span, flags


def a_request_and_its_leg(args):
    up = Upstream()
    with Collector() as c, Scheduler(args.build, [node("a", up)], tracing=tracing(c)).ready() as s:
        head = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "rojo=1, congo=2"}
        a = chat(s.port, "a secret prompt", headers=head, stream=True, temperature=0, max_tokens=50)
        row = s.row(a.headers["x-request-id"])
        again = chat(s.port, "a secret prompt", stream=True, temperature=0, max_tokens=50)
        assert again.headers["x-spillway-cache"] == "hit"
        (root, (leg,)), (hit, none) = end(s, c, 3)
        assert root["traceId"] == TRACE and root["parentSpanId"] == PARENT and root["name"] == "POST /v1/chat/completions"
        sent = up.generations()[0][1]
        assert parent_of(sent) == (TRACE, leg["spanId"], "01") and sent["tracestate"] == "rojo=1,congo=2", sent
        of_root, of_leg = attributes(root), attributes(leg)
        assert of_root["spillway.request_id"] == of_leg["spillway.request_id"] == a.headers["x-request-id"]
        assert of_root["gen_ai.usage.input_tokens"] == row["tokens_input"]
        assert of_root["gen_ai.usage.output_tokens"] == of_leg["gen_ai.usage.output_tokens"] == row["tokens_output"]
        assert of_root["gen_ai.operation.name"] == "chat" and of_root["gen_ai.request.model"] == "m"
        assert of_root["http.response.status_code"] == 200 and of_root["http.route"] == "/v1/chat/completions"
        assert of_root["gen_ai.request.max_tokens"] == 50 and of_root["gen_ai.request.stream"] is True
        assert of_root["gen_ai.response.time_to_first_chunk"] > 0 and of_root["spillway.cache"] == "miss"
        line = s.line(request_id=a.headers["x-request-id"])
        assert line["trace_id"] == TRACE and line["cache"] == "miss"
        assert of_leg["spillway.node"] == "a" and of_leg["http.response.status_code"] == 200
        assert leg["name"] == "chat m" and "status" not in leg or leg["status"].get("code", 0) != ERROR
        # From the cache: no leg.
        assert not none and attributes(hit)["spillway.cache"] == "hit" and "parentSpanId" not in hit and hit["traceId"] != TRACE
        assert not any(b"secret" in b or b"Hello" in b for b in c.bodies)


def failed_legs(args):
    bad, good = Upstream("bad", default=Script(status=500)), Upstream("good")
    nodes = [node("bad", bad, price=("0", "0", "0")), node("good", good)]
    with Collector() as c, Scheduler(args.build, nodes, tracing=tracing(c), routing={"retries": 1},
                                     health=PATIENT_HEALTH).ready() as s:
        wait_until(lambda: s.metrics()['spillway_node_up{node="bad"}'] == 1 == s.metrics()['spillway_node_up{node="good"}'],
                   5, "both are ready")
        assert chat(s.port).status == 200
        good.default = Script(status=500)
        failed = chat(s.port)
        assert failed.status == 502
        before = len(bad.generations()) + len(good.generations())
        good.default = Script(status=422)
        bad.default = Script(status=422)
        assert chat(s.port).status == 422  # the client's mistake is no error of ours
        first, second, third = end(s, c, before + 2 + 2)
        root, legs = first
        assert [attributes(leg)["spillway.node"] for leg in legs] == ["bad", "good"]
        assert legs[0]["status"]["code"] == ERROR and attributes(legs[0])["error.type"] == "status"
        assert root.get("status", {}).get("code", 0) != ERROR
        root, legs = second
        assert len(legs) == before - 2 and root["status"]["code"] == ERROR and attributes(root)["error.type"] == failed.json()["error"]["code"]
        assert attributes(root)["http.response.status_code"] == 502
        root, legs = third
        assert root.get("status", {}).get("code", 0) != ERROR and attributes(root)["http.response.status_code"] == 422


def refusals(args):
    """What a known caller is refused before it becomes a request is told; strangers leave no spans."""
    up = Upstream()
    keys = [{"id": "k", "sha256": key_hash("key-1"), "tenant": "t", "rate_class": "c"}]
    rates = {"classes": [{"name": "c", "requests_per_min": 1, "requests_burst": 1}]}
    with Collector() as c, Scheduler(args.build, [node("a", up)], keys=keys, limits=rates,
                                    tracing=tracing(c)).ready() as s:
        head = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert chat(s.port).status == 401 and chat(s.port, key="wrong", headers=head).status == 401
        unknown = chat(s.port, key="key-1", model="nope", headers=head)
        broken = request(s.port, "POST", "/v1/completions", b"{", headers={"Authorization": "Bearer key-1"})
        assert (unknown.status, broken.status) == (404, 400)
        assert chat(s.port, key="key-1").status == 200
        limited = chat(s.port, key="key-1")
        assert limited.status == 429
        told = end(s, c, 5)
        assert [(attributes(root)["http.response.status_code"], len(legs)) for root, legs in told] == [
            (404, 0), (400, 0), (200, 1), (429, 0)]
        roots = [root for root, _ in told]
        assert roots[0]["traceId"] == TRACE and roots[0]["parentSpanId"] == PARENT
        assert [r["name"] for r in roots[:2]] == ["POST /v1/chat/completions", "POST /v1/completions"]
        assert attributes(roots[0])["spillway.refused"] == "model_not_found", roots[0]
        assert attributes(roots[3])["spillway.refused"] == limited.json()["error"]["code"]
        assert attributes(roots[3])["spillway.request_id"] == limited.headers["x-request-id"]
        assert all(attributes(r)["spillway.tenant"] == "t" and "status" not in r or not r["status"].get("code")
                   for r in roots)


def continuations(args):
    """An answer that goes on elsewhere has two legs, each told its own span."""
    with tempfile.TemporaryDirectory(prefix="spillway-it-") as folder:
        secret = os.path.join(folder, "key")
        with open(secret, "w") as f:
            f.write("node-secret\n")
        engines = [Engine("e1"), Engine("e2")]
        nodes = [node(e.name, e, price=(str(k), str(k), str(k)), node_key_file=secret) for k, e in enumerate(engines)]
        with Collector() as c, Scheduler(args.build, nodes, tracing=tracing(c)) as s:
            s.nodes_ready(2)
            engines[0].faults.append(Fault(die=5))
            want = Expected("p", 7, 12)
            a = chat(s.port, "p", seed=7, stream=True, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            assert a.text() == want.text
            (root, legs), = end(s, c, 3)
            assert root["parentSpanId"] == PARENT
            assert [attributes(leg)["spillway.node"] for leg in legs] == ["e1", "e2"]
            assert [attributes(leg)["gen_ai.provider.name"] for leg in legs] == ["spillway"] * 2
            assert sum(attributes(leg)["gen_ai.usage.output_tokens"] for leg in legs) == len(want.ids)
            assert legs[0]["status"]["code"] == ERROR
            told = [parent_of(e.generations()[0][1]) for e in engines]
            assert told == [(TRACE, leg["spanId"], "01") for leg in legs], told


def what_is_passed_on(args):
    """Without a record of ours the node's spans hang on the client's, as if we were not there."""
    up = Upstream()

    def told(s, headers=None):
        assert chat(s.port, headers=headers).status == 200
        return {k: v for k, v in up.generations()[-1][1].items() if k.startswith("trace")}

    yes, no = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}, {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    with Scheduler(args.build, [node("a", up)]).ready() as s:  # no collector at all
        assert told(s) == {} and told(s, yes) == yes and told(s, no) == no
        assert told(s, {"traceparent": f"00-{TRACE}-{'0' * 16}-01", "tracestate": "a=b"}) == {}  # malformed
        assert told(s, {"traceparent": "x", "tracestate": "a=b"}) == {}
    with Collector() as c:
        with Scheduler(args.build, [node("a", up)], tracing=tracing(c, sample=0)).ready() as s:
            assert told(s, no) == no
            told(s)
            assert parent_of(told(s, yes))[1] != PARENT  # the client's word counts
            (root, (leg,)), = end(s, c, 2)
            assert root["parentSpanId"] == PARENT
        with Scheduler(args.build, [node("a", up)], tracing=tracing(c, sample=0, mode="ratio")).ready() as s:
            trace, span, flags = parent_of(told(s, yes))
            assert (trace, span) == (TRACE, PARENT), "nobody records a span of ours"
        with Scheduler(args.build, [node("a", up)], tracing=tracing(c, sample=1, mode="ratio")).ready() as s:
            assert parent_of(told(s, no))[0] == TRACE
            end(s, c, 2)
        assert not c.spans
        with Scheduler(args.build, [node("a", up)], tracing=tracing(c, sample=0.3)).ready() as s:
            for _ in range(200):
                told(s)
            wait_until(lambda: s.metrics()["spillway_spans_queued"] == 0, 8, "all are sent")
            m = s.metrics()
            assert m["spillway_spans_exported_total"] == len(c.spans) and m["spillway_spans_dropped_total"] == 0
            assert 60 <= len(c.spans) <= 180, len(c.spans)  # 120, give or take five standard deviations


def the_collectors_troubles(args):
    """The bound on what waits is each worker's own: one of them."""
    up = Upstream()
    limit = 6.0  # on a busy machine; whoever waited for the collector would take ten seconds

    def quick(s, n=20):
        for _ in range(n):
            begun = time.monotonic()
            assert chat(s.port).status == 200
            assert time.monotonic() - begun < limit
    with Scheduler(args.build, [node("a", up)], workers=1, health=PATIENT_HEALTH,
                   tracing=tracing(f"http://127.0.0.1:{free_port()}", queue_max=64)).ready() as s:
        quick(s, 60)
        assert s.metrics()["spillway_spans_dropped_total"] > 0 and s.metrics()["spillway_spans_queued"] <= 64
        begun = time.monotonic()
        assert s.terminate() == 0 and time.monotonic() - begun < 8  # it tries for two seconds
    with Collector() as c:
        c.hang.set()
        with Scheduler(args.build, [node("a", up)], workers=1, health=PATIENT_HEALTH,
                       tracing=tracing(c, queue_max=64)).ready() as s:
            quick(s, 60)
            wait_until(lambda: c.posts, 5, "it has been asked")
            quick(s)
            assert s.metrics()["spillway_spans_queued"] <= 64
            c.hang.clear()
            c.free.set()
            wait_until(lambda: len(c.spans) >= 64, 8, "it gets them later")
    with Collector() as c:
        c.status = 503
        with Scheduler(args.build, [node("a", up)], health=PATIENT_HEALTH, tracing=tracing(c)).ready() as s:
            quick(s, 3)
            wait_until(lambda: c.posts, 5, "it has been asked")
            c.status = 200
            c.wait(6)
            wait_until(lambda: s.metrics()["spillway_spans_retries_total"] >= 1, 5, "it was asked again")
            for text in ("the collector does not take spans", "takes spans again"):
                wait_until(lambda: text in s.log_text(), 5, text)


def headers_and_the_end(args):
    """A token goes with each batch and into no log; what waits is sent before the program ends."""
    up = Upstream()
    with tempfile.TemporaryDirectory(prefix="spillway-it-") as folder, Collector() as c:
        headers = os.path.join(folder, "headers")
        with open(headers, "w") as f:
            f.write("# of the collector\nAuthorization: Bearer hush\nX-Scope: 1\n")
        extra = {"headers_file": headers, "service_name": "gate", "environment": "test"}
        with Scheduler(args.build, [node("a", up)], tracing=tracing(c, **extra)).ready() as s:
            for _ in range(5):
                chat(s.port)
            s.process.send_signal(signal.SIGTERM)
            assert s.process.wait(10) == 0
            assert len(c.spans) == 10, len(c.spans)
            assert "hush" not in s.log_text()
        assert all(h["Authorization"] == "Bearer hush" and h["X-Scope"] == "1" for h in c.headers)
        resource = {a["key"]: a["value"]["stringValue"]
                    for a in json.loads(c.bodies[0])["resourceSpans"][0]["resource"]["attributes"]}
        assert resource["service.name"] == "gate" and resource["deployment.environment.name"] == "test", resource


if __name__ == "__main__":
    main(__doc__, [a_request_and_its_leg, failed_legs, refusals, continuations, what_is_passed_on, the_collectors_troubles,
                   headers_and_the_end])
