#!/usr/bin/env python3
# runtest: release
"""What a newcomer runs first: ./quickstart asks one question and leaves nothing behind; with --keep it ends, too, and what it
leaves is where it says. Then what README.md says under Run, word by word. The programs are those that were built already:
nothing is installed or compiled here."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from harness import free_port, main, request, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def clone(args, folder):
    """Of a clone what both need. Returns the environment."""
    os.makedirs(os.path.join(folder, "tools"))
    os.makedirs(os.path.join(folder, "bin"))
    for name in ("tools/deps.sh", "bin/ninja"):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n")
        os.chmod(os.path.join(folder, name), 0o755)
    shutil.copy(os.path.join(ROOT, "quickstart"), folder)
    os.symlink(os.path.abspath(args.build), os.path.join(folder, "build"))
    os.symlink(os.path.join(ROOT, "models"), os.path.join(folder, "models"))
    return {**os.environ, "TMPDIR": folder, "PATH": os.path.join(folder, "bin") + ":" + os.environ["PATH"]}


def quickstart(args, folder, *flags):
    """Its output to the end: a process that it leaves and that held the pipe would keep us waiting."""
    env = clone(args, folder)
    done = subprocess.run(["./quickstart", *flags], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(folder):
    return [name for name in os.listdir(folder) if name.startswith("spillway-quickstart.")]


def leaves_nothing(args):
    with tempfile.TemporaryDirectory() as folder:
        said = quickstart(args, folder, "What is a budget?")
        assert "> What is a budget?" in said and re.search(r"^node +this-machine$", said, re.M), said
        assert re.search(r"^charge +\$0\.0", said, re.M) and not states(folder), said


def keeps_what_it_says(args):
    with tempfile.TemporaryDirectory() as folder:
        said = quickstart(args, folder, "--keep")
        pid = int(re.search(r"stop with: kill (\d+)", said).group(1))
        try:
            port = int(re.search(r"127\.0\.0\.1:(\d+)/v1/chat/completions", said).group(1))
            assert len(states(folder)) == 1 and states(folder)[0] in said, said
            assert request(port, "GET", "/readyz").status == 200
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) != 0, what="the scheduler's end")


def readme(args):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        said = re.search(r"## Run\n\n```sh\n(.*?)```", f.read(), re.S).group(1)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()  # 8080 may be somebody's
        said = said.replace("<<END\n", f"<<END\nlisten: 127.0.0.1:{port}\n").replace("ask ", f"ask --url http://127.0.0.1:{port} ")
        script = f"set -e\ntrap 'kill $!; wait' EXIT\n{said}"
        done = subprocess.run(["sh", "-c", script], cwd=folder, env=clone(args, folder), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "good: 1 node, 1 model" in done.stdout and re.search(r"^charge +\$0\.0", done.stdout, re.M), done.stdout
        assert re.search(r"this-machine .* ok \(interactive\)$", done.stdout, re.M), done.stdout
        assert re.search(r"^this-machine +ready ", done.stdout, re.M), done.stdout


if __name__ == "__main__":
    main(__doc__, [leaves_nothing, keeps_what_it_says, readme])
