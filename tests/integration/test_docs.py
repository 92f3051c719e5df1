#!/usr/bin/env python3
# runtest: release
"""What documents name exists: links and their anchors, files, commands with their options, metrics, alerts, keys of the
configuration; and what lists of verbs and threads should name is in them. Generated pages have tests of their own; this
reads every Markdown file."""

import functools
import glob
import os
import re
import subprocess

from harness import main

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TREES = ("base", "deploy", "docs", "engine", "kernels", "models", "policies", "providers", "scheduler", "tests", "tools")
SOURCE = (".c", ".h", ".cu", ".cuh", ".py", ".yml", ".yaml", ".lua")


def files(trees=TREES):
    for tree in trees:
        for folder, _, names in os.walk(os.path.join(ROOT, tree)):
            yield from (os.path.join(folder, name) for name in names if name != "CMakeLists.txt")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


@functools.cache
def documents():
    """{path from the root: text}"""
    found = [os.path.join(ROOT, "README.md"), *(f for f in files() if f.endswith(".md"))]
    return {os.path.relpath(f, ROOT): read(f) for f in found}


@functools.cache
def source(trees=TREES):
    return "\n".join(read(f) for f in files(trees) if f.endswith(SOURCE) and not f.endswith("test_docs.py"))


def words():
    """(document, line, what stands in `backquotes`), of one line each"""
    for name, text in documents().items():
        for m in re.finditer(r"`([^`\n]+)`", text):
            yield name, text.count("\n", 0, m.start()) + 1, m.group(1)


def none(wrong):
    assert not wrong, "\n" + "\n".join(wrong)


def anchors(text):
    heads = (re.sub(r"[`*]", "", h.strip().lower()) for h in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[^\w\- ]", "", h).replace(" ", "-") for h in heads}


def links(_):
    wrong, seen = [], 0
    for name, text in documents().items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", target):
                continue
            seen += 1
            path, _, anchor = target.partition("#")
            to = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not os.path.exists(os.path.join(ROOT, to)):
                wrong.append(f"{name}: {target}: there is no such file")
            elif anchor and anchor not in anchors(documents()[to]):
                wrong.append(f"{name}: {target}: there is no such heading")
    assert seen > 50, seen
    none(wrong)


def paths(_):
    """Files and folders of the repository, from its root, from the document's folder, or from that of its subject."""
    wrong, seen = [], 0
    named = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*(?:\.(?:c|h|cu|cuh|py|md|sh|ya?ml|cmake|service)|\.\*)|(?:[\w.-]+/){2,}")
    for name, line, word in words():
        if not named.fullmatch(word) or re.match(r"[\w.]*\.(md|ya?ml)$|state/|queue\.|breaker\.", word):
            continue
        seen += 1
        under = (".", os.path.dirname(name), "scheduler", "tests", "tests/*", "*", "*/*", "deploy/prometheus")
        if not any(glob.glob(os.path.join(ROOT, u, word)) for u in under):
            wrong.append(f"{name}:{line}: {word}: there is no such file")
    assert seen > 300, seen
    none(wrong)


@functools.cache
def options(build, *verb):
    done = subprocess.run([os.path.join(build, verb[0]), *verb[1:], "--help"], capture_output=True, text=True)
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", done.stdout + done.stderr)) if done.returncode == 0 else None


def commands(args):
    """`spillway VERB [ACTION] --option`: in documents, and where the programs are started by others."""
    wrong, seen = [], 0
    command = re.compile(r"(?<![\w/.-])(?:build/|/usr/bin/)?(spillway(?:-engine)?) ([a-z][a-z-]+)( [^`\n|&;]*)?")
    started = [f for f in files() if os.path.relpath(f, ROOT).startswith("deploy")] + [os.path.join(ROOT, "quickstart")]
    for name, text in {**documents(), **{os.path.relpath(f, ROOT): read(f) for f in started}}.items():
        for program, verb, rest in command.findall(text):
            known = options(args.build, program, verb)
            if known is None:
                continue  # prose
            given = re.split(r" {2,}| # ", rest.strip())[0].split()
            action = options(args.build, program, verb, given[0]) if given and re.fullmatch("[a-z]+", given[0]) else None
            seen += 1
            for option in (w.partition("=")[0] for w in given if re.match("--?[a-z]", w)):
                if option not in known | (action or set()):
                    wrong.append(f"{name}: {program} {verb} {rest}: there is no {option}")
    assert seen > 100, seen
    none(wrong)


def verbs(args):
    """The table of docs/ARCHITECTURE.md has all of them."""
    wrong = []
    for program in ("spillway", "spillway-engine"):
        told = subprocess.run([os.path.join(args.build, program), "--help"], capture_output=True, text=True, check=True).stdout
        row = re.search(rf"^\| `{program}` \|.*$", documents()["docs/ARCHITECTURE.md"], re.M).group()
        known = set(re.findall(r"^  ([a-z][a-z-]+)  ", told, re.M)) - {"help", "version"}
        assert len(known) > 5, told
        wrong += [f"{program}: {verb} is not in it" for verb in known if f"`{verb}`" not in row]
    none(wrong)


def threads(_):
    """Names that the code gives as they stand; those with a number in them are not looked for."""
    given = set(re.findall(r'(?:worker_new|thread_start)\([^;"]*"([a-z-]+)"', source(("base", "engine", "kernels", "scheduler"))))
    told = re.search(r"Every\s+thread has a name.*?Bounds", documents()["docs/ARCHITECTURE.md"], re.S).group()
    assert len(given) > 15, given
    none([f"docs/ARCHITECTURE.md: the thread {name} is not named" for name in sorted(given) if f"`{name}`" not in told])


def metrics_and_alerts(_):
    wrong, seen = [], 0
    for name, line, word in words():
        for metric in re.findall(r"\b(?:spillway_[a-z0-9_]+[a-z0-9]|vllm:[a-z_]+[a-z]|Spillway[A-Z]\w+)", word):
            seen += 1
            if metric not in source():
                wrong.append(f"{name}:{line}: {metric}: nothing has this name")
    assert seen > 50, seen
    none(wrong)


def keys(_):
    """A dotted word whose first part is a section of the configuration is a key, or the beginning of keys."""
    known = set(re.findall(r"^\| `([^`]+)`", documents()["docs/CONFIG.md"], re.M))
    sections = {k.partition(".")[0] for k in known if "." in k} - {"log", "ledger"}  # ledger.db, log.level of others
    wrong, seen = [], 0
    for name, line, word in words():
        if not re.fullmatch(r"[a-z_]+(\.[a-z_*]+)+", word) or word.partition(".")[0] not in sections:
            continue
        if word.endswith((".c", ".h", ".py", ".db", ".css")):
            continue
        seen += 1
        stem = word[:-1] if word.endswith("*") else word + "."
        if not any(k == word or k.startswith(stem) for k in known) and f"`{word}`" not in documents()["docs/CONFIG.md"]:
            wrong.append(f"{name}:{line}: {word}: there is no such key")
    assert seen > 80, seen
    none(wrong)


if __name__ == "__main__":
    main(__doc__, [links, paths, commands, verbs, threads, metrics_and_alerts, keys])
