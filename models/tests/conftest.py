"""One small world, its training set, and one run over it, for all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from maker import make_world, rows_of, write_dataset
from sluice.adapters.policyfiles import read_policy
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx

from sluice_models.fits import Fits
from sluice_models.material import Material, read_material
from sluice_models.pipeline import Order, train
from sluice_models.run import CandidateName, Run, read_model
from sluice_models.serving import Graph

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fx() -> Fx:
    return read_policy(ROOT / "policies/default", catalogue.FEATURES).fx


@pytest.fixture(scope="session")
def world(fx: Fx, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, np.ndarray]:
    """Rows, and since when each is known as fraud."""
    return rows_of(make_world(tmp_path_factory.mktemp("world")), fx)


@pytest.fixture(scope="session")
def dataset(world: tuple[pa.Table, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "d", *world)


@pytest.fixture(scope="session")
def material(dataset: Path) -> Material:
    return read_material(dataset)


@pytest.fixture(scope="session")
def fits(material: Material) -> Fits:
    return Fits(material, seed=1)


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="session")
def order(dataset: Path, tracking: str, tmp_path_factory: pytest.TempPathFactory) -> Order:
    out = tmp_path_factory.mktemp("runs") / "first"
    return Order(dataset, out, time_box_s=0, trials=1, seed=1, tracking=tracking)


@pytest.fixture(scope="session")
def run(order: Order) -> Run:
    """The defaults: a search of no time."""
    return train(order)


@pytest.fixture(scope="session")
def graphs(order: Order, run: Run) -> dict[CandidateName, Graph]:
    return {one.name: Graph(read_model(order.out, one)) for one in run.candidates}
