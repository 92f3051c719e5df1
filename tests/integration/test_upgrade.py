#!/usr/bin/env python3
"""A service manager's side of the scheduler: sockets that are there already, READY, WATCHDOG and STOPPING; and upgrades: a new
process takes over while the old one finishes, and no client notices."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time

from harness import Upstream, chat, main, node, to_yaml, wait_until


class Manager:
    """As systemd: a listener, a socket for what the service says, and the service."""

    def __init__(self, args, upstream, listen=None, inherit=True, watchdog_us=0, **config):
        self.args, self.folder = args, tempfile.TemporaryDirectory(prefix="spillway-upgrade-")
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        if not inherit:
            self.listener.close()
        self.said = []
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(self.path("notify"))
        self.ear.settimeout(0.1)
        self.config = self.path("spillway.yaml")
        self.write(listen=listen or f"127.0.0.1:{1 if inherit else self.port}", state_dir=self.path("state"),
                   auth={"mode": "off"}, nodes=[node("a", upstream)], **config)
        # Where there is a listener, `listen` is port 1: only the inherited one can have been used.
        environment = {**os.environ, "NOTIFY_SOCKET": self.path("notify")}
        if watchdog_us:
            environment["WATCHDOG_USEC"] = str(watchdog_us)
        command = [os.path.join(args.build, "spillway"), "serve", "--config", self.config]
        if inherit:
            environment["LISTEN_FDS"] = "1"
            # LISTEN_PID is the service's own: a shell knows it, and becomes it.
            command = ["/bin/sh", "-c", f'exec 3<&{self.listener.fileno()}; LISTEN_PID=$$ exec "$@"', "sh", *command]
        self.log = open(self.path("log"), "wb")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log,
                                        pass_fds=[self.listener.fileno()] if inherit else [])
        self.hears = threading.Thread(target=self._hear, daemon=True)
        self.hears.start()

    def write(self, **config):
        with open(self.config, "w") as f:
            f.write("\n".join(line for k, v in config.items() for line in to_yaml(k, v)) + "\n")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def _hear(self):
        while True:
            try:
                self.said.append((time.monotonic(), self.ear.recv(4096).decode()))
            except socket.timeout:
                continue
            except OSError:
                return

    def heard(self, word):
        return [text for _, text in self.said if word in text]

    @property
    def main_pid(self):
        pids = [line[8:] for _, text in self.said for line in text.split("\n") if line.startswith("MAINPID=")]
        return int(pids[-1]) if pids else self.process.pid

    def log_text(self):
        with open(self.path("log")) as f:
            return f.read()

    def __enter__(self):
        try:
            wait_until(lambda: self.heard("READY=1"), 20, "READY")
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.log_text()[-4000:])
        pid = self.main_pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            if number == signal.SIGTERM:
                self._gone(pid)
        self.process.wait(20)
        self.ear.close()
        self.listener.close()
        self.log.close()
        self.folder.cleanup()

    def _gone(self, pid):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if pid == self.process.pid and self.process.poll() is not None:
                return
            try:
                with open(f"/proc/{pid}/stat") as f:
                    if f.read().rpartition(")")[2].split()[0] == "Z":  # a grandchild of ours: nobody here reaps it
                        return
            except FileNotFoundError:
                return
            time.sleep(0.02)


def sockets_come_from_the_manager(args):
    upstream = Upstream()
    try:
        with Manager(args, upstream, watchdog_us=200000) as m:
            assert chat(m.port).status == 200
            wait_until(lambda: len(m.heard("WATCHDOG=1")) >= 3, 5, "the watchdog is fed")
            os.kill(m.process.pid, signal.SIGTERM)
            m.process.wait(20)
            assert m.process.returncode == 0
            wait_until(lambda: m.heard("STOPPING=1"), 5, "it has said so")
            # The queue is still there: who connects now is served by the next start.
            with socket.create_connection(("127.0.0.1", m.port), 2):
                pass
    finally:
        upstream.stop()


def nonsense_is_refused(args):
    with tempfile.TemporaryDirectory() as folder:
        p = subprocess.run(["/bin/sh", "-c", f'exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {args.build}/spillway serve --config '
                            f'{folder}/none.yaml'], capture_output=True, text=True, timeout=20)
        assert p.returncode == 2 and "descriptor 3 is no listening socket" in p.stderr, p.stderr


class Load:
    """Clients that never stop asking, over new connections and kept ones."""

    def __init__(self, port, clients=6):
        self.port, self.ended, self.answers, self.failures, self.longest = port, False, 0, [], 0.0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for t in self.threads:
            t.start()

    def _run(self):
        while not self.ended:
            begin = time.monotonic()
            try:
                a = chat(self.port, timeout=30)
                with self.lock:
                    self.answers += a.status == 200
                    if a.status != 200:
                        self.failures.append((a.status, a.body[:200]))
                    self.longest = max(self.longest, time.monotonic() - begin)
            except Exception as e:
                with self.lock:
                    self.failures.append(repr(e))

    def stop(self):
        self.ended = True
        for t in self.threads:
            t.join()


def upgrade(args, inherit, workers):
    upstream = Upstream()
    try:
        with Manager(args, upstream, inherit=inherit, workers=str(workers), drain="20s") as m:
            first = m.main_pid
            load = Load(m.port)
            wait_until(lambda: load.answers > 20, 10, "clients are answered")
            os.kill(first, signal.SIGUSR2)
            wait_until(lambda: m.main_pid != first and len(m.heard("READY=1")) == 2, 20, "the new process serves")
            before = load.answers
            wait_until(lambda: load.answers > before + 50, 10, "clients go on")
            load.stop()
            assert not load.failures, load.failures[:5]
            assert m.process.wait(40) == 0  # the old one
            assert load.longest < 10, load.longest  # the old one waits for up to 20 s
    finally:
        upstream.stop()


def upgraded_under_load(args):
    upgrade(args, inherit=False, workers=2)


def upgraded_under_load_with_one_socket(args):
    upgrade(args, inherit=True, workers=1)


def a_stream_ends_where_it_began(args):
    upstream = Upstream()
    try:
        with Manager(args, upstream, inherit=False, drain="20s") as m:
            first = m.main_pid
            hold, got = threading.Event(), []
            upstream.default.hold = hold
            t = threading.Thread(target=lambda: got.append(chat(m.port, stream=True, timeout=30)))
            t.start()
            wait_until(lambda: upstream.active == 1, 5, "the stream has begun")
            os.kill(first, signal.SIGUSR2)
            wait_until(lambda: '"draining"' in m.log_text(), 20, "the old process drains")
            hold.set()
            t.join(30)
            assert got and got[0].status == 200 and got[0].events[-1][1] == "[DONE]"
            wait_until(lambda: len(m.heard("READY=1")) == 2, 20, "the new process serves")
            assert chat(m.port).status == 200
    finally:
        upstream.stop()


def what_cannot_start_takes_nothing_over(args):
    upstream = Upstream()
    try:
        with Manager(args, upstream, inherit=False) as m:
            first = m.main_pid
            with open(m.config) as f:
                good = f.read()
            with open(m.config, "w") as f:
                f.write(good + "nonsense: 1\n")
            os.kill(first, signal.SIGUSR2)
            wait_until(lambda: "cannot take over" in m.log_text(), 10, "the log says so")
            assert chat(m.port).status == 200 and m.main_pid == first and m.process.poll() is None
            with open(m.config, "w") as f:
                f.write(good)
            os.kill(first, signal.SIGUSR2)
            wait_until(lambda: m.main_pid != first and len(m.heard("READY=1")) == 2, 20, "the second try")
            assert chat(m.port).status == 200
    finally:
        upstream.stop()


def a_named_socket_is_handed_over(args):
    upstream = Upstream()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        try:
            with Manager(args, upstream, listen="unix:" + path, inherit=False) as m:
                first = m.main_pid
                assert chat(path).status == 200
                os.kill(first, signal.SIGUSR2)
                wait_until(lambda: m.main_pid != first and len(m.heard("READY=1")) == 2, 20, "the new process serves")
                m.process.wait(20)
                assert chat(path).status == 200
        finally:
            upstream.stop()


if __name__ == "__main__":
    main(__doc__, [sockets_come_from_the_manager, nonsense_is_refused, upgraded_under_load, upgraded_under_load_with_one_socket,
                   a_stream_ends_where_it_began, what_cannot_start_takes_nothing_over, a_named_socket_is_handed_over])
