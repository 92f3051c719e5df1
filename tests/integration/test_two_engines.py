"""The scheduler with two real engines that it starts itself (provider process): every answer is in the ledger with the
tokens that the client was told and a charge that is tokens times price, exactly; an engine that is killed costs no
request that had no byte yet, and comes back."""

import json
import os
import signal
import subprocess
import tempfile
import threading

from harness import Connection, Scheduler, Skip, main, request, wait_until

CLIENTS, BATCH = 16, 8
PRICES = {"cheap": ("0.2", "0.05", "0.6"), "dear": ("0.4", "0.1", "1.2")}  # dollars per million: input, cached, output
SHAPE = {"arch": "qwen2", "name": "two-engines", "n_layer": 2, "n_embd": 256, "n_head": 4, "n_kv_head": 2, "n_ff": 768,
         "n_vocab": 512, "n_ctx": 2048, "rope_base": 10000, "eps": 1e-6, "weights_scale": 1}


def model_file(args, folder):
    shipped = os.path.join(os.path.dirname(__file__), "..", "..", "models", "spillway-tiny.gguf")
    if os.path.exists(shipped):
        return os.path.abspath(shipped)
    shape, out = os.path.join(folder, "shape.json"), os.path.join(folder, "model.gguf")
    with open(shape, "w") as f:
        json.dump(SHAPE, f)
    done = subprocess.run([os.path.join(args.build, "spillway-engine"), "synth", "--shape", shape, "--type", "F32",
                           "--out", out], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"models/spillway-tiny.gguf is not there and synth failed: {done.stderr[-200:]}")
    return out


def start(args, folder, slots=BATCH):
    engine = os.path.join(args.build, "spillway-engine")
    if not os.path.exists(engine):
        raise Skip(f"{engine} is not built")
    model = model_file(args, folder)
    nodes = [{"name": name, "provider": "process", "engine": engine, "model_path": model, "models": ["tiny"], "slots": slots,
              "threads": 1, "max_batch": BATCH,
              "price": {"input": p[0], "cached_input": p[1], "output": p[2]}} for name, p in PRICES.items()]
    s = Scheduler(args.build, nodes, queue={"interactive": {"wait": "60s"}}, health={"interval": "5s", "timeout": "5s"})
    wait_until(lambda: s.ready_nodes() == set(PRICES), 60, "both engines are ready")
    return s


class Outcome:
    def __init__(self, answer, started):
        self.answer = answer
        self.started = started  # a byte of the answer's body had come
        self.whole = answer is not None and answer.status == 200 and (
            answer.events[-1][1] == "[DONE]" if answer.events else answer.complete)


def ask(port, k):
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"Tell me about budgets, number {k}, please."}],
            "max_tokens": 24 + k % 17, "temperature": 0.7, "seed": k, "ignore_eos": True, "stream": k % 3 != 0}
    if k % 3 == 1:
        body["stream_options"] = {"include_usage": True}
    c = None
    try:
        c = Connection(port, "POST", "/v1/chat/completions", body, timeout=120)
        return Outcome(c.all(), False)
    except (OSError, AssertionError):
        return Outcome(None, c is not None and bool(c.answer.events))


def how_many(args):
    return 60 if args.sanitized else 200  # sanitizers look for mistakes, not for figures


