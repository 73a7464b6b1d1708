"""The cluster's programs, built once from their Go modules and kept outside the checkout.

The compiler takes minutes and the modules and its own cache 7 GB; what is kept takes 350 MB and is
found again until a version or a file of ours changes. The manifests of KServe and metrics-server
come out of their modules too, so that a cluster needs no Go once this is done.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sluice.errors import Unavailable

HERE = Path(__file__).parent
KEPT = Path("~/.cache/sluice-cluster").expanduser()
SOURCES = (
    "go.mod", "go.sum", "node/main.go", "coredns/main.go", "policies/main.go", "build.py",
)  # fmt: skip
BUILD_MAX_S = 2400
"""Modules, 1 minute, and compilers, 6 on two idle cores and 14 on busy ones."""
KSERVE, METRICS = "github.com/kserve/kserve", "sigs.k8s.io/metrics-server"
PACKAGES = (
    *("./node", "./coredns", "./policies"),
    *(f"{KSERVE}/cmd/manager", f"{METRICS}/cmd/metrics-server"),
)
NAMES = (
    *("etcd", "kubectl", "kubelet", "kube-apiserver", "kube-controller-manager"),
    *("kube-scheduler", "kube-proxy"),
)
"""What the one program `node` is called by."""
STAMP = "k8s.io/component-base/version"


def kept() -> Path:
    """Folder of what these sources make, whether it is there or not."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(hashlib.sha256((HERE / name).read_bytes()).digest())
    return KEPT / digest.hexdigest()[:16]


def why_not() -> str:
    """What keeps this machine from building; "" if nothing, or if it is built."""
    if kept().exists() or shutil.which("go") is not None:
        return ""
    return "Go is not on the path, and nothing is built yet: install Go 1.26 or newer"


def built() -> Path:
    """The folder with bin/ and manifests/; builds them first where they are missing.

    Raises Unavailable.
    """
    done = kept()
    if done.exists():
        return done
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=KEPT) as folder:
        fresh = Path(folder) / "fresh"
        _programs(fresh / "bin")
        _manifests(fresh / "bin/kubectl", fresh / "manifests")
        fresh.rename(done)
    return done


def _programs(into: Path) -> None:
    into.mkdir(parents=True)
    version = _go("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".")
    # Without it the server calls itself v0.0.0-master, and a chart's kubeVersion refuses it.
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {STAMP}.{key}={value}" for key, value in stamp.items())])
    _go("build", "-trimpath", "-ldflags", flags, "-o", f"{into}/", *PACKAGES)
    for name in NAMES:
        (into / name).symlink_to("node")


def _manifests(kubectl: Path, into: Path) -> None:
    """As their projects ship them; install.py makes them fit."""
    kserve, metrics = (Path(_go("list", "-m", "-f", "{{.Dir}}", m)) for m in (KSERVE, METRICS))
    files = kserve / "charts/kserve-resources/files"
    made = {
        "kserve-crds": _run(str(kubectl), "kustomize", str(kserve / "config/crd/full")),
        "kserve": "\n---\n".join(
            (files / name).read_text()
            for name in ("common/configmap.yaml", "kserve/resources.yaml")
        ),
        "metrics-server": _run(str(kubectl), "kustomize", str(metrics / "manifests/base")),
    }
    into.mkdir()
    for name, text in made.items():
        (into / f"{name}.yaml").write_text(text)


def _go(*words: str) -> str:
    return _run("go", *words)


def _run(*words: str) -> str:
    flags = "-mod=readonly -buildvcs=false"
    try:
        done = subprocess.run(
            words,
            cwd=HERE,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": flags, "GOWORK": "off"},
            capture_output=True,
            text=True,
            timeout=BUILD_MAX_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"{' '.join(words[:2])} took over {BUILD_MAX_S} s",
            where=str(HERE / "go.mod"),
            fix="run make cluster again: what is compiled stays in Go's cache",
        ) from None
    if done.returncode:
        raise Unavailable(
            f"{' '.join(words[:2])} failed: {done.stderr[-2000:]}",
            where=str(HERE / "go.mod"),
            fix="the Go proxy must answer, 10 GB must be free; a module's version is in go.mod",
        )
    return done.stdout.strip()
