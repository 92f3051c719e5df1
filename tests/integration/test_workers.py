"""Several workers in one scheduler: limits and slots are counted once for all of them, nobody who waits is forgotten,
a drain takes all of them along, and what holds with one worker holds with three."""

import concurrent.futures
import functools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time

import test_gateway
from harness import (PATIENT_HEALTH, Connection, Scheduler, Script, Skip, Upstream, chat, key_hash, main, node, request,
                     thread_names, wait_until)

WORKERS = 3
OK, CANCELLED, FAILED = range(3)  # in the ledger


def wait(longest):
    return {"interactive": {"wait": longest}}


def lane_switches(s):
    """How often each worker but the first has woken up."""
    out = {}
    folder = f"/proc/{s.process.pid}/task"
    for task in os.listdir(folder):
        with open(f"{folder}/{task}/status") as f:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        if fields["Name"].startswith("lane-"):
            out[fields["Name"]] = int(fields["voluntary_ctxt_switches"])
    return out


def at_rest(s, nodes=("a",)):
    """Nothing runs, nothing waits, no slot is lost."""
    def quiet():
        m = s.metrics()
        return (m["spillway_requests_running"] == 0 and m['spillway_requests_waiting{model="m",class="interactive"}'] == 0 and
                all(m[f'spillway_node_in_flight{{node="{n}"}}'] == 0 for n in nodes))
    wait_until(quiet, 5, "all slots are back")


def spread(args):
    """The kernel spreads connections; every worker serves, and the figures are those of all together."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], workers=WORKERS).ready() as s:
        assert s.metrics()["spillway_workers"] == WORKERS
        before, asked = lane_switches(s), 0
        assert sorted(before) == ["lane-1", "lane-2"], before
        names = thread_names(s.process.pid)
        assert names[0] == "spillway" and "spillway" not in names[1:] and {"log", "ledger"} < set(names), names
        for _ in range(10):  # a worker that is kept from running wakes up once for many
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda i: chat(s.port, stream=i % 2 == 0), range(120)))
            asked += 120
            assert all(a.status == 200 for a in answers)
            after = lane_switches(s)
            if all(after[name] - before[name] > 20 for name in after):
                break
        assert all(after[name] - before[name] > 20 for name in after), (before, after)
        m = s.metrics()
        assert m['spillway_requests_total{model="m",outcome="ok"}'] == asked
        assert sum(v for k, v in m.items() if k.startswith("spillway_time_to_first_byte_seconds_count{")) == asked
        assert m['spillway_node_legs_total{node="a"}'] == asked
        charged = sum(r["charge_pusd"] for r in s.rows())
        assert abs(m['spillway_charge_usd_total{model="m",node="a"}'] - charged / 1e12) < 1e-9
        assert len(s.rows()) == asked


def limits_are_shared(args):
    """At most 5 at once for this key, whichever workers its 60 clients came to: never 6."""
    up = Upstream(default=Script(word_delay=0.002))
    classes = [{"name": "five", "concurrent": 5}]
    keys = [{"id": "k", "sha256": key_hash("sk-k"), "tenant": "acme"}]
    with Scheduler(args.build, [node("a", up)], keys=keys, workers=WORKERS, health=PATIENT_HEALTH,
                   limits={"classes": classes, "key": "five"}).ready() as s:
        end = time.monotonic() + (20 if args.full else 2)
        counts = {200: 0, 429: 0}
        lock = threading.Lock()

        def goes_on():
            """Until it is time and enough was seen; not for ever."""
            late = time.monotonic() - end
            return late < 0 or (late < 60 and (up.most_active < 5 or min(counts.values()) <= 50))

        def client(i):
            while goes_on():
                a = chat(s.port, str(i), key="sk-k", stream=i % 2 == 0)
                with lock:
                    counts[a.status] += 1
                time.sleep(0.01)

        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            list(pool.map(client, range(60)))
        assert up.most_active == 5, up.most_active  # 6 would be a limit per worker, 4 one that leaks
        assert counts[200] > 50 and counts[429] > 50, counts
        at_rest(s)
        up.default = Script(word_delay=0.1)
        with concurrent.futures.ThreadPoolExecutor(5) as pool:  # all five are back
            assert all(a.status == 200 for a in pool.map(lambda i: chat(s.port, key="sk-k"), range(5)))


def rooms_are_shared(args):
    """Two slots, 60 requests over all workers; then a third of them leave while they wait or run. Nobody starves, and
    no slot is lost: afterwards there are two again."""
    up = Upstream(default=Script(word_delay=0.003))
    with Scheduler(args.build, [node("a", up, slots=2)], workers=WORKERS, queue=wait("30s")).ready() as s:
        def stays(i):
            return chat(s.port, str(i), stream=i % 2 == 0).status

        def may_leave(i):
            if i % 3:
                return stays(i)
            body = {"model": "m", "messages": [{"role": "user", "content": "leaves"}]}
            c = Connection(s.port, "POST", "/v1/chat/completions", json.dumps(body).encode())
            time.sleep(random.uniform(0, 0.4))
            c.close()
            return 200

        def all_of(clients):
            with concurrent.futures.ThreadPoolExecutor(60) as pool:
                assert set(pool.map(clients, range(60))) == {200}
            at_rest(s)

        all_of(stays)
        assert up.most_active == 2, up.most_active
        for _ in range(20 if args.full else 3):
            all_of(may_leave)
        wait_until(lambda: up.active == 0, 5, "the node has noticed")
        up.most_active = 0
        all_of(stays)
        assert up.most_active == 2, up.most_active


def order_over_workers(args):
    """Whoever waits longest is next, on whichever worker that is."""
    gate = threading.Event()
    up = Upstream(default=Script(gate=gate))
    with Scheduler(args.build, [node("a", up, slots=1)], workers=WORKERS, queue=wait("30s")).ready() as s:
        threads = []
        for i in range(16):
            threads.append(threading.Thread(target=chat, args=(s.port, str(i))))
            threads[-1].start()
            wait_until(lambda: sum(s.metrics()[k] for k in ("spillway_requests_running",
                                                            'spillway_requests_waiting{model="m",class="interactive"}')) == i + 1, 5)
        gate.set()
        for t in threads:
            t.join()
        sent = [int(json.loads(body)["messages"][0]["content"]) for _, _, body in up.generations()]
        assert sent == list(range(16)), sent


def waits_end_in_time(args):
    """Deadlines of waits race with slots that come free on other workers: each request has one end, no slot is lost."""
    up = Upstream(default=Script(words=["x"], word_delay=0.02))
    with Scheduler(args.build, [node("a", up, slots=1)], workers=WORKERS, queue=wait("120ms")).ready() as s:
        races = 0  # rounds in which some waited in time and some in vain; a pause as long as the wait leaves one
        for _ in range(200):
            with concurrent.futures.ThreadPoolExecutor(24) as pool:
                statuses = list(pool.map(lambda i: chat(s.port, str(i)).status, range(24)))
            assert set(statuses) <= {200, 503} and 200 in statuses, statuses
            races += statuses.count(200) >= 2 and 503 in statuses
            if races == (20 if args.full else 4):
                break
        assert races >= 4, races
        at_rest(s)
        assert up.most_active == 1
        assert chat(s.port).status == 200


def drain_takes_all(args):
    """SIGTERM: streams on every worker end properly, new ones are refused, and all rows are there."""
    hold = threading.Event()
    up = Upstream(default=Script(hold=hold))
    with Scheduler(args.build, [node("a", up)], workers=WORKERS, drain="60s").ready() as s:
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            answers = [pool.submit(chat, s.port, str(i), stream=True) for i in range(30)]
            wait_until(lambda: up.active == 30, 5, "all run")
            s.process.terminate()
            wait_until(lambda: '"draining"' in s.log_text(), 5, "it drains")
            hold.set()
            status = s.process.wait(30)
            assert status == 0, status
            assert all(a.result().status == 200 and b"[DONE]" in a.result().body for a in answers)
        assert [r["outcome"] for r in s.rows()] == [OK] * 30


def drain_cuts_all(args):
    """What has not ended by the drain's deadline is cut on every worker, and in the books."""
    up = Upstream(default=Script(hang="body", cut_after=2))
    with Scheduler(args.build, [node("a", up)], workers=WORKERS, drain="500ms").ready() as s:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(chat, s.port, str(i), stream=True) for i in range(20)]
            wait_until(lambda: up.active == 20, 5, "all run")
            time.sleep(0.1)
            assert s.terminate() == 0
            assert all(b'"draining"' in a.result().body for a in answers), answers[0].result().body
        assert [r["outcome"] for r in s.rows()] == [FAILED] * 20


