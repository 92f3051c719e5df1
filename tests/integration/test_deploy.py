#!/usr/bin/env python3
# runtest: release
"""What stands around a running Spillway: systemd takes the units and finds them hardened, the compose file is one by its
schema, the configurations that come along are good, the image's entry point starts what it says, and the package holds what it
should. --full: what is handed out is compiled by a profile, and installs into a fresh Debian, whose spillway serves."""

import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

from harness import Skip, environment_with, main

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DEPLOY = os.path.join(ROOT, "deploy")
COMPOSE = "compose-pydantic==0.2.2"  # made from the schema of the Compose Specification; unknown keys are errors


def run(*command, expect=0, timeout=120, **more):
    p = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
    assert p.returncode == expect, (command, p.returncode, p.stdout[-3000:], p.stderr[-3000:])
    return p.stdout + p.stderr


def need(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


def units_as_installed(args, folder):
    """With our own programs in place of those that are not installed here."""
    paths = []
    for path in sorted(glob.glob(os.path.join(DEPLOY, "systemd", "*"))):
        with open(path) as f:
            text = f.read()
        to = os.path.join(folder, os.path.basename(path))
        with open(to, "w") as f:
            f.write(text.replace("/usr/bin/", args.build + "/"))
        paths.append(to)
    assert len(paths) == 3
    return paths


def units_are_verified(args):
    need("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        out = run("systemd-analyze", "verify", "--man=no", *units_as_installed(args, folder))
        assert not out.strip(), out


def units_are_hardened(args):
    """systemd's own measure, 0 (nothing can happen) to 10."""
    need("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        for path in units_as_installed(args, folder):
            if path.endswith(".service"):
                most = 20 if "@" not in path else 50  # an engine needs its device
                run("systemd-analyze", "security", "--offline=true", f"--threshold={most}", path)


def compose_follows_its_schema(args):
    python = environment_with(args.build, COMPOSE)
    check = ("import json, sys, yaml\nfrom compose_pydantic import ComposeSpecification\n"
             "d = {k: v for k, v in yaml.safe_load(open(sys.argv[1])).items() if not k.startswith('x-')}\n"
             "ComposeSpecification.model_validate(d)\nprint(json.dumps(d))\n")
    path = os.path.join(DEPLOY, "compose.yaml")
    c = json.loads(run(python, "-c", check, path))
    s = c["services"]
    assert set(s) == {"scheduler", "engine", "engine-gpu", "redis", "prometheus"}
    assert s["engine-gpu"]["runtime"] == "nvidia" and s["engine-gpu"]["profiles"] == ["gpu"] and "runtime" not in s["engine"]
    for name in ("engine", "engine-gpu"):
        e = s[name]["environment"]
        assert e["WARMUP"] == "100" and e["PORT"] == "8080" and "MODEL_PATH" in e["MODEL_PATH"], e
        assert "MAX_BATCH_SIZE" in e["MAX_BATCH_SIZE"]
    assert any(str(p).endswith(":8080") for p in s["scheduler"]["ports"])
    for mount in (v for x in s.values() for v in x.get("volumes", [])):
        source = mount.split(":")[0]
        if source.startswith("./") and source not in ("./models", "./docker/admin.key"):
            assert os.path.exists(os.path.join(DEPLOY, source)), mount
    with tempfile.TemporaryDirectory() as folder:  # and the check finds mistakes
        bad = os.path.join(folder, "compose.yaml")
        with open(path) as f, open(bad, "w") as to:
            to.write(f.read().replace("runtime: nvidia", "runtyme: nvidia"))
        run(python, "-c", check, bad, expect=1)


def configurations_are_good(args):
    for name in ("debian/spillway.yaml", "docker/spillway.yaml"):
        out = run(os.path.join(args.build, "spillway"), "check", "--config", os.path.join(DEPLOY, name))
        assert ": good: " in out, out


def the_entry_point_starts_what_it_says(args):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("spillway", "spillway-engine"):
            path = os.path.join(folder, name)
            with open(path, "w") as f:
                f.write('#!/bin/sh\necho "$(basename "$0") $*"\n')
            os.chmod(path, 0o755)
        entry = os.path.join(DEPLOY, "docker", "entrypoint")
        env = {"PATH": folder + ":" + os.environ["PATH"]}
        assert run(entry, env=env) == "spillway serve --config /etc/spillway/spillway.yaml\n"
        out = run(entry, "engine", "--alias", "m", env={**env, "MODEL_PATH": "/models/a.gguf", "MAX_BATCH_SIZE": "32"})
        assert out == ("spillway-engine serve --model /models/a.gguf --host 0.0.0.0 --port 8080 --max-batch 32 --warmup 100 "
                       "--alias m\n"), out
        assert "set MODEL_PATH" in run(entry, "engine", env=env, expect=2)
        run(entry, "health", env={**env, "PORT": "1"}, expect=1)


def flags_of_the_engine_exist(args):
    """What the units and the image call the engine with."""
    text = run(os.path.join(args.build, "spillway-engine"), "serve", "--help")
    for flag in ("--model", "--host", "--port", "--max-batch", "--warmup", "--alias", "MODEL_PATH", "MAX_BATCH_SIZE"):
        assert flag in text, flag


def package(args, folder):
    if args.sanitized:
        raise Skip("a package is made of the release build")
    need("cpack")
    need("dpkg-deb")
    run("cpack", "--config", os.path.join(args.build, "CPackConfig.cmake"), "-G", "DEB", "-B", folder, cwd=args.build, timeout=600)
    found = glob.glob(os.path.join(folder, "spillway_*.deb"))
    assert len(found) == 1, found
    return found[0]


def the_package_holds_what_it_should(args):
    with tempfile.TemporaryDirectory() as folder:
        deb = package(args, folder)
        names = {line.split()[5] for line in run("dpkg-deb", "--contents", deb).splitlines()}
        for name in ("usr/bin/spillway", "usr/bin/spillway-engine", "lib/systemd/system/spillway.service",
                     "lib/systemd/system/spillway.socket", "lib/systemd/system/spillway-engine@.service",
                     "etc/spillway/spillway.yaml", "usr/share/doc/spillway/OPERATIONS.md", "usr/share/doc/spillway/copyright"):
            assert any(n == "./" + name or n == "./usr/" + name for n in names), (name, sorted(names))
        control = os.path.join(folder, "control")
        run("dpkg-deb", "--control", deb, control)
        with open(os.path.join(control, "control")) as f:
            depends = re.search(r"^Depends: (.*)$", f.read(), re.M).group(1)
        for library in ("libevent-2.1-7", "libcurl4", "libssl3", "libsqlite3-0", "libyaml-0-2", "adduser"):
            assert library in depends, (library, depends)
        for script in ("postinst", "prerm", "postrm"):
            run("sh", "-n", os.path.join(control, script))


def it_is_built_by_a_profile(args):
    """Two builds, so it takes minutes. The one that remains has been trained, and no longer counts."""
    if not args.full:
        raise Skip("in --full only")
    need("gcc")
    need("nm")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        out = run(os.path.join(ROOT, "tools", "build_profiled.sh"), folder, "-DCMAKE_C_COMPILER=gcc", timeout=3600)
        assert f"done: {folder}/spillway" in out, out
        for part in ("base", "policies", "scheduler"):
            assert glob.glob(os.path.join(folder, part, "**", "*.gcda"), recursive=True), part
        assert "spillway" in run(os.path.join(folder, "spillway"), "version")
        assert "__gcov" not in run("nm", os.path.join(folder, "spillway"))
        assert os.path.exists(os.path.join(folder, "spillway-engine"))


def it_installs_into_a_fresh_debian(args):
    if not args.full:
        raise Skip("in --full only")
    need("debootstrap")
    if os.geteuid() != 0:
        raise Skip("a chroot needs root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        deb, root = package(args, folder), os.path.join(folder, "root")
        mirror = re.search(r"https?://\S+", run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages")).group(0)
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root, mirror, timeout=900)
        for path in ("/etc/apt/sources.list", "/etc/resolv.conf", "/etc/hosts"):
            if os.path.exists(path):
                shutil.copy(path, root + path)
        for path in ("/etc/apt/apt.conf.d", "/etc/apt/sources.list.d"):
            if os.path.isdir(path):
                shutil.copytree(path, root + path, dirs_exist_ok=True)
        shutil.copy(deb, root + "/spillway.deb")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("chroot", root, "apt-get", "update", "-qq", env=env, timeout=300)
        out = run("chroot", root, "apt-get", "install", "-y", "--no-install-recommends", "/spillway.deb", env=env, timeout=600)
        assert "edit /etc/spillway/spillway.yaml" in out, out
        assert "spillway" in run("chroot", root, "/usr/bin/spillway", "version")
        run("chroot", root, "/usr/bin/spillway-engine", "--help")
        assert ": good: " in run("chroot", root, "/usr/bin/spillway", "check", "--config", "/etc/spillway/spillway.yaml")
        owner = run("chroot", root, "stat", "-c", "%U %a", "/var/lib/spillway").split()
        assert owner == ["spillway", "750"], owner
        # Again is an upgrade; what the operator changed stays.
        with open(root + "/etc/spillway/spillway.yaml", "a") as f:
            f.write("# ours\n")
        run("chroot", root, "dpkg", "-i", "/spillway.deb", env=env)
        with open(root + "/etc/spillway/spillway.yaml") as f:
            assert f.read().endswith("# ours\n")
        run("chroot", root, "apt-get", "purge", "-y", "spillway", env=env, timeout=300)
        assert not os.path.exists(root + "/usr/bin/spillway")


if __name__ == "__main__":
    main(__doc__, [units_are_verified, units_are_hardened, compose_follows_its_schema, configurations_are_good,
                   the_entry_point_starts_what_it_says, flags_of_the_engine_exist, the_package_holds_what_it_should,
                   it_is_built_by_a_profile, it_installs_into_a_fresh_debian])
