"""``sluice rollout``, with a kubectl that prints what a real one printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.cli import main

RECORDED = Path("tests/unit/adapters/kubernetes/recorded").absolute()
KUBECTL = """#!/bin/sh
echo "$@" >>{folder}/asked
case "$*" in
  *" get inferenceservices"*) {services} ;;
  *" get "*) cat {recorded} ;;
  *" logs "*) echo '{{"event": "refused", "reason": "manifest.json is missing"}}' ;;
esac
"""


def kubectl(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
    services: str = "echo '{{\"items\": []}}'",
) -> Path:
    path = tmp_path / "kubectl"
    path.write_text(
        KUBECTL.format(
            folder=tmp_path, recorded=RECORDED / f"{recorded}.json", services=services.format()
        )
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "asked"


def test_a_bad_release_ends_with_1_its_last_lines_and_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = kubectl(tmp_path, monkeypatch, "bad-release")
    assert main(["rollout", "sluice", "--namespace", "fraud", "--timeout", "1"]) == 1
    said = capsys.readouterr().err
    assert "manifest.json is missing" in said
    assert "Deployment sluice-predictor, pod sluice-predictor-" in said
    assert "helm rollback sluice --namespace fraud" in said
    first = asked.read_text().splitlines()[0]
    assert "--namespace fraud" in first
    assert "--selector app.kubernetes.io/instance=sluice" in first


def test_a_cluster_without_kserve_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = 'echo "error: the server doesn\'t have a resource type" >&2; exit 1'
    kubectl(tmp_path, monkeypatch, "no-image", missing)
    assert main(["rollout", "sluice", "--timeout", "1"]) == 1
    assert "ErrImagePull" in capsys.readouterr().err


def test_a_cluster_that_refuses_us_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl(tmp_path, monkeypatch, "ready", 'echo "error: You must be logged in" >&2; exit 1')
    assert main(["rollout", "sluice"]) == 1
    assert "You must be logged in" in capsys.readouterr().err


def test_without_kubectl_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["rollout", "sluice"]) == 78
    assert "kubectl is not installed" in capsys.readouterr().err
