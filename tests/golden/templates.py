#!/usr/bin/env python3
"""Chat templates: every prompt that `spillway-engine render-chat` writes, byte for byte against the published templates.

The expected prompts were rendered from the model publishers' Jinja files by jinja2 and by another engine (see the note
in chat_templates.json). Python standard library only.
"""
import argparse
import json
import os
import subprocess
import sys

NOT_OURS = {"deepseek-r1 (llama-cpp-deepseek-r1.jinja)", "deepseek-v3.2"}  # a private variant; a model not supported


def render(engine, name, thinking, messages):
    command = [engine, "render-chat", "--template", name, "--thinking", thinking]
    done = subprocess.run(command, input=json.dumps(messages).encode(), capture_output=True, timeout=60)
    if done.returncode != 0:
        return done.stderr
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--build", help="build folder that holds spillway-engine")
    where.add_argument("--engine", help="the program itself")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--full", action="store_true", help="same as without: all cases always run")
    args = parser.parse_args()
    engine = args.engine or os.path.join(args.build, "spillway-engine")
    path = os.path.join(args.shared, "chat_templates.json")
    if not os.path.exists(path):
        print("skipped: templates: no ../shared")
        return 0
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    passed = failed = 0
    for name, template in data["templates"].items():
        if name in NOT_OURS:
            continue
        for case, rendered in template["render"].items():
            for thinking, key in (("on", "expected"), ("off", "expected_thinking_off")):
                got = render(engine, name, thinking, data["conversations"][case])
                if got == rendered[key].encode():
                    passed += 1
                else:
                    failed += 1
                    print(f"{name}/{case}, thinking {thinking}:\n  got      {got!r}\n  expected {rendered[key].encode()!r}")
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
