"""The image of training, built here and confined as a step's pod: it builds a training set.

``make test-image``. The first build takes minutes and 12 GB in var/image, later ones what changed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.container import Container, running, why_not
from tests.support.kafka import wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/image"
SLUICE = Path(sys.executable).with_name("sluice")
TAG = "localhost/sluice-training:test"
LIBRARIES = "import lightgbm, mlflow, onnxscript, optuna, torch, feast, sluice_models.pipeline"

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def image() -> Path:
    """The store that holds it."""
    subprocess.run([ROOT / "tests/image/build.sh", FOLDER, "training"], check=True)
    return FOLDER


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Of two months of 200 cards."""
    history, archive = tmp_path / "history", tmp_path / "archive"
    small = ["--days", "56", "--start", "2026-09-01", "--cards", "200", "--fraud-bp", "200"]
    made = ["--out", history, "--seed", "7", *small]
    subprocess.run([SLUICE, "simulate", "history", *made], check=True)
    rows = [history / "authorizations.parquet", "--labels", history / "labels.parquet"]
    subprocess.run([SLUICE, "backfill", *rows, "--archive", archive, "--no-store"], check=True)
    for path in (archive, *archive.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the container's user is another
    return archive


@pytest.fixture
def container(image: Path, archive: Path, tmp_path: Path) -> Iterator[Container]:
    binds = {"/var/lib/sluice": archive}
    with running(image, {}, binds, tmp_path, tag=TAG, command=["sleep", "600"]) as container:
        wait_until(lambda: container.run("true").returncode == 0, "it runs")
        yield container


def test_it_builds_a_training_set_and_has_all_that_trains(container: Container) -> None:
    built = container.run(
        *("sluice", "dataset", "build", "--archive", "/var/lib/sluice", "--out", "/tmp/dataset"),
        *("--from", "2026-09-08", "--to", "2026-10-20", "--label-delay", "7d"),
        *("--validation", "7d", "--calibration", "7d", "--recent", "--tests", "1"),
    )
    assert built.returncode == 0, built.stderr
    assert "manifest.json" in container.run("ls", "/tmp/dataset").stdout
    loaded = container.run("python", "-c", LIBRARIES)
    assert loaded.returncode == 0, loaded.stderr
    for verb in ("train", "gate", "judge"):
        assert container.run("sluice", verb, "--help").returncode == 0, verb
    assert container.run("id", "-u").stdout == "10001\n"
    assert container.run("touch", "/app/x").returncode != 0
