#!/usr/bin/env python3
# runtest: release
"""Logs in Elasticsearch: every field the code logs has an ECS name in the ingest pipeline or a type in the index
template, of the kind the code gives it; the pipeline, run here on lines as base/log.c writes them, yields the ECS
document it should."""

import copy
import json
import os
import re

import harness

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ELK = os.path.join(ROOT, "deploy", "elk")
FOLDERS = ("base", "kernels", "engine", "policies", "providers", "scheduler")
FRAME = ("time", "level", "program", "area", "message")  # what base/log.c writes itself
KINDS = {"S": "string", "I": "number", "D": "number", "B": "boolean"}
TYPES = {"keyword": "string", "match_only_text": "string", "long": "number", "double": "number", "boolean": "boolean"}
TEXT_AS_NUMBER = {"charge_usd", "charge_max_usd", "spent_usd", "waste_usd", "excess_usd"}  # exact as text in the log, a number in charts
# The ECS fields we use and their kinds (ECS 8.17).
ECS = {
    "@timestamp": "date", "message": "string", "log.level": "string", "log.logger": "string",
    "service.name": "string", "service.version": "string", "http.request.id": "string", "trace.id": "string",
    "http.response.status_code": "number", "organization.name": "string", "gen_ai.request.model": "string",
    "gen_ai.usage.input_tokens": "number", "gen_ai.usage.output_tokens": "number", "gen_ai.response.id": "string",
    "client.address": "string", "user.name": "string", "event.reason": "string", "event.duration": "number",
    "event.kind": "string", "event.module": "string", "event.dataset": "string", "ecs.version": "string",
    "error.code": "string", "error.message": "string", "url.path": "string", "file.path": "string",
    "server.address": "string", "server.port": "number", "process.pid": "number", "process.exit_code": "number",
}  # fmt: skip


def load(name):
    with open(os.path.join(ELK, name), encoding="utf-8") as f:
        return json.load(f)


def processors():
    return [next(iter(p.items())) for p in load("ingest-pipeline.json")["processors"]]


def sources():
    for folder in FOLDERS:
        for where, _, files in os.walk(os.path.join(ROOT, folder)):
            for name in files:
                if name.endswith((".c", ".cu")) and not (folder == "base" and name == "log.c"):
                    path = os.path.join(where, name)
                    with open(path, encoding="utf-8") as f:
                        yield os.path.relpath(path, ROOT), f.read()


def logged():
    """{field: {kind}} of every call in the code. A key that is no literal would escape us, so it is refused."""
    fields = {}
    for path, text in sources():
        for kind, argument in re.findall(r"\bLOG_([SIDB])\(\s*([^,]*),", text):
            assert re.fullmatch(r'"[a-z][a-z0-9_]*"', argument), f"{path}: LOG_{kind}({argument}, ...): not a plain name"
            fields.setdefault(argument.strip('"'), set()).add(KINDS[kind])
        assert not re.search(r"struct log_field\)?\s*\{\s*\.?\s*(?:key|\")", text), f"{path}: a field without its macro"
    assert len(fields) > 30
    return fields


def renames():
    """{our field: [ECS field]}"""
    found = {}
    for kind, p in processors():
        if kind == "rename":
            found.setdefault(p["field"].removeprefix("spillway."), []).append(p["target_field"])
        if kind == "script":
            found.setdefault(p["params"]["field"], []).append("event.duration")
    return found


def passing():
    return {k: v["type"] for k, v in load("index-template.json")["template"]["mappings"]["properties"]["spillway"]["properties"].items()}


def every_field_is_known(_):
    mapped, through = renames(), passing()
    for field, kinds in sorted(logged().items()):
        assert len(kinds) == 1, f"{field} is logged as {kinds}: one name, one kind"
        kind = next(iter(kinds))
        assert field not in FRAME, f"{field} is the line's own"
        assert field in mapped or field in through, f"{field} is neither renamed in the pipeline nor typed in the template"
        for target in mapped.get(field, []):
            assert ECS[target] == kind, f"{field} is a {kind}, {target} is not"
        if field in through and field not in TEXT_AS_NUMBER:
            assert TYPES[through[field]] == kind, f"{field} is a {kind}, the template says {through[field]}"


def nothing_is_known_in_vain(_):
    """What the pipeline and the template speak of is logged: names that went away are taken out here too."""
    known = set(logged()) | {"truncated", *FRAME}
    for field in set(renames()) | set(passing()):
        assert field in known, f"nobody logs {field}"


def no_line_has_two_fields_for_one_name(_):
    """A rename onto a name that is taken fails in Elasticsearch."""
    mapped, calls = renames(), 0
    for path, text in sources():
        for call in re.findall(r"\blog_(?:debug|info|warn|error|write)\((.*?)\);", text, re.S):
            targets = [set(mapped.get(k, ())) for k in re.findall(r'LOG_[SIDB]\(\s*"(\w+)"', call)]
            calls += bool(targets)
            for i, one in enumerate(targets):
                for other in targets[:i]:
                    assert not one & other, f"{path}: two fields of one line become {one & other}"
    assert calls > 20


def targets_are_ecs(_):
    for kind, p in processors():
        target = p.get("target_field") or (p["field"] if kind == "set" else None)
        if target and kind != "json":
            assert target in ECS, f"{target} is no ECS field we know of"


# ---- a small interpreter of what our pipeline uses ------------------------------------------------------------------


def get(doc, path):
    for part in path.split("."):
        if not isinstance(doc, dict) or part not in doc:
            raise KeyError(path)
        doc = doc[part]
    return doc


def put(doc, path, value):
    *parents, last = path.split(".")
    for part in parents:
        doc = doc.setdefault(part, {})
    doc[last] = value


