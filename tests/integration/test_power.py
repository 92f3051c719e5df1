#!/usr/bin/env python3
# runtest: release first
"""Machines on the premises: switched by Redfish as vendors differ in it, by magic packets and by a command, proven once to come
back and never switched off without that. Against scripted controllers (tests/fakes/redfish.py, whose data files cite the
Redfish documents) and against sushy-tools' emulator (PyPI, in a virtual environment of the build folder)."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import listens, Skip, certificate, environment_with, free_port, main, request, to_yaml, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fakes"))
from redfish import MAC, PASSWORD, USER, Machine  # noqa: E402

SUSHY = "sushy-tools==2.2.0"


class Site:
    """A configuration with one machine, and the commands of an operator."""

    def __init__(self, args, port, **machine):
        self.args, self.folder = args, tempfile.TemporaryDirectory(prefix="spillway-power-")
        self.config = self.path("spillway.yaml")
        with open(self.path("bmc.password"), "w") as f:
            f.write(PASSWORD + "\n")
        self.machine = {"power_poll": "60ms", "power_deadline": "20s", "off_grace": "5s", **machine}
        self.port = port
        self.write()

    def write(self):
        c = {"listen": f"127.0.0.1:0", "state_dir": self.path("state"), "auth": {"mode": "off"},
             "nodes": [{"name": "gpu1", "url": f"http://127.0.0.1:{self.port}", "models": ["m"],
                        "price": {"input": "0", "output": "0"}, "machine": self.machine}]}
        with open(self.config, "w") as f:
            f.write("\n".join(line for k, v in c.items() for line in to_yaml(k, v)) + "\n")
        os.makedirs(self.path("state"), exist_ok=True)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *words, expect=0, timeout=60):
        p = subprocess.run([os.path.join(self.args.build, "spillway"), "nodes", *words, "--config", self.config],
                           capture_output=True, text=True, timeout=timeout)
        assert p.returncode == expect, (p.returncode, p.stdout, p.stderr)
        assert PASSWORD not in p.stdout + p.stderr
        return p.stdout + p.stderr

    @property
    def proof(self):
        with open(self.path("state/static.gpu1.proof.json")) as f:
            return json.load(f)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.folder.cleanup()


def bmc(m, **more):
    return {"bmc": m.url, "bmc_user": USER, "bmc_password_file": "bmc.password", **more}


def enrolled_then_switched(args):
    with Machine("plain") as m, Site(args, m.engine_port, **bmc(m)) as site:
        assert "never proven" in site.run("power", "gpu1")
        out = site.run("power", "gpu1", "off", expect=1)
        assert "spillway nodes enrol gpu1" in out and m.resets == [], (out, m.resets)
        out = site.run("enrol", "gpu1")
        assert "comes back: proven" in out, out
        assert m.resets == ["GracefulShutdown", "On"], m.resets
        p = site.proof
        assert p["ways"] == "redfish" and p["answer_ms"] >= p["on_ms"] > 0 and p["milliwatts_on"] == 374000, p
        site.run("power", "gpu1", "off")
        assert m.power == "Off" and "gpu1 is off; its way back is proven" in site.run("power", "gpu1")
        assert "gpu1 is on" in site.run("power", "gpu1", "on")
        assert m.opened == m.deleted > 0 and m.open_sessions == 0
        # Another address is another way: proven anew, or not at all.
        site.machine["bmc"] = m.url + "/redfish/v1/Systems/437XR1138R2"
        site.write()
        assert "have changed since" in site.run("power", "gpu1", "off", expect=1)
        assert m.power == "On"


def vendors_differ(args):
    for manners, grace, resets, watts in (("action_info", "20s", ["PushPowerButton", "ForceOn"], 512000),
                                          ("silent", "20s", ["GracefulShutdown", "ForceOff", "On"], None),
                                          ("full_house", "1s", ["GracefulShutdown", "ForceOff", "On"], None)):
        with Machine(manners) as m, Site(args, m.engine_port, **bmc(m, off_grace=grace)) as site:
            site.run("enrol", "gpu1")
            assert m.resets == resets, (manners, m.resets)
            assert site.proof.get("milliwatts_on") == watts, (manners, site.proof)
            assert m.power == "On" and m.open_sessions == 0 and m.opened == m.deleted, manners


def certificates_are_pinned(args):
    with tempfile.TemporaryDirectory() as folder:
        tls = certificate(folder, "bmc")
        other = certificate(folder, "other")

        def pin(cert):
            out = subprocess.run(["openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256"], check=True,
                                 capture_output=True, text=True).stdout
            return out.split("=")[1].strip()

        with Machine("plain", tls=tls) as m:
            with Site(args, m.engine_port, **bmc(m, bmc_pin=pin(tls[0]))) as site:
                assert "gpu1 is on" in site.run("power", "gpu1")
            before = len(m.seen)
            for wrong in ({"bmc_pin": pin(other[0])}, {}, {"bmc_ca": other[0]}):
                with Site(args, m.engine_port, **bmc(m, **wrong), power_deadline="30s", off_grace="0") as site:
                    out = site.run("power", "gpu1", expect=1)
                    assert "certificate" in out, out
            assert len(m.seen) == before  # nothing was told to who could not show that it is the controller
            with Site(args, m.engine_port, **bmc(m, bmc_pin="12:34")) as site:
                assert "bmc_pin" in site.run("power", "gpu1", expect=2)


def a_refused_login_is_not_repeated(args):
    with Machine("plain") as m, Site(args, m.engine_port, **bmc(m)) as site:
        with open(site.path("bmc.password"), "w") as f:
            f.write("wrong-password\n")
        out = site.run("power", "gpu1", expect=1)
        assert "refuses user 'operator'" in out and "wrong-password" not in out, out
        assert m.logins_refused == 1  # controllers lock accounts


def what_does_not_come_back_is_not_proven(args):
    with Machine("plain") as m, Site(args, m.engine_port, **bmc(m)) as site:
        site.machine["power_deadline"] = "2s"
        site.machine["health"] = f"http://127.0.0.1:{free_port()}/health"
        site.write()
        out = site.run("enrol", "gpu1", expect=1)
        assert "is it started at boot?" in out, out
        assert not os.path.exists(site.path("state/static.gpu1.proof.json"))
        assert "never proven" in site.run("power", "gpu1", "off", expect=1)


def woken_by_packets(args):
    """No controller: switched off by the operator's command, woken by magic packets with a SecureOn password, seen by
    connections. The command names a file; the machine goes down when it is there."""
    with Machine("plain", secure=bytes.fromhex("010203040506")) as m, Host(m) as host:
        with Site(args, m.engine_port, mac="00:25:90:ab:cd:ef", wol_broadcast="127.255.255.255", wol_port=m.wol_port,
                  wol_secure_file="secure", probe=f"127.0.0.1:{host.port}") as site:
            with open(site.path("secure"), "w") as f:
                f.write("01:02:03:04:05:06\n")
            assert "nothing switches it off" in site.run("enrol", "gpu1", expect=2)
            site.machine["off_command"] = ["touch", site.path("off")]
            site.write()
            host.goes_down_at(site.path("off"))
            assert "gpu1 is on" in site.run("power", "gpu1")
            site.run("enrol", "gpu1")
            assert site.proof["ways"] == "wol" and m.power == "On" and m.resets == [], site.proof
            # Three, one after the other; who has seen it come up sends no more.
            assert 1 <= len(m.packets) <= 3 and {len(p) for p in m.packets} == {108}
            site.run("power", "gpu1", "off")
            assert m.power == "Off" and "gpu1 is off; its way back is proven" in site.run("power", "gpu1")


class Host:
    """A port that is silent while the machine is off: nobody accepts, and the queue of connections is full."""

    def __init__(self, machine):
        self.machine, self.file, self.ended, self.crowd = machine, None, False, []
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.socket.settimeout(0.02)
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def goes_down_at(self, path):
        self.file = path

    def _run(self):
        while not self.ended:
            if self.file and os.path.exists(self.file):
                os.unlink(self.file)
                self.machine.switch("Off")
            if self.machine.word() == "On":
                self._up()
            else:
                self._down()

    def _up(self):
        for s in self.crowd:
            s.close()
        self.crowd = []
        try:
            self.socket.accept()[0].close()
        except socket.timeout:
            pass

    def _down(self):
        time.sleep(0.02)
        while len(self.crowd) < 4:  # more than a queue of length 0 takes
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.port))
            self.crowd.append(s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True
        self.thread.join()
        for s in self.crowd + [self.socket]:
            s.close()


def both_ways_are_proven(args):
    with Machine("plain") as m:
        with Site(args, m.engine_port, **bmc(m), mac="00:25:90:ab:cd:ef", wol_broadcast="127.255.255.255",
                  wol_port=m.wol_port) as site:
            site.run("enrol", "gpu1")
            assert site.proof["ways"] == "redfish,wol" and m.resets == ["GracefulShutdown", "On", "GracefulShutdown"], m.resets
            assert 1 <= len(m.packets) <= 3 and all(p == b"\xff" * 6 + MAC * 16 for p in m.packets)
        m.wakes = False
        m.resets.clear()
        with Site(args, m.engine_port, **bmc(m), mac="00:25:90:ab:cd:ef", wol_broadcast="127.255.255.255",
                  wol_port=m.wol_port, power_deadline="2s") as site:
            assert "was not seen on" in site.run("enrol", "gpu1", expect=1)
            assert not os.path.exists(site.path("state/static.gpu1.proof.json"))


def a_running_scheduler_drains_it_first(args):
    with Machine("plain") as m, Site(args, m.engine_port, **bmc(m)) as site:
        p = subprocess.Popen([os.path.join(args.build, "spillway"), "serve", "--config", site.config],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(site.path("state/admin.sock")), 10, "the admin socket")
            out = site.run("enrol", "gpu1")
            assert "drained" in out and "proven" in out, out
            assert "draining" not in site.run("list")
        finally:
            p.terminate()
            assert p.wait(20) == 0


class Emulator:
    """sushy-tools with its fake driver, which applies what is asked after 1 to 11 seconds on purpose; here after one, but for
    the long form."""

    def __init__(self, args, folder):
        self.port = free_port()
        config = os.path.join(folder, "emulator.conf")
        with open(config, "w") as f:
            f.write(f"SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n"
                    f"SUSHY_EMULATOR_LISTEN_PORT = {self.port}\nSUSHY_EMULATOR_STATE_DIR = {folder!r}\n"
                    "SUSHY_EMULATOR_FAKE_SYSTEMS = [{'uuid': '27946b59-9e44-4fa7-8e91-f3527a1ef094', 'name': 'fake', "
                    "'power_state': 'On', 'external_notifier': False, 'nics': []}]\n")
        quick = "" if args.full else "import random; random.randint = lambda a, b: 1; "
        self.process = subprocess.Popen(
            [environment_with(args.build, SUSHY), "-c", f"import sys; {quick}sys.argv = ['e', '--config', {config!r}]; "
             "from sushy_tools.emulator.main import main; main()"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._answers, 30, "the emulator answers")
        except AssertionError:
            self.__exit__()
            raise

    def _answers(self):
        assert self.process.poll() is None, "the emulator ended"
        try:
            return request(self.port, "GET", "/redfish/v1/").status == 200
        except (OSError, AssertionError):
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def sushy_tools(args):
    if args.sanitized and not args.full:
        raise Skip("the emulator is met by the release build")
    with tempfile.TemporaryDirectory() as folder, Emulator(args, folder) as emulator, Machine("plain") as host:
        with Site(args, host.engine_port, bmc=f"http://127.0.0.1:{emulator.port}", off_grace="30s", power_deadline="60s") as site:
            assert "gpu1 is on" in site.run("power", "gpu1")
            assert "proven" in site.run("enrol", "gpu1", timeout=120)
            p = site.proof
            assert p["ways"] == "redfish" and p["off_ms"] > 0 and p["on_ms"] > 0, p


if __name__ == "__main__":
    main(__doc__, [enrolled_then_switched, vendors_differ, certificates_are_pinned, a_refused_login_is_not_repeated,
                   what_does_not_come_back_is_not_proven, woken_by_packets, both_ways_are_proven,
                   a_running_scheduler_drains_it_first, sushy_tools])
