"""One step of the learning loop as a real pod: Airflow starts it as the chart says it may."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.chart import Installed, volume
from tests.cluster.node import ROOT

pytestmark = pytest.mark.cluster

AIRFLOW = ROOT / "dags/.venv/bin/airflow"
WORKER = "airflow-worker"
"""The account that may start steps."""
LOOP, ARCHIVE = "loop-of-a-bank", "archive-of-a-bank"
OLD = [f"202601{day:02}T020000" for day in range(1, 6)]
CHANGES = {
    "archiver": {
        "persistence": {
            "enabled": True,
            "existingClaim": ARCHIVE,
            "accessMode": "ReadWriteMany",
        }
    },
    "airflow": {
        "enabled": True,
        "serviceAccounts": [WORKER],
        "dags": {"repository": "https://git.example.org/sluice.git"},
        "persistence": {"existingClaim": LOOP},
        "steps": {
            "services": {
                "resources": {
                    "requests": {"cpu": "50m", "memory": "200Mi"},
                    "limits": {"memory": "1Gi"},
                }
            }
        },
    },
}


def disk(sluice: Installed, claim: str, folder: Path) -> None:
    """A claim over a folder of this machine."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)  # a pod's user is another
    sluice.kube.apply(
        volume(sluice.namespace, claim, folder, "ReadWriteMany"),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": sluice.namespace},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": f"{claim}-{sluice.namespace}",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )


def account(sluice: Installed) -> None:
    """Of Airflow's worker."""
    about = {"name": WORKER, "namespace": sluice.namespace}
    sluice.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about})


def as_worker(sluice: Installed, folder: Path) -> Path:
    """A kubeconfig with the worker's own token, and so with its rights alone."""
    config = yaml.safe_load(sluice.kube.config.read_text())
    token = sluice.kube("--namespace", sluice.namespace, "create", "token", WORKER).strip()
    config["users"] = [{"name": one["name"], "user": {"token": token}} for one in config["users"]]
    made = folder / "kubeconfig"
    made.write_text(yaml.safe_dump(config))
    return made


def environment(sluice: Installed, home: Path) -> dict[str, str]:
    """What the chart tells Airflow, but for the DAGs, which are those of this tree."""
    told = dict(sluice.kube.get(sluice.namespace, "configmap", "sluice-airflow")["data"])
    del told["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]
    cluster = {"kube_config_path": str(as_worker(sluice, home)), "in_cluster": False}
    own = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    return (
        own
        | told
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(
                {"conn_type": "kubernetes", "extra": cluster}
            ),
            "SCARF_ANALYTICS": "false",
            "PATH": f"{AIRFLOW.parent}{os.pathsep}{os.environ['PATH']}",
        }
    )


def test_a_step_runs_as_the_charts_pod_with_the_workers_rights_alone(
    sluice: Installed, tmp_path: Path
) -> None:
    folder, archive, home = (tmp_path / name for name in ("loop", "archive", "airflow"))
    for name in OLD:
        (folder / "runs/retrain" / name).mkdir(parents=True)
    archive.mkdir()
    home.mkdir()
    disk(sluice, LOOP, folder)
    disk(sluice, ARCHIVE, archive)
    account(sluice)
    sluice.at(**CHANGES)
    told = environment(sluice, home)
    subprocess.run([AIRFLOW, "db", "migrate"], env=told, check=True, capture_output=True)
    ended = subprocess.run(
        [AIRFLOW, "dags", "test", "sluice_retention"],
        env=told,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    said = ended.stdout[-4000:] + ended.stderr[-2000:]
    assert ended.returncode == 0, said
    assert "2 runs, 0.0 MB deleted" in ended.stdout, said
    assert sorted(path.name for path in (folder / "runs/retrain").iterdir()) == OLD[2:]
    chosen = "app.kubernetes.io/component=steps"
    assert sluice.kube.pods(sluice.namespace, chosen) == []
