"""Waiting rooms from outside: classes of service, fair shares between tenants, deadlines, bounds, comments on streams that
wait, and what is left of goodput at three times the nodes' capacity."""

import json
import statistics
import threading
import time

from harness import (PATIENT_HEALTH, Connection, Scheduler, Script, Upstream, chat, key_hash, main, node, request,
                     wait_until)

PATIENTLY = "120s"  # nobody is to be refused while a slow machine sets the stage
KEYS = {"crowd": "sk-crowd", "guest": "sk-guest"}
WAITING = 'spillway_requests_waiting{model="m",class="%s"}'
REFUSED = 'spillway_waiting_refused_total{class="%s",reason="%s"}'


def keys():
    return [{"id": name, "sha256": key_hash(key), "tenant": name} for name, key in KEYS.items()]


def error_of(a, status, code):
    assert a.status == status, (a.status, a.body)
    e = a.json()["error"]
    assert e["code"] == code, e
    return e


class Crowd:
    """A scheduler whose one slot is taken until open() is called; ask() lets one more wait and is done once it does."""

    def __init__(self, args, **queue):
        self.gate = threading.Event()
        self.up = Upstream(default=Script(gate=self.gate, words=["x"]))
        queue = {"interactive": {"wait": PATIENTLY}, **queue}
        self.s = Scheduler(args.build, [node("a", self.up, slots=1)], keys=keys(), queue=queue).ready()
        self.threads, self.answers = [], {}
        self.ask("first", waits=False)
        wait_until(lambda: self.up.active == 1, 5, "the slot is taken")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open()
        self.s.close()
        self.up.stop()

    def waiting(self):
        m = self.s.metrics()
        return m[WAITING % "interactive"] + m[WAITING % "batch"]

    def ask(self, name, tenant="crowd", waits=True, headers=None, **fields):
        before = self.waiting()

        def one():
            body = {"model": "m", "messages": [{"role": "user", "content": name}], **fields}
            c = Connection(self.s.port, "POST", "/v1/chat/completions", body,
                           {**(headers or {}), "Authorization": f"Bearer {KEYS[tenant]}"}, timeout=120)
            self.answers[name] = c.answer  # as far as it has come
            c.all()

        t = threading.Thread(target=one)
        t.start()
        self.threads.append(t)
        if waits:
            wait_until(lambda: self.waiting() == before + 1 and name in self.answers, 5, f"{name} waits")

    def open(self):
        self.gate.set()
        for t in self.threads:
            t.join()

    def order(self):
        """In which the node got them, without the first."""
        self.open()
        return [json.loads(body)["messages"][0]["content"] for _, _, body in self.up.generations()][1:]


def interactive_goes_before_batch(args):
    with Crowd(args) as c:
        c.ask("flex", service_tier="flex")
        c.ask("far", headers={"x-spillway-deadline": "1h"})
        c.ask("plain")
        c.ask("priority", service_tier="priority")
        c.ask("default", service_tier="default", headers={"x-spillway-deadline": "1h"})
        m = c.s.metrics()
        assert (m[WAITING % "interactive"], m[WAITING % "batch"]) == (3, 2), m
        assert m['spillway_waiting_bytes{model="m",class="batch"}'] > 100
        assert 0 < m['spillway_waiting_oldest_seconds{model="m",class="batch"}'] < 10
        assert c.order() == ["plain", "priority", "default", "flex", "far"], c.order()
        assert all(a.status == 200 for a in c.answers.values())
        classes = {c.answers[n].headers["x-request-id"]: k for n, k in
                   (("flex", "batch"), ("far", "batch"), ("plain", "interactive"), ("default", "interactive"))}
        for request_id, service_class in classes.items():
            assert c.s.row(request_id)["service_class"] == service_class
        m = c.s.metrics()
        assert m['spillway_wait_seconds_count{model="m",class="batch"}'] == 2
        assert m['spillway_wait_seconds_count{model="m",class="interactive"}'] == 3