def slots_cross_workers(args):
    """Few slots, many who wait on many workers, answers at once: slots go from one worker to another all the time, and none
    of them stands still afterwards. (What it looks for takes luck, half a minute of it or so: --full has one.)"""
    up, seconds = Upstream(default=Script(words=["a"])), 60 if args.full else 2
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
    asking = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with Scheduler(args.build, [node(f"n{i}", up, slots=1) for i in range(6)], workers=12,
                   queue={"interactive": {"wait": "60s", "max": 200}}).nodes_ready(6) as s:
        end, answered = time.monotonic() + seconds, []

        def goes_on():
            """Until it is time, and each might have had a slot after another; not for ever."""
            late = time.monotonic() - end
            return late < 0 or (late < 60 and len(answered) <= 96)

        def ask_on(client):
            with socket.create_connection(("127.0.0.1", s.port), 30) as c:
                while goes_on():
                    c.sendall(asking)
                    got = b""
                    while not got.endswith(b"}"):
                        piece = c.recv(65536)
                        assert piece, got
                        got += piece
                    assert got.startswith(b"HTTP/1.1 200 "), got
                    answered.append(client)

        with concurrent.futures.ThreadPoolExecutor(96) as pool:
            list(pool.map(ask_on, range(96)))
        assert len(answered) > 96, len(answered)


