#!/usr/bin/env python3
"""The EC2 provider against a fake cloud that misbehaves on demand (tests/fakes): what it launches, from which pools, what
it makes of each error, lost answers and double deliveries, pre-emptions, keys of every kind, a clock that is wrong."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

from ec2_stage import A5, A6, B5, B6, OD, FileServer, Machine, Provider, boots, cloud
from harness import Skip, Stalls, free_port, main, wait_until
from test_two_engines import model_file


def life_of_an_instance(args):
    with cloud(boot_s=0.3) as c, Provider(args.build, c.url) as p:
        p.say("launch", "n1", "token-n1", A5, A6, B6)
        known = p.until(event="change", name="n1", state="starting")
        assert known["id"].startswith("i-") and known["token"] == "token-n1"
        e = p.until(event="change", name="n1", state="running")
        # The cheapest that has capacity: price-capacity-optimized.
        assert e["offer"] == B6 and e["price"] == "0.3011" and e["pool"] == "pool" and e["port"] == 8080, e
        i = c.alive()[0]
        assert e["host"] == i.ip and abs(e["launched"] - i.launched) <= 1
        assert i.tags == {"spillway-owner": "owner1", "spillway-pool": "pool", "spillway-name": "n1",
                          "spillway-token": "token-n1", "Name": "n1"}
        made = c.cloud.templates[i.fields["template"]]
        assert made["MetadataOptions.HttpTokens"] == "required" and made["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert i.fields["userdata"].startswith(b"#!/bin/bash\n")
        row, = p.list()
        assert row["id"] == i.id and row["name"] == "n1" and row["price"] == "0.3011"
        assert p.terminate("n1")["failure"] == "fine"
        gone = [e for e in p.seen if e.get("state") == "gone"]
        assert len(gone) == 1 and gone[0]["failure"] == "ended"
        assert p.list() == [] and not c.alive()
        assert c.bad_signatures == 0


def one_template_for_a_pool(args):
    with cloud() as c, Provider(args.build, c.url) as p:
        for n in range(5):
            p.say("launch", f"n{n}", f"t{n}", A5)
        for n in range(5):
            p.until(event="change", state="running")
        assert len(c.cloud.templates) == 1
        name, = c.cloud.templates
        # Somebody deletes it: it is made again.
        del c.cloud.templates[name]
        c.cloud.answers.clear()
        p.launch("after", A5)
        with Provider(args.build, c.url, pool={"image": "ami-2"}) as other:
            other.launch("other", A5)
        assert len(c.cloud.templates) == 2


def run_instances(args):
    with cloud() as c, Provider(args.build, c.url, pool={"api": "run"}) as p:
        c.cloud.pools["us-east-1a", "g5.xlarge"].capacity = 0
        e = p.launch("n1", A5, B5, A6)
        assert e["offer"] == B5 and c.calls["RunInstances"] == 2 and "CreateFleet" not in c.calls
        assert p.terminate("n1")["failure"] == "fine"


def no_capacity_then_cold(args):
    with cloud() as c, Provider(args.build, c.url, {"cold": "60s"}) as p:
        for pool in c.cloud.pools.values():
            pool.capacity = 0
        e = p.launch("n1", A5, A6, state="gone")
        assert e["failure"] == "no_capacity" and "InsufficientInstanceCapacity" in e["reason"], e
        offers = p.offers()
        assert not offers[A5]["launchable"] and 0 < offers[A5]["cold_s"] <= 60 and offers[B5]["launchable"]
        calls = c.calls["CreateFleet"]
        e = p.launch("n2", A5, A6, state="gone")  # not asked again while it is cold
        assert e["failure"] == "no_capacity" and c.calls["CreateFleet"] == calls
        for pool in c.cloud.pools.values():
            pool.capacity = 10
        assert p.launch("n3", A5, B5)["offer"] == B5  # the warm one
    with cloud() as c, Provider(args.build, c.url, {"cold": "1s"}) as p:
        c.cloud.pools["us-east-1a", "g5.xlarge"].capacity = 0
        assert p.launch("n1", A5, state="gone")["failure"] == "no_capacity"
        c.cloud.pools["us-east-1a", "g5.xlarge"].capacity = 10
        time.sleep(1.1)
        assert p.launch("n2", A5)["offer"] == A5


def next_market_at_once(args):
    with cloud() as c, Provider(args.build, c.url) as p:
        for pool in c.cloud.pools.values():
            pool.capacity = 0
        with Stalls() as stalls:
            begin = time.monotonic()
            e = p.launch("n1", A5, B5, A6, B6, OD)
            took = time.monotonic() - begin
        assert e["offer"] == OD and e["price"] == "1.006" and took < 2 + stalls.seconds, (e, took)


def a_fleet_with_nothing(args):
    """A 200 without instances, with and without a word why; and one with more than was asked for."""
    with cloud() as c, Provider(args.build, c.url) as p:
        c.fault("nothing", "CreateFleet")
        assert p.launch("n1", A5, state="gone")["failure"] == "no_capacity"
        c.fault("extra", "CreateFleet")
        p.launch("n2", B5)
        wait_until(lambda: len(c.alive()) == 1, 5, "the second one to be ended")
        assert c.cloud.launches == 2


def quota(args):
    with cloud() as c, Provider(args.build, c.url, {"quota_pause": "60s"}) as p:
        c.cloud.quota["spot"] = 1
        p.launch("n1", A5)
        e = p.launch("n2", A5, B5, state="gone")
        assert e["failure"] == "quota" and "MaxSpotInstanceCountExceeded" in e["reason"], e
        offers = p.offers()
        assert not offers[B6]["launchable"] and offers[OD]["launchable"]  # g5 and g6 share a quota; on demand has its own
        assert p.launch("n3", A5, OD)["offer"] == OD
        calls = c.calls["CreateFleet"]
        assert p.launch("n4", B6, state="gone")["failure"] == "quota" and c.calls["CreateFleet"] == calls
        assert any("quota of the AWS account is met" in line for line in p.log)


def throttled(args):
    with cloud() as c, Provider(args.build, c.url) as p:
        c.fault("throttle", "*", count=3)
        p.launch("n1", A5)
        c.fault("throttle", "CreateFleet", count=-1)
        with Provider(args.build, c.url, {"call_deadline": "1s"}, owner="o2") as q:
            e = q.launch("n2", A5, state="gone")
            assert e["failure"] == "throttled" and "tried" in e["reason"], e


def lost_answers(args):
    """Done, but we never heard of it; cut before and after; half of the answer; no XML; delivered twice; all at once."""
    with cloud() as c, Provider(args.build, c.url) as p:
        for n, kind in enumerate(("lost", "cut", "truncate", "garbage", "twice")):
            c.fault(kind, "CreateFleet")
            c.fault(kind, "DescribeInstances")
            p.launch(f"n{n}", A5, A6)
            c.fault(kind, "TerminateInstances")
            assert p.terminate(f"n{n}")["failure"] == "fine"
            assert not c.alive(), kind
        assert c.cloud.launches == 5 and c.cloud.repeats >= 3  # one each, by the same token and the same body
        c.fault("lost", "*", count=-1, rate=0.2)
        c.fault("error", "*", count=-1, rate=0.1, code="InternalError")
        c.fault("throttle", "*", count=-1, rate=0.1)
        c.fault("latency", "*", count=-1, rate=0.3, ms=50)
        for n in range(12):
            p.say("launch", f"m{n}", f"many{n}", A5, B5, A6)
        for n in range(12):
            p.until(event="change", state="running")
        tokens = [i.tags["spillway-token"] for i in c.alive()]
        assert len(tokens) == len(set(tokens)) == 12, tokens
        for n in range(12):
            p.say("terminate", f"m{n}")
        for n in range(12):
            assert p.until(event="done")["failure"] == "fine"
        assert not c.alive()


def an_outcome_that_is_not_known(args):
    """No answer within the deadline although it was done: found by its tag. Never done: told as unreachable."""
    with cloud() as c, Provider(args.build, c.url, {"call_deadline": "800ms"}) as p:
        c.fault("lost", "CreateFleet", count=-1)
        e = p.launch("n1", A5)
        assert c.cloud.launches == 1 and e["id"] == c.alive()[0].id
        c.faults.clear()
        p.terminate("n1")
        c.fault("cut", "CreateFleet", count=-1)
        p.say("launch", "n2", "token-n2", A5)
        time.sleep(1.5)
        p.say("terminate", "n2")
        e = p.until(event="change", name="n2", state="gone")
        assert c.cloud.launches == 1, e


def token_of_the_process_before(args):
    """A crash between launch and answer: the same token again makes no second one, by launch and by adopt."""
    with cloud() as c:
        with Provider(args.build, c.url) as p:
            p.launch("n1", A5, token="t1")
        with Provider(args.build, c.url) as p:
            e = p.launch("n1", A5, B5, token="t1")  # even with other offers
            assert c.cloud.launches == 1 and e["id"] == c.alive()[0].id
            p.say("adopt", "n2", "-", "t1")
            assert p.until(event="change", name="n2", state="running")["id"] == e["id"]
            p.say("forget", "n2")
        with Provider(args.build, c.url) as p:
            p.say("adopt", "n1", e["id"], "t1")
            again = p.until(event="change", name="n1", state="running", price="0.403")  # prices may come later
            assert again["offer"] == A5 and again["launched"] == e["launched"], (again, e)
            assert p.terminate("n1")["failure"] == "fine" and not c.alive()


def adopted_by_hand(args):
    """One that somebody else launched becomes ours by its tags."""
    with cloud() as c:
        with Provider(args.build, c.url, owner="somebody") as p:
            p.launch("x", A5)
        with Provider(args.build, c.url) as p:
            assert p.list() == []
            p.say("adopt", "mine", c.alive()[0].id, "t9")
            p.until(event="change", name="mine", state="running")
            row, = p.list()
            assert row["name"] == "mine" and row["token"] == "t9"
            p.say("adopt", "bad", "x-1", "-")
            assert "i-" in p.until(event="refused")["text"]


def preempted(args):
    with cloud() as c, Provider(args.build, c.url) as p:
        p.launch("n1", A5)
        p.launch("n2", B6)
        p.launch("n3", A6)
        by_name = {i.tags["spillway-name"]: i for i in c.alive()}
        c.control("preempt", {"id": by_name["n1"].id, "notice_s": 0})
        e = p.until(event="change", name="n1", state="gone")
        assert e["failure"] == "taken_back" and "SpotInstanceTermination" in e["reason"], e
        assert not p.offers()[A5]["launchable"] and p.offers()[B5]["launchable"]
        with c.cloud.lock:  # somebody at the console
            c.cloud.end(by_name["n2"], time.time(), "Client.UserInitiatedShutdown")
        assert p.until(event="change", name="n2", state="gone")["failure"] == "ended"
        c.control("stop", {"id": by_name["n3"].id})
        assert p.until(event="change", name="n3", state="gone")["failure"] == "ended"
        assert not c.alive()


def eventual_consistency(args):
    with cloud(visible_after=0.6) as c, Provider(args.build, c.url) as p:
        p.say("launch", "n1", "t1", A5)
        wait_until(lambda: c.cloud.launches == 1, 5, "the launch")
        assert p.terminate("n1")["failure"] == "fine" and not c.alive()  # NotFound was no end
        p.launch("n2", A5)
        assert c.cloud.launches == 2


def ended_while_it_launches(args):
    with cloud() as c, Provider(args.build, c.url) as p:
        c.fault("latency", "CreateFleet", ms=500)
        p.say("launch", "n1", "t1", A5)
        wait_until(lambda: c.faults[0]["count"] == 0, 5, "the launch is under way")
        assert p.terminate("n1")["failure"] == "fine"
        assert c.cloud.launches == 1 and not c.alive()


def strays(args):
    """What carries our tag and is not known to us is listed with its token, and can be ended by its id."""
    with cloud() as c:
        c.page = 3
        with Provider(args.build, c.url) as p:
            for n in range(10):
                p.say("launch", f"n{n}", f"t{n}", A5)
            for n in range(10):
                p.until(event="change", state="running")
        with Provider(args.build, c.url, owner="somebody else") as p:
            assert p.list() == []
        with Provider(args.build, c.url) as p:
            rows = p.list()
            assert sorted(r["token"] for r in rows) == sorted(f"t{n}" for n in range(10))
            for r in rows:
                p.say("end", r["id"])
                assert p.until(event="done", of=r["id"])["failure"] == "fine"
            p.say("end", "i-00000000000000000")
            assert p.until(event="done", of="i-00000000000000000")["failure"] == "fine"
            assert p.list() == [] and not c.alive()


def prices(args):
    with cloud() as c, Provider(args.build, c.url, {"spot_prices": "300ms"}) as p:
        c.page = 2
        offers = p.offers()
        assert len(offers) == 8 and offers[B6]["price"] == "0.3011" and offers[A5]["price"] == "0.403"
        assert offers[OD]["price"] == "1.006" and offers[A5]["source"] == "spot price history"
        assert list(offers)[0] == A5 and all(o["launchable"] for o in offers.values())
        p.launch("n1", A5)
        c.control("price", {"zone": "us-east-1a", "type": "g5.xlarge", "price": "0.5"})
        assert p.until(event="change", name="n1", price="0.50")["state"] == "running"
    with cloud() as c, Provider(args.build, c.url, {"call_deadline": "300ms"}, {"on_demand_prices": None}) as p:
        c.fault("throttle", "DescribeSpotPriceHistory", count=-1)
        offers = p.offers()  # without prices, but with an answer: nobody launches what has none
        assert len(offers) == 8 and not any(o["launchable"] for o in offers.values())


def price_history(args):
    """Every change is told, in order, whenever it is heard of: after errors, and from the launch on of what was there before us."""
    def change(p):
        e = p.until(event="price", offer=A5)
        return e["price"], e["at"]

    with cloud() as c, Provider(args.build, c.url, {"spot_prices": "300ms", "call_deadline": "1s"}) as p:
        c.page = 2
        series, now = c.cloud.pools["us-east-1a", "g5.xlarge"].series, int(time.time())
        series += [(now - 90000, "0.1"), (now - 80000, "0.2")]
        p.offers()
        first = [e for e in p.seen if e["event"] == "price" and e["offer"] == A5]
        assert [(e["price"], e["at"]) for e in first] == [("0.10", now - 90000), ("0.20", now - 80000)], first
        c.fault("error", "DescribeSpotPriceHistory", count=-1, code="InternalError")
        calls = c.calls["DescribeSpotPriceHistory"]
        series += [(now - 20, "0.3"), (now - 10, "0.4")]
        wait_until(lambda: c.calls["DescribeSpotPriceHistory"] > calls, 10, "it was asked in vain")
        c.control("clear", {})
        assert [change(p), change(p)] == [("0.30", now - 20), ("0.40", now - 10)]
        p.launch("n1", A5)
        p.say("forget", "n1")
        i, = c.alive()
        i.launched -= 200000
        series[1:1] = [(now - 300000, "0.8"), (now - 250000, "0.9")]
        p.say("adopt", "n1", i.id, "token-n1")
        assert [change(p) for _ in range(5)] == [("0.90", now - 250000), ("0.10", now - 90000), ("0.20", now - 80000),
                                                 ("0.30", now - 20), ("0.40", now - 10)]


def price_list(args):
    """What a pool says goes before the list; the list knows dates and regions; what is in neither is not launched."""
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "prices.csv")
        with open(path, "w") as f:
            f.write("cloud,instance_type,accelerator,accelerator_count,region,price_usd_h,effective_from\n"
                    "aws,g5.xlarge,A10G,1,us-east-1,2.5,\naws,g6.xlarge,L4,1,us-east-1,9.5,2020-01-01\n"
                    "aws,g6.xlarge,L4,1,us-east-1,0.8048,2021-01-01\naws,g6.xlarge,L4,1,eu-west-1,0.1,\n")
        with cloud() as c, Provider(args.build, c.url, {"prices": path},
                                    {"on_demand_prices": "g5.xlarge=1.006", "types": "g5.xlarge,g6.xlarge,p5.48xlarge"}) as p:
            offers = p.offers()
            assert offers[OD]["price"] == "1.006" and offers["us-east-1a/g6.xlarge/on-demand"]["price"] == "0.8048", offers
            assert not offers["us-east-1a/p5.48xlarge/on-demand"]["launchable"]
            assert p.launch("n1", "us-east-1a/g6.xlarge/on-demand")["price"] == "0.8048"


def keys_of_every_kind(args):
    with cloud() as c:
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "credentials")
            with open(path, "w") as f:
                f.write("# ours\n[default]\naws_access_key_id = WRONG\naws_secret_access_key=x\n"
                        "[ work ]\r\naws_access_key_id=AKIDTEST\naws_secret_access_key = secret+test/key\n")
            own = {"credentials": "file", "credentials_file": path, "profile": "work", "call_deadline": "2s"}
            with Provider(args.build, c.url, own, keys={}) as p:
                p.launch("n1", A5)
                assert "profile work" in p.collect("check", "check")[0][0]["text"]
            with Provider(args.build, c.url, {**own, "profile": "default"}, keys={}) as p:
                assert p.launch("n2", A5, state="gone")["failure"] == "denied"
                with open(path, "w") as f:  # rotated: read again once they were refused
                    f.write("[default]\naws_access_key_id=AKIDTEST\naws_secret_access_key=secret+test/key\n")
                p.launch("n3", A5)
        c.keys["ASIAROLE"] = ("temporary/secret", "session+token==")
        c.role = ("ASIAROLE", "temporary/secret", "session+token==", 3600)
        own = {"credentials": "role", "metadata": c.metadata_url}
        with Provider(args.build, c.url, own, keys={}) as p:
            p.launch("n4", A5)
            c.keys["ASIANEW"] = ("other/secret", "newer")
            del c.keys["ASIAROLE"]
            c.role = ("ASIANEW", "other/secret", "newer", 3600)
            p.launch("n5", A5)  # refused once, fetched anew
        c.role = None
        with Provider(args.build, c.url, {**own, "call_deadline": "500ms"}, keys={}) as p:
            e = p.launch("n6", A5, state="gone")
            assert e["failure"] == "denied" and "role" in e["reason"], e
        with Provider(args.build, c.url, {"call_deadline": "500ms", "metadata": "http://127.0.0.1:9"}, keys={}) as p:
            assert p.launch("n7", A5, state="gone")["failure"] == "denied"
        assert c.bad_signatures == 0


def wrong_keys_and_rights(args):
    with cloud() as c:
        bad = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "not it"}
        with Provider(args.build, c.url, keys=bad) as p:
            e = p.launch("n1", A5, state="gone")
            assert e["failure"] == "denied" and "SignatureDoesNotMatch" in e["reason"] and c.bad_signatures >= 1
            rows, done = p.collect("check", "check")
            assert done["failure"] == "denied" and not rows[0]["ok"]
        with Provider(args.build, c.url) as p:
            c.fault("error", "CreateFleet", code="UnauthorizedOperation")
            assert p.launch("n2", A5, state="gone")["failure"] == "denied"
            c.fault("error", "RunInstances", code="UnauthorizedOperation")
            rows, done = p.collect("check", "check")
            by = {r["what"]: r for r in rows}
            assert not by["right to launch"]["ok"] and by["right to terminate"]["ok"] and by["credentials"]["ok"]
            assert by["quota: spot G and VT, vCPUs"]["text"].startswith("64") and done["failure"] == "fine"


def wrong_clock(args):
    """Ours is an hour off the cloud's: signed with theirs after one refusal."""
    for off in (3600, -3600):
        with cloud() as c, Provider(args.build, c.url) as p:
            c.clock_off = off
            p.launch("n1", A5)
            assert any('"skew_s"' in line for line in p.log)
            assert p.terminate("n1")["failure"] == "fine"


