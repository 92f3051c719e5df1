#!/usr/bin/env python3
"""Who is let in at all, before any key is looked at: TLS versions, certificates of clients and their replacement while
streams run, sessions that go on; how many connections one address may have, over all workers; and the same towards nodes:
whose certificate is believed, which one is shown, and what an operator reads when it is refused."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import warnings

from harness import Scheduler, Script, Skip, Upstream, certificate, chat, in_parallel, main, node, request, wait_until


warnings.simplefilter("ignore", DeprecationWarning)  # TLS 1.1 is asked for to see it refused


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates of clients and servers."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.cert, self.key = self.path(name, "crt"), self.path(name, "key")
        self.openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={name}",
                     "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", self.key, "-out", self.cert)

    def path(self, name, kind):
        return os.path.join(self.folder, f"{name}.{kind}")

    @staticmethod
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def sign(self, name):
        """(certificate file, key file) for the host or client `name`."""
        cert, key, request_file, names = (self.path(f"{self.name}-{name}", k) for k in ("crt", "key", "csr", "ext"))
        with open(names, "w") as f:
            f.write(f"subjectAltName=DNS:{name}\n")
        self.openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request_file)
        self.openssl("x509", "-req", "-in", request_file, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial",
                     "-days", "2", "-extfile", names, "-out", cert)
        return cert, key

    def withdraw(self, *certs):
        """The list of what was withdrawn so far, and these; it is made anew in one file."""
        listing, settings, database = (self.path(self.name, k) for k in ("crl", "cnf", "db"))
        with open(settings, "w") as f:
            f.write(f"[ca]\ndefault_ca = c\n[c]\ndatabase = {database}\ndefault_md = sha256\ndefault_crl_days = 2\n"
                    f"certificate = {self.cert}\nprivate_key = {self.key}\nunique_subject = no\n")
        open(database, "a").close()
        for cert in certs:
            self.openssl("ca", "-config", settings, "-revoke", cert)
        self.openssl("ca", "-config", settings, "-gencrl", "-out", listing + ".new")
        os.replace(listing + ".new", listing)
        return listing


class Folder:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="spillway-doors-")
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def believing(ca, pair=None):
    context = ssl.create_default_context(cafile=ca)
    if pair:
        context.load_cert_chain(*pair)
    return context


def turned_away(port, context):
    """The handshake, or the first read after it (TLS 1.3: the client is done before he is refused), fails."""
    try:
        chat(port, tls=context, timeout=20)
    except (OSError, AssertionError):
        return True
    return False


def ready(s, context):
    wait_until(lambda: request(s.port, "GET", "/readyz", tls=context).status == 200, 5, "the scheduler is ready")


def versions_and_protocols(args):
    up = Upstream()
    with Folder() as folder:
        cert, key = certificate(folder)
        with Scheduler(args.build, [node("a", up)], tls={"cert": cert, "key": key}) as s:
            ready(s, believing(cert))
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = believing(cert)
                context.minimum_version = context.maximum_version = version
                assert chat(s.port, tls=context).status == 200
            old = believing(cert)
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
            assert turned_away(s.port, old)
            weak = believing(cert)
            weak.maximum_version = ssl.TLSVersion.TLSv1_2
            weak.set_ciphers("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA")
            assert turned_away(s.port, weak)
            wrong = believing(cert)
            wrong.set_alpn_protocols(["h2"])
            assert turned_away(s.port, wrong)
            right = believing(cert)
            right.set_alpn_protocols(["h2", "http/1.1"])
            assert chat(s.port, tls=right).status == 200
            assert s.metrics()["spillway_tls_failed_total"] >= 3
    up.stop()


def sessions_go_on(args):
    """Over several workers, which share the keys of the tickets."""
    up = Upstream()
    with Folder() as folder:
        cert, key = certificate(folder)
        with Scheduler(args.build, [node("a", up)], tls={"cert": cert, "key": key}, workers=3) as s:
            context = believing(cert)
            ready(s, context)
            session, resumed = None, 0
            for _ in range(12):
                raw = socket.create_connection(("127.0.0.1", s.port), timeout=10)
                c = context.wrap_socket(raw, server_hostname="localhost", session=session)
                c.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert c.recv(4096).startswith(b"HTTP/1.1 200 ")
                session, resumed = c.session, resumed + c.session_reused
                c.close()
            assert resumed == 11, resumed
    up.stop()


def certificates_of_clients(args):
    up = Upstream()
    with Folder() as folder:
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        pair = ours.sign("localhost")
        good, bad = ours.sign("app"), theirs.sign("app")
        tls = {"cert": pair[0], "key": pair[1], "client_ca": ours.cert}
        with Scheduler(args.build, [node("a", up)], tls={**tls, "client_certs": "required"}) as s:
            ready(s, believing(ours.cert, good))
            assert turned_away(s.port, believing(ours.cert))
            assert turned_away(s.port, believing(ours.cert, bad))
            assert chat(s.port, tls=believing(ours.cert, good)).status == 200
        with Scheduler(args.build, [node("a", up)], tls={**tls, "client_certs": "optional"}) as s:
            ready(s, believing(ours.cert))
            assert chat(s.port, tls=believing(ours.cert, good)).status == 200
            assert turned_away(s.port, believing(ours.cert, bad))
    up.stop()


def certificates_are_withdrawn(args):
    """By a new list and SIGHUP: who is on it is let in no more; a list that is none changes nothing."""
    up = Upstream()
    with Folder() as folder:
        ours = Authority(folder, "ours")
        pair, one, other = ours.sign("localhost"), ours.sign("one"), ours.sign("other")
        tls = {"cert": pair[0], "key": pair[1], "client_ca": ours.cert, "client_certs": "required",
               "client_crl": ours.withdraw()}
        with Scheduler(args.build, [node("a", up)], tls=tls) as s:
            ready(s, believing(ours.cert, one))
            assert chat(s.port, tls=believing(ours.cert, other)).status == 200
            ours.withdraw(one[0])
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: turned_away(s.port, believing(ours.cert, one)), 5, "the new list")
            assert chat(s.port, tls=believing(ours.cert, other)).status == 200
            with open(tls["client_crl"], "w") as f:
                f.write("no list")
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "no list of withdrawn certificates" in s.log_text(), 5, "the complaint")
            assert turned_away(s.port, believing(ours.cert, one))
            assert chat(s.port, tls=believing(ours.cert, other)).status == 200
    up.stop()


def the_admin_port(args):
    """admin.listen over TLS, with certificates of operators: not without one, and not with one alone."""
    up = Upstream()
    with Folder() as folder:
        ours = Authority(folder, "ours")
        pair, operator = ours.sign("localhost"), ours.sign("operator")
        admin = {"listen": "127.0.0.1:0", "tls_cert": pair[0], "tls_key": pair[1], "tls_client_ca": ours.cert,
                 "tls_client_certs": "required"}
        with Scheduler(args.build, [node("a", up)], admin=admin) as s:
            s.ready()
            port = s.line(message="serving")["admin_port"]
            with_one = believing(ours.cert, operator)
            assert request(port, "GET", "/admin/v1/status", tls=with_one).status == 401
            try:
                status = request(port, "GET", "/admin/v1/status", tls=believing(ours.cert), timeout=20).status
            except (OSError, AssertionError):
                status = None
            assert status is None, status

            def serial():
                with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                    with with_one.wrap_socket(raw, server_hostname="localhost") as c:
                        return c.getpeercert()["serialNumber"]

            first = serial()
            ours.sign("localhost")  # renewed in place
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: serial() != first, 5, "the new certificate")
    up.stop()


def a_certificate_is_replaced(args):
    """By SIGHUP, while a stream runs: it goes on undisturbed, who comes then sees the new one."""
    up = Upstream(default=Script(word_delay=0.3))
    with Folder() as folder:
        cert, key = os.path.join(folder, "tls.crt"), os.path.join(folder, "tls.key")
        first, second = certificate(folder, "first"), certificate(folder, "second")
        shutil.copy(first[0], cert), shutil.copy(first[1], key)

        def shown(s):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with socket.create_connection(("127.0.0.1", s.port), timeout=20) as raw:
                with context.wrap_socket(raw, server_hostname="localhost") as c:
                    return ssl.DER_cert_to_PEM_cert(c.getpeercert(binary_form=True))

        def pem(path):
            with open(path) as f:
                return f.read()

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with Scheduler(args.build, [node("a", up)], tls={"cert": cert, "key": key}) as s:
            ready(s, context)
            assert shown(s) == pem(first[0])
            answers = []
            t = threading.Thread(target=lambda: answers.append(chat(s.port, tls=context, stream=True)))
            t.start()
            wait_until(lambda: up.active, 5, "the stream runs")
            shutil.copy(second[1], key)  # half of it: refused, and the old pair stays
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "tls.cert" in s.log_text(), 5, "the mistake is told")
            assert shown(s) == pem(first[0])
            shutil.copy(second[0], cert)
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: shown(s) == pem(second[0]), 5, "the new certificate")
            t.join()
            assert answers[0].text() == "Hello there, world!" and answers[0].complete, answers[0].body
    up.stop()


def a_certificate_is_noticed(args):
    """Without anybody's asking, within a minute."""
    if not args.full:
        raise Skip("takes a minute; --full runs it")
    up = Upstream()
    with Folder() as folder:
        cert, key = certificate(folder)
        with Scheduler(args.build, [node("a", up)], tls={"cert": cert, "key": key}) as s:
            ready(s, believing(cert))
            certificate(folder)
            wait_until(lambda: not turned_away(s.port, believing(cert)), 70, "the new certificate")
            wait_until(lambda: "the certificate was replaced" in s.log_text(), 5, "it is told")
    up.stop()


