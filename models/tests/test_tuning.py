import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sluice.adapters.parquet.dataset import features_of, read_manifest, read_split
from sluice.adapters.policyfiles import read_policy
from sluice.domain.features import catalogue
from sluice.domain.policy.economics import worth

from sluice_models import tuning
from sluice_models.pipeline import Order
from sluice_models.run import Run, read_scores


def test_thresholds_keep_to_their_false_positives() -> None:
    rng = np.random.default_rng(1)
    fraud = rng.random(200_000) < 0.01
    tail = np.minimum(999_000, rng.exponential(50_000, 200_000)).astype(np.int64)
    ppm = np.where(fraud, rng.integers(0, 1_000_000, 200_000), tail)
    steps = tuning.thresholds(ppm, fraud)
    assert steps["challenge"] < steps["review"] < steps["decline"]
    for step, budget in tuning.FALSE_POSITIVES_PER_10K.items():
        assert (ppm[~fraud] >= steps[step]).mean() * 10_000 <= budget
        assert len(str(steps[step]).rstrip("0")) <= 2


def test_the_pack_changes_in_two_lines_and_still_compiles(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "policies/default", tmp_path / "default")
    before = (folder / "policy.yaml").read_text().splitlines()
    measured = tuning.measured_line(
        worth(np.array([1, 0, 1]), np.array([True, True, False]), np.array([5, 5, 5])),
        "ab" * 32,
        date(2026, 1, 2),
    )
    tuning.write_pack(
        folder / "policy.yaml", {"challenge": 11, "review": 22, "decline": 33}, measured
    )
    after = (folder / "policy.yaml").read_text().splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 2
    pack = read_policy(folder, catalogue.FEATURES).pack
    assert pack.thresholds.score_ppm["decline"] == 33
    assert pack.fallback.measured is not None
    assert pack.fallback.measured.recall_ppm == 500_000
    assert pack.fallback.measured.false_positives_per_10k_milli == 10_000_000


def test_a_pack_without_those_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\n")
    with pytest.raises(ValueError, match="expected one"):
        tuning.write_pack(tmp_path / "policy.yaml", {"review": 1}, "null")


def test_the_fallback_catches_less_than_the_model(dataset: Path, order: Order, run: Run) -> None:
    policy = read_policy(ROOT / "policies/default", catalogue.FEATURES)
    table = read_split(dataset, "test-1")
    features = np.zeros((len(table), catalogue.N), np.int64)
    columns = [catalogue.INDEX[name] for name in run.features]
    features[:, columns] = features_of(table, read_manifest(dataset))
    fraud, amount = table["is_fraud"].to_numpy(), table["amount_minor"].to_numpy()
    score = read_scores(order.out, run, "test-1")["student"].to_numpy()
    ppm = np.rint(score * 1e6).astype(np.int64)
    whole = tuning.total([(tuning.severities(policy, features, ppm), fraud, amount)])
    alone = tuning.total([(tuning.severities(policy, features, None), fraud, amount)])
    assert 0 < alone.frauds_stopped < whole.frauds_stopped
    report = tuning.rule_report(policy, features, fraud)
    assert len(report) == len(policy.rules.rules)
    assert any(hit for _, hit, _ in report)
