"""The real Helm: helm-python-sdk runs Helm 4 in process, in an environment of its own.

Imported here it calls itself there (tests/deploy/.venv), one process a call: Helm's library keeps
its clients to itself, and a call that hangs can be ended. No import but Python's own on top.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "tests/deploy/.venv/bin/python"
WAIT = "legacy"
"""For Deployments, StatefulSets and Jobs alone. Helm 4's watcher waits for an InferenceService
without end: KServe 0.20 gives it the generation of its Deployment as the one observed, which is
another as soon as an autoscaler has changed the number of pods."""
MORE_S = 60
"""Over the action's own timeout."""
Values = dict[str, Any]


class HelmError(Exception):
    """Helm refused or gave up; says what it said."""


@dataclass(frozen=True)
class Helm:
    """One release of one chart. config: a kubeconfig."""

    config: Path
    namespace: str
    name: str
    chart: Path

    def install(self, values: Values, *, timeout: int) -> Values:
        """Returns the release, when all but the InferenceService is ready. Raises HelmError."""
        return self._deploy("install", values, timeout)

    def upgrade(self, values: Values, *, timeout: int) -> Values:
        """To these values, whatever was given before."""
        return self._deploy("upgrade", values, timeout)

    def rollback(self, *, timeout: int = 120) -> None:
        """To the revision before."""
        self._call("rollback", {"timeout": timeout, "wait": WAIT}, timeout)

    def test(self, *, timeout: int = 120) -> str:
        """The logs of its test pods. Raises HelmError."""
        said: str = self._call("test", {"timeout": timeout, "logs": True}, timeout)["logs"]
        return said

    def uninstall(self, *, timeout: int = 60) -> None:
        """Whether it is there or not."""
        self._call("uninstall", {"timeout": timeout, "ignore_not_found": True}, timeout)

    def history(self) -> list[Values]:
        """Revisions, oldest first."""
        found: list[Values] = self._call("history", {}, MORE_S)
        return found

    def _deploy(self, verb: str, values: Values, timeout: int) -> Values:
        options = {"timeout": timeout, "wait": WAIT}
        made: Values = self._call(
            verb, options | {"chart": str(self.chart), "values": values}, timeout
        )
        return made

    def _call(self, verb: str, options: Values, timeout: int) -> Any:
        asked = {
            "config": str(self.config),
            "namespace": self.namespace,
            "verb": verb,
            "name": self.name,
            "options": options,
        }
        done = subprocess.run(
            [PYTHON, __file__],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=timeout + MORE_S,
            check=False,
        )
        if done.returncode:
            raise HelmError(f"helm {verb} {self.name}: {done.stderr.strip()[-3000:]}")
        return json.loads(done.stdout)


def _act(asked: Values) -> Any:
    import helm_python

    options = dict(asked["options"])
    chart = [options.pop("chart")] if "chart" in options else []
    values = [options.pop("values")] if "values" in options else []
    with helm_python.Config(
        kubeconfig_path=asked["config"], namespace=asked["namespace"]
    ) as config:
        action = getattr(config, asked["verb"])
        return action(*chart, asked["name"], *values, **options)


if __name__ == "__main__":
    try:
        print(json.dumps(_act(json.load(sys.stdin))))
    except Exception as error:  # it is the other process's to raise
        sys.exit(f"{type(error).__name__}: {error}")
