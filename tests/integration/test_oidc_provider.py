#!/usr/bin/env python3
# runtest: release
"""Tokens of a real OpenID Connect provider (`oidc-provider-mock` from PyPI: Authlib behind Flask) open the front door:
discovery, key set, a user's sign-in by the code flow, expiry, another client's token, new keys, a provider that is away.
The package goes into a virtual environment in the build folder; where it cannot be installed, the cases are skipped."""

import base64
import http.client
import json
import os
import subprocess
import time
import urllib.parse

from harness import Scheduler, Skip, Upstream, chat, environment_with, free_port, main, node, request, wait_until

PACKAGE = "oidc-provider-mock==0.3.4"
CLIENT, REDIRECT = "spillway-app", "http://127.0.0.1:1/callback"


class Provider:
    def __init__(self, build, port=None, max_age=3600):
        self.port = port or free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        claims = [{"sub": "ada", "org": "acme", "groups": ["engines"]}, {"sub": "eve", "org": "../../etc"}]
        self.process = subprocess.Popen(
            [environment_with(build, PACKAGE), "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(self.port), "--token-max-age",
             str(max_age)] + [a for c in claims for a in ("--user-claims", json.dumps(c))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._answers, 30, "the provider answers")
        except AssertionError:
            self.stop()
            raise

    def _answers(self):
        assert self.process.poll() is None, "the provider ended"
        try:
            return request(self.port, "GET", "/.well-known/openid-configuration").status == 200
        except (OSError, AssertionError):
            return False

    def stop(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def sign_in(self, user, client=CLIENT):
        """The code flow of OpenID Connect, as a browser and an application do it. Returns the ID token."""
        question = urllib.parse.urlencode({"response_type": "code", "client_id": client, "redirect_uri": REDIRECT,
                                           "scope": "openid", "state": "s", "nonce": os.urandom(8).hex()})
        status, location, body = self.submit(f"/oauth2/authorize?{question}", {"sub": user})
        assert status in (302, 303), (status, body[:500])
        code = urllib.parse.parse_qs(urllib.parse.urlparse(location).query)["code"][0]
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "client_id": client,
                  "client_secret": "any"}
        status, _, body = self.submit("/oauth2/token", fields)
        assert status == 200, (status, body[:500])
        return json.loads(body)["id_token"]

    def submit(self, path, fields):
        """A form: (status, where it leads, body)."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        c.request("POST", path, urllib.parse.urlencode(fields), {"Content-Type": "application/x-www-form-urlencoded"})
        a = c.getresponse()
        body = a.read()
        c.close()
        return a.status, a.headers.get("Location"), body


def serve(args, provider, up, **fields):
    issuer = {"name": "mock", "issuer": provider.issuer, "audiences": [CLIENT], "tenant_claim": "org", "skew": "0s",
              "refresh": "1h", **fields}
    return Scheduler(args.build, [node("a", up)], auth={"mode": "keys", "issuers": [issuer]}).ready()


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def a_user_signs_in(args):
    up = Upstream()
    with Provider(args.build) as p, serve(args, p, up) as s:
        token = p.sign_in("ada")
        assert claims_of(token)["iss"] == p.issuer, claims_of(token)
        a = chat(s.port, key=token)
        assert a.status == 200 and a.text() == "Hello there, world!", (a.status, a.body)
        row = s.row(a.headers["x-request-id"])
        assert (row["tenant"], row["key_id"]) == ("acme", "oidc:mock"), row
        s.never_says(token, token.split(".")[2])
        a = chat(s.port, key=p.sign_in("eve"))  # genuine, but what it says is no tenant's name
        assert a.status == 403 and a.headers["www-authenticate"].startswith("Bearer"), (a.status, a.body)
        a = chat(s.port, key=p.sign_in("ada", client="another-app"))  # meant for somebody else
        assert a.status == 401, (a.status, a.body)
        head, claims, signature = token.split(".")
        other = json.dumps({**claims_of(token), "org": "other"}).encode()
        forged = ".".join([head, base64.urlsafe_b64encode(other).decode().rstrip("="), signature])
        assert chat(s.port, key=forged).status == 401
        none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
        assert chat(s.port, key=f"{none}.{claims}.{signature}").status == 401
        assert len(up.generations()) == 1
    up.stop()


def taken(s, provider):
    """A token that was taken: of those that live for seconds only, one may have ended on its way."""
    for _ in range(20):
        token = provider.sign_in("ada")
        a = chat(s.port, key=token)
        if a.status == 200:
            return token
        assert a.status == 401 and time.time() >= claims_of(token)["exp"], (a.status, a.body, claims_of(token))
    raise AssertionError("no token lives long enough")


def tokens_expire(args):
    up = Upstream()
    with Provider(args.build, max_age=2) as p, serve(args, p, up) as s:
        token = taken(s, p)
        time.sleep(max(0, claims_of(token)["exp"] - time.time()) + 0.1)
        a = chat(s.port, key=token)
        assert a.status == 401 and b"expired" in a.body, (a.status, a.body)
        taken(s, p)
    up.stop()


def keys_are_replaced(args):
    """A provider that starts again has new keys, under no name; it is away for a while in between, and who is known stays
    known. Keys are asked for again every 30 s at most."""
    if not args.full:
        raise Skip("takes half a minute; --full runs it")
    up = Upstream()
    with Provider(args.build) as first:
        s = serve(args, first, up)
        old = first.sign_in("ada")
        assert chat(s.port, key=old).status == 200
    with s:
        assert chat(s.port, key=old).status == 200
        with Provider(args.build, port=first.port) as second:
            token = second.sign_in("ada")

            def opens():
                a = chat(s.port, key=token)
                assert a.status in (200, 401), (a.status, a.body)
                time.sleep(0.5)
                return a.status == 200

            wait_until(opens, 40, "the new keys are known")
            assert chat(s.port, key=old).status == 401  # its key is gone, and what it vouched for with it
    up.stop()


if __name__ == "__main__":
    main(__doc__, [a_user_signs_in, tokens_expire, keys_are_replaced])
