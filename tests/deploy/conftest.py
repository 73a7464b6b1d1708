"""What the chart's tests share: Helm, and the cases of charts/sluice/ci."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.support import crds
from tests.support.helm import CHART, PYTHON, SET_UP, Helm, Object, helm

collect_ignore = ["tools.py"]
"""Runs in an environment of its own, which has Helm."""
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))


def values(case: str) -> Object:
    given: Object = yaml.safe_load((CHART / f"ci/{case}.yaml").read_text())
    return given


def missing(why: str) -> None:
    """Skip, but where CI runs: there nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def chart() -> Iterator[Helm]:
    if not PYTHON.exists():
        missing(SET_UP)
    with helm() as asked:
        yield asked


@pytest.fixture(scope="session")
def rendered(chart: Helm) -> Callable[[str], list[Object]]:
    """The objects of a case."""

    @cache
    def render(case: str) -> list[Object]:
        return chart.render(values(case))

    return render


@pytest.fixture(scope="session")
def definition() -> Callable[[str], Path]:
    """The definition of a kind of custom resource."""

    def find(kind: str) -> Path:
        path = crds.definition(kind)
        if not path.exists():
            missing(f"no definition of {kind}: make test-chart brings it")
        return path

    return find
