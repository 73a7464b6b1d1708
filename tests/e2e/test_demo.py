"""What a newcomer types first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sluice.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_decides_every_authorization_once_and_can_explain_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--rate", "150", "--seconds", "8", "--cards", "2000", "--days", "4"]
    ran = subprocess.run(
        [sys.executable, "-m", "local.demo", *small],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    summary = json.loads((ROOT / "var/demo/summary.json").read_text())
    assert summary["ok"]
    assert summary["authorizations"] == summary["decisions"] == summary["archived"] == 1200
    assert summary["reports"] > 0
    assert (summary["duplicates"], summary["missing"], summary["unexpected"]) == (0, 0, 0)
    assert summary["eur_fraud"] == pytest.approx(summary["eur_stopped"] + summary["eur_missed"])
    truth = pq.read_table(ROOT / "var/demo/truth.parquet", columns=["authorization_id"])
    some = truth.column(0)[17].as_py()
    assert main(["explain", "--archive", str(ROOT / "var/demo/archive"), some]) == 0
    reported = capsys.readouterr().out
    assert some in reported
    assert "amount_minor" in reported
