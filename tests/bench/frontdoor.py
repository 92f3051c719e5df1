"""The front door beside HAProxy: throughput, CPU, latency, pauses, memory and start, with the bars of the project.

    cmake -S . -B build -G Ninja && ninja -C build spillway frontdoor_upstream frontdoor_load disk_flush
    python3 tests/bench/frontdoor.py --build build --haproxy /usr/sbin/haproxy --markdown

Load and upstream share one core, the proxy has the other to itself; the rows take turns in each part of every round, and
the medians over the rounds are shown with their ranges. Every request has a different body. Rows:

    upstream   the load straight on the upstream: what the harness itself costs
    HAProxy    one thread, keep-alive on both sides, no log
    full       Spillway with ledger, keys, limits, cache, metrics, log and spans on, the audit off
    full+audit the same with the audit and two budgets on; shown, not judged
    pure       Spillway with all of that off

Nothing here is a test: it prints, and the reader judges. Standard library only, loopback only."""

import argparse
import base64
import hashlib
import http.client
import http.server
import json
import os
import platform
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
FULLS = ["full", "full+audit"]
OURS = [*FULLS, "pure"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pinned(core, command):
    return ["taskset", "-c", str(core), *command]


def machine_s():
    """Seconds in which the cores worked, and in which the host gave them to somebody else."""
    with open("/proc/stat") as f:
        ticks = [int(t) for t in f.readline().split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / TICK, ticks[7] / TICK


# ---- what is measured ------------------------------------------------------------------------------------------------


class Proxy:
    """A program under load. `path` of a GET that answers 200 once it is ready."""

    def __init__(self, name, command, port, ready, folder, key=None):
        self.name, self.command, self.port, self.ready_path = name, command, port, ready
        self.folder, self.key, self.process, self.ready_ms = folder, key, None, None

    def start(self, core):
        begin = time.monotonic()
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(pinned(core, self.command), stdout=log, stderr=log, cwd=self.folder)
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > begin + 120:
                with open(os.path.join(self.folder, "log"), errors="replace") as log:
                    sys.exit(f"{self.name} did not start:\n{log.read()[-3000:]}")
            time.sleep(0.0005)
        self.ready_ms = (time.monotonic() - begin) * 1e3
        return self

    def answers(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            c.request("GET", self.ready_path)
            return c.getresponse().status == 200
        except OSError:
            return False
        finally:
            c.close()

    def cpu_s(self):
        """User and system time of all its threads, as getrusage would say."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


HAPROXY = """global
    nbthread 1
    maxconn 15000
    no strict-limits
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 2s
    timeout client 90s
    timeout server 90s
frontend applications
    bind 127.0.0.1:{port}
    default_backend nodes
backend nodes
    server node 127.0.0.1:{upstream}
"""


def haproxy(args, folder, upstream):
    port = free_port()
    with open(os.path.join(folder, "haproxy.cfg"), "w") as f:
        f.write(HAPROXY.format(port=port, upstream=upstream))
    return Proxy("HAProxy", [args.haproxy, "-db", "-q", "-f", "haproxy.cfg"], port, "/v1/models", folder)


SPILLWAY = """listen: 127.0.0.1:{port}
state_dir: state
nodes:
  - name: node
    url: http://127.0.0.1:{upstream}
    models: [m]
    price:
      input: 0.5
      output: 1.5
"""


LIMITS = """limits:
  key: wide
  team: wide
  model: wide
  classes:
    - name: wide
      requests_per_min: 2000000000
      tokens_per_min: 2000000000
      concurrent: 2000000000
"""


FULL = """ledger: on
metrics: on
workers: auto
cache:
  mode: lru
tracing:
  endpoint: http://127.0.0.1:{collector}
  sample: 0.01
"""
NO_AUDIT = """audit:
  mode: "off"
"""
AUDIT = """audit:
  mode: "on"
budgets:
  - {name: all, period: month, hard: "1000000"}
  - {name: teams, match: [team=*], period: day, hard: "1000000"}
"""
PURE = """ledger: off
metrics: off
auth: off
workers: auto
cache:
  mode: off
log:
  level: error
"""


def spillway(args, folder, upstream, name):
    """full: keys, rate limits that are counted and never met, cache, spans and --full-settings; full+audit: the audit and
    budgets besides; pure: all of it off."""
    port, key, program, full = free_port(), None, os.path.join(args.build, "spillway"), name in FULLS
    text = SPILLWAY.format(port=port, upstream=upstream)
    extra = args.full_settings if full else args.pure_settings
    if full:
        key = "spw_" + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        text += f"auth:\n  mode: keys\nkeys:\n  - id: bench\n    sha256: {hashlib.sha256(key.encode()).hexdigest()}\n"
        text += "    tenant: bench\nlog:\n  level: info\n" + ("" if args.no_limits else LIMITS)
        text += FULL.format(collector=collector()) + (AUDIT if name == "full+audit" else NO_AUDIT)
    else:
        text += PURE
    if extra:
        with open(extra) as f:
            text += f.read()
    with open(os.path.join(folder, "spillway.yaml"), "w") as f:
        f.write(text)
    command = [program, "serve", "--config", "spillway.yaml"]
    return Proxy(name, command, port, "/readyz", folder, key)


def litellm(args, folder, upstream):
    port, key = free_port(), "sk-" + os.urandom(24).hex()
    with open(os.path.join(folder, "litellm.yaml"), "w") as f:
        f.write("model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/m\n"
                f"      api_base: http://127.0.0.1:{upstream}/v1\n      api_key: none\n"
                f"general_settings:\n  master_key: {key}\n")
    # Its price list is looked for in the network at each start, unless it is told to take its own.
    command = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True", args.litellm, "--config", "litellm.yaml",
               "--host", "127.0.0.1", "--port", str(port)]
    return Proxy("LiteLLM", command, port, "/health/liveliness", folder, key)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans and forgets them, on the load's core."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def collector():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def load_command(build, row, mode, **options):
    """frontdoor_load on a row; options by the names of its flags."""
    command = [os.path.join(build, "bench", "frontdoor_load"), mode, "--port", str(row.port)]
    if row.key:
        command += ["--key", row.key]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return command


PARTS = ["starts", "closed", "open", "control", "paced", "prompts"]


class Bench:
    def __init__(self, args):
        self.args = args
        self.folder = tempfile.mkdtemp(prefix="frontdoor-", dir=args.folder)
        self.results = {}  # (row, measure) -> [values]
        self.errors = {}  # row -> requests without a whole answer
        self.sent = {}  # row -> requests that were answered
        self.sync_us = []
        upstream = free_port()
        program = os.path.join(args.build, "bench", "frontdoor_upstream")
        self.upstream = Proxy("upstream", [program, str(upstream)], upstream, "/health", self.sub("upstream"))
        self.rows = [self.upstream, haproxy(args, self.sub("haproxy"), upstream)]
        self.rows += [spillway(args, self.sub(name), upstream, name) for name in OURS if name in args.only]
        self.litellm = litellm(args, self.sub("litellm"), upstream) if args.litellm else None

    def sub(self, name):
        path = os.path.join(self.folder, name)
        os.mkdir(path)
        return path

    def close(self):
        for p in [*self.rows, self.litellm]:
            if p:
                p.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, row, measure, value):
        self.results.setdefault((row.name, measure), []).append(value)

    def load_command(self, row, mode, **options):
        return pinned(self.args.load_core, load_command(self.args.build, row, mode, **options))

    def count(self, row, answer):
        self.errors[row.name] = self.errors.get(row.name, 0) + answer["errors"]
        self.sent[row.name] = self.sent.get(row.name, 0) + answer["requests"] - answer["errors"]

    def load(self, row, mode, **options):
        """The load's figures, and `cpu_us`: what the proxy used for each request."""
        before, begin = row.cpu_s(), time.monotonic()
        out = subprocess.run(self.load_command(row, mode, **options), check=True, capture_output=True, text=True)
        answer = json.loads(out.stdout)
        answer["cpu_s"] = row.cpu_s() - before
        answer["cpu_us"] = answer["cpu_s"] * 1e6 / max(1, answer["requests"])
        answer["busy"] = answer["cpu_s"] / (time.monotonic() - begin)
        self.count(row, answer)
        return answer

    def determined(self):
        return {} if self.args.undetermined else {"determined": True}

    # ---- the parts

    def probe_sync(self):
        """fdatasync of 4 KiB appended, where the ledgers are."""
        path = os.path.join(self.folder, "probe")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for _ in range(100):
            os.write(fd, b"x" * 4096)
            begin = time.monotonic()
            os.fdatasync(fd)
            self.sync_us.append((time.monotonic() - begin) * 1e6)
        os.close(fd)
        os.unlink(path)

    def start_and_idle(self, row):
        """Fresh processes: start to ready, memory idle and with idle connections. The last one goes on."""
        for _ in range(self.args.starts):
            row.stop()
            row.start(self.args.proxy_core)
            self.add(row, "ready", row.ready_ms)
        time.sleep(0.5)
        self.add(row, "rss", row.rss_mib())
        command = self.load_command(row, "idle", connections=self.args.idle)
        p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if p.stdout.readline() != "ready\n":
            sys.exit(f"{row.name}: the idle connections did not open")
        time.sleep(0.5)
        self.add(row, "rss_idle", row.rss_mib())
        p.stdin.close()
        self.count(row, json.loads(p.stdout.read()))
        p.wait()

    def throughput(self, row):
        a = self.load(row, "closed", connections=64, seconds=self.args.seconds, **self.determined())
        self.add(row, "rate", a["rate"])
        self.add(row, "cpu", a["cpu_us"])
        self.add(row, "busy", a["busy"] * 100)
        self.add(row, "p50", a["end_us"]["p50"])
        self.add(row, "p99", a["end_us"]["p99"])

    def open_streams(self, row, beside=""):
        stolen, begin = machine_s()[1], time.monotonic()
        a = self.load(row, "open", rate=5000, stream=True, connections=4000, seconds=self.args.seconds,
                      **self.determined())
        for measure, which, q in [("first50", "first_us", "p50"), ("first99", "first_us", "p99"),
                                  ("end50", "end_us", "p50"), ("end99", "end_us", "p99")]:
            self.add(row, measure + beside, a[which][q])
        self.add(row, "cpu_stream" + beside, a["cpu_us"])
        self.add(row, "stolen" + beside, (machine_s()[1] - stolen) * 1e3 / (time.monotonic() - begin))

    def commits(self, row):
        """How often the ledger has flushed so far, by its own count."""
        c = http.client.HTTPConnection("localhost")
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(os.path.join(row.folder, "state", "admin.sock"))
        c.request("GET", "/metrics")
        lines = c.getresponse().read().decode().splitlines()
        c.close()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("spillway_ledger_commits_total"))

    def streams_and_flushes(self, row):
        before, begin = self.commits(row), time.monotonic()
        self.open_streams(row)
        self.add(row, "flushes", (self.commits(row) - before) / (time.monotonic() - begin))

    def fixed_rate(self, row):
        (self.streams_and_flushes if row.name in FULLS else self.open_streams)(row)

    def beside_flushes(self, row):
        """The control: a bystander on the proxy's core flushes about as often as the ledger of `full` did. On a machine
        whose host charges its guests for their disk, that alone makes tails, whoever the proxy is."""
        program = os.path.join(self.args.build, "bench", "disk_flush")
        pause = str(int(1e6 / max(1.0, self.results["full", "flushes"][-1]) * 2 / 3))
        p = subprocess.Popen(pinned(self.args.proxy_core, [program, os.path.join(self.folder, "flushed"), pause, "20480"]),
                             stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)
        begin = time.monotonic()
        self.open_streams(row, " beside flushes")
        p.terminate()
        self.add(row, "flushes", int(p.communicate()[0]) / (time.monotonic() - begin + 0.3))

    def paced(self, row):
        a = self.load(row, "streams", connections=1000, frames=int(30 * self.args.paced_seconds), interval_us=33333)
        self.add(row, "gap", a["gap_us"]["max"] / 1e3)
        self.add(row, "gap99", a["gap_us"]["p99"] / 1e3)
        self.add(row, "late99", a["late_us"]["p99"] / 1e3)
        self.add(row, "paced_busy", a["busy"] * 100)

    def prompts(self, row):
        small = dict(rate=500, connections=1000, seconds=self.args.prompt_seconds)
        a = self.load(row, "open", **small)
        b = self.load(row, "open", big_rate=10, big_bytes=400000, **small)
        n = max(1, b["big_us"]["n"])
        self.add(row, "small99", a["first_us"]["p99"])
        self.add(row, "small99_big", b["first_us"]["p99"])
        self.add(row, "small99_times", b["first_us"]["p99"] / a["first_us"]["p99"])
        self.add(row, "big_cpu", (b["cpu_s"] - a["cpu_s"]) * 1e3 / (n * (1 + 0.3 / self.args.prompt_seconds)))
        self.add(row, "big_end", b["big_us"]["p50"] / 1e3)

    def ours_s(self):
        """CPU time of this program, of the loads that have ended and of all rows."""
        rows = [r.cpu_s() for r in [*self.rows, self.litellm] if r and r.process and r.process.poll() is None]
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(rows) + time.process_time() + ended.ru_utime + ended.ru_stime

    def run(self):
        a = self.args
        self.load_average = os.getloadavg()[0]
        busy, steal, begin, ours = *machine_s(), time.monotonic(), self.ours_s()
        self.run_parts(a)
        cores = (time.monotonic() - begin) * os.cpu_count()
        busy, steal = machine_s()[0] - busy, machine_s()[1] - steal
        self.stolen = steal / cores * 100
        self.others = max(0.0, busy - (self.ours_s() - ours)) / cores * 100

    def run_parts(self, a):
        self.upstream.start(a.load_core)
        for row in self.rows[1:]:
            if "starts" in a.parts:
                self.start_and_idle(row)
                note(f"{row.name}: started, {self.args.idle} idle connections held")
            else:
                row.start(a.proxy_core)
        if self.litellm:
            self.litellm.start(a.proxy_core)
        for i in range(a.rounds):
            k = i % len(self.rows)
            order = self.rows[k:] + self.rows[:k]
            parts = [self.throughput] * ("closed" in a.parts) + [self.fixed_rate] * ("open" in a.parts)
            for part, row in ([(p, r) for r in order for p in parts] if a.back_to_back else
                              [(p, r) for p in parts for r in order]):
                part(row)
            if "control" in a.parts and ("full", "flushes") in self.results:
                self.beside_flushes(self.rows[1])
            if self.litellm:
                self.throughput(self.litellm)
            self.probe_sync()
            note(f"round {i + 1} of {a.rounds}: " + ", ".join(
                f"{r.name} {self.results.get((r.name, 'rate'), [0])[-1]:.0f}/s, p99 to first byte "
                f"{self.results.get((r.name, 'first99'), [0])[-1]:.0f} us" for r in self.rows))
        for i in range(a.slow_rounds):
            for row in self.rows:
                if "paced" in a.parts:
                    self.paced(row)
                if "prompts" in a.parts:
                    self.prompts(row)
            note(f"slow round {i + 1} of {a.slow_rounds}")
        for row in self.rows[1:]:
            self.add(row, "rss_end", row.rss_mib())

    def ledger_rows(self, row):
        path = os.path.join(row.folder, "state", "ledger.db")
        if not os.path.exists(path):
            return 0
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return db.execute("select count(*) from ledger").fetchone()[0]
        finally:
            db.close()


def note(text):
    print(f"# {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ---- the table -------------------------------------------------------------------------------------------------------


def spread(values, digits):
    if not values:
        return "-"
    m = f"{statistics.median(values):,.{digits}f}"
    return m if len(values) == 1 else f"{m} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


class Table:
    def __init__(self, bench):
        self.b, self.lines = bench, []
        self.ours = [r.name for r in bench.rows[2:]]
        self.head = ["measure", "upstream alone", "HAProxy"]
        for name in self.ours:
            self.head += [f"Spillway {name}", "against HAProxy"]
        self.head += ["floor", "aim"]

    def median(self, row, measure):
        return statistics.median(self.b.results[row, measure])

    def compare(self, row, measure, how):
        if not self.b.results.get((row, measure)):
            return ""
        if how == "ratio":
            base = self.median("HAProxy", measure)
            return f"{self.median(row, measure) / base:.2f} x" if base else "-"
        if how == "minus":
            # In pairs: the rounds are interleaved, so the noise of a moment meets both.
            pairs = zip(self.b.results[row, measure], self.b.results["HAProxy", measure])
            return f"{statistics.median(x - y for x, y in pairs):+,.0f} us"
        return ""

    def add(self, text, measure, digits=0, how="", floor="", aim="", fold=spread):
        cells = [text]
        if not any((row.name, measure) in self.b.results for row in self.b.rows):
            return
        for row in ["upstream", "HAProxy", *self.ours]:
            cells.append(fold(self.b.results.get((row, measure), []), digits))
            if row in self.ours:
                cells.append(self.compare(row, measure, how))
        self.lines.append(cells + [floor, aim])

    def fill(self):
        sync = percentile(self.b.sync_us, 0.99)
        end = f"+{3 * sync + 150:,.0f} us"
        self.add("requests/s, 64 connections", "rate", 0, "ratio", "0.3 x", "0.5 x (pure 0.8 x)")
        self.add("p50 of those, us", "p50", 0, "ratio")
        self.add("p99 of those, us", "p99", 0, "ratio")
        self.add("CPU per request, us", "cpu", 1, "ratio", "3.3 x", "2 x")
        self.add("the proxy's core in use, %", "busy", 0)
        self.add("5,000 streams/s: p50 to first byte, us", "first50", 0, "minus")
        self.add("5,000 streams/s: p99 to first byte, us", "first99", 0, "minus", "+300 us", "+100 us")
        self.add("5,000 streams/s: p50 to end, us", "end50", 0, "minus")
        self.add("5,000 streams/s: p99 to end, us", "end99", 0, "minus", end, "")
        self.add("5,000 streams/s: CPU per stream, us", "cpu_stream", 1, "ratio")
        self.add("5,000 streams/s: the host took, ms of each second", "stolen", 0)
        self.add("1,000 streams x 30/s: longest pause beyond the upstream's, ms", "gap", 1, "", "100 ms", "",
                 lambda v, d: f"{max(v):.{d}f}" if v else "-")
        self.add("the same, p99 of the streams, ms", "gap99", 1)
        self.add("p99 of a token's way through, ms", "late99", 2)
        self.add("RSS idle, MiB", "rss", 1, "", "32 MiB")
        self.add(f"RSS with {self.b.args.idle:,} idle connections, MiB", "rss_idle", 1, "", "256 MiB")
        self.add("RSS at the end, MiB", "rss_end", 1)
        self.add("start to ready, ms", "ready", 0, "", "150 ms")
        self.add("400 KB prompts: CPU of each, ms", "big_cpu", 2, "", "5 ms")
        self.add("400 KB prompts: p50 to end, ms", "big_end", 2)
        self.add("small requests' p99 without them, us", "small99")
        self.add("small requests' p99 beside them, us", "small99_big")
        self.add("small requests' p99, beside / without", "small99_times", 2, "", "1.2")
        self.lines.append(["requests answered / failed"] + [
            x for row in ["upstream", "HAProxy", *self.ours]
            for x in [f"{self.b.sent.get(row, 0):,} / {self.b.errors.get(row, 0):,}", ""][: 2 if row in self.ours else 1]]
            + ["0 failed", ""])

    def print(self, markdown):
        rows = [self.head, *self.lines]
        widths = [max(len(r[i]) for r in rows) for i in range(len(self.head))]
        for i, r in enumerate(rows):
            if markdown:
                print("| " + " | ".join(r) + " |")
                if i == 0:
                    print("|---" * len(r) + "|")
            else:
                print("  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip())


def percentile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def version(command):
    out = subprocess.run(command, capture_output=True, text=True)
    return ((out.stdout or out.stderr).splitlines() or ["?"])[0]


def control(bench):
    """What the disk alone does to whoever shares the core with it."""
    r = bench.results
    beside = {m: r["HAProxy", f"{m} beside flushes"] for m in ("first50", "first99", "end99", "stolen")}
    more = {m: statistics.median(x - y for x, y in zip(r["full", m], beside[m])) for m in ("first99", "end99")}
    return (f"The control, HAProxy at 5,000 streams/s beside a program that does nothing but flush 20 KiB "
            f"{spread(r['HAProxy', 'flushes'], 0)} times a second (full's ledger: {spread(r['full', 'flushes'], 0)}): p50 to "
            f"first byte {spread(beside['first50'], 0)} us, p99 {spread(beside['first99'], 0)} us, p99 to end "
            f"{spread(beside['end99'], 0)} us, the host took {spread(beside['stolen'], 0)} ms of each second. "
            f"full minus that: p99 to first byte {more['first99']:+,.0f} us, p99 to end {more['end99']:+,.0f} us.")


def report(bench, args):
    t = Table(bench)
    t.fill()
    t.print(args.markdown)
    ours = version([os.path.join(args.build, "spillway"), "version"])
    lines = [
        f"Peers: {version([args.haproxy, '-v'])}; {ours}.",
        f"Rounds: {args.rounds}, interleaved, {args.seconds} s each; median (least-most). "
        f"Kernel {platform.release().split('-')[0]}, {os.cpu_count()} cores.",
        f"full: the audit off; ledger, API keys, {'' if args.no_limits else 'rate limits of key, team and model, '}LRU cache, metrics, "
        "JSON log at info, spans of 1%, workers: auto are on; requests "
        + ("name no temperature, so the cache passes them by" if args.undetermined else
           "of temperature 0 are looked up in the cache, missed and kept")
        + (f"; settings from {os.path.basename(args.full_settings)}." if args.full_settings else "."),
        "full+audit: the same with the audit and two budgets on, which no bar speaks of.",
        "pure: ledger, auth, limits, cache, metrics, spans off, the log at error; the admin socket stays.",
        f"fdatasync of 4 KiB in the same run: p50 {percentile(bench.sync_us, 0.5):,.0f} us, p99 "
        f"{percentile(bench.sync_us, 0.99):,.0f} us ({len(bench.sync_us)} of them).",
    ]
    lines.append(f"On the machine: load average {bench.load_average:.2f} before the run; in it, other programs and the "
                 f"system took {bench.others:.1f}% of the cores, the host took {bench.stolen:.1f}%.")
    if ("HAProxy", "end99 beside flushes") in bench.results:
        lines.append(control(bench))
    for row in bench.rows[2:]:
        lines.append(f"{row.name}: {bench.ledger_rows(row):,} rows in the ledger for {bench.sent[row.name]:,} answers.")
    if bench.litellm:
        values = bench.results["LiteLLM", "rate"]
        ratio = t.median("full", "rate") / statistics.median(values)
        lines.append(f"LiteLLM: {spread(values, 0)} requests/s; full is {ratio:.1f} x (floor 20 x).")
    print()
    for line in lines:
        print(f"- {line}" if args.markdown else line)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--haproxy", default="/usr/sbin/haproxy")
    p.add_argument("--litellm", help="the litellm program: one more row")
    p.add_argument("--no-limits", action="store_true", help="no rate limits in the full row")
    p.add_argument("--full-settings", help="YAML that is added to the configuration of the full row")
    p.add_argument("--pure-settings", help="the same for the pure row")
    p.add_argument("--only", default=",".join(OURS), help="rows of ours, beside upstream and HAProxy")
    p.add_argument("--parts", default=",".join(PARTS), help="what is measured of each row")
    p.add_argument("--back-to-back", action="store_true",
                   help="a row's fixed rate right after its 64 connections, with what they have left behind; else all rows "
                        "have one part after the other, so that what is compared is measured in the same seconds")
    p.add_argument("--undetermined", action="store_true",
                   help="requests without a temperature, which the cache passes by; else each is looked up and kept")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--slow-rounds", type=int, default=3, help="of paced streams and large prompts")
    p.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    p.add_argument("--paced-seconds", type=float, default=8)
    p.add_argument("--prompt-seconds", type=float, default=6)
    p.add_argument("--starts", type=int, default=5)
    p.add_argument("--idle", type=int, default=10000)
    p.add_argument("--load-core", type=int, default=0)
    p.add_argument("--proxy-core", type=int, default=1)
    p.add_argument("--folder", help="where the ledgers are; default: the temporary folder")
    p.add_argument("--quick", action="store_true", help="a smoke run of a minute; its figures mean little")
    p.add_argument("--markdown", action="store_true")
    p.add_argument("--json", help="file for all values")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    args.only, args.parts = args.only.split(","), args.parts.split(",")
    for given, known in ((args.only, OURS), (args.parts, PARTS)):
        if not set(given) <= set(known):
            p.error(f"{', '.join(given)}: there are {', '.join(known)}")
    for name in ("full_settings", "pure_settings"):
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    if args.quick:
        args.rounds, args.slow_rounds, args.seconds, args.paced_seconds, args.prompt_seconds = 2, 1, 1, 2, 2
        args.starts = 2
    os.sched_setaffinity(0, {args.load_core})
    bench = Bench(args)
    try:
        bench.run()
        for row in bench.rows[1:]:
            row.stop()  # Spillway: every row is in its ledger then
        report(bench, args)
        if args.json:
            with open(args.json, "w") as f:
                json.dump({f"{row} {measure}": v for (row, measure), v in bench.results.items()}, f, indent=1)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
