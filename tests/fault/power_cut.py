# runtest: first
"""Power cuts under load, simulated. The real scheduler runs with powercut_vfs.c as SQLite's file system, which writes
down what is written and what is flushed. From that trace a disk is made as a cut at any place may leave it: what was
flushed stands; of the rest, sectors of 512 bytes are lost, torn and written in any order. The scheduler is started on each
of these disks: each request that was answered before the cut is in the ledger once, as it was told, whether its row went into the
ledger's file or into the journal before it (each second run); no row or leg is there by
half; keys that were shown work and revoked ones do not; and the books go on. Cuts follow cuts: each disk comes from a
run that began on one. The audit's segments are cut with the databases: each request that was told has its record, each row
exactly one, and the chain verifies.

    tests/fault/power_cut.py --build build          20 cuts
    tests/fault/power_cut.py --build build --full   200 cuts"""

import os
import random
import shutil
import sqlite3
import struct
import tempfile
import threading
import time

from books import Load, audit_compare, check_ready, compare, read_books, summary
from harness import Scheduler, Script, Skip, Upstream, chat, key_hash, main, node, request, wait_until

SECTOR = 512
RECORD = struct.Struct("<IBBHqq")
CLIENT = "sk-client"

# ---- the disk --------------------------------------------------------------------------------------------------------


def records(trace):
    """(time, operation, name, offset, data) in order; a last record that is not whole is none."""
    with open(trace, "rb") as f:
        data = f.read()
    at = 0
    while at + RECORD.size <= len(data):
        n, operation, name_bytes, _, ns, offset = RECORD.unpack_from(data, at)
        start, end = at + RECORD.size, at + 4 + n
        if end > len(data):
            return
        yield ns, chr(operation), data[start : start + name_bytes].decode(), offset, data[start + name_bytes : end]
        at = end


def apply(content, operation, offset, data):
    if operation == "T":
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


class File:
    def __init__(self, content=None):
        self.flushed = bytearray(content or b"")
        self.present = self.exists = content is not None  # for programs; on the disk, for good
        self.removed = None  # a file that had this name: its removal, too, must be flushed
        self.opened = False  # its next flush takes the folder along, as SQLite does with logs and journals
        self.pending = []  # (operation, offset, data) since the last flush

    def flush(self):
        for p in self.pending:
            apply(self.flushed, *p)
        self.pending = []
        self.exists = True


# How a disk deals with what was not flushed: each returns which of n writes are done, whole, in part or not at all, as
# (index, kind) in the order in which they happen.
def lost(rng, n):
    return []


def kept(rng, n):
    return [(i, "whole") for i in range(n)]


def torn(rng, n):
    """In order up to some write, which is torn."""
    last = rng.randrange(n)
    return [(i, "whole") for i in range(last)] + [(last, "sectors")]


def some(rng, n):
    """Whole writes, some of them; which of two to one place is the later is as it was."""
    return [(i, "whole") for i in range(n) if rng.random() < 0.5]


def newest(rng, n):
    """The last ones are there, the first ones are not."""
    return [(i, "whole") for i in range(rng.randrange(n), n)]


def scattered(rng, n):
    """Any sectors of any of them."""
    return [(i, "sectors") for i in range(n)]


FATES = [lost, kept, torn, some, newest, scattered]


def sectors(rng, offset, data):
    """Parts of a write, cut where sectors of the disk meet; each by chance."""
    at = 0
    while at < len(data):
        n = min(len(data) - at, SECTOR - (offset + at) % SECTOR)
        if rng.random() < 0.5:
            yield offset + at, data[at : at + n]
        at += n


def survivor(file, fate, rng):
    """What is left of a file, or None."""
    if not file.present or (not file.exists and rng.random() < 0.5):
        return rng.choice([file.removed, None])
    content = bytearray(file.flushed)
    for i, kind in fate(rng, len(file.pending)) if file.pending else ():
        operation, offset, data = file.pending[i]
        if kind == "whole" or operation == "T":
            apply(content, operation, offset, data)
        else:
            for at, part in sectors(rng, offset, data):
                apply(content, "W", at, part)
    return content