def the_answer_says_its_tier(args):
    """Only to those who asked for one: in the body, in every chunk, also of an answer that is found again."""
    for settings in ({}, {"cache": {"max_bytes": "1MiB"}}):
        up = Upstream()
        with Scheduler(args.build, [node("a", up)], **settings).ready() as s:
            for asked, said in (("flex", "flex"), ("priority", "priority"), ("auto", "default"), ("default", "default")):
                for _ in range(2):
                    assert chat(s.port, temperature=0, service_tier=asked).json()["service_tier"] == said
                    a = chat(s.port, temperature=0, service_tier=asked, stream=True,
                             stream_options={"include_usage": True})
                    assert {c.get("service_tier") for c in a.chunks()} == {said} and a.text() and a.usage()
            assert not chat(s.port, temperature=0).json().get("service_tier")
            assert not any(c.get("service_tier") for c in chat(s.port, temperature=0, stream=True).chunks())
            far = chat(s.port, service_tier="auto", headers={"x-spillway-deadline": "1h"})
            assert far.json()["service_tier"] == "flex", far.body


def a_crowd_delays_others_by_one(args):
    with Crowd(args) as c:
        for i in range(8):
            c.ask(f"crowd {i}")
        c.ask("guest 0", "guest")
        c.ask("guest 1", "guest")
        order = c.order()
        assert order.index("guest 0") <= 1 and order.index("guest 1") <= 3, order
        assert [n for n in order if n.startswith("crowd")] == [f"crowd {i}" for i in range(8)], order


def deadlines_order_and_refuse(args):
    with Crowd(args) as c:
        c.ask("none")
        c.ask("late", headers={"x-spillway-deadline": "15s"})
        soon = time.time() + 10
        c.ask("soon", headers={"x-spillway-deadline": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon))})
        begin = time.monotonic()
        a = chat(c.s.port, "hopeless", key=KEYS["guest"], headers={"x-spillway-deadline": "300ms"})
        assert 0.25 < time.monotonic() - begin < 10  # not after the two minutes that others wait
        error_of(a, 503, "deadline_unreachable")
        assert a.headers["retry-after"] == "1" and "x-spillway-deadline" in a.json()["error"]["message"]
        assert c.order() == ["soon", "late", "none"], c.order()
        # A free slot is for everybody, however short the time.
        assert chat(c.s.port, "fast", key=KEYS["guest"], headers={"x-spillway-deadline": "1ms"}).status == 200


def what_cannot_be_understood(args):
    with Crowd(args) as c:
        for value in ["soon", "-3", "0", "2001-01-01T00:00:00Z", "99d", "12:00", "1e9"]:
            a = chat(c.s.port, key=KEYS["crowd"], headers={"x-spillway-deadline": value})
            e = error_of(a, 400, None)
            assert e["param"] == "x-spillway-deadline" and value in e["message"], e
        for value in ["fast", "", "FLEX"]:
            e = error_of(chat(c.s.port, key=KEYS["crowd"], service_tier=value), 400, None)
            assert e["param"] == "service_tier" and "flex" in e["message"], e
        error_of(chat(c.s.port, key=KEYS["crowd"], service_tier=7), 400, None)
        assert c.waiting() == 0


