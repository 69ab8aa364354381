"""The rules in deploy/prometheus are understood by Prometheus, tested, and about metrics that exist."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from monitor.inputs.ingest import OUTCOMES
from monitor.outputs.coverage_metrics import CoverageMetrics
from monitor.outputs.ingest_metrics import IngestMetrics
from monitor.outputs.metrics import PREFIX, Metrics
from monitor.outputs.twilio_metrics import TwilioMetrics
from tests.test_metrics import TABLE

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "rules.yml"
TESTS = sorted(PROMETHEUS.glob("rules*_test.yml"))
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
EXPRESSIONS = [rule["expr"] for group in GROUPS for rule in group["rules"]]
WATCHDOG = "Watchdog"


def told(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported() -> set[str]:
    """Every name under which Prometheus finds a series of ours."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    registry = Metrics(aliases={}).registry
    IngestMetrics(registry, OUTCOMES, wall_clock=time.time)
    coverage = CoverageMetrics(registry, ["main"])
    coverage.listed("main", "AC", known=1, seen=1, at=1.0)
    TwilioMetrics(registry)
    families = list(registry.collect())
    return {family.name + suffix for family in families for suffix in suffixes.get(family.type, ("",))}


def test_promtool_finds_nothing_to_complain_about(promtool):
    assert "SUCCESS" in told(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert "SUCCESS" in told(promtool, "check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("tests", TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(promtool, tests):
    assert "SUCCESS" in told(promtool, "test", "rules", tests)


def test_every_metric_a_rule_names_is_exported():
    named = {
        name for expression in EXPRESSIONS for name in re.findall(r"\b(?:recording_monitor|process)_\w+", expression)
    }
    assert named - exported() == set()
    assert {
        name for expression in EXPRESSIONS for name in re.findall(r"recording_monitor:[\w:]+", expression)
    } <= RECORDED


def test_what_is_recorded_is_used_or_meant_for_dashboards():
    used = {name for name in RECORDED if any(name in expression for expression in EXPRESSIONS)}
    assert RECORDED - used == {"recording_monitor:open_cases:max"}


def test_the_unit_tests_use_the_labels_that_are_exported():
    wrong = []
    for path in TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for series in case["input_series"]:
                name, _, labels = series["series"].partition("{")
                family = re.sub(r"_(total|bucket|count)$", "", name.removeprefix(PREFIX))
                given = set(re.findall(r"(\w+)=", labels)) - {"job", "instance", "le"}
                if family in TABLE and given != set(TABLE[family][1]):
                    wrong.append(f"{case['name']}: {series['series']}")
    assert wrong == []


def test_every_alert_is_tested_for_firing_and_for_silence():
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]
    fires: set[str] = set()
    silent: set[str] = set()
    for case in cases:
        for check in case.get("alert_rule_test", []):
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
        for check in case.get("promql_expr_test", []):
            for matcher in re.findall(r'alertname=~?"([^"]+)"', check["expr"]):
                matched = {name for name in ALERTS if re.fullmatch(matcher, name)}
                (fires if check["exp_samples"] else silent).update(matched)
    assert fires == set(ALERTS)
    assert silent == set(ALERTS) - {WATCHDOG}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_follows_the_conventions(name):
    rule = ALERTS[name]
    assert name.startswith("RecordingMonitor") or name == WATCHDOG
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert re.fullmatch(r"[^{}.]+\.", annotations["summary"]), "one sentence that never changes"
    assert annotations["runbook_url"] == f"https://runbooks.example.com/recording-monitor/{name}.md"
    assert annotations["dashboard_url"].startswith("https://grafana.example.com/d/recording-monitor-")


def test_no_rule_pages_on_the_increase_of_a_counter_alone():
    """It misses what a series is born with; see the head of rules.yml."""
    for name, rule in ALERTS.items():
        if rule["labels"]["severity"] == "critical" and re.search(r"increase\([^)]*\)\) > 0", rule["expr"]):
            assert " or sum(" in rule["expr"] or name == "RecordingMonitorAlertDeliveryFailing"