def remove(doc, path):
    *parents, last = path.split(".")
    del (get(doc, ".".join(parents)) if parents else doc)[last]


def has(doc, path):
    try:
        get(doc, path)
        return True
    except KeyError:
        return False


def holds(doc, condition):
    m = re.fullmatch(r"ctx\.([\w.]+) (==|!=) (?:'([^']*)'|null)", condition)
    assert m, f"this test does not understand: {condition}"
    value = get(doc, m.group(1)) if has(doc, m.group(1)) else None
    return (value == m.group(3)) == (m.group(2) == "==")


SCRIPT = "ctx.event.duration = ((Number) ctx.spillway[params.field]).longValue() * params.ns; ctx.spillway.remove(params.field)"


def step(doc, kind, p):
    if "if" in p and not holds(doc, p["if"]):
        return
    if kind == "json":
        put(doc, p["target_field"], json.loads(get(doc, p["field"])))
    elif kind == "set":
        value = get(doc, p["copy_from"]) if "copy_from" in p else p["value"]
        put(doc, p["field"], re.sub(r"\{\{\{([\w.]+)\}\}\}", lambda m: get(doc, m.group(1)), value))
    elif kind == "date":
        put(doc, "@timestamp", get(doc, p["field"]))
    elif kind == "remove":
        remove(doc, p["field"])
    elif kind == "rename":
        if not has(doc, p["field"]) and p.get("ignore_missing"):
            return
        value = get(doc, p["field"])
        assert not has(doc, p["target_field"]), f"Elasticsearch refuses to rename onto {p['target_field']}"
        remove(doc, p["field"])
        put(doc, p["target_field"], value)
    elif kind == "script":
        assert p["source"] == SCRIPT, "this test runs one script only"
        put(doc, "event.duration", get(doc, "spillway." + p["params"]["field"]) * p["params"]["ns"])
        remove(doc, "spillway." + p["params"]["field"])
    else:
        raise AssertionError(f"this test does not know the processor {kind}")


def run(line):
    doc = {"message": json.dumps(line)}
    for kind, p in processors():
        step(doc, kind, p)
    return doc


LINE = {"time": "2026-11-24T08:00:00.123Z", "level": "info", "program": "spillway", "area": "request", "message": "ok"}


def a_request_becomes_ecs(_):
    doc = run(LINE | {
        "request_id": "req_1", "client_request_id": None, "tenant": "acme", "model": "r1", "node": "gpu1",
        "status": 200, "error": None, "stream": True, "attempts": 1, "input": 12, "output": 34,
        "charge_usd": "0.000123", "waited_ms": 0, "took_ms": 17,
    })  # fmt: skip
    assert doc == {
        "@timestamp": LINE["time"], "message": "ok", "ecs": {"version": "8.17.0"},
        "event": {"kind": "event", "module": "spillway", "dataset": "spillway.request", "duration": 17000000},
        "log": {"level": "info", "logger": "request"}, "service": {"name": "spillway"},
        "http": {"request": {"id": "req_1"}, "response": {"status_code": 200}},
        "organization": {"name": "acme"}, "error": {"code": None},
        "gen_ai": {"request": {"model": "r1"}, "usage": {"input_tokens": 12, "output_tokens": 34}},
        "spillway": {"client_request_id": None, "node": "gpu1", "stream": True, "attempts": 1,
                     "charge_usd": "0.000123", "waited_ms": 0},
    }, doc  # fmt: skip


def the_engine_differs(_):
    engine = LINE | {"program": "spillway-engine", "area": "serve"}
    doc = run(engine | {"id": "chatcmpl-1", "error": "no KV pages", "total_us": 250})
    assert doc["gen_ai"]["response"]["id"] == "chatcmpl-1" and doc["error"] == {"message": "no KV pages"}
    assert doc["event"]["duration"] == 250000 and doc["spillway"] == {}
    assert run(engine | {"host": "::", "port": 1, "path": "/m.gguf"})["file"] == {"path": "/m.gguf"}
    admin = run(LINE | {"area": "admin", "path": "/admin/v1/drain", "by": "socket"})
    assert admin["url"] == {"path": "/admin/v1/drain"} and "file" not in admin


def any_one_field_passes(_):
    """No field of ours, alone, makes a processor fail."""
    sample = {"string": "x", "number": 1, "boolean": True}
    for program in ("spillway", "spillway-engine"):
        for field, kinds in logged().items():
            line = LINE | {"program": program, field: sample[next(iter(kinds))]}
            doc = run(copy.deepcopy(line))
            for own in FRAME:
                assert own not in doc["spillway"]


def the_parts_fit(_):
    with open(os.path.join(ELK, "filebeat.yml"), encoding="utf-8") as f:
        text = f.read()
    index = re.search(r"^  index: (\S+)", text, re.M).group(1)
    pattern = load("index-template.json")["index_patterns"][0]
    assert pattern.endswith("*") and index.startswith(pattern[:-1])
    pipeline = re.search(r"^  pipeline: (\S+)", text, re.M).group(1)
    assert load("index-template.json")["template"]["settings"]["index.default_pipeline"] == pipeline
    with open(os.path.join(ELK, "README.md"), encoding="utf-8") as f:
        assert f"_ingest/pipeline/{pipeline}" in f.read()


if __name__ == "__main__":
    harness.main(
        __doc__,
        [
            every_field_is_known,
            nothing_is_known_in_vain,
            no_line_has_two_fields_for_one_name,
            targets_are_ecs,
            a_request_becomes_ecs,
            the_engine_differs,
            any_one_field_passes,
            the_parts_fit,
        ],
    )
