"""kubectl, as the tests use it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
CALL_MAX_S = 300.0


class KubeError(Exception):
    """kubectl refused; says what it said."""


@dataclass(frozen=True)
class Kube:
    """program: kubectl's path. config: a kubeconfig."""

    program: Path
    config: Path

    def __call__(self, *words: str, given: str | None = None) -> str:
        """What kubectl prints. Raises KubeError."""
        done = subprocess.run(
            [str(self.program), "--kubeconfig", str(self.config), *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=CALL_MAX_S,
            check=False,
        )
        if done.returncode:
            raise KubeError(f"kubectl {' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def apply(self, *objects: Object) -> None:
        """Server-side, all of them."""
        self.apply_text(yaml.safe_dump_all(objects, sort_keys=False))

    def apply_text(self, text: str) -> None:
        self("apply", "--server-side", "--force-conflicts", "-f", "-", given=text)

    def get(self, namespace: str, *words: str) -> Object:
        """One object, or a list of a kind."""
        found: Object = json.loads(self("--namespace", namespace, "get", *words, "--output=json"))
        return found

    def pods(self, namespace: str, selector: str = "") -> list[Object]:
        """Those that are not going."""
        found = self.get(namespace, "pods", f"--selector={selector}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def rolled_out(self, namespace: str, what: str, at_most_s: float) -> None:
        """Wait for a rollout. Raises KubeError."""
        wait = f"--timeout={at_most_s:g}s"
        self("--namespace", namespace, "rollout", "status", what, wait)

    def until(self, holds: Callable[[], bool], what: str, at_most_s: float) -> float:
        """Seconds until it held. Raises AssertionError."""
        began = time.monotonic()
        while not holds():
            passed = time.monotonic() - began
            assert passed < at_most_s, f"not so after {at_most_s:g} s: {what}"
            time.sleep(0.2)
        return time.monotonic() - began


def is_ready(pod: Object) -> bool:
    """All its containers are, and it is not going."""
    conditions = pod["status"].get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