def forced_end(args):
    """A second signal ends it at once with requests on every worker; their rows are written nevertheless."""
    up = Upstream(default=Script(hold=threading.Event()))
    with Scheduler(args.build, [node("a", up, slots=10)], workers=WORKERS, queue=wait("60s"), drain="60s").ready() as s:
        def one(i):
            try:
                return chat(s.port, str(i), stream=True)
            except (OSError, AssertionError, EOFError, ValueError):
                return None
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            for i in range(30):
                pool.submit(one, i)
            wait_until(lambda: up.active == 10, 5, "all slots are taken")
            wait_until(lambda: s.metrics()['spillway_requests_waiting{model="m",class="interactive"}'] == 20, 5, "the others wait")
            s.process.terminate()
            wait_until(lambda: "draining" in s.log_text(), 5)
            assert s.terminate() == 1
        assert [r["outcome"] for r in s.rows()] == [CANCELLED] * 10
        s.close()


def unix_socket(args):
    """One socket in the file system, accepted from by all workers, gone at the end."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], workers=WORKERS) as probe:
        path = os.path.join(probe.folder, "front.sock")
        with Scheduler(args.build, [node("a", up)], workers=WORKERS, listen=f"unix:{path}") as s:
            s.ready()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                assert all(a.status == 200 for a in pool.map(lambda i: chat(path), range(60)))
            assert s.metrics()["spillway_http_accepted_total"] >= 60
        assert not os.path.exists(path)


def port_is_taken(args):
    """Workers share their port among themselves and with nobody else."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], workers=WORKERS).ready() as s:
        try:
            other = Scheduler(args.build, [node("a", up)], workers=WORKERS, listen=f"127.0.0.1:{s.port}")
        except AssertionError as e:
            assert f"listen: 127.0.0.1:{s.port}: Address already in use" in str(e), e
        else:
            other.close()
            raise AssertionError("a second scheduler took the port")
        with Scheduler(args.build, [node("a", up)], workers="auto").ready() as auto:
            cores = len(os.sched_getaffinity(0))
            assert auto.metrics()["spillway_workers"] == min(max(cores - 1, 1), 64)


def connections_are_counted_once(args):
    """limits.connections is the process's."""
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], workers=WORKERS, limits={"connections": 20}).ready() as s:
        wait_until(lambda: s.metrics()["spillway_http_connections"] == 0, 5, "those that asked whether it is ready are closed")
        held = []
        try:
            refused = 0
            for _ in range(40):
                c = socket.create_connection(("127.0.0.1", s.port), 30)
                try:
                    c.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    refused += b" 200 " not in c.recv(4096)
                except OSError:  # closed with what it was told unread
                    refused += 1
                held.append(c)
            assert 40 - refused == 20, refused
        finally:
            for c in held:
                c.close()
        wait_until(lambda: request(s.port, "GET", "/healthz").status == 200, 5, "there is room again")


def files_are_enough(args):
    """Descriptors for all connections that it takes, whatever its shell's soft limit is; where the hard one stands in
    the way, a word at the start."""
    up, program = Upstream(), os.path.abspath(os.path.join(args.build, "spillway"))
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "spillway")
        for flag, told in (("-Sn", False), ("-n", True)):
            with open(script, "w") as f:
                f.write(f'#!/bin/sh\nulimit {flag} 300 && exec "{program}" "$@"\n')
            os.chmod(script, 0o755)
            with Scheduler(folder, [node("a", up)], limits={"connections": 500}).ready() as s:
                assert s.metrics()["process_max_fds"] == (300 if told else 2024), s.metrics()["process_max_fds"]
                assert ("limits.connections is 500, which may take 2024" in s.log_text()) == told, s.log_text()


def as_with_one(case):
    """A case of another suite, over several workers."""
    @functools.wraps(case)
    def run(args):
        before = os.environ.get("SPILLWAY_TEST_WORKERS")
        os.environ["SPILLWAY_TEST_WORKERS"] = str(WORKERS)
        try:
            case(args)
        finally:
            if before is None:
                del os.environ["SPILLWAY_TEST_WORKERS"]
            else:
                os.environ["SPILLWAY_TEST_WORKERS"] = before
    return run


def other_suites(args):
    """--full: everything that is tested with one worker, with three."""
    if not args.full:
        raise Skip("in --full only")
    folder = os.path.dirname(os.path.abspath(__file__))
    for suite in ("gateway", "auth", "continuation", "two_engines", "attacks", "slow", "waiting",
                  "nodes", "cache", "reload", "idempotency", "spans"):
        subprocess.run([sys.executable, os.path.join(folder, f"test_{suite}.py"), "--build", args.build, "--shared",
                        args.shared], env={**os.environ, "SPILLWAY_TEST_WORKERS": str(WORKERS)}, check=True)


ESSENTIAL = [test_gateway.retries, test_gateway.dead_node, test_gateway.failures_in_the_middle,
             test_gateway.client_leaves, test_gateway.ledger_is_locked, test_gateway.many_at_once]

if __name__ == "__main__":
    main(__doc__, [spread, limits_are_shared, rooms_are_shared, order_over_workers, waits_end_in_time, drain_takes_all,
                   drain_cuts_all, slots_cross_workers, forced_end, unix_socket, port_is_taken,
                   connections_are_counted_once, files_are_enough, *map(as_with_one, ESSENTIAL), other_suites])
