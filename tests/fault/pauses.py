"""Runs a command and stops each process below it now and then, for up to MS milliseconds and a fifth of the time in all:
what happens on a machine whose cores others have. python3 pauses.py MS COMMAND...; its status is the command's."""

import os
import random
import signal
import subprocess
import sys
import time

SHARE, TURN, LOOK = 0.2, 0.004, 0.1  # of the time; seconds: how often each may be stopped, and new ones are looked for


def stat(pid):
    """(parent, state), or None: there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(") ")[2].split()
        return int(fields[1]), fields[0]
    except (OSError, IndexError):
        return None


def below(root):
    children = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        seen = stat(pid)
        if seen:
            children.setdefault(seen[0], []).append(int(pid))
    found, ask = [], [root]
    while ask:
        more = children.get(ask.pop(), [])
        found += more
        ask += more
    return found


def send(pid, what):
    try:
        os.kill(pid, what)
        return True
    except ProcessLookupError:
        return False


def pause(command, most):
    """Until it ends. A process that somebody else has stopped is left alone."""
    stopped, pids, looked = {}, [], 0
    chance = TURN * SHARE / (1 - SHARE) / (most / 2)
    while command.poll() is None:
        now = time.monotonic()
        if now - looked >= LOOK:
            pids, looked = [command.pid, *below(command.pid)], now
        for pid in [p for p, until in stopped.items() if until <= now]:
            del stopped[pid]
            send(pid, signal.SIGCONT)
        for pid in pids:
            if pid not in stopped and random.random() < chance:
                seen = stat(pid)
                if seen and seen[1] in "SR" and send(pid, signal.SIGSTOP):
                    stopped[pid] = now + random.uniform(0, most)
        time.sleep(TURN)
    for pid in stopped:
        send(pid, signal.SIGCONT)


if len(sys.argv) < 3:
    sys.exit(__doc__)
started = subprocess.Popen(sys.argv[2:])
pause(started, float(sys.argv[1]) / 1000)
sys.exit(started.returncode if started.returncode >= 0 else 128 - started.returncode)