def bad_settings(args):
    def refused(text, **more):
        p = Provider(args.build, "http://127.0.0.1:9", **more)
        assert p.process.wait(60) == 1
        p.readers[1].join()
        assert text in p.log[-1], p.log

    refused("did you mean 'region'", settings={"regoin": "x"})
    refused("any, env, file or role", settings={"credentials": "vault"})
    refused("AWS_ACCESS_KEY_ID", settings={"credentials": "env"}, keys={})
    refused("/nonexistent/.aws/credentials", settings={"credentials": "file"}, keys={})
    with cloud() as c:
        def refuses(text, pool=None, offer=A5):
            with Provider(args.build, c.url, pool=pool) as p:
                p.say("launch", "n1", "t1", offer)
                e = p.until(event="refused")
                assert text in e["text"], e

        refuses("ZONE/TYPE/spot", offer="g5.xlarge")
        refuses("engine_url must be an https:// address", {"engine_url": "http://example.com/e", "engine_sha256": "0" * 64})
        refuses("model_sha256 must be", {"model_url": "https://example.com/m", "model_sha256": "abc"})
        assert not c.calls


def user_data_runs(args):
    """The script as an instance runs it: an engine fetched in pieces over a connection that breaks, its sum checked, then
    started with its name, its join token from the tags and the pool's arguments."""
    engine = (b"#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$SPILLWAY_ROOT/arguments\"\n"
              b"cat \"$SPILLWAY_ROOT/join-token\" >> \"$SPILLWAY_ROOT/arguments\"\nsleep 60\n")
    model = os.urandom(3_000_000)
    files = FileServer({"/engine": engine, "/model": model}, cut={"/model": (2, 1_000_000)})
    source = files.url
    pool = {"engine_url": source + "/engine", "engine_sha256": hashlib.sha256(engine).hexdigest(),
            "model_url": source + "/model", "model_sha256": hashlib.sha256(model).hexdigest(),
            "arguments": "--threads,2,--alias,it's", "port": "18080"}
    with cloud(start_machine=Machine) as c, \
            Provider(args.build, c.url, pool=pool, JOIN_URL="https://10.0.0.1:8443", JOIN_TOKEN="once-only") as p:
        p.launch("n1", A5)
        machine = c.alive()[0].machine
        root = machine.root + "/var"
        boots(machine, lambda: os.path.exists(root + "/arguments") and "once-only" in open(root + "/arguments").read(), 20,
              "the engine")
        said = open(root + "/arguments").read()
        imds = said.split("\n")[6]
        assert imds.startswith("http://"), said
        assert said.split("\n") == ["serve", "--host", c.alive()[0].ip, "--port", "18080", "--notices", imds, "--join",
                                    "https://10.0.0.1:8443", "--join-token-file", root + "/join-token", "--name", "n1",
                                    "--state-dir", root, "--dead-man", "10m", "--model", root + "/model.gguf", "--threads", "2", "--alias", "it's", "once-only", ""], said
        assert [f for p, f in files.asked if p == "/model"] == [0, 1_000_000, 2_000_000], files.asked
        assert open(root + "/model.gguf", "rb").read() == model
        assert os.stat(root + "/join-token").st_mode & 0o777 == 0o600
        assert b"once-only" not in c.alive()[0].fields["userdata"]
    files.close()


