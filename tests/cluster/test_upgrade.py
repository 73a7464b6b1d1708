"""From one version of the chart to the next."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.chart import CHART, Installed
from tests.cluster.test_rollout import traffic

pytestmark = pytest.mark.cluster

RATE = 100.0


def test_a_new_version_of_the_chart_with_the_same_pods_restarts_none(
    sluice: Installed, tmp_path: Path
) -> None:
    sluice.at()
    newer = shutil.copytree(CHART, tmp_path / "sluice")
    described = newer / "Chart.yaml"
    described.write_text(
        re.sub(r"(?m)^version: .*$", "version: 99.0.0", described.read_text(), count=1)
    )
    before = _pods(sluice)
    with traffic(sluice, "upgraded", tmp_path, rate=RATE) as made:
        replace(sluice.helm, chart=newer).upgrade(sluice.given, timeout=120)
        sluice.settled()
        assert sluice.helm.history()[-1]["chart_version"] == "99.0.0"
        assert _pods(sluice) == before
        sluice.helm.rollback()
        sluice.settled()
    assert _pods(sluice) == before
    assert made.failed == {}


def _pods(sluice: Installed) -> set[str]:
    return {pod["metadata"]["uid"] for pod in sluice.kube.pods(sluice.namespace)}
