#!/usr/bin/env python3
# runtest: first
"""Mixed load on the engine for a while: prompts and answers of random lengths with and without beginnings in common, streams
and whole answers, several choices, echo, log probabilities, embeddings, clients that leave at any moment, a KV pool that is
too small for all of them, sleep in the middle of it. Proves that nothing is left of any of it: every client gets its answer
or its refusal, the same question has the same answer all along, after each round no sequence runs or waits and all KV pages
are free, and memory stays as it is (2 %).

With --full half an hour, else 3 minutes that take what processor the other tests leave; under sanitizers 3 minutes, else
seconds."""

import os
import random
import statistics
import sys
import threading
import time

from engine_server import FOLDER, Server
from harness import PATIENCE, Connection, main, request, wait_until

CLIENTS = 10
QUIET_S = 30    # after which nobody may run or wait any more
ANSWER_S = 120 * PATIENCE  # no answer for so long: a stuck sequence
GROWTH = 1.02
SETTLED = 1000  # requests, and half of the time, after which it has seen a bit of everything, and memory may be judged
NODE_KEY = "soak-key"
PROBE = {"prompt": "One, two, three. " * 12, "temperature": 0, "max_tokens": 24, "logprobs": 1}
WORDS = ["node", "budget", "spot", "watt", "queue", "token", "price", "drain", "model", "tenant"]


def seconds(args, part):
    """Of a case that is so much of the whole."""
    if args.sanitized:
        return (180 if args.full else 15) * part
    return (1800 if args.full else 180) * part


class Load:
    """Clients that ask at random until they are told to stop. What went wrong is in `bad`."""

    def __init__(self, port, seed, answer):
        self.port, self.answer = port, answer
        self.stop, self.bad, self.counts, self.lock = threading.Event(), [], {}, threading.Lock()
        self.threads = [threading.Thread(target=self.client, args=(random.Random(seed * 1000 + i),)) for i in range(CLIENTS)]
        for t in self.threads:
            t.start()

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join()
        assert not self.bad, self.bad[:3]
        return self.counts

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def client(self, r):
        while not self.stop.is_set():
            try:
                self.one(r)
            except Exception as e:  # the main thread looks at it
                self.bad.append(repr(e)[:500])
                return

    def body(self, r):
        words = r.choices(WORDS, k=r.choice([1, 8, 40, 80]))
        start = r.choice(["", PROBE["prompt"], "The same beginning of many, again and again. " * 4])
        b = {"prompt": start + " ".join(words), "max_tokens": r.choice([1, 5, 30, 80, 300]), "seed": r.randrange(99),
             "temperature": r.choice([0, 0.8, 2]), "ignore_eos": r.random() < 0.3}
        if r.random() < 0.2:
            b["n"] = r.randint(2, 3)
        if r.random() < 0.2:
            b["logprobs"] = r.randint(0, 3)
        if r.random() < 0.2:
            b["echo"] = True
        if r.random() < 0.2:
            b["stop"] = [r.choice(WORDS), "\n"]
        return b

    def one(self, r):
        what = r.choice(["whole", "stream", "stream", "leaver", "leaver", "chat", "probe", "embedding"])
        if what == "probe":
            a = request(self.port, "POST", "/v1/completions", PROBE, timeout=ANSWER_S)
            assert a.status == 200 and a.json()["choices"] == self.answer, (a.status, a.body[:300])
        elif what == "chat":
            body = {"messages": [{"role": "user", "content": " ".join(r.choices(WORDS, k=20))}], "max_tokens": r.randint(1, 40)}
            a = request(self.port, "POST", "/v1/chat/completions", body, timeout=ANSWER_S)
            assert a.status == 200, (a.status, a.body[:300])
        elif what == "embedding":
            a = request(self.port, "POST", "/v1/embeddings", {"input": [" ".join(r.choices(WORDS, k=30))] * 2}, timeout=ANSWER_S)
            assert a.status == 200, (a.status, a.body[:300])
        elif what == "leaver":
            self.leave(r)
        else:
            stream = what == "stream"
            a = request(self.port, "POST", "/v1/completions", {**self.body(r), "stream": stream}, timeout=ANSWER_S)
            assert a.status == 200 and a.complete, (a.status, a.body[:300])
            assert not stream or a.events[-1][1] == "[DONE]", a.events[-1]
        self.count(what)

    def leave(self, r):
        """Gone before the answer begins, or after some of it."""
        c = Connection(self.port, "POST", "/v1/completions", {**self.body(r), "stream": True}, timeout=ANSWER_S)
        chunks = r.choice([0, 0, 1, 3, 10])
        if chunks:
            c.head()
            for i, _ in enumerate(c.events()):
                if i + 1 == chunks:
                    break
        else:
            time.sleep(r.random() * 0.1)
        c.close()


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))