def bounds_are_told(args):
    with Crowd(args, interactive={"max": 20, "wait": PATIENTLY}, batch={"bytes": "4KiB", "wait": PATIENTLY}) as c:
        for i in range(18):
            c.ask(f"crowd {i}")
        e = error_of(chat(c.s.port, key=KEYS["crowd"]), 429, "queue_full")
        assert "tenant" in e["message"], e
        c.ask("guest 0", "guest")
        c.ask("guest 1", "guest")
        a = chat(c.s.port, key=KEYS["guest"])
        error_of(a, 429, "queue_full")
        assert int(a.headers["retry-after"]) >= 1
        a = chat(c.s.port, "x" * 5000, key=KEYS["guest"], service_tier="flex")
        assert "bytes" in error_of(a, 429, "queue_full")["message"]
        m = c.s.metrics()
        assert m[REFUSED % ("interactive", "share")] == 1 and m[REFUSED % ("interactive", "full")] == 1, m
        assert m[REFUSED % ("batch", "bytes")] == 1
    with Crowd(args, batch={"wait": 0}) as c:
        begin = time.monotonic()
        error_of(chat(c.s.port, key=KEYS["guest"], service_tier="flex"), 503, "no_capacity")
        assert time.monotonic() - begin < 10


def bounds_change_without_a_restart(args):
    with Crowd(args, interactive={"max": 2, "wait": PATIENTLY}) as c:
        c.ask("one")
        c.ask("two")
        error_of(chat(c.s.port, key=KEYS["guest"]), 429, "queue_full")
        c.s.configure([node("a", c.up, slots=1)], keys(), queue={"interactive": {"max": 3, "wait": PATIENTLY}})
        a = request(f"{c.s.folder}/state/admin.sock", "POST", "/admin/v1/reload")
        assert a.status == 200 and "queue.interactive.max" in a.body.decode(), a.body
        c.ask("three")
        error_of(chat(c.s.port, key=KEYS["guest"]), 429, "queue_full")
        assert c.order() == ["one", "two", "three"], c.order()


def memory_is_waited_for(args):
    """A node whose memory is taken is left alone until somebody ends there, or half of the time that one may wait is over."""
    gate = threading.Event()
    up = Upstream(default=Script(gate=gate, words=["x"]))
    nodes = [node("a", up, slots=8, kv_tokens=400)]
    with Scheduler(args.build, nodes, queue={"interactive": {"wait": "4s"}}).ready() as s:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(chat(s.port, max_tokens=150))) for _ in range(3)]

        def waiting():
            return s.metrics()[WAITING % "interactive"]

        threads[0].start()
        wait_until(lambda: up.active == 1, 5, "the first has the memory")
        begin = time.monotonic()
        threads[1].start()
        wait_until(lambda: waiting() == 1, 5, "the second waits: a slot is free, memory is not")
        wait_until(lambda: up.active == 2, 5, "it goes all the same, and would wait inside")
        assert time.monotonic() - begin > 1.99, time.monotonic() - begin  # and before 4 s, for it is answered
        s.configure(nodes, queue={"interactive": {"wait": "60s"}})
        assert request(f"{s.folder}/state/admin.sock", "POST", "/admin/v1/reload").status == 200
        threads[2].start()
        wait_until(lambda: waiting() == 1, 5, "the third waits")
        begin = time.monotonic()
        gate.set()
        for t in threads:
            t.join()
        assert time.monotonic() - begin < 20, "it went as soon as others had ended, not after half a minute"
        assert [a.status for a in answers] == [200] * 3
    up.stop()


def streams_that_wait_hear_comments(args):
    with Crowd(args, keep_alive="200ms") as c:
        begin = time.monotonic()
        c.ask("stream", stream=True)
        c.ask("whole")
        a = c.answers["stream"]
        wait_until(lambda: len(a.comments) >= 3, 5, "three comments")
        c.open()
        assert a.status == 200 and a.text() == "x" and a.complete and a.events[-1][1] == "[DONE]"
        assert len(a.comments) <= (time.monotonic() - begin) / 0.2 + 1 and all(line == ": waiting" for _, line in a.comments), a.comments
        assert "x-spillway-node" not in a.headers and a.headers["content-type"] == "text/event-stream"
        w = c.answers["whole"]
        assert w.status == 200 and w.text() == "x" and w.headers["x-spillway-node"] == "a"
        assert c.s.row(a.headers["x-request-id"])["error"] is None