def run_clients(s, n, during=None):
    outcomes, lock, numbers = [], threading.Lock(), iter(range(n))

    def client():
        while True:
            with lock:
                k = next(numbers, None)
            if k is None:
                return
            o = ask(s.port, k)
            with lock:
                outcomes.append(o)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    if during:
        wait_until(lambda: len(outcomes) >= n // 4, 120, "a quarter is answered")
        during()
    for t in threads:
        t.join()
    return outcomes


def micro(text):
    whole, _, rest = text.partition(".")
    return int(whole) * 10**6 + int(rest.ljust(6, "0"))


def check_rows(rows):
    for r in rows:
        p_in, p_cached, p_out = (micro(x) for x in PRICES[r["node"]])
        expected = ((r["tokens_input"] - r["tokens_cached_input"]) * p_in + r["tokens_cached_input"] * p_cached +
                    r["tokens_output"] * p_out)
        assert r["charge_pusd"] == expected, r


def two_hundred(args):
    n = how_many(args)
    with tempfile.TemporaryDirectory() as folder, start(args, folder) as s:
        outcomes = run_clients(s, n)
        assert len(outcomes) == n and all(o.whole for o in outcomes), [
            (o.answer and o.answer.status, o.answer and o.answer.body[:200]) for o in outcomes if not o.whole][:3]
        rows = {r["request_id"]: r for r in s.rows()}
        assert len(rows) == n
        check_rows(rows.values())
        told = 0
        for o in outcomes:
            row, usage = rows[o.answer.headers["x-request-id"]], o.answer.usage()
            assert row["outcome"] == 0 and row["usage_source"] == "provider" and row["tokens_output"] > 0, row
            assert row["node"] == o.answer.headers["x-spillway-node"]
            assert row["market"] == "on-prem" and row["busy_us"] > 0, row  # its part of the engine's steps...
            assert "spillway_use" not in json.dumps([e[1] for e in o.answer.events] or o.answer.json())  # ... told to us
            if usage:
                told += 1
                assert (usage["prompt_tokens"], usage["completion_tokens"]) == (row["tokens_input"], row["tokens_output"])
        assert told > n // 2
        assert {r["node"] for r in rows.values()} == set(PRICES), "both engines have worked"
        for path, body in (("/v1/completions", {"prompt": "One, two", "n": 2, "max_tokens": 8}),
                           ("/v1/completions", {"prompt": "One, two", "n": 2, "max_tokens": 8, "stream": True}),
                           ("/v1/embeddings", {"input": ["a node", "a budget"]})):
            a = request(s.port, "POST", path, {"model": "tiny", **body}, timeout=60)
            assert a.status == 200 and "x-spillway-use" not in a.headers and b"spillway_use" not in a.body, a.headers
            assert s.row(a.headers["x-request-id"])["busy_us"] > 0, path  # also where nothing could go on by its ids


def one_is_killed(args):
    n = how_many(args)
    with tempfile.TemporaryDirectory() as folder, start(args, folder, slots=CLIENTS) as s:
        def kill():
            """Its worker stands still until more is asked of it than it computes at a time: that has no byte yet."""
            pid = next(x["pid"] for x in s.log_lines() if x.get("message") == "engine started" and x["node"] == "cheap")
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                os.kill(int(f.read()), signal.SIGSTOP)
            wait_until(lambda: s.metrics()['spillway_node_in_flight{node="cheap"}'] > BATCH, 10, "more than it computes")
            os.kill(pid, signal.SIGKILL)

        outcomes = run_clients(s, n, kill)
        lost = [o for o in outcomes if not o.whole]
        for o in lost:  # only what was in the middle of its answer
            assert o.answer is not None and o.answer.status == 200 and o.answer.events, (
                o.answer and (o.answer.status, o.answer.body[:300]))
            assert json.loads(o.answer.events[-1][1])["error"]["code"] == "upstream_error"
        assert len(lost) <= BATCH, len(lost)
        rows = s.rows()
        assert len(rows) == n and sum(r["outcome"] == 0 for r in rows) == n - len(lost)
        check_rows(r for r in rows if r["node"])

        def retried():
            failed = [line for line in s.log_lines() if line.get("message") == "a leg has failed"]
            return sum(not line["after_first_byte"] for line in failed)

        wait_until(retried, 5, "a line of what the kill has hit")
        wait_until(lambda: [line["node"] for line in s.log_lines() if line.get("message") == "engine started"].count(
            "cheap") == 2, 10, "the killed engine is started again")
        wait_until(lambda: ask(s.port, 1).answer.headers["x-spillway-node"] == "cheap", 60, "it answers again")
        print(f"        of {n} requests {len(lost)} were in the middle of their answer, {retried()} were tried elsewhere")


def no_engine_outlives_the_scheduler(args):
    with tempfile.TemporaryDirectory() as folder:
        s = start(args, folder)
        try:
            pids = [line["pid"] for line in s.log_lines() if line.get("message") == "engine started"]
            s.process.kill()
            s.process.wait()

            def all_dead():
                for pid in pids:
                    try:
                        with open(f"/proc/{pid}/stat") as f:
                            if f.read().rsplit(")", 1)[1].split()[0] != "Z":
                                return False
                    except FileNotFoundError:
                        pass
                return True

            wait_until(all_dead, 5, "the engines are gone")
        finally:
            s.close()


if __name__ == "__main__":
    main(__doc__, [two_hundred, one_is_killed, no_engine_outlives_the_scheduler])