def nothing_is_left(s):
    """Nobody runs, nobody waits, and all pages are free."""
    wait_until(s.is_idle, QUIET_S, "all sequences have ended")
    free, all_pages = (s.metric("spillway_engine_kv_pages", state=state) for state in ("free", "all"))
    assert free == all_pages > 0, (free, all_pages)


def server(args):
    key = os.path.join(FOLDER, "soak-node-key")
    with open(key, "w") as f:
        f.write(NODE_KEY + "\n")
    return Server(args, "--max-batch", "6", "--kv-tokens", "1024", "--node-key-file", key)


def awake(args):
    """One worker all along: its memory stays as it is once it has seen a bit of everything."""
    with server(args) as s:
        answer = s.complete(**PROBE).json()["choices"]
        pid, end, sizes, counts, rounds = s.worker(), time.monotonic() + seconds(args, 2 / 3), [], {}, 0
        length = seconds(args, 2 / 3) / 12
        while time.monotonic() < end:
            load = Load(s.port, rounds, answer)
            time.sleep(length)
            for what, n in load.end().items():
                counts[what] = counts.get(what, 0) + n
            nothing_is_left(s)
            if sum(counts.values()) >= SETTLED and rounds >= 5:
                sizes.append(resident(pid))
            rounds += 1
        assert s.worker() == pid, "it is still the same worker"
        assert s.metric("spillway_engine_requests_failed_total") == 0
        print(f"        {rounds} rounds, {sum(counts.values())} requests {counts}; resident {sizes} kB")
        seen = [s.metric(name) for name in ("vllm:num_preemptions_total", "spillway_engine_requests_aborted_total")]
        assert min(seen[1 if args.sanitized and not args.full else 0:]) > 0, seen
        # Sanitizers keep what is freed for a while, and grow by it.
        assert args.sanitized or len(sizes) >= 4 or not args.full, "the machine was too slow to say anything of memory"
        if not args.sanitized and len(sizes) >= 4:
            early, late = statistics.median(sizes[:len(sizes) // 2]), statistics.median(sizes[len(sizes) // 2:])
            assert late <= early * GROWTH, sizes


def sleep(s):
    assert request(s.port, "POST", "/sleep", b"", {"x-spillway-node-key": NODE_KEY}).status == 202


def with_sleeps(args):
    """Told to sleep at random moments: what runs is answered, what comes wakes it, and the supervisor stays as it is."""
    with server(args) as s:
        answer = s.complete(**PROBE).json()["choices"]
        r, end, sizes, sleeps = random.Random(5), time.monotonic() + seconds(args, 1 / 3), [], 0
        while time.monotonic() < end:
            load = Load(s.port, 100 + sleeps, answer)
            for _ in range(3):
                time.sleep(0.2 + r.random())
                sleep(s)
            load.end()
            sleep(s)  # nobody is there that would keep it awake
            wait_until(lambda: request(s.port, "GET", "/health").json()["status"] == "asleep", 30, "it is asleep")
            sleeps += 1
            assert s.complete(**PROBE).json()["choices"] == answer
            nothing_is_left(s)
            sizes.append(resident(s.process.pid))
        assert s.metric("spillway_engine_worker_restarts_total") == 0 and s.metric("spillway_engine_sleeps_total") >= sleeps
        print(f"        {sleeps} times asleep; the supervisor {sizes[0]} .. {sizes[-1]} kB")
        half = len(sizes) // 2
        assert args.sanitized or max(sizes[half:]) <= max(sizes[:half]) * GROWTH, sizes


if __name__ == "__main__":
    if "--full" not in sys.argv:
        os.nice(5)
    main(__doc__, [awake, with_sleeps])
