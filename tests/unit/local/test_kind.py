"""``make kind``, which no test runs: its script is read, and compared with the chart."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path("local/kind")
SCRIPT = (HERE / "kind.sh").read_text()
CHART = Path("charts/sluice")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
KIND = yaml.safe_load((CHART / "ci/kind.yaml").read_text())


def around() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((HERE / "around.yaml").read_text())}


def test_shellcheck_finds_nothing_in_it() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(
        ["shellcheck", HERE / "kind.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_without_its_tools_it_names_them_and_does_nothing(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [tmp_path / "bash", HERE / "kind.sh", "up"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "docker kind kubectl helm" in done.stderr
    assert done.stdout == ""


def test_every_version_is_pinned_and_kserves_is_the_charts() -> None:
    assert re.search(r"^NODE=.*kindest/node:v1\.\d+\.\d+@sha256:[0-9a-f]{64}\}$", SCRIPT, re.M)
    for name in ("CERT_MANAGER", "KSERVE", "KEDA", "METRICS_SERVER"):
        assert re.search(rf"^{name}=v?\d+\.\d+\.\d+$", SCRIPT, re.MULTILINE), name
        assert f'--version "${name}"' in SCRIPT
    kserve = re.search(r"^KSERVE=(\S+)$", SCRIPT, re.MULTILINE)
    assert kserve is not None
    assert kserve[1] == VALUES["model"]["initializer"]["image"]["tag"]


def test_the_release_that_the_chart_names_is_in_the_mounted_folder() -> None:
    claim, _, folder = KIND["model"]["storageUri"].removeprefix("pvc://").partition("/")
    assert claim == around()["PersistentVolumeClaim"]["metadata"]["name"]
    assert (Path("models/releases") / folder / "manifest.json").is_file()
    (mount,) = yaml.safe_load(
        (HERE / "cluster.yaml").read_text().replace("@PORT@", "1").replace("@ROOT@", "/root")
    )["nodes"][0]["extraMounts"]
    assert mount["hostPath"].endswith("models/releases")
    assert around()["PersistentVolume"]["spec"]["hostPath"]["path"] == mount["containerPath"]


def test_the_port_outside_leads_to_the_pods_that_the_charts_service_has() -> None:
    (mapped,) = re.findall(r"containerPort: (\d+), hostPort", (HERE / "cluster.yaml").read_text())
    spec = around()["Service"]["spec"]
    (port,) = spec["ports"]
    assert port["nodePort"] == int(mapped)
    template = (CHART / "templates/decider-sync.yaml").read_text()
    assert 'serving.kserve.io/inferenceservice: {{ include "sluice.fullname" . }}' in template
    assert spec["selector"]["serving.kserve.io/inferenceservice"] == "sluice"
    assert f"targetPort: {port['targetPort']}" in template


def test_the_image_that_is_loaded_is_the_one_that_the_chart_asks_for() -> None:
    assert VALUES["image"]["repository"] == "sluice"
    assert "sed -n 's/^appVersion: *//p' charts/sluice/Chart.yaml" in SCRIPT
    assert KIND.get("image") is None
    assert VALUES["image"]["pullPolicy"] == "IfNotPresent"


def test_its_claims_and_names_are_in_the_namespace_of_the_release() -> None:
    spaces = set(re.findall(r"chart sluice (\S+) charts/sluice", SCRIPT))
    spaces |= {one["metadata"].get("namespace", "sluice") for one in around().values()}
    spaces.add(around()["PersistentVolume"]["spec"]["claimRef"]["namespace"])
    assert spaces == {"sluice"}
