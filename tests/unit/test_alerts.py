"""Alert rules are what Prometheus loads, and ask for metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sluice.telemetry import TABLE

FILES = sorted(Path("charts/sluice/alerts").glob("*.yaml"))
METRICS = {row.name for row in TABLE}
LABELS = {row.name: set(row.labels) for row in TABLE}


def rules() -> list[dict[str, object]]:
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    assert len({group["name"] for group in groups}) == len(groups)
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_and_labels_that_exist(rule):
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    asked = re.findall(r"\b(sluice_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert asked
    for name, selectors in asked:
        metric = re.sub(r"_(bucket|sum|count)$", "", name)
        assert metric in METRICS
        assert set(re.findall(r"(\w+)=", selectors)) <= LABELS[metric] | {"le"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    for opening, closing in ("()", "{}", "[]"):
        assert rule["expr"].count(opening) == rule["expr"].count(closing)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_who_is_called_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert {"summary", "description", "runbook"} <= rule["annotations"].keys()
    assert Path(rule["annotations"]["runbook"]).is_file()


def test_no_alert_has_the_name_of_another():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 4