class Disk:
    """The state folder's databases, from their files as they were before the trace began."""

    def __init__(self, folder):
        self.files = {}
        for name in os.listdir(folder):
            if (".db" in name and not name.endswith("-shm")) or name.endswith(".audit"):
                with open(os.path.join(folder, name), "rb") as f:
                    self.files[name] = File(f.read())

    def step(self, operation, name, offset, data):
        file = self.files.setdefault(name, File())
        if operation == "O":
            file.present, file.opened = True, "-" in name and ".db" in name
        elif operation in "WT":
            file.pending.append((operation, offset, data))
        elif operation == "S":
            file.flush()
            if file.opened:
                self._flush_folder()
            file.opened = False
        elif operation == "D":
            left = self.files[name] = File()
            left.removed = bytes(file.flushed) if file.exists else file.removed
            if offset:
                self._flush_folder()

    def _flush_folder(self):
        """All names are as they are now. That a name is on the disk says nothing of what is in the file."""
        self.files = {name: file for name, file in self.files.items() if file.present}
        for file in self.files.values():
            file.exists, file.removed = True, None

    def cut(self, rng, folder):
        """Write what a cut here may leave into `folder`. One fate for all, or each file its own."""
        fate = rng.choice(FATES)
        for name, file in self.files.items():
            if file.pending or not file.exists:
                mine = fate if rng.random() < 0.7 else rng.choice(FATES)
                content = survivor(file, mine, rng)
            else:
                content = file.flushed
            if content is not None:
                with open(os.path.join(folder, name), "wb") as f:
                    f.write(content)
                os.chmod(f.name, 0o600)
        return fate.__name__


# ---- what was told ---------------------------------------------------------------------------------------------------


class Keys:
    """Keys made, replaced and revoked while the load runs."""

    def __init__(self, s, prefix):
        self.socket = os.path.join(s.folder, "state", "admin.sock")
        self.shown, self.ended = [], []  # (time, id, text)
        self.stopped, self.prefix = False, prefix
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _post(self, path, body, status):
        a = request(self.socket, "POST", f"/admin/v1/keys{path}", body, timeout=10)
        assert a.status == status, (a.status, a.body)
        return a.json()

    def _run(self):
        rng, k = random.Random(self.prefix), 0
        while not self.stopped:
            name, k = f"{self.prefix}-{k}", k + 1
            try:
                text = self._post("", {"tenant": "acme", "id": name}, 201)["key"]
                at = time.monotonic_ns()
                if rng.random() < 0.4:
                    self._post(f"/{name}/revoke", {}, 200)
                    self.ended.append((time.monotonic_ns(), name, text))
                else:
                    self.shown.append((at, name, text))
                    if rng.random() < 0.3:
                        self.shown.pop()  # from now until the answer, either may hold
                        second = self._post(f"/{name}/rotate", {}, 200)["key"]
                        self.shown.append((time.monotonic_ns(), name, second))
                        self.ended.append((time.monotonic_ns(), name, text))
            except (OSError, AssertionError, ValueError):
                time.sleep(0.005)
            time.sleep(0.002)

    def stop(self):
        self.stopped = True
        self.thread.join()


class Promises:
    """What was told before some moment."""

    def __init__(self, told=(), shown=(), ended=()):
        self.told, self.shown, self.ended = list(told), list(shown), list(ended)

    def and_before(self, ns, load, keys):
        return Promises(self.told + [t for t in load.told if t.at < ns],
                        self.shown + [k for k in keys.shown if k[0] < ns],
                        self.ended + [k for k in keys.ended if k[0] < ns])


def look(s, text):
    return request(s.port, "GET", "/v1/models", headers={"Authorization": f"Bearer {text}"}).status


# ---- one run, and what its cuts leave --------------------------------------------------------------------------------


def scheduler(args, up, env=None, journal="auto"):
    key = {"id": "client", "sha256": key_hash(CLIENT), "tenant": "acme"}
    return Scheduler(args.build, [node("a", up)], keys=[key], env=env, workers=2, ledger={"journal": journal})


def state_of(s):
    return os.path.join(s.folder, "state")


def place_of(state, name):
    """Where a file of the flat folder belongs."""
    return os.path.join(state, "audit", name) if name.endswith((".audit", ".pem")) else os.path.join(state, name)


def put_state(s, folder):
    """The scheduler has ended: its databases and its audit are those of `folder`."""
    state = state_of(s)
    os.makedirs(os.path.join(state, "audit"), exist_ok=True)
    for where in (state, os.path.join(state, "audit")):
        for name in os.listdir(where):
            if ".db" in name or name.endswith(".audit"):
                os.unlink(os.path.join(where, name))
    for name in os.listdir(folder):
        shutil.copy(os.path.join(folder, name), place_of(state, name))


def spoil_index(s, rng):
    """The logs' shared memory is no file that anybody flushes: anything may be in it."""
    for name in ("ledger.db-shm", "keys.db-shm"):
        if rng.random() < 0.3:
            with open(os.path.join(state_of(s), name), "wb") as f:
                f.write(rng.randbytes(32768))


def check_cut(s, promises, rng, took):
    """s has ended, and its state is what a cut has left."""
    spoil_index(s, rng)
    begin = time.monotonic()
    s.restart()
    s.takes_requests()
    took.append(time.monotonic() - begin)
    for _, name, text in rng.sample(promises.shown, min(20, len(promises.shown))) + promises.shown[-3:]:
        assert look(s, text) == 200, f"key {name} was shown and is not known"
    for _, name, text in rng.sample(promises.ended, min(20, len(promises.ended))) + promises.ended[-3:]:
        assert look(s, text) == 401, f"key {name} was ended and works"
    a = chat(s.port, key=CLIENT)
    assert a.status == 200, (a.status, a.body)
    s.kill()
    books = read_books(s.ledger_path)
    compare(books, promises.told)
    assert len(books[0][a.headers["x-request-id"]]) == 1, "the books go on"
    check_keys(os.path.join(state_of(s), "keys.db"), promises)
    audit_compare(s, promises.told)


