"""The report of a check, wherever it is to be put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluice.cli import main


def test_the_folder_of_a_report_is_made(tmp_path: Path) -> None:
    report = tmp_path / "nightly/20261126T014000/consistency.json"
    status = main(["consistency", "--archive", str(tmp_path), "--report", str(report)])
    assert status == 2, "nothing to compare"
    assert json.loads(report.read_text())["compared"] == 0


def test_a_report_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    report = tmp_path / "file/consistency.json"
    assert main(["consistency", "--archive", str(tmp_path), "--report", str(report)]) == 1
    said = capsys.readouterr().err
    assert str(report) in said
    assert "Traceback" not in said
