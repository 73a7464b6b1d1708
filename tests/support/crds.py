"""Definitions of other people's custom resources, of the versions that the chart is for.

``python -m tests.support.crds`` brings those that are missing: modules of KServe, KEDA, the
Prometheus operator and the Gateway API through Go's proxy, Strimzi's made by its own generator out
of Maven Central. None is in this repository: they are megabytes of others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from local.kafka.java import java
from sluice.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "var/crds"
POM = ROOT / "tests/deploy/strimzi-pom.xml"
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
STRIMZI = "io.strimzi.api.kafka.model"
STRIMZI_JAVA = 21


@dataclass(frozen=True, slots=True)
class Definition:
    """Of one kind. module: of Go, with its version; path: in it."""

    kind: str
    module: str
    path: str


_KSERVE = "github.com/kserve/kserve@v0.20.0"
_KEDA = "github.com/kedacore/keda/v2@v2.18.0"
_PROMETHEUS = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_OPERATOR = "example/prometheus-operator-crd/monitoring.coreos.com"
_SERVING = "config/crd/full/serving.kserve.io"
_SCALING = "config/crd/bases/keda.sh"
_ROUTES = "config/crd/standard/gateway.networking.k8s.io"
MODULES = (
    Definition("InferenceService", _KSERVE, f"{_SERVING}_inferenceservices.yaml"),
    Definition("ServingRuntime", _KSERVE, f"{_SERVING}_servingruntimes.yaml"),
    Definition("ScaledObject", _KEDA, f"{_SCALING}_scaledobjects.yaml"),
    Definition("TriggerAuthentication", _KEDA, f"{_SCALING}_triggerauthentications.yaml"),
    Definition("ServiceMonitor", _PROMETHEUS, f"{_OPERATOR}_servicemonitors.yaml"),
    Definition("PrometheusRule", _PROMETHEUS, f"{_OPERATOR}_prometheusrules.yaml"),
    Definition("HTTPRoute", "sigs.k8s.io/gateway-api@v1.5.1", f"{_ROUTES}_httproutes.yaml"),
)
MADE = {
    "Kafka": "kafka.Kafka",
    "KafkaNodePool": "nodepool.KafkaNodePool",
    "KafkaTopic": "topic.KafkaTopic",
    "KafkaUser": "user.KafkaUser",
}
"""Strimzi's kinds and their classes."""
KINDS = (*(one.kind for one in MODULES), *MADE)


def definition(kind: str) -> Path:
    """Where a kind's lies, if it was brought."""
    return FOLDER / f"{kind}.yaml"


def bring() -> list[str]:
    """Bring what is missing. Returns why, for each that cannot be had here."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = []
    modules: dict[str, Path | None] = {}
    for one in MODULES:
        if definition(one.kind).exists():
            continue
        if one.module not in modules:
            modules[one.module] = _module(one.module)
        folder = modules[one.module]
        if folder is None:
            missing.append(f"{one.kind}: go mod download {one.module}")
        else:
            shutil.copyfile(folder / one.path, definition(one.kind))
            definition(one.kind).chmod(0o644)
    if not all(definition(kind).exists() for kind in MADE):
        missing += _strimzi()
    return missing


def _module(name: str) -> Path | None:
    """A Go module's folder; None where it cannot be had."""
    if shutil.which("go") is None:
        return None
    with tempfile.TemporaryDirectory() as elsewhere:  # no go.mod of ours has a say
        done = subprocess.run(
            ["go", "mod", "download", "-json", name],
            cwd=elsewhere, capture_output=True, text=True, check=False,
            env=os.environ | {"GOFLAGS": "-mod=mod"},
        )  # fmt: skip
    return Path(json.loads(done.stdout)["Dir"]) if done.returncode == 0 else None


def _strimzi() -> list[str]:
    if shutil.which("mvn") is None:
        return [f"{kind}: Maven" for kind in MADE]
    try:
        runtime = java(STRIMZI_JAVA)
    except Unavailable as error:
        return [f"{kind}: {error}" for kind in MADE]
    with tempfile.TemporaryDirectory() as folder:
        jars = Path(folder) / "jars"
        get = ["mvn", "-q", "-B", "-f", str(POM), COPY_GOAL, f"-DoutputDirectory={jars}"]
        done = subprocess.run(get, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return [f"{kind}: {done.stdout[-300:]}" for kind in MADE]
        targets = [f"{STRIMZI}.{name}={definition(kind)}" for kind, name in MADE.items()]
        generator = "io.strimzi.crdgenerator.CrdGenerator"
        subprocess.run([runtime, "-cp", f"{jars}/*", generator, "--yaml", *targets], check=True)
    return []


if __name__ == "__main__":
    absent = bring()
    for line in absent:
        print(f"not to be had here: {line}", file=sys.stderr)
    raise SystemExit(1 if absent else 0)
