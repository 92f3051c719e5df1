# runtest: first
"""Streams over four real engines of which one is killed (SIGKILL) again and again and started anew: none fails, and what
each client got is what it gets undisturbed, token for token, with one id and exact usage. Greedy and seeded, some with
log probabilities (equal ones mean equal ids and equal logits), and whole answers among them.

    tests/fault/continuation.py --build build          60 streams
    tests/fault/continuation.py --build build --full   1,000 streams, 32 at a time, one kill a second"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from harness import Connection, Scheduler, Skip, free_port, main, node, wait_until  # noqa: E402

ENGINES = 4
CLIENTS = 32
STORMS = 6  # at most, until one meets an answer under way: whether it does is chance
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class Engines:
    def __init__(self, args, folder):
        self.program = os.path.join(args.build, "spillway-engine")
        self.model = os.path.join(ROOT, "models", "spillway-tiny.gguf")
        if not os.path.exists(self.program) or not os.path.exists(self.model):
            raise Skip("spillway-engine or models/spillway-tiny.gguf is not there")
        self.key_file = os.path.join(folder, "node-key")
        with open(self.key_file, "w") as f:
            f.write("a key between scheduler and engines\n")
        self.log = open(os.path.join(folder, "engines.log"), "ab")
        self.ports = [free_port() for _ in range(ENGINES)]
        self.processes = [self.start(p) for p in self.ports]
        self.kills = 0

    def start(self, port):
        return subprocess.Popen([self.program, "serve", "--model", self.model, "--host", "127.0.0.1", "--port", str(port),
                                 "--alias", "tiny", "--threads", "1", "--max-batch", "16",
                                 "--node-key-file", self.key_file, "--drain-seconds", "0"], stdout=self.log, stderr=self.log,
                                start_new_session=True)

    def kill(self, i):
        self.processes[i].kill()
        self.processes[i].wait()
        self.processes[i] = self.start(self.ports[i])
        self.kills += 1

    def nodes(self):
        return [{**node(f"e{i}", f"http://127.0.0.1:{p}", models=("tiny",)), "node_key_file": self.key_file, "slots": 16}
                for i, p in enumerate(self.ports)]

    def stop(self):
        for p in self.processes:
            p.kill()  # one that was stopped dies of it, too
            p.wait()
        self.log.close()


LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")  # of a completion's log probabilities


def tokens(k):
    return 200 + k % 65


def echoes(k):
    return k % 7 == 5


def body(k):
    """Request k. Every one is different; some are completions that begin with their prompt."""
    prompt = f"Tell me about nodes and budgets, number {k}, please."
    b = {"model": "tiny", "max_tokens": tokens(k), "ignore_eos": True, "stream": k % 9 != 8}
    b.update({"prompt": prompt, "echo": True} if echoes(k) else {"messages": [{"role": "user", "content": prompt}]})
    b.update({"temperature": 0} if k % 2 else {"temperature": 0.8, "top_p": 0.95, "seed": k})
    if b["stream"]:
        b["stream_options"] = {"include_usage": True}
    if k % 4 >= 2:
        b.update({"logprobs": 1} if echoes(k) else {"logprobs": True, "top_logprobs": 1})
    return b


class Got:
    """What one client was told."""

    def __init__(self, answer):
        self.answer = answer
        self.text, self.logprobs, self.finish, self.ids, self.created = "", [], [], set(), set()
        self.whole = answer.status == 200 and answer.complete
        for c in answer.chunks() if answer.events else [answer.json()]:
            self.whole = self.whole and "error" not in c
            self.ids.add(c.get("id"))
            self.created.add(c.get("created"))
            for choice in c.get("choices", []):
                said = choice.get("delta") or choice.get("message") or choice
                self.text += (said.get("reasoning_content") or "") + (said.get("content") or said.get("text") or "")
                lp = choice.get("logprobs") or {}
                self.logprobs += lp.get("content") or list(zip(*(lp.get(key, []) for key in LISTS)))
                self.finish += [choice["finish_reason"]] if choice["finish_reason"] else []
        self.whole = self.whole and (not answer.events or answer.events[-1][1] == "[DONE]")
        self.usage = answer.usage() if self.whole else None

    def same(self, other):
        return (self.text, self.logprobs, self.finish, self.usage and {**self.usage, "prompt_tokens_details": None}) == (
            other.text, other.logprobs, other.finish, other.usage and {**other.usage, "prompt_tokens_details": None})


def run(port, n):
    """Requests 0 to n-1, CLIENTS at a time."""
    got, numbers, lock = {}, iter(range(n)), threading.Lock()

    def client():
        while True:
            with lock:
                k = next(numbers, None)
            if k is None:
                return
            try:
                path = "/v1/completions" if echoes(k) else "/v1/chat/completions"
                answer = Got(Connection(port, "POST", path, body(k), timeout=300).all())
            except (OSError, AssertionError, ValueError, KeyError) as e:
                answer = e
            with lock:
                got[k] = answer

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return got


def kill(engines, i):
    engines.kill(i)


def hang(engines, i):
    """It stands still for longer than a token may take, and goes on as if nothing had been."""
    group = engines.processes[i].pid  # supervisor and worker
    os.killpg(group, signal.SIGSTOP)
    time.sleep(1.5)
    os.killpg(group, signal.SIGCONT)
    engines.kills += 1


def drain(engines, i):
    """SIGTERM: what runs is cut at the drain's end, which is soon; then a new one."""
    engines.processes[i].terminate()
    engines.processes[i].wait()
    engines.processes[i] = engines.start(engines.ports[i])
    engines.kills += 1