def a_real_engine(args):
    """The bundle and a model, fetched as the user data says, answer on the instance's own address."""
    bundle = os.path.join(args.build, "spillway-engine.bundle")
    if not os.path.exists(bundle):
        raise Skip("spillway-engine.bundle is not built")
    with tempfile.TemporaryDirectory() as d:
        data = {"/engine": open(bundle, "rb").read(), "/model": open(model_file(args, d), "rb").read()}
    files = FileServer(data)
    pool = {"engine_url": files.url + "/engine", "engine_sha256": hashlib.sha256(data["/engine"]).hexdigest(),
            "model_url": files.url + "/model", "model_sha256": hashlib.sha256(data["/model"]).hexdigest(),
            "arguments": "--threads,1,--alias,tiny", "port": str(free_port())}
    with cloud(start_machine=Machine) as c, Provider(args.build, c.url, pool=pool) as p:
        e = p.launch("n1", A5)
        url = f"http://{e['host']}:{e['port']}"

        def answers():
            try:
                return urllib.request.urlopen(url + "/health", timeout=2).status == 200
            except OSError:
                return False

        boots(c.alive()[0].machine, answers, 30, "the engine")
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}).encode()
        r = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
        assert json.load(urllib.request.urlopen(r, timeout=30))["usage"]["completion_tokens"] >= 1
        ldd = subprocess.run(["env", "-u", "LD_PRELOAD", "ldd", os.path.join(args.build, "spillway-engine.linked")],
                             capture_output=True, text=True)
        needed = {line.split()[0].split("/")[-1].partition(".so")[0] for line in ldd.stdout.splitlines() if line.strip()}
        assert needed <= {"linux-vdso", "libcjson", "libm", "libc", "ld-linux-x86-64"}, needed
        assert p.terminate("n1")["failure"] == "fine"
        assert not answers()
    files.close()


