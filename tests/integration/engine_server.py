"""What the tests of the engine share: `spillway-engine serve` on a free loopback port, with a tiny model of the DeepSeek-V3
architecture that `spillway-engine synth` makes (random weights, real tokenizer and template)."""

import json
import os
import re
import signal
import subprocess

from harness import Connection, json_lines, lasting_folder, request, wait_until

SHAPE = {
    "arch": "deepseek2", "n_layer": 3, "n_embd": 64, "n_head": 4, "n_ff": 128, "n_vocab": 512, "n_ctx": 65536,
    "q_lora": 32, "kv_lora": 32, "d_nope": 16, "d_rope": 8, "d_v": 16, "n_dense_lead": 1, "n_expert": 8, "n_used": 2,
    "n_shared": 1, "n_ff_exp": 32, "sigmoid": 1, "weights_norm": 1, "n_group": 2, "n_group_used": 1,
    "weights_scale": 2.5,
}
FOLDER = lasting_folder("spillway-engine-it-")


def engine(args):
    return os.path.join(args.build, "spillway-engine")


def make_model(args):
    path = os.path.join(FOLDER, "tiny.gguf")
    if not os.path.exists(path):
        shape = os.path.join(FOLDER, "shape.json")
        with open(shape, "w") as f:
            # One layer of each kind is enough for sanitizers, which take ten times as long.
            json.dump({**SHAPE, "n_layer": 2} if args.sanitized else SHAPE, f)
        subprocess.run([engine(args), "synth", "--shape", shape, "--type", "Q8_0", "--out", path], check=True)
    return path


def state_of(pid):
    """Of a process, as ps(1) has it: R, S, T, Z, ...; X: there is none."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


class Server:
    """`spillway-engine serve`. Leaving the block ends it with SIGTERM, and wants exit status 0 (under sanitizers that
    includes the check for leaks)."""

    count = 0

    def __init__(self, args, *flags, model=None, wait=True, env=None):
        Server.count += 1
        self.log_path = os.path.join(FOLDER, f"log{Server.count}")
        if model is None:
            model = make_model(args)
        command = [engine(args), "serve", "--port", "0", *flags]
        if "--threads" not in flags:
            command += ["--threads", "1"]
        if model:
            command += ["--model", model]
        if "--ctx-size" not in flags:
            command += ["--ctx-size", "1024"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, **(env or {})})
        try:
            self.port = wait_until(self._port, 20, "the engine listens")
            if wait:
                wait_until(lambda: request(self.port, "GET", "/health").status == 200, 60, "the engine is ready")
        except (AssertionError, OSError) as e:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"no engine: {e}\n{self.log_text()}") from None

    def _port(self):
        for line in self.log_lines():
            if line.get("message") == "listening":
                return line["port"]
        assert self.process.poll() is None, f"the engine ended with {self.process.returncode}: {self.log_text()}"
        return None

    def worker(self):
        """The pid of the process with the model, or None: it is asleep."""
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
                pids = [int(pid) for pid in f.read().split()]
        except OSError:
            return None
        return next((pid for pid in pids if state_of(pid) not in "ZX"), None)

    def log_text(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def log_lines(self):
        return json_lines(self.log_text())

    def chat(self, text="hello", **fields):
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 16, **fields}
        return request(self.port, "POST", "/v1/chat/completions", body)

    def complete(self, prompt="hello", **fields):
        return request(self.port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 16, **fields})

    def stream(self, prompt="hello", **fields):
        body = {"prompt": prompt, "max_tokens": 16, "stream": True, **fields}
        return Connection(self.port, "POST", "/v1/completions", body)

    def metrics(self):
        return parse_metrics(request(self.port, "GET", "/metrics").body.decode())

    def metric(self, name, **labels):
        return self.metrics_of({}, name, **labels)

    def metrics_of(self, headers, name, **labels):
        m = parse_metrics(request(self.port, "GET", "/metrics", headers=headers).body.decode())
        return sum(v for (n, ls), v in m.items() if n == name and labels.items() <= dict(ls).items())

    def is_idle(self):
        """Nothing runs and nothing waits, at the same moment: from one question to the next who waits may begin to run."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return sum(v for (name, _), v in self.metrics().items() if name in names) == 0

    def end(self, signal_number=signal.SIGTERM, seconds=30):
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.log_text()[-3000:])
            self.process.kill()
            self.process.wait()
            return
        try:
            status = self.end()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not end at SIGTERM:\n{self.log_text()[-3000:]}") from None
        assert status == 0, f"exit status {status}:\n{self.log_text()[-6000:]}"


def parse_metrics(text):
    """Prometheus' text format, strictly: every sample belongs to a TYPE that stands before it."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} is declared twice"
            types[name] = kind
        if line.startswith("#"):
            continue
        m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_]+="(?:[^"\\\n]|\\.)*",?)*)\} (\S+)', line)
        assert m, f"not a sample: {line}"
        name, labels, value = m.groups()
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in types or types.get(base) == "histogram", f"{name} has no TYPE"
        key = (name, tuple(re.findall(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"', labels)))
        assert key not in samples, f"{key} twice"
        samples[key] = float(value)
    return samples


def same(a, b):
    assert a == b, f"{a!r}\n  is not\n{b!r}"


def error_of(answer, status, code=None, param=None):
    same(answer.status, status)
    e = answer.json()["error"]
    same(sorted(e), ["code", "message", "param", "type"])
    assert e["message"] and isinstance(e["type"], str)
    same(e["code"], code)
    same(e["param"], param)
    return e