def one_client_has_so_many(args):
    """Over all workers together; what others have is not touched, and places come free again."""
    up = Upstream()
    limits = {"connections_per_client": 5}
    with Scheduler(args.build, [node("a", up)], limits=limits, workers=3) as s:
        s.ready()

        def held(n, source="127.0.0.1"):
            """Connections that have been answered once."""
            out = []
            for _ in range(n):
                c = socket.create_connection(("127.0.0.1", s.port), timeout=20, source_address=(source, 0))
                c.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                out.append((c, c.recv(4096)))
            return out

        wait_until(lambda: s.metrics()["spillway_http_connections"] == 0, 5, "nobody is there")
        mine = held(5)
        assert all(a.startswith(b"HTTP/1.1 200 ") for _, a in mine), mine
        for c, a in held(4):
            assert a.startswith(b"HTTP/1.1 429 ") and b"\r\nRetry-After: 1\r\n" in a and b"rate_limit_error" in a, a
            while a:
                a = c.recv(4096)  # and closed
            c.close()
        others = held(5, "127.0.0.2")
        assert all(a.startswith(b"HTTP/1.1 200 ") for _, a in others), others
        assert s.metrics()["spillway_http_refused_client_total"] == 4
        mine.pop()[0].close()
        wait_until(lambda: held(1)[0][1].startswith(b"HTTP/1.1 200 "), 5, "the place is free again")
        with open(s.config_path) as f:
            text = f.read()
        with open(s.config_path, "w") as f:
            f.write(text.replace("connections_per_client: 5", "connections_per_client: 9"))
        s.process.send_signal(signal.SIGHUP)

        def one_more():
            others.extend(held(1, "127.0.0.2"))
            return others[-1][1].startswith(b"HTTP/1.1 200 ")

        wait_until(one_more, 5, "more room")
        others += held(4, "127.0.0.2")
        assert [a[9:12] for _, a in others[-4:]] == [b"200"] * 3 + [b"429"], others[-4:]
        for c, _ in mine + others:
            c.close()
    up.stop()


