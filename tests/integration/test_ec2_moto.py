#!/usr/bin/env python3
# runtest: release
"""The EC2 provider against others' idea of AWS: moto's server, which checks each signature, and botocore's signer for random
requests (1,000). Both go into a virtual environment in the build folder, which takes its time: with --full."""

import base64
import json
import os
import random
import subprocess
import sys
import urllib.request

from ec2_stage import Provider
from harness import Skip, environment_with, free_port, main, wait_until

PACKAGE = "moto[server]==5.2.5"  # brings botocore along

SIGN = r"""
import sys, json, base64, datetime
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
import botocore.auth
for line in sys.stdin:
    o = json.loads(line)
    at = datetime.datetime.fromtimestamp(o["time"], datetime.timezone.utc)
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: at.replace(tzinfo=None) if remove_tzinfo else at
    url = "https://" + o["host"] + o["path"] + ("?" + o["query"] if o["query"] else "")
    r = AWSRequest(method=o["method"], url=url, data=base64.b64decode(o["body"]))
    for k, v in o["headers"]:
        r.headers[k] = v
    SigV4Auth(Credentials(o["id"], o["secret"], o["token"]), o["service"], o["region"]).add_auth(r)
    print(r.headers["Authorization"])
"""

KEYS = r"""
import boto3, json, sys
iam = boto3.client("iam", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
iam.create_user(UserName="u")
k = iam.create_access_key(UserName="u")["AccessKey"]
rights = json.loads(sys.argv[2])
iam.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": rights, "Resource": "*"}]}))
ec2 = boto3.client("ec2", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
print(json.dumps([k["AccessKeyId"], k["SecretAccessKey"], ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]]))
"""


def only_full(args):
    if not args.full:
        raise Skip("installs moto, a minute and a half: --full")


def random_request(r):
    def word(alphabet, low, high):
        return "".join(r.choice(alphabet) for _ in range(r.randint(low, high)))

    letters, unreserved = "abcdefghijklmnopqrstuvwxyz", "abcdefgXYZ019-._~"
    encoded = list(unreserved) + ["%20", "%2F", "%3D", "%E1%88%B4", "%25"]
    headers = [(word(letters, 3, 12).title() + "-" + word(letters, 1, 5), word(letters + "   ,;=\"", 1, 30).strip() or "v")
               for _ in range(r.randint(0, 6))]
    if r.random() < 0.3 and headers:  # a name twice, in other letters
        headers.append((headers[0][0], "again"))
    forbidden = {"connection", "expect", "user-agent", "host"}
    query = "&".join(word(encoded, 1, 8) + "=" + word(encoded, 0, 8) for _ in range(r.choice([0, 0, 1, 5])))
    return {"method": r.choice(["GET", "POST", "PUT", "DELETE"]),
            "host": word(letters, 3, 10) + ".example.com" + r.choice(["", ":8443", ":5000"]),
            "path": "/" + "/".join(word(encoded, 0, 8) for _ in range(r.randint(0, 4))) + r.choice(["", "/", "/..", "/./x"]),
            "query": query, "headers": [h for h in headers if h[0].lower() not in forbidden],
            "body": base64.b64encode(r.randbytes(r.choice([0, 1, 100, 20000]))).decode(),
            "id": "AKIA" + word("ABCDEFGH0123456789", 16, 16), "secret": word(letters + "/+ABC123", 40, 40),
            "token": r.choice([None, word(letters + "/+=", 200, 400)]), "time": r.randint(10**9, 4 * 10**9),
            "region": r.choice(["us-east-1", "eu-central-1"]), "service": r.choice(["ec2", "sts", "servicequotas"])}


def signatures(args):
    only_full(args)
    python = environment_with(args.build, PACKAGE)
    n, r = 1000, random.Random(20150830)
    asked = "".join(json.dumps(random_request(r)) + "\n" for _ in range(n))

    def signed(*command):
        p = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120)
        assert p.returncode == 0, p.stderr[-2000:]
        return p.stdout.split("\n")

    ours = signed(os.path.join(args.build, "integration", "aws_sign_cli"))
    theirs = signed(python, "-c", SIGN)
    assert len(ours) == len(theirs) == n + 1
    for a, b, question in zip(ours, theirs, asked.split("\n")):
        assert a == b, f"{question}\nours   {a}\ntheirs {b}"
    print(f"{n} signatures are botocore's")


class Moto:
    def __init__(self, build):
        python = environment_with(build, PACKAGE)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        self.process = subprocess.Popen([python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        self.python = python
        try:
            wait_until(self.up, 60, "moto")
        except BaseException:
            self.__exit__()
            raise

    def up(self):
        try:
            return urllib.request.urlopen(self.url + "/moto-api/data.json", timeout=2).status == 200
        except OSError:
            return False

    def keys(self, rights):
        """From here on every call needs a signature that is right."""
        p = subprocess.run([self.python, "-c", KEYS, self.url, json.dumps(rights)], capture_output=True, text=True, timeout=60)
        assert p.returncode == 0, p.stderr[-2000:]
        key, secret, self.image = json.loads(p.stdout)
        urllib.request.urlopen(urllib.request.Request(self.url + "/moto-api/reset-auth", data=b"0", method="POST",
                                                      headers={"Content-Type": "text/plain"}))
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def moto_with_signatures(args):
    only_full(args)
    with Moto(args.build) as moto:
        keys = moto.keys(["ec2:*"])
        pool = {"image": moto.image, "types": "t3.micro,m5.large", "on_demand_prices": "t3.micro=0.0104,m5.large=0.096"}
        micro, large, od = "us-east-1a/t3.micro/spot", "us-east-1b/m5.large/spot", "us-east-1a/t3.micro/on-demand"
        with Provider(args.build, moto.url, pool=pool, keys={**keys, "AWS_SECRET_ACCESS_KEY": "wrong"}) as p:
            e = p.launch("n0", micro, state="gone")
            assert e["failure"] == "denied" and e["reason"].startswith("AuthFailure"), e
        with Provider(args.build, moto.url, pool=pool, keys=keys) as p:
            rows, done = p.collect("check", "check")
            by = {r["what"]: r for r in rows}
            assert done["failure"] == "fine" and "us-east-1a" in by["credentials"]["text"], rows
            offers = p.offers()
            assert len(offers) == 8 and offers[micro]["price"] == "0.00001" and offers[od]["price"] == "0.0104"
            e = p.launch("n1", micro, large, od)
            assert e["offer"] == micro and e["host"].startswith("10."), e
            assert p.launch("n2", od)["offer"] == od
            assert sorted(r["name"] for r in p.list()) == ["n1", "n2"]
            assert p.terminate("n1")["failure"] == "fine"
        with Provider(args.build, moto.url, pool={**pool, "api": "run"}, keys=keys) as p:
            p.say("adopt", "n2", "-", "token-n2")
            p.until(event="change", name="n2", state="running")
            assert p.launch("n3", large)["offer"] == large
            for n in ("n2", "n3"):
                assert p.terminate(n)["failure"] == "fine"
            assert p.list() == []


def moto_without_rights(args):
    only_full(args)
    with Moto(args.build) as moto:
        keys = moto.keys(["ec2:Describe*"])
        with Provider(args.build, moto.url, pool={"image": moto.image}, keys=keys) as p:
            e = p.launch("n1", "us-east-1a/g5.xlarge/spot", state="gone")
            assert e["failure"] == "denied" and "not authorized to perform: ec2:CreateLaunchTemplate" in e["reason"], e


if __name__ == "__main__":
    sys.exit(main(__doc__, [signatures, moto_with_signatures, moto_without_rights]))