def a_told_stream_fails_with_an_event(args):
    with Crowd(args, keep_alive="100ms", interactive={"wait": "500ms"}) as c:
        for n in range(1, 11):  # a machine that stands still says less
            a = chat(c.s.port, key=KEYS["guest"], stream=True)
            assert c.s.metrics()[REFUSED % ("interactive", "timeout")] == n
            if a.status == 503 and not a.comments:
                continue
            assert a.status == 200 and len(a.events) == 1, (a.status, a.comments, a.events)
            e = json.loads(a.events[0][1])["error"]
            assert e["code"] == "no_capacity" and a.complete, e
            if len(a.comments) >= 3:
                break
        assert len(a.comments) >= 3, a.comments
    # One whose node refuses it later is told so in the same way.
    gate = threading.Event()
    up = Upstream(default=Script(gate=gate, words=["x"]))
    with Scheduler(args.build, [node("a", up, slots=1)], queue={"keep_alive": "100ms"}).ready() as s:
        first = threading.Thread(target=chat, args=(s.port,))
        first.start()
        wait_until(lambda: up.active == 1, 5)
        up.default = Script(status=400, error_body=b'{"error":{"message":"too odd","type":"x","code":"odd"}}')
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True})
        assert c.head().status == 200
        gate.set()
        data = list(c.events())
        e = json.loads(data[0])["error"]
        assert len(data) == 1 and e["message"] == "too odd" and e["code"] == "odd", data
        first.join()
        row = s.row(c.answer.headers["x-request-id"])
        assert (row["error"], row["http_status"], row["charge_pusd"]) == ("upstream_rejected", 200, 0), row
        # A client that leaves while it waits takes nobody's place.
        gate.clear()
        up.default = Script(gate=gate, words=["x"])
        first = threading.Thread(target=chat, args=(s.port,))
        first.start()
        wait_until(lambda: up.active == 1, 5)
        c = Connection(s.port, "POST", "/v1/chat/completions",
                       {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True})
        c.head()
        c.close()
        wait_until(lambda: s.metrics()[WAITING % "interactive"] == 0, 3, "it has left")
        gate.set()
        first.join()


def a_comment_goes_on_until_the_first_token(args):
    with Crowd(args, keep_alive="150ms") as c:
        gate = threading.Event()
        c.up.scripts.append(Script(gate=gate, words=["y"]))  # of the one that waits
        c.ask("slow", stream=True)
        a = c.answers["slow"]
        wait_until(lambda: a.comments, 5, "a comment while it waits")
        c.gate.set()
        wait_until(lambda: len(c.up.generations()) == 2, 5, "its node has it")
        before = len(a.comments)
        wait_until(lambda: len(a.comments) >= before + 3, 5, "comments while the node says nothing")
        gate.set()
        c.open()
        assert a.text() == "y", a.events


def three_times_too_much(args):
    """An open loop at three times the nodes' capacity; what the machine can do besides is not the question here, so the
    times are those of nodes that take 100 ms for an answer. The short form runs beside other tests: there the time in which
    the machine stood still is left out, and it has to hold in one of five rounds."""
    ups = [Upstream(default=Script(head_delay=0.1, words=["x"])) for _ in range(2)]
    nodes = [node(f"n{i}", u, slots=3) for i, u in enumerate(ups)]
    with Scheduler(args.build, nodes, keys=keys(), health=PATIENT_HEALTH,
                   queue={"interactive": {"wait": "1s"}}).ready() as s:
        s.nodes_ready(2)
        peak = saturate(s, 12, 1.5)
        rss = s.rss_kib()
        for _ in range(1 if args.full else 5):
            wrong = overload(s, peak, 12 if args.full else 4, exact=args.full and not args.sanitized)
            if not wrong:
                break
        assert not wrong, wrong
        assert args.sanitized or s.rss_kib() - rss < 8192, s.rss_kib() - rss
    for u in ups:
        u.stop()


