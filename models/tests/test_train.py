import shutil
from pathlib import Path

import pytest
from conftest import KEY, PLAN, ROOT
from sluice.adapters.onnx import read_trust, verify
from sluice.adapters.policyfiles import read_policy
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx

from sluice_models import dataset
from sluice_models.train import Material, compare, finish, install, tune


def test_a_whole_run_leaves_a_release_its_card_and_a_tuned_pack(
    material: Material, fx: Fx, tmp_path: Path
) -> None:
    policy_dir = shutil.copytree(ROOT / "policies/default", tmp_path / "default")
    before = read_policy(policy_dir, catalogue.FEATURES)
    model, findings = compare(PLAN, fx, material)
    tuned = tune(model, policy_dir, material, findings)
    assert tuned != before.id

    root, trust = tmp_path / "releases", tmp_path / "trust"
    trust.mkdir()
    name = finish(PLAN, material, model, findings, fx, root, KEY)
    install(root, name, trust, KEY)
    manifest, files, _ = verify(root / "current", read_trust(trust))
    card = files["card.md"].decode()
    assert manifest.id == name
    assert manifest.provenance.frauds == material.frauds > 100
    assert manifest.thresholds_ppm == findings.thresholds
    assert f"# {name}" in card
    assert "simulated" in card
    assert tuple(manifest.names) == dataset.TRAINED_ON
    assert "card_frauds_reported" not in manifest.names  # counted since the log began
    assert len(files["model.onnx"]) < 200_000
    assert b"/" + b"site-packages" not in files["model.onnx"]
    assert manifest.metrics["later_auc_ppm"] == pytest.approx(
        1e6 * findings.figures["mlp"]["later"]["auc"][0], abs=1
    )
