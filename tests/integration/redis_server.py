"""A real redis-server for tests, with a log on disk that it starts from again when it was killed; and what it says of
budgets."""

import shutil
import socket
import subprocess
import tempfile

from harness import free_port, wait_until


class Redis:
    """A redis-server that may be killed; its log on disk is what it starts from again."""

    def __init__(self, *more):
        self.folder = tempfile.mkdtemp(prefix="spillway-redis-")
        self.port, self.more, self.process = free_port(), more, None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder,
             "--appendonly", "yes", "--appendfsync", "always", "--logfile", "log", *self.more], cwd=self.folder)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self):
        return Client(self.port)

    def ask(self, *words):
        """One command over a connection of its own; lists and texts as they are."""
        with self.connect() as c:
            return c.ask(*words)

    def budget(self, name):
        """The sums of all its periods; waits for a Redis that has just been started."""

        def read():
            try:
                with self.connect() as c:
                    return c.budget(name)
            except (OSError, ValueError):
                return None

        return wait_until(read, 10, f"redis tells of {name}")


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.reader = self.socket.makefile("rb")
        self.keys = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()

    def ask(self, *words):
        data = b"*%d\r\n" % len(words)
        for w in words:
            data += b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode())
        self.socket.sendall(data)
        return self._reply()

    def _reply(self):
        line = self.reader.readline().strip().decode()
        kind, rest = line[:1], line[1:]
        if kind == "*":
            return [self._reply() for _ in range(int(rest))]
        if kind == "$":
            return None if rest == "-1" else self.reader.read(int(rest) + 2)[:-2].decode()
        if kind in "-":
            raise OSError(rest or "the connection is closed")
        return rest

    def budget(self, name):
        if not self.keys.get(name):
            self.keys[name] = self.ask("KEYS", f"spillway:{{budgets}}:1:*:b:*:{name}")
        sums = {"spent": 0, "reserved": 0, "waste": 0, "topped_up": 0}
        for key in self.keys[name]:
            fields = self.ask("HGETALL", key)
            for k, v in zip(fields[::2], fields[1::2]):
                sums[k] = sums.get(k, 0) + int(v)
        return sums
