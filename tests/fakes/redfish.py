"""A machine with a management controller, a network card that listens to magic packets, and an engine that answers while it is
on. The controller's documents and manners come from a data file (tests/fakes/redfish/NAME.json), which cites the Redfish text
that it follows: where sessions are, what a reset is answered with, how long it takes, what is refused or ignored.

    with Machine("plain", tls=(cert, key)) as m: ... m.url, m.engine_port, m.wol_port, m.resets, m.open_sessions
"""

import base64
import http.server
import json
import os
import socket
import ssl
import threading
import time

from harness import free_port

USER, PASSWORD = "operator", "not-a-secret-1"
MAC = bytes.fromhex("002590abcdef")


class Machine:
    def __init__(self, manners, tls=None, power="On", secure=b"", wakes=True, boots=True):
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "redfish", manners + ".json")) as f:
            self.manners = json.load(f)
        assert self.manners["follows"]
        self.lock = threading.RLock()
        self.power, self.next, self.next_at = power, None, 0.0
        self.secure, self.wakes, self.boots = secure, wakes, boots
        self.sessions, self.opened, self.deleted, self.logins_refused = {}, 0, 0, 0
        self.resets, self.seen, self.packets = [], [], []
        self.busy = dict(self.manners.get("busy") or {"times": 0})
        self.stopping = False
        self._serve(tls)
        self._listen_for_packets()
        self.engine_port, self.engine = free_port(), None  # it comes and goes
        self._settle()
        self.clockwork = threading.Thread(target=self._clockwork, daemon=True)
        self.clockwork.start()

    # ---- power

    def switch(self, to):
        with self.lock:
            self.next, self.next_at = to, time.monotonic() + self.manners["power_delay_s"]

    def _settle(self):
        with self.lock:
            if self.next and time.monotonic() >= self.next_at:
                self.power, self.next = self.next, None
            up = self.power == "On" and self.boots
            if up and not self.engine:
                self.engine = http.server.ThreadingHTTPServer(("127.0.0.1", self.engine_port), Engine)
                threading.Thread(target=self.engine.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            elif not up and self.engine:
                self.engine.shutdown()
                self.engine.server_close()
                self.engine = None

    def word(self):
        self._settle()
        with self.lock:
            between = self.manners.get("between")
            return between[self.next] if self.next and between else self.power

    def _clockwork(self):
        while not self.stopping:
            self._settle()
            time.sleep(0.02)

    # ---- the network card

    def _listen_for_packets(self):
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("", 0))
        self.udp.settimeout(0.1)
        self.wol_port = self.udp.getsockname()[1]
        threading.Thread(target=self._packets, daemon=True).start()

    def _packets(self):
        while not self.stopping:
            try:
                data = self.udp.recv(2048)
            except socket.timeout:
                continue
            except OSError:
                return
            self.packets.append(data)
            if self.wakes and data == b"\xff" * 6 + MAC * 16 + self.secure:
                self.switch("On")

    # ---- the controller

    def _serve(self, tls):
        handler = type("Handler", (Controller,), {"machine": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def open_sessions(self):
        return len(self.sessions)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping = True
        self.boots = False
        self.clockwork.join()
        self._settle()
        self.server.shutdown()
        self.server.server_close()
        self.udp.close()


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class Controller(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    machine, wbufsize = None, 65536

    def log_message(self, *_):
        pass

    def answer(self, status, body=None, headers=()):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, identifier, text):
        self.answer(status, {"error": {"code": "Base.1.18.GeneralError", "message": "see ExtendedInfo", "@Message.ExtendedInfo": [
            {"MessageId": "Base.1.18." + identifier, "Message": text}]}})

    def allowed(self):
        m = self.machine
        if self.headers.get("X-Auth-Token") in m.sessions:
            return True
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == basic

    def handle_any(self):
        m = self.machine
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        m.seen.append((self.command, self.path))
        path = self.path if self.path in m.manners["documents"] else self.path.rstrip("/")
        root = m.manners["documents"]["/redfish/v1/"]
        sessions = root.get("Links", {}).get("Sessions", {}).get("@odata.id", "?").rstrip("/")
        if self.command == "GET" and self.path == "/redfish/v1/":
            return self.answer(200, root)
        if self.command == "POST" and path == sessions and m.manners["sessions"]:
            return self.login(sessions, body)
        if not self.allowed():
            return self.refuse(401, "NoValidSession", "There is no valid session established with the implementation.")
        if self.command == "DELETE" and path.startswith(sessions + "/"):
            m.sessions = {t: at for t, at in m.sessions.items() if at != path}
            m.deleted += 1
            return self.answer(204)
        if m.busy["times"] > 0 and path == m.busy["path"]:
            m.busy["times"] -= 1
            return self.answer(m.busy["status"], {}, m.busy["headers"])
        if self.command == "POST" and path.endswith("Reset"):
            return self.reset(body)
        if self.command == "GET" and path in m.manners["documents"]:
            text = json.dumps(m.manners["documents"][path]).replace("$POWER", m.word())
            return self.answer(200, json.loads(text))
        return self.refuse(404, "ResourceMissingAtURI", f"The resource at the URI {self.path} was not found.")

    do_GET = do_POST = do_DELETE = handle_any

    def login(self, sessions, body):
        m = self.machine
        if body != {"UserName": USER, "Password": PASSWORD}:
            m.logins_refused += 1
            return self.refuse(401, "InsufficientPrivilege", "wrong user or password")
        if len(m.sessions) >= m.manners["sessions"]["limit"]:
            return self.refuse(503, "SessionLimitExceeded", "The session establishment failed due to the number of simultaneous "
                                                            "sessions exceeding the limit of the implementation.")
        m.opened += 1
        token, at = os.urandom(8).hex(), f"{sessions}/{m.opened}"
        m.sessions[token] = at
        location = at if m.manners["sessions"]["location"] == "relative" else "https://ilo.example.net" + at
        return self.answer(201, {"@odata.id": at}, {"X-Auth-Token": token, "Location": location})

    def reset(self, body):
        m, manners = self.machine, self.machine.manners["reset"]
        kind = body["ResetType"]
        m.resets.append(kind)
        refused = manners.get("refuse", {}).get(kind)
        if refused:
            return self.answer(refused["status"], refused["body"])
        if kind not in manners.get("ignore", []):
            m.switch({"On": "On", "ForceOn": "On", "ForceOff": "Off", "GracefulShutdown": "Off",
                      "PushPowerButton": "Off" if m.power == "On" else "On"}[kind])
        headers = {"Location": manners["location"]} if "location" in manners else {}
        return self.answer(manners["status"], None if manners["status"] == 204 else {"@odata.id": "x"}, headers)
