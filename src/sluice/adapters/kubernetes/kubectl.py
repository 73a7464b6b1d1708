"""``kubectl`` as a process: it knows every way to log in to a cluster, so that we know none."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

import msgspec

from sluice.adapters.kubernetes.workloads import workloads
from sluice.application.rollout import Workload
from sluice.errors import Misconfigured, Unavailable

REQUEST_MAX_S: Final = 30
"""Longest one call may take."""
OUTPUT_SHOWN: Final = 500
"""Characters of what kubectl complains of."""
OURS: Final = "deployments.apps,statefulsets.apps,replicasets.apps,pods"
KSERVES: Final = "inferenceservices.serving.kserve.io"
NO_SUCH_KIND: Final = "the server doesn't have a resource type"
RELEASE: Final = "app.kubernetes.io/instance"
"""Label of everything in a Helm release. KServe copies an InferenceService's to what it makes."""


class Kubectl:
    """namespace, context: "" is what the kubeconfig says."""

    def __init__(self, namespace: str = "", context: str = "") -> None:
        found = shutil.which("kubectl")
        if found is None:
            raise Misconfigured(
                "kubectl is not installed", fix="install it, and let it reach the cluster"
            )
        self._command = [found, f"--request-timeout={REQUEST_MAX_S}s"]
        if namespace:
            self._command += ["--namespace", namespace]
        if context:
            self._command += ["--context", context]

    def workloads(self, release: str) -> list[Workload]:
        """What a release consists of, now. Raises Unavailable."""
        selected = ["--selector", f"{RELEASE}={release}", "--output", "json"]
        printed = [self._run("get", OURS, *selected)]
        try:
            printed.append(self._run("get", KSERVES, *selected))
        except Unavailable as error:
            if NO_SUCH_KIND not in error.what:
                raise
        try:
            return workloads(*printed)
        except msgspec.DecodeError as exc:
            raise Unavailable(f"kubectl prints what is no list of objects: {exc}") from exc

    def last_lines(self, pod: str, container: str, lines: int, *, before: bool) -> list[str]:
        """The end of a container's log; before: of the run before its last restart. [] if there is
        none."""
        given = ["logs", pod, f"--tail={lines}"]
        given += ["--container", container] if container else ["--all-containers"]
        try:
            return (
                self._run(*given, *(["--previous"] if before else []))
                .decode(errors="replace")
                .splitlines()
            )
        except Unavailable:
            return []

    def _run(self, *arguments: str) -> bytes:
        fix = "does `kubectl get pods` answer?"
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                capture_output=True,
                check=False,
                timeout=2 * REQUEST_MAX_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(
                f"kubectl gave no answer for {2 * REQUEST_MAX_S} s",
                where=" ".join(arguments),
                fix=fix,
            ) from exc
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise Unavailable(f"kubectl: {said[:OUTPUT_SHOWN]}", where=" ".join(arguments), fix=fix)
        return done.stdout
