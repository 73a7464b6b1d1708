"""KEDA in the cluster, for `make test-cluster-keda` alone: its compilers take nine minutes of CPU.

It is built from its module as it is: it pins another Kubernetes than KServe does, so that it shares
no package with the other programs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from sluice.errors import Unavailable
from tests.cluster import images
from tests.cluster.build import BUILD_MAX_S, KEPT
from tests.cluster.kube import Kube, Object
from tests.cluster.node import Node

MODULE, VERSION = "github.com/kedacore/keda/v2", "v2.18.0"
SUM = "h1:ttR223fii/4QJ0YvtrhcWHaEoezByb/t5CeFopjl6EI="
"""Of the module, as go.sum has it; what it needs itself is in its own."""
PROGRAMS = {"keda-operator": "operator", "keda-metrics-apiserver": "adapter"}
"""By the Deployment that runs each."""
KEPT_AT = KEPT / f"keda-{VERSION}"
ROLLOUT_MAX_S = 180
STAMP = f"-X={MODULE}/version.Version={VERSION.removeprefix('v')}"


def why_not() -> str:
    """What keeps this machine from building it; "" if nothing, or if it is built."""
    if KEPT_AT.exists() or shutil.which("go") is not None:
        return ""
    return "Go is not on the path, and KEDA is not built yet: install Go 1.26 or newer"


def install(node: Node, kube: Kube) -> None:
    """Build it where it is not, hand it over, and wait until it runs. Raises Unavailable."""
    built = _built(kube)
    for program in PROGRAMS.values():
        tag, archive = images.one_program(f"keda-{program}", built / "bin" / program)
        images.load(node, tag, archive)
    documents = [d for d in yaml.safe_load_all((built / "keda.yaml").read_text()) if d]
    kube.apply(*_fit(documents))
    for deployment in PROGRAMS:
        kube.rolled_out("keda", f"deployment/{deployment}", ROLLOUT_MAX_S)


def _fit(documents: list[Object]) -> Iterator[Object]:
    """Its own manifests, for one small node that pulls nothing."""
    for document in documents:
        if document["kind"] == "Deployment":
            program = PROGRAMS[document["metadata"]["name"]]
            container = document["spec"]["template"]["spec"]["containers"][0]
            container |= {
                "image": f"localhost/keda-{program}:1",
                "imagePullPolicy": "Never",
                "command": [f"/bin/{program}"],
                "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}},
            }
            for probe in ("livenessProbe", "readinessProbe"):
                container[probe] |= {"initialDelaySeconds": 2, "periodSeconds": 3}
        yield document


def _built(kube: Kube) -> Path:
    """Folder of its programs and manifests."""
    if KEPT_AT.exists():
        return KEPT_AT
    module = _module()
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=KEPT) as folder:
        fresh = Path(folder) / "fresh"
        packages = [f"./cmd/{program}" for program in PROGRAMS.values()]
        flags = ["-trimpath", "-ldflags", f"-s -w {STAMP}", "-o", f"{fresh}/bin/"]
        _go("build", *flags, *packages, where=module)
        manifests = kube("kustomize", str(module / "config/minimal"))
        (fresh / "keda.yaml").write_text(manifests)
        fresh.rename(KEPT_AT)
    return KEPT_AT


def _module() -> Path:
    """Its folder in the module cache. Raises Unavailable, also if it is not what SUM says."""
    with tempfile.TemporaryDirectory() as elsewhere:  # no go.mod of ours has a say
        said = json.loads(
            _go("mod", "download", "-json", f"{MODULE}@{VERSION}", where=Path(elsewhere))
        )
    if said["Sum"] != SUM:
        raise Unavailable(f"{MODULE}@{VERSION} is {said['Sum']}, expected {SUM}", where=said["Dir"])
    return Path(said["Dir"])


def _go(*words: str, where: Path) -> str:
    flags = "-mod=readonly -buildvcs=false" if words[0] == "build" else ""
    done = subprocess.run(
        ["go", *words],
        cwd=where,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": flags, "GOWORK": "off"},
        capture_output=True,
        text=True,
        timeout=BUILD_MAX_S,
        check=False,
    )
    if done.returncode:
        raise Unavailable(
            f"go {words[0]} of KEDA failed: {done.stderr[-2000:]}",
            where=str(where),
            fix="the Go proxy must answer, 5 GB must be free",
        )
    return done.stdout
