import argparse
from pathlib import Path

import pytest

from services.decider.problems import KINDS
from sluice.cli import main, reference
from sluice.domain.records.authorization import Authorization

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_pages_are_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["reference", "--check"]) == 0, "run: sluice reference"


def test_a_stale_page_fails_the_check_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reference", "--root", str(tmp_path)]) == 0
    assert main(["reference", "--root", str(tmp_path), "--check"]) == 0
    page = tmp_path / "metrics.md"
    page.write_text(page.read_text() + "edited\n")
    assert main(["reference", "--root", str(tmp_path), "--check"]) == 1
    assert "metrics.md is stale" in capsys.readouterr().err


def test_the_check_writes_nothing(tmp_path: Path) -> None:
    args = argparse.Namespace(check=True, root=tmp_path / "absent")
    assert reference.run(args) == 1
    assert not args.root.exists()


def test_every_field_of_the_authorization_is_in_its_page() -> None:
    page = reference.authorization()
    assert all(f"| `{name}` |" in page for name in Authorization.__struct_fields__)


def test_every_problem_of_the_sync_api_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/http.md").read_text()
    for code, kind in KINDS.items():
        assert f"| `{code}` | {kind.status} |" in page