class Stalls(threading.Thread):
    """When this process could not run, though it wanted to."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.ended = [], threading.Event()
        self.start()

    def run(self):
        last = time.monotonic()
        while not self.ended.wait(0.01):
            now = time.monotonic()
            if now - last > 0.1:
                self.found.append((last, now))
            last = now

    def seconds(self, begin, end):
        """Of them between two moments."""
        return sum(max(0, min(b, end) - max(a, begin)) for a, b in self.found)


def overload(s, peak, seconds, exact, capacity=60, settled=1.5):
    """Three times the capacity for so long: what was not as it has to be."""
    done, lock, most, stalls = [], threading.Lock(), 0, Stalls()

    def late():
        return s.metrics()[REFUSED % ("interactive", "timeout")]

    def one(name):
        asked = time.monotonic()
        a = chat(s.port, name, key=KEYS["crowd"])
        with lock:
            done.append((asked, time.monotonic(), a.status, a.headers.get("retry-after")))

    before, begin, threads = late(), time.monotonic(), []
    for i in range(int(3 * capacity * seconds)):
        due = begin + i / (3 * capacity)
        time.sleep(max(0, due - time.monotonic()))
        t = threading.Thread(target=one, args=(f"q{i}",))
        t.start()
        threads.append(t)
        if i % 60 == 0:
            most = max(most, s.metrics()[WAITING % "interactive"])
    end = time.monotonic()
    for t in threads:
        t.join()
    good = [d for d in done if d[2] == 200 and begin + settled < d[1] <= end]
    refused = [d for d in done if d[2] != 200]
    assert all(d[2] in (429, 503) and int(d[3]) >= 1 for d in refused), {d[2:] for d in refused}
    assert s.metrics()[WAITING % "interactive"] == 0
    stalls.ended.set()
    stood, inside = (0, 0) if exact else (stalls.seconds(begin, end), stalls.seconds(begin + settled, end))
    goodput = len(good) / (end - begin - settled - inside)
    if not refused:
        return ["nobody was refused: this machine did not ask for too much"]
    vain, took = late() - before, statistics.median(d[1] - d[0] for d in refused)
    print(f"        peak {peak:.0f}/s, goodput {goodput:.0f}/s, {len(refused)} refused in {took * 1e3:.1f} ms (median),"
          f" {vain:.0f} after a wait in vain, at most {most:.0f} waited; the machine stood still for {stood:.2f} s")
    return [text for text, wrong in ((f"goodput {goodput:.1f}/s of {peak:.1f}/s", goodput < (0.9 if exact else 0.8) * peak),
                                     (f"refused after {took:.3f} s", took >= (0.02 if exact else 0.2)),
                                     (f"{vain} of {len(refused)} refused after a wait in vain",
                                      vain > 0.02 * len(refused) + 1.5 * capacity * stood),
                                     (f"{most} waited", most > 2 * capacity)) if wrong]


def saturate(s, n, seconds):
    """Answers per second that n clients get who ask again at once, while the machine goes on."""
    begin, counts, stalls = time.monotonic(), [0] * n, Stalls()
    end = begin + seconds

    def one(k):
        while time.monotonic() < end:
            counts[k] += chat(s.port, key=KEYS["crowd"]).status == 200

    threads = [threading.Thread(target=one, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    stalls.ended.set()
    return sum(counts) / (seconds + 0.1 - stalls.seconds(begin, end))


if __name__ == "__main__":
    main(__doc__, [interactive_goes_before_batch, the_answer_says_its_tier, a_crowd_delays_others_by_one, deadlines_order_and_refuse,
                   what_cannot_be_understood, bounds_are_told, bounds_change_without_a_restart, memory_is_waited_for,
                   streams_that_wait_hear_comments, a_told_stream_fails_with_an_event,
                   a_comment_goes_on_until_the_first_token, three_times_too_much])
