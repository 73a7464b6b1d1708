"""Where MLflow keeps what it is given."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sluice_models.tracking import EXPERIMENT, Tracking


def test_files_lie_beside_the_database_and_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    monkeypatch.chdir(work)
    url = f"sqlite:///{kept}/mlflow.db"
    Tracking(url)
    found = MlflowClient(tracking_uri=url).get_experiment_by_name(EXPERIMENT)
    assert found is not None
    assert found.artifact_location == (kept / "mlartifacts").as_uri()
    assert not list(work.iterdir())
