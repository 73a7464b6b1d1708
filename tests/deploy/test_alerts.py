"""Alert rules are what Prometheus loads, fire when they should, and lead to somebody's help."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.adapters.redis.online import PENDING_TTL_S
from sluice.cli import reference
from sluice.telemetry import TABLE
from sluice.telemetry.table import AGE_SECONDS
from tests.support.needed import needed
from tests.support.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "charts/sluice/alerts").glob("*.yaml"))
CASES = sorted((ROOT / "tests/deploy/alerts").glob("*.yaml"))
METRICS = {row.name: row for row in TABLE}
CLIENTS_OWN = {"process_start_time_seconds"}
"""Shown by prometheus_client in each process."""
ASKED = re.compile(r'ALERTS\{alertname="(\w+)",alertstate="(firing|pending)"\}')

Rule = dict[str, Any]


def rules() -> list[Rule]:
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    assert len({group["name"] for group in groups}) == len(groups)
    return [rule for group in groups for rule in group["rules"]]


def cases() -> list[Rule]:
    return [case for file in CASES for case in yaml.safe_load(file.read_text())["tests"]]


each_rule = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])


@pytest.fixture(scope="module")
def tool() -> Path:
    with needed():
        return promtool()


def run(tool: Path, *words: str | Path) -> str:
    done = subprocess.run([tool, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_loads_the_rules(tool: Path) -> None:
    said = run(tool, "check", "rules", *FILES)
    assert sum(map(int, re.findall(r"(\d+) rules found", said))) == len(rules())


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_each_alert_fires_when_it_should_and_only_then(tool: Path, file: Path) -> None:
    run(tool, "test", "rules", file)


@each_rule
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(rule: Rule) -> None:
    """Where it waits (``for``), the case in which it fires shows it waiting a minute before."""
    seen = set()
    for case in cases():
        if not case["name"].startswith(f"{rule['alert']} "):
            continue
        for asked in case["promql_expr_test"]:
            found = ASKED.fullmatch(asked["expr"])
            assert found, case["name"]
            assert found[1] == rule["alert"]
            state = found[2] if asked["exp_samples"] else f"not {found[2]}"
            verb = "is silent" if state == "not firing" else "fires"
            assert case["name"].startswith(f"{rule['alert']} {verb}: ")
            seen.add(state)
    assert seen == {"firing", "not firing"} | ({"pending"} if "for" in rule else set())


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_a_case_feeds_series_that_processes_could_show(case: Rule) -> None:
    for series in case["input_series"]:
        ((name, labels),) = re.findall(r"^(\w+)(?:\{(.*)\})?$", series["series"])
        if name not in CLIENTS_OWN:
            allowed = {*METRICS[_family(name)].labels, "le", "job", "instance"}
            assert set(re.findall(r"(\w+)=", labels)) <= allowed


@each_rule
def test_an_alert_asks_for_metrics_and_labels_that_exist(rule: Rule) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    asked = re.findall(r"\b(sluice_\w+|process_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert asked
    for name, selectors in asked:
        if name in CLIENTS_OWN:
            continue
        row = METRICS[_family(name)]
        assert (row.kind == "histogram") == (name != row.name)
        assert set(re.findall(r"(\w+)[=!]", selectors)) <= {*row.labels, "le"}


@each_rule
def test_a_first_mistake_is_a_rise(rule: Rule) -> None:
    """Where any increase fires, the counter must have been 0 before."""
    if not rule["expr"].endswith("> 0") or " unless " in rule["expr"]:
        return
    for name, selectors in re.findall(r"increase\((\w+)(?:\{([^}]*)\})?", rule["expr"]):
        row = METRICS[name]
        begins = [dict(zip(row.labels, words, strict=True)) for words in row.begins]
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selectors):
            for value in values.split("|"):
                assert any(words[label] == value for words in begins), f"{name} {value}"
        assert begins or not row.labels or row.kind == "gauge", name


@each_rule
def test_an_alert_says_who_is_called_and_what_to_do(rule: Rule) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    runbook = ROOT / rule["annotations"]["runbook_url"]
    assert runbook.parent == ROOT / "docs/runbooks"
    assert rule["alert"] in runbook.read_text(), f"{runbook} does not know its alert"


def test_no_alert_has_the_name_of_another() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 30
    named = set(re.findall(r"\bSluice[A-Z]\w+", " ".join(path.read_text() for path in RUNBOOKS)))
    assert named <= set(names), "a runbook names an alert that is gone"


RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))


def test_the_featurizers_thresholds_follow_the_life_of_a_pending_entry() -> None:
    by_name = {rule["alert"]: rule for rule in rules()}
    past = by_name["SluiceFeaturizerPastPendingLifetime"]["expr"]
    assert re.findall(r'le="([^"]+)"', past) == [str(PENDING_TTL_S)]
    assert PENDING_TTL_S in AGE_SECONDS, "a bucket must end there"
    early = by_name["SluiceFeaturizerLags"]["expr"]
    assert float(early.rsplit(">", 1)[1]) == PENDING_TTL_S / 3
    for name in ("SluiceFeaturizerPastPendingLifetime", "SluiceFeaturizerLags"):
        assert f"{PENDING_TTL_S:.0f} s" in by_name[name]["annotations"]["description"]


def test_the_page_of_alerts_is_made_from_the_rules() -> None:
    page = reference.alerts()
    assert all(f"`{rule['alert']}`" in page for rule in rules())


def _family(name: str) -> str:
    """A histogram's name from that of one of its series."""
    return name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name)
