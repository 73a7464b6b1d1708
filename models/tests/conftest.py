"""One small world for all tests: enough to learn from, quick to make."""

from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sluice.adapters.policyfiles import read_policy
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice.domain.release import Provenance

from sluice_models import dataset
from sluice_models.export import to_onnx
from sluice_models.families import LightGbm, Mlp
from sluice_models.models import OnnxModel, TorchModel, Trees
from sluice_models.pack import pack
from sluice_models.plan import TrainingPlan
from sluice_models.train import Material, gather

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PLAN = TrainingPlan(
    start=date(2026, 3, 1),
    cards=800,
    fraud_bp=250.0,
    train_until=21,
    trained_on=25,
    tuned_on=25,
    weeks=(28,),
    train_worlds=(1,),
    new_worlds=(2,),
    families=(Mlp(seeds=(1,)), LightGbm()),
)


@pytest.fixture(scope="session")
def fx() -> Fx:
    return read_policy(ROOT / "policies/default", catalogue.FEATURES).fx


@pytest.fixture(scope="session")
def material(fx: Fx, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return gather(PLAN, fx, tmp_path_factory.mktemp("worlds"))


def make_net(material: Material, seed: int = 1) -> TorchModel:
    features, label, shift = material.samples["mlp"].joined()
    return Mlp(epochs=10).fit(dataset.TRAINED_ON, features, label, shift, seed=seed)


def make_trees(material: Material, seed: int = 1) -> Trees:
    features, label, shift = material.samples["lightgbm"].joined()
    return LightGbm().fit(dataset.TRAINED_ON, features, label, shift, seed=seed)


def make_release(folder: Path, net: TorchModel, material: Material) -> OnnxModel:
    rows = dataset.trained_on(material.tuning.tables[0].features)
    nothing = "0" * 64
    return pack(
        folder,
        to_onnx(net),
        release="small-1",
        created_at=0,
        card="# small\n",
        provenance=Provenance(
            kind="test",
            data=nothing,
            code=nothing,
            trained_from=0,
            trained_until=0,
            rows=0,
            frauds=0,
            prior_correction_milli=0,
            seed=1,
        ),
        metrics={},
        thresholds_ppm={},
        tolerates=["terminal"],
        reference_row=rows[0],
        reference_currency="EUR",
        rows=rows,
        key=KEY,
    )


@pytest.fixture(scope="session")
def net(material: Material) -> TorchModel:
    return make_net(material)


@pytest.fixture(scope="session")
def trees(material: Material) -> Trees:
    return make_trees(material)


@pytest.fixture(scope="session")
def served(
    net: TorchModel, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    return make_release(tmp_path_factory.mktemp("release") / "r", net, material)
