#!/usr/bin/env python3
# runtest: release first
"""The alert rules: promtool finds them valid and their tests pass; every metric and label value a rule names is one the
code exports; a threshold on a histogram is one of its edges; every alert has a test that fires it, a quiet series, texts
and a section in docs/OPERATIONS.md. What needs promtool (Debian: prometheus) is skipped by name without it."""

import os
import re
import shutil
import subprocess

import harness

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROMETHEUS = os.path.join(ROOT, "deploy", "prometheus")
RULES = ("spillway.rules.yml", "gpu.rules.yml")
TESTS = ("spillway.test.yml", "spillway.day.test.yml")
FOREIGN = {"up", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED"}  # Prometheus, DCGM exporter
KEYWORDS = {"and", "or", "unless", "on", "ignoring", "by", "without", "group_left", "group_right", "bool", "offset", "le"}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def rules():
    """[{alert, expr, summary, ...}] of all files. Our files are YAML of one shape, which is checked as it is read."""
    found = []
    for name in RULES:
        for block in re.split(r"^      - alert: ", read(PROMETHEUS, "rules", name), flags=re.M)[1:]:
            rule = {"alert": block.split("\n", 1)[0], "file": name}
            m = re.search(r"^        expr: (?:>-\n((?:          .*\n)+)|(.*)\n)", block, re.M)
            assert m, f"{rule['alert']}: no expr"
            rule["expr"] = " ".join((m.group(1) or m.group(2)).split())
            for key in ("summary", "description", "runbook", "severity", "for"):
                m = re.search(rf"^ +{key}: (.*)$", block, re.M)
                rule[key] = m.group(1).strip('"') if m else None
            found.append(rule)
    return found


def metrics_of(expr):
    """The names of a PromQL expression that are neither functions, keywords, labels nor values."""
    expr = re.sub(r'"[^"]*"', '""', expr)
    expr = re.sub(r"\{[^}]*\}", "", expr)
    expr = re.sub(r"\[[^\]]*\]", "", expr)
    expr = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", expr)
    names = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\w)(?!\s*\()", expr)
    return {n for n in names if n not in KEYWORDS}


def exported():
    """({name}, {histogram: [edges]}) as the files of metrics declare them."""
    front, engine = read("scheduler", "front", "metrics.c"), read("engine", "serve", "metrics.c")
    table, routes = read("scheduler", "front", "metrics_table.c"), read("scheduler", "observe", "route_metrics.c")
    budgets = read("scheduler", "front", "budget_metrics.c")
    capacity = read("scheduler", "front", "capacity_metrics.c")
    joining = read("scheduler", "join", "join_metrics.c") + read("scheduler", "nightly", "nightly.c")
    plans = re.search(r"plan_names\[\] = \{([^}]*)\}", capacity).group(1)
    names = set(re.findall(r'"((?:spillway_|vllm:|gen_ai_)\w+)"', front + table + engine + routes + budgets + capacity + joining))
    names |= {"spillway_capacity_%s_tokens_per_second" % n for n in re.findall(r'"(\w+)"', plans)}
    us = re.search(r"bucket_us\[BUCKETS\] = \{([^}]*)\}", front).group(1)
    front_edges = [int(v) / 1e6 for v in us.split(",")]
    tables = dict(re.findall(r"histogram_(\w+) = \{\s*\.n = \d+,\s*\.le = \{([^}]*)\}", read("engine", "serve", "histogram.c")))
    engine_edges = [float(v) for v in tables["seconds"].split(",")]
    histograms = {n: front_edges for n in re.findall(r'"(spillway_\w+)",\s*"[^"]*",\s*TYPE_HISTOGRAM', table)}
    ours = re.search(r"#define EDGES_OURS.*?\{(.*?)\}", routes, re.S).group(1).replace("\\", " ")
    route_edges = [float(v) for v in ours.split(",")]
    histograms.update({n: route_edges for n in re.findall(r'"(spillway_\w+)", *\n? *"', routes)})
    histograms.update({n: engine_edges for n in re.findall(r'put_histogram\(b, v, "([\w:]+)"', engine)})
    assert len(histograms) >= 10 and len(names) >= 50, "the declarations are no longer read right"
    return names, histograms


def base_of(metric, histograms):
    m = re.fullmatch(r"(.*)_(bucket|sum|count)", metric)
    return m.group(1) if m and m.group(1) in histograms else None


def every_metric_is_exported(_):
    names, histograms = exported()
    for rule in rules():
        metrics = metrics_of(rule["expr"])
        assert metrics, rule["alert"]
        for metric in metrics - FOREIGN:
            ok = metric in names and metric not in histograms or base_of(metric, histograms)
            assert ok, f"{rule['alert']}: nobody exports {metric}"


def a_made_up_metric_is_found(_):
    """The check above can fail."""
    names, histograms = exported()
    for bad in ("spillway_budget_left", "vllm:num_requests", "spillway_requests_total_bucket", "made_up"):
        assert metrics_of(f"sum by (x) (rate({bad}[5m])) > 1") == {bad}
        assert bad not in names and not base_of(bad, histograms)


def every_label_value_exists(_):
    codes = set(re.findall(r'"(\w+)"', read("scheduler", "wire", "errors.c")))
    outcomes = {"ok", "cancelled", "failed"}
    assert re.search(r'names\[\] = \{"ok", "cancelled", "failed"\}', read("scheduler", "books", "ledger_file.c"))
    front = read("scheduler", "front", "metrics.c")
    faults = set(re.findall(r'\[FAULT_\w+\] = "(\w+)"', front))
    known = {"code": codes, "outcome": outcomes, "fault": faults, "job": set(), "node": {"cache"}}
    known["state"] = set(re.findall(r'\{"(\w+)", \d+, ', read("engine", "node", "state.c")))
    known["failure"] = set(re.findall(r'\[PROVIDER_\w+\] = "(\w+)"', read("providers", "provider.c")))
    known["by"] = set(re.findall(r'\? "(\w+)" : "(\w+)"', read("scheduler", "nightly", "outbox.c"))[0])
    known["result"] = set(re.findall(r'result=\\"(\w+)\\"', read("scheduler", "nightly", "nightly.c")))
    known["job"] = set(re.findall(r"job_name: ([\w-]+)", read(PROMETHEUS, "prometheus.yml")))
    for rule in rules():
        for label, values in re.findall(r'(\w+)\s*(?:=~|=|!=)\s*"([^"]*)"', rule["expr"]):
            for value in values.split("|"):
                assert value in known[label], f"{rule['alert']}: no {label} is called {value}"


def thresholds_are_edges(_):
    _, histograms = exported()
    seen = 0
    for rule in rules():
        if "histogram_quantile" not in rule["expr"]:
            continue
        (metric,) = metrics_of(rule["expr"])
        threshold = float(re.search(r"> ([0-9.]+)$", rule["expr"]).group(1))
        assert threshold in histograms[base_of(metric, histograms)], f"{rule['alert']}: {threshold} is no edge"
        seen += 1
    assert seen >= 4


def the_requirements_are_met(_):
    """The thresholds that the product's requirements name, letter by letter."""
    by_name = {r["alert"]: r for r in rules()}
    for name, end, wait in (
        ("SpillwayKvCacheNearlyFull", "> 0.85", "5m"),
        ("SpillwayGpuMemoryNearlyFull", "> 0.85", "5m"),
        ("SpillwayTtftHigh", "> 0.5", "5m"),
        ("SpillwayNodeRestarts", "[24h])) > 3", None),
        ("SpillwayEngineRestarts", "[24h]) > 3", None),
        ("SpillwaySchedulerRestarts", "[24h]) > 3", None),
    ):
        assert by_name[name]["expr"].endswith(end) and by_name[name]["for"] == wait, name


def every_alert_is_tested_and_explained(_):
    tests = "".join(read(PROMETHEUS, "rules", name) for name in TESTS)
    quiet = tests[tests.index("- name: \"quiet") : tests.index("# ---- the thresholds")]
    operations = read("docs", "OPERATIONS.md")
    sections = dict(re.findall(r"^### (\w+)\n(.+(?:\n.+)*)", operations, re.M))
    found = rules()
    assert len({r["alert"] for r in found}) == len(found) >= 20
    for rule in found:
        name = rule["alert"]
        fires = rf'alertname="{name}", alertstate="firing"|alertname: {name}\n +exp_alerts:\n +- '
        assert re.search(fires, tests), f"{name}: no test fires it"
        for metric in metrics_of(rule["expr"]):
            assert re.search(rf"series: '{metric}[{{']", quiet), f"{name}: {metric} is not in the quiet test"
        assert rule["severity"] in ("page", "ticket"), name
        assert rule["summary"] and rule["description"], name
        assert rule["runbook"] == f"docs/OPERATIONS.md#{name.lower()}", name
        assert name in sections, f"docs/OPERATIONS.md says nothing about {name}"
        assert sections[name].startswith("*" + rule["severity"].capitalize() + ".*"), f"{name}: severities differ"
    left = set(sections) - {r["alert"] for r in found}
    assert not left, f"docs/OPERATIONS.md explains what does not exist: {left}"


def promtool(*args):
    program = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not program:
        raise harness.Skip("promtool is not installed (Debian: prometheus; tools/deps.sh full)")
    done = subprocess.run([program, *args], cwd=PROMETHEUS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def promtool_takes_the_config(_):
    promtool("check", "config", "--syntax-only", "prometheus.yml")  # the key's file is not on this machine


def promtool_takes_the_rules(_):
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(os.path.join("rules", name) for name in RULES))


def promtool_passes_the_tests(_):
    promtool("test", "rules", *(os.path.join("rules", name) for name in TESTS))


if __name__ == "__main__":
    harness.main(
        __doc__,
        [
            every_metric_is_exported,
            a_made_up_metric_is_found,
            every_label_value_exists,
            thresholds_are_edges,
            the_requirements_are_met,
            every_alert_is_tested_and_explained,
            promtool_takes_the_config,
            promtool_takes_the_rules,
            promtool_passes_the_tests,
        ],
    )
