#!/usr/bin/env python3
"""AWS EC2 for tests: its Query API with signatures that are checked, the metadata service of each instance, a control API
that injects faults, and instances that are real machines of a kind: addresses of 127.0.0.0/8 on which the user data runs.
What it answers are the files in ec2/, each of which names the document it follows.

  python3 tests/fakes/fake_cloud.py [--scale 60] [--boot 30]     prints one JSON line with its ports, ends with its stdin

Control (POST /control/NAME, JSON in and out): pool, quota, fault, clear, preempt, rebalance, capacity, price, stop, state.
A fault: {"action": "CreateFleet" or "*", "kind": ..., "count": how often (-1: always), "rate": of the calls it befalls}:
  latency (ms)   throttle   error (code)   cut: nothing is done, the connection ends   lost: it is done, the answer is not
  sent   truncate: half of the answer   garbage: a 200 that is no XML   twice: the call is delivered two times
  nothing: a fleet without instances and without a word why   extra: a fleet with one instance too many"""

import argparse
import base64
import datetime
import hashlib
import hmac
import http.server
import json
import os
import random
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cloud import STATES, Cloud, Refused  # noqa: E402

REPLIES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ec2")
TEXTS = {}
for name in os.listdir(REPLIES):
    with open(os.path.join(REPLIES, name)) as f:
        lines = f.read().split("\n")
    assert lines[0].startswith("# Follows: "), f"{name} does not say which document it follows"
    TEXTS[name] = "\n".join(lines[1:])
ERRORS = {c: (int(s), m) for c, s, m in (line.split("|") for line in TEXTS["errors.txt"].strip().split("\n"))}
REASONS = dict(line.split("|") for line in TEXTS["reasons.txt"].strip().split("\n"))


def fill(reply, /, **fields):
    """The file's text with its $fields; those that end in _xml are there already as XML."""
    raw = {k for k in fields if k.endswith("_xml") or not reply.endswith(".xml")}
    return string.Template(TEXTS[reply]).substitute(
        {k.removesuffix("_xml"): v if k in raw else escape(str(v)) for k, v in fields.items()})


def iso(at):
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def listed(form, prefix):
    """{prefix}.1, {prefix}.2, ..."""
    out = []
    while f"{prefix}.{len(out) + 1}" in form:
        out.append(form[f"{prefix}.{len(out) + 1}"])
    return out


# ---- signatures -------------------------------------------------------------------------------------------------------


def signed_as(secret, method, path, query, headers, names, body, scope, date):
    """Signature Version 4, AWS IAM User Guide, "Create a signed AWS API request"."""
    day, region, service, _ = scope.split("/")
    lines = "".join(f"{n}:{' '.join(headers[n].split())}\n" for n in names)
    canonical = "\n".join([method, path, query, lines, ";".join(names), hashlib.sha256(body).hexdigest()])
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def check_signature(server, headers, body):
    authorization = headers.get("authorization", "")
    if not authorization.startswith("AWS4-HMAC-SHA256 "):
        raise Refused("AuthFailure")
    parts = dict(p.strip().split("=", 1) for p in authorization[17:].split(","))
    key, _, scope = parts["Credential"].partition("/")
    if key not in server.keys:
        raise Refused("AuthFailure")
    secret, token = server.keys[key]
    if token and headers.get("x-amz-security-token") != token:
        raise Refused("AuthFailure")
    names = parts["SignedHeaders"].split(";")
    must = {"host", "x-amz-date", "content-type"} | ({"x-amz-security-token"} if token else set())
    date = headers["x-amz-date"]
    at = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc).timestamp()
    if not must <= set(names) or parts["Signature"] != signed_as(secret, "POST", "/", "", headers, names, body, scope, date):
        raise Refused("SignatureDoesNotMatch")
    if abs(at - (time.time() + server.clock_off)) > 300:
        raise Refused("RequestExpired")


# ---- the API ----------------------------------------------------------------------------------------------------------