def patience_is_configured(args):
    """Each deadline and bound that the configuration gives holds; 408 and 503 where an answer can be read."""
    up = Upstream(default=Script(words=["x" * 65536] * 400))
    limits = {"slow_head": "1s", "slow_body": "1s", "slow_reader": "1s", "keep_alive": "1s", "held": "1MiB"}
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "

    def ends(s, sent, status, within=8.0):
        begin, got = time.monotonic(), b""
        c = socket.create_connection(("127.0.0.1", s.port), timeout=20)
        c.sendall(sent)
        while piece := c.recv(65536):
            got += piece
        took = time.monotonic() - begin
        assert got.startswith(status) and 0.9 < took < within, (sent[:60], got[:200], took)
        c.close()

    with Scheduler(args.build, [node("a", up)], limits=limits) as s:
        s.ready()
        health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        in_parallel([lambda: ends(s, health[:30], b"HTTP/1.1 408 "),
                     lambda: ends(s, post + b"100\r\n\r\n{", b"HTTP/1.1 408 "),
                     lambda: ends(s, b"", b""),  # nothing said at all
                     lambda: ends(s, health, b"HTTP/1.1 200 ")])  # and nothing more
        assert s.metrics()["spillway_http_timed_out_total"] == 2
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"y" * (3 << 20) + b'"}]}'
        a = request(s.port, "POST", "/v1/chat/completions", body)
        assert a.status == 503 and a.headers["retry-after"] == "1", (a.status, a.body)
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        ask = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
        c.sendall(post + b"%d\r\n\r\n" % len(ask) + ask)
        wait_until(up.generations, 5, "the answer begins")
        wait_until(lambda: not up.active, 10, "a reader that takes nothing is cut off, and the node is freed")
        c.close()
    up.stop()


