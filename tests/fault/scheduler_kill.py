"""The scheduler is killed (SIGKILL) under load and started anew, again and again: each request that was answered is in
the ledger, once, with the tokens and the charge that its client was told, whether or not its row went into the journal
first; it is ready again within a second; the engine it had started dies with it; its audit verifies, and has each answered request and each row once; its admin socket is taken over by the next.

    tests/fault/scheduler_kill.py --build build          6 times
    tests/fault/scheduler_kill.py --build build --full   300 times"""

import os
import random
import time

from books import Load, audit_compare, check_ready, compare, read_books, summary
from harness import Scheduler, Script, Upstream, main, node, request, wait_until

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def engine_node(args):
    """An engine that the scheduler starts, where one is built."""
    program, model = os.path.join(args.build, "spillway-engine"), os.path.join(ROOT, "models", "spillway-tiny.gguf")
    if not os.path.exists(program) or not os.path.exists(model):
        return None
    return {"name": "own", "provider": "process", "models": ["tiny"], "engine": program,
            "model_path": os.path.abspath(model), "threads": 1,
            "price": {"input": "0.2", "cached_input": "0.1", "output": "0.7"}}


def admin(s, path):
    a = request(os.path.join(s.folder, "state", "admin.sock"), "GET", f"/admin/v1{path}")
    assert a.status == 200, (a.status, a.body)
    return a.json()


def is_alive(pid):
    """Not even as a zombie that somebody has yet to reap."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def engine_pids(s):
    return [n["pid"] for n in admin(s, "/nodes")["nodes"] if n.get("pid")]


def start(s):
    """Anew; seconds from the start of the process until it takes requests."""
    begin = time.monotonic()
    s.restart()
    s.takes_requests()
    took = time.monotonic() - begin
    s.ready()
    assert admin(s, "/status")["ready"], "the admin socket is the new one's"
    return took


def killed_under_load(args):
    rng = random.Random(6)
    kills = 300 if args.full else 6
    up = Upstream(default=Script(word_delay=0.001))
    own = engine_node(args)
    told, took, broken, engines = [], [], 0, 0
    nodes = [node("a", up)] + ([own] if own else [])
    with Scheduler(args.build, nodes, workers=2) as s:
        s.ready()
        for k in range(kills):
            # What the next start finds is what this one leaves: with all rows in the journal first, or as they come.
            s.configure(nodes, workers=2, ledger={"journal": "always" if k % 2 == 0 else "auto"})
            load = Load(s.port, models=("m", "m", "m", "tiny") if own else ("m",))
            time.sleep(rng.uniform(0.15, 0.7))
            wait_until(lambda: len(load.told) > 10, 20, "requests are answered")
            pids = engine_pids(s)
            s.kill()
            told += load.stop()
            broken += load.broken
            for pid in pids:
                wait_until(lambda: not is_alive(pid), 3, "the engine dies with its scheduler")
            engines += len(pids)
            took.append(start(s))
            if k % 5 == 0 or k == kills - 1:
                compare(read_books(s.ledger_path), told)
        print(f"        {kills} kills, {len(told)} requests answered, {broken} broken off, {engines} engines died "
              f"along; {summary('ready again', took)}", flush=True)
        check_ready(args, took)
        assert len(told) > 10 * kills and broken > 0
        assert s.terminate() == 0
        compare(read_books(s.ledger_path), told)
        recovered, voided = audit_compare(s, told)
        print(f"        {recovered} records recovered from the ledger, {voided} void", flush=True)
    up.stop()


if __name__ == "__main__":
    main(__doc__, [killed_under_load])