class Api:
    """One method per action; each gets the form and gives the answer's text."""

    def __init__(self, server):
        self.server = server
        self.cloud = server.cloud
        self.opened = time.time()

    def request(self):
        return f"{self.cloud.random.getrandbits(64):016x}"

    def instance(self, i, now):
        addresses, reason, transition = "", "", ""
        if i.state == "running":
            addresses = f"<privateIpAddress>{i.ip}</privateIpAddress><ipAddress>{i.ip}</ipAddress>"
        if i.reason:
            reason = f"<stateReason><code>{i.reason}</code><message>{escape(REASONS[i.reason])}</message></stateReason>"
            ended = datetime.datetime.fromtimestamp(i.ended, datetime.timezone.utc)
            transition = f"{i.reason} ({ended:%Y-%m-%d %H:%M:%S} GMT)"
        tags = "".join(f"<item><key>{escape(k)}</key><value>{escape(v)}</value></item>" for k, v in i.tags.items())
        return fill("instance.xml", id=i.id, image=i.fields["image"], code=STATES[i.state], state=i.state,
                    transition=transition, type=i.pool.kind, launched=iso(i.launched), zone=i.pool.zone,
                    addresses_xml=addresses, reason_xml=reason, token=i.fields["token"], tags_xml=tags,
                    lifecycle_xml="<instanceLifecycle>spot</instanceLifecycle>" if i.market == "spot" else "")

    def fields(self, form, now):
        template = form.get("LaunchTemplate.LaunchTemplateName") or form.get(
            "LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName")
        if template not in self.cloud.templates:
            raise Refused("InvalidLaunchTemplateName.NotFoundException")
        made = self.cloud.templates[template]
        tags = [(form[f"TagSpecification.1.Tag.{n + 1}.Key"], v)
                for n, v in enumerate(form[f"TagSpecification.1.Tag.{m}.Value"]
                                      for m in range(1, 50) if f"TagSpecification.1.Tag.{m}.Value" in form)]
        return {"image": made["ImageId"], "userdata": base64.b64decode(made.get("UserData", "")),
                "token": form.get("ClientToken", ""), "tags": tags, "template": template}

    def CreateLaunchTemplate(self, form, now):
        name = form["LaunchTemplateName"]
        data = {k.removeprefix("LaunchTemplateData."): v for k, v in form.items() if k.startswith("LaunchTemplateData.")}

        def make():
            if name in self.cloud.templates:
                raise Refused("InvalidLaunchTemplateName.AlreadyExistsException")
            if len(base64.b64decode(data.get("UserData", ""))) > 16384:
                raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
            self.cloud.templates[name] = data
            return fill("CreateLaunchTemplate.xml", request=self.request(), now=iso(now), template="lt-" + name, name=name)

        return self.cloud.idempotent("CreateLaunchTemplate", form.get("ClientToken"), form, make)

    def RunInstances(self, form, now):
        def run():
            market = form.get("InstanceMarketOptions.MarketType", "on-demand")
            pool = self.cloud.pools.get((form.get("Placement.AvailabilityZone"), form["InstanceType"]))
            if pool is None:
                raise Refused("Unsupported")
            fields = self.fields(form, now)
            short = self.cloud.shortage(pool, market, form.get("InstanceMarketOptions.SpotOptions.MaxPrice"), now)
            if short:
                raise Refused(short)
            i = self.cloud.launch(pool, market, now, fields)
            return fill("RunInstances.xml", request=self.request(), items_xml=self.instance(i, now))

        return self.cloud.idempotent("RunInstances", form.get("ClientToken"), form, run)

    def overrides(self, form):
        out = []
        while f"LaunchTemplateConfigs.1.Overrides.{len(out) + 1}.InstanceType" in form:
            at = f"LaunchTemplateConfigs.1.Overrides.{len(out) + 1}."
            out.append({k.removeprefix(at): v for k, v in form.items() if k.startswith(at)})
        return out

    def CreateFleet(self, form, now, fault=None):
        market = form["TargetCapacitySpecification.DefaultTargetCapacityType"]
        if form["Type"] != "instant" or "LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version" not in form:
            raise Refused("InvalidParameterValue")

        def make():
            fields = self.fields(form, now)
            wanted = int(form["TargetCapacitySpecification.TotalTargetCapacity"])
            items, errors, common = "", "", {"template": "lt-" + fields["template"], "lifecycle": market}
            candidates = self.overrides(form)
            if form.get("SpotOptions.AllocationStrategy", "lowest-price") in ("lowest-price", "price-capacity-optimized"):
                candidates.sort(key=lambda o: self.price(o, market, now))
            for o in candidates if fault != "nothing" else []:
                pool = self.cloud.pools.get((o.get("AvailabilityZone"), o["InstanceType"]))
                short = "Unsupported" if pool is None else self.cloud.shortage(pool, market, o.get("MaxPrice"), now)
                if short:
                    errors += fill("fleet_error.xml", type=o["InstanceType"], zone=o.get("AvailabilityZone", ""), error=short,
                                   message=ERRORS[short][1], **common)
                    continue
                ids = [self.cloud.launch(pool, market, now, fields).id for _ in range(wanted + (fault == "extra"))]
                items += fill("fleet_instance.xml", type=pool.kind, zone=pool.zone,
                              ids_xml="".join(f"<item>{i}</item>" for i in ids), **common)
                break
            return fill("CreateFleet.xml", request=self.request(), errors_xml=errors, items_xml=items)

        return self.cloud.idempotent("CreateFleet", form.get("ClientToken"), form, make)

    def price(self, override, market, now):
        pool = self.cloud.pools.get((override.get("AvailabilityZone"), override["InstanceType"]))
        return float(pool.price_at(now)) if pool and market == "spot" else 0.0

    def matches(self, i, form):
        n = 1
        while f"Filter.{n}.Name" in form:
            name, values = form[f"Filter.{n}.Name"], listed(form, f"Filter.{n}.Value")
            have = i.tags.get(name.removeprefix("tag:")) if name.startswith("tag:") else i.state
            if have not in values:
                return False
            n += 1
        return True

    def DescribeInstances(self, form, now):
        ids = listed(form, "InstanceId")
        found = [i for i in self.cloud.instances.values()
                 if now >= i.visible_at and (not ids or i.id in ids) and self.matches(i, form)]
        first = int(form.get("NextToken", "0"))
        page = min(int(form.get("MaxResults", "1000")), self.server.page)
        items = "".join(fill("reservation.xml", id=i.id[2:], instance_xml=self.instance(i, now))
                        for i in found[first : first + page])
        more = f"<nextToken>{first + page}</nextToken>" if first + page < len(found) else ""
        return fill("DescribeInstances.xml", request=self.request(), items_xml=items, next_xml=more)

    def TerminateInstances(self, form, now):
        ids = listed(form, "InstanceId")
        for i in ids:
            if i not in self.cloud.instances or now < self.cloud.instances[i].visible_at:
                raise Refused("InvalidInstanceID.NotFound", f"The instance ID '{i}' does not exist")
        items = ""
        for i in (self.cloud.instances[i] for i in ids):
            before = i.state
            self.cloud.end(i, now, "Client.UserInitiatedShutdown")
            items += fill("terminating.xml", id=i.id, code=STATES[i.state], state=i.state, code_before=STATES[before],
                          state_before=before)
        return fill("TerminateInstances.xml", request=self.request(), items_xml=items)

    def CreateTags(self, form, now):
        for i in listed(form, "ResourceId"):
            if i not in self.cloud.instances:
                raise Refused("InvalidInstanceID.NotFound")
            n = 1
            while f"Tag.{n}.Key" in form:
                self.cloud.instances[i].tags[form[f"Tag.{n}.Key"]] = form.get(f"Tag.{n}.Value", "")
                n += 1
        return fill("CreateTags.xml", request=self.request())

    def DescribeSpotPriceHistory(self, form, now):
        """What changed from StartTime on, and the last change before it; the newest come first."""
        kinds, start = listed(form, "InstanceType"), seconds(form["StartTime"])
        rows = []
        for p in self.cloud.pools.values():
            series = [s for s in p.series if s[0] <= now and (not kinds or p.kind in kinds)]
            before = [s for s in series if s[0] <= start][-1:]
            rows += [(at or self.opened - 3600, price, p) for at, price in before + [s for s in series if s[0] > start]]
        rows.sort(key=lambda row: -row[0])
        first = int(form.get("NextToken") or "0")
        items = "".join(fill("price.xml", type=p.kind, price=price, at=iso(at), zone=p.zone)
                        for at, price, p in rows[first : first + self.server.page])
        more = str(first + self.server.page) if first + self.server.page < len(rows) else ""
        return fill("DescribeSpotPriceHistory.xml", request=self.request(), items_xml=items, next=more)

    def DescribeAvailabilityZones(self, form, now):
        zones = sorted({zone for zone, _ in self.cloud.pools})
        return fill("DescribeAvailabilityZones.xml", request=self.request(),
                    items_xml="".join(fill("zone.xml", zone=z, region=z[:-1]) for z in zones))