def check_keys(path, promises):
    db = sqlite3.connect(path)
    assert [r[0] for r in db.execute("pragma integrity_check")] == ["ok"]
    revoked = dict(db.execute("select id, revoked_s from keys"))
    db.close()
    for _, name, _ in promises.shown + promises.ended:
        assert name in revoked, f"key {name} was shown and is gone"


class Generation:
    """A run under load on a state folder, with its trace."""

    def __init__(self, args, up, base, number, scratch, rng):
        self.folder = os.path.join(scratch, f"base-{number}")  # the disk before this run
        self.trace = os.path.join(scratch, f"trace-{number}")
        env = {"LD_PRELOAD": os.path.join(args.build, "tests", "powercut_vfs.so"),
               "SPILLWAY_POWERCUT_TRACE": self.trace,
               "SPILLWAY_POWERCUT_SYNC_US": str(rng.choice([0, 300, 3000]))}
        os.mkdir(self.folder)
        self.how = "drained" if number % 3 == 1 else "killed"
        self.journal = "auto" if number % 2 == 0 else "always"
        with scheduler(args, up, env, self.journal) as s:
            if base:
                self._begin_on(s, base)
            s.ready()
            self.load = Load(s.port, key=CLIENT)
            self.keys = Keys(s, f"g{number}")
            time.sleep(0.6)
            wait_until(lambda: len(self.load.told) > 20, 20, "requests are answered")
            if self.how == "drained":  # the logs are folded into their databases, and removed
                self.keys.stop()
                self.load.stop()
                assert s.terminate() == 0
            else:
                s.kill()
                self.keys.stop()
                self.load.stop()
            self.secrets = os.path.join(scratch, f"secrets-{number}")
            os.mkdir(self.secrets)
            for name in ("keys.secret", "key.pem"):
                shutil.copy(place_of(state_of(s), name), self.secrets)

    def _begin_on(self, s, base):
        """The harness has started it on an empty folder: once more, on what a cut has left."""
        s.kill()
        os.unlink(self.trace)
        put_state(s, base)
        for name in os.listdir(base):
            if ".db" in name or name.endswith(".audit"):
                shutil.copy(os.path.join(base, name), self.folder)
        s.restart()

    def cuts(self, rng, n, scratch):
        """n disks, as (folder, moment of the cut, fate): cuts fall anywhere, one of them in the start."""
        all_records = list(records(self.trace))
        most = len(all_records)
        places = sorted([rng.randrange(min(40, most))] + [rng.randrange(most) for _ in range(n - 1)])
        disk, at = Disk(self.folder), 0
        for k, place in enumerate(places):
            for _, *record in all_records[at : place + 1]:
                disk.step(*record)
            at = place + 1
            folder = tempfile.mkdtemp(dir=scratch)
            fate = disk.cut(rng, folder)
            for name in os.listdir(self.secrets):
                shutil.copy(os.path.join(self.secrets, name), folder)
            # Until the next record was made nothing else had happened: all that was told by then must stand.
            yield folder, all_records[at][0] if at < len(all_records) else time.monotonic_ns(), fate


def power_cuts(args):
    if not os.path.exists(os.path.join(args.build, "tests", "powercut_vfs.so")):
        raise Skip("tests/powercut_vfs.so is not built")
    rng = random.Random(100)
    generations, per = (20, 10) if args.full else (4, 5)
    up = Upstream(default=Script(words=["a", "b"]))
    base, promises, took, fates, told, lines = None, Promises(), [], {}, 0, 0
    with tempfile.TemporaryDirectory() as scratch, scheduler(args, up) as s:
        s.kill()
        for number in range(generations):
            run = Generation(args, up, base, number, scratch, rng)
            told += len(run.load.told)
            lines += sum(1 for _ in records(run.trace))
            for folder, moment, fate in run.cuts(rng, per, scratch):
                put_state(s, folder)
                then = promises.and_before(moment, run.load, run.keys)
                try:
                    check_cut(s, then, rng, took)
                except AssertionError as e:
                    raise AssertionError(f"run {number} ({run.how}, journal {run.journal}), a cut with fate '{fate}': {e}") from e
                fates[fate] = fates.get(fate, 0) + 1
                base, last = folder, then
            promises = last
        print(f"        {len(took)} cuts in {generations} runs {fates}: {told} requests answered, {lines} writes and "
              f"flushes; {summary('ready again', took)}", flush=True)
        check_ready(args, took)
        assert told > 20 * generations and len(took) == generations * per
    up.stop()


if __name__ == "__main__":
    main(__doc__, [power_cuts])