class Strict(Upstream):
    """A node over TLS that asks for a certificate, and counts the handshakes and those that went on with a session."""

    def __init__(self, pair, ca):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        self.context.load_verify_locations(ca)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.handshakes, self.resumed, self.names, self.shown = 0, 0, set(), set()
        self.context.sni_callback = lambda _, name, __: self.names.add(name)
        super().__init__("strict", tls=pair)

    def _serve(self, c):
        try:
            c = self.context.wrap_socket(c, server_side=True)
        except OSError:
            c.close()
            return
        self.handshakes += 1
        self.resumed += bool(c.session_reused)
        self.shown.add(dict(pair[0] for pair in c.getpeercert()["subject"])["commonName"])
        reader = c.makefile("rb")
        try:
            while self._one(c, reader):
                break  # one request per connection, so that the next one shakes hands again
        except (OSError, ValueError):
            pass
        finally:
            c.close()


def nodes_of_their_own(args):
    with Folder() as folder:
        ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
        up = Strict(theirs.sign("gpu1.test"), ours.cert)
        cert, key = ours.sign("scheduler")
        good = {"ca": theirs.cert, "cert": cert, "key": key, "server_name": "gpu1.test"}
        nodes = [node("good", up, tls=good),
                 node("wrong-name", up, models=("b",), tls={**good, "server_name": "gpu2.test"}),
                 node("wrong-ca", up, models=("c",), tls={**good, "ca": ours.cert}),
                 node("nothing-shown", up, models=("d",), tls={"ca": theirs.cert, "server_name": "gpu1.test"})]
        with Scheduler(args.build, nodes) as s:
            s.ready()
            for _ in range(3):
                assert chat(s.port).text() == "Hello there, world!"
            wait_until(lambda: up.names == {"gpu1.test", "gpu2.test"}, 5, "both names are asked for")
            assert up.shown == {"scheduler"}, up.shown
            wait_until(lambda: up.resumed >= 2, 5, "sessions that go on")

            def reason(name):
                a = request(os.path.join(s.folder, "state", "admin.sock"), "GET", "/admin/v1/nodes").json()
                return next(n.get("reason") or "" for n in a["nodes"] if n["name"] == name).lower()

            # A probe that had no time for its handshake says that, until the next one.
            for name, *words in (("wrong-name", "certificate refused", "mismatch"),
                                 ("wrong-ca", "certificate refused", "issuer"),
                                 ("nothing-shown", "certificate required")):
                wait_until(lambda: all(w in reason(name) for w in words), 5, f"{name}: {' and '.join(words)}")
            with open(s.config_path) as f:
                text = f.read()
            with open(s.config_path, "w") as f:
                f.write(text.replace("gpu2.test", "gpu1.test"))
            s.process.send_signal(signal.SIGHUP)  # mended while it runs
            wait_until(lambda: chat(s.port, model="b").status == 200, 5, "the node with the right name")
        up.stop()


if __name__ == "__main__":
    main(__doc__, [versions_and_protocols, sessions_go_on, certificates_of_clients, certificates_are_withdrawn, the_admin_port,
                   a_certificate_is_replaced, a_certificate_is_noticed, one_client_has_so_many, patience_is_configured,
                   nodes_of_their_own])