# ---- machines ---------------------------------------------------------------------------------------------------------


class Machine:
    """The user data of an instance, as root would run it, in a folder of its own."""

    def __init__(self, server, instance):
        self.root = tempfile.mkdtemp(prefix="spillway-instance-")
        script = os.path.join(self.root, "user-data")
        with open(script, "wb") as f:
            f.write(instance.fields["userdata"])
        environment = {**os.environ, "SPILLWAY_ROOT": os.path.join(self.root, "var"), "SPILLWAY_HOST": instance.ip,
                       "SPILLWAY_IMDS": f"http://{instance.ip}:{server.metadata_port}",
                       "SPILLWAY_END": f"curl -sf -X POST http://{instance.ip}:{server.metadata_port}/fake/shutdown"}
        self.log = open(os.path.join(self.root, "log"), "wb")
        self.process = subprocess.Popen(["bash", script], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True)

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)


# ---- HTTP -------------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # who is killed in the middle of a call is no error of ours
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake = None

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return super().date_time_string((timestamp or time.time()) + self.fake.clock_off)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status, text, kind="text/plain", cut=None):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.drop()

    def drop(self):
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class ApiHandler(Handler):
    def do_POST(self):
        body = self.body()
        if self.path.startswith("/control/"):
            answer = self.fake.control(self.path.removeprefix("/control/"), json.loads(body or b"{}"))
            self.reply(200, json.dumps(answer), "application/json")
        elif "x-amz-target" in self.headers:
            self.quota(body)
        else:
            self.query(body)

    def quota(self, body):
        headers = {k.lower(): v for k, v in self.headers.items()}
        try:
            check_signature(self.fake, headers, body)
        except Refused as e:
            self.reply(400, json.dumps({"__type": "x#" + e.code, "message": ""}), "application/x-amz-json-1.1")
            return
        self.reply(200, fill("quota.json", code=json.loads(body)["QuotaCode"], value="64.0"), "application/x-amz-json-1.1")

    def query(self, body):
        headers = {k.lower(): v for k, v in self.headers.items()}
        form = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        action = form.get("Action", "")
        faults = self.fake.faults_of(action)
        for f in faults:
            if f["kind"] == "latency":
                time.sleep(f["ms"] / 1000)
        kinds = {f["kind"]: f for f in faults if f["kind"] != "latency"}
        with self.fake.cloud.lock:
            self.fake.calls[action] = self.fake.calls.get(action, 0) + 1
        if "cut" in kinds:
            self.drop()
            return
        status, text = self.fake.answer(headers, body, form, kinds)
        if "twice" in kinds:
            status, text = self.fake.answer(headers, body, form, kinds)
        if "lost" in kinds:
            self.drop()
        elif "garbage" in kinds:
            self.reply(200, "<html>upstream connect error", "text/html")
        else:
            self.reply(status, text, "text/xml;charset=UTF-8", cut=len(text) // 2 if "truncate" in kinds else None)


class MetadataHandler(Handler):
    """Whose service it is, the address tells that was asked."""

    def instance(self):
        ip = self.connection.getsockname()[0]
        with self.fake.cloud.lock:
            return next((i for i in self.fake.cloud.instances.values() if i.ip == ip and i.alive), None)

    def do_PUT(self):
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            self.reply(400, "")
            return
        token = f"{random.getrandbits(160):040x}=="
        self.fake.tokens[token] = time.time() + min(int(ttl), self.fake.token_ttl)
        self.reply(200, token)

    def do_POST(self):
        i = self.instance()
        if self.path == "/fake/shutdown" and i:
            with self.fake.cloud.lock:
                self.fake.cloud.end(i, time.time(), "Client.InstanceInitiatedShutdown")
        self.reply(200 if i else 404, "")

    def do_GET(self):
        if self.fake.tokens.get(self.headers.get("X-aws-ec2-metadata-token"), 0) < time.time():
            self.reply(401, "")
            return
        text = self.document(self.path.removeprefix("/latest/meta-data/"), self.instance())
        self.reply(404 if text is None else 200, text or "")

    def document(self, path, i):
        now = time.time()
        if path == "iam/security-credentials/":
            return "spillway-role" if self.fake.role else None
        if path == "iam/security-credentials/spillway-role" and self.fake.role:
            key, secret, token, ttl = self.fake.role
            return fill("role.json", now=iso(now), id=key, secret=secret, token=token, expires=iso(now + ttl)).strip()
        if i is None:
            return None
        if path == "instance-id":
            return i.id
        if path == "local-ipv4":
            return i.ip
        if path == "placement/availability-zone":
            return i.pool.zone
        if path.startswith("tags/instance/"):
            return i.tags.get(path.removeprefix("tags/instance/"))
        if path == "spot/instance-action" and i.noticed_at is not None:
            return fill(f"instance-action{'-old' if self.fake.old_spelling else ''}.json", action="terminate",
                        time=iso(i.preempt_at).replace(".000Z", "Z")).strip()
        if path == "events/recommendations/rebalance" and i.rebalance_at is not None:
            return fill("rebalance.json", time=iso(i.rebalance_at).replace(".000Z", "Z")).strip()
        return None


# ---- all of it --------------------------------------------------------------------------------------------------------


def own_network():
    """A 127.x in which no other cloud on this machine has an address, and a socket: while it is open, nobody else gets x."""
    begin = random.SystemRandom().randrange(128)
    for k in range(128):
        network, held = f"127.{64 + (begin + k) % 128}", socket.socket()
        try:
            held.bind((network + ".255.254", 8080))  # no instance has it, see Instance
            return network, held
        except OSError:
            held.close()
    raise OSError("127.64 to 127.191 are all taken: 128 clouds on one machine")


class FakeCloud:
    """In the test's own process, or alone (main). start_machine(instance) gives what runs on an instance, with stop();
    None: nothing runs there."""

    def __init__(self, scale=1.0, boot_s=30.0, seed=1, network=None, start_machine=None, visible_after=0.0):
        self.held = None
        if not network:
            network, self.held = own_network()
        self.cloud = Cloud(seed, scale, boot_s, network, visible_after)
        self.cloud.on_start, self.cloud.on_stop = self.machine_start, self.machine_stop
        self.start_machine = start_machine
        self.keys = {"AKIDTEST": ("secret+test/key", "")}
        self.role = None  # (key, secret, token, seconds that they hold)
        self.clock_off = 0.0  # of the cloud's clock against ours
        self.page = 1000
        self.token_ttl = 21600
        self.old_spelling = False
        self.tokens = {}
        self.faults = []
        self.calls = {}
        self.bad_signatures = 0
        self.random = random.Random(seed)
        self.api = Api(self)
        self.http = Server(("127.0.0.1", 0), type("A", (ApiHandler,), {"fake": self}))
        self.metadata = Server(("0.0.0.0", 0), type("M", (MetadataHandler,), {"fake": self}))
        self.port, self.metadata_port = self.http.server_address[1], self.metadata.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.metadata_url = f"http://127.0.0.1:{self.metadata_port}"
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True)
                        for s in (self.http, self.metadata)] + [threading.Thread(target=self.ticks, daemon=True)]
        for t in self.threads:
            t.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stopping.set()
        for t in self.threads[2:]:
            t.join()
        for s in (self.http, self.metadata):
            s.shutdown()
            s.server_close()
        with self.cloud.lock:
            for i in self.cloud.instances.values():
                self.machine_stop(i)
        if self.held:
            self.held.close()

    def ticks(self):
        while not self.stopping.wait(0.02):
            with self.cloud.lock:
                self.cloud.tick(time.time())

    def machine_start(self, instance):
        if self.start_machine and instance.machine is None:
            instance.machine = self.start_machine(self, instance)

    def machine_stop(self, instance):
        machine, instance.machine = instance.machine, None
        if machine:
            machine.stop()

    # ---- faults and control

    def fault(self, kind, action="*", count=1, rate=1.0, **more):
        self.faults.append({"kind": kind, "action": action, "count": count, "rate": rate, **more})

    def faults_of(self, action):
        with self.cloud.lock:
            out = []
            for f in self.faults:
                if f["action"] not in ("*", action) or f["count"] == 0 or self.random.random() >= f["rate"]:
                    continue
                f["count"] -= f["count"] > 0
                out.append(f)
            return out

    def answer(self, headers, body, form, kinds):
        with self.cloud.lock:
            now = time.time()
            try:
                if "throttle" in kinds:
                    raise Refused("RequestLimitExceeded")
                if "error" in kinds:
                    raise Refused(kinds["error"]["code"])
                check_signature(self, headers, body)
                do = getattr(self.api, form.get("Action", ""), None)
                if do is None:
                    raise Refused("InvalidAction")
                if form.get("DryRun") == "true":
                    raise Refused("DryRunOperation")
                odd = [k for k in ("nothing", "extra") if k in kinds]
                return 200, '<?xml version="1.0" encoding="UTF-8"?>\n' + (do(form, now, odd[0]) if odd else do(form, now))
            except Refused as e:
                self.bad_signatures += e.code == "SignatureDoesNotMatch"
                status, message = ERRORS[e.code]
                return status, fill("error.xml", error=e.code, message=e.message or message,
                                    request=self.api.request()).strip()

    def control(self, name, o):
        c, now = self.cloud, time.time()
        with c.lock:
            if name == "pool":
                c.add_pool(o["zone"], o["type"], o.get("capacity", 1000), o.get("price", "0.10"), o.get("on_demand", "0.30"))
            elif name == "quota":
                c.quota[o["market"]] = o["instances"]
            elif name == "fault":
                self.fault(**o)
            elif name == "clear":
                self.faults.clear()
            elif name == "capacity":
                c.set_capacity(o["zone"], o["type"], o["capacity"], now, o.get("notice_s", 120))
            elif name == "price":
                c.pools[o["zone"], o["type"]].series.append((int(now), o["price"]))
            elif name in ("preempt", "rebalance", "stop"):
                i = c.instances[o["id"]]
                if name == "preempt":
                    c.notice(i, now, o.get("notice_s", 120))
                elif name == "rebalance":
                    i.rebalance_at = now
                else:
                    i.state = "stopped"
            return self.state()

    def state(self):
        with self.cloud.lock:
            now = time.time()
            return {"instances": [{"id": i.id, "ip": i.ip, "state": i.state, "market": i.market, "zone": i.pool.zone,
                                   "type": i.pool.kind, "launched": i.launched, "ended": i.ended, "reason": i.reason,
                                   "tags": i.tags, "cost": self.cloud.cost(i, now)}
                                  for i in self.cloud.instances.values()],
                    "bill": self.cloud.bill(now), "launches": self.cloud.launches, "repeats": self.cloud.repeats,
                    "most_running": self.cloud.most_running, "calls": self.calls,
                    "bad_signatures": self.bad_signatures, "templates": list(self.cloud.templates)}

    def alive(self):
        with self.cloud.lock:
            return [i for i in self.cloud.instances.values() if i.alive]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--scale", type=float, default=1.0)
    a.add_argument("--boot", type=float, default=30.0)
    a.add_argument("--machines", action="store_true", help="run the user data of every instance")
    args = a.parse_args()
    with FakeCloud(args.scale, args.boot, start_machine=Machine if args.machines else None) as cloud:
        print(json.dumps({"url": cloud.url, "metadata": cloud.metadata_url}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
