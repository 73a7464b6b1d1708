"""Whole DAGs, run by Airflow itself on a database of its own; only `sluice` is a stand-in.

Twenty seconds: it is the one place where steps run inside of Airflow and events come about.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[1]
AIRFLOW = Path(sys.executable).with_name("airflow")
SAID = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/words"
case "$1" in drift) exit 3;; gate) exit 1;; esac
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty database."""
    made = tmp_path_factory.mktemp("airflow")
    (made / "sluice").write_text(SAID)
    (made / "sluice").chmod(0o755)
    airflow(made, "db", "migrate")
    return made


def airflow(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    told = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # on a machine that others use too
        "AIRFLOW__SLUICE__SERVICES": str(home / "sluice"),
        "AIRFLOW__SLUICE__FEATURES": str(home / "sluice"),
        "AIRFLOW__SLUICE__TRAINING": str(home / "sluice"),
        "AIRFLOW__SLUICE__WORK": (home / "runs").as_uri(),
        "PATH": f"{AIRFLOW.parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        [AIRFLOW, *words],
        env={k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")} | told,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def rows(home: Path, query: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(home / "airflow.db") as database:
        return database.execute(query).fetchall()


def test_drift_is_an_event_with_its_report_and_no_failure(home: Path) -> None:
    ended = airflow(home, "dags", "test", "sluice_nightly")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    ((uri, extra),) = rows(
        home, "select a.uri, e.extra from asset_event e join asset a on a.id = e.asset_id"
    )
    assert uri == "x-sluice://drift/found"
    assert json.loads(extra)["out"].endswith("/drift.json")
    states = rows(home, "select task_id, state from task_instance where dag_id='sluice_nightly'")
    assert dict(states) == {"consistency": "success", "drift": "success"}


def test_the_archives_files_are_put_together(home: Path) -> None:
    ended = airflow(home, "dags", "test", "sluice_compact")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    words = (home / "words").read_text().splitlines()
    assert f"archive compact --archive {DAGS.parent}/var/archive --keep-h 20" in words


def test_a_refused_candidate_is_judged_and_goes_no_further(home: Path) -> None:
    ended = airflow(home, "dags", "test", "sluice_retrain", "--conf", '{"until": "2026-10-20"}')
    assert ended.returncode != 0
    states = rows(home, "select task_id, state from task_instance where dag_id='sluice_retrain'")
    assert dict(states) == {
        "dataset": "success",
        "train": "success",
        "gate": "failed",
        "judge": "success",
        "pack": "upstream_failed",
        "sign": "upstream_failed",
        "shadow": "upstream_failed",
    }
    words = {line.split()[0]: line for line in (home / "words").read_text().splitlines()}
    dataset = words["dataset"].partition("--out ")[2]
    assert dataset.startswith(str(home / "runs/retrain/"))
    assert f"--dataset {dataset} --out" in words["train"]
    assert "--from 2026-06-22 --to 2026-10-20" in words["dataset"]
    assert f"--dataset {dataset} " in words["gate"]
