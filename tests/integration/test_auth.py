#!/usr/bin/env python3
"""Who may come in, and how much: keys made, rotated and revoked while the scheduler runs, their bounds (models, networks,
scopes, an end), tokens of a real issuer over HTTP, and rate limits to the exact request, with the headers that clients
go by."""

import base64
import concurrent.futures
import datetime
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time

from harness import Connection, Scheduler, Script, Upstream, chat, key_hash, main, node, request, wait_until

KEY = "spw_auth_0123456789abcdef"
ADMIN_HEADERS = {"Content-Type": "application/json"}


def socket_of(s):
    return os.path.join(s.folder, "state", "admin.sock")


def admin(s, method, path, body=None, status=None):
    a = request(socket_of(s), method, f"/admin/v1{path}", body, ADMIN_HEADERS)
    assert status is None or a.status == status, (a.status, a.body)
    return a.json()


def create(s, **fields):
    made = admin(s, "POST", "/keys", {"tenant": "acme", **fields}, 201)
    assert re.fullmatch(r"sk-spw-[A-Za-z0-9_-]{43}", made["key"]), made
    return made["key"], made["id"]


def cli(args, s, *words, status=0):
    p = subprocess.run([os.path.join(args.build, "spillway"), "keys", *words, "--socket", socket_of(s)],
                       capture_output=True, text=True, timeout=30)
    assert p.returncode == status, (p.returncode, p.stdout, p.stderr)
    return p


def refused(answer, status, code, challenge=None):
    """With all that a client goes by: the object, whether to retry, and the challenge."""
    assert answer.status == status, (answer.status, answer.body)
    assert answer.json()["error"]["code"] == code, answer.body
    again = "retry-after" in answer.headers
    assert again == (status in (429, 503)) and ("x-should-retry" in answer.headers) != again, answer.headers
    assert ("www-authenticate" in answer.headers) == (status == 401 or challenge is not None), answer.headers
    if challenge:
        assert challenge in answer.headers["www-authenticate"], answer.headers


def utc(seconds):
    t = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return t.strftime("%Y-%m-%dT%H:%M:%SZ")


def secrets_stay_out(s, *secrets):
    text = s.log_text()
    for secret in secrets:
        assert secret not in text, "a credential is in the log"
    for name in os.listdir(os.path.join(s.folder, "state")):
        path = os.path.join(s.folder, "state", name)
        if os.path.isfile(path):
            with open(path, "rb") as f:
                data = f.read()
            assert not any(secret.encode() in data for secret in secrets), name


# ---- keys -------------------------------------------------------------------------------------------------------------


def life_of_a_key(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], auth="keys").ready() as s:
        refused(chat(s.port), 401, "invalid_api_key", "Bearer")
        refused(chat(s.port, key="sk-spw-" + "A" * 43), 401, "invalid_api_key", "invalid_token")
        key, name = create(s, team="search", project="ranking", user="ann")
        a = chat(s.port, key=key)
        assert a.status == 200, a.body
        row = s.row(a.headers["x-request-id"])
        assert (row["tenant"], row["team"], row["key_id"]) == ("acme", "search", name), row
        for header in ("api-key", "x-api-key"):
            assert chat(s.port, headers={header: key}).status == 200
        begin = time.monotonic()
        second = admin(s, "POST", f"/keys/{name}/rotate", {"grace_s": 2}, 200)["key"]
        in_grace = chat(s.port, key=key).status
        late = time.monotonic() - begin > 2  # on a machine that stood still for so long, it was refused once more
        assert (in_grace == 200 or late) and chat(s.port, key=second).status == 200
        time.sleep(2.1)
        refused(chat(s.port, key=key), 401, "invalid_api_key")
        third = admin(s, "POST", f"/keys/{name}/rotate", {}, 200)["key"]
        refused(chat(s.port, key=second), 401, "invalid_api_key")
        assert chat(s.port, key=third).status == 200
        # What runs goes on when its key is revoked; the next request is refused.
        up.default = Script(word_delay=0.1)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(chat, s.port, key=third, stream=True)
            wait_until(lambda: up.active == 1, what="a running request")
            admin(s, "POST", f"/keys/{name}/revoke", {}, 200)
            refused(chat(s.port, key=third), 401, "invalid_api_key", "revoked")
            assert running.result().text() == "Hello there, world!"
        listed = next(k for k in admin(s, "GET", "/keys", status=200)["keys"] if k["id"] == name)
        assert listed["revoked"] and listed["tail"] == third[-4:] and listed["user"] == "ann"
        secrets_stay_out(s, key, second, third)
        m = s.metrics()
        assert m['spillway_auth_refused_total{reason="key_revoked"}'] == 1, m
        assert m['spillway_auth_refused_total{reason="missing"}'] == 1
        assert m['spillway_refused_total{code="invalid_api_key"}'] == 5 + (in_grace != 200)


