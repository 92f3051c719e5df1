"""Put an instrumented build of the scheduler to work, so that the next one is compiled by what it does: whole answers and
streams from an upstream that is there at once, by the front door's own bench, with everything on and with everything off.

    python3 tools/train_profile.py --build build-profiled

A part of tools/build_profiled.sh. Counts differ from run to run, their proportions hardly. Standard library only, loopback
only; about 20 s."""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "bench"))
from frontdoor import OURS, Proxy, free_port, load_command, pinned, spillway  # noqa: E402

LOADS = [
    ("closed", {"connections": 64, "determined": True}),
    ("closed", {"connections": 64, "stream": True}),
    ("open", {"connections": 4000, "rate": 1000, "stream": True, "determined": True}),
]


def put_load_on(row, args, cores):
    for mode, options in LOADS:
        command = load_command(args.build, row, mode, seconds=args.seconds, **options)
        answer = json.loads(subprocess.run(pinned(cores, command), check=True, capture_output=True, text=True).stdout)
        # On a machine that builds other things besides, a few may be late; a profile of failures is none.
        if answer["errors"] * 10 >= answer["requests"]:
            sys.exit(f"train_profile: {row.name}: {answer['errors']} of {answer['requests']} requests ({mode}) failed")


def train(args, folder):
    cores = ",".join(str(c) for c in sorted(os.sched_getaffinity(0)))
    port, program = free_port(), os.path.join(args.build, "bench", "frontdoor_upstream")
    upstream = Proxy("upstream", [program, str(port)], port, "/health", folder)
    settings = argparse.Namespace(build=args.build, full_settings=None, pure_settings=None, no_limits=False)
    running = [upstream.start(cores)]
    try:
        for name in OURS:
            os.mkdir(os.path.join(folder, name))
            row = spillway(settings, os.path.join(folder, name), port, name)
            running.append(row.start(cores))
            put_load_on(row, args, cores)
            row.stop()  # writes its counts
    finally:
        for program in running:
            program.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True, help="folder of the build with -DSPILLWAY_PROFILE=generate")
    p.add_argument("--seconds", type=float, default=1.5, help="of each load")
    args = p.parse_args()
    args.build = os.path.abspath(args.build)
    folder = tempfile.mkdtemp(prefix="train-")
    try:
        train(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not glob.glob(os.path.join(args.build, "scheduler", "**", "front", "*.gcda"), recursive=True):
        sys.exit(f"train_profile: {args.build} counts nothing: configure it with -DSPILLWAY_PROFILE=generate")


if __name__ == "__main__":
    main()
