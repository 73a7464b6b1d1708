"""Replicas and processor time while the load runs, as Kubernetes tells them."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec

COMPONENTS = ("decider-sync", "decider-stream")
EVERY_S = 2.0
TIMEOUT_S = 30
_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}


class Sample(msgspec.Struct):
    """At one moment, by component. cores: None where metrics-server says nothing."""

    at: float
    pods: dict[str, int]
    ready: dict[str, int]
    cores: dict[str, float] | None


def kubectl(*arguments: str, stdin: bytes | None = None) -> bytes:
    """What it prints. Raises RuntimeError with its complaint."""
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def cores(quantity: str) -> float:
    """Processor cores of a Kubernetes quantity.

    >>> [cores(q) for q in ("2", "250m", "1500u", "31337n")]
    [2.0, 0.25, 0.0015, 3.1337e-05]
    """
    digits = quantity.rstrip("num")
    return float(digits) * _UNITS[quantity[len(digits) :]]


def sample(at: float, pods: dict[str, Any], metrics: dict[str, Any] | None) -> Sample:
    """From a PodList and a PodMetricsList. Pods that are leaving do not count."""
    component: dict[str, str] = {}
    counted, ready = dict.fromkeys(COMPONENTS, 0), dict.fromkeys(COMPONENTS, 0)
    for pod in pods["items"]:
        name = pod["metadata"]["labels"].get("app.kubernetes.io/component", "")
        if name not in COMPONENTS:
            continue
        component[pod["metadata"]["name"]] = name
        if "deletionTimestamp" in pod["metadata"]:
            continue
        counted[name] += 1
        conditions = pod["status"].get("conditions", [])
        ready[name] += any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    used = None
    if metrics is not None:
        used = dict.fromkeys(COMPONENTS, 0.0)
        for pod in metrics["items"]:
            if name := component.get(pod["metadata"]["name"], ""):
                used[name] += sum(cores(one["usage"]["cpu"]) for one in pod["containers"])
    return Sample(at, counted, ready, used)


class Watch:
    """Samples until it is closed. Use as a context manager."""

    def __init__(self, namespace: str, release: str) -> None:
        self.samples: list[Sample] = []
        self._selector = f"app.kubernetes.io/instance={release}"
        self._namespace = namespace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            at = time.time()
            try:
                found = json.loads(
                    kubectl(
                        "get", "pods", "-n", self._namespace, "-l", self._selector, "-o", "json"
                    )
                )
            except (RuntimeError, subprocess.TimeoutExpired):
                pass  # a gap in the curve: the API server was busy
            else:
                self.samples.append(sample(at, found, self._metrics()))
            self._over.wait(max(0.0, at + EVERY_S - time.time()))

    def _metrics(self) -> dict[str, Any] | None:
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{self._namespace}/pods"
        try:
            found: dict[str, Any] = json.loads(
                kubectl(
                    "get", "--raw", f"{path}?labelSelector={self._selector.replace('=', '%3D')}"
                )
            )
        except (RuntimeError, subprocess.TimeoutExpired):
            return None
        return found


def reached_s(samples: Iterable[Sample], component: str, count: int, since: float) -> float | None:
    """Seconds from a moment until so many pods were ready; None if they never were."""
    return next(
        (s.at - since for s in samples if s.at >= since and s.ready[component] >= count), None
    )


def left_s(samples: Iterable[Sample], component: str, count: int, since: float) -> float | None:
    """Seconds from a moment until no more than so many pods were left; None if that never was."""
    return next(
        (s.at - since for s in samples if s.at >= since and s.pods[component] <= count), None
    )