def keys_outlive_a_restart(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], auth="keys").ready() as s:
        key, _ = create(s, id="kept")
        lost, _ = create(s, id="lost")
        admin(s, "POST", "/keys/lost/revoke", {}, 200)
        s.terminate()
        s.restart()
        s.ready()
        assert chat(s.port, key=key).status == 200
        refused(chat(s.port, key=lost), 401, "invalid_api_key")


def bounds_of_a_key(args):
    up = Upstream()
    nodes = [node("a", up, models=["m", "n", "m-large"])]
    configured = [{"id": "old", "sha256": key_hash(KEY), "tenant": "t", "expires": "2020-01-01"}]
    with Scheduler(args.build, nodes, auth="keys", keys=configured).ready() as s:
        refused(chat(s.port, key=KEY), 401, "invalid_api_key", "expired")
        def for_a_moment():
            key, _ = create(s, expires=utc(2))
            return key if chat(s.port, key=key).status == 200 else None

        short = wait_until(for_a_moment, what="a key that is used before it ends")
        time.sleep(2.1)
        refused(chat(s.port, key=short), 401, "invalid_api_key", "expired")

        some, _ = create(s, models=["m*"])
        bearer = {"Authorization": f"Bearer {some}"}
        assert chat(s.port, key=some).status == 200 and chat(s.port, key=some, model="m-large").status == 200
        refused(chat(s.port, key=some, model="n"), 403, "model_not_allowed")
        refused(chat(s.port, key=some, model="zzz"), 404, "model_not_found")
        listed = request(s.port, "GET", "/v1/models", headers=bearer).json()["data"]
        assert sorted(m["id"] for m in listed) == ["m", "m-large"]
        assert request(s.port, "GET", "/v1/models/m", headers=bearer).status == 200
        assert request(s.port, "GET", "/v1/models/n", headers=bearer).status == 404
        everything, _ = create(s)
        listed = request(s.port, "GET", "/v1/models", headers={"Authorization": f"Bearer {everything}"}).json()["data"]
        assert len(listed) == 3

        here, _ = create(s, networks=["127.0.0.0/8"])
        elsewhere, _ = create(s, networks=["10.0.0.0/8", "2001:db8::/32"])
        assert chat(s.port, key=here).status == 200
        refused(chat(s.port, key=elsewhere), 403, "permission_denied")

        other, _ = create(s, scopes=["usage", "admin"])
        refused(chat(s.port, key=other), 403, "permission_denied", "insufficient_scope")
        refused(request(s.port, "GET", "/v1/models", headers={"Authorization": f"Bearer {other}"}), 403,
                "permission_denied", "insufficient_scope")
        before = len(up.generations())
        assert before == 4, before  # nothing that was refused reached a node


def by_command_line(args):
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], auth="keys").ready() as s:
        made = cli(args, s, "create", "--tenant", "acme", "--id", "k1", "--models", "m,n", "--expires", utc(3600))
        key = made.stdout.strip()
        assert chat(s.port, key=key).status == 200
        table = cli(args, s, "list").stdout
        assert "k1" in table and "m,n" in table and "valid" in table and key not in table
        second = json.loads(cli(args, s, "rotate", "k1", "--grace", "1m", "--json").stdout)["key"]
        assert chat(s.port, key=key).status == 200 and chat(s.port, key=second).status == 200
        assert "still works for 1m" in cli(args, s, "rotate", "k1", "--grace", "1m").stderr
        rotated = cli(args, s, "rotate", "k1")
        assert "works no more" in rotated.stderr and chat(s.port, key=rotated.stdout.strip()).status == 200
        refused(chat(s.port, key=second), 401, "invalid_api_key")
        cli(args, s, "revoke", "k1")
        refused(chat(s.port, key=rotated.stdout.strip()), 401, "invalid_api_key")
        assert "revoked" in cli(args, s, "list", "--tenant", "acme").stdout
        assert "acme" not in cli(args, s, "list", "--tenant", "other").stdout
        assert "k1" in cli(args, s, "rotate", "k1", status=1).stderr
        assert "of the configuration" in cli(args, s, "revoke", "nobody", status=1).stderr
        cli(args, s, "create", "--tenant", "acme", "--scopes", "root", status=2)
        secrets_stay_out(s, key, second)