def ends_itself(args):
    """A machine whose engine cannot be fetched in time costs nothing for long."""
    pool = {"engine_url": "http://127.0.0.1:9/engine", "engine_sha256": "0" * 64, "boot_max": "1s"}
    with cloud(start_machine=Machine) as c, Provider(args.build, c.url, pool=pool) as p:
        p.launch("n1", A5)
        e = p.until(event="change", name="n1", state="gone")
        assert e["failure"] == "ended" and "InstanceInitiatedShutdown" in e["reason"], e
        assert not c.alive()


def the_bill(args):
    """What the fake charges is seconds at the price that held."""
    from cloud import Cloud
    c = Cloud(boot_s=1)
    c.add_pool("a", "t", price="0.36", on_demand="3.60")
    i = c.launch(c.pools["a", "t"], "spot", 1000.0, {"tags": {}})
    c.pools["a", "t"].series.append((1100, "0.72"))
    c.end(i, 1200.9, "Client.UserInitiatedShutdown")
    short = c.launch(c.pools["a", "t"], "on-demand", 1000.0, {"tags": {}})
    c.end(short, 1003.0, "Client.UserInitiatedShutdown")
    assert c.cost(short, 2000) == 60 * 10**9 and c.cost(short, 1010) == 10 * 10**9
    del c.instances[short.id]
    j = c.launch(c.pools["a", "t"], "on-demand", 1000.0, {"tags": {}})
    assert c.cost(i, 9999) == 100 * 100_000_000 + 100 * 200_000_000 and c.cost(j, 1010) == 10_000_000_000
    assert c.bill(1010) == c.cost(i, 1010) + 10_000_000_000


if __name__ == "__main__":
    sys.exit(main(__doc__, [life_of_an_instance, one_template_for_a_pool, run_instances, no_capacity_then_cold,
                            next_market_at_once, a_fleet_with_nothing, quota, throttled, lost_answers,
                            an_outcome_that_is_not_known, token_of_the_process_before, adopted_by_hand, preempted,
                            eventual_consistency, ended_while_it_launches, strays, prices, price_history, price_list,
                            keys_of_every_kind, wrong_keys_and_rights, wrong_clock, bad_settings, user_data_runs, a_real_engine,
                            ends_itself, the_bill]))