def disturb(engines, how, every, stop, is_back):
    """One engine after the other, the next once is_back(the one before)."""
    i = 0
    while not stop.wait(every):
        if i == 0 or is_back((i - 1) % ENGINES):
            how(engines, i % ENGINES)
            i += 1


def how_ended(got):
    """Of one that failed: the status and the last words, or why there were none."""
    if not isinstance(got, Got):
        return repr(got)
    return (got.answer.status, got.answer.events[-1] if got.answer.events else got.answer.body)


def check(s, calm, rough):
    assert len(rough) == len(calm)
    failed = [k for k, g in rough.items() if not isinstance(g, Got) or not g.whole]
    assert not failed, f"{len(failed)} failed: {[(k, how_ended(rough[k])) for k in failed[:3]]}"
    different = [k for k, g in rough.items() if not g.same(calm[k])]
    assert not different, f"{len(different)} differ, e.g. {different[0]}: {calm[different[0]].text!r} {rough[different[0]].text!r}"
    assert all(len(g.ids) == 1 and len(g.created) == 1 for g in rough.values()), "one id and one time each"
    rows = {r["request_id"]: r for r in s.rows()}
    for k, g in rough.items():
        row = rows[g.answer.headers["x-request-id"]]
        assert g.usage["completion_tokens"] == tokens(k) == row["tokens_output"], (k, g.usage, row)
        assert (row["outcome"], row["usage_source"], row["cross_class"]) == (0, "provider", 0), row
        assert row["tokens_input"] == calm[k].usage["prompt_tokens"]


def count(s, what):
    return s.metrics()[f'spillway_{what}_total{{model="tiny"}}']


def storm(s, engines, how, every, is_back, n):
    """The n requests, while engines are disturbed."""
    stop, kills, begin = threading.Event(), engines.kills, time.monotonic()
    killer = threading.Thread(target=disturb, daemon=True, args=(engines, how, every, stop, is_back))
    killer.start()
    got = run(s.port, n)
    stop.set()
    killer.join()
    print(f"        {n} answers in {time.monotonic() - begin:.1f} s: {engines.kills - kills} disturbances, "
          f"{count(s, 'continuations'):.0f} continuations, {count(s, 'retries'):.0f} retries, "
          f"{sum(isinstance(g, Got) and g.whole for g in got.values())} whole", flush=True)
    return got


def survive(args, how, n, every, token="10s"):
    if args.sanitized:  # engines that take seconds to start must be left the time to
        n, every, token = 24, 4.0, "5s"
    with tempfile.TemporaryDirectory() as folder:
        engines = Engines(args, folder)
        try:
            with Scheduler(args.build, engines.nodes(), routing={"token": token}, queue={"interactive": {"wait": "120s"}},
                           health={"interval": "200ms", "timeout": "200ms"}).ready(60) as s:
                def is_up(i):
                    return s.metrics()[f'spillway_node_up{{node="e{i}"}}'] == 1

                wait_until(lambda: all(map(is_up, range(ENGINES))), 60, "all engines are ready")
                begin = time.monotonic()
                calm = run(s.port, n)
                if not args.full:  # on a busy machine faults come slower, too: a token must have time to come between two
                    every = max(every, (time.monotonic() - begin) / 15)
                assert all(isinstance(g, Got) and g.whole for g in calm.values()), "undisturbed"
                # Where engines take long to start, tokens take long to come: an answer that dies four times without one
                # is poison. So the last one is back before the next goes.
                is_back = (lambda i: True) if args.full else is_up
                for _ in range(STORMS):
                    wait_until(lambda: all(map(is_up, range(ENGINES))), 60, "all engines are back")
                    check(s, calm, storm(s, engines, how, every, is_back, n))
                    if count(s, "continuations") > 0:
                        return
                assert False, "nothing was disturbed"
        finally:
            engines.stop()


def rough_weather(args, *how, **more):
    """Sanitized engines are slower than the faults come: there the answers would starve, or nothing would be disturbed."""
    if args.sanitized and not args.full:
        raise Skip("sanitized engines are too slow for it; --full")
    survive(args, *how, **more)


def engines_die(args):
    rough_weather(args, kill, *((1000 + 125, 1.0) if args.full else (60 + 7, 0.15)))


def engines_hang(args):
    rough_weather(args, hang, *((500, 0.2) if args.full else (60, 0.05)), token="500ms")


def engines_drain(args):
    rough_weather(args, drain, *((500, 0.5) if args.full else (60, 0.15)))


if __name__ == "__main__":
    main(__doc__, [engines_die, engines_hang, engines_drain])