# ---- tokens -----------------------------------------------------------------------------------------------------------


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An OpenID Connect issuer: discovery, keys, and tokens, signed by the openssl program."""

    def __init__(self, folder):
        self.folder = folder
        self.keys = {}
        self.fetches = 0
        self.gate = threading.Event()  # answers wait for it
        self.gate.set()
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.gate.wait(20)
                if self.path == "/.well-known/openid-configuration":
                    body = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                else:
                    issuer.fetches += 1
                    body = {"keys": [{"kty": "RSA", "use": "sig", "kid": k, "n": n, "e": "AQAB"}
                                     for k, (n, _) in issuer.keys.items()]}
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add_key(self, kid, publish=True):
        path = os.path.join(self.folder, f"{kid}.pem")
        subprocess.run(["openssl", "genrsa", "-out", path, "2048"], check=True, capture_output=True)
        text = subprocess.run(["openssl", "rsa", "-in", path, "-noout", "-modulus"], check=True, capture_output=True)
        n = bytes.fromhex(text.stdout.decode().strip().partition("=")[2])
        if publish:
            self.keys[kid] = (b64(n), path)
        return path

    def token(self, kid, path=None, alg="RS256", **claims):
        now = int(time.time())
        all_claims = {"iss": self.url, "aud": "spillway", "sub": "ann", "iat": now, "exp": now + 300, "org": "acme",
                      **claims}
        signed = ".".join(b64(json.dumps(part).encode())
                          for part in ({"alg": alg, "kid": kid, "typ": "JWT"}, all_claims))
        p = subprocess.run(["openssl", "dgst", "-sha256", "-sign", path or self.keys[kid][1]],
                           input=signed.encode(), check=True, capture_output=True)
        return f"{signed}.{b64(p.stdout)}"

    def settings(self, **fields):
        return {"mode": "keys", "issuers": [{"name": "corp", "issuer": self.url, "audiences": ["spillway"],
                                             "tenant_claim": "org", "team_claim": "team", **fields}]}


def with_issuer(case):
    def run(args):
        folder = tempfile.mkdtemp(prefix="spillway-issuer-")
        issuer = Issuer(folder)
        try:
            case(args, issuer)
        finally:
            issuer.server.shutdown()
            shutil.rmtree(folder)
    run.__name__ = case.__name__
    return run


@with_issuer
def tokens(args, issuer):
    issuer.add_key("k1")
    stranger = issuer.add_key("k1-of-a-stranger", publish=False)
    up = Upstream()
    auth = issuer.settings(models_claim="models", algs=["RS256"])
    with Scheduler(args.build, [node("a", up, models=["m", "n"])], auth=auth).ready() as s:
        good = issuer.token("k1", team="search", models=["m"])
        a = chat(s.port, key=good)
        assert a.status == 200, (a.status, a.body, s.log_text()[-2000:])
        row = s.row(a.headers["x-request-id"])
        assert (row["tenant"], row["team"], row["key_id"]) == ("acme", "search", "oidc:corp"), row
        refused(chat(s.port, key=good, model="n"), 403, "model_not_allowed")
        now = int(time.time())
        m = {"models": ["m"]}
        refused(chat(s.port, key=issuer.token("k1", exp=now - 120, **m)), 401, "invalid_api_key", "expired")
        refused(chat(s.port, key=issuer.token("k1", aud="others", **m)), 401, "invalid_api_key", "invalid_token")
        refused(chat(s.port, key=issuer.token("k1", stranger, **m)), 401, "invalid_api_key", "invalid_token")
        refused(chat(s.port, key=issuer.token("k1", alg="RS512", **m)), 401, "invalid_api_key", "invalid_token")
        refused(chat(s.port, key=issuer.token("k1", alg="none", **m)), 401, "invalid_api_key", "invalid_token")
        refused(chat(s.port, key=issuer.token("k1", scope="spillway:usage", **m)), 403, "permission_denied",
                "insufficient_scope")
        refused(chat(s.port, key=issuer.token("k1")), 403, "permission_denied", "insufficient_scope")  # no models
        assert len(up.generations()) == 1
        key, _ = create(s)  # keys go on beside tokens
        assert chat(s.port, key=key).status == 200
        secrets_stay_out(s, good, key)


@with_issuer
def waits_for_the_issuer(args, issuer):
    """Requests wait on their connection while keys are fetched; one that leaves meanwhile costs nothing."""
    issuer.add_key("k1")
    issuer.gate.clear()
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], auth=issuer.settings()).ready() as s:
        token = issuer.token("k1")
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        leaving = Connection(s.port, "POST", "/v1/chat/completions", body.encode(), {"Authorization": f"Bearer {token}"})
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = [pool.submit(chat, s.port, key=token) for _ in range(4)]
            wait_until(lambda: s.metrics()["spillway_http_connections"] == 5, what="all have come")
            time.sleep(0.3)
            assert not any(w.done() for w in waiting) and not up.generations()
            assert request(s.port, "GET", "/healthz").status == 200  # the loop goes on
            leaving.close()
            wait_until(lambda: s.metrics()["spillway_http_connections"] == 4, what="one has left")
            issuer.gate.set()
            assert all(w.result().status == 200 for w in waiting)
        assert len(up.generations()) == 4
        workers = int(s.metrics()["spillway_workers"])
        assert 1 <= issuer.fetches <= workers, issuer.fetches  # each worker fetches for itself, once


@with_issuer
def unreachable_issuer(args, issuer):
    issuer.add_key("k1")
    issuer.server.shutdown()
    issuer.server.server_close()
    up = Upstream()
    with Scheduler(args.build, [node("a", up)], auth=issuer.settings()).ready() as s:
        a = chat(s.port, key=issuer.token("k1"))
        refused(a, 503, "auth_unavailable")
        assert int(a.headers["retry-after"]) >= 1


# ---- rate limits ------------------------------------------------------------------------------------------------------


def limits(classes, **which):
    return {**which, "classes": [{"name": n, **numbers} for n, numbers in classes.items()]}


def requests_per_minute(args):
    """What comes again takes ten seconds for each request, where the count of them is looked at, and one where its pace
    is."""
    up = Upstream()
    settings = limits({"c": {"requests_per_min": 6, "requests_burst": 5}, "big": {"requests_per_min": 600},
                       "quick": {"requests_per_min": 60, "requests_burst": 1}}, key="c")
    with Scheduler(args.build, [node("a", up)], auth="keys", limits=settings).ready() as s:
        key, _ = create(s)
        left = []
        for _ in range(5):
            a = chat(s.port, key=key)
            assert a.status == 200 and a.headers["x-ratelimit-limit-requests"] == "6", a.headers
            assert "x-ratelimit-limit-tokens" not in a.headers
            left.append(int(a.headers["x-ratelimit-remaining-requests"]))
        assert left == [4, 3, 2, 1, 0], left
        a = chat(s.port, key=key)
        refused(a, 429, "rate_limit_exceeded")
        assert 1 <= int(a.headers["retry-after"]) <= 10, a.headers
        assert a.headers["x-ratelimit-remaining-requests"] == "0"
        assert re.fullmatch(r"4\ds|50s", a.headers["x-ratelimit-reset-requests"]), a.headers
        other, _ = create(s, rate_class="big")
        stream = chat(s.port, key=other, stream=True)
        assert stream.headers["x-ratelimit-limit-requests"] == "600"
        assert len(up.generations()) == 6
        assert s.metrics()['spillway_rate_limited_total{limit="requests"}'] == 1
        paced(s)
        # Requests that come at the same time are counted one by one.
        burst, _ = create(s)
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            got = list(pool.map(lambda _: chat(s.port, key=burst).status, range(20)))
        assert got.count(200) == 5 and got.count(429) == 15, got


def paced(s):
    """One a second, and not one more, whoever asks all the time."""
    key, _ = create(s, rate_class="quick")
    begin, answered, was_refused = time.monotonic(), 0, 0
    while answered < 3 or not was_refused:
        a = chat(s.port, key=key)
        if a.status == 200:
            answered += 1
        else:
            refused(a, 429, "rate_limit_exceeded")
            assert a.headers["retry-after"] == "1", a.headers
            was_refused += 1
            time.sleep(0.02)
        took = time.monotonic() - begin
        assert answered <= 1 + took and took < 60, (answered, took)


def tokens_per_minute(args):
    """What is reserved is estimated; what is charged is the truth."""
    up = Upstream(default=Script(usage_fields={"prompt_tokens": 300, "completion_tokens": 400, "total_tokens": 700}))
    settings = limits({"c": {"tokens_per_min": 1200}}, key="c")
    with Scheduler(args.build, [node("a", up)], auth="keys", limits=settings).ready() as s:
        key, _ = create(s)
        begin = time.monotonic()
        come = lambda: 20 * (time.monotonic() - begin)  # noqa: E731: tokens that have come since, at most
        a = chat(s.port, key=key, max_tokens=10)
        assert a.headers["x-ratelimit-limit-tokens"] == "1200" and a.status == 200
        first = int(a.headers["x-ratelimit-remaining-tokens"])
        assert 1100 < first < 1190, first  # an estimate of some tokens, and 10
        a = chat(s.port, key=key, max_tokens=10)
        assert a.status == 200
        left = int(a.headers["x-ratelimit-remaining-tokens"])
        used = 700 + 1200 - first
        assert 1200 - used - 2 <= left <= 1200 - used + 1 + come(), left
        a = chat(s.port, key=key, max_tokens=10)  # 1400 are used: more than there were
        refused(a, 429, "rate_limit_exceeded")
        assert (1400 - first - come()) / 20 - 1 <= int(a.headers["retry-after"]) <= 15, a.headers
        assert s.metrics()['spillway_rate_limited_total{limit="tokens"}'] == 1
        # More than a minute allows will never fit: retrying is pointless.
        fresh, _ = create(s)
        a = chat(s.port, text="word " * 4000, key=fresh)
        assert a.status == 429 and a.headers["x-should-retry"] == "false" and "retry-after" not in a.headers, a.headers
        # What the node failed costs nothing.
        up.scripts.extend([Script(status=500)] * 3)
        assert chat(s.port, key=fresh, max_tokens=10).status in (502, 503)
        up.scripts.clear()
        a = wait_until(lambda: (lambda b: b if b.status == 200 else None)(chat(s.port, key=fresh, max_tokens=10)), 5,
                       "the node is back")
        assert int(a.headers["x-ratelimit-remaining-tokens"]) == first, (a.headers, first)


def concurrent_requests(args):
    gate = threading.Event()
    up = Upstream(default=Script(gate=gate))
    settings = limits({"c": {"concurrent": 3}}, key="c")
    with Scheduler(args.build, [node("a", up)], auth="keys", limits=settings).ready() as s:
        key, _ = create(s)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(chat, s.port, key=key, stream=True) for _ in range(3)]
            wait_until(lambda: up.active == 3, what="three running")
            refused(chat(s.port, key=key), 429, "rate_limit_exceeded")
            other, _ = create(s)
            running.append(pool.submit(chat, s.port, key=other))
            wait_until(lambda: up.active == 4, what="another key's request")
            gate.set()
            assert all(r.result().status == 200 for r in running)
        assert chat(s.port, key=key).status == 200
        # Places come back however a request ends: answered, refused, left by its client.
        gate.clear()
        bodies = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        for _ in range(2):
            leaving = [Connection(s.port, "POST", "/v1/chat/completions", bodies, {"Authorization": f"Bearer {key}"})
                       for _ in range(3)]
            wait_until(lambda: up.active == 3, what="three running")
            for c in leaving:
                c.close()
            wait_until(lambda: up.active == 0, what="their end")
        gate.set()
        assert chat(s.port, key=key).status == 200
        assert chat(s.port, key=key, model="zzz").status == 404
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda _: chat(s.port, key=key).status, range(3))) == [200] * 3


def teams_and_models(args):
    up = Upstream()
    settings = limits({"t": {"requests_per_min": 1, "requests_burst": 3},
                       "m": {"requests_per_min": 1, "requests_burst": 2}}, team="t", model="m")
    with Scheduler(args.build, [node("a", up, models=["m", "n"])], auth="keys", limits=settings).ready() as s:
        one, _ = create(s, team="x")
        two, _ = create(s, team="x")
        other, _ = create(s, team="y")
        elsewhere, _ = create(s, tenant="globex", team="x")
        assert [chat(s.port, key=k).status for k in (one, two)] == [200, 200]
        a = chat(s.port, key=one)  # this tenant's third of model m
        refused(a, 429, "rate_limit_exceeded")
        assert "model" in a.json()["error"]["message"], a.body
        assert chat(s.port, key=one, model="n").status == 200  # the refused one was taken from no limit
        a = chat(s.port, key=two, model="n")  # the team's fourth
        refused(a, 429, "rate_limit_exceeded")
        assert "team" in a.json()["error"]["message"], a.body
        assert chat(s.port, key=other, model="n").status == 200
        assert chat(s.port, key=elsewhere).status == 200


if __name__ == "__main__":
    main(__doc__, [life_of_a_key, keys_outlive_a_restart, bounds_of_a_key, by_command_line, tokens, waits_for_the_issuer,
                   unreachable_issuer, requests_per_minute, tokens_per_minute, concurrent_requests, teams_and_models])
