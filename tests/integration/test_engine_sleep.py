#!/usr/bin/env python3
"""A node sleeps and wakes (docs/NODE_API.md): asleep there is no worker and nothing on the processor, a probe never wakes
it, a request does and gets the same answer; nothing is lost at any switch, whoever comes at whatever moment; a worker that
dies is started again, one that keeps dying is given up in words."""

import http.client
import json
import os
import random
import select
import signal
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from engine_server import FOLDER, Server, error_of, make_model, same, state_of  # noqa: E402
from harness import Connection, certificate, main, nvml_stub, request, run_ns, wait_until  # noqa: E402
from test_node_api import COMPLETION, NODE, key_file, node  # noqa: E402

PROMPT = {"prompt": "hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


def post(s, path, headers=NODE):
    return request(s.port, "POST", path, b"", headers)


def order(s, path):
    a = post(s, path)
    same(a.status, 202)
    return a.json()["state"]


def health(s):
    return request(s.port, "GET", "/health").json()["status"]


def timesheet(s):
    """How the engine says that its time was spent, in microseconds."""
    return request(s.port, "GET", "/health", headers=NODE).json()["spillway_time"]


def fall_asleep(s):
    same(order(s, "/sleep") in ("falling_asleep", "asleep"), True)
    wait_until(lambda: health(s) == "asleep", 10, "asleep")
    same(s.worker(), None)


def text_of(answer):
    same(answer.status, 200)
    return answer.json()["choices"][0]["text"]


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def raw(s, data, timeout=20):
    c = socket.create_connection(("127.0.0.1", s.port), timeout)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.sendall(data)
    return c


def post_bytes(body, path=COMPLETION):
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n").encode(), data


def read_answer(c):
    """One answer with a length, from a connection that goes on."""
    r = http.client.HTTPResponse(c)
    r.begin()
    body = r.read()
    return r.status, body


# ---- what it promises ----


def orders_and_words(args):
    keys = key_file("an-api-key\n", "sleep-api-keys")
    with node(args, "--api-key-file", keys) as s:
        bearer = {"Authorization": "Bearer an-api-key"}
        for path in ["/sleep", "/wake_up"]:
            error_of(post(s, path, bearer), 401, "node_key_required")
            error_of(post(s, path, {"x-spillway-node-key": "wrong-key"}), 401, "invalid_node_key")
            error_of(request(s.port, "GET", path, headers=NODE), 405, "method_not_allowed")
        same(order(s, "/wake_up"), "awake")
        models = request(s.port, "GET", "/v1/models", headers=NODE).json()
        request(s.port, "POST", COMPLETION, PROMPT, bearer)
        requests = s.metrics_of(bearer, "spillway_engine_requests_total")
        began = [time.monotonic()]
        before = timesheet(s)
        began.append(time.monotonic())
        fall_asleep(s)
        same(order(s, "/sleep"), "asleep")
        a = request(s.port, "GET", "/health")
        same((a.status, a.json()), (200, {"status": "asleep", "model": "tiny"}))
        same(request(s.port, "GET", "/v1/models", headers=NODE).json(), models)
        same(request(s.port, "GET", "/v1/models/tiny", headers=NODE).json(), models["data"][0])
        error_of(request(s.port, "GET", "/v1/models/other", headers=bearer), 404, "model_not_found", "model")
        for path in ["/sleep", "/wake_up"]:
            error_of(post(s, path, bearer), 401, "node_key_required")
        same(s.metrics_of(bearer, "spillway_engine_requests_total"), requests)
        same(s.metrics_of(bearer, "spillway_engine_ready"), 1)  # it takes requests
        same(s.metrics_of(bearer, "spillway_engine_state", state="asleep"), 1)
        same(order(s, "/wake_up"), "waking")
        same(order(s, "/wake_up") in ("waking", "awake"), True)
        wait_until(lambda: health(s) == "ok", 10, "awake")
        same(s.metrics_of(bearer, "spillway_engine_requests_total"), requests)
        request(s.port, "POST", COMPLETION, PROMPT, bearer)
        same(s.metrics_of(bearer, "spillway_engine_requests_total"), requests + 1)
        same(s.metrics_of(bearer, "spillway_engine_sleeps_total"), 1)
        same(s.metrics_of(bearer, "spillway_engine_wakes_total"), 1)
        assert s.metrics_of(bearer, "spillway_engine_wake_seconds") > 0
        least = (time.monotonic() - began[1]) * 1e6
        after = timesheet(s)
        most = (time.monotonic() - began[0]) * 1e6
        same(after["life"], before["life"])
        spent = {k: after[k] - before[k] for k in before if k != "life"}
        assert min(spent.values()) > 0, spent  # it was all of these for a while
        assert 0.95 * least - 50e3 < sum(spent.values()) < 1.05 * most + 50e3, (spent, least, most)
        assert "spillway_time" not in request(s.port, "GET", "/health").json()
    with Server(args, "--no-supervisor", "--node-key-file", key_file()) as s:
        error_of(post(s, "/sleep"), 501, "no_supervisor")
        same(s.worker(), None)
        same(s.complete().status, 200)


def gpus_are_told(args):
    """Awake by the worker, asleep by the supervisor."""
    expected = {("memory_bytes", "state", "total"): 80e9, ("memory_bytes", "state", "used"): 20e9,
                ("clock_hertz", "clock", "sm"): 1410e6, ("clock_hertz", "clock", "memory"): 1593e6}

    def told(s):
        return {key: s.metrics_of(NODE, "spillway_engine_gpu_" + key[0], **{key[1]: key[2]}) for key in expected}

    with node(args, "--nvml-library", nvml_stub(FOLDER)) as s:
        wait_until(lambda: told(s) == expected, 10, "the worker has heard of it")
        fall_asleep(s)
        same(told(s), expected)
    with node(args, "--nvml-library", "none") as s:
        assert b"spillway_engine_gpu_" not in request(s.port, "GET", "/metrics", headers=NODE).body


def probes_never_wake(args):
    """Asleep: no worker, and less than a thousandth of a processor. Whatever asks for no answer, or may not have one, does
    not wake it."""
    keys = key_file("an-api-key\n", "sleep-api-keys")
    with node(args, "--api-key-file", keys) as s:
        fall_asleep(s)
        bearer = {"Authorization": "Bearer an-api-key"}
        seconds = 10 if args.full else 2
        idle = raw(s, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # stays connected
        same(read_answer(idle)[0], 200)
        half = raw(s, b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthor")  # says not yet what it wants
        used = run_ns(s.process.pid)
        time.sleep(seconds)
        used = (run_ns(s.process.pid) - used) / 1e9 / seconds
        print(f"        asleep it takes {used:.4%} of a core")
        assert used < 0.001, f"{used:.2%} of a core while asleep"
        for method, path, headers, status in [
            ("GET", "/health", {}, 200), ("HEAD", "/health", {}, 401), ("GET", "/metrics", bearer, 200),
            ("GET", "/v1/models", bearer, 200), ("GET", "/v1/models", {}, 401), ("GET", "/", bearer, 404),
            ("GET", COMPLETION, bearer, 405), ("POST", COMPLETION, {}, 401), ("POST", "/metrics", bearer, 405),
            ("POST", COMPLETION, {"Authorization": "Bearer wrong-key"}, 401),
            ("POST", COMPLETION, {"x-spillway-node-key": "wrong-key"}, 401), ("POST", "/v1/images", bearer, 404),
            ("POST", "/sleep", NODE, 202), ("OPTIONS", "*", bearer, 404),
        ]:
            body = json.dumps(PROMPT).encode() if method == "POST" else None
            a = Connection(s.port, method, path, body, headers)
            a.head()
            same((method, path, a.answer.status), (method, path, status))
            a.close()
        for junk in [b"GET /health\n\n", b"\x16\x03\x01\x02\x00\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"]:
            c = raw(s, junk)
            assert c.recv(100).startswith(b"HTTP/1.1 400"), junk
            c.close()
        same((health(s), s.worker()), ("asleep", None))
        same(s.metrics_of(bearer, "spillway_engine_held_requests_total"), 0)
        half.sendall(b"ization: Bearer an-api-key\r\nContent-Length: 15\r\n\r\n{\"prompt\": \"x\"}")
        same(read_answer(half)[0], 200)  # this one does
        same(health(s), "ok")
        idle.close()
        half.close()


def a_request_wakes(args):
    """It is answered as if nothing had been, whichever way it comes; the connection goes on."""
    with node(args) as s:
        want = text_of(request(s.port, "POST", COMPLETION, PROMPT))
        head, body = post_bytes(PROMPT)
        for pieces in [[head + body], [head, body[:5], body[5:]], [head[:30], head[30:], body],
                       [head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), body]]:
            fall_asleep(s)
            c = raw(s, b"")
            for i, piece in enumerate(pieces):
                c.sendall(piece)
                time.sleep(0.03 if i < len(pieces) - 1 else 0)
            status, answer = read_answer(c)
            same((status, json.loads(answer)["choices"][0]["text"]), (200, want))
            c.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # the worker has the connection now
            same(json.loads(read_answer(c)[1])["status"], "ok")
            fall_asleep(s)
            c.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # and the supervisor has it again
            same(json.loads(read_answer(c)[1])["status"], "asleep")
            c.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + head + body)  # both, without waiting
            reader = c.makefile("rb")
            for expect in [b"asleep", want.encode()]:
                line, length = reader.readline(), 0
                same(line.split()[1], b"200")
                while (line := reader.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                text = reader.read(length)
                assert expect in text or json.loads(text)["choices"][0]["text"].encode() == expect, text
            c.close()
        fall_asleep(s)
        big = {**PROMPT, "prompt": "y" * 200000}  # more than the supervisor reads of anybody
        error_of(request(s.port, "POST", COMPLETION, big), 400, "context_length_exceeded", "prompt")
        fall_asleep(s)
        many = [Connection(s.port, "POST", COMPLETION, {**PROMPT, "stream": True}) for _ in range(40)]
        for c in many:
            same(c.all().status, 200)
            assert c.answer.complete and c.answer.events[-1][1] == "[DONE]"
        same(s.metric("spillway_engine_held_requests_refused_total"), 0)
        same(request(s.port, "POST", "/tokenize", {"prompt": "hello"}).status, 200)


# ---- races ----


def hold(pid):
    """That process stands still where it is, until goes_on(pid): what is to happen meanwhile has time. False: it ended just
    now."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except OSError:
        return False
    wait_until(lambda: state_of(pid) in "TZX", 5, "it stands still")
    return state_of(pid) == "T"


def hold_worker(s):
    """The pid of the worker, which stands still, or None: there is none."""
    pid = s.worker()
    return pid if pid and hold(pid) else None


def goes_on(pid):
    os.kill(pid, signal.SIGCONT)


def held_in_its_load(s):
    """It wakes, and the worker stands still before it is ready, as by hold_worker(). None: that one was too quick for us,
    and it sleeps again."""

    def readies():
        return sum(x["message"] == "ready" for x in s.log_lines())  # a worker says so before it tells its supervisor

    before = readies()
    same(order(s, "/wake_up"), "waking")
    pid = wait_until(lambda: hold_worker(s), 5, "it loads")
    if readies() == before:
        return pid
    goes_on(pid)
    fall_asleep(s)
    return None


def is_over(c, events):
    """All of it has been sent: what there is to read is read."""
    while select.select([c.socket], [], [], 0)[0]:
        if next(events, None) is None:
            return True
    return False


def falling_asleep_with_answers(args):
    """What runs is answered to its end; who comes meanwhile is answered, too, and keeps it awake; a wish takes it back."""
    with node(args, "--ctx-size", "60000") as s:
        long = {"prompt": "x", "max_tokens": 200 if args.sanitized else 600, "ignore_eos": True, "stream": True}

        def begin():
            """An answer under way, its worker told to sleep, and held."""
            c = Connection(s.port, "POST", COMPLETION, long)
            c.head()
            events = c.events()
            next(events)
            same(order(s, "/sleep"), "falling_asleep")
            pid = hold_worker(s)
            if pid and health(s) == "falling_asleep" and not is_over(c, events):
                return c, events, pid
            if pid:
                goes_on(pid)
            end(c, events)  # it was over before we came
            return None

        def end(c, events):
            for _ in events:
                pass
            assert c.answer.complete and c.answer.events[-1][1] == "[DONE]"

        c, events, pid = wait_until(begin, 5, "falling asleep")
        same(order(s, "/sleep"), "falling_asleep")
        goes_on(pid)
        end(c, events)
        wait_until(lambda: health(s) == "asleep", 10, "asleep")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)) != "", True)
        c, events, pid = wait_until(begin, 5, "falling asleep")
        another = Connection(s.port, "POST", COMPLETION, PROMPT)
        goes_on(pid)
        same(text_of(another.all()) != "", True)  # by the same worker
        same((health(s), s.worker()), ("ok", pid))
        end(c, events)
        c, events, pid = wait_until(begin, 5, "falling asleep")
        same(order(s, "/wake_up"), "awake")
        goes_on(pid)
        same((health(s), s.worker()), ("ok", pid))
        end(c, events)
        c, events, pid = wait_until(begin, 5, "falling asleep")
        c.close()  # the last one goes away
        goes_on(pid)
        wait_until(lambda: health(s) == "asleep", 10, "asleep")


def wishes_are_in_order(args):
    """The worker has told that it is to sleep, its supervisor has not heard it yet, and somebody wants the node: that is
    the later wish."""

    def states():
        return [x["message"] for x in s.log_lines() if "was" in x]

    with node(args) as s:
        for wish in [lambda: same(order(s, "/wake_up"), "awake"), lambda: text_of(request(s.port, "POST", COMPLETION, PROMPT))]:
            seen = len(states())
            assert hold(s.process.pid)
            try:
                same(order(s, "/sleep"), "falling_asleep")
                wish()
            finally:
                goes_on(s.process.pid)
            wait_until(lambda: len(states()) >= seen + 2, 5, "it has heard of both")
            same(states()[seen:], ["falling asleep", "awake"])
            same(health(s), "ok")


def sleep_while_loading(args):
    passes = "200" if args.sanitized else "2000"
    with node(args, "--warmup", passes, "--hold-max", "2", wait=False) as s:
        same(order(s, "/sleep"), "falling_asleep")  # nobody waits: the load is not worth ending
        wait_until(lambda: health(s) == "asleep", 5, "asleep")
        same(s.worker(), None)
        wait_until(lambda: held_in_its_load(s), 5, "it loads")
        same(order(s, "/sleep"), "falling_asleep")
        same(order(s, "/wake_up"), "waking")  # as soon as that worker is gone
        wait_until(lambda: health(s) == "ok", 60, "the next one is there")
        fall_asleep(s)
        pid = wait_until(lambda: held_in_its_load(s), 5, "it loads")
        same(health(s), "waking")
        held = [Connection(s.port, "POST", COMPLETION, PROMPT) for _ in range(2)]
        wait_until(lambda: s.metric("spillway_engine_held_requests_total") == 2, 5, "two are held")
        same(order(s, "/sleep"), "waking")  # they would wake it at once
        a = request(s.port, "POST", COMPLETION, PROMPT)
        error_of(a, 503, "waking")
        same(a.headers["retry-after"], "1")
        held.pop().close()
        wait_until(lambda: s.metric("spillway_engine_held_requests_gone_total") == 1, 5, "one has gone")
        goes_on(pid)
        same(held.pop().all().status, 200)
        same(s.metric("spillway_engine_held_requests_refused_total"), 1)
        fall_asleep(s)
    with node(args, "--warmup", passes, "--hold-seconds", "0") as s:
        fall_asleep(s)
        error_of(request(s.port, "POST", COMPLETION, PROMPT), 503, "waking")
        wait_until(lambda: health(s) == "ok", 60, "it wakes all the same")


def under_traffic(args):
    """Sleeps and wakes while clients ask all the time: every request is answered, with the same bytes; no state is one to
    be stuck in, no descriptor is left over."""
    rounds = 200 if args.full else 15
    with node(args) as s:
        want = text_of(request(s.port, "POST", COMPLETION, PROMPT))
        files = open_files(s.process.pid)
        stop, wrong, done, slept = threading.Event(), [], [0], [time.monotonic()]

        def client(seed, keep):
            rng, c = random.Random(seed), None
            while not stop.is_set():
                try:
                    c = c or http.client.HTTPConnection("127.0.0.1", s.port, timeout=30)
                    c.request("POST", COMPLETION, json.dumps(PROMPT), {"Content-Type": "application/json"})
                    a = c.getresponse()
                    body = a.read()
                    if a.status != 200 or json.loads(body)["choices"][0]["text"] != want:
                        wrong.append((a.status, body[:300]))
                    done[0] += 1
                    if not keep:
                        c.close()
                        c = None
                except (OSError, http.client.HTTPException) as e:
                    wrong.append(repr(e))
                    c = None
                # Longer and longer pauses until it has slept: where answers are slow there is always somebody who asks.
                time.sleep(rng.expovariate(1 / (0.02 + (time.monotonic() - slept[0]) / 10)))

        def prober():
            while not stop.is_set():
                if request(s.port, "GET", "/health").status not in (200,):
                    wrong.append("health")
                time.sleep(0.01)

        threads = [threading.Thread(target=client, args=(i, i % 2 == 0), daemon=True) for i in range(3)]
        threads.append(threading.Thread(target=prober, daemon=True))
        for t in threads:
            t.start()
        rng, deadline = random.Random(5), time.monotonic() + (600 if args.full else 60)
        sleeps = 0
        while (sleeps < rounds or done[0] <= rounds) and not wrong:
            assert time.monotonic() < deadline, f"{sleeps} sleeps, {done[0]} answers, {health(s)}"
            if s.metric("spillway_engine_sleeps_total") > sleeps:
                sleeps, slept[0] = s.metric("spillway_engine_sleeps_total"), time.monotonic()
            assert order(s, rng.choice(["/sleep", "/sleep", "/sleep", "/wake_up"]))
            time.sleep(rng.expovariate(1 / 0.01))
        stop.set()
        for t in threads:
            t.join()
        assert not wrong, wrong[:3]
        same(s.metric("spillway_engine_held_requests_refused_total"), 0)
        same(s.metric("spillway_engine_worker_restarts_total"), 0)
        fall_asleep(s)
        wait_until(lambda: open_files(s.process.pid) <= files - 1, 5, "no descriptors are left over")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)), want)
        bad = [x for x in s.log_text().splitlines() if "does not end" in x or "did not end well" in x]
        assert not bad, bad
        print(f"        {sleeps:.0f} sleeps under {done[0]} requests, the last wake-up took "
              f"{s.metric('spillway_engine_wake_seconds') * 1000:.0f} ms")


def over_tls(args):
    """The same over TLS: asleep the supervisor ends it, a connection that came then goes on for its life, a renewed
    certificate is shown by both."""
    cert, key = certificate(FOLDER)
    tls = ssl.create_default_context(cafile=cert)
    with node(args, "--tls-cert", cert, "--tls-key", key, wait=False) as s:

        def ask(method, path, body=None, headers=NODE):
            return request(s.port, method, path, body, headers, tls=tls)  # one that meets a worker on its way down, too

        def state():
            return ask("GET", "/health").json()["status"]

        def sleeps():
            assert ask("POST", "/sleep", b"").json()["state"] in ("falling_asleep", "asleep")
            wait_until(lambda: state() == "asleep", 10, "asleep")
            same(s.worker(), None)

        wait_until(lambda: state() == "ok", 20, "ready")
        want = text_of(ask("POST", COMPLETION, PROMPT))
        files = open_files(s.process.pid)
        for _ in range(20 if args.full else 2):
            sleeps()
            junk = raw(s, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # not even TLS
            try:
                assert junk.recv(100)[:1] != b"H"
            except ConnectionError:
                pass
            junk.close()
            c = http.client.HTTPSConnection("localhost", s.port, timeout=20, context=tls)
            for path in ["/health", COMPLETION, "/health", COMPLETION]:
                c.request("POST" if path == COMPLETION else "GET", path, json.dumps(PROMPT) if path == COMPLETION else None)
                a = c.getresponse()
                body = json.loads(a.read())
                same(a.status, 200)
                same(body["choices"][0]["text"] if path == COMPLETION else "", want if path == COMPLETION else "")
            many = [Connection(s.port, "POST", COMPLETION, {**PROMPT, "stream": True}, tls=tls) for _ in range(5)]
            sleeps()  # with that connection: it comes back, and wakes it again
            c.request("POST", COMPLETION, json.dumps({**PROMPT, "prompt": "hello"}))
            same(json.loads(c.getresponse().read())["choices"][0]["text"], want)
            c.close()
            for m in many:
                same(m.all().status, 200)
                same(m.answer.events[-1][1], "[DONE]")
        big = {**PROMPT, "max_tokens": 900, "stream": True, "logprobs": 5}
        sleeps()
        c = Connection(s.port, "POST", COMPLETION, big, receive_buffer=4096, tls=tls)
        time.sleep(1)  # a reader that is slow at first
        c.all()
        same(c.answer.complete, True)
        same(c.answer.events[-1][1], "[DONE]")
        sleeps()
        wait_until(lambda: open_files(s.process.pid) <= files, 5, "no descriptors are left over")
        folder = os.path.join(FOLDER, "renewed")
        os.makedirs(folder)
        new_cert, new_key = certificate(folder)
        os.replace(new_cert, cert)
        os.replace(new_key, key)
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificate read again" in s.log_text(), 5, "read again")
        tls = ssl.create_default_context(cafile=cert)
        same(state(), "asleep")
        same(text_of(ask("POST", COMPLETION, PROMPT)), want)
        same(text_of(ask("POST", COMPLETION, PROMPT)), want)


# ---- crashes ----


def kill_worker(s):
    pid = wait_until(s.worker, 5, "a worker")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: s.worker() != pid, 5, "it is gone")


def crashes_are_mended(args):
    with node(args, "--ctx-size", "60000") as s:
        c = Connection(s.port, "POST", COMPLETION, {**PROMPT, "max_tokens": 50000, "stream": True})
        c.head()
        next(c.events())
        kill_worker(s)
        for _ in c.events():
            pass
        assert not c.answer.complete  # its client sees that it was cut
        a = request(s.port, "GET", "/health")
        assert a.json()["status"] in ("restarting", "waking", "ok"), a.body
        if a.json()["status"] == "restarting":
            assert a.status == 503 and "signal 9" in a.json()["reason"], a.body
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)) != "", True)  # waits for the next worker
        same(s.metric("spillway_engine_worker_restarts_total"), 1)
        kill_worker(s)
        same(order(s, "/sleep") in ("falling_asleep", "asleep"), True)  # instead of coming back
        wait_until(lambda: health(s) == "asleep", 5, "asleep")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)) != "", True)


def crash_loops_end(args):
    with node(args) as s:
        for _ in range(5):
            kill_worker(s)
            wait_until(lambda: health(s) == "failed" or s.worker(), 10, "the next worker")
        a = request(s.port, "GET", "/health")
        same((a.status, a.json()["status"]), (503, "failed"))
        assert "signal 9" in a.json()["reason"], a.body
        error_of(request(s.port, "POST", COMPLETION, PROMPT), 503, "failed")
        error_of(post(s, "/sleep"), 503, "failed")
        same(s.worker(), None)
        same(s.metric("spillway_engine_worker_restarts_total"), 4)
        same(order(s, "/wake_up"), "waking")
        wait_until(lambda: health(s) == "ok", 10, "well again")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)) != "", True)


def a_model_that_went_away(args):
    model = os.path.join(FOLDER, "gone.gguf")
    with open(make_model(args), "rb") as f, open(model, "wb") as g:
        g.write(f.read())
    with node(args, "--alias", "tiny", model=model) as s:
        fall_asleep(s)
        os.rename(model, model + ".away")
        error_of(request(s.port, "POST", COMPLETION, PROMPT), 503, "failed")
        a = request(s.port, "GET", "/health")
        assert a.status == 503 and "gone.gguf" in a.json()["reason"], a.body
        os.rename(model + ".away", model)
        same(order(s, "/wake_up"), "waking")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)) != "", True)


def workers_die_at_any_moment(args):
    """Killed while they load, while connections are handed over, while they answer: a request that was not taken goes to
    the next worker, one that was is cut off; none hangs, none is answered twice."""
    rounds = 40 if args.full else 2
    rng = random.Random(11)
    with node(args) as s:
        want = text_of(request(s.port, "POST", COMPLETION, PROMPT))
        whole = cut = 0
        for i in range(40):
            if i >= rounds and whole > rounds:  # some came before the kill, on a machine of any speed
                break
            fall_asleep(s)
            same(order(s, "/wake_up"), "waking")
            clients = [raw(s, b"".join(post_bytes(PROMPT))) for _ in range(6)]
            time.sleep(rng.uniform(0, 0.06))
            kill_worker(s)
            for c in clients:
                try:
                    status, body = read_answer(c)
                    same(status, 200)
                    same(json.loads(body)["choices"][0]["text"], want)
                    whole += 1
                except (http.client.HTTPException, ConnectionError):
                    cut += 1
                c.close()
            if health(s) == "failed":
                order(s, "/wake_up")
            wait_until(lambda: health(s) == "ok", 40, "well again")
            post(s, "/wake_up")
        assert whole > rounds, (whole, cut)
        print(f"        {whole} answered, {cut} cut off with their worker")


def hung_workers_are_replaced(args):
    """A worker whose process lives and whose loop does not turn is killed, and said to be so; one that computes is not, nor
    does anybody die when all of the machine stood still."""
    with node(args, "--watchdog-seconds", "2", "--ctx-size", "60000") as s:
        want = text_of(request(s.port, "POST", COMPLETION, PROMPT))
        pid = s.worker()
        if args.full:
            text_of(request(s.port, "POST", COMPLETION, {**PROMPT, "prompt": "y" * 20000},
                            timeout=300))  # busy
            for p in [s.process.pid, pid]:
                os.kill(p, signal.SIGSTOP)
            time.sleep(5)
            for p in [pid, s.process.pid]:
                os.kill(p, signal.SIGCONT)
            same(text_of(request(s.port, "POST", COMPLETION, PROMPT)), want)
        same((s.worker(), s.metric("spillway_engine_worker_hung_total")), (pid, 0))
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: s.worker() != pid, 20, "it is killed")
        same(text_of(request(s.port, "POST", COMPLETION, PROMPT)), want)  # by the next one
        same(s.metric("spillway_engine_worker_hung_total"), 1)
        same(s.metric("spillway_engine_worker_restarts_total"), 1)
        assert "hung: its loop did not answer for" in s.log_text(), s.log_text()[-2000:]


# ---- the end ----


def write_once(pipe, text):
    """As soon as somebody reads."""
    with open(pipe, "w") as f:
        f.write(text)


def a_start_that_is_given_up(args):
    """A worker that is still starting is killed when its engine drains: if it has just failed by itself, that is no failure
    of the engine's. It reads its keys from a pipe, and has failed before the engine, which was stopped, hears of the
    drain."""
    keys = os.path.join(FOLDER, "keys")
    os.mkfifo(keys)

    def status():
        threading.Thread(target=write_once, args=(keys, "spw_a_key\n"), daemon=True).start()  # the engine's own look
        s = node(args, "--api-key-file", keys, wait=False)
        try:
            c = socket.create_connection(("127.0.0.1", s.port), 20)
            key = NODE["x-spillway-node-key"]
            head = f"HTTP/1.1\r\nHost: a\r\nx-spillway-node-key: {key}\r\nContent-Length: 0\r\n\r\n"
            c.sendall(f"GET /health {head}".encode())
            same(c.recv(4096)[:12], b"HTTP/1.1 503")
            s.process.send_signal(signal.SIGSTOP)
            c.sendall(f"POST /drain {head}".encode())
            write_once(keys, "short\n")
            wait_until(lambda: s.worker() is None, 10, "the worker has ended")
            s.process.send_signal(signal.SIGCONT)
            ended = s.end()
            c.close()
            return None if "the worker ended by itself" in s.log_text() else (ended,)
        finally:
            s.process.kill()
            s.process.wait()

    same(wait_until(status, 20, "the drain is heard before the worker's end"), (0,))


def drains_asleep(args):
    with node(args) as s:
        fall_asleep(s)
        same(post(s, "/drain").json()["status"], "draining")
        a = request(s.port, "GET", "/health")
        same((a.status, a.json()["status"]), (503, "draining"))
        error_of(request(s.port, "POST", COMPLETION, PROMPT), 503, "draining")
        for path in ["/sleep", "/wake_up"]:
            error_of(post(s, path), 503, "draining")
        same(s.worker(), None)
        same(s.end(), 0)
    for number in [signal.SIGTERM, signal.SIGINT]:
        with node(args) as s:
            fall_asleep(s)
            begin = time.monotonic()
            same(s.end(number), 0)
            assert time.monotonic() - begin < (1 if args.full else 10)  # and not the 30 s that a worker would have
    with node(args, "--warmup", "200" if args.sanitized else "2000", wait=False) as s:
        fall_asleep(s)
        wait_until(lambda: held_in_its_load(s), 5, "it loads")
        c = Connection(s.port, "POST", COMPLETION, PROMPT)
        wait_until(lambda: s.metric("spillway_engine_held_requests_total") == 1, 5, "somebody is held")
        s.process.send_signal(signal.SIGTERM)
        error_of(c.all(), 503, "draining")
        same(s.end(), 0)


def nobody_is_left_behind(args):
    """A worker does not outlive its supervisor, however that ends; Ctrl-C at a terminal reaches both and is one order."""
    s = node(args, "--ctx-size", "60000")
    pid = s.worker()
    s.process.kill()
    s.process.wait()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 5, "the worker has gone, too")
    with node(args, "--ctx-size", "60000") as s:
        n = 100 if args.sanitized else 500
        c = Connection(s.port, "POST", COMPLETION, {**PROMPT, "max_tokens": n, "stream": True})
        c.head()
        events = c.events()
        next(events)
        for p in [s.worker(), s.process.pid]:  # as a terminal does
            os.kill(p, signal.SIGINT)
        for _ in events:
            pass
        assert c.answer.complete and c.answer.events[-1][1] == "[DONE]"
        same(s.process.wait(20), 0)


if __name__ == "__main__":
    main(__doc__, [orders_and_words, gpus_are_told, probes_never_wake, a_request_wakes, falling_asleep_with_answers,
                   wishes_are_in_order, sleep_while_loading, under_traffic, over_tls, crashes_are_mended, crash_loops_end,
                   a_model_that_went_away, workers_die_at_any_moment, hung_workers_are_replaced, a_start_that_is_given_up,
                   drains_asleep, nobody_is_left_behind])
